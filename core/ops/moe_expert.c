/* Routed experts (spec 4.10), up and down: the kernels of matmul over the tiles of pairs that moe_sort made. */
#include "matmul_rows.h"

#include "moe_expert.h"

_Static_assert(sizeof(struct moe_expert_args) <= 128, "push constants");

static bool shapes_fit(dsvk_cmd *cmd, const dsvk_moe_expert_params *p, uint32_t columns) {
    if (!dsvk_matmul_check(cmd, "moe_expert", &p->w))
        return false;
    if (p->k == 0 || p->n_experts == 0 || !dsvk_moe_tile_fits(dsvk_cmd_device(cmd), p->n, p->tile)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_expert: %u experts, %u of them per row, tiles of %u pairs, which no kernel has for "
                      "%u rows", p->n_experts, p->k, p->tile, p->n);
        return false;
    }
    if (p->up && p->w.n_out % DSVK_TILE_ROWS != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_expert: swiglu over %u rows; w1 and w3 together are a multiple of %u",
                      p->w.n_out, DSVK_TILE_ROWS);
        return false;
    }
    const uint64_t out_needs = p->up ? columns : (uint64_t)p->k * columns;
    if (p->x_stride % 4 != 0 || p->x_stride < p->w.n_in || p->out_stride < out_needs) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "moe_expert: x stride %u (a multiple of 4, at least %u) and out stride %u (at least %llu)", p->x_stride,
                      p->w.n_in, p->out_stride, (unsigned long long)out_needs);
        return false;
    }
    const uint64_t out_rows = p->up ? (uint64_t)p->n * p->k : p->n;
    if ((uint64_t)p->n * p->k * p->x_stride >= 1ull << 31 || out_rows * p->out_stride >= 1ull << 31) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "moe_expert: %u rows of %u experts, %u and %u values; a kernel indexes less than 2^31",
                      p->n, p->k, p->x_stride, p->out_stride);
        return false;
    }
    return true;
}

void dsvk_moe_expert(dsvk_cmd *cmd, const dsvk_moe_expert_params *p) {
    const uint32_t columns = p->up ? p->w.n_out / 2 : p->w.n_out;
    const uint32_t tiles = (uint32_t)dsvk_ceil_div(p->w.n_out, DSVK_TILE_ROWS);
    const uint32_t epilogue = p->up ? EPILOGUE_ROUTED_SWIGLU : EPILOGUE_STORE;
    dsvk_kernel kernel;
    if (p->n == 0 || !shapes_fit(cmd, p, columns))
        return;
    if (!dsvk_chunk_kernel(cmd, NULL, &p->w, p->n, p->tile, tiles, epilogue, &kernel))
        dsvk_matmul_kernel(cmd, &p->w, p->tile, epilogue, &kernel);
    const uint64_t pairs = (uint64_t)p->n * p->k, used = pairs < p->n_experts ? pairs : p->n_experts;
    const struct moe_expert_args args = { .experts = p->experts,
                                          .pairs = p->pairs,
                                          .tiles = p->tiles,
                                          .weights = p->weights,
                                          .x = p->x,
                                          .result = p->out,
                                          .offset = p->offset,
                                          .scales = p->w.scales,
                                          .n_pairs = (uint32_t)pairs,
                                          .k = p->k,
                                          .n_experts = p->n_experts,
                                          .n_out = columns,
                                          .words = dsvk_matrix_words(p->w.type, p->w.n_in),
                                          .x_stride = p->x_stride,
                                          .out_stride = p->out_stride,
                                          .limit = p->limit };
    /* Which experts are chosen only the device knows: the traffic is that of `used` different ones at most. */
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = p->up ? "moe_expert_up" : "moe_expert_down",
                           .shader = kernel.moe_expert,
                           .constants = kernel.constants,
                           .n_constants = kernel.n_constants,
                           .subgroup = kernel.subgroup,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { dsvk_moe_max_tiles(p->n, p->k, p->n_experts, p->tile), tiles / kernel.tiles, 1 },
                           .bytes = used * dsvk_matrix_bytes(p->w.type, p->w.n_out, p->w.n_in) +
                                    4 * pairs * ((uint64_t)p->w.n_in + columns),
                           .flops = 2 * pairs * p->w.n_out * p->w.n_in,
                       });
}
