/* What an attention sublayer projects from its input (spec 4.5, 4.6), in one dispatch for small steps. */
#include "matmul_rows.h"

#include "attn_in.h"

_Static_assert(sizeof(struct attn_in_args) <= 128, "push constants");

void dsvk_attn_in(dsvk_cmd *cmd, const dsvk_attn_in_params *p) {
    const bool two = p->w_b.n_out > 0;
    if (p->n == 0 || !dsvk_matmul_check_few(cmd, "attn_in", &p->w, p->n) ||
        (two && !dsvk_matmul_check_few(cmd, "attn_in", &p->w_b, p->n)))
        return;
    if (p->q_rank == 0 || p->q_rank % DSVK_TILE_ROWS != 0 || p->q_rank > p->w.n_out || p->w.n_out % 4 != 0 ||
        (two && (p->w_b.n_in != p->w.n_in || p->out_b_stride < p->w_b.n_out))) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "attn_in: norm of %u of %u outputs, second matrix [%u, %u] into rows of %u; the norm takes a multiple of %u, "
                      "both matrices have %u inputs",
                      p->q_rank, p->w.n_out, p->w_b.n_out, p->w_b.n_in, p->out_b_stride, DSVK_TILE_ROWS, p->w.n_in);
        return;
    }
    const uint32_t rows = dsvk_matmul_rows(dsvk_cmd_device(cmd), p->n);
    uint32_t constants[ATTN_IN_CONSTANTS];
    dsvk_matmul_constants(cmd, &p->w, two ? &p->w_b : &p->w, 0, rows, EPILOGUE_STORE, constants);
    constants[ATTN_IN_CONSTANT_Q_RANK] = p->q_rank;
    const struct attn_in_args args = { .x = p->x,
                                       .w = p->w.addr,
                                       .w_b = p->w_b.addr,
                                       .result = p->out,
                                       .result_b = p->out_b,
                                       .norm = p->norm,
                                       .qr = p->qr,
                                       .counters = p->counters,
                                       .scales = (uint32_t)p->w.scales,
                                       .scales_b = (uint32_t)p->w_b.scales,
                                       .words = dsvk_matrix_words(p->w.type, p->w.n_in),
                                       .words_b = dsvk_matrix_words(p->w_b.type, p->w_b.n_in),
                                       .n = p->n,
                                       .n_in = p->w.n_in,
                                       .n_out = p->w.n_out,
                                       .n_out_b = p->w_b.n_out,
                                       .out_stride = p->w.n_out,
                                       .out_stride_b = p->out_b_stride,
                                       .eps = p->eps };
    const uint64_t tiles = dsvk_ceil_div(p->w.n_out, DSVK_TILE_ROWS) + dsvk_ceil_div(p->w_b.n_out, DSVK_TILE_ROWS);
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "attn_in",
                           .shader = "attn_in",
                           .constants = constants,
                           .n_constants = ATTN_IN_CONSTANTS,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->n, rows), (uint32_t)tiles, 1 },
                           .bytes = dsvk_matmul_bytes(&p->w, p->n) + (two ? dsvk_matmul_bytes(&p->w_b, p->n) : 0) +
                                    8ull * p->n * p->q_rank,
                           .flops = dsvk_matmul_flops(&p->w, p->n) + (two ? dsvk_matmul_flops(&p->w_b, p->n) : 0),
                       });
}
