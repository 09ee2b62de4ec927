/* Marks of the files people mistake for model files: what torch.save wrote, archives, and what a failed download
 * leaves. */
#include "looks_like.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "common.h"

struct mark {
    size_t offset, n;
    const char *bytes, *name;
};

static const struct mark marks[] = {
    { 0, 4, "PK\3\4", "a zip archive (a PyTorch checkpoint?)" },
    { 0, 4, "PK\5\6", "an empty zip archive" },
    { 0, 2, "\x1f\x8b", "a gzip file" },
    { 0, 6, "\xfd" "7zXZ\0", "an xz file" },
    { 0, 4, "\x28\xb5\x2f\xfd", "a zstd file" },
    { 0, 3, "BZh", "a bzip2 file" },
    { 0, 6, "7z\xbc\xaf\x27\x1c", "a 7z archive" },
    { 0, 4, "GGUF", "a GGUF file" },
    { 0, 8, "\x89HDF\r\n\x1a\n", "an HDF5 file" },
    { 0, 6, "\x93NUMPY", "a numpy array" },
    { 0, 4, "\x7f" "ELF", "a program" },
    { 0, 5, "%PDF-", "a PDF document" },
    { 257, 5, "ustar", "a tar archive" },
};

/* Pickle protocols 2 to 5: PROTO, version, then an opcode that begins a real one. */
static bool is_pickle(const unsigned char *p, size_t n) {
    return n >= 3 && p[0] == 0x80 && p[1] >= 2 && p[1] <= 5 && p[2] != 0 &&
           strchr("}](c\x8a\x95\x8c\x88\x89NKJMXUq", p[2]);
}

static bool begins(const char *text, size_t n, const char *with) {
    size_t length = strlen(with);
    return n >= length && strncasecmp(text, with, length) == 0;
}

const char *dsvk_looks_like(const void *head, size_t n) {
    const char *text = head;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        const struct mark *m = &marks[i];
        if (n >= m->offset + m->n && memcmp(text + m->offset, m->bytes, m->n) == 0)
            return m->name;
    }
    if (is_pickle(head, n))
        return "a Python pickle (a PyTorch checkpoint?)";
    if (begins(text, n, "version https://git-lfs"))
        return "a Git LFS pointer, not the file itself (git lfs pull fetches it)";
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3, n -= 3;
    while (n > 0 && strchr(" \t\r\n", *text) && *text)
        text++, n--;
    if (begins(text, n, "<!doctype") || begins(text, n, "<html") || begins(text, n, "<head"))
        return "an HTML page (a failed download?)";
    if (begins(text, n, "<?xml") || begins(text, n, "<error"))
        return "an XML document (a failed download?)";
    return NULL;
}

const char *dsvk_file_looks_like(const char *path) {
    char head[DSVK_LOOKS_LIKE_BYTES];
    dsvk_file file;
    const char *name = NULL;
    if (dsvk_file_open(&file, path, NULL) != DSVK_OK)
        return NULL;
    size_t n = file.size < sizeof head ? (size_t)file.size : sizeof head;
    if (dsvk_file_read(&file, 0, head, n, NULL) == DSVK_OK)
        name = dsvk_looks_like(head, n);
    dsvk_file_close(&file);
    return name;
}
