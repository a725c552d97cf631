/* Receives and sends many messages of a ROUTER at a time: `messages.py` says when it is used.

   It decides nothing. It receives the frames that pyzmq would, with the attributes of a zmq.Frame that the server reads.
   The functions of libzmq are those of the library that pyzmq has loaded; they are stable (zmq_msg_recv(3) and others). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    _Alignas(void *) unsigned char opaque[64]; /* zmq.h */
} zmq_msg_t;
enum { DONTWAIT = 1, SNDMORE = 2, SRCFD = 2 }; /* zmq.h */
enum { SEPARATOR = 0x1e };        /* forms.py */

static int (*zmq_msg_init)(zmq_msg_t *);
static int (*zmq_msg_init_size)(zmq_msg_t *, size_t);
static int (*zmq_msg_init_data)(zmq_msg_t *, void *, size_t, void (*)(void *, void *), void *);
static int (*zmq_msg_close)(zmq_msg_t *);
static int (*zmq_msg_move)(zmq_msg_t *, zmq_msg_t *);
static int (*zmq_msg_recv)(zmq_msg_t *, void *, int);
static int (*zmq_msg_send)(zmq_msg_t *, void *, int);
static int (*zmq_msg_more)(const zmq_msg_t *);
static int (*zmq_msg_get)(const zmq_msg_t *, int);
static size_t (*zmq_msg_size)(const zmq_msg_t *);
static void *(*zmq_msg_data)(zmq_msg_t *);
static const char *(*zmq_msg_gets)(const zmq_msg_t *, const char *);
static int (*zmq_errno)(void);

typedef struct {
    PyObject_HEAD
    zmq_msg_t message;
} Frame;

static PyTypeObject *frame_type, *account_type;
static PyObject *last_text; /* of a property: most messages have the identity of the one before */

static PyObject *raise_zmq_error(int number) {
    PyObject *zmq = PyImport_ImportModule("zmq");
    PyObject *error = zmq ? PyObject_CallMethod(zmq, "ZMQError", "i", number) : NULL;
    if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    Py_XDECREF(zmq);
    return NULL;
}

static PyObject *bytes_of(zmq_msg_t *message) {
    return PyBytes_FromStringAndSize(zmq_msg_data(message), (Py_ssize_t)zmq_msg_size(message));
}

static void frame_dealloc(Frame *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    zmq_msg_close(&self->message);
    PyObject_Free(self);
    Py_DECREF(type);
}

static Py_ssize_t frame_length(Frame *self) { return (Py_ssize_t)zmq_msg_size(&self->message); }
static PyObject *frame_bytes(Frame *self, void *unused) { return bytes_of(&self->message); }
static PyObject *frame_more(Frame *self, void *unused) { return PyBool_FromLong(zmq_msg_more(&self->message)); }
static PyObject *frame_buffer(Frame *self, void *unused) { return PyMemoryView_FromObject((PyObject *)self); }

static int frame_getbuffer(Frame *self, Py_buffer *view, int flags) {
    return PyBuffer_FillInfo(view, (PyObject *)self, zmq_msg_data(&self->message),
                             (Py_ssize_t)zmq_msg_size(&self->message), 1, flags);
}

/* A property by its name, such as "Peer-Identity" or the same in bytes, or by its number, of which SRCFD alone is known. */
static PyObject *frame_get(Frame *self, PyObject *property) {
    if (PyLong_Check(property)) {
        int number = PyLong_AsLongAndOverflow(property, &(int){0}) == SRCFD ? SRCFD : -1;
        int value = zmq_msg_get(&self->message, number);
        return value < 0 ? raise_zmq_error(zmq_errno()) : PyLong_FromLong(value);
    }
    const char *name = PyBytes_Check(property) ? PyBytes_AsString(property) : PyUnicode_AsUTF8AndSize(property, NULL);
    const char *text = name ? zmq_msg_gets(&self->message, name) : NULL;
    if (!text) return name ? raise_zmq_error(zmq_errno()) : NULL;
    Py_ssize_t length = (Py_ssize_t)strlen(text), known = 0;
    const char *last = last_text ? PyUnicode_AsUTF8AndSize(last_text, &known) : NULL;
    if (!last || known != length || memcmp(last, text, (size_t)length)) {
        PyObject *decoded = PyUnicode_DecodeUTF8(text, length, "strict");
        if (!decoded) return NULL;
        Py_XDECREF(last_text);
        last_text = decoded;
    }
    return Py_NewRef(last_text);
}

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Tries to receive for a while without sleeping, which would take longer than a message that is about to come. Whatever
   else can run on this core does so between two tries: on a machine of two cores, libzmq's threads. */
static int receive_soon(zmq_msg_t *message, void *socket, long look_us) {
    long long until = now_ns() + look_us * 1000LL;
    int received;
    do {
        sched_yield();
        received = zmq_msg_recv(message, socket, DONTWAIT);
    } while (received < 0 && zmq_errno() == EAGAIN && now_ns() < until);
    return received;
}

/* The routing-id of the next message and the frame after it, as a pair; NULL without an error where there is none. */
static PyObject *next_message(void *socket, long flags, long look_us) {
    zmq_msg_t route;
    zmq_msg_init(&route);
    int received = zmq_msg_recv(&route, socket, DONTWAIT);
    if (received < 0 && zmq_errno() == EAGAIN && !(flags & DONTWAIT)) {
        Py_BEGIN_ALLOW_THREADS
        if (look_us <= 0 || ((received = receive_soon(&route, socket, look_us)) < 0 && zmq_errno() == EAGAIN))
            received = zmq_msg_recv(&route, socket, 0); /* for as long as ZMQ_RCVTIMEO says */
        Py_END_ALLOW_THREADS
    }
    if (received < 0) {
        int number = zmq_errno();
        zmq_msg_close(&route);
        return number == EAGAIN || number == EINTR ? NULL : raise_zmq_error(number);
    }
    zmq_msg_t content;
    zmq_msg_init(&content);
    while ((received = zmq_msg_recv(&content, socket, 0)) < 0 && zmq_errno() == EINTR)
        continue; /* it has arrived: left in the socket, it would be the next message's routing-id */
    int number = received < 0 ? zmq_errno() : 0;
    PyObject *routing_id = bytes_of(&route);
    Frame *frame = PyObject_New(Frame, frame_type);
    if (frame) {
        zmq_msg_init(&frame->message);
        zmq_msg_move(&frame->message, &content);
    }
    zmq_msg_close(&content);
    zmq_msg_close(&route);
    if (number) raise_zmq_error(number);
    PyObject *pair = PyErr_Occurred() ? NULL : PyTuple_Pack(2, routing_id, (PyObject *)frame);
    Py_XDECREF(routing_id);
    Py_XDECREF((PyObject *)frame);
    return pair;
}

static PyObject *receive(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 5) return PyErr_Format(PyExc_TypeError, "receive() takes 5 arguments, %zd were given", count);
    void *socket = PyLong_AsVoidPtr(arguments[0]);
    Py_ssize_t most = PyLong_AsSsize_t(arguments[1]), bytes = PyLong_AsSsize_t(arguments[2]);
    long flags = PyErr_Occurred() ? 0 : PyLong_AsLong(arguments[3]);
    long look_us = PyErr_Occurred() ? 0 : PyLong_AsLong(arguments[4]);
    PyObject *messages = PyErr_Occurred() ? NULL : PyList_New(0), *pair;
    while (messages && most-- > 0 && bytes > 0 && (pair = next_message(socket, flags, look_us))) {
        Frame *frame = (Frame *)PyTuple_GetItem(pair, 1);
        Py_ssize_t length = frame_length(frame);
        int last = zmq_msg_more(&frame->message) || (length && *(unsigned char *)zmq_msg_data(&frame->message) == SEPARATOR);
        last |= PyList_Append(messages, pair);
        Py_DECREF(pair);
        if (last) break;
        bytes -= length;
        flags = DONTWAIT;
    }
    if (PyErr_Occurred()) Py_CLEAR(messages);
    return messages;
}

/* Receives the rest of a message, which has arrived with its beginning, and drops it. Returns how many frames it had, and bytes. */
static PyObject *discard(PyObject *module, PyObject *argument) {
    void *socket = PyLong_AsVoidPtr(argument);
    if (PyErr_Occurred()) return NULL;
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    long frames = 0;
    long long size = 0;
    int more = 1, number = 0;
    Py_BEGIN_ALLOW_THREADS
    while (more && !number) {
        if (zmq_msg_recv(&frame, socket, 0) >= 0) {
            frames++;
            size += (long long)zmq_msg_size(&frame);
            more = zmq_msg_more(&frame);
        } else if (zmq_errno() != EINTR) {
            number = zmq_errno();
        }
    }
    zmq_msg_close(&frame);
    Py_END_ALLOW_THREADS
    return number ? raise_zmq_error(number) : Py_BuildValue("(lL)", frames, size);
}

/* The bytes of a connection's messages, and of all of its owner's, that libzmq holds. libzmq lets go of a message on
   any thread, without the GIL, as soon as it has encrypted it; the encrypted one is then what it is sending, until the
   next one follows. So each message counts until libzmq lets go of the next one. */
typedef struct Counter {
    atomic_llong bytes, last;
    atomic_int ended, references;
    struct Counter *owner;
} Counter;

typedef struct {
    PyObject_HEAD
    Counter *counter;
} Account;

typedef struct {
    Counter *counter;
    long long counted;
    char data[];
} Counted;
enum { BESIDE_CONTENT = 256 }; /* bytes that a message takes besides its content: its frames' places, and its route */

static void count(Counter *counter, long long more) {
    for (; counter; counter = counter->owner) atomic_fetch_add(&counter->bytes, more);
}

static void drop_counter(Counter *counter) {
    while (counter && atomic_fetch_sub(&counter->references, 1) == 1) {
        Counter *owner = counter->owner;
        free(counter);
        counter = owner;
    }
}

static void forget_last(Counter *counter) { count(counter, -atomic_exchange(&counter->last, 0)); }

static void let_go(void *data, void *hint) {
    Counted *content = hint;
    Counter *counter = content->counter;
    count(counter, -atomic_exchange(&counter->last, content->counted));
    if (atomic_load(&counter->ended)) forget_last(counter);
    drop_counter(counter);
    free(content);
}

static PyObject *account_new(PyTypeObject *type, PyObject *arguments, PyObject *unused) {
    PyObject *owner = NULL;
    if (!PyArg_ParseTuple(arguments, "|O!", account_type, &owner)) return NULL;
    Counter *counter = calloc(1, sizeof(Counter));
    Account *self = counter ? PyObject_New(Account, type) : NULL;
    if (!self) {
        free(counter);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    atomic_store(&counter->references, 1);
    if (owner && (counter->owner = ((Account *)owner)->counter)) atomic_fetch_add(&counter->owner->references, 1);
    self->counter = counter;
    return (PyObject *)self;
}

static void account_dealloc(Account *self) {
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    atomic_store(&self->counter->ended, 1); /* before: what libzmq lets go of meanwhile is not kept as the last one */
    forget_last(self->counter);
    drop_counter(self->counter);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *account_unsent(Account *self, void *unused) {
    return PyLong_FromLongLong(atomic_load(&self->counter->bytes));
}

static PyObject *account_of_owner(Account *self, void *unused) {
    Counter *owner = self->counter->owner ? self->counter->owner : self->counter;
    return PyLong_FromLongLong(atomic_load(&owner->bytes));
}

static PyObject *account_drained(Account *self, PyObject *unused) {
    forget_last(self->counter);
    return Py_NewRef(Py_None);
}

typedef struct {
    zmq_msg_t message;
    int begins, more; /* its place in its message: the first frame; not the last one */
} Outgoing;
enum { MOST_FRAMES = 128 }; /* of a call: AT_ONCE messages of 4 (messages.py) */

static int add_frame(Outgoing *frame, PyObject *bytes, int begins, int more) {
    char *data;
    Py_ssize_t length;
    if (!bytes || PyBytes_AsStringAndSize(bytes, &data, &length) < 0) return 0;
    if (zmq_msg_init_size(&frame->message, (size_t)length) < 0) return PyErr_NoMemory() != NULL;
    memcpy(zmq_msg_data(&frame->message), data, (size_t)length);
    frame->begins = begins;
    frame->more = more;
    return 1;
}

/* Adds the content of a message, which counts for an account, or for none where that is None. */
static int add_content(Outgoing *frame, PyObject *bytes, PyObject *account) {
    char *data;
    Py_ssize_t length;
    if (account == Py_None) return add_frame(frame, bytes, 0, 0);
    if (!account || !bytes || PyBytes_AsStringAndSize(bytes, &data, &length) < 0) return 0;
    if (!PyObject_TypeCheck(account, account_type)) {
        PyErr_SetString(PyExc_TypeError, "the third part of a message is no Account");
        return 0;
    }
    Counted *content = malloc(sizeof(Counted) + (size_t)length);
    if (!content) return PyErr_NoMemory() != NULL;
    content->counter = ((Account *)account)->counter;
    content->counted = length + BESIDE_CONTENT;
    memcpy(content->data, data, (size_t)length);
    if (zmq_msg_init_data(&frame->message, content->data, (size_t)length, let_go, content) < 0) {
        free(content);
        return PyErr_NoMemory() != NULL;
    }
    atomic_fetch_add(&content->counter->references, 1);
    count(content->counter, content->counted);
    frame->begins = frame->more = 0;
    return 1;
}

/* Adds the frames of a message, its route, its content, and its account: all of them, or none. Returns how many; 0 with
   an error. */
static int add_message(Outgoing *frames, int room, PyObject *message) {
    PyObject *route = message ? PyTuple_GetItem(message, 0) : NULL;
    PyObject *content = route ? PyTuple_GetItem(message, 1) : NULL;
    Py_ssize_t count = content ? PyList_Size(route) : -1;
    int added = 0;
    if (count < 1 || count >= room) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "a route of %zd frames; up to %d fit", count, room - 1);
        return 0;
    }
    while (added < count && add_frame(frames + added, PyList_GetItem(route, added), !added, 1)) added++;
    if (added == count && add_content(frames + added, content, PyTuple_GetItem(message, 2))) return added + 1;
    while (added) zmq_msg_close(&frames[--added].message);
    return 0;
}

/* Sends frames, and writes the error number of each message that libzmq did not take. Returns how many those are, or
   -1 where it took only a part of one: the next frame would go to that peer, so nothing more can be sent. */
static int send_frames(void *socket, Outgoing *frames, int count, int *errors) {
    int failed = 0;
    for (int place = 0; place < count; place++) {
        int flags = frames[place].more ? DONTWAIT | SNDMORE : DONTWAIT, sent;
        while ((sent = zmq_msg_send(&frames[place].message, socket, flags)) < 0 && zmq_errno() == EINTR)
            continue;
        if (sent >= 0) continue;
        errors[frames[place].begins ? failed : 0] = zmq_errno();
        if (!frames[place].begins) return -1;
        failed++;
        while (frames[place].more) place++;
    }
    return failed;
}

static PyObject *send(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    if (count != 2) return PyErr_Format(PyExc_TypeError, "send() takes 2 arguments, %zd were given", count);
    void *socket = PyLong_AsVoidPtr(arguments[0]);
    Py_ssize_t length = PyErr_Occurred() ? -1 : PyList_Size(arguments[1]);
    Outgoing frames[MOST_FRAMES];
    int errors[MOST_FRAMES], number = 0, failed = 0;
    for (Py_ssize_t place = 0; place < length && !PyErr_Occurred(); place++)
        number += add_message(frames + number, MOST_FRAMES - number, PyList_GetItem(arguments[1], place));
    if (!PyErr_Occurred()) {
        Py_BEGIN_ALLOW_THREADS
        failed = send_frames(socket, frames, number, errors);
        Py_END_ALLOW_THREADS
    }
    while (number) zmq_msg_close(&frames[--number].message);
    if (failed < 0) raise_zmq_error(errors[0]);
    PyObject *failures = PyErr_Occurred() ? NULL : PyList_New(0);
    for (int place = 0; failures && place < failed; place++) {
        PyObject *error = PyLong_FromLong(errors[place]);
        if (!error || PyList_Append(failures, error) < 0) Py_CLEAR(failures);
        Py_XDECREF(error);
    }
    return failures;
}

static PyGetSetDef properties[] = {
    {"bytes", (getter)frame_bytes, NULL, NULL, NULL},
    {"buffer", (getter)frame_buffer, NULL, NULL, NULL},
    {"more", (getter)frame_more, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef methods[] = {{"get", (PyCFunction)frame_get, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyType_Slot slots[] = {
    {Py_tp_dealloc, frame_dealloc}, {Py_tp_getset, properties}, {Py_tp_methods, methods},
    {Py_mp_length, frame_length}, {Py_bf_getbuffer, frame_getbuffer}, {0, NULL},
};
static PyType_Spec spec = {"twinhost.secure_zmq.framing._messages.Frame", sizeof(Frame), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
static PyGetSetDef account_properties[] = {
    {"unsent", (getter)account_unsent, NULL, NULL, NULL},
    {"of_owner", (getter)account_of_owner, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyMethodDef account_methods[] = {{"drained", (PyCFunction)account_drained, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyType_Slot account_slots[] = {
    {Py_tp_new, account_new}, {Py_tp_dealloc, account_dealloc},
    {Py_tp_getset, account_properties}, {Py_tp_methods, account_methods}, {0, NULL},
};
static PyType_Spec account_spec = {"twinhost.secure_zmq.framing._messages.Account", sizeof(Account), 0,
                                   Py_TPFLAGS_DEFAULT, account_slots};
static PyMethodDef functions[] = {
    {"receive", (PyCFunction)(void (*)(void))receive, METH_FASTCALL, NULL},
    {"discard", (PyCFunction)discard, METH_O, NULL},
    {"send", (PyCFunction)(void (*)(void))send, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_messages", NULL, -1, functions, NULL, NULL, NULL, NULL};

static const struct {
    const char *name;
    void **function;
} LIBZMQ[] = {
    {"zmq_msg_init", (void **)&zmq_msg_init}, {"zmq_msg_close", (void **)&zmq_msg_close},
    {"zmq_msg_send", (void **)&zmq_msg_send}, {"zmq_msg_init_size", (void **)&zmq_msg_init_size},
    {"zmq_msg_move", (void **)&zmq_msg_move}, {"zmq_errno", (void **)&zmq_errno},
    {"zmq_msg_init_data", (void **)&zmq_msg_init_data},
    {"zmq_msg_recv", (void **)&zmq_msg_recv}, {"zmq_msg_more", (void **)&zmq_msg_more},
    {"zmq_msg_get", (void **)&zmq_msg_get},   {"zmq_msg_size", (void **)&zmq_msg_size},
    {"zmq_msg_data", (void **)&zmq_msg_data}, {"zmq_msg_gets", (void **)&zmq_msg_gets},
};

/* The libzmq that pyzmq's sockets are of, through pyzmq's own module; NULL with an error where it is not found. */
static void *pyzmqs_library(void) {
    PyObject *pyzmq = PyImport_ImportModule("zmq.backend.cython._zmq");
    PyObject *path = pyzmq ? PyObject_GetAttrString(pyzmq, "__file__") : NULL;
    const char *text = path ? PyUnicode_AsUTF8AndSize(path, NULL) : NULL;
    void *library = text ? dlopen(text, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    Py_XDECREF(path);
    Py_XDECREF(pyzmq);
    for (size_t place = 0; library && place < sizeof(LIBZMQ) / sizeof(*LIBZMQ); place++)
        if (!(*LIBZMQ[place].function = dlsym(library, LIBZMQ[place].name))) library = NULL;
    if (!library) PyErr_SetString(PyExc_ImportError, "pyzmq has loaded no libzmq with the functions that are used here");
    return library;
}

PyMODINIT_FUNC PyInit__messages(void) {
    if (!pyzmqs_library()) return NULL;
    frame_type = (PyTypeObject *)PyType_FromSpec(&spec);
    account_type = frame_type ? (PyTypeObject *)PyType_FromSpec(&account_spec) : NULL;
    PyObject *module = account_type ? PyModule_Create(&definition) : NULL;
    if (module && PyModule_AddObjectRef(module, "Account", (PyObject *)account_type) < 0) Py_CLEAR(module);
    return module;
}
