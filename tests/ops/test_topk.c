/* topk against sorting: exact, so every word is compared.
 * Edges: 0, 1, k-1, k, k+1, 1023..1025 (a block of the last lists), 4095..4097 (a
 * workgroup's share) and 262,144 visible; k = 1, 5, 16, 512, 1024; positions at
 * both ends of a visible count; ties of every amount, all equal, all NaN, -inf, -0 against 0, scores that differ in the last
 * digit only, ascending and descending. Scores beyond the visible ones are +inf and must never be chosen. */
#include "harness.h"
#include "topk.h"

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

/* What the indexer leaves for topk: how many of the row's visible scores begin with each of 2,048 values of 11 bits, in the order
 * of scores: negative ones are turned over, -0 is 0, NaN comes first. */
static void count(uint32_t *bins, const float *scores, uint32_t visible) {
    for (uint32_t i = 0; i < visible; i++) {
        uint32_t u;
        memcpy(&u, &scores[i], 4);
        bins[isnan(scores[i]) ? 0 : scores[i] == 0 ? 1024 : u >> 31 ? 2047 - (u >> 21) : 1024 + (u >> 21)]++;
    }
}

/* An output that begins with something. */
static dsvk_buffer upload_guarded(test *t, const void *data, size_t bytes) {
    dsvk_error err = { 0 };
    const dsvk_buffer buffer = test_output(t, bytes);
    test_check(t, dsvk_buffer_write(t->device, &buffer, 0, data, bytes, &err) == DSVK_OK, "upload: %s", err.message);
    return buffer;
}

/* How many scores lie in or above the bin of the k-th largest: what the workgroup that ends last may read again. */
static uint32_t in_question(const uint32_t *bins, uint32_t k) {
    uint32_t n = 0;
    for (uint32_t bin = 2048; bin > 0 && n < k; bin--)
        n += bins[bin - 1];
    return n;
}

/* The workgroups' counts before a row's lists: 0 of those that had no scores. */
static uint32_t listed(const uint32_t *list) {
    uint32_t n = 0;
    for (size_t g = 0; g < TOPK_MAX_GROUPS; g++)
        n += list[g];
    return n;
}

static void check(test *t, uint32_t k, uint32_t visible, uint32_t spare) {
    const uint32_t n = DSVK_COUNT(kinds), stride = (uint32_t)dsvk_align(visible + spare, 4) + 4;
    test_case(t, "k=%u visible=%u stride=%u", k, visible, stride);
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    float *scores = test_alloc(t, (size_t)n * stride * sizeof *scores);
    const size_t bins_bytes = dsvk_topk_bins_bytes(n);
    uint32_t *bins = test_alloc(t, bins_bytes), *zero = test_alloc(t, bins_bytes), *none = test_alloc(t, dsvk_topk_list_bytes(n, stride));
    int32_t *want = test_alloc(t, (size_t)n * k * sizeof *want);
    for (uint32_t r = 0; r < n; r++) {
        rows[r].position = visible == 0 ? r % 3 : 4 * visible - 1 + r % 4;
        for (uint32_t i = 0; i < stride; i++)
            scores[(size_t)r * stride + i] = i < visible ? score(t, r, i) : INFINITY;
        ref_topk(scores + (size_t)r * stride, visible, k, want + (size_t)r * k);
        if (visible > k)
            count(bins + r * bins_bytes / n / 4, scores + (size_t)r * stride, visible);
    }
    const dsvk_buffer rows_buffer = test_upload(t, rows, n * sizeof *rows),
                      scores_buffer = test_upload(t, scores, (size_t)n * stride * 4),
                      idx = test_output(t, (size_t)n * k * 4);
    const uint32_t most = visible + spare; /* the grid may be for longer rows than there are */
    const dsvk_buffer bins_buffer = upload_guarded(t, bins, bins_bytes),
                      list = upload_guarded(t, none, dsvk_topk_list_bytes(n, stride));
    dsvk_topk_params p = { .rows = rows_buffer.addr, .scores = scores_buffer.addr, .bins = bins_buffer.addr, .list = list.addr,
                           .idx = idx.addr, .n = n, .k = k, .scores_stride = stride, .max_visible = most };
    dsvk_topk(t->cmd, &p);
    if (!test_run(t))
        return;
    const int32_t *got = test_download(t, &idx);
    for (uint32_t r = 0; r < n; r++)
        test_compare_words(t, kinds[r], got + (size_t)r * k, want + (size_t)r * k, k);
    test_compare_words(t, "bins afterwards", test_download(t, &bins_buffer), zero, bins_bytes / 4);
    const uint32_t *lists = test_download(t, &list);
    const size_t words = dsvk_topk_list_bytes(1, stride) / 4;
    for (uint32_t r = 0; r < n && visible > k; r++) { /* one pass over all scores, two over these at most */
        const uint32_t want_listed = in_question(bins + r * bins_bytes / n / 4, k),
                       got_listed = listed(lists + r * words);
        test_check(t, got_listed == want_listed, "%s: %u of %u scores are listed, %u are in question", kinds[r], got_listed, visible,
                   want_listed);
    }
}

typedef struct selection {
    dsvk_topk_params p;
    const dsvk_buffer *bins, *counted;
} selection;

/* The bins anew each time, as the indexer would leave them. */
static void record(dsvk_cmd *cmd, void *params) {
    const selection *s = params;
    dsvk_cmd_copy(cmd, s->counted, 0, s->bins, 0, dsvk_topk_bins_bytes(s->p.n));
    dsvk_barrier(cmd);
    dsvk_topk(cmd, &s->p);
}

static void bench(test *t, uint32_t visible, uint32_t k, uint32_t n) {
    test_case(t, "n=%u k=%u visible=%u", n, k, visible);
    const size_t bins_bytes = dsvk_topk_bins_bytes(n);
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    float *scores = test_normals(t, (size_t)n * visible, 1.0f);
    uint32_t *counts = test_alloc(t, bins_bytes);
    for (uint32_t r = 0; r < n; r++) {
        rows[r].position = 4 * visible - 1;
        count(counts + r * bins_bytes / n / 4, scores + (size_t)r * visible, visible);
    }
    const dsvk_buffer counted = test_upload(t, counts, bins_bytes), bins = upload_guarded(t, counts, bins_bytes);
    selection s = { .bins = &bins, .counted = &counted };
    s.p = (dsvk_topk_params){ .rows = test_upload(t, rows, n * sizeof *rows).addr,
                              .scores = test_upload(t, scores, (size_t)n * visible * 4).addr,
                              .bins = bins.addr,
                              .list = test_output(t, dsvk_topk_list_bytes(n, visible)).addr, /* visible: a multiple of 4 */
                              .idx = test_output(t, (size_t)n * k * 4).addr,
                              .n = n,
                              .k = k,
                              .scores_stride = visible,
                              .max_visible = visible };
    test_bench(t, record, &s);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "topk", argc, argv);
    static const uint32_t ks[] = { 1, 5, 16, 512, 1024 };
    for (uint32_t i = 0; i < DSVK_COUNT(ks); i++) {
        const uint32_t k = ks[i], visible[] = { 0, 1, k - 1, k, k + 1, 2 * k + 3, 1023, 1024, 1025, 4095, 4096, 4097 };
        for (uint32_t j = 0; j < DSVK_COUNT(visible); j++)
            check(&t, k, visible[j], j);
    }
    check(&t, 512, 262144, 0);
    check(&t, 1024, 262144, 0);
    check(&t, 1024, 262141, 0);
    check(&t, 512, 70001, 0); /* of several shares a workgroup on a processor, the last one short */

    test_case(&t, "shapes");
    dsvk_topk(t.cmd, &(dsvk_topk_params){ .n = 1, .k = 4, .scores_stride = 6 });
    test_run_fails(&t, "stride 6");

    if (t.bench) {
        bench(&t, 4096, 512, 1);
        bench(&t, 4096, 512, 32);
        bench(&t, 32768, 1024, 1);
        bench(&t, 262144, 1024, 1);
        bench(&t, 131072, 32, 32);
    }
    return test_end(&t);
}
