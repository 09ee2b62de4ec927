/* Arguments and constants of hyper_conn_pre.comp. */
#ifndef DSVK_HYPER_CONN_PRE_ARGS_H
#define DSVK_HYPER_CONN_PRE_ARGS_H
#include "types.h"

#define PRE_CONSTANT_N_MIX 0
#define PRE_CONSTANT_DIM 1
#define PRE_CONSTANT_PIECES 2 /* partials per chunk of MIX_CHUNK values */
#define PRE_CONSTANT_WORKGROUP 3

#define PRE_MAX_DIM 16384u /* 16 vec4 per invocation */

struct hyper_conn_pre_args {
    ADDR x_in;     /* f32 [*, 4, dim] */
    ADDR partials; /* f32 [*, pieces, n_mix + 1] */
    ADDR select;   /* u32 [n] or 0 */
    ADDR base;     /* f32 [n_mix] */
    ADDR scale;    /* f32 [3] or [1] */
    ADDR norm;     /* f32 [dim] */
    ADDR result;   /* f32 [n, dim] */
    ADDR post;     /* f32 [n, 4]; not used with n_mix 4 */
    ADDR comb;     /* f32 [n, 4, 4]; not used with n_mix 4 */
    U32 n_in, sinkhorn_iters;
    F32 eps, hc_eps;
};

#endif
