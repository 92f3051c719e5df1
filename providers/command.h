/* A program of the operator's, run as it is written, without a shell: words, no input, no output, a deadline after
 * which its whole process group is killed. Loop thread; does not block. */
#ifndef PROVIDERS_COMMAND_H
#define PROVIDERS_COMMAND_H

#include <event2/event.h>

#include "base/error.h"

#define COMMAND_WORDS_MAX 32

struct command;
/* text: "" when it exited with 0, else how it ended. Exactly once, not after command_stop(). Freed with that. */
typedef void command_cb(bool good, const char *text, void *arg);
/* words: with commas between them, as a provider's KEY_LIST. RC_INVALID: too many; RC_IO: cannot be started. */
enum rc command_start(struct command **c, struct event_base *loop, const char *words, int64_t deadline_ms,
                      command_cb *cb, void *arg, struct error *e) SPW_MUST_USE;
void command_stop(struct command *c); /* kills it and waits for that; NULL is fine */

#endif
