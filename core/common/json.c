/* JSON through jansson, behind the limits of faults M03-M05: depth is checked by a scan before the (recursive) parser
 * sees the text, duplicate keys are errors however they are escaped, and every message carries a byte offset. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

/* Depth of nesting, counted without recursion. Strings are skipped; whether the text is JSON at all is jansson's say. */
static bool too_deep(const char *text, size_t n, size_t *offset) {
    uint32_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > DSVK_JSON_DEPTH) {
                *offset = i;
                return true;
            }
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

dsvk_status dsvk_json_parse(json_t **root, const char *text, size_t n, const char *what, dsvk_error *err) {
    size_t offset;
    if (n > INT_MAX)
        return dsvk_fail(err, DSVK_LIMIT, "%s: %zu bytes of JSON, the limit is %d", what, n, INT_MAX);
    const char *nul = memchr(text, 0, n);
    if (nul)
        return dsvk_fail(err, DSVK_FORMAT, "%s: NUL byte at offset %zu", what, (size_t)(nul - text));
    if (too_deep(text, n, &offset))
        return dsvk_fail(err, DSVK_LIMIT, "%s: nested deeper than %d at offset %zu", what, DSVK_JSON_DEPTH, offset);
    json_error_t e;
    json_t *parsed = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (!parsed) {
        if (json_error_code(&e) == json_error_out_of_memory)
            return dsvk_fail_nomem(err, n);
        char reason[200];
        dsvk_escape(reason, sizeof reason, e.text, strlen(e.text));
        return dsvk_fail(err, DSVK_FORMAT, "%s: %s at offset %d", what, reason, e.position < 0 ? 0 : e.position);
    }
    *root = parsed;
    return DSVK_OK;
}

dsvk_status dsvk_json_text(json_t *root, char **text, dsvk_error *err) {
    if (!root)
        return dsvk_fail_nomem(err, 0);
    char *dumped = json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    if (!dumped)
        return dsvk_fail_nomem(err, 0);
    *text = dsvk_strdup_n(dumped, strlen(dumped));
    free(dumped); /* jansson's own allocation */
    return *text ? DSVK_OK : dsvk_fail_nomem(err, 0);
}
