/* Hyper-connections (spec 4.3) in two dispatches: `mix` applies HC-post of one site and reduces for HC-pre of the next,
 * over chunks of the hidden width; `pre` sums the chunks, makes the coefficients, mixes the streams and normalises. */
#include "ops.h"
#include "hyper_conn_mix.h"
#include "hyper_conn_pre.h"

_Static_assert(sizeof(struct hyper_conn_mix_args) <= 128, "push constants");
_Static_assert(sizeof(struct hyper_conn_pre_args) <= 128, "push constants");
_Static_assert(DSVK_HC_CHUNK == MIX_CHUNK, "one chunk");

static bool widths_fit(dsvk_cmd *cmd, const char *op, uint32_t dim, uint32_t n_mix) {
    if (dim > 0 && dim % 32 == 0 && dim <= PRE_MAX_DIM && (n_mix == 24 || n_mix == 4))
        return true;
    dsvk_cmd_fail(cmd, DSVK_INVALID, "%s: %u mixes of %u values; dim is a multiple of 32 up to %u, mixes are 24 or 4",
                  op, n_mix, dim, PRE_MAX_DIM);
    return false;
}

/* Rows that share one reading of fn. Results do not depend on it. */
static uint32_t rows_per_group(uint32_t n) {
    return n < 4 ? 1 : 4;
}

void dsvk_hyper_conn_mix(dsvk_cmd *cmd, const dsvk_hyper_conn_mix_params *p) {
    const struct hyper_conn_mix_args args = {.x_in = p->x_in,
                                             .x_out = p->x_out,
                                             .y = p->y,
                                             .post = p->post,
                                             .comb = p->comb,
                                             .fn = p->fn,
                                             .partials = p->partials,
                                             .n = p->n,
                                             .dim = p->dim,
                                             .n_parts = p->n_parts,
                                             .same_coefficients = p->same_coefficients};
    const uint32_t rows = rows_per_group(p->n), chunks = (uint32_t)dsvk_ceil_div(p->dim, MIX_CHUNK);
    const uint32_t constants[] = {[MIX_CONSTANT_N_MIX] = p->n_mix, [MIX_CONSTANT_ROWS] = rows};
    const uint64_t row = (uint64_t)p->dim * 16, read = p->y != 0 ? (uint64_t)p->n_parts * p->dim * 4 : 0;
    if (p->n == 0 || !widths_fit(cmd, "hyper_conn_mix", p->dim, p->n_mix))
        return;
    if (p->y != 0 && (p->n_parts == 0 || p->x_out == 0 || p->post == 0 || p->comb == 0)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "hyper_conn_mix: post needs x_out, post, comb and at least one part of y; %u parts", p->n_parts);
        return;
    }
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "hyper_conn_mix",
                           .shader = "hyper_conn_mix",
                           .constants = constants,
                           .n_constants = DSVK_COUNT(constants),
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = {chunks, (uint32_t)dsvk_ceil_div(p->n, rows), 1},
                           .counts_groups = true,
                           .bytes = p->n * (row * (p->y != 0 ? 2 : 1) + read) + p->n_mix * row +
                                    (uint64_t)p->n * chunks * (p->n_mix + 1) * 4,
                           .flops = (uint64_t)p->n * p->dim * (8 * (p->n_mix + 1) + (p->y != 0 ? 40 : 0)),
                       });
}

void dsvk_hyper_conn_pre(dsvk_cmd *cmd, const dsvk_hyper_conn_pre_params *p) {
    const uint32_t chunks = (uint32_t)dsvk_ceil_div(p->dim, MIX_CHUNK);
    const struct hyper_conn_pre_args args = {.x_in = p->x_in,
                                             .partials = p->partials,
                                             .select = p->select,
                                             .base = p->base,
                                             .scale = p->scale,
                                             .norm = p->norm,
                                             .result = p->out,
                                             .post = p->post,
                                             .comb = p->comb,
                                             .n_in = p->n_in,
                                             .sinkhorn_iters = p->sinkhorn_iters,
                                             .eps = p->eps,
                                             .hc_eps = p->hc_eps};
    const uint32_t constants[] = {[PRE_CONSTANT_N_MIX] = p->n_mix,
                                  [PRE_CONSTANT_DIM] = p->dim,
                                  [PRE_CONSTANT_PIECES] = p->tiles ? MIX_CHUNK / DSVK_TILE_ROWS : 1,
                                  [PRE_CONSTANT_WORKGROUP] = dsvk_row_workgroup(cmd)};
    if (p->n == 0 || !widths_fit(cmd, "hyper_conn_pre", p->dim, p->n_mix))
        return;
    if (p->n_mix == 24 && (p->post == 0 || p->comb == 0 || p->sinkhorn_iters == 0)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "hyper_conn_pre: 24 mixes need post, comb and at least one Sinkhorn step; %u steps",
                      p->sinkhorn_iters);
        return;
    }
    if (p->select != 0 && p->n_in == 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "hyper_conn_pre: `select` of %u rows out of none (n_in is 0)", p->n);
        return;
    }
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "hyper_conn_pre",
                           .shader = "hyper_conn_pre",
                           .constants = constants,
                           .n_constants = DSVK_COUNT(constants),
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = {p->n, 1, 1},
                           .bytes = (uint64_t)p->n * (p->dim * 20ull + chunks * (p->n_mix + 1) * 4ull) + p->dim * 4ull,
                           .flops = (uint64_t)p->n * p->dim * 12,
                       });
}
