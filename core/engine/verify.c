/* Checks a model folder without a device: configuration, layout, names, shapes, types, and every value (M15). */
#include <inttypes.h>
#include <string.h>

#include "engine.h"

#define VERIFY_PIECE (4u << 20) /* bytes read at once */

typedef struct scan {
    const dsvk_checkpoint *checkpoint;
    const dsvk_model_options *options;
    uint8_t *piece;
    uint64_t done, total;
} scan;

static dsvk_status scan_tensor(scan *s, const dsvk_file_tensor *t, dsvk_error *err) {
    uint64_t bytes = t->end - t->begin, bits = dsvk_dtype_bits(t->dtype);
    for (uint64_t at = 0; at < bytes; at += VERIFY_PIECE) {
        uint64_t n = bytes - at < VERIFY_PIECE ? bytes - at : VERIFY_PIECE;
        DSVK_TRY(dsvk_checkpoint_read(s->checkpoint, t, at, s->piece, n, err));
        int64_t bad = dsvk_find_non_finite(t->dtype, s->piece, n * 8 / bits);
        if (bad >= 0)
            return dsvk_fail(err, DSVK_FORMAT, "tensor %s: element %" PRIu64 " is not a finite number", t->name,
                             at * 8 / bits + (uint64_t)bad);
        s->done += n;
        if (s->options->progress && s->options->progress(s->options->user, "verify", s->done, s->total))
            return dsvk_fail(err, DSVK_CANCELLED, "verifying was cancelled after %" PRIu64 " of %" PRIu64 " bytes", s->done,
                             s->total);
    }
    return DSVK_OK;
}

static dsvk_status bind_all(const dsvk_config *config, const dsvk_checkpoint *checkpoint, uint8_t *used,
                            dsvk_error *err) {
    dsvk_weight_list list = { 0 };
    dsvk_weights weights = { 0 };
    bool mtp = config->n_mtp_layers > 0 && dsvk_checkpoint_find(checkpoint, "mtp.0.e_proj.weight");
    dsvk_status status;
    DSVK_GOTO(dsvk_weights_describe(&list, &weights, config, mtp, err));
    DSVK_GOTO(dsvk_weights_bind(&list, checkpoint, used, err));
    DSVK_GOTO(dsvk_weights_place(&list, err));
fail:
    dsvk_weight_list_free(&list);
    dsvk_weights_free(&weights, config->n_layers);
    return status;
}

static dsvk_status check_tokenizer(const char *path, const dsvk_config *config, uint32_t *ids, dsvk_error *err) {
    char file[4096];
    dsvk_tokenizer *tokenizer;
    *ids = 0;
    if (!dsvk_path_join(file, sizeof file, path, "tokenizer.json") || !dsvk_path_exists(file))
        return DSVK_OK;
    DSVK_TRY(dsvk_tokenizer_open(&tokenizer, file, err));
    *ids = dsvk_tokenizer_vocab_size(tokenizer);
    dsvk_tokenizer_close(tokenizer);
    if (*ids > config->vocab_size)
        return dsvk_fail(err, DSVK_FORMAT, "tokenizer.json has ids up to %u, vocab_size in config.json is %u", *ids - 1,
                         config->vocab_size);
    return DSVK_OK;
}

dsvk_status dsvk_verify(const char *path, const dsvk_model_options *options, char **json, dsvk_error *err) {
    if (!path || !json)
        return dsvk_fail(err, DSVK_INVALID, "dsvk_verify: path and json must not be NULL");
    dsvk_model_options resolved;
    dsvk_config config = { 0 };
    dsvk_checkpoint *checkpoint = NULL;
    uint8_t *used = NULL, *piece = NULL;
    uint32_t ids = 0;
    dsvk_status status;
    DSVK_TRY(dsvk_model_resolve(&resolved, options, err));
    DSVK_GOTO(dsvk_config_read(&config, path, err));
    DSVK_GOTO(dsvk_checkpoint_open(&checkpoint, path, err));
    size_t count = dsvk_checkpoint_count(checkpoint), extra = 0;
    used = dsvk_alloc_zero(count + 1, 1);
    piece = dsvk_alloc(VERIFY_PIECE);
    if (!used || !piece) {
        status = dsvk_fail_nomem(err, VERIFY_PIECE);
        goto fail;
    }
    DSVK_GOTO(bind_all(&config, checkpoint, used, err));
    scan s = { checkpoint, &resolved, piece, 0, dsvk_checkpoint_bytes(checkpoint) };
    for (size_t i = 0; i < count; i++) {
        extra += !used[i];
        DSVK_GOTO(scan_tensor(&s, dsvk_checkpoint_tensor(checkpoint, i), err));
    }
    DSVK_GOTO(check_tokenizer(path, &config, &ids, err));
    DSVK_GOTO(dsvk_checkpoint_unchanged(checkpoint, err));
    status = dsvk_json_text(json_pack("{s:b, s:I, s:I, s:I, s:I, s:I}", "ok", 1, "tensors", (json_int_t)count, "extra",
                                      (json_int_t)extra, "bytes", (json_int_t)s.total, "shards",
                                      (json_int_t)dsvk_checkpoint_shards(checkpoint), "tokenizer_ids", (json_int_t)ids),
                            json, err);
fail:
    dsvk_free(piece);
    dsvk_free(used);
    dsvk_checkpoint_close(checkpoint);
    dsvk_config_free(&config);
    return status;
}
