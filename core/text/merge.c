/* Byte-pair merging of one piece: of all neighbours that have a merge, the one of lowest rank (leftmost on ties) is
 * merged first, until none is left. Symbols are a doubly linked list over the piece's bytes; candidates wait in a binary
 * heap and are dropped when their symbols have changed meanwhile. n bytes cost O(n log n) and no recursion. */
#include <string.h>

#include "tokenizer.h"

#define NO_SYMBOL UINT32_MAX

struct dsvk_symbol {
    int32_t id; /* -1: swallowed by its left neighbour */
    uint32_t previous, next;
};

void dsvk_merger_close(dsvk_merger *merger) {
    dsvk_free(merger->symbols);
    dsvk_free(merger->queue);
    memset(merger, 0, sizeof *merger);
}

static dsvk_status reserve(dsvk_merger *merger, size_t n, dsvk_error *err) {
    if (n <= merger->capacity)
        return DSVK_OK;
    size_t capacity = 256;
    while (capacity < n)
        capacity *= 2;
    dsvk_merger_close(merger);
    merger->symbols = dsvk_alloc(capacity * sizeof *merger->symbols);
    /* One candidate per neighbouring pair at first; a merge takes one out and puts at most two in. */
    merger->queue = dsvk_alloc(2 * capacity * sizeof *merger->queue);
    if (!merger->symbols || !merger->queue) {
        dsvk_merger_close(merger);
        return dsvk_fail_nomem(err, capacity * (sizeof *merger->symbols + 2 * sizeof *merger->queue));
    }
    merger->capacity = capacity;
    return DSVK_OK;
}

static void sift_down(uint64_t *queue, size_t n, size_t i) {
    uint64_t item = queue[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && queue[child + 1] < queue[child];
        if (item <= queue[child])
            break;
        queue[i] = queue[child];
    }
    queue[i] = item;
}

static void push(dsvk_merger *m, uint64_t item) {
    size_t i = m->n_queue++;
    for (; i > 0 && item < m->queue[(i - 1) / 2]; i = (i - 1) / 2)
        m->queue[i] = m->queue[(i - 1) / 2];
    m->queue[i] = item;
}

static uint64_t pop(dsvk_merger *m) {
    uint64_t least = m->queue[0];
    m->queue[0] = m->queue[--m->n_queue];
    if (m->n_queue > 0)
        sift_down(m->queue, m->n_queue, 0);
    return least;
}

/* The merge of symbol `left` with its right neighbour; NULL when there is none. */
static const dsvk_pair_slot *merge_at(const dsvk_merger *m, const dsvk_tokenizer *t, uint32_t left) {
    const struct dsvk_symbol *a = &m->symbols[left];
    if (a->id < 0 || a->next == NO_SYMBOL)
        return NULL;
    return dsvk_pair_map_find(&t->merges, (uint64_t)(uint32_t)a->id << 32 | (uint32_t)m->symbols[a->next].id);
}

static void push_merge_at(dsvk_merger *m, const dsvk_tokenizer *t, uint32_t left) {
    const dsvk_pair_slot *merge = merge_at(m, t, left);
    if (merge)
        push(m, (uint64_t)merge->rank << 32 | left);
}

static void lay_out(dsvk_merger *m, const dsvk_tokenizer *t, const char *piece, size_t n) {
    for (size_t i = 0; i < n; i++)
        m->symbols[i] = (struct dsvk_symbol){ .id = t->byte_id[(unsigned char)piece[i]],
                                              .previous = i ? (uint32_t)i - 1 : NO_SYMBOL,
                                              .next = i + 1 < n ? (uint32_t)i + 1 : NO_SYMBOL };
    m->n_queue = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        const dsvk_pair_slot *merge = merge_at(m, t, (uint32_t)i);
        if (merge)
            m->queue[m->n_queue++] = (uint64_t)merge->rank << 32 | i;
    }
    for (size_t i = m->n_queue / 2; i-- > 0;)
        sift_down(m->queue, m->n_queue, i);
}

static void swallow_next(dsvk_merger *m, uint32_t left, int32_t id) {
    struct dsvk_symbol *a = &m->symbols[left], *b = &m->symbols[a->next];
    a->id = id;
    a->next = b->next;
    b->id = -1;
    if (b->next != NO_SYMBOL)
        m->symbols[b->next].previous = left;
}

dsvk_status dsvk_merge(dsvk_merger *m, const dsvk_tokenizer *t, const char *piece, size_t n, int32_t *ids,
                       size_t *n_ids, dsvk_error *err) {
    DSVK_TRY(reserve(m, n, err));
    lay_out(m, t, piece, n);
    while (m->n_queue > 0) {
        uint64_t candidate = pop(m);
        uint32_t left = (uint32_t)candidate;
        const dsvk_pair_slot *merge = merge_at(m, t, left);
        if (!merge || merge->rank != (uint32_t)(candidate >> 32))
            continue; /* one of the two has changed since; what it became has its own candidates */
        swallow_next(m, left, merge->id);
        push_merge_at(m, t, left);
        if (m->symbols[left].previous != NO_SYMBOL)
            push_merge_at(m, t, m->symbols[left].previous);
    }
    size_t made = 0;
    for (uint32_t i = 0; i != NO_SYMBOL; i = m->symbols[i].next)
        ids[made++] = m->symbols[i].id;
    *n_ids = made;
    return DSVK_OK;
}
