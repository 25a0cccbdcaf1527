/*
 * Message ::= CHOICE { hello [0] Hello, challenge [1] Challenge, proof [2] Proof,
 *                      delivery [3] Delivery, confirm [4] Confirm, done [5] Done,
 *                      failure [6] Failure }   -- EXPLICIT TAGS
 */
#include "wire/template.h"

#include <string.h>

#include <openssl/asn1t.h>
#include <openssl/err.h>

#include "common/fail.h"

/* The order of the CHOICE is that of enum message_type, so that type is one. */
typedef struct {
    int type;
    union {
        HELLO *hello;
        CHALLENGE *challenge;
        PROOF *proof;
        DELIVERY *delivery;
        CONFIRM *confirm;
        DONE *done;
        FAILURE *failure;
        ASN1_VALUE *any;
    } value;
} MESSAGE;

/* clang-format off */
ASN1_CHOICE(MESSAGE) = {
    ASN1_EXP(MESSAGE, value.hello, HELLO, MESSAGE_HELLO),
    ASN1_EXP(MESSAGE, value.challenge, CHALLENGE, MESSAGE_CHALLENGE),
    ASN1_EXP(MESSAGE, value.proof, PROOF, MESSAGE_PROOF),
    ASN1_EXP(MESSAGE, value.delivery, DELIVERY, MESSAGE_DELIVERY),
    ASN1_EXP(MESSAGE, value.confirm, CONFIRM, MESSAGE_CONFIRM),
    ASN1_EXP(MESSAGE, value.done, DONE, MESSAGE_DONE),
    ASN1_EXP(MESSAGE, value.failure, FAILURE, MESSAGE_FAILURE),
} static_ASN1_CHOICE_END(MESSAGE)

static const struct {
    const char *name;
    ASN1_ITEM_EXP *item;
} types[] = {
    [MESSAGE_HELLO] = {"hello", ASN1_ITEM_ref(HELLO)},
    [MESSAGE_CHALLENGE] = {"challenge", ASN1_ITEM_ref(CHALLENGE)},
    [MESSAGE_PROOF] = {"proof", ASN1_ITEM_ref(PROOF)},
    [MESSAGE_DELIVERY] = {"delivery", ASN1_ITEM_ref(DELIVERY)},
    [MESSAGE_CONFIRM] = {"confirm", ASN1_ITEM_ref(CONFIRM)},
    [MESSAGE_DONE] = {"done", ASN1_ITEM_ref(DONE)},
    [MESSAGE_FAILURE] = {"failure", ASN1_ITEM_ref(FAILURE)},
};
/* clang-format on */

const char *message_type_name(enum message_type type)
{
    return type <= MESSAGE_FAILURE ? types[type].name : NULL;
}

static MESSAGE *template_new(void)
{
    return (MESSAGE *)ASN1_item_new(ASN1_ITEM_rptr(MESSAGE));
}

static void template_free(MESSAGE *template)
{
    ASN1_item_free((ASN1_VALUE *)template, ASN1_ITEM_rptr(MESSAGE));
}

static int template_encode(const MESSAGE *template, unsigned char **to)
{
    return ASN1_item_i2d((const ASN1_VALUE *)template, to, ASN1_ITEM_rptr(MESSAGE));
}

/* X.690 has one DER encoding of a value, but d2i takes BER and stops where the value ends: only
 * what comes out again, byte for byte and no byte less, was DER. */
static int is_strict(const MESSAGE *template, const uint8_t *der, size_t len)
{
    unsigned char *again = NULL;
    int again_len = template_encode(template, &again);
    int same = again_len > 0 && (size_t)again_len == len && memcmp(again, der, len) == 0;
    OPENSSL_free(again);
    return same;
}

static int template_decode(const uint8_t *der, size_t len, MESSAGE **ret)
{
    const unsigned char *at = der;
    if (len > MESSAGE_MAX)
        return fail(FAIL_MALFORMED, "a message of %zu bytes; %d are the most", len, MESSAGE_MAX);
    MESSAGE *template = (MESSAGE *)ASN1_item_d2i(NULL, &at, (long)len, ASN1_ITEM_rptr(MESSAGE));
    if (!template || !is_strict(template, der, len)) {
        template_free(template);
        return fail(FAIL_MALFORMED, "%zu bytes that are not the DER of one Message", len);
    }
    *ret = template;
    return 0;
}

static int no_such_type(void)
{
    return fail(FAIL_MALFORMED, "a message of no known type");
}

static int template_read(const MESSAGE *from, struct message *ret)
{
    ret->type = (enum message_type)from->type;
    switch (ret->type) {
    case MESSAGE_HELLO:
        return hello_read(from->value.hello, &ret->hello);
    case MESSAGE_CHALLENGE:
        return challenge_read(from->value.challenge, &ret->challenge);
    case MESSAGE_PROOF:
        return proof_read(from->value.proof, &ret->proof);
    case MESSAGE_DELIVERY:
        return delivery_read(from->value.delivery, &ret->delivery);
    case MESSAGE_CONFIRM:
        return confirm_read(from->value.confirm, &ret->confirm);
    case MESSAGE_DONE:
        return done_read(from->value.done, &ret->done);
    case MESSAGE_FAILURE:
        return failure_read(from->value.failure, &ret->failure);
    }
    return no_such_type();
}

static int template_write(const struct message *from, MESSAGE *ret)
{
    if (!message_type_name(from->type))
        return no_such_type();
    ret->type = (int)from->type;
    ret->value.any = ASN1_item_new(types[from->type].item());
    if (!ret->value.any)
        return fail(FAIL_MEMORY, "no memory for a message");
    switch (from->type) {
    case MESSAGE_HELLO:
        return hello_write(&from->hello, ret->value.hello);
    case MESSAGE_CHALLENGE:
        return challenge_write(&from->challenge, ret->value.challenge);
    case MESSAGE_PROOF:
        return proof_write(&from->proof, ret->value.proof);
    case MESSAGE_DELIVERY:
        return delivery_write(&from->delivery, ret->value.delivery);
    case MESSAGE_CONFIRM:
        return confirm_write(&from->confirm, ret->value.confirm);
    case MESSAGE_DONE:
        return done_write(&from->done, ret->value.done);
    case MESSAGE_FAILURE:
        return failure_write(&from->failure, ret->value.failure);
    }
    return no_such_type();
}

int message_decode(const uint8_t *der, size_t len, struct message *ret)
{
    MESSAGE *template = NULL;
    struct message message;

    /* All bytes, the unused ones of the union too: messages are compared as bytes. */
    memset(&message, 0, sizeof(message));
    ERR_set_mark();
    int rc = template_decode(der, len, &template);
    if (rc == 0)
        rc = template_read(template, &message);
    if (rc == 0)
        *ret = message;
    template_free(template);
    /* What OpenSSL thinks of a stranger's bytes is not the reason of a later failure. */
    ERR_pop_to_mark();
    return rc;
}

static int template_put(const MESSAGE *template, uint8_t *ret_der, size_t size, size_t *ret_len)
{
    int len = template_encode(template, NULL);
    if (len <= 0)
        return fail_crypto("cannot encode a message");
    if ((size_t)len > size)
        return fail(FAIL_MALFORMED, "a message of %d bytes where %zu fit", len, size);
    template_encode(template, &ret_der);
    *ret_len = (size_t)len;
    return 0;
}

int message_encode(const struct message *message, uint8_t *ret_der, size_t size, size_t *ret_len)
{
    MESSAGE *template = template_new();
    int rc = template ? template_write(message, template) : fail(FAIL_MEMORY, "no memory");
    if (rc == 0)
        rc = template_put(template, ret_der, size, ret_len);
    template_free(template);
    return rc;
}
