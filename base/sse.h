/* Server-Sent Events, cut into whole frames: for streams that are passed on, where half a frame must never be the last
 * thing a client sees.
 *
 * Source: WHATWG HTML, "Server-sent events", parsing an event stream. A frame is all lines up to and including a blank
 * one; lines end in CR LF, LF or CR. Without I/O; the frames do not depend on where the input was cut.
 *
 * One wrinkle: whether the CR of a blank line is followed by its LF is only known with the next byte. A frame whose
 * lines end in bare CR is delivered at once (and an LF right behind it is dropped); otherwise the LF is awaited. */
#ifndef BASE_SSE_H
#define BASE_SSE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define SSE_FRAME_BYTES_MAX ((size_t)1 << 20)

struct sse_frame {
    const char *raw; /* the frame's bytes with its blank line */
    size_t raw_len;
    bool has_data;    /* false: only comments or other fields */
    const char *data; /* the values of its data lines, joined by LF; not NUL-terminated; "" when there is none */
    size_t data_len;
    const char *event; /* value of its last event line, or "" */
    size_t event_len;
}; /* all borrowed for the callback */

/* Not RC_OK stops: sse_feed() returns it. */
typedef enum rc sse_frame_cb(const struct sse_frame *f, void *arg);

struct sse;
struct sse *sse_new(size_t frame_bytes_max); /* 0: SSE_FRAME_BYTES_MAX */
void sse_free(struct sse *s);
/* RC_FULL: a frame is larger than the bound (frames before it were delivered). Anything but RC_OK is final. */
enum rc sse_feed(struct sse *s, const char *in, size_t n, sse_frame_cb *cb, void *arg) SPW_MUST_USE;
/* The stream ended. RC_OK: at a frame's end; RC_IO: inside a frame, which is dropped. */
enum rc sse_finish(struct sse *s, sse_frame_cb *cb, void *arg) SPW_MUST_USE;

#endif
