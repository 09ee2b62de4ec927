/* Arithmetic without memory, to measure a device (core/engine/measure.c). */
#include "ops.h"

#include "bench_fma.h"

_Static_assert(sizeof(struct bench_fma_args) <= 128, "push constants");

void dsvk_bench_fma(dsvk_cmd *cmd, const dsvk_bench_fma_params *p) {
    const struct bench_fma_args args = { .result = p->out, .x = p->x, .y = p->y, .rounds = p->rounds };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "bench_fma",
                           .shader = "bench_fma",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { p->groups, 1, 1 },
                           .bytes = 4ull * 256 * p->groups,
                           .flops = 2ull * 256 * p->groups * DSVK_BENCH_FMA_CHAINS * DSVK_BENCH_FMA_UNROLL * p->rounds,
                       });
}
