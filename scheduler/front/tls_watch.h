/* Looks every minute whether the files of a listener's certificate were replaced, and shows the new ones then; what
 * cannot be used is told in the log, again each minute, and the old ones stay. Looking and reading happen on a thread
 * of its own. The rest is the loop's. */
#ifndef SCHEDULER_FRONT_TLS_WATCH_H
#define SCHEDULER_FRONT_TLS_WATCH_H

#include <event2/event.h>

#include "base/log.h"
#include "base/tls_door.h"

#define TLS_WATCH_MS 60000

struct tls_watch_options { /* all borrowed */
    struct event_base *loop;
    struct tls_door *door;
    const struct log *log;
    const char *name; /* of the listener, for the log */
    int64_t every_ms; /* 0: TLS_WATCH_MS */
};
struct tls_watch;
enum rc tls_watch_new(struct tls_watch **w, const struct tls_watch_options *o, struct error *e) SPW_MUST_USE;
void tls_watch_free(struct tls_watch *w); /* waits for a look that is under way; NULL is fine */

#endif
