/* Arguments of shaders/moe_sort.comp. */
#ifndef DSVK_MOE_SORT_H
#define DSVK_MOE_SORT_H

#include "types.h"

#define MOE_SORT_MAX_EXPERTS 4096

struct moe_sort_args {
    ADDR idx;       /* u32 [n_pairs] */
    ADDR pairs;     /* u32 [n_pairs] */
    ADDR tiles;     /* uvec4 [max_tiles]: expert, first, count, 0 */
    U32 n_pairs, n_experts, tile, max_tiles;
};

#endif
