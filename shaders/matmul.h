/* Arguments and constants of shaders/matmul.comp: result[t][o] = sum_i x[t][g * n_in + i] * w[o][i], g = o / group_rows. */
#ifndef DSVK_MATMUL_H
#define DSVK_MATMUL_H

#include "types.h"

/* Specialization constants, also those of moe_expert.comp and the first ones of the fused ops. */
#define MATMUL_TYPE 0     /* a dsvk_weight_type */
#define MATMUL_ROWS 1     /* rows of x that share one read of the weights: 1, 4 or 8 */
#define MATMUL_EPILOGUE 2 /* one of the three below */
#define MATMUL_SUBGROUP_8 3 /* 1: every subgroup has exactly 8 invocations */
#define MATMUL_TYPE_B 4   /* of a second matrix in the same dispatch; 0 without */
#define MATMUL_COLUMNS 5  /* 1: weights in columns (weights.glsl); with MATMUL_SUBGROUP_8 */
#define MATMUL_WORKGROUP 6 /* invocations: a multiple of 32, 256 but on processors */
#define MATMUL_CONSTANTS 7

#define EPILOGUE_STORE 0
#define EPILOGUE_SWIGLU 1
#define EPILOGUE_ROUTED_SWIGLU 2 /* swiglu times the routing weight; moe_expert only */

struct matmul_args {
    ADDR w;         /* codes, tiled */
    ADDR scales;    /* FP8, FP4 */
    ADDR x;         /* f32 [n, x_stride] */
    ADDR result;    /* f32 [n, out_stride] */
    U32 n, n_out;   /* n_out: columns of the result */
    U32 words;      /* 16-byte words per weight row */
    U32 x_stride, out_stride;
    U32 group_tiles; /* tiles per group, 0: no groups */
    U32 group_quads; /* n_in / 4: where in a row of x the next group begins, in vec4 */
    F32 limit;      /* of swiglu; 0: none */
};

#endif
