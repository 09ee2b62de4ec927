/* sample against a sorted list. Edges: vocabularies of 1, 2, 61, 257, 2048 and the real 129280; temperature 0 (first of equal
 * maxima), tiny and huge; top-k 1, cutting through equal logits, larger than the vocabulary; top-p tiny, cutting through equal
 * logits, right before and behind the winner, close to 1; min-p up to 1; all together; all logits equal; logits that are NaN or infinite anywhere; two runs; a
 * row alone and in a batch. Ids are exact unless the reference shows that the decision was nearer than 1e-5, some tens of
 * float roundings of z, p or ln. Frequencies of 4000 draws must be those of softmax within 5 standard deviations. */
#include "harness.h"

static uint32_t *run(test *t, const float *logits, uint32_t n, uint32_t vocab, const struct dsvk_sample_row *options) {
    const dsvk_buffer out = test_output(t, n * 4);
    dsvk_sample(t->cmd, &(dsvk_sample_params){ .logits = test_upload(t, logits, (size_t)n * vocab * 4).addr,
                                               .options = test_upload(t, options, n * sizeof *options).addr,
                                               .out = out.addr,
                                               .n = n,
                                               .vocab = vocab });
    return test_run(t) ? test_download(t, &out) : NULL;
}

static void judge(test *t, const float *logits, uint32_t n, uint32_t vocab, const struct dsvk_sample_row *options) {
    const uint32_t *got = run(t, logits, n, vocab, options);
    uint32_t close = 0;
    for (uint32_t r = 0; got != NULL && r < n; r++) {
        double margin;
        const uint32_t want = ref_sample(logits + (size_t)r * vocab, vocab, &options[r], &margin);
        if (got[r] != want && margin < 1e-5)
            close++;
        else
            test_check(t, got[r] == want, "row %u: got %u want %u, margin %.3g; T=%g k=%u p=%g min-p=%g", r, got[r], want,
                       margin, options[r].temperature, options[r].top_k, options[r].top_p, options[r].min_p);
    }
    if (close > 0)
        printf("  [%s] %u of %u rows at a near tie\n", t->shape, close, n);
    test_check(t, close <= 1 + n / 50, "%u of %u rows at a near tie", close, n);
}

static struct dsvk_sample_row option(test *t, float temperature, uint32_t top_k, float top_p, float min_p) {
    return (struct dsvk_sample_row){ .temperature = temperature, .top_p = top_p, .min_p = min_p, .top_k = top_k,
                                     .seed_lo = test_random(t), .seed_hi = test_random(t), .position = test_below(t, 1u << 20) };
}

static void every_option(test *t) {
    static const uint32_t vocabs[] = { 1, 2, 61, 257, 2048 };
    static const float temperatures[] = { 0, 1e-6f, 0.6f, 1, 30, 1e30f }, mins[] = { 0, 0.02f, 0.5f, 1 };
    static const float tops[] = { 0, 1, 1e-6f, 0.3f, 0.9f, 0.999f };
    static const uint32_t ks[] = { 0, 1, 3, 40, 5000 };
    for (uint32_t v = 0; v < DSVK_COUNT(vocabs); v++) {
        const uint32_t vocab = vocabs[v], n = v == 4 ? 240 : 120;
        test_case(t, "vocab=%u, %u combinations of options", vocab, n);
        float *logits = test_normals(t, (size_t)n * vocab, 3);
        struct dsvk_sample_row *options = test_alloc(t, n * sizeof *options);
        for (uint32_t r = 0; r < n; r++) {
            options[r] = option(t, temperatures[r % 6], ks[test_below(t, 5)], tops[test_below(t, 6)], mins[test_below(t, 4)]);
            for (uint32_t i = 0; r % 2 && i < vocab; i++) /* few different logits: ties at every cut */
                logits[(size_t)r * vocab + i] = roundf(logits[(size_t)r * vocab + i]) * 0.5f;
        }
        judge(t, logits, n, vocab, options);
    }
}

/* Mass of the tokens that rank before `id`. */
static double mass_before(const float *logits, uint32_t vocab, float temperature, uint32_t id) {
    double before = 0, total = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        const double p = exp((logits[i] - logits[id]) / (double)temperature);
        total += p;
        before += logits[i] > logits[id] || (logits[i] == logits[id] && i < id) ? p : 0;
    }
    return before / total;
}

/* The winner of the whole race is the last token in with top_p a little more than the mass before it, out with a little less. */
static void cuts_at_the_winner(test *t) {
    enum { VOCAB = 257, ROWS = 60 };
    const double little = 3e-5;
    test_case(t, "top-p just above and below the winner, vocab=%d", VOCAB);
    float *logits = test_alloc(t, 2 * ROWS * VOCAB * 4);
    struct dsvk_sample_row *options = test_alloc(t, 2 * ROWS * sizeof *options);
    uint32_t winner[ROWS], n = 0;
    while (n < ROWS) {
        float *row = logits + (size_t)2 * n * VOCAB;
        const struct dsvk_sample_row o = option(t, 1.3f, 0, 0, 0);
        double margin;
        for (uint32_t i = 0; i < VOCAB; i++)
            row[i] = roundf(2 * test_normal(t)) * (n % 2 ? 0.5f : 0.1f);
        memcpy(row + VOCAB, row, VOCAB * 4);
        winner[n] = ref_sample(row, VOCAB, &o, &margin);
        const double before = mass_before(row, VOCAB, o.temperature, winner[n]);
        if (before < 2 * little || margin < 1e-4)
            continue;
        options[2 * n] = options[2 * n + 1] = o;
        options[2 * n].top_p = (float)(before + little);
        options[2 * n + 1].top_p = (float)(before - little);
        n++;
    }
    judge(t, logits, 2 * ROWS, VOCAB, options);
    const uint32_t *got = run(t, logits, 2 * ROWS, VOCAB, options);
    for (uint32_t r = 0; got != NULL && r < ROWS; r++)
        test_check(t, got[2 * r] == winner[r] && got[2 * r + 1] != winner[r], "winner %u with top_p %.6f: %u, with %.6f: %u",
                   winner[r], options[2 * r].top_p, got[2 * r], options[2 * r + 1].top_p, got[2 * r + 1]);
}

static void all_equal(test *t) {
    const uint32_t vocab = 1000;
    test_case(t, "all logits equal, vocab=%u", vocab);
    float *logits = test_alloc(t, 6 * vocab * 4);
    const struct dsvk_sample_row options[6] = { option(t, 0, 0, 0, 0),    option(t, 1, 7, 0, 0),     option(t, 1, 0, 0.25f, 0),
                                                option(t, 1, 0, 1, 1),    option(t, 1, 100, 0.1f, 0), option(t, 1, 1, 0.5f, 0.5f) };
    const uint32_t below[6] = { 1, 7, 250, 1000, 10, 1 }; /* the lowest ids rank first */
    judge(t, logits, 6, vocab, options);
    const uint32_t *got = run(t, logits, 6, vocab, options);
    for (uint32_t r = 0; got != NULL && r < 6; r++)
        test_check(t, got[r] < below[r], "row %u: id %u, not below %u", r, got[r], below[r]);
}

static void not_finite(test *t) {
    const float odd[] = { NAN, INFINITY, -INFINITY };
    const uint32_t vocab = 300, places[] = { 0, 150, 299 };
    for (uint32_t i = 0; i < 9; i++) {
        test_case(t, "logit %u is %g, vocab=%u", places[i / 3], odd[i % 3], vocab);
        float *logits = test_normals(t, 2 * vocab, 1);
        logits[places[i / 3]] = odd[i % 3];
        const struct dsvk_sample_row options[2] = { option(t, i < 4 ? 0 : 1, 0, 0, 0), option(t, 0, 0, 0, 0) };
        judge(t, logits, 2, vocab, options);
        const uint32_t *got = run(t, logits, 2, vocab, options);
        test_check(t, got != NULL && got[0] == 0xffffffff && got[1] < vocab, "not 0xffffffff for this row only");
    }
    test_case(t, "largest finite logits");
    float extreme[64];
    for (uint32_t i = 0; i < 64; i++)
        extreme[i] = i % 2 ? 3.4e38f : -3.4e38f;
    const struct dsvk_sample_row one = option(t, 0.7f, 20, 0.9f, 0.1f);
    judge(t, extreme, 1, 64, &one);
}

static void frequencies(test *t) {
    enum { VOCAB = 12, DRAWS = 4000 };
    test_case(t, "frequencies of %d draws from %d tokens", DRAWS, VOCAB);
    float *logits = test_alloc(t, DRAWS * VOCAB * 4), row[VOCAB];
    struct dsvk_sample_row *options = test_alloc(t, DRAWS * sizeof *options);
    uint32_t counts[VOCAB] = { 0 };
    double total = 0;
    for (uint32_t i = 0; i < VOCAB; i++) {
        row[i] = -0.5f * (float)i;
        total += exp(row[i] / 0.8);
    }
    for (uint32_t r = 0; r < DRAWS; r++) { /* half: positions of one seed, half: seeds at one position */
        memcpy(logits + r * VOCAB, row, sizeof row);
        options[r] = (struct dsvk_sample_row){ .temperature = 0.8f, .seed_lo = r < DRAWS / 2 ? 1 : r, .position = r < DRAWS / 2 ? r : 5 };
    }
    const uint32_t *got = run(t, logits, DRAWS, VOCAB, options);
    for (uint32_t r = 0; got != NULL && r < DRAWS; r++)
        counts[got[r] < VOCAB ? got[r] : 0]++;
    for (uint32_t i = 0; i < VOCAB; i++) {
        const double p = exp(row[i] / 0.8) / total, sigma = sqrt(DRAWS * p * (1 - p));
        test_check(t, fabs(counts[i] - DRAWS * p) < 5 * sigma, "token %u drawn %u times, expected %.0f +- %.0f", i, counts[i],
                   DRAWS * p, sigma);
    }
}

static void record(dsvk_cmd *cmd, void *context) { dsvk_sample(cmd, context); }

static void real_vocabulary(test *t) {
    const uint32_t vocab = 129280, n = 6;
    test_case(t, "vocab=%u n=%u", vocab, n);
    const float *logits = test_normals(t, (size_t)n * vocab, 2.5f);
    const struct dsvk_sample_row options[6] = { option(t, 0, 0, 0, 0),        option(t, 1, 0, 1, 0),
                                                option(t, 0.6f, 0, 0.95f, 0), option(t, 1, 50, 0.9f, 0.05f),
                                                option(t, 2, 20000, 0, 0),    option(t, 1, 0, 0, 0.01f) };
    judge(t, logits, n, vocab, options);
    const uint32_t *all = run(t, logits, n, vocab, options), *again = run(t, logits, n, vocab, options);
    for (uint32_t r = 0; all != NULL && again != NULL && r < n; r++) {
        const uint32_t *alone = run(t, logits + (size_t)r * vocab, 1, vocab, options + r);
        test_check(t, all[r] == again[r] && alone != NULL && alone[0] == all[r], "row %u: %u, again %u", r, all[r], again[r]);
    }
    for (uint32_t r = 0; t->bench && r < 3; r++) {
        snprintf(t->shape, sizeof t->shape, "vocab=%u n=1 T=%g p=%g", vocab, options[r].temperature, options[r].top_p);
        dsvk_sample_params p = { .logits = test_upload(t, logits, vocab * 4).addr,
                                 .options = test_upload(t, options + r, sizeof *options).addr,
                                 .out = test_output(t, 4).addr,
                                 .n = 1,
                                 .vocab = vocab };
        test_bench(t, record, &p);
    }
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "sample", argc, argv);
    every_option(&t);
    cuts_at_the_winner(&t);
    all_equal(&t);
    not_finite(&t);
    frequencies(&t);
    real_vocabulary(&t);
    test_case(&t, "wrong shapes");
    dsvk_sample(t.cmd, &(dsvk_sample_params){ .n = 1 });
    test_run_fails(&t, "vocabulary of 0");
    return test_end(&t);
}
