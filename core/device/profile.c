/* Where the time goes, as data: per op and part of the model the calls, device time, bytes and operations between
 * profile_begin and profile_end, and the host's time for recording and submitting. */
#include <string.h>
#include <time.h>

#include "device_internal.h"

double dsvk_now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

void dsvk_profile_submit(dsvk_device *device, uint32_t dispatches, double host_us) {
    dsvk_profile *profile = &device->profile;
    pthread_mutex_lock(&profile->lock);
    if (atomic_load(&profile->on)) {
        profile->submits++;
        profile->dispatches += dispatches;
        profile->host_us += host_us;
    }
    pthread_mutex_unlock(&profile->lock);
}

static bool same_part(const char *a, const char *b) {
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* The op's entry; NULL when memory is out, which loses a line of a report and nothing else. */
static dsvk_profile_op *find_op(dsvk_profile *profile, const char *name, const char *part) {
    for (uint32_t i = 0; i < profile->n_ops; i++)
        if (strcmp(profile->ops[i].name, name) == 0 && same_part(profile->ops[i].part, part))
            return &profile->ops[i];
    if (profile->n_ops == profile->capacity) {
        uint32_t capacity = profile->capacity ? 2 * profile->capacity : 32;
        dsvk_profile_op *ops = dsvk_realloc(profile->ops, capacity * sizeof *ops);
        if (!ops)
            return NULL;
        profile->ops = ops;
        profile->capacity = capacity;
    }
    profile->ops[profile->n_ops] = (dsvk_profile_op){.name = name, .part = part};
    return &profile->ops[profile->n_ops++];
}

void dsvk_profile_add(dsvk_device *device, const char *op, const char *part, uint32_t calls, uint64_t bytes, uint64_t flops,
                      double us) {
    dsvk_profile *profile = &device->profile;
    pthread_mutex_lock(&profile->lock);
    dsvk_profile_op *entry = atomic_load(&profile->on) ? find_op(profile, op, part) : NULL;
    if (entry) {
        entry->calls += calls;
        entry->bytes += bytes;
        entry->flops += flops;
        entry->us += us;
        profile->device_us += us;
    }
    pthread_mutex_unlock(&profile->lock);
}

dsvk_status dsvk_device_profile_begin(dsvk_device *device, dsvk_error *err) {
    DSVK_TRY(dsvk_device_status(device, err));
    dsvk_profile *profile = &device->profile;
    pthread_mutex_lock(&profile->lock);
    const bool was_on = atomic_exchange(&profile->on, true);
    if (!was_on) {
        profile->submits = profile->dispatches = profile->n_ops = 0;
        profile->host_us = profile->device_us = 0;
    }
    pthread_mutex_unlock(&profile->lock);
    return was_on ? dsvk_fail(err, DSVK_STATE, "a profile of this device is running already") : DSVK_OK;
}

static json_t *report(const dsvk_device *device) {
    const dsvk_profile *profile = &device->profile;
    json_t *ops = json_array();
    for (uint32_t i = 0; i < profile->n_ops; i++) {
        const dsvk_profile_op *op = &profile->ops[i];
        json_array_append_new(ops,
                              json_pack("{s:s, s:s?, s:I, s:f, s:I, s:I}", "name", op->name, "part", op->part, "calls",
                                        (json_int_t)op->calls, "us", op->us, "bytes", (json_int_t)op->bytes, "flops",
                                        (json_int_t)op->flops));
    }
    return json_pack("{s:b, s:I, s:I, s:f, s:f, s:o}", "timestamps", (int)(device->physical.timestamp_bits > 0),
                     "submits", (json_int_t)profile->submits, "dispatches", (json_int_t)profile->dispatches, "host_us",
                     profile->host_us, "device_us", profile->device_us, "ops", ops);
}

dsvk_status dsvk_device_profile_end(dsvk_device *device, char **json, dsvk_error *err) {
    DSVK_TRY(dsvk_device_status(device, err));
    if (!json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_device_profile_end: json is NULL");
    dsvk_profile *profile = &device->profile;
    pthread_mutex_lock(&profile->lock);
    bool was_on = atomic_exchange(&profile->on, false);
    json_t *root = was_on ? report(device) : NULL;
    pthread_mutex_unlock(&profile->lock);
    if (!was_on)
        return dsvk_fail(err, DSVK_STATE, "no profile of this device is running");
    return dsvk_json_text(root, json, err);
}
