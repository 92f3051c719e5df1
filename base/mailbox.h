/* Messages to a loop from any thread, delivered there in the order in which they were posted.
 *
 * A message is the sender's storage (most often a field of the object it is about), so that posting allocates nothing
 * and cannot fail: from mailbox_post() until its deliver() is called it is the mailbox's and may not be posted again.
 * A burst of messages costs one wake-up of the loop. The lock inside is held for a few instructions, never over I/O. */
#ifndef BASE_MAILBOX_H
#define BASE_MAILBOX_H

#include <event2/event.h>
#include <stdbool.h>

#include "base/error.h"

struct mail { /* all zero but for deliver, before it is posted first */
    struct mail *next;
    bool posted; /* the mailbox's; who posts what is posted already has made a mistake, which is asserted */
    /* On the loop's thread, never from inside mailbox_post(). m is the receiver's again: it may be posted anew, or freed. */
    void (*deliver)(struct mail *m);
};

struct mailbox;
enum rc mailbox_new(struct mailbox **b, struct event_base *loop, struct error *e) SPW_MUST_USE;
/* On the loop's thread, or when that has ended; nobody posts any more. What is still in it is delivered from inside.
 * NULL is fine. */
void mailbox_free(struct mailbox *b);
void mailbox_post(struct mailbox *b, struct mail *m); /* any thread */
/* The same from the loop's own thread, without a system call. */
void mailbox_post_here(struct mailbox *b, struct mail *m);
/* Deliver now what has been posted so far. As mailbox_free(): on the loop's thread, or when that has ended. */
void mailbox_deliver(struct mailbox *b);
/* For a message that is about no object: call(arg) on the loop. Allocates. */
void mailbox_call(struct mailbox *b, void (*call)(void *arg), void *arg);

#endif
