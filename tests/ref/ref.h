/* The scalar references, one file per op: plain loops written from the specification, in double where a sum is meant, never
 * touched when a kernel is tuned. Tests compare kernels with them. */
#ifndef DSVK_REF_H
#define DSVK_REF_H

#include "ops.h"

/* ---- number formats (ref_formats.c, spec section 3) ---- */
float ref_bf16(uint16_t bits);
uint16_t ref_bf16_bits(float x);   /* nearest even */
float ref_e4m3(uint8_t code);      /* 0x7f and 0xff are NaN */
uint8_t ref_e4m3_bits(float x);    /* clamps to 448, nearest even */
float ref_e2m1(uint8_t nibble);
uint8_t ref_e2m1_bits(float x);    /* clamps to 6, nearest even */
float ref_ue8m0(uint8_t byte);     /* 255 is NaN */

/* ---- matrices as files hold them (ref_matmul.c) ---- */
typedef struct ref_matrix {
    dsvk_weight_type type;
    uint32_t n_out, n_in;
    const void *codes;  /* [n_out, n_in] row-major: f32, bf16, e4m3 bytes, or e2m1 pairs (low nibble is the even input) */
    const void *scales; /* FP8: f32 [ceil(n_out / 16), ceil(n_in / 128)]; FP4: ue8m0 bytes [n_out, n_in / 32]; else NULL */
} ref_matrix;
float ref_weight(const ref_matrix *m, uint32_t o, uint32_t i);
/* Sum over the inputs of x[i] * W[o][i], and in *magnitude the sum of the absolute products. */
double ref_dot(const ref_matrix *m, uint32_t o, const float *x, double *magnitude);
/* silu(min(a, limit)) * clamp(b, -limit, limit), limit 0: no clamp (4.10). */
double ref_swiglu(double a, double b, double limit);
/* The same for output c of w1 and w3 interleaved in m (ops.h, matmul); *magnitude: what rounding errors are relative to. */
double ref_swiglu_dot(const ref_matrix *m, uint32_t c, const float *x, double limit, double *magnitude);
/* The tiled layout of ops.h, dsvk_matrix_bytes bytes; the rows and inputs that pad it are zero. */
void ref_pack_tiles(const ref_matrix *m, bool columns, void *blob);

/* ---- rows by index (ref_embed.c, ref_gather.c) ---- */
void ref_embed(const uint16_t *table, uint32_t token, uint32_t dim, uint32_t copies, float *out); /* out [copies, dim] */
/* in [n_in, dim]; ring [slots, dim], of which `source` 0x80000000 | slot takes one. */
void ref_gather(const float *in, uint32_t n_in, const float *ring, uint32_t slots, uint32_t source, uint32_t dim, float *out);

/* ---- mixture of experts (ref_moe_gate.c, ref_moe_sort.c, ref_moe_expert.c) ---- */
/* One row. table_row [k] or NULL, bias [n_experts] without it. Returns how far the worst chosen score + bias lies above
 * the best one left out: within the rounding of a score either choice is right. */
double ref_moe_gate(const float *logits, const float *bias, const uint32_t *table_row, uint32_t n_experts, uint32_t k,
                    float route_scale, uint32_t *idx, float *weights);
/* pairs [n_pairs] by expert, then by number; tiles [max_tiles][4] as moe_sort makes them. */
void ref_moe_sort(const uint32_t *idx, uint32_t n_pairs, uint32_t n_experts, uint32_t tile, uint32_t *pairs,
                  uint32_t (*tiles)[4], uint32_t max_tiles);

/* One value of one pair: up, output c of w1 and w3 interleaved, times the routing weight; down, output c of w2. */
double ref_moe_up(const ref_matrix *up, float weight, const float *x, uint32_t c, double limit, double *magnitude);
double ref_moe_down(const ref_matrix *down, const float *h, uint32_t c, double *magnitude);

/* ---- sampling (ref_sample.c) ---- */
/* One row. *margin: the least relative distance of any decision on the way (the cuts' masses, p against min_p, the first
 * two of the race) from going the other way; below float rounding another id is right too. */
uint32_t ref_sample(const float *logits, uint32_t vocab, const struct dsvk_sample_row *options, double *margin);

/* ---- logits before a token is chosen (ref_edit_logits.c): one row in place; mask u32 or NULL; list of n ids and what is added ---- */
void ref_edit_logits(float *logits, uint32_t vocab, const uint32_t *mask, const int32_t *ids, const float *values, uint32_t n);

/* ---- from one token to the next (ref_advance.c): everything in place; grid is that of the indexer ---- */
typedef struct ref_advance_batch {
    struct dsvk_row *rows;            /* [n] */
    struct dsvk_seq *seqs;
    struct dsvk_sample_row *sample;   /* [n] */
    struct dsvk_end_row *ends;        /* [n] */
    const uint32_t *stops;
    uint32_t n, vocab, index_topk, max_visible, index_keys; /* keys of a workgroup of the indexer */
} ref_advance_batch;
void ref_advance(const ref_advance_batch *b, const uint32_t *ids, uint32_t grid[3]);

/* ---- indexer, top-k, attention (ref_indexer.c, ref_topk.c, ref_sparse_attn.c) ---- */
/* One row's scores of keys [visible][dim]; magnitude[j] is the sum of the sizes of the terms of scores[j]. */
void ref_indexer(const float *iq, const float *weights, const float *keys, uint32_t n_heads, uint32_t dim, uint32_t visible,
                 float scale, float *scores, float *magnitude);
void ref_topk(const float *scores, uint32_t visible, uint32_t k, int32_t *idx);

/* One token, by what it attends to rather than by where that is stored. */
typedef struct ref_sparse_attn_case {
    const float *q;           /* [n_heads][head_dim] */
    const float *window_rows; /* [positions][head_dim], decoded */
    const float *entries;     /* compressed, [entries][head_dim], decoded */
    const int32_t *idx;       /* [k], ratio 4 */
    const float *sink;        /* [n_heads] */
    const float *angles;      /* (cos, sin) [rope_dim / 2][2] of the position */
    uint32_t position, window, ratio, k, n_heads, head_dim, rope_dim;
    float scale;
} ref_sparse_attn_case;
void ref_sparse_attn(const ref_sparse_attn_case *c, float *out, float *magnitude); /* both [n_heads][head_dim] */

/* ---- rows and keys as stored (ref_cache.c): row r of a store of `capacity` rows, ops.h ---- */
void ref_read_row(const void *store, uint32_t capacity, uint32_t r, const dsvk_row_format *f, float *out);
void ref_read_key(const void *store, uint32_t capacity, uint32_t r, const dsvk_row_format *f, float *out);

/* ---- norms, RoPE, hyper-connections (ref_rms_norm.c, ref_rope.c, ref_hyper_conn.c) ---- */
void ref_rms_norm(const float *x, const float *weight, float *out, uint32_t dim, float eps);
/* (cos, sin) of pair i at a position, base 10000, the angle rounded to f32 as host tables have it (4.4). */
void ref_rope_angle(uint32_t rope_dim, uint32_t position, uint32_t i, float *cosine, float *sine);
/* Turns the last rope_dim of n values; float: every product and sum rounded, as a kernel must. */
void ref_rope(float *x, uint32_t n, uint32_t rope_dim, uint32_t position);
void ref_rope_wide(double *x, uint32_t n, uint32_t rope_dim, uint32_t position);
void ref_head_norm(float *q, uint32_t head_dim, float eps); /* in place */
/* 4.3 for one row. x [4, dim] in place; magnitude [4, dim] or NULL: sums of |terms|. */
void ref_hyper_conn_post(float *x, const float *y, uint32_t n_parts, const float *post, const float *comb, uint32_t dim,
                         float *magnitude);
/* partials [ceil(dim / 256), n_mix + 1] and the sums of |terms| of each. */
void ref_hyper_conn_mix(const float *x, const float *fn, uint32_t dim, uint32_t n_mix, float *partials, float *magnitude);
typedef struct ref_hyper_conn {
    const float *base, *scale, *norm; /* [n_mix], [3] or [1], [dim] */
    uint32_t dim, n_mix, sinkhorn_iters;
    float eps, hc_eps;
} ref_hyper_conn;
/* out [dim], post [4], comb [4, 4]; pre [4] or NULL; magnitude [dim]: what out's rounding errors are relative to. */
void ref_hyper_conn_pre(const ref_hyper_conn *p, const float *x, const float *partials, float *out, float *pre, float *post,
                        float *comb, float *magnitude);

/* ---- quantisers and what the cache holds (ref_quant.c) ---- */
uint8_t ref_fq8_scale(float amax); /* 3.5: ue8m0 byte of a block */
uint8_t ref_fq4_scale(float amax); /* 3.6 */
void ref_hadamard(float *x, uint32_t n);       /* 3.7, in place, f32 butterflies with strides 1, 2, 4 .. */
void ref_hadamard_wide(double *x, uint32_t n);
/* Encodes head_dim values, already normalised and rotated, as row `row` of a row store. */
void ref_store_row(const dsvk_row_format *f, const float *line, void *store, uint32_t capacity, uint32_t row);
/* Encodes index_dim values, already transformed, as row `row` of an index key store. */
void ref_store_key(const dsvk_row_format *f, const float *line, void *store, uint32_t capacity, uint32_t row);
void ref_quant_index(const dsvk_row_format *f, float *head, uint32_t position); /* one head, in place */

/* ---- compressor and rings (ref_kv_compress.c, ref_ring_store.c) ---- */
/* Entry j before it is encoded: pooled, normalised, rotated [width]. token(context, u) is K [w] then S [w] of position u. */
typedef const float *(*ref_token)(const void *context, uint32_t u);
void ref_kv_compress(ref_token token, const void *context, uint32_t j, uint32_t ratio, uint32_t width, const float *ape,
                     const float *norm, double eps, uint32_t rope_dim, double *line);
/* Copies the rows [first, first + rows) of a step, positions from start on, into a ring. */
void ref_ring_store(const uint8_t *source, uint32_t stride, uint32_t bytes, uint8_t *ring, uint32_t capacity, uint32_t first,
                    uint32_t rows, uint32_t start);

/* ---- kernels that measure a device (ref_bench_copy.c, ref_bench_fma.c, ref_bench_coopmat.c) ---- */
float ref_bench_coopmat(const float *a, const float *b, uint32_t k, uint32_t rounds); /* one element, of rows a [k], b [k] */
void ref_bench_copy(const void *source, uint32_t n, void *out); /* 16-byte words [n] */
float ref_bench_fma(uint32_t i, float x, float y, uint32_t rounds);

#endif
