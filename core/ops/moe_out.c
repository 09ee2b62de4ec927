/* Down projections of routed and shared experts, HC-post, and HC-pre of the next site (spec 4.10, 4.3), in one dispatch for
 * small steps. */
#include "matmul_rows.h"

#include "hyper_conn_pre.h"
#include "moe_out.h"

_Static_assert(sizeof(struct moe_out_args) <= 128, "push constants");

static bool shapes_fit(dsvk_cmd *cmd, const dsvk_moe_out_params *p) {
    if (!dsvk_matmul_check_few(cmd, "moe_out", &p->w, p->n) || !dsvk_matmul_check_few(cmd, "moe_out", &p->shared, p->n))
        return false;
    if (p->shared.n_out != p->w.n_out || p->shared.n_in != p->w.n_in || p->w.n_out % DSVK_TILE_ROWS != 0 ||
        p->w.n_out > PRE_MAX_DIM) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_out: experts of [%u, %u], a shared one of [%u, %u]; rows are a multiple of %u up to %u",
                      p->w.n_out, p->w.n_in, p->shared.n_out, p->shared.n_in, DSVK_TILE_ROWS, PRE_MAX_DIM);
        return false;
    }
    if (p->k == 0 || p->n_experts == 0 || (p->n_mix != 24 && p->n_mix != 4) || p->sinkhorn_iters == 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_out: %u of %u experts, %u mixes (24 or 4), %u Sinkhorn steps", p->k, p->n_experts,
                      p->n_mix, p->sinkhorn_iters);
        return false;
    }
    return true;
}

void dsvk_moe_out(dsvk_cmd *cmd, const dsvk_moe_out_params *p) {
    if (p->n == 0 || !shapes_fit(cmd, p))
        return;
    const uint32_t dim = p->w.n_out, tile = dsvk_moe_tile(dsvk_cmd_device(cmd), p->n, p->k, p->n_experts);
    const uint32_t max_tiles = dsvk_moe_max_tiles(p->n, p->k, p->n_experts, tile);
    uint32_t constants[MOE_OUT_CONSTANTS];
    dsvk_matmul_constants(cmd, &p->w, &p->shared, 0, tile, EPILOGUE_STORE, constants);
    constants[MOE_OUT_CONSTANT_N_HIDDEN] = p->w.n_in;
    constants[MOE_OUT_CONSTANT_DIM] = dim;
    constants[MOE_OUT_CONSTANT_K] = p->k;
    constants[MOE_OUT_CONSTANT_N_EXPERTS] = p->n_experts;
    constants[MOE_OUT_CONSTANT_N_MIX] = p->n_mix;
    constants[MOE_OUT_CONSTANT_SINKHORN] = p->sinkhorn_iters;
    constants[MOE_OUT_CONSTANT_EPS] = dsvk_float_bits(p->eps);
    constants[MOE_OUT_CONSTANT_HC_EPS] = dsvk_float_bits(p->hc_eps);
    const struct moe_out_args args = { .experts = p->experts,
                                       .pairs = p->pairs,
                                       .tiles = p->tiles,
                                       .h = p->h,
                                       .shared_down = p->shared.addr,
                                       .y = p->y,
                                       .streams = p->streams,
                                       .post = p->post,
                                       .comb = p->comb,
                                       .site = p->site,
                                       .partials = p->partials,
                                       .result = p->out,
                                       .counters = p->counters,
                                       .offset = p->offset,
                                       .scales = (uint32_t)p->w.scales,
                                       .shared_scales = (uint32_t)p->shared.scales,
                                       .n = p->n,
                                       .max_tiles = max_tiles };
    /* Which experts are chosen only the device knows: the traffic is that of `used` different ones at most. */
    const uint64_t pairs = (uint64_t)p->n * p->k, used = pairs < p->n_experts ? pairs : p->n_experts;
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "moe_out",
                           .shader = "moe_out",
                           .constants = constants,
                           .n_constants = MOE_OUT_CONSTANTS,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { max_tiles + (uint32_t)dsvk_ceil_div(p->n, tile), dim / DSVK_TILE_ROWS, 1 },
                           .counts_groups = true,
                           .bytes = used * dsvk_matrix_bytes(p->w.type, dim, p->w.n_in) + dsvk_matmul_bytes(&p->shared, p->n) +
                                    4 * pairs * ((uint64_t)p->w.n_in + 2 * dim) + 16ull * p->n_mix * dim +
                                    (uint64_t)p->n * dim * (3 * 16 + 4),
                           .flops = dsvk_matmul_flops(&p->w, (uint32_t)pairs) + dsvk_matmul_flops(&p->shared, p->n) +
                                    (uint64_t)p->n * dim * (8 * (p->n_mix + 1) + 40),
                       });
}
