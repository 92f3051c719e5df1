#include "scheduler/books/rollup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "scheduler/books/ledger_internal.h"

/* ---- the reader that all of them share --------------------------------------------------------------------------- */

enum rc books_reader_open(struct books_reader *r, const char *path, struct error *e)
{
    *r = (struct books_reader){.path = path};
    if (access(path, F_OK) != 0)
        return errno == ENOENT ? RC_OK : error_set(e, RC_IO, "ledger %s: %s", path, strerror(errno));
    enum rc rc = ledger_file_open_read_only(&r->db, path, e);
    if (rc == RC_OK)
        rc = ledger_file_version(r->db, path, &r->version, e);
    if (rc != RC_OK || r->version < LEDGER_VERSION_BOOKS)
        books_reader_close(r);
    return rc;
}

void books_reader_close(struct books_reader *r)
{
    sqlite3_close(r->db);
    r->db = NULL;
}

static enum rc fail(struct books_reader *r, struct error *e)
{
    return error_set(e, ledger_rc(sqlite3_errcode(r->db)), "ledger %s: %s", r->path, sqlite3_errmsg(r->db));
}

enum rc books_reader_prepare(struct books_reader *r, const char *sql, sqlite3_stmt **s, const int64_t *numbers, int n,
                             struct error *e)
{
    *s = NULL;
    int rc = sqlite3_prepare_v2(r->db, sql, -1, s, NULL);
    for (int i = 0; i < n && rc == SQLITE_OK; i++)
        rc = sqlite3_bind_int64(*s, i + 1, numbers[i]);
    return rc == SQLITE_OK ? RC_OK : fail(r, e);
}

bool books_reader_step(struct books_reader *r, sqlite3_stmt *s, enum rc *code, struct error *e)
{
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW)
        return true;
    *code = rc == SQLITE_DONE ? RC_OK : fail(r, e);
    return false;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

/* What each_row() is asked to make of a row. */
union made {
    struct node_hour node;
    struct closed_hour hour;
    struct charge_count charges;
};
typedef void make_fn(sqlite3_stmt *s, union made *m);

struct teller {
    void (*node)(const struct node_hour *, void *);
    void (*hour)(const struct closed_hour *, void *);
    void (*charges)(const struct charge_count *, void *);
    void *arg;
};

static enum rc each_row(const char *path, const char *sql, int64_t from_s, int64_t until_s, make_fn *make,
                        const struct teller *t, struct error *e)
{
    const int64_t numbers[] = {from_s, until_s};
    struct books_reader r;
    sqlite3_stmt *s = NULL;
    enum rc rc = books_reader_open(&r, path, e);
    if (rc != RC_OK || !r.db)
        return rc;
    rc = books_reader_prepare(&r, sql, &s, numbers, 2, e);
    while (rc == RC_OK && books_reader_step(&r, s, &rc, e)) {
        union made m;
        make(s, &m);
        if (t->node)
            t->node(&m.node, t->arg);
        else if (t->hour)
            t->hour(&m.hour, t->arg);
        else
            t->charges(&m.charges, t->arg);
    }
    sqlite3_finalize(s);
    books_reader_close(&r);
    return rc;
}

static const char *text(sqlite3_stmt *s, int *column)
{
    return (const char *)sqlite3_column_text(s, (*column)++);
}
static int64_t number(sqlite3_stmt *s, int *column)
{
    return sqlite3_column_int64(s, (*column)++);
}
static void texts(sqlite3_stmt *s, int *i, const char **const *to, int n)
{
    for (int k = 0; k < n; k++)
        *to[k] = text(s, i);
}
static void numbers(sqlite3_stmt *s, int *i, int64_t *const *to, int n)
{
    for (int k = 0; k < n; k++)
        *to[k] = number(s, i);
}

/* ---- roll-ups ---------------------------------------------------------------------------------------------------- */

struct kinds {
    struct rollup *of; /* owned; texts are the arena's */
    int n, cap;
    int *number; /* by the file's: index in `of` + 1; owned */
    int64_t n_number;
    struct arena *arena;
    sqlite3_stmt *ask;
};

static void make_kind(sqlite3_stmt *s, struct rollup *r, struct arena *arena)
{
    int i = 0;
    const char **const t[] = {&r->tenant, &r->team,     &r->project, &r->key_id, &r->tags,          &r->model, &r->pool,
                              &r->node,   &r->provider, &r->market,  &r->domain, &r->service_class, &r->cache};
    int64_t *const n[] = {&r->prices.input.uusd_per_mtok, &r->prices.cached_input.uusd_per_mtok,
                          &r->prices.output.uusd_per_mtok, &r->price_version};
    texts(s, &i, t, 13);
    numbers(s, &i, n, 4);
    for (int k = 0; k < 13; k++)
        *t[k] = *t[k] ? arena_strndup(arena, *t[k], strlen(*t[k])) : NULL;
}

static struct rollup *new_kind(struct kinds *k, int64_t number)
{
    if (k->n == k->cap) {
        k->cap = k->cap ? 2 * k->cap : 256;
        k->of = spw_realloc(k->of, (size_t)k->cap * sizeof *k->of);
    }
    if (number >= k->n_number) {
        const int64_t n = 2 * number + 256;
        k->number = spw_realloc(k->number, (size_t)n * sizeof *k->number);
        memset(k->number + k->n_number, 0, (size_t)(n - k->n_number) * sizeof *k->number);
        k->n_number = n;
    }
    struct rollup *r = &k->of[k->n];
    *r = (struct rollup){.kind = k->n++};
    k->number[number] = k->n;
    return r;
}

/* NULL: *rc and *e say why. */
static struct rollup *find_kind(struct books_reader *reader, struct kinds *k, int64_t number, enum rc *rc,
                                struct error *e)
{
    if (number >= 0 && number < k->n_number && k->number[number])
        return &k->of[k->number[number] - 1];
    struct rollup *r = NULL;
    sqlite3_bind_int64(k->ask, 1, number);
    if (number >= 0 && number < INT32_MAX && books_reader_step(reader, k->ask, rc, e))
        make_kind(k->ask, r = new_kind(k, number), k->arena);
    else if (*rc == RC_OK)
        *rc = error_set(e, RC_INVALID, "ledger %s: a roll-up is of kind %lld, which is not there", reader->path,
                        (long long)number);
    sqlite3_reset(k->ask);
    return r;
}

static void make_sums(sqlite3_stmt *s, struct rollup *r)
{
    int i = 2;
    int64_t *const n[] = {&r->requests,
                          &r->failed,
                          &r->cancelled,
                          &r->streamed,
                          &r->continuations,
                          &r->tokens.input,
                          &r->tokens.cached_input,
                          &r->tokens.output,
                          &r->tokens_reasoning,
                          &r->charge.v,
                          &r->saved.v,
                          &r->allocated.v,
                          &r->waste.v,
                          &r->busy_us,
                          &r->millijoules};
    r->hour_s = sqlite3_column_int64(s, 0);
    numbers(s, &i, n, 15);
}

/* A file from before kinds gets them for this reading. */
static enum rc number_kinds(struct books_reader *r, const int64_t *range, struct error *e)
{
    enum rc rc = RC_OK;
    for (int i = 0; ledger_kinds_of_old[i] && rc == RC_OK; i++) {
        const char *sql = ledger_kinds_of_old[i];
        sqlite3_stmt *s;
        rc = books_reader_prepare(r, sql, &s, range, strstr(sql, "?2") ? 2 : 0, e);
        if (rc == RC_OK)
            (void)books_reader_step(r, s, &rc, e);
        sqlite3_finalize(s);
    }
    return rc;
}

static enum rc read_rollups(struct books_reader *r, struct kinds *k, const int64_t *range,
                            void (*each)(const struct rollup *r, void *arg), void *arg, struct error *e)
{
    sqlite3_stmt *s = NULL;
    enum rc rc = r->version < LEDGER_VERSION_KINDS ? number_kinds(r, range, e) : RC_OK;
    if (rc == RC_OK)
        rc = books_reader_prepare(
            r,
            "SELECT tenant, team, project, key_id, tags, model, pool, node, provider, market, domain, service_class,"
            " cache, price_input_uusd_per_mtok, price_cached_input_uusd_per_mtok, price_output_uusd_per_mtok,"
            " price_version FROM rollup_kinds WHERE kind = ?1",
            &k->ask, NULL, 0, e);
    if (rc == RC_OK)
        rc = books_reader_prepare(
            r,
            "SELECT hour_s, kind, requests, failed, cancelled, streamed, continuations, tokens_input,"
            " tokens_cached_input, tokens_output, tokens_reasoning, charge_pusd, saved_pusd, allocated_pusd,"
            " waste_pusd, busy_us, millijoules FROM hour_sums WHERE hour_s >= ?1 AND hour_s < ?2"
            " AND hour_s IN (SELECT hour_s FROM hours) ORDER BY hour_s, kind",
            &s, range, 2, e);
    while (rc == RC_OK && books_reader_step(r, s, &rc, e)) {
        struct rollup *x = find_kind(r, k, sqlite3_column_int64(s, 1), &rc, e);
        if (x) {
            make_sums(s, x);
            each(x, arg);
        }
    }
    sqlite3_finalize(s);
    return rc;
}

enum rc rollup_read(const char *path, int64_t from_s, int64_t until_s, void (*each)(const struct rollup *r, void *arg),
                    void *arg, struct error *e)
{
    const int64_t range[] = {from_s, until_s};
    struct kinds k = {0};
    struct books_reader r;
    enum rc rc = books_reader_open(&r, path, e);
    if (rc != RC_OK || !r.db)
        return rc;
    k.arena = arena_new((size_t)1 << 40);
    rc = read_rollups(&r, &k, range, each, arg, e);
    sqlite3_finalize(k.ask);
    arena_free(k.arena);
    free(k.number);
    free(k.of);
    books_reader_close(&r);
    return rc;
}

/* ---- machines, hours --------------------------------------------------------------------------------------------- */

static void make_node(sqlite3_stmt *s, union made *m)
{
    struct node_hour *h = &m->node;
    int i = 0;
    h->hour_s = number(s, &i);
    const char **const t[] = {&h->node, &h->pool, &h->provider, &h->market, &h->domain};
    int64_t *const n[] = {&h->bill.v, &h->fixed.v, &h->energy.v, &h->tokens.v,  &h->allocated.v,
                          &h->idle.v, &h->boot.v,  &h->waste.v,  &h->variance.v};
    int64_t *const k[] = {&h->paid_us,   &h->busy_us,   &h->waste_us, &h->idle_us, &h->boot_us,
                          &h->asleep_us, &h->energy_mj, &h->busy_mj,  &h->idle_mj, &h->boot_mj};
    texts(s, &i, t, 5);
    numbers(s, &i, n, 9);
    h->why = text(s, &i);
    numbers(s, &i, k, 10);
    h->energy_is = (enum books_energy)number(s, &i);
    h->legs = number(s, &i);
    h->preempted = number(s, &i);
}

enum rc rollup_read_nodes(const char *path, int64_t from_s, int64_t until_s,
                          void (*each)(const struct node_hour *h, void *arg), void *arg, struct error *e)
{
    const struct teller t = {.node = each, .arg = arg};
    return each_row(path,
                    "SELECT hour_s, node, pool, provider, market, domain, bill_pusd, fixed_pusd, energy_pusd,"
                    " tokens_pusd, allocated_pusd, idle_pusd, boot_pusd, waste_pusd, variance_pusd, why, paid_us,"
                    " busy_us, waste_us, idle_us, boot_us, asleep_us, energy_mj, busy_mj, idle_mj, boot_mj, energy_is,"
                    " legs, preempted FROM node_hours WHERE hour_s >= ?1 AND hour_s < ?2"
                    " AND hour_s IN (SELECT hour_s FROM hours) ORDER BY hour_s, node",
                    from_s, until_s, make_node, &t, e);
}

static void make_hour(sqlite3_stmt *s, union made *m)
{
    struct closed_hour *h = &m->hour;
    int i = 0;
    int64_t *const n[] = {&h->hour_s,        &h->closed.ns, &h->requests, &h->tokens.input, &h->tokens.cached_input,
                          &h->tokens.output, &h->charge.v,  &h->saved.v,  &h->bill.v,       &h->allocated.v,
                          &h->idle.v,        &h->boot.v,    &h->waste.v,  &h->variance.v};
    numbers(s, &i, n, 14);
    h->problems = text(s, &i);
}

enum rc rollup_read_hours(const char *path, int64_t from_s, int64_t until_s,
                          void (*each)(const struct closed_hour *h, void *arg), void *arg, struct error *e)
{
    const struct teller t = {.hour = each, .arg = arg};
    return each_row(path,
                    "SELECT hour_s, closed_ns, requests, tokens_input, tokens_cached_input, tokens_output, charge_pusd,"
                    " saved_pusd, bill_pusd, allocated_pusd, idle_pusd, boot_pusd, waste_pusd, variance_pusd, problems"
                    " FROM hours WHERE hour_s >= ?1 AND hour_s < ?2 ORDER BY hour_s",
                    from_s, until_s, make_hour, &t, e);
}

/* ---- charges ----------------------------------------------------------------------------------------------------- */

/* Below 4 each amount is a bucket of its own; from then on an amount's three highest bits are. */
int rollup_bucket(struct pusd charge)
{
    if (charge.v < 4)
        return charge.v < 0 ? 0 : (int)charge.v;
    int top = 63 - __builtin_clzll((unsigned long long)charge.v);
    return 4 * (top - 1) + (int)(charge.v >> (top - 2) & 3);
}

struct pusd rollup_bucket_middle(int bucket)
{
    if (bucket < 4)
        return (struct pusd){bucket < 0 ? 0 : bucket};
    int top = bucket / 4 + 1;
    const int64_t step = (int64_t)1 << (top - 2);
    return (struct pusd){(4 + bucket % 4) * step + step / 2};
}

static void make_charges(sqlite3_stmt *s, union made *m)
{
    struct charge_count *c = &m->charges;
    int i = 0;
    c->hour_s = number(s, &i);
    c->model = text(s, &i);
    c->pool = text(s, &i);
    c->bucket = (int)number(s, &i);
    c->n = number(s, &i);
}

enum rc rollup_read_charges(const char *path, int64_t from_s, int64_t until_s,
                            void (*each)(const struct charge_count *c, void *arg), void *arg, struct error *e)
{
    const struct teller t = {.charges = each, .arg = arg};
    return each_row(path,
                    "SELECT hour_s, model, pool, bucket, n FROM hour_charges WHERE hour_s >= ?1 AND hour_s < ?2"
                    " AND hour_s IN (SELECT hour_s FROM hours) ORDER BY hour_s, model, pool, bucket",
                    from_s, until_s, make_charges, &t, e);
}
