/* Names of tensors: from the Hugging Face spellings (spec 2.4, A.1) to the native one of spec 2.2. A name is a list of
 * components between dots; each is renamed by a table, and what it means may depend on the component before it:
 * gate_proj is w1 in an expert and wgate in a compressor. */
#include "safetensors.h"

#include <string.h>

#define MAX_COMPONENTS 16

struct part {
    const char *text;
    size_t n;
};

struct rename {
    const char *from, *to;
};

static const struct rename anywhere[] = {
    { "self_attn", "attn" },
    { "mlp", "ffn" },
    { "embed_tokens", "embed" },
    { "lm_head", "head" },
    { "input_layernorm", "attn_norm" },
    { "post_attention_layernorm", "ffn_norm" },
    { "sinks", "attn_sink" },
    { "q_a_proj", "wq_a" },
    { "q_b_proj", "wq_b" },
    { "kv_proj", "wkv" },
    { "o_a_proj", "wo_a" },
    { "o_b_proj", "wo_b" },
    { "q_a_norm", "q_norm" },
    { "q_a_layernorm", "q_norm" },
    { "kv_a_layernorm", "kv_norm" },
    { "gate_proj", "w1" },
    { "down_proj", "w2" },
    { "up_proj", "w3" },
    { "e_score_correction_bias", "bias" },
    { "weight_scale_inv", "scale" },
    { NULL, NULL },
};

static const struct rename in_compressor[] = {
    { "kv_proj", "wkv" },
    { "gate_proj", "wgate" },
    { "position_bias", "ape" },
    { "kv_norm", "norm" },
    { NULL, NULL },
};

static bool is(struct part part, const char *text) {
    return strlen(text) == part.n && memcmp(text, part.text, part.n) == 0;
}

static const char *look_up(const struct rename *table, struct part part) {
    for (; table->from; table++)
        if (is(part, table->from))
            return table->to;
    return NULL;
}

/* The growing output: `n` counts what was asked for, also beyond `size`. */
struct output {
    char *text;
    size_t size, n, components;
};

static void append(struct output *out, const char *text, size_t n) {
    if (out->n + n < out->size)
        memcpy(out->text + out->n, text, n);
    out->n += n;
}

static void append_component(struct output *out, const char *text, size_t n) {
    if (out->components++ > 0)
        append(out, ".", 1);
    append(out, text, n);
}

/* "attn_hc.fn" -> "hc_attn_fn", "hc_head.hc_fn" -> "hc_head_fn"; false when the two are something else. */
static bool append_hyper_connection(struct output *out, struct part site, struct part what) {
    bool head = is(site, "hc_head");
    if (head && what.n > 3 && memcmp(what.text, "hc_", 3) == 0)
        what = (struct part) { what.text + 3, what.n - 3 };
    else if (head || (!is(site, "attn_hc") && !is(site, "ffn_hc")))
        return false;
    if (!is(what, "fn") && !is(what, "base") && !is(what, "scale"))
        return false;
    const char *prefix = head ? "hc_head_" : is(site, "attn_hc") ? "hc_attn_" : "hc_ffn_";
    append_component(out, prefix, strlen(prefix));
    append(out, what.text, what.n);
    return true;
}

static size_t split(const char *name, size_t n, struct part *parts) {
    size_t count = 0, start = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && name[i] != '.')
            continue;
        if (count == MAX_COMPONENTS)
            return 0;
        parts[count++] = (struct part) { name + start, i - start };
        start = i + 1;
    }
    return count;
}

bool dsvk_tensor_native_name(char *out, size_t out_size, const char *name, size_t n) {
    struct output o = { .text = out, .size = out_size };
    struct part parts[MAX_COMPONENTS], before = { "", 0 };
    if (n > 6 && memcmp(name, "model.", 6) == 0)
        name += 6, n -= 6;
    size_t count = split(name, n, parts);
    if (count == 0) /* nothing of ours is nested so deeply */
        append(&o, name, n);
    for (size_t i = 0; i < count; before = parts[i++]) {
        const char *to = NULL;
        bool more = i + 1 < count;
        if (is(parts[i], "compressor") && more && is(parts[i + 1], "indexer"))
            continue; /* compressor.indexer -> indexer */
        if (is(parts[i], "scorer") && is(before, "indexer"))
            continue; /* indexer.scorer.weights_proj -> indexer.weights_proj */
        if (more && append_hyper_connection(&o, parts[i], parts[i + 1])) {
            i++;
            continue;
        }
        if (is(before, "compressor") || is(before, "indexer"))
            to = look_up(in_compressor, parts[i]);
        if (to && is(before, "indexer")) /* its compressor flattened into it */
            append_component(&o, "compressor", 10);
        if (!to)
            to = look_up(anywhere, parts[i]);
        append_component(&o, to ? to : parts[i].text, to ? strlen(to) : parts[i].n);
    }
    if (o.n >= out_size)
        return false;
    out[o.n] = 0;
    return true;
}
