/* Growing text, and JSON written as Python writes it, which is how the published prompts were made (spec 6.2). Numbers
 * do not depend on the locale: digits are taken from printf's exponent form and set again. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat.h"

/* ---- growing text ---- */

bool dsvk_text_reserve(dsvk_text *t, size_t more) {
    if (t->failed || more <= t->capacity - t->n)
        return !t->failed;
    uint64_t capacity;
    char *bytes = NULL;
    if (dsvk_add(t->n + t->capacity / 2 + 64, more, &capacity) && capacity < SIZE_MAX / 2)
        bytes = dsvk_realloc(t->bytes, (size_t)capacity);
    if (!bytes) {
        t->failed = true;
        return false;
    }
    t->bytes = bytes;
    t->capacity = (size_t)capacity;
    return true;
}

void dsvk_text_put(dsvk_text *t, const char *bytes, size_t n) {
    if (!dsvk_text_reserve(t, n) || n == 0)
        return;
    memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
}

void dsvk_text_puts(dsvk_text *t, const char *text) { dsvk_text_put(t, text, strlen(text)); }

void dsvk_text_put_string(dsvk_text *t, dsvk_json_value string) {
    if (dsvk_text_reserve(t, string.n)) /* its quotes make room for the NUL */
        t->n += dsvk_json_string(string, t->bytes + t->n, string.n);
}

/* ---- JSON ---- */

void dsvk_text_put_escaped(dsvk_text *t, const char *bytes, size_t n) {
    static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt"; /* character, its letter */
    size_t plain = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        dsvk_text_put(t, bytes + plain, i - plain);
        plain = i + 1;
        char escape[8] = { '\\' };
        for (size_t k = 0; k + 1 < sizeof letters; k += 2)
            if (letters[k] == bytes[i])
                escape[1] = letters[k + 1];
        if (!escape[1])
            snprintf(escape, sizeof escape, "\\u%04x", c);
        dsvk_text_puts(t, escape);
    }
    dsvk_text_put(t, bytes + plain, n - plain);
}

static void put_string_json(dsvk_text *t, dsvk_json_value string) {
    dsvk_text plain = { 0 };
    dsvk_text_put_string(&plain, string);
    dsvk_text_puts(t, "\"");
    dsvk_text_put_escaped(t, plain.bytes, plain.n);
    dsvk_text_puts(t, "\"");
    t->failed |= plain.failed;
    dsvk_free(plain.bytes);
}

#define DIGITS_MAX 17 /* enough for every double */

/* The decimal `digits` [n] with the point behind the first, times 10^exponent. */
static double read_back(const char *digits, size_t n, int exponent) {
    char text[DIGITS_MAX + 16];
    double value = 0;
    int length = snprintf(text, sizeof text, "%.*se%d", (int)n, digits, exponent - (int)(n - 1));
    dsvk_json_double((dsvk_json_value) { text, (size_t)length }, &value);
    return value;
}

/* The fewest digits that read back as `value` > 0. Returns how many. The nearest decimal of a length does so if any
 * does, except at powers of two, where doubles lie closer below than above and the next one up may. */
static size_t shortest_digits(double value, char digits[DIGITS_MAX + 1], int *exponent) {
    for (int n = 1;; n++) {
        char printed[40];
        snprintf(printed, sizeof printed, "%.*e", n - 1, value);
        char *e = strchr(printed, 'e');
        *exponent = atoi(e + 1);
        size_t used = 0;
        for (const char *c = printed; c < e; c++) /* whatever the locale's point is, it is no digit */
            if (*c >= '0' && *c <= '9')
                digits[used++] = *c;
        if (n == DIGITS_MAX || read_back(digits, used, *exponent) == value)
            return used;
        if (digits[used - 1] < '9') {
            digits[used - 1]++;
            if (read_back(digits, used, *exponent) == value)
                return used;
        }
    }
}

static void put_real(dsvk_text *t, double value) {
    char digits[DIGITS_MAX + 1];
    int exponent = 0;
    if (signbit(value))
        dsvk_text_puts(t, "-");
    if (isinf(value)) {
        dsvk_text_puts(t, "Infinity");
        return;
    }
    size_t n = value == 0 ? 1 : shortest_digits(fabs(value), digits, &exponent);
    if (value == 0)
        digits[0] = '0';
    if (exponent < -4 || exponent >= 16) {
        char end[16];
        dsvk_text_put(t, digits, 1);
        dsvk_text_put(t, ".", n > 1);
        dsvk_text_put(t, digits + 1, n - 1);
        snprintf(end, sizeof end, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        dsvk_text_puts(t, end);
        return;
    }
    size_t whole = exponent < 0 ? 0 : (size_t)exponent + 1; /* digits before the point */
    dsvk_text_put(t, "0.000", whole ? 0 : (size_t)(1 - exponent));
    dsvk_text_put(t, digits, n < whole ? n : whole);
    dsvk_text_put(t, "0000000000000000", n < whole ? whole - n : 0);
    if (whole) {
        dsvk_text_puts(t, ".");
        dsvk_text_put(t, "0", n <= whole);
    }
    if (n > whole)
        dsvk_text_put(t, digits + whole, n - whole);
}

static void put_number(dsvk_text *t, dsvk_json_value number) {
    double value;
    bool real = memchr(number.text, '.', number.n) || memchr(number.text, 'e', number.n) ||
                memchr(number.text, 'E', number.n);
    if (real && dsvk_json_double(number, &value))
        put_real(t, value);
    else if (number.n == 2 && memcmp(number.text, "-0", 2) == 0)
        dsvk_text_puts(t, "0");
    else
        dsvk_text_put(t, number.text, number.n);
}

static int by_key(const void *a, const void *b, void *text) {
    const dsvk_member *x = a, *y = b;
    dsvk_json_value object = { text, 0 };
    int order = dsvk_json_compare(dsvk_member_key(object, *x), dsvk_member_key(object, *y));
    return order ? order : x->key < y->key ? -1 : x->key > y->key;
}

static int by_place(const void *a, const void *b) {
    const dsvk_member *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key;
}

static size_t drop_repeated(dsvk_json_value object, dsvk_member *members, size_t n) {
    size_t kept = 0;
    qsort_r(members, n, sizeof *members, by_key, (void *)object.text);
    for (size_t i = 0; i < n; i++) {
        dsvk_member *last = kept > 0 ? &members[kept - 1] : NULL;
        if (!last || dsvk_json_compare(dsvk_member_key(object, *last), dsvk_member_key(object, members[i])) != 0)
            members[kept++] = members[i];
        else {
            last->value = members[i].value;
            last->end = members[i].end;
        }
    }
    qsort(members, kept, sizeof *members, by_place);
    return kept;
}

bool dsvk_members(dsvk_json_value object, dsvk_member **members, size_t *n) {
    dsvk_text list = { 0 }; /* of members */
    dsvk_json_walk walk = { 0 };
    dsvk_json_value key, value;
    while (dsvk_json_member(object, &walk, &key, &value)) {
        dsvk_member m = { .key = (uint32_t)(key.text - object.text), .value = (uint32_t)(value.text - object.text) };
        m.end = m.value + (uint32_t)value.n;
        dsvk_text_put(&list, (const char *)&m, sizeof m);
    }
    *members = (dsvk_member *)list.bytes;
    *n = list.n / sizeof **members;
    if (*n > 1)
        *n = drop_repeated(object, *members, *n);
    return !list.failed;
}

static void put_object(dsvk_text *t, dsvk_json_value object) {
    dsvk_member *members;
    size_t n;
    t->failed |= !dsvk_members(object, &members, &n);
    dsvk_text_puts(t, "{");
    for (size_t i = 0; i < n; i++) {
        dsvk_text_puts(t, i ? ", " : "");
        put_string_json(t, dsvk_member_key(object, members[i]));
        dsvk_text_puts(t, ": ");
        dsvk_text_put_json(t, dsvk_member_value(object, members[i]));
    }
    dsvk_text_puts(t, "}");
    dsvk_free(members);
}

static void put_array(dsvk_text *t, dsvk_json_value array) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value element;
    dsvk_text_puts(t, "[");
    for (bool first = true; dsvk_json_element(array, &walk, &element); first = false) {
        dsvk_text_puts(t, first ? "" : ", ");
        dsvk_text_put_json(t, element);
    }
    dsvk_text_puts(t, "]");
}

void dsvk_text_put_json(dsvk_text *t, dsvk_json_value value) {
    switch (dsvk_json_kind(value)) { /* at most DSVK_JSON_DEPTH deep */
    case '{': put_object(t, value); break;
    case '[': put_array(t, value); break;
    case '"': put_string_json(t, value); break;
    case '0': put_number(t, value); break;
    default: dsvk_text_put(t, value.text, value.n);
    }
}
