/* Choosing a token per row of logits (spec section 5; the exact order of steps is in ops.h and shaders/sample.comp). */
#include "ops.h"

#include "sample.h"

_Static_assert(sizeof(struct sample_args) <= 128, "push constants");
_Static_assert(sizeof(struct dsvk_sample_row) == 32, "layout shared with sample.comp");

void dsvk_sample(dsvk_cmd *cmd, const dsvk_sample_params *p) {
    if (p->n == 0)
        return;
    if (p->vocab == 0 || p->vocab > (1u << 24)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "sample: vocabulary of %u; 1 to %u", p->vocab, 1u << 24);
        return;
    }
    const struct sample_args args = { .logits = p->logits, .options = p->options, .result = p->out, .vocab = p->vocab };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "sample",
                           .shader = "sample",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { p->n, 1, 1 },
                           .bytes = 4ull * p->n * p->vocab,
                       });
}
