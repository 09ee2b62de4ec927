/* Vulkan at run time: the loader library opened with dlopen, and every function we call in one table. Nothing links
 * libvulkan, so the library loads on machines without a driver. The list below is the only place that names functions:
 * a level (where the pointer comes from) and the name. */
#ifndef DSVK_VK_TABLE_H
#define DSVK_VK_TABLE_H

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan.h>

#include <pthread.h>

#include "device.h"

/* VK_KHR_cooperative_matrix and what is used of VK_NV_cooperative_matrix2, for headers that are older (Debian 12's). */
#ifndef VK_KHR_cooperative_matrix
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR ((VkStructureType)1000506000)
#define VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506001)
typedef enum VkComponentTypeKHR { VK_COMPONENT_TYPE_FLOAT16_KHR = 0, VK_COMPONENT_TYPE_FLOAT32_KHR = 1 } VkComponentTypeKHR;
typedef enum VkScopeKHR { VK_SCOPE_SUBGROUP_KHR = 3 } VkScopeKHR;
typedef struct VkCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void *pNext;
    uint32_t MSize, NSize, KSize;
    VkComponentTypeKHR AType, BType, CType, ResultType;
    VkBool32 saturatingAccumulation;
    VkScopeKHR scope;
} VkCooperativeMatrixPropertiesKHR;
typedef struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrix, cooperativeMatrixRobustBufferAccess;
} VkPhysicalDeviceCooperativeMatrixFeaturesKHR;
typedef VkResult(VKAPI_PTR *PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(VkPhysicalDevice, uint32_t *,
                                                                                 VkCooperativeMatrixPropertiesKHR *);
#endif
#ifndef VK_NV_cooperative_matrix2
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_2_FEATURES_NV ((VkStructureType)1000593000)
#define VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_FLEXIBLE_DIMENSIONS_PROPERTIES_NV ((VkStructureType)1000593001)
typedef struct VkPhysicalDeviceCooperativeMatrix2FeaturesNV {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrixWorkgroupScope, cooperativeMatrixFlexibleDimensions, cooperativeMatrixReductions,
        cooperativeMatrixConversions, cooperativeMatrixPerElementOperations, cooperativeMatrixTensorAddressing,
        cooperativeMatrixBlockLoads;
} VkPhysicalDeviceCooperativeMatrix2FeaturesNV;
typedef struct VkCooperativeMatrixFlexibleDimensionsPropertiesNV {
    VkStructureType sType;
    void *pNext;
    uint32_t MGranularity, NGranularity, KGranularity;
    VkComponentTypeKHR AType, BType, CType, ResultType;
    VkBool32 saturatingAccumulation;
    VkScopeKHR scope;
    uint32_t workgroupInvocations;
} VkCooperativeMatrixFlexibleDimensionsPropertiesNV;
typedef VkResult(VKAPI_PTR *PFN_vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV)(
    VkPhysicalDevice, uint32_t *, VkCooperativeMatrixFlexibleDimensionsPropertiesNV *);
#endif

/* GLOBAL: before an instance; INSTANCE, DEVICE: from that handle; DEBUG: NULL unless VK_EXT_debug_utils is on; MATRIX: from
 * the instance, NULL where no driver has the extension; STATISTICS: from the device, NULL unless VK_KHR_pipeline_executable_properties is on. */
#define DSVK_VK_FUNCTIONS(X)                                                                                           \
    X(GLOBAL, vkEnumerateInstanceVersion)                                                                              \
    X(GLOBAL, vkEnumerateInstanceLayerProperties)                                                                      \
    X(GLOBAL, vkEnumerateInstanceExtensionProperties)                                                                  \
    X(GLOBAL, vkCreateInstance)                                                                                        \
    X(INSTANCE, vkDestroyInstance)                                                                                     \
    X(INSTANCE, vkEnumeratePhysicalDevices)                                                                            \
    X(INSTANCE, vkEnumerateDeviceExtensionProperties)                                                                  \
    X(INSTANCE, vkGetPhysicalDeviceProperties)                                                                         \
    X(INSTANCE, vkGetPhysicalDeviceProperties2)                                                                        \
    X(INSTANCE, vkGetPhysicalDeviceFeatures2)                                                                          \
    X(INSTANCE, vkGetPhysicalDeviceMemoryProperties)                                                                   \
    X(INSTANCE, vkGetPhysicalDeviceMemoryProperties2)                                                                  \
    X(INSTANCE, vkGetPhysicalDeviceQueueFamilyProperties)                                                              \
    X(MATRIX, vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)                                                       \
    X(MATRIX, vkGetPhysicalDeviceCooperativeMatrixFlexibleDimensionsPropertiesNV)                                      \
    X(INSTANCE, vkCreateDevice)                                                                                        \
    X(INSTANCE, vkGetDeviceProcAddr)                                                                                   \
    X(DEBUG, vkCreateDebugUtilsMessengerEXT)                                                                           \
    X(DEBUG, vkDestroyDebugUtilsMessengerEXT)                                                                          \
    X(DEBUG, vkSetDebugUtilsObjectNameEXT)                                                                             \
    X(DEVICE, vkDestroyDevice)                                                                                         \
    X(DEVICE, vkGetDeviceQueue)                                                                                        \
    X(DEVICE, vkQueueSubmit2)                                                                                          \
    X(DEVICE, vkCreateSemaphore)                                                                                       \
    X(DEVICE, vkDestroySemaphore)                                                                                      \
    X(DEVICE, vkWaitSemaphores)                                                                                        \
    X(DEVICE, vkAllocateMemory)                                                                                        \
    X(DEVICE, vkFreeMemory)                                                                                            \
    X(DEVICE, vkMapMemory)                                                                                             \
    X(DEVICE, vkCreateBuffer)                                                                                          \
    X(DEVICE, vkDestroyBuffer)                                                                                         \
    X(DEVICE, vkBindBufferMemory)                                                                                      \
    X(DEVICE, vkGetBufferMemoryRequirements)                                                                           \
    X(DEVICE, vkGetBufferDeviceAddress)                                                                                \
    X(DEVICE, vkCreateShaderModule)                                                                                    \
    X(DEVICE, vkDestroyShaderModule)                                                                                   \
    X(DEVICE, vkCreatePipelineLayout)                                                                                  \
    X(DEVICE, vkDestroyPipelineLayout)                                                                                 \
    X(DEVICE, vkCreatePipelineCache)                                                                                   \
    X(DEVICE, vkDestroyPipelineCache)                                                                                  \
    X(DEVICE, vkGetPipelineCacheData)                                                                                  \
    X(DEVICE, vkCreateComputePipelines)                                                                                \
    X(DEVICE, vkDestroyPipeline)                                                                                       \
    X(DEVICE, vkCreateCommandPool)                                                                                     \
    X(DEVICE, vkDestroyCommandPool)                                                                                    \
    X(DEVICE, vkResetCommandPool)                                                                                      \
    X(DEVICE, vkAllocateCommandBuffers)                                                                                \
    X(DEVICE, vkBeginCommandBuffer)                                                                                    \
    X(DEVICE, vkEndCommandBuffer)                                                                                      \
    X(DEVICE, vkCmdBindPipeline)                                                                                       \
    X(DEVICE, vkCmdPushConstants)                                                                                      \
    X(DEVICE, vkCmdDispatch)                                                                                           \
    X(DEVICE, vkCmdDispatchBase)                                                                                       \
    X(DEVICE, vkCmdDispatchIndirect)                                                                                   \
    X(DEVICE, vkCmdCopyBuffer)                                                                                         \
    X(DEVICE, vkCmdFillBuffer)                                                                                         \
    X(DEVICE, vkCmdPipelineBarrier2)                                                                                   \
    X(DEVICE, vkCreateQueryPool)                                                                                       \
    X(DEVICE, vkDestroyQueryPool)                                                                                      \
    X(DEVICE, vkGetQueryPoolResults)                                                                                   \
    X(DEVICE, vkCmdResetQueryPool)                                                                                     \
    X(DEVICE, vkCmdWriteTimestamp2)                                                                                    \
    X(STATISTICS, vkGetPipelineExecutablePropertiesKHR)                                                                \
    X(STATISTICS, vkGetPipelineExecutableStatisticsKHR)

/* What the validation layer said; the messenger writes it from whatever thread made the call. */
typedef struct dsvk_validation {
    pthread_mutex_t lock;
    uint32_t messages;
    char first[DSVK_MESSAGE_SIZE];
} dsvk_validation;

typedef struct dsvk_vk {
    void *library;                      /* owned dlopen handle */
    char library_name[64];              /* the name that opened */
    uint32_t version;                   /* of the loader: VK_API_VERSION_... */
    VkInstance instance;                /* owned, unless it is a host's */
    bool borrowed;                      /* it is */
    VkDebugUtilsMessengerEXT messenger; /* owned; none without validation */
    dsvk_validation *validation;        /* where the messenger writes; NULL: the layer is off */
    uint32_t validation_version;        /* of Vulkan that the layer knows; 0: it is off */
#define DSVK_VK_MEMBER(level, name) PFN_##name name;
    DSVK_VK_FUNCTIONS(DSVK_VK_MEMBER)
#undef DSVK_VK_MEMBER
} dsvk_vk;

/* Opens the loader and makes an instance; `validation` (may be NULL) asks for the Khronos layer and gets its messages.
 * NODEVICE says what was tried. On failure nothing is left open. */
dsvk_status dsvk_vk_open(dsvk_vk *vk, dsvk_validation *validation, dsvk_error *err);
/* The same around a host's instance. */
dsvk_status dsvk_vk_borrow(dsvk_vk *vk, const dsvk_host_device *host, dsvk_error *err);
/* Fills the DEVICE and STATISTICS parts of the table. */
dsvk_status dsvk_vk_load_device(dsvk_vk *vk, VkDevice device, dsvk_error *err);
void dsvk_vk_close(dsvk_vk *vk);                  /* accepts a zeroed one */
const char *dsvk_vk_result_name(VkResult result); /* "VK_ERROR_DEVICE_LOST" */
dsvk_status dsvk_vk_result_status(VkResult result);

#endif
