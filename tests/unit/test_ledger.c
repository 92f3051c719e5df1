/* Proves that rows are durable when their callback comes, in order and once, that a duplicate id fails alone, that a
 * full disk or a locked file fails the group and leaves nothing of it behind, that rows survive a reopening and a
 * SIGKILL of the writer, and that foreign and newer files are left untouched.
 * The log is folded back while rows come, and grows for a reader that stays, no longer than he does.
 * Several loops share one writer, each with callbacks in its own order on its own thread.
 * links: spw_sched_books */
#include "tests/unit/ledger_help.h"

#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"

static void collect(const struct ledger_row *r, void *arg)
{
    struct strbuf *out = arg;
    CHECK(strbuf_printf(out, "%s ", r->request_id) == RC_OK);
}

static void test_order_and_reading(void)
{
    struct seen seen = {.last = -1};
    struct ticket tickets[500];
    struct ledger *l = open_ledger(NULL);
    struct strbuf ids;
    struct error e;

    for (int i = 0; i < 500; i++) {
        char id[32];
        snprintf(id, sizeof id, "req-%d", i);
        struct ledger_row r = row(id); /* its strings are gone after this turn: they were copied */
        tickets[i] = (struct ticket){&seen, i};
        CHECK(ledger_append(port, &r, done_cb, &tickets[i]) == RC_OK);
        CHECK_INT(seen.n, 0); /* never from inside */
    }
    wait_for(&seen, 500);
    CHECK_INT(seen.ok, 500);
    CHECK(!seen.out_of_order);
    struct ledger_stats s = ledger_stats(l);
    CHECK_INT(s.rows, 500);
    CHECK_INT(s.queued, 0);
    CHECK(s.commits < 500 && s.commits > 0 && s.last_commit_ns > 0);
    /* Another connection reads while the writer is open: newest first. */
    strbuf_init(&ids, 4096);
    CHECK(ledger_read(path, 3, collect, &ids, &e) == RC_OK);
    CHECK_STR(ids.data, "req-499 req-498 req-497 ");
    strbuf_fini(&ids);
    close_ledger(l);
    clean();
}

static void same_row(const struct ledger_row *r, void *arg)
{
    struct ledger_row w = row("one");

    ++*(int *)arg;
    CHECK_STR(r->request_id, w.request_id);
    CHECK_STR(r->tenant, w.tenant);
    CHECK_STR(r->team, w.team);
    CHECK_STR(r->key_id, w.key_id);
    CHECK_STR(r->model, w.model);
    CHECK_STR(r->node, w.node);
    CHECK_STR(r->provider, w.provider);
    CHECK_STR(r->usage_source, w.usage_source);
    CHECK_STR(r->error, w.error);
    CHECK(r->streamed && r->attempts == 2);
    CHECK(memcmp(&r->tokens, &w.tokens, sizeof w.tokens) == 0);
    CHECK(memcmp(&r->prices, &w.prices, sizeof w.prices) == 0);
    CHECK_INT(r->charge.v, w.charge.v);
    CHECK_INT(r->accepted.ns, w.accepted.ns);
    CHECK_INT(r->first_byte.ns, w.first_byte.ns);
    CHECK_INT(r->finished.ns, w.finished.ns);
    CHECK_INT(r->outcome, w.outcome);
    CHECK_INT(r->http_status, 200);
    CHECK_STR(r->asked_model, w.asked_model);
    CHECK_STR(r->service_class, w.service_class);
    CHECK_STR(r->cache, w.cache);
    CHECK_INT(r->saved.v, w.saved.v);
    CHECK_STR(r->idempotency_key, w.idempotency_key);
    CHECK_INT(r->repeat, 2);
    CHECK_STR(r->project, w.project);
    CHECK_STR(r->user, w.user);
    CHECK_STR(r->tags, w.tags);
    CHECK_INT(r->tokens_reasoning, 33);
    CHECK_INT(r->price_version, 12);
    CHECK_INT(r->reserved.v, w.reserved.v);
    CHECK_INT(r->charge_max.v, w.charge_max.v);
    CHECK_STR(r->market, w.market);
    CHECK_STR(r->domain, w.domain);
    CHECK(r->busy_us == -1 && r->millijoules == -1); /* no node told */
}

static void see_work(const struct ledger_row *r, void *arg)
{
    ++*(int *)arg;
    CHECK_INT(r->busy_us, 700);
    CHECK_INT(r->millijoules, 90);
}
static void see_leg_work(const struct ledger_leg *l, void *arg)
{
    const bool first = l->leg == 1;
    ++*(int *)arg;
    CHECK_STR(l->market, first ? "spot" : "on-prem");
    CHECK_STR(l->domain, first ? "ec2/eu-1/a/g6" : "");
    CHECK_INT(l->tokens_input, first ? 1000 : 1070);
    CHECK_INT(l->tokens_cached_input, first ? 400 : 0);
    CHECK_INT(l->n_uses, 1);
    CHECK_INT(l->uses[0].busy_us, first ? 500 : 200);
    CHECK_INT(l->uses[0].millijoules, first ? 60 : 30);
}

/* What the legs took adds up in their row; over the full hour, each hour has its own. */
static void test_work(void)
{
    struct ledger_leg legs[] = {{.leg = 1,
                                 .node = "a",
                                 .provider = "ec2",
                                 .market = "spot",
                                 .domain = "ec2/eu-1/a/g6",
                                 .outcome = "cut",
                                 .tokens_input = 1000,
                                 .tokens_cached_input = 400,
                                 .tokens_output = 70,
                                 .ended = {3700 * NS_PER_S},
                                 .uses = {{0, 300, 40}, {3600, 200, 20}},
                                 .n_uses = 2},
                                {.leg = 2,
                                 .node = "b",
                                 .provider = "static",
                                 .market = "on-prem",
                                 .outcome = "ok",
                                 .tokens_input = 1070,
                                 .tokens_output = 7,
                                 .ended = {3900 * NS_PER_S},
                                 .uses = {{3600, 200, 30}},
                                 .n_uses = 1}};
    struct ledger_row r = row("one");
    struct ledger *l = open_ledger(NULL);
    struct error e;
    int n = 0, n_legs = 0, uses = 0;
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;

    r.legs = legs;
    r.n_legs = 2;
    CHECK(ledger_append(port, &r, NULL, NULL) == RC_OK);
    close_ledger(l);
    CHECK(ledger_read(path, 10, see_work, &n, &e) == RC_OK && n == 1);
    CHECK(ledger_read_legs(path, "one", see_leg_work, &n_legs, &e) == RC_OK && n_legs == 2);
    CHECK(sqlite3_open(path, &db) == SQLITE_OK &&
          sqlite3_prepare_v2(db, "SELECT hour_s + busy_us + millijoules FROM leg_uses WHERE leg = 1 ORDER BY hour_s",
                             -1, &s, NULL) == SQLITE_OK);
    for (; sqlite3_step(s) == SQLITE_ROW; uses++)
        CHECK_INT(sqlite3_column_int(s, 0), uses ? 3820 : 340);
    CHECK_INT(uses, 2);
    sqlite3_finalize(s);
    sqlite3_close(db);
    clean();
}

static void test_restart(void)
{
    struct seen seen = {.last = -1};
    struct ticket t = {&seen, 0};
    struct ledger *l = open_ledger(NULL);
    struct ledger_row r = row("one");
    struct error e;
    struct stat st;
    int n = 0;

    CHECK(ledger_append(port, &r, done_cb, &t) == RC_OK);
    close_ledger(l); /* writes what is queued, calls back */
    CHECK_INT(seen.ok, 1);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0007) == 0);
    CHECK(ledger_read(path, 10, same_row, &n, &e) == RC_OK);
    CHECK_INT(n, 1);
    l = open_ledger(NULL);
    close_ledger(l);
    CHECK_INT(rows_in_file(), 1);
    clean();
}

static void null_row(const struct ledger_row *r, void *arg)
{
    ++*(int *)arg;
    CHECK(r->tenant == NULL && r->team == NULL && r->error == NULL && r->node == NULL);
    CHECK(r->asked_model == NULL && r->service_class == NULL && r->cache == NULL && r->idempotency_key == NULL);
    CHECK(r->saved.v == 0 && r->repeat == 0);
}

static void test_nulls(void)
{
    struct ledger *l = open_ledger(NULL);
    struct ledger_row r = {.request_id = "x"};
    struct error e;
    int n = 0;

    CHECK(ledger_append(port, &r, NULL, NULL) == RC_OK);
    close_ledger(l);
    CHECK(ledger_read(path, 10, null_row, &n, &e) == RC_OK);
    CHECK_INT(n, 1);
    clean();
}

static void test_duplicate_fails_alone(void)
{
    struct seen seen = {.last = -1};
    const char *ids[] = {"a", "b", "a", "c", "b"};
    struct ticket tickets[5];
    struct ledger_options o = {.group_ms = 50}; /* all in one transaction */
    struct ledger *l = open_ledger(&o);
    char text[256];

    for (int i = 0; i < 5; i++) {
        struct ledger_row r = row(ids[i]);
        tickets[i] = (struct ticket){&seen, i};
        CHECK(ledger_append(port, &r, done_cb, &tickets[i]) == RC_OK);
    }
    wait_for(&seen, 5);
    CHECK_INT(seen.ok, 3);
    CHECK_INT(seen.conflict, 2);
    CHECK(!seen.out_of_order);
    CHECK(!ledger_stats(l).failing);
    CHECK_INT(ledger_stats(l).commits, 1);
    CHECK(strstr(ledger_last_error(l, text, sizeof text), "request b: UNIQUE") != NULL);
    struct ledger_row impossible = row("d");
    impossible.tokens.cached_input = impossible.tokens.input + 1;
    struct ticket t = {&seen, 5};
    CHECK(ledger_append(port, &impossible, done_cb, &t) == RC_OK);
    wait_for(&seen, 6);
    CHECK_INT(seen.other, 1);
    close_ledger(l);
    CHECK_INT(rows_in_file(), 3);
    clean();
}

static void test_queue_bound(void)
{
    struct ledger_options o = {.queue_max = 3, .group_ms = 200};
    struct ledger *l = open_ledger(&o);
    struct ledger_row r = row("a");
    int taken = 0;

    for (int i = 0; i < 10; i++) {
        char id[8];
        snprintf(id, sizeof id, "%d", i);
        r.request_id = id;
        enum rc rc = ledger_append(port, &r, NULL, NULL);
        CHECK(rc == RC_OK || rc == RC_FULL);
        taken += rc == RC_OK;
    }
    CHECK_INT(taken, 3);
    close_ledger(l);
    CHECK_INT(rows_in_file(), 3);
    clean();
}

static void test_locked_file(void)
{
    struct seen seen = {.last = -1};
    struct ticket t[2] = {{&seen, 0}, {&seen, 1}};
    struct ledger_options o = {.busy_ms = 50};
    struct ledger *l = open_ledger(&o);
    struct ledger_row r = row("a");
    sqlite3 *other = NULL;

    CHECK(sqlite3_open(path, &other) == SQLITE_OK);
    CHECK(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK);
    CHECK(ledger_append(port, &r, done_cb, &t[0]) == RC_OK);
    wait_for(&seen, 1);
    CHECK_INT(seen.again, 1);
    CHECK(ledger_stats(l).failing);
    CHECK(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(other);
    CHECK(ledger_append(port, &r, done_cb, &t[1]) == RC_OK);
    wait_for(&seen, 2);
    CHECK_INT(seen.ok, 1);
    CHECK(!ledger_stats(l).failing);
    close_ledger(l);
    CHECK_INT(rows_in_file(), 1);
    clean();
}

/* --- a disk that fills up: a VFS in front of the system's whose writes fail when told to -------------------- */

static int disk_full; /* the worker reads it while no test writes it */

static sqlite3_vfs full_vfs;
/* The system's VFS has one table of methods per kind of locking; each gets its twin. */
static struct {
    const sqlite3_io_methods *real;
    sqlite3_io_methods twin;
} variants[8];

static int full_write(sqlite3_file *f, const void *data, int n, sqlite3_int64 at)
{
    if (__atomic_load_n(&disk_full, __ATOMIC_SEQ_CST))
        return SQLITE_FULL;
    for (int i = 0; i < 8; i++)
        if (f->pMethods == &variants[i].twin)
            return variants[i].real->xWrite(f, data, n, at);
    return SQLITE_MISUSE;
}

static int full_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags, int *out)
{
    sqlite3_vfs *real = vfs->pAppData;
    int rc = real->xOpen(real, name, f, flags, out), i = 0;

    if (rc != SQLITE_OK)
        return rc;
    while (variants[i].real && variants[i].real != f->pMethods)
        i++;
    variants[i].real = f->pMethods;
    variants[i].twin = *f->pMethods;
    variants[i].twin.xWrite = full_write;
    f->pMethods = &variants[i].twin;
    return rc;
}

static void register_full_vfs(void)
{
    full_vfs = *sqlite3_vfs_find(NULL);
    full_vfs.zName = "full";
    full_vfs.pAppData = sqlite3_vfs_find(NULL);
    full_vfs.xOpen = full_open;
    CHECK(sqlite3_vfs_register(&full_vfs, 0) == SQLITE_OK);
}

static void test_disk_full(void)
{
    struct seen seen = {.last = -1};
    struct ticket tickets[40];
    char text[256];

    register_full_vfs();
    struct ledger_options o = {.vfs = "full", .group_ms = 20};
    struct ledger *l = open_ledger(&o);
    for (int i = 0; i < 40; i++) {
        char id[16];
        snprintf(id, sizeof id, "r%d", i % 20); /* the second half repeats the failed first */
        struct ledger_row r = row(id);
        tickets[i] = (struct ticket){&seen, i};
        if (i == 0)
            __atomic_store_n(&disk_full, 1, __ATOMIC_SEQ_CST);
        if (i == 20) {
            wait_for(&seen, 20);
            CHECK_INT(seen.full, 20);
            CHECK(ledger_stats(l).failing);
            CHECK(strstr(ledger_last_error(l, text, sizeof text), "full") != NULL);
            __atomic_store_n(&disk_full, 0, __ATOMIC_SEQ_CST);
        }
        CHECK(ledger_append(port, &r, done_cb, &tickets[i]) == RC_OK);
    }
    wait_for(&seen, 40);
    CHECK_INT(seen.ok, 20);
    CHECK(!seen.out_of_order);
    close_ledger(l);
    CHECK_INT(rows_in_file(), 20);
    sqlite3_vfs_unregister(&full_vfs);
    clean();
}

/* The journal has its blocks already: rows are durable there, and go into the file when that can be written again. */
static void test_disk_full_with_journal(void)
{
    struct ledger_options o = {.vfs = "full", .journal = LEDGER_JOURNAL_ALWAYS, .journal_bytes = 1 << 20};
    struct seen seen = {.last = -1};
    struct ticket tickets[20];
    char text[256];

    register_full_vfs();
    struct ledger *l = open_ledger(&o);
    __atomic_store_n(&disk_full, 1, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 20; i++) {
        char id[16];
        snprintf(id, sizeof id, "r%d", i);
        struct ledger_row r = row(id);
        tickets[i] = (struct ticket){&seen, i};
        CHECK(ledger_append(port, &r, done_cb, &tickets[i]) == RC_OK);
    }
    wait_for(&seen, 20);
    CHECK_INT(seen.ok, 20);
    for (int i = 0; i < 500 && !strstr(ledger_last_error(l, text, sizeof text), "full"); i++)
        usleep(10000);
    CHECK(strstr(text, "full") != NULL && ledger_stats(l).journal_bytes > 0 && !ledger_stats(l).failing);
    __atomic_store_n(&disk_full, 0, __ATOMIC_SEQ_CST);
    for (int i = 0; i < 1000 && ledger_stats(l).journal_bytes; i++)
        usleep(10000);
    close_ledger(l);
    CHECK_INT(rows_in_file(), 20);
    sqlite3_vfs_unregister(&full_vfs);
    clean();
}

/* --- files that are not ours -------------------------------------------------------------------------------- */

static enum rc try_open(struct error *e)
{
    struct ledger_options o = {.path = path};
    struct ledger *l = NULL;
    enum rc rc = ledger_open(&l, &o, e);

    ledger_close(l);
    return rc;
}

static void test_foreign_files(void)
{
    struct error e;
    int n = 0;

    CHECK(ledger_read(path, 1, count, &n, &e) == RC_NOT_FOUND);
    make_database("CREATE TABLE cats (name TEXT)");
    CHECK(try_open(&e) == RC_INVALID);
    CHECK(strstr(e.message, "another program") != NULL);
    CHECK(ledger_read(path, 1, count, &n, &e) == RC_INVALID);
    clean();
    struct ledger *l = open_ledger(NULL);
    close_ledger(l);
    make_database("PRAGMA user_version = 99");
    CHECK(try_open(&e) == RC_UNSUPPORTED);
    CHECK(strstr(e.message, "schema version 99") != NULL);
    clean();
    FILE *f = fopen(path, "w");
    fputs("this is no database, but long enough to look like one to a careless reader, which we are not............",
          f);
    fclose(f);
    CHECK(try_open(&e) == RC_INVALID);
    CHECK(ledger_read(path, 1, count, &n, &e) == RC_INVALID);
    clean();
    snprintf(path, sizeof path, "%s/no/such/folder.db", dir);
    CHECK(try_open(&e) == RC_IO);
    snprintf(path, sizeof path, "%s/ledger.db", dir);
}

/* --- killed in the middle ----------------------------------------------------------------------------------- */

struct told { /* what the child tells its parent: row `index` is durable */
    int fd, index;
};

static void tell_cb(enum rc rc, void *arg)
{
    struct told *t = arg;

    if (rc == RC_OK && write(t->fd, &t->index, sizeof t->index) != sizeof t->index)
        _exit(1);
}

/* The child: rows without end, until it is killed. */
static _Noreturn void write_rows(int fd, int round)
{
    struct event_base *own = event_base_new();
    const struct ledger_options o = {.path = path};
    static struct told told[100000];
    struct ledger *l = NULL;
    struct error e;

    if (ledger_open(&l, &o, &e) != RC_OK || ledger_port_new(&port, l, own, &e) != RC_OK)
        _exit(1);
    for (int i = 0; i < 100000; i++) {
        char id[32];
        snprintf(id, sizeof id, "k%d-%d", round, i);
        struct ledger_row r = row(id);
        told[i] = (struct told){fd, i};
        while (ledger_append(port, &r, tell_cb, &told[i]) == RC_FULL)
            event_base_loop(own, EVLOOP_ONCE);
        if (i % 16 == 0)
            event_base_loop(own, EVLOOP_NONBLOCK);
    }
    _exit(0);
}

static void count_round(const struct ledger_row *r, void *arg)
{
    int *of_round = arg; /* [0] the round, [1] its rows */
    char prefix[16];

    snprintf(prefix, sizeof prefix, "k%d-", of_round[0]);
    of_round[1] += strncmp(r->request_id, prefix, strlen(prefix)) == 0;
}

/* SIGKILL at odd moments: every row that was called durable is there afterwards. */
static void test_killed(void)
{
    for (int round = 0; round < 10; round++) {
        int pipes[2], status, told = 0, index;
        struct error e;

        CHECK(pipe(pipes) == 0);
        pid_t child = fork();
        if (child == 0) {
            close(pipes[0]);
            write_rows(pipes[1], round);
        }
        close(pipes[1]);
        /* The first word, so that there is something to lose, and then a little longer. */
        told += read(pipes[0], &index, sizeof index) == sizeof index;
        usleep(1000 * (useconds_t)(1 + 7 * round));
        kill(child, SIGKILL);
        CHECK(waitpid(child, &status, 0) == child);
        while (read(pipes[0], &index, sizeof index) == sizeof index)
            told++;
        close(pipes[0]);
        int of_round[2] = {round, 0};
        CHECK(told > 0);
        CHECK(ledger_read(path, 1 << 30, count_round, of_round, &e) == RC_OK);
        CHECK(of_round[1] >= told);
    }
    clean();
}

static void see_key(const struct ledger_row *r, void *arg)
{
    CHECK(strbuf_printf(arg, "%s:%s:%d:%s ", r->tenant, r->idempotency_key, r->repeat, r->request_hash) == RC_OK);
}

static void test_repeats(void)
{
    static const char *const keys[] = {"a", NULL, "b", "c", "a"};
    struct ledger *l = open_ledger(NULL);
    struct strbuf out;
    struct error e;

    strbuf_init(&out, 4096);
    for (int i = 0; i < 5; i++) {
        char id[16];
        snprintf(id, sizeof id, "r%d", i);
        struct ledger_row r = row(id);
        r.idempotency_key = keys[i];
        r.repeat = i;
        r.request_hash = keys[i] ? "0f" : NULL;
        r.finished.ns = 1000 - i; /* not in the order of the rows */
        CHECK(ledger_append(port, &r, NULL, NULL) == RC_OK);
    }
    close_ledger(l);
    CHECK_INT(ledger_read_repeats(path, (struct wall){0}, 100, see_key, &out, &e), RC_OK);
    CHECK_STR(out.data, "acme:a:4:0f acme:c:3:0f acme:b:2:0f acme:a:0:0f ");
    strbuf_clear(&out);
    CHECK_INT(ledger_read_repeats(path, (struct wall){997}, 2, see_key, &out, &e), RC_OK);
    CHECK_STR(out.data, "acme:b:2:0f acme:a:0:0f ");
    strbuf_fini(&out);
    clean();
}

/* --- several loops ------------------------------------------------------------------------------------------ */

#define LOOPS          3
#define ROWS_PER_LOOP  2000
#define ROWS_UNDER_WAY 50

struct looper {
    struct ledger *l;
    struct ledger_port *port;
    struct seen seen;
    struct ticket tickets[ROWS_PER_LOOP];
    pthread_t thread, self; /* self: as the thread itself knows it */
    bool foreign_thread;    /* a callback came elsewhere */
    int name, sent;
};

static void looper_fill(struct looper *w);

static void looper_cb(enum rc rc, void *arg)
{
    struct ticket *t = arg;
    struct looper *w = (struct looper *)((char *)t->seen - offsetof(struct looper, seen));

    done_cb(rc, t);
    if (!pthread_equal(pthread_self(), w->self))
        w->foreign_thread = true;
    looper_fill(w);
}

static void looper_fill(struct looper *w)
{
    while (w->sent < ROWS_PER_LOOP && w->sent - w->seen.n < ROWS_UNDER_WAY) {
        char id[32];
        snprintf(id, sizeof id, "l%d-%d", w->name, w->sent);
        struct ledger_row r = row(id);
        w->tickets[w->sent] = (struct ticket){&w->seen, w->sent};
        enum rc rc = ledger_append(w->port, &r, looper_cb, &w->tickets[w->sent]);
        w->sent++;
        CHECK_INT(rc, RC_OK);
    }
}

/* Rows until all but the last are back; those are waited for by the port's end. */
static void *looper_main(void *arg)
{
    struct looper *w = arg;
    struct event_base *own = event_base_new();
    struct error e;

    w->self = pthread_self();
    CHECK(ledger_port_new(&w->port, w->l, own, &e) == RC_OK);
    looper_fill(w);
    while (w->sent < ROWS_PER_LOOP && event_base_loop(own, EVLOOP_ONCE) == 0) {
    }
    ledger_port_free(w->port);
    event_base_free(own);
    return NULL;
}

/* Loops of their own threads share one writer: each has its callbacks in its order, on its thread, and no row is lost. */
static void use_ports(enum ledger_journal journal)
{
    static struct looper loopers[LOOPS];
    struct ledger_options o = {.path = path, .journal = journal, .journal_bytes = 1 << 20};
    struct ledger *l = NULL;
    struct error e;

    CHECK(ledger_open(&l, &o, &e) == RC_OK);
    for (int i = 0; i < LOOPS; i++) {
        loopers[i] = (struct looper){.l = l, .name = i, .seen = {.last = -1}};
        CHECK(pthread_create(&loopers[i].thread, NULL, looper_main, &loopers[i]) == 0);
    }
    for (int i = 0; i < LOOPS; i++) {
        pthread_join(loopers[i].thread, NULL);
        CHECK_INT(loopers[i].seen.ok, ROWS_PER_LOOP);
        CHECK(!loopers[i].seen.out_of_order && !loopers[i].foreign_thread);
    }
    struct ledger_stats s = ledger_stats(l);
    CHECK_INT(s.rows, LOOPS * ROWS_PER_LOOP);
    CHECK_INT(s.queued, 0);
    CHECK(s.commits < s.rows);
    ledger_close(l);
    CHECK_INT(rows_in_file(), LOOPS * ROWS_PER_LOOP);
    clean();
}

static void test_ports(void)
{
    use_ports(LEDGER_JOURNAL_OFF);
    use_ports(LEDGER_JOURNAL_AUTO);   /* begins in the file, goes on in the journal */
    use_ports(LEDGER_JOURNAL_ALWAYS); /* whose ring is too small for all of it */
}

/* Off: rows are called durable in the same turn, none is kept, and there is no file. */
static void test_off(void)
{
    const struct ledger_options o = {0};
    struct seen seen = {.last = -1};
    struct ticket tickets[3];
    struct ledger *l = NULL;
    struct error e;

    CHECK(ledger_open(&l, &o, &e) == RC_OK && ledger_port_new(&port, l, loop, &e) == RC_OK);
    for (int i = 0; i < 3; i++) {
        struct ledger_row r = row("one"); /* not even twice the same is noticed */
        tickets[i] = (struct ticket){&seen, i};
        ledger_expect(port);
        CHECK(ledger_append(port, &r, done_cb, &tickets[i]) == RC_OK);
        CHECK_INT(seen.n, i > 1 ? 2 : 0); /* never from inside */
        if (i == 1)
            event_base_loop(loop, EVLOOP_NONBLOCK);
    }
    struct ledger_stats s = ledger_stats(l);
    CHECK(s.off && !s.failing && s.rows == 0 && s.queued == 1);
    close_ledger(l);
    CHECK_INT(seen.ok, 3);
    CHECK(!seen.out_of_order && access(path, F_OK) != 0);
}

static void *free_port(void *arg)
{
    ledger_port_free(arg);
    return NULL;
}

/* A port that goes takes only its own rows along, and while it goes it takes no more. */
static void again_cb(enum rc rc, void *arg)
{
    struct ledger_row r = row("too-late");

    CHECK_INT(rc, RC_OK);
    ++*(int *)arg;
    CHECK_INT(ledger_append(port, &r, NULL, NULL), RC_CANCELLED);
}

static void test_port_ends(void)
{
    struct ledger *l = open_ledger(NULL);
    struct ledger_port *other = NULL;
    struct ledger_row r = row("mine");
    struct error e;
    int mine = 0;
    pthread_t t;

    CHECK(ledger_port_new(&other, l, loop, &e) == RC_OK);
    CHECK(ledger_append(port, &r, again_cb, &mine) == RC_OK);
    CHECK(pthread_create(&t, NULL, free_port, other) == 0); /* has nothing to wait for */
    pthread_join(t, NULL);
    CHECK_INT(mine, 0);
    close_ledger(l); /* no turn of the loop has passed it on: that is done here */
    CHECK_INT(mine, 1);
    CHECK_INT(rows_in_file(), 1);
    clean();
}

/* ---- the log ------------------------------------------------------------------------------------------------------------ */

#define LOG_GROUP  500
#define LOG_GROUPS 60
#define LOG_TRIES  10

static off_t size_of(const char *suffix)
{
    char name[128];
    struct stat st;

    snprintf(name, sizeof name, "%s%s", path, suffix);
    CHECK(stat(name, &st) == 0);
    return st.st_size;
}

/* Some 4,000 pages of log, a group at a time; ids go on from `first`. */
static void write_log(int first)
{
    static struct ticket tickets[LOG_GROUP];
    char id[32];

    for (int g = 0; g < LOG_GROUPS; g++) {
        struct seen seen = {.last = -1};
        for (int i = 0; i < LOG_GROUP; i++) {
            snprintf(id, sizeof id, "req_%08d", first + g * LOG_GROUP + i);
            struct ledger_row r = row(id);
            tickets[i] = (struct ticket){&seen, i};
            CHECK(ledger_append(port, &r, done_cb, &tickets[i]) == RC_OK);
        }
        wait_for(&seen, LOG_GROUP);
        CHECK_INT(seen.ok, LOG_GROUP);
    }
}

/* A try: is it, while all is written as fast as it goes? The thread that does it leaves the processor to all others. */
static bool is_folded_back(void)
{
    struct ledger *l = open_ledger(NULL);
    sqlite3 *reader;

    write_log(0);
    bool soon = size_of("") > (4 << 20);         /* in the file, before anybody closes it */
    soon = soon && size_of("-wal") < (12 << 20); /* begun anew: all that was written are some 16 MiB */
    CHECK(sqlite3_open(path, &reader) == SQLITE_OK);
    CHECK(sqlite3_exec(reader, "BEGIN; SELECT count(*) FROM ledger", NULL, NULL, NULL) == SQLITE_OK);
    write_log(LOG_GROUPS * LOG_GROUP); /* nobody waits for a reader */
    off_t held = size_of("-wal");
    CHECK(held > (12 << 20));
    CHECK(sqlite3_close(reader) == SQLITE_OK);
    write_log(2 * LOG_GROUPS * LOG_GROUP);
    soon = soon && size_of("-wal") <= held + (8 << 20); /* and when it has gone the log is written over */
    close_ledger(l);
    CHECK_INT(rows_in_file(), 3 * LOG_GROUPS * LOG_GROUP);
    clean();
    return soon;
}

static void test_log_folded_back(void)
{
    bool ever = false;

    for (int i = 0; i < LOG_TRIES && !ever; i++)
        ever = is_folded_back();
    CHECK(ever); /* what never does it, or not beside commits, fails each time */
}

int main(void)
{
    if (ledger_setup() != 0)
        return 1;
    TEST(test_order_and_reading);
    TEST(test_restart);
    TEST(test_work);
    TEST(test_nulls);
    TEST(test_duplicate_fails_alone);
    TEST(test_queue_bound);
    TEST(test_locked_file);
    TEST(test_disk_full);
    TEST(test_disk_full_with_journal);
    TEST(test_foreign_files);
    TEST(test_log_folded_back);
    TEST(test_killed);
    TEST(test_repeats);
    TEST(test_ports);
    TEST(test_off);
    TEST(test_port_ends);
    return ledger_teardown(TEST_RESULT());
}
