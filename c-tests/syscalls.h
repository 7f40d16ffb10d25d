/*
 * For test code that takes over libc's syscall(), by which the library makes its system calls: what is
 * behind it, and the arguments of a call.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SYSCALLS_H
#define SYSCALLS_H

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static long (*real_syscall)(long number, ...);

__attribute__((constructor)) static void find_real_syscall(void)
{
    *(void **)&real_syscall = dlsym(RTLD_NEXT, "syscall");
    if (!real_syscall) {
        fprintf(stderr, "no syscall() behind the one that a test has taken over\n");
        abort();
    }
}

/* All that a call may have, whatever its caller gave. */
static inline void syscall_arguments(long arguments[6], va_list list)
{
    for (int i = 0; i < 6; i++) {
        arguments[i] = va_arg(list, long);
    }
}

static inline long call_through(long number, const long a[6])
{
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

#endif
