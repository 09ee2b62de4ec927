/* Results of calls, and progress: the library calls back in the thread that made the call, so the caller's Lua function runs on
 * the state of that call, protected (faults A12). When it raises, the library is told to stop, and the error is raised again
 * after it has returned. */
#include "lua_dsvk.h"

int ld_fail(lua_State *L, const dsvk_error *err) {
    lua_pushnil(L);
    lua_pushstring(L, err->message[0] ? err->message : dsvk_status_text(err->status));
    lua_pushstring(L, dsvk_status_name(err->status));
    return 3;
}

int ld_busy(lua_State *L, const char *what) {
    lua_pushnil(L);
    lua_pushfstring(L, "%s is in use by the call that is running", what);
    lua_pushstring(L, dsvk_status_name(DSVK_BUSY));
    return 3;
}

int ld_done(lua_State *L, dsvk_status status, const dsvk_error *err) {
    if (status != DSVK_OK)
        return ld_fail(L, err);
    lua_pushboolean(L, 1);
    return 1;
}

void ld_call_begin(ld_call *call, ld_call **running, lua_State *L, int function) {
    luaL_checkstack(L, 4, "no room for a progress callback");
    *call = (ld_call){.L = L, .function = function, .outer = *running};
    *running = call;
}

void ld_call_end(ld_call *call, ld_call **running) {
    *running = call->outer;
    if (call->raised)
        lua_error(call->L);
}

typedef struct report {
    const char *stage;
    uint64_t done, total;
} report;

static int call_function(lua_State *L) { /* function, report */
    const report *r = lua_touserdata(L, 2);
    lua_pushvalue(L, 1);
    lua_pushstring(L, r->stage);
    lua_pushinteger(L, (lua_Integer)r->done);
    lua_pushinteger(L, (lua_Integer)r->total);
    lua_call(L, 3, 0);
    return 0;
}

int ld_progress(void *user, const char *stage, uint64_t done, uint64_t total) {
    ld_call *call = *(ld_call **)user;
    if (call == NULL || call->function == 0 || call->raised)
        return call != NULL && call->raised;
    report r = {stage ? stage : "", done, total};
    lua_pushcfunction(call->L, call_function); /* neither this nor what follows allocates */
    lua_pushvalue(call->L, call->function);
    lua_pushlightuserdata(call->L, &r);
    call->raised = lua_pcall(call->L, 2, 0, 0) != LUA_OK;
    return call->raised;
}
