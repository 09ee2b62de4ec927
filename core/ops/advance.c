/* From one token to the next on the device. See shaders/advance.comp. */
#include "ops.h"

#include "advance.h"

_Static_assert(sizeof(struct advance_args) <= 128, "push constants");
_Static_assert(sizeof(struct dsvk_end_row) == 16, "layout shared with advance.comp");

void dsvk_advance(dsvk_cmd *cmd, const dsvk_advance_params *p) {
    if (p->n > ADVANCE_ROWS || p->vocab == 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "advance: %u rows of a vocabulary of %u; at most %u rows", p->n, p->vocab,
                      (unsigned)ADVANCE_ROWS);
        return;
    }
    const struct advance_args args = {
        .ids = p->ids,
        .rows = p->rows,
        .seqs = p->seqs,
        .sampling = p->sample,
        .ends = p->ends,
        .stops = p->stops,
        .step = p->step,
        .chosen = p->chosen,
        .index_grid = p->index_grid,
        .n = p->n,
        .vocab = p->vocab,
        .steps = p->steps,
        .index_topk = p->index_topk,
        .max_visible = p->max_visible,
        .index_keys = dsvk_indexer_keys(cmd),
    };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "advance",
                           .shader = "advance",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { p->n > 0, 1, 1 },
                           .bytes = p->n * (2ull * (sizeof(struct dsvk_row) + sizeof(struct dsvk_end_row)) + 4 * 7),
                       });
}
