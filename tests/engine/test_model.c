/* Model and session through the public API in C, with the model that ships with the package: what the Python tests cannot
 * see. Edge list: every public call with NULL, with options of another size, out of range; a model closed before its
 * sessions; two models and two devices in one process; the same session twice in a batch; host memory failing at every
 * allocation of a session's life and at many of a model's opening; decoding with no host memory at all.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "harness_files.h"

static const int32_t prompt[] = { 0, 40, 41, 42, 43, 44, 45, 46, 47, 48 };
#define N_PROMPT (sizeof prompt / sizeof *prompt)

/* No pipeline cache on disk: other tests own that. */
static dsvk_device *open_device(void) {
    dsvk_device *device = NULL;
    dsvk_error err;
    dsvk_device_options options = { .size = sizeof options };
    CHECK(dsvk_device_open(&device, &options, &err) == DSVK_OK, "%s", err.message);
    return device;
}

static dsvk_model *open_nano(dsvk_device *device) {
    dsvk_model *model = NULL;
    dsvk_error err;
    dsvk_model_options options = { .size = sizeof options, .max_chunk = 16 };
    CHECK(dsvk_model_open(&model, device, DSVK_NANO, &options, &err) == DSVK_OK, "%s", err.message);
    return model;
}

static dsvk_session *open_session(dsvk_model *model) {
    dsvk_session *session = NULL;
    dsvk_error err;
    dsvk_session_options options = { .size = sizeof options, .context = 256, .mtp = dsvk_model_has_mtp(model) };
    CHECK(dsvk_session_open(&session, model, &options, &err) == DSVK_OK, "%s", err.message);
    return session;
}

static void test_a_token_sequence(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device);
    dsvk_session *session = open_session(model);
    dsvk_error err;
    int32_t ids[8], again[8];
    size_t n;
    CHECK(dsvk_session_sync(session, prompt, N_PROMPT, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_decode(session, 8, NULL, ids, &n, &err) == DSVK_OK && n == 8, "%s", err.message);
    CHECK(dsvk_session_position(session) == N_PROMPT + 8, "position");
    CHECK(dsvk_session_sync(session, prompt, N_PROMPT, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_decode(session, 8, NULL, again, &n, &err) == DSVK_OK && n == 8, "%s", err.message);
    CHECK(memcmp(ids, again, sizeof ids) == 0, "the same prefix gave other tokens");
    dsvk_session_close(session);
    dsvk_model_close(model);
    dsvk_device_close(device);
}

static void test_A01_arguments(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device), *none = NULL;
    dsvk_session *session = open_session(model);
    dsvk_error err;
    int32_t ids[4], wrong[] = { 5, -1 }, large[] = { 1 << 30 };
    size_t n;
    char *text;
    dsvk_tokenizer *tokenizer = NULL;
    dsvk_model_options model_options = { .size = 3 };
    dsvk_session_options session_options = { .size = sizeof session_options, .context = 1ull << 40 };
    CHECK_REFUSED(dsvk_model_open(NULL, device, DSVK_NANO, NULL, &err), DSVK_INVALID, &err, "model");
    CHECK_REFUSED(dsvk_model_open(&none, NULL, "/nowhere/at/all", NULL, &err), DSVK_IO, &err, "/nowhere/at/all");
    CHECK_REFUSED(dsvk_model_open(&none, device, NULL, NULL, &err), DSVK_INVALID, &err, "path");
    CHECK_REFUSED(dsvk_model_open(&none, device, DSVK_NANO, &model_options, &err), DSVK_INVALID, &err, "size 3");
    model_options = (dsvk_model_options){ .size = sizeof model_options, .max_chunk = 5000 };
    CHECK_REFUSED(dsvk_model_open(&none, device, DSVK_NANO, &model_options, &err), DSVK_INVALID, &err, "5000|4096");
    model_options = (dsvk_model_options){ .size = sizeof model_options, .page_tokens = 100 };
    CHECK_REFUSED(dsvk_model_open(&none, device, DSVK_NANO, &model_options, &err), DSVK_INVALID, &err, "100|128");
    CHECK_REFUSED(dsvk_model_open(&none, device, "/nowhere/at/all", NULL, &err), DSVK_IO, &err, "/nowhere/at/all");
    CHECK_REFUSED(dsvk_model_open(&none, device, "", NULL, &err), DSVK_INVALID, &err, "path is empty");
    CHECK_REFUSED(dsvk_plan("", NULL, NULL, 0, &text, &err), DSVK_INVALID, &err, "path is empty");
    CHECK_REFUSED(dsvk_verify("", NULL, &text, &err), DSVK_INVALID, &err, "path is empty");
    CHECK_REFUSED(dsvk_tokenizer_open(&tokenizer, "", &err), DSVK_INVALID, &err, "path is empty");
    CHECK_REFUSED(dsvk_model_open(&none, device, "/no\xff\nj\xc3\xbcrgen\x7f", NULL, &err), DSVK_IO, &err,
                  "/no\\xff\\x0aj\xc3\xbcrgen\\x7f/config");
    char long_path[2 * DSVK_MESSAGE_SIZE];
    memset(long_path, '\xff', sizeof long_path);
    long_path[0] = '/', long_path[sizeof long_path - 1] = 0;
    CHECK_REFUSED(dsvk_model_open(&none, device, long_path, NULL, &err), DSVK_IO, &err, "/\\xff\\xff");
    CHECK(strlen(err.message) > DSVK_MESSAGE_SIZE - 8 && strlen(err.message) < DSVK_MESSAGE_SIZE, "%zu bytes", strlen(err.message));
    CHECK(none == NULL, "a failed open gave a model");
    dsvk_session *other = NULL;
    CHECK_REFUSED(dsvk_session_open(&other, model, &session_options, &err), DSVK_INVALID, &err, "1099511627776");
    CHECK_REFUSED(dsvk_session_sync(NULL, prompt, 1, &err), DSVK_INVALID, &err, "session");
    CHECK_REFUSED(dsvk_session_sync(session, NULL, 1, &err), DSVK_INVALID, &err, "tokens");
    CHECK_REFUSED(dsvk_session_sync(session, wrong, 2, &err), DSVK_INVALID, &err, "token 1 is -1");
    CHECK_REFUSED(dsvk_session_sync(session, large, 1, &err), DSVK_INVALID, &err, "1073741824");
    CHECK_REFUSED(dsvk_session_decode(session, 4, NULL, ids, &n, &err), DSVK_STATE, &err, "no tokens");
    CHECK_REFUSED(dsvk_session_logits(session, NULL, &err), DSVK_INVALID, &err, "out");
    CHECK_REFUSED(dsvk_session_evaluate(session, prompt, 2, 17, NULL, NULL, &err), DSVK_INVALID, &err, "17|16");
    CHECK_REFUSED(dsvk_model_config(NULL, &text, &err), DSVK_INVALID, &err, "model");
    CHECK(dsvk_session_sync(session, prompt, N_PROMPT, &err) == DSVK_OK, "%s", err.message);
    dsvk_sample_options sampling[] = { { .size = sizeof *sampling, .temperature = NAN },
                                       { .size = sizeof *sampling, .temperature = -1 },
                                       { .size = sizeof *sampling, .top_p = 1.5f },
                                       { .size = sizeof *sampling, .min_p = -0.1f },
                                       { .size = 4 } };
    const char *words[] = { "temperature", "temperature is -1", "top_p is 1.5", "min_p", "size 4" };
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++)
        CHECK_REFUSED(dsvk_session_decode(session, 1, &sampling[i], ids, &n, &err), DSVK_INVALID, &err, words[i]);
    dsvk_session *twice[] = { session, session };
    size_t counts[2];
    CHECK_REFUSED(dsvk_decode_batch(twice, 2, 1, NULL, ids, counts, &err), DSVK_INVALID, &err, "session 1|session 0");
    CHECK(dsvk_session_position(session) == N_PROMPT, "a refused call changed the session");
    CHECK(dsvk_session_decode(session, 1, NULL, ids, &n, NULL) == DSVK_OK, "after all this it works");
    dsvk_session_close(session);
    dsvk_model_close(model);
    dsvk_device_close(device);
    dsvk_session_close(NULL);
    dsvk_model_close(NULL);
    dsvk_device_close(NULL);
    dsvk_session_cancel(NULL);
}

/* Options of one call and of the next are held to the same: what is wrong is refused, and named. */
static void test_A01_options_are_checked_alike(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device), *none = NULL;
    dsvk_session *session = open_session(model), *other = NULL;
    dsvk_scheduler *scheduler = NULL;
    dsvk_error err;
    int32_t id;
    size_t n;
    uint64_t request;
    char *json;
    const dsvk_session_options mtp = { .size = sizeof mtp, .mtp = 9 };
    const dsvk_model_options strict = { .size = sizeof strict, .strict = 5 }, verify = { .size = sizeof verify, .verify = 2 };
    const dsvk_scheduler_options no_cache = { .size = sizeof no_cache, .no_cache = 3 };
    const int32_t stop[] = { 5, -1 }, vocab = (int32_t)dsvk_model_vocab_size(model);
    const dsvk_scheduler_options few = { .size = sizeof few, .max_running = 4 };
    const struct {
        dsvk_sample_options options;
        const char *words;
    } sampling[] = { { { .size = sizeof *sampling, .stop = stop, .n_stop = 2 }, "stop id 1 is -1" },
                     { { .size = sizeof *sampling, .stop = &vocab, .n_stop = 1 }, "stop id 0 is 2048|0 to 2047" },
                     { { .size = sizeof *sampling, .stop = stop, .n_stop = SIZE_MAX }, "18446744073709551615 stop ids|2048" },
                     { { .size = sizeof *sampling, .n_stop = 1 }, "stop ids must not be NULL" },
                     { { .size = sizeof *sampling, .mask_after = -3 }, "mask_after|-3" },
                     { { .size = sizeof *sampling, .generated_from = 1ull << 60 }, "generated_from is 1152921504606846976" } };
    CHECK_REFUSED(dsvk_session_open(&other, model, &mtp, &err), DSVK_INVALID, &err, "mtp is 9, not 0 or 1");
    CHECK_REFUSED(dsvk_model_open(&none, device, DSVK_NANO, &strict, &err), DSVK_INVALID, &err, "strict is 5, not 0 or 1");
    CHECK_REFUSED(dsvk_verify(DSVK_NANO, &verify, &json, &err), DSVK_INVALID, &err, "verify is 2, not 0 or 1");
    CHECK_REFUSED(dsvk_scheduler_open(&scheduler, model, &no_cache, &err), DSVK_INVALID, &err, "no_cache is 3, not 0 or 1");
    CHECK(dsvk_session_sync(session, prompt, N_PROMPT, &err) == DSVK_OK && dsvk_scheduler_open(&scheduler, model, &few, &err) == DSVK_OK,
          "%s", err.message);
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++) {
        dsvk_sample_options o = sampling[i].options;
        o.size = sizeof o;
        CHECK_REFUSED(dsvk_session_decode(session, 1, &o, &id, &n, &err), DSVK_INVALID, &err, sampling[i].words);
        CHECK_REFUSED(dsvk_session_begin(session, prompt, N_PROMPT, 1, &o, &err), DSVK_INVALID, &err, sampling[i].words);
    }
    dsvk_request_options r = { .size = sizeof r, .prompt = prompt, .n_prompt = N_PROMPT, .sampling = { .size = sizeof r.sampling },
                               .stop_after = -3 };
    CHECK_REFUSED(dsvk_scheduler_submit(scheduler, &r, &request, &err), DSVK_INVALID, &err, "stop_after|-3");
    r.stop_after = 0, r.stop_before = vocab;
    CHECK_REFUSED(dsvk_scheduler_submit(scheduler, &r, &request, &err), DSVK_INVALID, &err, "stop_before|2048");
    r.stop_before = 0, r.exact = 7;
    CHECK_REFUSED(dsvk_scheduler_submit(scheduler, &r, &request, &err), DSVK_INVALID, &err, "exact is 7, not 0 or 1");
    dsvk_scheduler_close(scheduler);
    dsvk_session_close(session);
    dsvk_model_close(model);
    dsvk_device_close(device);
}

/* A count that cannot be is refused before an array of that size is looked at. */
static void test_A01_counts_before_arrays(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device);
    dsvk_session *session = open_session(model);
    dsvk_scheduler *scheduler = NULL;
    dsvk_error err;
    int32_t id;
    size_t n = 77;
    uint64_t request;
    const dsvk_scheduler_options few = { .size = sizeof few, .max_running = 4 };
    const dsvk_request_options r = { .size = sizeof r, .prompt = prompt, .n_prompt = SIZE_MAX, .sampling = { .size = sizeof r.sampling } };
    CHECK_REFUSED(dsvk_session_sync(session, prompt, SIZE_MAX, &err), DSVK_LIMIT, &err, "18446744073709551615 tokens|256");
    CHECK_REFUSED(dsvk_session_evaluate(session, prompt, SIZE_MAX, 0, NULL, NULL, &err), DSVK_LIMIT, &err, "256");
    CHECK_REFUSED(dsvk_session_begin(session, prompt, SIZE_MAX, 1, NULL, &err), DSVK_LIMIT, &err, "256");
    CHECK_REFUSED(dsvk_decode_batch(&session, SIZE_MAX, 1, NULL, &id, &n, &err), DSVK_INVALID, &err, "max_chunk 16");
    CHECK(n == 77, "results of a call that was refused");
    CHECK(dsvk_scheduler_open(&scheduler, model, &few, &err) == DSVK_OK, "%s", err.message);
    CHECK_REFUSED(dsvk_scheduler_submit(scheduler, &r, &request, &err), DSVK_LIMIT, &err, "a prompt of 18446744073709551615");
    dsvk_scheduler_close(scheduler);
    dsvk_session_close(session);
    dsvk_model_close(model);
    dsvk_device_close(device);
}

/* ---- closed during a call ---- */

struct closing {
    dsvk_session *session;
    bool inside;            /* close it from the callback */
    atomic_int calls;       /* of the callback */
    atomic_bool begun, tokens_busy;
    dsvk_status status;     /* of the call that ran */
    dsvk_error err;
};

static int close_or_wait(void *user, const char *stage, uint64_t done, uint64_t total) {
    struct closing *c = user;
    int32_t tokens[256];
    (void)stage, (void)done, (void)total;
    atomic_fetch_add(&c->calls, 1);
    c->tokens_busy = dsvk_session_tokens(c->session, tokens, NULL) == DSVK_BUSY;
    atomic_store(&c->begun, true);
    if (c->inside)
        dsvk_session_close(c->session);
    return 0;
}

static void *decode_long(void *user) {
    struct closing *c = user;
    int32_t ids[200];
    size_t n;
    c->status = dsvk_session_decode(c->session, 200, NULL, ids, &n, &c->err);
    return NULL;
}

static dsvk_session *open_closing(dsvk_model *model, struct closing *c, bool in_callback) {
    dsvk_error err;
    const dsvk_session_options options = { .size = sizeof options, .context = 256, .progress = close_or_wait, .user = c };
    *c = (struct closing){ .inside = false };
    CHECK(dsvk_session_open(&c->session, model, &options, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_sync(c->session, prompt, N_PROMPT, &err) == DSVK_OK, "%s", err.message);
    c->inside = in_callback;
    atomic_store(&c->begun, false);
    atomic_store(&c->calls, 0);
    return c->session;
}

static void test_A05_closed_inside_its_own_call(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device);
    struct closing c;
    dsvk_poll_result result;
    dsvk_error err;
    open_closing(model, &c, true);
    decode_long(&c);
    CHECK_REFUSED(c.status, DSVK_CANCELLED, &c.err, "cancelled after|the session stands at token");
    CHECK(c.calls == 1 && c.tokens_busy, "%d calls of a callback whose session is closed", (int)c.calls);
    dsvk_session *s = open_closing(model, &c, true);
    CHECK(dsvk_session_begin(s, prompt, N_PROMPT, 100, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK_REFUSED(dsvk_session_poll(s, 1000000, &result, &err), DSVK_CANCELLED, &err, "cancelled");
    CHECK(c.calls == 1, "%d calls of a callback whose session is closed", (int)c.calls);
    dsvk_model_close(model);
    dsvk_device_close(device);
}

static void test_A05_closed_from_another_thread(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device);
    struct closing c;
    pthread_t thread;
    dsvk_session *s = open_closing(model, &c, false);
    CHECK(pthread_create(&thread, NULL, decode_long, &c) == 0, "a thread");
    while (!atomic_load(&c.begun))
        sched_yield();
    dsvk_session_close(s); /* nothing of the session runs any more when it returns */
    const int calls = c.calls;
    dsvk_model_close(model);
    dsvk_device_close(device);
    CHECK(pthread_join(thread, NULL) == 0 && c.calls == calls && c.tokens_busy, "%d calls of the callback, then %d", calls, (int)c.calls);
    CHECK_REFUSED(c.status, DSVK_CANCELLED, &c.err, "cancelled after");
}

static void test_A03_closed_in_any_order(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device);
    dsvk_session *a = open_session(model), *b = open_session(model);
    dsvk_error err;
    int32_t id;
    size_t n;
    dsvk_device_close(device);
    dsvk_model_close(model); /* the sessions keep both */
    dsvk_session_close(a);
    CHECK(dsvk_session_sync(b, prompt, N_PROMPT, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_decode(b, 1, NULL, &id, &n, &err) == DSVK_OK && n == 1, "%s", err.message);
    dsvk_session_close(b);
}

static void test_a_model_with_a_device_of_its_own(void) {
    dsvk_model *model = NULL;
    dsvk_session *session = NULL;
    dsvk_error err;
    int32_t id;
    size_t n;
    CHECK(dsvk_model_open(&model, NULL, DSVK_NANO, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_open(&session, model, NULL, &err) == DSVK_OK, "%s", err.message);
    dsvk_model_close(model); /* the session keeps both */
    CHECK(dsvk_session_sync(session, prompt, 3, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_decode(session, 1, NULL, &id, &n, &err) == DSVK_OK && n == 1, "%s", err.message);
    dsvk_session_close(session);
}

static void test_two_models_on_two_devices(void) {
    dsvk_device *devices[2] = { open_device(), open_device() };
    dsvk_model *models[2] = { open_nano(devices[0]), open_nano(devices[1]) };
    dsvk_session *sessions[2] = { open_session(models[0]), open_session(models[1]) };
    dsvk_error err;
    int32_t ids[2][6];
    size_t n, counts[2];
    for (int i = 0; i < 2; i++) {
        CHECK(dsvk_session_sync(sessions[i], prompt, N_PROMPT, &err) == DSVK_OK, "%s", err.message);
        CHECK(dsvk_session_decode(sessions[i], 6, NULL, ids[i], &n, &err) == DSVK_OK, "%s", err.message);
    }
    CHECK(memcmp(ids[0], ids[1], sizeof ids[0]) == 0, "two devices of one kind gave different tokens");
    CHECK_REFUSED(dsvk_decode_batch(sessions, 2, 1, NULL, ids[0], counts, &err), DSVK_INVALID, &err, "another model");
    for (int i = 0; i < 2; i++) {
        dsvk_session_close(sessions[i]);
        dsvk_model_close(models[i]);
        dsvk_device_close(devices[i]);
    }
}

static void test_small_answers(void) {
    dsvk_error err;
    dsvk_device *device = (dsvk_device *)1;
    dsvk_model *model = (dsvk_model *)1;
    dsvk_session *session = (dsvk_session *)1;
    dsvk_scheduler *scheduler = (dsvk_scheduler *)1;
    dsvk_tokenizer *tokenizer = (dsvk_tokenizer *)1;
    dsvk_decoder *decoder = (dsvk_decoder *)1;
    dsvk_chat_parser *parser = (dsvk_chat_parser *)1;
    dsvk_tensor *tensor = (dsvk_tensor *)1;
    const dsvk_device_options older = { .size = 1 };
    CHECK(dsvk_device_open(&device, &older, &err) == DSVK_INVALID && !device, "a device that was not opened");
    CHECK(dsvk_model_open(&model, NULL, NULL, NULL, &err) == DSVK_INVALID && !model, "a model that was not opened");
    CHECK(dsvk_session_open(&session, NULL, NULL, &err) == DSVK_INVALID && !session, "a session that was not opened");
    CHECK(dsvk_scheduler_open(&scheduler, NULL, NULL, &err) == DSVK_INVALID && !scheduler, "a scheduler that was not opened");
    CHECK(dsvk_tokenizer_open(&tokenizer, NULL, &err) == DSVK_INVALID && !tokenizer, "a tokenizer that was not opened");
    CHECK(dsvk_decoder_open(&decoder, NULL, &err) == DSVK_INVALID && !decoder, "a decoder that was not opened");
    CHECK(dsvk_chat_parser_open(&parser, 2, &err) == DSVK_INVALID && !parser, "a parser that was not opened");
    CHECK(dsvk_tensor_open(&tensor, NULL, NULL, &err) == DSVK_INVALID && !tensor, "a tensor that was not opened");

    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", DSVK_VERSION_MAJOR, DSVK_VERSION_MINOR, DSVK_VERSION_PATCH);
    CHECK(strcmp(dsvk_version(), version) == 0, "%s", dsvk_version());
    CHECK(strcmp(dsvk_status_text(DSVK_FORMAT), "malformed file") == 0, "%s", dsvk_status_text(DSVK_FORMAT));
    CHECK(dsvk_status_text((dsvk_status)99) != NULL && dsvk_status_name((dsvk_status)-1) != NULL, "of no status");
    dsvk_session_options options = { .size = sizeof options, .context = 300 };
    CHECK(dsvk_model_open(&model, NULL, DSVK_NANO, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_open(&session, model, &options, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_context(session) == 300 && dsvk_session_position(session) == 0, "%llu", (unsigned long long)dsvk_session_context(session));
    const dsvk_tokenizer *own = dsvk_model_tokenizer(model);
    const int32_t think = dsvk_tokenizer_id(own, "<think>", 7), letter = dsvk_tokenizer_id(own, "a", 1);
    CHECK(dsvk_tokenizer_is_added(own, think) == 1 && dsvk_tokenizer_is_special(own, think) == 0, "<think> is %d", think);
    CHECK(dsvk_tokenizer_is_added(own, letter) == 0 && dsvk_tokenizer_is_added(own, -1) == 0, "a is %d", letter);
    dsvk_session_close(session);
    dsvk_model_close(model);
}

/* Opens, syncs, decodes and closes with host memory failing from allocation `at` on; true when nothing failed any more. */
static bool life_of_a_session(dsvk_model *model, int64_t at, int32_t *id) {
    dsvk_session *session = NULL;
    dsvk_error err = { .status = DSVK_OK };
    size_t n = 0;
    dsvk_session_options options = { .size = sizeof options, .context = 256 };
    dsvk_alloc_fail_after(at);
    dsvk_status status = dsvk_session_open(&session, model, &options, &err);
    if (status == DSVK_OK)
        status = dsvk_session_sync(session, prompt, N_PROMPT, &err);
    if (status == DSVK_OK)
        status = dsvk_session_decode(session, 1, NULL, id, &n, &err);
    dsvk_alloc_fail_after(-1);
    CHECK(status == DSVK_OK || status == DSVK_NOMEM, "allocation %lld: %s", (long long)at, err.message);
    dsvk_session_close(session);
    return status == DSVK_OK;
}

static void test_A06_every_allocation_of_a_session(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device);
    int32_t id = -1, wanted = -1;
    CHECK(life_of_a_session(model, 1 << 20, &wanted), "without failures it works");
    int64_t at = 0;
    while (at < 200 && !life_of_a_session(model, at, &id))
        at++;
    CHECK(at > 0 && at < 200 && id == wanted, "%lld allocations failed one after the other, then the token was %d, not %d",
          (long long)at, id, wanted);
    dsvk_model_close(model);
    dsvk_device_close(device);
}

/* Every one of the first allocations, then some: opening a model makes as many as it has tensors. */
static void test_A06_allocations_of_a_model(void) {
    dsvk_device *device = open_device();
    dsvk_model_options options = { .size = sizeof options, .max_chunk = 16, .threads = 1 };
    dsvk_error err;
    bool done = false;
    for (int64_t at = 0; !done && at < 100000; at += at < 24 ? 1 : at / 3) {
        dsvk_model *model = NULL;
        dsvk_alloc_fail_after(at);
        dsvk_status status = dsvk_model_open(&model, device, DSVK_NANO, &options, &err);
        dsvk_alloc_fail_after(-1);
        CHECK(status == DSVK_OK || status == DSVK_NOMEM, "allocation %lld: %s %s", (long long)at, dsvk_status_name(status),
              err.message);
        CHECK((model != NULL) == (status == DSVK_OK), "allocation %lld left a model behind", (long long)at);
        done = status == DSVK_OK;
        dsvk_model_close(model);
    }
    CHECK(done, "the model never opened");
    dsvk_device_close(device);
}

/* A chunk larger than the step's arrays finds no memory for larger ones: the old ones go on serving. */
static void test_A06_growing_a_step(void) {
    enum { ROWS = 40 };
    dsvk_device *device = open_device();
    dsvk_model *model = NULL;
    dsvk_error err;
    dsvk_model_options options = { .size = sizeof options, .max_chunk = ROWS };
    CHECK(dsvk_model_open(&model, device, DSVK_NANO, &options, &err) == DSVK_OK, "%s", err.message);
    dsvk_session *grown = open_session(model), *small = open_session(model);
    int32_t many[ROWS] = { 0 }, id;
    size_t n;
    bool done = false;
    CHECK(dsvk_session_sync(small, prompt, N_PROMPT, &err) == DSVK_OK, "%s", err.message);
    for (int64_t at = 0; !done && at < 200; at++) {
        dsvk_alloc_fail_after(at);
        dsvk_status status = dsvk_session_sync(grown, many, ROWS, &err);
        dsvk_alloc_fail_after(-1);
        done = status == DSVK_OK;
        CHECK(done || status == DSVK_NOMEM, "allocation %lld: %s", (long long)at, err.message);
        CHECK(dsvk_session_decode(small, 1, NULL, &id, &n, &err) == DSVK_OK, "after allocation %lld: %s", (long long)at,
              err.message);
    }
    CHECK(done, "the chunk never went through");
    CHECK_REFUSED(dsvk_session_decode(small, SIZE_MAX, NULL, &id, &n, &err), DSVK_LIMIT, &err, "context of 256");
    dsvk_session_close(grown);
    dsvk_session_close(small);
    dsvk_model_close(model);
    dsvk_device_close(device);
}

static void test_decoding_allocates_nothing(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device);
    dsvk_session *sessions[3] = { open_session(model), open_session(model), open_session(model) };
    dsvk_error err;
    int32_t ids[3 * 8];
    size_t n[3];
    for (int i = 0; i < 3; i++)
        CHECK(dsvk_session_sync(sessions[i], prompt, N_PROMPT, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_decode_batch(sessions, 3, 1, NULL, ids, n, &err) == DSVK_OK, "%s", err.message); /* builds pipelines */
    dsvk_alloc_fail_after(0);
    dsvk_status status = dsvk_decode_batch(sessions, 3, 8, NULL, ids, n, &err);
    int64_t made = dsvk_alloc_fail_after(-1);
    CHECK(status == DSVK_OK && made == 0, "%lld allocations: %s", (long long)made, status ? err.message : "");
    for (int i = 0; i < 3; i++)
        dsvk_session_close(sessions[i]);
    dsvk_model_close(model);
    dsvk_device_close(device);
}

struct worker {
    pthread_t thread;
    dsvk_model *model;
    int32_t ids[6];
    bool ok;
};

static void *work(void *argument) {
    struct worker *w = argument;
    dsvk_session *session = NULL;
    dsvk_session_options options = { .size = sizeof options, .context = 64 };
    size_t n = 0;
    w->ok = dsvk_session_open(&session, w->model, &options, NULL) == DSVK_OK &&
            dsvk_session_sync(session, prompt, N_PROMPT, NULL) == DSVK_OK &&
            dsvk_session_decode(session, 6, NULL, w->ids, &n, NULL) == DSVK_OK && n == 6;
    dsvk_session_close(session);
    return NULL;
}

static void test_A15_sessions_on_threads(void) {
    dsvk_device *device = open_device();
    dsvk_model *model = open_nano(device);
    struct worker workers[8] = { { .ok = false } };
    for (int i = 0; i < 8; i++) {
        workers[i].model = model;
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0, "a thread");
    }
    for (int i = 0; i < 8; i++)
        pthread_join(workers[i].thread, NULL);
    for (int i = 0; i < 8; i++)
        CHECK(workers[i].ok && memcmp(workers[i].ids, workers[0].ids, sizeof workers[0].ids) == 0, "thread %d", i);
    dsvk_model_close(model);
    dsvk_device_close(device);
}

/* Core and synchronization validation over everything a session does; skipped, and said so, where the layer is not there. */
/* With less memory smaller buffers are copied, with next to none it says so; nothing stays behind. */
static void test_measuring_a_device(void) {
    dsvk_device *device = NULL;
    dsvk_error err;
    dsvk_device_options options = { .size = sizeof options, .budget[DSVK_SCRATCH] = 40 << 20 };
    char *text = NULL;
    CHECK(dsvk_device_open(&device, &options, &err) == DSVK_OK, "%s", err.message);
    CHECK_REFUSED(dsvk_device_measure(NULL, &text, NULL, NULL, &err), DSVK_INVALID, &err, "device");
    CHECK_REFUSED(dsvk_device_measure(device, NULL, NULL, NULL, &err), DSVK_INVALID, &err, "json");
    CHECK(dsvk_device_measure(device, &text, NULL, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK(text && strstr(text, "16777216"), "two buffers of 16 MiB fit into 40: %s", text);
    CHECK(dsvk_purpose_used(device, DSVK_SCRATCH) == 0, "scratch memory stays behind");
    dsvk_free(text);
    dsvk_device_close(device);
    options.budget[DSVK_SCRATCH] = 1 << 20;
    CHECK(dsvk_device_open(&device, &options, &err) == DSVK_OK, "%s", err.message);
    CHECK_REFUSED(dsvk_device_measure(device, &text, NULL, NULL, &err), DSVK_DEVMEM, &err, "measured copy");
    CHECK(dsvk_purpose_used(device, DSVK_SCRATCH) == 0, "scratch memory stays behind");
    dsvk_device_close(device);
}

static void test_validation_has_nothing_to_say(void) {
    dsvk_device *device = NULL;
    dsvk_error err;
    dsvk_device_options options = { .size = sizeof options, .cache_dir = "", .validation = 1 };
    if (dsvk_device_open(&device, &options, &err) != DSVK_OK) {
        printf("  skipped: %s\n", err.message);
        return;
    }
    dsvk_model *model = open_nano(device);
    dsvk_session *session = open_session(model);
    int32_t ids[140], out[4];
    size_t n;
    for (int i = 0; i < 140; i++)
        ids[i] = 20 + i * 7 % 400;
    CHECK(dsvk_session_sync(session, ids, 140, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_decode(session, 4, NULL, out, &n, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_sync(session, ids, 138, &err) == DSVK_OK, "%s", err.message);
    dsvk_session_close(session);
    dsvk_model_close(model);
    char first[400] = "";
    uint32_t messages = dsvk_device_validation_messages(device, first, sizeof first);
    CHECK(messages == 0, "%u validation messages, the first: %s", messages, first);
    dsvk_device_close(device);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(test_a_token_sequence),
        TEST(test_A01_arguments),
        TEST(test_A01_options_are_checked_alike),
        TEST(test_A01_counts_before_arrays),
        TEST(test_A05_closed_inside_its_own_call),
        TEST(test_A05_closed_from_another_thread),
        TEST(test_A03_closed_in_any_order),
        TEST(test_small_answers), TEST(test_a_model_with_a_device_of_its_own),
        TEST(test_two_models_on_two_devices),
        TEST(test_A06_every_allocation_of_a_session),
        TEST(test_A06_allocations_of_a_model),
        TEST(test_A06_growing_a_step),
        TEST(test_decoding_allocates_nothing),
        TEST(test_A15_sessions_on_threads),
        TEST(test_measuring_a_device),
        TEST(test_validation_has_nothing_to_say),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
