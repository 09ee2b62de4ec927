/* Text to ids and back with the small vocabulary of the harness. Against Hugging Face `tokenizers` it is compared in
 * tests/python/test_tokenizer.py; bad files are in test_tokenizer_file.c.
 *
 * Edges: empty text; one byte; NUL; every byte value; bytes that are no UTF-8 at both ends, alone, and inside; a
 * character split over tokens; runs of one character up to 2 MiB; spaces before a line end and before a word; added
 * tokens that are prefixes of each other, adjacent, cut short, overlapping; ids at, below and above the range. */
#include <pthread.h>
#include <time.h>

#include "harness_tokenizer.h"

/* ---- encoding helpers ---- */

static void expect_ids(int line, const dsvk_tokenizer *t, const char *text, size_t n, uint32_t flags,
                       const int32_t *wanted, size_t n_wanted) {
    dsvk_error err;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    dsvk_status status = dsvk_tokenizer_encode(t, text, n, flags, &ids, &n_ids, &err);
    bool same = status == DSVK_OK && n_ids == n_wanted && memcmp(ids, wanted, n_ids * sizeof *ids) == 0;
    CHECK(same, "line %d: '%.40s' %s", line, text, status ? err.message : "other ids:");
    for (size_t i = 0; !same && i < n_ids; i++)
        printf(" %d%s", ids[i], i + 1 == n_ids ? "\n" : "");
    dsvk_free(ids);
}
#define IDS(t, text, flags, ...)                                                                                       \
    expect_ids(__LINE__, t, text, sizeof text - 1, flags, (const int32_t[]){__VA_ARGS__},                              \
               sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

/* ---- encoding ---- */

static void test_known_ids(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0});
    IDS(t, "ab", 0, AB);
    IDS(t, "aab", 0, 'a', AB); /* "a b" ranks before "a a" */
    IDS(t, "aaaaa", 0, AAAA, 'a');
    IDS(t, "aaa", 0, AA, 'a');
    IDS(t, "abc", 0, AB, 'c');
    IDS(t, " abc", 0, SPACE_ABC);
    IDS(t, "x abc", 0, 'x', SPACE_ABC);
    IDS(t, "   ab", 0, SPACES, SPACE_AB); /* \s+(?!\S) leaves one space to the word */
    IDS(t, "ab   ", 0, AB, SPACES, ' ');
    IDS(t, "ab  \nab", 0, AB, SPACES, '\n', AB);
    IDS(t, " 2048", 0, ' ', '2', '0', '4', '8');
    IDS(t, "中中", 0, CJK_3, CJK_3);
    IDS(t, "a中b", 0, 'a', CJK_3, 'b');
    IDS(t, "\xe4\xb8", 0, CJK_2); /* no character, but its bytes merge */
    CHECK(dsvk_tokenizer_vocab_size(t) == 304, "%u", dsvk_tokenizer_vocab_size(t));
    CHECK(dsvk_tokenizer_id(t, "<|s|>", 5) == 300 && dsvk_tokenizer_id(t, " abc", 4) == SPACE_ABC &&
              dsvk_tokenizer_id(t, "中", 3) == CJK_3 && dsvk_tokenizer_id(t, "abx", 3) == -1 &&
              dsvk_tokenizer_id(t, "", 0) == -1 && dsvk_tokenizer_id(t, "\xff\xff", 2) == -1,
          "literal texts");
    CHECK(dsvk_tokenizer_is_special(t, 300) == 1 && dsvk_tokenizer_is_special(t, 302) == 0 &&
              dsvk_tokenizer_is_special(t, 97) == 0 && dsvk_tokenizer_is_special(t, -1) == 0 &&
              dsvk_tokenizer_is_special(t, 304) == 0,
          "special");
    dsvk_tokenizer_close(t);
    t = open_parts(&(parts){.pre = BYTE_LEVEL}); /* no patterns: one piece */
    IDS(t, "aab ab1", 0, 'a', AB, SPACE_AB, '1');
    dsvk_tokenizer_close(t);
    t = open_parts(&(parts){.vocab_extra = ",\"xyz\":290", .model_extra = ",\"ignore_merges\":true"});
    IDS(t, "xyz", 0, 290);
    IDS(t, "xyzx", 0, 'x', 'y', 'z', 'x');
    dsvk_tokenizer_close(t);
}

/* Merging again, as its definition says: the lowest rank, leftmost, until there is none. */
typedef struct rule {
    int32_t left, right, result;
} rule;
static const rule rules[] = {{BC, 'b', BCB},           {' ', 'a', SPACE_A},      {'a', 'b', AB},
                             {SPACE_A, 'b', SPACE_AB}, {'a', 'a', AA},           {AA, AA, AAAA},
                             {' ', ' ', SPACES},       {0xe4, 0xb8, CJK_2},      {CJK_2, 0xad, CJK_3},
                             {'b', 'c', BC},           {SPACE_A, BC, SPACE_ABC}, {SPACE_AB, 'c', SPACE_ABC}};

static size_t merge_by_definition(const char *text, size_t n, int32_t *ids) {
    for (size_t i = 0; i < n; i++)
        ids[i] = (unsigned char)text[i];
    for (size_t r = 0; r < DSVK_COUNT(rules);) {
        size_t i = 0;
        while (i + 1 < n && !(ids[i] == rules[r].left && ids[i + 1] == rules[r].right))
            i++;
        if (i + 1 >= n) {
            r++;
            continue;
        }
        ids[i] = rules[r].result;
        memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
        n--;
        r = 0;
    }
    return n;
}

static void test_merges_against_definition(void) {
    dsvk_tokenizer *t = open_parts(&(parts){.pre = BYTE_LEVEL});
    static char text[4000];
    static int32_t wanted[4000];
    int32_t *ids;
    size_t n_ids, wrong = 0;
    seed(__func__);
    for (int round = 0; round < 3000; round++) {
        /* Short and long pieces are merged in different ways (LONG_PIECE in merge.c). */
        size_t n = 1 + below(round % 300 == 0 ? 3999 : round % 10 == 0 ? 399 : 40);
        for (size_t i = 0; i < n; i++)
            text[i] = "aaabbb ccc"[below(10)];
        size_t n_wanted = merge_by_definition(text, n, wanted);
        if (dsvk_tokenizer_encode(t, text, n, 0, &ids, &n_ids, NULL) != DSVK_OK)
            abort();
        wrong += n_ids != n_wanted || memcmp(ids, wanted, n_ids * sizeof *ids) != 0;
        dsvk_free(ids);
    }
    CHECK(wrong == 0, "%zu of 3000 texts", wrong);
    dsvk_tokenizer_close(t);
}

static double encode_seconds(const dsvk_tokenizer *t, const char *text, size_t n) {
    int32_t *ids = NULL;
    size_t n_ids;
    double begin = cpu_seconds();
    dsvk_status status = dsvk_tokenizer_encode(t, text, n, DSVK_PARSE_SPECIAL, &ids, &n_ids, NULL);
    double seconds = cpu_seconds() - begin;
    CHECK(status == DSVK_OK, "%s", dsvk_status_name(status));
    dsvk_free(ids);
    return seconds;
}

static const char *const units[] = {
    "a",   " ",    "0",        "\n",    "^",  "中",
    "あ",  "😀",    "\xcc\x81", "\x01",  "<",  "\r\n",
    " \n", "\xff", "\xf0\x9f", "<|s|>", "a ", "                                                               x",
    NULL /* random letters */};

static void *linear_time(void *user) {
    const dsvk_tokenizer *t = user;
    const size_t n = 1u << 20;
    char *text = malloc(2 * n);
    double slowest = 0;
    for (size_t u = 0; u < DSVK_COUNT(units); u++) {
        size_t length = units[u] ? strlen(units[u]) : 1;
        for (size_t i = 0; i + length <= 2 * n; i += length)
            if (units[u])
                memcpy(text + i, units[u], length);
            else
                text[i] = (char)('a' + below(26));
        size_t whole = n / length * length;
        double once = 1e9, twice = 1e9;
        /* The best of up to forty: other programs on this machine share its caches. Below 50 ms the clock decides. */
        for (int i = 0; i < 40 && !(once <= 2 && (twice < 2.5 * once || twice < 0.05)); i++) {
            double seconds = encode_seconds(t, text, whole);
            once = seconds < once ? seconds : once;
            seconds = encode_seconds(t, text, 2 * whole);
            twice = seconds < twice ? seconds : twice;
        }
        CHECK(once <= 2 && (twice < 2.5 * once || twice < 0.05), "unit %zu: %.3f s, then %.3f s", u, once, twice);
        slowest = once > slowest ? once : slowest;
    }
    printf("  slowest MiB: %.2f s\n", slowest);
    free(text);
    return NULL;
}

static void test_T05_linear_time_on_a_small_stack(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0});
    pthread_attr_t attributes;
    pthread_t thread;
    seed(__func__);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256u << 10);
    if (pthread_create(&thread, &attributes, linear_time, t) != 0)
        abort();
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    dsvk_tokenizer_close(t);
}

static void test_T06_any_bytes(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0});
    char text[4096];
    size_t wrong = 0;
    seed(__func__);
    IDS(t, "\xff\xfe", 0, 0xff, 0xfe);
    IDS(t,
        "ab\xff"
        "ab",
        0, AB, 0xff, AB);
    IDS(t, "\xed\xa0\x80", 0, 0xed, 0xa0, 0x80);
    IDS(t, "ab \xe4\xb8", 0, AB, ' ', CJK_2);
    for (int b = 0; b < 256; b++) {
        text[0] = (char)b;
        wrong += !round_trip(t, text, 1, 0);
    }
    for (int round = 0; round < 1000; round++) {
        size_t n = below(sizeof text);
        for (size_t i = 0; i < n; i++)
            text[i] = (char)(below(4) ? below(256) : 0x80 + below(64));
        wrong += !round_trip(t, text, n, round & 1);
    }
    CHECK(wrong == 0, "%zu texts did not come back", wrong);
    dsvk_tokenizer_close(t);
}

static void test_T07_special_text_is_ordinary_unless_asked(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0});
    IDS(t, "a<|s|>b", DSVK_PARSE_SPECIAL, 'a', 300, 'b');
    IDS(t, "<|s|>><|s|><|s|", DSVK_PARSE_SPECIAL, 301, 300, '<', '|', 's', '|');
    IDS(t, "<|s|>", 0, '<', '|', 's', '|', '>');
    IDS(t, "<think>", DSVK_PARSE_SPECIAL, 302);
    IDS(t, "<think>", 0, '<', 't', 'h', 'i', 'n', 'k', '>');
    IDS(t, "｜U｜｜U｜", DSVK_PARSE_SPECIAL, 303, 303);
    IDS(t, "｜U｜", 0, 0xef, 0xbd, 0x9c, 'U', 0xef, 0xbd, 0x9c);
    /* A token cut out of the text ends the pieces beside it: the space is not followed by a letter here. */
    IDS(t, "ab  <|s|> ab", DSVK_PARSE_SPECIAL, AB, SPACES, 300, SPACE_AB);
    /* Whole pieces that are added tokens stay text when merges are ignored, too. */
    dsvk_tokenizer_close(t);
    t = open_parts(
        &(parts){.model_extra = ",\"ignore_merges\":true", .added_extra = ",{\"id\":310,\"content\":\"word\"}"});
    IDS(t, "word", 0, 'w', 'o', 'r', 'd');
    IDS(t, "word", DSVK_PARSE_SPECIAL, 310);
    char text[64];
    size_t wrong = 0, n_ids;
    int32_t *ids;
    seed(__func__);
    for (int round = 0; round < 3000; round++) {
        size_t n = 0;
        while (n < 40) {
            static const char *const bits[] = {"<|s|>", "<|s|>>", "<think>", "｜U｜", "word", "<|", "｜", "a", " "};
            const char *bit = bits[below(DSVK_COUNT(bits))];
            memcpy(text + n, bit, strlen(bit));
            n += strlen(bit);
        }
        if (dsvk_tokenizer_encode(t, text, n, 0, &ids, &n_ids, NULL) != DSVK_OK)
            abort();
        for (size_t i = 0; i < n_ids; i++)
            wrong += ids[i] >= FIRST_ADDED;
        dsvk_free(ids);
    }
    CHECK(wrong == 0, "%zu added ids came out of ordinary text", wrong);
    dsvk_tokenizer_close(t);
}

static void test_T08_empty_text_and_nul(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0});
    int32_t *ids = NULL;
    size_t n = 9;
    char *text = NULL;
    CHECK(dsvk_tokenizer_encode(t, "", 0, 0, &ids, &n, NULL) == DSVK_OK && n == 0, "%zu", n);
    dsvk_free(ids);
    CHECK(dsvk_tokenizer_encode(t, NULL, 0, DSVK_PARSE_SPECIAL, &ids, &n, NULL) == DSVK_OK && n == 0, "%zu", n);
    dsvk_free(ids);
    CHECK(dsvk_tokenizer_decode(t, NULL, 0, &text, &n, NULL) == DSVK_OK && n == 0 && text && !*text, "%zu", n);
    dsvk_free(text);
    IDS(t, "ab\0ab\0", 0, AB, 0, AB, 0);
    dsvk_tokenizer_close(t);
}

/* ---- decoding ---- */

/* ids through a streaming decoder; *n bytes, with the last bytes of each push whole characters. */
static char *stream(const dsvk_tokenizer *t, const int32_t *ids, size_t n_ids, size_t *n) {
    dsvk_decoder *d;
    const char *part;
    size_t n_part;
    char *out = malloc(n_ids * 64 + 16);
    *n = 0;
    if (dsvk_decoder_open(&d, t, NULL) != DSVK_OK)
        abort();
    for (size_t i = 0; i <= n_ids; i++) {
        if ((i < n_ids ? dsvk_decoder_push(d, ids[i], &part, &n_part, NULL)
                       : dsvk_decoder_finish(d, &part, &n_part, NULL)) != DSVK_OK)
            abort();
        memcpy(out + *n, part, n_part);
        *n += n_part;
    }
    dsvk_decoder_close(d);
    return out;
}

static void expect_stream(int line, const dsvk_tokenizer *t, const char *bytes, size_t n, const char *wanted) {
    int32_t ids[64];
    size_t n_out;
    for (size_t i = 0; i < n; i++)
        ids[i] = (unsigned char)bytes[i];
    char *out = stream(t, ids, n, &n_out);
    CHECK(n_out == strlen(wanted) && memcmp(out, wanted, n_out) == 0, "line %d: %.*s, wanted %s", line, (int)n_out, out,
          wanted);
    free(out);
}
#define STREAM(bytes, wanted) expect_stream(__LINE__, t, bytes, sizeof bytes - 1, wanted)
#define R "\xef\xbf\xbd"

static void test_T09_decoding(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0});
    dsvk_decoder *d;
    dsvk_error err;
    const char *part;
    char *text = NULL;
    size_t n;
    const int32_t bad[] = {-1, 304, 299 /* a hole */, INT32_MAX, INT32_MIN};
    CHECK(dsvk_decoder_open(&d, t, &err) == DSVK_OK, "%s", err.message);
    for (size_t i = 0; i < DSVK_COUNT(bad); i++) {
        CHECK(dsvk_tokenizer_decode(t, &bad[i], 1, &text, &n, &err) == DSVK_INVALID && strstr(err.message, "304"), "%d",
              bad[i]);
        CHECK(dsvk_decoder_push(d, bad[i], &part, &n, &err) == DSVK_INVALID, "%d", bad[i]);
    }
    /* A character over three tokens, with a refused id between them. */
    CHECK(dsvk_decoder_push(d, 0xe4, &part, &n, &err) == DSVK_OK && n == 0, "%zu", n);
    CHECK(dsvk_decoder_push(d, 304, &part, &n, &err) == DSVK_INVALID, "range");
    CHECK(dsvk_decoder_push(d, 0xb8, &part, &n, &err) == DSVK_OK && n == 0, "%zu", n);
    CHECK(dsvk_decoder_push(d, 0xad, &part, &n, &err) == DSVK_OK && n == 3 && memcmp(part, "中", 3) == 0, "%zu", n);
    CHECK(dsvk_decoder_push(d, 300, &part, &n, &err) == DSVK_OK && n == 5 && memcmp(part, "<|s|>", 5) == 0, "%zu", n);
    CHECK(dsvk_decoder_push(d, CJK_2, &part, &n, &err) == DSVK_OK && n == 0, "%zu", n);
    CHECK(dsvk_decoder_finish(d, &part, &n, &err) == DSVK_OK && n == 3 && memcmp(part, R, 3) == 0, "%zu", n);
    CHECK(dsvk_decoder_finish(d, &part, &n, &err) == DSVK_OK && n == 0, "%zu", n); /* and it begins anew */
    CHECK(dsvk_decoder_push(d, 'x', &part, &n, &err) == DSVK_OK && n == 1 && *part == 'x', "%zu", n);
    dsvk_decoder_close(d);
    /* What Python's bytes.decode("utf-8", "replace") gives for each. */
    STREAM("a\xff"
           "b",
           "a" R "b");
    STREAM("\xe4\xb8", R);
    STREAM("\xe4\xb8"
           "a",
           R "a");
    STREAM("\xe4\xe4\xb8\xad", R "中");
    STREAM("\xe0\x80\x80", R R R);
    STREAM("\xed\xa0\x80", R R R);
    STREAM("\xf0\x9f\x98", R);
    STREAM("\xf0\x9f\x98\x80", "😀");
    STREAM("\xf0\x80\x80\x80", R R R R);
    STREAM("\xf4\x90\x80\x80", R R R R);
    STREAM("\xf0\x9f\xf0\x9f\x98\x80\x80", R "😀" R);
    STREAM("\xc0\xaf\xc2", R R R);
    STREAM("", "");
    dsvk_tokenizer_close(t);
}

/* ---- the interface ---- */

static void test_A01_arguments(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0}), *none;
    dsvk_error err;
    int32_t *ids = NULL, id = 0;
    size_t n;
    char *text;
    const char *part;
    dsvk_decoder *d;
    CHECK(dsvk_tokenizer_open(NULL, harness_path, &err) == DSVK_INVALID && strstr(err.message, "tokenizer"), "open");
    CHECK(dsvk_tokenizer_open(&none, NULL, &err) == DSVK_INVALID && strstr(err.message, "path"), "open");
    CHECK(dsvk_tokenizer_encode(NULL, "a", 1, 0, &ids, &n, &err) == DSVK_INVALID, "encode");
    CHECK(dsvk_tokenizer_encode(t, NULL, 1, 0, &ids, &n, &err) == DSVK_INVALID && strstr(err.message, "text"),
          "encode");
    CHECK(dsvk_tokenizer_encode(t, "a", 1, 0, NULL, &n, &err) == DSVK_INVALID, "encode");
    CHECK(dsvk_tokenizer_encode(t, "a", 1, 0, &ids, NULL, &err) == DSVK_INVALID, "encode");
    CHECK(dsvk_tokenizer_encode(t, "a", 1, 6, &ids, &n, &err) == DSVK_INVALID && strstr(err.message, "0x6"), "encode");
    CHECK(dsvk_tokenizer_encode(t, "a", (size_t)2 << 30, 0, &ids, &n, &err) == DSVK_LIMIT, "encode");
    CHECK(dsvk_tokenizer_decode(t, NULL, 1, &text, &n, &err) == DSVK_INVALID, "decode");
    CHECK(dsvk_tokenizer_decode(t, &id, 1, NULL, &n, &err) == DSVK_INVALID, "decode");
    CHECK(dsvk_tokenizer_decode(t, &id, 1, &text, NULL, &err) == DSVK_INVALID, "decode");
    CHECK(dsvk_decoder_open(&d, NULL, &err) == DSVK_INVALID, "decoder");
    CHECK(dsvk_decoder_open(NULL, t, &err) == DSVK_INVALID, "decoder");
    CHECK(dsvk_decoder_push(NULL, 0, &part, &n, &err) == DSVK_INVALID, "decoder");
    CHECK(dsvk_decoder_finish(NULL, &part, &n, &err) == DSVK_INVALID, "decoder");
    CHECK(dsvk_tokenizer_vocab_size(NULL) == 0 && dsvk_tokenizer_id(NULL, "a", 1) == -1, "NULL");
    dsvk_tokenizer_close(NULL);
    dsvk_decoder_close(NULL);
    dsvk_tokenizer_close(t);
}

static void *encode_often(void *user) {
    size_t wrong = 0;
    for (int i = 0; i < 300; i++)
        wrong += !round_trip(user, " abc aaaa 中 123 <|s|>\n\n", 24, 1);
    return (void *)wrong;
}

static void test_A15_threads_share_a_tokenizer(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0});
    pthread_t threads[4];
    for (size_t i = 0; i < DSVK_COUNT(threads); i++)
        if (pthread_create(&threads[i], NULL, encode_often, t) != 0)
            abort();
    for (size_t i = 0; i < DSVK_COUNT(threads); i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        CHECK(!wrong, "thread %zu", i);
    }
    dsvk_tokenizer_close(t);
}

int main(void) {
    static const test tests[] = {
        TEST(test_known_ids),
        TEST(test_merges_against_definition),
        TEST(test_T05_linear_time_on_a_small_stack),
        TEST(test_T06_any_bytes),
        TEST(test_T07_special_text_is_ordinary_unless_asked),
        TEST(test_T08_empty_text_and_nul),
        TEST(test_T09_decoding),
        TEST(test_A01_arguments),
        TEST(test_A15_threads_share_a_tokenizer),
    };
    return harness_main(tests, DSVK_COUNT(tests));
}
