/* What the files of the Python extension share: the module's state, its objects, and the helpers around every method's
 * four steps: check arguments -> release the lock -> one call into dsvk.h -> convert the result or raise.
 *
 * Objects are created closed (handle NULL) and then opened by __init__, so a failure in between is harmless. `users`
 * counts the calls running on a handle; it changes only with the lock held, and close refuses or waits while it is not
 * zero, so no call ever runs on a freed handle. */
#ifndef DSVK_PY_DSVK_H
#define DSVK_PY_DSVK_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "dsvk.h"
#include "py_dlpack.h"

#define PY_STATUS_COUNT 14 /* entries of DSVK_STATUS_LIST; py_error.c checks it */

typedef struct py_state {
    PyObject *error;                     /* dsvk.Error */
    PyObject *errors[PY_STATUS_COUNT];   /* one subclass per status; [DSVK_OK] stays NULL */
    PyObject *json_loads;
    PyTypeObject *device, *model, *session, *tokenizer, *decoder, *array, *chat_parser, *scheduler, *tensor;
} py_state;

typedef struct py_constraint py_constraint; /* py_mask.c */

typedef struct py_device {
    PyObject_HEAD
    py_state *state; /* lives as long as the type, which lives as long as the object */
    dsvk_device *handle;
    pid_t pid;     /* of the process that opened it */
    int users;
    PyObject *log; /* owned callable, or NULL; called until the device's last model has gone */
} py_device;

typedef struct py_model {
    PyObject_HEAD
    py_state *state;
    dsvk_model *handle;
    int users;
    py_device *device; /* owned */
} py_model;

typedef struct py_tokenizer {
    PyObject_HEAD
    py_state *state;
    const dsvk_tokenizer *handle;
    int users;
    py_model *model; /* owned; the handle belongs to this model and dies with its handle. NULL: the handle is ours */
} py_tokenizer;

typedef struct py_decoder {
    PyObject_HEAD
    py_state *state;
    dsvk_decoder *handle;
    py_tokenizer *tokenizer; /* owned */
} py_decoder;

typedef struct py_session {
    PyObject_HEAD
    py_state *state;
    dsvk_session *handle;
    int users;
    py_model *model;    /* owned; the library keeps the weights even when this one is closed */
    Py_ssize_t n_vocab; /* width of a row of logits */
    PyObject *progress; /* owned callable, or NULL */
    py_constraint *constraint; /* of what poll does, or NULL */
} py_session;

typedef struct py_chat_parser {
    PyObject_HEAD
    py_state *state;
    dsvk_chat_parser *handle;
} py_chat_parser;

typedef struct py_scheduler {
    PyObject_HEAD
    py_state *state;
    dsvk_scheduler *handle;
    int users;
    py_model *model; /* owned; the library keeps the weights even when this one is closed */
    uint32_t n_vocab;
    py_constraint *constraints; /* of requests that have not told their end */
} py_scheduler;

typedef struct py_tensor {
    PyObject_HEAD
    py_state *state;
    dsvk_tensor *handle;
    int users;          /* calls and views */
    py_device *device;  /* owned */
    dsvk_tensor_info info;
    Py_ssize_t shape[DSVK_TENSOR_RANK], strides[DSVK_TENSOR_RANK]; /* numbers; bytes, of what is read */
} py_tensor;

/* Numbers row by row, contiguous. */
typedef struct py_array {
    PyObject_HEAD
    PyObject *base; /* owned object whose memory this is, or NULL: `view` or `data` is ours */
    Py_buffer view; /* of a tensor; view.obj NULL otherwise */
    bool read_only; /* a tensor's, and every row of one */
    void *data;
    dsvk_dtype dtype;
    int n_dims;
    Py_ssize_t count, shape[DSVK_TENSOR_RANK], strides[DSVK_TENSOR_RANK]; /* numbers; numbers; bytes */
} py_array;

/* py_module.c */
py_state *py_state_of(PyTypeObject *type); /* of our type or a class derived from it */
PyTypeObject *py_add_type(PyObject *module, PyType_Spec *spec, const char *name);
void py_object_free(PyObject *self); /* tp_free, and the reference every object of a heap type holds to its type */

/* py_error.c */
int py_errors_add(PyObject *module, py_state *state);
/* Raises the class of err->status with its sentence; returns NULL. */
PyObject *py_raise(const py_state *state, const dsvk_error *err);
/* The same for failures found here. */
PyObject *py_raise_status(const py_state *state, dsvk_status status, const char *message);

/* py_call.c: a call into the library that may take long. The lock is released between begin and end; `progress` (a
 * callable taking stage, done, total, or NULL) and pending signals are served from py_call_progress, which the library
 * calls in the same thread. */
typedef struct py_call {
    PyThreadState *thread; /* NULL while the lock is held inside */
    PyObject *progress;
    struct py_call *outer;
} py_call;
void py_call_begin(py_call *call, PyObject *progress);
/* Takes the lock back. False with an exception set: `status` was not OK, or Python code failed in between. */
bool py_call_end(py_call *call, const py_state *state, dsvk_status status, const dsvk_error *err);
int py_call_progress(void *user, const char *stage, uint64_t done, uint64_t total);
bool py_call_running(void); /* true inside a progress callback: this thread is in a call */
/* Around Python code that the library calls from inside a call of this thread. */
void py_call_enter(void);
void py_call_leave(void);
void py_log(void *user, const char *line); /* a dsvk_log_fn; user: the py_device */

/* py_convert.c: every one raises and says so (NULL, false or -1) when it cannot: TypeError for another type, InvalidError for a value. */
PyObject *py_json(const py_state *state, char *json);       /* releases json */
PyObject *py_text(const char *text, size_t n);              /* UTF-8 with U+FFFD for what is none */
/* Refuses a NUL, which would end it; lives as long as `text`. */
const char *py_utf8(const py_state *state, PyObject *text, const char *name);
bool py_utf8_or_none(const py_state *state, PyObject *text, const char *name, const char **out); /* NULL and None -> NULL */
/* Numbers in a range; a NULL value is 0. */
bool py_unsigned(const py_state *state, PyObject *value, const char *name, uint64_t most, uint64_t *out); /* 0 .. most */
bool py_u32(const py_state *state, PyObject *value, const char *name, uint32_t *out);
bool py_u64(const py_state *state, PyObject *value, const char *name, uint64_t *out);
bool py_i32(const py_state *state, PyObject *value, const char *name, int32_t *out);
bool py_f32(const py_state *state, PyObject *value, const char *name, float *out);
/* Refuses an integer that would become another number. expected: "a number", for the message. */
bool py_number(const py_state *state, PyObject *value, const char *name, const char *expected, double *out);
/* *out: borrowed; None -> NULL. takes: "(stage, done, total)", for the message. */
bool py_callable(PyObject *value, const char *name, const char *takes, PyObject **out);
#define PY_PROGRESS_TAKES "(stage, done, total)"
/* ids from a sequence of integers or a contiguous buffer of int32 or int64; PyMem_Free them. */
bool py_tokens(const py_state *state, PyObject *value, const char *name, int32_t **ids, Py_ssize_t *n);
PyObject *py_token_list(const int32_t *ids, size_t n);
/* {id: what is added to its logit}; PyMem_Free it. NULL and None are none. */
bool py_logit_bias(const py_state *state, PyObject *value, dsvk_logit_bias **bias, size_t *n);
bool py_budgets(const py_state *state, PyObject *budgets, uint64_t out[DSVK_PURPOSE_COUNT]);

/* py_model.c */
typedef struct py_model_arguments {
    PyObject *cache, *strict, *verify, *threads, *max_chunk, *page_tokens, *progress;
} py_model_arguments;
/* Fills options, and *progress with a borrowed callable or NULL. */
bool py_model_options(const py_state *state, const py_model_arguments *from, dsvk_model_options *options, PyObject **progress);

/* py_device.c: of a handle's users those that can come to an end: not the parent's calls in a forked child (A11). */
int py_users(int users, const py_device *device);

/* py_array.c */
py_array *py_array_new(const py_state *state, Py_ssize_t rows, Py_ssize_t columns); /* float32; rows -1: one dimension */
/* Numbers at `data`, which lie there as long as `base` lives. */
PyObject *py_array_of(const py_state *state, PyObject *base, void *data, dsvk_dtype dtype, int n_dims, const Py_ssize_t *shape);
PyObject *py_array_of_buffer(const py_state *state, PyObject *object); /* through its buffer protocol, held as long as the array */
PyObject *py_shape(int n_dims, const Py_ssize_t *shape);               /* a tuple */
void py_shape_text(char *text, size_t size, int n_dims, const Py_ssize_t *shape); /* "[3, 512]" */
const char *py_format_of_dtype(dsvk_dtype dtype); /* of the buffer protocol */
/* DSVK_DTYPE_COUNT: none of ours. */
dsvk_dtype py_dtype_of_format(const char *format, Py_ssize_t itemsize);
dsvk_dtype py_dtype_of_dlpack(uint8_t code, uint8_t bits);
/* Where a call writes its numbers: the caller's `out`, or a new array when that is None. */
typedef struct py_output {
    PyObject *object; /* owned; the call's result */
    float *data;
    Py_buffer view;   /* of the caller's `out`; view.obj NULL otherwise */
} py_output;
bool py_output_open(py_output *output, const py_state *state, PyObject *out, const char *name, Py_ssize_t rows,
                    Py_ssize_t columns);
PyObject *py_output_close(py_output *output, bool ok); /* the result, or NULL when the call failed */

/* Opens a handle for one call: raises StateError when it is closed. Balanced by `object->users--`. */
#define PY_ENTER(self, what)                                                                         \
    (((self)->handle != NULL) ? ((self)->users++, true)                                              \
                              : (py_raise_status((self)->state, DSVK_STATE, what " is closed"), false))

extern PyType_Spec py_device_spec, py_model_spec, py_session_spec, py_tokenizer_spec, py_decoder_spec, py_array_spec,
    py_chat_parser_spec, py_scheduler_spec, py_tensor_spec;
PyObject *py_decode_batch(PyObject *module, PyObject *args, PyObject *kwargs);
extern const char py_decode_batch_doc[];

/* py_tokenizer.c: one call on a tokenizer, and on its model if it has one. */
bool py_tokenizer_enter(py_tokenizer *self); /* raises StateError when either is closed */
void py_tokenizer_leave(py_tokenizer *self);

/* py_tensor.c */
PyObject *py_op(PyObject *module, PyObject *args);
PyObject *py_ops(PyObject *module, PyObject *nothing);
extern const char py_op_doc[], py_ops_doc[];
/* py_mask.c: the constraint of a request. */
/* *after: the id of a token behind which it begins, of a vocabulary of n_vocab. */
py_constraint *py_constraint_new(const py_state *state, PyObject *object, uint32_t n_choices, size_t n_prompt, uint32_t n_vocab,
                                 int32_t *after);
void py_constraint_free(py_constraint *constraint); /* accepts NULL */
void py_constraint_keep(py_constraint **list, py_constraint *constraint, uint64_t request);
void py_constraint_finished(py_constraint **list, uint64_t request); /* one of its choices; the last one frees it */
void py_constraint_free_all(py_constraint **list);
int py_constraint_visit(py_constraint *list, visitproc visit, void *arg);
dsvk_status py_constraint_mask(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words,
                               dsvk_error *err); /* a dsvk_mask_fn */
dsvk_status py_session_mask(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words,
                            dsvk_error *err); /* one for calls of sessions */

/* py_chat.c */
PyObject *py_chat_encode(PyObject *module, PyObject *args);
PyObject *py_chat_parse(PyObject *module, PyObject *args);
extern const char py_chat_encode_doc[], py_chat_parse_doc[];

#endif
