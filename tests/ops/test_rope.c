/* rope (head norm and RoPE of the queries) against ref_head_norm and ref_rope_wide.
 * Edges: positions 0, both sides of a RoPE page border, and near a million; one head and many; padded rows; heads
 * narrower than a workgroup and no multiple of it; all values rotated. Flash: 64 heads of 512, 64 rotated; Pro: 128
 * heads. */
#include "harness_rows.h"

typedef struct shape {
    uint32_t n_heads, head_dim, rope_dim, padding;
} shape;
static const shape SHAPES[] = {
    {1, 32, 32, 0}, {3, 96, 32, 4}, {4, 128, 64, 0}, {5, 160, 16, 8}, {64, 512, 64, 0}, {128, 512, 64, 0},
};
static const test_span SPANS[] = {{0, 2}, {4094, 4}, {1000000, 1}, {77, 1}, {1048575, 1}};

/* Norm: as in test_rms_norm. Rotation: three roundings, relative to the two values turned. */
static const float TOLERANCE = 1.5e-6f;

static void check(test *t, const shape *s, uint32_t n_spans) {
    test_step step = test_make_step(t, SPANS, n_spans);
    const uint32_t n = step.n, width = s->n_heads * s->head_dim, stride = width + s->padding,
                   plain = s->head_dim - s->rope_dim;
    float *q = test_normals(t, (size_t)n * stride, 2.0f), *want = test_alloc(t, (size_t)n * stride * 4);
    float *magnitude = test_alloc(t, (size_t)n * stride * 4);
    double *head = test_alloc(t, s->head_dim * sizeof *head);
    for (uint32_t i = 0; i < n * stride; i++)
        want[i] = q[i]; /* the padding has to stay */
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t h = 0; h < s->n_heads; h++) {
            float *out = want + (size_t)r * stride + h * s->head_dim, *m = magnitude + (out - want);
            ref_head_norm(out, s->head_dim, 1e-6f);
            for (uint32_t i = 0; i < s->head_dim; i++) {
                head[i] = out[i];
                m[i] = i < plain ? fabsf(out[i]) : fabsf(out[i]) + fabsf(out[i ^ 1]);
            }
            ref_rope_wide(head, s->head_dim, s->rope_dim, step.rows[r].position);
            for (uint32_t i = 0; i < s->head_dim; i++)
                out[i] = (float)head[i];
        }

    const dsvk_buffer buffer = test_upload(t, q, (size_t)n * stride * 4);
    const dsvk_buffer alone = test_upload(t, q + (size_t)(n - 1) * stride, stride * 4);
    const dsvk_buffer rows = test_upload(t, step.rows, n * sizeof *step.rows);
    dsvk_rope_params p = {.rows = rows.addr,
                          .rope = test_rope_table_rows(t, s->rope_dim, &step),
                          .q = buffer.addr,
                          .n = n,
                          .n_heads = s->n_heads,
                          .head_dim = s->head_dim,
                          .rope_dim = s->rope_dim,
                          .q_stride = stride,
                          .eps = 1e-6f};
    dsvk_rope(t->cmd, &p);
    p.rows += (n - 1) * sizeof *step.rows;
    p.q = alone.addr;
    p.n = 1;
    dsvk_rope(t->cmd, &p);
    dsvk_error err;
    float *got = test_alloc(t, (size_t)n * stride * 4), *one = test_alloc(t, stride * 4);
    if (!test_run(t) ||
        !test_check(t, dsvk_buffer_read(t->device, &buffer, 0, got, (size_t)n * stride * 4, &err) == DSVK_OK, "read") ||
        !test_check(t, dsvk_buffer_read(t->device, &alone, 0, one, stride * 4, &err) == DSVK_OK, "read"))
        return;
    test_compare_sums(t, "q", got, want, magnitude, (size_t)n * stride, TOLERANCE);
    test_compare_words(t, "last row alone", one, got + (size_t)(n - 1) * stride, stride);
}

static void record(dsvk_cmd *cmd, void *params) {
    dsvk_rope(cmd, params);
}

static void bench(test *t, uint32_t n) {
    const test_span span = {0, n};
    test_case(t, "n=%u, 64 heads of 512", n);
    const test_step step = test_make_step(t, &span, 1);
    dsvk_rope_params p = {.rows = test_upload(t, step.rows, n * sizeof *step.rows).addr,
                          .rope = test_rope_table_rows(t, 64, &step),
                          .q = test_upload(t, test_normals(t, (size_t)n * 32768, 1), (size_t)n * 32768 * 4).addr,
                          .n = n,
                          .n_heads = 64,
                          .head_dim = 512,
                          .rope_dim = 64,
                          .q_stride = 32768,
                          .eps = 1e-6f};
    test_bench(t, record, &p);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "rope", argc, argv);
    for (uint32_t i = 0; i < DSVK_COUNT(SHAPES); i++)
        for (uint32_t spans = 1; spans <= DSVK_COUNT(SPANS); spans += 2) {
            const shape *s = &SHAPES[i];
            test_case(&t, "heads=%u head_dim=%u rope_dim=%u spans=%u", s->n_heads, s->head_dim, s->rope_dim, spans);
            check(&t, s, spans);
        }
    test_case(&t, "bad shapes");
    dsvk_rope(t.cmd, &(dsvk_rope_params){.n = 1, .n_heads = 2, .head_dim = 64, .rope_dim = 68, .q_stride = 128});
    test_run_fails(&t, "2 heads of 64 values, 68 of them rotated");
    dsvk_rope(t.cmd, &(dsvk_rope_params){.n = 1, .n_heads = 2, .head_dim = 64, .rope_dim = 32, .q_stride = 124});
    test_run_fails(&t, "rows 124 values apart hold 2 heads of 64");
    if (t.bench) {
        bench(&t, 1);
        bench(&t, 64);
    }
    return test_end(&t);
}
