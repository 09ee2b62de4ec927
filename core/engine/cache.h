/* Where a session keeps what later tokens need (spec 4.12), as byte offsets computed once per model.
 *
 * A fixed "state" block: per layer the ring of window rows and the rings of compressor inputs (K | S, f32), for the MTP block
 * the streams of the last tokens. And pages: page p holds, for every layer, the compressed rows and index keys of positions
 * [p * page_tokens, (p + 1) * page_tokens), so a session grows by pages and a prefix is a run of whole pages.
 * Rings have `DSVK_ROLLBACK` slots more than the model looks back, so that as many tokens can be taken back for nothing. */
#ifndef DSVK_CACHE_H
#define DSVK_CACHE_H

#include "config.h"
#include "ops.h"

#define DSVK_ROLLBACK 8u

typedef struct dsvk_layer_layout {
    uint32_t ratio;
    uint32_t window_offset;                      /* state: row store of window_capacity rows */
    uint32_t compress_offset, compress_width;    /* state: f32 [compress_capacity][2 width]; width = K values of a token */
    uint32_t compress_capacity;
    uint32_t index_offset, index_width;          /* the same for the indexer's compressor */
    uint32_t rows_offset, keys_offset;           /* page: row store and key store of page_tokens / ratio entries */
} dsvk_layer_layout;

typedef struct dsvk_cache_layout {
    dsvk_row_format format;
    uint32_t page_tokens, window_capacity;
    uint32_t streams_offset;                     /* state: f32 [DSVK_ROLLBACK + 1][4 D], MTP only */
    uint64_t state_bytes, page_bytes;
    dsvk_layer_layout *layers;                   /* [n_layers + 1] */
} dsvk_cache_layout;

dsvk_status dsvk_cache_layout_make(dsvk_cache_layout *layout, const dsvk_config *config, bool native, uint32_t page_tokens,
                                   bool mtp, dsvk_error *err);
void dsvk_cache_layout_free(dsvk_cache_layout *layout);

/* RoPE tables (4.4): f32 [positions][rope_dim / 2][2], in pages of DSVK_ROPE_PAGE positions made when first needed. Angles are
 * f32(position) * f rounded to f32, their cosine and sine computed in double. */
typedef struct dsvk_rope_table {
    float *frequencies;     /* [rope_dim / 2] */
    uint32_t rope_dim;
    uint32_t n_pages, max_pages;
    dsvk_buffer *pages;     /* [max_pages] */
    dsvk_buffer addresses;  /* dsvk_addr [max_pages] on the device: what ops call `rope` */
} dsvk_rope_table;

/* Frequencies of layers with (compressed) or without a ratio: f32 [rope_dim / 2]. */
void dsvk_rope_frequencies(const dsvk_config *config, bool compressed, float *frequencies);
/* out [n, dim / 2, 2]: (cos, sin) of positions first .. first + n - 1. */
void dsvk_rope_angles(const float *frequencies, uint32_t dim, uint64_t first, uint64_t n, float *out);
dsvk_status dsvk_rope_table_open(dsvk_rope_table *table, dsvk_device *device, const dsvk_config *config, bool compressed,
                                 dsvk_error *err);
void dsvk_rope_table_close(dsvk_rope_table *table, dsvk_device *device);
/* Makes the table valid for positions < n. */
dsvk_status dsvk_rope_table_cover(dsvk_rope_table *table, dsvk_device *device, uint64_t n, dsvk_error *err);

#endif
