/* Arguments of shaders/moe_expert.comp; its specialization constants are those of matmul.h. */
#ifndef DSVK_MOE_EXPERT_H
#define DSVK_MOE_EXPERT_H

#include "types.h"

struct moe_expert_args {
    ADDR experts;   /* ADDR [n_experts]: each expert's blob */
    ADDR pairs;     /* u32 [n_pairs], row * k + slot, sorted by expert */
    ADDR tiles;     /* uvec4 [workgroups x]: expert, first pair, pairs, 0 */
    ADDR weights;   /* f32 [n_pairs]; up only */
    ADDR x;         /* up: f32 [n, x_stride]; down: f32 [n_pairs, x_stride] */
    ADDR result;    /* up: f32 [n_pairs, out_stride]; down: f32 [n, out_stride], slot s at column s * n_out */
    ADDR offset;    /* bytes from an expert's blob to this matrix */
    ADDR scales;    /* bytes from the matrix to its scales */
    U32 n_pairs, k, n_experts;
    U32 n_out;      /* columns of the result per pair */
    U32 words;      /* 16-byte words per weight row */
    U32 x_stride, out_stride;
    F32 limit;      /* of swiglu; 0: none */
};

#endif
