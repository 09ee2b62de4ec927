/* Cutting text by the patterns of a tokenizer.json, through PCRE2. Each pattern cuts every part left by the one before
 * it into its matches and the gaps between them; a part is a subject of its own, so look-around sees nothing outside.
 *
 * The patterns were written for Oniguruma, as `tokenizers` uses it. Two things differ there, and both are removed by
 * matching on a copy of the text in which some characters have stand-ins of equal length (stand_in below).
 *
 * Time: the family's patterns need constant work per character, proved by test_T05. A pattern is part of a downloaded
 * file, though, so every attempt is bounded in steps, depth and heap, and all attempts together in seconds. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>
#include <time.h>

#include "tokenizer.h"

#define PATTERN_BYTES_MAX 4096
#define NESTING_MAX 32 /* of parentheses: PCRE2 compiles them recursively, and a caller's stack may be 256 KiB */
/* Bytes in which the match sought by one call may begin; the clock is read per call. PCRE2 may look for a first byte up
 * to the end of the subject each time, so the number of windows is bounded to keep that linear. */
#define WINDOW(n) ((n) / 64 > 4096 ? (n) / 64 : 4096)
#define QUICK_STEPS 1000 /* per beginning, where many are tried in one call */
/* \s*[\r\n]+ takes one step per space of a run that no line end follows. */
#define FULL_STEPS(n) ((n) > 100000000 ? UINT32_MAX : 1000000 + 32 * (uint32_t)(n))
#define DEPTH_MAX 1000000
#define HEAP_KIB_MAX 65536
#define NS_ALLOWED(n) (10000000000 + 4000 * (int64_t)(n)) /* ten seconds and 4 us a byte: 30 times what is usual */

struct dsvk_splits {
    pcre2_general_context *memory;
    pcre2_code *codes[DSVK_SPLITS_MAX];
    char names[DSVK_SPLITS_MAX][96]; /* the pattern, escaped and cut, for messages */
    size_t n;
};

struct dsvk_split_state {
    const dsvk_splits *splits;
    pcre2_match_context *context;
    pcre2_match_data *match;
    const char *text; /* what the patterns see: the caller's text, or `copy` */
    char *copy;
    int64_t deadline; /* CLOCK_MONOTONIC ns */
};

/* ---- compiling ---- */

static void *pcre2_alloc_through(PCRE2_SIZE n, void *user) {
    (void)user;
    return dsvk_alloc(n);
}

static void pcre2_free_through(void *p, void *user) {
    (void)user;
    dsvk_free(p);
}

static dsvk_status compile_one(dsvk_splits *s, pcre2_compile_context *context, const char *pattern, const char *what,
                               dsvk_error *err) {
    dsvk_escape(s->names[s->n], sizeof s->names[s->n], pattern, strlen(pattern));
    const char *name = s->names[s->n];
    if (strlen(pattern) > PATTERN_BYTES_MAX)
        return dsvk_fail(err, DSVK_LIMIT, "%s: split pattern %zu is %zu bytes long, the limit is %d: %s", what, s->n,
                         strlen(pattern), PATTERN_BYTES_MAX, name);
    int code;
    PCRE2_SIZE offset;
    /* MULTILINE: in Oniguruma's default syntax ^ and $ belong to lines. */
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT;
    pcre2_code *compiled = pcre2_compile((PCRE2_SPTR)pattern, strlen(pattern), options, &code, &offset, context);
    if (!compiled && code == PCRE2_ERROR_HEAP_FAILED)
        return dsvk_fail_nomem(err, strlen(pattern));
    if (!compiled) {
        char reason[128] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        return dsvk_fail(err, DSVK_UNSUPPORTED, "%s: split pattern %zu does not compile: %s at offset %zu of %s", what,
                         s->n, reason, (size_t)offset, name);
    }
    s->codes[s->n++] = compiled;
    uint32_t matches_empty = 0;
    pcre2_pattern_info(compiled, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty)
        return dsvk_fail(err, DSVK_UNSUPPORTED, "%s: split pattern %zu can match nothing at all: %s", what, s->n - 1,
                         name);
    return DSVK_OK;
}

dsvk_status dsvk_splits_open(dsvk_splits **splits, const char *const *patterns, size_t n, const char *what,
                             dsvk_error *err) {
    dsvk_status status = DSVK_OK;
    pcre2_compile_context *context = NULL;
    dsvk_splits *s = dsvk_alloc_zero(1, sizeof *s);
    if (!s)
        return dsvk_fail_nomem(err, sizeof *s);
    s->memory = pcre2_general_context_create(pcre2_alloc_through, pcre2_free_through, NULL);
    context = s->memory ? pcre2_compile_context_create(s->memory) : NULL;
    if (!context) {
        status = dsvk_fail_nomem(err, sizeof *s);
        goto fail;
    }
    pcre2_set_parens_nest_limit(context, NESTING_MAX);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    for (size_t i = 0; i < n; i++)
        DSVK_GOTO(compile_one(s, context, patterns[i], what, err));
    *splits = s;
    s = NULL;
fail:
    pcre2_compile_context_free(context);
    dsvk_splits_close(s);
    return status;
}

void dsvk_splits_close(dsvk_splits *splits) {
    if (!splits)
        return;
    for (size_t i = 0; i < splits->n; i++)
        pcre2_code_free(splits->codes[i]);
    pcre2_general_context_free(splits->memory);
    dsvk_free(splits);
}

/* ---- stand-ins ---- */

/* Characters that Unicode 15.0, 15.1 and 16.0 added: Oniguruma in `tokenizers` knows them, PCRE2 before 10.45 sees them
 * as unassigned. Inclusive ranges by general category, from comparing the two over all code points. */
typedef struct range {
    uint32_t first, last;
} range;

static const range new_letters[] = {
    {0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3}, {0x10d4a, 0x10d65},
    {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x1123f, 0x11240}, {0x11380, 0x11389}, {0x1138b, 0x1138b},
    {0x1138e, 0x1138e}, {0x11390, 0x113b5}, {0x113b7, 0x113b7}, {0x113d1, 0x113d1}, {0x113d3, 0x113d3},
    {0x11bc0, 0x11be0}, {0x11f02, 0x11f02}, {0x11f04, 0x11f10}, {0x11f12, 0x11f33}, {0x1342f, 0x1342f},
    {0x13441, 0x13446}, {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c}, {0x18cff, 0x18cff},
    {0x1b132, 0x1b132}, {0x1b155, 0x1b155}, {0x1df25, 0x1df2a}, {0x1e030, 0x1e06d}, {0x1e4d0, 0x1e4eb},
    {0x1e5d0, 0x1e5ed}, {0x1e5f0, 0x1e5f0}, {0x2b739, 0x2b739}, {0x2ebf0, 0x2ee5d}, {0x31350, 0x323af},
};
static const range new_marks[] = {
    {0x897, 0x897},     {0xcf3, 0xcf3},     {0xece, 0xece},     {0x10d69, 0x10d6d}, {0x10efc, 0x10eff},
    {0x11241, 0x11241}, {0x113b8, 0x113c0}, {0x113c2, 0x113c2}, {0x113c5, 0x113c5}, {0x113c7, 0x113ca},
    {0x113cc, 0x113d0}, {0x113d2, 0x113d2}, {0x113e1, 0x113e2}, {0x11f00, 0x11f01}, {0x11f03, 0x11f03},
    {0x11f34, 0x11f3a}, {0x11f3e, 0x11f42}, {0x11f5a, 0x11f5a}, {0x13440, 0x13440}, {0x13447, 0x13455},
    {0x1611e, 0x1612f}, {0x1e08f, 0x1e08f}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef},
};
static const range new_numbers[] = {
    {0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9}, {0x11f50, 0x11f59}, {0x16130, 0x16139},
    {0x16d70, 0x16d79}, {0x1ccf0, 0x1ccf9}, {0x1d2c0, 0x1d2d3}, {0x1e4f0, 0x1e4f9}, {0x1e5f1, 0x1e5fa},
};
static const range new_punctuation[] = {
    {0x1b4e, 0x1b4f},   {0x1b7f, 0x1b7f},   {0x10d6e, 0x10d6e}, {0x113d4, 0x113d5}, {0x113d7, 0x113d8},
    {0x11b00, 0x11b09}, {0x11be1, 0x11be1}, {0x11f43, 0x11f4f}, {0x16d6d, 0x16d6f}, {0x1e5ff, 0x1e5ff},
};
static const range new_symbols[] = {
    {0x2427, 0x2429},   {0x2ffc, 0x2fff},   {0x31e4, 0x31e5},   {0x31ef, 0x31ef},   {0x10d8e, 0x10d8f},
    {0x1cc00, 0x1ccef}, {0x1cd00, 0x1ceb3}, {0x1f6dc, 0x1f6dc}, {0x1f774, 0x1f776}, {0x1f77b, 0x1f77f},
    {0x1f7d9, 0x1f7d9}, {0x1f8b2, 0x1f8bb}, {0x1f8c0, 0x1f8c1}, {0x1fa75, 0x1fa77}, {0x1fa87, 0x1fa89},
    {0x1fa8f, 0x1fa8f}, {0x1faad, 0x1faaf}, {0x1fabb, 0x1fabf}, {0x1fac6, 0x1fac6}, {0x1face, 0x1facf},
    {0x1fada, 0x1fadc}, {0x1fadf, 0x1fadf}, {0x1fae8, 0x1fae9}, {0x1faf7, 0x1faf8}, {0x1fbcb, 0x1fbef},
};
/* U+180E MONGOLIAN VOWEL SEPARATOR is \s in PCRE2, but in Oniguruma the format character that it is. */
static const range not_space[] = {{0x180e, 0x180e}};

static const struct {
    const range *ranges;
    size_t n;
    const char *three, *four; /* old characters of the same category, three and four bytes long */
} stand_ins[] = {
    {new_letters, DSVK_COUNT(new_letters), "\xea\x80\x80", "\xf0\x90\x80\x80"},         /* U+A000, U+10000 */
    {new_marks, DSVK_COUNT(new_marks), "\xe0\xa4\x80", "\xf0\x90\x87\xbd"},             /* U+0900, U+101FD */
    {new_numbers, DSVK_COUNT(new_numbers), "\xe0\xbc\xa0", "\xf0\x90\x84\x87"},         /* U+0F20, U+10107 */
    {new_punctuation, DSVK_COUNT(new_punctuation), "\xe2\x80\xa0", "\xf0\x90\x84\x80"}, /* U+2020, U+10100 */
    {new_symbols, DSVK_COUNT(new_symbols), "\xe2\x86\x90", "\xf0\x90\x84\xb7"},         /* U+2190, U+10137 */
    {not_space, DSVK_COUNT(not_space), "\xe2\x80\x8b", NULL},                           /* U+200B */
};

static bool in_ranges(const range *ranges, size_t n, uint32_t c) {
    size_t low = 0;
    while (n > 0) {
        size_t half = n / 2;
        if (c > ranges[low + half].last) {
            low += half + 1;
            n -= half + 1;
        } else if (c < ranges[low + half].first) {
            n = half;
        } else {
            return true;
        }
    }
    return false;
}

/* The old character of `length` bytes that the patterns see instead of c; NULL when they see c itself. */
static const char *stand_in(uint32_t c, size_t length) {
    if (length < 3 || (c >= 0x3400 && c < 0xa000) || (c >= 0xac00 && c < 0x10000)) /* Han, Hangul: nothing new there */
        return NULL;
    for (size_t i = 0; i < DSVK_COUNT(stand_ins); i++)
        if (in_ranges(stand_ins[i].ranges, stand_ins[i].n, c))
            return length == 3 ? stand_ins[i].three : stand_ins[i].four;
    return NULL;
}

/* Sets state->text: the text itself, or a copy of it where something in it has a stand-in. */
static dsvk_status make_view(dsvk_split_state *state, const char *text, size_t n, dsvk_error *err) {
    state->text = text;
    for (size_t i = 0, length; i < n; i += length) {
        if ((unsigned char)text[i] < 0x80) {
            length = 1;
            continue;
        }
        dsvk_utf8 kind;
        length = dsvk_utf8_next(text + i, n - i, &kind);
        const char *old = kind == DSVK_UTF8_CHAR ? stand_in(dsvk_utf8_code_point(text + i, length), length) : NULL;
        if (!old)
            continue;
        if (!state->copy) {
            state->copy = dsvk_strdup_n(text, n);
            if (!state->copy)
                return dsvk_fail_nomem(err, n + 1);
            state->text = state->copy;
        }
        memcpy(state->copy + i, old, length);
    }
    return DSVK_OK;
}

/* ---- matching ---- */

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

dsvk_status dsvk_split_begin(dsvk_split_state **out, const dsvk_splits *splits, const char *text, size_t n,
                             dsvk_error *err) {
    dsvk_split_state *state = dsvk_alloc_zero(1, sizeof *state);
    if (!state)
        return dsvk_fail_nomem(err, sizeof *state);
    state->splits = splits;
    state->context = pcre2_match_context_create(splits->memory);
    state->match = pcre2_match_data_create(1, splits->memory); /* only where the whole match is */
    dsvk_status status =
        state->context && state->match ? make_view(state, text, n, err) : dsvk_fail_nomem(err, sizeof *state);
    if (status != DSVK_OK) {
        dsvk_split_end(state);
        return status;
    }
    pcre2_set_depth_limit(state->context, DEPTH_MAX);
    pcre2_set_heap_limit(state->context, HEAP_KIB_MAX);
    state->deadline = now_ns() + NS_ALLOWED(n);
    *out = state;
    return DSVK_OK;
}

void dsvk_split_end(dsvk_split_state *state) {
    if (!state)
        return;
    pcre2_match_data_free(state->match);
    pcre2_match_context_free(state->context);
    dsvk_free(state->copy);
    dsvk_free(state);
}

/* One call of PCRE2: a match that begins in [at, last] of subject [n]. */
static int attempt(dsvk_split_state *state, const pcre2_code *code, const char *subject, size_t n, size_t at,
                   size_t last, uint32_t steps) {
    if (now_ns() > state->deadline)
        return PCRE2_ERROR_MATCHLIMIT;
    pcre2_set_match_limit(state->context, steps);
    pcre2_set_offset_limit(state->context, last);
    return pcre2_match(code, (PCRE2_SPTR)subject, n, at, PCRE2_NO_UTF_CHECK, state->match, state->context);
}

/* The same when one of the beginnings needs more than QUICK_STEPS: each by itself, with FULL_STEPS. */
static int attempt_each(dsvk_split_state *state, const pcre2_code *code, const char *subject, size_t n, size_t at,
                        size_t last) {
    int rc = PCRE2_ERROR_NOMATCH;
    for (size_t i = at; i <= last && i < n && rc == PCRE2_ERROR_NOMATCH; i++) {
        if (((unsigned char)subject[i] & 0xc0) == 0x80)
            continue; /* inside a character */
        rc = attempt(state, code, subject, n, i, i, FULL_STEPS(n));
    }
    return rc;
}

/* The first match in subject [at, n): its place in [*start, *end), or *start = *end = n when there is none. */
static dsvk_status find_match(dsvk_split_state *state, size_t which, const char *subject, size_t n, size_t at,
                              size_t *start, size_t *end, dsvk_error *err) {
    const pcre2_code *code = state->splits->codes[which];
    const size_t window = WINDOW(n);
    int rc = PCRE2_ERROR_NOMATCH;
    for (; at < n && rc == PCRE2_ERROR_NOMATCH; at += window) {
        while (((unsigned char)subject[at] & 0xc0) == 0x80 && at > 0)
            at--;
        size_t last = n - at <= window ? n : at + window - 1;
        rc = attempt(state, code, subject, n, at, last, QUICK_STEPS);
        if (rc == PCRE2_ERROR_MATCHLIMIT)
            rc = attempt_each(state, code, subject, n, at, last);
    }
    *start = *end = n;
    if (rc == PCRE2_ERROR_NOMATCH)
        return DSVK_OK;
    if (rc == PCRE2_ERROR_NOMEMORY)
        return dsvk_fail_nomem(err, n);
    if (rc < 0)
        return dsvk_fail(err, DSVK_LIMIT, "split pattern %zu takes too long on this text (%zu bytes): %s", which, n,
                         state->splits->names[which]);
    PCRE2_SIZE *place = pcre2_get_ovector_pointer(state->match);
    /* \K and look-behind can move a match's ends about; only one that moves on is of use. */
    if (place[1] <= place[0] || place[1] > n)
        return dsvk_fail(err, DSVK_UNSUPPORTED, "split pattern %zu matched nothing at offset %zu: %s", which,
                         (size_t)place[0], state->splits->names[which]);
    *start = place[0];
    *end = place[1];
    return DSVK_OK;
}

static dsvk_status run_from(dsvk_split_state *state, size_t which, size_t from, size_t to, dsvk_piece_fn piece,
                            void *user, dsvk_error *err) {
    if (from == to)
        return DSVK_OK;
    if (which == state->splits->n)
        return piece(user, from, to);
    const char *subject = state->text + from;
    size_t n = to - from;
    for (size_t at = 0, start, end; at < n; at = end) {
        DSVK_TRY(find_match(state, which, subject, n, at, &start, &end, err));
        if (start < at) /* \K inside a look-behind */
            return dsvk_fail(err, DSVK_UNSUPPORTED, "split pattern %zu went backwards: %s", which,
                             state->splits->names[which]);
        DSVK_TRY(run_from(state, which + 1, from + at, from + start, piece, user, err));
        DSVK_TRY(run_from(state, which + 1, from + start, from + end, piece, user, err));
    }
    return DSVK_OK;
}

dsvk_status dsvk_split_run(dsvk_split_state *state, size_t from, size_t to, dsvk_piece_fn piece, void *user,
                           dsvk_error *err) {
    return run_from(state, 0, from, to, piece, user, err);
}
