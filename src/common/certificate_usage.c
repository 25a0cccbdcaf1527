#include "common/certificate_usage.h"

#include <string.h>

#include <openssl/x509v3.h>

#include "common/fail.h"

#define ID_KP_CMKGA "1.3.6.1.5.5.7.3.32"

static int has_extended_usage(X509 *leaf, const char *oid)
{
    char text[64];
    int found = 0;
    EXTENDED_KEY_USAGE *usages = X509_get_ext_d2i(leaf, NID_ext_key_usage, NULL, NULL);

    for (int i = 0; i < sk_ASN1_OBJECT_num(usages); i++) {
        OBJ_obj2txt(text, sizeof(text), sk_ASN1_OBJECT_value(usages, i), 1);
        found |= strcmp(text, oid) == 0;
    }
    EXTENDED_KEY_USAGE_free(usages);
    return found;
}

/* A certificate without keyUsage may do everything; ours must say what it is for. */
int certificate_usage_check(X509 *leaf)
{
    if (!(X509_get_extension_flags(leaf) & EXFLAG_KUSAGE) ||
        !(X509_get_key_usage(leaf) & KU_DIGITAL_SIGNATURE))
        return fail(FAIL_REFUSED, "its keyUsage is not digitalSignature; it is no KSWCRT");
    if (!has_extended_usage(leaf, ID_KP_CMKGA))
        return fail(FAIL_REFUSED,
                    "it lacks extendedKeyUsage id-kp-cmKGA (" ID_KP_CMKGA "); it is no KSWCRT");
    return 0;
}
