/* What a file that is not what it should be looks like, so that the message can say so (faults M27). */
#ifndef DSVK_LOOKS_LIKE_H
#define DSVK_LOOKS_LIKE_H

#include <stddef.h>

#define DSVK_LOOKS_LIKE_BYTES 512 /* from the beginning of the file; tar keeps its mark at 257 */

/* "a zip archive (a PyTorch checkpoint?)", "a Git LFS pointer, not the file itself", ... or NULL. */
const char *dsvk_looks_like(const void *head, size_t n);
const char *dsvk_file_looks_like(const char *path); /* NULL also when it cannot be read */

#endif
