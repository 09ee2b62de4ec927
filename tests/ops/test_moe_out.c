/* moe_out against moe_expert (down), matmul, hyper_conn_mix and hyper_conn_pre, bit for bit.
 * Edges: rows of FUSED_ROWS; experts shared by all rows and by none; widths that are one tile, no multiple of a chunk, several
 * chunks; the head as next site; Flash and Pro widths. */
#include "harness_fused.h"

typedef struct shape {
    uint32_t dim, hidden, n_experts, k;
} shape;
static const shape SHAPES[] = { { 32, 32, 4, 2 }, { 96, 64, 16, 6 }, { 800, 32, 40, 3 }, { 256, 96, 7, 6 } };

static void record(dsvk_cmd *cmd, const void *params) { dsvk_moe_out(cmd, params); }

static void check(test *t, const shape *s, uint32_t n, const dsvk_weight_type types[2], uint32_t n_mix, bool alike) {
    test_case(t, "n=%u dim=%u hidden=%u %u of %u experts, types=%d,%d, mixes=%u alike=%d", n, s->dim, s->hidden, s->k, s->n_experts,
              types[0], types[1], n_mix, alike);
    fused z = fused_begin(t);
    const uint32_t dim = s->dim, pairs = n * s->k, tile = dsvk_moe_tile(t->device, n, s->k, s->n_experts), sums = n_mix + 1;
    const uint32_t max_tiles = dsvk_moe_max_tiles(n, s->k, s->n_experts, tile), chunks = (uint32_t)dsvk_ceil_div(dim, DSVK_HC_CHUNK);
    dsvk_addr *experts = test_alloc(t, s->n_experts * sizeof *experts);
    dsvk_matrix w = { 0 };
    for (uint32_t e = 0; e < s->n_experts; e++) {
        if (e < 5) /* more than a few different ones prove nothing */
            w = fused_matrix(t, types[0], dim, s->hidden);
        experts[e] = e < 5 ? w.addr - 64 : experts[e % 5]; /* at byte 64 of a blob */
    }
    uint32_t *idx = test_alloc(t, pairs * sizeof *idx);
    for (uint32_t i = 0; i < pairs; i++)
        idx[i] = (alike ? i % s->k : i * 7 + i / s->k) % s->n_experts;
    const struct dsvk_site site = { .fn = fused_normals(t, 4ull * n_mix * dim, 0.02f), .base = fused_normals(t, 24, 0.5f),
                                    .scale = fused_normals(t, 3, 0.5f), .norm = fused_normals(t, dim, 1) };
    dsvk_moe_out_params p = { .experts = test_upload(t, experts, s->n_experts * sizeof *experts).addr,
                              .pairs = test_output(t, pairs * 4).addr, .tiles = test_output(t, 16ull * max_tiles).addr,
                              .w = w, .shared = fused_matrix(t, types[1], dim, s->hidden), .offset = 64,
                              .h = fused_normals(t, (size_t)(pairs + n) * s->hidden, 1),
                              .y = test_output(t, 4ull * n * (s->k + 1) * dim).addr,
                              .site = test_upload(t, &site, sizeof site).addr, .counters = z.counters.addr, .n = n, .k = s->k,
                              .n_experts = s->n_experts, .n_mix = n_mix, .sinkhorn_iters = 20, .eps = 1e-6f, .hc_eps = 1e-6f };
    const dsvk_buffer tiles = test_output(t, 4ull * n * sums * dim / 32);
    p.partials = tiles.addr;
    dsvk_addr x, post, comb, a, y = test_output(t, 4ull * n * (s->k + 1) * dim).addr,
                                partials = test_output(t, 4ull * n * sums * chunks).addr;
    fused_in_place(&z, "streams", test_normals(t, 4ull * n * dim, 1), 16ull * n * dim, &x, &p.streams);
    fused_in_place(&z, "post", test_normals(t, 4 * n, 1), 16 * n, &post, &p.post);
    fused_in_place(&z, "comb", test_normals(t, 16 * n, 0.5f), 64 * n, &comb, &p.comb);
    fused_output(&z, "out", 4ull * n * dim, &a, &p.out);
    dsvk_moe_sort(t->cmd, &(dsvk_moe_sort_params){ .idx = test_upload(t, idx, pairs * 4).addr, .pairs = p.pairs, .tiles = p.tiles,
                                                   .n = n, .k = s->k, .n_experts = s->n_experts, .tile = tile });
    dsvk_barrier(t->cmd);
    dsvk_moe_expert(t->cmd, &(dsvk_moe_expert_params){ .experts = p.experts, .pairs = p.pairs, .tiles = p.tiles, .x = p.h, .out = y,
                                                       .w = w, .offset = 64, .n = n, .k = s->k, .n_experts = s->n_experts,
                                                       .tile = tile, .x_stride = s->hidden, .out_stride = (s->k + 1) * dim });
    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = p.shared, .x = p.h + 4ull * pairs * s->hidden, .out = y + 4ull * s->k * dim,
                                               .n = n, .x_stride = s->hidden, .out_stride = (s->k + 1) * dim });
    dsvk_barrier(t->cmd);
    dsvk_hyper_conn_mix(t->cmd, &(dsvk_hyper_conn_mix_params){ .x_in = x, .x_out = x, .y = y, .post = post, .comb = comb,
                                                               .fn = site.fn, .partials = partials, .n = n, .dim = dim,
                                                               .n_parts = s->k + 1, .n_mix = n_mix });
    dsvk_barrier(t->cmd);
    dsvk_hyper_conn_pre_params pre = { .x_in = x, .partials = partials, .base = site.base, .scale = site.scale, .norm = site.norm,
                                       .out = a, .post = n_mix > 4 ? post : 0, .comb = n_mix > 4 ? comb : 0, .n = n, .dim = dim,
                                       .n_mix = n_mix, .sinkhorn_iters = 20, .eps = 1e-6f, .hc_eps = 1e-6f };
    dsvk_hyper_conn_pre(t->cmd, &pre);
    if (n_mix == 4) { /* the head's own kernel goes on from the tiles */
        dsvk_addr head = p.out;
        p.out = 0;
        dsvk_moe_out(t->cmd, &p);
        dsvk_barrier(t->cmd);
        pre.x_in = p.streams;
        pre.partials = p.partials;
        pre.tiles = true;
        pre.out = head;
        dsvk_hyper_conn_pre(t->cmd, &pre);
        if (test_run(t))
            fused_compare(&z);
        return;
    }
    fused_judge(&z, record, &p);
}

int main(int argc, char **argv) {
    static const shape FLASH = { 4096, 2048, 8, 6 }, PRO = { 7168, 32, 8, 6 };
    test t;
    test_begin(&t, "moe_out", argc, argv);
    for (uint32_t i = 0; i < DSVK_COUNT(SHAPES); i++)
        for (uint32_t n = 0; n < DSVK_COUNT(FUSED_ROWS); n++)
            check(&t, &SHAPES[i], FUSED_ROWS[n], FUSED_TYPES[i % DSVK_COUNT(FUSED_TYPES)], i == 1 ? 4 : 24, (i + n) % 2);
    check(&t, &FLASH, 1, FUSED_TYPES[1], 24, false);
    check(&t, &PRO, 5, FUSED_TYPES[1], 24, true);
    test_case(&t, "bad shapes");
    const dsvk_matrix w = { .n_out = 64, .n_in = 64, .type = DSVK_TYPE_FP4 };
    dsvk_moe_out(t.cmd, &(dsvk_moe_out_params){ .w = w, .shared = { .n_out = 96, .n_in = 64 }, .n = 1, .k = 1 });
    test_run_fails(&t, "moe_out: experts of [64, 64], a shared one of [96, 64]");
    return test_end(&t);
}
