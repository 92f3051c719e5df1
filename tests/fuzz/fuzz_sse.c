/* Fuzzes the event stream splitter. First byte: how the input is cut. Frames must not depend on the cuts, must be
 * within the bound, must end in a blank line, and together must be the input (less the one dropped LF sse.h speaks of).
 * links: spw_base */
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "base/sse.h"

#define FRAME_MAX 64

struct story {
    struct strbuf text, raw;
};

static enum rc note(const struct sse_frame *f, void *arg)
{
    struct story *s = arg;
    SPW_ASSERT(f->raw_len > 0 && f->raw_len <= FRAME_MAX);
    char last = f->raw[f->raw_len - 1];
    SPW_ASSERT(last == '\n' || last == '\r');
    SPW_ASSERT(f->has_data || f->data_len == 0);
    SPW_ASSERT(f->data_len <= f->raw_len && !memchr(f->data, '\r', f->data_len));
    SPW_ASSERT(!memchr(f->event, '\n', f->event_len));
    (void)!strbuf_printf(&s->text, "[%zu %d %zu %zu:", f->raw_len, f->has_data, f->data_len, f->event_len);
    (void)!strbuf_append(&s->text, f->data, f->data_len);
    (void)!strbuf_append(&s->text, f->event, f->event_len);
    (void)!strbuf_append(&s->raw, f->raw, f->raw_len);
    return RC_OK;
}

static void run(const char *in, size_t n, unsigned cut, struct story *story)
{
    strbuf_init(&story->text, 1 << 22);
    strbuf_init(&story->raw, 1 << 22);
    struct sse *s = sse_new(FRAME_MAX);
    enum rc rc = RC_OK;
    for (size_t at = 0; at < n && rc == RC_OK;) {
        size_t piece = cut ? 1 + cut % 7 : n;
        cut = cut ? (cut * 1103515245u + 12345u) | 1 : 0;
        if (piece > n - at)
            piece = n - at;
        rc = sse_feed(s, in + at, piece, note, story);
        at += piece;
    }
    if (rc == RC_OK)
        rc = sse_finish(s, note, story);
    (void)!strbuf_printf(&story->text, "=%d", (int)rc);
    sse_free(s);
}

static void fini(struct story *s)
{
    strbuf_fini(&s->text);
    strbuf_fini(&s->raw);
}

/* Less all LFs, raw is a prefix of in: only an LF may ever be dropped. */
static void check_bytes(const struct strbuf *raw, const char *in, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < raw->len; i++) {
        if (raw->data[i] == '\n')
            continue;
        while (at < n && in[at] == '\n')
            at++;
        SPW_ASSERT(at < n && raw->data[i] == in[at]);
        at++;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 1 << 14)
        return 0;
    struct story whole, pieces;
    const char *in = (const char *)data + 1;
    run(in, size - 1, 0, &whole);
    run(in, size - 1, 1 + data[0], &pieces);
    SPW_ASSERT(whole.text.len == pieces.text.len && memcmp(whole.text.data, pieces.text.data, whole.text.len) == 0);
    SPW_ASSERT(whole.raw.len == pieces.raw.len &&
               (whole.raw.len == 0 || memcmp(whole.raw.data, pieces.raw.data, whole.raw.len) == 0));
    check_bytes(&whole.raw, in, size - 1);
    fini(&whole);
    fini(&pieces);
    return 0;
}
