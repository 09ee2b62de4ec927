/* The Lua module dsvk (dsvk.so): its types, the functions that belong to no handle, and its part in Lua (lua/pure.lua),
 * which is compiled in as text. A state has metatables of its own in its registry; nothing is shared between states. */
#include <string.h>

#include "lua_dsvk.h"
#include "lua_part.h" /* made by the build of lua/pure.lua */

/* ---- types ---- */

void *ld_new(lua_State *L, size_t size, int n_values, const char *type) {
    void *object = lua_newuserdatauv(L, size, n_values);
    memset(object, 0, size);
    luaL_setmetatable(L, type);
    return object;
}

static int to_text(lua_State *L) {
    int closed = 0;
    luaL_getmetafield(L, 1, "__name");
    if (luaL_getmetafield(L, 1, "__index") == LUA_TTABLE && lua_getfield(L, -1, "closed") == LUA_TFUNCTION) {
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        closed = lua_toboolean(L, -1);
    }
    lua_pushfstring(L, "<%s%s %p>", lua_tostring(L, 2), closed ? " closed" : "", lua_topointer(L, 1));
    return 1;
}

void ld_add_type(lua_State *L, const char *type, const luaL_Reg *functions, lua_CFunction collect, lua_CFunction leave) {
    luaL_newmetatable(L, type);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, leave);
    lua_setfield(L, -2, "__close");
    lua_pushcfunction(L, to_text);
    lua_setfield(L, -2, "__tostring");
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__index");
    lua_setfield(L, -3, strrchr(type, '.') + 1); /* dsvk.Session */
    lua_pop(L, 1);
}

/* ---- functions ---- */

#define LOCATE "dsvk.locate" /* the function, in the registry */

const char *ld_path(lua_State *L) {
    size_t n;
    const char *path = luaL_checklstring(L, 1, &n);
    luaL_argcheck(L, strlen(path) == n, 1, "a path has no zero bytes");
    lua_getfield(L, LUA_REGISTRYINDEX, LOCATE);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 3);
    if (lua_isnil(L, -3))
        return NULL;
    lua_pop(L, 2);
    lua_replace(L, 1);
    return luaL_checkstring(L, 1);
}

#define PROMPT "dsvk.prompt" /* a function of the part in Lua, in the registry */

bool ld_prompt(lua_State *L) {
    if (lua_type(L, 2) != LUA_TSTRING)
        return true;
    lua_getfield(L, LUA_REGISTRYINDEX, PROMPT);
    lua_pushvalue(L, 1);
    lua_pushvalue(L, 2);
    lua_call(L, 2, 3);
    if (lua_isnil(L, -3))
        return false;
    lua_pop(L, 2);
    lua_replace(L, 2);
    return true;
}

static int survey(lua_State *L) {
    ld_box *json = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    return ld_json(L, dsvk_devices((char **)&json->memory, &err), json, &err);
}

static int plan(lua_State *L) {
    static const char *const names[] = {"context", "device", LD_MODEL_OPTIONS, NULL};
    const char *path = ld_path(L);
    dsvk_model_options options;
    dsvk_error err = {0};
    if (path == NULL)
        return 3;
    lua_settop(L, 2);
    ld_options(L, 2, names);
    ld_model_options(L, 2, &options);
    const uint64_t context = ld_option_count(L, 2, "context", UINT64_MAX);
    const bool on_device = lua_getfield(L, 2, "device") != LUA_TNIL;
    const int at = lua_gettop(L);
    if (on_device && luaL_testudata(L, at, LD_DEVICE) == NULL)
        ld_wrong_option(L, "device", at, "a " LD_DEVICE);
    ld_box *json = ld_new_box(L, dsvk_free);
    dsvk_device *device = on_device ? ld_check_device(L, at)->handle : NULL;
    return ld_json(L, dsvk_plan(path, device, &options, context, (char **)&json->memory, &err), json, &err);
}

static int verify(lua_State *L) {
    static const char *const names[] = {"strict", "threads", "progress", NULL};
    const char *path = ld_path(L);
    dsvk_model_options options;
    dsvk_error err = {0};
    if (path == NULL)
        return 3;
    lua_settop(L, 2);
    ld_options(L, 2, names);
    ld_model_options(L, 2, &options);
    options.verify = 1;
    ld_call call, *running = NULL;
    const int progress = ld_option_function(L, 2, "progress", LD_PROGRESS_TAKES);
    ld_box *json = ld_new_box(L, dsvk_free);
    ld_call_begin(&call, &running, L, progress);
    options.progress = ld_progress;
    options.user = &running;
    const dsvk_status status = dsvk_verify(path, &options, (char **)&json->memory, &err);
    ld_call_end(&call, &running);
    return ld_json(L, status, json, &err);
}

static const luaL_Reg functions[] = {
    {"survey", survey},        {"plan", plan},         {"verify", verify}, {"device", ld_device_open},
    {"model", ld_model_open},  {"tokenizer", ld_tokenizer_open},           {"tensor", ld_tensor_open},
    {"op", ld_op},             {"op_table", ld_op_table},                  {NULL, NULL},
};

/* require gives the module's name and, of a shared library, its file. */
__attribute__((visibility("default"))) int luaopen_dsvk(lua_State *L);
int luaopen_dsvk(lua_State *L) {
    luaL_checkversion(L);
    lua_settop(L, 2);
    luaL_newlib(L, functions);
    lua_pushstring(L, dsvk_version());
    lua_setfield(L, -2, "version");
    ld_add_box_type(L);
    ld_add_device(L);
    ld_add_model(L);
    ld_add_session(L);
    ld_add_tokenizer(L);
    ld_add_tensor(L);
    ld_add_trace(L);
    ld_add_chat(L);
    if (luaL_loadbuffer(L, (const char *)lua_part, sizeof lua_part, "@dsvk.lua") != LUA_OK)
        return lua_error(L);
    lua_pushvalue(L, 3);
    lua_pushvalue(L, 2);
    lua_pushcfunction(L, ld_op_function);
    lua_call(L, 3, 1);
    lua_setfield(L, LUA_REGISTRYINDEX, PROMPT);
    lua_getfield(L, 3, "locate");
    lua_setfield(L, LUA_REGISTRYINDEX, LOCATE);
    return 1;
}
