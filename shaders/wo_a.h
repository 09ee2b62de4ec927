/* Arguments and constants of wo_a.comp. */
#ifndef DSVK_WO_A_ARGS_H
#define DSVK_WO_A_ARGS_H

#include "matmul.h"

#define WO_A_CONSTANT_N_IN (MATMUL_CONSTANTS + 0)            /* of a group */
#define WO_A_CONSTANT_GROUP_TILES (MATMUL_CONSTANTS + 1)     /* tiles of 32 outputs per group */
#define WO_A_CONSTANT_CODE_BYTES (MATMUL_CONSTANTS + 2)      /* of a cache row, and of its scales (0: it has none) */
#define WO_A_CONSTANT_SCALE_BYTES (MATMUL_CONSTANTS + 3)
#define WO_A_CONSTANT_WINDOW_CAPACITY (MATMUL_CONSTANTS + 4) /* slots of the window ring */
#define WO_A_CONSTANT_KS_BYTES (MATMUL_CONSTANTS + 5)        /* K and S of a token for compressed rows; 0: no compressor */
#define WO_A_CONSTANT_INDEX_KS_BYTES (MATMUL_CONSTANTS + 6)  /* the same for index keys; 0: no indexer */
#define WO_A_CONSTANT_KS_CAPACITY (MATMUL_CONSTANTS + 7)     /* slots of the K|S rings */
#define WO_A_CONSTANTS (MATMUL_CONSTANTS + 8)

struct wo_a_args {
    ADDR rows, seqs;   /* dsvk_row [n], dsvk_seq */
    ADDR x;            /* f32 [n, groups, N_IN] */
    ADDR w;            /* codes, tiled */
    ADDR result;       /* f32 [n, n_out] */
    ADDR store;        /* row store of n rows */
    ADDR ks;           /* f32 [n, ks_stride]: K and S for rows, then for keys */
    U32 scales;        /* bytes from the codes to the scales */
    U32 n, n_out, ks_stride;
    U32 window_offset, ring_offset, index_ring_offset; /* of the rings in a sequence's state */
};

#endif
