/* The device tests' common part; see harness_device.h. */
#include "harness_device.h"

#include <dirent.h>
#include <stdarg.h>
#include <unistd.h>

static uint32_t passed, failed;
static bool validated;

bool check_at(bool ok, const char *file, int line, const char *format, ...) {
    if (ok) {
        passed++;
        return true;
    }
    failed++;
    printf("%s:%d: ", file, line);
    va_list list;
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    printf("\n");
    return false;
}

bool check_failure(dsvk_status got, dsvk_status wanted, dsvk_error *error, const char *part, const char *file, int line,
                   const char *call) {
    bool ok = got == wanted && error->status == wanted && strstr(error->message, part);
    check_at(ok, file, line, "%s: wanted %s with \"%s\", got %s: %s", call, dsvk_status_name(wanted), part,
             dsvk_status_name(got), got == DSVK_OK ? "" : error->message);
    memset(error, 0, sizeof *error);
    return ok;
}

void run_test(const char *name, void (*body)(void)) {
    const uint32_t before = failed;
    const int64_t live = dsvk_alloc_live();
    body();
    CHECK(dsvk_alloc_live() == live, "%s left %lld allocations", name, (long long)(dsvk_alloc_live() - live));
    printf("%s %s\n", failed == before ? "ok  " : "FAIL", name);
    fflush(stdout);
}

int test_result(void) {
    printf("%u passed, %u failed%s\n", passed, failed, validated ? "" : " (the validation layer is not installed)");
    return failed > 0;
}

dsvk_device *open_device(const dsvk_device_options *given) {
    dsvk_device_options options = {.size = sizeof options, .cache_dir = ""};
    dsvk_device *device;
    dsvk_error error = {0};
    if (given)
        options = *given;
    options.validation = 1;
    if (dsvk_device_open(&device, &options, &error) != DSVK_OK) {
        printf("open device: %s: %s\n", dsvk_status_name(error.status), error.message);
        exit(1);
    }
    validated = device->vk.validation != NULL;
    return device;
}

/* The validation layer reports what is left over when the VkDevice is destroyed, so that is where to look. */
static dsvk_device *closing;
static PFN_vkDestroyDevice real_destroy_device;

static VKAPI_ATTR void VKAPI_CALL destroy_and_look(VkDevice handle, const VkAllocationCallbacks *callbacks) {
    char first[DSVK_MESSAGE_SIZE];
    real_destroy_device(handle, callbacks);
    uint32_t messages = dsvk_device_validation_messages(closing, first, sizeof first);
    CHECK(messages == 0, "%u validation messages, the first: %s", messages, first);
    closing = NULL;
}

void close_device(dsvk_device *device) {
    closing = device;
    real_destroy_device = device->vk.vkDestroyDevice;
    device->vk.vkDestroyDevice = destroy_and_look;
    dsvk_device_close(device);
    CHECK(closing == NULL, "the VkDevice was destroyed");
}

uint32_t random_below(uint32_t limit) { /* splitmix64 */
    static uint64_t state = 0x64657669636521;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32) % limit;
}

json_t *parse_json(char *text) {
    json_t *root = text ? json_loads(text, 0, NULL) : NULL;
    CHECK(root != NULL, "JSON: %s", text ? text : "NULL");
    dsvk_free(text);
    return root;
}

static uint64_t count_entries(const char *folder) {
    uint64_t n = 0;
    DIR *dir = opendir(folder);
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

uint64_t count_files(void) {
    return count_entries("/proc/self/fd");
}
uint64_t count_threads(void) {
    return count_entries("/proc/self/task");
}

uint64_t resident_bytes(void) {
    unsigned long long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}
