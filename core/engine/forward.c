/* The forward pass of spec section 4 as a list of ops in the order of the paper. A barrier stands where a step reads what
 * the one before wrote; ops between two barriers are independent. A sublayer's end makes the next one's normalised input, so a
 * block begins with `a`, `post` and `comb` of its first site ready.
 * Steps of few rows (decoding, short prompts) take the fused ops, others the single ones; the bits are the same up to the size
 * from which matrix products of chunks are added up in another order. */
#include <stddef.h>
#include <string.h>

#include "engine.h"
#include "layer_table.h"

#define SCORE_BYTES (64ull << 20) /* index scores and lists of one group of rows */

static uint32_t stride4(uint32_t n) { return (uint32_t)dsvk_align(n, 4); }

static uint32_t compress_columns(const dsvk_config *c) { /* widest compress_in of any layer */
    uint32_t widest = 0;
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint32_t ratio = c->compress_ratios[l];
        uint32_t n = ratio == 4 ? 4 * c->head_dim + 4 * c->index_head_dim + c->index_n_heads : ratio ? 2 * c->head_dim : 0;
        widest = n > widest ? n : widest;
    }
    return widest;
}

static uint32_t hc_chunks(const dsvk_config *c) { return (uint32_t)dsvk_ceil_div(c->hidden_size, DSVK_HC_CHUNK); }

static uint32_t visible_entries(uint32_t positions, uint32_t ratio) { return ratio ? positions / ratio : 0; }

/* Most rows one token attends to in a layer of this ratio. */
static uint32_t attended_rows(const dsvk_config *c, uint32_t positions, uint32_t ratio) {
    uint32_t visible = visible_entries(positions, ratio);
    uint32_t window = positions < c->sliding_window ? positions : c->sliding_window;
    return window + (ratio == 4 && visible > c->index_topk ? c->index_topk : visible);
}

void dsvk_forward_count(const dsvk_config *c, uint32_t positions, uint64_t counts[DSVK_UNITS]) {
    const uint32_t visible = visible_entries(positions, 4);
    counts[DSVK_UNIT_SCORED_ROWS] += visible > c->index_topk;
    counts[DSVK_UNIT_SCORED_KEYS] += visible > c->index_topk ? visible : 0;
    counts[DSVK_UNIT_SWA_ROWS] += attended_rows(c, positions, 0);
    counts[DSVK_UNIT_CSA_ROWS] += attended_rows(c, positions, 4);
    counts[DSVK_UNIT_HCA_ROWS] += attended_rows(c, positions, 128);
}

/* How many rows have their entries selected together: few enough that their scores fit a fixed area (or one row, if its do not). */
static uint32_t select_rows(uint32_t n, uint32_t visible) {
    uint64_t each = stride4(visible ? visible : 1) * sizeof(float) + dsvk_topk_list_bytes(1, stride4(visible));
    uint64_t fit = SCORE_BYTES / each ? SCORE_BYTES / each : 1;
    uint32_t rows = n < DSVK_SELECT_ROWS ? n : DSVK_SELECT_ROWS;
    return rows < fit ? rows : (uint32_t)fit;
}

/* ---- scratch ---- */

typedef struct area {
    dsvk_addr *to;
    uint64_t bytes;
} area;

/* Of partial attention in any layer, for steps of up to n rows and so many positions. */
static uint64_t attention_bytes(const dsvk_config *c, uint32_t n, uint32_t positions) {
    uint32_t csa = attended_rows(c, positions, 4), hca = attended_rows(c, positions, 128);
    return dsvk_sparse_attn_most_scratch(n, csa > hca ? csa : hca, c->n_heads, c->head_dim);
}

/* Tiles of pairs of any step of up to n rows. Tiles grow with the step, so a step of fewer rows may have more of them. */
static uint32_t most_tiles(const dsvk_config *c, uint32_t n) {
    return dsvk_moe_max_tiles(n, c->n_experts_per_token, c->n_experts, DSVK_MOE_LEAST_TILE);
}

static uint64_t place_areas(area *areas, size_t n, dsvk_addr base) {
    uint64_t at = 0;
    for (size_t i = 0; i < n; i++) {
        *areas[i].to = base + at;
        at += dsvk_align(areas[i].bytes, 256);
    }
    return at;
}

static uint64_t lay_out_scratch(dsvk_model *m, dsvk_scratch *s, uint64_t n, uint32_t positions, dsvk_addr base) {
    const dsvk_config *c = &m->config;
    uint64_t D = c->hidden_size, heads = (uint64_t)c->n_heads * c->head_dim, A = c->n_experts_per_token, f = sizeof(float);
    uint64_t row = dsvk_row_code_bytes(&m->layout.format) + dsvk_row_scale_bytes(&m->layout.format);
    uint32_t visible = visible_entries(positions, 4), scored = select_rows((uint32_t)n, visible);
    uint64_t streams = n * 4 * D * f, few = n < DSVK_FEW_ROWS ? n : DSVK_FEW_ROWS;
    area areas[] = {
        { &s->x, streams },
        { &s->a, n * D * f },
        { &s->post, n * 4 * f },
        { &s->comb, n * 16 * f },
        { &s->partials, (n * hc_chunks(c) > few * D / 32 ? n * hc_chunks(c) : few * D / 32) * 25 * f },
        { &s->qa_kv, n * (c->q_lora_rank + c->head_dim) * f },
        { &s->compress, n * stride4(compress_columns(c)) * f },
        { &s->qr, n * c->q_lora_rank * f },
        { &s->q, n * (heads + (uint64_t)c->index_n_heads * c->index_head_dim) * f },
        { &s->scores, (uint64_t)scored * stride4(visible) * f },
        { &s->lists, dsvk_topk_list_bytes(scored, stride4(visible)) },
        { &s->idx, n * c->index_topk * sizeof(int32_t) },
        { &s->attn, attention_bytes(c, (uint32_t)n, positions) },
        { &s->o, n * heads * f },
        { &s->u, n * c->o_groups * c->o_lora_rank * f },
        { &s->y, n * (A + 1) * D * f },
        { &s->gate, n * stride4(c->n_experts) * f },
        { &s->expert_idx, n * A * sizeof(uint32_t) },
        { &s->expert_weight, n * A * f },
        { &s->pairs, n * A * sizeof(uint32_t) },
        { &s->tiles, 16ull * most_tiles(c, (uint32_t)n) },
        { &s->h, n * (A + 1) * c->moe_intermediate_size * f },
        { &s->store, n * row },
        { &s->mtp_x, m->mtp ? streams : 0 },
        { &s->mtp_in, m->mtp ? streams : 0 },
        { &s->mtp_e, m->mtp ? n * D * f : 0 },
    };
    return place_areas(areas, DSVK_COUNT(areas), base);
}

/* Sizes go up in powers of two, so that a growing session asks rarely. */
static uint32_t grown(uint32_t have, uint32_t need) {
    while (have < need)
        have *= 2;
    return have;
}

#define FIRST_ROWS 1u
#define FIRST_REACH 1024u

uint64_t dsvk_scratch_bytes(dsvk_model *m, uint32_t n, uint32_t positions) {
    dsvk_scratch s;
    return lay_out_scratch(m, &s, grown(FIRST_ROWS, n), grown(FIRST_REACH, positions), 0);
}

/* The scratch keeps its size until a step needs more. */
dsvk_status dsvk_scratch_reserve(dsvk_model *m, uint32_t n, uint32_t positions, dsvk_error *err) {
    dsvk_scratch *s = &m->scratch;
    if (n <= s->rows && positions <= s->positions)
        return DSVK_OK;
    uint32_t rows = grown(s->rows ? s->rows : FIRST_ROWS, n), reach = grown(s->positions ? s->positions : FIRST_REACH, positions);
    dsvk_scratch next = { .rows = rows, .positions = reach };
    uint64_t bytes = lay_out_scratch(m, &next, rows, reach, 0);
    dsvk_buffer_destroy(m->device, &s->buffer);
    memset(s, 0, sizeof *s);
    DSVK_TRY(dsvk_buffer_create(m->device, DSVK_SCRATCH, bytes, "scratch", &next.buffer, err));
    *s = next;
    return DSVK_OK;
}

void dsvk_scratch_free(dsvk_model *m) {
    dsvk_buffer_destroy(m->device, &m->scratch.buffer);
    memset(&m->scratch, 0, sizeof m->scratch);
}

/* ---- one layer ---- */

typedef struct pass {
    dsvk_model *m;
    const dsvk_config *c;
    dsvk_scratch *s;
    dsvk_cmd *cmd;
    const dsvk_step *step;
    const dsvk_layer_weights *w;
    const dsvk_layer_layout *at;
    dsvk_addr x;    /* the streams of this block */
    dsvk_addr rope;
    uint32_t layer;
} pass;

static pass begin_pass(dsvk_model *m, dsvk_cmd *cmd, const dsvk_step *step, uint32_t layer, dsvk_addr x) {
    const dsvk_layer_layout *at = &m->layout.layers[layer];
    return (pass){ m, &m->config, &m->scratch, cmd, step, &m->weights.layers[layer], at, x,
                   m->rope[at->ratio ? 1 : 0].addresses.addr, layer };
}

/* A stage ends: what follows needs nothing but memory, so the recording may be cut here. */
static void stage(const pass *p) {
    if (p->step->between)
        p->step->between(p->step->user);
}

/* Shows a trace all rows of an area of the scratch, `each` 4-byte numbers of each. */
static void tap(const pass *p, dsvk_tap what, dsvk_addr from, uint64_t each) {
    if (p->step->tap)
        p->step->tap(p->step->tap_user, what, p->layer, from, 0, p->step->n, 4 * each);
}

/* What a site has made for its sublayer. */
static void tap_site(const pass *p, dsvk_tap input, dsvk_tap post, dsvk_tap comb) {
    tap(p, input, p->s->a, p->c->hidden_size);
    tap(p, post, p->s->post, DSVK_HC_STREAMS);
    tap(p, comb, p->s->comb, DSVK_HC_STREAMS * DSVK_HC_STREAMS);
}

static void matmul(const pass *p, const dsvk_matrix *w, dsvk_addr x, uint32_t x_stride, dsvk_addr out, uint32_t out_stride) {
    dsvk_matmul(p->cmd, &(dsvk_matmul_params){ .w = *w, .x = x, .out = out, .n = p->step->n, .x_stride = x_stride,
                                               .out_stride = out_stride });
}

#define BLOCK_MIXES ((2 + DSVK_HC_STREAMS) * DSVK_HC_STREAMS)

/* The hyper-connection that comes next: a sublayer's, or the head's, which has 4 mixes and is left to dsvk_forward_head. */
typedef struct next_site {
    const dsvk_hc_weights *hc;
    dsvk_addr norm;
    dsvk_addr table;  /* struct dsvk_site */
    uint32_t n_mix;
} next_site;

static next_site attention_site(const dsvk_layer_weights *w) {
    return (next_site){ &w->hc_attn, w->attn_norm, w->table.addr + offsetof(struct dsvk_layer_table, attn), BLOCK_MIXES };
}

static next_site ffn_site(const dsvk_layer_weights *w) {
    return (next_site){ &w->hc_ffn, w->ffn_norm, w->table.addr + offsetof(struct dsvk_layer_table, ffn), BLOCK_MIXES };
}

static next_site head_site(const dsvk_model *m, bool mtp) {
    return (next_site){ mtp ? &m->weights.mtp.hc_head : &m->weights.hc_head, mtp ? m->weights.mtp.norm : m->weights.norm,
                        m->weights.head_sites.addr + mtp * sizeof(struct dsvk_site), DSVK_HC_STREAMS };
}

/* Whether a step of n rows is small enough for the fused ops. */
static bool few_rows(const dsvk_config *c, uint32_t n) {
    uint64_t groups = dsvk_ceil_div(n, 4), jobs = (uint64_t)c->n_heads + c->index_n_heads + c->hidden_size / DSVK_TILE_ROWS;
    return n <= DSVK_FEW_ROWS && dsvk_moe_in_fits(n, c->n_experts_per_token, c->n_experts) && groups * jobs <= DSVK_COUNTERS;
}

/* The reductions of a site, after HC-post of y [n, parts, D] where there are parts; coefficients of one row for all with `same`. */
static void mix_streams(const pass *p, uint32_t parts, const next_site *next, dsvk_addr post, dsvk_addr comb, bool same) {
    dsvk_hyper_conn_mix(p->cmd, &(dsvk_hyper_conn_mix_params){
        .x_in = p->x, .x_out = parts ? p->x : 0, .y = parts ? p->s->y : 0, .post = post, .comb = comb, .fn = next->hc->fn,
        .partials = p->s->partials, .n = p->step->n, .dim = p->c->hidden_size, .n_parts = parts, .n_mix = next->n_mix,
        .same_coefficients = same });
    dsvk_barrier(p->cmd);
}

/* HC-pre and the norm that follows it: streams -> a, post, comb. */
static void begin_site(const pass *p, const next_site *site) {
    dsvk_hyper_conn_pre(p->cmd, &(dsvk_hyper_conn_pre_params){
        .x_in = p->x, .partials = p->s->partials, .base = site->hc->base, .scale = site->hc->scale, .norm = site->norm,
        .out = p->s->a, .post = p->s->post, .comb = p->s->comb, .n = p->step->n, .dim = p->c->hidden_size, .n_mix = BLOCK_MIXES,
        .sinkhorn_iters = p->c->hc_sinkhorn_iters, .eps = p->c->norm_eps, .hc_eps = p->c->hc_eps });
    dsvk_barrier(p->cmd);
}

/* HC-post of the sublayer output y [n, parts, D], and the begin of the next site. */
static void end_site(const pass *p, uint32_t parts, const next_site *next) {
    mix_streams(p, parts, next, p->s->post, p->s->comb, false);
    if (next->n_mix == BLOCK_MIXES)
        begin_site(p, next);
}

static uint32_t query_stride(const pass *p) { return p->w->q_b.n_out; }

/* Where the parts of compress_in's output begin: K|S of the compressor, K|S of the indexer's, indexer weights. */
static uint32_t compress_stride(const pass *p) { return stride4(p->w->compress_in.n_out); }
static dsvk_addr index_compress_part(const pass *p) { return p->s->compress + 4ull * 2 * p->at->compress_width; }
static dsvk_addr index_weights_part(const pass *p) { return index_compress_part(p) + 4ull * 2 * p->at->index_width; }

/* 4.5 and the first part of 4.6: everything that is a projection of the normalised input, and the window rows. */
static void attention_inputs(const pass *p) {
    const dsvk_config *c = p->c;
    uint32_t n = p->step->n, Rq = c->q_lora_rank, in_stride = Rq + c->head_dim;
    matmul(p, &p->w->attn_in, p->s->a, c->hidden_size, p->s->qa_kv, in_stride);
    if (p->at->ratio)
        matmul(p, &p->w->compress_in, p->s->a, c->hidden_size, p->s->compress, compress_stride(p));
    dsvk_barrier(p->cmd);
    dsvk_rms_norm(p->cmd, &(dsvk_rms_norm_params){ .x = p->s->qa_kv, .weight = p->w->q_norm, .out = p->s->qr, .n = n, .dim = Rq,
                                                   .x_stride = in_stride, .eps = c->norm_eps });
    dsvk_quant_row(p->cmd, &(dsvk_quant_row_params){
        .rows = p->step->rows, .rope = p->rope, .kv = p->s->qa_kv + 4ull * Rq, .weight = p->w->kv_norm, .store = p->s->store,
        .format = p->m->layout.format, .n = n, .kv_stride = in_stride, .capacity = n, .eps = c->norm_eps });
}

/* 4.6: entries completed by these rows, into the sessions' pages. */
static void compress_entries(const pass *p, bool index) {
    const dsvk_layer_layout *at = p->at;
    const dsvk_compressor_weights *w = index ? &p->w->index_compressor : &p->w->compressor;
    dsvk_kv_compress(p->cmd, &(dsvk_kv_compress_params){
        .rows = p->step->rows, .seqs = p->step->seqs, .rope = p->rope, .ks = index ? index_compress_part(p) : p->s->compress,
        .ape = w->ape, .norm = w->norm, .format = p->m->layout.format, .index = index, .n = p->step->n, .ratio = at->ratio,
        .ks_stride = compress_stride(p), .ring_offset = index ? at->index_offset : at->compress_offset,
        .ring_capacity = at->compress_capacity, .page_tokens = p->m->layout.page_tokens,
        .page_offset = index ? at->keys_offset : at->rows_offset, .eps = p->c->norm_eps });
}

static void queries(const pass *p) {
    const dsvk_config *c = p->c;
    uint32_t n = p->step->n, stride = query_stride(p);
    matmul(p, &p->w->q_b, p->s->qr, c->q_lora_rank, p->s->q, stride);
    dsvk_barrier(p->cmd);
    dsvk_rope(p->cmd, &(dsvk_rope_params){ .rows = p->step->rows, .rope = p->rope, .q = p->s->q, .n = n, .n_heads = c->n_heads,
                                           .head_dim = c->head_dim, .rope_dim = c->rope_dim, .q_stride = stride,
                                           .eps = c->norm_eps });
    if (p->at->ratio == 4)
        dsvk_quant_index(p->cmd, &(dsvk_quant_index_params){
            .rows = p->step->rows, .rope = p->rope, .iq = p->s->q + 4ull * c->n_heads * c->head_dim,
            .format = p->m->layout.format, .n = n, .n_heads = c->index_n_heads, .iq_stride = stride });
    dsvk_barrier(p->cmd);
}

/* Rows whose positions the recording does not know. */
static uint32_t counted_rows(const pass *p) { return p->step->index_grid ? p->step->n : 0; }

/* 4.7: which compressed entries each row attends to, a group of rows at a time. */
static void select_entries(const pass *p) {
    const dsvk_config *c = p->c;
    uint32_t n = p->step->n, visible = visible_entries(p->step->positions, 4), stride = stride4(visible ? visible : 1);
    uint32_t group = select_rows(n, visible);
    for (uint32_t first = 0; first < n; first += group) {
        uint32_t rows = n - first < group ? n - first : group;
        dsvk_addr row = p->step->rows + 16ull * first;
        if (visible > c->index_topk) { /* else every visible entry is taken, whatever its score */
            dsvk_indexer(p->cmd, &(dsvk_indexer_params){
                .rows = row, .seqs = p->step->seqs,
                .iq = p->s->q + 4ull * (c->n_heads * c->head_dim + (uint64_t)first * query_stride(p)),
                .weights = index_weights_part(p) + 4ull * first * compress_stride(p), .scores = p->s->scores,
                .bins = p->m->bins.addr, .format = p->m->layout.format, .n = rows, .n_seqs = p->step->n_seqs,
                .n_heads = c->index_n_heads,
                .iq_stride = query_stride(p), .weights_stride = compress_stride(p), .scores_stride = stride, .k = c->index_topk,
                .max_visible = visible, .page_tokens = p->m->layout.page_tokens, .page_offset = p->at->keys_offset,
                .grid = group == n ? p->step->index_grid : NULL, .grid_offset = p->step->index_grid_offset,
                .counted = counted_rows(p),
                .scale = (float)(1.0 / __builtin_sqrt((double)c->index_head_dim * c->index_n_heads)) });
            dsvk_barrier(p->cmd);
            if (p->step->tap)
                p->step->tap(p->step->tap_user, DSVK_TAP_SCORES, p->layer, p->s->scores, first, rows, 4ull * stride);
        }
        dsvk_topk(p->cmd, &(dsvk_topk_params){
            .rows = row, .scores = p->s->scores, .bins = p->m->bins.addr, .list = p->s->lists,
            .idx = p->s->idx + 4ull * first * c->index_topk, .n = rows, .k = c->index_topk, .scores_stride = stride,
            .max_visible = visible, .counted = counted_rows(p) });
        dsvk_barrier(p->cmd);
    }
    tap(p, DSVK_TAP_SELECTED, p->s->idx, c->index_topk);
}

static uint32_t ring_items(const pass *p, dsvk_ring_item *items) {
    const dsvk_layer_layout *at = p->at;
    const dsvk_row_format *f = &p->m->layout.format;
    uint32_t n = 0, codes = dsvk_row_code_bytes(f), scales = dsvk_row_scale_bytes(f), capacity = p->m->layout.window_capacity;
    items[n++] = (dsvk_ring_item){ p->s->store, codes, codes, at->window_offset, capacity };
    if (scales)
        items[n++] = (dsvk_ring_item){ p->s->store + (uint64_t)p->step->n * codes, scales, scales,
                                       at->window_offset + capacity * codes, capacity };
    if (at->ratio)
        items[n++] = (dsvk_ring_item){ p->s->compress, 4 * compress_stride(p), 4 * 2 * at->compress_width, at->compress_offset,
                                       at->compress_capacity };
    if (at->ratio == 4)
        items[n++] = (dsvk_ring_item){ index_compress_part(p), 4 * compress_stride(p), 4 * 2 * at->index_width,
                                       at->index_offset, at->compress_capacity };
    return n;
}

/* 4.8 */
static void attend(const pass *p) {
    const dsvk_config *c = p->c;
    uint32_t n = p->step->n;
    dsvk_sparse_attn_params a = {
        .rows = p->step->rows, .seqs = p->step->seqs, .rope = p->rope, .q = p->s->q, .step_store = p->s->store,
        .idx = p->at->ratio == 4 ? p->s->idx : 0, .sink = p->w->sink, .partial = p->s->attn,
        .counters = p->m->counters.addr, .out = p->s->o, .format = p->m->layout.format, .n = n, .n_heads = c->n_heads,
        .q_stride = query_stride(p), .step_capacity = n,
        .window = c->sliding_window, .ratio = p->at->ratio, .k = c->index_topk, .ring_offset = p->at->window_offset,
        .ring_capacity = p->m->layout.window_capacity, .page_tokens = p->m->layout.page_tokens,
        .page_offset = p->at->rows_offset, .counted = counted_rows(p),
        .n_splits = dsvk_sparse_attn_splits(n, attended_rows(c, p->step->positions, p->at->ratio)),
        .scale = (float)(1.0 / __builtin_sqrt((double)c->head_dim)) };
    dsvk_sparse_attn(p->cmd, &a);
    dsvk_barrier(p->cmd);
}

/* 4.9, and 4.12 step 5 now that nothing reads the old rings any more. */
static void project_out(const pass *p) {
    const dsvk_config *c = p->c;
    uint32_t GRo = c->o_groups * c->o_lora_rank;
    dsvk_ring_store_params store = { .rows = p->step->rows, .seqs = p->step->seqs, .n = p->step->n };
    store.n_items = ring_items(p, store.items);
    dsvk_ring_store(p->cmd, &store);
    dsvk_matmul(p->cmd, &(dsvk_matmul_params){ .w = p->w->wo_a, .x = p->s->o, .out = p->s->u, .n = p->step->n,
                                               .x_stride = c->n_heads * c->head_dim, .out_stride = GRo,
                                               .group_rows = c->o_lora_rank });
    dsvk_barrier(p->cmd);
    matmul(p, &p->w->wo_b, p->s->u, GRo, p->s->y, c->hidden_size);
    dsvk_barrier(p->cmd);
}

/* [n, I] of the shared expert, behind the pairs of the routed ones. */
static dsvk_addr shared_hidden(const pass *p) {
    return p->s->h + 4ull * p->step->n * p->c->n_experts_per_token * p->c->moe_intermediate_size;
}

static dsvk_moe_expert_params routed_experts(const pass *p) {
    const dsvk_config *c = p->c;
    return (dsvk_moe_expert_params){ .experts = p->w->expert_table.addr, .pairs = p->s->pairs, .tiles = p->s->tiles,
                                     .weights = p->s->expert_weight, .n = p->step->n, .k = c->n_experts_per_token,
                                     .n_experts = c->n_experts, .limit = c->swiglu_limit,
                                     .tile = dsvk_moe_tile(p->m->device, p->step->n, c->n_experts_per_token, c->n_experts) };
}

static void expert_up(const pass *p) {
    dsvk_moe_expert_params up = routed_experts(p);
    up.up = true;
    up.w = p->w->expert_up;
    up.x = p->s->a;
    up.x_stride = p->c->hidden_size;
    up.out = p->s->h;
    up.out_stride = p->c->moe_intermediate_size;
    dsvk_moe_expert(p->cmd, &up);
    dsvk_barrier(p->cmd);
}

/* 4.10: y[:, 0 .. A-1] the routed experts' outputs, y[:, A] the shared one's. */
static void mixture_of_experts(const pass *p) {
    const dsvk_config *c = p->c;
    const dsvk_scratch *s = p->s;
    uint32_t n = p->step->n, A = c->n_experts_per_token, D = c->hidden_size, I = c->moe_intermediate_size;
    uint32_t gate_stride = stride4(c->n_experts), tile = dsvk_moe_tile(p->m->device, n, A, c->n_experts);
    matmul(p, &p->w->gate, s->a, D, s->gate, gate_stride);
    dsvk_matmul(p->cmd, &(dsvk_matmul_params){ .w = p->w->shared_up, .x = s->a, .out = shared_hidden(p), .n = n, .x_stride = D,
                                               .out_stride = I, .swiglu = true, .limit = c->swiglu_limit });
    dsvk_barrier(p->cmd);
    dsvk_moe_gate(p->cmd, &(dsvk_moe_gate_params){
        .rows = p->step->rows, .logits = s->gate, .bias = p->w->gate_bias, .table = p->w->hash_table, .idx = s->expert_idx,
        .weights = s->expert_weight, .n = n, .n_experts = c->n_experts, .k = A, .vocab = c->vocab_size,
        .logits_stride = gate_stride, .route_scale = c->route_scale });
    matmul(p, &p->w->shared_down, shared_hidden(p), I, s->y + 4ull * A * D, (A + 1) * D);
    dsvk_barrier(p->cmd);
    dsvk_moe_sort(p->cmd, &(dsvk_moe_sort_params){ .idx = s->expert_idx, .pairs = s->pairs, .tiles = s->tiles, .n = n, .k = A,
                                                   .n_experts = c->n_experts, .tile = tile });
    dsvk_barrier(p->cmd);
    stage(p);
    expert_up(p);
    stage(p);
    dsvk_moe_expert_params down = routed_experts(p);
    down.w = p->w->expert_down;
    down.offset = p->w->expert_down_offset;
    down.x = s->h;
    down.x_stride = I;
    down.out = s->y;
    down.out_stride = (A + 1) * D;
    dsvk_moe_expert(p->cmd, &down);
    dsvk_barrier(p->cmd);
}

/* A whole block out of single ops. `next`: the site that comes after it. */
static void block(const pass *p, const next_site *next) {
    const next_site ffn = ffn_site(p->w);
    attention_inputs(p);
    if (p->at->ratio)
        compress_entries(p, false);
    if (p->at->ratio == 4)
        compress_entries(p, true);
    dsvk_barrier(p->cmd);
    stage(p);
    queries(p);
    stage(p);
    if (p->at->ratio == 4)
        select_entries(p);
    attend(p);
    stage(p);
    project_out(p);
    end_site(p, 1, &ffn);
    tap_site(p, DSVK_TAP_FFN_INPUT, DSVK_TAP_FFN_POST, DSVK_TAP_FFN_COMB);
    stage(p);
    mixture_of_experts(p);
    end_site(p, p->c->n_experts_per_token + 1, next);
    stage(p);
}

/* ---- the same of few rows ---- */

/* 4.5 to 4.7 */
static void few_attention_inputs(const pass *p) {
    const dsvk_config *c = p->c;
    const dsvk_layer_layout *at = p->at;
    dsvk_attn_in(p->cmd, &(dsvk_attn_in_params){
        .w = p->w->attn_in, .w_b = at->ratio ? p->w->compress_in : (dsvk_matrix){ 0 }, .x = p->s->a, .out = p->s->qa_kv,
        .out_b = p->s->compress, .norm = p->w->q_norm, .qr = p->s->qr, .counters = p->m->counters.addr, .n = p->step->n,
        .q_rank = c->q_lora_rank, .out_b_stride = compress_stride(p), .eps = c->norm_eps });
    dsvk_barrier(p->cmd);
    dsvk_attn_query(p->cmd, &(dsvk_attn_query_params){
        .rows = p->step->rows, .seqs = p->step->seqs, .rope = p->rope, .w = p->w->q_b,
        .vectors = p->w->table.addr + offsetof(struct dsvk_layer_table, kv), .qr = p->s->qr, .q = p->s->q, .kv = p->s->qa_kv,
        .ks = p->s->compress, .store = p->s->store, .counters = p->m->counters.addr, .format = p->m->layout.format,
        .n = p->step->n, .n_heads = c->n_heads, .ratio = at->ratio, .ks_stride = compress_stride(p),
        .ring_offset = at->compress_offset, .index_ring_offset = at->index_offset, .ring_capacity = at->compress_capacity,
        .page_tokens = p->m->layout.page_tokens, .rows_offset = at->rows_offset, .keys_offset = at->keys_offset,
        .eps = c->norm_eps });
    dsvk_barrier(p->cmd);
}

/* 4.9, 4.12 step 5, 4.3 */
static void few_project_out(const pass *p) {
    const dsvk_config *c = p->c;
    const dsvk_layer_layout *at = p->at;
    dsvk_wo_a(p->cmd, &(dsvk_wo_a_params){
        .rows = p->step->rows, .seqs = p->step->seqs, .w = p->w->wo_a, .x = p->s->o, .out = p->s->u, .store = p->s->store,
        .ks = p->s->compress, .format = p->m->layout.format, .n = p->step->n, .group_rows = c->o_lora_rank,
        .ks_stride = compress_stride(p), .window_offset = at->window_offset, .window_capacity = p->m->layout.window_capacity,
        .ring_offset = at->compress_offset, .width = at->ratio ? at->compress_width : 0, .index_ring_offset = at->index_offset,
        .index_width = at->ratio == 4 ? at->index_width : 0, .ring_capacity = at->compress_capacity });
    dsvk_barrier(p->cmd);
    dsvk_wo_b(p->cmd, &(dsvk_wo_b_params){
        .w = p->w->wo_b, .x = p->s->u, .streams = p->x, .post = p->s->post, .comb = p->s->comb, .site = ffn_site(p->w).table,
        .partials = p->s->partials, .out = p->s->a, .counters = p->m->counters.addr, .n = p->step->n,
        .sinkhorn_iters = c->hc_sinkhorn_iters, .eps = c->norm_eps, .hc_eps = c->hc_eps });
    dsvk_barrier(p->cmd);
}

/* 4.10, 4.3 */
static void few_experts(const pass *p, const next_site *next) {
    const dsvk_config *c = p->c;
    const dsvk_scratch *s = p->s;
    uint32_t n = p->step->n, A = c->n_experts_per_token;
    dsvk_moe_in(p->cmd, &(dsvk_moe_in_params){
        .rows = p->step->rows, .gate = p->w->gate, .up = p->w->shared_up, .x = s->a, .logits = s->gate, .h = shared_hidden(p),
        .bias = p->w->gate_bias, .table = p->w->hash_table, .idx = s->expert_idx, .weights = s->expert_weight, .pairs = s->pairs,
        .tiles = s->tiles, .counters = p->m->counters.addr, .n = n, .k = A, .vocab = c->vocab_size, .limit = c->swiglu_limit,
        .route_scale = c->route_scale });
    dsvk_barrier(p->cmd);
    stage(p);
    expert_up(p);
    stage(p);
    dsvk_moe_out(p->cmd, &(dsvk_moe_out_params){
        .experts = p->w->expert_table.addr, .pairs = s->pairs, .tiles = s->tiles, .w = p->w->expert_down,
        .shared = p->w->shared_down, .offset = p->w->expert_down_offset, .h = s->h, .y = s->y, .streams = p->x, .post = s->post,
        .comb = s->comb, .site = next->table, .partials = s->partials, .out = s->a, .counters = p->m->counters.addr, .n = n,
        .k = A, .n_experts = c->n_experts, .n_mix = next->n_mix, .sinkhorn_iters = c->hc_sinkhorn_iters, .eps = c->norm_eps,
        .hc_eps = c->hc_eps });
    dsvk_barrier(p->cmd);
}

static void few_block(const pass *p, const next_site *next) {
    few_attention_inputs(p);
    stage(p);
    if (p->at->ratio == 4)
        select_entries(p);
    attend(p);
    stage(p);
    few_project_out(p);
    tap_site(p, DSVK_TAP_FFN_INPUT, DSVK_TAP_FFN_POST, DSVK_TAP_FFN_COMB);
    stage(p);
    few_experts(p, next);
    stage(p);
}

static void any_block(const pass *p, const next_site *next) {
    tap_site(p, DSVK_TAP_ATTN_INPUT, DSVK_TAP_ATTN_POST, DSVK_TAP_ATTN_COMB);
    if (few_rows(p->c, p->step->n))
        few_block(p, next);
    else
        block(p, next);
    tap(p, DSVK_TAP_LOGITS, p->s->gate, stride4(p->c->n_experts));
    tap(p, DSVK_TAP_EXPERTS, p->s->expert_idx, p->c->n_experts_per_token);
    tap(p, DSVK_TAP_WEIGHTS, p->s->expert_weight, p->c->n_experts_per_token);
    tap(p, DSVK_TAP_STREAMS, p->x, DSVK_HC_STREAMS * p->c->hidden_size);
}

/* ---- the model ---- */

void dsvk_forward_begin(dsvk_model *m, dsvk_cmd *cmd, const dsvk_step *step) {
    dsvk_scratch *s = &m->scratch;
    dsvk_cmd_set_part(cmd, NULL);
    lay_out_scratch(m, s, step->n, s->positions, s->buffer.addr);
    dsvk_embed(cmd, &(dsvk_embed_params){ .rows = step->rows, .table = m->weights.embed, .out = s->x, .n = step->n,
                                          .dim = m->config.hidden_size, .copies = DSVK_HC_STREAMS,
                                          .vocab = m->config.vocab_size });
    dsvk_barrier(cmd);
    const pass p = begin_pass(m, cmd, step, 0, s->x);
    const next_site first = attention_site(p.w);
    mix_streams(&p, 0, &first, 0, 0, false);
    begin_site(&p, &first);
    tap(&p, DSVK_TAP_EMBEDDING, p.x, DSVK_HC_STREAMS * p.c->hidden_size);
}

void dsvk_forward_layer(dsvk_model *m, dsvk_cmd *cmd, const dsvk_step *step, uint32_t layer) {
    dsvk_cmd_set_part(cmd, dsvk_layer_kind(m->layout.layers[layer].ratio));
    const pass p = begin_pass(m, cmd, step, layer, m->scratch.x);
    const next_site next = layer + 1 == m->config.n_layers ? head_site(m, false) : attention_site(p.w + 1);
    any_block(&p, &next);
}

/* 4.11 */
void dsvk_forward_head(dsvk_model *m, dsvk_cmd *cmd, uint32_t n_in, dsvk_addr select, uint32_t n, dsvk_addr logits, bool mtp) {
    dsvk_cmd_set_part(cmd, "head");
    dsvk_scratch *s = &m->scratch;
    const next_site site = head_site(m, mtp);
    dsvk_hyper_conn_pre(cmd, &(dsvk_hyper_conn_pre_params){
        .x_in = mtp ? s->mtp_x : s->x, .partials = s->partials, .tiles = few_rows(&m->config, n_in), .select = select,
        .base = site.hc->base, .scale = site.hc->scale, .norm = site.norm, .out = s->a, .n = n, .n_in = n_in,
        .dim = m->config.hidden_size, .n_mix = DSVK_HC_STREAMS, .sinkhorn_iters = m->config.hc_sinkhorn_iters, .eps = m->config.norm_eps,
        .hc_eps = m->config.hc_eps });
    dsvk_barrier(cmd);
    dsvk_matmul(cmd, &(dsvk_matmul_params){ .w = m->weights.head, .x = s->a, .out = logits, .n = n,
                                            .x_stride = m->config.hidden_size, .out_stride = m->config.vocab_size });
    dsvk_barrier(cmd);
}

/* Keeps the streams of the last rows in the sessions, for the first pair of a later step. */
static void keep_streams(dsvk_model *m, dsvk_cmd *cmd, const dsvk_step *step) {
    uint32_t bytes = 4 * DSVK_HC_STREAMS * m->config.hidden_size;
    dsvk_ring_store(cmd, &(dsvk_ring_store_params){
        .rows = step->rows, .seqs = step->seqs, .n = step->n, .n_items = 1,
        .items = { { m->scratch.x, bytes, bytes, m->layout.streams_offset, DSVK_ROLLBACK + 1 } } });
}

void dsvk_forward_mtp(dsvk_model *m, dsvk_cmd *cmd, const dsvk_step *step, const dsvk_step *pairs, dsvk_addr source) {
    dsvk_scratch *s = &m->scratch;
    const dsvk_config *c = &m->config;
    uint32_t n = pairs->n, D = c->hidden_size, streams = DSVK_HC_STREAMS * D;
    dsvk_cmd_set_part(cmd, "MTP");
    if (n > 0) {
        dsvk_gather(cmd, &(dsvk_gather_params){ .rows = pairs->rows, .seqs = pairs->seqs, .source = source, .in = s->x,
                                                .out = s->mtp_x, .n = n, .dim = streams, .n_in = step->n,
                                                .state_offset = m->layout.streams_offset,
                                                .slots = DSVK_ROLLBACK + 1 });
        dsvk_embed(cmd, &(dsvk_embed_params){ .rows = pairs->rows, .table = m->weights.embed, .out = s->a, .n = n, .dim = D,
                                              .copies = 1, .vocab = c->vocab_size });
        dsvk_barrier(cmd);
    }
    keep_streams(m, cmd, step); /* after the gather has read the old ones */
    if (n == 0) {
        dsvk_barrier(cmd);
        return;
    }
    dsvk_rms_norm(cmd, &(dsvk_rms_norm_params){ .x = s->mtp_x, .weight = m->weights.mtp.hnorm, .out = s->mtp_in,
                                                .n = n * DSVK_HC_STREAMS, .dim = D, .x_stride = D, .eps = c->norm_eps });
    dsvk_rms_norm(cmd, &(dsvk_rms_norm_params){ .x = s->a, .weight = m->weights.mtp.enorm, .out = s->mtp_e, .n = n, .dim = D,
                                                .x_stride = D, .eps = c->norm_eps });
    dsvk_barrier(cmd);
    pass p = begin_pass(m, cmd, pairs, c->n_layers, s->mtp_x);
    dsvk_matmul(cmd, &(dsvk_matmul_params){ .w = m->weights.mtp.h_proj, .x = s->mtp_in, .out = s->mtp_x,
                                            .n = n * DSVK_HC_STREAMS, .step_rows = n, .x_stride = D, .out_stride = D });
    matmul(&p, &m->weights.mtp.e_proj, s->mtp_e, D, s->y, D);
    dsvk_barrier(cmd);
    /* X0[k] = e + h[k] is HC-post with post = 1 and comb = identity. */
    const next_site first = attention_site(p.w), next = head_site(m, true);
    mix_streams(&p, 1, &first, m->constants.addr, m->constants.addr + 16, true);
    begin_site(&p, &first);
    any_block(&p, &next);
}
