/* What the tests of cache ops share beyond harness.h: the rows and sequences of a step, RoPE pages, stored rows judged.
 */
#ifndef DSVK_TEST_HARNESS_ROWS_H
#define DSVK_TEST_HARNESS_ROWS_H

#include "harness.h"

/* Tokens start .. start + rows - 1 of one sequence. */
typedef struct test_span {
    uint32_t start, rows;
} test_span;

typedef struct test_step {
    uint32_t n, n_seqs;
    struct dsvk_row *rows; /* [n], tokens 0 */
    struct dsvk_seq *seqs; /* [n_seqs]; state and pages are the test's to fill in before it uploads them */
} test_step;
test_step test_make_step(test *t, const test_span *spans, uint32_t n_spans);

/* Address of a RoPE page table that holds ref_rope_angle at these positions and NaN everywhere else. */
dsvk_addr test_rope_table(test *t, uint32_t rope_dim, const uint32_t *positions, uint32_t n);
dsvk_addr test_rope_table_rows(test *t, uint32_t rope_dim, const test_step *step);

/* A stored row (key) against values before rounding, each known to `slack[i]`: f32 values must be that near; a code
 * must be the nearest to some value within the slack, so that it differs from the exact one only at a rounding
 * boundary; a scale byte likewise. Padding bytes must be zero. */
bool test_compare_row(test *t, const char *what, const dsvk_row_format *f, const void *store, uint32_t capacity,
                      uint32_t row, const double *line, const double *slack);
bool test_compare_key(test *t, const char *what, const dsvk_row_format *f, const void *store, uint32_t capacity,
                      uint32_t row, const double *line, const double *slack);

#endif
