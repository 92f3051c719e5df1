/*   loop: submit -> waiting -> thread: run -> finished -> eventfd -> loop: done
 * The lock guards both lists and the count; it is never held while a task runs. */
#include "base/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"

struct task {
    struct task *next;
    void (*run)(void *arg);
    void (*done)(enum rc rc, void *arg);
    void *arg;
    enum rc rc;
};
struct tasks {
    struct task *head, **tail;
};

struct worker {
    pthread_t thread;
    bool runs;
    int wake_fd; /* eventfd: finished is not empty */
    struct event *wake;
    int queue_max;

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t more;
    struct tasks waiting, finished;
    int n; /* in both lists or running */
    bool stopping;
};

static void push(struct tasks *q, struct task *t)
{
    t->next = NULL;
    *q->tail = t;
    q->tail = &t->next;
}

static struct task *pop(struct tasks *q)
{
    struct task *t = q->head;

    if (t && !(q->head = t->next))
        q->tail = &q->head;
    return t;
}

static void *thread_main(void *arg)
{
    struct worker *w = arg;
    const uint64_t one = 1;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->waiting.head && !w->stopping)
            pthread_cond_wait(&w->more, &w->lock);
        struct task *t = w->stopping ? NULL : pop(&w->waiting);
        if (!t)
            break;
        pthread_mutex_unlock(&w->lock);
        t->run(t->arg);
        pthread_mutex_lock(&w->lock);
        push(&w->finished, t);
        SPW_ASSERT(write(w->wake_fd, &one, sizeof one) == sizeof one);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Call back for every task in `from`, without the lock: done() may submit the next. */
static void deliver(struct worker *w, struct tasks *from)
{
    for (;;) {
        pthread_mutex_lock(&w->lock);
        struct task *t = pop(from);
        w->n -= t != NULL;
        pthread_mutex_unlock(&w->lock);
        if (!t)
            return;
        t->done(t->rc, t->arg);
        free(t);
    }
}

static void wake_cb(evutil_socket_t fd, short what, void *arg)
{
    struct worker *w = arg;
    uint64_t count;

    (void)what;
    if (read(fd, &count, sizeof count) == sizeof count)
        deliver(w, &w->finished);
}

static enum rc start(struct worker *w, struct event_base *loop, struct error *e)
{
    sigset_t all, before;

    w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (w->wake_fd < 0)
        return error_set(e, RC_IO, "worker: no event descriptor: %s", strerror(errno));
    w->wake = event_new(loop, w->wake_fd, EV_READ | EV_PERSIST, wake_cb, w);
    if (!w->wake || event_add(w->wake, NULL) != 0)
        return error_set(e, RC_IO, "worker: the loop takes no event");
    /* Signals are the loop thread's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&w->thread, NULL, thread_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        return error_set(e, RC_IO, "worker: no thread: %s", strerror(failed));
    w->runs = true;
    return RC_OK;
}

enum rc worker_new(struct worker **out, struct event_base *loop, int queue_max, struct error *e)
{
    struct worker *w = spw_calloc(1, sizeof *w);

    *out = NULL;
    w->wake_fd = -1;
    w->queue_max = queue_max;
    w->waiting.tail = &w->waiting.head;
    w->finished.tail = &w->finished.head;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    enum rc rc = start(w, loop, e);
    if (rc != RC_OK) {
        worker_free(w);
        return rc;
    }
    *out = w;
    return RC_OK;
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    for (struct task *t = w->waiting.head; t; t = t->next)
        t->rc = RC_CANCELLED;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
    if (w->runs)
        pthread_join(w->thread, NULL);
    deliver(w, &w->finished);
    deliver(w, &w->waiting);
    if (w->wake)
        event_free(w->wake);
    if (w->wake_fd >= 0)
        close(w->wake_fd);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

enum rc worker_submit(struct worker *w, void (*run)(void *arg), void (*done)(enum rc rc, void *arg), void *arg)
{
    struct task *t = NULL;

    pthread_mutex_lock(&w->lock);
    if (w->n < w->queue_max && !w->stopping) {
        t = spw_calloc(1, sizeof *t);
        *t = (struct task){.run = run, .done = done, .arg = arg};
        push(&w->waiting, t);
        w->n++;
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    return t ? RC_OK : RC_FULL;
}
