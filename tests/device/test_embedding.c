/* The library inside somebody's program, through the public API: opened and closed many times (faults A15: 1,000 with DSVK_TEST_LONG=1), in
 * threads with small stacks, without stdin, stdout and stderr, with another locale (A17). Each of them has to give the tokens of a
 * plain run, and leave memory, threads and descriptors as they were. */
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_device.h"

static dsvk_error error;
static const int32_t prompt[] = { 0, 40, 41, 42, 43, 44, 45, 46 };
enum { N = 6 };

/* A whole life: device, model, session, N tokens, all closed; ids NULL: without the tokens, for which the driver readies its kernels. */
static dsvk_status live_once(int32_t *ids, dsvk_error *err) {
    const dsvk_session_options small = { .size = sizeof small, .context = 256 };
    dsvk_device *device = NULL;
    dsvk_model *model = NULL;
    dsvk_session *session = NULL;
    size_t n = 0;
    dsvk_status status = dsvk_device_open(&device, NULL, err);
    if (status == DSVK_OK)
        status = dsvk_model_open(&model, device, DSVK_NANO, NULL, err);
    if (status == DSVK_OK)
        status = dsvk_session_open(&session, model, &small, err);
    if (status == DSVK_OK && ids)
        status = dsvk_session_sync(session, prompt, DSVK_COUNT(prompt), err);
    if (status == DSVK_OK && ids)
        status = dsvk_session_decode(session, N, NULL, ids, &n, err);
    dsvk_session_close(session);
    dsvk_model_close(model);
    dsvk_device_close(device);
    return status;
}

static int32_t plain[N];

static void check_life(const char *where) {
    int32_t ids[N] = { 0 };
    CHECK_OK(live_once(ids, &error));
    CHECK(memcmp(ids, plain, sizeof ids) == 0, "other tokens %s", where);
}

/* What the driver keeps per instance is its own: Mesa's is a few KB. Of a thousand lives every fiftieth computes. */
static void test_A15_open_and_close(void) {
    const bool all = getenv("DSVK_TEST_LONG") != NULL;
    const int times = all ? 1000 : 6, settled = all ? 100 : 3;
    const int64_t live = dsvk_alloc_live();
    uint64_t files = 0, threads = 0, bytes = 0;
    for (int i = 0; i < times; i++) {
        if (!all || i % 50 == 0)
            check_life("after many lives");
        else
            CHECK_OK(live_once(NULL, &error));
        if (i == settled) {
            files = count_files();
            threads = count_threads();
            bytes = resident_bytes();
        }
    }
    const int64_t grown = (int64_t)resident_bytes() - (int64_t)bytes;
    CHECK(count_files() == files && count_threads() == threads, "%d descriptors and %d threads more", (int)(count_files() - files),
          (int)(count_threads() - threads));
    CHECK(!all || grown < (int64_t)(times - settled) * 32768, "%d lives left %lld bytes", times - settled, (long long)grown);
    CHECK(dsvk_alloc_live() == live, "%d lives left %d allocations", times, (int)(dsvk_alloc_live() - live));
    if (all)
        printf("%d lives in C: resident memory %.1f MB after %d, %+.3f MB at the end; %d allocations, no descriptor and no thread more\n",
               times, (double)bytes / 1e6, settled, (double)grown / 1e6, (int)(dsvk_alloc_live() - live));
}

static void *live_in_thread(void *unused) {
    (void)unused;
    check_life("on a small stack");
    return NULL;
}

static void test_A17_small_stack(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    CHECK(pthread_attr_setstacksize(&attributes, 256 << 10) == 0, "a stack of 256 KiB");
    CHECK(pthread_create(&thread, &attributes, live_in_thread, NULL) == 0 && pthread_join(thread, NULL) == 0, "a thread");
    pthread_attr_destroy(&attributes);
}

static void test_A17_locale(void) {
    static const char *const names[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "tr_TR.UTF-8", "de_DE", "fr_FR" };
    size_t i = 0;
    while (i < DSVK_COUNT(names) && !setlocale(LC_ALL, names[i]))
        i++;
    if (i == DSVK_COUNT(names)) {
        printf("no locale with a decimal comma is installed: not tested with one\n");
        return;
    }
    char *report = NULL;
    check_life("under another locale");
    CHECK(strcmp(setlocale(LC_ALL, NULL), names[i]) == 0, "the locale was changed");
    CHECK_OK(dsvk_plan(DSVK_NANO, NULL, NULL, 1000, &report, &error));
    json_decref(parse_json(report));
    setlocale(LC_ALL, "C");
}

extern char **environ;

/* This program again, with closed standard streams: what it opens gets the descriptors 0, 1 and 2. */
static void test_A17_closed_streams(void) {
    char path[4096] = "", *arguments[] = { path, "--child", NULL };
    posix_spawn_file_actions_t actions;
    pid_t child;
    int status = -1;
    CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0, "its own path");
    posix_spawn_file_actions_init(&actions);
    for (int i = 0; i < 3; i++)
        posix_spawn_file_actions_addclose(&actions, i);
    CHECK(posix_spawn(&child, path, &actions, NULL, arguments, environ) == 0, "spawned");
    posix_spawn_file_actions_destroy(&actions);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == plain[N - 1] % 100 + 1,
          "the child ended with status 0x%x", (unsigned)status);
}

/* Rule 8 beside it: handlers stay as the program had them. */
static void test_A17_signals_stay(void) {
    struct sigaction before[32], after;
    for (int i = 1; i < 32; i++)
        sigaction(i, NULL, &before[i]);
    check_life("between two looks at the handlers");
    for (int i = 1; i < 32; i++)
        CHECK(sigaction(i, NULL, &after) == 0 && after.sa_handler == before[i].sa_handler, "the handler of signal %d was changed", i);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--child") == 0) {
        int32_t ids[N];
        const uint64_t files = count_files();
        return live_once(ids, NULL) == DSVK_OK && count_files() == files ? ids[N - 1] % 100 + 1 : 0;
    }
    signal(SIGPIPE, SIG_DFL);
    if (live_once(plain, &error) != DSVK_OK) {
        printf("%s\n", error.message);
        return 1;
    }
    RUN(test_A17_signals_stay);
    RUN(test_A17_closed_streams);
    RUN(test_A17_locale);
    RUN(test_A17_small_stack);
    RUN(test_A15_open_and_close);
    return test_result();
}
