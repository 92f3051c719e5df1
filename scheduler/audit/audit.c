/* The writer: one thread that owns the store, behind an inbox (base/inbox.h) with a port per event loop. A group that
 * fails goes back to the front of what waits, whole and in order, unless it is to be given up (audit.h). */
#include "scheduler/audit/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/inbox.h"
#include "scheduler/audit/record.h"
#include "scheduler/audit/store.h"

#define AUDIT_MAGIC  0x41554454u
#define PORT_MAGIC   0x41554450u
#define QUEUE_MAX    65536
#define GROUP_MAX    1024 /* records under one seal: bounds the path of a proof, and what a forgery hides among */
#define EXTRAS       2    /* records of the writer's own in a group */
#define LOGINS_PER_S 20
#define RETRY_MS     250
#define MORE_MS      1000 /* refused logins that are not written are told about after so long */
/* How long a group may gather, in microseconds, where records come thick and fast: as the ledger's (books/ledger.c). */
#define GATHER_US     1000
#define GATHER_ENOUGH 16
#define GATHER_FOUND  6
#define GATHER_GAP_US 3000

struct entry { /* a queued record */
    struct inbox_entry in;
    size_t n;
    char json[];
};

struct audit {
    uint32_t magic;
    struct audit_options o;
    char *dir, *key_file;
    struct audit_keys keys;
    struct store store; /* the writer's, once it runs */
    bool store_is_open;
    struct inbox inbox;
    atomic_bool failing;

    /* Under the inbox's lock. */
    double found;      /* records that were there when the writer looked, lately */
    struct mono taken; /* when the newest group was */
    struct audit_stats stats;
    struct audit_head newest;
    char last_error[256];
    int64_t lost_now; /* not told in the chain yet */
    struct wall lost_since;
    int64_t logins_second, logins_not_written; /* of the second; not told yet */
    int logins_in_second;
};

struct audit_port {
    uint32_t magic;
    struct audit *audit;
    struct inbox_port *port;
};

/* ---- records in ---------------------------------------------------------------------------------------------------- */

static struct entry *entry_new(const char *json, size_t n, audit_done_cb *done, void *arg)
{
    struct entry *x = spw_malloc(sizeof *x + n);

    SPW_ASSERT(n >= 2 && n <= AUDIT_JSON_BYTES_MAX && !memchr(json, '\n', n));
    x->in.done = done;
    x->in.arg = arg;
    x->in.rc = RC_OK;
    x->in.can_wait = true;
    x->n = n;
    memcpy(x->json, json, n);
    return x;
}

static void note_lost_locked(struct audit *a, int n)
{
    if (!a->lost_now)
        a->lost_since = clock_wall(a->o.clock);
    a->lost_now += n;
    a->stats.lost += (uint64_t)n;
}

static bool take_place(struct audit *a)
{
    if (inbox_take_place(&a->inbox))
        return true;
    if (a->o.on_failure == AUDIT_CONTINUE) {
        pthread_mutex_lock(&a->inbox.lock);
        note_lost_locked(a, 1);
        pthread_mutex_unlock(&a->inbox.lock);
    }
    return false;
}

enum rc audit_append(struct audit_port *p, const char *json, size_t n, audit_done_cb *done, void *arg)
{
    SPW_ASSERT(p->magic == PORT_MAGIC);
    if (inbox_port_is_closing(p->port))
        return RC_CANCELLED;
    if (!take_place(p->audit))
        return RC_FULL;
    inbox_port_put(p->port, &entry_new(json, n, done, arg)->in);
    return RC_OK;
}

enum rc audit_note(struct audit *a, const char *json, size_t n)
{
    if (!take_place(a))
        return RC_FULL;
    inbox_put(&a->inbox, &entry_new(json, n, NULL, NULL)->in);
    return RC_OK;
}

bool audit_login_allowed(struct audit *a)
{
    int64_t second = clock_now(&clock_system).ns / NS_PER_S;

    pthread_mutex_lock(&a->inbox.lock);
    if (second != a->logins_second) {
        a->logins_second = second;
        a->logins_in_second = 0;
    }
    bool allowed = a->logins_in_second < a->o.logins_per_s;
    bool wake = false;
    if (allowed) {
        a->logins_in_second++;
    } else {
        a->stats.logins_not_written++;
        wake = a->logins_not_written++ == 0 && inbox_is_to_wake_locked(&a->inbox);
    }
    pthread_mutex_unlock(&a->inbox.lock);
    if (wake)
        inbox_wake(&a->inbox);
    return allowed;
}

/* ---- the writer ---------------------------------------------------------------------------------------------------- */

/* Where records come one after another, and not many at once by themselves, a little patience makes one group of many. */
static bool is_patient_locked(const struct audit *a)
{
    int64_t gap_us = (clock_now(&clock_system).ns - a->taken.ns) / NS_PER_US;
    const struct inbox *q = &a->inbox;

    return q->waiting.n && q->waiting.n < GATHER_ENOUGH && a->found < GATHER_FOUND && gap_us < GATHER_GAP_US;
}

/* False: stopping, and all is written. */
static bool gather_locked(struct audit *a)
{
    struct inbox *q = &a->inbox;

    while (!q->waiting.n && !q->stopping) {
        bool to_tell = a->logins_not_written || a->lost_now;
        inbox_idle_locked(q, to_tell ? MORE_MS * 1000 : -1); /* it counts on meanwhile */
        if (to_tell)
            break;
    }
    if (is_patient_locked(a))
        inbox_gather_locked(q, INT_MAX, GATHER_US);
    a->found += (q->waiting.n - a->found) / 4;
    a->taken = clock_now(&clock_system);
    return q->waiting.n || a->logins_not_written || a->lost_now || !q->stopping;
}

/* The writer's own records, from counts that are told with this group. */
struct extras {
    int64_t lost, logins;
    struct wall lost_since;
    struct strbuf text[EXTRAS];
    int n;
};

static void add_extra(struct extras *x, struct json_writer *w)
{
    if (record_end(w) == RC_OK)
        x->n++;
}

static void write_extras(struct extras *x, struct wall now)
{
    char since[32];

    for (int i = 0; i < EXTRAS; i++)
        strbuf_init(&x->text[i], AUDIT_JSON_BYTES_MAX);
    if (x->lost) {
        struct json_writer w = record_begin(&x->text[x->n], "lost", now);
        json_int(&w, "n", x->lost);
        json_string(&w, "since", wall_format(x->lost_since, since, sizeof since));
        add_extra(x, &w);
    }
    if (x->logins) {
        struct json_writer w = record_begin(&x->text[x->n], "refused_more", now);
        json_int(&w, "n", x->logins);
        add_extra(x, &w);
    }
}

static void take_extras_locked(struct audit *a, struct extras *x)
{
    *x = (struct extras){.lost = a->lost_now, .logins = a->logins_not_written, .lost_since = a->lost_since};
    a->lost_now = a->logins_not_written = 0;
}

/* They could not be told. */
static void give_extras_back_locked(struct audit *a, const struct extras *x)
{
    if (x->lost)
        a->lost_since = x->lost_since;
    a->lost_now += x->lost;
    a->logins_not_written += x->logins;
}

static enum rc write_group(struct audit *a, const struct inbox_list *group, struct extras *x, struct error *e)
{
    struct store_item items[GROUP_MAX + EXTRAS];
    struct wall now = clock_wall(a->o.clock);
    int n = 0;

    write_extras(x, now);
    for (int i = 0; i < x->n; i++)
        items[n++] = (struct store_item){x->text[i].data, x->text[i].len};
    for (const struct inbox_entry *in = group->head; in; in = in->next) {
        const struct entry *record = (const struct entry *)in;
        items[n++] = (struct store_item){record->json, record->n};
    }
    enum rc rc = n ? store_append(&a->store, now, items, n, e) : RC_OK;
    for (int i = 0; i < EXTRAS; i++)
        strbuf_fini(&x->text[i]);
    return rc;
}

static void set_result(struct inbox_list *group, enum rc rc)
{
    for (struct inbox_entry *x = group->head; x; x = x->next)
        x->rc = rc;
}

static void say(const struct audit *a, bool failing, const char *why)
{
    if (!a->o.log)
        return;
    if (!failing)
        log_info(a->o.log, "audit", "records are written again");
    else if (a->o.on_failure == AUDIT_CONTINUE)
        log_error(a->o.log, "audit", "records cannot be written and are lost; work goes on", LOG_S("reason", why));
    else
        log_error(a->o.log, "audit", "records cannot be written: answers wait, new requests are refused",
                  LOG_S("reason", why));
}

static void book_locked(struct audit *a, enum rc rc, int n, int64_t took_ns, const struct error *e)
{
    bool failed = rc != RC_OK, before = atomic_exchange_explicit(&a->failing, failed, memory_order_relaxed);

    if (failed)
        snprintf(a->last_error, sizeof a->last_error, "%.*s", (int)sizeof a->last_error - 1, e->message);
    a->stats.failures += failed;
    a->stats.groups += !failed;
    a->stats.records += failed ? 0 : (uint64_t)n;
    if (!failed) {
        a->stats.last_group_ns = took_ns;
        a->newest = a->store.sealed;
    }
    if (before == failed)
        return;
    pthread_mutex_unlock(&a->inbox.lock); /* a log line may wait for its reader */
    say(a, failed, failed ? e->message : "");
    pthread_mutex_lock(&a->inbox.lock);
}

/* One group, taken, written or tried, and given back. With the lock, which is free in between. */
static void turn_locked(struct audit *a)
{
    struct inbox *q = &a->inbox;
    struct inbox_list group;
    struct extras extras;
    struct error e = {0};

    inbox_list_init(&group);
    inbox_list_move(&group, &q->waiting, GROUP_MAX);
    take_extras_locked(a, &extras);
    pthread_mutex_unlock(&q->lock);
    struct mono start = clock_now(&clock_system);
    enum rc rc = write_group(a, &group, &extras, &e);
    int64_t took_ns = mono_since(&clock_system, start);
    pthread_mutex_lock(&q->lock);
    book_locked(a, rc, group.n + extras.n, took_ns, &e);
    if (rc != RC_OK)
        give_extras_back_locked(a, &extras);
    if (rc != RC_OK && a->o.on_failure == AUDIT_REFUSE && !q->stopping && !q->closing) {
        inbox_list_put_back(&q->waiting, &group);
        inbox_gather_locked(q, INT_MAX, RETRY_MS * 1000);
        return;
    }
    if (rc != RC_OK)
        note_lost_locked(a, group.n);
    bool again = rc != RC_OK && !q->waiting.n;
    set_result(&group, rc == RC_OK ? RC_OK : RC_IO);
    struct inbox_port *wake = inbox_finish_locked(q, &group);
    pthread_mutex_unlock(&q->lock);
    inbox_wake_ports(q, wake); /* and takes the lock */
    if (again && q->stopping)
        a->lost_now = a->logins_not_written = 0; /* nobody will be told */
    else if (again)
        inbox_gather_locked(q, INT_MAX, RETRY_MS * 1000);
}

static void *writer_main(void *arg)
{
    struct audit *a = arg;

    pthread_mutex_lock(&a->inbox.lock);
    while (gather_locked(a))
        turn_locked(a);
    pthread_mutex_unlock(&a->inbox.lock);
    return NULL;
}

/* ---- ports --------------------------------------------------------------------------------------------------------- */

enum rc audit_port_new(struct audit_port **out, struct audit *a, struct event_base *loop, struct error *e)
{
    struct audit_port *p = spw_calloc(1, sizeof *p);

    *out = NULL;
    p->magic = PORT_MAGIC;
    p->audit = a;
    enum rc rc = inbox_port_new(&p->port, &a->inbox, loop, "audit", e);
    if (rc != RC_OK) {
        free(p);
        return rc;
    }
    *out = p;
    return RC_OK;
}

void audit_port_free(struct audit_port *p)
{
    if (!p)
        return;
    SPW_ASSERT(p->magic == PORT_MAGIC);
    inbox_port_free(p->port);
    p->magic = 0;
    free(p);
}

/* ---- open and close ------------------------------------------------------------------------------------------------ */

static enum rc make_folder(const char *dir, struct error *e)
{
    if (mkdir(dir, 0750) == 0)
        file_sync_folder_of(dir);
    else if (errno != EEXIST)
        return error_set(e, RC_IO, "audit: %s: %s", dir, strerror(errno));
    return RC_OK;
}

/* A chain that exists cannot go on under a new key: that would look as if somebody had put another in its place. */
static enum rc load_keys(struct audit *a, struct error *e)
{
    char **names;
    int n;
    enum rc rc = store_list(a->dir, &names, &n, e);

    if (rc != RC_OK)
        return rc;
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    rc = audit_keys_load(&a->keys, a->key_file, n ? AUDIT_KEY_READ : AUDIT_KEY_MAKE, e);
    if (rc == RC_NOT_FOUND)
        error_set(
            e, rc,
            "audit: %s is missing, and the chain in %s can go on under no other key; put it back from its backup, "
            "or move the folder away (and keep it) to begin another chain",
            a->key_file, a->dir);
    return rc;
}

static void say_recovered(struct audit *a)
{
    struct strbuf text;

    if (!a->store.kept && !a->store.dropped)
        return;
    strbuf_init(&text, AUDIT_JSON_BYTES_MAX);
    struct json_writer w = record_begin(&text, "recovered", clock_wall(a->o.clock));
    json_int(&w, "kept", a->store.kept);
    json_int(&w, "dropped", a->store.dropped);
    if (record_end(&w) == RC_OK && audit_note(a, text.data, text.len) == RC_OK && a->o.log)
        log_info(a->o.log, "audit", "the chain's end was mended after a crash", LOG_I("kept", a->store.kept),
                 LOG_I("dropped_bytes", a->store.dropped));
    strbuf_fini(&text);
}

enum rc audit_open(struct audit **out, const struct audit_options *o, struct error *e)
{
    struct audit *a = spw_calloc(1, sizeof *a);

    *out = NULL;
    a->magic = AUDIT_MAGIC;
    a->o = *o;
    a->o.queue_max = o->queue_max ? o->queue_max : QUEUE_MAX;
    a->o.logins_per_s = o->logins_per_s ? o->logins_per_s : LOGINS_PER_S;
    a->o.clock = o->clock ? o->clock : &clock_system;
    a->dir = spw_strdup(o->dir);
    a->key_file = o->key_file ? spw_strdup(o->key_file) : spw_asprintf("%s/key.pem", o->dir);
    inbox_init(&a->inbox, a->o.queue_max, false);
    enum rc rc = make_folder(a->dir, e);
    if (rc == RC_OK)
        rc = load_keys(a, e);
    if (rc == RC_OK)
        rc = store_open(&a->store, a->dir, &a->keys, o->io, e);
    a->store_is_open = rc == RC_OK;
    if (rc == RC_OK) {
        a->newest = a->store.sealed;
        say_recovered(a);
        rc = inbox_start(&a->inbox, "audit", writer_main, a, e);
    }
    if (rc != RC_OK) {
        audit_close(a);
        return rc;
    }
    *out = a;
    return RC_OK;
}

void audit_close(struct audit *a)
{
    if (!a)
        return;
    SPW_ASSERT(a->magic == AUDIT_MAGIC && a->inbox.n_ports == 0);
    inbox_stop(&a->inbox);
    if (a->store_is_open)
        store_close(&a->store);
    audit_keys_fini(&a->keys);
    inbox_fini(&a->inbox);
    free(a->dir);
    free(a->key_file);
    a->magic = 0;
    free(a);
}

/* ---- seen from outside --------------------------------------------------------------------------------------------- */

enum audit_on_failure audit_on_failure(const struct audit *a)
{
    return a->o.on_failure;
}

bool audit_is_failing(const struct audit *a)
{
    return atomic_load_explicit(&a->failing, memory_order_relaxed);
}

const struct audit_keys *audit_keys_of(const struct audit *a)
{
    return &a->keys;
}

struct audit_stats audit_stats(const struct audit *shared)
{
    struct audit *a = (struct audit *)shared; /* the lock is ours to take; nothing else changes */

    pthread_mutex_lock(&a->inbox.lock);
    struct audit_stats s = a->stats;
    pthread_mutex_unlock(&a->inbox.lock);
    s.queued = atomic_load_explicit(&a->inbox.queued, memory_order_relaxed);
    s.failing = audit_is_failing(a);
    return s;
}

char *audit_last_error(const struct audit *shared, char *buf, size_t size)
{
    struct audit *a = (struct audit *)shared;

    pthread_mutex_lock(&a->inbox.lock);
    snprintf(buf, size, "%s", a->last_error);
    pthread_mutex_unlock(&a->inbox.lock);
    return buf;
}

struct audit_head audit_newest_head(const struct audit *shared)
{
    struct audit *a = (struct audit *)shared;

    pthread_mutex_lock(&a->inbox.lock);
    struct audit_head h = a->newest;
    pthread_mutex_unlock(&a->inbox.lock);
    return h;
}
