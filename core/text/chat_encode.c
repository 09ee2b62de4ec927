/* Messages to a prompt (spec 6.2, step 4; 6.4).
 *
 * Scaffold and content are written by different functions: put_scaffold marks every special string in what it writes,
 * content is never looked at. Ids are made from the text and the marks, so no special token comes out of content
 * (faults T07), while content touching scaffold is merged with it as in the published prompts: the two newlines behind
 * an answer are one token with its full stop. */
#include <string.h>

#include "chat.h"

typedef struct prompt {
    const dsvk_conversation *c;
    const dsvk_tokenizer *tokenizer; /* NULL: only text is wanted */
    dsvk_text text;
    dsvk_mark *marks; /* [n_marks]; their ids are owned */
    size_t n_marks, capacity;
    dsvk_error *err;
} prompt;

/* ---- what the format spells out ---- */

static const char most_effort[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, "
    "rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n";

static const char beyond_effort[] = /* revision 0731 (spec B.1) */
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the "
    "problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying "
    "cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that "
    "no assumption remains unchecked and no error remains undiscovered.\n\n";

/* Efforts that are not here add nothing. */
static const char *const effort_text[CHAT_REVISIONS][CHAT_EFFORT_MAX + 1] = {
    [CHAT_PREVIEW] = { [CHAT_EFFORT_MAX] = most_effort },
    [CHAT_0731] = { [CHAT_EFFORT_HIGH] = most_effort, [CHAT_EFFORT_MAX] = beyond_effort },
};

static const char tools_before[] =
    "## Tools\n\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "
    "\"<｜DSML｜tool_calls>\" block like the following:\n\n"
    "<｜DSML｜tool_calls>\n"
    "<｜DSML｜invoke name=\"$TOOL_NAME\">\n"
    "<｜DSML｜parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</｜DSML｜parameter>\n"
    "...\n"
    "</｜DSML｜invoke>\n"
    "<｜DSML｜invoke name=\"$TOOL_NAME2\">\n"
    "...\n"
    "</｜DSML｜invoke>\n"
    "</｜DSML｜tool_calls>\n\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, "
    "arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
    "<think>...</think> BEFORE any tool calls or final response.\n\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n\n"
    "### Available Tool Schemas\n\n";

static const char tools_after[] =
    "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";

static const char response_format_before[] =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

/* ---- writing ---- */

/* Marks bytes [at, at + n) of the text; takes ids, which may be NULL. */
static dsvk_status put_mark(prompt *p, size_t at, size_t n, int32_t *ids, size_t n_ids) {
    if (p->n_marks == p->capacity) {
        size_t capacity = p->capacity * 2 + 64;
        dsvk_mark *marks = dsvk_realloc(p->marks, capacity * sizeof *marks);
        if (!marks) {
            dsvk_free(ids);
            return dsvk_fail_nomem(p->err, capacity * sizeof *marks);
        }
        p->marks = marks;
        p->capacity = capacity;
    }
    p->marks[p->n_marks++] = (dsvk_mark) { .at = at, .n = n, .ids = ids, .n_ids = n_ids };
    return DSVK_OK;
}

static dsvk_status put_scaffold_n(prompt *p, const char *text, size_t n) {
    size_t begin = p->text.n;
    bool may_become;
    dsvk_text_put(&p->text, text, n);
    for (size_t i = 0; i < n; i++) {
        const char *special = dsvk_chat_special(text + i, n - i, &may_become);
        if (!special)
            continue;
        DSVK_TRY(put_mark(p, begin + i, strlen(special), NULL, 0));
        i += strlen(special) - 1;
    }
    return DSVK_OK;
}

static dsvk_status put_scaffold(prompt *p, const char *text) { return put_scaffold_n(p, text, strlen(text)); }

/* A string, or the texts of a list of parts with `between` between them. */
static void put_content(prompt *p, dsvk_json_value content, const char *between) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value part, type, text;
    if (!content.text)
        return;
    if (dsvk_json_kind(content) == '"')
        dsvk_text_put_string(&p->text, content);
    for (bool first = true; dsvk_json_element(content, &walk, &part); first = false) {
        dsvk_text_puts(&p->text, first ? "" : between);
        dsvk_json_find(part, "type", &type);
        if (!dsvk_json_equals(type, "text")) { /* in results of tools only */
            dsvk_text_puts(&p->text, "[Unsupported ");
            dsvk_text_put_string(&p->text, type);
            dsvk_text_puts(&p->text, "]");
        } else if (dsvk_json_find(part, "text", &text) && dsvk_json_kind(text) == '"') {
            dsvk_text_put_string(&p->text, text);
        }
    }
}

/* ---- tools ---- */

static dsvk_status put_tools(prompt *p, dsvk_json_value tools) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value tool, function;
    DSVK_TRY(put_scaffold(p, tools_before));
    for (bool first = true; dsvk_json_element(tools, &walk, &tool); first = false) {
        dsvk_json_find(tool, "function", &function);
        dsvk_text_puts(&p->text, first ? "" : "\n");
        dsvk_text_put_json(&p->text, function);
    }
    return put_scaffold(p, tools_after);
}

static dsvk_status put_parameter_head(prompt *p, dsvk_json_value key, bool raw) {
    DSVK_TRY(put_scaffold(p, "<｜DSML｜parameter name=\""));
    dsvk_text_put_string(&p->text, key);
    return put_scaffold(p, raw ? "\" string=\"true\">" : "\" string=\"false\">");
}

#define PARAMETER_END "</｜DSML｜parameter>"

static dsvk_status put_parameters(prompt *p, dsvk_json_value arguments) {
    dsvk_member *members;
    size_t n;
    dsvk_status status = dsvk_members(arguments, &members, &n) ? DSVK_OK : dsvk_fail_nomem(p->err, arguments.n);
    for (size_t i = 0; i < n && status == DSVK_OK; i++) {
        dsvk_json_value value = dsvk_member_value(arguments, members[i]);
        bool raw = dsvk_json_kind(value) == '"';
        dsvk_text_puts(&p->text, i ? "\n" : "");
        DSVK_GOTO(put_parameter_head(p, dsvk_member_key(arguments, members[i]), raw));
        if (raw)
            dsvk_text_put_string(&p->text, value);
        else
            dsvk_text_put_json(&p->text, value);
        status = put_scaffold(p, PARAMETER_END);
    }
fail:
    dsvk_free(members);
    return status;
}

/* Arguments are an object, or text that holds one; other text becomes one parameter of its own. */
static dsvk_status put_arguments(prompt *p, dsvk_json_value arguments) {
    if (dsvk_json_kind(arguments) == '{')
        return put_parameters(p, arguments);
    dsvk_text text = { 0 };
    dsvk_error err;
    dsvk_status status;
    dsvk_text_put_string(&text, arguments);
    if (text.failed) {
        status = dsvk_fail_nomem(p->err, arguments.n);
    } else if (dsvk_json_check_as(DSVK_JSON_NUL | DSVK_JSON_REPEATED, text.bytes, text.n, "", &err) == DSVK_OK &&
               dsvk_json_kind(dsvk_json_root(text.bytes, text.n)) == '{') {
        status = put_parameters(p, dsvk_json_root(text.bytes, text.n));
    } else {
        DSVK_GOTO(put_parameter_head(p, dsvk_json_root("\"arguments\"", 11), true));
        dsvk_text_put(&p->text, text.bytes, text.n);
        status = put_scaffold(p, PARAMETER_END);
    }
fail:
    dsvk_free(text.bytes);
    return status;
}

static dsvk_status put_calls(prompt *p, dsvk_json_value calls) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value call, function, name, arguments;
    if (!calls.text)
        return DSVK_OK;
    DSVK_TRY(put_scaffold(p, "\n\n<｜DSML｜tool_calls>\n"));
    while (dsvk_json_element(calls, &walk, &call)) {
        dsvk_json_find(call, "function", &function);
        dsvk_json_find(function, "name", &name);
        DSVK_TRY(put_scaffold(p, "<｜DSML｜invoke name=\""));
        dsvk_text_put_string(&p->text, name);
        DSVK_TRY(put_scaffold(p, "\">\n"));
        if (dsvk_json_find(function, "arguments", &arguments) && dsvk_json_kind(arguments) != 'n')
            DSVK_TRY(put_arguments(p, arguments));
        DSVK_TRY(put_scaffold(p, "\n</｜DSML｜invoke>\n"));
    }
    return put_scaffold(p, "</｜DSML｜tool_calls>");
}

/* ---- turns as they were sampled ---- */

static dsvk_status put_ids(prompt *p, dsvk_json_value list) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value id;
    size_t n = 0, n_text = 0, begin = p->text.n;
    uint64_t number;
    char *text = NULL;
    if (!p->tokenizer)
        return dsvk_fail(p->err, DSVK_INVALID, "replay: ids need a tokenizer, and only text was asked for");
    int32_t *ids = dsvk_alloc_zero(list.n, sizeof *ids); /* an id is longer than one byte with its comma */
    if (!ids)
        return dsvk_fail_nomem(p->err, list.n * sizeof *ids);
    for (; dsvk_json_element(list, &walk, &id); n++)
        ids[n] = dsvk_json_uint(id, &number) ? (int32_t)number : -1;
    dsvk_status status = dsvk_tokenizer_decode(p->tokenizer, ids, n, &text, &n_text, p->err);
    if (status != DSVK_OK) {
        dsvk_free(ids);
        return status;
    }
    dsvk_text_put(&p->text, text, n_text);
    dsvk_free(text);
    return put_mark(p, begin, n_text, ids, n);
}

/* What the turn is called in `replay`; .text NULL: nothing. */
static dsvk_json_value name_of(const dsvk_chat_message *m) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value call, id = { 0 };
    if (!m->tool_calls.text)
        return m->turn_id;
    if (dsvk_json_element(m->tool_calls, &walk, &call) && dsvk_json_find(call, "id", &id) && dsvk_json_kind(id) == '"')
        return id;
    return (dsvk_json_value) { 0 };
}

/* Writes the turn as it was sampled, when it is known and began in the same mode; otherwise *done stays false and
 * nothing is written. A turn that was thought through has the end of its thoughts in it. */
static dsvk_status put_replay(prompt *p, const dsvk_chat_message *m, bool thinks, bool *done) {
    const dsvk_json_value name = name_of(m);
    const dsvk_chat_named *known = name.text ? dsvk_chat_find(p->c->replay, p->c->n_replay, name) : NULL;
    size_t begin = p->text.n, first_mark = p->n_marks;
    if (!known)
        return DSVK_OK;
    if (dsvk_json_kind(known->value) == '[') {
        DSVK_TRY(put_ids(p, known->value));
    } else {
        dsvk_text text = { 0 };
        dsvk_text_put_string(&text, known->value);
        dsvk_status status = text.failed ? dsvk_fail_nomem(p->err, known->value.n) : put_scaffold_n(p, text.bytes, text.n);
        dsvk_free(text.bytes);
        DSVK_TRY(status);
    }
    if (p->text.failed)
        return dsvk_fail_nomem(p->err, p->text.capacity);
    bool thought = p->text.n > begin &&
                   memmem(p->text.bytes + begin, p->text.n - begin, CHAT_END_THINK, strlen(CHAT_END_THINK));
    *done = thought == thinks;
    if (!*done) {
        p->text.n = begin;
        while (p->n_marks > first_mark)
            dsvk_free((int32_t *)p->marks[--p->n_marks].ids);
    }
    return DSVK_OK;
}

/* ---- messages ---- */

static dsvk_status put_system(prompt *p, const dsvk_chat_message *m) {
    if (m->tools.text) {
        dsvk_text_puts(&p->text, "\n\n");
        DSVK_TRY(put_tools(p, m->tools));
    }
    if (m->response_format.text) {
        dsvk_text_puts(&p->text, "\n\n");
        DSVK_TRY(put_scaffold(p, response_format_before));
        dsvk_text_put_json(&p->text, m->response_format);
    }
    return DSVK_OK;
}

static dsvk_status put_developer(prompt *p, const dsvk_chat_message *m) {
    DSVK_TRY(put_scaffold(p, CHAT_USER));
    size_t begin = p->text.n;
    put_content(p, m->content, "");
    if (p->text.n == begin && !p->text.failed)
        return dsvk_fail(p->err, DSVK_INVALID, "%s[%zu].content: a developer message needs content",
                         m->in_context ? "context" : "messages", m->index);
    return put_system(p, m);
}

static dsvk_status put_user(prompt *p, const dsvk_chat_message *m) {
    DSVK_TRY(put_scaffold(p, CHAT_USER));
    for (size_t i = 0; i < m->n_blocks; i++) {
        const dsvk_chat_block *block = &p->c->blocks[m->first_block + i];
        dsvk_text_puts(&p->text, i ? "\n\n" : "");
        dsvk_text_puts(&p->text, block->result ? "<tool_result>" : "");
        put_content(p, block->content, block->result ? "\n\n" : "");
        dsvk_text_puts(&p->text, block->result ? "</tool_result>" : "");
    }
    return DSVK_OK;
}

static dsvk_status put_assistant(prompt *p, size_t i) {
    const dsvk_conversation *c = p->c;
    const dsvk_chat_message *m = &c->messages[i];
    bool after_task = i > 0 && c->messages[i - 1].task != CHAT_NO_TASK, replayed = false;
    bool thinks = c->thinking && !after_task && (!c->drop || (ptrdiff_t)i > c->last_user);
    DSVK_TRY(put_replay(p, m, thinks, &replayed));
    if (!replayed) {
        if (thinks) {
            put_content(p, m->reasoning, "");
            DSVK_TRY(put_scaffold(p, CHAT_END_THINK));
        }
        put_content(p, m->content, "");
        DSVK_TRY(put_calls(p, m->tool_calls));
    }
    return put_scaffold(p, m->wo_eos ? "" : CHAT_EOS);
}

static dsvk_status put_message(prompt *p, size_t i) {
    const dsvk_chat_message *m = &p->c->messages[i];
    switch (m->role) {
    case CHAT_ROLE_SYSTEM:
        put_content(p, m->content, "");
        return put_system(p, m);
    case CHAT_ROLE_DEVELOPER: return put_developer(p, m);
    case CHAT_ROLE_USER: return put_user(p, m);
    case CHAT_ROLE_ASSISTANT: return put_assistant(p, i);
    default: /* a reminder; results of tools have become users */
        DSVK_TRY(put_scaffold(p, CHAT_REMINDER));
        put_content(p, m->content, "");
        return DSVK_OK;
    }
}

/* What hands the turn to the assistant. */
static dsvk_status put_transition(prompt *p, size_t i) {
    const dsvk_conversation *c = p->c;
    const dsvk_chat_message *m = &c->messages[i];
    bool last = i + 1 == c->n_messages;
    if (!last && c->messages[i + 1].role != CHAT_ROLE_ASSISTANT && c->messages[i + 1].role != CHAT_ROLE_REMINDER)
        return DSVK_OK;
    if (m->task == CHAT_NO_TASK && m->role != CHAT_ROLE_USER && m->role != CHAT_ROLE_DEVELOPER)
        return DSVK_OK;
    if (m->task == CHAT_NO_TASK || m->task == CHAT_ACTION) {
        bool needed = m->task == CHAT_ACTION || !c->drop || (ptrdiff_t)i >= c->last_user;
        DSVK_TRY(put_scaffold(p, CHAT_ASSISTANT));
        DSVK_TRY(put_scaffold(p, c->thinking && needed ? CHAT_THINK : CHAT_END_THINK));
    }
    return put_scaffold(p, m->task == CHAT_NO_TASK ? "" : dsvk_chat_task_tokens[m->task]);
}

static dsvk_status render(prompt *p) {
    const dsvk_conversation *c = p->c;
    size_t i = 0;
    while (i < c->n_messages && c->messages[i].in_context)
        i++;
    if (i == 0) {
        const char *effort = c->thinking ? effort_text[c->revision][c->effort] : NULL;
        DSVK_TRY(put_scaffold(p, c->add_bos ? CHAT_BOS : ""));
        DSVK_TRY(put_scaffold(p, effort && c->n_messages ? effort : ""));
    }
    for (; i < c->n_messages; i++) {
        DSVK_TRY(put_message(p, i));
        DSVK_TRY(put_transition(p, i));
    }
    return p->text.failed ? dsvk_fail_nomem(p->err, p->text.capacity) : DSVK_OK;
}

/* ---- dsvk.h ---- */

static void prompt_close(prompt *p) {
    for (size_t i = 0; i < p->n_marks; i++)
        dsvk_free((int32_t *)p->marks[i].ids);
    dsvk_free(p->marks);
    dsvk_free(p->text.bytes);
}

dsvk_status dsvk_chat_encode(const char *conversation, size_t n, char **text, size_t *n_text, dsvk_error *err) {
    if (!conversation || !text || !n_text)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_chat_encode: %s is NULL",
                         !conversation ? "conversation" : !text ? "text" : "n_text");
    dsvk_conversation c = { 0 };
    prompt p = { .c = &c, .err = err };
    dsvk_status status;
    DSVK_GOTO(dsvk_conversation_read(&c, conversation, n, err));
    DSVK_GOTO(render(&p));
    if (!dsvk_text_reserve(&p.text, 1)) {
        status = dsvk_fail_nomem(err, p.text.n + 1);
        goto fail;
    }
    p.text.bytes[p.text.n] = 0;
    *text = p.text.bytes;
    *n_text = p.text.n;
    p.text.bytes = NULL;
fail:
    prompt_close(&p);
    dsvk_conversation_close(&c);
    return status;
}

dsvk_status dsvk_chat_encode_ids(const dsvk_tokenizer *tokenizer, const char *conversation, size_t n, int32_t **ids,
                                 size_t *n_ids, dsvk_error *err) {
    if (!tokenizer || !conversation || !ids || !n_ids)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_chat_encode_ids: %s is NULL",
                         !tokenizer      ? "tokenizer"
                         : !conversation ? "conversation"
                         : !ids          ? "ids"
                                         : "n_ids");
    dsvk_conversation c = { 0 };
    prompt p = { .c = &c, .tokenizer = tokenizer, .err = err };
    dsvk_status status;
    DSVK_GOTO(dsvk_conversation_read(&c, conversation, n, err));
    DSVK_GOTO(render(&p));
    DSVK_GOTO(dsvk_tokenizer_encode_marked(tokenizer, p.text.bytes, p.text.n, p.marks, p.n_marks, ids, n_ids, err));
fail:
    prompt_close(&p);
    dsvk_conversation_close(&c);
    return status;
}
