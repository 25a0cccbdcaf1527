#include "terminal/pkcs11_module.h"

#include <string.h>

#include <openssl/crypto.h>

#include "common/fail.h"
#include "hsm/cryptoki.h"
#include "hsm/tmk.h"
#include "terminal/pkcs11_tkp.h"
#include "terminal/pkcs11_tmk.h"
#include "wire/transcript.h"

enum { DESTROYED_AT_ONCE = 16 };

static int module_random(void *context, uint8_t *ret_bytes, size_t len)
{
    return token_random(context, ret_bytes, len);
}

/* TKP_Pu alone would do, but a terminal without TKP_Pr must not go on as if it were one. */
static int module_c2(void *context, const uint8_t rnd2[static RND_LEN],
                     const uint8_t h[static DIGEST_LEN], uint8_t *ret_c2, size_t *ret_len)
{
    struct token_session *session = context;
    token_handle tkp_pr;
    token_handle tkp_pu;
    struct spki numbers;
    uint8_t em[RSA_BLOCK_MAX];
    int rc = pkcs11_tkp_pr_find(session, &tkp_pr);

    if (rc == 0)
        rc = pkcs11_tkp_pu_find(session, &tkp_pu);
    if (rc == 0)
        rc = pkcs11_module_tkp_pu(session, &numbers);
    if (rc == 0)
        rc = transcript_c2_block(&numbers, rnd2, h, em);
    if (rc == 0)
        rc = token_encrypt(session, CKM_RSA_X_509, tkp_pu, em, numbers.modulus_len, ret_c2,
                           RSA_BLOCK_MAX, ret_len);
    OPENSSL_cleanse(em, sizeof(em));
    return rc;
}

static int module_install(void *context, const struct delivery *delivery)
{
    token_handle tkp_pr;
    int rc = pkcs11_tkp_pr_find(context, &tkp_pr);
    return rc == 0 ? pkcs11_tmk_install(context, tkp_pr, delivery) : rc;
}

/* Of that length only: this is no way to have anything else signed by the TMK. */
static int module_confirm(void *context, const uint8_t *input, size_t input_len, uint8_t *ret_mac,
                          size_t *ret_len)
{
    struct pkcs11_tmk tmk;

    if (input_len != CONFIRM_INPUT_LEN)
        return fail(FAIL_REFUSED, "the input of confirm.mac has %d bytes, not %zu",
                    CONFIRM_INPUT_LEN, input_len);
    int rc = pkcs11_tmk_find(context, &tmk);
    return rc == 0 ? tmk_mac(context, tmk.info.type, tmk.key, input, input_len, ret_mac, ret_len)
                   : rc;
}

static int sweep_older(struct token_session *session)
{
    struct pkcs11_tmk newest;
    int rc = pkcs11_tmk_find(session, &newest);

    if (rc == FAIL_NOT_FOUND)
        return 0;
    return rc == 0 ? pkcs11_tmk_sweep(session, newest.generation) : rc;
}

int pkcs11_module_open(struct token_session *session, struct secure_module *ret_module)
{
    token_handle tkp_pr;
    int rc = pkcs11_tkp_pr_find(session, &tkp_pr);

    if (rc == 0)
        rc = sweep_older(session);
    if (rc == 0)
        *ret_module = (struct secure_module){
            .context = session,
            .random = module_random,
            .c2 = module_c2,
            .install = module_install,
            .confirm = module_confirm,
        };
    return rc;
}

/* Some objects of that label; destroys each that lets itself be destroyed. */
static int destroy_some(struct token_session *session, char *label, size_t *ret_destroyed)
{
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_TOKEN, token_true),
        ATTRIBUTE_BYTES(CKA_LABEL, label, strlen(label)),
    };
    token_handle found[DESTROYED_AT_ONCE];
    size_t count = 0;
    int rc = token_search(session, attributes, 2, found, DESTROYED_AT_ONCE, &count);

    *ret_destroyed = 0;
    for (size_t i = 0; i < count; i++) {
        int stays = token_destroy(session, found[i]);
        rc = stays ? stays : rc;
        *ret_destroyed += stays == 0;
    }
    return rc < 0 ? fail_in(rc, "destroying %s", label) : 0;
}

static int destroy_all(struct token_session *session, char *label)
{
    size_t destroyed;
    int rc;

    do
        rc = destroy_some(session, label, &destroyed);
    while (destroyed > 0);
    return rc;
}

int pkcs11_module_tamper(struct token_session *session)
{
    char labels[][7] = {"TKP_Pr", "TMK", "TKP_Pu"}; /* what matters most goes first */
    int rc = 0;

    for (size_t i = 0; i < sizeof(labels) / sizeof(labels[0]); i++) {
        int stays = destroy_all(session, labels[i]);
        rc = stays ? stays : rc;
    }
    return rc;
}
