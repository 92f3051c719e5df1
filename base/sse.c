/* The frame splitter: see sse.h.
 *
 * Lines are found with memchr and understood at once; a frame that arrives whole is delivered from the input without a
 * copy, only a tail is kept. What is known of the frame being read are offsets into it, so that no byte is looked at
 * twice, wherever the input was cut. */
#include "base/sse.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

struct part { /* of the frame being read */
    size_t at, n;
};

struct sse {
    size_t max;
    char *tail; /* owned: the begun frame */
    size_t len, cap;
    size_t scanned; /* of the frame: bytes known to hold no unhandled line end */
    size_t line;    /* offset of the line being read */
    struct part data, event;
    bool has_data;
    bool several; /* data lines: data.n bytes of `joined` */
    bool bare_cr; /* the last line of this frame ended in CR alone */
    bool drop_lf; /* the frame before ended in CR; an LF here is still its */
    bool started; /* past a byte order mark */
    enum rc failed;
    char *joined; /* owned: of frames with several data lines */
    size_t joined_cap;
};

struct sse *sse_new(size_t frame_bytes_max)
{
    struct sse *s = spw_calloc(1, sizeof(*s));
    s->max = frame_bytes_max ? frame_bytes_max : SSE_FRAME_BYTES_MAX;
    return s;
}

void sse_free(struct sse *s)
{
    if (!s)
        return;
    free(s->tail);
    free(s->joined);
    free(s);
}

/* The length of the line at `line` and of its end. False: its end is not here yet. */
static bool find_line_end(const char *line, size_t n, size_t *n_line, size_t *n_end)
{
    const char *lf = memchr(line, '\n', n);
    const char *cr = memchr(line, '\r', lf ? (size_t)(lf - line) : n);
    const char *end = cr ? cr : lf;
    if (!end)
        return false;
    *n_line = (size_t)(end - line);
    *n_end = cr && lf == cr + 1 ? 2 : 1;
    return true;
}

static void join(struct sse *s, const char *frame, const char *value, size_t n)
{
    size_t need = s->data.n + 1 + n;
    if (need > s->joined_cap) {
        s->joined = spw_realloc(s->joined, need * 2);
        s->joined_cap = need * 2;
    }
    if (!s->several)
        memcpy(s->joined, frame + s->data.at, s->data.n);
    s->several = true;
    s->joined[s->data.n] = '\n';
    memcpy(s->joined + s->data.n + 1, value, n);
    s->data.n = need;
}

static void take_field(struct sse *s, const char *frame, const char *line, size_t n)
{
    const char *colon = memchr(line, ':', n);
    size_t n_name = colon ? (size_t)(colon - line) : n;
    const char *value = colon ? colon + 1 : line + n;
    size_t n_value = (size_t)(line + n - value);
    if (n_value && *value == ' ') {
        value++;
        n_value--;
    }
    const struct part part = {(size_t)(value - frame), n_value};
    if (n_name == 4 && memcmp(line, "data", 4) == 0) {
        if (s->has_data)
            join(s, frame, value, n_value);
        else
            s->data = part;
        s->has_data = true;
    } else if (n_name == 5 && memcmp(line, "event", 5) == 0) {
        s->event = part;
    }
}

/* The line that begins at s->line. The stream's first one may have a byte order mark. */
static void take_line(struct sse *s, const char *frame, size_t end)
{
    const char *line = frame + s->line;
    size_t n = end - s->line;
    if (!s->started && n >= 3 && memcmp(line, "\xef\xbb\xbf", 3) == 0) {
        line += 3;
        n -= 3;
    }
    s->started = true;
    take_field(s, frame, line, n);
}

static struct sse_frame frame_of(const struct sse *s, const char *frame, size_t n)
{
    const char *data = s->several ? s->joined : s->has_data ? frame + s->data.at : "";
    return (struct sse_frame){.raw = frame,
                              .raw_len = n,
                              .has_data = s->has_data,
                              .data = data,
                              .data_len = s->data.n,
                              .event = s->event.n ? frame + s->event.at : "",
                              .event_len = s->event.n};
}

/* Look for the end of the frame that starts at `frame`. Its length, or 0: not here yet. */
static size_t scan(struct sse *s, const char *frame, size_t n, bool ended)
{
    size_t n_line, n_end;
    while (s->scanned < n && find_line_end(frame + s->scanned, n - s->scanned, &n_line, &n_end)) {
        size_t end = s->scanned + n_line;
        bool blank = end == s->line;
        if (blank && s->bare_cr && frame[end] == '\r') {
            s->drop_lf = true; /* even when it is here already: frames may not depend on the cuts */
            return end + 1;
        }
        if (frame[end] == '\r' && end + 1 == n && !ended) {
            s->scanned = end; /* decided by the next byte */
            return 0;
        }
        s->bare_cr = n_end == 1 && frame[end] == '\r';
        if (blank)
            return end + n_end;
        take_line(s, frame, end);
        s->scanned = s->line = end + n_end;
    }
    s->scanned = n;
    return 0;
}

static void begin_frame(struct sse *s)
{
    s->scanned = s->line = 0;
    s->data = s->event = (struct part){0};
    s->has_data = s->several = s->bare_cr = false;
    s->started = true;
}

/* All whole frames of in; *used says how far. */
static enum rc frames(struct sse *s, const char *in, size_t n, bool ended, size_t *used, sse_frame_cb *cb, void *arg)
{
    *used = 0;
    while (*used < n) {
        if (s->drop_lf) {
            s->drop_lf = false;
            if (in[*used] == '\n') {
                ++*used;
                continue;
            }
        }
        size_t frame = scan(s, in + *used, n - *used, ended);
        if (frame > s->max || (!frame && n - *used > s->max))
            return RC_FULL;
        if (!frame)
            return RC_OK;
        const struct sse_frame f = frame_of(s, in + *used, frame);
        begin_frame(s);
        *used += frame;
        enum rc rc = cb(&f, arg);
        if (rc != RC_OK)
            return rc;
    }
    return RC_OK;
}

static void keep(struct sse *s, const char *in, size_t n)
{
    if (s->len + n > s->cap) {
        size_t cap = s->cap ? s->cap : 512;
        while (cap < s->len + n)
            cap *= 2;
        s->tail = spw_realloc(s->tail, cap);
        s->cap = cap;
    }
    memcpy(s->tail + s->len, in, n);
    s->len += n;
}

enum rc sse_feed(struct sse *s, const char *in, size_t n, sse_frame_cb *cb, void *arg)
{
    size_t used = 0;
    if (s->failed != RC_OK || n == 0)
        return s->failed;
    if (s->len == 0) {
        s->failed = frames(s, in, n, false, &used, cb, arg);
        if (s->failed == RC_OK && used < n)
            keep(s, in + used, n - used);
    } else {
        keep(s, in, n);
        s->failed = frames(s, s->tail, s->len, false, &used, cb, arg);
        memmove(s->tail, s->tail + used, s->len - used);
        s->len -= used;
    }
    return s->failed;
}

enum rc sse_finish(struct sse *s, sse_frame_cb *cb, void *arg)
{
    size_t used = 0;
    if (s->failed == RC_OK && s->len) {
        s->failed = frames(s, s->tail, s->len, true, &used, cb, arg);
        if (s->failed == RC_OK && used < s->len)
            s->failed = RC_IO;
    }
    return s->failed;
}
