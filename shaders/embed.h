/* Arguments of shaders/embed.comp. */
#ifndef DSVK_EMBED_H
#define DSVK_EMBED_H

#include "types.h"

struct embed_args {
    ADDR rows;      /* dsvk_row [n] */
    ADDR table;     /* bf16 [vocab, dim] */
    ADDR result;    /* f32 [n, copies, dim] */
    U32 dim, copies, vocab;
};

#endif
