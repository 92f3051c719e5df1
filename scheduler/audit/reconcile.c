#include "scheduler/audit/reconcile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "scheduler/audit/record.h"
#include "scheduler/audit/store.h"
#include "scheduler/books/archive.h"

#define SLACK_MS       60000              /* that a record's time and its seal's, or row's, may be apart */
#define TAIL_BYTES_MAX ((size_t)64 << 20) /* of the chain's end that is looked at */
#define ROWS_FIRST     256
#define ROWS_MAX       65536 /* about what can be under way at once */

struct ids { /* request ids with the time of each */
    struct known {
        char id[48];
        int64_t ms;
    } * v; /* owned */
    int n, cap;
    int64_t newest_ms; /* of the records that were written in the ordinary course */
    int64_t began_ms;  /* the first of what was read */
};

static void ids_add(struct ids *x, const char *id, size_t n, int64_t ms)
{
    if (n == 0 || n >= sizeof x->v->id)
        return;
    if (x->n == x->cap) {
        x->cap = x->cap ? 2 * x->cap : 256;
        x->v = spw_realloc(x->v, (size_t)x->cap * sizeof *x->v);
    }
    struct known *k = &x->v[x->n++];
    memcpy(k->id, id, n);
    k->id[n] = '\0';
    k->ms = ms;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct known *)a)->id, ((const struct known *)b)->id);
}

static void ids_sort(struct ids *x)
{
    if (x->n)
        qsort(x->v, (size_t)x->n, sizeof *x->v, by_id);
}

static bool ids_have(const struct ids *x, const char *id)
{
    struct known k = {.ms = 0};

    snprintf(k.id, sizeof k.id, "%s", id);
    return x->n && bsearch(&k, x->v, (size_t)x->n, sizeof k, by_id) != NULL;
}

/* ---- the end of the chain -------------------------------------------------------------------------------------------- */

/* The requests among these lines. All is our own writing, which the store has looked at. */
static void read_lines(struct ids *records, const char *text, size_t n)
{
    static const char request[] = "{\"k\":\"request\",\"t\":\"", voided[] = "{\"k\":\"void\",\"t\":\"",
                      id_key[] = "\"id\":\"";
    const char *p = text, *end = text + n, *eol;
    struct audit_line l;

    for (; p < end && (eol = memchr(p, '\n', (size_t)(end - p))) != NULL; p = eol + 1) {
        char time[32];
        int64_t ms;
        if (!audit_line_parse(p, (size_t)(eol - p), &l))
            continue;
        const char *t = memmem(l.json, l.n, "\"t\":\"", 5);
        snprintf(time, sizeof time, "%.24s", t ? t + 5 : "");
        bool earlier =
            p == text && text_parse_time_ms(time, &ms) == RC_OK && (!records->began_ms || ms < records->began_ms);
        if (earlier)
            records->began_ms = ms;
        bool is_request = l.n > sizeof request && memcmp(l.json, request, sizeof request - 1) == 0;
        bool is_void = l.n > sizeof voided && memcmp(l.json, voided, sizeof voided - 1) == 0;
        const char *id = is_request || is_void ? memmem(l.json, l.n, id_key, sizeof id_key - 1) : NULL;
        if (!id)
            continue;
        const char *at = l.json + (is_request ? sizeof request : sizeof voided) - 1;
        snprintf(time, sizeof time, "%.24s", at);
        id += sizeof id_key - 1;
        const char *quote = memchr(id, '"', (size_t)(l.json + l.n - id));
        if (!quote || text_parse_time_ms(time, &ms) != RC_OK)
            continue;
        if (is_request && ms > records->newest_ms && !memmem(l.json, l.n, "\"recovered\":\"ledger\"", 20))
            records->newest_ms = ms;
        ids_add(records, id, (size_t)(quote - id), is_void ? INT64_MIN : ms); /* a void is not voided again */
    }
}

static enum rc read_end(const char *path, struct ids *records, size_t *left, struct error *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return error_set(e, RC_IO, "audit: %s: %s", path, strerror(errno));
    }
    size_t n = (size_t)st.st_size < *left ? (size_t)st.st_size : *left;
    char *text = spw_malloc(n + 1);
    ssize_t k = pread(fd, text, n, st.st_size - (off_t)n);
    close(fd);
    if (k > 0)
        read_lines(records, text, (size_t)k);
    free(text);
    *left -= n;
    return k < 0 ? error_set(e, RC_IO, "audit: %s: %s", path, strerror(errno)) : RC_OK;
}

/* Of the whole chain, a segment at a time. */
static enum rc read_whole(const char *dir, struct ids *records, int64_t *began_ms, struct error *e)
{
    char **names;
    int n;
    enum rc rc = store_list(dir, &names, &n, e);

    *began_ms = INT64_MAX;
    for (int i = 0; i < n && rc == RC_OK; i++) {
        size_t all = SIZE_MAX;
        rc = read_end(names[i], records, &all, e);
    }
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    for (int i = 0; i < records->n; i++)
        if (records->v[i].ms != INT64_MIN && records->v[i].ms < *began_ms)
            *began_ms = records->v[i].ms;
    ids_sort(records);
    return rc;
}

static enum rc read_chain(const char *dir, struct ids *records, struct error *e)
{
    char **names;
    int n;
    size_t left = TAIL_BYTES_MAX;
    enum rc rc = store_list(dir, &names, &n, e);

    for (int i = n - 1; i >= 0 && i >= n - 2 && rc == RC_OK; i--)
        rc = read_end(names[i], records, &left, e);
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    ids_sort(records);
    return rc;
}

/* ---- the ledger ------------------------------------------------------------------------------------------------------ */

struct job {
    struct audit *audit;
    struct ids records, rows;
    struct strbuf text;
    int64_t since_ms, oldest_ms, newest_ms;
    struct audit_reconciled *r;
};

static void note_row(const struct ledger_row *row, void *arg)
{
    struct job *j = arg;
    int64_t ms = row->finished.ns / NS_PER_MS;

    ids_add(&j->rows, row->request_id, strlen(row->request_id), ms);
    j->oldest_ms = ms < j->oldest_ms ? ms : j->oldest_ms;
    j->newest_ms = ms > j->newest_ms ? ms : j->newest_ms;
}

static void recover_row(const struct ledger_row *row, void *arg)
{
    struct job *j = arg;
    const struct record_request record = {.row = row, .recovered = true};

    if (row->finished.ns / NS_PER_MS < j->since_ms || ids_have(&j->records, row->request_id))
        return;
    if (record_request(&j->text, &record) == RC_OK && audit_note(j->audit, j->text.data, j->text.len) == RC_OK)
        j->r->recovered++;
}

/* The newest rows, as far back as the window goes. *n: how many. */
static enum rc read_rows(struct job *j, const char *path, int *n, struct error *e)
{
    for (*n = ROWS_FIRST;; *n *= 16) {
        j->rows.n = 0;
        j->oldest_ms = INT64_MAX;
        j->newest_ms = INT64_MIN;
        enum rc rc = ledger_read(path, *n, note_row, j, e);
        if (rc != RC_OK)
            return rc;
        bool all = j->rows.n < *n;
        if (all)
            j->oldest_ms = INT64_MIN;
        if (all || *n >= ROWS_MAX || j->oldest_ms < j->since_ms)
            return RC_OK;
    }
}

static void void_records(struct job *j)
{
    int64_t since = j->since_ms;

    if (j->rows.n > 0) { /* else there is no newest row */
        since = j->newest_ms - SLACK_MS < since ? j->newest_ms - SLACK_MS : since;
        since = since > j->oldest_ms ? since : j->oldest_ms + 1;
    }
    for (int i = 0; i < j->records.n; i++) {
        const struct known *k = &j->records.v[i];
        bool twice = (i > 0 && strcmp(k->id, k[-1].id) == 0) || (i + 1 < j->records.n && strcmp(k->id, k[1].id) == 0);
        if (k->ms < since || twice || ids_have(&j->rows, k->id))
            continue;
        struct json_writer w = record_begin(&j->text, "void", clock_wall(&clock_system));
        json_string(&w, "id", k->id);
        if (record_end(&w) == RC_OK && audit_note(j->audit, j->text.data, j->text.len) == RC_OK)
            j->r->voided++;
    }
}

enum rc audit_reconcile(struct audit *a, const char *dir, const char *ledger_path, struct audit_reconciled *r,
                        struct error *e)
{
    struct audit_head head = audit_newest_head(a);
    struct job j = {.audit = a, .r = r};
    int n = 0;

    *r = (struct audit_reconciled){0};
    if (!head.seq || access(ledger_path, F_OK) != 0)
        return RC_OK; /* rows from before there was an audit have no records */
    strbuf_init(&j.text, AUDIT_JSON_BYTES_MAX);
    enum rc rc = read_chain(dir, &j.records, e);
    /* What an earlier start has reconciled stands before all that came in the ordinary course after it. Seals say
     * nothing: a start that was cut off has its own, and may not have come to this. */
    j.since_ms = j.records.newest_ms ? j.records.newest_ms - SLACK_MS : j.records.began_ms;
    if (rc == RC_OK)
        rc = read_rows(&j, ledger_path, &n, e);
    if (rc == RC_OK) {
        ids_sort(&j.rows);
        rc = ledger_read(ledger_path, n, recover_row, &j, e);
        void_records(&j);
    }
    free(j.records.v);
    free(j.rows.v);
    strbuf_fini(&j.text);
    return rc;
}

/* ---- for auditors ---------------------------------------------------------------------------------------------------- */

static bool is_void(const struct ids *x, int i)
{
    const struct known *k = &x->v[i];

    return k->ms == INT64_MIN || (i > 0 && strcmp(k->id, k[-1].id) == 0 && k[-1].ms == INT64_MIN) ||
           (i + 1 < x->n && strcmp(k->id, k[1].id) == 0 && k[1].ms == INT64_MIN);
}

static bool note_any_row(const struct ledger_row *row, void *arg)
{
    note_row(row, arg);
    return true;
}

enum rc audit_compare(const char *dir, const char *ledger_path, struct audit_compared *c,
                      void (*each)(enum audit_lack lack, const char *request_id, void *arg), void *arg, struct error *e)
{
    struct job j = {.oldest_ms = INT64_MAX, .newest_ms = INT64_MIN};
    int64_t began_ms;
    enum rc rc = read_whole(dir, &j.records, &began_ms, e);

    *c = (struct audit_compared){0};
    if (rc == RC_OK)
        rc = archive_read_period(ledger_path, (struct wall){0}, (struct wall){INT64_MAX}, note_any_row, &j, e);
    ids_sort(&j.rows);
    for (int i = 0; i < j.rows.n && rc == RC_OK; i++) {
        if (j.rows.v[i].ms < began_ms)
            continue;
        c->rows++;
        if (ids_have(&j.records, j.rows.v[i].id))
            continue;
        c->lacking++;
        each(AUDIT_ROW_WITHOUT_RECORD, j.rows.v[i].id, arg);
    }
    for (int i = 0; i < j.records.n && rc == RC_OK; i++) {
        if (is_void(&j.records, i))
            continue;
        c->records++;
        if (ids_have(&j.rows, j.records.v[i].id))
            continue;
        c->lacking++;
        each(AUDIT_RECORD_WITHOUT_ROW, j.records.v[i].id, arg);
    }
    free(j.records.v);
    free(j.rows.v);
    return rc;
}
