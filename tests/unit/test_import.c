/* What an import reads (tools/tmkctl/csv.h, seen.h) and the lab root's certificates (lab_root.h).
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include "common/fail.h"
#include "common/hex.h"
#include "tools/tmkctl/csv.h"
#include "tools/tmkctl/lab_root.h"
#include "tools/tmkctl/public_key.h"
#include "tools/tmkctl/seen.h"

#include <cmocka.h> /* last: it has a macro named fail */

static const int64_t now = 1767225600; /* 2026-01-01 00:00:00Z */

/* --- CSV --- */

struct fixture {
    EVP_PKEY *rsa;
    char key[1200]; /* base64 of its SubjectPublicKeyInfo */
};

static int set_up(void **state)
{
    static struct fixture fixture;
    unsigned char *der = NULL;

    fixture.rsa = EVP_RSA_gen(2048);
    assert_non_null(fixture.rsa);
    int len = i2d_PUBKEY(fixture.rsa, &der);
    assert_true(len > 0);
    base64_encode(der, (size_t)len, fixture.key);
    OPENSSL_free(der);
    *state = &fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    EVP_PKEY_free(fixture->rsa);
    return 0;
}

/* A file of these bytes, gone when closed. */
static FILE *file_of(const char *bytes, size_t len)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    rewind(file);
    return file;
}

static void assert_says(const char *words)
{
    if (!strstr(fail_text(), words))
        fail_msg("the sentence \"%s\" does not say \"%s\"", fail_text(), words);
}

/* Starts a reader on a file of format with the fixture's key for each KEY in it. */
static FILE *start(const struct fixture *fixture, const char *format, struct csv *ret_csv)
{
    static char text[8192];
    const char *at = strstr(format, "KEY");
    size_t len = 0;

    for (; at; format = at + 3, at = strstr(format, "KEY"))
        len += (size_t)sprintf(text + len, "%.*s%s", (int)(at - format), format, fixture->key);
    len += (size_t)sprintf(text + len, "%s", format);
    FILE *file = file_of(text, len);
    assert_int_equal(csv_start(file, ret_csv), 0);
    return file;
}

static void assert_row(struct csv *csv, const char *sn, uint64_t line)
{
    struct csv_row row;
    assert_int_equal(csv_next(csv, &row), 0);
    assert_string_equal(row.sn, sn);
    assert_int_equal(row.place.line, line);
    assert_int_equal(row.tkp_pu.bits, 2048);
}

static void assert_bad_row(struct csv *csv, uint64_t line, const char *words)
{
    struct csv_row row;
    assert_int_equal(csv_next(csv, &row), FAIL_MALFORMED);
    assert_says(words);
    assert_int_equal(row.place.line, line);
}

static void assert_end(struct csv *csv, FILE *file)
{
    struct csv_row row;
    assert_int_equal(csv_next(csv, &row), FAIL_NOT_FOUND);
    fclose(file);
}

static void rows_are_read(void **state)
{
    struct csv csv;
    FILE *file = start(*state, "sn,public_key\nPOS-1,KEY\nPOS-2,KEY\n", &csv);
    assert_row(&csv, "POS-1", 2);
    assert_row(&csv, "POS-2", 3);
    assert_end(&csv, file);
}

static void bom_and_crlf_are_accepted(void **state)
{
    struct csv csv;
    FILE *file = start(*state, "\xEF\xBB\xBFsn,public_key\r\nPOS-1,KEY\r\n", &csv);
    assert_row(&csv, "POS-1", 2);
    assert_end(&csv, file);
}

/* As tmkpos export writes them. */
static void sn_in_quotes(void **state)
{
    struct csv csv;
    FILE *file = start(*state,
                       "sn,public_key\n"
                       "\"POS-1\",KEY\n"
                       "\"A,\"\"2\"\"\",KEY\n"
                       "\"POS-3,KEY\n"
                       "\"POS-4\"x,KEY\n"
                       "\"\",KEY\n",
                       &csv);
    assert_row(&csv, "POS-1", 2);
    assert_row(&csv, "A,\"2\"", 3);
    assert_bad_row(&csv, 4, "an SN is");
    assert_bad_row(&csv, 5, "two fields");
    assert_bad_row(&csv, 6, "an SN is");
    assert_end(&csv, file);
}

static void last_newline_may_be_missing(void **state)
{
    struct csv csv;
    FILE *file = start(*state, "sn,public_key\nPOS-1,KEY", &csv);
    assert_row(&csv, "POS-1", 2);
    assert_end(&csv, file);
}

static void header_alone_has_no_rows(void **state)
{
    struct csv csv;
    FILE *file = start(*state, "sn,public_key", &csv);
    assert_end(&csv, file);
}

static void other_headers_are_refused(void **state)
{
    (void)state;
    static const char *const headers[] = {"public_key,sn\n", "sn,public_key,x\n", "sn;public_key\n",
                                          "SN,PUBLIC_KEY\n", " sn,public_key\n",  "\n"};
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        struct csv csv;
        FILE *file = file_of(headers[i], strlen(headers[i]));
        assert_int_equal(csv_start(file, &csv), FAIL_MALFORMED);
        assert_says("must be sn,public_key");
        fclose(file);
    }
}

static void empty_file_is_refused(void **state)
{
    (void)state;
    struct csv csv;
    FILE *file = file_of("", 0);
    assert_int_equal(csv_start(file, &csv), FAIL_MALFORMED);
    assert_says("empty");
    fclose(file);
}

static void bad_rows_do_not_hide_the_next(void **state)
{
    struct csv csv;
    FILE *file = start(*state,
                       "sn,public_key\n"
                       "POS\"1,KEY\n"
                       "POS-2\n"
                       "POS-3,KEY,x\n"
                       "\n"
                       ",KEY\n"
                       "POS 6,KEY\n"
                       "POS-7,KEY=\n"
                       "POS-8,AAAA\n"
                       "POS-9,\n"
                       "0123456789012345678901234567890123456789012345678901234567890123x,KEY\n"
                       "POS-11,KEY\n",
                       &csv);
    assert_bad_row(&csv, 2, "quotation mark");
    assert_bad_row(&csv, 3, "two fields");
    assert_bad_row(&csv, 4, "two fields");
    assert_bad_row(&csv, 5, "empty line");
    assert_bad_row(&csv, 6, "an SN is");
    assert_bad_row(&csv, 7, "an SN is");
    assert_bad_row(&csv, 8, "public_key of POS-7");
    assert_bad_row(&csv, 9, "public_key of POS-8");
    assert_bad_row(&csv, 10, "public_key of POS-9");
    assert_bad_row(&csv, 11, "an SN is");
    assert_row(&csv, "POS-11", 12);
    assert_end(&csv, file);
}

static void long_lines_are_bounded(void **state)
{
    (void)state;
    static char text[100000];
    struct csv csv;
    struct csv_row row;

    size_t len = (size_t)sprintf(text, "sn,public_key\nPOS-1,");
    memset(text + len, 'A', sizeof(text) - len);
    text[50000] = '\n';
    FILE *file = file_of(text, sizeof(text));
    assert_int_equal(csv_start(file, &csv), 0);
    assert_int_equal(csv_next(&csv, &row), FAIL_MALFORMED);
    assert_says("at most 2000");
    assert_int_equal(row.place.start, 14);
    assert_int_equal(row.place.length, 50001 - 14);
    assert_int_equal(csv_next(&csv, &row), FAIL_MALFORMED);
    assert_int_equal(row.place.line, 3);
    assert_int_equal(row.place.start, 50001);
    assert_end(&csv, file);
}

static void longest_line_is_read_to_its_end(void **state)
{
    (void)state;
    static char text[14 + CSV_LINE_MAX + 2];
    for (size_t over = 0; over < 2; over++) {
        struct csv csv;
        struct csv_row row;
        size_t len = (size_t)sprintf(text, "sn,public_key\nPOS-1,");
        memset(text + len, 'A', sizeof(text) - len);
        text[14 + CSV_LINE_MAX + over] = '\n';
        FILE *file = file_of(text, 14 + CSV_LINE_MAX + over + 1);
        assert_int_equal(csv_start(file, &csv), 0);
        assert_int_equal(csv_next(&csv, &row), FAIL_MALFORMED);
        assert_says(over ? "at most 2000" : "public_key of POS-1");
        assert_end(&csv, file);
    }
}

static void nul_bytes_are_refused(void **state)
{
    (void)state;
    static const char text[] = "sn,public_key\nPOS-1,AA\0AA\nPOS-2,x\n";
    static const char header[] = "sn,public_key\0\n";
    struct csv csv;

    FILE *file = file_of(text, sizeof(text) - 1);
    assert_int_equal(csv_start(file, &csv), 0);
    assert_bad_row(&csv, 2, "NUL");
    assert_bad_row(&csv, 3, "public_key of POS-2");
    assert_end(&csv, file);

    file = file_of(header, sizeof(header) - 1);
    assert_int_equal(csv_start(file, &csv), FAIL_MALFORMED);
    assert_says("NUL");
    fclose(file);
}

static void places_cover_the_file(void **state)
{
    struct csv csv;
    struct csv_row row;
    FILE *file = start(*state, "\xEF\xBB\xBFsn,public_key\r\nPOS-1,KEY\r\nbad\nPOS-2,KEY", &csv);
    off_t at = 18;
    while (csv_next(&csv, &row) != FAIL_NOT_FOUND) {
        assert_int_equal(row.place.start, at);
        at += (off_t)row.place.length;
    }
    fseeko(file, 0, SEEK_END);
    assert_int_equal(ftello(file), at);
    fclose(file);
}

/* --- repetitions --- */

static void repetitions_are_told_apart(void **state)
{
    (void)state;
    static const uint8_t one[DIGEST_LEN] = {1};
    static const uint8_t two[DIGEST_LEN] = {2};
    struct seen *seen;
    int again = -1;

    assert_int_equal(seen_new(&seen), 0);
    assert_int_equal(seen_add(seen, "POS-1", one, 2, &again), 0);
    assert_int_equal(again, 0);
    assert_int_equal(seen_add(seen, "POS-1", one, 3, &again), 0);
    assert_int_equal(again, 1);
    assert_int_equal(seen_add(seen, "POS-1", two, 4, &again), FAIL_EXISTS);
    assert_says("line 2");
    assert_int_equal(seen_add(seen, "POS-2", one, 5, &again), FAIL_EXISTS);
    assert_says("POS-1 on line 2");
    assert_int_equal(seen_add(seen, "POS-2", two, 6, &again), 0);
    assert_int_equal(again, 0);
    seen_free(seen);
    seen_free(NULL);
}

/* A request for key, its subject CN=tmkd, signed by signer. */
static void request_of(EVP_PKEY *key, EVP_PKEY *signer, char ret_pem[static LAB_PEM_MAX])
{
    X509_REQ *request = X509_REQ_new();
    X509_NAME *subject = X509_NAME_new();
    BIO *bio = BIO_new(BIO_s_mem());

    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)"tmkd", -1, -1,
                               0);
    X509_REQ_set_subject_name(request, subject);
    X509_REQ_set_pubkey(request, key);
    assert_true(X509_REQ_sign(request, signer, EVP_sha256()) > 0);
    assert_int_equal(PEM_write_bio_X509_REQ(bio, request), 1);
    int len = BIO_read(bio, ret_pem, LAB_PEM_MAX - 1);
    assert_true(len > 0);
    ret_pem[len] = '\0';
    BIO_free(bio);
    X509_NAME_free(subject);
    X509_REQ_free(request);
}

/* --- a key file --- */

/* What public_key_read() does with a file of these bytes. */
static int read_key_text(const char *text, size_t len, struct spki *ret)
{
    char path[40];
    FILE *file = file_of(text, len);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fileno(file));
    int rc = public_key_read(path, ret);
    fclose(file);
    return rc;
}

static void keys_are_read_from_pem(void **state)
{
    const struct fixture *fixture = *state;
    struct spki spki;
    char *text;
    char encoded[1200];
    BIO *bio = BIO_new(BIO_s_mem());

    assert_int_equal(PEM_write_bio_PUBKEY(bio, fixture->rsa), 1);
    long len = BIO_get_mem_data(bio, &text);
    assert_int_equal(read_key_text(text, (size_t)len, &spki), 0);
    assert_string_equal(base64_encode(spki.der, spki.der_len, encoded), fixture->key);
    BIO_free(bio);
}

static void keys_are_read_from_certificates(void **state)
{
    const struct fixture *fixture = *state;
    char csr[LAB_PEM_MAX];
    char pem[LAB_PEM_MAX];
    char encoded[1200];
    struct spki spki;
    struct lab_root *lab;

    assert_int_equal(lab_root_new(now, &lab), 0);
    request_of(fixture->rsa, fixture->rsa, csr);
    assert_int_equal(lab_root_issue(lab, csr, now, pem), 0);
    assert_int_equal(read_key_text(pem, strlen(pem), &spki), 0);
    assert_string_equal(base64_encode(spki.der, spki.der_len, encoded), fixture->key);
    assert_int_equal(lab_root_certificate(lab, pem), 0);
    assert_int_equal(read_key_text(pem, strlen(pem), &spki), FAIL_REFUSED); /* its key is P-256 */
    lab_root_free(lab);
}

static void private_keys_are_refused(void **state)
{
    const struct fixture *fixture = *state;
    struct spki spki;
    char *text;
    BIO *bio = BIO_new(BIO_s_mem());

    assert_int_equal(PEM_write_bio_PrivateKey(bio, fixture->rsa, NULL, NULL, 0, NULL, NULL), 1);
    long len = BIO_get_mem_data(bio, &text);
    assert_int_equal(read_key_text(text, (size_t)len, &spki), FAIL_REFUSED);
    assert_says("TKP_Pr must never leave the terminal");
    BIO_free(bio);
    assert_int_equal(read_key_text("hello", 5, &spki), FAIL_MALFORMED);
    assert_says("no PEM");
}

/* --- the lab root --- */

static X509 *certificate_of(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(certificate);
    return certificate;
}

/* OpenSSL's verdict on the chain at a time. */
static int verify_at(X509 *leaf, X509 *root, time_t when)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    assert_int_equal(X509_STORE_add_cert(store, root), 1);
    assert_int_equal(X509_STORE_CTX_init(context, store, leaf, NULL), 1);
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(context), when);
    X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(context), X509_V_FLAG_X509_STRICT);
    int good = X509_verify_cert(context) == 1;
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    return good;
}

static int has_purpose(X509 *certificate, const char *oid)
{
    int critical = 0;
    char text[80];
    int found = 0;
    EXTENDED_KEY_USAGE *usages = X509_get_ext_d2i(certificate, NID_ext_key_usage, &critical, NULL);
    assert_non_null(usages);
    assert_int_equal(critical, 1);
    for (int i = 0; i < sk_ASN1_OBJECT_num(usages); i++) {
        OBJ_obj2txt(text, sizeof(text), sk_ASN1_OBJECT_value(usages, i), 1);
        found |= strcmp(text, oid) == 0;
    }
    EXTENDED_KEY_USAGE_free(usages);
    return found;
}

static void assert_kswcrt_fits(EVP_PKEY *key)
{
    char root_pem[LAB_PEM_MAX];
    char csr[LAB_PEM_MAX];
    char pem[LAB_PEM_MAX];
    struct lab_root *lab;

    assert_int_equal(lab_root_new(now, &lab), 0);
    assert_int_equal(lab_root_certificate(lab, root_pem), 0);
    request_of(key, key, csr);
    assert_int_equal(lab_root_issue(lab, csr, now, pem), 0);
    X509 *root = certificate_of(root_pem);
    X509 *leaf = certificate_of(pem);

    assert_true(verify_at(leaf, root, now));
    assert_true(verify_at(leaf, root, now + (time_t)729 * 86400));
    assert_false(verify_at(leaf, root, now + (time_t)731 * 86400));
    assert_false(verify_at(leaf, root, now - 7200));
    assert_true(has_purpose(leaf, "1.3.6.1.5.5.7.3.32"));
    assert_int_equal(X509_get_key_usage(leaf), KU_DIGITAL_SIGNATURE);
    assert_int_equal(X509_check_ca(leaf), 0);
    assert_int_equal(X509_check_ca(root), 1);
    assert_int_equal(X509_get_key_usage(root), KU_KEY_CERT_SIGN | KU_CRL_SIGN);
    assert_int_equal(EVP_PKEY_eq(X509_get0_pubkey(leaf), key), 1);

    X509_free(leaf);
    X509_free(root);
    lab_root_free(lab);
}

static void kswcrt_of_rsa_verifies(void **state)
{
    const struct fixture *fixture = *state;
    assert_kswcrt_fits(fixture->rsa);
}

static void kswcrt_of_p256_verifies(void **state)
{
    (void)state;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    assert_kswcrt_fits(key);
    EVP_PKEY_free(key);
}

static void private_key_fits_the_root(void **state)
{
    (void)state;
    char pem[LAB_PEM_MAX];
    struct lab_root *lab;

    assert_int_equal(lab_root_new(now, &lab), 0);
    assert_int_equal(lab_root_certificate(lab, pem), 0);
    X509 *root = certificate_of(pem);
    assert_int_equal(lab_root_private_key(lab, pem), 0);
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    assert_int_equal(X509_check_private_key(root, key), 1);
    EVP_PKEY_free(key);
    BIO_free(bio);
    X509_free(root);
    lab_root_free(lab);
}

static void unproven_requests_are_refused(void **state)
{
    const struct fixture *fixture = *state;
    char csr[LAB_PEM_MAX];
    char pem[LAB_PEM_MAX] = "untouched";
    struct lab_root *lab;
    EVP_PKEY *other = EVP_RSA_gen(2048);

    assert_int_equal(lab_root_new(now, &lab), 0);
    request_of(fixture->rsa, other, csr);
    assert_int_equal(lab_root_issue(lab, csr, now, pem), FAIL_REFUSED);
    assert_int_equal(lab_root_issue(lab, "no request", now, pem), FAIL_MALFORMED);
    assert_string_equal(pem, "untouched");
    EVP_PKEY_free(other);
    lab_root_free(lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_read),
        cmocka_unit_test(bom_and_crlf_are_accepted),
        cmocka_unit_test(sn_in_quotes),
        cmocka_unit_test(last_newline_may_be_missing),
        cmocka_unit_test(header_alone_has_no_rows),
        cmocka_unit_test(other_headers_are_refused),
        cmocka_unit_test(empty_file_is_refused),
        cmocka_unit_test(bad_rows_do_not_hide_the_next),
        cmocka_unit_test(long_lines_are_bounded),
        cmocka_unit_test(longest_line_is_read_to_its_end),
        cmocka_unit_test(nul_bytes_are_refused),
        cmocka_unit_test(places_cover_the_file),
        cmocka_unit_test(repetitions_are_told_apart),
        cmocka_unit_test(keys_are_read_from_pem),
        cmocka_unit_test(keys_are_read_from_certificates),
        cmocka_unit_test(private_keys_are_refused),
        cmocka_unit_test(kswcrt_of_rsa_verifies),
        cmocka_unit_test(kswcrt_of_p256_verifies),
        cmocka_unit_test(private_key_fits_the_root),
        cmocka_unit_test(unproven_requests_are_refused),
    };
    return cmocka_run_group_tests_name("import", tests, set_up, tear_down);
}
