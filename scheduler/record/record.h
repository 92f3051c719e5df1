/* A run of routing, written down: every event that a router was told (policies/router_event.h) and every decision with
 * its terms, one JSON object per line, so that the run can be replayed, under the same rules or under others.
 *
 *     {"event":"begin","format":1,...}       a router that knows nothing; a file may hold several runs, one after the other
 *     {"event":"node","id":2,"name":"gpu1"}  from here on that is who node 2 is; "model" alike
 *     {"event":"put",...} ... "ended"        what the router was told
 *     {"event":"listed"} {"event":"chose"}   what it was asked, and what came of it
 *     {"event":"end","why":...}              the recording ended, and why; it has no holes before that
 *
 * Members that are 0, false or empty are left out. Numbers are exact: what is read is what was written, to the last
 * bit. There is no text of anybody's prompt in it, but request ids, the names of nodes and models, prices and token
 * counts.
 *
 * One table per struct (record_tables.c) writes, reads and compares it. Pure; recorder.h writes files. */
#ifndef SCHEDULER_RECORD_RECORD_H
#define SCHEDULER_RECORD_RECORD_H

#include "base/json_write.h"
#include "policies/router_event.h"

#define RECORD_FORMAT         1
#define RECORD_LINE_MAX       ((size_t)256 << 10) /* of text */
#define RECORD_CANDIDATES_MAX ROUTE_CANDIDATES_MAX
#define RECORD_ID_BYTES       32
#define RECORD_NAME_BYTES     128
#define RECORD_WHY_BYTES      128

enum record_kind { /* below: enum router_event_kind */
                   RECORD_BEGIN = ROUTER_KINDS,
                   RECORD_NODE,
                   RECORD_MODEL,
                   RECORD_END,
                   RECORD_KINDS
};

struct record_begin {
    int32_t format, nodes, pairs;
    double probability;             /* of struct router_size */
    int64_t wall_us;                /* Unix time */
    char version[RECORD_WHY_BYTES]; /* of the program that wrote it */
};
struct record_named {
    int32_t id;
    char name[RECORD_NAME_BYTES];
};
struct record_facts {
    struct router_facts f; /* its curve is NULL: */
    struct node_curve curve;
    bool has_curve;
};
struct record_sent {
    struct router_work work;
    struct router_leg leg;
};
struct record_who {                /* whom a decision is about: nothing of it decides */
    char id[RECORD_ID_BYTES];      /* of the request; a longer one is cut */
    char asked[RECORD_NAME_BYTES]; /* the model that it asked for */
    double probability;            /* that the configuration asks of it */
    bool interactive;
};
struct record_choice {
    struct record_who who;
    int32_t model;
    struct route_request q;
    int64_t held;
    int32_t n_holders, n_skip, n; /* n: candidates, or for LISTED nodes */
    struct router_holder holders[SHORTLIST_HINTS_MAX];
    int32_t skip[SHORTLIST_SKIP_MAX];
    bool listed; /* the candidates came from the index; else all were looked at */
    int32_t chosen;
    bool may_wait, busy, model_known, too_late;
    int64_t back_us;
};
struct record_candidate {
    int32_t node;
    enum route_reason reason;
    struct route_candidate c;
    struct route_terms t;
};
struct record_end {
    char why[RECORD_WHY_BYTES];
};
struct record_event {
    enum record_kind kind;
    int32_t node;  /* PUT to STATE, SENT */
    int64_t at_us; /* since the run began */
    union {
        struct record_begin begin;
        struct record_named named; /* NODE, MODEL */
        struct record_facts facts;
        int32_t other;
        struct router_state state;
        struct router_event_tariff tariff;
        struct router_event_growing growing;
        struct record_sent sent;
        struct router_event_heard heard;
        struct record_choice choice;
        struct record_end end;
    } u;
};
const char *record_kind_name(enum record_kind k);
/* How many bytes of e are in use: what follows is of no member that its kind has. */
size_t record_event_bytes(enum record_kind k);

/* From what a tap hears; *who is of the decisions. c: room for RECORD_CANDIDATES_MAX. */
void record_take(const struct router_event *from, const struct record_who *who, struct record_event *e,
                 struct record_candidate *c);
/* And back: all but LISTED and CHOSE, for router_apply(). *out borrows from e. */
void record_give(const struct record_event *e, struct router_event *out);
/* The question of LISTED and CHOSE. *out borrows from c. */
void record_ask(const struct record_choice *c, struct router_ask *out);

/* One line, with its newline. RC_FULL: the buffer's bound. */
enum rc record_write(struct strbuf *out, const struct record_event *e, const struct record_candidate *c) SPW_MUST_USE;
/* text[n] is NUL. RC_INVALID: *err says which member is wrong and what would be right. Numbers are within what a router
 * takes for itself; whether node and leg are there is for the reader to know. */
enum rc record_read(const char *text, size_t n, struct record_event *e,
                    struct record_candidate c[RECORD_CANDIDATES_MAX], struct error *err) SPW_MUST_USE;

/* ---- comparing: bit by bit ---------------------------------------------------------------------------------------- */

#define RECORD_DIFFERENCE_BYTES 160
/* The first member that differs, as "ttft_median_us is 12.5, was 12"; false: none does. */
bool record_candidates_differ(const struct record_candidate *was, const struct record_candidate *is,
                              char text[RECORD_DIFFERENCE_BYTES]);
bool record_choices_differ(const struct record_choice *was, const struct record_choice *is,
                           char text[RECORD_DIFFERENCE_BYTES]);
bool record_legs_differ(const struct router_leg *was, const struct router_leg *is, char text[RECORD_DIFFERENCE_BYTES]);

#endif
