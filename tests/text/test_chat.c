/* Conversations to prompts. tests/vectors/chat.jsonl holds conversations drawn at random with what the published encoder
 * makes of them (roles in any order, missing content, results out of order, numbers spelled every way, arguments that are
 * no JSON, repeated keys): input, parameters, output, one per line. The examples are those of spec 6.3.
 *
 * Edges: no messages; empty and null content; content and keys with NUL, quotes, special strings; lists of parts; empty
 * lists of tools and calls; a context that ends inside a turn; a system message made for tools; calls without ids; ids
 * that repeat; 64 levels of JSON; a million repeated keys; a tokenizer without the tokens; every allocation failing. */
#include "harness_tokenizer.h"
#include "json_reader.h"

#define BOS "<｜begin▁of▁sentence｜>"
#define EOS "<｜end▁of▁sentence｜>"
#define USER "<｜User｜>"
#define ASSISTANT "<｜Assistant｜>"
#define ASK(content) "{\"role\":\"user\",\"content\":\"" content "\"}"
#define SAY(content) "{\"role\":\"assistant\",\"content\":\"" content "\"}"
#define CALL(id, name, arguments)                                                                                      \
    "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"" name "\",\"arguments\":" arguments "}}"
#define CALLS(list) "{\"role\":\"assistant\",\"reasoning_content\":\"R\",\"tool_calls\":[" list "]}"
#define RESULT(id, content) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"" content "\"}"
#define TOOL "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"

/* Makes text [n] from JSON, into a buffer that the next call uses again. */
static char *encoded;
static size_t n_encoded;
static dsvk_error err;
static dsvk_status encode(const char *json, size_t n) {
    dsvk_free(encoded);
    encoded = NULL;
    n_encoded = 0;
    err.message[0] = 0;
    return dsvk_chat_encode(json, n, &encoded, &n_encoded, &err);
}

static void expect(int line, const char *json, const char *wanted) {
    dsvk_status status = encode(json, strlen(json));
    CHECK(status == DSVK_OK && n_encoded == strlen(wanted) && memcmp(encoded, wanted, n_encoded) == 0,
          "line %d: %s\n  gives %s\n instead %s", line, json, encoded ? encoded : err.message, wanted);
}
#define EXPECT(json, wanted) expect(__LINE__, json, wanted)

/* The same with something in front of the messages: `"thinking_mode":"chat",`. */
#define TALK(parameters, messages) "{" parameters "\"messages\":[" messages "]}"

/* ---- what the published encoder gives ---- */

/* `{"messages": input, parameters}` of a line. */
static size_t conversation_of(dsvk_json_value line, char *out, size_t size) {
    dsvk_json_value input, parameters;
    dsvk_json_find(line, "input", &input);
    dsvk_json_find(line, "params", &parameters);
    return (size_t)snprintf(out, size, "{\"messages\":%.*s,%.*s", (int)input.n, input.text, (int)parameters.n - 1,
                            parameters.text + 1);
}

static void test_published_prompts(void) {
    char *file = NULL, *conversation = NULL, *wanted = NULL;
    size_t n, count = 0;
    CHECK(dsvk_file_slurp(DSVK_VECTORS "/chat.jsonl", 1u << 20, &file, &n, &err) == DSVK_OK, "%s", err.message);
    if (!file)
        return;
    conversation = dsvk_alloc(n + 64);
    wanted = dsvk_alloc(n);
    for (char *at = file, *next; (next = strchr(at, '\n')); at = next + 1, count++) {
        dsvk_json_value line = dsvk_json_root(at, (size_t)(next - at)), output;
        size_t n_conversation = conversation_of(line, conversation, n + 64);
        dsvk_json_find(line, "output", &output);
        size_t n_wanted = dsvk_json_string(output, wanted, n);
        dsvk_status status = encode(conversation, n_conversation);
        size_t same = 0;
        while (same < n_wanted && same < n_encoded && wanted[same] == encoded[same])
            same++;
        CHECK(status == DSVK_OK && n_encoded == n_wanted && same == n_wanted, "line %zu: %s at %zu: '%.60s' not '%.60s'",
              count + 1, err.message, same, encoded ? encoded + same : "", wanted + same);
    }
    CHECK(count >= 60, "%zu lines", count);
    dsvk_free(file);
    dsvk_free(conversation);
    dsvk_free(wanted);
}

static void test_worked_examples(void) {
#define HELLO "{\"role\":\"system\",\"content\":\"S\"}," ASK("Hello") ","
    EXPECT(TALK("\"thinking_mode\":\"chat\",", HELLO SAY("Hi") "," ASK("Q")),
           BOS "S" USER "Hello" ASSISTANT "</think>Hi" EOS USER "Q" ASSISTANT "</think>");
#define THOUGHT(answer) "{\"role\":\"assistant\",\"reasoning_content\":\"T\",\"content\":\"" answer "\"}"
    EXPECT(TALK("", HELLO THOUGHT("Hi") "," ASK("Q") "," THOUGHT("A")),
           BOS "S" USER "Hello" ASSISTANT "</think>Hi" EOS USER "Q" ASSISTANT "<think>T</think>A" EOS);
    EXPECT(TALK("\"drop_thinking\":false,", HELLO THOUGHT("Hi") "," ASK("Q")),
           BOS "S" USER "Hello" ASSISTANT "<think>T</think>Hi" EOS USER "Q" ASSISTANT "<think>");
    EXPECT(TALK("", ASK("W") "," CALLS(CALL("1", "w", "\"{\\\"l\\\": \\\"B\\\", \\\"n\\\": [1,2.50]}\"")) ","
                    RESULT("1", "22")),
           BOS USER "W" ASSISTANT "</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"w\">\n"
                                  "<｜DSML｜parameter name=\"l\" string=\"true\">B</｜DSML｜parameter>\n"
                                  "<｜DSML｜parameter name=\"n\" string=\"false\">[1, 2.5]</｜DSML｜parameter>\n"
                                  "</｜DSML｜invoke>\n</｜DSML｜tool_calls>" EOS USER "<tool_result>22</tool_result>" ASSISTANT
                                  "<think>");
    EXPECT(TALK("\"thinking_mode\":\"chat\",", "{\"role\":\"user\",\"content\":\"Q\",\"task\":\"action\"}," SAY("Search")),
           BOS USER "Q" ASSISTANT "</think><｜action｜>Search" EOS);
    EXPECT(TALK("", ASK("Q") ",{\"role\":\"assistant\",\"content\":\"A\",\"task\":\"title\"}"),
           BOS USER "Q" ASSISTANT "<think></think>A" EOS "<｜title｜>");
    EXPECT(TALK("", ""), BOS);
    EXPECT(TALK("\"add_bos\":false,\"reasoning_effort\":\"max\",", ""), "");
    EXPECT(TALK("", CALLS(CALL("1", "f", "\"{}\"") "," CALL("2", "g", "null") "," CALL("3", "h", "\"[1]\""))),
           BOS "R</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n"
               "<｜DSML｜invoke name=\"g\">\n\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"h\">\n"
               "<｜DSML｜parameter name=\"arguments\" string=\"true\">[1]</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
               "</｜DSML｜tool_calls>" EOS);
}

/* ---- parameters ---- */

static void test_efforts(void) {
    static const struct {
        const char *revision, *effort, *begins; /* behind BOS */
    } cases[] = {
        { "preview", "none", USER },
        { "preview", "minimal", USER },
        { "preview", "low", USER },
        { "preview", "medium", USER },
        { "preview", "high", USER },
        { "preview", "xhigh", USER },
        { "preview", "max", "Reasoning Effort: Absolute maximum" },
        { "preview", "ultra", "Reasoning Effort: Absolute maximum" },
        { "0731", "low", USER },
        { "0731", "high", "Reasoning Effort: Absolute maximum" },
        { "0731", "max", "Reasoning Effort: Beyond maximum — exhaustive" },
    };
    for (size_t i = 0; i < DSVK_COUNT(cases); i++) {
        char json[256], begins[128];
        const char *ends = strcmp(cases[i].effort, "none") ? ASSISTANT "<think>" : ASSISTANT "</think>";
        int n = snprintf(json, sizeof json, TALK("\"reasoning_effort\":\"%s\",\"revision\":\"%s\",", ASK("Q")),
                         cases[i].effort, cases[i].revision);
        snprintf(begins, sizeof begins, "%s%s", BOS, cases[i].begins);
        dsvk_status status = encode(json, (size_t)n);
        CHECK(status == DSVK_OK && strncmp(encoded, begins, strlen(begins)) == 0 &&
                  strcmp(encoded + n_encoded - strlen(ends), ends) == 0,
              "%s %s: %s", cases[i].revision, cases[i].effort, encoded ? encoded : err.message);
    }
    EXPECT(TALK("\"thinking_mode\":\"chat\",\"reasoning_effort\":\"max\",", ASK("Q")), BOS USER "Q" ASSISTANT "</think>");
    EXPECT(TALK("\"thinking_mode\":null,\"reasoning_effort\":null,\"revision\":\"0731\",", ASK("Q")),
           BOS USER "Q" ASSISTANT "<think>");
}

static void test_context_is_not_written_again(void) {
    EXPECT(TALK("\"reasoning_effort\":\"max\",\"context\":[" HELLO THOUGHT("Hi") "],", ASK("Q")),
           USER "Q" ASSISTANT "<think>");
    /* Results behind a context's question are a turn of their own, in the order of the context's calls. */
    EXPECT(TALK("\"context\":[" CALLS(CALL("1", "f", "\"{}\"") "," CALL("2", "f", "\"{}\"")) "," ASK("and") "],",
                RESULT("2", "two") "," RESULT("1", "one")),
           USER "<tool_result>one</tool_result>\n\n<tool_result>two</tool_result>" ASSISTANT "<think>");
    EXPECT(TALK("\"context\":[{\"role\":\"system\",\"tools\":[" TOOL "]}," ASK("Q") "],", THOUGHT("A") "," ASK("R")),
           "T</think>A" EOS USER "R" ASSISTANT "<think>");
    EXPECT(TALK("\"context\":[{\"role\":\"developer\",\"content\":\"D\"}," SAY("A") "],", ASK("R")),
           USER "R" ASSISTANT "<think>");
    EXPECT(TALK("\"context\":[" ASK("Q") "],", ""), "");
}

static void test_tools_of_the_conversation(void) {
    static const char begin[] = BOS "S\n\n## Tools\n\nYou have", begin_empty[] = BOS "\n\n## Tools\n\nYou have";
    static const char json[] = TALK("\"tools\":[" TOOL "," TOOL "],\"response_format\":{\"type\":\"json_object\"},", HELLO);
    char text[sizeof json];
    memcpy(text, json, sizeof json);
    *strrchr(text, ',') = ' '; /* HELLO ends with one */
    CHECK(encode(text, strlen(text)) == DSVK_OK && strncmp(encoded, begin, strlen(begin)) == 0 &&
              strstr(encoded, "\n\n{\"name\": \"f\"}\n{\"name\": \"f\"}\n\nYou MUST strictly follow") &&
              strstr(encoded, "tool calls.\n\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to "
                              "reply:\n{\"type\": \"json_object\"}" USER "Hello" ASSISTANT "<think>"),
          "%s", encoded ? encoded : err.message);
    CHECK(encode(TALK("\"tools\":[" TOOL "],", ASK("Q")), strlen(TALK("\"tools\":[" TOOL "],", ASK("Q")))) == DSVK_OK &&
              strncmp(encoded, begin_empty, strlen(begin_empty)) == 0,
          "%s", encoded ? encoded : err.message);
    EXPECT(TALK("\"tools\":[],\"response_format\":{},", ASK("Q")), BOS USER "Q" ASSISTANT "<think>");
}

static void test_content(void) {
#define PART(text) "{\"type\":\"text\",\"text\":\"" text "\"}"
#define IMAGE "{\"type\":\"image_url\"}"
    EXPECT(TALK("", "{\"role\":\"user\",\"content\":[" PART("a") "," PART("b") ",{\"type\":\"text\"}]}"),
           BOS USER "ab" ASSISTANT "<think>");
    EXPECT(TALK("", "{\"role\":\"tool\",\"content\":[" PART("a") "," IMAGE "," PART("b") "]}," RESULT("x", "c")),
           BOS USER "<tool_result>a\n\n[Unsupported image_url]\n\nb</tool_result>\n\n<tool_result>c</tool_result>" ASSISTANT
               "<think>");
    EXPECT(TALK("", "{\"role\":\"user\"},{\"role\":\"user\",\"content\":null,\"name\":5}"), BOS USER "\n\n" ASSISTANT "<think>");
    EXPECT(TALK("", "{\"role\":\"assistant\",\"wo_eos\":true,\"content\":\"\\ud83d\\ude00\\/\"}"), BOS "</think>😀/");
    /* Arguments may be an object; the key and the values come as Python's json would have them. */
    EXPECT(TALK("", CALLS(CALL("1", "f", "{\"a\":{\"b\" : [ ] , \"c\":-0},\"d\":1E2,\"e\":\"\\u00e9\\n\",\"f\":[\"\\u001f\\b/\"]}"))),
           BOS "R</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
               "<｜DSML｜parameter name=\"a\" string=\"false\">{\"b\": [], \"c\": 0}</｜DSML｜parameter>\n"
               "<｜DSML｜parameter name=\"d\" string=\"false\">100.0</｜DSML｜parameter>\n"
               "<｜DSML｜parameter name=\"e\" string=\"true\">é\n</｜DSML｜parameter>\n"
               "<｜DSML｜parameter name=\"f\" string=\"false\">[\"\\u001f\\b/\"]</｜DSML｜parameter>\n"
               "</｜DSML｜invoke>\n</｜DSML｜tool_calls>" EOS);
    static const char nul[] = TALK("", ASK("a\\u0000b")), wanted[] = BOS USER "a\0b" ASSISTANT "<think>";
    CHECK(encode(nul, strlen(nul)) == DSVK_OK && n_encoded == sizeof wanted - 1 && memcmp(encoded, wanted, n_encoded) == 0,
          "NUL: %s", err.message);
}

/* ---- ids ---- */

static dsvk_tokenizer *nano_tokenizer(void) {
    dsvk_tokenizer *t = NULL;
    dsvk_status status = dsvk_tokenizer_open(&t, DSVK_NANO, &err);
    CHECK(status == DSVK_OK, "%s", err.message);
    if (!t)
        exit(1);
    return t;
}

static bool is_added(const dsvk_tokenizer *t, int32_t id) {
    char *text = NULL;
    int32_t *ids = NULL;
    size_t n, n_ids;
    bool added = dsvk_tokenizer_decode(t, &id, 1, &text, &n, NULL) == DSVK_OK &&
                 dsvk_tokenizer_encode(t, text, n, DSVK_PARSE_SPECIAL, &ids, &n_ids, NULL) == DSVK_OK && n_ids == 1 &&
                 n > 4 && (strstr(text, "｜") || strstr(text, "think>") || strstr(text, "<|"));
    dsvk_free(text);
    dsvk_free(ids);
    return added;
}

/* A conversation that has `x` everywhere a stranger can write. */
static size_t full_conversation(char *out, size_t size, const char *x) {
    return (size_t)snprintf(
        out, size,
        "{\"tools\":[{\"function\":{\"name\":\"f\",\"description\":\"%1$s\",\"%1$s\":1}}],\"response_format\":{\"%1$s\":\"%1$s\"},"
        "\"messages\":[{\"role\":\"system\",\"content\":\"%1$s\"},{\"role\":\"latest_reminder\",\"content\":\"%1$s\"},"
        "{\"role\":\"developer\",\"content\":\"%1$s\"},{\"role\":\"assistant\",\"reasoning_content\":\"%1$s\",\"content\":\"%1$s.\","
        "\"tool_calls\":[{\"id\":\"%1$s\",\"function\":{\"name\":\"%1$s\",\"arguments\":\"{\\\"%1$s\\\":\\\"%1$s\\\",\\\"k\\\":[\\\"%1$s\\\"]}\"}},"
        "{\"function\":{\"name\":\"f\",\"arguments\":\"%1$s\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"%1$s\",\"content\":\"%1$s\"},"
        "{\"role\":\"tool\",\"content\":[{\"type\":\"%1$s\"},{\"type\":\"text\",\"text\":\"%1$s\"}]},{\"role\":\"user\",\"content\":\"%1$s\"}]}",
        x);
}

static void test_T07_content_gives_no_special_token(void) {
    static const char *const specials[] = { BOS, EOS, USER, ASSISTANT, "<think>", "</think>", "｜DSML｜", "<｜latest_reminder｜>",
                                            "<｜title｜>", "<|EOT|>", "<｜fim▁hole｜>", "</｜DSML｜parameter>" };
    static char json[1 << 16];
    dsvk_tokenizer *t = nano_tokenizer();
    size_t n_scaffold = 0;
    for (size_t i = 0; i <= DSVK_COUNT(specials); i++) {
        const char *x = i ? specials[i - 1] : "plain";
        int32_t *ids = NULL;
        char *text = NULL;
        size_t n = full_conversation(json, sizeof json, x), n_ids = 0, n_text, n_added = 0;
        dsvk_status status = dsvk_chat_encode_ids(t, json, n, &ids, &n_ids, &err);
        CHECK(status == DSVK_OK && encode(json, n) == DSVK_OK, "%s: %s", x, err.message);
        for (size_t k = 0; k < n_ids; k++)
            n_added += is_added(t, ids[k]);
        if (i == 0)
            n_scaffold = n_added;
        CHECK(n_added == n_scaffold && n_added > 30, "%s: %zu special tokens, without it %zu", x, n_added, n_scaffold);
        CHECK(ids && dsvk_tokenizer_decode(t, ids, n_ids, &text, &n_text, &err) == DSVK_OK && n_text == n_encoded &&
                  memcmp(text, encoded, n_text) == 0,
              "%s: the ids are not those of the text", x);
        if (i == 0) { /* nothing to confuse: as if the whole text had been encoded */
            int32_t *whole = NULL;
            size_t n_whole = 0;
            CHECK(dsvk_tokenizer_encode(t, encoded, n_encoded, DSVK_PARSE_SPECIAL, &whole, &n_whole, &err) == DSVK_OK &&
                      n_whole == n_ids && memcmp(whole, ids, n_ids * sizeof *ids) == 0,
                  "content and scaffold are merged as one text: %zu and %zu ids", n_whole, n_ids);
            dsvk_free(whole);
        }
        dsvk_free(text);
        dsvk_free(ids);
    }
    dsvk_tokenizer_close(t);
}

static void test_tokenizer_without_the_tokens(void) {
    dsvk_tokenizer *t = open_parts(&(parts){0});
    int32_t *ids = NULL;
    size_t n = 0;
    static const char json[] = TALK("", ASK("Q"));
    CHECK(dsvk_chat_encode_ids(t, json, strlen(json), &ids, &n, &err) == DSVK_UNSUPPORTED &&
              strcmp(err.message, "the tokenizer has no added token " BOS) == 0,
          "%s", err.message);
    dsvk_tokenizer_close(t);
    /* a token of that text that is not an added one does not count */
    t = open_parts(&(parts){.vocab_extra = ",\"<think>\":290", .added = "{\"id\":300,\"content\":\"" BOS "\"}"});
    static const char begin[] = TALK("", "{\"role\":\"assistant\",\"content\":\"</think>\"}");
    CHECK(dsvk_chat_encode_ids(t, begin, strlen(begin), &ids, &n, &err) == DSVK_UNSUPPORTED &&
              strstr(err.message, "no added token </think>"),
          "%s", err.message);
    dsvk_tokenizer_close(t);
}

static void test_replay(void) {
#define SAMPLED "odd</think>\\n\\n<｜DSML｜tool_calls>\\n<｜DSML｜invoke name=\\\"f\\\"></｜DSML｜invoke></｜DSML｜tool_calls>"
#define SAMPLED_TEXT "odd</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\"></｜DSML｜invoke></｜DSML｜tool_calls>"
#define TURNS ASK("Q") "," CALLS(CALL("a", "f", "\"{}\"") "," CALL("b", "f", "\"{}\"")) "," RESULT("a", "1")
    EXPECT(TALK("\"drop_thinking\":false,\"replay\":{\"b\":\"x\",\"a\":\"" SAMPLED "\"},", TURNS),
           BOS USER "Q" ASSISTANT "<think>" SAMPLED_TEXT EOS USER "<tool_result>1</tool_result>" ASSISTANT "<think>");
#define CANONICAL(thought)                                                                                             \
    thought "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"f\">\n\n"       \
            "</｜DSML｜invoke>\n</｜DSML｜tool_calls>" EOS USER "<tool_result>1</tool_result>" ASSISTANT
    EXPECT(TALK("\"drop_thinking\":false,\"replay\":{\"c\":\"" SAMPLED "\"},", TURNS), /* of another turn */
           BOS USER "Q" ASSISTANT "<think>" CANONICAL("R</think>") "<think>");
    EXPECT(TALK("\"thinking_mode\":\"chat\",\"replay\":{\"a\":\"" SAMPLED "\"},", TURNS), /* in the other mode */
           BOS USER "Q" ASSISTANT "</think>" CANONICAL("") "</think>");
    EXPECT(TALK("\"thinking_mode\":\"chat\",\"replay\":{\"a\":\"as said\"},", TURNS),
           BOS USER "Q" ASSISTANT "</think>as said" EOS USER "<tool_result>1</tool_result>" ASSISTANT "</think>");

    /* Without calls, by its own name; with them, by theirs. */
#define SAID(fields) "{\"role\":\"assistant\",\"turn_id\":\"t\"" fields "}," ASK("R")
    EXPECT(TALK("\"thinking_mode\":\"chat\",\"replay\":{\"t\":\"as said\"},", ASK("Q") "," SAID(",\"content\":\"A\"")),
           BOS USER "Q" ASSISTANT "</think>as said" EOS USER "R" ASSISTANT "</think>");
    EXPECT(TALK("\"replay\":{\"t\":\"so</think>as said\"},", ASK("Q") "," SAID(",\"content\":\"A\"")), /* its thoughts are dropped */
           BOS USER "Q" ASSISTANT "</think>A" EOS USER "R" ASSISTANT "<think>");
    EXPECT(TALK("\"thinking_mode\":\"chat\",\"replay\":{\"t\":\"as said\"},",
                ASK("Q") "," SAID(",\"tool_calls\":[" CALL("a", "f", "\"{}\"") "]")),
           BOS USER "Q" ASSISTANT "</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>" EOS
               USER "R" ASSISTANT "</think>");

    EXPECT("{\"add_bos\":false,\"thinking_mode\":\"chat\",\"replay\":{\"a\":\"\"},\"messages\":["
           "{\"role\":\"assistant\",\"wo_eos\":true,\"tool_calls\":[" CALL("a", "f", "\"{}\"") "]}]}",
           "");

    /* Ids stay as they were sampled, also where the tokenizer would have made others of their text. */
    dsvk_tokenizer *t = nano_tokenizer();
    int32_t h = dsvk_tokenizer_id(t, "h", 1), e = dsvk_tokenizer_id(t, "e", 1), end = dsvk_tokenizer_id(t, "</think>", 8);
    int32_t *ids = NULL;
    size_t n = 0, at = 0;
    char json[1024];
    int length = snprintf(json, sizeof json, TALK("\"drop_thinking\":false,\"replay\":{\"a\":[%d,%d,%d,%d,%d]},", TURNS), h, e, h,
                          e, end);
    CHECK(dsvk_tokenizer_id(t, "he", 2) >= 0, "nano merges h and e");
    CHECK(dsvk_chat_encode_ids(t, json, (size_t)length, &ids, &n, &err) == DSVK_OK, "%s", err.message);
    while (at + 5 <= n && !(ids[at] == h && ids[at + 1] == e && ids[at + 2] == h && ids[at + 3] == e && ids[at + 4] == end))
        at++;
    CHECK(at + 5 < n && ids[at - 1] == dsvk_tokenizer_id(t, "<think>", 7) &&
              ids[at + 5] == dsvk_tokenizer_id(t, EOS, strlen(EOS)),
          "%zu of %zu", at, n);
    dsvk_free(ids);
    ids = NULL;
    CHECK(encode(json, (size_t)length) == DSVK_INVALID && strstr(err.message, "replay: ids need a tokenizer"), "%s",
          err.message);
    static const char nothing[] = TALK("\"add_bos\":false,", "");
    CHECK(dsvk_chat_encode_ids(t, nothing, strlen(nothing), &ids, &n, &err) == DSVK_OK && n == 0, "%zu ids", n);
    dsvk_free(ids);
    ids = NULL;
    length = snprintf(json, sizeof json, TALK("\"replay\":{\"a\":[1000000]},", TURNS));
    CHECK(dsvk_chat_encode_ids(t, json, (size_t)length, &ids, &n, &err) == DSVK_INVALID &&
              strstr(err.message, "id 1000000 at 0 is no token"),
          "%s", err.message);
    dsvk_tokenizer_close(t);
}

/* ---- bad input ---- */

static void test_refusals(void) {
    static const struct {
        const char *json;
        dsvk_status status;
        const char *says;
    } cases[] = {
        { "", DSVK_FORMAT, "conversation: text ends where a value should be at offset 0" },
        { "{\"messages\":[}", DSVK_FORMAT, "no JSON value at offset 13" },
        { "{\"messages\":[],\"messages\":[]}", DSVK_FORMAT, "duplicate key" },
        { TALK("", ASK("\\ud800")), DSVK_FORMAT, "lone surrogate" },
        { TALK("", ASK("\xff")), DSVK_FORMAT, "bad UTF-8 at offset 39" },
        { "[]", DSVK_INVALID, "conversation: expected an object, got an array" },
        { "{}", DSVK_INVALID, "conversation: no messages" },
        { "{\"messages\":{}}", DSVK_INVALID, "messages: expected a list, got an object" },
        { TALK("", "5"), DSVK_INVALID, "messages[0]: expected an object, got a number" },
        { TALK("", ASK("") ",{}"), DSVK_INVALID, "messages[1]: no role" },
        { TALK("", "{\"role\":\"bot\"}"), DSVK_INVALID,
          "messages[0].role: expected one of system, developer, user, assistant, tool, latest_reminder, got \"bot\"" },
        { TALK("", "{\"role\":\"user\",\"content\":{}}"), DSVK_INVALID,
          "messages[0].content: expected text or a list of parts, got an object" },
        { TALK("", "{\"role\":\"user\",\"content\":[\"a\"]}"), DSVK_INVALID, "messages[0].content[0]: expected an object" },
        { TALK("", "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":1}]}"), DSVK_INVALID,
          "messages[0].content[0].text: expected text, got a number" },
        { TALK("", "{\"role\":\"user\",\"content\":[" IMAGE "]}"), DSVK_UNSUPPORTED,
          "messages[0].content[0]: a part of type \"image_url\"" },
        { TALK("", "{\"role\":\"developer\",\"content\":\"\"}"), DSVK_INVALID, "messages[0].content: a developer message" },
        { TALK("", "{\"role\":\"user\",\"task\":\"sing\"}"), DSVK_INVALID, "messages[0].task: expected one of action, query" },
        { TALK("", "{\"role\":\"assistant\",\"wo_eos\":1}"), DSVK_INVALID, "messages[0].wo_eos: expected true or false" },
        { TALK("", "{\"role\":\"assistant\",\"reasoning_content\":[]}"), DSVK_INVALID, "messages[0].reasoning_content" },
        { TALK("", "{\"role\":\"assistant\",\"tool_calls\":{}}"), DSVK_INVALID, "messages[0].tool_calls: expected a list" },
        { TALK("", "{\"role\":\"assistant\",\"tool_calls\":[1]}"), DSVK_INVALID, "messages[0].tool_calls[0]: expected an object" },
        { TALK("", "{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{}}]}"), DSVK_INVALID, "tool_calls[0].function.name" },
        { TALK("", CALLS("{\"id\":7,\"function\":{\"name\":\"f\"}}")), DSVK_INVALID, "tool_calls[0].id: expected text" },
        { TALK("", CALLS(CALL("1", "f", "[]"))), DSVK_INVALID, "function.arguments: expected text or an object, got an array" },
        { TALK("", "{\"role\":\"system\",\"tools\":[{\"type\":\"custom\"}]}"), DSVK_INVALID, "messages[0].tools[0]: expected" },
        { TALK("", "{\"role\":\"system\",\"response_format\":\"json\"}"), DSVK_INVALID, "response_format: expected an object" },
        { TALK("\"tools\":[" TOOL "],", "{\"role\":\"system\",\"tools\":[" TOOL "]}"), DSVK_INVALID, "tools: given for" },
        { TALK("\"tools\":[{}],", ""), DSVK_INVALID, "tools[0]: expected an object with a function" },
        { TALK("\"thinking_mode\":\"deep\",", ""), DSVK_INVALID, "thinking_mode: expected one of thinking, chat, got \"deep\"" },
        { TALK("\"reasoning_effort\":\"min\",", ""), DSVK_INVALID,
          "reasoning_effort: expected one of none, low, high, max, minimal, medium, xhigh, ultra, got \"min\"" },
        { TALK("\"revision\":731,", ""), DSVK_INVALID, "revision: expected one of preview, 0731, got 731" },
        { TALK("\"add_bos\":\"no\",", ""), DSVK_INVALID, "add_bos: expected true or false, got a string" },
        { TALK("\"context\":1,", ""), DSVK_INVALID, "context: expected a list, got a number" },
        { TALK("\"context\":[1],", ""), DSVK_INVALID, "context[0]: expected an object, got a number" },
        { TALK("", "{\"role\":\"assistant\",\"turn_id\":1}"), DSVK_INVALID, "messages[0].turn_id: expected text" },
        { TALK("\"replay\":[],", ""), DSVK_INVALID, "replay: expected an object, got an array" },
        { TALK("\"replay\":{\"a\":[1,-2]},", ""), DSVK_INVALID, "replay: expected text or a list of ids for \"a\"" },
        { TALK("\"thinking\":true,", ""), DSVK_INVALID, "conversation: unknown parameter \"thinking\"" },
    };
    for (size_t i = 0; i < DSVK_COUNT(cases); i++) {
        dsvk_status status = encode(cases[i].json, strlen(cases[i].json));
        CHECK(status == cases[i].status && err.status == status && strstr(err.message, cases[i].says) && !encoded,
              "%s: %s: %s", cases[i].json, dsvk_status_name(status), err.message);
    }
    char deep[512], *out = NULL;
    size_t n = 0;
    snprintf(deep, sizeof deep, TALK("\"response_format\":{\"a\":%065d},", ASK("Q")), 0);
    char *at = strstr(deep, "00000");
    memset(at, '[', 65);
    CHECK(encode(deep, strlen(deep)) == DSVK_LIMIT && strstr(err.message, "nested deeper than 64"), "%s", err.message);
    CHECK(dsvk_chat_encode(NULL, 0, &out, &n, &err) == DSVK_INVALID && dsvk_chat_encode("{}", 2, NULL, &n, &err) == DSVK_INVALID &&
              dsvk_chat_encode_ids(NULL, "{}", 2, NULL, &n, &err) == DSVK_INVALID && strstr(err.message, "tokenizer is NULL"),
          "%s", err.message);
}

/* Every prefix of a conversation is refused, and none of them harms. */
static void test_T01_cut_conversations(void) {
    static char json[1 << 16];
    size_t n = full_conversation(json, sizeof json, "é\\n");
    for (size_t i = 0; i < n; i++) {
        char *copy = malloc(i + 1); /* exactly as long, for the sanitizer */
        memcpy(copy, json, i);
        dsvk_status status = encode(copy, i);
        CHECK(status == DSVK_FORMAT, "%zu bytes: %s", i, dsvk_status_name(status));
        free(copy);
    }
}

/* Bytes changed, left out, doubled and moved: a status and a sentence each time, or a prompt. */
static void test_T01_scrambled_conversations(void) {
    static char json[1 << 16], copy[1 << 16];
    static const char letters[] = "{}[]\",:\\0e-.untf \xc3\x80";
    size_t n = full_conversation(json, sizeof json, "<think>\\n"), accepted = 0;
    seed("scrambled_conversations");
    for (int round = 0; round < 20000; round++) {
        size_t length = n;
        memcpy(copy, json, n);
        for (uint32_t i = 1 + below(3); i > 0; i--) {
            size_t from = below((uint32_t)length - 40), to = below((uint32_t)length - 40), some = below(40);
            switch (below(4)) {
            case 0: copy[from] = letters[below(sizeof letters - 1)]; break;
            case 1: memmove(copy + from, copy + from + some, length - from - some), length -= some; break;
            case 2: memmove(copy + from + some, copy + from, length - from), length += some; break;
            default: memmove(copy + to, copy + from, some);
            }
        }
        char *exact = malloc(length);
        memcpy(exact, copy, length);
        dsvk_status status = encode(exact, length);
        CHECK(status == DSVK_OK || status == DSVK_FORMAT || status == DSVK_INVALID || status == DSVK_UNSUPPORTED, "%s: %s",
              dsvk_status_name(status), err.message);
        accepted += status == DSVK_OK;
        free(exact);
    }
    CHECK(accepted > 1000, "%zu accepted", accepted);
}

static void test_A06_every_allocation_fails(void) {
    static char json[1 << 16];
    dsvk_tokenizer *t = nano_tokenizer();
    size_t n = full_conversation(json, sizeof json, "x"), n_ids = 0;
    n += (size_t)snprintf(json + n - 1, sizeof json - n, ",\"replay\":{\"x\":[1,2],\"y\":\"</think>\"}}") - 1;
    dsvk_free(encoded);
    encoded = NULL;
    int64_t live = dsvk_alloc_live();
    dsvk_status status = DSVK_NOMEM;
    int64_t at = 0;
    for (; status == DSVK_NOMEM && at < 10000; at++) {
        int32_t *ids = NULL;
        dsvk_alloc_fail_after(at);
        status = dsvk_chat_encode_ids(t, json, n, &ids, &n_ids, &err);
        dsvk_alloc_fail_after(-1);
        CHECK(status == DSVK_OK || (status == DSVK_NOMEM && !ids), "allocation %d: %s %s", (int)at, dsvk_status_name(status),
              err.message);
        dsvk_free(ids);
        CHECK(dsvk_alloc_live() == live, "allocation %d leaks", (int)at);
    }
    CHECK(status == DSVK_OK && at > 30, "%d allocations", (int)at);
    dsvk_tokenizer_close(t);
}

/* ---- much of everything ---- */

static char *repeated(const char *begin, const char *each, size_t n, const char *end) {
    char *text = malloc(strlen(begin) + n * (strlen(each) + 8) + strlen(end) + 1), *at = text;
    at += sprintf(at, "%s", begin);
    for (size_t i = 0; i < n; i++)
        at += sprintf(at, each, (int)(n - i));
    if (at[-1] == ',')
        at--;
    sprintf(at, "%s", end);
    return text;
}

static void expect_quick(const char *name, char *json) {
    double begin = cpu_seconds();
    dsvk_status status = encode(json, strlen(json));
    double took = cpu_seconds() - begin;
    CHECK(status == DSVK_OK, "%s: %s", name, err.message);
    CHECK(took < 2, "%s: %zu bytes took %.2f s", name, strlen(json), took);
    free(json);
}

static void test_no_input_is_slow(void) {
    expect_quick("messages", repeated("{\"messages\":[", "{\"role\":\"user\",\"content\":\"%d\"},", 100000, "]}"));
    expect_quick("repeated keys",
                 repeated("{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{",
                          "\\\"\\\":%d,", 200000, "}\"}}]}]}"));
    char *calls = repeated("{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[", "{\"id\":\"%d\",\"function\":{\"name\":\"f\"}},", 30000, "]},");
    char *results = repeated("", "{\"role\":\"tool\",\"tool_call_id\":\"%d\"},", 30000, "]}");
    char *both = malloc(strlen(calls) + strlen(results) + 1);
    sprintf(both, "%s%s", calls, results);
    free(calls);
    free(results);
    expect_quick("calls and results", both);
    expect_quick("reals", repeated("{\"response_format\":{\"a\":[", "%d.1e-300,", 50000, "]},\"messages\":[]}"));
    expect_quick("escapes", repeated("{\"response_format\":{\"a\":\"", "\\u0001%d", 200000, "\"},\"messages\":[]}"));
}

int main(void) {
    static const test tests[] = {
        TEST(test_published_prompts), TEST(test_worked_examples), TEST(test_efforts), TEST(test_context_is_not_written_again),
        TEST(test_tools_of_the_conversation), TEST(test_content), TEST(test_T07_content_gives_no_special_token),
        TEST(test_tokenizer_without_the_tokens), TEST(test_replay), TEST(test_refusals), TEST(test_T01_cut_conversations),
        TEST(test_T01_scrambled_conversations),
        TEST(test_A06_every_allocation_fails), TEST(test_no_input_is_slow),
    };
    int failed = harness_main(tests, DSVK_COUNT(tests));
    dsvk_free(encoded);
    return failed;
}
