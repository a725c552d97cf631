/* CURVE on libzmq alone: the yardstick's two servers, and a load client that is no bottleneck for a server in Python.
 *
 *   libzmq_curve serve rep|router ENDPOINT SERVER_SECRET REPLY
 *   libzmq_curve load req|dealer ENDPOINT SERVER_KEY PUBLIC SECRET CLIENTS IN_FLIGHT SECONDS PREFIX SUFFIX
 *
 * Every request is PREFIX, an id of 32 characters that no other one has, SUFFIX. A reply with "status":"error" is
 * counted as a failure. The load prints one line of JSON: calls, failures, seconds, and the median of a call in
 * microseconds (which is that of the wait in the queue as well, where several are in flight). Keys are in Z85, and made
 * for one run.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#define ID_CHARACTERS 32
#define MAX_CLIENTS 64
#define MAX_SAMPLES (1 << 22)
#define MAX_MESSAGE (4 << 20)
#define ANSWER_WITHIN_MS 20000
#define WARM_UP_S 0.2
#define QUEUE 1024 /* moments of sending that are remembered for a client: more than may be in flight */

static char buffer[MAX_MESSAGE];

static double now(void)
{
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return (double) moment.tv_sec + 1e-9 * (double) moment.tv_nsec;
}

static void check(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "libzmq_curve: %s failed: %s\n", what, zmq_strerror(zmq_errno()));
        exit(1);
    }
}

static int receive(void *socket, int flags)
{
    int size = zmq_recv(socket, buffer, sizeof buffer, flags);
    return size > MAX_MESSAGE ? MAX_MESSAGE : size;
}

static int serve(void *context, char *argv[])
{
    int as_server = 1, is_router = strcmp(argv[2], "router") == 0;
    const char *reply = argv[5];
    size_t size = strlen(reply);
    void *socket = zmq_socket(context, is_router ? ZMQ_ROUTER : ZMQ_REP);
    check(zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &as_server, sizeof as_server) == 0, "ZMQ_CURVE_SERVER");
    check(zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, argv[4], 40) == 0, "ZMQ_CURVE_SECRETKEY");
    check(zmq_bind(socket, argv[3]) == 0, "zmq_bind");
    for (;;) {
        char route[256];
        int route_size = 0;
        if (is_router)
            check((route_size = zmq_recv(socket, route, sizeof route, 0)) >= 0, "zmq_recv");
        check(receive(socket, 0) >= 0, "zmq_recv");
        if (is_router)
            check(zmq_send(socket, route, (size_t) route_size, ZMQ_SNDMORE) >= 0, "zmq_send");
        check(zmq_send(socket, reply, size, 0) >= 0, "zmq_send");
    }
    return 0;
}

struct client {
    void *socket;
    double sent_at[QUEUE];
    unsigned first, last;
};

static uint64_t seed, serial;
static const char *prefix, *suffix;
static float *samples;
static long calls, failures;

static void send_one(struct client *client)
{
    char message[8192];
    int size = snprintf(message, sizeof message, "%s%016llx%016llx%s", prefix, (unsigned long long) seed,
                        (unsigned long long) serial++, suffix);
    client->sent_at[client->last++ % QUEUE] = now();
    check(size < (int) sizeof message && zmq_send(client->socket, message, (size_t) size, 0) >= 0, "zmq_send");
}

/* Replies are counted in their order: a server that answers one client out of order changes the median, not the rate. */
static int take_one(struct client *client, int flags, int measured)
{
    int size = receive(client->socket, flags);
    if (size < 0) {
        check(flags == ZMQ_DONTWAIT && zmq_errno() == EAGAIN, "zmq_recv");
        return 0;
    }
    double took = now() - client->sent_at[client->first++ % QUEUE];
    if (memmem(buffer, (size_t) size, "\"status\":\"error\"", 16) != NULL) {
        if (failures++ == 0)
            fprintf(stderr, "libzmq_curve: %.*s\n", size, buffer);
    }
    if (measured && calls < MAX_SAMPLES)
        samples[calls] = (float) took;
    calls += measured;
    return 1;
}

static void turn_until(struct client *clients, zmq_pollitem_t *items, int count, double until, int measured)
{
    while (now() < until) {
        if (count == 1) {
            check(take_one(&clients[0], 0, measured), "waiting for a reply");
            send_one(&clients[0]);
            continue;
        }
        check(zmq_poll(items, count, ANSWER_WITHIN_MS) > 0, "zmq_poll");
        for (int each = 0; each < count; each++)
            while ((items[each].revents & ZMQ_POLLIN) && take_one(&clients[each], ZMQ_DONTWAIT, measured))
                send_one(&clients[each]);
    }
}

static int by_size(const void *left, const void *right)
{
    float a = *(const float *) left, b = *(const float *) right;
    return (a > b) - (a < b);
}

static int load(void *context, char *argv[])
{
    static struct client clients[MAX_CLIENTS];
    zmq_pollitem_t items[MAX_CLIENTS];
    int type = strcmp(argv[2], "req") == 0 ? ZMQ_REQ : ZMQ_DEALER, patience = ANSWER_WITHIN_MS, at_once = 0;
    int count = atoi(argv[7]), in_flight = atoi(argv[8]);
    double seconds = atof(argv[9]);
    prefix = argv[10], suffix = argv[11];
    seed = (uint64_t) (now() * 1e9) ^ ((uint64_t) getpid() << 40);
    samples = malloc(sizeof(float) * MAX_SAMPLES);
    check(samples != NULL && count <= MAX_CLIENTS && in_flight < QUEUE, "malloc");
    for (int each = 0; each < count; each++) {
        void *socket = clients[each].socket = zmq_socket(context, type);
        zmq_setsockopt(socket, ZMQ_LINGER, &at_once, sizeof at_once);
        zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof patience);
        check(zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, argv[4], 40) == 0, "ZMQ_CURVE_SERVERKEY");
        check(zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, argv[5], 40) == 0, "ZMQ_CURVE_PUBLICKEY");
        check(zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, argv[6], 40) == 0, "ZMQ_CURVE_SECRETKEY");
        check(zmq_connect(socket, argv[3]) == 0, "zmq_connect");
        items[each] = (zmq_pollitem_t) {.socket = socket, .events = ZMQ_POLLIN};
        for (int sent = 0; sent < in_flight; sent++)
            send_one(&clients[each]);
    }
    turn_until(clients, items, count, now() + WARM_UP_S, 0);
    double began = now();
    turn_until(clients, items, count, began + seconds, 1);
    double took = now() - began;
    long kept = calls < MAX_SAMPLES ? calls : MAX_SAMPLES;
    qsort(samples, (size_t) kept, sizeof(float), by_size);
    printf("{\"calls\": %ld, \"failures\": %ld, \"seconds\": %.6f, \"p50_us\": %.2f}\n", calls, failures, took,
           kept ? 1e6 * samples[kept / 2] : 0.0);
    for (int each = 0; each < count; each++)
        zmq_close(clients[each].socket);
    return 0;
}

int main(int argc, char *argv[])
{
    void *context = zmq_ctx_new();
    if (argc == 6 && strcmp(argv[1], "serve") == 0)
        return serve(context, argv);
    if (argc == 12 && strcmp(argv[1], "load") == 0) {
        int status = load(context, argv);
        zmq_ctx_term(context);
        return status;
    }
    fprintf(stderr, "usage: libzmq_curve serve|load ... (see the head of its source)\n");
    return 2;
}
