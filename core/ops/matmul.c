/* Weights times activations (spec 3.8): any weight type, optional output groups, optional SwiGLU of interleaved w1 and w3.
 * Below DSVK_CHUNK rows a weight word is shared between 1, 4 or 8 of them, and a row's result is the same in all of these
 * variants; steps of more rows use the kernels of matmul_chunk.c, whose sums run in another order. */
#include <string.h>

#include "matmul_rows.h"

_Static_assert(sizeof(struct matmul_args) <= 128, "push constants");

uint32_t dsvk_matmul_rows(const dsvk_device *device, uint32_t n) {
    return n == 1 ? 1 : n <= 4 || dsvk_device_get_limits(device)->few_registers ? 4 : 8;
}

bool dsvk_matmul_subgroup_8(dsvk_cmd *cmd) {
    const dsvk_device_limits *limits = dsvk_device_get_limits(dsvk_cmd_device(cmd));
    return limits->subgroup_min == 8 && limits->subgroup_max == 8;
}

void dsvk_matmul_constants(dsvk_cmd *cmd, const dsvk_matrix *w, const dsvk_matrix *w_b, uint32_t line, uint32_t rows, uint32_t epilogue,
                           uint32_t *constants) {
    constants[MATMUL_TYPE] = w->type;
    constants[MATMUL_ROWS] = rows;
    constants[MATMUL_EPILOGUE] = epilogue;
    constants[MATMUL_TYPE_B] = w_b ? w_b->type : 0;
    constants[MATMUL_COLUMNS] = w->columns;
    constants[MATMUL_SUBGROUP_8] = dsvk_matmul_subgroup_8(cmd);
    constants[MATMUL_WORKGROUP] = line ? dsvk_workgroup(cmd, (uint32_t)dsvk_align(line, 128) / 4, 32, 256) : dsvk_row_workgroup(cmd);
}

void dsvk_matmul_kernel(dsvk_cmd *cmd, const dsvk_matrix *w, uint32_t rows, uint32_t epilogue, dsvk_kernel *kernel) {
    *kernel = (dsvk_kernel){ .matmul = "matmul", .moe_expert = "moe_expert", .n_constants = MATMUL_CONSTANTS, .rows = rows,
                             .tiles = 1 };
    dsvk_matmul_constants(cmd, w, NULL, 0, rows, epilogue, kernel->constants);
}

bool dsvk_matmul_check(dsvk_cmd *cmd, const char *op, const dsvk_matrix *w) {
    if (w->n_out > 0 && w->n_in > 0 && w->n_in % 32 == 0 && w->n_out <= (1u << 21) && w->n_in <= (1u << 20) &&
        (unsigned)w->type <= DSVK_TYPE_FP4)
        return true;
    dsvk_cmd_fail(cmd, DSVK_INVALID, "%s: weight [%u, %u] of type %d; inputs must be a multiple of 32", op, w->n_out,
                  w->n_in, (int)w->type);
    return false;
}

bool dsvk_matmul_check_few(dsvk_cmd *cmd, const char *op, const dsvk_matrix *w, uint32_t n) {
    if (!dsvk_matmul_check(cmd, op, w))
        return false;
    if (n <= DSVK_FEW_ROWS && w->scales < 1ull << 32)
        return true;
    dsvk_cmd_fail(cmd, DSVK_INVALID, "%s: %u rows (at most %u) of a weight with scales at byte %llu (below 2^32)", op, n,
                  DSVK_FEW_ROWS, (unsigned long long)w->scales);
    return false;
}

uint64_t dsvk_matmul_bytes(const dsvk_matrix *w, uint32_t n) {
    return dsvk_matrix_bytes(w->type, w->n_out, w->n_in) + 4ull * n * (w->n_in + w->n_out);
}

uint64_t dsvk_matmul_flops(const dsvk_matrix *w, uint32_t n) { return 2ull * n * w->n_out * w->n_in; }

uint32_t dsvk_float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint32_t count_groups(const dsvk_matmul_params *p) {
    return p->group_rows > 0 ? (uint32_t)dsvk_ceil_div(p->w.n_out, p->group_rows) : 1;
}

static bool shapes_fit(dsvk_cmd *cmd, const dsvk_matmul_params *p) {
    const uint32_t groups = count_groups(p);
    const uint32_t columns = p->swiglu ? p->w.n_out / 2 : p->w.n_out;
    if (!dsvk_matmul_check(cmd, "matmul", &p->w))
        return false;
    if (p->group_rows % DSVK_TILE_ROWS != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "matmul: groups of %u rows; a group is a multiple of %u rows", p->group_rows,
                      DSVK_TILE_ROWS);
        return false;
    }
    if (p->swiglu && p->w.n_out % DSVK_TILE_ROWS != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "matmul: swiglu over %u rows; w1 and w3 together are a multiple of %u", p->w.n_out,
                      DSVK_TILE_ROWS);
        return false;
    }
    if (p->x_stride % 4 != 0 || p->x_stride < (uint64_t)groups * p->w.n_in || p->out_stride < columns) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "matmul: x stride %u (a multiple of 4, at least %u groups of %u) and out stride %u (at least %u)",
                      p->x_stride, groups, p->w.n_in, p->out_stride, columns);
        return false;
    }
    if ((uint64_t)p->n * p->x_stride >= 1ull << 31 || (uint64_t)p->n * p->out_stride >= 1ull << 31) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "matmul: %u rows of %u and %u values; a kernel indexes less than 2^31", p->n,
                      p->x_stride, p->out_stride);
        return false;
    }
    return true;
}

void dsvk_matmul(dsvk_cmd *cmd, const dsvk_matmul_params *p) {
    const uint32_t words = dsvk_matrix_words(p->w.type, p->w.n_in), tiles = (uint32_t)dsvk_ceil_div(p->w.n_out, DSVK_TILE_ROWS);
    const uint32_t columns = p->swiglu ? p->w.n_out / 2 : p->w.n_out, epilogue = p->swiglu ? EPILOGUE_SWIGLU : EPILOGUE_STORE;
    const uint32_t group_tiles = p->group_rows / DSVK_TILE_ROWS;
    if (p->n == 0 || !shapes_fit(cmd, p))
        return;
    dsvk_kernel kernel;
    if (!dsvk_chunk_kernel(cmd, p->variant, &p->w, p->step_rows ? p->step_rows : p->n, 0, tiles | group_tiles, epilogue, &kernel))
        dsvk_matmul_kernel(cmd, &p->w, dsvk_matmul_rows(dsvk_cmd_device(cmd), p->n), epilogue, &kernel);
    const struct matmul_args args = { .w = p->w.addr,
                                      .scales = p->w.addr + p->w.scales,
                                      .x = p->x,
                                      .result = p->out,
                                      .n = p->n,
                                      .n_out = columns,
                                      .words = words,
                                      .x_stride = p->x_stride,
                                      .out_stride = p->out_stride,
                                      .group_tiles = group_tiles,
                                      .group_quads = p->w.n_in / 4,
                                      .limit = p->limit };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "matmul",
                           .shader = kernel.matmul,
                           .constants = kernel.constants,
                           .n_constants = kernel.n_constants,
                           .subgroup = kernel.subgroup,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->n, kernel.rows), tiles / kernel.tiles, 1 },
                           .bytes = dsvk_matrix_bytes(p->w.type, p->w.n_out, p->w.n_in) +
                                    4ull * p->n * ((uint64_t)count_groups(p) * p->w.n_in + columns),
                           .flops = 2ull * p->n * p->w.n_out * p->w.n_in,
                       });
}
