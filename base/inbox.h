/* The way to a thread that writes, and back: entries from many event loops, taken in groups. The ledger and the audit
 * stand on it; what an entry holds and how a group is written is theirs.
 *
 *   loop: inbox_port_put() -> gathered -> end of the turn -> waiting -> writer: takes a group, writes it, inbox_finish_locked()
 *         done(rc) <- loop <- eventfd <- finished <------------------------------------------+
 *
 * Back on the loop, those that can wait are called one after the other while nothing else is ready, a few hundred
 * microseconds at a time, and all of them at the latest when the next group comes, or INBOX_BACK_US after the first of
 * them came: the end of one request does not hold up the beginning of another. The others are called at once.
 *
 * While a group is written the next entries gather in `waiting`: a group is as large as the disk is slow. All lists are
 * first in, first out, and there is one writer, so a port's callbacks come in the order of its entries, those that can
 * wait and those that cannot each by themselves. The lock guards `waiting`, the ports' `finished` and what its owner
 * puts under it; it is never to be held over I/O, and it isn't held while a thread is woken, which on a busy core would
 * run at once and wait for it.
 *
 * Bounded: inbox_take_place() counts entries from there until they are finished.
 *
 * Threads: a port belongs to its loop's thread; inbox_take_place() and inbox_put() are for any; functions that end in
 * _locked want the lock; init, start, stop and fini are for the thread that owns it all. */
#ifndef BASE_INBOX_H
#define BASE_INBOX_H

#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/error.h"

struct inbox_port;
typedef void inbox_done_cb(enum rc rc, void *arg);

/* The first member of the owner's entry, which is one allocation: freed with free() when it has come back. */
struct inbox_entry {
    struct inbox_entry *next;
    struct inbox_port *port; /* NULL: nobody's; the inbox's own, as `next` is */
    inbox_done_cb *done;     /* may be NULL */
    void *arg;
    enum rc rc;    /* what `done` is told; the writer's to set */
    bool can_wait; /* `done` ends something: nobody waits for it in order to begin */
};
#define INBOX_BACK_US 100

struct inbox_list {
    struct inbox_entry *head, **tail;
    int n;
};
void inbox_list_init(struct inbox_list *q);
void inbox_list_push(struct inbox_list *q, struct inbox_entry *x);
struct inbox_entry *inbox_list_pop(struct inbox_list *q); /* not of an empty one */
/* Up to `max` entries from the front of q to the end of `to`. */
void inbox_list_move(struct inbox_list *to, struct inbox_list *q, int max);
/* All of q before all of `to`. */
void inbox_list_put_back(struct inbox_list *to, struct inbox_list *q);

enum inbox_writer {
    INBOX_BUSY,      /* it will look at `waiting` before it sleeps */
    INBOX_IDLE,      /* asleep until `waiting` is not empty */
    INBOX_GATHERING, /* asleep until there are `enough`, or its time is over */
};
struct inbox {
    int max;
    bool direct; /* there is no writer: entries come back RC_OK at the end of the turn */
    atomic_int queued;
    pthread_t thread;
    void *(*main)(void *); /* the thread's, and what it is called with */
    void *arg;
    bool runs;

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t more;  /* for the writer */
    pthread_cond_t less;  /* for ports that are being freed: entries have come back */
    struct inbox_list waiting;
    struct mono since; /* when the first of them came */
    enum inbox_writer writer;
    int enough;
    int n_ports, closing; /* ports; those that wait for their end */
    bool stopping;
};

void inbox_init(struct inbox *q, int max, bool direct);
void inbox_fini(struct inbox *q); /* after inbox_stop(); frees what waits without a word */
/* The writer: main(arg), on a thread that stands back and wakes on time (thread.h). */
enum rc inbox_start(struct inbox *q, const char *name, void *(*main)(void *), void *arg, struct error *e) SPW_MUST_USE;
void inbox_stop(struct inbox *q); /* tells it so and waits for its end; also where it was never started */

/* False: there are `max`. Takes no lock. */
bool inbox_take_place(struct inbox *q);
/* An entry that has a place, from where there is no port. */
void inbox_put(struct inbox *q, struct inbox_entry *x);

/* `what` begins the error's text. */
enum rc inbox_port_new(struct inbox_port **p, struct inbox *q, struct event_base *loop, const char *what,
                       struct error *e) SPW_MUST_USE;
/* Waits until all of its entries have come back, and calls back for them from inside. NULL is fine. */
void inbox_port_free(struct inbox_port *p);
bool inbox_port_is_closing(const struct inbox_port *p); /* it takes no more */
/* An entry that has a place. Takes no lock and makes no system call. */
void inbox_port_put(struct inbox_port *p, struct inbox_entry *x);
/* There may be entries in this turn: where they come back at its end (true), that is before what is written meanwhile
 * leaves. */
bool inbox_port_expect(struct inbox_port *p);

/* ---- for the writer --------------------------------------------------------------------------------------------------- */

/* The writer has something to look at other than entries: is it to be woken (inbox_wake(), once the lock is free)? */
bool inbox_is_to_wake_locked(struct inbox *q);
void inbox_wake(struct inbox *q);
/* Sleeps until entries wait. May end early. us < 0: for as long as it takes. */
void inbox_idle_locked(struct inbox *q, int64_t us);
/* Sleeps for so long, or until there are `enough` (INT_MAX: no matter how many), it is to stop or a port to close. */
void inbox_gather_locked(struct inbox *q, int enough, int64_t us);
/* A group goes back, each entry with its rc. Returns the ports that are to be woken, by inbox_wake_ports(). */
struct inbox_port *inbox_finish_locked(struct inbox *q, struct inbox_list *group);
/* Called without the lock, returns with it: until then those ports stay. */
void inbox_wake_ports(struct inbox *q, struct inbox_port *ports);

#endif
