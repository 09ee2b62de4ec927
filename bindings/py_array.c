/* dsvk.Array: float32 numbers handed to Python without a copy, through the buffer protocol. */
#include <stdlib.h>
#include <string.h>

#include "py_dsvk.h"

static PyObject *array_of(PyTypeObject *type, PyObject *base, float *data, int n_dims, Py_ssize_t rows,
                          Py_ssize_t columns) {
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_array *self = (py_array *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->base = base;
    Py_XINCREF(base);
    self->data = data;
    self->n_dims = n_dims;
    self->shape[0] = n_dims == 2 ? rows : columns;
    self->shape[1] = columns;
    self->strides[0] = n_dims == 2 ? columns * (Py_ssize_t)sizeof(float) : (Py_ssize_t)sizeof(float);
    self->strides[1] = (Py_ssize_t)sizeof(float);
    return (PyObject *)self;
}

py_array *py_array_new(const py_state *state, Py_ssize_t rows, Py_ssize_t columns) {
    size_t count = (size_t)(rows < 0 ? 1 : rows);
    if (columns > 0 && count > (size_t)PY_SSIZE_T_MAX / sizeof(float) / (size_t)columns) {
        PyErr_NoMemory();
        return NULL;
    }
    /* calloc: rows a cancelled call never wrote are zeros, not old memory. */
    float *data = calloc(count * (size_t)columns + 1, sizeof *data);
    if (data == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    PyObject *self = array_of(state->array, NULL, data, rows < 0 ? 1 : 2, rows, columns);
    if (self == NULL)
        free(data);
    return (py_array *)self;
}

static void array_dealloc(PyObject *object) {
    py_array *self = (py_array *)object;
    if (self->base == NULL)
        free(self->data);
    Py_CLEAR(self->base);
    py_object_free(object);
}

static int array_getbuffer(PyObject *object, Py_buffer *view, int flags) {
    py_array *self = (py_array *)object;
    Py_ssize_t count = self->shape[0] * (self->n_dims == 2 ? self->shape[1] : 1);
    if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && (flags & PyBUF_C_CONTIGUOUS) != PyBUF_C_CONTIGUOUS &&
        self->n_dims == 2) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "dsvk.Array: rows are contiguous, not columns");
        return -1;
    }
    view->obj = object;
    Py_INCREF(object);
    view->buf = self->data;
    view->len = count * (Py_ssize_t)sizeof(float);
    view->readonly = 0;
    view->itemsize = sizeof(float);
    view->format = flags & PyBUF_FORMAT ? "f" : NULL;
    view->ndim = self->n_dims;
    view->shape = flags & PyBUF_ND ? self->shape : NULL;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? self->strides : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    return 0;
}

static Py_ssize_t array_length(PyObject *self) { return ((py_array *)self)->shape[0]; }

static PyObject *array_item(PyObject *object, Py_ssize_t i) {
    py_array *self = (py_array *)object;
    if (i < 0 || i >= self->shape[0]) {
        PyErr_Format(PyExc_IndexError, "dsvk.Array: index %zd of %zd", i, self->shape[0]);
        return NULL;
    }
    if (self->n_dims == 1)
        return PyFloat_FromDouble(self->data[i]);
    PyObject *owner = self->base ? self->base : object;
    return array_of(Py_TYPE(object), owner, self->data + i * self->shape[1], 1, 0, self->shape[1]);
}

static PyObject *numbers_list(const float *data, Py_ssize_t n) {
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyObject *number = PyFloat_FromDouble(data[i]);
        if (number == NULL || PyList_SetItem(list, i, number) < 0)
            Py_CLEAR(list);
    }
    return list;
}

PyDoc_STRVAR(tolist_doc, "tolist()\n--\n\nThe numbers as a list of floats, or a list of such rows.");

static PyObject *array_tolist(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_array *self = (py_array *)object;
    if (self->n_dims == 1)
        return numbers_list(self->data, self->shape[0]);
    PyObject *rows = PyList_New(self->shape[0]);
    for (Py_ssize_t i = 0; rows != NULL && i < self->shape[0]; i++) {
        PyObject *row = numbers_list(self->data + i * self->shape[1], self->shape[1]);
        if (row == NULL || PyList_SetItem(rows, i, row) < 0)
            Py_CLEAR(rows);
    }
    return rows;
}

static PyObject *array_shape(PyObject *object, void *nothing) {
    (void)nothing;
    py_array *self = (py_array *)object;
    return self->n_dims == 1 ? Py_BuildValue("(n)", self->shape[0]) : Py_BuildValue("(nn)", self->shape[0], self->shape[1]);
}

static PyObject *array_repr(PyObject *object) {
    PyObject *shape = array_shape(object, NULL);
    PyObject *text = shape ? PyUnicode_FromFormat("<dsvk.Array float32 %R>", shape) : NULL;
    Py_XDECREF(shape);
    return text;
}

static PyMethodDef array_methods[] = {
    {"tolist", array_tolist, METH_NOARGS, tolist_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef array_getset[] = {
    {"shape", array_shape, NULL, "(n,) or (rows, columns).", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(array_doc, "float32 numbers of shape [n] or [rows, columns]: numpy.asarray(a), memoryview(a) and\n"
                        "torch.frombuffer(a) see them without a copy. a[i] is a number or a row that shares its memory.");

static PyType_Slot array_slots[] = {
    {Py_tp_doc, (void *)array_doc},
    {Py_tp_dealloc, array_dealloc},
    {Py_tp_repr, array_repr},
    {Py_tp_methods, array_methods},
    {Py_tp_getset, array_getset},
    {Py_sq_length, array_length},
    {Py_sq_item, array_item},
    {Py_bf_getbuffer, array_getbuffer},
    {0, NULL},
};

PyType_Spec py_array_spec = {
    .name = "dsvk.Array",
    .basicsize = sizeof(py_array),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = array_slots,
};

/* ---- the caller's own array as output ---- */

/* The shape of a view or a wanted shape as "[3, 512]". */
static void describe(char *text, size_t size, int n_dims, const Py_ssize_t *shape) {
    size_t used = (size_t)PyOS_snprintf(text, size, "[");
    for (int i = 0; i < n_dims && used < size; i++)
        used += (size_t)PyOS_snprintf(text + used, size - used, i ? ", %zd" : "%zd", shape[i]);
    if (used < size)
        PyOS_snprintf(text + used, size - used, "]");
}

static bool output_fits(const Py_buffer *view, const char *name, int n_dims, const Py_ssize_t *wanted) {
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=' || *format == '<')
        format++;
    if (strcmp(format, "f") != 0) {
        PyErr_Format(PyExc_TypeError, "%s: expected float32, got items of %zd bytes with format '%s'", name,
                     view->itemsize, format);
        return false;
    }
    bool same = view->ndim == n_dims;
    for (int i = 0; same && i < n_dims; i++)
        same = view->shape[i] == wanted[i];
    if (!same) {
        char want[64], have[160];
        describe(want, sizeof want, n_dims, wanted);
        describe(have, sizeof have, view->ndim, view->shape);
        PyErr_Format(PyExc_ValueError, "%s: expected shape %s, got %s", name, want, have);
        return false;
    }
    if (!PyBuffer_IsContiguous(view, 'C')) {
        PyErr_Format(PyExc_BufferError, "%s: expected contiguous rows, got a strided view", name);
        return false;
    }
    if (view->readonly) {
        PyErr_Format(PyExc_BufferError, "%s: expected a writable array, got a read-only one", name);
        return false;
    }
    return true;
}

bool py_output_open(py_output *output, const py_state *state, PyObject *out, const char *name, Py_ssize_t rows,
                    Py_ssize_t columns) {
    memset(output, 0, sizeof *output);
    if (out == NULL || out == Py_None) {
        py_array *array = py_array_new(state, rows, columns);
        if (array == NULL)
            return false;
        output->object = (PyObject *)array;
        output->data = array->data;
        return true;
    }
    if (!PyObject_CheckBuffer(out)) {
        PyErr_Format(PyExc_TypeError, "%s: expected a float32 array, got %R", name, Py_TYPE(out));
        return false;
    }
    if (PyObject_GetBuffer(out, &output->view, PyBUF_FORMAT | PyBUF_STRIDES) < 0)
        return false;
    const Py_ssize_t two[2] = {rows, columns};
    if (!output_fits(&output->view, name, rows < 0 ? 1 : 2, rows < 0 ? &two[1] : two)) {
        PyBuffer_Release(&output->view);
        return false;
    }
    output->object = out;
    Py_INCREF(out);
    output->data = output->view.buf;
    return true;
}

PyObject *py_output_close(py_output *output, bool ok) {
    if (output->view.obj != NULL)
        PyBuffer_Release(&output->view);
    if (!ok)
        Py_CLEAR(output->object);
    return output->object;
}
