#include "base/inbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/loop.h"
#include "base/thread.h"

#define PORT_MAGIC 0x494e4250u
/* Of callbacks that can wait, before the loop looks what is ready: about a group. Answers that end one right after the
 * other wake who reads them once, and to wake a core that sleeps costs as much as half of an answer's end. */
#define BACK_NS (400 * INT64_C(1000))

struct inbox_port {
    uint32_t magic;
    struct inbox *inbox;
    struct event *turn; /* behind everything that is due in this turn of the loop: passes on what was gathered */
    struct inbox_list gathered; /* in this turn */
    bool closing;
    int wake_fd; /* eventfd: finished is not empty */
    struct event *wake;
    struct inbox_list back; /* finished, and can wait */
    struct event *back_turn, *back_late;

    /* Under the inbox's lock. */
    struct inbox_list finished;
    int under_way;           /* entries in `waiting` or with the writer */
    bool to_wake;            /* the writer is about to write to wake_fd */
    struct inbox_port *next; /* the writer's list of ports to wake */
};

/* ---- lists ------------------------------------------------------------------------------------------------------------- */

void inbox_list_init(struct inbox_list *q)
{
    q->head = NULL;
    q->tail = &q->head;
    q->n = 0;
}

void inbox_list_push(struct inbox_list *q, struct inbox_entry *x)
{
    x->next = NULL;
    *q->tail = x;
    q->tail = &x->next;
    q->n++;
}

struct inbox_entry *inbox_list_pop(struct inbox_list *q)
{
    struct inbox_entry *x = q->head;

    q->head = x->next;
    q->n--;
    if (!q->head)
        q->tail = &q->head;
    return x;
}

void inbox_list_move(struct inbox_list *to, struct inbox_list *q, int max)
{
    while (q->head && max-- > 0)
        inbox_list_push(to, inbox_list_pop(q));
}

void inbox_list_put_back(struct inbox_list *to, struct inbox_list *q)
{
    inbox_list_move(q, to, to->n);
    *to = *q;
    if (!to->head)
        to->tail = &to->head;
    inbox_list_init(q);
}

/* ---- in ---------------------------------------------------------------------------------------------------------------- */

bool inbox_take_place(struct inbox *q)
{
    if (atomic_fetch_add_explicit(&q->queued, 1, memory_order_relaxed) < q->max)
        return true;
    atomic_fetch_sub_explicit(&q->queued, 1, memory_order_relaxed);
    return false;
}

bool inbox_is_to_wake_locked(struct inbox *q)
{
    bool wake = q->writer == INBOX_IDLE || (q->writer == INBOX_GATHERING && q->waiting.n >= q->enough);

    if (wake)
        q->writer = INBOX_BUSY;
    return wake;
}

void inbox_wake(struct inbox *q)
{
    pthread_cond_signal(&q->more);
}

static void unlock_and_wake(struct inbox *q)
{
    bool wake = inbox_is_to_wake_locked(q);

    pthread_mutex_unlock(&q->lock);
    if (wake)
        inbox_wake(q);
}

/* One entry or more come to those that wait. */
static void begin_to_wait_locked(struct inbox *q)
{
    if (!q->waiting.n)
        q->since = clock_now(&clock_system);
}

void inbox_put(struct inbox *q, struct inbox_entry *x)
{
    x->port = NULL;
    pthread_mutex_lock(&q->lock);
    begin_to_wait_locked(q);
    inbox_list_push(&q->waiting, x);
    unlock_and_wake(q);
}

void inbox_port_put(struct inbox_port *p, struct inbox_entry *x)
{
    x->port = p;
    if (!p->gathered.n)
        event_active(p->turn, EV_TIMEOUT, 0);
    inbox_list_push(&p->gathered, x);
}

bool inbox_port_expect(struct inbox_port *p)
{
    if (p->inbox->direct)
        event_active(p->turn, EV_TIMEOUT, 0);
    return p->inbox->direct;
}

bool inbox_port_is_closing(const struct inbox_port *p)
{
    return p->closing;
}

/* ---- back -------------------------------------------------------------------------------------------------------------- */

static void call_back(struct inbox_entry *x)
{
    if (x->done)
        x->done(x->rc, x->arg);
    free(x);
}

/* All that has come until now. */
static void call_back_all(struct inbox_list *q)
{
    struct inbox_list now;

    inbox_list_init(&now);
    inbox_list_move(&now, q, q->n);
    while (now.head)
        call_back(inbox_list_pop(&now));
}

static void take_finished(struct inbox_port *p, struct inbox_list *to)
{
    pthread_mutex_lock(&p->inbox->lock);
    inbox_list_move(to, &p->finished, p->finished.n);
    pthread_mutex_unlock(&p->inbox->lock);
}

static void wait_in_the_back(struct inbox_port *p)
{
    static const struct timeval late = {.tv_usec = INBOX_BACK_US};

    if (!p->back.head)
        return;
    event_active(p->back_turn, EV_TIMEOUT, 0);
    if (!evtimer_pending(p->back_late, NULL))
        evtimer_add(p->back_late, &late);
}

static void back_turn_cb(evutil_socket_t fd, short what, void *arg)
{
    struct inbox_port *p = arg;
    const struct mono began = clock_now(&clock_system);

    (void)fd;
    (void)what;
    while (p->back.head) {
        call_back(inbox_list_pop(&p->back));
        if (mono_since(&clock_system, began) >= BACK_NS)
            break;
    }
    if (p->back.head)
        event_active(p->back_turn, EV_TIMEOUT, 0);
    else
        evtimer_del(p->back_late);
}

static void back_late_cb(evutil_socket_t fd, short what, void *arg)
{
    struct inbox_port *p = arg;

    (void)fd;
    (void)what;
    call_back_all(&p->back);
    wait_in_the_back(p);
}

/* What can wait is left in `back`. */
static void deliver(struct inbox_port *p)
{
    struct inbox_list finished;

    inbox_list_init(&finished);
    take_finished(p, &finished);
    while (finished.head) {
        struct inbox_entry *x = inbox_list_pop(&finished);
        if (x->can_wait)
            inbox_list_push(&p->back, x);
        else
            call_back(x);
    }
}

/* Without a writer: back they go. */
static void give_back(struct inbox_port *p)
{
    struct inbox *q = p->inbox;

    pthread_mutex_lock(&q->lock);
    atomic_fetch_sub_explicit(&q->queued, p->gathered.n, memory_order_relaxed);
    pthread_mutex_unlock(&q->lock);
    call_back_all(&p->gathered);
}

/* What this turn has gathered goes to the writer, which is woken only if it would not look by itself. */
static void pass_on(struct inbox_port *p)
{
    struct inbox *q = p->inbox;

    if (!p->gathered.n)
        return;
    if (q->direct) {
        give_back(p);
        return;
    }
    pthread_mutex_lock(&q->lock);
    p->under_way += p->gathered.n;
    begin_to_wait_locked(q);
    inbox_list_move(&q->waiting, &p->gathered, p->gathered.n);
    unlock_and_wake(q);
}

static void turn_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    pass_on(arg);
}

static void wake_cb(evutil_socket_t fd, short what, void *arg)
{
    struct inbox_port *p = arg;
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof count) != sizeof count)
        return;
    call_back_all(&p->back); /* no group waits behind the next */
    deliver(p);
    wait_in_the_back(p);
}

/* ---- ports ------------------------------------------------------------------------------------------------------------- */

enum rc inbox_port_new(struct inbox_port **out, struct inbox *q, struct event_base *loop, const char *what,
                       struct error *e)
{
    struct inbox_port *p = spw_calloc(1, sizeof *p);
    enum rc rc = RC_OK;

    *out = NULL;
    p->magic = PORT_MAGIC;
    p->inbox = q;
    inbox_list_init(&p->gathered);
    inbox_list_init(&p->finished);
    inbox_list_init(&p->back);
    pthread_mutex_lock(&q->lock);
    q->n_ports++;
    pthread_mutex_unlock(&q->lock);
    p->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (p->wake_fd < 0)
        rc = error_set(e, RC_IO, "%s: no event descriptor: %s", what, strerror(errno));
    p->turn = event_new(loop, -1, 0, turn_cb, p);
    p->wake = event_new(loop, p->wake_fd, EV_READ | EV_PERSIST, wake_cb, p);
    p->back_turn = event_new(loop, -1, 0, back_turn_cb, p);
    p->back_late = evtimer_new(loop, back_late_cb, p);
    if (p->back_turn)
        loop_stand_back(p->back_turn);
    if (rc == RC_OK && (!p->turn || !p->wake || !p->back_turn || !p->back_late || event_add(p->wake, NULL) != 0))
        rc = error_set(e, RC_IO, "%s: the loop takes no event", what);
    if (rc != RC_OK) {
        inbox_port_free(p);
        return rc;
    }
    *out = p;
    return RC_OK;
}

static void wait_until_back(struct inbox_port *p)
{
    struct inbox *q = p->inbox;

    pthread_mutex_lock(&q->lock);
    q->closing++;
    pthread_cond_signal(&q->more);
    while (p->under_way || p->to_wake)
        pthread_cond_wait(&q->less, &q->lock);
    q->closing--;
    pthread_mutex_unlock(&q->lock);
}

static void drop_event(struct event *x)
{
    if (x)
        event_free(x);
}

void inbox_port_free(struct inbox_port *p)
{
    if (!p)
        return;
    SPW_ASSERT(p->magic == PORT_MAGIC);
    struct inbox *q = p->inbox;

    p->closing = true;
    pass_on(p);
    wait_until_back(p);
    deliver(p);
    call_back_all(&p->back);
    pthread_mutex_lock(&q->lock);
    q->n_ports--;
    pthread_mutex_unlock(&q->lock);
    drop_event(p->turn);
    drop_event(p->wake);
    drop_event(p->back_turn);
    drop_event(p->back_late);
    if (p->wake_fd >= 0)
        close(p->wake_fd);
    p->magic = 0;
    free(p);
}

/* ---- the writer's ------------------------------------------------------------------------------------------------------ */

void inbox_idle_locked(struct inbox *q, int64_t us)
{
    q->writer = INBOX_IDLE;
    if (us < 0) {
        pthread_cond_wait(&q->more, &q->lock);
    } else {
        const struct timespec until = thread_cond_until(us);
        pthread_cond_timedwait(&q->more, &q->lock, &until);
    }
    q->writer = INBOX_BUSY;
}

void inbox_gather_locked(struct inbox *q, int enough, int64_t us)
{
    const struct timespec until = thread_cond_until(us);

    q->enough = enough;
    while (!q->stopping && !q->closing && q->waiting.n < enough) {
        q->writer = INBOX_GATHERING;
        if (pthread_cond_timedwait(&q->more, &q->lock, &until) == ETIMEDOUT)
            break;
    }
    q->writer = INBOX_BUSY;
}

struct inbox_port *inbox_finish_locked(struct inbox *q, struct inbox_list *group)
{
    struct inbox_port *wake = NULL;

    atomic_fetch_sub_explicit(&q->queued, group->n, memory_order_relaxed);
    while (group->head) {
        struct inbox_entry *x = inbox_list_pop(group);
        struct inbox_port *p = x->port;
        if (!p) {
            free(x);
            continue;
        }
        if (!p->finished.n && !p->to_wake) { /* else its loop has been told already */
            p->to_wake = true;
            p->next = wake;
            wake = p;
        }
        p->under_way--;
        inbox_list_push(&p->finished, x);
    }
    return wake;
}

void inbox_wake_ports(struct inbox *q, struct inbox_port *ports)
{
    const uint64_t one = 1;

    for (struct inbox_port *p = ports; p; p = p->next) /* cannot fail: the loop reads the counter to zero */
        SPW_ASSERT(write(p->wake_fd, &one, sizeof one) == sizeof one);
    pthread_mutex_lock(&q->lock);
    for (struct inbox_port *p = ports; p; p = p->next)
        p->to_wake = false;
    pthread_cond_broadcast(&q->less);
}

/* ---- beginning and end ------------------------------------------------------------------------------------------------- */

void inbox_init(struct inbox *q, int max, bool direct)
{
    *q = (struct inbox){.max = max, .direct = direct};
    inbox_list_init(&q->waiting);
    pthread_mutex_init(&q->lock, NULL);
    thread_cond_init(&q->more);
    pthread_cond_init(&q->less, NULL);
}

static void *writer_main(void *arg)
{
    struct inbox *q = arg;

    thread_wake_on_time();
    return q->main(q->arg);
}

enum rc inbox_start(struct inbox *q, const char *name, void *(*main)(void *), void *arg, struct error *e)
{
    q->main = main;
    q->arg = arg;
    int failed = thread_start(&q->thread, name, writer_main, q);

    if (failed)
        return error_set(e, RC_IO, "%s: no thread: %s", name, strerror(failed));
    q->runs = true;
    thread_stand_back(q->thread);
    return RC_OK;
}

void inbox_stop(struct inbox *q)
{
    if (!q->runs)
        return;
    pthread_mutex_lock(&q->lock);
    q->stopping = true;
    pthread_cond_signal(&q->more);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    q->runs = false;
}

void inbox_fini(struct inbox *q)
{
    while (q->waiting.head)
        free(inbox_list_pop(&q->waiting));
    pthread_cond_destroy(&q->more);
    pthread_cond_destroy(&q->less);
    pthread_mutex_destroy(&q->lock);
}
