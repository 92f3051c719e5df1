/* Traces: what was asked, when, and how long the answers were. Requests come out one by one, in time order, and are
 * never held in memory all at once, so that a trace may be of any length.
 *
 * Read are (plain or gzip, told apart by what stands in the file):
 *   CSV with a head line      Azure LLM 2023 (TIMESTAMP, ContextTokens, GeneratedTokens), ServeGen samples (arrival_s, client,
 *                             input_tokens, output_tokens), BurstGPT, or our own: at_s, prompt_tokens, output_tokens and, if
 *                             wanted, model, team, class, deadline_s, local_only
 *   JSON Lines                Mooncake (timestamp in ms, input_length, output_length, hash_ids: prefix blocks of 512 tokens)
 *   a ledger of ours          SQLite: last month under another policy
 *
 * What can be done to a file before it is replayed, in this order: a span is cut out; it is repeated end to end
 * ("tile"); it is laid N times over itself, each copy shifted by a random time; it is thinned so that the rate follows
 * a curve. Several files are merged. The same seed gives the same requests.
 *
 * A row that can't be read is an error that names file, line and what would be right; up to `bad_rows_max` of them are
 * passed to a callback and left out instead. Rows must be in time order.
 *
 * One thread. Blocks (files). Not for loops. */
#ifndef SCHEDULER_SIMULATE_TRACE_H
#define SCHEDULER_SIMULATE_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define TRACE_BLOCK_TOKENS 512 /* of a prefix block, where the trace says nothing else (Mooncake) */
#define TRACE_TOKENS_MAX   10000000
#define TRACE_COPIES_MAX   100000
#define TRACE_FILES_MAX    64
#define TRACE_NAMES_MAX    65536 /* different models, or teams */
#define TRACE_BLOCKS_MAX   65536 /* of one request */

struct sim_request {
    int64_t at_us;          /* since the start of the trace */
    int32_t prompt, output; /* tokens, both >= 1 */
    int32_t cached;         /* of the prompt, known to have been cached (our ledger); else 0 */
    uint32_t model, team;   /* trace_name() */
    uint32_t file;          /* which of the files it came from */
    uint32_t copy;          /* which copy of it */
    bool batch, local_only;
    int64_t deadline_us;    /* batch: since at_us; 0: none */
    const uint64_t *blocks; /* hashes of the prompt's prefix blocks; borrowed until the next trace_next() */
    int32_t n_blocks;
};

/* A rate by time: steps of equal length, repeated after the last. */
struct rate_curve {
    double *rate; /* requests/s; owned */
    int n;
    int64_t step_us;
};
/* CSV with a head line, `timestamp_s` first, then a column per series; `column` NULL: the second. Caller frees with
 * rate_curve_fini(), also after an error. */
enum rc rate_curve_read(struct rate_curve *c, const char *path, const char *column, struct error *e) SPW_MUST_USE;
void rate_curve_fini(struct rate_curve *c);
double rate_curve_at(const struct rate_curve *c, int64_t at_us);

struct trace_file { /* all but path may be left 0 */
    const char *path;
    const char *model, *team;  /* of rows that name none; NULL: "default" */
    bool batch;                /* all rows are batch work */
    int64_t deadline_us;       /* of batch rows that have none; 0: none */
    int64_t from_us, until_us; /* cut out of the file, counted from its first row; until 0: to its end */
    int copies;                /* 0: 1 */
    int64_t shift_us;          /* copies are shifted by 0 to so much, by chance; 0 with several copies: 10 minutes */
    bool tile;                 /* repeated without end: then trace_options.span_us is needed */
    /* Tiled and thinned, so that the rate follows this; copies are then chosen as needed. Borrowed while the trace is
     * open. */
    const struct rate_curve *curve;
    double factor; /* times the curve; 0: 1 */
};
struct trace_options {
    uint64_t seed;
    const char *const *models; /* get the indices 0 .. n_models - 1, whether or not they are asked for */
    int n_models;
    int64_t span_us; /* ends after so much; 0: where the files end */
    int bad_rows_max;
    void (*bad_row)(const struct error *e, void *arg);
    /* Now and then: how far, 0 to 1, and how many requests came out. NULL: nobody asks. */
    void (*progress)(double done, int64_t requests, void *arg);
    void *arg;
};

struct trace;
/* Opens all files and reads each one's first row (tiled ones once as a whole). Paths and names are copied. */
enum rc trace_open(struct trace **t, const struct trace_file *files, int n, const struct trace_options *o,
                   struct error *e) SPW_MUST_USE;
void trace_close(struct trace *t); /* NULL is fine */
/* RC_OK: *r is the next request. RC_NOT_FOUND: there are no more. Else *e says which row can't be read. */
enum rc trace_next(struct trace *t, struct sim_request *r, struct error *e) SPW_MUST_USE;
/* From the start again: the same requests. */
enum rc trace_rewind(struct trace *t, struct error *e) SPW_MUST_USE;

enum trace_names { TRACE_MODELS, TRACE_TEAMS, TRACE_N_NAMES };
/* Names seen so far; they grow while the trace is read. NULL past the last. Borrowed from the trace. */
const char *trace_name(const struct trace *t, enum trace_names which, uint32_t i);
uint32_t trace_n_names(const struct trace *t, enum trace_names which);
/* The index of a name, which is added if need be: what is asked for before the trace is read has a place then. */
enum rc trace_intern(struct trace *t, enum trace_names which, const char *name, uint32_t *i,
                     struct error *e) SPW_MUST_USE;

struct trace_stats {
    int64_t requests;       /* that came out */
    int64_t rows, bad_rows; /* read from files */
    int64_t left_out;       /* ledger rows that were no work: failures without an answer, answers out of the cache */
    int64_t tokens_prompt, tokens_output;
    int64_t last_us;
    int64_t start_unix_us; /* when the first file's first row was, where it tells; else 0 */
};
struct trace_stats trace_stats(const struct trace *t);

#endif
