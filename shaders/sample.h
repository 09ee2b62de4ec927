/* Arguments of shaders/sample.comp. */
#ifndef DSVK_SAMPLE_H
#define DSVK_SAMPLE_H

#include "types.h"

struct sample_args {
    ADDR logits;    /* f32 [n, vocab] */
    ADDR options;   /* dsvk_sample_row [n] */
    ADDR result;    /* u32 [n] */
    U32 vocab;
};

#endif
