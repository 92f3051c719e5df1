#include "engine/text/stop.h"

#include <stdlib.h>
#include <string.h>

struct stop_string {
    char *text;     /* owned */
    uint16_t *back; /* owned; Knuth-Morris-Pratt: length of the longest border of text[0..i] */
    size_t len;
    size_t matched; /* bytes of text that the input ends with */
};

struct stop {
    struct stop_string strings[STOP_STRINGS_MAX];
    size_t n;
    char held[STOP_BYTES_MAX]; /* the last n_held bytes of the input, not yet let out */
    size_t n_held;
    int hit;
    enum stop_mode mode;
};

static void prepare(struct stop_string *s, struct text_span text)
{
    size_t border = 0;

    s->len = text.len;
    s->text = spw_strndup(text.ptr, text.len);
    s->back = spw_calloc(text.len, sizeof(*s->back));
    for (size_t i = 1; i < text.len; i++) {
        while (border > 0 && text.ptr[i] != text.ptr[border])
            border = s->back[border - 1];
        if (text.ptr[i] == text.ptr[border])
            border++;
        s->back[i] = (uint16_t)border;
    }
}

enum rc stop_new(const struct text_span *strings, size_t n, struct stop **stop, struct error *e)
{
    *stop = NULL;
    if (n > STOP_STRINGS_MAX)
        return error_set(e, RC_INVALID, "stop has %zu strings; the limit is %d", n, STOP_STRINGS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (strings[i].len == 0)
            return error_set(e, RC_INVALID, "stop string %zu is empty", i);
        if (strings[i].len > STOP_BYTES_MAX)
            return error_set(e, RC_INVALID, "stop string %zu has %zu bytes; the limit is %d", i, strings[i].len,
                             STOP_BYTES_MAX);
        if (memchr(strings[i].ptr, 0, strings[i].len))
            return error_set(e, RC_INVALID, "stop string %zu holds a NUL byte", i);
    }
    struct stop *s = spw_calloc(1, sizeof(*s));
    s->n = n;
    s->hit = -1;
    for (size_t i = 0; i < n; i++)
        prepare(&s->strings[i], strings[i]);
    *stop = s;
    return RC_OK;
}

void stop_free(struct stop *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++) {
        free(s->strings[i].text);
        free(s->strings[i].back);
    }
    free(s);
}

void stop_set_mode(struct stop *s, enum stop_mode mode)
{
    s->mode = mode;
}

/* One more byte of input for one string. */
static void advance(struct stop_string *s, char c)
{
    while (s->matched > 0 && s->text[s->matched] != c)
        s->matched = s->back[s->matched - 1];
    if (s->text[s->matched] == c)
        s->matched++;
}

/* Let the oldest held bytes out until `keep` are left. */
static enum rc release(struct stop *s, size_t keep, struct strbuf *out)
{
    if (s->n_held <= keep)
        return RC_OK;
    size_t n = s->n_held - keep;
    enum rc rc = strbuf_append(out, s->held, n);
    memmove(s->held, s->held + n, keep);
    s->n_held = keep;
    return rc;
}

/* Held bytes are exactly the longest beginning of a stop string that the input ends with. They are let out only when
 * that shrinks, so a byte is moved once for each byte that follows it in such a beginning; out gets whole runs. */
enum rc stop_push(struct stop *s, const char *text, size_t n, struct strbuf *out, int *hit)
{
    enum rc rc = RC_OK;

    *hit = s->hit;
    if (s->n == 0)
        return strbuf_append(out, text, n);
    for (size_t i = 0; i < n && s->hit < 0 && rc == RC_OK; i++) {
        size_t keep = 0;
        for (size_t k = 0; k < s->n; k++) {
            struct stop_string *t = &s->strings[k];
            advance(t, text[i]);
            if (t->matched == t->len && s->mode == STOP_IGNORES)
                t->matched = t->back[t->len - 1]; /* the next one may begin within this one */
            if (t->matched == t->len && (s->hit < 0 || t->len > s->strings[s->hit].len))
                s->hit = (int)k;
            if (t->matched > keep)
                keep = t->matched;
        }
        if (s->hit >= 0) /* drop the string itself; what came before it is text */
            keep = s->strings[s->hit].len - 1;
        rc = release(s, keep > 0 && s->hit < 0 ? keep - 1 : keep, out);
        if (s->hit >= 0)
            s->n_held = 0;
        else if (keep > 0)
            s->held[s->n_held++] = text[i];
        else if (rc == RC_OK)
            rc = strbuf_append(out, &text[i], 1);
    }
    *hit = s->hit;
    return rc;
}

enum rc stop_finish(struct stop *s, struct strbuf *out)
{
    return s->hit < 0 ? release(s, 0, out) : RC_OK;
}

size_t stop_held(const struct stop *s)
{
    return s->n_held;
}
