/* One request's body: parsed strictly once, checked for what the scheduler needs to know, and spliced for a node. What
 * we do not know passes through untouched, byte for byte. Pure functions. */
#ifndef SCHEDULER_FRONT_REQUEST_H
#define SCHEDULER_FRONT_REQUEST_H

#include <stdint.h>

#include "base/alloc.h"
#include "scheduler/front/scan.h"

#define REQUEST_MODEL_BYTES_MAX 256

enum request_kind { REQUEST_CHAT, REQUEST_COMPLETION };

struct request_body {
    const char *text; /* borrowed, outlives this */
    size_t n;
    enum request_kind kind;
    char model[REQUEST_MODEL_BYTES_MAX + 1]; /* decoded */
    bool stream, usage_asked;                /* usage_asked: stream_options.include_usage */
    int64_t output_tokens_max;               /* -1: not given */
    /* Where to cut. */
    struct span model_value, options_value, usage_value; /* n 0: not there */
    const char *inside;                                  /* behind the outer '{' */
};

/* RC_INVALID: e says what is wrong; *param names the key (static text) or is NULL. */
enum rc request_parse(struct request_body *r, enum request_kind kind, const char *text, size_t n, const char **param,
                      struct error *e) SPW_MUST_USE;

/* What goes to a node: the same body with the model's name replaced by `upstream_model` (NULL: kept) and, for a stream,
 * stream_options.include_usage set. Appends to `out`; RC_FULL at its bound. */
enum rc request_splice(const struct request_body *r, const char *upstream_model, struct strbuf *out) SPW_MUST_USE;

/* Tokens before anybody has counted them. */
int64_t request_estimate_input(const struct request_body *r);
int64_t request_estimate_output(const struct request_body *r);

#endif
