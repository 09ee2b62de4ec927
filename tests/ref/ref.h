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

#endif
