/* Arguments of shaders/bench_fma.comp. */
#ifndef DSVK_BENCH_FMA_H
#define DSVK_BENCH_FMA_H

#include "types.h"

#define DSVK_BENCH_FMA_CHAINS 8u /* per invocation: more than any multiplier's latency */
#define DSVK_BENCH_FMA_UNROLL 16u /* links of a chain between two looks at the count */

struct bench_fma_args {
    ADDR result; /* f32 [groups * 256] */
    F32 x, y;
    U32 rounds;
};

#endif
