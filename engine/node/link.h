/* The worker's end of the channel to its supervisor (supervisor.h): does what it is told with the server of this
 * process, and tells what happens there. Loop thread. */
#ifndef ENGINE_NODE_LINK_H
#define ENGINE_NODE_LINK_H

#include "base/log.h"
#include "engine/serve/server.h"

struct link_options {
    const char *model_id;
    int32_t n_slots;
    struct tls_door *tls; /* NULL: plain; borrowed; read again when the supervisor says so */
    const struct log *log;
    /* The end was ordered, or the supervisor is gone. */
    void (*end)(void *arg);
    void *arg;
};

struct link;
/* fd becomes the link's. */
enum rc link_new(struct link **l, struct event_base *loop, int fd, const struct link_options *o,
                 struct error *e) SPW_MUST_USE;
void link_free(struct link *l); /* before the server; NULL is fine */
/* For server_options.supervisor. */
const struct server_supervisor *link_supervisor(struct link *l);
/* The server, once it is there: it is told to leave the listener alone until the supervisor says otherwise. */
void link_serve(struct link *l, struct server *s);
/* It could not be loaded: the supervisor hears why. */
void link_failed(struct link *l, const struct error *e);

#endif
