#include "commands.h"

#include <stdio.h>
#include <time.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "common/fail.h"
#include "common/file.h"
#include "connection.h"
#include "home.h"
#include "output.h"
#include "terminal/download.h"
#include "terminal/pkcs11_module.h"

enum { PEM_MAX = 16384 };

/* KSRCRT from PEM to DER; *ret_der by OPENSSL_free(). */
static int read_root(const char *path, unsigned char **ret_der, size_t *ret_len)
{
    uint8_t pem[PEM_MAX];
    size_t pem_len = 0;
    int rc = file_read(path, pem, sizeof(pem), &pem_len);

    if (rc < 0)
        return fail_in(rc, "KSRCRT");
    BIO *bio = BIO_new_mem_buf(pem, (int)pem_len);
    X509 *root = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    int len = root ? i2d_X509(root, ret_der) : -1;
    X509_free(root);
    BIO_free(bio);
    ERR_clear_error();
    if (len < 0)
        return fail(FAIL_MALFORMED,
                    "%s is no certificate in PEM; --root takes the server's root, "
                    "KSRCRT",
                    path);
    *ret_len = (size_t)len;
    return 0;
}

static void print_step(void *context, const char *step, const char *text)
{
    fprintf(context, "%-8s %s\n", step, text);
    fflush(context);
}

/* One message out, one in, until nothing is left to say. */
static int converse(struct download *download, struct connection *connection)
{
    struct download_output output;
    uint8_t message[MESSAGE_MAX];
    size_t len = 0;
    int rc = download_start(download, &output);

    while (rc == 0 && output.len > 0) {
        rc = connection_send(connection, output.message, output.len);
        if (rc == 0)
            rc = connection_receive(connection, message, &len);
        if (rc == 0)
            rc = download_receive(download, message, len, time(NULL), &output);
    }
    if (rc < 0 && download_state(download) == DOWNLOAD_DONE)
        return fail_in(rc, "the TMK is installed, but the server has not said that it is recorded; "
                           "download again");
    return rc;
}

static int print_result(const struct home *home, const struct download *download, int json)
{
    const struct tmk_info *tmk = download_tmk(download);
    char text[TMK_TEXT_MAX];

    if (json)
        return output_json(json_pack("{s:s, s:o}", "sn", home->sn, "tmk", output_tmk_json(tmk)));
    printf("%s %s\n", home->sn, output_tmk_text(tmk, text));
    return 0;
}

static int run(const struct home *home, struct download *download, const struct options *options)
{
    struct connection *connection = NULL;
    int rc = connection_open(options->host, options->port, options->timeout, &connection);

    if (options->verbose)
        download_watch(download, print_step, options->json ? stderr : stdout);
    if (rc == 0)
        rc = converse(download, connection);
    connection_close(connection);
    return rc == 0 ? print_result(home, download, options->json) : rc;
}

static int download_into(const struct home *home, const struct options *options)
{
    struct secure_module module;
    struct download *download = NULL;
    unsigned char *root = NULL;
    size_t root_len = 0;
    int rc = read_root(options->root_file, &root, &root_len);

    if (rc == 0)
        rc = pkcs11_module_open(home->session, &module);
    if (rc == 0)
        rc = download_new(&module, home->sn, root, root_len, &download);
    if (rc == 0)
        rc = run(home, download, options);
    download_free(download);
    OPENSSL_free(root);
    return rc;
}

int command_download(const struct options *options)
{
    struct home *home = NULL;
    int rc = home_open(options->dir, &home);

    if (rc == 0)
        rc = download_into(home, options);
    home_close(home);
    return rc;
}
