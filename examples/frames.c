/* A frame loop at 60 frames a second in which text is generated: every frame gives the model what it has to spare.
 *
 *   frames MODEL [TOKENS [MICROSECONDS]]
 *
 * dsvk_session_poll works for about so many microseconds and returns; nothing waits, and there is no thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dsvk.h"

#define FRAME_NS 16666667

static double ms_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) * 1e3 + (double)(now.tv_nsec - start->tv_nsec) * 1e-6;
}

static void sleep_until_next(struct timespec *frame) {
    frame->tv_nsec += FRAME_NS;
    if (frame->tv_nsec >= 1000000000) {
        frame->tv_nsec -= 1000000000;
        frame->tv_sec++;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, frame, NULL);
}

/* While the game loads: drivers compile kernels when they are first used. A slice has steps of 1 to 8 tokens or decodes, and at a few
 * more tokens than the indexer chooses from (nano: 32 of 4 tokens each) there is one kernel more. */
static dsvk_status warm_up(dsvk_session *session, int32_t token, dsvk_error *err) {
    int32_t tokens[136 + 36], decoded[8];
    size_t n = 136, n_decoded;
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        tokens[i] = token;
    dsvk_status status = dsvk_session_sync(session, tokens, n, err);
    for (size_t rows = 1; rows <= 8 && !status; rows++)
        status = dsvk_session_sync(session, tokens, n += rows, err);
    return status ? status : dsvk_session_decode(session, 8, NULL, decoded, &n_decoded, err);
}

static dsvk_status run(dsvk_session *session, const dsvk_tokenizer *tokenizer, const char *prompt, size_t n_tokens, uint64_t budget_us,
                       dsvk_error *err) {
    dsvk_decoder *decoder = NULL;
    dsvk_poll_result result = { 0 };
    struct timespec frame;
    int32_t *ids = NULL;
    size_t n, frames = 0;
    const char *text;
    double longest = 0;
    dsvk_status status = dsvk_tokenizer_encode(tokenizer, prompt, strlen(prompt), DSVK_PARSE_SPECIAL, &ids, &n, err);
    if (!status)
        status = warm_up(session, ids[0], err);
    if (!status)
        status = dsvk_session_begin(session, ids, n, n_tokens, NULL, err);
    if (!status)
        status = dsvk_decoder_open(&decoder, tokenizer, err);
    clock_gettime(CLOCK_MONOTONIC, &frame);
    while (!status && !result.finished) {
        struct timespec begun;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        /* here a game would move and draw */
        status = dsvk_session_poll(session, budget_us, &result, err);
        for (size_t i = 0; !status && i < result.n_tokens; i++) {
            status = dsvk_decoder_push(decoder, result.tokens[i], &text, &n, err);
            if (!status)
                fwrite(text, 1, n, stdout);
        }
        fflush(stdout);
        const double took = ms_since(&begun);
        longest = took > longest ? took : longest;
        frames++;
        sleep_until_next(&frame);
    }
    if (!status && !(status = dsvk_decoder_finish(decoder, &text, &n, err)))
        printf("%.*s\n", (int)n, text);
    if (!status)
        fprintf(stderr, "%zu frames, the longest worked %.1f ms\n", frames, longest);
    dsvk_decoder_close(decoder);
    dsvk_free(ids);
    return status;
}

int main(int argc, char **argv) {
    dsvk_model *model = NULL;
    dsvk_session *session = NULL;
    dsvk_error err;
    if (argc < 2)
        return fprintf(stderr, "usage: frames MODEL [TOKENS [MICROSECONDS]]\n"), 2;
    dsvk_status status = dsvk_model_open(&model, NULL, argv[1], NULL, &err);
    if (!status)
        status = dsvk_session_open(&session, model, NULL, &err);
    if (!status)
        status = run(session, dsvk_model_tokenizer(model), "<｜begin▁of▁sentence｜><｜User｜>What is 27 + 35?<｜Assistant｜><think>",
                     argc > 2 ? strtoul(argv[2], NULL, 10) : 55, argc > 3 ? strtoul(argv[3], NULL, 10) : 4000, &err);
    if (status)
        fprintf(stderr, "%s\n", err.message);
    dsvk_session_close(session);
    dsvk_model_close(model);
    return status != DSVK_OK;
}
