/* Shared by server.c (life, routes), server_node.c (what a scheduler may ask for), server_call.c (one completion
 * request from bytes to answer) and server_text.c (texts to ids and back). */
#ifndef ENGINE_SERVE_SERVER_INTERNAL_H
#define ENGINE_SERVE_SERVER_INTERNAL_H

#include "engine/serve/api.h"
#include "engine/serve/gate.h"
#include "engine/serve/metrics.h"
#include "engine/serve/server.h"
#include "engine/serve/worker.h"

enum server_state { SERVER_LOADING, SERVER_READY, SERVER_FAILED, SERVER_DRAINING };

#define SERVER_END_IDS_MAX 64

struct server {
    struct server_options o;
    struct gate gate;
    enum server_state state;
    struct event_base *loop; /* borrowed */
    struct http_server *http;
    struct worker *worker;
    struct event *worker_ev, *batcher_ev, *drain_ev, *move_ev, *progress_ev;
    struct batcher *batcher; /* from READY on */
    bool loaded;             /* load() has come back */
    bool ending;             /* server_drain() was called: done() follows the last answer */
    bool done;               /* done() was called */
    struct mono started;
    int64_t load_ns; /* from start to the end of load() */
    /* The load task. The worker fills model and error; the loop reads them once the task is done. */
    struct worker_task load_task;
    struct serve_model model;
    struct error error;
    enum rc load_rc;
    int32_t end_ids[SERVER_END_IDS_MAX]; /* what ends an answer of this model */
    size_t n_end_ids;
    struct strbuf scratch; /* frames and small bodies; loop thread, empty between calls */
    struct serve_counters counters;
    struct serve_totals before; /* of workers before this one */
    struct node_counts node;
    struct mono cut_at;        /* when DRAINING */
    bool leaving;              /* ... because the machine is taken away: streams are to move */
    struct call *calls;        /* all that have no answer yet, newest first */
    struct embed_call *embeds; /* likewise */
};

void server_done(struct server *s); /* tell the owner, once */
/* Answer with an error object and close the books on the exchange. */
void server_reply_error(struct server *s, struct http_exchange *x, const struct api_error *e);
/* Take a POST to one of the two completion endpoints; it answers now or later. */
void server_call_start(struct server *s, struct http_exchange *x, enum api_kind kind, enum api_caller caller);
/* Take a POST to /v1/embeddings. */
void server_embed_start(struct server *s, struct http_exchange *x, enum api_caller caller);
/* For when whoever begins to wait for a slot now has waited long enough; the caller's. NULL: there is no limit. */
struct event *server_queue_deadline(struct server *s, event_callback_fn cb, void *arg);
bool server_queue_timeout(const struct server *s, struct api_error *e); /* what he is told then; false */
/* His job is taken back, freed, and *job NULL. False: there is none, or it runs: only the batcher knows. */
bool server_withdraw(struct server *s, struct batch_job **job);
/* POST /tokenize and /detokenize. */
enum text_kind { TEXT_TOKENIZE, TEXT_DETOKENIZE };
void server_text_start(struct server *s, struct http_exchange *x, enum text_kind kind, enum api_caller caller);
/* End every call now: a stream without [DONE], the others with 503. */
void server_calls_cut(struct server *s);
void server_embeds_cut(struct server *s);
bool server_cut_error(struct api_error *e); /* what they are told; false */
/* The scheduler's streams, also those that begin from now on, are told how long there is to move them: until cut_at. */
void server_calls_tell_leaving(struct server *s);
/* The stream that has run longest, whose way to another node takes longest. How many are left. */
int server_calls_cut_one(struct server *s);

/* server_node.c. */
/* Refuse new work from now on; calls that still run when the deadline passes are cut, streams one by one in the last
 * move_ms before it. */
void server_begin_drain(struct server *s, int64_t drain_ms, int64_t move_ms);

#endif
