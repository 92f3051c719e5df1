/* Proves that a started thread has its name, cut where Linux would refuse it whole, and that no signal meant for the
 * program is delivered to it while its own faults are. links: spw_base */
#include "tests/unit/test.h"

#include <signal.h>

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

int main(void)
{
    TEST(test_names);
    TEST(test_signals);
    return TEST_RESULT();
}
