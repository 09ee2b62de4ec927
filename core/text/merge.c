/* Byte-pair merging of one piece: of all neighbours that have a merge, the one of lowest rank (leftmost on ties) is
 * merged first, until none is left. Symbols are a doubly linked list over the piece's bytes.
 *
 * Candidates wait in a binary heap of (rank, symbol). A heap of a million candidates lives in no cache, so a long piece
 * keeps them in a list per rank instead, and the lists are swept in the order of rank: the candidates of one rank,
 * sorted, from left to right. The heap then holds only what a merge of the sweep has made that comes before the rest of
 * it, so that the order stays exact. Candidates whose symbols have changed since are dropped; what the symbols became
 * has its own. Time is O(n log n), and nothing recurses. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"

#define NONE UINT32_MAX
#define LONG_PIECE 2048 /* bytes from which on lists per rank pay */

struct dsvk_symbol {
    int32_t id; /* -1: swallowed by its left neighbour */
    uint32_t previous, next;
};

struct dsvk_candidate {
    uint32_t symbol, next; /* the next candidate of the same rank */
};

/* ---- memory ---- */

void dsvk_merger_close(dsvk_merger *m) {
    dsvk_free(m->symbols);
    dsvk_free(m->heap.items);
    dsvk_free(m->candidates);
    dsvk_free(m->sweep);
    dsvk_free(m->newest);
    dsvk_free(m->ranks.items);
    memset(m, 0, sizeof *m);
}

/* Room for a piece of n bytes. There is at most one candidate per neighbouring pair at first, and a merge takes one out
 * and puts at most two in: 2n at a time, 3n in all. Pages that are never touched cost nothing. */
static dsvk_status reserve(dsvk_merger *m, const dsvk_tokenizer *t, size_t n, dsvk_error *err) {
    if (n <= m->capacity)
        return DSVK_OK;
    size_t capacity = 256;
    while (capacity < n)
        capacity *= 2;
    dsvk_merger_close(m);
    m->symbols = dsvk_alloc(capacity * sizeof *m->symbols);
    m->heap.items = dsvk_alloc(2 * capacity * sizeof *m->heap.items);
    bool made = m->symbols && m->heap.items;
    if (made && capacity > LONG_PIECE) {
        m->candidates = dsvk_alloc(3 * capacity * sizeof *m->candidates);
        m->sweep = dsvk_alloc(3 * capacity * sizeof *m->sweep);
        m->newest = dsvk_alloc(((size_t)t->n_merges + 1) * sizeof *m->newest);
        m->ranks.items = dsvk_alloc(((size_t)t->n_merges + 1) * sizeof *m->ranks.items);
        made = m->candidates && m->sweep && m->newest && m->ranks.items;
    }
    if (!made) {
        dsvk_merger_close(m);
        return dsvk_fail_nomem(err, capacity * (sizeof *m->symbols + 2 * sizeof *m->heap.items));
    }
    if (m->newest)
        memset(m->newest, 0xff, ((size_t)t->n_merges + 1) * sizeof *m->newest); /* NONE */
    m->capacity = capacity;
    return DSVK_OK;
}

/* ---- the heap ---- */

static void push(dsvk_merge_heap *heap, uint64_t item) {
    size_t i = heap->n++;
    for (; i > 0 && item < heap->items[(i - 1) / 2]; i = (i - 1) / 2)
        heap->items[i] = heap->items[(i - 1) / 2];
    heap->items[i] = item;
}

static uint64_t pop(dsvk_merge_heap *heap) {
    uint64_t least = heap->items[0], last = heap->items[--heap->n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < heap->n; i = child) {
        child += child + 1 < heap->n && heap->items[child + 1] < heap->items[child];
        if (last <= heap->items[child])
            break;
        heap->items[i] = heap->items[child];
    }
    heap->items[i] = last;
    return least;
}

/* ---- candidates ---- */

/* The merge of symbol `left` with its right neighbour; NULL when there is none. */
static const dsvk_pair_slot *merge_at(const dsvk_merger *m, const dsvk_tokenizer *t, uint32_t left) {
    const struct dsvk_symbol *a = &m->symbols[left];
    if (a->id < 0 || a->next == NONE)
        return NULL;
    return dsvk_pair_map_find(&t->merges, (uint64_t)(uint32_t)a->id << 32 | (uint32_t)m->symbols[a->next].id);
}

static void add_candidate(dsvk_merger *m, const dsvk_tokenizer *t, uint32_t left) {
    const dsvk_pair_slot *merge = merge_at(m, t, left);
    if (!merge)
        return;
    if (merge->rank <= m->sweeping) {
        push(&m->heap, (uint64_t)merge->rank << 32 | left);
        return;
    }
    if (m->newest[merge->rank] == NONE)
        push(&m->ranks, merge->rank);
    m->candidates[m->n_candidates] = (struct dsvk_candidate){.symbol = left, .next = m->newest[merge->rank]};
    m->newest[merge->rank] = m->n_candidates++;
}

/* Merges symbol `left` with its right neighbour if their merge still has this rank. */
static void merge_if_current(dsvk_merger *m, const dsvk_tokenizer *t, uint32_t left, uint32_t rank) {
    const dsvk_pair_slot *merge = merge_at(m, t, left);
    if (!merge || merge->rank != rank)
        return;
    struct dsvk_symbol *a = &m->symbols[left], *b = &m->symbols[a->next];
    a->id = merge->id;
    a->next = b->next;
    b->id = -1;
    if (b->next != NONE)
        m->symbols[b->next].previous = left;
    add_candidate(m, t, left);
    if (a->previous != NONE)
        add_candidate(m, t, a->previous);
}

/* Everything in the heap that comes before `end` = rank << 32 | symbol. */
static void drain_heap(dsvk_merger *m, const dsvk_tokenizer *t, uint64_t end) {
    while (m->heap.n > 0 && m->heap.items[0] < end) {
        uint64_t candidate = pop(&m->heap);
        merge_if_current(m, t, (uint32_t)candidate, (uint32_t)(candidate >> 32));
    }
}

static int by_symbol(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Moves the candidates of a rank to m->sweep, from left to right; returns how many. */
static size_t take_rank(dsvk_merger *m, uint32_t rank) {
    size_t n = 0;
    bool descending = true; /* the newest comes first, and they are mostly made from left to right */
    for (uint32_t i = m->newest[rank]; i != NONE; i = m->candidates[i].next) {
        descending &= n == 0 || m->candidates[i].symbol < m->sweep[n - 1];
        m->sweep[n++] = m->candidates[i].symbol;
    }
    m->newest[rank] = NONE;
    if (!descending) {
        qsort(m->sweep, n, sizeof *m->sweep, by_symbol);
        return n;
    }
    for (size_t i = 0; i < n / 2; i++) {
        uint32_t swapped = m->sweep[i];
        m->sweep[i] = m->sweep[n - 1 - i];
        m->sweep[n - 1 - i] = swapped;
    }
    return n;
}

static void sweep_ranks(dsvk_merger *m, const dsvk_tokenizer *t) {
    while (m->ranks.n > 0) {
        m->sweeping = (uint32_t)pop(&m->ranks);
        size_t n = take_rank(m, m->sweeping);
        for (size_t i = 0; i < n; i++) {
            drain_heap(m, t, (uint64_t)m->sweeping << 32 | m->sweep[i]);
            merge_if_current(m, t, m->sweep[i], m->sweeping);
        }
        drain_heap(m, t, UINT64_MAX);
    }
}

/* ---- a piece ---- */

static void lay_out(dsvk_merger *m, const dsvk_tokenizer *t, const char *piece, size_t n) {
    for (size_t i = 0; i < n; i++)
        m->symbols[i] = (struct dsvk_symbol){.id = t->byte_id[(unsigned char)piece[i]],
                                             .previous = i ? (uint32_t)i - 1 : NONE,
                                             .next = i + 1 < n ? (uint32_t)i + 1 : NONE};
    m->heap.n = m->ranks.n = 0;
    m->n_candidates = 0;
}

dsvk_status dsvk_merge(dsvk_merger *m, const dsvk_tokenizer *t, const char *piece, size_t n, int32_t *ids,
                       size_t *n_ids, dsvk_error *err) {
    DSVK_TRY(reserve(m, t, n, err));
    lay_out(m, t, piece, n);
    bool lists = n > LONG_PIECE;
    m->sweeping = lists ? 0 : NONE;
    for (size_t i = 0; i + 1 < n; i++)
        add_candidate(m, t, (uint32_t)i);
    drain_heap(m, t, UINT64_MAX); /* of a long piece only rank 0, which comes first anyway */
    if (lists)
        sweep_ranks(m, t);
    size_t made = 0;
    for (uint32_t i = 0; i != NONE; i = m->symbols[i].next)
        ids[made++] = m->symbols[i].id;
    *n_ids = made;
    return DSVK_OK;
}
