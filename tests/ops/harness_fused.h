/* What the tests of the fused ops share. A fused op must give, bit for bit, what the single ops it stands for give (each of which
 * has a test against its reference), for every number of rows, twice in a row, and leave its counters at 0. */
#ifndef DSVK_TEST_HARNESS_FUSED_H
#define DSVK_TEST_HARNESS_FUSED_H

#include "harness_rows.h"
#include "layer_table.h"

/* One row, groups of 4 with and without rest, groups of 8 with and without rest, the most. */
static const uint32_t FUSED_ROWS[] = { 1, 2, 4, 5, 8, 13, DSVK_FEW_ROWS };
/* Pairs of weight types that checkpoints have: FP8 with BF16, FP4 with FP8, converted ones. */
static const dsvk_weight_type FUSED_TYPES[][2] = {
    { DSVK_TYPE_FP8, DSVK_TYPE_BF16 }, { DSVK_TYPE_FP4, DSVK_TYPE_FP8 }, { DSVK_TYPE_F32, DSVK_TYPE_FP4 }
};

#define FUSED_MAX_OUTPUTS 16

/* Outputs of the single ops beside those of the fused one. */
typedef struct fused {
    test *t;
    dsvk_buffer counters;
    bool in_place; /* some output is an input too */
    const char *names[FUSED_MAX_OUTPUTS];
    dsvk_buffer want[FUSED_MAX_OUTPUTS], got[FUSED_MAX_OUTPUTS];
    uint32_t n_outputs;
} fused;

fused fused_begin(test *t);
/* A pair of outputs of `bytes`; the addresses for the single ops and for the fused one. */
void fused_output(fused *f, const char *name, size_t bytes, dsvk_addr *want, dsvk_addr *got);
/* The same for what both read and change: starts as `data`. */
void fused_in_place(fused *f, const char *name, const void *data, size_t bytes, dsvk_addr *want, dsvk_addr *got);
dsvk_matrix fused_matrix(test *t, dsvk_weight_type type, uint32_t n_out, uint32_t n_in);
dsvk_addr fused_normals(test *t, size_t n, float scale);
/* Every output and the counters. */
void fused_compare(fused *f);
/* The recording so far holds the single ops; records `op`, runs, compares everything, and runs `op` once more: on
 * outputs poisoned anew, with the same result, where none is changed in place. */
void fused_judge(fused *f, void (*op)(dsvk_cmd *cmd, const void *params), const void *params);

#endif
