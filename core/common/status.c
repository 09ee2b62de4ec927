/* Statuses and their sentences. A failing function returns dsvk_fail(err, STATUS, "what, where, numbers"). */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common.h"

#define STRINGIFY_(x) #x
#define STRINGIFY(x) STRINGIFY_(x)

const char *dsvk_version(void) {
    return STRINGIFY(DSVK_VERSION_MAJOR) "." STRINGIFY(DSVK_VERSION_MINOR) "." STRINGIFY(DSVK_VERSION_PATCH);
}

const char *dsvk_status_name(dsvk_status status) {
    switch (status) {
#define NAME_CASE(name, code, sentence) case DSVK_##name: return #name;
        DSVK_STATUS_LIST(NAME_CASE)
#undef NAME_CASE
    }
    return "UNKNOWN";
}

const char *dsvk_status_text(dsvk_status status) {
    switch (status) {
#define TEXT_CASE(name, code, sentence) case DSVK_##name: return sentence;
        DSVK_STATUS_LIST(TEXT_CASE)
#undef TEXT_CASE
    }
    return "unknown status";
}

dsvk_status dsvk_fail(dsvk_error *err, dsvk_status status, const char *format, ...) {
    if (err) {
        char text[DSVK_MESSAGE_SIZE]; /* the arguments may point into err itself */
        va_list list;
        va_start(list, format);
        vsnprintf(text, sizeof text, format, list);
        va_end(list);
        err->status = status;
        memcpy(err->message, text, sizeof text);
    }
    return status;
}

dsvk_status dsvk_fail_nomem(dsvk_error *err, uint64_t bytes) {
    return dsvk_fail(err, DSVK_NOMEM, "out of host memory: %llu bytes were asked for", (unsigned long long)bytes);
}

const char *dsvk_escape(char *out, size_t out_size, const char *text, size_t n) {
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        char piece[8];
        int length = c >= 0x20 && c < 0x7f && c != '\\' ? snprintf(piece, sizeof piece, "%c", c)
                                                       : snprintf(piece, sizeof piece, "\\x%02x", c);
        if (used + (size_t)length + 4 > out_size) {
            snprintf(out + used, out_size - used, "...");
            return out;
        }
        memcpy(out + used, piece, (size_t)length);
        used += (size_t)length;
    }
    out[used] = 0;
    return out;
}
