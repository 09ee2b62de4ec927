/* Steps, RoPE pages and stored rows for the op tests; see harness_rows.h. */
#include "harness_rows.h"

test_step test_make_step(test *t, const test_span *spans, uint32_t n_spans) {
    test_step step = {.n_seqs = n_spans};
    for (uint32_t s = 0; s < n_spans; s++)
        step.n += spans[s].rows;
    step.rows = test_alloc(t, step.n * sizeof *step.rows);
    step.seqs = test_alloc(t, n_spans * sizeof *step.seqs);
    for (uint32_t s = 0, row = 0; s < n_spans; s++) {
        step.seqs[s] = (struct dsvk_seq){.first = row, .rows = spans[s].rows, .start = spans[s].start};
        for (uint32_t i = 0; i < spans[s].rows; i++, row++)
            step.rows[row] = (struct dsvk_row){.position = spans[s].start + i, .sequence = s, .first = row - i};
    }
    return step;
}

dsvk_addr test_rope_table(test *t, uint32_t rope_dim, const uint32_t *positions, uint32_t n) {
    const size_t page_floats = (size_t)DSVK_ROPE_PAGE * rope_dim;
    uint32_t last = 0;
    for (uint32_t i = 0; i < n; i++)
        last = positions[i] / DSVK_ROPE_PAGE > last ? positions[i] / DSVK_ROPE_PAGE : last;
    dsvk_addr *pages = test_alloc(t, (last + 1) * sizeof *pages);
    for (uint32_t p = 0; p <= last; p++) {
        float *values = NULL;
        for (uint32_t i = 0; i < n; i++) {
            if (positions[i] / DSVK_ROPE_PAGE != p)
                continue;
            if (values == NULL) {
                values = malloc(page_floats * sizeof *values);
                if (values == NULL)
                    exit(1);
                memset(values, 0xff, page_floats * sizeof *values);
            }
            float *at = values + (size_t)(positions[i] % DSVK_ROPE_PAGE) * rope_dim;
            for (uint32_t k = 0; k < rope_dim / 2; k++)
                ref_rope_angle(rope_dim, positions[i], k, &at[2 * k], &at[2 * k + 1]);
        }
        if (values != NULL) {
            pages[p] = test_upload(t, values, page_floats * sizeof *values).addr;
            free(values);
        }
    }
    return test_upload(t, pages, (last + 1) * sizeof *pages).addr;
}

dsvk_addr test_rope_table_rows(test *t, uint32_t rope_dim, const test_step *step) {
    uint32_t *positions = test_alloc(t, step->n * sizeof *positions);
    for (uint32_t i = 0; i < step->n; i++)
        positions[i] = step->rows[i].position;
    return test_rope_table(t, rope_dim, positions, step->n);
}

/* ---- stored rows ---- */

static bool between(float got, float one, float other) {
    return got >= fminf(one, other) && got <= fmaxf(one, other);
}

/* `got` is what some value within the slack rounds to, on the grid `decode(encode(x / scale)) * scale`. */
static bool rounds_to(float got, double value, double slack, float scale, float (*round_to_grid)(float)) {
    return between(got, round_to_grid((float)(value - slack) / scale) * scale,
                   round_to_grid((float)(value + slack) / scale) * scale);
}
static float e4m3_grid(float x) {
    return ref_e4m3(ref_e4m3_bits(x));
}
static float e2m1_grid(float x) {
    return ref_e2m1(ref_e2m1_bits(x));
}
static float bf16_grid(float x) {
    return ref_bf16(ref_bf16_bits(x));
}

static bool scale_fits(uint8_t got, const double *line, const double *slack, uint32_t n, uint8_t (*scale_of)(float)) {
    double low = 0, high = 0;
    for (uint32_t i = 0; i < n; i++) {
        low = fmax(low, fabs(line[i]) - slack[i]);
        high = fmax(high, fabs(line[i]) + slack[i]);
    }
    return got >= scale_of((float)low) && got <= scale_of((float)high);
}

static bool compare_floats(test *t, const char *what, const float *got, const double *line, const double *slack,
                           uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (!(fabs(got[i] - line[i]) <= slack[i]))
            return test_check(t, false, "%s: value %u: got %.9g want %.9g within %.3g", what, i, got[i], line[i],
                              slack[i]);
    return test_check(t, true, "%s", what);
}

static bool padding_is_zero(const uint8_t *scales, uint32_t used, uint32_t bytes) {
    for (uint32_t i = used; i < bytes; i++)
        if (scales[i] != 0)
            return false;
    return true;
}

bool test_compare_row(test *t, const char *what, const dsvk_row_format *f, const void *store, uint32_t capacity,
                      uint32_t row, const double *line, const double *slack) {
    const uint32_t plain = f->head_dim - f->rope_dim, scale_bytes = dsvk_row_scale_bytes(f);
    const uint8_t *scales =
        (const uint8_t *)store + (size_t)capacity * dsvk_row_code_bytes(f) + (size_t)row * scale_bytes;
    float *got = test_alloc(t, f->head_dim * sizeof *got);
    ref_read_row(store, capacity, row, f, got);
    if (!f->native)
        return compare_floats(t, what, got, line, slack, f->head_dim);
    for (uint32_t b = 0; b < plain / 64; b++)
        if (!scale_fits(scales[b], line + 64 * b, slack + 64 * b, 64, ref_fq8_scale))
            return test_check(t, false, "%s: row %u: scale byte %u of block %u", what, row, scales[b], b);
    for (uint32_t i = 0; i < f->head_dim; i++) {
        const bool ok = i < plain ? rounds_to(got[i], line[i], slack[i], ref_ue8m0(scales[i / 64]), e4m3_grid)
                                  : rounds_to(got[i], line[i], slack[i], 1, bf16_grid);
        if (!ok)
            return test_check(t, false, "%s: row %u: value %u: got %.9g for %.9g", what, row, i, got[i], line[i]);
    }
    return test_check(t, padding_is_zero(scales, plain / 64, scale_bytes), "%s: row %u: padding of the scales", what,
                      row);
}

bool test_compare_key(test *t, const char *what, const dsvk_row_format *f, const void *store, uint32_t capacity,
                      uint32_t row, const double *line, const double *slack) {
    const uint32_t scale_bytes = dsvk_key_scale_bytes(f);
    const uint8_t *scales =
        (const uint8_t *)store + (size_t)capacity * dsvk_key_code_bytes(f) + (size_t)row * scale_bytes;
    float *got = test_alloc(t, f->index_dim * sizeof *got);
    ref_read_key(store, capacity, row, f, got);
    if (!f->native)
        return compare_floats(t, what, got, line, slack, f->index_dim);
    for (uint32_t b = 0; b < f->index_dim / 32; b++)
        if (!scale_fits(scales[b], line + 32 * b, slack + 32 * b, 32, ref_fq4_scale))
            return test_check(t, false, "%s: key %u: scale byte %u of block %u", what, row, scales[b], b);
    for (uint32_t i = 0; i < f->index_dim; i++)
        if (!rounds_to(got[i], line[i], slack[i], ref_ue8m0(scales[i / 32]), e2m1_grid))
            return test_check(t, false, "%s: key %u: value %u: got %.9g for %.9g", what, row, i, got[i], line[i]);
    return test_check(t, padding_is_zero(scales, f->index_dim / 32, scale_bytes), "%s: key %u: padding of the scales",
                      what, row);
}
