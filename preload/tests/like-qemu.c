/*
 * What laio-run --check sees of one of QEMU's programs: a version, links, exported names, and with BENCH in
 * the environment how `qemu-img bench` ends. Compiled several times, with what each is to have.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT(name)                                                                               \
    void name(void);                                                                               \
    void name(void)                                                                                \
    {                                                                                              \
    }

#ifdef HAS_FUNCTIONS
EXPORT(aio_poll)
#endif
#ifdef HAS_DEFER_CALL
EXPORT(defer_call)
#endif
#ifdef HAS_LURING_INIT
EXPORT(luring_init)
#endif
#ifdef HAS_LAIO
EXPORT(laio_set_host_ops)
#endif

#ifdef SUBMITS
int io_submit(void *context, long count, void **iocbs);
int io_uring_submit(void *ring);
#endif
#ifdef REAPS
int io_getevents(void *context, long least, long most, void *events, void *timeout);
#endif

static int bench(void)
{
    const char *end = getenv("BENCH");

    if (end == NULL || strcmp(end, "fails") == 0) {
        fprintf(stderr, "cannot open it\n");
        return 1;
    }
    if (strcmp(end, "dies") == 0) {
        raise(SIGSEGV);
    }
    if (strcmp(end, "aborts") == 0) {
        raise(SIGABRT);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        return bench();
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
#ifdef VERSION
        printf("%s version %s\n", PROGRAM, VERSION);
        return 0;
#else
        return 3;
#endif
    }
    /* Linked to these, and not called. */
#ifdef REAPS
    if (argc > 3) {
        return io_getevents(NULL, 0, 0, NULL, NULL);
    }
#endif
#ifdef SUBMITS
    if (argc > 2) {
        io_uring_submit(NULL);
        return io_submit(NULL, 0, NULL);
    }
#endif
    return 0;
}
