/* The checker is one loop over the text with an explicit stack of DSVK_JSON_DEPTH levels. Keys of open objects are kept
 * as (offset, hash of the decoded bytes); closing an object sorts its keys, so that equal ones become neighbours
 * however many there are and whatever their hashes. */
#include "json_reader.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- strings ---- */

/* The bytes of a checked string one by one: `at` stands behind the opening quote. */
struct unescape {
    const char *at;
    unsigned char bytes[4]; /* of the escape being delivered */
    uint32_t n, i;
};

static uint32_t hex4(const char *text) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char c = text[i];
        value = value << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return value;
}

static uint32_t utf8_encode(uint32_t c, unsigned char *out) {
    if (c < 0x80) {
        out[0] = (unsigned char)c;
        return 1;
    }
    uint32_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (uint32_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (unsigned char)(0x80 | (c & 0x3f));
    out[0] = (unsigned char)((0xf00 >> n & 0xff) | c);
    return n;
}

/* The next byte, or -1 at the closing quote. */
static int next_byte(struct unescape *u) {
    if (u->i < u->n)
        return u->bytes[u->i++];
    if (*u->at == '"')
        return -1;
    if (*u->at != '\\')
        return (unsigned char)*u->at++;
    char c = u->at[1];
    u->at += 2;
    switch (c) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'u': break;
    default: return (unsigned char)c;
    }
    uint32_t code = hex4(u->at);
    u->at += 4;
    if (code >= 0xd800 && code < 0xdc00) { /* the check has seen the second half */
        code = 0x10000 + ((code - 0xd800) << 10) + (hex4(u->at + 2) - 0xdc00);
        u->at += 6;
    }
    u->n = utf8_encode(code, u->bytes);
    u->i = 1;
    return u->bytes[0];
}

/* Order of two checked strings given by their opening quotes. */
static int compare_strings(const char *a, const char *b) {
    struct unescape x = { .at = a + 1 }, y = { .at = b + 1 };
    for (;;) {
        int c = next_byte(&x), d = next_byte(&y);
        if (c != d || c < 0)
            return c - d;
    }
}

static uint32_t hash_string(const char *quote) {
    struct unescape u = { .at = quote + 1 };
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (int c; (c = next_byte(&u)) >= 0;)
        hash = (hash ^ (uint32_t)c) * 16777619u;
    return hash;
}

/* ---- the check ---- */

struct key {
    uint32_t offset, hash; /* offset of the opening quote */
};

struct check {
    const unsigned char *text;
    size_t n, at;
    uint32_t allow; /* DSVK_JSON_NUL, DSVK_JSON_REPEATED */
    const char *what;
    dsvk_error *err;
    struct key *keys; /* of all open objects, innermost last */
    size_t n_keys, key_capacity;
    uint32_t depth;
    struct {
        bool object;
        size_t first_key;
    } levels[DSVK_JSON_DEPTH];
};

static dsvk_status bad(struct check *c, size_t offset, const char *reason) {
    return dsvk_fail(c->err, DSVK_FORMAT, "%s: %s at offset %zu", c->what, reason, offset);
}

static void skip_space(struct check *c) {
    while (c->at < c->n && (c->text[c->at] == ' ' || c->text[c->at] == '\n' || c->text[c->at] == '\r' ||
                            c->text[c->at] == '\t'))
        c->at++;
}

size_t dsvk_utf8_length(const unsigned char *p, size_t left) {
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || left < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

static bool is_hex4(const struct check *c, size_t at) {
    if (c->n - at < 4)
        return false;
    for (size_t i = at; i < at + 4; i++) {
        unsigned char x = c->text[i];
        if (!((x >= '0' && x <= '9') || ((x | 0x20) >= 'a' && (x | 0x20) <= 'f')))
            return false;
    }
    return true;
}

/* The escape whose backslash is at c->at. */
static dsvk_status check_escape(struct check *c) {
    const char *text = (const char *)c->text;
    size_t start = c->at;
    if (c->n - start < 2 || !text[start + 1] || !strchr("\"\\/bfnrtu", text[start + 1]))
        return bad(c, start, "unknown escape in a string");
    c->at += 2;
    if (text[start + 1] != 'u')
        return DSVK_OK;
    if (!is_hex4(c, c->at))
        return bad(c, start, "\\u without four hexadecimal digits");
    uint32_t code = hex4(text + c->at);
    c->at += 4;
    if (code == 0 && !(c->allow & DSVK_JSON_NUL))
        return bad(c, start, "NUL written as \\u0000");
    if (code >= 0xdc00 && code < 0xe000)
        return bad(c, start, "lone surrogate escape");
    if (code >= 0xd800 && code < 0xdc00) {
        if (c->n - c->at < 6 || text[c->at] != '\\' || text[c->at + 1] != 'u' || !is_hex4(c, c->at + 2) ||
            hex4(text + c->at + 2) < 0xdc00 || hex4(text + c->at + 2) > 0xdfff)
            return bad(c, start, "lone surrogate escape");
        c->at += 6;
    }
    return DSVK_OK;
}

static dsvk_status check_string(struct check *c) {
    size_t start = c->at++;
    for (;;) {
        if (c->at >= c->n)
            return bad(c, start, "string without end");
        unsigned char x = c->text[c->at];
        if (x == '"') {
            c->at++;
            return DSVK_OK;
        }
        if (x < 0x20)
            return bad(c, c->at, x ? "control byte in a string" : "NUL");
        if (x == '\\') {
            DSVK_TRY(check_escape(c));
            continue;
        }
        size_t length = dsvk_utf8_length(c->text + c->at, c->n - c->at);
        if (!length)
            return bad(c, c->at, "bad UTF-8");
        c->at += length;
    }
}

static size_t count_digits(struct check *c) {
    size_t start = c->at;
    while (c->at < c->n && c->text[c->at] >= '0' && c->text[c->at] <= '9')
        c->at++;
    return c->at - start;
}

static dsvk_status check_number(struct check *c) {
    size_t start = c->at;
    if (c->text[c->at] == '-')
        c->at++;
    size_t first = c->at, digits = count_digits(c);
    if (digits == 0 || (digits > 1 && c->text[first] == '0'))
        return bad(c, start, "malformed number");
    if (c->at < c->n && c->text[c->at] == '.') {
        c->at++;
        if (count_digits(c) == 0)
            return bad(c, start, "malformed number");
    }
    if (c->at < c->n && (c->text[c->at] | 0x20) == 'e') {
        c->at++;
        if (c->at < c->n && (c->text[c->at] == '+' || c->text[c->at] == '-'))
            c->at++;
        if (count_digits(c) == 0)
            return bad(c, start, "malformed number");
    }
    return DSVK_OK;
}

static dsvk_status check_word(struct check *c) {
    static const char *const words[] = { "true", "false", "null" };
    for (size_t i = 0; i < DSVK_COUNT(words); i++) {
        size_t n = strlen(words[i]);
        if (c->n - c->at >= n && memcmp(c->text + c->at, words[i], n) == 0) {
            c->at += n;
            return DSVK_OK;
        }
    }
    return bad(c, c->at, c->text[c->at] ? "no JSON value" : "NUL");
}

static dsvk_status push_key(struct check *c, size_t offset) {
    if (c->at - offset - 2 > DSVK_JSON_KEY_LIMIT)
        return dsvk_fail(c->err, DSVK_LIMIT, "%s: key of %zu bytes at offset %zu, the limit is %u", c->what,
                         c->at - offset - 2, offset, DSVK_JSON_KEY_LIMIT);
    if (c->allow & DSVK_JSON_REPEATED)
        return DSVK_OK;
    if (c->n_keys == c->key_capacity) {
        size_t capacity = c->key_capacity ? c->key_capacity * 2 : 64;
        struct key *keys = dsvk_realloc(c->keys, capacity * sizeof *keys);
        if (!keys)
            return dsvk_fail_nomem(c->err, capacity * sizeof *keys);
        c->keys = keys;
        c->key_capacity = capacity;
    }
    const char *quote = (const char *)c->text + offset;
    c->keys[c->n_keys++] = (struct key) { .offset = (uint32_t)offset, .hash = hash_string(quote) };
    return DSVK_OK;
}

static int compare_keys(const void *a, const void *b, void *text) {
    const struct key *x = a, *y = b;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    int order = compare_strings((const char *)text + x->offset, (const char *)text + y->offset);
    return order ? order : x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* At the end of an object: no two of its keys may be equal. */
static dsvk_status check_duplicates(struct check *c, size_t first) {
    struct key *keys = c->keys + first;
    size_t n = c->n_keys - first;
    const char *text = (const char *)c->text;
    if (n > 1)
        qsort_r(keys, n, sizeof *keys, compare_keys, (void *)text);
    for (size_t i = 1; i < n; i++) {
        if (keys[i].hash == keys[i - 1].hash &&
            compare_strings(text + keys[i].offset, text + keys[i - 1].offset) == 0) {
            char key[160], shown[200];
            size_t length = dsvk_json_string((dsvk_json_value) { text + keys[i].offset, c->n - keys[i].offset }, key,
                                             sizeof key);
            dsvk_escape(shown, sizeof shown, key, length < sizeof key ? length : sizeof key - 1);
            return dsvk_fail(c->err, DSVK_FORMAT, "%s: duplicate key \"%s\" at offset %u, first at offset %u", c->what,
                             shown, keys[i].offset, keys[i - 1].offset);
        }
    }
    c->n_keys = first;
    return DSVK_OK;
}

static dsvk_status open_level(struct check *c) {
    if (c->depth == DSVK_JSON_DEPTH)
        return dsvk_fail(c->err, DSVK_LIMIT, "%s: nested deeper than %d at offset %zu", c->what, DSVK_JSON_DEPTH,
                         c->at);
    c->levels[c->depth].object = c->text[c->at] == '{';
    c->levels[c->depth].first_key = c->n_keys;
    c->depth++;
    c->at++;
    return DSVK_OK;
}

static dsvk_status close_level(struct check *c) {
    c->depth--;
    c->at++;
    return c->levels[c->depth].object ? check_duplicates(c, c->levels[c->depth].first_key) : DSVK_OK;
}

/* `"key" :` */
static dsvk_status check_key(struct check *c) {
    size_t start = c->at;
    if (c->at >= c->n || c->text[c->at] != '"')
        return bad(c, c->at, "no key where an object needs one");
    DSVK_TRY(check_string(c));
    DSVK_TRY(push_key(c, start));
    skip_space(c);
    if (c->at >= c->n || c->text[c->at] != ':')
        return bad(c, c->at, "no ':' after a key");
    c->at++;
    skip_space(c);
    return DSVK_OK;
}

/* After a value: closes what ends here and steps over the comma to where the next value begins. */
static dsvk_status check_after_value(struct check *c) {
    while (c->depth > 0) {
        bool object = c->levels[c->depth - 1].object;
        skip_space(c);
        if (c->at >= c->n)
            return bad(c, c->at, object ? "object without end" : "array without end");
        if (c->text[c->at] == (object ? '}' : ']')) {
            DSVK_TRY(close_level(c));
            continue;
        }
        if (c->text[c->at] != ',')
            return bad(c, c->at, object ? "no ',' or '}' after a member" : "no ',' or ']' after an element");
        c->at++;
        skip_space(c);
        return object ? check_key(c) : DSVK_OK;
    }
    return DSVK_OK;
}

static dsvk_status check_value(struct check *c, bool *scalar) {
    if (c->at >= c->n)
        return bad(c, c->at, "text ends where a value should be");
    unsigned char x = c->text[c->at];
    *scalar = true;
    if (x == '"')
        return check_string(c);
    if (x == '-' || (x >= '0' && x <= '9'))
        return check_number(c);
    if (x != '{' && x != '[')
        return check_word(c);
    DSVK_TRY(open_level(c));
    skip_space(c);
    if (c->at < c->n && c->text[c->at] == (x == '{' ? '}' : ']'))
        return close_level(c);
    *scalar = false;
    return x == '{' ? check_key(c) : DSVK_OK;
}

static dsvk_status check_document(struct check *c) {
    skip_space(c);
    do {
        bool complete = false;
        DSVK_TRY(check_value(c, &complete));
        if (complete)
            DSVK_TRY(check_after_value(c));
    } while (c->depth > 0);
    skip_space(c);
    return c->at == c->n ? DSVK_OK : bad(c, c->at, "something after the JSON value");
}

dsvk_status dsvk_json_check(const char *text, size_t n, const char *what, dsvk_error *err) {
    return dsvk_json_check_as(0, text, n, what, err);
}

dsvk_status dsvk_json_check_as(uint32_t allow, const char *text, size_t n, const char *what, dsvk_error *err) {
    if (n >= UINT32_MAX)
        return dsvk_fail(err, DSVK_LIMIT, "%s: %zu bytes of JSON, the limit is %u", what, n, UINT32_MAX);
    struct check c = { .text = (const unsigned char *)text, .n = n, .allow = allow, .what = what, .err = err };
    dsvk_status status = check_document(&c);
    dsvk_free(c.keys);
    return status;
}

/* ---- walking a checked text ---- */

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/* Offset behind the string whose opening quote is at `at`. */
static size_t string_end(const char *text, size_t at) {
    for (at++; text[at] != '"'; at++)
        if (text[at] == '\\')
            at++;
    return at + 1;
}

/* Offset behind the value that begins at `at`. */
static size_t value_end(const char *text, size_t n, size_t at) {
    uint32_t depth = 0;
    if (text[at] == '"')
        return string_end(text, at);
    if (text[at] != '{' && text[at] != '[') {
        while (at < n && !is_space(text[at]) && text[at] != ',' && text[at] != '}' && text[at] != ']')
            at++;
        return at;
    }
    do {
        char c = text[at];
        if (c == '"') {
            at = string_end(text, at);
            continue;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        at++;
    } while (depth > 0);
    return at;
}

static dsvk_json_value slice(dsvk_json_value value, size_t at) {
    return (dsvk_json_value) { value.text + at, value_end(value.text, value.n, at) - at };
}

static size_t skip(dsvk_json_value value, size_t at) {
    while (is_space(value.text[at]))
        at++;
    return at;
}

dsvk_json_value dsvk_json_root(const char *text, size_t n) {
    dsvk_json_value all = { text, n };
    return slice(all, skip(all, 0));
}

char dsvk_json_kind(dsvk_json_value value) {
    char c = value.text[0];
    return c == '-' || (c >= '0' && c <= '9') ? '0' : c;
}

const char *dsvk_json_kind_name(dsvk_json_value value) {
    switch (dsvk_json_kind(value)) {
    case '{': return "an object";
    case '[': return "an array";
    case '"': return "a string";
    case '0': return "a number";
    case 'n': return "null";
    default: return "a boolean";
    }
}

/* Moves to the next item; false at the closing bracket. */
static bool next_item(dsvk_json_value value, dsvk_json_walk *walk, char open) {
    if (value.text[0] != open)
        return false;
    size_t at = skip(value, walk->at ? walk->at : 1);
    if (value.text[at] == ',')
        at = skip(value, at + 1);
    walk->at = at;
    return at < value.n - 1;
}

bool dsvk_json_element(dsvk_json_value value, dsvk_json_walk *walk, dsvk_json_value *element) {
    if (!next_item(value, walk, '['))
        return false;
    *element = slice(value, walk->at);
    walk->at += element->n;
    return true;
}

bool dsvk_json_member(dsvk_json_value value, dsvk_json_walk *walk, dsvk_json_value *key, dsvk_json_value *member) {
    if (!next_item(value, walk, '{'))
        return false;
    *key = slice(value, walk->at);
    size_t colon = skip(value, walk->at + key->n);
    *member = slice(value, skip(value, colon + 1));
    walk->at = (size_t)(member->text - value.text) + member->n;
    return true;
}

bool dsvk_json_find(dsvk_json_value value, const char *key, dsvk_json_value *member) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value name;
    while (dsvk_json_member(value, &walk, &name, member))
        if (dsvk_json_equals(name, key))
            return true;
    return false;
}

size_t dsvk_json_string(dsvk_json_value value, char *out, size_t out_size) {
    struct unescape u = { .at = value.text + 1 };
    size_t n = 0;
    for (int c; (c = next_byte(&u)) >= 0; n++)
        if (n + 1 < out_size)
            out[n] = (char)c;
    if (out_size)
        out[n < out_size ? n : out_size - 1] = 0;
    return n;
}

bool dsvk_json_equals(dsvk_json_value value, const char *text) {
    if (value.text[0] != '"')
        return false;
    struct unescape u = { .at = value.text + 1 };
    for (int c; (c = next_byte(&u)) >= 0; text++)
        if (c == 0 || (unsigned char)*text != c) /* no C text holds a NUL */
            return false;
    return *text == 0;
}

int dsvk_json_compare(dsvk_json_value a, dsvk_json_value b) { return compare_strings(a.text, b.text); }

bool dsvk_json_uint(dsvk_json_value value, uint64_t *out) {
    uint64_t sum = 0;
    for (size_t i = 0; i < value.n; i++) {
        char c = value.text[i];
        if (c < '0' || c > '9' || !dsvk_mul(sum, 10, &sum) || !dsvk_add(sum, (uint64_t)(c - '0'), &sum))
            return false;
    }
    *out = sum;
    return true;
}

bool dsvk_json_double(dsvk_json_value value, double *out) {
    char digits[512]; /* no honest number is longer */
    if (dsvk_json_kind(value) != '0' || value.n >= sizeof digits)
        return false;
    memcpy(digits, value.text, value.n);
    digits[value.n] = 0;
    locale_t c = newlocale(LC_NUMERIC_MASK, "C", (locale_t)0);
    if (!c)
        return false;
    *out = strtod_l(digits, NULL, c);
    freelocale(c);
    return true;
}

const char *dsvk_json_quote(dsvk_json_value value, char *out, size_t out_size) {
    return dsvk_escape(out, out_size, value.text, value.n);
}
