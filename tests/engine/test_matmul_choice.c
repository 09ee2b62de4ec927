/* The choice of a way to multiply: forced, guessed, measured, remembered. Edge list: a name that no device has; every way this
 * device has passes the known product; what was measured is what the next opening of the device finds; a file that is cut
 * or names a way the device has not is no file. Times are not judged: only that the choice is one of those asked about. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

int main(int argc, char **argv) {
    static const struct test tests[] = { TEST(test_forced), TEST(test_measured_and_remembered) };
    return run_tests(tests, DSVK_COUNT(tests), argc, argv);
}
