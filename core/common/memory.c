/* Host memory. Every allocation of the library comes through here, so that tests can count them and make any of them
 * fail; the counters are the only process-wide state, and only tests read them. A block remembers its allocator and size in
 * front, so that it is released where it came from, whoever does it. */
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

static atomic_llong live;     /* allocations not yet freed */
static atomic_llong made;     /* since the last dsvk_alloc_fail_after */
static atomic_llong fail_at = -1;

static _Thread_local const dsvk_allocator *current; /* NULL: malloc */

typedef struct head {
    alignas(max_align_t) const dsvk_allocator *from;
    size_t bytes; /* without this */
} head;

const dsvk_allocator *dsvk_use_allocator(const dsvk_allocator *allocator) {
    const dsvk_allocator *before = current;
    current = allocator;
    return before;
}

static void *memory(const dsvk_allocator *from, head *old, size_t bytes) {
    if (from)
        return from->memory(from->user, old, old ? old->bytes + sizeof *old : 0, bytes);
    if (bytes)
        return realloc(old, bytes);
    free(old);
    return NULL;
}

/* A block of another size, or a new one; NULL leaves the old one. */
static void *resize(head *old, size_t bytes) {
    const dsvk_allocator *from = old ? old->from : current;
    head *block = bytes <= SIZE_MAX - sizeof *block ? memory(from, old, bytes + sizeof *block) : NULL;
    if (!block)
        return NULL;
    block->from = from;
    block->bytes = bytes;
    return block + 1;
}

static bool refuse(void) {
    long long n = atomic_fetch_add(&made, 1);
    long long at = atomic_load(&fail_at);
    return at >= 0 && n >= at;
}

void *dsvk_alloc(size_t bytes) {
    void *p = refuse() ? NULL : resize(NULL, bytes);
    if (p)
        atomic_fetch_add(&live, 1);
    return p;
}

void *dsvk_alloc_zero(size_t count, size_t each) {
    uint64_t bytes;
    if (!dsvk_mul(count, each, &bytes) || bytes > SIZE_MAX / 2)
        return NULL;
    void *p = dsvk_alloc((size_t)bytes);
    if (p)
        memset(p, 0, (size_t)bytes);
    return p;
}

void *dsvk_realloc(void *old, size_t bytes) {
    if (!old)
        return dsvk_alloc(bytes);
    return refuse() ? NULL : resize((head *)old - 1, bytes);
}

char *dsvk_strdup_n(const char *text, size_t n) {
    char *copy = dsvk_alloc(n + 1);
    if (copy) {
        memcpy(copy, text, n);
        copy[n] = 0;
    }
    return copy;
}

void dsvk_free(void *p) {
    if (p) {
        head *block = (head *)p - 1;
        atomic_fetch_sub(&live, 1);
        memory(block->from, block, 0);
    }
}

int64_t dsvk_alloc_fail_after(int64_t n) {
    atomic_store(&fail_at, n);
    return atomic_exchange(&made, 0);
}

int64_t dsvk_alloc_live(void) { return atomic_load(&live); }
