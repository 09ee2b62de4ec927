/* topk against sorting: exact, so every word is compared.
 * Edges: 0, 1, k-1, k, k+1, 1023..1025 (a block of the last pass), 4096 and 262,144 visible; k = 1, 5, 16, 512, 1024; positions at
 * both ends of a visible count; ties of every amount, all equal, all NaN, -inf, -0 against 0, scores that differ in the last
 * digit only, ascending and descending. Scores beyond the visible ones are +inf and must never be chosen. */
#include "harness.h"

static const char *const kinds[] = { "normal",    "few values", "equal",    "negative",  "with -inf", "with NaN",
                                     "all NaN",   "zeros",      "last digit", "ascending", "descending", "all -inf" };

static float score(test *t, uint32_t kind, uint32_t i) {
    switch (kind) {
    case 0: return test_normal(t);
    case 1: return (float)test_below(t, 5) - 2.0f;
    case 2: return -0.75f;
    case 3: return -1.0f - test_uniform(t);
    case 4: return test_below(t, 3) ? -INFINITY : test_normal(t);
    case 5: return test_below(t, 3) ? test_below(t, 2) ? NAN : -NAN : test_normal(t);
    case 6: return NAN;
    case 7: return test_below(t, 2) ? 0.0f : -0.0f;
    case 8: return 1.0f + (float)test_below(t, 1024) * 0x1p-23f;
    case 9: return (float)i * 1e-3f - 50.0f;
    case 10: return 50.0f - (float)i * 1e-3f;
    default: return -INFINITY;
    }
}

static void check(test *t, uint32_t k, uint32_t visible, uint32_t spare) {
    const uint32_t n = DSVK_COUNT(kinds), stride = (uint32_t)dsvk_align(visible + spare, 4) + 4;
    test_case(t, "k=%u visible=%u stride=%u", k, visible, stride);
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    float *scores = test_alloc(t, (size_t)n * stride * sizeof *scores);
    int32_t *want = test_alloc(t, (size_t)n * k * sizeof *want);
    for (uint32_t r = 0; r < n; r++) {
        rows[r].position = visible == 0 ? r % 3 : 4 * visible - 1 + r % 4;
        for (uint32_t i = 0; i < stride; i++)
            scores[(size_t)r * stride + i] = i < visible ? score(t, r, i) : INFINITY;
        ref_topk(scores + (size_t)r * stride, visible, k, want + (size_t)r * k);
    }
    const dsvk_buffer rows_buffer = test_upload(t, rows, n * sizeof *rows),
                      scores_buffer = test_upload(t, scores, (size_t)n * stride * 4),
                      idx = test_output(t, (size_t)n * k * 4);
    dsvk_topk_params p = {
        .rows = rows_buffer.addr, .scores = scores_buffer.addr, .idx = idx.addr, .n = n, .k = k, .scores_stride = stride
    };
    dsvk_topk(t->cmd, &p);
    if (!test_run(t))
        return;
    const int32_t *got = test_download(t, &idx);
    for (uint32_t r = 0; r < n; r++)
        test_compare_words(t, kinds[r], got + (size_t)r * k, want + (size_t)r * k, k);
}

static void record(dsvk_cmd *cmd, void *params) { dsvk_topk(cmd, params); }

static void bench(test *t, uint32_t visible, uint32_t k, uint32_t n) {
    test_case(t, "n=%u k=%u visible=%u", n, k, visible);
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    for (uint32_t r = 0; r < n; r++)
        rows[r].position = 4 * visible - 1;
    float *scores = test_normals(t, (size_t)n * visible, 1.0f);
    dsvk_topk_params p = { .rows = test_upload(t, rows, n * sizeof *rows).addr,
                           .scores = test_upload(t, scores, (size_t)n * visible * 4).addr,
                           .idx = test_output(t, (size_t)n * k * 4).addr,
                           .n = n,
                           .k = k,
                           .scores_stride = visible };
    test_bench(t, record, &p);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "topk", argc, argv);
    static const uint32_t ks[] = { 1, 5, 16, 512, 1024 };
    for (uint32_t i = 0; i < DSVK_COUNT(ks); i++) {
        const uint32_t k = ks[i], visible[] = { 0, 1, k - 1, k, k + 1, 2 * k + 3, 1023, 1024, 1025, 4096 };
        for (uint32_t j = 0; j < DSVK_COUNT(visible); j++)
            check(&t, k, visible[j], j);
    }
    check(&t, 512, 262144, 0);
    check(&t, 1024, 262144, 0);
    check(&t, 1024, 262141, 0);

    test_case(&t, "shapes");
    dsvk_topk(t.cmd, &(dsvk_topk_params){ .n = 1, .k = 4, .scores_stride = 6 });
    test_run_fails(&t, "stride 6");

    if (t.bench) {
        bench(&t, 4096, 512, 1);
        bench(&t, 4096, 512, 32);
        bench(&t, 32768, 1024, 1);
        bench(&t, 262144, 1024, 1);
    }
    return test_end(&t);
}
