#include "tmkd/ceremony.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "common/conf.h"
#include "common/fail.h"
#include "common/file.h"
#include "common/hex.h"
#include "common/log.h"
#include "db/audit.h"
#include "hsm/ceremony.h"
#include "hsm/keyring.h"
#include "tmkd/audit_key.h"
#include "tmkd/cage.h"
#include "tmkd/control.h"
#include "tmkd/house.h"
#include "tmkd/kswcrt.h"
#include "tmkd/reply.h"
#include "tmkd/vault.h"

enum {
    EXIT_STOPPED = 0,
    EXIT_FAILED = 1,
    EXIT_REFUSED = 2,
    PIN_BYTES = 16, /* random, 32 hex digits: there is no lock-out in SoftHSM (design 12) */
    PIN_LEN = 2 * PIN_BYTES,
};

struct ceremony_room {
    const struct conf *conf;
    char actor[AUDIT_ACTOR_MAX + 1];
};

/* --- the token, one operation at a time --- */

struct open_token {
    struct token *token;
    struct token_session *session;
};

static void close_token(struct open_token *open)
{
    token_session_close(open->session);
    token_unload(open->token);
}

static int load_token(const struct conf *conf, struct open_token *open)
{
    return token_load(conf->token.module, conf->token.environment, conf->token.environment_count,
                      &open->token);
}

static int log_in(const struct conf *conf, struct open_token *open)
{
    char pin[TOKEN_PIN_MAX + 1];
    int rc = vault_read_pin(conf->token.pin_file, pin);
    if (rc == 0)
        rc = token_find(open->token, conf->token.label);
    if (rc == 0)
        rc = token_login(open->token, pin);
    OPENSSL_cleanse(pin, sizeof(pin));
    return rc < 0 ? rc : token_session_open(open->token, &open->session);
}

static int open_token(const struct conf *conf, struct open_token *open)
{
    int rc = load_token(conf, open);
    return rc < 0 ? rc : log_in(conf, open);
}

/* --- the audit record of a ceremony --- */

static int write_audit(const struct ceremony_room *room, struct registry *registry,
                       struct token_session *session, const char *event, const char *detail)
{
    struct keyring keyring;
    struct audit_key key = {.session = session};
    struct audit_record record = {.at = time(NULL)};
    snprintf(record.event, sizeof(record.event), "%s", event);
    snprintf(record.detail, sizeof(record.detail), "%s", detail);
    memcpy(record.actor, room->actor, sizeof(record.actor));
    int rc = keyring_open(session, &keyring);
    if (rc < 0 || (rc = registry_begin(registry)) < 0)
        return rc;
    key.key = keyring.audit;
    if ((rc = audit_append(registry, &record)) < 0 ||
        (rc = audit_seal(registry, audit_key_seal, &key)) < 0 ||
        (rc = registry_commit(registry)) < 0)
        registry_rollback(registry);
    return rc;
}

static int audit(const struct ceremony_room *room, struct token_session *session,
                 enum registry_mode mode, const char *event, const char *detail)
{
    struct registry *registry;
    int rc = registry_open(room->conf->registry, mode, &registry);
    if (rc < 0)
        return rc;
    rc = write_audit(room, registry, session, event, detail);
    registry_close(registry);
    return rc;
}

/* --- init --- */

static int make_pin_file(const char *path, char ret_pin[static PIN_LEN + 1])
{
    uint8_t bytes[PIN_BYTES];
    if (RAND_bytes(bytes, sizeof(bytes)) != 1)
        return fail_crypto("no random bytes for a PIN");
    hex_encode(bytes, sizeof(bytes), ret_pin);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return file_create(path, 0600, (const uint8_t *)ret_pin, PIN_LEN);
}

static int make_embedded_token(const struct conf *conf, struct open_token *open)
{
    char pin[PIN_LEN + 1];
    char so_pin[PIN_LEN + 1];
    int rc = make_pin_file(conf->token.pin_file, pin);
    if (rc == 0)
        rc = make_pin_file(conf->token.so_pin_file, so_pin);
    if (rc == 0)
        rc = token_initialise(open->token, conf->token.label, so_pin, pin);
    OPENSSL_cleanse(pin, sizeof(pin));
    OPENSSL_cleanse(so_pin, sizeof(so_pin));
    return rc;
}

static void note_made(void *context, const char *label)
{
    json_array_append_new(context, json_string(label));
}

/* "PrKS, SEAL, AUDIT", for the auditor. */
static void join_labels(const json_t *made, char ret_text[static AUDIT_DETAIL_MAX + 1])
{
    size_t at = 0;
    size_t i;
    json_t *label;

    snprintf(ret_text, AUDIT_DETAIL_MAX + 1, "nothing new");
    json_array_foreach(made, i, label)
    {
        if (at <= AUDIT_DETAIL_MAX)
            at += (size_t)snprintf(ret_text + at, AUDIT_DETAIL_MAX + 1 - at, "%s%s",
                                   i > 0 ? ", " : "", json_string_value(label));
    }
}

static int make_objects(const struct ceremony_room *room, const json_t *request,
                        struct open_token *open, json_t *made)
{
    const char *name = NULL;
    struct prks_spec prks;
    char labels[AUDIT_DETAIL_MAX + 1];
    int rc = request_text(request, "prks", &name);
    if (rc == 0)
        rc = prks_spec_read(name, &prks);
    if (rc == 0 && request_flag(request, "embedded")) {
        rc = make_embedded_token(room->conf, open);
        note_made(made, "token");
    }
    if (rc == 0)
        rc = log_in(room->conf, open);
    if (rc == 0)
        rc = keyring_make(open->session, &prks, note_made, made);
    if (rc == 0) {
        join_labels(made, labels);
        rc = audit(room, open->session, REGISTRY_CREATE, "initialised", labels);
    }
    return rc;
}

static int do_init(const struct ceremony_room *room, const json_t *request, json_t **ret_value)
{
    struct open_token open = {0};
    json_t *made = json_array();
    int rc = made ? load_token(room->conf, &open) : fail(FAIL_MEMORY, "no memory for the answer");
    if (rc == 0)
        rc = make_objects(room, request, &open, made);
    close_token(&open);
    if (rc < 0)
        json_decref(made);
    else
        *ret_value = made;
    return rc;
}

/* --- certificates --- */

typedef int libp11_step(const struct ceremony_token *token, void *context);

/* libp11 loads the module for itself, so nothing of hsm/token.h is open meanwhile; the module's
 * environment is set the way token_load() does it. */
static int with_libp11(const struct conf *conf, libp11_step *step, void *context)
{
    struct open_token open = {0};
    char pin[TOKEN_PIN_MAX + 1];
    int rc = load_token(conf, &open);
    close_token(&open);
    if (rc == 0)
        rc = vault_read_pin(conf->token.pin_file, pin);
    if (rc == 0) {
        struct ceremony_token token = {conf->token.module, conf->token.label, pin};
        rc = step(&token, context);
    }
    OPENSSL_cleanse(pin, sizeof(pin));
    return rc;
}

struct csr {
    const char *subject;
    char *pem;
};

static int request_step(const struct ceremony_token *token, void *context)
{
    struct csr *csr = context;
    return ceremony_request(token, csr->subject, &csr->pem);
}

static int do_request(const struct ceremony_room *room, const json_t *request, json_t **ret_value)
{
    struct csr csr = {0};
    int rc = request_text(request, "subject", &csr.subject);
    if (rc == 0)
        rc = with_libp11(room->conf, request_step, &csr);
    if (rc == 0)
        *ret_value = json_pack("{s:s}", "csr", csr.pem);
    free(csr.pem);
    return rc;
}

static int install_step(const struct ceremony_token *token, void *context)
{
    return ceremony_install(token, context);
}

static json_t *describe(const struct cert_chain *chain)
{
    struct kswcrt_info info;
    if (kswcrt_describe(chain, &info) < 0)
        return NULL;
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i}", "subject", info.subject, "issuer",
                     info.issuer, "serial", info.serial, "not_before", info.not_before, "not_after",
                     info.not_after, "certificates", (int)chain->count);
}

static int audit_install(const struct ceremony_room *room, const struct cert_chain *chain)
{
    struct open_token open = {0};
    struct kswcrt_info info;
    char detail[AUDIT_DETAIL_MAX + 1];
    int rc = kswcrt_describe(chain, &info);
    if (rc == 0)
        rc = open_token(room->conf, &open);
    if (rc == 0) {
        snprintf(detail, sizeof(detail), "KSWCRT serial %s until %s", info.serial, info.not_after);
        rc = audit(room, open.session, REGISTRY_WRITE, "certificate", detail);
    }
    close_token(&open);
    return rc;
}

static int do_install(const struct ceremony_room *room, const json_t *request, json_t **ret_value)
{
    struct cert_chain chain;
    const char *pem = NULL;
    int rc = request_text(request, "pem", &pem);
    if (rc < 0 || (rc = kswcrt_from_pem(pem, &chain)) < 0 ||
        (rc = kswcrt_check(&chain, time(NULL))) < 0 ||
        (rc = with_libp11(room->conf, install_step, &chain)) < 0 ||
        (rc = audit_install(room, &chain)) < 0)
        return rc;
    *ret_value = describe(&chain);
    return 0;
}

static int add_pem(json_t *value, const struct cert_chain *chain)
{
    char *pem = NULL;
    int rc = kswcrt_to_pem(chain, &pem);
    if (rc == 0 && json_object_set_new(value, "pem", json_string(pem)) < 0)
        rc = fail(FAIL_MEMORY, "no memory for the answer");
    free(pem);
    return rc;
}

static int do_show(const struct ceremony_room *room, const json_t *request, json_t **ret_value)
{
    struct open_token open = {0};
    struct keyring keyring = {0};
    json_t *value = NULL;
    (void)request;
    int rc = open_token(room->conf, &open);
    if (rc == 0)
        rc = keyring_open(open.session, &keyring);
    close_token(&open);
    if (rc == 0 && !(value = describe(&keyring.kswcrt)))
        rc = fail(FAIL_NOT_FOUND, "no KSWCRT is installed; 'tmkctl cert request' makes the request "
                                  "for one");
    if (rc == 0 &&
        json_object_set_new(value, "prks", json_string(prks_spec_name(&keyring.prks_spec))) < 0)
        rc = fail(FAIL_MEMORY, "no memory for the answer");
    if (rc == 0)
        rc = add_pem(value, &keyring.kswcrt);
    if (rc < 0)
        json_decref(value);
    else
        *ret_value = value;
    return rc;
}

/* --- requests, one a line --- */

static const struct {
    const char *name;
    int (*perform)(const struct ceremony_room *room, const json_t *request, json_t **ret_value);
} operations[] = {
    {"init", do_init},
    {"cert.request", do_request},
    {"cert.install", do_install},
    {"cert.show", do_show},
};

static int perform(const struct ceremony_room *room, const json_t *request, json_t **ret_value)
{
    const char *name = NULL;
    int rc = request_text(request, "op", &name);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
        if (strcmp(operations[i].name, name) == 0)
            return operations[i].perform(room, request, ret_value);
    return fail(FAIL_NOT_FOUND, "the ceremony has no operation '%s'", name);
}

static int answer_line(const struct ceremony_room *room, const char *line, size_t len, FILE *stream)
{
    json_error_t error;
    json_t *value = NULL;
    json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
    int rc = request ? perform(room, request, &value)
                     : fail(FAIL_MALFORMED, "the request is no JSON object");
    json_t *answer = rc < 0 ? reply_error(rc, fail_text()) : reply_ok(value);
    int sent = answer ? json_dumpf(answer, stream, JSON_COMPACT) : -1;
    json_decref(answer);
    json_decref(request);
    if (sent < 0 || fputc('\n', stream) == EOF || fflush(stream) != 0)
        return fail(FAIL_CLOSED, "tmkctl is gone");
    return 0;
}

static int serve(const struct ceremony_room *room, int fd)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    int rc = 0;
    FILE *stream = fdopen(fd, "r+");
    if (!stream) {
        close(fd);
        return fail_system("cannot use the control stream");
    }
    while (rc == 0 && (len = getline(&line, &size, stream)) > 0)
        rc = answer_line(room, line, (size_t)len, stream);
    free(line);
    fclose(stream);
    return rc;
}

/* --- start --- */

static int receive_peer(struct ceremony_room *room, int *ret_fd)
{
    struct house_message message;
    int fd = -1;
    int rc = house_receive(HOUSE_FD, &message, &fd);
    if (rc == 0 && (message.kind != HOUSE_CONTROL_PEER || fd < 0))
        rc = fail(FAIL_MALFORMED, "a ceremony takes a control stream and nothing else");
    if (rc == 0)
        rc = control_actor(fd, room->actor, sizeof(room->actor));
    if (rc == 0)
        rc = house_send_kind(HOUSE_FD, HOUSE_READY, -1);
    if (rc < 0 && fd >= 0)
        close(fd);
    else if (rc == 0)
        *ret_fd = fd;
    return rc;
}

int ceremony_run(const char *conf_path)
{
    struct conf *conf = NULL;
    struct ceremony_room room = {0};
    int fd = -1;
    int status = EXIT_REFUSED;
    log_open("tmkd ceremony", LOG_WARNING);
    int rc = conf_read(conf_path, &conf);
    if (rc == 0)
        rc = cage_settle(conf->users.keeper);
    if (rc == 0) {
        room.conf = conf;
        rc = receive_peer(&room, &fd);
    }
    if (rc == 0)
        status = serve(&room, fd) == 0 ? EXIT_STOPPED : EXIT_FAILED;
    else if (house_refuse(HOUSE_FD) < 0)
        log_error("%s", fail_text());
    conf_free(conf);
    return status;
}
