/* A small tokenizer.json, part by part (harness_tokenizer.h). */
#include "harness_tokenizer.h"

#include <fcntl.h>
#include <time.h>

int harness_passed, harness_failed;
char harness_folder[] = "/tmp/dsvk-tokenizer-XXXXXX";
char harness_path[256];

static uint64_t random_state;

void seed(const char *name) {
    random_state = 0xcbf29ce484222325u;
    for (; *name; name++)
        random_state = (random_state ^ (unsigned char)*name) * 0x100000001b3u;
    printf("  seed %016llx\n", (unsigned long long)random_state);
}

uint32_t below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) * n >> 32);
}

double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the file under test ---- */

#define FAMILY_SPLITS                                                                                                  \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"},\"behavior\":\"Isolated\",\"invert\":false},"       \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[一-龥぀-ゟ゠-ヿ]+\"},\"behavior\":\"Isolated\",\"invert\":"   \
    "false}"                                                                                                           \
    ","                                                                                                                \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|"  \
    "[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\r\\n]*|\\\\s*[\\r\\n]+|"            \
    "\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"

static const char * or (const char *text, const char *otherwise) {
    return text ? text : otherwise;
}

/* The tokens behind the bytes, and the merges that make them, in this order. The first merge ranks
 * before the one that makes its left side, as happens where a token can be made in two ways: in "bcbc" it has to come
 * before the second "b c". */
#define MERGED                                                                                                          \
    ",\"ab\":256,\"Ġa\":257,\"Ġab\":258,\"aa\":259,\"aaaa\":260,\"ĠĠ\":261,\"ä¸\":262,\"ä¸Ń\":263,\"bc\":264," \
    "\"Ġabc\":265,\"bcb\":266"
#define MERGES                                                                                                         \
    "\"bc b\",\"Ġ a\",\"a b\",[\"Ġa\",\"b\"],\"a a\",\"aa aa\",\"Ġ Ġ\",\"ä ¸\",\"ä¸ Ń\",[\"b\",\"c\"],\"Ġa " \
    "bc\",\"Ġab c\""
#define ADDED                                                                                                          \
    "{\"id\":300,\"content\":\"<|s|>\",\"special\":true,\"normalized\":false},"                                        \
    "{\"id\":301,\"content\":\"<|s|>>\",\"special\":true,\"normalized\":false},"                                       \
    "{\"id\":302,\"content\":\"<think>\",\"special\":false,\"normalized\":true},"                                      \
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

size_t make_file(char out[FILE_SIZE], const parts *p) {
    size_t n = 0;
    char key[8], entry[64];
#define ADD(text) n = append(out, n, FILE_SIZE, text)
    ADD("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    ADD(or (p->added, ADDED));
    ADD(or (p->added_extra, ""));
    ADD("],\"normalizer\":");
    ADD(or (p->normalizer, "{\"type\":\"Sequence\",\"normalizers\":[]}"));
    ADD(",\"pre_tokenizer\":");
    ADD(or (p->pre, "{\"type\":\"Sequence\",\"pretokenizers\":[" FAMILY_SPLITS BYTE_LEVEL "]}"));
    ADD(",\"post_processor\":");
    ADD(or (p->post, "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_regex\":true}"));
    ADD(",\"decoder\":");
    ADD(or (p->decoder, "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}"));
    ADD(or (p->root_extra, ""));
    ADD(",\"model\":{\"type\":");
    ADD(or (p->model_type, "\"BPE\""));
    ADD(or (p->model_extra, ",\"dropout\":null,\"unk_token\":null,\"byte_fallback\":false"));
    ADD(",\"vocab\":{");
    for (int b = 0; b < 256; b++) {
        if (p->no_byte_0x41 && b == 0x41)
            continue;
        byte_key(key, b);
        snprintf(entry, sizeof entry, "%s\"%s\":%d", b ? "," : "", key, b);
        ADD(entry);
    }
    ADD(MERGED);
    ADD(or (p->vocab_extra, ""));
    ADD("},\"merges\":[");
    ADD(or (p->merges, MERGES));
    ADD(or (p->merges_extra, ""));
    ADD("]}}");
#undef ADD
    return n;
}

void write_file(const char *text, size_t n) {
    int fd = open(harness_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n)
        abort();
    close(fd);
}

dsvk_status open_text(dsvk_tokenizer **t, const char *text, size_t n, dsvk_error *err) {
    *t = NULL;
    err->message[0] = 0;
    write_file(text, n);
    return dsvk_tokenizer_open(t, harness_path, err);
}

dsvk_tokenizer *open_parts(const parts *p) {
    static char text[FILE_SIZE];
    dsvk_error err;
    dsvk_tokenizer *t;
    dsvk_status status = open_text(&t, text, make_file(text, p), &err);
    CHECK(status == DSVK_OK, "%s: %s", dsvk_status_name(status), err.message);
    if (!t)
        exit(1);
    return t;
}

bool round_trip(const dsvk_tokenizer *t, const char *text, size_t n, uint32_t flags) {
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

/* ---- running ---- */

int harness_main(const test *tests, size_t n) {
    if (!mkdtemp(harness_folder))
        abort();
    snprintf(harness_path, sizeof harness_path, "%s/tokenizer.json", harness_folder);
    for (size_t i = 0; i < n; i++) {
        double begin = cpu_seconds();
        printf("%s\n", tests[i].name);
        tests[i].run();
        printf("  %.2f s\n", cpu_seconds() - begin);
        fflush(stdout);
    }
    unlink(harness_path);
    rmdir(harness_folder);
    printf("%d passed, %d failed\n", harness_passed, harness_failed);
    return harness_failed ? 1 : 0;
}
