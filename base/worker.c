/*   loop: submit -> waiting -> thread: run -> mailbox -> loop: done
 * The lock guards the list and the count; it is never held while a task runs. */
#include "base/worker.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mailbox.h"
#include "base/thread.h"

struct task {
    struct mail mail; /* back to the loop; first, so that it is the task's address too */
    struct task *next;
    struct worker *worker;
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
    struct mailbox *finished;
    int queue_max;

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t more;
    struct tasks waiting;
    int n; /* waiting, running, or on the way back */
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

    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->waiting.head && !w->stopping)
            pthread_cond_wait(&w->more, &w->lock);
        struct task *t = w->stopping ? NULL : pop(&w->waiting);
        if (!t)
            break;
        pthread_mutex_unlock(&w->lock);
        t->run(t->arg);
        mailbox_post(w->finished, &t->mail);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Without the lock: done() may submit the next. */
static void deliver(struct mail *m)
{
    struct task *t = (struct task *)m;
    pthread_mutex_lock(&t->worker->lock);
    t->worker->n--;
    pthread_mutex_unlock(&t->worker->lock);
    t->done(t->rc, t->arg);
    free(t);
}

static enum rc start(struct worker *w, const char *name, struct event_base *loop, struct error *e)
{
    enum rc rc = mailbox_new(&w->finished, loop, e);
    if (rc != RC_OK)
        return error_prefix(e, "worker");
    int failed = thread_start(&w->thread, name, thread_main, w);
    if (failed)
        return error_set(e, RC_IO, "worker: no thread: %s", strerror(failed));
    w->runs = true;
    return RC_OK;
}

enum rc worker_new(struct worker **out, const char *name, struct event_base *loop, int queue_max, struct error *e)
{
    struct worker *w = spw_calloc(1, sizeof *w);

    *out = NULL;
    w->queue_max = queue_max;
    w->waiting.tail = &w->waiting.head;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    enum rc rc = start(w, name, loop, e);
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
    if (w->finished)
        mailbox_deliver(w->finished);
    for (struct task *t; (t = pop(&w->waiting));)
        deliver(&t->mail);
    mailbox_free(w->finished);
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
        *t = (struct task){.mail = {.deliver = deliver}, .worker = w, .run = run, .done = done, .arg = arg};
        push(&w->waiting, t);
        w->n++;
        pthread_cond_signal(&w->more);
    }
    pthread_mutex_unlock(&w->lock);
    return t ? RC_OK : RC_FULL;
}
