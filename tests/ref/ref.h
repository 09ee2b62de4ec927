/* The scalar references, one file per op: plain loops written from the specification, in double where a sum is meant, never
 * touched when a kernel is tuned. Tests compare kernels with them. */
#ifndef DSVK_REF_H
#define DSVK_REF_H

#include "ops.h"

/* ---- number formats (ref_formats.c, spec section 3) ---- */
float ref_bf16(uint16_t bits);
uint16_t ref_bf16_bits(float x);   /* nearest even */
float ref_e4m3(uint8_t code);      /* 0x7f and 0xff are NaN */
uint8_t ref_e4m3_bits(float x);    /* clamps to 448, nearest even */
float ref_e2m1(uint8_t nibble);
uint8_t ref_e2m1_bits(float x);    /* clamps to 6, nearest even */
float ref_ue8m0(uint8_t byte);     /* 255 is NaN */

/* ---- matrices as files hold them (ref_matrix.c) ---- */
typedef struct ref_matrix {
    dsvk_weight_type type;
    uint32_t n_out, n_in;
    const void *codes;  /* [n_out, n_in] row-major: f32, bf16, e4m3 bytes, or e2m1 pairs (low nibble is the even input) */
    const void *scales; /* FP8: f32 [ceil(n_out / 16), ceil(n_in / 128)]; FP4: ue8m0 bytes [n_out, n_in / 32]; else NULL */
} ref_matrix;
float ref_weight(const ref_matrix *m, uint32_t o, uint32_t i);
/* The tiled layout of ops.h, dsvk_matrix_bytes bytes; the rows and inputs that pad it are zero. */
void ref_pack_tiles(const ref_matrix *m, void *blob);

/* ---- indexer, top-k, attention (ref_indexer.c, ref_topk.c, ref_sparse_attn.c) ---- */
/* One row's scores of keys [visible][dim]; magnitude[j] is the sum of the sizes of the terms of scores[j]. */
void ref_indexer(const float *iq, const float *weights, const float *keys, uint32_t n_heads, uint32_t dim, uint32_t visible,
                 float scale, float *scores, float *magnitude);
void ref_topk(const float *scores, uint32_t visible, uint32_t k, int32_t *idx);

/* One token, by what it attends to rather than by where that is stored. */
typedef struct ref_sparse_attn_case {
    const float *q;           /* [n_heads][head_dim] */
    const float *window_rows; /* [positions][head_dim], decoded */
    const float *entries;     /* compressed, [entries][head_dim], decoded */
    const int32_t *idx;       /* [k], ratio 4 */
    const float *sink;        /* [n_heads] */
    const float *angles;      /* (cos, sin) [rope_dim / 2][2] of the position */
    uint32_t position, window, ratio, k, n_heads, head_dim, rope_dim;
    float scale;
} ref_sparse_attn_case;
void ref_sparse_attn(const ref_sparse_attn_case *c, float *out, float *magnitude); /* both [n_heads][head_dim] */

/* ---- rows and keys as stored (ref_cache.c): row r of a store of `capacity` rows, ops.h ---- */
void ref_read_row(const void *store, uint32_t capacity, uint32_t r, const dsvk_row_format *f, float *out);
void ref_read_key(const void *store, uint32_t capacity, uint32_t r, const dsvk_row_format *f, float *out);

#endif
