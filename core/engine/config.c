/* Reading config.json (faults C01-C09, C11). The known keys are collected in one walk over the text; the sections
 * below say which sizes, reals, words and lists there are and what each may be. Meaning of the keys: spec 1.2 and 2.5; the
 * transformers 5 spelling (layer_types, mlp_layer_types, rope_parameters, partial_rotary_factor) is that of its
 * deepseek_v4 model. */
#include "config.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "json_reader.h"
#include "looks_like.h"

#define CONFIG_BYTES (256u << 20) /* faults C11 */
#define MANY (1u << 20)           /* faults C01: any size */
#define SOME 4096u                /* layers, heads, experts */
#define VOCABULARY (4u << 20)
#define REQUIRED UINT32_MAX

#define KEY_LIST(X)                                                                                                    \
    X(architectures) X(model_type) X(hidden_act) X(scoring_func) X(topk_method) X(norm_topk_prob) X(expert_dtype)      \
    X(tie_word_embeddings) X(attention_bias) X(mlp_bias) X(quantization_config)                                        \
    X(vocab_size) X(hidden_size) X(num_hidden_layers) X(num_hash_layers) X(num_nextn_predict_layers)                   \
    X(num_attention_heads) X(num_key_value_heads) X(head_dim) X(qk_rope_head_dim) X(partial_rotary_factor)             \
    X(q_lora_rank) X(o_groups) X(o_lora_rank) X(sliding_window) X(compress_ratios) X(layer_types) X(mlp_layer_types)   \
    X(compress_rates) X(rope_theta) X(compress_rope_theta) X(rope_scaling) X(rope_parameters)                          \
    X(max_position_embeddings) X(index_n_heads) X(index_head_dim) X(index_topk) X(n_routed_experts)                    \
    X(n_shared_experts) X(num_experts_per_tok) X(n_group) X(topk_group) X(moe_intermediate_size)                       \
    X(routed_scaling_factor) X(swiglu_limit) X(hc_mult) X(hc_sinkhorn_iters) X(hc_eps) X(rms_norm_eps)                 \
    X(bos_token_id) X(eos_token_id) X(pad_token_id) X(error)

enum key {
#define KEY_ENUM(name) KEY_##name,
    KEY_LIST(KEY_ENUM)
#undef KEY_ENUM
    KEY_COUNT
};

static const char *const key_names[KEY_COUNT] = {
#define KEY_NAME(name) #name,
    KEY_LIST(KEY_NAME)
#undef KEY_NAME
};

struct reader {
    const char *what;
    dsvk_error *err;
    dsvk_json_value values[KEY_COUNT]; /* text NULL: absent or null */
};

static bool has(const struct reader *r, enum key key) { return r->values[key].text != NULL; }

/* "config.json: vocab_size is -3, allowed are 1 to 4194304" */
static dsvk_status bad_value(const struct reader *r, dsvk_status status, const char *key, dsvk_json_value value,
                             const char *allowed) {
    char shown[120];
    return dsvk_fail(r->err, status, "%s: %s is %s, %s", r->what, key, dsvk_json_quote(value, shown, sizeof shown),
                     allowed);
}

static dsvk_status missing(const struct reader *r, const char *key) {
    return dsvk_fail(r->err, DSVK_FORMAT, "%s: the key %s is missing", r->what, key);
}

/* ---- sizes ---- */

struct size_rule {
    enum key key;
    size_t field;         /* offset of a uint32_t in dsvk_config */
    uint32_t least, most; /* FORMAT outside (C01) */
    uint32_t supported;   /* UNSUPPORTED above */
    uint32_t otherwise;   /* when the key is absent; REQUIRED: FORMAT (C09) */
};

#define FIELD(name) offsetof(dsvk_config, name)
static const struct size_rule size_rules[] = {
    { KEY_vocab_size, FIELD(vocab_size), 1, VOCABULARY, VOCABULARY, REQUIRED },
    { KEY_hidden_size, FIELD(hidden_size), 1, MANY, MANY, REQUIRED },
    { KEY_num_hidden_layers, FIELD(n_layers), 1, SOME, SOME, REQUIRED },
    { KEY_num_hash_layers, FIELD(n_hash_layers), 0, SOME, SOME, 0 },
    { KEY_num_nextn_predict_layers, FIELD(n_mtp_layers), 0, SOME, 1, 0 },
    { KEY_num_attention_heads, FIELD(n_heads), 1, SOME, SOME, REQUIRED },
    { KEY_head_dim, FIELD(head_dim), 1, MANY, 512, REQUIRED },
    { KEY_q_lora_rank, FIELD(q_lora_rank), 1, MANY, MANY, REQUIRED },
    { KEY_o_groups, FIELD(o_groups), 1, SOME, SOME, REQUIRED },
    { KEY_o_lora_rank, FIELD(o_lora_rank), 1, MANY, MANY, REQUIRED },
    { KEY_sliding_window, FIELD(sliding_window), 1, MANY, 4096, REQUIRED },
    { KEY_max_position_embeddings, FIELD(max_positions), 1, MANY, MANY, REQUIRED },
    { KEY_index_n_heads, FIELD(index_n_heads), 1, SOME, SOME, REQUIRED },
    { KEY_index_head_dim, FIELD(index_head_dim), 1, MANY, 256, REQUIRED },
    { KEY_index_topk, FIELD(index_topk), 1, MANY, 4096, REQUIRED },
    { KEY_n_routed_experts, FIELD(n_experts), 1, SOME, SOME, REQUIRED },
    { KEY_num_experts_per_tok, FIELD(n_experts_per_token), 1, SOME, DSVK_MAX_EXPERTS_PER_TOKEN, REQUIRED },
    { KEY_moe_intermediate_size, FIELD(moe_intermediate_size), 1, MANY, MANY, REQUIRED },
    { KEY_hc_mult, FIELD(hc_mult), 1, MANY, DSVK_HC_STREAMS, DSVK_HC_STREAMS },
    { KEY_hc_sinkhorn_iters, FIELD(hc_sinkhorn_iters), 1, MANY, 1000, 20 },
};

static dsvk_status read_size(const struct reader *r, enum key key, uint32_t least, uint32_t most, uint32_t *out) {
    uint64_t value;
    char allowed[64];
    snprintf(allowed, sizeof allowed, "allowed are whole numbers from %u to %u", least, most);
    if (!dsvk_json_uint(r->values[key], &value) || value < least || value > most)
        return bad_value(r, DSVK_FORMAT, key_names[key], r->values[key], allowed);
    *out = (uint32_t)value;
    return DSVK_OK;
}

static dsvk_status read_sizes(const struct reader *r, dsvk_config *config) {
    for (size_t i = 0; i < DSVK_COUNT(size_rules); i++) {
        const struct size_rule *rule = &size_rules[i];
        uint32_t value = rule->otherwise;
        if (has(r, rule->key))
            DSVK_TRY(read_size(r, rule->key, rule->least, rule->most, &value));
        else if (value == REQUIRED)
            return missing(r, key_names[rule->key]);
        if (value > rule->supported)
            return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: %s is %u, supported is at most %u", r->what,
                             key_names[rule->key], value, rule->supported);
        memcpy((char *)config + rule->field, &value, sizeof value);
    }
    return DSVK_OK;
}

/* ---- reals ---- */

static dsvk_status read_real(const struct reader *r, const char *key, dsvk_json_value value, double above, double most,
                             double *out) {
    double x;
    char allowed[80];
    snprintf(allowed, sizeof allowed, "allowed are numbers above %g up to %g", above, most);
    if (!dsvk_json_double(value, &x) || !(x > above && x <= most))
        return bad_value(r, DSVK_FORMAT, key, value, allowed);
    *out = x;
    return DSVK_OK;
}

/* Positive numbers that shaders see as f32. */
static dsvk_status read_float(const struct reader *r, enum key key, double most, double otherwise, double *out) {
    double x = otherwise;
    if (has(r, key))
        DSVK_TRY(read_real(r, key_names[key], r->values[key], 0, most, &x));
    else if (isnan(otherwise))
        return missing(r, key_names[key]);
    if (x < (double)FLT_MIN)
        return bad_value(r, DSVK_FORMAT, key_names[key], r->values[key], "which is 0 in single precision");
    *out = x;
    return DSVK_OK;
}

/* swiglu_limit: absent, null and 0 mean no clamp. */
static dsvk_status read_swiglu_limit(const struct reader *r, dsvk_config *config) {
    double x = 0;
    config->swiglu_limit = 0;
    if (!has(r, KEY_swiglu_limit) || (dsvk_json_double(r->values[KEY_swiglu_limit], &x) && x == 0))
        return DSVK_OK;
    return read_float(r, KEY_swiglu_limit, 1e30, 0, &config->swiglu_limit);
}

/* ---- words ---- */

static const char *const architectures[] = { "DeepseekV4ForCausalLM", NULL };
static const char *const model_types[] = { "deepseek_v4", NULL };
static const char *const activations[] = { "silu", NULL };
static const char *const scoring_functions[] = { "sqrtsoftplus", NULL };
static const char *const topk_methods[] = { "noaux_tc", NULL };
static const char *const expert_types[] = { "fp4", "fp8", NULL };
static const char *const quant_methods[] = { "fp8", NULL };
static const char *const quant_formats[] = { "e4m3", NULL };
static const char *const scale_formats[] = { "ue8m0", NULL };
static const char *const activation_schemes[] = { "dynamic", NULL };

/* C06: the value must be one of `known`. */
static dsvk_status read_word(const struct reader *r, const char *key, dsvk_json_value value, const char *const *known) {
    if (dsvk_json_kind(value) != '"')
        return bad_value(r, DSVK_FORMAT, key, value, "which is not a string");
    char list[200] = "known:";
    for (; *known; known++) {
        if (dsvk_json_equals(value, *known))
            return DSVK_OK;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, " %s", *known);
    }
    return bad_value(r, DSVK_UNSUPPORTED, key, value, list);
}

static dsvk_status read_architecture(const struct reader *r) {
    dsvk_json_value list = r->values[KEY_architectures], first;
    if (!has(r, KEY_architectures) && !has(r, KEY_model_type) && has(r, KEY_error))
        return bad_value(r, DSVK_FORMAT, "error", r->values[KEY_error], "so this looks like a server's error message");
    if (!has(r, KEY_architectures) && !has(r, KEY_model_type))
        return missing(r, "architectures (or model_type)");
    if (has(r, KEY_model_type))
        DSVK_TRY(read_word(r, "model_type", r->values[KEY_model_type], model_types));
    if (!has(r, KEY_architectures))
        return DSVK_OK;
    if (!dsvk_json_element(list, &(dsvk_json_walk) { 0 }, &first))
        return bad_value(r, DSVK_FORMAT, "architectures", list, "which is not a list of names");
    return read_word(r, "architectures", first, architectures);
}

/* Switches that only exist in one position in this family. */
static dsvk_status read_switch(const struct reader *r, enum key key, bool wanted) {
    if (!has(r, key) || dsvk_json_kind(r->values[key]) == (wanted ? 't' : 'f'))
        return DSVK_OK;
    if (dsvk_json_kind(r->values[key]) != 't' && dsvk_json_kind(r->values[key]) != 'f')
        return bad_value(r, DSVK_FORMAT, key_names[key], r->values[key], "which is not true or false");
    return bad_value(r, DSVK_UNSUPPORTED, key_names[key], r->values[key],
                     wanted ? "supported is true" : "supported is false");
}

/* 2.5. What a tensor is stored as is decided by its own dtype and scales; here only the method must be ours. */
static dsvk_status read_quantization(const struct reader *r) {
    static const struct {
        const char *key, *name;
        const char *const *known;
    } words[] = {
        { "quant_method", "quantization_config.quant_method", quant_methods },
        { "fmt", "quantization_config.fmt", quant_formats },
        { "scale_fmt", "quantization_config.scale_fmt", scale_formats },
        { "activation_scheme", "quantization_config.activation_scheme", activation_schemes },
    };
    dsvk_json_value config = r->values[KEY_quantization_config], value, element;
    if (!has(r, KEY_quantization_config))
        return DSVK_OK;
    if (dsvk_json_kind(config) != '{')
        return bad_value(r, DSVK_FORMAT, "quantization_config", config, "which is not an object");
    for (size_t i = 0; i < DSVK_COUNT(words); i++)
        if (dsvk_json_find(config, words[i].key, &value) && dsvk_json_kind(value) != 'n')
            DSVK_TRY(read_word(r, words[i].name, value, words[i].known));
    if (!dsvk_json_find(config, "weight_block_size", &value) || dsvk_json_kind(value) == 'n')
        return DSVK_OK;
    uint32_t n = 0;
    uint64_t size;
    for (dsvk_json_walk walk = { 0 }; dsvk_json_element(value, &walk, &element); n++) {
        if (!dsvk_json_uint(element, &size) || size == 0)
            return bad_value(r, DSVK_FORMAT, "quantization_config.weight_block_size", value, "which is not two sizes");
        if (size != 128)
            return bad_value(r, DSVK_UNSUPPORTED, "quantization_config.weight_block_size", value,
                             "supported is [128, 128]");
    }
    if (n != 2)
        return bad_value(r, DSVK_FORMAT, "quantization_config.weight_block_size", value, "which is not two sizes");
    return DSVK_OK;
}

static dsvk_status read_words(const struct reader *r) {
    DSVK_TRY(read_architecture(r));
    if (has(r, KEY_hidden_act))
        DSVK_TRY(read_word(r, "hidden_act", r->values[KEY_hidden_act], activations));
    if (has(r, KEY_scoring_func))
        DSVK_TRY(read_word(r, "scoring_func", r->values[KEY_scoring_func], scoring_functions));
    if (has(r, KEY_topk_method))
        DSVK_TRY(read_word(r, "topk_method", r->values[KEY_topk_method], topk_methods));
    if (has(r, KEY_expert_dtype))
        DSVK_TRY(read_word(r, "expert_dtype", r->values[KEY_expert_dtype], expert_types));
    DSVK_TRY(read_switch(r, KEY_norm_topk_prob, true));
    DSVK_TRY(read_switch(r, KEY_tie_word_embeddings, false));
    DSVK_TRY(read_switch(r, KEY_attention_bias, false));
    DSVK_TRY(read_switch(r, KEY_mlp_bias, false));
    return read_quantization(r);
}

/* ---- per-layer lists (C04) ---- */

static const char *const layer_kinds[] = { "sliding_attention", "compressed_sparse_attention",
                                           "heavily_compressed_attention" };
static const uint32_t layer_ratios[] = { 0, 4, 128 };

static dsvk_status bad_length(const struct reader *r, const char *key, uint64_t n, uint32_t n_layers,
                              const char *more) {
    return dsvk_fail(r->err, DSVK_FORMAT, "%s: %s has %" PRIu64 " entries, num_hidden_layers is %u%s", r->what, key, n,
                     n_layers, more);
}

/* One entry per layer, then those of MTP and draft blocks, which are sliding-window layers: 0. */
static dsvk_status read_compress_ratios(const struct reader *r, dsvk_config *config) {
    dsvk_json_value list = r->values[KEY_compress_ratios], element;
    uint64_t n = 0, ratio;
    char name[48];
    if (dsvk_json_kind(list) != '[')
        return bad_value(r, DSVK_FORMAT, "compress_ratios", list, "which is not a list");
    for (dsvk_json_walk walk = { 0 }; dsvk_json_element(list, &walk, &element); n++) {
        snprintf(name, sizeof name, "compress_ratios[%" PRIu64 "]", n);
        if (!dsvk_json_uint(element, &ratio))
            return bad_value(r, DSVK_FORMAT, name, element, "which is not a ratio");
        if (ratio != 0 && ratio != 4 && ratio != 128)
            return bad_value(r, DSVK_UNSUPPORTED, name, element, "supported are 0, 4 and 128");
        if (n < config->n_layers)
            config->compress_ratios[n] = (uint32_t)ratio;
        else if (ratio != 0 && n == config->n_layers)
            return bad_value(r, DSVK_UNSUPPORTED, name, element, "supported for the MTP block is 0");
        else if (ratio != 0)
            return bad_length(r, "compress_ratios", n + 1, config->n_layers, " and entries beyond it are not 0");
    }
    return n < config->n_layers ? bad_length(r, "compress_ratios", n, config->n_layers, "") : DSVK_OK;
}

/* The transformers 5 spelling of the same; both may be there and must then agree. */
static dsvk_status read_layer_types(const struct reader *r, dsvk_config *config) {
    dsvk_json_value list = r->values[KEY_layer_types], element;
    uint64_t n = 0;
    if (dsvk_json_kind(list) != '[')
        return bad_value(r, DSVK_FORMAT, "layer_types", list, "which is not a list");
    for (dsvk_json_walk walk = { 0 }; dsvk_json_element(list, &walk, &element); n++) {
        char name[48];
        snprintf(name, sizeof name, "layer_types[%" PRIu64 "]", n);
        size_t kind = 0;
        while (kind < DSVK_COUNT(layer_kinds) && !dsvk_json_equals(element, layer_kinds[kind]))
            kind++;
        if (kind == DSVK_COUNT(layer_kinds))
            return bad_value(r, dsvk_json_kind(element) == '"' ? DSVK_UNSUPPORTED : DSVK_FORMAT, name, element,
                             "known: sliding_attention compressed_sparse_attention heavily_compressed_attention");
        if (n >= config->n_layers)
            continue;
        if (has(r, KEY_compress_ratios) && config->compress_ratios[n] != layer_ratios[kind])
            return dsvk_fail(r->err, DSVK_FORMAT, "%s: %s is %s (ratio %u), but compress_ratios[%" PRIu64 "] is %u",
                             r->what, name, layer_kinds[kind], layer_ratios[kind], n, config->compress_ratios[n]);
        config->compress_ratios[n] = layer_ratios[kind];
    }
    return n != config->n_layers ? bad_length(r, "layer_types", n, config->n_layers, "") : DSVK_OK;
}

/* compress_rates: {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128} are the only ones. */
static dsvk_status read_compress_rates(const struct reader *r) {
    dsvk_json_value rates = r->values[KEY_compress_rates], rate;
    uint64_t value;
    for (size_t kind = 1; has(r, KEY_compress_rates) && kind < DSVK_COUNT(layer_kinds); kind++) {
        char name[64], allowed[32];
        snprintf(name, sizeof name, "compress_rates.%s", layer_kinds[kind]);
        snprintf(allowed, sizeof allowed, "supported is %u", layer_ratios[kind]);
        if (dsvk_json_find(rates, layer_kinds[kind], &rate) &&
            !(dsvk_json_uint(rate, &value) && value == layer_ratios[kind]))
            return bad_value(r, DSVK_UNSUPPORTED, name, rate, allowed);
    }
    return DSVK_OK;
}

/* mlp_layer_types: "hash_moe" for the first layers, "moe" for the rest, says what num_hash_layers says. */
static dsvk_status read_mlp_layer_types(const struct reader *r, dsvk_config *config) {
    dsvk_json_value list = r->values[KEY_mlp_layer_types], element;
    uint32_t n = 0, n_hash = 0;
    if (!has(r, KEY_mlp_layer_types))
        return DSVK_OK;
    if (dsvk_json_kind(list) != '[')
        return bad_value(r, DSVK_FORMAT, "mlp_layer_types", list, "which is not a list");
    for (dsvk_json_walk walk = { 0 }; dsvk_json_element(list, &walk, &element); n++) {
        bool hash = dsvk_json_equals(element, "hash_moe");
        if (!hash && !dsvk_json_equals(element, "moe"))
            return bad_value(r, dsvk_json_kind(element) == '"' ? DSVK_UNSUPPORTED : DSVK_FORMAT, "mlp_layer_types",
                             element, "known: hash_moe moe");
        if (hash && n_hash != n)
            return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: mlp_layer_types[%u] is hash_moe after a layer that is not",
                             r->what, n);
        n_hash += hash;
    }
    if (n != config->n_layers)
        return bad_length(r, "mlp_layer_types", n, config->n_layers, "");
    if (has(r, KEY_num_hash_layers) && config->n_hash_layers != n_hash)
        return dsvk_fail(r->err, DSVK_FORMAT, "%s: mlp_layer_types has %u hash layers, num_hash_layers is %u", r->what,
                         n_hash, config->n_hash_layers);
    config->n_hash_layers = n_hash;
    return DSVK_OK;
}

static dsvk_status read_layers(const struct reader *r, dsvk_config *config) {
    config->compress_ratios = dsvk_alloc_zero(config->n_layers + 1, sizeof *config->compress_ratios);
    if (!config->compress_ratios)
        return dsvk_fail_nomem(r->err, (config->n_layers + 1) * sizeof *config->compress_ratios);
    if (!has(r, KEY_compress_ratios) && !has(r, KEY_layer_types))
        return missing(r, "compress_ratios");
    if (has(r, KEY_compress_ratios))
        DSVK_TRY(read_compress_ratios(r, config));
    if (has(r, KEY_layer_types))
        DSVK_TRY(read_layer_types(r, config));
    DSVK_TRY(read_compress_rates(r));
    DSVK_TRY(read_mlp_layer_types(r, config));
    if (config->n_hash_layers > config->n_layers)
        return dsvk_fail(r->err, DSVK_FORMAT, "%s: num_hash_layers is %u, num_hidden_layers is %u", r->what,
                         config->n_hash_layers, config->n_layers);
    return DSVK_OK;
}

/* ---- RoPE ---- */

/* "type" or "rope_type" of a rope object: yarn, or default for none. */
static dsvk_status read_rope_type(const struct reader *r, const char *key, dsvk_json_value rope, bool *yarn) {
    dsvk_json_value value;
    static const char *const spellings[] = { "type", "rope_type" };
    int found = -1;
    *yarn = false;
    for (size_t i = 0; i < DSVK_COUNT(spellings); i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", key, spellings[i]);
        if (!dsvk_json_find(rope, spellings[i], &value) || dsvk_json_kind(value) == 'n')
            continue;
        if (!dsvk_json_equals(value, "yarn") && !dsvk_json_equals(value, "default"))
            return bad_value(r, dsvk_json_kind(value) == '"' ? DSVK_UNSUPPORTED : DSVK_FORMAT, name, value,
                             "known: yarn default");
        bool is_yarn = dsvk_json_equals(value, "yarn");
        if (found >= 0 && found != is_yarn)
            return dsvk_fail(r->err, DSVK_FORMAT, "%s: %s.type and %s.rope_type differ", r->what, key, key);
        found = is_yarn;
    }
    *yarn = found == 1;
    return DSVK_OK;
}

static dsvk_status read_yarn_real(const struct reader *r, const char *key, dsvk_json_value rope, const char *member,
                                  double otherwise, double *out) {
    dsvk_json_value value;
    char name[80];
    snprintf(name, sizeof name, "%s.%s", key, member);
    *out = otherwise;
    if (dsvk_json_find(rope, member, &value) && dsvk_json_kind(value) != 'n')
        return read_real(r, name, value, 0, 1e9, out);
    return isnan(otherwise) ? missing(r, name) : DSVK_OK;
}

/* 4.4. The family multiplies neither cos and sin nor the scores by a YaRN magnitude. */
static dsvk_status read_yarn(const struct reader *r, const char *key, dsvk_json_value rope, dsvk_yarn *out) {
    bool yarn;
    double original, magnitude;
    if (dsvk_json_kind(rope) != '{')
        return bad_value(r, DSVK_FORMAT, key, rope, "which is not an object");
    DSVK_TRY(read_rope_type(r, key, rope, &yarn));
    if (!yarn)
        return DSVK_OK;
    DSVK_TRY(read_yarn_real(r, key, rope, "factor", NAN, &out->factor));
    DSVK_TRY(read_yarn_real(r, key, rope, "beta_fast", 32, &out->beta_fast));
    DSVK_TRY(read_yarn_real(r, key, rope, "beta_slow", 1, &out->beta_slow));
    DSVK_TRY(read_yarn_real(r, key, rope, "original_max_position_embeddings", NAN, &original));
    DSVK_TRY(read_yarn_real(r, key, rope, "attention_factor", 1, &magnitude));
    if (out->beta_fast < out->beta_slow)
        return dsvk_fail(r->err, DSVK_FORMAT, "%s: %s.beta_fast is %g, less than beta_slow, %g", r->what, key,
                         out->beta_fast, out->beta_slow);
    if (original != floor(original) || original > MANY)
        return dsvk_fail(r->err, DSVK_FORMAT,
                         "%s: %s.original_max_position_embeddings is %g, allowed are whole numbers from 1 to %u",
                         r->what, key, original, MANY);
    if (magnitude != 1)
        return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: %s.attention_factor is %g, supported is 1", r->what, key,
                         magnitude);
    out->original_max_position = (uint32_t)original;
    return DSVK_OK;
}

/* A base from the top level or from its rope object; above 1, since YaRN divides by its logarithm. */
static dsvk_status read_theta(const struct reader *r, enum key key, const char *inside, dsvk_json_value rope,
                              double *out) {
    dsvk_json_value value;
    char name[80];
    snprintf(name, sizeof name, "%s.rope_theta", inside);
    if (rope.text && dsvk_json_find(rope, "rope_theta", &value))
        return read_real(r, name, value, 1, 1e12, out);
    if (has(r, key))
        return read_real(r, key_names[key], r->values[key], 1, 1e12, out);
    return missing(r, key_names[key]);
}

static dsvk_status read_rope(const struct reader *r, dsvk_config *config) {
    dsvk_json_value main = { 0 }, compress = { 0 };
    const char *yarn_key = "rope_scaling";
    dsvk_json_value yarn = r->values[KEY_rope_scaling];
    bool main_yarn = false;
    if (has(r, KEY_rope_parameters)) {
        dsvk_json_value both = r->values[KEY_rope_parameters];
        if (dsvk_json_kind(both) != '{')
            return bad_value(r, DSVK_FORMAT, "rope_parameters", both, "which is not an object");
        bool nested = dsvk_json_find(both, "main", &main) && dsvk_json_find(both, "compress", &compress);
        if (!nested) {
            main = (dsvk_json_value) { 0 };
            yarn_key = "rope_parameters";
            yarn = both; /* one set, which is that of the compressed layers */
        } else {
            if (dsvk_json_kind(main) != '{')
                return bad_value(r, DSVK_FORMAT, "rope_parameters.main", main, "which is not an object");
            yarn_key = "rope_parameters.compress";
            yarn = compress;
            DSVK_TRY(read_rope_type(r, "rope_parameters.main", main, &main_yarn));
        }
    }
    if (main_yarn)
        return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: rope_parameters.main is yarn, supported is default", r->what);
    if (yarn.text)
        DSVK_TRY(read_yarn(r, yarn_key, yarn, &config->yarn));
    DSVK_TRY(read_theta(r, KEY_rope_theta, "rope_parameters.main", main, &config->rope_theta));
    bool compressed = false;
    for (uint32_t l = 0; l < config->n_layers; l++)
        compressed |= config->compress_ratios[l] != 0;
    config->compress_rope_theta = config->rope_theta;
    if (!compressed && !compress.text && !has(r, KEY_compress_rope_theta))
        return DSVK_OK;
    return read_theta(r, KEY_compress_rope_theta, "rope_parameters.compress", compress, &config->compress_rope_theta);
}

/* qk_rope_head_dim, or in transformers 5 the share of head_dim that it is. */
static dsvk_status read_rope_dim(const struct reader *r, dsvk_config *config) {
    if (has(r, KEY_qk_rope_head_dim))
        return read_size(r, KEY_qk_rope_head_dim, 1, MANY, &config->rope_dim);
    if (!has(r, KEY_partial_rotary_factor))
        return missing(r, "qk_rope_head_dim");
    double factor;
    DSVK_TRY(read_real(r, "partial_rotary_factor", r->values[KEY_partial_rotary_factor], 0, 1, &factor));
    config->rope_dim = (uint32_t)(config->head_dim * factor);
    return DSVK_OK;
}

/* ---- token ids (C07) ---- */

static dsvk_status read_token_id(const struct reader *r, enum key key, uint32_t vocab_size, int32_t *out) {
    dsvk_json_value value = r->values[key];
    uint64_t id;
    char allowed[64];
    *out = -1;
    snprintf(allowed, sizeof allowed, "allowed are 0 to %u (vocab_size - 1)", vocab_size - 1);
    if (!has(r, key))
        return DSVK_OK;
    bool list = dsvk_json_kind(value) == '['; /* several that end a text; the first is the one to write */
    for (dsvk_json_walk walk = { 0 }; !list || dsvk_json_element(r->values[key], &walk, &value);) {
        if (!dsvk_json_uint(value, &id) || id >= vocab_size)
            return bad_value(r, DSVK_FORMAT, key_names[key], value, allowed);
        if (*out < 0)
            *out = (int32_t)id;
        if (!list)
            break;
    }
    return DSVK_OK;
}

/* ---- what must fit together (C02, C03) ---- */

struct divide_rule {
    const char *name;
    uint32_t value;
    const char *why;
    uint32_t by;
};

static dsvk_status check_divisors(const struct reader *r, const struct divide_rule *rules, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (rules[i].value % rules[i].by)
            return dsvk_fail(r->err, DSVK_FORMAT, "%s: %s is %u, which is not a multiple of %s, %u", r->what,
                             rules[i].name, rules[i].value, rules[i].why, rules[i].by);
    return DSVK_OK;
}

static dsvk_status check_heads(const struct reader *r, const dsvk_config *c) {
    uint32_t kv_heads = 1;
    if (has(r, KEY_num_key_value_heads))
        DSVK_TRY(read_size(r, KEY_num_key_value_heads, 1, SOME, &kv_heads));
    const struct divide_rule heads[] = {
        { "num_attention_heads", c->n_heads, "num_key_value_heads", kv_heads },
        { "num_attention_heads", c->n_heads, "o_groups", c->o_groups },
    };
    DSVK_TRY(check_divisors(r, heads, DSVK_COUNT(heads)));
    if (kv_heads != 1)
        return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: num_key_value_heads is %u, supported is 1", r->what, kv_heads);
    if (c->rope_dim >= c->head_dim)
        return dsvk_fail(r->err, DSVK_FORMAT, "%s: qk_rope_head_dim is %u, head_dim is %u and must be larger", r->what,
                         c->rope_dim, c->head_dim);
    const struct divide_rule widths[] = {
        { "qk_rope_head_dim", c->rope_dim ? c->rope_dim : 1, "the rows' granule", 16 },
        { "head_dim - qk_rope_head_dim", c->head_dim - c->rope_dim, "the cache's FP8 block", 64 },
        { "head_dim", c->head_dim, "the attention kernel's granule", 64 },
        { "index_head_dim", c->index_head_dim, "the index keys' FP4 block", 32 },
    };
    DSVK_TRY(check_divisors(r, widths, DSVK_COUNT(widths)));
    if (c->rope_dim > 256)
        return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: qk_rope_head_dim is %u, supported is at most 256", r->what,
                         c->rope_dim);
    if (c->index_head_dim < c->rope_dim)
        return dsvk_fail(r->err, DSVK_FORMAT, "%s: index_head_dim is %u, less than qk_rope_head_dim, %u", r->what,
                         c->index_head_dim, c->rope_dim);
    if (c->index_head_dim & (c->index_head_dim - 1))
        return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: index_head_dim is %u, supported are powers of two (Hadamard)",
                         r->what, c->index_head_dim);
    return DSVK_OK;
}

/* Every matrix's inputs come in blocks of 32: the FP4 scale's width, and what one 16-byte word of FP4 holds. */
static dsvk_status check_widths(const struct reader *r, const dsvk_config *c) {
    uint64_t ranks = (uint64_t)c->o_groups * c->o_lora_rank;
    uint64_t heads = (uint64_t)c->n_heads * c->head_dim, index = (uint64_t)c->index_n_heads * c->index_head_dim;
    if (ranks > MANY * 4u || heads > MANY * 4u || index > MANY * 4u)
        return dsvk_fail(r->err, DSVK_UNSUPPORTED,
                         "%s: rows of o_groups * o_lora_rank = %" PRIu64 ", num_attention_heads * "
                         "head_dim = %" PRIu64 " and index_n_heads * index_head_dim = %" PRIu64
                         ", supported is at most %u",
                         r->what, ranks, heads, index, MANY * 4u);
    const struct divide_rule widths[] = {
        { "hidden_size", c->hidden_size, "the weights' block", 32 },
        { "q_lora_rank", c->q_lora_rank, "the weights' block", 32 },
        { "moe_intermediate_size", c->moe_intermediate_size, "the weights' block", 32 },
        { "o_lora_rank", c->o_lora_rank, "the weights' block", 32 },
    };
    return check_divisors(r, widths, DSVK_COUNT(widths));
}

static dsvk_status check_experts(const struct reader *r, const dsvk_config *c) {
    uint32_t shared = 1, groups = 1, top_groups = 1;
    if (c->n_experts_per_token > c->n_experts)
        return dsvk_fail(r->err, DSVK_FORMAT, "%s: num_experts_per_tok is %u, n_routed_experts is %u", r->what,
                         c->n_experts_per_token, c->n_experts);
    if (has(r, KEY_n_shared_experts))
        DSVK_TRY(read_size(r, KEY_n_shared_experts, 0, SOME, &shared));
    if (has(r, KEY_n_group))
        DSVK_TRY(read_size(r, KEY_n_group, 1, SOME, &groups));
    if (has(r, KEY_topk_group))
        DSVK_TRY(read_size(r, KEY_topk_group, 1, SOME, &top_groups));
    DSVK_TRY(check_divisors(r, &(struct divide_rule) { "n_routed_experts", c->n_experts, "n_group", groups }, 1));
    if (top_groups > groups)
        return dsvk_fail(r->err, DSVK_FORMAT, "%s: topk_group is %u, n_group is %u", r->what, top_groups, groups);
    if (groups != 1)
        return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: n_group is %u, supported is 1", r->what, groups);
    if (shared != 1)
        return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: n_shared_experts is %u, supported is 1", r->what, shared);
    if (c->hc_mult != DSVK_HC_STREAMS)
        return dsvk_fail(r->err, DSVK_UNSUPPORTED, "%s: hc_mult is %u, supported is %u", r->what, c->hc_mult,
                         DSVK_HC_STREAMS);
    return DSVK_OK;
}

/* ---- the whole ---- */

static dsvk_status collect(struct reader *r, dsvk_json_value root) {
    dsvk_json_value key, value;
    if (dsvk_json_kind(root) != '{')
        return dsvk_fail(r->err, DSVK_FORMAT, "%s: is %s, a configuration is an object", r->what,
                         dsvk_json_kind_name(root));
    for (dsvk_json_walk walk = { 0 }; dsvk_json_member(root, &walk, &key, &value);)
        for (size_t i = 0; i < KEY_COUNT; i++)
            if (dsvk_json_kind(value) != 'n' && dsvk_json_equals(key, key_names[i]))
                r->values[i] = value;
    return DSVK_OK;
}

static dsvk_status read_config(const struct reader *r, dsvk_config *c) {
    DSVK_TRY(read_words(r));
    DSVK_TRY(read_sizes(r, c));
    DSVK_TRY(read_layers(r, c));
    DSVK_TRY(read_rope_dim(r, c));
    DSVK_TRY(read_rope(r, c));
    DSVK_TRY(read_float(r, KEY_routed_scaling_factor, 1e30, NAN, &c->route_scale));
    DSVK_TRY(read_swiglu_limit(r, c));
    DSVK_TRY(read_float(r, KEY_hc_eps, 1, 1e-6, &c->hc_eps));
    DSVK_TRY(read_float(r, KEY_rms_norm_eps, 1, 1e-6, &c->norm_eps));
    DSVK_TRY(read_token_id(r, KEY_bos_token_id, c->vocab_size, &c->bos_token_id));
    DSVK_TRY(read_token_id(r, KEY_eos_token_id, c->vocab_size, &c->eos_token_id));
    DSVK_TRY(read_token_id(r, KEY_pad_token_id, c->vocab_size, &c->pad_token_id));
    DSVK_TRY(check_heads(r, c));
    DSVK_TRY(check_widths(r, c));
    return check_experts(r, c);
}

dsvk_status dsvk_config_parse(dsvk_config *config, const char *text, size_t n, const char *what, dsvk_error *err) {
    struct reader r = { .what = what, .err = err };
    dsvk_config parsed = { 0 };
    dsvk_status status;
    memset(config, 0, sizeof *config);
    const char *kind = dsvk_looks_like(text, n < DSVK_LOOKS_LIKE_BYTES ? n : DSVK_LOOKS_LIKE_BYTES);
    if (kind)
        return dsvk_fail(err, DSVK_FORMAT, "%s: looks like %s", what, kind);
    DSVK_TRY(dsvk_json_check(text, n, what, err));
    DSVK_GOTO(collect(&r, dsvk_json_root(text, n)));
    DSVK_GOTO(read_config(&r, &parsed));
    *config = parsed;
    return DSVK_OK;
fail:
    dsvk_config_free(&parsed);
    return status;
}

dsvk_status dsvk_config_read(dsvk_config *config, const char *path, dsvk_error *err) {
    char joined[4096];
    struct stat st;
    char *text = NULL;
    size_t n;
    memset(config, 0, sizeof *config);
    if (!*path)
        return dsvk_fail(err, DSVK_INVALID, "path is empty");
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        if (!dsvk_path_join(joined, sizeof joined, path, "config.json"))
            return dsvk_fail(err, DSVK_IO, "the path of config.json is longer than %zu bytes", sizeof joined);
        path = joined;
    }
    dsvk_status status = dsvk_file_slurp(path, CONFIG_BYTES, &text, &n, err);
    if (status == DSVK_LIMIT) { /* perhaps it is no configuration at all */
        const char *kind = dsvk_file_looks_like(path);
        if (kind)
            return dsvk_fail(err, DSVK_FORMAT, "%s: looks like %s", path, kind);
    }
    if (status == DSVK_OK)
        status = dsvk_config_parse(config, text, n, path, err);
    dsvk_free(text);
    return status;
}

void dsvk_config_free(dsvk_config *config) {
    dsvk_free(config->compress_ratios);
    memset(config, 0, sizeof *config);
}

dsvk_status dsvk_config_json(const dsvk_config *c, json_t **out) {
    json_t *ratios = json_array();
    for (uint32_t i = 0; ratios && i <= c->n_layers; i++)
        json_array_append_new(ratios, json_integer(c->compress_ratios[i]));
    json_t *yarn = c->yarn.original_max_position
        ? json_pack("{s:f, s:i, s:f, s:f}", "factor", c->yarn.factor, "original_max_position",
                    (int)c->yarn.original_max_position, "beta_fast", c->yarn.beta_fast, "beta_slow", c->yarn.beta_slow)
        : json_null();
    json_t *root = json_pack("{s:o, s:o, s:f, s:f, s:f, s:f, s:f, s:f}", "compress_ratios", ratios, "yarn", yarn,
                             "rope_theta", c->rope_theta, "compress_rope_theta", c->compress_rope_theta, "route_scale",
                             c->route_scale, "swiglu_limit", c->swiglu_limit, "hc_eps", c->hc_eps, "norm_eps",
                             c->norm_eps);
    const struct {
        const char *name;
        int64_t value;
    } sizes[] = {
        { "vocab_size", c->vocab_size }, { "hidden_size", c->hidden_size }, { "n_layers", c->n_layers },
        { "n_hash_layers", c->n_hash_layers }, { "n_mtp_layers", c->n_mtp_layers }, { "n_heads", c->n_heads },
        { "head_dim", c->head_dim }, { "rope_dim", c->rope_dim }, { "q_lora_rank", c->q_lora_rank },
        { "o_groups", c->o_groups }, { "o_lora_rank", c->o_lora_rank }, { "sliding_window", c->sliding_window },
        { "max_positions", c->max_positions }, { "index_n_heads", c->index_n_heads },
        { "index_head_dim", c->index_head_dim }, { "index_topk", c->index_topk }, { "n_experts", c->n_experts },
        { "n_experts_per_token", c->n_experts_per_token }, { "moe_intermediate_size", c->moe_intermediate_size },
        { "hc_mult", c->hc_mult }, { "hc_sinkhorn_iters", c->hc_sinkhorn_iters }, { "bos_token_id", c->bos_token_id },
        { "eos_token_id", c->eos_token_id }, { "pad_token_id", c->pad_token_id },
    };
    bool complete = root != NULL;
    for (size_t i = 0; complete && i < DSVK_COUNT(sizes); i++)
        complete = json_object_set_new(root, sizes[i].name, json_integer(sizes[i].value)) == 0;
    if (!complete) {
        json_decref(root);
        return DSVK_NOMEM;
    }
    *out = root;
    return DSVK_OK;
}
