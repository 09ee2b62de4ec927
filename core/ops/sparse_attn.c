/* Sparse attention, spec 4.8, and the inverse RoPE of 4.9. See shaders/sparse_attn.comp and, for steps of many rows on matrix
 * units, shaders/sparse_attn_coopmat.comp. */
#include "ops.h"

#include "sparse_attn.h"

_Static_assert(sizeof(struct sparse_attn_args) <= 128, "push constants");

/* Steps of more rows than this fill a device without splitting. */
#define MAX_SPLIT_ROWS 63u

/* Heads of a workgroup; where they are few, several tokens of a longer step share it, unless their queries' addresses are too many. */
#define MOST_QUERIES 16u
static uint32_t most_heads(uint32_t n_heads) { return n_heads > 8 ? 16 : n_heads > 4 ? 8 : 4; }
static bool few_registers(dsvk_cmd *cmd) { return dsvk_device_get_limits(dsvk_cmd_device(cmd))->few_registers; }
static bool share_workgroups(dsvk_cmd *cmd, const dsvk_sparse_attn_params *p) {
    return p->n > MAX_SPLIT_ROWS && p->n_splits == 1 && !few_registers(cmd);
}
static uint32_t group_heads(dsvk_cmd *cmd, const dsvk_sparse_attn_params *p) {
    if (!share_workgroups(cmd, p))
        return p->n_heads > 8 && few_registers(cmd) ? 8 : most_heads(p->n_heads);
    uint32_t heads = 1;
    while (heads < p->n_heads && heads < MOST_QUERIES)
        heads *= 2;
    return heads;
}
static uint32_t group_tokens(dsvk_cmd *cmd, const dsvk_sparse_attn_params *p) {
    return share_workgroups(cmd, p) ? MOST_QUERIES / group_heads(cmd, p) : 1;
}
static uint32_t matrix_heads(uint32_t n_heads, uint32_t m) { return n_heads > 16 ? 32 : n_heads > m ? 16 : m; }

/* Segments of 128 rows halve the reads of queries, those of 64 give a few tokens twice the workgroups. A CPU, which only
 * devices with subgroups of 8 or less are, has few cores; a row's bits must not depend on how few tokens there are. */
static uint32_t lane_rows(dsvk_cmd *cmd, const dsvk_sparse_attn_params *p) {
    if (p->segment > 0)
        return p->segment / SPARSE_ATTN_SEGMENT;
    return p->n > MAX_SPLIT_ROWS || dsvk_device_get_limits(dsvk_cmd_device(cmd))->subgroup_max <= 8 ? 2 : 1;
}

/* Whether the kernel on matrix units is meant: as for matrices unless the plain one is faster, for steps of many rows, not for
 * numbers that halves hold too small a part of, which rows of a float32 cache are, not where most of its matrices would be in memory, and
 * unless asked for not for so few heads that they would be mostly empty. */
static bool by_matrices(dsvk_cmd *cmd, const dsvk_sparse_attn_params *p, dsvk_matmul_variant *variant) {
    *variant = p->variant ? *p->variant : dsvk_device_matmul(dsvk_cmd_device(cmd));
    return variant->kind == DSVK_MATMUL_COOPMAT && !variant->plain_attention && p->n >= DSVK_CHUNK && p->format.native &&
           p->n_splits == 1 && p->segment == 0 && !few_registers(cmd) && (p->variant || group_tokens(cmd, p) == 1);
}

uint64_t dsvk_sparse_attn_scratch(uint32_t n, uint32_t n_splits, uint32_t n_heads, uint32_t head_dim) {
    return n_splits > 1 ? n * n_splits * dsvk_align(n_heads, most_heads(n_heads)) * (head_dim + 2) * 4 : 0;
}

uint32_t dsvk_sparse_attn_splits(uint32_t n, uint32_t max_rows) {
    const uint64_t segments = dsvk_ceil_div(max_rows, SPARSE_ATTN_SEGMENT);
    if (n > MAX_SPLIT_ROWS || segments == 0)
        return 1;
    return segments < SPARSE_ATTN_MAX_SPLITS ? (uint32_t)segments : SPARSE_ATTN_MAX_SPLITS;
}

uint64_t dsvk_sparse_attn_most_scratch(uint32_t n, uint32_t max_rows, uint32_t n_heads, uint32_t head_dim) {
    const uint32_t rows = n < MAX_SPLIT_ROWS ? n : MAX_SPLIT_ROWS;
    return dsvk_sparse_attn_scratch(rows, dsvk_sparse_attn_splits(rows, max_rows), n_heads, head_dim);
}

static bool shapes_are_right(dsvk_cmd *cmd, const dsvk_sparse_attn_params *p) {
    const dsvk_row_format *f = &p->format;
    if (f->head_dim == 0 || f->head_dim % 64 != 0 || f->head_dim > 512 || f->rope_dim % 16 != 0 ||
        f->rope_dim > f->head_dim || (f->head_dim - f->rope_dim) % 64 != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "sparse_attn: heads of %u values, %u of them rotated; heads are multiples of 64 up to 512, the part "
                      "without RoPE a multiple of 64, the rotated one of 16",
                      f->head_dim, f->rope_dim);
        return false;
    }
    if (p->segment != 0 && p->segment != 64 && p->segment != 128) {
        dsvk_cmd_fail(cmd, DSVK_INVALID, "sparse_attn: segments of %u rows; they have 64 or 128", p->segment);
        return false;
    }
    if (p->n_heads == 0 || p->n_splits == 0 || p->n > 65535 || p->n_splits > SPARSE_ATTN_MAX_SPLITS) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "sparse_attn: %u rows, %u heads, %u splits; there is at least one head and split and at most 65535 rows "
                      "and %u splits",
                      p->n, p->n_heads, p->n_splits, SPARSE_ATTN_MAX_SPLITS);
        return false;
    }
    return true;
}

void dsvk_sparse_attn(dsvk_cmd *cmd, const dsvk_sparse_attn_params *p) {
    const dsvk_row_format *f = &p->format;
    if (!shapes_are_right(cmd, p))
        return;
    if (p->q_stride < p->n_heads * f->head_dim || p->q_stride % 4 != 0 || p->window == 0 || p->step_capacity == 0 ||
        p->ring_capacity + 1 < p->window || p->ring_offset % 16 != 0) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "sparse_attn: %u heads of %u in queries of stride %u, window %u with a ring of %u rows at byte %u and "
                      "%u rows of the step; the stride is a multiple of 4 that holds the heads, the ring holds the window's "
                      "older rows and starts at a multiple of 16",
                      p->n_heads, f->head_dim, p->q_stride, p->window, p->ring_capacity, p->ring_offset, p->step_capacity);
        return;
    }
    if (p->ratio != 0 && (p->page_tokens < p->ratio || p->page_tokens % p->ratio != 0 || p->page_offset % 16 != 0)) {
        dsvk_cmd_fail(cmd, DSVK_INVALID,
                      "sparse_attn: pages of %u tokens at ratio %u with rows at byte %u; pages hold a multiple of the ratio, rows "
                      "start at a multiple of 16",
                      p->page_tokens, p->ratio, p->page_offset);
        return;
    }
    const struct sparse_attn_args args = {
        .rows = p->rows,
        .seqs = p->seqs,
        .rope = p->rope,
        .q = p->q,
        .step_store = p->step_store,
        .idx = p->idx,
        .sink = p->sink,
        .partial = p->partial,
        .counters = p->counters,
        .result = p->out,
        .n = p->n,
        .q_stride = p->q_stride,
        .n_heads = p->n_heads,
        .step_capacity = p->step_capacity,
        .window = p->window,
        .ratio = p->ratio,
        .k = p->k,
        .ring_offset = p->ring_offset,
        .ring_capacity = p->ring_capacity > 0 ? p->ring_capacity : 1,
        .page_tokens = p->page_tokens,
        .page_offset = p->page_offset,
        .scale = p->scale,
    };
    dsvk_matmul_variant variant;
    const bool matrices = by_matrices(cmd, p, &variant);
    const uint32_t tokens = matrices ? 1 : group_tokens(cmd, p);
    const uint32_t heads = matrices ? matrix_heads(p->n_heads, variant.m) : group_heads(cmd, p);
    uint32_t constants[SPARSE_ATTN_COOPMAT_CONSTANTS] = { [SPARSE_ATTN_CONSTANT_HEAD_DIM] = f->head_dim,
                                                          [SPARSE_ATTN_CONSTANT_ROPE_DIM] = f->rope_dim,
                                                          [SPARSE_ATTN_CONSTANT_NATIVE] = f->native,
                                                          [SPARSE_ATTN_CONSTANT_HEADS] = heads };
    if (matrices) {
        constants[SPARSE_ATTN_CONSTANT_M] = variant.m;
        constants[SPARSE_ATTN_CONSTANT_N] = variant.n;
        constants[SPARSE_ATTN_CONSTANT_K] = variant.k;
        constants[SPARSE_ATTN_CONSTANT_SUBGROUP] = dsvk_matmul_subgroup(dsvk_cmd_device(cmd));
    } else {
        constants[SPARSE_ATTN_CONSTANT_LANE_ROWS] = lane_rows(cmd, p);
        constants[SPARSE_ATTN_CONSTANT_TOKENS] = tokens;
        constants[SPARSE_ATTN_CONSTANT_WORKGROUP] =
            dsvk_device_get_limits(dsvk_cmd_device(cmd))->software && f->head_dim <= 256 ? 64 : 256;
    }
    const uint64_t rows = p->counted ? 0 : (uint64_t)p->n * (p->window + (p->ratio == 4 ? p->k : p->entries));
    const uint64_t row_bytes = dsvk_row_code_bytes(f) + dsvk_row_scale_bytes(f), row_flops = 4ull * p->n_heads * f->head_dim;
    const uint32_t unit = p->ratio == 0 ? DSVK_UNIT_SWA_ROWS : p->ratio == 4 ? DSVK_UNIT_CSA_ROWS : DSVK_UNIT_HCA_ROWS;
    const double share = p->counted ? (double)p->n / p->counted : 0;
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){
                           .op = "sparse_attn",
                           .shader = matrices ? "sparse_attn_coopmat" : "sparse_attn",
                           .constants = constants,
                           .n_constants = matrices ? SPARSE_ATTN_COOPMAT_CONSTANTS : SPARSE_ATTN_CONSTANTS,
                           .subgroup = matrices ? constants[SPARSE_ATTN_CONSTANT_SUBGROUP] : 0,
                           .args = &args,
                           .args_size = sizeof args,
                           .groups = { (uint32_t)dsvk_ceil_div(p->n_heads, heads), (uint32_t)dsvk_ceil_div(p->n, tokens), p->n_splits },
                           .counts_groups = true,
                           .bytes = rows * row_bytes + (uint64_t)p->n * p->n_heads * f->head_dim * 8 +
                                    2 * dsvk_sparse_attn_scratch(p->n, p->n_splits, p->n_heads, f->head_dim),
                           .flops = rows * row_flops,
                           .each = { { unit, share * (double)row_bytes, share * (double)row_flops } },
                       });
}
