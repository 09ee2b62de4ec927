/* JSON from strangers, read in place. A tree of nodes can take fifty times the bytes of a hostile text, so large files
 * (safetensors headers, indices, configurations) are first proved to be sound by dsvk_json_check, which keeps 8 bytes
 * per key of the open objects and no stack that grows with depth, and then walked as slices of their own text. The
 * walking functions trust their input: give them nothing that dsvk_json_check has not passed. */
#ifndef DSVK_JSON_READER_H
#define DSVK_JSON_READER_H

#include "common.h"

#define DSVK_JSON_KEY_LIMIT (1u << 20) /* bytes of one key (faults C11) */

/* Proves that text [n] is one JSON value (RFC 8259) in good UTF-8: nested at most DSVK_JSON_DEPTH deep and no key
 * longer than DSVK_JSON_KEY_LIMIT (LIMIT); no duplicate key however it is escaped, no NUL, lone surrogate or control
 * byte, nothing but white space around the value (FORMAT). Messages begin with `what` and carry the byte offset. */
dsvk_status dsvk_json_check(const char *text, size_t n, const char *what, dsvk_error *err);

#define DSVK_JSON_NUL 1u      /* NUL may be written as \u0000 */
#define DSVK_JSON_REPEATED 2u /* keys may be repeated; then nothing is allocated */
/* The same, less strict: `allow` holds flags from above. */
dsvk_status dsvk_json_check_as(uint32_t allow, const char *text, size_t n, const char *what, dsvk_error *err);

/* A slice of a checked text: one value, without white space around it. */
typedef struct dsvk_json_value {
    const char *text;
    size_t n;
} dsvk_json_value;

dsvk_json_value dsvk_json_root(const char *text, size_t n);
/* '{' '[' '"' '0' (any number) 't' 'f' 'n' (null). */
char dsvk_json_kind(dsvk_json_value value);
const char *dsvk_json_kind_name(dsvk_json_value value); /* "an object", "a string", ... for messages */

/* Members and elements in their order: start with a zeroed walk; false at the end, and at once when `value` is not an
 * object (array). A key is a string value. */
typedef struct dsvk_json_walk {
    size_t at;
} dsvk_json_walk;
bool dsvk_json_member(dsvk_json_value value, dsvk_json_walk *walk, dsvk_json_value *key, dsvk_json_value *member);
bool dsvk_json_element(dsvk_json_value value, dsvk_json_walk *walk, dsvk_json_value *element);
/* The member called `key`; false when there is none. */
bool dsvk_json_find(dsvk_json_value value, const char *key, dsvk_json_value *member);

/* A string's UTF-8 bytes to out [out_size], NUL-terminated and cut to fit; returns its whole length. */
size_t dsvk_json_string(dsvk_json_value value, char *out, size_t out_size);
bool dsvk_json_equals(dsvk_json_value value, const char *text); /* is it this string? */
int dsvk_json_compare(dsvk_json_value a, dsvk_json_value b); /* order of two strings by their bytes, however escaped */
/* True when it is a number written with digits only that fits 64 bits. */
bool dsvk_json_uint(dsvk_json_value value, uint64_t *out);
/* True when it is a number of at most 511 characters; one beyond the range of double gives infinity. Independent of the
 * locale. */
bool dsvk_json_double(dsvk_json_value value, double *out);
/* The value as it is written, escaped and cut, for messages; returns out. */
const char *dsvk_json_quote(dsvk_json_value value, char *out, size_t out_size);

#endif
