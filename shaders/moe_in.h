/* Arguments and constants of moe_in.comp. */
#ifndef DSVK_MOE_IN_ARGS_H
#define DSVK_MOE_IN_ARGS_H

#include "matmul.h"
#include "moe_gate.h"

#define MOE_IN_CONSTANT_DIM (MATMUL_CONSTANTS + 0)
#define MOE_IN_CONSTANT_N_EXPERTS (MATMUL_CONSTANTS + 1)
#define MOE_IN_CONSTANT_K (MATMUL_CONSTANTS + 2)
#define MOE_IN_CONSTANT_TILE (MATMUL_CONSTANTS + 3)  /* pairs per tile of moe_expert */
#define MOE_IN_CONSTANT_LIMIT (MATMUL_CONSTANTS + 4) /* f32, of swiglu; 0: none */
#define MOE_IN_CONSTANT_ROUTE_SCALE (MATMUL_CONSTANTS + 5) /* f32 */
#define MOE_IN_CONSTANTS (MATMUL_CONSTANTS + 6)

#define MOE_IN_MAX_EXPERTS 1024 /* keys in shared memory beside the sums */
#define MOE_IN_MAX_PAIRS 512    /* n * K */

struct moe_in_args {
    ADDR rows;          /* dsvk_row [n] */
    ADDR x;             /* f32 [n, DIM] */
    ADDR gate, up;      /* codes of the router's matrix and of the shared expert's, tiled */
    ADDR logits;        /* f32 [n, logits_stride] */
    ADDR h;             /* f32 [n, n_hidden] */
    ADDR bias, table;   /* as in moe_gate.h */
    ADDR idx, weights;  /* u32 [n, K], f32 [n, K] */
    ADDR pairs, tiles;  /* u32 [n * K], uvec4 [max_tiles], as in moe_sort.h */
    ADDR counters;      /* u32 [groups of rows + 1], 0 */
    U32 gate_scales, up_scales; /* bytes from the codes to the scales */
    U32 n, n_hidden, vocab;
    U32 max_tiles;
};

#endif
