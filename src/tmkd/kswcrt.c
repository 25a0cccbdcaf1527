#include "tmkd/kswcrt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "common/certificate_usage.h"
#include "common/fail.h"

static X509 *certificate_at(const struct cert_chain *chain, size_t i)
{
    size_t len;
    const uint8_t *der = cert_chain_at(chain, i, &len);
    return d2i_X509(NULL, &der, (long)len);
}

static void write_name(const X509_NAME *name, char ret_text[static KSWCRT_NAME_MAX])
{
    BIO *bio = BIO_new(BIO_s_mem());
    int len = 0;
    if (bio && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) >= 0)
        len = BIO_read(bio, ret_text, KSWCRT_NAME_MAX - 1);
    ret_text[len > 0 ? len : 0] = '\0';
    BIO_free(bio);
}

static void write_time(const ASN1_TIME *time, char ret_text[static KSWCRT_TIME_MAX])
{
    struct tm utc;
    ret_text[0] = '\0';
    if (ASN1_TIME_to_tm(time, &utc))
        strftime(ret_text, KSWCRT_TIME_MAX, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

static void write_serial(const ASN1_INTEGER *serial, char *ret_text, size_t size)
{
    BIGNUM *number = ASN1_INTEGER_to_BN(serial, NULL);
    char *hex = number ? BN_bn2hex(number) : NULL;
    snprintf(ret_text, size, "%s", hex ? hex : "");
    OPENSSL_free(hex);
    BN_free(number);
}

int kswcrt_describe(const struct cert_chain *chain, struct kswcrt_info *ret_info)
{
    X509 *leaf = chain->count ? certificate_at(chain, 0) : NULL;
    if (!leaf)
        return fail(FAIL_NOT_FOUND, "no KSWCRT is installed");
    write_name(X509_get_subject_name(leaf), ret_info->subject);
    write_name(X509_get_issuer_name(leaf), ret_info->issuer);
    write_serial(X509_get0_serialNumber(leaf), ret_info->serial, sizeof(ret_info->serial));
    write_time(X509_get0_notBefore(leaf), ret_info->not_before);
    write_time(X509_get0_notAfter(leaf), ret_info->not_after);
    X509_free(leaf);
    return 0;
}

static int check_time(X509 *certificate, size_t i, int64_t now)
{
    char text[KSWCRT_TIME_MAX];
    time_t at = (time_t)now;
    if (X509_cmp_time(X509_get0_notBefore(certificate), &at) >= 0) {
        write_time(X509_get0_notBefore(certificate), text);
        return fail(FAIL_REFUSED, "certificate %zu is valid only from %s", i + 1, text);
    }
    if (X509_cmp_time(X509_get0_notAfter(certificate), &at) <= 0) {
        write_time(X509_get0_notAfter(certificate), text);
        return fail(FAIL_REFUSED, "certificate %zu expired at %s", i + 1, text);
    }
    return 0;
}

static int check_one(const struct cert_chain *chain, size_t i, int64_t now)
{
    X509 *certificate = certificate_at(chain, i);
    X509 *issuer = i + 1 < chain->count ? certificate_at(chain, i + 1) : NULL;
    int rc = certificate ? check_time(certificate, i, now)
                         : fail(FAIL_MALFORMED, "certificate %zu cannot be read", i + 1);
    if (rc == 0 && i == 0)
        rc = certificate_usage_check(certificate);
    if (rc == 0 && i + 1 < chain->count &&
        (!issuer || X509_verify(certificate, X509_get0_pubkey(issuer)) != 1))
        rc = fail(FAIL_REFUSED, "certificate %zu is not signed by certificate %zu", i + 1, i + 2);
    X509_free(certificate);
    X509_free(issuer);
    ERR_clear_error();
    return rc;
}

int kswcrt_check(const struct cert_chain *chain, int64_t now)
{
    int rc = chain->count ? 0 : fail(FAIL_NOT_FOUND, "no KSWCRT is installed");
    for (size_t i = 0; i < chain->count && rc == 0; i++)
        rc = check_one(chain, i, now);
    return rc;
}

static int add_certificate(struct cert_chain *chain, X509 *certificate)
{
    unsigned char *der = NULL;
    int len = i2d_X509(certificate, &der);
    int rc = len > 0 ? cert_chain_add(chain, der, (size_t)len)
                     : fail_crypto("a certificate cannot be encoded");
    OPENSSL_free(der);
    return rc;
}

int kswcrt_from_pem(const char *pem, struct cert_chain *ret_chain)
{
    struct cert_chain chain = {0};
    int rc = 0;
    X509 *certificate;
    BIO *bio = BIO_new_mem_buf(pem, -1);
    if (!bio)
        return fail(FAIL_MEMORY, "no memory for the certificates");
    while (rc == 0 && (certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
        rc = add_certificate(&chain, certificate);
        X509_free(certificate);
    }
    /* The end of the file is the one error that is none. */
    if (rc == 0 && ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        rc = fail(FAIL_MALFORMED, "the PEM certificates cannot be read");
    if (rc == 0 && chain.count == 0)
        rc = fail(FAIL_MALFORMED, "there is no PEM certificate");
    ERR_clear_error();
    BIO_free(bio);
    if (rc == 0)
        *ret_chain = chain;
    return rc;
}

int kswcrt_to_pem(const struct cert_chain *chain, char **ret_pem)
{
    char *text;
    char *pem = NULL;
    BIO *bio = BIO_new(BIO_s_mem());
    int good = bio != NULL;
    for (size_t i = 0; i < chain->count && good; i++) {
        X509 *certificate = certificate_at(chain, i);
        good = certificate && PEM_write_bio_X509(bio, certificate);
        X509_free(certificate);
    }
    if (good) {
        long len = BIO_get_mem_data(bio, &text);
        pem = strndup(text, (size_t)len);
    }
    BIO_free(bio);
    *ret_pem = pem;
    return pem ? 0 : fail(FAIL_MEMORY, "no memory for the certificates");
}
