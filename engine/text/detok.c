/* Token ids back to text, one at a time, without ever cutting a character. */
#include <string.h>

#include "engine/text/text_internal.h"

static const char replacement[] = "\xEF\xBF\xBD";

void detok_init(struct detok *d, const struct vocab *v, unsigned flags)
{
    *d = (struct detok){.vocab = v, .flags = flags};
    d->strip_space = (flags & DETOK_TEXT_START) && v->add_space_prefix;
}

/* Length that the first byte of a sequence announces; 0: it cannot be one. */
static int announced(unsigned char c)
{
    return c < 0x80 ? 1 : c >= 0xC2 && c <= 0xDF ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
}

/* May byte c come next in the sequence begun by held[0..n)? n >= 1. (Unicode table 3-7.) */
static bool continues(const unsigned char *held, int n, unsigned char c)
{
    if ((c & 0xC0) != 0x80)
        return false;
    if (n > 1)
        return true;
    switch (held[0]) {
    case 0xE0: return c >= 0xA0;
    case 0xED: return c < 0xA0;
    case 0xF0: return c >= 0x90;
    case 0xF4: return c < 0x90;
    default: return true;
    }
}

static enum rc push_byte(struct detok *d, unsigned char c, struct strbuf *out)
{
    enum rc rc;

    if (d->n_held && continues(d->held, d->n_held, c)) {
        d->held[d->n_held++] = c;
        if (d->n_held < announced(d->held[0]))
            return RC_OK;
        rc = strbuf_append(out, d->held, (size_t)d->n_held);
        d->n_held = 0;
        return rc;
    }
    if ((rc = detok_finish(d, out)) != RC_OK)
        return rc;
    switch (announced(c)) {
    case 0: return strbuf_append(out, replacement, 3);
    case 1: return strbuf_append(out, &c, 1);
    default: d->held[d->n_held++] = c; return RC_OK;
    }
}

enum rc detok_push(struct detok *d, int32_t id, struct strbuf *out)
{
    const struct vocab *v = d->vocab;
    enum rc rc = RC_OK;

    if (!vocab_has(v, id))
        return RC_INVALID;
    bool reserved = v->type[id] == TOKEN_TYPE_CONTROL || v->type[id] == TOKEN_TYPE_USER_DEFINED ||
                    v->type[id] == TOKEN_TYPE_UNKNOWN;
    struct text_span s = string_at(&v->bytes, id);
    bool stripped = d->strip_space && !reserved && s.len && s.ptr[0] == ' ';

    /* The tokenizer puts a space behind every special token too. */
    d->strip_space = (d->flags & DETOK_TEXT_START) && v->add_space_prefix && reserved;
    if ((v->bits[id] & TOKEN_HIDDEN) && !(d->flags & DETOK_SHOW_SPECIAL))
        return RC_OK;
    for (size_t i = stripped ? 1 : 0; i < s.len && rc == RC_OK; i++)
        rc = push_byte(d, (unsigned char)s.ptr[i], out);
    return rc;
}

enum rc detok_finish(struct detok *d, struct strbuf *out)
{
    if (d->n_held == 0)
        return RC_OK;
    d->n_held = 0;
    return strbuf_append(out, replacement, 3);
}
