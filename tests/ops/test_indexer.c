/* indexer against plain loops. Tolerance: 2^-20 of the sum of the sizes of all terms: a score is a sum of up to 8,192 products
 * in 32-bit floats, of which the running sums stay far below that bound.
 * Edges: positions 0 .. 7 (0, 1 and 2 visible keys), the first and last key of a page, 255 .. 257 keys (a workgroup), several
 * sequences in one step, with and without matrix units where the device has them, one row and tiles of four that begin and end inside sequences, rows that need no scores, 1, 3, 8, 16, 32, 64 and 70 heads, key widths 32, 128 and 256, native and f32 keys, strides wider than
 * the row; the model's width with 4,096 keys; 262,144 keys. Keys beyond the visible ones are NaN; scores beyond them stay untouched. */
#include "harness.h"

typedef struct shape {
    uint32_t n_heads, index_dim, page_tokens;
    bool native, bytes; /* bytes: byte queries too, whose scores are the same bits */
} shape;

typedef struct sequence {
    uint32_t length;  /* tokens */
    float *keys;      /* [length / 4][index_dim], decoded */
    uint64_t *pages;  /* addresses */
} sequence;

#define PAGE_OFFSET 48u

/* Random keys in pages that lie in memory in descending order, everything else 0xff: NaN in every format. */
static sequence make_sequence(test *t, const shape *s, uint32_t length) {
    const dsvk_row_format f = { .native = s->native, .head_dim = 512, .rope_dim = 64, .index_dim = s->index_dim };
    const uint32_t capacity = s->page_tokens / 4, n_keys = length / 4, n_pages = length / s->page_tokens + 1;
    const uint32_t codes = dsvk_key_code_bytes(&f), scales = dsvk_key_scale_bytes(&f);
    const size_t page_bytes = dsvk_align(PAGE_OFFSET + (size_t)capacity * (codes + scales), 16);
    uint8_t *memory = test_alloc(t, n_pages * page_bytes);
    memset(memory, 0xff, n_pages * page_bytes);
    sequence q = { .length = length,
                   .keys = test_alloc(t, (size_t)(n_keys + 1) * s->index_dim * 4),
                   .pages = test_alloc(t, n_pages * sizeof *q.pages) };
    for (uint32_t j = 0; j < n_keys; j++) {
        uint8_t *store = memory + (n_pages - 1 - j / capacity) * page_bytes + PAGE_OFFSET;
        uint8_t *code = store + (size_t)(j % capacity) * codes;
        if (s->native) {
            for (uint32_t b = 0; b < codes; b++)
                code[b] = (uint8_t)test_random(t);
            for (uint32_t b = 0; b < s->index_dim / 32; b++)
                store[(size_t)capacity * codes + (size_t)(j % capacity) * scales + b] = (uint8_t)(124 + test_below(t, 5));
        } else {
            for (uint32_t d = 0; d < s->index_dim; d++) {
                const float v = test_normal(t);
                memcpy(code + 4 * d, &v, 4);
            }
        }
        ref_read_key(store, capacity, j % capacity, &f, q.keys + (size_t)j * s->index_dim);
    }
    const dsvk_buffer buffer = test_upload(t, memory, n_pages * page_bytes);
    for (uint32_t i = 0; i < n_pages; i++)
        q.pages[i] = buffer.addr + (n_pages - 1 - i) * page_bytes;
    return q;
}

/* Random e2m1 values with a scale per block, and the same as byte queries (ops.h). */
static void make_queries(test *t, const shape *s, uint32_t n, uint32_t stride, float *iq, uint32_t *packed) {
    for (uint32_t i = 0; i < n * s->n_heads; i++) {
        const size_t at = (size_t)(i / s->n_heads) * stride + i % s->n_heads * s->index_dim;
        for (uint32_t d = 0; d < s->index_dim; d++) {
            static const int8_t DOUBLES[8] = { 0, 1, 2, 3, 4, 6, 8, 12 };
            float *half_scale = (float *)&packed[at + s->index_dim / 4 + d / 32];
            if (d % 32 == 0)
                *half_scale = ldexpf(1, (int)test_below(t, 9) - 5);
            const int value = DOUBLES[test_below(t, 8)] * (test_below(t, 2) ? 1 : -1);
            iq[at + d] = (float)value * *half_scale;
            ((int8_t *)&packed[at + d / 8 * 2 + d % 2])[d % 8 / 2] = (int8_t)value;
        }
    }
}

typedef struct step {
    dsvk_indexer_params p;
    struct dsvk_row *rows;
    dsvk_buffer scores, bins;
    const float *iq, *weights;
    const uint32_t *packed; /* the queries as bytes, or NULL */
} step;

static dsvk_buffer test_zeros(test *t, size_t bytes) {
    dsvk_error err = { 0 };
    const dsvk_buffer buffer = test_output(t, bytes);
    test_check(t, dsvk_buffer_write(t->device, &buffer, 0, test_alloc(t, bytes), bytes, &err) == DSVK_OK, "zeros: %s", err.message);
    return buffer;
}

/* The last rows[i] tokens of every sequence. */
static step make_step(test *t, const shape *s, const sequence *sequences, const uint32_t *rows, uint32_t n_sequences) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_sequences; i++)
        n += rows[i];
    step st = { .rows = test_alloc(t, n * sizeof *st.rows) };
    struct dsvk_seq *seqs = test_alloc(t, n_sequences * sizeof *seqs);
    uint32_t t0 = 0, max_visible = 0;
    for (uint32_t i = 0; i < n_sequences; i++) {
        const uint32_t start = sequences[i].length - rows[i];
        seqs[i] = (struct dsvk_seq){
            .pages = test_upload(t, sequences[i].pages, (sequences[i].length / s->page_tokens + 1) * 8).addr,
            .first = t0, .rows = rows[i], .start = start
        };
        for (uint32_t r = 0; r < rows[i]; r++)
            st.rows[t0 + r] = (struct dsvk_row){ .position = start + r, .sequence = i, .first = t0 };
        t0 += rows[i];
        if (sequences[i].length / 4 > max_visible)
            max_visible = sequences[i].length / 4;
    }
    const uint32_t iq_stride = s->n_heads * s->index_dim + 8, weights_stride = s->n_heads + 3;
    float *iq = test_normals(t, (size_t)n * iq_stride, 1.0f);
    uint32_t *packed = s->bytes ? test_alloc(t, (size_t)n * iq_stride * 4) : NULL;
    if (packed)
        make_queries(t, s, n, iq_stride, iq, packed);
    st.iq = iq;
    st.packed = packed;
    st.weights = test_normals(t, (size_t)n * weights_stride, 1.0f);
    const uint32_t scores_stride = (uint32_t)dsvk_align(max_visible, 4) + 4;
    st.scores = test_output(t, (size_t)n * scores_stride * 4);
    st.bins = test_zeros(t, dsvk_topk_bins_bytes(n));
    st.p = (dsvk_indexer_params){ .rows = test_upload(t, st.rows, n * sizeof *st.rows).addr,
                                  .seqs = test_upload(t, seqs, n_sequences * sizeof *seqs).addr,
                                  .iq = test_upload(t, st.iq, (size_t)n * iq_stride * 4).addr,
                                  .weights = test_upload(t, st.weights, (size_t)n * weights_stride * 4).addr,
                                  .scores = st.scores.addr,
                                  .bins = st.bins.addr,
                                  .format = { .native = s->native, .head_dim = 512, .rope_dim = 64, .index_dim = s->index_dim },
                                  .n = n,
                                  .n_seqs = n_sequences,
                                  .n_heads = s->n_heads,
                                  .iq_stride = iq_stride,
                                  .weights_stride = weights_stride,
                                  .scores_stride = scores_stride,
                                  .max_visible = max_visible,
                                  .page_tokens = s->page_tokens,
                                  .page_offset = PAGE_OFFSET,
                                  .scale = 1.0f / sqrtf((float)(s->index_dim * s->n_heads)) };
    return st;
}

/* One row alone must give the bits it gave among the others. */
static void check_alone(test *t, const step *st, uint32_t r, const float *batch) {
    dsvk_indexer_params p = st->p;
    const dsvk_buffer scores = test_output(t, (size_t)p.scores_stride * 4);
    p.rows += r * sizeof(struct dsvk_row);
    p.iq = test_upload(t, st->iq + (size_t)r * p.iq_stride, p.iq_stride * 4).addr;
    p.weights = test_upload(t, st->weights + (size_t)r * p.weights_stride, p.weights_stride * 4).addr;
    p.scores = scores.addr;
    p.bins = test_zeros(t, dsvk_topk_bins_bytes(1)).addr;
    p.n = p.n_seqs = 1;
    p.max_visible = (st->rows[r].position + 1) / 4;
    dsvk_indexer(t->cmd, &p);
    if (test_run(t))
        test_compare_words(t, "row alone", test_download(t, &scores), batch + (size_t)r * p.scores_stride, p.scores_stride);
}

/* Scores by the first 11 bits of their order: negative ones are turned over, -0 is 0 (test_topk.c). */
static void check_bins(test *t, const uint32_t *bins, const float *scores, uint32_t visible) {
    uint32_t *want = test_alloc(t, dsvk_topk_bins_bytes(1));
    for (uint32_t j = 0; j < visible; j++) {
        uint32_t u;
        memcpy(&u, &scores[j], 4);
        want[scores[j] == 0 ? 1024 : u >> 31 ? 2047 - (u >> 21) : 1024 + (u >> 21)]++;
    }
    test_compare_words(t, "bins", bins, want, dsvk_topk_bins_bytes(1) / 4);
}

/* Byte queries give the bits that f32 queries gave. */
static void check_bytes(test *t, const step *st, const float *scores, const uint32_t *bins) {
    dsvk_indexer_params p = st->p;
    const size_t words = (size_t)p.n * p.scores_stride;
    const dsvk_buffer got = test_output(t, words * 4), counts = test_zeros(t, dsvk_topk_bins_bytes(p.n));
    p.iq = test_upload(t, st->packed, (size_t)p.n * p.iq_stride * 4).addr;
    p.format.byte_queries = true;
    p.scores = got.addr;
    p.bins = counts.addr;
    dsvk_indexer(t->cmd, &p);
    if (!test_run(t))
        return;
    test_compare_words(t, "scores of byte queries", test_download(t, &got), scores, words);
    test_compare_words(t, "their bins", test_download(t, &counts), bins, dsvk_topk_bins_bytes(p.n) / 4);
}

/* Rows with at most k visible keys are left alone. */
static void check_k(test *t, const dsvk_indexer_params *params, const struct dsvk_row *rows, uint32_t k) {
    dsvk_indexer_params p = *params;
    const dsvk_buffer scores = test_output(t, (size_t)p.n * p.scores_stride * 4), bins = test_zeros(t, dsvk_topk_bins_bytes(p.n));
    p.scores = scores.addr;
    p.bins = bins.addr;
    p.k = k;
    dsvk_indexer(t->cmd, &p);
    if (!test_run(t))
        return;
    const uint32_t *words = test_download(t, &scores), *counts = test_download(t, &bins);
    for (uint32_t r = 0; r < p.n; r++) {
        const uint32_t visible = (rows[r].position + 1) / 4;
        uint32_t written = 0, counted = 0;
        for (uint32_t j = 0; j < p.scores_stride; j++)
            written += words[(size_t)r * p.scores_stride + j] != 0xffffffffu;
        for (uint32_t j = 0; j < dsvk_topk_bins_bytes(1) / 4; j++)
            counted += counts[r * dsvk_topk_bins_bytes(1) / 4 + j];
        const uint32_t want = visible > k ? visible : 0;
        test_check(t, written == want && counted == want, "row %u: k=%u: %u scores, %u counted, want %u", r, k, written, counted, want);
    }
}

static void compare(test *t, const shape *s, const step *st, const sequence *sequences, const float *got, const uint32_t *bins) {
    const dsvk_indexer_params *p = &st->p;
    float *want = test_alloc(t, (size_t)p->scores_stride * 4), *magnitude = test_alloc(t, (size_t)p->scores_stride * 4);
    for (uint32_t r = 0; r < p->n; r++) {
        const uint32_t visible = (st->rows[r].position + 1) / 4;
        ref_indexer(st->iq + (size_t)r * p->iq_stride, st->weights + (size_t)r * p->weights_stride,
                    sequences[st->rows[r].sequence].keys, s->n_heads, s->index_dim, visible, p->scale, want, magnitude);
        test_compare_sums(t, "scores", got + (size_t)r * p->scores_stride, want, magnitude, visible, 0x1p-20f);
        check_bins(t, bins + r * dsvk_topk_bins_bytes(1) / 4, got + (size_t)r * p->scores_stride, visible);
        bool untouched = true;
        for (uint32_t j = visible; j < p->scores_stride; j++) {
            uint32_t word;
            memcpy(&word, &got[(size_t)r * p->scores_stride + j], 4);
            untouched &= word == 0xffffffffu;
        }
        test_check(t, untouched, "row %u: scores behind the %u visible ones were written", r, visible);
    }
}

static void check(test *t, shape s, const uint32_t *lengths, const uint32_t *rows, uint32_t n_sequences) {
    test_case(t, "heads=%u dim=%u page=%u %s lengths=%u.. rows=%u..", s.n_heads, s.index_dim, s.page_tokens,
              s.native ? "native" : "f32", lengths[0], rows[0]);
    sequence sequences[4];
    for (uint32_t i = 0; i < n_sequences; i++)
        sequences[i] = make_sequence(t, &s, lengths[i]);
    const step st = make_step(t, &s, sequences, rows, n_sequences);
    const dsvk_indexer_params *p = &st.p;
    dsvk_indexer(t->cmd, p);
    if (!test_run(t))
        return;
    const float *got = test_download(t, &st.scores);
    const uint32_t *bins = test_download(t, &st.bins);
    compare(t, &s, &st, sequences, got, bins);
    check_alone(t, &st, 0, got);
    if (p->n > 1)
        check_alone(t, &st, p->n - 1, got);
    check_k(t, p, st.rows, (st.rows[0].position + 1) / 4);
    if (st.packed)
        check_bytes(t, &st, got, bins);
}

/* By a way on matrix units: rows of a step, rows of few keys, and that it is another kernel than the plain one. */
static void check_matrices(test *t, const dsvk_matmul_variant *variant, shape s, const uint32_t *lengths, const uint32_t *rows,
                           uint32_t n_sequences) {
    char name[DSVK_MATMUL_NAME];
    test_case(t, "%s: heads=%u dim=%u page=%u lengths=%u.. rows=%u..", dsvk_matmul_name(*variant, name), s.n_heads, s.index_dim,
              s.page_tokens, lengths[0], rows[0]);
    sequence sequences[4];
    for (uint32_t i = 0; i < n_sequences; i++)
        sequences[i] = make_sequence(t, &s, lengths[i]);
    step st = make_step(t, &s, sequences, rows, n_sequences);
    st.p.iq = test_upload(t, st.packed, (size_t)st.p.n * st.p.iq_stride * 4).addr;
    st.p.format.byte_queries = true;
    st.p.variant = variant;
    dsvk_indexer(t->cmd, &st.p);
    if (!test_run(t))
        return;
    compare(t, &s, &st, sequences, test_download(t, &st.scores), test_download(t, &st.bins));
    check_k(t, &st.p, st.rows, (st.rows[0].position + 1) / 4);
}

static void record(dsvk_cmd *cmd, void *params) { dsvk_indexer(cmd, params); }

static void bench(test *t, uint32_t heads, uint32_t length, uint32_t n) {
    const shape s = { heads, 128, 4096, true, true };
    for (int bytes = 0; bytes < 2; bytes++) {
        test_case(t, "heads=%u dim=128 keys=%u rows=%u%s", heads, length / 4, n, bytes ? ", byte queries" : "");
        const sequence q = make_sequence(t, &s, length);
        step st = make_step(t, &s, &q, &n, 1); /* tokens of one sequence; bins grow, which costs nothing */
        if (bytes)
            st.p.iq = test_upload(t, st.packed, (size_t)n * st.p.iq_stride * 4).addr;
        st.p.format.byte_queries = bytes;
        test_bench(t, record, &st.p);
    }
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "indexer", argc, argv);
    static const uint32_t heads[] = { 1, 3, 8, 16, 32, 64, 70 };
    static const uint32_t lengths[] = { 9, 130, 1031, 516 }, rows[] = { 9, 5, 12, 1 };
    for (uint32_t i = 0; i < DSVK_COUNT(heads); i++)
        for (int native = 0; native < 2; native++)
            check(&t, (shape){ heads[i], 128, 128, native, native }, lengths, rows, 4);
    check(&t, (shape){ 5, 32, 128, true, true }, lengths, rows, 4);
    check(&t, (shape){ 5, 256, 64, true, true }, lengths, rows, 4);
    check(&t, (shape){ 2, 64, 4, false, false }, lengths, rows, 4);
    check(&t, (shape){ 8, 128, 128, true, true }, lengths, (uint32_t[]){ 1, 1, 1, 1 }, 4);
    check(&t, (shape){ 8, 128, 128, true, true }, lengths, (uint32_t[]){ 6, 2, 7, 1 }, 4);
    for (uint32_t h = 1; h < 5; h++) /* more rows of a workgroup where heads are few, in tiles of one and of several sequences */
        check(&t, (shape){ h, 128, 128, true, true }, (uint32_t[]){ 60, 130, 1031, 516 }, (uint32_t[]){ 41, 7, 25, 16 }, 4);
    check(&t, (shape){ 64, 128, 4096, true, true }, (uint32_t[]){ 16384 }, (uint32_t[]){ 2 }, 1);
    check(&t, (shape){ 2, 32, 65536, true, false }, (uint32_t[]){ 1048576 }, (uint32_t[]){ 5 }, 1);

    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    for (uint32_t i = 0, n = dsvk_matmul_variants(t.device, list); i < n; i++) {
        if (list[i].kind != DSVK_MATMUL_COOPMAT)
            continue;
        for (uint32_t h = 0; h < DSVK_COUNT(heads); h++)
            check_matrices(&t, &list[i], (shape){ heads[h], 128, 128, true, true }, lengths, (uint32_t[]){ 5, 40, 19, 16 }, 4);
        check_matrices(&t, &list[i], (shape){ 5, 32, 128, true, true }, lengths, (uint32_t[]){ 8, 29, 16, 17 }, 4);
        check_matrices(&t, &list[i], (shape){ 70, 256, 64, true, true }, lengths, (uint32_t[]){ 8, 29, 16, 17 }, 4);
        check_matrices(&t, &list[i], (shape){ 64, 128, 4096, true, true }, (uint32_t[]){ 16384 }, (uint32_t[]){ 17 }, 1);
    }

    test_case(&t, "shapes");
    dsvk_indexer(t.cmd, &(dsvk_indexer_params){ .format = { .index_dim = 100 }, .n = 1, .n_heads = 4, .iq_stride = 400 });
    test_run_fails(&t, "4 heads of 100 values");
    dsvk_indexer(t.cmd, &(dsvk_indexer_params){ .format = { .index_dim = 128 }, .n = 1, .n_heads = 4, .iq_stride = 512,
                                                .weights_stride = 4, .max_visible = 9, .scores_stride = 8, .page_tokens = 128 });
    test_run_fails(&t, "9 keys visible in scores of stride 8");
    dsvk_indexer(t.cmd, &(dsvk_indexer_params){ .format = { .native = true, .index_dim = 512, .byte_queries = true }, .n = 1, .n_heads = 1,
                                                .iq_stride = 512, .weights_stride = 1 });
    test_run_fails(&t, "byte queries of 512 values with native keys; they have at most 256");

    if (t.bench) {
        bench(&t, 64, 16384, 1);
        bench(&t, 64, 16384, 16);
        bench(&t, 64, 131072, 1);
        bench(&t, 64, 1048576, 1);
        bench(&t, 1, 262144, 64); /* few heads: what is done once for a score counts */
        bench(&t, 4, 16384, 64);
    }
    return test_end(&t);
}
