/* Arguments and constants of wo_b.comp. */
#ifndef DSVK_WO_B_ARGS_H
#define DSVK_WO_B_ARGS_H

#include "hyper_conn_mix.h"
#include "layer_table.h"
#include "matmul.h"

#define WO_B_CONSTANT_N_IN (MATMUL_CONSTANTS + 0)
#define WO_B_CONSTANT_DIM (MATMUL_CONSTANTS + 1)
#define WO_B_CONSTANT_SINKHORN (MATMUL_CONSTANTS + 2) /* iterations */
#define WO_B_CONSTANT_EPS (MATMUL_CONSTANTS + 3)      /* f32 */
#define WO_B_CONSTANT_HC_EPS (MATMUL_CONSTANTS + 4)   /* f32 */
#define WO_B_CONSTANTS (MATMUL_CONSTANTS + 5)

struct wo_b_args {
    ADDR x;            /* f32 [n, N_IN] */
    ADDR w;            /* codes, tiled */
    ADDR streams;      /* f32 [n, 4, DIM] */
    ADDR post, comb;   /* f32 [n, 4], [n, 4, 4]: of this site, then of the next */
    ADDR site;         /* dsvk_site of the next */
    ADDR partials;     /* f32 [n][DIM / 32][25] */
    ADDR result;       /* f32 [n, DIM] */
    ADDR counters;     /* u32 [groups of rows], 0 */
    U32 scales;        /* bytes from the codes to the scales */
    U32 n;
};

#endif
