#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Before cmocka.h, which makes fail() a macro. */
#include "common/fail.h"
#include "db/audit.h"
#include "db/registry.h"
#include "db/statement.h" /* only for slip_in(), which no door leads to */

#include <cmocka.h>
#include <openssl/sha.h>
#include <sqlite3.h>

/* --- a directory and a registry for each test --- */

struct room {
    char directory[32];
    char path[64];
    struct registry *registry;
};

static void in_room(const struct room *room, const char *name, char ret_path[static 64])
{
    snprintf(ret_path, 64, "%s/%s", room->directory, name);
}

static int set_up(void **state)
{
    struct room *room = calloc(1, sizeof(*room));
    assert_non_null(room);
    strcpy(room->directory, "/tmp/test_db.XXXXXX");
    assert_non_null(mkdtemp(room->directory));
    in_room(room, "registry.db", room->path);
    assert_int_equal(registry_open(room->path, REGISTRY_CREATE, &room->registry), 0);
    *state = room;
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"registry.db",    "registry.db-wal", "registry.db-shm",
                                        "new.db",         "new.db-wal",      "new.db-shm",
                                        "new.db-journal", "aside.db"};
    struct room *room = *state;
    registry_close(room->registry);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[64];
        in_room(room, names[i], path);
        unlink(path);
    }
    assert_int_equal(rmdir(room->directory), 0);
    free(room);
    return 0;
}

static void assert_says(const char *words)
{
    if (!strstr(fail_text(), words))
        fail_msg("\"%s\" does not say \"%s\"", fail_text(), words);
}

/* A terminal whose TKP_Pu is `key` eight times: the registry does not look into it. */
static struct terminal make_terminal(const char *sn, uint8_t key)
{
    struct terminal terminal = {
        .spki_len = 294,
        .state = TERMINAL_ENABLED,
        .row_version = 1,
        .created = 1700000000,
        .changed = 1700000000,
        .store = TMK_STORE_KWP,
        .tmk = {.type = TMK_AES128, .version = 1, .kcv_len = 5, .kcv = {1, 2, 3, 4, 5}},
        .wrapped_len = 24,
    };
    strcpy(terminal.sn, sn);
    strcpy(terminal.batch, "B7");
    memset(terminal.spki, key, terminal.spki_len);
    SHA256(terminal.spki, terminal.spki_len, terminal.spki_sha256);
    memset(terminal.wrapped, 0x77, terminal.wrapped_len);
    memset(terminal.seal, 0x5e, SEAL_LEN);
    return terminal;
}

/* The TMK of make_terminal(), and those that follow it. */
static struct tmk_info tmk_of(uint32_t version)
{
    struct tmk_info tmk = make_terminal("SN1", 1).tmk;
    tmk.version = version;
    tmk.kcv[0] = (uint8_t)version;
    return tmk;
}

static void add(struct registry *registry, const struct terminal *terminal)
{
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(registry_add(registry, terminal), 0);
    assert_int_equal(registry_commit(registry), 0);
}

/* What somebody does with the sqlite3 shell. */
static void shell(const struct room *room, const char *sql)
{
    sqlite3 *db = NULL;
    char *error = NULL;
    assert_int_equal(sqlite3_open(room->path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
    sqlite3_close(db);
}

/* What somebody does who leaves no trace of how: types, checks and triggers are off while he is at
 * work, and then the schema is as it was. `aside` is a database of his own. */
static void edit(const struct room *room, const char *sql)
{
    static const char loosen[] =
        "PRAGMA ignore_check_constraints = ON;"
        "CREATE TEMP TABLE made AS SELECT * FROM main.sqlite_schema;"
        "PRAGMA writable_schema = ON;"
        "DELETE FROM main.sqlite_schema WHERE type = 'trigger';"
        "UPDATE main.sqlite_schema SET sql = replace(replace(sql, 'NOT NULL', ''), 'STRICT, ', '')"
        " WHERE type = 'table';"
        "UPDATE main.sqlite_schema SET sql = replace(sql, 'STRICT', '');"
        "PRAGMA writable_schema = RESET;";
    static const char restore[] = "PRAGMA writable_schema = ON;"
                                  "DELETE FROM main.sqlite_schema;"
                                  "INSERT INTO main.sqlite_schema SELECT * FROM made;";
    char path[64], all[4096];
    in_room(room, "aside.db", path);
    int len =
        snprintf(all, sizeof(all), "ATTACH '%s' AS aside; %s %s; %s", path, loosen, sql, restore);
    assert_in_range(len, 1, sizeof(all) - 1);
    shell(room, all);
}

static int64_t count_terminals(struct registry *registry)
{
    int64_t count = -1;
    assert_int_equal(registry_count(registry, &count), 0);
    return count;
}

/* While it holds, a file may not grow beyond so many bytes: what a full disk does to a write. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes == RLIM_INFINITY ? limit.rlim_max : bytes;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* --- opening --- */

static void test_a_new_registry_is_empty_and_private(void **state)
{
    struct room *room = *state;
    struct stat status;
    assert_int_equal(stat(room->path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(count_terminals(room->registry), 0);
}

static void test_its_log_is_private_too(void **state)
{
    struct room *room = *state;
    struct stat status;
    char wal[64];
    struct terminal terminal = make_terminal("SN1", 1);
    add(room->registry, &terminal);
    in_room(room, "registry.db-wal", wal);
    assert_int_equal(stat(wal, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
}

static void test_none_is_opened_where_none_is(void **state)
{
    struct room *room = *state;
    struct registry *registry = NULL;
    char path[64];
    in_room(room, "new.db", path);
    assert_int_equal(registry_open(path, REGISTRY_WRITE, &registry), FAIL_CONFIG);
    assert_says(path);
    assert_int_equal(registry_open(path, REGISTRY_READ, &registry), FAIL_CONFIG);
    assert_int_equal(access(path, F_OK), -1);
    fclose(fopen(path, "w"));
    assert_int_equal(registry_open(path, REGISTRY_WRITE, &registry), FAIL_CONFIG);
    assert_says("there is no registry");
    assert_null(registry);
}

static void test_opening_again_keeps_what_is_there(void **state)
{
    static const enum registry_mode modes[] = {REGISTRY_READ, REGISTRY_WRITE, REGISTRY_CREATE};
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1);
    add(room->registry, &terminal);
    for (size_t i = 0; i < 3; i++) {
        struct registry *registry = NULL;
        assert_int_equal(registry_open(room->path, modes[i], &registry), 0);
        assert_int_equal(count_terminals(registry), 1);
        registry_close(registry);
    }
}

static void test_a_newer_schema_is_refused(void **state)
{
    struct room *room = *state;
    struct registry *registry = NULL;
    shell(room, "PRAGMA user_version = 99");
    for (int mode = REGISTRY_READ; mode <= REGISTRY_CREATE; mode++) {
        assert_int_equal(registry_open(room->path, (enum registry_mode)mode, &registry),
                         FAIL_CONFIG);
        assert_says("schema 99");
        assert_says(room->path);
    }
    shell(room, "PRAGMA user_version = 1");
}

static void test_the_database_of_another_is_left_alone(void **state)
{
    struct room *room = *state;
    struct registry *registry = NULL;
    struct room other = *room;
    char wal[64];
    in_room(room, "new.db", other.path);
    in_room(room, "new.db-wal", wal);
    shell(&other, "CREATE TABLE letters (text)");
    assert_int_equal(registry_open(other.path, REGISTRY_CREATE, &registry), FAIL_CONFIG);
    assert_says("not a registry");
    shell(&other, "INSERT INTO letters VALUES ('a')");
    assert_int_equal(access(wal, F_OK), -1);
}

static void test_a_file_that_is_no_database(void **state)
{
    struct room *room = *state;
    struct registry *registry = NULL;
    char path[64];
    in_room(room, "new.db", path);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 1000; i++)
        fputs("not a database\n", file);
    fclose(file);
    assert_int_equal(registry_open(path, REGISTRY_CREATE, &registry), FAIL_REGISTRY);
    assert_says(path);
    assert_says("not a database");
}

/* Wherever the creation ends, the next look finds no registry and the next creation makes one. */
static void test_an_interrupted_creation_leaves_none(void **state)
{
    struct room *room = *state;
    struct registry *registry = NULL;
    char path[64];
    int rc = FAIL_REGISTRY, interrupted = 0;
    in_room(room, "new.db", path);
    for (rlim_t bytes = 4096; rc == FAIL_REGISTRY; bytes += 4096) {
        limit_files(bytes);
        rc = registry_open(path, REGISTRY_CREATE, &registry);
        limit_files(RLIM_INFINITY);
        if (rc == 0)
            break;
        interrupted++;
        assert_int_equal(registry_open(path, REGISTRY_WRITE, &registry), FAIL_CONFIG);
        assert_says("there is no registry");
    }
    assert_int_equal(rc, 0);
    assert_true(interrupted > 5);
    assert_int_equal(count_terminals(registry), 0);
    registry_close(registry);
}

static void test_a_reader_changes_nothing(void **state)
{
    struct room *room = *state;
    struct registry *reader = NULL;
    struct terminal terminal = make_terminal("SN1", 1);
    assert_int_equal(registry_open(room->path, REGISTRY_READ, &reader), 0);
    int rc = registry_begin(reader);
    if (rc == 0)
        rc = registry_add(reader, &terminal);
    assert_int_equal(rc, FAIL_REGISTRY);
    registry_close(reader);
    assert_int_equal(count_terminals(room->registry), 0);
}

/* Root may write whatever its mode: the files are nobody's, and so is this process for a while. */
static void be_nobody(const struct room *room)
{
    enum { NOBODY = 65534 };
    if (geteuid() != 0)
        return;
    assert_int_equal(chown(room->directory, NOBODY, NOBODY), 0);
    assert_int_equal(chown(room->path, NOBODY, NOBODY), 0);
    assert_int_equal(seteuid(NOBODY), 0);
}

static void be_oneself(void)
{
    assert_int_equal(seteuid(getuid()), 0);
}

static void assert_not_writable(struct room *room)
{
    be_nobody(room);
    int rc = registry_open(room->path, REGISTRY_WRITE, &room->registry);
    be_oneself();
    assert_int_equal(rc, FAIL_CONFIG);
    assert_says(room->path);
    assert_says("cannot be written");
}

static void test_a_registry_that_cannot_be_written(void **state)
{
    struct room *room = *state;
    registry_close(room->registry);
    room->registry = NULL;
    assert_int_equal(chmod(room->path, 0400), 0);
    assert_not_writable(room);
    assert_int_equal(chmod(room->path, 0600), 0);
    assert_int_equal(chmod(room->directory, 0500), 0);
    assert_not_writable(room);
    assert_int_equal(chmod(room->directory, 0700), 0);
    be_nobody(room);
    int rc = registry_open(room->path, REGISTRY_WRITE, &room->registry);
    be_oneself();
    assert_int_equal(rc, 0);
}

/* Another user's registry is open: its log is there, and not this user's to write. */
static void test_a_log_that_cannot_be_written(void **state)
{
    static const char *const names[] = {"registry.db-wal", "registry.db-shm"};
    struct room *room = *state;
    struct room other = *room;
    struct terminal terminal = make_terminal("SN1", 1);
    add(room->registry, &terminal);
    for (size_t i = 0; i < 2; i++) {
        char path[64];
        in_room(room, names[i], path);
        assert_int_equal(chmod(path, 0400), 0);
        if (geteuid() == 0)
            assert_int_equal(chown(path, 65534, 65534), 0);
    }
    assert_not_writable(&other);
    assert_int_equal(count_terminals(room->registry), 1);
}

/* --- terminals --- */

static void test_a_terminal_is_found_as_it_was_added(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1), found;
    add(room->registry, &terminal);
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    terminal.status = DELIVERY_READY;
    assert_memory_equal(&found, &terminal, sizeof(found));
}

static void test_a_terminal_of_the_largest_fields(void **state)
{
    struct room *room = *state;
    char sn[SN_MAX + 1];
    memset(sn, '~', SN_MAX);
    sn[SN_MAX] = '\0';
    struct terminal terminal = make_terminal(sn, 1), found;
    memset(terminal.batch, 'b', BATCH_MAX);
    terminal.spki_len = SPKI_DER_MAX;
    memset(terminal.spki, 0xff, SPKI_DER_MAX);
    SHA256(terminal.spki, terminal.spki_len, terminal.spki_sha256);
    terminal.tmk.version = UINT32_MAX;
    terminal.wrapped_len = TMK_WRAPPED_MAX;
    memset(terminal.wrapped, 0xff, TMK_WRAPPED_MAX);
    add(room->registry, &terminal);
    assert_int_equal(registry_find(room->registry, sn, &found), 0);
    terminal.status = DELIVERY_READY;
    assert_memory_equal(&found, &terminal, sizeof(found));
}

static void test_a_terminal_without_a_tmk(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1), found;
    terminal.store = TMK_STORE_NONE;
    memset(&terminal.tmk, 0, sizeof(terminal.tmk));
    memset(terminal.wrapped, 0, sizeof(terminal.wrapped));
    terminal.wrapped_len = 0;
    add(room->registry, &terminal);
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    assert_memory_equal(&found, &terminal, sizeof(found));
    assert_int_equal(found.status, DELIVERY_NONE);
}

static void test_the_newest_tmk_is_found(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1), found;
    add(room->registry, &terminal);
    edit(room, "INSERT INTO tmk VALUES ('SN1', 3, 1, x'090909', 1, x'')");
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    assert_int_equal(found.tmk.version, 3);
    assert_int_equal(found.tmk.type, TMK_DES3);
    assert_int_equal(found.tmk.kcv_len, 3);
    assert_int_equal(found.store, TMK_STORE_TOKEN);
    assert_int_equal(found.wrapped_len, 0);
}

static void test_an_unknown_sn(void **state)
{
    struct room *room = *state;
    struct terminal found = make_terminal("untouched", 1), before = found;
    assert_int_equal(registry_find(room->registry, "SN1", &found), FAIL_NOT_FOUND);
    assert_says("SN1");
    assert_memory_equal(&found, &before, sizeof(found));
}

static void test_an_sn_is_taken_as_it_is(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1), found;
    add(room->registry, &terminal);
    assert_int_equal(registry_find(room->registry, "sn1", &found), FAIL_NOT_FOUND);
    assert_int_equal(registry_find(room->registry, "SN%", &found), FAIL_NOT_FOUND);
    assert_int_equal(registry_find(room->registry, "' OR 1 --", &found), FAIL_NOT_FOUND);
}

static void test_a_key_leads_to_its_sn(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1), other = make_terminal("SN2", 2);
    char sn[SN_MAX + 1];
    add(room->registry, &terminal);
    assert_int_equal(registry_find_key(room->registry, terminal.spki_sha256, sn), 0);
    assert_string_equal(sn, "SN1");
    assert_int_equal(registry_find_key(room->registry, other.spki_sha256, sn), FAIL_NOT_FOUND);
}

static void test_an_sn_or_a_key_is_registered_once(void **state)
{
    struct room *room = *state;
    struct terminal first = make_terminal("SN1", 1), same_sn = make_terminal("SN1", 2),
                    same_key = make_terminal("SN2", 1);
    add(room->registry, &first);
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(registry_add(room->registry, &first), FAIL_EXISTS);
    assert_says("terminal SN1 is registered already");
    assert_int_equal(registry_add(room->registry, &same_sn), FAIL_EXISTS);
    assert_says("terminal SN1 is registered already");
    assert_int_equal(registry_add(room->registry, &same_key), FAIL_EXISTS);
    assert_says("the public key of SN2 is that of terminal SN1 already");
    assert_int_equal(registry_commit(room->registry), 0);
    assert_int_equal(count_terminals(room->registry), 1);
}

static void refuse_to_add(struct room *room, const struct terminal *terminal)
{
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(registry_add(room->registry, terminal), FAIL_REGISTRY);
    assert_says(room->path);
    registry_rollback(room->registry);
}

static void test_what_no_terminal_has_is_not_added(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN 1", 1);
    refuse_to_add(room, &terminal);
    terminal = make_terminal("", 1);
    refuse_to_add(room, &terminal);
    terminal = make_terminal("SN1", 1);
    terminal.spki_len = 0;
    refuse_to_add(room, &terminal);
    terminal = make_terminal("SN1", 1);
    terminal.tmk.kcv_len = 3; /* of an AES key */
    refuse_to_add(room, &terminal);
    terminal = make_terminal("SN1", 1);
    terminal.wrapped_len = 0;
    refuse_to_add(room, &terminal);
    terminal = make_terminal("SN1", 1);
    terminal.row_version = 0;
    refuse_to_add(room, &terminal);
    assert_int_equal(count_terminals(room->registry), 0);
}

static int disable(struct registry *registry, struct terminal *terminal)
{
    terminal->state = TERMINAL_DISABLED;
    terminal->row_version++;
    terminal->changed = 1700000099;
    memset(terminal->seal, 0xaa, SEAL_LEN);
    strcpy(terminal->batch, "B8");
    return registry_update(registry, terminal);
}

static void test_an_update_is_kept(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1), other = make_terminal("SN2", 2), found;
    add(room->registry, &terminal);
    add(room->registry, &other);
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(disable(room->registry, &terminal), 0);
    assert_int_equal(registry_commit(room->registry), 0);

    terminal.status = other.status = DELIVERY_READY;
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    assert_memory_equal(&found, &terminal, sizeof(found));
    assert_int_equal(registry_find(room->registry, "SN2", &found), 0);
    assert_memory_equal(&found, &other, sizeof(found));
}

static void test_the_second_of_two_updates_is_told(void **state)
{
    struct room *room = *state;
    struct terminal mine = make_terminal("SN1", 1), theirs;
    add(room->registry, &mine);
    assert_int_equal(registry_find(room->registry, "SN1", &theirs), 0);
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(disable(room->registry, &theirs), 0);
    assert_int_equal(disable(room->registry, &mine), FAIL_BUSY);
    assert_says("SN1");
    registry_rollback(room->registry);
}

struct list {
    size_t count, stop_at;
    char sn[8][SN_MAX + 1];
};

static int note_sn(void *context, const struct terminal *terminal)
{
    struct list *list = context;
    strcpy(list->sn[list->count++], terminal->sn);
    return list->count == list->stop_at ? 42 : 0;
}

static void test_a_list_by_pages(void **state)
{
    struct room *room = *state;
    struct list list = {0}, stopped = {.stop_at = 2};
    static const char *const names[] = {"SN3", "SN1", "SN5", "SN4", "SN2"};
    for (uint8_t i = 0; i < 5; i++) {
        struct terminal terminal = make_terminal(names[i], i);
        add(room->registry, &terminal);
    }
    assert_int_equal(registry_list(room->registry, "", 2, note_sn, &list), 0);
    assert_int_equal(registry_list(room->registry, "SN2", 2, note_sn, &list), 0);
    assert_int_equal(registry_list(room->registry, "SN4", 2, note_sn, &list), 0);
    assert_int_equal(registry_list(room->registry, "SN5", 2, note_sn, &list), 0);
    assert_int_equal(list.count, 5);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(list.sn[i][2], '1' + (int)i);
    assert_int_equal(registry_list(room->registry, "", SIZE_MAX, note_sn, &stopped), 42);
    assert_int_equal(stopped.count, 2);
    assert_int_equal(count_terminals(room->registry), 5);
}

/* --- rows edited with other tools --- */

static int note_damaged(void *context, const struct terminal *terminal)
{
    (void)context;
    assert_string_equal(terminal->sn, "SN1");
    assert_string_equal(terminal_state_name(terminal->state), "damaged");
    return 0;
}

static void test_impossible_values_are_a_broken_seal(void **state)
{
    struct room *room = *state;
    static const struct {
        const char *sql, *says;
    } edits[] = {
        {"UPDATE terminal SET spki = zeroblob(100000)", "spki"},
        {"UPDATE terminal SET spki = x''", "spki"},
        {"UPDATE terminal SET spki = NULL", "spki"},
        {"UPDATE terminal SET spki = 'text'", "spki"},
        {"UPDATE terminal SET spki = x'0102'", "spki_sha256"},
        {"UPDATE terminal SET spki_sha256 = zeroblob(32)", "spki_sha256"},
        {"UPDATE terminal SET spki_sha256 = zeroblob(33)", "spki_sha256"},
        {"UPDATE terminal SET state = -1", "state"},
        {"UPDATE terminal SET state = 2", "state"},
        {"UPDATE terminal SET state = 4294967297", "state"},
        {"UPDATE terminal SET state = 'one'", "state"},
        {"UPDATE terminal SET state = 0.5", "state"},
        {"UPDATE terminal SET batch = NULL", "batch"},
        {"UPDATE terminal SET batch = hex(zeroblob(33))", "batch"},
        {"UPDATE terminal SET batch = 'a' || char(0) || 'b'", "batch"},
        {"UPDATE terminal SET row_version = 0", "row_version"},
        {"UPDATE terminal SET row_version = -9223372036854775808", "row_version"},
        {"UPDATE terminal SET row_version = 9223372036854775807", "row_version"},
        {"UPDATE terminal SET created = -1", "created"},
        {"UPDATE terminal SET changed = NULL", "changed"},
        {"UPDATE terminal SET seal = x'00'", "seal"},
        {"UPDATE terminal SET seal = NULL", "seal"},
        {"UPDATE tmk SET version = 0", "version"},
        {"UPDATE tmk SET version = 4294967296", "version"},
        {"UPDATE tmk SET type = 5", "type"},
        {"UPDATE tmk SET type = -1", "type"},
        {"UPDATE tmk SET type = 0", "kcv"}, /* five bytes are none of TDEA */
        {"UPDATE tmk SET kcv = zeroblob(6)", "kcv"},
        {"UPDATE tmk SET kcv = NULL", "kcv"},
        {"UPDATE tmk SET store = 0", "store"},
        {"UPDATE tmk SET store = 4", "store"},
        {"UPDATE tmk SET store = NULL", "store"},
        {"UPDATE tmk SET store = 1", "wrapped"},
        {"UPDATE tmk SET wrapped = zeroblob(49)", "wrapped"},
        {"UPDATE tmk SET wrapped = x''", "wrapped"},
        {"UPDATE delivery SET delivered_at = -1", "delivered_at"},
        {"UPDATE delivery SET delivered_count = 0", "delivered_count"},
        {"UPDATE delivery SET delivered_count = NULL", "delivered_count"},
        {"UPDATE delivery SET confirmed_at = -1", "confirmed_at"},
        {"UPDATE delivery SET confirmed_at = 'never'", "confirmed_at"},
    };
    struct terminal terminal = make_terminal("SN1", 1), found;
    add(room->registry, &terminal);
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(registry_delivered(room->registry, "SN1", 1, &terminal.tmk, 1700000001, 0), 0);
    assert_int_equal(registry_commit(room->registry), 0);
    edit(room, "CREATE TABLE aside.t AS SELECT * FROM terminal;"
               "CREATE TABLE aside.k AS SELECT * FROM tmk;"
               "CREATE TABLE aside.d AS SELECT * FROM delivery");
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        edit(room, edits[i].sql);
        /* A delivery hangs on the version of its TMK. */
        edit(room, "UPDATE delivery SET version = (SELECT version FROM tmk)");
        if (registry_find(room->registry, "SN1", &found) != FAIL_SEAL)
            fail_msg("not noticed: %s", edits[i].sql);
        assert_says(edits[i].says);
        assert_says("SN1");
        assert_int_equal(registry_list(room->registry, "", 9, note_damaged, NULL), 0);
        edit(room, "DELETE FROM terminal; INSERT INTO terminal SELECT * FROM t;"
                   "DELETE FROM tmk; INSERT INTO tmk SELECT * FROM k;"
                   "DELETE FROM delivery; INSERT INTO delivery SELECT * FROM d");
        assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    }
}

static void test_an_impossible_sn_is_a_broken_seal(void **state)
{
    static const char *const edits[] = {
        "UPDATE terminal SET sn = hex(zeroblob(33))",
        "UPDATE terminal SET sn = 'SN 1'",
        "UPDATE terminal SET sn = ''",
        "UPDATE terminal SET sn = 'SN' || char(0)",
        "UPDATE terminal SET sn = x'534e31'",
    };
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1);
    char sn[SN_MAX + 1];
    add(room->registry, &terminal);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        edit(room, edits[i]);
        assert_int_equal(registry_find_key(room->registry, terminal.spki_sha256, sn), FAIL_SEAL);
    }
}

/* --- transactions --- */

static void test_a_rollback_leaves_nothing(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1);
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(registry_add(room->registry, &terminal), 0);
    registry_rollback(room->registry);
    assert_int_equal(count_terminals(room->registry), 0);
    registry_rollback(room->registry); /* of nothing, harmless */
    add(room->registry, &terminal);
}

static void test_a_part_is_undone_alone(void **state)
{
    struct room *room = *state;
    struct terminal terminals[] = {make_terminal("SN1", 1), make_terminal("SN2", 2),
                                   make_terminal("SN3", 3)};
    struct terminal found;
    terminals[1].store = TMK_STORE_TOKEN; /* with wrapped bytes: its TMK row is refused */
    assert_int_equal(registry_begin(room->registry), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(registry_part_begin(room->registry), 0);
        int rc = registry_add(room->registry, &terminals[i]);
        assert_int_equal(rc, i == 1 ? FAIL_REGISTRY : 0);
        if (rc)
            registry_part_undo(room->registry);
        else
            assert_int_equal(registry_part_keep(room->registry), 0);
    }
    assert_int_equal(registry_commit(room->registry), 0);
    assert_int_equal(count_terminals(room->registry), 2);
    assert_int_equal(registry_find(room->registry, "SN2", &found), FAIL_NOT_FOUND);
}

static void test_nothing_changes_outside_a_transaction(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1);
    struct audit_record record = {.at = 1, .event = "added"};
    assert_int_equal(registry_add(room->registry, &terminal), FAIL_REGISTRY);
    assert_int_equal(registry_part_begin(room->registry), FAIL_REGISTRY);
    assert_int_equal(registry_part_keep(room->registry), FAIL_REGISTRY);
    assert_int_equal(registry_commit(room->registry), FAIL_REGISTRY);
    assert_int_equal(audit_append(room->registry, &record), FAIL_REGISTRY);
    assert_int_equal(count_terminals(room->registry), 0);
    add(room->registry, &terminal);
    assert_int_equal(registry_update(room->registry, &terminal), FAIL_REGISTRY);
    assert_int_equal(registry_delivered(room->registry, "SN1", 1, &terminal.tmk, 1, 0),
                     FAIL_REGISTRY);
    assert_int_equal(registry_confirmed(room->registry, "SN1", &terminal.tmk, 1), FAIL_REGISTRY);
    assert_int_equal(registry_reopen(room->registry, "SN1"), FAIL_REGISTRY);
    terminal.row_version = terminal.tmk.version = 2;
    assert_int_equal(registry_rotate(room->registry, &terminal), FAIL_REGISTRY);
    assert_int_equal(registry_retire(room->registry, "SN1", 2), FAIL_REGISTRY);
    assert_int_equal(registry_remove(room->registry, "SN1"), FAIL_REGISTRY);
    assert_int_equal(registry_find(room->registry, "SN1", &terminal), 0);
    assert_int_equal(terminal.tmk.version, 1);
}

static void test_a_reader_beside_a_writer(void **state)
{
    struct room *room = *state;
    struct registry *reader = NULL;
    struct terminal terminal = make_terminal("SN1", 1), found;
    assert_int_equal(registry_open(room->path, REGISTRY_READ, &reader), 0);
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(registry_add(room->registry, &terminal), 0);
    assert_int_equal(registry_find(reader, "SN1", &found), FAIL_NOT_FOUND);
    assert_int_equal(registry_commit(room->registry), 0);
    assert_int_equal(registry_find(reader, "SN1", &found), 0);
    registry_close(reader);
}

static void test_a_second_writer_waits_and_is_told(void **state)
{
    struct room *room = *state;
    struct registry *second = NULL;
    assert_int_equal(registry_open(room->path, REGISTRY_WRITE, &second), 0);
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(registry_begin(second), FAIL_BUSY);
    assert_says(room->path);
    registry_rollback(room->registry);
    assert_int_equal(registry_begin(second), 0);
    registry_close(second);
}

static void test_a_full_disk(void **state)
{
    struct room *room = *state;
    struct terminal first = make_terminal("SN0", 0), terminal, found;
    char sn[16];
    add(room->registry, &first);
    limit_files(65536);
    assert_int_equal(registry_begin(room->registry), 0);
    int rc = 0;
    for (int i = 1; rc == 0 && i < 250; i++) {
        snprintf(sn, sizeof(sn), "SN%d", i);
        terminal = make_terminal(sn, (uint8_t)i);
        rc = registry_add(room->registry, &terminal);
    }
    if (rc == 0)
        rc = registry_commit(room->registry);
    else
        assert_int_equal(registry_commit(room->registry), FAIL_REGISTRY);
    limit_files(RLIM_INFINITY);
    assert_int_equal(rc, FAIL_REGISTRY);
    assert_says(room->path);

    assert_int_equal(count_terminals(room->registry), 1);
    assert_int_equal(registry_find(room->registry, "SN0", &found), 0);
    terminal = make_terminal("SN1", 1);
    add(room->registry, &terminal);
}

/* --- deliveries --- */

static int deliver(struct registry *registry, int64_t row_version, uint32_t version, int64_t now,
                   int again)
{
    assert_int_equal(registry_begin(registry), 0);
    struct tmk_info tmk = tmk_of(version);
    int rc = registry_delivered(registry, "SN1", row_version, &tmk, now, again);
    assert_int_equal(registry_commit(registry), 0);
    return rc;
}

static int confirm(struct registry *registry, uint32_t version, int64_t now)
{
    assert_int_equal(registry_begin(registry), 0);
    struct tmk_info tmk = tmk_of(version);
    int rc = registry_confirmed(registry, "SN1", &tmk, now);
    assert_int_equal(registry_commit(registry), 0);
    return rc;
}

static int reopen(struct registry *registry, const char *sn)
{
    assert_int_equal(registry_begin(registry), 0);
    int rc = registry_reopen(registry, sn);
    assert_int_equal(registry_commit(registry), 0);
    return rc;
}

static void assert_delivery(struct registry *registry, enum delivery_status status,
                            int64_t delivered_at, int64_t delivered_count, int64_t confirmed_at)
{
    struct terminal found;
    assert_int_equal(registry_find(registry, "SN1", &found), 0);
    assert_int_equal(found.status, status);
    assert_int_equal(found.delivered_at, delivered_at);
    assert_int_equal(found.delivered_count, delivered_count);
    assert_int_equal(found.confirmed_at, confirmed_at);
}

static void test_delivered_until_confirmed(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1);
    add(registry, &terminal);
    assert_delivery(registry, DELIVERY_READY, 0, 0, 0);
    assert_int_equal(confirm(registry, 1, 99), FAIL_NOT_FOUND);
    assert_int_equal(deliver(registry, 1, 1, 100, 0), 0);
    assert_delivery(registry, DELIVERY_DELIVERED, 100, 1, 0);
    assert_int_equal(deliver(registry, 1, 1, 101, 0), 0);
    assert_delivery(registry, DELIVERY_DELIVERED, 101, 2, 0);
    assert_int_equal(confirm(registry, 1, 102), 0);
    assert_delivery(registry, DELIVERY_CONFIRMED, 101, 2, 102);
    assert_int_equal(deliver(registry, 1, 1, 103, 0), FAIL_REFUSED);
    assert_says("SN1");
    assert_delivery(registry, DELIVERY_CONFIRMED, 101, 2, 102);
}

static void test_delivered_always(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1);
    add(registry, &terminal);
    assert_int_equal(deliver(registry, 1, 1, 100, 1), 0);
    assert_int_equal(confirm(registry, 1, 101), 0);
    assert_int_equal(deliver(registry, 1, 1, 102, 1), 0);
    assert_delivery(registry, DELIVERY_CONFIRMED, 102, 2, 101);
}

static void test_delivered_after_reopen(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1);
    add(registry, &terminal);
    assert_int_equal(reopen(registry, "SN1"), 0);
    assert_int_equal(deliver(registry, 1, 1, 100, 0), 0);
    assert_int_equal(confirm(registry, 1, 101), 0);
    assert_int_equal(reopen(registry, "SN1"), 0);
    assert_delivery(registry, DELIVERY_DELIVERED, 100, 1, 0);
    assert_int_equal(deliver(registry, 1, 1, 102, 0), 0);
    assert_delivery(registry, DELIVERY_DELIVERED, 102, 2, 0);
}

static void test_reopen_wants_a_tmk(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1);
    terminal.store = TMK_STORE_NONE;
    add(registry, &terminal);
    assert_int_equal(reopen(registry, "SN1"), FAIL_NOT_FOUND);
    assert_says("no TMK");
    assert_int_equal(reopen(registry, "SN2"), FAIL_NOT_FOUND);
}

static void test_not_delivered_when_changed_meanwhile(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1);
    add(registry, &terminal);
    assert_int_equal(deliver(registry, 2, 1, 100, 1), FAIL_REFUSED);
    assert_int_equal(deliver(registry, 1, 2, 100, 1), FAIL_REFUSED);
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(disable(registry, &terminal), 0);
    assert_int_equal(registry_commit(registry), 0);
    assert_int_equal(deliver(registry, 1, 1, 100, 1), FAIL_REFUSED);
    assert_int_equal(deliver(registry, 2, 1, 100, 1), FAIL_REFUSED); /* disabled */
    assert_delivery(registry, DELIVERY_READY, 0, 0, 0);
}

/* The SN was removed and added again meanwhile: of that version, but another TMK. */
static void test_another_tmk_of_that_version(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1);
    terminal.tmk.kcv[4] ^= 1;
    add(registry, &terminal);
    assert_int_equal(deliver(registry, 1, 1, 100, 0), FAIL_REFUSED);
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(registry_delivered(registry, "SN1", 1, &terminal.tmk, 101, 0), 0);
    assert_int_equal(registry_commit(registry), 0);
    assert_int_equal(confirm(registry, 1, 102), FAIL_NOT_FOUND);
    assert_delivery(registry, DELIVERY_DELIVERED, 101, 1, 0);
}

/* --- the bytes of a seal --- */

static void test_seal_input_is_as_documented(void **state)
{
    (void)state;
    static const uint8_t expected[] = {
        'T', 'M', 'K', 'D', '-', 'S', 'E', 'A', 'L', 1, /* label */
        0,   2,   'S', '1',                             /* sn */
        0,   3,   7,   7,   7,                          /* spki */
        0,   1,   1,                                    /* state */
        0,   1,   'B',                                  /* batch */
        0,   8,   0,   0,   0,   0,   0,   0,   1,   2, /* row_version */
        0,   1,   3,                                    /* store */
        0,   1,   2,                                    /* type */
        0,   4,   0,   0,   3,   4,                     /* version */
        0,   5,   1,   2,   3,   4,   5,                /* kcv */
        0,   2,   8,   9,                               /* wrapped */
    };
    struct terminal terminal = make_terminal("S1", 7);
    uint8_t bytes[SEAL_INPUT_MAX];
    terminal.spki_len = 3;
    strcpy(terminal.batch, "B");
    terminal.row_version = 0x102;
    terminal.tmk.version = 0x304;
    terminal.wrapped_len = 2;
    terminal.wrapped[0] = 8;
    terminal.wrapped[1] = 9;
    assert_int_equal(registry_seal_input(&terminal, bytes), sizeof(expected));
    assert_memory_equal(bytes, expected, sizeof(expected));
    terminal.store = TMK_STORE_NONE;
    assert_int_equal(registry_seal_input(&terminal, bytes), sizeof(expected) - 20);
}

static int same_seal_input(const struct terminal *one, const struct terminal *other)
{
    uint8_t bytes[SEAL_INPUT_MAX], others[SEAL_INPUT_MAX];
    size_t len = registry_seal_input(one, bytes);
    return registry_seal_input(other, others) == len && memcmp(bytes, others, len) == 0;
}

static void test_seal_input_covers_what_decides(void **state)
{
    (void)state;
    const struct terminal terminal = make_terminal("SN1", 1);
    struct terminal changed[12];
    for (size_t i = 0; i < 12; i++)
        changed[i] = terminal;
    changed[0].sn[0] = 's';
    changed[1].spki[293] ^= 1;
    changed[2].spki_len--;
    changed[3].state = TERMINAL_DISABLED;
    changed[4].batch[0] = 'b';
    changed[5].row_version = 2;
    changed[6].store = TMK_STORE_KW;
    changed[7].tmk.type = TMK_AES256;
    changed[8].tmk.version = 2;
    changed[9].tmk.kcv[4] ^= 1;
    changed[10].wrapped[23] ^= 1;
    changed[11].store = TMK_STORE_NONE;
    for (size_t i = 0; i < 12; i++) {
        if (same_seal_input(&terminal, &changed[i]))
            fail_msg("change %zu gives the same bytes", i);
    }
}

static void test_seal_input_leaves_out_what_happened(void **state)
{
    (void)state;
    const struct terminal terminal = make_terminal("SN1", 1);
    struct terminal later = terminal;
    later.created = later.changed = later.delivered_at = later.confirmed_at = 5;
    later.delivered_count = 5;
    later.status = DELIVERY_CONFIRMED;
    memset(later.seal, 9, SEAL_LEN);
    assert_true(same_seal_input(&terminal, &later));
}

/* A byte at the end of one field is not the same as that byte at the start of the next. */
static void test_seal_input_keeps_fields_apart(void **state)
{
    (void)state;
    struct terminal one = make_terminal("SNA", 'A'), other = make_terminal("SN", 'A');
    other.spki_len++;
    other.spki[other.spki_len - 1] = 'A';
    assert_false(same_seal_input(&one, &other));

    one = other = make_terminal("SN1", 1);
    memset(one.tmk.kcv, 0x77, KCV_MAX);
    memset(other.tmk.kcv, 0x77, KCV_MAX);
    other.tmk.kcv_len--;
    other.wrapped_len++;
    other.wrapped[other.wrapped_len - 1] = 0x77;
    assert_false(same_seal_input(&one, &other));
}

static void test_seal_input_at_its_largest(void **state)
{
    (void)state;
    struct terminal terminal = make_terminal("", 1);
    uint8_t bytes[SEAL_INPUT_MAX];
    memset(terminal.sn, 'S', SN_MAX);
    memset(terminal.batch, 'b', BATCH_MAX);
    terminal.spki_len = SPKI_DER_MAX;
    terminal.wrapped_len = TMK_WRAPPED_MAX;
    assert_in_range(registry_seal_input(&terminal, bytes), SPKI_DER_MAX, SEAL_INPUT_MAX);
}

/* --- the audit log --- */

/* Stands for the token's AUDIT key; the context is the key. */
static int seal_with(void *context, const uint8_t hash[static AUDIT_HASH_LEN],
                     uint8_t ret_seal[static SEAL_LEN])
{
    uint8_t input[AUDIT_HASH_LEN + 1];
    input[0] = *(const uint8_t *)context;
    memcpy(input + 1, hash, AUDIT_HASH_LEN);
    SHA256(input, sizeof(input), ret_seal);
    return 0;
}

static int seal_never(void *context, const uint8_t hash[static AUDIT_HASH_LEN],
                      uint8_t ret_seal[static SEAL_LEN])
{
    (void)context;
    (void)hash;
    memset(ret_seal, 0, SEAL_LEN);
    return FAIL_TOKEN;
}

static uint8_t our_key = 1, other_key = 2;

static void append(struct registry *registry, const char *event, const char *sn)
{
    struct audit_record record = {
        .at = 1700000000, .actor = "10.0.0.7:5021", .detail = "version 1"};
    strcpy(record.event, event);
    strcpy(record.sn, sn);
    assert_int_equal(audit_append(registry, &record), 0);
}

static void commit_sealed(struct registry *registry, void *key)
{
    assert_int_equal(audit_seal(registry, seal_with, key), 0);
    assert_int_equal(registry_commit(registry), 0);
}

/* Five records in three transactions: 1 2 | 3 | 4 5. */
static void write_log(struct registry *registry, void *key)
{
    assert_int_equal(registry_begin(registry), 0);
    append(registry, "added", "SN1");
    append(registry, "added", "SN2");
    commit_sealed(registry, key);
    assert_int_equal(registry_begin(registry), 0);
    append(registry, "delivered", "SN1");
    commit_sealed(registry, key);
    assert_int_equal(registry_begin(registry), 0);
    append(registry, "delivered", "SN2");
    append(registry, "confirmed", "SN1");
    commit_sealed(registry, key);
}

static int64_t verified(struct registry *registry)
{
    int64_t records = -1;
    assert_int_equal(audit_verify(registry, seal_with, &our_key, &records), 0);
    return records;
}

static void test_a_log_that_fits(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    assert_int_equal(verified(registry), 0);
    write_log(registry, &our_key);
    assert_int_equal(verified(registry), 5);
    write_log(registry, &our_key);
    assert_int_equal(verified(registry), 10);
}

static size_t put(uint8_t *bytes, size_t at, const void *field, size_t len)
{
    bytes[at] = (uint8_t)(len >> 8);
    bytes[at + 1] = (uint8_t)len;
    memcpy(bytes + at + 2, field, len);
    return at + 2 + len;
}

static void stored(struct room *room, const char *sql, uint8_t ret_bytes[static 32])
{
    sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    assert_int_equal(sqlite3_open(room->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    assert_int_equal(sqlite3_column_bytes(row, 0), 32);
    memcpy(ret_bytes, sqlite3_column_blob(row, 0), 32);
    sqlite3_finalize(row);
    sqlite3_close(db);
}

/* The layout of db/audit.c, computed here a second time. */
static void test_a_hash_covers_what_is_documented(void **state)
{
    static const struct {
        size_t hash_len, seal_len; /* of the record before */
        uint8_t seq;
        const char *event, *sn;
    } records[] = {
        {0, 0, 1, "added", "SN1"}, {32, 0, 2, "added", "SN2"}, {32, 32, 3, "delivered", "SN1"}};
    struct room *room = *state;
    uint8_t hash[32] = {0}, seal[32], expected[32], input[512] = "TMKD-AUDIT\x01";
    write_log(room->registry, &our_key);
    stored(room, "SELECT seal FROM audit_seal WHERE seq = 2", seal);
    for (size_t i = 0; i < 3; i++) {
        const uint8_t seq[8] = {[7] = records[i].seq};
        const uint8_t at[8] = {0, 0, 0, 0, 0x65, 0x53, 0xf1, 0x00}; /* 1700000000 */
        char sql[64];
        size_t len = put(input, 11, hash, records[i].hash_len);
        len = put(input, len, seal, records[i].seal_len);
        len = put(input, len, seq, sizeof(seq));
        len = put(input, len, at, sizeof(at));
        len = put(input, len, records[i].event, strlen(records[i].event));
        len = put(input, len, records[i].sn, strlen(records[i].sn));
        len = put(input, len, "10.0.0.7:5021", 13);
        len = put(input, len, "version 1", 9);
        SHA256(input, len, expected);
        snprintf(sql, sizeof(sql), "SELECT hash FROM audit WHERE seq = %zu", i + 1);
        stored(room, sql, hash);
        assert_memory_equal(hash, expected, 32);
    }
    seal_with(&our_key, hash, expected);
    stored(room, "SELECT seal FROM audit_seal WHERE seq = 3", seal);
    assert_memory_equal(seal, expected, 32);
}

static void test_each_tampering_is_noticed(void **state)
{
    static const char *const edits[] = {
        "UPDATE audit SET at = at + 1 WHERE seq = 2",
        "UPDATE audit SET event = 'refused' WHERE seq = 2",
        "UPDATE audit SET sn = 'SN9' WHERE seq = 3",
        "UPDATE audit SET actor = '' WHERE seq = 4",
        "UPDATE audit SET detail = 'version 2' WHERE seq = 5",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = 1",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = 5",
        "UPDATE audit SET sn = 'SN1v', actor = substr(actor, 2) WHERE seq = 5",
        "UPDATE audit SET event = hex(zeroblob(99)) WHERE seq = 5",
        "UPDATE audit SET detail = hex(zeroblob(99999)) WHERE seq = 5",
        "UPDATE audit SET seq = 6 WHERE seq = 5; UPDATE audit_seal SET seq = 6 WHERE seq = 5",
        "UPDATE audit SET seq = 0 WHERE seq = 1",
        "UPDATE audit SET seq = -1 WHERE seq = 1",
        "DELETE FROM audit WHERE seq = 1",
        "DELETE FROM audit WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 3; DELETE FROM audit_seal WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 5; DELETE FROM audit_seal WHERE seq = 5",
        "DELETE FROM audit WHERE seq > 3",
        "DELETE FROM audit",
        "UPDATE audit SET seq = 9 WHERE seq = 1; UPDATE audit SET seq = 1 WHERE seq = 2;"
        "UPDATE audit SET seq = 2 WHERE seq = 9",
        "INSERT INTO audit VALUES (6, 1, 'added', '', '', '', zeroblob(32))",
        "INSERT INTO audit SELECT 6, at, event, sn, actor, detail, hash FROM audit WHERE seq = 5;"
        "INSERT INTO audit_seal SELECT 6, seal FROM audit_seal WHERE seq = 5",
        "DELETE FROM audit_seal WHERE seq = 2",
        "DELETE FROM audit_seal WHERE seq = 5",
        "DELETE FROM audit_seal",
        "UPDATE audit_seal SET seal = zeroblob(32) WHERE seq = 2",
        "UPDATE audit_seal SET seal = zeroblob(32) WHERE seq = 5",
        "UPDATE audit_seal SET seal = zeroblob(31) WHERE seq = 5",
        "INSERT INTO audit_seal VALUES (1, zeroblob(32))",
        "INSERT INTO audit_seal VALUES (99, zeroblob(32))",
    };
    struct room *room = *state;
    int64_t records = -1;
    write_log(room->registry, &our_key);
    edit(room, "CREATE TABLE aside.a AS SELECT * FROM audit;"
               "CREATE TABLE aside.s AS SELECT * FROM audit_seal");
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        edit(room, edits[i]);
        if (audit_verify(room->registry, seal_with, &our_key, &records) != FAIL_SEAL)
            fail_msg("not noticed: %s", edits[i]);
        assert_says("audit record ");
        edit(room, "DELETE FROM audit_seal; DELETE FROM audit;"
                   "INSERT INTO audit SELECT * FROM a; INSERT INTO audit_seal SELECT * FROM s");
        assert_int_equal(verified(room->registry), 5);
    }
    assert_int_equal(records, -1);
}

static void test_a_log_written_anew_without_the_key_is_noticed(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    int64_t records = -1;
    write_log(registry, &other_key);
    assert_int_equal(audit_verify(registry, seal_with, &our_key, &records), FAIL_SEAL);
    assert_says("audit record 2: its seal");
}

static void test_a_slip_in_the_shell_is_refused(void **state)
{
    static const char *const slips[] = {
        "UPDATE audit SET at = 1",
        "DELETE FROM audit",
        "REPLACE INTO audit VALUES (5, 1, 'added', '', '', '', zeroblob(32))",
        "INSERT INTO audit VALUES (7, 1, 'added', '', '', '', zeroblob(32))",
        "UPDATE audit_seal SET seal = zeroblob(32)",
        "DELETE FROM audit_seal",
        "REPLACE INTO audit_seal VALUES (5, zeroblob(32))",
        "INSERT INTO audit_seal VALUES (4, zeroblob(32))",
        "UPDATE terminal SET state = 2",
        "UPDATE terminal SET spki = 'text'",
    };
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1);
    sqlite3 *db = NULL;
    add(room->registry, &terminal);
    write_log(room->registry, &our_key);
    assert_int_equal(sqlite3_open(room->path, &db), SQLITE_OK);
    for (size_t i = 0; i < sizeof(slips) / sizeof(slips[0]); i++)
        assert_int_equal(sqlite3_exec(db, slips[i], NULL, NULL, NULL), SQLITE_CONSTRAINT);
    sqlite3_close(db);
    assert_int_equal(verified(room->registry), 5);
}

static void test_unsealed_records_are_not_committed(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1);
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(registry_add(registry, &terminal), 0);
    append(registry, "added", "SN1");
    assert_int_equal(audit_seal(registry, seal_never, NULL), FAIL_TOKEN);
    assert_int_equal(registry_commit(registry), FAIL_REGISTRY);
    assert_says("not sealed");
    assert_int_equal(count_terminals(registry), 0);
    assert_int_equal(verified(registry), 0);
    write_log(registry, &our_key);
    assert_int_equal(verified(registry), 5);
}

static void test_records_of_a_part_go_with_it(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    write_log(registry, &our_key);
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(registry_part_begin(registry), 0);
    append(registry, "added", "SN3");
    registry_part_undo(registry);
    commit_sealed(registry, &our_key);
    assert_int_equal(verified(registry), 5);
    write_log(registry, &our_key);
    assert_int_equal(verified(registry), 10);
}

static void test_two_writers_make_one_log(void **state)
{
    struct room *room = *state;
    struct registry *second = NULL;
    assert_int_equal(registry_open(room->path, REGISTRY_WRITE, &second), 0);
    for (int i = 0; i < 3; i++) {
        write_log(room->registry, &our_key);
        write_log(second, &our_key);
    }
    assert_int_equal(verified(second), 30);
    registry_close(second);
}

struct record_list {
    size_t count, stop_at;
    struct audit_record records[16];
};

static int note_record(void *context, const struct audit_record *record)
{
    struct record_list *list = context;
    list->records[list->count++] = *record;
    return list->count == list->stop_at ? 42 : 0;
}

static void test_the_log_by_pages(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct record_list list = {0}, stopped = {.stop_at = 1};
    write_log(registry, &our_key);
    assert_int_equal(audit_list(registry, 0, 3, note_record, &list), 0);
    assert_int_equal(list.count, 3);
    assert_int_equal(audit_list(registry, 3, 3, note_record, &list), 0);
    assert_int_equal(list.count, 5);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(list.records[i].seq, i + 1);
    assert_int_equal(list.records[4].at, 1700000000);
    assert_string_equal(list.records[4].event, "confirmed");
    assert_string_equal(list.records[4].sn, "SN1");
    assert_string_equal(list.records[4].actor, "10.0.0.7:5021");
    assert_string_equal(list.records[4].detail, "version 1");
    assert_int_equal(audit_list(registry, 0, 9, note_record, &stopped), 42);
}

static void test_a_record_of_the_largest_fields(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct audit_record record = {.at = INT64_MAX};
    struct record_list list = {0};
    memset(record.event, 'e', AUDIT_EVENT_MAX);
    memset(record.sn, 's', SN_MAX);
    memset(record.actor, 'a', AUDIT_ACTOR_MAX);
    memset(record.detail, 'd', AUDIT_DETAIL_MAX);
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(audit_append(registry, &record), 0);
    assert_int_equal(record.seq, 1);
    commit_sealed(registry, &our_key);
    assert_int_equal(verified(registry), 1);
    assert_int_equal(audit_list(registry, 0, 9, note_record, &list), 0);
    assert_memory_equal(&list.records[0], &record, sizeof(record));
}

/* --- TMKs made anew, terminals removed --- */

/* The next TMK of a terminal, with all that goes with it. */
static void make_next(struct terminal *terminal)
{
    terminal->row_version++;
    terminal->changed++;
    terminal->tmk.version++;
    terminal->tmk.kcv[0]++;
    terminal->store = TMK_STORE_KWP;
    terminal->wrapped_len = 24;
    memset(terminal->wrapped, (int)terminal->tmk.version, terminal->wrapped_len);
    memset(terminal->seal, (int)terminal->tmk.version, SEAL_LEN);
}

/* Adds a terminal and rotates its TMK until it is of that version, each delivered and confirmed
 * but the last. */
static struct terminal add_rotated(struct registry *registry, const char *sn, uint8_t key,
                                   uint32_t version)
{
    struct terminal terminal = make_terminal(sn, key);
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(registry_add(registry, &terminal), 0);
    while (terminal.tmk.version < version) {
        assert_int_equal(
            registry_delivered(registry, sn, terminal.row_version, &terminal.tmk, 100, 0), 0);
        assert_int_equal(registry_confirmed(registry, sn, &terminal.tmk, 101), 0);
        make_next(&terminal);
        assert_int_equal(registry_rotate(registry, &terminal), 0);
    }
    assert_int_equal(registry_commit(registry), 0);
    return terminal;
}

/* How many rows of the three tables are of this SN. */
static int rows_of(const struct room *room, const char *sn)
{
    char sql[256];
    sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    snprintf(sql, sizeof(sql),
             "SELECT (SELECT count(*) FROM terminal WHERE sn = '%s')"
             " + (SELECT count(*) FROM tmk WHERE sn = '%s')"
             " + (SELECT count(*) FROM delivery WHERE sn = '%s')",
             sn, sn, sn);
    assert_int_equal(sqlite3_open(room->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int rows = sqlite3_column_int(row, 0);
    sqlite3_finalize(row);
    sqlite3_close(db);
    return rows;
}

static int retire(struct registry *registry, const char *sn, uint32_t below)
{
    assert_int_equal(registry_begin(registry), 0);
    int rc = registry_retire(registry, sn, below);
    assert_int_equal(registry_commit(registry), 0);
    return rc;
}

static int remove_terminal(struct registry *registry, const char *sn)
{
    assert_int_equal(registry_begin(registry), 0);
    int rc = registry_remove(registry, sn);
    assert_int_equal(registry_commit(registry), 0);
    return rc;
}

static void assert_versions(struct registry *registry, const char *sn, uint32_t below, size_t size,
                            const uint32_t *expected, size_t count)
{
    uint32_t versions[8] = {0};
    size_t found = 99;
    assert_int_equal(registry_versions(registry, sn, below, versions, size, &found), 0);
    assert_int_equal(found, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(versions[i], expected[i]);
}

static void test_the_newest_of_rotated_tmks(void **state)
{
    struct room *room = *state;
    struct terminal rotated = add_rotated(room->registry, "SN1", 1, 3), found;
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    rotated.status = DELIVERY_READY;
    assert_memory_equal(&found, &rotated, sizeof(found));
    assert_int_equal(rows_of(room, "SN1"), 1 + 3 + 2);
    assert_versions(room->registry, "SN1", UINT32_MAX, 8, (uint32_t[]){1, 2, 3}, 3);
    assert_int_equal(deliver(room->registry, 3, 3, 200, 0), 0);
    assert_delivery(room->registry, DELIVERY_DELIVERED, 200, 1, 0);
}

static void test_a_rotated_tmk_is_sealed(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1), first, second;
    add(registry, &terminal);
    assert_int_equal(registry_find(registry, "SN1", &first), 0);
    make_next(&terminal);
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(registry_rotate(registry, &terminal), 0);
    assert_int_equal(registry_commit(registry), 0);
    assert_int_equal(registry_find(registry, "SN1", &second), 0);
    assert_false(same_seal_input(&first, &second));
    assert_true(same_seal_input(&terminal, &second));
    second.row_version = first.row_version; /* the TMK too is another */
    assert_false(same_seal_input(&first, &second));
}

static void test_a_first_tmk(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1), found;
    terminal.store = TMK_STORE_NONE;
    terminal.tmk.version = 0;
    add(registry, &terminal);
    make_next(&terminal);
    assert_int_equal(registry_begin(registry), 0);
    assert_int_equal(registry_rotate(registry, &terminal), 0);
    assert_int_equal(registry_commit(registry), 0);
    assert_int_equal(registry_find(registry, "SN1", &found), 0);
    terminal.status = DELIVERY_READY;
    assert_memory_equal(&found, &terminal, sizeof(found));
}

/* In a part that is undone when it fails. */
static int rotate_alone(struct registry *registry, const struct terminal *terminal)
{
    assert_int_equal(registry_part_begin(registry), 0);
    int rc = registry_rotate(registry, terminal);
    if (rc)
        registry_part_undo(registry);
    else
        assert_int_equal(registry_part_keep(registry), 0);
    return rc;
}

static void test_a_version_is_made_once(void **state)
{
    struct room *room = *state;
    struct terminal terminal = add_rotated(room->registry, "SN1", 1, 2), before, found;
    assert_int_equal(registry_find(room->registry, "SN1", &before), 0);
    make_next(&terminal);
    assert_int_equal(registry_begin(room->registry), 0);
    for (terminal.tmk.version = 1; terminal.tmk.version <= 2; terminal.tmk.version++) {
        assert_int_equal(rotate_alone(room->registry, &terminal), FAIL_EXISTS);
        assert_says("SN1");
    }
    assert_int_equal(registry_commit(room->registry), 0);
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    assert_memory_equal(&found, &before, sizeof(found));
}

static void test_the_second_of_two_rotations_is_told(void **state)
{
    struct room *room = *state;
    struct terminal mine = add_rotated(room->registry, "SN1", 1, 2), theirs = mine, found;
    make_next(&mine);
    make_next(&theirs);
    memset(theirs.wrapped, 0xee, theirs.wrapped_len);
    assert_int_equal(registry_begin(room->registry), 0);
    assert_int_equal(rotate_alone(room->registry, &theirs), 0);
    assert_int_equal(rotate_alone(room->registry, &mine), FAIL_BUSY);
    assert_says("try again");
    mine.tmk.version++;
    assert_int_equal(rotate_alone(room->registry, &mine), FAIL_BUSY);
    assert_int_equal(registry_commit(room->registry), 0);
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    theirs.status = DELIVERY_READY;
    assert_memory_equal(&found, &theirs, sizeof(found));
    assert_int_equal(rows_of(room, "SN1"), 1 + 3 + 1);
}

static void test_versions_by_pages(void **state)
{
    struct room *room = *state;
    struct registry *registry = room->registry;
    uint32_t versions[2] = {7, 7};
    size_t count = 7;
    add_rotated(registry, "SN1", 1, 4);
    add_rotated(registry, "SN2", 2, 2);
    assert_versions(registry, "SN1", 4, 8, (uint32_t[]){1, 2, 3}, 3);
    assert_versions(registry, "SN1", 4, 2, (uint32_t[]){1, 2}, 2);
    assert_versions(registry, "SN1", 4, 0, NULL, 0);
    assert_versions(registry, "SN1", 1, 8, NULL, 0);
    assert_versions(registry, "SN3", 4, 8, NULL, 0);
    edit(room, "UPDATE tmk SET version = 0 WHERE sn = 'SN2' AND version = 1");
    assert_int_equal(registry_versions(registry, "SN2", 2, versions, 2, &count), FAIL_SEAL);
    assert_says("SN2");
    assert_int_equal(count, 7);
}

static void test_retired_tmks_are_forgotten(void **state)
{
    struct room *room = *state;
    struct terminal other = add_rotated(room->registry, "SN2", 2, 2), before, found;
    add_rotated(room->registry, "SN1", 1, 3);
    assert_int_equal(deliver(room->registry, 3, 3, 200, 0), 0);
    assert_int_equal(registry_find(room->registry, "SN1", &before), 0);
    assert_int_equal(retire(room->registry, "SN1", 2), 0);
    assert_versions(room->registry, "SN1", UINT32_MAX, 8, (uint32_t[]){2, 3}, 2);
    assert_int_equal(retire(room->registry, "SN1", 3), 0);
    assert_int_equal(retire(room->registry, "SN1", 3), 0); /* again: there is none */
    assert_int_equal(rows_of(room, "SN1"), 1 + 1 + 1);
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    assert_memory_equal(&found, &before, sizeof(found));
    assert_int_equal(rows_of(room, other.sn), 1 + 2 + 1);
}

static void test_a_removed_terminal_is_forgotten(void **state)
{
    struct room *room = *state;
    struct terminal found;
    write_log(room->registry, &our_key);
    add_rotated(room->registry, "SN1", 1, 2);
    add_rotated(room->registry, "SN2", 2, 2);
    assert_int_equal(deliver(room->registry, 2, 2, 200, 0), 0);
    assert_int_equal(rows_of(room, "SN1"), 1 + 2 + 2);
    assert_int_equal(remove_terminal(room->registry, "SN1"), 0);
    assert_int_equal(rows_of(room, "SN1"), 0);
    assert_int_equal(registry_find(room->registry, "SN1", &found), FAIL_NOT_FOUND);
    assert_int_equal(rows_of(room, "SN2"), 1 + 2 + 1);
    assert_int_equal(verified(room->registry), 5);
}

static void test_the_key_of_a_removed_terminal_is_free(void **state)
{
    struct room *room = *state;
    struct terminal other = make_terminal("SN2", 1);
    char sn[SN_MAX + 1];
    add_rotated(room->registry, "SN1", 1, 2);
    assert_int_equal(remove_terminal(room->registry, "SN1"), 0);
    assert_int_equal(registry_find_key(room->registry, other.spki_sha256, sn), FAIL_NOT_FOUND);
    add(room->registry, &other);
    assert_int_equal(registry_find_key(room->registry, other.spki_sha256, sn), 0);
    assert_string_equal(sn, "SN2");
    assert_int_equal(remove_terminal(room->registry, "SN2"), 0);
    add_rotated(room->registry, "SN1", 1, 2); /* and so is its SN */
}

static void test_a_damaged_terminal_is_removed(void **state)
{
    static const char *const edits[] = {
        "UPDATE terminal SET seal = x'00'",
        "UPDATE terminal SET spki = NULL, state = 'one', row_version = -1",
        "UPDATE tmk SET kcv = NULL, wrapped = zeroblob(49), store = 9",
        "UPDATE tmk SET version = 'two' WHERE version = 2",
        "UPDATE tmk SET version = x'02' WHERE version = 2; UPDATE delivery SET version = 'one'",
        "UPDATE tmk SET version = 9223372036854775807 WHERE version = 2",
        "UPDATE delivery SET delivered_count = NULL, confirmed_at = 'never', version = 2",
        "DELETE FROM tmk",
    };
    struct room *room = *state;
    struct terminal found;
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        add_rotated(room->registry, "SN1", 1, 2);
        edit(room, edits[i]);
        int rc = registry_find(room->registry, "SN1", &found);
        assert_true(rc == FAIL_SEAL || found.store == TMK_STORE_NONE);
        if (remove_terminal(room->registry, "SN1") || rows_of(room, "SN1") > 0)
            fail_msg("not removed: %s", edits[i]);
    }
}

static void test_an_unknown_terminal_is_not_removed(void **state)
{
    struct room *room = *state;
    add_rotated(room->registry, "SN1", 1, 2);
    assert_int_equal(remove_terminal(room->registry, "SN2"), FAIL_NOT_FOUND);
    assert_says("SN2");
    assert_int_equal(remove_terminal(room->registry, "sn1"), FAIL_NOT_FOUND);
    assert_int_equal(remove_terminal(room->registry, "SN%"), FAIL_NOT_FOUND);
    assert_int_equal(rows_of(room, "SN1"), 1 + 2 + 1);
}

/* --- a schema edited with other tools --- */

/* What somebody may put into the file, and the object that is then named. */
static const struct {
    const char *sql, *says;
} schema_edits[] = {
    {"CREATE TRIGGER aa BEFORE INSERT ON audit WHEN NEW.event IN ('delivered', 'confirmed')"
     " BEGIN SELECT RAISE(IGNORE); END",
     "trigger aa"},
    {"CREATE TRIGGER bb AFTER INSERT ON audit BEGIN DELETE FROM delivery; END", "trigger bb"},
    {"DROP TRIGGER audit_is_not_deleted", "trigger audit_is_not_deleted is missing"},
    {"DROP TRIGGER audit_has_no_gap; CREATE TRIGGER audit_has_no_gap BEFORE INSERT ON audit"
     " BEGIN SELECT RAISE(IGNORE); END",
     "trigger audit_has_no_gap"},
    {"CREATE VIEW vv AS SELECT * FROM terminal", "view vv"},
    {"CREATE INDEX ii ON terminal (state)", "index ii"},
    {"CREATE TABLE tt (x)", "table tt"},
    {"ANALYZE", "table sqlite_stat1"},
    {"DROP TABLE audit_seal", "table audit_seal is missing"},
    {"DROP TABLE terminal", "table terminal is missing"},
    {"ALTER TABLE terminal ADD COLUMN x INTEGER", "table terminal"},
    {"PRAGMA legacy_alter_table = ON; ALTER TABLE terminal RENAME TO t0;"
     "CREATE VIEW terminal AS SELECT * FROM t0",
     "table t0"},
    {"PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql ="
     " replace(sql, 'TEXT    NOT NULL PRIMARY KEY', 'TEXT COLLATE NOCASE NOT NULL PRIMARY KEY')",
     "table terminal"},
    {"PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '')"
     " WHERE name = 'audit'",
     "table audit"},
};
enum { SCHEMA_EDITS = sizeof(schema_edits) / sizeof(schema_edits[0]) };

static void assert_schema_refused(int rc, const struct room *room, const char *says)
{
    assert_int_equal(rc, FAIL_REGISTRY);
    assert_says(room->path);
    assert_says(says);
}

/* A file of its own for each edit, because not all can be undone. */
static void open_new(const struct room *room, struct room *ret_new)
{
    static const char *const names[] = {"new.db", "new.db-wal", "new.db-shm"};
    *ret_new = *room;
    for (size_t i = 0; i < 3; i++) {
        in_room(room, names[i], ret_new->path);
        unlink(ret_new->path);
    }
    in_room(room, "new.db", ret_new->path);
    assert_int_equal(registry_open(ret_new->path, REGISTRY_CREATE, &ret_new->registry), 0);
}

static void test_an_edited_schema_is_not_opened(void **state)
{
    struct room room;
    for (size_t i = 0; i < SCHEMA_EDITS; i++) {
        open_new(*state, &room);
        registry_close(room.registry);
        shell(&room, schema_edits[i].sql);
        for (int mode = REGISTRY_READ; mode <= REGISTRY_CREATE; mode++)
            assert_schema_refused(
                registry_open(room.path, (enum registry_mode)mode, &room.registry), &room,
                schema_edits[i].says);
    }
}

static void test_a_schema_edited_meanwhile_is_refused(void **state)
{
    struct room room;
    for (size_t i = 0; i < SCHEMA_EDITS; i++) {
        struct terminal terminal = make_terminal("SN1", 1), found;
        struct registry *reader = NULL;
        open_new(*state, &room);
        assert_int_equal(registry_open(room.path, REGISTRY_READ, &reader), 0);
        add(room.registry, &terminal);
        shell(&room, schema_edits[i].sql);
        shell(&room, "CREATE TABLE zz (x); DROP TABLE zz"); /* the shell's own change counts */
        for (int again = 0; again < 2; again++) {
            assert_schema_refused(registry_begin(room.registry), &room, schema_edits[i].says);
            assert_schema_refused(registry_find(reader, "SN1", &found), &room,
                                  schema_edits[i].says);
        }
        assert_int_equal(registry_commit(room.registry), FAIL_REGISTRY); /* none is open */
        registry_close(reader);
        registry_close(room.registry);
    }
}

static void set_schema_number(const struct room *room, int back)
{
    char sql[64];
    sqlite3 *db = NULL;
    sqlite3_stmt *row = NULL;
    assert_int_equal(sqlite3_open(room->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA schema_version", -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    snprintf(sql, sizeof(sql), "PRAGMA schema_version = %d", sqlite3_column_int(row, 0) - back);
    sqlite3_finalize(row);
    sqlite3_close(db);
    shell(room, sql);
}

/* SQLite counts the changes of a schema, and somebody may set that number back. */
static void test_a_schema_number_set_back_hides_nothing(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1), found;
    add(room->registry, &terminal);
    shell(room, "CREATE TRIGGER aa BEFORE INSERT ON audit BEGIN SELECT RAISE(IGNORE); END");
    assert_schema_refused(registry_begin(room->registry), room, "trigger aa");
    assert_schema_refused(registry_find(room->registry, "SN1", &found), room, "trigger aa");
    set_schema_number(room, 1);
    assert_schema_refused(registry_begin(room->registry), room, "trigger aa");
    assert_schema_refused(registry_find(room->registry, "SN1", &found), room, "trigger aa");
}

static void test_a_mended_schema_serves_again(void **state)
{
    struct room *room = *state;
    struct terminal terminal = make_terminal("SN1", 1), found;
    shell(room, "CREATE TRIGGER aa BEFORE INSERT ON audit BEGIN SELECT RAISE(IGNORE); END");
    assert_schema_refused(registry_begin(room->registry), room, "trigger aa");
    shell(room, "DROP TRIGGER aa");
    add(room->registry, &terminal);
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    shell(room, "VACUUM"); /* makes the schema anew, as it was */
    assert_int_equal(registry_find(room->registry, "SN1", &found), 0);
    write_log(room->registry, &our_key);
    assert_int_equal(verified(room->registry), 5);
}

/* --- what a trigger or a view did, had the look at the schema missed it --- */

/* In the connection's own transaction, where the schema is not looked at again. */
static void slip_in(const struct registry *registry, const char *sql)
{
    char *error = NULL;
    if (sqlite3_exec(registry->db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
}

static void test_another_sn_than_the_one_asked_for(void **state)
{
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1), found = terminal;
    add(registry, &terminal);
    slip_in(registry, "CREATE TEMP VIEW terminal AS SELECT sn COLLATE NOCASE AS sn, spki,"
                      " spki_sha256, state, batch, row_version, created, changed, seal"
                      " FROM main.terminal");
    assert_int_equal(registry_find(registry, "SN1", &found), 0);
    found = terminal;
    assert_int_equal(registry_find(registry, "sn1", &found), FAIL_SEAL);
    assert_says("SN1");
    assert_memory_equal(&found, &terminal, sizeof(found));
}

static int append_twice_and_seal(struct registry *registry)
{
    struct audit_record record = {.at = 1, .event = "delivered"};
    int rc = audit_append(registry, &record);
    if (rc == 0)
        strcpy(record.event, "refused");
    if (rc == 0)
        rc = audit_append(registry, &record);
    return rc == 0 ? audit_seal(registry, seal_with, &our_key) : rc;
}

static void test_a_record_that_is_not_kept_is_noticed(void **state)
{
    static const char *const edits[] = {
        "CREATE TRIGGER aa BEFORE INSERT ON audit BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER aa BEFORE INSERT ON audit WHEN NEW.event = 'refused'"
        " BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER aa AFTER INSERT ON audit WHEN NEW.event = 'delivered'"
        " BEGIN DELETE FROM audit WHERE seq = NEW.seq; END",
        "CREATE TRIGGER aa AFTER INSERT ON audit WHEN NEW.event = 'refused'"
        " BEGIN DELETE FROM audit WHERE seq = NEW.seq; END",
        "CREATE TRIGGER aa AFTER INSERT ON audit WHEN NEW.event = 'refused'"
        " BEGIN UPDATE audit SET hash = zeroblob(32) WHERE seq = NEW.seq; END",
        "CREATE TRIGGER aa BEFORE INSERT ON audit_seal BEGIN SELECT RAISE(IGNORE); END",
    };
    struct registry *registry = ((struct room *)*state)->registry;
    write_log(registry, &our_key);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        assert_int_equal(registry_begin(registry), 0);
        slip_in(registry, "DROP TRIGGER audit_is_not_deleted; DROP TRIGGER audit_is_not_changed");
        slip_in(registry, edits[i]);
        if (append_twice_and_seal(registry) != FAIL_REGISTRY)
            fail_msg("not noticed: %s", edits[i]);
        registry_rollback(registry);
    }
    assert_int_equal(verified(registry), 5);
}

static int change(struct registry *registry, const char *table)
{
    struct terminal terminal = make_terminal("SN2", 2);
    if (strcmp(table, "delivery") == 0)
        return registry_reopen(registry, "SN1");
    return registry_add(registry, &terminal);
}

static void test_a_row_that_is_not_written_is_noticed(void **state)
{
    static const char *const edits[][2] = {
        {"terminal", "CREATE TRIGGER aa BEFORE INSERT ON terminal BEGIN SELECT RAISE(IGNORE); END"},
        {"tmk", "CREATE TRIGGER aa BEFORE INSERT ON tmk BEGIN SELECT RAISE(IGNORE); END"},
        {"delivery", "CREATE TRIGGER aa BEFORE UPDATE ON delivery BEGIN SELECT RAISE(IGNORE); END"},
    };
    struct registry *registry = ((struct room *)*state)->registry;
    struct terminal terminal = make_terminal("SN1", 1);
    add(registry, &terminal);
    assert_int_equal(deliver(registry, 1, 1, 100, 0), 0);
    assert_int_equal(confirm(registry, 1, 101), 0);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        assert_int_equal(registry_begin(registry), 0);
        slip_in(registry, edits[i][1]);
        if (change(registry, edits[i][0]) != FAIL_REGISTRY)
            fail_msg("not noticed: %s", edits[i][1]);
        registry_rollback(registry);
    }
    assert_delivery(registry, DELIVERY_CONFIRMED, 100, 1, 101);
}

static void test_a_tmk_that_stays_is_noticed(void **state)
{
    static const char *const edits[] = {
        "CREATE TRIGGER aa BEFORE DELETE ON delivery BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TRIGGER aa BEFORE DELETE ON tmk BEGIN SELECT RAISE(IGNORE); END",
    };
    struct room *room = *state;
    struct registry *registry = room->registry;
    add_rotated(registry, "SN1", 1, 2);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        assert_int_equal(registry_begin(registry), 0);
        slip_in(registry, edits[i]);
        if (registry_retire(registry, "SN1", 2) != FAIL_REGISTRY)
            fail_msg("not noticed: %s", edits[i]);
        if (registry_remove(registry, "SN1") != FAIL_REGISTRY)
            fail_msg("not noticed: %s", edits[i]);
        registry_rollback(registry);
    }
    assert_int_equal(rows_of(room, "SN1"), 1 + 2 + 1);
}

/* --- a kill at any instant --- */

/* Adds terminals, each with its record, and tells of each once it is committed. */
static void add_for_ever(const char *path, int told)
{
    struct registry *registry = NULL;
    if (registry_open(path, REGISTRY_WRITE, &registry))
        _exit(1);
    for (uint8_t i = 1; i < 255; i++) {
        char sn[16];
        snprintf(sn, sizeof(sn), "SN%03d", i);
        struct terminal terminal = make_terminal(sn, i);
        struct audit_record record = {.at = 1, .event = "added"};
        if (registry_begin(registry) || registry_add(registry, &terminal) ||
            audit_append(registry, &record) || audit_seal(registry, seal_with, &our_key) ||
            registry_commit(registry) || write(told, &i, 1) != 1)
            _exit(1);
    }
    for (;;)
        pause();
}

static void test_what_is_acknowledged_survives_a_kill(void **state)
{
    struct room *room = *state;
    int told[2];
    uint8_t last = 0, i = 0;
    struct terminal found;
    assert_int_equal(pipe(told), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        add_for_ever(room->path, told[1]);
    close(told[1]);
    while (last < 20 && read(told[0], &last, 1) == 1)
        ;
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    while (read(told[0], &i, 1) == 1)
        last = i;
    close(told[0]);

    assert_true(last >= 20);
    for (i = 1; i <= last; i++) {
        char sn[16];
        snprintf(sn, sizeof(sn), "SN%03d", i);
        assert_int_equal(registry_find(room->registry, sn, &found), 0);
    }
    /* A change and its record are one: never the one without the other. */
    assert_int_equal(verified(room->registry), count_terminals(room->registry));
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(terminal_state_name(TERMINAL_ENABLED), "enabled");
    assert_string_equal(terminal_state_name(TERMINAL_DISABLED), "disabled");
    assert_string_equal(delivery_status_name(DELIVERY_NONE), "none");
    assert_string_equal(delivery_status_name(DELIVERY_READY), "ready");
    assert_string_equal(delivery_status_name(DELIVERY_DELIVERED), "delivered");
    assert_string_equal(delivery_status_name(DELIVERY_CONFIRMED), "confirmed");
}

#define IN_ROOM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_ROOM(test_a_new_registry_is_empty_and_private),
        IN_ROOM(test_its_log_is_private_too),
        IN_ROOM(test_none_is_opened_where_none_is),
        IN_ROOM(test_opening_again_keeps_what_is_there),
        IN_ROOM(test_a_newer_schema_is_refused),
        IN_ROOM(test_the_database_of_another_is_left_alone),
        IN_ROOM(test_a_file_that_is_no_database),
        IN_ROOM(test_an_interrupted_creation_leaves_none),
        IN_ROOM(test_a_reader_changes_nothing),
        IN_ROOM(test_a_registry_that_cannot_be_written),
        IN_ROOM(test_a_log_that_cannot_be_written),
        IN_ROOM(test_a_terminal_is_found_as_it_was_added),
        IN_ROOM(test_a_terminal_of_the_largest_fields),
        IN_ROOM(test_a_terminal_without_a_tmk),
        IN_ROOM(test_the_newest_tmk_is_found),
        IN_ROOM(test_an_unknown_sn),
        IN_ROOM(test_an_sn_is_taken_as_it_is),
        IN_ROOM(test_a_key_leads_to_its_sn),
        IN_ROOM(test_an_sn_or_a_key_is_registered_once),
        IN_ROOM(test_what_no_terminal_has_is_not_added),
        IN_ROOM(test_an_update_is_kept),
        IN_ROOM(test_the_second_of_two_updates_is_told),
        IN_ROOM(test_a_list_by_pages),
        IN_ROOM(test_impossible_values_are_a_broken_seal),
        IN_ROOM(test_an_impossible_sn_is_a_broken_seal),
        IN_ROOM(test_a_rollback_leaves_nothing),
        IN_ROOM(test_a_part_is_undone_alone),
        IN_ROOM(test_nothing_changes_outside_a_transaction),
        IN_ROOM(test_a_reader_beside_a_writer),
        IN_ROOM(test_a_second_writer_waits_and_is_told),
        IN_ROOM(test_a_full_disk),
        IN_ROOM(test_delivered_until_confirmed),
        IN_ROOM(test_delivered_always),
        IN_ROOM(test_delivered_after_reopen),
        IN_ROOM(test_reopen_wants_a_tmk),
        IN_ROOM(test_not_delivered_when_changed_meanwhile),
        IN_ROOM(test_another_tmk_of_that_version),
        cmocka_unit_test(test_seal_input_is_as_documented),
        cmocka_unit_test(test_seal_input_covers_what_decides),
        cmocka_unit_test(test_seal_input_leaves_out_what_happened),
        cmocka_unit_test(test_seal_input_keeps_fields_apart),
        cmocka_unit_test(test_seal_input_at_its_largest),
        IN_ROOM(test_a_log_that_fits),
        IN_ROOM(test_a_hash_covers_what_is_documented),
        IN_ROOM(test_each_tampering_is_noticed),
        IN_ROOM(test_a_log_written_anew_without_the_key_is_noticed),
        IN_ROOM(test_a_slip_in_the_shell_is_refused),
        IN_ROOM(test_unsealed_records_are_not_committed),
        IN_ROOM(test_records_of_a_part_go_with_it),
        IN_ROOM(test_two_writers_make_one_log),
        IN_ROOM(test_the_log_by_pages),
        IN_ROOM(test_a_record_of_the_largest_fields),
        IN_ROOM(test_the_newest_of_rotated_tmks),
        IN_ROOM(test_a_rotated_tmk_is_sealed),
        IN_ROOM(test_a_first_tmk),
        IN_ROOM(test_a_version_is_made_once),
        IN_ROOM(test_the_second_of_two_rotations_is_told),
        IN_ROOM(test_versions_by_pages),
        IN_ROOM(test_retired_tmks_are_forgotten),
        IN_ROOM(test_a_removed_terminal_is_forgotten),
        IN_ROOM(test_the_key_of_a_removed_terminal_is_free),
        IN_ROOM(test_a_damaged_terminal_is_removed),
        IN_ROOM(test_an_unknown_terminal_is_not_removed),
        IN_ROOM(test_an_edited_schema_is_not_opened),
        IN_ROOM(test_a_schema_edited_meanwhile_is_refused),
        IN_ROOM(test_a_schema_number_set_back_hides_nothing),
        IN_ROOM(test_a_mended_schema_serves_again),
        IN_ROOM(test_another_sn_than_the_one_asked_for),
        IN_ROOM(test_a_record_that_is_not_kept_is_noticed),
        IN_ROOM(test_a_row_that_is_not_written_is_noticed),
        IN_ROOM(test_a_tmk_that_stays_is_noticed),
        IN_ROOM(test_what_is_acknowledged_survives_a_kill),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
