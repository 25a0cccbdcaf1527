#include "tmkd/vault.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "common/fail.h"
#include "common/file.h"
#include "hsm/c2.h"
#include "hsm/seal.h"
#include "tmkd/kswcrt.h"
#include "tmkd/tmk_index.h"

static int check_pin_mode(const char *path)
{
    struct stat status;
    if (stat(path, &status) < 0)
        return fail_system("token.pin_file %s", path);
    if (status.st_mode & (S_IRWXG | S_IRWXO))
        return fail(FAIL_CONFIG,
                    "token.pin_file %s can be read by others than its owner (mode "
                    "%04o): chmod 600 it",
                    path, status.st_mode & 07777U);
    return 0;
}

int vault_read_pin(const char *path, char ret_pin[static TOKEN_PIN_MAX + 1])
{
    uint8_t line[TOKEN_PIN_MAX + 1];
    size_t len;
    int rc = check_pin_mode(path);
    if (rc < 0)
        return rc;
    rc = file_read(path, line, sizeof(line), &len);
    if (rc == 0 && len > 0 && line[len - 1] == '\n')
        len--;
    if (rc < 0) {
        fail_in(rc, "token.pin_file");
    } else if (len == 0 || len > TOKEN_PIN_MAX || memchr(line, '\n', len) ||
               memchr(line, '\0', len)) {
        rc = fail(FAIL_CONFIG, "token.pin_file %s is not one line of 1 to %d characters", path,
                  TOKEN_PIN_MAX);
    } else {
        memcpy(ret_pin, line, len);
        ret_pin[len] = '\0';
    }
    OPENSSL_cleanse(line, sizeof(line));
    return rc;
}

static int log_in(const struct conf *conf, struct token *token)
{
    char pin[TOKEN_PIN_MAX + 1];
    int rc = vault_read_pin(conf->token.pin_file, pin);
    if (rc < 0)
        return rc;
    rc = token_login(token, pin);
    OPENSSL_cleanse(pin, sizeof(pin));
    if (rc == FAIL_REFUSED)
        return fail_in(rc, "the PIN in token.pin_file %s is not that of the token '%s'",
                       conf->token.pin_file, conf->token.label);
    return rc;
}

static int add_to_index(void *context, const char *id, size_t id_len, token_handle tmk)
{
    return tmk_index_add(context, id, id_len, tmk);
}

/* --- the decoy --- */

static int make_decoy_key(struct terminal *decoy)
{
    struct spki spki;
    unsigned char *der = NULL;
    EVP_PKEY *key = EVP_RSA_gen(2048);
    int len = key ? i2d_PUBKEY(key, &der) : -1;
    int rc = len > 0 ? spki_read(der, (size_t)len, &spki) : fail_crypto("cannot make a decoy key");
    if (rc == 0) {
        decoy->spki_len = spki.der_len;
        memcpy(decoy->spki, spki.der, spki.der_len);
        memcpy(decoy->spki_sha256, spki.sha256, sizeof(decoy->spki_sha256));
    }
    OPENSSL_free(der);
    EVP_PKEY_free(key);
    return rc;
}

static int make_decoy_tmk(struct vault *vault)
{
    struct terminal *decoy = &vault->decoy;
    token_handle none;
    if (vault->wrapped)
        return vault_make_tmk(vault, vault->session, TMK_AES128, 1, decoy, &none);
    decoy->store = TMK_STORE_TOKEN;
    decoy->tmk = (struct tmk_info){.type = TMK_AES128, .version = 1, .kcv_len = KCV_MAX};
    return tmk_generate_decoy(vault->session, TMK_AES128, &vault->decoy_tmk);
}

static int make_decoy(struct vault *vault)
{
    struct terminal *decoy = &vault->decoy;
    memset(decoy->sn, '-', 12); /* as long as a usual SN; not looked up by anybody */
    decoy->state = TERMINAL_ENABLED;
    decoy->row_version = 1;
    int rc = make_decoy_key(decoy);
    return rc < 0 ? rc : make_decoy_tmk(vault);
}

/* Which OAEP the token can: tried, not believed. SoftHSM lists the mechanism and takes SHA-1 only.
 */
static int probe_oaep(struct vault *vault)
{
    struct spki spki;
    token_handle tkp = 0;
    token_handle tmk = 0;
    uint8_t ctmk[RSA_BLOCK_MAX];
    size_t len;
    int rc;

    if ((rc = spki_read(vault->decoy.spki, vault->decoy.spki_len, &spki)) < 0 ||
        (rc = c2_take_key(vault->session, &spki, &tkp)) < 0 ||
        (rc = tmk_generate_decoy(vault->session, TMK_AES128, &tmk)) < 0)
        goto out;
    vault->oaep = OAEP_SHA256;
    if (tmk_wrap_for_terminal(vault->session, tkp, tmk, OAEP_SHA256, ctmk, &len) < 0) {
        vault->oaep = OAEP_SHA1;
        rc = tmk_wrap_for_terminal(vault->session, tkp, tmk, OAEP_SHA1, ctmk, &len);
    }
out:
    if (tkp)
        token_destroy(vault->session, tkp);
    if (tmk)
        token_destroy(vault->session, tmk);
    return rc;
}

int vault_open(const struct conf *conf, struct vault *ret_vault)
{
    struct vault *vault = ret_vault;
    int rc = FAIL_TOKEN;

    memset(vault, 0, sizeof(*vault));
    vault->wrapped = conf->tmk.wrapped;
    vault->redeliver_always = conf->tmk.redeliver_always;
    pthread_rwlock_init(&vault->chain_lock, NULL);
    if ((rc = token_load(conf->token.module, conf->token.environment, conf->token.environment_count,
                         &vault->token)) < 0 ||
        (rc = token_find(vault->token, conf->token.label)) < 0 ||
        (rc = log_in(conf, vault->token)) < 0 ||
        (rc = token_session_open(vault->token, &vault->session)) < 0 ||
        (rc = keyring_open(vault->session, &vault->keyring)) < 0 ||
        (rc = tmk_index_new(&vault->index)) < 0 ||
        (rc = tmk_list(vault->session, add_to_index, vault->index)) < 0 ||
        (rc = make_decoy(vault)) < 0 || (rc = probe_oaep(vault)) < 0) {
        vault_close(vault);
        return rc;
    }
    return 0;
}

void vault_close(struct vault *vault)
{
    tmk_index_free(vault->index);
    token_session_close(vault->session);
    token_unload(vault->token);
    pthread_rwlock_destroy(&vault->chain_lock);
    OPENSSL_cleanse(vault, sizeof(*vault));
}

void vault_chain(struct vault *vault, struct cert_chain *ret_chain)
{
    pthread_rwlock_rdlock(&vault->chain_lock);
    *ret_chain = vault->keyring.kswcrt;
    pthread_rwlock_unlock(&vault->chain_lock);
}

int vault_reload_chain(struct vault *vault, struct token_session *session)
{
    struct keyring again;
    int rc = keyring_open(session, &again);
    if (rc == 0)
        rc = kswcrt_check(&again.kswcrt, time(NULL));
    if (rc < 0)
        return rc;
    pthread_rwlock_wrlock(&vault->chain_lock);
    vault->keyring.kswcrt = again.kswcrt;
    pthread_rwlock_unlock(&vault->chain_lock);
    return 0;
}

/* --- TMKs --- */

int vault_find_tmk(struct vault *vault, const char *sn, uint32_t version, token_handle *ret_tmk)
{
    char id[TMK_ID_MAX + 1];
    return tmk_index_find(vault->index, id, tmk_id(sn, version, id), ret_tmk);
}

int vault_add_tmk(struct vault *vault, struct token_session *session, const char *sn,
                  uint32_t version, token_handle tmk)
{
    char id[TMK_ID_MAX + 1];
    token_handle orphan;
    int rc = vault_find_tmk(vault, sn, version, &orphan) == 0 ? token_destroy(session, orphan) : 0;
    if (rc < 0)
        return rc;
    return tmk_index_add(vault->index, id, tmk_id(sn, version, id), tmk);
}

void vault_drop_tmk(struct vault *vault, const char *sn, uint32_t version, token_handle tmk)
{
    char id[TMK_ID_MAX + 1];
    tmk_index_remove(vault->index, id, tmk_id(sn, version, id), tmk);
}

int vault_make_tmk(struct vault *vault, struct token_session *session, enum tmk_type type,
                   uint32_t version, struct terminal *terminal, token_handle *ret_made)
{
    uint8_t blob[TMK_BLOB_MAX];
    terminal->tmk = (struct tmk_info){.type = type, .version = version};
    *ret_made = 0;
    if (!vault->wrapped) {
        terminal->store = TMK_STORE_TOKEN;
        return tmk_generate(session, terminal->sn, &terminal->tmk, ret_made);
    }
    int rc = tmk_generate_wrapped(session, &vault->keyring, &terminal->tmk, blob,
                                  &terminal->wrapped_len);
    if (rc < 0)
        return rc;
    terminal->store = vault->keyring.wrap == TMK_WRAP_KWP ? TMK_STORE_KWP : TMK_STORE_KW;
    memcpy(terminal->wrapped, blob, terminal->wrapped_len);
    return 0;
}

int vault_take_tmk(struct vault *vault, struct token_session *session,
                   const struct terminal *terminal, token_handle *ret_tmk)
{
    if (terminal->store == TMK_STORE_KW || terminal->store == TMK_STORE_KWP)
        return tmk_unwrap(session, &vault->keyring,
                          terminal->store == TMK_STORE_KWP ? TMK_WRAP_KWP : TMK_WRAP_KW,
                          terminal->tmk.type, terminal->wrapped, terminal->wrapped_len, ret_tmk);
    if (terminal == &vault->decoy) {
        *ret_tmk = vault->decoy_tmk;
        return 0;
    }
    return vault_find_tmk(vault, terminal->sn, terminal->tmk.version, ret_tmk);
}

void vault_leave_tmk(struct token_session *session, const struct terminal *terminal,
                     token_handle tmk)
{
    if (terminal->store != TMK_STORE_TOKEN)
        token_destroy(session, tmk);
}

/* --- seals --- */

int vault_seal(const struct vault *vault, struct token_session *session, struct terminal *terminal)
{
    uint8_t input[SEAL_INPUT_MAX];
    size_t len = registry_seal_input(terminal, input);
    return seal_make(session, vault->keyring.seal, input, len, terminal->seal);
}

int vault_check_seal(const struct vault *vault, struct token_session *session,
                     const struct terminal *terminal)
{
    uint8_t input[SEAL_INPUT_MAX];
    size_t len = registry_seal_input(terminal, input);
    int rc = seal_check(session, vault->keyring.seal, input, len, terminal->seal);
    if (rc == FAIL_SEAL)
        return fail(FAIL_SEAL,
                    "the seal of terminal %s does not fit its row: the registry was "
                    "changed by something other than tmkd",
                    terminal->sn);
    return rc;
}
