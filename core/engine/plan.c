/* What a model would need, from its config.json alone: the same list of weights, cache layout and scratch layout that opening
 * it uses, summed instead of allocated. */
#include <stdio.h>
#include <string.h>

#include "engine.h"

static json_t *integer(uint64_t n) { return json_integer((json_int_t)n); }

const char *dsvk_layer_kind(uint32_t ratio) { return ratio == 4 ? "CSA" : ratio == 128 ? "HCA" : "SWA"; }

typedef struct sums {
    uint64_t dense, experts; /* bytes of a layer's weights */
} sums;

static void add_up(const dsvk_weight_list *list, sums *layers, uint32_t n_layers) {
    for (uint32_t i = 0; i < list->n_weights; i++) {
        const dsvk_weight *w = &list->weights[i];
        sums *s = &layers[w->layer <= n_layers ? w->layer : n_layers + 1];
        *(w->expert ? &s->experts : &s->dense) += w->bytes;
    }
}

/* Bytes of weights one decoded token reads: everything dense but the embedding, and the chosen experts. */
static uint64_t bytes_per_token(const dsvk_config *c, const dsvk_weight_list *list, const sums *layers) {
    uint64_t n = layers[c->n_layers + 1].dense - list->weights[0].bytes; /* the embedding comes first in the list */
    for (uint32_t l = 0; l < c->n_layers; l++) {
        n += layers[l].dense + layers[l].experts / c->n_experts * c->n_experts_per_token;
        if (l < c->n_hash_layers)
            n -= dsvk_align(4ull * c->vocab_size * c->n_experts_per_token, 16); /* one row of the hash table is nothing */
    }
    return n;
}

static uint64_t session_bytes(const dsvk_cache_layout *layout, const dsvk_config *c, uint64_t tokens) {
    return layout->state_bytes + dsvk_ceil_div(tokens, layout->page_tokens) * layout->page_bytes +
           4ull * c->vocab_size + dsvk_ceil_div(tokens, layout->page_tokens) * 8;
}

static uint64_t rope_bytes(const dsvk_config *c, uint64_t tokens) {
    return 2 * dsvk_ceil_div(tokens, DSVK_ROPE_PAGE) * DSVK_ROPE_PAGE * c->rope_dim * 4;
}

static json_t *layer_rows(const dsvk_model *m, const sums *layers, bool mtp) {
    json_t *rows = json_array();
    uint64_t row = dsvk_row_code_bytes(&m->layout.format) + dsvk_row_scale_bytes(&m->layout.format);
    uint64_t key = dsvk_key_code_bytes(&m->layout.format) + dsvk_key_scale_bytes(&m->layout.format);
    for (uint32_t l = 0; rows && l < m->config.n_layers + mtp; l++) {
        uint32_t ratio = m->layout.layers[l].ratio;
        double growth = ratio ? (double)(row + (ratio == 4 ? key : 0)) / ratio : 0;
        json_array_append_new(rows, json_pack("{s:i, s:s, s:b, s:I, s:I, s:f}", "layer", (int)l, "kind",
                                              l == m->config.n_layers ? "MTP" : dsvk_layer_kind(ratio), "hash",
                                              l < m->config.n_hash_layers, "weights", (json_int_t)layers[l].dense, "experts",
                                              (json_int_t)layers[l].experts, "cache_bytes_per_token", growth));
    }
    return rows;
}

static json_t *context_rows(const dsvk_model *m, uint64_t context) {
    uint64_t at[] = { 4096, 32768, 131072, 1048576, context };
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < DSVK_COUNT(at); i++)
        if ((at[i] <= m->config.max_positions && at[i] < context) || i + 1 == DSVK_COUNT(at))
            json_array_append_new(rows, json_pack("{s:I, s:I}", "tokens", (json_int_t)at[i], "bytes",
                                                  (json_int_t)session_bytes(&m->layout, &m->config, at[i])));
    return rows;
}

static dsvk_status device_part(dsvk_device *device, uint64_t weights, uint64_t rest, json_t *root, dsvk_error *err) {
    char *text = NULL;
    json_t *described = NULL;
    DSVK_TRY(dsvk_device_describe(device, &text, err));
    dsvk_status status = dsvk_json_parse(&described, text, strlen(text), "device", err);
    dsvk_free(text);
    DSVK_TRY(status);
    uint64_t have = dsvk_purpose_available(device, DSVK_WEIGHTS);
    json_object_set_new(root, "available", integer(have));
    json_object_set_new(root, "fits", json_boolean(weights + rest <= have));
    json_object_set_new(root, "device", described);
    return DSVK_OK;
}

static dsvk_status report(dsvk_model *m, const dsvk_weight_list *list, dsvk_device *device, uint64_t context, char **json,
                          dsvk_error *err) {
    const dsvk_config *c = &m->config;
    sums *layers = dsvk_alloc_zero(c->n_layers + 2, sizeof *layers);
    if (!layers)
        return dsvk_fail_nomem(err, (c->n_layers + 2) * sizeof *layers);
    add_up(list, layers, c->n_layers);
    uint64_t weights = 0, experts = 0, logits = (uint64_t)DSVK_LOGIT_ROWS * c->vocab_size * 4;
    for (uint32_t l = 0; l < c->n_layers + 2; l++) {
        weights += layers[l].dense + layers[l].experts;
        experts += layers[l].experts;
    }
    uint64_t cache = session_bytes(&m->layout, c, context) + rope_bytes(c, context);
    uint64_t scratch = dsvk_scratch_bytes(m, m->options.max_chunk, (uint32_t)context) + logits +
                       DSVK_COUNTERS * sizeof(uint32_t) + dsvk_decode_scratch_bytes() + dsvk_topk_bins_bytes(DSVK_SELECT_ROWS);
    json_t *root = json_pack("{s:{s:I, s:I, s:I, s:I}, s:I, s:I, s:I, s:i, s:I, s:I, s:o, s:o}", "purposes", "weights",
                             (json_int_t)weights, "cache", (json_int_t)cache, "scratch", (json_int_t)scratch, "readback",
                             (json_int_t)(logits + dsvk_decode_readback_bytes()), "experts", (json_int_t)experts, "bytes_per_token",
                             (json_int_t)bytes_per_token(c, list, layers), "session_state", (json_int_t)m->layout.state_bytes,
                             "page_tokens", (int)m->layout.page_tokens, "page_bytes", (json_int_t)m->layout.page_bytes,
                             "context_tokens", (json_int_t)context, "layers", layer_rows(m, layers, list->mtp), "context",
                             context_rows(m, context));
    dsvk_free(layers);
    if (!root)
        return dsvk_fail(err, DSVK_NOMEM, "the plan could not be made");
    if (device) {
        dsvk_status status = device_part(device, weights, cache + scratch, root, err);
        if (status != DSVK_OK) {
            json_decref(root);
            return status;
        }
    }
    return dsvk_json_text(root, json, err);
}

dsvk_status dsvk_plan(const char *path, dsvk_device *device, const dsvk_model_options *options, uint64_t context, char **json,
                      dsvk_error *err) {
    if (!path || !json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_plan: path and json must not be NULL");
    dsvk_model m = { 0 };
    dsvk_weight_list list = { 0 };
    dsvk_status status;
    DSVK_TRY(dsvk_model_resolve(&m.options, options, err));
    DSVK_TRY(dsvk_config_read(&m.config, path, err));
    m.mtp = m.config.n_mtp_layers > 0;
    uint64_t tokens = context ? context : m.config.max_positions;
    if (tokens > m.config.max_positions) {
        status = dsvk_fail(err, DSVK_INVALID, "a context of %llu tokens was asked for, the model has %u positions",
                           (unsigned long long)tokens, m.config.max_positions);
        goto fail;
    }
    DSVK_GOTO(dsvk_weights_describe(&list, &m.weights, &m.config, m.mtp, err));
    DSVK_GOTO(dsvk_weights_place(&list, err));
    DSVK_GOTO(dsvk_cache_layout_make(&m.layout, &m.config, m.options.cache == DSVK_CACHE_NATIVE, m.options.page_tokens, m.mtp,
                                     err));
    status = report(&m, &list, device, tokens, json, err);
fail:
    dsvk_cache_layout_free(&m.layout);
    dsvk_weight_list_free(&list);
    dsvk_weights_free(&m.weights, m.config.n_layers);
    dsvk_config_free(&m.config);
    return status;
}
