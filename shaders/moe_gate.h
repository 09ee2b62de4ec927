/* Arguments and constants of shaders/moe_gate.comp. */
#ifndef DSVK_MOE_GATE_H
#define DSVK_MOE_GATE_H

#include "types.h"

#define GATE_CONSTANT_WORKGROUP 0

#define MOE_MAX_EXPERTS 4096
#define MOE_MAX_ACTIVE 16

struct moe_gate_args {
    ADDR rows;      /* dsvk_row [n] */
    ADDR logits;    /* f32 [n, logits_stride] */
    ADDR bias;      /* f32 [n_experts]; 0 with a table */
    ADDR table;     /* u32 [vocab, k]; 0: choose by score */
    ADDR idx;       /* u32 [n, k] */
    ADDR weights;   /* f32 [n, k] */
    U32 n_experts, k, vocab, logits_stride;
    F32 route_scale;
};

#endif
