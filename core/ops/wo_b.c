/* Output projection, HC-post, and HC-pre of the next site (spec 4.9, 4.3), in one dispatch for small steps. */
#include "matmul_rows.h"

#include "hyper_conn_pre.h"
#include "wo_b.h"

_Static_assert(sizeof(struct wo_b_args) <= 128, "push constants");

void dsvk_wo_b(dsvk_cmd *cmd, const dsvk_wo_b_params *p) {
    const uint32_t dim = p->w.n_out;
    if (p->n == 0 || !dsvk_matmul_check_few(cmd, "wo_b", &p->w, p->n))
        return;
    if (dim % DSVK_TILE_ROWS != 0 || dim > PRE_MAX_DIM || p->sinkhorn_iters == 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "wo_b: streams of %u values (a multiple of %u up to %u), %u Sinkhorn steps", dim,
                      DSVK_TILE_ROWS, PRE_MAX_DIM, p->sinkhorn_iters);
        return;
    }
    const uint32_t rows = dsvk_matmul_rows(dsvk_cmd_device(cmd), p->n);
    uint32_t constants[WO_B_CONSTANTS];
    dsvk_matmul_constants(cmd, &p->w, NULL, 0, rows, EPILOGUE_STORE, constants);
    constants[WO_B_CONSTANT_N_IN] = p->w.n_in;
    constants[WO_B_CONSTANT_DIM] = dim;
    constants[WO_B_CONSTANT_SINKHORN] = p->sinkhorn_iters;
    constants[WO_B_CONSTANT_EPS] = dsvk_float_bits(p->eps);
    constants[WO_B_CONSTANT_HC_EPS] = dsvk_float_bits(p->hc_eps);
    const struct wo_b_args args = { .x = p->x,
                                    .w = p->w.addr,
                                    .streams = p->streams,
                                    .post = p->post,
                                    .comb = p->comb,
                                    .site = p->site,
                                    .partials = p->partials,
                                    .result = p->out,
                                    .counters = p->counters,
                                    .scales = (uint32_t)p->w.scales,
                                    .n = p->n };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "wo_b",
                           .shader = "wo_b",
                           .constants = constants,
                           .n_constants = WO_B_CONSTANTS,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->n, rows), dim / DSVK_TILE_ROWS, 1 },
                           .bytes = dsvk_matmul_bytes(&p->w, p->n) + 24ull * 16 * dim + (uint64_t)p->n * dim * (3 * 16 + 4),
                           .flops = dsvk_matmul_flops(&p->w, p->n) + (uint64_t)p->n * dim * (8 * 25 + 40),
                       });
}
