/* Decoding by a recording that is replayed, against decoding token by token: the same tokens and, bit for bit, the same logits,
 * with the model that ships with the package. How many tokens go into a submit follows from measured time; here the time is
 * given. Edge list: 1, 3, 8 and 64 tokens per submit, more than are wanted; batches of 1, 5 and 32 of different lengths; stops in
 * the middle of a submit, of all rows, more than the device looks for; positions across a compression block, the window, a page
 * and a class of positions, and what a profile books there; a batch that shrinks; two batches in turns; no memory for the next page;
 * logits that stop being finite; cancelling between submits; no host memory; the validation layer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "harness_files.h"

#define VOCAB 4096 /* at least the model's */
#define SLOW 1e9   /* seconds of a token: one by one */

/* Sets the pace of every submit: the callback runs between them. */
struct pace {
    dsvk_model *model;
    double seconds;  /* of a token, as if measured */
    uint32_t rows;
    int64_t calls, cancel_at;
};

static int keep_pace(void *user, const char *stage, uint64_t done, uint64_t total) {
    struct pace *p = user;
    (void)stage, (void)done, (void)total;
    p->model->decode.token_seconds = p->seconds;
    p->model->decode.token_rows = DSVK_LOGIT_ROWS;
    return ++p->calls == p->cancel_at;
}

static void set_pace(struct pace *p, uint32_t tokens_per_submit) {
    p->seconds = tokens_per_submit ? 0.999 * DSVK_SUBMIT_AIM_S / tokens_per_submit : SLOW;
    p->cancel_at = -1;
    keep_pace(p, "", 0, 0);
    p->calls = 0;
}

static dsvk_model *open_paced(struct pace *p, const dsvk_device_options *options) {
    dsvk_device *device = NULL;
    dsvk_error err;
    dsvk_model_options model_options = { .size = sizeof model_options, .max_chunk = 128, .page_tokens = 128 };
    CHECK(dsvk_device_open(&device, options, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_model_open(&p->model, device, DSVK_NANO, &model_options, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_model_vocab_size(p->model) <= VOCAB, "vocabulary");
    dsvk_device_close(device);
    return p->model;
}

/* A session at `n` tokens of a text of its own. */
static dsvk_session *open_at(struct pace *p, uint32_t text, uint32_t n) {
    dsvk_session *s = NULL;
    dsvk_error err;
    dsvk_session_options options = { .size = sizeof options, .context = 1152, .progress = keep_pace, .user = p };
    int32_t *ids = malloc(n * sizeof *ids);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(3 + (i * 7 + text * 13) % 400);
    CHECK(dsvk_session_open(&s, p->model, &options, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_sync(s, ids, n, &err) == DSVK_OK, "%s", err.message);
    free(ids);
    return s;
}

static void read_logits(dsvk_session *s, float *logits) {
    dsvk_error err;
    CHECK(dsvk_session_logits(s, logits, &err) == DSVK_OK, "%s", err.message);
}

static json_int_t profile_count(dsvk_device *device, const char *name) {
    char *text = NULL;
    dsvk_error err;
    CHECK(dsvk_device_profile_end(device, &text, &err) == DSVK_OK, "%s", err.message);
    json_t *root = json_loads(text, 0, NULL);
    const json_int_t count = json_integer_value(json_object_get(root, name));
    json_decref(root);
    dsvk_free(text);
    return count;
}

/* Of the op, in all parts of the model. */
static json_int_t op_count(const json_t *report, const char *op, const char *name) {
    json_int_t sum = 0;
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(report, "ops"), i, entry)
        if (strcmp(json_string_value(json_object_get(entry, "name")), op) == 0)
            sum += json_integer_value(json_object_get(entry, name));
    return sum;
}

/* The profile of decoding N tokens, the first session from `at` on, by `rows` sessions of which the last stands one block further. */
static json_t *decode_profile(struct pace *p, uint32_t at, uint32_t rows, uint32_t N) {
    dsvk_session *s[2];
    int32_t ids[64];
    size_t n[2];
    char *text = NULL;
    dsvk_error err;
    set_pace(p, 0);
    for (uint32_t i = 0; i < rows; i++)
        s[i] = open_at(p, 0, at + 128 * i);
    set_pace(p, 3);
    CHECK(dsvk_device_profile_begin(p->model->device, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_decode_batch(s, rows, N, NULL, ids, n, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_device_profile_end(p->model->device, &text, &err) == DSVK_OK, "%s", err.message);
    for (uint32_t i = 0; i < rows; i++)
        dsvk_session_close(s[i]);
    json_t *root = json_loads(text, 0, NULL);
    dsvk_free(text);
    return root;
}

/* A recording serves a class of positions; what it is booked with are the positions that ran. */
static void test_profile_follows_positions(void) {
    enum { N = 7 };
    struct pace p = { 0 };
    dsvk_model *model = open_paced(&p, NULL);
    const dsvk_config *c = &model->config;
    json_int_t attended[4], topk[4];
    static const uint32_t at[] = { 20, 200, 500, 900 };
    uint32_t csa = 0;
    for (uint32_t l = 0; l < c->n_layers; l++)
        csa += c->compress_ratios[l] == 4;
    for (uint32_t rows = 1; rows <= 2; rows++)
        for (uint32_t i = 0; i < DSVK_COUNT(at); i++) {
            json_t *report = decode_profile(&p, at[i], rows, N);
            json_int_t keys = 0;
            for (uint32_t t = 0; t < N * rows; t++) {
                const uint32_t visible = (at[i] + 128 * (t / N) + t % N + 1) / 4;
                keys += visible > c->index_topk ? visible : 0;
            }
            const json_int_t flops = op_count(report, "indexer", "flops");
            const json_int_t want = keys * csa * c->index_n_heads * (2 * c->index_head_dim + 3);
            CHECK(flops == want, "%u rows at %u: %lld operations, not %lld", rows, at[i], (long long)flops, (long long)want);
            CHECK((op_count(report, "indexer", "bytes") > 0) == (keys > 0), "bytes where there are operations");
            attended[i] = op_count(report, "sparse_attn", "flops");
            topk[i] = op_count(report, "topk", "bytes");
            CHECK(op_count(report, "indexer", "calls") == (json_int_t)csa * N, "it is there all the same");
            json_decref(report);
            if (rows == 1 && i == 0)
                CHECK(topk[0] == (json_int_t)csa * N * c->index_topk * 4, "topk at %u: only what it writes", at[i]);
            if (i > 0)
                CHECK(attended[i] > attended[i - 1] && topk[i] > topk[i - 1], "%u rows at %u need more than at %u", rows, at[i], at[i - 1]);
        }
    dsvk_model_close(model);
}

static void test_tokens_per_submit(void) {
    enum { N = 21 };
    static const uint32_t paces[] = { 0, 1, 3, 8, 64 };
    struct pace p = { 0 };
    dsvk_model *model = open_paced(&p, NULL);
    static float want[VOCAB], got[VOCAB];
    int32_t first[N], ids[N];
    size_t n;
    dsvk_error err;
    for (int warm = 0; warm < 2; warm++) {
        const dsvk_sample_options options = { .size = sizeof options, .temperature = 0.9f * (float)warm, .top_p = 0.95f, .seed = 7 };
        for (size_t i = 0; i < DSVK_COUNT(paces); i++) {
            set_pace(&p, 0);
            dsvk_session *s = open_at(&p, 0, 117); /* block and window end within the next tokens */
            set_pace(&p, paces[i]);
            CHECK(dsvk_device_profile_begin(model->device, &err) == DSVK_OK, "%s", err.message);
            CHECK(dsvk_session_decode(s, N, &options, ids, &n, &err) == DSVK_OK && n == N, "%s", err.message);
            const json_int_t submits = profile_count(model->device, "submits");
            if (paces[i] > 0)
                CHECK(submits == (json_int_t)dsvk_ceil_div(N, paces[i]), "%u tokens per submit: %d submits of %d tokens", paces[i],
                      (int)submits, N);
            read_logits(s, got);
            if (i == 0) {
                memcpy(first, ids, sizeof ids);
                memcpy(want, got, sizeof got);
            }
            CHECK(memcmp(first, ids, sizeof ids) == 0, "%u tokens per submit: other tokens", paces[i]);
            CHECK(memcmp(want, got, sizeof got) == 0, "%u tokens per submit: other logits", paces[i]);
            dsvk_session_close(s);
        }
    }
    dsvk_model_close(model);
}

/* What every sequence gives alone, token by token: ids [n] and logits after them. */
static void alone(struct pace *p, uint32_t text, uint32_t at, uint32_t n, const dsvk_sample_options *o, int32_t *ids, size_t *n_ids,
                  float *logits) {
    dsvk_error err;
    set_pace(p, 0);
    dsvk_session *s = open_at(p, text, at);
    CHECK(dsvk_session_decode(s, n, o, ids, n_ids, &err) == DSVK_OK, "%s", err.message);
    read_logits(s, logits);
    dsvk_session_close(s);
}

#define KINDS 8u /* different sequences of a batch: row i is the same as row i % KINDS, in another place */

static uint32_t kind_at(uint32_t kind) { return 3 + 19 * kind; }

static void check_batch(uint32_t n_sessions, uint32_t n, uint32_t per_submit, bool stop_all) {
    struct pace p = { 0 };
    dsvk_model *model = open_paced(&p, NULL);
    dsvk_session *sessions[DSVK_LOGIT_ROWS];
    dsvk_sample_options options[DSVK_LOGIT_ROWS];
    int32_t *want = calloc((size_t)KINDS * n, sizeof *want), *got = calloc((size_t)n_sessions * n, sizeof *got), stops[KINDS];
    size_t n_want[KINDS], n_got[DSVK_LOGIT_ROWS];
    static float logits[KINDS][VOCAB], now[VOCAB];
    dsvk_error err;
    for (uint32_t i = 0; i < KINDS && i < n_sessions; i++) {
        options[i] = (dsvk_sample_options){ .size = sizeof *options, .temperature = i % 3 ? 0.8f : 0, .seed = i };
        alone(&p, i, kind_at(i), n, &options[i], want + i * n, &n_want[i], logits[i]);
        if (i % 2 == 0 && !stop_all)
            continue;
        stops[i] = want[i * n + (stop_all ? 1 : 2 + i % 4)];
        options[i].stop = &stops[i];
        options[i].n_stop = 1;
        alone(&p, i, kind_at(i), n, &options[i], want + i * n, &n_want[i], logits[i]);
        CHECK(n_want[i] < n, "sequence %u stops", i);
    }
    for (uint32_t i = 0; i < n_sessions; i++) {
        options[i] = options[i % KINDS];
        sessions[i] = open_at(&p, i % KINDS, kind_at(i % KINDS));
    }
    set_pace(&p, per_submit);
    CHECK(dsvk_decode_batch(sessions, n_sessions, n, options, got, n_got, &err) == DSVK_OK, "%s", err.message);
    for (uint32_t i = 0; i < n_sessions; i++) {
        const uint32_t kind = i % KINDS;
        CHECK(n_got[i] == n_want[kind] && memcmp(got + i * n, want + kind * n, n_got[i] * sizeof *got) == 0,
              "sequence %u of %u: %zu tokens, not %zu, or others", i, n_sessions, n_got[i], n_want[kind]);
        CHECK(dsvk_session_position(sessions[i]) == kind_at(kind) + n_want[kind], "position of sequence %u", i);
        read_logits(sessions[i], now);
        CHECK(memcmp(now, logits[kind], sizeof now) == 0, "logits of sequence %u of %u", i, n_sessions);
        dsvk_session_close(sessions[i]);
    }
    free(want);
    free(got);
    dsvk_model_close(model);
}

static void test_batches(void) {
    check_batch(5, 12, 8, false);
    check_batch(5, 12, 3, false);
    check_batch(4, 8, 8, true);
    check_batch(32, 8, 8, false);
}

/* One submit that goes beyond 1024 positions, and the page that ends there. */
static void test_across_a_class(void) {
    enum { AT = 1019, N = 6 }; /* few enough to be taken back for nothing */
    struct pace p = { 0 };
    dsvk_model *model = open_paced(&p, NULL);
    dsvk_error err;
    int32_t want[N], ids[N], timeline[AT];
    static float logits[VOCAB], now[VOCAB];
    size_t n;
    set_pace(&p, 0);
    dsvk_session *s = open_at(&p, 0, AT - 1), *other = open_at(&p, 1, 20);
    CHECK(dsvk_session_tokens(s, timeline, &err) == DSVK_OK, "%s", err.message);
    timeline[AT - 1] = 5; /* by itself, as it will be each time that the session goes back to it: a chunk adds up in another order */
    CHECK(dsvk_session_sync(s, timeline, AT, &err) == DSVK_OK, "%s", err.message);
    for (int i = 0; i < 4; i++) {
        const uint32_t reach = model->decode.positions;
        set_pace(&p, i < 3 ? (uint32_t)i * 4 : 64);
        CHECK(dsvk_session_decode(s, N, NULL, ids, &n, &err) == DSVK_OK && n == N, "%s", err.message);
        read_logits(s, now);
        if (i == 0) {
            memcpy(want, ids, sizeof ids);
            memcpy(logits, now, sizeof now);
        }
        CHECK(memcmp(ids, want, sizeof ids) == 0 && memcmp(now, logits, sizeof now) == 0, "pace %d: other tokens or logits", i);
        CHECK(i == 0 || model->decode.positions == 2048, "a class of %u positions", model->decode.positions);
        CHECK(dsvk_session_decode(other, 1, NULL, ids, &n, &err) == DSVK_OK, "%s", err.message);
        CHECK(i < 2 || model->decode.positions == reach, "one below a class's half keeps the recording");
        CHECK(dsvk_session_sync(s, timeline, AT, &err) == DSVK_OK, "%s", err.message);
    }
    dsvk_session_close(s);
    dsvk_session_close(other);
    dsvk_model_close(model);
}

static void test_more_stops_than_the_device_looks_for(void) {
    enum { N = 12, STOPS = 1500 };
    struct pace p = { 0 };
    dsvk_model *model = open_paced(&p, NULL);
    int32_t free_run[N], ids[N], *stops = malloc(STOPS * sizeof *stops);
    static float logits[VOCAB];
    size_t n_free, n;
    dsvk_error err;
    alone(&p, 0, 30, N, &(dsvk_sample_options){ .size = sizeof(dsvk_sample_options) }, free_run, &n_free, logits);
    int32_t unsaid = 0;
    for (size_t i = 0; i < n_free; i++)
        if (free_run[i] == unsaid) {
            unsaid++;
            i = (size_t)-1; /* from the first again */
        }
    for (int i = 0; i < STOPS; i++)
        stops[i] = unsaid;
    stops[STOPS - 1] = free_run[4];
    const dsvk_sample_options options = { .size = sizeof options, .stop = stops, .n_stop = STOPS };
    dsvk_session *s = open_at(&p, 0, 30);
    set_pace(&p, 8);
    CHECK(dsvk_session_decode(s, N, &options, ids, &n, &err) == DSVK_OK && n <= 5 && ids[n - 1] == free_run[4], "%zu tokens", n);
    dsvk_session_close(s);
    free(stops);
    dsvk_model_close(model);
}

/* The embedding of a token turns into NaN: the logits after it are none. Every sequence stands where it did when the token after
 * it could not be chosen, on either way. */
static void test_D17_logits_that_end(void) {
    enum { N = 12, AT = 5 };
    struct pace p = { 0 };
    dsvk_model *model = open_paced(&p, NULL);
    const dsvk_sample_options options[2] = { { .size = sizeof *options }, { .size = sizeof *options, .temperature = 1, .seed = 3 } };
    int32_t free_run[N], ids[2 * N];
    static float logits[VOCAB];
    size_t n[2];
    dsvk_error err;
    alone(&p, 0, 30, N, options, free_run, n, logits);
    size_t bad = 0;
    while (free_run[bad] != free_run[AT])
        bad++;
    const uint64_t row = (uint64_t)model->config.hidden_size * 2;
    const dsvk_addr at = model->weights.embed + (uint64_t)free_run[AT] * row;
    uint8_t *nan = malloc(row), *kept = malloc(row);
    memset(nan, 0xff, row);
    const dsvk_buffer *home = NULL;
    for (uint32_t i = 0; i < model->n_buffers; i++)
        if (at >= model->buffers[i].addr && at < model->buffers[i].addr + model->buffers[i].size)
            home = &model->buffers[i];
    CHECK(home != NULL, "the embedding's buffer");
    dsvk_session *s[2];
    for (uint32_t pace = 0; pace <= 8; pace += 4) {
        set_pace(&p, 0);
        for (uint32_t i = 0; i < 2; i++)
            s[i] = open_at(&p, i, 30);
        CHECK(dsvk_buffer_read(model->device, home, at - home->addr, kept, row, &err) == DSVK_OK, "%s", err.message);
        CHECK(dsvk_buffer_write(model->device, home, at - home->addr, nan, row, &err) == DSVK_OK, "%s", err.message);
        set_pace(&p, pace);
        CHECK_REFUSED(dsvk_decode_batch(s, 2, N, options, ids, n, &err), DSVK_NUMERIC, &err, "sequence 0");
        CHECK(n[0] == bad + 1 && n[1] == bad + 1 && memcmp(ids, free_run, n[0] * sizeof *ids) == 0, "pace %u: %zu and %zu tokens",
              pace, n[0], n[1]);
        CHECK(dsvk_session_position(s[0]) == 30 + n[0] && dsvk_session_position(s[1]) == 30 + n[1], "pace %u: positions", pace);
        CHECK_REFUSED(dsvk_session_decode(s[0], 1, NULL, ids, n, &err), DSVK_NUMERIC, &err, "sequence 0");
        CHECK(dsvk_session_decode(s[1], 1, NULL, ids, n, &err) == DSVK_OK, "the other goes on: %s", err.message);
        CHECK(dsvk_buffer_write(model->device, home, at - home->addr, kept, row, &err) == DSVK_OK, "%s", err.message);
        for (int i = 0; i < 2; i++)
            dsvk_session_close(s[i]);
    }
    free(nan);
    free(kept);
    dsvk_model_close(model);
}

/* The page after the next tokens finds no memory: all tokens before it are decoded. */
static void test_D04_no_memory_for_a_page(void) {
    enum { AT = 120, N = 20 };
    struct pace p = { 0 };
    int32_t ids[N];
    size_t n;
    dsvk_error err;
    dsvk_model *model = open_paced(&p, NULL);
    dsvk_session *s = open_at(&p, 0, AT);
    dsvk_device_options one_page = { .size = sizeof one_page };
    one_page.budget[DSVK_CACHE] = dsvk_purpose_used(model->device, DSVK_CACHE);
    dsvk_session_close(s);
    dsvk_model_close(model);
    model = open_paced(&p, &one_page);
    s = open_at(&p, 0, AT);
    set_pace(&p, 64);
    CHECK_REFUSED(dsvk_session_decode(s, N, NULL, ids, &n, &err), DSVK_DEVMEM, &err, "cache page");
    CHECK(n == 128 - AT && dsvk_session_position(s) == 128, "%zu tokens", n);
    static float logits[VOCAB];
    read_logits(s, logits);
    dsvk_session_close(s);
    dsvk_model_close(model);
}

static void test_cancelled_between_submits(void) {
    enum { N = 12 };
    struct pace p = { 0 };
    dsvk_model *model = open_paced(&p, NULL);
    int32_t want[N], ids[N];
    static float logits[VOCAB];
    size_t n;
    dsvk_error err;
    alone(&p, 0, 30, N, NULL, want, &n, logits);
    dsvk_session *s = open_at(&p, 0, 30);
    set_pace(&p, 4);
    p.cancel_at = 2;
    CHECK_REFUSED(dsvk_session_decode(s, N, NULL, ids, &n, &err), DSVK_CANCELLED, &err, "after 8 of 12 tokens|at token 38");
    CHECK(n == 8 && memcmp(ids, want, 8 * sizeof *ids) == 0 && dsvk_session_position(s) == 38, "%zu tokens", n);
    set_pace(&p, 4);
    CHECK(dsvk_session_decode(s, 4, NULL, ids, &n, &err) == DSVK_OK && memcmp(ids, want + 8, 4 * sizeof *ids) == 0,
          "it goes on where it was");
    dsvk_session_close(s);
    dsvk_model_close(model);
}

/* Batches in turns: each finds its own sessions again, and nothing is allocated, recording included. */
static void test_turns_without_host_memory(void) {
    struct pace p = { 0 };
    dsvk_model *model = open_paced(&p, NULL);
    dsvk_session *s[3];
    int32_t ids[2][2 * 8], want[3][16];
    static float logits[VOCAB];
    size_t n[2];
    dsvk_error err;
    for (uint32_t i = 0; i < 3; i++) {
        alone(&p, i, 20, 16, NULL, want[i], n, logits);
        s[i] = open_at(&p, i, 20);
    }
    for (uint32_t half = 0; half < 2; half++) {
        if (half == 1) /* pipelines are built now, for both numbers of rows */
            dsvk_alloc_fail_after(0);
        set_pace(&p, 4);
        CHECK(dsvk_decode_batch(s, 2, 8, NULL, ids[0], n, &err) == DSVK_OK, "%s", err.message);
        set_pace(&p, 4);
        CHECK(dsvk_decode_batch(s + 2, 1, 8, NULL, ids[1], n, &err) == DSVK_OK, "%s", err.message);
        for (uint32_t i = 0; i < 3; i++)
            CHECK(memcmp(i < 2 ? ids[0] + 8 * i : ids[1], want[i] + 8 * half, 8 * sizeof **want) == 0, "sequence %u", i);
    }
    const int64_t made = dsvk_alloc_fail_after(-1);
    CHECK(made == 0, "%lld allocations", (long long)made);
    for (uint32_t i = 0; i < 3; i++)
        dsvk_session_close(s[i]);
    dsvk_model_close(model);
}

/* Core and synchronization validation over submits of one recording several times; skipped, and said so, without the layer. */
static void test_validation_has_nothing_to_say(void) {
    struct pace p = { 0 };
    dsvk_device *device = NULL;
    dsvk_error err;
    const dsvk_device_options options = { .size = sizeof options, .cache_dir = "", .validation = 1 };
    if (dsvk_device_open(&device, &options, &err) != DSVK_OK) {
        printf("  skipped: %s\n", err.message);
        return;
    }
    dsvk_device_close(device);
    dsvk_model *model = open_paced(&p, &options);
    int32_t ids[2 * 12];
    size_t n[2];
    set_pace(&p, 0);
    dsvk_session *s[2] = { open_at(&p, 0, 122), open_at(&p, 1, 30) };
    set_pace(&p, 6);
    CHECK(dsvk_decode_batch(s, 2, 12, NULL, ids, n, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_decode(s[1], 2, NULL, ids, n, &err) == DSVK_OK, "%s", err.message);
    char first[400] = "";
    const uint32_t messages = dsvk_device_validation_messages(model->device, first, sizeof first);
    CHECK(messages == 0, "%u validation messages, the first: %s", messages, first);
    dsvk_session_close(s[0]);
    dsvk_session_close(s[1]);
    dsvk_model_close(model);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(test_profile_follows_positions),
        TEST(test_tokens_per_submit),
        TEST(test_batches),
        TEST(test_across_a_class),
        TEST(test_more_stops_than_the_device_looks_for),
        TEST(test_D17_logits_that_end),
        TEST(test_D04_no_memory_for_a_page),
        TEST(test_cancelled_between_submits),
        TEST(test_turns_without_host_memory),
        TEST(test_validation_has_nothing_to_say),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
