/* See histogram.h. SPDX-License-Identifier: MIT OR Apache-2.0 */
#include "histogram.h"

uint64_t histogram_bucket_top(unsigned bucket)
{
    unsigned shift;
    uint64_t base;

    if (bucket < HISTOGRAM_SUB) {
        return bucket;
    }
    shift = bucket / HISTOGRAM_SUB - 1;
    base = HISTOGRAM_SUB + bucket % HISTOGRAM_SUB;
    /* The very last bucket's top is 2^64 - 1: the shift wraps to 0 on purpose. */
    return ((base + 1) << shift) - 1;
}

uint64_t histogram_percentile(const Histogram *histogram, unsigned permille)
{
    /* Rounded up, and so that it does not overflow. */
    uint64_t thousands = histogram->total / 1000;
    uint64_t rest = histogram->total % 1000;
    uint64_t wanted = thousands * permille + (rest * permille + 999) / 1000;
    uint64_t seen = 0;

    for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS && wanted > 0; bucket++) {
        seen += histogram->counts[bucket];
        if (seen >= wanted) {
            uint64_t top = histogram_bucket_top(bucket);
            return top < histogram->max ? top : histogram->max;
        }
    }
    return 0;
}
