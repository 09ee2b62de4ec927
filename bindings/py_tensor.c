/* dsvk.Tensor: immutable numbers on a device, and the ops on them. What comes in goes to the device in one copy; what goes out is
 * the device's memory itself where the host can see it (views count as users, so it is not closed under them), else a copy. */
#include <stdlib.h>
#include <string.h>

#include "py_dsvk.h"

/* ---- numbers that come in ---- */

/* Somebody's array: contiguous numbers in host memory, by the buffer protocol or by DLPack. */
typedef struct numbers {
    const void *data;
    dsvk_dtype dtype;
    int n_dims;
    Py_ssize_t shape[DSVK_TENSOR_RANK];
    Py_buffer view;    /* view.obj NULL: none */
    PyObject *capsule; /* or a DLPack one */
    py_dl_managed *managed;
} numbers;

static void numbers_close(numbers *n) {
    if (n->view.obj != NULL)
        PyBuffer_Release(&n->view);
    if (n->managed != NULL && n->managed->deleter != NULL)
        n->managed->deleter(n->managed);
    Py_XDECREF(n->capsule);
}

static bool take_shape(const py_state *state, numbers *n, const char *name, int n_dims) {
    if (n_dims >= 1 && n_dims <= DSVK_TENSOR_RANK) {
        n->n_dims = n_dims;
        return true;
    }
    PyErr_Format(state->errors[DSVK_INVALID], "%s: expected 1 to %d dimensions, got %d", name, DSVK_TENSOR_RANK, n_dims);
    return false;
}

static bool strided(const py_state *state, const char *name) {
    PyErr_Format(state->errors[DSVK_INVALID], "%s: expected contiguous rows, got a strided array", name);
    return false;
}

static bool numbers_of_buffer(const py_state *state, numbers *n, PyObject *object, const char *name) {
    if (PyObject_GetBuffer(object, &n->view, PyBUF_FORMAT | PyBUF_STRIDES) < 0 || !take_shape(state, n, name, n->view.ndim))
        return false;
    n->dtype = py_dtype_of_format(n->view.format, n->view.itemsize);
    if (n->dtype == DSVK_DTYPE_COUNT) {
        PyErr_Format(PyExc_TypeError, "%s: no dtype for items of %zd bytes with format '%s'", name, n->view.itemsize,
                     n->view.format ? n->view.format : "B");
        return false;
    }
    memcpy(n->shape, n->view.shape, (size_t)n->n_dims * sizeof *n->shape);
    n->data = n->view.buf;
    return PyBuffer_IsContiguous(&n->view, 'C') || strided(state, name);
}

static bool numbers_of_dlpack(const py_state *state, numbers *n, PyObject *object, const char *name) {
    n->capsule = PyObject_CallMethod(object, "__dlpack__", NULL);
    n->managed = n->capsule ? PyCapsule_GetPointer(n->capsule, PY_DL_OLD) : NULL;
    if (n->managed == NULL)
        return false;
    PyCapsule_SetName(n->capsule, PY_DL_OLD_USED);
    const py_dl_tensor *t = &n->managed->tensor;
    if (!take_shape(state, n, name, t->n_dims))
        return false;
    n->dtype = py_dtype_of_dlpack(t->type.code, t->type.bits);
    if (t->device_type != PY_DL_CPU || n->dtype == DSVK_DTYPE_COUNT || t->type.lanes != 1) {
        PyErr_Format(PyExc_TypeError, "%s: expected numbers in host memory (DLPack device 1) of a type of ours, got device %d, type code "
                     "%d of %d bits, %d lanes", name, t->device_type, t->type.code, t->type.bits, t->type.lanes);
        return false;
    }
    int64_t count = 1;
    bool contiguous = true;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        n->shape[i] = (Py_ssize_t)t->shape[i];
        contiguous = contiguous && (t->strides == NULL || t->shape[i] == 1 || t->strides[i] == count);
        count *= t->shape[i];
    }
    n->data = (const char *)t->data + t->byte_offset;
    return contiguous || strided(state, name);
}

static bool numbers_open(const py_state *state, numbers *n, PyObject *object, const char *name) {
    memset(n, 0, sizeof *n);
    if (object == NULL || object == Py_None)
        return true;
    if (PyObject_CheckBuffer(object))
        return numbers_of_buffer(state, n, object, name);
    if (PyObject_HasAttrString(object, "__dlpack__"))
        return numbers_of_dlpack(state, n, object, name);
    PyErr_Format(PyExc_TypeError, "%s: expected an array (buffer protocol or DLPack), got %R", name, Py_TYPE(object));
    return false;
}

/* ---- names ---- */

static const char *const form_names[] = {"values", "matrix", "experts", "rows", "keys"};

static bool form_of(const py_state *state, PyObject *name, dsvk_form *form) {
    *form = DSVK_FORM_VALUES;
    if (name == NULL)
        return true;
    for (int i = 0; i <= DSVK_FORM_EXPERTS; i++)
        if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, form_names[i]) == 0) {
            *form = (dsvk_form)i;
            return true;
        }
    PyErr_Format(state->errors[DSVK_INVALID], "form: expected 'values', 'matrix' or 'experts', got %R", name);
    return false;
}

static bool dtype_of(const py_state *state, PyObject *name, dsvk_dtype *dtype) {
    if (name == NULL || name == Py_None)
        return true;
    for (int i = 0; i < DSVK_DTYPE_COUNT; i++)
        if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, dsvk_dtype_name((dsvk_dtype)i)) == 0) {
            *dtype = (dsvk_dtype)i;
            return true;
        }
    PyErr_Format(state->errors[DSVK_INVALID], "dtype: expected a name such as 'F32', 'BF16', 'F8_E4M3', 'F4' or 'I32', got %R", name);
    return false;
}

/* ---- opening ---- */

static PyObject *tensor_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    py_state *state = py_state_of(type);
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_tensor *self = state ? (py_tensor *)alloc(type, 0) : NULL;
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

/* What is known about an open handle, kept for views. */
static void take_info(py_tensor *self) {
    self->info.size = sizeof self->info;
    dsvk_tensor_describe(self->handle, &self->info, NULL);
    Py_ssize_t bytes = dsvk_dtype_bits(self->info.read_dtype) / 8;
    for (int i = (int)self->info.rank - 1; i >= 0; i--) {
        self->shape[i] = (Py_ssize_t)self->info.shape[i];
        self->strides[i] = bytes;
        bytes *= self->shape[i];
    }
}

static bool tensor_adopt(py_tensor *self, py_device *device, dsvk_tensor *handle) {
    self->handle = handle;
    self->device = (py_device *)Py_NewRef((PyObject *)device);
    take_info(self);
    return true;
}

/* Arrays in the order of dsvk_tensor_options. */
enum { DATA, SCALES, W3, W3_SCALES, W2, W2_SCALES, ARRAYS };
static const char *const array_names[ARRAYS] = {"data", "scales", "w3", "w3_scales", "w2", "w2_scales"};

/* The items and shape of each array are known from `data`: nothing is read beyond its end, no row is taken for a column. `like`: the
 * array whose items these have to be like, or be of `dtype`, which says what those are. experts 0: of a matrix. */
static bool check_array(const py_state *state, const numbers *a, int which, const numbers *like, dsvk_dtype dtype, Py_ssize_t experts,
                        Py_ssize_t rows, Py_ssize_t cols) {
    const numbers *n = &a[which];
    const Py_ssize_t all[3] = {experts, rows, cols}, *shape = experts ? all : all + 1;
    const int n_dims = experts ? 3 : 2;
    if (n->data == NULL || ((n->dtype == like->dtype || n->dtype == dtype) && n->n_dims == n_dims &&
                            memcmp(n->shape, shape, (size_t)n_dims * sizeof *shape) == 0))
        return true;
    char want[96], have[128], first[96];
    py_shape_text(want, sizeof want, n_dims, shape);
    py_shape_text(have, sizeof have, n->n_dims, n->shape);
    py_shape_text(first, sizeof first, a[DATA].n_dims, a[DATA].shape);
    PyErr_Format(state->errors[DSVK_INVALID], "%s: expected %s %s to go with data %s, got %s %s", array_names[which],
                 dsvk_dtype_name(like->dtype), want, first, dsvk_dtype_name(n->dtype), have);
    return false;
}

static bool check_arrays(const py_state *state, const numbers *a, const dsvk_tensor_options *o) {
    const bool experts = o->form == DSVK_FORM_EXPERTS, fp8 = o->dtype == DSVK_DTYPE_F8_E4M3, fp4 = o->dtype == DSVK_DTYPE_F4;
    const bool scaled = fp8 || fp4;
    if (o->form == DSVK_FORM_VALUES || o->rank != (experts ? 3u : 2u) || scaled != (a[SCALES].data != NULL))
        return true; /* the library says what is wrong */
    const Py_ssize_t n = experts ? (Py_ssize_t)o->shape[0] : 0, rows = (Py_ssize_t)o->shape[o->rank - 2];
    const Py_ssize_t cols = (Py_ssize_t)o->shape[o->rank - 1], items = fp4 ? 2 : 1; /* numbers in one */
    const Py_ssize_t high = fp8 ? 128 : 1, wide = fp8 ? 128 : 32; /* of a block with one scale */
    const dsvk_dtype scale = o->scale_dtype;
    bool ok = true;
    if (experts)
        ok = check_array(state, a, W3, &a[DATA], o->dtype, n, rows, cols / items) &&
             check_array(state, a, W2, &a[DATA], o->dtype, n, cols, rows / items);
    if (ok && scaled)
        ok = check_array(state, a, SCALES, &a[SCALES], scale, n, (rows + high - 1) / high, (cols + wide - 1) / wide);
    if (ok && scaled && experts)
        ok = check_array(state, a, W3_SCALES, &a[SCALES], scale, n, (rows + high - 1) / high, (cols + wide - 1) / wide) &&
             check_array(state, a, W2_SCALES, &a[SCALES], scale, n, (cols + high - 1) / high, (rows + wide - 1) / wide);
    return ok;
}

/* Integers of one or two bytes carry the bits of what has no type of its own; other numbers would become others. */
static bool carries(dsvk_dtype items) {
    return items == DSVK_DTYPE_U8 || items == DSVK_DTYPE_I8 || items == DSVK_DTYPE_U16 || items == DSVK_DTYPE_I16;
}

static bool fill_options(const py_state *state, dsvk_tensor_options *o, const numbers *a, PyObject *dtype_name) {
    const numbers *data = &a[DATA];
    o->dtype = data->dtype;
    if (!dtype_of(state, dtype_name, &o->dtype))
        return false;
    o->rank = (uint32_t)data->n_dims;
    for (int i = 0; i < data->n_dims; i++)
        o->shape[i] = (uint64_t)data->shape[i];
    const uint32_t bits = dsvk_dtype_bits(o->dtype), item = dsvk_dtype_bits(data->dtype);
    if (bits == 4 && item == 8) {
        o->shape[o->rank - 1] *= 2; /* two to a byte */
    } else if (bits != item) {
        PyErr_Format(state->errors[DSVK_INVALID], "dtype: %s has %u bits%s, the items of data have %u", dsvk_dtype_name(o->dtype), bits,
                     bits == 4 ? ", two to a byte" : "", item);
        return false;
    }
    if (o->dtype != data->dtype && !carries(data->dtype)) {
        PyErr_Format(state->errors[DSVK_INVALID], "dtype: the items of data are %s, which are no %s: convert the array",
                     dsvk_dtype_name(data->dtype), dsvk_dtype_name(o->dtype));
        return false;
    }
    o->data = data->data;
    o->scales = a[SCALES].data;
    o->scale_dtype = a[SCALES].data && a[SCALES].dtype == DSVK_DTYPE_U8 ? DSVK_DTYPE_F8_E8M0 : a[SCALES].dtype;
    o->w3 = a[W3].data;
    o->w3_scales = a[W3_SCALES].data;
    o->w2 = a[W2].data;
    o->w2_scales = a[W2_SCALES].data;
    return check_arrays(state, a, o);
}

static int tensor_open(py_tensor *self, py_device *device, const dsvk_tensor_options *options) {
    if (!PY_ENTER(device, "the device"))
        return -1;
    dsvk_tensor *handle = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_tensor_open(&handle, device->handle, options, &err);
    bool ok = py_call_end(&call, self->state, status, &err);
    device->users--;
    if (!ok) {
        dsvk_tensor_close(handle);
        return -1;
    }
    return tensor_adopt(self, device, handle) ? 0 : -1;
}

static int tensor_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"data", "device", "form", "dtype", "scales", "w3", "w3_scales", "w2", "w2_scales", NULL};
    py_tensor *self = (py_tensor *)object;
    PyObject *arrays[ARRAYS] = {0}, *device, *form = NULL, *dtype = NULL;
    numbers a[ARRAYS];
    dsvk_tensor_options options = {.size = sizeof options};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!|OOOOOOO:Tensor", names, &arrays[DATA], self->state->device, &device, &form,
                                     &dtype, &arrays[SCALES], &arrays[W3], &arrays[W3_SCALES], &arrays[W2], &arrays[W2_SCALES]) ||
        !form_of(self->state, form, &options.form))
        return -1;
    if (self->handle != NULL || self->device != NULL) {
        py_raise_status(self->state, DSVK_STATE, "the tensor was already opened");
        return -1;
    }
    int opened = 0, result = -1;
    bool ok = true;
    for (; ok && opened < ARRAYS; opened++)
        ok = numbers_open(self->state, &a[opened], arrays[opened], array_names[opened]);
    if (ok && a[DATA].data == NULL) {
        PyErr_Format(PyExc_TypeError, "data: expected an array that is not empty, got %R", arrays[DATA]);
        ok = false;
    }
    if (ok && fill_options(self->state, &options, a, dtype))
        result = tensor_open(self, (py_device *)device, &options);
    for (int i = 0; i < opened; i++)
        numbers_close(&a[i]);
    return result;
}

static void tensor_dealloc(PyObject *object) {
    py_tensor *self = (py_tensor *)object;
    dsvk_tensor_close(self->handle);
    Py_CLEAR(self->device);
    py_object_free(object);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Frees its device memory. Raises BusyError while an array or a call uses it. Closing twice is\n"
                        "allowed.");

static PyObject *tensor_close(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_tensor *self = (py_tensor *)object;
    if (self->users > 0)
        return py_raise_status(self->state, DSVK_BUSY, "the tensor is in use by an array or a call that is running");
    dsvk_tensor *handle = self->handle;
    self->handle = NULL;
    py_call call;
    py_call_begin(&call, NULL); /* the last user of a device may have a line for its log */
    dsvk_tensor_close(handle);
    return py_call_end(&call, self->state, DSVK_OK, NULL) ? Py_NewRef(Py_None) : NULL;
}

/* ---- numbers that go out ---- */

static bool read_copy(py_tensor *self, void **copy) {
    *copy = malloc(self->info.read_bytes + 1);
    if (*copy == NULL) {
        PyErr_NoMemory();
        return false;
    }
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_tensor_read(self->handle, *copy, self->info.read_bytes, py_call_progress, NULL, &err);
    if (py_call_end(&call, self->state, status, &err))
        return true;
    free(*copy);
    return false;
}

static int tensor_getbuffer(PyObject *object, Py_buffer *view, int flags) {
    py_tensor *self = (py_tensor *)object;
    void *copy = NULL;
    view->obj = NULL;
    if (!PY_ENTER(self, "the tensor"))
        return -1;
    if (flags & PyBUF_WRITABLE || self->info.read_bytes == 0) {
        PyErr_SetString(PyExc_BufferError, self->info.read_bytes ? "dsvk.Tensor: its numbers do not change"
                                                                 : "dsvk.Tensor: experts cannot be read");
        self->users--;
        return -1;
    }
    if (self->info.host == NULL && !read_copy(self, &copy)) {
        self->users--;
        return -1;
    }
    view->obj = Py_NewRef(object);
    view->internal = copy;
    view->buf = copy ? copy : (void *)self->info.host;
    view->len = (Py_ssize_t)self->info.read_bytes;
    view->itemsize = dsvk_dtype_bits(self->info.read_dtype) / 8;
    view->readonly = 1;
    view->format = flags & PyBUF_FORMAT ? (char *)py_format_of_dtype(self->info.read_dtype) : NULL;
    view->ndim = (int)self->info.rank;
    view->shape = flags & PyBUF_ND ? self->shape : NULL;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? self->strides : NULL;
    view->suboffsets = NULL;
    return 0;
}

static void tensor_releasebuffer(PyObject *object, Py_buffer *view) {
    free(view->internal);
    ((py_tensor *)object)->users--;
}

PyDoc_STRVAR(read_doc,
             "read($self, /)\n--\n\n"
             "Its numbers as a dsvk.Array: the device's own memory where the host can see it, else a copy. Weights, cache\n"
             "rows and index keys come decoded, as float32. Raises BufferError for experts.");

static PyObject *tensor_read(PyObject *object, PyObject *nothing) {
    (void)nothing;
    return py_array_of_buffer(((py_tensor *)object)->state, object);
}

PyDoc_STRVAR(dlpack_doc, "__dlpack__($self, /, *, stream=None, max_version=None, dl_device=None, copy=None)\n--\n\nread(), by DLPack.");

static PyObject *tensor_dlpack(PyObject *object, PyObject *args, PyObject *kwargs) {
    const py_tensor *self = (const py_tensor *)object;
    if (self->handle != NULL && self->info.host == NULL && kwargs != NULL && PyDict_GetItemString(kwargs, "copy") == Py_False) {
        PyErr_SetString(PyExc_BufferError, "dsvk.Tensor: the host does not see these numbers, reading copies them");
        return NULL;
    }
    PyObject *array = tensor_read(object, NULL);
    PyObject *method = array ? PyObject_GetAttrString(array, "__dlpack__") : NULL;
    PyObject *capsule = method ? PyObject_Call(method, args, kwargs) : NULL;
    Py_XDECREF(method);
    Py_XDECREF(array);
    return capsule;
}

PyDoc_STRVAR(dlpack_device_doc, "__dlpack_device__($self, /)\n--\n\n(1, 0): what is read is in host memory.");

static PyObject *tensor_dlpack_device(PyObject *self, PyObject *nothing) {
    (void)self, (void)nothing;
    return Py_BuildValue("(ii)", PY_DL_CPU, 0);
}

/* ---- what it is ---- */

static PyObject *tensor_shape(PyObject *object, void *nothing) {
    (void)nothing;
    return py_shape((int)((py_tensor *)object)->info.rank, ((py_tensor *)object)->shape);
}

static PyObject *tensor_dtype(PyObject *object, void *nothing) {
    (void)nothing;
    return PyUnicode_FromString(dsvk_dtype_name(((py_tensor *)object)->info.dtype));
}

static PyObject *tensor_form(PyObject *object, void *nothing) {
    (void)nothing;
    return PyUnicode_FromString(form_names[((py_tensor *)object)->info.form]);
}

static PyObject *tensor_nbytes(PyObject *object, void *nothing) {
    (void)nothing;
    return PyLong_FromUnsignedLongLong(((py_tensor *)object)->info.device_bytes);
}

static PyObject *tensor_device(PyObject *object, void *nothing) {
    (void)nothing;
    py_tensor *self = (py_tensor *)object;
    return Py_NewRef(self->device ? (PyObject *)self->device : Py_None);
}

static PyObject *tensor_closed(PyObject *self, void *nothing) {
    (void)nothing;
    return PyBool_FromLong(((py_tensor *)self)->handle == NULL);
}

static PyObject *tensor_repr(PyObject *object) {
    const py_tensor *self = (const py_tensor *)object;
    PyObject *shape = tensor_shape(object, NULL);
    PyObject *text = shape ? PyUnicode_FromFormat("<dsvk.Tensor%s %s %s %R>", self->handle ? "" : " closed",
                                                  dsvk_dtype_name(self->info.dtype), form_names[self->info.form], shape)
                           : NULL;
    Py_XDECREF(shape);
    return text;
}

static PyObject *tensor_enter(PyObject *self, PyObject *nothing) {
    (void)nothing;
    return Py_NewRef(self);
}

static PyObject *tensor_exit(PyObject *self, PyObject *exception) {
    (void)exception;
    return tensor_close(self, NULL);
}

static PyMethodDef tensor_methods[] = {
    {"read", tensor_read, METH_NOARGS, read_doc},
    {"close", tensor_close, METH_NOARGS, close_doc},
    {"__dlpack__", (PyCFunction)(void (*)(void))tensor_dlpack, METH_VARARGS | METH_KEYWORDS, dlpack_doc},
    {"__dlpack_device__", tensor_dlpack_device, METH_NOARGS, dlpack_device_doc},
    {"__enter__", tensor_enter, METH_NOARGS, NULL},
    {"__exit__", tensor_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef tensor_getset[] = {
    {"shape", tensor_shape, NULL, "A tuple; of FP4 in numbers.", NULL},
    {"dtype", tensor_dtype, NULL, "'F32', 'BF16', 'F8_E4M3', 'F4', 'I32', ...", NULL},
    {"form", tensor_form, NULL, "'values', 'matrix', 'experts', 'rows' or 'keys'.", NULL},
    {"nbytes", tensor_nbytes, NULL, "Bytes of device memory.", NULL},
    {"device", tensor_device, NULL, "The Device it is on.", NULL},
    {"closed", tensor_closed, NULL, "True after close().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(tensor_doc,
             "Tensor(data, device, form='values', dtype=None, scales=None, w3=None, w3_scales=None, w2=None, w2_scales=None)\n--\n\n"
             "Immutable numbers on a device, for dsvk.ops. data: an array (buffer protocol or DLPack), copied to the device.\n"
             "form: 'values'; 'matrix' for weights [n_out, n_in]; 'experts' for networks w1 = data, w3 [n, hidden, dim] and\n"
             "w2 [n, dim, hidden]. dtype: what the items of data are: 'BF16' for uint16, 'F8_E4M3' for uint8, 'F4' for uint8 with\n"
             "two numbers each, the first in the low half. scales: of FP8 one per 128x128 block, float32 or uint8 (ue8m0), of FP4\n"
             "one per row and 32 columns, uint8. numpy.asarray(t), t.read(), torch.from_dlpack(t) give its numbers, without a\n"
             "copy where the host sees the device's memory, and read-only; torch, which cannot say so, must not write to them.");

static PyType_Slot tensor_slots[] = {
    {Py_tp_doc, (void *)tensor_doc},
    {Py_tp_new, tensor_new},
    {Py_tp_init, tensor_init},
    {Py_tp_dealloc, tensor_dealloc},
    {Py_tp_repr, tensor_repr},
    {Py_tp_methods, tensor_methods},
    {Py_tp_getset, tensor_getset},
    {Py_bf_getbuffer, tensor_getbuffer},
    {Py_bf_releasebuffer, tensor_releasebuffer},
    {0, NULL},
};

PyType_Spec py_tensor_spec = {
    .name = "dsvk.Tensor",
    .basicsize = sizeof(py_tensor),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = tensor_slots,
};

/* ---- ops ---- */

#define MOST_ARGUMENTS 32

/* The arguments of a dict; every tensor among them is entered, `entered` of them. */
static bool op_arguments(const py_state *state, PyObject *dict, dsvk_op_argument *out, size_t *n, py_tensor **entered,
                         size_t *n_entered) {
    PyObject *key, *value;
    Py_ssize_t position = 0;
    *n = *n_entered = 0;
    while (PyDict_Next(dict, &position, &key, &value)) {
        if (*n == MOST_ARGUMENTS) {
            PyErr_Format(PyExc_TypeError, "an op has at most %d arguments", MOST_ARGUMENTS);
            return false;
        }
        dsvk_op_argument *a = &out[(*n)++];
        *a = (dsvk_op_argument){.name = py_utf8(state, key, "arguments")};
        if (a->name == NULL)
            return false;
        if (Py_IS_TYPE(value, state->tensor)) {
            py_tensor *tensor = (py_tensor *)value;
            if (!PY_ENTER(tensor, "the tensor"))
                return false;
            entered[(*n_entered)++] = tensor;
            a->tensor = tensor->handle;
        } else if (value != Py_None && !py_number(state, value, a->name, "a tensor or a number", &a->number)) {
            return false;
        }
    }
    return true;
}

/* A tuple of tensors and None. */
static PyObject *op_results(const py_state *state, py_device *device, dsvk_tensor **results) {
    PyObject *tuple = PyTuple_New(DSVK_OP_RESULTS);
    for (int i = 0; i < DSVK_OP_RESULTS; i++) {
        PyObject *item = tuple == NULL ? NULL : results[i] ? tensor_new(state->tensor, NULL, NULL) : Py_NewRef(Py_None);
        if (item == NULL) {
            dsvk_tensor_close(results[i]);
            Py_CLEAR(tuple);
            continue;
        }
        if (results[i])
            tensor_adopt((py_tensor *)item, device, results[i]);
        if (PyTuple_SetItem(tuple, i, item) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

const char py_op_doc[] = "op(device, name, arguments, /)\n--\n\nRuns one op; dsvk.ops has a function for each. arguments: a dict of\n"
                         "tensors, numbers and None. Returns a tuple of its results, padded with None.";

PyObject *py_op(PyObject *module, PyObject *args) {
    const py_state *state = PyModule_GetState(module);
    PyObject *device_object, *dict, *result = NULL;
    const char *name;
    if (!PyArg_ParseTuple(args, "O!sO!:op", state->device, &device_object, &name, &PyDict_Type, &dict))
        return NULL;
    py_device *device = (py_device *)device_object;
    dsvk_op_argument arguments[MOST_ARGUMENTS];
    py_tensor *entered[MOST_ARGUMENTS];
    dsvk_tensor *results[DSVK_OP_RESULTS] = {0};
    size_t n, n_entered;
    if (!PY_ENTER(device, "the device"))
        return NULL;
    if (op_arguments(state, dict, arguments, &n, entered, &n_entered)) {
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, NULL);
        dsvk_status status = dsvk_op(device->handle, name, arguments, n, results, py_call_progress, NULL, &err);
        if (py_call_end(&call, state, status, &err))
            result = op_results(state, device, results);
        else
            for (int i = 0; i < DSVK_OP_RESULTS; i++)
                dsvk_tensor_close(results[i]);
    }
    for (size_t i = 0; i < n_entered; i++)
        entered[i]->users--;
    device->users--;
    return result;
}

const char py_ops_doc[] = "ops()\n--\n\nThe ops: a list of dicts of name, does (the formula), arguments, results, as dsvk.h says.";

PyObject *py_ops(PyObject *module, PyObject *nothing) {
    (void)nothing;
    const py_state *state = PyModule_GetState(module);
    char *json = NULL;
    dsvk_error err = {0};
    if (dsvk_ops(&json, &err) != DSVK_OK)
        return py_raise(state, &err);
    return py_json(state, json);
}
