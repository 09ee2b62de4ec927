/* Arguments and constants of quant_index.comp. */
#ifndef DSVK_QUANT_INDEX_ARGS_H
#define DSVK_QUANT_INDEX_ARGS_H
#include "types.h"

#define QUANT_INDEX_CONSTANT_NATIVE 0
#define QUANT_INDEX_CONSTANT_INDEX_DIM 1
#define QUANT_INDEX_CONSTANT_ROPE_DIM 2
#define QUANT_INDEX_CONSTANT_BYTES 3
#define QUANT_INDEX_CONSTANT_WORKGROUP 4

struct quant_index_args {
    ADDR rows;  /* dsvk_row [n] */
    ADDR table; /* RoPE pages */
    ADDR iq;    /* f32 [n, iq_stride], then as BYTES says */
    U32 n_heads, iq_stride;
};

#endif
