/* Cache layout and RoPE tables; see cache.h. Sizes are spec 1.7's plus DSVK_ROLLBACK slots per ring. */
#include <math.h>
#include <string.h>

#include "cache.h"

typedef struct cursor {
    uint64_t state, page;
} cursor;

static uint32_t take(uint64_t *at, uint64_t bytes) {
    uint64_t offset = *at;
    *at = dsvk_align(offset + bytes, 16);
    return (uint32_t)offset;
}

static void lay_out_layer(dsvk_layer_layout *l, const dsvk_cache_layout *c, const dsvk_config *config, uint32_t ratio,
                          cursor *at) {
    uint64_t row_bytes = dsvk_row_code_bytes(&c->format) + dsvk_row_scale_bytes(&c->format);
    uint64_t key_bytes = dsvk_key_code_bytes(&c->format) + dsvk_key_scale_bytes(&c->format);
    *l = (dsvk_layer_layout){ .ratio = ratio };
    l->window_offset = take(&at->state, c->window_capacity * row_bytes);
    if (!ratio)
        return;
    uint32_t overlap = ratio == 4 ? 2 : 1; /* CSA entries pool two windows, each with its own half of the channels */
    l->compress_width = overlap * config->head_dim;
    l->compress_capacity = overlap * ratio + DSVK_ROLLBACK;
    l->compress_offset = take(&at->state, (uint64_t)l->compress_capacity * 2 * l->compress_width * sizeof(float));
    l->rows_offset = take(&at->page, c->page_tokens / ratio * row_bytes);
    if (ratio != 4)
        return;
    l->index_width = 2 * config->index_head_dim;
    l->index_offset = take(&at->state, (uint64_t)l->compress_capacity * 2 * l->index_width * sizeof(float));
    l->keys_offset = take(&at->page, c->page_tokens / ratio * key_bytes);
}

dsvk_status dsvk_cache_layout_make(dsvk_cache_layout *c, const dsvk_config *config, bool native, uint32_t page_tokens,
                                   bool mtp, dsvk_error *err) {
    memset(c, 0, sizeof *c);
    c->layers = dsvk_alloc_zero(config->n_layers + 1, sizeof *c->layers);
    if (!c->layers)
        return dsvk_fail_nomem(err, (config->n_layers + 1) * sizeof *c->layers);
    c->format = (dsvk_row_format){ .native = native, .head_dim = config->head_dim, .rope_dim = config->rope_dim,
                                   .index_dim = config->index_head_dim };
    c->page_tokens = page_tokens;
    c->window_capacity = config->sliding_window + DSVK_ROLLBACK;
    cursor at = { 0, 0 };
    for (uint32_t l = 0; l < config->n_layers; l++)
        lay_out_layer(&c->layers[l], c, config, config->compress_ratios[l], &at);
    if (mtp) {
        lay_out_layer(&c->layers[config->n_layers], c, config, 0, &at);
        c->streams_offset = take(&at.state, (DSVK_ROLLBACK + 1) * 4ull * config->hidden_size * sizeof(float));
    }
    c->state_bytes = at.state;
    c->page_bytes = at.page ? at.page : 16; /* a model of SWA layers only keeps nothing in pages */
    if (c->state_bytes > UINT32_MAX || c->page_bytes > UINT32_MAX) {
        dsvk_cache_layout_free(c);
        return dsvk_fail(err, DSVK_LIMIT, "one session's fixed cache would be %llu bytes and a page %llu; the limit of each is 4 GiB",
                         (unsigned long long)at.state, (unsigned long long)at.page);
    }
    return DSVK_OK;
}

void dsvk_cache_layout_free(dsvk_cache_layout *c) {
    dsvk_free(c->layers);
    c->layers = NULL;
}

/* ---- RoPE ---- */

/* Rounded to f32 step by step as the published code does (4.4). */
void dsvk_rope_frequencies(const dsvk_config *config, bool compressed, float *frequencies) {
    double base = compressed ? config->compress_rope_theta : config->rope_theta;
    uint32_t dim = config->rope_dim;
    bool yarn = compressed && config->yarn.original_max_position > 0;
    float low = 0, span = 1;
    if (yarn) {
        double scale = dim / (2 * log(base)), turn = config->yarn.original_max_position / (2 * M_PI);
        low = (float)fmax(floor(scale * log(turn / config->yarn.beta_fast)), 0);
        float high = (float)fmin(ceil(scale * log(turn / config->yarn.beta_slow)), dim - 1.0);
        span = high - low == 0 ? 0.001f : high - low;
    }
    for (uint32_t i = 0; i < dim / 2; i++) {
        float f = 1.0f / (float)pow(base, 2.0 * i / dim);
        if (yarn) {
            float keep = 1.0f - fminf(fmaxf(((float)i - low) / span, 0), 1);
            f = f / (float)config->yarn.factor * (1.0f - keep) + f * keep;
        }
        frequencies[i] = f;
    }
}

dsvk_status dsvk_rope_table_open(dsvk_rope_table *table, dsvk_device *device, const dsvk_config *config, bool compressed,
                                 dsvk_error *err) {
    memset(table, 0, sizeof *table);
    table->rope_dim = config->rope_dim;
    /* One page more than the context: an MTP pair or a chunk may look one position ahead. */
    table->max_pages = (uint32_t)dsvk_ceil_div(config->max_positions, DSVK_ROPE_PAGE) + 1;
    table->frequencies = dsvk_alloc_zero(config->rope_dim / 2, sizeof(float));
    table->pages = dsvk_alloc_zero(table->max_pages, sizeof *table->pages);
    if (!table->frequencies || !table->pages)
        return dsvk_fail_nomem(err, table->max_pages * sizeof *table->pages);
    dsvk_rope_frequencies(config, compressed, table->frequencies);
    DSVK_TRY(dsvk_buffer_create(device, DSVK_CACHE, table->max_pages * sizeof(dsvk_addr), "rope pages", &table->addresses, err));
    return dsvk_rope_table_cover(table, device, 1, err);
}

void dsvk_rope_table_close(dsvk_rope_table *table, dsvk_device *device) {
    for (uint32_t i = 0; i < table->n_pages; i++)
        dsvk_buffer_destroy(device, &table->pages[i]);
    dsvk_buffer_destroy(device, &table->addresses);
    dsvk_free(table->pages);
    dsvk_free(table->frequencies);
    memset(table, 0, sizeof *table);
}

void dsvk_rope_angles(const float *frequencies, uint32_t dim, uint64_t first, uint64_t n, float *out) {
    const uint32_t pairs = dim / 2;
    for (uint64_t p = 0; p < n; p++)
        for (uint32_t i = 0; i < pairs; i++) {
            float angle = (float)(first + p) * frequencies[i];
            out[(p * pairs + i) * 2] = (float)cos(angle);
            out[(p * pairs + i) * 2 + 1] = (float)sin(angle);
        }
}

dsvk_status dsvk_rope_table_cover(dsvk_rope_table *table, dsvk_device *device, uint64_t n, dsvk_error *err) {
    uint32_t need = (uint32_t)dsvk_ceil_div(n, DSVK_ROPE_PAGE);
    if (need <= table->n_pages)
        return DSVK_OK;
    if (need > table->max_pages)
        return dsvk_fail(err, DSVK_LIMIT, "position %llu is beyond the model's %llu", (unsigned long long)n - 1,
                         (unsigned long long)table->max_pages * DSVK_ROPE_PAGE);
    uint64_t bytes = (uint64_t)DSVK_ROPE_PAGE * table->rope_dim * sizeof(float);
    float *values = dsvk_alloc(bytes);
    if (!values)
        return dsvk_fail_nomem(err, bytes);
    dsvk_status status = DSVK_OK;
    while (status == DSVK_OK && table->n_pages < need) {
        dsvk_buffer page = { 0 };
        dsvk_rope_angles(table->frequencies, table->rope_dim, (uint64_t)table->n_pages * DSVK_ROPE_PAGE, DSVK_ROPE_PAGE, values);
        status = dsvk_buffer_create(device, DSVK_CACHE, bytes, "rope page", &page, err);
        if (status == DSVK_OK)
            status = dsvk_buffer_write(device, &page, 0, values, bytes, err);
        if (status == DSVK_OK)
            status = dsvk_buffer_write(device, &table->addresses, table->n_pages * sizeof(dsvk_addr), &page.addr, sizeof page.addr,
                                       err);
        if (status == DSVK_OK)
            table->pages[table->n_pages++] = page;
        else
            dsvk_buffer_destroy(device, &page);
    }
    dsvk_free(values);
    return status;
}
