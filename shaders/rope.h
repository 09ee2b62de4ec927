/* Arguments and constants of rope.comp. */
#ifndef DSVK_ROPE_ARGS_H
#define DSVK_ROPE_ARGS_H
#include "types.h"

#define ROPE_CONSTANT_HEAD_DIM 0
#define ROPE_CONSTANT_ROPE_DIM 1
#define ROPE_CONSTANT_WORKGROUP 2

struct rope_args {
    ADDR rows;  /* dsvk_row [n] */
    ADDR table; /* pages of (cos, sin) */
    ADDR q;     /* f32 [n, q_stride] */
    U32 q_stride;
    F32 eps;
};

#endif
