/* dsvk_model_trace: a forward pass over a new timeline, whose intermediates are copied where they stand complete (forward.c, tap).
 * They come back in one buffer per step, so a step has as many rows as fit into that; what lies in cache pages is read at the end. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"
#include "tensor.h"

#define READBACK_BYTES (64ull << 20) /* aim for one step; a row of Flash has about 5 MB */
#define NAME_SIZE 40

/* One entry and how its rows come back. */
typedef struct traced {
    dsvk_trace_entry entry;
    char name[NAME_SIZE];
    int tap;             /* a dsvk_tap, or -1 */
    uint64_t row_bytes;  /* of a row in data */
    uint64_t most_bytes; /* of a row as it comes back */
    uint64_t offset;     /* of its rows in the readback buffer */
    uint64_t stride;     /* of this step; 0: it had none */
} traced;

struct dsvk_trace {
    dsvk_model *model;   /* while it is made, NULL afterwards */
    uint64_t n;
    traced *list;
    size_t n_list, capacity;
    size_t *places;      /* [n_layers][DSVK_TAP_COUNT]: index into list, n_list for what is not there */
    dsvk_buffer readback;
    uint64_t chunk;      /* rows of a step */
};

void dsvk_trace_close(dsvk_trace *t) {
    if (!t)
        return;
    for (size_t i = 0; i < t->n_list; i++)
        dsvk_free((void *)t->list[i].entry.data);
    if (t->model)
        dsvk_buffer_destroy(t->model->device, &t->readback);
    dsvk_free(t->list);
    dsvk_free(t->places);
    dsvk_free(t);
}

size_t dsvk_trace_count(const dsvk_trace *t) { return t ? t->n_list : 0; }

const dsvk_trace_entry *dsvk_trace_get(const dsvk_trace *t, size_t i) { return t && i < t->n_list ? &t->list[i].entry : NULL; }

/* ---- the list of what there will be ---- */

/* An entry of shape [rows, a, b] (b 0: [rows, a]) of 4-byte numbers; layer UINT32_MAX: of none. */
static dsvk_status add(dsvk_trace *t, uint32_t layer, const char *name, int tap, dsvk_dtype dtype, uint64_t rows, uint64_t a, uint64_t b,
                       uint64_t most, dsvk_error *err) {
    traced *e = &t->list[t->n_list];
    uint64_t bytes;
    *e = (traced){ .tap = tap, .row_bytes = 4 * a * (b ? b : 1), .most_bytes = 4 * most };
    e->entry = (dsvk_trace_entry){ .dtype = dtype, .rank = b ? 3 : 2, .shape = { rows, a, b } };
    if (layer == UINT32_MAX)
        snprintf(e->name, sizeof e->name, "%s", name);
    else
        snprintf(e->name, sizeof e->name, "layers.%u.%s", layer, name);
    if (rows == 0 || a == 0)
        return DSVK_OK;
    void *data = dsvk_mul(rows, e->row_bytes, &bytes) ? dsvk_alloc_zero(rows, e->row_bytes) : NULL;
    if (!data)
        return dsvk_fail_nomem(err, bytes);
    e->entry.data = data;
    if (tap >= 0)
        t->places[(layer == UINT32_MAX ? 0 : layer) * DSVK_TAP_COUNT + (uint32_t)tap] = t->n_list;
    t->n_list++;
    return DSVK_OK;
}

static uint64_t stride4(uint64_t n) { return dsvk_align(n, 4); }

static dsvk_status add_layer(dsvk_trace *t, uint32_t l, dsvk_error *err) {
    const dsvk_config *c = &t->model->config;
    const uint32_t ratio = t->model->layout.layers[l].ratio, A = c->n_experts_per_token, D = c->hidden_size, C = DSVK_HC_STREAMS;
    const uint64_t n = t->n, entries = ratio ? n / ratio : 0, k = entries < c->index_topk ? entries : c->index_topk;
    const dsvk_dtype f32 = DSVK_DTYPE_F32, i32 = DSVK_DTYPE_I32;
    DSVK_TRY(add(t, l, "attn.input", DSVK_TAP_ATTN_INPUT, f32, n, D, 0, D, err));
    DSVK_TRY(add(t, l, "attn.post", DSVK_TAP_ATTN_POST, f32, n, C, 0, C, err));
    DSVK_TRY(add(t, l, "attn.comb", DSVK_TAP_ATTN_COMB, f32, n, C, C, C * C, err));
    if (ratio)
        DSVK_TRY(add(t, l, "compressed", -1, f32, entries, c->head_dim, 0, 0, err));
    if (ratio == 4) {
        DSVK_TRY(add(t, l, "indexer.keys", -1, f32, entries, c->index_head_dim, 0, 0, err));
        DSVK_TRY(add(t, l, "indexer.scores", DSVK_TAP_SCORES, f32, n, entries, 0, stride4(entries), err));
        DSVK_TRY(add(t, l, "indexer.selected", DSVK_TAP_SELECTED, i32, n, k, 0, c->index_topk, err));
    }
    DSVK_TRY(add(t, l, "ffn.input", DSVK_TAP_FFN_INPUT, f32, n, D, 0, D, err));
    DSVK_TRY(add(t, l, "ffn.post", DSVK_TAP_FFN_POST, f32, n, C, 0, C, err));
    DSVK_TRY(add(t, l, "ffn.comb", DSVK_TAP_FFN_COMB, f32, n, C, C, C * C, err));
    DSVK_TRY(add(t, l, "router.logits", DSVK_TAP_LOGITS, f32, n, c->n_experts, 0, stride4(c->n_experts), err));
    DSVK_TRY(add(t, l, "router.experts", DSVK_TAP_EXPERTS, i32, n, A, 0, A, err));
    DSVK_TRY(add(t, l, "router.weights", DSVK_TAP_WEIGHTS, f32, n, A, 0, A, err));
    return add(t, l, "streams", DSVK_TAP_STREAMS, f32, n, C, D, C * D, err);
}

#define LAYER_ENTRIES 14u

static dsvk_status make_list(dsvk_trace *t, dsvk_error *err) {
    const dsvk_config *c = &t->model->config;
    t->capacity = (size_t)c->n_layers * LAYER_ENTRIES + 2;
    t->list = dsvk_alloc_zero(t->capacity, sizeof *t->list);
    t->places = dsvk_alloc((size_t)c->n_layers * DSVK_TAP_COUNT * sizeof *t->places);
    if (!t->list || !t->places)
        return dsvk_fail_nomem(err, t->capacity * sizeof *t->list);
    for (size_t i = 0; i < (size_t)c->n_layers * DSVK_TAP_COUNT; i++)
        t->places[i] = SIZE_MAX;
    DSVK_TRY(add(t, UINT32_MAX, "embedding", DSVK_TAP_EMBEDDING, DSVK_DTYPE_F32, t->n, DSVK_HC_STREAMS, c->hidden_size,
                 DSVK_HC_STREAMS * c->hidden_size, err));
    for (uint32_t l = 0; l < c->n_layers; l++)
        DSVK_TRY(add_layer(t, l, err));
    DSVK_TRY(add(t, UINT32_MAX, "logits", -1, DSVK_DTYPE_F32, t->n, c->vocab_size, 0, 0, err));
    for (size_t i = 0; i < t->n_list; i++) {
        traced *e = &t->list[i];
        e->entry.name = e->name;
        float *scores = e->tap == DSVK_TAP_SCORES ? (float *)e->entry.data : NULL;
        for (uint64_t j = 0; scores && j < e->entry.shape[0] * e->entry.shape[1]; j++)
            scores[j] = -INFINITY;
    }
    return DSVK_OK;
}

static dsvk_status open_readback(dsvk_trace *t, dsvk_error *err) {
    uint64_t row = 0, at = 0;
    for (size_t i = 0; i < t->n_list; i++)
        row += t->list[i].most_bytes;
    t->chunk = READBACK_BYTES / row;
    t->chunk = t->chunk < 1 ? 1 : t->chunk < t->model->options.max_chunk ? t->chunk : t->model->options.max_chunk;
    t->chunk = t->chunk < t->n ? t->chunk : t->n;
    for (size_t i = 0; i < t->n_list; i++) {
        t->list[i].offset = at;
        at += t->chunk * t->list[i].most_bytes;
    }
    return dsvk_buffer_create(t->model->device, DSVK_READBACK, at, "trace", &t->readback, err);
}

/* ---- running ---- */

static void take(void *user, dsvk_tap what, uint32_t layer, dsvk_addr from, uint32_t first, uint32_t rows, uint64_t stride) {
    dsvk_trace *t = user;
    const size_t place = layer < t->model->config.n_layers ? t->places[layer * DSVK_TAP_COUNT + what] : SIZE_MAX;
    const dsvk_scratch *s = &t->model->scratch;
    if (place == SIZE_MAX)
        return;
    t->list[place].stride = stride;
    dsvk_cmd_copy(t->model->cmd, &s->buffer, from - s->buffer.addr, &t->readback, t->list[place].offset + first * stride, rows * stride);
    dsvk_barrier(t->model->cmd);
}

/* Rows of the step that began at token `start`, to where they belong. */
static void keep(dsvk_trace *t, uint64_t start, uint64_t rows) {
    const uint32_t topk = t->model->config.index_topk;
    for (size_t i = 0; i < t->n_list; i++) {
        traced *e = &t->list[i];
        for (uint64_t r = 0; e->stride > 0 && r < rows; r++) {
            const uint64_t visible = (start + r + 1) / 4;
            const uint64_t bytes = e->tap != DSVK_TAP_SCORES ? e->row_bytes : visible > topk ? 4 * visible : 0;
            memcpy((char *)e->entry.data + (start + r) * e->row_bytes, (const char *)t->readback.host + e->offset + r * e->stride, bytes);
        }
        e->stride = 0;
    }
}

typedef struct watcher {
    dsvk_progress_fn progress;
    void *user;
    uint64_t done, total;
} watcher;

static bool wants_to_stop(void *user) {
    const watcher *w = user;
    return w->progress && w->progress(w->user, "tokens", w->done, w->total);
}

static dsvk_status run(dsvk_trace *t, dsvk_session *s, const int32_t *tokens, watcher *w, dsvk_error *err) {
    float *logits = (float *)t->list[t->n_list - 1].entry.data;
    for (; w->done < t->n; w->done = s->n) {
        const uint64_t left = t->n - w->done, rows = left < t->chunk ? left : t->chunk;
        const dsvk_run one = { s, tokens + w->done, (uint32_t)rows };
        const dsvk_step_result result = { .logits = logits + w->done * t->model->config.vocab_size, .stop = wants_to_stop, .user = w,
                                          .tap = take, .tap_user = t };
        DSVK_TRY(dsvk_step_run(t->model, &one, 1, &result, err));
        keep(t, w->done, rows);
    }
    return wants_to_stop(w) ? dsvk_fail(err, DSVK_CANCELLED, "cancelled at the end of a trace") : DSVK_OK;
}

/* ---- what lies in the pages ---- */

static void decode_page(const dsvk_trace *t, const uint8_t *page, uint64_t number) {
    const dsvk_cache_layout *layout = &t->model->layout;
    const dsvk_row_format *f = &layout->format;
    for (size_t i = 0; i < t->n_list; i++) {
        const traced *e = &t->list[i];
        uint32_t l;
        const bool keys = strstr(e->name, "indexer.keys") != NULL;
        if ((!keys && !strstr(e->name, "compressed")) || sscanf(e->name, "layers.%u", &l) != 1)
            continue;
        const dsvk_layer_layout *at = &layout->layers[l];
        const uint64_t capacity = layout->page_tokens / at->ratio, width = e->entry.shape[1], first = number * capacity;
        const uint8_t *store = page + (keys ? at->keys_offset : at->rows_offset);
        const uint64_t codes = keys ? dsvk_key_code_bytes(f) : dsvk_row_code_bytes(f);
        const uint64_t scales = keys ? dsvk_key_scale_bytes(f) : dsvk_row_scale_bytes(f);
        for (uint64_t r = 0; r < capacity && first + r < e->entry.shape[0]; r++) {
            float *out = (float *)e->entry.data + (first + r) * width;
            if (f->native)
                (keys ? dsvk_decode_key : dsvk_decode_row)(f, store + r * codes, store + capacity * codes + r * scales, out);
            else
                memcpy(out, store + r * codes, codes);
        }
    }
}

static dsvk_status read_pages(const dsvk_trace *t, const dsvk_session *s, dsvk_error *err) {
    const uint64_t bytes = t->model->layout.page_bytes;
    uint8_t *page = dsvk_alloc(bytes + 1);
    if (!page)
        return dsvk_fail_nomem(err, bytes);
    dsvk_status status = DSVK_OK;
    for (uint32_t p = 0; status == DSVK_OK && bytes > 0 && p < s->n_pages; p++) {
        status = dsvk_buffer_read(t->model->device, &s->pages[p]->buffer, 0, page, bytes, err);
        if (status == DSVK_OK)
            decode_page(t, page, p);
    }
    dsvk_free(page);
    return status;
}

dsvk_status dsvk_model_trace(dsvk_trace **trace, dsvk_model *model, const int32_t *tokens, size_t n, dsvk_progress_fn progress,
                             void *user, dsvk_error *err) {
    if (!trace || !model)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_model_trace: trace and model must not be NULL");
    *trace = NULL;
    dsvk_session *session = NULL;
    dsvk_trace *t = NULL;
    dsvk_status status;
    if (n == 0)
        return dsvk_fail(err, DSVK_INVALID, "a trace needs at least one token");
    if (n > model->config.max_positions)
        return dsvk_fail(err, DSVK_LIMIT, "%zu tokens are more than the model's context of %u", n, model->config.max_positions);
    DSVK_TRY(dsvk_session_open(&session, model, &(dsvk_session_options){ .size = sizeof(dsvk_session_options), .context = n }, err));
    DSVK_GOTO(dsvk_session_check_goal(session, tokens, n, 0, NULL, err));
    t = dsvk_alloc_zero(1, sizeof *t);
    if (!t) {
        status = dsvk_fail_nomem(err, sizeof *t);
        goto fail;
    }
    t->model = model;
    t->n = n;
    watcher w = { progress, user, 0, n };
    DSVK_GOTO(make_list(t, err));
    DSVK_GOTO(open_readback(t, err));
    DSVK_GOTO(run(t, session, tokens, &w, err));
    DSVK_GOTO(read_pages(t, session, err));
    dsvk_buffer_destroy(model->device, &t->readback);
    t->model = NULL;
    *trace = t;
fail:
    if (status != DSVK_OK)
        dsvk_trace_close(t);
    dsvk_session_close(session);
    return status;
}
