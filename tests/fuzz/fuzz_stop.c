/* Stop strings (heeded from the beginning or after some bytes) and the reasoning splitter over wild streams: what comes
 * out does not depend on how the stream was cut, and without a hit nothing is lost.
 * links: spw_engine_text */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/reasoning.h"
#include "engine/text/stop.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int run_stop(const struct text_span *strings, size_t n_strings, size_t ignored, const char *text, size_t n,
                    size_t piece, struct strbuf *out)
{
    struct stop *s;
    struct error e;
    int hit = -1;

    if (stop_new(strings, n_strings, &s, &e) != RC_OK)
        return -2;
    for (size_t at = 0, len; at < n; at += len) {
        len = least(piece, at < ignored ? least(ignored, n) - at : n - at);
        stop_set_mode(s, at < ignored ? STOP_IGNORES : STOP_HEEDS);
        if (stop_push(s, text + at, len, out, &hit) != RC_OK)
            abort();
        if (hit >= 0 && at + len <= ignored)
            abort();
    }
    if (stop_finish(s, out) != RC_OK)
        abort();
    stop_free(s);
    return hit;
}

static void run_reasoning(enum reasoning_start start, const char *text, size_t n, size_t piece, struct strbuf *both)
{
    struct strbuf content;
    struct reasoning r;

    strbuf_init(&content, 1 << 20);
    reasoning_init(&r, start);
    for (size_t at = 0; at < n; at += piece)
        if (reasoning_push(&r, text + at, n - at < piece ? n - at : piece, both, &content) != RC_OK)
            abort();
    if (reasoning_finish(&r, both, &content) != RC_OK || strbuf_append(both, "#", 1) != RC_OK ||
        strbuf_append(both, content.data ? content.data : "", content.len) != RC_OK)
        abort();
    strbuf_fini(&content);
}

static bool same(const struct strbuf *a, const struct strbuf *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct text_span strings[4];
    struct strbuf a, b;
    size_t n_strings, at = 2;

    if (n < 2 || n > 1 << 14)
        return 0;
    n_strings = data[0] & 3;
    for (size_t i = 0; i < n_strings; i++) {
        size_t len = at < n ? data[at++] & 7 : 0;
        if (len > n - at)
            len = n - at;
        strings[i] = (struct text_span){(const char *)data + at, len};
        at += len;
    }
    const char *text = (const char *)data + at;
    strbuf_init(&a, 1 << 20);
    strbuf_init(&b, 1 << 20);
    size_t ignored = data[0] >> 3; /* 0 to 31 */
    int hit = run_stop(strings, n_strings, ignored, text, n - at, n, &a);
    if (run_stop(strings, n_strings, ignored, text, n - at, 1 + data[1] % 5, &b) != hit || !same(&a, &b))
        abort();
    if (hit == -1 && (a.len != n - at || (a.len && memcmp(a.data, text, a.len) != 0)))
        abort();
    strbuf_clear(&a);
    strbuf_clear(&b);
    run_reasoning(data[0] >> 2 & 1 ? REASONING_INSIDE : REASONING_OUTSIDE, text, n - at, n, &a);
    run_reasoning(data[0] >> 2 & 1 ? REASONING_INSIDE : REASONING_OUTSIDE, text, n - at, 1 + data[1] % 5, &b);
    if (!same(&a, &b))
        abort();
    strbuf_fini(&a);
    strbuf_fini(&b);
    return 0;
}
