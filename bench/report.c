/* What laio-bench prints in the end. SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

typedef struct Percentile {
    const char *name;
    unsigned permille;
} Percentile;

static const Percentile percentiles[] = {
    {"p50", 500},
    {"p90", 900},
    {"p99", 990},
    {"p99.9", 999},
};

enum { PERCENTILES = sizeof(percentiles) / sizeof(percentiles[0]) };

static double seconds(const Pass *pass)
{
    return (double)pass->elapsed_ns / 1e9;
}

/* 0 for a pass that was too short to tell. */
static double requests_per_second(const Pass *pass)
{
    return pass->elapsed_ns ? (double)pass->completed / seconds(pass) : 0;
}

static double bytes_per_second(const Options *options, const Pass *pass)
{
    return requests_per_second(pass) * (double)options->size;
}

static const char *operation_name(const Pass *pass)
{
    return pass->operation == OP_WRITE ? "write" : "read";
}

static void print_bytes(uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    unsigned unit = 0;

    while (unit < 4 && bytes >= 1024 && bytes % 1024 == 0) {
        bytes /= 1024;
        unit++;
    }
    printf("%" PRIu64 " %s", bytes, units[unit]);
}

static void print_latency(uint64_t ns)
{
    if (ns < 10000) {
        printf(" %" PRIu64 " ns", ns);
    } else if (ns < 10000000) {
        printf(" %.1f us", (double)ns / 1e3);
    } else {
        printf(" %.1f ms", (double)ns / 1e6);
    }
}

static void print_heading(const Options *options, const Image *image)
{
    printf("%s: ", options->image);
    print_bytes(image->size);
    printf(", %s; %s requests of ", options->direct ? "O_DIRECT" : "through the page cache",
           options->random ? "random" : "sequential");
    print_bytes(options->size);
    printf(", depth %u, seed %" PRIu64 "\n", options->depth, options->seed);
}

static void print_histogram(const char *what, const Histogram *histogram)
{
    printf("  %-11s", what);
    for (unsigned i = 0; i < PERCENTILES; i++) {
        printf(" %s", percentiles[i].name);
        print_latency(histogram_percentile(histogram, percentiles[i].permille));
        printf(",");
    }
    printf(" max");
    print_latency(histogram->max);
    printf("\n");
}

static void print_pass(const Options *options, const Pass *pass)
{
    printf("%-13s %" PRIu64 " requests in %.3f s: %.0f requests/s, %.1f MiB/s%s\n",
           operation_name(pass), pass->completed, seconds(pass), requests_per_second(pass),
           bytes_per_second(options, pass) / (1 << 20),
           pass->verified ? "; every byte compared" : "");
    print_histogram("latency", &pass->latency_ns);
    print_histogram("loop held", &pass->held_ns);
}

static void print_stats(const LaioStats *stats)
{
    printf("library       %" PRIu64 " submitted, %" PRIu64 " completed, %" PRIu64 " failed, "
           "%" PRIu64 " retried, %" PRIu64 " in queue, %" PRIu64 " in flight\n",
           stats->submitted, stats->completed, stats->failed, stats->retried, stats->in_queue,
           stats->in_flight);
    printf("%-13s %" PRIu64 " calls, largest batch %" PRIu64 ", %" PRIu64 " times EAGAIN\n",
           stats->kernel == LAIO_KERNEL_IO_URING ? "io_uring" : "io_submit(2)",
           stats->io_submit_calls, stats->largest_batch, stats->eagain);
    printf("nesting       deepest %" PRIu64 ", bound %u; %" PRIu64 " times at the bound, %" PRIu64
           " times resumed by completion_bh\n",
           stats->deepest_nesting, laio_max_submit_depth(), stats->at_bound, stats->bh_resumptions);
}

void report_human(const Options *options, const Image *image, const Result *result)
{
    print_heading(options, image);
    for (unsigned i = 0; i < result->pass_count; i++) {
        print_pass(options, &result->passes[i]);
    }
    print_stats(&result->stats);
}

/* Bytes that are not UTF-8 pass as they are, like everywhere on Linux. */
static void json_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '"' || c == '\\') {
            printf("\\%c", c);
        } else if (c < 0x20) {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static const char *json_bool(bool value)
{
    return value ? "true" : "false";
}

static void json_options(const Options *options, const Image *image)
{
    printf("  \"image\": ");
    json_string(options->image);
    printf(",\n  \"image_bytes\": %" PRIu64 ",\n", image->size);
    printf("  \"offset_bytes\": %" PRIu64 ",\n", options->offset);
    printf("  \"direct\": %s,\n", json_bool(options->direct));
    printf("  \"random\": %s,\n", json_bool(options->random));
    printf("  \"request_bytes\": %zu,\n", options->size);
    printf("  \"depth\": %u,\n", options->depth);
    printf("  \"count\": %" PRIu64 ",\n", options->count);
    printf("  \"seed\": %" PRIu64 ",\n", options->seed);
    printf("  \"max_submit_depth\": %u,\n", laio_max_submit_depth());
}

/* Which interface it became, where the options may have left that open. */
static void json_kernel(const LaioStats *stats)
{
    printf("  \"kernel\": \"%s\",\n", kernel_name((unsigned)stats->kernel));
}

static void json_histogram(const char *name, const Histogram *histogram)
{
    printf("      \"%s\": { ", name);
    for (unsigned i = 0; i < PERCENTILES; i++) {
        printf("\"%s\": %" PRIu64 ", ", percentiles[i].name,
               histogram_percentile(histogram, percentiles[i].permille));
    }
    printf("\"max\": %" PRIu64 " }", histogram->max);
}

static void json_pass(const Options *options, const Pass *pass)
{
    printf("    {\n      \"operation\": \"%s\",\n", operation_name(pass));
    printf("      \"verified\": %s,\n", json_bool(pass->verified));
    printf("      \"requests\": %" PRIu64 ",\n", pass->completed);
    printf("      \"elapsed_ns\": %" PRIu64 ",\n", pass->elapsed_ns);
    printf("      \"requests_per_second\": %.1f,\n", requests_per_second(pass));
    printf("      \"bytes_per_second\": %.1f,\n", bytes_per_second(options, pass));
    json_histogram("latency_ns", &pass->latency_ns);
    printf(",\n");
    json_histogram("loop_held_ns", &pass->held_ns);
    printf("\n    }");
}

static void json_stats(const LaioStats *stats)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"submitted", stats->submitted},
        {"completed", stats->completed},
        {"failed", stats->failed},
        {"retried", stats->retried},
        {"io_submit_calls", stats->io_submit_calls},
        {"largest_batch", stats->largest_batch},
        {"eagain", stats->eagain},
        {"at_bound", stats->at_bound},
        {"bh_resumptions", stats->bh_resumptions},
        {"deepest_nesting", stats->deepest_nesting},
        {"in_queue", stats->in_queue},
        {"in_flight", stats->in_flight},
    };
    const char *separator = "\n";

    printf("  \"statistics\": {");
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        printf("%s    \"%s\": %" PRIu64, separator, fields[i].name, fields[i].value);
        separator = ",\n";
    }
    printf("\n  },\n");
}

static void json_failure(const Failure *failure)
{
    const char *operation = failure->operation == OP_WRITE ? "write" : "read";

    printf("  \"error\": ");
    switch (failure->kind) {
    case FAILED_NOT:
        printf("null,\n");
        break;
    case FAILED_REQUEST:
        printf("{ \"operation\": \"%s\", \"offset\": %" PRIu64 ", \"errno\": %d, \"message\": ",
               operation, failure->offset, failure->os_errno);
        json_string(strerror(failure->os_errno));
        printf(" },\n");
        break;
    case FAILED_BYTE:
        printf("{ \"operation\": \"verify\", \"offset\": %" PRIu64 ", \"byte\": %" PRIu64
               ", \"expected\": %u, \"found\": %u },\n",
               failure->offset, failure->byte, failure->expected, failure->found);
        break;
    }
}

void report_json(const Options *options, const Image *image, const Result *result)
{
    printf("{\n");
    json_options(options, image);
    json_kernel(&result->stats);
    printf("  \"passes\": [\n");
    for (unsigned i = 0; i < result->pass_count; i++) {
        json_pass(options, &result->passes[i]);
        printf(i + 1 < result->pass_count ? ",\n" : "\n");
    }
    printf("  ],\n");
    json_stats(&result->stats);
    json_failure(&result->failure);
    printf("  \"signal\": %d\n}\n", result->signal);
}
