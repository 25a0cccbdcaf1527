#include "tools/tmkctl/public_key.h"

#include <string.h>

#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "common/fail.h"
#include "common/file.h"

enum { FILE_SIZE_MAX = 64 * 1024 };

/* The key of a DER certificate, as DER SubjectPublicKeyInfo. */
static int read_certificate(const unsigned char *der, long len, struct spki *ret)
{
    unsigned char *spki = NULL;
    X509 *certificate = d2i_X509(NULL, &der, len);
    int spki_len = certificate ? i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &spki) : -1;
    int rc = spki_len > 0 ? spki_read(spki, (size_t)spki_len, ret)
                          : fail(FAIL_MALFORMED, "a certificate that cannot be read");
    OPENSSL_free(spki);
    X509_free(certificate);
    return rc;
}

static int read_block(const char *name, const unsigned char *der, long len, struct spki *ret)
{
    if (strcmp(name, PEM_STRING_PUBLIC) == 0)
        return spki_read(der, (size_t)len, ret);
    if (strcmp(name, PEM_STRING_X509) == 0)
        return read_certificate(der, len, ret);
    if (strstr(name, "PRIVATE KEY"))
        return fail(FAIL_REFUSED, "a private key; TKP_Pr must never leave the terminal, give its "
                                  "public key");
    return fail(FAIL_MALFORMED, "PEM of a '%s'; a PUBLIC KEY or a CERTIFICATE is needed", name);
}

static int read_pem(const uint8_t *text, size_t text_len, struct spki *ret)
{
    BIO *bio = BIO_new_mem_buf(text, (int)text_len);
    char *name = NULL;
    char *header = NULL;
    unsigned char *der = NULL;
    long len = 0;
    int rc;

    if (!bio || PEM_read_bio(bio, &name, &header, &der, &len) != 1)
        rc = fail(FAIL_MALFORMED, "no PEM in it; a PUBLIC KEY or a CERTIFICATE is needed");
    else
        rc = read_block(name, der, len, ret);
    OPENSSL_clear_free(der, (size_t)len);
    OPENSSL_free(header);
    OPENSSL_free(name);
    BIO_free(bio);
    return rc;
}

int public_key_read(const char *path, struct spki *ret_tkp_pu)
{
    uint8_t text[FILE_SIZE_MAX];
    size_t len;

    int rc = file_read(path, text, sizeof(text), &len);
    if (rc < 0)
        return rc;
    rc = read_pem(text, len, ret_tkp_pu);
    OPENSSL_cleanse(text, sizeof(text)); /* it might have been a private key */
    return rc < 0 ? fail_in(rc, "%s", path) : 0;
}
