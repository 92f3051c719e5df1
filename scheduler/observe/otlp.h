/* Finished spans to an OpenTelemetry collector: OTLP/HTTP 1.x with JSON bodies, POST {endpoint}/v1/traces.
 *
 * Life of a span: otlp_submit() writes it into the open batch at once (the caller's struct is free again) -> the batch
 * closes when it is full, long enough or delay_ms old -> it waits its turn -> one POST at a time -> gone, or tried
 * again. Answers 429, 502, 503, 504 and a collector that cannot be reached are tried again with exponential back-off
 * and jitter, and not before the time that the collector's Retry-After asks for (up to five minutes), at most tries_max
 * times; every other answer ends the batch, as the specification demands.
 *
 * Bounds: queue_max spans in all batches together, the one under way included; OTLP_BATCH_BYTES of text per batch. A
 * span that finds no place is dropped and counted: the collector's troubles never become the requests'. Texts of the
 * log say when the collector stops and starts to answer, once each.
 *
 * Loop thread; nothing blocks after otlp_new(), which reads the file with headers. */
#ifndef SCHEDULER_OBSERVE_OTLP_H
#define SCHEDULER_OBSERVE_OTLP_H

#include <event2/event.h>

#include "base/fetch.h"
#include "base/log.h"
#include "scheduler/observe/span.h"

#define OTLP_BATCH_BYTES ((size_t)256 * 1024)
#define OTLP_HEADERS_MAX 8

struct otlp;

struct otlp_options {
    struct event_base *loop;   /* these four: borrowed, outlive the exporter */
    struct fetcher *fetcher;   /* */
    const struct clock *clock; /* */
    const struct log *log;     /* NULL: silent */
    const char *endpoint;      /* "http://127.0.0.1:4318"; copied */
    const char *headers_file;  /* lines "Name: value", sent with every batch (a token); NULL: none */
    const char *ca_file;       /* NULL: the system's; copied */
    const char *service_name;  /* NULL: "spillway" */
    const char *instance_id;   /* service.instance.id; NULL: left out */
    const char *environment;   /* deployment.environment.name; NULL: left out */
    int queue_max;             /* spans; 0: 2048 */
    int batch_max;             /* spans; 0: 256 */
    int64_t delay_ms;          /* of the oldest span in an open batch; 0: 2 s */
    int64_t timeout_ms;        /* of one POST; 0: 10 s */
    int tries_max;             /* per batch; 0: 5 */
    int64_t backoff_ms;        /* first wait, doubled per failure in a row; 0: 1 s */
    int64_t backoff_ms_max;    /* 0: 30 s */
};

/* RC_INVALID: an endpoint or a line of headers_file that cannot be used; RC_IO, RC_NOT_FOUND: the file. */
enum rc otlp_new(struct otlp **out, const struct otlp_options *o, struct error *e) SPW_MUST_USE;
/* Drops what is left and says how much. NULL is fine. */
void otlp_free(struct otlp *o);

/* s: finished, with start and end set. Copied. */
void otlp_submit(struct otlp *o, const struct trace_span *s);

/* Send what there is now. `done` once, on the loop, when nothing is left or ms have passed: for the end of the program.
 * Not twice. */
void otlp_flush(struct otlp *o, int64_t ms, void (*done)(void *arg), void *arg);

struct otlp_stats {
    uint64_t submitted; /* = exported + rejected + dropped_full + dropped_failed + queued */
    uint64_t exported;
    uint64_t rejected;       /* by the collector in an answer of 200 */
    uint64_t dropped_full;   /* no place */
    uint64_t dropped_failed; /* in batches that were refused or given up */
    uint64_t batches, retries;
    int queued;
};
struct otlp_stats otlp_stats(const struct otlp *o); /* any thread */

/* One span as a JSON object of the OTLP schema. RC_FULL at the buffer's bound. */
enum rc otlp_write_span(struct strbuf *out, const struct trace_span *s) SPW_MUST_USE;

#endif
