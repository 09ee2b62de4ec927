/* Kernels: one pipeline per shader and set of specialization constants, and one more where a dispatch runs in slices, built at first
 * use or by a dry recording, kept until the device closes. All share one layout: 128 bytes of push constants and no descriptors. What
 * the driver's compiler says about them can be asked for. */
#include <stdlib.h>
#include <string.h>

#include "device_internal.h"

#include "device_constants.h"

#define MAX_CONSTANTS SOFTWARE_CONSTANT
#define DEVICE_CONSTANTS (FEW_REGISTERS_CONSTANT - SOFTWARE_CONSTANT + 1)

struct dsvk_pipeline {
    dsvk_pipeline *next; /* in its bucket */
    const dsvk_shader *shader;
    VkPipeline handle;
    bool sliced;
    atomic_bool compiled; /* on a software driver: dispatched before */
    uint32_t n_constants;
    uint32_t constants[]; /* [n_constants] */
};

static const dsvk_shader *find_shader(const char *name) {
    for (const dsvk_shader *shader = dsvk_shaders; shader->name; shader++)
        if (strcmp(shader->name, name) == 0)
            return shader;
    return NULL;
}

/* FNV-1a over the words, folded to a bucket. */
static uint32_t bucket_of(const char *shader, const uint32_t *constants, uint32_t n) {
    uint32_t hash = 2166136261u;
    for (; *shader; shader++)
        hash = (hash ^ (uint8_t)*shader) * 16777619u;
    for (uint32_t i = 0; i < n; i++)
        hash = (hash ^ constants[i]) * 16777619u;
    return (hash ^ hash >> 16) % DSVK_PIPELINE_BUCKETS;
}

static dsvk_pipeline *find(const dsvk_device *device, uint32_t bucket, const dsvk_dispatch_info *info) {
    for (dsvk_pipeline *p = device->pipelines[bucket]; p; p = p->next)
        if (p->n_constants == info->n_constants && p->sliced == info->sliced && strcmp(p->shader->name, info->shader) == 0 &&
            (p->n_constants == 0 || memcmp(p->constants, info->constants, p->n_constants * sizeof(uint32_t)) == 0))
            return p;
    return NULL;
}

static bool has_sizes(const dsvk_device *device) { return device->limits.subgroup_min != device->limits.subgroup_max; }

static VkResult build(dsvk_device *device, const dsvk_shader *shader, const uint32_t *constants, uint32_t n, uint32_t subgroup,
                      bool sliced, VkPipeline *pipeline) {
    size_t bytes = shader->bytes;
    uint32_t *words = dsvk_keep_half_denormals(&device->physical.v12, shader->words, &bytes);
    if (!words)
        return VK_ERROR_OUT_OF_HOST_MEMORY;
    const VkShaderModuleCreateInfo code = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = bytes,
        .pCode = words,
    };
    VkShaderModule module;
    VkResult result = device->vk.vkCreateShaderModule(device->handle, &code, NULL, &module);
    dsvk_free(words);
    if (result != VK_SUCCESS)
        return result;
    VkSpecializationMapEntry entries[MAX_CONSTANTS + DEVICE_CONSTANTS];
    uint32_t data[MAX_CONSTANTS + DEVICE_CONSTANTS];
    for (uint32_t i = 0; i < n + DEVICE_CONSTANTS; i++)
        entries[i] = (VkSpecializationMapEntry){.constantID = i < n ? i : SOFTWARE_CONSTANT + i - n, .offset = i * 4, .size = 4};
    for (uint32_t i = 0; i < n; i++)
        data[i] = constants[i];
    data[n + SOFTWARE_CONSTANT - MAX_CONSTANTS] = device->limits.software;
    data[n + FEW_REGISTERS_CONSTANT - MAX_CONSTANTS] = device->limits.few_registers;
    const VkSpecializationInfo values = {
        .mapEntryCount = n + DEVICE_CONSTANTS,
        .pMapEntries = entries,
        .dataSize = (n + DEVICE_CONSTANTS) * sizeof *data,
        .pData = data,
    };
    const VkPipelineShaderStageRequiredSubgroupSizeCreateInfo size = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO,
        .requiredSubgroupSize = subgroup,
    };
    const VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .flags = (device->statistics ? VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR : 0) |
                 (sliced ? VK_PIPELINE_CREATE_DISPATCH_BASE_BIT : 0),
        .stage =
            {
                .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                .pNext = subgroup && has_sizes(device) ? &size : NULL,
                .flags = subgroup ? VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT : 0,
                .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                .module = module,
                .pName = "main",
                .pSpecializationInfo = &values,
            },
        .layout = device->layout,
    };
    result = device->vk.vkCreateComputePipelines(device->handle, device->pipeline_cache, 1, &info, NULL, pipeline);
    device->vk.vkDestroyShaderModule(device->handle, module, NULL);
    return result;
}

/* Builds outside the lock, so that several threads can build at once; the first of two equal ones stays. */
static dsvk_status add(dsvk_device *device, uint32_t bucket, const dsvk_dispatch_info *info, dsvk_pipeline **pipeline,
                       dsvk_error *err) {
    const dsvk_shader *shader = find_shader(info->shader);
    if (!shader)
        return dsvk_fail(err, DSVK_INVALID, "op %s: there is no shader %s", info->op, info->shader);
    dsvk_pipeline *made = dsvk_alloc_zero(1, sizeof *made + info->n_constants * sizeof(uint32_t));
    if (!made)
        return dsvk_fail_nomem(err, sizeof *made);
    made->shader = shader;
    made->sliced = info->sliced;
    made->n_constants = info->n_constants;
    if (info->n_constants)
        memcpy(made->constants, info->constants, info->n_constants * sizeof(uint32_t));
    VkResult result = build(device, shader, made->constants, made->n_constants, info->subgroup, info->sliced, &made->handle);
    if (result != VK_SUCCESS) {
        dsvk_free(made);
        return dsvk_vk_fail(device, result, err, "building the pipeline of %s", info->shader);
    }
    dsvk_set_name(device, VK_OBJECT_TYPE_PIPELINE, (uint64_t)made->handle, "%s", info->shader);
    pthread_mutex_lock(&device->pipeline_lock);
    dsvk_pipeline *other = find(device, bucket, info);
    if (!other) {
        made->next = device->pipelines[bucket];
        device->pipelines[bucket] = made;
    }
    pthread_mutex_unlock(&device->pipeline_lock);
    *pipeline = other ? other : made;
    if (other) {
        device->vk.vkDestroyPipeline(device->handle, made->handle, NULL);
        dsvk_free(made);
    }
    return DSVK_OK;
}

static dsvk_status get(dsvk_device *device, const dsvk_dispatch_info *info, dsvk_pipeline **pipeline, dsvk_error *err) {
    if (info->n_constants > MAX_CONSTANTS)
        return dsvk_fail(err, DSVK_INVALID, "op %s: %u specialization constants, the limit is %d", info->op,
                         info->n_constants, MAX_CONSTANTS);
    const uint32_t bucket = bucket_of(info->shader, info->constants, info->n_constants);
    pthread_mutex_lock(&device->pipeline_lock);
    *pipeline = find(device, bucket, info);
    pthread_mutex_unlock(&device->pipeline_lock);
    return *pipeline ? DSVK_OK : add(device, bucket, info, pipeline, err);
}

dsvk_status dsvk_pipeline_get(dsvk_device *device, const dsvk_dispatch_info *info, bool compiled, VkPipeline *pipeline,
                              dsvk_error *err) {
    dsvk_pipeline *found;
    DSVK_TRY(get(device, info, &found, err));
    if (compiled && device->limits.software && !atomic_load(&found->compiled)) {
        DSVK_TRY(dsvk_compile_now(device, found->handle, err));
        atomic_store(&found->compiled, true);
    }
    *pipeline = found->handle;
    return DSVK_OK;
}

/* ---- the compiler's figures ---- */

static json_t *statistic_json(const VkPipelineExecutableStatisticKHR *s) {
    switch (s->format) {
    case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR:
        return json_boolean(s->value.b32);
    case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_INT64_KHR:
        return json_integer(s->value.i64);
    case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR:
        return json_integer((json_int_t)s->value.u64);
    default:
        return json_real(s->value.f64);
    }
}

static json_t *statistics_json(dsvk_device *device, VkPipeline pipeline, uint32_t executable) {
    const VkPipelineExecutableInfoKHR info = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR,
        .pipeline = pipeline,
        .executableIndex = executable,
    };
    VkPipelineExecutableStatisticKHR list[64] = {0};
    uint32_t n = DSVK_COUNT(list);
    for (uint32_t i = 0; i < n; i++)
        list[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    json_t *root = json_object();
    VkResult result = device->vk.vkGetPipelineExecutableStatisticsKHR(device->handle, &info, &n, list);
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < n; i++)
        json_object_set_new(root, list[i].name, statistic_json(&list[i]));
    return root;
}

static json_t *executables_json(dsvk_device *device, VkPipeline pipeline) {
    json_t *root = json_array();
    if (!device->statistics || !device->vk.vkGetPipelineExecutablePropertiesKHR)
        return root;
    const VkPipelineInfoKHR info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, .pipeline = pipeline};
    VkPipelineExecutablePropertiesKHR list[8] = {0};
    uint32_t n = DSVK_COUNT(list);
    for (uint32_t i = 0; i < n; i++)
        list[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR;
    VkResult result = device->vk.vkGetPipelineExecutablePropertiesKHR(device->handle, &info, &n, list);
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < n; i++)
        json_array_append_new(root, json_pack("{s:s, s:I, s:o}", "name", list[i].name, "subgroup",
                                              (json_int_t)list[i].subgroupSize, "statistics",
                                              statistics_json(device, pipeline, i)));
    return root;
}

static json_t *pipeline_json(dsvk_device *device, const dsvk_pipeline *pipeline) {
    json_t *constants = json_array();
    for (uint32_t i = 0; i < pipeline->n_constants; i++)
        json_array_append_new(constants, json_integer(pipeline->constants[i]));
    return json_pack("{s:s, s:o, s:o}", "shader", pipeline->shader->name, "constants", constants, "executables",
                     executables_json(device, pipeline->handle));
}

static int by_shader_and_constants(const void *left, const void *right) {
    const dsvk_pipeline *a = *(dsvk_pipeline *const *)left, *b = *(dsvk_pipeline *const *)right;
    int order = strcmp(a->shader->name, b->shader->name);
    for (uint32_t i = 0; order == 0 && i < a->n_constants && i < b->n_constants; i++)
        order = (a->constants[i] > b->constants[i]) - (a->constants[i] < b->constants[i]);
    return order;
}

/* Every pipeline in the table, sorted; they stay until the device closes. NULL: out of memory. */
static dsvk_pipeline **sorted(dsvk_device *device, size_t *n) {
    *n = 0;
    pthread_mutex_lock(&device->pipeline_lock);
    for (uint32_t i = 0; i < DSVK_PIPELINE_BUCKETS; i++)
        for (dsvk_pipeline *p = device->pipelines[i]; p; p = p->next)
            ++*n;
    dsvk_pipeline **list = dsvk_alloc((*n + 1) * sizeof *list), **end = list; /* never of 0 bytes */
    for (uint32_t i = 0; list && i < DSVK_PIPELINE_BUCKETS; i++)
        for (dsvk_pipeline *p = device->pipelines[i]; p; p = p->next)
            *end++ = p;
    pthread_mutex_unlock(&device->pipeline_lock);
    if (list)
        qsort(list, *n, sizeof(dsvk_pipeline *), by_shader_and_constants);
    return list;
}

dsvk_status dsvk_device_pipelines(dsvk_device *device, char **json, dsvk_error *err) {
    size_t n;
    DSVK_TRY(dsvk_device_status(device, err));
    if (!json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_device_pipelines: json is NULL");
    dsvk_pipeline **list = sorted(device, &n);
    if (!list)
        return dsvk_fail_nomem(err, (n + 1) * sizeof *list);
    json_t *root = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(root, pipeline_json(device, list[i]));
    dsvk_free(list);
    return dsvk_json_text(root, json, err);
}

/* ---- the cache and the layout ---- */

static VkResult create_cache(dsvk_device *device, const void *payload, size_t bytes) {
    const VkPipelineCacheCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
        .initialDataSize = bytes,
        .pInitialData = payload,
    };
    return device->vk.vkCreatePipelineCache(device->handle, &info, NULL, &device->pipeline_cache);
}

static size_t cache_bytes(const dsvk_device *device) {
    size_t bytes = 0;
    VkResult result = device->vk.vkGetPipelineCacheData(device->handle, device->pipeline_cache, &bytes, NULL);
    return result == VK_SUCCESS ? bytes : 0;
}

dsvk_status dsvk_pipelines_open(dsvk_device *device, dsvk_error *err) {
    const VkPushConstantRange push = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = DSVK_PUSH_BYTES};
    const VkPipelineLayoutCreateInfo layout = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .pushConstantRangeCount = 1,
        .pPushConstantRanges = &push,
    };
    VkResult result = device->vk.vkCreatePipelineLayout(device->handle, &layout, NULL, &device->layout);
    if (result != VK_SUCCESS)
        return dsvk_vk_fail(device, result, err, "vkCreatePipelineLayout");
    void *payload;
    size_t bytes;
    dsvk_cache_read(device, "pipelines", &payload, &bytes);
    result = create_cache(device, payload, bytes);
    if (result == VK_SUCCESS && payload)
        device->pipeline_cache_bytes = cache_bytes(device);
    else if (payload) /* the driver does not like it after all */
        result = create_cache(device, NULL, 0);
    dsvk_free(payload);
    return result == VK_SUCCESS ? DSVK_OK : dsvk_vk_fail(device, result, err, "vkCreatePipelineCache");
}

/* Only when something was added: a process that found everything in the file leaves it alone. */
static void save_cache(dsvk_device *device) {
    size_t bytes = cache_bytes(device);
    if (bytes <= device->pipeline_cache_bytes)
        return;
    void *payload = dsvk_alloc(bytes);
    if (payload &&
        device->vk.vkGetPipelineCacheData(device->handle, device->pipeline_cache, &bytes, payload) == VK_SUCCESS)
        dsvk_cache_write(device, "pipelines", payload, bytes);
    dsvk_free(payload);
}

void dsvk_pipelines_close(dsvk_device *device, bool on_device) {
    if (on_device && device->pipeline_cache && !atomic_load(&device->lost))
        save_cache(device);
    for (uint32_t i = 0; i < DSVK_PIPELINE_BUCKETS; i++)
        while (device->pipelines[i]) {
            dsvk_pipeline *pipeline = device->pipelines[i];
            device->pipelines[i] = pipeline->next;
            if (on_device)
                device->vk.vkDestroyPipeline(device->handle, pipeline->handle, NULL);
            dsvk_free(pipeline);
        }
    if (on_device && device->pipeline_cache)
        device->vk.vkDestroyPipelineCache(device->handle, device->pipeline_cache, NULL);
    if (on_device && device->layout)
        device->vk.vkDestroyPipelineLayout(device->handle, device->layout, NULL);
}
