/* The extension module dsvk._dsvk: its state, its types, and the functions that belong to no handle. */
#include <string.h>

#include "py_dsvk.h"

static struct PyModuleDef module_def;

py_state *py_state_of(PyTypeObject *type) {
    while (type != NULL) {
        PyObject *module = PyType_GetModule(type);
        if (module != NULL && PyModule_GetDef(module) == &module_def)
            return PyModule_GetState(module);
        PyErr_Clear();
        type = PyType_GetSlot(type, Py_tp_base);
    }
    PyErr_SetString(PyExc_SystemError, "dsvk: a type without its module");
    return NULL;
}

PyTypeObject *py_add_type(PyObject *module, PyType_Spec *spec, const char *name) {
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddObjectRef(module, name, type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

void py_object_free(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(survey_doc, "survey()\n--\n\nWhat the Vulkan loader shows: a dict of loader (text; says what is missing where\n"
                         "nothing can be used) and devices, as dsvk.devices() returns them.");

static PyObject *module_survey(PyObject *module, PyObject *nothing) {
    (void)nothing;
    const py_state *state = PyModule_GetState(module);
    char *json = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_devices(&json, &err);
    if (!py_call_end(&call, state, status, &err)) {
        dsvk_free(json);
        return NULL;
    }
    return py_json(state, json);
}

PyDoc_STRVAR(plan_doc,
             "plan(path, context=0, device=None, cache='native', max_chunk=0, page_tokens=0)\n--\n\n"
             "What would be allocated where for the model at `path` (its folder or a bare config.json), from the\n"
             "configuration alone: a dict with purposes, layers and context, in bytes. context: tokens, 0 for the model's\n"
             "largest. device: says whether it fits there, too. cache, max_chunk, page_tokens: as Model takes them. Raises\n"
             "FormatError or UnsupportedError for a configuration that cannot be run.");

static PyObject *module_plan(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path", "context", "device", "cache", "max_chunk", "page_tokens", NULL};
    const py_state *state = PyModule_GetState(module);
    PyObject *path = NULL, *context = NULL, *device_or_none = NULL, *result = NULL;
    py_model_arguments arguments = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|OOOOO:plan", names, PyUnicode_FSConverter, &path, &context,
                                     &device_or_none, &arguments.cache, &arguments.max_chunk, &arguments.page_tokens))
        return NULL;
    dsvk_model_options options;
    PyObject *progress;
    uint64_t n_context;
    py_device *device = NULL;
    if (!py_model_options(state, &arguments, &options, &progress) || !py_u64(state, context, "context", &n_context))
        goto done;
    if (device_or_none != NULL && device_or_none != Py_None) {
        if (!PyObject_TypeCheck(device_or_none, state->device)) {
            PyErr_Format(PyExc_TypeError, "device: expected dsvk.Device or None, got %R", Py_TYPE(device_or_none));
            goto done;
        }
        device = (py_device *)device_or_none;
        if (!PY_ENTER(device, "the device"))
            goto done;
    }
    char *json = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status =
        dsvk_plan(PyBytes_AsString(path), device ? device->handle : NULL, &options, n_context, &json, &err);
    if (py_call_end(&call, state, status, &err))
        result = py_json(state, json);
    else
        dsvk_free(json);
    if (device != NULL)
        device->users--;
done:
    Py_DECREF(path);
    return result;
}

PyDoc_STRVAR(verify_doc,
             "verify(path, progress=None, strict=False, threads=0)\n--\n\n"
             "Reads every tensor of the model at `path` and checks layout, names, shapes, types and values (no NaN or\n"
             "infinity); needs no device. Returns a dict that says what was read. progress(stage, done, total) is called\n"
             "with bytes. strict: unknown tensors are an error. threads: that read files, 0 for 2.\n"
             "Raises FormatError, UnsupportedError or FileError naming the tensor or file.");

static PyObject *module_verify(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path", "progress", "strict", "threads", NULL};
    const py_state *state = PyModule_GetState(module);
    PyObject *path = NULL, *result = NULL, *progress;
    py_model_arguments arguments = {.verify = Py_True};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|OOO:verify", names, PyUnicode_FSConverter, &path,
                                     &arguments.progress, &arguments.strict, &arguments.threads))
        return NULL;
    dsvk_model_options options;
    if (py_model_options(state, &arguments, &options, &progress)) {
        char *json = NULL;
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, progress);
        dsvk_status status = dsvk_verify(PyBytes_AsString(path), &options, &json, &err);
        if (py_call_end(&call, state, status, &err))
            result = py_json(state, json);
        else
            dsvk_free(json);
    }
    Py_DECREF(path);
    return result;
}

static PyMethodDef module_methods[] = {
    {"survey", module_survey, METH_NOARGS, survey_doc},
    {"plan", (PyCFunction)(void (*)(void))module_plan, METH_VARARGS | METH_KEYWORDS, plan_doc},
    {"verify", (PyCFunction)(void (*)(void))module_verify, METH_VARARGS | METH_KEYWORDS, verify_doc},
    {"decode_batch", (PyCFunction)(void (*)(void))py_decode_batch, METH_VARARGS | METH_KEYWORDS, py_decode_batch_doc},
    {"chat_encode", py_chat_encode, METH_VARARGS, py_chat_encode_doc},
    {"chat_parse", py_chat_parse, METH_VARARGS, py_chat_parse_doc},
    {"op", py_op, METH_VARARGS, py_op_doc},
    {"ops", py_ops, METH_NOARGS, py_ops_doc},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module) {
    py_state *state = PyModule_GetState(module);
    if (py_errors_add(module, state) < 0)
        return -1;
    PyObject *json = PyImport_ImportModule("json");
    if (json == NULL)
        return -1;
    state->json_loads = PyObject_GetAttrString(json, "loads");
    Py_DECREF(json);
    if (state->json_loads == NULL)
        return -1;
    if ((state->device = py_add_type(module, &py_device_spec, "Device")) == NULL ||
        (state->model = py_add_type(module, &py_model_spec, "Model")) == NULL ||
        (state->session = py_add_type(module, &py_session_spec, "Session")) == NULL ||
        (state->tokenizer = py_add_type(module, &py_tokenizer_spec, "Tokenizer")) == NULL ||
        (state->decoder = py_add_type(module, &py_decoder_spec, "Decoder")) == NULL ||
        (state->array = py_add_type(module, &py_array_spec, "Array")) == NULL ||
        (state->chat_parser = py_add_type(module, &py_chat_parser_spec, "ChatParser")) == NULL ||
        (state->scheduler = py_add_type(module, &py_scheduler_spec, "Scheduler")) == NULL ||
        (state->tensor = py_add_type(module, &py_tensor_spec, "Tensor")) == NULL)
        return -1;
    return PyModule_AddStringConstant(module, "__version__", dsvk_version());
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    py_state *state = PyModule_GetState(module);
    Py_VISIT(state->error);
    for (int i = 0; i < PY_STATUS_COUNT; i++)
        Py_VISIT(state->errors[i]);
    Py_VISIT(state->json_loads);
    Py_VISIT(state->device);
    Py_VISIT(state->model);
    Py_VISIT(state->session);
    Py_VISIT(state->tokenizer);
    Py_VISIT(state->decoder);
    Py_VISIT(state->array);
    Py_VISIT(state->chat_parser);
    Py_VISIT(state->scheduler);
    Py_VISIT(state->tensor);
    return 0;
}

static int module_clear(PyObject *module) {
    py_state *state = PyModule_GetState(module);
    Py_CLEAR(state->error);
    for (int i = 0; i < PY_STATUS_COUNT; i++)
        Py_CLEAR(state->errors[i]);
    Py_CLEAR(state->json_loads);
    Py_CLEAR(state->device);
    Py_CLEAR(state->model);
    Py_CLEAR(state->session);
    Py_CLEAR(state->tokenizer);
    Py_CLEAR(state->decoder);
    Py_CLEAR(state->array);
    Py_CLEAR(state->chat_parser);
    Py_CLEAR(state->scheduler);
    Py_CLEAR(state->tensor);
    return 0;
}

static void module_free(void *module) { module_clear(module); }

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "dsvk._dsvk",
    .m_doc = "The C core of dsvk. Use the package dsvk, which adds what is pleasant in Python.",
    .m_size = sizeof(py_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__dsvk(void);
PyMODINIT_FUNC PyInit__dsvk(void) { return PyModuleDef_Init(&module_def); }
