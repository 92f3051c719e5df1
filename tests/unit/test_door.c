/* The door of a node over real sockets: what is held, for how long, how many and how many bytes of each; who is
 * answered at once; what is passed, in which order, with which bytes; nobody and no descriptor is lost, whatever
 * happens when. And what was counted goes on from one process to the next.
 *
 * links: spw_engine_node */
#include "engine/node/door.h"

#include <unistd.h>

#include "engine/serve/totals.h"
#include "http_peer.h"
#include "tests/unit/test.h"

#define SEEN_MAX 64

static struct event_base *loop;
static struct door *door;
static int port, listen_fd;
static struct {
    int held, answered, passed;
    size_t n[SEEN_MAX];
    char bytes[SEEN_MAX][64]; /* the beginning of each that was passed or answered, in order */
    uint64_t id[SEEN_MAX];
    bool nobody_takes, wake_at_once;
} seen;

static enum door_verdict judge(const struct http_head *h, void *arg)
{
    (void)arg;
    return strcmp(h->method, "POST") == 0 ? DOOR_HOLD : DOOR_ANSWER;
}

static void note(int at, const void *read, size_t n)
{
    CHECK(at < SEEN_MAX);
    seen.n[at] = n;
    snprintf(seen.bytes[at], sizeof seen.bytes[at], "%.*s", (int)n, (const char *)read);
}

static void answer(int fd, const void *read, size_t n, void *arg)
{
    (void)arg;
    note(seen.answered++, read, n);
    CHECK_INT(send(fd, "!", 1, MSG_NOSIGNAL), 1);
    close(fd);
}

static void held(void *arg)
{
    (void)arg;
    seen.held++;
    if (seen.wake_at_once)
        door_set_mode(door, DOOR_PASS);
}

static bool pass(uint64_t id, int fd, const void *read, size_t n, void *arg)
{
    (void)arg;
    (void)fd;
    if (seen.nobody_takes)
        return false;
    seen.id[seen.passed] = id;
    note(seen.passed++, read, n);
    return true;
}

static void open_door(int64_t hold_ms, int hold_max)
{
    struct error e;
    memset(&seen, 0, sizeof seen);
    listen_fd = peer_listen(&port);
    const struct door_options o = {.listen_fd = listen_fd,
                                   .hold_ms = hold_ms,
                                   .hold_max = hold_max,
                                   .judge = judge,
                                   .answer = answer,
                                   .held = held,
                                   .pass = pass};
    CHECK_INT(door_new(&door, loop, &o, &e), RC_OK);
    door_set_mode(door, DOOR_TAKE);
}

static void close_door(void)
{
    door_free(door);
    close(listen_fd);
}

static int open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static int say(const char *text)
{
    int fd = peer_connect(port);
    peer_send(loop, fd, text);
    return fd;
}

#define POST_(name) "POST /" name " HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
#define GET_        "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

static void knows_who_is_who(void)
{
    open_door(60000, 8);
    int fds[] = {say(GET_), say("POST / HTTP/1.1\r\nHo"), say(POST_("a") "xyz"), say("nonsense\r\n\r\n"),
                 peer_connect(port)};
    CHECK(peer_wait(loop, &seen.answered, 2, 2000)); /* the probe, and what is no request */
    CHECK(peer_wait(loop, &seen.held, 1, 2000));
    peer_run_ms(loop, 20);
    CHECK_INT(seen.answered, 2);
    CHECK_INT(door_counts(door).holding, 1);
    CHECK_INT(door_counts(door).open, 3);
    peer_send(loop, fds[1], "st: a\r\n\r\n");
    CHECK(peer_wait(loop, &seen.held, 2, 2000));
    peer_send(loop, fds[4], GET_);
    CHECK(peer_wait(loop, &seen.answered, 3, 2000));
    CHECK_STR(seen.bytes[2], GET_);
    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
        close(fds[i]);
    peer_run_ms(loop, 20);
    CHECK_INT(door_counts(door).gone, 2);
    CHECK_INT(door_counts(door).open, 0);
    close_door();
}

/* So many, so many bytes, so long. */
static void holds_within_bounds(void)
{
    open_door(150, 2);
    int fds[4];
    static char body[200000];
    memset(body, 'x', sizeof body - 1);
    fds[0] = say(POST_("big"));
    (void)!send(fds[0], body, sizeof body, MSG_NOSIGNAL | MSG_DONTWAIT);
    fds[1] = say(POST_("b"));
    CHECK(peer_wait(loop, &seen.held, 2, 2000));
    CHECK_INT(seen.answered, 0);
    fds[2] = say(POST_("c"));
    CHECK(peer_wait(loop, &seen.answered, 1, 2000));
    CHECK_STR(seen.bytes[0], POST_("c"));
    CHECK(peer_wait(loop, &seen.answered, 3, 3000)); /* the time of the others is over */
    CHECK_INT(door_counts(door).refused, 3);
    for (int i = 0; i < 3; i++)
        CHECK(seen.n[i] <= DOOR_READ_MAX);
    fds[3] = peer_connect(port); /* a head without an end */
    memcpy(body, "GET /", 5);
    (void)!send(fds[3], body, sizeof body, MSG_NOSIGNAL | MSG_DONTWAIT);
    CHECK(peer_wait(loop, &seen.answered, 4, 2000));
    CHECK(seen.n[3] <= DOOR_READ_MAX);
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    close_door();
}

/* Held ones first, in order, with what was read; then the others; and who comes later at once. */
static void passes_in_order(void)
{
    open_door(60000, 8);
    int fds[5] = {say("GET /half"), say(POST_("one") "x"), say(POST_("two")), peer_connect(port)};
    CHECK(peer_wait(loop, &seen.held, 2, 2000));
    peer_run_ms(loop, 20);
    door_set_mode(door, DOOR_PASS);
    CHECK_INT(seen.passed, 4);
    CHECK_STR(seen.bytes[0], POST_("one") "x");
    CHECK_STR(seen.bytes[1], POST_("two"));
    bool idle_last = seen.n[2] == 9 && seen.n[3] == 0, idle_first = seen.n[2] == 0 && seen.n[3] == 9;
    CHECK(idle_last || idle_first);
    fds[4] = say(GET_); /* the worker's to accept */
    peer_run_ms(loop, 20);
    CHECK_INT(seen.passed, 4);
    int pair[2];
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    door_give(door, pair[1], "POST", 4);
    CHECK_INT(seen.passed, 5);
    CHECK_STR(seen.bytes[4], "POST");
    /* Two are taken; the worker dies; the others are here again as they were. */
    door_taken(door, seen.id[0]);
    door_taken(door, seen.id[4]);
    door_taken(door, 999); /* nobody's */
    CHECK_INT(door_counts(door).passed, 3);
    door_set_mode(door, DOOR_TAKE);
    door_untaken(door);
    CHECK_INT(door_counts(door).passed, 0);
    CHECK_INT(door_counts(door).holding, 1);
    CHECK(peer_wait(loop, &seen.answered, 1, 2000)); /* who waited in the queue */
    seen.passed = 0;
    door_set_mode(door, DOOR_PASS);
    CHECK_STR(seen.bytes[0], POST_("two"));
    CHECK_INT(seen.passed, 3);
    for (int i = 0; i < 5; i++)
        close(fds[i]);
    close(pair[0]);
    close_door();
}

/* Nobody can take it after all: it is held as before. A wish that is fulfilled from inside. */
static void a_worker_that_takes_nothing(void)
{
    open_door(60000, 8);
    seen.nobody_takes = true;
    int a = say(POST_("a")), b = say(POST_("b"));
    CHECK(peer_wait(loop, &seen.held, 2, 2000));
    door_set_mode(door, DOOR_PASS);
    CHECK_INT(door_counts(door).holding, 2);
    door_set_mode(door, DOOR_TAKE);
    seen.nobody_takes = false;
    seen.wake_at_once = true;
    int c = say(POST_("c"));
    CHECK(peer_wait(loop, &seen.passed, 3, 2000));
    door_set_mode(door, DOOR_SHUT);
    CHECK_INT(door_counts(door).open, 0);
    close(a);
    close(b);
    close(c);
    close_door();
}

static void shut_refuses(void)
{
    open_door(60000, 8);
    int a = say(POST_("a")), b = say("POST"), pair[2];
    char c = 0;
    CHECK(peer_wait(loop, &seen.held, 1, 2000));
    peer_run_ms(loop, 20);
    door_set_mode(door, DOOR_SHUT);
    CHECK_INT(seen.answered, 1);
    CHECK_INT(recv(a, &c, 1, 0), 1);
    CHECK_INT(c, '!');
    CHECK_INT(recv(b, &c, 1, 0), 0);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    door_give(door, pair[1], NULL, 0);
    CHECK_INT(recv(pair[0], &c, 1, 0), 0);
    close(pair[0]);
    close(a);
    close(b);
    close_door();
}

/* Every counter of the totals is added, each once: none is forgotten when a new one comes. */
static void totals_are_whole(void)
{
    struct serve_totals one, sum;
    serve_totals_init(&one);
    serve_totals_init(&sum);
    uint64_t *words = (uint64_t *)&one, *sums = (uint64_t *)&sum;
    static const size_t edges[] = {
#define EDGES(field) offsetof(struct serve_totals, field.edges)
        EDGES(counters.ttft),
        EDGES(counters.e2e),
        EDGES(counters.prompt_tokens),
        EDGES(counters.generation_tokens),
        EDGES(counters.joules_per_token),
        EDGES(batcher.gap),
        EDGES(batcher.queue),
        EDGES(batcher.prefill),
        EDGES(batcher.decode),
        EDGES(batcher.step),
        EDGES(batcher.step_batch),
        EDGES(batcher.step_prefill),
        EDGES(batcher.step_pages),
        EDGES(batcher.prefix_hits),
    };
    static const struct {
        size_t from, to;
    } moment[] = {
        {offsetof(struct serve_totals, batcher.running), offsetof(struct serve_totals, batcher.pages_evicted)},
        {offsetof(struct serve_totals, http.open_connections), sizeof(struct serve_totals)}};
    for (size_t i = 0; i < sizeof one / 8; i++)
        words[i] = 1;
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        words[edges[i] / 8] = 0xdead; /* of another process */
    one.batcher.step_seconds = 1;
    struct histogram *hists[] = {&one.counters.ttft,
                                 &one.counters.e2e,
                                 &one.counters.prompt_tokens,
                                 &one.counters.generation_tokens,
                                 &one.counters.joules_per_token,
                                 &one.batcher.gap,
                                 &one.batcher.queue,
                                 &one.batcher.prefill,
                                 &one.batcher.decode,
                                 &one.batcher.step,
                                 &one.batcher.step_batch,
                                 &one.batcher.step_prefill,
                                 &one.batcher.step_pages,
                                 &one.batcher.prefix_hits};
    for (size_t i = 0; i < sizeof hists / sizeof *hists; i++)
        hists[i]->sum = 1;
    serve_totals_add(&sum, &one);
    serve_totals_add(&sum, &one);
    CHECK(sum.batcher.step_seconds == 2 && sum.batcher.step_batch.sum == 2);
    CHECK(sum.counters.ttft.edges == &histogram_seconds && sum.batcher.gap.edges == &histogram_gaps);
    CHECK_INT(sum.batcher.running, one.batcher.running);
    for (size_t i = 0; i < sizeof sum / 8; i++) {
        bool skip = false;
        for (size_t k = 0; k < sizeof edges / sizeof *edges; k++)
            skip = skip || edges[k] == i * 8;
        for (size_t k = 0; k < 2; k++)
            skip = skip || (i * 8 + 8 > moment[k].from && i * 8 < moment[k].to);
        double d;
        memcpy(&d, &sums[i], sizeof d);
        if (!skip && sums[i] != 2 && d != 2.0) {
            fprintf(stderr, "the counter at byte %zu is not added\n", i * 8);
            CHECK_INT(sums[i], 2);
        }
    }
    serve_totals_rest(&sum);
    CHECK_INT(sum.batcher.running + sum.batcher.waiting, 0);
    CHECK_INT(sum.batcher.pages_free, sum.batcher.pages_total);
    CHECK_INT(sum.counters.requests, 2);
}

int main(void)
{
    loop = event_base_new();
    int before = open_fds();
    TEST(knows_who_is_who);
    TEST(holds_within_bounds);
    TEST(passes_in_order);
    TEST(a_worker_that_takes_nothing);
    TEST(shut_refuses);
    TEST(totals_are_whole);
    if (open_fds() != before)
        fprintf(stderr, "%d descriptors are left over\n", open_fds() - before);
    event_base_free(loop);
    return TEST_RESULT() || open_fds() > before;
}
