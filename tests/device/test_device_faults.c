/* What devices and drivers do wrong, and what must come of it: rows D02, D03, D04, D07, D08, D09, D10, D13, D18 and A06
 * of the fault list. Entries of the function table are replaced by functions that fail, or that tell of invented
 * hardware. */
#include <time.h>

#include "harness_device.h"
#include "rms_norm.h"

#define MIB ((uint64_t)1 << 20)

static dsvk_error error;

/* ---- invented hardware: D02, D03 ---- */

typedef struct invented {
    const char *name;
    VkPhysicalDeviceType type;
    uint8_t uuid; /* all 16 bytes */
    uint32_t api;
    bool no_address, no_timeline, no_shuffle, no_compute;
    uint32_t widest; /* subgroup; 0: 32 */
} invented;

static const invented *machine; /* [n_machine] */
static uint32_t n_machine;

static const invented *of(VkPhysicalDevice handle) {
    return &machine[(uintptr_t)handle - 1];
}

static VKAPI_ATTR VkResult VKAPI_CALL fake_enumerate(VkInstance instance, uint32_t *n, VkPhysicalDevice *handles) {
    (void)instance;
    *n = n_machine;
    for (uint32_t i = 0; handles && i < n_machine; i++)
        handles[i] = (VkPhysicalDevice)(uintptr_t)(i + 1);
    return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL fake_extensions(VkPhysicalDevice handle, const char *layer, uint32_t *n,
                                                      VkExtensionProperties *list) {
    (void)handle, (void)layer, (void)list;
    *n = 0;
    return VK_SUCCESS;
}

static VKAPI_ATTR void VKAPI_CALL fake_properties(VkPhysicalDevice handle, VkPhysicalDeviceProperties *properties) {
    memset(properties, 0, sizeof *properties);
    properties->apiVersion = of(handle)->api ? of(handle)->api : VK_API_VERSION_1_3;
    properties->deviceType = of(handle)->type;
    snprintf(properties->deviceName, sizeof properties->deviceName, "%s", of(handle)->name);
}

static VKAPI_ATTR void VKAPI_CALL fake_properties2(VkPhysicalDevice handle, VkPhysicalDeviceProperties2 *properties) {
    VkPhysicalDeviceVulkan11Properties *v11 = properties->pNext;
    VkPhysicalDeviceVulkan12Properties *v12 = v11->pNext;
    VkPhysicalDeviceVulkan13Properties *v13 = v12->pNext;
    memset(v11->deviceUUID, of(handle)->uuid, sizeof v11->deviceUUID);
    v11->subgroupSupportedStages = VK_SHADER_STAGE_COMPUTE_BIT;
    v11->subgroupSupportedOperations = of(handle)->no_shuffle ? VK_SUBGROUP_FEATURE_BASIC_BIT : 0xff;
    v13->minSubgroupSize = 8;
    v13->maxSubgroupSize = of(handle)->widest ? of(handle)->widest : 32;
}

static VKAPI_ATTR void VKAPI_CALL fake_features2(VkPhysicalDevice handle, VkPhysicalDeviceFeatures2 *features) {
    VkPhysicalDeviceVulkan11Features *f11 = features->pNext;
    VkPhysicalDeviceVulkan12Features *f12 = f11->pNext;
    VkPhysicalDeviceVulkan13Features *f13 = f12->pNext;
    f12->bufferDeviceAddress = !of(handle)->no_address;
    f12->timelineSemaphore = !of(handle)->no_timeline;
    f12->scalarBlockLayout = f13->synchronization2 = f13->maintenance4 = VK_TRUE;
}

static VKAPI_ATTR void VKAPI_CALL fake_memory(VkPhysicalDevice handle, VkPhysicalDeviceMemoryProperties *memory) {
    (void)handle;
    *memory = (VkPhysicalDeviceMemoryProperties){.memoryHeapCount = 1, .memoryTypeCount = 1};
    memory->memoryHeaps[0] = (VkMemoryHeap){.size = MIB, .flags = VK_MEMORY_HEAP_DEVICE_LOCAL_BIT};
}

static VKAPI_ATTR void VKAPI_CALL fake_queues(VkPhysicalDevice handle, uint32_t *n, VkQueueFamilyProperties *families) {
    *n = 2;
    families[0] = (VkQueueFamilyProperties){.queueFlags = VK_QUEUE_GRAPHICS_BIT, .queueCount = 1};
    families[1] =
        (VkQueueFamilyProperties){.queueFlags = of(handle)->no_compute ? 0 : VK_QUEUE_COMPUTE_BIT, .queueCount = 1};
}

static void survey_machine(const invented *devices, uint32_t n, dsvk_survey *survey) {
    const dsvk_vk vk = {
        .vkEnumeratePhysicalDevices = fake_enumerate,
        .vkEnumerateDeviceExtensionProperties = fake_extensions,
        .vkGetPhysicalDeviceProperties = fake_properties,
        .vkGetPhysicalDeviceProperties2 = fake_properties2,
        .vkGetPhysicalDeviceFeatures2 = fake_features2,
        .vkGetPhysicalDeviceMemoryProperties = fake_memory,
        .vkGetPhysicalDeviceQueueFamilyProperties = fake_queues,
    };
    machine = devices;
    n_machine = n;
    CHECK_OK(dsvk_survey_make(&vk, survey, &error));
}

static void test_D02_skipped(void) {
    static const invented devices[] = {
        {.name = "Old", .uuid = 1, .api = VK_API_VERSION_1_2}, {.name = "Plain", .uuid = 2, .no_address = true},
        {.name = "Binary", .uuid = 3, .no_timeline = true},    {.name = "Lonely", .uuid = 4, .no_shuffle = true},
        {.name = "Painter", .uuid = 5, .no_compute = true},    {.name = "Wide", .uuid = 6, .widest = 128},
    };
    static const char *const reasons[] = {
        "has Vulkan 1.2, 1.3 is needed", "lacks bufferDeviceAddress", "lacks timelineSemaphore",
        "lacks subgroup operations: arithmetic ballot shuffle", "has no compute queue",
        "has subgroups of 8 to 128 invocations, kernels are for 4 to 64"};
    dsvk_survey survey;
    uint32_t index;
    survey_machine(devices, DSVK_COUNT(devices), &survey);
    for (uint32_t i = 0; i < survey.n; i++)
        CHECK(strcmp(survey.devices[i].reason, reasons[i]) == 0, "%s: %s", devices[i].name, survey.devices[i].reason);
    for (uint32_t i = 0; i < survey.n; i++) /* every device with its reason */
        CHECK_FAILS(dsvk_survey_choose(&survey, NULL, &index, &error), DSVK_NODEVICE, reasons[i]);
    CHECK_FAILS(dsvk_survey_choose(&survey, "Plain", &index, &error), DSVK_NODEVICE, "Plain lacks bufferDeviceAddress");
    dsvk_survey_free(&survey);
    survey_machine(devices, 0, &survey);
    CHECK_FAILS(dsvk_survey_choose(&survey, NULL, &index, &error), DSVK_NODEVICE, "no driver with a device");
    CHECK_FAILS(dsvk_survey_choose(&survey, "0", &index, &error), DSVK_INVALID, "there are: none");
    dsvk_survey_free(&survey);
}

static void test_D03_order(void) {
    static const invented devices[] = {
        {"llvmpipe", VK_PHYSICAL_DEVICE_TYPE_CPU, 1, 0, 0, 0, 0, 0, 0},
        {"Old GeForce 1", VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU, 2, VK_API_VERSION_1_1, 0, 0, 0, 0, 0},
        {"Virtio", VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU, 3, 0, 0, 0, 0, 0, 0},
        {"Radeon Graphics", VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU, 4, 0, 0, 0, 0, 0, 0},
        {"GeForce 4090", VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU, 0xab, 0, 0, 0, 0, 0, 0},
        {"Radeon Pro", VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU, 6, 0, 0, 0, 0, 0, 0},
    };
    static const char *const order[] = {"GeForce 4090", "Radeon Pro", "Radeon Graphics",
                                        "Virtio",       "llvmpipe",   "Old GeForce 1"};
    static const struct {
        const char *wanted;
        uint32_t index;
    } fits[] = {
        {NULL, 0},
        {"", 0},
        {"1", 1},
        {"4", 4},
        {"4090", 0},
        {"geforce 4", 0},
        {"Radeon P", 1},
        {"LLVM", 4},
        {"abababab-abab-abab-abab-abababababab", 0},
        {"ABABABABABABABABABABABABABABABAB", 0},
        {"04040404-0404-0404-0404-040404040404", 2},
    };
    dsvk_survey survey;
    uint32_t index;
    survey_machine(devices, DSVK_COUNT(devices), &survey);
    for (uint32_t i = 0; i < survey.n; i++)
        CHECK(strcmp(survey.devices[i].properties.deviceName, order[i]) == 0, "%u: %s", i,
              survey.devices[i].properties.deviceName);
    CHECK(survey.devices[0].queue_family == 1, "a queue for compute alone is preferred");
    for (size_t i = 0; i < DSVK_COUNT(fits); i++)
        CHECK(dsvk_survey_choose(&survey, fits[i].wanted, &index, &error) == DSVK_OK && index == fits[i].index,
              "\"%s\" chooses %u", fits[i].wanted ? fits[i].wanted : "NULL", index);
    CHECK_FAILS(dsvk_survey_choose(&survey, "radeon", &index, &error), DSVK_INVALID,
                "\"radeon\" fits more than one; there are: 0: GeForce 4090");
    CHECK_FAILS(dsvk_survey_choose(&survey, "6", &index, &error), DSVK_INVALID, "\"6\" is not there");
    CHECK_FAILS(dsvk_survey_choose(&survey, "ab", &index, &error), DSVK_INVALID, "\"ab\" is not there");
    CHECK_FAILS(dsvk_survey_choose(&survey, "\x1b[31m", &index, &error), DSVK_INVALID, "\"\\x1b[31m\"");
    CHECK_FAILS(dsvk_survey_choose(&survey, "5", &index, &error), DSVK_NODEVICE, "has Vulkan 1.1, 1.3 is needed");
    dsvk_survey_free(&survey);
}

/* ---- memory that runs out: D04 ---- */

static uint64_t allocation_most; /* larger ones fail */
static int allocations_left;     /* after so many, all fail */
static PFN_vkAllocateMemory real_allocate;
static PFN_vkFreeMemory real_free;
static int memories; /* allocated, not yet freed */

static VKAPI_ATTR VkResult VKAPI_CALL scarce_allocate(VkDevice device, const VkMemoryAllocateInfo *info,
                                                      const VkAllocationCallbacks *callbacks, VkDeviceMemory *memory) {
    if (info->allocationSize > allocation_most || allocations_left <= 0)
        return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    VkResult result = real_allocate(device, info, callbacks, memory);
    allocations_left -= result == VK_SUCCESS;
    memories += result == VK_SUCCESS;
    return result;
}

static VKAPI_ATTR void VKAPI_CALL counted_free(VkDevice device, VkDeviceMemory memory,
                                               const VkAllocationCallbacks *callbacks) {
    real_free(device, memory, callbacks);
    memories--;
    allocations_left++;
}

static dsvk_device *open_scarce(uint64_t most, int left) {
    dsvk_device *device = open_device(NULL);
    real_allocate = device->vk.vkAllocateMemory;
    real_free = device->vk.vkFreeMemory;
    device->vk.vkAllocateMemory = scarce_allocate;
    device->vk.vkFreeMemory = counted_free;
    allocation_most = most;
    allocations_left = left;
    memories = 0;
    return device;
}

/* Each n-th allocation fails (every part is larger than a shared block): DEVMEM with numbers; what was made goes back;
 * then a smaller ask works. */
static void test_D04_driver_out_of_memory(void) {
    for (int left = 0; left < 4; left++) {
        dsvk_device *device = open_scarce(UINT64_MAX, left);
        dsvk_buffer buffers[4] = {0};
        int made = 0;
        while (made < 4 &&
               dsvk_buffer_create(device, DSVK_WEIGHTS, 300 * MIB, "part", &buffers[made], &error) == DSVK_OK)
            made++;
        CHECK(made == left, "%d of %d were made", made, left);
        CHECK_FAILS(dsvk_buffer_create(device, DSVK_WEIGHTS, 300 * MIB, "part", &buffers[3], &error), DSVK_DEVMEM,
                    "out of device memory for weights: part asked for 314572800 bytes");
        for (int i = 0; i < 4; i++)
            dsvk_buffer_destroy(device, &buffers[i]);
        CHECK(memories == 0, "%d memories are left", memories);
        allocations_left = 1;
        CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, 16 * MIB, "smaller", &buffers[0], &error));
        dsvk_buffer_destroy(device, &buffers[0]);
        close_device(device);
    }
}

/* Where a usual block does not fit a smaller one is made, and empty blocks of other purposes give way. */
static void test_D04_small_blocks(void) {
    dsvk_device *device = open_scarce(3 * MIB, 2);
    dsvk_buffer a, b, c;
    CHECK_OK(dsvk_buffer_create(device, DSVK_CACHE, MIB, "a", &a, &error));
    CHECK(device->pools[DSVK_CACHE].reserved <= 3 * MIB, "a smaller block");
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, MIB, "b", &b, &error));
    CHECK_FAILS(dsvk_buffer_create(device, DSVK_STAGING, MIB, "c", &c, &error), DSVK_DEVMEM, "staging");
    dsvk_buffer_destroy(device, &b); /* its block stays, empty */
    CHECK(memories == 2, "%d", memories);
    CHECK_OK(dsvk_buffer_create(device, DSVK_STAGING, MIB, "c", &c, &error));
    dsvk_buffer_destroy(device, &a);
    dsvk_buffer_destroy(device, &c);
    close_device(device);
    CHECK(memories == 0, "%d memories are left", memories);
}

static VKAPI_ATTR void VKAPI_CALL tight_budget(VkPhysicalDevice handle, VkPhysicalDeviceMemoryProperties2 *properties) {
    (void)handle;
    VkPhysicalDeviceMemoryBudgetPropertiesEXT *budget = properties->pNext;
    for (uint32_t i = 0; i < VK_MAX_MEMORY_HEAPS; i++) {
        budget->heapBudget[i] = 30 * MIB;
        budget->heapUsage[i] = 20 * MIB;
    }
}

static void test_D04_memory_budget(void) {
    dsvk_device *device = open_scarce(UINT64_MAX, 100);
    dsvk_buffer buffer;
    device->vk.vkGetPhysicalDeviceMemoryProperties2 = tight_budget;
    device->physical.has_budget = true;
    CHECK(dsvk_purpose_available(device, DSVK_CACHE) == 10 * MIB, "what the driver's budget leaves");
    CHECK_FAILS(dsvk_buffer_create(device, DSVK_CACHE, 11 * MIB, "pages", &buffer, &error), DSVK_DEVMEM, "10485760 of");
    CHECK(allocations_left == 100, "the driver was not even asked");
    CHECK_OK(dsvk_buffer_create(device, DSVK_CACHE, 9 * MIB, "pages", &buffer, &error));
    dsvk_buffer_destroy(device, &buffer);
    close_device(device);
}

/* ---- a card nobody has: D07 ---- */

#define CARD_BYTES ((uint64_t)192 << 30)
static uint64_t card_used, card_next; /* bytes allocated, next address */
static int card_blocks;
static uint64_t card_asked; /* size of the buffer just made */

static VKAPI_ATTR VkResult VKAPI_CALL card_buffer(VkDevice device, const VkBufferCreateInfo *info,
                                                  const VkAllocationCallbacks *callbacks, VkBuffer *buffer) {
    (void)device, (void)callbacks;
    card_asked = info->size;
    *buffer = (VkBuffer)(uintptr_t)1;
    return VK_SUCCESS;
}

static VKAPI_ATTR void VKAPI_CALL card_needs(VkDevice device, VkBuffer buffer, VkMemoryRequirements *needs) {
    (void)device, (void)buffer;
    *needs = (VkMemoryRequirements){.size = card_asked, .alignment = 256, .memoryTypeBits = UINT32_MAX};
}

static VKAPI_ATTR VkResult VKAPI_CALL card_allocate(VkDevice device, const VkMemoryAllocateInfo *info,
                                                    const VkAllocationCallbacks *callbacks, VkDeviceMemory *memory) {
    (void)device, (void)callbacks;
    if (card_used + info->allocationSize > CARD_BYTES)
        return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    card_used += info->allocationSize;
    card_blocks++;
    *memory = (VkDeviceMemory)(uintptr_t)info->allocationSize;
    return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL card_map(VkDevice device, VkDeviceMemory memory, VkDeviceSize offset,
                                               VkDeviceSize size, VkMemoryMapFlags flags, void **out) {
    (void)device, (void)memory, (void)offset, (void)size, (void)flags;
    *out = NULL;
    return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL card_bind(VkDevice device, VkBuffer buffer, VkDeviceMemory memory,
                                                VkDeviceSize offset) {
    (void)device, (void)buffer, (void)memory, (void)offset;
    return VK_SUCCESS;
}

static VKAPI_ATTR VkDeviceAddress VKAPI_CALL card_address(VkDevice device, const VkBufferDeviceAddressInfo *info) {
    (void)device, (void)info;
    card_next += card_asked + 4096;
    return card_next - card_asked - 4096 + 16; /* aligned to 16 only */
}

static VKAPI_ATTR void VKAPI_CALL card_free(VkDevice device, VkDeviceMemory memory,
                                            const VkAllocationCallbacks *callbacks) {
    (void)device, (void)callbacks;
    card_used -= (uint64_t)(uintptr_t)memory;
    card_blocks--;
}

static VKAPI_ATTR void VKAPI_CALL card_destroy(VkDevice device, VkBuffer buffer,
                                               const VkAllocationCallbacks *callbacks) {
    (void)device, (void)buffer, (void)callbacks;
}

/* 150 GiB of a model's tensors (experts' FP4 codes and scales, 4 MiB and 256 KiB) on a card of 192 GiB: few blocks,
 * little waste, and all of it comes back. */
static void test_D07_full_model(void) {
    enum { TENSORS = 72000 };
    const dsvk_device_options options = {.size = sizeof options};
    dsvk_device *device = open_device(NULL);
    const dsvk_vk good = device->vk;
    dsvk_buffer *tensors = calloc(TENSORS, sizeof *tensors);
    uint64_t bytes = 0;
    int n = 0;
    memset(device->pools, 0, sizeof device->pools);
    device->physical.memory.memoryHeaps[device->physical.main_heap].size = CARD_BYTES;
    device->physical.has_budget = false;
    CHECK_OK(dsvk_pools_open(device, &options, &error));
    device->vk = (dsvk_vk){
        .vkCreateBuffer = card_buffer,
        .vkGetBufferMemoryRequirements = card_needs,
        .vkAllocateMemory = card_allocate,
        .vkMapMemory = card_map,
        .vkBindBufferMemory = card_bind,
        .vkGetBufferDeviceAddress = card_address,
        .vkFreeMemory = card_free,
        .vkDestroyBuffer = card_destroy,
    };
    card_next = MIB;
    for (; n < TENSORS; n++) {
        const uint64_t size = n % 2 ? 256 << 10 : 4 * MIB;
        if (!CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, size, "tensor", &tensors[n], &error)))
            break;
        bytes += size;
    }
    CHECK(bytes > (uint64_t)145 << 30, "%llu bytes", (unsigned long long)bytes);
    CHECK(card_blocks < 256, "%d blocks", card_blocks);
    CHECK(card_used < bytes + bytes / 64, "%llu bytes are taken for %llu", (unsigned long long)card_used,
          (unsigned long long)bytes);
    while (n > 0)
        dsvk_buffer_destroy(device, &tensors[--n]);
    CHECK(card_used == 0 && card_blocks == 0, "%d blocks are left", card_blocks);
    free(tensors);
    device->vk = good;
    close_device(device);
}

/* ---- steps that fail: D18 ---- */

static VKAPI_ATTR VkResult VKAPI_CALL no_map(VkDevice device, VkDeviceMemory memory, VkDeviceSize offset,
                                             VkDeviceSize size, VkMemoryMapFlags flags, void **out) {
    (void)device, (void)memory, (void)offset, (void)size, (void)flags, (void)out;
    return VK_ERROR_MEMORY_MAP_FAILED;
}

static VKAPI_ATTR VkResult VKAPI_CALL no_bind(VkDevice device, VkBuffer buffer, VkDeviceMemory memory,
                                              VkDeviceSize offset) {
    (void)device, (void)buffer, (void)memory, (void)offset;
    return VK_ERROR_OUT_OF_HOST_MEMORY;
}

static VKAPI_ATTR VkResult VKAPI_CALL no_buffer(VkDevice device, const VkBufferCreateInfo *info,
                                                const VkAllocationCallbacks *callbacks, VkBuffer *buffer) {
    (void)device, (void)info, (void)callbacks, (void)buffer;
    return VK_ERROR_OUT_OF_HOST_MEMORY;
}

static void test_D18_memory_steps(void) {
    dsvk_device *device = open_scarce(UINT64_MAX, 100);
    const dsvk_vk good = device->vk;
    dsvk_buffer buffer;
    device->vk.vkMapMemory = no_map;
    CHECK_FAILS(dsvk_buffer_create(device, DSVK_STAGING, 100, "b", &buffer, &error), DSVK_DEVMEM,
                "memory for b (staging, 100 bytes) failed: VK_ERROR_MEMORY_MAP_FAILED");
    device->vk.vkMapMemory = good.vkMapMemory;
    device->vk.vkBindBufferMemory = no_bind;
    CHECK_FAILS(dsvk_buffer_create(device, DSVK_STAGING, 100, "b", &buffer, &error), DSVK_NOMEM, "OUT_OF_HOST_MEMORY");
    device->vk.vkBindBufferMemory = good.vkBindBufferMemory;
    device->vk.vkCreateBuffer = no_buffer;
    CHECK_FAILS(dsvk_buffer_create(device, DSVK_STAGING, 100, "b", &buffer, &error), DSVK_NOMEM, "OUT_OF_HOST_MEMORY");
    device->vk.vkCreateBuffer = good.vkCreateBuffer;
    CHECK(memories == 0 && device->pools[DSVK_STAGING].reserved == 0, "%d memories are left", memories);
    CHECK_OK(dsvk_buffer_create(device, DSVK_STAGING, 100, "b", &buffer, &error));
    dsvk_buffer_destroy(device, &buffer);
    close_device(device);
}

static VKAPI_ATTR VkResult VKAPI_CALL no_pipelines(VkDevice device, VkPipelineCache cache, uint32_t n,
                                                   const VkComputePipelineCreateInfo *infos,
                                                   const VkAllocationCallbacks *callbacks, VkPipeline *pipelines) {
    (void)device, (void)cache, (void)n, (void)infos, (void)callbacks, (void)pipelines;
    return VK_ERROR_INITIALIZATION_FAILED;
}

static void test_D18_pipeline(void) {
    dsvk_device *device = open_device(NULL);
    const dsvk_dispatch_info info = {.op = "norm", .shader = "rms_norm", .groups = {1, 1, 1}};
    PFN_vkCreateComputePipelines good = device->vk.vkCreateComputePipelines;
    VkPipeline pipeline;
    dsvk_cmd *cmd;
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    device->vk.vkCreateComputePipelines = no_pipelines;
    dsvk_dispatch(cmd, &info);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_UNSUPPORTED, "building the pipeline of rms_norm failed: VK_ERROR_INIT");
    device->vk.vkCreateComputePipelines = good;
    CHECK_OK(dsvk_pipeline_get(device, &info, false, &pipeline, &error));
    CHECK_OK(dsvk_cmd_begin(cmd, &error));
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    dsvk_cmd_destroy(cmd);
    close_device(device);
}

/* ---- loss: D08, D09, D10 ---- */

static VKAPI_ATTR VkResult VKAPI_CALL lost_submit(VkQueue queue, uint32_t n, const VkSubmitInfo2 *infos,
                                                  VkFence fence) {
    (void)queue, (void)n, (void)infos, (void)fence;
    return VK_ERROR_DEVICE_LOST;
}

static PFN_vkWaitSemaphores real_wait;

/* This device only claims to be lost: what was submitted ends before its objects go. */
static VKAPI_ATTR VkResult VKAPI_CALL lost_wait(VkDevice device, const VkSemaphoreWaitInfo *info, uint64_t timeout) {
    real_wait(device, info, timeout);
    return VK_ERROR_DEVICE_LOST;
}

static uint64_t waited_ns; /* the bounds of the waits, added up */

static VKAPI_ATTR VkResult VKAPI_CALL endless_wait(VkDevice device, const VkSemaphoreWaitInfo *info, uint64_t timeout) {
    (void)device, (void)info;
    waited_ns += timeout;
    return VK_TIMEOUT;
}

static uint32_t stops;

static VKAPI_ATTR VkResult VKAPI_CALL wait_after_a_stop(VkDevice device, const VkSemaphoreWaitInfo *info, uint64_t timeout) {
    return stops++ == 0 ? VK_TIMEOUT : real_wait(device, info, timeout);
}

/* After a loss every call says the same, at once. */
static void check_lost(dsvk_device *device, dsvk_cmd *cmd, dsvk_buffer *buffer, const char *part) {
    uint32_t word;
    char *text;
    dsvk_cmd *other;
    dsvk_buffer more;
    CHECK_FAILS(dsvk_device_status(device, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_cmd_wait(cmd, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_cmd_begin(cmd, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_cmd_create(device, &other, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_buffer_create(device, DSVK_CACHE, 4, "more", &more, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_buffer_write(device, buffer, 0, &word, 4, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_buffer_read(device, buffer, 0, &word, 4, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_device_memory(device, &text, &error), DSVK_DEVLOST, part);
    CHECK_FAILS(dsvk_device_profile_begin(device, &error), DSVK_DEVLOST, part);
}

static void test_D08_lost(void) {
    for (int where = 0; where < 2; where++) {
        dsvk_device *device = open_device(NULL);
        dsvk_buffer buffer;
        dsvk_cmd *cmd;
        CHECK_OK(dsvk_buffer_create(device, DSVK_CACHE, 64, "b", &buffer, &error));
        CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
        dsvk_cmd_fill(cmd, &buffer, 0, 64, 1);
        const dsvk_vk good = device->vk;
        real_wait = good.vkWaitSemaphores;
        if (where == 0)
            device->vk.vkQueueSubmit2 = lost_submit;
        else
            device->vk.vkWaitSemaphores = lost_wait;
        const char *part = where == 0 ? "is lost: vkQueueSubmit2 failed" : "is lost: vkWaitSemaphores failed";
        CHECK_FAILS(dsvk_cmd_run(cmd, &error), DSVK_DEVLOST, part);
        device->vk = good; /* a loss is sticky even if the driver recovers */
        check_lost(device, cmd, &buffer, part);
        const double before = dsvk_now_us();
        dsvk_cmd_destroy(cmd);
        dsvk_buffer_destroy(device, &buffer);
        close_device(device);
        CHECK(dsvk_now_us() - before < 5e6, "close took %g s", (dsvk_now_us() - before) * 1e-6);
        device = open_device(NULL);
        CHECK_OK(dsvk_device_status(device, &error));
        close_device(device);
    }
}

/* Lost while the copy of a read is under way: the status is judged after the copy, so nothing is returned as good. */
static void test_D09_read_around_loss(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer buffer;
    uint32_t word = 7;
    CHECK_OK(dsvk_buffer_create(device, DSVK_CACHE, 64, "b", &buffer, &error));
    CHECK_OK(dsvk_buffer_write(device, &buffer, 0, &word, 4, &error));
    buffer.host = NULL; /* the way of devices with memory of their own */
    real_wait = device->vk.vkWaitSemaphores;
    device->vk.vkWaitSemaphores = lost_wait;
    word = 5;
    CHECK_FAILS(dsvk_buffer_read(device, &buffer, 0, &word, 4, &error), DSVK_DEVLOST, "is lost");
    CHECK(word == 5, "nothing was handed out");
    dsvk_buffer_destroy(device, &buffer);
    close_device(device);
}

static void test_D10_bounded_wait(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer buffer;
    dsvk_cmd *cmd;
    CHECK_OK(dsvk_buffer_create(device, DSVK_WEIGHTS, 64, "b", &buffer, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    dsvk_cmd_fill(cmd, &buffer, 0, 64, 1);
    const dsvk_vk good = device->vk;
    device->vk.vkWaitSemaphores = endless_wait;
    waited_ns = 0;
    CHECK_OK(dsvk_cmd_submit(cmd, &error));
    CHECK_FAILS(dsvk_cmd_wait(cmd, &error), DSVK_DEVLOST, "did not finish within 60 s");
    CHECK(waited_ns == UINT64_C(60000000000), "the bound is 60 s, not %g", (double)waited_ns * 1e-9);
    check_lost(device, cmd, &buffer, "did not finish within 60 s");
    /* The memory a hung device may be using stays until it rests, which this one does at close. */
    dsvk_buffer_destroy(device, &buffer);
    CHECK(device->pools[DSVK_WEIGHTS].n_blocks == 1, "the block stays");
    device->vk = good;
    CHECK(dsvk_at_rest(device, device->submitted, 5), "the device comes to rest");
    dsvk_cmd_destroy(cmd);
    close_device(device);
}

/* The process was stopped for longer than a wait may take: that wait is over at once, the device has done its work. */
static void test_D10_stopped_process(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer buffer;
    dsvk_cmd *cmd;
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 64, "b", &buffer, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    dsvk_cmd_fill(cmd, &buffer, 0, 64, 1);
    real_wait = device->vk.vkWaitSemaphores;
    device->vk.vkWaitSemaphores = wait_after_a_stop;
    CHECK_OK(dsvk_cmd_submit(cmd, &error));
    CHECK_OK(dsvk_cmd_wait(cmd, &error));
    CHECK(stops == 2, "%u waits", stops);
    dsvk_buffer_destroy(device, &buffer);
    dsvk_cmd_destroy(cmd);
    close_device(device);
}

/* A device that never rests: close takes its bound and leaves the driver's objects alone. (Here they are then released
 * by hand, so that the leak checkers see only what the library lost.) */
static void test_D08_close_hung(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer buffer;
    dsvk_cmd *cmd;
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 64, "b", &buffer, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    dsvk_cmd_fill(cmd, &buffer, 0, 64, 1);
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    device->vk.vkWaitSemaphores = endless_wait;
    device->submitted++; /* something that will never finish */
    CHECK_FAILS(dsvk_timeline_wait(device, device->submitted, 1, &error), DSVK_DEVLOST, "within 1 s");
    dsvk_cmd_destroy(cmd);
    waited_ns = 0;
    dsvk_device_close(device);
    CHECK(waited_ns == UINT64_C(5000000000), "close waits 5 s at most, not %g", (double)waited_ns * 1e-9);
}

/* ---- ordering ---- */

static PFN_vkCmdPipelineBarrier2 real_barrier;
static uint32_t barriers;             /* recorded */
static VkMemoryBarrier2 last_barrier; /* the last of them */

static VKAPI_ATTR void VKAPI_CALL watched_barrier(VkCommandBuffer buffer, const VkDependencyInfo *info) {
    barriers++;
    last_barrier = info->pMemoryBarriers[0];
    real_barrier(buffer, info);
}

/* Software drivers forgive a missing barrier, so what is recorded is looked at: none where nothing was written since
 * the last, and every submit ends with one that covers the host. */
static void test_barriers(void) {
    dsvk_device *device = open_device(NULL);
    dsvk_buffer buffer;
    dsvk_cmd *cmd;
    CHECK_OK(dsvk_buffer_create(device, DSVK_READBACK, 64, "b", &buffer, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    real_barrier = device->vk.vkCmdPipelineBarrier2;
    device->vk.vkCmdPipelineBarrier2 = watched_barrier;
    barriers = 0;
    dsvk_barrier(cmd);
    CHECK(barriers == 0, "nothing to wait for");
    dsvk_cmd_fill(cmd, &buffer, 0, 64, 1);
    dsvk_barrier(cmd);
    dsvk_barrier(cmd);
    CHECK(barriers == 1, "once");
    const VkAccessFlags2 reads = VK_ACCESS_2_SHADER_READ_BIT | VK_ACCESS_2_TRANSFER_READ_BIT;
    const VkAccessFlags2 writes = VK_ACCESS_2_SHADER_WRITE_BIT | VK_ACCESS_2_TRANSFER_WRITE_BIT;
    CHECK(last_barrier.srcAccessMask == writes && last_barrier.dstAccessMask == (reads | writes), "kernels and copies");
    dsvk_cmd_fill(cmd, &buffer, 0, 64, 2);
    dsvk_barrier_grids(cmd);
    dsvk_barrier_grids(cmd);
    CHECK(barriers == 2 && (last_barrier.dstStageMask & VK_PIPELINE_STAGE_2_DRAW_INDIRECT_BIT) &&
              last_barrier.dstAccessMask == (reads | writes | VK_ACCESS_2_INDIRECT_COMMAND_READ_BIT),
          "and grids");
    dsvk_cmd_fill(cmd, &buffer, 0, 64, 3);
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    CHECK(barriers == 3 && (last_barrier.dstStageMask & VK_PIPELINE_STAGE_2_HOST_BIT) &&
              (last_barrier.dstAccessMask & VK_ACCESS_2_HOST_READ_BIT) && last_barrier.srcAccessMask == writes,
          "a submit ends with one for the host");
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &buffer);
    close_device(device);
}

/* ---- profiles: D13 ---- */

static void run_profile(dsvk_device *device, json_t **root) {
    dsvk_buffer buffer;
    dsvk_cmd *cmd;
    char *text = NULL;
    CHECK_OK(dsvk_buffer_create(device, DSVK_SCRATCH, 64, "b", &buffer, &error));
    CHECK_OK(dsvk_cmd_create(device, &cmd, &error));
    CHECK_OK(dsvk_device_profile_begin(device, &error));
    dsvk_cmd_fill(cmd, &buffer, 0, 64, 1);
    CHECK_OK(dsvk_cmd_run(cmd, &error));
    CHECK_OK(dsvk_device_profile_end(device, &text, &error));
    *root = parse_json(text);
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &buffer);
}

static void test_D13_no_timestamps(void) {
    dsvk_device *device = open_device(NULL);
    json_t *root;
    device->physical.timestamp_bits = 0;
    run_profile(device, &root);
    json_t *op = json_array_get(json_object_get(root, "ops"), 0);
    CHECK(json_is_false(json_object_get(root, "timestamps")), "the report says so");
    CHECK(json_integer_value(json_object_get(op, "calls")) == 1 &&
              json_integer_value(json_object_get(op, "bytes")) == 64,
          "calls and bytes are there all the same");
    CHECK(json_integer_value(json_object_get(root, "submits")) == 1, "submits too");
    json_decref(root);
    close_device(device);
}

/* A 36-bit counter that wraps between two timestamps, with rubbish above its bits. */
static VKAPI_ATTR VkResult VKAPI_CALL wrapping_counter(VkDevice device, VkQueryPool pool, uint32_t first, uint32_t n,
                                                       size_t size, void *data, VkDeviceSize stride,
                                                       VkQueryResultFlags flags) {
    (void)device, (void)pool, (void)first, (void)size, (void)stride, (void)flags;
    uint64_t *ticks = data;
    for (uint32_t i = 0; i < n; i++)
        ticks[i] = (((UINT64_C(1) << 36) - 500 + 1000 * i) & ((UINT64_C(1) << 36) - 1)) | (uint64_t)i << 40;
    return VK_SUCCESS;
}

static void test_D13_counter_wraps(void) {
    dsvk_device *device = open_device(NULL);
    json_t *root;
    device->vk.vkGetQueryPoolResults = wrapping_counter;
    device->physical.timestamp_bits = 36;
    device->physical.properties.limits.timestampPeriod = 80.0f;
    run_profile(device, &root);
    double us = json_real_value(json_object_get(root, "device_us"));
    CHECK(us > 79.99 && us < 80.01, "1000 ticks of 80 ns are %g us", us);
    json_decref(root);
    close_device(device);
}

/* ---- host memory: A06 ---- */

/* Allocation number n and all later ones fail, for every n of a call. */
static void test_A06_open(void) {
    for (int64_t n = 0, made = INT64_MAX; n < made; n++) {
        const dsvk_device_options options = {.size = sizeof options, .cache_dir = ""};
        dsvk_device *device = NULL;
        const int64_t live = dsvk_alloc_live();
        dsvk_alloc_fail_after(n);
        dsvk_status status = dsvk_device_open(&device, &options, &error);
        made = dsvk_alloc_fail_after(-1);
        CHECK(status == (made > n ? DSVK_NOMEM : DSVK_OK), "allocation %d: %s", (int)n, dsvk_status_name(status));
        dsvk_device_close(device);
        CHECK(dsvk_alloc_live() == live, "allocation %d: %d are left", (int)n, (int)(dsvk_alloc_live() - live));
    }
}

static void test_A06_calls(void) {
    dsvk_device *device = open_device(NULL);
    for (int64_t n = 0, made = INT64_MAX; n < made; n++) {
        const int64_t live = dsvk_alloc_live();
        dsvk_buffer buffer = {0};
        dsvk_cmd *cmd = NULL;
        VkPipeline pipeline;
        const uint32_t constants[] = {(uint32_t)n % 2, 512, 64};
        const dsvk_dispatch_info info = {
            .op = "quant_row", .shader = "quant_row", .constants = constants, .n_constants = 3};
        dsvk_alloc_fail_after(n);
        dsvk_status status = dsvk_buffer_create(device, DSVK_WEIGHTS, 100, "b", &buffer, &error);
        if (status == DSVK_OK)
            status = dsvk_cmd_create(device, &cmd, &error);
        if (status == DSVK_OK)
            status = dsvk_pipeline_get(device, &info, false, &pipeline, &error);
        made = dsvk_alloc_fail_after(-1);
        CHECK(status == (made > n ? DSVK_NOMEM : DSVK_OK), "allocation %d: %s", (int)n, dsvk_status_name(status));
        dsvk_cmd_destroy(cmd);
        dsvk_buffer_destroy(device, &buffer);
        CHECK(dsvk_alloc_live() == live + (status == DSVK_OK), "allocation %d: %d are left", (int)n,
              (int)(dsvk_alloc_live() - live)); /* the pipeline stays */
    }
    close_device(device);
}

int main(void) {
    RUN(test_D02_skipped);
    RUN(test_D03_order);
    RUN(test_D04_driver_out_of_memory);
    RUN(test_D04_small_blocks);
    RUN(test_D04_memory_budget);
    RUN(test_D07_full_model);
    RUN(test_D18_memory_steps);
    RUN(test_D18_pipeline);
    RUN(test_D08_lost);
    RUN(test_D09_read_around_loss);
    RUN(test_D10_bounded_wait);
    RUN(test_D10_stopped_process);
    RUN(test_D08_close_hung);
    RUN(test_barriers);
    RUN(test_D13_no_timestamps);
    RUN(test_D13_counter_wraps);
    RUN(test_A06_open);
    RUN(test_A06_calls);
    return test_result();
}
