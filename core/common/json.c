/* JSON through jansson, behind the limits of faults M03-M05: json_reader.c proves the text sound, with its own messages,
 * before the (recursive) parser sees it. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "json_reader.h"

dsvk_status dsvk_json_parse(json_t **root, const char *text, size_t n, const char *what, dsvk_error *err) {
    if (n > INT_MAX)
        return dsvk_fail(err, DSVK_LIMIT, "%s: %zu bytes of JSON, the limit is %d", what, n, INT_MAX);
    DSVK_TRY(dsvk_json_check(text, n, what, err));
    json_error_t e;
    json_t *parsed = json_loadb(text, n, 0, &e);
    if (!parsed) { /* memory, or a number beyond what jansson's types hold */
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
