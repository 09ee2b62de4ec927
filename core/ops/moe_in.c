/* Router, shared expert and the order of the routed ones (spec 4.10), in one dispatch for small steps. */
#include "matmul_rows.h"

#include "moe_in.h"

_Static_assert(sizeof(struct moe_in_args) <= 128, "push constants");

bool dsvk_moe_in_fits(uint32_t n, uint32_t k, uint32_t n_experts) {
    return k <= MOE_MAX_ACTIVE && n_experts <= MOE_IN_MAX_EXPERTS && n * k <= MOE_IN_MAX_PAIRS;
}

static bool shapes_fit(dsvk_cmd *cmd, const dsvk_moe_in_params *p) {
    if (!dsvk_matmul_check_few(cmd, "moe_in", &p->gate, p->n) || !dsvk_matmul_check_few(cmd, "moe_in", &p->up, p->n))
        return false;
    if (p->k == 0 || p->k > p->gate.n_out || !dsvk_moe_in_fits(p->n, p->k, p->gate.n_out) || (p->bias == 0) == (p->table == 0) ||
        (p->table != 0 && p->vocab == 0)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "moe_in: %u rows of %u out of %u experts; at most %u pairs, %u experts, %u of them per row; either a bias or "
                      "a table with a vocabulary",
                      p->n, p->k, p->gate.n_out, MOE_IN_MAX_PAIRS, MOE_IN_MAX_EXPERTS, MOE_MAX_ACTIVE);
        return false;
    }
    if (p->up.n_in != p->gate.n_in || p->up.n_out % DSVK_TILE_ROWS != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_in: a gate of %u inputs, w1 and w3 of [%u, %u] together (a multiple of %u rows)",
                      p->gate.n_in, p->up.n_out, p->up.n_in, DSVK_TILE_ROWS);
        return false;
    }
    return true;
}

void dsvk_moe_in(dsvk_cmd *cmd, const dsvk_moe_in_params *p) {
    if (p->n == 0 || !shapes_fit(cmd, p))
        return;
    const uint32_t rows = dsvk_matmul_rows(dsvk_cmd_device(cmd), p->n), n_experts = p->gate.n_out;
    const uint32_t tile = dsvk_moe_tile(dsvk_cmd_device(cmd), p->n, p->k, n_experts);
    uint32_t constants[MOE_IN_CONSTANTS];
    dsvk_matmul_constants(cmd, &p->gate, &p->up, 0, rows, EPILOGUE_STORE, constants);
    constants[MOE_IN_CONSTANT_DIM] = p->gate.n_in;
    constants[MOE_IN_CONSTANT_N_EXPERTS] = n_experts;
    constants[MOE_IN_CONSTANT_K] = p->k;
    constants[MOE_IN_CONSTANT_TILE] = tile;
    constants[MOE_IN_CONSTANT_LIMIT] = dsvk_float_bits(p->limit);
    constants[MOE_IN_CONSTANT_ROUTE_SCALE] = dsvk_float_bits(p->route_scale);
    const struct moe_in_args args = { .rows = p->rows,
                                      .x = p->x,
                                      .gate = p->gate.addr,
                                      .up = p->up.addr,
                                      .logits = p->logits,
                                      .h = p->h,
                                      .bias = p->bias,
                                      .table = p->table,
                                      .idx = p->idx,
                                      .weights = p->weights,
                                      .pairs = p->pairs,
                                      .tiles = p->tiles,
                                      .counters = p->counters,
                                      .gate_scales = (uint32_t)p->gate.scales,
                                      .up_scales = (uint32_t)p->up.scales,
                                      .n = p->n,
                                      .n_hidden = p->up.n_out / 2,
                                      .vocab = p->vocab,
                                      .max_tiles = dsvk_moe_max_tiles(p->n, p->k, n_experts, tile) };
    const uint64_t tiles = dsvk_ceil_div(n_experts, DSVK_TILE_ROWS) + p->up.n_out / DSVK_TILE_ROWS;
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "moe_in",
                           .shader = "moe_in",
                           .constants = constants,
                           .n_constants = MOE_IN_CONSTANTS,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->n, rows), (uint32_t)tiles, 1 },
                           .counts_groups = true,
                           .bytes = dsvk_matmul_bytes(&p->gate, p->n) + dsvk_matmul_bytes(&p->up, p->n),
                           .flops = dsvk_matmul_flops(&p->gate, p->n) + dsvk_matmul_flops(&p->up, p->n),
                       });
}
