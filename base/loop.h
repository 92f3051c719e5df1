/* Event loops for a program with several of them: each belongs to one thread, and only mailboxes (mailbox.h) reach into
 * it from outside. So the loops need no locks of their own; what libevent shares between them behind our back does. */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <event2/event.h>

/* Before the first loop is made, once per process. */
void loop_threads_init(void);
/* A loop without locks. NULL: the system has no descriptor for it (errno). Its events are of one priority unless
 * loop_stand_back() says otherwise. */
struct event_base *loop_new(void);
/* `ev` is of a loop made by loop_new(), and not pending. It gives way: it is called only when nothing else is ready,
 * once, and then the loop looks again whether something is. Bounding how long it may have to wait is its owner's
 * business. */
void loop_stand_back(struct event *ev);

#endif
