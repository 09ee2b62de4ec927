/* The pipeline cache on disk, and what else is remembered of a driver. Drivers trust what they are given and have crashed on it, so our own header and hash
 * decide before the driver sees a byte: the file must come from this device, driver, dsvk version, set of kernels and
 * word size, and be whole (D15). It is written under another name and renamed, so that readers see old or new and never
 * a part (D16). A cache is disposable: whatever is wrong, there is none, and nobody hears of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device_internal.h"

#define FORMAT 1u
#define MOST_BYTES ((size_t)256 << 20)

typedef struct header {
    char magic[8];   /* "dsvkpipe" */
    uint32_t format; /* FORMAT; differs when read in the other byte order */
    uint32_t pointer_bytes;
    char version[16]; /* of dsvk */
    uint8_t device_uuid[16];
    uint8_t driver_uuid[16];
    uint8_t cache_uuid[16]; /* pipelineCacheUUID */
    uint32_t vendor, device, driver_version, api_version;
    uint64_t kernels; /* hash of all SPIR-V */
    uint64_t payload_bytes;
    uint64_t payload_hash;
} header;
_Static_assert(sizeof(header) == 120, "no padding, so that the bytes can be compared");

/* FNV-1a over 64-bit words, the tail zero-extended; `bytes` goes in too. */
static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes) {
    const uint8_t *at = data;
    uint64_t word;
    hash = (hash ^ bytes) * UINT64_C(0x100000001b3);
    for (; bytes >= 8; at += 8, bytes -= 8) {
        memcpy(&word, at, 8);
        hash = (hash ^ word) * UINT64_C(0x100000001b3);
        hash ^= hash >> 29; /* the product alone never carries downwards */
    }
    word = 0;
    memcpy(&word, at, bytes);
    hash = (hash ^ word) * UINT64_C(0x100000001b3);
    return hash ^ hash >> 32;
}

#define HASH_START UINT64_C(0xcbf29ce484222325)

static uint64_t hash_kernels(void) {
    uint64_t hash = HASH_START;
    for (const dsvk_shader *shader = dsvk_shaders; shader->name; shader++)
        hash = hash_bytes(hash_bytes(hash, shader->name, strlen(shader->name)), shader->words, shader->bytes);
    return hash;
}

static header make_header(const dsvk_device *device, const void *payload, size_t bytes) {
    const dsvk_physical *p = &device->physical;
    header h = {
        .magic = {'d', 's', 'v', 'k', 'p', 'i', 'p', 'e'},
        .format = FORMAT,
        .pointer_bytes = sizeof(void *),
        .vendor = p->properties.vendorID,
        .device = p->properties.deviceID,
        .driver_version = p->properties.driverVersion,
        .api_version = p->properties.apiVersion,
        .kernels = hash_kernels(),
        .payload_bytes = bytes,
        .payload_hash = hash_bytes(HASH_START, payload, bytes),
    };
    snprintf(h.version, sizeof h.version, "%s", dsvk_version());
    memcpy(h.device_uuid, p->v11.deviceUUID, sizeof h.device_uuid);
    memcpy(h.driver_uuid, p->v11.driverUUID, sizeof h.driver_uuid);
    memcpy(h.cache_uuid, p->properties.pipelineCacheUUID, sizeof h.cache_uuid);
    return h;
}

/* One file per device and driver: two of them in one machine do not overwrite each other. */
bool dsvk_cache_path(const dsvk_device *device, const char *file, char *out, size_t out_size) {
    const dsvk_physical *p = &device->physical;
    uint64_t id = hash_bytes(HASH_START, p->v11.deviceUUID, VK_UUID_SIZE);
    id = hash_bytes(id, p->v11.driverUUID, VK_UUID_SIZE);
    id = hash_bytes(id, p->properties.deviceName, strlen(p->properties.deviceName));
    char name[64];
    snprintf(name, sizeof name, "%s-%016llx.cache", file, (unsigned long long)id);
    return device->cache_dir && device->cache_dir[0] && dsvk_path_join(out, out_size, device->cache_dir, name);
}

/* ---- reading ---- */

static bool read_all(int fd, void *out, size_t bytes) {
    for (uint8_t *at = out; bytes > 0;) {
        ssize_t n = read(fd, at, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        bytes -= (size_t)n;
    }
    return true;
}

/* The payload of an open file, or NULL. */
static void *read_payload(const dsvk_device *device, int fd, size_t *bytes) {
    struct stat info;
    header found;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_uid != geteuid() ||
        (uint64_t)info.st_size < sizeof found || (uint64_t)info.st_size > MOST_BYTES ||
        !read_all(fd, &found, sizeof found))
        return NULL;
    *bytes = (size_t)info.st_size - sizeof found;
    void *payload = dsvk_alloc(*bytes);
    if (payload && read_all(fd, payload, *bytes)) {
        const header expected = make_header(device, payload, *bytes);
        if (memcmp(&found, &expected, sizeof found) == 0)
            return payload;
    }
    dsvk_free(payload);
    return NULL;
}

void dsvk_cache_read(const dsvk_device *device, const char *file, void **payload, size_t *bytes) {
    char path[4096];
    *payload = NULL;
    if (dsvk_cache_path(device, file, path, sizeof path)) {
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0) {
            *payload = read_payload(device, fd, bytes);
            close(fd);
            if (!*payload)
                dsvk_log(device, "%s is damaged or was written by another version or driver: it is not used", path);
        }
    }
    if (!*payload)
        *bytes = 0;
}

/* ---- writing ---- */

/* The folder and the folders above it, for this user only. */
static bool make_folders(const char *folder) {
    char path[4096];
    if (strlen(folder) >= sizeof path)
        return false;
    strcpy(path, folder);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return false;
        *slash = '/';
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static bool write_all(int fd, const void *data, size_t bytes) {
    for (const uint8_t *at = data; bytes > 0;) {
        ssize_t n = write(fd, at, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        bytes -= (size_t)n;
    }
    return true;
}

void dsvk_cache_write(const dsvk_device *device, const char *file, const void *payload, size_t bytes) {
    char path[4096], temporary[4200];
    if (bytes > MOST_BYTES - sizeof(header) || !dsvk_cache_path(device, file, path, sizeof path))
        return;
    errno = 0;
    /* Unique among processes and among the devices of this one. */
    snprintf(temporary, sizeof temporary, "%s.%ld.%llx", path, (long)getpid(), (unsigned long long)(uintptr_t)device);
    bool written = false;
    int fd = make_folders(device->cache_dir) ? open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    if (fd >= 0) {
        const header h = make_header(device, payload, bytes);
        written = write_all(fd, &h, sizeof h) && write_all(fd, payload, bytes);
        written = close(fd) == 0 && written && rename(temporary, path) == 0;
    }
    if (!written)
        dsvk_log(device, "%s cannot be written: %s", path, strerror(errno));
    if (fd >= 0 && !written)
        unlink(temporary);
}
