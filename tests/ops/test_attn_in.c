/* attn_in against matmul, matmul and rms_norm, bit for bit.
 * Edges: rows of FUSED_ROWS; one matrix and two, of different types; a second matrix that is no multiple of a tile; Flash widths. */
#include "harness_fused.h"

typedef struct shape {
    uint32_t n_in, q_rank, rest, n_out_b;
} shape;
static const shape SHAPES[] = { { 256, 128, 128, 0 }, { 96, 64, 32, 72 }, { 512, 96, 64, 330 } };
static const shape FLASH = { 4096, 1024, 512, 2624 };

static void record(dsvk_cmd *cmd, const void *params) { dsvk_attn_in(cmd, params); }

static void check(test *t, const shape *s, uint32_t n, const dsvk_weight_type types[2]) {
    test_case(t, "n=%u inputs=%u q_rank=%u rest=%u second=%u types=%d,%d", n, s->n_in, s->q_rank, s->rest, s->n_out_b, types[0],
              types[1]);
    fused f = fused_begin(t);
    const uint32_t n_out = s->q_rank + s->rest, stride_b = (uint32_t)dsvk_align(s->n_out_b, 4);
    dsvk_attn_in_params p = { .w = fused_matrix(t, types[0], n_out, s->n_in),
                              .x = fused_normals(t, (size_t)n * s->n_in, 1),
                              .norm = fused_normals(t, s->q_rank, 1),
                              .counters = f.counters.addr,
                              .n = n,
                              .q_rank = s->q_rank,
                              .out_b_stride = stride_b,
                              .eps = 1e-6f };
    dsvk_addr out, out_b = 0, qr;
    fused_output(&f, "out", 4ull * n * n_out, &out, &p.out);
    fused_output(&f, "qr", 4ull * n * s->q_rank, &qr, &p.qr);
    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = p.w, .x = p.x, .out = out, .n = n, .x_stride = s->n_in, .out_stride = n_out });
    if (s->n_out_b) {
        p.w_b = fused_matrix(t, types[1], s->n_out_b, s->n_in);
        fused_output(&f, "out_b", 4ull * n * stride_b, &out_b, &p.out_b);
        dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = p.w_b, .x = p.x, .out = out_b, .n = n, .x_stride = s->n_in,
                                                   .out_stride = stride_b });
    }
    dsvk_barrier(t->cmd);
    dsvk_rms_norm(t->cmd, &(dsvk_rms_norm_params){ .x = out, .weight = p.norm, .out = qr, .n = n, .dim = s->q_rank,
                                                   .x_stride = n_out, .eps = 1e-6f });
    fused_judge(&f, record, &p);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "attn_in", argc, argv);
    for (uint32_t i = 0; i < DSVK_COUNT(SHAPES); i++)
        for (uint32_t n = 0; n < DSVK_COUNT(FUSED_ROWS); n++)
            check(&t, &SHAPES[i], FUSED_ROWS[n], FUSED_TYPES[i]);
    check(&t, &FLASH, 1, FUSED_TYPES[0]);
    test_case(&t, "bad shapes");
    const dsvk_matrix w = { .n_out = 64, .n_in = 64, .type = DSVK_TYPE_FP8 };
    dsvk_attn_in(t.cmd, &(dsvk_attn_in_params){ .w = w, .n = 33, .q_rank = 32 });
    test_run_fails(&t, "attn_in: 33 rows (at most 32)");
    dsvk_attn_in(t.cmd, &(dsvk_attn_in_params){ .w = w, .n = 1, .q_rank = 48 });
    test_run_fails(&t, "norm of 48 of 64 outputs");
    return test_end(&t);
}
