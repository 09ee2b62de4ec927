/* Python values to the numbers of dsvk.h and back. Messages name the argument and both values (faults A07). */
#include <limits.h>
#include <string.h>

#include "py_dsvk.h"

PyObject *py_json(const py_state *state, char *json) {
    PyObject *text = json ? py_text(json, strlen(json)) : NULL;
    dsvk_free(json);
    if (text == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_SystemError, "dsvk: a report without text");
        return NULL;
    }
    PyObject *value = PyObject_CallFunctionObjArgs(state->json_loads, text, NULL);
    Py_DECREF(text);
    return value;
}

PyObject *py_text(const char *text, size_t n) { return PyUnicode_DecodeUTF8(text, (Py_ssize_t)n, "replace"); }

const char *py_utf8(const py_state *state, PyObject *text, const char *name) {
    Py_ssize_t n;
    if (!PyUnicode_Check(text)) {
        PyErr_Format(PyExc_TypeError, "%s: expected str, got %R", name, text);
        return NULL;
    }
    const char *bytes = PyUnicode_AsUTF8AndSize(text, &n);
    if (bytes == NULL || (Py_ssize_t)strlen(bytes) == n)
        return bytes;
    PyErr_Format(state->errors[DSVK_INVALID], "%s: embedded null character in %R", name, text);
    return NULL;
}

bool py_utf8_or_none(const py_state *state, PyObject *text, const char *name, const char **out) {
    const bool given = text != NULL && text != Py_None;
    *out = given ? py_utf8(state, text, name) : NULL;
    return !given || *out != NULL;
}

/* An int of any integer. */
static PyObject *index_of(PyObject *value, const char *name) {
    PyObject *index = PyNumber_Index(value);
    if (index == NULL)
        PyErr_Format(PyExc_TypeError, "%s: expected an integer, got %R", name, value);
    return index;
}

bool py_unsigned(const py_state *state, PyObject *value, const char *name, uint64_t most, uint64_t *out) {
    *out = 0;
    if (value == NULL)
        return true;
    PyObject *index = index_of(value, name);
    if (index == NULL)
        return false;
    unsigned long long number = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (PyErr_Occurred() || number > most) {
        PyErr_Clear();
        PyErr_Format(state->errors[DSVK_INVALID], "%s: expected 0 .. %llu, got %R", name, (unsigned long long)most, value);
        return false;
    }
    *out = number;
    return true;
}

bool py_u32(const py_state *state, PyObject *value, const char *name, uint32_t *out) {
    uint64_t number;
    bool ok = py_unsigned(state, value, name, UINT32_MAX, &number);
    *out = (uint32_t)number;
    return ok;
}

bool py_u64(const py_state *state, PyObject *value, const char *name, uint64_t *out) {
    return py_unsigned(state, value, name, UINT64_MAX, out);
}

bool py_i32(const py_state *state, PyObject *value, const char *name, int32_t *out) {
    *out = 0;
    if (value == NULL)
        return true;
    PyObject *index = index_of(value, name);
    if (index == NULL)
        return false;
    int overflow;
    const long long number = PyLong_AsLongLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (overflow != 0 || number < INT32_MIN || number > INT32_MAX) {
        PyErr_Format(state->errors[DSVK_INVALID], "%s: expected %d .. %d, got %R", name, INT32_MIN, INT32_MAX, value);
        return false;
    }
    *out = (int32_t)number;
    return true;
}

/* Whether the value is no integer, or exactly that number; -1 with an exception. */
static int holds(double number, PyObject *value) {
    PyObject *integer = PyIndex_Check(value) ? PyNumber_Index(value) : NULL;
    if (integer == NULL) { /* an array of one float has the slot too */
        PyErr_Clear();
        return 1;
    }
    PyObject *back = PyLong_FromDouble(number);
    const int same = back ? PyObject_RichCompareBool(integer, back, Py_EQ) : -1;
    Py_XDECREF(back);
    Py_DECREF(integer);
    return same;
}

bool py_number(const py_state *state, PyObject *value, const char *name, const char *expected, double *out) {
    *out = 0;
    if (value == NULL)
        return true;
    const double number = PyFloat_AsDouble(value);
    const bool too_large = PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError);
    if (PyErr_Occurred() && !too_large) {
        PyErr_Format(PyExc_TypeError, "%s: expected %s, got %R", name, expected, value);
        return false;
    }
    PyErr_Clear();
    const int exact = too_large ? 0 : holds(number, value);
    if (exact == 0)
        PyErr_Format(state->errors[DSVK_INVALID], "%s: expected a number that a double holds exactly, got %R", name, value);
    *out = number;
    return exact > 0;
}

bool py_f32(const py_state *state, PyObject *value, const char *name, float *out) {
    double number;
    bool ok = py_number(state, value, name, "a number", &number);
    *out = (float)number;
    return ok;
}

bool py_callable(PyObject *value, const char *name, const char *takes, PyObject **out) {
    *out = NULL;
    if (value == NULL || value == Py_None)
        return true;
    if (!PyCallable_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a callable %s or None, got %R", name, takes, value);
        return false;
    }
    *out = value;
    return true;
}

/* ---- tokens ---- */

static int32_t *new_ids(Py_ssize_t n) {
    int32_t *ids = PyMem_Malloc(((size_t)n + 1) * sizeof *ids); /* + 1: an empty list has an address too */
    if (ids == NULL)
        PyErr_NoMemory();
    return ids;
}

/* The byte width of a signed integer format ("i", "<q", ...), or 0. */
static int integer_width(const char *format, Py_ssize_t itemsize) {
    if (format == NULL)
        return 0;
    if (*format == '@' || *format == '=' || *format == '<')
        format++;
    bool integer = strlen(format) == 1 && strchr("ilq", *format) != NULL;
    return integer && (itemsize == 4 || itemsize == 8) ? (int)itemsize : 0;
}

static bool tokens_of_view(const py_state *state, const Py_buffer *view, const char *name, int32_t **ids, Py_ssize_t *n) {
    int width = integer_width(view->format, view->itemsize);
    if (width == 0) {
        PyErr_Format(PyExc_TypeError, "%s: expected int32 or int64, got items of %zd bytes with format '%s'", name,
                     view->itemsize, view->format ? view->format : "B");
        return false;
    }
    if (view->ndim != 1) {
        PyErr_Format(state->errors[DSVK_INVALID], "%s: expected 1 dimension, got %d", name, view->ndim);
        return false;
    }
    Py_ssize_t count = view->shape[0];
    if (count > 1 && view->strides[0] != width) {
        PyErr_Format(state->errors[DSVK_INVALID], "%s: expected contiguous items, %d bytes apart, got %zd bytes apart", name, width,
                     view->strides[0]);
        return false;
    }
    int32_t *copy = new_ids(count);
    if (copy == NULL)
        return false;
    for (Py_ssize_t i = 0; i < count; i++) {
        long long id;
        if (width == 4) {
            copy[i] = ((const int32_t *)view->buf)[i];
            continue;
        }
        id = ((const int64_t *)view->buf)[i];
        if (id < INT32_MIN || id > INT32_MAX) {
            PyErr_Format(state->errors[DSVK_INVALID], "%s[%zd]: %lld is no token id (32 bits)", name, i, id);
            PyMem_Free(copy);
            return false;
        }
        copy[i] = (int32_t)id;
    }
    *ids = copy;
    *n = count;
    return true;
}

static bool tokens_of_list(const py_state *state, PyObject *list, const char *name, int32_t **ids, Py_ssize_t *n) {
    Py_ssize_t count = PyList_Size(list);
    int32_t *copy = new_ids(count);
    if (copy == NULL)
        return false;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PyList_GetItem(list, i);
        PyObject *index = item ? PyNumber_Index(item) : NULL;
        if (index == NULL) {
            PyErr_Format(PyExc_TypeError, "%s[%zd]: expected an integer, got %R", name, i, item ? item : Py_None);
            PyMem_Free(copy);
            return false;
        }
        int overflow;
        long long id = PyLong_AsLongLongAndOverflow(index, &overflow);
        Py_DECREF(index);
        if (overflow != 0 || id < INT32_MIN || id > INT32_MAX) {
            PyErr_Format(state->errors[DSVK_INVALID], "%s[%zd]: %R is no token id (32 bits)", name, i, item);
            PyMem_Free(copy);
            return false;
        }
        copy[i] = (int32_t)id;
    }
    *ids = copy;
    *n = count;
    return true;
}

bool py_tokens(const py_state *state, PyObject *value, const char *name, int32_t **ids, Py_ssize_t *n) {
    *ids = NULL;
    *n = 0;
    if (PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "%s: expected token ids, got str (encode it with the tokenizer)", name);
        return false;
    }
    if (PyObject_CheckBuffer(value)) {
        Py_buffer view;
        if (PyObject_GetBuffer(value, &view, PyBUF_FORMAT | PyBUF_STRIDES) < 0)
            return false;
        bool ok = tokens_of_view(state, &view, name, ids, n);
        PyBuffer_Release(&view);
        return ok;
    }
    PyObject *list = PySequence_List(value); /* our own copy: nothing can resize it while we read */
    if (list == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "%s: expected a sequence of ids or a buffer of int32 or int64, got %R", name,
                         Py_TYPE(value));
        return false;
    }
    bool ok = tokens_of_list(state, list, name, ids, n);
    Py_DECREF(list);
    return ok;
}

PyObject *py_token_list(const int32_t *ids, size_t n) {
    PyObject *list = PyList_New((Py_ssize_t)n);
    for (size_t i = 0; list != NULL && i < n; i++) {
        PyObject *id = PyLong_FromLong(ids[i]);
        if (id == NULL || PyList_SetItem(list, (Py_ssize_t)i, id) < 0)
            Py_CLEAR(list);
    }
    return list;
}

bool py_logit_bias(const py_state *state, PyObject *value, dsvk_logit_bias **bias, size_t *n) {
    PyObject *key, *number;
    Py_ssize_t position = 0, i = 0;
    *bias = NULL;
    *n = 0;
    if (value == NULL || value == Py_None)
        return true;
    if (!PyDict_Check(value)) {
        PyErr_Format(PyExc_TypeError, "logit_bias: expected a dict of ids and numbers, got %R", Py_TYPE(value));
        return false;
    }
    const Py_ssize_t count = PyDict_Size(value);
    *bias = PyMem_Calloc((size_t)count + 1, sizeof **bias);
    if (*bias == NULL) {
        PyErr_NoMemory();
        return false;
    }
    while (i < count && PyDict_Next(value, &position, &key, &number)) {
        const long id = PyLong_Check(key) ? PyLong_AsLong(key) : -1;
        const double added = PyFloat_AsDouble(number);
        if (PyErr_Occurred() || id < 0 || id > INT32_MAX) {
            PyErr_Clear();
            PyErr_Format(state->errors[DSVK_INVALID], "logit_bias: expected an id and a number, got %R: %R", key, number);
            PyMem_Free(*bias);
            *bias = NULL;
            return false;
        }
        (*bias)[i++] = (dsvk_logit_bias){(int32_t)id, (float)added};
    }
    *n = (size_t)i;
    return true;
}

/* ---- budgets ---- */

static const char *const purpose_names[DSVK_PURPOSE_COUNT] = {
    [DSVK_WEIGHTS] = "weights", [DSVK_CACHE] = "cache",       [DSVK_SCRATCH] = "scratch",
    [DSVK_STAGING] = "staging", [DSVK_READBACK] = "readback",
};

bool py_budgets(const py_state *state, PyObject *budgets, uint64_t out[DSVK_PURPOSE_COUNT]) {
    memset(out, 0, DSVK_PURPOSE_COUNT * sizeof *out);
    if (budgets == NULL || budgets == Py_None)
        return true;
    if (!PyDict_Check(budgets)) {
        PyErr_Format(PyExc_TypeError, "budgets: expected a dict of purpose to bytes, got %R", Py_TYPE(budgets));
        return false;
    }
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(budgets, &position, &key, &value)) {
        int purpose = 0;
        while (purpose < DSVK_PURPOSE_COUNT &&
               !(PyUnicode_Check(key) && PyUnicode_CompareWithASCIIString(key, purpose_names[purpose]) == 0))
            purpose++;
        if (purpose == DSVK_PURPOSE_COUNT) {
            PyErr_Format(state->errors[DSVK_INVALID], "budgets: expected weights, cache, scratch, staging or readback, got %R", key);
            return false;
        }
        if (!py_u64(state, value, purpose_names[purpose], &out[purpose]))
            return false;
    }
    return true;
}
