#include "base/loop.h"

#include <event2/thread.h>

#include "base/error.h"

/* libevent takes the middle one for whatever does not say. */
enum { PRIORITY_FIRST, PRIORITY_USUAL, PRIORITY_BACK, N_PRIORITIES };

void loop_threads_init(void)
{
    SPW_ASSERT(evthread_use_pthreads() == 0);
}

struct event_base *loop_new(void)
{
    struct event_config *c = event_config_new();
    struct event_base *loop = NULL;
    if (c && event_config_set_flag(c, EVENT_BASE_FLAG_NOLOCK) == 0 &&
        event_config_set_max_dispatch_interval(c, NULL, 1, PRIORITY_BACK) == 0)
        loop = event_base_new_with_config(c);
    if (c)
        event_config_free(c);
    if (loop)
        SPW_ASSERT(event_base_priority_init(loop, N_PRIORITIES) == 0);
    return loop;
}

void loop_stand_back(struct event *ev)
{
    (void)event_priority_set(ev, PRIORITY_BACK); /* a loop of another make has no such: then it is as the others are */
}
