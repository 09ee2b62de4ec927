/* hyper_conn_mix and hyper_conn_pre against ref_hyper_conn_*, and the golden values of spec Appendix C.
 * Edges: widths below a chunk of 256, equal to it, with a short tail chunk; row counts around the 4 rows that share a
 * reading of fn; no post, one part of y, seven (six experts and the shared one); coefficients of one row used for all;
 * in place and not; the head's form; rows selected, out of order, twice, and out of range. Flash and Pro: 4096, 7168.
 */
#include "harness.h"

static const uint32_t ROWS[] = {1, 2, 5, 33};
static const uint32_t DIMS[] = {32, 96, 160, 256, 288, 4096, 7168};

/* One sum of |terms|: n_parts + 5 roundings of 2^-24 in HC-post. */
static const float POST_TOLERANCE = 8e-7f;
/* 4 products, their sum and up to 64 + 6 additions over subgroups, of which rounding errors mostly cancel. */
static const float PARTIAL_TOLERANCE = 1e-6f;
/* Sigmoid and softmax of logits up to 8 known to 2^-23 each; 39 normalisations that do not amplify errors. */
static const float COEFFICIENT_TOLERANCE = 5e-6f;
/* pre known to 2e-6, the norm's factor to 1e-6, a sum of four. */
static const float OUT_TOLERANCE = 5e-6f;

static float *download(test *t, const dsvk_buffer *buffer, size_t bytes) {
    dsvk_error err;
    float *data = test_alloc(t, bytes);
    test_check(t, dsvk_buffer_read(t->device, buffer, 0, data, bytes, &err) == DSVK_OK, "read");
    return data;
}

/* ---- mix ---- */

/* Row `row` of partials as hyper_conn_mix.comp writes its order down, bit for bit: a driver's choice of subgroup size for
 * one variant or the other must not show. A chunk is 64 invocations of 4 values. */
static void sums_in_order(const float *x, const float *fn, uint32_t dim, uint32_t n_mix, float *partials) {
    for (uint32_t first = 0; first < dim; first += DSVK_HC_CHUNK, partials += n_mix + 1)
        for (uint32_t m = 0; m <= n_mix; m++) {
            const float *f = m < n_mix ? fn + (size_t)m * 4 * dim : x;
            float lane[64] = {0}, total = 0;
            for (uint32_t l = 0; l < 64 && first + 4 * l < dim; l++) {
                float sum[4];
                for (uint32_t i = 0; i < 4; i++) {
                    const size_t d = first + 4 * l + i;
                    sum[i] = f[d] * x[d];
                    for (uint32_t k = 1; k < 4; k++)
                        sum[i] += f[(size_t)k * dim + d] * x[(size_t)k * dim + d];
                }
                lane[l] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
            }
            for (uint32_t l = 0; l < 64; l += 8) {
                const float tile = ((lane[l] + lane[l + 1]) + (lane[l + 2] + lane[l + 3])) +
                                   ((lane[l + 4] + lane[l + 5]) + (lane[l + 6] + lane[l + 7]));
                total = l == 0 ? tile : total + tile;
            }
            partials[m] = total;
        }
}

typedef struct mix_case {
    uint32_t n, dim, n_parts, n_mix; /* n_parts 0: without post */
    bool same, in_place;
} mix_case;

static void check_mix(test *t, const mix_case *c) {
    test_case(t, "mix n=%u dim=%u parts=%u mixes=%u same=%d in_place=%d", c->n, c->dim, c->n_parts, c->n_mix, c->same,
              c->in_place);
    const uint32_t n = c->n, dim = c->dim, chunks = (uint32_t)dsvk_ceil_div(dim, DSVK_HC_CHUNK), sums = c->n_mix + 1;
    const size_t x_row = 4 * (size_t)dim, y_row = (size_t)c->n_parts * dim, p_row = (size_t)chunks * sums;
    float *x = test_normals(t, n * x_row, 1.0f), *fn = test_normals(t, c->n_mix * x_row, 0.02f);
    float *y = test_normals(t, n * y_row, 0.5f), *post = test_normals(t, n * 4, 1.0f),
          *comb = test_normals(t, n * 16, 0.5f);

    const dsvk_buffer x_in = test_upload(t, x, n * x_row * 4), x_out = test_output(t, n * x_row * 4);
    const dsvk_buffer partials = test_output(t, n * p_row * 4);
    const dsvk_buffer x_one = test_output(t, x_row * 4), partials_one = test_output(t, p_row * 4);
    dsvk_hyper_conn_mix_params p = {.x_in = x_in.addr,
                                    .fn = test_upload(t, fn, c->n_mix * x_row * 4).addr,
                                    .partials = partials.addr,
                                    .n = n,
                                    .dim = dim,
                                    .n_parts = c->n_parts,
                                    .n_mix = c->n_mix,
                                    .same_coefficients = c->same};
    if (c->n_parts > 0) {
        p.y = test_upload(t, y, n * y_row * 4).addr;
        p.post = test_upload(t, post, n * 16).addr;
        p.comb = test_upload(t, comb, n * 64).addr;
        p.x_out = c->in_place ? x_in.addr : x_out.addr;
    }
    dsvk_hyper_conn_mix_params one =
        p; /* the last row alone, in the variant of a single row; before x_in is overwritten */
    one.n = 1;
    one.x_in += (n - 1) * x_row * 4;
    one.partials = partials_one.addr;
    if (c->n_parts > 0) {
        one.y += (n - 1) * y_row * 4;
        one.post += c->same ? 0 : (n - 1) * 16;
        one.comb += c->same ? 0 : (n - 1) * 64;
        one.x_out = x_one.addr;
    }
    dsvk_hyper_conn_mix(t->cmd, &one);
    dsvk_barrier(t->cmd);
    dsvk_hyper_conn_mix(t->cmd, &p);
    if (!test_run(t))
        return;

    float *got = x, *want = test_alloc(t, n * x_row * 4), *magnitude = test_alloc(t, n * x_row * 4);
    memcpy(want, x, n * x_row * 4);
    if (c->n_parts > 0) {
        got = c->in_place ? download(t, &x_in, n * x_row * 4) : test_download(t, &x_out);
        for (uint32_t r = 0; r < n; r++)
            ref_hyper_conn_post(want + r * x_row, y + r * y_row, c->n_parts, post + (c->same ? 0 : 4 * r),
                                comb + (c->same ? 0 : 16 * r), dim, magnitude + r * x_row);
        test_compare_sums(t, "x_out", got, want, magnitude, n * x_row, POST_TOLERANCE);
        test_compare_words(t, "last row of x_out alone", test_download(t, &x_one), got + (n - 1) * x_row, x_row);
    }
    float *sums_want = test_alloc(t, n * p_row * 4), *sums_magnitude = test_alloc(t, n * p_row * 4);
    for (uint32_t r = 0; r < n; r++) /* of the kernel's own x', judged above */
        ref_hyper_conn_mix(got + r * x_row, fn, dim, c->n_mix, sums_want + r * p_row, sums_magnitude + r * p_row);
    const float *sums_got = test_download(t, &partials);
    test_compare_sums(t, "partials", sums_got, sums_want, sums_magnitude, n * p_row, PARTIAL_TOLERANCE);
    float *ordered = test_alloc(t, p_row * 4);
    sums_in_order(got, fn, dim, c->n_mix, ordered);
    test_compare_words(t, "partials in the order written down", sums_got, ordered, p_row);
    test_compare_words(t, "last row of partials alone", test_download(t, &partials_one), sums_got + (n - 1) * p_row,
                       p_row);
}

static void check_mixes(test *t) {
    for (uint32_t d = 0; d < DSVK_COUNT(DIMS); d++)
        for (uint32_t i = 0; i < DSVK_COUNT(ROWS); i++) {
            const bool wide = DIMS[d] > 1000;
            if (wide && ROWS[i] > 5)
                continue; /* the reference takes a second there */
            check_mix(t, &(mix_case){ROWS[i], DIMS[d], 1, 24, false, i % 2 == 0});
            if (wide)
                continue;
            check_mix(t, &(mix_case){ROWS[i], DIMS[d], 0, 24, false, false});
            check_mix(t, &(mix_case){ROWS[i], DIMS[d], 7, 4, false, false});
            check_mix(t, &(mix_case){ROWS[i], DIMS[d], 7, 24, true, true});
        }
    check_mix(t, &(mix_case){6, 4096, 7, 24, false, true});
    check_mix(t, &(mix_case){1, 7168, 7, 4, false, true});
}

/* ---- pre ---- */

static void check_pre(test *t, uint32_t n, uint32_t dim, uint32_t n_mix, const uint32_t *select, uint32_t n_selected) {
    test_case(t, "pre n=%u dim=%u mixes=%u selected=%u", n, dim, n_mix, n_selected);
    const uint32_t chunks = (uint32_t)dsvk_ceil_div(dim, DSVK_HC_CHUNK), n_out = select != NULL ? n_selected : n;
    const size_t x_row = 4 * (size_t)dim, p_row = (size_t)chunks * (n_mix + 1);
    float *x = test_normals(t, n * x_row, 1.0f), *norm = test_normals(t, dim, 1.0f),
          *base = test_normals(t, n_mix, 0.5f);
    float scale[3] = {0.7f, 0.5f, 1.5f}, *partials = test_normals(t, n * p_row, 2.0f / sqrtf((float)chunks));
    for (uint32_t r = 0; r < n; r++) /* the sum of squares is the last of each chunk */
        for (uint32_t c = 0; c < chunks; c++)
            partials[r * p_row + c * (n_mix + 1) + n_mix] = (3.0f + test_uniform(t)) * (float)dim / (float)chunks;

    ref_hyper_conn ref = {base, scale, norm, dim, n_mix, 20, 1e-6f, 1e-6f};
    float *want = test_alloc(t, n_out * dim * 4), *post = test_alloc(t, n_out * 16), *comb = test_alloc(t, n_out * 64);
    float *magnitude = test_alloc(t, n_out * dim * 4);
    for (uint32_t i = 0; i < n_out; i++) {
        const uint32_t r = select == NULL ? i : select[i] < n ? select[i] : n - 1;
        ref_hyper_conn_pre(&ref, x + r * x_row, partials + r * p_row, want + (size_t)i * dim, NULL, post + 4 * i,
                           comb + 16 * i, magnitude + (size_t)i * dim);
    }

    const dsvk_buffer out = test_output(t, n_out * dim * 4), post_out = test_output(t, n_out * 16);
    const dsvk_buffer comb_out = test_output(t, n_out * 64), one = test_output(t, dim * 4);
    dsvk_hyper_conn_pre_params p = {.x_in = test_upload(t, x, n * x_row * 4).addr,
                                    .partials = test_upload(t, partials, n * p_row * 4).addr,
                                    .select = select != NULL ? test_upload(t, select, n_selected * 4).addr : 0,
                                    .base = test_upload(t, base, n_mix * 4).addr,
                                    .scale = test_upload(t, scale, n_mix == 4 ? 4 : 12).addr,
                                    .norm = test_upload(t, norm, dim * 4).addr,
                                    .out = out.addr,
                                    .post = n_mix == 4 ? 0 : post_out.addr,
                                    .comb = n_mix == 4 ? 0 : comb_out.addr,
                                    .n = n_out,
                                    .n_in = n,
                                    .dim = dim,
                                    .n_mix = n_mix,
                                    .sinkhorn_iters = 20,
                                    .eps = 1e-6f,
                                    .hc_eps = 1e-6f};
    dsvk_hyper_conn_pre(t->cmd, &p);
    if (!test_run(t))
        return;
    float *got = test_download(t, &out);
    test_compare_sums(t, "out", got, want, magnitude, (size_t)n_out * dim, OUT_TOLERANCE);
    if (n_mix == 24) {
        test_compare(t, "post", test_download(t, &post_out), post, n_out * 4, COEFFICIENT_TOLERANCE, 0);
        test_compare(t, "comb", test_download(t, &comb_out), comb, n_out * 16, COEFFICIENT_TOLERANCE, 1e-7f);
    }
    if (select != NULL)
        return;
    p.x_in += (n - 1) * x_row * 4;
    p.partials += (n - 1) * p_row * 4;
    p.out = one.addr;
    p.n = 1;
    dsvk_hyper_conn_pre(t->cmd, &p);
    if (test_run(t))
        test_compare_words(t, "last row alone", test_download(t, &one), got + (size_t)(n - 1) * dim, dim);
}

static void check_pres(test *t) {
    static const uint32_t select[] = {4, 0, 4, 2, 1000000, 0xffffffff};
    for (uint32_t d = 0; d < DSVK_COUNT(DIMS); d++)
        for (uint32_t i = 0; i < DSVK_COUNT(ROWS); i++)
            check_pre(t, ROWS[i], DIMS[d], 24, NULL, 0);
    for (uint32_t i = 0; i < DSVK_COUNT(ROWS); i++)
        check_pre(t, ROWS[i], 4096, 4, NULL, 0);
    check_pre(t, 5, 96, 24, select, DSVK_COUNT(select));
    check_pre(t, 5, 96, 4, select, DSVK_COUNT(select));
}

/* ---- Appendix C ---- */

static void check_golden(test *t) {
    static const float PRE[4] = {0.3318132f, 0.5621775f, 0.4133834f, 0.6456573f};
    static const float POST[4] = {0.9750052f, 1.0000000f, 1.0748597f, 1.0996680f};
    static const float COMB[16] = {0.1790796f, 0.3809764f, 0.2905697f, 0.1493733f, 0.2708250f, 0.0638407f,
                                   0.4394339f, 0.2258993f, 0.2001546f, 0.4258120f, 0.2070801f, 0.1669523f,
                                   0.3499398f, 0.1293698f, 0.0629152f, 0.4577741f};
    enum { DIM = 32 };
    test_case(t, "golden values of Appendix C");
    float partials[25], base[24], scale[3] = {1, 0.5f, 2}, x[4 * DIM] = {0}, norm[DIM];
    for (int i = 0; i < 24; i++) {
        partials[i] = 0.1f * (float)(7 * i % 11) - 0.5f;
        base[i] = 0.05f * (float)(5 * i % 9) - 0.2f;
    }
    partials[24] = 4 * DIM; /* rs = 1 up to 5e-7: eps is 1e-6 and the printed values have 7 digits */
    for (int k = 0; k < 4; k++)
        x[k * DIM + k] = 1; /* stream k is the unit vector k: x[k] = pre[k] */
    for (int d = 0; d < DIM; d++)
        norm[d] = 1;
    double squares = 0;
    for (int k = 0; k < 4; k++)
        squares += PRE[k] * PRE[k];
    const float length = (float)sqrt(squares / DIM + 1e-6);

    const dsvk_buffer out = test_output(t, DIM * 4), post = test_output(t, 16), comb = test_output(t, 64);
    dsvk_hyper_conn_pre(t->cmd,
                        &(dsvk_hyper_conn_pre_params){.x_in = test_upload(t, x, sizeof x).addr,
                                                      .partials = test_upload(t, partials, sizeof partials).addr,
                                                      .base = test_upload(t, base, sizeof base).addr,
                                                      .scale = test_upload(t, scale, sizeof scale).addr,
                                                      .norm = test_upload(t, norm, sizeof norm).addr,
                                                      .out = out.addr,
                                                      .post = post.addr,
                                                      .comb = comb.addr,
                                                      .n = 1,
                                                      .dim = DIM,
                                                      .n_mix = 24,
                                                      .sinkhorn_iters = 20,
                                                      .eps = 1e-6f,
                                                      .hc_eps = 1e-6f});
    if (!test_run(t))
        return;
    float *pre = test_download(t, &out);
    for (int k = 0; k < 4; k++)
        pre[k] *= length;
    test_compare(t, "pre", pre, PRE, 4, 2e-6f, 0);
    test_compare(t, "post", test_download(t, &post), POST, 4, 2e-6f, 0);
    test_compare(t, "comb", test_download(t, &comb), COMB, 16, 3e-6f, 1e-7f);
}

static void check_bad_shapes(test *t) {
    test_case(t, "bad shapes");
    dsvk_hyper_conn_mix(t->cmd, &(dsvk_hyper_conn_mix_params){.n = 1, .dim = 48, .n_mix = 24});
    test_run_fails(t, "24 mixes of 48 values");
    dsvk_hyper_conn_mix(t->cmd, &(dsvk_hyper_conn_mix_params){.n = 1, .dim = 64, .n_mix = 23});
    test_run_fails(t, "23 mixes of 64 values");
    dsvk_hyper_conn_mix(t->cmd, &(dsvk_hyper_conn_mix_params){.n = 1, .dim = 64, .n_mix = 24, .y = 256});
    test_run_fails(t, "0 parts");
    dsvk_hyper_conn_pre(t->cmd, &(dsvk_hyper_conn_pre_params){.n = 1, .dim = 64, .n_mix = 24});
    test_run_fails(t, "24 mixes need post");
    dsvk_hyper_conn_pre(t->cmd, &(dsvk_hyper_conn_pre_params){.n = 3, .dim = 64, .n_mix = 4, .select = 256});
    test_run_fails(t, "`select` of 3 rows");
}

/* ---- speed ---- */

static void record_mix(dsvk_cmd *cmd, void *params) {
    dsvk_hyper_conn_mix(cmd, params);
}
static void record_pre(dsvk_cmd *cmd, void *params) {
    dsvk_hyper_conn_pre(cmd, params);
}

static void bench(test *t, uint32_t n, uint32_t dim) {
    test_case(t, "n=%u dim=%u", n, dim);
    const size_t x_row = 4 * (size_t)dim, p_row = dsvk_ceil_div(dim, DSVK_HC_CHUNK) * 25;
    const dsvk_buffer x = test_upload(t, test_normals(t, n * x_row, 1), n * x_row * 4);
    const dsvk_buffer partials = test_output(t, n * p_row * 4), out = test_output(t, (size_t)n * dim * 4);
    const dsvk_buffer post = test_upload(t, test_normals(t, n * 4, 0.5f), n * 16);
    const dsvk_buffer comb = test_upload(t, test_normals(t, n * 16, 0.5f), n * 64);
    dsvk_hyper_conn_mix_params mix = {.x_in = x.addr,
                                      .x_out = test_output(t, n * x_row * 4).addr,
                                      .y =
                                          test_upload(t, test_normals(t, (size_t)n * dim, 1), (size_t)n * dim * 4).addr,
                                      .post = post.addr,
                                      .comb = comb.addr,
                                      .fn = test_upload(t, test_normals(t, 24 * x_row, 0.02f), 24 * x_row * 4).addr,
                                      .partials = partials.addr,
                                      .n = n,
                                      .dim = dim,
                                      .n_parts = 1,
                                      .n_mix = 24};
    float scale[3] = {1, 1, 1};
    dsvk_hyper_conn_pre_params pre = {.x_in = x.addr,
                                      .partials = partials.addr,
                                      .base = test_upload(t, test_normals(t, 24, 1), 96).addr,
                                      .scale = test_upload(t, scale, sizeof scale).addr,
                                      .norm = test_upload(t, test_normals(t, dim, 1), dim * 4).addr,
                                      .out = out.addr,
                                      .post = post.addr,
                                      .comb = comb.addr,
                                      .n = n,
                                      .dim = dim,
                                      .n_mix = 24,
                                      .sinkhorn_iters = 20,
                                      .eps = 1e-6f,
                                      .hc_eps = 1e-6f};
    test_bench(t, record_mix, &mix);
    test_bench(t, record_pre, &pre);
}

int main(int argc, char **argv) {
    test t;
    test_begin(&t, "hyper_conn", argc, argv);
    check_golden(&t);
    check_mixes(&t);
    check_pres(&t);
    check_bad_shapes(&t);
    if (t.bench) {
        bench(&t, 1, 4096);
        bench(&t, 1, 7168);
        bench(&t, 64, 4096);
    }
    return test_end(&t);
}
