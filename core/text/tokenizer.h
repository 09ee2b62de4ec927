/* Inside core/text: the pieces of a tokenizer and who owns them. Source: spec 6.6; Hugging Face `tokenizers` decides
 * every question the file format leaves open.
 *
 * A tokenizer is immutable once opened, so any number of threads may encode with it; what one encode call needs besides
 * is in its own dsvk_encoder (tokenizer.c). The stages, in order: added tokens are cut out of the text
 * (added_tokens.c), the rest is cut by the file's patterns (split.c), and each piece's bytes are merged by rank
 * (merge.c). */
#ifndef DSVK_TOKENIZER_H
#define DSVK_TOKENIZER_H

#include "common.h"

#define DSVK_VOCAB_MAX (4u << 20)        /* ids are below this (faults, "Limits") */
#define DSVK_TOKEN_BYTES_MAX (64u << 10) /* one token's bytes */
#define DSVK_ADDED_BYTES_MAX 1024u       /* one added token's text: bounds the work per position of the text */
#define DSVK_ADDED_TOTAL_MAX (1u << 20)  /* all added tokens' texts together */
#define DSVK_MERGES_MAX (4u << 20)
#define DSVK_SPLITS_MAX 16
#define DSVK_TEXT_MAX ((size_t)1 << 30) /* bytes of one encode call */

/* ---- UTF-8 (utf8.c) ---- */

typedef enum dsvk_utf8 {
    DSVK_UTF8_CHAR,   /* one whole character */
    DSVK_UTF8_BROKEN, /* bytes that begin no character: a decoder writes one U+FFFD for them */
    DSVK_UTF8_CUT     /* the text ends inside what may become a character */
} dsvk_utf8;

/* Length in bytes of the first unit of text [n], n > 0, and what it is. BROKEN and CUT units are the "maximal subparts"
 * of Unicode 3.9, which Python's errors="replace" uses too. */
size_t dsvk_utf8_next(const char *text, size_t n, dsvk_utf8 *kind);
uint32_t dsvk_utf8_code_point(const char *text, size_t n); /* of one whole character of n bytes */

/* ---- a fixed-size map from 64-bit keys (pair_map.c) ---- */

typedef struct dsvk_pair_slot {
    uint64_t key; /* UINT64_MAX: empty */
    uint32_t rank;
    int32_t id;
} dsvk_pair_slot;

typedef struct dsvk_pair_map {
    dsvk_pair_slot *slots; /* [mask + 1], at most half of them used */
    uint64_t mask;
} dsvk_pair_map;

bool dsvk_pair_map_open(dsvk_pair_map *map, size_t n_keys); /* false: out of memory */
void dsvk_pair_map_close(dsvk_pair_map *map);
const dsvk_pair_slot *dsvk_pair_map_find(const dsvk_pair_map *map, uint64_t key); /* NULL: absent */
/* The slot of `key`, made when absent (then *is_new); NULL when a hostile file has made the map degenerate. */
dsvk_pair_slot *dsvk_pair_map_put(dsvk_pair_map *map, uint64_t key, bool *is_new);

/* ---- the tokenizer ---- */

typedef enum dsvk_token_kind {
    DSVK_TOKEN_NONE,    /* a hole: no token has this id */
    DSVK_TOKEN_BYTES,   /* from the vocabulary, written in the byte alphabet */
    DSVK_TOKEN_LITERAL, /* from the vocabulary, with characters outside it: prints its text, no merge makes it */
    DSVK_TOKEN_ADDED,
    DSVK_TOKEN_SPECIAL /* added, and marked special */
} dsvk_token_kind;

typedef struct dsvk_token {
    uint32_t at;       /* first byte in tokenizer.bytes */
    uint32_t n : 24;   /* bytes */
    uint32_t kind : 8; /* dsvk_token_kind */
} dsvk_token;

/* Added tokens in the order `tokenizers` looks for them: those marked not "normalized" in the whole text, then those
 * marked "normalized" in what is left. */
enum { DSVK_ADDED_FIRST, DSVK_ADDED_SECOND, DSVK_ADDED_ROUNDS };

typedef struct dsvk_added {
    dsvk_pair_map trie;                  /* (node, byte) -> node, (node, 256) -> token; root of round r is node r */
    bool begins[DSVK_ADDED_ROUNDS][256]; /* a token of this round begins with this byte */
    uint32_t n_nodes;
} dsvk_added;

typedef struct dsvk_splits dsvk_splits; /* compiled patterns (split.c) */

struct dsvk_tokenizer {
    uint32_t vocab_size; /* largest id + 1 */
    uint32_t longest;    /* bytes of the longest token */
    bool ignore_merges;  /* a piece that is a token as a whole is that token */
    dsvk_token *tokens;  /* [vocab_size] */
    char *bytes;         /* every token's bytes, back to back */
    uint32_t *by_text;   /* [n_by_text] ids ordered by their bytes, added tokens before others of the same text */
    uint32_t n_by_text;
    int32_t byte_id[256]; /* the token of each single byte */
    dsvk_pair_map merges; /* (left id, right id) -> rank, id of the result */
    uint32_t n_merges;
    dsvk_added added;
    dsvk_splits *splits;
};

static inline const char *dsvk_token_bytes(const dsvk_tokenizer *t, int32_t id) {
    return t->bytes + t->tokens[id].at;
}

/* A place in a text whose tokens are given: bytes [at, at + n) are the added token of exactly these bytes, or where ids
 * is not NULL ids [n_ids]. */
typedef struct dsvk_mark {
    size_t at, n;
    const int32_t *ids;
    size_t n_ids;
} dsvk_mark;

/* dsvk_tokenizer_encode of a text with marks, in order and not overlapping: the text between two marks is ordinary
 * whatever it spells, and the patterns see it as a whole. UNSUPPORTED names a mark without its added token. */
dsvk_status dsvk_tokenizer_encode_marked(const dsvk_tokenizer *t, const char *text, size_t n, const dsvk_mark *marks,
                                         size_t n_marks, int32_t **ids, size_t *n_ids, dsvk_error *err);

/* The id whose bytes are text [n], -1 when there is none; added tokens come first (tokenizer.c). */
int32_t dsvk_tokenizer_find(const dsvk_tokenizer *t, const char *text, size_t n);

/* ---- loading (tokenizer_file.c) ---- */

/* Fills a zeroed tokenizer from the text of a tokenizer.json; `what` begins the messages. On failure the tokenizer is
 * half built and dsvk_tokenizer_close releases it. */
dsvk_status dsvk_tokenizer_parse(dsvk_tokenizer *t, const char *text, size_t n, const char *what, dsvk_error *err);

/* ---- added tokens (added_tokens.c) ---- */

dsvk_status dsvk_added_open(dsvk_added *added, size_t total_bytes, size_t n_tokens, dsvk_error *err);
dsvk_status dsvk_added_put(dsvk_added *added, int round, const char *text, size_t n, int32_t id, dsvk_error *err);
/* The first, then longest token of `round` in text [from, n): its place in *at, its length in *length and its id; -1
 * when there is none. */
int32_t dsvk_added_find(const dsvk_added *added, int round, const char *text, size_t from, size_t n, size_t *at,
                        size_t *length);

/* ---- splitting by patterns (split.c) ---- */

typedef dsvk_status (*dsvk_piece_fn)(void *user, size_t from, size_t to);

dsvk_status dsvk_splits_open(dsvk_splits **splits, const char *const *patterns, size_t n, const char *what,
                             dsvk_error *err);
void dsvk_splits_close(dsvk_splits *splits);

typedef struct dsvk_split_state dsvk_split_state; /* what one encode call needs to run the patterns */
dsvk_status dsvk_split_begin(dsvk_split_state **state, const dsvk_splits *splits, const char *text, size_t n,
                             dsvk_error *err);
void dsvk_split_end(dsvk_split_state *state);
/* Cuts the whole characters text [from, to) of `begin`'s text by every pattern in turn and calls piece for each. */
dsvk_status dsvk_split_run(dsvk_split_state *state, size_t from, size_t to, dsvk_piece_fn piece, void *user,
                           dsvk_error *err);

/* ---- merging (merge.c) ---- */

typedef struct dsvk_merge_heap {
    uint64_t *items;
    size_t n;
} dsvk_merge_heap;

/* Scratch for one piece, kept between pieces of a call; zeroed at first. The last four are for long pieces only. */
typedef struct dsvk_merger {
    size_t capacity;                   /* bytes of the longest piece there is room for */
    struct dsvk_symbol *symbols;       /* [capacity] one per byte of the piece */
    dsvk_merge_heap heap;              /* candidates, rank << 32 | symbol: those of rank `sweeping` and below */
    uint32_t sweeping;                 /* the rank whose candidates are being merged */
    struct dsvk_candidate *candidates; /* [3 * capacity] those of higher ranks, n_candidates of them, in lists */
    uint32_t n_candidates;
    uint32_t *newest;      /* [n_merges] by rank: the beginning of its list */
    dsvk_merge_heap ranks; /* ranks that have a list */
    uint32_t *sweep;       /* [3 * capacity] the candidates of `sweeping`, from left to right */
} dsvk_merger;

void dsvk_merger_close(dsvk_merger *merger);
/* Merges piece [n], 0 < n <= DSVK_TEXT_MAX, and writes its tokens to ids, which must hold n of them; *n_ids are. */
dsvk_status dsvk_merge(dsvk_merger *merger, const dsvk_tokenizer *t, const char *piece, size_t n, int32_t *ids,
                       size_t *n_ids, dsvk_error *err);

#endif
