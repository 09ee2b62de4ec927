/* Opening, closing and describing a device, its sticky failures, its timeline, its profile report.
 *
 * A device counts its owners (the caller, and each model); the last close waits for the queue with a bound and frees
 * everything. A lost device stays lost: every later call returns DEVLOST at once. In a forked child every call returns
 * STATE, and close frees host memory only, because the driver's state belongs to the parent. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "device_internal.h"

/* ---- failures ---- */

bool dsvk_device_forked(const dsvk_device *device) {
    return device->pid != getpid();
}

static _Thread_local const dsvk_device *logging; /* whose log this thread is in */

void dsvk_log(const dsvk_device *device, const char *format, ...) {
    char text[DSVK_MESSAGE_SIZE], line[DSVK_MESSAGE_SIZE];
    if (!device->log || logging)
        return;
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    dsvk_one_line(line, sizeof line, text);
    logging = device;
    device->log(device->log_user, line);
    logging = NULL;
}

dsvk_status dsvk_device_own(const dsvk_device *device, dsvk_error *err) {
    return dsvk_device_forked(device) ? dsvk_fail(err, DSVK_STATE, "the device was opened by process %ld, not by its forked child %ld",
                                                  (long)device->pid, (long)getpid())
                                      : DSVK_OK;
}

dsvk_status dsvk_device_status(const dsvk_device *device, dsvk_error *err) {
    if (!device)
        return dsvk_fail(err, DSVK_INVALID, "the device is NULL");
    if (logging == device)
        return dsvk_fail(err, DSVK_BUSY, "a call from inside this device's log");
    DSVK_TRY(dsvk_device_own(device, err));
    if (atomic_load(&device->lost)) /* the message is complete before the flag is set */
        return dsvk_fail(err, DSVK_DEVLOST, "%s", device->lost_message);
    return DSVK_OK;
}

dsvk_status dsvk_device_lose(dsvk_device *device, dsvk_error *err, const char *format, ...) {
    pthread_mutex_lock(&device->lost_lock);
    if (!atomic_load(&device->lost)) {
        va_list list;
        va_start(list, format);
        int used = snprintf(device->lost_message, sizeof device->lost_message,
                            "%s is lost: ", device->physical.properties.deviceName);
        vsnprintf(device->lost_message + used, sizeof device->lost_message - (size_t)used, format, list);
        va_end(list);
        atomic_store(&device->lost, true);
    }
    pthread_mutex_unlock(&device->lost_lock);
    return dsvk_fail(err, DSVK_DEVLOST, "%s", device->lost_message);
}

dsvk_status dsvk_vk_fail(dsvk_device *device, VkResult result, dsvk_error *err, const char *format, ...) {
    char what[256];
    va_list list;
    va_start(list, format);
    vsnprintf(what, sizeof what, format, list);
    va_end(list);
    if (result == VK_ERROR_DEVICE_LOST)
        return dsvk_device_lose(device, err, "%s failed", what);
    return dsvk_fail(err, dsvk_vk_result_status(result), "%s failed: %s", what, dsvk_vk_result_name(result));
}

void dsvk_set_name(dsvk_device *device, VkObjectType type, uint64_t object, const char *format, ...) {
    if (!device->vk.vkSetDebugUtilsObjectNameEXT || !device->vk.validation)
        return;
    char name[128];
    va_list list;
    va_start(list, format);
    vsnprintf(name, sizeof name, format, list);
    va_end(list);
    const VkDebugUtilsObjectNameInfoEXT info = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT,
        .objectType = type,
        .objectHandle = object,
        .pObjectName = name,
    };
    device->vk.vkSetDebugUtilsObjectNameEXT(device->handle, &info);
}

uint32_t dsvk_device_validation_messages(dsvk_device *device, char *first, size_t n) {
    pthread_mutex_lock(&device->validation.lock);
    uint32_t messages = device->validation.messages;
    if (first && n)
        snprintf(first, n, "%s", device->validation.first);
    pthread_mutex_unlock(&device->validation.lock);
    return messages;
}

/* ---- the timeline ---- */

/* A second at a time: the clock of a wait goes on while the process is stopped (Ctrl-Z, a debugger, a sleeping machine), which uses up
 * the wait it is in and no more. */
static VkResult wait_value(dsvk_device *device, uint64_t value, uint32_t seconds) {
    const VkSemaphoreWaitInfo info = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
        .semaphoreCount = 1,
        .pSemaphores = &device->timeline,
        .pValues = &value,
    };
    VkResult result;
    uint32_t waited = 0;
    do
        result = device->vk.vkWaitSemaphores(device->handle, &info, seconds > 0 ? UINT64_C(1000000000) : 0);
    while (result == VK_TIMEOUT && ++waited < seconds);
    return result;
}

dsvk_status dsvk_timeline_wait(dsvk_device *device, uint64_t value, uint32_t seconds, dsvk_error *err) {
    DSVK_TRY(dsvk_device_status(device, err));
    VkResult result = wait_value(device, value, seconds);
    if (result == VK_TIMEOUT) {
        atomic_store(&device->hung, true);
        return dsvk_device_lose(device, err, "a submit did not finish within %u s", seconds);
    }
    return result == VK_SUCCESS ? DSVK_OK : dsvk_vk_fail(device, result, err, "vkWaitSemaphores");
}

bool dsvk_at_rest(dsvk_device *device, uint64_t value, uint32_t seconds) {
    if (dsvk_device_forked(device))
        return false;
    if (!device->timeline || value == 0 || (atomic_load(&device->lost) && !atomic_load(&device->hung)))
        return true;
    VkResult result = wait_value(device, value, seconds);
    if (result != VK_TIMEOUT)
        return true;
    atomic_store(&device->hung, true);
    return false;
}

/* ---- opening ---- */

static dsvk_status resolve_options(dsvk_device_options *options, const dsvk_device_options *given, dsvk_error *err) {
    memset(options, 0, sizeof *options);
    if (given) {
        if (given->size != sizeof *options)
            return dsvk_fail(err, DSVK_INVALID, "dsvk_device_options.size is %zu, this library's is %zu", given->size,
                             sizeof *options);
        *options = *given;
    }
    DSVK_TRY(dsvk_check_switch("validation", options->validation, err));
    DSVK_TRY(dsvk_check_switch("statistics", options->statistics, err));
    return DSVK_OK;
}

static dsvk_status set_cache_dir(dsvk_device *device, const char *given, dsvk_error *err) {
    char folder[4096] = "";
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (given)
        snprintf(folder, sizeof folder, "%s", given);
    else if (xdg && *xdg == '/')
        snprintf(folder, sizeof folder, "%s/dsvk", xdg);
    else if (home && *home == '/')
        snprintf(folder, sizeof folder, "%s/.cache/dsvk", home);
    device->cache_dir = dsvk_strdup_n(folder, strlen(folder));
    return device->cache_dir ? DSVK_OK : dsvk_fail_nomem(err, strlen(folder));
}

static dsvk_status choose(dsvk_device *device, const char *wanted, dsvk_error *err) {
    dsvk_survey survey;
    uint32_t index;
    DSVK_TRY(dsvk_survey_make(&device->vk, &survey, err));
    dsvk_status status = dsvk_survey_choose(&survey, wanted, &index, err);
    if (status == DSVK_OK)
        device->physical = survey.devices[index];
    dsvk_survey_free(&survey);
    return status;
}

static dsvk_status create_device(dsvk_device *device, dsvk_error *err) {
    const dsvk_physical *physical = &device->physical;
    const float priority = 0.5f;
    const VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        .queueFamilyIndex = physical->queue_family,
        .queueCount = 1,
        .pQueuePriorities = &priority,
    };
    VkDeviceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .queueCreateInfoCount = 1,
        .pQueueCreateInfos = &queue,
    };
    void *added;
    DSVK_TRY(dsvk_features_add(physical, device->statistics, &info, &added, err));
    VkResult result = device->vk.vkCreateDevice(physical->handle, &info, NULL, &device->handle);
    dsvk_free(added);
    if (result == VK_ERROR_INITIALIZATION_FAILED || result == VK_ERROR_DEVICE_LOST)
        return dsvk_fail(err, DSVK_NODEVICE, "vkCreateDevice of %s failed: %s", physical->properties.deviceName,
                         dsvk_vk_result_name(result));
    if (result != VK_SUCCESS)
        return dsvk_vk_fail(device, result, err, "vkCreateDevice of %s", physical->properties.deviceName);
    DSVK_TRY(dsvk_vk_load_device(&device->vk, device->handle, err));
    device->vk.vkGetDeviceQueue(device->handle, physical->queue_family, 0, &device->queue);
    return DSVK_OK;
}

/* ---- a host's device ---- */

static dsvk_status check_host(dsvk_host_device *host, const dsvk_host_device *given, bool made, dsvk_error *err) {
    if (given->size != sizeof *host)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_host_device.size is %zu, this library's is %zu", given->size, sizeof *host);
    *host = *given;
    const char *missing = !host->instance ? "instance" : !host->physical_device ? "physical_device" : !made ? NULL
                        : !host->device ? "device" : !host->create_info ? "create_info" : !host->queue ? "queue" : NULL;
    if (missing)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_host_device.%s is NULL", missing);
    if (made && !host->lock_queue != !host->unlock_queue)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_host_device.%s is NULL and the other is not",
                         host->lock_queue ? "unlock_queue" : "lock_queue");
    return DSVK_OK;
}

dsvk_status dsvk_host_device_prepare(const dsvk_host_device *given, void *create_info, void **added, dsvk_error *err) {
    dsvk_host_device host;
    dsvk_vk vk;
    dsvk_physical physical;
    if (!given || !create_info || !added)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_host_device_prepare: %s is NULL",
                         !given ? "host" : !create_info ? "create_info" : "added");
    *added = NULL;
    DSVK_TRY(check_host(&host, given, false, err));
    host.device = NULL;
    DSVK_TRY(dsvk_vk_borrow(&vk, &host, err));
    dsvk_status status = dsvk_survey_host(&vk, &host, NULL, &physical, err);
    if (status == DSVK_OK)
        status = dsvk_features_add(&physical, false, create_info, added, err);
    dsvk_vk_close(&vk);
    return status;
}

static dsvk_status take_device(dsvk_device *device, const dsvk_device_options *options, dsvk_error *err) {
    dsvk_host_device *host = &device->host;
    if (options->device || options->validation)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_device_options.%s has no meaning with a host's device",
                         options->device ? "device" : "validation");
    DSVK_TRY(check_host(host, options->host, true, err));
    DSVK_TRY(dsvk_vk_borrow(&device->vk, host, err));
    DSVK_TRY(dsvk_survey_host(&device->vk, host, host->create_info, &device->physical, err));
    device->statistics = options->statistics && device->physical.has_statistics;
    device->handle = host->device;
    device->queue = host->queue;
    host->create_info = NULL;
    return dsvk_vk_load_device(&device->vk, device->handle, err);
}

static dsvk_status make_device(dsvk_device *device, const dsvk_device_options *options, dsvk_error *err) {
    DSVK_TRY(dsvk_vk_open(&device->vk, options->validation ? &device->validation : NULL, err));
    DSVK_TRY(choose(device, options->device, err));
    device->statistics = options->statistics && device->physical.has_statistics;
    return create_device(device, err);
}

static dsvk_status create_timeline(dsvk_device *device, dsvk_error *err) {
    const VkSemaphoreTypeCreateInfo type = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
        .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE,
    };
    const VkSemaphoreCreateInfo info = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    VkResult result = device->vk.vkCreateSemaphore(device->handle, &info, NULL, &device->timeline);
    return result == VK_SUCCESS ? DSVK_OK : dsvk_vk_fail(device, result, err, "vkCreateSemaphore");
}

static void set_limits(dsvk_device *device, uint64_t max_allocation) {
    const dsvk_physical *p = &device->physical;
    dsvk_device_limits *limits = &device->limits;
    limits->software = device->physical.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
    limits->subgroup_min = p->v13.minSubgroupSize ? p->v13.minSubgroupSize : p->v11.subgroupSize;
    limits->subgroup_max = p->v13.maxSubgroupSize ? p->v13.maxSubgroupSize : p->v11.subgroupSize;
    limits->shared_bytes = p->properties.limits.maxComputeSharedMemorySize;
    limits->few_registers = p->properties.vendorID == DSVK_VENDOR_INTEL;
    memcpy(limits->max_groups, p->properties.limits.maxComputeWorkGroupCount, sizeof limits->max_groups);
    limits->unified = p->unified;
    /* A block is DSVK_ALIGNMENT larger than its one buffer. */
    limits->max_allocation = dsvk_max_allocation(p) - DSVK_ALIGNMENT;
    if (max_allocation && max_allocation < limits->max_allocation)
        limits->max_allocation = max_allocation;
}

/* What dsvk_device_options.indexer means. */
static dsvk_status choose_indexer(dsvk_device *device, const char *wanted, dsvk_error *err) {
    const dsvk_physical *p = &device->physical;
    const bool automatic = !wanted || !*wanted || strcmp(wanted, "auto") == 0, bytes = !automatic && strcmp(wanted, "bytes") == 0;
    char shown[64];
    if (!automatic && !bytes && strcmp(wanted, "floats") != 0)
        return dsvk_fail(err, DSVK_INVALID, "indexer \"%s\" is not among auto, floats, bytes",
                         dsvk_escape(shown, sizeof shown, wanted, strlen(wanted)));
    if (bytes && !p->has_byte_products)
        return dsvk_fail(err, DSVK_UNSUPPORTED, "indexer \"bytes\": %s has no shaderIntegerDotProduct", p->properties.deviceName);
    device->byte_products =
        bytes || (automatic && p->has_byte_products && p->v13.integerDotProduct4x8BitPackedSignedAccelerated);
    return DSVK_OK;
}

bool dsvk_device_byte_products(const dsvk_device *device) { return device->byte_products; }

static void free_device(dsvk_device *device);

dsvk_status dsvk_device_open(dsvk_device **out, const dsvk_device_options *given, dsvk_error *err) {
    dsvk_status status;
    dsvk_device_options options;
    if (!out)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_device_open: device is NULL");
    *out = NULL;
    DSVK_TRY(resolve_options(&options, given, err));
    dsvk_device *device = dsvk_alloc_zero(1, sizeof *device);
    if (!device)
        return dsvk_fail_nomem(err, sizeof *device);
    atomic_store(&device->references, 1);
    device->pid = getpid();
    device->log = options.log;
    device->log_user = options.user;
    pthread_mutex_init(&device->validation.lock, NULL);
    pthread_mutex_init(&device->queue_lock, NULL);
    pthread_mutex_init(&device->lost_lock, NULL);
    pthread_mutex_init(&device->memory_lock, NULL);
    pthread_mutex_init(&device->pipeline_lock, NULL);
    pthread_mutex_init(&device->profile.lock, NULL);
    DSVK_GOTO(set_cache_dir(device, options.cache_dir, err));
    DSVK_GOTO(options.host ? take_device(device, &options, err) : make_device(device, &options, err));
    set_limits(device, options.max_allocation);
    DSVK_GOTO(dsvk_matmul_open(device, options.matmul, err));
    DSVK_GOTO(choose_indexer(device, options.indexer, err));
    DSVK_GOTO(create_timeline(device, err));
    DSVK_GOTO(dsvk_pools_open(device, &options, err));
    DSVK_GOTO(dsvk_pipelines_open(device, err));
    *out = device;
    return DSVK_OK;
fail:
    free_device(device);
    return status;
}

dsvk_device *dsvk_device_retain(dsvk_device *device) {
    atomic_fetch_add(&device->references, 1);
    return device;
}

/* Accepts a half-opened device. When the queue does not come to rest in time its objects are left to the driver: to
 * destroy what the device still uses is worse than to leak it. */
static void free_device(dsvk_device *device) {
    const bool at_rest = dsvk_at_rest(device, device->submitted, DSVK_CLOSE_SECONDS);
    dsvk_pipelines_close(device, at_rest);
    dsvk_pools_close(device, at_rest);
    if (at_rest && device->timeline)
        device->vk.vkDestroySemaphore(device->handle, device->timeline, NULL);
    if (at_rest && device->handle && device->vk.vkDestroyDevice && !device->host.device)
        device->vk.vkDestroyDevice(device->handle, NULL);
    if (at_rest)
        dsvk_vk_close(&device->vk);
    pthread_mutex_destroy(&device->validation.lock);
    pthread_mutex_destroy(&device->queue_lock);
    pthread_mutex_destroy(&device->lost_lock);
    pthread_mutex_destroy(&device->memory_lock);
    pthread_mutex_destroy(&device->pipeline_lock);
    pthread_mutex_destroy(&device->profile.lock);
    dsvk_free(device->profile.ops);
    dsvk_free(device->cache_dir);
    dsvk_free(device);
}

void dsvk_device_close(dsvk_device *device) {
    if (device && atomic_fetch_sub(&device->references, 1) == 1)
        free_device(device);
}

/* ---- describing ---- */

const dsvk_device_limits *dsvk_device_get_limits(const dsvk_device *device) {
    return &device->limits;
}

dsvk_status dsvk_device_describe(dsvk_device *device, char **json, dsvk_error *err) {
    DSVK_TRY(dsvk_device_status(device, err));
    if (!json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_device_describe: json is NULL");
    char matmul[DSVK_MATMUL_NAME];
    json_t *root = dsvk_physical_json(&device->physical);
    if (root) {
        json_object_set_new(root, "host", json_boolean(device->host.device != NULL));
        json_object_set_new(root, "validation", json_boolean(device->vk.validation != NULL));
        json_object_set_new(root, "cache_dir", json_string(device->cache_dir));
        json_object_set_new(root, "matmul", json_string(dsvk_matmul_name(dsvk_device_matmul(device), matmul)));
        json_object_set_new(root, "indexer", json_string(device->byte_products ? "bytes" : "floats"));
    }
    return dsvk_json_text(root, json, err);
}

static dsvk_status devices_json(const dsvk_vk *vk, char **json, dsvk_error *err) {
    dsvk_survey survey;
    DSVK_TRY(dsvk_survey_make(vk, &survey, err));
    json_t *list = json_array();
    for (uint32_t i = 0; i < survey.n; i++) {
        json_t *one = dsvk_physical_json(&survey.devices[i]);
        json_object_set_new(one, "index", json_integer(i));
        json_object_set_new(one, "chosen", json_boolean(i == 0 && survey.devices[i].usable));
        json_array_append_new(list, one);
    }
    char loader[128];
    snprintf(loader, sizeof loader, "%s %u.%u.%u%s", vk->library_name, VK_API_VERSION_MAJOR(vk->version),
             VK_API_VERSION_MINOR(vk->version), VK_API_VERSION_PATCH(vk->version),
             survey.n ? "" : ": no driver has a device");
    dsvk_survey_free(&survey);
    return dsvk_json_text(json_pack("{s:s, s:o}", "loader", loader, "devices", list), json, err);
}

dsvk_status dsvk_devices(char **json, dsvk_error *err) {
    dsvk_vk vk;
    dsvk_error reason = {0};
    if (!json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_devices: json is NULL");
    *json = NULL;
    dsvk_status status = dsvk_vk_open(&vk, NULL, &reason);
    if (status == DSVK_NODEVICE)
        return dsvk_json_text(json_pack("{s:s, s:[]}", "loader", reason.message, "devices"), json, err);
    if (status != DSVK_OK)
        return dsvk_fail(err, status, "%s", reason.message);
    status = devices_json(&vk, json, err);
    dsvk_vk_close(&vk);
    return status;
}
