/*
 * A histogram of times: exact up to 64 ns, then 64 buckets for each power of two, so that a
 * percentile is at most 1/64 above the true value.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_BITS = 6,
    HISTOGRAM_SUB = 1 << HISTOGRAM_BITS,
    HISTOGRAM_BUCKETS = (64 - HISTOGRAM_BITS + 1) * HISTOGRAM_SUB,
};

typedef struct Histogram {
    uint64_t total;
    uint64_t max;
    uint64_t counts[HISTOGRAM_BUCKETS];
} Histogram;

static inline unsigned histogram_bucket(uint64_t value)
{
    unsigned shift;

    if (value < HISTOGRAM_SUB) {
        return (unsigned)value;
    }
    shift = 63 - HISTOGRAM_BITS - (unsigned)__builtin_clzll(value);
    return shift * HISTOGRAM_SUB + (unsigned)(value >> shift);
}

static inline void histogram_add(Histogram *histogram, uint64_t value)
{
    histogram->total++;
    histogram->counts[histogram_bucket(value)]++;
    if (value > histogram->max) {
        histogram->max = value;
    }
}

/* The largest value that falls into `bucket`. */
uint64_t histogram_bucket_top(unsigned bucket);

/* A value that `permille` of 1000 of the values do not exceed; 0 when there are none. */
uint64_t histogram_percentile(const Histogram *histogram, unsigned permille);

#endif
