/* Host memory. Every allocation of the library comes through here, so that tests can count them and make any of them
 * fail; the counters are the only process-wide state, and only tests read them. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

static atomic_llong live;     /* allocations not yet freed */
static atomic_llong made;     /* since the last dsvk_alloc_fail_after */
static atomic_llong fail_at = -1;

static bool refuse(void) {
    long long n = atomic_fetch_add(&made, 1);
    long long at = atomic_load(&fail_at);
    return at >= 0 && n >= at;
}

void *dsvk_alloc(size_t bytes) {
    void *p = refuse() ? NULL : malloc(bytes ? bytes : 1);
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
    return refuse() ? NULL : realloc(old, bytes ? bytes : 1);
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
        atomic_fetch_sub(&live, 1);
        free(p);
    }
}

int64_t dsvk_alloc_fail_after(int64_t n) {
    atomic_store(&fail_at, n);
    return atomic_exchange(&made, 0);
}

int64_t dsvk_alloc_live(void) { return atomic_load(&live); }
