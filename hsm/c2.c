#include "hsm/c2.h"

#include "hsm/cryptoki.h"

int c2_take_key(struct token_session *session, const struct spki *tkp_pu, token_handle *ret_key)
{
    CK_ATTRIBUTE attributes[] = {
        ATTRIBUTE(CKA_CLASS, (CK_OBJECT_CLASS){CKO_PUBLIC_KEY}),
        ATTRIBUTE(CKA_KEY_TYPE, (CK_KEY_TYPE){CKK_RSA}),
        ATTRIBUTE(CKA_TOKEN, token_false),
        ATTRIBUTE(CKA_PRIVATE, token_false),
        ATTRIBUTE(CKA_ENCRYPT, token_true),
        ATTRIBUTE(CKA_WRAP, token_true),
        ATTRIBUTE(CKA_VERIFY, token_false),
        ATTRIBUTE_BYTES(CKA_MODULUS, tkp_pu->modulus, tkp_pu->modulus_len),
        ATTRIBUTE_BYTES(CKA_PUBLIC_EXPONENT, tkp_pu->exponent, tkp_pu->exponent_len),
    };
    return token_result(TOKEN_CALL(session->token, C_CreateObject, session->handle, attributes,
                                   sizeof(attributes) / sizeof(attributes[0]), ret_key),
                        "C_CreateObject", "TKP_Pu");
}

int c2_encrypt(struct token_session *session, token_handle tkp_pu, const uint8_t *em, size_t len,
               uint8_t ret_c2[static RSA_BLOCK_MAX], size_t *ret_len)
{
    return token_encrypt(session, CKM_RSA_X_509, tkp_pu, em, len, ret_c2, RSA_BLOCK_MAX, ret_len);
}
