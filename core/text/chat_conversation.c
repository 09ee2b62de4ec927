/* From a conversation's JSON to the messages that are rendered (spec 6.2, steps 1 to 3). The text is checked once; from
 * then on everything is a slice of it, and every message says where it stands: "messages[3].content: ...". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat.h"

static const char *const role_names[CHAT_ROLES] = {
    [CHAT_ROLE_SYSTEM] = "system",       [CHAT_ROLE_DEVELOPER] = "developer", [CHAT_ROLE_USER] = "user",
    [CHAT_ROLE_ASSISTANT] = "assistant", [CHAT_ROLE_TOOL] = "tool",           [CHAT_ROLE_REMINDER] = "latest_reminder",
};

/* Names that a value may have, with their meanings. */
typedef struct choice {
    const char *name;
    int meaning;
} choice;

/* What the hosted API calls efforts, and the four there are (the server's table of requested efforts). */
static const choice efforts[] = {
    { "none", CHAT_EFFORT_NONE },   { "low", CHAT_EFFORT_LOW },   { "high", CHAT_EFFORT_HIGH },
    { "max", CHAT_EFFORT_MAX },     { "minimal", CHAT_EFFORT_LOW }, { "medium", CHAT_EFFORT_HIGH },
    { "xhigh", CHAT_EFFORT_HIGH },  { "ultra", CHAT_EFFORT_MAX },
};
static const choice modes[] = { { "thinking", 1 }, { "chat", 0 } };
static const choice revisions[] = { { "preview", CHAT_PREVIEW }, { "0731", CHAT_0731 } };

typedef struct reader {
    dsvk_conversation *c;
    const char *list; /* "messages" or "context" */
    size_t index;     /* in it */
    size_t capacity_messages, capacity_blocks;
    dsvk_json_value tools, response_format; /* of the whole conversation */
    dsvk_error *err;
} reader;

/* ---- values ---- */

static bool is_null(dsvk_json_value value) { return !value.text || dsvk_json_kind(value) == 'n'; }

static dsvk_status bad_type(const reader *r, const char *at, const char *wanted, dsvk_json_value value) {
    return dsvk_fail(r->err, DSVK_INVALID, "%s: expected %s, got %s", at, wanted, dsvk_json_kind_name(value));
}

/* "messages[3].content" */
#define WHERE(r, name) where(r, name, (char[96]) { 0 })
static const char *where(const reader *r, const char *name, char out[96]) {
    snprintf(out, 96, "%s[%zu]%s%s", r->list, r->index, name[0] ? "." : "", name);
    return out;
}

/* A value of one of these kinds (first letters, see dsvk_json_kind), or none. */
static dsvk_status take(const reader *r, const char *at, const char *kinds, const char *wanted, dsvk_json_value value,
                        dsvk_json_value *out) {
    if (is_null(value))
        return DSVK_OK;
    if (!strchr(kinds, dsvk_json_kind(value)))
        return bad_type(r, at, wanted, value);
    *out = value;
    return DSVK_OK;
}

static dsvk_status take_bool(const reader *r, const char *at, dsvk_json_value value, bool *out) {
    dsvk_json_value found = { 0 };
    DSVK_TRY(take(r, at, "tf", "true or false", value, &found));
    if (found.text)
        *out = dsvk_json_kind(found) == 't';
    return DSVK_OK;
}

static dsvk_status take_choice(const reader *r, const char *at, const choice *choices, size_t n, dsvk_json_value value,
                               int *out) {
    char names[160] = "", given[80];
    if (is_null(value))
        return DSVK_OK;
    for (size_t i = 0; i < n; i++) {
        if (dsvk_json_equals(value, choices[i].name)) {
            *out = choices[i].meaning;
            return DSVK_OK;
        }
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", choices[i].name);
    }
    return dsvk_fail(r->err, DSVK_INVALID, "%s: expected one of %s, got %s", at, names,
                     dsvk_json_quote(value, given, sizeof given));
}

/* A list or an object; an empty one is none. */
static dsvk_status take_filled(const reader *r, const char *at, const char *kind, dsvk_json_value value,
                               dsvk_json_value *out) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value found = { 0 }, a, b;
    DSVK_TRY(take(r, at, kind, kind[0] == '[' ? "a list" : "an object", value, &found));
    if (found.text && (dsvk_json_element(found, &walk, &a) || dsvk_json_member(found, &walk, &a, &b)))
        *out = found;
    return DSVK_OK;
}

/* ---- looking up by a JSON string ---- */

static int by_name(const void *a, const void *b) {
    const dsvk_chat_named *x = a, *y = b;
    int order = dsvk_json_compare(x->name, y->name);
    return order ? order : x->index < y->index ? -1 : x->index > y->index;
}

const dsvk_chat_named *dsvk_chat_find(const dsvk_chat_named *named, size_t n, dsvk_json_value name) {
    size_t low = 0, high = n;
    while (low < high) { /* the first behind all of this name */
        size_t half = low + (high - low) / 2;
        if (dsvk_json_compare(named[half].name, name) <= 0)
            low = half + 1;
        else
            high = half;
    }
    return low > 0 && dsvk_json_compare(named[low - 1].name, name) == 0 ? &named[low - 1] : NULL;
}

/* ---- one message ---- */

/* Content is text, or a list of parts, each an object with a type. */
static dsvk_status check_content(const reader *r, const dsvk_chat_message *m) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value part, type, text;
    char at[64], given[80];
    if (is_null(m->content) || dsvk_json_kind(m->content) != '[')
        return DSVK_OK;
    for (size_t i = 0; dsvk_json_element(m->content, &walk, &part); i++) {
        snprintf(at, sizeof at, "%s[%zu].content[%zu]", r->list, r->index, i);
        if (dsvk_json_kind(part) != '{' || !dsvk_json_find(part, "type", &type) || dsvk_json_kind(type) != '"')
            return dsvk_fail(r->err, DSVK_INVALID, "%s: expected an object with a type", at);
        if (!dsvk_json_equals(type, "text")) {
            if (m->role == CHAT_ROLE_TOOL)
                continue;
            return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: a part of type %s, only text is supported", at,
                             dsvk_json_quote(type, given, sizeof given));
        }
        if (dsvk_json_find(part, "text", &text) && !is_null(text) && dsvk_json_kind(text) != '"')
            return dsvk_fail(r->err, DSVK_INVALID, "%s.text: expected text, got %s", at, dsvk_json_kind_name(text));
    }
    return DSVK_OK;
}

/* Every element of `list` has an object `function` with a member `name`, which is text where `call`. */
static dsvk_status check_functions(const reader *r, const char *at, dsvk_json_value list, bool call) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value element, function, name, id, arguments;
    if (!list.text)
        return DSVK_OK;
    for (size_t i = 0; dsvk_json_element(list, &walk, &element); i++) {
        if (!dsvk_json_find(element, "function", &function) || dsvk_json_kind(function) != '{')
            return dsvk_fail(r->err, DSVK_INVALID, "%s[%zu]: expected an object with a function", at, i);
        if (!call)
            continue;
        if (!dsvk_json_find(function, "name", &name) || dsvk_json_kind(name) != '"')
            return dsvk_fail(r->err, DSVK_INVALID, "%s[%zu].function.name: expected text", at, i);
        if (dsvk_json_find(element, "id", &id) && !is_null(id) && dsvk_json_kind(id) != '"')
            return dsvk_fail(r->err, DSVK_INVALID, "%s[%zu].id: expected text, got %s", at, i, dsvk_json_kind_name(id));
        if (dsvk_json_find(function, "arguments", &arguments) && !is_null(arguments) &&
            !strchr("\"{", dsvk_json_kind(arguments)))
            return dsvk_fail(r->err, DSVK_INVALID, "%s[%zu].function.arguments: expected text or an object, got %s", at,
                             i, dsvk_json_kind_name(arguments));
    }
    return DSVK_OK;
}

static dsvk_status read_role(const reader *r, dsvk_json_value value, dsvk_chat_role *role) {
    choice roles[CHAT_ROLES];
    int found = -1;
    for (int i = 0; i < CHAT_ROLES; i++)
        roles[i] = (choice) { role_names[i], i };
    DSVK_TRY(take_choice(r, WHERE(r, "role"), roles, CHAT_ROLES, value, &found));
    if (found < 0)
        return dsvk_fail(r->err, DSVK_INVALID, "%s: no role", WHERE(r, ""));
    *role = (dsvk_chat_role)found;
    return DSVK_OK;
}

static dsvk_status read_task(const reader *r, dsvk_json_value value, dsvk_chat_task *task) {
    choice tasks[CHAT_TASKS - 1];
    int found = CHAT_NO_TASK;
    for (int i = 1; i < CHAT_TASKS; i++)
        tasks[i - 1] = (choice) { dsvk_chat_task_names[i], i };
    DSVK_TRY(take_choice(r, WHERE(r, "task"), tasks, CHAT_TASKS - 1, value, &found));
    *task = (dsvk_chat_task)found;
    return DSVK_OK;
}

static dsvk_status read_message(const reader *r, dsvk_json_value object, dsvk_chat_message *m) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value key, value, role = { 0 };
    if (dsvk_json_kind(object) != '{')
        return bad_type(r, WHERE(r, ""), "an object", object);
    while (dsvk_json_member(object, &walk, &key, &value)) {
        if (dsvk_json_equals(key, "role"))
            role = value;
        else if (dsvk_json_equals(key, "content"))
            DSVK_TRY(take(r, WHERE(r, "content"), "\"[", "text or a list of parts", value, &m->content));
        else if (dsvk_json_equals(key, "reasoning_content"))
            DSVK_TRY(take(r, WHERE(r, "reasoning_content"), "\"", "text", value, &m->reasoning));
        else if (dsvk_json_equals(key, "tool_call_id"))
            DSVK_TRY(take(r, WHERE(r, "tool_call_id"), "\"", "text", value, &m->call_id));
        else if (dsvk_json_equals(key, "turn_id"))
            DSVK_TRY(take(r, WHERE(r, "turn_id"), "\"", "text", value, &m->turn_id));
        else if (dsvk_json_equals(key, "tools"))
            DSVK_TRY(take_filled(r, WHERE(r, "tools"), "[", value, &m->tools));
        else if (dsvk_json_equals(key, "tool_calls"))
            DSVK_TRY(take_filled(r, WHERE(r, "tool_calls"), "[", value, &m->tool_calls));
        else if (dsvk_json_equals(key, "response_format"))
            DSVK_TRY(take_filled(r, WHERE(r, "response_format"), "{", value, &m->response_format));
        else if (dsvk_json_equals(key, "wo_eos"))
            DSVK_TRY(take_bool(r, WHERE(r, "wo_eos"), value, &m->wo_eos));
        else if (dsvk_json_equals(key, "task"))
            DSVK_TRY(read_task(r, value, &m->task));
    }
    DSVK_TRY(read_role(r, role, &m->role));
    DSVK_TRY(check_content(r, m));
    DSVK_TRY(check_functions(r, WHERE(r, "tools"), m->tools, false));
    return check_functions(r, WHERE(r, "tool_calls"), m->tool_calls, true);
}

/* ---- step 1: results of tools belong to the user's turn ---- */

static dsvk_status grow(void *list, size_t *capacity, size_t n, size_t each, dsvk_error *err) {
    void **items = list;
    if (n < *capacity)
        return DSVK_OK;
    size_t more = *capacity * 2 + 16;
    void *grown = dsvk_realloc(*items, more * each);
    if (!grown)
        return dsvk_fail_nomem(err, more * each);
    *items = grown;
    *capacity = more;
    return DSVK_OK;
}

static dsvk_status push_message(reader *r, const dsvk_chat_message *m) {
    dsvk_conversation *c = r->c;
    DSVK_TRY(grow(&c->messages, &r->capacity_messages, c->n_messages, sizeof *m, r->err));
    c->messages[c->n_messages++] = *m;
    return DSVK_OK;
}

/* Blocks of the last user message are the last blocks, because messages are read in order. */
static dsvk_status merge_message(reader *r, const dsvk_chat_message *m) {
    dsvk_conversation *c = r->c;
    bool result = m->role == CHAT_ROLE_TOOL;
    if (!result && m->role != CHAT_ROLE_USER)
        return push_message(r, m);
    DSVK_TRY(grow(&c->blocks, &r->capacity_blocks, c->n_blocks, sizeof *c->blocks, r->err));
    dsvk_chat_message *last = c->n_messages ? &c->messages[c->n_messages - 1] : NULL;
    if (!last || last->role != CHAT_ROLE_USER || last->in_context != m->in_context ||
        (!result && last->task != CHAT_NO_TASK)) {
        dsvk_chat_message user = { .role = CHAT_ROLE_USER, .in_context = m->in_context, .index = m->index,
                                   .task = result ? CHAT_NO_TASK : m->task, .first_block = c->n_blocks };
        DSVK_TRY(push_message(r, &user));
        last = &c->messages[c->n_messages - 1];
    }
    c->blocks[c->n_blocks++] = (dsvk_chat_block) { .content = m->content, .call_id = m->call_id, .result = result };
    last->n_blocks++;
    return DSVK_OK;
}

static dsvk_status read_list(reader *r, const char *name, dsvk_json_value list, bool in_context) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value object;
    r->list = name;
    if (is_null(list))
        return DSVK_OK;
    if (dsvk_json_kind(list) != '[')
        return bad_type(r, name, "a list", list);
    for (r->index = 0; dsvk_json_element(list, &walk, &object); r->index++) {
        dsvk_chat_message m = { .in_context = in_context, .index = r->index };
        DSVK_TRY(read_message(r, object, &m));
        DSVK_TRY(merge_message(r, &m));
    }
    return DSVK_OK;
}

/* ---- step 2: results in the order of their calls ---- */

/* The calls that have an id, in order of their ids. */
static dsvk_status index_calls(dsvk_json_value tool_calls, dsvk_chat_named **calls, size_t *n, dsvk_error *err) {
    dsvk_json_walk walk = { 0 };
    dsvk_json_value call, id;
    size_t capacity = 0;
    dsvk_free(*calls);
    *calls = NULL;
    *n = 0;
    for (uint32_t i = 0; dsvk_json_element(tool_calls, &walk, &call); i++) {
        if (!dsvk_json_find(call, "id", &id) || is_null(id) || dsvk_json_equals(id, ""))
            continue;
        DSVK_TRY(grow(calls, &capacity, *n, sizeof **calls, err));
        (*calls)[(*n)++] = (dsvk_chat_named) { .name = id, .index = i };
    }
    if (*n > 1)
        qsort(*calls, *n, sizeof **calls, by_name);
    return DSVK_OK;
}

static int by_rank(const void *a, const void *b) {
    const dsvk_chat_block *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static dsvk_status sort_results(dsvk_chat_block *blocks, size_t n, const dsvk_chat_named *calls, size_t n_calls,
                                dsvk_error *err) {
    dsvk_chat_block *results = dsvk_alloc_zero(n, sizeof *results);
    size_t n_results = 0;
    if (!results)
        return dsvk_fail_nomem(err, n * sizeof *results);
    for (size_t i = 0; i < n; i++) {
        if (!blocks[i].result)
            continue;
        const dsvk_chat_named *call = blocks[i].call_id.text ? dsvk_chat_find(calls, n_calls, blocks[i].call_id) : NULL;
        results[n_results] = blocks[i];
        results[n_results].rank = call ? call->index : 0;
        results[n_results++].place = i;
    }
    qsort(results, n_results, sizeof *results, by_rank);
    for (size_t i = 0, k = 0; i < n; i++)
        if (blocks[i].result)
            blocks[i] = results[k++];
    dsvk_free(results);
    return DSVK_OK;
}

static dsvk_status sort_all_results(dsvk_conversation *c, dsvk_error *err) {
    dsvk_chat_named *calls = NULL;
    size_t n_calls = 0;
    dsvk_status status = DSVK_OK;
    for (size_t i = 0; i < c->n_messages && status == DSVK_OK; i++) {
        const dsvk_chat_message *m = &c->messages[i];
        if (m->role == CHAT_ROLE_ASSISTANT && m->tool_calls.text)
            status = index_calls(m->tool_calls, &calls, &n_calls, err);
        else if (m->n_blocks > 1 && n_calls > 0)
            status = sort_results(c->blocks + m->first_block, m->n_blocks, calls, n_calls, err);
    }
    dsvk_free(calls);
    return status;
}

/* ---- step 3: what was thought before the last question is not needed again ---- */

static void find_last_user(dsvk_conversation *c) {
    c->last_user = (ptrdiff_t)c->n_messages - 1;
    while (c->last_user >= 0 && c->messages[c->last_user].role != CHAT_ROLE_USER &&
           c->messages[c->last_user].role != CHAT_ROLE_DEVELOPER)
        c->last_user--;
}

static void drop_thoughts(dsvk_conversation *c) {
    for (size_t i = 0; i < c->n_messages; i++)
        if (c->messages[i].tools.text)
            c->drop = false;
    find_last_user(c);
    if (!c->thinking || !c->drop)
        return;
    size_t kept = 0;
    for (size_t i = 0; i < c->n_messages; i++) {
        dsvk_chat_message *m = &c->messages[i];
        if ((ptrdiff_t)i < c->last_user && m->role == CHAT_ROLE_DEVELOPER)
            continue;
        if ((ptrdiff_t)i < c->last_user)
            m->reasoning = (dsvk_json_value) { 0 };
        c->messages[kept++] = *m;
    }
    c->n_messages = kept;
    find_last_user(c);
}

/* ---- the whole ---- */

/* Tools and the response format of the whole conversation belong to its first system message; without one an empty one
 * is put in front. */
static dsvk_status attach(reader *r) {
    dsvk_conversation *c = r->c;
    if (!r->tools.text && !r->response_format.text)
        return DSVK_OK;
    size_t i = 0;
    while (i < c->n_messages && c->messages[i].role != CHAT_ROLE_SYSTEM)
        i++;
    if (i == c->n_messages) {
        dsvk_chat_message system = { .role = CHAT_ROLE_SYSTEM, .in_context = i > 0 && c->messages[0].in_context };
        DSVK_TRY(push_message(r, &system));
        memmove(c->messages + 1, c->messages, i * sizeof *c->messages);
        c->messages[0] = system;
        i = 0;
    }
    dsvk_chat_message *m = &c->messages[i];
    if ((r->tools.text && m->tools.text) || (r->response_format.text && m->response_format.text))
        return dsvk_fail(r->err, DSVK_INVALID, "%s: given for the conversation and in its system message",
                         r->tools.text && m->tools.text ? "tools" : "response_format");
    if (r->tools.text)
        m->tools = r->tools;
    if (r->response_format.text)
        m->response_format = r->response_format;
    return DSVK_OK;
}

/* What was sampled: text, or a list of ids that fit 31 bits. */
static dsvk_status read_replay(reader *r, dsvk_json_value object) {
    dsvk_conversation *c = r->c;
    dsvk_json_walk walk = { 0 };
    dsvk_json_value key, value, id;
    char name[80];
    size_t capacity = 0;
    if (is_null(object))
        return DSVK_OK;
    if (dsvk_json_kind(object) != '{')
        return bad_type(r, "replay", "an object", object);
    while (dsvk_json_member(object, &walk, &key, &value)) {
        dsvk_json_walk ids = { 0 };
        uint64_t number = 0;
        bool good = strchr("\"[", dsvk_json_kind(value)) != NULL;
        while (good && dsvk_json_element(value, &ids, &id))
            good = dsvk_json_uint(id, &number) && number <= INT32_MAX;
        if (!good)
            return dsvk_fail(r->err, DSVK_INVALID, "replay: expected text or a list of ids for %s",
                             dsvk_json_quote(key, name, sizeof name));
        DSVK_TRY(grow(&c->replay, &capacity, c->n_replay, sizeof *c->replay, r->err));
        c->replay[c->n_replay++] = (dsvk_chat_named) { .name = key, .value = value };
    }
    if (c->n_replay > 1)
        qsort(c->replay, c->n_replay, sizeof *c->replay, by_name);
    return DSVK_OK;
}

static dsvk_status read_parameters(reader *r, dsvk_json_value root, dsvk_json_value *messages,
                                   dsvk_json_value *context) {
    dsvk_conversation *c = r->c;
    dsvk_json_walk walk = { 0 };
    dsvk_json_value key, value;
    int thinking = 1, effort = CHAT_EFFORT_UNSET, revision = CHAT_PREVIEW;
    char name[80];
    c->drop = c->add_bos = true;
    while (dsvk_json_member(root, &walk, &key, &value)) {
        if (dsvk_json_equals(key, "messages"))
            *messages = value;
        else if (dsvk_json_equals(key, "context"))
            *context = value;
        else if (dsvk_json_equals(key, "tools"))
            DSVK_TRY(take_filled(r, "tools", "[", value, &r->tools));
        else if (dsvk_json_equals(key, "response_format"))
            DSVK_TRY(take_filled(r, "response_format", "{", value, &r->response_format));
        else if (dsvk_json_equals(key, "thinking_mode"))
            DSVK_TRY(take_choice(r, "thinking_mode", modes, DSVK_COUNT(modes), value, &thinking));
        else if (dsvk_json_equals(key, "reasoning_effort"))
            DSVK_TRY(take_choice(r, "reasoning_effort", efforts, DSVK_COUNT(efforts), value, &effort));
        else if (dsvk_json_equals(key, "drop_thinking"))
            DSVK_TRY(take_bool(r, "drop_thinking", value, &c->drop));
        else if (dsvk_json_equals(key, "add_bos"))
            DSVK_TRY(take_bool(r, "add_bos", value, &c->add_bos));
        else if (dsvk_json_equals(key, "revision"))
            DSVK_TRY(take_choice(r, "revision", revisions, DSVK_COUNT(revisions), value, &revision));
        else if (dsvk_json_equals(key, "replay"))
            DSVK_TRY(read_replay(r, value));
        else
            return dsvk_fail(r->err, DSVK_INVALID, "conversation: unknown parameter %s",
                             dsvk_json_quote(key, name, sizeof name));
    }
    c->effort = (dsvk_chat_effort)effort;
    c->revision = (dsvk_chat_revision)revision;
    c->thinking = thinking && c->effort != CHAT_EFFORT_NONE;
    return check_functions(r, "tools", r->tools, false);
}

dsvk_status dsvk_conversation_read(dsvk_conversation *c, const char *text, size_t n, dsvk_error *err) {
    reader r = { .c = c, .err = err };
    dsvk_json_value messages = { 0 }, context = { 0 };
    DSVK_TRY(dsvk_json_check_as(DSVK_JSON_NUL, text, n, "conversation", err));
    dsvk_json_value root = dsvk_json_root(text, n);
    if (dsvk_json_kind(root) != '{')
        return bad_type(&r, "conversation", "an object", root);
    DSVK_TRY(read_parameters(&r, root, &messages, &context));
    if (is_null(messages))
        return dsvk_fail(err, DSVK_INVALID, "conversation: no messages");
    DSVK_TRY(read_list(&r, "context", context, true));
    DSVK_TRY(read_list(&r, "messages", messages, false));
    DSVK_TRY(attach(&r));
    DSVK_TRY(sort_all_results(c, err));
    drop_thoughts(c);
    return DSVK_OK;
}

void dsvk_conversation_close(dsvk_conversation *c) {
    dsvk_free(c->messages);
    dsvk_free(c->blocks);
    dsvk_free(c->replay);
}
