/* Grouped output projection and the rings (spec 4.9, 4.12 step 5), in one dispatch for small steps. */
#include "matmul_rows.h"

#include "wo_a.h"

_Static_assert(sizeof(struct wo_a_args) <= 128, "push constants");

void dsvk_wo_a(dsvk_cmd *cmd, const dsvk_wo_a_params *p) {
    const uint32_t codes = dsvk_row_code_bytes(&p->format), scales = dsvk_row_scale_bytes(&p->format);
    if (p->n == 0 || !dsvk_matmul_check_few(cmd, "wo_a", &p->w, p->n))
        return;
    if (p->group_rows == 0 || p->group_rows % DSVK_TILE_ROWS != 0 || p->w.n_out % p->group_rows != 0 || p->window_capacity == 0 ||
        (p->width > 0 && (p->ring_capacity == 0 || p->ks_stride < 2 * (p->width + p->index_width))) ||
        (p->width == 0 && p->index_width > 0)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "wo_a: %u outputs in groups of %u (a multiple of %u), a window of %u slots, K and S of %u and %u values at a "
                      "stride of %u into %u slots",
                      p->w.n_out, p->group_rows, DSVK_TILE_ROWS, p->window_capacity, p->width, p->index_width, p->ks_stride,
                      p->ring_capacity);
        return;
    }
    const uint32_t rows = dsvk_matmul_rows(dsvk_cmd_device(cmd), p->n), rings = 2u + (p->width > 0) + (p->index_width > 0);
    uint32_t constants[WO_A_CONSTANTS];
    dsvk_matmul_constants(cmd, &p->w, NULL, 0, rows, EPILOGUE_STORE, constants);
    constants[WO_A_CONSTANT_N_IN] = p->w.n_in;
    constants[WO_A_CONSTANT_GROUP_TILES] = p->group_rows / DSVK_TILE_ROWS;
    constants[WO_A_CONSTANT_CODE_BYTES] = codes;
    constants[WO_A_CONSTANT_SCALE_BYTES] = scales;
    constants[WO_A_CONSTANT_WINDOW_CAPACITY] = p->window_capacity;
    constants[WO_A_CONSTANT_KS_BYTES] = 8 * p->width;
    constants[WO_A_CONSTANT_INDEX_KS_BYTES] = 8 * p->index_width;
    constants[WO_A_CONSTANT_KS_CAPACITY] = p->width > 0 ? p->ring_capacity : 1;
    const struct wo_a_args args = { .rows = p->rows,
                                    .seqs = p->seqs,
                                    .x = p->x,
                                    .w = p->w.addr,
                                    .result = p->out,
                                    .store = p->store,
                                    .ks = p->ks,
                                    .scales = (uint32_t)p->w.scales,
                                    .n = p->n,
                                    .n_out = p->w.n_out,
                                    .ks_stride = p->ks_stride,
                                    .window_offset = p->window_offset,
                                    .ring_offset = p->ring_offset,
                                    .index_ring_offset = p->index_ring_offset };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "wo_a",
                           .shader = "wo_a",
                           .constants = constants,
                           .n_constants = WO_A_CONSTANTS,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->n, rows), rows * rings + p->w.n_out / DSVK_TILE_ROWS, 1 },
                           .bytes = dsvk_matrix_bytes(p->w.type, p->w.n_out, p->w.n_in) +
                                    4ull * p->n * ((uint64_t)(p->w.n_out / p->group_rows) * p->w.n_in + p->w.n_out) +
                                    2ull * p->n * (codes + scales + 8ull * (p->width + p->index_width)),
                           .flops = dsvk_matmul_flops(&p->w, p->n),
                       });
}
