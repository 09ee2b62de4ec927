/* JSON read in place, and the sentences of the common layer. What malformed text leads to is tested where files are
 * read (test_config.c, test_safetensors.c); here is what a sound text gives.
 *
 * Edge list: empty objects, arrays and strings; white space everywhere; every escape; characters of one to four bytes;
 * brackets and quotes inside strings; 64 levels; whole numbers around 2^64; reals at the ends of double's range; a
 * locale with a decimal comma; buffers that are exactly large enough, one short, and empty. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "json_reader.h"

static int failed;

#define CHECK(condition, ...)                            \
    do {                                                 \
        if (!(condition)) {                              \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
            fprintf(stderr, __VA_ARGS__);                \
            fputc('\n', stderr);                         \
            failed++;                                    \
        }                                                \
    } while (0)

/* Checked root of a text that must be sound. */
static dsvk_json_value sound(const char *text) {
    dsvk_error err;
    dsvk_status status = dsvk_json_check(text, strlen(text), "text", &err);
    CHECK(status == DSVK_OK, "%s: %s", text, err.message);
    return dsvk_json_root(text, strlen(text));
}

static void test_walking(void) {
    dsvk_json_value root =
        sound(" \n{ \"a\" : [ 1 ,\t\"]}\\\"\" , { } , [ ] ] ,\r\n\"b\":{\"c\":null,\"d\":{\"e\":true}},\"\":-1.5e3 } ");
    dsvk_json_value key, value, element;
    dsvk_json_walk members = { 0 }, elements = { 0 };
    static const char *const keys[] = { "a", "b", "" };
    static const char kinds[] = "[{0", inner[] = "0\"{[";
    size_t n = 0;
    for (; dsvk_json_member(root, &members, &key, &value); n++)
        CHECK(n < 3 && dsvk_json_equals(key, keys[n]) && dsvk_json_kind(value) == kinds[n], "member %zu", n);
    CHECK(n == 3, "%zu members", n);
    CHECK(!dsvk_json_member(root, &members, &key, &value), "the end stays the end");
    CHECK(dsvk_json_find(root, "a", &value), "a");
    for (n = 0; dsvk_json_element(value, &elements, &element); n++)
        CHECK(n < 4 && dsvk_json_kind(element) == inner[n], "element %zu", n);
    CHECK(n == 4, "%zu elements", n);
    CHECK(dsvk_json_find(root, "b", &value) && dsvk_json_find(value, "d", &value) &&
              dsvk_json_find(value, "e", &value) && dsvk_json_kind(value) == 't' && value.n == 4,
          "b.d.e");
    CHECK(!dsvk_json_find(root, "c", &value), "only the members of this object");
    CHECK(!dsvk_json_element(root, &(dsvk_json_walk) { 0 }, &element), "an object has no elements");
    CHECK(!dsvk_json_member(sound("[]"), &(dsvk_json_walk) { 0 }, &key, &value), "an array has no members");
    CHECK(!dsvk_json_element(sound("[ ]"), &(dsvk_json_walk) { 0 }, &element), "an empty array");
    CHECK(!dsvk_json_member(sound("{ }"), &(dsvk_json_walk) { 0 }, &key, &value), "an empty object");
}

static void test_strings(void) {
    static const struct {
        const char *json, *text;
    } rows[] = {
        { "\"\"", "" },
        { "\"plain\"", "plain" },
        { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t" },
        { "\"\\u0061\\u00e9\\u20AC\\ud83d\\ude00\"", "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80" },
        { "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\"",
          "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf" },
        { "\"\\u007f\\u0080\\u07ff\\u0800\\uffff\\ud800\\udc00\"",
          "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80" },
    };
    for (size_t i = 0; i < DSVK_COUNT(rows); i++) {
        dsvk_json_value value = sound(rows[i].json);
        size_t n = strlen(rows[i].text);
        char out[64];
        CHECK(dsvk_json_string(value, out, n + 1) == n && memcmp(out, rows[i].text, n + 1) == 0, "row %zu: %s", i, out);
        CHECK(dsvk_json_equals(value, rows[i].text), "row %zu equals", i);
        if (n > 0) {
            memset(out, '#', sizeof out);
            CHECK(dsvk_json_string(value, out, n) == n && memcmp(out, rows[i].text, n - 1) == 0 && !out[n - 1] &&
                      out[n] == '#',
                  "row %zu cut by one", i);
            CHECK(!dsvk_json_equals(value, ""), "row %zu is not empty", i);
        }
        CHECK(dsvk_json_string(value, NULL, 0) == n, "row %zu measured", i);
    }
    CHECK(!dsvk_json_equals(sound("\"ab\""), "a") && !dsvk_json_equals(sound("\"a\""), "ab") &&
              !dsvk_json_equals(sound("1"), "1"),
          "prefixes and numbers");
}

static void test_numbers(void) {
    static const struct {
        const char *json;
        bool whole;
        uint64_t value;
        double real;
    } rows[] = {
        { "0", true, 0, 0 },
        { "1", true, 1, 1 },
        { "18446744073709551615", true, UINT64_MAX, 18446744073709551616.0 },
        { "18446744073709551616", false, 0, 18446744073709551616.0 },
        { "-0", false, 0, 0 },
        { "-1", false, 0, -1 },
        { "1.0", false, 0, 1 },
        { "1e2", false, 0, 100 },
        { "1e-06", false, 0, 1e-6 },
        { "0.1", false, 0, 0.1 },
        { "1.7976931348623157e308", false, 0, 1.7976931348623157e308 },
        { "4.9406564584124654e-324", false, 0, 4.9406564584124654e-324 },
        { "1e400", false, 0, INFINITY },
        { "-1e400", false, 0, -INFINITY },
        { "1e-400", false, 0, 0 },
    };
    for (int comma = 0; comma < 2; comma++) {
        if (comma && !setlocale(LC_NUMERIC, "de_DE.UTF-8"))
            printf("no locale with a decimal comma is installed: numbers are tested in the C locale only\n");
        for (size_t i = 0; i < DSVK_COUNT(rows); i++) {
            uint64_t value = 77;
            double real = 77;
            CHECK(dsvk_json_uint(sound(rows[i].json), &value) == rows[i].whole &&
                      (!rows[i].whole || value == rows[i].value),
                  "%s", rows[i].json);
            CHECK(dsvk_json_double(sound(rows[i].json), &real) && real == rows[i].real, "%s is %g", rows[i].json, real);
        }
    }
    setlocale(LC_NUMERIC, "C");
    uint64_t value;
    double real;
    CHECK(!dsvk_json_uint(sound("\"1\""), &value) && !dsvk_json_double(sound("\"1\""), &real) &&
              !dsvk_json_double(sound("true"), &real), "only numbers are numbers");
}

static void test_depth(void) {
    char text[200];
    dsvk_error err;
    for (int depth = DSVK_JSON_DEPTH; depth <= DSVK_JSON_DEPTH + 1; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        dsvk_status status = dsvk_json_check(text, 2 * (size_t)depth, "text", &err);
        CHECK(status == (depth > DSVK_JSON_DEPTH ? DSVK_LIMIT : DSVK_OK), "depth %d: %s", depth,
              dsvk_status_name(status));
    }
    memset(text, 0, sizeof text);
    for (int i = 0; i < 90; i++) /* wide is not deep */
        memcpy(text + 2 * i, i == 0 ? "[0" : ",0", 2);
    text[180] = ']';
    CHECK(dsvk_json_check(text, 181, "text", &err) == DSVK_OK, "wide");
}

/* A key may appear again in another object, also in one inside the first. */
static void test_keys_of_different_objects(void) {
    sound("{\"a\":{\"a\":{\"a\":1},\"b\":{\"a\":2}},\"b\":[{\"a\":1},{\"a\":2}]}");
    dsvk_error err;
    static const char hidden[] = "{\"a\":{\"x\":1},\"b\":[{\"x\":1},{\"y\":2,\"z\":3,\"y\":4}],\"c\":1}";
    dsvk_status status = dsvk_json_check(hidden, strlen(hidden), "text", &err);
    CHECK(status == DSVK_FORMAT && strstr(err.message, "\"y\""), "%s", err.message);
}

/* What dsvk_json_check_as may let through, and nothing beside it. */
static void test_less_strict(void) {
    static const char nul[] = "\"a\\u0000b\"", twice[] = "{\"a\":1,\"\\u0061\":2}", open[] = "{\"a\":1,\"a\":2";
    dsvk_error err;
    char out[8];
    CHECK(dsvk_json_check_as(DSVK_JSON_NUL, nul, strlen(nul), "text", &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_json_check_as(DSVK_JSON_REPEATED, nul, strlen(nul), "text", &err) == DSVK_FORMAT, "NUL");
    CHECK(dsvk_json_check_as(DSVK_JSON_REPEATED, twice, strlen(twice), "text", &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_json_check_as(DSVK_JSON_NUL, twice, strlen(twice), "text", &err) == DSVK_FORMAT, "repeated");
    CHECK(dsvk_json_check_as(DSVK_JSON_REPEATED, open, strlen(open), "text", &err) == DSVK_FORMAT, "open");
    dsvk_alloc_fail_after(0);
    CHECK(dsvk_json_check_as(DSVK_JSON_REPEATED, twice, strlen(twice), "text", &err) == DSVK_OK, "allocates");
    dsvk_alloc_fail_after(-1);
    dsvk_json_value value = dsvk_json_root(nul, strlen(nul));
    CHECK(dsvk_json_string(value, out, sizeof out) == 3 && memcmp(out, "a\0b", 4) == 0, "NUL is a byte");
    CHECK(!dsvk_json_equals(value, "a") && !dsvk_json_equals(value, "ab"), "no C text equals it");
    CHECK(dsvk_json_compare(sound("\"\\u0061b\""), sound("\"ab\"")) == 0 &&
              dsvk_json_compare(sound("\"a\""), sound("\"ab\"")) < 0 && dsvk_json_compare(sound("\"b\""), sound("\"ab\"")) > 0 &&
              dsvk_json_compare(value, sound("\"a\"")) > 0,
          "order");
}

static void test_quoting(void) {
    char out[16];
    CHECK(strcmp(dsvk_json_quote(sound("\"a\\nb\""), out, sizeof out), "\"a\\x5cnb\"") == 0, "%s", out);
    CHECK(strcmp(dsvk_escape(out, sizeof out, "a\x1b\xff", 3), "a\\x1b\\xff") == 0, "%s", out);
    dsvk_escape(out, sizeof out, "a long text that does not fit", 29);
    CHECK(strlen(out) < sizeof out && strstr(out, "..."), "%s", out);
}

static void test_tree(void) {
    json_t *root = NULL;
    dsvk_error err;
    char *text = NULL;
    static const char sample[] = "{\"a\": [1, 2.5, \"\\u00e9\", null, true]}";
    CHECK(dsvk_json_parse(&root, sample, strlen(sample), "text", &err) == DSVK_OK, "%s", err.message);
    CHECK(json_array_size(json_object_get(root, "a")) == 5, "a");
    CHECK(dsvk_json_text(root, &text, &err) == DSVK_OK && strstr(text, "2.5"), "text");
    dsvk_free(text);
    static const char twice[] = "{\"a\":1,\"\\u0061\":2}";
    CHECK(dsvk_json_parse(&root, twice, strlen(twice), "text", &err) == DSVK_FORMAT && strstr(err.message, "\"a\""),
          "%s", err.message);
    static const char huge[] = "[99999999999999999999]";
    CHECK(dsvk_json_parse(&root, huge, strlen(huge), "text", &err) == DSVK_FORMAT && strstr(err.message, "text"), "%s",
          err.message);
    CHECK(dsvk_alloc_live() == 0, "%lld allocations left", (long long)dsvk_alloc_live());
}

int main(void) {
    void (*const tests[])(void) = {
        test_walking, test_strings, test_numbers, test_depth, test_keys_of_different_objects, test_less_strict, test_quoting, test_tree
    };
    int passed = 0;
    for (size_t i = 0; i < DSVK_COUNT(tests); i++) {
        int before = failed;
        tests[i]();
        passed += failed == before;
    }
    printf("%d passed, %d failed\n", passed, (int)DSVK_COUNT(tests) - passed);
    return failed > 0;
}
