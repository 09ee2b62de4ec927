/* dsvk.Trace: what one forward pass went through, arrays by name in host memory. It needs neither its model nor its device. */
#include <stdio.h>
#include <string.h>

#include "lua_dsvk.h"

typedef struct ld_trace { /* user value 1: the ids it is of */
    dsvk_trace *handle;
} ld_trace;

/* model, ids or text, options -> Trace */
int ld_trace_open(lua_State *L) {
    static const char *const names[] = {"progress", NULL};
    ld_check_model(L, 1);
    size_t n;
    dsvk_error err = {0};
    lua_settop(L, 3);
    ld_options(L, 3, names);
    if (!ld_prompt(L))
        return 3;
    const int progress = ld_option_function(L, 3, "progress", LD_PROGRESS_TAKES);
    const int32_t *ids = ld_ids(L, 2, "tokens", &n);
    ld_trace *self = ld_new(L, sizeof *self, 1, LD_TRACE);
    ld_push_ids(L, ids, n);
    lua_setiuservalue(L, -2, 1);

    ld_call call, *running = NULL;
    ld_call_begin(&call, &running, L, progress);
    const dsvk_status status = dsvk_model_trace(&self->handle, ld_check_model(L, 1)->handle, ids, n, ld_progress, &running, &err);
    ld_call_end(&call, &running);
    return status == DSVK_OK ? 1 : ld_fail(L, &err);
}

static ld_trace *check_trace(lua_State *L, int arg) {
    ld_trace *self = luaL_checkudata(L, arg, LD_TRACE);
    LD_OPEN(L, self, "the trace");
    return self;
}

/* The entry that argument 2 names, or NULL and the three results of a failure on the stack. It lies in the trace: its data is
 * there until the next allocation, for a finalizer may close the trace. */
static const dsvk_trace_entry *find(lua_State *L) {
    check_trace(L, 1);
    const char *name = luaL_checkstring(L, 2);
    const dsvk_trace *trace = check_trace(L, 1)->handle;
    dsvk_error err = {.status = DSVK_INVALID};
    for (size_t i = 0; i < dsvk_trace_count(trace); i++) {
        const dsvk_trace_entry *entry = dsvk_trace_get(trace, i);
        if (strcmp(entry->name, name) == 0)
            return entry;
    }
    snprintf(err.message, sizeof err.message,
             "the trace has no entry '%.80s': the layer's kind is another, or the text is too short for it", name);
    ld_fail(L, &err);
    return NULL;
}

static int trace_names(lua_State *L) {
    const size_t n = dsvk_trace_count(check_trace(L, 1)->handle);
    ld_push_list(L, n);
    for (size_t i = 0; i < n; i++) {
        lua_pushstring(L, dsvk_trace_get(check_trace(L, 1)->handle, i)->name);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int trace_info(lua_State *L) {
    const dsvk_trace_entry *found = find(L);
    if (found == NULL)
        return 3;
    const dsvk_trace_entry entry = *found;
    lua_createtable(L, 0, 2);
    lua_pushstring(L, dsvk_dtype_name(entry.dtype));
    lua_setfield(L, -2, "dtype");
    ld_push_shape(L, entry.shape, entry.rank);
    lua_setfield(L, -2, "shape");
    return 1;
}

static int trace_read(lua_State *L) {
    const dsvk_trace_entry *entry = find(L);
    size_t n = 1;
    if (entry == NULL)
        return 3;
    for (uint32_t i = 0; i < entry->rank; i++)
        n *= (size_t)entry->shape[i];
    ld_push_list(L, n);
    entry = find(L);
    if (entry->dtype == DSVK_DTYPE_I32)
        ld_put_ids(L, entry->data, n);
    else
        ld_put_numbers(L, entry->data, n);
    return 1;
}

static int trace_tokens(lua_State *L) {
    check_trace(L, 1);
    lua_getiuservalue(L, 1, 1);
    return 1;
}

static int trace_close(lua_State *L) {
    ld_trace *self = luaL_checkudata(L, 1, LD_TRACE);
    dsvk_trace *handle = self->handle;
    self->handle = NULL;
    dsvk_trace_close(handle);
    lua_pushboolean(L, 1);
    return 1;
}

static int trace_closed(lua_State *L) {
    lua_pushboolean(L, ((ld_trace *)luaL_checkudata(L, 1, LD_TRACE))->handle == NULL);
    return 1;
}

static const luaL_Reg functions[] = {
    {"names", trace_names},   {"info", trace_info},   {"read", trace_read}, {"tokens", trace_tokens},
    {"close", trace_close},   {"closed", trace_closed}, {NULL, NULL},
};

void ld_add_trace(lua_State *L) { ld_add_type(L, LD_TRACE, functions, trace_close, trace_close); }
