/* Taking a changed file over while the scheduler runs.
 *
 *     asked -> loaded and checked on a thread -> compared -> apply() -> told to all who asked
 *                       |                                      |
 *                       +---- mistakes: all of them are told,  +---- it says no: nothing was changed
 *                             nothing was changed
 *
 * One at a time: whoever asks while one is under way is served by the next one, because the file may have changed since
 * it was read. What needs a restart is named and keeps its value. Loop thread only. */
#ifndef SCHEDULER_CONFIG_RELOAD_H
#define SCHEDULER_CONFIG_RELOAD_H

#include <event2/event.h>

#include "scheduler/config/config.h"

#define RELOAD_ASKERS_MAX 64

struct reload_options { /* all borrowed */
    struct event_base *loop;
    const char *path;
    const struct log *log;
    /* The configuration that runs. */
    const struct config *(*current)(void *arg);
    /* Take `next` over, all of it or, with *e, nothing. It is checked, and what needs a restart is as it was. On RC_OK
     * the reference is the callee's. */
    enum rc (*apply)(struct config *next, struct error *e, void *arg);
    void *arg;
};
struct reload_report { /* borrowed for the call */
    enum rc rc;        /* RC_INVALID: the file has mistakes; another failure: apply() said no, or we are ending */
    /* RC_OK: {"reloaded":true,"changes":[{"list","name","change","keys","needs_restart"}],"needs_restart":["listen"]}
     * else: {"error":{...},"problems":["spillway.yaml:3: ..."]} */
    const char *json;
    size_t json_len;
};
typedef void reload_done_cb(const struct reload_report *r, void *arg);

struct reload;
void reload_new(struct reload **r, const struct reload_options *o);
void reload_free(struct reload *r); /* who waits is told RC_CANCELLED from inside; NULL is fine */
/* done(arg), once, on the loop, never from inside; NULL: nobody needs to be told. RC_FULL: too many wait already.
 * RC_CANCELLED: reload_free() is telling those who wait. */
enum rc reload_ask(struct reload *r, reload_done_cb *done, void *arg) SPW_MUST_USE;

#endif
