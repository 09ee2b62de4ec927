/* moe_in against matmul, moe_gate and matmul with swiglu, bit for bit; pairs and tiles against plain sorting.
 * Edges: rows of FUSED_ROWS; routing by score and by table; every row the same experts (one expert of many pairs) and few experts;
 * a gate that is no multiple of a tile; Flash widths. */
#include "harness_fused.h"

typedef struct shape {
    uint32_t dim, n_experts, k, hidden;
} shape;
static const shape SHAPES[] = { { 96, 16, 6, 32 }, { 256, 5, 3, 96 }, { 64, 384, 8, 32 }, { 64, 1, 1, 32 }, { 32, 40, 16, 32 } };
static const shape FLASH = { 4096, 256, 6, 2048 };
enum { VOCAB = 7 };

static void record(dsvk_cmd *cmd, const void *params) { dsvk_moe_in(cmd, params); }

/* What moe_expert needs: pairs sorted by expert, each once; tiles in order, as many and as full as moe_sort makes them. */
static void check_tiles(test *t, const uint32_t *idx, const uint32_t *pairs, const uint32_t *tiles, uint32_t n_pairs,
                        uint32_t n_experts, uint32_t tile, uint32_t max_tiles) {
    uint32_t at = 0, used = 0, *seen = test_alloc(t, n_pairs * sizeof *seen);
    for (uint32_t e = 0; e < n_experts; e++) {
        uint32_t count = 0;
        for (uint32_t i = 0; i < n_pairs; i++)
            count += idx[i] == e;
        for (uint32_t done = 0; done < count; done += tile, used++) {
            const uint32_t want[] = { e, at + done, count - done < tile ? count - done : tile, 0 };
            if (!test_check(t, used < max_tiles, "more tiles than there is room for"))
                return;
            test_compare_words(t, "tile", tiles + 4 * used, want, 4);
        }
        for (uint32_t i = at; i < at + count; i++)
            if (test_check(t, pairs[i] < n_pairs && idx[pairs[i]] == e && !seen[pairs[i]], "place %u of expert %u", i, e))
                seen[pairs[i]] = 1;
        at += count;
    }
    for (; used < max_tiles; used++)
        test_check(t, tiles[4 * used + 2] == 0, "tile %u is used", used);
}

static void check(test *t, const shape *s, uint32_t n, const dsvk_weight_type types[2], bool hashed, bool alike) {
    test_case(t, "n=%u dim=%u %u of %u experts, hidden %u, types=%d,%d, hashed=%d alike=%d", n, s->dim, s->k, s->n_experts,
              s->hidden, types[0], types[1], hashed, alike);
    fused z = fused_begin(t);
    const uint32_t pairs = n * s->k, tile = dsvk_moe_tile(t->device, n, s->k, s->n_experts), max_tiles = dsvk_moe_max_tiles(n, s->k, s->n_experts, tile);
    const uint32_t stride = (uint32_t)dsvk_align(s->n_experts, 4);
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    uint32_t *table = test_alloc(t, VOCAB * s->k * sizeof *table);
    for (uint32_t i = 0; i < VOCAB; i++)
        for (uint32_t slot = 0; slot < s->k; slot++)
            table[i * s->k + slot] = (i + slot * 3) % s->n_experts;
    for (uint32_t i = 0; i < n; i++)
        rows[i].token = i % VOCAB;
    float *x = test_normals(t, (size_t)n * s->dim, 1);
    for (uint32_t i = 1; alike && i < n; i++)
        memcpy(x + (size_t)i * s->dim, x, s->dim * sizeof *x);
    const dsvk_buffer pairs_out = test_output(t, pairs * 4), tiles_out = test_output(t, 16ull * max_tiles);
    dsvk_moe_in_params p = { .rows = test_upload(t, rows, n * sizeof *rows).addr,
                             .gate = fused_matrix(t, types[1], s->n_experts, s->dim),
                             .up = fused_matrix(t, types[0], 2 * s->hidden, s->dim),
                             .x = test_upload(t, x, (size_t)n * s->dim * 4).addr,
                             .bias = hashed ? 0 : fused_normals(t, s->n_experts, 0.1f),
                             .table = hashed ? test_upload(t, table, VOCAB * s->k * sizeof *table).addr : 0,
                             .pairs = pairs_out.addr, .tiles = tiles_out.addr, .counters = z.counters.addr, .n = n, .k = s->k,
                             .vocab = VOCAB, .limit = 10, .route_scale = 1.5f };
    dsvk_addr logits, h, idx, weights;
    fused_output(&z, "logits", 4ull * n * stride, &logits, &p.logits);
    fused_output(&z, "h", 4ull * n * s->hidden, &h, &p.h);
    fused_output(&z, "idx", pairs * 4, &idx, &p.idx);
    fused_output(&z, "weights", pairs * 4, &weights, &p.weights);
    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = p.gate, .x = p.x, .out = logits, .n = n, .x_stride = s->dim, .out_stride = stride });
    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = p.up, .x = p.x, .out = h, .n = n, .x_stride = s->dim, .out_stride = s->hidden,
                                               .swiglu = true, .limit = 10 });
    dsvk_barrier(t->cmd);
    dsvk_moe_gate(t->cmd, &(dsvk_moe_gate_params){ .rows = p.rows, .logits = logits, .bias = p.bias, .table = p.table, .idx = idx,
                                                   .weights = weights, .n = n, .n_experts = s->n_experts, .k = s->k,
                                                   .vocab = VOCAB, .logits_stride = stride, .route_scale = 1.5f });
    fused_judge(&z, record, &p);
    check_tiles(t, test_download(t, &z.got[2]), test_download(t, &pairs_out), test_download(t, &tiles_out), pairs, s->n_experts,
                tile, max_tiles);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "moe_in", argc, argv);
    for (uint32_t i = 0; i < DSVK_COUNT(SHAPES); i++)
        for (uint32_t n = 0; n < DSVK_COUNT(FUSED_ROWS); n++)
            check(&t, &SHAPES[i], FUSED_ROWS[n], FUSED_TYPES[i % DSVK_COUNT(FUSED_TYPES)], (i + n) % 3 == 0, (i + n) % 3 == 1);
    check(&t, &FLASH, 1, FUSED_TYPES[0], false, false);
    test_case(&t, "bad shapes");
    dsvk_moe_in(t.cmd, &(dsvk_moe_in_params){ .gate = { .n_out = 2048, .n_in = 64 }, .up = { .n_out = 64, .n_in = 64 }, .n = 1,
                                              .k = 6, .bias = 256 });
    test_run_fails(&t, "moe_in: 1 rows of 6 out of 2048 experts");
    return test_end(&t);
}
