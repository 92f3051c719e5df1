/* The writer: one thread that owns the store, a bounded queue to it, and a port per event loop for the way there and back.
 *
 * While a group waits for the disk the next records gather in `waiting`; the group is as large as the disk is slow. The lock
 * guards `waiting`, the ports' `finished` and the counters; it is never held over I/O, nor while a thread is woken. A group
 * that fails goes back to the front of `waiting`, whole and in order, unless it is to be given up (audit.h). */
#include "scheduler/audit/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/thread.h"
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
    struct entry *next;
    struct audit_port *port; /* NULL: nobody's */
    audit_done_cb *done;
    void *arg;
    enum rc rc;
    size_t n;
    char json[];
};
struct entries {
    struct entry *head, **tail;
    int n;
};

struct audit {
    uint32_t magic;
    struct audit_options o;
    char *dir, *key_file;
    struct audit_keys keys;
    struct store store; /* the writer's, once it runs */
    bool store_is_open;
    pthread_t writer;
    bool writer_runs;
    atomic_int queued;
    atomic_bool failing;

    pthread_mutex_t lock; /* guards everything below, and in each port what is marked so */
    pthread_cond_t more, less;
    struct entries waiting;
    bool idle; /* the writer sleeps until there is something */
    bool stopping;
    int n_ports, closing; /* ports; those that wait for their end: then nothing is tried forever */
    double found;         /* records that were there when the writer looked, lately */
    struct mono taken;    /* when the newest group was */
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
    struct event *turn; /* behind everything that is due in this turn of the loop */
    struct entries gathered;
    bool closing;
    int wake_fd;
    struct event *wake;

    /* Under the lock. */
    struct entries finished;
    int under_way;
    bool to_wake;
    struct audit_port *next; /* the writer's list of ports to wake */
};

static void entries_init(struct entries *q)
{
    q->head = NULL;
    q->tail = &q->head;
    q->n = 0;
}

static void entries_push(struct entries *q, struct entry *x)
{
    x->next = NULL;
    *q->tail = x;
    q->tail = &x->next;
    q->n++;
}

static struct entry *entries_pop(struct entries *q)
{
    struct entry *x = q->head;

    q->head = x->next;
    q->n--;
    if (!q->head)
        q->tail = &q->head;
    return x;
}

static void entries_move(struct entries *to, struct entries *q, int max)
{
    while (q->head && max-- > 0)
        entries_push(to, entries_pop(q));
}

/* All of q before all of `to`. */
static void entries_put_back(struct entries *to, struct entries *q)
{
    entries_move(q, to, to->n);
    *to = *q;
    if (!to->head)
        to->tail = &to->head;
    entries_init(q);
}

/* ---- records in ---------------------------------------------------------------------------------------------------- */

static struct entry *entry_new(const char *json, size_t n, struct audit_port *p, audit_done_cb *done, void *arg)
{
    struct entry *x = spw_malloc(sizeof *x + n);

    SPW_ASSERT(n >= 2 && n <= AUDIT_JSON_BYTES_MAX && !memchr(json, '\n', n));
    x->port = p;
    x->done = done;
    x->arg = arg;
    x->rc = RC_OK;
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
    if (atomic_fetch_add_explicit(&a->queued, 1, memory_order_relaxed) < a->o.queue_max)
        return true;
    atomic_fetch_sub_explicit(&a->queued, 1, memory_order_relaxed);
    if (a->o.on_failure == AUDIT_CONTINUE) {
        pthread_mutex_lock(&a->lock);
        note_lost_locked(a, 1);
        pthread_mutex_unlock(&a->lock);
    }
    return false;
}

enum rc audit_append(struct audit_port *p, const char *json, size_t n, audit_done_cb *done, void *arg)
{
    SPW_ASSERT(p->magic == PORT_MAGIC);
    if (p->closing)
        return RC_CANCELLED;
    if (!take_place(p->audit))
        return RC_FULL;
    if (!p->gathered.n)
        event_active(p->turn, EV_TIMEOUT, 0);
    entries_push(&p->gathered, entry_new(json, n, p, done, arg));
    return RC_OK;
}

static void wake_writer(struct audit *a, bool wake)
{
    if (wake)
        pthread_cond_signal(&a->more);
}

/* With the lock: something has been put into `waiting`. Is the writer to be woken, once the lock is free? */
static bool is_to_wake_locked(struct audit *a)
{
    bool wake = a->idle;

    a->idle = false;
    return wake;
}

static void pass_on(struct audit_port *p)
{
    struct audit *a = p->audit;

    if (!p->gathered.n)
        return;
    pthread_mutex_lock(&a->lock);
    p->under_way += p->gathered.n;
    entries_move(&a->waiting, &p->gathered, p->gathered.n);
    bool wake = is_to_wake_locked(a);
    pthread_mutex_unlock(&a->lock);
    wake_writer(a, wake);
}

enum rc audit_note(struct audit *a, const char *json, size_t n)
{
    if (!take_place(a))
        return RC_FULL;
    struct entry *x = entry_new(json, n, NULL, NULL, NULL);
    pthread_mutex_lock(&a->lock);
    entries_push(&a->waiting, x);
    bool wake = is_to_wake_locked(a);
    pthread_mutex_unlock(&a->lock);
    wake_writer(a, wake);
    return RC_OK;
}

bool audit_login_allowed(struct audit *a)
{
    int64_t second = clock_now(&clock_system).ns / NS_PER_S;

    pthread_mutex_lock(&a->lock);
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
        wake = a->logins_not_written++ == 0 && is_to_wake_locked(a);
    }
    pthread_mutex_unlock(&a->lock);
    wake_writer(a, wake);
    return allowed;
}

/* ---- the writer ---------------------------------------------------------------------------------------------------- */

static void wait_ms_locked(struct audit *a, int64_t us)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += us / 1000000;
    t.tv_nsec += us % 1000000 * 1000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&a->more, &a->lock, &t);
}

/* Where records come one after another, and not many at once by themselves, a little patience makes one group of many. */
static bool is_patient_locked(const struct audit *a)
{
    int64_t gap_us = (clock_now(&clock_system).ns - a->taken.ns) / NS_PER_US;

    return a->waiting.n && a->waiting.n < GATHER_ENOUGH && a->found < GATHER_FOUND && gap_us < GATHER_GAP_US &&
           !a->stopping && !a->closing;
}

/* False: stopping, and all is written. */
static bool gather_locked(struct audit *a)
{
    while (!a->waiting.n && !a->stopping) {
        a->idle = true;
        if (!a->logins_not_written && !a->lost_now) {
            pthread_cond_wait(&a->more, &a->lock);
            continue;
        }
        wait_ms_locked(a, MORE_MS * 1000); /* it counts on meanwhile */
        break;
    }
    if (is_patient_locked(a)) {
        a->idle = false;
        wait_ms_locked(a, GATHER_US);
    }
    a->idle = false;
    a->found += (a->waiting.n - a->found) / 4;
    a->taken = clock_now(&clock_system);
    return a->waiting.n || a->logins_not_written || a->lost_now || !a->stopping;
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

static enum rc write_group(struct audit *a, const struct entries *group, struct extras *x, struct error *e)
{
    struct store_item items[GROUP_MAX + EXTRAS];
    struct wall now = clock_wall(a->o.clock);
    int n = 0;

    write_extras(x, now);
    for (int i = 0; i < x->n; i++)
        items[n++] = (struct store_item){x->text[i].data, x->text[i].len};
    for (const struct entry *q = group->head; q; q = q->next)
        items[n++] = (struct store_item){q->json, q->n};
    enum rc rc = n ? store_append(&a->store, now, items, n, e) : RC_OK;
    for (int i = 0; i < EXTRAS; i++)
        strbuf_fini(&x->text[i]);
    return rc;
}

/* Each record back to its port, with its result. Returns the ports to be woken. */
static struct audit_port *finish_locked(struct audit *a, struct entries *group, enum rc rc)
{
    struct audit_port *wake = NULL;

    atomic_fetch_sub_explicit(&a->queued, group->n, memory_order_relaxed);
    while (group->head) {
        struct entry *x = entries_pop(group);
        struct audit_port *p = x->port;
        x->rc = rc;
        if (!p) {
            free(x);
            continue;
        }
        if (!p->finished.n && !p->to_wake) {
            p->to_wake = true;
            p->next = wake;
            wake = p;
        }
        p->under_way--;
        entries_push(&p->finished, x);
    }
    return wake;
}

/* Without the lock; with it again, the ports may go. */
static void wake_ports(struct audit *a, struct audit_port *ports)
{
    const uint64_t one = 1;

    for (struct audit_port *p = ports; p; p = p->next) /* cannot fail: the loop reads the counter to zero */
        SPW_ASSERT(write(p->wake_fd, &one, sizeof one) == sizeof one);
    pthread_mutex_lock(&a->lock);
    for (struct audit_port *p = ports; p; p = p->next)
        p->to_wake = false;
    pthread_cond_broadcast(&a->less);
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
    pthread_mutex_unlock(&a->lock); /* a log line may wait for its reader */
    say(a, failed, failed ? e->message : "");
    pthread_mutex_lock(&a->lock);
}

/* One group, taken, written or tried, and given back. With the lock, which is free in between. */
static void turn_locked(struct audit *a)
{
    struct entries group;
    struct extras extras;
    struct error e = {0};

    entries_init(&group);
    entries_move(&group, &a->waiting, GROUP_MAX);
    take_extras_locked(a, &extras);
    pthread_mutex_unlock(&a->lock);
    struct mono start = clock_now(&clock_system);
    enum rc rc = write_group(a, &group, &extras, &e);
    int64_t took_ns = mono_since(&clock_system, start);
    pthread_mutex_lock(&a->lock);
    book_locked(a, rc, group.n + extras.n, took_ns, &e);
    if (rc != RC_OK)
        give_extras_back_locked(a, &extras);
    if (rc != RC_OK && a->o.on_failure == AUDIT_REFUSE && !a->stopping && !a->closing) {
        entries_put_back(&a->waiting, &group);
        a->idle = false;
        wait_ms_locked(a, RETRY_MS * 1000);
        return;
    }
    if (rc != RC_OK)
        note_lost_locked(a, group.n);
    bool again = rc != RC_OK && !a->waiting.n;
    struct audit_port *wake = finish_locked(a, &group, rc == RC_OK ? RC_OK : RC_IO);
    pthread_mutex_unlock(&a->lock);
    wake_ports(a, wake); /* and takes the lock */
    if (again && a->stopping)
        a->lost_now = a->logins_not_written = 0; /* nobody will be told */
    else if (again)
        wait_ms_locked(a, RETRY_MS * 1000);
}

static void *writer_main(void *arg)
{
    struct audit *a = arg;

    pthread_mutex_lock(&a->lock);
    while (gather_locked(a))
        turn_locked(a);
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* ---- ports --------------------------------------------------------------------------------------------------------- */

static void deliver(struct audit_port *p)
{
    struct entries finished;

    entries_init(&finished);
    pthread_mutex_lock(&p->audit->lock);
    entries_move(&finished, &p->finished, p->finished.n);
    pthread_mutex_unlock(&p->audit->lock);
    while (finished.head) {
        struct entry *x = entries_pop(&finished);
        if (x->done)
            x->done(x->rc, x->arg);
        free(x);
    }
}

static void turn_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    pass_on(arg);
}

static void wake_cb(evutil_socket_t fd, short what, void *arg)
{
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof count) == sizeof count)
        deliver(arg);
}

enum rc audit_port_new(struct audit_port **out, struct audit *a, struct event_base *loop, struct error *e)
{
    struct audit_port *p = spw_calloc(1, sizeof *p);
    enum rc rc = RC_OK;

    *out = NULL;
    p->magic = PORT_MAGIC;
    p->audit = a;
    entries_init(&p->gathered);
    entries_init(&p->finished);
    pthread_mutex_lock(&a->lock);
    a->n_ports++;
    pthread_mutex_unlock(&a->lock);
    p->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (p->wake_fd < 0)
        rc = error_set(e, RC_IO, "audit: no event descriptor: %s", strerror(errno));
    p->turn = event_new(loop, -1, 0, turn_cb, p);
    p->wake = event_new(loop, p->wake_fd, EV_READ | EV_PERSIST, wake_cb, p);
    if (rc == RC_OK && (!p->turn || !p->wake || event_add(p->wake, NULL) != 0))
        rc = error_set(e, RC_IO, "audit: the loop takes no event");
    if (rc != RC_OK) {
        audit_port_free(p);
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
    struct audit *a = p->audit;

    p->closing = true;
    pass_on(p);
    pthread_mutex_lock(&a->lock);
    a->closing++;
    pthread_cond_signal(&a->more);
    while (p->under_way || p->to_wake)
        pthread_cond_wait(&a->less, &a->lock);
    a->closing--;
    pthread_mutex_unlock(&a->lock);
    deliver(p);
    pthread_mutex_lock(&a->lock);
    a->n_ports--;
    pthread_mutex_unlock(&a->lock);
    if (p->turn)
        event_free(p->turn);
    if (p->wake)
        event_free(p->wake);
    if (p->wake_fd >= 0)
        close(p->wake_fd);
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

static enum rc start_writer(struct audit *a, struct error *e)
{
    struct sched_param none = {0};
    int failed = thread_start(&a->writer, "audit", writer_main, a);

    if (failed)
        return error_set(e, RC_IO, "audit: no thread: %s", strerror(failed));
    a->writer_runs = true;
    (void)pthread_setschedparam(a->writer, SCHED_BATCH,
                                &none); /* as the ledger's: it shall not break into a loop's turn */
    return RC_OK;
}

static void init_locks(struct audit *a)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&a->more, &attr);
    pthread_condattr_destroy(&attr);
    pthread_cond_init(&a->less, NULL);
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
    entries_init(&a->waiting);
    init_locks(a);
    enum rc rc = make_folder(a->dir, e);
    if (rc == RC_OK)
        rc = load_keys(a, e);
    if (rc == RC_OK)
        rc = store_open(&a->store, a->dir, &a->keys, o->io, e);
    a->store_is_open = rc == RC_OK;
    if (rc == RC_OK) {
        a->newest = a->store.sealed;
        say_recovered(a);
        rc = start_writer(a, e);
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
    SPW_ASSERT(a->magic == AUDIT_MAGIC && a->n_ports == 0);
    if (a->writer_runs) {
        pthread_mutex_lock(&a->lock);
        a->stopping = true;
        pthread_cond_signal(&a->more);
        pthread_mutex_unlock(&a->lock);
        pthread_join(a->writer, NULL);
    }
    while (a->waiting.head)
        free(entries_pop(&a->waiting));
    if (a->store_is_open)
        store_close(&a->store);
    audit_keys_fini(&a->keys);
    pthread_cond_destroy(&a->more);
    pthread_cond_destroy(&a->less);
    pthread_mutex_destroy(&a->lock);
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

    pthread_mutex_lock(&a->lock);
    struct audit_stats s = a->stats;
    pthread_mutex_unlock(&a->lock);
    s.queued = atomic_load_explicit(&a->queued, memory_order_relaxed);
    s.failing = audit_is_failing(a);
    return s;
}

char *audit_last_error(const struct audit *shared, char *buf, size_t size)
{
    struct audit *a = (struct audit *)shared;

    pthread_mutex_lock(&a->lock);
    snprintf(buf, size, "%s", a->last_error);
    pthread_mutex_unlock(&a->lock);
    return buf;
}

struct audit_head audit_newest_head(const struct audit *shared)
{
    struct audit *a = (struct audit *)shared;

    pthread_mutex_lock(&a->lock);
    struct audit_head h = a->newest;
    pthread_mutex_unlock(&a->lock);
    return h;
}
