/* dsvk.Device: one Vulkan device. */
#include <string.h>

#include "lua_dsvk.h"

ld_device *ld_check_device(lua_State *L, int arg) {
    ld_device *self = luaL_checkudata(L, arg, LD_DEVICE);
    LD_OPEN(L, self, "the device");
    return self;
}

static const char *const purpose_names[DSVK_PURPOSE_COUNT + 1] = {
    [DSVK_WEIGHTS] = "weights", [DSVK_CACHE] = "cache",       [DSVK_SCRATCH] = "scratch",
    [DSVK_STAGING] = "staging", [DSVK_READBACK] = "readback",
};

static void budgets(lua_State *L, int arg, uint64_t out[DSVK_PURPOSE_COUNT]) {
    ld_option_table(L, arg, "budgets", purpose_names);
    const int table = lua_gettop(L);
    for (int i = 0; i < DSVK_PURPOSE_COUNT; i++)
        out[i] = ld_option_count(L, table, purpose_names[i], UINT64_MAX);
    lua_pop(L, 1);
}

/* ---- the log ---- */

static int call_log(lua_State *L) { /* function, line */
    lua_pushvalue(L, 1);
    lua_pushstring(L, lua_touserdata(L, 2));
    lua_call(L, 1, 0);
    return 0;
}

/* Lines come from whichever call, in a coroutine or in none, and from finalizers: so the function has a thread of its own. What it
 * raises becomes a warning, as what finalizers raise. */
static void tell(void *user, const char *line) {
    ld_device *self = user;
    lua_State *L = self->log;
    lua_pushcfunction(L, call_log); /* neither this nor what follows allocates */
    lua_pushvalue(L, 1);
    lua_pushlightuserdata(L, (void *)line);
    self->users++; /* it cannot be closed from inside */
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
        lua_warning(L, "error in a log (", 1);
        lua_warning(L, lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "error object is not a string", 1);
        lua_warning(L, ")", 0);
    }
    self->users--;
    lua_settop(L, 1);
}

/* Option log, to the device on top of the stack. */
static void take_log(lua_State *L, int arg, ld_device *self, dsvk_device_options *options) {
    const int device = lua_gettop(L), function = ld_option_function(L, arg, "log", "(line)");
    if (function != 0) {
        lua_State *thread = lua_newthread(L);
        lua_pushvalue(L, function);
        lua_xmove(L, thread, 1);
        lua_setiuservalue(L, device, 1);
        self->log = thread;
        options->log = tell;
        options->user = self;
    }
    lua_settop(L, device);
}

dsvk_status ld_device_new(lua_State *L, int choice, int arg, dsvk_error *err) {
    dsvk_device_options options = {.size = sizeof options};
    budgets(L, arg, options.budget);
    options.cache_dir = ld_option_text(L, arg, "cache_dir");
    options.matmul = ld_option_text(L, arg, "matmul");
    options.indexer = ld_option_text(L, arg, "indexer");
    options.validation = ld_option_flag(L, arg, "validation");
    options.max_allocation = ld_option_count(L, arg, "max_allocation", UINT64_MAX);
    if (!lua_isnil(L, choice)) {
        if (!lua_isinteger(L, choice) && lua_type(L, choice) != LUA_TSTRING)
            luaL_error(L, "device: expected an index, a UUID, a part of a name, or nil, got %s", luaL_typename(L, choice));
        options.device = luaL_tolstring(L, choice, NULL);
    }
    ld_device *self = ld_new(L, sizeof *self, 1, LD_DEVICE);
    take_log(L, arg, self, &options);
    return dsvk_device_open(&self->handle, &options, err);
}

int ld_device_open(lua_State *L) {
    static const char *const names[] = {"cache_dir", "matmul", "indexer", "validation", "max_allocation", "budgets", "log", NULL};
    dsvk_error err = {0};
    lua_settop(L, 2);
    ld_options(L, 2, names);
    return ld_device_new(L, 1, 2, &err) == DSVK_OK ? 1 : ld_fail(L, &err);
}

static int device_collect(lua_State *L) {
    ld_device *self = luaL_checkudata(L, 1, LD_DEVICE);
    if (self->users > 0) /* called by hand: nothing is collected in the middle of its call */
        return 0;
    dsvk_device *handle = self->handle;
    self->handle = NULL;
    dsvk_device_close(handle);
    return 0;
}

static int device_close(lua_State *L) {
    if (((ld_device *)luaL_checkudata(L, 1, LD_DEVICE))->users > 0)
        return ld_busy(L, "the device");
    device_collect(L);
    lua_pushboolean(L, 1);
    return 1;
}

static int device_closed(lua_State *L) {
    lua_pushboolean(L, ((ld_device *)luaL_checkudata(L, 1, LD_DEVICE))->handle == NULL);
    return 1;
}

static int report(lua_State *L, dsvk_status (*read)(dsvk_device *device, char **json, dsvk_error *err)) {
    ld_check_device(L, 1);
    ld_box *json = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    return ld_json(L, read(ld_check_device(L, 1)->handle, (char **)&json->memory, &err), json, &err);
}

static int device_info(lua_State *L) { return report(L, dsvk_device_describe); }
static int device_memory(lua_State *L) { return report(L, dsvk_device_memory); }
static int device_profile_end(lua_State *L) { return report(L, dsvk_device_profile_end); }

static int device_measure(lua_State *L) {
    static const char *const names[] = {"progress", NULL};
    ld_check_device(L, 1);
    lua_settop(L, 2);
    ld_options(L, 2, names);
    const int progress = ld_option_function(L, 2, "progress", LD_PROGRESS_TAKES);
    ld_box *json = ld_new_box(L, dsvk_free);
    ld_call call, *running = NULL;
    dsvk_error err = {0};
    ld_call_begin(&call, &running, L, progress);
    ld_device *self = ld_check_device(L, 1);
    self->users++;
    const dsvk_status status = dsvk_device_measure(self->handle, (char **)&json->memory, ld_progress, &running, &err);
    self->users--;
    ld_call_end(&call, &running);
    return ld_json(L, status, json, &err);
}

static int device_profile_begin(lua_State *L) {
    dsvk_error err = {0};
    return ld_done(L, dsvk_device_profile_begin(ld_check_device(L, 1)->handle, &err), &err);
}

static const luaL_Reg functions[] = {
    {"info", device_info},     {"memory", device_memory}, {"measure", device_measure}, {"profile_begin", device_profile_begin},
    {"profile_end", device_profile_end}, {"close", device_close}, {"closed", device_closed}, {NULL, NULL},
};

void ld_add_device(lua_State *L) { ld_add_type(L, LD_DEVICE, functions, device_collect, device_close); }
