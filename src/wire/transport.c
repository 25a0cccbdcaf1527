/*
 * transport AlgorithmIdentifier: id-RSAES-OAEP with RSAES-OAEP-params (RFC 4055 4.1). DER leaves
 * out what is default, so SHA-1 with MGF1-SHA-1 and an empty label is an empty SEQUENCE.
 */
#include "wire/template.h"

#include <openssl/objects.h>
#include <openssl/rsa.h>

#include "common/fail.h"

static int set_sequence(X509_ALGOR *algorithm, int nid, void *value, const ASN1_ITEM *item)
{
    ASN1_STRING *sequence = ASN1_STRING_type_new(V_ASN1_SEQUENCE);
    if (sequence && ASN1_item_pack(value, item, &sequence) &&
        X509_ALGOR_set0(algorithm, OBJ_nid2obj(nid), V_ASN1_SEQUENCE, sequence))
        return 1;
    ASN1_STRING_free(sequence);
    return 0;
}

/* RFC 4055 2.1: inside RSAES-OAEP-params the parameters of a hash are NULL, not absent. */
static int set_sha256(RSA_OAEP_PARAMS *params)
{
    params->hashFunc = X509_ALGOR_new();
    params->maskGenFunc = X509_ALGOR_new();
    return params->hashFunc && params->maskGenFunc &&
           X509_ALGOR_set0(params->hashFunc, OBJ_nid2obj(NID_sha256), V_ASN1_NULL, NULL) &&
           set_sequence(params->maskGenFunc, NID_mgf1, params->hashFunc,
                        ASN1_ITEM_rptr(X509_ALGOR));
}

int transport_write(enum oaep_hash hash, X509_ALGOR *ret)
{
    int rc = 0;
    RSA_OAEP_PARAMS *params = NULL;

    if (hash != OAEP_SHA1 && hash != OAEP_SHA256)
        return fail(FAIL_MALFORMED, "Delivery.transport: no such hash");
    params = RSA_OAEP_PARAMS_new();
    if (!params || (hash == OAEP_SHA256 && !set_sha256(params)) ||
        !set_sequence(ret, NID_rsaesOaep, params, ASN1_ITEM_rptr(RSA_OAEP_PARAMS)))
        rc = fail(FAIL_MEMORY, "no memory for Delivery.transport");
    RSA_OAEP_PARAMS_free(params);
    return rc;
}

/* By comparison with what transport_write() makes: nothing else is ever accepted. */
int transport_read(const X509_ALGOR *from, enum oaep_hash *ret)
{
    int equal = 0;
    for (enum oaep_hash hash = OAEP_SHA1; hash <= OAEP_SHA256; hash++) {
        X509_ALGOR *known = X509_ALGOR_new();
        int rc = known ? transport_write(hash, known) : fail(FAIL_MEMORY, "no memory");
        equal = rc == 0 && X509_ALGOR_cmp(from, known) == 0;
        X509_ALGOR_free(known);
        if (rc < 0)
            return rc;
        if (equal) {
            *ret = hash;
            return 0;
        }
    }
    return fail(FAIL_MALFORMED, "Delivery.transport is not RSAES-OAEP with SHA-1 or SHA-256");
}
