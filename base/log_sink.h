/* Where log lines go when writing them may not hold anybody up: a bounded buffer and a thread that empties it.
 *
 *   any thread: log_write() -> log_sink_put() -> buffer -> the sink's thread: one write(2) of all that has gathered
 *
 * Lines leave LOG_SINK_GATHER_MS after the first of a batch at the latest, warnings and errors at once, and all of them
 * when the sink is freed. The thread stands back (base/thread.h): a loop on the same core ends its turn first. Where
 * the reader is so slow that the buffer fills up, new lines are dropped and counted, and one line says how many once
 * there is room again: a log may be late, but never in the way. */
#ifndef BASE_LOG_SINK_H
#define BASE_LOG_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define LOG_SINK_BYTES     ((size_t)1 << 20) /* two buffers of this size: one is filled while the other is written */
#define LOG_SINK_GATHER_MS 5

struct log_sink;
/* fd is borrowed. Starts the thread. */
enum rc log_sink_new(struct log_sink **s, int fd, struct error *e) SPW_MUST_USE;
/* Writes what is there, then ends. Blocks as long as the reader does. NULL is fine. */
void log_sink_free(struct log_sink *s);

enum log_sink_hurry { LOG_SINK_GATHER, LOG_SINK_NOW };
/* Any thread; never waits for the reader. line: whole, with its newline. False: there was no room, it is counted. */
bool log_sink_put(struct log_sink *s, const char *line, size_t n, enum log_sink_hurry hurry);
uint64_t log_sink_dropped(struct log_sink *s); /* lines, since the start */

#endif
