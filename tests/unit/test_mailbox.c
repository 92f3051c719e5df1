/* Proves that messages from several threads all arrive on the loop's thread, each sender's in order, that a message may
 * be posted again from its own delivery but not before, and that freeing delivers what is left. And that servers of one
 * process share a TCP port and their bounds, while a stranger to the port is told that it is taken.
 * links: spw_base */
#include "tests/unit/test.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/http_server.h"
#include "base/mailbox.h"

#define SENDERS  4
#define MESSAGES 5000

static struct event_base *loop;
static struct mailbox *box;
static pthread_t main_thread;
static int arrived, disorder, strangers;

struct message {
    struct mail mail;
    int index, *expected;
};
struct sender {
    pthread_t thread;
    int expected;
    struct message messages[MESSAGES];
};

static void deliver(struct mail *m)
{
    struct message *g = (struct message *)((char *)m - offsetof(struct message, mail));
    disorder += g->index != (*g->expected)++;
    strangers += !pthread_equal(pthread_self(), main_thread);
    arrived++;
}

static void *send_all(void *arg)
{
    struct sender *s = arg;
    for (int i = 0; i < MESSAGES; i++) {
        s->messages[i] = (struct message){.mail = {.deliver = deliver}, .index = i, .expected = &s->expected};
        mailbox_post(box, &s->messages[i].mail);
    }
    return NULL;
}

static void test_many_senders(void)
{
    static struct sender senders[SENDERS];
    struct error e;
    arrived = disorder = strangers = 0;
    CHECK(mailbox_new(&box, loop, &e) == RC_OK);
    for (int i = 0; i < SENDERS; i++)
        CHECK_INT(pthread_create(&senders[i].thread, NULL, send_all, &senders[i]), 0);
    while (arrived < SENDERS * MESSAGES && event_base_loop(loop, EVLOOP_ONCE) == 0) {
    }
    for (int i = 0; i < SENDERS; i++)
        pthread_join(senders[i].thread, NULL);
    CHECK_INT(arrived, SENDERS * MESSAGES);
    CHECK_INT(disorder, 0);
    CHECK_INT(strangers, 0);
    mailbox_free(box);
}

static int again;
static void deliver_again(struct mail *m)
{
    if (++again < 3)
        mailbox_post(box, m);
    else if (again < 5)
        mailbox_post_here(box, m);
}

/* How a process ends that posts a message so many times before it is delivered. */
static int end_of_posting(int times)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        static struct mail m = {.deliver = deliver_again};
        if (times > 1) /* it says what is wrong */
            (void)!freopen("/dev/null", "w", stderr);
        while (times-- > 0)
            mailbox_post(box, &m);
        _exit(0);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return status;
}

/* The list would end there, or never. */
static void test_posted_twice(void)
{
    struct error e;
    CHECK(mailbox_new(&box, loop, &e) == RC_OK);
    CHECK_INT(end_of_posting(1), 0);
    const int status = end_of_posting(2);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    mailbox_free(box);
}

static int called;
static void call(void *arg)
{
    called += *(int *)arg;
}

static void test_again_and_free(void)
{
    struct mail m = {.deliver = deliver_again};
    struct error e;
    int two = 2;
    again = called = 0;
    CHECK(mailbox_new(&box, loop, &e) == RC_OK);
    mailbox_post(box, &m);
    while (again < 4)
        CHECK(event_base_loop(loop, EVLOOP_ONCE) == 0);
    mailbox_call(box, call, &two);
    mailbox_call(box, call, &two);
    CHECK_INT(called, 0);
    mailbox_free(box);
    CHECK_INT(again, 5);
    CHECK_INT(called, 4);
    mailbox_free(NULL);
}

static void on_request(struct http_exchange *x, void *arg)
{
    (void)arg;
    http_reply(x, 200, NULL, 0, "", 0);
}

static void test_shared_port(void)
{
    struct http_server_handlers h = {.on_request = on_request};
    struct http_held held = {0};
    struct http_server_options o = {.limits = http_limits_default, .held = &held, .sharing = HTTP_LISTEN_FIRST};
    struct http_server *a, *b, *c;
    struct error e;
    char address[64];
    CHECK(http_server_new(&a, loop, "127.0.0.1:0", &o, &h, NULL, &e) == RC_OK);
    snprintf(address, sizeof address, "127.0.0.1:%d", http_server_port(a));
    o.sharing = HTTP_LISTEN_JOIN;
    CHECK(http_server_new(&b, loop, address, &o, &h, NULL, &e) == RC_OK);
    CHECK_INT(http_server_port(b), http_server_port(a));
    /* What another process of the same user would do. */
    o.sharing = HTTP_LISTEN_FIRST;
    CHECK(http_server_new(&c, loop, address, &o, &h, NULL, &e) == RC_CONFLICT);
    o.sharing = HTTP_LISTEN_ALONE;
    CHECK(http_server_new(&c, loop, address, &o, &h, NULL, &e) == RC_CONFLICT);
    http_server_free(a);
    http_server_free(b);
    CHECK(http_server_new(&c, loop, address, &o, &h, NULL, &e) == RC_OK);
    http_server_free(c);
    CHECK_INT(held.connections, 0);
    CHECK_INT(held.retained, 0);
}

int main(void)
{
    main_thread = pthread_self();
    loop = event_base_new();
    TEST(test_many_senders);
    TEST(test_again_and_free);
    TEST(test_posted_twice);
    TEST(test_shared_port);
    event_base_free(loop);
    return TEST_RESULT();
}
