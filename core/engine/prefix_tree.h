/* Prefixes that are kept: snapshots of sessions, and the tree that finds the longest one a prompt begins with (api 2.6). Everything
 * here belongs to one scheduler and to the thread that drives it. */
#ifndef DSVK_PREFIX_TREE_H
#define DSVK_PREFIX_TREE_H

#include "engine.h"

/* Whose bits a snapshot holds. Chunks and single tokens add up in different orders, so they tell how a prefix was computed. */
typedef enum dsvk_snapshot_kind {
    DSVK_SNAPSHOT_ANY,   /* holds decoded tokens, or was cut where no other prompt is cut */
    DSVK_SNAPSHOT_WHOLE, /* the end of a prompt: what the very same prompt computes */
    DSVK_SNAPSHOT_CUT    /* after whole chunks: what every prompt that begins so computes */
} dsvk_snapshot_kind;

/* A timeline at one position, n > 0. The pages are shared with whoever goes on from here: the last one may be written behind n.
 * Its rings reach back as a session's do (cache.h), so it serves for a few tokens less, too. */
typedef struct dsvk_snapshot {
    uint32_t references;
    dsvk_model *model;       /* not owned: the scheduler keeps it */
    dsvk_snapshot_kind kind;
    uint64_t n, high;        /* high: as a session's, n unless its last tokens were taken back before */
    dsvk_buffer state, logits;
    dsvk_page **pages;       /* [n_pages] */
    uint32_t n_pages;
} dsvk_snapshot;

/* Of a session that has logits; it is not to go back before n afterwards. */
dsvk_status dsvk_snapshot_take(dsvk_snapshot **snapshot, const dsvk_session *session, dsvk_snapshot_kind kind, dsvk_error *err);
/* Puts a session that has no tokens and room for n at the first n of the snapshot's tokens, which these are; bit for bit. It has
 * logits when n is the snapshot's own; less is allowed as far as dsvk_snapshot_reaches. A session that this fails for is to be
 * closed. */
dsvk_status dsvk_snapshot_restore(const dsvk_snapshot *snapshot, dsvk_session *session, const int32_t *tokens, uint64_t n,
                                  dsvk_error *err);
/* And only where that is little beside what it serves: a prompt that shares its first words with a short one runs in its own pieces. */
static inline bool dsvk_snapshot_reaches(const dsvk_snapshot *p, uint64_t n) {
    const uint64_t back = p->high - n;
    return n > 0 && back <= DSVK_ROLLBACK && back * 8 <= n;
}
dsvk_snapshot *dsvk_snapshot_retain(dsvk_snapshot *snapshot);
void dsvk_snapshot_release(dsvk_snapshot *snapshot); /* accepts NULL */

/* ---- the tree (prefix_tree.c) ---- */

typedef struct dsvk_prefix_node dsvk_prefix_node;

typedef struct dsvk_prefix_tree {
    dsvk_prefix_node *roots; /* one per key, without tokens */
    uint64_t budget, bytes;  /* of device memory; pages that several snapshots hold count once */
    uint64_t clock;          /* goes up with every use */
    uint64_t entries, evicted;
} dsvk_prefix_tree;

/* What serves the most of tokens [n] under `key`, or NULL; *at: how many of them, which may be a few less than the snapshot has, and
 * less than n then. With `exact` only what holds the bits that these tokens would compute themselves. *common: how many tokens any
 * kept timeline begins alike with. */
dsvk_snapshot *dsvk_prefix_find(dsvk_prefix_tree *tree, const char *key, const int32_t *tokens, uint64_t n, bool exact,
                                uint64_t *at, uint64_t *common);
/* Keeps a snapshot, whose tokens [snapshot->n] these are, and evicts others to stay within the budget. Where there is one already,
 * the better kind stays. NOMEM: nothing has changed. */
dsvk_status dsvk_prefix_keep(dsvk_prefix_tree *tree, const char *key, const int32_t *tokens, dsvk_snapshot *snapshot, dsvk_error *err);
/* Lets go of the least recently used prefix that no longer one goes on from; false when there is none. */
bool dsvk_prefix_evict(dsvk_prefix_tree *tree);

#endif
