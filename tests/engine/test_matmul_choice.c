/* The choice of a way to multiply: forced, guessed, measured, remembered. Edge list: a name that no device has; every way this
 * device has passes the known product; what was measured is what the next opening of the device finds; a file that is cut,
 * changed, longer or shorter, of another driver or device, or that names a way the device has not, is no file, and it is measured
 * anew; no device memory to measure in, a kernel of attention that cannot be built and
 * submits that fail: something is chosen all the same, and said. Times are not judged: only that the choice is one of those asked
 * about. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_internal.h"
#include "engine.h"
#include "harness_files.h"

static dsvk_device *open_device(const char *matmul) {
    dsvk_device *device = NULL;
    dsvk_error err;
    dsvk_device_options options = { .size = sizeof options, .cache_dir = in("cache"), .matmul = matmul };
    CHECK(dsvk_device_open(&device, &options, &err) == DSVK_OK, "%s", err.message);
    return device;
}

static bool same(dsvk_matmul_variant a, dsvk_matmul_variant b) { return memcmp(&a, &b, sizeof a) == 0; }

static void test_forced(void) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    char name[DSVK_MATMUL_NAME];
    dsvk_error err;
    dsvk_device *device = open_device(NULL), *none = NULL;
    const uint32_t n = dsvk_matmul_variants(device, list);
    CHECK(n >= 2 && list[0].kind == DSVK_MATMUL_FEW, "%u ways", n);
    CHECK(dsvk_device_matmul_source(device) == DSVK_MATMUL_GUESSED, "nobody has measured");
    for (uint32_t i = 0; i < n; i++) {
        dsvk_cmd *cmd = NULL;
        dsvk_device *forced = open_device(dsvk_matmul_name(list[i], name));
        CHECK(same(dsvk_device_matmul(forced), list[i]) && dsvk_device_matmul_source(forced) == DSVK_MATMUL_FORCED, "%s", name);
        CHECK(dsvk_cmd_create(forced, &cmd, &err) == DSVK_OK, "%s", err.message);
        CHECK(dsvk_matmul_choose(forced, cmd, &err) == DSVK_OK, "%s: %s", name, err.message);
        CHECK(same(dsvk_device_matmul(forced), list[i]), "%s stays", name);
        dsvk_cmd_destroy(cmd);
        dsvk_device_close(forced);
        if (list[i].kind == DSVK_MATMUL_COOPMAT) {
            for (uint32_t plain = 1; plain < 4; plain++) {
                list[i].plain_attention = plain & 1;
                list[i].plain_indexer = plain >> 1;
                forced = open_device(dsvk_matmul_name(list[i], name));
                CHECK(same(dsvk_device_matmul(forced), list[i]), "%s", name);
                dsvk_device_close(forced);
            }
        }
    }
    CHECK_REFUSED(dsvk_device_open(&none, &(dsvk_device_options){ .size = sizeof(dsvk_device_options), .matmul = "fast" }, &err),
                  DSVK_INVALID, &err, "fast|auto|few|tiled");
    dsvk_device_close(device);
}

/* Replaces the file of what was measured. */
static void damage(const void *payload, size_t n) {
    char command[600];
    snprintf(command, sizeof command, "%s/damaged", in("cache"));
    put_file(command, payload, n);
    snprintf(command, sizeof command, "for f in %s/matmul-*.cache; do mv %s/damaged $f; done", in("cache"), in("cache"));
    CHECK(system(command) == 0, "%s", command);
}

static void test_measured_and_remembered(void) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS], best, guess;
    dsvk_error err;
    dsvk_cmd *cmd = NULL;
    dsvk_device *device = open_device(NULL);
    const uint32_t n = dsvk_matmul_variants(device, list);
    guess = dsvk_device_matmul(device);
    CHECK(dsvk_cmd_create(device, &cmd, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_matmul_fastest(device, cmd, list + 1, n - 1 < 3 ? n - 1 : 3, &best, &err) == DSVK_OK, "%s", err.message);
    bool found = false;
    best.plain_attention = best.plain_indexer = 0; /* choices of their own */
    for (uint32_t i = 1; i < n; i++)
        found = found || same(best, list[i]);
    CHECK(found, "the fastest is none of those asked about");
    CHECK(same(dsvk_device_matmul(device), guess), "measuring changed what others of this device use");
    CHECK(dsvk_matmul_fastest(device, cmd, list, 0, &best, &err) == DSVK_OK && best.kind == DSVK_MATMUL_FEW, "none to choose from");
    list[n - 1].plain_attention = list[n - 1].kind == DSVK_MATMUL_COOPMAT;
    dsvk_device_remember_matmul(device, list[n - 1]);
    dsvk_cmd_destroy(cmd);
    dsvk_device_close(device);

    device = open_device("auto");
    CHECK(same(dsvk_device_matmul(device), list[n - 1]) && dsvk_device_matmul_source(device) == DSVK_MATMUL_CHOSEN, "remembered");
    dsvk_device_close(device);
    device = open_device("few");
    CHECK(dsvk_device_matmul(device).kind == DSVK_MATMUL_FEW, "an option is stronger than what is remembered");
    dsvk_device_remember_matmul(device, (dsvk_matmul_variant){ DSVK_MATMUL_COOPMAT, 9, 9, 9 }); /* of another driver */
    dsvk_device_close(device);
    device = open_device(NULL);
    CHECK(same(dsvk_device_matmul(device), guess) && dsvk_device_matmul_source(device) == DSVK_MATMUL_GUESSED, "no such way here");
    dsvk_device_close(device);
    damage(list, 3);
    device = open_device(NULL);
    CHECK(same(dsvk_device_matmul(device), guess) && dsvk_device_matmul_source(device) == DSVK_MATMUL_GUESSED, "a cut file");
    dsvk_device_close(device);
}

enum fault { WHOLE, OTHER_BYTES, OTHER_DRIVER, OTHER_DEVICE, OTHER_CACHE, LONGER, SHORTER, FAULTS };
static const char *const fault_names[] = { "whole", "other bytes under the old hash", "of another driver version", "of another device",
                                           "of another build of the driver", "of two variants", "a byte short" };

/* The file of what was measured, naming `chosen`, with one thing wrong. */
static void write_wrong(const dsvk_matmul_variant *list, dsvk_matmul_variant chosen, enum fault fault) {
    dsvk_device *device = open_device("few");
    VkPhysicalDeviceProperties *p = &device->physical.properties;
    const dsvk_matmul_variant two[2] = { chosen, chosen };
    char path[4096];
    p->driverVersion += fault == OTHER_DRIVER;
    p->deviceID += fault == OTHER_DEVICE;
    p->pipelineCacheUUID[0] += fault == OTHER_CACHE;
    if (fault == LONGER || fault == SHORTER)
        dsvk_cache_write(device, "matmul", two, fault == LONGER ? sizeof two : sizeof chosen - 1);
    else
        dsvk_device_remember_matmul(device, chosen);
    if (fault == OTHER_BYTES) { /* of a way the device has as well */
        FILE *file = dsvk_cache_path(device, "matmul", path, sizeof path) ? fopen(path, "r+b") : NULL;
        CHECK(file && fseek(file, -(long)sizeof *list, SEEK_END) == 0 && fwrite(&list[1], sizeof *list, 1, file) == 1, "%s", path);
        if (file)
            fclose(file);
    }
    dsvk_device_close(device);
}

static void test_wrong_files(void) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    dsvk_error err;
    dsvk_device *device = open_device("few");
    const uint32_t n = dsvk_matmul_variants(device, list);
    const bool measurable = list[1].kind != DSVK_MATMUL_REGISTERS || list[2].kind == DSVK_MATMUL_COLUMNS;
    dsvk_device_close(device);
    for (enum fault fault = WHOLE; fault < FAULTS; fault++) {
        dsvk_cmd *cmd = NULL;
        write_wrong(list, list[n - 1], fault);
        device = open_device(NULL);
        CHECK((dsvk_device_matmul_source(device) == DSVK_MATMUL_CHOSEN) == (fault == WHOLE), "a file %s", fault_names[fault]);
        if (fault == WHOLE)
            CHECK(same(dsvk_device_matmul(device), list[n - 1]), "the file is what decides");
        if (fault != WHOLE && measurable) {
            CHECK(dsvk_cmd_create(device, &cmd, &err) == DSVK_OK, "%s", err.message);
            CHECK(dsvk_matmul_choose(device, cmd, &err) == DSVK_OK, "%s", err.message);
            CHECK(dsvk_device_matmul_source(device) == DSVK_MATMUL_CHOSEN, "measured anew");
            dsvk_cmd_destroy(cmd);
            dsvk_device_close(device);
            device = open_device(NULL);
            CHECK(dsvk_device_matmul_source(device) == DSVK_MATMUL_CHOSEN, "after one %s there is a whole file", fault_names[fault]);
        }
        dsvk_device_close(device);
    }
}

/* ---- what goes wrong while measuring ---- */

static char told[4000];

static void tell(void *user, const char *line) {
    (void)user;
    snprintf(told + strlen(told), sizeof told - strlen(told), "%s\n", line);
}

static VKAPI_ATTR VkResult VKAPI_CALL no_allocation(VkDevice device, const VkMemoryAllocateInfo *info,
                                                    const VkAllocationCallbacks *callbacks, VkDeviceMemory *memory) {
    (void)device, (void)info, (void)callbacks, (void)memory;
    return VK_ERROR_OUT_OF_DEVICE_MEMORY;
}

/* The first that is asked for cannot be built; then device memory is out. */
static VKAPI_ATTR VkResult VKAPI_CALL no_pipelines(VkDevice device, VkPipelineCache cache, uint32_t n,
                                                   const VkComputePipelineCreateInfo *infos, const VkAllocationCallbacks *callbacks,
                                                   VkPipeline *pipelines) {
    (void)device, (void)cache, (void)n, (void)infos, (void)callbacks, (void)pipelines;
    return told[0] ? VK_ERROR_OUT_OF_DEVICE_MEMORY : VK_ERROR_INITIALIZATION_FAILED;
}

static dsvk_device *open_telling(dsvk_cmd **cmd) {
    dsvk_device *device = NULL;
    dsvk_error err;
    const dsvk_device_options options = { .size = sizeof options, .cache_dir = in("nothing measured"), .log = tell };
    CHECK(dsvk_device_open(&device, &options, &err) == DSVK_OK, "%s", err.message);
    CHECK(dsvk_cmd_create(device, cmd, &err) == DSVK_OK, "%s", err.message);
    told[0] = 0;
    return device;
}

static void test_no_room_to_measure(void) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    dsvk_error err;
    dsvk_cmd *cmd = NULL;
    dsvk_device *device = open_telling(&cmd);
    const dsvk_matmul_variant guess = dsvk_device_matmul(device);
    const PFN_vkAllocateMemory real = device->vk.vkAllocateMemory;
    dsvk_matmul_variants(device, list);
    device->vk.vkAllocateMemory = no_allocation;
    CHECK(dsvk_matmul_choose(device, cmd, &err) == DSVK_OK, "%s", err.message);
    CHECK(same(dsvk_device_matmul(device), guess) && dsvk_device_matmul_source(device) == DSVK_MATMUL_GUESSED, "the guess stays");
    if (list[1].kind != DSVK_MATMUL_REGISTERS || list[2].kind == DSVK_MATMUL_COLUMNS) { /* else there is nothing to measure */
        CHECK(strstr(told, "is taken without measuring: ") && strstr(told, "timed product"), "it says so: %s", told);
        device->vk.vkAllocateMemory = real;
        CHECK(dsvk_matmul_choose(device, cmd, &err) == DSVK_OK, "%s", err.message);
        CHECK(dsvk_device_matmul_source(device) == DSVK_MATMUL_CHOSEN, "the next one measures");
    }
    device->vk.vkAllocateMemory = real;
    dsvk_cmd_destroy(cmd);
    dsvk_device_close(device);
}

/* No device is asked for its matrix units: their kernels are not built. */
static void test_attention_that_cannot_be_timed(void) {
    dsvk_matmul_variant v = { .kind = DSVK_MATMUL_COOPMAT, .m = 16, .n = 16, .k = 16 };
    dsvk_error err = { .status = DSVK_OK };
    dsvk_cmd *cmd = NULL;
    dsvk_device *device = open_telling(&cmd);
    const PFN_vkCreateComputePipelines real = device->vk.vkCreateComputePipelines;
    device->byte_products = true;
    device->vk.vkCreateComputePipelines = no_pipelines;
    CHECK_REFUSED(dsvk_matmul_plain(device, cmd, &v, &err), DSVK_DEVMEM, &err, "pipeline of indexer");
    CHECK(v.kind == DSVK_MATMUL_COOPMAT && v.plain_attention && v.plain_indexer, "the plain ways");
    CHECK(strstr(told, "attention: without matrix units") && strstr(told, "index scores: without matrix units"), "it says so: %s", told);
    device->byte_products = false; /* no index scores to decide about, and all that fails can be remembered */
    told[0] = 0;
    CHECK(dsvk_matmul_plain(device, cmd, &v, &err) == DSVK_OK && v.plain_attention && !v.plain_indexer, "%s", err.message);
    device->vk.vkCreateComputePipelines = real;
    dsvk_cmd_destroy(cmd);
    dsvk_device_close(device);
}

int main(int argc, char **argv) {
    static const struct test tests[] = { TEST(test_forced), TEST(test_measured_and_remembered), TEST(test_wrong_files),
                                         TEST(test_no_room_to_measure), TEST(test_attention_that_cannot_be_timed) };
    return run_tests(tests, DSVK_COUNT(tests), argc, argv);
}
