#include "scheduler/wire/pattern.h"

#include <string.h>

void pattern_init(struct pattern *p)
{
    *p = (struct pattern){0};
    strbuf_init(&p->text, PATTERN_BYTES_MAX);
}

void pattern_fini(struct pattern *p)
{
    strbuf_fini(&p->text);
    p->known = false;
}

void pattern_learn(struct pattern *p, struct span text, struct span literal, struct span put, size_t put_at)
{
    const struct span parts[4] = {
        {text.p, (size_t)(literal.p - text.p)},
        {literal.p + literal.n, (size_t)(text.p + text.n - (literal.p + literal.n))},
        {put.p, put_at},
        {put.p + put_at + literal.n, put.n - put_at - literal.n},
    };
    enum rc rc = strbuf_reserve(&p->text, text.n + put.n); /* in one piece */

    strbuf_clear(&p->text);
    for (int i = 0; i < 4 && rc == RC_OK; i++) {
        p->n[i] = parts[i].n;
        rc = strbuf_append(&p->text, parts[i].p, parts[i].n);
    }
    p->known = rc == RC_OK;
}

/* One string from the first byte to the last: no quote inside but behind an odd number of backslashes, and no line end,
 * which an event stream must not have there. */
static bool is_one_literal(struct span s)
{
    const char *at = s.p + 1, *end = s.p + s.n - 1;

    if (s.n < 3 || s.p[0] != '"' || *end != '"' || memchr(s.p, '\n', s.n))
        return false;
    for (;;) {
        const char *quote = memchr(at, '"', (size_t)(end + 1 - at)), *p = quote;
        while (p > s.p + 1 && p[-1] == '\\')
            p--;
        if ((quote - p) % 2 == 0)
            return quote == end;
        if (quote == end)
            return false;
        at = quote + 1;
    }
}

bool pattern_match(struct pattern *p, struct span text, struct span *literal)
{
    size_t around = p->n[0] + p->n[1];

    if (!p->known)
        return false;
    const char *head = p->text.data, *tail = head + p->n[0];
    *literal = (struct span){text.p + p->n[0], text.n - around};
    if (text.n > around && memcmp(text.p, head, p->n[0]) == 0 &&
        memcmp(text.p + text.n - p->n[1], tail, p->n[1]) == 0 && is_one_literal(*literal)) {
        p->misses = 0;
        return true;
    }
    p->misses++;
    return false;
}

enum rc pattern_write(const struct pattern *p, struct span literal, struct strbuf *out)
{
    const char *head = p->text.data + p->n[0] + p->n[1];
    enum rc rc = strbuf_reserve(out, p->n[2] + literal.n + p->n[3]);

    if (rc != RC_OK)
        return rc;
    char *at = out->data + out->len;
    memcpy(at, head, p->n[2]);
    memcpy(at + p->n[2], literal.p, literal.n);
    memcpy(at + p->n[2] + literal.n, head + p->n[2], p->n[3]);
    out->len += p->n[2] + literal.n + p->n[3];
    out->data[out->len] = '\0';
    return RC_OK;
}
