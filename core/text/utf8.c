/* UTF-8 by the table of well-formed sequences (Unicode 3.9, table 3-7): no surrogates, nothing above U+10FFFF, no
 * overlong forms. */
#include "tokenizer.h"

size_t dsvk_utf8_next(const char *text, size_t n, dsvk_utf8 *kind) {
    const unsigned char *p = (const unsigned char *)text;
    size_t length = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (length == 0) {
        *kind = DSVK_UTF8_BROKEN;
        return 1;
    }
    /* Only the second byte's range depends on the first. */
    unsigned char low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < length; i++) {
        if (i == n) {
            *kind = DSVK_UTF8_CUT;
            return n;
        }
        if (p[i] < low || p[i] > high) {
            *kind = DSVK_UTF8_BROKEN;
            return i;
        }
        low = 0x80;
        high = 0xbf;
    }
    *kind = DSVK_UTF8_CHAR;
    return length;
}

uint32_t dsvk_utf8_code_point(const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text;
    uint32_t c = n == 1 ? p[0] : n == 2 ? p[0] & 0x1fu : n == 3 ? p[0] & 0x0fu : p[0] & 0x07u;
    for (size_t i = 1; i < n; i++)
        c = c << 6 | (p[i] & 0x3fu);
    return c;
}
