/* What devices there are, what each offers, which of them we can use and why not the others, and which one is meant.
 * Required: Vulkan 1.3 with bufferDeviceAddress, timelineSemaphore, scalarBlockLayout, a compute queue, and basic,
 * arithmetic, ballot and shuffle subgroup operations in compute, in subgroups of 4 to 64. Nothing else, so that every
 * driver of the last years qualifies, software ones included. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_internal.h"

static const VkSubgroupFeatureFlags SUBGROUP_NEEDED = VK_SUBGROUP_FEATURE_BASIC_BIT |
                                                      VK_SUBGROUP_FEATURE_ARITHMETIC_BIT |
                                                      VK_SUBGROUP_FEATURE_BALLOT_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;

/* ---- reading one device ---- */

static bool read_extensions(const dsvk_vk *vk, dsvk_physical *p) {
    uint32_t n = 0;
    if (vk->vkEnumerateDeviceExtensionProperties(p->handle, NULL, &n, NULL) != VK_SUCCESS)
        return true;
    VkExtensionProperties *list = dsvk_alloc_zero(n, sizeof *list);
    if (!list)
        return false;
    if (vk->vkEnumerateDeviceExtensionProperties(p->handle, NULL, &n, list) != VK_SUCCESS)
        n = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool *flag = dsvk_extension_flag(p, list[i].extensionName);
        if (flag)
            *flag = true;
    }
    dsvk_free(list);
    return true;
}

static void read_properties(const dsvk_vk *vk, dsvk_physical *p) {
    p->v11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES;
    p->v12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES;
    p->v13.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES;
    p->v11.pNext = &p->v12;
    p->v12.pNext = &p->v13;
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2,
                                              .pNext = &p->v11};
    vk->vkGetPhysicalDeviceProperties2(p->handle, &properties);
    p->f11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    p->f12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    p->f13.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES;
    p->f11.pNext = &p->f12;
    p->f12.pNext = &p->f13;
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &p->f11};
    vk->vkGetPhysicalDeviceFeatures2(p->handle, &features);
    p->v11.pNext = p->v12.pNext = p->f11.pNext = p->f12.pNext = NULL; /* the struct is moved after this */
}

/* The largest device-local heap, and whether some coherent type of it can be mapped: so it is on integrated GPUs, CPUs
 * and discrete cards with a resizable BAR. */
static void read_memory(const dsvk_vk *vk, dsvk_physical *p) {
    vk->vkGetPhysicalDeviceMemoryProperties(p->handle, &p->memory);
    uint64_t largest = 0;
    for (uint32_t i = 0; i < p->memory.memoryHeapCount; i++) {
        const VkMemoryHeap *heap = &p->memory.memoryHeaps[i];
        if ((heap->flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) && heap->size > largest) {
            largest = heap->size;
            p->main_heap = i;
        }
    }
    const VkMemoryPropertyFlags mapped = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                         VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    for (uint32_t i = 0; i < p->memory.memoryTypeCount; i++) {
        const VkMemoryType *type = &p->memory.memoryTypes[i];
        if (type->heapIndex == p->main_heap && (type->propertyFlags & mapped) == mapped)
            p->unified = true;
    }
}

/* The host's queue family. Else a queue for compute alone, which leaves the graphics queue to the desktop, or the first that can
 * compute. */
static bool read_queues(const dsvk_vk *vk, const uint32_t *given, dsvk_physical *p) {
    VkQueueFamilyProperties families[64];
    uint32_t n = DSVK_COUNT(families);
    vk->vkGetPhysicalDeviceQueueFamilyProperties(p->handle, &n, families);
    p->queue_family = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        if (!(families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) || families[i].queueCount == 0 || (given && *given != i))
            continue;
        bool alone = !(families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT);
        if (p->queue_family == UINT32_MAX || alone) {
            p->queue_family = i;
            p->timestamp_bits = families[i].timestampValidBits;
            if (alone)
                break;
        }
    }
    return p->queue_family != UINT32_MAX;
}

static void write_uuid(char *out, const uint8_t *uuid) {
    for (int i = 0; i < 16; i++)
        out += sprintf(out, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

/* Empty when the device is usable; else one clause for messages and JSON. */
static void judge(dsvk_physical *p, bool has_queue) {
    const uint32_t api = p->properties.apiVersion;
    const VkSubgroupFeatureFlags missing = SUBGROUP_NEEDED & ~p->v11.subgroupSupportedOperations;
    char *out = p->reason, lacking[160];
    const size_t size = sizeof p->reason;
    dsvk_features_lacking(p, lacking, sizeof lacking);
    if (api < VK_API_VERSION_1_3)
        snprintf(out, size, "has Vulkan %u.%u, 1.3 is needed", VK_API_VERSION_MAJOR(api), VK_API_VERSION_MINOR(api));
    else if (!has_queue)
        snprintf(out, size, "has no compute queue");
    else if (lacking[0])
        snprintf(out, size, "lacks %s", lacking);
    else if (!(p->v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT))
        snprintf(out, size, "has no subgroup operations in compute");
    else if (missing)
        snprintf(out, size, "lacks subgroup operations:%s%s%s%s",
                 missing & VK_SUBGROUP_FEATURE_BASIC_BIT ? " basic" : "",
                 missing & VK_SUBGROUP_FEATURE_ARITHMETIC_BIT ? " arithmetic" : "",
                 missing & VK_SUBGROUP_FEATURE_BALLOT_BIT ? " ballot" : "",
                 missing & VK_SUBGROUP_FEATURE_SHUFFLE_BIT ? " shuffle" : "");
    else if (p->v13.minSubgroupSize < 4 || p->v13.maxSubgroupSize > 64)
        snprintf(out, size, "has subgroups of %u to %u invocations, kernels are for 4 to 64", p->v13.minSubgroupSize,
                 p->v13.maxSubgroupSize);
    else
        p->usable = true;
}

/* `family` and `info`: of a host's device, else NULL. */
static dsvk_status read_device(const dsvk_vk *vk, VkPhysicalDevice handle, const uint32_t *family, const VkDeviceCreateInfo *info,
                               dsvk_physical *p, dsvk_error *err) {
    memset(p, 0, sizeof *p);
    p->handle = handle;
    vk->vkGetPhysicalDeviceProperties(handle, &p->properties);
    if (p->properties.apiVersion >= VK_API_VERSION_1_3)
        read_properties(vk, p);
    write_uuid(p->uuid, p->v11.deviceUUID);
    read_memory(vk, p);
    bool has_queue = read_queues(vk, family, p);
    if (!read_extensions(vk, p))
        return dsvk_fail_nomem(err, sizeof(VkExtensionProperties));
    judge(p, has_queue);
    if (info && p->usable)
        DSVK_TRY(dsvk_features_restrict(p, info, err));
    dsvk_matmul_survey(vk, p);
    p->has_byte_products = p->f13.shaderIntegerDotProduct;
    return DSVK_OK;
}

dsvk_status dsvk_survey_host(const dsvk_vk *vk, const dsvk_host_device *host, const VkDeviceCreateInfo *info, dsvk_physical *p,
                             dsvk_error *err) {
    DSVK_TRY(read_device(vk, host->physical_device, host->device ? &host->queue_family : NULL, info, p, err));
    if (p->usable)
        return DSVK_OK;
    if (host->device && p->queue_family == UINT32_MAX)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_host_device.queue_family %u of %s cannot compute", host->queue_family,
                         p->properties.deviceName);
    return dsvk_fail(err, DSVK_NODEVICE, "the host's device cannot be used: %s %s", p->properties.deviceName, p->reason);
}

uint64_t dsvk_max_allocation(const dsvk_physical *p) {
    uint64_t most = p->v11.maxMemoryAllocationSize;
    if (p->v13.maxBufferSize && p->v13.maxBufferSize < most)
        most = p->v13.maxBufferSize;
    return most / DSVK_ALIGNMENT * DSVK_ALIGNMENT;
}

/* ---- all of them, in order ---- */

static int rank(const dsvk_physical *p) {
    if (!p->usable)
        return 5;
    switch (p->properties.deviceType) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return 0;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
        return 1;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
        return 2;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return 3;
    default:
        return 4;
    }
}

/* Stable: devices of one rank keep the loader's order. */
static void sort_by_rank(dsvk_physical *devices, uint32_t n) {
    for (uint32_t i = 1; i < n; i++) {
        dsvk_physical moving = devices[i];
        uint32_t at = i;
        for (; at > 0 && rank(&devices[at - 1]) > rank(&moving); at--)
            devices[at] = devices[at - 1];
        devices[at] = moving;
    }
}

dsvk_status dsvk_survey_make(const dsvk_vk *vk, dsvk_survey *survey, dsvk_error *err) {
    VkPhysicalDevice handles[64];
    uint32_t n = DSVK_COUNT(handles);
    memset(survey, 0, sizeof *survey);
    VkResult result = vk->vkEnumeratePhysicalDevices(vk->instance, &n, handles);
    if (result == VK_ERROR_INITIALIZATION_FAILED)
        n = 0; /* what loaders say when a driver is there and its hardware is not */
    else if (result != VK_SUCCESS && result != VK_INCOMPLETE)
        return dsvk_fail(err, dsvk_vk_result_status(result), "vkEnumeratePhysicalDevices failed: %s",
                         dsvk_vk_result_name(result));
    survey->devices = dsvk_alloc_zero(n, sizeof *survey->devices);
    if (!survey->devices)
        return dsvk_fail_nomem(err, n * sizeof *survey->devices);
    for (survey->n = 0; survey->n < n; survey->n++) {
        dsvk_status status = read_device(vk, handles[survey->n], NULL, NULL, &survey->devices[survey->n], err);
        if (status != DSVK_OK) {
            dsvk_survey_free(survey);
            return status;
        }
    }
    sort_by_rank(survey->devices, survey->n);
    return DSVK_OK;
}

void dsvk_survey_free(dsvk_survey *survey) {
    dsvk_free(survey->devices);
    memset(survey, 0, sizeof *survey);
}

/* ---- choosing ---- */

/* "0: NVIDIA ... (uuid); 1: llvmpipe ... (uuid): lacks ..." */
static void list_devices(const dsvk_survey *survey, char *out, size_t size) {
    size_t used = 0;
    snprintf(out, size, "%s", survey->n ? "" : "none");
    for (uint32_t i = 0; i < survey->n && used < size; i++) {
        const dsvk_physical *p = &survey->devices[i];
        used += (size_t)snprintf(out + used, size - used, "%s%u: %s (%s)%s%s", i ? "; " : "", i,
                                 p->properties.deviceName, p->uuid, p->usable ? "" : " ", p->reason);
    }
}

/* 32 hexadecimal digits, dashes wherever they are: the same digits as `uuid`. */
static bool same_uuid(const char *text, const char *uuid) {
    for (;;) {
        while (*text == '-')
            text++;
        while (*uuid == '-')
            uuid++;
        if (tolower((unsigned char)*text) != *uuid)
            return false;
        if (!*uuid)
            return true;
        text++;
        uuid++;
    }
}

static bool contains(const char *text, const char *part) {
    for (size_t n = strlen(part); *text; text++)
        if (strncasecmp(text, part, n) == 0)
            return true;
    return false;
}

static dsvk_status no_device(const dsvk_survey *survey, dsvk_error *err) {
    char list[700];
    list_devices(survey, list, sizeof list);
    return survey->n ? dsvk_fail(err, DSVK_NODEVICE, "no usable Vulkan device among: %s", list)
                     : dsvk_fail(err, DSVK_NODEVICE, "the Vulkan loader has no driver with a device");
}

dsvk_status dsvk_survey_choose(const dsvk_survey *survey, const char *wanted, uint32_t *index, dsvk_error *err) {
    char list[700], shown[128];
    uint32_t found = UINT32_MAX, matches = 0;
    if (!wanted || !*wanted) {
        if (survey->n == 0 || !survey->devices[0].usable)
            return no_device(survey, err);
        *index = 0;
        return DSVK_OK;
    }
    if (strlen(wanted) < 4 && strspn(wanted, "0123456789") == strlen(wanted) && (uint32_t)atoi(wanted) < survey->n) {
        found = (uint32_t)atoi(wanted);
        matches = 1;
    }
    for (int by_name = 0; by_name < 2 && matches == 0; by_name++)
        for (uint32_t i = 0; i < survey->n; i++) {
            const dsvk_physical *p = &survey->devices[i];
            if (by_name ? contains(p->properties.deviceName, wanted) : same_uuid(wanted, p->uuid)) {
                found = i;
                matches++;
            }
        }
    list_devices(survey, list, sizeof list);
    dsvk_escape(shown, sizeof shown, wanted, strlen(wanted));
    if (matches != 1)
        return dsvk_fail(err, DSVK_INVALID, "device \"%s\" %s; there are: %s", shown,
                         matches ? "fits more than one" : "is not there", list);
    if (!survey->devices[found].usable)
        return dsvk_fail(err, DSVK_NODEVICE, "device \"%s\" cannot be used: %s %s", shown,
                         survey->devices[found].properties.deviceName, survey->devices[found].reason);
    *index = found;
    return DSVK_OK;
}

/* ---- JSON ---- */

static const char *type_name(VkPhysicalDeviceType type) {
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return "discrete";
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
        return "integrated";
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
        return "virtual";
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return "cpu";
    default:
        return "other";
    }
}

/* Where host memory runs out a line is missing: json_object_set_new leaves out what is NULL. */
static json_t *features_json(const dsvk_physical *p) {
    const VkPhysicalDeviceLimits *limits = &p->properties.limits;
    json_t *root = json_object(), *groups = json_array();
    for (int i = 0; i < 3; i++)
        json_array_append_new(groups, json_integer(limits->maxComputeWorkGroupCount[i]));
    json_object_set_new(root, "fp16", json_boolean(p->f12.shaderFloat16));
    json_object_set_new(root, "int8", json_boolean(p->f12.shaderInt8));
    json_object_set_new(root, "storage8", json_boolean(p->f12.storageBuffer8BitAccess));
    json_object_set_new(root, "storage16", json_boolean(p->f11.storageBuffer16BitAccess));
    json_object_set_new(root, "dot8", json_boolean(p->v13.integerDotProduct4x8BitPackedSignedAccelerated));
    json_object_set_new(root, "cooperative_matrix", json_boolean(p->has_cooperative_matrix));
    json_object_set_new(root, "memory_budget", json_boolean(p->has_budget));
    json_object_set_new(root, "unified_memory", json_boolean(p->unified));
    json_object_set_new(root, "timestamp_bits", json_integer(p->timestamp_bits));
    json_object_set_new(root, "timestamp_ns", json_real((double)limits->timestampPeriod));
    json_object_set_new(root, "max_workgroup", json_integer(limits->maxComputeWorkGroupInvocations));
    json_object_set_new(root, "max_groups", groups);
    json_object_set_new(root, "shared_memory", json_integer(limits->maxComputeSharedMemorySize));
    json_object_set_new(root, "push_constants", json_integer(limits->maxPushConstantsSize));
    json_object_set_new(root, "max_allocation", json_integer((json_int_t)dsvk_max_allocation(p)));
    return root;
}

static json_t *heaps_json(const dsvk_physical *p) {
    json_t *heaps = json_array();
    for (uint32_t i = 0; heaps && i < p->memory.memoryHeapCount; i++)
        json_array_append_new(heaps,
                              json_pack("{s:I, s:b}", "size", (json_int_t)p->memory.memoryHeaps[i].size, "device_local",
                                        (p->memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) != 0));
    return heaps;
}

/* A driver's text, whose encoding nobody checks. */
static json_t *text_json(const char *text) {
    char shown[512];
    json_t *value = json_string(text);
    return value ? value : json_string(dsvk_escape(shown, sizeof shown, text, strlen(text)));
}

json_t *dsvk_physical_json(const dsvk_physical *p) {
    const uint32_t api = p->properties.apiVersion;
    char api_text[32], driver[VK_MAX_DRIVER_NAME_SIZE + VK_MAX_DRIVER_INFO_SIZE + 1];
    snprintf(api_text, sizeof api_text, "%u.%u.%u", VK_API_VERSION_MAJOR(api), VK_API_VERSION_MINOR(api),
             VK_API_VERSION_PATCH(api));
    snprintf(driver, sizeof driver, "%s%s%s", p->v12.driverName, p->v12.driverInfo[0] ? " " : "", p->v12.driverInfo);
    uint32_t smallest = p->v13.minSubgroupSize ? p->v13.minSubgroupSize : p->v11.subgroupSize;
    uint32_t largest = p->v13.maxSubgroupSize ? p->v13.maxSubgroupSize : p->v11.subgroupSize;
    json_t *root = json_object();
    json_object_set_new(root, "name", text_json(p->properties.deviceName));
    json_object_set_new(root, "uuid", json_string(p->uuid));
    json_object_set_new(root, "type", json_string(type_name(p->properties.deviceType)));
    json_object_set_new(root, "api", json_string(api_text));
    json_object_set_new(root, "driver", text_json(driver));
    json_object_set_new(root, "usable", json_boolean(p->usable));
    json_object_set_new(root, "reason", json_string(p->reason));
    json_object_set_new(root, "memory", json_integer((json_int_t)p->memory.memoryHeaps[p->main_heap].size));
    json_object_set_new(root, "heaps", heaps_json(p));
    json_object_set_new(root, "subgroup", json_pack("[I,I]", (json_int_t)smallest, (json_int_t)largest));
    json_object_set_new(root, "features", features_json(p));
    json_object_set_new(root, "matmul_variants", dsvk_matmul_json(p));
    return root;
}
