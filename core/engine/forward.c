/* The forward pass of spec section 4 as a list of ops in the order of the paper. A barrier stands where a step reads what
 * the one before wrote; ops between two barriers are independent. The hyper-connection of a sublayer's end and the reductions
 * of the next one's begin are one op (hyper_conn_mix), so a layer begins with its reductions already made. */
#include <string.h>

#include "engine.h"

#define SCORE_BYTES (64ull << 20) /* index scores of one group of rows */

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
    uint64_t visible = stride4(visible_entries(positions, 4)), streams = n * 4 * D * f;
    s->scores_bytes = visible * f * n;
    if (s->scores_bytes > SCORE_BYTES)
        s->scores_bytes = visible * f > SCORE_BYTES ? visible * f : SCORE_BYTES;
    area areas[] = {
        { &s->x, streams },
        { &s->a, n * D * f },
        { &s->post, n * 4 * f },
        { &s->comb, n * 16 * f },
        { &s->partials, n * hc_chunks(c) * 25 * f },
        { &s->qa_kv, n * (c->q_lora_rank + c->head_dim) * f },
        { &s->compress, n * stride4(compress_columns(c)) * f },
        { &s->qr, n * c->q_lora_rank * f },
        { &s->q, n * (heads + (uint64_t)c->index_n_heads * c->index_head_dim) * f },
        { &s->scores, s->scores_bytes },
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
        { &s->h, n * A * c->moe_intermediate_size * f },
        { &s->shared_h, n * c->moe_intermediate_size * f },
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
} pass;

static pass begin_pass(dsvk_model *m, dsvk_cmd *cmd, const dsvk_step *step, uint32_t layer, dsvk_addr x) {
    const dsvk_layer_layout *at = &m->layout.layers[layer];
    return (pass){ m, &m->config, &m->scratch, cmd, step, &m->weights.layers[layer], at, x,
                   m->rope[at->ratio ? 1 : 0].addresses.addr };
}

/* A stage ends: what follows needs nothing but memory, so the recording may be cut here. */
static void stage(const pass *p) {
    if (p->step->between)
        p->step->between(p->step->user);
}

static void matmul(const pass *p, const dsvk_matrix *w, dsvk_addr x, uint32_t x_stride, dsvk_addr out, uint32_t out_stride) {
    dsvk_matmul(p->cmd, &(dsvk_matmul_params){ .w = *w, .x = x, .out = out, .n = p->step->n, .x_stride = x_stride,
                                               .out_stride = out_stride });
}

/* HC-pre and the norm that follows it: streams -> a, post, comb. */
static void site_begin(const pass *p, const dsvk_hc_weights *hc, dsvk_addr norm) {
    dsvk_hyper_conn_pre(p->cmd, &(dsvk_hyper_conn_pre_params){
        .x_in = p->x, .partials = p->s->partials, .base = hc->base, .scale = hc->scale, .norm = norm, .out = p->s->a,
        .post = p->s->post, .comb = p->s->comb, .n = p->step->n, .dim = p->c->hidden_size,
        .n_mix = (2 + DSVK_HC_STREAMS) * DSVK_HC_STREAMS, .sinkhorn_iters = p->c->hc_sinkhorn_iters, .eps = p->c->norm_eps,
        .hc_eps = p->c->hc_eps });
    dsvk_barrier(p->cmd);
}

/* HC-post of the sublayer output y [n, parts, D], and the reductions for the next site. */
static void site_end(const pass *p, uint32_t parts, const dsvk_hc_weights *next, uint32_t n_mix) {
    dsvk_hyper_conn_mix(p->cmd, &(dsvk_hyper_conn_mix_params){
        .x_in = p->x, .x_out = p->x, .y = p->s->y, .post = p->s->post, .comb = p->s->comb, .fn = next->fn,
        .partials = p->s->partials, .n = p->step->n, .dim = p->c->hidden_size, .n_parts = parts, .n_mix = n_mix });
    dsvk_barrier(p->cmd);
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

/* 4.7: which compressed entries each row attends to. Rows go in groups whose scores fit the score area. */
static void select_entries(const pass *p) {
    const dsvk_config *c = p->c;
    uint32_t n = p->step->n, visible = visible_entries(p->step->positions, 4), stride = stride4(visible ? visible : 1);
    uint32_t group = n;
    bool score = visible > c->index_topk; /* else every visible entry is taken */
    if (score && (uint64_t)n * stride * 4 > p->s->scores_bytes)
        group = (uint32_t)(p->s->scores_bytes / (4ull * stride));
    for (uint32_t first = 0; first < n; first += group) {
        uint32_t rows = n - first < group ? n - first : group;
        dsvk_addr row = p->step->rows + 16ull * first;
        if (score) {
            dsvk_indexer(p->cmd, &(dsvk_indexer_params){
                .rows = row, .seqs = p->step->seqs,
                .iq = p->s->q + 4ull * (c->n_heads * c->head_dim + (uint64_t)first * query_stride(p)),
                .weights = index_weights_part(p) + 4ull * first * compress_stride(p), .scores = p->s->scores,
                .format = p->m->layout.format, .n = rows, .n_heads = c->index_n_heads, .iq_stride = query_stride(p),
                .weights_stride = compress_stride(p), .scores_stride = stride, .max_visible = visible,
                .page_tokens = p->m->layout.page_tokens, .page_offset = p->at->keys_offset,
                .grid = group == n ? p->step->index_grid : NULL, .grid_offset = p->step->index_grid_offset,
                .scale = (float)(1.0 / __builtin_sqrt((double)c->index_head_dim * c->index_n_heads)) });
            dsvk_barrier(p->cmd);
        }
        dsvk_topk(p->cmd, &(dsvk_topk_params){ .rows = row, .scores = p->s->scores,
                                               .idx = p->s->idx + 4ull * first * c->index_topk, .n = rows, .k = c->index_topk,
                                               .scores_stride = stride });
        dsvk_barrier(p->cmd);
    }
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

/* 4.8, and 4.12 step 5 once nothing reads the old rings any more. */
static void attend(const pass *p) {
    const dsvk_config *c = p->c;
    uint32_t n = p->step->n;
    dsvk_sparse_attn_params a = {
        .rows = p->step->rows, .seqs = p->step->seqs, .rope = p->rope, .q = p->s->q, .step_store = p->s->store,
        .idx = p->at->ratio == 4 ? p->s->idx : 0, .sink = p->w->sink, .partial = p->s->attn, .out = p->s->o,
        .format = p->m->layout.format, .n = n, .n_heads = c->n_heads, .q_stride = query_stride(p), .step_capacity = n,
        .window = c->sliding_window, .ratio = p->at->ratio, .k = c->index_topk, .ring_offset = p->at->window_offset,
        .ring_capacity = p->m->layout.window_capacity, .page_tokens = p->m->layout.page_tokens,
        .page_offset = p->at->rows_offset,
        .n_splits = dsvk_sparse_attn_splits(n, attended_rows(c, p->step->positions, p->at->ratio)),
        .scale = (float)(1.0 / __builtin_sqrt((double)c->head_dim)) };
    dsvk_sparse_attn(p->cmd, &a);
    dsvk_barrier(p->cmd);
    dsvk_sparse_attn_merge(p->cmd, &a);
    dsvk_ring_store_params store = { .rows = p->step->rows, .seqs = p->step->seqs, .n = n };
    store.n_items = ring_items(p, store.items);
    dsvk_ring_store(p->cmd, &store);
    dsvk_barrier(p->cmd);
}

/* 4.9 */
static void project_out(const pass *p) {
    const dsvk_config *c = p->c;
    uint32_t GRo = c->o_groups * c->o_lora_rank;
    dsvk_matmul(p->cmd, &(dsvk_matmul_params){ .w = p->w->wo_a, .x = p->s->o, .out = p->s->u, .n = p->step->n,
                                               .x_stride = c->n_heads * c->head_dim, .out_stride = GRo,
                                               .group_rows = c->o_lora_rank });
    dsvk_barrier(p->cmd);
    matmul(p, &p->w->wo_b, p->s->u, GRo, p->s->y, c->hidden_size);
    dsvk_barrier(p->cmd);
}

/* 4.10: y[:, 0 .. A-1] the routed experts' outputs, y[:, A] the shared one's. */
static void mixture_of_experts(const pass *p) {
    const dsvk_config *c = p->c;
    const dsvk_scratch *s = p->s;
    uint32_t n = p->step->n, A = c->n_experts_per_token, D = c->hidden_size, I = c->moe_intermediate_size;
    uint32_t gate_stride = stride4(c->n_experts), tile = dsvk_moe_tile(p->m->device, n, A, c->n_experts);
    matmul(p, &p->w->gate, s->a, D, s->gate, gate_stride);
    dsvk_matmul(p->cmd, &(dsvk_matmul_params){ .w = p->w->shared_up, .x = s->a, .out = s->shared_h, .n = n, .x_stride = D,
                                               .out_stride = I, .swiglu = true, .limit = c->swiglu_limit });
    dsvk_barrier(p->cmd);
    dsvk_moe_gate(p->cmd, &(dsvk_moe_gate_params){
        .rows = p->step->rows, .logits = s->gate, .bias = p->w->gate_bias, .table = p->w->hash_table, .idx = s->expert_idx,
        .weights = s->expert_weight, .n = n, .n_experts = c->n_experts, .k = A, .vocab = c->vocab_size,
        .logits_stride = gate_stride, .route_scale = c->route_scale });
    matmul(p, &p->w->shared_down, s->shared_h, I, s->y + 4ull * A * D, (A + 1) * D);
    dsvk_barrier(p->cmd);
    dsvk_moe_sort(p->cmd, &(dsvk_moe_sort_params){ .idx = s->expert_idx, .pairs = s->pairs, .tiles = s->tiles, .n = n, .k = A,
                                                   .n_experts = c->n_experts, .tile = tile });
    dsvk_barrier(p->cmd);
    stage(p);
    dsvk_moe_expert_params e = { .experts = p->w->expert_table.addr, .pairs = s->pairs, .tiles = s->tiles,
                                 .weights = s->expert_weight, .x = s->a, .out = s->h, .w = p->w->expert_up, .n = n, .k = A,
                                 .n_experts = c->n_experts, .tile = tile, .x_stride = D, .out_stride = I, .up = true,
                                 .limit = c->swiglu_limit };
    dsvk_moe_expert(p->cmd, &e);
    dsvk_barrier(p->cmd);
    stage(p);
    e.up = false;
    e.w = p->w->expert_down;
    e.offset = p->w->expert_down_offset;
    e.x = s->h;
    e.x_stride = I;
    e.out = s->y;
    e.out_stride = (A + 1) * D;
    dsvk_moe_expert(p->cmd, &e);
    dsvk_barrier(p->cmd);
}

/* A whole block; its first reductions are in s->partials. `next`: the site whose reductions end it. */
static void block(const pass *p, const dsvk_hc_weights *next, uint32_t next_mix) {
    site_begin(p, &p->w->hc_attn, p->w->attn_norm);
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
    site_end(p, 1, &p->w->hc_ffn, (2 + DSVK_HC_STREAMS) * DSVK_HC_STREAMS);
    site_begin(p, &p->w->hc_ffn, p->w->ffn_norm);
    stage(p);
    mixture_of_experts(p);
    site_end(p, p->c->n_experts_per_token + 1, next, next_mix);
    stage(p);
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
    dsvk_hyper_conn_mix(cmd, &(dsvk_hyper_conn_mix_params){
        .x_in = s->x, .fn = m->weights.layers[0].hc_attn.fn, .partials = s->partials, .n = step->n,
        .dim = m->config.hidden_size, .n_mix = (2 + DSVK_HC_STREAMS) * DSVK_HC_STREAMS });
    dsvk_barrier(cmd);
}

void dsvk_forward_layer(dsvk_model *m, dsvk_cmd *cmd, const dsvk_step *step, uint32_t layer) {
    dsvk_cmd_set_part(cmd, dsvk_layer_kind(m->layout.layers[layer].ratio));
    pass p = begin_pass(m, cmd, step, layer, m->scratch.x);
    bool last = layer + 1 == m->config.n_layers;
    block(&p, last ? &m->weights.hc_head : &m->weights.layers[layer + 1].hc_attn,
          last ? DSVK_HC_STREAMS : (2 + DSVK_HC_STREAMS) * DSVK_HC_STREAMS);
}

/* 4.11 */
void dsvk_forward_head(dsvk_model *m, dsvk_cmd *cmd, uint32_t n_in, dsvk_addr select, uint32_t n, dsvk_addr logits, bool mtp) {
    dsvk_cmd_set_part(cmd, "head");
    dsvk_scratch *s = &m->scratch;
    const dsvk_hc_weights *hc = mtp ? &m->weights.mtp.hc_head : &m->weights.hc_head;
    dsvk_hyper_conn_pre(cmd, &(dsvk_hyper_conn_pre_params){
        .x_in = mtp ? s->mtp_x : s->x, .partials = s->partials, .select = select, .base = hc->base, .scale = hc->scale,
        .norm = mtp ? m->weights.mtp.norm : m->weights.norm, .out = s->a, .n = n, .n_in = n_in,
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
    dsvk_hyper_conn_mix(cmd, &(dsvk_hyper_conn_mix_params){
        .x_in = s->mtp_x, .x_out = s->mtp_x, .y = s->y, .post = m->constants.addr, .comb = m->constants.addr + 16,
        .fn = p.w->hc_attn.fn, .partials = s->partials, .n = n, .dim = D, .n_parts = 1,
        .n_mix = (2 + DSVK_HC_STREAMS) * DSVK_HC_STREAMS, .same_coefficients = 1 });
    dsvk_barrier(cmd);
    block(&p, &m->weights.mtp.hc_head, DSVK_HC_STREAMS);
}
