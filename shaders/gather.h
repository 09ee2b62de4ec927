/* Arguments of shaders/gather.comp. */
#ifndef DSVK_GATHER_H
#define DSVK_GATHER_H

#include "types.h"

struct gather_args {
    ADDR rows;      /* dsvk_row [n] */
    ADDR seqs;      /* dsvk_seq */
    ADDR source;    /* u32 [n] */
    ADDR x;         /* f32 [n_in, dim] */
    ADDR result;    /* f32 [n, dim] */
    U32 dim, n_in;
    U32 state_offset; /* bytes, of the ring */
    U32 slots;        /* of the ring */
};

#endif
