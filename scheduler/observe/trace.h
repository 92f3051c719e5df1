/* W3C trace context (Trace Context Level 1, with the random flag of Level 2): what a client sent is read strictly, ids
 * are made, and what a node is told is written. Whether a trace is recorded is decided once per request, here.
 *
 * Life: tracer_init() once per loop -> trace_begin() per request -> tracer_span_id() and trace_outgoing() per leg. What
 * is recorded is filled into spans (span.h) and exported (otlp.h).
 *
 * A span that is not recorded never shows up in what is passed on: a node's spans then hang on the client's span as if
 * we were not there, not on one that nobody will ever see. Ids are correlation, never authority: nothing may be allowed
 * or charged because of one. Loop thread; no I/O, no clock. */
#ifndef SCHEDULER_OBSERVE_TRACE_H
#define SCHEDULER_OBSERVE_TRACE_H

#include <stdint.h>

#include "base/http_parse.h"

#define TRACE_PARENT_SIZE 56 /* "00-" 32 "-" 16 "-" 2 and NUL */
#define TRACE_STATE_MAX   512
#define TRACE_STATE_LIST  32

enum { TRACE_SAMPLED = 1, TRACE_RANDOM = 2 }; /* trace flags; all others are written as 0 */

struct trace_id {
    uint8_t b[16];
};
struct span_id {
    uint8_t b[8];
};

enum trace_mode {
    TRACE_OFF,    /* nothing is recorded; what clients send is passed on */
    TRACE_RATIO,  /* the ratio decides, whatever the client's flag says: for clients that are not trusted with it */
    TRACE_PARENT, /* the client's sampled flag decides where there is one, else the ratio */
};

/* Where ids come from: SipHash-2-4 under a secret key over a counter. No system call per request, no two tracers with
 * one key, and from one id nobody can tell the next. */
struct tracer {
    uint64_t key[2], counter;
    uint64_t threshold; /* recorded when the id's last 56 bits are below it */
    enum trace_mode mode;
};
/* seed: 16 bytes from the system's generator, fresh for every tracer (tests give fixed ones). ratio: 0 to 1. */
void tracer_init(struct tracer *t, const uint8_t seed[16], enum trace_mode mode, double ratio);
struct span_id tracer_span_id(struct tracer *t); /* never all zero */

/* The trace of one request. Plain data. */
struct trace {
    struct trace_id id;    /* all zero: no trace (TRACE_OFF and nothing sent) */
    struct span_id span;   /* our own: the request at this server */
    struct span_id parent; /* the client's; all zero: none */
    uint8_t flags;         /* ours */
    uint8_t parent_flags;
    char state[TRACE_STATE_MAX + 1]; /* tracestate to pass on, "" for none */
};
/* head NULL: nothing was sent. A traceparent that is malformed or sent twice counts as none, and then tracestate is not
 * looked at; a malformed tracestate is dropped alone. */
void trace_begin(struct tracer *t, const struct http_head *head, struct trace *out);
static inline bool trace_recorded(const struct trace *t)
{
    return t->flags & TRACE_SAMPLED;
}
bool trace_has_parent(const struct trace *t);

/* The traceparent for a node whose leg has span id `leg`. false: send neither header. buf: TRACE_PARENT_SIZE. */
bool trace_outgoing(const struct trace *t, struct span_id leg, char *buf);

/* The parts, for tests and the fuzzer. text need not end in NUL. */
struct trace_parent {
    struct trace_id id;
    struct span_id span;
    uint8_t flags; /* known ones */
};
/* RC_INVALID: restart the trace. Versions above 00 are read as far as 00 goes, as the specification wants. */
enum rc trace_parent_parse(const char *text, size_t n, struct trace_parent *p) SPW_MUST_USE;
/* Add one header's list to state (at most TRACE_STATE_MAX bytes and TRACE_STATE_LIST members, whole members only; where
 * all of them do not fit, those over 128 bytes go first). RC_INVALID: a member is malformed; state is "" then. */
enum rc trace_state_add(char *state, const char *list, size_t n) SPW_MUST_USE;

/* Lower-case hex and NUL. Return out: at least 33 and 17 bytes. */
char *trace_id_text(struct trace_id id, char *out);
char *span_id_text(struct span_id id, char *out);

#endif
