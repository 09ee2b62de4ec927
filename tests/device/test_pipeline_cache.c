/* The pipeline cache file: D15 (damaged in every way) and D16 (two processes, odd folders). The drivers' payloads are
 * opaque, so most of it is proved on invented ones, through the two functions that read and write the file.
 *
 * Edge list: payload of 1 byte, 7, 8, 9 (the hash's words); the file cut at every length, every byte of it flipped, one
 * byte too many; another driver, device, word size; folder missing, read-only, a file, a link; file a link, a FIFO. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness_device.h"

static dsvk_error error;
static char folder[] = "/tmp/dsvk_cache_test_XXXXXX"; /* made and removed by main */

static void cache_folder(char *out, size_t size, const char *name) {
    char command[300];
    snprintf(out, size, "%s/%s", folder, name);
    snprintf(command, sizeof command, "rm -rf %s", out);
    CHECK(system(command) == 0, "%s", command);
}

static dsvk_device *open_with_cache(const char *path) {
    const dsvk_device_options options = {.size = sizeof options, .cache_dir = path};
    return open_device(&options);
}

static void build_something(dsvk_device *device) {
    VkPipeline pipeline;
    const dsvk_dispatch_info info = {.op = "norm", .shader = "rms_norm", .groups = {1, 1, 1}};
    CHECK_OK(dsvk_pipeline_get(device, &info, false, &pipeline, &error));
}

static void make_payload(uint8_t *payload, size_t n, uint32_t seed) {
    for (size_t i = 0; i < n; i++)
        payload[i] = (uint8_t)((i + seed) * 2654435761u >> 24);
}

/* What is read back: the payload's bytes, or 0 for none. */
static size_t read_back(const dsvk_device *device, uint8_t *out, size_t most) {
    void *payload;
    size_t bytes;
    dsvk_cache_read(device, "pipelines", &payload, &bytes);
    CHECK((payload != NULL) == (bytes != 0), "NULL means no bytes");
    if (payload && bytes <= most)
        memcpy(out, payload, bytes);
    dsvk_free(payload);
    return bytes;
}

static size_t slurp(const char *path, uint8_t *out, size_t most) {
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, out, most);
    if (fd >= 0)
        close(fd);
    return n < 0 ? 0 : (size_t)n;
}

static void spill(const char *path, const uint8_t *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, data, n) == (ssize_t)n, "writing %s", path);
    if (fd >= 0)
        close(fd);
}

/* ---- D15 ---- */

static void test_D15_round_trip(void) {
    static const size_t sizes[] = {1, 7, 8, 9, 5000};
    char path[300], file[4096];
    uint8_t payload[5000], got[5000];
    struct stat info;
    cache_folder(path, sizeof path, "a/b/c");
    dsvk_device *device = open_with_cache(path);
    CHECK(read_back(device, got, sizeof got) == 0, "there is none at first");
    for (size_t i = 0; i < DSVK_COUNT(sizes); i++) {
        make_payload(payload, sizes[i], (uint32_t)i);
        dsvk_cache_write(device, "pipelines", payload, sizes[i]);
        CHECK(read_back(device, got, sizeof got) == sizes[i] && memcmp(got, payload, sizes[i]) == 0, "%zu bytes",
              sizes[i]);
    }
    CHECK(dsvk_cache_path(device, "pipelines", file, sizeof file), "path");
    CHECK(stat(file, &info) == 0 && (info.st_mode & 0777) == 0600, "the file is this user's: %o", info.st_mode);
    CHECK(stat(path, &info) == 0 && (info.st_mode & 0777) == 0700, "the folder too: %o", info.st_mode);
    close_device(device);
}

static void test_D15_damaged(void) {
    enum { N = 203 };
    char path[300], file[4096];
    uint8_t payload[N], got[N + 1], whole[1000];
    cache_folder(path, sizeof path, "damaged");
    dsvk_device *device = open_with_cache(path);
    make_payload(payload, N, 1);
    dsvk_cache_write(device, "pipelines", payload, N);
    CHECK(dsvk_cache_path(device, "pipelines", file, sizeof file), "path");
    const size_t n = slurp(file, whole, sizeof whole);
    CHECK(n > N && n < sizeof whole, "%zu bytes", n);
    for (size_t cut = 0; cut < n; cut++) {
        spill(file, whole, cut);
        CHECK(read_back(device, got, N) == 0, "cut at %zu", cut);
    }
    whole[n] = 0;
    spill(file, whole, n + 1);
    CHECK(read_back(device, got, N) == 0, "one byte too many");
    for (size_t i = 0; i < n; i++) {
        whole[i] ^= (uint8_t)(1u << i % 8);
        spill(file, whole, n);
        CHECK(read_back(device, got, N) == 0, "byte %zu flipped", i);
        whole[i] ^= (uint8_t)(1u << i % 8);
    }
    spill(file, whole, n);
    CHECK(read_back(device, got, N) == N, "undamaged again");

    /* The same file under another driver, device or kernel set: only the header can know. */
    dsvk_physical *p = &device->physical;
    p->properties.driverVersion++;
    CHECK(read_back(device, got, N) == 0, "another driver version");
    p->properties.driverVersion--;
    p->properties.deviceID++;
    CHECK(read_back(device, got, N) == 0, "another device");
    p->properties.deviceID--;
    p->properties.pipelineCacheUUID[3]++;
    CHECK(read_back(device, got, N) == 0, "another cache UUID");
    p->properties.pipelineCacheUUID[3]--;
    CHECK(read_back(device, got, N) == N, "this device again");
    close_device(device);
}

/* From the outside: whatever is in the file, the device opens and works, and the next one finds a good file. */
static void test_D15_open_with_damage(void) {
    static const char *const rubbish[] = {"", "x", "dsvkpipe", "<html>404</html>"};
    char path[300], file[4096];
    uint8_t first[70000], again[70000];
    cache_folder(path, sizeof path, "outside");
    dsvk_device *device = open_with_cache(path);
    CHECK(dsvk_cache_path(device, "pipelines", file, sizeof file), "path");
    build_something(device);
    close_device(device);
    const size_t n = slurp(file, first, sizeof first);
    CHECK(n > 120, "a file of %zu bytes is left", n);
    for (size_t i = 0; i < DSVK_COUNT(rubbish); i++) {
        spill(file, (const uint8_t *)rubbish[i], strlen(rubbish[i]));
        device = open_with_cache(path);
        build_something(device);
        close_device(device);
        CHECK(slurp(file, again, sizeof again) >= 120 && memcmp(again, "dsvkpipe", 8) == 0, "\"%s\" was replaced",
              rubbish[i]);
    }
}

/* A process that finds everything in the file does not write it again. */
static void test_written_only_when_grown(void) {
    char path[300], file[4096];
    struct stat before, after;
    cache_folder(path, sizeof path, "grown");
    dsvk_device *device = open_with_cache(path);
    CHECK(dsvk_cache_path(device, "pipelines", file, sizeof file), "path");
    build_something(device);
    close_device(device);
    CHECK(stat(file, &before) == 0, "written");
    device = open_with_cache(path);
    build_something(device);
    close_device(device);
    CHECK(stat(file, &after) == 0 && after.st_ino == before.st_ino, "the same file");
}

/* ---- D16 ---- */

/* Several processes write and read one file as fast as they can: every read is one of the payloads, whole. */
static void test_D16_processes(void) {
    enum { PROCESSES = 4, ROUNDS = 150, N = 40000 };
    char path[300];
    static uint8_t payload[N], got[N];
    pid_t children[PROCESSES];
    cache_folder(path, sizeof path, "shared");
    dsvk_device *device = open_with_cache(path);
    make_payload(payload, N, 0);
    dsvk_cache_write(device, "pipelines", payload, N);
    fflush(stdout);
    for (uint32_t c = 0; c < PROCESSES; c++) {
        children[c] = fork();
        if (children[c] != 0)
            continue;
        int bad = 0;
        for (uint32_t round = 0; round < ROUNDS && !bad; round++) {
            make_payload(payload, N - c, c);
            dsvk_cache_write(device, "pipelines", payload, N - c);
            const size_t n = read_back(device, got, N);
            bad = n > N || n + PROCESSES <= N;
            make_payload(payload, n, (uint32_t)(N - n));
            bad |= memcmp(payload, got, n) != 0;
        }
        _exit(bad);
    }
    for (uint32_t c = 0; c < PROCESSES; c++) {
        int status = -1;
        waitpid(children[c], &status, 0);
        CHECK(status == 0, "process %u ended with %d", c, status);
    }
    char command[400];
    snprintf(command, sizeof command, "test $(ls %s | wc -l) = 1", path);
    CHECK(system(command) == 0, "nothing but the file is left in the folder");
    close_device(device);
}

/* Folders that cannot be used: no cache, no error. */
static void test_D16_odd_folders(void) {
    char path[300], other[300], file[4096];
    uint8_t payload[10] = {1}, got[10];
    cache_folder(path, sizeof path, "file");
    spill(path, payload, 1);
    dsvk_device *device = open_with_cache(path); /* a file where the folder should be */
    build_something(device);
    dsvk_cache_write(device, "pipelines", payload, sizeof payload);
    CHECK(read_back(device, got, sizeof got) == 0, "none");
    close_device(device);

    device = open_with_cache("/proc/dsvk"); /* where nobody may create a folder */
    build_something(device);
    close_device(device);

    device = open_with_cache(""); /* none wanted */
    CHECK(!dsvk_cache_path(device, "pipelines", file, sizeof file), "no path");
    close_device(device);

    cache_folder(path, sizeof path, "linked");
    cache_folder(other, sizeof other, "elsewhere");
    device = open_with_cache(path);
    dsvk_cache_write(device, "pipelines", payload, sizeof payload);
    CHECK(dsvk_cache_path(device, "pipelines", file, sizeof file), "path");
    CHECK(rename(file, other) == 0 && symlink(other, file) == 0, "link");
    CHECK(read_back(device, got, sizeof got) == 0, "a link is not followed");
    dsvk_cache_write(device, "pipelines", payload, sizeof payload);
    CHECK(read_back(device, got, sizeof got) == sizeof got, "but replaced");
    CHECK(unlink(file) == 0 && mkfifo(file, 0600) == 0, "FIFO");
    CHECK(read_back(device, got, sizeof got) == 0, "a FIFO does not block");
    close_device(device);
}

/* Without cache_dir: $XDG_CACHE_HOME/dsvk, else ~/.cache/dsvk, else none. */
static void test_default_folder(void) {
    char wanted[300];
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    const dsvk_device_options options = {.size = sizeof options};
    setenv("HOME", folder, 1);
    setenv("XDG_CACHE_HOME", folder, 1);
    snprintf(wanted, sizeof wanted, "%s/dsvk", folder);
    dsvk_device *device = open_device(&options);
    CHECK(strcmp(device->cache_dir, wanted) == 0, "%s", device->cache_dir);
    close_device(device);
    unsetenv("XDG_CACHE_HOME");
    snprintf(wanted, sizeof wanted, "%s/.cache/dsvk", folder);
    device = open_device(&options);
    CHECK(strcmp(device->cache_dir, wanted) == 0, "%s", device->cache_dir);
    close_device(device);
    unsetenv("HOME");
    device = open_device(&options);
    CHECK(device->cache_dir[0] == 0, "%s", device->cache_dir);
    close_device(device);
    if (home)
        setenv("HOME", home, 1);
    free(home);
}

int main(void) {
    char command[100];
    if (!mkdtemp(folder)) {
        printf("mkdtemp: %s\n", strerror(errno));
        return 1;
    }
    RUN(test_D15_round_trip);
    RUN(test_D15_damaged);
    RUN(test_D15_open_with_damage);
    RUN(test_written_only_when_grown);
    RUN(test_D16_processes);
    RUN(test_D16_odd_folders);
    RUN(test_default_folder);
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        printf("%s failed\n", command);
    return test_result();
}
