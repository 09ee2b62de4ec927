/* Exact top-k, spec 4.7. See shaders/topk.comp. */
#include "ops.h"

#include "topk.h"

_Static_assert(sizeof(struct topk_args) <= 128, "push constants");

void dsvk_topk(dsvk_cmd *cmd, const dsvk_topk_params *p) {
    if (p->k == 0 || p->scores_stride % 4 != 0 || p->scores_stride == 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "topk: %u of scores with stride %u; the stride is a multiple of 4, neither is 0", p->k,
                      p->scores_stride);
        return;
    }
    const struct topk_args args = {
        .rows = p->rows, .scores = p->scores, .idx = p->idx, .k = p->k, .scores_stride = p->scores_stride
    };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "topk",
                           .shader = "topk",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { p->n, 1, 1 },
                           .bytes = (uint64_t)p->n * ((uint64_t)p->scores_stride + p->k) * 4,
                       });
}
