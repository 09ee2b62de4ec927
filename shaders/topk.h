/* Arguments of topk.comp, and what indexer.comp prepares for it. */
#ifndef DSVK_TOPK_ARGS_H
#define DSVK_TOPK_ARGS_H
#include "types.h"

#define TOPK_BINS 2048u                       /* of a digit of 11 bits */
#define TOPK_BINS_WORDS (2u * TOPK_BINS + 4u) /* a row's two histograms and one counter, padded to 16 bytes */
#define TOPK_LANES 64                         /* invocations of a workgroup */
#define TOPK_SHARE 4096u                      /* scores of a workgroup, or a multiple of that */
#define TOPK_GROUP_BITS 6u
#define TOPK_MAX_GROUPS (1u << TOPK_GROUP_BITS) /* workgroups of a row: no more than invocations */

struct topk_args {
    ADDR rows;   /* dsvk_row [n] */
    ADDR scores; /* f32 [n, scores_stride] */
    ADDR bins;   /* u32 [n, TOPK_BINS_WORDS] */
    ADDR list;   /* u32 [n, TOPK_MAX_GROUPS + scores_stride] scratch: how many indices in question each workgroup lists, then its list
                    where its scores begin */
    ADDR idx;    /* i32 [n, k] */
    U32 k;
    U32 scores_stride; /* a multiple of 4 */
    U32 share;         /* scores of a workgroup, a multiple of TOPK_SHARE */
};

#endif
