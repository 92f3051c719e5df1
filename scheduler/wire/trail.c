#include "scheduler/wire/trail.h"

#include <string.h>

#define ID_DIGITS_MAX   10
#define VALUE_BYTES_MAX 4096

void trail_init(struct trail *t, enum trail_keep keep)
{
    memset(t, 0, sizeof(*t));
    t->keep = keep;
    strbuf_init(&t->id, VALUE_BYTES_MAX);
    strbuf_init(&t->created, VALUE_BYTES_MAX);
    strbuf_init(&t->ids, (size_t)TRAIL_IDS_MAX * (ID_DIGITS_MAX + 1));
    strbuf_init(&t->text, TRAIL_TEXT_MAX);
    t->ids_known = true;
    t->text_known = keep == TRAIL_TEXT;
}

void trail_fini(struct trail *t)
{
    strbuf_fini(&t->id);
    strbuf_fini(&t->created);
    strbuf_fini(&t->ids);
    strbuf_fini(&t->text);
}

void trail_reset(struct trail *t)
{
    enum trail_keep keep = t->keep;
    trail_fini(t);
    trail_init(t, keep);
}

bool trail_has_said(const struct trail *t)
{
    return t->n_ids > 0 || t->chunks > 0;
}

static bool is_id(struct span v)
{
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] < '0' || v.p[i] > '9')
            return false;
    }
    return v.n > 0 && v.n <= ID_DIGITS_MAX;
}

/* All of them or none: half a chunk's ids are as bad as none. */
static bool add_ids(struct trail *t, struct span ids)
{
    struct span id;
    struct scan s = scan_array(ids);
    while (scan_element(&s, &id)) {
        if (!is_id(id) || t->n_ids == TRAIL_IDS_MAX)
            return false;
        enum rc rc = t->n_ids ? strbuf_append(&t->ids, ",", 1) : RC_OK;
        if (rc == RC_OK)
            rc = strbuf_append(&t->ids, id.p, id.n);
        if (rc != RC_OK)
            return false;
        t->n_ids++;
    }
    return !s.failed;
}

static void keep_value(struct strbuf *b, struct span v)
{
    if (v.n && strbuf_append(b, v.p, v.n) != RC_OK) /* absurdly long: go on without */
        strbuf_clear(b);
}

/* A part of what has been said is as good as nothing of it. */
static void forget(struct strbuf *b, bool *known)
{
    size_t max = b->max;
    strbuf_fini(b);
    strbuf_init(b, max);
    *known = false;
}

void trail_take(struct trail *t, const struct trail_chunk *c)
{
    if (!t->begun) {
        t->begun = true;
        keep_value(&t->id, c->id);
        keep_value(&t->created, c->created);
    }
    if (c->ids.n && t->ids_known && !add_ids(t, c->ids))
        forget(&t->ids, &t->ids_known);
    t->chunks += c->contents;
    if (c->contents == 0)
        return;
    if (t->ids_known && !c->ids.n)
        forget(&t->ids, &t->ids_known);
    if (t->text_known && (!c->text.n || strbuf_append(&t->text, c->text.p + 1, c->text.n - 2) != RC_OK))
        forget(&t->text, &t->text_known);
}
