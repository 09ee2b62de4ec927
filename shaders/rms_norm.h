/* Arguments and constants of rms_norm.comp. */
#ifndef DSVK_RMS_NORM_ARGS_H
#define DSVK_RMS_NORM_ARGS_H
#include "types.h"

#define RMS_NORM_CONSTANT_WORKGROUP 0

struct rms_norm_args {
    ADDR x;      /* f32 [n, x_stride] */
    ADDR weight; /* f32 [dim] */
    ADDR result; /* f32 [n, dim] */
    U32 dim;     /* a multiple of 4 */
    U32 x_stride;
    F32 eps;
};

#endif
