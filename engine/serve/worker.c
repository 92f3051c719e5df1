#include "engine/serve/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/thread.h"

struct task_list {
    struct worker_task *first, **tail;
};

struct worker {
    pthread_t thread;
    int fd, tasks_max;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    struct task_list todo, done;
    int n_todo;
    bool quit;
};

static void list_init(struct task_list *l)
{
    l->first = NULL;
    l->tail = &l->first;
}

static void list_push(struct task_list *l, struct worker_task *t)
{
    t->next = NULL;
    *l->tail = t;
    l->tail = &t->next;
}

static struct worker_task *list_pop(struct task_list *l)
{
    struct worker_task *t = l->first;
    if (t) {
        l->first = t->next;
        if (!l->first)
            l->tail = &l->first;
    }
    return t;
}

static struct worker_task *next_task(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->quit && !w->todo.first)
        pthread_cond_wait(&w->wake, &w->lock);
    struct worker_task *t = w->quit ? NULL : list_pop(&w->todo);
    w->n_todo -= t != NULL;
    pthread_mutex_unlock(&w->lock);
    return t;
}

static void *worker_thread(void *arg)
{
    struct worker *w = arg;
    struct worker_task *t;
    while ((t = next_task(w))) {
        t->run(t);
        pthread_mutex_lock(&w->lock);
        list_push(&w->done, t);
        pthread_mutex_unlock(&w->lock);
        uint64_t one = 1;
        while (write(w->fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
    }
    return NULL;
}

static void worker_destroy(struct worker *w)
{
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    if (w->fd >= 0)
        close(w->fd);
    free(w);
}

enum rc worker_new(struct worker **out, int tasks_max, struct error *e)
{
    struct worker *w = spw_calloc(1, sizeof *w);
    w->tasks_max = tasks_max;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    list_init(&w->todo);
    list_init(&w->done);
    w->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int failed = w->fd < 0 ? errno : thread_start(&w->thread, "prepare", worker_thread, w);
    if (failed) {
        worker_destroy(w);
        return error_set(e, RC_IO, "cannot start a worker thread: errno %d", failed);
    }
    *out = w;
    return RC_OK;
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->quit = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    struct worker_task *t;
    while ((t = list_pop(&w->done)) || (t = list_pop(&w->todo)))
        t->done(t);
    worker_destroy(w);
}

enum rc worker_submit(struct worker *w, struct worker_task *t)
{
    pthread_mutex_lock(&w->lock);
    enum rc rc = w->n_todo >= w->tasks_max ? RC_FULL : RC_OK;
    if (rc == RC_OK) {
        list_push(&w->todo, t);
        w->n_todo++;
        pthread_cond_signal(&w->wake);
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}

int worker_fd(const struct worker *w)
{
    return w->fd;
}

void worker_dispatch(struct worker *w)
{
    uint64_t count;
    if (read(w->fd, &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR)
        return;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        struct worker_task *t = list_pop(&w->done);
        pthread_mutex_unlock(&w->lock);
        if (!t)
            return;
        t->done(t);
    }
}
