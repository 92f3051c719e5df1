/* Proves that a started thread has its name, cut where Linux would refuse it whole, and that no signal meant for the
 * program is delivered to it while its own faults are; that who wakes on time says so to the kernel, and nobody else
 * does.
 * links: spw_base */
#include "tests/unit/test.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>

#include "base/thread.h"

struct seen {
    pthread_mutex_t go; /* held until the thread has its name */
    char name[32];
    sigset_t blocked;
};

static void *look(void *arg)
{
    struct seen *s = arg;
    pthread_mutex_lock(&s->go);
    pthread_mutex_unlock(&s->go);
    pthread_getname_np(pthread_self(), s->name, sizeof s->name);
    pthread_sigmask(SIG_SETMASK, NULL, &s->blocked);
    return NULL;
}

static struct seen seen_of(const char *name)
{
    struct seen s = {.go = PTHREAD_MUTEX_INITIALIZER};
    pthread_t t;
    pthread_mutex_lock(&s.go);
    CHECK_INT(thread_start(&t, name, look, &s), 0);
    pthread_mutex_unlock(&s.go);
    pthread_join(t, NULL);
    return s;
}

static void test_names(void)
{
    CHECK_STR(seen_of("ledger").name, "ledger");
    CHECK_STR(seen_of("exactly-15-long").name, "exactly-15-long");
    CHECK_STR(seen_of("one-that-is-much-longer").name, "one-that-is-muc");
}

static void test_signals(void)
{
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct seen s = seen_of("signals");
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    CHECK(sigismember(&s.blocked, SIGTERM) == 1 && sigismember(&s.blocked, SIGHUP) == 1);
    CHECK(sigismember(&s.blocked, SIGCHLD) == 1 && sigismember(&s.blocked, SIGPIPE) == 1);
    CHECK(sigismember(&s.blocked, SIGSEGV) == 0 && sigismember(&s.blocked, SIGBUS) == 0);
    CHECK(sigismember(&before, SIGTERM) == 0 && sigismember(&after, SIGTERM) == 0);
}

static void test_timed_waits(void)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t never;
    struct timespec from, now;

    thread_cond_init(&never);
    clock_gettime(CLOCK_MONOTONIC, &from);
    const struct timespec until = thread_cond_until(1999999), soon = thread_cond_until(3000);
    CHECK(until.tv_nsec >= 0 && until.tv_nsec < 1000000000);
    const int64_t ns = (until.tv_sec - from.tv_sec) * INT64_C(1000000000) + until.tv_nsec - from.tv_nsec;
    CHECK(ns >= 1999999000);
    pthread_mutex_lock(&lock);
    while (pthread_cond_timedwait(&never, &lock, &soon) !=
           ETIMEDOUT) { /* of another clock it would be over, or never */
    }
    pthread_mutex_unlock(&lock);
    clock_gettime(CLOCK_MONOTONIC, &now);
    CHECK((now.tv_sec - from.tv_sec) * INT64_C(1000000000) + now.tv_nsec - from.tv_nsec >= 3000000);
    pthread_cond_destroy(&never);
}

static void *slack_of(void *on_time)
{
    if (*(bool *)on_time)
        thread_wake_on_time();
    *(bool *)on_time = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == 1000;
    return NULL;
}

static void test_on_time(void)
{
    bool asked = true, plain = false;
    pthread_t t;
    CHECK_INT(thread_start(&t, "asked", slack_of, &asked), 0);
    pthread_join(t, NULL);
    CHECK_INT(thread_start(&t, "plain", slack_of, &plain), 0);
    pthread_join(t, NULL);
    CHECK(asked && !plain);
}

int main(void)
{
    TEST(test_on_time);
    TEST(test_names);
    TEST(test_signals);
    TEST(test_timed_waits);
    return TEST_RESULT();
}
