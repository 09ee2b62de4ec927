/* Arguments and constants of sparse_attn.comp and sparse_attn_coopmat.comp. */
#ifndef DSVK_SPARSE_ATTN_ARGS_H
#define DSVK_SPARSE_ATTN_ARGS_H
#include "types.h"

#define SPARSE_ATTN_CONSTANT_HEAD_DIM 0
#define SPARSE_ATTN_CONSTANT_ROPE_DIM 1
#define SPARSE_ATTN_CONSTANT_NATIVE 2
#define SPARSE_ATTN_CONSTANT_HEADS 3 /* heads of a workgroup: 1, 2, 4, 8 or 16; coopmat: a multiple of M up to 32 */
#define SPARSE_ATTN_CONSTANT_LANE_ROWS 4 /* 1 or 2: segments of 64 or 128 rows */
#define SPARSE_ATTN_CONSTANT_TOKENS 5 /* of a workgroup; times heads: 4, 8 or 16 */
#define SPARSE_ATTN_CONSTANT_WORKGROUP 6 /* 256 invocations, or 64 for heads of at most 256 values */
#define SPARSE_ATTN_CONSTANTS 7
#define SPARSE_ATTN_CONSTANT_M 4 /* coopmat: rows, columns and inner size of one matrix product */
#define SPARSE_ATTN_CONSTANT_N 5
#define SPARSE_ATTN_CONSTANT_K 6
#define SPARSE_ATTN_CONSTANT_SUBGROUP 7 /* coopmat: invocations of a subgroup */
#define SPARSE_ATTN_COOPMAT_CONSTANTS 8

#define SPARSE_ATTN_SEGMENT 64  /* the smallest number of rows that a workgroup works on together */
#define SPARSE_ATTN_MAX_SPLITS 32 /* the merge holds factors of so many; a split of a longer list is several segments */
#define SPARSE_ATTN_EMPTY -16777216 /* "largest exponent" of no rows */

struct sparse_attn_args {
    ADDR rows;       /* dsvk_row [n] */
    ADDR seqs;       /* dsvk_seq */
    ADDR rope;       /* pages of (cos, sin) */
    ADDR q;          /* f32 [n, q_stride] */
    ADDR step_store; /* row store, capacity step_capacity */
    ADDR idx;        /* i32 [n, k] */
    ADDR sink;       /* f32 [n_heads] */
    ADDR partial;    /* [n, n_splits, groups of HEADS heads] partial results; n_splits > 1 */
    ADDR counters;   /* u32 [n, groups of HEADS heads]; n_splits > 1 */
    ADDR result;     /* f32 [n, n_heads * head_dim] */
    U32 n;
    U32 q_stride;    /* a multiple of 4 */
    U32 n_heads;
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

#endif
