/* What every layer may use: errors, host memory, files, JSON. Nothing here knows Vulkan or transformers. */
#ifndef DSVK_COMMON_H
#define DSVK_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "dsvk.h"

#define DSVK_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- errors (status.c) ---- */

/* Fills *err (which may be NULL) and returns `status`, so that a failing function ends with `return dsvk_fail(...)`. */
dsvk_status dsvk_fail(dsvk_error *err, dsvk_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The common out-of-host-memory failure. */
dsvk_status dsvk_fail_nomem(dsvk_error *err, uint64_t bytes);
/* INVALID when an option that is 0 or 1 is anything else. */
dsvk_status dsvk_check_switch(const char *name, uint32_t value, dsvk_error *err);
/* Escapes up to `n` bytes of hostile text into out (printable ASCII stays, the rest becomes \xNN), cut to fit with "...";
 * returns out. */
const char *dsvk_escape(char *out, size_t out_size, const char *text, size_t n);

/* Text to out as one line of UTF-8: control characters and bytes that are none become \xNN; cut to fit. What dsvk_fail does. */
void dsvk_one_line(char *out, size_t out_size, const char *text);
/* Bytes of the UTF-8 character at p, or 0 when it is malformed: overlong, a surrogate, above U+10FFFF, or cut (json_reader.c). */
size_t dsvk_utf8_length(const unsigned char *p, size_t left);

#define DSVK_TRY(call)                         \
    do {                                       \
        dsvk_status dsvk_try_status_ = (call); \
        if (dsvk_try_status_ != DSVK_OK)       \
            return dsvk_try_status_;           \
    } while (0)
/* The same for functions with one exit: expects `dsvk_status status;` and a label `fail`. */
#define DSVK_GOTO(call)         \
    do {                        \
        status = (call);        \
        if (status != DSVK_OK)  \
            goto fail;          \
    } while (0)

/* ---- host memory (memory.c): all of it goes through these ---- */

void *dsvk_alloc(size_t bytes);               /* NULL when memory is out */
void *dsvk_alloc_zero(size_t count, size_t each); /* overflow-checked */
void *dsvk_realloc(void *old, size_t bytes);
char *dsvk_strdup_n(const char *text, size_t n); /* NUL-terminated copy */
/* dsvk_free (dsvk.h) releases. Tests make allocation number `n` (0-based, counted from this call) and all later ones of
 * this process fail; n < 0 turns that off. Returns how many allocations were made since the last call. */
int64_t dsvk_alloc_fail_after(int64_t n);
int64_t dsvk_alloc_live(void); /* allocations not yet freed, for leak tests */

/* Checked 64-bit arithmetic: false on overflow. */
static inline bool dsvk_mul(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool dsvk_add(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline uint64_t dsvk_align(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }
static inline uint64_t dsvk_ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

/* ---- files (file.c) ---- */

typedef struct dsvk_file {
    int fd;
    uint64_t size, inode, device;
    int64_t mtime_s, mtime_ns;
    char *path; /* owned; for messages */
} dsvk_file;

/* Opens a regular file for reading, following links, never blocking (M18). */
dsvk_status dsvk_file_open(dsvk_file *file, const char *path, dsvk_error *err);
void dsvk_file_close(dsvk_file *file); /* accepts a zeroed one with fd 0 or -1 and path NULL */
/* Reads exactly n bytes at offset; short reads and EINTR are continued, errors name offset and errno (M22). */
dsvk_status dsvk_file_read(const dsvk_file *file, uint64_t offset, void *out, size_t n, dsvk_error *err);
/* IO "changed while loading" when size, time or inode differ from what they were at open (M20). */
dsvk_status dsvk_file_unchanged(const dsvk_file *file, dsvk_error *err);
/* The whole of a file up to `limit` bytes (LIMIT beyond), NUL-terminated, released with dsvk_free. */
dsvk_status dsvk_file_slurp(const char *path, uint64_t limit, char **text, size_t *n, dsvk_error *err);
bool dsvk_path_exists(const char *path);
/* folder + "/" + name into out; false when it does not fit. */
bool dsvk_path_join(char *out, size_t out_size, const char *folder, const char *name);
/* Shows the name of everything in a folder, in no order; nothing of one that cannot be read. */
void dsvk_folder_each(const char *path, void (*see)(const char *name, void *context), void *context);

/* ---- JSON (json.c): jansson behind limits ---- */

#define DSVK_JSON_DEPTH 64
/* Parses text [n]: depth at most 64 (LIMIT), duplicate keys, bad UTF-8, NUL, trailing bytes are FORMAT with the byte
 * offset. `what` begins the message ("config.json"). Release with json_decref. */
dsvk_status dsvk_json_parse(json_t **root, const char *text, size_t n, const char *what, dsvk_error *err);
/* Takes ownership of `root` (also on failure) and returns its text. */
dsvk_status dsvk_json_text(json_t *root, char **text, dsvk_error *err);

#endif
