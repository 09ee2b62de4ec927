/* A mask function in Python: the `constraint` of a request or of a session's call, an object with a method mask(choice, ids). The
 * library calls in the thread that steps, without the lock, which is taken back for it. What it raises becomes the sentence of an error,
 * which ends its request and no other; a session's call raises it. */
#include <string.h>

#include "py_dsvk.h"

struct py_constraint {
    py_constraint *next;
    const py_state *state;
    PyObject *object;       /* owned */
    uint64_t request;       /* 0: not handed in yet */
    uint32_t n_unfinished;  /* choices */
    uint32_t n_choices;
    size_t told[];          /* [n_choices] length of the timeline that mask() knows */
};

static bool constraint_after(const py_state *state, PyObject *object, uint32_t n_vocab, int32_t *after) {
    uint64_t id;
    PyObject *value = PyObject_HasAttrString(object, "mask") ? PyObject_GetAttrString(object, "after") : NULL;
    if (value == NULL) {
        if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_Format(PyExc_TypeError, "constraint: expected an object with after and mask, got %R", object);
        return false;
    }
    const bool ok = py_unsigned(state, value, "constraint.after", n_vocab - 1, &id);
    Py_DECREF(value);
    *after = (int32_t)id;
    return ok;
}

py_constraint *py_constraint_new(const py_state *state, PyObject *object, uint32_t n_choices, size_t n_prompt, uint32_t n_vocab,
                                 int32_t *after) {
    if (!constraint_after(state, object, n_vocab, after))
        return NULL;
    py_constraint *c = PyMem_Calloc(1, sizeof *c + n_choices * sizeof *c->told);
    if (c == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    c->state = state;
    c->object = Py_NewRef(object);
    c->n_unfinished = c->n_choices = n_choices;
    for (uint32_t i = 0; i < n_choices; i++)
        c->told[i] = n_prompt;
    return c;
}

void py_constraint_free(py_constraint *c) {
    if (c == NULL)
        return;
    Py_DECREF(c->object);
    PyMem_Free(c);
}

void py_constraint_keep(py_constraint **list, py_constraint *c, uint64_t request) {
    c->request = request;
    c->next = *list;
    *list = c;
}

void py_constraint_finished(py_constraint **list, uint64_t request) {
    while (*list != NULL && (*list)->request != request)
        list = &(*list)->next;
    py_constraint *c = *list;
    if (c == NULL || --c->n_unfinished > 0)
        return;
    *list = c->next;
    py_constraint_free(c);
}

void py_constraint_free_all(py_constraint **list) {
    while (*list != NULL) {
        py_constraint *c = *list;
        *list = c->next;
        py_constraint_free(c);
    }
}

int py_constraint_visit(py_constraint *list, visitproc visit, void *arg) {
    for (; list != NULL; list = list->next)
        Py_VISIT(list->object);
    return 0;
}

/* ---- the call ---- */

/* What a dsvk.Error's class has; INVALID of others. */
static dsvk_status status_of(PyObject *type) {
    PyObject *name = type ? PyObject_GetAttrString(type, "status") : NULL, *bytes = NULL;
    dsvk_status status = DSVK_INVALID;
    if (name && PyUnicode_Check(name) && (bytes = PyUnicode_AsASCIIString(name)))
        for (int i = 1; i < PY_STATUS_COUNT; i++)
            if (strcmp(PyBytes_AsString(bytes), dsvk_status_name((dsvk_status)i)) == 0)
                status = (dsvk_status)i;
    PyErr_Clear();
    Py_XDECREF(bytes);
    Py_XDECREF(name);
    return status;
}

/* "ValueError: sentence" of the exception that is set, which is cleared. */
static void exception_text(dsvk_error *err) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *name = type ? PyObject_GetAttrString(type, "__name__") : NULL;
    PyObject *text = PyUnicode_FromFormat("the constraint failed: %S: %S", name ? name : Py_None, value ? value : Py_None);
    PyObject *bytes = text ? PyUnicode_AsEncodedString(text, "utf-8", "replace") : NULL;
    const char *sentence = bytes ? PyBytes_AsString(bytes) : NULL;
    PyErr_Clear();
    PyOS_snprintf(err->message, sizeof err->message, "%s", sentence ? sentence : "the constraint failed");
    err->status = status_of(type);
    Py_XDECREF(bytes);
    Py_XDECREF(text);
    Py_XDECREF(name);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* The bits of a buffer of as many words, or all of them for None. */
static bool take_words(const py_state *state, PyObject *value, uint32_t *words, size_t n_words) {
    Py_buffer view;
    if (value == Py_None) {
        memset(words, 0xff, n_words * sizeof *words);
        return true;
    }
    if (PyObject_GetBuffer(value, &view, PyBUF_SIMPLE) < 0)
        return false;
    const bool fits = view.len == (Py_ssize_t)(n_words * sizeof *words);
    if (fits)
        memcpy(words, view.buf, n_words * sizeof *words);
    else
        PyErr_Format(state->errors[DSVK_INVALID], "mask() returned %zd bytes, a bit for each token is %zu", view.len,
                     n_words * sizeof *words);
    PyBuffer_Release(&view);
    return fits;
}

static bool call_mask(py_constraint *c, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words) {
    const size_t told = c->told[choice] < n ? c->told[choice] : n;
    PyObject *ids = py_token_list(tokens + told, n - told);
    PyObject *bits = ids ? PyObject_CallMethod(c->object, "mask", "IO", (unsigned)choice, ids) : NULL;
    const bool ok = bits != NULL && take_words(c->state, bits, words, n_words);
    Py_XDECREF(bits);
    Py_XDECREF(ids);
    c->told[choice] = n;
    return ok;
}

dsvk_status py_session_mask(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words,
                            dsvk_error *err) {
    (void)err; /* py_call_end finds the exception */
    py_call_enter();
    const bool ok = !PyErr_Occurred() && PyErr_CheckSignals() == 0 && call_mask(user, choice, tokens, n, words, n_words);
    py_call_leave();
    return ok ? DSVK_OK : DSVK_CANCELLED;
}

dsvk_status py_constraint_mask(void *user, uint32_t choice, const int32_t *tokens, size_t n, uint32_t *words, size_t n_words,
                               dsvk_error *err) {
    py_call_enter();
    const bool ok = call_mask(user, choice, tokens, n, words, n_words);
    if (!ok)
        exception_text(err);
    py_call_leave();
    return ok ? DSVK_OK : err->status;
}
