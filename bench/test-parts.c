/* Tests of the histogram and the pattern, as TAP. SPDX-License-Identifier: MIT OR Apache-2.0 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "histogram.h"
#include "pattern.h"

static int tests, failures;

static void ok(bool passed, const char *name)
{
    tests++;
    failures += !passed;
    printf("%sok %d - %s\n", passed ? "" : "not ", tests, name);
}

static bool buckets_are_contiguous(void)
{
    uint64_t top = histogram_bucket_top(0);

    for (unsigned bucket = 1; bucket < HISTOGRAM_BUCKETS; bucket++) {
        if (histogram_bucket(top + 1) != bucket) {
            return false;
        }
        top = histogram_bucket_top(bucket);
        if (histogram_bucket(top) != bucket) {
            return false;
        }
    }
    return top == UINT64_MAX;
}

static bool buckets_are_narrow(void)
{
    for (uint64_t value = 1; value < UINT64_MAX / 3; value = value * 3 + 1) {
        uint64_t top = histogram_bucket_top(histogram_bucket(value));

        if (top < value || top - value > value / HISTOGRAM_SUB) {
            return false;
        }
    }
    return true;
}

static void test_percentiles(void)
{
    static Histogram histogram, one;

    ok(histogram_percentile(&histogram, 500) == 0, "no values: every percentile is 0");
    for (uint64_t value = 1; value <= 50; value++) {
        histogram_add(&histogram, value);
    }
    ok(histogram_percentile(&histogram, 500) == 25, "the median of 1 to 50 is 25");
    ok(histogram_percentile(&histogram, 900) == 45, "p90 of 1 to 50 is 45");
    ok(histogram_percentile(&histogram, 999) == 50, "p99.9 of few values is the largest");
    ok(histogram.max == 50 && histogram.total == 50, "largest and number");
    histogram_add(&one, UINT64_MAX);
    ok(histogram_percentile(&one, 1) == UINT64_MAX, "the largest value there is");
    memset(&one, 0, sizeof(one));
    histogram_add(&one, 1000000);
    ok(histogram_percentile(&one, 990) == 1000000, "a percentile is never above the largest");
}

/* Pieces at any offset must agree with the whole, or verifying at odd offsets is worthless. */
static bool pieces_agree(void)
{
    uint8_t whole[64], piece[64];

    pattern_fill(whole, sizeof(whole), 4096, 7);
    for (size_t from = 0; from < sizeof(whole); from++) {
        for (size_t size = 1; from + size <= sizeof(whole); size++) {
            pattern_fill(piece, size, 4096 + from, 7);
            if (memcmp(piece, whole + from, size) != 0) {
                return false;
            }
        }
    }
    return true;
}

static bool each_flipped_bit_is_found(void)
{
    uint8_t data[45];

    pattern_fill(data, sizeof(data), 1003, 9);
    for (size_t bit = 0; bit < sizeof(data) * 8; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (pattern_mismatch(data, sizeof(data), 1003, 9) != bit / 8) {
            return false;
        }
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    return pattern_mismatch(data, sizeof(data), 1003, 9) == sizeof(data);
}

static void test_pattern(void)
{
    uint8_t data[4096];

    ok(pieces_agree(), "a piece of the pattern is a piece of the whole");
    ok(each_flipped_bit_is_found(), "each flipped bit is found, at its byte");
    pattern_fill(data, sizeof(data), 8192, 1);
    ok(pattern_mismatch(data, sizeof(data), 8192, 2) < 64, "another seed is another pattern");
    ok(pattern_mismatch(data, sizeof(data), 8192 + 4096, 1) < 64, "another offset too");
    ok(pattern_mismatch(data, sizeof(data), UINT64_C(8192) + (UINT64_C(1) << 32), 1) < 64,
       "and one 4 GiB further");
    ok(pattern_byte(8192 + 100, 1) == data[100], "a byte by itself");
}

int main(void)
{
    ok(buckets_are_contiguous(), "buckets have no gap and no overlap, from 0 to 2^64 - 1");
    ok(buckets_are_narrow(), "a bucket is at most 1/64 of its values wide");
    test_percentiles();
    test_pattern();
    printf("1..%d\n", tests);
    return failures > 0;
}
