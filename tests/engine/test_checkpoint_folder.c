/* Folders of checkpoints: the rows M of the fault list that concern more than one file, or what a file is besides its bytes.
 *
 * Edge list: one shard and several, links in and out of the folder, what is no regular file, files that change while open, files of
 * other formats, a folder that cannot be written, memory failing at every allocation. After every refusal a good checkpoint still opens
 * in the same process. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness_checkpoint.h"

/* Two shards, a in the first and b in the second, and this index. */
static void put_shards(const char *index) {
    fresh_folder();
    put_container(in("bad/s1.safetensors"), "{\"the.a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3);
    put_container(in("bad/s2.safetensors"), "{\"the.b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                                            "\"the.c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", 3);
    put_text(in("bad/model.safetensors.index.json"), index);
}

static void test_M16_shards(void) {
    put_shards(
        "{\"metadata\":{\"total_size\":6},\"weight_map\":{\"the.b\":\"s2.safetensors\",\"the.a\":\"s1.safetensors\"}}");
    dsvk_checkpoint *ck = OPENS(in("bad"));
    uint8_t bytes[2] = { 9, 9 };
    const dsvk_file_tensor *b = ck ? dsvk_checkpoint_find(ck, "the.b") : NULL;
    CHECK(b && dsvk_checkpoint_count(ck) == 3 && dsvk_checkpoint_shards(ck) == 2 && dsvk_checkpoint_unlisted(ck) == 1 &&
          dsvk_checkpoint_bytes(ck) == 6 && b->shard == 1, "two shards");
    CHECK(b && dsvk_checkpoint_read(ck, b, 0, bytes, 2, NULL) == DSVK_OK && bytes[0] == 0 && bytes[1] == 1,
          "from the second");
    dsvk_checkpoint_close(ck);

    put_shards("{\"weight_map\":{\"the.a\":\"s1.safetensors\",\"the.x\":\"s9.safetensors\"}}");
    REFUSES_FOLDER(DSVK_IO, "s9.safetensors|the.x|No such file");
    put_shards("{\"weight_map\":{\"the.a\":\"s1.safetensors\",\"the.x\":\"s2.safetensors\"}}");
    REFUSES_FOLDER(DSVK_FORMAT, "the.x|s2.safetensors|does not have it");
    put_shards("{\"weight_map\":{\"the.b\":\"s1.safetensors\",\"the.c\":\"s2.safetensors\"}}");
    REFUSES_FOLDER(DSVK_FORMAT, "the.b|listed in shard s1.safetensors|in shard s2.safetensors");
    put_shards("{\"weight_map\":{\"the.a\":\"s1.safetensors\",\"the.b\":\"s2.safetensors\"}}");
    put_container(in("bad/s2.safetensors"), "{\"the.a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3);
    REFUSES_FOLDER(DSVK_FORMAT, "the.a|two shards|s1.safetensors|s2.safetensors");
    put_shards("{\"weight_map\":{\"the.a\":\"s1.safetensors\",\"the.b\":\"s2.safetensors\"}}");
    put_text(in("bad/s2.safetensors"), "");
    REFUSES_FOLDER(DSVK_FORMAT, "s2.safetensors|at least 8 bytes|0");
    put_shards("{\"weight_map\":[]}");
    REFUSES_FOLDER(DSVK_FORMAT, "index.json|weight_map");
    put_shards("{\"weight_map\":{}}");
    REFUSES_FOLDER(DSVK_FORMAT, "index.json|weight_map names no tensor");
    put_shards("[]");
    REFUSES_FOLDER(DSVK_FORMAT, "index.json|weight_map");
    put_shards("{\"weight_map\":{\"the.a\":");
    REFUSES_FOLDER(DSVK_FORMAT, "index.json|offset");
    fresh_folder();
    REFUSES_FOLDER(DSVK_IO, "neither model.safetensors nor model.safetensors.index.json");
}

/* A good index with many shards keeps as many files open, and one more than the limit is refused before any is opened.
 */
static void test_M16_many_shards(void) {
    for (unsigned n = 64; n <= 513; n += 449) {
        struct text index = { 0 };
        fresh_folder();
        add(&index, "{\"weight_map\":{");
        for (unsigned i = 0; i < n; i++) {
            char name[32], header[100];
            snprintf(name, sizeof name, "bad/s%u", i);
            snprintf(header, sizeof header, "{\"t%u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", i);
            if (n == 64)
                put_container(in(name), header, 1);
            add(&index, "%s\"t%u\":\"s%u\"", i ? "," : "", i, i);
        }
        add(&index, "}}");
        put_text(in("bad/model.safetensors.index.json"), index.bytes);
        if (n == 64) {
            dsvk_checkpoint *ck = OPENS(in("bad"));
            CHECK(ck && dsvk_checkpoint_shards(ck) == 64 && dsvk_checkpoint_find(ck, "t63"), "64 shards");
            dsvk_checkpoint_close(ck);
        } else {
            REFUSES_FOLDER(DSVK_LIMIT, "more than 512 shards");
        }
        drop(&index);
    }
}

static void test_M17_shard_names(void) {
    static const char *const names[] = { "../good/model.safetensors",
                                         "/etc/passwd",
                                         "sub/s",
                                         "a\\\\b",
                                         "..",
                                         ".",
                                         "",
                                         "C:s",
                                         "x..y",
                                         "a\\u0000b",
                                         "a\\nb",
                                         "a\\u002fb" };
    struct text index = { 0 };
    for (size_t i = 0; i < DSVK_COUNT(names); i++) {
        fresh_folder();
        index.n = 0;
        add(&index, "{\"weight_map\":{\"the.a\":\"%s\"}}", names[i]);
        put_text(in("bad/model.safetensors.index.json"), index.bytes);
        REFUSES_FOLDER(DSVK_FORMAT, i == 9 ? "index.json|NUL" : "index.json|shard name");
    }
    index.n = 0;
    add(&index, "{\"weight_map\":{\"the.a\":\"%0300d\"}}", 1);
    put_text(in("bad/model.safetensors.index.json"), index.bytes);
    REFUSES_FOLDER(DSVK_FORMAT, "index.json|shard name");
    put_text(in("bad/model.safetensors.index.json"), "{\"weight_map\":{\"the.a\":7}}");
    REFUSES_FOLDER(DSVK_FORMAT, "index.json|shard name 7");
    drop(&index);
}

static void refuses_quickly(dsvk_status wanted, const char *words, int line) {
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    refuses_folder(wanted, words, __FILE__, line);
    clock_gettime(CLOCK_MONOTONIC, &after);
    double ms = (double)(after.tv_sec - before.tv_sec) * 1e3 + (double)(after.tv_nsec - before.tv_nsec) / 1e6;
    check_that(ms < 100, __FILE__, line, "took %.0f ms", ms);
}

static void test_M18_not_regular_files(void) {
    dsvk_checkpoint *ck;
    dsvk_error err;
    static const char *const files[] = { "bad/model.safetensors", "bad/model.safetensors.index.json", "bad" };
    for (size_t i = 0; i < DSVK_COUNT(files); i++) {
        bool folder = i == 2;
        fresh_folder();
        if (folder)
            remove_tree(in("bad"));
        mkfifo(in(files[i]), 0600);
        refuses_quickly(DSVK_IO, "FIFO", __LINE__);
        remove_tree(in(files[i]));
        if (symlink("/dev/zero", in(files[i])) == 0)
            refuses_quickly(DSVK_IO, "device", __LINE__);
        remove_tree(in(files[i]));
        const char *loop = strrchr(files[i], '/') ? strrchr(files[i], '/') + 1 : files[i];
        if (symlink(loop, in(files[i])) == 0)
            refuses_quickly(DSVK_IO, "cannot be opened", __LINE__);
        remove_tree(in(files[i]));
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        snprintf(address.sun_path, sizeof address.sun_path, "%s", in(files[i]));
        if (CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "socket: %s", strerror(errno)))
            refuses_quickly(DSVK_IO, "cannot be opened", __LINE__);
        close(fd);
        if (folder)
            remove_tree(in("bad"));
    }
    fresh_folder();
    make_folder(in("bad/model.safetensors"));
    refuses_quickly(DSVK_IO, "directory", __LINE__);
    fresh_folder();
    put_text(in("bad/model.safetensors.index.json"), "{\"weight_map\":{\"the.a\":\"pipe\"}}");
    mkfifo(in("bad/pipe"), 0600);
    refuses_quickly(DSVK_IO, "the.a|FIFO", __LINE__);
    CHECK_REFUSED(dsvk_checkpoint_open(&ck, in("absent"), &err), DSVK_IO, &err, "absent|No such file");
    CHECK_REFUSED(dsvk_checkpoint_open(&ck, in("good/model.safetensors"), &err), DSVK_FORMAT, &err, "is a file|folder");
    CHECK_REFUSED(dsvk_checkpoint_open(&ck, in("good/model.safetensors/x"), &err), DSVK_IO, &err, "Not a directory");
}

static void link_to(const char *target, const char *path) {
    CHECK(symlink(target, path) == 0, "%s: %s", path, strerror(errno));
}

static void test_M19_links(void) {
    static const char index[] = "{\"weight_map\":{\"the.a\":\"s1.safetensors\",\"the.b\":\"s2.safetensors\"}}";
    remove_tree(in("link"));
    link_to(in("good"), in("link")); /* the caller named it */
    dsvk_checkpoint_close(OPENS(in("link")));
    fresh_folder();
    link_to(in("good/model.safetensors"), in("bad/model.safetensors"));
    dsvk_checkpoint_close(OPENS(in("bad")));

    put_shards(index); /* inside the folder */
    rename(in("bad/s2.safetensors"), in("bad/stored"));
    link_to("stored", in("bad/s2.safetensors"));
    dsvk_checkpoint_close(OPENS(in("bad")));
    put_shards(index); /* out of it */
    rename(in("bad/s2.safetensors"), in("outside"));
    link_to(in("outside"), in("bad/s2.safetensors"));
    REFUSES_FOLDER(DSVK_FORMAT, "s2.safetensors|leaves the folder");
    remove_tree(in("bad-sibling"));
    make_folder(in("bad-sibling")); /* a name that begins with the folder's own */
    rename(in("outside"), in("bad-sibling/s2"));
    remove_tree(in("bad/s2.safetensors"));
    link_to("../bad-sibling/s2", in("bad/s2.safetensors"));
    REFUSES_FOLDER(DSVK_FORMAT, "leaves the folder");
    put_shards(index);
    remove_tree(in("bad/s2.safetensors"));
    link_to("s2.safetensors", in("bad/s2.safetensors"));
    REFUSES_FOLDER(DSVK_IO, "the.b|s2.safetensors");

    remove_tree(
        in("cache")); /* the layout of a download cache: <model>/snapshots/<revision>/file -> ../../blobs/hash */
    make_folder(in("cache"));
    make_folder(in("cache/blobs"));
    make_folder(in("cache/snapshots"));
    put_shards(index);
    rename(in("bad"), in("cache/snapshots/r1"));
    rename(in("cache/snapshots/r1/s2.safetensors"), in("cache/blobs/b2"));
    link_to("../../blobs/b2", in("cache/snapshots/r1/s2.safetensors"));
    dsvk_checkpoint_close(OPENS(in("cache/snapshots/r1")));
    fresh_folder();
}

static void test_M20_changed_while_loading(void) {
    for (int change = 0; change < 6; change++) {
        dsvk_error err;
        char bytes[24];
        remove_tree(in("moving"));
        put_good(in("moving"));
        char path[512];
        snprintf(path, sizeof path, "%s", in("moving/model.safetensors"));
        dsvk_checkpoint *ck = OPENS(in("moving"));
        if (!ck)
            return;
        struct stat st;
        stat(path, &st);
        const dsvk_file_tensor *t = dsvk_checkpoint_find(ck, "norm.weight");
        CHECK(dsvk_checkpoint_unchanged(ck, &err) == DSVK_OK, "nothing happened yet");
        switch (change) {
        case 0: CHECK(truncate(path, st.st_size - 2) == 0, "shrink"); break;
        case 1: CHECK(truncate(path, st.st_size + 2) == 0, "grow"); break;
        case 2: { /* same size, other time */
            struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = st.st_mtime - 10 } };
            CHECK(utimensat(AT_FDCWD, path, times, 0) == 0, "rewrite");
            break;
        }
        case 3: { /* another file under the name, same size and time */
            put_container(in("other"), good_header, 41);
            struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, st.st_mtim };
            utimensat(AT_FDCWD, in("other"), times, 0);
            CHECK(rename(in("other"), path) == 0, "replace");
            break;
        }
        case 4: { /* written again within the same second */
            struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, st.st_mtim };
            times[1].tv_nsec = (times[1].tv_nsec + 500000000) % 1000000000;
            CHECK(utimensat(AT_FDCWD, path, times, 0) == 0, "rewrite");
            break;
        }
        default: unlink(path);
        }
        if (change == 0)
            CHECK_REFUSED(dsvk_checkpoint_read(ck, t, 0, bytes, 4, &err), DSVK_IO, &err, "changed while loading");
        CHECK_REFUSED(dsvk_checkpoint_unchanged(ck, &err), DSVK_IO, &err, "model.safetensors|changed while loading");
        dsvk_checkpoint_close(ck);
        CHECK_GOOD();
    }
}

static void test_M27_other_files(void) {
    char tar[512] = "model.bin";
    memcpy(tar + 257, "ustar", 5);
    static const struct {
        const char *bytes;
        size_t n;
        const char *words;
    } rows[] = {
        { "\x80\x02}q\x00(X\x05", 9, "pickle" },
        { "\x80\x04\x95\x10\x00\x00\x00", 8, "pickle" },
        { "PK\3\4\x14\0\0\0\0\0archive/data.pkl", 26, "zip" },
        { "\x1f\x8b\x08\0\0\0\0\0\0\0", 10, "gzip" },
        { "<!DOCTYPE html>\n<html><head>", 28, "HTML" },
        { "\r\n<html>404</html>", 18, "HTML" },
        { "<?xml version=\"1.0\"?><Error>", 28, "XML" },
        { "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", 63, "Git LFS" },
        { "{\"error\":\"Invalid credentials\"}", 31, "JSON" },
        { "Entry not found", 15, "plain text" },
        { "GGUF\3\0\0\0\0\0\0\0", 12, "GGUF" },
    };
    for (size_t i = 0; i < DSVK_COUNT(rows); i++) {
        REFUSES_BYTES(rows[i].bytes, rows[i].n, DSVK_FORMAT, rows[i].words);
        if (i == 8)
            continue; /* JSON text is what an index is */
        fresh_folder();
        put_file(in("bad/model.safetensors.index.json"), rows[i].bytes, rows[i].n);
        REFUSES_FOLDER(DSVK_FORMAT, i == 0 || i == 1 || i == 9 ? "index.json" : rows[i].words);
        remove_tree(in("bad"));
        put_file(in("bad"), rows[i].bytes, rows[i].n); /* the model path itself */
        REFUSES_FOLDER(DSVK_FORMAT, i == 9 ? "is a file" : rows[i].words);
        remove_tree(in("bad"));
    }
    REFUSES_BYTES(tar, sizeof tar, DSVK_FORMAT, "tar");
}

static unsigned count_files(const char *path) {
    unsigned n = 0;
    DIR *folder = opendir(path);
    while (folder && readdir(folder))
        n++;
    if (folder)
        closedir(folder);
    return n;
}

static void test_M28_read_only_and_two_processes(void) {
    CHECK_GOOD();
    remove_tree(in("fixed"));
    put_good(in("fixed"));
    chmod(in("fixed/model.safetensors"), 0444);
    chmod(in("fixed"), 0555);
    unsigned files = count_files(in("fixed"));
    struct stat before, after;
    stat(in("fixed"), &before);
    pid_t child = fork();
    dsvk_checkpoint *ck = NULL;
    dsvk_status status = dsvk_checkpoint_open(&ck, in("fixed"), NULL);
    if (child == 0)
        _exit(status);
    int end = -1;
    waitpid(child, &end, 0);
    CHECK(status == DSVK_OK && end == 0, "both processes open it");
    dsvk_checkpoint_close(ck);
    stat(in("fixed"), &after);
    CHECK(count_files(in("fixed")) == files && before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
          before.st_mtim.tv_nsec == after.st_mtim.tv_nsec, "something was written beside the model");
    chmod(in("fixed"), 0755);
}

static void test_C11_index_limit(void) {
    fresh_folder();
    put_sparse(in("bad/model.safetensors.index.json"), "{", 1, (256u << 20) + 1);
    REFUSES_FOLDER(DSVK_LIMIT, "index.json|268435457|268435456");
}

static void test_A06_memory_fails(void) {
    for (int sharded = 0; sharded < 2; sharded++) {
        dsvk_status status = DSVK_NOMEM;
        dsvk_error err;
        int64_t live = dsvk_alloc_live(), n = 0;
        put_shards("{\"weight_map\":{\"the.a\":\"s1.safetensors\",\"the.b\":\"s2.safetensors\",\"the.c\":\"s2."
                   "safetensors\"}}");
        CHECK_GOOD();
        for (; status != DSVK_OK && n < 200; n++) {
            dsvk_checkpoint *ck;
            dsvk_alloc_fail_after(n);
            status = dsvk_checkpoint_open(&ck, sharded ? in("bad") : in("good"), &err);
            dsvk_alloc_fail_after(-1);
            CHECK(status == DSVK_OK || status == DSVK_NOMEM, "allocation %lld: %s", (long long)n, err.message);
            dsvk_checkpoint_close(ck);
            CHECK(dsvk_alloc_live() == live, "allocation %lld leaks", (long long)n);
        }
        CHECK(status == DSVK_OK && n > 5, "%lld allocations", (long long)n);
    }
}

/* No descriptor is left behind by any of the above. */
static void test_descriptors(void) {
    unsigned before = count_files("/proc/self/fd");
    test_M16_shards();
    test_M18_not_regular_files();
    test_A06_memory_fails();
    CHECK(count_files("/proc/self/fd") == before, "%u descriptors, %u before", count_files("/proc/self/fd"), before);
}

static const struct test tests[] = {
    TEST(test_M16_shards),
    TEST(test_M16_many_shards),
    TEST(test_M17_shard_names),
    TEST(test_M18_not_regular_files),
    TEST(test_M19_links),
    TEST(test_M20_changed_while_loading),
    TEST(test_M27_other_files),
    TEST(test_M28_read_only_and_two_processes),
    TEST(test_C11_index_limit),
    TEST(test_A06_memory_fails),
    TEST(test_descriptors),
};

int main(int argc, char **argv) { return run_tests(tests, DSVK_COUNT(tests), argc, argv); }
