/* Half-precision denormals, which kernels decode FP8 and FP4 through (shaders/numbers.glsl): an e2m1 0.5 and every
 * subnormal e4m3 is a denormal half. Vulkan lets a driver flush them unless a shader asks for the execution mode
 * DenormPreserve, and Intel's hardware does by default; a shader may ask only where the driver offers it. So the words of
 * a shader get the request when its module is made. Drivers that do not offer it (lavapipe, SwiftShader, RADV before
 * Vega) have no mode to change and keep denormals. */
#include <string.h>

#include "device_internal.h"

enum {
    HEADER_WORDS = 5,
    OP_ENTRY_POINT = 15, /* word 2: the function's id */
    OP_EXECUTION_MODE = 16,
    OP_CAPABILITY = 17,
    CAPABILITY_DENORM_PRESERVE = 4464,
    MODE_DENORM_PRESERVE = 4459,
};

/* Widths whose denormals must be asked for together for half's to be kept; 0 of them when the driver does not offer it. */
static uint32_t widths_to_preserve(const VkPhysicalDeviceVulkan12Properties *v12, uint32_t widths[3]) {
    uint32_t n = 0;
    if (!v12->shaderDenormPreserveFloat16)
        return 0;
    widths[n++] = 16;
    if (v12->denormBehaviorIndependence == VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_ALL)
        return n;
    if (!v12->shaderDenormPreserveFloat64)
        return 0;
    widths[n++] = 64;
    if (v12->denormBehaviorIndependence == VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_32_BIT_ONLY)
        return n;
    if (!v12->shaderDenormPreserveFloat32)
        return 0;
    widths[n++] = 32;
    return n;
}

/* Index of the word behind the entry point, and its function; 0 when there is none. */
static size_t find_entry_point(const uint32_t *words, size_t n, uint32_t *function) {
    for (size_t i = HEADER_WORDS; i < n && words[i] >> 16 != 0; i += words[i] >> 16)
        if ((words[i] & 0xffff) == OP_ENTRY_POINT && i + 2 < n) {
            *function = words[i + 2];
            return i + (words[i] >> 16);
        }
    return 0;
}

uint32_t *dsvk_keep_half_denormals(const VkPhysicalDeviceVulkan12Properties *v12, const uint32_t *words, size_t *bytes) {
    const size_t n = *bytes / sizeof *words;
    uint32_t widths[3], function = 0;
    const uint32_t n_widths = widths_to_preserve(v12, widths);
    const size_t modes = find_entry_point(words, n, &function);
    uint32_t *out = dsvk_alloc((n + 2 + 4 * n_widths) * sizeof *out), *at = out;
    if (!out)
        return NULL;
    if (n_widths == 0 || modes == 0 || modes > n) {
        memcpy(out, words, *bytes);
        return out;
    }
    memcpy(at, words, HEADER_WORDS * sizeof *at);
    at += HEADER_WORDS;
    *at++ = 2u << 16 | OP_CAPABILITY;
    *at++ = CAPABILITY_DENORM_PRESERVE;
    memcpy(at, words + HEADER_WORDS, (modes - HEADER_WORDS) * sizeof *at);
    at += modes - HEADER_WORDS;
    for (uint32_t i = 0; i < n_widths; i++) {
        const uint32_t mode[4] = {4u << 16 | OP_EXECUTION_MODE, function, MODE_DENORM_PRESERVE, widths[i]};
        memcpy(at, mode, sizeof mode);
        at += 4;
    }
    memcpy(at, words + modes, (n - modes) * sizeof *at);
    at += n - modes;
    *bytes = (size_t)(at - out) * sizeof *out;
    return out;
}
