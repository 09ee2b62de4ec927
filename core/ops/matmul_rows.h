/* What matmul.c, moe_expert.c and the fused ops share: the variant of shaders/matmul.glsl and the check of a weight's shape. */
#ifndef DSVK_MATMUL_ROWS_H
#define DSVK_MATMUL_ROWS_H

#include "ops.h"

#include "matmul.h"

uint32_t dsvk_matmul_rows(uint32_t n); /* rows that share a read of the weights when there are n */
void dsvk_matmul_constants(dsvk_cmd *cmd, dsvk_weight_type type, uint32_t rows, uint32_t epilogue,
                           uint32_t constants[MATMUL_CONSTANTS]);
bool dsvk_matmul_check(dsvk_cmd *cmd, const char *op, const dsvk_matrix *w);
/* For a fused op of n rows: shape as above, rows, and a place of the scales that fits into 32 bits. */
bool dsvk_matmul_check_few(dsvk_cmd *cmd, const char *op, const dsvk_matrix *w, uint32_t n);
/* Bytes and flops of n rows times a matrix, for profiles: weights once, x and result. */
uint64_t dsvk_matmul_bytes(const dsvk_matrix *w, uint32_t n);
uint64_t dsvk_matmul_flops(const dsvk_matrix *w, uint32_t n);
uint32_t dsvk_float_bits(float x); /* as a specialization constant */

#endif
