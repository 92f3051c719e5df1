/* The engine's HTTP server: the OpenAI surface, health, metrics, and an orderly end.
 *
 *     LOADING --load() ok--> READY --server_drain()--> DRAINING --last answer, or deadline--> done()
 *        \--load() fails--> FAILED: done() at once, server_failed() says why
 *
 * It listens from the first moment: while the model loads on the worker thread, /health and all else answer 503 with
 * Retry-After. Three threads: the loop (all of HTTP), the worker (load, then JSON, templates and tokenising of each
 * request), the engine thread (batcher.h). Nothing blocks the loop.
 *
 * POST /drain also goes from READY to DRAINING, but ends nothing: the process waits for its signal.
 *
 * Under a supervisor (engine/node/supervisor.h) it accepts only when it is told to, connections come and go between the
 * two, and what is asked of the node as a whole (/sleep, /drain) is passed on.
 *
 * Everything but /health wants a bearer token when there are API keys. The node key stands in for one and opens what
 * docs/NODE_API.md describes. */
#ifndef ENGINE_SERVE_SERVER_H
#define ENGINE_SERVE_SERVER_H

#include <event2/event.h>

#include "base/http_server.h"
#include "base/log.h"
#include "engine/serve/api_keys.h"
#include "engine/serve/batcher.h"
#include "engine/serve/totals.h"
#include "engine/text/chat_template.h"

/* A loaded model, lent to the server until server_free(). */
struct serve_model {
    const struct batch_engine_ops *ops;
    struct engine *engine;
    const struct vocab *vocab;
    const struct chat_template *chat; /* NULL: the file has no template; chat requests are refused with ... */
    char chat_missing[512];           /* ... this */
    int32_t n_vocab;                  /* of the vocabulary ... */
    int32_t n_logits;                 /* ... and of a row of logits, which may have more */
    int32_t n_embd;                   /* of an embedding */
    int32_t n_ctx;
    int32_t step_tokens; /* most tokens in one step */
    uint64_t kv_bytes;   /* of the KV pool */
    int64_t created;     /* seconds since 1970: the file's age */
    char fingerprint[40];
    char arch[32], quant[16], device[32], numerics[128];
    char numerics_class[33];                               /* 32 hex digits, docs/NODE_API.md */
    void (*device_lost)(void *arg, const struct error *e); /* batcher.h */
    void *device_lost_arg;
};

enum server_asked { SERVER_ASKED_SLEEP, SERVER_ASKED_WAKE, SERVER_ASKED_DRAIN, SERVER_ASKED_ANSWER };

/* Whoever supervises this server. Loop thread. */
struct server_supervisor {
    void (*ready)(void *arg);
    /* Somebody came with /sleep, /wake_up or /drain, or wants an answer. */
    void (*asked)(enum server_asked what, void *arg);
    void *arg;
};

struct server_options {
    const char *listen_on;           /* as http_server_new() */
    const char *model_id;            /* the name requests use */
    const struct api_keys *keys;     /* NULL: no authentication; borrowed */
    const struct api_keys *node_key; /* NULL: no scheduler may ask for more than a client; borrowed */
    struct tls_door *tls;            /* NULL: plain; borrowed */
    int32_t max_seqs;                /* sequences at once */
    bool speculate;                  /* batcher.h */
    int64_t busy_mw;                 /* likewise */
    int32_t waiting_max;             /* requests waiting for a slot; beyond: 503 */
    int64_t queue_ms;                /* how long one may wait for it, then 503; 0: as long as its client does */
    int64_t drain_ms;                /* how long a drain waits for answers */
    const struct log *log;
    const struct clock *clock;
    /* Load the model: called once, on the worker thread. Fills *m; what it made is freed by whoever owns load_arg,
     * after server_free(). */
    enum rc (*load)(void *load_arg, struct serve_model *m, struct error *e);
    void *load_arg;
    int64_t load_bytes;                         /* how much there is to load; 0: not known */
    const struct server_supervisor *supervisor; /* NULL: none, /sleep is refused; borrowed */
    /* The end, on the loop thread: drained, or load() failed. May be called once. */
    void (*done)(void *done_arg);
    void *done_arg;
};

struct server;
/* Listens when it returns RC_OK. Strings in *o are borrowed for the server's life. */
enum rc server_new(struct server **s, struct event_base *loop, const struct server_options *o,
                   struct error *e) SPW_MUST_USE;
/* Refuse new work, finish what runs, then done(). A second call ends at once. */
void server_drain(struct server *s);
/* Still inside load()? Then server_free() would wait for it. */
bool server_loading(const struct server *s);
const struct error *server_failed(const struct server *s); /* NULL: it did not fail */
int server_port(const struct server *s);

/* For a supervisor's end in this process (engine/node/link.h). */
struct http_server *server_http(struct server *s);
const struct serve_model *server_model(const struct server *s); /* valid once it is ready */
int64_t server_load_ns(const struct server *s);
/* What it counted itself, and the figures of the moment. */
void server_totals(const struct server *s, struct serve_totals *t);
/* What was counted before, by others, which /metrics adds, and what their supervisor counts. Copied. */
void server_came_before(struct server *s, const struct serve_totals *before, const struct node_counts *counts);
void server_counts(struct server *s, const struct node_counts *counts); /* newer ones */
/* Refuse new work; after drain_ms what still runs is cut. A later call may only bring the deadline nearer. In the last
 * move_ms before it streams are cut one by one, at even distances: who continues them elsewhere has to compute again
 * what each has said, and all at once would wait for each other. */
void server_refuse(struct server *s, int64_t drain_ms, int64_t move_ms);
void server_free(struct server *s); /* NULL is fine */

#endif
