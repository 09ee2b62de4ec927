/* One Vulkan device for two: this program draws pictures with it, and dsvk generates text on it in another thread.
 *
 *   host_device MODEL
 *
 * The program makes the instance and the device as it likes, dsvk_host_device_prepare adds what dsvk uses, and a mutex orders who
 * uses the queue. The frames are drawn once alone and then again and again while text is generated: they are the same. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <vulkan/vulkan.h>

#include "dsvk.h"
#include "plasma.inc"

enum { SIDE = 256, FRAMES = 16, BYTES = SIDE * SIDE * 4 };

static void need(VkResult result, const char *what) {
    if (result != VK_SUCCESS) {
        fprintf(stderr, "%s: VkResult %d\n", what, (int)result);
        exit(1);
    }
}
#define NEED(call) need((call), #call)

/* ---- the program's own Vulkan ---- */

typedef struct screen {
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    VkQueue queue;
    pthread_mutex_t queue_mutex;
    uint32_t family;
    VkImage image;
    VkBuffer pixels;
    VkDeviceMemory memories[2];
    VkImageView view;
    VkDescriptorSetLayout set_layout;
    VkDescriptorPool sets;
    VkDescriptorSet set;
    VkPipelineLayout layout;
    VkPipeline pipeline;
    VkCommandPool commands;
    VkCommandBuffer command;
    VkFence fence;
    const void *mapped; /* [SIDE, SIDE] pixels of the last frame */
} screen;

static void lock_queue(void *user) { pthread_mutex_lock(&((screen *)user)->queue_mutex); }
static void unlock_queue(void *user) { pthread_mutex_unlock(&((screen *)user)->queue_mutex); }

/* Makes the program's device so that dsvk can use it too, and hands it over. */
static dsvk_status open_device(screen *s, dsvk_device **device, dsvk_error *err) {
    const VkApplicationInfo application = { .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3 };
    NEED(vkCreateInstance(&(VkInstanceCreateInfo){ .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application },
                          NULL, &s->instance));
    uint32_t n = 1;
    const VkResult found = vkEnumeratePhysicalDevices(s->instance, &n, &s->physical);
    need(found == VK_INCOMPLETE ? VK_SUCCESS : found, "vkEnumeratePhysicalDevices");
    VkQueueFamilyProperties families[16];
    uint32_t n_families = 16;
    vkGetPhysicalDeviceQueueFamilyProperties(s->physical, &n_families, families);
    while (s->family < n_families && !(families[s->family].queueFlags & VK_QUEUE_COMPUTE_BIT))
        s->family++;
    const float priority = 1;
    const VkDeviceQueueCreateInfo queue = { .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueFamilyIndex = s->family,
                                            .queueCount = 1, .pQueuePriorities = &priority };
    VkDeviceCreateInfo info = { .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO, .queueCreateInfoCount = 1, .pQueueCreateInfos = &queue };
    dsvk_host_device host = { .size = sizeof host, .instance = s->instance, .physical_device = s->physical };
    void *added;
    dsvk_status status = dsvk_host_device_prepare(&host, &info, &added, err);
    if (status)
        return status;
    NEED(vkCreateDevice(s->physical, &info, NULL, &s->device));
    vkGetDeviceQueue(s->device, s->family, 0, &s->queue);
    host.device = s->device;
    host.create_info = &info;
    host.queue = s->queue;
    host.queue_family = s->family;
    host.lock_queue = lock_queue;
    host.unlock_queue = unlock_queue;
    host.user = s;
    status = dsvk_device_open(device, &(dsvk_device_options){ .size = sizeof(dsvk_device_options), .host = &host }, err);
    dsvk_free(added);
    return status;
}

static VkDeviceMemory memory_for(const screen *s, VkMemoryRequirements needs, VkMemoryPropertyFlags flags) {
    VkPhysicalDeviceMemoryProperties has;
    VkDeviceMemory memory;
    vkGetPhysicalDeviceMemoryProperties(s->physical, &has);
    for (uint32_t i = 0; i < has.memoryTypeCount; i++)
        if ((needs.memoryTypeBits >> i & 1) && (has.memoryTypes[i].propertyFlags & flags) == flags) {
            NEED(vkAllocateMemory(s->device, &(VkMemoryAllocateInfo){ .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                                                      .allocationSize = needs.size, .memoryTypeIndex = i }, NULL, &memory));
            return memory;
        }
    need(VK_ERROR_OUT_OF_DEVICE_MEMORY, "no such memory");
    return VK_NULL_HANDLE;
}

static void make_image(screen *s) {
    VkMemoryRequirements needs;
    NEED(vkCreateImage(s->device, &(VkImageCreateInfo){ .sType = VK_STRUCTURE_TYPE_IMAGE_CREATE_INFO, .imageType = VK_IMAGE_TYPE_2D,
        .format = VK_FORMAT_R32_UINT, .extent = { SIDE, SIDE, 1 }, .mipLevels = 1, .arrayLayers = 1, .samples = VK_SAMPLE_COUNT_1_BIT,
        .usage = VK_IMAGE_USAGE_STORAGE_BIT | VK_IMAGE_USAGE_TRANSFER_SRC_BIT }, NULL, &s->image));
    vkGetImageMemoryRequirements(s->device, s->image, &needs);
    s->memories[0] = memory_for(s, needs, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
    NEED(vkBindImageMemory(s->device, s->image, s->memories[0], 0));
    NEED(vkCreateImageView(s->device, &(VkImageViewCreateInfo){ .sType = VK_STRUCTURE_TYPE_IMAGE_VIEW_CREATE_INFO, .image = s->image,
        .viewType = VK_IMAGE_VIEW_TYPE_2D, .format = VK_FORMAT_R32_UINT,
        .subresourceRange = { VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1 } }, NULL, &s->view));
    NEED(vkCreateBuffer(s->device, &(VkBufferCreateInfo){ .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = BYTES,
        .usage = VK_BUFFER_USAGE_TRANSFER_DST_BIT }, NULL, &s->pixels));
    vkGetBufferMemoryRequirements(s->device, s->pixels, &needs);
    s->memories[1] = memory_for(s, needs, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT);
    NEED(vkBindBufferMemory(s->device, s->pixels, s->memories[1], 0));
    NEED(vkMapMemory(s->device, s->memories[1], 0, BYTES, 0, (void **)&s->mapped));
}

static void make_pipeline(screen *s) {
    const VkDescriptorSetLayoutBinding binding = { .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_IMAGE, .descriptorCount = 1,
                                                   .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT };
    const VkDescriptorPoolSize size = { VK_DESCRIPTOR_TYPE_STORAGE_IMAGE, 1 };
    const VkPushConstantRange range = { VK_SHADER_STAGE_COMPUTE_BIT, 0, 4 };
    const VkDescriptorImageInfo image = { .imageView = s->view, .imageLayout = VK_IMAGE_LAYOUT_GENERAL };
    VkShaderModule code;
    NEED(vkCreateDescriptorSetLayout(s->device, &(VkDescriptorSetLayoutCreateInfo){ .bindingCount = 1, .pBindings = &binding,
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO }, NULL, &s->set_layout));
    NEED(vkCreateDescriptorPool(s->device, &(VkDescriptorPoolCreateInfo){ .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
        .maxSets = 1, .poolSizeCount = 1, .pPoolSizes = &size }, NULL, &s->sets));
    NEED(vkAllocateDescriptorSets(s->device, &(VkDescriptorSetAllocateInfo){ .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
        .descriptorPool = s->sets, .descriptorSetCount = 1, .pSetLayouts = &s->set_layout }, &s->set));
    vkUpdateDescriptorSets(s->device, 1, &(VkWriteDescriptorSet){ .sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET, .dstSet = s->set,
        .descriptorCount = 1, .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_IMAGE, .pImageInfo = &image }, 0, NULL);
    NEED(vkCreatePipelineLayout(s->device, &(VkPipelineLayoutCreateInfo){ .sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
        .setLayoutCount = 1, .pSetLayouts = &s->set_layout, .pushConstantRangeCount = 1, .pPushConstantRanges = &range }, NULL, &s->layout));
    NEED(vkCreateShaderModule(s->device, &(VkShaderModuleCreateInfo){ .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = sizeof plasma, .pCode = plasma }, NULL, &code));
    NEED(vkCreateComputePipelines(s->device, VK_NULL_HANDLE, 1, &(VkComputePipelineCreateInfo){ .layout = s->layout,
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = { .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO, .stage = VK_SHADER_STAGE_COMPUTE_BIT, .module = code,
                   .pName = "main" } }, NULL, &s->pipeline));
    vkDestroyShaderModule(s->device, code, NULL);
}

static void make_commands(screen *s) {
    NEED(vkCreateCommandPool(s->device, &(VkCommandPoolCreateInfo){ .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .queueFamilyIndex = s->family }, NULL, &s->commands));
    NEED(vkAllocateCommandBuffers(s->device, &(VkCommandBufferAllocateInfo){ .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
        .commandPool = s->commands, .commandBufferCount = 1 }, &s->command));
    NEED(vkCreateFence(s->device, &(VkFenceCreateInfo){ .sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO }, NULL, &s->fence));
}

static void close_screen(screen *s) {
    vkDestroyFence(s->device, s->fence, NULL);
    vkDestroyCommandPool(s->device, s->commands, NULL);
    vkDestroyPipeline(s->device, s->pipeline, NULL);
    vkDestroyPipelineLayout(s->device, s->layout, NULL);
    vkDestroyDescriptorPool(s->device, s->sets, NULL);
    vkDestroyDescriptorSetLayout(s->device, s->set_layout, NULL);
    vkDestroyImageView(s->device, s->view, NULL);
    vkDestroyImage(s->device, s->image, NULL);
    vkDestroyBuffer(s->device, s->pixels, NULL);
    for (int i = 0; i < 2; i++)
        vkFreeMemory(s->device, s->memories[i], NULL);
    vkDestroyDevice(s->device, NULL);
    vkDestroyInstance(s->instance, NULL);
}

/* ---- a frame ---- */

static void image_barrier(const screen *s, VkImageLayout from, VkImageLayout to, VkPipelineStageFlags after, VkPipelineStageFlags before,
                          VkAccessFlags written, VkAccessFlags used) {
    vkCmdPipelineBarrier(s->command, after, before, 0, 0, NULL, 0, NULL, 1, &(VkImageMemoryBarrier){
        .sType = VK_STRUCTURE_TYPE_IMAGE_MEMORY_BARRIER, .srcAccessMask = written, .dstAccessMask = used, .oldLayout = from, .newLayout = to,
        .srcQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED, .dstQueueFamilyIndex = VK_QUEUE_FAMILY_IGNORED, .image = s->image,
        .subresourceRange = { VK_IMAGE_ASPECT_COLOR_BIT, 0, 1, 0, 1 } });
}

/* Draws a frame into s->mapped. */
static void draw(screen *s, uint32_t frame) {
    NEED(vkResetCommandPool(s->device, s->commands, 0));
    NEED(vkBeginCommandBuffer(s->command, &(VkCommandBufferBeginInfo){ .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO }));
    image_barrier(s, VK_IMAGE_LAYOUT_UNDEFINED, VK_IMAGE_LAYOUT_GENERAL, VK_PIPELINE_STAGE_TRANSFER_BIT,
                  VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, VK_ACCESS_SHADER_WRITE_BIT);
    vkCmdBindPipeline(s->command, VK_PIPELINE_BIND_POINT_COMPUTE, s->pipeline);
    vkCmdBindDescriptorSets(s->command, VK_PIPELINE_BIND_POINT_COMPUTE, s->layout, 0, 1, &s->set, 0, NULL);
    vkCmdPushConstants(s->command, s->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, sizeof frame, &frame);
    vkCmdDispatch(s->command, SIDE / 8, SIDE / 8, 1);
    image_barrier(s, VK_IMAGE_LAYOUT_GENERAL, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                  VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_SHADER_WRITE_BIT, VK_ACCESS_TRANSFER_READ_BIT);
    vkCmdCopyImageToBuffer(s->command, s->image, VK_IMAGE_LAYOUT_TRANSFER_SRC_OPTIMAL, s->pixels, 1, &(VkBufferImageCopy){
        .imageSubresource = { VK_IMAGE_ASPECT_COLOR_BIT, 0, 0, 1 }, .imageExtent = { SIDE, SIDE, 1 } });
    vkCmdPipelineBarrier(s->command, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &(VkMemoryBarrier){
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER, .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT, .dstAccessMask = VK_ACCESS_HOST_READ_BIT },
        0, NULL, 0, NULL);
    NEED(vkEndCommandBuffer(s->command));
    lock_queue(s);
    const VkResult result = vkQueueSubmit(s->queue, 1, &(VkSubmitInfo){ .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1,
                                                                        .pCommandBuffers = &s->command }, s->fence);
    unlock_queue(s);
    need(result, "vkQueueSubmit");
    NEED(vkWaitForFences(s->device, 1, &s->fence, VK_TRUE, UINT64_MAX));
    NEED(vkResetFences(s->device, 1, &s->fence));
}

/* ---- the writer ---- */

typedef struct writer {
    dsvk_device *device;
    const char *path;
    atomic_bool done;
    dsvk_status status;
    dsvk_error error;
} writer;

static void *write_text(void *argument) {
    static const char prompt[] = "<｜begin▁of▁sentence｜><｜User｜>What is 27 + 35?<｜Assistant｜><think>";
    writer *w = argument;
    dsvk_model *model = NULL;
    dsvk_session *session = NULL;
    int32_t *ids = NULL, out[55];
    char *text = NULL;
    size_t n, n_out, n_text;
    w->status = dsvk_model_open(&model, w->device, w->path, NULL, &w->error);
    if (!w->status)
        w->status = dsvk_tokenizer_encode(dsvk_model_tokenizer(model), prompt, strlen(prompt), DSVK_PARSE_SPECIAL, &ids, &n, &w->error);
    if (!w->status)
        w->status = dsvk_session_open(&session, model, NULL, &w->error);
    if (!w->status)
        w->status = dsvk_session_sync(session, ids, n, &w->error);
    if (!w->status)
        w->status = dsvk_session_decode(session, 55, NULL, out, &n_out, &w->error);
    if (!w->status)
        w->status = dsvk_tokenizer_decode(dsvk_model_tokenizer(model), out, n_out, &text, &n_text, &w->error);
    if (!w->status)
        printf("%.*s\n", (int)n_text, text);
    dsvk_free(text);
    dsvk_free(ids);
    dsvk_session_close(session);
    dsvk_model_close(model);
    atomic_store(&w->done, true);
    return NULL;
}

int main(int argc, char **argv) {
    static uint8_t alone[FRAMES][BYTES];
    static screen s = { .queue_mutex = PTHREAD_MUTEX_INITIALIZER };
    writer w = { .path = argc > 1 ? argv[1] : "" };
    pthread_t thread;
    uint32_t drawn = 0, different = 0;
    if (argc != 2)
        return fprintf(stderr, "usage: host_device MODEL\n"), 2;
    if (open_device(&s, &w.device, &w.error))
        return fprintf(stderr, "%s\n", w.error.message), 1;
    make_image(&s);
    make_pipeline(&s);
    make_commands(&s);
    for (uint32_t i = 0; i < FRAMES; i++) {
        draw(&s, i);
        memcpy(alone[i], s.mapped, BYTES);
    }
    need(pthread_create(&thread, NULL, write_text, &w) ? VK_ERROR_OUT_OF_HOST_MEMORY : VK_SUCCESS, "pthread_create");
    for (; !atomic_load(&w.done) || drawn % FRAMES; drawn++) {
        draw(&s, drawn % FRAMES);
        different += memcmp(alone[drawn % FRAMES], s.mapped, BYTES) != 0;
        nanosleep(&(struct timespec){ .tv_nsec = 8000000 }, NULL); /* up to a hundred frames a second */
    }
    pthread_join(thread, NULL);
    dsvk_device_close(w.device);
    draw(&s, 0); /* the device is still the program's */
    different += memcmp(alone[0], s.mapped, BYTES) != 0;
    if (w.status)
        fprintf(stderr, "%s\n", w.error.message);
    fprintf(stderr, "%u frames while text was generated, %u different\n", drawn, different);
    close_screen(&s);
    return w.status || different;
}
