/* Which features and extensions of Vulkan the library uses: the only list of them. It judges physical devices, completes the
 * VkDeviceCreateInfo of our own device and of a host's, and reads from a host's what it enabled.
 *
 * A feature stands in the struct of its Vulkan version or in one of its own, never in both of one chain. So it is set where the
 * chain has it, and what the chain lacks is added as structs of their own. */
#include <stdio.h>
#include <string.h>

#include "device_internal.h"

/* For what: everything, or what a flag of dsvk_physical stands for. */
typedef enum need { NEEDED, BUDGET, MATRIX, FLEXIBLE, BYTES, STATISTICS } need;
static const size_t FLAGS[] = {
    [BUDGET] = offsetof(dsvk_physical, has_budget),
    [MATRIX] = offsetof(dsvk_physical, has_cooperative_matrix),
    [FLEXIBLE] = offsetof(dsvk_physical, has_flexible_matrix),
    [BYTES] = offsetof(dsvk_physical, has_byte_products),
    [STATISTICS] = offsetof(dsvk_physical, has_statistics),
};

typedef struct place {
    VkStructureType type;
    uint32_t offset; /* 0: nowhere */
} place;

typedef struct feature {
    const char *name;
    need need;
    place versioned, own;
} feature;

#define IN(type, record, name) { VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_##type, offsetof(VkPhysicalDevice##record, name) }
#define IN_12(name) IN(VULKAN_1_2_FEATURES, Vulkan12Features, name)
#define IN_13(name) IN(VULKAN_1_3_FEATURES, Vulkan13Features, name)

static const feature FEATURES[] = { /* those of one struct behind each other */
    { "bufferDeviceAddress", NEEDED, IN_12(bufferDeviceAddress),
      IN(BUFFER_DEVICE_ADDRESS_FEATURES, BufferDeviceAddressFeatures, bufferDeviceAddress) },
    { "timelineSemaphore", NEEDED, IN_12(timelineSemaphore), IN(TIMELINE_SEMAPHORE_FEATURES, TimelineSemaphoreFeatures, timelineSemaphore) },
    { "scalarBlockLayout", NEEDED, IN_12(scalarBlockLayout), IN(SCALAR_BLOCK_LAYOUT_FEATURES, ScalarBlockLayoutFeatures, scalarBlockLayout) },
    { "synchronization2", NEEDED, IN_13(synchronization2), IN(SYNCHRONIZATION_2_FEATURES, Synchronization2Features, synchronization2) },
    { "maintenance4", NEEDED, IN_13(maintenance4), IN(MAINTENANCE_4_FEATURES, Maintenance4Features, maintenance4) },
    { "shaderFloat16", MATRIX, IN_12(shaderFloat16), IN(SHADER_FLOAT16_INT8_FEATURES, ShaderFloat16Int8Features, shaderFloat16) },
    { "vulkanMemoryModel", MATRIX, IN_12(vulkanMemoryModel),
      IN(VULKAN_MEMORY_MODEL_FEATURES, VulkanMemoryModelFeatures, vulkanMemoryModel) },
    { "vulkanMemoryModelDeviceScope", MATRIX, IN_12(vulkanMemoryModelDeviceScope),
      IN(VULKAN_MEMORY_MODEL_FEATURES, VulkanMemoryModelFeatures, vulkanMemoryModelDeviceScope) },
    { "subgroupSizeControl", MATRIX, IN_13(subgroupSizeControl),
      IN(SUBGROUP_SIZE_CONTROL_FEATURES, SubgroupSizeControlFeatures, subgroupSizeControl) },
    { "computeFullSubgroups", MATRIX, IN_13(computeFullSubgroups),
      IN(SUBGROUP_SIZE_CONTROL_FEATURES, SubgroupSizeControlFeatures, computeFullSubgroups) },
    { "cooperativeMatrix", MATRIX, .own = IN(COOPERATIVE_MATRIX_FEATURES_KHR, CooperativeMatrixFeaturesKHR, cooperativeMatrix) },
    { "cooperativeMatrixFlexibleDimensions", FLEXIBLE,
      .own = IN(COOPERATIVE_MATRIX_2_FEATURES_NV, CooperativeMatrix2FeaturesNV, cooperativeMatrixFlexibleDimensions) },
    { "shaderIntegerDotProduct", BYTES, IN_13(shaderIntegerDotProduct),
      IN(SHADER_INTEGER_DOT_PRODUCT_FEATURES, ShaderIntegerDotProductFeatures, shaderIntegerDotProduct) },
    { "pipelineExecutableInfo", STATISTICS, /* whoever has the extension has it */
      .own = IN(PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR, PipelineExecutablePropertiesFeaturesKHR, pipelineExecutableInfo) },
};

static const struct {
    const char *name;
    need need;
} EXTENSIONS[] = {
    { VK_EXT_MEMORY_BUDGET_EXTENSION_NAME, BUDGET },
    { "VK_KHR_cooperative_matrix", MATRIX },
    { "VK_NV_cooperative_matrix2", FLEXIBLE },
    { VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME, STATISTICS },
};

/* ---- what a physical device has ---- */

static bool *flag_of(dsvk_physical *p, need what) { return (bool *)((uint8_t *)p + FLAGS[what]); }

bool *dsvk_extension_flag(dsvk_physical *p, const char *name) {
    for (size_t i = 0; i < DSVK_COUNT(EXTENSIONS); i++)
        if (strcmp(name, EXTENSIONS[i].name) == 0)
            return flag_of(p, EXTENSIONS[i].need);
    return NULL;
}

static void append(char *list, size_t size, const char *name) {
    const size_t used = strlen(list);
    snprintf(list + used, size - used, "%s%s", used ? ", " : "", name);
}

static VkBool32 value_at(const void *record, uint32_t offset) {
    VkBool32 value;
    memcpy(&value, (const uint8_t *)record + offset, sizeof value);
    return value;
}

void dsvk_features_lacking(const dsvk_physical *p, char *list, size_t size) {
    list[0] = 0;
    for (size_t i = 0; i < DSVK_COUNT(FEATURES); i++) {
        const feature *f = &FEATURES[i];
        const void *record = f->versioned.type == p->f12.sType ? (const void *)&p->f12 : &p->f13;
        if (f->need == NEEDED && !value_at(record, f->versioned.offset))
            append(list, size, f->name);
    }
}

/* ---- what a VkDeviceCreateInfo asks for ---- */

static uint8_t *find_record(const VkDeviceCreateInfo *info, VkStructureType type) {
    for (const VkBaseInStructure *s = info->pNext; s; s = s->pNext)
        if (s->sType == type)
            return (uint8_t *)s;
    return NULL;
}

/* Where the chain has it, or NULL. */
static uint8_t *find_feature(const VkDeviceCreateInfo *info, const feature *f) {
    uint8_t *versioned = f->versioned.offset ? find_record(info, f->versioned.type) : NULL;
    uint8_t *own = find_record(info, f->own.type);
    return versioned ? versioned + f->versioned.offset : own ? own + f->own.offset : NULL;
}

static bool asks_for(const VkDeviceCreateInfo *info, const feature *f) {
    const uint8_t *at = find_feature(info, f);
    return at && value_at(at, 0);
}

static bool lists(const VkDeviceCreateInfo *info, const char *extension) {
    for (uint32_t i = 0; i < info->enabledExtensionCount; i++)
        if (strcmp(info->ppEnabledExtensionNames[i], extension) == 0)
            return true;
    return false;
}

dsvk_status dsvk_features_restrict(dsvk_physical *p, const VkDeviceCreateInfo *info, dsvk_error *err) {
    char missing[512] = "";
    bool memory_model = false;
    for (size_t i = 0; i < DSVK_COUNT(EXTENSIONS); i++) {
        bool *flag = flag_of(p, EXTENSIONS[i].need);
        *flag = *flag && lists(info, EXTENSIONS[i].name);
    }
    for (size_t i = 0; i < DSVK_COUNT(FEATURES); i++) {
        const feature *f = &FEATURES[i];
        const bool on = asks_for(info, f);
        if (strcmp(f->name, "vulkanMemoryModel") == 0)
            memory_model = on;
        /* Under the memory model the atomics of every kernel need the device's scope. */
        const bool needed = f->need == NEEDED || (memory_model && strcmp(f->name, "vulkanMemoryModelDeviceScope") == 0);
        if (needed && !on)
            append(missing, sizeof missing, f->name);
        else if (f->need != NEEDED)
            *flag_of(p, f->need) = *flag_of(p, f->need) && on;
    }
    if (missing[0])
        return dsvk_fail(err, DSVK_INVALID, "the host's device was made without what is needed: %s; dsvk_host_device_prepare adds it",
                         missing);
    return DSVK_OK;
}

/* ---- completing one ---- */

#define MOST_VALUES 7u /* of the structs added here */

typedef struct added {
    struct {
        VkStructureType type;
        const void *next;
        VkBool32 values[MOST_VALUES];
    } records[DSVK_COUNT(FEATURES)];
    uint32_t n_records;
    const char *extensions[]; /* the host's, and [DSVK_COUNT(EXTENSIONS)] */
} added;

static uint8_t *add_record(added *a, VkDeviceCreateInfo *info, VkStructureType type) {
    a->records[a->n_records].type = type;
    a->records[a->n_records].next = info->pNext;
    info->pNext = &a->records[a->n_records];
    return (uint8_t *)&a->records[a->n_records++];
}

dsvk_status dsvk_features_add(const dsvk_physical *p, bool statistics, VkDeviceCreateInfo *info, void **memory, dsvk_error *err) {
    const bool wanted[] = { [NEEDED] = true, [BUDGET] = p->has_budget, [MATRIX] = p->has_cooperative_matrix,
                            [FLEXIBLE] = p->has_flexible_matrix, [BYTES] = p->has_byte_products, [STATISTICS] = statistics };
    const size_t bytes = sizeof(added) + (info->enabledExtensionCount + DSVK_COUNT(EXTENSIONS)) * sizeof(char *);
    const VkBool32 on = VK_TRUE;
    added *a = *memory = dsvk_alloc_zero(1, bytes);
    if (!a)
        return dsvk_fail_nomem(err, bytes);
    for (size_t i = 0; i < DSVK_COUNT(FEATURES); i++) {
        const feature *f = &FEATURES[i];
        if (!wanted[f->need])
            continue;
        uint8_t *at = find_feature(info, f);
        memcpy(at ? at : add_record(a, info, f->own.type) + f->own.offset, &on, sizeof on);
    }
    uint32_t n = 0;
    for (; n < info->enabledExtensionCount; n++)
        a->extensions[n] = info->ppEnabledExtensionNames[n];
    for (size_t i = 0; i < DSVK_COUNT(EXTENSIONS); i++)
        if (wanted[EXTENSIONS[i].need] && !lists(info, EXTENSIONS[i].name))
            a->extensions[n++] = EXTENSIONS[i].name;
    info->enabledExtensionCount = n;
    info->ppEnabledExtensionNames = a->extensions;
    return DSVK_OK;
}
