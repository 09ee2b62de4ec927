/* The quantisers: window rows of the cache (FQ8, spec 4.5) and index queries (Hadamard and FQ4, spec 4.7). */
#include "ops.h"
#include "quant_index.h"
#include "quant_row.h"
#include "row_format.h"

_Static_assert(sizeof(struct quant_row_args) <= 128, "push constants");
_Static_assert(sizeof(struct quant_index_args) <= 128, "push constants");

#define LINE 512u /* values a workgroup holds: 4 in each of 128 invocations (shaders/line.glsl) */

bool dsvk_row_format_check(dsvk_cmd *cmd, const char *op, const dsvk_row_format *f) {
    if (f->rope_dim % 16 == 0 && f->rope_dim < f->head_dim && f->head_dim <= LINE &&
        (f->head_dim - f->rope_dim) % 64 == 0)
        return true;
    dsvk_cmd_fail(
        cmd, DSVK_INVALID,
        "%s: rows of %u values, %u of them rotated; at most %u, the rotated a multiple of 16, the others of 64", op,
        f->head_dim, f->rope_dim, LINE);
    return false;
}

bool dsvk_key_format_check(dsvk_cmd *cmd, const char *op, const dsvk_row_format *f) {
    const bool power = f->index_dim != 0 && (f->index_dim & (f->index_dim - 1)) == 0;
    if (power && f->index_dim >= 32 && f->index_dim <= LINE && f->rope_dim % 4 == 0 && f->rope_dim <= f->index_dim)
        return true;
    dsvk_cmd_fail(
        cmd, DSVK_INVALID,
        "%s: index heads of %u values, %u of them rotated; a power of two from 32 to %u, the rotated a multiple of 4",
        op, f->index_dim, f->rope_dim, LINE);
    return false;
}

void dsvk_quant_row(dsvk_cmd *cmd, const dsvk_quant_row_params *p) {
    const dsvk_row_format *f = &p->format;
    const struct quant_row_args args = {.rows = p->rows,
                                        .table = p->rope,
                                        .kv = p->kv,
                                        .weight = p->weight,
                                        .store = p->store,
                                        .kv_stride = p->kv_stride,
                                        .capacity = p->capacity,
                                        .eps = p->eps};
    const uint32_t constants[] = {[QUANT_ROW_CONSTANT_NATIVE] = f->native,
                                  [QUANT_ROW_CONSTANT_HEAD_DIM] = f->head_dim,
                                  [QUANT_ROW_CONSTANT_ROPE_DIM] = f->rope_dim,
                                  [QUANT_ROW_CONSTANT_WORKGROUP] = dsvk_line_workgroup(cmd, f->head_dim, LINE / 4)};
    if (p->n == 0 || !dsvk_row_format_check(cmd, "quant_row", f))
        return;
    if (p->n > p->capacity || p->kv_stride % 4 != 0 || p->kv_stride < f->head_dim) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "quant_row: %u rows into a store of %u, %u values read at a stride of %u (a multiple of 4)", p->n,
                      p->capacity, f->head_dim, p->kv_stride);
        return;
    }
    dsvk_dispatch(cmd,
                  &(dsvk_dispatch_info){
                      .op = "quant_row",
                      .shader = "quant_row",
                      .constants = constants,
                      .n_constants = DSVK_COUNT(constants),
                      .args = &args,
                      .args_size = sizeof args,
                      .groups = {p->n, 1, 1},
                      .bytes = (uint64_t)p->n * (4 * f->head_dim + dsvk_row_code_bytes(f) + dsvk_row_scale_bytes(f)),
                      .flops = (uint64_t)p->n * f->head_dim * 8,
                  });
}

void dsvk_quant_index(dsvk_cmd *cmd, const dsvk_quant_index_params *p) {
    const dsvk_row_format *f = &p->format;
    const struct quant_index_args args = {
        .rows = p->rows, .table = p->rope, .iq = p->iq, .n_heads = p->n_heads, .iq_stride = p->iq_stride};
    const uint64_t values = (uint64_t)p->n_heads * f->index_dim;
    const uint32_t lanes = dsvk_line_workgroup(cmd, values < LINE ? (uint32_t)values : LINE, LINE / 4);
    const uint32_t constants[] = {[QUANT_INDEX_CONSTANT_NATIVE] = f->native,
                                  [QUANT_INDEX_CONSTANT_INDEX_DIM] = f->index_dim,
                                  [QUANT_INDEX_CONSTANT_ROPE_DIM] = f->rope_dim,
                                  [QUANT_INDEX_CONSTANT_BYTES] = f->byte_queries,
                                  [QUANT_INDEX_CONSTANT_WORKGROUP] = lanes};
    if (p->n == 0 || !dsvk_key_format_check(cmd, "quant_index", f))
        return;
    if (p->n_heads == 0 || p->iq_stride % 4 != 0 || p->iq_stride < values) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "quant_index: rows %u values apart hold %u heads of %u; a stride is a multiple of 4",
                      p->iq_stride, p->n_heads, f->index_dim);
        return;
    }
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "quant_index",
                           .shader = "quant_index",
                           .constants = constants,
                           .n_constants = DSVK_COUNT(constants),
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = {(uint32_t)dsvk_ceil_div(values, 4 * lanes), p->n, 1},
                           .bytes = p->n * values * 8,
                           .flops = p->n * values * 12,
                       });
}
