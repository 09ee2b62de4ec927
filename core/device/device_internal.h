/* What the files of the device layer share: the device, its memory pools, its pipelines, its profile. */
#ifndef DSVK_DEVICE_INTERNAL_H
#define DSVK_DEVICE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "vk_table.h"

#define DSVK_PUSH_BYTES 128u  /* push constants every device has */
#define DSVK_ALIGNMENT 256u   /* of buffers */
#define DSVK_WAIT_SECONDS 60u /* the bound of every wait (D10) */
#define DSVK_COMPILE_SECONDS 600u /* but for a software driver's compiler, which shares its cores with whatever else there is */
#define DSVK_VENDOR_INTEL 0x8086u
#define DSVK_MATMUL_SHAPES (DSVK_MATMUL_VARIANTS - DSVK_MATMUL_COOPMAT)
#define DSVK_CLOSE_SECONDS 5u /* and of the one at close (D08) */

/* ---- what a physical device is (survey.c) ---- */

typedef struct dsvk_physical {
    VkPhysicalDevice handle;
    VkPhysicalDeviceProperties properties;
    VkPhysicalDeviceVulkan11Properties v11; /* this and the following: zero below Vulkan 1.3 */
    VkPhysicalDeviceVulkan12Properties v12;
    VkPhysicalDeviceVulkan13Properties v13;
    VkPhysicalDeviceVulkan11Features f11;
    VkPhysicalDeviceVulkan12Features f12;
    VkPhysicalDeviceVulkan13Features f13;
    VkPhysicalDeviceMemoryProperties memory;
    uint32_t queue_family;
    uint32_t timestamp_bits; /* of that queue family; 0: no timestamps */
    uint32_t main_heap;      /* the largest device-local heap */
    bool unified;            /* the main heap can be mapped */
    bool has_budget;         /* VK_EXT_memory_budget */
    bool has_cooperative_matrix;   /* and what its kernels need besides */
    bool has_flexible_matrix;      /* VK_NV_cooperative_matrix2's flexible dimensions */
    dsvk_matmul_variant shapes[DSVK_MATMUL_SHAPES]; /* [n_shapes] of f16 to f32 products of a subgroup; the KHR ones first */
    uint32_t n_shapes;
    uint32_t matrix_subgroup;      /* the subgroup size to ask for with them */
    bool has_byte_products;  /* dot products of four signed bytes in a word */
    bool has_statistics;     /* VK_KHR_pipeline_executable_properties */
    bool usable;
    char reason[256]; /* why not */
    char uuid[37];    /* as text */
} dsvk_physical;

typedef struct dsvk_survey {
    dsvk_physical *devices; /* [n] owned, in the order of preference (D03), unusable ones last */
    uint32_t n;
} dsvk_survey;

dsvk_status dsvk_survey_make(const dsvk_vk *vk, dsvk_survey *survey, dsvk_error *err);
void dsvk_survey_free(dsvk_survey *survey);
/* `wanted` as dsvk_device_options.device; *index into survey->devices. */
dsvk_status dsvk_survey_choose(const dsvk_survey *survey, const char *wanted, uint32_t *index, dsvk_error *err);
json_t *dsvk_physical_json(const dsvk_physical *physical); /* one entry of dsvk_devices; NULL: out of memory */
uint64_t dsvk_max_allocation(const dsvk_physical *physical);
/* The one that a host's device is on, usable and restricted to what the host enabled; NODEVICE when it cannot be used. Before it is
 * made (.device and info NULL): what there is to enable. */
dsvk_status dsvk_survey_host(const dsvk_vk *vk, const dsvk_host_device *host, const VkDeviceCreateInfo *info, dsvk_physical *physical,
                             dsvk_error *err);

/* ---- features and extensions (features.c) ---- */

/* The flag of *p for an extension that is used; NULL: it is not. */
bool *dsvk_extension_flag(dsvk_physical *p, const char *name);
/* The features a physical device would need and has not, as text; "" when there are none. */
void dsvk_features_lacking(const dsvk_physical *p, char *list, size_t size);
/* Takes from *p what `info` does not enable; INVALID naming what is needed. */
dsvk_status dsvk_features_restrict(dsvk_physical *p, const VkDeviceCreateInfo *info, dsvk_error *err);
/* Adds to `info` what is used of *p; *memory, released with dsvk_free, has to stay as long as `info` is used. */
dsvk_status dsvk_features_add(const dsvk_physical *p, bool statistics, VkDeviceCreateInfo *info, void **memory, dsvk_error *err);

/* ---- memory (blocks.c) ---- */

typedef struct dsvk_block dsvk_block;

typedef struct dsvk_pool {
    uint32_t types[VK_MAX_MEMORY_TYPES]; /* [n_types] memory types to try, best first */
    uint32_t n_types;
    uint64_t block_limit; /* largest block made for several buffers, bytes */
    uint64_t budget;      /* most bytes reserved; UINT64_MAX: what the device has */
    uint64_t used, peak;  /* bytes in buffers */
    uint64_t reserved;    /* bytes in blocks, used or free */
    uint32_t n_blocks;
    dsvk_block *blocks; /* owned list, newest first */
} dsvk_pool;

dsvk_status dsvk_pools_open(dsvk_device *device, const dsvk_device_options *options, dsvk_error *err);
void dsvk_pools_close(dsvk_device *device, bool on_device); /* on_device false: host memory only */

/* ---- pipelines (pipelines.c, denormals.c, pipeline_cache.c) ---- */

typedef struct dsvk_pipeline dsvk_pipeline;
#define DSVK_PIPELINE_BUCKETS 256u

dsvk_status dsvk_pipelines_open(dsvk_device *device, dsvk_error *err);
void dsvk_pipelines_close(dsvk_device *device, bool on_device);
/* The pipeline of a shader with constants, built when it is new. `compiled`: software drivers compile a kernel when it is first
 * dispatched, which would add up in the first submit that uses many of them, and submits have to be short (D10); so it is
 * dispatched now, with no workgroups, and waited for. */
dsvk_status dsvk_pipeline_get(dsvk_device *device, const dsvk_dispatch_info *info, bool compiled, VkPipeline *pipeline,
                              dsvk_error *err);

/* Dispatches no workgroups of it and waits (recorder.c). */
dsvk_status dsvk_compile_now(dsvk_device *device, VkPipeline pipeline, dsvk_error *err);

/* A copy of a shader's words, *bytes of them before and after, that asks for what FP8 and FP4 are decoded with
 * (denormals.c); released with dsvk_free. NULL: out of memory. */
uint32_t *dsvk_keep_half_denormals(const VkPhysicalDeviceVulkan12Properties *v12, const uint32_t *words, size_t *bytes);

/* What is remembered of this device and driver on disk: the file "pipelines", compiled kernels, and "matmul", the variant that
 * was found fastest. Reading leaves *payload NULL when anything is wrong with it; release with dsvk_free. */
void dsvk_cache_read(const dsvk_device *device, const char *file, void **payload, size_t *bytes);
/* Writes it; failing leaves the old file or none (D16). */
void dsvk_cache_write(const dsvk_device *device, const char *file, const void *payload, size_t bytes);
/* Where it is: into out; false when there is to be none. */
bool dsvk_cache_path(const dsvk_device *device, const char *file, char *out, size_t out_size);

/* ---- ways to multiply (matmul_variants.c) ---- */

/* Fills in what the physical device has of cooperative matrices. */
void dsvk_matmul_survey(const dsvk_vk *vk, dsvk_physical *physical);
json_t *dsvk_matmul_json(const dsvk_physical *physical); /* names of all variants; NULL: out of memory */
/* Takes the variant that dsvk_device_options.matmul means, or guesses one. */
dsvk_status dsvk_matmul_open(dsvk_device *device, const char *wanted, dsvk_error *err);

/* ---- profile (profile.c) ---- */

typedef struct dsvk_profile_op {
    const char *name, *part; /* part: NULL or of which part of a model */
    uint64_t calls, bytes, flops;
    double us;
} dsvk_profile_op;

typedef struct dsvk_profile {
    pthread_mutex_t lock;
    atomic_bool on;
    uint64_t submits, dispatches;
    double host_us, device_us;
    dsvk_profile_op *ops; /* [n_ops] owned */
    uint32_t n_ops, capacity;
} dsvk_profile;

void dsvk_profile_submit(dsvk_device *device, uint32_t dispatches, double host_us);
/* `calls` of an op for a part of a model, of so many bytes, operations and microseconds together. */
void dsvk_profile_add(dsvk_device *device, const char *op, const char *part, uint32_t calls, uint64_t bytes, uint64_t flops,
                      double us);
double dsvk_now_us(void); /* a monotonic clock */

/* ---- the device (device.c) ---- */

struct dsvk_device {
    atomic_uint references;
    pid_t pid; /* of the process that opened it (A11) */
    dsvk_vk vk;
    dsvk_validation validation;
    dsvk_physical physical;
    dsvk_device_limits limits;
    VkDevice handle;
    dsvk_host_device host; /* .device: whose `handle` is; NULL: it is ours */
    dsvk_log_fn log;
    void *log_user;
    char *cache_dir; /* owned; "" = no cache */

    VkQueue queue;
    pthread_mutex_t queue_lock; /* for queue and submitted; outside the host's */
    VkSemaphore timeline;
    uint64_t submitted; /* the last value handed to the queue */

    atomic_bool lost; /* sticky (D08) */
    atomic_bool hung; /* lost because a wait ran out: the device may still be using its objects */
    pthread_mutex_t lost_lock;
    char lost_message[256];

    pthread_mutex_t memory_lock; /* for pools */
    dsvk_pool pools[DSVK_PURPOSE_COUNT];

    atomic_uint matmul; /* the dsvk_matmul_variant in use, as one word */
    atomic_uint matmul_source; /* a dsvk_matmul_source */
    bool byte_products; /* dsvk_device_byte_products */

    bool statistics; /* pipelines are built with VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR */
    VkPipelineLayout layout;
    VkPipelineCache pipeline_cache;
    size_t pipeline_cache_bytes;   /* its size after loading the file; 0: there was none */
    pthread_mutex_t pipeline_lock; /* for pipelines */
    dsvk_pipeline *pipelines[DSVK_PIPELINE_BUCKETS];

    dsvk_profile profile;
};

/* Turns a failing VkResult into a status and a sentence, "<what> failed: VK_ERROR_..."; DEVICE_LOST sticks. */
dsvk_status dsvk_vk_fail(dsvk_device *device, VkResult result, dsvk_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Marks the device lost; the first message stays. */
dsvk_status dsvk_device_lose(dsvk_device *device, dsvk_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Gives a Vulkan object a name that validation messages show; nothing without VK_EXT_debug_utils. */
void dsvk_set_name(dsvk_device *device, VkObjectType type, uint64_t object, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Whether the device no longer uses what was submitted up to `value`, after at most `seconds`: it may be destroyed. */
bool dsvk_at_rest(dsvk_device *device, uint64_t value, uint32_t seconds);
/* Until the timeline reaches `value`, at most `seconds`; then DEVLOST. */
dsvk_status dsvk_timeline_wait(dsvk_device *device, uint64_t value, uint32_t seconds, dsvk_error *err);

/* A buffer's VkBuffer, and whether the host reads its mapping at full speed (blocks.c). */
VkBuffer dsvk_buffer_handle(const dsvk_buffer *buffer);
bool dsvk_buffer_cached(const dsvk_buffer *buffer);

#endif
