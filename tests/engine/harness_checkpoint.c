/* Files and folders of checkpoints, good and bad. */
#include <stdio.h>
#include <string.h>

#include "harness_checkpoint.h"

struct text container(const char *header, size_t header_size, size_t data_size) {
    struct text out = { 0 };
    uint64_t length = header_size;
    for (int i = 0; i < 8; i++)
        add_bytes(&out, &(char) { (char)(length >> 8 * i) }, 1);
    add_bytes(&out, header, header_size);
    for (size_t i = 0; i < data_size; i++)
        add_bytes(&out, &(char) { (char)i }, 1);
    return out;
}

void put_container(const char *path, const char *header, size_t data_size) {
    struct text file = container(header, strlen(header), data_size);
    put_file(path, file.bytes, file.n);
    drop(&file);
}

const char good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"embed.weight\":{\"dtype\":\"BF16\",\"shape\":[3,4],\"data_offsets\":[0,24]},"
    "\"layers.0.attn.wq_a.weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,13],\"data_offsets\":[24,37]},"
    "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[37,37]},"
    "\"norm.weight\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[37,41]}}";

void put_good(const char *folder) {
    char path[600];
    make_folder(folder);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    put_container(path, good_header, 41);
}

void check_good(const char *file, int line) {
    static bool made;
    dsvk_checkpoint *ck;
    dsvk_error err = { 0 };
    if (!made)
        put_good(in("good"));
    made = true;
    dsvk_status status = dsvk_checkpoint_open(&ck, in("good"), &err);
    check_that(status == DSVK_OK, file, line, "the good checkpoint is refused after a bad one: %s", err.message);
    dsvk_checkpoint_close(ck);
}

void fresh_folder(void) {
    remove_tree(in("bad"));
    make_folder(in("bad"));
}

void refuses_folder(dsvk_status wanted, const char *words, const char *file, int line) {
    dsvk_checkpoint *ck = (dsvk_checkpoint *)&words;
    dsvk_error err = { 0 };
    int64_t live = dsvk_alloc_live();
    dsvk_status status = dsvk_checkpoint_open(&ck, in("bad"), &err);
    check_refused(status, wanted, &err, words, file, line);
    check_that(status == DSVK_OK || ck == NULL, file, line, "a handle after a failure");
    if (status == DSVK_OK)
        dsvk_checkpoint_close(ck);
    check_that(dsvk_alloc_live() == live, file, line, "a failed open leaks");
    check_good(file, line);
}

void refuses_bytes(const void *bytes, size_t n, dsvk_status wanted, const char *words, const char *file, int line) {
    fresh_folder();
    put_file(in("bad/model.safetensors"), bytes, n);
    refuses_folder(wanted, words, file, line);
}

void refuses_header(const char *header, size_t header_size, size_t data_size, dsvk_status wanted, const char *words, const char *file,
                    int line) {
    struct text made = container(header, header_size, data_size);
    refuses_bytes(made.bytes, made.n, wanted, words, file, line);
    drop(&made);
}

dsvk_checkpoint *opens_at(const char *folder, const char *file, int line) {
    dsvk_checkpoint *ck = NULL;
    dsvk_error err = { 0 };
    dsvk_status status = dsvk_checkpoint_open(&ck, folder, &err);
    check_that(status == DSVK_OK, file, line, "refused: %s", err.message);
    return status == DSVK_OK ? ck : NULL;
}
