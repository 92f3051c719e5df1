/* A ledger in a folder of its own, for the tests of it. */
#ifndef TESTS_UNIT_LEDGER_HELP_H
#define TESTS_UNIT_LEDGER_HELP_H

#include <sqlite3.h>
#include <stdlib.h>
#include <unistd.h>

#include "scheduler/books/ledger.h"
#include "tests/unit/test.h"

static struct event_base *loop;
static struct ledger_port *port; /* of the ledger that open_ledger() has opened */
static char dir[64], path[96];

static inline void clean(void)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};

    for (int i = 0; i < 4; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

static inline struct ledger_row row(const char *id)
{
    return (struct ledger_row){
        .request_id = id,
        .tenant = "acme",
        .team = "search",
        .key_id = "k1",
        .model = "m",
        .node = "gpu1",
        .provider = "static",
        .streamed = true,
        .attempts = 2,
        .tokens = {1000, 400, 77},
        .usage_source = "provider",
        .prices = {{550000}, {140000}, {2190000}},
        .charge = {554630000},
        .accepted = {1700000000000000001},
        .first_byte = {1700000000000000002},
        .finished = {1700000000000000003},
        .outcome = LEDGER_CANCELLED,
        .http_status = 200,
        .error = "client_gone",
        .asked_model = "fast",
        .service_class = "flex",
        .cache = "collapsed",
        .saved = {123456789012},
        .idempotency_key = "order-7",
        .repeat = 2,
        .project = "shop",
        .user = "ann",
        .tags = ",env=prod,",
        .tokens_reasoning = 33,
        .price_version = 12,
        .reserved = {600000000},
        .charge_max = {700000000},
        .market = "spot",
        .domain = "ec2/eu-1/a/g6.xlarge",
    };
}

struct seen {
    int n, ok, conflict, full, again, other;
    int last;          /* index of the last callback */
    bool out_of_order; /* an index came before its predecessor */
};
struct ticket {
    struct seen *seen;
    int index;
};

static inline void done_cb(enum rc rc, void *arg)
{
    struct ticket *t = arg;

    t->seen->n++;
    if (t->index != t->seen->last + 1)
        t->seen->out_of_order = true;
    t->seen->last = t->index;
    t->seen->ok += rc == RC_OK;
    t->seen->conflict += rc == RC_CONFLICT;
    t->seen->full += rc == RC_FULL;
    t->seen->again += rc == RC_AGAIN;
    t->seen->other += rc != RC_OK && rc != RC_CONFLICT && rc != RC_FULL && rc != RC_AGAIN;
}

static inline void wait_for(struct seen *seen, int n)
{
    while (seen->n < n && event_base_loop(loop, EVLOOP_ONCE) == 0) {
    }
}

static inline struct ledger *open_ledger(const struct ledger_options *o)
{
    struct ledger_options options = o ? *o : (struct ledger_options){0};
    struct ledger *l = NULL;
    struct error e;

    options.path = path;
    if (ledger_open(&l, &options, &e) != RC_OK || ledger_port_new(&port, l, loop, &e) != RC_OK)
        fprintf(stderr, "%s\n", e.message);
    CHECK(l != NULL && port != NULL);
    return l;
}

static inline void close_ledger(struct ledger *l)
{
    ledger_port_free(port);
    port = NULL;
    ledger_close(l);
}

static inline void count(const struct ledger_row *r, void *arg)
{
    (void)r;
    ++*(int *)arg;
}

static inline int rows_in_file(void)
{
    struct error e;
    int n = 0;

    CHECK(ledger_read(path, 1 << 30, count, &n, &e) == RC_OK);
    return n;
}

static inline void make_database(const char *sql)
{
    sqlite3 *db = NULL;

    CHECK(sqlite3_open(path, &db) == SQLITE_OK);
    CHECK(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
}

/* A folder of its own under TMPDIR, and a loop. 0, or 1: there is none. */
static inline int ledger_setup(void)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, sizeof dir, "%.40s/spw-ledger-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof path, "%s/ledger.db", dir);
    loop = event_base_new();
    return 0;
}

static inline int ledger_teardown(int failed)
{
    event_base_free(loop);
    rmdir(dir);
    return failed;
}

#endif
