/* Segment after segment, line after line. Where all is well (numbers, links, MACs, and the signature of a segment's
 * last seal, which vouches for every line before it) nothing is kept; a segment where anything is not is read into
 * memory and goes to verify_detail.c. */
#include "scheduler/audit/verify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "scheduler/audit/store.h"
#include "scheduler/audit/verify_internal.h"

#define READ_BYTES ((size_t)1 << 20)
#define AGAIN_MAX  20 /* looks at an end that may just be being written */

const char *verify_what_name(enum verify_what w)
{
    static const char *const names[] = {
        [VERIFY_CHANGED] = "changed",     [VERIFY_REMOVED] = "removed", [VERIFY_INSERTED] = "inserted",
        [VERIFY_REORDERED] = "reordered", [VERIFY_CUT_OFF] = "cut off", [VERIFY_UNSEALED] = "unsealed",
        [VERIFY_SIGNATURE] = "signature", [VERIFY_HEAD] = "head",       [VERIFY_UNREADABLE] = "unreadable",
    };
    return names[w];
}

void verify_add(struct verify *v, enum verify_what what, int64_t first, int64_t last, const char *file, int64_t line,
                const char *format, ...)
{
    struct verify_result *r = v->r;
    va_list args;

    if (r->n_findings >= VERIFY_FINDINGS_MAX) {
        r->findings_more++;
        return;
    }
    if (!r->findings)
        r->findings = spw_calloc(VERIFY_FINDINGS_MAX, sizeof *r->findings);
    struct verify_finding *f = &r->findings[r->n_findings++];
    *f = (struct verify_finding){.what = what, .first = first, .last = last, .file = file ? file : "", .line = line};
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
}

/* ---- reading a segment ----------------------------------------------------------------------------------------------- */

struct reader {
    int fd;
    char *buf; /* owned */
    size_t at, end;
    bool eof;
};

static bool reader_open(struct reader *r, const char *path)
{
    *r = (struct reader){.fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (r->fd < 0)
        return false;
    r->buf = spw_malloc(READ_BYTES + AUDIT_LINE_BYTES_MAX);
    return true;
}

static void reader_close(struct reader *r)
{
    if (r->fd >= 0)
        close(r->fd);
    free(r->buf);
}

/* The next line without its end. *ended: it has one. An overlong line comes in pieces, none of which is a record. */
static bool reader_next(struct reader *r, const char **line, size_t *n, bool *ended)
{
    for (;;) {
        char *start = r->buf + r->at, *eol = memchr(start, '\n', r->end - r->at);
        size_t left = r->end - r->at;
        if (eol || (r->eof && left) || left > AUDIT_LINE_BYTES_MAX) {
            *line = start;
            *n = eol ? (size_t)(eol - start) : left;
            *ended = eol != NULL;
            r->at += *n + (eol != NULL);
            return true;
        }
        if (r->eof)
            return false;
        memmove(r->buf, start, left);
        r->at = 0;
        r->end = left;
        ssize_t k = read(r->fd, r->buf + left, READ_BYTES);
        if (k > 0)
            r->end += (size_t)k;
        else if (k == 0 || errno != EINTR)
            r->eof = true;
    }
}

/* ---- a segment where all is well ------------------------------------------------------------------------------------- */

struct quick {
    int64_t seq, first, records, seals, bytes;
    struct audit_hash prev;
    char chain[AUDIT_CHAIN_DIGITS + 1];
    struct audit_head seal; /* the last line's, if that is one; seq 0: it is none */
    bool sound, begun;
};

static bool is_ours(const struct audit_keys *keys, const struct audit_line *l, const struct audit_hash *content)
{
    uint8_t mac[AUDIT_MAC_BYTES];

    if (!keys->sign)
        return true;
    audit_mac(&keys->mac, l->seq, content, mac);
    return memcmp(mac, l->mac, sizeof mac) == 0;
}

/* The segment's first record: it goes on from what is known. */
static bool begins_well(const struct verify *v, struct quick *q, const struct audit_line *l)
{
    struct audit_segment s;

    if (!audit_segment_read(l->json, l->n, &s) ||
        memcmp(s.public_part, v->o->keys->public_part, sizeof s.public_part) != 0 ||
        (v->chain[0] && strcmp(v->chain, s.chain) != 0))
        return false;
    memcpy(q->chain, s.chain, sizeof q->chain);
    if (!q->begun) { /* the first that is read */
        q->begun = true;
        q->seq = l->seq - 1;
        q->prev = s.prev;
    }
    return memcmp(s.prev.b, q->prev.b, HMAC_BYTES) == 0;
}

static bool agrees_with_heads(const struct verify *v, int64_t seq, const struct audit_hash *hash)
{
    for (int i = 0; i < v->o->n_heads; i++)
        if (v->o->heads[i].seq == seq && memcmp(v->o->heads[i].hash.b, hash->b, HMAC_BYTES) != 0)
            return false;
    return true;
}

static bool take_line(const struct verify *v, struct quick *q, const char *text, size_t n)
{
    struct audit_line l;

    if (!audit_line_parse(text, n, &l) || (q->records == 0 && !begins_well(v, q, &l)) || l.seq != q->seq + 1)
        return false;
    struct audit_hash content = audit_content(l.json, l.n), hash = audit_link(&q->prev, l.seq, l.mac, &content);
    if (memcmp(hash.b, l.hash.b, HMAC_BYTES) != 0 || !is_ours(v->o->keys, &l, &content))
        return false;
    q->seal = (struct audit_head){.seq = q->seq, .hash = q->prev};
    if (audit_seal_read(l.json, l.n, &q->seal))
        q->seals++;
    else
        q->seal.seq = 0;
    if (v->o->n_heads && !agrees_with_heads(v, l.seq, &hash))
        return false;
    q->seq = l.seq;
    q->prev = hash;
    if (q->records++ == 0)
        q->first = l.seq;
    q->bytes += (int64_t)n + 1;
    return true;
}

static void complete(struct audit_head *h, const char *chain, const struct audit_keys *keys)
{
    memcpy(h->chain, chain, sizeof h->chain);
    memcpy(h->public_part, keys->public_part, sizeof h->public_part);
}

/* True: all is well in it, and v has moved on. */
static bool is_sound(struct verify *v, const char *path)
{
    struct quick q = {.seq = v->last, .prev = v->prev, .sound = true, .begun = v->begun};
    struct reader r;
    const char *line;
    size_t n;
    bool ended = true;

    if (v->unknown || !reader_open(&r, path))
        return false;
    while (q.sound && reader_next(&r, &line, &n, &ended))
        q.sound = ended && take_line(v, &q, line, n);
    reader_close(&r);
    if (!q.sound || !q.seal.seq)
        return false;
    complete(&q.seal, q.chain, v->o->keys);
    if (!audit_head_verify(&q.seal, v->o->keys))
        return false;
    memcpy(v->chain, q.chain, sizeof v->chain);
    v->last = q.seq;
    v->prev = q.prev;
    v->begun = true;
    v->r->end = q.seal;
    v->r->records += q.records;
    v->r->seals += q.seals;
    v->r->bytes += q.bytes;
    v->r->first = v->r->first ? v->r->first : q.first;
    v->r->last = q.seq;
    return true;
}

/* ---- one where it is not --------------------------------------------------------------------------------------------- */

static void see(struct seen *s, const char *text, size_t n, bool ended)
{
    struct audit_line l;

    *s = (struct seen){0};
    if (!ended || !audit_line_parse(text, n, &l))
        return;
    s->claimed = l.seq;
    s->hash = l.hash;
    s->content = audit_content(l.json, l.n);
    memcpy(s->mac, l.mac, sizeof s->mac);
    s->is_seal = audit_seal_read(l.json, l.n, &s->seal);
}

/* What the segment's first record says, as far as it is one. */
static void begin_detail(struct verify *v, const char *path, const char *text, size_t n)
{
    struct audit_segment s;
    struct audit_line l;

    if (!audit_line_parse(text, n, &l) || !audit_segment_read(l.json, l.n, &s))
        return;
    if (memcmp(s.public_part, v->o->keys->public_part, sizeof s.public_part) != 0)
        verify_add(v, VERIFY_CHANGED, l.seq, l.seq, path, 1, "record %" PRId64 " names another public key", l.seq);
    if (v->chain[0] && strcmp(v->chain, s.chain) != 0)
        verify_add(v, VERIFY_CHANGED, l.seq, l.seq, path, 1, "record %" PRId64 " names another chain", l.seq);
    if (!v->chain[0])
        memcpy(v->chain, s.chain, sizeof v->chain);
    if (v->begun)
        return;
    v->begun = true;
    v->last = l.seq - 1;
    v->prev = s.prev;
}

static void look_closely(struct verify *v, const char *path)
{
    struct reader r;
    struct seen *lines = NULL;
    int64_t n_lines = 0, cap = 0;
    const char *line;
    size_t n;
    bool ended;

    if (!reader_open(&r, path)) {
        verify_add(v, VERIFY_UNREADABLE, v->last + 1, v->last + 1, path, 0, "%s cannot be read: %s", path,
                   strerror(errno));
        return;
    }
    while (reader_next(&r, &line, &n, &ended)) {
        if (n_lines == 0)
            begin_detail(v, path, line, n);
        if (n_lines == cap) {
            cap = cap ? 2 * cap : 1024;
            lines = spw_realloc(lines, (size_t)cap * sizeof *lines);
        }
        see(&lines[n_lines++], line, n, ended);
        v->r->bytes += (int64_t)n + ended;
    }
    reader_close(&r);
    int found = v->r->n_findings;
    int64_t last = v->last;
    verify_detail(v, path, lines, n_lines);
    if (v->r->n_findings == found && !v->n_gaps && !v->unknown)
        verify_add(v, VERIFY_CHANGED, last + 1, v->last, path, 0, "%s does not go on from the segment before it", path);
    free(lines);
}

/* ---- which segments -------------------------------------------------------------------------------------------------- */

/* Number and time of a segment's first record; false: it does not begin as it should, and is read in any case. */
static bool first_of(const char *path, int64_t *seq, char time[32])
{
    struct reader r;
    struct audit_line l;
    const char *line;
    size_t n;
    bool ended, ok = false;

    if (!reader_open(&r, path))
        return false;
    if (reader_next(&r, &line, &n, &ended) && ended && audit_line_parse(line, n, &l)) {
        static const char begin[] = "{\"k\":\"segment\",\"t\":\"";
        const size_t m = sizeof begin - 1;
        *seq = l.seq;
        ok = l.n > m + 24 && memcmp(l.json, begin, m) == 0;
        if (ok)
            snprintf(time, 32, "%.24s", l.json + m);
    }
    reader_close(&r);
    return ok;
}

/* The segments that hold what is asked for: [*begin, *end). */
static void choose(const struct verify *v, char **names, int n, int *begin, int *end)
{
    const struct verify_options *o = v->o;
    char time[32];
    int64_t seq;

    *begin = 0;
    *end = n;
    for (int i = 0; i < n && (o->from || o->to || o->from_t || o->to_t); i++) {
        if (!first_of(names[i], &seq, time))
            continue;
        if ((o->from && seq <= o->from) || (o->from_t && strcmp(time, o->from_t) <= 0))
            *begin = i;
        if (*end == n && ((o->to && seq > o->to) || (o->to_t && strcmp(time, o->to_t) > 0)))
            *end = i;
    }
    if (*end < *begin)
        *end = *begin;
}

/* ---- heads ----------------------------------------------------------------------------------------------------------- */

static void check_heads(struct verify *v, bool to_the_end)
{
    const struct verify_options *o = v->o;
    struct audit_keys named;

    for (int i = 0; i < o->n_heads; i++) {
        const struct audit_head *h = &o->heads[i];
        bool holds = audit_keys_from_public(&named, h->public_part) == RC_OK && audit_head_verify(h, &named);
        audit_keys_fini(&named);
        if (!holds)
            verify_add(v, VERIFY_HEAD, h->seq, h->seq, NULL, 0,
                       "the signature of the exported head of record %" PRId64 " does not hold: it was changed itself",
                       h->seq);
        else if (memcmp(h->public_part, o->keys->public_part, sizeof h->public_part) != 0)
            verify_add(v, VERIFY_HEAD, h->seq, h->seq, NULL, 0,
                       "the exported head of record %" PRId64 " was signed with another key than this chain's", h->seq);
        else if (v->chain[0] && strcmp(v->chain, h->chain) != 0)
            verify_add(v, VERIFY_HEAD, h->seq, h->seq, NULL, 0,
                       "the exported head of record %" PRId64
                       " belongs to another chain: this one was put in its place",
                       h->seq);
        else if (h->seq > v->last && to_the_end)
            verify_add(v, VERIFY_CUT_OFF, v->last + 1, h->seq, NULL, 0,
                       "the chain ends with record %" PRId64 "; an exported head of %s has signed up to record %" PRId64
                       ": at least records %" PRId64 " to %" PRId64 " were cut off",
                       v->last, h->time, h->seq, v->last + 1, h->seq);
        else if (h->seq >= v->r->first && h->seq <= v->last && h->seq > v->r->head_seq)
            v->r->head_seq = h->seq;
    }
}

static int by_place(const void *a, const void *b)
{
    const struct verify_finding *x = a, *y = b;

    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x->what < y->what ? -1 : x->what > y->what;
}

static void read_segments(struct verify *v, char **names, int begin, int end)
{
    for (int i = begin; i < end; i++) {
        v->r->n_segments++;
        if (!is_sound(v, names[i]))
            look_closely(v, names[i]);
    }
    verify_settle(v);
}

/* Does its file end in the middle of a group, which may be being written right now? */
static bool is_at_work(const struct verify_result *r)
{
    return r->n_findings == 1 && r->findings[0].what == VERIFY_UNSEALED;
}

enum rc verify_chain(struct verify_result *r, const struct verify_options *o, struct error *e)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    struct verify *v = spw_calloc(1, sizeof *v);
    int begin, end;

    *r = (struct verify_result){0};
    for (int again = 0; again < AGAIN_MAX; again++) {
        verify_fini(r);
        *v = (struct verify){.o = o, .r = r, .begun = !o->from && !o->from_t};
        enum rc rc = store_list(o->dir, &r->files, &r->n_files, e);
        if (rc == RC_OK && r->n_files == 0 && o->n_heads == 0)
            rc = error_set(e, RC_NOT_FOUND, "audit: there is no chain in %s", o->dir);
        if (rc != RC_OK) {
            free(v);
            return rc;
        }
        choose(v, r->files, r->n_files, &begin, &end);
        read_segments(v, r->files, begin, end);
        if (o->at_rest || !is_at_work(r))
            break;
        nanosleep(&pause, NULL);
    }
    check_heads(v, end == r->n_files);
    if (r->n_findings)
        qsort(r->findings, (size_t)r->n_findings, sizeof *r->findings, by_place);
    free(v);
    return RC_OK;
}

void verify_fini(struct verify_result *r)
{
    for (int i = 0; i < r->n_files; i++)
        free(r->files[i]);
    free(r->files);
    free(r->findings);
    *r = (struct verify_result){0};
}
