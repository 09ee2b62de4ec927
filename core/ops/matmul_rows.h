/* What matmul.c and moe_expert.c share: the variant of shaders/matmul.glsl and the check of a weight's shape. */
#ifndef DSVK_MATMUL_ROWS_H
#define DSVK_MATMUL_ROWS_H

#include "ops.h"

#include "matmul.h"

uint32_t dsvk_matmul_rows(uint32_t n); /* rows that share a read of the weights when there are n */
void dsvk_matmul_constants(dsvk_cmd *cmd, dsvk_weight_type type, uint32_t rows, uint32_t epilogue,
                           uint32_t constants[MATMUL_CONSTANTS]);
bool dsvk_matmul_check(dsvk_cmd *cmd, const char *op, const dsvk_matrix *w);

#endif
