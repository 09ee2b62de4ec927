/* A conversation on the terminal: each line of standard input is a turn, the answer streams as it is generated.
 *
 *   chat MODEL [TOKENS]
 *
 * The whole conversation is encoded anew for every turn; the session keeps the part it has seen (sync), and the parser tells
 * thoughts, answer and tool calls apart while tokens come. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dsvk.h"

/* A growing text: the conversation as JSON. */
typedef struct text {
    char *bytes;
    size_t n;
} text;

static void add(text *t, const char *bytes, size_t n) {
    char *grown = realloc(t->bytes, t->n + n + 1);
    if (!grown)
        exit(1);
    t->bytes = grown;
    memcpy(grown + t->n, bytes, n);
    t->n += n;
    grown[t->n] = 0;
}

static void add_escaped(text *t, const char *bytes, size_t n) {
    char code[8];
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)bytes[i];
        if (c == '"' || c == '\\' || c < 0x20)
            add(t, code, (size_t)snprintf(code, sizeof code, "\\u%04x", c));
        else
            add(t, bytes + i, 1);
    }
}

static void add_message(text *t, const char *role, const char *content, size_t n) {
    char open[64];
    add(t, open, (size_t)snprintf(open, sizeof open, "%s{\"role\": \"%s\", \"content\": \"", t->n > 14 ? ", " : "", role));
    add_escaped(t, content, n);
    add(t, "\"}", 2);
}

/* Prints what the parser has, and keeps the answer. */
static void take(dsvk_chat_parser *parser, text *answer) {
    dsvk_chat_event event;
    uint32_t call;
    const char *piece;
    size_t n;
    while (dsvk_chat_parser_next(parser, &event, &call, &piece, &n)) {
        if (event == DSVK_CHAT_CONTENT || event == DSVK_CHAT_REASONING)
            fwrite(piece, 1, n, stdout);
        if (event == DSVK_CHAT_CONTENT)
            add(answer, piece, n);
    }
    fflush(stdout);
}

static dsvk_status answer_turn(dsvk_session *session, const dsvk_tokenizer *tokenizer, const text *conversation, size_t most,
                               text *answer, dsvk_error *err) {
    static const char end_text[] = "<｜end▁of▁sentence｜>";
    const int32_t end = dsvk_tokenizer_id(tokenizer, end_text, strlen(end_text));
    const dsvk_sample_options sampling = { .size = sizeof sampling, .stop = &end, .n_stop = end >= 0 };
    dsvk_chat_parser *parser = NULL;
    int32_t *prompt = NULL, ids[8];
    size_t n_prompt, n = 0;
    dsvk_status status = dsvk_chat_encode_ids(tokenizer, conversation->bytes, conversation->n, &prompt, &n_prompt, err);
    if (!status)
        status = dsvk_session_sync(session, prompt, n_prompt, err);
    if (!status)
        status = dsvk_chat_parser_open(&parser, 0, err);
    for (size_t done = 0; !status && done < most && (done == 0 || ids[n - 1] != end); done += n) {
        status = dsvk_session_decode(session, most - done < 8 ? most - done : 8, &sampling, ids, &n, err);
        for (size_t i = 0; !status && i < n; i++)
            status = dsvk_chat_parser_push(parser, tokenizer, ids[i], err);
        if (!status)
            take(parser, answer);
    }
    if (!status)
        status = dsvk_chat_parser_finish(parser, err);
    if (!status)
        take(parser, answer);
    dsvk_chat_parser_close(parser);
    dsvk_free(prompt);
    return status;
}

int main(int argc, char **argv) {
    const size_t most = argc > 2 ? strtoul(argv[2], NULL, 10) : 400;
    dsvk_model *model = NULL;
    dsvk_session *session = NULL;
    dsvk_error err;
    text conversation = { 0 };
    char line[4096];
    if (argc < 2)
        return fprintf(stderr, "usage: chat MODEL [TOKENS]\n"), 2;
    dsvk_status status = dsvk_model_open(&model, NULL, argv[1], NULL, &err);
    if (!status)
        status = dsvk_session_open(&session, model, NULL, &err);
    add(&conversation, "{\"messages\": [", 14);
    while (!status && fgets(line, sizeof line, stdin)) {
        const char tail[] = "], \"reasoning_effort\": \"none\"}";
        text answer = { 0 };
        add_message(&conversation, "user", line, strcspn(line, "\n"));
        const size_t n = conversation.n;
        add(&conversation, tail, strlen(tail));
        status = answer_turn(session, dsvk_model_tokenizer(model), &conversation, most, &answer, &err);
        conversation.n = n; /* the list goes on */
        add_message(&conversation, "assistant", answer.n ? answer.bytes : "", answer.n);
        free(answer.bytes);
        putchar('\n');
    }
    if (status)
        fprintf(stderr, "%s\n", err.message);
    free(conversation.bytes);
    dsvk_session_close(session);
    dsvk_model_close(model);
    return status != DSVK_OK;
}
