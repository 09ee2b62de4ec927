/* tokenizer.json into a tokenizer. Everything the file asks for is either done exactly or refused by name: a part that
 * changes ids is never skipped. Rows T01-T04 of the faults: every message names the entry.
 *
 * Vocabulary keys are written in the byte alphabet of GPT-2 (a printable character for each byte); tokens are kept as
 * the bytes they stand for. */
#include <inttypes.h>
#include <string.h>

#include "tokenizer.h"

#define BYTE_ALPHABET_END 324 /* code points of the byte alphabet are below this */

typedef struct loader {
    dsvk_tokenizer *t;
    const char *what;
    json_t *vocab, *merges, *added;     /* added may be NULL */
    int16_t byte_of[BYTE_ALPHABET_END]; /* by code point; -1: not in the alphabet */
    uint32_t n_bytes;                   /* of t->bytes, used so far */
    dsvk_error *err;
} loader;

typedef struct escaped {
    char text[160];
} escaped;

/* Hostile text for a message. */
static const char *show(escaped *out, const char *text) {
    return dsvk_escape(out->text, sizeof out->text, text, strlen(text));
}

/* ---- the parts that are only checked ---- */

static const char *type_name(const json_t *value) {
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        break;
    }
    return "null or missing";
}

static bool absent(const json_t *value) {
    return !value || json_is_null(value);
}

static bool is_type(const json_t *value, const char *type) {
    const char *name = json_string_value(json_object_get(value, "type"));
    return name && strcmp(name, type) == 0;
}

/* "its type", for messages about a part of an unknown type. */
static const char *show_type(escaped *out, const json_t *value) {
    const char *name = json_string_value(json_object_get(value, "type"));
    return name ? show(out, name) : type_name(value);
}

/* `key` must be null, missing, or the empty string. */
static dsvk_status refuse(loader *l, const json_t *object, const char *place, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (absent(value) || (json_is_string(value) && json_string_length(value) == 0))
        return DSVK_OK;
    return dsvk_fail(l->err, DSVK_UNSUPPORTED, "%s: %s%s is %s; only null is supported", l->what, place, key,
                     type_name(value));
}

/* The boolean `key`, `otherwise` when it is null or missing. */
static dsvk_status read_bool(loader *l, const json_t *object, const char *place, const char *key, bool otherwise,
                             bool *out) {
    const json_t *value = json_object_get(object, key);
    if (!absent(value) && !json_is_boolean(value))
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: %s%s is %s, expected true or false", l->what, place, key,
                         type_name(value));
    *out = absent(value) ? otherwise : json_is_true(value);
    return DSVK_OK;
}

static dsvk_status refuse_true(loader *l, const json_t *object, const char *place, const char *key, bool otherwise) {
    bool value;
    DSVK_TRY(read_bool(l, object, place, key, otherwise, &value));
    if (value)
        return dsvk_fail(l->err, DSVK_UNSUPPORTED, "%s: %s%s is true; only false is supported", l->what, place, key);
    return DSVK_OK;
}

static dsvk_status check_stages(loader *l, const json_t *root) {
    escaped name;
    const json_t *normalizer = json_object_get(root, "normalizer");
    bool empty = is_type(normalizer, "Sequence") && json_is_array(json_object_get(normalizer, "normalizers")) &&
                 json_array_size(json_object_get(normalizer, "normalizers")) == 0;
    if (!absent(normalizer) && !empty)
        return dsvk_fail(l->err, DSVK_UNSUPPORTED, "%s: normalizer is %s; only null or an empty Sequence is supported",
                         l->what, show_type(&name, normalizer));
    const json_t *decoder = json_object_get(root, "decoder");
    if (!is_type(decoder, "ByteLevel"))
        return dsvk_fail(l->err, DSVK_UNSUPPORTED, "%s: decoder is %s; only ByteLevel is supported", l->what,
                         show_type(&name, decoder));
    /* ByteLevel here only trims offsets; others add tokens to every text. */
    const json_t *post = json_object_get(root, "post_processor");
    if (!absent(post) && !is_type(post, "ByteLevel"))
        return dsvk_fail(l->err, DSVK_UNSUPPORTED, "%s: post_processor is %s; only null or ByteLevel is supported",
                         l->what, show_type(&name, post));
    DSVK_TRY(refuse(l, root, "", "truncation"));
    return refuse(l, root, "", "padding");
}

/* ---- pre_tokenizer ---- */

static dsvk_status read_split(loader *l, const json_t *stage, size_t index, const char **pattern) {
    escaped name;
    const json_t *regex = json_object_get(json_object_get(stage, "pattern"), "Regex");
    const char *behaviour = json_string_value(json_object_get(stage, "behavior"));
    if (!json_is_string(regex))
        return dsvk_fail(l->err, DSVK_UNSUPPORTED, "%s: pre_tokenizer %zu (Split) has no Regex pattern", l->what,
                         index);
    if (!behaviour || strcmp(behaviour, "Isolated") != 0)
        return dsvk_fail(l->err, DSVK_UNSUPPORTED,
                         "%s: pre_tokenizer %zu (Split) has behavior %s; only Isolated is supported", l->what, index,
                         behaviour ? show(&name, behaviour) : "missing");
    *pattern = json_string_value(regex);
    return refuse_true(l, stage, "pre_tokenizer.", "invert", false);
}

static dsvk_status read_byte_level(loader *l, const json_t *stage) {
    DSVK_TRY(refuse_true(l, stage, "pre_tokenizer.", "add_prefix_space", true));
    return refuse_true(l, stage, "pre_tokenizer.", "use_regex", true);
}

/* Any number of Split stages, then ByteLevel; ByteLevel alone is the same with none. */
static dsvk_status read_pre_tokenizer(loader *l, const json_t *root) {
    escaped name;
    const char *patterns[DSVK_SPLITS_MAX];
    size_t n_patterns = 0;
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    const json_t *stages = is_type(pre, "Sequence") ? json_object_get(pre, "pretokenizers") : NULL;
    size_t n = stages ? json_array_size(stages) : 1;
    if (n > DSVK_SPLITS_MAX)
        return dsvk_fail(l->err, DSVK_LIMIT, "%s: pre_tokenizer has %zu stages, the limit is %d", l->what, n,
                         DSVK_SPLITS_MAX);
    bool byte_level = false;
    for (size_t i = 0; i < n; i++) {
        const json_t *stage = stages ? json_array_get(stages, i) : pre;
        if (byte_level || !(is_type(stage, "Split") || is_type(stage, "ByteLevel")))
            return dsvk_fail(l->err, DSVK_UNSUPPORTED,
                             "%s: pre_tokenizer %zu is %s; only Split stages and then one ByteLevel are supported",
                             l->what, i, show_type(&name, stage));
        byte_level = is_type(stage, "ByteLevel");
        if (byte_level)
            DSVK_TRY(read_byte_level(l, stage));
        else
            DSVK_TRY(read_split(l, stage, i, &patterns[n_patterns++]));
    }
    if (!byte_level)
        return dsvk_fail(l->err, DSVK_UNSUPPORTED, "%s: pre_tokenizer has no ByteLevel stage", l->what);
    return dsvk_splits_open(&l->t->splits, patterns, n_patterns, l->what, l->err);
}

/* ---- tokens ---- */

/* The printable Latin-1 characters stand for their own bytes, code points from 256 on for the rest in order. */
static void make_byte_alphabet(int16_t *byte_of) {
    uint32_t next = 256;
    for (uint32_t c = 0; c < BYTE_ALPHABET_END; c++)
        byte_of[c] = -1;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || (b >= 0xae);
        byte_of[printable ? b : next++] = (int16_t)b;
    }
}

/* The bytes that `key` writes in the byte alphabet, into out [strlen(key)]; false when it has other characters. */
static bool read_byte_alphabet(const loader *l, const char *key, char *out, size_t *n_out) {
    size_t n = strlen(key), made = 0;
    for (size_t i = 0, length; i < n; i += length) {
        dsvk_utf8 kind;
        length = dsvk_utf8_next(key + i, n - i, &kind);
        uint32_t c = dsvk_utf8_code_point(key + i, length);
        if (c >= BYTE_ALPHABET_END || l->byte_of[c] < 0)
            return false;
        out[made++] = (char)l->byte_of[c];
    }
    *n_out = made;
    return true;
}

static dsvk_status read_id(loader *l, const json_t *value, const char *text, uint32_t *id) {
    escaped name;
    if (!json_is_integer(value))
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: the id of token \"%s\" is %s%s, expected an integer", l->what,
                         show(&name, text), type_name(value), json_is_real(value) ? " with a fraction" : "");
    json_int_t n = json_integer_value(value);
    if (n < 0 || n >= DSVK_VOCAB_MAX)
        return dsvk_fail(l->err, DSVK_FORMAT,
                         "%s: the id of token \"%s\" is %" JSON_INTEGER_FORMAT ", allowed are 0 to %u", l->what,
                         show(&name, text), n, DSVK_VOCAB_MAX - 1);
    *id = (uint32_t)n;
    return DSVK_OK;
}

static dsvk_status check_text(loader *l, const char *text, size_t n, size_t limit, const char *kind) {
    escaped name;
    if (n == 0)
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: %s has empty text", l->what, kind);
    if (n > limit)
        return dsvk_fail(l->err, DSVK_LIMIT, "%s: %s \"%s\" is %zu bytes long, the limit is %zu", l->what, kind,
                         show(&name, text), n, limit);
    return DSVK_OK;
}

/* First pass over vocabulary and added tokens: largest id and bytes of text, before anything of that size is made. */
static dsvk_status measure(loader *l, uint32_t *vocab_size, size_t *n_bytes, size_t *added_bytes) {
    const char *key;
    json_t *value;
    size_t i;
    uint32_t id;
    *vocab_size = 0;
    *n_bytes = *added_bytes = 0;
    json_object_foreach(l->vocab, key, value) {
        DSVK_TRY(read_id(l, value, key, &id));
        *vocab_size = id + 1 > *vocab_size ? id + 1 : *vocab_size;
        *n_bytes += strlen(key);
    }
    json_array_foreach(l->added, i, value) {
        const char *text = json_string_value(json_object_get(value, "content"));
        if (!text)
            return dsvk_fail(l->err, DSVK_FORMAT, "%s: added_tokens %zu has no content", l->what, i);
        DSVK_TRY(read_id(l, json_object_get(value, "id"), text, &id));
        *vocab_size = id + 1 > *vocab_size ? id + 1 : *vocab_size;
        *added_bytes += strlen(text);
    }
    if (*added_bytes > DSVK_ADDED_TOTAL_MAX)
        return dsvk_fail(l->err, DSVK_LIMIT, "%s: the texts of the added tokens are %zu bytes, the limit is %u",
                         l->what, *added_bytes, DSVK_ADDED_TOTAL_MAX);
    *n_bytes += *added_bytes;
    return DSVK_OK;
}

static void store_token(loader *l, uint32_t id, size_t n, dsvk_token_kind kind) {
    l->t->tokens[id] = (dsvk_token){.at = l->n_bytes, .n = (uint32_t)n, .kind = kind};
    l->n_bytes += (uint32_t)n;
    if (n > l->t->longest)
        l->t->longest = (uint32_t)n;
}

static dsvk_status read_vocab(loader *l) {
    escaped name;
    const char *key;
    json_t *value;
    json_object_foreach(l->vocab, key, value) {
        uint32_t id = (uint32_t)json_integer_value(value);
        size_t n = strlen(key);
        char *out = l->t->bytes + l->n_bytes;
        if (l->t->tokens[id].kind != DSVK_TOKEN_NONE)
            return dsvk_fail(l->err, DSVK_FORMAT, "%s: token \"%s\" has id %u, as another token has", l->what,
                             show(&name, key), id);
        bool in_alphabet = read_byte_alphabet(l, key, out, &n);
        DSVK_TRY(check_text(l, key, n, DSVK_TOKEN_BYTES_MAX, "token"));
        if (!in_alphabet)
            memcpy(out, key, n);
        store_token(l, id, n, in_alphabet ? DSVK_TOKEN_BYTES : DSVK_TOKEN_LITERAL);
    }
    return DSVK_OK;
}

static dsvk_status read_added_token(loader *l, const json_t *entry) {
    escaped name;
    char place[200];
    const char *text = json_string_value(json_object_get(entry, "content"));
    size_t n = strlen(text);
    uint32_t id = (uint32_t)json_integer_value(json_object_get(entry, "id"));
    bool special, normalized;
    DSVK_TRY(check_text(l, text, n, DSVK_ADDED_BYTES_MAX, "added token"));
    snprintf(place, sizeof place, "added token \"%s\": ", show(&name, text));
    DSVK_TRY(refuse_true(l, entry, place, "single_word", false));
    DSVK_TRY(refuse_true(l, entry, place, "lstrip", false));
    DSVK_TRY(refuse_true(l, entry, place, "rstrip", false));
    DSVK_TRY(read_bool(l, entry, place, "special", false, &special));
    DSVK_TRY(read_bool(l, entry, place, "normalized", !special, &normalized));
    /* An added token may repeat an entry of the vocabulary, text and id alike. */
    const json_t *same = json_object_get(l->vocab, text);
    if (same && json_integer_value(same) != id)
        return dsvk_fail(l->err, DSVK_FORMAT,
                         "%s: added token \"%s\" has id %u, the vocabulary gives it %" JSON_INTEGER_FORMAT, l->what,
                         name.text, id, json_integer_value(same));
    if (!same && l->t->tokens[id].kind != DSVK_TOKEN_NONE)
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: added token \"%s\" has id %u, as another token has", l->what,
                         name.text, id);
    if (l->t->tokens[id].kind == DSVK_TOKEN_ADDED || l->t->tokens[id].kind == DSVK_TOKEN_SPECIAL)
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: added token \"%s\" is there twice", l->what, name.text);
    memcpy(l->t->bytes + l->n_bytes, text, n);
    store_token(l, id, n, special ? DSVK_TOKEN_SPECIAL : DSVK_TOKEN_ADDED);
    return dsvk_added_put(&l->t->added, normalized ? DSVK_ADDED_SECOND : DSVK_ADDED_FIRST, text, n, (int32_t)id,
                          l->err);
}

static dsvk_status read_tokens(loader *l) {
    dsvk_tokenizer *t = l->t;
    uint32_t vocab_size;
    size_t n_bytes, added_bytes, i;
    json_t *entry;
    DSVK_TRY(measure(l, &vocab_size, &n_bytes, &added_bytes));
    t->tokens = dsvk_alloc_zero(vocab_size, sizeof *t->tokens);
    t->bytes = dsvk_alloc(n_bytes);
    if (!t->tokens || !t->bytes)
        return dsvk_fail_nomem(l->err, (uint64_t)vocab_size * sizeof *t->tokens + n_bytes);
    t->vocab_size = vocab_size;
    DSVK_TRY(read_vocab(l));
    DSVK_TRY(dsvk_added_open(&t->added, added_bytes, json_array_size(l->added), l->err));
    json_array_foreach(l->added, i, entry) {
        DSVK_TRY(read_added_token(l, entry));
    }
    return DSVK_OK;
}

static bool is_added(const dsvk_tokenizer *t, uint32_t id) {
    return t->tokens[id].kind == DSVK_TOKEN_ADDED || t->tokens[id].kind == DSVK_TOKEN_SPECIAL;
}

/* Orders ids by their bytes, added tokens before others of the same text. */
static int by_text_order(const void *a, const void *b, void *user) {
    const dsvk_tokenizer *t = user;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    size_t nx = t->tokens[x].n, ny = t->tokens[y].n;
    int order = memcmp(dsvk_token_bytes(t, (int32_t)x), dsvk_token_bytes(t, (int32_t)y), nx < ny ? nx : ny);
    if (order == 0)
        order = (nx > ny) - (nx < ny);
    if (order == 0)
        order = (int)is_added(t, y) - (int)is_added(t, x);
    return order ? order : (x > y) - (x < y);
}

/* Two added tokens of one text; with by_text in order they are neighbours. */
static dsvk_status refuse_repeated(loader *l) {
    const dsvk_tokenizer *t = l->t;
    for (uint32_t i = 1; i < t->n_by_text; i++) {
        uint32_t x = t->by_text[i - 1], y = t->by_text[i];
        char text[160];
        if (is_added(t, x) && is_added(t, y) && t->tokens[x].n == t->tokens[y].n &&
            memcmp(dsvk_token_bytes(t, (int32_t)x), dsvk_token_bytes(t, (int32_t)y), t->tokens[x].n) == 0)
            return dsvk_fail(l->err, DSVK_FORMAT, "%s: added tokens %u and %u repeat the text \"%s\"", l->what, x, y,
                             dsvk_escape(text, sizeof text, dsvk_token_bytes(t, (int32_t)x), t->tokens[x].n));
    }
    return DSVK_OK;
}

static dsvk_status index_tokens(loader *l) {
    dsvk_tokenizer *t = l->t;
    t->by_text = dsvk_alloc((size_t)t->vocab_size * sizeof *t->by_text);
    if (!t->by_text)
        return dsvk_fail_nomem(l->err, (uint64_t)t->vocab_size * sizeof *t->by_text);
    for (uint32_t id = 0; id < t->vocab_size; id++)
        if (t->tokens[id].kind != DSVK_TOKEN_NONE)
            t->by_text[t->n_by_text++] = id;
    qsort_r(t->by_text, t->n_by_text, sizeof *t->by_text, by_text_order, t);
    DSVK_TRY(refuse_repeated(l));
    for (int b = 0; b < 256; b++)
        t->byte_id[b] = -1;
    for (uint32_t id = 0; id < t->vocab_size; id++)
        if (t->tokens[id].kind == DSVK_TOKEN_BYTES && t->tokens[id].n == 1)
            t->byte_id[(unsigned char)*dsvk_token_bytes(t, (int32_t)id)] = (int32_t)id;
    for (int b = 0; b < 256; b++)
        if (t->byte_id[b] < 0)
            return dsvk_fail(l->err, DSVK_FORMAT, "%s: the vocabulary has no token for byte 0x%02x", l->what, b);
    return DSVK_OK;
}

/* ---- merges ---- */

/* The two sides of a merge: ["a", "b"], or "a b" (the alphabet writes a space as another character). */
static dsvk_status merge_sides(loader *l, const json_t *entry, size_t index, const char *sides[2], size_t n[2]) {
    escaped name;
    if (json_is_array(entry) && json_array_size(entry) == 2 && json_is_string(json_array_get(entry, 0)) &&
        json_is_string(json_array_get(entry, 1))) {
        for (size_t i = 0; i < 2; i++) {
            sides[i] = json_string_value(json_array_get(entry, i));
            n[i] = strlen(sides[i]);
        }
        return DSVK_OK;
    }
    const char *text = json_string_value(entry);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: merge %zu is %s%s%s, expected two texts", l->what, index,
                         text ? "\"" : "", text ? show(&name, text) : type_name(entry), text ? "\"" : "");
    sides[0] = text;
    n[0] = (size_t)(space - text);
    sides[1] = space + 1;
    n[1] = strlen(space + 1);
    return DSVK_OK;
}

static dsvk_status merge_id(loader *l, size_t index, const char *key, const char *role, uint32_t *id) {
    escaped name;
    const json_t *value = json_object_get(l->vocab, key);
    if (!value)
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: merge %zu: its %s \"%s\" is not in the vocabulary", l->what, index,
                         role, show(&name, key));
    *id = (uint32_t)json_integer_value(value);
    return DSVK_OK;
}

static dsvk_status read_merge(loader *l, const json_t *entry, size_t index, char *joined, size_t joined_size) {
    escaped name;
    const char *sides[2] = {NULL, NULL};
    size_t n[2] = {0, 0};
    uint32_t ids[2], result;
    DSVK_TRY(merge_sides(l, entry, index, sides, n));
    if (n[0] + n[1] >= joined_size)
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: merge %zu makes %zu bytes, no token is that long", l->what, index,
                         n[0] + n[1]);
    for (int i = 0; i < 2; i++) {
        memcpy(joined, sides[i], n[i]);
        joined[n[i]] = 0;
        DSVK_TRY(merge_id(l, index, joined, i ? "right side" : "left side", &ids[i]));
    }
    memcpy(joined, sides[0], n[0]);
    memcpy(joined + n[0], sides[1], n[1]);
    joined[n[0] + n[1]] = 0;
    DSVK_TRY(merge_id(l, index, joined, "result", &result));
    if (is_added(l->t, result))
        return dsvk_fail(l->err, DSVK_UNSUPPORTED,
                         "%s: merge %zu makes added token \"%s\"; ordinary text must not (faults T07)", l->what, index,
                         show(&name, joined));
    bool is_new;
    dsvk_pair_slot *slot = dsvk_pair_map_put(&l->t->merges, (uint64_t)ids[0] << 32 | ids[1], &is_new);
    if (!slot)
        return dsvk_fail(l->err, DSVK_LIMIT, "%s: merge %zu: the merges cannot be indexed", l->what, index);
    if (!is_new)
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: merge %zu repeats merge %u (\"%s\")", l->what, index, slot->rank,
                         show(&name, joined));
    slot->rank = (uint32_t)index;
    slot->id = (int32_t)result;
    return DSVK_OK;
}

static dsvk_status read_merges(loader *l) {
    size_t n = json_array_size(l->merges), joined_size = 1, i;
    const char *key;
    json_t *value;
    if (n > DSVK_MERGES_MAX)
        return dsvk_fail(l->err, DSVK_LIMIT, "%s: %zu merges, the limit is %u", l->what, n, DSVK_MERGES_MAX);
    json_object_foreach(l->vocab, key, value) {
        joined_size = strlen(key) >= joined_size ? strlen(key) + 1 : joined_size;
    }
    char *joined = dsvk_alloc(joined_size);
    if (!joined || !dsvk_pair_map_open(&l->t->merges, n)) {
        dsvk_free(joined);
        return dsvk_fail_nomem(l->err, joined_size + (uint64_t)n * 2 * sizeof(dsvk_pair_slot));
    }
    l->t->n_merges = (uint32_t)n;
    dsvk_status status = DSVK_OK;
    for (i = 0; i < n && status == DSVK_OK; i++)
        status = read_merge(l, json_array_get(l->merges, i), i, joined, joined_size);
    dsvk_free(joined);
    return status;
}

/* ---- the file ---- */

static dsvk_status read_model(loader *l, const json_t *root) {
    escaped name;
    const json_t *model = json_object_get(root, "model");
    if (!is_type(model, "BPE"))
        return dsvk_fail(l->err, json_is_object(model) ? DSVK_UNSUPPORTED : DSVK_FORMAT,
                         "%s: model is %s; only BPE is supported", l->what, show_type(&name, model));
    DSVK_TRY(refuse(l, model, "model.", "dropout"));
    DSVK_TRY(refuse(l, model, "model.", "unk_token"));
    DSVK_TRY(refuse(l, model, "model.", "continuing_subword_prefix"));
    DSVK_TRY(refuse(l, model, "model.", "end_of_word_suffix"));
    DSVK_TRY(refuse_true(l, model, "model.", "byte_fallback", false));
    DSVK_TRY(read_bool(l, model, "model.", "ignore_merges", false, &l->t->ignore_merges));
    l->vocab = json_object_get(model, "vocab");
    l->merges = json_object_get(model, "merges");
    l->added = json_object_get(root, "added_tokens");
    if (!json_is_object(l->vocab))
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: model.vocab is %s, expected an object", l->what,
                         type_name(l->vocab));
    if (!json_is_array(l->merges))
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: model.merges is %s, expected an array", l->what,
                         type_name(l->merges));
    if (!absent(l->added) && !json_is_array(l->added))
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: added_tokens is %s, expected an array", l->what,
                         type_name(l->added));
    DSVK_TRY(read_tokens(l));
    DSVK_TRY(index_tokens(l));
    return read_merges(l);
}

static dsvk_status read_root(loader *l, const json_t *root) {
    if (!json_is_object(root))
        return dsvk_fail(l->err, DSVK_FORMAT, "%s: is %s at offset 0, expected an object", l->what, type_name(root));
    DSVK_TRY(check_stages(l, root));
    DSVK_TRY(read_pre_tokenizer(l, root));
    return read_model(l, root);
}

dsvk_status dsvk_tokenizer_parse(dsvk_tokenizer *t, const char *text, size_t n, const char *what, dsvk_error *err) {
    loader l = {.t = t, .what = what, .err = err};
    json_t *root = NULL;
    make_byte_alphabet(l.byte_of);
    DSVK_TRY(dsvk_json_parse(&root, text, n, what, err));
    dsvk_status status = read_root(&l, root);
    json_decref(root);
    return status;
}
