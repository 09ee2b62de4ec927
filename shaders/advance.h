/* Arguments of shaders/advance.comp. */
#ifndef DSVK_ADVANCE_H
#define DSVK_ADVANCE_H

#include "types.h"

#define ADVANCE_ROWS 256 /* most rows: one workgroup, an invocation per row */

struct advance_args {
    ADDR ids;        /* u32 [n] */
    ADDR rows;       /* dsvk_row [n] */
    ADDR seqs;       /* dsvk_seq */
    ADDR sampling;   /* dsvk_sample_row [n] */
    ADDR ends;       /* dsvk_end_row [n] */
    ADDR stops;      /* u32 */
    ADDR step;       /* u32 [1] */
    ADDR chosen;     /* u32 [steps, n] */
    ADDR index_grid; /* u32 [3] */
    U32 n;
    U32 vocab;
    U32 steps;
    U32 index_topk;
    U32 max_visible;
    U32 index_keys;  /* keys of a workgroup of indexer.comp */
};

#endif
