/* Queries and cache entries of an attention sublayer (spec 4.5 to 4.7), in one dispatch for small steps. */
#include "matmul_rows.h"
#include "row_format.h"

#include "attn_query.h"

_Static_assert(sizeof(struct attn_query_args) <= 128, "push constants");

static bool shapes_fit(dsvk_cmd *cmd, const dsvk_attn_query_params *p, uint32_t index_values) {
    const dsvk_row_format *f = &p->format;
    if (!dsvk_matmul_check_few(cmd, "attn_query", &p->w, p->n) || !dsvk_row_format_check(cmd, "attn_query", f) ||
        (p->ratio == 4 && !dsvk_key_format_check(cmd, "attn_query", f)))
        return false;
    if (p->n_heads == 0 || f->head_dim % DSVK_TILE_ROWS != 0 || p->n_heads * f->head_dim > p->w.n_out ||
        (p->ratio == 4 ? index_values % f->index_dim : index_values) != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "attn_query: %u outputs are no %u heads of %u and, with ratio 4, heads of %u", p->w.n_out,
                      p->n_heads, f->head_dim, f->index_dim);
        return false;
    }
    if (p->ratio == 0)
        return true;
    const uint32_t needed = p->ratio == 4 ? 7 : p->ratio - 1, w = p->ratio == 4 ? 2 * f->head_dim : f->head_dim;
    if (p->ratio % 4 != 0 || p->page_tokens == 0 || p->page_tokens % p->ratio != 0 || p->ring_capacity < needed ||
        (p->ring_offset | p->index_ring_offset | p->rows_offset | p->keys_offset) % 16 != 0 || p->ks_stride % 4 != 0 ||
        p->ks_stride < 2 * w + (p->ratio == 4 ? 4 * f->index_dim : 0)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "attn_query: ratio %u, pages of %u tokens, rings of %u (at least %u), K and S at a stride of %u; offsets are "
                      "multiples of 16",
                      p->ratio, p->page_tokens, p->ring_capacity, needed, p->ks_stride);
        return false;
    }
    return true;
}

void dsvk_attn_query(dsvk_cmd *cmd, const dsvk_attn_query_params *p) {
    const dsvk_row_format *f = &p->format;
    const uint32_t index_values = p->w.n_out - p->n_heads * f->head_dim;
    if (p->n == 0 || !shapes_fit(cmd, p, index_values))
        return;
    const uint32_t rows = dsvk_matmul_rows(dsvk_cmd_device(cmd), p->n), jobs = p->ratio == 0 ? 1 : p->ratio == 4 ? 3 : 2;
    uint32_t constants[ATTN_QUERY_CONSTANTS];
    dsvk_matmul_constants(cmd, &p->w, NULL, f->head_dim, rows, EPILOGUE_STORE, constants);
    if (constants[MATMUL_WORKGROUP] > 128) /* which index heads fill, as they do 128 */
        constants[MATMUL_WORKGROUP] = 256;
    constants[ATTN_QUERY_CONSTANT_NATIVE] = f->native;
    constants[ATTN_QUERY_CONSTANT_HEAD_DIM] = f->head_dim;
    constants[ATTN_QUERY_CONSTANT_ROPE_DIM] = f->rope_dim;
    constants[ATTN_QUERY_CONSTANT_INDEX_DIM] = p->ratio == 4 ? f->index_dim : 128; /* any */
    constants[ATTN_QUERY_CONSTANT_N_HEADS] = p->n_heads;
    constants[ATTN_QUERY_CONSTANT_Q_RANK] = p->w.n_in;
    constants[ATTN_QUERY_CONSTANT_RATIO] = p->ratio;
    constants[ATTN_QUERY_CONSTANT_RING_CAPACITY] = p->ratio ? p->ring_capacity : 1;
    constants[ATTN_QUERY_CONSTANT_PAGE_CAPACITY] = p->ratio ? p->page_tokens / p->ratio : 1;
    constants[ATTN_QUERY_CONSTANT_EPS] = dsvk_float_bits(p->eps);
    constants[ATTN_QUERY_CONSTANT_BYTES] = f->byte_queries;
    const struct attn_query_args args = { .rows = p->rows,
                                          .seqs = p->seqs,
                                          .table = p->rope,
                                          .vectors = p->vectors,
                                          .qr = p->qr,
                                          .w = p->w.addr,
                                          .q = p->q,
                                          .kv = p->kv,
                                          .ks = p->ks,
                                          .store = p->store,
                                          .counters = p->counters,
                                          .scales = (uint32_t)p->w.scales,
                                          .n = p->n,
                                          .n_out = p->w.n_out,
                                          .ks_stride = p->ks_stride,
                                          .ring_offset = p->ring_offset,
                                          .index_ring_offset = p->index_ring_offset,
                                          .rows_offset = p->rows_offset,
                                          .keys_offset = p->keys_offset };
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "attn_query",
                           .shader = "attn_query",
                           .constants = constants,
                           .n_constants = ATTN_QUERY_CONSTANTS,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->n, rows),
                                       rows * jobs + (uint32_t)dsvk_ceil_div(p->w.n_out, DSVK_TILE_ROWS), 1 },
                           .bytes = dsvk_matmul_bytes(&p->w, p->n) + 8ull * p->n * p->w.n_out +
                                    (uint64_t)p->n * (4 * f->head_dim + dsvk_row_code_bytes(f) + 4ull * p->ks_stride),
                           .flops = dsvk_matmul_flops(&p->w, p->n),
                       });
}
