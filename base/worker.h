/* Slow work off the loop: one thread, a bounded queue, completion back on the loop. For files, SQLite readers, password
 * hashes; what must keep its own connection or group its work (the ledger's writer) has a thread of its own. */
#ifndef BASE_WORKER_H
#define BASE_WORKER_H

#include <event2/event.h>

#include "base/error.h"

struct worker;

/* name: its thread's (base/thread.h). */
enum rc worker_new(struct worker **w, const char *name, struct event_base *loop, int queue_max,
                   struct error *e) SPW_MUST_USE;
/* Ends after the task that runs; tasks not begun are not run. done() of each is called from inside, so that nothing
 * leaks: with RC_CANCELLED for those. NULL is fine. */
void worker_free(struct worker *w);

/* run(arg) on the thread; afterwards done(RC_OK, arg) on the loop, in order of submission, never from inside this call.
 * arg belongs to run() in between. RC_FULL: queue_max tasks wait or run; nothing was taken. */
enum rc worker_submit(struct worker *w, void (*run)(void *arg), void (*done)(enum rc rc, void *arg),
                      void *arg) SPW_MUST_USE;

#endif
