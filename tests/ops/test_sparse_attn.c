/* sparse_attn against plain loops, from rows stored where the engine stores them: the ring of the state, the store of the step,
 * pages. What is not a row is 0xff, which is NaN in every format, so one wrong address shows.
 * Tolerance: 2^-20 of sum |p row| / den * (1 + the terms of a score): scores are sums of up to 512 products in 32-bit floats,
 * of which the running sums stay far below that bound, and p carries the score's absolute error as a relative one.
 * Every case runs as one step with one split, as one with a split per segment, and tokens again alone, with more splits than
 * they have segments: a row alone has the bits it has in the split step; with segments of 64 and of 128 rows. The counters are 0
 * again after every run.
 * Edges: positions 0 .. 4, window - 1 .. window + 1; windows of 32 and 128; chunks of 200 rows from 0, 5, 127, 128 and 300;
 * several sequences in one step, and few heads whose tokens share a workgroup across them; a ring of window and of window +
 * 3 slots; no idx, some, all, some out of range; 0, 1 and 5 entries of ratio 128; pages of 128 tokens, first and last row of
 * a page; sinks of -1e30, -60, 60, 1e4; 1, 3, 4, 17, 64 and 128 heads of 64, 128, 192, 256 and 512 values; a NaN in one row;
 * the models' widths; lists of 31, 32, 33, 43 and 66 times 64 rows; one recording whose position moves on between its runs;
 * steps of 64 rows and more on matrix units, where the device has them. */
#include "harness.h"
#include "sparse_attn.h"

#define MAX_SEQUENCES 4
#define RING_OFFSET 64u
#define PAGE_OFFSET 32u

typedef struct shape {
    uint32_t n_heads, head_dim, rope_dim, window, slack, ratio, k, page_tokens;
    bool native;
    float q_scale;
    float sink; /* 0: random */
} shape;

typedef struct sequence { /* everything that was ever stored of one session */
    uint32_t length;
    uint8_t *window_store; /* capacity length */
    float *window_rows, *entries;
    dsvk_addr pages;       /* array of page addresses, on the device */
} sequence;

typedef struct run { uint32_t sequence, start, rows; } run; /* of a step */

typedef struct world {
    shape s;
    dsvk_row_format format;
    sequence sequences[MAX_SEQUENCES];
    float *angles; /* [positions][rope_dim / 2][2] */
    dsvk_addr rope;
    float *sink;
    dsvk_addr sink_addr;
    float *q;      /* of the whole step, [n][q_stride] */
    int32_t *idx;  /* [n][k] */
    uint32_t q_stride;
} world;

static size_t store_bytes(const dsvk_row_format *f, uint32_t capacity) {
    return (size_t)capacity * (dsvk_row_code_bytes(f) + dsvk_row_scale_bytes(f));
}

static void copy_row(const dsvk_row_format *f, uint8_t *to, uint32_t to_capacity, uint32_t to_row, const uint8_t *from,
                     uint32_t from_capacity, uint32_t from_row) {
    const size_t codes = dsvk_row_code_bytes(f), scales = dsvk_row_scale_bytes(f);
    memcpy(to + to_row * codes, from + from_row * codes, codes);
    if (scales > 0)
        memcpy(to + to_capacity * codes + to_row * scales, from + from_capacity * codes + from_row * scales, scales);
}

static void random_row(test *t, const dsvk_row_format *f, uint8_t *store, uint32_t capacity, uint32_t r) {
    const uint32_t tail = f->head_dim - f->rope_dim;
    uint8_t *codes = store + (size_t)r * dsvk_row_code_bytes(f);
    uint8_t *scales = store + (size_t)capacity * dsvk_row_code_bytes(f) + (size_t)r * dsvk_row_scale_bytes(f);
    if (!f->native) {
        for (uint32_t d = 0; d < f->head_dim; d++) {
            const float v = test_normal(t);
            memcpy(codes + 4 * d, &v, 4);
        }
        return;
    }
    for (uint32_t d = 0; d < tail; d++) {
        codes[d] = (uint8_t)test_random(t);
        if ((codes[d] & 0x7f) == 0x7f)
            codes[d] ^= 1;
    }
    for (uint32_t d = 0; d < f->rope_dim; d++) {
        const uint16_t bits = ref_bf16_bits(test_normal(t));
        memcpy(codes + tail + 2 * d, &bits, 2);
    }
    for (uint32_t b = 0; b < tail / 64; b++)
        scales[b] = (uint8_t)(119 + test_below(t, 3));
}

/* A store of random rows, and the rows decoded. */
static uint8_t *random_store(test *t, const dsvk_row_format *f, uint32_t capacity, float **rows) {
    uint8_t *store = test_alloc(t, store_bytes(f, capacity));
    *rows = test_alloc(t, (size_t)capacity * f->head_dim * 4);
    for (uint32_t r = 0; r < capacity; r++) {
        random_row(t, f, store, capacity, r);
        ref_read_row(store, capacity, r, f, *rows + (size_t)r * f->head_dim);
    }
    return store;
}

/* The entries in pages that lie in memory in descending order. */
static dsvk_addr upload_pages(test *t, const world *w, const uint8_t *entries, uint32_t n_entries, uint32_t length) {
    const uint32_t capacity = w->s.page_tokens / w->s.ratio, n_pages = length / w->s.page_tokens + 1;
    const size_t page_bytes = dsvk_align(PAGE_OFFSET + store_bytes(&w->format, capacity), 16);
    uint8_t *memory = test_alloc(t, n_pages * page_bytes);
    uint64_t *pages = test_alloc(t, n_pages * sizeof *pages);
    memset(memory, 0xff, n_pages * page_bytes);
    for (uint32_t j = 0; j < length / w->s.ratio; j++)
        copy_row(&w->format, memory + (n_pages - 1 - j / capacity) * page_bytes + PAGE_OFFSET, capacity, j % capacity, entries,
                 n_entries, j);
    const dsvk_buffer buffer = test_upload(t, memory, n_pages * page_bytes);
    for (uint32_t i = 0; i < n_pages; i++)
        pages[i] = buffer.addr + (n_pages - 1 - i) * page_bytes;
    return test_upload(t, pages, n_pages * sizeof *pages).addr;
}

static sequence make_sequence(test *t, const world *w, uint32_t length) {
    sequence q = { .length = length };
    q.window_store = random_store(t, &w->format, length, &q.window_rows);
    if (w->s.ratio > 0) {
        const uint32_t n_entries = length / w->s.ratio + 1;
        const uint8_t *entries = random_store(t, &w->format, n_entries, &q.entries);
        q.pages = upload_pages(t, w, entries, n_entries, length);
    }
    return q;
}

static void make_rope(test *t, world *w, uint32_t positions) {
    const uint32_t n_pages = positions / DSVK_ROPE_PAGE + 1;
    const size_t page = (size_t)DSVK_ROPE_PAGE * w->s.rope_dim;
    uint64_t *pages = test_alloc(t, n_pages * sizeof *pages);
    w->angles = test_alloc(t, n_pages * page * 4);
    for (size_t i = 0; i < (size_t)(positions + 1) * w->s.rope_dim; i += 2) {
        const double theta = 6.28318 * test_uniform(t);
        w->angles[i] = (float)cos(theta);
        w->angles[i + 1] = (float)sin(theta);
    }
    for (uint32_t i = 0; i < n_pages; i++)
        pages[i] = test_upload(t, w->angles + i * page, page * 4).addr;
    w->rope = test_upload(t, pages, n_pages * sizeof *pages).addr;
}

/* Ascending distinct entries, as topk writes them; by row: all that fit, half of them, none, and some that do not exist. */
static void make_idx(test *t, const shape *s, uint32_t visible, uint32_t mode, int32_t *idx) {
    uint32_t room = s->k < visible ? s->k : visible, n = 0;
    if (mode == 1)
        room /= 2;
    if (mode == 2)
        room = 0;
    for (uint32_t j = 0; j < visible && n < room; j++)
        if (test_below(t, visible - j) < room - n)
            idx[n++] = (int32_t)j;
    for (uint32_t i = n; i < s->k; i++)
        idx[i] = mode == 3 ? (int32_t)(i % 2 ? visible : 0x7fffffff) : -1;
    if (mode == 3 && n > 2) {
        idx[n / 2] = -5;
        idx[n - 1] = (int32_t)visible;
    }
    for (uint32_t i = visible; i < s->k; i++) /* which nobody looks at */
        idx[i] = 0;
}

static world make_world(test *t, shape s, const run *runs, uint32_t n_runs) {
    world w = { .s = s,
                .format = { .native = s.native, .head_dim = s.head_dim, .rope_dim = s.rope_dim, .index_dim = 128 },
                .q_stride = s.n_heads * s.head_dim + 12 };
    uint32_t n = 0, longest = 0;
    for (uint32_t i = 0; i < n_runs; i++) {
        const uint32_t length = runs[i].start + runs[i].rows;
        w.sequences[i] = make_sequence(t, &w, length);
        longest = length > longest ? length : longest;
        n += runs[i].rows;
    }
    make_rope(t, &w, longest);
    w.sink = test_normals(t, s.n_heads, 1.0f);
    for (uint32_t h = 0; h < s.n_heads && s.sink != 0; h++)
        w.sink[h] = h % 2 == 0 ? s.sink : -s.sink;
    w.sink_addr = test_upload(t, w.sink, s.n_heads * 4).addr;
    w.q = test_normals(t, (size_t)n * w.q_stride, s.q_scale);
    w.idx = test_alloc(t, (size_t)n * (s.k + 1) * 4);
    uint32_t r = 0;
    for (uint32_t i = 0; i < n_runs; i++)
        for (uint32_t p = runs[i].start; p < runs[i].start + runs[i].rows; p++, r++)
            make_idx(t, &s, (p + 1) / 4, n > 1 ? r % 4 : 0, w.idx + (size_t)r * s.k);
    return w;
}

/* A step over `runs`, whose first token is row `row` of w->q and w->idx; the state is what it must be before the step. */
static dsvk_sparse_attn_params make_step(test *t, const world *w, const run *runs, uint32_t n_runs, uint32_t row) {
    const shape *s = &w->s;
    const dsvk_row_format *f = &w->format;
    const uint32_t ring = s->window + s->slack;
    const size_t state_bytes = dsvk_align(RING_OFFSET + store_bytes(f, ring), 16);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_runs; i++)
        n += runs[i].rows;
    const uint32_t capacity = n + 3;
    uint8_t *states = test_alloc(t, n_runs * state_bytes), *store = test_alloc(t, store_bytes(f, capacity));
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    struct dsvk_seq *seqs = test_alloc(t, n_runs * sizeof *seqs);
    memset(states, 0xff, n_runs * state_bytes);
    memset(store, 0xff, store_bytes(f, capacity));
    for (uint32_t i = 0, first = 0; i < n_runs; first += runs[i++].rows) {
        const sequence *q = &w->sequences[runs[i].sequence];
        const uint32_t start = runs[i].start;
        for (uint32_t p = start > ring ? start - ring : 0; p < start; p++)
            copy_row(f, states + i * state_bytes + RING_OFFSET, ring, p % ring, q->window_store, q->length, p);
        for (uint32_t r = 0; r < runs[i].rows; r++) {
            copy_row(f, store, capacity, first + r, q->window_store, q->length, start + r);
            rows[first + r] = (struct dsvk_row){ .position = start + r, .sequence = i, .first = first };
        }
        seqs[i] = (struct dsvk_seq){ .pages = q->pages, .first = first, .rows = runs[i].rows, .start = start };
    }
    const dsvk_buffer state = test_upload(t, states, n_runs * state_bytes);
    for (uint32_t i = 0; i < n_runs; i++)
        seqs[i].state = state.addr + i * state_bytes;
    return (dsvk_sparse_attn_params){ .rows = test_upload(t, rows, n * sizeof *rows).addr,
                                      .seqs = test_upload(t, seqs, n_runs * sizeof *seqs).addr,
                                      .rope = w->rope,
                                      .q = test_upload(t, w->q + (size_t)row * w->q_stride, (size_t)n * w->q_stride * 4).addr,
                                      .step_store = test_upload(t, store, store_bytes(f, capacity)).addr,
                                      .idx = test_upload(t, w->idx + (size_t)row * s->k, (size_t)n * s->k * 4).addr,
                                      .sink = w->sink_addr,
                                      .format = *f,
                                      .n = n,
                                      .n_heads = s->n_heads,
                                      .q_stride = w->q_stride,
                                      .step_capacity = capacity,
                                      .window = s->window,
                                      .ratio = s->ratio,
                                      .k = s->k,
                                      .ring_offset = RING_OFFSET,
                                      .ring_capacity = ring,
                                      .page_tokens = s->page_tokens,
                                      .page_offset = PAGE_OFFSET,
                                      .scale = 1.0f / sqrtf((float)s->head_dim) };
}

static void record(dsvk_cmd *cmd, void *params) { dsvk_sparse_attn(cmd, params); }

/* Scratch and counters of a step with n_splits splits; the counters are what is returned, 0 once the recording runs. */
static dsvk_buffer give_memory(test *t, dsvk_sparse_attn_params *p, uint32_t n_splits, dsvk_buffer *scratch) {
    const uint64_t bytes = dsvk_sparse_attn_scratch(p->n, n_splits, p->n_heads, p->format.head_dim);
    const uint64_t counters_bytes = 4ull * p->n * dsvk_ceil_div(p->n_heads, 4);
    const dsvk_buffer counters = test_output(t, counters_bytes);
    *scratch = test_output(t, bytes > 0 ? bytes : 4);
    dsvk_cmd_fill(t->cmd, &counters, 0, counters_bytes, 0);
    dsvk_barrier(t->cmd);
    p->n_splits = n_splits;
    p->partial = bytes > 0 ? scratch->addr : 0;
    p->counters = counters.addr;
    return counters;
}

static void check_counters(test *t, const dsvk_buffer *counters, size_t n) {
    const uint32_t *zeros = test_alloc(t, n * 4);
    test_compare_words(t, "counters", test_download(t, counters), zeros, n);
}

/* The step's result [n][n_heads * head_dim], or NULL. */
static const float *compute(test *t, dsvk_sparse_attn_params p, uint32_t n_splits) {
    dsvk_buffer scratch;
    const dsvk_buffer counters = give_memory(t, &p, n_splits, &scratch);
    const dsvk_buffer out = test_output(t, (size_t)p.n * p.n_heads * p.format.head_dim * 4);
    p.out = out.addr;
    record(t->cmd, &p);
    if (!test_run(t))
        return NULL;
    test_download(t, &scratch);
    check_counters(t, &counters, p.n * dsvk_ceil_div(p.n_heads, 4));
    return test_download(t, &out);
}

static uint32_t longest_list(const world *w, const run *runs, uint32_t n_runs) {
    uint32_t most = 1;
    for (uint32_t i = 0; i < n_runs; i++) {
        const uint32_t entries = w->s.ratio == 4 ? w->s.k : w->s.ratio > 0 ? (runs[i].start + runs[i].rows) / w->s.ratio : 0;
        if (w->s.window + entries > most)
            most = w->s.window + entries;
    }
    return most;
}

/* Matrix units add up p * row in halves of which the smallest is 2^-39 of the largest. So where the rows that count have a zero, what
 * the others have there is right to 2^-38 of the head's largest magnitude, which is far below the rounding of its largest value. */
#define MATRIX_FLOOR 0x1p-18f

static void compare(test *t, const world *w, const run *runs, uint32_t n_runs, const float *got, float of_largest) {
    const shape *s = &w->s;
    const size_t width = (size_t)s->n_heads * s->head_dim;
    float *want = test_alloc(t, width * 4), *magnitude = test_alloc(t, width * 4);
    uint32_t row = 0;
    for (uint32_t i = 0; i < n_runs; i++)
        for (uint32_t r = 0; r < runs[i].rows; r++, row++) {
            const sequence *q = &w->sequences[runs[i].sequence];
            char what[32];
            const ref_sparse_attn_case c = { .q = w->q + (size_t)row * w->q_stride,
                                             .window_rows = q->window_rows,
                                             .entries = q->entries,
                                             .idx = w->idx + (size_t)row * s->k,
                                             .sink = w->sink,
                                             .angles = w->angles + (size_t)(runs[i].start + r) * s->rope_dim,
                                             .position = runs[i].start + r,
                                             .window = s->window,
                                             .ratio = s->ratio,
                                             .k = s->k,
                                             .n_heads = s->n_heads,
                                             .head_dim = s->head_dim,
                                             .rope_dim = s->rope_dim,
                                             .scale = 1.0f / sqrtf((float)s->head_dim) };
            ref_sparse_attn(&c, want, magnitude);
            snprintf(what, sizeof what, "row %u (position %u)", row, c.position);
            for (size_t head = 0; head < width; head += s->head_dim) {
                float largest = 0;
                for (size_t d = head; d < head + s->head_dim; d++)
                    largest = isfinite(want[d]) && magnitude[d] > largest ? magnitude[d] : largest;
                for (size_t d = head; d < head + s->head_dim; d++) /* subnormals may flush to 0 */
                    magnitude[d] = isfinite(want[d]) ? magnitude[d] + of_largest * largest + 0x1p-100f : 0;
            }
            test_compare_sums(t, what, got + row * width, want, magnitude, width, 0x1p-20f);
        }
}

static void check_segment(test *t, shape s, const run *runs, uint32_t n_runs, uint32_t segment) {
    test_case(t, "heads=%u dim=%u rope=%u window=%u+%u ratio=%u k=%u page=%u %s q=%g sink=%g from %u rows %u runs %u segments of %u",
              s.n_heads, s.head_dim, s.rope_dim, s.window, s.slack, s.ratio, s.k, s.page_tokens, s.native ? "native" : "f32",
              s.q_scale, s.sink, runs[0].start, runs[0].rows, n_runs, segment);
    const world w = make_world(t, s, runs, n_runs);
    dsvk_sparse_attn_params p = make_step(t, &w, runs, n_runs, 0);
    p.segment = segment;
    const size_t width = (size_t)s.n_heads * s.head_dim;
    const uint32_t needed = dsvk_sparse_attn_splits(1, longest_list(&w, runs, n_runs)), splits = needed > 1 ? needed : 2;
    const float *one = compute(t, p, 1);
    const float *many = compute(t, p, splits);
    if (one == NULL || many == NULL)
        return;
    compare(t, &w, runs, n_runs, one, 0);
    compare(t, &w, runs, n_runs, many, 0);
    /* the last row of every run, alone, when everything before it is in the ring */
    for (uint32_t i = 0, row = 0; p.n > 1 && i < n_runs; i++) {
        row += runs[i].rows;
        const run alone = { runs[i].sequence, runs[i].start + runs[i].rows - 1, 1 };
        dsvk_sparse_attn_params single = make_step(t, &w, &alone, 1, row - 1);
        single.segment = segment;
        const float *got = compute(t, single, i % 2 == 0 ? splits : SPARSE_ATTN_MAX_SPLITS);
        if (got != NULL)
            test_compare_words(t, "row alone", got, many + (row - 1) * width, width);
    }
}

static void check(test *t, shape s, const run *runs, uint32_t n_runs) {
    check_segment(t, s, runs, n_runs, 64);
    check_segment(t, s, runs, n_runs, 128);
}

static void check_chunks(test *t) {
    static const uint32_t starts[] = { 0, 5, 127, 128, 300 }, ratios[] = { 0, 4, 128 };
    for (uint32_t i = 0; i < DSVK_COUNT(starts); i++)
        for (uint32_t r = 0; r < DSVK_COUNT(ratios); r++) {
            const bool wide = (i + r) % 2 == 0;
            check(t,
                  (shape){ .n_heads = 3, .head_dim = 128, .rope_dim = 64, .window = wide ? 128 : 32, .slack = wide ? 0 : 3,
                           .ratio = ratios[r], .k = 40, .page_tokens = 128, .native = r != 1 || wide, .q_scale = 1 + 7 * wide },
                  &(run){ 0, starts[i], 200 }, 1);
        }
}

static void check_widths(test *t) {
    static const struct { uint32_t heads, dim, rope; } widths[] = { { 1, 64, 64 }, { 4, 128, 64 }, { 17, 192, 64 },
                                                                   { 64, 256, 128 }, { 5, 512, 64 } };
    static const run runs[] = { { 0, 0, 5 }, { 1, 31, 3 }, { 2, 700, 2 }, { 3, 254, 4 } };
    for (uint32_t i = 0; i < DSVK_COUNT(widths); i++)
        for (int native = 0; native < 2; native++) {
            shape s = { .n_heads = widths[i].heads, .head_dim = widths[i].dim, .rope_dim = widths[i].rope, .window = 32,
                        .slack = 3, .ratio = 4, .k = 33, .page_tokens = 128, .native = native, .q_scale = 2 };
            const uint32_t segment = (i + (uint32_t)native) % 2 ? 64 : 128; /* not both: pipelines take long to build */
            check_segment(t, s, runs, 4, segment);
            s.ratio = 128;
            check_segment(t, s, runs, 4, segment);
        }
}

/* Few heads in steps of 64 rows and more, where tokens share a workgroup: sequences begin and end in its midst, in the rows of a window,
 * at the completion of entries. */
static void check_shared(test *t) {
    static const uint32_t heads[] = { 1, 2, 4, 7 }, ratios[] = { 0, 4, 128 };
    static const run runs[] = { { 0, 0, 3 }, { 1, 121, 18 }, { 2, 700, 1 }, { 3, 300, 50 } };
    for (uint32_t i = 0; i < DSVK_COUNT(heads); i++)
        for (uint32_t r = 0; r < DSVK_COUNT(ratios); r++)
            check_segment(t,
                          (shape){ .n_heads = heads[i], .head_dim = 128, .rope_dim = 64, .window = r == 2 ? 32 : 128, .slack = i,
                                   .ratio = ratios[r], .k = 20, .page_tokens = 128, .native = i % 2 == 0, .q_scale = 2 },
                          runs, 4, 0);
}

static void check_values(test *t) {
    static const float sinks[] = { -1e30f, 60, 1e4f };
    shape s = { .n_heads = 4, .head_dim = 128, .rope_dim = 64, .window = 32, .ratio = 4, .k = 40, .page_tokens = 128,
                .native = true, .q_scale = 30 };
    for (uint32_t i = 0; i < DSVK_COUNT(sinks); i++) {
        s.sink = sinks[i];
        check(t, s, &(run){ 0, 0, 70 }, 1);
    }
}

/* A NaN in one window row: NaN in all values of the tokens that see it, in none of the others, which share workgroups
 * with them. */
static void check_nan(test *t, const dsvk_matmul_variant *variant) {
    const shape s = { .n_heads = 3, .head_dim = 128, .rope_dim = 64, .window = 32, .page_tokens = 128, .native = true,
                      .q_scale = 1 };
    const run all = { 0, 0, 90 };
    test_case(t, "NaN in the row of position 42");
    world w = make_world(t, s, &all, 1);
    sequence *q = &w.sequences[0];
    q->window_store[(size_t)q->length * dsvk_row_code_bytes(&w.format) + (size_t)42 * dsvk_row_scale_bytes(&w.format)] = 0xff;
    ref_read_row(q->window_store, q->length, 42, &w.format, q->window_rows + (size_t)42 * s.head_dim);
    dsvk_sparse_attn_params p = make_step(t, &w, &all, 1, 0);
    p.variant = variant;
    const float *got = compute(t, p, 1);
    if (got != NULL)
        compare(t, &w, &all, 1, got, variant ? MATRIX_FLOOR : 0);
}

/* Lists about and above the largest number of splits, beside short ones. */
static void check_long(test *t) {
    static const uint32_t entries[] = { 31 * 64 - 32, 32 * 64 - 32, 32 * 64 - 31, 2700, 33 * 128 - 32 };
    shape s = { .n_heads = 5, .head_dim = 64, .rope_dim = 64, .window = 32, .ratio = 4, .page_tokens = 128, .q_scale = 1 };
    for (uint32_t i = 0; i < DSVK_COUNT(entries); i++) {
        s.k = entries[i];
        check(t, s, (run[]){ { 0, 4 * s.k, 2 }, { 1, 10, 1 }, { 2, 6000, 1 } }, 3);
    }
}

/* One recording: what it reads changes between its runs, as in a recorded decode step. Positions move from inside the first
 * segment over its end; the grid is that of a long context. */
static void check_replay(test *t) {
    const shape s = { .n_heads = 5, .head_dim = 128, .rope_dim = 64, .window = 128, .ratio = 128, .page_tokens = 128,
                      .native = true, .q_scale = 1 };
    static const run all = { 0, 0, 9000 }, moments[] = { { 0, 62, 1 }, { 0, 64, 1 }, { 0, 8700, 1 }, { 0, 1, 1 } };
    const size_t width = (size_t)s.n_heads * s.head_dim;
    dsvk_buffer out[DSVK_COUNT(moments)], scratch;
    test_case(t, "one recording, positions that move");
    const world w = make_world(t, s, &all, 1);
    dsvk_sparse_attn_params p = make_step(t, &w, &moments[0], 1, moments[0].start);
    const dsvk_buffer counters = give_memory(t, &p, SPARSE_ATTN_MAX_SPLITS, &scratch);
    for (uint32_t i = 0; i < DSVK_COUNT(moments); i++) {
        const dsvk_sparse_attn_params now = make_step(t, &w, &moments[i], 1, moments[i].start);
        p.rows = now.rows, p.seqs = now.seqs, p.q = now.q, p.step_store = now.step_store;
        out[i] = test_output(t, width * 4);
        p.out = out[i].addr;
        record(t->cmd, &p);
        dsvk_barrier(t->cmd);
    }
    if (!test_run(t))
        return;
    check_counters(t, &counters, dsvk_ceil_div(s.n_heads, 4));
    for (uint32_t i = 0; i < DSVK_COUNT(moments); i++) {
        compare(t, &(world){ .s = s, .sequences = { w.sequences[0] }, .angles = w.angles, .sink = w.sink, .q_stride = w.q_stride,
                             .q = w.q + (size_t)moments[i].start * w.q_stride, .idx = w.idx }, &moments[i], 1,
                test_download(t, &out[i]), 0);
    }
}

/* A step of 64 rows or more by one of the device's ways to multiply matrices. The last 100 tokens of a longer one have the same bits
 * in a step of their own. */
static void check_matrices_shape(test *t, const dsvk_matmul_variant *variant, shape s, const run *runs, uint32_t n_runs) {
    char name[DSVK_MATMUL_NAME];
    test_case(t, "%s: heads=%u dim=%u rope=%u window=%u+%u ratio=%u k=%u %s q=%g sink=%g from %u rows %u runs %u",
              dsvk_matmul_name(*variant, name), s.n_heads, s.head_dim, s.rope_dim, s.window, s.slack, s.ratio, s.k,
              s.native ? "native" : "f32", s.q_scale, s.sink, runs[0].start, runs[0].rows, n_runs);
    const world w = make_world(t, s, runs, n_runs);
    dsvk_sparse_attn_params p = make_step(t, &w, runs, n_runs, 0);
    p.variant = variant;
    const size_t width = (size_t)s.n_heads * s.head_dim;
    const float *all = compute(t, p, 1);
    if (all == NULL)
        return;
    compare(t, &w, runs, n_runs, all, MATRIX_FLOOR);
    if (runs[0].rows < 100)
        return;
    const uint32_t first = runs[0].rows - 100;
    dsvk_sparse_attn_params part = make_step(t, &w, &(run){ runs[0].sequence, runs[0].start + first, 100 }, 1, first);
    part.variant = variant;
    const float *got = compute(t, part, 1);
    if (got != NULL)
        test_compare_words(t, "100 rows", got, all + first * width, 100 * width);
    dsvk_matmul_variant plain = *variant;
    plain.plain_attention = 1;
    p.variant = &plain;
    got = compute(t, p, 1);
    p.variant = &(dsvk_matmul_variant){ .kind = DSVK_MATMUL_TILED };
    const float *without = compute(t, p, 1);
    if (got != NULL && without != NULL)
        test_compare_words(t, "plain attention", got, without, runs[0].rows * width);
}

/* One device has several shapes of matrices: the first is for all cases, the others for those of one kernel. */
static void check_matrices(test *t, const dsvk_matmul_variant *variant, bool all) {
    static const struct { uint32_t start, heads; } chunks[] = { { 300, 33 }, { 127, 17 }, { 0, 3 } };
    static const uint32_t ratios[] = { 0, 4, 128 };
    static const float sinks[] = { -1e30f, 60, 1e4f };
    shape s = { .head_dim = 128, .rope_dim = 64, .k = 40, .page_tokens = 128, .native = true };
    for (uint32_t i = 0; i < (all ? DSVK_COUNT(chunks) : 1); i++)
        for (uint32_t r = 0; r < DSVK_COUNT(ratios); r++) {
            const bool wide = (i + r) % 2 == 0;
            s.n_heads = chunks[i].heads, s.window = wide ? 128 : 32, s.slack = wide ? 0 : 3, s.ratio = ratios[r],
            s.q_scale = 1 + 7 * wide;
            check_matrices_shape(t, variant, s, &(run){ 0, chunks[i].start, 180 }, 1);
        }
    if (!all)
        return;
    check_nan(t, variant);
    s = (shape){ .n_heads = 4, .head_dim = 128, .rope_dim = 64, .window = 32, .ratio = 4, .k = 40, .page_tokens = 128, .native = true,
                 .q_scale = 30 };
    for (uint32_t i = 0; i < DSVK_COUNT(sinks); i++) {
        s.sink = sinks[i];
        check_matrices_shape(t, variant, s, &(run){ 0, 0, 70 }, 1);
    }
    s.sink = 0, s.q_scale = 2, s.k = 600; /* lists of several segments, and sequences */
    check_matrices_shape(t, variant, s, (run[]){ { 0, 2000, 40 }, { 1, 3, 24 } }, 2);
    s.k = 100, s.n_heads = 40, s.head_dim = 512, s.window = 128;
    check_matrices_shape(t, variant, s, (run[]){ { 0, 700, 40 }, { 1, 0, 5 }, { 2, 254, 21 } }, 3);
}

static void check_models(test *t) {
    shape s = { .n_heads = 64, .head_dim = 512, .rope_dim = 64, .window = 128, .ratio = 4, .k = 512, .page_tokens = 128,
                .native = true, .q_scale = 1 };
    check(t, s, (run[]){ { 0, 2600, 1 }, { 1, 4095, 2 } }, 2);
    s.n_heads = 128;
    s.k = 1024;
    check(t, s, &(run){ 0, 5000, 1 }, 1);
    s.ratio = 128;
    check(t, s, &(run){ 0, 5000, 1 }, 1);
}

static void check_refusals(test *t) {
    dsvk_sparse_attn_params p = { .format = { .head_dim = 640, .rope_dim = 64 }, .n = 1, .n_heads = 2, .n_splits = 1 };
    test_case(t, "shapes");
    dsvk_sparse_attn(t->cmd, &p);
    test_run_fails(t, "heads of 640 values");
    p.format.head_dim = 128;
    p.q_stride = 254;
    dsvk_sparse_attn(t->cmd, &p);
    test_run_fails(t, "queries of stride 254");
    p.q_stride = 256, p.window = 128, p.ring_capacity = 128, p.step_capacity = 1, p.ratio = 128, p.page_tokens = 64;
    dsvk_sparse_attn(t->cmd, &p);
    test_run_fails(t, "pages of 64 tokens at ratio 128");
    p.n_splits = 0;
    dsvk_sparse_attn(t->cmd, &p);
    test_run_fails(t, "0 splits");
    p.n_splits = 33;
    dsvk_sparse_attn(t->cmd, &p);
    test_run_fails(t, "33 splits");
    p.segment = 32;
    dsvk_sparse_attn(t->cmd, &p);
    test_run_fails(t, "segments of 32 rows");
}

/* Pages of so many tokens, all with the same rows, and their addresses. */
static dsvk_addr bench_pages(test *t, const dsvk_row_format *f, uint32_t ratio, uint32_t page_tokens, uint32_t tokens) {
    const uint32_t capacity = page_tokens / ratio, n_pages = (uint32_t)dsvk_ceil_div(tokens, page_tokens);
    const size_t page_bytes = dsvk_align(PAGE_OFFSET + store_bytes(f, capacity), 16);
    uint8_t *memory = test_alloc(t, n_pages * page_bytes);
    uint64_t *pages = test_alloc(t, n_pages * sizeof *pages);
    float *rows;
    const uint8_t *store = random_store(t, f, capacity, &rows);
    for (uint32_t i = 0; i < n_pages; i++)
        memcpy(memory + i * page_bytes + PAGE_OFFSET, store, store_bytes(f, capacity));
    const dsvk_buffer buffer = test_upload(t, memory, n_pages * page_bytes);
    for (uint32_t i = 0; i < n_pages; i++)
        pages[i] = buffer.addr + i * page_bytes;
    return test_upload(t, pages, n_pages * sizeof *pages).addr;
}

/* n rows of one sequence from a position on; CSA rows take every visible / k th entry. */
static void bench(test *t, uint32_t n_heads, uint32_t head_dim, uint32_t ratio, uint32_t k, uint32_t position, uint32_t n) {
    const uint32_t page_tokens = 4096, entries = (position + n) / ratio, taken = ratio == 4 && entries > k ? k : entries;
    dsvk_sparse_attn_params p = { .format = { .native = true, .head_dim = head_dim, .rope_dim = 64, .index_dim = 128 }, .n = n,
                                  .n_heads = n_heads, .q_stride = n_heads * head_dim, .step_capacity = n, .window = 128,
                                  .ratio = ratio, .k = k, .ring_capacity = 128, .page_tokens = page_tokens,
                                  .page_offset = PAGE_OFFSET, .scale = 0.044f };
    const uint32_t n_splits = dsvk_sparse_attn_splits(n, p.window + taken);
    const size_t ring_bytes = store_bytes(&p.format, p.ring_capacity), values = (size_t)n * p.q_stride;
    dsvk_buffer scratch;
    float *unused;
    test_case(t, "heads=%u dim=%u rows=128+%u at %u n=%u splits=%u", n_heads, head_dim, taken, position, n, n_splits);
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    const uint8_t *ring = random_store(t, &p.format, p.ring_capacity, &unused), *store = random_store(t, &p.format, n, &unused);
    const uint64_t angles = test_upload(t, test_normals(t, (size_t)DSVK_ROPE_PAGE * 64, 1), DSVK_ROPE_PAGE * 64 * 4).addr;
    uint64_t *rope = test_alloc(t, (position + n) / DSVK_ROPE_PAGE * 8 + 8);
    int32_t *idx = test_alloc(t, ((size_t)n * k + 1) * 4);
    for (uint32_t i = 0; i <= (position + n) / DSVK_ROPE_PAGE; i++)
        rope[i] = angles;
    for (uint32_t r = 0; r < n; r++) {
        rows[r] = (struct dsvk_row){ .position = position + r };
        for (uint32_t i = 0; i < k; i++)
            idx[(size_t)r * k + i] = (int32_t)((uint64_t)i * ((position + r + 1) / 4) / k);
    }
    const struct dsvk_seq seq = { .state = test_upload(t, ring, ring_bytes).addr, .rows = n, .start = position,
                                  .pages = bench_pages(t, &p.format, ratio, page_tokens, position + n) };
    p.rows = test_upload(t, rows, n * sizeof *rows).addr;
    p.seqs = test_upload(t, &seq, sizeof seq).addr;
    p.rope = test_upload(t, rope, (position + n) / DSVK_ROPE_PAGE * 8 + 8).addr;
    p.q = test_upload(t, test_normals(t, values, 1), values * 4).addr;
    p.step_store = test_upload(t, store, store_bytes(&p.format, n)).addr;
    p.idx = test_upload(t, idx, ((size_t)n * k + 1) * 4).addr;
    p.sink = test_upload(t, test_normals(t, n_heads, 1), n_heads * 4).addr;
    p.out = test_output(t, values * 4).addr;
    give_memory(t, &p, n_splits, &scratch);
    test_bench(t, record, &p);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "sparse_attn", argc, argv);
    check_chunks(&t);
    check_widths(&t);
    check_shared(&t);
    check_values(&t);
    check_nan(&t, NULL);
    check_long(&t);
    check_replay(&t);
    check_models(&t);
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    for (uint32_t i = 0, n = dsvk_matmul_variants(t.device, list); i < n; i++)
        if (list[i].kind == DSVK_MATMUL_COOPMAT)
            check_matrices(&t, &list[i], list[i - 1].kind != DSVK_MATMUL_COOPMAT);
    check_refusals(&t);
    if (t.bench) {
        bench(&t, 64, 512, 4, 512, 4096, 1); /* the same cost at any position */
        bench(&t, 64, 512, 4, 512, 65536, 1);
        bench(&t, 64, 512, 4, 512, 1048575, 1);
        bench(&t, 128, 512, 4, 1024, 65536, 1);
        bench(&t, 64, 512, 4, 512, 65536, 8);
        bench(&t, 64, 512, 128, 0, 1048568, 8);
        bench(&t, 64, 512, 128, 0, 1024, 64); /* chunks of a prompt */
        bench(&t, 64, 512, 128, 0, 7936, 256);
        bench(&t, 64, 512, 4, 512, 4096, 64);
        bench(&t, 4, 128, 128, 0, 1024, 512); /* of few heads */
        bench(&t, 4, 128, 4, 32, 1024, 512);
        bench(&t, 1, 128, 128, 0, 65536, 512);
    }
    return test_end(&t);
}
