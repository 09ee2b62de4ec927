/* attn_query against matmul, rope, quant_index, quant_row and kv_compress, bit for bit.
 * Edges: rows of FUSED_ROWS in one sequence and in several; ratio 0, 4, 128; native and f32 formats; entries completed by the first,
 * by a middle and by no row, from rows of the step and of the rings; f32 and byte queries; heads of 128 and 512; Flash widths. */
#include "harness_fused.h"

typedef struct shape {
    uint32_t q_rank, n_heads, head_dim, rope_dim, index_heads, index_dim;
} shape;
static const shape SHAPES[] = { { 128, 4, 128, 64, 16, 128 }, { 64, 3, 512, 64, 5, 64 } };
static const shape FLASH = { 1024, 64, 512, 64, 64, 128 };
enum { PAGE_TOKENS = 256, PAGES = 4, KEYS_OFFSET = 4096 * 40 };

static void record(dsvk_cmd *cmd, const void *params) { dsvk_attn_query(cmd, params); }

static uint32_t entry_bytes(const dsvk_row_format *f, uint32_t ratio) {
    return ratio ? KEYS_OFFSET + PAGE_TOKENS / ratio * (dsvk_key_code_bytes(f) + dsvk_key_scale_bytes(f)) : 64;
}

static void check(test *t, const shape *s, uint32_t ratio, bool native, const test_span *spans, uint32_t n_spans) {
    const dsvk_row_format f = { native, s->head_dim, s->rope_dim, s->index_dim, .byte_queries = native && n_spans > 2 };
    test_case(t, "%u sequences, %u heads of %u, ratio %u, native=%d%s", n_spans, s->n_heads, s->head_dim, ratio, native,
              f.byte_queries ? ", byte queries" : "");
    const test_step step = test_make_step(t, spans, n_spans);
    fused z = fused_begin(t);
    const uint32_t n = step.n, heads = s->n_heads * s->head_dim, index = ratio == 4 ? s->index_heads * s->index_dim : 0;
    const uint32_t n_out = heads + index, stride = s->q_rank + s->head_dim, w = ratio == 4 ? 2 * s->head_dim : s->head_dim;
    const uint32_t ks_stride = ratio ? 2 * w + (ratio == 4 ? 4 * s->index_dim + s->index_heads : 0) : 0;
    const uint32_t ks4 = (uint32_t)dsvk_align(ks_stride, 4), capacity = ratio == 4 ? 16 : 136;
    const uint32_t ring = 8 * w * capacity, index_ring = 16 * s->index_dim * capacity;
    const uint32_t row_bytes = dsvk_row_code_bytes(&f) + dsvk_row_scale_bytes(&f);
    const struct dsvk_kv_vectors v = { .kv_norm = fused_normals(t, s->head_dim, 1),
                                       .ape = fused_normals(t, (size_t)(ratio ? ratio : 1) * w, 1),
                                       .norm = fused_normals(t, s->head_dim, 1),
                                       .index_ape = fused_normals(t, 8 * s->index_dim, 1),
                                       .index_norm = fused_normals(t, s->index_dim, 1) };
    dsvk_attn_query_params p = { .rope = test_rope_table(t, s->rope_dim, (uint32_t[]){ 0 }, 0),
                                 .w = fused_matrix(t, DSVK_TYPE_FP8, n_out, s->q_rank),
                                 .vectors = test_upload(t, &v, sizeof v).addr,
                                 .qr = fused_normals(t, (size_t)n * s->q_rank, 1),
                                 .kv = fused_normals(t, (size_t)n * stride, 1),
                                 .ks = fused_normals(t, (size_t)n * (ks4 ? ks4 : 4), 1),
                                 .counters = z.counters.addr,
                                 .format = f,
                                 .n = n,
                                 .n_heads = s->n_heads,
                                 .ratio = ratio,
                                 .ks_stride = ks4,
                                 .index_ring_offset = ring,
                                 .ring_capacity = capacity,
                                 .page_tokens = PAGE_TOKENS,
                                 .keys_offset = KEYS_OFFSET,
                                 .eps = 1e-6f };
    /* Angles of the rows and of the first tokens of the windows they may complete. */
    uint32_t *positions = test_alloc(t, 2 * n * sizeof *positions);
    for (uint32_t i = 0; i < n; i++) {
        positions[2 * i] = step.rows[i].position;
        positions[2 * i + 1] = ratio ? step.rows[i].position / ratio * ratio : 0;
    }
    p.rope = test_rope_table(t, s->rope_dim, positions, 2 * n);
    p.rows = test_upload(t, step.rows, n * sizeof *step.rows).addr;
    dsvk_addr pages_want[PAGES], pages_got[PAGES], q, store, seqs_want;
    fused_output(&z, "q", 4ull * n * n_out, &q, &p.q);
    fused_output(&z, "store", (size_t)n * row_bytes, &store, &p.store);
    for (uint32_t i = 0; i < n_spans; i++) /* all sequences have the same state; their entries differ */
        step.seqs[i].state = i ? step.seqs[0].state : fused_normals(t, (ring + index_ring) / 4, 1);
    struct dsvk_seq *got = test_alloc(t, n_spans * sizeof *got);
    memcpy(got, step.seqs, n_spans * sizeof *got);
    for (uint32_t i = 0; i < n_spans; i++) {
        dsvk_addr want_page, got_page; /* one page of each sequence, wherever it stands */
        fused_output(&z, "page", entry_bytes(&f, ratio), &want_page, &got_page);
        for (uint32_t page = 0; page < PAGES; page++) {
            pages_want[page] = want_page;
            pages_got[page] = got_page;
        }
        step.seqs[i].pages = test_upload(t, pages_want, sizeof pages_want).addr;
        got[i].pages = test_upload(t, pages_got, sizeof pages_got).addr;
    }
    seqs_want = test_upload(t, step.seqs, n_spans * sizeof *got).addr;
    p.seqs = test_upload(t, got, n_spans * sizeof *got).addr;

    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = p.w, .x = p.qr, .out = q, .n = n, .x_stride = s->q_rank, .out_stride = n_out });
    dsvk_quant_row(t->cmd, &(dsvk_quant_row_params){ .rows = p.rows, .rope = p.rope, .kv = p.kv + 4ull * s->q_rank,
                                                     .weight = v.kv_norm, .store = store, .format = f, .n = n,
                                                     .kv_stride = stride, .capacity = n, .eps = 1e-6f });
    for (int keys = 0; keys < (ratio == 4 ? 2 : ratio ? 1 : 0); keys++)
        dsvk_kv_compress(t->cmd, &(dsvk_kv_compress_params){
            .rows = p.rows, .seqs = seqs_want, .rope = p.rope, .ks = p.ks + (keys ? 8ull * w : 0),
            .ape = keys ? v.index_ape : v.ape, .norm = keys ? v.index_norm : v.norm, .format = f, .index = keys, .n = n,
            .ratio = ratio, .ks_stride = ks4, .ring_offset = keys ? ring : 0, .ring_capacity = capacity,
            .page_tokens = PAGE_TOKENS, .page_offset = keys ? KEYS_OFFSET : 0, .eps = 1e-6f });
    dsvk_barrier(t->cmd);
    dsvk_rope(t->cmd, &(dsvk_rope_params){ .rows = p.rows, .rope = p.rope, .q = q, .n = n, .n_heads = s->n_heads,
                                           .head_dim = s->head_dim, .rope_dim = s->rope_dim, .q_stride = n_out, .eps = 1e-6f });
    if (ratio == 4)
        dsvk_quant_index(t->cmd, &(dsvk_quant_index_params){ .rows = p.rows, .rope = p.rope, .iq = q + 4ull * heads, .format = f,
                                                             .n = n, .n_heads = s->index_heads, .iq_stride = n_out });
    fused_judge(&z, record, &p);
}

int main(int argc, char **argv) {
    static const uint32_t RATIOS[] = { 0, 4, 128 };
    static const test_span SPANS[] = { { 127, 1 }, { 6, 3 }, { 0, 1 }, { 250, 9 }, { 128, 5 }, { 3, 1 }, { 254, 12 } };
    test t;
    test_begin(&t, "attn_query", argc, argv);
    for (uint32_t i = 0; i < DSVK_COUNT(SHAPES); i++)
        for (uint32_t r = 0; r < DSVK_COUNT(RATIOS); r++)
            for (uint32_t spans = 1; spans <= DSVK_COUNT(SPANS); spans += spans < 4 ? 1 : 3)
                check(&t, &SHAPES[i], RATIOS[r], (r + i) % 2, SPANS, spans);
    check(&t, &FLASH, 4, true, SPANS, 1);
    test_case(&t, "bad shapes");
    const dsvk_matrix w = { .n_out = 192, .n_in = 64, .type = DSVK_TYPE_FP8 };
    dsvk_attn_query_params bad = { .w = w, .n = 1, .n_heads = 2, .format = { true, 128, 64, 128 } };
    dsvk_attn_query(t.cmd, &bad);
    test_run_fails(&t, "192 outputs are no 2 heads of 128");
    bad.n_heads = 1;
    bad.ratio = 128;
    bad.w.n_out = 128;
    bad.page_tokens = 130;
    dsvk_attn_query(t.cmd, &bad);
    test_run_fails(&t, "attn_query: ratio 128, pages of 130 tokens");
    return test_end(&t);
}
