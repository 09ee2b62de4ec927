/* Files, read and never mapped: a file that shrinks under us is an error, not a signal (faults M18-M22). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

static const char *kind_name(mode_t mode) {
    return S_ISDIR(mode) ? "a directory" : S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket" : "a device";
}

dsvk_status dsvk_file_open(dsvk_file *file, const char *path, dsvk_error *err) {
    memset(file, 0, sizeof *file);
    file->fd = -1;
    /* O_NONBLOCK: opening a FIFO or a device returns at once; it means nothing for regular files. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return dsvk_fail(err, DSVK_IO, "%s: cannot be opened: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0) {
        dsvk_status status = dsvk_fail(err, DSVK_IO, "%s: cannot be examined: %s", path, strerror(errno));
        close(fd);
        return status;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return dsvk_fail(err, DSVK_IO, "%s: is %s, not a regular file", path, kind_name(st.st_mode));
    }
    file->path = dsvk_strdup_n(path, strlen(path));
    if (!file->path) {
        close(fd);
        return dsvk_fail_nomem(err, strlen(path) + 1);
    }
    file->fd = fd;
    file->size = (uint64_t)st.st_size;
    file->inode = (uint64_t)st.st_ino;
    file->device = (uint64_t)st.st_dev;
    file->mtime_s = st.st_mtim.tv_sec;
    file->mtime_ns = st.st_mtim.tv_nsec;
    return DSVK_OK;
}

void dsvk_file_close(dsvk_file *file) {
    if (file->path && file->fd >= 0)
        close(file->fd);
    dsvk_free(file->path);
    memset(file, 0, sizeof *file);
    file->fd = -1;
}

dsvk_status dsvk_file_read(const dsvk_file *file, uint64_t offset, void *out, size_t n, dsvk_error *err) {
    char *to = out;
    while (n > 0) {
        ssize_t got = pread(file->fd, to, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return dsvk_fail(err, DSVK_IO, "%s: reading at offset %" PRIu64 " failed: %s", file->path, offset,
                             strerror(errno));
        if (got == 0)
            return dsvk_fail(err, DSVK_IO, "%s: changed while loading: it ends at offset %" PRIu64 ", %" PRIu64
                             " bytes were there when it was opened", file->path, offset, file->size);
        to += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return DSVK_OK;
}

dsvk_status dsvk_file_unchanged(const dsvk_file *file, dsvk_error *err) {
    struct stat st, named;
    if (fstat(file->fd, &st) != 0 || stat(file->path, &named) != 0)
        return dsvk_fail(err, DSVK_IO, "%s: changed while loading: %s", file->path, strerror(errno));
    if ((uint64_t)st.st_size != file->size)
        return dsvk_fail(err, DSVK_IO, "%s: changed while loading: %" PRIu64 " bytes at first, now %" PRIu64, file->path,
                         file->size, (uint64_t)st.st_size);
    if (st.st_mtim.tv_sec != file->mtime_s || st.st_mtim.tv_nsec != file->mtime_ns)
        return dsvk_fail(err, DSVK_IO, "%s: changed while loading: it was written to", file->path);
    if ((uint64_t)named.st_ino != file->inode || (uint64_t)named.st_dev != file->device)
        return dsvk_fail(err, DSVK_IO, "%s: changed while loading: it was replaced by another file", file->path);
    return DSVK_OK;
}

dsvk_status dsvk_file_slurp(const char *path, uint64_t limit, char **text, size_t *n, dsvk_error *err) {
    dsvk_file file;
    char *data = NULL;
    dsvk_status status = dsvk_file_open(&file, path, err);
    if (status != DSVK_OK)
        return status;
    if (file.size > limit) {
        status = dsvk_fail(err, DSVK_LIMIT, "%s: %" PRIu64 " bytes, the limit is %" PRIu64, path, file.size, limit);
        goto fail;
    }
    data = dsvk_alloc((size_t)file.size + 1);
    if (!data) {
        status = dsvk_fail_nomem(err, file.size + 1);
        goto fail;
    }
    DSVK_GOTO(dsvk_file_read(&file, 0, data, (size_t)file.size, err));
    DSVK_GOTO(dsvk_file_unchanged(&file, err));
    data[file.size] = 0;
    *text = data;
    *n = (size_t)file.size;
    data = NULL;
fail:
    dsvk_free(data);
    dsvk_file_close(&file);
    return status;
}

bool dsvk_path_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool dsvk_path_join(char *out, size_t out_size, const char *folder, const char *name) {
    int n = snprintf(out, out_size, "%s/%s", folder, name);
    return n >= 0 && (size_t)n < out_size;
}

void dsvk_folder_each(const char *path, void (*see)(const char *name, void *context), void *context) {
    DIR *folder = opendir(path);
    if (!folder)
        return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        see(entry->d_name, context);
    closedir(folder);
}
