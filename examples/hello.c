#include <stdio.h>
#include <string.h>

#include "dsvk.h"

int main(int argc, char **argv) {
    const char *text = "<｜begin▁of▁sentence｜><｜User｜>What is 27 + 35?<｜Assistant｜><think>";
    const char *path = argc > 1 ? argv[1] : "python/dsvk/nano";
    dsvk_model *model = NULL;
    dsvk_session *session = NULL;
    int32_t *prompt = NULL, ids[55];
    char *out = NULL;
    size_t n_prompt, n_ids, n_out;
    dsvk_error err;
    if (dsvk_model_open(&model, NULL, path, NULL, &err) || /* NULL: on the best device there is */
        dsvk_tokenizer_encode(dsvk_model_tokenizer(model), text, strlen(text), DSVK_PARSE_SPECIAL, &prompt, &n_prompt, &err) ||
        dsvk_session_open(&session, model, NULL, &err) ||
        dsvk_session_sync(session, prompt, n_prompt, &err) ||               /* be at this prefix */
        dsvk_session_decode(session, 55, NULL, ids, &n_ids, &err) ||        /* its most likely answer */
        dsvk_tokenizer_decode(dsvk_model_tokenizer(model), ids, n_ids, &out, &n_out, &err))
        fprintf(stderr, "%s\n", err.message);
    else
        printf("%.*s\n", (int)n_out, out);
    int failed = out == NULL;
    dsvk_free(out);
    dsvk_free(prompt);
    dsvk_session_close(session);
    dsvk_model_close(model);
    return failed;
}
