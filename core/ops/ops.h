/* The ops of the V4 family, one prototype each, under the names of the paper. Every op records dispatches into a command
 * and returns nothing: the recorder keeps the first error. No op waits, allocates, or knows a model.
 *
 * Conventions: activations are f32, row-major; `n` = rows of the step (tokens of any mix of sequences); a stride counts
 * f32 values between rows. Addresses are 16-byte aligned. No op puts a barrier: forward.c does.
 * Results of one row never depend on the other rows of the step, bit for bit: reductions run in an order that depends
 * on the widths only. From DSVK_CHUNK rows on matmul, moe_expert and, on matrix units, sparse_attn use other kernels, which agree with
 * those for fewer rows to float32 rounding. */
#ifndef DSVK_OPS_H
#define DSVK_OPS_H

#include "device.h"
#include "types.h"

#define DSVK_CHUNK 64u

/* Invocations of a workgroup in which `busy` have something to do. A GPU gets `most`. A processor runs idle ones as it runs the others,
 * and gets as many as are busy in whole sixteens (shaders/reduce.glsl), from `least` to `most`. Idle ones add zeros: no bit depends on
 * their number. */
static inline uint32_t dsvk_workgroup(dsvk_cmd *cmd, uint32_t busy, uint32_t least, uint32_t most) {
    const uint32_t lanes = (uint32_t)dsvk_align(busy, 16);
    return !dsvk_device_get_limits(dsvk_cmd_device(cmd))->software || lanes > most ? most : lanes < least ? least : lanes;
}
/* Of one that goes through a row in turns. All that make one sum have as many, since its order is theirs. */
static inline uint32_t dsvk_row_workgroup(dsvk_cmd *cmd) { return dsvk_workgroup(cmd, 32, 32, 256); }
/* Of one that does a line of so many values, 4 in each. */
static inline uint32_t dsvk_line_workgroup(dsvk_cmd *cmd, uint32_t values, uint32_t most) {
    return dsvk_workgroup(cmd, (uint32_t)dsvk_ceil_div(values, 4), 32, most);
}

/* ---- weights as the ops read them ---- */

typedef enum dsvk_weight_type {
    DSVK_TYPE_F32,
    DSVK_TYPE_BF16,
    DSVK_TYPE_FP8, /* e4m3, one f32 scale per 16 rows and 128 inputs (the file's 128x128 or F32 scales, spread) */
    DSVK_TYPE_FP4, /* e2m1, one ue8m0 scale per row and 32 inputs */
} dsvk_weight_type;

/* A matrix [n_out, n_in] as uploaded ("tiled"): output rows in tiles of 32, padded with zeros; in a tile the 16-byte words
 * of the 32 rows are interleaved, word k of row r at byte ((tile * words + k) * 32 + r) * 16, words = ceil(n_in bytes / 16).
 * A workgroup that owns a tile streams it as one contiguous run. Element order inside a word is the file's.
 * `columns`, for the matmul variant of that name (device.h): in place of words, a tile holds for each input in turn its 32 rows,
 * side by side; of an FP4 code the sign is below the magnitude.
 * Scales follow at byte `scales` of the same blob:
 *   FP8: f32 [tiles][ceil(n_in / 128)][2]; [0] for rows 0-15 of the tile, [1] for rows 16-31
 *   FP4: u32 [tiles][ceil(words / 4)][32]; byte b of the word for (group g, row r) is the ue8m0 scale of 16-byte word 4g+b;
 *        in columns u8 [tiles][4 ceil(words / 4)][32]
 * n_in is a multiple of 32. */
#define DSVK_TILE_ROWS 32u
typedef struct dsvk_matrix {
    dsvk_addr addr;
    uint64_t scales; /* byte offset of the scales, a multiple of 16 */
    uint32_t n_out, n_in;
    dsvk_weight_type type;
    bool columns;
} dsvk_matrix;

uint32_t dsvk_matrix_words(dsvk_weight_type type, uint32_t n_in);                    /* 16-byte words per row */
uint64_t dsvk_matrix_scales(dsvk_weight_type type, uint32_t n_out, uint32_t n_in);   /* byte offset of the scales */
uint64_t dsvk_matrix_bytes(dsvk_weight_type type, uint32_t n_out, uint32_t n_in);    /* codes and scales, multiple of 16 */

/* ---- rows of the KV cache: "row stores" ----
 * A store of `capacity` rows of head_dim values, RoPE tail last. Native: codes e4m3 [head_dim - rope_dim] then BF16
 * [rope_dim], then after all rows the scales: one ue8m0 byte per 64 codes, padded to 4 bytes per row (spec 1.7).
 * f32: head_dim floats, no scales.   row r: codes at base + r * code_bytes, scales at base + capacity * code_bytes + r *
 * scale_bytes. An index key store holds index_dim values per row: native e2m1 pairs + one ue8m0 byte per 32; f32 plain.
 * Byte queries: an index query [index_dim] whose first index_dim / 4 words hold twice its e2m1 values as signed bytes, of eight values
 * in turn those with even numbers, then those with odd ones; behind them half the scale of each block of 32, f32; the rest means
 * nothing. Native only, index_dim at most DSVK_BYTE_QUERY_DIM, and where dsvk_device_byte_products. */
#define DSVK_BYTE_QUERY_DIM 256u
typedef struct dsvk_row_format {
    bool native;
    uint32_t head_dim, rope_dim, index_dim;
    bool byte_queries;
} dsvk_row_format;
bool dsvk_byte_queries(const dsvk_device *device, const dsvk_row_format *f); /* whether the device wants them and the format has them */
uint32_t dsvk_row_code_bytes(const dsvk_row_format *f);
uint32_t dsvk_row_scale_bytes(const dsvk_row_format *f);
uint32_t dsvk_key_code_bytes(const dsvk_row_format *f);
uint32_t dsvk_key_scale_bytes(const dsvk_row_format *f);

/* Cache pages: page p of a session holds positions [p * page_tokens, (p+1) * page_tokens). In it, at byte `rows_offset`,
 * layer l keeps a row store of capacity page_tokens / ratio, and (ratio 4) at `keys_offset` an index key store of the same
 * capacity. Compressed entry j lives in page j / capacity at row j % capacity. */

/* RoPE tables: f32 [positions][rope_dim / 2][2] = (cos, sin) in pages of DSVK_ROPE_PAGE positions; `rope` below is the
 * address of an array of page addresses. DSVK_ROPE_PAGE is in types.h. */

/* ---- ops ---- */

/* 4.1: out [n, copies, dim] = table[token] (BF16 [vocab, dim] row-major, not tiled), `copies` identical copies. */
typedef struct dsvk_embed_params {
    dsvk_addr rows;  /* dsvk_row [n] */
    dsvk_addr table; /* bf16 [vocab, dim] */
    dsvk_addr out;   /* f32 [n, copies, dim] */
    uint32_t n, dim, copies, vocab;
} dsvk_embed_params;
void dsvk_embed(dsvk_cmd *cmd, const dsvk_embed_params *p);

/* out [n, dim] = in[source[i]], or for source 0x80000000 | slot: slot of the ring f32 [slots][dim] at state_offset in the state
 * of the sequence of rows[i]. */
typedef struct dsvk_gather_params {
    dsvk_addr rows, seqs;   /* dsvk_row [n], dsvk_seq */
    dsvk_addr source;       /* u32 [n] */
    dsvk_addr in;           /* f32 [*, dim] */
    dsvk_addr out;          /* f32 [n, dim] */
    uint32_t n, dim, n_in;  /* rows of `in`, for clamping */
    uint32_t state_offset;  /* bytes */
    uint32_t slots;
} dsvk_gather_params;
void dsvk_gather(dsvk_cmd *cmd, const dsvk_gather_params *p);

/* 4.3, first half: optional HC-post, then this range's share of the next HC-pre's reductions.
 *   with post:   X'[t][k][d] = post[t][k] * y[t][d] + sum_j comb[t][j][k] * X[t][j][d],  y[t][d] = sum_part y[t][part][d]
 *   without:     X' = X (x_out is not written and may be 0)
 *   partials[t][chunk][m] = sum over the chunk's d of sum_k fn[m][k*dim + d] * X'[t][k][d]   (m < n_mix)
 *   partials[t][chunk][n_mix] = sum of X'^2
 * A chunk is DSVK_HC_CHUNK values of d. C = 4 streams. fn f32 [n_mix, 4*dim] row-major; n_mix 24 (block) or 4 (head).
 * x_out may equal x_in (element-wise in place). */
#define DSVK_HC_CHUNK 256u
typedef struct dsvk_hyper_conn_mix_params {
    dsvk_addr x_in;      /* f32 [n, 4, dim] */
    dsvk_addr x_out;     /* f32 [n, 4, dim]; 0 without post */
    dsvk_addr y;         /* f32 [n, n_parts, dim]; 0: without post */
    dsvk_addr post;      /* f32 [n, 4] */
    dsvk_addr comb;      /* f32 [n, 4, 4], source stream first */
    dsvk_addr fn;        /* f32 [n_mix, 4 * dim] */
    dsvk_addr partials;  /* f32 [n, ceil(dim / 256), n_mix + 1] */
    uint32_t n, dim, n_parts, n_mix;
    uint32_t same_coefficients; /* 1: post and comb hold one row, used for all n */
} dsvk_hyper_conn_mix_params;
void dsvk_hyper_conn_mix(dsvk_cmd *cmd, const dsvk_hyper_conn_mix_params *p);

/* 4.3, second half, and the RMSNorm after it (4.2):
 *   rs = 1 / sqrt(sum X^2 / (4 dim) + eps);  mix = rs * sum of partials;  pre, post, comb as in 4.3 (Sinkhorn)
 *   x[d] = sum_k pre[k] * X[k][d];  out = norm_weight * x / sqrt(mean x^2 + eps)
 * n_mix 4: the head's form, only pre, no post/comb. `select` u32 [n] names the rows of x_in/partials to use (0: all in
 * order); out, post, comb are dense [n]. */
typedef struct dsvk_hyper_conn_pre_params {
    dsvk_addr x_in;     /* f32 [*, 4, dim] */
    dsvk_addr partials; /* f32 [*, ceil(dim / 256), n_mix + 1], or with `tiles` [*, dim / 32, n_mix + 1] */
    dsvk_addr select;   /* u32 [n] or 0 */
    dsvk_addr base;     /* f32 [n_mix] */
    dsvk_addr scale;    /* f32 [3] (head: [1]) */
    dsvk_addr norm;     /* f32 [dim] */
    dsvk_addr out;      /* f32 [n, dim] */
    dsvk_addr post;     /* f32 [n, 4]; 0 for the head */
    dsvk_addr comb;     /* f32 [n, 4, 4]; 0 for the head */
    uint32_t n, dim, n_mix, sinkhorn_iters;
    uint32_t n_in;      /* rows of x_in, for clamping `select`; not read without it */
    bool tiles;         /* partials are those of wo_b or moe_out */
    float eps, hc_eps;
} dsvk_hyper_conn_pre_params;
void dsvk_hyper_conn_pre(dsvk_cmd *cmd, const dsvk_hyper_conn_pre_params *p);

/* 4.2: out[t] = weight * x[t] / sqrt(mean(x[t]^2) + eps). */
typedef struct dsvk_rms_norm_params {
    dsvk_addr x;       /* f32 [n, x_stride], first dim values of each row */
    dsvk_addr weight;  /* f32 [dim] */
    dsvk_addr out;     /* f32 [n, dim] */
    uint32_t n, dim, x_stride;
    float eps;
} dsvk_rms_norm_params;
void dsvk_rms_norm(dsvk_cmd *cmd, const dsvk_rms_norm_params *p);

/* 4.5 headnorm (no weight, over all head_dim values) then 4.4 RoPE on the last rope_dim values of each head, in place. */
typedef struct dsvk_rope_params {
    dsvk_addr rows;  /* dsvk_row [n] */
    dsvk_addr rope;  /* page table of (cos, sin) */
    dsvk_addr q;     /* f32 [n, q_stride]: n_heads * head_dim values per row */
    uint32_t n, n_heads, head_dim, rope_dim, q_stride;
    float eps;
} dsvk_rope_params;
void dsvk_rope(dsvk_cmd *cmd, const dsvk_rope_params *p);

/* 4.5: window rows. RMSNorm(kv, weight), RoPE on the tail, FQ8 on the rest, stored as rows 0 .. n-1 of the step's store. */
typedef struct dsvk_quant_row_params {
    dsvk_addr rows;    /* dsvk_row [n] */
    dsvk_addr rope;
    dsvk_addr kv;      /* f32 [n, kv_stride] */
    dsvk_addr weight;  /* f32 [head_dim] */
    dsvk_addr store;   /* row store, capacity rows */
    dsvk_row_format format;
    uint32_t n, kv_stride, capacity;
    float eps;
} dsvk_quant_row_params;
void dsvk_quant_row(dsvk_cmd *cmd, const dsvk_quant_row_params *p);

/* 4.7: index queries. RoPE on the last rope_dim values of each index head, Hadamard, FQ4 (native format only), in place as
 * f32 values or byte queries. */
typedef struct dsvk_quant_index_params {
    dsvk_addr rows;  /* dsvk_row [n] */
    dsvk_addr rope;
    dsvk_addr iq;    /* f32 [n, iq_stride]: n_heads * index_dim values per row */
    dsvk_row_format format;
    uint32_t n, n_heads, iq_stride;
} dsvk_quant_index_params;
void dsvk_quant_index(dsvk_cmd *cmd, const dsvk_quant_index_params *p);

/* 3.8: out[t][o] = sum_i x[t][g * n_in + i] * W[o][i], with f32 activations; g = o / group_rows (0: no groups, g = 0).
 * swiglu: W holds w1 and w3 interleaved (tile rows 0-15 w1 of outputs 16*tile .., rows 16-31 w3 of the same), out has
 * n_out / 2 columns: h = silu(min(a, limit)) * clamp(b, -limit, limit); limit 0: no clamp (4.10). */
typedef struct dsvk_matmul_params {
    dsvk_matrix w;
    dsvk_addr x;    /* f32 [n, x_stride] */
    dsvk_addr out;  /* f32 [n, out_stride] */
    uint32_t n, x_stride, out_stride, group_rows;
    uint32_t step_rows; /* rows of the step, which choose the kernel, where n counts several for each; 0: n */
    bool swiglu;
    float limit;
    const dsvk_matmul_variant *variant; /* NULL: the device's */
} dsvk_matmul_params;
void dsvk_matmul(dsvk_cmd *cmd, const dsvk_matmul_params *p);

/* 4.10 router. s = sqrt(softplus(logits)); idx = top-k of s + bias, or the hash table's row of the token; ascending ids;
 * weights = s[idx] / sum s[idx] * route_scale. Non-finite scores still give ids < n_experts. */
typedef struct dsvk_moe_gate_params {
    dsvk_addr rows;    /* dsvk_row [n] */
    dsvk_addr logits;  /* f32 [n, logits_stride] */
    dsvk_addr bias;    /* f32 [n_experts], or 0 in hash layers */
    dsvk_addr table;   /* u32 [vocab, k], or 0 */
    dsvk_addr idx;     /* u32 [n, k] out, ascending */
    dsvk_addr weights; /* f32 [n, k] out, in the order of idx */
    uint32_t n, n_experts, k, vocab, logits_stride;
    float route_scale;
} dsvk_moe_gate_params;
void dsvk_moe_gate(dsvk_cmd *cmd, const dsvk_moe_gate_params *p);

/* Groups the n * k (row, slot) pairs by expert into tiles of at most `tile` pairs, so that an expert shared by rows of the
 * step is read once per tile: tiles[i] = (expert, first, count, 0), count 0 beyond the last used tile; pairs[j] = row * k +
 * slot, sorted by expert. dsvk_moe_max_tiles bounds the number of tiles. */
typedef struct dsvk_moe_sort_params {
    dsvk_addr idx;    /* u32 [n, k] */
    dsvk_addr pairs;  /* u32 [n * k] out */
    dsvk_addr tiles;  /* uvec4 [dsvk_moe_max_tiles] out */
    uint32_t n, k, n_experts, tile;
} dsvk_moe_sort_params;
void dsvk_moe_sort(dsvk_cmd *cmd, const dsvk_moe_sort_params *p);
uint32_t dsvk_moe_max_tiles(uint32_t n, uint32_t k, uint32_t n_experts, uint32_t tile);
#define DSVK_MOE_LEAST_TILE 4u /* of steps of more than one row */
/* Pairs per tile for a step of n rows: what the kernels that moe_expert uses then work on together. */
uint32_t dsvk_moe_tile(const dsvk_device *device, uint32_t n, uint32_t k, uint32_t n_experts);
bool dsvk_moe_tile_fits(const dsvk_device *device, uint32_t n, uint32_t tile); /* whether they have tiles of that many */

/* 4.10 routed experts. up: h[pair] = weights[pair] * silu(min(a, limit)) * clamp(b), a = w1 x[row], b = w3 x[row];
 * down: out[row][slot] = w2 h[pair]. `experts` is a device array [n_experts] of ADDR: blob of each expert, which holds the
 * up matrix (w1/w3 interleaved as in matmul's swiglu) at byte 0 and the down matrix at byte down_offset. */
typedef struct dsvk_moe_expert_params {
    dsvk_addr experts;  /* ADDR [n_experts] */
    dsvk_addr pairs;    /* u32 [n * k] */
    dsvk_addr tiles;    /* uvec4 [max tiles] */
    dsvk_addr weights;  /* f32 [n * k]; up only */
    dsvk_addr x;        /* up: f32 [n, x_stride]; down: h f32 [n * k, x_stride] */
    dsvk_addr out;      /* up: h f32 [n * k, out_stride] by pair id (row * k + slot); down: f32 [n, k + extra, n_out] */
    dsvk_matrix w;      /* shape, type and scales offset; addr is ignored */
    uint64_t offset;    /* byte offset of this matrix in an expert's blob */
    uint32_t n, k, n_experts, tile;
    uint32_t x_stride, out_stride; /* down: out_stride = f32 between rows t, slots are n_out apart */
    bool up;
    float limit;
} dsvk_moe_expert_params;
void dsvk_moe_expert(dsvk_cmd *cmd, const dsvk_moe_expert_params *p);

/* 4.6: for every row t that completes a window ((position + 1) % ratio == 0): pools entry j = (position + 1) / ratio - 1,
 * RMSNorm, RoPE at j * ratio, then a cache row (FQ8; `index` false) or an index key (Hadamard, FQ4; `index` true) into the
 * session's page. K and S of tokens of this step come from `ks`, of earlier ones from the state ring. */
typedef struct dsvk_kv_compress_params {
    dsvk_addr rows, seqs;
    dsvk_addr rope;
    dsvk_addr ks;      /* f32 [n, ks_stride]: K [w] then S [w] (without ape), w = width * (ratio == 4 ? 2 : 1) */
    dsvk_addr ape;     /* f32 [ratio, w] */
    dsvk_addr norm;    /* f32 [width] */
    dsvk_row_format format;
    bool index;        /* width = index ? index_dim : head_dim */
    uint32_t n, ratio, ks_stride;
    uint32_t ring_offset, ring_capacity; /* of the K|S ring in the state: f32 [capacity][2 w], slot = position % capacity */
    uint32_t page_tokens, page_offset;   /* rows_offset or keys_offset */
    float eps;
} dsvk_kv_compress_params;
void dsvk_kv_compress(dsvk_cmd *cmd, const dsvk_kv_compress_params *p);

/* 4.12 step 5: copies the last min(rows, capacity) rows of every sequence into rings of its state block. */
typedef struct dsvk_ring_item {
    dsvk_addr source;         /* row t at source + t * source_stride */
    uint32_t source_stride;   /* bytes, multiple of 4 */
    uint32_t bytes;           /* per row, multiple of 4 */
    uint32_t offset;          /* of the ring in the state block; slot s at offset + s * bytes */
    uint32_t capacity;        /* slots; slot = position % capacity */
} dsvk_ring_item;
#define DSVK_RING_ITEMS 4
typedef struct dsvk_ring_store_params {
    dsvk_addr rows, seqs;
    dsvk_ring_item items[DSVK_RING_ITEMS];
    uint32_t n, n_items;
} dsvk_ring_store_params;
void dsvk_ring_store(dsvk_cmd *cmd, const dsvk_ring_store_params *p);

/* Units (dsvk_each) of rows whose positions are not known while they are recorded: these ops take `counted`, the rows of the step
 * that dsvk_cmd_count will speak of, of which n are theirs. 0: max_visible is the last row's, and all are booked as if they saw as
 * much. */
enum {
    DSVK_UNIT_SCORED_ROWS, /* with more keys than are chosen */
    DSVK_UNIT_SCORED_KEYS, /* of all these */
    DSVK_UNIT_SWA_ROWS, DSVK_UNIT_CSA_ROWS, DSVK_UNIT_HCA_ROWS, /* attended to, by the layer's ratio: 0, 4, others */
};

/* 4.7 scores: scores[t][j] = scale * sum_h weights[t][h] * max(0, iq[t][h] . key_j) for j < (position + 1) / 4. Rows with at most
 * k visible keys need no scores and get none. topk follows: it finds the scores counted in `bins`. */
typedef struct dsvk_indexer_params {
    const dsvk_matmul_variant *variant; /* NULL: the device's; coopmat without plain_indexer counts, for byte queries and at least
                                           INDEXER_MATRIX_ROWS rows a sequence. Its scores are other bits. */
    dsvk_addr rows, seqs;
    dsvk_addr iq;       /* f32 [n, iq_stride] or byte queries; the scores are the same bits */
    dsvk_addr weights;  /* f32 [n, weights_stride]: n_heads values */
    dsvk_addr scores;   /* f32 [n, scores_stride] out */
    dsvk_addr bins;     /* dsvk_topk_bins_bytes(n) of zeros before; topk leaves zeros again */
    dsvk_row_format format;
    uint32_t n, n_heads, iq_stride, weights_stride, scores_stride, k;
    uint32_t n_seqs;      /* of the step; rows that are of few sequences share the decoding of keys */
    uint32_t max_visible; /* largest number of visible keys of any row, for the grid */
    const dsvk_buffer *grid; /* where the grid stands that dsvk_advance made, or NULL */
    uint64_t grid_offset;
    uint32_t counted;
    uint32_t page_tokens, page_offset;
    float scale;        /* index_dim^-0.5 * n_heads^-0.5 */
} dsvk_indexer_params;
void dsvk_indexer(dsvk_cmd *cmd, const dsvk_indexer_params *p);
uint32_t dsvk_indexer_keys(dsvk_cmd *cmd); /* of a workgroup: its grid is [visible / keys, n] when every row is a sequence of its own */

/* Exact top-k of the visible scores, ties to the lower index; idx ascending, -1 beyond. visible = (position + 1) / 4; all
 * are taken when visible <= k (scores are then not read). NaN ranks below every number. scores_stride: a multiple of 4. */
typedef struct dsvk_topk_params {
    dsvk_addr rows;
    dsvk_addr scores;  /* f32 [n, scores_stride] */
    dsvk_addr bins;    /* what the indexer counted there; zeros afterwards */
    dsvk_addr list;    /* scratch, dsvk_topk_list_bytes(n, scores_stride) */
    dsvk_addr idx;     /* i32 [n, k] out */
    uint32_t n, k, scores_stride;
    uint32_t max_visible; /* largest number of visible keys of any row, for the grid */
    uint32_t counted;
} dsvk_topk_params;
void dsvk_topk(dsvk_cmd *cmd, const dsvk_topk_params *p);
uint64_t dsvk_topk_bins_bytes(uint32_t n);
uint64_t dsvk_topk_list_bytes(uint32_t n, uint32_t scores_stride);

/* 4.8 and the inverse RoPE of 4.9. Rows of token t: window positions max(0, pos-window+1) .. pos (positions of this step from
 * `step_store` at index first + (p - start), earlier ones from the ring), then compressed entries: idx[t] (ratio 4), all
 * j < (pos+1)/ratio (ratio 128), none (ratio 0). o = sum / (sum + exp(sink - max)), inverse RoPE at pos on the tail of each
 * head. idx is filled from the front: entries beyond the first min(k, visible) are not looked at, values that name no visible
 * entry are no rows.
 * n_splits is an upper bound, so that a recording serves positions that grow: a token's list of rows is divided by its own
 * length. A row's bits are the same for every n_splits >= min(32, rows of its list / segment). */
typedef struct dsvk_sparse_attn_params {
    dsvk_addr rows, seqs;
    dsvk_addr rope;
    dsvk_addr q;           /* f32 [n, q_stride] */
    dsvk_addr step_store;  /* row store of this step's window rows, capacity step_capacity */
    dsvk_addr idx;         /* i32 [n, k]; ratio 4 only */
    dsvk_addr sink;        /* f32 [n_heads] */
    dsvk_addr partial;     /* f32 scratch, dsvk_sparse_attn_scratch bytes */
    dsvk_addr counters;    /* u32 [n * n_heads / 4 or more], 0 before and after; n_splits > 1 only */
    dsvk_addr out;         /* f32 [n, n_heads * head_dim] */
    dsvk_row_format format;
    uint32_t n, n_heads, q_stride, step_capacity, window, ratio, k;
    uint32_t ring_offset, ring_capacity; /* row store of the window ring in the state */
    uint32_t page_tokens, page_offset;
    uint32_t n_splits;     /* at most so many workgroups share the rows of a token; <= 32 */
    uint32_t segment;      /* rows that a workgroup works on together: 64, 128, or 0: what suits the device and n */
    uint32_t entries;      /* other ratios than 4: compressed entries of the last row, for profiles and slices; 0: not known */
    uint32_t counted;
    float scale;           /* head_dim^-0.5 */
    const dsvk_matmul_variant *variant; /* NULL: the device's; coopmat without plain_attention counts, for DSVK_CHUNK native rows or
                                         * more in one split */
} dsvk_sparse_attn_params;
uint64_t dsvk_sparse_attn_scratch(uint32_t n, uint32_t n_splits, uint32_t n_heads, uint32_t head_dim); /* bytes */
/* A good n_splits for n rows of at most max_rows keys: one for every 64 keys, up to 32, while n is small, 1 otherwise. */
uint32_t dsvk_sparse_attn_splits(uint32_t n, uint32_t max_rows);
/* Bytes that do for every step of at most n rows whose tokens see at most max_rows keys, split as above. */
uint64_t dsvk_sparse_attn_most_scratch(uint32_t n, uint32_t max_rows, uint32_t n_heads, uint32_t head_dim);
void dsvk_sparse_attn(dsvk_cmd *cmd, const dsvk_sparse_attn_params *p);

/* ---- the fused ops of small steps ----
 * A step of at most DSVK_FEW_ROWS rows runs a layer in 8 dispatches (SWA, HCA) or 10 (CSA): attn_in, attn_query, (indexer, topk,)
 * sparse_attn, wo_a, wo_b, moe_in, moe_expert up, moe_out. Each gives the bits of the single ops it stands for, in the order
 * of the comments. `counters` u32 [DSVK_FUSED_COUNTERS(...)] are 0 before and after. */
#define DSVK_FEW_ROWS 32u

/* matmul of `w` and of `w_b` (n_out 0: none) with x; then qr = rms_norm of the first q_rank columns of out. */
typedef struct dsvk_attn_in_params {
    dsvk_matrix w, w_b;      /* [q_rank + .., n_in], [.., n_in] */
    dsvk_addr x;             /* f32 [n, n_in] */
    dsvk_addr out, out_b;    /* f32 [n, w.n_out], [n, out_b_stride] */
    dsvk_addr norm;          /* f32 [q_rank] */
    dsvk_addr qr;            /* f32 [n, q_rank] */
    dsvk_addr counters;
    uint32_t n, q_rank, out_b_stride;
    float eps;
} dsvk_attn_in_params;
void dsvk_attn_in(dsvk_cmd *cmd, const dsvk_attn_in_params *p);

/* matmul of `w` with qr, then rope and quant_index of its heads; quant_row of kv; kv_compress of rows and, with ratio 4, keys. */
typedef struct dsvk_attn_query_params {
    dsvk_addr rows, seqs;
    dsvk_addr rope;
    dsvk_matrix w;           /* [n_heads * head_dim (+ index heads * index_dim), q_rank] */
    dsvk_addr vectors;       /* struct dsvk_kv_vectors (shaders/layer_table.h) */
    dsvk_addr qr;            /* f32 [n, q_rank] */
    dsvk_addr q;             /* f32 [n, w.n_out] */
    dsvk_addr kv;            /* f32 [n, q_rank + head_dim]: out of attn_in */
    dsvk_addr ks;            /* f32 [n, ks_stride]: K and S for rows, then for keys */
    dsvk_addr store;         /* row store of n rows */
    dsvk_addr counters;
    dsvk_row_format format;
    uint32_t n, n_heads, ratio, ks_stride;
    uint32_t ring_offset, index_ring_offset, ring_capacity; /* as in kv_compress */
    uint32_t page_tokens, rows_offset, keys_offset;
    float eps;
} dsvk_attn_query_params;
void dsvk_attn_query(dsvk_cmd *cmd, const dsvk_attn_query_params *p);

/* matmul of `w` in groups with x; ring_store of the window row and of K and S. */
typedef struct dsvk_wo_a_params {
    dsvk_addr rows, seqs;
    dsvk_matrix w;           /* [groups * group_rows, n_in] */
    dsvk_addr x;             /* f32 [n, groups * n_in] */
    dsvk_addr out;           /* f32 [n, w.n_out] */
    dsvk_addr store;         /* row store of n rows */
    dsvk_addr ks;            /* f32 [n, ks_stride]; width = K values of a token, 0: none */
    dsvk_row_format format;
    uint32_t n, group_rows, ks_stride;
    uint32_t window_offset, window_capacity;
    uint32_t ring_offset, width, index_ring_offset, index_width, ring_capacity;
} dsvk_wo_a_params;
void dsvk_wo_a(dsvk_cmd *cmd, const dsvk_wo_a_params *p);

/* matmul of `w` with x; hyper_conn_mix with the result as the only part; hyper_conn_pre of the next site (24 mixes). */
typedef struct dsvk_wo_b_params {
    dsvk_matrix w;           /* [dim, n_in] */
    dsvk_addr x;             /* f32 [n, n_in] */
    dsvk_addr streams;       /* f32 [n, 4, dim], in place */
    dsvk_addr post, comb;    /* f32 [n, 4], [n, 4, 4]: this site's in, the next one's out */
    dsvk_addr site;          /* struct dsvk_site of the next */
    dsvk_addr partials;      /* f32 [n, dim / 32, 25] */
    dsvk_addr out;           /* f32 [n, dim] */
    dsvk_addr counters;
    uint32_t n, sinkhorn_iters;
    float eps, hc_eps;
} dsvk_wo_b_params;
void dsvk_wo_b(dsvk_cmd *cmd, const dsvk_wo_b_params *p);

/* matmul of `gate` and moe_gate, matmul of `up` with swiglu, and moe_sort (in any order of an expert's pairs). */
typedef struct dsvk_moe_in_params {
    dsvk_addr rows;
    dsvk_matrix gate, up;    /* [n_experts, dim], [2 hidden, dim] */
    dsvk_addr x;             /* f32 [n, dim] */
    dsvk_addr logits;        /* f32 [n, n_experts up to a multiple of 4] */
    dsvk_addr h;             /* f32 [n, hidden] */
    dsvk_addr bias, table;   /* as in moe_gate */
    dsvk_addr idx, weights;  /* u32 [n, k], f32 [n, k] */
    dsvk_addr pairs, tiles;  /* as in moe_sort, tiles of dsvk_moe_tile pairs */
    dsvk_addr counters;
    uint32_t n, k, vocab;
    float limit, route_scale;
} dsvk_moe_in_params;
void dsvk_moe_in(dsvk_cmd *cmd, const dsvk_moe_in_params *p);
bool dsvk_moe_in_fits(uint32_t n, uint32_t k, uint32_t n_experts); /* else the single ops do it */

/* moe_expert down and matmul of the shared expert's `down`, hyper_conn_mix of the k + 1 parts, and hyper_conn_pre of the next site;
 * n_mix 4: the next site is the head, which hyper_conn_pre (tiles) does for the rows it wants. */
typedef struct dsvk_moe_out_params {
    dsvk_addr experts;       /* as in moe_expert */
    dsvk_addr pairs, tiles;
    dsvk_matrix w, shared;   /* [dim, hidden] each; w.addr is ignored */
    uint64_t offset;         /* of w in an expert's blob */
    dsvk_addr h;             /* f32 [n * k, hidden] of pairs, then [n, hidden] of the shared expert */
    dsvk_addr y;             /* f32 [n, k + 1, dim], scratch */
    dsvk_addr streams, post, comb, site, partials, out; /* as in wo_b; partials [n, dim / 32, n_mix + 1] */
    dsvk_addr counters;
    uint32_t n, k, n_experts, n_mix, sinkhorn_iters;
    float eps, hc_eps;
} dsvk_moe_out_params;
void dsvk_moe_out(dsvk_cmd *cmd, const dsvk_moe_out_params *p);

/* Section 5: one id per row. Order: temperature, top-k, top-p (of what top-k left), min-p (relative to the best). Random numbers
 * are a hash of (seed, position, token id), so a row's choice depends on nothing but its logits and options. temperature
 * 0: argmax, lowest id on ties. Non-finite logits: id 0xffffffff. */
struct dsvk_sample_row { /* one per row, in device memory */
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint32_t seed_lo, seed_hi;
    uint32_t position;
    uint32_t pad;
};
typedef struct dsvk_sample_params {
    dsvk_addr logits;   /* f32 [n, vocab] */
    dsvk_addr options;  /* dsvk_sample_row [n] */
    dsvk_addr out;      /* u32 [n] */
    uint32_t n, vocab;
} dsvk_sample_params;
void dsvk_sample(dsvk_cmd *cmd, const dsvk_sample_params *p);

/* Logits before a token is chosen from them: value is added to that of id, for every entry of a row's list (an id at most once), and
 * those of ids whose bit is 0 in the row's mask become the least float, which dsvk_sample takes only when no other is left. Logits
 * that are not finite stay as they are. */
struct dsvk_edit_row { /* in memory the device reads */
    dsvk_addr mask;    /* u32 [vocab / 32, rounded up]: bit id % 32 of word id / 32; 0: every token may be chosen */
    dsvk_addr list;    /* {i32 id, f32 value} [n_list] */
    uint32_t n_list;
    uint32_t row;      /* of logits */
};
typedef struct dsvk_edit_logits_params {
    dsvk_addr rows;     /* dsvk_edit_row [n], no row of logits twice */
    dsvk_addr logits;   /* f32 [rows, vocab] */
    uint32_t n, vocab;
} dsvk_edit_logits_params;
void dsvk_edit_logits(dsvk_cmd *cmd, const dsvk_edit_logits_params *p);

/* From one token to the next on the device: the chosen ids become the rows' tokens, one position on; each row is the only one
 * of its sequence. A row whose id is one of its stops has ended: it stays where it is from then on, and runs its last token again
 * to no effect. An id of a row that has not ended that is outside the vocabulary (sample: non-finite logits) stops all rows. */
struct dsvk_end_row { /* one per row, in device memory */
    uint32_t first_stop, n_stops; /* its stops: stops[first_stop] and so on */
    uint32_t ended;               /* 0 or 1 */
    uint32_t pad;
};
typedef struct dsvk_advance_params {
    dsvk_addr ids;        /* u32 [n] */
    dsvk_addr rows, seqs; /* dsvk_row [n], dsvk_seq: token, position and start change */
    dsvk_addr sample;     /* dsvk_sample_row [n]: position, of the token to choose next, changes */
    dsvk_addr ends;       /* dsvk_end_row [n]: ended changes */
    dsvk_addr stops;      /* u32 */
    dsvk_addr step;       /* u32, counted up */
    dsvk_addr chosen;     /* u32 [steps, n] out: row `step` = ids */
    dsvk_addr index_grid; /* u32 [3] out: the grid of dsvk_indexer for these rows, 0 in x while no row sees more than index_topk */
    uint32_t n, vocab, steps;
    uint32_t index_topk;
    uint32_t max_visible; /* of dsvk_indexer: what the grid is kept to */
} dsvk_advance_params;
void dsvk_advance(dsvk_cmd *cmd, const dsvk_advance_params *p);

/* ---- what a device can do, for measure.c: used by no model ---- */

/* out [n] = source [n], 16-byte words. */
typedef struct dsvk_bench_copy_params {
    dsvk_addr source, out;
    uint32_t n;
} dsvk_bench_copy_params;
void dsvk_bench_copy(dsvk_cmd *cmd, const dsvk_bench_copy_params *p);

/* out [groups * 256]: the sum of eight chains of 16 * rounds links a = a * x + y, from a = i / 256 + 0 .. 7. */
typedef struct dsvk_bench_fma_params {
    dsvk_addr out;
    float x, y;
    uint32_t groups, rounds;
} dsvk_bench_fma_params;
void dsvk_bench_fma(dsvk_cmd *cmd, const dsvk_bench_fma_params *p);

/* out [groups * 256 / subgroup, m, n] = 32 * rounds * a b^T, added up by products of cooperative matrices. */
typedef struct dsvk_bench_coopmat_params {
    dsvk_addr a, b;  /* f16 [m, k], [n, k] */
    dsvk_addr out;   /* f32 */
    dsvk_matmul_variant shape; /* one of the device's coopmat ones */
    uint32_t groups, rounds;
} dsvk_bench_coopmat_params;
void dsvk_bench_coopmat(dsvk_cmd *cmd, const dsvk_bench_coopmat_params *p);

#endif
