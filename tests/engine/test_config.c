/* config.json: every row C of the fault list that reading alone decides, and what a good file gives.
 *
 * Edge list: a size at 0, 1, its largest and one more; written as a fraction, in exponent form, as text, negative, too
 * long for 64 bits; every key missing; per-layer lists one short, one long, long with zeros; both spellings of
 * everything that has two; the transformers 5 form; hostile depth, keys and sizes; memory failing at every allocation.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "harness_files.h"

/* A small model with every kind of layer. */
static const struct {
    const char *key, *value;
} base[] = {
    { "architectures", "[\"DeepseekV4ForCausalLM\"]" },
    { "model_type", "\"deepseek_v4\"" },
    { "hidden_act", "\"silu\"" },
    { "scoring_func", "\"sqrtsoftplus\"" },
    { "topk_method", "\"noaux_tc\"" },
    { "norm_topk_prob", "true" },
    { "tie_word_embeddings", "false" },
    { "attention_bias", "false" },
    { "expert_dtype", "\"fp4\"" },
    { "quantization_config", "{\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"scale_fmt\": \"ue8m0\", "
                             "\"activation_scheme\": \"dynamic\", \"weight_block_size\": [128, 128]}" },
    { "vocab_size", "512" },
    { "hidden_size", "128" },
    { "num_hidden_layers", "4" },
    { "num_hash_layers", "1" },
    { "num_nextn_predict_layers", "1" },
    { "num_attention_heads", "4" },
    { "num_key_value_heads", "1" },
    { "head_dim", "128" },
    { "qk_rope_head_dim", "64" },
    { "q_lora_rank", "64" },
    { "o_groups", "2" },
    { "o_lora_rank", "64" },
    { "sliding_window", "64" },
    { "compress_ratios", "[0, 4, 128, 4, 0]" },
    { "rope_theta", "10000" },
    { "compress_rope_theta", "160000.0" },
    { "rope_scaling", "{\"type\": \"yarn\", \"factor\": 16, \"original_max_position_embeddings\": 65536, "
                      "\"beta_fast\": 32, \"beta_slow\": 1}" },
    { "max_position_embeddings", "4096" },
    { "index_n_heads", "4" },
    { "index_head_dim", "128" },
    { "index_topk", "8" },
    { "n_routed_experts", "8" },
    { "n_shared_experts", "1" },
    { "num_experts_per_tok", "2" },
    { "moe_intermediate_size", "64" },
    { "routed_scaling_factor", "1.5" },
    { "swiglu_limit", "10.0" },
    { "hc_mult", "4" },
    { "hc_sinkhorn_iters", "20" },
    { "hc_eps", "1e-06" },
    { "rms_norm_eps", "1e-06" },
    { "bos_token_id", "0" },
    { "eos_token_id", "1" },
};

/* The base with changes "key=value;key=value;key" (no value: without the key; a new key is added) as JSON text. */
static struct text changed(const char *changes) {
    struct text out = { 0 };
    char copy[8192], *state = NULL;
    const char *keys[16], *values[16];
    bool used[16] = { false };
    size_t n = 0;
    snprintf(copy, sizeof copy, "%s", changes);
    for (char *item = strtok_r(copy, ";", &state); item; item = strtok_r(NULL, ";", &state), n++) {
        char *equals = strchr(item, '=');
        if (equals)
            *equals = 0;
        keys[n] = item;
        values[n] = equals ? equals + 1 : NULL;
    }
    add(&out, "{");
    for (size_t i = 0; i < DSVK_COUNT(base); i++) {
        const char *value = base[i].value;
        for (size_t k = 0; k < n; k++)
            if (strcmp(keys[k], base[i].key) == 0)
                value = values[k], used[k] = true;
        if (value)
            add(&out, "%s\"%s\": %s", out.n > 1 ? ", " : "", base[i].key, value);
    }
    for (size_t k = 0; k < n; k++)
        if (!used[k] && values[k])
            add(&out, ", \"%s\": %s", keys[k], values[k]);
    add(&out, "}\n");
    return out;
}

static void check_good(int line) {
    dsvk_config config;
    dsvk_error err = { 0 };
    struct text text = changed("");
    dsvk_status status = dsvk_config_parse(&config, text.bytes, text.n, "config.json", &err);
    check_that(status == DSVK_OK, __FILE__, line, "the good configuration is refused after a bad one: %s", err.message);
    dsvk_config_free(&config);
    drop(&text);
}

/* The changed base is refused so, the configuration is zeroed, and the good one still loads (rule 5). */
static void refuses_text(const char *text, size_t n, dsvk_status wanted, const char *words, int line) {
    dsvk_config config;
    dsvk_error err = { 0 };
    memset(&config, 0xee, sizeof config);
    dsvk_status status = dsvk_config_parse(&config, text, n, "config.json", &err);
    check_refused(status, wanted, &err, words, __FILE__, line);
    static const dsvk_config zero;
    check_that(status == DSVK_OK || memcmp(&config, &zero, sizeof zero) == 0, __FILE__, line,
               "not zeroed after a failure");
    dsvk_config_free(&config);
    check_good(line);
}

static void refuses_at(const char *changes, dsvk_status wanted, const char *words, int line) {
    struct text text = changed(changes);
    refuses_text(text.bytes, text.n, wanted, words, line);
    drop(&text);
}
#define REFUSES(changes, wanted, words) refuses_at(changes, wanted, words, __LINE__)

static bool reads_at(const char *changes, dsvk_config *config, int line) {
    dsvk_error err = { 0 };
    struct text text = changed(changes);
    dsvk_status status = dsvk_config_parse(config, text.bytes, text.n, "config.json", &err);
    drop(&text);
    return check_that(status == DSVK_OK, __FILE__, line, "refused (%s): %s", changes, err.message);
}
#define READS(changes, config) reads_at(changes, config, __LINE__)

static void accepts_at(const char *changes, int line) {
    dsvk_config config;
    reads_at(changes, &config, line);
    dsvk_config_free(&config);
}
#define ACCEPTS(changes) accepts_at(changes, __LINE__)

static void test_every_field(void) {
    dsvk_config c;
    if (!READS("", &c))
        return;
    static const uint32_t ratios[] = { 0, 4, 128, 4, 0 };
    CHECK(c.vocab_size == 512 && c.hidden_size == 128 && c.n_layers == 4 && c.n_hash_layers == 1 && c.n_mtp_layers == 1,
          "sizes");
    CHECK(c.n_heads == 4 && c.head_dim == 128 && c.rope_dim == 64 && c.q_lora_rank == 64 && c.o_groups == 2 &&
          c.o_lora_rank == 64 && c.sliding_window == 64, "attention");
    CHECK(memcmp(c.compress_ratios, ratios, sizeof ratios) == 0, "ratios");
    CHECK(c.rope_theta == 10000 && c.compress_rope_theta == 160000 && c.yarn.factor == 16 &&
          c.yarn.original_max_position == 65536 && c.yarn.beta_fast == 32 && c.yarn.beta_slow == 1, "rope");
    CHECK(c.max_positions == 4096 && c.index_n_heads == 4 && c.index_head_dim == 128 && c.index_topk == 8, "index");
    CHECK(c.n_experts == 8 && c.n_experts_per_token == 2 && c.moe_intermediate_size == 64 && c.route_scale == 1.5 &&
          c.swiglu_limit == 10, "experts");
    CHECK(c.hc_mult == 4 && c.hc_sinkhorn_iters == 20 && c.hc_eps == 1e-6 && c.norm_eps == 1e-6, "hyper-connections");
    CHECK(c.bos_token_id == 0 && c.eos_token_id == 1 && c.pad_token_id == -1, "tokens");
    dsvk_config_free(&c);
}

static void test_json(void) {
    dsvk_config c;
    json_t *json = NULL;
    char *text = NULL;
    dsvk_error err;
    if (!READS("rope_scaling=null", &c))
        return;
    CHECK(dsvk_config_json(&c, &json) == DSVK_OK, "json");
    CHECK(json_integer_value(json_object_get(json, "vocab_size")) == 512, "vocab_size");
    CHECK(json_array_size(json_object_get(json, "compress_ratios")) == 5, "compress_ratios");
    CHECK(json_real_value(json_object_get(json, "norm_eps")) == 1e-6, "norm_eps");
    CHECK(json_is_null(json_object_get(json, "yarn")), "yarn");
    CHECK(dsvk_json_text(json, &text, &err) == DSVK_OK && strstr(text, "\"hc_eps\": 1e-6"), "text: %s", text);
    dsvk_free(text);
    dsvk_config_free(&c);
}

static void test_defaults(void) {
    dsvk_config c;
    if (READS("hc_mult;hc_sinkhorn_iters;hc_eps;rms_norm_eps;swiglu_limit;num_hash_layers;num_nextn_predict_layers;"
              "rope_scaling;bos_token_id;eos_token_id;quantization_config;expert_dtype;num_key_value_heads;"
              "n_shared_experts",
              &c))
        CHECK(c.hc_mult == 4 && c.hc_sinkhorn_iters == 20 && c.hc_eps == 1e-6 && c.norm_eps == 1e-6 &&
                  c.swiglu_limit == 0 && c.n_hash_layers == 0 && c.n_mtp_layers == 0 &&
                  c.yarn.original_max_position == 0 && c.bos_token_id == -1 && c.eos_token_id == -1,
              "defaults");
    dsvk_config_free(&c);
    if (READS("swiglu_limit=null;eos_token_id=[5, 7];pad_token_id=2", &c))
        CHECK(c.swiglu_limit == 0 && c.eos_token_id == 5 && c.pad_token_id == 2, "null and lists");
    dsvk_config_free(&c);
    if (READS("compress_rope_theta;compress_ratios=[0,0,0,0,0]", &c))
        CHECK(c.compress_rope_theta == 10000, "nothing compressed needs no second base");
    dsvk_config_free(&c);
}

/* The form transformers 5 writes. */
static void test_transformers_form(void) {
    dsvk_config c;
    static const uint32_t ratios[] = { 0, 4, 128, 4, 0 };
    if (READS("compress_ratios;num_hash_layers;qk_rope_head_dim;rope_scaling;rope_theta;compress_rope_theta;"
              "layer_types=[\"sliding_attention\", \"compressed_sparse_attention\", \"heavily_compressed_attention\", "
              "\"compressed_sparse_attention\"];"
              "compress_rates={\"compressed_sparse_attention\": 4, \"heavily_compressed_attention\": 128};"
              "mlp_layer_types=[\"hash_moe\", \"hash_moe\", \"moe\", \"moe\"];partial_rotary_factor=0.5;"
              "rope_parameters={\"main\": {\"rope_type\": \"default\", \"rope_theta\": 5000.0, "
              "\"partial_rotary_factor\": 0.5}, "
              "\"compress\": {\"rope_type\": \"yarn\", \"type\": \"yarn\", \"rope_theta\": 90000.0, \"factor\": 8.0, "
              "\"original_max_position_embeddings\": 1024, \"attention_factor\": 1.0}}",
              &c)) {
        CHECK(memcmp(c.compress_ratios, ratios, sizeof ratios) == 0 && c.n_hash_layers == 2 && c.rope_dim == 64,
              "lists");
        CHECK(c.rope_theta == 5000 && c.compress_rope_theta == 90000 && c.yarn.factor == 8 &&
              c.yarn.original_max_position == 1024 && c.yarn.beta_fast == 32 && c.yarn.beta_slow == 1, "rope");
    }
    dsvk_config_free(&c);
    if (READS("rope_scaling;rope_parameters={\"rope_type\": \"yarn\", \"factor\": 4, "
              "\"original_max_position_embeddings\": 512}",
              &c))
        CHECK(c.yarn.factor == 4 && c.rope_theta == 10000 && c.compress_rope_theta == 160000,
              "one set of rope parameters");
    dsvk_config_free(&c);
    REFUSES("mlp_layer_types=[\"moe\", \"hash_moe\", \"moe\", \"moe\"]", DSVK_UNSUPPORTED,
            "mlp_layer_types[1]|hash_moe");
    REFUSES("mlp_layer_types=[\"hash_moe\", \"hash_moe\", \"moe\", \"moe\"]", DSVK_FORMAT,
            "2 hash layers|num_hash_layers is 1");
    REFUSES("mlp_layer_types=[\"moe\"]", DSVK_FORMAT, "mlp_layer_types has 1 entries|4");
    REFUSES("mlp_layer_types=[\"dense\"]", DSVK_UNSUPPORTED, "dense|hash_moe moe");
    REFUSES("rope_parameters={\"main\": {\"rope_type\": \"yarn\", \"rope_theta\": 5}, \"compress\": {}}",
            DSVK_UNSUPPORTED, "rope_parameters.main|yarn");
    REFUSES("compress_rates={\"compressed_sparse_attention\": 8}", DSVK_UNSUPPORTED,
            "compress_rates.compressed_sparse_attention is 8|4");
    REFUSES("qk_rope_head_dim;partial_rotary_factor=1.5", DSVK_FORMAT, "partial_rotary_factor is 1.5");
}

static void test_C01_sizes(void) {
    static const struct {
        const char *key;
        uint32_t most; /* FORMAT above */
        bool zero;     /* 0 is allowed */
    } sizes[] = {
        { "vocab_size", 4u << 20, false },
        { "hidden_size", 1u << 20, false },
        { "num_hidden_layers", 4096, false },
        { "num_hash_layers", 4096, true },
        { "num_nextn_predict_layers", 4096, true },
        { "num_attention_heads", 4096, false },
        { "num_key_value_heads", 4096, false },
        { "head_dim", 1u << 20, false },
        { "qk_rope_head_dim", 1u << 20, false },
        { "q_lora_rank", 1u << 20, false },
        { "o_groups", 4096, false },
        { "o_lora_rank", 1u << 20, false },
        { "sliding_window", 1u << 20, false },
        { "max_position_embeddings", 1u << 20, false },
        { "index_n_heads", 4096, false },
        { "index_head_dim", 1u << 20, false },
        { "index_topk", 1u << 20, false },
        { "n_routed_experts", 4096, false },
        { "n_shared_experts", 4096, true },
        { "num_experts_per_tok", 4096, false },
        { "moe_intermediate_size", 1u << 20, false },
        { "hc_mult", 1u << 20, false },
        { "hc_sinkhorn_iters", 1u << 20, false },
    };
    static const char *const values[] = { "-1",
                                          "-0",
                                          "1.5",
                                          "4.0",
                                          "4e0",
                                          "1e400",
                                          "\"4\"",
                                          "true",
                                          "[4]",
                                          "{}",
                                          "18446744073709551615",
                                          "18446744073709551616",
                                          "99999999999999999999999999" };
    for (size_t i = 0; i < DSVK_COUNT(sizes); i++) {
        char changes[128], words[128];
        for (size_t v = 0; v < DSVK_COUNT(values); v++) {
            snprintf(changes, sizeof changes, "%s=%s", sizes[i].key, values[v]);
            snprintf(words, sizeof words, "%s is %s|from %d to %u", sizes[i].key, values[v], !sizes[i].zero,
                     sizes[i].most);
            REFUSES(changes, DSVK_FORMAT, words);
        }
        snprintf(changes, sizeof changes, "%s=%u", sizes[i].key, sizes[i].most + 1);
        snprintf(words, sizeof words, "%s is %u|to %u", sizes[i].key, sizes[i].most + 1, sizes[i].most);
        REFUSES(changes, DSVK_FORMAT, words);
        snprintf(changes, sizeof changes, "%s=0", sizes[i].key);
        snprintf(words, sizeof words, "%s is 0|allowed are whole numbers from 1", sizes[i].key);
        if (!sizes[i].zero)
            REFUSES(changes, DSVK_FORMAT, words);
    }
    REFUSES("sliding_window=4097", DSVK_UNSUPPORTED, "sliding_window is 4097|at most 4096");
    REFUSES("index_topk=4097", DSVK_UNSUPPORTED, "index_topk is 4097|at most 4096");
    REFUSES("head_dim=576", DSVK_UNSUPPORTED, "head_dim is 576|at most 512");
    REFUSES("num_nextn_predict_layers=2", DSVK_UNSUPPORTED, "num_nextn_predict_layers is 2|at most 1");
    REFUSES("hc_mult=2", DSVK_UNSUPPORTED, "hc_mult is 2|supported is 4");
    REFUSES("num_experts_per_tok=17;n_routed_experts=32", DSVK_UNSUPPORTED, "num_experts_per_tok is 17|at most 16");
    ACCEPTS("sliding_window=4096;index_topk=4096;num_experts_per_tok=16;n_routed_experts=4096;vocab_size=4194304");
    ACCEPTS("sliding_window=1;index_topk=1;num_experts_per_tok=1;n_routed_experts=1;vocab_size=2;max_position_"
            "embeddings=1");
}

static void test_C02_divisors(void) {
    REFUSES("num_attention_heads=3", DSVK_FORMAT, "num_attention_heads is 3|o_groups, 2");
    REFUSES("num_key_value_heads=3", DSVK_FORMAT, "num_attention_heads is 4|num_key_value_heads, 3");
    REFUSES("num_key_value_heads=2", DSVK_UNSUPPORTED, "num_key_value_heads is 2|1");
    REFUSES("n_group=3", DSVK_FORMAT, "n_routed_experts is 8|n_group, 3");
    REFUSES("n_group=2", DSVK_UNSUPPORTED, "n_group is 2|1");
    REFUSES("hidden_size=100", DSVK_FORMAT, "hidden_size is 100|32");
    REFUSES("q_lora_rank=48", DSVK_FORMAT, "q_lora_rank is 48|32");
    REFUSES("moe_intermediate_size=65", DSVK_FORMAT, "moe_intermediate_size is 65|32");
    REFUSES("o_lora_rank=40", DSVK_FORMAT, "o_lora_rank is 40|32");
    REFUSES("qk_rope_head_dim=24", DSVK_FORMAT, "qk_rope_head_dim is 24|16");
    REFUSES("qk_rope_head_dim=32", DSVK_FORMAT, "head_dim - qk_rope_head_dim is 96|64");
    REFUSES("qk_rope_head_dim=128", DSVK_FORMAT, "qk_rope_head_dim is 128|head_dim is 128");
    REFUSES("head_dim=448;qk_rope_head_dim=320", DSVK_UNSUPPORTED, "qk_rope_head_dim is 320|256");
    REFUSES("head_dim=96;qk_rope_head_dim=32", DSVK_FORMAT, "head_dim is 96|64");
    REFUSES("index_head_dim=48", DSVK_FORMAT, "index_head_dim is 48|32");
    REFUSES("index_head_dim=32", DSVK_FORMAT, "index_head_dim is 32|qk_rope_head_dim, 64");
    REFUSES("index_head_dim=96", DSVK_UNSUPPORTED, "index_head_dim is 96|powers of two");
    REFUSES("num_attention_heads=4096;head_dim=512;o_groups=4096;o_lora_rank=2048", DSVK_UNSUPPORTED,
            "8388608|4194304");
    ACCEPTS("num_attention_heads=3;o_groups=1;head_dim=320;qk_rope_head_dim=64;index_head_dim=64;hidden_size=96");
}

static void test_C03_experts(void) {
    REFUSES("num_experts_per_tok=9", DSVK_FORMAT, "num_experts_per_tok is 9|n_routed_experts is 8");
    REFUSES("n_group=1;topk_group=2", DSVK_FORMAT, "topk_group is 2|n_group is 1");
    REFUSES("n_shared_experts=-1", DSVK_FORMAT, "n_shared_experts is -1");
    REFUSES("n_shared_experts=0", DSVK_UNSUPPORTED, "n_shared_experts is 0|1");
    REFUSES("n_shared_experts=2", DSVK_UNSUPPORTED, "n_shared_experts is 2|1");
    ACCEPTS("n_group=1;topk_group=1");
}

static void test_C04_layer_lists(void) {
    REFUSES("compress_ratios=[0, 4, 128]", DSVK_FORMAT, "compress_ratios has 3 entries|num_hidden_layers is 4");
    REFUSES("compress_ratios=[]", DSVK_FORMAT, "compress_ratios has 0 entries");
    REFUSES("compress_ratios=[0, 4, 128, 4, 0, 4]", DSVK_FORMAT, "compress_ratios has 6 entries|4");
    REFUSES("compress_ratios=[0, 4, 128, 4, 4]", DSVK_UNSUPPORTED, "compress_ratios[4] is 4|MTP");
    REFUSES("compress_ratios=[0, 2, 128, 4, 0]", DSVK_UNSUPPORTED, "compress_ratios[1] is 2|0, 4 and 128");
    REFUSES("compress_ratios=[0, -4, 128, 4, 0]", DSVK_FORMAT, "compress_ratios[1] is -4");
    REFUSES("compress_ratios=[0, \"4\", 128, 4, 0]", DSVK_FORMAT, "compress_ratios[1] is \"4\"");
    REFUSES("compress_ratios={}", DSVK_FORMAT, "compress_ratios");
    REFUSES("layer_types=[\"sliding_attention\"]", DSVK_FORMAT, "layer_types has 1 entries|4");
    REFUSES("layer_types=[\"full_attention\"]", DSVK_UNSUPPORTED, "layer_types[0]|full_attention|sliding_attention");
    REFUSES("layer_types=[\"heavily_compressed_attention\"]", DSVK_FORMAT,
            "layer_types[0]|128|compress_ratios[0] is 0");
    REFUSES("layer_types=[3]", DSVK_FORMAT, "layer_types[0] is 3");
    REFUSES("num_hash_layers=5", DSVK_FORMAT, "num_hash_layers is 5|num_hidden_layers is 4");
    ACCEPTS("compress_ratios=[0, 4, 128, 4]");
    ACCEPTS("compress_ratios=[0, 4, 128, 4, 0, 0, 0]"); /* as published with three draft stages */
}

static void test_C05_reals(void) {
    static const char *const keys[] = { "hc_eps", "rms_norm_eps", "rope_theta", "compress_rope_theta",
                                        "routed_scaling_factor" };
    static const char *const values[] = { "0",      "-1",       "0.0", "-1e-6", "1e400",
                                          "-1e400", "\"1e-6\"", "[]",  "true",  "1e-400" };
    for (size_t i = 0; i < DSVK_COUNT(keys); i++)
        for (size_t v = 0; v < DSVK_COUNT(values); v++) {
            char changes[64], words[64];
            snprintf(changes, sizeof changes, "%s=%s", keys[i], values[v]);
            snprintf(words, sizeof words, "%s is %s|allowed are numbers", keys[i], values[v]);
            REFUSES(changes, DSVK_FORMAT, words);
        }
    REFUSES("rms_norm_eps=NaN", DSVK_FORMAT, "offset");
    REFUSES("rms_norm_eps=Infinity", DSVK_FORMAT, "offset");
    REFUSES("rms_norm_eps=1e-50", DSVK_FORMAT, "rms_norm_eps is 1e-50|single precision");
    REFUSES("swiglu_limit=-1", DSVK_FORMAT, "swiglu_limit is -1");
    REFUSES("rope_theta=1", DSVK_FORMAT, "rope_theta is 1");
    static const char yarn[] = "\"original_max_position_embeddings\": 64";
    char changes[200];
    static const struct {
        const char *members;
        dsvk_status status;
        const char *words;
    } rows[] = {
        { "\"type\": \"yarn\", \"factor\": 0", DSVK_FORMAT, "rope_scaling.factor is 0" },
        { "\"type\": \"yarn\", \"factor\": -2", DSVK_FORMAT, "rope_scaling.factor is -2" },
        { "\"type\": \"yarn\", \"factor\": 1e400", DSVK_FORMAT, "rope_scaling.factor is 1e400" },
        { "\"type\": \"yarn\"", DSVK_FORMAT, "rope_scaling.factor|missing" },
        { "\"type\": \"yarn\", \"factor\": 2, \"beta_fast\": 0", DSVK_FORMAT, "rope_scaling.beta_fast is 0" },
        { "\"type\": \"yarn\", \"factor\": 2, \"beta_fast\": 1, \"beta_slow\": 2", DSVK_FORMAT,
          "beta_fast is 1|beta_slow, 2" },
        { "\"type\": \"yarn\", \"factor\": 2, \"attention_factor\": 1.2", DSVK_UNSUPPORTED, "attention_factor is 1.2" },
        { "\"type\": \"linear\", \"factor\": 2", DSVK_UNSUPPORTED, "rope_scaling.type is \"linear\"|yarn default" },
        { "\"rope_type\": \"llama3\"", DSVK_UNSUPPORTED, "rope_scaling.rope_type is \"llama3\"" },
        { "\"rope_type\": 3", DSVK_FORMAT, "rope_scaling.rope_type is 3" },
        { "\"type\": \"yarn\", \"rope_type\": \"default\", \"factor\": 2", DSVK_FORMAT, "differ" },
    };
    for (size_t i = 0; i < DSVK_COUNT(rows); i++) {
        snprintf(changes, sizeof changes, "rope_scaling={%s, %s}", rows[i].members, yarn);
        REFUSES(changes, rows[i].status, rows[i].words);
    }
    REFUSES("rope_scaling={\"type\": \"yarn\", \"factor\": 2}", DSVK_FORMAT,
            "rope_scaling.original_max_position_embeddings|missing");
    REFUSES("rope_scaling={\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 1.5}", DSVK_FORMAT,
            "original_max_position_embeddings is 1.5");
    REFUSES("rope_scaling=\"yarn\"", DSVK_FORMAT, "rope_scaling");
    ACCEPTS("rope_scaling={\"rope_type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 64}");
    ACCEPTS("rope_scaling={\"rope_type\": \"default\"}");
}

static void test_C06_words(void) {
    REFUSES("architectures=[\"DeepseekV41ForCausalLM\"]", DSVK_UNSUPPORTED,
            "DeepseekV41ForCausalLM|DeepseekV4ForCausalLM");
    REFUSES("architectures=\"DeepseekV4ForCausalLM\"", DSVK_FORMAT, "architectures");
    REFUSES("architectures=[]", DSVK_FORMAT, "architectures");
    REFUSES("model_type=\"llama\"", DSVK_UNSUPPORTED, "model_type|llama|deepseek_v4");
    REFUSES("hidden_act=\"gelu\"", DSVK_UNSUPPORTED, "hidden_act|gelu|silu");
    REFUSES("hidden_act=3", DSVK_FORMAT, "hidden_act is 3");
    REFUSES("scoring_func=\"sigmoid\"", DSVK_UNSUPPORTED, "scoring_func|sigmoid|sqrtsoftplus");
    REFUSES("topk_method=\"greedy\"", DSVK_UNSUPPORTED, "topk_method|greedy|noaux_tc");
    REFUSES("expert_dtype=\"nvfp4\"", DSVK_UNSUPPORTED, "expert_dtype|nvfp4|fp4 fp8");
    REFUSES("norm_topk_prob=false", DSVK_UNSUPPORTED, "norm_topk_prob is false");
    REFUSES("norm_topk_prob=1", DSVK_FORMAT, "norm_topk_prob is 1");
    REFUSES("tie_word_embeddings=true", DSVK_UNSUPPORTED, "tie_word_embeddings is true");
    REFUSES("attention_bias=true", DSVK_UNSUPPORTED, "attention_bias is true");
    REFUSES("quantization_config={\"quant_method\": \"awq\"}", DSVK_UNSUPPORTED, "quant_method|awq|known: fp8");
    REFUSES("quantization_config={\"fmt\": \"e5m2\"}", DSVK_UNSUPPORTED, "fmt|e5m2|e4m3");
    REFUSES("quantization_config={\"weight_block_size\": [32, 32]}", DSVK_UNSUPPORTED, "[32, 32]|[128, 128]");
    REFUSES("quantization_config={\"weight_block_size\": [128]}", DSVK_FORMAT, "weight_block_size is [128]");
    REFUSES("quantization_config=7", DSVK_FORMAT, "quantization_config is 7");
    ACCEPTS("architectures");
    ACCEPTS("model_type");
    ACCEPTS("expert_dtype=\"fp8\"");
}

static void test_C07_token_ids(void) {
    REFUSES("bos_token_id=512", DSVK_FORMAT, "bos_token_id is 512|0 to 511");
    REFUSES("eos_token_id=-1", DSVK_FORMAT, "eos_token_id is -1|0 to 511");
    REFUSES("pad_token_id=512", DSVK_FORMAT, "pad_token_id is 512|0 to 511");
    REFUSES("eos_token_id=[1, 512]", DSVK_FORMAT, "eos_token_id is 512|0 to 511");
    REFUSES("eos_token_id=\"1\"", DSVK_FORMAT, "eos_token_id");
    ACCEPTS("bos_token_id=511;eos_token_id=null;pad_token_id=0");
}

static void test_C09_missing_and_unknown(void) {
    static const char *const needed[] = { "vocab_size",
                                          "hidden_size",
                                          "num_hidden_layers",
                                          "num_attention_heads",
                                          "head_dim",
                                          "qk_rope_head_dim",
                                          "q_lora_rank",
                                          "o_groups",
                                          "o_lora_rank",
                                          "sliding_window",
                                          "compress_ratios",
                                          "rope_theta",
                                          "compress_rope_theta",
                                          "max_position_embeddings",
                                          "index_n_heads",
                                          "index_head_dim",
                                          "index_topk",
                                          "n_routed_experts",
                                          "num_experts_per_tok",
                                          "moe_intermediate_size",
                                          "routed_scaling_factor" };
    for (size_t i = 0; i < DSVK_COUNT(needed); i++) {
        char changes[64], words[64];
        snprintf(words, sizeof words, "the key %s is missing", needed[i]);
        REFUSES(needed[i], DSVK_FORMAT, words);
        snprintf(changes, sizeof changes, "%s=null", needed[i]);
        REFUSES(changes, DSVK_FORMAT, words);
    }
    REFUSES("architectures;model_type", DSVK_FORMAT, "architectures|missing");
    ACCEPTS("something_new={\"a\": [1, 2, {\"b\": null}]};chat_template=\"{{ x }}\"");
}

static void test_C11_limits(void) {
    dsvk_config config;
    dsvk_error err;
    struct text text = changed("");
    put_sparse(in("huge.json"), text.bytes, text.n, (256u << 20) + 1);
    CHECK_REFUSED(dsvk_config_read(&config, in("huge.json"), &err), DSVK_LIMIT, &err, "huge.json|268435457|268435456");
    text.n -= 2; /* the closing brace */
    add(&text, ", \"");
    for (size_t i = 0; i < (1u << 20) + 1; i++)
        add_bytes(&text, "k", 1);
    add(&text, "\": 1}");
    refuses_text(text.bytes, text.n, DSVK_LIMIT, "key of 1048577 bytes|1048576", __LINE__);
    drop(&text);
}

static void test_M04_depth(void) {
    struct text text = { 0 };
    for (int i = 0; i < 100000; i++)
        add(&text, i % 2 ? "[" : "{\"a\":");
    refuses_text(text.bytes, text.n, DSVK_LIMIT, "config.json|deeper than 64|offset", __LINE__);
    drop(&text);
}

static void test_M05_duplicate_keys(void) {
    REFUSES("vocab_size=512, \"vocab_size\": 512", DSVK_FORMAT, "duplicate key \"vocab_size\"|offset");
    REFUSES("vocab_size=512, \"voc\\u0061b_size\": 512", DSVK_FORMAT, "duplicate key \"vocab_size\"|offset");
    REFUSES("rope_scaling={\"type\": \"yarn\", \"type\": \"yarn\"}", DSVK_FORMAT, "duplicate key \"type\"");
    REFUSES("other={\"\\ud83d\\ude00\": 1, \"\xf0\x9f\x98\x80\": 2}", DSVK_FORMAT, "duplicate key");
}

/* Cut anywhere, and each byte replaced: a sentence or a configuration, never a crash (M01, M03). */
static void test_M03_damaged_text(void) {
    struct text text = changed("");
    dsvk_config config;
    dsvk_error err;
    for (size_t n = 0; n < text.n - 2; n++) {
        dsvk_status status = dsvk_config_parse(&config, text.bytes, n, "config.json", &err);
        CHECK_REFUSED(status, DSVK_FORMAT, &err, "config.json|offset");
    }
    static const char replacements[] = { 0,   ' ',  '"', '{', '}', '[',    ']',    ',',
                                         ':', '\\', '9', '-', 'e', '\x80', '\xff', '\n' };
    for (size_t at = 0; at < text.n; at++)
        for (size_t r = 0; r < sizeof replacements; r++) {
            char old = text.bytes[at];
            text.bytes[at] = replacements[r];
            err.message[0] = 0;
            dsvk_status status = dsvk_config_parse(&config, text.bytes, text.n, "config.json", &err);
            CHECK(status == DSVK_OK || (err.message[0] && err.status == status), "byte %zu, no sentence", at);
            dsvk_config_free(&config);
            text.bytes[at] = old;
        }
    drop(&text);
    static const struct {
        const char *text, *words;
    } rows[] = {
        { "", "offset 0" },
        { "  ", "offset 2" },
        { "[]", "an array" },
        { "7", "a number" },
        { "null", "null" },
        { "{} x", "offset 3" },
        { "{}{}", "offset 2" },
        { "\xef\xbb\xbf{}", "offset 0" },
        { "{\"a\": \"\xc0\x80\"}", "UTF-8|offset 7" },
        { "{\"a\": \"\xe0\x80\x80\"}", "UTF-8" },
        { "{\"a\": \"\xf0\x80\x80\x80\"}", "UTF-8" },
        { "{\"a\": \"\xf5\x80\x80\x80\"}", "UTF-8" },
        { "{\"a\": \"\xe2\x82\"}", "UTF-8" },
        { "{\"a\": \"\x80\"}", "UTF-8" },
        { "{\"a\": \"\xed\xa0\x80\"}", "UTF-8" },
        { "{\"a\": \"\xf4\x90\x80\x80\"}", "UTF-8" },
        { "{\"a\": \"\\ud800\"}", "surrogate|offset 7" },
        { "{\"a\": \"\\udc00\"}", "surrogate" },
        { "{\"a\": \"\\u00zz\"}", "hexadecimal" },
        { "{\"a\": \"\\u0000\"}", "NUL" },
        { "{\"a\": \"\\x\"}", "escape" },
        { "{\"a\": 01}", "number" },
        { "{\"a\": 1.}", "number" },
        { "{\"a\": -}", "number" },
        { "{\"a\": 1e}", "number" },
        { "{\"a\": +1}", "offset 6" },
        { "{\"a\": tru}", "offset 6" },
        { "{\"a\" 1}", "':'" },
        { "{a: 1}", "key" },
        { "{\"a\": 1,}", "key" },
        { "{\"a\": [1,]}", "offset" },
        { "{\"a\": \"\t\"}", "control" },
        { "{\"a\": 1]", "'}'" },
        { "{'a': 1}", "key" },
        { "{\"a\": 1 \"b\": 2}", "','" },
        { "{\"a\": [1 2]}", "','" },
    };
    for (size_t i = 0; i < DSVK_COUNT(rows); i++)
        refuses_text(rows[i].text, strlen(rows[i].text), DSVK_FORMAT, rows[i].words, __LINE__);
    refuses_text("{\"a\": \0}", 8, DSVK_FORMAT, "NUL|offset 6", __LINE__);
}

static void test_M18_paths(void) {
    dsvk_config config;
    dsvk_error err;
    struct text text = changed("");
    make_folder(in("model"));
    CHECK_REFUSED(dsvk_config_read(&config, in("model"), &err), DSVK_IO, &err, "model/config.json|No such file");
    put_file(in("model/config.json"), text.bytes, text.n);
    for (int i = 0; i < 2; i++) {
        dsvk_status status = dsvk_config_read(&config, i ? in("model/config.json") : in("model"), &err);
        CHECK(status == DSVK_OK && config.vocab_size == 512, "%s", err.message);
        dsvk_config_free(&config);
    }
    mkfifo(in("fifo"), 0600);
    CHECK_REFUSED(dsvk_config_read(&config, in("fifo"), &err), DSVK_IO, &err, "FIFO");
    CHECK_REFUSED(dsvk_config_read(&config, "/dev/null", &err), DSVK_IO, &err, "device");
    CHECK_REFUSED(dsvk_config_read(&config, in("absent"), &err), DSVK_IO, &err, "absent|No such file");
    remove_tree(in("model"));
    drop(&text);
}

static void test_M27_other_files(void) {
    static const struct {
        const char *text, *words;
    } rows[] = {
        { "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS" },
        { "\n <!DOCTYPE html><html>", "HTML" },
        { "PK\3\4....", "zip" },
        { "GGUF\3", "GGUF" },
        { "{\"error\": \"Repository not found\"}", "error|Repository not found" },
    };
    for (size_t i = 0; i < DSVK_COUNT(rows); i++)
        refuses_text(rows[i].text, strlen(rows[i].text), DSVK_FORMAT, rows[i].words, __LINE__);
    dsvk_config config;
    dsvk_error err;
    put_sparse(in("big.bin"), "PK\3\4", 4, (256u << 20) + 1);
    CHECK_REFUSED(dsvk_config_read(&config, in("big.bin"), &err), DSVK_FORMAT, &err, "big.bin|zip");
}

static void test_A06_memory_fails(void) {
    struct text text = changed("");
    dsvk_config config;
    dsvk_error err;
    dsvk_status status = DSVK_NOMEM;
    put_file(in("config.json"), text.bytes, text.n);
    int64_t live = dsvk_alloc_live(), n = 0;
    for (; status != DSVK_OK && n < 100; n++) {
        dsvk_alloc_fail_after(n);
        status = dsvk_config_read(&config, in("config.json"), &err);
        dsvk_alloc_fail_after(-1);
        CHECK(status == DSVK_OK || status == DSVK_NOMEM, "allocation %lld: %s", (long long)n, err.message);
        dsvk_config_free(&config);
        CHECK(dsvk_alloc_live() == live, "allocation %lld leaks", (long long)n);
    }
    CHECK(status == DSVK_OK && n > 3, "%lld allocations", (long long)n);
    drop(&text);
}

static const struct test tests[] = {
    TEST(test_every_field),      TEST(test_json),
    TEST(test_defaults),         TEST(test_transformers_form),
    TEST(test_C01_sizes),        TEST(test_C02_divisors),
    TEST(test_C03_experts),      TEST(test_C04_layer_lists),
    TEST(test_C05_reals),        TEST(test_C06_words),
    TEST(test_C07_token_ids),    TEST(test_C09_missing_and_unknown),
    TEST(test_C11_limits),       TEST(test_M03_damaged_text),
    TEST(test_M04_depth),        TEST(test_M05_duplicate_keys),
    TEST(test_M18_paths),        TEST(test_M27_other_files),
    TEST(test_A06_memory_fails),
};

int main(int argc, char **argv) { return run_tests(tests, DSVK_COUNT(tests), argc, argv); }
