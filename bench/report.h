/* What laio-bench prints in the end. SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "workload.h"

void report_human(const Options *options, const Image *image, const Result *result);
void report_json(const Options *options, const Image *image, const Result *result);

#endif
