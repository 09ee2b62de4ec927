/* Statuses as exceptions: dsvk.Error, and below it one class per status of DSVK_STATUS_LIST that is also the built-in a
 * Python programmer would expect. `status` is the status's name on every class. */
#include <string.h>

#include "py_dsvk.h"

typedef struct error_kind {
    dsvk_status status;
    const char *name;
    PyObject **builtin;
} error_kind;

#define COUNT_STATUS(name, code, sentence) +1
_Static_assert(PY_STATUS_COUNT == 0 DSVK_STATUS_LIST(COUNT_STATUS), "py_state.errors has one entry per status");
#undef COUNT_STATUS

static int add_kind(PyObject *module, py_state *state, dsvk_status status, const char *name, PyObject *builtin) {
    char qualified[64];
    PyOS_snprintf(qualified, sizeof qualified, "dsvk.%s", name);
    PyObject *bases = builtin ? PyTuple_Pack(2, state->error, builtin) : PyTuple_Pack(1, state->error);
    PyObject *body = Py_BuildValue("{s:s}", "status", dsvk_status_name(status));
    if (bases != NULL && body != NULL)
        state->errors[status] = PyErr_NewExceptionWithDoc(qualified, dsvk_status_text(status), bases, body);
    Py_XDECREF(bases);
    Py_XDECREF(body);
    return state->errors[status] == NULL ? -1 : PyModule_AddObjectRef(module, name, state->errors[status]);
}

int py_errors_add(PyObject *module, py_state *state) {
    PyObject *body = Py_BuildValue("{s:O}", "status", Py_None);
    if (body == NULL)
        return -1;
    state->error = PyErr_NewExceptionWithDoc("dsvk.Error", "A call into dsvk failed; `status` names the kind.",
                                             PyExc_Exception, body);
    Py_DECREF(body);
    if (state->error == NULL || PyModule_AddObjectRef(module, "Error", state->error) < 0)
        return -1;
    const error_kind kinds[] = {
        {DSVK_INVALID, "InvalidError", &PyExc_ValueError},
        {DSVK_STATE, "StateError", &PyExc_RuntimeError},
        {DSVK_BUSY, "BusyError", &PyExc_RuntimeError},
        {DSVK_CANCELLED, "CancelledError", NULL},
        {DSVK_FORMAT, "FormatError", &PyExc_ValueError},
        {DSVK_UNSUPPORTED, "UnsupportedError", &PyExc_NotImplementedError},
        {DSVK_LIMIT, "LimitError", &PyExc_ValueError},
        {DSVK_IO, "FileError", &PyExc_OSError},
        {DSVK_NOMEM, "HostMemoryError", &PyExc_MemoryError},
        {DSVK_DEVMEM, "DeviceMemoryError", &PyExc_MemoryError},
        {DSVK_DEVLOST, "DeviceLostError", &PyExc_RuntimeError},
        {DSVK_NODEVICE, "NoDeviceError", &PyExc_RuntimeError},
        {DSVK_NUMERIC, "NumericError", &PyExc_ArithmeticError},
    };
    _Static_assert(sizeof kinds / sizeof *kinds == PY_STATUS_COUNT - 1, "every status but OK has a class");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (add_kind(module, state, kinds[i].status, kinds[i].name, kinds[i].builtin ? *kinds[i].builtin : NULL) < 0)
            return -1;
    return 0;
}

PyObject *py_raise_status(const py_state *state, dsvk_status status, const char *message) {
    bool known = status > DSVK_OK && status < PY_STATUS_COUNT;
    PyObject *text = py_text(message, strlen(message));
    if (text != NULL) {
        PyErr_SetObject(known ? state->errors[status] : state->error, text);
        Py_DECREF(text);
    }
    return NULL;
}

PyObject *py_raise(const py_state *state, const dsvk_error *err) {
    return py_raise_status(state, err->status, err->message[0] ? err->message : dsvk_status_text(err->status));
}
