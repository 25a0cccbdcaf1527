#ifndef HSM_TMK_H
#define HSM_TMK_H

/*
 * The life of a terminal master key in the token. The key is in clear only inside it.
 *
 * Store `token`: a token object labelled TMK with CKA_ID = SN "/" version.
 * Store `wrapped`: made as a session object, wrapped under TMK-KEK, destroyed; unwrapped into a
 * session object for each use.
 */

#include "hsm/keyring.h"
#include "wire/message.h"

enum {
    TMK_ID_MAX = SN_MAX + 1 + 10, /* SN "/" version */
    TMK_BLOB_MAX = 48,            /* bytes: AES-256 under RFC 5649 has 40 */
};

/* Makes a TMK as a token object for sn and info->version, of info->type; fills in the KCV. */
int tmk_generate(struct token_session *session, const char *sn, struct tmk_info *info,
                 token_handle *ret_tmk);

/* Makes a TMK of info->type as a session object, gives it wrapped under TMK-KEK and destroys it;
 * fills in the KCV. */
int tmk_generate_wrapped(struct token_session *session, const struct keyring *keyring,
                         struct tmk_info *info, uint8_t ret_blob[static TMK_BLOB_MAX],
                         size_t *ret_len);

/* The wrapped TMK as a session object; destroy it with token_destroy(). */
int tmk_unwrap(struct token_session *session, const struct keyring *keyring, enum tmk_wrap wrap,
               enum tmk_type type, const uint8_t *blob, size_t len, token_handle *ret_tmk);

/* A TMK that belongs to nobody, as a session object, for decoy work. */
int tmk_generate_decoy(struct token_session *session, enum tmk_type type, token_handle *ret_tmk);

/* Ctmk = E[TKP_Pu, TMK] (patent S309): C_WrapKey(CKM_RSA_PKCS_OAEP), label empty. */
int tmk_wrap_for_terminal(struct token_session *session, token_handle tkp_pu, token_handle tmk,
                          enum oaep_hash hash, uint8_t ret_ctmk[static RSA_BLOCK_MAX],
                          size_t *ret_len);

/* CMAC of the TMK (SP 800-38B), one whole block: CKM_DES3_CMAC or CKM_AES_CMAC. */
int tmk_mac(struct token_session *session, enum tmk_type type, token_handle tmk,
            const uint8_t *input, size_t input_len, uint8_t ret_mac[static MAC_MAX],
            size_t *ret_len);

/* SN "/" version, without a terminating zero in the count. Returns its length. */
size_t tmk_id(const char *sn, uint32_t version, char ret_id[static TMK_ID_MAX + 1]);

/* Each TMK object of the token with its CKA_ID, for the index made at start; those whose CKA_ID
 * cannot be one are passed over. Ends at the first each() that does not return 0, with that. */
typedef int tmk_each(void *context, const char *id, size_t id_len, token_handle tmk);
int tmk_list(struct token_session *session, tmk_each *each, void *context);

#endif
