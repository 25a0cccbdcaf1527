#include "hsm/c1.h"

#include <openssl/sha.h>

#include "hsm/cryptoki.h"

int c1_sign(struct token_session *session, const struct keyring *keyring,
            const uint8_t m1[static M1_LEN], uint8_t ret_c1[static RSA_BLOCK_MAX], size_t *ret_len)
{
    uint8_t digest[SHA256_DIGEST_LENGTH];

    if (keyring->prks_spec.kind == PRKS_RSA)
        return token_sign(session, CKM_RSA_PKCS, keyring->prks, m1, M1_LEN, ret_c1, RSA_BLOCK_MAX,
                          ret_len);
    SHA256(m1, M1_LEN, digest);
    return token_sign(session, CKM_ECDSA, keyring->prks, digest, sizeof(digest), ret_c1,
                      RSA_BLOCK_MAX, ret_len);
}
