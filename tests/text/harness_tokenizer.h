/* What the tokenizer tests share: counting, seeded random numbers, and a tokenizer.json of their own making: 256 byte
 * tokens, a few merges, the family's three patterns and added tokens, any part of which a test can replace. */
#ifndef HARNESS_TOKENIZER_H
#define HARNESS_TOKENIZER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

extern int harness_passed, harness_failed;
extern char harness_folder[];  /* made by harness_main, removed at the end */
extern char harness_path[256]; /* tokenizer.json in it */

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (condition) {                                                                                               \
            harness_passed++;                                                                                          \
        } else {                                                                                                       \
            harness_failed++;                                                                                          \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                     \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
        }                                                                                                              \
    } while (0)

void seed(const char *name); /* the random numbers that follow depend on the test's name alone; prints the seed */
uint32_t below(uint32_t n);
double cpu_seconds(void); /* of this thread */

/* ---- the file under test ---- */

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"

/* Parts of the file; NULL: what a good file has. */
typedef struct parts {
    const char *normalizer, *pre, *post, *decoder, *root_extra;
    const char *model_type, *model_extra;
    const char *vocab_extra; /* entries behind the usual ones, each with its leading comma */
    const char *merges;      /* the whole list */
    const char *merges_extra;
    const char *added; /* the whole list */
    const char *added_extra;
    bool no_byte_0x41; /* leave the token of this byte out */
} parts;

/* Tokens of the good file: 0-255 are the bytes; then these, made by the merges in harness_tokenizer.c. */
enum { AB = 256, SPACE_A, SPACE_AB, AA, AAAA, SPACES, CJK_2, CJK_3, BC, SPACE_ABC, BCB, FIRST_ADDED = 300 };

#define FILE_SIZE 65536
size_t make_file(char out[FILE_SIZE], const parts *p); /* the text of the file; returns its length */
void write_file(const char *text, size_t n);
dsvk_status open_text(dsvk_tokenizer **t, const char *text, size_t n, dsvk_error *err); /* writes and opens it */
dsvk_tokenizer *open_parts(const parts *p);                                             /* has to succeed */

/* Does text [n] come back from encode and decode? */
bool round_trip(const dsvk_tokenizer *t, const char *text, size_t n, uint32_t flags);

/* ---- running ---- */

typedef struct test {
    const char *name;
    void (*run)(void);
} test;
#define TEST(name)                                                                                                     \
    { #name, name }

/* Runs all of them and prints their names, times and the closing line; the program's exit code. */
int harness_main(const test *tests, size_t n);

#endif
