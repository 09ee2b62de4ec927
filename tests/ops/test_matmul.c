/* matmul against plain loops. Edges: one row, 2 to 33 rows (below, at and above the 1, 4 and 8 rows that share a read), one
 * output, 16, 31, 33, 61, 69 outputs (tiles of 32 not filled), 32 to 416 inputs (words and 128-blocks not filled, splits
 * without work), every code of every format under every kind of scale, groups, swiglu with and without limit, strides with
 * gaps, and the matrices of Flash and Pro at their real widths.
 * Tolerance: a sum of n products in f32, in pieces of at most a few dozen terms, is off by a few units of 2^-24 of the sum of
 * their magnitudes; 1e-6 is 17 units. Between batch sizes and places in a batch nothing may differ at all. */
#include "harness.h"

#define TOLERANCE 1e-6f
#define GAP 4 /* values behind each output row that must stay poisoned */

static const char *const type_names[] = { "f32", "bf16", "fp8", "fp4" };

typedef struct job {
    dsvk_matmul_params params;
    const ref_matrix *m;
    const float *x;
    uint32_t columns, x_stride, groups;
} job;

static float *run(test *t, const job *j, uint32_t first, uint32_t n) {
    dsvk_matmul_params p = j->params;
    const dsvk_buffer out = test_output(t, (size_t)n * p.out_stride * 4);
    p.x += (uint64_t)first * j->x_stride * 4;
    p.out = out.addr;
    p.n = n;
    dsvk_matmul(t->cmd, &p);
    return test_run(t) ? test_download(t, &out) : NULL;
}

/* Want and magnitude of row r, column c. */
static void expect(const job *j, uint32_t r, uint32_t c, float *want, float *magnitude) {
    const uint32_t group_rows = j->params.group_rows;
    const uint32_t group = group_rows > 0 ? c / group_rows : 0;
    const float *x = j->x + (size_t)r * j->x_stride + (size_t)group * j->m->n_in;
    double m;
    *want = (float)(j->params.swiglu ? ref_swiglu_dot(j->m, c, x, j->params.limit, &m) : ref_dot(j->m, c, x, &m));
    *magnitude = (float)m;
}

/* Compares rows [0, n) of `got`, at most `most` columns of each spread over the row. */
static void judge(test *t, const job *j, const float *got, uint32_t n, uint32_t most) {
    const uint32_t columns = j->columns < most ? j->columns : most;
    float *g = test_alloc(t, (size_t)n * columns * 4), *w = test_alloc(t, (size_t)n * columns * 4),
          *m = test_alloc(t, (size_t)n * columns * 4);
    bool gap_kept = true;
    if (got == NULL)
        return;
    for (uint32_t r = 0; r < n; r++) {
        for (uint32_t i = 0; i < columns; i++) {
            const uint32_t c = (uint32_t)((uint64_t)i * j->columns / columns);
            const size_t at = (size_t)r * columns + i;
            g[at] = got[(size_t)r * j->params.out_stride + c];
            expect(j, r, c, &w[at], &m[at]);
        }
        for (uint32_t c = j->columns; c < j->params.out_stride; c++)
            gap_kept = gap_kept && isnan(got[(size_t)r * j->params.out_stride + c]);
    }
    test_compare_sums(t, "product", g, w, m, (size_t)n * columns, TOLERANCE);
    test_check(t, gap_kept, "written between the rows of the output");
    if (columns >= 64)
        test_check(t, test_cosine(g, w, (size_t)n * columns) > 1 - 1e-9, "cosine");
}

static job make_job(test *t, const ref_matrix *m, uint32_t n, uint32_t group_rows, bool swiglu, float limit) {
    job j = { .m = m, .columns = swiglu ? m->n_out / 2 : m->n_out };
    j.groups = group_rows > 0 ? (m->n_out + group_rows - 1) / group_rows : 1;
    j.x_stride = j.groups * m->n_in + 8;
    j.x = test_normals(t, (size_t)n * j.x_stride, 1.0f);
    j.params = (dsvk_matmul_params){ .w = test_upload_matrix(t, m),
                                     .x = test_upload(t, j.x, (size_t)n * j.x_stride * 4).addr,
                                     .x_stride = j.x_stride,
                                     .out_stride = j.columns + GAP,
                                     .group_rows = group_rows,
                                     .swiglu = swiglu,
                                     .limit = limit };
    return j;
}

static void same_rows(test *t, const job *j, const float *all, uint32_t first, uint32_t n) {
    const float *part = run(t, j, first, n);
    const uint32_t stride = j->params.out_stride;
    bool same = part != NULL;
    for (uint32_t r = 0; same && r < n; r++)
        same = memcmp(part + (size_t)r * stride, all + (size_t)(first + r) * stride, j->columns * 4) == 0;
    test_check(t, same, "rows %u to %u alone differ from the same rows among 33", first, first + n - 1);
}

static void small_shapes(test *t) {
    static const uint32_t outs[] = { 1, 16, 31, 33, 61, 69, 96 }, ins[] = { 32, 96, 160, 416 };
    static const uint32_t counts[] = { 1, 2, 3, 4, 5, 8, 9 };
    for (uint32_t type = 0; type < 4; type++)
        for (uint32_t o = 0; o < DSVK_COUNT(outs); o++)
            for (uint32_t i = 0; i < DSVK_COUNT(ins); i++) {
                test_case(t, "%s n=33 n_out=%u n_in=%u", type_names[type], outs[o], ins[i]);
                const ref_matrix m = test_matrix(t, type, outs[o], ins[i], 0.1f);
                const job j = make_job(t, &m, 33, 0, false, 0);
                const float *all = run(t, &j, 0, 33);
                judge(t, &j, all, 33, outs[o]);
                for (uint32_t c = 0; all != NULL && c < DSVK_COUNT(counts); c++)
                    same_rows(t, &j, all, test_below(t, 33 - counts[c]), counts[c]);
            }
}

static void swiglu_and_groups(test *t) {
    static const float limits[] = { 0, 10, 0.25f };
    for (uint32_t type = 0; type < 4; type++)
        for (uint32_t l = 0; l < DSVK_COUNT(limits); l++) {
            test_case(t, "%s swiglu n=33 n_out=96 n_in=160 limit=%g", type_names[type], limits[l]);
            const ref_matrix m = test_matrix(t, type, 96, 160, 0.3f);
            const job j = make_job(t, &m, 33, 0, true, limits[l]);
            const float *all = run(t, &j, 0, 33);
            judge(t, &j, all, 33, 48);
            same_rows(t, &j, all, 32, 1);
            same_rows(t, &j, all, 3, 3);
        }
    for (uint32_t rows = 32; rows <= 64; rows += 32) {
        test_case(t, "fp8 groups n=9 n_out=192 n_in=96 group_rows=%u", rows);
        const ref_matrix m = test_matrix(t, DSVK_TYPE_FP8, 192, 96, 0.1f);
        const job j = make_job(t, &m, 9, rows, false, 0);
        judge(t, &j, run(t, &j, 0, 9), 9, 192);
    }
}

/* Row t of x is 1 at input t: output [t][o] is weight [o][t], exactly. */
static void expect_weights(test *t, const ref_matrix *m, float tiny) {
    float *x = test_alloc(t, (size_t)m->n_in * m->n_in * 4), *want = test_alloc(t, (size_t)m->n_in * m->n_out * 4);
    for (uint32_t i = 0; i < m->n_in; i++) {
        x[(size_t)i * m->n_in + i] = 1;
        for (uint32_t o = 0; o < m->n_out; o++)
            want[(size_t)i * m->n_out + o] = ref_weight(m, o, i);
    }
    const dsvk_buffer out = test_output(t, (size_t)m->n_in * m->n_out * 4);
    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = test_upload_matrix(t, m),
                                               .x = test_upload(t, x, (size_t)m->n_in * m->n_in * 4).addr,
                                               .out = out.addr,
                                               .n = m->n_in,
                                               .x_stride = m->n_in,
                                               .out_stride = m->n_out });
    if (test_run(t))
        test_compare(t, "decoded weight", test_download(t, &out), want, (size_t)m->n_in * m->n_out, 0, tiny);
}

static void every_code(test *t) {
    static const float scales[] = { 1, 0x1p-9f, 0x1p-20f, 1.5f, 3.1e-5f, 448, 0x1p100f, 0x1p-100f };
    uint8_t codes[256 * 256], bytes[256 * 8];
    float blocks[16 * 2];
    test_case(t, "%s: all e4m3 codes at every place of a word, 8 scales", t->variant);
    for (uint32_t o = 0; o < 256; o++)
        for (uint32_t i = 0; i < 256; i++) {
            const uint8_t code = (uint8_t)(i + o * 5);
            codes[o * 256 + i] = (code & 0x7f) == 0x7f ? 0 : code; /* the loader refuses NaN codes */
        }
    for (uint32_t b = 0; b < 32; b++)
        blocks[b] = scales[b % 8];
    expect_weights(t, &(ref_matrix){ DSVK_TYPE_FP8, 256, 256, codes, blocks }, 0);

    /* The kernels for many rows scale a weight before they multiply it, so there it must itself be a float32; and matrix units
     * keep those within 2^35 of the largest of their row, which here has eight scales next to each other. */
    const uint32_t scales_used = dsvk_device_matmul(t->device).kind == DSVK_MATMUL_FEW ? 254 : 248;
    test_case(t, "%s: all e2m1 codes at every place of a word, normal ue8m0 scales", t->variant);
    for (uint32_t i = 0; i < 256 * 128; i++)
        codes[i] = (uint8_t)(i * 7 + i / 128);
    for (uint32_t i = 0; i < 256 * 8; i++)
        bytes[i] = (uint8_t)(i % scales_used + 1);
    /* A device may flush products below 2^-126 to zero: codes 0.5 .. 6 under scales 1 and 2. */
    expect_weights(t, &(ref_matrix){ DSVK_TYPE_FP4, 256, 256, codes, bytes }, 0x1p-126f);
    test_case(t, "%s: ue8m0 scales 0, 255", t->variant);
    for (uint32_t i = 0; i < 256 * 8; i++)
        bytes[i] = i / 8 == 7 ? 255 : i / 8 % 2 ? 127 : 0;
    float *want_all = test_alloc(t, 4);
    *want_all = NAN;
    ref_matrix m = { DSVK_TYPE_FP4, 7, 256, codes, bytes };
    expect_weights(t, &m, 6 * 0x1p-127f);
    m.n_out = 8;
    float x[256] = { 1 };
    const dsvk_buffer out = test_output(t, 8 * 4);
    dsvk_matmul(t->cmd, &(dsvk_matmul_params){ .w = test_upload_matrix(t, &m), .x = test_upload(t, x, sizeof x).addr,
                                               .out = out.addr, .n = 1, .x_stride = 256, .out_stride = 8 });
    if (test_run(t))
        test_compare(t, "NaN scale", (float *)test_download(t, &out) + 7, want_all, 1, 0, 0);
}

static void record(dsvk_cmd *cmd, void *context) { dsvk_matmul(cmd, context); }

static void real_widths(test *t) {
    static const struct {
        const char *name;
        dsvk_weight_type type;
        uint32_t n_out, n_in, group_rows, n;
        bool swiglu;
    } shapes[] = {
        { "Flash wq_a+wkv", DSVK_TYPE_FP8, 1536, 4096, 0, 9, false },
        { "Flash wq_b+indexer", DSVK_TYPE_FP8, 40960, 1024, 0, 1, false },
        { "Flash wo_a", DSVK_TYPE_FP8, 8192, 4096, 1024, 2, false },
        { "Flash wo_b", DSVK_TYPE_FP8, 4096, 8192, 0, 1, false },
        { "Flash compressor", DSVK_TYPE_BF16, 2048, 4096, 0, 3, false },
        { "Flash gate", DSVK_TYPE_BF16, 256, 4096, 0, 33, false },
        { "Flash gate f32", DSVK_TYPE_F32, 256, 4096, 0, 1, false },
        { "Flash shared up", DSVK_TYPE_FP8, 4096, 4096, 0, 4, true },
        { "Flash shared down", DSVK_TYPE_FP8, 4096, 2048, 0, 1, false },
        { "Flash head, 2048 rows", DSVK_TYPE_BF16, 2048, 4096, 0, 1, false },
        { "Pro wq_a+wkv", DSVK_TYPE_FP8, 2048, 7168, 0, 2, false },
        { "Pro wo_a", DSVK_TYPE_FP8, 16384, 4096, 1024, 1, false },
        { "Pro wo_b", DSVK_TYPE_FP8, 7168, 16384, 0, 1, false },
        { "Pro gate", DSVK_TYPE_BF16, 384, 7168, 0, 8, false },
        { "Pro shared up", DSVK_TYPE_FP8, 6144, 7168, 0, 1, true },
        { "Pro head, 1024 rows", DSVK_TYPE_BF16, 1024, 7168, 0, 1, false },
        { "Flash expert up as a matmul", DSVK_TYPE_FP4, 4096, 4096, 0, 1, true },
    };
    for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++) {
        test_case(t, "%s %s [%u, %u] n=%u", shapes[s].name, type_names[shapes[s].type], shapes[s].n_out, shapes[s].n_in,
                  shapes[s].n);
        const ref_matrix m = test_matrix(t, shapes[s].type, shapes[s].n_out, shapes[s].n_in, 0.02f);
        const job j = make_job(t, &m, shapes[s].n, shapes[s].group_rows, shapes[s].swiglu, 10);
        const float *all = run(t, &j, 0, shapes[s].n);
        judge(t, &j, all, shapes[s].n, 96);
        if (t->bench) {
            dsvk_matmul_params p = j.params;
            p.n = shapes[s].n;
            p.out = test_output(t, (size_t)p.n * p.out_stride * 4).addr;
            test_bench(t, record, &p);
        }
    }
}

/* Steps of many rows, by every variant this device has; of the further shapes of matrix units a third, as a software driver
 * needs seconds to compile one. */
static void chunks(test *t) {
    static const struct {
        dsvk_weight_type type;
        uint32_t n_out, n_in, group_rows, n;
        bool swiglu;
    } shapes[] = {
        { DSVK_TYPE_F32, 33, 96, 0, 64, false },   { DSVK_TYPE_F32, 64, 32, 0, 65, false },
        { DSVK_TYPE_BF16, 64, 416, 0, 64, false }, { DSVK_TYPE_BF16, 31, 32, 0, 127, false },
        { DSVK_TYPE_FP8, 69, 416, 0, 65, false },  { DSVK_TYPE_FP8, 128, 160, 0, 130, false },
        { DSVK_TYPE_FP8, 192, 96, 32, 64, false }, { DSVK_TYPE_FP8, 192, 96, 64, 71, false },
        { DSVK_TYPE_FP8, 192, 160, 0, 64, true },  { DSVK_TYPE_FP4, 61, 32, 0, 64, false },
        { DSVK_TYPE_FP4, 256, 416, 0, 129, false }, { DSVK_TYPE_FP4, 96, 160, 0, 66, true },
        { DSVK_TYPE_BF16, 256, 4096, 0, 64, false }, { DSVK_TYPE_FP8, 1024, 4096, 512, 64, false },
        { DSVK_TYPE_FP4, 512, 4096, 0, 96, true }, { DSVK_TYPE_F32, 256, 2048, 0, 64, false },
    };
    for (uint32_t v = 0; test_matmul_variant(t, v); v++)
        for (uint32_t s = 0; s < DSVK_COUNT(shapes); s++) {
            if (v > DSVK_MATMUL_COOPMAT && s % 3 != v % 3)
                continue;
            test_case(t, "%s: %s [%u, %u] n=%u groups of %u%s", t->variant, type_names[shapes[s].type], shapes[s].n_out,
                      shapes[s].n_in, shapes[s].n, shapes[s].group_rows, shapes[s].swiglu ? " swiglu" : "");
            const ref_matrix m = test_matrix(t, shapes[s].type, shapes[s].n_out, shapes[s].n_in, 0.1f);
            const job j = make_job(t, &m, shapes[s].n, shapes[s].group_rows, shapes[s].swiglu, 10);
            judge(t, &j, run(t, &j, 0, shapes[s].n), shapes[s].n, 96);
        }
}

/* What prefill's widths cost, by every variant. */
static void bench_chunks(test *t) {
    static const uint32_t counts[] = { 64, 256, 512 };
    for (uint32_t type = DSVK_TYPE_BF16; t->bench && type <= DSVK_TYPE_FP4; type++)
        for (uint32_t c = 0; c < DSVK_COUNT(counts); c++)
            for (uint32_t v = 0; test_matmul_variant(t, v); v++) {
                test_case(t, "%s: %s [2048, 4096] n=%u", t->variant, type_names[type], counts[c]);
                const ref_matrix m = test_matrix(t, type, 2048, 4096, 0.02f);
                const job j = make_job(t, &m, counts[c], 0, false, 0);
                dsvk_matmul_params p = j.params;
                p.n = counts[c];
                p.out = test_output(t, (size_t)p.n * p.out_stride * 4).addr;
                test_bench(t, record, &p);
            }
}

static void wrong_shapes(test *t) {
    test_case(t, "wrong shapes");
    const ref_matrix m = test_matrix(t, DSVK_TYPE_F32, 48, 32, 1);
    const dsvk_matmul_params good = { .w = test_upload_matrix(t, &m), .n = 1, .x_stride = 32, .out_stride = 48 };
    dsvk_matmul_params p = good;
    p.w.n_in = 33;
    dsvk_matmul(t->cmd, &p);
    test_run_fails(t, "weight [48, 33]");
    p = good;
    p.x_stride = 30;
    dsvk_matmul(t->cmd, &p);
    test_run_fails(t, "x stride 30");
    p = good;
    p.out_stride = 47;
    dsvk_matmul(t->cmd, &p);
    test_run_fails(t, "out stride 47 (at least 48)");
    p = good;
    p.group_rows = 24;
    dsvk_matmul(t->cmd, &p);
    test_run_fails(t, "groups of 24 rows");
    p = good;
    p.swiglu = true;
    dsvk_matmul(t->cmd, &p);
    test_run_fails(t, "swiglu over 48 rows");
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "matmul", argc, argv);
    for (int i = 0; i < 2; i++) { /* few rows, in both layouts of weights */
        if (i == 1 && !test_matmul_columns(&t))
            break;
        small_shapes(&t);
        swiglu_and_groups(&t);
    }
    for (uint32_t v = 0; test_matmul_variant(&t, v); v++)
        every_code(&t);
    real_widths(&t);
    chunks(&t);
    bench_chunks(&t);
    wrong_shapes(&t);
    return test_end(&t);
}
