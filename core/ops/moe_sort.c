/* Groups the pairs (row, slot) of a step by expert, so that moe_expert reads an expert once per tile of pairs. */
#include "ops.h"

#include "moe_sort.h"

_Static_assert(sizeof(struct moe_sort_args) <= 128, "push constants");

/* m experts in use need at most one unfilled tile each: m + (pairs - m) / tile, which grows with m. */
uint32_t dsvk_moe_max_tiles(uint32_t n, uint32_t k, uint32_t n_experts, uint32_t tile) {
    const uint32_t pairs = n * k, used = pairs < n_experts ? pairs : n_experts;
    return used + (pairs - used) / tile;
}

void dsvk_moe_sort(dsvk_cmd *cmd, const dsvk_moe_sort_params *p) {
    if (p->n == 0)
        return;
    if (p->k == 0 || p->tile == 0 || p->n_experts == 0 || p->n_experts > MOE_SORT_MAX_EXPERTS ||
        (uint64_t)p->n * p->k > (1u << 20)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_sort: %u rows of %u experts out of %u (at most %u) in tiles of %u", p->n, p->k,
                      p->n_experts, MOE_SORT_MAX_EXPERTS, p->tile);
        return;
    }
    const struct moe_sort_args args = { .idx = p->idx,
                                        .pairs = p->pairs,
                                        .tiles = p->tiles,
                                        .n_pairs = p->n * p->k,
                                        .n_experts = p->n_experts,
                                        .tile = p->tile,
                                        .max_tiles = dsvk_moe_max_tiles(p->n, p->k, p->n_experts, p->tile) };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "moe_sort",
                           .shader = "moe_sort",
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { 1, 1, 1 },
                           .bytes = 8ull * args.n_pairs + 16ull * args.max_tiles,
                       });
}
