/* Bad tokenizer.json files: each gives a status and a sentence that names the entry, and leaves nothing behind.
 *
 * Edges: the file cut at every length, with bits flipped, with every entry wrong in turn; a token at, below and above
 * the longest; a pattern that would run for ever; every allocation failing. */
#include "harness_tokenizer.h"

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
#define EXPECT(status, names, ...) expect(__LINE__, &(parts){__VA_ARGS__}, status, names)

static void expect_text(int line, const char *text, size_t n, dsvk_status wanted, const char *names) {
    dsvk_error err;
    dsvk_tokenizer *t;
    dsvk_status status = open_text(&t, text, n, &err);
    CHECK(status == wanted && strstr(err.message, names), "line %d: wanted %s with '%s', got %s: %s", line,
          dsvk_status_name(wanted), names, dsvk_status_name(status), status ? err.message : "");
    dsvk_tokenizer_close(t);
}

/* ---- files ---- */

static void test_M01_cut_at_every_length(void) {
    static char text[FILE_SIZE];
    dsvk_error err;
    dsvk_tokenizer *t;
    size_t n = make_file(text, &(parts){0}), bad = 0;
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
    size_t n = make_file(text, &(parts){0}), opened = 0, rounds = 0, wrong = 0;
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
    if (truncate(harness_path, (256ll << 20) + 1) != 0)
        abort();
    CHECK(dsvk_tokenizer_open(&t, harness_path, &err) == DSVK_LIMIT && strstr(err.message, "268435456"), "%s",
          err.message);
    unlink(harness_path);
    CHECK(dsvk_tokenizer_open(&t, harness_folder, &err) == DSVK_IO && strstr(err.message, "tokenizer.json"), "%s",
          err.message);
    CHECK(dsvk_tokenizer_open(&t, "/dev/null", &err) == DSVK_IO, "%s", err.message);
    t = open_parts(&(parts){0});
    dsvk_tokenizer_close(t);
    CHECK(dsvk_tokenizer_open(&t, harness_folder, &err) == DSVK_OK, "a folder that holds it: %s", err.message);
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
        char *from = strstr((make_file(good, &(parts){.vocab_extra = ",\"@\":290"}), good), "@\":290");
        size_t head = (size_t)(from - good);
        memcpy(text, good, head);
        memset(text + head, 'z', n);
        strcpy(text + head + n, from + 1);
        dsvk_error err = {0};
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
    dsvk_tokenizer *t = open_parts(&(parts){.vocab_extra = ",\"<0x-1>\":290,\"<0xZZ>\":291,\"<0x41>\":292"});
    const int32_t ids[] = {290, 291, 292};
    char *text;
    size_t n;
    CHECK(dsvk_tokenizer_decode(t, ids, 3, &text, &n, NULL) == DSVK_OK && strcmp(text, "<0x-1><0xZZ><0x41>") == 0, "%s",
          text);
    dsvk_free(text);
    int32_t *read = NULL;
    size_t n_read = 0;
    CHECK(dsvk_tokenizer_encode(t, "A", 1, 0, &read, &n_read, NULL) == DSVK_OK && n_read == 1 && read[0] == 0x41,
          "'A'");
    dsvk_free(read);
    dsvk_tokenizer_close(t);
    EXPECT(DSVK_UNSUPPORTED, "byte_fallback", .model_extra = ",\"byte_fallback\":true");
}

#define ONE_SPLIT(regex)                                                                                               \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex                    \
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
    EXPECT(DSVK_UNSUPPORTED, "pre_tokenizer 1",
           .pre = "{\"type\":\"Sequence\",\"pretokenizers\":[" BYTE_LEVEL "," BYTE_LEVEL "]}");
    EXPECT(DSVK_UNSUPPORTED, "use_regex", .pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}");
    EXPECT(DSVK_UNSUPPORTED, "add_prefix_space", .pre = "{\"type\":\"ByteLevel\",\"use_regex\":false}");
    EXPECT(DSVK_UNSUPPORTED, "Regex",
           .pre = "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}");
    EXPECT(DSVK_UNSUPPORTED, "Removed",
           .pre = "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\"}");
    EXPECT(DSVK_UNSUPPORTED, "dropout", .model_extra = ",\"dropout\":0.1");
    EXPECT(DSVK_UNSUPPORTED, "unk_token", .model_extra = ",\"unk_token\":\"a\"");
    EXPECT(DSVK_UNSUPPORTED, "end_of_word_suffix", .model_extra = ",\"end_of_word_suffix\":\"</w>\"");
    EXPECT(DSVK_UNSUPPORTED, "\"new\": lstrip", .added_extra = ",{\"id\":310,\"content\":\"new\",\"lstrip\":true}");
    EXPECT(DSVK_UNSUPPORTED, "\"new\": rstrip", .added_extra = ",{\"id\":310,\"content\":\"new\",\"rstrip\":true}");
    EXPECT(DSVK_UNSUPPORTED, "\"new\": single_word",
           .added_extra = ",{\"id\":310,\"content\":\"new\",\"single_word\":true}");
    /* Patterns that do not compile, match nothing, or nest too deep. */
    EXPECT(DSVK_UNSUPPORTED, "offset 2 of (a", .pre = ONE_SPLIT("(a"));
    EXPECT(DSVK_UNSUPPORTED, "a*", .pre = ONE_SPLIT("a*"));
    EXPECT(DSVK_UNSUPPORTED, "((((",
           .pre = ONE_SPLIT("((((((((((((((((((((((((((((((((((((((((a"
                            "))))))))))))))))))))))))))))))))))))))))"));
    EXPECT(DSVK_UNSUPPORTED, "\\C", .pre = ONE_SPLIT("\\\\C"));
}

static void test_T04_pattern_that_hits_a_limit(void) {
    dsvk_tokenizer *t = open_parts(&(parts){.pre = ONE_SPLIT("(a+)+b|c")});
    dsvk_error err = {0};
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
    CHECK(round_trip(t, "cab", 3, 0), "the tokenizer goes on");
    dsvk_tokenizer_close(t);
}

static void test_T07_no_added_token_out_of_merges(void) {
    EXPECT(DSVK_UNSUPPORTED, "merge 2 makes added token \"ab\"", .added_extra = ",{\"id\":256,\"content\":\"ab\"}");
    EXPECT(DSVK_FORMAT, "byte 0x41", .added_extra = ",{\"id\":65,\"content\":\"A\"}");
}

/* open, encode, decode and stream; the status of the first that fails. */
static dsvk_status everything(dsvk_error *err) {
    static const char text[] =
        " abc aaaa 中 \xf0\x9f\xab\xa9 123 \xff <|s|>"; /* with a character that has a stand-in */
    dsvk_tokenizer *t = NULL;
    dsvk_decoder *d = NULL;
    int32_t *ids = NULL;
    char *back = NULL;
    const char *part;
    size_t n_ids, n;
    dsvk_status status;
    DSVK_GOTO(dsvk_tokenizer_open(&t, harness_path, err));
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
    dsvk_error err = {0};
    dsvk_tokenizer_close(open_parts(&(parts){0}));
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
    dsvk_tokenizer *t = open_parts(&(parts){0});
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

int main(void) {
    static const test tests[] = {
        TEST(test_M01_cut_at_every_length),
        TEST(test_M01_flipped_bytes),
        TEST(test_M03_not_a_json_object),
        TEST(test_M04_M05_M18_C11_limits_of_the_file),
        TEST(test_T01_malformed_text),
        TEST(test_T02_entries),
        TEST(test_T03_byte_fallback_names_are_text),
        TEST(test_T04_unknown_parts),
        TEST(test_T04_pattern_that_hits_a_limit),
        TEST(test_T07_no_added_token_out_of_merges),
        TEST(test_A06_every_allocation_fails),
    };
    return harness_main(tests, DSVK_COUNT(tests));
}
