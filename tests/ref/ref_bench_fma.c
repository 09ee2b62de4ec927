/* Chains of multiplications and additions. */
#include "ref.h"

#include "bench_fma.h"

float ref_bench_fma(uint32_t i, float x, float y, uint32_t rounds) {
    double sum = 0;
    for (uint32_t chain = 0; chain < DSVK_BENCH_FMA_CHAINS; chain++) {
        double a = (double)i / 256 + chain;
        for (uint32_t k = 0; k < rounds * DSVK_BENCH_FMA_UNROLL; k++)
            a = a * (double)x + (double)y;
        sum += a;
    }
    return (float)sum;
}
