/* What is wrong with a segment. First each line is asked what it is: with the signing key by its MAC, which only we can
 * have made and which holds for one number alone; without, by its link to whatever line claims the number before. Then
 * the numbers are read in order: what fails is missing, stands elsewhere, stands there twice, or is not ours. Last,
 * seals: where all lines agree with each other and a signature still does not hold, the hashes were made anew. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/audit/verify_internal.h"

#define TRIES_MAX   INT64_C(20000000) /* MACs, over one segment, to find out which record a renumbered line was */
#define TRIES_AHEAD 20000             /* of one line */
#define TRIES_BACK  2000

/* ---- lines by the number that they claim ----------------------------------------------------------------------------- */

struct index {
    const struct seen *lines;
    int64_t *order; /* of the lines, by number; owned */
    int64_t n;
};

static int by_claim(const void *a, const void *b, void *arg)
{
    const struct seen *lines = arg;
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    if (lines[x].claimed != lines[y].claimed)
        return lines[x].claimed < lines[y].claimed ? -1 : 1;
    return x < y ? -1 : x > y;
}

static void index_make(struct index *x, struct seen *lines, int64_t n)
{
    *x = (struct index){.lines = lines, .order = spw_calloc((size_t)n + 1, sizeof *x->order), .n = n};
    for (int64_t i = 0; i < n; i++)
        x->order[i] = i;
    qsort_r(x->order, (size_t)n, sizeof *x->order, by_claim, lines);
}

/* The place in `order` of the first line that claims seq; x->n: none does. */
static int64_t index_find(const struct index *x, int64_t seq)
{
    int64_t lo = 0, hi = x->n;

    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (x->lines[x->order[mid]].claimed < seq)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < x->n && x->lines[x->order[lo]].claimed == seq ? lo : x->n;
}

static bool links(const struct audit_hash *prev, const struct seen *s)
{
    struct audit_hash h = audit_link(prev, s->claimed, s->mac, &s->content);

    return memcmp(h.b, s->hash.b, HMAC_BYTES) == 0;
}

enum link_kind { LINK_NONE, LINK_TO_ANOTHER, LINK_HOLDS };

/* Does the line follow one that claims the number before? Or one whose own hash alone was changed? */
static enum link_kind link_of(const struct verify *v, const struct index *x, const struct seen *s)
{
    enum link_kind kind = LINK_NONE;

    if (v->begun && s->claimed == v->last + 1 && links(&v->prev, s))
        return LINK_HOLDS;
    for (int64_t i = index_find(x, s->claimed - 1); i < x->n; i++) {
        const struct seen *p = &x->lines[x->order[i]];
        if (p->claimed != s->claimed - 1)
            break;
        kind = LINK_TO_ANOTHER;
        if (links(&p->hash, s))
            return LINK_HOLDS;
        struct audit_hash before = v->prev;
        int64_t k = index_find(x, p->claimed - 1);
        if (k < x->n)
            before = x->lines[x->order[k]].hash;
        struct audit_hash should = audit_link(&before, p->claimed, p->mac, &p->content);
        if (links(&should, s))
            return LINK_HOLDS;
    }
    return kind;
}

/* ---- what each line is ----------------------------------------------------------------------------------------------- */

static bool mac_holds(const struct verify *v, const struct seen *s, int64_t seq)
{
    uint8_t mac[AUDIT_MAC_BYTES];

    audit_mac(&v->o->keys->mac, seq, &s->content, mac);
    return memcmp(mac, s->mac, sizeof mac) == 0;
}

/* Of a line whose MAC does not hold for its number: for which does it? `near`: what it would be if nothing were amiss;
 * it may have been moved about in its segment, or others removed before it. */
static int64_t find_number(const struct verify *v, const struct seen *s, int64_t near, int64_t within, int64_t *tries)
{
    for (int64_t d = 0; d <= within && d <= TRIES_AHEAD && *tries > 0; d++) {
        (*tries)--;
        if (mac_holds(v, s, near + d))
            return near + d;
        if (d > 0 && d <= TRIES_BACK && near > d && mac_holds(v, s, near - d))
            return near - d;
    }
    return 0;
}

static void tell_by_mac(const struct verify *v, const struct index *x, struct seen *lines, int64_t n)
{
    int64_t near = v->last + 1, tries = TRIES_MAX;

    for (int64_t i = 0; i < n; i++) {
        struct seen *s = &lines[i];
        if (!s->claimed)
            continue;
        s->truth = mac_holds(v, s, s->claimed) ? s->claimed : find_number(v, s, near, 2 * n + 64, &tries);
        if (s->truth)
            near = s->truth + 1;
        if (s->truth == s->claimed)
            s->hash_is_wrong = link_of(v, x, s) == LINK_TO_ANOTHER;
    }
    /* Only where the line before is ours, too, does a wrong link say that this one's hash was changed. */
    for (int64_t i = 0; i < n; i++) {
        int64_t k = index_find(x, lines[i].claimed - 1);
        bool known = k < x->n ? lines[x->order[k]].truth == lines[i].claimed - 1 : lines[i].claimed == v->last + 1;
        lines[i].hash_is_wrong = lines[i].hash_is_wrong && known;
    }
}

static void tell_by_link(const struct verify *v, const struct index *x, struct seen *lines, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        struct seen *s = &lines[i];
        enum link_kind kind = s->claimed ? link_of(v, x, s) : LINK_TO_ANOTHER;
        bool after_a_gap = kind == LINK_NONE; /* who it follows is not there: it is taken at its word */
        s->truth = kind == LINK_HOLDS || after_a_gap ? s->claimed : 0;
    }
}

/* ---- numbers in order ------------------------------------------------------------------------------------------------ */

static void add_gap(struct verify *v, int64_t first, int64_t last, const char *file, int64_t line)
{
    if (v->n_gaps < GAPS_MAX)
        v->gaps[v->n_gaps++] = (struct gap){first, last, line, file};
    else
        v->r->findings_more++;
}

/* A record that was missing has turned up. False: it was not missing. */
static bool take_from_gap(struct verify *v, int64_t seq)
{
    for (int i = 0; i < v->n_gaps; i++) {
        struct gap *g = &v->gaps[i];
        if (seq < g->first || seq > g->last)
            continue;
        struct gap rest = {seq + 1, g->last, g->line, g->file};
        g->last = seq - 1;
        if (g->first > g->last)
            *g = v->gaps[--v->n_gaps];
        if (rest.first <= rest.last)
            add_gap(v, rest.first, rest.last, rest.file, rest.line);
        return true;
    }
    return false;
}

/* A record that is out of its place; a run of them is one finding. */
static void add_reordered(struct verify *v, int64_t seq, const char *file, int64_t line)
{
    struct verify_result *r = v->r;
    struct verify_finding *f = r->n_findings ? &r->findings[r->n_findings - 1] : NULL;

    if (f && f->what == VERIFY_REORDERED && f->last == seq - 1) {
        f->last = seq;
        snprintf(f->text, sizeof f->text,
                 "records %" PRId64 " to %" PRId64 " stand behind record %" PRId64 ", which they were before", f->first,
                 seq, v->last);
        return;
    }
    verify_add(v, VERIFY_REORDERED, seq, seq, file, line,
               "record %" PRId64 " stands behind record %" PRId64 ", which it was before", seq, v->last);
}

/* `next` is ours and the next that is: what of the lines between it and `last` that are not? */
static void judge_unknown(struct verify *v, int64_t next)
{
    int64_t missing = next - v->last - 1, u = v->unknown, first = v->last + 1;

    v->unknown = 0;
    if (!u)
        return;
    if (missing <= 0) {
        verify_add(v, VERIFY_INSERTED, first, first, v->unknown_file, v->unknown_line,
                   "%" PRId64 " line%s that we have not written stand%s before record %" PRId64, u, u == 1 ? "" : "s",
                   u == 1 ? "s" : "", first);
        return;
    }
    int64_t changed = u < missing ? u : missing;
    if (changed == 1)
        verify_add(v, VERIFY_CHANGED, first, first, v->unknown_file, v->unknown_line,
                   "record %" PRId64 " is not what was written", first);
    else
        verify_add(v, VERIFY_CHANGED, first, first + changed - 1, v->unknown_file, v->unknown_line,
                   "records %" PRId64 " to %" PRId64 " are not what was written", first, first + changed - 1);
    if (u > missing)
        verify_add(v, VERIFY_INSERTED, next, next, v->unknown_file, v->unknown_line,
                   "%" PRId64 " more lines than there were records stand before record %" PRId64, u - missing, next);
    v->last = first + changed - 1;
}

static void walk(struct verify *v, const char *file, const struct seen *lines, int64_t n)
{
    int64_t shift = 0; /* of the numbers, where they were made anew */

    for (int64_t i = 0; i < n; i++) {
        int64_t t = lines[i].truth, line = i + 1;
        if (!t) {
            if (v->unknown++ == 0) {
                v->unknown_file = file;
                v->unknown_line = line;
            }
            continue;
        }
        if (t <= v->last && take_from_gap(v, t)) {
            add_reordered(v, t, file, line);
            continue;
        }
        if (t <= v->last) {
            verify_add(v, VERIFY_INSERTED, v->last + 1, v->last + 1, file, line,
                       "record %" PRId64 " stands a second time, before record %" PRId64, t, v->last + 1);
            continue;
        }
        judge_unknown(v, t);
        if (lines[i].hash_is_wrong)
            verify_add(v, VERIFY_CHANGED, t, t, file, line, "the hash of record %" PRId64 " is not its own", t);
        if (lines[i].claimed != t && lines[i].claimed - t != shift)
            verify_add(v, VERIFY_CHANGED, t, t, file, line, "record %" PRId64 " bears the number %" PRId64, t,
                       lines[i].claimed);
        shift = lines[i].claimed - t;
        if (t > v->last + 1)
            add_gap(v, v->last + 1, t - 1, file, line);
        v->last = t;
    }
}

void verify_settle(struct verify *v)
{
    for (int i = 0; i < v->n_gaps; i++) {
        const struct gap *g = &v->gaps[i];
        if (g->first == g->last)
            verify_add(v, VERIFY_REMOVED, g->first, g->last, g->file, g->line, "record %" PRId64 " was removed",
                       g->first);
        else
            verify_add(v, VERIFY_REMOVED, g->first, g->last, g->file, g->line,
                       "records %" PRId64 " to %" PRId64 " were removed", g->first, g->last);
    }
    v->n_gaps = 0;
    if (v->unknown)
        verify_add(v, VERIFY_UNSEALED, v->last + 1, v->last + 1, v->unknown_file, v->unknown_line,
                   "%" PRId64 " line%s behind record %" PRId64 " %s no record%s of ours: torn, changed or added",
                   v->unknown, v->unknown == 1 ? "" : "s", v->last, v->unknown == 1 ? "is" : "are",
                   v->unknown == 1 ? "" : "s");
    v->unknown = 0;
}

/* ---- seals ----------------------------------------------------------------------------------------------------------- */

static bool seal_holds(const struct verify *v, const struct seen *lines, int64_t i)
{
    struct audit_head h = lines[i].seal;

    h.seq = lines[i - 1].claimed;
    h.hash = lines[i - 1].hash;
    memcpy(h.chain, v->chain, sizeof h.chain);
    return audit_head_verify(&h, v->o->keys);
}

/* The first seal whose signature does not hold: hashes that were made anew fail all seals behind them. */
static void check_seals(struct verify *v, const char *file, const struct seen *lines, int64_t n)
{
    int64_t *seals = spw_calloc((size_t)n + 1, sizeof *seals), k = 0, lo, hi;

    for (int64_t i = 1; i < n; i++)
        if (lines[i].is_seal && lines[i].claimed == lines[i - 1].claimed + 1 && lines[i].truth)
            seals[k++] = i;
    v->r->seals += k;
    if (k && !seal_holds(v, lines, seals[k - 1])) {
        for (lo = 0, hi = k - 1; lo < hi;) {
            int64_t mid = lo + (hi - lo) / 2;
            if (seal_holds(v, lines, seals[mid]))
                lo = mid + 1;
            else
                hi = mid;
        }
        int64_t first = lo                     ? lines[seals[lo - 1]].claimed
                        : lines[0].claimed > 1 ? lines[0].claimed - 1
                                               : 1,
                last = lines[seals[lo]].claimed;
        verify_add(v, VERIFY_SIGNATURE, v->o->keys->sign ? last : first, last, file, seals[lo] + 1,
                   "the signature of record %" PRId64 ", which seals records %" PRId64 " to %" PRId64
                   ", does not hold: something up to there was changed and the hashes were made anew",
                   last, first, last - 1);
    } else if (k) {
        v->r->end = lines[seals[k - 1]].seal;
        v->r->end.seq = lines[seals[k - 1] - 1].claimed;
        v->r->end.hash = lines[seals[k - 1] - 1].hash;
        memcpy(v->r->end.chain, v->chain, sizeof v->r->end.chain);
    }
    free(seals);
}

static void check_end(struct verify *v, const char *file, const struct seen *lines, int64_t n)
{
    int64_t i = n;

    while (i > 0 && !lines[i - 1].is_seal)
        i--;
    if (i < n && lines[n - 1].claimed) /* else the line that is no record says it */
        verify_add(v, VERIFY_UNSEALED, v->last + 1, v->last + 1, file, n,
                   "the %" PRId64 " record%s behind the last seal, up to record %" PRId64
                   ", are under no signature: the end was torn, cut off, or is being written",
                   n - i, n - i == 1 ? "" : "s", v->last);
}

static void check_heads_at(struct verify *v, const char *file, const struct index *x)
{
    for (int k = 0; k < v->o->n_heads; k++) {
        const struct audit_head *h = &v->o->heads[k];
        int64_t at = index_find(x, h->seq);
        if (at < x->n && memcmp(x->lines[x->order[at]].hash.b, h->hash.b, HMAC_BYTES) != 0)
            verify_add(v, VERIFY_HEAD, h->seq, h->seq, file, x->order[at] + 1,
                       "record %" PRId64
                       " has another hash than the head that was exported at %s: something up to there "
                       "was changed",
                       h->seq, h->time);
    }
}

void verify_detail(struct verify *v, const char *file, struct seen *lines, int64_t n)
{
    struct index x;

    if (n == 0) {
        verify_add(v, VERIFY_UNSEALED, v->last + 1, v->last + 1, file, 0, "the segment is empty");
        return;
    }
    index_make(&x, lines, n);
    if (v->o->keys->sign)
        tell_by_mac(v, &x, lines, n);
    else
        tell_by_link(v, &x, lines, n);
    int64_t before = v->last;
    walk(v, file, lines, n);
    check_seals(v, file, lines, n);
    check_end(v, file, lines, n);
    check_heads_at(v, file, &x);
    v->prev = lines[n - 1].hash;
    v->r->records += n;
    v->r->first = v->r->first ? v->r->first : before + 1;
    v->r->last = v->last;
    free(x.order);
}
