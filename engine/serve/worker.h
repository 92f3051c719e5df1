/* One thread for work that would hold up the event loop: loading a model, and turning a request's bytes into ids
 * (a long prompt takes tens of milliseconds to parse and tokenise, during which other streams must go on).
 *
 * Tasks run in order of arrival; each then comes back through worker_dispatch() on the loop thread, which calls its
 * done(). A task is the caller's storage, and the worker's from submit until done() is called. */
#ifndef ENGINE_SERVE_WORKER_H
#define ENGINE_SERVE_WORKER_H

#include "base/error.h"

struct worker_task {
    struct worker_task *next;
    void (*run)(struct worker_task *t);  /* worker thread */
    void (*done)(struct worker_task *t); /* loop thread; may free the task */
};

struct worker;
/* At most tasks_max tasks wait. */
enum rc worker_new(struct worker **w, int tasks_max, struct error *e) SPW_MUST_USE;
/* Waits for the task that runs; calls done() of it and of all that are left (without run()). Loop thread. */
void worker_free(struct worker *w);
/* RC_FULL: tasks_max wait already. */
enum rc worker_submit(struct worker *w, struct worker_task *t) SPW_MUST_USE;
int worker_fd(const struct worker *w); /* readable when tasks are done */
void worker_dispatch(struct worker *w);

#endif
