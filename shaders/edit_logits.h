/* Arguments of shaders/edit_logits.comp. */
#ifndef DSVK_EDIT_LOGITS_H
#define DSVK_EDIT_LOGITS_H

#include "types.h"

#define EDIT_WORDS 256 /* of a mask: one workgroup's part of a row */

struct edit_logits_args {
    ADDR rows;      /* dsvk_edit_row [n] */
    ADDR logits;    /* f32 [rows, vocab] */
    U32 vocab;
};

#endif
