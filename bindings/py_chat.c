/* Chat: conversations to prompts, and dsvk.ChatParser for what comes back. A conversation crosses as JSON text, which
 * python/dsvk/chat.py writes. */
#include <string.h>

#include "py_dsvk.h"

const char py_chat_encode_doc[] = "chat_encode(conversation, /)\n--\n\n"
                                  "The prompt of a conversation, JSON text as core/dsvk.h describes it: str.";

PyObject *py_chat_encode(PyObject *module, PyObject *args) {
    const py_state *state = PyModule_GetState(module);
    const char *conversation;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "s#:chat_encode", &conversation, &n))
        return NULL;
    char *text = NULL;
    size_t n_text = 0;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_chat_encode(conversation, (size_t)n, &text, &n_text, &err);
    PyObject *result = py_call_end(&call, state, status, &err) ? py_text(text, n_text) : NULL;
    dsvk_free(text);
    return result;
}

const char py_chat_parse_doc[] = "chat_parse(text, thinking, /)\n--\n\nA whole answer as an assistant's message: dict.";

PyObject *py_chat_parse(PyObject *module, PyObject *args) {
    const py_state *state = PyModule_GetState(module);
    const char *text;
    Py_ssize_t n;
    int thinking;
    if (!PyArg_ParseTuple(args, "s#p:chat_parse", &text, &n, &thinking))
        return NULL;
    char *json = NULL;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_chat_parse(text, (size_t)n, (uint32_t)thinking, &json, &err);
    if (py_call_end(&call, state, status, &err))
        return py_json(state, json);
    dsvk_free(json);
    return NULL;
}

/* ---- ChatParser: its calls are too short to be worth releasing the lock, which also keeps them one at a time ---- */

static PyObject *parser_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    py_state *state = py_state_of(type);
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_chat_parser *self = state ? (py_chat_parser *)alloc(type, 0) : NULL;
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

static int parser_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"thinking", NULL};
    py_chat_parser *self = (py_chat_parser *)object;
    int thinking;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "p:ChatParser", names, &thinking))
        return -1;
    if (self->handle != NULL) {
        py_raise_status(self->state, DSVK_STATE, "the parser is already open");
        return -1;
    }
    dsvk_error err = {0};
    if (dsvk_chat_parser_open(&self->handle, (uint32_t)thinking, &err) == DSVK_OK)
        return 0;
    py_raise(self->state, &err);
    return -1;
}

static int parser_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static void parser_dealloc(PyObject *object) {
    PyObject_GC_UnTrack(object);
    dsvk_chat_parser_close(((py_chat_parser *)object)->handle);
    py_object_free(object);
}

static const char *const event_names[] = {
    [DSVK_CHAT_REASONING] = "reasoning", [DSVK_CHAT_CONTENT] = "content",   [DSVK_CHAT_CALL] = "call",
    [DSVK_CHAT_ARGUMENTS] = "arguments", [DSVK_CHAT_CALL_END] = "call_end", [DSVK_CHAT_CALL_CUT] = "call_cut",
    [DSVK_CHAT_END] = "end",
};

/* The events that wait, as a list of (kind, text, call); `call` is None where it says nothing. */
static PyObject *take_events(py_chat_parser *self) {
    PyObject *list = PyList_New(0);
    dsvk_chat_event kind;
    uint32_t call;
    const char *text;
    size_t n;
    while (list != NULL && dsvk_chat_parser_next(self->handle, &kind, &call, &text, &n)) {
        bool of_call = kind >= DSVK_CHAT_CALL && kind <= DSVK_CHAT_CALL_CUT;
        PyObject *event = of_call ? Py_BuildValue("(sNI)", event_names[kind], py_text(text, n), (unsigned int)call)
                                  : Py_BuildValue("(sNO)", event_names[kind], py_text(text, n), Py_None);
        if (event == NULL || PyList_Append(list, event) < 0)
            Py_CLEAR(list);
        Py_XDECREF(event);
    }
    return list;
}

static bool parser_is_open(const py_chat_parser *self) {
    if (self->handle == NULL)
        py_raise_status(self->state, DSVK_STATE, "the parser is not open");
    return self->handle != NULL;
}

PyDoc_STRVAR(feed_doc, "feed($self, text, /)\n--\n\n"
                       "The events that became certain with these bytes or this str, as a list of (kind, text, call).");

static PyObject *parser_feed(PyObject *object, PyObject *args) {
    py_chat_parser *self = (py_chat_parser *)object;
    Py_buffer text;
    if (!PyArg_ParseTuple(args, "s*:feed", &text))
        return NULL;
    PyObject *result = NULL;
    dsvk_error err = {0};
    if (parser_is_open(self))
        result = dsvk_chat_parser_feed(self->handle, text.buf, (size_t)text.len, &err) == DSVK_OK
                     ? take_events(self)
                     : py_raise(self->state, &err);
    PyBuffer_Release(&text);
    return result;
}

PyDoc_STRVAR(push_doc, "push($self, tokenizer, id, /)\n--\n\n"
                       "The same with one token. Only added tokens are markup then: a model may quote it.");

static PyObject *parser_push(PyObject *object, PyObject *args) {
    py_chat_parser *self = (py_chat_parser *)object;
    PyObject *tokenizer, *value;
    int32_t id;
    if (!PyArg_ParseTuple(args, "O!O:push", self->state->tokenizer, &tokenizer, &value) || !py_i32(self->state, value, "id", &id) ||
        !parser_is_open(self) || !py_tokenizer_enter((py_tokenizer *)tokenizer))
        return NULL;
    dsvk_error err = {0};
    dsvk_status status = dsvk_chat_parser_push(self->handle, ((py_tokenizer *)tokenizer)->handle, id, &err);
    py_tokenizer_leave((py_tokenizer *)tokenizer);
    return status == DSVK_OK ? take_events(self) : py_raise(self->state, &err);
}

PyDoc_STRVAR(finish_doc, "finish($self, /)\n--\n\nThe last events: what was held back, and the end of an open call.");

static PyObject *parser_finish(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_chat_parser *self = (py_chat_parser *)object;
    dsvk_error err = {0};
    if (!parser_is_open(self))
        return NULL;
    return dsvk_chat_parser_finish(self->handle, &err) == DSVK_OK ? take_events(self) : py_raise(self->state, &err);
}

static PyObject *parser_place(PyObject *object, void *nothing) {
    (void)nothing;
    py_chat_parser *self = (py_chat_parser *)object;
    return parser_is_open(self) ? PyUnicode_FromString(event_names[dsvk_chat_parser_place(self->handle)]) : NULL;
}

static PyMethodDef parser_methods[] = {
    {"feed", parser_feed, METH_VARARGS, feed_doc},
    {"push", parser_push, METH_VARARGS, push_doc},
    {"finish", parser_finish, METH_NOARGS, finish_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef parser_getset[] = {
    {"place", parser_place, NULL, "What the next text belongs to: reasoning, content, call or end.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(parser_doc, "ChatParser(thinking)\n--\n\nEvents from what a model answers. Use dsvk.chat.Parser.");

static PyType_Slot parser_slots[] = {
    {Py_tp_doc, (void *)parser_doc},    {Py_tp_new, parser_new},           {Py_tp_init, parser_init},
    {Py_tp_dealloc, parser_dealloc},    {Py_tp_methods, parser_methods},   {Py_tp_getset, parser_getset},
    {Py_tp_traverse, parser_traverse},  {0, NULL},
};

PyType_Spec py_chat_parser_spec = {
    .name = "dsvk.ChatParser",
    .basicsize = sizeof(py_chat_parser),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = parser_slots,
};
