/* The tree of kept prefixes. A node is a snapshot at the end of its span of tokens, which go on from its parent's end; keys (whose
 * prompts they are) have roots of their own, so that nobody finds another's.
 *
 * Invariant: no child's span begins with a whole span of a sibling (it would be that one's child), so at most one child of a node
 * lies on the way of a prompt. Only leaves are evicted, the least recently used first: an inner node is as fresh as the freshest
 * below it. */
#include <string.h>

#include "prefix_tree.h"

struct dsvk_prefix_node {
    dsvk_prefix_node *parent, *children, *next;
    int32_t *span;           /* [n_span], owned */
    uint64_t n_span, used;
    dsvk_snapshot *snapshot; /* owned; NULL: a root */
    char *key;               /* owned; roots only */
};

static void node_free(dsvk_prefix_node *node) {
    dsvk_snapshot_release(node->snapshot);
    dsvk_free(node->span);
    dsvk_free(node->key);
    dsvk_free(node);
}

static dsvk_prefix_node *find_root(const dsvk_prefix_tree *tree, const char *key) {
    dsvk_prefix_node *root = tree->roots;
    while (root && strcmp(root->key, key) != 0)
        root = root->next;
    return root;
}

static uint64_t common_length(const int32_t *a, uint64_t n_a, const int32_t *b, uint64_t n_b) {
    uint64_t n = 0;
    while (n < n_a && n < n_b && a[n] == b[n])
        n++;
    return n;
}

/* The child whose whole span tokens [n] begin with, or NULL; *common: the longest that any child's span has with them. */
static dsvk_prefix_node *child_on_the_way(const dsvk_prefix_node *node, const int32_t *tokens, uint64_t n, uint64_t *common) {
    *common = 0;
    for (dsvk_prefix_node *child = node->children; child; child = child->next) {
        const uint64_t same = common_length(child->span, child->n_span, tokens, n);
        *common = same > *common ? same : *common;
        if (same == child->n_span)
            return child;
    }
    return NULL;
}

/* The child that these tokens [n], `at` tokens into the timeline, share the most with of those whose snapshot reaches back to where
 * they differ; or NULL. *same: how many they are, less than n, for the token that is chosen behind them needs logits. */
static dsvk_prefix_node *child_within_reach(const dsvk_prefix_node *node, const int32_t *tokens, uint64_t n, uint64_t at,
                                            uint64_t *same) {
    dsvk_prefix_node *best = NULL;
    *same = 0;
    for (dsvk_prefix_node *child = node->children; child && n > 0; child = child->next) {
        const uint64_t common = common_length(child->span, child->n_span, tokens, n - 1);
        if (common > *same && dsvk_snapshot_reaches(child->snapshot, at + common)) {
            best = child;
            *same = common;
        }
    }
    return best;
}

static bool usable(const dsvk_snapshot *p, uint64_t n, bool exact) {
    return !exact || p->kind == DSVK_SNAPSHOT_CUT || (p->kind == DSVK_SNAPSHOT_WHOLE && p->n == n);
}

dsvk_snapshot *dsvk_prefix_find(dsvk_prefix_tree *tree, const char *key, const int32_t *tokens, uint64_t n, bool exact,
                                uint64_t *at, uint64_t *common) {
    dsvk_prefix_node *node = find_root(tree, key), *next;
    dsvk_snapshot *found = NULL;
    uint64_t here = 0, same = 0;
    *at = *common = 0;
    if (!node)
        return NULL;
    tree->clock++;
    while ((next = child_on_the_way(node, tokens + here, n - here, &same))) {
        node = next;
        here += node->n_span;
        node->used = tree->clock;
        if (usable(node->snapshot, n, exact)) {
            found = node->snapshot;
            *at = here;
        }
    }
    *common = here + same;
    if (!exact && (next = child_within_reach(node, tokens + here, n - here, here, &same))) {
        next->used = tree->clock;
        found = next->snapshot;
        *at = here + same;
    }
    return found;
}

/* ---- bytes ---- */

static void count(dsvk_prefix_tree *tree, const dsvk_snapshot *p, bool more) {
    const uint64_t page_bytes = p->model->layout.page_bytes;
    uint64_t bytes = p->state.size + p->logits.size;
    for (uint32_t i = 0; i < p->n_pages; i++) {
        dsvk_page *page = p->pages[i];
        bytes += (more ? page->kept++ : --page->kept) == 0 ? page_bytes : 0;
    }
    tree->bytes += more ? bytes : -bytes;
    tree->entries += more ? 1 : -1;
}

/* ---- evicting ---- */

static dsvk_prefix_node *oldest_leaf(dsvk_prefix_node *node, dsvk_prefix_node *oldest) {
    for (dsvk_prefix_node *child = node; child; child = child->next) {
        if (child->children)
            oldest = oldest_leaf(child->children, oldest);
        else if (child->snapshot && (!oldest || child->used < oldest->used))
            oldest = child;
    }
    return oldest;
}

static void unlink_node(dsvk_prefix_node **list, const dsvk_prefix_node *node) {
    while (*list != node)
        list = &(*list)->next;
    *list = node->next;
}

bool dsvk_prefix_evict(dsvk_prefix_tree *tree) {
    dsvk_prefix_node *leaf = oldest_leaf(tree->roots, NULL);
    if (!leaf)
        return false;
    dsvk_prefix_node *parent = leaf->parent;
    unlink_node(&parent->children, leaf);
    count(tree, leaf->snapshot, false);
    node_free(leaf);
    if (!parent->children && !parent->snapshot) {
        unlink_node(&tree->roots, parent);
        node_free(parent);
    }
    tree->evicted++;
    return true;
}

/* ---- keeping ---- */

static int32_t *copy_span(const int32_t *tokens, uint64_t n) {
    int32_t *span = dsvk_alloc(n * sizeof *span);
    if (span)
        memcpy(span, tokens, n * sizeof *span);
    return span;
}

static dsvk_prefix_node *add_root(dsvk_prefix_tree *tree, const char *key) {
    dsvk_prefix_node *root = dsvk_alloc_zero(1, sizeof *root);
    if (!root || !(root->key = dsvk_strdup_n(key, strlen(key)))) {
        dsvk_free(root);
        return NULL;
    }
    root->next = tree->roots;
    return tree->roots = root;
}

/* Those children of `parent` that begin with the whole span of the new child `node` become its own. */
static void adopt(dsvk_prefix_node *parent, dsvk_prefix_node *node) {
    dsvk_prefix_node **link = &parent->children;
    while (*link) {
        dsvk_prefix_node *child = *link;
        if (common_length(child->span, child->n_span, node->span, node->n_span) < node->n_span) {
            link = &child->next;
            continue;
        }
        *link = child->next;
        child->n_span -= node->n_span;
        memmove(child->span, child->span + node->n_span, child->n_span * sizeof *child->span);
        child->parent = node;
        child->next = node->children;
        node->children = child;
    }
    node->next = parent->children;
    parent->children = node;
}

static void exchange(dsvk_prefix_tree *tree, dsvk_prefix_node *node, dsvk_snapshot *snapshot) {
    count(tree, snapshot, true);
    count(tree, node->snapshot, false);
    dsvk_snapshot_release(node->snapshot);
    node->snapshot = dsvk_snapshot_retain(snapshot);
}

dsvk_status dsvk_prefix_keep(dsvk_prefix_tree *tree, const char *key, const int32_t *tokens, dsvk_snapshot *snapshot,
                             dsvk_error *err) {
    dsvk_prefix_node *const root = find_root(tree, key), *parent, *next;
    uint64_t at = 0, common;
    if (snapshot->state.size + snapshot->logits.size + snapshot->n_pages * snapshot->model->layout.page_bytes > tree->budget)
        return DSVK_OK; /* it would take all the others' place, and its own */
    parent = root ? root : add_root(tree, key);
    if (!parent)
        return dsvk_fail_nomem(err, strlen(key) + sizeof *parent);
    tree->clock++;
    while (at < snapshot->n && (next = child_on_the_way(parent, tokens + at, snapshot->n - at, &common))) {
        parent = next;
        parent->used = tree->clock;
        at += parent->n_span;
    }
    if (at == snapshot->n) {
        if (snapshot->kind > parent->snapshot->kind)
            exchange(tree, parent, snapshot);
        return DSVK_OK;
    }
    dsvk_prefix_node *node = dsvk_alloc_zero(1, sizeof *node);
    int32_t *span = copy_span(tokens + at, snapshot->n - at);
    if (!node || !span) {
        dsvk_free(node);
        dsvk_free(span);
        if (!root) {
            unlink_node(&tree->roots, parent);
            node_free(parent);
        }
        return dsvk_fail_nomem(err, (snapshot->n - at) * sizeof *span);
    }
    *node = (dsvk_prefix_node){ .parent = parent, .span = span, .n_span = snapshot->n - at, .used = tree->clock,
                                .snapshot = dsvk_snapshot_retain(snapshot) };
    adopt(parent, node);
    count(tree, snapshot, true);
    while (tree->bytes > tree->budget && dsvk_prefix_evict(tree))
        ;
    return DSVK_OK;
}
