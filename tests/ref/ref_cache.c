/* Rows and index keys read back from the stores of ops.h, value by value. */
#include "ref.h"

#include <string.h>

static void read_floats(const uint8_t *from, uint32_t n, float *out) { memcpy(out, from, n * sizeof *out); }

void ref_read_row(const void *store, uint32_t capacity, uint32_t r, const dsvk_row_format *f, float *out) {
    const uint8_t *codes = (const uint8_t *)store + (size_t)r * dsvk_row_code_bytes(f);
    const uint8_t *scales = (const uint8_t *)store + (size_t)capacity * dsvk_row_code_bytes(f) +
                            (size_t)r * dsvk_row_scale_bytes(f);
    const uint32_t tail = f->head_dim - f->rope_dim;
    if (!f->native) {
        read_floats(codes, f->head_dim, out);
        return;
    }
    for (uint32_t d = 0; d < tail; d++)
        out[d] = ref_e4m3(codes[d]) * ref_ue8m0(scales[d / 64]);
    for (uint32_t d = tail; d < f->head_dim; d++) {
        uint16_t bits;
        memcpy(&bits, codes + tail + 2 * (d - tail), 2);
        out[d] = ref_bf16(bits);
    }
}

void ref_read_key(const void *store, uint32_t capacity, uint32_t r, const dsvk_row_format *f, float *out) {
    const uint8_t *codes = (const uint8_t *)store + (size_t)r * dsvk_key_code_bytes(f);
    const uint8_t *scales = (const uint8_t *)store + (size_t)capacity * dsvk_key_code_bytes(f) +
                            (size_t)r * dsvk_key_scale_bytes(f);
    if (!f->native) {
        read_floats(codes, f->index_dim, out);
        return;
    }
    for (uint32_t d = 0; d < f->index_dim; d++)
        out[d] = ref_e2m1(codes[d / 2] >> (d % 2 * 4) & 15) * ref_ue8m0(scales[d / 32]);
}
