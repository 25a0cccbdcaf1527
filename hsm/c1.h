#ifndef HSM_C1_H
#define HSM_C1_H

#include "hsm/keyring.h"
#include "wire/transcript.h"

/* C1 = E[PrKS, M1] (patent S303). RSA: C_Sign(CKM_RSA_PKCS) of the 72 bytes of M1 themselves, no
 * DigestInfo; as many bytes as PrKS has. P-256: CKM_ECDSA over SHA-256(M1), 64 bytes r || s. */
int c1_sign(struct token_session *session, const struct keyring *keyring,
            const uint8_t m1[static M1_LEN], uint8_t ret_c1[static RSA_BLOCK_MAX], size_t *ret_len);

#endif
