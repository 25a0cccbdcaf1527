#include "tools/tmkctl/embedded.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include "common/fail.h"
#include "common/file.h"
#include "tools/tmkctl/client.h"
#include "tools/tmkctl/interrupt.h"
#include "tools/tmkctl/lab_root.h"
#include "tools/tmkctl/output.h"

enum { OPEN_FILES = 16 }; /* descriptors that nftw(3) may use */

struct embedded {
    char dir[PATH_MAX]; /* absolute */
    int made;           /* the directory was not there before */
    const char *listen;
    const char *prks;
    const char *tmk_store;
};

static const char softhsm_conf[] = "# SoftHSM's own settings; tmkd.conf names this file.\n"
                                   "directories.tokendir = %s/tokens\n"
                                   "objectstore.backend = file\n"
                                   "log.level = ERROR\n"
                                   "slots.removable = false\n";

static const char tmkd_conf[] =
    "# A tmkd with everything in this directory, as `tmkctl init --embedded` made it.\n"
    "# A path that does not begin with / is relative to this file. When the directory moves,\n"
    "# correct the two absolute paths: SOFTHSM2_CONF here, tokendir in softhsm2.conf.\n"
    "\n"
    "# Where terminals connect.\n"
    "listen = {\"%s\"}\n"
    "\n"
    "# Terminals, deliveries and the audit log.\n"
    "registry = \"registry.db\"\n"
    "\n"
    "# Where tmkctl finds a tmkd that runs.\n"
    "control = \"control.sock\"\n"
    "\n"
    "token {\n"
    "    module = \"/usr/lib/softhsm/libsofthsm2.so\"\n"
    "    environment = {\"SOFTHSM2_CONF=%s/softhsm2.conf\"}\n"
    "    label = \"tmkd\"\n"
    "    # The user PIN is all that guards the keys of a SoftHSM token: keep this directory "
    "closed.\n"
    "    pin_file = \"pin\"\n"
    "    so_pin_file = \"so-pin\"\n"
    "}\n"
    "\n"
    "tmk {\n"
    "    # token: each TMK is an object of the token. wrapped: under TMK-KEK, in the registry.\n"
    "    store = \"%s\"\n"
    "}\n"
    "\n"
    "users {\n"
    "    # Who the processes become when tmkd is started as root; \"\" stays as it is.\n"
    "    keeper = \"\"\n"
    "    listener = \"%s\"\n"
    "    # The listener's root directory then.\n"
    "    chroot = \"%s\"\n"
    "}\n";

/* --- the directory --- */

static int is_empty(const char *path)
{
    size_t entries = 0;
    DIR *directory = opendir(path);
    if (!directory)
        return 0;
    while (readdir(directory))
        entries++;
    closedir(directory);
    return entries <= 2; /* "." and ".." */
}

static int make_directory(const char *path, struct embedded *embedded)
{
    embedded->made = mkdir(path, S_IRWXU) == 0;
    if (!embedded->made && errno != EEXIST)
        return fail_system("%s: cannot make the directory", path);
    if (!embedded->made && !is_empty(path))
        return fail(FAIL_EXISTS, "%s: is there and is no empty directory; choose another", path);
    if (chmod(path, S_IRWXU) == 0 && realpath(path, embedded->dir))
        return 0;
    int rc = fail_system("%s", path);
    embedded->dir[0] = '\0'; /* realpath() leaves it undefined */
    if (embedded->made)
        rmdir(path);
    return rc;
}

/* The path goes into two configuration files and a socket's address. */
static int check_path(const char *dir)
{
    size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - sizeof("/control.sock");
    if (strlen(dir) > most)
        return fail(FAIL_CONFIG,
                    "%s: over %zu characters, too long for the control socket in it; "
                    "choose a shorter path",
                    dir, most);
    for (const char *c = dir; *c; c++)
        if ((unsigned char)*c <= ' ' || strchr("\"'\\#${}", *c))
            return fail(FAIL_CONFIG,
                        "%s: a path with a blank, a quote or one of \\#${} in it; "
                        "choose another",
                        dir);
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *place)
{
    (void)status;
    (void)type;
    if (place->level > 0)
        remove(path);
    return 0;
}

static void undo(const struct embedded *embedded)
{
    if (embedded->dir[0])
        nftw(embedded->dir, remove_one, OPEN_FILES, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (embedded->dir[0] && embedded->made)
        rmdir(embedded->dir);
}

static int make_subdirectory(const struct embedded *embedded, const char *name, mode_t mode)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof(path), "%s/%s", embedded->dir, name);
    return mkdir(path, mode) == 0 ? 0 : fail_system("cannot make %s", path);
}

static int make_file(const struct embedded *embedded, const char *name, mode_t mode,
                     const char *text)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof(path), "%s/%s", embedded->dir, name);
    return file_create(path, mode, (const uint8_t *)text, strlen(text));
}

static int make_softhsm_conf(const struct embedded *embedded)
{
    char text[sizeof(softhsm_conf) + PATH_MAX];
    snprintf(text, sizeof(text), softhsm_conf, embedded->dir);
    return make_file(embedded, "softhsm2.conf", S_IRUSR | S_IWUSR, text);
}

static int make_tmkd_conf(const struct embedded *embedded)
{
    char text[sizeof(tmkd_conf) + PATH_MAX + 256];
    int root = geteuid() == 0;
    snprintf(text, sizeof(text), tmkd_conf, embedded->listen, embedded->dir, embedded->tmk_store,
             root ? "nobody" : "", root ? "empty" : "");
    return make_file(embedded, "tmkd.conf", S_IRUSR | S_IWUSR, text);
}

static int make_files(const struct embedded *embedded)
{
    int rc = make_subdirectory(embedded, "tokens", S_IRWXU);
    if (rc == 0 && geteuid() == 0)
        rc = make_subdirectory(embedded, "empty", S_IRWXU);
    if (rc == 0)
        rc = make_softhsm_conf(embedded);
    return rc < 0 ? rc : make_tmkd_conf(embedded);
}

/* --- what needs the token --- */

static int make_objects(struct client *client, const struct embedded *embedded)
{
    json_t *made = NULL;
    int rc = client_call(
        client, json_pack("{s:s, s:s, s:b}", "op", "init", "prks", embedded->prks, "embedded", 1),
        &made);
    json_decref(made);
    return rc;
}

static int make_root(const struct embedded *embedded, struct lab_root **ret_root)
{
    char pem[LAB_PEM_MAX];
    struct lab_root *root;

    int rc = lab_root_new(time(NULL), &root);
    if (rc < 0)
        return rc;
    rc = lab_root_certificate(root, pem);
    if (rc == 0)
        rc = make_file(embedded, "ksrcrt.pem", 0644, pem);
    if (rc == 0)
        rc = lab_root_private_key(root, pem);
    if (rc == 0)
        rc = make_file(embedded, "ksrcrt.key", S_IRUSR | S_IWUSR, pem);
    OPENSSL_cleanse(pem, sizeof(pem));
    if (rc < 0)
        lab_root_free(root);
    else
        *ret_root = root;
    return rc;
}

static int request_certificate(struct client *client, const struct lab_root *root,
                               char ret_pem[static LAB_PEM_MAX])
{
    json_t *value;
    int rc = client_call(
        client, json_pack("{s:s, s:s}", "op", "cert.request", "subject", "CN=tmkd"), &value);
    if (rc < 0)
        return rc;
    const char *csr = json_string_value(json_object_get(value, "csr"));
    rc = csr ? lab_root_issue(root, csr, time(NULL), ret_pem)
             : fail(FAIL_MALFORMED, "the keeper's answer has no certificate request");
    json_decref(value);
    return rc;
}

static int install_certificate(struct client *client, const char *pem)
{
    json_t *value = NULL;
    int rc = client_call(client, json_pack("{s:s, s:s}", "op", "cert.install", "pem", pem), &value);
    json_decref(value);
    return rc;
}

static int make_certificates(struct client *client, const struct embedded *embedded)
{
    char pem[LAB_PEM_MAX];
    struct lab_root *root;

    int rc = make_root(embedded, &root);
    if (rc < 0)
        return rc;
    rc = request_certificate(client, root, pem);
    if (rc == 0)
        rc = make_file(embedded, "kswcrt.pem", 0644, pem);
    if (rc == 0)
        rc = install_certificate(client, pem);
    lab_root_free(root);
    return rc;
}

static int hold_ceremony(const struct embedded *embedded, const char *conf)
{
    struct client *client;
    int rc = client_open_ceremony(conf, &client);
    if (rc < 0)
        return rc;
    rc = make_objects(client, embedded);
    if (rc == 0)
        rc = make_certificates(client, embedded);
    return client_close(client, rc);
}

/* A keeper that starts makes the registry, and checks all it needs to serve. */
static int try_keeper(const char *conf)
{
    json_t *status = NULL;
    int rc = client_ask(conf, json_pack("{s:s}", "op", "status"), &status);
    json_decref(status);
    return rc;
}

static int make(const char *dir, struct embedded *embedded)
{
    char conf[PATH_MAX + 16];

    int rc = make_directory(dir, embedded);
    if (rc == 0)
        rc = check_path(embedded->dir);
    if (rc == 0)
        rc = make_files(embedded);
    snprintf(conf, sizeof(conf), "%s/tmkd.conf", embedded->dir);
    if (rc == 0)
        rc = hold_ceremony(embedded, conf);
    if (rc == 0)
        rc = try_keeper(conf);
    return rc < 0 ? rc : interrupt_check();
}

/* --- what a person is told --- */

static void print_text(const struct embedded *e)
{
    printf("%s\n"
           "  tmkd.conf       the settings, with comments\n"
           "  tokens/         the SoftHSM token: PrKS (%s), KSWCRT and the keys of the server\n"
           "  softhsm2.conf   SoftHSM's own settings\n"
           "  pin, so-pin     the token's PINs, random; keep them\n"
           "  registry.db     terminals and the audit log\n"
           "  ksrcrt.pem      KSRCRT, the root that terminals need; a lab root, its key is the\n"
           "  ksrcrt.key      file beside it: for laboratories, not for a bank\n"
           "  kswcrt.pem      KSWCRT under that root, installed in the token\n"
           "\n"
           "Next:\n"
           "  tmkctl -c %s/tmkd.conf terminal import terminals.csv\n"
           "  tmkd -c %s/tmkd.conf\n"
           "  tmkpos download POS-DIR --server %s --root %s/ksrcrt.pem\n",
           e->dir, e->prks, e->dir, e->dir, e->listen, e->dir);
}

static void print(const struct embedded *e, int json)
{
    if (!json) {
        print_text(e);
        return;
    }
    json_t *made =
        json_pack("{s:s, s:s+, s:s+, s:s+, s:s, s:s, s:s}", "directory", e->dir, "conf", e->dir,
                  "/tmkd.conf", "root", e->dir, "/ksrcrt.pem", "kswcrt", e->dir, "/kswcrt.pem",
                  "listen", e->listen, "prks", e->prks, "tmk_store", e->tmk_store);
    json_print(made);
    json_decref(made);
}

int embedded_init(const struct options *options)
{
    struct embedded embedded = {
        .listen = option_or(options, OPTION_LISTEN, "127.0.0.1:7443"),
        .prks = option_or(options, OPTION_PRKS, "rsa:2048"),
        .tmk_store = option_or(options, OPTION_TMK_STORE, "token"),
    };

    interrupt_catch();
    int rc = make(options->value[OPTION_EMBEDDED], &embedded);
    if (rc < 0)
        undo(&embedded);
    else
        print(&embedded, options->value[OPTION_JSON] != NULL);
    return rc;
}
