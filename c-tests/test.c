/* SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A case that takes longer hangs. */
enum { CASE_SECONDS = 180 };
/* Exit code of a case that cannot run here. */
enum { SKIPPED = 77 };

/* Standard error of the case, where the library may report something. */
static int captured = -1;
static off_t captured_seen;
/* Where failures are printed. */
static FILE *report_to;
static char context[256];

static void die(const char *what)
{
    printf("Bail out! %s: %s\n", what, strerror(errno));
    exit(2);
}

/* Prints `text`, each line as a comment of TAP. */
static void print_comment(const char *text)
{
    while (*text) {
        size_t length = strcspn(text, "\n");
        fprintf(report_to, "#   %.*s\n", (int)length, text);
        text += length + (text[length] == '\n');
    }
}

void test_note(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    print_comment(text);
    fflush(report_to);
}

void test_context(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof(context), format, arguments);
    va_end(arguments);
}

void test_fail(const char *file, int line, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fprintf(report_to, "#   %s:%d: %s%s%s\n", file, line, text, *context ? "; " : "", context);
    fflush(report_to);
    _exit(1);
}

void test_skip(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    test_note("skipped: %s", text);
    _exit(SKIPPED);
}

/* Says what the case was at. */
static void report_signal(const char *what)
{
    char text[sizeof(context) + 64] = "#   ";
    strcat(strcat(strcat(strcat(text, what), "; "), context), "\n");
    if (write(STDOUT_FILENO, text, strlen(text)) < 0) {
        _exit(2);
    }
}

static void hangs(int number)
{
    (void)number;
    report_signal("hangs");
    _exit(1);
}

static void dies(int number)
{
    report_signal(number == SIGABRT ? "aborts" : "crashes");
    signal(number, SIG_DFL);
    raise(number);
}

void test_watch(unsigned seconds)
{
    /* The first process of a PID namespace survives what it does not handle. */
    signal(SIGALRM, hangs);
    signal(SIGABRT, dies);
    signal(SIGSEGV, dies);
    alarm(seconds);
}

void test_wait_for(const char *file, int line, pid_t child, int code)
{
    int status;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            test_fail(file, line, "waitpid: %s", strerror(errno));
        }
    }
    if (WIFSIGNALED(status)) {
        test_fail(file, line, "the child has died of: %s", strsignal(WTERMSIG(status)));
    }
    if (WEXITSTATUS(status) != code) {
        test_fail(file, line, "the child's exit code is %d, and not %d", WEXITSTATUS(status), code);
    }
}

unsigned test_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory);
    while (readdir(directory)) {
        count++;
    }
    closedir(directory);
    return count;
}

double test_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

/* What was written to standard error and not taken yet; to be freed. */
static char *take_captured(void)
{
    off_t end = lseek(captured, 0, SEEK_END);
    size_t bytes = end > captured_seen ? (size_t)(end - captured_seen) : 0;
    char *text = calloc(1, bytes + 1);
    if (!text || pread(captured, text, bytes, captured_seen) != (ssize_t)bytes) {
        FAIL("cannot read what was written to standard error");
    }
    captured_seen = end;
    return text;
}

char *test_take_log(void)
{
    char *from_hook = host_take_log();
    char *from_stderr = take_captured();
    if (!from_hook) {
        return from_stderr;
    }
    size_t bytes = strlen(from_hook) + strlen(from_stderr) + 1;
    char *both = malloc(bytes);
    CHECK(both);
    snprintf(both, bytes, "%s%s", from_hook, from_stderr);
    free(from_hook);
    free(from_stderr);
    return both;
}

void test_expect_log(const char *file, int line, const char *text)
{
    char *log = test_take_log();
    size_t length = strlen(log);
    bool one_line = length > 0 && strchr(log, '\n') == log + length - 1;
    if (!one_line || !strstr(log, text)) {
        test_fail(file, line, "expected one line with \"%s\", got \"%s\"", text, log);
    }
    free(log);
}

void test_expect_no_log(const char *file, int line)
{
    char *log = test_take_log();
    if (*log) {
        test_fail(file, line, "unexpected: \"%s\"", log);
    }
    free(log);
}

unsigned test_scaled(unsigned count, unsigned least)
{
    const char *scale = getenv("LAIO_TEST_SCALE");
    unsigned long divisor = scale ? strtoul(scale, NULL, 10) : 1;
    if (divisor == 0 || divisor > UINT_MAX) {
        FAIL("LAIO_TEST_SCALE is \"%s\" and not a positive number", scale);
    }
    unsigned scaled = count / (unsigned)divisor;
    return scaled > least ? scaled : least;
}

int test_file(int flags)
{
    const char *directory = getenv("LAIO_TEST_DIR");
    char name[PATH_MAX];
    snprintf(name, sizeof(name), "%s/laio-test-XXXXXX", directory ? directory : ".");
    int fd = mkostemp(name, O_CLOEXEC | flags);
    if (fd < 0) {
        FAIL("cannot make a file in the directory %s (LAIO_TEST_DIR): %s",
             directory ? directory : ".", strerror(errno));
    }
    unlink(name);
    return fd;
}

int test_reopen(int fd, int flags)
{
    char name[64];
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    int again = open(name, flags | O_CLOEXEC);
    if (again < 0) {
        FAIL("cannot open the test file again with flags %#x: %s", flags, strerror(errno));
    }
    return again;
}

int test_closed_descriptor(void)
{
    enum { HIGH = 900 };
    int closed = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, HIGH);
    if (closed < 0) {
        FAIL("cannot have a descriptor of %d or more: %s", HIGH, strerror(errno));
    }
    close(closed);
    return closed;
}

uint64_t test_random(uint64_t *state)
{
    /* splitmix64, by Sebastiano Vigna, who put it into the public domain. */
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

/* In the process of the case. */
static _Noreturn void run_case(const TestCase *test, const HostVariant *variant)
{
    int real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    report_to = stdout;
    if (real_stderr < 0 || dup2(captured, STDERR_FILENO) < 0) {
        die("cannot redirect standard error");
    }
    alarm(CASE_SECONDS);
    if (variant) {
        host_start(variant);
    }
    test->run();
    EXPECT_NO_LOG();
    coroutine_thread_done();
    close(real_stderr);
    exit(0);
}

static bool skipped(int status)
{
    return WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED;
}

static bool describe_end(int status)
{
    if (skipped(status) || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) {
        return true;
    }
    if (WIFSIGNALED(status)) {
        int number = WTERMSIG(status);
        printf("#   %s\n", number == SIGALRM ? "hangs" : strsignal(number));
    } else if (WEXITSTATUS(status) != 1) {
        printf("#   exit code %d\n", WEXITSTATUS(status));
    }
    char *text = take_captured();
    print_comment(text);
    free(text);
    return false;
}

static bool run(const TestCase *test, const HostVariant *variant, unsigned number)
{
    captured = memfd_create("captured", MFD_CLOEXEC);
    captured_seen = 0;
    fflush(NULL);
    pid_t child = captured < 0 ? -1 : fork();
    if (child < 0) {
        die("cannot start a process");
    }
    if (child == 0) {
        run_case(test, variant);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            die("waitpid");
        }
    }
    bool ok = describe_end(status);
    printf("%s %u - %s%s%s%s\n", ok ? "ok" : "not ok", number, test->name, variant ? ", host " : "",
           variant ? variant->name : "", skipped(status) ? " # SKIP" : "");
    close(captured);
    return ok;
}

static bool wanted(const TestCase *test, const char *filter)
{
    return !filter || strstr(test->name, filter);
}

/* The variants that the environment's LAIO_TEST_HOSTS names, or all. */
static unsigned wanted_hosts(void)
{
    const char *names = getenv("LAIO_TEST_HOSTS");
    unsigned hosts = 0;
    if (!names) {
        return HOST_ANY;
    }
    while (*names) {
        size_t length = strcspn(names, ",");
        int v = 0;
        while (v < HOST_VARIANTS && (strlen(host_variants[v].name) != length ||
                                     strncmp(host_variants[v].name, names, length) != 0)) {
            v++;
        }
        if (v == HOST_VARIANTS) {
            printf("Bail out! LAIO_TEST_HOSTS names a host that there is not: %s\n", names);
            exit(2);
        }
        hosts |= 1u << v;
        names += length + (names[length] == ',');
    }
    return hosts;
}

int test_main(int argc, char **argv, const TestCase *cases, size_t count)
{
    const char *filter = argc > 1 ? argv[1] : NULL;
    unsigned number = 0, failed = 0;
    unsigned hosts = wanted_hosts();
    report_to = stdout;
    for (size_t i = 0; i < count; i++) {
        if (!wanted(&cases[i], filter)) {
            continue;
        }
        if (cases[i].hosts == 0) {
            failed += !run(&cases[i], NULL, ++number);
        }
        for (int v = 0; v < HOST_VARIANTS; v++) {
            if (cases[i].hosts & hosts & (1u << v)) {
                failed += !run(&cases[i], &host_variants[v], ++number);
            }
        }
    }
    printf("1..%u\n", number);
    return failed > 0;
}
