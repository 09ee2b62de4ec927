/* The device layer as its users see it: opening, memory, recording, several devices, threads, leaks.
 *
 * Edge list: sizes 0, 1, 255, 256, 257, a whole block, one more; fills and copies at odd offsets and at the end; the
 * last byte past the end; no groups, the most groups, one more; arguments of 0, 128, 132 bytes; submits without
 * commands; budgets that end inside a block; freeing first, last and middle neighbours. */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_device.h"
#include "rms_norm.h"

#define MIB ((uint64_t)1 << 20)

static dsvk_error error;

/* ---- devices ---- */

static void test_devices_json(void) {
    char *text = NULL;
    CHECK_OK(dsvk_devices(&text, &error));
    json_t *root = parse_json(text), *first = json_array_get(json_object_get(root, "devices"), 0);
    CHECK(json_is_true(json_object_get(first, "usable")) && json_is_true(json_object_get(first, "chosen")),
          "the first device is usable and chosen");
    CHECK(strlen(json_string_value(json_object_get(first, "uuid"))) == 36, "a UUID has 36 characters");
    CHECK(json_integer_value(json_object_get(first, "memory")) > 0, "memory is known");
    CHECK(json_array_size(json_object_get(first, "subgroup")) == 2, "subgroup sizes are a range");
    CHECK(json_is_boolean(json_object_get(json_object_get(first, "features"), "fp16")), "features are booleans");
    CHECK(strncmp(json_string_value(json_object_get(root, "loader")), "libvulkan", 9) == 0, "the loader has a name");
    json_decref(root);
    CHECK_FAILS(dsvk_devices(NULL, &error), DSVK_INVALID, "json is NULL");
}

static void test_open_choices(void) {
    dsvk_device *device = open_device(NULL), *same;
    char *text = NULL;
    CHECK_OK(dsvk_device_describe(device, &text, &error));
    json_t *root = parse_json(text);
    const char *wanted[] = {"0", json_string_value(json_object_get(root, "uuid")),
                            json_string_value(json_object_get(root, "name"))};
    for (size_t i = 0; i < DSVK_COUNT(wanted); i++) {
        const dsvk_device_options options = {.size = sizeof options, .cache_dir = "", .device = wanted[i]};
        if (CHECK_OK(dsvk_device_open(&same, &options, &error)))
            dsvk_device_close(same);
    }
    json_decref(root);
    close_device(device);
}

static void test_A01_options(void) {
    dsvk_device *device = NULL;
    dsvk_device_options options = {.size = sizeof options - 1};
    CHECK_FAILS(dsvk_device_open(&device, &options, &error), DSVK_INVALID, "size is");
    options = (dsvk_device_options){.size = sizeof options, .validation = 2};
    CHECK_FAILS(dsvk_device_open(&device, &options, &error), DSVK_INVALID, "validation is 2");
    options = (dsvk_device_options){.size = sizeof options, .statistics = 2};
    CHECK_FAILS(dsvk_device_open(&device, &options, &error), DSVK_INVALID, "statistics is 2");
    options = (dsvk_device_options){.size = sizeof options, .device = "no such thing"};
    CHECK_FAILS(dsvk_device_open(&device, &options, &error), DSVK_INVALID,
                "\"no such thing\" is not there; there are: 0: ");
    CHECK_FAILS(dsvk_device_open(NULL, NULL, &error), DSVK_INVALID, "device is NULL");
    CHECK(device == NULL, "a failed open stores NULL");
    dsvk_device_close(NULL);
}

/* The driver is named by a file that is not there: the loader finds none, and says so. */
static void test_D01_no_driver(void) {
    char *text = NULL;
    dsvk_device *device;
    const char *old = getenv("VK_DRIVER_FILES");
    char *kept = old ? strdup(old) : NULL;
    setenv("VK_DRIVER_FILES", "/nonexistent/none.json", 1);
    CHECK_OK(dsvk_devices(&text, &error));
    json_t *root = parse_json(text);
    CHECK(json_array_size(json_object_get(root, "devices")) == 0, "no devices");
    CHECK(strstr(json_string_value(json_object_get(root, "loader")), "driver"), "the reason names the driver");
    json_decref(root);
    CHECK_FAILS(dsvk_device_open(&device, NULL, &error), DSVK_NODEVICE, "driver");
    if (kept)
        setenv("VK_DRIVER_FILES", kept, 1);
    else
        unsetenv("VK_DRIVER_FILES");
    free(kept);
}

/* ---- memory ---- */

static void test_buffer_sizes(void) {
    static const uint64_t sizes[] = {0, 1, 255, 256, 257, 4096, 16 * MIB - 256, 16 * MIB, 17 * MIB + 4};
    dsvk_device *device = open_device(NULL);
    dsvk_buffer buffers[DSVK_COUNT(sizes)];
    for (int p = 0; p < DSVK_PURPOSE_COUNT; p++) {
        uint64_t used = 0;
        for (size_t i = 0; i < DSVK_COUNT(sizes); i++) {
            CHECK_OK(dsvk_buffer_create(device, (dsvk_purpose)p, sizes[i], "sizes", &buffers[i], &error));
            CHECK(buffers[i].addr % 256 == 0 && buffers[i].addr != 0, "address %llx",
                  (unsigned long long)buffers[i].addr);
            CHECK(buffers[i].size == sizes[i], "size");
            CHECK(p < DSVK_STAGING || buffers[i].host, "staging and readback are mapped");
            used += sizes[i] ? dsvk_align(sizes[i], 256) : 256;
        }
        CHECK(dsvk_purpose_used(device, (dsvk_purpose)p) == used, "%s: used", dsvk_purpose_name((dsvk_purpose)p));
        for (size_t i = 0; i < DSVK_COUNT(sizes); i++) {
            dsvk_buffer_destroy(device, &buffers[i]);
            dsvk_buffer_destroy(device, &buffers[i]); /* a zeroed one is accepted */
        }
        CHECK(dsvk_purpose_used(device, (dsvk_purpose)p) == 0, "all given back");
    }
    CHECK_FAILS(dsvk_buffer_create(device, (dsvk_purpose)7, 1, "odd", &buffers[0], &error), DSVK_INVALID, "purpose 7");
    close_device(device);
}

/* Random lives: no two buffers overlap, each keeps what was written, and freeing all leaves one range per block. */
static void test_allocator_random(void) {
    enum { SLOTS = 200, STEPS = 4000 };
    static dsvk_buffer buffers[SLOTS];
    static uint32_t marks[SLOTS];
    dsvk_device *device = open_device(NULL);
    for (uint32_t step = 0; step < STEPS; step++) {
        const uint32_t i = random_below(SLOTS);
        dsvk_buffer *buffer = &buffers[i];
        if (buffer->block) {
            const uint32_t *words = buffer->host;
            CHECK(words[0] == marks[i] && words[buffer->size / 4 - 1] == marks[i], "buffer %u was overwritten", i);
            dsvk_buffer_destroy(device, buffer);
            continue;
        }
        const uint64_t size = 4 * (1 + (uint64_t)random_below(random_below(50) == 0 ? 1000000 : 20000));
        if (!CHECK_OK(dsvk_buffer_create(device, DSVK_STAGING, size, "random", buffer, &error)))
            break;
        marks[i] = step + 1;
        for (uint64_t w = 0; w<size / 4; w += size / 4> 1 ? size / 4 - 1 : 1)
            ((uint32_t *)buffer->host)[w] = marks[i];
        for (uint32_t other = 0; other < SLOTS; other++)
            if (other != i && buffers[other].block && buffers[other].addr < buffer->addr + size &&
                buffer->addr < buffers[other].addr + buffers[other].size)
                CHECK(false, "buffers %u and %u overlap", i, other);
    }
    for (uint32_t i = 0; i < SLOTS; i++)
        dsvk_buffer_destroy(device, &buffers[i]);
    CHECK(dsvk_purpose_used(device, DSVK_STAGING) == 0, "all given back");
    CHECK(device->pools[DSVK_STAGING].n_blocks <= 1, "%u blocks stay", device->pools[DSVK_STAGING].n_blocks);
    close_device(device);
}

/* Neighbours merge in every order: 16 pieces freed by each pattern leave room for one of the whole size. */
static void test_allocator_merges(void) {
    static const int orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {0, 2, 1, 3}, {1, 3, 0, 2}, {2, 0, 3, 1}};
    dsvk_device_options options = {.size = sizeof options, .cache_dir = ""};
    options.budget[DSVK_CACHE] = 4 * MIB;
    dsvk_device *device = open_device(&options);
    for (size_t o = 0; o < DSVK_COUNT(orders); o++) {
        dsvk_buffer pieces[4], whole;
        for (int i = 0; i < 4; i++)
            CHECK_OK(dsvk_buffer_create(device, DSVK_CACHE, MIB, "piece", &pieces[i], &error));
        CHECK_FAILS(dsvk_buffer_create(device, DSVK_CACHE, 4 * MIB, "whole", &whole, &error), DSVK_DEVMEM,
                    "cache: whole asked for 4194304 bytes; 4194304 are used, the budget is 4194304");
        for (int i = 0; i < 4; i++)
            dsvk_buffer_destroy(device, &pieces[orders[o][i]]);
        CHECK_OK(dsvk_buffer_create(device, DSVK_CACHE, 4 * MIB, "whole", &whole, &error));
        dsvk_buffer_destroy(device, &whole);
    }
    close_device(device);
}

static void test_D04_budget(void) {
    dsvk_device_options options = {.size = sizeof options, .cache_dir = ""};
    options.budget[DSVK_WEIGHTS] = 20 * MIB;
    dsvk_device *device = open_device(&options);
    dsvk_buffer a, b, c;
    CHECK(dsvk_purpose_available(device, DSVK_WEIGHTS) == 20 * MIB, "available");
    CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, 15 * MIB, "a", &a, &error));
    CHECK(dsvk_purpose_available(device, DSVK_WEIGHTS) <= 5 * MIB, "available after");
    CHECK_FAILS(dsvk_buffer_create(device, DSVK_WEIGHTS, 6 * MIB, "b", &b, &error), DSVK_DEVMEM,
                "the budget is 20971520");
    CHECK(b.block == NULL && b.host == NULL, "a failed buffer is zeroed");
    CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, 3 * MIB, "smaller", &b, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 30 * MIB, "other purpose", &c, &error));
    dsvk_buffer_destroy(device, &a);
    dsvk_buffer_destroy(device, &b);
    CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, 20 * MIB, "all of it", &a, &error));
    dsvk_buffer_destroy(device, &a);
    dsvk_buffer_destroy(device, &c);
    char *text = NULL;
    CHECK_OK(dsvk_device_memory(device, &text, &error));
    json_t *root = parse_json(text), *weights = json_object_get(root, "weights");
    CHECK(json_integer_value(json_object_get(weights, "peak")) == (json_int_t)(20 * MIB), "peak");
    CHECK(json_integer_value(json_object_get(weights, "used")) == 0, "used");
    CHECK(json_integer_value(json_object_get(json_object_get(root, "heap"), "size")) > 0, "heap");
    json_decref(root);
    close_device(device);
}

static void test_D06_max_allocation(void) {
    static const uint64_t limits[] = {MIB, 128 * MIB};
    for (size_t i = 0; i < DSVK_COUNT(limits); i++) {
        dsvk_device_options options = {.size = sizeof options, .cache_dir = "", .max_allocation = limits[i]};
        dsvk_device *device = open_device(&options);
        dsvk_buffer buffer;
        char part[64];
        snprintf(part, sizeof part, "%llu bytes, the device allows %llu", (unsigned long long)limits[i] + 1,
                 (unsigned long long)limits[i]);
        CHECK(dsvk_device_get_limits(device)->max_allocation == limits[i], "the limit can be read back");
        CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, limits[i], "fits", &buffer, &error));
        dsvk_buffer_destroy(device, &buffer);
        CHECK_FAILS(dsvk_buffer_create(device, DSVK_WEIGHTS, limits[i] + 1, "large", &buffer, &error), DSVK_LIMIT,
                    part);
        close_device(device);
    }
}

/* ---- recording ---- */

static void test_fill_copy(void) {
    enum { N = 10000 };
    dsvk_device *device = open_device(NULL);
    dsvk_buffer a, b, back;
    dsvk_cmd *cmd;
    uint32_t words[N];
    CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, 4 * N, "a", &a, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 4 * N, "b", &b, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_READBACK, 4 * N, "back", &back, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    for (uint32_t i = 0; i < N; i++)
        words[i] = i * 2654435761u;
    CHECK_OK(dsvk_buffer_write(device, &a, 0, words, sizeof words, &error));
    dsvk_cmd_fill(cmd, &b, 0, 4 * N, 0xaaaaaaaa);
    dsvk_barrier(cmd);
    dsvk_cmd_copy(cmd, &a, 4, &b, 8, 4 * (N - 3)); /* b[i + 2] = a[i + 1] */
    dsvk_barrier(cmd);
    dsvk_cmd_fill(cmd, &b, 4 * (N - 1), 4, 0x55555555);
    dsvk_cmd_fill(cmd, &b, 0, 0, 1); /* nothing */
    dsvk_barrier(cmd);
    dsvk_barrier(cmd);
    dsvk_cmd_copy(cmd, &b, 0, &back, 0, 4 * N);
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    const uint32_t *got = back.host;
    CHECK(got[0] == 0xaaaaaaaa && got[1] == 0xaaaaaaaa && got[N - 1] == 0x55555555, "ends %08x %08x %08x", got[0],
          got[1], got[N - 1]);
    CHECK(memcmp(got + 2, words + 1, 4 * (N - 3)) == 0, "middle");
    /* the same recorder again, and a read of part */
    uint32_t part[2] = {0};
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    dsvk_cmd_fill(cmd, &a, 4, 4, 7);
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    CHECK_OK(dsvk_buffer_read(device, &a, 4, part, 8, &error));
    CHECK(part[0] == 7 && part[1] == words[2], "part");
    /* nothing recorded; waiting twice */
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    CHECK_OK(dsvk_cmd_wait(cmd, &error));
    CHECK_FAILS(dsvk_buffer_write(device, &a, 4 * N - 3, words, 4, &error), DSVK_INVALID,
                "bytes 39997 + 4 of a buffer of");
    CHECK_FAILS(dsvk_buffer_read(device, &a, UINT64_MAX, words, 4, &error), DSVK_INVALID, "bytes 18446744073709551615");
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &a);
    dsvk_buffer_destroy(device, &b);
    dsvk_buffer_destroy(device, &back);
    close_device(device);
}

/* The staged paths of write and read, which unified devices never take on their own. */
static void test_staged_transfer(void) {
    const uint64_t bytes = 9 * MIB + 13; /* three pieces, the last one odd */
    dsvk_device *device = open_device(NULL);
    dsvk_buffer buffer;
    uint8_t *out = malloc(bytes), *in = calloc(1, bytes);
    for (uint64_t i = 0; i < bytes; i++)
        out[i] = (uint8_t)(i * 31 >> 3);
    CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, bytes + 5, "staged", &buffer, &error));
    buffer.host = NULL;
    CHECK_OK(dsvk_buffer_write(device, &buffer, 5, out, bytes, &error));
    CHECK_OK(dsvk_buffer_read(device, &buffer, 5, in, bytes, &error));
    CHECK(memcmp(in, out, bytes) == 0, "what was read is not what was written");
    dsvk_buffer_destroy(device, &buffer);
    CHECK(dsvk_purpose_used(device, DSVK_STAGING) + dsvk_purpose_used(device, DSVK_READBACK) == 0,
          "no staging is left");
    free(in);
    free(out);
    close_device(device);
}

/* rms_norm of rows that are all `value`, weight 1: the answer is 1 (or 0) in every place. */
enum { ROWS = 3, DIM = 64 };

static dsvk_dispatch_info norm_dispatch(struct rms_norm_args *args, const dsvk_buffer *x, const dsvk_buffer *weight,
                                        const dsvk_buffer *result) {
    *args = (struct rms_norm_args){
        .x = x->addr, .weight = weight->addr, .result = result->addr, .dim = DIM, .x_stride = DIM, .eps = 0.0f};
    return (dsvk_dispatch_info){
        .op = "rms_norm",
        .shader = "rms_norm",
        .args = args,
        .args_size = sizeof *args,
        .groups = {ROWS, 1, 1},
        .bytes = 1000,
        .flops = 10,
    };
}

static void test_dispatch_profile(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer x, weight, result;
    struct rms_norm_args args;
    dsvk_cmd *cmd;
    float got[ROWS * DIM];
    char *text = NULL;
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, sizeof got, "x", &x, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, 4 * DIM, "weight", &weight, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, sizeof got, "result", &result, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    CHECK_FAILS(dsvk_device_profile_end(device, &text, &error), DSVK_STATE, "no profile");
    CHECK_OK(dsvk_device_profile_begin(device, &error));
    dsvk_cmd_fill(cmd, &x, 0, sizeof got, 0x40400000); /* 3.0 */
    dsvk_cmd_fill(cmd, &weight, 0, 4 * DIM, 0x3f800000);
    dsvk_cmd_fill(cmd, &result, 0, sizeof got, 0xffffffff);
    dsvk_barrier(cmd);
    dsvk_dispatch_info info = norm_dispatch(&args, &x, &weight, &result);
    for (int i = 0; i < 600; i++) /* more timestamps than one query pool holds */
        dsvk_dispatch(cmd, &info);
    CHECK(dsvk_cmd_dispatches(cmd) == 600, "dispatches");
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    CHECK_FAILS(dsvk_device_profile_begin(device, &error), DSVK_STATE, "running already"); /* and loses nothing */
    CHECK_OK(dsvk_buffer_read(device, &result, 0, got, sizeof got, &error));
    for (int i = 0; i < ROWS * DIM; i++)
        if (!CHECK(got[i] > 0.999999f && got[i] < 1.000001f, "value %d is %g", i, (double)got[i]))
            break;
    CHECK_OK(dsvk_device_profile_end(device, &text, &error));
    json_t *root = parse_json(text), *ops = json_object_get(root, "ops"), *op;
    size_t i;
    double sum = 0;
    json_array_foreach(ops, i, op) {
        sum += json_real_value(json_object_get(op, "us"));
        if (strcmp(json_string_value(json_object_get(op, "name")), "rms_norm") == 0)
            CHECK(json_integer_value(json_object_get(op, "calls")) == 600 &&
                      json_integer_value(json_object_get(op, "bytes")) == 600000 &&
                      json_integer_value(json_object_get(op, "flops")) == 6000,
                  "calls, bytes and flops of rms_norm");
    }
    CHECK(json_array_size(ops) == 2, "fill and rms_norm");
    CHECK(json_integer_value(json_object_get(root, "submits")) == 1, "submits");
    CHECK(json_integer_value(json_object_get(root, "dispatches")) == 600, "dispatches");
    CHECK(json_real_value(json_object_get(root, "host_us")) > 0, "host time");
    double device_us = json_real_value(json_object_get(root, "device_us"));
    CHECK(device_us > 0 && sum > 0.999 * device_us && sum < 1.001 * device_us, "the ops' times add up: %g, %g", sum,
          device_us);
    json_decref(root);
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &x);
    dsvk_buffer_destroy(device, &weight);
    dsvk_buffer_destroy(device, &result);
    close_device(device);
}

/* The first error of a recording stays, submit reports it, begin forgets it. */
/* An op has an entry for each part of a model that it was recorded for, and one for none; a new recording goes on with the part. */
static void test_profile_parts(void) {
    dsvk_device *device = open_device(NULL);
    const char *const parts[] = {NULL, "CSA", "HCA", "CSA", "CSA"};
    dsvk_buffer x;
    dsvk_cmd *cmd;
    char *text = NULL, found[64] = "";
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 4, "x", &x, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    CHECK_OK(dsvk_device_profile_begin(device, &error));
    for (int i = 0; i < 5; i++) {
        dsvk_cmd_set_part(cmd, parts[i]);
        dsvk_cmd_fill(cmd, &x, 0, 4, 0);
        dsvk_barrier(cmd);
    }
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    dsvk_cmd_fill(cmd, &x, 0, 4, 0);
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    CHECK_OK(dsvk_device_profile_end(device, &text, &error));
    json_t *root = parse_json(text), *op;
    size_t i;
    json_array_foreach(json_object_get(root, "ops"), i, op) {
        const char *part = json_string_value(json_object_get(op, "part"));
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s %d, ", part ? part : "none",
                 (int)json_integer_value(json_object_get(op, "calls")));
    }
    CHECK(strcmp(found, "none 1, CSA 4, HCA 1, ") == 0, "found %s", found);
    json_decref(root);
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &x);
    close_device(device);
}

static void test_sticky_error(void) {
    dsvk_device *device = open_device(NULL);
    const uint32_t *most = dsvk_device_get_limits(device)->max_groups;
    const uint8_t args[132] = {0};
    dsvk_buffer buffer;
    dsvk_cmd *cmd;
    char part[64];
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 64, "b", &buffer, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    dsvk_dispatch_info info = {.op = "norm", .shader = "rms_norm", .args = args, .args_size = 4, .groups = {1, 1, 1}};
    info.groups[1] = most[1] + 1;
    snprintf(part, sizeof part, "op norm: 1 x %u x 1 workgroups", most[1] + 1);
    dsvk_dispatch(cmd, &info);
    dsvk_cmd_fail(cmd, DSVK_FORMAT, "a later one");
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_INVALID, part);
    info.groups[1] = 1;
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    info.args_size = 132;
    dsvk_dispatch(cmd, &info);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_INVALID, "op norm: 132 bytes of arguments");
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    info = (dsvk_dispatch_info){.op = "norm", .shader = "nothing", .groups = {1, 1, 1}};
    dsvk_dispatch(cmd, &info);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_INVALID, "op norm: there is no shader nothing");
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    dsvk_cmd_fill(cmd, &buffer, 60, 8, 0);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_INVALID, "fill: bytes 60 + 8 of a buffer of 64");
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    dsvk_cmd_fill(cmd, &buffer, 2, 4, 0);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_INVALID, "not multiples of 4");
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    dsvk_cmd_copy(cmd, &buffer, 0, &(dsvk_buffer){.size = 64}, 0, 4);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_INVALID, "copy to");
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    dsvk_cmd_fail(cmd, DSVK_NUMERIC, "row %d", 5);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_NUMERIC, "row 5");
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    info = (dsvk_dispatch_info){.op = "norm", .shader = "rms_norm"}; /* no groups: nothing */
    dsvk_dispatch(cmd, &info);
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    dsvk_cmd_fill(cmd, &buffer, 0, 4, 0);
    CHECK_FAILS(dsvk_cmd_submit(cmd, &error), DSVK_STATE, "recording after submit");
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    dsvk_cmd_destroy(cmd);
    dsvk_cmd_destroy(NULL);
    dsvk_buffer_destroy(device, &buffer);
    close_device(device);
}

/* Submitting again without begin runs the same recording again, on what memory holds by then. */
static void test_replay(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer from, to;
    dsvk_cmd *cmd;
    CHECK_OK(dsvk_buffer_create(device, DSVK_STAGING, 64, "from", &from, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_READBACK, 64, "to", &to, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    dsvk_cmd_copy(cmd, &from, 0, &to, 0, 64);
    CHECK_OK(dsvk_device_profile_begin(device, &error));
    for (uint32_t i = 1; i <= 5; i++) {
        *(uint32_t *)from.host = i;
        CHECK_OK(dsvk_cmd_submit(cmd, &error));
        CHECK_OK(dsvk_cmd_wait(cmd, &error));
        CHECK(*(uint32_t *)to.host == i, "replay %u", i);
    }
    CHECK_OK(dsvk_cmd_submit(cmd, &error));
    CHECK_OK(dsvk_cmd_submit(cmd, &error)); /* waits for the one before */
    CHECK_OK(dsvk_cmd_wait(cmd, &error));
    char *text = NULL;
    CHECK_OK(dsvk_device_profile_end(device, &text, &error));
    json_t *root = parse_json(text);
    CHECK(json_integer_value(json_object_get(root, "submits")) == 7, "submits");
    json_decref(root);
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &from);
    dsvk_buffer_destroy(device, &to);
    close_device(device);
}

/* Several times in one submit: `shift` moves the words of `a` up by one, so the number of runs can be read off; and between
 * other recordings, in their order. What a profile counts is what ran. */
static void test_many_in_one_submit(void) {
    enum { WORDS = 256 };
    dsvk_device *device = open_device(NULL);
    dsvk_buffer from, a, b, to;
    dsvk_cmd *in, *shift, *out;
    char *text = NULL;
    CHECK_OK(dsvk_buffer_create(device, DSVK_STAGING, 4 * WORDS, "from", &from, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 4 * WORDS, "a", &a, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 4 * WORDS, "b", &b, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_READBACK, 4 * WORDS, "to", &to, &error));
    CHECK_OK(dsvk_cmd_create(device, &in, &error));
    CHECK_OK(dsvk_cmd_create(device, &shift, &error));
    CHECK_OK(dsvk_cmd_create(device, &out, &error));
    for (int profiled = 0; profiled < 2; profiled++) {
        if (profiled) {
            CHECK(!dsvk_cmd_stale(shift), "recorded without a profile, and none runs");
            CHECK_OK(dsvk_device_profile_begin(device, &error));
            CHECK(dsvk_cmd_stale(shift), "recorded without the profile that runs");
        }
        CHECK_OK(dsvk_cmd_begin(in, &error));
        CHECK_OK(dsvk_cmd_begin(out, &error));
        dsvk_cmd_set_repeatable(shift, true);
        CHECK_OK(dsvk_cmd_begin(shift, &error));
        dsvk_cmd_copy(in, &from, 0, &a, 0, 4 * WORDS);
        dsvk_cmd_copy(shift, &a, 0, &b, 4, 4 * (WORDS - 1));
        dsvk_barrier(shift);
        dsvk_cmd_copy(shift, &b, 4, &a, 4, 4 * (WORDS - 1));
        dsvk_cmd_copy(out, &a, 0, &to, 0, 4 * WORDS);
        static const uint32_t times[] = {1, 2, 9, DSVK_MOST_REPLAYS - 2, 3};
        for (size_t t = 0; t < DSVK_COUNT(times); t++) { /* the same recordings every time */
            for (uint32_t i = 0; i < WORDS; i++)
                ((uint32_t *)from.host)[i] = 1000 * (uint32_t)t + i;
            const dsvk_replay list[] = {{in, 1}, {shift, times[t]}, {out, 1}};
            CHECK_OK(dsvk_submit(list, 3, &error));
            for (int i = 0; i < 3; i++)
                CHECK_OK(dsvk_cmd_wait(list[i].cmd, &error));
            const uint32_t *words = to.host;
            CHECK(words[times[t]] == 1000 * t && words[WORDS - 1] == 1000 * t + WORDS - 1 - times[t],
                  "%u times: word %u is %u", times[t], times[t], words[times[t]]);
        }
    }
    CHECK_OK(dsvk_device_profile_end(device, &text, &error));
    CHECK(dsvk_cmd_stale(shift), "the profile has ended");
    json_t *root = parse_json(text), *copy = json_array_get(json_object_get(root, "ops"), 0);
    const json_int_t runs = 1 + 2 + 9 + DSVK_MOST_REPLAYS - 2 + 3;
    CHECK(json_integer_value(json_object_get(root, "submits")) == 5, "submits");
    CHECK(json_integer_value(json_object_get(copy, "calls")) == 2 * 5 + 2 * runs &&
              json_integer_value(json_object_get(copy, "bytes")) == 8 * (10 * WORDS + 2 * runs * (WORDS - 1)),
          "every copy is counted");
    json_decref(root);
    CHECK_FAILS(dsvk_submit(&(dsvk_replay){in, 2}, 1, &error), DSVK_STATE, "recording 0 is to run 2 times");
    CHECK_FAILS(dsvk_submit(&(dsvk_replay){shift, 0}, 1, &error), DSVK_STATE, "to run 0 times");
    CHECK_FAILS(dsvk_submit((dsvk_replay[]){{in, 1}, {shift, DSVK_MOST_REPLAYS}}, 2, &error), DSVK_INVALID,
                "129 recordings in one submit, at most 128");
    dsvk_cmd_destroy(in);
    dsvk_cmd_destroy(shift);
    dsvk_cmd_destroy(out);
    dsvk_buffer_destroy(device, &from);
    dsvk_buffer_destroy(device, &a);
    dsvk_buffer_destroy(device, &b);
    dsvk_buffer_destroy(device, &to);
    close_device(device);
}

/* A grid that stands in memory: as many rows are normalised as it says, of a recording made once. */
static void test_grid_in_memory(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer x, weight, result, grids, words;
    struct rms_norm_args args;
    dsvk_cmd *cmd;
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 4 * ROWS * DIM, "x", &x, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, 4 * DIM, "weight", &weight, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_READBACK, 4 * ROWS * DIM, "result", &result, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_STAGING, 12, "words", &words, &error));
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 64, "grids", &grids, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    dsvk_dispatch_info info = norm_dispatch(&args, &x, &weight, &result);
    info.grid = &grids;
    info.grid_offset = 52;
    dsvk_cmd_fill(cmd, &x, 0, x.size, 0x40400000); /* 3.0 */
    dsvk_cmd_fill(cmd, &weight, 0, 4 * DIM, 0x3f800000);
    dsvk_cmd_fill(cmd, &result, 0, result.size, 0xffffffff);
    dsvk_cmd_copy(cmd, &words, 0, &grids, 52, 12);
    dsvk_barrier_grids(cmd);
    dsvk_dispatch(cmd, &info);
    for (uint32_t rows = 0; rows <= ROWS; rows++) {
        memcpy(words.host, (const uint32_t[]){rows, 1, 1}, 12);
        CHECK_OK(dsvk_cmd_run(cmd, &error));
        const float *got = result.host;
        for (uint32_t i = 0; i < ROWS; i++)
            CHECK((got[i * DIM] == got[i * DIM]) == (i < rows), "%u rows of %d: row %u", rows, ROWS, i);
    }
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    info.grid_offset = 56;
    dsvk_dispatch(cmd, &info);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_INVALID, "op rms_norm: its grid at byte 56 of a buffer of 64");
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &x);
    dsvk_buffer_destroy(device, &weight);
    dsvk_buffer_destroy(device, &result);
    dsvk_buffer_destroy(device, &words);
    dsvk_buffer_destroy(device, &grids);
    close_device(device);
}

/* Every kernel of the library asks for no more than every device has: the validation layer and the driver agree. Those on
 * cooperative matrices are for devices that list a shape: tests/ops/test_matmul.c builds them. */
static void test_every_kernel_builds(void) {
    dsvk_device *device = open_device(NULL);
    VkPipeline pipeline;
    for (const dsvk_shader *shader = dsvk_shaders; shader->name; shader++)
        if (!strstr(shader->name, "coopmat"))
            CHECK_OK(dsvk_pipeline_get(device, &(dsvk_dispatch_info){.op = shader->name, .shader = shader->name}, false, &pipeline,
                                       &error));
    close_device(device);
}

/* One pipeline per shader and constants; a dry recording builds it and runs nothing. */
static void test_pipelines(void) {
    static const uint32_t constants[][3] = {{1, 512, 64}, {0, 512, 64}, {1, 256, 64}};
    dsvk_device *device = open_device(NULL);
    VkPipeline made[4], again;
    dsvk_cmd *cmd;
    dsvk_dispatch_info info = {.op = "quant_row", .shader = "quant_row", .groups = {1, 1, 1}};
    CHECK_OK(dsvk_pipeline_get(device, &info, false, &made[3], &error));
    info.n_constants = 3;
    for (int i = 0; i < 3; i++) {
        info.constants = constants[i];
        CHECK_OK(dsvk_pipeline_get(device, &info, false, &made[i], &error));
        CHECK_OK(dsvk_pipeline_get(device, &info, false, &again, &error));
        CHECK(again == made[i], "the second time the same pipeline");
        for (int j = 0; j < i; j++)
            CHECK(made[j] != made[i] && made[3] != made[i], "other constants, another pipeline");
    }
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    dsvk_cmd_set_dry(cmd, true);
    dsvk_dispatch(cmd, &(dsvk_dispatch_info){.op = "norm", .shader = "rms_norm", .groups = {1, 1, 1}});
    CHECK(dsvk_cmd_dispatches(cmd) == 0, "nothing is dispatched");
    CHECK_OK(dsvk_cmd_run(cmd, &error)); /* its addresses are 0: it would have crashed */
    dsvk_cmd_destroy(cmd);
    info.n_constants = 99;
    CHECK_FAILS(dsvk_pipeline_get(device, &info, false, &again, &error), DSVK_INVALID, "99 specialization constants");
    close_device(device);
}

/* The report lists what was built, in order; drivers that keep figures give them when they were asked for at opening. */
static void test_pipeline_statistics(void) {
    static const uint32_t constants[][3] = {{1, 512, 64}, {0, 512, 64}, {1, 128, 64}};
    static const char *const shaders[] = {"quant_row", "quant_row", "quant_row", "rms_norm"};
    static const json_int_t in_order[][2] = {{0, 512}, {1, 128}, {1, 512}};
    for (uint32_t statistics = 0; statistics < 2; statistics++) {
        const dsvk_device_options options = {.size = sizeof options, .cache_dir = "", .statistics = statistics};
        dsvk_device *device = open_device(&options);
        VkPipeline made;
        char *text = NULL;
        CHECK_FAILS(dsvk_device_pipelines(device, NULL, &error), DSVK_INVALID, "json is NULL");
        CHECK_OK(dsvk_device_pipelines(device, &text, &error));
        json_t *root = parse_json(text);
        CHECK(json_is_array(root) && json_array_size(root) == 0, "no kernel yet");
        json_decref(root);
        CHECK_OK(dsvk_pipeline_get(device, &(dsvk_dispatch_info){.op = "rms_norm", .shader = "rms_norm"}, false, &made, &error));
        for (size_t i = 0; i < DSVK_COUNT(constants); i++)
            CHECK_OK(dsvk_pipeline_get(device,
                                       &(dsvk_dispatch_info){.op = "quant_row", .shader = "quant_row",
                                                             .constants = constants[i], .n_constants = 3},
                                       false, &made, &error));
        CHECK_OK(dsvk_device_pipelines(device, &text, &error));
        root = parse_json(text);
        CHECK(json_array_size(root) == 4, "%zu kernels", json_array_size(root));
        for (size_t i = 0; i < json_array_size(root); i++) {
            const json_t *one = json_array_get(root, i), *values = json_object_get(one, "constants");
            const json_t *executables = json_object_get(one, "executables");
            CHECK(strcmp(json_string_value(json_object_get(one, "shader")), shaders[i]) == 0, "shader %zu", i);
            CHECK(json_array_size(values) == (i < 3 ? 3 : 0), "constants of kernel %zu", i);
            for (size_t j = 0; i < 3 && j < 2; j++)
                CHECK(json_integer_value(json_array_get(values, j)) == in_order[i][j], "constant %zu of kernel %zu", j, i);
            const bool kept = statistics && device->physical.has_statistics;
            CHECK((json_array_size(executables) > 0) == kept, "%zu executables", json_array_size(executables));
            if (kept)
                CHECK(json_object_size(json_object_get(json_array_get(executables, 0), "statistics")) > 0, "figures");
        }
        json_decref(root);
        close_device(device);
    }
}

/* ---- more than one of everything ---- */

static void test_two_devices(void) {
    dsvk_device *devices[2] = {open_device(NULL), open_device(NULL)};
    dsvk_buffer buffers[2];
    dsvk_cmd *cmds[2];
    for (int i = 0; i < 2; i++) {
        CHECK_OK(dsvk_buffer_create(devices[i], DSVK_READBACK, 64, "b", &buffers[i], &error));
        CHECK_OK(dsvk_cmd_create(devices[i], &cmds[i], &error));
        dsvk_cmd_fill(cmds[i], &buffers[i], 0, 64, (uint32_t)i + 1);
    }
    for (int i = 0; i < 2; i++)
        CHECK_OK(dsvk_cmd_submit(cmds[i], &error));
    for (int i = 1; i >= 0; i--) {
        CHECK_OK(dsvk_cmd_wait(cmds[i], &error));
        CHECK(*(uint32_t *)buffers[i].host == (uint32_t)i + 1, "device %d", i);
        dsvk_cmd_destroy(cmds[i]);
        dsvk_buffer_destroy(devices[i], &buffers[i]);
    }
    CHECK(dsvk_device_retain(devices[0]) == devices[0], "retain");
    dsvk_device_close(devices[0]);
    CHECK_OK(dsvk_device_status(devices[0], &error)); /* the second owner keeps it */
    close_device(devices[0]);
    close_device(devices[1]);
}

static void *thread_body(void *argument) {
    dsvk_device *device = argument;
    dsvk_cmd *cmd = NULL;
    uintptr_t wrong = 0;
    if (dsvk_cmd_create(device, &cmd, NULL) != DSVK_OK)
        return (void *)1;
    for (uint32_t round = 0; round < 30 && !wrong; round++) {
        dsvk_buffer x, weight, result;
        struct rms_norm_args args;
        float got[ROWS * DIM];
        wrong += dsvk_buffer_create(device, DSVK_CACHE, sizeof got, "x", &x, NULL) != DSVK_OK;
        wrong += dsvk_buffer_create(device, DSVK_CACHE, 4 * DIM, "weight", &weight, NULL) != DSVK_OK;
        wrong += dsvk_buffer_create(device, DSVK_CACHE, sizeof got, "result", &result, NULL) != DSVK_OK;
        dsvk_cmd_fill(cmd, &x, 0, sizeof got, 0xc0000000); /* -2.0 */
        dsvk_cmd_fill(cmd, &weight, 0, 4 * DIM, 0x3f800000);
        dsvk_barrier(cmd);
        const dsvk_dispatch_info info = norm_dispatch(&args, &x, &weight, &result);
        dsvk_dispatch(cmd, &info);
        wrong += dsvk_cmd_run(cmd, NULL) != DSVK_OK;
        wrong += dsvk_buffer_read(device, &result, 0, got, sizeof got, NULL) != DSVK_OK;
        for (int i = 0; i < ROWS * DIM; i++)
            wrong += !(got[i] > -1.000001f && got[i] < -0.999999f);
        wrong += dsvk_cmd_begin(cmd, NULL) != DSVK_OK;
        dsvk_buffer_destroy(device, &x);
        dsvk_buffer_destroy(device, &weight);
        dsvk_buffer_destroy(device, &result);
    }
    dsvk_cmd_destroy(cmd);
    return (void *)wrong;
}

static void test_A15_threads(void) {
    dsvk_device *device = open_device(NULL);
    pthread_t threads[4];
    void *wrong;
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, thread_body, device) == 0, "pthread_create");
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], &wrong);
        CHECK(wrong == NULL, "thread %d: %lu wrong", i, (unsigned long)(uintptr_t)wrong);
    }
    close_device(device);
}

static void test_A11_fork(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer buffer;
    dsvk_cmd *cmd;
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 64, "b", &buffer, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dsvk_buffer other;
        int bad = 0;
        bad |= dsvk_buffer_create(device, DSVK_SCRATCH, 64, "c", &other, &error) != DSVK_STATE;
        bad |= !strstr(error.message, "forked child");
        bad |= dsvk_cmd_begin(cmd, &error) != DSVK_STATE;
        bad |= dsvk_cmd_run(cmd, &error) != DSVK_STATE;
        dsvk_cmd_destroy(cmd);
        dsvk_buffer_destroy(device, &buffer);
        dsvk_device_close(device);
        bad |= dsvk_alloc_live() != 0;
        _exit(bad);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0, "the child ended with %d", status);
    dsvk_cmd_fill(cmd, &buffer, 0, 64, 3);
    CHECK_OK(dsvk_cmd_run(cmd, &error)); /* the parent is unaffected */
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &buffer);
    close_device(device);
}

/* Fifty lives: no descriptor, no thread and no memory more than after the tenth. */
static void test_reopen(void) {
    uint64_t files = 0, threads = 0, resident = 0;
    for (int life = 0; life < 50; life++) {
        const dsvk_device_options options = {.size = sizeof options, .cache_dir = ""};
        dsvk_device *device;
        dsvk_buffer buffer;
        if (!CHECK_OK(dsvk_device_open(&device, &options, &error)))
            return;
        CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, MIB, "b", &buffer, &error));
        dsvk_device_close(device); /* takes the buffer along */
        if (life == 9) {
            files = count_files();
            threads = count_threads();
            resident = resident_bytes();
        }
    }
    CHECK(count_files() == files && count_threads() == threads, "descriptors %llu -> %llu, threads %llu -> %llu",
          (unsigned long long)files, (unsigned long long)count_files(), (unsigned long long)threads,
          (unsigned long long)count_threads());
    CHECK(resident_bytes() < resident + 40 * MIB, "%llu -> %llu bytes resident", (unsigned long long)resident,
          (unsigned long long)resident_bytes());
}

int main(void) {
    RUN(test_devices_json);
    RUN(test_open_choices);
    RUN(test_A01_options);
    RUN(test_D01_no_driver);
    RUN(test_buffer_sizes);
    RUN(test_allocator_random);
    RUN(test_allocator_merges);
    RUN(test_D04_budget);
    RUN(test_D06_max_allocation);
    RUN(test_fill_copy);
    RUN(test_staged_transfer);
    RUN(test_dispatch_profile);
    RUN(test_profile_parts);
    RUN(test_sticky_error);
    RUN(test_replay);
    RUN(test_many_in_one_submit);
    RUN(test_grid_in_memory);
    RUN(test_every_kernel_builds);
    RUN(test_pipelines);
    RUN(test_pipeline_statistics);
    RUN(test_two_devices);
    RUN(test_A15_threads);
    RUN(test_A11_fork);
    RUN(test_reopen);
    return test_result();
}
