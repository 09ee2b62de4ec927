/* Fake quantisation of spec 3.5 and 3.6, Hadamard of 3.7, and the cache formats of 1.7 with the layouts of ops.h. Where
 * the specification says f32, this says float: given the same inputs, a kernel has to produce the same bytes. */
#include "ref.h"

#include <math.h>
#include <string.h>

/* ue8m0 byte of 2^ceil(log2 z) */
static uint8_t power_above(float z) {
    int e;
    const float m = frexpf(z, &e); /* z = m * 2^e, m in [0.5, 1) */
    return (uint8_t)(127 + (m == 0.5f ? e - 1 : e));
}

uint8_t ref_fq8_scale(float amax) {
    return power_above(fmaxf(amax, 1e-4f) * (float)(1.0 / 448));
}
uint8_t ref_fq4_scale(float amax) {
    return power_above(fmaxf(amax, 6 * 0x1p-126f) * (float)(1.0 / 6));
}

void ref_hadamard(float *x, uint32_t n) {
    for (uint32_t stride = 1; stride < n; stride *= 2)
        for (uint32_t i = 0; i < n; i++)
            if ((i & stride) == 0) {
                const float a = x[i], b = x[i + stride];
                x[i] = a + b;
                x[i + stride] = a - b;
            }
    const float scale = (float)(1 / sqrt((double)n));
    for (uint32_t i = 0; i < n; i++)
        x[i] *= scale;
}

void ref_hadamard_wide(double *x, uint32_t n) {
    for (uint32_t stride = 1; stride < n; stride *= 2)
        for (uint32_t i = 0; i < n; i++)
            if ((i & stride) == 0) {
                const double a = x[i], b = x[i + stride];
                x[i] = a + b;
                x[i + stride] = a - b;
            }
    for (uint32_t i = 0; i < n; i++)
        x[i] /= sqrt((double)n);
}

static float block_max(const float *x, uint32_t n) {
    float best = 0;
    for (uint32_t i = 0; i < n; i++)
        best = fmaxf(best, fabsf(x[i]));
    return best;
}

void ref_store_row(const dsvk_row_format *f, const float *line, void *store, uint32_t capacity, uint32_t row) {
    uint8_t *codes = (uint8_t *)store + (size_t)row * dsvk_row_code_bytes(f);
    uint8_t *scales =
        (uint8_t *)store + (size_t)capacity * dsvk_row_code_bytes(f) + (size_t)row * dsvk_row_scale_bytes(f);
    const uint32_t plain = f->head_dim - f->rope_dim;
    if (!f->native) {
        memcpy(codes, line, 4 * f->head_dim);
        return;
    }
    memset(scales, 0, dsvk_row_scale_bytes(f));
    for (uint32_t b = 0; b < plain / 64; b++) {
        scales[b] = ref_fq8_scale(block_max(line + 64 * b, 64));
        for (uint32_t i = 64 * b; i < 64 * b + 64; i++)
            codes[i] = ref_e4m3_bits(line[i] / ref_ue8m0(scales[b]));
    }
    for (uint32_t i = 0; i < f->rope_dim; i++) {
        const uint16_t bits = ref_bf16_bits(line[plain + i]);
        memcpy(codes + plain + 2 * i, &bits, 2);
    }
}

void ref_store_key(const dsvk_row_format *f, const float *line, void *store, uint32_t capacity, uint32_t row) {
    uint8_t *codes = (uint8_t *)store + (size_t)row * dsvk_key_code_bytes(f);
    uint8_t *scales =
        (uint8_t *)store + (size_t)capacity * dsvk_key_code_bytes(f) + (size_t)row * dsvk_key_scale_bytes(f);
    if (!f->native) {
        memcpy(codes, line, 4 * f->index_dim);
        return;
    }
    memset(scales, 0, dsvk_key_scale_bytes(f));
    for (uint32_t b = 0; b < f->index_dim / 32; b++) {
        scales[b] = ref_fq4_scale(block_max(line + 32 * b, 32));
        for (uint32_t i = 32 * b; i < 32 * b + 32; i += 2)
            codes[i / 2] = (uint8_t)(ref_e2m1_bits(line[i] / ref_ue8m0(scales[b])) |
                                     ref_e2m1_bits(line[i + 1] / ref_ue8m0(scales[b])) << 4);
    }
}

void ref_quant_index(const dsvk_row_format *f, float *head, uint32_t position) {
    ref_rope(head, f->index_dim, f->rope_dim, position);
    ref_hadamard(head, f->index_dim);
    for (uint32_t b = 0; f->native && b < f->index_dim / 32; b++) {
        const float scale = ref_ue8m0(ref_fq4_scale(block_max(head + 32 * b, 32)));
        for (uint32_t i = 32 * b; i < 32 * b + 32; i++)
            head[i] = ref_e2m1(ref_e2m1_bits(head[i] / scale)) * scale;
    }
}
