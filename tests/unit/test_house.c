/* The house's own walls: what its processes say to each other, their cage, their sockets and the
 * lock. Started as `--role ROLE` this program is the child of the tests of child.h. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Before cmocka.h, which makes fail() a macro. */
#include "common/fail.h"
#include "tmkd/address.h"
#include "tmkd/cage.h"
#include "tmkd/child.h"
#include "tmkd/control_socket.h"
#include "tmkd/house.h"
#include "tmkd/lock.h"
#include "tmkd/source_table.h"

#include <cmocka.h>

enum { HIGHEST_FD = 64 };

static size_t open_descriptors(void)
{
    size_t count = 0;
    for (int fd = 0; fd < HIGHEST_FD; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* valgrind executes and watches this program in ways that the cage and /proc/self/exe forbid. */
static int under_valgrind(void)
{
    const char *preload = getenv("LD_PRELOAD");
    return preload && strstr(preload, "vgpreload");
}

/* --- supervision --- */

static void passes_settings_whole(void **state)
{
    int pair[2], fd = 0;
    struct house_message sent = {.kind = HOUSE_SETTINGS}, got;
    (void)state;
    sent.settings.handshake_ms = 15000;
    memset(sent.settings.chroot, 'c', sizeof(sent.settings.chroot) - 1);
    assert_int_equal(channel_make(pair, 0), 0);
    assert_int_equal(house_send(pair[0], &sent, -1), 0);
    assert_int_equal(house_receive(pair[1], &got, &fd), 0);
    assert_memory_equal(&got, &sent, sizeof(sent));
    assert_int_equal(fd, -1);
    close(pair[0]);
    close(pair[1]);
}

static void passes_a_descriptor(void **state)
{
    int pair[2], tube[2], fd = -1;
    struct house_message got;
    char byte = 0;
    (void)state;
    assert_int_equal(channel_make(pair, 0), 0);
    assert_int_equal(pipe(tube), 0);
    assert_int_equal(house_send_kind(pair[0], HOUSE_LISTEN, tube[1]), 0);
    assert_int_equal(house_receive(pair[1], &got, &fd), 0);
    assert_int_equal(got.kind, HOUSE_LISTEN);
    assert_int_not_equal(fd, tube[1]);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(read(tube[0], &byte, 1), 1);
    assert_int_equal(byte, 'x');
    close(fd);
    close(tube[0]);
    close(tube[1]);
    close(pair[0]);
    close(pair[1]);
}

/* Sends len bytes with `count` copies of a descriptor. */
static void send_raw(int fd, const void *bytes, size_t len, size_t count)
{
    int fds[4] = {fd, fd, fd, fd};
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(fds))];
    } rights = {0};
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        header.msg_control = rights.bytes;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(control), fds, count * sizeof(int));
    }
    assert_int_equal(sendmsg(fd, &header, 0), len);
}

static void refuses_house_messages_of_other_size_or_kind(void **state)
{
    int pair[2], fd = 77;
    struct {
        struct house_message message;
        char more;
    } sent = {.message.kind = HOUSE_LISTEN};
    struct house_message got = {.kind = 77};
    (void)state;
    assert_int_equal(channel_make(pair, 0), 0);
    size_t before = open_descriptors();

    send_raw(pair[0], &sent, sizeof(sent.message) - 1, 1);
    assert_int_equal(house_receive(pair[1], &got, &fd), FAIL_MALFORMED);
    send_raw(pair[0], &sent, sizeof(sent.message) + 1, 1);
    assert_int_equal(house_receive(pair[1], &got, &fd), FAIL_MALFORMED);
    send_raw(pair[0], &sent, sizeof(sent.message), 2);
    assert_int_equal(house_receive(pair[1], &got, &fd), FAIL_MALFORMED);
    send_raw(pair[0], &sent, sizeof(sent.message), 3);
    assert_int_equal(house_receive(pair[1], &got, &fd), FAIL_MALFORMED);
    sent.message.kind = 0;
    send_raw(pair[0], &sent, sizeof(sent.message), 1);
    assert_int_equal(house_receive(pair[1], &got, &fd), FAIL_MALFORMED);
    sent.message.kind = HOUSE_REFUSED + 1;
    send_raw(pair[0], &sent, sizeof(sent.message), 0);
    assert_int_equal(house_receive(pair[1], &got, &fd), FAIL_MALFORMED);
    sent.message.kind = HOUSE_REFUSED;
    memset(sent.message.sentence, 'x', sizeof(sent.message.sentence)); /* without an end */
    send_raw(pair[0], &sent, sizeof(sent.message), 0);
    assert_int_equal(house_receive(pair[1], &got, &fd), FAIL_MALFORMED);

    assert_int_equal(open_descriptors(), before);
    assert_int_equal(got.kind, 77);
    assert_int_equal(fd, 77);
    close(pair[0]);
    close(pair[1]);
}

/* One that ends with a message unread: the kernel says so first, and then gives its last word. */
static void hears_the_last_word_of_one_that_did_not_listen(void **state)
{
    int pair[2], fd = -1;
    struct house_message got = {0};
    (void)state;
    assert_int_equal(channel_make(pair, 0), 0);
    assert_int_equal(house_send_kind(pair[0], HOUSE_STOP, -1), 0);
    (fail)(FAIL_CONFIG, "the last word"); /* cmocka has a macro of that name */
    assert_int_equal(house_refuse(pair[1]), 0);
    close(pair[1]);
    assert_int_equal(house_receive(pair[0], &got, &fd), 0);
    assert_int_equal(got.kind, HOUSE_REFUSED);
    assert_string_equal(got.sentence, "the last word");
    assert_int_equal(house_receive(pair[0], &got, &fd), FAIL_CLOSED);
    close(pair[0]);
}

static void sees_the_other_end_close(void **state)
{
    int pair[2], fd;
    struct house_message message;
    struct keeper_request request = {.kind = REQUEST_ABANDON};
    struct keeper_answer answer = {.len = 1};
    (void)state;
    assert_int_equal(channel_make(pair, 1), 0);
    assert_int_equal(house_receive(pair[1], &message, &fd), FAIL_BUSY);
    assert_int_equal(channel_receive_request(pair[1], &request), FAIL_BUSY);
    assert_int_equal(channel_receive_answer(pair[1], &answer), FAIL_BUSY);
    close(pair[0]);
    assert_int_equal(house_receive(pair[1], &message, &fd), FAIL_CLOSED);
    assert_int_equal(house_send_kind(pair[1], HOUSE_STOP, -1), FAIL_CLOSED);
    assert_int_equal(channel_receive_request(pair[1], &request), FAIL_CLOSED);
    assert_int_equal(channel_receive_answer(pair[1], &answer), FAIL_CLOSED);
    assert_int_equal(channel_send_request(pair[1], &request), FAIL_CLOSED);
    assert_int_equal(channel_send_answer(pair[1], &answer), FAIL_CLOSED);
    close(pair[1]);
}

/* --- the request channel --- */

static struct keeper_request hello_request(void)
{
    struct keeper_request request = {.handshake = 42, .kind = REQUEST_HELLO};
    request.source.family = 4;
    strcpy(request.hello.sn, "SN-0001");
    return request;
}

static void passes_requests(void **state)
{
    int pair[2];
    struct keeper_request sent = hello_request(), got;
    (void)state;
    assert_int_equal(channel_make(pair, 1), 0);
    assert_int_equal(channel_send_request(pair[0], &sent), 0);
    assert_int_equal(channel_receive_request(pair[1], &got), 0);
    assert_memory_equal(&got, &sent, sizeof(sent));

    sent = (struct keeper_request){.kind = REQUEST_PROOF};
    sent.proof.c2_len = RSA_BLOCK_MAX;
    assert_int_equal(channel_send_request(pair[0], &sent), 0);
    assert_int_equal(channel_receive_request(pair[1], &got), 0);
    sent = (struct keeper_request){.kind = REQUEST_CONFIRM};
    sent.confirm.mac_len = MAC_MAX;
    assert_int_equal(channel_send_request(pair[0], &sent), 0);
    assert_int_equal(channel_receive_request(pair[1], &got), 0);
    close(pair[0]);
    close(pair[1]);
}

static void refuse_request(const struct keeper_request *sent, size_t len)
{
    int pair[2];
    struct keeper_request got = {.handshake = 77};
    assert_int_equal(channel_make(pair, 1), 0);
    assert_int_equal(send(pair[0], sent, len, 0), len);
    assert_int_equal(channel_receive_request(pair[1], &got), FAIL_MALFORMED);
    assert_int_equal(got.handshake, 77);
    close(pair[0]);
    close(pair[1]);
}

/* A taken-over listener says what it likes. */
static void refuses_requests_that_lead_outside(void **state)
{
    struct keeper_request sent[2] = {hello_request()};
    (void)state;
    refuse_request(sent, sizeof(sent[0]) - 1);
    refuse_request(sent, sizeof(sent[0]) + 1);
    refuse_request(sent, 1);
    sent[0].kind = 0;
    refuse_request(sent, sizeof(sent[0]));
    sent[0].kind = REQUEST_ABANDON + 1;
    refuse_request(sent, sizeof(sent[0]));

    sent[0] = hello_request();
    memset(sent[0].hello.sn, 'A', sizeof(sent[0].hello.sn));
    refuse_request(sent, sizeof(sent[0]));
    strcpy(sent[0].hello.sn, "line\nbreak");
    refuse_request(sent, sizeof(sent[0]));
    strcpy(sent[0].hello.sn, "");
    refuse_request(sent, sizeof(sent[0]));

    sent[0] = (struct keeper_request){.kind = REQUEST_PROOF};
    sent[0].proof.c2_len = RSA_BLOCK_MAX + 1;
    refuse_request(sent, sizeof(sent[0]));
    sent[0] = (struct keeper_request){.kind = REQUEST_CONFIRM};
    sent[0].confirm.mac_len = SIZE_MAX;
    refuse_request(sent, sizeof(sent[0]));
}

static void drops_descriptors_on_the_channel(void **state)
{
    int pair[2];
    struct keeper_request sent = hello_request(), got;
    (void)state;
    assert_int_equal(channel_make(pair, 1), 0);
    size_t before = open_descriptors();
    send_raw(pair[0], &sent, sizeof(sent), 3);
    assert_int_equal(channel_receive_request(pair[1], &got), 0);
    assert_int_equal(open_descriptors(), before);
    close(pair[0]);
    close(pair[1]);
}

static void passes_answers(void **state)
{
    static const uint32_t lengths[] = {1, 300, MESSAGE_MAX};
    int pair[2];
    (void)state;
    assert_int_equal(channel_make(pair, 1), 0);
    for (size_t i = 0; i < 3; i++) {
        struct keeper_answer sent = {.handshake = i, .last = 1, .len = lengths[i]}, got = {0};
        memset(sent.message, 0x5a, sent.len);
        assert_int_equal(channel_send_answer(pair[0], &sent), 0);
        assert_int_equal(channel_receive_answer(pair[1], &got), 0);
        assert_memory_equal(&got, &sent, sizeof(sent));
    }
    close(pair[0]);
    close(pair[1]);
}

static void refuses_answers_of_other_sizes(void **state)
{
    const size_t header = offsetof(struct keeper_answer, message);
    struct keeper_answer sent = {.len = 10}, got = {.handshake = 77};
    const size_t wrong[] = {1, header - 1, header, header + 9, header + 11, sizeof(sent)};
    int pair[2];
    (void)state;
    assert_int_equal(channel_make(pair, 1), 0);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(send(pair[0], &sent, wrong[i], 0), wrong[i]);
        assert_int_equal(channel_receive_answer(pair[1], &got), FAIL_MALFORMED);
    }
    sent.len = UINT32_MAX;
    assert_int_equal(send(pair[0], &sent, sizeof(sent), 0), sizeof(sent));
    assert_int_equal(channel_receive_answer(pair[1], &got), FAIL_MALFORMED);
    assert_int_equal(got.handshake, 77);

    sent.len = 0;
    assert_int_equal(channel_send_answer(pair[0], &sent), FAIL_MALFORMED);
    sent.len = MESSAGE_MAX + 1;
    assert_int_equal(channel_send_answer(pair[0], &sent), FAIL_MALFORMED);
    close(pair[0]);
    close(pair[1]);
}

static void is_busy_when_full(void **state)
{
    int pair[2], rc = 0;
    struct keeper_request sent = hello_request(), got;
    size_t count = 0, taken = 0;
    (void)state;
    assert_int_equal(channel_make(pair, 1), 0);
    for (; rc == 0 && count < 100000; count++) {
        sent.handshake = count;
        rc = channel_send_request(pair[0], &sent);
    }
    assert_int_equal(rc, FAIL_BUSY);
    while (channel_receive_request(pair[1], &got) == 0)
        assert_int_equal(got.handshake, taken++);
    assert_int_equal(taken, count - 1);
    close(pair[0]);
    close(pair[1]);
}

/* --- the cage --- */

/* What waitpid(2) says of a child that did this. */
static int status_of(void (*act)(void))
{
    int status = -1;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        act();
        _exit(0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void require(int holds)
{
    if (!holds)
        _exit(1);
}

static void close_cage(void)
{
    require(cage_harden() == 0 && cage_filter() == 0);
}

static void serve_in_cage(void)
{
    char byte;
    int pair[2], tube[2];
    struct timespec now;
    struct house_message message;
    int fd = -1;
    require(channel_make(pair, 1) == 0 && pipe(tube) == 0);
    close_cage();
    require(house_send_kind(pair[0], HOUSE_LISTEN, tube[0]) == 0);
    require(house_receive(pair[1], &message, &fd) == 0 && fd >= 0);
    require(write(tube[1], "x", 1) == 1 && read(fd, &byte, 1) == 1);
    require(clock_gettime(CLOCK_REALTIME, &now) == 0);
    require(fcntl(fd, F_DUPFD_CLOEXEC, 0) >= 0);
    char *memory = malloc(8 << 20);
    require(memory != NULL);
    memory = realloc(memory, 16 << 20);
    require(memory != NULL);
    free(memory);
    require(close(fd) == 0);
}

static void open_in_cage(void)
{
    close_cage();
    open("/dev/null", O_RDONLY);
}

static void socket_in_cage(void)
{
    close_cage();
    socket(AF_INET, SOCK_STREAM, 0);
}

static void connect_in_cage(void)
{
    struct sockaddr_un nowhere = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    close_cage();
    connect(fd, (struct sockaddr *)&nowhere, sizeof(nowhere));
}

static void execute_in_cage(void)
{
    char *const arguments[] = {NULL};
    close_cage();
    execve("/bin/true", arguments, arguments);
}

static void fork_in_cage(void)
{
    close_cage();
    fork();
}

static void trace_in_cage(void)
{
    close_cage();
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static void make_code_in_cage(void)
{
    close_cage();
    mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void map_file_in_cage(void)
{
    int fd = open("/proc/self/exe", O_RDONLY);
    close_cage();
    mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
}

static void change_descriptor_in_cage(void)
{
    close_cage();
    fcntl(0, F_SETFL, O_ASYNC);
}

static void serves_in_the_cage(void **state)
{
    (void)state;
    if (!cage_can_filter() || under_valgrind())
        skip();
    assert_int_equal(status_of(serve_in_cage), 0);
}

static void dies_by_what_the_cage_forbids(void **state)
{
    static void (*const forbidden[])(void) = {
        open_in_cage,  socket_in_cage,    connect_in_cage,  execute_in_cage,           fork_in_cage,
        trace_in_cage, make_code_in_cage, map_file_in_cage, change_descriptor_in_cage,
    };
    (void)state;
    if (!cage_can_filter() || under_valgrind())
        skip();
    for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++) {
        int status = status_of(forbidden[i]);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), SIGSYS);
    }
}

static void harden_and_look(void)
{
    struct rlimit core;
    require(cage_harden() == 0);
    require(getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 && core.rlim_max == 0);
    require(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    require(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == !cage_can_filter());
}

static void is_hardened(void **state)
{
    (void)state;
    assert_int_equal(status_of(harden_and_look), 0);
}

static void become_nobody_and_look(void)
{
    uid_t nobody = 0;
    gid_t group = 0;
    require(cage_find_user("nobody", &nobody, &group) == 0 && nobody != 0);
    require(cage_become("nobody") == 0);
    require(getuid() == nobody && geteuid() == nobody && getegid() == group);
    require(setuid(0) < 0 && seteuid(0) < 0 && setgid(0) < 0);
}

static void become_numbers_and_look(void)
{
    require(cage_become_numbers(65534, 65534) == 0);
    require(getuid() == 65534 && getgroups(0, NULL) == 0);
    require(setuid(0) < 0 && open("/etc/shadow", O_RDONLY) < 0);
}

static void change_root_and_look(void)
{
    require(cage_chroot("/proc/self") == 0);
    require(access("/status", F_OK) == 0 && access("/etc", F_OK) < 0);
}

static void gives_up_root_for_good(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(status_of(become_nobody_and_look), 0);
    assert_int_equal(status_of(become_numbers_and_look), 0);
    assert_int_equal(status_of(change_root_and_look), 0);
}

static void refuses_a_user_there_is_not(void **state)
{
    uid_t user;
    gid_t group;
    (void)state;
    assert_int_equal(cage_find_user("no-such-user", &user, &group), FAIL_CONFIG);
    assert_non_null(strstr(fail_text(), "no-such-user"));
    assert_int_equal(cage_become("no-such-user"), FAIL_CONFIG);
}

/* --- children --- */

/* The roles this program plays when child_start() executes it. */
static int role_main(const char *role, int argc)
{
    struct house_message message;
    int fd = -1;
    if (strcmp(role, "refuse") == 0)
        return CHILD_REFUSED;
    if (strcmp(role, "stubborn") == 0) {
        house_send_kind(HOUSE_FD, HOUSE_READY, -1);
        for (;;)
            pause();
    }
    if (argc != 3 || environ[0] || open_descriptors() != HOUSE_FD + 1)
        return 1;
    if (house_send_kind(HOUSE_FD, HOUSE_READY, -1) || house_receive(HOUSE_FD, &message, &fd))
        return 1;
    return message.kind != HOUSE_STOP;
}

static int wait_for_end(struct child *child, int64_t now)
{
    const struct timespec moment = {.tv_nsec = 5000000};
    int status = -1;
    for (int i = 0; i < 2000 && !child_reap(child, now, &status); i++)
        nanosleep(&moment, NULL);
    return status;
}

static void waits_longer_after_each_end(void **state)
{
    static const int64_t waits[] = {100,  200,   400,   800,   1600, 3200,
                                    6400, 12800, 25600, 30000, 30000};
    struct child child = child_make("refuse", NULL, 1);
    (void)state;
    if (under_valgrind())
        skip();
    for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++) {
        assert_int_equal(child_start(&child, 1000), 0);
        assert_true(child_is_running(&child));
        int status = wait_for_end(&child, 5000);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), CHILD_REFUSED);
        assert_false(child_is_running(&child));
        assert_int_equal(child.start_at, 5000 + waits[i]);
    }
    assert_int_equal(child_start(&child, 1000), 0);
    child.ready = 1;
    wait_for_end(&child, 61000); /* it served for a minute */
    assert_int_equal(child.start_at, 61000 + 100);
}

static void starts_a_child_with_nothing_but_its_house(void **state)
{
    struct child child = child_make("check", NULL, 1);
    struct house_message message;
    int fd = -1;
    (void)state;
    if (under_valgrind())
        skip();
    int leaked = open("/dev/null", O_RDONLY); /* not close-on-exec */
    assert_int_equal(child_start(&child, 0), 0);
    assert_int_equal(house_receive(child.house, &message, &fd), 0);
    assert_int_equal(message.kind, HOUSE_READY);
    child_stop(&child, 0, 1000);
    assert_int_equal(wait_for_end(&child, 0), 0);
    assert_int_equal(child.house, -1);
    close(leaked);
}

static void kills_a_child_that_does_not_stop(void **state)
{
    struct child child = child_make("stubborn", NULL, 1);
    struct house_message message;
    int fd = -1, status = 0;
    (void)state;
    if (under_valgrind())
        skip();
    assert_int_equal(child_start(&child, 0), 0);
    assert_int_equal(house_receive(child.house, &message, &fd), 0);
    child_stop(&child, 0, 1000);
    child_kill_if_late(&child, 999);
    usleep(20000);
    assert_false(child_reap(&child, 999, &status));
    child_kill_if_late(&child, 1000);
    status = wait_for_end(&child, 1000);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

/* --- sockets, lock, sources --- */

static void listens_where_it_is_told(void **state)
{
    static const char *const wrong[] = {"",           "127.0.0.1", ":80",     "localhost:1",
                                        "127.0.0.1:", "[::1]",     "[::1:80", "1.2.3.4:x"};
    char text[ADDRESS_TEXT_MAX];
    int fd = -1;
    (void)state;
    assert_int_equal(address_listen("127.0.0.1:0", &fd), 0);
    assert_int_equal(address_of_socket(fd, text), 0);
    assert_int_equal(strncmp(text, "127.0.0.1:", 10), 0);
    assert_int_not_equal(strtol(text + 10, NULL, 10), 0);
    int other = -1;
    assert_int_equal(address_listen(text, &other), FAIL_SYSTEM);
    assert_non_null(strstr(fail_text(), text));
    close(fd);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(address_listen(wrong[i], &other), FAIL_CONFIG);
    assert_int_equal(other, -1);
}

static void listens_on_ipv6(void **state)
{
    char text[ADDRESS_TEXT_MAX];
    int fd = -1;
    (void)state;
    if (address_listen("[::1]:0", &fd))
        skip(); /* a machine without IPv6 */
    assert_int_equal(address_of_socket(fd, text), 0);
    assert_int_equal(strncmp(text, "[::1]:", 6), 0);
    close(fd);
}

static char directory[] = "/tmp/test_house_XXXXXX";

static int make_directory(void **state)
{
    (void)state;
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
    (void)state;
    return rmdir(directory);
}

static const char *path_in_directory(const char *name)
{
    static char path[sizeof(directory) + 32];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    return path;
}

static void makes_a_private_control_socket(void **state)
{
    const char *path = path_in_directory("control");
    struct stat status;
    int first = -1, second = -1;
    (void)state;
    assert_int_equal(control_socket_listen(path, (uid_t)-1, (gid_t)-1, &first), 0);
    assert_int_equal(stat(path, &status), 0);
    assert_true(S_ISSOCK(status.st_mode));
    assert_int_equal(status.st_mode & 0777, 0600);
    close(first); /* and leaves its name, as a kill does */
    assert_int_equal(control_socket_listen(path, (uid_t)-1, (gid_t)-1, &second), 0);
    close(second);
    assert_int_equal(unlink(path), 0);
}

static void does_not_remove_a_file_for_its_socket(void **state)
{
    const char *path = path_in_directory("file");
    char too_long[200];
    int fd = open(path, O_CREAT | O_WRONLY, 0600), control = -1;
    (void)state;
    close(fd);
    assert_int_equal(control_socket_listen(path, (uid_t)-1, (gid_t)-1, &control), FAIL_CONFIG);
    assert_int_equal(unlink(path), 0);
    memset(too_long, 'a', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = '\0';
    assert_int_equal(control_socket_listen(too_long, (uid_t)-1, (gid_t)-1, &control), FAIL_CONFIG);
    assert_int_equal(control, -1);
}

static void locks_the_registry_once(void **state)
{
    const char *path = path_in_directory("registry.db");
    char pid[32];
    int first = -1, second = -1;
    (void)state;
    assert_int_equal(lock_take(path, &first), 0);
    assert_int_equal(lock_take(path, &second), FAIL_BUSY);
    snprintf(pid, sizeof(pid), "(pid %ld)", (long)getpid());
    assert_non_null(strstr(fail_text(), pid));
    assert_int_equal(second, -1);
    close(first);
    assert_int_equal(lock_take(path, &second), 0);
    close(second);
    assert_int_equal(unlink(path_in_directory("registry.db.lock")), 0);
    assert_int_equal(lock_take("/no-such-directory/registry.db", &first), FAIL_SYSTEM);
}

static void locks_nothing_but_a_file_of_its_own(void **state)
{
    char other[sizeof(directory) + 32];
    int lock = -1;
    (void)state;
    snprintf(other, sizeof(other), "%s", path_in_directory("other"));
    int file = open(other, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(file, "precious", 8), 8);
    assert_int_equal(link(other, path_in_directory("registry.db.lock")), 0);
    assert_int_equal(lock_take(path_in_directory("registry.db"), &lock), FAIL_CONFIG);
    assert_int_equal(lseek(file, 0, SEEK_END), 8);
    close(file);
    assert_int_equal(unlink(other), 0);
    assert_int_equal(unlink(path_in_directory("registry.db.lock")), 0);
    assert_int_equal(mkfifo(path_in_directory("registry.db.lock"), 0600), 0);
    assert_int_equal(lock_take(path_in_directory("registry.db"), &lock), FAIL_CONFIG);
    assert_int_equal(unlink(path_in_directory("registry.db.lock")), 0);
    assert_int_equal(lock, -1);
}

/* The server started as root made the lock; the keeper's user must be able to take it later. */
static void lock_belongs_to_owner_of_directory(void **state)
{
    const uid_t daemon = 1;
    struct stat status;
    int lock = -1;
    (void)state;
    if (geteuid() != 0)
        skip();
    assert_int_equal(chown(path_in_directory("."), daemon, daemon), 0);
    assert_int_equal(lock_take(path_in_directory("registry.db"), &lock), 0);
    assert_int_equal(fstat(lock, &status), 0);
    assert_int_equal(status.st_uid, daemon);
    close(lock);
    unlink(path_in_directory("registry.db.lock"));
    assert_int_equal(chown(path_in_directory("."), 0, 0), 0);
}

static void counts_by_address_not_port(void **state)
{
    struct source_table *table = NULL;
    struct source v4 = {.family = 4, .address = {127, 0, 0, 1}, .port = 1000};
    struct source same = {.family = 4, .address = {127, 0, 0, 1}, .port = 1001};
    struct source v6 = {.family = 6, .address = {127, 0, 0, 1}, .port = 1000};
    (void)state;
    assert_int_equal(source_table_new(2, &table), 0);
    assert_int_equal(source_table_enter(table, &v4), 0);
    assert_int_equal(source_table_enter(table, &same), 0);
    assert_int_equal(source_table_enter(table, &v4), FAIL_BUSY);
    assert_int_equal(source_table_enter(table, &v6), 0);
    source_table_leave(table, &same);
    assert_int_equal(source_table_enter(table, &v4), 0);
    assert_int_equal(source_table_enter(table, &same), FAIL_BUSY);
    source_table_leave(table, &v4);
    source_table_leave(table, &v4);
    source_table_leave(table, &v4); /* one more than entered */
    assert_int_equal(source_table_enter(table, &v4), 0);
    source_table_free(table); /* with two inside */
    source_table_free(NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_settings_whole),
        cmocka_unit_test(passes_a_descriptor),
        cmocka_unit_test(refuses_house_messages_of_other_size_or_kind),
        cmocka_unit_test(hears_the_last_word_of_one_that_did_not_listen),
        cmocka_unit_test(sees_the_other_end_close),
        cmocka_unit_test(passes_requests),
        cmocka_unit_test(refuses_requests_that_lead_outside),
        cmocka_unit_test(drops_descriptors_on_the_channel),
        cmocka_unit_test(passes_answers),
        cmocka_unit_test(refuses_answers_of_other_sizes),
        cmocka_unit_test(is_busy_when_full),
        cmocka_unit_test(serves_in_the_cage),
        cmocka_unit_test(dies_by_what_the_cage_forbids),
        cmocka_unit_test(is_hardened),
        cmocka_unit_test(gives_up_root_for_good),
        cmocka_unit_test(refuses_a_user_there_is_not),
        cmocka_unit_test(waits_longer_after_each_end),
        cmocka_unit_test(starts_a_child_with_nothing_but_its_house),
        cmocka_unit_test(kills_a_child_that_does_not_stop),
        cmocka_unit_test(listens_where_it_is_told),
        cmocka_unit_test(listens_on_ipv6),
        cmocka_unit_test(makes_a_private_control_socket),
        cmocka_unit_test(does_not_remove_a_file_for_its_socket),
        cmocka_unit_test(locks_the_registry_once),
        cmocka_unit_test(locks_nothing_but_a_file_of_its_own),
        cmocka_unit_test(lock_belongs_to_owner_of_directory),
        cmocka_unit_test(counts_by_address_not_port),
    };
    if (argc > 2 && strcmp(argv[1], "--role") == 0)
        return role_main(argv[2], argc);
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
