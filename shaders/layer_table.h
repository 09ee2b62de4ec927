/* Where a layer's vectors lie, as the kernels of small steps read it: push constants have no room for so many addresses. Tables
 * are written once, when the weights have their places (core/engine/loader.c). */
#ifndef DSVK_LAYER_TABLE_H
#define DSVK_LAYER_TABLE_H

#include "types.h"

/* A hyper-connection site and the norm behind it (spec 4.3, 4.2). */
struct dsvk_site {
    ADDR fn;    /* f32 [n_mix, 4 D] */
    ADDR base;  /* f32 [n_mix] */
    ADDR scale; /* f32 [3]; the head's: [1] */
    ADDR norm;  /* f32 [D] */
};

/* What turns projections into cache entries (4.5, 4.6); of layers without a ratio, or without an indexer, the rest is 0. */
struct dsvk_kv_vectors {
    ADDR kv_norm;    /* f32 [dh] */
    ADDR ape;        /* f32 [ratio, w] */
    ADDR norm;       /* f32 [dh] */
    ADDR index_ape;  /* f32 [4, 2 di] */
    ADDR index_norm; /* f32 [di] */
};

#ifndef VULKAN
struct dsvk_layer_table {
    struct dsvk_site attn, ffn;
    struct dsvk_kv_vectors kv;
};
#endif

#endif
