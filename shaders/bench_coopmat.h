/* Arguments and constants of shaders/bench_coopmat.comp. */
#ifndef DSVK_BENCH_COOPMAT_H
#define DSVK_BENCH_COOPMAT_H

#include "types.h"

/* Specialization constants. */
#define BENCH_COOPMAT_M 0
#define BENCH_COOPMAT_N 1
#define BENCH_COOPMAT_K 2
#define BENCH_COOPMAT_SUBGROUP 3 /* invocations of a subgroup */
#define BENCH_COOPMAT_CONSTANTS 4

#define BENCH_COOPMAT_CHAINS 4u /* of a subgroup: products that do not wait for one another */
#define BENCH_COOPMAT_UNROLL 8u /* links of a chain between two looks at the count */

struct bench_coopmat_args {
    ADDR a;      /* f16 [M, K] */
    ADDR b;      /* f16 [N, K] */
    ADDR result; /* f32 [groups * 256 / SUBGROUP, M, N] */
    U32 rounds;
};

#endif
