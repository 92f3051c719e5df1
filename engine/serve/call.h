/* One completion request: what its two halves share. call_prepare.c turns bytes into what the batcher wants, on the
 * worker thread; server_call.c is its life on the loop thread.
 *
 *     start --worker: parse, template, tokenise--> prepared --submit--> running --output*--> ended
 *        \                    \--error reply--------> ended               |
 *         \--client gone: the worker's done() frees it                    \--client gone: cancel, freed
 *
 * A call belongs to the loop thread, except while its task is with the worker; then only `x` (NULL: the client is gone)
 * may be touched there.
 *
 * Of n choices the first one computes the prompt; the others are submitted with its first token, and begin with the
 * pages that it has made known (prefix.h): the prompt is computed once, but for its last, unfinished page. */
#ifndef ENGINE_SERVE_CALL_H
#define ENGINE_SERVE_CALL_H

#include "engine/serve/echo.h"
#include "engine/serve/server_internal.h"

#define CALL_MAGIC      0x63616c6cu
#define CALL_TOKENS_MAX ((size_t)1 << 24) /* of a prompt, whatever the context */

struct call;
struct choice {
    struct call *call;
    int index;
    struct batch_job_options job_options; /* ids, sampler and answer owned until the job is made */
    struct batch_job *job;                /* the batcher's; NULL before and after */
    bool begun;                           /* its first chunk is out */
    bool echoed;                          /* the call's echo stands before it */
    size_t text_offset;
    struct batch_output whole; /* of an answer that is not streamed; else its usage alone */
};

struct call {
    unsigned magic;
    struct call *next, **link; /* in the server's list; *link is this */
    struct worker_task task;
    struct server *s;
    struct http_exchange *x; /* NULL: the client is gone */
    struct mono start;       /* the request's first byte */
    char id[40];
    struct api_answer answer; /* what its objects share */
    /* In, for the worker. */
    char *body; /* owned */
    size_t body_len;
    /* Out of the worker. */
    bool prepared; /* else error */
    struct api_error error;
    bool stream;
    bool resumed;
    enum batch_finish over; /* what there is no need to compute had come to already; BATCH_RUNNING: it goes on */
    struct echo *echo;      /* owned; NULL: none. Each choice begins with it */
    struct choice *choices; /* owned; NULL before the worker has made them */
    int n;
    /* Running. */
    int n_ended;
    bool siblings;          /* all choices are submitted, not only the first */
    struct event *queue_ev; /* the end of its patience while it waits for a slot, or NULL */
    bool begun;             /* the head of the answer is out */
    struct mono first_token;
};

struct call *call_of(struct worker_task *t);
void call_prepare_run(struct worker_task *t); /* worker thread */
uint64_t call_random(void);
/* Parse *body, which is freed, and hand it to read(), which says in *error what is wrong with it. Worker thread. */
void call_read(char **body, size_t n, struct api_error *error,
               bool (*read)(void *arg, cJSON *root, struct arena *arena), void *arg);
/* The prompt's ids, however many, and how the reasoning parser has to start. Worker thread. */
bool call_ids(const struct serve_model *m, const struct api_request *r, struct tokens *ids,
              enum reasoning_start *reasoning, struct api_error *error);
/* What another job of the same request has used is added. */
void call_add_uses(struct batch_usage *to, const struct batch_usage *u);
void call_salt(struct prefix_salt *salt, const char *text); /* NULL: none was sent */
/* model may be NULL: not given. */
bool call_names_us(const struct server *s, const char *model, struct api_error *e);

#endif
