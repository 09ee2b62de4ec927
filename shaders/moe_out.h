/* Arguments and constants of moe_out.comp. */
#ifndef DSVK_MOE_OUT_ARGS_H
#define DSVK_MOE_OUT_ARGS_H

#include "hyper_conn_mix.h"
#include "layer_table.h"
#include "matmul.h"

#define MOE_OUT_CONSTANT_N_HIDDEN (MATMUL_CONSTANTS + 0)
#define MOE_OUT_CONSTANT_DIM (MATMUL_CONSTANTS + 1)
#define MOE_OUT_CONSTANT_K (MATMUL_CONSTANTS + 2)
#define MOE_OUT_CONSTANT_N_EXPERTS (MATMUL_CONSTANTS + 3)
#define MOE_OUT_CONSTANT_N_MIX (MATMUL_CONSTANTS + 4)    /* of the next site: 24, or 4 of the head */
#define MOE_OUT_CONSTANT_SINKHORN (MATMUL_CONSTANTS + 5) /* iterations */
#define MOE_OUT_CONSTANT_EPS (MATMUL_CONSTANTS + 6)      /* f32 */
#define MOE_OUT_CONSTANT_HC_EPS (MATMUL_CONSTANTS + 7)   /* f32 */
#define MOE_OUT_CONSTANTS (MATMUL_CONSTANTS + 8)

struct moe_out_args {
    ADDR experts;      /* ADDR [N_EXPERTS]: each expert's blob */
    ADDR pairs, tiles; /* u32 [n * K], uvec4 [max_tiles] */
    ADDR h;            /* f32 [n * K, N_HIDDEN] of pairs, then [n, N_HIDDEN] of the shared expert */
    ADDR shared_down;  /* codes, tiled */
    ADDR y;            /* f32 [n, K + 1, DIM] */
    ADDR streams;      /* f32 [n, 4, DIM] */
    ADDR post, comb;   /* f32 [n, 4], [n, 4, 4]: of this site, then of the next */
    ADDR site;         /* dsvk_site of the next */
    ADDR partials;     /* f32 [n][DIM / 32][N_MIX + 1] */
    ADDR result;       /* f32 [n, DIM] */
    ADDR counters;     /* u32 [DIM / 32 + groups of rows], 0 */
    ADDR offset;       /* bytes from an expert's blob to its down matrix */
    U32 scales, shared_scales; /* bytes from the codes to the scales */
    U32 n, max_tiles;
};

#endif
