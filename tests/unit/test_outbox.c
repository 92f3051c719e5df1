/* Proves that what is put into the outbox is sent once to each recipient: nothing is taken before it is due, a failure
 * is tried again later and later and given up in the end, a kill at any instant loses no delivery and changes no
 * Message-ID, parts go when nobody waits for them any more, a nightly report is put there once, and a file that is just
 * being made is waited for.
 * links: spw_sched_nightly spw_base */
#include "tests/unit/test.h"

#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "scheduler/nightly/outbox.h"

static char folder[] = "/tmp/spillway-outbox-XXXXXX", path[64];
static struct error e;

static struct outbox *open_it(void)
{
    struct outbox *o = NULL;
    if (outbox_open(&o, path, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return o;
}

static void begin(void)
{
    char other[80];
    unlink(path);
    snprintf(other, sizeof other, "%s-wal", path);
    unlink(other);
    snprintf(other, sizeof other, "%s-shm", path);
    unlink(other);
}

static const struct outbox_part parts[] = {{OUTBOX_TEXT, NULL, NULL, "hello", 5},
                                           {OUTBOX_FILE, "a.csv", "text/csv", "x\0y", 3},
                                           {OUTBOX_NOTICE, NULL, NULL, "{}", 2}};
static const struct outbox_target targets[] = {
    {OUTBOX_MAIL, "ann@example.com"}, {OUTBOX_MAIL, "bob@example.com"}, {OUTBOX_WEBHOOK, "webhook"}};

static struct outbox_run run_of(const char *period, const char *id)
{
    return (struct outbox_run){.period = period,
                               .subject = "Costs",
                               .from = "us@example.com",
                               .message_id = id,
                               .files = "a.csv",
                               .made_s = 1000,
                               .parts = parts,
                               .targets = targets,
                               .n_parts = 3,
                               .n_targets = 3};
}

static void test_once(void)
{
    begin();
    struct outbox *o = open_it();
    struct outbox_run r = run_of("2026-11-28", "one@x"), second = run_of("2026-11-28", "two@x");
    struct outbox_item item;
    int64_t next;
    bool has = true;
    CHECK(outbox_has(o, "2026-11-28", NULL, &has, &e) == RC_OK && !has);
    CHECK(outbox_put(o, &r, OUTBOX_NIGHTLY, &e) == RC_OK);
    CHECK(outbox_put(o, &second, OUTBOX_NIGHTLY, &e) == RC_OK); /* nothing happens */
    CHECK(outbox_has(o, "2026-11-28", NULL, &has, &e) == RC_OK && has);
    CHECK(outbox_has(o, "2026-11-28", "search", &has, &e) == RC_OK && !has);
    CHECK(outbox_take(o, OUTBOX_MAIL, 999, &item, &next, &e) == RC_NOT_FOUND && next == 1000);
    outbox_item_fini(&item);
    for (int i = 0; i < 2; i++) {
        CHECK(outbox_take(o, OUTBOX_MAIL, 1000, &item, &next, &e) == RC_OK);
        CHECK_STR(item.to, targets[i].to);
        CHECK_STR(item.all_to, "ann@example.com, bob@example.com");
        CHECK_STR(item.message_id, "one@x");
        CHECK(item.n_parts == 3 && item.parts[1].n == 3 && memcmp(item.parts[1].bytes, "x\0y", 3) == 0);
        CHECK(outbox_note(o, item.id, OUTBOX_SENT, "", 1001, 0, &e) == RC_OK);
        outbox_item_fini(&item);
    }
    CHECK(outbox_take(o, OUTBOX_MAIL, 9999, &item, &next, &e) == RC_NOT_FOUND && next == INT64_MAX);
    CHECK(outbox_take(o, OUTBOX_WEBHOOK, 1000, &item, &next, &e) == RC_OK && item.n_parts == 3);
    CHECK(outbox_note(o, item.id, OUTBOX_GIVEN_UP, "404", 1001, 0, &e) == RC_OK);
    outbox_item_fini(&item);
    second.message_id = "three@x";
    CHECK(outbox_put(o, &second, OUTBOX_AGAIN, &e) == RC_OK); /* somebody asks for it: sent anew */
    CHECK(outbox_take(o, OUTBOX_MAIL, 1000, &item, &next, &e) == RC_OK);
    CHECK_STR(item.message_id, "three@x");
    outbox_item_fini(&item);
    outbox_close(o);
}

static void test_asked_for_first(void)
{
    begin();
    struct outbox *o = open_it();
    struct outbox_run r = run_of("2026-11-28", "one@x"), nightly = run_of("2026-11-28", "two@x");
    bool has;
    CHECK(outbox_put(o, &r, OUTBOX_AGAIN, &e) == RC_OK);
    CHECK(outbox_has(o, "2026-11-28", NULL, &has, &e) == RC_OK && !has);
    CHECK(outbox_put(o, &nightly, OUTBOX_NIGHTLY, &e) == RC_OK);
    CHECK(outbox_has(o, "2026-11-28", NULL, &has, &e) == RC_OK && has);
    outbox_close(o);
}

static void test_tries(void)
{
    begin();
    struct outbox *o = open_it();
    struct outbox_run r = run_of("2026-11-28", "one@x");
    struct outbox_counts c[OUTBOX_KINDS];
    struct outbox_item item;
    int64_t next;
    CHECK(outbox_put(o, &r, OUTBOX_NIGHTLY, &e) == RC_OK);
    CHECK(outbox_take(o, OUTBOX_MAIL, 1000, &item, &next, &e) == RC_OK);
    CHECK(outbox_note(o, item.id, OUTBOX_WAITING, "nobody is there", 1000, 1060, &e) == RC_OK);
    outbox_item_fini(&item);
    CHECK(outbox_postpone(o, OUTBOX_MAIL, 1060, &e) == RC_OK);
    CHECK(outbox_take(o, OUTBOX_MAIL, 1059, &item, &next, &e) == RC_NOT_FOUND && next == 1060); /* bob waits as well */
    CHECK(outbox_take(o, OUTBOX_WEBHOOK, 1000, &item, &next, &e) == RC_OK); /* the webhook does not */
    struct outbox_item again;
    CHECK(outbox_hurry(o, OUTBOX_WEBHOOK, 1010, &e) == RC_OK);
    CHECK(outbox_take(o, OUTBOX_MAIL, 1010, &again, &next, &e) == RC_NOT_FOUND); /* another's haste is not ours */
    outbox_item_fini(&again);
    CHECK(outbox_hurry(o, OUTBOX_MAIL, 1010, &e) == RC_OK);
    CHECK(outbox_take(o, OUTBOX_MAIL, 1010, &again, &next, &e) == RC_OK);
    outbox_item_fini(&again);
    CHECK(outbox_postpone(o, OUTBOX_MAIL, 1060, &e) == RC_OK);
    outbox_item_fini(&item);
    CHECK(outbox_count(o, c, &e) == RC_OK);
    CHECK(c[OUTBOX_MAIL].waiting == 2 && c[OUTBOX_MAIL].failing == 1 && c[OUTBOX_WEBHOOK].waiting == 1);
    CHECK(outbox_take(o, OUTBOX_MAIL, 1060, &item, &next, &e) == RC_OK && item.tries == 0); /* bob, who was not tried */
    CHECK_STR(item.to, "bob@example.com");
    outbox_item_fini(&item);
    CHECK(outbox_take(o, OUTBOX_MAIL, 1060, &item, &next, &e) == RC_OK); /* as long as nothing is noted */
    CHECK_STR(item.to, "bob@example.com");
    CHECK(outbox_note(o, item.id, OUTBOX_SENT, "", 1061, 0, &e) == RC_OK);
    outbox_item_fini(&item);
    CHECK(outbox_take(o, OUTBOX_MAIL, 1060, &item, &next, &e) == RC_OK && item.tries == 1 && item.since_s == 1000);
    CHECK(outbox_note(o, item.id, OUTBOX_SENT, "", 1061, 0, &e) == RC_OK);
    CHECK(outbox_note(o, item.id, OUTBOX_WAITING, "late", 1061, 2000, &e) == RC_OK); /* what was sent stays sent */
    outbox_item_fini(&item);
    CHECK(outbox_count(o, c, &e) == RC_OK);
    CHECK(c[OUTBOX_MAIL].waiting == 0 && c[OUTBOX_MAIL].failing == 0);
    outbox_close(o);
}

static void test_backoff(void)
{
    int64_t least = 0;
    for (int tries = 1; tries < 40; tries++) {
        int64_t lo = INT64_MAX, hi = 0;
        for (uint32_t k = 0; k < 5000; k++) {
            const int64_t s = outbox_backoff_s(tries, k * 2654435761u);
            lo = s < lo ? s : lo;
            hi = s > hi ? s : hi;
        }
        CHECK(lo >= least && lo >= 2 && hi <= 4320);
        CHECK(tries < 5 || hi > lo); /* not all at once */
        least = lo;
    }
    CHECK_INT(outbox_backoff_s(1, 0), 2);
    CHECK_INT(least, 2880);
}

/* A child delivers (one byte into a pipe each) and is killed at some instant; another goes on. */
static void deliver_all(int fd, int kill_after)
{
    struct outbox *o = open_it();
    struct outbox_item item;
    int64_t next;
    for (int done = 0; outbox_take(o, OUTBOX_MAIL, 5000, &item, &next, &e) == RC_OK; done++) {
        const char who = item.to[0] == 'a' ? (strcmp(item.message_id, "one@x") == 0 ? 'a' : 'A') : 'b';
        if (write(fd, &who, 1) != 1 || done == kill_after)
            raise(SIGKILL);
        if (outbox_note(o, item.id, OUTBOX_SENT, "", 5000, 0, &e) != RC_OK)
            abort();
        outbox_item_fini(&item);
    }
    outbox_item_fini(&item);
    outbox_close(o);
}

static void test_killed(void)
{
    for (int kill_after = 0; kill_after < 3; kill_after++) {
        int fds[2], counts[256] = {0};
        char got;
        begin();
        struct outbox *o = open_it();
        struct outbox_run r = run_of("2026-11-28", "one@x");
        CHECK(outbox_put(o, &r, OUTBOX_NIGHTLY, &e) == RC_OK);
        outbox_close(o);
        CHECK(pipe(fds) == 0);
        for (int life = 0; life < 2; life++) {
            const pid_t pid = fork();
            if (pid == 0) {
                deliver_all(fds[1], life ? -1 : kill_after);
                _exit(0);
            }
            CHECK(waitpid(pid, NULL, 0) == pid);
        }
        close(fds[1]);
        while (read(fds[0], &got, 1) == 1)
            counts[(unsigned char)got]++;
        close(fds[0]);
        /* The one that was under way comes a second time, under the same id; nobody else does. */
        CHECK_INT(counts['a'], kill_after == 0 ? 2 : 1);
        CHECK_INT(counts['b'], kill_after == 1 ? 2 : 1);
        CHECK_INT(counts['A'], 0);
    }
}

static void on_line(const struct outbox_line *l, void *arg)
{
    struct strbuf *out = arg;
    (void)strbuf_printf(out, "%s %s %s %d %s;", l->period, l->to ? l->to : "-", outbox_state_name(l->state), l->tries,
                        l->error ? l->error : "");
}
static void on_files(const char *files, void *arg)
{
    (void)strbuf_printf(arg, "%s ", files);
}

static void test_list_and_forget(void)
{
    begin();
    struct outbox *o = open_it();
    struct strbuf out;
    struct outbox_run old = run_of("2026-10-01", "one@x"), new = run_of("2026-11-28", "two@x");
    struct outbox_item item;
    int64_t next;
    strbuf_init(&out, 4096);
    old.n_targets = 1;
    new.n_targets = 0;
    new.made_s = 2000;
    new.files = "b.csv";
    CHECK(outbox_put(o, &old, OUTBOX_NIGHTLY, &e) == RC_OK && outbox_put(o, &new, OUTBOX_NIGHTLY, &e) == RC_OK);
    CHECK(outbox_take(o, OUTBOX_MAIL, 1000, &item, &next, &e) == RC_OK);
    CHECK(outbox_note(o, item.id, OUTBOX_GIVEN_UP, "550 who?", 1500, 0, &e) == RC_OK);
    outbox_item_fini(&item);
    CHECK(outbox_list(o, 5, on_line, &out, &e) == RC_OK);
    CHECK_STR(out.data, "2026-11-28 - waiting 0 ;2026-10-01 ann@example.com given_up 1 550 who?;");
    strbuf_clear(&out);
    old.made_s = 900;
    old.message_id = "three@x";
    CHECK(outbox_put(o, &old, OUTBOX_AGAIN, &e) == RC_OK);
    CHECK(outbox_forget(o, 950, on_files, &out, &e) == RC_OK); /* its files are those of the first, which stays */
    CHECK_INT(out.len, 0);
    CHECK(outbox_forget(o, 1500, on_files, &out, &e) == RC_OK);
    CHECK_STR(out.data ? out.data : "", "a.csv ");
    strbuf_clear(&out);
    CHECK(outbox_list(o, 5, on_line, &out, &e) == RC_OK);
    CHECK_STR(out.data, "2026-11-28 - waiting 0 ;");
    strbuf_fini(&out);
    outbox_close(o);
}

static void test_newer(void)
{
    begin();
    struct outbox *o = open_it();
    int64_t done;
    CHECK(outbox_done(o, &done, &e) == RC_OK && done == -1);
    CHECK(outbox_set_done(o, 77, &e) == RC_OK && outbox_done(o, &done, &e) == RC_OK && done == 77);
    outbox_close(o);
    FILE *f = fopen(path, "r+");
    CHECK(f && fseek(f, 63, SEEK_SET) == 0 && fputc(9, f) == 9); /* user_version is at 60, big endian */
    if (f)
        fclose(f);
    CHECK(outbox_open(&o, path, &e) == RC_UNSUPPORTED && strstr(e.message, "newer version"));
    begin();
    CHECK(mkdir(path, 0700) == 0 && outbox_open(&o, path, &e) == RC_IO && o == NULL);
    rmdir(path);
}

static void *opens(void *arg)
{
    struct outbox *o = open_it();
    outbox_close(o);
    return arg;
}

/* Mail, webhook and maker look for the first time at the same moment. */
static void test_new_and_taken(void)
{
    sqlite3 *other;
    pthread_t thread;
    begin();
    CHECK(sqlite3_open(path, &other) == SQLITE_OK);
    CHECK(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK);
    CHECK(pthread_create(&thread, NULL, opens, NULL) == 0);
    usleep(100000); /* who gives up at once has done so by then */
    CHECK(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL) == SQLITE_OK);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(sqlite3_close(other) == SQLITE_OK);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/reports.db", folder);
    TEST(test_once);
    TEST(test_asked_for_first);
    TEST(test_tries);
    TEST(test_backoff);
    TEST(test_killed);
    TEST(test_list_and_forget);
    TEST(test_newer);
    TEST(test_new_and_taken);
    begin();
    rmdir(folder);
    return TEST_RESULT();
}
