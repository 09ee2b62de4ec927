/* The tokenizer on a small tokenizer.json of its own making: 256 byte tokens, a few merges, the family's three patterns
 * and added tokens. Against Hugging Face `tokenizers` it is compared in tests/python/test_tokenizer.py.
 *
 * Edges: empty text; one byte; NUL; every byte value; bytes that are no UTF-8 at both ends, alone, and inside; a
 * character split over tokens; runs of one character up to 2 MiB; spaces before a line end and before a word; added
 * tokens that are prefixes of each other, adjacent, cut short, overlapping; ids at, below and above the range; the file
 * cut at every length, with bytes flipped, and with every entry wrong in turn; every allocation failing. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

/* ---- the usual ---- */

static int passed, failed;

#define CHECK(condition, ...)                                            \
    do {                                                                 \
        if (condition) {                                                 \
            passed++;                                                    \
        } else {                                                         \
            failed++;                                                    \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);       \
            printf(__VA_ARGS__);                                         \
            printf("\n");                                                \
        }                                                                \
    } while (0)

static uint64_t random_state;

static void seed(const char *name) {
    random_state = 0xcbf29ce484222325u;
    for (; *name; name++)
        random_state = (random_state ^ (unsigned char)*name) * 0x100000001b3u;
    printf("  seed %016llx\n", (unsigned long long)random_state);
}

static uint32_t below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) * n >> 32);
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the file under test ---- */

static char folder[] = "/tmp/dsvk-tokenizer-XXXXXX";
static char path[256];

#define FAMILY_SPLITS                                                                                                  \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"},\"behavior\":\"Isolated\",\"invert\":false},"       \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[一-龥぀-ゟ゠-ヿ]+\"},\"behavior\":\"Isolated\",\"invert\":false},"   \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|"  \
    "[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\r\\n]*|\\\\s*[\\r\\n]+|"           \
    "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"

/* Parts of the file; NULL: what a good file has. */
typedef struct parts {
    const char *normalizer, *pre, *post, *decoder, *root_extra;
    const char *model_type, *model_extra;
    const char *vocab_extra; /* entries behind the usual ones, each with its leading comma */
    const char *merges;      /* the whole list */
    const char *merges_extra;
    const char *added;       /* the whole list */
    const char *added_extra;
    bool no_byte_0x41;       /* leave the token of this byte out */
} parts;

static const char *or(const char *text, const char *otherwise) { return text ? text : otherwise; }

/* Tokens of the good file: 0-255 are the bytes; then these, made by the merges below in this order. The first merge ranks
 * before the one that makes its left side, as happens where a token can be made in two ways: in "bcbc" it has to come
 * before the second "b c". */
#define MERGED ",\"ab\":256,\"Ġa\":257,\"Ġab\":258,\"aa\":259,\"aaaa\":260,\"ĠĠ\":261,\"ä¸\":262,\"ä¸Ń\":263,\"bc\":264,\"Ġabc\":265,\"bcb\":266"
#define MERGES "\"bc b\",\"Ġ a\",\"a b\",[\"Ġa\",\"b\"],\"a a\",\"aa aa\",\"Ġ Ġ\",\"ä ¸\",\"ä¸ Ń\",[\"b\",\"c\"],\"Ġa bc\",\"Ġab c\""
enum { AB = 256, SPACE_A, SPACE_AB, AA, AAAA, SPACES, CJK_2, CJK_3, BC, SPACE_ABC, BCB, FIRST_ADDED = 300 };
#define ADDED                                                                                    \
    "{\"id\":300,\"content\":\"<|s|>\",\"special\":true,\"normalized\":false},"                  \
    "{\"id\":301,\"content\":\"<|s|>>\",\"special\":true,\"normalized\":false},"                 \
    "{\"id\":302,\"content\":\"<think>\",\"special\":false,\"normalized\":true},"                \
    "{\"id\":303,\"content\":\"｜U｜\",\"special\":false,\"normalized\":false,\"lstrip\":false}"

static size_t append(char *out, size_t used, size_t size, const char *text) {
    size_t n = strlen(text);
    if (used + n >= size)
        abort(); /* the buffers of this test are too small */
    memcpy(out + used, text, n + 1);
    return used + n;
}

/* The key of a byte token in the byte alphabet, as JSON text. */
static void byte_key(char out[8], int b) {
    int next = 256;
    for (int i = 0; i < b; i++)
        next += !((i >= '!' && i <= '~') || (i >= 0xa1 && i <= 0xac) || i >= 0xae);
    int c = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae ? b : next;
    if (c == '"' || c == '\\')
        snprintf(out, 8, "\\%c", c);
    else if (c < 0x80)
        snprintf(out, 8, "%c", c);
    else
        snprintf(out, 8, "%c%c", 0xc0 | c >> 6, 0x80 | (c & 0x3f));
}

#define FILE_SIZE 65536

static size_t make_file(char *out, const parts *p) {
    size_t n = 0;
    char key[8], entry[64];
#define ADD(text) n = append(out, n, FILE_SIZE, text)
    ADD("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    ADD(or(p->added, ADDED));
    ADD(or(p->added_extra, ""));
    ADD("],\"normalizer\":");
    ADD(or(p->normalizer, "{\"type\":\"Sequence\",\"normalizers\":[]}"));
    ADD(",\"pre_tokenizer\":");
    ADD(or(p->pre, "{\"type\":\"Sequence\",\"pretokenizers\":[" FAMILY_SPLITS BYTE_LEVEL "]}"));
    ADD(",\"post_processor\":");
    ADD(or(p->post, "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_regex\":true}"));
    ADD(",\"decoder\":");
    ADD(or(p->decoder, "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}"));
    ADD(or(p->root_extra, ""));
    ADD(",\"model\":{\"type\":");
    ADD(or(p->model_type, "\"BPE\""));
    ADD(or(p->model_extra, ",\"dropout\":null,\"unk_token\":null,\"byte_fallback\":false"));
    ADD(",\"vocab\":{");
    for (int b = 0; b < 256; b++) {
        if (p->no_byte_0x41 && b == 0x41)
            continue;
        byte_key(key, b);
        snprintf(entry, sizeof entry, "%s\"%s\":%d", b ? "," : "", key, b);
        ADD(entry);
    }
    ADD(MERGED);
    ADD(or(p->vocab_extra, ""));
    ADD("},\"merges\":[");
    ADD(or(p->merges, MERGES));
    ADD(or(p->merges_extra, ""));
    ADD("]}}");
#undef ADD
    return n;
}

static void write_file(const char *text, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n)
        abort();
    close(fd);
}

static dsvk_status open_text(dsvk_tokenizer **t, const char *text, size_t n, dsvk_error *err) {
    *t = NULL;
    err->message[0] = 0;
    write_file(text, n);
    return dsvk_tokenizer_open(t, path, err);
}

static dsvk_tokenizer *open_parts(const parts *p) {
    static char text[FILE_SIZE];
    dsvk_error err;
    dsvk_tokenizer *t;
    dsvk_status status = open_text(&t, text, make_file(text, p), &err);
    CHECK(status == DSVK_OK, "%s: %s", dsvk_status_name(status), err.message);
    if (!t)
        exit(1);
    return t;
}

/* The file with one part wrong: this status, and a message that has `names`. */
static void expect(int line, const parts *p, dsvk_status wanted, const char *names) {
    static char text[FILE_SIZE];
    dsvk_error err;
    dsvk_tokenizer *t;
    dsvk_status status = open_text(&t, text, make_file(text, p), &err);
    CHECK(status == wanted && strstr(err.message, names), "line %d: wanted %s with '%s', got %s: %s", line,
          dsvk_status_name(wanted), names, dsvk_status_name(status), status ? err.message : "");
    dsvk_tokenizer_close(t);
}
#define EXPECT(status, names, ...) expect(__LINE__, &(parts){ __VA_ARGS__ }, status, names)

static void expect_text(int line, const char *text, size_t n, dsvk_status wanted, const char *names) {
    dsvk_error err;
    dsvk_tokenizer *t;
    dsvk_status status = open_text(&t, text, n, &err);
    CHECK(status == wanted && strstr(err.message, names), "line %d: wanted %s with '%s', got %s: %s", line,
          dsvk_status_name(wanted), names, dsvk_status_name(status), status ? err.message : "");
    dsvk_tokenizer_close(t);
}

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
#define IDS(t, text, flags, ...)                                                                         \
    expect_ids(__LINE__, t, text, sizeof text - 1, flags, (const int32_t[]){ __VA_ARGS__ },              \
               sizeof((const int32_t[]){ __VA_ARGS__ }) / sizeof(int32_t))

static bool round_trip(const dsvk_tokenizer *t, const char *text, size_t n, uint32_t flags) {
    int32_t *ids = NULL;
    char *back = NULL;
    size_t n_ids, n_back;
    bool same = dsvk_tokenizer_encode(t, text, n, flags, &ids, &n_ids, NULL) == DSVK_OK &&
                dsvk_tokenizer_decode(t, ids, n_ids, &back, &n_back, NULL) == DSVK_OK && n_back == n &&
                memcmp(back, text, n) == 0;
    dsvk_free(ids);
    dsvk_free(back);
    return same;
}

/* ---- files ---- */

static void test_M01_cut_at_every_length(void) {
    static char text[FILE_SIZE];
    dsvk_error err;
    dsvk_tokenizer *t;
    size_t n = make_file(text, &(parts){ 0 }), bad = 0;
    int64_t live = dsvk_alloc_live();
    for (size_t i = 0; i < n; i++) {
        bad += open_text(&t, text, i, &err) != DSVK_FORMAT || !err.message[0];
        dsvk_tokenizer_close(t);
    }
    CHECK(bad == 0, "%zu of %zu cuts were not FORMAT", bad, n);
    CHECK(dsvk_alloc_live() == live, "%lld allocations left", (long long)(dsvk_alloc_live() - live));
}

static void test_M01_flipped_bytes(void) {
    static char text[FILE_SIZE], bent[FILE_SIZE];
    static const char sample[] = " abc aaaa 123 <|s|>中\xff\n";
    dsvk_error err;
    size_t n = make_file(text, &(parts){ 0 }), opened = 0, rounds = 0, wrong = 0;
    int64_t live = dsvk_alloc_live();
    seed(__func__);
    for (double end = cpu_seconds() + 2; cpu_seconds() < end; rounds++) {
        memcpy(bent, text, n);
        for (uint32_t flips = 1 + below(3); flips > 0; flips--)
            bent[below((uint32_t)n)] ^= (char)(1 << below(8));
        dsvk_tokenizer *t;
        dsvk_status status = open_text(&t, bent, n, &err);
        if (status == DSVK_OK) {
            opened++;
            wrong += !round_trip(t, sample, sizeof sample - 1, 0);
        } else {
            wrong += t != NULL || !err.message[0];
        }
        dsvk_tokenizer_close(t);
    }
    printf("  %zu files, %zu still opened\n", rounds, opened);
    CHECK(wrong == 0, "%zu of %zu", wrong, rounds);
    CHECK(dsvk_alloc_live() == live, "%lld allocations left", (long long)(dsvk_alloc_live() - live));
}

static void test_M03_not_a_json_object(void) {
    expect_text(__LINE__, "", 0, DSVK_FORMAT, "offset");
    expect_text(__LINE__, "[1]", 3, DSVK_FORMAT, "offset 0");
    expect_text(__LINE__, "x", 1, DSVK_FORMAT, "offset");
    expect_text(__LINE__, "{} x", 4, DSVK_FORMAT, "offset");
    expect_text(__LINE__, "{\"a\0\":1}", 8, DSVK_FORMAT, "offset 3");
    expect_text(__LINE__, "{\"\xff\":1}", 7, DSVK_FORMAT, "offset");
    expect_text(__LINE__, "{}", 2, DSVK_UNSUPPORTED, "decoder");
}

static void test_M04_M05_M18_C11_limits_of_the_file(void) {
    static char deep[100001];
    memset(deep, '[', sizeof deep);
    expect_text(__LINE__, deep, sizeof deep, DSVK_LIMIT, "deeper than 64");
    EXPECT(DSVK_FORMAT, "decoder", .root_extra = ",\"decoder\":null");
    EXPECT(DSVK_FORMAT, "decoder", .root_extra = ",\"\\u0064ecoder\":null");
    EXPECT(DSVK_FORMAT, "ab", .vocab_extra = ",\"\\u0061b\":290");

    size_t n = (1u << 20) + 64;
    char *text = malloc(n + 64);
    memset(text, 'k', n + 64);
    memcpy(text, "{\"", 2);
    memcpy(text + n, "\":1}", 4);
    expect_text(__LINE__, text, n + 4, DSVK_LIMIT, "1048576");
    free(text);

    dsvk_error err;
    dsvk_tokenizer *t = NULL;
    write_file("{", 1);
    if (truncate(path, (256ll << 20) + 1) != 0)
        abort();
    CHECK(dsvk_tokenizer_open(&t, path, &err) == DSVK_LIMIT && strstr(err.message, "268435456"), "%s", err.message);
    unlink(path);
    CHECK(dsvk_tokenizer_open(&t, folder, &err) == DSVK_IO && strstr(err.message, "tokenizer.json"), "%s", err.message);
    CHECK(dsvk_tokenizer_open(&t, "/dev/null", &err) == DSVK_IO, "%s", err.message);
    t = open_parts(&(parts){ 0 });
    dsvk_tokenizer_close(t);
    CHECK(dsvk_tokenizer_open(&t, folder, &err) == DSVK_OK, "a folder that holds it: %s", err.message);
    dsvk_tokenizer_close(t);
}

static void test_T01_malformed_text(void) {
    EXPECT(DSVK_FORMAT, "offset", .normalizer = "nul");
    EXPECT(DSVK_FORMAT, "offset", .vocab_extra = ",\"\xc3\":290");
    EXPECT(DSVK_FORMAT, "offset", .vocab_extra = ",\"\\ud83d\":290");
    EXPECT(DSVK_FORMAT, "offset", .vocab_extra = ",\"\\ude00\":290");
    EXPECT(DSVK_FORMAT, "offset", .vocab_extra = ",\"a\\u0000b\":290");
    EXPECT(DSVK_FORMAT, "offset", .added_extra = ",");
}

static void test_T02_entries(void) {
    EXPECT(DSVK_FORMAT, "\"zz\" has id 256", .vocab_extra = ",\"zz\":256");
    EXPECT(DSVK_FORMAT, "\"zz\" is -1", .vocab_extra = ",\"zz\":-1");
    EXPECT(DSVK_FORMAT, "\"zz\" is 4194304", .vocab_extra = ",\"zz\":4194304");
    EXPECT(DSVK_FORMAT, "\"zz\" is 9223372036854775807", .vocab_extra = ",\"zz\":9223372036854775807");
    EXPECT(DSVK_FORMAT, "fraction", .vocab_extra = ",\"zz\":290.5");
    EXPECT(DSVK_FORMAT, "\"zz\" is a string", .vocab_extra = ",\"zz\":\"290\"");
    EXPECT(DSVK_FORMAT, "\"zz\" is null", .vocab_extra = ",\"zz\":null");
    EXPECT(DSVK_FORMAT, "zz", .vocab_extra = ",\"zz\":290,\"zz\":291");
    EXPECT(DSVK_FORMAT, "empty", .vocab_extra = ",\"\":290");
    EXPECT(DSVK_FORMAT, "byte 0x41", .no_byte_0x41 = true);
    EXPECT(DSVK_FORMAT, "merge 12: its right side \"q!\"", .merges_extra = ",\"a q!\"");
    EXPECT(DSVK_FORMAT, "merge 12: its left side \"q!\"", .merges_extra = ",[\"q!\",\"a\"]");
    EXPECT(DSVK_FORMAT, "merge 12: its result \"ca\"", .merges_extra = ",\"c a\"");
    EXPECT(DSVK_FORMAT, "merge 12 repeats merge 2", .merges_extra = ",\"a b\"");
    EXPECT(DSVK_FORMAT, "merge 12", .merges_extra = ",\"ab\"");
    EXPECT(DSVK_FORMAT, "merge 12", .merges_extra = ",\"a b c\"");
    EXPECT(DSVK_FORMAT, "merge 12", .merges_extra = ",[\"a\"]");
    EXPECT(DSVK_FORMAT, "merge 12", .merges_extra = ",[\"a\",1]");
    EXPECT(DSVK_FORMAT, "merge 12", .merges_extra = ",7");
    EXPECT(DSVK_FORMAT, "merges", .merges_extra = "],\"merges2\":[", .model_extra = ",\"merges\":{}");
    EXPECT(DSVK_FORMAT, "\"new\" has id 300", .added_extra = ",{\"id\":300,\"content\":\"new\"}");
    EXPECT(DSVK_FORMAT, "\"new\" has id 97", .added_extra = ",{\"id\":97,\"content\":\"new\"}");
    EXPECT(DSVK_FORMAT, "\"ab\" has id 310", .added_extra = ",{\"id\":310,\"content\":\"ab\"}");
    EXPECT(DSVK_FORMAT, "repeat the text \"<think>\"", .added_extra = ",{\"id\":310,\"content\":\"<think>\"}");
    EXPECT(DSVK_FORMAT, "\"new\" is -5", .added_extra = ",{\"id\":-5,\"content\":\"new\"}");
    EXPECT(DSVK_FORMAT, "empty", .added_extra = ",{\"id\":310,\"content\":\"\"}");
    EXPECT(DSVK_FORMAT, "added_tokens 4", .added_extra = ",{\"id\":310}");
    EXPECT(DSVK_FORMAT, "added_tokens 4", .added_extra = ",17");
    EXPECT(DSVK_FORMAT, "special", .added_extra = ",{\"id\":310,\"content\":\"new\",\"special\":1}");
    /* Token bytes: the limit, one below it, one above. */
    for (size_t n = (64u << 10) - 1; n <= (64u << 10) + 1; n++) {
        static char good[FILE_SIZE], text[3 * FILE_SIZE];
        char *from = strstr((make_file(good, &(parts){ .vocab_extra = ",\"@\":290" }), good), "@\":290");
        size_t head = (size_t)(from - good);
        memcpy(text, good, head);
        memset(text + head, 'z', n);
        strcpy(text + head + n, from + 1);
        dsvk_error err = { 0 };
        dsvk_tokenizer *t;
        dsvk_status status = open_text(&t, text, strlen(text), &err);
        CHECK(status == (n > 64u << 10 ? DSVK_LIMIT : DSVK_OK), "%zu bytes: %s", n, err.message);
        if (t) {
            int32_t id = 290;
            char *back;
            size_t n_back;
            CHECK(dsvk_tokenizer_decode(t, &id, 1, &back, &n_back, NULL) == DSVK_OK && n_back == n, "%zu", n);
            dsvk_free(back);
        }
        dsvk_tokenizer_close(t);
    }
}

static void test_T03_byte_fallback_names_are_text(void) {
    dsvk_tokenizer *t = open_parts(&(parts){ .vocab_extra = ",\"<0x-1>\":290,\"<0xZZ>\":291,\"<0x41>\":292" });
    const int32_t ids[] = { 290, 291, 292 };
    char *text;
    size_t n;
    CHECK(dsvk_tokenizer_decode(t, ids, 3, &text, &n, NULL) == DSVK_OK && strcmp(text, "<0x-1><0xZZ><0x41>") == 0, "%s",
          text);
    dsvk_free(text);
    IDS(t, "A", 0, 0x41);
    dsvk_tokenizer_close(t);
    EXPECT(DSVK_UNSUPPORTED, "byte_fallback", .model_extra = ",\"byte_fallback\":true");
}

#define ONE_SPLIT(regex)                                                                                            \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                  \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL "]}"

static void test_T04_unknown_parts(void) {
    EXPECT(DSVK_UNSUPPORTED, "Unigram", .model_type = "\"Unigram\"");
    EXPECT(DSVK_UNSUPPORTED, "model", .model_type = "7");
    EXPECT(DSVK_UNSUPPORTED, "NFC", .normalizer = "{\"type\":\"NFC\"}");
    EXPECT(DSVK_UNSUPPORTED, "Sequence", .normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}");
    EXPECT(DSVK_UNSUPPORTED, "Metaspace", .decoder = "{\"type\":\"Metaspace\"}");
    EXPECT(DSVK_UNSUPPORTED, "decoder", .decoder = "null");
    EXPECT(DSVK_UNSUPPORTED, "TemplateProcessing", .post = "{\"type\":\"TemplateProcessing\"}");
    EXPECT(DSVK_UNSUPPORTED, "padding2", .root_extra = ",\"x\":1", .decoder = "{\"type\":\"padding2\"}");
    EXPECT(DSVK_UNSUPPORTED, "Whitespace", .pre = "{\"type\":\"Whitespace\"}");
    EXPECT(DSVK_UNSUPPORTED, "Digits", .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"}]}");
    EXPECT(DSVK_UNSUPPORTED, "no ByteLevel", .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[]}");
    EXPECT(DSVK_UNSUPPORTED, "pre_tokenizer 1", .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL "," BYTE_LEVEL "]}");
    EXPECT(DSVK_UNSUPPORTED, "use_regex", .pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}");
    EXPECT(DSVK_UNSUPPORTED, "add_prefix_space", .pre = "{\"type\":\"ByteLevel\",\"use_regex\":false}");
    EXPECT(DSVK_UNSUPPORTED, "Regex", .pre = "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}");
    EXPECT(DSVK_UNSUPPORTED, "Removed", .pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\"}");
    EXPECT(DSVK_UNSUPPORTED, "dropout", .model_extra = ",\"dropout\":0.1");
    EXPECT(DSVK_UNSUPPORTED, "unk_token", .model_extra = ",\"unk_token\":\"a\"");
    EXPECT(DSVK_UNSUPPORTED, "end_of_word_suffix", .model_extra = ",\"end_of_word_suffix\":\"</w>\"");
    EXPECT(DSVK_UNSUPPORTED, "\"new\": lstrip", .added_extra = ",{\"id\":310,\"content\":\"new\",\"lstrip\":true}");
    EXPECT(DSVK_UNSUPPORTED, "\"new\": rstrip", .added_extra = ",{\"id\":310,\"content\":\"new\",\"rstrip\":true}");
    EXPECT(DSVK_UNSUPPORTED, "\"new\": single_word", .added_extra = ",{\"id\":310,\"content\":\"new\",\"single_word\":true}");
    /* Patterns that do not compile, match nothing, or nest too deep. */
    EXPECT(DSVK_UNSUPPORTED, "offset 2 of (a", .pre = ONE_SPLIT("(a"));
    EXPECT(DSVK_UNSUPPORTED, "a*", .pre = ONE_SPLIT("a*"));
    EXPECT(DSVK_UNSUPPORTED, "((((", .pre = ONE_SPLIT("((((((((((((((((((((((((((((((((((((((((a"
                                                      "))))))))))))))))))))))))))))))))))))))))"));
    EXPECT(DSVK_UNSUPPORTED, "\\C", .pre = ONE_SPLIT("\\\\C"));
}

static void test_T04_pattern_that_hits_a_limit(void) {
    dsvk_tokenizer *t = open_parts(&(parts){ .pre = ONE_SPLIT("(a+)+b|c") });
    dsvk_error err = { 0 };
    int32_t *ids = NULL;
    size_t n_ids;
    char text[64];
    memset(text, 'a', sizeof text);
    int64_t live = dsvk_alloc_live();
    double begin = cpu_seconds();
    dsvk_status status = dsvk_tokenizer_encode(t, text, sizeof text, 0, &ids, &n_ids, &err);
    CHECK(status == DSVK_OK || (status == DSVK_LIMIT && strstr(err.message, "(a+)+b")), "%s", err.message);
    CHECK(cpu_seconds() - begin < 15, "%.1f s", cpu_seconds() - begin);
    dsvk_free(ids);
    ids = NULL;
    /* PCRE2 sees at once that no b follows above; here it cannot. */
    memcpy(text + sizeof text - 2, "!b", 2);
    status = dsvk_tokenizer_encode(t, text, sizeof text, 0, &ids, &n_ids, &err);
    CHECK(status == DSVK_LIMIT && strstr(err.message, "(a+)+b"), "%s", dsvk_status_name(status));
    CHECK(dsvk_alloc_live() == live, "%lld", (long long)(dsvk_alloc_live() - live));
    IDS(t, "cab", 0, 'c', AB); /* the tokenizer goes on */
    dsvk_tokenizer_close(t);
}

/* ---- encoding ---- */

static void test_known_ids(void) {
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
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
    t = open_parts(&(parts){ .pre = BYTE_LEVEL }); /* no patterns: one piece */
    IDS(t, "aab ab1", 0, 'a', AB, SPACE_AB, '1');
    dsvk_tokenizer_close(t);
    t = open_parts(&(parts){ .vocab_extra = ",\"xyz\":290", .model_extra = ",\"ignore_merges\":true" });
    IDS(t, "xyz", 0, 290);
    IDS(t, "xyzx", 0, 'x', 'y', 'z', 'x');
    dsvk_tokenizer_close(t);
}

/* Merging again, as its definition says: the lowest rank, leftmost, until there is none. */
typedef struct rule {
    int32_t left, right, result;
} rule;
static const rule rules[] = { { BC, 'b', BCB }, { ' ', 'a', SPACE_A }, { 'a', 'b', AB }, { SPACE_A, 'b', SPACE_AB }, { 'a', 'a', AA }, { AA, AA, AAAA },
                              { ' ', ' ', SPACES }, { 0xe4, 0xb8, CJK_2 }, { CJK_2, 0xad, CJK_3 }, { 'b', 'c', BC },
                              { SPACE_A, BC, SPACE_ABC }, { SPACE_AB, 'c', SPACE_ABC } };

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
    dsvk_tokenizer *t = open_parts(&(parts){ .pre = BYTE_LEVEL });
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

static const char *const units[] = { "a", " ", "0", "\n", "^", "中", "あ", "😀", "\xcc\x81", "\x01", "<", "\r\n", " \n", "\xff", "\xf0\x9f",
                                     "<|s|>", "a ", "                                                               x", NULL /* random letters */ };

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
        /* The best of up to five: other programs on this machine share its caches. Below 50 ms the clock decides. */
        for (int i = 0; i < 5 && !(once <= 2 && (twice < 2.5 * once || twice < 0.05)); i++) {
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
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
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
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
    char text[4096];
    size_t wrong = 0;
    seed(__func__);
    IDS(t, "\xff\xfe", 0, 0xff, 0xfe);
    IDS(t, "ab\xff" "ab", 0, AB, 0xff, AB);
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
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
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
    t = open_parts(&(parts){ .model_extra = ",\"ignore_merges\":true", .added_extra = ",{\"id\":310,\"content\":\"word\"}" });
    IDS(t, "word", 0, 'w', 'o', 'r', 'd');
    IDS(t, "word", DSVK_PARSE_SPECIAL, 310);
    char text[64];
    size_t wrong = 0, n_ids;
    int32_t *ids;
    seed(__func__);
    for (int round = 0; round < 3000; round++) {
        size_t n = 0;
        while (n < 40) {
            static const char *const bits[] = { "<|s|>", "<|s|>>", "<think>", "｜U｜", "word", "<|", "｜", "a", " " };
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
    /* Files in which merges would make one are refused. */
    EXPECT(DSVK_UNSUPPORTED, "merge 2 makes added token \"ab\"", .added_extra = ",{\"id\":256,\"content\":\"ab\"}");
    EXPECT(DSVK_FORMAT, "byte 0x41", .added_extra = ",{\"id\":65,\"content\":\"A\"}");
}

static void test_T08_empty_text_and_nul(void) {
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
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
        if ((i < n_ids ? dsvk_decoder_push(d, ids[i], &part, &n_part, NULL) : dsvk_decoder_finish(d, &part, &n_part, NULL)) != DSVK_OK)
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
    CHECK(n_out == strlen(wanted) && memcmp(out, wanted, n_out) == 0, "line %d: %.*s, wanted %s", line, (int)n_out, out, wanted);
    free(out);
}
#define STREAM(bytes, wanted) expect_stream(__LINE__, t, bytes, sizeof bytes - 1, wanted)
#define R "\xef\xbf\xbd"

static void test_T09_decoding(void) {
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
    dsvk_decoder *d;
    dsvk_error err;
    const char *part;
    char *text = NULL;
    size_t n;
    const int32_t bad[] = { -1, 304, 299 /* a hole */, INT32_MAX, INT32_MIN };
    CHECK(dsvk_decoder_open(&d, t, &err) == DSVK_OK, "%s", err.message);
    for (size_t i = 0; i < DSVK_COUNT(bad); i++) {
        CHECK(dsvk_tokenizer_decode(t, &bad[i], 1, &text, &n, &err) == DSVK_INVALID && strstr(err.message, "304"), "%d", bad[i]);
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
    STREAM("a\xff" "b", "a" R "b");
    STREAM("\xe4\xb8", R);
    STREAM("\xe4\xb8" "a", R "a");
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
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
    dsvk_error err;
    int32_t *ids = NULL, id = 0;
    size_t n;
    char *text;
    const char *part;
    dsvk_decoder *d;
    CHECK(dsvk_tokenizer_open(NULL, path, &err) == DSVK_INVALID && strstr(err.message, "tokenizer"), "open");
    CHECK(dsvk_tokenizer_open(&t, NULL, &err) == DSVK_INVALID && strstr(err.message, "path"), "open");
    CHECK(dsvk_tokenizer_encode(NULL, "a", 1, 0, &ids, &n, &err) == DSVK_INVALID, "encode");
    CHECK(dsvk_tokenizer_encode(t, NULL, 1, 0, &ids, &n, &err) == DSVK_INVALID && strstr(err.message, "text"), "encode");
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

/* open, encode, decode and stream; the status of the first that fails. */
static dsvk_status everything(dsvk_error *err) {
    static const char text[] = " abc aaaa 中 \xf0\x9f\xab\xa9 123 \xff <|s|>"; /* with a character that has a stand-in */
    dsvk_tokenizer *t = NULL;
    dsvk_decoder *d = NULL;
    int32_t *ids = NULL;
    char *back = NULL;
    const char *part;
    size_t n_ids, n;
    dsvk_status status;
    DSVK_GOTO(dsvk_tokenizer_open(&t, path, err));
    DSVK_GOTO(dsvk_tokenizer_encode(t, text, sizeof text - 1, DSVK_PARSE_SPECIAL, &ids, &n_ids, err));
    DSVK_GOTO(dsvk_tokenizer_decode(t, ids, n_ids, &back, &n, err));
    DSVK_GOTO(dsvk_decoder_open(&d, t, err));
    for (size_t i = 0; i < n_ids; i++)
        DSVK_GOTO(dsvk_decoder_push(d, ids[i], &part, &n, err));
    DSVK_GOTO(dsvk_decoder_finish(d, &part, &n, err));
fail:
    dsvk_free(ids);
    dsvk_free(back);
    dsvk_decoder_close(d);
    dsvk_tokenizer_close(t);
    return status;
}

static void test_A06_every_allocation_fails(void) {
    dsvk_error err = { 0 };
    dsvk_tokenizer_close(open_parts(&(parts){ 0 }));
    int64_t live = dsvk_alloc_live(), wrong = 0;
    dsvk_alloc_fail_after(-1);
    CHECK(everything(&err) == DSVK_OK, "%s", err.message);
    int64_t count = dsvk_alloc_fail_after(-1);
    for (int64_t i = 0; i < count; i++) {
        dsvk_alloc_fail_after(i);
        wrong += everything(&err) != DSVK_NOMEM;
        dsvk_alloc_fail_after(-1);
        wrong += dsvk_alloc_live() != live;
    }
    printf("  %lld allocations\n", (long long)count);
    CHECK(count > 10 && wrong == 0, "%lld of %lld", (long long)wrong, (long long)count);
    CHECK(everything(&err) == DSVK_OK, "%s", err.message);
    /* Pushing allocates nothing. */
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
    dsvk_decoder *d;
    const char *part;
    size_t n;
    dsvk_decoder_open(&d, t, NULL);
    dsvk_alloc_fail_after(0);
    for (int32_t id = 0; id <= BCB; id++)
        wrong += dsvk_decoder_push(d, id, &part, &n, NULL) != DSVK_OK;
    CHECK(wrong == 0 && dsvk_alloc_fail_after(-1) == 0, "%lld", (long long)wrong);
    dsvk_decoder_close(d);
    dsvk_tokenizer_close(t);
}

static void *encode_often(void *user) {
    size_t wrong = 0;
    for (int i = 0; i < 300; i++)
        wrong += !round_trip(user, " abc aaaa 中 123 <|s|>\n\n", 24, 1);
    return (void *)wrong;
}

static void test_A15_threads_share_a_tokenizer(void) {
    dsvk_tokenizer *t = open_parts(&(parts){ 0 });
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
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
#define TEST(name) { #name, name }
        TEST(test_known_ids),
        TEST(test_merges_against_definition),
        TEST(test_M01_cut_at_every_length),
        TEST(test_M01_flipped_bytes),
        TEST(test_M03_not_a_json_object),
        TEST(test_M04_M05_M18_C11_limits_of_the_file),
        TEST(test_T01_malformed_text),
        TEST(test_T02_entries),
        TEST(test_T03_byte_fallback_names_are_text),
        TEST(test_T04_unknown_parts),
        TEST(test_T04_pattern_that_hits_a_limit),
        TEST(test_T05_linear_time_on_a_small_stack),
        TEST(test_T06_any_bytes),
        TEST(test_T07_special_text_is_ordinary_unless_asked),
        TEST(test_T08_empty_text_and_nul),
        TEST(test_T09_decoding),
        TEST(test_A01_arguments),
        TEST(test_A06_every_allocation_fails),
        TEST(test_A15_threads_share_a_tokenizer),
    };
    if (!mkdtemp(folder))
        abort();
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    for (size_t i = 0; i < DSVK_COUNT(tests); i++) {
        double begin = cpu_seconds();
        printf("%s\n", tests[i].name);
        tests[i].run();
        printf("  %.2f s\n", cpu_seconds() - begin);
        fflush(stdout);
    }
    unlink(path);
    rmdir(folder);
    printf("%d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
