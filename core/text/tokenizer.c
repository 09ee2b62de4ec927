/* The tokenizer of dsvk.h: text to ids and back.
 *
 * Text is any bytes. Bytes that are no UTF-8 are pieces of their own: a run of them is cut out before the patterns see
 * the text, as an added token would be, and is merged like any piece, so that decoding gives the same bytes (faults
 * T06). Without DSVK_PARSE_SPECIAL no added token is looked for, special or not (V4 marks its User and Assistant tokens
 * as not special), and none can come out of merges because the loader refuses files where one could (faults T07). */
#include <string.h>

#include "tokenizer.h"

/* One encode call. */
typedef struct dsvk_encoder {
    const dsvk_tokenizer *t;
    const char *text;
    dsvk_split_state *split;
    dsvk_merger merger;
    int32_t *ids; /* [capacity], n of them used */
    size_t n, capacity;
    dsvk_error *err;
} dsvk_encoder;

/* ---- opening ---- */

dsvk_status dsvk_tokenizer_open(dsvk_tokenizer **tokenizer, const char *path, dsvk_error *err) {
    if (tokenizer)
        *tokenizer = NULL;
    if (!tokenizer || !path)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_tokenizer_open: %s is NULL", tokenizer ? "path" : "tokenizer");
    char inside[4096], *text = NULL;
    size_t n;
    dsvk_status status = DSVK_OK;
    if (!*path)
        return dsvk_fail(err, DSVK_INVALID, "path is empty");
    if (dsvk_path_join(inside, sizeof inside, path, ".") && dsvk_path_exists(inside)) { /* a folder */
        if (!dsvk_path_join(inside, sizeof inside, path, "tokenizer.json"))
            return dsvk_fail(err, DSVK_INVALID, "path is %zu bytes long, the limit is %zu", strlen(path),
                             sizeof inside);
        path = inside;
    }
    dsvk_tokenizer *t = dsvk_alloc_zero(1, sizeof *t);
    if (!t)
        return dsvk_fail_nomem(err, sizeof *t);
    DSVK_GOTO(dsvk_file_slurp(path, 256u << 20, &text, &n, err));
    DSVK_GOTO(dsvk_tokenizer_parse(t, text, n, path, err));
    *tokenizer = t;
    t = NULL;
fail:
    dsvk_free(text);
    dsvk_tokenizer_close(t);
    return status;
}

void dsvk_tokenizer_close(dsvk_tokenizer *t) {
    if (!t)
        return;
    dsvk_free(t->tokens);
    dsvk_free(t->bytes);
    dsvk_free(t->by_text);
    dsvk_pair_map_close(&t->merges);
    dsvk_pair_map_close(&t->added.trie);
    dsvk_splits_close(t->splits);
    dsvk_free(t);
}

/* ---- looking up ---- */

uint32_t dsvk_tokenizer_vocab_size(const dsvk_tokenizer *t) {
    return t ? t->vocab_size : 0;
}

static bool has_token(const dsvk_tokenizer *t, int32_t id) {
    return id >= 0 && (uint32_t)id < t->vocab_size && t->tokens[id].kind != DSVK_TOKEN_NONE;
}

uint32_t dsvk_tokenizer_is_special(const dsvk_tokenizer *t, int32_t id) {
    return t && has_token(t, id) && t->tokens[id].kind == DSVK_TOKEN_SPECIAL;
}

uint32_t dsvk_tokenizer_is_added(const dsvk_tokenizer *t, int32_t id) {
    return t && has_token(t, id) && t->tokens[id].kind >= DSVK_TOKEN_ADDED;
}

int32_t dsvk_tokenizer_find(const dsvk_tokenizer *t, const char *text, size_t n) {
    size_t low = 0, high = t->n_by_text;
    while (low < high) { /* the first whose text is not below text */
        size_t half = low + (high - low) / 2;
        const dsvk_token *token = &t->tokens[t->by_text[half]];
        int order = memcmp(t->bytes + token->at, text, token->n < n ? token->n : n);
        if (order < 0 || (order == 0 && token->n < n))
            low = half + 1;
        else
            high = half;
    }
    if (low == t->n_by_text)
        return -1;
    const dsvk_token *token = &t->tokens[t->by_text[low]];
    return token->n == n && memcmp(t->bytes + token->at, text, n) == 0 ? (int32_t)t->by_text[low] : -1;
}

int32_t dsvk_tokenizer_id(const dsvk_tokenizer *t, const char *text, size_t n) {
    return t && text && n > 0 ? dsvk_tokenizer_find(t, text, n) : -1;
}

/* ---- encoding ---- */

/* Room for n more ids. */
static dsvk_status reserve_ids(dsvk_encoder *e, size_t n) {
    if (e->capacity - e->n >= n)
        return DSVK_OK;
    size_t capacity = e->n + n + e->capacity / 2 + 64;
    int32_t *ids = dsvk_realloc(e->ids, capacity * sizeof *ids);
    if (!ids)
        return dsvk_fail_nomem(e->err, capacity * sizeof *ids);
    e->ids = ids;
    e->capacity = capacity;
    return DSVK_OK;
}

static dsvk_status encode_piece(void *user, size_t from, size_t to) {
    dsvk_encoder *e = user;
    size_t n = to - from, made;
    DSVK_TRY(reserve_ids(e, n));
    if (e->t->ignore_merges) {
        int32_t id = dsvk_tokenizer_find(e->t, e->text + from, n);
        if (id >= 0 && e->t->tokens[id].kind == DSVK_TOKEN_BYTES) {
            e->ids[e->n++] = id;
            return DSVK_OK;
        }
    }
    DSVK_TRY(dsvk_merge(&e->merger, e->t, e->text + from, n, e->ids + e->n, &made, e->err));
    e->n += made;
    return DSVK_OK;
}

/* Where the run that begins at `from` ends: of whole characters, or of bytes that are none. */
static size_t run_end(const char *text, size_t from, size_t to, bool *whole) {
    size_t i = from;
    while (i < to) {
        dsvk_utf8 kind;
        size_t n = dsvk_utf8_next(text + i, to - i, &kind);
        if (i == from)
            *whole = kind == DSVK_UTF8_CHAR;
        else if (*whole != (kind == DSVK_UTF8_CHAR))
            break;
        i += n;
    }
    return i;
}

static dsvk_status encode_ordinary(dsvk_encoder *e, size_t from, size_t to) {
    while (from < to) {
        bool whole = true;
        size_t end = run_end(e->text, from, to, &whole);
        DSVK_TRY(whole ? dsvk_split_run(e->split, from, end, encode_piece, e, e->err) : encode_piece(e, from, end));
        from = end;
    }
    return DSVK_OK;
}

/* Added tokens of this round and the later ones, and ordinary text between them. */
static dsvk_status encode_span(dsvk_encoder *e, int round, size_t from, size_t to) {
    if (round == DSVK_ADDED_ROUNDS)
        return encode_ordinary(e, from, to);
    while (from < to) {
        size_t at = to, length = 0;
        int32_t id = dsvk_added_find(&e->t->added, round, e->text, from, to, &at, &length);
        if (id < 0)
            return encode_span(e, round + 1, from, to);
        DSVK_TRY(encode_span(e, round + 1, from, at));
        DSVK_TRY(reserve_ids(e, 1));
        e->ids[e->n++] = id;
        from = at + length;
    }
    return DSVK_OK;
}

static dsvk_status encode_mark(dsvk_encoder *e, const dsvk_mark *mark) {
    int32_t token = -1;
    const int32_t *ids = mark->ids;
    size_t n_ids = mark->n_ids;
    if (!ids) {
        token = dsvk_tokenizer_find(e->t, e->text + mark->at, mark->n);
        if (token < 0 || e->t->tokens[token].kind < DSVK_TOKEN_ADDED)
            return dsvk_fail(e->err, DSVK_UNSUPPORTED, "the tokenizer has no added token %.*s", (int)mark->n,
                             e->text + mark->at);
        ids = &token;
        n_ids = 1;
    }
    DSVK_TRY(reserve_ids(e, n_ids));
    memcpy(e->ids + e->n, ids, n_ids * sizeof *ids);
    e->n += n_ids;
    return DSVK_OK;
}

static dsvk_status encode_text(const dsvk_tokenizer *t, const char *text, size_t n, int round, const dsvk_mark *marks,
                               size_t n_marks, int32_t **ids, size_t *n_ids, dsvk_error *err) {
    if (n > DSVK_TEXT_MAX)
        return dsvk_fail(err, DSVK_LIMIT, "text is %zu bytes long, the limit is %zu", n, DSVK_TEXT_MAX);
    dsvk_encoder e = {.t = t, .text = text, .err = err};
    dsvk_status status;
    size_t from = 0;
    DSVK_GOTO(reserve_ids(&e, n / 4 + 1));
    DSVK_GOTO(dsvk_split_begin(&e.split, t->splits, text, n, err));
    for (size_t i = 0; i < n_marks; i++) {
        DSVK_GOTO(encode_span(&e, round, from, marks[i].at));
        DSVK_GOTO(encode_mark(&e, &marks[i]));
        from = marks[i].at + marks[i].n;
    }
    DSVK_GOTO(encode_span(&e, round, from, n));
    *ids = e.ids;
    *n_ids = e.n;
    e.ids = NULL;
fail:
    dsvk_free(e.ids);
    dsvk_split_end(e.split);
    dsvk_merger_close(&e.merger);
    return status;
}

dsvk_status dsvk_tokenizer_encode_marked(const dsvk_tokenizer *t, const char *text, size_t n, const dsvk_mark *marks,
                                         size_t n_marks, int32_t **ids, size_t *n_ids, dsvk_error *err) {
    return encode_text(t, text, n, DSVK_ADDED_ROUNDS, marks, n_marks, ids, n_ids, err);
}

dsvk_status dsvk_tokenizer_encode(const dsvk_tokenizer *t, const char *text, size_t n, uint32_t flags, int32_t **ids,
                                  size_t *n_ids, dsvk_error *err) {
    if (!t || (!text && n > 0) || !ids || !n_ids)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_tokenizer_encode: %s is NULL",
                         !t       ? "tokenizer"
                         : !ids   ? "ids"
                         : !n_ids ? "n_ids"
                                  : "text");
    if (flags & ~DSVK_PARSE_SPECIAL)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_tokenizer_encode: unknown flags 0x%x", flags);
    return encode_text(t, text, n, flags & DSVK_PARSE_SPECIAL ? DSVK_ADDED_FIRST : DSVK_ADDED_ROUNDS, NULL, 0, ids,
                       n_ids, err);
}

/* ---- decoding ---- */

dsvk_status dsvk_tokenizer_decode(const dsvk_tokenizer *t, const int32_t *ids, size_t n, char **text, size_t *n_text,
                                  dsvk_error *err) {
    if (!t || (!ids && n > 0) || !text || !n_text)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_tokenizer_decode: %s is NULL",
                         !t        ? "tokenizer"
                         : !text   ? "text"
                         : !n_text ? "n_text"
                                   : "ids");
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        if (!has_token(t, ids[i]))
            return dsvk_fail(err, DSVK_INVALID, "id %d at %zu is no token; the vocabulary has ids below %u", ids[i], i,
                             t->vocab_size);
        total += t->tokens[ids[i]].n;
    }
    char *out = total < SIZE_MAX / 2 ? dsvk_alloc((size_t)total + 1) : NULL;
    if (!out)
        return dsvk_fail_nomem(err, total + 1);
    size_t made = 0;
    for (size_t i = 0; i < n; made += t->tokens[ids[i]].n, i++)
        memcpy(out + made, dsvk_token_bytes(t, ids[i]), t->tokens[ids[i]].n);
    out[made] = 0;
    *text = out;
    *n_text = made;
    return DSVK_OK;
}
