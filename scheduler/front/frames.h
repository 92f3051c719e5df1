/* Server-sent events, incrementally (WHATWG HTML, "event stream interpretation"): bytes go in as they come, whole events
 * come out. Only `data` matters here; `event`, `id`, `retry` and comments are skipped. Bounded; no allocation once the
 * buffer has grown to the largest event. */
#ifndef SCHEDULER_FRONT_FRAMES_H
#define SCHEDULER_FRONT_FRAMES_H

#include "base/alloc.h"
#include "scheduler/front/scan.h"

#define FRAME_BYTES_MAX ((size_t)4 << 20)

struct frames {
    struct strbuf pending; /* bytes of events that have not ended */
    size_t at;             /* read so far within pending */
    struct strbuf joined;  /* an event whose data spans several lines */
};
void frames_init(struct frames *f);
void frames_fini(struct frames *f);
/* RC_FULL: an event over the bound. */
enum rc frames_feed(struct frames *f, const char *data, size_t n) SPW_MUST_USE;
/* The next whole event's data; false when there is none yet. Events without data are skipped. *data lives until the next
 * call on f. RC_FULL cannot happen: joined is never longer than pending. */
bool frames_next(struct frames *f, struct span *data);
/* Bytes of an event that has not ended: at the end of a stream they are a cut-off frame, never to be believed. */
bool frames_partial(const struct frames *f);

#endif
