/* What a model is made of on the device: one list, written from the configuration alone, of every matrix, vector and table
 * with the checkpoint tensors it comes from. The plan sums it, the loader fills it, the forward pass reads the structs it
 * points into. Projections that share an input row are one matrix here, so that they are one dispatch there. */
#ifndef DSVK_WEIGHTS_H
#define DSVK_WEIGHTS_H

#include "config.h"
#include "ops.h"
#include "safetensors.h"

/* One hyper-connection site (4.3): fn f32 [n_mix, 4 D], base f32 [n_mix], scale f32 [3] or [1]. */
typedef struct dsvk_hc_weights {
    dsvk_addr fn, base, scale;
} dsvk_hc_weights;

typedef struct dsvk_compressor_weights {
    dsvk_addr ape;  /* f32 [ratio, w] */
    dsvk_addr norm; /* f32 [width] */
} dsvk_compressor_weights;

typedef struct dsvk_layer_weights {
    dsvk_addr attn_norm, ffn_norm;  /* f32 [D] */
    dsvk_hc_weights hc_attn, hc_ffn;
    dsvk_matrix attn_in;            /* [wq_a; wkv]: [Rq + dh, D] */
    dsvk_matrix compress_in;        /* ratio > 0: [wkv; wgate] of the compressor, ratio 4: [wkv; wgate] of the indexer's and
                                       weights_proj below them: [2w (+ 2wi + Hi), D] */
    dsvk_matrix q_b;                /* [wq_b; ratio 4: indexer.wq_b]: [H dh (+ Hi di), Rq] */
    dsvk_matrix wo_a, wo_b;         /* [G Ro, H dh / G], [D, G Ro] */
    dsvk_addr q_norm, kv_norm;      /* f32 [Rq], [dh] */
    dsvk_addr sink;                 /* f32 [H] */
    dsvk_compressor_weights compressor, index_compressor;
    dsvk_matrix gate;               /* [E, D] */
    dsvk_addr gate_bias;            /* f32 [E]; 0 in hash layers */
    dsvk_addr hash_table;           /* u32 [V, A]; 0 in other layers */
    dsvk_matrix shared_up, shared_down; /* w1/w3 interleaved [2 I, D]; [D, I] */
    dsvk_matrix expert_up, expert_down; /* the same shapes; addr unused */
    uint64_t expert_down_offset;    /* of the down matrix in an expert's blob */
    dsvk_addr *expert_blobs;        /* host [E], owned */
    dsvk_buffer expert_table;       /* the same addresses on the device */
    dsvk_buffer table;              /* struct dsvk_layer_table: addresses of vectors, on the device */
} dsvk_layer_weights;

typedef struct dsvk_weights {
    dsvk_addr embed;                /* bf16 [V, D], row-major */
    dsvk_matrix head;               /* [V, D] */
    dsvk_addr norm;                 /* f32 [D] */
    dsvk_hc_weights hc_head;        /* n_mix 4 */
    dsvk_buffer head_sites;         /* struct dsvk_site [2]: of hc_head, of mtp.hc_head; on the device */
    dsvk_layer_weights *layers;     /* [L + 1]; the last is the MTP block's */
    struct {                        /* 4.13 */
        dsvk_addr enorm, hnorm, norm;
        dsvk_matrix e_proj, h_proj; /* [D, D] */
        dsvk_hc_weights hc_head;
    } mtp;
} dsvk_weights;

typedef enum dsvk_weight_kind {
    DSVK_WEIGHT_MATRIX, /* tiled */
    DSVK_WEIGHT_VECTOR, /* f32, any shape, row-major */
    DSVK_WEIGHT_ROWS,   /* bf16 row-major */
    DSVK_WEIGHT_TABLE   /* u32 row-major, values < limit */
} dsvk_weight_kind;

typedef enum dsvk_weight_fold { /* where source row r goes in a tiled matrix */
    DSVK_FOLD_NONE,             /* row first_row + r */
    DSVK_FOLD_W1,               /* tile r / 16, tile row r % 16 */
    DSVK_FOLD_W3                /* tile r / 16, tile row 16 + r % 16 */
} dsvk_weight_fold;

#define DSVK_WEIGHT_NAME 64
typedef struct dsvk_weight_source {
    char name[DSVK_WEIGHT_NAME]; /* of the tensor ("layers.3.attn.wkv.weight"); its scales are found by the name */
    uint32_t rows, cols;         /* logical shape; vectors of rank 1 have rows 1 */
    uint32_t first_row;
    dsvk_weight_fold fold;
    const dsvk_file_tensor *tensor, *scales; /* set by dsvk_weights_bind */
} dsvk_weight_source;

typedef struct dsvk_weight {
    dsvk_weight_kind kind;
    dsvk_weight_type type;         /* of a matrix, as uploaded */
    uint32_t n_out, n_in;          /* of a matrix; else all values are n_out * n_in */
    uint32_t limit;                /* TABLE: values must be below */
    uint32_t first_source, n_sources;
    uint32_t buffer;               /* index into the list's buffers */
    uint64_t offset, bytes;        /* in that buffer */
    uint32_t layer;                /* for plans; n_layers + 1 = outside the layers */
    bool expert;                   /* part of a routed expert's blob */
    dsvk_matrix *matrix;           /* filled with address and shape, or NULL */
    dsvk_addr *addr;               /* filled with the address, or NULL */
} dsvk_weight;

typedef struct dsvk_weight_list {
    dsvk_weight *weights;
    dsvk_weight_source *sources;
    uint64_t *buffer_bytes;        /* [n_buffers] */
    uint32_t n_weights, n_sources, n_buffers;
    uint32_t weight_capacity, source_capacity;
    bool mtp;
} dsvk_weight_list;

/* Allocates weights->layers and the list. Matrix types are those of the published checkpoints until dsvk_weights_bind. */
dsvk_status dsvk_weights_describe(dsvk_weight_list *list, dsvk_weights *weights, const dsvk_config *config, bool mtp,
                                  dsvk_error *err);
/* Finds every source in the checkpoint, checks shapes and types (M10, M11, C08), settles matrix types and sizes, and sets
 * used[position] for every tensor taken. */
dsvk_status dsvk_weights_bind(dsvk_weight_list *list, const dsvk_checkpoint *checkpoint, uint8_t *used, dsvk_error *err);
/* Lays the weights out in buffers: sets buffer, offset, bytes and buffer_bytes. */
dsvk_status dsvk_weights_place(dsvk_weight_list *list, dsvk_error *err);
void dsvk_weight_list_free(dsvk_weight_list *list);
void dsvk_weights_free(dsvk_weights *weights, uint32_t n_layers); /* host arrays only */

#endif
