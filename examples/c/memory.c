/* A client of both agents in C, with CZMQ and json-c: it registers, stores a memory, and searches.
 *
 *   memory KEYS MAINPC PC2 TEXT QUERY
 *
 * KEYS is the folder of this program's key, MAINPC and PC2 are the agents' endpoints, such as tcp://127.0.0.1:7120.
 * Each reply is printed as a line of JSON. Exit status 1: an error reply, or none. The wire: docs/reference/wire-protocol.md.
 */
#include <czmq.h>
#include <glob.h>
#include <json-c/json.h>
#include <stdnoreturn.h>

enum { TRY_MS = 1000, TRIES = 5 };

static void complain(const char *what, const char *why)
{
    fprintf(stderr, "memory: %s: %s\n", what, why);
}

static noreturn void fail(const char *what, const char *why)
{
    complain(what, why);
    exit(1);
}

/* The only NAME.key_secret of a folder; a NAME.next.key_secret belongs to a rotation. zcert_load appends "_secret". */
static zcert_t *own_key(const char *folder)
{
    char *pattern = zsys_sprintf("%s/*.key_secret", folder);
    glob_t found = {0};
    zcert_t *own = NULL;
    glob(pattern, 0, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc && own == NULL; i++) {
        char *path = found.gl_pathv[i];
        if (strstr(path, ".next.key_secret") == NULL) {
            path[strlen(path) - strlen("_secret")] = '\0';
            own = zcert_load(path);
        }
    }
    globfree(&found);
    zstr_free(&pattern);
    if (own == NULL)
        fail(folder, "it holds no secret key that can be read");
    return own;
}

/* A connection that only the holder of FOLDER/STEM.key can serve. */
static zsock_t *connect_to(const char *endpoint, zcert_t *own, const char *folder, const char *stem)
{
    char *path = zsys_sprintf("%s/%s.key", folder, stem);
    zcert_t *server = zcert_load(path);
    if (server == NULL)
        fail(path, "it can't be read");
    zsock_t *agent = zsock_new(ZMQ_DEALER);
    zcert_apply(own, agent);
    zsock_set_curve_serverkey(agent, zcert_public_txt(server));
    zsock_set_heartbeat_ivl(agent, 5000);
    zsock_set_heartbeat_timeout(agent, 10000);
    zsock_set_heartbeat_ttl(agent, 20000);
    zsock_set_tcp_maxrt(agent, 10000);
    zsock_set_rcvtimeo(agent, TRY_MS);
    zsock_set_linger(agent, 0);
    if (zsock_connect(agent, "%s", endpoint) != 0)
        fail(endpoint, "it is no endpoint");
    zcert_destroy(&server);
    zstr_free(&path);
    return agent;
}

static const char *text_of(json_object *object, const char *name)
{
    json_object *member = NULL;
    return json_object_object_get_ex(object, name, &member) ? json_object_get_string(member) : "";
}

/* Send a request until its reply comes, always the same bytes: the agent executes it once. Whether it succeeded. */
static bool call(zsock_t *agent, json_object *request)
{
    zuuid_t *id = zuuid_new();
    json_object_object_add(request, "request_id", json_object_new_string(zuuid_str(id)));
    const char *bytes = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
    json_object *reply = NULL;
    for (int attempt = 0; attempt < TRIES && reply == NULL; attempt++) {
        zstr_send(agent, bytes);
        for (char *frame; reply == NULL && (frame = zstr_recv(agent)) != NULL; zstr_free(&frame)) {
            reply = json_tokener_parse(frame);
            if (!streq(text_of(reply, "request_id"), zuuid_str(id))) { /* of an earlier attempt */
                json_object_put(reply);
                reply = NULL;
            }
        }
    }
    bool succeeded = reply != NULL && !streq(text_of(reply, "status"), "error");
    if (succeeded)
        puts(json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN));
    else if (reply != NULL)
        complain(text_of(reply, "code"), text_of(reply, "error"));
    else
        complain(text_of(request, "action"), "no reply; is the address right, is the agent running, is the key authorised?");
    zuuid_destroy(&id);
    json_object_put(reply);
    json_object_put(request);
    return succeeded;
}

static json_object *request_for(const char *action, const char *field, const char *value)
{
    json_object *request = json_object_new_object();
    json_object_object_add(request, "action", json_object_new_string(action));
    json_object_object_add(request, field, json_object_new_string(value));
    return request;
}

int main(int argc, char *argv[])
{
    if (argc != 6) {
        fprintf(stderr, "usage: memory KEYS MAINPC PC2 TEXT QUERY\n");
        return 2;
    }
    zsys_handler_set(NULL); /* Ctrl-C ends the program */
    zcert_t *own = own_key(argv[1]);
    zsock_t *mainpc = connect_to(argv[2], own, argv[1], "server");
    zsock_t *pc2 = connect_to(argv[3], own, argv[1], "client");
    json_object *registration = request_for("register_agent", "agent_name", zcert_meta(own, "name"));
    json_object_object_add(registration, "status", json_object_new_string("HEALTHY"));
    bool succeeded = call(mainpc, registration) && call(pc2, request_for("store_memory", "content", argv[4]))
                     && call(pc2, request_for("search_memory", "query", argv[5]));
    zsock_destroy(&mainpc);
    zsock_destroy(&pc2);
    zcert_destroy(&own);
    return succeeded ? 0 : 1;
}
