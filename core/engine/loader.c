/* The loader: a few reader threads take pieces of a few MB from one cursor, read the file rows a piece needs, lay them out
 * as ops.h describes (tiles of 32 rows, 16-byte words interleaved), and bring it to the device front to back: through a
 * staging buffer, or by writing to mapped device memory, which is often write-combined and slow to write in any other
 * order. Nothing of a weight stays on the host. The first failure stops all readers. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "layer_table.h"
#include "loader.h"

#define PIECE_BYTES (2u << 20) /* aim; a piece has at least one tile */

/* ---- number formats on the host (spec 3) ---- */

float dsvk_bf16_value(uint16_t v) {
    uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float dsvk_e4m3_value(uint8_t v) {
    int e = (v >> 3) & 15, m = v & 7;
    float f = e == 0 ? (float)m / 512.0f : (float)(8 + m) * (e >= 10 ? (float)(1 << (e - 10)) : 1.0f / (float)(1 << (10 - e)));
    if (e == 15 && m == 7)
        f = __builtin_nanf("");
    return v & 0x80 ? -f : f;
}

float dsvk_e2m1_value(uint8_t nibble) {
    static const float magnitude[8] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6 };
    return nibble & 8 ? -magnitude[nibble & 7] : magnitude[nibble & 7];
}

float dsvk_ue8m0_value(uint8_t v) {
    uint32_t bits = v == 255 ? 0x7fc00000u : v == 0 ? 0x00400000u : (uint32_t)v << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static bool non_finite(dsvk_dtype dtype, const uint8_t *p) {
    switch (dtype) {
    case DSVK_DTYPE_F8_E4M3: return (p[0] & 0x7f) == 0x7f;
    case DSVK_DTYPE_F8_E8M0: return p[0] == 0xff;
    case DSVK_DTYPE_BF16: return (p[1] & 0x7f) == 0x7f && (p[0] & 0x80);
    case DSVK_DTYPE_F16: return (p[1] & 0x7c) == 0x7c;
    case DSVK_DTYPE_F32: return (p[3] & 0x7f) == 0x7f && (p[2] & 0x80);
    default: return false;
    }
}

int64_t dsvk_find_non_finite(dsvk_dtype dtype, const void *data, uint64_t n) {
    uint32_t bytes = dsvk_dtype_bits(dtype) / 8;
    const uint8_t *p = data;
    if (dtype != DSVK_DTYPE_F8_E4M3 && dtype != DSVK_DTYPE_F8_E8M0 && dtype != DSVK_DTYPE_BF16 && dtype != DSVK_DTYPE_F16 &&
        dtype != DSVK_DTYPE_F32)
        return -1;
    for (uint64_t i = 0; i < n; i++)
        if (non_finite(dtype, p + i * bytes))
            return (int64_t)i;
    return -1;
}

/* ---- shared state of the readers ---- */

typedef struct loader {
    dsvk_device *device;
    const dsvk_weight_list *list;
    const dsvk_checkpoint *checkpoint;
    const dsvk_buffer *buffers;
    bool verify, unified, columns;
    const dsvk_allocator *allocator;       /* the caller's */
    uint64_t staging_bytes, scratch_bytes; /* of one piece: as laid out, and as read */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t next_weight, next_unit; /* the cursor; units are tiles or runs of values */
    uint64_t done;                   /* bytes laid out */
    uint32_t running;
    bool stop;
    dsvk_status status;
    dsvk_error error;
} loader;

/* What one reader owns. */
typedef struct reader {
    loader *shared;
    uint8_t *scratch; /* file rows */
    uint8_t *tiles;   /* unified: a piece as laid out */
    dsvk_buffer staging[2];
    dsvk_cmd *copies[2];
    uint32_t turn;
    dsvk_error error;
    pthread_t thread;
} reader;

typedef struct piece {
    const dsvk_weight *weight;
    uint32_t first, count; /* tiles of a matrix, values of the others */
} piece;

static uint32_t weight_units(const dsvk_weight *w) {
    return w->kind == DSVK_WEIGHT_MATRIX ? (uint32_t)dsvk_ceil_div(w->n_out, DSVK_TILE_ROWS)
                                         : (uint32_t)dsvk_ceil_div((uint64_t)w->n_out * w->n_in, 1024);
}

static uint64_t tile_bytes(const dsvk_weight *w) {
    return (uint64_t)dsvk_matrix_words(w->type, w->n_in) * DSVK_TILE_ROWS * 16;
}

static uint64_t tile_scale_bytes(const dsvk_weight *w) {
    if (w->type == DSVK_TYPE_FP8)
        return dsvk_ceil_div(w->n_in, 128) * 2 * 4;
    if (w->type == DSVK_TYPE_FP4)
        return dsvk_ceil_div(dsvk_matrix_words(w->type, w->n_in), 4) * DSVK_TILE_ROWS * 4;
    return 0;
}

static uint32_t units_per_piece(const dsvk_weight *w) {
    uint64_t unit = w->kind == DSVK_WEIGHT_MATRIX ? tile_bytes(w) : 4096;
    return unit >= PIECE_BYTES ? 1 : (uint32_t)(PIECE_BYTES / unit);
}

static bool take_piece(loader *l, piece *p) {
    bool taken = false;
    pthread_mutex_lock(&l->lock);
    if (!l->stop && l->next_weight < l->list->n_weights) {
        const dsvk_weight *w = &l->list->weights[l->next_weight];
        uint32_t units = weight_units(w), count = units_per_piece(w);
        if (count > units - l->next_unit)
            count = units - l->next_unit;
        *p = (piece){ w, l->next_unit, count };
        l->next_unit += count;
        if (l->next_unit == units) {
            l->next_weight++;
            l->next_unit = 0;
        }
        taken = true;
    }
    pthread_mutex_unlock(&l->lock);
    return taken;
}

/* ---- reading ---- */

/* Elements [first, first + n) of the tensor's rows as raw bytes. */
static dsvk_status read_raw(reader *r, const dsvk_file_tensor *t, uint64_t first, uint64_t n, void *out) {
    loader *l = r->shared;
    uint64_t bits = dsvk_dtype_bits(t->dtype);
    if (t->memory)
        memcpy(out, (const uint8_t *)t->memory + first * bits / 8, (size_t)(n * bits / 8));
    else
        DSVK_TRY(dsvk_checkpoint_read(l->checkpoint, t, first * bits / 8, out, (size_t)(n * bits / 8), &r->error));
    int64_t bad = l->verify ? dsvk_find_non_finite(t->dtype, out, n) : -1;
    if (bad >= 0)
        return dsvk_fail(&r->error, DSVK_FORMAT, "tensor %s: element %" PRIu64 " is not a finite number", t->name,
                         first + (uint64_t)bad);
    return DSVK_OK;
}

/* Bytes of one stored row of a matrix source. */
static uint64_t stored_row_bytes(const dsvk_weight_source *s) {
    uint32_t bits = s->tensor->dtype == DSVK_DTYPE_I8 || s->tensor->dtype == DSVK_DTYPE_U8
                        ? 4 : dsvk_dtype_bits(s->tensor->dtype);
    return (uint64_t)s->cols * bits / 8;
}

static dsvk_status read_rows(reader *r, const dsvk_weight_source *s, uint32_t first, uint32_t n, uint8_t *out) {
    uint64_t row_elements = s->tensor->shape[1]; /* of the stored type */
    return read_raw(r, s->tensor, first * row_elements, n * row_elements, out);
}

/* All values of one row as f32, for matrices whose parts have different types. */
static void decode_row(const dsvk_weight_source *s, const uint8_t *row, const uint8_t *scales, uint32_t row_index, float *out) {
    bool f32_scales = s->scales && s->scales->dtype == DSVK_DTYPE_F32;
    uint32_t blocks = (uint32_t)dsvk_ceil_div(s->cols, 128);
    for (uint32_t i = 0; i < s->cols; i++) {
        uint16_t half;
        float scale = 1;
        switch (s->tensor->dtype) {
        case DSVK_DTYPE_F8_E4M3:
            if (f32_scales)
                memcpy(&scale, scales + 4 * ((size_t)(row_index / 128) * blocks + i / 128), 4);
            else
                scale = dsvk_ue8m0_value(scales[(size_t)(row_index / 128) * blocks + i / 128]);
            out[i] = dsvk_e4m3_value(row[i]) * scale;
            break;
        case DSVK_DTYPE_BF16:
            memcpy(&half, row + 2 * i, 2);
            out[i] = dsvk_bf16_value(half);
            break;
        case DSVK_DTYPE_F32:
            memcpy(&out[i], row + 4 * i, 4);
            break;
        default: /* packed FP4, the low nibble is the even element (2.3) */
            scale = dsvk_ue8m0_value(scales[(size_t)row_index * (s->cols / 32) + i / 32]);
            out[i] = dsvk_e2m1_value(i % 2 ? row[i / 2] >> 4 : row[i / 2] & 15) * scale;
        }
    }
}

/* ---- laying out ---- */

/* The source rows that land in tiles [first, first + count), and where row r goes. */
static void rows_in_tiles(const dsvk_weight_source *s, uint32_t first, uint32_t count, uint32_t *from, uint32_t *to) {
    uint64_t low = (uint64_t)first * DSVK_TILE_ROWS, high = low + (uint64_t)count * DSVK_TILE_ROWS;
    if (s->fold != DSVK_FOLD_NONE) {
        low /= 2;
        high /= 2;
    }
    uint64_t begin = s->first_row, end = begin + s->rows;
    *from = (uint32_t)((low > begin ? low : begin) - begin);
    *to = high > begin ? (uint32_t)((high < end ? high : end) - begin) : 0;
    if (low >= end || *to < *from)
        *to = *from;
}

static uint32_t tiled_row(const dsvk_weight_source *s, uint32_t r) { /* row of the tiled matrix */
    switch (s->fold) {
    case DSVK_FOLD_W1: return r / 16 * 32 + r % 16;
    case DSVK_FOLD_W3: return r / 16 * 32 + 16 + r % 16;
    default: return s->first_row + r;
    }
}

/* The same in columns: a tile is zeros before. */
static void place_column(uint8_t *tiles, uint32_t first_tile, dsvk_weight_type type, uint32_t n_in, uint32_t row, const uint8_t *data) {
    const uint64_t tile = row / DSVK_TILE_ROWS - first_tile, bits = 32u >> type;
    const uint32_t words = dsvk_matrix_words(type, n_in), r = row % DSVK_TILE_ROWS;
    uint8_t *to = tiles + tile * words * DSVK_TILE_ROWS * 16 + r * bits / 8; /* input i: 4 * bits bytes further */
    for (uint32_t i = 0; i < n_in; i++) {
        if (type == DSVK_TYPE_FP4) { /* its sign goes below its magnitude */
            const uint32_t code = data[i / 2] >> 4 * (i % 2) & 15;
            to[(uint64_t)i * 4 * bits] |= (uint8_t)((code << 1 | code >> 3) & 15) << 4 * (r % 2);
        } else {
            memcpy(to + (uint64_t)i * 4 * bits, data + (uint64_t)i * bits / 8, bits / 8);
        }
    }
}

static void place_row(uint8_t *tiles, uint32_t first_tile, uint32_t words, uint32_t row, const uint8_t *data) {
    uint8_t *to = tiles + ((uint64_t)(row / DSVK_TILE_ROWS - first_tile) * words * DSVK_TILE_ROWS + row % DSVK_TILE_ROWS) * 16;
    for (uint32_t k = 0; k < words; k++)
        memcpy(to + (uint64_t)k * DSVK_TILE_ROWS * 16, data + (uint64_t)k * 16, 16);
}

/* FP8: f32 [tiles][blocks of 128][2 halves of 16 rows]. `raw` holds the scale rows that cover source rows [from, to). */
static void place_fp8_scales(const dsvk_weight_source *s, uint32_t first_tile, uint32_t from, uint32_t to, const uint8_t *raw,
                             float *out) {
    uint32_t blocks = (uint32_t)dsvk_ceil_div(s->cols, 128), first = from / 128;
    for (uint32_t r = from; r < to; r += 16) {
        uint32_t row = tiled_row(s, r);
        for (uint32_t b = 0; b < blocks; b++) {
            size_t at = (size_t)(r / 128 - first) * blocks + b;
            float *slot = out + ((size_t)(row / DSVK_TILE_ROWS - first_tile) * blocks + b) * 2 + row % DSVK_TILE_ROWS / 16;
            if (s->scales->dtype == DSVK_DTYPE_F32)
                memcpy(slot, raw + 4 * at, 4);
            else
                *slot = dsvk_ue8m0_value(raw[at]);
        }
    }
}

/* Is one of these e4m3 codes NaN? Eight at a time: only 0x7f + 1 reaches the top bit. */
static bool has_nan_code(const uint8_t *codes, uint32_t n) {
    for (uint32_t i = 0; i < n; i += 8) {
        uint64_t eight = 0;
        memcpy(&eight, codes + i, n - i < 8 ? n - i : 8);
        if (((eight & 0x7f7f7f7f7f7f7f7full) + 0x0101010101010101ull) & 0x8080808080808080ull)
            return true;
    }
    return false;
}

/* Kernels decode the two NaN codes as numbers, to save the test; a NaN scale over their block says it for them (M15, D17). */
static void mark_nan_codes(const dsvk_weight_source *s, uint32_t first_tile, uint32_t r, const uint8_t *codes, float *scales) {
    uint32_t row = tiled_row(s, r), blocks = (uint32_t)dsvk_ceil_div(s->cols, 128);
    if (!has_nan_code(codes, s->cols))
        return;
    for (uint32_t b = 0; b < blocks; b++)
        if (has_nan_code(codes + b * 128, s->cols - b * 128 < 128 ? s->cols - b * 128 : 128))
            scales[((size_t)(row / DSVK_TILE_ROWS - first_tile) * blocks + b) * 2 + row % DSVK_TILE_ROWS / 16] = __builtin_nanf("");
}

/* FP4: u32 [tiles][groups of 4 words][32 rows], byte b of a word = scale of 16-byte word 4 g + b; in columns u8 [tiles][4 groups][32
 * rows]. */
static void place_fp4_scales(const dsvk_weight_source *s, uint32_t first_tile, uint32_t words, bool columns, uint32_t from, uint32_t to,
                             const uint8_t *raw, uint8_t *out) {
    uint32_t groups = (uint32_t)dsvk_ceil_div(words, 4);
    for (uint32_t r = from; r < to; r++) {
        uint32_t row = tiled_row(s, r);
        uint8_t *tile = out + (size_t)(row / DSVK_TILE_ROWS - first_tile) * groups * DSVK_TILE_ROWS * 4;
        for (uint32_t k = 0; k < words; k++)
            tile[columns ? (size_t)k * DSVK_TILE_ROWS + row % DSVK_TILE_ROWS
                         : ((size_t)(k / 4) * DSVK_TILE_ROWS + row % DSVK_TILE_ROWS) * 4 + k % 4] = raw[(size_t)(r - from) * words + k];
    }
}

static dsvk_status lay_out_source(reader *r, const piece *p, const dsvk_weight_source *s, uint8_t *codes, uint8_t *scales) {
    const dsvk_weight *w = p->weight;
    uint32_t words = dsvk_matrix_words(w->type, w->n_in), from, to;
    rows_in_tiles(s, p->first, p->count, &from, &to);
    if (from == to)
        return DSVK_OK;
    uint64_t row_bytes = stored_row_bytes(s);
    uint8_t *raw_scales = r->scratch + dsvk_align((uint64_t)(to - from) * row_bytes, 16);
    DSVK_TRY(read_rows(r, s, from, to - from, r->scratch));
    bool convert = w->type == DSVK_TYPE_F32 && s->tensor->dtype != DSVK_DTYPE_F32;
    bool fp8 = s->tensor->dtype == DSVK_DTYPE_F8_E4M3;
    uint64_t scale_bytes = 0;
    if (s->scales) { /* the scale rows that cover these rows */
        uint64_t cols = s->scales->shape[1], first = fp8 ? from / 128 : from, end = fp8 ? dsvk_ceil_div(to, 128) : to;
        scale_bytes = (end - first) * cols * dsvk_dtype_bits(s->scales->dtype) / 8;
        DSVK_TRY(read_raw(r, s->scales, first * cols, (end - first) * cols, raw_scales));
    }
    for (uint32_t row = from; row < to; row++) {
        const uint8_t *data = r->scratch + (uint64_t)(row - from) * row_bytes;
        if (convert) {
            float *values = (float *)(raw_scales + dsvk_align(scale_bytes, 16)); /* see piece_needs */
            decode_row(s, data, raw_scales, fp8 ? row - from / 128 * 128 : row - from, values);
            data = (const uint8_t *)values;
        }
        if (r->shared->columns)
            place_column(codes, p->first, w->type, w->n_in, tiled_row(s, row), data);
        else
            place_row(codes, p->first, words, tiled_row(s, row), data);
    }
    if (!convert && w->type == DSVK_TYPE_FP8) {
        place_fp8_scales(s, p->first, from, to, raw_scales, (float *)scales);
        for (uint32_t row = from; row < to; row++)
            mark_nan_codes(s, p->first, row, r->scratch + (uint64_t)(row - from) * row_bytes, (float *)scales);
    }
    if (!convert && w->type == DSVK_TYPE_FP4)
        place_fp4_scales(s, p->first, words, r->shared->columns, from, to, raw_scales, scales);
    return DSVK_OK;
}

static dsvk_status lay_out_values(reader *r, const piece *p, uint64_t first, uint64_t n, uint8_t *out) {
    const dsvk_weight *w = p->weight;
    const dsvk_weight_source *s = &r->shared->list->sources[w->first_source];
    const dsvk_file_tensor *t = s->tensor;
    DSVK_TRY(read_raw(r, t, first, n, r->scratch));
    if (w->kind == DSVK_WEIGHT_ROWS || t->dtype == DSVK_DTYPE_F32) {
        memcpy(out, r->scratch, n * dsvk_dtype_bits(t->dtype) / 8);
    } else if (w->kind == DSVK_WEIGHT_VECTOR) {
        for (uint64_t i = 0; i < n; i++) {
            uint16_t half;
            memcpy(&half, r->scratch + 2 * i, 2);
            float value = dsvk_bf16_value(half);
            memcpy(out + 4 * i, &value, 4);
        }
    } else {
        for (uint64_t i = 0; i < n; i++) {
            int64_t value = 0;
            if (t->dtype == DSVK_DTYPE_I64) {
                memcpy(&value, r->scratch + 8 * i, 8);
            } else {
                int32_t narrow;
                memcpy(&narrow, r->scratch + 4 * i, 4);
                value = narrow;
            }
            if (value < 0 || value >= (int64_t)w->limit)
                return dsvk_fail(&r->error, DSVK_FORMAT, "tensor %s: element %" PRIu64 " is %" PRId64 ", allowed are 0 to %u",
                                 t->name, first + i, value, w->limit - 1);
            uint32_t word = (uint32_t)value;
            memcpy(out + 4 * i, &word, 4);
        }
    }
    return DSVK_OK;
}

/* ---- one piece ---- */

/* Where a piece is laid out, and from where to where it is copied when that is staging. */
typedef struct target {
    uint8_t *codes, *scales;
    uint64_t offset[2], bytes[2]; /* in the weight's buffer: codes, scales */
} target;

static void copy_to_device(reader *r, const dsvk_weight *w, const target *t) {
    dsvk_cmd *cmd = r->copies[r->turn];
    const dsvk_buffer *from = &r->staging[r->turn], *to = &r->shared->buffers[w->buffer];
    uint64_t at = 0;
    for (int i = 0; i < 2; i++) {
        if (t->bytes[i])
            dsvk_cmd_copy(cmd, from, at, to, t->offset[i], t->bytes[i]);
        at += dsvk_align(t->bytes[i], 256);
    }
}

static dsvk_status load_piece(reader *r, const piece *p) {
    loader *l = r->shared;
    const dsvk_weight *w = p->weight;
    bool tiled = w->kind == DSVK_WEIGHT_MATRIX;
    uint64_t total = (uint64_t)w->n_out * w->n_in, first = (uint64_t)p->first * 1024, n = (uint64_t)p->count * 1024;
    if (!tiled && n > total - first)
        n = total - first;
    uint32_t value_bytes = w->kind == DSVK_WEIGHT_ROWS ? 2 : 4;
    target t = { .offset = { w->offset + (tiled ? p->first * tile_bytes(w) : first * value_bytes),
                             w->offset + dsvk_matrix_scales(w->type, w->n_out, w->n_in) + p->first * tile_scale_bytes(w) },
                 .bytes = { tiled ? p->count * tile_bytes(w) : dsvk_align(n * value_bytes, 4),
                            tiled ? p->count * tile_scale_bytes(w) : 0 } };
    if (!l->unified)
        DSVK_TRY(dsvk_cmd_begin(r->copies[r->turn], &r->error)); /* waits for this half's previous copy */
    t.codes = l->unified ? r->tiles : r->staging[r->turn].host;
    t.scales = t.codes + dsvk_align(t.bytes[0], 256);
    memset(t.codes, 0, t.bytes[0]); /* padding rows are zeros */
    if (t.bytes[1])
        memset(t.scales, 0, t.bytes[1]);
    if (tiled)
        for (uint32_t j = 0; j < w->n_sources; j++)
            DSVK_TRY(lay_out_source(r, p, &l->list->sources[w->first_source + j], t.codes, t.scales));
    else
        DSVK_TRY(lay_out_values(r, p, first, n, t.codes));
    if (l->unified) {
        uint8_t *mapped = l->buffers[w->buffer].host;
        memcpy(mapped + t.offset[0], t.codes, t.bytes[0]);
        memcpy(mapped + t.offset[1], t.scales, t.bytes[1]);
    } else {
        copy_to_device(r, w, &t);
        DSVK_TRY(dsvk_cmd_submit(r->copies[r->turn], &r->error));
        r->turn ^= 1;
    }
    pthread_mutex_lock(&l->lock);
    l->done += t.bytes[0] + t.bytes[1];
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return DSVK_OK;
}

/* ---- readers ---- */

static dsvk_status open_reader(reader *r) {
    loader *l = r->shared;
    r->scratch = dsvk_alloc(l->scratch_bytes);
    if (!r->scratch)
        return dsvk_fail_nomem(&r->error, l->scratch_bytes);
    if (l->unified) {
        r->tiles = dsvk_alloc(l->staging_bytes);
        return r->tiles ? DSVK_OK : dsvk_fail_nomem(&r->error, l->staging_bytes);
    }
    for (int i = 0; i < 2; i++) {
        DSVK_TRY(dsvk_buffer_create(l->device, DSVK_STAGING, l->staging_bytes, "loader staging", &r->staging[i], &r->error));
        DSVK_TRY(dsvk_cmd_create(l->device, &r->copies[i], &r->error));
    }
    return DSVK_OK;
}

static void close_reader(reader *r) {
    for (int i = 0; i < 2; i++) {
        dsvk_cmd_destroy(r->copies[i]);
        dsvk_buffer_destroy(r->shared->device, &r->staging[i]);
    }
    dsvk_free(r->scratch);
    dsvk_free(r->tiles);
}

static dsvk_status read_pieces(reader *r) {
    piece p;
    DSVK_TRY(open_reader(r));
    while (take_piece(r->shared, &p))
        DSVK_TRY(load_piece(r, &p));
    for (int i = 0; i < 2 && !r->shared->unified; i++)
        DSVK_TRY(dsvk_cmd_wait(r->copies[i], &r->error));
    return DSVK_OK;
}

static void *reader_main(void *argument) {
    reader *r = argument;
    loader *l = r->shared;
    dsvk_use_allocator(l->allocator);
    dsvk_status status = read_pieces(r);
    pthread_mutex_lock(&l->lock);
    if (status != DSVK_OK && l->status == DSVK_OK) {
        l->status = status;
        l->error = r->error;
    }
    l->stop |= status != DSVK_OK;
    l->running--;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static uint64_t total_bytes(const dsvk_weight_list *list) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < list->n_weights; i++)
        n += list->weights[i].bytes;
    return n;
}

/* Waits for the readers; the progress callback runs in the caller's thread, at least 10 times a second. */
static void watch(loader *l, const dsvk_load_options *options) {
    uint64_t total = total_bytes(l->list), shown = UINT64_MAX;
    pthread_mutex_lock(&l->lock);
    while (l->running > 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 100000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&l->changed, &l->lock, &until);
        uint64_t done = l->done;
        if (!options->progress || l->stop)
            continue;
        pthread_mutex_unlock(&l->lock);
        int cancel = options->progress(options->user, "weights", done < total ? done : total, total);
        pthread_mutex_lock(&l->lock);
        shown = done;
        if (cancel && !l->stop) {
            l->stop = true;
            l->status = dsvk_fail(&l->error, DSVK_CANCELLED, "loading was cancelled after %" PRIu64 " of %" PRIu64 " bytes",
                                  done, total);
        }
    }
    pthread_mutex_unlock(&l->lock);
    if (options->progress && l->status == DSVK_OK && shown != total)
        options->progress(options->user, "weights", total, total);
}

static void piece_needs(loader *l) {
    for (uint32_t i = 0; i < l->list->n_weights; i++) {
        const dsvk_weight *w = &l->list->weights[i];
        uint64_t units = units_per_piece(w), laid_out = 8192, read = units * 1024 * 8;
        if (w->kind == DSVK_WEIGHT_MATRIX) {
            laid_out = dsvk_align(units * tile_bytes(w), 256) + units * tile_scale_bytes(w);
            /* Rows as stored (never more than f32 of the row), their scales (a byte per 32 inputs, or less for f32 per
             * 128x128 block but for the blocks at the ends), one converted row. */
            read = units * DSVK_TILE_ROWS * (4ull * w->n_in + w->n_in / 32) + 16ull * w->n_in + 4096;
        } else {
            laid_out = units * 4096 + 256;
        }
        l->staging_bytes = laid_out > l->staging_bytes ? laid_out : l->staging_bytes;
        l->scratch_bytes = read > l->scratch_bytes ? read : l->scratch_bytes;
    }
}

static dsvk_status run_readers(loader *l, const dsvk_load_options *options, dsvk_error *err) {
    uint32_t n = options->threads ? options->threads : 1;
    reader *readers = dsvk_alloc_zero(n, sizeof *readers);
    if (!readers)
        return dsvk_fail_nomem(err, n * sizeof *readers);
    l->running = n;
    l->allocator = dsvk_use_allocator(NULL);
    dsvk_use_allocator(l->allocator);
    uint32_t started = 0;
    for (; started < n; started++) {
        readers[started].shared = l;
        if (pthread_create(&readers[started].thread, NULL, reader_main, &readers[started]) != 0)
            break;
    }
    pthread_mutex_lock(&l->lock);
    l->running -= n - started;
    if (started == 0)
        l->status = dsvk_fail(&l->error, DSVK_NOMEM, "no reader thread could be started");
    pthread_mutex_unlock(&l->lock);
    watch(l, options);
    for (uint32_t i = 0; i < started; i++)
        pthread_join(readers[i].thread, NULL);
    for (uint32_t i = 0; i < started; i++)
        close_reader(&readers[i]);
    dsvk_free(readers);
    return l->status == DSVK_OK ? DSVK_OK : dsvk_fail(err, l->status, "%s", l->error.message);
}

/* ---- addresses ---- */

static dsvk_status create_buffers(dsvk_device *device, const dsvk_weight_list *list, dsvk_buffer *buffers, dsvk_error *err) {
    for (uint32_t i = 0; i < list->n_weights; i++) {
        const dsvk_weight *w = &list->weights[i];
        if (w->offset == 0)
            DSVK_TRY(dsvk_buffer_create(device, DSVK_WEIGHTS, list->buffer_bytes[w->buffer],
                                        list->sources[w->first_source].name, &buffers[w->buffer], err));
    }
    return DSVK_OK;
}

/* A driver short of mappable memory may have given some buffers of the other kind. */
static bool all_mapped(const dsvk_weight_list *list, const dsvk_buffer *buffers) {
    for (uint32_t i = 0; i < list->n_buffers; i++)
        if (!buffers[i].host)
            return false;
    return true;
}

static void fill_addresses(const dsvk_weight_list *list, dsvk_weights *weights, const dsvk_buffer *buffers, bool columns) {
    for (uint32_t i = 0; i < list->n_weights; i++) {
        const dsvk_weight *w = &list->weights[i];
        dsvk_addr addr = buffers[w->buffer].addr + w->offset;
        if (w->addr)
            *w->addr = addr;
        if (w->matrix)
            *w->matrix = (dsvk_matrix){ .addr = w->expert ? 0 : addr, .n_out = w->n_out, .n_in = w->n_in, .type = w->type,
                                        .scales = dsvk_matrix_scales(w->type, w->n_out, w->n_in), .columns = columns };
        if (w->expert && !w->addr)
            weights->layers[w->layer].expert_down_offset = w->offset;
    }
}

static dsvk_status write_table(dsvk_device *device, const void *data, uint64_t bytes, const char *name, dsvk_buffer *table,
                               dsvk_error *err) {
    DSVK_TRY(dsvk_buffer_create(device, DSVK_WEIGHTS, bytes, name, table, err));
    return dsvk_buffer_write(device, table, 0, data, bytes, err);
}

static struct dsvk_site site(const dsvk_hc_weights *hc, dsvk_addr norm) {
    return (struct dsvk_site){ .fn = hc->fn, .base = hc->base, .scale = hc->scale, .norm = norm };
}

/* Addresses that kernels look up on the device. */
static dsvk_status write_tables(dsvk_device *device, dsvk_weights *weights, uint32_t n_layers, uint32_t n_experts,
                                dsvk_error *err) {
    for (uint32_t l = 0; l < n_layers; l++) {
        dsvk_layer_weights *layer = &weights->layers[l];
        const struct dsvk_layer_table table = {
            .attn = site(&layer->hc_attn, layer->attn_norm),
            .ffn = site(&layer->hc_ffn, layer->ffn_norm),
            .kv = { .kv_norm = layer->kv_norm, .ape = layer->compressor.ape, .norm = layer->compressor.norm,
                    .index_ape = layer->index_compressor.ape, .index_norm = layer->index_compressor.norm },
        };
        DSVK_TRY(write_table(device, layer->expert_blobs, n_experts * sizeof(dsvk_addr), "expert table", &layer->expert_table,
                             err));
        DSVK_TRY(write_table(device, &table, sizeof table, "layer table", &layer->table, err));
    }
    const struct dsvk_site heads[] = { site(&weights->hc_head, weights->norm), site(&weights->mtp.hc_head, weights->mtp.norm) };
    return write_table(device, heads, sizeof heads, "head sites", &weights->head_sites, err);
}

dsvk_status dsvk_load_weights(dsvk_device *device, dsvk_weight_list *list, dsvk_weights *weights, const dsvk_config *config,
                              const dsvk_checkpoint *checkpoint, dsvk_buffer *buffers, const dsvk_load_options *options,
                              dsvk_error *err) {
    uint64_t need = total_bytes(list), have = dsvk_purpose_available(device, DSVK_WEIGHTS);
    if (need > have)
        return dsvk_fail(err, DSVK_DEVMEM, "the weights need %" PRIu64 " bytes of device memory, %" PRIu64 " are available", need,
                         have);
    DSVK_TRY(create_buffers(device, list, buffers, err));
    loader l = { .device = device, .list = list, .checkpoint = checkpoint, .buffers = buffers, .verify = options->verify,
                 .unified = all_mapped(list, buffers), .columns = dsvk_device_matmul(device).kind == DSVK_MATMUL_COLUMNS };
    piece_needs(&l);
    if (pthread_mutex_init(&l.lock, NULL) != 0)
        return dsvk_fail(err, DSVK_NOMEM, "a lock could not be made");
    if (pthread_cond_init(&l.changed, NULL) != 0) {
        pthread_mutex_destroy(&l.lock);
        return dsvk_fail(err, DSVK_NOMEM, "a condition variable could not be made");
    }
    dsvk_status status = run_readers(&l, options, err);
    pthread_cond_destroy(&l.changed);
    pthread_mutex_destroy(&l.lock);
    DSVK_TRY(status);
    if (checkpoint)
        DSVK_TRY(dsvk_checkpoint_unchanged(checkpoint, err));
    fill_addresses(list, weights, buffers, l.columns);
    return write_tables(device, weights, config->n_layers + list->mtp, config->n_experts, err);
}
