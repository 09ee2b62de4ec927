/* Rows by index, from this step or from what an earlier step left in the state of a sequence. */
#include "ops.h"

#include "gather.h"

_Static_assert(sizeof(struct gather_args) <= 128, "push constants");

void dsvk_gather(dsvk_cmd *cmd, const dsvk_gather_params *p) {
    if (p->n == 0)
        return;
    if (p->dim == 0 || p->dim % 4 != 0 || p->n_in == 0 || p->slots == 0 || p->state_offset % 16 != 0 || p->n > 65535) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "gather: %u rows out of %u, %u values each (a multiple of 4), state offset %u (of 16), %u slots", p->n,
                      p->n_in, p->dim, p->state_offset, p->slots);
        return;
    }
    const struct gather_args args = { .rows = p->rows,
                                      .seqs = p->seqs,
                                      .source = p->source,
                                      .x = p->in,
                                      .result = p->out,
                                      .dim = p->dim,
                                      .n_in = p->n_in,
                                      .state_offset = p->state_offset,
                                      .slots = p->slots };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "gather",
                           .shader = "gather",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->dim, 1024), p->n, 1 },
                           .bytes = 8ull * p->n * p->dim + 4ull * p->n,
                       });
}
