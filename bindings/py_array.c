/* dsvk.Array: numbers handed to Python without a copy, through the buffer protocol and DLPack. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "py_dsvk.h"

/* ---- types of numbers ---- */

/* What Python calls a dtype: its format in the buffer protocol (of BF16 and FP8, which have none, the bits), and its DLPack type. What
 * is less than a byte never gets here. */
static const struct {
    const char *format;
    uint8_t code;
} formats[DSVK_DTYPE_COUNT] = {
    [DSVK_DTYPE_BOOL] = {"?", PY_DL_BOOL},  [DSVK_DTYPE_U8] = {"B", PY_DL_UINT},       [DSVK_DTYPE_I8] = {"b", PY_DL_INT},
    [DSVK_DTYPE_I16] = {"h", PY_DL_INT},    [DSVK_DTYPE_U16] = {"H", PY_DL_UINT},      [DSVK_DTYPE_I32] = {"i", PY_DL_INT},
    [DSVK_DTYPE_U32] = {"I", PY_DL_UINT},   [DSVK_DTYPE_I64] = {"q", PY_DL_INT},       [DSVK_DTYPE_U64] = {"Q", PY_DL_UINT},
    [DSVK_DTYPE_F16] = {"e", PY_DL_FLOAT},  [DSVK_DTYPE_F32] = {"f", PY_DL_FLOAT},     [DSVK_DTYPE_F64] = {"d", PY_DL_FLOAT},
    [DSVK_DTYPE_BF16] = {"H", PY_DL_BFLOAT}, [DSVK_DTYPE_F8_E4M3] = {"B", PY_DL_F8_E4M3}, [DSVK_DTYPE_F8_E8M0] = {"B", PY_DL_F8_E8M0},
    [DSVK_DTYPE_F8_E5M2] = {"B", PY_DL_F8_E5M2}, [DSVK_DTYPE_C64] = {"Zf", PY_DL_COMPLEX},
};

const char *py_format_of_dtype(dsvk_dtype dtype) { return formats[dtype].format; }

dsvk_dtype py_dtype_of_format(const char *format, Py_ssize_t itemsize) {
    const char *letter = format ? format : "B";
    if (*letter == '@' || *letter == '=' || *letter == '<')
        letter++;
    if (strcmp(letter, "l") == 0)
        letter = itemsize == 8 ? "q" : "i";
    if (strcmp(letter, "L") == 0)
        letter = itemsize == 8 ? "Q" : "I";
    int d = 0;
    while (d < DSVK_DTYPE_COUNT && !(formats[d].format != NULL && strcmp(formats[d].format, letter) == 0))
        d++;
    return (dsvk_dtype)d;
}

dsvk_dtype py_dtype_of_dlpack(uint8_t code, uint8_t bits) {
    int d = 0;
    while (d < DSVK_DTYPE_COUNT &&
           !(formats[d].format != NULL && formats[d].code == code && dsvk_dtype_bits((dsvk_dtype)d) == bits))
        d++;
    return (dsvk_dtype)d;
}

/* ---- arrays ---- */

static PyObject *array_of(PyTypeObject *type, PyObject *base, void *data, dsvk_dtype dtype, int n_dims, const Py_ssize_t *shape) {
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_array *self = (py_array *)alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->base = base;
    Py_XINCREF(base);
    self->data = data;
    self->dtype = dtype;
    self->n_dims = n_dims;
    self->count = 1;
    for (int i = n_dims - 1; i >= 0; i--) {
        self->shape[i] = shape[i];
        self->strides[i] = self->count * (Py_ssize_t)(dsvk_dtype_bits(dtype) / 8);
        self->count *= shape[i];
    }
    return (PyObject *)self;
}

PyObject *py_array_of(const py_state *state, PyObject *base, void *data, dsvk_dtype dtype, int n_dims, const Py_ssize_t *shape) {
    return array_of(state->array, base, data, dtype, n_dims, shape);
}

PyObject *py_array_of_buffer(const py_state *state, PyObject *object) {
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_FORMAT | PyBUF_STRIDES) < 0)
        return NULL;
    dsvk_dtype dtype = py_dtype_of_format(view.format, view.itemsize);
    if (Py_IS_TYPE(object, state->tensor))
        dtype = ((py_tensor *)object)->info.read_dtype; /* which the format may not tell */
    PyObject *self = array_of(state->array, NULL, view.buf, dtype, view.ndim, view.shape);
    if (self == NULL) {
        PyBuffer_Release(&view);
        return NULL;
    }
    ((py_array *)self)->view = view;
    ((py_array *)self)->read_only = view.readonly;
    return self;
}

py_array *py_array_new(const py_state *state, Py_ssize_t rows, Py_ssize_t columns) {
    const Py_ssize_t shape[2] = {rows < 0 ? columns : rows, columns};
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
    PyObject *self = array_of(state->array, NULL, data, DSVK_DTYPE_F32, rows < 0 ? 1 : 2, shape);
    if (self == NULL)
        free(data);
    return (py_array *)self;
}

static void array_dealloc(PyObject *object) {
    py_array *self = (py_array *)object;
    if (self->view.obj != NULL)
        PyBuffer_Release(&self->view);
    else if (self->base == NULL)
        free(self->data);
    Py_CLEAR(self->base);
    py_object_free(object);
}

static int array_getbuffer(PyObject *object, Py_buffer *view, int flags) {
    py_array *self = (py_array *)object;
    const char *wrong = NULL;
    if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && (flags & PyBUF_C_CONTIGUOUS) != PyBUF_C_CONTIGUOUS && self->n_dims > 1)
        wrong = "dsvk.Array: rows are contiguous, not columns";
    else if (self->read_only && (flags & PyBUF_WRITABLE) == PyBUF_WRITABLE)
        wrong = "dsvk.Array: these are a tensor's numbers, which do not change";
    if (wrong != NULL) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, wrong);
        return -1;
    }
    view->obj = object;
    Py_INCREF(object);
    view->buf = self->data;
    view->itemsize = dsvk_dtype_bits(self->dtype) / 8;
    view->len = self->count * view->itemsize;
    view->readonly = self->read_only;
    view->format = flags & PyBUF_FORMAT ? (char *)py_format_of_dtype(self->dtype) : NULL;
    view->ndim = self->n_dims;
    view->shape = flags & PyBUF_ND ? self->shape : NULL;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? self->strides : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    return 0;
}

static Py_ssize_t array_length(PyObject *self) { return ((py_array *)self)->shape[0]; }

static double half_value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double value = exponent == 31 ? mantissa ? (double)NAN : (double)INFINITY
                         : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                        : ldexp(mantissa, -24);
    return bits & 0x8000 ? -value : value;
}

static PyObject *complex_at(const float *at) { return PyComplex_FromDoubles(at[0], at[1]); }

static PyObject *number_at(const py_array *self, Py_ssize_t i) {
    switch (self->dtype) {
    case DSVK_DTYPE_F32: return PyFloat_FromDouble(((const float *)self->data)[i]);
    case DSVK_DTYPE_F64: return PyFloat_FromDouble(((const double *)self->data)[i]);
    case DSVK_DTYPE_C64: return complex_at((const float *)self->data + 2 * i);
    case DSVK_DTYPE_F16: return PyFloat_FromDouble(half_value(((const uint16_t *)self->data)[i]));
    case DSVK_DTYPE_U16: return PyLong_FromLong(((const uint16_t *)self->data)[i]);
    case DSVK_DTYPE_BOOL: return PyBool_FromLong(((const uint8_t *)self->data)[i] != 0);
    case DSVK_DTYPE_I8: return PyLong_FromLong(((const int8_t *)self->data)[i]);
    case DSVK_DTYPE_I16: return PyLong_FromLong(((const int16_t *)self->data)[i]);
    case DSVK_DTYPE_I32: return PyLong_FromLong(((const int32_t *)self->data)[i]);
    case DSVK_DTYPE_U32: return PyLong_FromUnsignedLong(((const uint32_t *)self->data)[i]);
    case DSVK_DTYPE_I64: return PyLong_FromLongLong(((const int64_t *)self->data)[i]);
    case DSVK_DTYPE_U64: return PyLong_FromUnsignedLongLong(((const uint64_t *)self->data)[i]);
    default: break; /* small floats: their bits, as in the buffer protocol */
    }
    return dsvk_dtype_bits(self->dtype) == 8 ? PyLong_FromLong(((const uint8_t *)self->data)[i])
                                             : PyLong_FromLong(((const uint16_t *)self->data)[i]);
}

static PyObject *array_item(PyObject *object, Py_ssize_t i) {
    py_array *self = (py_array *)object;
    if (i < 0 || i >= self->shape[0]) {
        PyErr_Format(PyExc_IndexError, "dsvk.Array: index %zd of %zd", i, self->shape[0]);
        return NULL;
    }
    if (self->n_dims == 1)
        return number_at(self, i);
    PyObject *owner = self->base ? self->base : object;
    PyObject *row = array_of(Py_TYPE(object), owner, (char *)self->data + i * self->strides[0], self->dtype, self->n_dims - 1,
                             self->shape + 1);
    if (row != NULL)
        ((py_array *)row)->read_only = self->read_only;
    return row;
}

PyDoc_STRVAR(tolist_doc, "tolist($self, /)\n--\n\nThe numbers as a list, or a list of such rows.");

static PyObject *array_tolist(PyObject *object, PyObject *nothing) {
    const Py_ssize_t n = array_length(object);
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list != NULL && i < n; i++) {
        PyObject *item = array_item(object, i);
        if (item != NULL && ((py_array *)object)->n_dims > 1) {
            PyObject *row = item;
            item = array_tolist(row, nothing);
            Py_DECREF(row);
        }
        if (item == NULL || PyList_SetItem(list, i, item) < 0)
            Py_CLEAR(list);
    }
    return list;
}

PyObject *py_shape(int n_dims, const Py_ssize_t *shape) {
    PyObject *tuple = PyTuple_New(n_dims);
    for (int i = 0; tuple != NULL && i < n_dims; i++) {
        PyObject *number = PyLong_FromSsize_t(shape[i]);
        if (number == NULL || PyTuple_SetItem(tuple, i, number) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

static PyObject *array_shape(PyObject *object, void *nothing) {
    (void)nothing;
    return py_shape(((py_array *)object)->n_dims, ((py_array *)object)->shape);
}

static PyObject *array_dtype(PyObject *object, void *nothing) {
    (void)nothing;
    return PyUnicode_FromString(dsvk_dtype_name(((py_array *)object)->dtype));
}

static PyObject *array_repr(PyObject *object) {
    PyObject *shape = array_shape(object, NULL);
    PyObject *text = shape ? PyUnicode_FromFormat("<dsvk.Array %s %R>", dsvk_dtype_name(((py_array *)object)->dtype), shape) : NULL;
    Py_XDECREF(shape);
    return text;
}

/* ---- DLPack ---- */

typedef struct shared {
    union {
        py_dl_managed old;
        py_dl_versioned versioned;
    } tensor;
    PyObject *owner;
    PyInterpreterState *interpreter; /* the owner's */
    int64_t shape[DSVK_TENSOR_RANK];
} shared;

/* By whoever took it, from any thread, perhaps after Python has ended: then there is nobody left to give it back to. The lock of
 * PyGILState is the main interpreter's. In another one a thread that Python knows is taking apart an object, and has the lock: to
 * ask for the main interpreter's would wait for ever. */
static void release(void *context) {
    shared *s = context;
    if (!Py_IsInitialized())
        return;
    if (PyInterpreterState_GetID(s->interpreter) == 0) {
        PyGILState_STATE lock = PyGILState_Ensure();
        Py_DECREF(s->owner);
        PyGILState_Release(lock);
    } else if (PyGILState_GetThisThreadState() != NULL) {
        Py_DECREF(s->owner);
    } else {
        PyThreadState *thread = PyThreadState_New(s->interpreter);
        PyEval_RestoreThread(thread);
        Py_DECREF(s->owner);
        PyThreadState_Clear(thread);
        PyThreadState_DeleteCurrent();
    }
    free(s);
}

static void release_old(py_dl_managed *tensor) { release(tensor->context); }
static void release_versioned(py_dl_versioned *tensor) { release(tensor->context); }

/* Nobody took it. */
static void drop_capsule(PyObject *capsule) {
    if (PyCapsule_IsValid(capsule, PY_DL_OLD) || PyCapsule_IsValid(capsule, PY_DL_VERSIONED)) {
        shared *s = PyCapsule_GetContext(capsule);
        Py_DECREF(s->owner);
        free(s);
    }
}

static PyObject *share(py_array *self, bool versioned, bool copied) {
    shared *s = calloc(1, sizeof *s);
    if (s == NULL)
        return PyErr_NoMemory();
    const py_dl_tensor tensor = {
        .data = self->data, .device_type = PY_DL_CPU, .n_dims = self->n_dims, .shape = s->shape,
        .type = {formats[self->dtype].code, (uint8_t)dsvk_dtype_bits(self->dtype), 1}};
    for (int i = 0; i < self->n_dims; i++)
        s->shape[i] = self->shape[i];
    if (versioned)
        s->tensor.versioned = (py_dl_versioned){.major = 1, .context = s, .deleter = release_versioned,
                                                .flags = (self->read_only ? PY_DL_READ_ONLY : 0) | (copied ? PY_DL_COPIED : 0),
                                                .tensor = tensor};
    else
        s->tensor.old = (py_dl_managed){.tensor = tensor, .context = s, .deleter = release_old};
    s->owner = Py_NewRef((PyObject *)self);
    s->interpreter = PyInterpreterState_Get();
    PyObject *capsule = PyCapsule_New(&s->tensor, versioned ? PY_DL_VERSIONED : PY_DL_OLD, drop_capsule);
    if (capsule == NULL || PyCapsule_SetContext(capsule, s) != 0) {
        Py_XDECREF(capsule);
        Py_DECREF(s->owner);
        free(s);
        return NULL;
    }
    return capsule;
}

/* The same numbers in memory of their own. */
static py_array *copy_of(const py_array *self) {
    const size_t bytes = (size_t)self->count * (dsvk_dtype_bits(self->dtype) / 8);
    void *data = malloc(bytes + 1);
    if (data == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memcpy(data, self->data, bytes);
    PyObject *copy = array_of(Py_TYPE((PyObject *)self), NULL, data, self->dtype, self->n_dims, self->shape);
    if (copy == NULL)
        free(data);
    return (py_array *)copy;
}

static bool pair_of(PyObject *value, const char *name, int *first, int *second) {
    if (value == Py_None)
        return true;
    if (PyTuple_Check(value) && PyArg_ParseTuple(value, "ii", first, second))
        return true;
    PyErr_Format(PyExc_TypeError, "%s: expected None or a tuple of two integers, got %R", name, value);
    return false;
}

PyDoc_STRVAR(dlpack_doc, "__dlpack__($self, /, *, stream=None, max_version=None, dl_device=None, copy=None)\n--\n\n"
                         "For torch.from_dlpack and numpy.from_dlpack: the same memory, with copy=True a copy of it.");

static PyObject *array_dlpack(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"stream", "max_version", "dl_device", "copy", NULL};
    PyObject *stream = Py_None, *version = Py_None, *device = Py_None, *copy = Py_None;
    int major = 0, minor = 0, type = PY_DL_CPU, number = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$OOOO:__dlpack__", names, &stream, &version, &device, &copy) ||
        !pair_of(version, "max_version", &major, &minor) || !pair_of(device, "dl_device", &type, &number))
        return NULL;
    if (type != PY_DL_CPU || stream != Py_None) {
        PyErr_SetString(PyExc_BufferError, "dsvk.Array: its numbers are in host memory (DLPack's CPU), and know no streams");
        return NULL;
    }
    if (copy != Py_True)
        return share((py_array *)object, major >= 1, false);
    py_array *copied = copy_of((py_array *)object);
    PyObject *capsule = copied ? share(copied, major >= 1, true) : NULL;
    Py_XDECREF((PyObject *)copied);
    return capsule;
}

PyDoc_STRVAR(dlpack_device_doc, "__dlpack_device__($self, /)\n--\n\n(1, 0): host memory.");

static PyObject *array_dlpack_device(PyObject *self, PyObject *nothing) {
    (void)self, (void)nothing;
    return Py_BuildValue("(ii)", PY_DL_CPU, 0);
}

static PyMethodDef array_methods[] = {
    {"tolist", array_tolist, METH_NOARGS, tolist_doc},
    {"__dlpack__", (PyCFunction)(void (*)(void))array_dlpack, METH_VARARGS | METH_KEYWORDS, dlpack_doc},
    {"__dlpack_device__", array_dlpack_device, METH_NOARGS, dlpack_device_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef array_getset[] = {
    {"shape", array_shape, NULL, "(n,), (rows, columns), ...", NULL},
    {"dtype", array_dtype, NULL, "'F32', 'I32', ...", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(array_doc, "Numbers of any shape, row by row: numpy.asarray(a), memoryview(a), torch.from_dlpack(a) see them without\n"
                        "a copy. a[i] is a number or a row that shares its memory. BF16 and FP8 are their bits, except by DLPack.\n"
                        "What a Tensor's read() gives is read-only, as its rows are. torch knows nothing of the kind: write to a copy.");

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

void py_shape_text(char *text, size_t size, int n_dims, const Py_ssize_t *shape) {
    size_t used = (size_t)PyOS_snprintf(text, size, "[");
    for (int i = 0; i < n_dims && used < size; i++)
        used += (size_t)PyOS_snprintf(text + used, size - used, i ? ", %zd" : "%zd", shape[i]);
    if (used < size)
        PyOS_snprintf(text + used, size - used, "]");
}

static bool output_fits(const py_state *state, const Py_buffer *view, const char *name, int n_dims, const Py_ssize_t *wanted) {
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
        py_shape_text(want, sizeof want, n_dims, wanted);
        py_shape_text(have, sizeof have, view->ndim, view->shape);
        PyErr_Format(state->errors[DSVK_INVALID], "%s: expected shape %s, got %s", name, want, have);
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
    if (!output_fits(state, &output->view, name, rows < 0 ? 1 : 2, rows < 0 ? &two[1] : two)) {
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
