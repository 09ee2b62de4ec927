/* A checkpoint: a folder with model.safetensors, or with model.safetensors.index.json and the shards it names. Opening
 * reads the headers only and proves the layout: every tensor's bytes lie inside its file, match its shape and type, and
 * together cover the file without gap or overlap. Names are those of spec 2.2 whichever spelling the file uses (2.4).
 * No alignment is assumed anywhere. Immutable once open, so reading from several threads is safe. */
#ifndef DSVK_SAFETENSORS_H
#define DSVK_SAFETENSORS_H

#include "common.h"

#define DSVK_MAX_RANK 8
#define DSVK_MAX_TENSORS 1000000u
#define DSVK_MAX_TENSOR_NAME 1024u       /* bytes */
#define DSVK_MAX_HEADER 100000000u       /* bytes of one safetensors header */

typedef struct dsvk_file_tensor {
    const char *name;  /* native spelling, owned by the checkpoint */
    dsvk_dtype dtype;
    uint32_t rank;
    uint64_t shape[DSVK_MAX_RANK]; /* row-major, shape[0] outermost; as in the file: I8 FP4 counts bytes, F4 elements */
    uint32_t shard;                /* which file */
    uint64_t begin, end;           /* byte range in that file */
    const void *memory;            /* its bytes when they are in no file but with the caller (tensor.c), else NULL */
} dsvk_file_tensor;

typedef struct dsvk_checkpoint dsvk_checkpoint;

dsvk_status dsvk_checkpoint_open(dsvk_checkpoint **checkpoint, const char *folder, dsvk_error *err);
void dsvk_checkpoint_close(dsvk_checkpoint *checkpoint); /* accepts NULL */

size_t dsvk_checkpoint_count(const dsvk_checkpoint *checkpoint);
/* Tensor i, 0 <= i < count, in the order of their bytes: by shard, then by begin. */
const dsvk_file_tensor *dsvk_checkpoint_tensor(const dsvk_checkpoint *checkpoint, size_t i);
/* By native name; NULL when there is none. */
const dsvk_file_tensor *dsvk_checkpoint_find(const dsvk_checkpoint *checkpoint, const char *name);
/* i such that dsvk_checkpoint_tensor(checkpoint, i) == tensor: for the caller's own bookkeeping arrays. */
size_t dsvk_checkpoint_position(const dsvk_checkpoint *checkpoint, const dsvk_file_tensor *tensor);
uint64_t dsvk_checkpoint_bytes(const dsvk_checkpoint *checkpoint);  /* of all tensors */
uint32_t dsvk_checkpoint_shards(const dsvk_checkpoint *checkpoint); /* number of files */
const char *dsvk_checkpoint_shard_path(const dsvk_checkpoint *checkpoint, uint32_t shard);
/* Tensors found in a shard that the index does not list; they are in the table like the others. */
size_t dsvk_checkpoint_unlisted(const dsvk_checkpoint *checkpoint);

/* Bytes [offset, offset + n) of the tensor, which must lie inside it, to `out`. From any thread. */
dsvk_status dsvk_checkpoint_read(const dsvk_checkpoint *checkpoint, const dsvk_file_tensor *tensor, uint64_t offset,
                                 void *out, size_t n, dsvk_error *err);
/* Called at the end of loading: IO "changed while loading" when any file differs from what it was at open (M20). */
dsvk_status dsvk_checkpoint_unchanged(const dsvk_checkpoint *checkpoint, dsvk_error *err);

/* "layers.3.self_attn.q_a_proj.weight" -> "layers.3.attn.wq_a.weight": the native spelling of spec 2.2 for `name` [n]
 * (2.4, A.1). Unknown names come back as they are, without a leading "model.". False when `out` is too small. */
bool dsvk_tensor_native_name(char *out, size_t out_size, const char *name, size_t n);
/* "[2048, 128] F8_E8M0" into out; returns out. */
const char *dsvk_file_tensor_describe(char *out, size_t out_size, const dsvk_file_tensor *tensor);

#endif
