/*
 * Test cases, each in a process of its own, because a process has one host for good. Results are
 * TAP on standard output. The first failed check ends its case.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef TEST_H
#define TEST_H

#include "host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

typedef struct TestCase {
    const char *name;
    void (*run)(void);
    /* In which hosts it runs; 0: in none, the case gives hooks itself if it wants any. */
    unsigned hosts;
} TestCase;

/* Runs the cases whose names contain argv[1], or all, in the hosts that the environment's
 * LAIO_TEST_HOSTS lists (their names, with commas), or in all. */
int test_main(int argc, char **argv, const TestCase *cases, size_t count);
#define TEST_MAIN(cases)                                                                           \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return test_main(argc, argv, cases, sizeof(cases) / sizeof((cases)[0]));                   \
    }

_Noreturn void test_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define FAIL(...) test_fail(__FILE__, __LINE__, __VA_ARGS__)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            FAIL("%s", #condition);                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_COMPARE(a, operator, b)                                                              \
    do {                                                                                           \
        long long check_a = (long long)(a), check_b = (long long)(b);                              \
        if (!(check_a operator check_b)) {                                                         \
            FAIL("%s " #operator" %s: %lld and %lld", #a, #b, check_a, check_b);                   \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(a, b) CHECK_COMPARE(a, ==, b)
#define CHECK_LE(a, b) CHECK_COMPARE(a, <=, b)
#define CHECK_GE(a, b) CHECK_COMPARE(a, >=, b)

/* The library has said one line that contains `text`, and nothing else since the last time.
 * A case that ends with lines that nobody expected fails. */
void test_expect_log(const char *file, int line, const char *text);
#define EXPECT_LOG(text) test_expect_log(__FILE__, __LINE__, text)
void test_expect_no_log(const char *file, int line);
#define EXPECT_NO_LOG() test_expect_no_log(__FILE__, __LINE__)

/* What the library has said since the last time, for a case that must look into it; to be freed. */
char *test_take_log(void);

/* Ends the case: it cannot run here, and `format` says why. */
_Noreturn void test_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A process that takes longer hangs, and fails. In the child of a fork, too, which has no alarm of
 * its parent's, and where it is the first of its PID namespace. */
void test_watch(unsigned seconds);

/* What the case is at, for the report if it fails. */
void test_context(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A line of the report that is neither success nor failure. */
void test_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* `count`, divided by the environment's LAIO_TEST_SCALE, but not below `least`. */
unsigned test_scaled(unsigned count, unsigned least);

/* A new file without a name, on a file system with O_DIRECT, opened with `flags`. */
int test_file(int flags);
/* The same file, opened again. */
int test_reopen(int fd, int flags);
/* A number that no descriptor has, and none gets: whatever the library opens meanwhile has a lower
 * one. */
int test_closed_descriptor(void);

/* Waits for a child, which must end with this exit code. */
#define WAIT_FOR(child, code) test_wait_for(__FILE__, __LINE__, child, code)
void test_wait_for(const char *file, int line, pid_t child, int code);

/* How many descriptors the process has open. */
unsigned test_descriptors(void);

/* Seconds on a clock that only goes forward. */
double test_now(void);

/* Numbers that look random, the same in each run. */
uint64_t test_random(uint64_t *state);

#endif
