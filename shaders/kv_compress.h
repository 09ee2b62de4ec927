/* Arguments and constants of kv_compress.comp. */
#ifndef DSVK_KV_COMPRESS_ARGS_H
#define DSVK_KV_COMPRESS_ARGS_H
#include "types.h"

#define COMPRESS_CONSTANT_NATIVE 0
#define COMPRESS_CONSTANT_WIDTH 1
#define COMPRESS_CONSTANT_ROPE_DIM 2
#define COMPRESS_CONSTANT_RATIO 3
#define COMPRESS_CONSTANT_INDEX 4 /* 1: index keys, 0: cache rows */
#define COMPRESS_CONSTANT_WORKGROUP 5

struct kv_compress_args {
    ADDR rows;  /* dsvk_row [n] */
    ADDR seqs;  /* dsvk_seq */
    ADDR table; /* RoPE pages */
    ADDR ks;    /* f32 [n, ks_stride]: K [w], S [w] */
    ADDR ape;   /* f32 [RATIO, w] */
    ADDR norm;  /* f32 [WIDTH] */
    U32 ks_stride;
    U32 ring_offset, ring_capacity; /* f32 [ring_capacity][2 w] in the state */
    U32 page_capacity, page_offset; /* entries per page, bytes */
    F32 eps;
};

#endif
