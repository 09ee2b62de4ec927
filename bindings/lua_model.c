/* dsvk.Model: immutable weights on a device. The object keeps its Device; sessions and tokenizers keep it. */
#include <string.h>

#include "lua_dsvk.h"

ld_model *ld_check_model(lua_State *L, int arg) {
    ld_model *self = luaL_checkudata(L, arg, LD_MODEL);
    LD_OPEN(L, self, "the model");
    return self;
}

void ld_model_options(lua_State *L, int arg, dsvk_model_options *options) {
    memset(options, 0, sizeof *options);
    options->size = sizeof *options;
    const char *cache = ld_option_text(L, arg, "cache");
    if (cache != NULL && strcmp(cache, "f32") == 0)
        options->cache = DSVK_CACHE_F32;
    else if (cache != NULL && strcmp(cache, "native") != 0)
        luaL_error(L, "option 'cache': expected 'native' or 'f32', got '%s'", cache);
    options->strict = ld_option_flag(L, arg, "strict");
    options->verify = ld_option_flag(L, arg, "verify");
    options->threads = (uint32_t)ld_option_count(L, arg, "threads", UINT32_MAX);
    options->max_chunk = (uint32_t)ld_option_count(L, arg, "max_chunk", UINT32_MAX);
    options->page_tokens = (uint32_t)ld_option_count(L, arg, "page_tokens", UINT32_MAX);
}

/* Pushes the device of options.device: a Device, or one opened by what it says. */
static dsvk_status push_device(lua_State *L, int arg, bool *opened, dsvk_error *err) {
    lua_getfield(L, arg, "device");
    const int choice = lua_gettop(L);
    *opened = luaL_testudata(L, choice, LD_DEVICE) == NULL;
    if (*opened)
        return ld_device_new(L, choice, arg, err);
    if (lua_getfield(L, arg, "budgets") != LUA_TNIL)
        luaL_error(L, "budgets belong to the device: give them to dsvk.device");
    lua_pop(L, 1);
    return DSVK_OK;
}

int ld_model_open(lua_State *L) {
    static const char *const names[] = {"device", "budgets", "progress", LD_MODEL_OPTIONS, NULL};
    const char *path = ld_path(L);
    dsvk_model_options options;
    dsvk_error err = {0};
    bool opened;
    if (path == NULL)
        return 3;
    lua_settop(L, 2);
    ld_options(L, 2, names);
    ld_model_options(L, 2, &options);
    const int progress = ld_option_function(L, 2, "progress", LD_PROGRESS_TAKES);
    if (push_device(L, 2, &opened, &err) != DSVK_OK)
        return ld_fail(L, &err);
    const int at = lua_gettop(L);
    ld_model *self = ld_new(L, sizeof *self, 1, LD_MODEL);
    lua_pushvalue(L, at);
    lua_setiuservalue(L, -2, 1);
    self->owns_device = opened;

    ld_call call, *running = NULL;
    ld_call_begin(&call, &running, L, progress);
    options.progress = ld_progress;
    options.user = &running;
    ld_device *device = ld_check_device(L, at);
    device->users++;
    const dsvk_status status = dsvk_model_open(&self->handle, device->handle, path, &options, &err);
    device->users--;
    ld_call_end(&call, &running);
    return status == DSVK_OK ? 1 : ld_fail(L, &err);
}

/* ---- closing ---- */

static int model_collect(lua_State *L) {
    ld_model *self = luaL_checkudata(L, 1, LD_MODEL);
    dsvk_model *handle = self->handle;
    self->handle = NULL;
    dsvk_model_close(handle);
    return 0;
}

static int model_close(lua_State *L) {
    const ld_model *self = luaL_checkudata(L, 1, LD_MODEL);
    model_collect(L);
    lua_getiuservalue(L, 1, 1);
    ld_device *device = luaL_testudata(L, -1, LD_DEVICE);
    if (self->owns_device && device != NULL && device->users == 0) {
        dsvk_device *handle = device->handle;
        device->handle = NULL;
        dsvk_device_close(handle);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int model_closed(lua_State *L) {
    lua_pushboolean(L, ((ld_model *)luaL_checkudata(L, 1, LD_MODEL))->handle == NULL);
    return 1;
}

/* ---- what it is ---- */

static int report(lua_State *L, dsvk_status (*read)(const dsvk_model *model, char **json, dsvk_error *err)) {
    ld_check_model(L, 1);
    ld_box *json = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    return ld_json(L, read(ld_check_model(L, 1)->handle, (char **)&json->memory, &err), json, &err);
}

static int model_config(lua_State *L) { return report(L, dsvk_model_config); }
static int model_report(lua_State *L) { return report(L, dsvk_model_report); }

static int model_vocab_size(lua_State *L) {
    lua_pushinteger(L, dsvk_model_vocab_size(ld_check_model(L, 1)->handle));
    return 1;
}

static int model_has_mtp(lua_State *L) {
    lua_pushboolean(L, dsvk_model_has_mtp(ld_check_model(L, 1)->handle) != 0);
    return 1;
}

static int model_device(lua_State *L) {
    luaL_checkudata(L, 1, LD_MODEL);
    lua_getiuservalue(L, 1, 1);
    return 1;
}

static const luaL_Reg functions[] = {
    {"config", model_config},   {"report", model_report},     {"vocab_size", model_vocab_size}, {"has_mtp", model_has_mtp},
    {"device", model_device},   {"tokenizer", ld_tokenizer_of}, {"session", ld_session_open},   {"decode", ld_decode_batch},
    {"trace", ld_trace_open},   {"close", model_close},       {"closed", model_closed},         {NULL, NULL},
};

void ld_add_model(lua_State *L) { ld_add_type(L, LD_MODEL, functions, model_collect, model_close); }
