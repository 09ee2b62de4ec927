/* Copying by a kernel, to measure a device (core/engine/measure.c). */
#include "ops.h"

#include "bench_copy.h"

_Static_assert(sizeof(struct bench_copy_args) <= 128, "push constants");

void dsvk_bench_copy(dsvk_cmd *cmd, const dsvk_bench_copy_params *p) {
    const struct bench_copy_args args = { .source = p->source, .result = p->out, .n = p->n };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "bench_copy",
                           .shader = "bench_copy",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->n, 256 * DSVK_BENCH_COPY_RUN), 1, 1 },
                           .bytes = 32ull * p->n,
                       });
}
