/* What a client is told when it gets no answer: one table of OpenAI error objects, always with all four keys. */
#ifndef SCHEDULER_WIRE_ERRORS_H
#define SCHEDULER_WIRE_ERRORS_H

#include <stdio.h>

#include "base/alloc.h"
#include "base/http_server.h"

enum api_code {
    API_INVALID_BODY,        /* 400: not JSON, or a value of a wrong kind; param names it */
    API_UNAUTHORIZED,        /* 401 */
    API_FORBIDDEN,           /* 403: a credential that does not open this, or not from there */
    API_MODEL_NOT_ALLOWED,   /* 403: not for this credential */
    API_INSUFFICIENT_QUOTA,  /* 429: a budget is used up */
    API_BUDGETS_UNAVAILABLE, /* 503: budgets cannot be asked */
    API_MAX_CHARGE,          /* 402: the client's own bound pays for nobody's answer */
    API_REPEAT_OTHER,        /* 422: an idempotency key that stands for another request */
    API_REPEAT_SPENT,        /* 409: its answer is lost, and was computed again as often as may be */
    API_REPEAT_BUSY,         /* 429: its answer can't be waited for */
    API_AUTH_UNAVAILABLE,    /* 503: whether a token is genuine cannot be told at the moment */
    API_AUTH_TOO_MANY,       /* 429: too many forged tokens from the client's address */
    API_RATE_LIMITED,        /* 429: more than its limits allow */
    API_NOT_FOUND,           /* 404: no such endpoint */
    API_METHOD,              /* 405 */
    API_MODEL_NOT_FOUND,     /* 404 */
    API_ENDPOINT_NOT_SERVED, /* 404: the model's nodes have no such endpoint */
    API_QUEUE_FULL,          /* 429: the waiting room is full */
    API_NO_CAPACITY,         /* 503: every node that could is full or failing, for longer than may be waited */
    API_DEADLINE,            /* 503: it would most likely not be answered before the client's deadline */
    API_NO_LOCAL_CAPACITY,   /* 503: the key is local_only and no node on the premises serves the model */
    API_LEDGER,              /* 503: the books cannot be written */
    API_DRAINING,            /* 503: this scheduler is going away */
    API_UPSTREAM,            /* 502: nodes failed, none left to try */
    API_UPSTREAM_BUSY,       /* 429: nodes refused for load, none left to try */
    API_UPSTREAM_TIMEOUT,    /* 504: no byte in time */
    API_POISON,              /* 500: nodes died under it again and again */
    API_INTERNAL,            /* 500 */
    API_CODES,
};

/* What is told, and documented, of a code. */
struct api_error_kind {
    const char *type, *name;   /* of the error object; name: its `code`, NULL for null */
    const char *label;         /* for ledger and metrics when name is NULL */
    const char *text;          /* where nothing better is known */
    int status, retry_after_s; /* retry_after_s 0: retrying is pointless */
    const char *when, *remedy; /* for people: whole sentences, Markdown */
};
const struct api_error_kind *api_error_kind(enum api_code code);
void api_errors_print_markdown(FILE *out); /* docs/ERRORS.md */

struct api_error {
    enum api_code code;
    const char *param; /* or NULL */
    char message[512];
    /* A node's own refusal of the request (400, 413, 422...) is passed on instead: its status, type, code and param. */
    int status;                         /* 0: the table's */
    int retry_after_s;                  /* 0: the table's; -1: retrying is pointless */
    char type[64], name[64], field[64]; /* "": the table's; of field: param */
};

/* "": the table's own text. */
void api_error_set(struct api_error *e, enum api_code code, const char *param, const char *format, ...)
    SPW_PRINTF(4, 5);
int api_error_status(const struct api_error *e);
const char *api_error_name(const struct api_error *e); /* for ledger, log and metrics: "model_not_found" */
/* {"error":{"message","type","param","code"}} */
enum rc api_error_write(const struct api_error *e, struct strbuf *out) SPW_MUST_USE;
/* The same as an event of a stream. */
enum rc api_error_write_event(const struct api_error *e, struct strbuf *out) SPW_MUST_USE;
/* The whole answer. 429 and 5xx carry Retry-After where retrying may help, our own others x-should-retry: false; 405
 * Allow (`allow`). node may be NULL. The exchange is over afterwards. */
void api_error_reply(struct http_exchange *x, const struct api_error *e, const char *request_id, const char *node,
                     const char *allow);
/* The same with further headers, at most API_HEADERS_MAX. */
#define API_HEADERS_MAX 8
void api_error_reply_with(struct http_exchange *x, const struct api_error *e, const char *request_id,
                          const struct http_header *more, int n_more);
/* Read a node's refusal of `status` into *e, whatever its shape. */
void api_error_from_node(struct api_error *e, int status, const char *body, size_t n);

#endif
