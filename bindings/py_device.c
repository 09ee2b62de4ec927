/* dsvk.Device: one Vulkan device with its budgets. Models keep the device they were opened on. */
#include <string.h>
#include <unistd.h>

#include "py_dsvk.h"

static PyObject *device_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    py_state *state = py_state_of(type);
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_device *self = state ? (py_device *)alloc(type, 0) : NULL;
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

/* "0", a UUID or part of a name; an int is an index. NULL with no exception: the best device. */
static PyObject *choice_text(PyObject *choice) {
    if (choice == NULL || choice == Py_None)
        return NULL;
    if (PyLong_Check(choice))
        return PyObject_Str(choice);
    if (PyUnicode_Check(choice))
        return Py_NewRef(choice);
    PyErr_Format(PyExc_TypeError, "choice: expected an index, a UUID or part of a name, got %R", choice);
    return NULL;
}

static int device_open(py_device *self, const dsvk_device_options *options) {
    dsvk_device *handle = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_device_open(&handle, options, &err);
    if (!py_call_end(&call, self->state, status, &err)) {
        dsvk_device_close(handle);
        return -1;
    }
    self->handle = handle;
    self->pid = getpid();
    return 0;
}

static int device_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_device *)object)->log);
    return 0;
}

static int device_clear(PyObject *object) {
    Py_CLEAR(((py_device *)object)->log);
    return 0;
}

static int device_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"choice", "cache_dir", "budgets", "validation", "max_allocation", "matmul", "indexer", "log", NULL};
    py_device *self = (py_device *)object;
    PyObject *choice = NULL, *cache_dir = NULL, *budgets = NULL, *max_allocation = NULL, *text = NULL, *folder = NULL;
    PyObject *matmul = NULL, *indexer = NULL, *listener = NULL, *log;
    int validation = 0, result = -1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOOpOOOO:Device", names, &choice, &cache_dir, &budgets, &validation,
                                     &max_allocation, &matmul, &indexer, &listener) ||
        !py_callable(listener, "log", "(line)", &log))
        return -1;
    if (self->handle != NULL) {
        py_raise_status(self->state, DSVK_STATE, "the device is already open");
        return -1;
    }
    dsvk_device_options options = {.size = sizeof options, .validation = (uint32_t)validation};
    if (!py_budgets(self->state, budgets, options.budget) ||
        !py_u64(self->state, max_allocation, "max_allocation", &options.max_allocation) ||
        !py_utf8_or_none(self->state, matmul, "matmul", &options.matmul) ||
        !py_utf8_or_none(self->state, indexer, "indexer", &options.indexer))
        return -1;
    text = choice_text(choice);
    if (PyErr_Occurred() || (text != NULL && (options.device = py_utf8(self->state, text, "choice")) == NULL))
        goto done;
    if (cache_dir != NULL && cache_dir != Py_None) {
        if (!PyUnicode_FSConverter(cache_dir, &folder))
            goto done;
        options.cache_dir = PyBytes_AsString(folder);
    }
    if (log != NULL) {
        self->log = Py_NewRef(log);
        options.log = py_log;
        options.user = self;
    }
    result = device_open(self, &options);
    if (result < 0)
        device_clear(object);
done:
    Py_XDECREF(text);
    Py_XDECREF(folder);
    return result;
}

static void device_dealloc(PyObject *object) {
    py_device *self = (py_device *)object;
    PyObject_GC_UnTrack(object);
    dsvk_device_close(self->handle);
    device_clear(object);
    py_object_free(object);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nGives the device back; models opened on it keep it alive until they are closed.\n"
                        "Raises BusyError while a model is being loaded on it. Closing twice is allowed.");

int py_users(int users, const py_device *device) {
    return users > 0 && device->pid != getpid() ? 0 : users;
}

static PyObject *device_close(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_device *self = (py_device *)object;
    if (py_users(self->users, self) > 0)
        return py_raise_status(self->state, DSVK_BUSY, "the device is in use by a call that is running");
    dsvk_device *handle = self->handle;
    self->handle = NULL;
    py_call call;
    py_call_begin(&call, NULL); /* the last user of a device may have a line for its log */
    dsvk_device_close(handle);
    return py_call_end(&call, self->state, DSVK_OK, NULL) ? Py_NewRef(Py_None) : NULL;
}

typedef dsvk_status (*report_fn)(dsvk_device *device, char **json, dsvk_error *err);

static PyObject *device_report(PyObject *object, report_fn report) {
    py_device *self = (py_device *)object;
    if (!PY_ENTER(self, "the device"))
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

PyDoc_STRVAR(memory_doc,
             "memory($self, /)\n--\n\nBytes by purpose: a dict of weights, cache, scratch, staging, readback, each with used, peak,\n"
             "budget and blocks, and heap with size and free.");

static PyObject *device_memory(PyObject *self, PyObject *nothing) {
    (void)nothing;
    return device_report(self, dsvk_device_memory);
}

static PyObject *device_info(PyObject *self, void *nothing) {
    (void)nothing;
    return device_report(self, dsvk_device_describe);
}

PyDoc_STRVAR(profile_begin_doc, "profile_begin($self, /)\n--\n\nFrom here every dispatch is timed on the device; see profile().");

static PyObject *device_profile_begin(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_device *self = (py_device *)object;
    if (!PY_ENTER(self, "the device"))
        return NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_device_profile_begin(self->handle, &err);
    bool ok = py_call_end(&call, self->state, status, &err);
    self->users--;
    return ok ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(profile_end_doc,
             "profile_end($self, /)\n--\n\nEnds what profile_begin started. Returns a dict: timestamps, submits, dispatches, host_us,\n"
             "device_us and ops, a list of dicts with name, part (of the model: SWA, CSA, HCA, MTP, head, None), calls, us, bytes, flops.");

static PyObject *device_profile_end(PyObject *self, PyObject *nothing) {
    (void)nothing;
    return device_report(self, dsvk_device_profile_end);
}

PyDoc_STRVAR(measure_doc,
             "measure($self, /)\n--\n\nMeasures what the device can do, in about two seconds. Returns a dict: copy_bytes_per_s (read and\n"
             "written, the better of transfer_bytes_per_s and kernel_bytes_per_s), copy_buffer_bytes, f32_flops_per_s,\n"
             "matrix_flops_per_s and matrix_kernel (cooperative matrices of halves; None where there are none).");

static dsvk_status measure(dsvk_device *device, char **json, dsvk_error *err) {
    return dsvk_device_measure(device, json, py_call_progress, NULL, err);
}

static PyObject *device_measure(PyObject *self, PyObject *nothing) {
    (void)nothing;
    return device_report(self, measure);
}

static PyObject *device_enter(PyObject *self, PyObject *nothing) {
    (void)nothing;
    return Py_NewRef(self);
}

static PyObject *device_exit(PyObject *self, PyObject *exception) {
    (void)exception;
    return device_close(self, NULL);
}

static PyObject *device_closed(PyObject *self, void *nothing) {
    (void)nothing;
    return PyBool_FromLong(((py_device *)self)->handle == NULL);
}

static PyMethodDef device_methods[] = {
    {"close", device_close, METH_NOARGS, close_doc},
    {"memory", device_memory, METH_NOARGS, memory_doc},
    {"profile_begin", device_profile_begin, METH_NOARGS, profile_begin_doc},
    {"profile_end", device_profile_end, METH_NOARGS, profile_end_doc},
    {"measure", device_measure, METH_NOARGS, measure_doc},
    {"__enter__", device_enter, METH_NOARGS, NULL},
    {"__exit__", device_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef device_getset[] = {
    {"info", device_info, NULL, "What dsvk.devices() says about this device: a dict.", NULL},
    {"closed", device_closed, NULL, "True after close().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(device_doc,
             "Device(choice=None, cache_dir=None, budgets=None, validation=False, max_allocation=0, matmul=None, indexer=None,\n"
             "       log=None)\n--\n\n"
             "Opens a Vulkan device. choice: an index, a UUID or part of a name that fits one device; None for the best.\n"
             "cache_dir: folder for compiled pipelines, '' for none. budgets: bytes by purpose, for instance\n"
             "{'weights': 8 << 30}. validation: turn on the Khronos validation layer. max_allocation: bytes, as if the driver\n"
             "allowed no larger allocation; 0 for its own limit. matmul: how prefill multiplies, one of\n"
             "info['matmul_variants'], 'coopmat' for the first shape of matrix units; None for the fastest, found out once per\n"
             "driver. indexer: how index scores are multiplied, with the same bits: 'floats', or 'bytes' by packed integer\n"
             "products; None for bytes where the device has instructions for it. log: called with lines worth telling that are no\n"
             "failure of a call, in the thread whose call it is; what it raises goes to sys.unraisablehook. Raises NoDeviceError,\n"
             "InvalidError, UnsupportedError.");

static PyType_Slot device_slots[] = {
    {Py_tp_doc, (void *)device_doc}, {Py_tp_new, device_new},         {Py_tp_init, device_init},
    {Py_tp_dealloc, device_dealloc}, {Py_tp_methods, device_methods}, {Py_tp_getset, device_getset},
    {Py_tp_traverse, device_traverse}, {Py_tp_clear, device_clear},   {0, NULL},
};

PyType_Spec py_device_spec = {
    .name = "dsvk._dsvk.Device",
    .basicsize = sizeof(py_device),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = device_slots,
};
