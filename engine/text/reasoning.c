#include "engine/text/reasoning.h"

#include <string.h>

static const char open_tag[] = "<think>", close_tag[] = "</think>";

void reasoning_init(struct reasoning *r, enum reasoning_start start)
{
    *r = (struct reasoning){.state = start == REASONING_INSIDE    ? REASONING_STATE_INSIDE_START
                                     : start == REASONING_OUTSIDE ? REASONING_STATE_OUTSIDE_START
                                                                  : REASONING_STATE_CONTENT};
}

bool reasoning_inside(const struct reasoning *r)
{
    return r->state == REASONING_STATE_INSIDE_START || r->state == REASONING_STATE_INSIDE;
}

static enum rc put_newlines(struct reasoning *r, struct strbuf *out)
{
    enum rc rc = RC_OK;

    for (; r->newlines && rc == RC_OK; r->newlines--)
        rc = strbuf_append(out, "\n", 1);
    return rc;
}

/* What was held is text after all: it goes to the side that the state says. */
static enum rc put_held(struct reasoning *r, struct strbuf *reasoning, struct strbuf *content)
{
    struct strbuf *out = reasoning_inside(r) ? reasoning : content;
    enum rc rc = RC_OK;

    if (r->n_held == 0)
        return RC_OK;
    if (r->state == REASONING_STATE_INSIDE || r->state == REASONING_STATE_OUTSIDE_START)
        rc = put_newlines(r, out);
    r->newlines = 0;
    r->state = reasoning_inside(r) ? REASONING_STATE_INSIDE : REASONING_STATE_CONTENT;
    if (rc == RC_OK)
        rc = strbuf_append(out, r->held, r->n_held);
    r->n_held = 0;
    return rc;
}

/* The tag that may begin or go on with c in this state, or NULL. */
static const char *tag_for(const struct reasoning *r, char c)
{
    const char *tags[2] = {NULL, NULL};

    if (r->state == REASONING_STATE_OUTSIDE_START || r->state == REASONING_STATE_INSIDE_START)
        tags[0] = open_tag; /* models whose prompt opened the block sometimes open it again */
    if (reasoning_inside(r))
        tags[1] = close_tag;
    for (int i = 0; i < 2; i++)
        if (tags[i] && memcmp(tags[i], r->held, r->n_held) == 0 && tags[i][r->n_held] == c)
            return tags[i];
    return NULL;
}

static enum rc push_char(struct reasoning *r, char c, struct strbuf *reasoning, struct strbuf *content)
{
    const char *tag = tag_for(r, c);
    enum rc rc;

    if (tag) {
        r->held[r->n_held++] = c;
        if (tag[r->n_held] != '\0')
            return RC_OK;
        r->state = tag == open_tag ? REASONING_STATE_INSIDE_START : REASONING_STATE_AFTER_TAG;
        r->n_held = 0;
        r->newlines = 0;
        return RC_OK;
    }
    if (r->n_held) { /* not a tag; c may begin one */
        if ((rc = put_held(r, reasoning, content)) != RC_OK)
            return rc;
        return push_char(r, c, reasoning, content);
    }
    if (c == '\n' && r->state != REASONING_STATE_CONTENT) {
        r->newlines++;
        return RC_OK;
    }
    r->held[r->n_held++] = c;
    return put_held(r, reasoning, content);
}

enum rc reasoning_push(struct reasoning *r, const char *text, size_t n, struct strbuf *reasoning,
                       struct strbuf *content)
{
    enum rc rc = RC_OK;

    for (size_t i = 0; i < n && rc == RC_OK; i++) {
        if (r->state == REASONING_STATE_CONTENT)
            return strbuf_append(content, text + i, n - i);
        rc = push_char(r, text[i], reasoning, content);
    }
    return rc;
}

enum rc reasoning_finish(struct reasoning *r, struct strbuf *reasoning, struct strbuf *content)
{
    enum rc rc = put_held(r, reasoning, content);

    if (rc == RC_OK && (r->state == REASONING_STATE_INSIDE || r->state == REASONING_STATE_OUTSIDE_START))
        rc = put_newlines(r, reasoning_inside(r) ? reasoning : content);
    r->newlines = 0;
    return rc;
}
