/* What the tests of checkpoints share: files made byte by byte, a good checkpoint, and refusals, after each of which the good one still
 * opens in the same process. */
#ifndef HARNESS_CHECKPOINT_H
#define HARNESS_CHECKPOINT_H

#include "harness_files.h"
#include "safetensors.h"

/* A safetensors file: header length, header, data_size bytes 0, 1, 2, ... */
struct text container(const char *header, size_t header_size, size_t data_size);
void put_container(const char *path, const char *header, size_t data_size);

extern const char good_header[]; /* of four tensors of 41 bytes: odd sizes, an empty one, a scalar */
void put_good(const char *folder);

/* The checkpoint in the folder "good", made when it is first asked for, opens. */
void check_good(const char *file, int line);
#define CHECK_GOOD() check_good(__FILE__, __LINE__)
dsvk_checkpoint *opens_at(const char *folder, const char *file, int line); /* NULL where it does not, which is a failure */
#define OPENS(folder) opens_at(folder, __FILE__, __LINE__)

/* The folder "bad" is emptied, has a file of these bytes or of this header and so many bytes, or is as it is: it is refused so. */
void fresh_folder(void);
void refuses_folder(dsvk_status wanted, const char *words, const char *file, int line);
void refuses_bytes(const void *bytes, size_t n, dsvk_status wanted, const char *words, const char *file, int line);
void refuses_header(const char *header, size_t header_size, size_t data_size, dsvk_status wanted, const char *words, const char *file,
                    int line);
#define REFUSES_FOLDER(wanted, words) refuses_folder(wanted, words, __FILE__, __LINE__)
#define REFUSES_BYTES(bytes, n, wanted, words) refuses_bytes(bytes, n, wanted, words, __FILE__, __LINE__)
#define REFUSES(header, data_size, wanted, words) refuses_header(header, strlen(header), data_size, wanted, words, __FILE__, __LINE__)

#endif
