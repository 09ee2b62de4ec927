/* dsvk._dsvk.Scheduler: many requests over one model. submit, cancel and report may be called while a step runs in another
 * thread; dsvk.Scheduler has the thread that steps. */
#include <math.h>
#include <string.h>

#include "py_dsvk.h"

static PyObject *scheduler_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    py_state *state = py_state_of(type);
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_scheduler *self = state ? (py_scheduler *)alloc(type, 0) : NULL;
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

static int scheduler_open(py_scheduler *self, py_model *model, const dsvk_scheduler_options *options) {
    if (!PY_ENTER(model, "the model"))
        return -1;
    dsvk_scheduler *handle = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_scheduler_open(&handle, model->handle, options, &err);
    bool ok = py_call_end(&call, self->state, status, &err);
    const uint32_t n_vocab = dsvk_model_vocab_size(model->handle);
    model->users--;
    if (!ok) {
        dsvk_scheduler_close(handle);
        return -1;
    }
    self->handle = handle;
    self->model = (py_model *)Py_NewRef((PyObject *)model);
    self->n_vocab = n_vocab;
    return 0;
}

static int scheduler_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"model", "context", "max_running", "max_waiting", "chunk", "burst", "cache", "cache_bytes", NULL};
    py_scheduler *self = (py_scheduler *)object;
    PyObject *model, *context = NULL, *running = NULL, *waiting = NULL, *chunk = NULL, *burst = NULL, *cache_bytes = NULL;
    int cache = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|OOOOOpO:Scheduler", names, self->state->model, &model, &context, &running,
                                     &waiting, &chunk, &burst, &cache, &cache_bytes))
        return -1;
    if (self->handle != NULL || self->model != NULL) {
        py_raise_status(self->state, DSVK_STATE, "the scheduler was already opened");
        return -1;
    }
    dsvk_scheduler_options options = {.size = sizeof options, .no_cache = !cache};
    const py_state *state = self->state;
    if (!py_u64(state, context, "context", &options.context) || !py_u32(state, running, "max_running", &options.max_running) ||
        !py_u32(state, waiting, "max_waiting", &options.max_waiting) || !py_u32(state, chunk, "chunk", &options.chunk) ||
        !py_u32(state, burst, "burst", &options.burst) || !py_u64(state, cache_bytes, "cache_bytes", &options.cache_bytes))
        return -1;
    return scheduler_open(self, (py_model *)model, &options);
}

static int scheduler_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_scheduler *)object)->model);
    return py_constraint_visit(((py_scheduler *)object)->constraints, visit, arg);
}

static void scheduler_dealloc(PyObject *object) {
    py_scheduler *self = (py_scheduler *)object;
    PyObject_GC_UnTrack(object);
    dsvk_scheduler_close(self->handle);
    py_constraint_free_all(&self->constraints);
    Py_CLEAR(self->model);
    py_object_free(object);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\n"
                        "Ends every request, frees all memory. Raises BusyError while a step runs. Closing twice is\n"
                        "allowed.");

static PyObject *scheduler_close(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_scheduler *self = (py_scheduler *)object;
    if (self->users > 0 && py_users(self->users, self->model->device) > 0)
        return py_raise_status(self->state, DSVK_BUSY, "the scheduler is in use by a call that is running");
    dsvk_scheduler *handle = self->handle;
    self->handle = NULL;
    Py_BEGIN_ALLOW_THREADS
    dsvk_scheduler_close(handle);
    Py_END_ALLOW_THREADS
    py_constraint_free_all(&self->constraints);
    Py_RETURN_NONE;
}

/* ---- submit ---- */

/* What a request points to while it is submitted. */
typedef struct request_parts {
    int32_t *prompt, *stop;
    dsvk_logit_bias *bias;
    py_constraint *constraint;
    PyObject *texts;       /* tuple of bytes, owned */
    const char **stop_texts;
    size_t *stop_sizes;
} request_parts;

static void parts_free(request_parts *parts) {
    PyMem_Free(parts->prompt);
    PyMem_Free(parts->stop);
    PyMem_Free(parts->bias);
    py_constraint_free(parts->constraint);
    PyMem_Free(parts->stop_texts);
    PyMem_Free(parts->stop_sizes);
    Py_XDECREF(parts->texts);
}

static bool stop_texts(PyObject *texts, request_parts *parts, dsvk_request_options *options) {
    parts->texts = PySequence_Tuple(texts);
    if (parts->texts == NULL)
        return false;
    const Py_ssize_t n = PyTuple_Size(parts->texts);
    parts->stop_texts = PyMem_Calloc((size_t)n + 1, sizeof *parts->stop_texts);
    parts->stop_sizes = PyMem_Calloc((size_t)n + 1, sizeof *parts->stop_sizes);
    if (parts->stop_texts == NULL || parts->stop_sizes == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *text = PyTuple_GetItem(parts->texts, i);
        if (!PyBytes_Check(text)) {
            PyErr_Format(PyExc_TypeError, "stop_texts[%zd]: expected bytes, got %R", i, Py_TYPE(text));
            return false;
        }
        parts->stop_texts[i] = PyBytes_AsString(text);
        parts->stop_sizes[i] = (size_t)PyBytes_Size(text);
    }
    options->stop_texts = parts->stop_texts;
    options->stop_sizes = parts->stop_sizes;
    options->n_stop_texts = (size_t)n;
    return true;
}

PyDoc_STRVAR(submit_doc,
             "submit($self, /, prompt, max_tokens=0, choices=1, temperature=0.0, top_p=0.0, min_p=0.0, top_k=0, seed=0, stop=(),\n"
             "       stop_texts=(), stop_after=0, stop_before=0, logprobs=0, exact=False, priority=0, owner='', cache_key='',\n"
             "       prompt_logprobs=False, frequency_penalty=0.0, presence_penalty=0.0, logit_bias=None, constraint=None)\n"
             "--\n\n"
             "Hands in a request from any thread and returns its number; dsvk.Scheduler.submit is the one to use. stop_texts:\n"
             "bytes. logprobs: 1 + how many of the likeliest, 0 for none.");

static bool request_options(const py_scheduler *self, PyObject *args, PyObject *kwargs, request_parts *parts, dsvk_request_options *o) {
    static char *names[] = {"prompt", "max_tokens", "choices", "temperature", "top_p", "min_p", "top_k", "seed", "stop", "stop_texts",
                            "stop_after", "stop_before", "logprobs", "exact", "priority", "owner", "cache_key", "prompt_logprobs",
                            "frequency_penalty", "presence_penalty", "logit_bias", "constraint", NULL};
    PyObject *prompt, *max_tokens = NULL, *choices = NULL, *top_k = NULL, *seed = NULL, *stop = NULL, *texts = NULL, *logprobs = NULL;
    PyObject *temperature = NULL, *top_p = NULL, *min_p = NULL, *frequency = NULL, *presence = NULL, *after = NULL, *before = NULL;
    PyObject *priority = NULL, *owner = NULL, *cache_key = NULL, *bias = NULL, *constraint = NULL;
    const py_state *state = self->state;
    dsvk_sample_options *sampling = &o->sampling;
    Py_ssize_t n_prompt = 0, n_stop = 0;
    int exact = 0, prompt_logprobs = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOOOOOOOOOOOpOOOpOOOO:submit", names, &prompt, &max_tokens, &choices,
                                     &temperature, &top_p, &min_p, &top_k, &seed, &stop, &texts, &after, &before, &logprobs, &exact,
                                     &priority, &owner, &cache_key, &prompt_logprobs, &frequency, &presence, &bias, &constraint))
        return false;
    if (!py_f32(state, temperature, "temperature", &sampling->temperature) || !py_f32(state, top_p, "top_p", &sampling->top_p) ||
        !py_f32(state, min_p, "min_p", &sampling->min_p) || !py_u32(state, top_k, "top_k", &sampling->top_k) ||
        !py_f32(state, frequency, "frequency_penalty", &sampling->frequency_penalty) ||
        !py_f32(state, presence, "presence_penalty", &sampling->presence_penalty) ||
        !py_u64(state, seed, "seed", &sampling->seed) || !py_tokens(state, prompt, "prompt", &parts->prompt, &n_prompt) ||
        (stop != NULL && !py_tokens(state, stop, "stop", &parts->stop, &n_stop)) ||
        !py_logit_bias(state, bias, &parts->bias, &sampling->n_bias))
        return false;
    if (!py_u64(state, max_tokens, "max_tokens", &o->max_tokens) || !py_u32(state, choices, "choices", &o->choices) ||
        !py_u32(state, logprobs, "logprobs", &o->logprobs) || !py_i32(state, priority, "priority", &o->priority) ||
        !py_i32(state, after, "stop_after", &o->stop_after) || !py_i32(state, before, "stop_before", &o->stop_before) ||
        !py_utf8_or_none(state, owner, "owner", &o->owner) || !py_utf8_or_none(state, cache_key, "cache_key", &o->cache_key) ||
        (texts != NULL && !stop_texts(texts, parts, o)))
        return false;
    o->prompt = parts->prompt;
    o->n_prompt = (size_t)n_prompt;
    sampling->stop = parts->stop;
    sampling->n_stop = (size_t)n_stop;
    sampling->bias = parts->bias;
    if (constraint != NULL && constraint != Py_None) {
        parts->constraint = py_constraint_new(state, constraint, o->choices ? o->choices : 1, (size_t)n_prompt, self->n_vocab,
                                              &sampling->mask_after);
        if (parts->constraint == NULL)
            return false;
        sampling->mask = py_constraint_mask;
        sampling->mask_user = parts->constraint;
    }
    o->exact = (uint32_t)exact;
    o->prompt_logprobs = (uint32_t)prompt_logprobs;
    return true;
}

static PyObject *scheduler_submit(PyObject *object, PyObject *args, PyObject *kwargs) {
    py_scheduler *self = (py_scheduler *)object;
    dsvk_request_options options = {.size = sizeof options, .sampling = {.size = sizeof options.sampling}};
    request_parts parts = {0};
    PyObject *result = NULL;
    if (request_options(self, args, kwargs, &parts, &options) && PY_ENTER(self, "the scheduler")) {
        uint64_t id = 0;
        dsvk_error err = {0};
        /* The lock stays, for it takes no time: a request's end must not be told before its constraint is kept. */
        const dsvk_status status = dsvk_scheduler_submit(self->handle, &options, &id, &err);
        if (status == DSVK_OK && parts.constraint != NULL) {
            py_constraint_keep(&self->constraints, parts.constraint, id);
            parts.constraint = NULL;
        }
        result = status == DSVK_OK ? PyLong_FromUnsignedLongLong(id) : py_raise(self->state, &err);
        self->users--;
    }
    parts_free(&parts);
    return result;
}

PyDoc_STRVAR(cancel_doc, "cancel($self, request=0, /)\n--\n\nEnds a request (0: every one) with the next step; from any thread.");

static PyObject *scheduler_cancel(PyObject *object, PyObject *args) {
    py_scheduler *self = (py_scheduler *)object;
    PyObject *number = NULL;
    uint64_t request;
    if (!PyArg_ParseTuple(args, "|O:cancel", &number) || !py_u64(self->state, number, "request", &request) ||
        !PY_ENTER(self, "the scheduler"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    dsvk_scheduler_cancel(self->handle, request);
    Py_END_ALLOW_THREADS
    self->users--;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(pause_doc, "pause($self, request, paused, /)\n--\n\n"
                        "A paused request does not go on until it is resumed or cancelled; from any thread.");

static PyObject *scheduler_pause(PyObject *object, PyObject *args) {
    py_scheduler *self = (py_scheduler *)object;
    PyObject *number;
    uint64_t request;
    int paused;
    if (!PyArg_ParseTuple(args, "Op:pause", &number, &paused) || !py_u64(self->state, number, "request", &request) ||
        !PY_ENTER(self, "the scheduler"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    dsvk_scheduler_pause(self->handle, request, (uint32_t)paused);
    Py_END_ALLOW_THREADS
    self->users--;
    Py_RETURN_NONE;
}

/* ---- steps and events ---- */

PyDoc_STRVAR(step_doc, "step($self, /)\n--\n\n"
                       "Does a bounded slice of work and returns how many sequences have not finished; 0: nothing to do\n"
                       "before the next submit.");

static PyObject *scheduler_step(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_scheduler *self = (py_scheduler *)object;
    if (!PY_ENTER(self, "the scheduler"))
        return NULL;
    uint64_t unfinished = 0;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_scheduler_step(self->handle, &unfinished, &err);
    bool ok = py_call_end(&call, self->state, status, &err);
    self->users--;
    return ok ? PyLong_FromUnsignedLongLong(unfinished) : NULL;
}

/* NaN, of a prompt's first token, is None. */
static PyObject *logprob_list(const float *values, size_t n) {
    PyObject *list = values ? PyList_New((Py_ssize_t)n) : Py_NewRef(Py_None);
    for (size_t i = 0; values != NULL && list != NULL && i < n; i++) {
        PyObject *value = isnan(values[i]) ? Py_NewRef(Py_None) : PyFloat_FromDouble(values[i]);
        if (value == NULL || PyList_SetItem(list, (Py_ssize_t)i, value) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/* A list of (id, logprob) per token, the likeliest first. */
static PyObject *top_list(const dsvk_event *e) {
    if (e->logprobs == NULL)
        return Py_NewRef(Py_None);
    PyObject *rows = PyList_New((Py_ssize_t)e->n_ids);
    for (size_t i = 0; rows != NULL && i < e->n_ids; i++) {
        const uint32_t n_top = isnan(e->logprobs[i]) ? 0 : e->n_top;
        PyObject *row = PyList_New(n_top);
        for (uint32_t k = 0; row != NULL && k < n_top; k++) {
            PyObject *pair = Py_BuildValue("(id)", e->top_ids[i * e->n_top + k], (double)e->top_logprobs[i * e->n_top + k]);
            if (pair == NULL || PyList_SetItem(row, (Py_ssize_t)k, pair) < 0)
                Py_CLEAR(row);
        }
        if (row == NULL || PyList_SetItem(rows, (Py_ssize_t)i, row) < 0)
            Py_CLEAR(rows);
    }
    return rows;
}

static PyObject *event_dict(const dsvk_event *e) {
    static const char *const kinds[] = {[DSVK_EVENT_PROMPT] = "prompt", [DSVK_EVENT_TOKENS] = "tokens", [DSVK_EVENT_FINISH] = "finish"};
    static const char *const finishes[] = {[DSVK_FINISH_STOP] = "stop", [DSVK_FINISH_LENGTH] = "length",
                                           [DSVK_FINISH_CONTEXT] = "context", [DSVK_FINISH_CANCELLED] = "cancelled",
                                           [DSVK_FINISH_ERROR] = "error"};
    const bool finished = e->kind == DSVK_EVENT_FINISH;
    return Py_BuildValue("{s:s, s:K, s:I, s:K, s:K, s:K, s:K, s:N, s:N, s:N, s:N, s:s, s:i, s:i, s:s, s:s}", "kind", kinds[e->kind],
                         "request", (unsigned long long)e->request, "choice", (unsigned)e->choice, "prompt_tokens",
                         (unsigned long long)e->prompt_tokens, "prompt_done", (unsigned long long)e->prompt_done, "cached_tokens",
                         (unsigned long long)e->cached_tokens, "completion_tokens", (unsigned long long)e->completion_tokens, "ids",
                         py_token_list(e->ids, e->n_ids), "text", py_text(e->text ? e->text : "", e->n_text), "logprobs",
                         logprob_list(e->logprobs, e->n_ids), "top", top_list(e), "finish",
                         finished ? finishes[e->finish] : NULL, "stop_id", (int)e->stop_id, "stop_text", (int)e->stop_text, "status",
                         finished && e->status != DSVK_OK ? dsvk_status_name(e->status) : NULL, "message",
                         finished && e->status != DSVK_OK ? e->message : NULL);
}

PyDoc_STRVAR(events_doc, "events($self, /)\n--\n\n"
                         "What has happened since the last call: a list of dicts with kind, request, choice and the rest of\n"
                         "dsvk.h's dsvk_event. In the thread that steps.");

static PyObject *scheduler_events(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_scheduler *self = (py_scheduler *)object;
    PyObject *list = PyList_New(0);
    if (list == NULL || !PY_ENTER(self, "the scheduler")) {
        Py_XDECREF(list);
        return NULL;
    }
    dsvk_event event = {.size = sizeof event};
    dsvk_error err = {0};
    dsvk_status status;
    while ((status = dsvk_scheduler_next(self->handle, &event, &err)) == DSVK_OK && event.kind != DSVK_EVENT_NONE) {
        PyObject *dict = event_dict(&event);
        const bool ok = dict != NULL && PyList_Append(list, dict) == 0;
        Py_XDECREF(dict);
        if (event.kind == DSVK_EVENT_FINISH)
            py_constraint_finished(&self->constraints, event.request);
        if (!ok) {
            Py_CLEAR(list);
            break;
        }
    }
    self->users--;
    if (status != DSVK_OK) {
        Py_CLEAR(list);
        py_raise(self->state, &err);
    }
    return list;
}

/* ---- what it is ---- */

static PyObject *scheduler_report(PyObject *object, void *nothing) {
    (void)nothing;
    py_scheduler *self = (py_scheduler *)object;
    if (!PY_ENTER(self, "the scheduler"))
        return NULL;
    char *json = NULL;
    dsvk_error err = {0};
    dsvk_status status = dsvk_scheduler_report(self->handle, &json, &err);
    self->users--;
    return status == DSVK_OK ? py_json(self->state, json) : py_raise(self->state, &err);
}

static PyObject *scheduler_model(PyObject *object, void *nothing) {
    (void)nothing;
    py_scheduler *self = (py_scheduler *)object;
    return Py_NewRef(self->model ? (PyObject *)self->model : Py_None);
}

static PyObject *scheduler_closed(PyObject *self, void *nothing) {
    (void)nothing;
    return PyBool_FromLong(((py_scheduler *)self)->handle == NULL);
}

static PyMethodDef scheduler_methods[] = {
    {"submit", (PyCFunction)(void (*)(void))scheduler_submit, METH_VARARGS | METH_KEYWORDS, submit_doc},
    {"cancel", scheduler_cancel, METH_VARARGS, cancel_doc},
    {"pause", scheduler_pause, METH_VARARGS, pause_doc},
    {"step", scheduler_step, METH_NOARGS, step_doc},
    {"events", scheduler_events, METH_NOARGS, events_doc},
    {"close", scheduler_close, METH_NOARGS, close_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef scheduler_getset[] = {
    {"report", scheduler_report, NULL, "Counts: a dict of waiting, running, finished, cache, ...", NULL},
    {"model", scheduler_model, NULL, "The Model it runs.", NULL},
    {"closed", scheduler_closed, NULL, "True after close().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(scheduler_doc, "Scheduler(model, context=0, max_running=0, max_waiting=0, chunk=0, burst=0, cache=True,\n"
                            "          cache_bytes=0)\n--\n\n"
                            "Many requests over one model, driven by step(); dsvk.Scheduler adds the rest.");

static PyType_Slot scheduler_slots[] = {
    {Py_tp_doc, (void *)scheduler_doc},   {Py_tp_new, scheduler_new},         {Py_tp_init, scheduler_init},
    {Py_tp_dealloc, scheduler_dealloc},   {Py_tp_methods, scheduler_methods}, {Py_tp_getset, scheduler_getset},
    {Py_tp_traverse, scheduler_traverse}, {0, NULL},
};

PyType_Spec py_scheduler_spec = {
    .name = "dsvk._dsvk.Scheduler",
    .basicsize = sizeof(py_scheduler),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = scheduler_slots,
};
