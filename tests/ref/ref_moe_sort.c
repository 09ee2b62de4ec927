/* Pairs grouped by expert and cut into tiles. */
#include "ref.h"

#include <string.h>

void ref_moe_sort(const uint32_t *idx, uint32_t n_pairs, uint32_t n_experts, uint32_t tile, uint32_t *pairs,
                  uint32_t (*tiles)[4], uint32_t max_tiles) {
    uint32_t n = 0, used = 0;
    memset(tiles, 0, max_tiles * sizeof *tiles);
    for (uint32_t e = 0; e < n_experts; e++) {
        const uint32_t first = n;
        for (uint32_t i = 0; i < n_pairs; i++)
            if (idx[i] == e)
                pairs[n++] = i;
        for (uint32_t at = first; at < n; at += tile, used++) {
            tiles[used][0] = e;
            tiles[used][1] = at;
            tiles[used][2] = n - at < tile ? n - at : tile;
        }
    }
}
