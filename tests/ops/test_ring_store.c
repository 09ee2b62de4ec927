/* ring_store against ref_ring_store, byte for byte.
 * Edges: one row; fewer rows than slots, as many, one more, many more; a ring that just wraps and one that has wrapped;
 * positions near a million; several sequences in one step; 1 to 4 items of which some are aligned to 16 bytes and some
 * only to 4; rows wider than a workgroup; padding between source rows; what is not written stays. */
#include "harness_rows.h"

static const test_span SPANS[] = {{0, 1},   {127, 2}, {0, 129}, {5, 3},  {1000000, 140},
                                  {126, 1}, {130, 9}, {3, 300}, {127, 1}};

typedef struct item {
    uint32_t bytes, padding, capacity;
} item;
static const item ITEMS[DSVK_RING_ITEMS] = {
    {576, 0, 128}, /* codes of window rows */
    {8, 0, 128},   /* their scales */
    {8192, 16, 8}, /* K and S of a ratio 4 layer */
    {12, 20, 131}, /* nothing aligned */
};
enum { GAP = 32 }; /* bytes before every ring */

static void check(test *t, uint32_t first_span, uint32_t n_spans, uint32_t n_items) {
    test_case(t, "spans %u..%u items=%u", first_span, first_span + n_spans - 1, n_items);
    const test_step step = test_make_step(t, SPANS + first_span, n_spans);
    dsvk_ring_store_params p = {.n = step.n, .n_items = n_items};
    uint8_t *sources[DSVK_RING_ITEMS];
    uint32_t state_bytes = 0;
    for (uint32_t i = 0; i < n_items; i++) {
        const uint32_t stride = ITEMS[i].bytes + ITEMS[i].padding;
        sources[i] = test_alloc(t, (size_t)step.n * stride);
        for (size_t b = 0; b < (size_t)step.n * stride; b++)
            sources[i][b] = (uint8_t)test_random(t);
        p.items[i] = (dsvk_ring_item){.source = test_upload(t, sources[i], (size_t)step.n * stride).addr,
                                      .source_stride = stride,
                                      .bytes = ITEMS[i].bytes,
                                      .offset = state_bytes + GAP,
                                      .capacity = ITEMS[i].capacity};
        state_bytes += GAP + ITEMS[i].bytes * ITEMS[i].capacity;
    }
    dsvk_buffer states[DSVK_COUNT(SPANS)];
    for (uint32_t s = 0; s < n_spans; s++) {
        states[s] = test_output(t, state_bytes);
        step.seqs[s].state = states[s].addr;
    }
    p.rows = test_upload(t, step.rows, step.n * sizeof *step.rows).addr;
    p.seqs = test_upload(t, step.seqs, n_spans * sizeof *step.seqs).addr;
    dsvk_ring_store(t->cmd, &p);
    if (!test_run(t))
        return;
    uint8_t *want = test_alloc(t, state_bytes);
    for (uint32_t s = 0; s < n_spans; s++) {
        const struct dsvk_seq *seq = &step.seqs[s];
        memset(want, 0xff, state_bytes);
        for (uint32_t i = 0; i < n_items; i++)
            ref_ring_store(sources[i], p.items[i].source_stride, p.items[i].bytes, want + p.items[i].offset,
                           p.items[i].capacity, seq->first, seq->rows, seq->start);
        test_compare_words(t, "state", test_download(t, &states[s]), want, state_bytes / 4);
    }
}

/* Rows that a later row of the step replaces must not be copied at all: their order is not given. Here only they are
 * run. */
static void check_replaced(test *t) {
    const test_span span = {10, 140};
    test_case(t, "replaced rows of 140 in 128 slots");
    const test_step step = test_make_step(t, &span, 1);
    const uint32_t bytes = 16 * 128;
    const float *source = test_normals(t, 140 * 4, 1);
    const dsvk_buffer state = test_output(t, bytes);
    step.seqs[0].state = state.addr;
    dsvk_ring_store(t->cmd, &(dsvk_ring_store_params){
                                .rows = test_upload(t, step.rows, step.n * sizeof *step.rows).addr,
                                .seqs = test_upload(t, step.seqs, sizeof *step.seqs).addr,
                                .items = {{test_upload(t, source, 140 * 16).addr, 16, 16, 0, 128}},
                                .n = 13, /* the first of them that stays is row 12 */
                                .n_items = 1,
                            });
    if (!test_run(t))
        return;
    uint8_t *want = test_alloc(t, bytes);
    memset(want, 0xff, bytes);
    memcpy(want + (10 + 12) * 16, source + 12 * 4, 16);
    test_compare_words(t, "state", test_download(t, &state), want, bytes / 4);
}

static void record(dsvk_cmd *cmd, void *params) {
    dsvk_ring_store(cmd, params);
}

/* Window rows, their scales, and K and S of a ratio 4 layer. */
static void bench(test *t, uint32_t n) {
    const test_span span = {0, n};
    test_case(t, "n=%u, 3 items", n);
    const test_step step = test_make_step(t, &span, 1);
    uint32_t offset = 0;
    dsvk_ring_store_params p = {.rows = test_upload(t, step.rows, n * sizeof *step.rows).addr, .n = n, .n_items = 3};
    for (uint32_t i = 0; i < p.n_items; i++) {
        const size_t bytes = (size_t)n * ITEMS[i].bytes;
        p.items[i] = (dsvk_ring_item){test_upload(t, test_alloc(t, bytes), bytes).addr, ITEMS[i].bytes, ITEMS[i].bytes,
                                      offset, ITEMS[i].capacity};
        offset += ITEMS[i].bytes * ITEMS[i].capacity;
    }
    step.seqs[0].state = test_output(t, offset).addr;
    p.seqs = test_upload(t, step.seqs, sizeof *step.seqs).addr;
    test_bench(t, record, &p);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "ring_store", argc, argv);
    for (uint32_t s = 0; s < DSVK_COUNT(SPANS); s++)
        check(&t, s, 1, 1 + s % DSVK_RING_ITEMS);
    check(&t, 0, 3, 4);
    check(&t, 3, 6, 4);
    check(&t, 0, DSVK_COUNT(SPANS), 4);
    check_replaced(&t);
    test_case(&t, "bad shapes");
    dsvk_ring_store(t.cmd, &(dsvk_ring_store_params){.n = 1, .n_items = 5});
    test_run_fails(&t, "5 items; at most 4");
    dsvk_ring_store(t.cmd, &(dsvk_ring_store_params){.n = 1, .n_items = 1, .items = {{0, 584, 583, 0, 128}}});
    test_run_fails(&t, "item 0 copies 583 bytes");
    dsvk_ring_store(t.cmd, &(dsvk_ring_store_params){.n = 1, .n_items = 1, .items = {{0, 584, 584, 0, 0}}});
    test_run_fails(&t, "a ring of 0 slots");
    if (t.bench) {
        bench(&t, 1);
        bench(&t, 128);
    }
    return test_end(&t);
}
