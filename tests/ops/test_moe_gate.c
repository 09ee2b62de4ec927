/* moe_gate against a sort of plain scores. Edges: one expert, as many chosen as there are, 3 to 4096 experts (more and fewer
 * than the workgroup), k 1 to 16, all scores equal (lower ids win), pairs of equal scores at the cut, logits that are NaN,
 * infinite, very large and very small, hash tables with ids out of range, gaps between rows of logits.
 * Ids are exact unless the reference shows that the cut falls between scores closer than 2e-6, a few units of rounding of
 * softplus and root; weights are within 1e-6 relative: six roots of values of relative error 3e-7 and a sum. */
#include "harness.h"

static void run(test *t, const float *logits, uint32_t n, uint32_t n_experts, uint32_t k, uint32_t stride, const float *bias,
                const uint32_t *table, uint32_t vocab) {
    struct dsvk_row *rows = test_alloc(t, n * sizeof *rows);
    uint32_t *want_idx = test_alloc(t, (size_t)n * k * 4), *idx;
    float *want = test_alloc(t, (size_t)n * k * 4), *weights;
    for (uint32_t r = 0; r < n; r++)
        rows[r].token = test_below(t, vocab > 0 ? vocab : 1);
    const dsvk_buffer out_idx = test_output(t, (size_t)n * k * 4), out_weights = test_output(t, (size_t)n * k * 4);
    dsvk_moe_gate(t->cmd, &(dsvk_moe_gate_params){
                              .rows = test_upload(t, rows, n * sizeof *rows).addr,
                              .logits = test_upload(t, logits, (size_t)n * stride * 4).addr,
                              .bias = bias != NULL ? test_upload(t, bias, n_experts * 4).addr : 0,
                              .table = table != NULL ? test_upload(t, table, (size_t)vocab * k * 4).addr : 0,
                              .idx = out_idx.addr,
                              .weights = out_weights.addr,
                              .n = n,
                              .n_experts = n_experts,
                              .k = k,
                              .vocab = vocab,
                              .logits_stride = stride,
                              .route_scale = 1.5f });
    if (!test_run(t))
        return;
    idx = test_download(t, &out_idx);
    weights = test_download(t, &out_weights);
    uint32_t close = 0;
    for (uint32_t r = 0; r < n; r++) {
        const double margin = ref_moe_gate(logits + (size_t)r * stride, bias, table ? table + rows[r].token * k : NULL,
                                           n_experts, k, 1.5f, want_idx + r * k, want + r * k);
        if (margin > 0 && margin < 2e-6 && memcmp(idx + r * k, want_idx + r * k, k * 4) != 0) {
            close++; /* either choice is right */
            memcpy(idx + r * k, want_idx + r * k, k * 4);
            memcpy(weights + r * k, want + r * k, k * 4);
        }
    }
    test_check(t, close <= 1 + n / 64, "%u of %u rows at a near tie", close, n);
    test_compare_words(t, "ids", idx, want_idx, (size_t)n * k);
    test_compare(t, "weights", weights, want, (size_t)n * k, 1e-6f, 0);
}

static void by_score(test *t) {
    static const struct { uint32_t n, n_experts, k; } shapes[] = {
        { 1, 1, 1 }, { 5, 3, 1 }, { 3, 3, 3 }, { 9, 16, 6 }, { 33, 61, 8 }, { 2, 69, 16 }, { 64, 256, 6 },
        { 33, 257, 6 }, { 64, 384, 6 }, { 5, 4096, 8 }, { 2, 16, 16 },
    };
    for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++) {
        const uint32_t n = shapes[s].n, experts = shapes[s].n_experts, stride = experts + 3;
        test_case(t, "n=%u n_experts=%u k=%u", n, experts, shapes[s].k);
        run(t, test_normals(t, (size_t)n * stride, 3), n, experts, shapes[s].k, stride, test_normals(t, experts, 0.5f), NULL, 0);
    }
}

static void ties(test *t) {
    test_case(t, "all scores equal, n_experts=384 k=6");
    float *logits = test_alloc(t, 384 * 4), *bias = test_alloc(t, 384 * 4);
    run(t, logits, 1, 384, 6, 384, bias, NULL, 0);
    test_case(t, "every score twice, an odd k cuts through a pair");
    logits = test_normals(t, 64, 1);
    bias = test_alloc(t, 64 * 4);
    memcpy(logits + 32, logits, 32 * 4);
    run(t, logits, 1, 64, 5, 64, bias, NULL, 0);
}

static void not_finite(test *t) {
    const float odd[] = { NAN, INFINITY, -INFINITY, 3e38f, -3e38f, -100, 1e-40f, 88 };
    for (uint32_t i = 0; i < DSVK_COUNT(odd); i++) {
        test_case(t, "one logit %g among 19, k=6", odd[i]);
        float *logits = test_normals(t, 19, 1);
        logits[4] = odd[i];
        run(t, logits, 1, 19, 6, 19, test_normals(t, 19, 0.1f), NULL, 0);
    }
    test_case(t, "2 finite logits among 300 NaN, k=6");
    float *logits = test_alloc(t, 300 * 4);
    for (uint32_t i = 0; i < 300; i++)
        logits[i] = i == 7 || i == 290 ? 1.0f : NAN;
    run(t, logits, 1, 300, 6, 300, test_normals(t, 300, 0.1f), NULL, 0);
}

static void by_table(test *t) {
    test_case(t, "hash table, n=33 n_experts=256 k=6 vocab=100");
    uint32_t *table = test_alloc(t, 100 * 6 * 4);
    for (uint32_t i = 0; i < 600; i++)
        table[i] = (i * 37 + i / 6) % 256;
    run(t, test_normals(t, 33 * 256, 2), 33, 256, 6, 256, NULL, table, 100);
    test_case(t, "hash table with an id out of range");
    uint32_t broken[] = { 2, 0xffffffff, 1 };
    run(t, test_normals(t, 5, 2), 1, 5, 3, 5, NULL, broken, 1);
}

static void wrong_shapes(test *t) {
    test_case(t, "wrong shapes");
    dsvk_moe_gate(t->cmd, &(dsvk_moe_gate_params){ .n = 1, .n_experts = 4, .k = 5, .logits_stride = 4, .bias = 16 });
    test_run_fails(t, "5 of 4 experts");
    dsvk_moe_gate(t->cmd, &(dsvk_moe_gate_params){ .n = 1, .n_experts = 40, .k = 17, .logits_stride = 40, .bias = 16 });
    test_run_fails(t, "17 of 40 experts");
    dsvk_moe_gate(t->cmd, &(dsvk_moe_gate_params){ .n = 1, .n_experts = 4, .k = 2, .logits_stride = 3, .bias = 16 });
    test_run_fails(t, "logits stride 3");
    dsvk_moe_gate(t->cmd, &(dsvk_moe_gate_params){ .n = 1, .n_experts = 4, .k = 2, .logits_stride = 4 });
    test_run_fails(t, "no bias, no table");
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "moe_gate", argc, argv);
    by_score(&t);
    ties(&t);
    not_finite(&t);
    by_table(&t);
    wrong_shapes(&t);
    return test_end(&t);
}
