/* Long calls: the lock is released around them, and taken back for a moment whenever the library reports progress, so
 * that Ctrl-C and the caller's callback are served. A Python exception raised there stops the call (the library returns
 * DSVK_CANCELLED) and is what the caller sees.
 *
 * The library reports progress in the thread that made the call. The call belonging to a report is therefore found
 * through a thread's own list and not through `user`: two threads may reach for one session at the same time, and the one
 * that is turned away with DSVK_BUSY must not touch the other's thread state. */
#include <string.h>

#include "py_dsvk.h"

static _Thread_local py_call *innermost;

void py_call_begin(py_call *call, PyObject *progress) {
    call->progress = progress;
    Py_XINCREF(progress);
    call->outer = innermost;
    innermost = call;
    call->thread = PyEval_SaveThread();
}

bool py_call_end(py_call *call, const py_state *state, dsvk_status status, const dsvk_error *err) {
    PyEval_RestoreThread(call->thread);
    innermost = call->outer;
    Py_XDECREF(call->progress);
    if (PyErr_Occurred())
        return false;
    if (status == DSVK_OK)
        return true;
    if (err->status == status) {
        py_raise(state, err);
    } else {
        py_raise_status(state, status, dsvk_status_text(status));
    }
    return false;
}

int py_call_progress(void *user, const char *stage, uint64_t done, uint64_t total) {
    (void)user;
    const py_call *call = innermost;
    if (call == NULL)
        return 0;
    py_call_enter();
    bool go_on = !PyErr_Occurred() && PyErr_CheckSignals() == 0;
    if (go_on && call->progress != NULL) {
        PyObject *result = PyObject_CallFunction(call->progress, "sKK", stage ? stage : "", (unsigned long long)done,
                                                 (unsigned long long)total);
        go_on = result != NULL;
        Py_XDECREF(result);
    }
    py_call_leave();
    return go_on ? 0 : 1;
}

bool py_call_running(void) { return innermost != NULL; }

void py_call_enter(void) {
    PyThreadState *thread = innermost->thread;
    innermost->thread = NULL;
    PyEval_RestoreThread(thread);
}

void py_call_leave(void) { innermost->thread = PyEval_SaveThread(); }

/* What an object that is being finalized logs comes with the lock held; everything else from inside a call. */
void py_log(void *user, const char *line) {
    py_device *device = user;
    const bool released = innermost != NULL && innermost->thread != NULL;
    PyObject *type, *value, *traceback;
    if (released)
        py_call_enter();
    PyErr_Fetch(&type, &value, &traceback);
    device->users++; /* it cannot be closed from inside */
    PyObject *log = Py_XNewRef(device->log), *text = log ? py_text(line, strlen(line)) : NULL;
    PyObject *result = text ? PyObject_CallFunctionObjArgs(log, text, NULL) : NULL;
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(log);
    device->users--;
    Py_XDECREF(result);
    Py_XDECREF(text);
    Py_XDECREF(log);
    PyErr_Restore(type, value, traceback);
    if (released)
        py_call_leave();
}
