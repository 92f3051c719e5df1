#include "engine/serve/answer.h"

#include <stdlib.h>

enum rc answer_new(const struct answer_options *o, struct answer **out, struct error *e)
{
    struct stop *stop;
    enum rc rc = stop_new(o->stop, o->n_stop, &stop, e);
    if (rc)
        return rc;
    struct answer *a = spw_calloc(1, sizeof *a);
    a->options = *o;
    a->options.stop = NULL; /* copied into `stop`; the caller's array need not live on */
    a->stop = stop;
    detok_init(&a->detok, o->vocab, DETOK_PLAIN);
    reasoning_init(&a->split, o->reasoning);
    strbuf_init(&a->content, ANSWER_BYTES_MAX);
    strbuf_init(&a->reasoning, ANSWER_BYTES_MAX);
    strbuf_init(&a->decoded, ANSWER_BYTES_MAX);
    strbuf_init(&a->passed, ANSWER_BYTES_MAX);
    *out = a;
    return RC_OK;
}

void answer_free(struct answer *a)
{
    if (!a)
        return;
    stop_free(a->stop);
    strbuf_fini(&a->content);
    strbuf_fini(&a->reasoning);
    strbuf_fini(&a->decoded);
    strbuf_fini(&a->passed);
    free(a);
}

static bool is_end(const struct answer *a, int32_t id)
{
    for (size_t i = 0; i < a->options.n_end_ids; i++)
        if (a->options.end_ids[i] == id)
            return true;
    return false;
}

/* Pass what is in `decoded` on towards the reader. */
static enum rc pass_on(struct answer *a)
{
    int hit = -1;
    strbuf_clear(&a->passed);
    stop_set_mode(a->stop, a->n_tokens > a->options.min_tokens ? STOP_HEEDS : STOP_IGNORES);
    enum rc rc = stop_push(a->stop, a->decoded.data ? a->decoded.data : "", a->decoded.len, &a->passed, &hit);
    if (rc == RC_OK && a->passed.len)
        rc = reasoning_push(&a->split, a->passed.data, a->passed.len, &a->reasoning, &a->content);
    if (rc == RC_OK && hit >= 0) {
        a->state = ANSWER_ENDED;
        rc = reasoning_finish(&a->split, &a->reasoning, &a->content);
    }
    return rc;
}

/* The stream has ended without a stop string: let go of what each stage holds back. */
static enum rc let_go(struct answer *a)
{
    strbuf_clear(&a->decoded);
    enum rc rc = detok_finish(&a->detok, &a->decoded);
    if (rc == RC_OK)
        rc = pass_on(a);
    if (rc || a->state == ANSWER_ENDED)
        return rc;
    strbuf_clear(&a->passed);
    rc = stop_finish(a->stop, &a->passed);
    if (rc == RC_OK && a->passed.len)
        rc = reasoning_push(&a->split, a->passed.data, a->passed.len, &a->reasoning, &a->content);
    if (rc == RC_OK)
        rc = reasoning_finish(&a->split, &a->reasoning, &a->content);
    return rc;
}

static enum rc explain(enum rc rc, struct error *e)
{
    if (rc == RC_FULL)
        return error_set(e, rc, "the answer's text passes %zu MiB", ANSWER_BYTES_MAX >> 20);
    if (rc)
        return error_set(e, rc, "the model chose an id outside its vocabulary");
    return RC_OK;
}

enum rc answer_push(struct answer *a, int32_t id, struct error *e)
{
    SPW_ASSERT(a->state == ANSWER_OPEN);
    bool thinking = reasoning_inside(&a->split);
    a->n_tokens++;
    if (!a->options.ignore_end && is_end(a, id)) {
        a->n_reasoning += thinking;
        enum rc rc = let_go(a);
        a->state = ANSWER_ENDED;
        return explain(rc, e);
    }
    strbuf_clear(&a->decoded);
    enum rc rc = detok_push(&a->detok, id, &a->decoded);
    if (rc == RC_OK && a->decoded.len)
        rc = pass_on(a);
    a->n_reasoning += thinking || reasoning_inside(&a->split);
    return explain(rc, e);
}

enum rc answer_finish(struct answer *a, struct error *e)
{
    if (a->state == ANSWER_ENDED)
        return RC_OK;
    enum rc rc = let_go(a);
    a->state = ANSWER_ENDED;
    return explain(rc, e);
}
