#include "scheduler/wire/scan.h"

#include <stdio.h>
#include <string.h>

static bool blank(char c)
{
    return (unsigned char)c <= ' ' && (c == ' ' || c == '\t' || c == '\n' || c == '\r');
}

/* What a number or word ends before. Digits, as nearly always, take one comparison. */
static bool ends_word(char c)
{
    if ((unsigned)(c - '0') <= 9)
        return false;
    return c == ',' || c == '}' || c == ']' || c == ':' || c == '{' || c == '[' || c == '"' || c == '\0';
}

static void skip_blanks(struct scan *s)
{
    while (s->at < s->end && blank(*s->at))
        s->at++;
}

static bool fail(struct scan *s)
{
    s->failed = true;
    s->at = s->end;
    return false;
}

/* Past the string literal at s->at: a quote ends it unless an odd number of backslashes stands before it. */
static bool skip_string(struct scan *s)
{
    const char *start = ++s->at;
    while (s->at < s->end) {
        const char *quote = memchr(s->at, '"', (size_t)(s->end - s->at)), *p = quote;
        if (!quote)
            break;
        while (p > start && p[-1] == '\\')
            p--;
        s->at = quote + 1;
        if ((quote - p) % 2 == 0)
            return true;
    }
    return fail(s);
}

/* Past the object or array at s->at. Depth is a number, not a stack: the kinds of brackets are compared only on the
 * outer level, by the caller's own walk. */
static bool skip_nested(struct scan *s)
{
    int depth = 0;
    while (s->at < s->end) {
        char c = *s->at;
        if (c == '"') {
            if (!skip_string(s))
                return false;
            continue;
        }
        s->at++;
        if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && --depth == 0)
            return true;
    }
    return fail(s);
}

static bool take_value(struct scan *s, struct span *value)
{
    skip_blanks(s);
    value->p = s->at;
    if (s->at == s->end)
        return fail(s);
    if (*s->at == '"') {
        if (!skip_string(s))
            return false;
    } else if (*s->at == '{' || *s->at == '[') {
        if (!skip_nested(s))
            return false;
    } else {
        while (s->at < s->end && !blank(*s->at) && !ends_word(*s->at))
            s->at++;
    }
    value->n = (size_t)(s->at - value->p);
    return value->n > 0 || fail(s);
}

static struct scan start(struct span text, char open, char close)
{
    struct scan s = {.close = close, .first = true};
    if (!text.n) { /* p may be NULL */
        s.failed = true;
        return s;
    }
    s.at = text.p;
    s.end = text.p + text.n;
    while (s.end > s.at && blank(s.end[-1]))
        s.end--;
    skip_blanks(&s);
    if (s.end - s.at < 2 || *s.at != open || s.end[-1] != close)
        fail(&s);
    else
        s.at++;
    return s;
}

struct scan scan_object(struct span text)
{
    return start(text, '{', '}');
}

struct scan scan_array(struct span text)
{
    return start(text, '[', ']');
}

/* To the start of the next member: past the comma, or false at the closing bracket, which must be the last byte. */
static bool next(struct scan *s)
{
    if (s->failed)
        return false;
    skip_blanks(s);
    if (s->at == s->end)
        return fail(s);
    if (*s->at == s->close) {
        if (s->at + 1 != s->end)
            return fail(s);
        return false;
    }
    if (!s->first) {
        if (*s->at != ',')
            return fail(s);
        s->at++;
        skip_blanks(s);
    }
    s->first = false;
    return true;
}

bool scan_member(struct scan *s, struct span *key, struct span *value)
{
    if (!next(s))
        return false;
    if (s->at == s->end || *s->at != '"')
        return fail(s);
    key->p = s->at + 1;
    if (!skip_string(s))
        return false;
    key->n = (size_t)(s->at - 1 - key->p);
    skip_blanks(s);
    if (s->at == s->end || *s->at != ':')
        return fail(s);
    s->at++;
    return take_value(s, value);
}

bool scan_element(struct scan *s, struct span *value)
{
    return next(s) && take_value(s, value);
}

struct span scan_find(struct span text, const char *key)
{
    struct span k, v, found = {0};
    struct scan s = scan_object(text);
    while (scan_member(&s, &k, &v)) {
        if (span_is(k, key))
            found = v;
    }
    if (s.failed)
        found.n = 0;
    return found;
}

bool tier_edit(const char *tier, struct span model, struct span there, char *put, struct edit *edit)
{
    bool null = there.n && span_is_null(there);
    if (!tier || (there.n && !null) || (!null && !span_is_string(model)))
        return false;
    int n = snprintf(put, TIER_EDIT_BYTES, null ? "\"%s\"" : ",\"service_tier\":\"%s\"", tier);
    *edit =
        null ? (struct edit){there.p, there.n, put, (size_t)n} : (struct edit){model.p + model.n, 0, put, (size_t)n};
    return true;
}

enum rc edits_apply(struct span text, struct edit *edits, int n, struct strbuf *out)
{
    const char *from = text.p, *end = text.p + text.n;
    size_t whole = text.n;
    for (int i = 0; i < n; i++) {
        whole += edits[i].put_n - edits[i].cut;
        for (int k = i; k > 0 && edits[k].at < edits[k - 1].at; k--) {
            struct edit swap = edits[k];
            edits[k] = edits[k - 1];
            edits[k - 1] = swap;
        }
    }
    enum rc rc = strbuf_reserve(out, whole); /* in one piece: to grow is to copy what may be a long prompt */
    for (int i = 0; i < n && rc == RC_OK; i++) {
        SPW_ASSERT(edits[i].at >= from && edits[i].cut <= (size_t)(end - edits[i].at));
        rc = strbuf_append(out, from, (size_t)(edits[i].at - from));
        if (rc == RC_OK)
            rc = strbuf_append(out, edits[i].put, edits[i].put_n);
        from = edits[i].at + edits[i].cut;
    }
    return rc == RC_OK ? strbuf_append(out, from, (size_t)(end - from)) : rc;
}
