/* dsvk_keep_half_denormals: what a shader's words ask for on drivers of every kind. Edges: a driver that offers nothing, half
 * alone, half with double, all three; one that ties widths together and lacks one of them; words without an entry point.
 * That the result is valid SPIR-V the validation layer says of every kernel under bench/compile_table/run --validation. */
#include "harness_device.h"

typedef struct asked {
    uint32_t capabilities, widths; /* how many times the capability stands; the sum of the widths asked for */
} asked;

/* Reads the words as a driver would: whole instructions up to the end. */
static asked read_words(const uint32_t *words, size_t n) {
    asked found = {0, 0};
    size_t i = 5;
    while (i < n && words[i] >> 16) {
        if (words[i] == (2u << 16 | 17) && words[i + 1] == 4464)
            found.capabilities++;
        if (words[i] == (4u << 16 | 16) && words[i + 2] == 4459)
            found.widths += words[i + 3];
        i += words[i] >> 16;
    }
    CHECK(i == n, "instructions end at word %zu of %zu", i, n);
    return found;
}

static void check_driver(VkPhysicalDeviceVulkan12Properties v12, uint32_t widths) {
    for (const dsvk_shader *shader = dsvk_shaders; shader->name; shader++) {
        size_t bytes = shader->bytes;
        uint32_t *words = dsvk_keep_half_denormals(&v12, shader->words, &bytes);
        const asked found = read_words(words, bytes / 4);
        const size_t more = widths == 0 ? 0 : 8 + 16 * (widths == 16 ? 1 : widths == 80 ? 2 : 3);
        CHECK(found.widths == widths && found.capabilities == (widths != 0), "%s: widths %u of %u, %u capabilities",
              shader->name, found.widths, widths, found.capabilities);
        CHECK(bytes == shader->bytes + more, "%s: %zu bytes of %zu", shader->name, bytes, shader->bytes + more);
        CHECK(memcmp(words, shader->words, 20) == 0, "%s: the header stays", shader->name);
        CHECK(memcmp((char *)words + bytes - 400, (const char *)shader->words + shader->bytes - 400, 400) == 0,
              "%s: the code stays", shader->name);
        dsvk_free(words);
    }
}

static void test_drivers(void) {
    const VkShaderFloatControlsIndependence all = VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_ALL,
                                            tied = VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_32_BIT_ONLY,
                                            none = VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_NONE;
    typedef VkPhysicalDeviceVulkan12Properties properties;
    check_driver((properties){.denormBehaviorIndependence = all}, 0);
    check_driver((properties){.denormBehaviorIndependence = all, .shaderDenormPreserveFloat32 = 1}, 0);
    check_driver((properties){.denormBehaviorIndependence = all, .shaderDenormPreserveFloat16 = 1}, 16);
    check_driver((properties){.denormBehaviorIndependence = tied, .shaderDenormPreserveFloat16 = 1}, 0);
    check_driver((properties){.denormBehaviorIndependence = tied, .shaderDenormPreserveFloat16 = 1,
                              .shaderDenormPreserveFloat64 = 1}, 16 + 64);
    check_driver((properties){.denormBehaviorIndependence = none, .shaderDenormPreserveFloat16 = 1,
                              .shaderDenormPreserveFloat64 = 1}, 0);
    check_driver((properties){.denormBehaviorIndependence = none, .shaderDenormPreserveFloat16 = 1,
                              .shaderDenormPreserveFloat32 = 1, .shaderDenormPreserveFloat64 = 1}, 16 + 32 + 64);
}

static void test_no_entry_point(void) {
    const VkPhysicalDeviceVulkan12Properties v12 = {.shaderDenormPreserveFloat16 = 1,
                                                    .denormBehaviorIndependence = VK_SHADER_FLOAT_CONTROLS_INDEPENDENCE_ALL};
    const uint32_t header[7] = {0x07230203, 0x00010600, 0, 1, 0, 2u << 16 | 17, 1};
    size_t bytes = sizeof header;
    uint32_t *words = dsvk_keep_half_denormals(&v12, header, &bytes);
    CHECK(bytes == sizeof header && memcmp(words, header, bytes) == 0, "words without an entry point stay");
    dsvk_free(words);
}

int main(void) {
    RUN(test_drivers);
    RUN(test_no_entry_point);
    return test_result();
}
