/* Arguments and constants of quant_row.comp. */
#ifndef DSVK_QUANT_ROW_ARGS_H
#define DSVK_QUANT_ROW_ARGS_H
#include "types.h"

#define QUANT_ROW_CONSTANT_NATIVE 0
#define QUANT_ROW_CONSTANT_HEAD_DIM 1
#define QUANT_ROW_CONSTANT_ROPE_DIM 2
#define QUANT_ROW_CONSTANT_WORKGROUP 3

struct quant_row_args {
    ADDR rows;   /* dsvk_row [n] */
    ADDR table;  /* RoPE pages */
    ADDR kv;     /* f32 [n, kv_stride] */
    ADDR weight; /* f32 [HEAD_DIM] */
    ADDR store;  /* row store of `capacity` rows; row t of the step becomes row t */
    U32 kv_stride, capacity;
    F32 eps;
};

#endif
