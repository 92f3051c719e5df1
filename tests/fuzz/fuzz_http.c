/* Fuzzes the HTTP/1.1 parser. First byte: the kind of message, and how the input is cut. The events (heads, bodies
 * joined, ends, the refusal) of the cut input must be those of the whole, a HTTP_BODY must lie inside the input, and
 * what is taken as a head must be well-formed.
 * links: spw_base */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/http_parse.h"

static const struct http_limits limits = {.head_bytes_max = 2048, .headers_max = 16, .body_bytes_max = 4096};

static void check_head(const struct http_parser *p, enum http_kind kind)
{
    const struct http_head *h = http_parser_head(p);
    SPW_ASSERT(h->n_headers <= limits.headers_max && (h->minor == 0 || h->minor == 1));
    SPW_ASSERT(!h->chunked || h->content_length < 0);
    int hosts = 0;
    for (int i = 0; i < h->n_headers; i++) {
        SPW_ASSERT(*h->headers[i].name && !strpbrk(h->headers[i].name, " \t\r\n:"));
        SPW_ASSERT(!strpbrk(h->headers[i].value, "\r\n"));
        hosts += strcasecmp(h->headers[i].name, "Host") == 0;
    }
    if (kind == HTTP_REQUEST) {
        SPW_ASSERT(*h->method && (*h->target == '/' || strcmp(h->target, "*") == 0));
        SPW_ASSERT(!strpbrk(h->target, " \r\n#"));
        SPW_ASSERT(hosts == 1 || (hosts == 0 && h->minor == 0));
    } else {
        SPW_ASSERT(h->status >= 200 && h->status <= 599);
    }
}

static void tell_head(struct strbuf *story, const struct http_parser *p)
{
    const struct http_head *h = http_parser_head(p);
    (void)!strbuf_printf(story, "H%s %s %d %d %d %d %d %lld", h->method, h->target ? h->target : "", h->status,
                         h->minor, h->keep_alive, h->expect_continue, h->chunked, (long long)h->content_length);
    for (int i = 0; i < h->n_headers; i++)
        (void)!strbuf_printf(story, "|%s=%s", h->headers[i].name, h->headers[i].value);
}

/* False: refused. */
static bool feed(struct http_parser *p, enum http_kind kind, const char *in, size_t n, struct strbuf *story)
{
    const char *data = NULL, *text = NULL;
    size_t used, n_data = 0;
    for (;;) {
        enum http_event ev = http_parser_feed(p, in, n, &used, &data, &n_data);
        SPW_ASSERT(used <= n);
        switch (ev) {
        case HTTP_HEAD:
            check_head(p, kind);
            tell_head(story, p);
            break;
        case HTTP_BODY:
            SPW_ASSERT(n_data > 0 && data >= in && data + n_data <= in + n);
            (void)!strbuf_append(story, data, n_data);
            break;
        case HTTP_END:
            (void)!strbuf_puts(story, "E");
            http_parser_reset(p);
            if (used == n)
                return true;
            break;
        case HTTP_NEED_MORE: SPW_ASSERT(used == n); return true;
        case HTTP_ERROR: (void)!strbuf_printf(story, "!%d", http_parser_error(p, &text)); return false;
        }
        in += used;
        n -= used;
    }
}

static void run(enum http_kind kind, const char *in, size_t n, unsigned cut, struct strbuf *story)
{
    struct http_parser *p = http_parser_new(kind, &limits);
    bool ok = true;
    for (size_t at = 0; at < n && ok;) {
        size_t piece = cut ? 1 + cut % 13 : n;
        cut = cut ? cut * 1103515245u + 12345u : 0;
        cut = cut % 13 == 12 ? cut + 1 : cut;
        if (piece > n - at)
            piece = n - at;
        ok = feed(p, kind, in + at, piece, story);
        at += piece;
    }
    if (ok)
        (void)!strbuf_printf(story, "eof%d", (int)http_parser_eof(p));
    http_parser_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 1 << 16)
        return 0;
    enum http_kind kind = data[0] & 1 ? HTTP_REQUEST : HTTP_RESPONSE;
    struct strbuf whole, pieces;
    strbuf_init(&whole, 1 << 20);
    strbuf_init(&pieces, 1 << 20);
    run(kind, (const char *)data + 1, size - 1, 0, &whole);
    run(kind, (const char *)data + 1, size - 1, 1 + (data[0] >> 1), &pieces);
    SPW_ASSERT(whole.len == pieces.len && (whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0));
    strbuf_fini(&whole);
    strbuf_fini(&pieces);
    return 0;
}
