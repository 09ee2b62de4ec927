/* Opening the Vulkan loader, making an instance, filling the function table. Owns the dlopen handle, the instance and
 * the validation messenger, and releases them in that order reversed. Each device has its own, so that nothing here is
 * shared by two of them. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "vk_table.h"

/* The first is what drivers' packages install; the second exists where development packages are installed; the others
 * are macOS's, where Vulkan is MoltenVK behind the same loader or MoltenVK itself. */
static const char *const LIBRARIES[] = {
#ifdef __APPLE__
    "libvulkan.1.dylib",
    "libvulkan.dylib",
    "libMoltenVK.dylib",
#else
    "libvulkan.so.1",
    "libvulkan.so",
#endif
};

static const char VALIDATION_LAYER[] = "VK_LAYER_KHRONOS_validation";

const char *dsvk_vk_result_name(VkResult result) {
    switch (result) {
#define RESULT_CASE(name)                                                                                              \
    case name:                                                                                                         \
        return #name;
        RESULT_CASE(VK_SUCCESS)
        RESULT_CASE(VK_NOT_READY)
        RESULT_CASE(VK_TIMEOUT)
        RESULT_CASE(VK_INCOMPLETE)
        RESULT_CASE(VK_ERROR_OUT_OF_HOST_MEMORY)
        RESULT_CASE(VK_ERROR_OUT_OF_DEVICE_MEMORY)
        RESULT_CASE(VK_ERROR_INITIALIZATION_FAILED)
        RESULT_CASE(VK_ERROR_DEVICE_LOST)
        RESULT_CASE(VK_ERROR_MEMORY_MAP_FAILED)
        RESULT_CASE(VK_ERROR_LAYER_NOT_PRESENT)
        RESULT_CASE(VK_ERROR_EXTENSION_NOT_PRESENT)
        RESULT_CASE(VK_ERROR_FEATURE_NOT_PRESENT)
        RESULT_CASE(VK_ERROR_INCOMPATIBLE_DRIVER)
        RESULT_CASE(VK_ERROR_TOO_MANY_OBJECTS)
        RESULT_CASE(VK_ERROR_FRAGMENTATION)
        RESULT_CASE(VK_ERROR_INVALID_OPAQUE_CAPTURE_ADDRESS)
        RESULT_CASE(VK_ERROR_INVALID_SHADER_NV)
#undef RESULT_CASE
    default:
        return "an unknown VkResult";
    }
}

dsvk_status dsvk_vk_result_status(VkResult result) {
    switch (result) {
    case VK_SUCCESS:
        return DSVK_OK;
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return DSVK_NOMEM;
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    case VK_ERROR_MEMORY_MAP_FAILED:
    case VK_ERROR_FRAGMENTATION:
        return DSVK_DEVMEM;
    case VK_ERROR_DEVICE_LOST:
        return DSVK_DEVLOST;
    case VK_ERROR_TOO_MANY_OBJECTS:
        return DSVK_LIMIT;
    case VK_ERROR_INCOMPATIBLE_DRIVER:
        return DSVK_NODEVICE;
    default:
        return DSVK_UNSUPPORTED;
    }
}

static dsvk_status open_library(dsvk_vk *vk, PFN_vkGetInstanceProcAddr *get, dsvk_error *err) {
    char tried[512] = "";
    for (size_t i = 0; i < DSVK_COUNT(LIBRARIES) && !vk->library; i++) {
        vk->library = dlopen(LIBRARIES[i], RTLD_NOW | RTLD_LOCAL);
        if (vk->library) {
            snprintf(vk->library_name, sizeof vk->library_name, "%s", LIBRARIES[i]);
        } else {
            size_t used = strlen(tried);
            const char *reason = dlerror();
            snprintf(tried + used, sizeof tried - used, "%s%s", used ? "; " : "", reason ? reason : LIBRARIES[i]);
        }
    }
    if (!vk->library)
        return dsvk_fail(err, DSVK_NODEVICE, "no Vulkan loader library: %s", tried);
    void *symbol = dlsym(vk->library, "vkGetInstanceProcAddr");
    if (!symbol)
        return dsvk_fail(err, DSVK_NODEVICE, "%s has no vkGetInstanceProcAddr", vk->library_name);
    memcpy(get, &symbol, sizeof symbol); /* ISO C has no cast from object to function pointer */
    return DSVK_OK;
}

/* The table's entries of one level from one source; NULL is an error except for those of extensions. */
enum level { GLOBAL, INSTANCE, DEBUG, MATRIX, DEVICE, STATISTICS };

static dsvk_status load(dsvk_vk *vk, enum level wanted, PFN_vkGetInstanceProcAddr get, VkDevice device,
                        dsvk_error *err) {
#define LOAD(level, name)                                                                                              \
    if (level == wanted) {                                                                                             \
        vk->name = (PFN_##name)(level == DEVICE || level == STATISTICS                                                 \
                                    ? vk->vkGetDeviceProcAddr(device, #name)                                           \
                                    : get(level == GLOBAL ? NULL : vk->instance, #name));                              \
        if (!vk->name && (level < DEBUG || level == DEVICE))                                                       \
            return dsvk_fail(err, DSVK_NODEVICE, "%s has no %s: Vulkan 1.3 is needed", vk->library_name, #name);       \
    }
    DSVK_VK_FUNCTIONS(LOAD)
#undef LOAD
    return DSVK_OK;
}

dsvk_status dsvk_vk_load_device(dsvk_vk *vk, VkDevice device, dsvk_error *err) {
    DSVK_TRY(load(vk, DEVICE, NULL, device, err));
    return load(vk, STATISTICS, NULL, device, err);
}

/* The Vulkan version the layer was made for; 0: it is not installed. */
static uint32_t validation_layer(const dsvk_vk *vk) {
    uint32_t n = 0;
    if (vk->vkEnumerateInstanceLayerProperties(&n, NULL) != VK_SUCCESS || n == 0)
        return 0;
    VkLayerProperties *layers = dsvk_alloc_zero(n, sizeof *layers);
    uint32_t found = 0;
    VkResult result = layers ? vk->vkEnumerateInstanceLayerProperties(&n, layers) : VK_ERROR_OUT_OF_HOST_MEMORY;
    if (result == VK_SUCCESS || result == VK_INCOMPLETE)
        for (uint32_t i = 0; i < n && !found; i++)
            found = strcmp(layers[i].layerName, VALIDATION_LAYER) == 0 ? layers[i].specVersion : 0;
    dsvk_free(layers);
    return found;
}

static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                 VkDebugUtilsMessageTypeFlagsEXT types,
                                                 const VkDebugUtilsMessengerCallbackDataEXT *data, void *user) {
    (void)severity;
    (void)types;
    dsvk_validation *validation = user;
    pthread_mutex_lock(&validation->lock);
    if (validation->messages++ == 0)
        snprintf(validation->first, sizeof validation->first, "%s", data->pMessage);
    pthread_mutex_unlock(&validation->lock);
    return VK_FALSE;
}

static VkDebugUtilsMessengerCreateInfoEXT messenger_info(dsvk_validation *validation) {
    return (VkDebugUtilsMessengerCreateInfoEXT){
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity =
            VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
        .pfnUserCallback = on_message,
        .pUserData = validation,
    };
}

static dsvk_status create_instance(dsvk_vk *vk, dsvk_validation *validation, dsvk_error *err) {
    const VkApplicationInfo application = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pEngineName = "dsvk",
        .engineVersion = VK_MAKE_API_VERSION(0, DSVK_VERSION_MAJOR, DSVK_VERSION_MINOR, DSVK_VERSION_PATCH),
        .apiVersion = VK_API_VERSION_1_3,
    };
    const VkDebugUtilsMessengerCreateInfoEXT messenger = messenger_info(validation);
    const VkValidationFeatureEnableEXT enable[] = {VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT};
    const VkValidationFeaturesEXT features = {
        .sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
        .pNext = &messenger,
        .enabledValidationFeatureCount = DSVK_COUNT(enable),
        .pEnabledValidationFeatures = enable,
    };
    const char *const layers[] = {VALIDATION_LAYER};
    /* The layer itself offers both extensions, so they are there whenever it is. */
    const char *const extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME, VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME};
    const VkInstanceCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .pNext = validation ? &features : NULL,
        .pApplicationInfo = &application,
        .enabledLayerCount = validation ? DSVK_COUNT(layers) : 0,
        .ppEnabledLayerNames = layers,
        .enabledExtensionCount = validation ? DSVK_COUNT(extensions) : 0,
        .ppEnabledExtensionNames = extensions,
    };
    VkResult result = vk->vkCreateInstance(&info, NULL, &vk->instance);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER || result == VK_ERROR_INITIALIZATION_FAILED)
        return dsvk_fail(err, DSVK_NODEVICE, "%s (Vulkan %u.%u.%u) found no Vulkan driver", vk->library_name,
                         VK_API_VERSION_MAJOR(vk->version), VK_API_VERSION_MINOR(vk->version),
                         VK_API_VERSION_PATCH(vk->version));
    if (result != VK_SUCCESS)
        return dsvk_fail(err, dsvk_vk_result_status(result), "vkCreateInstance of %s failed: %s", vk->library_name,
                         dsvk_vk_result_name(result));
    return DSVK_OK;
}

static dsvk_status create_messenger(dsvk_vk *vk, dsvk_validation *validation, dsvk_error *err) {
    const VkDebugUtilsMessengerCreateInfoEXT info = messenger_info(validation);
    VkResult result = vk->vkCreateDebugUtilsMessengerEXT
                          ? vk->vkCreateDebugUtilsMessengerEXT(vk->instance, &info, NULL, &vk->messenger)
                          : VK_ERROR_EXTENSION_NOT_PRESENT;
    if (result != VK_SUCCESS)
        return dsvk_fail(err, dsvk_vk_result_status(result), "the validation messenger could not be made: %s",
                         dsvk_vk_result_name(result));
    vk->validation = validation;
    return DSVK_OK;
}

static dsvk_status load_instance(dsvk_vk *vk, PFN_vkGetInstanceProcAddr get, dsvk_error *err) {
    DSVK_TRY(load(vk, INSTANCE, get, NULL, err));
    DSVK_TRY(load(vk, DEBUG, get, NULL, err));
    return load(vk, MATRIX, get, NULL, err);
}

dsvk_status dsvk_vk_borrow(dsvk_vk *vk, const dsvk_host_device *host, dsvk_error *err) {
    dsvk_status status;
    PFN_vkGetInstanceProcAddr get = (PFN_vkGetInstanceProcAddr)host->get_instance_proc_addr;
    memset(vk, 0, sizeof *vk);
    snprintf(vk->library_name, sizeof vk->library_name, "the host's loader");
    if (!get)
        DSVK_GOTO(open_library(vk, &get, err));
    vk->instance = host->instance;
    vk->borrowed = true;
    DSVK_GOTO(load(vk, GLOBAL, get, NULL, err));
    vk->vkEnumerateInstanceVersion(&vk->version);
    DSVK_GOTO(load_instance(vk, get, err));
    return DSVK_OK;
fail:
    dsvk_vk_close(vk);
    return status;
}

dsvk_status dsvk_vk_open(dsvk_vk *vk, dsvk_validation *validation, dsvk_error *err) {
    dsvk_status status;
    PFN_vkGetInstanceProcAddr get = NULL;
    memset(vk, 0, sizeof *vk);
    DSVK_GOTO(open_library(vk, &get, err));
    DSVK_GOTO(load(vk, GLOBAL, get, NULL, err));
    vk->vkEnumerateInstanceVersion(&vk->version);
    vk->validation_version = validation ? validation_layer(vk) : 0;
    if (!vk->validation_version)
        validation = NULL;
    DSVK_GOTO(create_instance(vk, validation, err));
    DSVK_GOTO(load_instance(vk, get, err));
    if (validation)
        DSVK_GOTO(create_messenger(vk, validation, err));
    return DSVK_OK;
fail:
    dsvk_vk_close(vk);
    return status;
}

void dsvk_vk_close(dsvk_vk *vk) {
    if (vk->messenger)
        vk->vkDestroyDebugUtilsMessengerEXT(vk->instance, vk->messenger, NULL);
    if (vk->instance && vk->vkDestroyInstance && !vk->borrowed)
        vk->vkDestroyInstance(vk->instance, NULL);
    if (vk->library)
        dlclose(vk->library);
    memset(vk, 0, sizeof *vk);
}
