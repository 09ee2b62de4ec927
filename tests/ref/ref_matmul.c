/* Matrices in the order of the file, their product with a row, and the scalar packer of the tiled layout: what the loader
 * must produce. */
#include "ref.h"

#include <math.h>
#include <string.h>

static uint32_t bits_per_input(dsvk_weight_type type) {
    switch (type) {
    case DSVK_TYPE_F32: return 32;
    case DSVK_TYPE_BF16: return 16;
    case DSVK_TYPE_FP8: return 8;
    case DSVK_TYPE_FP4: return 4;
    }
    return 32;
}

float ref_weight(const ref_matrix *m, uint32_t o, uint32_t i) {
    const size_t at = (size_t)o * m->n_in + i;
    switch (m->type) {
    case DSVK_TYPE_F32: return ((const float *)m->codes)[at];
    case DSVK_TYPE_BF16: return ref_bf16(((const uint16_t *)m->codes)[at]);
    case DSVK_TYPE_FP8:
        return ref_e4m3(((const uint8_t *)m->codes)[at]) *
               ((const float *)m->scales)[(size_t)(o / 16) * dsvk_ceil_div(m->n_in, 128) + i / 128];
    case DSVK_TYPE_FP4: {
        const uint8_t pair = ((const uint8_t *)m->codes)[at / 2];
        return ref_e2m1(i % 2 ? pair >> 4 : pair & 15) *
               ref_ue8m0(((const uint8_t *)m->scales)[(size_t)o * (m->n_in / 32) + i / 32]);
    }
    }
    return 0;
}

double ref_dot(const ref_matrix *m, uint32_t o, const float *x, double *magnitude) {
    double sum = 0, absolute = 0;
    for (uint32_t i = 0; i < m->n_in; i++) {
        const double product = (double)x[i] * ref_weight(m, o, i);
        sum += product;
        absolute += fabs(product);
    }
    *magnitude = absolute;
    return sum;
}

double ref_swiglu(double a, double b, double limit) {
    if (limit > 0) {
        a = a > limit ? limit : a;
        b = b > limit ? limit : b < -limit ? -limit : b;
    }
    return a / (1 + exp(-a)) * b;
}

double ref_swiglu_dot(const ref_matrix *m, uint32_t c, const float *x, double limit, double *magnitude) {
    const uint32_t o = c / 16 * 32 + c % 16; /* of w1; w3 follows 16 rows later */
    double ma, mb;
    const double a = ref_dot(m, o, x, &ma), b = ref_dot(m, o + 16, x, &mb), h = ref_swiglu(a, b, limit);
    *magnitude = 1.1 * ma * fabs(b) + fabs(a) * mb + fabs(h); /* |d silu / da| <= 1.1, |silu(a)| <= |a| */
    return h;
}

/* The code of W[o][i], in its low bits. */
static uint32_t code_of(const ref_matrix *m, uint32_t o, uint32_t i) {
    const uint32_t bits = bits_per_input(m->type);
    const uint64_t at = ((uint64_t)o * m->n_in + i) * bits;
    uint32_t code = 0;
    memcpy(&code, (const uint8_t *)m->codes + at / 8, bits < 8 ? 1 : bits / 8);
    return bits < 8 ? code >> at % 8 & 15 : code;
}

static void pack_columns(const ref_matrix *m, uint8_t *out) {
    const uint32_t bits = bits_per_input(m->type), words = dsvk_matrix_words(m->type, m->n_in);
    for (uint32_t o = 0; o < m->n_out; o++) {
        uint8_t *tile = out + (uint64_t)(o / DSVK_TILE_ROWS) * words * DSVK_TILE_ROWS * 16;
        for (uint32_t i = 0; i < m->n_in; i++) {
            const uint64_t at = ((uint64_t)i * DSVK_TILE_ROWS + o % DSVK_TILE_ROWS) * bits;
            const uint32_t code = code_of(m, o, i);
            if (bits == 4)
                tile[at / 8] |= (uint8_t)((code % 8 * 2 + code / 8) << at % 8);
            else
                memcpy(tile + at / 8, &code, bits / 8);
        }
    }
}

static void pack_words(const ref_matrix *m, uint8_t *out) {
    const uint32_t words = dsvk_matrix_words(m->type, m->n_in);
    const size_t row_bytes = (size_t)m->n_in * bits_per_input(m->type) / 8;
    for (uint32_t o = 0; o < m->n_out; o++) {
        const uint8_t *row = (const uint8_t *)m->codes + o * row_bytes;
        const uint64_t tile = o / DSVK_TILE_ROWS, r = o % DSVK_TILE_ROWS;
        for (uint32_t k = 0; k < words; k++) {
            const size_t left = row_bytes - (size_t)k * 16;
            memcpy(out + ((tile * words + k) * DSVK_TILE_ROWS + r) * 16, row + (size_t)k * 16, left < 16 ? left : 16);
        }
    }
}

void ref_pack_tiles(const ref_matrix *m, bool columns, void *blob) {
    uint8_t *out = blob;
    const uint32_t words = dsvk_matrix_words(m->type, m->n_in);
    const uint64_t scales = dsvk_matrix_scales(m->type, m->n_out, m->n_in);
    memset(out, 0, dsvk_matrix_bytes(m->type, m->n_out, m->n_in));
    if (columns)
        pack_columns(m, out);
    else
        pack_words(m, out);
    if (m->type == DSVK_TYPE_FP8) {
        const uint32_t blocks = (uint32_t)dsvk_ceil_div(m->n_in, 128);
        for (uint32_t half = 0; half < dsvk_ceil_div(m->n_out, 16); half++)
            for (uint32_t b = 0; b < blocks; b++)
                memcpy(out + scales + (((uint64_t)(half / 2) * blocks + b) * 2 + half % 2) * 4,
                       (const float *)m->scales + (size_t)half * blocks + b, 4);
    }
    if (m->type == DSVK_TYPE_FP4) {
        const uint32_t groups = (uint32_t)dsvk_ceil_div(words, 4);
        for (uint32_t o = 0; o < m->n_out; o++)
            for (uint32_t k = 0; k < words; k++)
                out[scales + (uint64_t)(o / DSVK_TILE_ROWS) * groups * DSVK_TILE_ROWS * 4 +
                    (columns ? k * DSVK_TILE_ROWS + o % DSVK_TILE_ROWS : (k / 4 * DSVK_TILE_ROWS + o % DSVK_TILE_ROWS) * 4 + k % 4)] =
                    ((const uint8_t *)m->scales)[(size_t)o * words + k];
    }
}
