/* The command line of laio-bench. SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <laio.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#ifndef LAIO_BENCH_VERSION
#define LAIO_BENCH_VERSION "(unversioned build)"
#endif

enum {
    MAX_DEPTH = 65536,
    MAX_SIZE = 1 << 30,
    MAX_SUBMIT_DEPTH = 64,
};

enum {
    OPT_DIRECT = 256,
    OPT_VERIFY,
    OPT_VERIFY_ONLY,
    OPT_SEED,
    OPT_JSON,
    OPT_OFFSET,
    OPT_MAX_DEPTH,
    OPT_KERNEL,
    OPT_YES,
    OPT_HELP,
    OPT_VERSION,
};

static const char help[] =
    "Usage: laio-bench [OPTION]... IMAGE\n"
    "Reads (or writes) IMAGE, a regular file or block device, through liblaio and reports\n"
    "requests/s, bandwidth, latency, and the library's statistics.\n"
    "\n"
    "  -w              write; overwrites what is in IMAGE, but never makes it longer\n"
    "  -r              at random offsets, multiples of the size; default is sequentially,\n"
    "                  beginning again at the end of IMAGE\n"
    "  -d DEPTH        requests outstanding at once, 1 to 65536; default 32\n"
    "  -s SIZE         bytes a request, up to 1g; default 4k\n"
    "  -c COUNT        requests in all; default 100000\n"
    "  --offset BYTES  leave alone what is before this offset of IMAGE\n"
    "  --direct        bypass the page cache (O_DIRECT)\n"
    "  --verify        write a pattern, flush, read it back and compare every byte;\n"
    "                  overwrites what is in IMAGE, as -w does\n"
    "  --verify-only   only read back and compare, what --verify wrote with the same --seed,\n"
    "                  -r, -s, -c and --offset\n"
    "  --seed N        for the pattern and the random offsets; default is another each time\n"
    "  --kernel NAME   the kernel's interface: linux-aio, io_uring or auto; default is auto\n"
    "  --max-depth N   the library's bound on nested submission, 1 to 64; default 8\n"
    "  --yes           do write to a block device\n"
    "  --json          machine-readable output\n"
    "  --help, --version\n"
    "\n"
    "SIZE and BYTES take the suffixes k, m, g and t, powers of 1024. Progress is shown when\n"
    "standard error is a terminal. A signal (Ctrl-C) ends the run with the summary so far.\n"
    "\n"
    "Exit status: 0 success; 1 an I/O error or a wrong byte; 2 bad usage; 128+n after signal n.\n";

const char *kernel_name(unsigned kernel)
{
    switch (kernel) {
    case LAIO_KERNEL_LINUX_AIO:
        return "linux-aio";
    case LAIO_KERNEL_IO_URING:
        return "io_uring";
    default:
        return "auto";
    }
}

void die(int status, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("laio-bench: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(status);
}

/* A decimal number; what follows it is left at *end. strtoull() would take "-1" and " 1" too. */
static bool parse_digits(const char *text, uint64_t *value, const char **end)
{
    char *rest;

    if (*text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    *value = strtoull(text, &rest, 10);
    *end = rest;
    return errno == 0;
}

static unsigned suffix_shift(char suffix)
{
    switch (suffix) {
    case 'k':
    case 'K':
        return 10;
    case 'm':
    case 'M':
        return 20;
    case 'g':
    case 'G':
        return 30;
    case 't':
    case 'T':
        return 40;
    default:
        return 0;
    }
}

static uint64_t number(const char *option, const char *text, uint64_t min, uint64_t max)
{
    const char *end;
    uint64_t value;

    if (!parse_digits(text, &value, &end) || *end) {
        die(EXIT_USAGE, "%s %s: not a number", option, text);
    }
    if (value < min || value > max) {
        die(EXIT_USAGE, "%s %s: must be %llu to %llu", option, text, (unsigned long long)min,
            (unsigned long long)max);
    }
    return value;
}

static uint64_t bytes(const char *option, const char *text, uint64_t min, uint64_t max)
{
    const char *end;
    uint64_t value;
    unsigned shift;

    if (!parse_digits(text, &value, &end)) {
        die(EXIT_USAGE, "%s %s: not a number of bytes", option, text);
    }
    shift = suffix_shift(*end);
    if (end[shift ? 1 : 0]) {
        die(EXIT_USAGE, "%s %s: not a number of bytes (suffixes are k, m, g, t)", option, text);
    }
    if (value > max >> shift || value << shift < min) {
        die(EXIT_USAGE, "%s %s: must be %llu to %llu bytes", option, text, (unsigned long long)min,
            (unsigned long long)max);
    }
    return value << shift;
}

static unsigned kernel(const char *name)
{
    for (unsigned i = LAIO_KERNEL_AUTO; i <= LAIO_KERNEL_IO_URING; i++) {
        if (!strcmp(name, kernel_name(i))) {
            return i;
        }
    }
    die(EXIT_USAGE, "--kernel %s: must be linux-aio, io_uring or auto", name);
}

static uint64_t random_seed(void)
{
    uint32_t seed; /* short enough to be typed again */

    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed)) {
        die(EXIT_IO, "getrandom(2): %s", strerror(errno));
    }
    return seed;
}

static _Noreturn void print_and_exit(const char *text)
{
    bool written = fputs(text, stdout) >= 0 && fflush(stdout) == 0;

    exit(written ? EXIT_SUCCESS : EXIT_IO);
}

/* getopt_long(3) leaves the short ones in optopt and the long ones behind optind. */
static _Noreturn void bad_option(const char *what, char **argv)
{
    if (optopt > 0 && optopt < 256) {
        die(EXIT_USAGE, "-%c: %s (see --help)", optopt, what);
    }
    die(EXIT_USAGE, "%s: %s (see --help)", argv[optind - 1], what);
}

static const struct option long_options[] = {
    {"direct", no_argument, NULL, OPT_DIRECT},
    {"verify", no_argument, NULL, OPT_VERIFY},
    {"verify-only", no_argument, NULL, OPT_VERIFY_ONLY},
    {"seed", required_argument, NULL, OPT_SEED},
    {"json", no_argument, NULL, OPT_JSON},
    {"offset", required_argument, NULL, OPT_OFFSET},
    {"max-depth", required_argument, NULL, OPT_MAX_DEPTH},
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"yes", no_argument, NULL, OPT_YES},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

static bool take(Options *options, int option, const char *value)
{
    switch (option) {
    case 'w':
        options->write = true;
        return true;
    case 'r':
        options->random = true;
        return true;
    case 'd':
        options->depth = (unsigned)number("-d", value, 1, MAX_DEPTH);
        return true;
    case 's':
        options->size = bytes("-s", value, 1, MAX_SIZE);
        return true;
    case 'c':
        options->count = number("-c", value, 1, UINT64_MAX);
        return true;
    case OPT_DIRECT:
        options->direct = true;
        return true;
    case OPT_VERIFY:
        options->verify = true;
        return true;
    case OPT_VERIFY_ONLY:
        options->verify_only = true;
        return true;
    case OPT_SEED:
        options->seed = number("--seed", value, 0, UINT64_MAX);
        return true;
    case OPT_JSON:
        options->json = true;
        return true;
    case OPT_OFFSET:
        options->offset = bytes("--offset", value, 0, INT64_MAX);
        return true;
    case OPT_MAX_DEPTH:
        options->max_submit_depth = (unsigned)number("--max-depth", value, 1, MAX_SUBMIT_DEPTH);
        return true;
    case OPT_KERNEL:
        options->kernel = kernel(value);
        return true;
    case OPT_YES:
        options->yes = true;
        return true;
    default:
        return false;
    }
}

static void check_combination(const Options *options, bool seed_given)
{
    if (options->verify && options->verify_only) {
        die(EXIT_USAGE, "--verify and --verify-only exclude each other");
    }
    if (options->write && options->verify_only) {
        die(EXIT_USAGE, "-w and --verify-only exclude each other: it only reads");
    }
    if (options->verify_only && !seed_given) {
        die(EXIT_USAGE, "--verify-only: needs the --seed that --verify wrote with");
    }
}

void options_parse(Options *options, int argc, char **argv)
{
    bool seed_given = false;
    int option;

    *options = (Options){.depth = 32, .size = 4096, .count = 100000};
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":wrd:s:c:h", long_options, NULL)) != -1) {
        if (option == OPT_HELP || option == 'h') {
            print_and_exit(help);
        } else if (option == OPT_VERSION) {
            print_and_exit("laio-bench " LAIO_BENCH_VERSION "\n");
        } else if (option == ':') {
            bad_option("needs a value", argv);
        } else if (!take(options, option, optarg)) {
            bad_option("unknown option, or one with a value too many", argv);
        }
        seed_given |= option == OPT_SEED;
    }
    if (argc - optind != 1) {
        die(EXIT_USAGE, "%s",
            argc == optind ? "IMAGE is missing (see --help)" : "more than one IMAGE given");
    }
    options->image = argv[optind];
    check_combination(options, seed_given);
    options->write |= options->verify;
    if (!seed_given) {
        options->seed = random_seed();
    }
}
