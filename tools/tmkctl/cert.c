#include <stdio.h>
#include <string.h>

#include "common/fail.h"
#include "common/file.h"
#include "tools/tmkctl/client.h"
#include "tools/tmkctl/command.h"
#include "tools/tmkctl/output.h"

enum { CHAIN_SIZE_MAX = 64 * 1024 }; /* bytes of PEM */

static const struct column fields[] = {
    {"Subject", "subject", OUTPUT_TEXT},
    {"Issuer", "issuer", OUTPUT_TEXT},
    {"Serial", "serial", OUTPUT_TEXT},
    {"Not before", "not_before", OUTPUT_TIME},
    {"Not after", "not_after", OUTPUT_TIME},
    {"PrKS", "prks", OUTPUT_TEXT},
    {"Certificates", "certificates", OUTPUT_TEXT},
};

/* Prints value, and in the human form the PEM text of its member that has one. */
static void print(const struct options *options, const json_t *value, const char *pem_name)
{
    const char *pem = pem_name ? json_string_value(json_object_get(value, pem_name)) : NULL;
    if (options->value[OPTION_JSON]) {
        json_print(value);
        return;
    }
    fields_print(COLUMNS(fields), value);
    if (pem)
        fputs(pem, stdout);
}

int command_cert_request(const struct options *options, const char *argument)
{
    (void)argument;
    json_t *value;
    int rc = client_ask_ceremony(options->value[OPTION_CONF],
                                 json_pack("{s:s, s:s}", "op", "cert.request", "subject",
                                           option_or(options, OPTION_SUBJECT, "CN=tmkd")),
                                 &value);
    if (rc < 0)
        return rc;
    print(options, value, "csr");
    json_decref(value);
    return 0;
}

int command_cert_show(const struct options *options, const char *argument)
{
    (void)argument;
    json_t *value;
    int rc = client_ask_ceremony(options->value[OPTION_CONF], json_pack("{s:s}", "op", "cert.show"),
                                 &value);
    if (rc < 0)
        return rc;
    print(options, value, "pem");
    json_decref(value);
    return 0;
}

/* Tells the running tmkd, if one runs, to serve with the new certificate. */
static int reload(const char *conf_path)
{
    struct client *client;
    json_t *value = NULL;

    int rc = client_open_running(conf_path, &client);
    if (rc == FAIL_NOT_FOUND)
        return 0;
    if (rc == 0)
        rc = client_close(client,
                          client_call(client, json_pack("{s:s}", "op", "cert.reload"), &value));
    json_decref(value);
    return rc < 0 ? fail_in(rc, "KSWCRT is in the token, but the tmkd that runs keeps the old one, "
                                "restart it")
                  : 0;
}

static int read_chain(const char *file, json_t **ret_pem)
{
    static const char begin[] = "-----BEGIN CERTIFICATE-----";
    uint8_t pem[CHAIN_SIZE_MAX];
    size_t len;

    int rc = file_read(file, pem, sizeof(pem), &len);
    if (rc < 0)
        return rc;
    *ret_pem = memmem(pem, len, begin, strlen(begin)) ? json_stringn((const char *)pem, len) : NULL;
    return *ret_pem ? 0
                    : fail(FAIL_MALFORMED,
                           "%s: no PEM text of a certificate; give KSWCRT and what "
                           "is between it and the root, as PEM",
                           file);
}

int command_cert_install(const struct options *options, const char *file)
{
    json_t *pem;
    json_t *value;

    int rc = read_chain(file, &pem);
    if (rc < 0)
        return rc;
    rc = client_ask_ceremony(options->value[OPTION_CONF],
                             json_pack("{s:s, s:o}", "op", "cert.install", "pem", pem), &value);
    if (rc < 0)
        return fail_in(rc, "%s", file);
    print(options, value, NULL);
    json_decref(value);
    return reload(options->value[OPTION_CONF]);
}
