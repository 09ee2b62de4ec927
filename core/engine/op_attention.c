/* The ops of an attention layer (spec 4.4 to 4.9), for one sequence whose rows are all there: no rings, one page. */
#include <math.h>
#include <string.h>

#include "engine.h"
#include "tensor.h"
#include "topk.h"

#define MOST_ROWS 65535.0
#define ASK_ROWS 64u    /* of the host's work, between two times that the caller may stop it */
#define TABLE_ROWS 4096u /* of a table made at once, in the same sense */

/* The last row's position + 1. */
static uint32_t end_of(const op_call *c) { return dsvk_op_integer(c, "start") + dsvk_op_dim(c, "n"); }

/* Of cache rows that this op writes or reads as f32; the rotated part comes from the table. */
static dsvk_row_format row_format(const op_call *c, bool native) {
    return (dsvk_row_format){ .native = native, .head_dim = dsvk_op_dim(c, "head_dim"), .rope_dim = 2 * dsvk_op_dim(c, "pairs"),
                              .index_dim = dsvk_op_dim(c, "index_dim") };
}

/* ---- RoPE ---- */

static void run_rope_table(op_call *c) {
    const uint32_t n = dsvk_op_integer(c, "positions"), dim = dsvk_op_integer(c, "dim");
    const double factor = dsvk_op_number(c, "factor");
    const dsvk_config config = { .rope_dim = dim, .rope_theta = dsvk_op_number(c, "base"), .compress_rope_theta = dsvk_op_number(c, "base"),
                                 .yarn = { .factor = factor, .original_max_position = dsvk_op_integer(c, "original"),
                                           .beta_fast = dsvk_op_number(c, "beta_fast"), .beta_slow = dsvk_op_number(c, "beta_slow") } };
    if (dim % 2) {
        dsvk_op_fail(c, "dim: expected an even number, got %u", dim);
        return;
    }
    const uint32_t piece = n < TABLE_ROWS ? n : TABLE_ROWS;
    const uint64_t bytes = 4ull * (piece + 1) * dim;
    float *frequencies = dsvk_alloc(bytes), *values = frequencies ? frequencies + dim : NULL;
    dsvk_op_f32(c, 0, 3, n, dim / 2, 2, 0);
    if (!values && c->status == DSVK_OK)
        c->status = dsvk_fail_nomem(c->err, bytes);
    if (c->status == DSVK_OK)
        dsvk_rope_frequencies(&config, factor > 1, frequencies);
    for (uint32_t t = 0, rows; t < n && dsvk_op_ask(c, t, n); t += rows) {
        rows = n - t < piece ? n - t : piece;
        dsvk_rope_angles(frequencies, dim, t, rows, values);
        c->status = dsvk_buffer_write(c->device, &c->results[0]->buffer, 4ull * t * dim, values, 4ull * rows * dim, c->err);
    }
    dsvk_free(frequencies);
}

const op dsvk_op_rope_table = {
    .name = "rope_table",
    .does = "4.4: cos and sin of position * f_i, f_i = base^(-2i / dim), with YaRN where factor > 1",
    .slots = { { "positions", OP_INTEGER, "", 4096, 1, MOST_POSITION },
               { "dim", OP_INTEGER, "", 64, 2, 512 },
               { "base", OP_NUMBER, "", 10000, 1.0001, 1e12 },
               { "factor", OP_NUMBER, "", 1, 1, 1e6 },
               { "original", OP_INTEGER, "", 65536, 1, 2147483647.0 },
               { "beta_fast", OP_NUMBER, "", 32, 1e-6, 1e6 },
               { "beta_slow", OP_NUMBER, "", 1, 1e-6, 1e6 } },
    .results = { { "table", OP_F32, "positions pairs 2", 0, 0, 0 } },
    .run = run_rope_table,
};

#define TABLE { "table", OP_F32, "positions pairs 2", 0, 0, 0 }
#define START { "start", OP_INTEGER, "", 0, 0, MOST_POSITION }
#define EPS { "eps", OP_NUMBER, "", 1e-6, 0, 1 }
#define NATIVE { "native", OP_INTEGER, "", 0, 0, 1 }

/* The result of an op that works in place: a copy of an argument. A barrier has to follow. */
static dsvk_addr copy_of(op_call *c, const char *name) {
    const dsvk_tensor *t = dsvk_op_tensor(c, name);
    const dsvk_addr at = dsvk_op_result(c, 0, t->form, t->dtype, t->rank, t->shape, 0);
    if (c->results[0])
        dsvk_cmd_copy(c->cmd, &t->buffer, 0, &c->results[0]->buffer, 0, t->buffer.size);
    dsvk_barrier(c->cmd);
    return at;
}

static void run_rope(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), heads = dsvk_op_dim(c, "heads"), head_dim = dsvk_op_dim(c, "head_dim");
    const dsvk_addr q = copy_of(c, "q");
    dsvk_rope(c->cmd, &(dsvk_rope_params){ .rows = dsvk_op_rows(c, n, dsvk_op_integer(c, "start"), NULL),
                                           .rope = dsvk_op_angles(c, end_of(c)), .q = q, .n = n, .n_heads = heads,
                                           .head_dim = head_dim, .rope_dim = 2 * dsvk_op_dim(c, "pairs"),
                                           .q_stride = heads * head_dim, .eps = (float)dsvk_op_number(c, "eps") });
}

const op dsvk_op_rope = {
    .name = "rope",
    .does = "4.5, 4.4: each head through RMSNorm without a weight, then its last 2 * pairs values turned by the angle of its position",
    .slots = { { "q", OP_F32, "n heads head_dim", 0, 0, 0 }, TABLE, START, EPS },
    .results = { { "q", OP_F32, "n heads head_dim", 0, 0, 0 } },
    .run = run_rope,
};

/* ---- cache rows and index queries ---- */

/* A result of n cache rows or keys, f32 or native. */
static dsvk_addr stored_rows(op_call *c, bool native, bool keys, uint32_t n, uint32_t width) {
    const dsvk_form form = !native ? DSVK_FORM_VALUES : keys ? DSVK_FORM_KEYS : DSVK_FORM_ROWS;
    const dsvk_dtype dtype = !native ? DSVK_DTYPE_F32 : keys ? DSVK_DTYPE_F4 : DSVK_DTYPE_F8_E4M3;
    return dsvk_op_result(c, 0, form, dtype, 2, (const uint64_t[]){ n, width }, keys ? 0 : 2 * dsvk_op_dim(c, "pairs"));
}

static void run_quant_row(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), width = dsvk_op_dim(c, "head_dim");
    const bool native = dsvk_op_integer(c, "native");
    dsvk_quant_row(c->cmd, &(dsvk_quant_row_params){
        .rows = dsvk_op_rows(c, n, dsvk_op_integer(c, "start"), NULL), .rope = dsvk_op_angles(c, end_of(c)), .kv = dsvk_op_values(c, "kv"),
        .weight = dsvk_op_values(c, "weight"), .store = stored_rows(c, native, false, n, width), .format = row_format(c, native), .n = n,
        .kv_stride = width, .capacity = n, .eps = (float)dsvk_op_number(c, "eps") });
}

const op dsvk_op_quant_row = {
    .name = "quant_row",
    .does = "4.5: window rows of the cache: RMSNorm(kv, weight), RoPE on the last 2 * pairs values; native: FP8, and BF16 for the end",
    .slots = { { "kv", OP_F32, "n head_dim", 0, 0, 0 }, { "weight", OP_F32, "head_dim", 0, 0, 0 }, TABLE, START, EPS, NATIVE },
    .results = { { "rows", OP_ROWS, "n head_dim", 0, 0, 0 } },
    .run = run_quant_row,
};

static void run_quant_index(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), heads = dsvk_op_dim(c, "heads"), width = dsvk_op_dim(c, "index_dim");
    const dsvk_addr iq = copy_of(c, "iq");
    dsvk_quant_index(c->cmd, &(dsvk_quant_index_params){
        .rows = dsvk_op_rows(c, n, dsvk_op_integer(c, "start"), NULL), .rope = dsvk_op_angles(c, end_of(c)), .iq = iq,
        .format = row_format(c, dsvk_op_integer(c, "native")), .n = n, .n_heads = heads, .iq_stride = heads * width });
}

const op dsvk_op_quant_index = {
    .name = "quant_index",
    .does = "4.7: index queries: RoPE on the last 2 * pairs values of each head, Hadamard; native: rounded to FP4 per 32 values",
    .slots = { { "iq", OP_F32, "n heads index_dim", 0, 0, 0 }, TABLE, START, NATIVE },
    .results = { { "iq", OP_F32, "n heads index_dim", 0, 0, 0 } },
    .run = run_quant_index,
};

static void run_kv_compress(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), ratio = dsvk_op_dim(c, "ratio"), width = dsvk_op_dim(c, "width");
    const uint32_t entries = ratio ? n / ratio : 0;
    const bool native = dsvk_op_integer(c, "native"), index = dsvk_op_integer(c, "index");
    const uint32_t w = ratio == 4 ? 2 * width : width;
    if (dsvk_op_dim(c, "w") != w || dsvk_op_dim(c, "w2") != 2 * w)
        dsvk_op_fail(c, "ape, ks: at ratio %u entries of %u values take ape [%u, %u] and ks [n, %u], got [%u, %u] and [%u, %u]", ratio,
                     width, ratio, w, 2 * w, ratio, dsvk_op_dim(c, "w"), n, dsvk_op_dim(c, "w2"));
    if (n < ratio)
        dsvk_op_fail(c, "ks: %u rows complete no entry at ratio %u", n, ratio);
    if (c->status != DSVK_OK)
        return;
    dsvk_row_format format = row_format(c, native);
    format.head_dim = format.index_dim = width;
    const dsvk_addr store = stored_rows(c, native, index, entries, width);
    dsvk_kv_compress(c->cmd, &(dsvk_kv_compress_params){
        .rows = dsvk_op_rows(c, n, 0, NULL), .seqs = dsvk_op_sequence(c, n, store), .rope = dsvk_op_angles(c, n),
        .ks = dsvk_op_values(c, "ks"), .ape = dsvk_op_values(c, "ape"), .norm = dsvk_op_values(c, "norm"), .format = format,
        .index = index, .n = n, .ratio = ratio, .ks_stride = 2 * w, .ring_capacity = ratio + 8, .page_tokens = entries * ratio,
        .eps = (float)dsvk_op_number(c, "eps") });
}

const op dsvk_op_kv_compress = {
    .name = "kv_compress",
    .does = "4.6: entry j pools the K of its `ratio` tokens (ratio 4: and of the four before), weighted per channel by a softmax over "
            "S + ape; then RMSNorm(norm), RoPE at position j * ratio; index: Hadamard; native: FP8 rows, FP4 keys. ks: K, then S, "
            "from position 0; ratio 4: both 2 * width wide",
    .slots = { { "ks", OP_F32, "n w2", 0, 0, 0 }, { "ape", OP_F32, "ratio w", 0, 0, 0 }, { "norm", OP_F32, "width", 0, 0, 0 }, TABLE,
               { "index", OP_INTEGER, "", 0, 0, 1 }, EPS, NATIVE },
    .results = { { "entries", OP_ROWS, "n/ratio width", 0, 0, 0 } },
    .run = run_kv_compress,
};

/* ---- choosing entries ---- */

static void run_indexer(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), heads = dsvk_op_dim(c, "heads"), width = dsvk_op_dim(c, "index_dim"), m = dsvk_op_dim(c, "m");
    const uint32_t stride = (uint32_t)dsvk_align(m, 4), visible = end_of(c) / 4;
    const dsvk_tensor *keys = dsvk_op_tensor(c, "keys");
    const double scale = dsvk_op_number(c, "scale");
    if (visible > m)
        dsvk_op_fail(c, "keys: row %u, at position %u, sees %u keys, there are %u", n - 1, end_of(c) - 1, visible, m);
    const dsvk_addr bins = dsvk_op_zeros(c, dsvk_topk_bins_bytes(n)), scores = dsvk_op_scratch(c, 4ull * n * stride);
    dsvk_op_f32(c, 0, 2, n, m, 0, 0);
    if (c->status != DSVK_OK)
        return;
    const dsvk_buffer *to = &c->results[0]->buffer, *from = &c->scratch[c->n_scratch - 1];
    dsvk_cmd_fill(c->cmd, from, 0, from->size, 0xff800000u); /* -inf: not visible */
    dsvk_barrier(c->cmd);
    dsvk_row_format format = dsvk_tensor_format(keys);
    format.native = keys->form == DSVK_FORM_KEYS;
    dsvk_indexer(c->cmd, &(dsvk_indexer_params){
        .rows = dsvk_op_rows(c, n, dsvk_op_integer(c, "start"), NULL), .seqs = dsvk_op_sequence(c, n, keys->buffer.addr),
        .iq = dsvk_op_values(c, "iq"), .weights = dsvk_op_values(c, "weights"), .scores = scores, .bins = bins, .format = format,
        .n = n, .n_heads = heads, .iq_stride = heads * width, .weights_stride = heads, .scores_stride = stride, .k = 0, .n_seqs = 1,
        .max_visible = visible, .page_tokens = 4 * m, .scale = (float)(scale ? scale : 1 / sqrt((double)width * heads)) });
    dsvk_barrier(c->cmd);
    if (m == stride)
        dsvk_cmd_copy(c->cmd, from, 0, to, 0, 4ull * n * m);
    for (uint32_t t = 0; t < n && m != stride; t++)
        dsvk_cmd_copy(c->cmd, from, 4ull * t * stride, to, 4ull * t * m, 4ull * m);
}

const op dsvk_op_indexer = {
    .name = "indexer",
    .does = "4.7: scores[t][j] = scale * sum_h weights[t][h] * max(0, iq[t][h] . key_j) for the keys that row t sees, j < (position + "
            "1) / 4; -inf for the others. scale 0: 1 / sqrt(index_dim * heads)",
    .slots = { { "iq", OP_F32, "n heads index_dim", 0, 0, 0 }, { "weights", OP_F32, "n heads", 0, 0, 0 },
               { "keys", OP_KEYS, "m index_dim", 0, 0, 0 }, START, { "scale", OP_NUMBER, "", 0, 0, 1e6 } },
    .results = { { "scores", OP_F32, "n m", 0, 0, 0 } },
    .run = run_indexer,
};

/* As shaders/order.glsl. */
static uint32_t order_key(float score) {
    uint32_t u;
    memcpy(&u, &score, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0;
    u = u == 0x80000000u ? 0 : u;
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* What the indexer would have left on the device: scores `stride` apart, and how many of them begin with each first digit. */
typedef struct counted {
    dsvk_addr scores, bins;
} counted;

static counted count_bins(op_call *c, uint32_t n, uint32_t m, uint32_t stride, const struct dsvk_row *rows) {
    const uint64_t each = dsvk_topk_bins_bytes(1) / sizeof(uint32_t), bytes = 4ull * n * m;
    float *scores = dsvk_alloc_zero((uint64_t)n * (m + stride), sizeof *scores), *spread = scores ? scores + (uint64_t)n * m : NULL;
    uint32_t *bins = dsvk_alloc_zero(n * each, sizeof *bins);
    counted at = { 0 };
    if ((!scores || !bins) && c->status == DSVK_OK)
        c->status = dsvk_fail_nomem(c->err, bytes + 4 * n * each);
    if (c->status == DSVK_OK)
        c->status = dsvk_buffer_read(c->device, &dsvk_op_tensor(c, "scores")->buffer, 0, scores, bytes, c->err);
    for (uint32_t t = 0; t < n && (t % ASK_ROWS ? c->status == DSVK_OK : dsvk_op_ask(c, t, n)); t++) {
        memcpy(spread + (uint64_t)t * stride, scores + (uint64_t)t * m, 4ull * m);
        for (uint32_t j = 0; j < m && j < (rows[t].position + 1) / 4; j++)
            bins[t * each + (order_key(scores[(uint64_t)t * m + j]) >> 21)]++;
    }
    if (c->status == DSVK_OK)
        at = (counted){ dsvk_op_upload(c, spread, 4ull * n * stride), dsvk_op_upload(c, bins, 4 * n * each) };
    dsvk_free(scores);
    dsvk_free(bins);
    return at;
}

static void run_topk(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), m = dsvk_op_dim(c, "m"), k = dsvk_op_integer(c, "k"), stride = (uint32_t)dsvk_align(m, 4);
    const double start = dsvk_op_number(c, "start");
    struct dsvk_row *rows = dsvk_alloc_zero(n, sizeof *rows);
    const dsvk_addr idx = dsvk_op_result(c, 0, DSVK_FORM_VALUES, DSVK_DTYPE_I32, 2, (const uint64_t[]){ n, k }, 0);
    if (!rows && c->status == DSVK_OK)
        c->status = dsvk_fail_nomem(c->err, n * sizeof *rows);
    for (uint32_t t = 0; rows && t < n; t++) {
        const uint32_t last = 4 * m - 1, position = start < 0 ? last : (uint32_t)start + t; /* from `last` on all are seen */
        rows[t].position = position < last ? position : last;
    }
    const counted at = count_bins(c, n, m, stride, rows);
    if (c->status == DSVK_OK)
        dsvk_topk(c->cmd, &(dsvk_topk_params){ .rows = dsvk_op_upload(c, rows, n * sizeof *rows), .scores = at.scores, .bins = at.bins,
                                               .list = dsvk_op_scratch(c, dsvk_topk_list_bytes(n, stride)), .idx = idx, .n = n, .k = k,
                                               .scores_stride = stride, .max_visible = m });
    dsvk_free(rows);
}

const op dsvk_op_topk = {
    .name = "topk",
    .does = "4.7: the k largest scores of each row, equal ones to the lower index, NaN below all; indices ascending, -1 where there are "
            "fewer. start: row t sees the scores j < (start + t + 1) / 4; -1: all",
    .slots = { { "scores", OP_F32, "n m", 0, 0, 0 }, { "k", OP_INTEGER, "", 1, 1, 65536 },
               { "start", OP_INTEGER, "", -1, -1, MOST_POSITION } },
    .results = { { "idx", OP_I32, "n k", 0, 0, 0 } },
    .run = run_topk,
};

/* ---- attention ---- */

static void run_sparse_attention(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), heads = dsvk_op_dim(c, "heads"), head_dim = dsvk_op_dim(c, "head_dim"), m = dsvk_op_dim(c, "m");
    const uint32_t window = dsvk_op_integer(c, "window"), ratio = dsvk_op_integer(c, "ratio"), k = dsvk_op_dim(c, "k");
    const double start = dsvk_op_number(c, "start"), scale = dsvk_op_number(c, "scale");
    const uint32_t first = start < 0 ? (n < m ? m - n : 0) : (uint32_t)start, end = first + n;
    const dsvk_tensor *kv = dsvk_op_tensor(c, "kv"), *compressed = dsvk_op_tensor(c, "compressed");
    const uint32_t entries = ratio ? end / ratio : 0;
    if (end > m)
        dsvk_op_fail(c, "kv: rows of positions 0 to %u are needed, there are %u", end - 1, m);
    if (ratio && (!compressed || dsvk_op_dim(c, "entries") < entries))
        dsvk_op_fail(c, "compressed: the last row sees %u entries at ratio %u, there are %u", entries, ratio, dsvk_op_dim(c, "entries"));
    if (!ratio && compressed)
        dsvk_op_fail(c, "ratio: compressed entries need it, got 0");
    if ((ratio == 4) != (dsvk_op_tensor(c, "idx") != NULL))
        dsvk_op_fail(c, "idx: given at ratio 4, where it chooses entries, and at no other; the ratio is %u", ratio);
    if (compressed && compressed->form != kv->form)
        dsvk_op_fail(c, "compressed: its form is that of kv");
    if (kv->form == DSVK_FORM_ROWS && (kv->rope_dim != 2 * dsvk_op_dim(c, "pairs") || (compressed && compressed->rope_dim != kv->rope_dim)))
        dsvk_op_fail(c, "table: it turns %u values, rows were made with %u", 2 * dsvk_op_dim(c, "pairs"), kv->rope_dim);
    if (c->status != DSVK_OK)
        return;
    const uint32_t longest = (end < window ? end : window) + (ratio == 4 && k < entries ? k : entries);
    const uint32_t splits = dsvk_sparse_attn_splits(n, longest), capacity = compressed ? dsvk_op_dim(c, "entries") : 0;
    const dsvk_addr counters = dsvk_op_zeros(c, 4ull * n * heads);
    dsvk_barrier(c->cmd);
    dsvk_sparse_attn(c->cmd, &(dsvk_sparse_attn_params){
        .rows = dsvk_op_rows(c, n, first, NULL), .seqs = dsvk_op_sequence(c, n, dsvk_op_values(c, "compressed")),
        .rope = dsvk_op_angles(c, end), .q = dsvk_op_values(c, "q"), .step_store = kv->buffer.addr,
        .idx = dsvk_op_values(c, "idx"), .sink = dsvk_op_values(c, "sink"),
        .partial = dsvk_op_scratch(c, dsvk_sparse_attn_scratch(n, splits, heads, head_dim)), .counters = counters,
        .out = dsvk_op_f32(c, 0, 3, n, heads, head_dim, 0), .format = row_format(c, kv->form == DSVK_FORM_ROWS), .n = n, .n_heads = heads,
        .q_stride = heads * head_dim, .step_capacity = m, .window = window, .ratio = ratio, .k = k, .ring_capacity = window,
        .page_tokens = capacity * ratio, .n_splits = splits, .entries = entries,
        .scale = (float)(scale ? scale : 1 / sqrt(head_dim)) });
}

const op dsvk_op_sparse_attention = {
    .name = "sparse_attention",
    .does = "4.8, 4.9: each head of row t attends to the rows kv of positions pos - window + 1 .. pos and to compressed entries: at "
            "ratio 4 those in idx, else all j < (pos + 1) / ratio. Of idx only the first min(k, (pos + 1) / 4) are looked at, what names "
            "none of these entries is left out, and one that is there twice counts twice. K = V; the denominator has exp(sink) too; the "
            "result's last 2 * pairs values are turned back. start -1: q are the last rows of kv; scale 0: 1 / sqrt(head_dim)",
    .slots = { { "q", OP_F32, "n heads head_dim", 0, 0, 0 }, { "kv", OP_ROWS, "m head_dim", 0, 0, 0 },
               { "sink", OP_F32, "heads", 0, 0, 0 }, TABLE, { "compressed", OP_ROWS, "?entries head_dim", 0, 0, 0 },
               { "idx", OP_I32, "?n k", 0, 0, 0 }, { "ratio", OP_INTEGER, "", 0, 0, 65536 },
               { "window", OP_INTEGER, "", 128, 1, MOST_POSITION }, { "start", OP_INTEGER, "", -1, -1, MOST_POSITION },
               { "scale", OP_NUMBER, "", 0, 0, 1e6 } },
    .results = { { "o", OP_F32, "n heads head_dim", 0, 0, 0 } },
    .run = run_sparse_attention,
};
