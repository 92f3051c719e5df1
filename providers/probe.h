/* Is a host up? One TCP connection: taken or refused, its system is there; silence, or nobody on the way who knows it,
 * and it is not. Names are resolved without blocking. Loop thread. */
#ifndef PROVIDERS_PROBE_H
#define PROVIDERS_PROBE_H

#include <event2/event.h>

#include "base/error.h"

enum probe_word { PROBE_SILENT, PROBE_REFUSED, PROBE_TAKEN };
struct probe;
/* word, and why it is silent; exactly once, not from inside the call, not after probe_stop(). Freed with that. */
typedef void probe_cb(enum probe_word word, const char *why, void *arg);
struct probe *probe_start(struct event_base *loop, const char *host, int port, int64_t ms, probe_cb *cb, void *arg);
void probe_stop(struct probe *p); /* NULL is fine */

#endif
