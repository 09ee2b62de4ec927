/* RMSNorm (spec 4.2): one workgroup per row. */
#include "ops.h"
#include "rms_norm.h"

_Static_assert(sizeof(struct rms_norm_args) <= 128, "push constants");

void dsvk_rms_norm(dsvk_cmd *cmd, const dsvk_rms_norm_params *p) {
    const struct rms_norm_args args = {
        .x = p->x, .weight = p->weight, .result = p->out, .dim = p->dim, .x_stride = p->x_stride, .eps = p->eps};
    const uint32_t constants[] = {[RMS_NORM_CONSTANT_WORKGROUP] = dsvk_row_workgroup(cmd)};
    if (p->n == 0)
        return;
    if (p->dim == 0 || p->dim % 4 != 0 || p->x_stride % 4 != 0 || p->x_stride < p->dim) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "rms_norm: %u values per row, rows %u apart; both are multiples of 4, dim <= stride", p->dim,
                      p->x_stride);
        return;
    }
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "rms_norm",
                           .shader = "rms_norm",
                           .constants = constants,
                           .n_constants = DSVK_COUNT(constants),
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = {p->n, 1, 1},
                           .bytes = (uint64_t)p->n * p->dim * 8 + p->dim * 4,
                           .flops = (uint64_t)p->n * p->dim * 4,
                       });
}
