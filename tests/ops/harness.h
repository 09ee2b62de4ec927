/* What every op test shares: one device, buffers that live as long as a case, random numbers, comparison, counting.
 *
 * A test program is
 *     test t; test_begin(&t, "rms_norm", argc, argv);
 *     for every shape { test_case(&t, "n=%u dim=%u", n, dim); ...; test_case_end(&t); }
 *     return test_end(&t);
 * Outputs are poisoned with NaN before the kernel runs, and the bytes behind them must stay untouched. Everything is
 * seeded from the test's name, which is printed. A test whose device cannot be opened fails: it says why.
 * Arguments: --validation (Khronos validation on, and no message is tolerated), --bench, --device NAME,
 * --matmul VARIANT. */
#ifndef DSVK_TEST_HARNESS_H
#define DSVK_TEST_HARNESS_H

#include "ops.h"
#include "ref.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_MAX_BUFFERS 128

typedef struct test {
    const char *name;
    dsvk_device *device;
    dsvk_cmd *cmd;      /* always in the begun state between runs */
    bool validation, bench;
    uint64_t random;    /* state of the generator */
    uint32_t passed, failed;
    char variant[DSVK_MATMUL_NAME]; /* of test_matmul_variant */
    char shape[256];    /* of the current case, for failing lines */
    dsvk_buffer buffers[TEST_MAX_BUFFERS];
    void *blocks[TEST_MAX_BUFFERS]; /* host memory of the case */
    uint32_t n_buffers, n_blocks;
} test;

void test_begin(test *t, const char *name, int argc, char **argv); /* exits the program when there is no device */
int test_end(test *t); /* prints "N passed, M failed"; the program's exit status */

/* From here on matrices of many rows are multiplied by this device's variant i; false when it has no more of them. */
bool test_matmul_variant(test *t, uint32_t i);
bool test_matmul_columns(test *t); /* by the one with weights in columns; false when it has none */

/* Names the shape of what follows and rewinds the random numbers to a seed made from it; ends the previous case. */
void test_case(test *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void test_case_end(test *t); /* destroys the case's buffers and memory */

/* ---- random numbers ---- */
uint32_t test_random(test *t);                         /* 32 bits */
uint32_t test_below(test *t, uint32_t limit);          /* 0 .. limit - 1 */
float test_uniform(test *t);                           /* [0, 1) */
float test_normal(test *t);                            /* mean 0, variance 1 */

/* ---- memory of the case ---- */
void *test_alloc(test *t, size_t bytes);               /* zeroed */
float *test_normals(test *t, size_t n, float scale);   /* n values N(0, scale^2) */
dsvk_buffer test_upload(test *t, const void *data, size_t bytes);
dsvk_buffer test_output(test *t, size_t bytes);        /* every word 0xffffffff: a NaN, an impossible index */
void test_poison(test *t, const dsvk_buffer *output);  /* again */
void *test_download(test *t, const dsvk_buffer *output); /* all of it; checks that nothing was written behind its end */

/* ---- weights ---- */
/* Random codes (and scales) of every finite kind the format has, decoded values of magnitude about `scale`. */
ref_matrix test_matrix(test *t, dsvk_weight_type type, uint32_t n_out, uint32_t n_in, float scale);
/* The tiled blob of ops.h on the device, in the layout of its matmul variant. */
dsvk_matrix test_upload_matrix(test *t, const ref_matrix *m);

/* ---- running ---- */
bool test_run(test *t);                                /* submits t->cmd, waits, begins anew; an error counts as failed */
/* The recording must fail with DSVK_INVALID and a sentence that contains `part`. */
bool test_run_fails(test *t, const char *part);
/* With --bench: best of several runs of what `record` records, per op: time, GB/s, GFLOP/s. */
void test_bench(test *t, void (*record)(dsvk_cmd *cmd, void *context), void *context);

/* ---- judging: each call counts one passed or failed ---- */
bool test_check(test *t, bool ok, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* NaN and infinity in place first, then |got - want| <= absolute + relative * |want|. */
bool test_compare(test *t, const char *what, const float *got, const float *want, size_t n, float relative, float absolute);
/* The same against |got - want| <= tolerance * magnitude[i]: for sums, magnitude is the sum of |terms|. */
bool test_compare_sums(test *t, const char *what, const float *got, const float *want, const float *magnitude, size_t n,
                       float tolerance);
bool test_compare_words(test *t, const char *what, const void *got, const void *want, size_t n); /* exact, 32-bit */
double test_cosine(const float *a, const float *b, size_t n);

#endif
