/* The strings that are structure and not text (spec 6.1). The encoder marks them where it writes them, and only there;
 * the parser takes them out of what a model answers. */
#include <string.h>

#include "chat.h"

const char *const dsvk_chat_task_names[CHAT_TASKS] = {
    [CHAT_ACTION] = "action", [CHAT_QUERY] = "query", [CHAT_AUTHORITY] = "authority",
    [CHAT_DOMAIN] = "domain", [CHAT_TITLE] = "title", [CHAT_READ_URL] = "read_url",
};

const char *const dsvk_chat_task_tokens[CHAT_TASKS] = {
    [CHAT_ACTION] = "<｜action｜>", [CHAT_QUERY] = "<｜query｜>", [CHAT_AUTHORITY] = "<｜authority｜>",
    [CHAT_DOMAIN] = "<｜domain｜>", [CHAT_TITLE] = "<｜title｜>", [CHAT_READ_URL] = "<｜read_url｜>",
};

static const char *const others[] = { CHAT_BOS,   CHAT_EOS,       CHAT_USER, CHAT_ASSISTANT,        CHAT_REMINDER,
                                      CHAT_THINK, CHAT_END_THINK, CHAT_DSML, "<｜extracted_url｜>" };

/* None is the beginning of another, so the first that fits is the one. */
static bool begins(const char *text, size_t n, const char *special, bool *may_become) {
    size_t length = strlen(special);
    if (memcmp(text, special, n < length ? n : length) != 0)
        return false;
    *may_become |= n < length;
    return n >= length;
}

const char *dsvk_chat_special(const char *text, size_t n, bool *may_become) {
    *may_become = false;
    if (n == 0 || (text[0] != '<' && text[0] != CHAT_DSML[0]))
        return NULL;
    for (size_t i = 0; i < DSVK_COUNT(others); i++)
        if (begins(text, n, others[i], may_become))
            return others[i];
    for (size_t i = CHAT_NO_TASK + 1; i < CHAT_TASKS; i++)
        if (begins(text, n, dsvk_chat_task_tokens[i], may_become))
            return dsvk_chat_task_tokens[i];
    return NULL;
}
