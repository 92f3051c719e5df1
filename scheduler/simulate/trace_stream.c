/* One file and what is done to it: cut, repeated, laid over itself, thinned.
 *
 * Copies share one reading of the file: its rows stand in a ring for as long as the copy that is furthest behind needs
 * them, and each copy has a place of its own in it. So memory goes with rate x shift, not with the number of copies or
 * the length of the file. The copies' next requests are in a binary heap by time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/simulate/trace_internal.h"

#define SHIFT_DEFAULT_US INT64_C(600000000)
#define RING_MAX         ((uint64_t)1 << 26) /* rows that are held at once */

struct held {                   /* a row in the ring */
    struct sim_request request; /* blocks: owned */
    uint32_t round;             /* of a tiled file */
};
struct copy {
    int64_t shift_us;
    uint64_t next; /* the row it gives next, counted from the start */
    uint32_t index;
};

struct trace_stream {
    struct trace_source *source; /* owned */
    struct trace_file file;      /* path is not kept */
    const struct trace_options *options;
    uint64_t seed;
    /* the file, cut and repeated */
    int64_t first_us, last_us; /* of the first row that was read; of the last that came out */
    int64_t period_us;         /* tiled: length of one round */
    double rows_per_s;         /* tiled: within it */
    bool begun, ended;
    uint32_t round;
    int64_t rows, bad_rows;
    /* copies: copies[0..n) is a heap by the time of what comes next; unused with one copy that is not shifted */
    struct copy *copies;
    int n_copies, n_live;
    struct held *ring;
    uint64_t ring_size, head, tail; /* rows head - 1 .. tail are held */
    int64_t lead_us;                /* tiled: what comes before all copies have begun is dropped */
    uint64_t *blocks;               /* the hashes of what came out last */
    int32_t blocks_cap;
    uint64_t thinned; /* requests that the curve decided on */
};

/* --- the file, cut and repeated ------------------------------------------------------------------------------------ */

/* The next good row, in the file's own time. */
static enum rc good_row(struct trace_stream *s, struct sim_request *r, struct error *e)
{
    for (;;) {
        struct error why;
        enum rc rc = s->source->ops->next(s->source, r, &why);
        if (rc == RC_OK || rc == RC_NOT_FOUND) {
            s->rows += rc == RC_OK;
            return rc;
        }
        if (rc != RC_INVALID || s->bad_rows >= s->options->bad_rows_max) {
            if (e)
                *e = why;
            return rc;
        }
        s->bad_rows++;
        if (s->options->bad_row)
            s->options->bad_row(&why, s->options->arg);
    }
}

/* The next row within the cut; time from the cut's start on. */
static enum rc cut_row(struct trace_stream *s, struct sim_request *r, struct error *e)
{
    for (;;) {
        enum rc rc = good_row(s, r, e);
        if (rc != RC_OK)
            return rc;
        if (!s->begun)
            s->first_us = r->at_us;
        s->begun = true;
        r->at_us -= s->first_us + s->file.from_us;
        if (s->file.until_us && r->at_us >= s->file.until_us - s->file.from_us)
            return RC_NOT_FOUND;
        if (r->at_us >= 0)
            return RC_OK;
        if (r->at_us + s->file.from_us < 0)
            return error_set(e, RC_INVALID, "row %lld is earlier than the first; sort the file by time",
                             (long long)s->rows);
    }
}

static enum rc rewind_source(struct trace_stream *s, struct error *e)
{
    s->begun = false;
    return s->source->ops->rewind(s->source, e);
}

/* The next row, repeated where that is wanted, in time order. */
static enum rc next_row(struct trace_stream *s, struct sim_request *r, struct error *e)
{
    enum rc rc = s->ended ? RC_NOT_FOUND : cut_row(s, r, e);

    if (rc == RC_NOT_FOUND && s->file.tile) {
        rc = rewind_source(s, e);
        s->round++;
        if (rc == RC_OK)
            rc = cut_row(s, r, e);
    }
    s->ended = rc != RC_OK;
    if (rc != RC_OK)
        return rc;
    r->at_us += s->round * s->period_us;
    if (r->at_us < s->last_us)
        return error_set(e, RC_INVALID, "row %lld is %.6f s earlier than the one before it; sort the file by time",
                         (long long)s->rows, (double)(s->last_us - r->at_us) / 1e6);
    s->last_us = r->at_us;
    return RC_OK;
}

/* --- copies ---------------------------------------------------------------------------------------------------------- */

static struct held *held(const struct trace_stream *s, uint64_t row)
{
    return &s->ring[row & (s->ring_size - 1)];
}

static int64_t copy_at(const struct trace_stream *s, const struct copy *c)
{
    return held(s, c->next)->request.at_us + c->shift_us;
}

static bool copy_before(const struct trace_stream *s, const struct copy *a, const struct copy *b)
{
    int64_t x = copy_at(s, a), y = copy_at(s, b);
    return x != y ? x < y : a->index < b->index;
}

static void sift_down(struct trace_stream *s, int i)
{
    for (;;) {
        int least = i, l = 2 * i + 1;
        for (int c = l; c <= l + 1 && c < s->n_live; c++)
            if (copy_before(s, &s->copies[c], &s->copies[least]))
                least = c;
        if (least == i)
            return;
        struct copy t = s->copies[i];
        s->copies[i] = s->copies[least];
        s->copies[least] = t;
        i = least;
    }
}

static enum rc grow_ring(struct trace_stream *s, struct error *e)
{
    uint64_t size = s->ring_size ? s->ring_size * 2 : 1024;

    if (size > RING_MAX)
        return error_set(e, RC_FULL, "more than %llu requests lie within one shift; shift the copies by less",
                         (unsigned long long)RING_MAX / 2);
    struct held *ring = spw_calloc(size, sizeof *ring);
    for (uint64_t i = s->tail; i < s->head; i++)
        ring[i & (size - 1)] = *held(s, i);
    free(s->ring);
    s->ring = ring;
    s->ring_size = size;
    return RC_OK;
}

static enum rc hold_next_row(struct trace_stream *s, struct error *e)
{
    enum rc rc = s->head - s->tail == s->ring_size ? grow_ring(s, e) : RC_OK;
    struct sim_request r;

    if (rc == RC_OK)
        rc = next_row(s, &r, e);
    if (rc != RC_OK)
        return rc;
    if (r.n_blocks) {
        uint64_t *blocks = spw_malloc(sizeof *blocks * (size_t)r.n_blocks);
        memcpy(blocks, r.blocks, sizeof *blocks * (size_t)r.n_blocks);
        r.blocks = blocks;
    }
    *held(s, s->head++) = (struct held){r, s->round};
    return RC_OK;
}

static void drop_to(struct trace_stream *s, uint64_t row)
{
    for (; s->tail < row; s->tail++)
        free((void *)(uintptr_t)held(s, s->tail)->request.blocks);
}

/* Another conversation in each copy and round: nothing of one is in the other's cache. */
static void own_blocks(struct trace_stream *s, struct sim_request *r, uint64_t salt)
{
    if (r->n_blocks > s->blocks_cap) {
        s->blocks_cap = r->n_blocks;
        s->blocks = spw_realloc(s->blocks, sizeof *s->blocks * (size_t)s->blocks_cap);
    }
    for (int32_t i = 0; i < r->n_blocks; i++)
        s->blocks[i] = salt ? trace_mix(r->blocks[i] ^ salt) : r->blocks[i];
    r->blocks = r->n_blocks ? s->blocks : NULL;
}

/* The copy on top gave its row; it goes on to the next one, or is done. */
static enum rc advance_top(struct trace_stream *s, struct error *e)
{
    struct copy *top = &s->copies[0];

    if (top->next + 1 == s->head) {
        enum rc rc = hold_next_row(s, e);
        if (rc == RC_NOT_FOUND) { /* nothing follows: for the others, too, but later */
            s->copies[0] = s->copies[--s->n_live];
            sift_down(s, 0);
            return RC_OK;
        }
        if (rc != RC_OK)
            return rc;
    }
    uint64_t behind = top->next++;
    sift_down(s, 0);
    if (behind == s->tail) { /* it was perhaps the last to need it */
        uint64_t need = s->head;
        for (int i = 0; i < s->n_live && need > s->tail; i++)
            need = s->copies[i].next < need ? s->copies[i].next : need;
        drop_to(s, need);
    }
    return RC_OK;
}

static enum rc next_of_copies(struct trace_stream *s, struct sim_request *r, struct error *e)
{
    if (s->n_live == 0)
        return RC_NOT_FOUND;
    const struct copy *top = &s->copies[0];
    const struct held *h = held(s, top->next);
    *r = h->request;
    r->at_us += top->shift_us;
    r->copy = top->index;
    own_blocks(s, r, top->index || h->round ? trace_mix(((uint64_t)top->index << 32) | h->round) : 0);
    return advance_top(s, e);
}

/* The first copy is not shifted, unless all phases must be equal (tiled). */
static enum rc start_copies(struct trace_stream *s, struct error *e)
{
    enum rc rc = hold_next_row(s, e);

    s->n_live = rc == RC_OK ? s->n_copies : 0;
    for (int i = 0; i < s->n_live; i++) {
        double u = (double)(trace_mix(s->seed + (uint64_t)i) >> 11) * 0x1p-53;
        s->copies[i] = (struct copy){.shift_us = i || s->file.tile ? (int64_t)(u * (double)s->file.shift_us) : 0,
                                     .index = (uint32_t)i};
    }
    for (int i = s->n_live / 2 - 1; i >= 0; i--)
        sift_down(s, i);
    return rc == RC_NOT_FOUND ? RC_OK : rc;
}

/* --- all of it ------------------------------------------------------------------------------------------------------- */

static bool kept_by_curve(struct trace_stream *s, int64_t at_us)
{
    double keep = s->file.factor * rate_curve_at(s->file.curve, at_us) / (s->rows_per_s * s->n_copies);
    return (double)(trace_mix(s->seed ^ trace_mix(++s->thinned)) >> 11) * 0x1p-53 < keep;
}

enum rc trace_stream_next(struct trace_stream *s, struct sim_request *r, struct error *e)
{
    for (;;) {
        enum rc rc = s->copies ? next_of_copies(s, r, e) : next_row(s, r, e);
        if (rc != RC_OK)
            return rc;
        r->at_us -= s->lead_us;
        if (r->at_us >= 0 && (!s->file.curve || kept_by_curve(s, r->at_us)))
            return RC_OK;
    }
}

/* Reads the file once: how long a round is, and how many requests it has. */
static enum rc measure(struct trace_stream *s, const char *path, struct error *e)
{
    struct sim_request r;
    int64_t n = 0, last = 0;
    enum rc rc;

    while ((rc = cut_row(s, &r, e)) == RC_OK) {
        n++;
        last = r.at_us;
    }
    if (rc != RC_NOT_FOUND)
        return rc;
    if (n < 2 || last <= 0)
        return error_set(e, RC_INVALID,
                         "%s: has %lld rows within the cut; two at different times are needed to tile it", path,
                         (long long)n);
    s->period_us = s->file.until_us ? s->file.until_us - s->file.from_us : last + last / (n - 1);
    if (s->period_us <= last)
        s->period_us = last + 1;
    s->rows_per_s = (double)n / ((double)s->period_us / 1e6);
    s->rows = s->bad_rows = 0;
    return rewind_source(s, e);
}

static enum rc plan_copies(struct trace_stream *s, const char *path, struct error *e)
{
    double peak = 0;

    for (int i = 0; s->file.curve && i < s->file.curve->n; i++)
        peak = fmax(peak, s->file.curve->rate[i] * s->file.factor);
    double need = s->file.curve ? ceil(peak / s->rows_per_s) : 1;
    if (!s->file.copies)
        s->file.copies = need > TRACE_COPIES_MAX ? TRACE_COPIES_MAX : need < 1 ? 1 : (int)need;
    if (s->file.copies < need)
        return error_set(e, RC_INVALID,
                         "%s: %d copies of %.3f requests/s can't reach the curve's %.3f; %.0f are needed", path,
                         s->file.copies, s->rows_per_s, peak, need);
    s->n_copies = s->file.copies;
    if (s->n_copies == 1 && !s->file.shift_us && !s->file.tile)
        return RC_OK;
    if (!s->file.shift_us)
        s->file.shift_us = s->file.tile ? s->period_us : SHIFT_DEFAULT_US;
    s->lead_us = s->file.tile ? s->file.shift_us : 0;
    s->copies = spw_calloc((size_t)s->n_copies, sizeof *s->copies);
    return start_copies(s, e);
}

static enum rc check_file(const struct trace_file *f, const struct trace_options *o, struct error *e)
{
    if (f->copies < 0 || f->copies > TRACE_COPIES_MAX)
        return error_set(e, RC_INVALID, "%s: %d copies are out of bounds; 1 to %d are allowed", f->path, f->copies,
                         TRACE_COPIES_MAX);
    if (f->from_us < 0 || (f->until_us && f->until_us <= f->from_us))
        return error_set(e, RC_INVALID, "%s: nothing lies between %.3f s and %.3f s", f->path, (double)f->from_us / 1e6,
                         (double)f->until_us / 1e6);
    if (f->shift_us < 0 || f->factor < 0 || !(f->factor < 1e9))
        return error_set(e, RC_INVALID, "%s: shift and factor can't be negative", f->path);
    if (f->curve && !f->tile)
        return error_set(e, RC_INVALID, "%s: only what is tiled can follow a curve", f->path);
    if (f->tile && o->span_us <= 0)
        return error_set(e, RC_INVALID, "%s: is tiled without end; say how long the trace is to be", f->path);
    return RC_OK;
}

enum rc trace_stream_open(struct trace_stream **out, const struct trace_file *f, uint32_t index,
                          struct trace_names_table *names, const struct trace_options *o, struct error *e)
{
    struct trace_defaults d = {.batch = f->batch, .deadline_us = f->deadline_us, .file = index};
    enum rc rc = check_file(f, o, e);

    if (rc == RC_OK)
        rc = trace_names_intern(&names[TRACE_MODELS], f->model ? f->model : "default", &d.model, e);
    if (rc == RC_OK)
        rc = trace_names_intern(&names[TRACE_TEAMS], f->team ? f->team : "default", &d.team, e);
    if (rc != RC_OK)
        return rc;
    struct trace_stream *s = spw_calloc(1, sizeof *s);
    s->file = *f;
    s->file.factor = f->factor > 0 ? f->factor : 1;
    s->options = o;
    s->seed = trace_mix(o->seed ^ trace_mix(index));
    rc = trace_source_open(&s->source, f->path, e);
    if (rc == RC_OK) {
        s->source->defaults = d;
        s->source->names = names;
        rc = f->tile ? measure(s, f->path, e) : RC_OK;
        if (rc == RC_OK)
            rc = plan_copies(s, f->path, e);
        if (rc == RC_INVALID && strstr(e->message, f->path) == NULL)
            rc = error_prefix(e, "%s", f->path);
    }
    if (rc != RC_OK) {
        trace_stream_close(s);
        return rc;
    }
    s->file.path = NULL;
    *out = s;
    return RC_OK;
}

void trace_stream_close(struct trace_stream *s)
{
    if (!s)
        return;
    if (s->ring)
        drop_to(s, s->head);
    if (s->source)
        s->source->ops->close(s->source);
    free(s->ring);
    free(s->copies);
    free(s->blocks);
    free(s);
}

enum rc trace_stream_rewind(struct trace_stream *s, struct error *e)
{
    enum rc rc = rewind_source(s, e);

    if (s->ring)
        drop_to(s, s->head);
    s->head = s->tail = s->thinned = 0;
    s->round = 0;
    s->last_us = s->rows = s->bad_rows = s->source->left_out = 0;
    s->ended = false;
    return rc == RC_OK && s->copies ? start_copies(s, e) : rc;
}

double trace_stream_done(const struct trace_stream *s)
{
    return s->source->ops->done(s->source);
}

void trace_stream_count(const struct trace_stream *s, struct trace_stats *stats)
{
    stats->rows += s->rows;
    stats->bad_rows += s->bad_rows;
    stats->left_out += s->source->left_out;
}

int64_t trace_stream_start(const struct trace_stream *s)
{
    return s->source->unix_time && s->begun ? s->first_us + s->file.from_us : 0;
}
