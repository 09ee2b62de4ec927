/* Arguments and constants of hyper_conn_mix.comp. */
#ifndef DSVK_HYPER_CONN_MIX_ARGS_H
#define DSVK_HYPER_CONN_MIX_ARGS_H
#include "types.h"

#define MIX_CONSTANT_N_MIX 0
#define MIX_CONSTANT_ROWS 1

#define MIX_CHUNK 256u   /* values of d per workgroup: DSVK_HC_CHUNK */
#define MIX_MAX_ROWS 4u  /* rows a workgroup handles at most */
#define MIX_MAX_SUMS 25u /* n_mix + 1 at most */

struct hyper_conn_mix_args {
    ADDR x_in;     /* f32 [n, 4, dim] */
    ADDR x_out;    /* f32 [n, 4, dim]; not used without post */
    ADDR y;        /* f32 [n, n_parts, dim]; 0: without post */
    ADDR post;     /* f32 [n, 4] */
    ADDR comb;     /* f32 [n, 4, 4] */
    ADDR fn;       /* f32 [n_mix, 4 * dim] */
    ADDR partials; /* f32 [n, chunks, n_mix + 1] */
    U32 n, dim, n_parts;
    U32 same_coefficients;
};

#endif
