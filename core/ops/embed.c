/* Token embedding (spec 4.1). */
#include "ops.h"

#include "embed.h"

_Static_assert(sizeof(struct embed_args) <= 128, "push constants");

void dsvk_embed(dsvk_cmd *cmd, const dsvk_embed_params *p) {
    if (p->n == 0)
        return;
    if (p->dim == 0 || p->dim % 8 != 0 || p->copies == 0 || p->vocab == 0 || p->n > 65535) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "embed: %u rows, %u copies of %u values (a multiple of 8), vocabulary of %u", p->n,
                      p->copies, p->dim, p->vocab);
        return;
    }
    const struct embed_args args = { .rows = p->rows,
                                     .table = p->table,
                                     .result = p->out,
                                     .dim = p->dim,
                                     .copies = p->copies,
                                     .vocab = p->vocab };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "embed",
                           .shader = "embed",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->dim, 2048), p->n, 1 },
                           .bytes = (uint64_t)p->n * p->dim * (2 + 4ull * p->copies),
                       });
}
