/* One request to an OpenAI-compatible endpoint, as an application would make it, with what it cost and how long it
 * took: what `spillway ask` and ./quickstart show. Blocks: command line only. */
#ifndef SCHEDULER_CLI_ASK_H
#define SCHEDULER_CLI_ASK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

struct ask_options {
    const char *url;     /* "http://127.0.0.1:8080"; http or https, no path */
    const char *api_key; /* bearer token, or NULL */
    const char *model;   /* NULL: the first that /v1/models lists */
    const char *system;  /* system message, or NULL */
    const char *question;
    double temperature; /* < 0: the server's default */
    int64_t max_tokens; /* 0: the server's default */
    int64_t deadline_ms;
};

struct ask_result {
    char node[64], request_id[64], model[128], finish_reason[32];
    char charge_usd[48];                          /* "": the server does not say */
    int64_t tokens_in, tokens_cached, tokens_out; /* -1: not told */
    double ttft_s, total_s, tokens_per_s;         /* tokens_per_s: after the first token; 0: too few to say */
    double joules;                                /* < 0: not known */
    bool joules_measured; /* by this machine's counters; else estimated from the node's declared watts */
};

/* The answer's text goes to `out` as it arrives. */
enum rc ask(const struct ask_options *o, FILE *out, struct ask_result *result, struct error *e) SPW_MUST_USE;
/* RC_OK when GET /readyz answers 200; RC_AGAIN when it answers anything else or nobody listens. */
enum rc ask_ready(const char *url, struct error *e) SPW_MUST_USE;

#endif
