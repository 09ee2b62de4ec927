/* rms_norm against ref_rms_norm.
 * Edges: widths below, at and above a workgroup's 1024 values and no multiple of it; one row and many; padded rows; a
 * row of zeros; a row whose squares are tiny. Flash and Pro: 4096, 7168, 1024, 1536. */
#include "harness.h"

static const uint32_t ROWS[] = {1, 2, 5, 33};
static const uint32_t DIMS[] = {4, 32, 96, 160, 256, 288, 1024, 1536, 4096, 7168};
static const float EPS = 1e-6f;

/* A sum of squares in f32 has no cancellation: 8 terms in sequence per invocation and a tree, some 20 roundings of
 * which half reach the square root; division and square root may be off by 3 units in the last place each on a Vulkan
 * device. */
static const float RELATIVE = 1.2e-6f;

static void check(test *t, uint32_t n, uint32_t dim, uint32_t stride) {
    test_case(t, "n=%u dim=%u stride=%u", n, dim, stride);
    float *x = test_normals(t, (size_t)n * stride, 3.0f), *weight = test_normals(t, dim, 1.0f);
    float *want = test_alloc(t, (size_t)n * dim * 4);
    if (n > 1)
        memset(x + stride, 0, dim * 4);
    for (uint32_t i = 0; n > 2 && i < dim; i++)
        x[2 * stride + i] *= 1e-4f;
    for (uint32_t i = 0; i < n; i++)
        ref_rms_norm(x + (size_t)i * stride, weight, want + (size_t)i * dim, dim, EPS);

    const dsvk_buffer out = test_output(t, (size_t)n * dim * 4), one = test_output(t, dim * 4);
    dsvk_rms_norm_params p = {.x = test_upload(t, x, (size_t)n * stride * 4).addr,
                              .weight = test_upload(t, weight, dim * 4).addr,
                              .out = out.addr,
                              .n = n,
                              .dim = dim,
                              .x_stride = stride,
                              .eps = EPS};
    dsvk_rms_norm(t->cmd, &p);
    p.x += (uint64_t)(n - 1) * stride * 4;
    p.out = one.addr;
    p.n = 1;
    dsvk_rms_norm(t->cmd, &p);
    if (!test_run(t))
        return;
    const float *got = test_download(t, &out);
    test_compare(t, "out", got, want, (size_t)n * dim, RELATIVE, 0);
    test_compare_words(t, "last row alone", test_download(t, &one), got + (size_t)(n - 1) * dim, dim);
}

static void record(dsvk_cmd *cmd, void *params) {
    dsvk_rms_norm(cmd, params);
}

static void bench(test *t, uint32_t n, uint32_t dim) {
    test_case(t, "n=%u dim=%u", n, dim);
    dsvk_rms_norm_params p = {.x = test_upload(t, test_normals(t, (size_t)n * dim, 1), (size_t)n * dim * 4).addr,
                              .weight = test_upload(t, test_normals(t, dim, 1), dim * 4).addr,
                              .out = test_output(t, (size_t)n * dim * 4).addr,
                              .n = n,
                              .dim = dim,
                              .x_stride = dim,
                              .eps = EPS};
    test_bench(t, record, &p);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "rms_norm", argc, argv);
    for (uint32_t d = 0; d < DSVK_COUNT(DIMS); d++)
        for (uint32_t i = 0; i < DSVK_COUNT(ROWS); i++)
            check(&t, ROWS[i], DIMS[d], DIMS[d] + (i % 2 ? 12 : 0));
    test_case(&t, "bad shapes");
    dsvk_rms_norm(t.cmd, &(dsvk_rms_norm_params){.n = 1, .dim = 34, .x_stride = 36});
    test_run_fails(&t, "34 values per row");
    dsvk_rms_norm(t.cmd, &(dsvk_rms_norm_params){.n = 1, .dim = 36, .x_stride = 32});
    test_run_fails(&t, "rows 32 apart");
    if (t.bench) {
        bench(&t, 1, 4096);
        bench(&t, 512, 4096);
    }
    return test_end(&t);
}
