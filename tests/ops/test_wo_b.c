/* wo_b against matmul, hyper_conn_mix and hyper_conn_pre, bit for bit.
 * Edges: rows of FUSED_ROWS; widths that are one tile, no multiple of a chunk of 256, several chunks; Flash and Pro widths. */
#include "harness_fused.h"

static void record(dsvk_cmd *cmd, const void *params) { dsvk_wo_b(cmd, params); }

static void check(test *t, uint32_t dim, uint32_t n_in, uint32_t n, dsvk_weight_type type) {
    test_case(t, "n=%u dim=%u inputs=%u type=%d", n, dim, n_in, type);
    fused z = fused_begin(t);
    const uint32_t chunks = (uint32_t)dsvk_ceil_div(dim, DSVK_HC_CHUNK);
    const struct dsvk_site site = { .fn = fused_normals(t, 96 * (size_t)dim, 0.02f), .base = fused_normals(t, 24, 0.5f),
                                    .scale = fused_normals(t, 3, 0.5f), .norm = fused_normals(t, dim, 1) };
    dsvk_wo_b_params p = { .w = fused_matrix(t, type, dim, n_in), .x = fused_normals(t, (size_t)n * n_in, 1),
                           .site = test_upload(t, &site, sizeof site).addr,
                           .partials = test_output(t, 100ull * n * dim / 32).addr, .counters = z.counters.addr, .n = n,
                           .sinkhorn_iters = 20, .eps = 1e-6f, .hc_eps = 1e-6f };
    dsvk_addr x, post, comb, a, y = test_output(t, 4ull * n * dim).addr, partials = test_output(t, 100ull * n * chunks).addr;
    fused_in_place(&z, "streams", test_normals(t, 4ull * n * dim, 1), 16ull * n * dim, &x, &p.streams);
    fused_in_place(&z, "post", test_normals(t, 4 * n, 1), 16 * n, &post, &p.post);
    fused_in_place(&z, "comb", test_normals(t, 16 * n, 0.5f), 64 * n, &comb, &p.comb);
    fused_output(&z, "out", 4ull * n * dim, &a, &p.out);
    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = p.w, .x = p.x, .out = y, .n = n, .x_stride = n_in, .out_stride = dim });
    dsvk_barrier(t->cmd);
    dsvk_hyper_conn_mix(t->cmd, &(dsvk_hyper_conn_mix_params){ .x_in = x, .x_out = x, .y = y, .post = post, .comb = comb,
                                                               .fn = site.fn, .partials = partials, .n = n, .dim = dim,
                                                               .n_parts = 1, .n_mix = 24 });
    dsvk_barrier(t->cmd);
    dsvk_hyper_conn_pre(t->cmd, &(dsvk_hyper_conn_pre_params){ .x_in = x, .partials = partials, .base = site.base,
                                                               .scale = site.scale, .norm = site.norm, .out = a, .post = post,
                                                               .comb = comb, .n = n, .dim = dim, .n_mix = 24,
                                                               .sinkhorn_iters = 20, .eps = 1e-6f, .hc_eps = 1e-6f });
    fused_judge(&z, record, &p);
}

int main(int argc, char **argv) {
    static const uint32_t DIMS[] = { 32, 96, 800 };
    test t;
    test_begin(&t, "wo_b", argc, argv);
    for (uint32_t d = 0; d < DSVK_COUNT(DIMS); d++)
        for (uint32_t n = 0; n < DSVK_COUNT(FUSED_ROWS); n++)
            check(&t, DIMS[d], 64 + 32 * d, FUSED_ROWS[n], FUSED_TYPES[d][0]);
    check(&t, 4096, 8192, 1, DSVK_TYPE_FP8);
    check(&t, 7168, 256, 5, DSVK_TYPE_FP8);
    test_case(&t, "bad shapes");
    dsvk_wo_b(t.cmd, &(dsvk_wo_b_params){ .w = { .n_out = 48, .n_in = 64, .type = DSVK_TYPE_FP8 }, .n = 1, .sinkhorn_iters = 1 });
    test_run_fails(&t, "wo_b: streams of 48 values");
    return test_end(&t);
}
