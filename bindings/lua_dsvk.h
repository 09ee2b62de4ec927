/* What the files of the Lua module share: its types, and the helpers around every function's three steps: check arguments
 * -> one call into dsvk.h -> convert the result, or return nil, message, code. Wrong arguments and closed handles are errors.
 *
 * Lua raises by longjmp, at any allocation. So nothing that has to be freed is held by a C local where Lua can raise: handles
 * live in userdata that are made closed and then opened, what the library returns goes into a box made before the call, and
 * arrays of ours are userdata. A callback runs in a protected call, and its error waits on the stack until the library's
 * frames have returned.
 *
 * Nor do objects stay as they were: finalizers run at any allocation of Lua, and they, the metamethods of an options table and
 * callbacks may call whatever the module has. Hence two rules. The check that a handle is open stands in the very expression that
 * gives it to the library (ld_check_model(L, 1)->handle), or right before it, with no allocation of Lua's in between; a check at
 * the top of a function is there for the caller's sake. And while the library may call back, or what it returned is read in its
 * memory, `users` of the object is not zero: then close refuses. */
#ifndef DSVK_LUA_DSVK_H
#define DSVK_LUA_DSVK_H

#include <lauxlib.h>
#include <lua.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dsvk.h"

#if LUA_VERSION_NUM != 504
#error "dsvk's Lua module is for Lua 5.4"
#endif

#define LD_DEVICE "dsvk.Device"
#define LD_MODEL "dsvk.Model"
#define LD_SESSION "dsvk.Session"
#define LD_TOKENIZER "dsvk.Tokenizer"
#define LD_DECODER "dsvk.Decoder"
#define LD_TENSOR "dsvk.Tensor"
#define LD_TRACE "dsvk.Trace"
#define LD_PARSER "dsvk.ChatParser"

typedef struct ld_device { /* user value 1: the thread of its log, or nil */
    dsvk_device *handle;
    int users;
    lua_State *log; /* that thread, with the function as its first value; NULL: nothing is told */
} ld_device;

typedef struct ld_model { /* user value 1: its Device */
    dsvk_model *handle;
    bool owns_device; /* the device was opened with the model and is closed with it */
} ld_model;

typedef struct ld_tokenizer { /* user value 1: the Model whose tokenizer this is, or nil */
    const dsvk_tokenizer *handle;
    dsvk_tokenizer *owned; /* the same when it is no model's */
} ld_tokenizer;

typedef struct ld_decoder { /* user value 1: its Tokenizer */
    dsvk_decoder *handle;
} ld_decoder;

typedef struct ld_call ld_call;

typedef struct ld_session { /* user values: 1 its Model, 2 the progress function or nil, 3 the goal's mask function or nil */
    dsvk_session *handle;
    int users;
    ld_call *call;                   /* the one running, NULL outside */
    const dsvk_tokenizer *tokenizer; /* the model's, which lives as long as the session; NULL when it has none */
    uint32_t n_vocab;                /* width of a row of logits */
    dsvk_decoder *decoder;           /* text of what poll decodes; NULL before begin */
    size_t told;                     /* length of the timeline that the goal's mask function knows */
} ld_session;

/* lua_module.c */
/* Argument 1, the path of a model or a tokenizer, as dsvk.locate finds it; NULL and the three results of a failure on the stack. */
const char *ld_path(lua_State *L);
/* Argument 2, if it is text, becomes the ids a model (argument 1) begins with; false: the three results of a failure are on the stack. */
bool ld_prompt(lua_State *L);
void *ld_new(lua_State *L, size_t size, int n_values, const char *type); /* pushes a zeroed object */
/* Adds the type to the module on top of the stack as dsvk.NAME, the table of its functions, which are its methods. `collect` is
 * __gc, `leave` __close. */
void ld_add_type(lua_State *L, const char *type, const luaL_Reg *functions, lua_CFunction collect, lua_CFunction leave);
/* Raises when the object's handle is closed. */
#define LD_OPEN(L, object, what) ((object)->handle != NULL ? (void)0 : (void)luaL_error(L, what " is closed"))

/* lua_call.c: results, and calls that report progress. */
int ld_fail(lua_State *L, const dsvk_error *err);                      /* nil, message, code */
int ld_busy(lua_State *L, const char *what);                           /* nil, "WHAT is in use ...", "BUSY" */
int ld_done(lua_State *L, dsvk_status status, const dsvk_error *err);  /* true, or as ld_fail */
struct ld_call {
    lua_State *L;
    int function; /* stack index of a progress function, or 0 */
    int mask;     /* the same of a mask function */
    size_t *told; /* for it: lengths of the timelines that it knows */
    bool raised;  /* its error is on top of the stack */
    ld_call *outer;
};
/* Between begin and end the library may call ld_progress with `running` as user. The calls of one handle nest: a call from
 * inside its own callback is turned away by the library. */
void ld_call_begin(ld_call *call, ld_call **running, lua_State *L, int function);
void ld_call_end(ld_call *call, ld_call **running); /* raises what a callback raised: nothing may be owned, users be even */
int ld_progress(void *user, const char *stage, uint64_t done, uint64_t total);
/* A dsvk_mask_fn with the same `running` as user (lua_mask.c). */
dsvk_status ld_mask(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words, dsvk_error *err);

/* lua_convert.c */
typedef struct ld_box {
    void *memory;
    void (*release)(void *memory);
} ld_box;
ld_box *ld_new_box(lua_State *L, void (*release)(void *memory)); /* pushes an empty box, released by __gc at the latest */
void ld_release(ld_box *box);
void ld_add_box_type(lua_State *L);
/* The end of a call that gives JSON text in a box: its value, the text released, or the failure. */
int ld_json(lua_State *L, dsvk_status status, ld_box *text, const dsvk_error *err);
void ld_push_list(lua_State *L, size_t n); /* an empty table with room for n items: putting them there runs no finalizers */
void ld_put_ids(lua_State *L, const int32_t *ids, size_t n); /* into the table on top of the stack */
void ld_put_numbers(lua_State *L, const float *numbers, size_t n);
void ld_push_ids(lua_State *L, const int32_t *ids, size_t n);
void ld_push_numbers(lua_State *L, const float *numbers, size_t n);
void ld_push_shape(lua_State *L, const uint64_t *shape, uint32_t rank);
bool ld_whole(lua_State *L, int index, lua_Integer *out); /* 2 and 2.0, but no text */
int32_t ld_check_id(lua_State *L, int arg);
/* Token ids of an array of integers at `arg`, which may be relative. Pushes what holds them. */
const int32_t *ld_ids(lua_State *L, int arg, const char *name, size_t *n);

const char *ld_shown(lua_State *L, int index); /* pushes a value as a sentence shows it: a string in quotes */
/* Argument `arg` is a table with no other keys than `names` (ends with NULL), or nil; it is a table afterwards. */
void ld_options(lua_State *L, int arg, const char *const *names);
/* Raises that it was something else: the value at `value`. */
void ld_wrong_option(lua_State *L, const char *name, int value, const char *expected);
void ld_option_table(lua_State *L, int arg, const char *name, const char *const *names); /* pushes it, empty when there is none */
bool ld_option_flag(lua_State *L, int arg, const char *name);
float ld_option_number(lua_State *L, int arg, const char *name);
uint64_t ld_option_count(lua_State *L, int arg, const char *name, uint64_t most); /* 0 .. most, default 0 */
const char *ld_option_text(lua_State *L, int arg, const char *name); /* pushes it; NULL when there is none */
#define LD_PROGRESS_TAKES "(stage, done, total)"
/* Pushes it and returns its index; 0 when there is none. `takes`: its arguments, for the message. */
int ld_option_function(lua_State *L, int arg, const char *name, const char *takes);

/* lua_device.c */
ld_device *ld_check_device(lua_State *L, int arg);
/* Opens a device by the value at `choice` (index, name, UUID, nil) and the options table at `arg`, and pushes it; on failure
 * pushes an object that is closed. */
dsvk_status ld_device_new(lua_State *L, int choice, int arg, dsvk_error *err);

/* lua_model.c */
ld_model *ld_check_model(lua_State *L, int arg);
#define LD_MODEL_OPTIONS "cache", "strict", "verify", "threads", "max_chunk", "page_tokens"
void ld_model_options(lua_State *L, int arg, dsvk_model_options *options);

/* lua_tokenizer.c */
ld_tokenizer *ld_check_tokenizer(lua_State *L, int arg);

/* lua_session.c */
int ld_decode_batch(lua_State *L);

/* one per type */
void ld_add_device(lua_State *L);
void ld_add_model(lua_State *L);
void ld_add_session(lua_State *L);
void ld_add_tokenizer(lua_State *L);
void ld_add_tensor(lua_State *L);
void ld_add_trace(lua_State *L);
void ld_add_chat(lua_State *L);
int ld_device_open(lua_State *L);
int ld_model_open(lua_State *L);
int ld_session_open(lua_State *L);
int ld_tokenizer_open(lua_State *L);
int ld_tokenizer_of(lua_State *L); /* model:tokenizer() */
int ld_tensor_open(lua_State *L);
int ld_trace_open(lua_State *L); /* model:trace(tokens, options) */
int ld_op(lua_State *L);
int ld_op_function(lua_State *L); /* name -> dsvk.ops.NAME */
int ld_op_table(lua_State *L);

#endif
