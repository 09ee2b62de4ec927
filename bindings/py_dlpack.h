/* DLPack's interface between array libraries (dmlc.github.io/dlpack, versions before 1 and 1.x), as far as it is about host
 * memory: a capsule with one of these structs, whose name says which, and which is renamed by whoever takes it. */
#ifndef DSVK_PY_DLPACK_H
#define DSVK_PY_DLPACK_H

#include <stdint.h>

#define PY_DL_OLD "dltensor"
#define PY_DL_OLD_USED "used_dltensor"
#define PY_DL_VERSIONED "dltensor_versioned"

enum { PY_DL_CPU = 1 };
enum { PY_DL_READ_ONLY = 1, PY_DL_COPIED = 2 }; /* flags */
enum {
    PY_DL_INT, PY_DL_UINT, PY_DL_FLOAT, PY_DL_BFLOAT = 4, PY_DL_COMPLEX, PY_DL_BOOL,
    PY_DL_F8_E4M3 = 10, PY_DL_F8_E5M2 = 12, PY_DL_F8_E8M0 = 14
};

typedef struct py_dl_tensor {
    void *data;
    int32_t device_type, device_id;
    int32_t n_dims;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } type;
    int64_t *shape, *strides; /* numbers; strides NULL: row-major */
    uint64_t byte_offset;
} py_dl_tensor;

typedef struct py_dl_managed {
    py_dl_tensor tensor;
    void *context;
    void (*deleter)(struct py_dl_managed *self);
} py_dl_managed;

typedef struct py_dl_versioned {
    uint32_t major, minor;
    void *context;
    void (*deleter)(struct py_dl_versioned *self);
    uint64_t flags;
    py_dl_tensor tensor;
} py_dl_versioned;

#endif
