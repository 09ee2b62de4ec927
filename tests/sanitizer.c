/* Linked into every test of the sanitize and races configurations, so that they judge us and not the drivers. */

int dlclose(void *library);
const char *__lsan_default_suppressions(void);
const char *__tsan_default_suppressions(void);

/* Drivers stay loaded: a leak's stack in a library that is gone has no name, and what hung on its variables would count
 * as lost. */
__attribute__((visibility("default"))) int dlclose(void *library) {
    (void)library;
    return 0;
}

/* Mesa's software driver loses some allocations of its own per instance and per compiled kernel, and the validation
 * layer some per device (what we leave behind of Vulkan's objects it reports as messages, which no test tolerates). */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void) {
    return "leak:libvulkan_lvp.so\nleak:libLLVM\nleak:libVkLayer_khronos_validation.so\n";
}

/* Mesa's software driver is not built for this checker, which does not see what its threads agree by. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void) {
    return "race:libvulkan_lvp.so\nrace:libLLVM\n";
}
