/* Added tokens in text: at each position the longest one, found by walking a trie. The trie's edges live in one
 * pair_map under (node << 9 | symbol); symbol 256 says that a token ends at the node, and which. A walk is bounded by
 * DSVK_ADDED_BYTES_MAX, so finding all tokens takes time linear in the text whatever the file holds. */
#include <string.h>

#include "tokenizer.h"

#define END 256u

static uint64_t edge(uint32_t node, uint32_t symbol) {
    return (uint64_t)node << 9 | symbol;
}

dsvk_status dsvk_added_open(dsvk_added *added, size_t total_bytes, size_t n_tokens, dsvk_error *err) {
    added->n_nodes = DSVK_ADDED_ROUNDS; /* the roots */
    if (!dsvk_pair_map_open(&added->trie, total_bytes + n_tokens))
        return dsvk_fail_nomem(err, (uint64_t)(total_bytes + n_tokens) * 2 * sizeof(dsvk_pair_slot));
    return DSVK_OK;
}

dsvk_status dsvk_added_put(dsvk_added *added, int round, const char *text, size_t n, int32_t id, dsvk_error *err) {
    uint32_t node = (uint32_t)round;
    bool is_new;
    added->begins[round][(unsigned char)text[0]] = true;
    for (size_t i = 0; i <= n; i++) {
        uint32_t symbol = i < n ? (unsigned char)text[i] : END;
        dsvk_pair_slot *slot = dsvk_pair_map_put(&added->trie, edge(node, symbol), &is_new);
        if (!slot)
            return dsvk_fail(err, DSVK_LIMIT, "added token %d: the added tokens' texts cannot be indexed", id);
        if (is_new)
            slot->id = symbol == END ? id : (int32_t)added->n_nodes++;
        node = (uint32_t)slot->id;
    }
    return DSVK_OK;
}

/* The longest token at the beginning of text [n]: its id, or -1. */
static int32_t longest_at(const dsvk_added *added, int round, const char *text, size_t n, size_t *length) {
    int32_t best = -1;
    uint32_t node = (uint32_t)round;
    for (size_t i = 0; i < n; i++) {
        const dsvk_pair_slot *slot = dsvk_pair_map_find(&added->trie, edge(node, (unsigned char)text[i]));
        if (!slot)
            break;
        node = (uint32_t)slot->id;
        slot = dsvk_pair_map_find(&added->trie, edge(node, END));
        if (slot) {
            best = slot->id;
            *length = i + 1;
        }
    }
    return best;
}

int32_t dsvk_added_find(const dsvk_added *added, int round, const char *text, size_t from, size_t n, size_t *at,
                        size_t *length) {
    for (size_t i = from; i < n; i++) {
        if (!added->begins[round][(unsigned char)text[i]])
            continue;
        int32_t id = longest_at(added, round, text + i, n - i, length);
        if (id >= 0) {
            *at = i;
            return id;
        }
    }
    return -1;
}
