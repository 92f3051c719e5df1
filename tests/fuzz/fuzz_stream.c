/* A node's stream, taken once by the shape of the chunks before and once with care and in other cuts: the client gets
 * the same bytes, the same is counted and remembered, and it ends the same way. First byte: how the input is cut.
 * links: spw_sched_front */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/wire/stream.h"

struct run {
    struct stream stream;
    struct trail trail;
    struct strbuf out;
    enum stream_status status;
};

static void run_init(struct run *r, const char *model, const char *tier)
{
    stream_init(&r->stream, model, true);
    stream_say_tier(&r->stream, tier);
    trail_init(&r->trail, TRAIL_TEXT);
    stream_follow(&r->stream, &r->trail, NULL);
    strbuf_init(&r->out, (size_t)16 << 20);
    r->status = STREAM_MORE;
}

static void run_fini(struct run *r)
{
    stream_fini(&r->stream);
    trail_fini(&r->trail);
    strbuf_fini(&r->out);
}

static void run_feed(struct run *r, const char *data, size_t n, size_t step)
{
    for (size_t at = 0; at < n && r->status == STREAM_MORE; at += step)
        r->status = stream_feed(&r->stream, data + at, n - at < step ? n - at : step, &r->out);
    if (r->status == STREAM_MORE)
        r->status = stream_eof(&r->stream, &r->out);
}

static bool same(const struct strbuf *a, const struct strbuf *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct run fast, careful;
    const char *model = data[0] & 1 ? "shown" : NULL, *tier = data[0] & 2 ? "flex" : NULL;
    const char *text = (const char *)data + 1;
    run_init(&fast, model, tier);
    run_init(&careful, model, tier);
    careful.stream.pattern.misses = PATTERN_MISSES_MAX; /* it never learns one */
    run_feed(&fast, text, size - 1, size);
    run_feed(&careful, text, size - 1, 1 + (size_t)(data[0] >> 1));
    SPW_ASSERT(fast.status == careful.status);
    SPW_ASSERT(same(&fast.out, &careful.out) && same(&fast.stream.held, &careful.stream.held));
    SPW_ASSERT(fast.stream.content_chunks == careful.stream.content_chunks);
    SPW_ASSERT(fast.stream.tokens == careful.stream.tokens && fast.stream.pieces == careful.stream.pieces);
    SPW_ASSERT(fast.stream.finished == careful.stream.finished && fast.stream.done == careful.stream.done);
    SPW_ASSERT(fast.trail.n_ids == careful.trail.n_ids && fast.trail.chunks == careful.trail.chunks);
    SPW_ASSERT(fast.trail.text_known == careful.trail.text_known && same(&fast.trail.text, &careful.trail.text));
    run_fini(&fast);
    run_fini(&careful);
    return 0;
}
