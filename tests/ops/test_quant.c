/* quant_row and quant_index against ref_quant.c, and the golden values of spec Appendix C.
 * quant_row is tested twice: with an RMSNorm that is exactly the identity (eps 2^80 drowns the squares, weight 2^40),
 * where every stored byte has to equal the reference's, ties included; and with an ordinary one, where a code may
 * differ only if the value before rounding is within the norm's rounding error of the boundary between the two.
 * quant_index has no norm: its values are exact always.
 * Edges: 1, 2, 5, 33 rows; stores with spare rows; blocks of zeros, of ties, of powers of two times 448 and 6, of the
 * smallest and of large values; positions at 0, around a RoPE page border and near a million; native and f32. */
#include "harness_rows.h"

typedef struct shape {
    uint32_t head_dim, rope_dim;
} shape;
static const shape SHAPES[] = {{80, 16}, {128, 64}, {384, 64}, {512, 64}};
static const test_span SPANS[] = {{0, 1}, {4095, 1}, {4094, 3}, {1000003, 28}};
static const float IDENTITY_EPS = 0x1p80f, IDENTITY_WEIGHT = 0x1p40f;

static float *download(test *t, const dsvk_buffer *buffer, size_t bytes) {
    dsvk_error err;
    float *data = test_alloc(t, bytes);
    test_check(t, dsvk_buffer_read(t->device, buffer, 0, data, bytes, &err) == DSVK_OK, "read");
    return data;
}

/* Values of one block of every sort that quantisers meet; `top` is the format's largest value. */
static void fill_block(test *t, float *x, uint32_t n, float top) {
    const float unit = ldexpf(1.0f, (int)test_below(t, 20) - 12);
    const uint32_t sort = test_below(t, 6);
    for (uint32_t i = 0; i < n; i++) {
        if (sort == 0)
            x[i] = 0;
        else if (sort == 1) /* multiples of half a step: ties everywhere */
            x[i] = unit * (float)((int)test_below(t, 57) - 28) * 0.25f;
        else if (sort == 2) /* just at a power of two times the largest value: the scale's own boundary */
            x[i] = i == n / 2 ? unit * top : unit * test_uniform(t);
        else if (sort == 3) /* below the floor of amax */
            x[i] = 1e-6f * test_normal(t);
        else
            x[i] = unit * test_normal(t);
    }
}

/* ---- quant_row ---- */

/* Rows of `kv` through the kernel into a store of `capacity` rows; the store read back, or NULL. */
static void *run_rows(test *t, const dsvk_row_format *f, const test_step *step, uint32_t first, uint32_t n,
                      const float *kv, uint32_t stride, const float *weight, float eps, uint32_t capacity) {
    const size_t bytes = (size_t)capacity * (dsvk_row_code_bytes(f) + dsvk_row_scale_bytes(f));
    const dsvk_buffer store = test_output(t, bytes);
    dsvk_quant_row(
        t->cmd, &(dsvk_quant_row_params){.rows = test_upload(t, step->rows + first, n * sizeof *step->rows).addr,
                                         .rope = test_rope_table_rows(t, f->rope_dim, step),
                                         .kv = test_upload(t, kv + (size_t)first * stride, (size_t)n * stride * 4).addr,
                                         .weight = test_upload(t, weight, f->head_dim * 4).addr,
                                         .store = store.addr,
                                         .format = *f,
                                         .n = n,
                                         .kv_stride = stride,
                                         .capacity = capacity,
                                         .eps = eps});
    return test_run(t) ? test_download(t, &store) : NULL;
}

static void check_exact_rows(test *t, const dsvk_row_format *f, uint32_t n_spans, uint32_t spare) {
    test_case(t, "exact native=%d head_dim=%u rope_dim=%u spans=%u spare=%u", f->native, f->head_dim, f->rope_dim,
              n_spans, spare);
    const test_step step = test_make_step(t, SPANS, n_spans);
    const uint32_t n = step.n, stride = f->head_dim + 4, capacity = n + spare, plain = f->head_dim - f->rope_dim;
    const size_t bytes = (size_t)capacity * (dsvk_row_code_bytes(f) + dsvk_row_scale_bytes(f));
    float *kv = test_alloc(t, (size_t)n * stride * 4), *weight = test_alloc(t, f->head_dim * 4);
    float *line = test_alloc(t, f->head_dim * 4);
    uint8_t *want = test_alloc(t, bytes);
    memset(want, 0xff, bytes); /* rows that are not of this step stay poisoned */
    for (uint32_t i = 0; i < f->head_dim; i++)
        weight[i] = IDENTITY_WEIGHT;
    for (uint32_t r = 0; r < n; r++) {
        float *x = kv + (size_t)r * stride;
        for (uint32_t b = 0; b < plain / 64; b++)
            fill_block(t, x + 64 * b, 64, 448);
        for (uint32_t i = plain; i < f->head_dim; i++)
            x[i] = test_normal(t);
        memcpy(line, x, f->head_dim * 4);
        ref_rope(line, f->head_dim, f->rope_dim, step.rows[r].position);
        ref_store_row(f, line, want, capacity, r);
    }
    const uint8_t *got = run_rows(t, f, &step, 0, n, kv, stride, weight, IDENTITY_EPS, capacity);
    if (got != NULL)
        test_compare_words(t, "store", got, want, bytes / 4);
}

/* The sum of squares to 10 roundings and 1 / sqrt to 3 units: 1e-6 of the value, and of the turned pair (<= 4 of a line
 * whose values are about 1). */
static void check_ordinary_rows(test *t, const dsvk_row_format *f, uint32_t n_spans) {
    test_case(t, "ordinary native=%d head_dim=%u rope_dim=%u spans=%u", f->native, f->head_dim, f->rope_dim, n_spans);
    const test_step step = test_make_step(t, SPANS, n_spans);
    const uint32_t n = step.n, dim = f->head_dim;
    float *kv = test_normals(t, (size_t)n * dim, 3.0f), *weight = test_normals(t, dim, 1.0f);
    double *line = test_alloc(t, dim * sizeof *line), *slack = test_alloc(t, dim * sizeof *slack);
    const uint8_t *got = run_rows(t, f, &step, 0, n, kv, dim, weight, 1e-6f, n);
    if (got == NULL)
        return;
    for (uint32_t r = 0; r < n; r++) {
        double squares = 0;
        for (uint32_t i = 0; i < dim; i++)
            squares += (double)kv[r * dim + i] * kv[r * dim + i];
        for (uint32_t i = 0; i < dim; i++) {
            line[i] = weight[i] * (kv[r * dim + i] / sqrt(squares / dim + 1e-6));
            slack[i] = i < dim - f->rope_dim ? 1e-6 * fabs(line[i]) : 4e-6;
        }
        ref_rope_wide(line, dim, f->rope_dim, step.rows[r].position);
        test_compare_row(t, "row", f, got, n, r, line, slack);
    }
    /* The last row alone gives the same bytes. */
    const uint8_t *one = run_rows(t, f, &step, n - 1, 1, kv, dim, weight, 1e-6f, 1);
    const uint32_t codes = dsvk_row_code_bytes(f), scales = dsvk_row_scale_bytes(f);
    if (one != NULL) {
        test_compare_words(t, "last row alone", one, got + (size_t)(n - 1) * codes, codes / 4);
        test_compare_words(t, "its scales", one + codes, got + (size_t)n * codes + (n - 1) * scales, scales / 4);
    }
}

static void check_golden_row(test *t) {
    static const float X[8] = {1, -0.30078125f, 0.010009765625f, 448, 3.140625f, -100, 0.000499725f, 2.5f};
    static const float WANT[8] = {1, -0.3125f, 0.009765625f, 448, 3.25f, -96, 0, 2.5f};
    const dsvk_row_format f = {.native = true, .head_dim = 128, .rope_dim = 64};
    const test_span span = {0, 1};
    test_case(t, "FQ8 of Appendix C");
    const test_step step = test_make_step(t, &span, 1);
    float x[128] = {0}, weight[128], line[128];
    memcpy(x, X, sizeof X);
    for (int i = 0; i < 128; i++)
        weight[i] = IDENTITY_WEIGHT;
    const uint8_t *got = run_rows(t, &f, &step, 0, 1, x, 128, weight, IDENTITY_EPS, 1);
    if (got == NULL)
        return;
    ref_read_row(got, 1, 0, &f, line);
    test_compare(t, "values", line, WANT, 8, 0, 0);
    test_check(t, got[dsvk_row_code_bytes(&f)] == 127, "scale byte %u, expected 127 (1)", got[dsvk_row_code_bytes(&f)]);
}

/* ---- quant_index ---- */

/* Byte queries (ops.h) become the values they stand for. */
static void unpack_queries(const dsvk_row_format *f, uint32_t n_heads, float *row) {
    float values[512];
    for (uint32_t h = 0; h < n_heads; h++, row += f->index_dim) {
        for (uint32_t d = 0; d < f->index_dim; d++)
            values[d] = (float)((const int8_t *)&row[d / 8 * 2 + d % 2])[d % 8 / 2] * row[f->index_dim / 4 + d / 32];
        memcpy(row, values, f->index_dim * sizeof *row);
    }
}

static void check_queries(test *t, const dsvk_row_format *f, uint32_t n_heads, uint32_t n_spans) {
    test_case(t, "queries native=%d%s heads=%u index_dim=%u rope_dim=%u spans=%u", f->native, f->byte_queries ? " bytes" : "", n_heads,
              f->index_dim, f->rope_dim, n_spans);
    const test_step step = test_make_step(t, SPANS, n_spans);
    const uint32_t n = step.n, width = n_heads * f->index_dim, stride = width + 4;
    float *iq = test_alloc(t, (size_t)n * stride * 4), *want = test_alloc(t, (size_t)n * stride * 4);
    for (uint32_t i = 0; i < n * stride; i++)
        iq[i] = test_normal(t); /* the padding has to stay */
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t h = 0; h < n_heads; h++)
            fill_block(t, iq + (size_t)r * stride + h * f->index_dim, f->index_dim, 6);
    memcpy(want, iq, (size_t)n * stride * 4);
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t h = 0; h < n_heads; h++)
            ref_quant_index(f, want + (size_t)r * stride + h * f->index_dim, step.rows[r].position);

    const dsvk_buffer buffer = test_upload(t, iq, (size_t)n * stride * 4);
    const dsvk_buffer alone = test_upload(t, iq + (size_t)(n - 1) * stride, stride * 4);
    dsvk_quant_index_params p = {.rows = test_upload(t, step.rows, n * sizeof *step.rows).addr,
                                 .rope = test_rope_table_rows(t, f->rope_dim, &step),
                                 .iq = buffer.addr,
                                 .format = *f,
                                 .n = n,
                                 .n_heads = n_heads,
                                 .iq_stride = stride};
    dsvk_quant_index(t->cmd, &p);
    p.rows += (n - 1) * sizeof *step.rows;
    p.iq = alone.addr;
    p.n = 1;
    dsvk_quant_index(t->cmd, &p);
    if (!test_run(t))
        return;
    float *got = download(t, &buffer, (size_t)n * stride * 4), *last = download(t, &alone, stride * 4);
    if (f->byte_queries) {
        for (uint32_t r = 0; r < n; r++)
            unpack_queries(f, n_heads, got + (size_t)r * stride);
        unpack_queries(f, n_heads, last);
    }
    test_compare(t, "queries", got, want, (size_t)n * stride, 0, 0);
    test_compare(t, "last row alone", last, want + (size_t)(n - 1) * stride, stride, 0, 0);
}

/* One head at position 0, where RoPE turns by nothing. */
static const float *run_head(test *t, bool native, uint32_t dim, float *x) {
    const test_span span = {0, 1};
    const test_step step = test_make_step(t, &span, 1);
    const dsvk_buffer buffer = test_upload(t, x, dim * 4);
    dsvk_quant_index(t->cmd, &(dsvk_quant_index_params){.rows = test_upload(t, step.rows, sizeof *step.rows).addr,
                                                        .rope = test_rope_table_rows(t, 32, &step),
                                                        .iq = buffer.addr,
                                                        .format = {.native = native, .rope_dim = 32, .index_dim = dim},
                                                        .n = 1,
                                                        .n_heads = 1,
                                                        .iq_stride = dim});
    return test_run(t) ? download(t, &buffer, dim * 4) : NULL;
}

static void check_golden_index(test *t) {
    static const float X[10] = {0.10009766f, 0.30078125f, 0.5f, 0.69921875f, 0.8984375f,
                                1.25f,       1.75f,       2.5f, -3.5f,       5.5f};
    static const float WANT[10] = {0, 0.5f, 0.5f, 0.5f, 1, 1, 2, 2, -4, 6};
    static const uint32_t AT[7] = {0, 1, 2, 3, 4, 8, 64};
    static const float HADAMARD[7] = {5.6126599f, -0.0441942f, -0.0883883f, 0, -0.1767767f, -0.3535534f, -2.8284271f};
    float x[128] = {0}, values[7];

    test_case(t, "FQ4 of Appendix C"); /* the transform of 64 values is exact, so it can be undone beforehand */
    memcpy(x, X, sizeof X);
    ref_hadamard(x, 64);
    const float *got = run_head(t, true, 64, x);
    if (got != NULL)
        test_compare(t, "values", got, WANT, 10, 0, 0);

    test_case(t, "Hadamard of Appendix C");
    for (int i = 0; i < 128; i++)
        x[i] = (float)i / 128.0f;
    got = run_head(t, false, 128, x);
    for (int i = 0; got != NULL && i < 7; i++)
        values[i] = got[AT[i]];
    if (got != NULL)
        test_compare(t, "values", values, HADAMARD, 7, 1e-6f, 5e-8f);
}

static void check_bad_shapes(test *t) {
    test_case(t, "bad shapes");
    dsvk_quant_row(t->cmd, &(dsvk_quant_row_params){.n = 1, .format = {true, 576, 64, 0}});
    test_run_fails(t, "rows of 576 values, 64 of them rotated");
    dsvk_quant_row(t->cmd, &(dsvk_quant_row_params){.n = 1, .format = {true, 96, 64, 0}});
    test_run_fails(t, "rows of 96 values");
    dsvk_quant_row(t->cmd,
                   &(dsvk_quant_row_params){.n = 3, .capacity = 2, .kv_stride = 128, .format = {true, 128, 64, 0}});
    test_run_fails(t, "3 rows into a store of 2");
    dsvk_quant_index(t->cmd, &(dsvk_quant_index_params){.n = 1, .n_heads = 1, .format = {true, 0, 32, 96}});
    test_run_fails(t, "index heads of 96 values");
    dsvk_quant_index(t->cmd,
                     &(dsvk_quant_index_params){.n = 1, .n_heads = 4, .iq_stride = 508, .format = {true, 0, 64, 128}});
    test_run_fails(t, "rows 508 values apart hold 4 heads of 128");
}

/* ---- speed ---- */

static void record_row(dsvk_cmd *cmd, void *params) {
    dsvk_quant_row(cmd, params);
}
static void record_index(dsvk_cmd *cmd, void *params) {
    dsvk_quant_index(cmd, params);
}

static void bench(test *t, uint32_t n) {
    const test_span span = {0, n};
    test_case(t, "n=%u, 512 values; 64 index heads of 128", n);
    const test_step step = test_make_step(t, &span, 1);
    dsvk_quant_row_params row = {.rows = test_upload(t, step.rows, n * sizeof *step.rows).addr,
                                 .rope = test_rope_table_rows(t, 64, &step),
                                 .kv = test_upload(t, test_normals(t, n * 512, 1), n * 512 * 4).addr,
                                 .weight = test_upload(t, test_normals(t, 512, 1), 512 * 4).addr,
                                 .store = test_output(t, n * 584).addr,
                                 .format = {true, 512, 64, 128},
                                 .n = n,
                                 .kv_stride = 512,
                                 .capacity = n,
                                 .eps = 1e-6f};
    dsvk_quant_index_params index = {.rows = row.rows,
                                     .rope = row.rope,
                                     .iq = test_upload(t, test_normals(t, n * 8192, 1), n * 8192 * 4).addr,
                                     .format = row.format,
                                     .n = n,
                                     .n_heads = 64,
                                     .iq_stride = 8192};
    test_bench(t, record_row, &row);
    test_bench(t, record_index, &index);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "quant", argc, argv);
    check_golden_row(&t);
    check_golden_index(&t);
    for (uint32_t i = 0; i < DSVK_COUNT(SHAPES); i++)
        for (uint32_t native = 0; native < 2; native++)
            for (uint32_t spans = 1; spans <= DSVK_COUNT(SPANS); spans++) { /* 1, 2, 5 and 33 rows */
                const dsvk_row_format f = {native, SHAPES[i].head_dim, SHAPES[i].rope_dim, 128};
                check_exact_rows(&t, &f, spans, spans % 2 * 3);
                check_ordinary_rows(&t, &f, spans);
            }
    for (uint32_t native = 0; native < 2; native++)
        for (uint32_t spans = 1; spans <= DSVK_COUNT(SPANS); spans++) {
            check_queries(&t, &(dsvk_row_format){native, 0, 32, 32}, 3, spans);
            check_queries(&t, &(dsvk_row_format){native, 0, 64, 128}, spans == 2 ? 5 : spans == 3 ? 16 : 1, spans);
            check_queries(&t, &(dsvk_row_format){native, 0, 64, 512}, 2, spans);
            if (native) {
                check_queries(&t, &(dsvk_row_format){true, 0, 32, 32, true}, 3, spans);
                check_queries(&t, &(dsvk_row_format){true, 0, 64, 128, true}, spans == 2 ? 5 : 16, spans);
                check_queries(&t, &(dsvk_row_format){true, 0, 64, 256, true}, 2, spans);
            }
        }
    check_queries(&t, &(dsvk_row_format){true, 0, 64, 128}, 64, 3); /* Flash and Pro */
    check_bad_shapes(&t);
    if (t.bench) {
        bench(&t, 1);
        bench(&t, 512);
    }
    return test_end(&t);
}
