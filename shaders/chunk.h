/* Constants of the kernels for steps of many rows: matmul_tiled, matmul_coopmat, moe_expert_tiled, moe_expert_coopmat. Their
 * arguments are those of matmul.h and moe_expert.h. */
#ifndef DSVK_CHUNK_H
#define DSVK_CHUNK_H

/* Specialization constants. */
#define CHUNK_TYPE 0      /* a dsvk_weight_type */
#define CHUNK_EPILOGUE 1  /* as in matmul.h */
#define CHUNK_ROWS 2      /* rows of x per workgroup */
#define CHUNK_TILES 3     /* weight tiles per workgroup */
#define CHUNK_WORKGROUP 4 /* invocations: 128 per tile; 8 when nothing is staged */
#define CHUNK_STAGED 5    /* tiled: 1 through shared memory, 0 through registers alone (TILES 1) */
#define CHUNK_COLUMNS 6   /* tiled, not staged: 1: weights in columns (weights.glsl) */
#define CHUNK_SUBGROUP_8 7 /* tiled, not staged: as MATMUL_SUBGROUP_8 */
#define CHUNK_TILED_CONSTANTS 8
#define CHUNK_M 5         /* coopmat: rows of x, output rows and inputs of one matrix product */
#define CHUNK_N 6
#define CHUNK_K 7
#define CHUNK_SUBGROUP 8  /* coopmat: invocations of a subgroup */
#define CHUNK_COOPMAT_CONSTANTS 9

#endif
