#include "commands.h"

#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

#include "common/fail.h"
#include "common/file.h"
#include "common/hex.h"
#include "home.h"
#include "output.h"
#include "terminal/pkcs11_module.h"

enum { PEM_MAX = 16384, BASE64_MAX = 4 * ((SPKI_DER_MAX + 2) / 3) + 1 };

/* --- init --- */

static int import(struct token_session *session, const char *path)
{
    uint8_t pem[PEM_MAX];
    size_t len = 0;
    int rc = file_read(path, pem, sizeof(pem), &len);

    if (rc == 0) {
        rc = pkcs11_module_import_tkp(session, pem, len);
        if (rc < 0)
            fail_in(rc, "%s", path);
    }
    OPENSSL_cleanse(pem, sizeof(pem));
    return rc;
}

static int fill(struct token_session *session, const void *context)
{
    const struct options *options = context;

    if (options->import_file)
        return import(session, options->import_file);
    return pkcs11_module_generate_tkp(session, options->bits);
}

int command_init(const struct options *options)
{
    int rc = home_create(options->dir, options->sn, options->module, fill, options);

    if (rc == 0)
        printf("%s: its TKP is in the token of %s; next: tmkpos export %s\n", options->sn,
               options->dir, options->dir);
    return rc;
}

/* --- export --- */

/* RFC 4180 2: an SN may have commas and quotes in it. */
static void print_csv_field(const char *text)
{
    if (!strpbrk(text, ",\"")) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text; text++) {
        if (*text == '"')
            putchar('"');
        putchar(*text);
    }
    putchar('"');
}

static int export_key(const struct home *home, const struct options *options)
{
    struct spki tkp_pu;
    char base64[BASE64_MAX];
    int rc = pkcs11_module_tkp_pu(home->session, &tkp_pu);

    if (rc < 0)
        return rc;
    base64_encode(tkp_pu.der, tkp_pu.der_len, base64);
    if (options->json)
        return output_json(json_pack("{s:s, s:s}", "sn", home->sn, "public_key", base64));
    puts("sn,public_key");
    print_csv_field(home->sn);
    printf(",%s\n", base64);
    return 0;
}

/* --- show --- */

struct shown {
    struct spki tkp_pu;
    int tampered;
    int has_tmk;
    struct tmk_info tmk;
};

static int look(const struct home *home, struct shown *ret_shown)
{
    struct secure_module module;
    struct shown shown = {0};
    int rc = pkcs11_module_open(home->session, &module);

    shown.tampered = rc == FAIL_NOT_FOUND;
    if (rc == 0)
        rc = pkcs11_module_tkp_pu(home->session, &shown.tkp_pu);
    if (rc < 0 && !shown.tampered)
        return rc;
    rc = pkcs11_module_tmk(home->session, &shown.tmk);
    shown.has_tmk = rc == 0;
    if (rc < 0 && rc != FAIL_NOT_FOUND)
        return rc;
    *ret_shown = shown;
    return 0;
}

static int show(const struct home *home, const struct options *options)
{
    struct shown shown;
    char sha256[2 * DIGEST_LEN + 1];
    char tmk[TMK_TEXT_MAX];
    int rc = look(home, &shown);

    if (rc < 0)
        return rc;
    if (options->json)
        return output_json(json_pack(
            "{s:s, s:s, s:o, s:o}", "sn", home->sn, "state", shown.tampered ? "tampered" : "ready",
            "public_key", shown.tampered ? json_null() : output_key_json(&shown.tkp_pu), "tmk",
            shown.has_tmk ? output_tmk_json(&shown.tmk) : json_null()));
    printf("SN   %s\n", home->sn);
    if (shown.tampered)
        puts("TKP  destroyed: the case was opened");
    else
        printf("TKP  rsa:%u SHA-256 %s\n", shown.tkp_pu.bits,
               hex_encode(shown.tkp_pu.sha256, sizeof(shown.tkp_pu.sha256), sha256));
    printf("TMK  %s\n", shown.has_tmk ? output_tmk_text(&shown.tmk, tmk) : "none");
    return 0;
}

/* --- tamper --- */

static int tamper(const struct home *home, const struct options *options)
{
    int rc = pkcs11_module_tamper(home->session);

    if (rc < 0)
        return rc;
    if (options->json)
        return output_json(json_pack("{s:s, s:[s, s, s]}", "sn", home->sn, "destroyed", "TKP_Pr",
                                     "TMK", "TKP_Pu"));
    printf("%s: TKP and the TMK are destroyed; tmkpos init makes a new terminal\n", home->sn);
    return 0;
}

static int in_home(const struct options *options,
                   int (*command)(const struct home *home, const struct options *options))
{
    struct home *home = NULL;
    int rc = home_open(options->dir, &home);

    if (rc == 0)
        rc = command(home, options);
    home_close(home);
    return rc;
}

int command_export(const struct options *options)
{
    return in_home(options, export_key);
}

int command_show(const struct options *options)
{
    return in_home(options, show);
}

int command_tamper(const struct options *options)
{
    return in_home(options, tamper);
}
