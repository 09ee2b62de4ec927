/* Head norm and RoPE of the queries (spec 4.5, 4.4): one workgroup per head and row. */
#include "ops.h"
#include "rope.h"

_Static_assert(sizeof(struct rope_args) <= 128, "push constants");

void dsvk_rope(dsvk_cmd *cmd, const dsvk_rope_params *p) {
    const struct rope_args args = {
        .rows = p->rows, .table = p->rope, .q = p->q, .q_stride = p->q_stride, .eps = p->eps};
    const uint32_t constants[] = {[ROPE_CONSTANT_HEAD_DIM] = p->head_dim,
                                  [ROPE_CONSTANT_ROPE_DIM] = p->rope_dim,
                                  [ROPE_CONSTANT_WORKGROUP] = dsvk_line_workgroup(cmd, p->head_dim, 128)};
    const uint64_t values = (uint64_t)p->n * p->n_heads * p->head_dim;
    if (p->n == 0)
        return;
    if (p->n_heads == 0 || p->head_dim == 0 || p->head_dim % 4 != 0 || p->head_dim > 512 || p->rope_dim % 4 != 0 ||
        p->rope_dim > p->head_dim) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "rope: %u heads of %u values, %u of them rotated; both are multiples of 4, heads have at most 512",
                      p->n_heads, p->head_dim, p->rope_dim);
        return;
    }
    if (p->q_stride % 4 != 0 || p->q_stride < (uint64_t)p->n_heads * p->head_dim) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "rope: rows %u values apart hold %u heads of %u; a stride is a multiple of 4",
                      p->q_stride, p->n_heads, p->head_dim);
        return;
    }
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "rope",
                           .shader = "rope",
                           .constants = constants,
                           .n_constants = DSVK_COUNT(constants),
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = {p->n_heads, p->n, 1},
                           .bytes = values * 8,
                           .flops = values * 3,
                       });
}
