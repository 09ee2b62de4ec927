/* Masks, penalties and biases from C: who is asked what and when, alone, in a batch, in slices and in a scheduler; what a failing
 * function does; a mask that wakes late; every allocation failing once. Which tokens come out of it is in tests/ops and
 * tests/python/test_constrain.py. */
#include <math.h>
#include <string.h>

#include "engine.h"
#include "harness_files.h"

enum { ALLOWED = 300, N_ALLOWED = 20, N = 6 };

static const int32_t prefix[] = { 5, 6, 7, 8, 9, 10, 11, 12 };

/* A mask that allows N_ALLOWED ids from ALLOWED on, and what it was asked. */
struct asked {
    uint32_t calls, choices; /* bit i: of choice i */
    size_t last_n, fail_at;  /* length of the timeline; where it fails, 0: nowhere */
    int32_t last;
    bool nothing;
};

static dsvk_status mask(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words, dsvk_error *err) {
    struct asked *a = user;
    a->calls++;
    a->choices |= 1u << choice;
    a->last_n = n;
    a->last = tokens[n - 1];
    for (size_t i = 0; i < n_words; i++)
        CHECK(words[i] == 0, "word %zu is %x before the call", i, words[i]);
    if (a->fail_at == n)
        return dsvk_fail(err, DSVK_LIMIT, "enough of it at %zu", n);
    for (int32_t id = ALLOWED; !a->nothing && id < ALLOWED + N_ALLOWED; id++)
        words[id / 32] |= 1u << id % 32;
    return DSVK_OK;
}

static dsvk_sample_options masked(struct asked *asked) {
    return (dsvk_sample_options){ .size = sizeof(dsvk_sample_options), .temperature = 1, .seed = 3, .mask = mask, .mask_user = asked };
}

static dsvk_model *open_nano(void) {
    dsvk_device *device = NULL;
    dsvk_model *model = NULL;
    dsvk_error err;
    const dsvk_model_options options = { .size = sizeof options, .max_chunk = 64, .page_tokens = 128 };
    CHECK(dsvk_device_open(&device, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_model_open(&model, device, DSVK_NANO, &options, &err) == DSVK_OK, "%s", err.message);
    dsvk_device_close(device);
    return model;
}

static dsvk_session *open_at_prefix(dsvk_model *model) {
    dsvk_session *s = NULL;
    dsvk_error err;
    CHECK(dsvk_session_open(&s, model, &(dsvk_session_options){ .size = sizeof(dsvk_session_options), .context = 64 }, &err) == DSVK_OK,
          "%s", err.message);
    CHECK(dsvk_session_sync(s, prefix, DSVK_COUNT(prefix), &err) == DSVK_OK, "%s", err.message);
    return s;
}

static bool all_allowed(const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] < ALLOWED || ids[i] >= ALLOWED + N_ALLOWED)
            return false;
    return true;
}

static void test_a_session_asks_before_each_token(void) {
    dsvk_model *model = open_nano();
    dsvk_session *s = open_at_prefix(model);
    struct asked asked = { 0 };
    dsvk_sample_options options = masked(&asked);
    int32_t ids[N], again[N];
    size_t n;
    dsvk_error err;
    CHECK(dsvk_session_decode(s, N, &options, ids, &n, &err) == DSVK_OK && n == N, "%s", err.message);
    CHECK(all_allowed(ids, N), "not allowed");
    CHECK(asked.calls == N && asked.last_n == DSVK_COUNT(prefix) + N - 1 && asked.last == ids[N - 2], "%u calls, the last at %zu",
          asked.calls, asked.last_n);
    /* the same in slices, whatever their size */
    struct asked polled = { 0 };
    options = masked(&polled);
    dsvk_poll_result result = { 0 };
    CHECK(dsvk_session_begin(s, prefix, DSVK_COUNT(prefix), N, &options, &err) == DSVK_OK, "%s", err.message);
    for (n = 0; !result.finished; n += result.n_tokens) {
        CHECK(dsvk_session_poll(s, 2000, &result, &err) == DSVK_OK, "%s", err.message);
        memcpy(again + n, result.tokens, result.n_tokens * sizeof *again);
    }
    CHECK(n == N && memcmp(ids, again, sizeof ids) == 0, "other tokens when polled");
    /* a failure keeps what came before it, and the session goes on */
    asked = (struct asked){ .fail_at = DSVK_COUNT(prefix) + 2 };
    options = masked(&asked);
    CHECK(dsvk_session_sync(s, prefix, DSVK_COUNT(prefix), &err) == DSVK_OK, "%s", err.message);
    CHECK_REFUSED(dsvk_session_decode(s, N, &options, again, &n, &err), DSVK_LIMIT, &err, "enough of it at 10");
    CHECK(n == 2 && memcmp(ids, again, 2 * sizeof *ids) == 0 && dsvk_session_position(s) == asked.fail_at, "%zu came before", n);
    asked = (struct asked){ .nothing = true };
    CHECK_REFUSED(dsvk_session_decode(s, N, &options, again, &n, &err), DSVK_INVALID, &err, "allows no token at position 10");
    asked = (struct asked){ 0 };
    CHECK(dsvk_session_decode(s, N - 2, &options, again + 2, &n, &err) == DSVK_OK, "%s", err.message);
    CHECK(memcmp(ids, again, sizeof ids) == 0, "other tokens behind a failure");
    dsvk_session_close(s);
    dsvk_model_close(model);
}

static bool came_before(const int32_t *ids, uint32_t at) {
    for (uint32_t i = 0; i < at; i++)
        if (ids[i] == ids[at])
            return true;
    return false;
}

/* Rows with and without a mask, one that wakes late: each as if it were alone, and as many tokens for each. */
static void test_a_batch_of_all_kinds(void) {
    dsvk_model *model = open_nano();
    dsvk_session *sessions[3];
    struct asked asked[3] = { { 0 } };
    dsvk_sample_options options[3];
    int32_t free_run[N], alone[3][N], together[3 * N];
    size_t n[3];
    dsvk_error err;
    for (int i = 0; i < 3; i++)
        options[i] = masked(&asked[i]);
    options[0].mask = NULL;
    options[0].temperature = options[2].temperature = 0;
    sessions[0] = open_at_prefix(model);
    CHECK(dsvk_session_decode(sessions[0], N, &options[0], free_run, &n[0], &err) == DSVK_OK, "%s", err.message);
    dsvk_session_close(sessions[0]);
    uint32_t wake = 1; /* a token that did not come before */
    while (wake < N - 2 && came_before(free_run, wake))
        wake++;
    options[2].mask_after = free_run[wake];
    for (int i = 0; i < 3; i++) {
        sessions[i] = open_at_prefix(model);
        CHECK(dsvk_session_decode(sessions[i], N, &options[i], alone[i], &n[i], &err) == DSVK_OK && n[i] == N, "%s", err.message);
    }
    CHECK(memcmp(alone[2], free_run, (wake + 1) * sizeof *free_run) == 0 && all_allowed(alone[2] + wake + 1, N - wake - 1),
          "row 2 is masked too early or too late");
    CHECK(asked[2].calls == N - wake - 1 && all_allowed(alone[1], N), "%u calls of the mask that woke", asked[2].calls);
    for (int i = 0; i < 3; i++)
        CHECK(dsvk_session_sync(sessions[i], prefix, DSVK_COUNT(prefix), &err) == DSVK_OK, "%s", err.message);
    asked[1] = asked[2] = (struct asked){ 0 };
    CHECK(dsvk_decode_batch(sessions, 3, N, options, together, n, &err) == DSVK_OK, "%s", err.message);
    for (int i = 0; i < 3; i++)
        CHECK(n[i] == N && memcmp(together + i * N, alone[i], sizeof alone[i]) == 0, "row %d is another in company", i);
    CHECK(asked[1].choices == 2 && asked[2].choices == 4, "choices %x and %x", asked[1].choices, asked[2].choices);
    for (int i = 0; i < 3; i++)
        dsvk_session_close(sessions[i]);
    dsvk_model_close(model);
}

static void test_every_allocation_fails_once(void) {
    dsvk_model *model = open_nano();
    const dsvk_logit_bias bias[] = { { 7, 1 }, { ALLOWED, -2 } };
    dsvk_error err;
    int32_t ids[N];
    size_t n;
    bool through = false;
    for (int64_t k = 0; !through; k++) {
        struct asked asked = { 0 };
        dsvk_sample_options options = masked(&asked);
        options.bias = bias;
        options.n_bias = DSVK_COUNT(bias);
        options.frequency_penalty = 0.5f;
        dsvk_session *s = open_at_prefix(model);
        dsvk_alloc_fail_after(k);
        const dsvk_status status = dsvk_session_decode(s, N, &options, ids, &n, &err);
        through = dsvk_alloc_fail_after(-1) <= k;
        CHECK(status == DSVK_OK || status == DSVK_NOMEM, "%s: %s", dsvk_status_name(status), err.message);
        CHECK(!through || (n == N && all_allowed(ids, N)), "%zu tokens", n);
        dsvk_session_close(s);
    }
    dsvk_model_close(model); /* run_tests looks for what is left: what a model keeps until then depends on how quick the device was */
}

static void test_A01_values_out_of_range(void) {
    dsvk_model *model = open_nano();
    dsvk_session *s = open_at_prefix(model);
    const dsvk_logit_bias far = { 99999, 1 }, large = { 5, 2000 };
    dsvk_sample_options bad[] = { { .size = sizeof *bad, .frequency_penalty = 101 }, { .size = sizeof *bad, .presence_penalty = NAN },
                                  { .size = sizeof *bad, .n_bias = 1 }, { .size = sizeof *bad, .bias = &far, .n_bias = 1 },
                                  { .size = sizeof *bad, .bias = &large, .n_bias = 1 } };
    static const char *const words[] = { "penalty", "penalty", "1 biases", "id 99999", "bias 0 is 2000" };
    int32_t id;
    size_t n;
    dsvk_error err;
    for (size_t i = 0; i < DSVK_COUNT(bad); i++)
        CHECK_REFUSED(dsvk_session_decode(s, 1, &bad[i], &id, &n, &err), DSVK_INVALID, &err, words[i]);
    dsvk_session_close(s);
    dsvk_model_close(model);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(test_a_session_asks_before_each_token), TEST(test_a_batch_of_all_kinds), TEST(test_every_allocation_fails_once),
        TEST(test_A01_values_out_of_range),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
