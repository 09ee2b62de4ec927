/* Recording and submitting. A dsvk_cmd owns one command pool with one command buffer, so different threads record
 * without locks; the first failing call sticks and submit reports it, so that callers stay lists of steps.
 *
 * Ordering: nothing is ordered inside a recording except by dsvk_barrier, and every submit ends with one, so that a
 * later submit, and the host after wait, see everything. A submit may hold several recordings, and one several times: for
 * the barrier at its end that is the same as several submits. While a profile runs, a timestamp is written after each
 * dispatch, copy and fill; the time since the one before is booked on it, so that the sum is the device's time. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "device_internal.h"

#define QUERIES_PER_POOL 512u
#define GUESS_PER_S 1e9 /* bytes or operations: less than any device does, so that a first slice is short */
#define MOST_GROWTH 8.0 /* of a slice, against the one before */

/* What the timestamp at the same index ends. */
typedef struct timed {
    const char *op, *part;
    uint64_t bytes, flops; /* each time */
    dsvk_each each[2];
} timed;

typedef enum cmd_state { BEGUN, ENDED } cmd_state;

struct dsvk_cmd {
    dsvk_device *device;
    VkCommandPool pool;
    VkCommandBuffer buffer;
    dsvk_error error; /* the first of this recording */
    cmd_state state;
    uint64_t ticket; /* timeline value of the last submit; 0: none */
    uint32_t times;  /* how often it runs in that submit */
    const dsvk_status *caller; /* NULL: nobody's */
    dsvk_slices slices;
    double guess_s;  /* what stands in the recording would take */
    bool dry;
    bool repeatable, repeatable_now; /* the next recording, this one */
    bool touched; /* something was recorded since begin */
    bool dirty;   /* ... since the last barrier */
    VkPipeline bound;
    const char *part;
    uint32_t dispatches;
    double started_us;    /* when the first thing was recorded */
    bool profiled;        /* a profile was running when the first thing was recorded */
    bool timed;           /* ... and there are timestamps */
    VkQueryPool *queries; /* [n_pools] owned, QUERIES_PER_POOL each */
    uint32_t n_pools;
    timed *timings; /* [n_timings] of capacity; [0] is the start */
    uint32_t n_timings, capacity;
    uint64_t counts[DSVK_UNITS];
    bool cut; /* there was no memory for more of them */
};

void dsvk_cmd_fail(dsvk_cmd *cmd, dsvk_status status, const char *format, ...) {
    if (cmd->error.status != DSVK_OK)
        return;
    cmd->error.status = status;
    va_list list;
    va_start(list, format);
    vsnprintf(cmd->error.message, sizeof cmd->error.message, format, list);
    va_end(list);
}

dsvk_device *dsvk_cmd_device(dsvk_cmd *cmd) {
    return cmd->device;
}
void dsvk_cmd_set_dry(dsvk_cmd *cmd, bool dry) {
    cmd->dry = dry;
}
void dsvk_cmd_set_caller(dsvk_cmd *cmd, const dsvk_status *status) {
    cmd->caller = status;
}
void dsvk_cmd_set_slices(dsvk_cmd *cmd, dsvk_slices slices) {
    cmd->slices = slices;
}
void dsvk_cmd_set_part(dsvk_cmd *cmd, const char *part) {
    cmd->part = part;
}
uint32_t dsvk_cmd_dispatches(const dsvk_cmd *cmd) {
    return cmd->dispatches;
}
void dsvk_cmd_set_repeatable(dsvk_cmd *cmd, bool repeatable) {
    cmd->repeatable = repeatable;
}
bool dsvk_cmd_stale(const dsvk_cmd *cmd) {
    return cmd->profiled != atomic_load(&cmd->device->profile.on);
}
bool dsvk_cmd_profiled(const dsvk_cmd *cmd) {
    return cmd->profiled;
}
void dsvk_cmd_count(dsvk_cmd *cmd, const uint64_t counts[DSVK_UNITS]) {
    memcpy(cmd->counts, counts, sizeof cmd->counts);
}

/* ---- timestamps ---- */

static bool add_query_pool(dsvk_cmd *cmd) {
    dsvk_device *device = cmd->device;
    VkQueryPool *queries = dsvk_realloc(cmd->queries, (cmd->n_pools + 1) * sizeof *queries);
    if (!queries)
        return false;
    cmd->queries = queries;
    const VkQueryPoolCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
        .queryType = VK_QUERY_TYPE_TIMESTAMP,
        .queryCount = QUERIES_PER_POOL,
    };
    if (device->vk.vkCreateQueryPool(device->handle, &info, NULL, &queries[cmd->n_pools]) != VK_SUCCESS)
        return false;
    cmd->n_pools++;
    return true;
}

static bool room_for_timing(dsvk_cmd *cmd) {
    if (cmd->n_timings < cmd->capacity)
        return true;
    uint32_t capacity = cmd->capacity ? 2 * cmd->capacity : 256;
    timed *timings = dsvk_realloc(cmd->timings, capacity * sizeof *timings);
    if (!timings)
        return false;
    cmd->timings = timings;
    cmd->capacity = capacity;
    return true;
}

/* Notes what was recorded, with the next timestamp; a profile that finds no memory is cut short and changes nothing else. */
static void stamp(dsvk_cmd *cmd, timed what) {
    const dsvk_vk *vk = &cmd->device->vk;
    const uint32_t pool = cmd->n_timings / QUERIES_PER_POOL, query = cmd->n_timings % QUERIES_PER_POOL;
    if (!room_for_timing(cmd) || (cmd->timed && pool == cmd->n_pools && !add_query_pool(cmd))) {
        cmd->cut = true;
        return;
    }
    if (cmd->timed && query == 0)
        vk->vkCmdResetQueryPool(cmd->buffer, cmd->queries[pool], 0, QUERIES_PER_POOL);
    if (cmd->timed)
        vk->vkCmdWriteTimestamp2(cmd->buffer, VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT, cmd->queries[pool], query);
    what.part = cmd->part;
    cmd->timings[cmd->n_timings++] = what;
}

/* An op of the finished submit, which ran as often as the recording did. */
static void book(const dsvk_cmd *cmd, const timed *t, double us) {
    double bytes = (double)t->bytes * cmd->times, flops = (double)t->flops * cmd->times;
    for (size_t i = 0; i < DSVK_COUNT(t->each); i++) {
        bytes += t->each[i].bytes * (double)cmd->counts[t->each[i].unit];
        flops += t->each[i].flops * (double)cmd->counts[t->each[i].unit];
    }
    dsvk_profile_add(cmd->device, t->op, t->part, cmd->times, (uint64_t)(bytes + 0.5), (uint64_t)(flops + 0.5), us * cmd->times);
}

/* Books the finished submit's times; without timestamps the rest. */
static void collect(dsvk_cmd *cmd) {
    dsvk_device *device = cmd->device;
    const uint32_t bits = device->physical.timestamp_bits;
    const uint64_t mask = bits >= 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
    const double us_per_tick = (double)device->physical.properties.limits.timestampPeriod * 1e-3;
    uint64_t ticks[QUERIES_PER_POOL], before = 0;
    for (uint32_t first = 0; first < cmd->n_timings; first += QUERIES_PER_POOL) {
        uint32_t n = cmd->n_timings - first < QUERIES_PER_POOL ? cmd->n_timings - first : QUERIES_PER_POOL;
        if (cmd->timed &&
            device->vk.vkGetQueryPoolResults(device->handle, cmd->queries[first / QUERIES_PER_POOL], 0, n, sizeof ticks,
                                             ticks, sizeof *ticks, VK_QUERY_RESULT_64_BIT) != VK_SUCCESS)
            return;
        for (uint32_t i = 0; i < n; i++) {
            const timed *t = &cmd->timings[first + i];
            const double us = cmd->timed ? (double)((ticks[i] - before) & mask) * us_per_tick : 0.0;
            if (t->op)
                book(cmd, t, us);
            before = cmd->timed ? ticks[i] : 0;
        }
    }
}

/* ---- beginning ---- */

static dsvk_status begin(dsvk_cmd *cmd, dsvk_error *err) {
    dsvk_device *device = cmd->device;
    const VkCommandBufferBeginInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
        .flags = cmd->repeatable ? VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT : 0,
    };
    VkResult result = device->vk.vkResetCommandPool(device->handle, cmd->pool, 0);
    if (result == VK_SUCCESS)
        result = device->vk.vkBeginCommandBuffer(cmd->buffer, &info);
    if (result != VK_SUCCESS)
        return dsvk_vk_fail(device, result, err, "beginning a command buffer");
    cmd->error = (dsvk_error){.status = DSVK_OK};
    cmd->state = BEGUN;
    cmd->touched = cmd->dirty = cmd->cut = cmd->profiled = cmd->timed = false;
    cmd->repeatable_now = cmd->repeatable;
    cmd->bound = VK_NULL_HANDLE;
    cmd->guess_s = 0;
    cmd->dispatches = cmd->n_timings = 0;
    memset(cmd->counts, 0, sizeof cmd->counts);
    return DSVK_OK;
}

dsvk_status dsvk_cmd_create(dsvk_device *device, dsvk_cmd **out, dsvk_error *err) {
    dsvk_status status;
    VkResult result;
    *out = NULL;
    DSVK_TRY(dsvk_device_status(device, err));
    dsvk_cmd *cmd = dsvk_alloc_zero(1, sizeof *cmd);
    if (!cmd)
        return dsvk_fail_nomem(err, sizeof *cmd);
    cmd->device = device;
    const VkCommandPoolCreateInfo pool = {
        .sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
        .queueFamilyIndex = device->physical.queue_family,
    };
    result = device->vk.vkCreateCommandPool(device->handle, &pool, NULL, &cmd->pool);
    if (result == VK_SUCCESS) {
        const VkCommandBufferAllocateInfo info = {
            .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
            .commandPool = cmd->pool,
            .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
            .commandBufferCount = 1,
        };
        result = device->vk.vkAllocateCommandBuffers(device->handle, &info, &cmd->buffer);
    }
    if (result != VK_SUCCESS) {
        status = dsvk_vk_fail(device, result, err, "making a command buffer");
        goto fail;
    }
    DSVK_GOTO(begin(cmd, err));
    *out = cmd;
    return DSVK_OK;
fail:
    dsvk_cmd_destroy(cmd);
    return status;
}

dsvk_status dsvk_cmd_begin(dsvk_cmd *cmd, dsvk_error *err) {
    DSVK_TRY(dsvk_cmd_wait(cmd, err));
    return begin(cmd, err);
}

/* When the submit does not end in time the pool is left to the driver, which still uses it. */
void dsvk_cmd_destroy(dsvk_cmd *cmd) {
    if (!cmd)
        return;
    dsvk_device *device = cmd->device;
    dsvk_cmd_wait(cmd, NULL); /* books its profile too */
    if (dsvk_at_rest(device, cmd->ticket, 0)) {
        for (uint32_t i = 0; i < cmd->n_pools; i++)
            device->vk.vkDestroyQueryPool(device->handle, cmd->queries[i], NULL);
        if (cmd->pool)
            device->vk.vkDestroyCommandPool(device->handle, cmd->pool, NULL);
    }
    dsvk_free(cmd->queries);
    dsvk_free(cmd->timings);
    dsvk_free(cmd);
}

/* ---- recording ---- */

/* Called before anything is recorded; false when this recording has failed or is over. */
static bool ready(dsvk_cmd *cmd) {
    if (cmd->state != BEGUN)
        dsvk_cmd_fail(cmd, DSVK_STATE, "recording after submit: dsvk_cmd_begin starts a new recording");
    if (cmd->caller && *cmd->caller != DSVK_OK)
        dsvk_cmd_fail(cmd, *cmd->caller, "what is being recorded has failed");
    if (cmd->error.status != DSVK_OK)
        return false;
    if (!cmd->touched) {
        cmd->touched = true;
        cmd->started_us = dsvk_now_us();
        cmd->profiled = atomic_load(&cmd->device->profile.on);
        cmd->timed = cmd->profiled && cmd->device->physical.timestamp_bits > 0;
        if (cmd->profiled)
            stamp(cmd, (timed){0});
    }
    return true;
}

static double guess_s(uint64_t bytes, uint64_t flops) {
    return (double)(bytes > flops ? bytes : flops) / GUESS_PER_S;
}

static void recorded(dsvk_cmd *cmd, timed what) {
    cmd->dirty = true;
    cmd->guess_s += guess_s(what.bytes, what.flops);
    if (cmd->profiled && !cmd->cut)
        stamp(cmd, what);
}

static bool check_dispatch(dsvk_cmd *cmd, const dsvk_dispatch_info *info) {
    const uint32_t *groups = info->groups, *most = cmd->device->limits.max_groups;
    if (info->args_size > DSVK_PUSH_BYTES || info->args_size % 4)
        dsvk_cmd_fail(cmd, DSVK_INVALID, "op %s: %u bytes of arguments, the limit is %u in words of 4", info->op,
                      info->args_size, DSVK_PUSH_BYTES);
    if (groups[0] > most[0] || groups[1] > most[1] || groups[2] > most[2])
        dsvk_cmd_fail(cmd, DSVK_INVALID, "op %s: %u x %u x %u workgroups, the device allows %u x %u x %u", info->op,
                      groups[0], groups[1], groups[2], most[0], most[1], most[2]);
    if (info->grid && (!info->grid->block || info->grid_offset % 4 || info->grid->size < 12 ||
                       info->grid_offset > info->grid->size - 12))
        dsvk_cmd_fail(cmd, DSVK_INVALID, "op %s: its grid at byte %llu of a buffer of %llu", info->op,
                      (unsigned long long)info->grid_offset, (unsigned long long)info->grid->size);
    return cmd->error.status == DSVK_OK;
}

/* Workgroups first .. first + n - 1 along one dimension, and all along the others. */
static void record_groups(dsvk_cmd *cmd, const dsvk_dispatch_info *info, VkPipeline pipeline, int along, uint32_t first, uint32_t n) {
    const dsvk_vk *vk = &cmd->device->vk;
    uint32_t base[3] = {0}, count[3] = {info->groups[0], info->groups[1], info->groups[2]};
    const double share = (double)n / count[along];
    base[along] = first;
    count[along] = n;
    if (!ready(cmd))
        return;
    if (cmd->bound != pipeline)
        vk->vkCmdBindPipeline(cmd->buffer, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    cmd->bound = pipeline;
    if (info->args_size)
        vk->vkCmdPushConstants(cmd->buffer, cmd->device->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, info->args_size,
                               info->args);
    if (info->grid)
        vk->vkCmdDispatchIndirect(cmd->buffer, dsvk_buffer_handle(info->grid), info->grid->offset + info->grid_offset);
    else
        vk->vkCmdDispatchBase(cmd->buffer, base[0], base[1], base[2], count[0], count[1], count[2]);
    cmd->dispatches++;
    timed what = {.op = info->op, .bytes = (uint64_t)((double)info->bytes * share), .flops = (uint64_t)((double)info->flops * share)};
    for (size_t i = 0; i < DSVK_COUNT(what.each); i++)
        what.each[i] = (dsvk_each){info->each[i].unit, info->each[i].bytes * share, info->each[i].flops * share};
    recorded(cmd, what);
}

/* Runs what stands in the recording, and begins it again. Returns the seconds that took. */
static double cut(dsvk_cmd *cmd, const char *op, uint64_t done, uint64_t all) {
    const dsvk_slices *slices = &cmd->slices;
    dsvk_error error;
    const double began_us = dsvk_now_us();
    dsvk_status status = dsvk_cmd_run(cmd, &error);
    const double seconds = (dsvk_now_us() - began_us) * 1e-6;
    if (status == DSVK_OK)
        status = begin(cmd, &error);
    if (status == DSVK_OK && slices->progress && slices->progress(slices->user, op, done, all) != 0)
        status = dsvk_fail(&error, DSVK_CANCELLED, "cancelled at %s, after %llu of its %llu workgroups", op, (unsigned long long)done,
                           (unsigned long long)all);
    if (status != DSVK_OK)
        dsvk_cmd_fail(cmd, status, "%s", error.message);
    return seconds;
}

static void record_slices(dsvk_cmd *cmd, const dsvk_dispatch_info *info, VkPipeline pipeline, int along, double guess) {
    const uint32_t all = info->groups[along];
    double each = guess / all;
    for (uint32_t first = 0, n; first < all && cmd->error.status == DSVK_OK; first += n) {
        const double fit = fmax(cmd->slices.seconds / each, 1);
        n = fit < all - first ? (uint32_t)fit : all - first;
        record_groups(cmd, info, pipeline, along, first, n);
        if (first + n < all)
            each = fmax(cut(cmd, info->op, first + n, all) / n, each / MOST_GROWTH);
    }
}

void dsvk_dispatch(dsvk_cmd *cmd, const dsvk_dispatch_info *given) {
    const uint32_t *groups = given->groups;
    const int along = groups[0] > groups[1] && !given->counts_groups ? 0 : 1;
    const double guess = guess_s(given->bytes, given->flops), most = cmd->slices.seconds;
    dsvk_dispatch_info info = *given;
    VkPipeline pipeline;
    dsvk_error error;
    info.sliced = most > 0 && guess > most && groups[along] > 1 && !info.grid;
    if (!ready(cmd) || !check_dispatch(cmd, &info))
        return;
    if (!cmd->dry && (groups[0] == 0 || groups[1] == 0 || groups[2] == 0))
        return;
    dsvk_status status = dsvk_pipeline_get(cmd->device, &info, !cmd->dry, &pipeline, &error);
    if (status != DSVK_OK) {
        dsvk_cmd_fail(cmd, status, "%s", error.message);
        return;
    }
    if (cmd->dry)
        return;
    if (most > 0 && cmd->guess_s > 0 && cmd->guess_s + guess > most)
        cut(cmd, info.op, 0, groups[along]);
    if (info.sliced)
        record_slices(cmd, &info, pipeline, along, guess);
    else
        record_groups(cmd, &info, pipeline, along, 0, groups[along]);
}

/* For kernels and copies, and one more stage. */
static void barrier(dsvk_cmd *cmd, VkPipelineStageFlags2 stage, VkAccessFlags2 access) {
    const VkMemoryBarrier2 memory = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER_2,
        .srcStageMask = VK_PIPELINE_STAGE_2_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_2_ALL_TRANSFER_BIT,
        .srcAccessMask = VK_ACCESS_2_SHADER_WRITE_BIT | VK_ACCESS_2_TRANSFER_WRITE_BIT,
        .dstStageMask = VK_PIPELINE_STAGE_2_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_2_ALL_TRANSFER_BIT | stage,
        .dstAccessMask = VK_ACCESS_2_SHADER_READ_BIT | VK_ACCESS_2_SHADER_WRITE_BIT | VK_ACCESS_2_TRANSFER_READ_BIT |
                         VK_ACCESS_2_TRANSFER_WRITE_BIT | access,
    };
    const VkDependencyInfo info = {
        .sType = VK_STRUCTURE_TYPE_DEPENDENCY_INFO,
        .memoryBarrierCount = 1,
        .pMemoryBarriers = &memory,
    };
    cmd->device->vk.vkCmdPipelineBarrier2(cmd->buffer, &info);
    cmd->dirty = false;
}

void dsvk_barrier(dsvk_cmd *cmd) {
    if (ready(cmd) && !cmd->dry && cmd->dirty)
        barrier(cmd, 0, 0);
}

void dsvk_barrier_grids(dsvk_cmd *cmd) {
    if (ready(cmd) && !cmd->dry && cmd->dirty)
        barrier(cmd, VK_PIPELINE_STAGE_2_DRAW_INDIRECT_BIT, VK_ACCESS_2_INDIRECT_COMMAND_READ_BIT);
}

static bool check_range(dsvk_cmd *cmd, const char *what, const dsvk_buffer *buffer, uint64_t offset, uint64_t bytes) {
    if (!buffer->block || offset > buffer->size || bytes > buffer->size - offset)
        dsvk_cmd_fail(cmd, DSVK_INVALID, "%s: bytes %llu + %llu of a buffer of %llu", what, (unsigned long long)offset,
                      (unsigned long long)bytes, (unsigned long long)buffer->size);
    return cmd->error.status == DSVK_OK;
}

void dsvk_cmd_copy(dsvk_cmd *cmd, const dsvk_buffer *from, uint64_t from_offset, const dsvk_buffer *to,
                   uint64_t to_offset, uint64_t bytes) {
    if (!ready(cmd) || !check_range(cmd, "copy from", from, from_offset, bytes) ||
        !check_range(cmd, "copy to", to, to_offset, bytes) || bytes == 0 || cmd->dry)
        return;
    const VkBufferCopy region = {
        .srcOffset = from->offset + from_offset,
        .dstOffset = to->offset + to_offset,
        .size = bytes,
    };
    cmd->device->vk.vkCmdCopyBuffer(cmd->buffer, dsvk_buffer_handle(from), dsvk_buffer_handle(to), 1, &region);
    recorded(cmd, (timed){.op = "copy", .bytes = 2 * bytes});
}

void dsvk_cmd_fill(dsvk_cmd *cmd, const dsvk_buffer *to, uint64_t offset, uint64_t bytes, uint32_t word) {
    if (!ready(cmd) || !check_range(cmd, "fill", to, offset, bytes))
        return;
    if (offset % 4 || bytes % 4)
        dsvk_cmd_fail(cmd, DSVK_INVALID, "fill: bytes %llu + %llu are not multiples of 4", (unsigned long long)offset,
                      (unsigned long long)bytes);
    if (cmd->error.status != DSVK_OK || bytes == 0 || cmd->dry)
        return;
    cmd->device->vk.vkCmdFillBuffer(cmd->buffer, dsvk_buffer_handle(to), to->offset + offset, bytes, word);
    recorded(cmd, (timed){.op = "fill", .bytes = bytes});
}

/* ---- submitting ---- */

static dsvk_status hand_over(dsvk_device *device, const dsvk_replay *list, uint32_t n, dsvk_error *err) {
    VkCommandBufferSubmitInfo buffers[DSVK_MOST_REPLAYS];
    uint32_t n_buffers = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t time = 0; time < list[i].times; time++)
            buffers[n_buffers++] = (VkCommandBufferSubmitInfo){
                .sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_SUBMIT_INFO,
                .commandBuffer = list[i].cmd->buffer,
            };
    pthread_mutex_lock(&device->queue_lock);
    const VkSemaphoreSubmitInfo signal = {
        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_SUBMIT_INFO,
        .semaphore = device->timeline,
        .value = device->submitted + 1,
        .stageMask = VK_PIPELINE_STAGE_2_ALL_COMMANDS_BIT,
    };
    const VkSubmitInfo2 info = {
        .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO_2,
        .commandBufferInfoCount = n_buffers,
        .pCommandBufferInfos = buffers,
        .signalSemaphoreInfoCount = 1,
        .pSignalSemaphoreInfos = &signal,
    };
    if (device->host.lock_queue)
        device->host.lock_queue(device->host.user);
    VkResult result = device->vk.vkQueueSubmit2(device->queue, 1, &info, VK_NULL_HANDLE);
    if (device->host.unlock_queue)
        device->host.unlock_queue(device->host.user);
    if (result == VK_SUCCESS)
        device->submitted++;
    for (uint32_t i = 0; result == VK_SUCCESS && i < n; i++) {
        list[i].cmd->ticket = device->submitted;
        list[i].cmd->times = list[i].times;
    }
    pthread_mutex_unlock(&device->queue_lock);
    return result == VK_SUCCESS ? DSVK_OK : dsvk_vk_fail(device, result, err, "vkQueueSubmit2");
}

/* Closes a recording; a failure sticks until begin. */
static dsvk_status end(dsvk_cmd *cmd, dsvk_error *err) {
    if (cmd->touched)
        barrier(cmd, VK_PIPELINE_STAGE_2_HOST_BIT, VK_ACCESS_2_HOST_READ_BIT);
    cmd->state = ENDED;
    VkResult result = cmd->device->vk.vkEndCommandBuffer(cmd->buffer);
    if (result == VK_SUCCESS)
        return DSVK_OK;
    dsvk_cmd_fail(cmd, dsvk_vk_result_status(result), "vkEndCommandBuffer failed: %s", dsvk_vk_result_name(result));
    return dsvk_vk_fail(cmd->device, result, err, "vkEndCommandBuffer");
}

/* Waits for what still runs of a list, and looks for what cannot run. */
static dsvk_status check_list(const dsvk_replay *list, uint32_t n, dsvk_error *err) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        const dsvk_cmd *cmd = list[i].cmd;
        DSVK_TRY(dsvk_cmd_wait(list[i].cmd, err));
        if (cmd->error.status != DSVK_OK)
            return dsvk_fail(err, cmd->error.status, "%s", cmd->error.message);
        if (list[i].times == 0 || (list[i].times > 1 && !cmd->repeatable_now))
            return dsvk_fail(err, DSVK_STATE, "recording %u is to run %u times in one submit and is not repeatable", i,
                             list[i].times);
        total += list[i].times;
    }
    if (total > DSVK_MOST_REPLAYS)
        return dsvk_fail(err, DSVK_INVALID, "%llu recordings in one submit, at most %u", (unsigned long long)total,
                         DSVK_MOST_REPLAYS);
    return DSVK_OK;
}

dsvk_status dsvk_submit(const dsvk_replay *list, uint32_t n, dsvk_error *err) {
    dsvk_device *device = list[0].cmd->device;
    DSVK_TRY(check_list(list, n, err));
    double started_us = dsvk_now_us();
    uint32_t dispatches = 0;
    for (uint32_t i = 0; i < n; i++) {
        dsvk_cmd *cmd = list[i].cmd;
        dispatches += list[i].times * cmd->dispatches;
        if (cmd->state == ENDED)
            continue;
        if (cmd->touched && cmd->started_us < started_us)
            started_us = cmd->started_us;
        DSVK_TRY(end(cmd, err));
    }
    DSVK_TRY(hand_over(device, list, n, err));
    if (atomic_load(&device->profile.on))
        dsvk_profile_submit(device, dispatches, dsvk_now_us() - started_us);
    return DSVK_OK;
}

dsvk_status dsvk_cmd_submit(dsvk_cmd *cmd, dsvk_error *err) {
    return dsvk_submit(&(dsvk_replay){cmd, 1}, 1, err);
}

dsvk_status dsvk_cmd_wait(dsvk_cmd *cmd, dsvk_error *err) {
    DSVK_TRY(dsvk_device_status(cmd->device, err));
    if (cmd->ticket == 0)
        return DSVK_OK;
    DSVK_TRY(dsvk_timeline_wait(cmd->device, cmd->ticket, DSVK_WAIT_SECONDS, err));
    cmd->ticket = 0;
    if (cmd->profiled)
        collect(cmd);
    return DSVK_OK;
}

dsvk_status dsvk_cmd_run(dsvk_cmd *cmd, dsvk_error *err) {
    DSVK_TRY(dsvk_cmd_submit(cmd, err));
    return dsvk_cmd_wait(cmd, err);
}

dsvk_status dsvk_compile_now(dsvk_device *device, VkPipeline pipeline, dsvk_error *err) {
    static const uint32_t zeros[DSVK_PUSH_BYTES / 4];
    const dsvk_vk *vk = &device->vk;
    dsvk_cmd *cmd;
    dsvk_status status;
    DSVK_TRY(dsvk_cmd_create(device, &cmd, err));
    vk->vkCmdBindPipeline(cmd->buffer, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    vk->vkCmdPushConstants(cmd->buffer, device->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, sizeof zeros, zeros);
    vk->vkCmdDispatch(cmd->buffer, 0, 0, 0);
    DSVK_GOTO(end(cmd, err));
    DSVK_GOTO(hand_over(device, &(dsvk_replay){cmd, 1}, 1, err)); /* no submit that a profile should count */
    DSVK_GOTO(dsvk_timeline_wait(device, cmd->ticket, DSVK_COMPILE_SECONDS, err)); /* a busy machine's compiler does not hang */
    cmd->ticket = 0;
fail:
    dsvk_cmd_destroy(cmd);
    return status;
}

/* ---- blocking transfers ---- */

#define TRANSFER_BYTES ((uint64_t)4 << 20) /* of staging at a time */

static dsvk_status check_transfer(const char *what, const dsvk_buffer *buffer, uint64_t offset, uint64_t bytes,
                                  dsvk_error *err) {
    if (!buffer->block || offset > buffer->size || bytes > buffer->size - offset)
        return dsvk_fail(err, DSVK_INVALID, "%s: bytes %llu + %llu of a buffer of %llu", what,
                         (unsigned long long)offset, (unsigned long long)bytes, (unsigned long long)buffer->size);
    return DSVK_OK;
}

/* One piece between a device buffer and a host-visible one, run to its end. */
static dsvk_status run_copy(dsvk_cmd *cmd, const dsvk_buffer *from, uint64_t from_offset, const dsvk_buffer *to,
                            uint64_t to_offset, uint64_t bytes, dsvk_error *err) {
    DSVK_TRY(dsvk_cmd_begin(cmd, err));
    dsvk_cmd_copy(cmd, from, from_offset, to, to_offset, bytes);
    return dsvk_cmd_run(cmd, err);
}

/* Through a host-visible buffer, in pieces; exactly one of `in` and `out` is given. */
static dsvk_status transfer(dsvk_device *device, const dsvk_buffer *buffer, uint64_t offset, const uint8_t *in,
                            uint8_t *out, uint64_t bytes, dsvk_error *err) {
    dsvk_status status;
    dsvk_cmd *cmd = NULL;
    dsvk_buffer host;
    const uint64_t piece = bytes < TRANSFER_BYTES ? bytes : TRANSFER_BYTES;
    DSVK_TRY(dsvk_buffer_create(device, in ? DSVK_STAGING : DSVK_READBACK, piece, "transfer", &host, err));
    DSVK_GOTO(dsvk_cmd_create(device, &cmd, err));
    for (uint64_t done = 0; done < bytes;) {
        const uint64_t n = bytes - done < piece ? bytes - done : piece;
        if (in) {
            memcpy(host.host, in + done, n);
            DSVK_GOTO(run_copy(cmd, &host, 0, buffer, offset + done, n, err));
        } else {
            DSVK_GOTO(run_copy(cmd, buffer, offset + done, &host, 0, n, err));
            memcpy(out + done, host.host, n);
        }
        done += n;
    }
    status = DSVK_OK;
fail:
    dsvk_cmd_destroy(cmd);
    dsvk_buffer_destroy(device, &host);
    return status;
}

dsvk_status dsvk_buffer_write(dsvk_device *device, const dsvk_buffer *to, uint64_t offset, const void *data,
                              uint64_t bytes, dsvk_error *err) {
    DSVK_TRY(dsvk_device_status(device, err));
    DSVK_TRY(check_transfer("dsvk_buffer_write", to, offset, bytes, err));
    if (bytes == 0)
        return DSVK_OK;
    if (!to->host)
        return transfer(device, to, offset, data, NULL, bytes, err);
    memcpy((uint8_t *)to->host + offset, data, bytes);
    return DSVK_OK;
}

dsvk_status dsvk_buffer_read(dsvk_device *device, const dsvk_buffer *from, uint64_t offset, void *data, uint64_t bytes,
                             dsvk_error *err) {
    DSVK_TRY(dsvk_device_status(device, err));
    DSVK_TRY(check_transfer("dsvk_buffer_read", from, offset, bytes, err));
    if (bytes == 0)
        return DSVK_OK;
    /* Uncached mappings are read at a few hundred MB/s: a copy to cached memory wins. */
    if (!from->host || (!dsvk_buffer_cached(from) && bytes > 4096))
        return transfer(device, from, offset, NULL, data, bytes, err);
    memcpy(data, (const uint8_t *)from->host + offset, bytes);
    return dsvk_device_status(device, err);
}
