/* Arguments and constants of indexer.comp, indexer_bytes.comp and indexer_coopmat.comp. */
#ifndef DSVK_INDEXER_ARGS_H
#define DSVK_INDEXER_ARGS_H
#include "topk.h"
#include "types.h"

#define INDEXER_CONSTANT_INDEX_DIM 0
#define INDEXER_CONSTANT_NATIVE 1
#define INDEXER_CONSTANT_ROWS 2
#define INDEXER_CONSTANT_SLICES 3
#define INDEXER_CONSTANT_HEADS 4 /* indexer.comp alone */
#define INDEXER_CONSTANT_M 3     /* coopmat: rows, columns and inner size of one matrix product */
#define INDEXER_CONSTANT_N 4
#define INDEXER_CONSTANT_K 5
#define INDEXER_CONSTANT_SUBGROUP 6 /* coopmat: invocations of a subgroup */
#define INDEXER_COOPMAT_CONSTANTS 7

#define INDEXER_WORKGROUP 256   /* invocations: keys times slices of the heads */
#define INDEXER_SLICES 4        /* so that the keys of a slice fill the widest subgroup */
#define INDEXER_ROWS 4          /* rows of a workgroup */
#define INDEXER_MAX_ROWS 16     /* the same where heads are few and nothing is shared: a key is fetched and decoded once for all of them */
#define INDEXER_MATRIX_ROWS 16  /* coopmat */
/* Keys of its workgroup, in registers: 32 lanes hold two matrices of 16 keys and 128 dimensions in 64 each, where others hold one. */
#define INDEXER_MATRIX_KEYS(subgroup, index_dim) ((subgroup) == 32u && (index_dim) <= 128u ? 256u : 128u)
#define INDEXER_MAX_PRODUCTS 32 /* rows times heads that an invocation has in work at once */

struct indexer_args {
    ADDR rows;    /* dsvk_row [n] */
    ADDR seqs;    /* dsvk_seq */
    ADDR iq;      /* f32 [n, iq_stride] */
    ADDR weights; /* f32 [n, weights_stride] */
    ADDR scores;  /* f32 [n, scores_stride] */
    ADDR bins;    /* u32 [n, TOPK_BINS_WORDS]: the first histogram of topk.comp */
    U32 n;
    U32 n_heads;
    U32 iq_stride; /* a multiple of 4 */
    U32 weights_stride;
    U32 scores_stride;
    U32 page_tokens;
    U32 page_offset;
    U32 k;        /* rows with no more visible keys need no scores */
    F32 scale;
};

#endif
