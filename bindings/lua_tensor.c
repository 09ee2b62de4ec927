/* dsvk.Tensor: immutable numbers on a device, and the ops on them. Its device cannot be closed for good before it. */
#include <string.h>

#include "lua_dsvk.h"

typedef struct ld_tensor { /* user value 1: its Device */
    dsvk_tensor *handle;
    int users;
} ld_tensor;

static ld_tensor *check_tensor(lua_State *L, int arg) {
    ld_tensor *self = luaL_checkudata(L, arg, LD_TENSOR);
    LD_OPEN(L, self, "the tensor");
    return self;
}

static const char *const form_names[] = {"values", "matrix", "experts", "rows", "keys", NULL};

static dsvk_dtype check_dtype(lua_State *L, const char *name) {
    int d = 0;
    while (d < DSVK_DTYPE_COUNT && strcmp(dsvk_dtype_name((dsvk_dtype)d), name) != 0)
        d++;
    if (d == DSVK_DTYPE_COUNT)
        luaL_error(L, "option 'dtype': expected a name such as 'F32', 'BF16', 'F8_E4M3', 'F4' or 'I32', got '%s'", name);
    return (dsvk_dtype)d;
}

/* ---- numbers from and to Lua ---- */

/* The value on top of the stack, which is to be item i. */
static lua_Integer whole(lua_State *L, const char *name, size_t i, lua_Integer least, lua_Integer most) {
    lua_Integer number;
    if (!ld_whole(L, -1, &number) || number < least || number > most)
        luaL_error(L, "option '%s': expected integers %I .. %I, got %s at %I", name, least, most, ld_shown(L, -1), (lua_Integer)i + 1);
    return number;
}

static void put_number(lua_State *L, const char *name, dsvk_dtype dtype, void *to, size_t i) {
    switch (dtype) {
    case DSVK_DTYPE_F32:
        if (lua_type(L, -1) != LUA_TNUMBER)
            luaL_error(L, "option '%s': expected numbers, got %s at %I", name, ld_shown(L, -1), (lua_Integer)i + 1);
        ((float *)to)[i] = (float)lua_tonumber(L, -1);
        break;
    case DSVK_DTYPE_I32: ((int32_t *)to)[i] = (int32_t)whole(L, name, i, INT32_MIN, INT32_MAX); break;
    default: ((uint8_t *)to)[i] = (uint8_t)whole(L, name, i, 0, UINT8_MAX); break;
    }
}

/* Option `name`: a string of the bytes themselves, or an array of numbers, which is then on the stack as what holds them. NULL: not
 * given. It has to be *expected bytes long. */
static const void *numbers(lua_State *L, int arg, const char *name, dsvk_dtype dtype, uint64_t expected) {
    const uint32_t bytes = dsvk_dtype_bits(dtype) < 8 ? 1 : dsvk_dtype_bits(dtype) / 8;
    const int type = lua_getfield(L, arg, name), from = lua_gettop(L);
    const bool listed = bytes == 1 || dtype == DSVK_DTYPE_F32 || dtype == DSVK_DTYPE_I32;
    const void *data = NULL;
    size_t length = 0;
    if (type == LUA_TNIL)
        return NULL;
    if (type == LUA_TSTRING) {
        data = lua_tolstring(L, from, &length);
    } else if (type == LUA_TTABLE && listed) {
        const size_t n = lua_rawlen(L, from);
        void *copy = lua_newuserdatauv(L, n * bytes + 1, 0);
        for (size_t i = 0; i < n; i++) {
            lua_rawgeti(L, from, (lua_Integer)i + 1);
            put_number(L, name, dtype, copy, i);
            lua_pop(L, 1);
        }
        data = copy;
        length = n * bytes;
    } else {
        luaL_error(L, "option '%s': expected a string of bytes%s, got %s", name, listed ? " or an array of numbers" : "",
                   luaL_typename(L, from));
    }
    if (length != expected)
        luaL_error(L, "option '%s': expected %I bytes by shape and dtype, got %I", name, (lua_Integer)expected, (lua_Integer)length);
    return data;
}

/* Sizes of shape and of what goes with it. */
static uint64_t product(const dsvk_tensor_options *o) {
    uint64_t n = 1;
    for (uint32_t i = 0; i < o->rank; i++)
        n *= o->shape[i];
    return n;
}

static uint64_t scale_count(const dsvk_tensor_options *o, uint64_t rows, uint64_t cols) {
    const uint64_t n = o->rank == 3 ? o->shape[0] : 1;
    return n * (o->dtype == DSVK_DTYPE_F8_E4M3 ? (rows + 127) / 128 * ((cols + 127) / 128) : rows * ((cols + 31) / 32));
}

static void read_shape(lua_State *L, int arg, dsvk_tensor_options *o) {
    if (lua_getfield(L, arg, "shape") != LUA_TTABLE || lua_rawlen(L, -1) < 1 || lua_rawlen(L, -1) > DSVK_TENSOR_RANK)
        luaL_error(L, "option 'shape': expected an array of 1 to %d sizes", DSVK_TENSOR_RANK);
    uint64_t total = 1;
    o->rank = (uint32_t)lua_rawlen(L, -1);
    for (uint32_t i = 0; i < o->rank; i++) {
        lua_Integer size;
        lua_rawgeti(L, -1, (lua_Integer)i + 1);
        if (!ld_whole(L, -1, &size) || size < 1 || (uint64_t)size > (1ull << 40) / total)
            luaL_error(L, "option 'shape': expected sizes from 1 on, of at most 2^40 numbers in all, got %s", luaL_tolstring(L, -1, NULL));
        total *= (uint64_t)size;
        o->shape[i] = (uint64_t)size;
        lua_pop(L, 1);
    }
}

static void read_form(lua_State *L, int arg, dsvk_tensor_options *o) {
    const char *form = ld_option_text(L, arg, "form"), *dtype = ld_option_text(L, arg, "dtype");
    const char *scales = ld_option_text(L, arg, "scale_dtype");
    for (o->form = DSVK_FORM_VALUES; form && o->form <= DSVK_FORM_EXPERTS && strcmp(form_names[o->form], form) != 0;)
        o->form = (dsvk_form)(o->form + 1);
    if (o->form > DSVK_FORM_EXPERTS)
        luaL_error(L, "option 'form': expected 'values', 'matrix' or 'experts', got '%s'", form);
    o->dtype = check_dtype(L, dtype ? dtype : "F32");
    o->scale_dtype = check_dtype(L, scales ? scales : "F8_E8M0");
}

int ld_tensor_open(lua_State *L) {
    static const char *const names[] = {"data", "shape", "dtype", "form", "scales", "scale_dtype", "w3", "w3_scales", "w2", "w2_scales",
                                        NULL};
    dsvk_tensor_options o = {.size = sizeof o};
    dsvk_error err = {0};
    ld_check_device(L, 1);
    lua_settop(L, 2);
    ld_options(L, 2, names);
    luaL_checkstack(L, 30, "no room for a tensor's options");
    read_form(L, 2, &o);
    read_shape(L, 2, &o);
    const uint64_t rows = o.rank > 1 ? o.shape[o.rank - 2] : 1, cols = o.shape[o.rank - 1];
    const uint64_t bytes = product(&o) * dsvk_dtype_bits(o.dtype) / 8, each = dsvk_dtype_bits(o.scale_dtype) / 8;
    o.data = numbers(L, 2, "data", o.dtype, bytes);
    o.scales = numbers(L, 2, "scales", o.scale_dtype, each * scale_count(&o, rows, cols));
    o.w3 = numbers(L, 2, "w3", o.dtype, bytes);
    o.w3_scales = numbers(L, 2, "w3_scales", o.scale_dtype, each * scale_count(&o, rows, cols));
    o.w2 = numbers(L, 2, "w2", o.dtype, bytes);
    o.w2_scales = numbers(L, 2, "w2_scales", o.scale_dtype, each * scale_count(&o, cols, rows));
    ld_tensor *self = ld_new(L, sizeof *self, 1, LD_TENSOR);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    return dsvk_tensor_open(&self->handle, ld_check_device(L, 1)->handle, &o, &err) == DSVK_OK ? 1 : ld_fail(L, &err);
}

static int tensor_read(lua_State *L) {
    static const char *const names[] = {"progress", NULL};
    dsvk_tensor_info info = {.size = sizeof info};
    dsvk_error err = {0};
    check_tensor(L, 1);
    lua_settop(L, 2);
    ld_options(L, 2, names);
    const int progress = ld_option_function(L, 2, "progress", LD_PROGRESS_TAKES);
    if (dsvk_tensor_describe(check_tensor(L, 1)->handle, &info, &err) != DSVK_OK)
        return ld_fail(L, &err);
    void *data = lua_newuserdatauv(L, info.read_bytes + 1, 0);
    ld_call call, *running = NULL;
    ld_call_begin(&call, &running, L, progress);
    ld_tensor *self = check_tensor(L, 1);
    self->users++;
    const dsvk_status status = dsvk_tensor_read(self->handle, data, info.read_bytes, ld_progress, &running, &err);
    self->users--;
    ld_call_end(&call, &running);
    if (status != DSVK_OK)
        return ld_fail(L, &err);
    if (info.read_dtype == DSVK_DTYPE_F32)
        ld_push_numbers(L, data, info.read_bytes / sizeof(float));
    else if (info.read_dtype == DSVK_DTYPE_I32)
        ld_push_ids(L, data, info.read_bytes / sizeof(int32_t));
    else
        lua_pushlstring(L, data, info.read_bytes);
    return 1;
}

static int tensor_info(lua_State *L) {
    dsvk_tensor_info info = {.size = sizeof info};
    dsvk_error err = {0};
    if (dsvk_tensor_describe(check_tensor(L, 1)->handle, &info, &err) != DSVK_OK)
        return ld_fail(L, &err);
    lua_createtable(L, 0, 4);
    lua_pushstring(L, form_names[info.form]);
    lua_setfield(L, -2, "form");
    lua_pushstring(L, dsvk_dtype_name(info.dtype));
    lua_setfield(L, -2, "dtype");
    lua_pushinteger(L, (lua_Integer)info.device_bytes);
    lua_setfield(L, -2, "device_bytes");
    ld_push_shape(L, info.shape, info.rank);
    lua_setfield(L, -2, "shape");
    return 1;
}

static int tensor_device(lua_State *L) {
    luaL_checkudata(L, 1, LD_TENSOR);
    lua_getiuservalue(L, 1, 1);
    return 1;
}

static int tensor_collect(lua_State *L) {
    ld_tensor *self = luaL_checkudata(L, 1, LD_TENSOR);
    if (self->users > 0) /* called by hand: nothing is collected in the middle of its call */
        return 0;
    dsvk_tensor *handle = self->handle;
    self->handle = NULL;
    dsvk_tensor_close(handle);
    return 0;
}

static int tensor_close(lua_State *L) {
    if (((ld_tensor *)luaL_checkudata(L, 1, LD_TENSOR))->users > 0)
        return ld_busy(L, "the tensor");
    tensor_collect(L);
    lua_pushboolean(L, 1);
    return 1;
}

static int tensor_closed(lua_State *L) {
    lua_pushboolean(L, ((ld_tensor *)luaL_checkudata(L, 1, LD_TENSOR))->handle == NULL);
    return 1;
}

/* ---- ops ---- */

#define MOST_ARGUMENTS 32

/* The table at `arg` becomes one that nobody else has: what is in it stays, whatever a callback does. */
static void own_table(lua_State *L, int arg) {
    lua_newtable(L);
    for (lua_pushnil(L); lua_next(L, arg) != 0;) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_rawset(L, -4);
    }
    lua_replace(L, arg);
}

static double op_number(lua_State *L, const char *name) {
    const lua_Number number = lua_tonumber(L, -1);
    lua_pushnumber(L, number);
    if (lua_isinteger(L, -2) && !lua_rawequal(L, -1, -2))
        luaL_error(L, "%s: expected a number that a double holds exactly, got %s", name, ld_shown(L, -2));
    lua_pop(L, 1);
    return number;
}

/* The table at 3, and the tensors of it, NULL where the argument is a number; nothing in here allocates but what raises. */
static size_t op_arguments(lua_State *L, dsvk_op_argument arguments[MOST_ARGUMENTS], ld_tensor *tensors[MOST_ARGUMENTS]) {
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, 3) != 0; lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || n == MOST_ARGUMENTS)
            luaL_argerror(L, 3, "expected a table of arguments by name");
        dsvk_op_argument *a = &arguments[n];
        *a = (dsvk_op_argument){.name = lua_tostring(L, -2)};
        tensors[n] = luaL_testudata(L, -1, LD_TENSOR) != NULL ? check_tensor(L, lua_gettop(L)) : NULL;
        if (tensors[n] != NULL)
            a->tensor = tensors[n]->handle;
        else if (lua_type(L, -1) == LUA_TNUMBER)
            a->number = op_number(L, a->name);
        else
            luaL_error(L, "%s: expected a tensor or a number, got %s", a->name, luaL_typename(L, -1));
        n++;
    }
    return n;
}

static void use_op(ld_device *device, ld_tensor *const *tensors, size_t n, int users) {
    device->users += users;
    for (size_t i = 0; i < n; i++)
        if (tensors[i] != NULL)
            tensors[i]->users += users;
}

/* device, name, arguments, options -> the results, as many as the op has */
int ld_op(lua_State *L) {
    static const char *const names[] = {"progress", NULL};
    dsvk_op_argument arguments[MOST_ARGUMENTS];
    dsvk_tensor *results[DSVK_OP_RESULTS] = {0};
    ld_tensor *made[DSVK_OP_RESULTS], *tensors[MOST_ARGUMENTS];
    dsvk_error err = {0};
    ld_check_device(L, 1);
    const char *name = luaL_checkstring(L, 2);
    luaL_checktype(L, 3, LUA_TTABLE);
    lua_settop(L, 4);
    ld_options(L, 4, names);
    own_table(L, 3);
    const int progress = ld_option_function(L, 4, "progress", LD_PROGRESS_TAKES), first = lua_gettop(L) + 1;
    for (int i = 0; i < DSVK_OP_RESULTS; i++) { /* made before the call, so that nothing of it is held when Lua raises */
        made[i] = ld_new(L, sizeof *made[i], 1, LD_TENSOR);
        lua_pushvalue(L, 1);
        lua_setiuservalue(L, -2, 1);
    }
    ld_call call, *running = NULL;
    ld_call_begin(&call, &running, L, progress);
    const size_t n = op_arguments(L, arguments, tensors);
    ld_device *device = ld_check_device(L, 1);
    use_op(device, tensors, n, 1);
    const dsvk_status status = dsvk_op(device->handle, name, arguments, n, results, ld_progress, &running, &err);
    use_op(device, tensors, n, -1);
    for (int i = 0; i < DSVK_OP_RESULTS; i++)
        made[i]->handle = results[i];
    ld_call_end(&call, &running);
    if (status != DSVK_OK)
        return ld_fail(L, &err);
    for (int i = 0; i < DSVK_OP_RESULTS; i++)
        if (results[i] == NULL) {
            lua_pushnil(L);
            lua_replace(L, first + i);
        }
    lua_settop(L, first + DSVK_OP_RESULTS - 1);
    return DSVK_OP_RESULTS;
}

/* dsvk.ops.NAME(arguments, options): the op that upvalue 1 names, on arguments.device or that of a tensor among them. */
static int op_by_name(lua_State *L) {
    const char *name = lua_tostring(L, lua_upvalueindex(1));
    lua_settop(L, 2);
    if (!lua_istable(L, 1))
        luaL_error(L, "%s: expected a table of arguments, got %s", name, ld_shown(L, 1));
    own_table(L, 1);
    lua_getfield(L, 1, "device");
    for (lua_pushnil(L); lua_isnil(L, 3) && lua_next(L, 1) != 0; lua_pop(L, 1))
        if (luaL_testudata(L, -1, LD_TENSOR) != NULL) {
            lua_getiuservalue(L, -1, 1);
            lua_replace(L, 3);
        }
    lua_settop(L, 3);
    if (lua_isnil(L, 3))
        luaL_error(L, "%s: no argument is a tensor, so give a device", name);
    if (luaL_testudata(L, 3, LD_DEVICE) == NULL)
        luaL_error(L, "%s: device: expected a dsvk.Device, got %s", name, ld_shown(L, 3));
    lua_pushnil(L);
    lua_setfield(L, 1, "device");
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_rotate(L, 1, 2); /* arguments, options, device, name -> device, name, arguments, options */
    return ld_op(L);
}

int ld_op_function(lua_State *L) {
    luaL_checkstring(L, 1);
    lua_settop(L, 1);
    lua_pushcclosure(L, op_by_name, 1);
    return 1;
}

int ld_op_table(lua_State *L) {
    ld_box *json = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    return ld_json(L, dsvk_ops((char **)&json->memory, &err), json, &err);
}

static const luaL_Reg functions[] = {
    {"read", tensor_read},   {"info", tensor_info},     {"device", tensor_device},
    {"close", tensor_close}, {"closed", tensor_closed}, {NULL, NULL},
};

void ld_add_tensor(lua_State *L) { ld_add_type(L, LD_TENSOR, functions, tensor_collect, tensor_close); }
