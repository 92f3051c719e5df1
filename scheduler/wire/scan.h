/* Places in JSON text, without a tree and without memory: which bytes are the value of which key. For splicing a
 * request or a chunk instead of printing it anew, so that what we do not know passes through untouched.
 *
 * A scan checks only what it walks over: brackets and quotes must balance; what a number or word looks like is not its
 * business. Requests are parsed strictly before they are scanned; of chunks from nodes a broken one fails the scan.
 * Keys are compared as written: a key that hides behind escapes is another key. */
#ifndef SCHEDULER_WIRE_SCAN_H
#define SCHEDULER_WIRE_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"

struct span {
    const char *p; /* borrowed */
    size_t n;
};

struct scan {
    const char *at, *end;
    char close;         /* '}' or ']' */
    bool first, failed; /* failed: the text is broken; no more members come */
};

/* Start on the object or array that fills `text` (blanks around it are fine). Anything else: failed at once. */
struct scan scan_object(struct span text);
struct scan scan_array(struct span text);
/* The next member; false at the end or when it failed. key: inside its quotes, raw. value: without blanks around it. */
bool scan_member(struct scan *s, struct span *key, struct span *value);
bool scan_element(struct scan *s, struct span *value);

/* Value of `key` in the object `text`; n 0 when it is missing or the text is broken. */
struct span scan_find(struct span text, const char *key);

/* Here and not in scan.c: `text` is a literal nearly everywhere, whose length and comparison the compiler then knows. */
static inline bool span_is(struct span s, const char *text)
{
    size_t n = strlen(text);
    return s.n == n && memcmp(s.p, text, n) == 0;
}
/* null, or missing (n 0) */
static inline bool span_is_null(struct span s)
{
    return s.n == 0 || span_is(s, "null");
}
static inline bool span_is_string(struct span s)
{
    return s.n >= 2 && s.p[0] == '"' && s.p[s.n - 1] == '"';
}
/* A string literal with something in it. */
static inline bool span_is_filled_string(struct span s)
{
    return s.n > 2 && span_is_string(s);
}

/* Cut `cut` bytes at `at` and put others there. */
struct edit {
    const char *at;
    size_t cut;
    const char *put;
    size_t put_n;
};
/* Edits that make an answer or a chunk say its service_tier: `model` is the value of its member of that name, `there`
 * that of "service_tier". A node that says one knows best. put: at least TIER_EDIT_BYTES, lives as long as the edit.
 * False: there is nothing to do. */
#define TIER_EDIT_BYTES 48
bool tier_edit(const char *tier, struct span model, struct span there, char *put, struct edit *edit);
/* text with the edits done, appended to out. Edits lie within text, do not overlap, and are sorted here (there are
 * few). RC_FULL at the bound of out. */
enum rc edits_apply(struct span text, struct edit *edits, int n, struct strbuf *out) SPW_MUST_USE;

#endif
