/*
 * Deferred calls: gathered in a section, made once each when the outermost section ends.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#include "host.h"

#include <stdio.h>
#include <stdlib.h>

enum { CALLS_MAX = 64 };

typedef struct Call {
    LaioHostFunc fn;
    void *opaque;
} Call;

typedef struct Section {
    unsigned nesting;
    unsigned count;
    Call calls[CALLS_MAX];
} Section;

static __thread Section section;

static void die(const char *why)
{
    fprintf(stderr, "deferred calls: %s\n", why);
    abort();
}

void host_defer_begin(void)
{
    section.nesting++;
}

void host_defer_call(LaioHostFunc fn, void *opaque)
{
    if (section.nesting == 0) {
        fn(opaque);
        return;
    }
    for (unsigned i = 0; i < section.count; i++) {
        if (section.calls[i].fn == fn && section.calls[i].opaque == opaque) {
            return;
        }
    }
    if (section.count == CALLS_MAX) {
        die("too many");
    }
    section.calls[section.count++] = (Call){fn, opaque};
}

static void run_as_qemu(void)
{
    for (unsigned i = 0; i < section.count; i++) {
        section.calls[i].fn(section.calls[i].opaque);
    }
    section.count = 0;
}

static void run_strictly_once(void)
{
    while (section.count > 0) {
        Call call = section.calls[--section.count];
        call.fn(call.opaque);
    }
}

void host_defer_end(void)
{
    if (section.nesting == 0) {
        die("a section ended that was not begun");
    }
    if (--section.nesting > 0) {
        return;
    }
    if (host->deferral == DEFER_AS_QEMU) {
        run_as_qemu();
    } else {
        run_strictly_once();
    }
}
