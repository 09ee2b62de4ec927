/* Work in slices: the same tokens and, bit for bit, the same logits as sync and decode give one token at a time; a slice never
 * larger than asked for. Budgets of 0 make every slice a layer, the head, or the choice of a token, whatever the machine's speed.
 * Edge list: a goal of one token, of
 * nothing to decode, reached already; a timeline that shares nothing, all, or more than the rings can take back; a timeline moved
 * between polls; two sessions in turns; stops; logits that are gone; cancelling; no host memory; polling inside a callback.
 */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "harness_files.h"

#define VOCAB 4096 /* at least the model's */
#define N 29       /* tokens of the prefix */
#define M 7        /* ... and decoded */

static uint32_t parts(const dsvk_model *model) { return model->config.n_layers + 1; } /* of a step of one token */

static dsvk_model *open_model(void) {
    dsvk_device *device = NULL;
    dsvk_model *model = NULL;
    dsvk_error err;
    const dsvk_model_options options = { .size = sizeof options, .max_chunk = 16, .page_tokens = 128 };
    CHECK(dsvk_device_open(&device, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_model_open(&model, device, DSVK_NANO, &options, &err) == DSVK_OK, "%s", err.message);
    dsvk_device_close(device);
    return model;
}

static dsvk_session *open_session(dsvk_model *model, dsvk_progress_fn progress, void *user) {
    dsvk_session *s = NULL;
    dsvk_error err;
    const dsvk_session_options options = { .size = sizeof options, .context = 300, .progress = progress, .user = user };
    CHECK(dsvk_session_open(&s, model, &options, &err) == DSVK_OK, "%s", err.message);
    return s;
}

static void fill_prefix(int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(3 + i * 7 % 400);
}

static void read_logits(dsvk_session *s, float *logits) {
    dsvk_error err;
    memset(logits, 0, VOCAB * sizeof *logits);
    CHECK(dsvk_session_logits(s, logits, &err) == DSVK_OK, "%s", err.message);
}

/* What one token at a time gives: ids [M] and the logits after them. */
static void one_by_one(dsvk_model *model, const int32_t *prefix, const dsvk_sample_options *options, int32_t *ids, float *logits) {
    dsvk_session *s = open_session(model, NULL, NULL);
    dsvk_error err;
    size_t n;
    CHECK(dsvk_session_evaluate(s, prefix, N, 1, NULL, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_decode(s, M, options, ids, &n, &err) == DSVK_OK && n == M, "%s", err.message);
    read_logits(s, logits);
    dsvk_session_close(s);
}

/* Polls without time until the goal is reached: how often, and which tokens came. */
static size_t poll_all(dsvk_session *s, int32_t *ids, size_t *n_ids) {
    dsvk_poll_result result = { 0 };
    dsvk_error err;
    size_t polls = 0;
    *n_ids = 0;
    while (!result.finished && polls < 1000) {
        const uint64_t before = s->n;
        if (!CHECK(dsvk_session_poll(s, 0, &result, &err) == DSVK_OK, "%s", err.message))
            break;
        polls++;
        CHECK(s->n <= before + 1, "poll %zu went from token %d to %d", polls, (int)before, (int)s->n);
        CHECK(result.n_tokens <= 1 && *n_ids + result.n_tokens <= M, "poll %zu tells of %zu tokens", polls, result.n_tokens);
        memcpy(ids + *n_ids, result.tokens, result.n_tokens * sizeof *ids);
        *n_ids += result.n_tokens;
    }
    return polls;
}

static void test_same_as_one_by_one(void) {
    static float want[VOCAB], got[VOCAB];
    int32_t prefix[N], want_ids[M], ids[M];
    size_t n;
    dsvk_error err;
    dsvk_model *model = open_model();
    fill_prefix(prefix, N);
    for (int warm = 0; warm < 2; warm++) {
        const dsvk_sample_options options = { .size = sizeof options, .temperature = 0.9f * (float)warm, .seed = 5 };
        one_by_one(model, prefix, &options, want_ids, want);
        dsvk_session *s = open_session(model, NULL, NULL);
        CHECK(dsvk_session_begin(s, prefix, N, M, &options, &err) == DSVK_OK, "%s", err.message);
        CHECK(s->n == 0, "beginning computes nothing");
        const size_t polls = poll_all(s, ids, &n);
        CHECK(polls == (N + M) * parts(model) + M && n == M, "%zu polls, %zu tokens", polls, n);
        CHECK(memcmp(ids, want_ids, sizeof ids) == 0, "other tokens");
        read_logits(s, got);
        CHECK(memcmp(got, want, sizeof got) == 0, "other logits");
        dsvk_session_close(s);
    }
    dsvk_model_close(model);
}

static void test_from_any_timeline(void) {
    static const struct {
        size_t common, other; /* tokens shared with the goal's prefix, and others after them */
        size_t steps;         /* of the prefix */
    } cases[] = {
        { 0, 0, N }, { 0, 40, N }, { N, 0, 0 }, { N - 5, 0, 5 }, { N - 5, 3, 5 }, { N, 4, 1 }, { N - 5, 20, N },
    };
    int32_t prefix[N], timeline[N + 40], want[M], ids[M];
    static float logits[VOCAB];
    size_t n;
    dsvk_error err;
    dsvk_model *model = open_model();
    fill_prefix(prefix, N);
    one_by_one(model, prefix, NULL, want, logits);
    for (size_t i = 0; i < DSVK_COUNT(cases); i++) {
        dsvk_session *s = open_session(model, NULL, NULL);
        memcpy(timeline, prefix, sizeof prefix);
        for (size_t j = 0; j < cases[i].other; j++)
            timeline[cases[i].common + j] = 500;
        CHECK(dsvk_session_evaluate(s, timeline, cases[i].common + cases[i].other, 1, NULL, NULL, &err) == DSVK_OK, "%s", err.message);
        CHECK(dsvk_session_begin(s, prefix, N, M, NULL, &err) == DSVK_OK, "%s", err.message);
        const size_t polls = poll_all(s, ids, &n);
        CHECK(polls == (cases[i].steps + M) * parts(model) + M, "%zu shared, %zu others: %zu polls", cases[i].common, cases[i].other, polls);
        CHECK(n == M && memcmp(ids, want, sizeof ids) == 0, "%zu shared, %zu others: other tokens", cases[i].common, cases[i].other);
        dsvk_session_close(s);
    }
    dsvk_model_close(model);
}

static void test_moved_between_polls(void) {
    static float logits[VOCAB];
    int32_t prefix[N], elsewhere[3] = { 9, 8, 7 }, want[M], ids[M];
    size_t n = 0;
    bool moved[4] = { false };
    dsvk_error err;
    dsvk_poll_result result = { 0 };
    dsvk_model *model = open_model();
    dsvk_session *s = open_session(model, NULL, NULL);
    fill_prefix(prefix, N);
    one_by_one(model, prefix, NULL, want, logits);
    CHECK(dsvk_session_begin(s, prefix, N, M, NULL, &err) == DSVK_OK, "%s", err.message);
    for (int poll = 0; !result.finished && poll < 2000; poll++) {
        const bool inside = s->goal.part.ticket != 0; /* a step has begun */
        if (!moved[0] && s->n == 10 && inside) {
            moved[0] = true;
            CHECK(dsvk_session_sync(s, elsewhere, 3, &err) == DSVK_OK, "%s", err.message);
        } else if (!moved[1] && s->n == 12 && inside) {
            moved[1] = true;
            read_logits(s, logits); /* those of token 12 are there still */
        } else if (!moved[2] && n == 3 && inside) {
            moved[2] = true;
            CHECK(dsvk_session_sync(s, elsewhere, 0, &err) == DSVK_OK, "%s", err.message);
        } else if (!moved[3] && n == 5) {
            moved[3] = true;
            s->have_logits = false;
        }
        CHECK(dsvk_session_poll(s, 0, &result, &err) == DSVK_OK, "%s", err.message);
        memcpy(ids + n, result.tokens, result.n_tokens * sizeof *ids);
        n += result.n_tokens;
    }
    CHECK(moved[0] && moved[1] && moved[2] && moved[3], "not everything was tried");
    CHECK(result.finished && n == M && memcmp(ids, want, sizeof ids) == 0, "%zu tokens, or other ones", n);
    dsvk_session_close(s);
    dsvk_model_close(model);
}

/* Two sessions whose every slice interrupts the other's step: both get on, by steps that are not interrupted. */
static void test_two_in_turns(void) {
    static float logits[VOCAB];
    int32_t prefix[N], want[M], ids[2][M];
    size_t n[2] = { 0 };
    dsvk_error err;
    dsvk_poll_result result[2] = { { 0 } };
    dsvk_model *model = open_model();
    dsvk_session *s[2] = { open_session(model, NULL, NULL), open_session(model, NULL, NULL) };
    fill_prefix(prefix, N);
    one_by_one(model, prefix, NULL, want, logits);
    for (int i = 0; i < 2; i++)
        CHECK(dsvk_session_begin(s[i], prefix, N, M, NULL, &err) == DSVK_OK, "%s", err.message);
    for (int poll = 0; !(result[0].finished && result[1].finished) && poll < 2000; poll++) {
        const int i = poll % 2;
        CHECK(dsvk_session_poll(s[i], 0, &result[i], &err) == DSVK_OK, "%s", err.message);
        memcpy(ids[i] + n[i], result[i].tokens, result[i].n_tokens * sizeof *ids[i]);
        n[i] += result[i].n_tokens;
    }
    for (int i = 0; i < 2; i++) {
        CHECK(result[i].finished && n[i] == M && memcmp(ids[i], want, sizeof want) == 0, "session %d: %zu tokens, or other ones", i,
              n[i]);
        dsvk_session_close(s[i]);
    }
    dsvk_model_close(model);
}

static void test_ends(void) {
    static float logits[VOCAB];
    int32_t prefix[N], want[M], ids[M];
    size_t n;
    dsvk_error err;
    dsvk_poll_result result;
    dsvk_model *model = open_model();
    dsvk_session *s = open_session(model, NULL, NULL);
    fill_prefix(prefix, N);
    one_by_one(model, prefix, NULL, want, logits);

    dsvk_sample_options options = { .size = sizeof options, .stop = &want[3], .n_stop = 1 };
    size_t first = 0;
    while (want[first] != want[3])
        first++;
    CHECK(dsvk_session_begin(s, prefix, N, M, &options, &err) == DSVK_OK, "%s", err.message);
    options.stop = NULL; /* begin has a copy */
    poll_all(s, ids, &n);
    CHECK(n == first + 1 && ids[n - 1] == want[3], "%zu tokens", n);
    CHECK(dsvk_session_poll(s, 1000000, &result, &err) == DSVK_OK && result.finished && result.stopped && result.n_tokens == 0,
          "nothing is left");

    CHECK(dsvk_session_begin(s, prefix, N, 0, NULL, &err) == DSVK_OK, "%s", err.message);
    poll_all(s, ids, &n);
    CHECK(n == 0 && s->n == N && s->have_logits, "at the prefix");
    CHECK(dsvk_session_begin(s, prefix, 1, 1, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_session_poll(s, 60000000, &result, &err) == DSVK_OK && result.finished && result.n_tokens == 1 && s->n == 2,
          "all in one poll with enough time: %s", err.message);
    dsvk_session_close(s);
    dsvk_model_close(model);
}

/* With time, slices grow: fewer polls, the same number of tokens, none larger than a chunk. */
static void test_slices_grow(void) {
    static int32_t prefix[250];
    dsvk_error err;
    dsvk_poll_result result = { 0 };
    dsvk_model *model = open_model();
    dsvk_session *s = open_session(model, NULL, NULL);
    fill_prefix(prefix, 250);
    CHECK(dsvk_session_begin(s, prefix, 250, 40, NULL, &err) == DSVK_OK, "%s", err.message);
    size_t polls = 0, n = 0;
    for (; !result.finished && polls < 1000; polls++) {
        s->goal.prefill = s->n < 250 ? (dsvk_pace){ 8, 0.0099 } : s->goal.prefill; /* as if measured: 16 rows fit */
        s->goal.decode = (dsvk_pace){ 4, 0.0099 };
        const uint64_t before = s->n;
        CHECK(dsvk_session_poll(s, 20000, &result, &err) == DSVK_OK, "%s", err.message);
        CHECK(s->n >= before, "token %d after %d", (int)s->n, (int)before);
        n += result.n_tokens;
    }
    CHECK(n == 40 && polls <= 16 + 5, "%zu tokens, %zu polls", n, polls);
    dsvk_session_close(s);
    dsvk_model_close(model);
}

static void test_A01_arguments(void) {
    int32_t prefix[N] = { 0 }, wrong[] = { 1, 99999 };
    dsvk_error err;
    dsvk_poll_result result;
    dsvk_model *model = open_model();
    dsvk_session *s = open_session(model, NULL, NULL);
    const dsvk_sample_options hot = { .size = sizeof hot, .temperature = -1 }, old = { .size = 1 };
    CHECK_REFUSED(dsvk_session_poll(s, 0, &result, &err), DSVK_STATE, &err, "goal");
    CHECK_REFUSED(dsvk_session_poll(NULL, 0, &result, &err), DSVK_INVALID, &err, "session");
    CHECK_REFUSED(dsvk_session_poll(s, 0, NULL, &err), DSVK_INVALID, &err, "result");
    CHECK_REFUSED(dsvk_session_begin(NULL, prefix, N, 0, NULL, &err), DSVK_INVALID, &err, "session");
    CHECK_REFUSED(dsvk_session_begin(s, NULL, N, 0, NULL, &err), DSVK_INVALID, &err, "tokens");
    CHECK_REFUSED(dsvk_session_begin(s, prefix, 0, 5, NULL, &err), DSVK_INVALID, &err, "one token");
    CHECK_REFUSED(dsvk_session_begin(s, wrong, 2, 5, NULL, &err), DSVK_INVALID, &err, "token 1|99999");
    CHECK_REFUSED(dsvk_session_begin(s, prefix, N, 300 - N + 1, NULL, &err), DSVK_LIMIT, &err, "301|300");
    CHECK_REFUSED(dsvk_session_begin(s, prefix, N, SIZE_MAX, NULL, &err), DSVK_LIMIT, &err, "300");
    CHECK_REFUSED(dsvk_session_begin(s, prefix, N, 1, &hot, &err), DSVK_INVALID, &err, "temperature|-1");
    CHECK_REFUSED(dsvk_session_begin(s, prefix, N, 1, &old, &err), DSVK_INVALID, &err, "size 1");
    CHECK_REFUSED(dsvk_session_poll(s, 0, &result, &err), DSVK_STATE, &err, "goal");
    CHECK(dsvk_session_begin(s, prefix, N, 300 - N, NULL, &err) == DSVK_OK, "%s", err.message);
    dsvk_session_close(s);
    dsvk_model_close(model);
}

struct inside {
    dsvk_session *session;
    dsvk_status poll, begin;
    bool cancel;
};

static int call_inside(void *user, const char *stage, uint64_t done, uint64_t total) {
    struct inside *in_call = user;
    int32_t token = 1;
    dsvk_poll_result result;
    (void)stage, (void)done, (void)total;
    in_call->poll = dsvk_session_poll(in_call->session, 0, &result, NULL);
    in_call->begin = dsvk_session_begin(in_call->session, &token, 1, 0, NULL, NULL);
    if (in_call->cancel)
        dsvk_session_cancel(in_call->session);
    return 0;
}

static dsvk_status begin_inside(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words,
                                dsvk_error *err) {
    struct inside *in_call = user;
    const int32_t token = 1;
    (void)choice, (void)tokens, (void)n, (void)n_words, (void)err;
    in_call->begin = dsvk_session_begin(in_call->session, &token, 1, 0, NULL, NULL);
    words[0] = 2;
    return DSVK_OK;
}

static void test_A04_inside_a_callback(void) {
    static float logits[VOCAB];
    int32_t prefix[N], want[M], ids[M];
    size_t n;
    dsvk_error err;
    dsvk_poll_result result;
    struct inside in_call = { .cancel = true };
    dsvk_model *model = open_model();
    dsvk_session *s = in_call.session = open_session(model, call_inside, &in_call);
    fill_prefix(prefix, N);
    one_by_one(model, prefix, NULL, want, logits);
    CHECK(dsvk_session_begin(s, prefix, N, M, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK_REFUSED(dsvk_session_poll(s, 0, &result, &err), DSVK_CANCELLED, &err, "cancelled");
    CHECK(in_call.poll == DSVK_BUSY && in_call.begin == DSVK_BUSY, "polling in a poll: %d and %d", in_call.poll, in_call.begin);
    in_call.cancel = false;
    poll_all(s, ids, &n);
    CHECK(n == M && memcmp(ids, want, sizeof ids) == 0, "the goal is kept");
    const dsvk_sample_options masked = { .size = sizeof masked, .mask = begin_inside, .mask_user = &in_call };
    CHECK(dsvk_session_begin(s, prefix, N, M, NULL, &err) == DSVK_OK, "%s", err.message);
    in_call.begin = DSVK_OK;
    CHECK(dsvk_session_sync(s, prefix, N, &err) == DSVK_OK && dsvk_session_decode(s, 1, &masked, ids, &n, &err) == DSVK_OK, "%s", err.message);
    CHECK(in_call.begin == DSVK_BUSY, "beginning in the mask of a decode: %d", in_call.begin);
    poll_all(s, ids, &n);
    CHECK(n == M && memcmp(ids, want, sizeof ids) == 0, "the goal is kept there too");
    dsvk_session_close(s);
    dsvk_model_close(model);
}

static void test_A06_allocations(void) {
    int32_t prefix[N], ids[M];
    size_t n;
    dsvk_error err;
    dsvk_model *model = open_model();
    dsvk_session *s = open_session(model, NULL, NULL);
    fill_prefix(prefix, N);
    const dsvk_sample_options options = { .size = sizeof options, .stop = prefix, .n_stop = 1 };
    CHECK(dsvk_session_begin(s, prefix, N, M, NULL, &err) == DSVK_OK, "%s", err.message);
    poll_all(s, ids, &n);
    const int64_t live = dsvk_alloc_live();
    for (int64_t i = 0; i < 2; i++) {
        dsvk_alloc_fail_after(i);
        CHECK_REFUSED(dsvk_session_begin(s, prefix, N, M, &options, &err), DSVK_NOMEM, &err, "memory");
        dsvk_alloc_fail_after(-1);
        CHECK(dsvk_alloc_live() == live, "allocation %d", (int)i);
    }
    CHECK(dsvk_session_begin(s, prefix, N, M, NULL, &err) == DSVK_OK, "%s", err.message);
    dsvk_alloc_fail_after(0);
    poll_all(s, ids, &n); /* what the model needs for these sizes it has */
    dsvk_alloc_fail_after(-1);
    CHECK(n == M, "%zu tokens without memory", n);
    dsvk_session_close(s);
    dsvk_model_close(model);
}

int main(int argc, char **argv) {
    const struct test tests[] = {
        TEST(test_same_as_one_by_one), TEST(test_from_any_timeline), TEST(test_moved_between_polls), TEST(test_two_in_turns), TEST(test_ends),
        TEST(test_slices_grow),        TEST(test_A01_arguments),     TEST(test_A04_inside_a_callback), TEST(test_A06_allocations),
    };
    return run_tests(tests, DSVK_COUNT(tests), argc, argv);
}
