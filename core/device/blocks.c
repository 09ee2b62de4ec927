/* Device memory: large blocks per purpose, one VkBuffer over each, buffers cut out of them at 256-byte aligned device
 * addresses.
 *
 * Invariant: a block's free ranges are sorted by offset and never touch, so a block is empty exactly when one range
 * covers it; and there is always room for one more range per buffer in the block, so that freeing never allocates.
 * Blocks double from 16 MiB up to a limit that follows the heap (a small model wastes little, a full one stays far
 * below the 4,096 allocations that drivers must allow, D07); a larger ask gets a block of its own. */
#include <stdio.h>
#include <string.h>

#include "device_internal.h"

#define MIB ((uint64_t)1 << 20)
#define FIRST_BLOCK (16 * MIB)

typedef struct range {
    uint64_t offset, size;
} range;

struct dsvk_block {
    dsvk_block *next;
    VkDeviceMemory memory;
    VkBuffer buffer;
    dsvk_addr base; /* device address of offset 0 */
    uint8_t *host;  /* mapping of offset 0 or NULL */
    bool cached;    /* the host reads the mapping through its cache */
    uint32_t heap;
    uint64_t size;   /* of the memory */
    uint64_t usable; /* of it for buffers: the one free range's size when the block is empty */
    range *free;     /* [n_free] of capacity */
    uint32_t n_free, capacity;
    uint32_t n_buffers;
};

const char *dsvk_purpose_name(dsvk_purpose purpose) {
    static const char *const names[DSVK_PURPOSE_COUNT] = {
        [DSVK_WEIGHTS] = "weights", [DSVK_CACHE] = "cache",       [DSVK_SCRATCH] = "scratch",
        [DSVK_STAGING] = "staging", [DSVK_READBACK] = "readback",
    };
    return (uint32_t)purpose < DSVK_PURPOSE_COUNT ? names[purpose] : "unknown";
}

/* ---- which memory types serve a purpose ---- */

static bool shares_host_memory(const dsvk_physical *physical) {
    const VkPhysicalDeviceType type = physical->properties.deviceType;
    return type == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU || type == VK_PHYSICAL_DEVICE_TYPE_CPU;
}

/* Higher is better; -1: does not serve. */
static int type_score(const dsvk_physical *physical, dsvk_purpose purpose, uint32_t index) {
    const VkMemoryType *type = &physical->memory.memoryTypes[index];
    const VkMemoryPropertyFlags flags = type->propertyFlags;
    const bool mapped = (flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) && (flags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT);
    const bool local = (flags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT) != 0;
    const bool cached = (flags & VK_MEMORY_PROPERTY_HOST_CACHED_BIT) != 0;
    const VkMemoryPropertyFlags usual = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                        VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
    if (flags & ~usual) /* protected, lazily allocated, uncached for the device: never meant for us */
        return -1;
    if (purpose == DSVK_STAGING)
        return mapped ? (local ? 0 : 2) + (cached ? 0 : 1) : -1;
    if (purpose == DSVK_READBACK)
        return mapped ? (local ? 0 : 1) + (cached ? 2 : 0) : -1;
    if (!local || type->heapIndex != physical->main_heap)
        return shares_host_memory(physical) && mapped ? 0 : -1; /* behind a small carve-out there is the rest */
    if (physical->unified)
        return mapped ? 2 + cached : 1;
    return mapped ? 1 : 2;
}

static void choose_types(const dsvk_physical *physical, dsvk_purpose purpose, dsvk_pool *pool) {
    int scores[VK_MAX_MEMORY_TYPES];
    for (uint32_t i = 0; i < physical->memory.memoryTypeCount; i++) {
        int score = type_score(physical, purpose, i);
        if (score < 0)
            continue;
        uint32_t at = pool->n_types++;
        for (; at > 0 && scores[at - 1] < score; at--) {
            scores[at] = scores[at - 1];
            pool->types[at] = pool->types[at - 1];
        }
        scores[at] = score;
        pool->types[at] = i;
    }
}

/* ---- what is left ---- */

static uint64_t reserved_in_heap(const dsvk_device *device, uint32_t heap) {
    uint64_t sum = 0;
    for (int p = 0; p < DSVK_PURPOSE_COUNT; p++)
        for (const dsvk_block *block = device->pools[p].blocks; block; block = block->next)
            sum += block->heap == heap ? block->size : 0;
    return sum;
}

/* What the driver says is left for this process, or, where it says nothing, the heap's size less our own blocks. */
static uint64_t heap_free(dsvk_device *device, uint32_t heap) {
    const VkPhysicalDeviceMemoryProperties *memory = &device->physical.memory;
    if (device->physical.has_budget) {
        VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {
            .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT,
        };
        VkPhysicalDeviceMemoryProperties2 properties = {
            .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
            .pNext = &budget,
        };
        device->vk.vkGetPhysicalDeviceMemoryProperties2(device->physical.handle, &properties);
        return budget.heapBudget[heap] > budget.heapUsage[heap] ? budget.heapBudget[heap] - budget.heapUsage[heap] : 0;
    }
    uint64_t size = memory->memoryHeaps[heap].size, used = reserved_in_heap(device, heap);
    return size > used ? size - used : 0;
}

static uint32_t pool_heap(const dsvk_device *device, const dsvk_pool *pool) {
    return device->physical.memory.memoryTypes[pool->types[0]].heapIndex;
}

static uint64_t budget_left(const dsvk_pool *pool) {
    return pool->budget > pool->reserved ? pool->budget - pool->reserved : 0;
}

/* ---- one block ---- */

static void block_free(dsvk_device *device, dsvk_block *block, bool on_device) {
    if (on_device && block->buffer)
        device->vk.vkDestroyBuffer(device->handle, block->buffer, NULL);
    if (on_device && block->memory)
        device->vk.vkFreeMemory(device->handle, block->memory, NULL); /* also unmaps */
    dsvk_free(block->free);
    dsvk_free(block);
}

static bool can_map(VkMemoryPropertyFlags flags) {
    return (flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) && (flags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT);
}

/* Memory for the block's buffer, from the first type that has room. */
static VkResult block_allocate(dsvk_device *device, dsvk_block *block, const dsvk_pool *pool) {
    VkMemoryRequirements needs;
    device->vk.vkGetBufferMemoryRequirements(device->handle, block->buffer, &needs);
    const VkMemoryAllocateFlagsInfo flags = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO,
        .flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT,
    };
    VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    for (uint32_t i = 0; i < pool->n_types; i++) {
        const VkMemoryType *type = &device->physical.memory.memoryTypes[pool->types[i]];
        if (!(needs.memoryTypeBits >> pool->types[i] & 1))
            continue;
        if (device->physical.has_budget && needs.size > heap_free(device, type->heapIndex))
            continue;
        const VkMemoryAllocateInfo info = {
            .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
            .pNext = &flags,
            .allocationSize = needs.size,
            .memoryTypeIndex = pool->types[i],
        };
        result = device->vk.vkAllocateMemory(device->handle, &info, NULL, &block->memory);
        if (result == VK_SUCCESS) {
            block->heap = type->heapIndex;
            block->size = needs.size;
            block->cached = (type->propertyFlags & VK_MEMORY_PROPERTY_HOST_CACHED_BIT) != 0;
            if (can_map(type->propertyFlags))
                result =
                    device->vk.vkMapMemory(device->handle, block->memory, 0, VK_WHOLE_SIZE, 0, (void **)&block->host);
            return result;
        }
        block->memory = VK_NULL_HANDLE;
        if (result != VK_ERROR_OUT_OF_DEVICE_MEMORY)
            return result;
    }
    return result;
}

/* A block with room for `usable` bytes, empty and not yet in the pool's list. Nothing is left behind on failure. */
static VkResult block_create(dsvk_device *device, dsvk_purpose purpose, uint64_t usable, dsvk_block **out) {
    dsvk_pool *pool = &device->pools[purpose];
    dsvk_block *block = dsvk_alloc_zero(1, sizeof *block);
    if (!block)
        return VK_ERROR_OUT_OF_HOST_MEMORY;
    block->capacity = 16;
    block->free = dsvk_alloc_zero(block->capacity, sizeof *block->free);
    VkResult result = block->free ? VK_SUCCESS : VK_ERROR_OUT_OF_HOST_MEMORY;
    const VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = usable + DSVK_ALIGNMENT, /* software drivers may place it at any address */
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT |
                 VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT |
                 VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT,
    };
    if (result == VK_SUCCESS)
        result = device->vk.vkCreateBuffer(device->handle, &info, NULL, &block->buffer);
    if (result == VK_SUCCESS)
        result = block_allocate(device, block, pool);
    if (result == VK_SUCCESS)
        result = device->vk.vkBindBufferMemory(device->handle, block->buffer, block->memory, 0);
    if (result != VK_SUCCESS) {
        block_free(device, block, true);
        return result;
    }
    const VkBufferDeviceAddressInfo address = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO,
        .buffer = block->buffer,
    };
    block->base = device->vk.vkGetBufferDeviceAddress(device->handle, &address);
    block->usable = usable;
    block->free[0] = (range){.offset = dsvk_align(block->base, DSVK_ALIGNMENT) - block->base, .size = usable};
    block->n_free = 1;
    dsvk_set_name(device, VK_OBJECT_TYPE_BUFFER, (uint64_t)block->buffer, "%s block", dsvk_purpose_name(purpose));
    dsvk_set_name(device, VK_OBJECT_TYPE_DEVICE_MEMORY, (uint64_t)block->memory, "%s memory",
                  dsvk_purpose_name(purpose));
    *out = block;
    return VK_SUCCESS;
}

static void pool_add(dsvk_pool *pool, dsvk_block *block) {
    block->next = pool->blocks;
    pool->blocks = block;
    pool->reserved += block->usable;
    pool->n_blocks++;
}

static void pool_remove(dsvk_device *device, dsvk_pool *pool, dsvk_block *block) {
    dsvk_block **link = &pool->blocks;
    while (*link != block)
        link = &(*link)->next;
    *link = block->next;
    pool->reserved -= block->usable;
    pool->n_blocks--;
    block_free(device, block, true);
}

/* Gives empty blocks of every purpose back to the driver; false when there was none. */
static bool release_empty(dsvk_device *device) {
    bool released = false;
    for (int p = 0; p < DSVK_PURPOSE_COUNT; p++) {
        dsvk_block *next;
        for (dsvk_block *block = device->pools[p].blocks; block; block = next) {
            next = block->next;
            if (block->n_buffers == 0) {
                pool_remove(device, &device->pools[p], block);
                released = true;
            }
        }
    }
    return released;
}

/* ---- ranges ---- */

/* The smallest free range that holds `size`, over all blocks; ties go to the lowest offset. */
static dsvk_block *find_range(const dsvk_pool *pool, uint64_t size, uint32_t *at) {
    dsvk_block *best = NULL;
    uint64_t best_size = UINT64_MAX;
    for (dsvk_block *block = pool->blocks; block; block = block->next)
        for (uint32_t i = 0; i < block->n_free; i++)
            if (block->free[i].size >= size && block->free[i].size < best_size) {
                best = block;
                best_size = block->free[i].size;
                *at = i;
            }
    return best;
}

/* Room for the ranges that n_buffers + 1 buffers can leave behind. */
static bool reserve_ranges(dsvk_block *block) {
    if (block->n_buffers + 2 <= block->capacity)
        return true;
    range *larger = dsvk_realloc(block->free, 2 * block->capacity * sizeof *larger);
    if (!larger)
        return false;
    block->free = larger;
    block->capacity *= 2;
    return true;
}

static uint64_t take_range(dsvk_block *block, uint32_t at, uint64_t size) {
    uint64_t offset = block->free[at].offset;
    block->free[at].offset += size;
    block->free[at].size -= size;
    if (block->free[at].size == 0)
        memmove(&block->free[at], &block->free[at + 1], (--block->n_free - at) * sizeof *block->free);
    block->n_buffers++;
    return offset;
}

static void return_range(dsvk_block *block, uint64_t offset, uint64_t size) {
    uint32_t at = 0;
    while (at < block->n_free && block->free[at].offset < offset)
        at++;
    bool joins_left = at > 0 && block->free[at - 1].offset + block->free[at - 1].size == offset;
    bool joins_right = at < block->n_free && offset + size == block->free[at].offset;
    if (joins_left && joins_right) {
        block->free[at - 1].size += size + block->free[at].size;
        memmove(&block->free[at], &block->free[at + 1], (--block->n_free - at) * sizeof *block->free);
    } else if (joins_left) {
        block->free[at - 1].size += size;
    } else if (joins_right) {
        block->free[at].offset = offset;
        block->free[at].size += size;
    } else {
        memmove(&block->free[at + 1], &block->free[at], (block->n_free++ - at) * sizeof *block->free);
        block->free[at] = (range){.offset = offset, .size = size};
    }
    block->n_buffers--;
}

/* ---- buffers ---- */

/* What a buffer takes of a block. */
static uint64_t taken(uint64_t size) {
    return size ? dsvk_align(size, DSVK_ALIGNMENT) : DSVK_ALIGNMENT;
}

/* What the next block should hold: as much as there is, within the limits, at least the ask. With the room for
 * alignment a usual block is a whole number of MiB. */
static uint64_t next_block_size(const dsvk_pool *pool, uint64_t need) {
    uint64_t size = pool->reserved > FIRST_BLOCK ? dsvk_align(pool->reserved, MIB) : FIRST_BLOCK;
    size = (size < pool->block_limit ? size : pool->block_limit) / DSVK_ALIGNMENT * DSVK_ALIGNMENT - DSVK_ALIGNMENT;
    uint64_t left = budget_left(pool) / DSVK_ALIGNMENT * DSVK_ALIGNMENT;
    size = size < left ? size : left;
    return size > need ? size : need;
}

/* Adds a block for an ask of `need` bytes: smaller and smaller ones when memory is short, then without the empty blocks
 * of other purposes. */
static VkResult grow(dsvk_device *device, dsvk_purpose purpose, uint64_t need) {
    dsvk_pool *pool = &device->pools[purpose];
    VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    do {
        if (need > budget_left(pool))
            continue;
        for (uint64_t size = next_block_size(pool, need);;) {
            dsvk_block *block;
            result = block_create(device, purpose, size, &block);
            if (result == VK_SUCCESS) {
                pool_add(pool, block);
                return result;
            }
            if (result != VK_ERROR_OUT_OF_DEVICE_MEMORY || size == need)
                break;
            size = size / 2 / DSVK_ALIGNMENT * DSVK_ALIGNMENT;
            size = size > need ? size : need;
        }
    } while (result == VK_ERROR_OUT_OF_DEVICE_MEMORY && release_empty(device));
    return result;
}

static dsvk_status no_memory(dsvk_device *device, dsvk_purpose purpose, uint64_t size, const char *name,
                             dsvk_error *err) {
    const dsvk_pool *pool = &device->pools[purpose];
    char budget[64] = "none";
    if (pool->budget != UINT64_MAX)
        snprintf(budget, sizeof budget, "%llu", (unsigned long long)pool->budget);
    return dsvk_fail(
        err, DSVK_DEVMEM,
        "out of device memory for %s: %s asked for %llu bytes; %llu are used, the budget is %s, heap %u has "
        "%llu of %llu bytes free",
        dsvk_purpose_name(purpose), name ? name : "a buffer", (unsigned long long)size, (unsigned long long)pool->used,
        budget, pool_heap(device, pool), (unsigned long long)heap_free(device, pool_heap(device, pool)),
        (unsigned long long)device->physical.memory.memoryHeaps[pool_heap(device, pool)].size);
}

static dsvk_status create_locked(dsvk_device *device, dsvk_purpose purpose, uint64_t size, const char *name,
                                 dsvk_buffer *buffer, dsvk_error *err) {
    dsvk_pool *pool = &device->pools[purpose];
    const uint64_t need = taken(size);
    uint32_t at = 0;
    dsvk_block *block = find_range(pool, need, &at);
    if (!block) {
        VkResult result = grow(device, purpose, need);
        if (result == VK_ERROR_OUT_OF_DEVICE_MEMORY)
            return no_memory(device, purpose, size, name, err);
        if (result != VK_SUCCESS)
            return dsvk_vk_fail(device, result, err, "memory for %s (%s, %llu bytes)", name ? name : "a buffer",
                                dsvk_purpose_name(purpose), (unsigned long long)size);
        block = find_range(pool, need, &at);
    }
    if (!block || !reserve_ranges(block))
        return dsvk_fail_nomem(err, 2 * sizeof(range));
    uint64_t offset = take_range(block, at, need);
    pool->used += need;
    pool->peak = pool->used > pool->peak ? pool->used : pool->peak;
    *buffer = (dsvk_buffer){
        .addr = block->base + offset,
        .size = size,
        .host = block->host ? block->host + offset : NULL,
        .block = block,
        .offset = offset,
        .purpose = purpose,
    };
    return DSVK_OK;
}

dsvk_status dsvk_buffer_create(dsvk_device *device, dsvk_purpose purpose, uint64_t size, const char *name,
                               dsvk_buffer *buffer, dsvk_error *err) {
    memset(buffer, 0, sizeof *buffer);
    DSVK_TRY(dsvk_device_status(device, err));
    if ((uint32_t)purpose >= DSVK_PURPOSE_COUNT)
        return dsvk_fail(err, DSVK_INVALID, "buffer %s: purpose %d is none of 0 .. %d", name ? name : "", (int)purpose,
                         DSVK_PURPOSE_COUNT - 1);
    if (size > device->limits.max_allocation)
        return dsvk_fail(err, DSVK_LIMIT, "buffer %s (%s): %llu bytes, the device allows %llu in one allocation",
                         name ? name : "", dsvk_purpose_name(purpose), (unsigned long long)size,
                         (unsigned long long)device->limits.max_allocation);
    pthread_mutex_lock(&device->memory_lock);
    dsvk_status status = create_locked(device, purpose, size, name, buffer, err);
    pthread_mutex_unlock(&device->memory_lock);
    return status;
}

/* One empty block stays for what comes and goes, so that sessions do not allocate each time; weights come seldom and
 * large. A hung device may still be using its memory. */
static bool keep_empty(const dsvk_device *device, dsvk_purpose purpose, const dsvk_block *block) {
    const dsvk_pool *pool = &device->pools[purpose];
    if (atomic_load(&device->hung))
        return true;
    if (purpose == DSVK_WEIGHTS || block->usable > pool->block_limit)
        return false;
    for (const dsvk_block *other = pool->blocks; other; other = other->next)
        if (other != block && other->n_buffers == 0)
            return false;
    return true;
}

void dsvk_buffer_destroy(dsvk_device *device, dsvk_buffer *buffer) {
    dsvk_block *block = buffer->block;
    if (!block)
        return;
    if (!dsvk_device_forked(device)) {
        pthread_mutex_lock(&device->memory_lock);
        dsvk_pool *pool = &device->pools[buffer->purpose];
        const uint64_t size = taken(buffer->size);
        return_range(block, buffer->offset, size);
        pool->used -= size;
        if (block->n_buffers == 0 && !keep_empty(device, buffer->purpose, block))
            pool_remove(device, pool, block);
        pthread_mutex_unlock(&device->memory_lock);
    }
    memset(buffer, 0, sizeof *buffer);
}

VkBuffer dsvk_buffer_handle(const dsvk_buffer *buffer) {
    return ((const dsvk_block *)buffer->block)->buffer;
}
bool dsvk_buffer_cached(const dsvk_buffer *buffer) {
    return ((const dsvk_block *)buffer->block)->cached;
}

/* ---- pools ---- */

uint64_t dsvk_purpose_used(dsvk_device *device, dsvk_purpose purpose) {
    pthread_mutex_lock(&device->memory_lock);
    uint64_t used = device->pools[purpose].used;
    pthread_mutex_unlock(&device->memory_lock);
    return used;
}

uint64_t dsvk_purpose_available(dsvk_device *device, dsvk_purpose purpose) {
    pthread_mutex_lock(&device->memory_lock);
    const dsvk_pool *pool = &device->pools[purpose];
    uint64_t left = budget_left(pool), heap = heap_free(device, pool_heap(device, pool)), inside = 0;
    for (const dsvk_block *block = pool->blocks; block; block = block->next)
        for (uint32_t i = 0; i < block->n_free; i++)
            inside += block->free[i].size;
    pthread_mutex_unlock(&device->memory_lock);
    return inside + (left < heap ? left : heap);
}

/* The limit of shared blocks: 256 MiB for weights and 64 MiB for the rest, less on small heaps, more for weights where
 * the heap is so large that 256 MiB would make hundreds of them. */
static uint64_t block_limit(const dsvk_device *device, dsvk_purpose purpose, uint64_t heap) {
    uint64_t limit = (purpose == DSVK_WEIGHTS ? 256 : 64) * MIB;
    if (limit > heap / 16)
        limit = heap / 16;
    if (purpose == DSVK_WEIGHTS && limit < heap / 128)
        limit = heap / 128;
    return limit < device->limits.max_allocation ? limit : device->limits.max_allocation;
}

dsvk_status dsvk_pools_open(dsvk_device *device, const dsvk_device_options *options, dsvk_error *err) {
    for (int p = 0; p < DSVK_PURPOSE_COUNT; p++) {
        dsvk_pool *pool = &device->pools[p];
        choose_types(&device->physical, (dsvk_purpose)p, pool);
        if (pool->n_types == 0)
            return dsvk_fail(err, DSVK_NODEVICE, "%s has no memory type for %s", device->physical.properties.deviceName,
                             dsvk_purpose_name((dsvk_purpose)p));
        pool->budget = options->budget[p] ? options->budget[p] : UINT64_MAX;
        pool->block_limit =
            block_limit(device, (dsvk_purpose)p, device->physical.memory.memoryHeaps[pool_heap(device, pool)].size);
    }
    return DSVK_OK;
}

void dsvk_pools_close(dsvk_device *device, bool on_device) {
    for (int p = 0; p < DSVK_PURPOSE_COUNT; p++) {
        dsvk_pool *pool = &device->pools[p];
        while (pool->blocks) {
            dsvk_block *block = pool->blocks;
            pool->blocks = block->next;
            block_free(device, block, on_device);
        }
        memset(pool, 0, sizeof *pool);
    }
}

dsvk_status dsvk_device_memory(dsvk_device *device, char **json, dsvk_error *err) {
    DSVK_TRY(dsvk_device_status(device, err));
    if (!json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_device_memory: json is NULL");
    json_t *root = json_object();
    pthread_mutex_lock(&device->memory_lock);
    for (int p = 0; p < DSVK_PURPOSE_COUNT; p++) {
        const dsvk_pool *pool = &device->pools[p];
        json_int_t budget = pool->budget == UINT64_MAX ? 0 : (json_int_t)pool->budget;
        json_object_set_new(root, dsvk_purpose_name((dsvk_purpose)p),
                            json_pack("{s:I, s:I, s:I, s:I, s:I}", "used", (json_int_t)pool->used, "peak",
                                      (json_int_t)pool->peak, "budget", budget, "blocks", (json_int_t)pool->n_blocks,
                                      "reserved", (json_int_t)pool->reserved));
    }
    const uint32_t heap = device->physical.main_heap;
    json_object_set_new(root, "heap",
                        json_pack("{s:I, s:I}", "size", (json_int_t)device->physical.memory.memoryHeaps[heap].size,
                                  "free", (json_int_t)heap_free(device, heap)));
    pthread_mutex_unlock(&device->memory_lock);
    return dsvk_json_text(root, json, err);
}
