/* The capacity journal: intents are durable before anybody is told so; whoever is killed at any instant has asked for
 * nothing that the next one does not find; ends, prices and the bill.
 * links: spw_sched_capacity */
#include "scheduler/capacity/journal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "tests/unit/test.h"

#define DOLLAR INT64_C(1000000000000)

static struct log silent = {.fd = -1, .level = LOG_ERROR, .clock = &clock_system, .program = "test"};

struct fixture {
    char dir[64], path[96], calls[96], owner[33];
    struct event_base *loop;
    struct journal *j;
    int done, open;
    enum rc rc;
    struct journal_entry last;
    struct journal_bill bill;
};

static void reopen(struct fixture *f)
{
    struct error e;
    if (f->j)
        journal_close(f->j);
    CHECK_INT(journal_open(&f->j, f->path, f->loop, &silent, f->owner, &e), RC_OK);
}

static void setup(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/spillway-test-XXXXXX");
    CHECK(mkdtemp(f->dir) != NULL);
    snprintf(f->path, sizeof f->path, "%s/capacity.db", f->dir);
    snprintf(f->calls, sizeof f->calls, "%s/calls", f->dir);
    f->loop = event_base_new();
    reopen(f);
}

static void teardown(struct fixture *f)
{
    static const char *const names[] = {"capacity.db", "capacity.db-wal", "capacity.db-shm", "calls"};
    char path[128];
    journal_close(f->j);
    event_base_free(f->loop);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", f->dir, names[i]);
        unlink(path);
    }
    CHECK_INT(rmdir(f->dir), 0);
}

static void on_done(enum rc rc, const char *token, void *arg)
{
    struct fixture *f = arg;
    CHECK(token[0]);
    f->rc = rc;
    f->done++;
    event_base_loopbreak(f->loop);
}

static void on_open(const struct journal_entry *i, void *arg)
{
    struct fixture *f = arg;
    f->open++;
    f->last = *i;
}

static int count_open(struct fixture *f)
{
    struct error e;
    f->open = 0;
    CHECK_INT(journal_each_open(f->j, on_open, f, &e), RC_OK);
    return f->open;
}

static void intend(struct fixture *f, const char *token)
{
    struct journal_entry i = {.name = "n-1", .provider = "cloud", .pool = "p", .intended_s = 1000, .price_hour = {7}};
    snprintf(i.token, sizeof i.token, "%s", token);
    const int before = f->done;
    journal_intend(f->j, &i, on_done, f);
    CHECK_INT(f->done, before); /* never from inside */
    while (f->done == before)
        event_base_loop(f->loop, EVLOOP_ONCE);
}

static void intents_live_on(void)
{
    struct fixture f;
    char owner[33];
    setup(&f);
    snprintf(owner, sizeof owner, "%s", f.owner);
    CHECK_INT(strlen(owner), 32);
    intend(&f, "t1");
    CHECK_INT(f.rc, RC_OK);
    intend(&f, "t1"); /* a token is used once */
    CHECK_INT(f.rc, RC_IO);
    reopen(&f);
    CHECK_STR(f.owner, owner);
    CHECK_INT(count_open(&f), 1);
    CHECK_STR(f.last.name, "n-1");
    CHECK_STR(f.last.id, "");
    CHECK_INT(f.last.price_hour.v, 7);
    journal_known(f.j, "t1", "i-1", "z/spot", 1010, (struct pusd){9});
    reopen(&f); /* what is queued is written first */
    CHECK_INT(count_open(&f), 1);
    CHECK_STR(f.last.id, "i-1");
    CHECK_STR(f.last.offer, "z/spot");
    CHECK_INT(f.last.launched_s, 1010);
    journal_end(f.j, "t1", 2000, "surplus");
    reopen(&f);
    CHECK_INT(count_open(&f), 0);
    teardown(&f);
}

static void on_bill(enum rc rc, const struct journal_bill *b, void *arg)
{
    struct fixture *f = arg;
    CHECK_INT(rc, RC_OK);
    f->bill = *b;
    event_base_loopbreak(f->loop);
}

static int64_t bill(struct fixture *f, int64_t from, int64_t until)
{
    journal_bill(f->j, from, until, on_bill, f);
    event_base_dispatch(f->loop);
    return (int64_t)f->bill.paid.v;
}

static void bills_by_the_price_that_held(void)
{
    struct fixture f;
    setup(&f);
    intend(&f, "a");
    journal_known(f.j, "a", "i-a", "", 10000, (struct pusd){DOLLAR});
    journal_price(f.j, "a", (struct pusd){2 * DOLLAR}, 11800); /* after half an hour */
    CHECK_INT(bill(&f, 0, 13600), DOLLAR / 2 + DOLLAR);
    CHECK_INT(f.bill.seconds, 3600);
    CHECK_INT(bill(&f, 0, 10900), DOLLAR / 4);
    CHECK_INT(bill(&f, 11800, 13600), DOLLAR);
    journal_end(f.j, "a", 13600, "");
    CHECK_INT(bill(&f, 0, 99999), DOLLAR / 2 + DOLLAR);
    CHECK_INT(f.bill.instances, 1);
    CHECK_INT(bill(&f, 20000, 99999), 0);
    /* The least that is billed. */
    struct journal_entry i = {.token = "b", .name = "b", .provider = "cloud", .pool = "p", .billing_min_s = 60};
    journal_intend(f.j, &i, NULL, NULL);
    journal_known(f.j, "b", "i-b", "", 50000, (struct pusd){36 * DOLLAR});
    journal_end(f.j, "b", 50010, "");
    CHECK_INT(bill(&f, 40000, 99999), 60 * 36 * DOLLAR / 3600);
    teardown(&f);
}

/* Of a market: heard of before, while and after an instance is there, and each for the seconds in which it held. */
static void prices_of_a_market(void)
{
    struct fixture f;
    setup(&f);
    journal_market(f.j, "cloud", "z/spot", (struct pusd){8 * DOLLAR}, 1000);
    journal_market(f.j, "cloud", "z/spot", (struct pusd){DOLLAR}, 9000);
    journal_market(f.j, "cloud", "z/spot", (struct pusd){2 * DOLLAR}, 10900); /* before it is known what was launched */
    intend(&f, "a");
    journal_known(f.j, "a", "i-a", "z/spot", 10000, (struct pusd){2 * DOLLAR});
    CHECK_INT(bill(&f, 0, 11800), DOLLAR / 4 + DOLLAR / 2);
    journal_market(f.j, "cloud", "y/spot", (struct pusd){9 * DOLLAR}, 11800);
    journal_market(f.j, "elsewhere", "z/spot", (struct pusd){9 * DOLLAR}, 11800);
    journal_end(f.j, "a", 13600, "");
    CHECK_INT(bill(&f, 0, 99999), DOLLAR / 4 + 3 * DOLLAR / 2);
    journal_market(f.j, "cloud", "z/spot", (struct pusd){4 * DOLLAR}, 11800); /* its end is known already */
    journal_market(f.j, "cloud", "z/spot", (struct pusd){9 * DOLLAR}, 13600); /* not any more */
    CHECK_INT(bill(&f, 0, 99999), DOLLAR / 4 + DOLLAR / 2 + 2 * DOLLAR);
    journal_market(f.j, "cloud", "z/spot", (struct pusd){8 * DOLLAR}, 1000); /* once more, from the start */
    CHECK_INT(bill(&f, 0, 99999), DOLLAR / 4 + DOLLAR / 2 + 2 * DOLLAR);
    journal_market(f.j, "cloud", "z/spot", (struct pusd){3 * DOLLAR}, 1000000); /* days later the old ones are let go */
    CHECK_INT(bill(&f, 0, 99999), DOLLAR / 4 + DOLLAR / 2 + 2 * DOLLAR);
    intend(&f, "b");
    journal_known(f.j, "b", "i-b", "z/spot", 999000, (struct pusd){DOLLAR});
    CHECK_INT(bill(&f, 999000, 1003600), 1000 * DOLLAR / 400 + 3 * DOLLAR); /* but for the one that held */
    teardown(&f);
}

/* ---- killed at any instant ---------------------------------------------------------------------------------------- */

/* Stands for a provider: what it was asked for is in its own book, at once. */
static void ask_provider(struct fixture *f, const char *token)
{
    const int fd = open(f->calls, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    char line[80];
    const int n = snprintf(line, sizeof line, "%s\n", token);
    if (fd < 0 || write(fd, line, (size_t)n) != n)
        _exit(1);
    close(fd);
}

static void on_intended(enum rc rc, const char *token, void *arg)
{
    if (rc == RC_OK)
        ask_provider(arg, token);
}

static void launches_until_killed(struct fixture *f, int round)
{
    struct fixture mine = *f;
    mine.loop = event_base_new();
    mine.j = NULL;
    reopen(&mine);
    for (int i = 0;; i++) {
        struct journal_entry entry = {.name = "n", .provider = "c", .pool = "p"};
        snprintf(entry.token, sizeof entry.token, "r%d-%d", round, i);
        journal_intend(mine.j, &entry, on_intended, &mine);
        event_base_loop(mine.loop, EVLOOP_NONBLOCK);
        if (i % 7 == 6)
            event_base_loop(mine.loop, EVLOOP_ONCE);
    }
}

struct found {
    char tokens[20000][16];
    int n;
};
static void on_found(const struct journal_entry *i, void *arg)
{
    struct found *f = arg;
    if (f->n < 20000)
        snprintf(f->tokens[f->n++], 16, "%.15s", i->token);
}

static bool is_found(const struct found *f, const char *token)
{
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->tokens[i], token) == 0)
            return true;
    return false;
}

static void whoever_is_killed_is_found_out(void)
{
    struct fixture f;
    struct error e;
    static struct found found;
    char line[80];
    int asked = 0;
    setup(&f);
    journal_close(f.j);
    f.j = NULL;
    for (int round = 0; round < 12; round++) {
        const pid_t pid = fork();
        if (pid == 0)
            launches_until_killed(&f, round);
        usleep(4000 + (useconds_t)(round * 3571 % 40000));
        for (int ms = 0; round == 11 && ms < 10000 && access(f.calls, F_OK) != 0; ms++) /* one has asked, at last */
            usleep(1000);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    reopen(&f);
    found.n = 0;
    CHECK_INT(journal_each_open(f.j, on_found, &found, &e), RC_OK);
    FILE *calls = fopen(f.calls, "r");
    while (calls && fgets(line, sizeof line, calls)) {
        line[strcspn(line, "\n")] = '\0';
        asked++;
        CHECK(is_found(&found, line));
    }
    if (calls)
        fclose(calls);
    CHECK(asked > 0 && found.n >= asked);
    teardown(&f);
}

static void on_losses(const char *pool, const struct losses *l, void *arg)
{
    struct losses *of = arg;
    of[strcmp(pool, "b") == 0] = *l;
}

static void losses_are_kept(void)
{
    struct fixture f;
    struct error e;
    struct losses found[2];
    setup(&f);
    journal_losses(f.j, "a", &(struct losses){1, 2, 3});
    journal_losses(f.j, "b", &(struct losses){0, 0.25, 1700000000});
    journal_losses(f.j, "a", &(struct losses){1.5, 20, 4});
    reopen(&f); /* what is queued is written first */
    CHECK_INT(journal_each_losses(f.j, on_losses, found, &e), RC_OK);
    CHECK(found[0].lost == 1.5 && found[0].hours == 20 && found[0].at_s == 4);
    CHECK(found[1].lost == 0 && found[1].hours == 0.25 && found[1].at_s == 1700000000);
    teardown(&f);
}

int main(void)
{
    TEST(intents_live_on);
    TEST(bills_by_the_price_that_held);
    TEST(prices_of_a_market);
    TEST(whoever_is_killed_is_found_out);
    TEST(losses_are_kept);
    return TEST_RESULT();
}
