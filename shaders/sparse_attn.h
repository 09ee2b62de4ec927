/* Arguments and constants of sparse_attn.comp and sparse_attn_merge.comp. */
#ifndef DSVK_SPARSE_ATTN_ARGS_H
#define DSVK_SPARSE_ATTN_ARGS_H
#include "types.h"

#define SPARSE_ATTN_CONSTANT_HEAD_DIM 0
#define SPARSE_ATTN_CONSTANT_ROPE_DIM 1
#define SPARSE_ATTN_CONSTANT_NATIVE 2
#define SPARSE_ATTN_CONSTANT_HEADS 3 /* heads of a workgroup: 4, 8 or 16 */

#define SPARSE_ATTN_SEGMENT 64  /* rows whose sums are formed together; a split is one segment, or all of them */
#define SPARSE_ATTN_EMPTY -16777216 /* "largest exponent" of no rows */

/* The partial result of (token t, split s, head h), index i = (t * n_splits + s) * n_heads + h:
 *   stats[i] = (M, sum of p), p = exp(z) * 2^-M, M an integer; M = SPARSE_ATTN_EMPTY without rows
 *   sums[i]  = sum of p * row, head_dim values */
struct sparse_attn_args {
    ADDR rows;       /* dsvk_row [n] */
    ADDR seqs;       /* dsvk_seq */
    ADDR q;          /* f32 [n, q_stride] */
    ADDR step_store; /* row store, capacity step_capacity */
    ADDR idx;        /* i32 [n, k] */
    ADDR sums;
    ADDR stats;
    U32 q_stride;    /* a multiple of 4 */
    U32 n_heads;
    U32 n_splits;
    U32 step_capacity;
    U32 window;
    U32 ratio;       /* 0, 4 or 128 */
    U32 k;
    U32 ring_offset;
    U32 ring_capacity;
    U32 page_tokens;
    U32 page_offset;
    F32 scale;
};

struct sparse_attn_merge_args {
    ADDR rows;   /* dsvk_row [n] */
    ADDR rope;   /* pages of (cos, sin) */
    ADDR sums;
    ADDR stats;
    ADDR sink;   /* f32 [n_heads] */
    ADDR result; /* f32 [n, n_heads * head_dim] */
    U32 n_heads;
    U32 n_splits;
};

#endif
