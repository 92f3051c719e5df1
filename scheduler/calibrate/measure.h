/* Measuring a node over its OpenAI API, by streams like any client's. Blocks; command line only.
 *
 * Prefill: prompts of growing size, each new, alone on the node: the time to the first token, by the tokens that the
 * node says it had not seen before. Decode: 1, 2, 4... streams at once, from the moment at which all of them have begun
 * to that at which the first one ends: the mean time between two tokens of one. Detail: the gaps of a stream while
 * another's prompt is computed, and steps with long contexts. The node should have nothing else to do. */
#ifndef SCHEDULER_CALIBRATE_MEASURE_H
#define SCHEDULER_CALIBRATE_MEASURE_H

#include <stdio.h>

#include "scheduler/calibrate/record.h"

struct measure_options {
    const char *url; /* "http://127.0.0.1:8081", no path */
    const char *model;
    const char *api_key;              /* NULL: none */
    const char *ca_file;              /* https; NULL: the system's authorities */
    const char *cert_file, *key_file; /* https; shown to the node; NULL: none */
    int32_t batch_max;                /* the largest number of streams at once */
    int32_t prompt_max;               /* tokens, about: the longest prompt; an answer "too long" ends the row earlier */
    int32_t output;                   /* tokens of a stream whose decode is measured */
    int32_t repeats;                  /* of each point; medians count */
    int64_t deadline_ms;              /* of one request */
    bool local;                       /* the node runs on this machine: its energy counters tell of it */
    FILE *progress;                   /* a line per point; NULL: quiet */
};
/* Fills everything but node, node_type, numerics and measured_at. RC_IO, RC_TIMEOUT, RC_DENIED: the node did not answer
 * as it must, *e says how; RC_UNSUPPORTED: it answers, but too little to draw a line, or one that falls. */
enum rc measure_node(const struct measure_options *o, struct calibration *c, struct error *e) SPW_MUST_USE;

#endif
