/* Inside core/text: the family's conversation format (spec section 6), which is code here and never a template from a
 * model's folder (faults T10).
 *
 * chat_conversation.c reads a conversation's JSON and puts its messages in the order they are rendered in,
 * chat_encode.c writes them, chat_parser.c reads what a model answers. What the writer and the reader must agree on is
 * in chat_markup.c, and what JSON looks like in a prompt in chat_text.c. */
#ifndef DSVK_CHAT_H
#define DSVK_CHAT_H

#include "json_reader.h"
#include "tokenizer.h"

/* ---- growing text, and JSON as the prompts have it (chat_text.c) ---- */

typedef struct dsvk_text {
    char *bytes; /* [capacity], n of them used; released with dsvk_free */
    size_t n, capacity;
    bool failed; /* memory ran out: what was put after that is not there */
} dsvk_text;

bool dsvk_text_reserve(dsvk_text *t, size_t more); /* false, and `failed`, when memory is out */
void dsvk_text_put(dsvk_text *t, const char *bytes, size_t n);
void dsvk_text_puts(dsvk_text *t, const char *text);
void dsvk_text_put_string(dsvk_text *t, dsvk_json_value string); /* the characters it stands for */
/* Bytes as the inside of a JSON string: quotes, backslashes and control characters escaped, everything else as it is. */
void dsvk_text_put_escaped(dsvk_text *t, const char *bytes, size_t n);
/* A checked value as Python's json.dumps(ensure_ascii=False) writes what json.loads read: of repeated keys the first
 * place and the last value, whole numbers of any size, reals in the shortest form that reads back. */
void dsvk_text_put_json(dsvk_text *t, dsvk_json_value value);

/* A member of an object by its places in the object's text, which is shorter than 4 GiB (dsvk_json_check). */
typedef struct dsvk_member {
    uint32_t key, value, end;
} dsvk_member;
/* The members of a checked object: of repeated keys one, in the first place with the last value. False when memory is
 * out; *members is released with dsvk_free. */
bool dsvk_members(dsvk_json_value object, dsvk_member **members, size_t *n);
static inline dsvk_json_value dsvk_member_key(dsvk_json_value object, dsvk_member m) {
    return (dsvk_json_value) { object.text + m.key, m.value - m.key }; /* a string, and the colon behind it */
}
static inline dsvk_json_value dsvk_member_value(dsvk_json_value object, dsvk_member m) {
    return (dsvk_json_value) { object.text + m.value, m.end - m.value };
}

/* ---- special strings (chat_markup.c) ---- */

#define CHAT_BOS "<｜begin▁of▁sentence｜>"
#define CHAT_EOS "<｜end▁of▁sentence｜>"
#define CHAT_USER "<｜User｜>"
#define CHAT_ASSISTANT "<｜Assistant｜>"
#define CHAT_REMINDER "<｜latest_reminder｜>"
#define CHAT_THINK "<think>"
#define CHAT_END_THINK "</think>"
#define CHAT_DSML "｜DSML｜"

typedef enum dsvk_chat_task {
    CHAT_NO_TASK,
    CHAT_ACTION,
    CHAT_QUERY,
    CHAT_AUTHORITY,
    CHAT_DOMAIN,
    CHAT_TITLE,
    CHAT_READ_URL,
    CHAT_TASKS
} dsvk_chat_task;
extern const char *const dsvk_chat_task_names[CHAT_TASKS];  /* "action"; [CHAT_NO_TASK] is NULL */
extern const char *const dsvk_chat_task_tokens[CHAT_TASKS]; /* "<｜action｜>" */

/* The special string that text [n] begins with, NULL when there is none. *may_become is set when the text is too short
 * to say so: all of it is the beginning of one. */
const char *dsvk_chat_special(const char *text, size_t n, bool *may_become);

/* ---- a conversation (chat_conversation.c) ---- */

typedef enum dsvk_chat_role {
    CHAT_ROLE_SYSTEM,
    CHAT_ROLE_DEVELOPER,
    CHAT_ROLE_USER,
    CHAT_ROLE_ASSISTANT,
    CHAT_ROLE_TOOL, /* only in the JSON: merged into users */
    CHAT_ROLE_REMINDER,
    CHAT_ROLES
} dsvk_chat_role;

/* What a user says in one turn: texts and results of tools. */
typedef struct dsvk_chat_block {
    dsvk_json_value content; /* .text NULL: none */
    dsvk_json_value call_id; /* of a result; .text NULL: none */
    bool result;
    uint32_t rank; /* of a result, while sorting: index of its call, */
    size_t place;  /* and where it was among the blocks of its turn */
} dsvk_chat_block;

/* Values are slices of the conversation's text; .text NULL: absent, null, or an empty list where that means the same. */
typedef struct dsvk_chat_message {
    dsvk_chat_role role;
    dsvk_chat_task task;
    bool wo_eos;
    bool in_context; /* encoded before */
    size_t index;    /* in its list, for messages */
    dsvk_json_value content, reasoning, tools, response_format, tool_calls, call_id, turn_id;
    size_t first_block, n_blocks; /* of a user */
} dsvk_chat_message;

typedef enum dsvk_chat_effort {
    CHAT_EFFORT_UNSET,
    CHAT_EFFORT_NONE,
    CHAT_EFFORT_LOW,
    CHAT_EFFORT_HIGH,
    CHAT_EFFORT_MAX
} dsvk_chat_effort;
typedef enum dsvk_chat_revision { CHAT_PREVIEW, CHAT_0731, CHAT_REVISIONS } dsvk_chat_revision;

/* Something found by a JSON string, in order of these strings. */
typedef struct dsvk_chat_named {
    dsvk_json_value name, value;
    uint32_t index;
} dsvk_chat_named;

typedef struct dsvk_conversation {
    dsvk_chat_message *messages; /* [n_messages] merged, sorted and dropped: as they are rendered, context first */
    size_t n_messages;
    dsvk_chat_block *blocks;
    size_t n_blocks;
    dsvk_chat_named *replay; /* [n_replay] what was sampled, by the id of the turn's first call, or its turn_id */
    size_t n_replay;
    bool thinking, drop, add_bos;
    dsvk_chat_effort effort;
    dsvk_chat_revision revision;
    ptrdiff_t last_user; /* index of the last user or developer message, -1: none */
} dsvk_conversation;

/* Reads and checks text [n], which must stay while the conversation is used. Close it also after a failure. */
dsvk_status dsvk_conversation_read(dsvk_conversation *c, const char *text, size_t n, dsvk_error *err);
void dsvk_conversation_close(dsvk_conversation *c);
/* The last one of this name; NULL when there is none. */
const dsvk_chat_named *dsvk_chat_find(const dsvk_chat_named *named, size_t n, dsvk_json_value name);

#endif
