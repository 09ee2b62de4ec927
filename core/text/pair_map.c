/* A map from 64-bit keys to (rank, id), built once and then only read: open addressing, at most half full, so that a
 * look-up touches one cache line as a rule. */
#include <string.h>

#include "tokenizer.h"

#define EMPTY UINT64_MAX
#define PROBES_MAX 4096 /* half-full tables of honest keys stay far below; a file of colliding keys ends here */

static uint64_t mix(uint64_t key) { /* the finaliser of splitmix64 */
    key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9u;
    key = (key ^ key >> 27) * 0x94d049bb133111ebu;
    return key ^ key >> 31;
}

bool dsvk_pair_map_open(dsvk_pair_map *map, size_t n_keys) {
    uint64_t capacity = 16;
    while (capacity < (uint64_t)n_keys * 2)
        capacity *= 2;
    map->slots = dsvk_alloc_zero(capacity, sizeof *map->slots);
    if (!map->slots)
        return false;
    for (uint64_t i = 0; i < capacity; i++)
        map->slots[i].key = EMPTY;
    map->mask = capacity - 1;
    return true;
}

void dsvk_pair_map_close(dsvk_pair_map *map) {
    dsvk_free(map->slots);
    memset(map, 0, sizeof *map);
}

const dsvk_pair_slot *dsvk_pair_map_find(const dsvk_pair_map *map, uint64_t key) {
    for (uint64_t i = mix(key) & map->mask;; i = (i + 1) & map->mask) {
        const dsvk_pair_slot *slot = &map->slots[i];
        if (slot->key == key)
            return slot;
        if (slot->key == EMPTY)
            return NULL;
    }
}

dsvk_pair_slot *dsvk_pair_map_put(dsvk_pair_map *map, uint64_t key, bool *is_new) {
    uint64_t i = mix(key) & map->mask;
    for (int probes = 0; probes < PROBES_MAX; probes++, i = (i + 1) & map->mask) {
        dsvk_pair_slot *slot = &map->slots[i];
        *is_new = slot->key == EMPTY;
        if (*is_new)
            slot->key = key;
        if (slot->key == key)
            return slot;
    }
    return NULL;
}
