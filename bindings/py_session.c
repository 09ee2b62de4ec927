/* dsvk.Session: one timeline of tokens on a model. Two calls at once are turned away by the library (BusyError); close
 * asks a running call to stop and waits for it. */
#include <string.h>
#include <time.h>

#include "py_dsvk.h"

#define CLOSE_WAIT_SECONDS 5 /* faults A05 */

static PyObject *session_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    py_state *state = py_state_of(type);
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_session *self = state ? (py_session *)alloc(type, 0) : NULL;
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

static int session_open(py_session *self, py_model *model, const dsvk_session_options *options, PyObject *progress) {
    if (!PY_ENTER(model, "the model"))
        return -1;
    dsvk_session *handle = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_session_open(&handle, model->handle, options, &err);
    bool ok = py_call_end(&call, self->state, status, &err);
    self->n_vocab = (Py_ssize_t)dsvk_model_vocab_size(model->handle);
    model->users--;
    if (!ok) {
        dsvk_session_close(handle);
        return -1;
    }
    self->handle = handle;
    self->model = (py_model *)Py_NewRef((PyObject *)model);
    self->progress = progress ? Py_NewRef(progress) : NULL;
    return 0;
}

static int session_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"model", "context", "mtp", "progress", NULL};
    py_session *self = (py_session *)object;
    PyObject *model, *context = NULL, *progress_or_none = NULL, *progress;
    int mtp = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|OpO:Session", names, self->state->model, &model, &context, &mtp,
                                     &progress_or_none))
        return -1;
    if (self->handle != NULL || self->model != NULL) {
        py_raise_status(self->state, DSVK_STATE, "the session was already opened");
        return -1;
    }
    dsvk_session_options options = {.size = sizeof options, .mtp = (uint32_t)mtp, .progress = py_call_progress};
    if (!py_u64(self->state, context, "context", &options.context) ||
        !py_callable(progress_or_none, "progress", PY_PROGRESS_TAKES, &progress))
        return -1;
    return session_open(self, (py_model *)model, &options, progress);
}

static int session_traverse(PyObject *object, visitproc visit, void *arg) {
    py_session *self = (py_session *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->model);
    Py_VISIT(self->progress);
    return py_constraint_visit(self->constraint, visit, arg);
}

static int session_clear(PyObject *object) {
    Py_CLEAR(((py_session *)object)->progress);
    return 0; /* a constraint may still be asked: it goes with the session */
}

static void session_dealloc(PyObject *object) {
    py_session *self = (py_session *)object;
    PyObject_GC_UnTrack(object);
    dsvk_session_close(self->handle);
    py_constraint_free(self->constraint);
    Py_CLEAR(self->progress);
    Py_CLEAR(self->model);
    py_object_free(object);
}

PyDoc_STRVAR(close_doc, "close($self, /)\n--\n\nFrees the session's memory. A call running in another thread is asked to stop and\n"
                        "waited for, at most 5 s, then BusyError is raised. Closing twice is allowed.");

static PyObject *session_close(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_session *self = (py_session *)object;
    const struct timespec pause = {.tv_nsec = 2000000};
    for (int i = 0; self->users > 0 && py_users(self->users, self->model->device) > 0; i++) {
        if (py_call_running())
            return py_raise_status(self->state, DSVK_BUSY, "the session is in use, and a callback cannot wait until it is not: close it "
                                                           "after the call");
        if (i == CLOSE_WAIT_SECONDS * 500)
            return py_raise_status(self->state, DSVK_BUSY, "the session is in use by another call that did not stop");
        dsvk_session_cancel(self->handle);
        Py_BEGIN_ALLOW_THREADS
        nanosleep(&pause, NULL);
        Py_END_ALLOW_THREADS
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
    dsvk_session *handle = self->handle;
    self->handle = NULL;
    py_call call;
    py_call_begin(&call, NULL); /* the last user of a device may have a line for its log */
    dsvk_session_close(handle);
    return py_call_end(&call, self->state, DSVK_OK, NULL) ? Py_NewRef(Py_None) : NULL;
}

/* ---- being at a prefix, and numbers there ---- */

PyDoc_STRVAR(sync_doc,
             "sync($self, tokens, /)\n--\n\n"
             "Be at this prefix: keeps the common beginning, rolls back, extends or rebuilds as needed. tokens: a sequence\n"
             "of ids, or a contiguous buffer of int32 or int64. Raises LimitError when they are more than the context,\n"
             "InvalidError for an id outside the vocabulary. After Ctrl-C the session stands at its last whole chunk.");

static PyObject *session_sync(PyObject *object, PyObject *tokens) {
    py_session *self = (py_session *)object;
    int32_t *ids;
    Py_ssize_t n;
    if (!py_tokens(self->state, tokens, "tokens", &ids, &n))
        return NULL;
    bool ok = false;
    if (PY_ENTER(self, "the session")) {
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, self->progress);
        dsvk_status status = dsvk_session_sync(self->handle, ids, (size_t)n, &err);
        ok = py_call_end(&call, self->state, status, &err);
        self->users--;
    }
    PyMem_Free(ids);
    return ok ? Py_NewRef(Py_None) : NULL;
}

typedef dsvk_status (*logits_fn)(dsvk_session *session, float *out, dsvk_error *err);

static PyObject *logits_row(PyObject *object, PyObject *args, PyObject *kwargs, logits_fn read) {
    static char *names[] = {"out", NULL};
    py_session *self = (py_session *)object;
    PyObject *out = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:logits", names, &out) || !PY_ENTER(self, "the session"))
        return NULL;
    py_output output;
    PyObject *result = NULL;
    if (py_output_open(&output, self->state, out, "out", -1, self->n_vocab)) {
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, NULL);
        dsvk_status status = read(self->handle, output.data, &err);
        result = py_output_close(&output, py_call_end(&call, self->state, status, &err));
    }
    self->users--;
    return result;
}

PyDoc_STRVAR(logits_doc, "logits($self, /, out=None)\n--\n\nLogits after the last token: float32 [vocab_size], a new Array or `out`.\n"
                         "Raises StateError when the timeline is empty.");

static PyObject *session_logits(PyObject *self, PyObject *args, PyObject *kwargs) {
    return logits_row(self, args, kwargs, dsvk_session_logits);
}

PyDoc_STRVAR(mtp_logits_doc,
             "mtp_logits($self, /, out=None)\n--\n\nThe multi-token-prediction block's logits for the token after next: float32\n"
             "[vocab_size]. Needs a session opened with mtp=True and at least two tokens.");

static PyObject *session_mtp_logits(PyObject *self, PyObject *args, PyObject *kwargs) {
    return logits_row(self, args, kwargs, dsvk_session_mtp_logits);
}

PyDoc_STRVAR(evaluate_doc,
             "evaluate($self, /, tokens, chunk=0, mtp=False, out=None)\n--\n\n"
             "Appends tokens in chunks of `chunk` rows (0: the model's largest) and returns the logits of each of their\n"
             "positions: float32 [n, vocab_size], a new Array or `out`. With mtp=True a pair (logits, mtp_logits): row i of\n"
             "the second is computed from the streams before token i and token i itself; row 0 is NaN when the timeline was\n"
             "empty. Raises LimitError, InvalidError as sync does.");

static bool evaluate_into(py_session *self, const int32_t *ids, Py_ssize_t n, uint64_t chunk, float *logits, float *mtp) {
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, self->progress);
    dsvk_status status = dsvk_session_evaluate(self->handle, ids, (size_t)n, (size_t)chunk, logits, mtp, &err);
    return py_call_end(&call, self->state, status, &err);
}

static PyObject *session_evaluate(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"tokens", "chunk", "mtp", "out", NULL};
    py_session *self = (py_session *)object;
    PyObject *tokens, *chunk_or_none = NULL, *out = NULL, *result = NULL;
    py_array *mtp_rows = NULL;
    int mtp = 0;
    uint64_t chunk;
    int32_t *ids;
    Py_ssize_t n;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OpO:evaluate", names, &tokens, &chunk_or_none, &mtp, &out) ||
        !py_u64(self->state, chunk_or_none, "chunk", &chunk) || !py_tokens(self->state, tokens, "tokens", &ids, &n))
        return NULL;
    if (!PY_ENTER(self, "the session")) {
        PyMem_Free(ids);
        return NULL;
    }
    py_output output;
    if (py_output_open(&output, self->state, out, "out", n, self->n_vocab)) {
        bool ok = !mtp || (mtp_rows = py_array_new(self->state, n, self->n_vocab)) != NULL;
        ok = ok && evaluate_into(self, ids, n, chunk, output.data, mtp_rows ? mtp_rows->data : NULL);
        result = py_output_close(&output, ok);
    }
    self->users--;
    PyMem_Free(ids);
    if (result != NULL && mtp) {
        PyObject *pair = PyTuple_Pack(2, result, (PyObject *)mtp_rows);
        Py_DECREF(result);
        result = pair;
    }
    Py_XDECREF((PyObject *)mtp_rows);
    return result;
}

/* ---- decoding ---- */

/* What decode was told: options->stop and ->bias are PyMem memory of ours. */
typedef struct decode_arguments {
    dsvk_sample_options options;
    PyObject *object;          /* borrowed, or NULL */
    py_constraint *constraint; /* of it */
} decode_arguments;

/* Keyword arguments of decode. */
static bool decode_parse(const py_state *state, PyObject *kwargs, decode_arguments *a) {
    static char *names[] = {"temperature", "top_p", "min_p", "top_k", "seed", "stop", "frequency_penalty", "presence_penalty",
                            "logit_bias", "constraint", "generated_from", NULL};
    memset(a, 0, sizeof *a);
    dsvk_sample_options *options = &a->options;
    options->size = sizeof *options;
    PyObject *temperature = NULL, *top_p = NULL, *min_p = NULL, *frequency = NULL, *presence = NULL;
    PyObject *top_k = NULL, *seed = NULL, *stop = NULL, *bias = NULL, *from = NULL, *empty = PyTuple_New(0);
    dsvk_logit_bias *biases = NULL;
    if (empty == NULL)
        return false;
    bool ok = PyArg_ParseTupleAndKeywords(empty, kwargs, "|OOOOOOOOOOO:decode", names, &temperature, &top_p, &min_p, &top_k, &seed,
                                          &stop, &frequency, &presence, &bias, &a->object, &from);
    Py_DECREF(empty);
    if (!ok || !py_f32(state, temperature, "temperature", &options->temperature) || !py_f32(state, top_p, "top_p", &options->top_p) ||
        !py_f32(state, min_p, "min_p", &options->min_p) || !py_u32(state, top_k, "top_k", &options->top_k) ||
        !py_f32(state, frequency, "frequency_penalty", &options->frequency_penalty) ||
        !py_f32(state, presence, "presence_penalty", &options->presence_penalty) ||
        !py_u64(state, seed, "seed", &options->seed) || !py_u64(state, from, "generated_from", &options->generated_from))
        return false;
    if (stop != NULL && stop != Py_None) {
        int32_t *ids;
        Py_ssize_t n;
        if (!py_tokens(state, stop, "stop", &ids, &n))
            return false;
        options->stop = ids;
        options->n_stop = (size_t)n;
    }
    ok = py_logit_bias(state, bias, &biases, &options->n_bias);
    options->bias = biases;
    return ok;
}

/* The constraint, if there is one, for choice `choice` of a session's timeline of n tokens. */
static bool decode_constrain(decode_arguments *a, const py_session *session, uint32_t choice, size_t n) {
    if (a->object == NULL || a->object == Py_None)
        return true;
    a->constraint = py_constraint_new(session->state, a->object, choice + 1, n, (uint32_t)session->n_vocab, &a->options.mask_after);
    a->options.mask = py_session_mask;
    a->options.mask_user = a->constraint;
    return a->constraint != NULL;
}

static void decode_free(decode_arguments *a) {
    PyMem_Free((void *)a->options.stop);
    PyMem_Free((void *)a->options.bias);
    py_constraint_free(a->constraint);
    memset(a, 0, sizeof *a);
}

static int32_t *decode_space(const py_state *state, size_t rows, uint64_t n) {
    if (n == 0 || n > UINT32_MAX || rows > PY_SSIZE_T_MAX / sizeof(int32_t) / n) {
        PyErr_Format(state->errors[DSVK_INVALID], "n: expected 1 .. 4294967295 tokens, got %llu", (unsigned long long)n);
        return NULL;
    }
    int32_t *out = PyMem_Malloc(rows * n * sizeof *out);
    if (out == NULL)
        PyErr_NoMemory();
    return out;
}

PyDoc_STRVAR(decode_doc,
             "decode($self, /, n, temperature=0.0, top_p=0.0, min_p=0.0, top_k=0, seed=0, stop=(), frequency_penalty=0.0,\n"
             "       presence_penalty=0.0, logit_bias=None, constraint=None, generated_from=0)\n--\n\n"
             "Appends up to n sampled tokens in one uninterruptible call and returns their ids; dsvk.Session.decode is the\n"
             "one to use.");

static PyObject *session_decode(PyObject *object, PyObject *args, PyObject *kwargs) {
    py_session *self = (py_session *)object;
    PyObject *count, *result = NULL;
    uint64_t n;
    decode_arguments a = {0};
    int32_t *out = NULL;
    if (!PyArg_ParseTuple(args, "O:decode", &count) || !py_u64(self->state, count, "n", &n) || !decode_parse(self->state, kwargs, &a) ||
        (out = decode_space(self->state, 1, n)) == NULL || !PY_ENTER(self, "the session"))
        goto done;
    if (decode_constrain(&a, self, 0, (size_t)dsvk_session_position(self->handle))) {
        size_t n_out = 0;
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, self->progress);
        dsvk_status status = dsvk_session_decode(self->handle, (size_t)n, &a.options, out, &n_out, &err);
        if (py_call_end(&call, self->state, status, &err))
            result = py_token_list(out, n_out);
    }
    self->users--;
done:
    PyMem_Free(out);
    decode_free(&a);
    return result;
}

PyDoc_STRVAR(begin_doc,
             "begin($self, /, tokens, n, temperature=0.0, top_p=0.0, min_p=0.0, top_k=0, seed=0, stop=(), frequency_penalty=0.0,\n"
             "      presence_penalty=0.0, logit_bias=None, constraint=None, generated_from=0)\n--\n\n"
             "States a goal for poll: be at the prefix tokens, then append up to n sampled tokens. It computes nothing, and\n"
             "replaces an earlier goal. The options are decode's; generated_from: where in the timeline that begins which\n"
             "counts as generated for penalties, 0 for the prefix's end. Raises LimitError when they are more than the context.");

static PyObject *session_begin(PyObject *object, PyObject *args, PyObject *kwargs) {
    py_session *self = (py_session *)object;
    PyObject *tokens, *count;
    uint64_t n_decode;
    int32_t *ids = NULL;
    Py_ssize_t n;
    decode_arguments a = {0};
    bool ok = false;
    if (PyArg_ParseTuple(args, "OO:begin", &tokens, &count) && py_u64(self->state, count, "n", &n_decode) &&
        decode_parse(self->state, kwargs, &a) && py_tokens(self->state, tokens, "tokens", &ids, &n) &&
        decode_constrain(&a, self, 0, (size_t)n) && PY_ENTER(self, "the session")) {
        dsvk_error err = {0}; /* the lock stays: poll reads what this replaces */
        ok = dsvk_session_begin(self->handle, ids, (size_t)n, (size_t)n_decode, &a.options, &err) == DSVK_OK;
        if (ok) {
            py_constraint *old = self->constraint;
            self->constraint = a.constraint;
            a.constraint = old;
        } else {
            py_raise(self->state, &err);
        }
        self->users--;
    }
    PyMem_Free(ids);
    decode_free(&a);
    return ok ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(poll_doc,
             "poll($self, microseconds, /)\n--\n\n"
             "Works towards the goal for about so long, at least one slice, and returns the ids decoded since the last poll and\n"
             "whether the goal is reached. The smallest slice is one layer of one token.");

static PyObject *session_poll(PyObject *object, PyObject *value) {
    py_session *self = (py_session *)object;
    uint64_t budget;
    if (!py_u64(self->state, value, "microseconds", &budget) || !PY_ENTER(self, "the session"))
        return NULL;
    dsvk_poll_result result = {0};
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, self->progress);
    dsvk_status status = dsvk_session_poll(self->handle, budget, &result, &err);
    PyObject *ids = NULL;
    if (py_call_end(&call, self->state, status, &err))
        ids = py_token_list(result.tokens, result.n_tokens);
    self->users--;
    return ids ? Py_BuildValue("NO", ids, result.finished ? Py_True : Py_False) : NULL;
}

/* One decode_batch call: everything below belongs to it. */
typedef struct batch {
    size_t n_sessions;
    py_session **sessions; /* borrowed from `list`; the first n_entered of them are marked as used */
    size_t n_entered;
    dsvk_session **handles;
    decode_arguments *arguments;
    dsvk_sample_options *options; /* of these */
    int32_t *out;  /* [n_sessions, n] */
    size_t *n_out; /* [n_sessions] */
} batch;

static void batch_free(batch *b) {
    for (size_t i = 0; i < b->n_entered; i++)
        b->sessions[i]->users--;
    for (size_t i = 0; b->arguments != NULL && i < b->n_sessions; i++)
        decode_free(&b->arguments[i]);
    PyMem_Free(b->sessions);
    PyMem_Free(b->handles);
    PyMem_Free(b->arguments);
    PyMem_Free(b->options);
    PyMem_Free(b->out);
    PyMem_Free(b->n_out);
}

static bool batch_fill(batch *b, const py_state *state, PyObject *list, PyObject *options, uint64_t n) {
    b->n_sessions = (size_t)PyList_Size(list);
    if ((size_t)PyList_Size(options) != b->n_sessions) {
        PyErr_Format(state->errors[DSVK_INVALID], "options: expected one dict per session, %zu, got %zd", b->n_sessions,
                     PyList_Size(options));
        return false;
    }
    b->sessions = PyMem_Calloc(b->n_sessions + 1, sizeof *b->sessions);
    b->handles = PyMem_Calloc(b->n_sessions + 1, sizeof *b->handles);
    b->arguments = PyMem_Calloc(b->n_sessions + 1, sizeof *b->arguments);
    b->options = PyMem_Calloc(b->n_sessions + 1, sizeof *b->options);
    b->n_out = PyMem_Calloc(b->n_sessions + 1, sizeof *b->n_out);
    if (b->sessions == NULL || b->handles == NULL || b->arguments == NULL || b->options == NULL || b->n_out == NULL) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < b->n_sessions; i++) {
        PyObject *item = PyList_GetItem(list, (Py_ssize_t)i);
        PyObject *keywords = PyList_GetItem(options, (Py_ssize_t)i);
        if (!PyObject_TypeCheck(item, state->session) || !PyDict_Check(keywords)) {
            PyErr_Format(PyExc_TypeError, "sessions[%zu]: expected a Session and a dict, got %R and %R", i, Py_TYPE(item),
                         Py_TYPE(keywords));
            return false;
        }
        b->sessions[i] = (py_session *)item;
        if (!decode_parse(state, keywords, &b->arguments[i]) || !PY_ENTER(b->sessions[i], "a session of the batch"))
            return false;
        b->n_entered = i + 1;
        b->handles[i] = b->sessions[i]->handle;
        if (!decode_constrain(&b->arguments[i], b->sessions[i], (uint32_t)i, (size_t)dsvk_session_position(b->handles[i])))
            return false;
        b->options[i] = b->arguments[i].options;
    }
    b->out = decode_space(state, b->n_sessions ? b->n_sessions : 1, n);
    return b->out != NULL;
}

static PyObject *batch_result(const batch *b, uint64_t n) {
    PyObject *rows = PyList_New((Py_ssize_t)b->n_sessions);
    for (size_t i = 0; rows != NULL && i < b->n_sessions; i++) {
        PyObject *row = py_token_list(b->out + i * n, b->n_out[i]);
        if (row == NULL || PyList_SetItem(rows, (Py_ssize_t)i, row) < 0)
            Py_CLEAR(rows);
    }
    return rows;
}

const char py_decode_batch_doc[] =
    "decode_batch(sessions, n, options)\n--\n\n"
    "Session.decode for many different sessions of one model, one row each per step. options: a dict of decode's keyword\n"
    "arguments per session. Returns a list of ids per session; Model.decode is the one to use.";

PyObject *py_decode_batch(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"sessions", "n", "options", NULL};
    const py_state *state = PyModule_GetState(module);
    PyObject *sessions, *count, *options, *result = NULL;
    uint64_t n;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO!:decode_batch", names, &PyList_Type, &sessions, &count,
                                     &PyList_Type, &options) ||
        !py_u64(state, count, "n", &n))
        return NULL;
    /* Our own copy: the caller's list may change while the lock is released. */
    PyObject *list = PySequence_List(sessions);
    if (list == NULL)
        return NULL;
    batch b = {0};
    if (batch_fill(&b, state, list, options, n)) {
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, NULL);
        dsvk_status status = dsvk_decode_batch(b.handles, b.n_sessions, (size_t)n, b.options, b.out, b.n_out, &err);
        if (py_call_end(&call, state, status, &err))
            result = batch_result(&b, n);
    }
    batch_free(&b);
    Py_DECREF(list);
    return result;
}

PyDoc_STRVAR(cancel_doc, "cancel($self, /)\n--\n\nAsks a call running on this session to stop after its current submit (it raises\n"
                         "CancelledError); from any thread.");

static PyObject *session_cancel(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_session *self = (py_session *)object;
    if (!PY_ENTER(self, "the session"))
        return NULL;
    dsvk_session_cancel(self->handle);
    self->users--;
    Py_RETURN_NONE;
}

/* ---- what it is ---- */

static PyObject *session_number(PyObject *object, uint64_t (*get)(const dsvk_session *session)) {
    py_session *self = (py_session *)object;
    if (!PY_ENTER(self, "the session"))
        return NULL;
    uint64_t value = get(self->handle);
    self->users--;
    return PyLong_FromUnsignedLongLong(value);
}

static PyObject *session_position(PyObject *self, void *nothing) {
    (void)nothing;
    return session_number(self, dsvk_session_position);
}

static PyObject *session_context(PyObject *self, void *nothing) {
    (void)nothing;
    return session_number(self, dsvk_session_context);
}

static PyObject *session_tokens(PyObject *object, void *nothing) {
    (void)nothing;
    py_session *self = (py_session *)object;
    /* The timeline may grow between asking for its length and copying it. */
    if (self->users > 0 && py_users(self->users, self->model->device) > 0)
        return py_raise_status(self->state, DSVK_BUSY, "another call is running on this session");
    if (!PY_ENTER(self, "the session"))
        return NULL;
    uint64_t n = dsvk_session_position(self->handle);
    int32_t *ids = PyMem_Malloc((n + 1) * sizeof *ids);
    PyObject *list = NULL;
    dsvk_error err = {0};
    if (ids == NULL)
        PyErr_NoMemory();
    else if (dsvk_session_tokens(self->handle, ids, &err) != DSVK_OK)
        py_raise(self->state, &err);
    else
        list = py_token_list(ids, n);
    self->users--;
    PyMem_Free(ids);
    return list;
}

static PyObject *session_memory(PyObject *object, void *nothing) {
    (void)nothing;
    py_session *self = (py_session *)object;
    if (!PY_ENTER(self, "the session"))
        return NULL;
    char *json = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_session_memory(self->handle, &json, &err);
    bool ok = py_call_end(&call, self->state, status, &err);
    self->users--;
    if (!ok) {
        dsvk_free(json);
        return NULL;
    }
    return py_json(self->state, json);
}

static PyObject *session_model(PyObject *object, void *nothing) {
    (void)nothing;
    py_session *self = (py_session *)object;
    return Py_NewRef(self->model ? (PyObject *)self->model : Py_None);
}

static PyObject *session_closed(PyObject *self, void *nothing) {
    (void)nothing;
    return PyBool_FromLong(((py_session *)self)->handle == NULL);
}

static PyObject *session_enter(PyObject *self, PyObject *nothing) {
    (void)nothing;
    return Py_NewRef(self);
}

static PyObject *session_exit(PyObject *self, PyObject *exception) {
    (void)exception;
    return session_close(self, NULL);
}

#define WITH_KEYWORDS(function) ((PyCFunction)(void (*)(void))(function)), METH_VARARGS | METH_KEYWORDS

static PyMethodDef session_methods[] = {
    {"sync", session_sync, METH_O, sync_doc},
    {"logits", WITH_KEYWORDS(session_logits), logits_doc},
    {"mtp_logits", WITH_KEYWORDS(session_mtp_logits), mtp_logits_doc},
    {"evaluate", WITH_KEYWORDS(session_evaluate), evaluate_doc},
    {"decode", WITH_KEYWORDS(session_decode), decode_doc},
    {"begin", WITH_KEYWORDS(session_begin), begin_doc},
    {"poll", session_poll, METH_O, poll_doc},
    {"cancel", session_cancel, METH_NOARGS, cancel_doc},
    {"close", session_close, METH_NOARGS, close_doc},
    {"__enter__", session_enter, METH_NOARGS, NULL},
    {"__exit__", session_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef session_getset[] = {
    {"position", session_position, NULL, "Tokens in the timeline.", NULL},
    {"context", session_context, NULL, "The most tokens the timeline can hold.", NULL},
    {"tokens", session_tokens, NULL, "The timeline's token ids: a list.", NULL},
    {"memory", session_memory, NULL, "Device memory of this session in bytes: a dict.", NULL},
    {"model", session_model, NULL, "The session's Model.", NULL},
    {"closed", session_closed, NULL, "True after close().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(session_doc, "Session(model, context=0, mtp=False, progress=None)\n--\n\n"
                          "One timeline of tokens; dsvk.Session adds the rest.");

static PyType_Slot session_slots[] = {
    {Py_tp_doc, (void *)session_doc},     {Py_tp_new, session_new},         {Py_tp_init, session_init},
    {Py_tp_dealloc, session_dealloc},     {Py_tp_methods, session_methods}, {Py_tp_getset, session_getset},
    {Py_tp_traverse, session_traverse},   {Py_tp_clear, session_clear},     {0, NULL},
};

PyType_Spec py_session_spec = {
    .name = "dsvk._dsvk.Session",
    .basicsize = sizeof(py_session),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = session_slots,
};
