/* Which way to multiply, found out once per driver, when the first model is opened on it: of the ways the device has, those that
 * compute a known product right, and on matrix units known attention and index scores too, and of these the one that is fastest at a
 * product of a prefill's kind; with matrix units, whether a chunk's attention and index scores are faster on them, too. A way that was
 * forced is only checked, one that is remembered is taken as it is. On a CPU only the layout of weights is to be found out, by a product of decode's kind: matrix
 * units and shared memory are emulated there, which costs more than it saves. */
#include <string.h>
#include <time.h>

#include "engine.h"
#include "topk.h"

/* ---- a known product ---- */

#define ROWS DSVK_CHUNK
#define OUTS 64u
#define INS 32u

/* Inputs of 1 + 2^-12, which halves hold only in two pieces, times weights that are all the same: all sums are exact. FP8 and FP4
 * codes are the smallest, which are denormal halves. */
static const struct {
    dsvk_weight_type type;
    uint8_t code[2], column_code[2]; /* repeated */
    float value;
} known[] = {
    { DSVK_TYPE_BF16, { 0xc0, 0x3f }, { 0xc0, 0x3f }, 1.5f },
    { DSVK_TYPE_FP8, { 0x03, 0x03 }, { 0x03, 0x03 }, 3.0f / 512 },
    { DSVK_TYPE_FP4, { 0x11, 0x11 }, { 0x22, 0x22 }, 0.5f },
};
#define X 0x1.001p0f

typedef struct product {
    float x[ROWS * INS];
    float out[ROWS * OUTS];
    uint8_t w[OUTS * INS * 2 + 1024]; /* codes, and scales of one behind them */
} product;

/* The layout of weights that a variant (NULL: the device's) is for. */
static bool in_columns(const dsvk_device *device, const dsvk_matmul_variant *variant) {
    return (variant ? *variant : dsvk_device_matmul(device)).kind == DSVK_MATMUL_COLUMNS;
}

static dsvk_status multiply_known(dsvk_device *device, dsvk_cmd *cmd, const dsvk_matmul_variant *variant, const dsvk_buffer *buffer,
                                  product *p, uint32_t i, bool *right, dsvk_error *err) {
    dsvk_matrix w = { .addr = buffer->addr + offsetof(product, w), .n_out = OUTS, .n_in = INS, .type = known[i].type,
                      .scales = dsvk_matrix_scales(known[i].type, OUTS, INS), .columns = in_columns(device, variant) };
    for (uint64_t b = 0; b < w.scales; b++)
        p->w[b] = (w.columns ? known[i].column_code : known[i].code)[b % 2];
    if (w.type == DSVK_TYPE_FP4)
        memset(p->w + w.scales, 127, OUTS * 4);
    for (uint32_t s = 0; w.type == DSVK_TYPE_FP8 && s < OUTS / 16; s++)
        memcpy(p->w + w.scales + 4 * s, &(float){ 1 }, 4);
    for (uint32_t at = 0; at < ROWS * INS; at++)
        p->x[at] = X;
    memset(p->out, 0xff, sizeof p->out);
    DSVK_TRY(dsvk_buffer_write(device, buffer, 0, p, sizeof *p, err));
    DSVK_TRY(dsvk_cmd_begin(cmd, err));
    dsvk_matmul(cmd, &(dsvk_matmul_params){ .variant = variant, .w = w, .x = buffer->addr + offsetof(product, x), .n = ROWS, .x_stride = INS,
                                            .out = buffer->addr + offsetof(product, out), .out_stride = OUTS });
    DSVK_TRY(dsvk_cmd_run(cmd, err));
    DSVK_TRY(dsvk_buffer_read(device, buffer, 0, p, sizeof *p, err));
    for (uint32_t at = 0; at < ROWS * OUTS; at++)
        *right = *right && p->out[at] == INS * X * known[i].value;
    return DSVK_OK;
}

/* ---- known attention, which matrix units compute as well ---- */

/* Heads of X, rows of ones at even positions and of 3 / 512 at odd ones, a sink of 0: position t sees t / 2 + 1 and (t + 1) / 2 of
 * them, with the exponentials of their scores. */
#define DIM 128u
#define TAIL 64u
#define EVEN_EXP 7.392664917 /* e^(2 X) */
#define ODD_EXP 1.011790578  /* e^(2 X * 3 / 512) */
#define SMALL (3.0 / 512)
#define CLOSE 0x1p-18 /* f32 sums of up to ROWS terms; without the low halves of q it would be off by 2^-14 */

typedef struct attention {
    float q[ROWS * DIM], out[ROWS * DIM], angles[ROWS * TAIL], sink[4];
    uint8_t codes[ROWS][DIM + TAIL], scales[ROWS][4];
    struct dsvk_row rows[ROWS];
    struct dsvk_seq seq;
    dsvk_addr pages;
} attention;

static void fill_attention(attention *a, dsvk_addr at) {
    static const uint8_t code[] = { 0x38, 0x03 };
    static const uint16_t tail[] = { 0x3f80, 0x3bc0 };
    memset(a, 0, sizeof *a);
    a->seq.rows = ROWS;
    a->pages = at + offsetof(attention, angles);
    memset(a->scales, 127, sizeof a->scales);
    memset(a->out, 0xff, sizeof a->out);
    for (uint32_t i = 0; i < ROWS; i++) {
        a->rows[i].position = i;
        memset(a->codes[i], code[i % 2], DIM - TAIL);
        for (uint32_t d = 0; d < TAIL; d++) {
            memcpy(a->codes[i] + DIM - TAIL + 2 * d, &tail[i % 2], 2);
            a->angles[i * TAIL + d] = d % 2 == 0;
        }
        for (uint32_t d = 0; d < DIM; d++)
            a->q[i * DIM + d] = X;
    }
}

static bool attention_is_right(const attention *a) {
    for (uint32_t i = 0; i < ROWS * DIM; i++) {
        const double even = (i / DIM / 2 + 1) * EVEN_EXP, odd = (i / DIM + 1) / 2 * ODD_EXP, want = (even + odd * SMALL) / (even + odd + 1);
        if (!((double)a->out[i] > want * (1 - CLOSE) && (double)a->out[i] < want * (1 + CLOSE)))
            return false;
    }
    return true;
}

static dsvk_status attend_known(dsvk_device *device, dsvk_cmd *cmd, const dsvk_matmul_variant *variant, const dsvk_buffer *buffer,
                                attention *a, bool *right, dsvk_error *err) {
    const dsvk_addr at = buffer->addr;
    fill_attention(a, at);
    DSVK_TRY(dsvk_buffer_write(device, buffer, 0, a, sizeof *a, err));
    DSVK_TRY(dsvk_cmd_begin(cmd, err));
    dsvk_sparse_attn(cmd, &(dsvk_sparse_attn_params){
        .variant = variant, .rows = at + offsetof(attention, rows), .seqs = at + offsetof(attention, seq),
        .rope = at + offsetof(attention, pages), .q = at + offsetof(attention, q), .step_store = at + offsetof(attention, codes),
        .sink = at + offsetof(attention, sink), .out = at + offsetof(attention, out),
        .format = { .native = true, .head_dim = DIM, .rope_dim = TAIL }, .n = ROWS, .n_heads = 1, .q_stride = DIM,
        .step_capacity = ROWS, .window = ROWS, .ring_capacity = ROWS, .n_splits = 1, .scale = 2.0f / DIM });
    DSVK_TRY(dsvk_cmd_run(cmd, err));
    DSVK_TRY(dsvk_buffer_read(device, buffer, 0, a, sizeof *a, err));
    *right = attention_is_right(a);
    return DSVK_OK;
}

/* ---- known index scores, which matrix units compute as well ---- */

/* Queries of 2^b in block b, keys of 1.5 at even places and of -1.5 at odd ones, weights of X: all sums are exact. */
#define INDEX_HEADS 3u
#define INDEX_BLOCKS 4u
#define INDEX_DIM (32u * INDEX_BLOCKS)
#define INDEX_KEYS (ROWS / 4)
#define EVEN_SCORE (INDEX_HEADS * X * 1.5f * 32 * ((1u << INDEX_BLOCKS) - 1))

typedef struct selection {
    uint32_t iq[ROWS][INDEX_HEADS][INDEX_DIM]; /* byte queries */
    float weights[ROWS][4], scores[ROWS][INDEX_KEYS];
    uint8_t codes[INDEX_KEYS][INDEX_DIM / 2], scales[INDEX_KEYS][INDEX_BLOCKS];
    uint32_t bins[ROWS * TOPK_BINS_WORDS];
    struct dsvk_row rows[ROWS];
    struct dsvk_seq seq;
    dsvk_addr page;
} selection;

static void fill_selection(selection *s, dsvk_addr at) {
    memset(s, 0, sizeof *s);
    s->seq = (struct dsvk_seq){ .pages = at + offsetof(selection, page), .rows = ROWS };
    s->page = at + offsetof(selection, codes);
    memset(s->scales, 127, sizeof s->scales);
    memset(s->scores, 0xff, sizeof s->scores);
    for (uint32_t j = 0; j < INDEX_KEYS; j++)
        memset(s->codes[j], j % 2 ? 0xbb : 0x33, sizeof s->codes[j]);
    for (uint32_t i = 0; i < ROWS; i++) {
        s->rows[i].position = i;
        for (uint32_t h = 0; h < INDEX_HEADS; h++) {
            s->weights[i][h] = X;
            memset(&s->iq[i][h][0], 2, INDEX_DIM);
            for (uint32_t b = 0; b < INDEX_BLOCKS; b++)
                memcpy(&s->iq[i][h][INDEX_DIM / 4 + b], &(float){ 0.5f * (float)(1u << b) }, 4);
        }
    }
}

static bool selection_is_right(const selection *s) {
    for (uint32_t i = 0; i < ROWS; i++)
        for (uint32_t j = 0; j < (i + 1) / 4; j++)
            if (s->scores[i][j] != (j % 2 ? 0 : EVEN_SCORE))
                return false;
    return true;
}

static dsvk_status select_known(dsvk_device *device, dsvk_cmd *cmd, const dsvk_matmul_variant *variant, const dsvk_buffer *buffer,
                                selection *s, bool *right, dsvk_error *err) {
    const dsvk_addr at = buffer->addr;
    fill_selection(s, at);
    DSVK_TRY(dsvk_buffer_write(device, buffer, 0, s, sizeof *s, err));
    DSVK_TRY(dsvk_cmd_begin(cmd, err));
    dsvk_indexer(cmd, &(dsvk_indexer_params){
        .variant = variant, .rows = at + offsetof(selection, rows), .seqs = at + offsetof(selection, seq),
        .iq = at + offsetof(selection, iq), .weights = at + offsetof(selection, weights), .scores = at + offsetof(selection, scores),
        .bins = at + offsetof(selection, bins), .format = { .native = true, .index_dim = INDEX_DIM, .byte_queries = true }, .n = ROWS,
        .n_heads = INDEX_HEADS, .iq_stride = INDEX_HEADS * INDEX_DIM, .weights_stride = 4, .scores_stride = INDEX_KEYS, .n_seqs = 1,
        .max_visible = INDEX_KEYS, .page_tokens = ROWS, .scale = 1 });
    DSVK_TRY(dsvk_cmd_run(cmd, err));
    DSVK_TRY(dsvk_buffer_read(device, buffer, 0, s, sizeof *s, err));
    *right = selection_is_right(s);
    return DSVK_OK;
}

/* ---- all of them, of a variant (NULL: the device's) ---- */

static dsvk_status is_right(dsvk_device *device, dsvk_cmd *cmd, const dsvk_matmul_variant *variant, bool *right, dsvk_error *err) {
    union {
        product p;
        attention a;
        selection s;
    } *k = dsvk_alloc_zero(1, sizeof *k);
    dsvk_buffer buffer = { 0 };
    if (!k)
        return dsvk_fail_nomem(err, sizeof *k);
    dsvk_status status = dsvk_buffer_create(device, DSVK_SCRATCH, sizeof *k, "known results", &buffer, err);
    *right = true;
    for (uint32_t i = 0; status == DSVK_OK && *right && i < DSVK_COUNT(known); i++)
        status = multiply_known(device, cmd, variant, &buffer, &k->p, i, right, err);
    const bool matrices = (variant ? *variant : dsvk_device_matmul(device)).kind == DSVK_MATMUL_COOPMAT;
    if (status == DSVK_OK && *right && matrices)
        status = attend_known(device, cmd, variant, &buffer, &k->a, right, err);
    if (status == DSVK_OK && *right && matrices && dsvk_device_byte_products(device))
        status = select_known(device, cmd, variant, &buffer, &k->s, right, err);
    dsvk_buffer_destroy(device, &buffer);
    dsvk_free(k);
    return status;
}

/* ---- time ---- */

/* FP8, the type of most of a step: rounds of products, [1024, 1024], until the clock can tell them apart; of 256 rows, and on a CPU
 * of one, as its layouts differ in decode and hardly in prefill. Memory is whatever it holds: times do not depend on values, and
 * nobody reads the results. */
#define TIMED_ROWS 256u
#define TIMED_SIDE 1024u
#define TIMED_LEAST 2e-3 /* seconds */
#define ROUNDS 5u        /* the best counts: others may be using this machine */
#define TIMED_MOST 64u   /* products per submit */

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* What is timed: records it. */
typedef void record_fn(dsvk_cmd *cmd, const void *params);
static void record_product(dsvk_cmd *cmd, const void *params) { dsvk_matmul(cmd, params); }
static void record_attention(dsvk_cmd *cmd, const void *params) { dsvk_sparse_attn(cmd, params); }
static void record_selection(dsvk_cmd *cmd, const void *params) { dsvk_indexer(cmd, params); }

/* Seconds of one. */
static dsvk_status measure(dsvk_cmd *cmd, record_fn *record, const void *params, double *each, dsvk_error *err) {
    double took = 0;
    for (uint32_t warm = 0, times = 1; times <= TIMED_MOST; times *= warm++ ? 4 : 1) { /* the first may compile the kernel */
        DSVK_TRY(dsvk_cmd_begin(cmd, err));
        for (uint32_t i = 0; i < times; i++) {
            record(cmd, params);
            dsvk_barrier(cmd);
        }
        const double start = seconds();
        DSVK_TRY(dsvk_cmd_run(cmd, err));
        took = seconds() - start;
        *each = took / times;
        if (warm && took > TIMED_LEAST)
            break;
    }
    return DSVK_OK;
}

static dsvk_status measure_product(dsvk_cmd *cmd, const dsvk_matmul_variant *variant, uint32_t rows, const dsvk_buffer *buffer,
                                   double *each, dsvk_error *err) {
    const uint64_t x = dsvk_matrix_bytes(DSVK_TYPE_FP8, TIMED_SIDE, TIMED_SIDE);
    const dsvk_matmul_params params = {
        .variant = variant,
        .w = { .addr = buffer->addr, .n_out = TIMED_SIDE, .n_in = TIMED_SIDE, .type = DSVK_TYPE_FP8,
               .scales = dsvk_matrix_scales(DSVK_TYPE_FP8, TIMED_SIDE, TIMED_SIDE),
               .columns = in_columns(dsvk_cmd_device(cmd), variant) },
        .x = buffer->addr + x, .out = buffer->addr + x + 4ull * TIMED_ROWS * TIMED_SIDE, .n = rows,
        .x_stride = TIMED_SIDE, .out_stride = TIMED_SIDE };
    return measure(cmd, record_product, &params, each, err);
}

/* Attention at the family's widths: tokens that see up to 128 rows of their step, by 32 heads. */
#define TIMED_HEADS 32u
#define TIMED_DIM 512u
#define TIMED_TAIL 64u
#define TIMED_WINDOW 128u

typedef struct timed_attention { /* on the device; behind it all of q, and out */
    float sink[TIMED_HEADS], angles[TIMED_ROWS * TIMED_TAIL];
    uint8_t codes[TIMED_ROWS][TIMED_DIM + TIMED_TAIL], scales[TIMED_ROWS][8];
    struct dsvk_row rows[TIMED_ROWS];
    struct dsvk_seq seq;
} timed_attention;
#define TIMED_Q_BYTES (4ull * TIMED_ROWS * TIMED_HEADS * TIMED_DIM)

/* Whether a chunk's attention is faster without matrix units of that shape. */
static dsvk_status time_attention(dsvk_device *device, dsvk_cmd *cmd, dsvk_matmul_variant variant, bool *plain, dsvk_error *err) {
    const uint64_t q = dsvk_align(sizeof(timed_attention), 256);
    timed_attention *a = dsvk_alloc_zero(1, sizeof *a);
    dsvk_buffer buffer = { 0 };
    double least[2] = { 0 };
    if (!a)
        return dsvk_fail_nomem(err, sizeof *a);
    a->seq.rows = TIMED_ROWS;
    for (uint32_t i = 0; i < TIMED_ROWS; i++)
        a->rows[i].position = i;
    dsvk_status status = dsvk_buffer_create(device, DSVK_SCRATCH, q + 2 * TIMED_Q_BYTES, "timed attention", &buffer, err);
    if (status == DSVK_OK)
        status = dsvk_buffer_write(device, &buffer, 0, a, sizeof *a, err);
    dsvk_sparse_attn_params p = {
        .variant = &variant, .rows = buffer.addr + offsetof(timed_attention, rows), .seqs = buffer.addr + offsetof(timed_attention, seq),
        .rope = buffer.addr + offsetof(timed_attention, angles), .q = buffer.addr + q, .out = buffer.addr + q + TIMED_Q_BYTES,
        .step_store = buffer.addr + offsetof(timed_attention, codes), .sink = buffer.addr + offsetof(timed_attention, sink),
        .format = { .native = true, .head_dim = TIMED_DIM, .rope_dim = TIMED_TAIL }, .n = TIMED_ROWS, .n_heads = TIMED_HEADS,
        .q_stride = TIMED_HEADS * TIMED_DIM, .step_capacity = TIMED_ROWS, .window = TIMED_WINDOW, .ring_capacity = TIMED_WINDOW,
        .n_splits = 1, .scale = 1 };
    for (uint32_t i = 0; i < 2 * ROUNDS && status == DSVK_OK; i++) {
        double took = 0;
        variant.plain_attention = i % 2;
        status = measure(cmd, record_attention, &p, &took, err);
        least[i % 2] = i < 2 || took < least[i % 2] ? took : least[i % 2];
    }
    *plain = least[1] < least[0];
    dsvk_buffer_destroy(device, &buffer);
    dsvk_free(a);
    return status;
}

/* Index scores at the family's widths: rows that all see so many keys, random, so that they are counted in many places. */
#define TIMED_KEYS 4096u
#define TIMED_INDEX_HEADS 64u

typedef struct timed_selection { /* on the device; behind it scores */
    uint32_t iq[ROWS][TIMED_INDEX_HEADS][INDEX_DIM];
    float weights[ROWS][TIMED_INDEX_HEADS];
    uint8_t codes[TIMED_KEYS][INDEX_DIM / 2], scales[TIMED_KEYS][INDEX_BLOCKS];
    uint32_t bins[ROWS * TOPK_BINS_WORDS];
    struct dsvk_row rows[ROWS];
    struct dsvk_seq seq;
    dsvk_addr page;
} timed_selection;

static void fill_timed_selection(timed_selection *s, dsvk_addr at) {
    static const uint8_t values[] = { 0, 1, 2, 3, 4, 6, 8, 12 };
    uint32_t random = 1;
#define NEXT ((random = random * 1664525u + 1013904223u) >> 24)
    for (uint32_t i = 0; i < ROWS * TIMED_INDEX_HEADS; i++) {
        uint32_t *query = s->iq[i / TIMED_INDEX_HEADS][i % TIMED_INDEX_HEADS];
        for (uint32_t d = 0; d < INDEX_DIM; d++) {
            const uint32_t code = NEXT;
            ((int8_t *)query)[d] = (int8_t)(code & 8 ? -values[code & 7] : values[code & 7]);
        }
        for (uint32_t b = 0; b < INDEX_BLOCKS; b++)
            memcpy(&query[INDEX_DIM / 4 + b], &(float){ 0.5f }, 4);
        s->weights[i / TIMED_INDEX_HEADS][i % TIMED_INDEX_HEADS] = (float)NEXT - 128;
        s->rows[i / TIMED_INDEX_HEADS].position = 4 * TIMED_KEYS - 1;
    }
    for (uint32_t i = 0; i < sizeof s->codes; i++)
        ((uint8_t *)s->codes)[i] = (uint8_t)NEXT;
#undef NEXT
    memset(s->scales, 127, sizeof s->scales);
    s->seq = (struct dsvk_seq){ .pages = at + offsetof(timed_selection, page), .rows = ROWS };
    s->page = at + offsetof(timed_selection, codes);
}

/* Whether a chunk's index scores are faster without matrix units of that shape. */
static dsvk_status time_selection(dsvk_device *device, dsvk_cmd *cmd, dsvk_matmul_variant variant, bool *plain, dsvk_error *err) {
    const uint64_t scores = dsvk_align(sizeof(timed_selection), 256);
    timed_selection *s = dsvk_alloc_zero(1, sizeof *s);
    dsvk_buffer buffer = { 0 };
    double least[2] = { 0 };
    if (!s)
        return dsvk_fail_nomem(err, sizeof *s);
    dsvk_status status = dsvk_buffer_create(device, DSVK_SCRATCH, scores + 4ull * ROWS * TIMED_KEYS, "timed index scores", &buffer, err);
    if (status == DSVK_OK) {
        fill_timed_selection(s, buffer.addr);
        status = dsvk_buffer_write(device, &buffer, 0, s, sizeof *s, err);
    }
    const dsvk_indexer_params p = {
        .variant = &variant, .rows = buffer.addr + offsetof(timed_selection, rows), .seqs = buffer.addr + offsetof(timed_selection, seq),
        .iq = buffer.addr + offsetof(timed_selection, iq), .weights = buffer.addr + offsetof(timed_selection, weights),
        .scores = buffer.addr + scores, .bins = buffer.addr + offsetof(timed_selection, bins),
        .format = { .native = true, .index_dim = INDEX_DIM, .byte_queries = true }, .n = ROWS, .n_heads = TIMED_INDEX_HEADS,
        .iq_stride = TIMED_INDEX_HEADS * INDEX_DIM, .weights_stride = TIMED_INDEX_HEADS, .scores_stride = TIMED_KEYS, .n_seqs = 1,
        .max_visible = TIMED_KEYS, .page_tokens = 4 * TIMED_KEYS, .scale = 1 };
    for (uint32_t i = 0; i < 2 * ROUNDS && status == DSVK_OK; i++) {
        double took = 0;
        variant.plain_indexer = i % 2;
        status = measure(cmd, record_selection, &p, &took, err);
        least[i % 2] = i < 2 || took < least[i % 2] ? took : least[i % 2];
    }
    *plain = least[1] < least[0];
    dsvk_buffer_destroy(device, &buffer);
    dsvk_free(s);
    return status;
}

/* What no model can be opened after; whatever else goes wrong here only means that a time is not known. */
static bool is_fatal(dsvk_status status) { return status == DSVK_DEVLOST || status == DSVK_NOMEM; }

typedef dsvk_status time_fn(dsvk_device *device, dsvk_cmd *cmd, dsvk_matmul_variant variant, bool *plain, dsvk_error *err);

/* Whether to do without matrix units: where that is faster, and where it cannot be found out. A driver that cannot build the kernel
 * will not do so later; DEVMEM says that another time may tell. */
static dsvk_status decide(time_fn *time, const char *what, dsvk_device *device, dsvk_cmd *cmd, dsvk_matmul_variant variant, bool *plain,
                          dsvk_error *err) {
    dsvk_error error;
    const dsvk_status status = time(device, cmd, variant, plain, &error);
    if (status == DSVK_OK)
        return DSVK_OK;
    *plain = true;
    if (!is_fatal(status))
        dsvk_log(device, "%s: without matrix units, as the times are not known: %s", what, error.message);
    return is_fatal(status) || status == DSVK_DEVMEM ? dsvk_fail(err, status, "%s", error.message) : DSVK_OK;
}

dsvk_status dsvk_matmul_plain(dsvk_device *device, dsvk_cmd *cmd, dsvk_matmul_variant *variant, dsvk_error *err) {
    bool plain_attention = false, plain_indexer = false;
    dsvk_status status = decide(time_attention, "attention", device, cmd, *variant, &plain_attention, err);
    if (dsvk_device_byte_products(device) && !is_fatal(status)) {
        const dsvk_status second = decide(time_selection, "index scores", device, cmd, *variant, &plain_indexer, err);
        status = second != DSVK_OK ? second : status;
    }
    variant->plain_attention = plain_attention;
    variant->plain_indexer = plain_indexer;
    return status;
}

dsvk_status dsvk_matmul_fastest(dsvk_device *device, dsvk_cmd *cmd, const dsvk_matmul_variant *list, uint32_t n,
                                dsvk_matmul_variant *best, dsvk_error *err) {
    const uint64_t bytes = dsvk_matrix_bytes(DSVK_TYPE_FP8, TIMED_SIDE, TIMED_SIDE) + 8ull * TIMED_ROWS * TIMED_SIDE;
    dsvk_buffer buffer = { 0 };
    double least[DSVK_MATMUL_VARIANTS];
    bool right[DSVK_MATMUL_VARIANTS];
    const uint32_t rows = dsvk_device_get_limits(device)->software ? 1 : TIMED_ROWS;
    DSVK_TRY(dsvk_buffer_create(device, DSVK_SCRATCH, bytes, "timed product", &buffer, err));
    dsvk_status status = DSVK_OK;
    for (uint32_t round = 0; round <= ROUNDS && status == DSVK_OK; round++) /* in turns: what else runs is in everybody's way */
        for (uint32_t i = 0; i < n && status == DSVK_OK; i++) {
            double took = 0;
            if (round == 0)
                status = is_right(device, cmd, &list[i], &right[i], err);
            else if (right[i])
                status = measure_product(cmd, &list[i], rows, &buffer, &took, err);
            else
                continue;
            least[i] = round < 2 || took < least[i] ? took : least[i];
            if (is_fatal(status) || status == DSVK_DEVMEM)
                break;
            if (status != DSVK_OK || !right[i]) { /* a driver that cannot build this kernel has others */
                char name[DSVK_MATMUL_NAME];
                dsvk_log(device, "matmul \"%s\" is not used on this driver: %s", dsvk_matmul_name(list[i], name),
                         status == DSVK_OK ? "it computes a known product wrong" : "its kernel cannot be built or run");
                status = DSVK_OK;
                right[i] = false;
            }
        }
    dsvk_buffer_destroy(device, &buffer);
    DSVK_TRY(status);
    const dsvk_matmul_variant *fastest = NULL;
    for (uint32_t i = 0; i < n; i++)
        if (right[i] && (!fastest || least[i] < least[fastest - list]))
            fastest = &list[i];
    *best = fastest ? *fastest : (dsvk_matmul_variant){ .kind = DSVK_MATMUL_FEW };
    return best->kind == DSVK_MATMUL_COOPMAT ? dsvk_matmul_plain(device, cmd, best, err) : DSVK_OK;
}

dsvk_status dsvk_matmul_choose(dsvk_device *device, dsvk_cmd *cmd, dsvk_error *err) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS], best = dsvk_device_matmul(device);
    char name[DSVK_MATMUL_NAME];
    bool right;
    switch (dsvk_device_matmul_source(device)) {
    case DSVK_MATMUL_CHOSEN:
        return DSVK_OK;
    case DSVK_MATMUL_FORCED:
        DSVK_TRY(is_right(device, cmd, NULL, &right, err));
        return right ? DSVK_OK
                     : dsvk_fail(err, DSVK_UNSUPPORTED, "this device computes a known product wrong with matmul \"%s\"",
                                 dsvk_matmul_name(best, name));
    default:
        break;
    }
    uint32_t n = dsvk_matmul_variants(device, list);
    if (list[1].kind == DSVK_MATMUL_REGISTERS)
        n = list[2].kind == DSVK_MATMUL_COLUMNS ? 3 : 2;
    if (n == 2)
        return DSVK_OK;
    dsvk_error error;
    const dsvk_status status = dsvk_matmul_fastest(device, cmd, list + 1, n - 1, &best, &error); /* list[0] are the kernels for few rows */
    if (is_fatal(status))
        return dsvk_fail(err, status, "%s", error.message);
    if (status != DSVK_OK) { /* the next model may find room to measure */
        dsvk_device_set_matmul(device, best);
        dsvk_log(device, "matmul \"%s\" is taken without measuring: %s", dsvk_matmul_name(best, name), error.message);
        return DSVK_OK;
    }
    dsvk_device_remember_matmul(device, best);
    dsvk_log(device, "matmul \"%s\" is the fastest of %u on this driver", dsvk_matmul_name(best, name), n - 1);
    return DSVK_OK;
}
