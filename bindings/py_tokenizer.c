/* dsvk.Tokenizer and dsvk.Decoder: text to ids and back. A tokenizer taken from a model borrows the model's handle, so
 * every call looks whether the model is still open. A tokenizer of its own is open until the object goes. */
#include <string.h>

#include "py_dsvk.h"

/* ---- Tokenizer ---- */

static PyObject *tokenizer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    py_state *state = py_state_of(type);
    allocfunc alloc = PyType_GetSlot(type, Py_tp_alloc);
    py_tokenizer *self = state ? (py_tokenizer *)alloc(type, 0) : NULL;
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

static int tokenizer_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"path", NULL};
    py_tokenizer *self = (py_tokenizer *)object;
    PyObject *path = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&:Tokenizer", names, PyUnicode_FSConverter, &path))
        return -1;
    bool ok = false;
    if (self->handle != NULL) {
        py_raise_status(self->state, DSVK_STATE, "the tokenizer is already open");
    } else {
        dsvk_tokenizer *handle = NULL;
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, NULL);
        dsvk_status status = dsvk_tokenizer_open(&handle, PyBytes_AsString(path), &err);
        ok = py_call_end(&call, self->state, status, &err);
        if (ok)
            self->handle = handle;
        else
            dsvk_tokenizer_close(handle);
    }
    Py_DECREF(path);
    return ok ? 0 : -1;
}

static int tokenizer_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_tokenizer *)object)->model);
    return 0;
}

static void tokenizer_dealloc(PyObject *object) {
    py_tokenizer *self = (py_tokenizer *)object;
    PyObject_GC_UnTrack(object);
    if (self->model == NULL)
        dsvk_tokenizer_close((dsvk_tokenizer *)self->handle);
    Py_CLEAR(self->model);
    py_object_free(object);
}

bool py_tokenizer_enter(py_tokenizer *self) {
    if (!PY_ENTER(self, "the tokenizer"))
        return false;
    if (self->model != NULL && !PY_ENTER(self->model, "the tokenizer's model")) {
        self->users--;
        return false;
    }
    return true;
}

void py_tokenizer_leave(py_tokenizer *self) {
    if (self->model != NULL)
        self->model->users--;
    self->users--;
}

/* str or bytes-like as bytes that stay where they are until released. A str with surrogates raises UnicodeEncodeError. */
typedef struct text_argument {
    Py_buffer view; /* view.obj NULL for a str */
    const char *bytes;
    Py_ssize_t n;
} text_argument;

static bool text_open(text_argument *text, PyObject *value) {
    memset(text, 0, sizeof *text);
    if (PyUnicode_Check(value)) {
        text->bytes = PyUnicode_AsUTF8AndSize(value, &text->n);
        return text->bytes != NULL;
    }
    if (!PyObject_CheckBuffer(value)) {
        PyErr_Format(PyExc_TypeError, "text: expected str or bytes, got %R", Py_TYPE(value));
        return false;
    }
    if (PyObject_GetBuffer(value, &text->view, PyBUF_SIMPLE) < 0)
        return false;
    text->bytes = text->view.buf;
    text->n = text->view.len;
    return true;
}

static void text_close(text_argument *text) {
    if (text->view.obj != NULL)
        PyBuffer_Release(&text->view);
}

PyDoc_STRVAR(encode_doc,
             "encode($self, /, text, special=False)\n--\n\n"
             "The token ids of `text`, str or bytes: a list of int. Text that spells a special token stays ordinary text\n"
             "unless special is true. A str with surrogates raises UnicodeEncodeError.");

static PyObject *tokenizer_encode(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"text", "special", NULL};
    py_tokenizer *self = (py_tokenizer *)object;
    PyObject *value, *result = NULL;
    int special = 0;
    text_argument text;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|p:encode", names, &value, &special) || !text_open(&text, value))
        return NULL;
    if (py_tokenizer_enter(self)) {
        int32_t *ids = NULL;
        size_t n = 0;
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, NULL);
        dsvk_status status = dsvk_tokenizer_encode(self->handle, text.bytes, (size_t)text.n,
                                                   special ? DSVK_PARSE_SPECIAL : 0, &ids, &n, &err);
        if (py_call_end(&call, self->state, status, &err))
            result = py_token_list(ids, n);
        dsvk_free(ids);
        py_tokenizer_leave(self);
    }
    text_close(&text);
    return result;
}

PyDoc_STRVAR(encode_chat_doc, "encode_chat($self, conversation, /)\n--\n\n"
                              "The prompt of a conversation, JSON text as core/dsvk.h describes it: a list of int. Use\n"
                              "dsvk.chat.encode_ids.");

static PyObject *tokenizer_encode_chat(PyObject *object, PyObject *args) {
    py_tokenizer *self = (py_tokenizer *)object;
    const char *conversation;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "s#:encode_chat", &conversation, &n) || !py_tokenizer_enter(self))
        return NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    dsvk_error err = {0};
    py_call call;
    py_call_begin(&call, NULL);
    dsvk_status status = dsvk_chat_encode_ids(self->handle, conversation, (size_t)n, &ids, &n_ids, &err);
    PyObject *result = py_call_end(&call, self->state, status, &err) ? py_token_list(ids, n_ids) : NULL;
    dsvk_free(ids);
    py_tokenizer_leave(self);
    return result;
}

/* The bytes of tokens; released with dsvk_free. */
static bool decode_text(py_tokenizer *self, PyObject *tokens, char **text, size_t *n) {
    int32_t *ids;
    Py_ssize_t n_ids;
    *text = NULL;
    *n = 0;
    if (!py_tokens(self->state, tokens, "ids", &ids, &n_ids))
        return false;
    bool ok = false;
    if (py_tokenizer_enter(self)) {
        dsvk_error err = {0};
        py_call call;
        py_call_begin(&call, NULL);
        dsvk_status status = dsvk_tokenizer_decode(self->handle, ids, (size_t)n_ids, text, n, &err);
        ok = py_call_end(&call, self->state, status, &err);
        py_tokenizer_leave(self);
    }
    PyMem_Free(ids);
    if (!ok)
        dsvk_free(*text);
    return ok;
}

PyDoc_STRVAR(decode_doc, "decode($self, ids, /)\n--\n\nThe text of ids: str, with U+FFFD where their bytes are no UTF-8.\n"
                         "Raises InvalidError for an id outside the vocabulary.");

static PyObject *tokenizer_decode(PyObject *object, PyObject *tokens) {
    char *text;
    size_t n;
    if (!decode_text((py_tokenizer *)object, tokens, &text, &n))
        return NULL;
    PyObject *result = py_text(text ? text : "", n);
    dsvk_free(text);
    return result;
}

PyDoc_STRVAR(decode_bytes_doc, "decode_bytes($self, ids, /)\n--\n\nThe bytes of ids, exactly as they were encoded.");

static PyObject *tokenizer_decode_bytes(PyObject *object, PyObject *tokens) {
    char *text;
    size_t n;
    if (!decode_text((py_tokenizer *)object, tokens, &text, &n))
        return NULL;
    PyObject *result = PyBytes_FromStringAndSize(text ? text : "", (Py_ssize_t)n);
    dsvk_free(text);
    return result;
}

PyDoc_STRVAR(id_doc, "id($self, text, /)\n--\n\nThe id whose literal text is exactly `text`, or None.");

static PyObject *tokenizer_id(PyObject *object, PyObject *value) {
    py_tokenizer *self = (py_tokenizer *)object;
    text_argument text;
    if (!text_open(&text, value))
        return NULL;
    PyObject *result = NULL;
    if (py_tokenizer_enter(self)) {
        int32_t id = dsvk_tokenizer_id(self->handle, text.bytes, (size_t)text.n);
        py_tokenizer_leave(self);
        result = id < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(id);
    }
    text_close(&text);
    return result;
}

PyDoc_STRVAR(is_special_doc, "is_special($self, id, /)\n--\n\nTrue when `id` is an added token marked special.");

typedef uint32_t (*kind_fn)(const dsvk_tokenizer *tokenizer, int32_t id);

static PyObject *is_kind(PyObject *object, PyObject *value, kind_fn is) {
    py_tokenizer *self = (py_tokenizer *)object;
    int overflow;
    long long id = PyLong_AsLongLongAndOverflow(value, &overflow); /* -1 when it does: none is of that kind */
    if ((id == -1 && PyErr_Occurred()) || !py_tokenizer_enter(self))
        return NULL;
    uint32_t yes = id >= 0 && id <= INT32_MAX ? is(self->handle, (int32_t)id) : 0;
    py_tokenizer_leave(self);
    return PyBool_FromLong(yes != 0);
}

static PyObject *tokenizer_is_special(PyObject *self, PyObject *id) { return is_kind(self, id, dsvk_tokenizer_is_special); }

PyDoc_STRVAR(is_added_doc, "is_added($self, id, /)\n--\n\nTrue when `id` is an added token, special or not: markup, which ordinary text never\n"
                           "becomes.");

static PyObject *tokenizer_is_added(PyObject *self, PyObject *id) { return is_kind(self, id, dsvk_tokenizer_is_added); }

static PyObject *tokenizer_vocab_size(PyObject *object, void *nothing) {
    (void)nothing;
    py_tokenizer *self = (py_tokenizer *)object;
    if (!py_tokenizer_enter(self))
        return NULL;
    uint32_t size = dsvk_tokenizer_vocab_size(self->handle);
    py_tokenizer_leave(self);
    return PyLong_FromUnsignedLong(size);
}

PyDoc_STRVAR(decoder_method_doc, "decoder($self, /)\n--\n\nA Decoder that turns ids into text one by one, whole characters only.");

static PyObject *tokenizer_decoder(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_tokenizer *self = (py_tokenizer *)object;
    if (!py_tokenizer_enter(self))
        return NULL;
    allocfunc alloc = PyType_GetSlot(self->state->decoder, Py_tp_alloc);
    py_decoder *decoder = (py_decoder *)alloc(self->state->decoder, 0);
    dsvk_error err = {0};
    if (decoder != NULL) {
        decoder->state = self->state;
        decoder->tokenizer = (py_tokenizer *)Py_NewRef(object);
        if (dsvk_decoder_open(&decoder->handle, self->handle, &err) != DSVK_OK) {
            py_raise(self->state, &err);
            Py_CLEAR(decoder);
        }
    }
    py_tokenizer_leave(self);
    return (PyObject *)decoder;
}

static bool is_closed(const py_tokenizer *self) {
    return self->handle == NULL || (self->model != NULL && self->model->handle == NULL);
}

static PyObject *tokenizer_closed(PyObject *object, void *nothing) {
    (void)nothing;
    return PyBool_FromLong(is_closed((py_tokenizer *)object));
}

static PyObject *tokenizer_repr(PyObject *object) {
    py_tokenizer *self = (py_tokenizer *)object;
    if (is_closed(self))
        return PyUnicode_FromString("<dsvk.Tokenizer closed>");
    return PyUnicode_FromFormat("<dsvk.Tokenizer %u ids>", (unsigned)dsvk_tokenizer_vocab_size(self->handle));
}

#define WITH_KEYWORDS(function) ((PyCFunction)(void (*)(void))(function)), METH_VARARGS | METH_KEYWORDS

static PyMethodDef tokenizer_methods[] = {
    {"encode", WITH_KEYWORDS(tokenizer_encode), encode_doc},
    {"encode_chat", tokenizer_encode_chat, METH_VARARGS, encode_chat_doc},
    {"decode", tokenizer_decode, METH_O, decode_doc},
    {"decode_bytes", tokenizer_decode_bytes, METH_O, decode_bytes_doc},
    {"id", tokenizer_id, METH_O, id_doc},
    {"is_special", tokenizer_is_special, METH_O, is_special_doc},
    {"is_added", tokenizer_is_added, METH_O, is_added_doc},
    {"decoder", tokenizer_decoder, METH_NOARGS, decoder_method_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef tokenizer_getset[] = {
    {"vocab_size", tokenizer_vocab_size, NULL, "The largest id + 1.", NULL},
    {"closed", tokenizer_closed, NULL, "True when the model it is of is closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(tokenizer_doc, "Tokenizer(path)\n--\n\n"
                            "Byte-level BPE from a tokenizer.json, or from the folder that holds one.\n"
                            "Raises FormatError, UnsupportedError or FileError.");

static PyType_Slot tokenizer_slots[] = {
    {Py_tp_doc, (void *)tokenizer_doc},       {Py_tp_new, tokenizer_new},         {Py_tp_init, tokenizer_init},
    {Py_tp_dealloc, tokenizer_dealloc},       {Py_tp_repr, tokenizer_repr},       {Py_tp_methods, tokenizer_methods},
    {Py_tp_getset, tokenizer_getset},         {Py_tp_traverse, tokenizer_traverse}, {0, NULL},
};

PyType_Spec py_tokenizer_spec = {
    .name = "dsvk.Tokenizer",
    .basicsize = sizeof(py_tokenizer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = tokenizer_slots,
};

/* ---- Decoder: its calls are too short to be worth releasing the lock, which also keeps them one at a time ---- */

static int decoder_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(((py_decoder *)object)->tokenizer);
    return 0;
}

static void decoder_dealloc(PyObject *object) {
    py_decoder *self = (py_decoder *)object;
    PyObject_GC_UnTrack(object);
    dsvk_decoder_close(self->handle);
    Py_CLEAR(self->tokenizer);
    py_object_free(object);
}

PyDoc_STRVAR(push_doc, "push($self, id, /)\n--\n\nThe text that became complete with this id: str, often one word, sometimes ''.");

static PyObject *decoder_push(PyObject *object, PyObject *value) {
    py_decoder *self = (py_decoder *)object;
    int32_t id;
    if (!py_i32(self->state, value, "id", &id) || !py_tokenizer_enter(self->tokenizer))
        return NULL;
    const char *text = NULL;
    size_t n = 0;
    dsvk_error err = {0};
    dsvk_status status = dsvk_decoder_push(self->handle, id, &text, &n, &err);
    PyObject *result = status == DSVK_OK ? py_text(text ? text : "", n) : py_raise(self->state, &err);
    py_tokenizer_leave(self->tokenizer);
    return result;
}

PyDoc_STRVAR(finish_doc, "finish($self, /)\n--\n\nWhat is left: '' or U+FFFD for a character that never became complete.");

static PyObject *decoder_finish(PyObject *object, PyObject *nothing) {
    (void)nothing;
    py_decoder *self = (py_decoder *)object;
    if (!py_tokenizer_enter(self->tokenizer))
        return NULL;
    const char *text = NULL;
    size_t n = 0;
    dsvk_error err = {0};
    dsvk_status status = dsvk_decoder_finish(self->handle, &text, &n, &err);
    PyObject *result = status == DSVK_OK ? py_text(text ? text : "", n) : py_raise(self->state, &err);
    py_tokenizer_leave(self->tokenizer);
    return result;
}

static PyObject *decoder_closed(PyObject *object, void *nothing) {
    (void)nothing;
    return PyBool_FromLong(is_closed(((py_decoder *)object)->tokenizer));
}

static PyObject *decoder_repr(PyObject *object) {
    return PyUnicode_FromString(is_closed(((py_decoder *)object)->tokenizer) ? "<dsvk.Decoder closed>" : "<dsvk.Decoder>");
}

static PyMethodDef decoder_methods[] = {
    {"push", decoder_push, METH_O, push_doc},
    {"finish", decoder_finish, METH_NOARGS, finish_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef decoder_getset[] = {
    {"closed", decoder_closed, NULL, "True when its tokenizer is closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(decoder_doc, "Streaming decode, from Tokenizer.decoder(): push ids, get whole characters.");

static PyType_Slot decoder_slots[] = {
    {Py_tp_doc, (void *)decoder_doc},
    {Py_tp_dealloc, decoder_dealloc},
    {Py_tp_repr, decoder_repr},
    {Py_tp_methods, decoder_methods},
    {Py_tp_getset, decoder_getset},
    {Py_tp_traverse, decoder_traverse},
    {0, NULL},
};

PyType_Spec py_decoder_spec = {
    .name = "dsvk.Decoder",
    .basicsize = sizeof(py_decoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_GC,
    .slots = decoder_slots,
};
