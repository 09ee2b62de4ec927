/* Arguments and constants of attn_query.comp. */
#ifndef DSVK_ATTN_QUERY_ARGS_H
#define DSVK_ATTN_QUERY_ARGS_H

#include "layer_table.h"
#include "matmul.h"

#define ATTN_QUERY_CONSTANT_NATIVE (MATMUL_CONSTANTS + 0)
#define ATTN_QUERY_CONSTANT_HEAD_DIM (MATMUL_CONSTANTS + 1)
#define ATTN_QUERY_CONSTANT_ROPE_DIM (MATMUL_CONSTANTS + 2)
#define ATTN_QUERY_CONSTANT_INDEX_DIM (MATMUL_CONSTANTS + 3)
#define ATTN_QUERY_CONSTANT_N_HEADS (MATMUL_CONSTANTS + 4)
#define ATTN_QUERY_CONSTANT_Q_RANK (MATMUL_CONSTANTS + 5)
#define ATTN_QUERY_CONSTANT_RATIO (MATMUL_CONSTANTS + 6)
#define ATTN_QUERY_CONSTANT_RING_CAPACITY (MATMUL_CONSTANTS + 7) /* slots of the K|S rings */
#define ATTN_QUERY_CONSTANT_PAGE_CAPACITY (MATMUL_CONSTANTS + 8) /* entries per page */
#define ATTN_QUERY_CONSTANT_EPS (MATMUL_CONSTANTS + 9)           /* f32 */
#define ATTN_QUERY_CONSTANT_BYTES (MATMUL_CONSTANTS + 10)        /* byte queries (ops.h) */
#define ATTN_QUERY_CONSTANTS (MATMUL_CONSTANTS + 11)

struct attn_query_args {
    ADDR rows, seqs;   /* dsvk_row [n], dsvk_seq */
    ADDR table;        /* RoPE pages */
    ADDR vectors;      /* dsvk_kv_vectors */
    ADDR qr;           /* f32 [n, Q_RANK] */
    ADDR w;            /* [wq_b; indexer.wq_b], tiled */
    ADDR q;            /* f32 [n, n_out] */
    ADDR kv;           /* f32 [n, Q_RANK + HEAD_DIM]: the last HEAD_DIM values of each row */
    ADDR ks;           /* f32 [n, ks_stride] */
    ADDR store;        /* row store of n rows */
    ADDR counters;     /* u32 [groups of rows][heads], 0 */
    U32 scales;        /* bytes from the codes to the scales */
    U32 n, n_out, ks_stride;
    U32 ring_offset, index_ring_offset; /* of the K|S rings in the state */
    U32 rows_offset, keys_offset;       /* in a page */
};

#endif
