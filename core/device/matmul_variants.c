/* How a device multiplies matrices of many rows: which ways it has, their names, and which one is in use. The kernels are the
 * ops'; here is what depends on the driver. Tiles in registers alone are for CPUs, on which a barrier costs more than what shared memory saves: eight
 * invocations would leave a GPU empty. Until somebody measured (core/engine/matmul_choice.c), tiles are taken, in whichever of
 * the two; what was measured is remembered on disk per driver. */
#include <stdio.h>
#include <string.h>

#include "device_internal.h"

static const char *const names[] = { "few", "registers", "columns", "tiled", "coopmat" };

static bool is_cpu(const dsvk_physical *p) { return p->properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU; }

const char *dsvk_matmul_name(dsvk_matmul_variant v, char out[DSVK_MATMUL_NAME]) {
    if (v.kind == DSVK_MATMUL_COOPMAT)
        snprintf(out, DSVK_MATMUL_NAME, "%s %ux%ux%u%s%s", names[v.kind], v.m, v.n, v.k, v.plain_attention ? ", plain attention" : "",
                 v.plain_indexer ? ", plain indexer" : "");
    else
        snprintf(out, DSVK_MATMUL_NAME, "%s", names[v.kind]);
    return out;
}

static uint32_t variants_of(const dsvk_physical *p, dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS]) {
    uint32_t n = 0;
    list[n++] = (dsvk_matmul_variant){ .kind = DSVK_MATMUL_FEW };
    if (is_cpu(p))
        list[n++] = (dsvk_matmul_variant){ .kind = DSVK_MATMUL_REGISTERS };
    if (is_cpu(p) && p->v13.minSubgroupSize == 8 && p->v13.maxSubgroupSize == 8)
        list[n++] = (dsvk_matmul_variant){ .kind = DSVK_MATMUL_COLUMNS };
    list[n++] = (dsvk_matmul_variant){ .kind = DSVK_MATMUL_TILED };
    for (uint32_t i = 0; i < p->n_shapes; i++)
        list[n++] = p->shapes[i];
    return n;
}

uint32_t dsvk_matmul_variants(const dsvk_device *device, dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS]) {
    return variants_of(&device->physical, list);
}

uint32_t dsvk_matmul_subgroup(const dsvk_device *device) { return device->physical.matrix_subgroup; }

json_t *dsvk_matmul_json(const dsvk_physical *p) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS];
    char name[DSVK_MATMUL_NAME];
    json_t *root = json_array();
    for (uint32_t i = 0, n = p->usable ? variants_of(p, list) : 0; i < n; i++)
        json_array_append_new(root, json_string(dsvk_matmul_name(list[i], name)));
    return root;
}

/* ---- cooperative matrices ---- */

/* Shapes that the kernel can work with: matrices of a slab of 32 inputs, in tiles of 32 rows of x and output rows whose scales
 * are the same for 16. */
static void add_shape(dsvk_physical *p, uint32_t m, uint32_t n, uint32_t k) {
    const dsvk_matmul_variant shape = { .kind = DSVK_MATMUL_COOPMAT, .m = (uint8_t)m, .n = (uint8_t)n, .k = k & 0x3f };
    if ((m != 8 && m != 16) || (n != 8 && n != 16) || (k != 8 && k != 16) || p->n_shapes == DSVK_MATMUL_SHAPES)
        return;
    for (uint32_t i = 0; i < p->n_shapes; i++)
        if (memcmp(&p->shapes[i], &shape, sizeof shape) == 0)
            return;
    p->shapes[p->n_shapes++] = shape;
}

#define MANY 256u /* shapes a driver may list */

static void read_shapes(const dsvk_vk *vk, dsvk_physical *p) {
    VkCooperativeMatrixPropertiesKHR *list = dsvk_alloc_zero(MANY, sizeof *list);
    uint32_t n = MANY;
    for (uint32_t i = 0; list && i < MANY; i++)
        list[i].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
    const VkResult result = list ? vk->vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR(p->handle, &n, list) : VK_ERROR_OUT_OF_HOST_MEMORY;
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < n; i++) {
        const VkCooperativeMatrixPropertiesKHR *s = &list[i];
        if (s->AType == VK_COMPONENT_TYPE_FLOAT16_KHR && s->BType == VK_COMPONENT_TYPE_FLOAT16_KHR &&
            s->CType == VK_COMPONENT_TYPE_FLOAT32_KHR && s->ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR &&
            !s->saturatingAccumulation && s->scope == VK_SCOPE_SUBGROUP_KHR)
            add_shape(p, s->MSize, s->NSize, s->KSize);
    }
    dsvk_free(list);
}

/* With flexible dimensions a driver takes every multiple of what it lists: the shapes of other vendors' matrix units. */
static void read_flexible_shapes(const dsvk_vk *vk, dsvk_physical *p) {
    static const uint8_t shapes[][3] = { { 8, 8, 8 }, { 16, 16, 16 }, { 8, 16, 16 }, { 8, 8, 16 } };
    VkCooperativeMatrixFlexibleDimensionsPropertiesNV *list = dsvk_alloc_zero(MANY, sizeof *list);
    uint32_t n = MANY;
    for (uint32_t i = 0; list && i < MANY; i++)
        list[i].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_FLEXIBLE_DIMENSIONS_PROPERTIES_NV;
    const VkResult result =
        list ? vk->vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV(p->handle, &n, list) : VK_ERROR_OUT_OF_HOST_MEMORY;
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < n; i++) {
        const VkCooperativeMatrixFlexibleDimensionsPropertiesNV *s = &list[i];
        if (s->AType != VK_COMPONENT_TYPE_FLOAT16_KHR || s->BType != VK_COMPONENT_TYPE_FLOAT16_KHR ||
            s->CType != VK_COMPONENT_TYPE_FLOAT32_KHR || s->ResultType != VK_COMPONENT_TYPE_FLOAT32_KHR ||
            s->saturatingAccumulation || s->scope != VK_SCOPE_SUBGROUP_KHR)
            continue;
        for (uint32_t j = 0; j < DSVK_COUNT(shapes); j++)
            if (shapes[j][0] % s->MGranularity == 0 && shapes[j][1] % s->NGranularity == 0 && shapes[j][2] % s->KGranularity == 0)
                add_shape(p, shapes[j][0], shapes[j][1], shapes[j][2]);
    }
    dsvk_free(list);
}

/* A validation layer calls wrong what is younger than itself: with such a one the extensions are not used. */
static bool is_known(const dsvk_vk *vk, uint32_t since) { return !vk->validation_version || vk->validation_version >= since; }
#define KHR_SINCE VK_MAKE_API_VERSION(0, 1, 3, 255)
#define NV2_SINCE VK_MAKE_API_VERSION(0, 1, 4, 300)

void dsvk_matmul_survey(const dsvk_vk *vk, dsvk_physical *p) {
    p->has_cooperative_matrix = p->has_cooperative_matrix && is_known(vk, KHR_SINCE);
    p->has_flexible_matrix = p->has_flexible_matrix && is_known(vk, NV2_SINCE);
    VkPhysicalDeviceCooperativeMatrix2FeaturesNV flexible = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_2_FEATURES_NV,
    };
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR,
        .pNext = p->has_flexible_matrix ? &flexible : NULL,
    };
    VkPhysicalDeviceFeatures2 features = { .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &matrix };
    const bool one_size = p->v13.minSubgroupSize == p->v13.maxSubgroupSize;
    /* Intel's matrix units work for its smallest subgroups only. */
    p->matrix_subgroup = p->properties.vendorID == DSVK_VENDOR_INTEL ? p->v13.minSubgroupSize : p->v11.subgroupSize;
    if (p->usable && p->has_cooperative_matrix && vk->vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)
        vk->vkGetPhysicalDeviceFeatures2(p->handle, &features);
    p->has_cooperative_matrix = matrix.cooperativeMatrix && p->f12.shaderFloat16 && p->f12.vulkanMemoryModel &&
                                p->f12.vulkanMemoryModelDeviceScope &&
                                p->f13.subgroupSizeControl && p->f13.computeFullSubgroups &&
                                (one_size || (p->v13.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT)) &&
                                p->properties.limits.maxComputeSharedMemorySize >= 32768 &&
                                p->properties.limits.maxComputeWorkGroupInvocations >= 256;
    p->has_flexible_matrix = p->has_cooperative_matrix && flexible.cooperativeMatrixFlexibleDimensions &&
                             vk->vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV;
    if (p->has_cooperative_matrix)
        read_shapes(vk, p);
    if (p->has_flexible_matrix)
        read_flexible_shapes(vk, p);
}

/* ---- the one in use ---- */

dsvk_matmul_variant dsvk_device_matmul(const dsvk_device *device) {
    const uint32_t packed = atomic_load(&device->matmul);
    dsvk_matmul_variant v;
    _Static_assert(sizeof v == sizeof packed, "one word, so that threads see all of it or nothing");
    memcpy(&v, &packed, sizeof v);
    return v;
}

dsvk_matmul_source dsvk_device_matmul_source(const dsvk_device *device) { return atomic_load(&device->matmul_source); }

void dsvk_device_set_matmul(dsvk_device *device, dsvk_matmul_variant v) {
    uint32_t packed;
    memcpy(&packed, &v, sizeof packed);
    atomic_store(&device->matmul, packed);
}

void dsvk_device_remember_matmul(dsvk_device *device, dsvk_matmul_variant v) {
    dsvk_device_set_matmul(device, v);
    atomic_store(&device->matmul_source, DSVK_MATMUL_CHOSEN);
    dsvk_cache_write(device, "matmul", &v, sizeof v);
}

/* Equal but for what attention and indexer do, which is a choice of coopmat's alone. */
static bool same_product(dsvk_matmul_variant a, dsvk_matmul_variant b) {
    return a.kind == b.kind && a.m == b.m && a.n == b.n && a.k == b.k &&
           ((!a.plain_attention && !a.plain_indexer) || a.kind == DSVK_MATMUL_COOPMAT);
}

/* The variant that a file of this driver names, if the device has it. */
static bool recall(dsvk_device *device, const dsvk_matmul_variant *list, uint32_t n, dsvk_matmul_variant *out) {
    void *payload;
    size_t bytes;
    bool found = false;
    dsvk_cache_read(device, "matmul", &payload, &bytes);
    if (payload && bytes == sizeof *out)
        memcpy(out, payload, bytes);
    for (uint32_t i = 0; payload && bytes == sizeof *out && i < n && !found; i++)
        found = same_product(*out, list[i]);
    dsvk_free(payload);
    return found;
}

/* "coopmat" alone is the first of its shapes. */
static bool is_meant(dsvk_matmul_variant v, const char *wanted) {
    char name[DSVK_MATMUL_NAME];
    return strcmp(dsvk_matmul_name(v, name), wanted) == 0 || strcmp(names[v.kind], wanted) == 0;
}

dsvk_status dsvk_matmul_open(dsvk_device *device, const char *wanted, dsvk_error *err) {
    dsvk_matmul_variant list[DSVK_MATMUL_VARIANTS], chosen = { 0 };
    char all[DSVK_MATMUL_VARIANTS * (DSVK_MATMUL_NAME + 2)] = "auto", name[DSVK_MATMUL_NAME], shown[64];
    const uint32_t n = dsvk_matmul_variants(device, list);
    if (!wanted || !*wanted || strcmp(wanted, "auto") == 0) {
        const bool known = recall(device, list, n, &chosen);
        atomic_store(&device->matmul_source, known ? DSVK_MATMUL_CHOSEN : DSVK_MATMUL_GUESSED);
        dsvk_device_set_matmul(device, known ? chosen : list[1]);
        return DSVK_OK;
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t plain = 0; plain < (list[i].kind == DSVK_MATMUL_COOPMAT ? 4 : 1); plain++) {
            dsvk_matmul_variant v = list[i];
            v.plain_attention = plain & 1;
            v.plain_indexer = plain >> 1;
            if (is_meant(v, wanted)) {
                atomic_store(&device->matmul_source, DSVK_MATMUL_FORCED);
                dsvk_device_set_matmul(device, v);
                return DSVK_OK;
            }
        }
        snprintf(all + strlen(all), sizeof all - strlen(all), ", %s", dsvk_matmul_name(list[i], name));
    }
    return dsvk_fail(err, DSVK_INVALID, "matmul \"%s\" is not among what %s has: %s",
                     dsvk_escape(shown, sizeof shown, wanted, strlen(wanted)), device->physical.properties.deviceName, all);
}
