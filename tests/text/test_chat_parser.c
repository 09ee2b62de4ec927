/* What a model answers, back to reasoning, content and calls. Against the published conversations it is compared in
 * tests/python/test_chat.py. Every case here is read whole, byte by byte, and cut at every place (inside characters and
 * markup too), and has to give the same each time.
 *
 * Edges: nothing; only the end token; newlines before a block and where there is none; markup cut at the end of the text;
 * everything missing that can be missing; names with quotes; repeated names; values that are no JSON; markup inside
 * values; bytes that are no UTF-8; megabytes of one thing; every allocation failing. */
#include "harness_tokenizer.h"
#include "json_reader.h"

#define EOS "<｜end▁of▁sentence｜>"
#define BLOCK(invokes) "\n\n<｜DSML｜tool_calls>\n" invokes "</｜DSML｜tool_calls>"
#define INVOKE(name, parameters) "<｜DSML｜invoke name=\"" name "\">\n" parameters "</｜DSML｜invoke>\n"
#define STRING(key, value) "<｜DSML｜parameter name=\"" key "\" string=\"true\">" value "</｜DSML｜parameter>\n"
#define OTHER(key, value) "<｜DSML｜parameter name=\"" key "\" string=\"false\">" value "</｜DSML｜parameter>\n"

static dsvk_error err;

/* ---- events as one text: R(thoughts) C(answer) 0:name(arguments) and ! where it is cut, . at the end token ---- */

typedef struct record {
    char text[1 << 16];
    size_t n;
    dsvk_chat_event last;
} record;

static void add(record *r, const char *text, size_t n) {
    if (n > sizeof r->text - 1 - r->n)
        abort(); /* the tests' own texts are shorter */
    memcpy(r->text + r->n, text, n);
    r->n += n;
    r->text[r->n] = 0;
}

static void add_event(record *r, dsvk_chat_event kind, uint32_t call, const char *text, size_t n) {
    char head[32] = "";
    bool more = kind == r->last && r->n > 0;
    bool open = r->n > 0 && (r->last == DSVK_CHAT_REASONING || r->last == DSVK_CHAT_CONTENT);
    if (open && !more)
        add(r, ")", 1);
    switch (kind) {
    case DSVK_CHAT_REASONING: add(r, "R(", more ? 0 : 2); break;
    case DSVK_CHAT_CONTENT: add(r, "C(", more ? 0 : 2); break;
    case DSVK_CHAT_CALL: snprintf(head, sizeof head, "%u:", call); break;
    case DSVK_CHAT_ARGUMENTS: add(r, "(", r->last == DSVK_CHAT_CALL ? 1 : 0); break;
    case DSVK_CHAT_CALL_END: snprintf(head, sizeof head, ")"); break;
    case DSVK_CHAT_CALL_CUT: snprintf(head, sizeof head, ")!"); break;
    case DSVK_CHAT_END: snprintf(head, sizeof head, "."); break;
    }
    add(r, head, strlen(head));
    add(r, text, n);
    r->last = kind;
}

static void take_events(record *r, dsvk_chat_parser *p) {
    dsvk_chat_event kind;
    uint32_t call;
    const char *text;
    size_t n;
    while (dsvk_chat_parser_next(p, &kind, &call, &text, &n))
        add_event(r, kind, call, text, n);
}

/* Reads text [n] in pieces that end at `cut`, or of one byte each when cut is SIZE_MAX. */
static void read_cut(record *r, const char *text, size_t n, bool thinking, size_t cut) {
    dsvk_chat_parser *p = NULL;
    r->n = 0;
    r->text[0] = 0;
    CHECK(dsvk_chat_parser_open(&p, thinking, &err) == DSVK_OK, "%s", err.message);
    for (size_t i = 0, size; i < n; i += size) {
        size = cut == SIZE_MAX ? 1 : i < cut ? cut - i : n - i;
        char *piece = malloc(size); /* exactly as long, for the sanitizer */
        memcpy(piece, text + i, size);
        CHECK(dsvk_chat_parser_feed(p, piece, size, &err) == DSVK_OK, "%s", err.message);
        free(piece);
        take_events(r, p);
    }
    CHECK(dsvk_chat_parser_finish(p, &err) == DSVK_OK, "%s", err.message);
    take_events(r, p);
    if (r->n > 0 && (r->last == DSVK_CHAT_REASONING || r->last == DSVK_CHAT_CONTENT))
        add(r, ")", 1);
    dsvk_chat_parser_close(p);
}

static void expect_n(int line, bool thinking, const char *text, size_t n, const char *wanted) {
    static record whole, cut;
    read_cut(&whole, text, n, thinking, n);
    CHECK(strcmp(whole.text, wanted) == 0, "line %d: %s\n  gives %s\n instead %s", line, text, whole.text, wanted);
    for (size_t i = 0; i <= n; i++) {
        read_cut(&cut, text, n, thinking, i < n ? i : SIZE_MAX);
        CHECK(strcmp(whole.text, cut.text) == 0, "line %d: %s\n  cut at %zu gives %s\n instead %s", line, text, i, cut.text,
              whole.text);
    }
}
#define THINKING(text, wanted) expect_n(__LINE__, true, text, sizeof text - 1, wanted)
#define CHAT(text, wanted) expect_n(__LINE__, false, text, sizeof text - 1, wanted)

/* ---- as it should be ---- */

static void test_answers(void) {
    THINKING("Because.</think>Paris." EOS, "R(Because.)C(Paris.).");
    THINKING("</think>" EOS, ".");
    CHAT("Paris." EOS "ignored</think>", "C(Paris.).");
    CHAT("", "");
    THINKING("", "");
    CHAT(EOS, ".");
    CHAT("a < b \n\n and \n\n\n<b>" EOS, "C(a < b \n\n and \n\n\n<b>).");
    CHAT("\n\n\n" EOS, "C(\n\n\n).");
    THINKING("\n\n</think>\n\n" EOS, "R(\n\n)C(\n\n).");
    CHAT("｜ ｜D <｜x｜> < think>" EOS, "C(｜ ｜D <｜x｜> < think>).");
}

static void test_calls(void) {
    THINKING("R</think>" BLOCK(INVOKE("f", STRING("a", "x") OTHER("b", "[1, {\"c\": 2}]"))) EOS,
             "R(R)0:f({\"a\": \"x\", \"b\": [1, {\"c\": 2}]}).");
    CHAT("two:\n" BLOCK(INVOKE("f", "\n") INVOKE("g", STRING("", ""))) EOS, "C(two:\n)0:f({})1:g({\"\": \"\"}).");
    CHAT(BLOCK(INVOKE("f", STRING("a", "q \" \\ \n\t\x01 é 😀 </b> <｜DSML｜x")))
             EOS,
         "0:f({\"a\": \"q \\\" \\\\ \\n\\t\\u0001 é 😀 </b> <｜DSML｜x\"}).");
    CHAT(BLOCK(INVOKE("f", STRING("quote\"", "1") OTHER("k\nl", "null"))) EOS, "0:f({\"quote\\\"\": \"1\", \"k\\nl\": null}).");
    CHAT(BLOCK(INVOKE("a \"b\" c", "")) EOS, "0:a \"b\" c({}).");
}

/* ---- as it should not be ---- */

static void test_what_is_put_up_with(void) {
    THINKING("no end", "R(no end)");
    THINKING("T" BLOCK(INVOKE("f", "")) EOS, "R(T)0:f({})."); /* no </think> */
    THINKING("<think>T</think></think>A" EOS, "R(T)C(A).");
    CHAT("</think>A" EOS, "C(A).");
    CHAT(" <think>T</think>A" EOS, "C( )R(T)C(A)."); /* thinks although not asked to */
    CHAT("A<think>B</think>C" EOS, "C(ABC).");       /* but this is about the words */
    CHAT("A<｜User｜><｜begin▁of▁sentence｜>B<｜title｜>｜DSML｜C" EOS, "C(ABC).");
    CHAT("A\n<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>"
         "</｜DSML｜invoke></｜DSML｜tool_calls>",
         "C(A)0:f({\"a\": \"x\"})");
    CHAT("\n\n<｜DSML｜tool_calls>\n\n \t" INVOKE("f", "\r\n  " STRING("a", "x") "\n\n") "\n</｜DSML｜tool_calls>\n" EOS,
         "0:f({\"a\": \"x\"}).");
    CHAT(INVOKE("f", STRING("a", "x")) EOS, "0:f({\"a\": \"x\"})."); /* no block around it */
    CHAT(BLOCK("<｜DSML｜invoke name=\"f\">\n" STRING("a", "x") INVOKE("g", "")) EOS, "0:f({\"a\": \"x\"})1:g({}).");
    CHAT("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n" STRING("a", "x") "</｜DSML｜tool_calls>" EOS, "0:f({\"a\": \"x\"}).");
    CHAT(BLOCK(INVOKE("f", "")) "\n\nand so on" EOS, "0:f({})C(and so on).");
    CHAT(BLOCK(INVOKE("f", "")) BLOCK(INVOKE("g", "")) EOS, "0:f({})1:g({}).");
    CHAT(BLOCK("words between\n" INVOKE("f", "more" STRING("a", "x") "</think>words")) EOS, "0:f({\"a\": \"x\"}).");
    CHAT(BLOCK(INVOKE("f", OTHER("a", "[1, 2") OTHER("b", "NaN") OTHER("c", "") OTHER("d", " 1 "))) EOS,
         "0:f({\"a\": \"[1, 2\", \"b\": \"NaN\", \"c\": \"\", \"d\":  1 }).");
    CHAT(BLOCK(INVOKE("f", "<｜DSML｜parameter name=\"a\">[1]</｜DSML｜parameter>\n"
                           "<｜DSML｜parameter name=\"b\">one</｜DSML｜parameter>\n")) EOS,
         "0:f({\"a\": [1], \"b\": \"one\"}).");
    CHAT(BLOCK(INVOKE("f", STRING("a", "1") OTHER("a", "2") STRING("b", "3") STRING("a", "4"))) EOS,
         "0:f({\"a\": \"1\", \"b\": \"3\"}).");
    CHAT(BLOCK("<｜DSML｜invoke>\n" STRING("a", "1") "</｜DSML｜invoke>\n" STRING("b", "2") INVOKE("f", "")) EOS, "0:f({}).");
    CHAT(BLOCK("<｜DSML｜invoke name=\"f<｜DSML｜invoke name=\"g\">\n</｜DSML｜invoke>\n") EOS, "0:g({}).");
    CHAT(BLOCK(INVOKE("f", "<｜DSML｜parameter name=\"a<｜DSML｜parameter name=\"b\" string=\"true\">x</｜DSML｜parameter>")) EOS,
         "0:f({\"b\": \"x\"}).");
    CHAT(BLOCK("<｜DSML｜other>\n<｜DSML｜> <｜DSML｜\n" INVOKE("f", "")) EOS, "0:f({}).");
    CHAT("A</｜DSML｜invoke>B</｜DSML｜parameter>C</｜DSML｜tool_calls>D" EOS, "C(ABCD).");
    CHAT("\n\n<｜DSML｜function_calls>\n" INVOKE("f", "") "</｜DSML｜function_calls>" EOS, "0:f({}).");
}

static void test_cut_short(void) {
    CHAT("A\n\n<", "C(A\n\n<)");
    CHAT("A</", "C(A</)");
    CHAT("A\n\n<｜DS", "C(A\n\n)");
    CHAT("A</｜", "C(A)");
    CHAT("A<｜end", "C(A)");
    CHAT("A</thi", "C(A</thi)");
    CHAT("A\n\n<｜DSML｜tool_calls>\n<｜DSML｜inv", "C(A)");
    CHAT("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\"", "");
    CHAT("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">", "0:f({})!");
    CHAT("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n" STRING("a", "x"), "0:f({\"a\": \"x\"})!");
    CHAT("<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" str", "0:f({})!");
    CHAT("<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">x\"y", "0:f({\"a\": \"x\\\"y\"})!");
    CHAT("<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜para", "0:f({\"a\": \"x\"})!");
    CHAT("<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"false\">[1, 2", "0:f({\"a\": \"[1, 2\"})!");
    CHAT("<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">x" EOS, "0:f({\"a\": \"x\"})!.");
    CHAT("<｜DSML｜invoke name=\"f" EOS, ".");
    CHAT("\xf0\x9f\x98", "C(\xef\xbf\xbd)");
}

static void test_T06_bytes_that_are_no_text(void) {
    CHAT("a\xff\xc3(\xe2\x82 \xf0\x9f\x98\x80\xed\xa0\x80z" EOS,
         "C(a\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd 😀\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz).");
    CHAT("<｜DSML｜invoke name=\"f\">\n" STRING("\xfe", "\xff") "</｜DSML｜invoke>",
         "0:f({\"\xef\xbf\xbd\": \"\xef\xbf\xbd\"})");
    CHAT("<\xef\xbdthink>", "C(<\xef\xbf\xbdthink>)");
}

/* ---- drawn at random ---- */

/* Tags and pieces of text in any order; no piece is a part of a tag, so markup in a text would be a leak. */
static void test_any_order(void) {
    static const char *const pieces[] = {
        "<think>", "</think>", EOS, "\n\n<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>", "<｜DSML｜invoke name=\"f\">\n",
        "</｜DSML｜invoke>\n", "<｜DSML｜parameter name=\"a\" string=\"true\">", "<｜DSML｜parameter name=\"b\" string=\"false\">",
        "</｜DSML｜parameter>\n", "<｜DSML｜parameter name=\"c\">", "<｜User｜>", "｜DSML｜", "\n", " ", "text", "\"", "{\"x\": [1]}",
        "é", "\xf0\x9f", "<｜DSML｜", "</｜DSML｜", "<｜DSML｜invoke", "name=\"", "\">\n",
    };
    static char text[4096];
    static record whole, cut;
    seed("any_order");
    for (int round = 0; round < 3000; round++) {
        size_t n = 0;
        for (uint32_t i = below(24); i > 0; i--)
            n += (size_t)sprintf(text + n, "%s", pieces[below(DSVK_COUNT(pieces))]);
        bool thinking = below(2);
        read_cut(&whole, text, n, thinking, n);
        read_cut(&cut, text, n, thinking, SIZE_MAX);
        CHECK(strcmp(whole.text, cut.text) == 0, "%s\n  byte by byte %s\n  at once %s", text, cut.text, whole.text);
        read_cut(&cut, text, n, thinking, below((uint32_t)n + 1));
        CHECK(strcmp(whole.text, cut.text) == 0, "%s\n  cut %s\n  at once %s", text, cut.text, whole.text);
    }
}

/* No event's text has a special string in it, and all arguments are JSON without repeated keys. */
static void test_never_a_leak(void) {
    static const char *const pieces[] = {
        "<think>", "</think>", "\n\n<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>", "<｜DSML｜invoke name=\"f\">\n",
        "</｜DSML｜invoke>\n", "<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>", "<｜User｜>", "text ", "\n",
        "<｜DSML｜parameter name=\"b\" string=\"false\">[1]</｜DSML｜parameter>", "<｜DSML｜", "</｜DSML｜", "｜DSML｜",
        "<｜DSML｜parameter name=\"a\" string=\"false\">[1</｜DSML｜parameter>", "<｜DSML｜invoke", "<｜DSML｜parameter name=\"",
    };
    static char text[4096], arguments[4096];
    seed("never_a_leak");
    for (int round = 0; round < 3000; round++) {
        dsvk_chat_parser *p = NULL;
        dsvk_chat_event kind;
        uint32_t call;
        const char *piece;
        size_t n = 0, n_arguments = 0;
        for (uint32_t i = below(24); i > 0; i--)
            n += (size_t)sprintf(text + n, "%s", pieces[below(DSVK_COUNT(pieces))]);
        if (dsvk_chat_parser_open(&p, below(2), &err) || dsvk_chat_parser_feed(p, text, n, &err) ||
            dsvk_chat_parser_finish(p, &err)) {
            CHECK(false, "%s", err.message);
        }
        while (dsvk_chat_parser_next(p, &kind, &call, &piece, &n)) {
            CHECK(!memmem(piece, n, "DSML", 4) && !memmem(piece, n, "think>", 6) && !memmem(piece, n, "User", 4),
                  "%s\n  leaks %.*s", text, (int)n, piece);
            if (kind == DSVK_CHAT_CALL)
                n_arguments = 0;
            if (kind == DSVK_CHAT_ARGUMENTS) {
                memcpy(arguments + n_arguments, piece, n);
                n_arguments += n;
            }
            if (kind == DSVK_CHAT_CALL_END || kind == DSVK_CHAT_CALL_CUT)
                CHECK(dsvk_json_check(arguments, n_arguments, "arguments", &err) == DSVK_OK, "%s\n %s: %.*s", text,
                      err.message, (int)n_arguments, arguments);
        }
        dsvk_chat_parser_close(p);
    }
}

/* ---- tokens ---- */

static void test_T07_only_added_tokens_are_markup(void) {
    dsvk_tokenizer *t = NULL;
    static record r;
    CHECK(dsvk_tokenizer_open(&t, DSVK_NANO, &err) == DSVK_OK, "%s", err.message);
    /* Written once as markup and once as content: only the first is markup. */
    static const char json[] =
        "{\"add_bos\":false,\"messages\":[{\"role\":\"assistant\",\"reasoning_content\":\"a </think> b\",\"content\":"
        "\"<｜DSML｜tool_calls> <｜end▁of▁sentence｜>\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
        "\"{\\\"a\\\":\\\"</｜DSML｜parameter>\\\",\\\"b\\\":[\\\"</｜DSML｜parameter>\\\"]}\"}}]}]}";
    int32_t *ids = NULL;
    size_t n = 0;
    dsvk_chat_parser *p = NULL;
    CHECK(dsvk_chat_encode_ids(t, json, strlen(json), &ids, &n, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_chat_parser_open(&p, 1, &err) == DSVK_OK, "%s", err.message);
    for (size_t i = 0; i < n; i++) {
        CHECK(dsvk_chat_parser_push(p, t, ids[i], &err) == DSVK_OK, "%s", err.message);
        take_events(&r, p);
    }
    CHECK(strcmp(r.text, "R(a </think> b)C(<｜DSML｜tool_calls> <｜end▁of▁sentence｜>)"
                         "0:f({\"a\": \"</｜DSML｜parameter>\", \"b\": [\"</｜DSML｜parameter>\"]}).") == 0,
          "%s", r.text);
    dsvk_chat_parser_close(p);
    static const char *const added[] = { "<｜fim▁hole｜>", "<|EOT|>", "<think>", "</think>", "<｜▁pad▁｜>" };
    CHECK(dsvk_chat_parser_open(&p, 0, &err) == DSVK_OK, "%s", err.message);
    for (size_t i = 0; i < DSVK_COUNT(added); i++)
        CHECK(dsvk_chat_parser_push(p, t, dsvk_tokenizer_id(t, added[i], strlen(added[i])), &err) == DSVK_OK &&
                  !dsvk_chat_parser_next(p, &(dsvk_chat_event) { 0 }, &(uint32_t) { 0 }, &(const char *) { 0 }, &n),
              "%s is no text", added[i]);
    CHECK(dsvk_chat_parser_push(p, t, -1, &err) == DSVK_INVALID && strstr(err.message, "id -1 is no token"), "%s", err.message);
    CHECK(dsvk_chat_parser_push(p, NULL, 1, &err) == DSVK_INVALID && strstr(err.message, "tokenizer is NULL"), "%s",
          err.message);
    dsvk_chat_parser_close(p);
    dsvk_free(ids);
    dsvk_tokenizer_close(t);
}

/* ---- the interface ---- */

static void test_place(void) {
    dsvk_chat_parser *p = NULL;
    static const struct {
        const char *text;
        dsvk_chat_event place;
    } steps[] = {
        { "", DSVK_CHAT_REASONING }, { "T</thi", DSVK_CHAT_REASONING }, { "nk>", DSVK_CHAT_CONTENT },
        { "A\n\n<｜DSML｜", DSVK_CHAT_CALL }, { "tool_calls>\n" INVOKE("f", STRING("a", "x")), DSVK_CHAT_CALL },
        { "</｜DSML｜tool_calls>", DSVK_CHAT_CONTENT }, { EOS, DSVK_CHAT_END }, { "more", DSVK_CHAT_END },
    };
    CHECK(dsvk_chat_parser_open(&p, 1, &err) == DSVK_OK, "%s", err.message);
    for (size_t i = 0; i < DSVK_COUNT(steps); i++) {
        CHECK(dsvk_chat_parser_feed(p, steps[i].text, strlen(steps[i].text), &err) == DSVK_OK, "%s", err.message);
        CHECK(dsvk_chat_parser_place(p) == steps[i].place, "'%s': %d", steps[i].text, dsvk_chat_parser_place(p));
    }
    /* Events that were not taken wait. */
    static record r;
    take_events(&r, p);
    CHECK(strcmp(r.text, "R(T)C(A)0:f({\"a\": \"x\"}).") == 0, "%s", r.text);
    dsvk_chat_parser_close(p);
}

static void test_misuse(void) {
    dsvk_chat_parser *p = NULL;
    dsvk_chat_event kind;
    uint32_t call;
    const char *text;
    size_t n;
    char *json = NULL;
    CHECK(dsvk_chat_parser_open(NULL, 0, &err) == DSVK_INVALID && strstr(err.message, "parser is NULL"), "%s", err.message);
    CHECK(dsvk_chat_parser_open(&p, 2, &err) == DSVK_INVALID && strstr(err.message, "thinking") && !p, "%s", err.message);
    CHECK(dsvk_chat_parser_open(&p, 0, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_chat_parser_feed(p, NULL, 1, &err) == DSVK_INVALID && dsvk_chat_parser_feed(NULL, "", 0, &err) == DSVK_INVALID &&
              dsvk_chat_parser_finish(NULL, &err) == DSVK_INVALID,
          "%s", err.message);
    CHECK(dsvk_chat_parser_feed(p, NULL, 0, &err) == DSVK_OK && dsvk_chat_parser_finish(p, &err) == DSVK_OK &&
              dsvk_chat_parser_finish(p, &err) == DSVK_OK && !dsvk_chat_parser_next(p, &kind, &call, &text, &n) &&
              !dsvk_chat_parser_next(NULL, &kind, &call, &text, &n),
          "nothing");
    CHECK(dsvk_chat_parser_feed(p, "x", 1, &err) == DSVK_STATE && strstr(err.message, "finished"), "%s", err.message);
    CHECK(dsvk_chat_parse(NULL, 1, 0, &json, &err) == DSVK_INVALID && dsvk_chat_parse("", 0, 0, NULL, &err) == DSVK_INVALID,
          "%s", err.message);
    dsvk_chat_parser_close(p);
    dsvk_chat_parser_close(NULL);
}

static void test_parse(void) {
    static const char answer[] = "T\"</think>A\n" BLOCK(INVOKE("f", STRING("a", "\"")) INVOKE("g", OTHER("b", "1"))) EOS;
    char *json = NULL;
    CHECK(dsvk_chat_parse(answer, strlen(answer), 1, &json, &err) == DSVK_OK &&
              strcmp(json, "{\"role\": \"assistant\", \"content\": \"A\\n\", \"reasoning_content\": \"T\\\"\", \"tool_calls\": ["
                           "{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\": \\\"\\\\\\\"\\\"}\"}}, "
                           "{\"type\": \"function\", \"function\": {\"name\": \"g\", \"arguments\": \"{\\\"b\\\": 1}\"}}]}") == 0,
          "%s", json);
    dsvk_free(json);
    json = NULL;
    CHECK(dsvk_chat_parse("<｜DSML｜invoke name=\"f\">", strlen("<｜DSML｜invoke name=\"f\">"), 0, &json, &err) == DSVK_OK &&
              strstr(json, "\"arguments\": \"{}\"}, \"complete\": false}]}"),
          "%s", json);
    dsvk_free(json);
}

static void test_A06_every_allocation_fails(void) {
    static const char answer[] = "T</think>A" BLOCK(INVOKE("f", STRING("a", "\x01") OTHER("b", "[1, 2]"))) EOS;
    static record wanted, r;
    int64_t live = dsvk_alloc_live(), failures = 0;
    read_cut(&wanted, answer, strlen(answer), true, SIZE_MAX);
    for (int64_t at = 0; at < 8; at++) { /* of each single feed, which then is made again */
        dsvk_chat_parser *p = NULL;
        dsvk_alloc_fail_after(0);
        CHECK(dsvk_chat_parser_open(&p, 1, &err) == DSVK_NOMEM && !p, "%s", err.message);
        dsvk_alloc_fail_after(-1);
        CHECK(dsvk_chat_parser_open(&p, 1, &err) == DSVK_OK, "%s", err.message);
        r.n = 0;
        for (size_t i = 0; i <= strlen(answer); i++) {
            dsvk_alloc_fail_after(at);
            dsvk_status status = i < strlen(answer) ? dsvk_chat_parser_feed(p, answer + i, 1, &err)
                                                    : dsvk_chat_parser_finish(p, &err);
            dsvk_alloc_fail_after(-1);
            CHECK(status == DSVK_OK || status == DSVK_NOMEM, "%s", err.message);
            failures += status == DSVK_NOMEM;
            if (status == DSVK_NOMEM)
                CHECK((i < strlen(answer) ? dsvk_chat_parser_feed(p, answer + i, 1, &err) : dsvk_chat_parser_finish(p, &err)) ==
                          DSVK_OK,
                      "%s", err.message);
            take_events(&r, p);
        }
        CHECK(strcmp(r.text, wanted.text) == 0, "after allocation %d failed: %s", (int)at, r.text);
        dsvk_chat_parser_close(p);
    }
    CHECK(failures >= 8, "%d failures", (int)failures);
    dsvk_status status = DSVK_NOMEM;
    for (int64_t at = 0; status == DSVK_NOMEM && at < 1000; at++) {
        char *json = NULL;
        dsvk_alloc_fail_after(at);
        status = dsvk_chat_parse(answer, strlen(answer), 1, &json, &err);
        dsvk_alloc_fail_after(-1);
        CHECK(status == DSVK_OK || (status == DSVK_NOMEM && !json), "%s", err.message);
        dsvk_free(json);
        CHECK(dsvk_alloc_live() == live, "allocation %d leaks", (int)at);
    }
    CHECK(status == DSVK_OK, "%s", err.message);
}

/* More parameters than a call may have: those beyond are left out, and looking for repeated names stays quick. */
static void test_many_parameters(void) {
    enum { N = 100000 };
    char *text = malloc(N * 96), *json = NULL, *at = text;
    at += sprintf(at, "<｜DSML｜invoke name=\"f\">\n");
    for (int i = 0; i < N; i++)
        at += sprintf(at, "<｜DSML｜parameter name=\"%06d\" string=\"false\">1</｜DSML｜parameter>\n", i);
    sprintf(at, "</｜DSML｜invoke>");
    double begin = cpu_seconds();
    CHECK(dsvk_chat_parse(text, strlen(text), 0, &json, &err) == DSVK_OK, "%s", err.message);
    CHECK(cpu_seconds() - begin < 4, "%.2f s", cpu_seconds() - begin);
    CHECK(strstr(json, "\\\"004095\\\": 1}\"}}]}"), "the last of 4096");
    dsvk_free(json);
    free(text);
}

/* ---- a megabyte of each, byte by byte ---- */

static void test_no_answer_is_slow(void) {
    static const struct {
        const char *begin, *each;
    } cases[] = {
        { "", "x" },
        { "", "\n" },
        { "", "<" },
        { "", "<｜" },
        { "", "｜DSML｜" },
        { "<｜DSML｜", "x" },
        { "<｜DSML｜invoke", " " },
        { "<｜DSML｜invoke name=\"", "\"" },
        { "<｜DSML｜invoke name=\"f\">", "<｜DSML｜" },
        { "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"", "\" string=\"" },
        { "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"false\">", "[1,2]" },
        { "<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">", "</" },
        { "", "\xf0\x9f\x98" },
    };
    for (size_t i = 0; i < DSVK_COUNT(cases); i++) {
        dsvk_chat_parser *p = NULL;
        dsvk_chat_event kind;
        uint32_t call;
        const char *text;
        size_t n, length = strlen(cases[i].each);
        double begin = cpu_seconds();
        bool good = dsvk_chat_parser_open(&p, 0, &err) == DSVK_OK &&
                    dsvk_chat_parser_feed(p, cases[i].begin, strlen(cases[i].begin), &err) == DSVK_OK;
        for (size_t k = 0; k < 1 << 20 && good; k++) {
            good = dsvk_chat_parser_feed(p, cases[i].each + k % length, 1, &err) == DSVK_OK;
            while (dsvk_chat_parser_next(p, &kind, &call, &text, &n))
                continue;
        }
        good = good && dsvk_chat_parser_finish(p, &err) == DSVK_OK;
        double took = cpu_seconds() - begin;
        CHECK(good && took < 2, "%s%s: %.2f s %s", cases[i].begin, cases[i].each, took, err.message);
        dsvk_chat_parser_close(p);
    }
}

int main(void) {
    static const test tests[] = {
        TEST(test_answers), TEST(test_calls), TEST(test_what_is_put_up_with), TEST(test_cut_short),
        TEST(test_T06_bytes_that_are_no_text), TEST(test_any_order), TEST(test_never_a_leak),
        TEST(test_T07_only_added_tokens_are_markup), TEST(test_place), TEST(test_misuse), TEST(test_parse),
        TEST(test_A06_every_allocation_fails), TEST(test_many_parameters), TEST(test_no_answer_is_slow),
    };
    return harness_main(tests, DSVK_COUNT(tests));
}
