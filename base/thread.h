/* Threads that people can tell apart: each has a name, which `top -H`, gdb and perf show, and leaves signals to the
 * program's first thread. (The kernels' pool depends on nothing of ours and does the same by itself.) The first thread
 * keeps the program's name, by which ps and pgrep find it. */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define THREAD_NAME_MAX 15 /* bytes that Linux keeps of a name; a longer one is cut */

/* 0, or the errno of why there is none. In the thread all signals are blocked but those that its own faults raise. */
int thread_start(pthread_t *t, const char *name, void *(*run)(void *arg), void *arg);
/* Timed waits of the calling thread, and of those that it starts, end to the microsecond; the kernel's own way is to
 * let them go on for up to 50 more. */
void thread_wake_on_time(void);
/* Into the background's scheduling class: where the thread shares a core with a loop it shall not break into its
 * turn each time that a disk is done. Not to be had: no harm. */
void thread_stand_back(pthread_t t);
/* Behind everything: it runs while its core has nothing else to do, and is put aside at once when it has, for as long
 * as that lasts, and may not come back out of it (that takes a right). So it holds no lock, and nobody waits for it:
 * see leisure.h. */
void thread_come_last(pthread_t t);

/* A condition whose timed waits go by the monotonic clock, and the end of such a wait: so many microseconds from now. */
void thread_cond_init(pthread_cond_t *c);
struct timespec thread_cond_until(int64_t us);

#endif
