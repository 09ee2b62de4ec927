/* A mask function in Lua: mask(ids, i) with the ids that are new since it was last called and, in a batch, the number of the session.
 * It returns the ids that may come next, or a string with a bit for each (32-bit words), or nil for all of them. It runs
 * protected, as progress functions do. */
#include <string.h>

#include "lua_dsvk.h"

typedef struct question {
    uint32_t choice;
    const int32_t *ids;
    size_t n;
    uint32_t *words;
    size_t n_words;
} question;

static void take_ids(lua_State *L, const question *q) {
    size_t n;
    const int32_t *ids = ld_ids(L, -1, "mask", &n);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (size_t)ids[i] / 32 >= q->n_words)
            luaL_error(L, "mask[%I]: %I is no token id", (lua_Integer)i + 1, (lua_Integer)ids[i]);
        q->words[ids[i] / 32] |= 1u << ids[i] % 32;
    }
}

static int call_function(lua_State *L) { /* function, question */
    const question *q = lua_touserdata(L, 2);
    size_t n;
    lua_pushvalue(L, 1);
    ld_push_ids(L, q->ids, q->n);
    lua_pushinteger(L, (lua_Integer)q->choice + 1);
    lua_call(L, 2, 1);
    if (lua_isnil(L, -1)) {
        memset(q->words, 0xff, q->n_words * sizeof *q->words);
    } else if (lua_type(L, -1) == LUA_TSTRING) {
        const char *bits = lua_tolstring(L, -1, &n);
        if (n != q->n_words * sizeof *q->words)
            luaL_error(L, "mask: %I bytes, a bit for each token is %I", (lua_Integer)n,
                       (lua_Integer)(q->n_words * sizeof *q->words));
        memcpy(q->words, bits, n);
    } else {
        take_ids(L, q);
    }
    return 0;
}

dsvk_status ld_mask(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words, dsvk_error *err) {
    (void)err;
    ld_call *call = *(ld_call **)user;
    if (call == NULL || call->mask == 0 || call->raised)
        return DSVK_CANCELLED;
    size_t *told = &call->told[choice];
    question q = {choice, tokens + (*told < n ? *told : n), *told < n ? n - *told : 0, words, n_words};
    *told = n;
    lua_pushcfunction(call->L, call_function); /* neither this nor what follows allocates */
    lua_pushvalue(call->L, call->mask);
    lua_pushlightuserdata(call->L, &q);
    call->raised = lua_pcall(call->L, 2, 0, 0) != LUA_OK;
    return call->raised ? DSVK_CANCELLED : DSVK_OK;
}
