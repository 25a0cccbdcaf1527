#include "hsm/seal.h"

#include <openssl/crypto.h>

#include "common/fail.h"
#include "hsm/cryptoki.h"

int seal_make(struct token_session *session, token_handle key, const uint8_t *bytes, size_t len,
              uint8_t ret_mac[static SEAL_MAC_LEN])
{
    size_t mac_len = 0;
    int rc = token_sign(session, CKM_SHA256_HMAC, key, bytes, len, ret_mac, SEAL_MAC_LEN, &mac_len);
    if (rc == 0 && mac_len != SEAL_MAC_LEN)
        rc = fail(FAIL_TOKEN, "the token made a seal of %zu bytes instead of %d", mac_len,
                  SEAL_MAC_LEN);
    return rc;
}

int seal_check(struct token_session *session, token_handle key, const uint8_t *bytes, size_t len,
               const uint8_t mac[static SEAL_MAC_LEN])
{
    uint8_t right[SEAL_MAC_LEN];
    int rc = seal_make(session, key, bytes, len, right);
    if (rc == 0 && CRYPTO_memcmp(right, mac, sizeof(right)) != 0)
        rc = fail(FAIL_SEAL, "the seal does not fit");
    return rc;
}
