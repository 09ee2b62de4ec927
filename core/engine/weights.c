/* The list of weights.h: names and shapes are spec 2.2's, in its order. */
#include <stdio.h>
#include <string.h>

#include "weights.h"

/* ---- building the list ---- */

typedef struct builder {
    dsvk_weight_list *list;
    const dsvk_config *config;
    const char *prefix; /* "layers.3." */
    uint32_t layer;
    bool expert;
} builder;

static dsvk_weight *add_weight(builder *b, dsvk_weight_kind kind, dsvk_weight_type type, uint32_t n_out, uint32_t n_in) {
    dsvk_weight *w = &b->list->weights[b->list->n_weights++];
    *w = (dsvk_weight){ .kind = kind, .type = type, .n_out = n_out, .n_in = n_in, .layer = b->layer, .expert = b->expert,
                        .first_source = b->list->n_sources };
    return w;
}

static void add_source(builder *b, dsvk_weight *w, const char *name, uint32_t rows, uint32_t cols, uint32_t first_row,
                       dsvk_weight_fold fold) {
    dsvk_weight_source *s = &b->list->sources[b->list->n_sources++];
    *s = (dsvk_weight_source){ .rows = rows, .cols = cols, .first_row = first_row, .fold = fold };
    snprintf(s->name, sizeof s->name, "%s%s", b->prefix, name);
    w->n_sources++;
}

static void vector(builder *b, dsvk_addr *to, const char *name, uint32_t rows, uint32_t cols) {
    dsvk_weight *w = add_weight(b, DSVK_WEIGHT_VECTOR, DSVK_TYPE_F32, rows, cols);
    w->addr = to;
    add_source(b, w, name, rows, cols, 0, DSVK_FOLD_NONE);
}

static dsvk_weight *matrix(builder *b, dsvk_matrix *to, dsvk_weight_type type, uint32_t n_out, uint32_t n_in) {
    dsvk_weight *w = add_weight(b, DSVK_WEIGHT_MATRIX, type, n_out, n_in);
    w->matrix = to;
    return w;
}

static void plain_matrix(builder *b, dsvk_matrix *to, dsvk_weight_type type, const char *name, uint32_t n_out,
                         uint32_t n_in) {
    add_source(b, matrix(b, to, type, n_out, n_in), name, n_out, n_in, 0, DSVK_FOLD_NONE);
}

static void hyper_connection(builder *b, dsvk_hc_weights *to, const char *site, uint32_t n_mix, uint32_t n_scale) {
    char name[32];
    snprintf(name, sizeof name, "%s_fn", site);
    vector(b, &to->fn, name, n_mix, DSVK_HC_STREAMS * b->config->hidden_size);
    snprintf(name, sizeof name, "%s_base", site);
    vector(b, &to->base, name, 1, n_mix);
    snprintf(name, sizeof name, "%s_scale", site);
    vector(b, &to->scale, name, 1, n_scale);
}

static void attention(builder *b, dsvk_layer_weights *l, uint32_t ratio) {
    const dsvk_config *c = b->config;
    uint32_t D = c->hidden_size, dh = c->head_dim, Rq = c->q_lora_rank, heads = c->n_heads * dh;
    uint32_t Hi = c->index_n_heads, di = c->index_head_dim, GRo = c->o_groups * c->o_lora_rank;
    vector(b, &l->sink, "attn.attn_sink", 1, c->n_heads);
    dsvk_weight *w = matrix(b, &l->attn_in, DSVK_TYPE_FP8, Rq + dh, D);
    add_source(b, w, "attn.wq_a.weight", Rq, D, 0, DSVK_FOLD_NONE);
    add_source(b, w, "attn.wkv.weight", dh, D, Rq, DSVK_FOLD_NONE);
    vector(b, &l->q_norm, "attn.q_norm.weight", 1, Rq);
    vector(b, &l->kv_norm, "attn.kv_norm.weight", 1, dh);
    w = matrix(b, &l->q_b, DSVK_TYPE_FP8, heads + (ratio == 4 ? Hi * di : 0), Rq);
    add_source(b, w, "attn.wq_b.weight", heads, Rq, 0, DSVK_FOLD_NONE);
    if (ratio == 4)
        add_source(b, w, "attn.indexer.wq_b.weight", Hi * di, Rq, heads, DSVK_FOLD_NONE);
    plain_matrix(b, &l->wo_a, DSVK_TYPE_FP8, "attn.wo_a.weight", GRo, heads / c->o_groups);
    plain_matrix(b, &l->wo_b, DSVK_TYPE_FP8, "attn.wo_b.weight", D, GRo);
    if (!ratio)
        return;
    uint32_t width = ratio == 4 ? 2 * dh : dh, index_width = 2 * di;
    w = matrix(b, &l->compress_in, DSVK_TYPE_BF16, 2 * width + (ratio == 4 ? 2 * index_width + Hi : 0), D);
    add_source(b, w, "attn.compressor.wkv.weight", width, D, 0, DSVK_FOLD_NONE);
    add_source(b, w, "attn.compressor.wgate.weight", width, D, width, DSVK_FOLD_NONE);
    if (ratio == 4) {
        add_source(b, w, "attn.indexer.compressor.wkv.weight", index_width, D, 2 * width, DSVK_FOLD_NONE);
        add_source(b, w, "attn.indexer.compressor.wgate.weight", index_width, D, 2 * width + index_width, DSVK_FOLD_NONE);
        add_source(b, w, "attn.indexer.weights_proj.weight", Hi, D, 2 * width + 2 * index_width, DSVK_FOLD_NONE);
        vector(b, &l->index_compressor.ape, "attn.indexer.compressor.ape", 4, index_width);
        vector(b, &l->index_compressor.norm, "attn.indexer.compressor.norm.weight", 1, di);
    }
    vector(b, &l->compressor.ape, "attn.compressor.ape", ratio, width);
    vector(b, &l->compressor.norm, "attn.compressor.norm.weight", 1, dh);
}

/* w1 and w3 interleaved, then w2. */
static void expert(builder *b, dsvk_matrix *up, dsvk_matrix *down, dsvk_weight_type type, const char *name) {
    uint32_t D = b->config->hidden_size, I = b->config->moe_intermediate_size;
    char tensor[48];
    dsvk_weight *w = matrix(b, up, type, 2 * (uint32_t)dsvk_align(I, 16), D);
    snprintf(tensor, sizeof tensor, "%s.w1.weight", name);
    add_source(b, w, tensor, I, D, 0, DSVK_FOLD_W1);
    snprintf(tensor, sizeof tensor, "%s.w3.weight", name);
    add_source(b, w, tensor, I, D, 0, DSVK_FOLD_W3);
    snprintf(tensor, sizeof tensor, "%s.w2.weight", name);
    plain_matrix(b, down, type, tensor, D, I);
}

static void mixture(builder *b, dsvk_layer_weights *l, bool hashed) {
    const dsvk_config *c = b->config;
    plain_matrix(b, &l->gate, DSVK_TYPE_BF16, "ffn.gate.weight", c->n_experts, c->hidden_size);
    if (hashed) {
        dsvk_weight *w = add_weight(b, DSVK_WEIGHT_TABLE, DSVK_TYPE_F32, c->vocab_size, c->n_experts_per_token);
        w->addr = &l->hash_table;
        w->limit = c->n_experts;
        add_source(b, w, "ffn.gate.tid2eid", c->vocab_size, c->n_experts_per_token, 0, DSVK_FOLD_NONE);
    } else {
        vector(b, &l->gate_bias, "ffn.gate.bias", 1, c->n_experts);
    }
    expert(b, &l->shared_up, &l->shared_down, DSVK_TYPE_FP8, "ffn.shared_experts");
    b->expert = true;
    for (uint32_t e = 0; e < c->n_experts; e++) {
        char name[32];
        snprintf(name, sizeof name, "ffn.experts.%u", e);
        expert(b, &l->expert_up, &l->expert_down, DSVK_TYPE_FP4, name);
        b->list->weights[b->list->n_weights - 2].addr = &l->expert_blobs[e];
    }
    b->expert = false;
}

static void layer(builder *b, dsvk_layer_weights *l, uint32_t ratio, bool hashed) {
    uint32_t D = b->config->hidden_size, n_mix = (2 + DSVK_HC_STREAMS) * DSVK_HC_STREAMS;
    vector(b, &l->attn_norm, "attn_norm.weight", 1, D);
    vector(b, &l->ffn_norm, "ffn_norm.weight", 1, D);
    hyper_connection(b, &l->hc_attn, "hc_attn", n_mix, 3);
    hyper_connection(b, &l->hc_ffn, "hc_ffn", n_mix, 3);
    attention(b, l, ratio);
    mixture(b, l, hashed);
}

dsvk_status dsvk_weights_describe(dsvk_weight_list *list, dsvk_weights *weights, const dsvk_config *c, bool mtp,
                                  dsvk_error *err) {
    uint32_t D = c->hidden_size, blocks = c->n_layers + (mtp ? 1 : 0);
    memset(list, 0, sizeof *list);
    memset(weights, 0, sizeof *weights);
    list->mtp = mtp;
    list->weight_capacity = blocks * (32 + 2 * c->n_experts) + 32; /* 32: more than any block has without experts */
    list->source_capacity = blocks * (48 + 3 * c->n_experts) + 32;
    list->weights = dsvk_alloc_zero(list->weight_capacity, sizeof *list->weights);
    list->sources = dsvk_alloc_zero(list->source_capacity, sizeof *list->sources);
    weights->layers = dsvk_alloc_zero(c->n_layers + 1, sizeof *weights->layers);
    bool complete = list->weights && list->sources && weights->layers;
    for (uint32_t l = 0; complete && l < blocks; l++) {
        weights->layers[l].expert_blobs = dsvk_alloc_zero(c->n_experts, sizeof(dsvk_addr));
        complete = weights->layers[l].expert_blobs != NULL;
    }
    if (!complete) {
        dsvk_weights_free(weights, c->n_layers);
        dsvk_weight_list_free(list);
        return dsvk_fail_nomem(err, list->weight_capacity * sizeof *list->weights);
    }
    builder b = { .list = list, .config = c, .prefix = "", .layer = c->n_layers + 1 };
    dsvk_weight *w = add_weight(&b, DSVK_WEIGHT_ROWS, DSVK_TYPE_BF16, c->vocab_size, D);
    w->addr = &weights->embed;
    add_source(&b, w, "embed.weight", c->vocab_size, D, 0, DSVK_FOLD_NONE);
    plain_matrix(&b, &weights->head, DSVK_TYPE_BF16, "head.weight", c->vocab_size, D);
    vector(&b, &weights->norm, "norm.weight", 1, D);
    hyper_connection(&b, &weights->hc_head, "hc_head", DSVK_HC_STREAMS, 1);
    for (uint32_t l = 0; l < c->n_layers; l++) {
        char prefix[24];
        snprintf(prefix, sizeof prefix, "layers.%u.", l);
        b.prefix = prefix;
        b.layer = l;
        layer(&b, &weights->layers[l], c->compress_ratios[l], l < c->n_hash_layers);
    }
    if (mtp) {
        b.prefix = "mtp.0.";
        b.layer = c->n_layers;
        layer(&b, &weights->layers[c->n_layers], 0, false);
        plain_matrix(&b, &weights->mtp.e_proj, DSVK_TYPE_FP8, "e_proj.weight", D, D);
        plain_matrix(&b, &weights->mtp.h_proj, DSVK_TYPE_FP8, "h_proj.weight", D, D);
        vector(&b, &weights->mtp.enorm, "enorm.weight", 1, D);
        vector(&b, &weights->mtp.hnorm, "hnorm.weight", 1, D);
        vector(&b, &weights->mtp.norm, "norm.weight", 1, D);
        hyper_connection(&b, &weights->mtp.hc_head, "hc_head", DSVK_HC_STREAMS, 1);
    }
    return DSVK_OK;
}

/* ---- binding to a checkpoint ---- */

typedef struct missing {
    uint32_t count;
    char names[3][DSVK_WEIGHT_NAME];
} missing;

static void note_missing(missing *m, const char *name) {
    if (m->count < 3)
        snprintf(m->names[m->count], sizeof m->names[0], "%s", name);
    m->count++;
}

static uint64_t last_dim(const dsvk_file_tensor *t) { return t->rank ? t->shape[t->rank - 1] : 1; }

static uint64_t elements(const dsvk_file_tensor *t) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        n *= t->shape[i]; /* checked by the reader */
    return n;
}

static bool packed_fp4(const dsvk_file_tensor *t) {
    return t->dtype == DSVK_DTYPE_I8 || t->dtype == DSVK_DTYPE_U8 || t->dtype == DSVK_DTYPE_F4;
}

static dsvk_status wrong_shape(const dsvk_weight_source *s, const char *expected, const dsvk_file_tensor *found,
                               dsvk_error *err) {
    char text[160];
    return dsvk_fail(err, DSVK_FORMAT, "tensor %s: expected %s by config.json, the file has %s", found ? found->name : s->name,
                     expected, dsvk_file_tensor_describe(text, sizeof text, found));
}

static dsvk_status check_scales(dsvk_weight_source *s, const dsvk_checkpoint *checkpoint, bool fp4, missing *m, uint8_t *used,
                                dsvk_error *err) {
    char name[DSVK_WEIGHT_NAME], expected[96];
    size_t stem = strlen(s->name) - strlen("weight");
    snprintf(name, sizeof name, "%.*sscale", (int)stem, s->name);
    const dsvk_file_tensor *t = dsvk_checkpoint_find(checkpoint, name);
    if (!t) {
        note_missing(m, name);
        return DSVK_OK;
    }
    uint64_t rows = fp4 ? s->rows : dsvk_ceil_div(s->rows, 128), cols = dsvk_ceil_div(s->cols, fp4 ? 32 : 128);
    snprintf(expected, sizeof expected, "[%llu, %llu] %s", (unsigned long long)rows, (unsigned long long)cols,
             fp4 ? "F8_E8M0" : "F8_E8M0 or F32");
    if (t->rank != 2 || t->shape[0] != rows || t->shape[1] != cols)
        return wrong_shape(s, expected, t, err);
    if (t->dtype != DSVK_DTYPE_F8_E8M0 && (fp4 || t->dtype != DSVK_DTYPE_F32)) {
        char text[160];
        return dsvk_fail(err, DSVK_UNSUPPORTED, "tensor %s: expected %s, the file has %s", name, expected,
                         dsvk_file_tensor_describe(text, sizeof text, t));
    }
    s->scales = t;
    used[dsvk_checkpoint_position(checkpoint, t)] = 1;
    return DSVK_OK;
}

/* The type a matrix source has in the file. */
static dsvk_status matrix_type(const dsvk_weight_source *s, dsvk_weight_type *type, dsvk_error *err) {
    char text[160];
    switch (s->tensor->dtype) {
    case DSVK_DTYPE_F8_E4M3: *type = DSVK_TYPE_FP8; return DSVK_OK;
    case DSVK_DTYPE_BF16: *type = DSVK_TYPE_BF16; return DSVK_OK;
    case DSVK_DTYPE_F32: *type = DSVK_TYPE_F32; return DSVK_OK;
    case DSVK_DTYPE_I8:
    case DSVK_DTYPE_U8:
    case DSVK_DTYPE_F4: *type = DSVK_TYPE_FP4; return DSVK_OK;
    default:
        return dsvk_fail(err, DSVK_UNSUPPORTED, "tensor %s: expected F8_E4M3, packed FP4 (I8, U8, F4), BF16 or F32, the file has %s",
                         s->name, dsvk_file_tensor_describe(text, sizeof text, s->tensor));
    }
}

static dsvk_status bind_matrix_source(dsvk_weight_source *s, const dsvk_checkpoint *checkpoint, missing *m, uint8_t *used,
                                      dsvk_error *err) {
    const dsvk_file_tensor *t = s->tensor;
    dsvk_weight_type type;
    DSVK_TRY(matrix_type(s, &type, err));
    char expected[64];
    uint64_t cols = packed_fp4(t) && t->dtype != DSVK_DTYPE_F4 ? s->cols / 2 : s->cols;
    snprintf(expected, sizeof expected, "[%u, %llu]", s->rows, (unsigned long long)cols);
    if (t->rank != 2 || t->shape[0] != s->rows || t->shape[1] != cols)
        return wrong_shape(s, expected, t, err);
    if (type == DSVK_TYPE_FP8 || type == DSVK_TYPE_FP4)
        return check_scales(s, checkpoint, type == DSVK_TYPE_FP4, m, used, err);
    return DSVK_OK;
}

static dsvk_status bind_other_source(const dsvk_weight *w, dsvk_weight_source *s, dsvk_error *err) {
    const dsvk_file_tensor *t = s->tensor;
    char expected[64], text[160];
    if (s->rows == 1)
        snprintf(expected, sizeof expected, "[%u]", s->cols);
    else
        snprintf(expected, sizeof expected, "[%u, %u]", s->rows, s->cols);
    if (elements(t) != (uint64_t)s->rows * s->cols || last_dim(t) != s->cols)
        return wrong_shape(s, expected, t, err);
    bool fits = w->kind == DSVK_WEIGHT_TABLE  ? t->dtype == DSVK_DTYPE_I64 || t->dtype == DSVK_DTYPE_I32
                : w->kind == DSVK_WEIGHT_ROWS ? t->dtype == DSVK_DTYPE_BF16
                                              : t->dtype == DSVK_DTYPE_BF16 || t->dtype == DSVK_DTYPE_F32;
    if (!fits)
        return dsvk_fail(err, DSVK_UNSUPPORTED, "tensor %s: expected %s %s, the file has %s", s->name, expected,
                         w->kind == DSVK_WEIGHT_TABLE ? "I64 or I32" : w->kind == DSVK_WEIGHT_ROWS ? "BF16" : "BF16 or F32",
                         dsvk_file_tensor_describe(text, sizeof text, t));
    return DSVK_OK;
}

dsvk_status dsvk_weights_bind(dsvk_weight_list *list, const dsvk_checkpoint *checkpoint, uint8_t *used, dsvk_error *err) {
    missing m = { 0 };
    for (uint32_t i = 0; i < list->n_weights; i++) {
        dsvk_weight *w = &list->weights[i];
        for (uint32_t j = 0; j < w->n_sources; j++) {
            dsvk_weight_source *s = &list->sources[w->first_source + j];
            s->tensor = dsvk_checkpoint_find(checkpoint, s->name);
            if (!s->tensor) {
                note_missing(&m, s->name);
                continue;
            }
            used[dsvk_checkpoint_position(checkpoint, s->tensor)] = 1;
            if (w->kind == DSVK_WEIGHT_MATRIX)
                DSVK_TRY(bind_matrix_source(s, checkpoint, &m, used, err));
            else
                DSVK_TRY(bind_other_source(w, s, err));
        }
    }
    if (m.count > 0)
        return dsvk_fail(err, DSVK_FORMAT, "%u tensor%s missing: %s%s%s%s%s%s", m.count, m.count == 1 ? " is" : "s are",
                         m.names[0], m.count > 1 ? ", " : "", m.names[1], m.count > 2 ? ", " : "", m.names[2],
                         m.count > 3 ? ", ..." : "");
    for (uint32_t i = 0; i < list->n_weights; i++) { /* parts of one matrix in different types become f32 */
        dsvk_weight *w = &list->weights[i];
        for (uint32_t j = 0; w->kind == DSVK_WEIGHT_MATRIX && j < w->n_sources; j++) {
            dsvk_weight_type type;
            DSVK_TRY(matrix_type(&list->sources[w->first_source + j], &type, err));
            w->type = j == 0 || w->type == type ? type : DSVK_TYPE_F32;
        }
    }
    return DSVK_OK;
}

/* ---- placing ---- */

static uint64_t weight_bytes(const dsvk_weight *w) {
    uint64_t n = (uint64_t)w->n_out * w->n_in;
    switch (w->kind) {
    case DSVK_WEIGHT_MATRIX: return dsvk_matrix_bytes(w->type, w->n_out, w->n_in);
    case DSVK_WEIGHT_ROWS: return dsvk_align(2 * n, 16);
    default: return dsvk_align(4 * n, 16);
    }
}

dsvk_status dsvk_weights_place(dsvk_weight_list *list, dsvk_error *err) {
    dsvk_free(list->buffer_bytes);
    list->n_buffers = 0;
    list->buffer_bytes = dsvk_alloc_zero(list->n_weights, sizeof *list->buffer_bytes);
    if (!list->buffer_bytes)
        return dsvk_fail_nomem(err, list->n_weights * sizeof *list->buffer_bytes);
    for (uint32_t i = 0; i < list->n_weights; i++) {
        dsvk_weight *w = &list->weights[i];
        /* An expert's down matrix follows its up matrix in one buffer: experts are the unit that can move. */
        bool joins = w->expert && !w->addr;
        if (joins) {
            const dsvk_weight *up = &list->weights[i - 1];
            if (i >= 3 && list->weights[i - 2].expert && list->weights[i - 2].layer == w->layer &&
                (list->weights[i - 2].type != w->type || list->weights[i - 3].type != up->type))
                return dsvk_fail(err, DSVK_UNSUPPORTED, "tensor %s: the experts of a layer must all have one type",
                                 list->sources[w->first_source].name);
            w->buffer = up->buffer;
            w->offset = dsvk_align(list->buffer_bytes[up->buffer], 256);
        } else {
            w->buffer = list->n_buffers++;
            w->offset = 0;
        }
        w->bytes = weight_bytes(w);
        list->buffer_bytes[w->buffer] = w->offset + w->bytes;
    }
    return DSVK_OK;
}

void dsvk_weight_list_free(dsvk_weight_list *list) {
    dsvk_free(list->weights);
    dsvk_free(list->sources);
    dsvk_free(list->buffer_bytes);
    list->weights = NULL;
    list->sources = NULL;
    list->buffer_bytes = NULL;
    list->n_weights = list->n_sources = list->n_buffers = 0;
}

void dsvk_weights_free(dsvk_weights *weights, uint32_t n_layers) {
    for (uint32_t l = 0; weights->layers && l <= n_layers; l++)
        dsvk_free(weights->layers[l].expert_blobs);
    dsvk_free(weights->layers);
    weights->layers = NULL;
}
