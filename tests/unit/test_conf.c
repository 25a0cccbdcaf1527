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
#include <unistd.h>

/* Before cmocka, which makes a macro of fail. */
#include "common/conf.h"
#include "common/fail.h"
#include "common/file.h"

#include <cmocka.h>

/* --- a directory for each test --- */

struct room {
    char directory[32];
    char path[64];
};

static int set_up(void **state)
{
    struct room *room = calloc(1, sizeof(*room));
    assert_non_null(room);
    strcpy(room->directory, "/tmp/test_conf.XXXXXX");
    assert_non_null(mkdtemp(room->directory));
    snprintf(room->path, sizeof(room->path), "%s/tmkd.conf", room->directory);
    *state = room;
    return 0;
}

static int tear_down(void **state)
{
    struct room *room = *state;
    unlink(room->path);
    assert_int_equal(rmdir(room->directory), 0);
    free(room);
    return 0;
}

static void assert_says(const char *words)
{
    if (!strstr(fail_text(), words))
        fail_msg("\"%s\" does not say \"%s\"", fail_text(), words);
}

static void write_conf(const struct room *room, const char *text)
{
    FILE *file = fopen(room->path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/* --- the configuration --- */

static void test_what_an_empty_file_means(void **state)
{
    struct room *room = *state;
    struct conf *conf = NULL;
    write_conf(room, "");
    assert_int_equal(conf_read(room->path, &conf), 0);
    assert_int_equal(conf->listen_count, 1);
    assert_string_equal(conf->listen[0], "0.0.0.0:7443");
    assert_string_equal(conf->registry, "/var/lib/tmkd/registry.db");
    assert_string_equal(conf->control, "/run/tmkd/control");
    assert_int_equal(conf->log_level, LOG_INFO);
    assert_string_equal(conf->token.module, "/usr/lib/softhsm/libsofthsm2.so");
    assert_string_equal(conf->token.label, "tmkd");
    assert_string_equal(conf->token.pin_file, "/etc/tmkd/pin");
    assert_string_equal(conf->token.so_pin_file, "");
    assert_int_equal(conf->token.environment_count, 0);
    assert_int_equal(conf->token.sessions, 4);
    assert_int_equal(conf->tmk.wrapped, 0);
    assert_int_equal(conf->tmk.redeliver_always, 0);
    assert_int_equal(conf->limits.connections, 4096);
    assert_int_equal(conf->limits.connections_per_source, 256);
    assert_int_equal(conf->limits.queue, 1024);
    assert_int_equal(conf->limits.handshake_seconds, 15);
    assert_int_equal(conf->limits.stop_seconds, 10);
    assert_int_equal(conf->limits.retry_after_seconds, 5);
    assert_string_equal(conf->users.keeper, "tmkd");
    assert_string_equal(conf->users.listener, "tmkd-net");
    assert_string_equal(conf->users.chroot, "/var/empty");
    conf_free(conf);
}

/* conf/tmkd.conf says of itself that it holds every setting with its default. */
static void test_the_annotated_file_says_the_same(void **state)
{
    struct room *room = *state;
    struct conf *empty = NULL, *shipped = NULL;
    const char *path = getenv("TMKD_CONF");
    if (!path)
        skip();
    write_conf(room, "");
    assert_int_equal(conf_read(room->path, &empty), 0);
    assert_int_equal(conf_read(path, &shipped), 0);
    assert_int_equal(shipped->listen_count, 1);
    assert_string_equal(shipped->listen[0], empty->listen[0]);
    assert_string_equal(shipped->registry, empty->registry);
    assert_string_equal(shipped->control, empty->control);
    assert_int_equal(shipped->log_level, empty->log_level);
    assert_string_equal(shipped->token.module, empty->token.module);
    assert_string_equal(shipped->token.label, empty->token.label);
    assert_string_equal(shipped->token.pin_file, empty->token.pin_file);
    assert_string_equal(shipped->token.so_pin_file, empty->token.so_pin_file);
    assert_int_equal(shipped->token.environment_count, 0);
    assert_int_equal(shipped->token.sessions, empty->token.sessions);
    assert_memory_equal(&shipped->tmk, &empty->tmk, sizeof(empty->tmk));
    assert_memory_equal(&shipped->limits, &empty->limits, sizeof(empty->limits));
    assert_string_equal(shipped->users.keeper, empty->users.keeper);
    assert_string_equal(shipped->users.listener, empty->users.listener);
    assert_string_equal(shipped->users.chroot, empty->users.chroot);
    conf_free(empty);
    conf_free(shipped);
}

static void test_every_setting_is_taken(void **state)
{
    static const char text[] =
        "listen = {\"127.0.0.1:0\", '[::1]:65535'}\n"
        "registry = \"/r\"  control = \"/c\"  log_level = debug\n"
        "token { module = \"/m\" label = \"l\" pin_file = \"/p\" so_pin_file = \"/s\"\n"
        "  environment = {\"A=b\", \"C=\"} sessions = 64 }\n"
        "tmk { store = wrapped redelivery = always }\n"
        "limits { connections = 1 connections_per_source = 2 queue = 3 handshake_seconds = 4\n"
        "  stop_seconds = 0 retry_after_seconds = 3600 }\n"
        "users { keeper = \"\" listener = \"n\" chroot = \"\" }\n";
    struct room *room = *state;
    struct conf *conf = NULL;
    write_conf(room, text);
    assert_int_equal(conf_read(room->path, &conf), 0);
    assert_int_equal(conf->listen_count, 2);
    assert_string_equal(conf->listen[0], "127.0.0.1:0");
    assert_string_equal(conf->listen[1], "[::1]:65535");
    assert_string_equal(conf->registry, "/r");
    assert_string_equal(conf->control, "/c");
    assert_int_equal(conf->log_level, LOG_DEBUG);
    assert_string_equal(conf->token.module, "/m");
    assert_string_equal(conf->token.label, "l");
    assert_string_equal(conf->token.pin_file, "/p");
    assert_string_equal(conf->token.so_pin_file, "/s");
    assert_int_equal(conf->token.environment_count, 2);
    assert_string_equal(conf->token.environment[0], "A=b");
    assert_string_equal(conf->token.environment[1], "C=");
    assert_int_equal(conf->token.sessions, 64);
    assert_int_equal(conf->tmk.wrapped, 1);
    assert_int_equal(conf->tmk.redeliver_always, 1);
    assert_int_equal(conf->limits.connections, 1);
    assert_int_equal(conf->limits.connections_per_source, 2);
    assert_int_equal(conf->limits.queue, 3);
    assert_int_equal(conf->limits.handshake_seconds, 4);
    assert_int_equal(conf->limits.stop_seconds, 0);
    assert_int_equal(conf->limits.retry_after_seconds, 3600);
    assert_string_equal(conf->users.keeper, "");
    assert_string_equal(conf->users.listener, "n");
    assert_string_equal(conf->users.chroot, "");
    conf_free(conf);
}

static void assert_in_directory(const struct room *room, const char *path, const char *name)
{
    char expected[96];
    snprintf(expected, sizeof(expected), "%s/%s", room->directory, name);
    assert_string_equal(path, expected);
}

static void test_paths_start_at_the_file(void **state)
{
    struct room *room = *state;
    struct conf *conf = NULL;
    char before[256];
    write_conf(room, "listen = \"127.0.0.1:1\"\nregistry = \"registry.db\"\ncontrol = \"control\"\n"
                     "token { pin_file = \"pin\" so_pin_file = \"so/pin\" module = \"lib/m.so\" }\n"
                     "users { chroot = \"empty\" }\n");
    /* Named from within its directory, they are absolute all the same. */
    assert_non_null(getcwd(before, sizeof(before)));
    assert_int_equal(chdir(room->directory), 0);
    int rc = conf_read("tmkd.conf", &conf);
    assert_int_equal(chdir(before), 0);
    assert_int_equal(rc, 0);
    assert_int_equal(conf->listen_count, 1);
    assert_in_directory(room, conf->registry, "registry.db");
    assert_in_directory(room, conf->control, "control");
    assert_in_directory(room, conf->token.pin_file, "pin");
    assert_in_directory(room, conf->token.so_pin_file, "so/pin");
    assert_in_directory(room, conf->token.module, "lib/m.so");
    assert_in_directory(room, conf->users.chroot, "empty");
    conf_free(conf);

    write_conf(room, "token { module = \"libsofthsm2.so\" }\n");
    assert_int_equal(conf_read(room->path, &conf), 0);
    assert_string_equal(conf->token.module, "libsofthsm2.so");
    conf_free(conf);
}

static void test_what_is_wrong_is_named_by_line(void **state)
{
    static const struct {
        const char *text, *says;
    } wrongs[] = {
        {"\n\nlisten_to = \"127.0.0.1:1\"\n", ":3: no such option 'listen_to'"},
        {"limits {\n\n  connection = 5\n}\n", ":3: no such option 'connection'"},
        {"limit {\n}\n", ":1: no such option 'limit'"},
        {"47a0b986e048bbeb\n", ":1: no setting; is this file a tmkd.conf?"}, /* a PIN, say */
        {"token {\n  sessions = 0\n}\n", ":2: sessions is 0; it can be 1 to 64"},
        {"token {\n  sessions = 65\n}\n", ":2: sessions is 65"},
        {"token {\n  sessions = -1\n}\n", ":2: sessions is -1"},
        {"token {\n  sessions = many\n}\n", ":2: "},
        {"token {\n  sessions = 4x\n}\n", ":2: "},
        {"token {\n  sessions = 99999999999999999999\n}\n", ":2: "},
        {"token {\n  label = \"\"\n}\n", ":2: label"},
        {"token {\n  label = \"123456789012345678901234567890123\"\n}\n", ":2: label"},
        {"token {\n  module = \"\"\n}\n", ":2: module is empty"},
        {"token {\n  environment = {\"A=1\", \"B\"}\n}\n", ":2: environment holds \"B\""},
        {"token {\n  environment = {\"=B\"}\n}\n", ":2: environment holds \"=B\""},
        {"token {\n environment = {a=, b=, c=, d=, e=, f=, g=, h=, i=}\n}\n", ":2: "},
        {"tmk {\n  store = both\n}\n", ":2: store is \"both\"; it can be: token, wrapped"},
        {"tmk {\n  redelivery = never\n}\n", "it can be: until-confirmed, always"},
        {"log_level = loud\n", ":1: log_level is \"loud\"; it can be: error, warning, info, debug"},
        {"limits {\n  handshake_seconds = 0\n}\n", ":2: handshake_seconds is 0"},
        {"limits {\n  retry_after_seconds = 3601\n}\n", ":2: retry_after_seconds is 3601"},
        {"limits {\n  queue = 0\n}\n", ":2: queue is 0"},
        {"registry = \"\"\n", ":1: registry is empty"},
        {"registry = \"a\n", ": "},
        {"listen = {}\n", "listen names no address"},
        {"listen = \"localhost:1\"\n", ":1: listen is \"localhost:1\""},
        {"listen = {\"127.0.0.1:1\",\n\"127.0.0.1\"}\n", ":2: listen is \"127.0.0.1\""},
        {"listen = \"127.0.0.1:\"\n", ":1: listen is"},
        {"listen = \"127.0.0.1:65536\"\n", ":1: listen is"},
        {"listen = \"127.0.0.1:-1\"\n", ":1: listen is"},
        {"listen = \":80\"\n", ":1: listen is"},
        {"listen = \"::1:80\"\n", ":1: listen is"},
        {"listen = \"[::1:80\"\n", ":1: listen is"},
        {"listen = \"[]:80\"\n", ":1: listen is"},
        {"listen = \"[127.0.0.1]:80\"\n", ":1: listen is"},
        {"listen = \"1111111111111111111111111111111111111111111111111111111111:80\"\n", ":1: "},
        {"listen = {a:1}\n", ":1: listen is \"a:1\""},
        {"limits = 5\n", ":1: "},
    };
    struct room *room = *state;
    for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        struct conf *conf = NULL;
        write_conf(room, wrongs[i].text);
        if (conf_read(room->path, &conf) != FAIL_CONFIG)
            fail_msg("taken: %s", wrongs[i].text);
        assert_says(wrongs[i].says);
        assert_ptr_equal(strstr(fail_text(), room->path), fail_text());
        assert_null(strchr(fail_text(), '\n'));
        assert_null(conf);
    }
}

static void test_too_many_addresses(void **state)
{
    struct room *room = *state;
    struct conf *conf = NULL;
    write_conf(room, "listen = {\"127.0.0.1:1\", \"127.0.0.1:2\", \"127.0.0.1:3\", \"127.0.0.1:4\","
                     "\"127.0.0.1:5\", \"127.0.0.1:6\", \"127.0.0.1:7\", \"127.0.0.1:8\","
                     "\"127.0.0.1:9\"}");
    assert_int_equal(conf_read(room->path, &conf), FAIL_CONFIG);
    assert_says("more than 8");
}

static void test_a_file_that_cannot_be_read(void **state)
{
    struct room *room = *state;
    struct conf *conf = NULL;
    assert_int_equal(conf_read(room->path, &conf), FAIL_CONFIG);
    assert_says(room->path);
    assert_says("No such file");
    assert_int_equal(conf_read(room->directory, &conf), FAIL_CONFIG);
    assert_says("not a file");
    conf_free(NULL);
}

/* --- whole files --- */

static void test_a_file_is_made_and_read(void **state)
{
    struct room *room = *state;
    static const uint8_t bytes[] = {1, 0, 2, 255};
    uint8_t read[4];
    size_t len = 0;
    struct stat status;
    mode_t before = umask(077);
    assert_int_equal(file_create(room->path, 0644, bytes, sizeof(bytes)), 0);
    umask(before);
    assert_int_equal(stat(room->path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0644);
    assert_int_equal(file_read(room->path, read, sizeof(read), &len), 0);
    assert_int_equal(len, sizeof(bytes));
    assert_memory_equal(read, bytes, sizeof(bytes));
}

static void test_a_file_larger_than_wanted(void **state)
{
    struct room *room = *state;
    uint8_t read[3];
    size_t len = 42;
    assert_int_equal(file_create(room->path, 0600, (const uint8_t *)"four", 4), 0);
    assert_int_equal(file_read(room->path, read, sizeof(read), &len), FAIL_MALFORMED);
    assert_says("more than 3 bytes");
    assert_int_equal(len, 42);
}

static void test_a_file_that_is_not_there(void **state)
{
    struct room *room = *state;
    uint8_t read[3];
    size_t len = 0;
    assert_int_equal(file_read(room->path, read, sizeof(read), &len), FAIL_NOT_FOUND);
    assert_says(room->path);
    assert_int_equal(file_read(room->directory, read, sizeof(read), &len), FAIL_SYSTEM);
}

static void test_a_file_that_is_there_is_not_made(void **state)
{
    struct room *room = *state;
    uint8_t read[8];
    size_t len = 0;
    assert_int_equal(file_create(room->path, 0600, (const uint8_t *)"old", 3), 0);
    assert_int_equal(file_create(room->path, 0600, (const uint8_t *)"new", 3), FAIL_EXISTS);
    assert_int_equal(file_read(room->path, read, sizeof(read), &len), 0);
    assert_memory_equal(read, "old", 3);
}

static void test_half_a_file_is_not_left(void **state)
{
    struct room *room = *state;
    struct rlimit all, small;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &all), 0);
    small = all;
    small.rlim_cur = 2;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = file_create(room->path, 0600, (const uint8_t *)"four", 4);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
    assert_int_equal(rc, FAIL_SYSTEM);
    assert_int_equal(access(room->path, F_OK), -1);
}

#define IN_ROOM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_ROOM(test_what_an_empty_file_means),
        IN_ROOM(test_the_annotated_file_says_the_same),
        IN_ROOM(test_every_setting_is_taken),
        IN_ROOM(test_paths_start_at_the_file),
        IN_ROOM(test_what_is_wrong_is_named_by_line),
        IN_ROOM(test_too_many_addresses),
        IN_ROOM(test_a_file_that_cannot_be_read),
        IN_ROOM(test_a_file_is_made_and_read),
        IN_ROOM(test_a_file_larger_than_wanted),
        IN_ROOM(test_a_file_that_is_not_there),
        IN_ROOM(test_a_file_that_is_there_is_not_made),
        IN_ROOM(test_half_a_file_is_not_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
