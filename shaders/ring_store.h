/* Arguments of ring_store.comp. */
#ifndef DSVK_RING_STORE_ARGS_H
#define DSVK_RING_STORE_ARGS_H
#include "types.h"

struct ring_store_item {
    ADDR source;   /* row t at source + t * stride */
    U32 stride;    /* bytes, like the next two a multiple of 4 */
    U32 bytes;     /* per row */
    U32 offset;    /* of the ring in the state block */
    U32 capacity;  /* slots */
};
#ifndef VULKAN
typedef struct ring_store_item ring_store_item; /* GLSL names a struct without the keyword */
#endif

#define RING_STORE_ITEMS 4

struct ring_store_args {
    ADDR rows; /* dsvk_row [n] */
    ADDR seqs; /* dsvk_seq */
    ring_store_item items[RING_STORE_ITEMS];
};

#endif
