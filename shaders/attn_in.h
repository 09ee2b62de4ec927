/* Arguments and constants of attn_in.comp. */
#ifndef DSVK_ATTN_IN_ARGS_H
#define DSVK_ATTN_IN_ARGS_H

#include "matmul.h"

#define ATTN_IN_CONSTANT_Q_RANK MATMUL_CONSTANTS
#define ATTN_IN_CONSTANTS (MATMUL_CONSTANTS + 1)

struct attn_in_args {
    ADDR x;            /* f32 [n, n_in] */
    ADDR w, w_b;       /* codes of the two matrices, tiled */
    ADDR result, result_b; /* f32 [n, out_stride], [n, out_stride_b] */
    ADDR norm;         /* f32 [Q_RANK] */
    ADDR qr;           /* f32 [n, Q_RANK] */
    ADDR counters;     /* u32 [groups of rows], 0 */
    U32 scales, scales_b;   /* bytes from the codes to the scales */
    U32 words, words_b;     /* 16-byte words per weight row */
    U32 n, n_in;
    U32 n_out, n_out_b;     /* n_out_b 0: one matrix */
    U32 out_stride, out_stride_b;
    F32 eps;
};

#endif
