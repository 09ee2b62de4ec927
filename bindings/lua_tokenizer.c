/* dsvk.Tokenizer and dsvk.Decoder: text to ids and back. Texts are Lua strings, any bytes. */
#include "lua_dsvk.h"

ld_tokenizer *ld_check_tokenizer(lua_State *L, int arg) {
    ld_tokenizer *self = luaL_checkudata(L, arg, LD_TOKENIZER);
    LD_OPEN(L, self, "the tokenizer");
    if (self->owned == NULL) { /* a model's: gone when the model is */
        lua_getiuservalue(L, arg, 1);
        ld_check_model(L, -1);
        lua_pop(L, 1);
    }
    return self;
}

int ld_tokenizer_open(lua_State *L) {
    const char *path = ld_path(L);
    if (path == NULL)
        return 3;
    ld_tokenizer *self = ld_new(L, sizeof *self, 1, LD_TOKENIZER);
    dsvk_error err = {0};
    if (dsvk_tokenizer_open(&self->owned, path, &err) != DSVK_OK)
        return ld_fail(L, &err);
    self->handle = self->owned;
    return 1;
}

int ld_tokenizer_of(lua_State *L) {
    const dsvk_tokenizer *handle = dsvk_model_tokenizer(ld_check_model(L, 1)->handle);
    if (handle == NULL) {
        dsvk_error err = {DSVK_UNSUPPORTED, "the model has no tokenizer.json"};
        return ld_fail(L, &err);
    }
    ld_tokenizer *self = ld_new(L, sizeof *self, 1, LD_TOKENIZER);
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    self->handle = handle;
    return 1;
}

/* Open, as far as it is its own, and its model's where it is one's. */
static bool is_open(lua_State *L, int arg) {
    const ld_tokenizer *self = luaL_checkudata(L, arg, LD_TOKENIZER);
    if (self->owned != NULL || self->handle == NULL)
        return self->handle != NULL;
    lua_getiuservalue(L, arg, 1);
    const ld_model *model = luaL_checkudata(L, -1, LD_MODEL);
    lua_pop(L, 1);
    return model->handle != NULL;
}

static int tokenizer_closed(lua_State *L) {
    lua_pushboolean(L, !is_open(L, 1));
    return 1;
}

static int tokenizer_close(lua_State *L) {
    ld_tokenizer *self = luaL_checkudata(L, 1, LD_TOKENIZER);
    dsvk_tokenizer *owned = self->owned;
    self->owned = NULL;
    self->handle = NULL;
    dsvk_tokenizer_close(owned);
    lua_pushboolean(L, 1);
    return 1;
}

static int tokenizer_encode(lua_State *L) {
    static const char *const names[] = {"special", NULL};
    size_t n, n_ids = 0;
    ld_check_tokenizer(L, 1);
    const char *text = luaL_checklstring(L, 2, &n);
    ld_options(L, 3, names);
    const uint32_t flags = ld_option_flag(L, 3, "special") ? DSVK_PARSE_SPECIAL : 0;
    ld_box *ids = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    if (dsvk_tokenizer_encode(ld_check_tokenizer(L, 1)->handle, text, n, flags, (int32_t **)&ids->memory, &n_ids, &err) != DSVK_OK)
        return ld_fail(L, &err);
    ld_push_ids(L, ids->memory, n_ids);
    ld_release(ids);
    return 1;
}

static int tokenizer_decode(lua_State *L) {
    size_t n, n_text = 0;
    ld_check_tokenizer(L, 1);
    const int32_t *ids = ld_ids(L, 2, "ids", &n);
    ld_box *text = ld_new_box(L, dsvk_free);
    dsvk_error err = {0};
    if (dsvk_tokenizer_decode(ld_check_tokenizer(L, 1)->handle, ids, n, (char **)&text->memory, &n_text, &err) != DSVK_OK)
        return ld_fail(L, &err);
    lua_pushlstring(L, text->memory, n_text);
    ld_release(text);
    return 1;
}

static int tokenizer_id(lua_State *L) {
    size_t n;
    ld_check_tokenizer(L, 1);
    const char *text = luaL_checklstring(L, 2, &n);
    const int32_t id = dsvk_tokenizer_id(ld_check_tokenizer(L, 1)->handle, text, n);
    if (id < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, id);
    return 1;
}

static int is_kind(lua_State *L, uint32_t (*is)(const dsvk_tokenizer *tokenizer, int32_t id)) {
    ld_tokenizer *self = ld_check_tokenizer(L, 1);
    const lua_Integer id = luaL_checkinteger(L, 2);
    lua_pushboolean(L, id >= 0 && id <= INT32_MAX && is(self->handle, (int32_t)id));
    return 1;
}

static int tokenizer_is_special(lua_State *L) { return is_kind(L, dsvk_tokenizer_is_special); }
static int tokenizer_is_added(lua_State *L) { return is_kind(L, dsvk_tokenizer_is_added); }

static int tokenizer_vocab_size(lua_State *L) {
    lua_pushinteger(L, dsvk_tokenizer_vocab_size(ld_check_tokenizer(L, 1)->handle));
    return 1;
}

static int tokenizer_decoder(lua_State *L) {
    ld_check_tokenizer(L, 1);
    ld_decoder *decoder = ld_new(L, sizeof *decoder, 1, LD_DECODER);
    dsvk_error err = {0};
    lua_pushvalue(L, 1);
    lua_setiuservalue(L, -2, 1);
    return dsvk_decoder_open(&decoder->handle, ld_check_tokenizer(L, 1)->handle, &err) == DSVK_OK ? 1 : ld_fail(L, &err);
}

/* ---- Decoder ---- */

static ld_decoder *check_decoder(lua_State *L, int arg) {
    ld_decoder *self = luaL_checkudata(L, arg, LD_DECODER);
    LD_OPEN(L, self, "the decoder");
    lua_getiuservalue(L, arg, 1);
    ld_check_tokenizer(L, lua_gettop(L));
    lua_pop(L, 1);
    return self;
}

static int decoder_close(lua_State *L) {
    ld_decoder *self = luaL_checkudata(L, 1, LD_DECODER);
    dsvk_decoder *handle = self->handle;
    self->handle = NULL;
    dsvk_decoder_close(handle);
    lua_pushboolean(L, 1);
    return 1;
}

static int decoder_closed(lua_State *L) {
    const ld_decoder *self = luaL_checkudata(L, 1, LD_DECODER);
    lua_getiuservalue(L, 1, 1);
    lua_pushboolean(L, self->handle == NULL || !is_open(L, lua_gettop(L)));
    return 1;
}

static int decoder_push(lua_State *L) {
    ld_decoder *self = check_decoder(L, 1);
    const int32_t id = ld_check_id(L, 2);
    const char *text = NULL;
    size_t n = 0;
    dsvk_error err = {0};
    if (dsvk_decoder_push(self->handle, id, &text, &n, &err) != DSVK_OK)
        return ld_fail(L, &err);
    lua_pushlstring(L, text, n);
    return 1;
}

static int decoder_finish(lua_State *L) {
    ld_decoder *self = check_decoder(L, 1);
    const char *text = NULL;
    size_t n = 0;
    dsvk_error err = {0};
    if (dsvk_decoder_finish(self->handle, &text, &n, &err) != DSVK_OK)
        return ld_fail(L, &err);
    lua_pushlstring(L, text, n);
    return 1;
}

static const luaL_Reg tokenizer_functions[] = {
    {"encode", tokenizer_encode},         {"decode", tokenizer_decode},   {"id", tokenizer_id},
    {"is_special", tokenizer_is_special}, {"decoder", tokenizer_decoder}, {"vocab_size", tokenizer_vocab_size},
    {"is_added", tokenizer_is_added},     {"close", tokenizer_close},     {"closed", tokenizer_closed},
    {NULL, NULL},
};

static const luaL_Reg decoder_functions[] = {
    {"push", decoder_push}, {"finish", decoder_finish}, {"close", decoder_close}, {"closed", decoder_closed}, {NULL, NULL},
};

void ld_add_tokenizer(lua_State *L) {
    ld_add_type(L, LD_TOKENIZER, tokenizer_functions, tokenizer_close, tokenizer_close);
    ld_add_type(L, LD_DECODER, decoder_functions, decoder_close, decoder_close);
}
