/* Sizes of tiled matrices, row stores and key stores: the layouts that ops.h describes, computed in one place. */
#include "ops.h"

static uint32_t elements_per_word(dsvk_weight_type type) {
    switch (type) {
    case DSVK_TYPE_F32: return 4;
    case DSVK_TYPE_BF16: return 8;
    case DSVK_TYPE_FP8: return 16;
    case DSVK_TYPE_FP4: return 32;
    }
    return 4;
}

uint32_t dsvk_matrix_words(dsvk_weight_type type, uint32_t n_in) {
    return (uint32_t)dsvk_ceil_div(n_in, elements_per_word(type));
}

static uint64_t tiles(uint32_t n_out) { return dsvk_ceil_div(n_out, DSVK_TILE_ROWS); }

uint64_t dsvk_matrix_scales(dsvk_weight_type type, uint32_t n_out, uint32_t n_in) {
    return tiles(n_out) * dsvk_matrix_words(type, n_in) * DSVK_TILE_ROWS * 16;
}

uint64_t dsvk_matrix_bytes(dsvk_weight_type type, uint32_t n_out, uint32_t n_in) {
    uint64_t scales = 0;
    if (type == DSVK_TYPE_FP8)
        scales = tiles(n_out) * dsvk_ceil_div(n_in, 128) * 2 * 4;
    if (type == DSVK_TYPE_FP4)
        scales = tiles(n_out) * dsvk_ceil_div(dsvk_matrix_words(type, n_in), 4) * DSVK_TILE_ROWS * 4;
    return dsvk_matrix_scales(type, n_out, n_in) + dsvk_align(scales, 16);
}

uint32_t dsvk_row_code_bytes(const dsvk_row_format *f) {
    return f->native ? f->head_dim - f->rope_dim + 2 * f->rope_dim : 4 * f->head_dim;
}

uint32_t dsvk_row_scale_bytes(const dsvk_row_format *f) {
    return f->native ? (uint32_t)dsvk_align((f->head_dim - f->rope_dim) / 64, 4) : 0;
}

uint32_t dsvk_key_code_bytes(const dsvk_row_format *f) { return f->native ? f->index_dim / 2 : 4 * f->index_dim; }

uint32_t dsvk_key_scale_bytes(const dsvk_row_format *f) {
    return f->native ? (uint32_t)dsvk_align(f->index_dim / 32, 4) : 0;
}
