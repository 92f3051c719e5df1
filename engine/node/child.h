/* A worker as a process: started with two descriptors of ours, watched, ended. Loop thread. */
#ifndef ENGINE_NODE_CHILD_H
#define ENGINE_NODE_CHILD_H

#include <event2/event.h>
#include <sys/types.h>

#include "base/error.h"

/* The worker's descriptors, as its argv names them. */
#define CHILD_CHANNEL_FD  3
#define CHILD_LISTENER_FD 4

struct child;
/* Run this program again (also when its file was replaced meanwhile) with argv (NULL-terminated, [0] only a name),
 * copies of the two descriptors and our standard ones. It ignores SIGINT, SIGTERM and SIGHUP, which are the
 * supervisor's to understand, and dies with the calling thread. ended(status of waitpid) is called from the loop, once;
 * then it is freed. */
enum rc child_start(struct child **c, struct event_base *loop, const char *const *argv, int channel_fd, int listener_fd,
                    void (*ended)(int status, void *arg), void *arg, struct error *e) SPW_MUST_USE;
pid_t child_pid(const struct child *c);
void child_kill(struct child *c);
/* Kill, wait, and call nobody. NULL is fine. */
void child_free(struct child *c);
/* "ended by signal 9", "exited with status 1". */
void child_say_status(int status, char *text, size_t size);

#endif
