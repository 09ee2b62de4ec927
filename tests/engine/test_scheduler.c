/* What only C can do to a scheduler: make any allocation fail, call it from several threads, hand it structs of other sizes. What
 * it gives is tested from Python (tests/python/test_scheduler.py). */
#include <pthread.h>
#include <string.h>

#include "engine.h"
#include "harness_files.h"

static dsvk_model *open_nano(void) {
    dsvk_device *device = NULL;
    dsvk_model *model = NULL;
    dsvk_error err;
    const dsvk_model_options options = { .size = sizeof options, .max_chunk = 128, .page_tokens = 128 };
    CHECK(dsvk_device_open(&device, NULL, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_model_open(&model, device, DSVK_NANO, &options, &err) == DSVK_OK, "%s", err.message);
    dsvk_device_close(device);
    return model;
}

static dsvk_scheduler *open_scheduler(dsvk_model *model) {
    dsvk_scheduler *s = NULL;
    dsvk_error err;
    const dsvk_scheduler_options options = { .size = sizeof options, .context = 256, .burst = 4, .chunk = 32 };
    CHECK(dsvk_scheduler_open(&s, model, &options, &err) == DSVK_OK, "%s", err.message);
    return s;
}

static const int32_t prompt[] = { 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
                                  31, 32, 33, 34, 35, 36, 37, 38, 39, 40 };

static dsvk_request_options a_request(void) {
    static const char *const texts[] = { "no such text" };
    static const size_t sizes[] = { 12 };
    static const int32_t stop[] = { 2047 }; /* nothing that nano says here */
    return (dsvk_request_options){ .size = sizeof(dsvk_request_options), .prompt = prompt, .n_prompt = DSVK_COUNT(prompt),
                                   .max_tokens = 6, .choices = 2,
                                   .sampling = { .size = sizeof(dsvk_sample_options), .stop = stop, .n_stop = 1 },
                                   .stop_texts = texts, .stop_sizes = sizes, .n_stop_texts = 1, .logprobs = 3, .prompt_logprobs = 1,
                                   .owner = "somebody", .cache_key = "somebody" };
}

/* ---- memory ---- */

struct told {
    uint32_t finished, failed;
    size_t n_ids;
};

/* Steps until nothing is left, at most so often. */
static void run(dsvk_scheduler *s, struct told *told) {
    uint64_t unfinished = 1;
    dsvk_error err;
    for (int i = 0; i < 200 && unfinished > 0; i++) {
        dsvk_event e = { .size = sizeof e };
        CHECK(dsvk_scheduler_step(s, &unfinished, &err) == DSVK_OK, "%s", err.message);
        do {
            CHECK(dsvk_scheduler_next(s, &e, &err) == DSVK_OK, "%s", err.message);
            told->n_ids += e.kind == DSVK_EVENT_TOKENS ? e.n_ids : 0;
            told->finished += e.kind == DSVK_EVENT_FINISH;
            if (e.kind == DSVK_EVENT_FINISH && e.finish == DSVK_FINISH_ERROR) {
                told->failed++;
                CHECK(e.status == DSVK_NOMEM || e.status == DSVK_DEVMEM, "%s: %s", dsvk_status_name(e.status), e.message);
            }
        } while (e.kind != DSVK_EVENT_NONE);
    }
    CHECK(unfinished == 0, "%d sequences never finish", (int)unfinished);
}

static void test_every_allocation_fails_once(void) {
    dsvk_model *model = open_nano();
    const dsvk_request_options request = a_request();
    uint64_t id;
    dsvk_error err;
    uint32_t refused = 0, failed = 0, unharmed = 0;
    dsvk_scheduler *s = open_scheduler(model);
    struct told whole = { 0 };
    CHECK(dsvk_scheduler_submit(s, &request, &id, &err) == DSVK_OK, "%s", err.message);
    run(s, &whole);
    CHECK(whole.finished == 2 && whole.failed == 0 && whole.n_ids == 12, "%u finished, %zu ids", whole.finished, whole.n_ids);
    dsvk_scheduler_close(s);
    bool through = false;
    for (int64_t n = 0; !through; n++) {
        int64_t live;
        int tries = 0;
        do { /* time decides how tokens are submitted, and each way keeps memory of its own from its first use on */
            live = dsvk_alloc_live();
            struct told told = { 0 };
            s = NULL;
            dsvk_alloc_fail_after(n);
            const dsvk_scheduler_options options = { .size = sizeof options, .context = 256, .burst = 4, .chunk = 32 };
            dsvk_status status = dsvk_scheduler_open(&s, model, &options, &err);
            if (status == DSVK_OK)
                status = dsvk_scheduler_submit(s, &request, &id, &err);
            if (status == DSVK_OK)
                run(s, &told);
            through = dsvk_alloc_fail_after(-1) <= n;
            if (status != DSVK_OK) {
                CHECK(status == DSVK_NOMEM, "%s: %s", dsvk_status_name(status), err.message);
                refused++;
            } else {
                CHECK(told.finished == 2, "allocation %d: %u of 2 finished", (int)n, told.finished);
                failed += told.failed > 0;
                unharmed += told.failed == 0;
            }
            if (s && n % 8 == 0) { /* it works again */
                told = (struct told){ 0 };
                CHECK(dsvk_scheduler_submit(s, &request, &id, &err) == DSVK_OK, "%s", err.message);
                run(s, &told);
                CHECK(told.finished == 2 && told.failed == 0 && told.n_ids == 12, "allocation %d: %zu ids", (int)n, told.n_ids);
            }
            dsvk_scheduler_close(s);
        } while (dsvk_alloc_live() != live && ++tries < 3);
        CHECK(dsvk_alloc_live() == live, "allocation %d: %d are left", (int)n, (int)(dsvk_alloc_live() - live));
    }
    CHECK(refused > 5 && failed > 5 && unharmed > 1, "%u refused, %u failed, %u unharmed", refused, failed, unharmed);
    dsvk_model_close(model);
}

/* ---- threads ---- */

#define THREADS 3
#define EACH 20

struct client {
    dsvk_scheduler *scheduler;
    uint32_t number;
    uint32_t submitted;
};

/* Hands in requests, some of which it takes back, and asks how things are. */
static void *client_run(void *user) {
    struct client *c = user;
    dsvk_request_options request = a_request();
    dsvk_error err;
    for (uint32_t i = 0; i < EACH; i++) {
        uint64_t id = 0;
        char *json = NULL;
        request.n_prompt = 1 + (i + c->number) % DSVK_COUNT(prompt);
        request.sampling.seed = i;
        c->submitted += dsvk_scheduler_submit(c->scheduler, &request, &id, &err) == DSVK_OK ? 2 : 0;
        if (i % 3 == 0)
            dsvk_scheduler_cancel(c->scheduler, id);
        if (dsvk_scheduler_report(c->scheduler, &json, &err) == DSVK_OK)
            dsvk_free(json);
    }
    return NULL;
}

static void test_A04_submit_and_cancel_from_threads(void) {
    dsvk_model *model = open_nano();
    dsvk_scheduler *s = open_scheduler(model);
    struct client clients[THREADS];
    pthread_t threads[THREADS];
    struct told told = { 0 };
    uint32_t submitted = 0;
    for (uint32_t i = 0; i < THREADS; i++) {
        clients[i] = (struct client){ .scheduler = s, .number = i };
        CHECK(pthread_create(&threads[i], NULL, client_run, &clients[i]) == 0, "thread %u", i);
    }
    for (int i = 0; i < 20; i++) /* while they are at it, with nothing to do at first */
        run(s, &told);
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        submitted += clients[i].submitted;
    }
    run(s, &told);
    CHECK(submitted == 2 * THREADS * EACH && told.finished == submitted, "%u submitted, %u finished", submitted, told.finished);
    dsvk_scheduler_close(s);
    dsvk_model_close(model);
}

/* A second thread in step or next is turned away, and nothing is told twice. */
static void *second_driver(void *user) {
    struct client *c = user;
    dsvk_event e = { .size = sizeof e };
    dsvk_error err;
    uint64_t unfinished = 1;
    while (unfinished > 0) {
        const dsvk_status status = dsvk_scheduler_step(c->scheduler, &unfinished, &err);
        if (status == DSVK_BUSY)
            continue;
        while (dsvk_scheduler_next(c->scheduler, &e, &err) == DSVK_OK && e.kind != DSVK_EVENT_NONE)
            c->submitted += e.kind == DSVK_EVENT_FINISH;
    }
    return NULL;
}

static void test_A04_two_drivers(void) {
    dsvk_model *model = open_nano();
    struct client drivers[2] = { { .scheduler = open_scheduler(model) }, { 0 } };
    pthread_t thread;
    uint64_t id;
    dsvk_error err;
    const dsvk_request_options request = a_request();
    drivers[1].scheduler = drivers[0].scheduler;
    for (int i = 0; i < 4; i++)
        CHECK(dsvk_scheduler_submit(drivers[0].scheduler, &request, &id, &err) == DSVK_OK, "%s", err.message);
    CHECK(pthread_create(&thread, NULL, second_driver, &drivers[1]) == 0, "thread");
    second_driver(&drivers[0]);
    pthread_join(thread, NULL);
    struct told rest = { 0 };
    run(drivers[0].scheduler, &rest);
    CHECK(drivers[0].submitted + drivers[1].submitted + rest.finished == 8, "%u and %u and %u finished", drivers[0].submitted,
          drivers[1].submitted, rest.finished);
    dsvk_scheduler_close(drivers[0].scheduler);
    dsvk_model_close(model);
}

/* ---- arguments ---- */

static void test_A01_sizes_and_null(void) {
    dsvk_model *model = open_nano();
    dsvk_scheduler *s = open_scheduler(model), *none = NULL;
    dsvk_error err;
    uint64_t id;
    dsvk_event event = { .size = 8 };
    dsvk_request_options request = a_request();
    const dsvk_scheduler_options small = { .size = 8 };
    CHECK_REFUSED(dsvk_scheduler_open(&none, model, &small, &err), DSVK_INVALID, &err, "dsvk_scheduler_options has size 8");
    CHECK_REFUSED(dsvk_scheduler_open(&none, NULL, NULL, &err), DSVK_INVALID, &err, "must not be NULL");
    CHECK_REFUSED(dsvk_scheduler_next(s, &event, &err), DSVK_INVALID, &err, "its size");
    CHECK_REFUSED(dsvk_scheduler_next(s, NULL, &err), DSVK_INVALID, &err, "NULL");
    CHECK_REFUSED(dsvk_scheduler_step(NULL, NULL, &err), DSVK_INVALID, &err, "scheduler must not be NULL");
    CHECK_REFUSED(dsvk_scheduler_submit(s, NULL, &id, &err), DSVK_INVALID, &err, "must not be NULL");
    request.sampling.size = 0;
    CHECK_REFUSED(dsvk_scheduler_submit(s, &request, &id, &err), DSVK_INVALID, &err, "dsvk_sample_options has size 0");
    request = a_request();
    request.stop_sizes = NULL;
    CHECK_REFUSED(dsvk_scheduler_submit(s, &request, &id, &err), DSVK_INVALID, &err, "1 stop texts");
    request = a_request();
    request.prompt = NULL;
    CHECK_REFUSED(dsvk_scheduler_submit(s, &request, &id, &err), DSVK_INVALID, &err, "the prompt is empty");
    dsvk_scheduler_cancel(NULL, 0);
    dsvk_scheduler_close(NULL);
    dsvk_scheduler_close(s);
    dsvk_model_close(model);
}

/* Closing with requests in every phase frees everything. */
static void test_closed_in_the_middle(void) {
    dsvk_model *model = open_nano();
    const uint64_t used = dsvk_purpose_used(model->device, DSVK_CACHE);
    for (int steps = 0; steps < 4; steps++) {
        dsvk_scheduler *s = open_scheduler(model);
        dsvk_request_options request = a_request();
        uint64_t id;
        dsvk_error err;
        for (int i = 0; i < 40; i++)
            CHECK(dsvk_scheduler_submit(s, &request, &id, &err) == DSVK_OK, "%s", err.message);
        for (int i = 0; i < steps; i++)
            CHECK(dsvk_scheduler_step(s, NULL, &err) == DSVK_OK, "%s", err.message);
        dsvk_scheduler_close(s);
    }
    CHECK(dsvk_purpose_used(model->device, DSVK_CACHE) == used, "device memory is left");
    dsvk_model_close(model);
}

int main(int argc, char **argv) {
    static const struct test tests[] = {
        TEST(test_every_allocation_fails_once), TEST(test_A04_submit_and_cancel_from_threads), TEST(test_A04_two_drivers),
        TEST(test_A01_sizes_and_null),          TEST(test_closed_in_the_middle),
    };
    return run_tests(tests, sizeof tests / sizeof *tests, argc, argv);
}
