/* edit_logits, exact, and what sample then takes. Edges: vocabularies of 1, 31, 32, 33, 61, 8192, 8193 and the real 129280; a mask, a
 * list, both and neither in one dispatch; masks that allow nothing, one token, the last one, everything; ids of the list at both
 * ends, beyond the vocabulary, and ruled out by the mask; logits that are not finite under a mask; rows left alone in between.
 * With sample: of two thousand draws at high temperature every one is allowed, in the frequencies of what is left; greedy takes
 * the best that is allowed; an added value makes a token win; a masked NaN still is 0xffffffff. */
#include "harness.h"

#include <float.h>
#include <math.h>

enum { MOST_LIST = 40 };

typedef struct edit {
    uint32_t *mask; /* NULL: none */
    int32_t ids[MOST_LIST];
    float values[MOST_LIST];
    uint32_t n;
} edit;

static uint32_t words(uint32_t vocab) { return (vocab + 31) / 32; }

/* Edit r is of row step * r; with a step of 2 the rows between are left alone. */
static dsvk_addr upload_rows(test *t, const edit *edits, uint32_t n, uint32_t vocab, uint32_t step) {
    const size_t mask_bytes = words(vocab) * 4, list_bytes = MOST_LIST * sizeof(dsvk_logit_bias);
    struct dsvk_edit_row *rows = test_alloc(t, n * sizeof *rows);
    char *masks = test_alloc(t, n * mask_bytes);
    dsvk_logit_bias *lists = test_alloc(t, n * list_bytes);
    for (uint32_t r = 0; r < n; r++) {
        for (uint32_t i = 0; i < edits[r].n; i++)
            lists[r * MOST_LIST + i] = (dsvk_logit_bias){ edits[r].ids[i], edits[r].values[i] };
        if (edits[r].mask)
            memcpy(masks + r * mask_bytes, edits[r].mask, mask_bytes);
    }
    const dsvk_addr mask = test_upload(t, masks, n * mask_bytes).addr, list = test_upload(t, lists, n * list_bytes).addr;
    for (uint32_t r = 0; r < n; r++)
        rows[r] = (struct dsvk_edit_row){ .mask = edits[r].mask ? mask + r * mask_bytes : 0, .list = list + r * list_bytes,
                                          .n_list = edits[r].n, .row = step * r };
    return test_upload(t, rows, n * sizeof *rows).addr;
}

static bool in_list(const edit *e, int32_t id) {
    for (uint32_t i = 0; i < e->n; i++)
        if (e->ids[i] == id)
            return true;
    return false;
}

static edit make_edit(test *t, uint32_t vocab, uint32_t r) {
    edit e = { 0 };
    const uint32_t wanted = r % 4 == 0 ? 0 : vocab < MOST_LIST ? vocab : MOST_LIST - 2;
    for (uint32_t i = 0; i < wanted; i++) {
        const int32_t id = i == 0 ? 0 : (int32_t)(i == 1 ? vocab - 1 : test_below(t, vocab));
        if (!in_list(&e, id)) {
            e.values[e.n] = 10 * test_normal(t);
            e.ids[e.n++] = id;
        }
    }
    if (e.n > 0) { /* not in the vocabulary: left out */
        e.values[e.n] = 1e30f;
        e.ids[e.n++] = r % 2 ? (int32_t)vocab : -1;
    }
    if (r % 3 == 0)
        return e;
    e.mask = test_alloc(t, words(vocab) * 4);
    for (uint32_t w = 0; w < words(vocab); w++)
        e.mask[w] = r % 7 == 1 ? UINT32_MAX : r % 7 == 2 ? 0 : test_random(t);
    if (r % 7 == 4) {
        memset(e.mask, 0, words(vocab) * 4);
        e.mask[(vocab - 1) / 32] = 1u << (vocab - 1) % 32;
    }
    return e;
}

static void every_edit(test *t, uint32_t vocab, uint32_t n) {
    test_case(t, "vocab=%u n=%u", vocab, n);
    const uint32_t n_rows = 2 * n;
    float *logits = test_normals(t, (size_t)n_rows * vocab, 5), *want = test_alloc(t, (size_t)n_rows * vocab * 4);
    edit *edits = test_alloc(t, n * sizeof *edits);
    for (uint32_t r = 0; r < n; r++)
        logits[(size_t)2 * r * vocab + test_below(t, vocab)] = r % 5 == 0 ? INFINITY : r % 5 == 1 ? -INFINITY : FLT_MAX;
    memcpy(want, logits, (size_t)n_rows * vocab * 4);
    for (uint32_t r = 0; r < n; r++) {
        edits[r] = make_edit(t, vocab, r);
        ref_edit_logits(want + (size_t)2 * r * vocab, vocab, edits[r].mask, edits[r].ids, edits[r].values, edits[r].n);
    }
    const dsvk_buffer out = test_output(t, (size_t)n_rows * vocab * 4);
    test_check(t, dsvk_buffer_write(t->device, &out, 0, logits, (size_t)n_rows * vocab * 4, NULL) == DSVK_OK, "upload");
    dsvk_edit_logits(t->cmd, &(dsvk_edit_logits_params){ .rows = upload_rows(t, edits, n, vocab, 2), .logits = out.addr, .n = n,
                                                         .vocab = vocab });
    if (test_run(t))
        test_compare(t, "logits", test_download(t, &out), want, (size_t)n_rows * vocab, 0, 0);
}

static const uint32_t *edit_and_sample(test *t, const float *logits, uint32_t n, uint32_t vocab, const edit *edits,
                                       const struct dsvk_sample_row *options) {
    const dsvk_addr rows = upload_rows(t, edits, n, vocab, 1), at = test_upload(t, logits, (size_t)n * vocab * 4).addr;
    const dsvk_buffer out = test_output(t, n * 4);
    dsvk_edit_logits(t->cmd, &(dsvk_edit_logits_params){ .rows = rows, .logits = at, .n = n, .vocab = vocab });
    dsvk_barrier(t->cmd);
    dsvk_sample(t->cmd, &(dsvk_sample_params){ .logits = at, .options = test_upload(t, options, n * sizeof *options).addr,
                                               .out = out.addr, .n = n, .vocab = vocab });
    return test_run(t) ? test_download(t, &out) : NULL;
}

static void frequencies(test *t) {
    enum { VOCAB = 70, DRAWS = 2000 };
    test_case(t, "%d draws from %d tokens, few of them allowed", DRAWS, VOCAB);
    const float row_of[4] = { 3, 1, 2, 2.5f };
    const int32_t allowed[4] = { 0, 31, 33, 69 };
    uint32_t mask[3] = { 0 }, counts[VOCAB] = { 0 };
    float *logits = test_alloc(t, DRAWS * VOCAB * 4);
    edit *edits = test_alloc(t, DRAWS * sizeof *edits);
    struct dsvk_sample_row *options = test_alloc(t, DRAWS * sizeof *options);
    double total = 0;
    for (uint32_t i = 0; i < 4; i++) {
        mask[allowed[i] / 32] |= 1u << allowed[i] % 32;
        total += exp(row_of[i] / 1.5);
    }
    for (uint32_t r = 0; r < DRAWS; r++) {
        for (uint32_t i = 0; i < VOCAB; i++)
            logits[r * VOCAB + i] = 20; /* what is not allowed would win */
        for (uint32_t i = 0; i < 4; i++)
            logits[r * VOCAB + (uint32_t)allowed[i]] = row_of[i] - (i == 1); /* 1 of the second is added */
        edits[r] = (edit){ .mask = mask, .ids = { 31, 2 }, .values = { 1, 50 }, .n = 2 };
        options[r] = (struct dsvk_sample_row){ .temperature = 1.5f, .seed_lo = 9, .position = r, .top_k = r % 2 ? 30 : 0,
                                               .top_p = r % 3 ? 0 : 0.99999f };
    }
    const uint32_t *got = edit_and_sample(t, logits, DRAWS, VOCAB, edits, options);
    uint32_t others = 0;
    for (uint32_t r = 0; got != NULL && r < DRAWS; r++)
        if (got[r] < VOCAB)
            counts[got[r]]++;
    for (uint32_t i = 0; i < VOCAB; i++)
        others += mask[i / 32] >> i % 32 & 1 ? 0 : counts[i];
    test_check(t, others == 0, "%u draws were not allowed", others);
    for (uint32_t i = 0; i < 4; i++) {
        const double p = exp(row_of[i] / 1.5) / total, sigma = sqrt(DRAWS * p * (1 - p));
        test_check(t, fabs(counts[allowed[i]] - DRAWS * p) < 5 * sigma, "token %d drawn %u times, expected %.0f +- %.0f", allowed[i],
                   counts[allowed[i]], DRAWS * p, sigma);
    }
}

static void decisions(test *t) {
    enum { VOCAB = 40, ROWS = 6 };
    test_case(t, "what greedy and hot choices take");
    float logits[ROWS * VOCAB];
    uint32_t none_but[2] = { 1u << 7 | 1u << 9, 0 }, without_nan[2] = { ~(1u << 3), UINT32_MAX };
    for (uint32_t i = 0; i < ROWS * VOCAB; i++)
        logits[i] = (float)(i % VOCAB) * 0.01f;
    logits[4 * VOCAB + 3] = NAN;
    logits[5 * VOCAB + 7] = -1e30f; /* far below the rest, and all that is allowed with id 9 at -2e30 */
    logits[5 * VOCAB + 9] = -2e30f;
    const edit edits[ROWS] = { { 0 },
                               { .mask = none_but },
                               { .ids = { 4 }, .values = { 100 }, .n = 1 },
                               { .ids = { 39, 38 }, .values = { -100, -100 }, .n = 2 },
                               { .mask = without_nan },
                               { .mask = none_but } };
    const struct dsvk_sample_row options[ROWS] = { [3] = { .temperature = 0 }, [5] = { .temperature = 1e6f, .seed_lo = 1 } };
    const uint32_t want[ROWS] = { 39, 9, 4, 37, 0xffffffff, 7 };
    const uint32_t *got = edit_and_sample(t, logits, ROWS, VOCAB, edits, options);
    for (uint32_t r = 0; got != NULL && r < ROWS; r++)
        test_check(t, got[r] == want[r], "row %u: %u, expected %u", r, got[r], want[r]);
}

static void record(dsvk_cmd *cmd, void *context) { dsvk_edit_logits(cmd, context); }

static void measured(test *t) {
    const uint32_t vocab = 129280;
    const edit e = make_edit(t, vocab, 5);
    snprintf(t->shape, sizeof t->shape, "vocab=%u n=1", vocab);
    dsvk_edit_logits_params p = { .rows = upload_rows(t, &e, 1, vocab, 1),
                                  .logits = test_upload(t, test_normals(t, vocab, 1), vocab * 4).addr, .n = 1, .vocab = vocab };
    test_bench(t, record, &p);
}

int main(int argc, char **argv) {
    static const uint32_t vocabs[] = { 1, 31, 32, 33, 61, 8192, 8193 };
    test t;
    test_begin(&t, "edit_logits", argc, argv);
    for (uint32_t i = 0; i < DSVK_COUNT(vocabs); i++)
        every_edit(&t, vocabs[i], 21);
    every_edit(&t, 129280, 3);
    frequencies(&t);
    decisions(&t);
    if (t.bench)
        measured(&t);
    test_case(&t, "wrong shapes");
    dsvk_edit_logits(t.cmd, &(dsvk_edit_logits_params){ .n = 1 });
    test_run_fails(&t, "vocabulary of 0");
    return test_end(&t);
}
