/* The ledger's journal: what is packed comes out as it was; a ring that is written over and over has only what is in
 * this round; what was told to be durable is in the ledger once, whatever a crash has left (a torn end, a damaged
 * middle, a journal that is folded and still there), whatever the ledger's file refuses meanwhile, and whether or
 * not the journal's own flush fails; who reads sees all of it at once; rows that come slowly, or with the journal
 * off, have none.
 *
 * links: spw_sched_books */
#include "tests/unit/ledger_help.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/alloc.h"
#include "scheduler/books/ahead.h"
#include "scheduler/books/folder.h"
#include "scheduler/books/ledger_pack.h"

#define BYTES (1 << 20)
static const struct ledger_options always = {.journal = LEDGER_JOURNAL_ALWAYS, .journal_bytes = BYTES};

/* ---- a disk that does not flush ---------------------------------------------------------------------------------- */

static atomic_bool no_flush;          /* of journals */
static atomic_int log_flushes;        /* of the ledger's log */
static atomic_llong written, at_risk; /* bytes into journals; since the log's last flush, at most */

static bool is_called(int fd, const char *what)
{
    char link[40], name[256] = "";

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return readlink(link, name, sizeof name - 1) > 0 && strstr(name, what);
}

int fdatasync(int fd)
{
    static atomic_llong flushed_at;

    if (no_flush && is_called(fd, ".ahead")) {
        errno = EIO;
        return -1;
    }
    if (is_called(fd, "-wal")) {
        log_flushes++;
        flushed_at = written;
    }
    if (written - flushed_at > at_risk)
        at_risk = written - flushed_at;
    return (int)syscall(SYS_fdatasync, fd);
}

/* ---- a core that others want ------------------------------------------------------------------------------------- */

static atomic_int yields, yields_put_aside, yields_in_a_row, most_in_a_row, yield_ms;

int sched_yield(void)
{
    const int row = ++yields_in_a_row;

    yields++;
    most_in_a_row = row > most_in_a_row ? row : most_in_a_row;
    yields_put_aside += sched_getscheduler(0) == SCHED_IDLE;
    usleep((useconds_t)yield_ms * 1000);
    return (int)syscall(SYS_sched_yield);
}

/* Of the ledger's log: something is committed. */
ssize_t pwrite64(int fd, const void *data, size_t n, off_t at)
{
    if (is_called(fd, "-wal"))
        yields_in_a_row = 0;
    return syscall(SYS_pwrite64, fd, data, n, at);
}

/* ---- a file system that has files opened for direct writes, and then refuses them ------------------------------- */

static atomic_bool no_direct;
static atomic_int refused, direct;

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    const bool is_direct = fcntl(fd, F_GETFL) & O_DIRECT;

    if (is_direct && no_direct) {
        refused++;
        errno = EINVAL;
        return -1;
    }
    direct += is_direct;
    written += is_called(fd, ".ahead") ? (long long)n : 0;
    return syscall(SYS_pwrite64, fd, data, n, at);
}

/* ---- entries ----------------------------------------------------------------------------------------------------- */

static const struct ledger_leg two_legs[] = {{.leg = 1,
                                              .node = "a",
                                              .provider = "ec2",
                                              .numerics = "0123",
                                              .market = "spot",
                                              .domain = "ec2/eu-1/a/g6",
                                              .outcome = "cut",
                                              .tokens_input = 1000,
                                              .tokens_cached_input = 400,
                                              .tokens_output = 70,
                                              .started = {1},
                                              .ended = {3700 * NS_PER_S},
                                              .uses = {{0, 300, 40}, {3600, 200, -1}},
                                              .n_uses = 2},
                                             {.leg = 2, .node = "b", .outcome = "ok", .tokens_output = 7}};

static struct ledger_row full_row(const char *id)
{
    struct ledger_row r = row(id);

    r.hold_id = "hold";
    r.request_hash = "0f";
    r.budget_waste.v = 5;
    r.budgets = "1699999200 team search\n";
    r.continuations = 1;
    r.cross_class = true;
    r.legs = two_legs;
    r.n_legs = 2;
    return r;
}

static void check_same_row(struct ledger_row a, struct ledger_row b)
{
    static const size_t texts[] = {
        offsetof(struct ledger_row, request_id),    offsetof(struct ledger_row, tenant),
        offsetof(struct ledger_row, team),          offsetof(struct ledger_row, key_id),
        offsetof(struct ledger_row, model),         offsetof(struct ledger_row, node),
        offsetof(struct ledger_row, provider),      offsetof(struct ledger_row, asked_model),
        offsetof(struct ledger_row, service_class), offsetof(struct ledger_row, cache),
        offsetof(struct ledger_row, project),       offsetof(struct ledger_row, idempotency_key),
        offsetof(struct ledger_row, user),          offsetof(struct ledger_row, request_hash),
        offsetof(struct ledger_row, tags),          offsetof(struct ledger_row, hold_id),
        offsetof(struct ledger_row, budgets),       offsetof(struct ledger_row, usage_source),
        offsetof(struct ledger_row, market),        offsetof(struct ledger_row, domain),
        offsetof(struct ledger_row, error)};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char **x = (const char **)((char *)&a + texts[i]), **y = (const char **)((char *)&b + texts[i]);
        CHECK(*x && *y && strcmp(*x, *y) == 0);
        *x = *y = NULL;
    }
    CHECK_INT(a.n_legs, b.n_legs);
    for (int i = 0; i < a.n_legs && i < b.n_legs; i++) {
        const struct ledger_leg *p = &a.legs[i], *q = &b.legs[i];
        CHECK_INT(p->leg, q->leg);
        CHECK_STR(p->node, q->node);
        CHECK_STR(p->provider, q->provider);
        CHECK_STR(p->numerics, q->numerics);
        CHECK_STR(p->domain, q->domain);
        CHECK_STR(p->outcome, q->outcome);
        CHECK((!p->market && !q->market) || strcmp(p->market, q->market) == 0);
        CHECK(p->tokens_input == q->tokens_input && p->tokens_cached_input == q->tokens_cached_input);
        CHECK(p->tokens_output == q->tokens_output && p->started.ns == q->started.ns && p->ended.ns == q->ended.ns);
        CHECK_INT(p->n_uses, q->n_uses);
        CHECK(memcmp(p->uses, q->uses, sizeof p->uses) == 0);
    }
#define SAME(member) CHECK_INT(a.member, b.member)
    SAME(saved.v);
    SAME(repeat);
    SAME(budget_waste.v);
    SAME(streamed);
    SAME(attempts);
    SAME(continuations);
    SAME(cross_class);
    SAME(tokens.input);
    SAME(tokens.cached_input);
    SAME(tokens.output);
    SAME(tokens_reasoning);
    SAME(prices.input.uusd_per_mtok);
    SAME(prices.cached_input.uusd_per_mtok);
    SAME(prices.output.uusd_per_mtok);
    SAME(price_version);
    SAME(reserved.v);
    SAME(charge.v);
    SAME(charge_max.v);
    SAME(accepted.ns);
    SAME(first_byte.ns);
    SAME(finished.ns);
    SAME(outcome);
    SAME(http_status);
}

static void test_packed(void)
{
    const struct ledger_budget_event ev = {LEDGER_HOLD, "req", "5 team\n", {INT64_MIN}, {-1}, {INT64_MAX}};
    struct ledger_unpacked u = {0};
    struct ledger_row r = full_row("one");
    struct strbuf out;

    strbuf_init(&out, 65536);
    CHECK(ledger_pack(&out, &r, NULL) == RC_OK);
    const size_t n = out.len;
    CHECK(ledger_pack(&out, NULL, &ev) == RC_OK);
    CHECK_INT(ledger_unpack(&u, out.data, out.len), n);
    CHECK(!u.is_event);
    check_same_row(u.row, r);
    for (size_t i = 0; i < n; i++) /* an entry that is not whole is none */
        CHECK_INT(ledger_unpack(&u, out.data, i), 0);
    CHECK_INT(ledger_unpack(&u, out.data + n, out.len - n), out.len - n);
    CHECK(u.is_event && u.event.kind == LEDGER_HOLD && u.event.amount.v == INT64_MIN && u.event.soft.v == -1);
    CHECK(u.event.at.ns == INT64_MAX);
    CHECK_STR(u.event.id, "req");
    CHECK_STR(u.event.budgets, "5 team\n");
    /* What a newer program adds is passed over: a number, a text, and a part with both in it, under tags of its own. */
    static const char added[] = {60 << 2 | 1, 7, 60 << 2 | 2, 2, 'x', 0, (char)(61u << 2 | 3), 60 << 2 | 1, 7, 0};
    out.len = 0;
    CHECK(strbuf_append(&out, "r", 1) == RC_OK && strbuf_append(&out, added, sizeof added) == RC_OK);
    CHECK(strbuf_append(&out, "\x06\x02x\0\0", 5) == RC_OK); /* request_id "x", and the end */
    CHECK_INT(ledger_unpack(&u, out.data, out.len), out.len);
    CHECK_STR(u.row.request_id, "x");
    ledger_unpacked_fini(&u);
    strbuf_fini(&out);
}

static void test_garbage(void)
{
    struct ledger_unpacked u = {0};
    struct ledger_row r = full_row("one");
    struct strbuf out;

    strbuf_init(&out, 65536);
    CHECK(ledger_pack(&out, &r, NULL) == RC_OK);
    srand(5);
    for (int i = 0; i < 20000; i++) {
        char *copy = spw_strndup(out.data, out.len);
        memcpy(copy, out.data, out.len);
        for (int k = rand() % 4; k >= 0; k--)
            copy[(size_t)rand() % out.len] = (char)rand();
        CHECK(ledger_unpack(&u, copy, out.len) <= out.len);
        free(copy);
    }
    ledger_unpacked_fini(&u);
    strbuf_fini(&out);
}

static void test_possible(void)
{
    struct ledger_row r = full_row("one");
    struct ledger_leg legs[2] = {two_legs[0], two_legs[1]};

    CHECK(ledger_row_is_possible(&r));
    r.legs = legs;
    legs[1].leg = 1;
    CHECK(!ledger_row_is_possible(&r));
    legs[1].leg = 2;
    legs[0].outcome = NULL;
    CHECK(!ledger_row_is_possible(&r));
    r.n_legs = 0;
    r.tokens.cached_input = r.tokens.input + 1;
    CHECK(!ledger_row_is_possible(&r));
}

/* ---- the ring ---------------------------------------------------------------------------------------------------- */

#define RING 65536

static int64_t put_frame(struct ahead *a, int64_t at, int number, size_t n)
{
    struct strbuf *f = ahead_frame(a);
    struct error e;

    CHECK(strbuf_append(f, &number, sizeof number) == RC_OK);
    for (size_t i = sizeof number; i < n; i++)
        CHECK(strbuf_append(f, "x", 1) == RC_OK);
    CHECK_INT(ahead_write(a, at, number, &e), RC_OK);
    CHECK_INT(ahead_frame_bytes(a), (int64_t)(32 + n + AHEAD_BLOCK - 1) / AHEAD_BLOCK * AHEAD_BLOCK);
    return at + ahead_frame_bytes(a);
}

/* Frames from there on that are whole, in order. */
static int frames_from(struct ahead *a, int64_t at, int *first)
{
    struct ahead_frame f;
    int n = 0;

    for (; ahead_read(a, at, &f); at = f.next, n++) {
        CHECK(memcmp(f.data, &f.entries, sizeof f.entries) == 0);
        if (n == 0)
            *first = f.entries;
        CHECK_INT(f.entries, *first + n);
    }
    return n;
}

static void test_ring(void)
{
    char *name = ahead_path(path);
    struct ahead *a, *other;
    struct error e;
    int64_t places[200], at = 0;
    int first = 0;

    CHECK_INT(ahead_open(&a, name, &e), RC_NOT_FOUND);
    CHECK_INT(ahead_make(&a, name, RING, &e), RC_OK);
    CHECK_INT(frames_from(a, 0, &first), 0);
    for (int i = 0; i < 200; i++) { /* some twelve rounds */
        places[i] = at;
        at = put_frame(a, at, i, 100 + (size_t)(i * 37 % 8000));
    }
    CHECK(at > 10 * RING);
    int oldest = 199;
    while (oldest > 0 && at - places[oldest - 1] <= RING)
        oldest--;
    CHECK_INT(ahead_open(&other, name, &e), RC_OK);
    CHECK(!ahead_try_lock(other));
    CHECK_STR(ahead_id(other), ahead_id(a));
    CHECK_INT(frames_from(other, places[oldest], &first), 200 - oldest);
    CHECK_INT(first, oldest);
    CHECK_INT(frames_from(other, places[oldest - 1], &first), 0); /* written over, in part at least */
    CHECK_INT(frames_from(other, places[oldest] + AHEAD_BLOCK / 2, &first), 0);
    int64_t next = 0;
    CHECK(ahead_find(other, places[oldest], &next) && next == places[oldest + 1]);
    CHECK(!ahead_find(other, places[199], &next));
    ahead_close(a);
    CHECK(ahead_try_lock(other));
    ahead_close(other);
    CHECK_INT(ahead_make(&a, name, RING, &e), RC_OK); /* under another ID, and nothing of the old one is there */
    CHECK_INT(frames_from(a, 0, &first), 0);
    CHECK(!ahead_find(a, -1, &next));
    ahead_remove(a);
    CHECK(access(name, F_OK) != 0);
    free(name);
}

static void write_file(const char *name, const char *text, size_t n)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    CHECK(fd >= 0 && write(fd, text, n) == (ssize_t)n);
    close(fd);
}

static void test_foreign(void)
{
    static const char other[80] = "something else", newer[80] = "spillway journal 3 0123456789abcdef 65536 more\n",
                      zeros[80];
    char *name = ahead_path(path);
    struct ahead *a;
    struct error e;

    write_file(name, other, sizeof other);
    CHECK_INT(ahead_open(&a, name, &e), RC_INVALID);
    CHECK(strstr(e.message, name) != NULL);
    CHECK_INT(ahead_make(&a, name, RING, &e), RC_INVALID);
    write_file(name, newer, sizeof newer);
    CHECK_INT(ahead_open(&a, name, &e), RC_UNSUPPORTED);
    write_file(name, zeros, sizeof zeros); /* a power cut while it was made */
    CHECK_INT(ahead_open(&a, name, &e), RC_OK);
    CHECK_INT(ahead_bytes(a), 0);
    ahead_close(a);
    write_file(name, zeros, 10);
    CHECK_INT(ahead_make(&a, name, RING, &e), RC_OK);
    ahead_remove(a);
    free(name);
}

static void test_no_room(void)
{
    char *name = ahead_path(path);
    struct ahead *a;
    struct error e;
    struct rlimit before, none = {.rlim_cur = 4096};

    CHECK(getrlimit(RLIMIT_FSIZE, &before) == 0);
    none.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &none) == 0);
    CHECK_INT(ahead_make(&a, name, RING, &e), RC_IO);
    CHECK(setrlimit(RLIMIT_FSIZE, &before) == 0);
    CHECK(strstr(e.message, name) != NULL && strstr(e.message, strerror(EFBIG)) != NULL);
    unlink(name);
    free(name);
}

/* ---- the ledger with it ------------------------------------------------------------------------------------------ */

static void append_some(struct seen *seen, struct ticket *tickets, int from, int n)
{
    for (int i = from; i < from + n; i++) {
        char id[32];
        snprintf(id, sizeof id, "req_%06d", i);
        struct ledger_row r = full_row(id);
        tickets[i] = (struct ticket){seen, i};
        CHECK(ledger_append(port, &r, done_cb, &tickets[i]) == RC_OK);
    }
}

static bool has_journal(void)
{
    char *name = ahead_path(path);
    const bool there = access(name, F_OK) == 0;

    free(name);
    return there;
}

static int64_t number_of(const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *s = NULL;
    int64_t v = -1;

    CHECK(sqlite3_open(path, &db) == SQLITE_OK && sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK);
    if (sqlite3_step(s) == SQLITE_ROW)
        v = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return v;
}

/* Each of n rows once, with all that belongs to it. */
static void check_books(int n)
{
    const int64_t charge = full_row("x").charge.v + 5;

    CHECK_INT(rows_in_file(), n);
    CHECK_INT(number_of("SELECT count(*) FROM more_legs"), 2 * n);
    CHECK_INT(number_of("SELECT count(*) FROM leg_uses"), 2 * n);
    CHECK_INT(number_of("SELECT sum(spent_pusd) FROM budget_totals"), n * charge);
}

static void test_always(void)
{
    static struct ticket tickets[300];
    struct seen seen = {.last = -1};
    struct ledger *l = open_ledger(&always);

    CHECK(has_journal());
    append_some(&seen, tickets, 0, 100);
    wait_for(&seen, 100);
    check_books(100); /* who reads sees what was told, at once */
    append_some(&seen, tickets, 100, 100);
    append_some(&seen, tickets, 200, 100);
    wait_for(&seen, 300);
    CHECK_INT(seen.ok, 300);
    CHECK(!seen.out_of_order);
    CHECK_INT(ledger_stats(l).rows, 300);
    close_ledger(l);
    CHECK(!has_journal());
    check_books(300);
    clean();
}

/* Direct writes where they can be had, and the page cache's where not: the books are the same. */
static void test_not_direct(void)
{
    static struct ticket tickets[200];
    struct seen seen = {.last = -1};
    struct ledger *l = open_ledger(&always);

    direct = refused = 0;
    append_some(&seen, tickets, 0, 100);
    wait_for(&seen, 100);
    const bool can = direct > 0; /* else the temporary folder's file system refuses them itself */
    no_direct = true;
    append_some(&seen, tickets, 100, 100);
    wait_for(&seen, 200);
    no_direct = false;
    CHECK_INT(refused, can ? 1 : 0); /* it is not tried again */
    CHECK_INT(seen.ok, 200);
    close_ledger(l);
    check_books(200);
    clean();
}

/* The ledger's log is flushed so seldom that it hardly costs, and as often as the ring needs: what it has not flushed
 * is in the ring. */
static void test_few_flushes(void)
{
    enum { N = 1200 };
    static struct ticket tickets[N];
    struct seen seen = {.last = -1};
    struct ledger *l = open_ledger(&always);

    log_flushes = 0;
    written = at_risk = 0;
    for (int i = 0; i < N; i++) { /* each in a block of its own, or nearly */
        append_some(&seen, tickets, i, 1);
        wait_for(&seen, i + 1);
    }
    CHECK(written > 4 * BYTES);
    CHECK(at_risk <= BYTES);
    CHECK(log_flushes >= 4 && log_flushes <= 25); /* four for each round of the ring, and for what checkpoints need */
    close_ledger(l);
    check_books(N);
    clean();
}

static void test_conflict(void)
{
    static struct ticket tickets[20];
    struct seen seen = {.last = -1};
    struct ledger *l = open_ledger(&always);
    struct ledger_row impossible = row("d");
    char text[256];

    append_some(&seen, tickets, 0, 10);
    append_some(&seen, tickets, 0, 10); /* once more */
    wait_for(&seen, 20);
    CHECK_INT(seen.ok, 20);
    check_books(10);
    impossible.tokens.cached_input = impossible.tokens.input + 1;
    tickets[0] = (struct ticket){&seen, 20};
    CHECK(ledger_append(port, &impossible, done_cb, &tickets[0]) == RC_OK);
    wait_for(&seen, 21);
    CHECK_INT(seen.other, 1);
    CHECK(strstr(ledger_last_error(l, text, sizeof text), "cannot be") != NULL);
    close_ledger(l);
    check_books(10);
    clean();
}

static void test_only_when_fast(void)
{
    enum { SLOW = 20, BURST = 1000, BURSTS = 60 }; /* a burst that takes a third of a second is fast enough */
    static struct ticket tickets[SLOW + BURSTS * BURST + 2];
    struct seen seen = {.last = -1};
    struct ledger_options o = {.journal = LEDGER_JOURNAL_AUTO, .journal_bytes = BYTES};
    struct ledger *l = open_ledger(&o);
    int n = 0;

    for (; n < SLOW; n++) {
        append_some(&seen, tickets, n, 1);
        wait_for(&seen, n + 1);
        usleep(10000);
    }
    CHECK(!has_journal());
    for (int i = 0; i < BURSTS && !has_journal(); i++, n += BURST) {
        append_some(&seen, tickets, n, BURST);
        wait_for(&seen, n + BURST);
        usleep(10000); /* the thread makes it, once it has a core */
    }
    CHECK(has_journal());
    CHECK_INT(seen.ok, n);
    for (int i = 0; i < 2; i++, n++) { /* slowly again: the first may still count as fast, the second does not */
        for (int k = 0; k < 1000 && ledger_stats(l).journal_bytes; k++)
            usleep(10000);
        usleep(600000);
        append_some(&seen, tickets, n, 1);
        wait_for(&seen, n + 1);
    }
    CHECK_INT(ledger_stats(l).journal_bytes, 0);
    CHECK_INT(number_of("SELECT count(*) FROM ledger"), n);
    close_ledger(l);
    CHECK(!has_journal());
    check_books(n);
    clean();
}

/* ---- crashes ----------------------------------------------------------------------------------------------------- */

/* A scheduler that dies with n rows told, each in a frame of its own, and none of them in the file: somebody has it
 * locked. */
static void die_with(int n)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        static struct ticket tickets[64];
        struct seen seen = {.last = -1};
        sqlite3 *other = NULL;
        loop = event_base_new(); /* the parent's is not ours */
        struct ledger *l = open_ledger(&always);
        bool good = l && sqlite3_open(path, &other) == SQLITE_OK &&
                    sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK;
        for (int i = 0; i < n && good; i++) {
            append_some(&seen, tickets, i, 1);
            wait_for(&seen, i + 1);
            good = seen.ok == i + 1;
        }
        _exit(good ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(has_journal());
}

static void test_crash(void)
{
    die_with(30);
    CHECK_INT(number_of("SELECT count(*) FROM ledger"), 0);
    check_books(30); /* a reader finds nobody and has it folded */
    CHECK(!has_journal());
    die_with(30); /* the same requests: they have their rows */
    struct ledger *l = open_ledger(NULL);
    close_ledger(l);
    check_books(30);
    clean();
}

/* The journal's bytes, and what a place in them is. */
static char *read_journal(size_t *n)
{
    char *name = ahead_path(path);
    struct stat st;
    int fd = open(name, O_RDONLY);

    CHECK(fd >= 0 && fstat(fd, &st) == 0);
    char *data = spw_malloc((size_t)st.st_size);
    *n = (size_t)st.st_size;
    CHECK(read(fd, data, *n) == (ssize_t)*n);
    close(fd);
    free(name);
    return data;
}

static void write_journal(const char *data, size_t n)
{
    char *name = ahead_path(path);

    write_file(name, data, n);
    free(name);
}

static void test_torn(void)
{
    size_t n;
    int64_t at = 0, ends[31];

    die_with(30);
    char *data = read_journal(&n), *name = ahead_path(path);
    struct ahead *a;
    struct ahead_frame f;
    struct error e;
    CHECK_INT(ahead_open(&a, name, &e), RC_OK);
    for (int i = 0; ahead_read(a, at, &f) && i < 31; at = f.next)
        ends[i++] = f.next;
    ahead_close(a);
    CHECK_INT(at, ends[29]);
    memset(data + AHEAD_HEAD_BYTES + ends[28] + 100, 0, 200); /* the newest is torn */
    write_journal(data, n);
    check_books(29);
    CHECK(!has_journal());
    clean();

    die_with(30);
    free(data);
    data = read_journal(&n);
    data[AHEAD_HEAD_BYTES + ends[9] + 100] ^= 1; /* the eleventh is damaged: it alone is lost */
    write_journal(data, n);
    struct ledger *l = open_ledger(NULL);
    close_ledger(l);
    check_books(29);
    glob_t found;
    char pattern[160];
    snprintf(pattern, sizeof pattern, "%s.cut-*-%lld", name, (long long)ends[9]);
    CHECK(glob(pattern, 0, NULL, &found) == 0 && found.gl_pathc == 1);
    unlink(found.gl_pathv[0]);
    globfree(&found);
    free(name);
    free(data);
    clean();
}

/* Folded, and the file is there nevertheless: a power cut has brought it back. */
static void test_exactly_once(void)
{
    size_t n;

    die_with(30);
    char *data = read_journal(&n);
    check_books(30);
    write_journal(data, n);
    check_books(30);
    write_journal(data, n);
    struct ledger *l = open_ledger(&always); /* under another ID */
    static struct ticket tickets[31];
    struct seen seen = {.last = 29};
    append_some(&seen, tickets, 30, 1);
    wait_for(&seen, 1);
    close_ledger(l);
    check_books(31);
    free(data);
    clean();
}

/* ---- what goes wrong while it runs ------------------------------------------------------------------------------- */

static void test_locked_and_full(void)
{
    enum { MOST = 200 };
    static struct ticket tickets[MOST];
    static char tags[BYTES / 40];
    struct seen seen = {.last = -1};
    struct ledger_options o = {.journal = LEDGER_JOURNAL_ALWAYS, .journal_bytes = BYTES, .busy_ms = 20};
    struct ledger *l = open_ledger(&o);
    sqlite3 *other = NULL;
    int n = 0;

    memset(tags, 't', sizeof tags - 1);
    CHECK(sqlite3_open(path, &other) == SQLITE_OK);
    CHECK(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK);
    for (; n < MOST && !seen.again; n++) { /* durable, as long as there is room */
        char id[16];
        snprintf(id, sizeof id, "r%d", n);
        struct ledger_row r = row(id);
        r.tags = tags;
        tickets[n] = (struct ticket){&seen, n};
        CHECK(ledger_append(port, &r, done_cb, &tickets[n]) == RC_OK);
        wait_for(&seen, n + 1);
    }
    CHECK(seen.ok > 35 && seen.ok < 45);
    CHECK_INT(seen.again, 1);
    CHECK(ledger_stats(l).failing && ledger_stats(l).journal_bytes > BYTES * 7 / 8);
    CHECK(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(other);
    struct ledger_row r = row("last");
    tickets[n] = (struct ticket){&seen, n};
    CHECK(ledger_append(port, &r, done_cb, &tickets[n]) == RC_OK);
    wait_for(&seen, n + 1);
    CHECK_INT(seen.ok, n);
    CHECK(!ledger_stats(l).failing);
    close_ledger(l);
    CHECK_INT(rows_in_file(), n); /* all but the one that was refused */
    clean();
}

/* While somebody has the file for longer than is waited for, all is durable as soon as ever, late or piling up; and is
 * in the file soon after. */
static void test_locked_for_long(void)
{
    enum { BURST = 300, MOST = 400, BUSY_MS = 20000 };
    static struct ticket tickets[MOST];
    struct seen seen = {.last = -1};
    const struct ledger_options o = {.journal = LEDGER_JOURNAL_ALWAYS, .journal_bytes = BYTES, .busy_ms = BUSY_MS};
    struct ledger *l = open_ledger(&o);
    sqlite3 *other = NULL;
    const struct mono began = clock_now(&clock_system);

    CHECK(sqlite3_open(path, &other) == SQLITE_OK);
    CHECK(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK);
    append_some(&seen, tickets, 0, BURST); /* they pile up before the thread is at it */
    wait_for(&seen, BURST);
    for (int n = BURST; n < MOST; n++) {
        append_some(&seen, tickets, n, 1);
        wait_for(&seen, n + 1);
        if (n == MOST - 20)
            usleep(FOLD_LATE_MS * 2000); /* the writer has nothing else to do */
    }
    CHECK_INT(seen.ok, MOST);
    CHECK(ledger_stats(l).journal_bytes > BYTES / FOLD_PILE);
    CHECK(!ledger_stats(l).failing);
    CHECK(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(other);
    for (int k = 0; k < 1000 && ledger_stats(l).journal_bytes; k++)
        usleep(10000);
    CHECK_INT(ledger_stats(l).journal_bytes, 0);
    CHECK(mono_since(&clock_system, began) < BUSY_MS * NS_PER_MS); /* nobody has waited for it */
    close_ledger(l);
    check_books(MOST);
    clean();
}

/* Others want the thread's core: what it does in a transaction it does not do behind all of them, and when they have it
 * for long it lets them go first once, and no more, until that is committed. Where no core has been idle the writer has
 * folded it all himself: then there are more rows. */
static void test_contested(void)
{
    enum { ROWS = 400, MOST = 30 * ROWS, LONG_MS = 20 };
    static struct ticket tickets[MOST];
    struct seen seen = {.last = -1};
    struct ledger *l = open_ledger(&(struct ledger_options){.journal = LEDGER_JOURNAL_ALWAYS});
    int n = 0;

    yields = yields_put_aside = yields_in_a_row = most_in_a_row = 0;
    yield_ms = LONG_MS;
    do {
        append_some(&seen, tickets, n++, 1);
        wait_for(&seen, n);
        while (n % ROWS == 0 && ledger_stats(l).journal_bytes)
            usleep(1000);
    } while (n % ROWS != 0 || (yields == 0 && n < MOST));
    CHECK(yields > 0 && yields_put_aside == 0);
    CHECK_INT(most_in_a_row, 1);
    yield_ms = 0;
    close_ledger(l);
    check_books(n);
    clean();
}

/* Rows that come too slowly for a journal take its way nevertheless, while somebody has the file for long. */
static void test_locked_without_journal(void)
{
    enum { MOST = 30, BUSY_MS = 20000 };
    static struct ticket tickets[MOST];
    struct seen seen = {.last = -1};
    const struct ledger_options o = {.journal = LEDGER_JOURNAL_AUTO, .journal_bytes = BYTES, .busy_ms = BUSY_MS};
    struct ledger *l = open_ledger(&o);
    sqlite3 *other = NULL;
    char text[256];

    append_some(&seen, tickets, 0, 1);
    wait_for(&seen, 1);
    CHECK(!has_journal());
    CHECK(sqlite3_open(path, &other) == SQLITE_OK);
    CHECK(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK);
    const struct mono began = clock_now(&clock_system);
    for (int n = 1; n < MOST - 1; n++) {
        append_some(&seen, tickets, n, 1);
        wait_for(&seen, n + 1);
    }
    CHECK(mono_since(&clock_system, began) < BUSY_MS * NS_PER_MS); /* it is not waited for */
    CHECK(seen.ok == MOST - 1 && !ledger_stats(l).failing && ledger_stats(l).failed == 0);
    CHECK_STR(ledger_last_error(l, text, sizeof text), "");
    CHECK(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(other);
    for (int k = 0; k < 1000 && ledger_stats(l).journal_bytes; k++)
        usleep(10000);
    append_some(&seen, tickets, MOST - 1, 1);
    wait_for(&seen, MOST);
    CHECK_INT(number_of("SELECT count(*) FROM ledger"), MOST); /* the last one has gone there at once */
    close_ledger(l);
    check_books(MOST);
    clean();
}

/* Its flush fails: the group goes into the file, behind all that was in the journal, which is not used any more; and
 * what the disk may have of it is never folded. */
static void test_no_flush(void)
{
    static struct ticket tickets[40];
    struct seen seen = {.last = -1};
    struct ledger *l = open_ledger(&always);
    size_t n;
    char text[256];

    append_some(&seen, tickets, 0, 10);
    wait_for(&seen, 10);
    no_flush = true;
    append_some(&seen, tickets, 10, 10);
    wait_for(&seen, 20);
    CHECK(strstr(ledger_last_error(l, text, sizeof text), ".ahead") != NULL);
    no_flush = false;
    append_some(&seen, tickets, 20, 10);
    wait_for(&seen, 30);
    CHECK_INT(seen.ok, 30);
    CHECK(!seen.out_of_order && !ledger_stats(l).failing && ledger_stats(l).journal_bytes == 0);
    char *data = read_journal(&n);
    CHECK_INT(number_of("SELECT count(*) FROM ledger"), 30);
    close_ledger(l);
    make_database("DELETE FROM ledger; DELETE FROM more_legs; DELETE FROM leg_uses; DELETE FROM budget_totals");
    write_journal(data, n); /* as a crash would have left it: its rows would be seen if they were folded */
    l = open_ledger(NULL);
    close_ledger(l);
    CHECK_INT(rows_in_file(), 0);
    free(data);
    clean();
}

int main(void)
{
    if (ledger_setup() != 0)
        return 1;
    TEST(test_packed);
    TEST(test_garbage);
    TEST(test_possible);
    TEST(test_ring);
    TEST(test_foreign);
    TEST(test_no_room);
    TEST(test_always);
    TEST(test_not_direct);
    TEST(test_few_flushes);
    TEST(test_conflict);
    TEST(test_only_when_fast);
    TEST(test_crash);
    TEST(test_torn);
    TEST(test_exactly_once);
    TEST(test_locked_and_full);
    TEST(test_locked_for_long);
    TEST(test_locked_without_journal);
    TEST(test_contested);
    TEST(test_no_flush);
    return ledger_teardown(TEST_RESULT());
}
