#include "scheduler/front/frames.h"

#include <string.h>

void frames_init(struct frames *f)
{
    strbuf_init(&f->pending, FRAME_BYTES_MAX);
    strbuf_init(&f->joined, FRAME_BYTES_MAX);
    f->at = 0;
}

void frames_fini(struct frames *f)
{
    strbuf_fini(&f->pending);
    strbuf_fini(&f->joined);
}

enum rc frames_feed(struct frames *f, const char *data, size_t n)
{
    if (f->at) { /* what was read goes away once per read, not once per event */
        memmove(f->pending.data, f->pending.data + f->at, f->pending.len - f->at);
        f->pending.len -= f->at;
        f->pending.data[f->pending.len] = '\0';
        f->at = 0;
    }
    return strbuf_append(&f->pending, data, n);
}

/* One line from `from`: *line without its end, *next behind it. A line ends with LF, CRLF or CR; a CR that is the last
 * byte may be half of a CRLF, so it waits. */
static bool take_line(const struct strbuf *b, size_t from, struct span *line, size_t *next)
{
    const char *p = b->data + from, *end = b->data + b->len;
    const char *lf = memchr(p, '\n', (size_t)(end - p));
    const char *cr = memchr(p, '\r', (size_t)((lf ? lf : end) - p));
    if (cr && cr + 1 == end)
        return false;
    if (!cr && !lf)
        return false;
    line->p = p;
    line->n = (size_t)((cr ? cr : lf) - p);
    *next = (size_t)((cr && cr + 1 != lf ? cr : lf) + 1 - b->data);
    return true;
}

/* The value of a data line, or false for any other. One blank after the colon belongs to the syntax. */
static bool data_line(struct span line, struct span *value)
{
    if (line.n < 4 || memcmp(line.p, "data", 4) != 0 || (line.n > 4 && line.p[4] != ':'))
        return false;
    size_t skip = line.n > 4 ? 5 : 4;
    if (line.n > skip && line.p[skip] == ' ')
        skip++;
    *value = (struct span){line.p + skip, line.n - skip};
    return true;
}

/* Join with LF, as the standard says; only ever for events of more than one data line. */
static void join(struct frames *f, struct span first, struct span value, int lines)
{
    enum rc rc = RC_OK;
    if (lines == 1) {
        strbuf_clear(&f->joined);
        rc = strbuf_append(&f->joined, first.p, first.n);
    }
    if (rc == RC_OK)
        rc = strbuf_append(&f->joined, "\n", 1);
    if (rc == RC_OK)
        rc = strbuf_append(&f->joined, value.p, value.n);
    SPW_ASSERT(rc == RC_OK);
}

bool frames_next(struct frames *f, struct span *data)
{
    struct span line, value, first = {0};
    size_t next, from = f->at;
    int lines = 0;
    while (f->pending.len > from && take_line(&f->pending, from, &line, &next)) {
        from = next;
        if (line.n == 0) {
            f->at = from; /* the event has ended; an event without data is none */
            if (lines == 0)
                continue;
            *data = lines == 1 ? first : (struct span){f->joined.data, f->joined.len};
            return true;
        }
        if (!data_line(line, &value))
            continue;
        if (lines == 0)
            first = value;
        else
            join(f, first, value, lines);
        lines++;
    }
    return false;
}

bool frames_partial(const struct frames *f)
{
    for (size_t i = f->at; i < f->pending.len; i++) {
        if (f->pending.data[i] != '\n' && f->pending.data[i] != '\r')
            return true;
    }
    return false;
}
