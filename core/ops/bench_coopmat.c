/* Products of cooperative matrices without memory, to measure a device (core/engine/measure.c). */
#include "ops.h"

#include "bench_coopmat.h"

_Static_assert(sizeof(struct bench_coopmat_args) <= 128, "push constants");

void dsvk_bench_coopmat(dsvk_cmd *cmd, const dsvk_bench_coopmat_params *p) {
    const uint32_t subgroup = dsvk_matmul_subgroup(dsvk_cmd_device(cmd)), m = p->shape.m, n = p->shape.n, k = p->shape.k;
    if (p->shape.kind != DSVK_MATMUL_COOPMAT || subgroup == 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "bench_coopmat: this device has no cooperative matrices");
        return;
    }
    const uint32_t constants[BENCH_COOPMAT_CONSTANTS] = { m, n, k, subgroup };
    const struct bench_coopmat_args args = { .a = p->a, .b = p->b, .result = p->out, .rounds = p->rounds };
    const uint64_t matrices = (uint64_t)p->groups * (256 / subgroup);
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "bench_coopmat",
                           .shader = "bench_coopmat",
                           .constants = constants,
                           .n_constants = BENCH_COOPMAT_CONSTANTS,
                           .subgroup = subgroup,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { p->groups, 1, 1 },
                           .bytes = matrices * m * n * 4,
                           .flops = 2 * matrices * m * n * k * BENCH_COOPMAT_CHAINS * BENCH_COOPMAT_UNROLL * p->rounds,
                       });
}
