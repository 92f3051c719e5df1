/* What the readers of traces and trace.c share: a source is one file as it lies there. */
#ifndef SCHEDULER_SIMULATE_TRACE_INTERNAL_H
#define SCHEDULER_SIMULATE_TRACE_INTERNAL_H

#include "base/lines.h"
#include "scheduler/simulate/trace.h"

/* --- names ------------------------------------------------------------------------------------------------------ */

struct trace_names_table { /* text to index, by open addressing */
    char **names;          /* owned */
    uint32_t *slots;       /* index + 1; 0: free */
    uint32_t n, n_slots, last;
};
/* *i is the name's index. RC_FULL: TRACE_NAMES_MAX. */
enum rc trace_names_intern(struct trace_names_table *t, const char *name, uint32_t *i, struct error *e) SPW_MUST_USE;
void trace_names_fini(struct trace_names_table *t);

/* --- sources ---------------------------------------------------------------------------------------------------- */

struct trace_defaults { /* of rows that say nothing */
    uint32_t model, team;
    bool batch;
    int64_t deadline_us;
    uint32_t file;
};
struct trace_source;
struct trace_source_ops {
    /* RC_OK: *r but for `copy`; at_us is the file's own time and may start anywhere. Blocks are the source's until its
     * next call. RC_NOT_FOUND: the end. RC_INVALID: this row is bad, the next may be read. Anything else is final. */
    enum rc (*next)(struct trace_source *s, struct sim_request *r, struct error *e);
    enum rc (*rewind)(struct trace_source *s, struct error *e);
    double (*done)(const struct trace_source *s); /* share that has been read */
    void (*close)(struct trace_source *s);        /* frees s, too */
};
struct trace_source { /* first member of each kind */
    const struct trace_source_ops *ops;
    struct trace_defaults defaults;
    struct trace_names_table *names; /* [TRACE_N_NAMES]; borrowed */
    bool unix_time;                  /* at_us counts from 1970; known after the first row */
    int64_t left_out;
};
enum rc trace_csv_open(struct trace_source **s, const char *path, struct error *e) SPW_MUST_USE;
enum rc trace_jsonl_open(struct trace_source **s, const char *path, struct error *e) SPW_MUST_USE;
enum rc trace_ledger_open(struct trace_source **s, const char *path, struct error *e) SPW_MUST_USE;
/* By what stands in the file. defaults and names are to be set by the caller. */
enum rc trace_source_open(struct trace_source **s, const char *path, struct error *e) SPW_MUST_USE;

/* --- one file with what is done to it ---------------------------------------------------------------------------- */

struct trace_stream;
/* names: [TRACE_N_NAMES], borrowed as are options. */
enum rc trace_stream_open(struct trace_stream **s, const struct trace_file *f, uint32_t index,
                          struct trace_names_table *names, const struct trace_options *o, struct error *e) SPW_MUST_USE;
void trace_stream_close(struct trace_stream *s);
/* As trace_next(); the file's own time from 0. */
enum rc trace_stream_next(struct trace_stream *s, struct sim_request *r, struct error *e) SPW_MUST_USE;
enum rc trace_stream_rewind(struct trace_stream *s, struct error *e) SPW_MUST_USE;
double trace_stream_done(const struct trace_stream *s);
void trace_stream_count(const struct trace_stream *s, struct trace_stats *stats); /* adds rows, bad_rows, left_out */
int64_t trace_stream_start(const struct trace_stream *s); /* Unix microseconds of its first row, or 0 */

/* --- randomness: splitmix64 (Steele, Lea, Flood 2014), of a seed that is passed in -------------------------------- */

static inline uint64_t trace_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif
