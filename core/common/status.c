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

void dsvk_one_line(char *out, size_t out_size, const char *text) {
    size_t used = 0;
    for (size_t left = strlen(text); left > 0;) {
        const unsigned char c = (unsigned char)*text;
        const size_t length = c < 0x20 || c == 0x7f ? 0 : dsvk_utf8_length((const unsigned char *)text, left);
        const size_t needed = length ? length : 4;
        if (used + needed >= out_size)
            break;
        if (length)
            memcpy(out + used, text, length);
        else
            snprintf(out + used, out_size - used, "\\x%02x", c);
        used += needed;
        text += length ? length : 1;
        left -= length ? length : 1;
    }
    out[used] = 0;
}

dsvk_status dsvk_fail(dsvk_error *err, dsvk_status status, const char *format, ...) {
    if (err) {
        char text[DSVK_MESSAGE_SIZE]; /* the arguments may point into err itself */
        va_list list;
        va_start(list, format);
        vsnprintf(text, sizeof text, format, list);
        va_end(list);
        err->status = status;
        dsvk_one_line(err->message, sizeof err->message, text); /* paths and names are anybody's */
    }
    return status;
}

dsvk_status dsvk_fail_nomem(dsvk_error *err, uint64_t bytes) {
    return dsvk_fail(err, DSVK_NOMEM, "out of host memory: %llu bytes were asked for", (unsigned long long)bytes);
}

dsvk_status dsvk_check_switch(const char *name, uint32_t value, dsvk_error *err) {
    return value <= 1 ? DSVK_OK : dsvk_fail(err, DSVK_INVALID, "%s is %u, not 0 or 1", name, value);
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
