#include "base/loop.h"

#include <event2/thread.h>

#include "base/error.h"

void loop_threads_init(void)
{
    SPW_ASSERT(evthread_use_pthreads() == 0);
}

struct event_base *loop_new(void)
{
    struct event_config *c = event_config_new();
    struct event_base *loop = NULL;
    if (c && event_config_set_flag(c, EVENT_BASE_FLAG_NOLOCK) == 0)
        loop = event_base_new_with_config(c);
    if (c)
        event_config_free(c);
    return loop;
}
