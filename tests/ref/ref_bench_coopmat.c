/* The same product added up again and again. */
#include "ref.h"

#include "bench_coopmat.h"

float ref_bench_coopmat(const float *a, const float *b, uint32_t k, uint32_t rounds) {
    double product = 0;
    for (uint32_t i = 0; i < k; i++)
        product += (double)a[i] * (double)b[i];
    return (float)(product * BENCH_COOPMAT_CHAINS * BENCH_COOPMAT_UNROLL * rounds);
}
