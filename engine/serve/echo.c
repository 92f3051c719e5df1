#include "engine/serve/echo.h"

#include <stdlib.h>
#include <string.h>

#include "engine/serve/api.h"

static enum rc put_text(struct strbuf *b, const struct vocab *v, const int32_t *ids, int32_t n)
{
    struct detok d;
    enum rc rc = RC_OK;
    detok_init(&d, v, DETOK_TEXT_START);
    for (int32_t i = 0; i < n && !rc; i++)
        rc = detok_push(&d, ids[i], b);
    return rc ? rc : detok_finish(&d, b);
}

enum rc echo_new(const struct vocab *v, const char *text, const int32_t *ids, int32_t n, bool want_samples,
                 struct echo **out)
{
    struct echo *o = spw_calloc(1, sizeof *o);
    strbuf_init(&o->text, ANSWER_BYTES_MAX);
    enum rc rc = text ? strbuf_puts(&o->text, text) : put_text(&o->text, v, ids, n);
    if (rc) {
        echo_free(o);
        return rc;
    }
    o->characters = api_characters(o->text.len ? o->text.data : "", o->text.len);
    o->n = n;
    if (want_samples) {
        o->ids = spw_calloc((size_t)n, sizeof *o->ids);
        memcpy(o->ids, ids, (size_t)n * sizeof *ids);
    }
    *out = o;
    return RC_OK;
}

void echo_free(struct echo *o)
{
    if (!o)
        return;
    strbuf_fini(&o->text);
    free(o->ids);
    free(o->samples);
    free(o);
}

void echo_tell(struct echo *o, const struct sample *samples)
{
    SPW_ASSERT(!o->samples);
    o->samples = spw_calloc((size_t)o->n, sizeof *o->samples);
    memcpy(o->samples + 1, samples, (size_t)(o->n - 1) * sizeof *samples);
}

enum rc echo_before(const struct echo *o, const struct batch_output *out, struct batch_output *with)
{
    *with = *out;
    with->echo_characters = o->characters;
    strbuf_init(&with->content, 2 * ANSWER_BYTES_MAX);
    if (o->samples) {
        with->n_echo = o->n;
        with->n_ids += o->n;
    }
    with->ids = spw_calloc((size_t)with->n_ids + 1, sizeof *with->ids);
    with->samples = NULL;
    if (out->n_ids)
        memcpy(with->ids + with->n_echo, out->ids, (size_t)out->n_ids * sizeof *with->ids);
    if (o->samples) {
        with->samples = spw_calloc((size_t)with->n_ids, sizeof *with->samples);
        memcpy(with->ids, o->ids, (size_t)o->n * sizeof *with->ids);
        memcpy(with->samples, o->samples, (size_t)o->n * sizeof *with->samples);
        if (out->n_ids)
            memcpy(with->samples + o->n, out->samples, (size_t)out->n_ids * sizeof *with->samples);
    }
    enum rc rc = strbuf_append(&with->content, o->text.len ? o->text.data : "", o->text.len);
    if (!rc && out->content.len)
        rc = strbuf_append(&with->content, out->content.data, out->content.len);
    return rc;
}

void echo_before_fini(struct batch_output *with)
{
    strbuf_fini(&with->content);
    free(with->ids);
    free(with->samples);
}
