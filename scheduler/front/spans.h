/* Traces of requests: what a client's traceparent says is passed on to nodes; requests that are recorded become a span
 * of ours and one per leg, which go to the collector of tracing.endpoint. scheduler/observe has the parts.
 *
 *     spans_begin() -> spans_headers() per leg -> spans_leg() as it ends -> spans_end() when the request is settled
 *
 * A request that is not recorded costs two calls that touch no memory but its own. A collector that is slow or dead
 * costs spans. What a known caller is refused before it becomes a request (beyond a limit, malformed, no such model)
 * has one span that says why. Strangers have none, lest they crowd out those of others; they are counted in the
 * metrics. On the request's own loop. */
#ifndef SCHEDULER_FRONT_SPANS_H
#define SCHEDULER_FRONT_SPANS_H

#include <event2/event.h>

#include "base/log.h"
#include "scheduler/config/config.h"
#include "scheduler/observe/otlp.h"

struct api_error; /* scheduler/wire/errors.h */
struct request;

struct spans;          /* of one loop */
struct spans_options { /* all borrowed */
    const struct config *config;
    struct event_base *loop;
    const struct clock *clock;
    const struct log *log;
};
enum rc spans_new(struct spans **s, const struct spans_options *o, struct error *e) SPW_MUST_USE;
void spans_free(struct spans *s); /* NULL is fine */
/* Send what there is; done(arg) on the loop when that has been tried, at most a few seconds later. False: there is
 * nothing to send, and done is not called. */
bool spans_flush(struct spans *s, void (*done)(void *arg), void *arg);
/* Add one loop's figures; false: no collector is configured. Any thread. */
bool spans_figures_add(struct otlp_stats *sum, const struct spans *s);

/* A client's head belongs to r, if it has one. */
void spans_begin(struct request *r);
/* For the log: the id of r's trace in hex, or NULL: nobody outside knows of it. Returns buf. */
#define SPANS_TRACE_ID_BYTES 33
const char *spans_trace_id(const struct request *r, char buf[SPANS_TRACE_ID_BYTES]);
/* What the leg that is about to start tells its node. Returns how many of at most SPANS_HEADERS_MAX. */
#define SPANS_HEADERS_MAX 2
struct spans_texts {
    char parent[TRACE_PARENT_SIZE];
};
int spans_headers(struct request *r, struct spans_texts *t, struct http_header *headers);
/* The newest of r->legs has ended. One that ended well is told by spans_end(), when its figures are settled. */
void spans_leg(struct request *r);
void spans_end(struct request *r);     /* settled */
void spans_refused(struct request *r); /* r->error: no node ever had it */
/* The same of what has not become a request. */
struct spans_refusal {
    const struct http_head *head;
    struct wall began;
    const char *id, *method, *route, *tenant;
    const struct api_error *error;
};
void spans_turned_away(struct spans *s, const struct spans_refusal *r);

#endif
