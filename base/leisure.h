/* When does a core have nothing else to do? A thread that comes last (thread.h) is asked, and answers once it has come
 * to run.
 *
 *   leisure_wait() -- asked --> the thread, behind all that want its core -- found --> leisure_wait() returns
 *
 * It does nothing but that and holds nothing, since it may be put aside for seconds where others want the processor;
 * whoever waited goes on in a class of his own, and nobody who waits for him waits for such a thread. */
#ifndef BASE_LEISURE_H
#define BASE_LEISURE_H

struct leisure;
/* 0, or the errno of why there is none. name: the thread's. */
int leisure_start(struct leisure **l, const char *name);
/* Until a core is idle, or leisure_wake(). One thread at a time. */
void leisure_wait(struct leisure *l);
/* Whoever waits, or will next, goes on. Any thread. */
void leisure_wake(struct leisure *l);
/* Nobody waits. NULL is fine. */
void leisure_stop(struct leisure *l);

#endif
