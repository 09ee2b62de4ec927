/* Router of the mixture of experts (spec 4.10): which k experts a row uses, and their weights. */
#include "ops.h"

#include "moe_gate.h"

_Static_assert(sizeof(struct moe_gate_args) <= 128, "push constants");

void dsvk_moe_gate(dsvk_cmd *cmd, const dsvk_moe_gate_params *p) {
    if (p->n == 0)
        return;
    if (p->k == 0 || p->k > MOE_MAX_ACTIVE || p->n_experts < p->k || p->n_experts > MOE_MAX_EXPERTS) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_gate: %u of %u experts; at most %u of at most %u", p->k, p->n_experts,
                      MOE_MAX_ACTIVE, MOE_MAX_EXPERTS);
        return;
    }
    if (p->logits_stride < p->n_experts || (p->table == 0) == (p->bias == 0) || (p->table != 0 && p->vocab == 0)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_gate: logits stride %u for %u experts, %s bias, %s table of %u tokens",
                      p->logits_stride, p->n_experts, p->bias ? "a" : "no", p->table ? "a" : "no", p->vocab);
        return;
    }
    const struct moe_gate_args args = { .rows = p->rows,
                                        .logits = p->logits,
                                        .bias = p->bias,
                                        .table = p->table,
                                        .idx = p->idx,
                                        .weights = p->weights,
                                        .n_experts = p->n_experts,
                                        .k = p->k,
                                        .vocab = p->vocab,
                                        .logits_stride = p->logits_stride,
                                        .route_scale = p->route_scale };
    const uint32_t constants[] = { [GATE_CONSTANT_WORKGROUP] = dsvk_workgroup(cmd, p->n_experts, 32, 256) };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "moe_gate",
                           .shader = "moe_gate",
                           .constants = constants,
                           .n_constants = DSVK_COUNT(constants),
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { p->n, 1, 1 },
                           .bytes = 4ull * p->n * (p->n_experts + 2 * p->k) + 4ull * p->n_experts,
                           .flops = 40ull * p->n * p->n_experts, /* softplus and root */
                       });
}
