/* dsvk.Model: immutable weights on a device. The object keeps its Device object; sessions and tokenizers keep it. */
#include <string.h>

#include "py_dsvk.h"

bool py_model_options(const py_state *state, const py_model_arguments *from, dsvk_model_options *options, PyObject **progress) {
    memset(options, 0, sizeof *options);
    options->size = sizeof *options;
    options->progress = py_call_progress;
    if (from->cache != NULL && from->cache != Py_None) {
        if (PyUnicode_Check(from->cache) && PyUnicode_CompareWithASCIIString(from->cache, "f32") == 0) {
            options->cache = DSVK_CACHE_F32;
        } else if (!PyUnicode_Check(from->cache) || PyUnicode_CompareWithASCIIString(from->cache, "native") != 0) {
            PyErr_Format(state->errors[DSVK_INVALID], "cache: expected 'native' or 'f32', got %R", from->cache);
            return false;
        }
    }
    int strict = from->strict ? PyObject_IsTrue(from->strict) : 0;
    int verify = from->verify ? PyObject_IsTrue(from->verify) : 0;
    if (strict < 0 || verify < 0)
        return false;
    options->strict = (uint32_t)strict;
    options->verify = (uint32_t)verify;
    return py_u32(state, from->threads, "threads", &options->threads) &&
           py_u32(state, from->max_chunk, "max_chunk", &options->max_chunk) &&
           py_u32(state, from->page_tokens, "page_tokens", &options->page_tokens) &&
           py_callable(from->progress, "progress", PY_PROGRESS_TAKES, progress);
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    py_state *state = py_state_of(type);
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_model *self = state ? (py_model *)alloc(type, 0) : NULL;
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

static int model_open(py_model *self, py_device *device, const char *path, const dsvk_model_options *options,
                      PyObject *progress) {
    if (!PY_ENTER(device, "the device"))
        return -1;
    dsvk_model *handle = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, progress);
    dsvk_status status = dsvk_model_open(&handle, device->handle, path, options, &err);
    bool ok = py_call_end(&call, self->state, status, &err);
    device->users--;
    if (!ok) {
        dsvk_model_close(handle);
        return -1;
    }
    self->handle = handle;
    self->device = (py_device *)Py_NewRef((PyObject *)device);
    return 0;
}

static int model_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path",   "device",    "progress",    "cache",   "strict",
                            "verify", "max_chunk", "page_tokens", "threads", NULL};
    py_model *self = (py_model *)object;
    PyObject *path = NULL, *device, *progress;
    py_model_arguments arguments = {0};
    dsvk_model_options options;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O!|OOOOOOO:Model", names, PyUnicode_FSConverter, &path,
                                     self->state->device, &device, &arguments.progress, &arguments.cache,
                                     &arguments.strict, &arguments.verify, &arguments.max_chunk, &arguments.page_tokens,
                                     &arguments.threads))
        return -1;
    int result = -1;
    if (self->handle != NULL || self->device != NULL)
        py_raise_status(self->state, DSVK_STATE, "the model was already opened");
    else if (py_model_options(self->state, &arguments, &options, &progress))
        result = model_open(self, (py_device *)device, PyBytes_AsString(path), &options, progress);
    Py_DECREF(path);
    return result;
}

static int model_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((py_model *)self)->device);
    return 0;
}

static void model_dealloc(PyObject *object) {
    py_model *self = (py_model *)object;
    PyObject_GC_UnTrack(object);
    dsvk_model_close(self->handle);
    Py_CLEAR(self->device);
    py_object_free(object);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nLets go of the weights; they are freed when the last session of the model is closed.\n"
                        "Raises BusyError while another thread is in a call. Closing twice is allowed.");

static PyObject *model_close(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_model *self = (py_model *)object;
    if (py_users(self->users, self->device) > 0)
        return py_raise_status(self->state, DSVK_BUSY, "the model is in use by a call that is running");
    dsvk_model *handle = self->handle;
    self->handle = NULL;
    py_call call;
    py_call_begin(&call, NULL); /* the last user of a device may have a line for its log */
    dsvk_model_close(handle);
    return py_call_end(&call, self->state, DSVK_OK, NULL) ? Py_NewRef(Py_None) : NULL;
}

/* ---- tracing ---- */

static const char trace_capsule[] = "dsvk.trace";

static void drop_trace(PyObject *capsule) { dsvk_trace_close(PyCapsule_GetPointer(capsule, trace_capsule)); }

/* {name: Array}; the arrays keep the trace. */
static PyObject *trace_dict(const py_state *state, dsvk_trace *trace) {
    PyObject *capsule = PyCapsule_New(trace, trace_capsule, drop_trace);
    if (capsule == NULL) {
        dsvk_trace_close(trace);
        return NULL;
    }
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < dsvk_trace_count(trace); i++) {
        const dsvk_trace_entry *entry = dsvk_trace_get(trace, i);
        Py_ssize_t shape[DSVK_TENSOR_RANK];
        for (uint32_t d = 0; d < entry->rank; d++)
            shape[d] = (Py_ssize_t)entry->shape[d];
        PyObject *array = py_array_of(state, capsule, (void *)entry->data, entry->dtype, (int)entry->rank, shape);
        if (array == NULL || PyDict_SetItemString(dict, entry->name, array) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(array);
    }
    Py_DECREF(capsule);
    return dict;
}

PyDoc_STRVAR(trace_doc, "trace($self, /, tokens, progress=None)\n--\n\n"
                        "What a forward pass over the tokens goes through: a dict of Arrays by name.");

static PyObject *model_trace(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"tokens", "progress", NULL};
    py_model *self = (py_model *)object;
    PyObject *tokens, *progress_object = NULL, *progress, *result = NULL;
    int32_t *ids;
    Py_ssize_t n;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:trace", names, &tokens, &progress_object) ||
        !py_callable(progress_object, "progress", PY_PROGRESS_TAKES, &progress) ||
        !py_tokens(self->state, tokens, "tokens", &ids, &n))
        return NULL;
    if (PY_ENTER(self, "the model")) {
        dsvk_trace *trace = NULL;
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, progress);
        dsvk_status status = dsvk_model_trace(&trace, self->handle, ids, (size_t)n, py_call_progress, NULL, &err);
        bool ok = py_call_end(&call, self->state, status, &err);
        self->users--;
        if (ok)
            result = trace_dict(self->state, trace);
        else
            dsvk_trace_close(trace);
    }
    PyMem_Free(ids);
    return result;
}

typedef dsvk_status (*report_fn)(const dsvk_model *model, char **json, dsvk_error *err);

static PyObject *model_json(PyObject *object, report_fn report) {
    py_model *self = (py_model *)object;
    if (!PY_ENTER(self, "the model"))
        return NULL;
    char *json = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = report(self->handle, &json, &err);
    bool ok = py_call_end(&call, self->state, status, &err);
    self->users--;
    if (!ok) {
        dsvk_free(json);
        return NULL;
    }
    return py_json(self->state, json);
}

static PyObject *model_config(PyObject *self, void *nothing) {
    (void)nothing;
    return model_json(self, dsvk_model_config);
}

static PyObject *model_report(PyObject *self, void *nothing) {
    (void)nothing;
    return model_json(self, dsvk_model_report);
}

static PyObject *model_number(PyObject *object, uint32_t (*get)(const dsvk_model *model), bool truth) {
    py_model *self = (py_model *)object;
    if (!PY_ENTER(self, "the model"))
        return NULL;
    uint32_t value = get(self->handle);
    self->users--;
    return truth ? PyBool_FromLong(value != 0) : PyLong_FromUnsignedLong(value);
}

static PyObject *model_vocab_size(PyObject *self, void *nothing) {
    (void)nothing;
    return model_number(self, dsvk_model_vocab_size, false);
}

static PyObject *model_has_mtp(PyObject *self, void *nothing) {
    (void)nothing;
    return model_number(self, dsvk_model_has_mtp, true);
}

static PyObject *model_device(PyObject *object, void *nothing) {
    (void)nothing;
    py_model *self = (py_model *)object;
    return Py_NewRef(self->device ? (PyObject *)self->device : Py_None);
}

/* A new object each time: one kept by the model would be a cycle that keeps the weights until the next collection. */
static PyObject *model_tokenizer(PyObject *object, void *nothing) {
    (void)nothing;
    py_model *self = (py_model *)object;
    if (!PY_ENTER(self, "the model"))
        return NULL;
    const dsvk_tokenizer *handle = dsvk_model_tokenizer(self->handle);
    self->users--;
    if (handle == NULL)
        Py_RETURN_NONE;
    allocfunc alloc = PyType_GetSlot(self->state->tokenizer, Py_tp_alloc);
    py_tokenizer *tokenizer = (py_tokenizer *)alloc(self->state->tokenizer, 0);
    if (tokenizer == NULL)
        return NULL;
    tokenizer->state = self->state;
    tokenizer->handle = handle;
    tokenizer->model = (py_model *)Py_NewRef(object);
    return (PyObject *)tokenizer;
}

static PyObject *model_closed(PyObject *self, void *nothing) {
    (void)nothing;
    return PyBool_FromLong(((py_model *)self)->handle == NULL);
}

static PyObject *model_enter(PyObject *self, PyObject *nothing) {
    (void)nothing;
    return Py_NewRef(self);
}

static PyObject *model_exit(PyObject *self, PyObject *exception) {
    (void)exception;
    return model_close(self, NULL);
}

static PyMethodDef model_methods[] = {
    {"trace", (PyCFunction)(void (*)(void))model_trace, METH_VARARGS | METH_KEYWORDS, trace_doc},
    {"close", model_close, METH_NOARGS, close_doc},
    {"__enter__", model_enter, METH_NOARGS, NULL},
    {"__exit__", model_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef model_getset[] = {
    {"config", model_config, NULL, "The model's configuration as it is used: a dict.", NULL},
    {"report", model_report, NULL, "What loading did: a dict of path, bytes, tensors, ignored, notes, seconds, ...", NULL},
    {"tokenizer", model_tokenizer, NULL, "The model's own Tokenizer, or None when its folder has none.", NULL},
    {"vocab_size", model_vocab_size, NULL, "Width of a row of logits.", NULL},
    {"has_mtp", model_has_mtp, NULL, "True when the checkpoint has a multi-token-prediction block.", NULL},
    {"device", model_device, NULL, "The Device the weights are on.", NULL},
    {"closed", model_closed, NULL, "True after close().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(model_doc, "Model(path, device, progress=None, cache='native', strict=False, verify=False, max_chunk=0,\n"
                        "      page_tokens=0, threads=0)\n--\n\n"
                        "Immutable weights on a device; dsvk.Model adds the rest.");

static PyType_Slot model_slots[] = {
    {Py_tp_doc, (void *)model_doc},    {Py_tp_new, model_new},         {Py_tp_init, model_init},
    {Py_tp_dealloc, model_dealloc},    {Py_tp_methods, model_methods}, {Py_tp_getset, model_getset},
    {Py_tp_traverse, model_traverse},  {0, NULL},
};

PyType_Spec py_model_spec = {
    .name = "dsvk._dsvk.Model",
    .basicsize = sizeof(py_model),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = model_slots,
};
