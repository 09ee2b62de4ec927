/* wo_a against matmul with groups and ring_store, bit for bit.
 * Edges: rows of several sequences, some of which wrap; native rows (with scales) and f32 ones (without); with and without K and S,
 * with and without those of keys; groups of one and of several tiles; Flash widths. */
#include "harness_fused.h"

typedef struct shape {
    uint32_t n_in, groups, group_rows, head_dim, width, index_width;
} shape;
static const shape SHAPES[] = { { 96, 2, 64, 128, 0, 0 }, { 128, 3, 32, 128, 256, 0 }, { 256, 1, 96, 512, 64, 32 } };
static const shape FLASH = { 4096, 8, 1024, 512, 1024, 256 };
enum { WINDOW = 24, RING = 12 };

static void record(dsvk_cmd *cmd, const void *params) { dsvk_wo_a(cmd, params); }

static void check(test *t, const shape *s, bool native, const test_span *spans, uint32_t n_spans) {
    const dsvk_row_format f = { native, s->head_dim, 64, 128 };
    test_case(t, "%u sequences, %u groups of [%u, %u], K|S %u and %u, native=%d", n_spans, s->groups, s->group_rows, s->n_in,
              s->width, s->index_width, native);
    const test_step step = test_make_step(t, spans, n_spans);
    fused z = fused_begin(t);
    const uint32_t n = step.n, n_out = s->groups * s->group_rows, codes = dsvk_row_code_bytes(&f), scales = dsvk_row_scale_bytes(&f);
    const uint32_t ks_stride = 2 * (s->width + s->index_width) + 4;
    dsvk_wo_a_params p = { .rows = test_upload(t, step.rows, n * sizeof *step.rows).addr,
                           .w = fused_matrix(t, DSVK_TYPE_FP8, n_out, s->n_in),
                           .x = fused_normals(t, (size_t)n * s->groups * s->n_in, 1),
                           .store = fused_normals(t, (size_t)n * (codes + scales) / 4, 1),
                           .ks = fused_normals(t, (size_t)n * ks_stride, 1),
                           .format = f,
                           .n = n,
                           .group_rows = s->group_rows,
                           .ks_stride = ks_stride,
                           .window_offset = 32,
                           .window_capacity = WINDOW,
                           .width = s->width,
                           .index_width = s->index_width,
                           .ring_capacity = RING };
    p.ring_offset = 32 + WINDOW * (codes + scales);
    p.index_ring_offset = p.ring_offset + RING * 8 * s->width;
    const uint32_t state = p.index_ring_offset + RING * 8 * s->index_width;
    dsvk_addr out;
    fused_output(&z, "out", 4ull * n * n_out, &out, &p.out);
    struct dsvk_seq *got = test_alloc(t, n_spans * sizeof *got);
    memcpy(got, step.seqs, n_spans * sizeof *got);
    for (uint32_t i = 0; i < n_spans; i++)
        fused_output(&z, "state", state, &step.seqs[i].state, &got[i].state);
    p.seqs = test_upload(t, got, n_spans * sizeof *got).addr;
    dsvk_ring_store_params rings = { .rows = p.rows, .seqs = test_upload(t, step.seqs, n_spans * sizeof *got).addr, .n = n };
    rings.items[rings.n_items++] = (dsvk_ring_item){ p.store, codes, codes, p.window_offset, WINDOW };
    if (scales)
        rings.items[rings.n_items++] = (dsvk_ring_item){ p.store + (uint64_t)n * codes, scales, scales,
                                                         p.window_offset + WINDOW * codes, WINDOW };
    if (s->width)
        rings.items[rings.n_items++] = (dsvk_ring_item){ p.ks, 4 * ks_stride, 8 * s->width, p.ring_offset, RING };
    if (s->index_width)
        rings.items[rings.n_items++] = (dsvk_ring_item){ p.ks + 8ull * s->width, 4 * ks_stride, 8 * s->index_width,
                                                         p.index_ring_offset, RING };
    dsvk_ring_store(t->cmd, &rings);
    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = p.w, .x = p.x, .out = out, .n = n, .x_stride = s->groups * s->n_in,
                                               .out_stride = n_out, .group_rows = s->group_rows });
    fused_judge(&z, record, &p);
}

int main(int argc, char **argv) {
    static const test_span SPANS[] = { { 0, 1 }, { 1000000, 1 }, { 23, 2 }, { 9, 1 }, { 3, 15 }, { 40, 12 } };
    test t;
    test_begin(&t, "wo_a", argc, argv);
    for (uint32_t i = 0; i < DSVK_COUNT(SHAPES); i++)
        for (uint32_t spans = 1; spans <= DSVK_COUNT(SPANS); spans++)
            check(&t, &SHAPES[i], i % 2, SPANS, spans);
    check(&t, &FLASH, true, SPANS, 1);
    test_case(&t, "bad shapes");
    dsvk_wo_a(t.cmd, &(dsvk_wo_a_params){ .w = { .n_out = 64, .n_in = 64, .type = DSVK_TYPE_FP8 }, .n = 1, .group_rows = 48,
                                          .window_capacity = 1 });
    test_run_fails(&t, "64 outputs in groups of 48");
    return test_end(&t);
}
