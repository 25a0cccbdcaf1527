#include "terminal/download.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/x509.h>

#include "common/fail.h"
#include "common/hex.h"
#include "terminal/server_certificate.h"
#include "wire/c1_open.h"
#include "wire/transcript.h"

enum { TEXT_MAX = 256, ABBREVIATED = 4 /* bytes of a random number shown to people */ };

struct download {
    const struct secure_module *module;
    X509 *root; /* KSRCRT */
    enum download_state state;
    int64_t now; /* of the message at hand */
    struct hello hello;
    uint8_t h[DIGEST_LEN];
    uint8_t delivery_digest[DIGEST_LEN]; /* believed once C1 is */
    struct tmk_info tmk;
    struct failure failure; /* code 0: none came */
    download_step *step;
    void *step_context;
};

__attribute__((format(printf, 3, 4))) static void tell(const struct download *download,
                                                       const char *step, const char *format, ...)
{
    char text[TEXT_MAX];
    va_list arguments;

    if (!download->step)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    download->step(download->step_context, step, text);
}

int download_new(const struct secure_module *module, const char *sn, const uint8_t *root_der,
                 size_t root_len, struct download **ret_download)
{
    if (!sn_is_valid(sn))
        return fail(FAIL_MALFORMED, "an SN has 1 to %d characters, each 0x21 to 0x7E", SN_MAX);
    struct download *download = OPENSSL_zalloc(sizeof(*download));
    if (!download)
        return fail(FAIL_MEMORY, "no memory for a download");
    int rc = server_certificate_read(root_der, root_len, &download->root);
    if (rc < 0) {
        download_free(download);
        return fail_in(rc, "KSRCRT");
    }
    download->module = module;
    strcpy(download->hello.sn, sn);
    *ret_download = download;
    return 0;
}

void download_free(struct download *download)
{
    if (!download)
        return;
    X509_free(download->root);
    OPENSSL_clear_free(download, sizeof(*download));
}

void download_watch(struct download *download, download_step *step, void *context)
{
    download->step = step;
    download->step_context = context;
}

static int put(const struct message *message, struct download_output *ret_output)
{
    return message_encode(message, ret_output->message, sizeof(ret_output->message),
                          &ret_output->len);
}

/* S301: fresh Rnd1; SN and Rnd1 to the server. */
static int send_hello(struct download *download, struct download_output *ret_output)
{
    struct message message = {.type = MESSAGE_HELLO};
    char rnd1[2 * ABBREVIATED + 1];
    int rc = download->module->random(download->module->context, download->hello.rnd1, RND_LEN);

    if (rc < 0)
        return rc;
    message.hello = download->hello;
    tell(download, "S301", "terminal to server: SN %s, Rnd1 %s...", download->hello.sn,
         hex_encode(download->hello.rnd1, ABBREVIATED, rnd1));
    return put(&message, ret_output);
}

int download_start(struct download *download, struct download_output *ret_output)
{
    if (download->state != DOWNLOAD_NEW)
        return fail(FAIL_REFUSED, "this download has been started already");
    int rc = send_hello(download, ret_output);
    download->state = rc == 0 ? DOWNLOAD_CHALLENGE : DOWNLOAD_FAILED;
    return rc < 0 ? fail_in(rc, "S301") : 0;
}

static void tell_challenge(const struct download *download, const struct challenge *challenge)
{
    char rnd2[2 * ABBREVIATED + 1];
    char name[TEXT_MAX / 2];

    tell(download, "S303", "server to terminal: Rnd2 %s..., C1 %zu bytes, KSWCRT %s",
         hex_encode(challenge->tbs.rnd2, ABBREVIATED, rnd2), challenge->c1_len,
         server_certificate_name(&challenge->tbs.kswcrt, name, sizeof(name)));
}

/* S305, S306: the server is who KSRCRT says, and answers this hello with these very messages. */
static int check_server(struct download *download, const struct challenge *challenge)
{
    uint8_t m1[M1_LEN];
    EVP_PKEY *puks = NULL;
    int rc = server_certificate_check(&challenge->tbs.kswcrt, download->root, download->now, &puks);

    if (rc < 0)
        return fail_in(rc, "S305");
    tell(download, "S305", "KSWCRT chains to KSRCRT; PuKS taken from it (%s, %d bits)",
         EVP_PKEY_get0_type_name(puks), EVP_PKEY_get_bits(puks));
    transcript_m1(download->hello.rnd1, download->h, m1);
    rc = c1_open(puks, challenge->c1, challenge->c1_len, m1);
    EVP_PKEY_free(puks);
    if (rc < 0)
        return fail_in(rc, "S306");
    tell(download, "S306", "C1 checked with PuKS: Rnd1' = Rnd1, the server holds PrKS");
    return 0;
}

/* S306: C2' = E[TKP_Pu, Rnd2...] */
static int send_proof(struct download *download, const struct challenge *challenge,
                      struct download_output *ret_output)
{
    const struct secure_module *module = download->module;
    struct message message = {.type = MESSAGE_PROOF};
    int rc = module->c2(module->context, challenge->tbs.rnd2, download->h, message.proof.c2,
                        &message.proof.c2_len);

    if (rc < 0)
        return fail_in(rc, "S306");
    tell(download, "S306", "terminal to server: C2' = E[TKP_Pu, Rnd2], %zu bytes",
         message.proof.c2_len);
    return put(&message, ret_output);
}

static int receive_challenge(struct download *download, const struct message *message,
                             struct download_output *ret_output)
{
    const struct challenge *challenge = &message->challenge;

    tell_challenge(download, challenge);
    int rc = transcript_hash(&download->hello, &challenge->tbs, download->h);
    if (rc == 0)
        rc = check_server(download, challenge);
    if (rc < 0)
        return rc;
    memcpy(download->delivery_digest, challenge->tbs.delivery_digest, DIGEST_LEN);
    return send_proof(download, challenge, ret_output);
}

/* S310: only what C1 has signed for is let near the secure module. */
static int check_delivery(const struct download *download, const struct delivery *delivery)
{
    uint8_t digest[DIGEST_LEN];
    int rc = transcript_delivery_digest(delivery, digest);

    if (rc < 0)
        return fail_in(rc, "S310");
    if (CRYPTO_memcmp(digest, download->delivery_digest, DIGEST_LEN) != 0)
        return fail(FAIL_REFUSED, "S310: this is not the Ctmk that the server announced in C1: it "
                                  "was changed or swapped on the way; nothing is installed");
    tell(download, "S310", "the Delivery is the one that C1 announced");
    return 0;
}

/* S311: TMK = D[TKP_Pr, Ctmk], inside the secure module. */
static int install(struct download *download, const struct delivery *delivery)
{
    int rc = download->module->install(download->module->context, delivery);

    if (rc < 0)
        return fail_in(rc, "S311");
    download->tmk = delivery->tmk;
    tell(download, "S311", "TMK unwrapped with TKP_Pr in the secure module; KCV equal; stored");
    return 0;
}

static int send_confirm(struct download *download, struct download_output *ret_output)
{
    const struct secure_module *module = download->module;
    struct message message = {.type = MESSAGE_CONFIRM};
    uint8_t input[CONFIRM_INPUT_LEN];

    transcript_confirm_input(download->h, download->delivery_digest, input);
    int rc = module->confirm(module->context, input, sizeof(input), message.confirm.mac,
                             &message.confirm.mac_len);
    if (rc < 0)
        return fail_in(rc, "confirm: the TMK is installed, but");
    tell(download, "confirm", "terminal to server: MAC by the TMK, %zu bytes",
         message.confirm.mac_len);
    return put(&message, ret_output);
}

static int receive_delivery(struct download *download, const struct message *message,
                            struct download_output *ret_output)
{
    const struct delivery *delivery = &message->delivery;
    char kcv[2 * KCV_MAX + 1];

    tell(download, "S309", "server to terminal: Ctmk %zu bytes, %s version %u, KCV %s",
         delivery->ctmk_len, tmk_type_name(delivery->tmk.type), delivery->tmk.version,
         hex_encode(delivery->tmk.kcv, delivery->tmk.kcv_len, kcv));
    int rc = check_delivery(download, delivery);
    if (rc == 0)
        rc = install(download, delivery);
    return rc == 0 ? send_confirm(download, ret_output) : rc;
}

static int receive_done(struct download *download, const struct message *message,
                        struct download_output *ret_output)
{
    if (message->done.version != download->tmk.version)
        return fail(FAIL_REFUSED,
                    "done: the server recorded version %u, but %u is installed; "
                    "download again",
                    message->done.version, download->tmk.version);
    tell(download, "done", "server to terminal: version %u is recorded as confirmed",
         message->done.version);
    ret_output->len = 0;
    return 0;
}

typedef int receive_message(struct download *download, const struct message *message,
                            struct download_output *ret_output);

/* The whole protocol: what each state waits for, and where it leads. */
static const struct transition {
    enum download_state state;
    enum message_type expected;
    receive_message *receive;
    enum download_state next;
} transitions[] = {
    {DOWNLOAD_CHALLENGE, MESSAGE_CHALLENGE, receive_challenge, DOWNLOAD_DELIVERY},
    {DOWNLOAD_DELIVERY, MESSAGE_DELIVERY, receive_delivery, DOWNLOAD_DONE},
    {DOWNLOAD_DONE, MESSAGE_DONE, receive_done, DOWNLOAD_FINISHED},
};

static const struct transition *find_transition(enum download_state state)
{
    for (size_t i = 0; i < sizeof(transitions) / sizeof(transitions[0]); i++)
        if (transitions[i].state == state)
            return &transitions[i];
    return NULL;
}

static int refused_by_server(struct download *download, const struct failure *failure)
{
    const char *sn = download->hello.sn;

    download->failure = *failure;
    switch (failure->code) {
    case FAILURE_REJECTED:
        return fail(FAIL_REFUSED,
                    "the server rejected SN %s: it is not known there with this TKP_Pu, is "
                    "disabled, or has its TMK already; ask the server's operator",
                    sn);
    case FAILURE_BUSY:
        if (failure->retry_after != RETRY_AFTER_NONE)
            return fail(FAIL_REFUSED, "the server is busy; try again after %d seconds",
                        failure->retry_after);
        return fail(FAIL_REFUSED, "the server is busy; try again later");
    default:
        return fail(FAIL_REFUSED, "the server ended the download of SN %s: %s; ask its operator",
                    sn, failure_code_name(failure->code));
    }
}

static int receive(struct download *download, const struct transition *transition,
                   const struct message *message, struct download_output *ret_output)
{
    if (message->type == MESSAGE_FAILURE)
        return refused_by_server(download, &message->failure);
    if (message->type != transition->expected)
        return fail(FAIL_MALFORMED,
                    "the server sent %s where %s is due; it is no key server, or "
                    "something was changed on the way",
                    message_type_name(message->type), message_type_name(transition->expected));
    int rc = transition->receive(download, message, ret_output);
    if (rc == 0)
        download->state = transition->next;
    return rc;
}

int download_receive(struct download *download, const uint8_t *message, size_t len, int64_t now,
                     struct download_output *ret_output)
{
    struct message decoded;
    const struct transition *transition = find_transition(download->state);

    if (!transition)
        return fail(FAIL_MALFORMED, "no message is due: the download has not started or is over");
    download->now = now;
    int rc = message_decode(message, len, &decoded);
    rc = rc < 0
             ? fail_in(rc, "what the server sent is not a message of version %d", PROTOCOL_VERSION)
             : receive(download, transition, &decoded, ret_output);
    if (rc < 0)
        download->state = DOWNLOAD_FAILED;
    return rc;
}

enum download_state download_state(const struct download *download)
{
    return download->state;
}

const struct failure *download_failure(const struct download *download)
{
    return download->failure.code ? &download->failure : NULL;
}

const struct tmk_info *download_tmk(const struct download *download)
{
    return &download->tmk;
}
