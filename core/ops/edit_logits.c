/* Logits changed before a token is chosen: a mask and what is added. See shaders/edit_logits.comp. */
#include "ops.h"

#include "edit_logits.h"

_Static_assert(sizeof(struct edit_logits_args) <= 128, "push constants");
_Static_assert(sizeof(struct dsvk_edit_row) == 24, "layout shared with edit_logits.comp");

void dsvk_edit_logits(dsvk_cmd *cmd, const dsvk_edit_logits_params *p) {
    if (p->n == 0)
        return;
    if (p->vocab == 0 || p->vocab > (1u << 24) || p->n > 65535) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "edit_logits: %u rows of a vocabulary of %u; 1 to %u", p->n, p->vocab, 1u << 24);
        return;
    }
    const struct edit_logits_args args = { .rows = p->rows, .logits = p->logits, .vocab = p->vocab };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "edit_logits",
                           .shader = "edit_logits",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(dsvk_ceil_div(p->vocab, 32), EDIT_WORDS), p->n, 1 },
                           .counts_groups = true,
                           .bytes = 4ull * p->n * p->vocab,
                       });
}
