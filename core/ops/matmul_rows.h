/* What matmul.c, moe_expert.c and the fused ops share: the choice of a kernel and the check of a weight's shape. */
#ifndef DSVK_MATMUL_ROWS_H
#define DSVK_MATMUL_ROWS_H

#include "ops.h"

#include "chunk.h"
#include "matmul.h"

/* A kernel of both ops, specialized. */
typedef struct dsvk_kernel {
    const char *matmul, *moe_expert; /* its shader in either op */
    uint32_t constants[CHUNK_COOPMAT_CONSTANTS], n_constants;
    uint32_t subgroup;               /* invocations it needs in a subgroup; 0: any number */
    uint32_t rows, tiles;            /* rows of x and weight tiles per workgroup */
} dsvk_kernel;

uint32_t dsvk_matmul_rows(const dsvk_device *device, uint32_t n); /* rows that share a read of the weights when there are n */
/* The first MATMUL_CONSTANTS of every kernel made of shaders/matmul.glsl. w_b: the second matrix of the dispatch, or NULL; line: values of
 * a line that a workgroup does, 4 in each invocation (0: none). */
void dsvk_matmul_constants(dsvk_cmd *cmd, const dsvk_matrix *w, const dsvk_matrix *w_b, uint32_t line, uint32_t rows, uint32_t epilogue,
                           uint32_t *constants);
void dsvk_matmul_kernel(dsvk_cmd *cmd, const dsvk_matrix *w, uint32_t rows, uint32_t epilogue, dsvk_kernel *kernel);
/* The kernel for a step of n rows, by a variant (NULL: the device's), if it is one for many: of `rows` rows of x per workgroup (0: its own choice), whose
 * number of tiles divides `tiles`. False: the kernels for few rows are meant. */
bool dsvk_chunk_kernel(dsvk_cmd *cmd, const dsvk_matmul_variant *way, const dsvk_matrix *w, uint32_t n, uint32_t rows,
                       uint32_t tiles, uint32_t epilogue, dsvk_kernel *kernel);
bool dsvk_matmul_check(dsvk_cmd *cmd, const char *op, const dsvk_matrix *w);
/* For a fused op of n rows: shape as above, rows, and a place of the scales that fits into 32 bits. */
bool dsvk_matmul_check_few(dsvk_cmd *cmd, const char *op, const dsvk_matrix *w, uint32_t n);
/* Bytes and flops of n rows times a matrix, for profiles: weights once, x and result. */
uint64_t dsvk_matmul_bytes(const dsvk_matrix *w, uint32_t n);
uint64_t dsvk_matmul_flops(const dsvk_matrix *w, uint32_t n);
bool dsvk_matmul_subgroup_8(dsvk_cmd *cmd); /* every subgroup has exactly 8 invocations */
uint32_t dsvk_float_bits(float x); /* as a specialization constant */

#endif
