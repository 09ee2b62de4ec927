/* Tensors that belong to no model, and what the ops on them share. A tensor is immutable once its op or open has returned, so
 * threads may share it. Weights come in the tiles the kernels read, laid out by the loader, as a model's. */
#ifndef DSVK_TENSOR_H
#define DSVK_TENSOR_H

#include "cache.h"
#include "loader.h"
#include "weights.h"

struct dsvk_tensor {
    dsvk_device *device;
    dsvk_form form;
    dsvk_dtype dtype;
    uint32_t rank;
    uint64_t shape[DSVK_TENSOR_RANK];
    uint32_t rope_dim;        /* ROWS: of the end that is BF16 */
    dsvk_buffer buffer;       /* VALUES, ROWS, KEYS */
    dsvk_matrix matrix, down; /* MATRIX; EXPERTS: w1 and w3 interleaved, w2 (their addr unused) */
    uint64_t down_offset;     /* EXPERTS: of w2 in an expert's blob */
    dsvk_buffer table;        /* EXPERTS: addresses of the blobs, on the device */
    dsvk_addr *blobs;         /* EXPERTS: the same [n] */
    dsvk_buffer *weights;     /* MATRIX, EXPERTS: [n_weights] */
    uint32_t n_weights;
};

uint64_t dsvk_tensor_count(const dsvk_tensor *tensor); /* numbers */
/* A tensor whose buffer holds anything yet, for an op to fill. rope_dim: of ROWS. */
dsvk_status dsvk_tensor_make(dsvk_tensor **tensor, dsvk_device *device, dsvk_form form, dsvk_dtype dtype, uint32_t rank,
                             const uint64_t *shape, uint32_t rope_dim, dsvk_error *err);
dsvk_row_format dsvk_tensor_format(const dsvk_tensor *tensor); /* of ROWS or KEYS; what does not apply is 0 */
/* One row, one key of the native cache formats (spec 1.7) as float32 [head_dim], [index_dim]. */
void dsvk_decode_row(const dsvk_row_format *format, const uint8_t *codes, const uint8_t *scales, float *out);
void dsvk_decode_key(const dsvk_row_format *format, const uint8_t *codes, const uint8_t *scales, float *out);
/* "F32 values [3, 512]", "F8_E4M3 matrix [64, 512]": for messages; returns out. */
const char *dsvk_tensor_text(char *out, size_t size, const dsvk_tensor *tensor);

/* ---- an op that is running (op.c) ---- */

#define OP_SLOTS 16u
#define OP_SCRATCH 16u
#define MOST_POSITION 16777216.0 /* a row's number that F32 and U32 both hold */

typedef enum op_kind { OP_END, OP_F32, OP_I32, OP_MATRIX, OP_EXPERTS, OP_ROWS, OP_KEYS, OP_INTEGER, OP_NUMBER } op_kind;

typedef struct op_slot {
    const char *name;
    op_kind kind;
    const char *shape;              /* of a tensor: a word or a number for each dimension, "n 4 dim"; after a ? it may be left out */
    double fallback, least, most;   /* of a number */
} op_slot;

typedef struct op_call op_call;

typedef struct op {
    const char *name, *does;        /* the formula, with its place in the specification */
    op_slot slots[OP_SLOTS];        /* ends with OP_END */
    op_slot results[DSVK_OP_RESULTS];
    void (*run)(op_call *call);     /* records; failures stay in the call */
} op;

/* Each is one op of the list; op_attention.c, op_mixture.c and op_sample.c define them. */
extern const op dsvk_op_matmul, dsvk_op_rms_norm, dsvk_op_rope_table, dsvk_op_rope, dsvk_op_quant_row, dsvk_op_quant_index,
    dsvk_op_kv_compress, dsvk_op_indexer, dsvk_op_topk, dsvk_op_sparse_attention, dsvk_op_hyper_connection, dsvk_op_moe,
    dsvk_op_sample;

struct op_call {
    const op *op;
    dsvk_device *device;
    dsvk_cmd *cmd;
    const dsvk_tensor *tensors[OP_SLOTS];
    double numbers[OP_SLOTS];
    struct {
        char name[16];
        uint64_t value;
        const char *from;           /* the argument that settled it */
    } dims[OP_SLOTS * 2];
    uint32_t n_dims;
    dsvk_buffer scratch[OP_SCRATCH]; /* freed when the op is done */
    uint32_t n_scratch;
    dsvk_tensor *results[DSVK_OP_RESULTS];
    dsvk_slices slices;             /* of cmd */
    dsvk_status status;
    dsvk_error *err;
};

/* Arguments by name; a name the op has not is a mistake in its code. */
const dsvk_tensor *dsvk_op_tensor(const op_call *call, const char *name); /* NULL: not given */
dsvk_addr dsvk_op_values(const op_call *call, const char *name);          /* of its first number; 0: not given */
double dsvk_op_number(const op_call *call, const char *name);
uint32_t dsvk_op_integer(const op_call *call, const char *name);
uint32_t dsvk_op_dim(const op_call *call, const char *name);              /* a word of the shapes; 0: in no tensor that was given */

/* After a failure these give 0 and what follows does no harm: nothing is run. */
dsvk_addr dsvk_op_scratch(op_call *call, uint64_t bytes);                 /* anything in it */
dsvk_addr dsvk_op_zeros(op_call *call, uint64_t bytes);                   /* a barrier has to follow */
dsvk_addr dsvk_op_upload(op_call *call, const void *data, uint64_t bytes);
dsvk_addr dsvk_op_result(op_call *call, uint32_t i, dsvk_form form, dsvk_dtype dtype, uint32_t rank, const uint64_t *shape,
                    uint32_t rope_dim);
dsvk_addr dsvk_op_f32(op_call *call, uint32_t i, uint32_t rank, uint64_t a, uint64_t b, uint64_t c, uint64_t d); /* result of such values */
/* In long work of the host: false when the caller wants to stop, or the call has failed. done of `total` rows. */
bool dsvk_op_ask(op_call *call, uint64_t done, uint64_t total);
void dsvk_op_fail(op_call *call, const char *format, ...) __attribute__((format(printf, 2, 3))); /* INVALID, "NAME: " in front */

/* dsvk_row [n] of one sequence whose first row stands at `start`; tokens i32 [n] on the host, or NULL. */
dsvk_addr dsvk_op_rows(op_call *call, uint32_t n, uint32_t start, const int32_t *tokens);
/* The one dsvk_seq of an op: everything before its rows is in the step, so its state is never read; its only page is at `page`. */
dsvk_addr dsvk_op_sequence(op_call *call, uint32_t n, dsvk_addr page);
/* The page table over argument `table` (f32 [positions, pairs, 2]), which has to reach `positions` positions. */
dsvk_addr dsvk_op_angles(op_call *call, uint32_t positions);

#endif
