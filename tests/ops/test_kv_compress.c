/* kv_compress against ref_kv_compress. A kernel's pooled values carry rounding errors, so stored codes are judged by
 * test_compare_row / _key: equal to the reference's unless its value lies within the error of a rounding boundary.
 * Pages hold 128 tokens here, so that page borders are everywhere; a page nobody should touch stands in for those that
 * hold no entry of the step. Ring slots that no entry of the step needs are NaN. Edges: steps that complete nothing;
 * the first entry (4 rows at ratio 4); a step that starts or ends inside, at the first and at the last row of a window;
 * a window half in the ring, half in the step; rings of exactly the size needed and with slack, just wrapped; 300 rows
 * across many windows; page borders; RoPE page borders; positions near a million; several sequences; native and f32;
 * rows and keys; Flash widths 512 and 128. */
#include "harness_rows.h"

enum { PAGE_TOKENS = 128, PAGE_OFFSET = 64, RING_OFFSET = 48, MAX_SPANS = 8 };

/* exp to 2e-7, softmax sums of up to 128 terms, of which errors mostly cancel, then the norm: 1e-6 of the largest K,
 * which is up to 10 times the pooled values' size; the line's values are about 1 after the norm. */
static const double LINE_SLACK = 1e-5;

typedef struct shape {
    dsvk_row_format format;
    bool index;
    uint32_t ratio, ring_capacity;
} shape;
static const shape SHAPES[] = {
    {{true, 512, 64, 128}, false, 4, 8},   {{true, 512, 64, 128}, false, 128, 128},
    {{false, 512, 64, 128}, false, 4, 11}, {{false, 512, 64, 128}, false, 128, 131},
    {{true, 96, 32, 32}, false, 4, 8},     {{true, 512, 64, 128}, true, 4, 8},
    {{false, 512, 64, 128}, true, 4, 9},   {{true, 96, 32, 32}, true, 4, 16},
};

typedef struct step_case {
    uint32_t n_spans;
    test_span spans[MAX_SPANS];
} step_case;
static const step_case STEPS[] = {
    {1, {{0, 1}}},      {1, {{0, 3}}},
    {1, {{0, 4}}},      {1, {{3, 1}}},
    {1, {{7, 1}}},      {1, {{6, 3}}},
    {1, {{126, 3}}},    {1, {{127, 1}}},
    {1, {{128, 1}}},    {1, {{255, 1}}},
    {1, {{0, 300}}},    {1, {{4093, 40}}},
    {1, {{999999, 9}}}, {8, {{0, 5}, {11, 1}, {127, 2}, {250, 7}, {1000063, 1}, {2, 1}, {4090, 9}, {120, 20}}},
};

/* K and S of every position a sequence's entries may need: [first, end). */
typedef struct history {
    uint32_t first, stride; /* stride: 2 w */
    const float *ks;
} history;
static const float *token(const void *context, uint32_t u) {
    const history *h = context;
    return h->ks + (size_t)(u - h->first) * h->stride;
}

static uint32_t width_of(const shape *s) {
    return s->index ? s->format.index_dim : s->format.head_dim;
}
static uint32_t w_of(const shape *s) {
    return s->ratio == 4 ? 2 * width_of(s) : width_of(s);
}
static uint32_t code_bytes(const shape *s) {
    return s->index ? dsvk_key_code_bytes(&s->format) : dsvk_row_code_bytes(&s->format);
}
static uint32_t scale_bytes(const shape *s) {
    return s->index ? dsvk_key_scale_bytes(&s->format) : dsvk_row_scale_bytes(&s->format);
}

/* First position whose K and S an entry completed at or after `start` needs. */
static uint32_t needed_from(const shape *s, uint32_t start) {
    const uint32_t window = start / s->ratio * s->ratio;
    return s->ratio == 4 && window > 0 ? window - 4 : window;
}

/* Everything of one sequence: what it remembers, its ring, and its pages, of which only those with entries of this step
 * exist (`first_page` on). */
typedef struct sequence {
    history history;
    dsvk_buffer pages;
    uint32_t first_page, n_pages, first_entry, end_entry;
} sequence;

static sequence make_sequence(test *t, const shape *s, test_span span, dsvk_addr untouched, struct dsvk_seq *out) {
    const uint32_t stride = 2 * w_of(s), first = needed_from(s, span.start), end = span.start + span.rows;
    const uint32_t capacity = PAGE_TOKENS / s->ratio,
                   page_bytes = PAGE_OFFSET + capacity * (code_bytes(s) + scale_bytes(s));
    const uint32_t stored = (uint32_t)dsvk_align(page_bytes, 16);
    sequence q = {.history = {first, stride, test_normals(t, (size_t)(end - first) * stride, 2.0f)},
                  .first_entry = span.start / s->ratio,
                  .end_entry = end / s->ratio};
    q.first_page = q.first_entry / capacity;
    q.n_pages = q.end_entry > q.first_entry ? (q.end_entry - 1) / capacity - q.first_page + 1 : 0;

    const size_t ring_floats = (size_t)s->ring_capacity * stride;
    float *state = test_alloc(t, RING_OFFSET + ring_floats * 4), *ring = state + RING_OFFSET / 4;
    memset(state, 0xff, RING_OFFSET + ring_floats * 4);
    for (uint32_t u = first; u < span.start; u++)
        memcpy(ring + (size_t)(u % s->ring_capacity) * stride, token(&q.history, u), stride * 4);
    out->state = test_upload(t, state, RING_OFFSET + ring_floats * 4).addr;

    const uint32_t n_pages = (end - 1) / PAGE_TOKENS + 1;
    dsvk_addr *pages = test_alloc(t, n_pages * sizeof *pages);
    q.pages = test_output(t, (size_t)q.n_pages * stored);
    for (uint32_t p = 0; p < n_pages; p++)
        pages[p] = p >= q.first_page && p < q.first_page + q.n_pages
                       ? q.pages.addr + (uint64_t)(p - q.first_page) * stored
                       : untouched;
    out->pages = test_upload(t, pages, n_pages * sizeof *pages).addr;
    return q;
}

/* The bytes a page must hold outside this step's entries: still poisoned. */
static bool still_poisoned(const uint8_t *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++)
        if (from[i] != 0xff)
            return false;
    return true;
}

static void compare_sequence(test *t, const shape *s, const sequence *q, const float *ape, const float *norm) {
    const uint32_t width = width_of(s), capacity = PAGE_TOKENS / s->ratio, codes = code_bytes(s),
                   scales = scale_bytes(s);
    const uint32_t stored = (uint32_t)dsvk_align(PAGE_OFFSET + capacity * (codes + scales), 16);
    const uint8_t *pages = test_download(t, &q->pages);
    double *line = test_alloc(t, width * sizeof *line), *slack = test_alloc(t, width * sizeof *slack);
    for (uint32_t j = q->first_page * capacity; j < (q->first_page + q->n_pages) * capacity; j++) {
        const uint8_t *page = pages + (size_t)(j / capacity - q->first_page) * stored, *store = page + PAGE_OFFSET;
        const uint32_t row = j % capacity;
        if (j < q->first_entry || j >= q->end_entry) {
            if (!still_poisoned(store + row * codes, codes) ||
                !still_poisoned(store + capacity * codes + row * scales, scales))
                test_check(t, false, "entry %u is not of this step and was written", j);
            continue;
        }
        ref_kv_compress(token, &q->history, j, s->ratio, width, ape, norm, 1e-6, s->format.rope_dim, line);
        if (s->index)
            ref_hadamard_wide(line, width);
        for (uint32_t i = 0; i < width; i++)
            slack[i] = LINE_SLACK;
        if (s->index ? !test_compare_key(t, "key", &s->format, store, capacity, row, line, slack)
                     : !test_compare_row(t, "row", &s->format, store, capacity, row, line, slack))
            printf("  entry %u\n", j);
    }
    for (uint32_t p = 0; p < q->n_pages; p++)
        test_check(t, still_poisoned(pages + (size_t)p * stored, PAGE_OFFSET), "page %u: written before its entries",
                   p);
}

/* The step's spans (or the one span `only`) through the kernel; false when it did not run. */
static bool run(test *t, const shape *s, const test_step *step, const float *ks, uint32_t ks_stride, const float *ape,
                const float *norm) {
    uint32_t *positions = test_alloc(t, step->n * sizeof *positions);
    for (uint32_t i = 0; i < step->n; i++)
        positions[i] = step->rows[i].position / s->ratio * s->ratio;
    dsvk_kv_compress(
        t->cmd, &(dsvk_kv_compress_params){.rows = test_upload(t, step->rows, step->n * sizeof *step->rows).addr,
                                           .seqs = test_upload(t, step->seqs, step->n_seqs * sizeof *step->seqs).addr,
                                           .rope = test_rope_table(t, s->format.rope_dim, positions, step->n),
                                           .ks = test_upload(t, ks, (size_t)step->n * ks_stride * 4).addr,
                                           .ape = test_upload(t, ape, (size_t)s->ratio * w_of(s) * 4).addr,
                                           .norm = test_upload(t, norm, width_of(s) * 4).addr,
                                           .format = s->format,
                                           .index = s->index,
                                           .n = step->n,
                                           .ratio = s->ratio,
                                           .ks_stride = ks_stride,
                                           .ring_offset = RING_OFFSET,
                                           .ring_capacity = s->ring_capacity,
                                           .page_tokens = PAGE_TOKENS,
                                           .page_offset = PAGE_OFFSET,
                                           .eps = 1e-6f});
    return test_run(t);
}

static void check(test *t, const shape *s, const step_case *c) {
    const uint32_t w = w_of(s), ks_stride = 2 * w + 4;
    test_case(t, "%s ratio=%u native=%d width=%u ring=%u spans=%u first=(%u, %u)", s->index ? "keys" : "rows", s->ratio,
              s->format.native, width_of(s), s->ring_capacity, c->n_spans, c->spans[0].start, c->spans[0].rows);
    float *ape = test_normals(t, (size_t)s->ratio * w, 0.5f), *norm = test_normals(t, width_of(s), 0.2f);
    for (uint32_t i = 0; i < width_of(s); i++)
        norm[i] += 1;
    const test_step step = test_make_step(t, c->spans, c->n_spans);
    const dsvk_buffer untouched = test_output(t, 1 << 16);
    sequence sequences[MAX_SPANS];
    float *ks = test_normals(t, (size_t)step.n * ks_stride, 100.0f); /* padding that would be seen */
    for (uint32_t i = 0; i < c->n_spans; i++) {
        sequences[i] = make_sequence(t, s, c->spans[i], untouched.addr, &step.seqs[i]);
        for (uint32_t r = 0; r < c->spans[i].rows; r++)
            memcpy(ks + (size_t)(step.seqs[i].first + r) * ks_stride,
                   token(&sequences[i].history, c->spans[i].start + r), 2 * w * 4);
    }
    if (!run(t, s, &step, ks, ks_stride, ape, norm))
        return;
    for (uint32_t i = 0; i < c->n_spans; i++)
        compare_sequence(t, s, &sequences[i], ape, norm);
    test_check(t, still_poisoned(test_download(t, &untouched), 1 << 16), "a page without entries was written");
    if (c->n_spans == 1)
        return;

    /* The last sequence alone gives the same bytes. */
    const uint32_t last = c->n_spans - 1;
    test_step alone = test_make_step(t, &c->spans[last], 1);
    alone.seqs[0].state = step.seqs[last].state;
    alone.seqs[0].pages = step.seqs[last].pages;
    const dsvk_buffer *pages = &sequences[last].pages;
    const uint32_t *together = test_download(t, pages);
    test_poison(t, pages);
    if (run(t, s, &alone, ks + (size_t)step.seqs[last].first * ks_stride, ks_stride, ape, norm))
        test_compare_words(t, "last sequence alone", test_download(t, pages), together, pages->size / 4 - 64);
}

static void check_bad_shapes(test *t) {
    dsvk_kv_compress_params p = {
        .n = 1, .ratio = 4, .format = {true, 512, 64, 128}, .ks_stride = 2048, .ring_capacity = 8, .page_tokens = 130};
    test_case(t, "bad shapes");
    dsvk_kv_compress(t->cmd, &p);
    test_run_fails(t, "ratio 4 with pages of 130 tokens");
    p.page_tokens = 128;
    p.ring_capacity = 4;
    dsvk_kv_compress(t->cmd, &p);
    test_run_fails(t, "a ring of 4 rows (at least 7)");
    p.ring_capacity = 8;
    p.ks_stride = 1024;
    dsvk_kv_compress(t->cmd, &p);
    test_run_fails(t, "K and S of 1024 values each at a stride of 1024");
    p.ks_stride = 2048;
    p.format.head_dim = 500;
    dsvk_kv_compress(t->cmd, &p);
    test_run_fails(t, "rows of 500 values");
}

static void record(dsvk_cmd *cmd, void *params) {
    dsvk_kv_compress(cmd, params);
}

/* The n tokens before position `end` of one sequence. */
static void bench(test *t, const shape *s, uint32_t end, uint32_t n) {
    const test_span span = {end - n, n};
    test_case(t, "%s ratio=%u n=%u", s->index ? "keys" : "rows", s->ratio, n);
    const test_step step = test_make_step(t, &span, 1);
    const uint32_t w = w_of(s), ks = 2 * w;
    make_sequence(t, s, span, 0, &step.seqs[0]);
    uint32_t *positions = test_alloc(t, n * sizeof *positions);
    for (uint32_t i = 0; i < n; i++)
        positions[i] = step.rows[i].position / s->ratio * s->ratio;
    dsvk_kv_compress_params p = {
        .rows = test_upload(t, step.rows, n * sizeof *step.rows).addr,
        .seqs = test_upload(t, step.seqs, sizeof *step.seqs).addr,
        .rope = test_rope_table(t, s->format.rope_dim, positions, n),
        .ks = test_upload(t, test_normals(t, (size_t)n * ks, 1), (size_t)n * ks * 4).addr,
        .ape = test_upload(t, test_normals(t, (size_t)s->ratio * w, 1), (size_t)s->ratio * w * 4).addr,
        .norm = test_upload(t, test_normals(t, width_of(s), 1), width_of(s) * 4).addr,
        .format = s->format,
        .index = s->index,
        .n = n,
        .ratio = s->ratio,
        .ks_stride = ks,
        .ring_offset = RING_OFFSET,
        .ring_capacity = s->ring_capacity,
        .page_tokens = PAGE_TOKENS,
        .page_offset = PAGE_OFFSET,
        .eps = 1e-6f,
    };
    test_bench(t, record, &p);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "kv_compress", argc, argv);
    for (uint32_t s = 0; s < DSVK_COUNT(SHAPES); s++)
        for (uint32_t c = 0; c < DSVK_COUNT(STEPS); c++)
            check(&t, &SHAPES[s], &STEPS[c]);
    check_bad_shapes(&t);
    for (uint32_t s = 0; t.bench && s < DSVK_COUNT(SHAPES); s++)
        if (SHAPES[s].format.native && SHAPES[s].format.head_dim == 512) {
            bench(&t, &SHAPES[s], 1024, 1);
            bench(&t, &SHAPES[s], 1024, 512);
        }
    return test_end(&t);
}
