/* A Vulkan device that the host has made (faults A16): what has to be enabled, who locks the queue, whose the device is afterwards; and
 * the host's log. The host is this test, with an instance of its own under the validation layer where that is installed. */
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness_device.h"

static dsvk_error error;

/* ---- the host ---- */

static struct {
    dsvk_vk vk;
    dsvk_validation validation;
    VkPhysicalDevice physical;
    VkQueue queue;
    pthread_mutex_t mutex;
    uint32_t locks, unlocks;
} app = { .validation.lock = PTHREAD_MUTEX_INITIALIZER, .mutex = PTHREAD_MUTEX_INITIALIZER };

static void lock_queue(void *user) {
    pthread_mutex_lock(user);
    app.locks++;
}
static void unlock_queue(void *user) {
    app.unlocks++;
    pthread_mutex_unlock(user);
}

static const float priority = 1;
static const VkDeviceQueueCreateInfo queue_info = {
    .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1, .pQueuePriorities = &priority };

static dsvk_host_device host_of(VkDevice device, const VkDeviceCreateInfo *info) {
    return (dsvk_host_device){ .size = sizeof(dsvk_host_device), .instance = app.vk.instance, .physical_device = app.physical,
                               .device = device, .create_info = info, .queue = app.queue, .lock_queue = lock_queue,
                               .unlock_queue = unlock_queue, .user = &app.mutex };
}

static VkDevice make_device(const VkDeviceCreateInfo *info) {
    VkDevice device = NULL;
    const VkResult result = app.vk.vkCreateDevice(app.physical, info, NULL, &device);
    CHECK(result == VK_SUCCESS, "vkCreateDevice: %s", dsvk_vk_result_name(result));
    CHECK_OK(dsvk_vk_load_device(&app.vk, device, &error));
    app.vk.vkGetDeviceQueue(device, 0, 0, &app.queue);
    return device;
}

static void destroy_device(VkDevice device) {
    app.vk.vkDestroyDevice(device, NULL);
    CHECK(app.validation.messages == 0, "%u validation messages, the first: %s", app.validation.messages, app.validation.first);
}

static dsvk_status open_on(const dsvk_host_device *host, dsvk_device **device) {
    const dsvk_device_options options = { .size = sizeof options, .cache_dir = "", .host = host };
    return dsvk_device_open(device, &options, &error);
}

/* ---- use ---- */

static void test_A16_host_device(void) {
    VkDeviceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue_info };
    dsvk_host_device host = host_of(NULL, NULL);
    const uint32_t words[] = { 1, 2, 3, 4 };
    uint32_t back[4] = { 0 };
    dsvk_device *device;
    dsvk_buffer buffer;
    dsvk_cmd *cmd;
    void *added, *again;
    char *json = NULL;
    CHECK_OK(dsvk_host_device_prepare(&host, &info, &added, &error));
    const uint32_t n_extensions = info.enabledExtensionCount;
    const void *chain = info.pNext;
    CHECK_OK(dsvk_host_device_prepare(&host, &info, &again, &error));
    CHECK(info.enabledExtensionCount == n_extensions && info.pNext == chain, "a second time there is nothing to add");
    VkDevice handle = make_device(&info);
    host = host_of(handle, &info);
    CHECK_OK(open_on(&host, &device));
    dsvk_free(again);
    dsvk_free(added);
    memset(&host, 0xee, sizeof host); /* and the host's struct may go too */
    app.locks = app.unlocks = 0;
    CHECK_OK(dsvk_buffer_create(device, DSVK_CACHE, sizeof words, "words", &buffer, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    dsvk_cmd_fill(cmd, &buffer, 0, sizeof words, 7);
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    CHECK(app.locks == 1 && app.unlocks == 1, "a submit locked %u times and unlocked %u times", app.locks, app.unlocks);
    CHECK_OK(dsvk_buffer_read(device, &buffer, 0, back, sizeof back, &error));
    CHECK(back[0] == 7 && back[3] == 7, "read %u and %u", back[0], back[3]);
    CHECK_OK(dsvk_device_describe(device, &json, &error));
    json_t *root = parse_json(json);
    CHECK(json_is_true(json_object_get(root, "host")), "it says that it is the host's");
    json_decref(root);
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &buffer);
    dsvk_device_close(device);
    CHECK(app.locks == app.unlocks, "locked %u times, unlocked %u times", app.locks, app.unlocks);
    VkSemaphore semaphore;
    CHECK(app.vk.vkCreateSemaphore(handle, &(VkSemaphoreCreateInfo){ .sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO }, NULL, &semaphore) ==
              VK_SUCCESS, "the device is the host's");
    app.vk.vkDestroySemaphore(handle, semaphore, NULL);
    destroy_device(handle); /* with validation: nothing of ours is left */
}

/* Every host allocation fails on the way. */
static void test_A06_host_device(void) {
    VkDeviceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue_info };
    VkDeviceCreateInfo failed = info;
    dsvk_host_device host = host_of(NULL, NULL);
    dsvk_device *device;
    void *added;
    for (int64_t n = 0, made = INT64_MAX; n < made; n++) {
        failed = info;
        dsvk_alloc_fail_after(n);
        const dsvk_status status = dsvk_host_device_prepare(&host, &failed, &added, &error);
        made = dsvk_alloc_fail_after(-1);
        CHECK(status == (made > n ? DSVK_NOMEM : DSVK_OK), "allocation %d: %s", (int)n, dsvk_status_name(status));
        CHECK(status == DSVK_OK || (!added && failed.pNext == NULL), "allocation %d left the struct changed", (int)n);
    }
    VkDevice handle = make_device(&failed);
    host = host_of(handle, &failed);
    for (int64_t n = 0, made = INT64_MAX; n < made; n++) {
        dsvk_alloc_fail_after(n);
        const dsvk_status status = open_on(&host, &device);
        made = dsvk_alloc_fail_after(-1);
        CHECK(status == (made > n ? DSVK_NOMEM : DSVK_OK), "allocation %d: %s", (int)n, dsvk_status_name(status));
        dsvk_device_close(device);
    }
    dsvk_free(added);
    destroy_device(handle);
}

/* ---- what is enabled ---- */

static void test_A16_missing_features(void) {
    VkPhysicalDeviceVulkan12Features f12 = { .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, .timelineSemaphore = VK_TRUE,
                                             .vulkanMemoryModel = VK_TRUE };
    VkPhysicalDeviceMaintenance4Features m4 = { .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_FEATURES, .pNext = &f12,
                                                .maintenance4 = VK_TRUE };
    VkDeviceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue_info };
    VkDevice handle = make_device(&info);
    dsvk_host_device host = host_of(handle, &info);
    dsvk_device *device;
    CHECK_FAILS(open_on(&host, &device), DSVK_INVALID,
                "bufferDeviceAddress, timelineSemaphore, scalarBlockLayout, synchronization2, maintenance4; dsvk_host_device_prepare");
    info.pNext = &m4;
    CHECK_FAILS(open_on(&host, &device), DSVK_INVALID, "needed: bufferDeviceAddress, scalarBlockLayout, synchronization2, "
                                                       "vulkanMemoryModelDeviceScope;");
    CHECK(device == NULL, "nothing is opened");
    destroy_device(handle);
}

/* Structs and extensions of the host stay; features go into the structs that are there. */
static void test_A16_prepare_keeps_what_is_there(void) {
    static const char budget[] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
    const char *extensions[] = { budget };
    VkPhysicalDeviceVulkan12Features f12 = { .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, .hostQueryReset = VK_TRUE };
    VkPhysicalDeviceFeatures2 f2 = { .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &f12 };
    VkDeviceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .pNext = &f2, .queueCreateInfoCount = 1,
                                .pQueueCreateInfos = &queue_info, .enabledExtensionCount = 1, .ppEnabledExtensionNames = extensions };
    const dsvk_host_device host = host_of(NULL, NULL);
    void *added;
    bool found = false;
    uint32_t budgets = 0;
    CHECK_OK(dsvk_host_device_prepare(&host, &info, &added, &error));
    CHECK(f12.bufferDeviceAddress && f12.timelineSemaphore && f12.scalarBlockLayout && f12.hostQueryReset, "set where they belong");
    for (const VkBaseInStructure *s = info.pNext; s; s = s->pNext) {
        found |= (const void *)s == &f2;
        CHECK(s->sType != VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES, "a second struct for what has one");
    }
    for (uint32_t i = 0; i < info.enabledExtensionCount; i++)
        budgets += strcmp(info.ppEnabledExtensionNames[i], budget) == 0;
    CHECK(found && budgets == 1, "the host's structs %s, its extension %u times", found ? "are there" : "are gone", budgets);
    destroy_device(make_device(&info)); /* valid, says the layer */
    dsvk_free(added);
}

static void test_A01_host_device_arguments(void) {
    VkDeviceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue_info };
    dsvk_host_device host = host_of(NULL, NULL), bad;
    dsvk_device *device;
    void *added, *unused;
    CHECK_FAILS(dsvk_host_device_prepare(&host, NULL, &unused, &error), DSVK_INVALID, "create_info is NULL");
    CHECK_FAILS(dsvk_host_device_prepare(NULL, &info, &unused, &error), DSVK_INVALID, "host is NULL");
    CHECK_OK(dsvk_host_device_prepare(&host, &info, &added, &error));
    VkDevice handle = make_device(&info);
    host = host_of(handle, &info);
#define REFUSED(field, value, part)                                \
    bad = host;                                                    \
    bad.field = value;                                             \
    CHECK_FAILS(open_on(&bad, &device), DSVK_INVALID, part)
    REFUSED(size, 4, "dsvk_host_device.size is 4");
    REFUSED(instance, NULL, "dsvk_host_device.instance is NULL");
    REFUSED(physical_device, NULL, "dsvk_host_device.physical_device is NULL");
    REFUSED(device, NULL, "dsvk_host_device.device is NULL");
    REFUSED(create_info, NULL, "dsvk_host_device.create_info is NULL");
    REFUSED(queue, NULL, "dsvk_host_device.queue is NULL");
    REFUSED(unlock_queue, NULL, "unlock_queue is NULL and the other is not");
    REFUSED(queue_family, 63, "queue_family 63");
    const dsvk_device_options named = { .size = sizeof named, .host = &host, .device = "0" };
    CHECK_FAILS(dsvk_device_open(&device, &named, &error), DSVK_INVALID, "dsvk_device_options.device has no meaning");
    const dsvk_device_options layered = { .size = sizeof layered, .host = &host, .validation = 1 };
    CHECK_FAILS(dsvk_device_open(&device, &layered, &error), DSVK_INVALID, "dsvk_device_options.validation has no meaning");
    dsvk_free(added);
    destroy_device(handle);
}

/* ---- the log ---- */

static struct {
    dsvk_device *device;
    uint32_t lines;
    char last[DSVK_MESSAGE_SIZE];
    dsvk_status status; /* of a call from inside */
} told;

static void listen(void *user, const char *line) {
    char *json = NULL;
    CHECK(user == &told, "the user pointer");
    told.lines++;
    snprintf(told.last, sizeof told.last, "%s", line);
    if (told.device)
        told.status = dsvk_device_describe(told.device, &json, NULL);
    dsvk_free(json);
}

static void test_A16_D16_log(void) {
    const char *folder = "/proc/nowhere";
    const dsvk_device_options options = { .size = sizeof options, .cache_dir = folder, .log = listen, .user = &told };
    const dsvk_matmul_variant few = { .kind = DSVK_MATMUL_FEW };
    char *json = NULL;
    memset(&told, 0, sizeof told);
    CHECK_OK(dsvk_device_open(&told.device, &options, &error));
    CHECK(told.lines == 0, "nothing to tell: %s", told.last);
    dsvk_device_remember_matmul(told.device, few);
    CHECK(told.lines == 1 && strstr(told.last, folder) && strstr(told.last, "cannot be written: No such file"), "%u lines: %s", told.lines,
          told.last);
    CHECK(told.status == DSVK_BUSY, "a call from inside gave %s", dsvk_status_name(told.status));
    CHECK_OK(dsvk_device_describe(told.device, &json, &error));
    dsvk_free(json);
    dsvk_device *device = told.device;
    told.device = NULL;
    dsvk_device_close(device);
}

static void test_A16_D15_log(void) {
    char folder[] = "/tmp/dsvk-test-XXXXXX", path[4096];
    const dsvk_device_options options = { .size = sizeof options, .cache_dir = mkdtemp(folder), .log = listen, .user = &told };
    dsvk_device *device;
    CHECK_OK(dsvk_device_open(&device, &options, &error));
    CHECK(dsvk_cache_path(device, "pipelines", path, sizeof path), "a path");
    dsvk_device_close(device);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs("damaged", file) >= 0 && fclose(file) == 0, "written");
    memset(&told, 0, sizeof told);
    CHECK_OK(dsvk_device_open(&device, &options, &error));
    CHECK(told.lines == 1 && strstr(told.last, path) && strstr(told.last, "is not used"), "%u lines: %s", told.lines, told.last);
    dsvk_device_close(device);
    unlink(path);
    rmdir(folder);
}

int main(void) {
    uint32_t n = 1;
    if (dsvk_vk_open(&app.vk, &app.validation, &error) != DSVK_OK) {
        printf("%s\n", error.message);
        return 1;
    }
    const VkResult result = app.vk.vkEnumeratePhysicalDevices(app.vk.instance, &n, &app.physical);
    CHECK(n == 1 && (result == VK_SUCCESS || result == VK_INCOMPLETE), "there is a physical device");
    close_device(open_device(NULL)); /* finds out whether the layer is there */
    RUN(test_A16_host_device);
    RUN(test_A06_host_device);
    RUN(test_A16_missing_features);
    RUN(test_A16_prepare_keeps_what_is_there);
    RUN(test_A01_host_device_arguments);
    RUN(test_A16_D16_log);
    RUN(test_A16_D15_log);
    dsvk_vk_close(&app.vk);
    return test_result();
}
