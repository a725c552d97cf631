/* Pings an agent through czmq, with key files as certs-init writes them.
 *
 *   czmq_ping ENDPOINT OWN.key SERVER.key
 *
 * zcert_load reads OWN.key_secret beside OWN.key. Prints the reply; exit status 1 where there is none within 2 s.
 */
#include <czmq.h>

#define DEADLINE_MS 2000

int main(int argc, char *argv[])
{
    if (argc != 4) {
        fprintf(stderr, "usage: czmq_ping ENDPOINT OWN.key SERVER.key\n");
        return 2;
    }
    zsys_handler_set(NULL);
    zcert_t *own = zcert_load(argv[2]);
    zcert_t *server = zcert_load(argv[3]);
    if (own == NULL || server == NULL) {
        fprintf(stderr, "czmq_ping: %s can't be read\n", own == NULL ? argv[2] : argv[3]);
        return 2;
    }
    zsock_t *dealer = zsock_new(ZMQ_DEALER);
    zcert_apply(own, dealer);
    zsock_set_curve_serverkey(dealer, zcert_public_txt(server));
    zsock_set_rcvtimeo(dealer, DEADLINE_MS);
    zsock_set_linger(dealer, 0);
    int status = 1;
    if (zsock_connect(dealer, "%s", argv[1]) == 0 && zstr_send(dealer, "{\"action\": \"ping\"}") == 0) {
        char *reply = zstr_recv(dealer);
        if (reply != NULL) {
            printf("%s on %s: %s\n", zcert_meta(own, "name"), zcert_meta(own, "host"), reply);
            zstr_free(&reply);
            status = 0;
        }
    }
    zsock_destroy(&dealer);
    zcert_destroy(&server);
    zcert_destroy(&own);
    return status;
}
