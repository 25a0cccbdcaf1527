#include "home.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "common/fail.h"
#include "common/file.h"
#include "common/hex.h"

#define TOKEN_LABEL "tmkpos"
#define UNFINISHED  ".tmp-XXXXXX" /* what mkdtemp() makes of it is dropped when DIR is done */

enum { PIN_BYTES = 16, PIN_CHARS = 2 * PIN_BYTES, OPEN_FILES = 16 };

/* --- its files, each of one line --- */

static int join(const char *dir, const char *name, char ret_path[static PATH_MAX])
{
    if (snprintf(ret_path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
        return fail(FAIL_SYSTEM, "%s/%s: the path is too long", dir, name);
    return 0;
}

static int write_line(const char *dir, const char *name, const char *line)
{
    char path[PATH_MAX];
    char bytes[PATH_MAX + 1];
    int len = snprintf(bytes, sizeof(bytes), "%s\n", line);
    int rc = join(dir, name, path);

    if (rc == 0)
        rc = file_create(path, 0600, (const uint8_t *)bytes, (size_t)len);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return rc;
}

static int read_line(const char *dir, const char *name, char *ret_line, size_t size)
{
    char path[PATH_MAX];
    char bytes[PATH_MAX + 1];
    size_t len = 0;
    int rc = join(dir, name, path);

    if (rc == 0)
        rc = file_read(path, (uint8_t *)bytes, sizeof(bytes) - 1, &len);
    bytes[len] = '\0';
    bytes[strcspn(bytes, "\n")] = '\0';
    if (rc == FAIL_NOT_FOUND || (rc == 0 && strlen(bytes) >= size))
        rc = fail(FAIL_NOT_FOUND,
                  "%s is no terminal of tmkpos: it has no proper file '%s'; tmkpos "
                  "init makes one",
                  dir, name);
    if (rc == 0)
        strcpy(ret_line, bytes);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return rc;
}

static int write_softhsm_conf(const char *dir, const char *tokens_of)
{
    char text[PATH_MAX];
    char path[PATH_MAX];
    int len = snprintf(text, sizeof(text),
                       "directories.tokendir = %s/tokens\n"
                       "objectstore.backend = file\n"
                       "log.level = ERROR\n",
                       tokens_of);
    int rc = join(dir, "softhsm2.conf", path);

    if (rc < 0)
        return rc;
    if (len >= (int)sizeof(text))
        return fail(FAIL_SYSTEM, "%s: the path is too long", tokens_of);
    unlink(path);
    return file_create(path, 0600, (const uint8_t *)text, (size_t)len);
}

/* --- its token --- */

static int load_token(const char *dir, const char *module, struct token **ret_token)
{
    char conf[PATH_MAX];
    char setting[PATH_MAX + sizeof("SOFTHSM2_CONF=")];
    char *environment[] = {setting};
    int rc = join(dir, "softhsm2.conf", conf);

    if (rc < 0)
        return rc;
    snprintf(setting, sizeof(setting), "SOFTHSM2_CONF=%s", conf);
    return token_load(module, environment, 1, ret_token);
}

static int log_in(const char *dir, struct token *token, struct token_session **ret_session)
{
    char pin[TOKEN_PIN_MAX + 1];
    int rc = read_line(dir, "pin", pin, sizeof(pin));

    if (rc == 0)
        rc = token_login(token, pin);
    OPENSSL_cleanse(pin, sizeof(pin));
    return rc == 0 ? token_session_open(token, ret_session) : rc;
}

static int random_pin(char ret_pin[static PIN_CHARS + 1])
{
    uint8_t bytes[PIN_BYTES];

    if (RAND_priv_bytes(bytes, sizeof(bytes)) != 1)
        return fail_crypto("no random bytes for a PIN");
    hex_encode(bytes, sizeof(bytes), ret_pin);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return 0;
}

/* The SO PIN is used once and forgotten: nobody is to set another user PIN. */
static int make_token(const char *dir, struct token *token)
{
    char so_pin[PIN_CHARS + 1] = "";
    char pin[PIN_CHARS + 1] = "";
    int rc = random_pin(so_pin);

    if (rc == 0)
        rc = random_pin(pin);
    if (rc == 0)
        rc = token_initialise(token, TOKEN_LABEL, so_pin, pin);
    if (rc == 0)
        rc = write_line(dir, "pin", pin);
    OPENSSL_cleanse(so_pin, sizeof(so_pin));
    OPENSSL_cleanse(pin, sizeof(pin));
    return rc;
}

/* --- making one --- */

static int check_free(const char *dir)
{
    int entries = 0;
    DIR *stream = opendir(dir);

    if (!stream && errno == ENOENT)
        return 0;
    if (!stream)
        return fail_system("cannot make %s", dir);
    while (readdir(stream))
        entries++;
    closedir(stream);
    return entries <= 2 ? 0 /* . and .. */
                        : fail(FAIL_EXISTS, "%s is there already; choose another directory", dir);
}

static int make_files(const char *dir, const char *sn, const char *module)
{
    char tokens[PATH_MAX];
    int rc = join(dir, "tokens", tokens);

    if (rc == 0 && mkdir(tokens, 0700) < 0)
        rc = fail_system("cannot make %s", tokens);
    if (rc == 0)
        rc = write_line(dir, "sn", sn);
    if (rc == 0)
        rc = write_line(dir, "module", module);
    return rc == 0 ? write_softhsm_conf(dir, dir) : rc;
}

static int fill_token(const char *dir, const char *module, home_fill *fill, const void *context)
{
    struct token *token = NULL;
    struct token_session *session = NULL;
    int rc = load_token(dir, module, &token);

    if (rc == 0)
        rc = make_token(dir, token);
    if (rc == 0)
        rc = log_in(dir, token, &session);
    if (rc == 0)
        rc = fill(session, context);
    token_session_close(session);
    token_unload(token);
    return rc;
}

/* SoftHSM does not sync what it writes, so all of it goes to the disk before DIR gets its name. */
static int put_in_place(const char *unfinished, const char *dir)
{
    int rc = write_softhsm_conf(unfinished, dir);
    int fd = rc == 0 ? open(unfinished, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    if (rc < 0)
        return rc;
    if (fd < 0 || syncfs(fd) < 0 || rename(unfinished, dir) < 0)
        rc = fail_system("cannot put %s in its place", dir);
    else if (syncfs(fd) < 0)
        rc = fail_system("cannot write %s to the disk", dir);
    if (fd >= 0)
        close(fd);
    return rc;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status, (void)type, (void)where;
    return remove(path);
}

static void remove_tree(const char *dir)
{
    nftw(dir, remove_entry, OPEN_FILES, FTW_DEPTH | FTW_PHYS);
}

/* An empty directory beside DIR, as an absolute path, because SoftHSM's file names one. */
static int make_unfinished(const char *dir, char ret_path[static PATH_MAX])
{
    char made[PATH_MAX];
    int len = (int)strlen(dir);

    while (len > 1 && dir[len - 1] == '/')
        len--;
    if (snprintf(made, sizeof(made), "%.*s" UNFINISHED, len, dir) >= (int)sizeof(made))
        return fail(FAIL_SYSTEM, "%s: the path is too long", dir);
    if (!mkdtemp(made) || !realpath(made, ret_path))
        return fail_system("cannot make %s", made);
    return 0;
}

int home_create(const char *dir, const char *sn, const char *module, home_fill *fill,
                const void *context)
{
    char unfinished[PATH_MAX];
    char place[PATH_MAX];
    int rc = check_free(dir);

    if (rc == 0)
        rc = make_unfinished(dir, unfinished);
    if (rc < 0)
        return rc;
    strcpy(place, unfinished);
    place[strlen(place) - strlen(UNFINISHED)] = '\0';
    rc = make_files(unfinished, sn, module);
    if (rc == 0)
        rc = fill_token(unfinished, module, fill, context);
    if (rc == 0)
        rc = put_in_place(unfinished, place);
    if (rc < 0)
        remove_tree(unfinished);
    return rc;
}

/* --- using one --- */

static int lock(const char *dir, int *ret_fd)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return fail_system("cannot open %s; tmkpos init makes a terminal there", dir);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close(fd);
        return fail(FAIL_BUSY, "another tmkpos works in %s; try again when it is done", dir);
    }
    *ret_fd = fd;
    return 0;
}

static int open_token(const char *dir, struct home *home)
{
    char module[PATH_MAX];
    int rc = read_line(dir, "sn", home->sn, sizeof(home->sn));

    if (rc == 0)
        rc = read_line(dir, "module", module, sizeof(module));
    if (rc == 0)
        rc = load_token(dir, module, &home->token);
    if (rc == 0)
        rc = token_find(home->token, TOKEN_LABEL);
    return rc == 0 ? log_in(dir, home->token, &home->session) : rc;
}

int home_open(const char *dir, struct home **ret_home)
{
    struct home *home = calloc(1, sizeof(*home));

    if (!home)
        return fail(FAIL_MEMORY, "no memory to open %s", dir);
    home->lock = -1;
    int rc = lock(dir, &home->lock);
    if (rc == 0)
        rc = open_token(dir, home);
    if (rc == 0)
        *ret_home = home;
    else
        home_close(home);
    return rc;
}

void home_close(struct home *home)
{
    if (!home)
        return;
    token_session_close(home->session);
    token_unload(home->token);
    if (home->lock >= 0)
        close(home->lock);
    free(home);
}
