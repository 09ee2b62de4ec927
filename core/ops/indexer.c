/* Index scores, spec 4.7. See shaders/indexer.comp. */
#include "ops.h"

#include "indexer.h"

_Static_assert(sizeof(struct indexer_args) <= 128, "push constants");

/* Slices of the heads fill a GPU where keys are few; a software device, which has subgroups of 8, has as many workgroups as it
 * wants, and takes too long to compile a kernel for many products at once. */
static uint32_t slices_of(dsvk_cmd *cmd) {
    return dsvk_device_get_limits(dsvk_cmd_device(cmd))->subgroup_max > 8 ? INDEXER_SLICES : 1;
}

bool dsvk_byte_queries(const dsvk_device *device, const dsvk_row_format *f) {
    return f->native && f->index_dim <= DSVK_BYTE_QUERY_DIM && dsvk_device_byte_products(device);
}

uint32_t dsvk_indexer_keys(dsvk_cmd *cmd) { return INDEXER_WORKGROUP / slices_of(cmd); }

/* Rows of a workgroup, of which most begin in one sequence. */
static uint32_t rows_of(const dsvk_indexer_params *p, uint32_t slices) {
    uint32_t rows = slices == 1 ? INDEXER_MAX_ROWS : INDEXER_ROWS;
    while (rows > INDEXER_ROWS && (rows * p->n_heads > INDEXER_MAX_PRODUCTS / 2 || p->n < p->n_seqs * rows))
        rows /= 2;
    return p->n < p->n_seqs * rows ? 1 : rows;
}

static bool few_registers(dsvk_cmd *cmd) { return dsvk_device_get_limits(dsvk_cmd_device(cmd))->few_registers; }

/* Whether the kernel on matrix units is meant: as for matrices unless the plain one is faster, for rows that share their keys, and not
 * where the keys' matrices, spread over few invocations, leave too few registers (DG2). */
static bool by_matrices(dsvk_cmd *cmd, const dsvk_indexer_params *p, dsvk_matmul_variant *variant) {
    *variant = p->variant ? *p->variant : dsvk_device_matmul(dsvk_cmd_device(cmd));
    if (few_registers(cmd) && dsvk_matmul_subgroup(dsvk_cmd_device(cmd)) < 16)
        return false;
    return variant->kind == DSVK_MATMUL_COOPMAT && !variant->plain_indexer && p->format.byte_queries &&
           p->n >= p->n_seqs * INDEXER_MATRIX_ROWS;
}

void dsvk_indexer(dsvk_cmd *cmd, const dsvk_indexer_params *p) {
    const dsvk_row_format *f = &p->format;
    if (f->index_dim == 0 || f->index_dim % 32 != 0 || p->n_heads == 0 || p->iq_stride < p->n_heads * f->index_dim ||
        p->iq_stride % 4 != 0 || p->weights_stride < p->n_heads || p->n > 65535) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "indexer: %u rows, %u heads of %u values in queries of stride %u and weights of stride %u; at most "
                      "65535 rows, heads are multiples of 32, the queries' stride of 4",
                      p->n, p->n_heads, f->index_dim, p->iq_stride, p->weights_stride);
        return;
    }
    if (f->byte_queries && (!f->native || f->index_dim > DSVK_BYTE_QUERY_DIM)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "indexer: byte queries of %u values with %s keys; they have at most %u, and native keys",
                      f->index_dim, f->native ? "native" : "f32", DSVK_BYTE_QUERY_DIM);
        return;
    }
    if (p->max_visible > p->scores_stride || p->page_tokens < 4 || p->page_tokens % 4 != 0 || p->page_offset % 16 != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "indexer: %u keys visible in scores of stride %u, pages of %u tokens with keys at byte %u; pages hold a "
                      "multiple of 4 tokens, keys start at a multiple of 16",
                      p->max_visible, p->scores_stride, p->page_tokens, p->page_offset);
        return;
    }
    const struct indexer_args args = {
        .rows = p->rows,
        .seqs = p->seqs,
        .iq = p->iq,
        .weights = p->weights,
        .scores = p->scores,
        .bins = p->bins,
        .n = p->n,
        .n_heads = p->n_heads,
        .iq_stride = p->iq_stride,
        .weights_stride = p->weights_stride,
        .scores_stride = p->scores_stride,
        .page_tokens = p->page_tokens,
        .page_offset = p->page_offset,
        .k = p->k,
        .scale = p->scale,
    };
    dsvk_matmul_variant variant;
    const bool matrices = by_matrices(cmd, p, &variant);
    const uint32_t slices = slices_of(cmd), subgroup = matrices ? dsvk_matmul_subgroup(dsvk_cmd_device(cmd)) : 0;
    const uint32_t tile = matrices ? INDEXER_MATRIX_ROWS : rows_of(p, slices);
    const uint32_t keys_each = matrices ? INDEXER_MATRIX_KEYS(subgroup, f->index_dim) : dsvk_indexer_keys(cmd);
    uint32_t heads = INDEXER_MAX_PRODUCTS / tile;
    if (slices == 1 || tile == 1 || few_registers(cmd))
        heads /= tile == 1 && few_registers(cmd) ? 4 : 2;
    while (heads > p->n_heads)
        heads /= 2;
    uint32_t constants[INDEXER_COOPMAT_CONSTANTS] = { [INDEXER_CONSTANT_INDEX_DIM] = f->index_dim,
                                                      [INDEXER_CONSTANT_NATIVE] = f->native,
                                                      [INDEXER_CONSTANT_ROWS] = tile };
    uint32_t n_constants = f->byte_queries ? INDEXER_CONSTANT_HEADS : INDEXER_CONSTANT_HEADS + 1;
    constants[INDEXER_CONSTANT_SLICES] = slices;
    constants[INDEXER_CONSTANT_HEADS] = heads;
    if (matrices) {
        n_constants = INDEXER_COOPMAT_CONSTANTS;
        constants[INDEXER_CONSTANT_M] = variant.m;
        constants[INDEXER_CONSTANT_N] = variant.n;
        constants[INDEXER_CONSTANT_K] = variant.k;
        constants[INDEXER_CONSTANT_SUBGROUP] = subgroup;
    }
    const uint64_t keys = p->counted ? 0 : (uint64_t)p->n * p->max_visible; /* at most: shorter rows are not known here */
    const uint64_t query_bytes = p->n_heads * (f->index_dim + 1) * 4ull, key_flops = p->n_heads * (2ull * f->index_dim + 3);
    const uint64_t key_bytes = dsvk_key_code_bytes(f) + dsvk_key_scale_bytes(f) + 4;
    const double share = p->counted ? (double)p->n / p->counted : 0;
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "indexer",
                           .shader = matrices ? "indexer_coopmat" : f->byte_queries ? "indexer_bytes" : "indexer",
                           .constants = constants,
                           .n_constants = n_constants,
                           .subgroup = subgroup,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->max_visible, keys_each), (uint32_t)dsvk_ceil_div(p->n, tile), 1 },
                           .grid = p->grid,
                           .grid_offset = p->grid_offset,
                           .bytes = keys * key_bytes + (p->counted ? 0 : p->n * query_bytes),
                           .flops = keys * key_flops,
                           .each = { { DSVK_UNIT_SCORED_KEYS, share * (double)key_bytes, share * (double)key_flops },
                                     { DSVK_UNIT_SCORED_ROWS, share * (double)query_bytes, 0 } },
                       });
}
