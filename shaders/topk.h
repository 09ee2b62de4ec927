/* Arguments of topk.comp. */
#ifndef DSVK_TOPK_ARGS_H
#define DSVK_TOPK_ARGS_H
#include "types.h"

struct topk_args {
    ADDR rows;   /* dsvk_row [n] */
    ADDR scores; /* f32 [n, scores_stride] */
    ADDR idx;    /* i32 [n, k] */
    U32 k;
    U32 scores_stride; /* a multiple of 4 */
};

#endif
