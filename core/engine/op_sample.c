/* The op that chooses tokens: the sampler of decoding, on logits of the caller's. */
#include "engine.h"
#include "tensor.h"

#define MOST_ROWS 65535u /* workgroups of a dispatch */
#define MOST_VOCABULARY (1u << 24)

static void run_sample(op_call *c) {
    const uint32_t n = dsvk_op_dim(c, "n"), vocab = dsvk_op_dim(c, "vocab"), start = dsvk_op_integer(c, "start");
    const dsvk_sample_options o = { .temperature = (float)dsvk_op_number(c, "temperature"), .top_k = dsvk_op_integer(c, "top_k"),
                                    .top_p = (float)dsvk_op_number(c, "top_p"), .min_p = (float)dsvk_op_number(c, "min_p"),
                                    .seed = (uint64_t)dsvk_op_number(c, "seed") };
    if (n > MOST_ROWS || vocab > MOST_VOCABULARY) {
        dsvk_op_fail(c, "logits: expected at most %u rows of %u, got %u of %u", MOST_ROWS, MOST_VOCABULARY, n, vocab);
        return;
    }
    struct dsvk_sample_row *rows = dsvk_alloc_zero(n, sizeof *rows);
    if (!rows) {
        c->status = dsvk_fail_nomem(c->err, n * sizeof *rows);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        dsvk_fill_sample(&rows[i], &o, start + i);
    dsvk_sample(c->cmd, &(dsvk_sample_params){
                            .logits = dsvk_op_values(c, "logits"),
                            .options = dsvk_op_upload(c, rows, n * sizeof *rows),
                            .out = dsvk_op_result(c, 0, DSVK_FORM_VALUES, DSVK_DTYPE_I32, 1, (const uint64_t[]){ n }, 0),
                            .n = n,
                            .vocab = vocab,
                        });
    dsvk_free(rows);
}

const op dsvk_op_sample = {
    .name = "sample",
    .does = "5: one token of each row of logits, as decoding chooses it: the top_k likeliest (0: all), of those the likeliest that reach "
            "top_p of their mass (0 or 1: all), of those what has at least min_p of the best one's probability, of those a draw from "
            "softmax(logits / temperature). temperature 0: the best, equal ones to the lower id. The draw is a function of seed and "
            "position; row t is the token at position start + t. -1 where a logit of the row is not finite",
    .slots = { { "logits", OP_F32, "n vocab", 0, 0, 0 }, { "temperature", OP_NUMBER, "", 0, 0, 1e6 },
               { "top_k", OP_INTEGER, "", 0, 0, MOST_VOCABULARY }, { "top_p", OP_NUMBER, "", 0, 0, 1 }, { "min_p", OP_NUMBER, "", 0, 0, 1 },
               { "seed", OP_INTEGER, "", 0, 0, 9007199254740992.0 }, { "start", OP_INTEGER, "", 0, 0, MOST_POSITION } },
    .results = { { "tokens", OP_I32, "n", 0, 0, 0 } },
    .run = run_sample,
};
