/* Included by GLSL and C: the types of argument structs. An address is two 32-bit words on both sides (uvec2 in GLSL,
 * uint64_t in C: same size and alignment), so a struct that lists its addresses first has one layout. */
#ifndef DSVK_TYPES_H
#define DSVK_TYPES_H

#ifdef VULKAN /* predefined by GLSL compilers for Vulkan */
#define ADDR uvec2
#define U32 uint
#define I32 int
#define F32 float
#else
#include <stdint.h>
#define ADDR uint64_t
#define U32 uint32_t
#define I32 int32_t
#define F32 float
#endif

/* Positions in one page of a RoPE table (ops.h). */
#define DSVK_ROPE_PAGE 4096u

/* One row of a step (a token of some sequence). The host writes them. */
struct dsvk_row {
    U32 token;    /* id, < vocabulary */
    U32 position; /* absolute, 0-based */
    U32 sequence; /* index into the step's dsvk_seq array */
    U32 first;    /* index in this step of the sequence's first row; row t has position start + (t - first) */
};

/* One sequence of a step. */
struct dsvk_seq {
    ADDR state;   /* the session's fixed block: window rings, compressor rings, pending streams */
    ADDR pages;   /* [context / page_tokens] ADDR: the session's cache pages */
    U32 first;    /* its first row in this step */
    U32 rows;     /* how many rows it has in this step */
    U32 start;    /* position of its first row = length of the sequence before this step */
    U32 pad;
};

#endif
