/* Proves that an idempotency key means one request: it is computed once, repeats wait or get the same answer, another
 * body is refused, failures are not kept, an answer that was lost is computed again at most three times, keys are
 * forgotten after their time, and the bounds on keys, bytes and waiters hold. Waiters that leave, in every order, leave
 * nothing behind; an owner without a client is told when nobody waits any more.
 * links: spw_sched_front */
#include "tests/unit/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/loop.h"
#include "scheduler/front/repeats.h"

#define KEEP_MS 600000

static struct event_base *loop;
static struct mailbox *box;
static struct clock_manual manual;
static struct clock the_clock;
static int n_unwanted;

struct waiter {
    struct repeat_wait wait;
    bool told;
};

static void told(struct mail *m)
{
    struct waiter *w = (struct waiter *)((char *)m - offsetof(struct waiter, wait.mail));
    w->told = true;
}

static void unwanted(void *arg)
{
    CHECK(arg == &n_unwanted);
    n_unwanted++;
}

static struct repeats *table(int keys, int64_t bytes)
{
    const struct repeats_options o = {.keys_max = keys, .bytes_max = bytes, .keep_ms = KEEP_MS, .clock = &the_clock};
    return repeats_new(&o);
}

struct asked {
    enum repeat_role role;
    struct repeat_ticket *ticket;
    struct repeat_answer *answer;
};
static struct asked ask_as(struct repeats *t, const char *tenant, const char *key, const char *body, struct waiter *w)
{
    const struct iovec parts[] = {{(void *)body, strlen(body)}};
    const struct repeat_question q = {.tenant = tenant, .key = key, .what = repeat_hash(parts, 1)};
    const struct repeat_owner owner = {.box = box, .unwanted = unwanted, .arg = &n_unwanted};
    static struct waiter nobody;
    struct asked a;
    w = w ? w : &nobody;
    *w = (struct waiter){.wait = {.box = box, .mail = {.deliver = told}}};
    a.role = repeats_ask(t, &q, &owner, &a.ticket, &w->wait, &a.answer);
    return a;
}
static struct asked ask(struct repeats *t, const char *key, struct waiter *w)
{
    return ask_as(t, "acme", key, "body", w);
}

/* Answered with n bytes of text. */
static void finish(struct repeats *t, struct repeat_ticket *k, size_t n)
{
    const struct http_header headers[] = {{"x-request-id", "req_1"}};
    struct repeat_answer *a = repeat_answer_new(200, headers, 1);
    char text[256];
    memset(text, 'a', sizeof text);
    SPW_ASSERT(n <= sizeof text);
    CHECK(repeats_grow(t, k, n));
    CHECK_INT(strbuf_append(&a->body, text, n), RC_OK);
    repeats_finish(t, k, a);
}

static struct api_error failure(void)
{
    struct api_error e;
    api_error_set(&e, API_UPSTREAM, NULL, "%s", "");
    return e;
}

static void test_once(void)
{
    struct repeats *t = table(10, 1000);
    struct waiter w[3];
    struct asked first = ask(t, "k", NULL);
    CHECK_INT(first.role, REPEAT_COMPUTE);
    CHECK_INT(repeat_number(first.ticket), 0);
    for (int i = 0; i < 3; i++)
        CHECK_INT(ask(t, "k", &w[i]).role, REPEAT_WAIT);
    CHECK_INT(ask_as(t, "acme", "k", "another", NULL).role, REPEAT_OTHER);
    struct asked other = ask_as(t, "other", "k", "another", NULL); /* a tenant's key is nobody else's */
    CHECK_INT(other.role, REPEAT_COMPUTE);
    CHECK(repeats_leave(t, &w[1].wait));
    finish(t, first.ticket, 5);
    CHECK(!w[0].told); /* never from inside */
    mailbox_deliver(box);
    CHECK(w[0].told && !w[1].told && w[2].told);
    CHECK(w[0].wait.answer == w[2].wait.answer);
    CHECK_INT(w[0].wait.answer->body.len, 5);
    CHECK_STR(w[0].wait.answer->headers[0].value, "req_1");
    repeat_answer_unref(w[0].wait.answer);
    repeat_answer_unref(w[2].wait.answer);
    for (int i = 0; i < 2; i++) {
        struct asked again = ask(t, "k", NULL);
        CHECK_INT(again.role, REPEAT_ANSWER);
        CHECK_INT(again.answer->body.len, 5);
        repeat_answer_unref(again.answer);
    }
    CHECK_INT(ask_as(t, "acme", "k", "another", NULL).role, REPEAT_OTHER);
    struct api_error e = failure();
    repeats_fail(t, other.ticket, REPEAT_USED, &e);
    clock_advance(&manual, KEEP_MS * NS_PER_MS - 1);
    struct asked late = ask(t, "k", NULL);
    CHECK_INT(late.role, REPEAT_ANSWER);
    repeat_answer_unref(late.answer);
    clock_advance(&manual, 1);
    struct asked anew = ask_as(t, "acme", "k", "another", NULL);
    CHECK_INT(anew.role, REPEAT_COMPUTE);
    CHECK_INT(repeat_number(anew.ticket), 0);
    finish(t, anew.ticket, 1);
    struct repeats_stats s = repeats_stats(t);
    CHECK(s.waited == 3 && s.replayed == 3 && s.keys == 1 && s.bytes == 1);
    repeats_free(t);
}

static void test_failures_are_not_kept(void)
{
    struct repeats *t = table(10, 1000);
    struct waiter w;
    struct asked first = ask(t, "k", NULL);
    struct api_error e = failure();
    CHECK_INT(ask(t, "k", &w).role, REPEAT_WAIT);
    repeats_fail(t, first.ticket, REPEAT_USED, &e);
    mailbox_deliver(box);
    CHECK(w.told && w.wait.answer->failed);
    CHECK_INT(w.wait.answer->error.code, API_UPSTREAM);
    repeat_answer_unref(w.wait.answer);
    CHECK_INT(repeats_stats(t).keys, 0);
    struct asked second = ask_as(t, "acme", "k", "another", NULL); /* nothing is remembered */
    CHECK_INT(second.role, REPEAT_COMPUTE);
    finish(t, second.ticket, 1);
    repeats_free(t);
}

/* What a restart lost is computed again, three times; a failure of ours is none of them, one given up by its client is. */
static void test_again(void)
{
    struct repeats *t = table(10, 1000);
    const struct iovec parts[] = {{(void *)"body", 4}};
    const struct repeat_question q = {.tenant = "acme", .key = "k", .what = repeat_hash(parts, 1)};
    struct api_error e = failure();
    repeats_restore(t, &q, 0, KEEP_MS / 2 * NS_PER_MS);
    CHECK_INT(ask_as(t, "acme", "k", "another", NULL).role, REPEAT_OTHER);
    struct asked a = ask(t, "k", NULL);
    CHECK_INT(a.role, REPEAT_COMPUTE);
    CHECK_INT(repeat_number(a.ticket), 1);
    repeats_fail(t, a.ticket, REPEAT_UNUSED, &e);
    a = ask(t, "k", NULL);
    CHECK_INT(repeat_number(a.ticket), 1);
    repeats_fail(t, a.ticket, REPEAT_USED, &e);
    a = ask(t, "k", NULL);
    CHECK_INT(repeat_number(a.ticket), 2);
    repeats_finish(t, a.ticket, NULL); /* too large to be kept */
    a = ask(t, "k", NULL);
    CHECK_INT(repeat_number(a.ticket), 3);
    repeats_finish(t, a.ticket, NULL);
    CHECK_INT(ask(t, "k", NULL).role, REPEAT_SPENT);
    repeats_restore(t, &(struct repeat_question){.tenant = "acme", .key = "old", .what = q.what}, 3,
                    (KEEP_MS - 1) * NS_PER_MS);
    CHECK_INT(ask(t, "old", NULL).role, REPEAT_SPENT);
    CHECK_INT(repeats_stats(t).computed_again, 4);
    repeats_free(t);
}

static void test_bounds(void)
{
    struct repeats *t = table(3, 100);
    char key[3][2] = {"a", "b", "c"};
    struct asked a[3];
    for (int i = 0; i < 3; i++)
        a[i] = ask(t, key[i], NULL);
    CHECK_INT(ask(t, "d", NULL).role, REPEAT_CROWD); /* none that runs is forgotten */
    finish(t, a[0].ticket, 60);
    finish(t, a[1].ticket, 40);
    CHECK_INT(repeats_stats(t).bytes, 100);
    CHECK(repeats_grow(t, a[2].ticket, 10)); /* the oldest answer goes, its key stays */
    CHECK_INT(repeats_stats(t).bytes, 50);
    struct asked lost = ask(t, "a", NULL);
    CHECK_INT(lost.role, REPEAT_COMPUTE);
    CHECK_INT(repeat_number(lost.ticket), 1);
    CHECK(!repeats_grow(t, lost.ticket, 91)); /* though everything kept had to go */
    CHECK_INT(repeats_stats(t).bytes, 10);
    repeats_finish(t, lost.ticket, NULL);
    repeats_finish(t, a[2].ticket, NULL);
    CHECK_INT(repeats_stats(t).bytes, 0);
    struct asked d = ask(t, "d", NULL); /* b was answered first */
    CHECK_INT(d.role, REPEAT_COMPUTE);
    CHECK_INT(repeats_stats(t).keys, 3);
    struct waiter *w = calloc(REPEAT_WAITERS_MAX + 1, sizeof *w);
    for (int i = 0; i < REPEAT_WAITERS_MAX; i++)
        CHECK(ask(t, "d", &w[i]).role == REPEAT_WAIT);
    CHECK_INT(ask(t, "d", &w[REPEAT_WAITERS_MAX]).role, REPEAT_CROWD);
    repeats_finish(t, d.ticket, NULL);
    mailbox_deliver(box);
    CHECK(w[0].told && w[REPEAT_WAITERS_MAX - 1].told && !w[0].wait.answer);
    free(w);
    repeats_free(t);
}

static void test_leaving(void)
{
    struct repeats *t = table(10, 1000);
    struct waiter w[2];
    struct api_error e = failure();
    struct asked a = ask(t, "k", NULL);
    n_unwanted = 0;
    CHECK(ask(t, "k", &w[0]).role == REPEAT_WAIT && ask(t, "k", &w[1]).role == REPEAT_WAIT);
    CHECK(repeats_leave(t, &w[0].wait) && repeats_leave(t, &w[1].wait));
    mailbox_deliver(box);
    CHECK_INT(n_unwanted, 0); /* its own client is there */
    CHECK_INT(ask(t, "k", &w[0]).role, REPEAT_WAIT);
    CHECK(!repeats_give_up(t, a.ticket, REPEAT_USED)); /* and now it is gone */
    CHECK(repeats_leave(t, &w[0].wait));
    CHECK_INT(ask(t, "k", &w[1]).role, REPEAT_WAIT); /* before the mail is read */
    mailbox_deliver(box);
    CHECK_INT(n_unwanted, 0);
    CHECK(repeats_leave(t, &w[1].wait));
    mailbox_deliver(box);
    CHECK_INT(n_unwanted, 1);
    CHECK_INT(ask(t, "k", &w[0]).role, REPEAT_WAIT);
    CHECK(!repeats_give_up(t, a.ticket, REPEAT_USED));
    CHECK(repeats_leave(t, &w[0].wait));
    repeats_fail(t, a.ticket, REPEAT_USED, &e); /* the mail is on its way to a ticket that has ended */
    mailbox_deliver(box);
    CHECK_INT(n_unwanted, 1);
    a = ask(t, "k", NULL);
    CHECK(repeats_give_up(t, a.ticket, REPEAT_USED)); /* nobody waits: who asks next begins anew */
    CHECK_INT(repeats_stats(t).keys, 0);
    a = ask(t, "k", NULL);
    CHECK_INT(ask(t, "k", &w[0]).role, REPEAT_WAIT);
    finish(t, a.ticket, 1);
    CHECK(!repeats_leave(t, &w[0].wait)); /* its answer is on its way */
    mailbox_deliver(box);
    CHECK(w[0].told);
    repeat_answer_unref(w[0].wait.answer);
    repeats_free(t);
}

static void test_keys(void)
{
    char key[REPEAT_KEY_BYTES_MAX + 2];
    struct error e;
    memset(key, 'k', sizeof key);
    key[sizeof key - 1] = '\0';
    CHECK_INT(repeat_key_check(key, &e), RC_INVALID);
    CHECK(!strstr(e.message, "kk"));
    key[REPEAT_KEY_BYTES_MAX] = '\0';
    CHECK_INT(repeat_key_check(key, &e), RC_OK);
    CHECK_INT(repeat_key_check("", &e), RC_INVALID);
    CHECK_INT(repeat_key_check("a b", &e), RC_INVALID);
    CHECK_INT(repeat_key_check("a\x7f", &e), RC_INVALID);
    CHECK_INT(repeat_key_check("\xc3\xa9", &e), RC_INVALID);
    const struct iovec ab_c[] = {{(void *)"ab", 2}, {(void *)"c", 1}}, a_bc[] = {{(void *)"a", 1}, {(void *)"bc", 2}};
    struct hash one = repeat_hash(ab_c, 2), two = repeat_hash(a_bc, 2);
    CHECK(!hash_equal(&one, &two));
}

/* ---- several threads -------------------------------------------------------------------------------------------- */

#define LANES     4
#define QUESTIONS 4000

struct lane {
    struct repeats *t;
    pthread_t thread;
    unsigned seed;
    int computed, told, answered, sent;
    struct mailbox *box;
    struct event_base *loop;
};
struct lane_wait {
    struct repeat_wait wait;
    struct lane *lane;
};

static void lane_told(struct mail *m)
{
    struct lane_wait *w = (struct lane_wait *)((char *)m - offsetof(struct lane_wait, wait.mail));
    w->lane->told++;
    repeat_answer_unref(w->wait.answer);
    free(w);
}

static void lane_ask(struct lane *l)
{
    char key[16];
    struct repeat_answer *answer;
    struct repeat_ticket *ticket;
    struct lane_wait *w = calloc(1, sizeof *w);
    snprintf(key, sizeof key, "k%d", rand_r(&l->seed) % 50);
    *w = (struct lane_wait){.wait = {.box = l->box, .mail = {.deliver = lane_told}}, .lane = l};
    const struct repeat_question q = {.tenant = "acme", .key = key};
    const struct repeat_owner owner = {.box = l->box, .unwanted = unwanted};
    switch (repeats_ask(l->t, &q, &owner, &ticket, &w->wait, &answer)) {
    case REPEAT_WAIT:
        l->sent++;
        if (rand_r(&l->seed) % 3 == 0 && repeats_leave(l->t, &w->wait)) {
            l->sent--;
            free(w);
        }
        return;
    case REPEAT_COMPUTE:
        l->computed++;
        if (repeats_give_up(l->t, ticket, REPEAT_USED)) {
            break;
        } else if (rand_r(&l->seed) % 2) {
            finish(l->t, ticket, 10);
        } else {
            struct api_error e = failure();
            repeats_fail(l->t, ticket, REPEAT_USED, &e);
        }
        break;
    case REPEAT_ANSWER:
        l->answered++;
        repeat_answer_unref(answer);
        break;
    default: break;
    }
    free(w);
}

static void *lane_main(void *arg)
{
    struct lane *l = arg;
    for (int i = 0; i < QUESTIONS; i++) {
        lane_ask(l);
        mailbox_deliver(l->box);
    }
    return NULL;
}

static void test_threads(void)
{
    struct repeats *t = table(40, 200);
    struct lane lanes[LANES] = {0};
    struct error e;
    int computed = 0;
    for (int i = 0; i < LANES; i++) {
        lanes[i] = (struct lane){.t = t, .seed = (unsigned)i + 1, .loop = loop_new()};
        CHECK_INT(mailbox_new(&lanes[i].box, lanes[i].loop, &e), RC_OK);
    }
    for (int i = 0; i < LANES; i++)
        SPW_ASSERT(pthread_create(&lanes[i].thread, NULL, lane_main, &lanes[i]) == 0);
    for (int i = 0; i < LANES; i++)
        pthread_join(lanes[i].thread, NULL);
    for (int i = 0; i < LANES; i++) {
        mailbox_free(lanes[i].box);
        event_base_free(lanes[i].loop);
        CHECK_INT(lanes[i].told, lanes[i].sent);
        computed += lanes[i].computed;
    }
    CHECK(computed > 0);
    CHECK(repeats_stats(t).bytes <= 200);
    repeats_free(t);
}

int main(void)
{
    struct error e;
    loop_threads_init();
    loop = loop_new();
    the_clock = clock_manual(&manual);
    if (mailbox_new(&box, loop, &e) != RC_OK)
        return 1;
    TEST(test_once);
    TEST(test_failures_are_not_kept);
    TEST(test_again);
    TEST(test_bounds);
    TEST(test_leaving);
    TEST(test_keys);
    TEST(test_threads);
    mailbox_free(box);
    event_base_free(loop);
    return TEST_RESULT();
}
