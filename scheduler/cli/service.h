/* What a service manager and we say to each other, without its library, and how a new process takes the place of an old
 * one.
 *
 *   sockets in     LISTEN_FDS (sd_listen_fds(3)): the listener is there already, whatever `listen` says. One per worker may be
 *                  handed over; a manager hands one, which all workers share.
 *   state out      NOTIFY_SOCKET (sd_notify(3)): READY, STOPPING, STATUS, MAINPID, and WATCHDOG from the first loop as
 *                  long as it turns, where WATCHDOG_USEC asks for it.
 *   hand-over      SIGUSR2: the program at our path, which may be another by now, is started with our listening sockets:
 *
 *       old:  serving --SIGUSR2--> starting it --it says that it can--> draining --> ended
 *       new:                       reads and checks the configuration --> waits for the state folder --> serving
 *
 *     A new one that cannot (a mistake in the configuration, a broken program) ends by itself, the old one goes on, and the log
 *     says why. From the moment the old one drains until its last request has ended, new connections wait in the listener's
 *     queue: nobody is refused. A second SIGUSR2 meanwhile is ignored.
 *
 * One thread, the first loop's; nothing blocks but the start (fork). */
#ifndef SCHEDULER_CLI_SERVICE_H
#define SCHEDULER_CLI_SERVICE_H

#include <event2/event.h>
#include <sys/types.h>

#include "base/error.h"
#include "base/log.h"

#define SERVICE_FDS_MAX 64 /* as many as there can be workers */

struct service {
    int fds[SERVICE_FDS_MAX]; /* inherited listeners, ours until the front takes them */
    int n_fds;
    bool takes_over;     /* from an old process, which waits for our word */
    int word_fd;         /* where that goes; -1: nobody waits */
    char *notify;        /* owned: address of the manager's socket, or NULL */
    int64_t watchdog_us; /* 0: nobody watches */

    struct event *watchdog, *ask, *word; /* of the loop: a turn, SIGUSR2, what the new process says */
    const struct log *log;
    struct event_base *loop;
    char *const *argv;
    pid_t child; /* the new process, while it has not spoken */
    int child_fd;
    /* The listeners to hand over: at most max, returns how many. */
    int (*listeners)(int *fds, int max, void *arg);
    void (*taken_over)(void *arg); /* the new process can: drain */
    void *arg;
};

/* Takes what stands in the environment, and out of it, so that no child of ours believes it. RC_INVALID: LISTEN_FDS
 * makes no sense. */
enum rc service_init(struct service *s, struct error *e) SPW_MUST_USE;
/* Before waiting for what the old process holds: the configuration is good, let it drain. */
void service_can_take_over(struct service *s);
/* On the loop: watchdog, SIGUSR2. argv: our own command line, argv[0] first. */
enum rc service_start(struct service *s, struct event_base *loop, const struct log *log, char *const *argv,
                      struct error *e) SPW_MUST_USE;
/* "READY=1\nSTATUS=..."; nothing where there is no manager. */
void service_say(const struct service *s, const char *text);
void service_fini(struct service *s); /* {0} with word_fd -1 is fine */

#endif
