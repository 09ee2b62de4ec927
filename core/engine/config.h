/* config.json: every hyper-parameter of spec 1.2 under its standard name, read and checked in one place. What
 * dsvk_config_parse returns is a model this engine can run: each size is in its range, widths divide as the formats and
 * the kernels need, and every per-layer list has one entry per layer. Code behind this door asserts. */
#ifndef DSVK_CONFIG_H
#define DSVK_CONFIG_H

#include "common.h"

#define DSVK_HC_STREAMS 4u             /* the only hc_mult there are kernels for */
#define DSVK_MAX_EXPERTS_PER_TOKEN 16u /* the router's largest top-k */

typedef struct dsvk_yarn {
    double factor;
    uint32_t original_max_position; /* 0: no YaRN, plain RoPE at compress_rope_theta */
    double beta_fast, beta_slow;
} dsvk_yarn;

typedef struct dsvk_config {
    uint32_t vocab_size;            /* V */
    uint32_t hidden_size;           /* D */
    uint32_t n_layers;              /* L, without MTP blocks */
    uint32_t n_hash_layers;         /* layers 0 .. n_hash_layers - 1 route by tid2eid */
    uint32_t n_mtp_layers; /* 0 or 1: whether a checkpoint may hold an MTP block; whether it does is its own say */
    uint32_t n_heads, head_dim, rope_dim; /* H, dh, dr: RoPE turns the last rope_dim of head_dim values */
    uint32_t q_lora_rank;           /* Rq */
    uint32_t o_groups, o_lora_rank; /* G, Ro */
    uint32_t sliding_window;        /* W, the token itself included */
    uint32_t *compress_ratios;      /* [n_layers + 1], each 0, 4 or 128; the last belongs to the MTP block and is 0 */
    double rope_theta;              /* base in layers of ratio 0 */
    double compress_rope_theta;     /* base in layers of ratio 4 and 128, with yarn */
    dsvk_yarn yarn;
    uint32_t max_positions;         /* max_position_embeddings */
    uint32_t index_n_heads, index_head_dim, index_topk; /* Hi, di, Ki; used in layers of ratio 4 */
    uint32_t n_experts, n_experts_per_token;            /* E, A */
    uint32_t moe_intermediate_size; /* I, of routed and shared experts */
    double route_scale;             /* routed_scaling_factor */
    double swiglu_limit;            /* 0: no clamp */
    uint32_t hc_mult;               /* C = DSVK_HC_STREAMS */
    uint32_t hc_sinkhorn_iters;     /* at least 1 */
    double hc_eps, norm_eps;        /* none of these is 0 or infinite as an f32 */
    int32_t bos_token_id, eos_token_id, pad_token_id; /* -1: none */
} dsvk_config;

/* `text` [n]: config.json as published, or as transformers 5 writes it (rope_parameters, layer_types). `what` begins
 * every message. On failure *config is zeroed. Release with dsvk_config_free. */
dsvk_status dsvk_config_parse(dsvk_config *config, const char *text, size_t n, const char *what, dsvk_error *err);
/* The same from a file, or from the config.json of a folder. */
dsvk_status dsvk_config_read(dsvk_config *config, const char *path, dsvk_error *err);
void dsvk_config_free(dsvk_config *config); /* accepts a zeroed one */
/* Everything above under the names of the fields; the caller owns *out. */
dsvk_status dsvk_config_json(const dsvk_config *config, json_t **out);

#endif
