/* Stop strings in streamed text: nothing of a stop string ever leaves, not even its first bytes.
 *
 * Text goes in as it is decoded, in pieces of any size, and comes out as far as it cannot be the beginning of a stop
 * string. One Knuth-Morris-Pratt automaton per string, so a byte costs one amortised step per string. The string that
 * is complete first wins; of several that end at the same byte, the longest. */
#ifndef ENGINE_TEXT_STOP_H
#define ENGINE_TEXT_STOP_H

#include "base/alloc.h"
#include "engine/text/vocab.h"

#define STOP_STRINGS_MAX 16
#define STOP_BYTES_MAX   1024 /* of one string */

struct stop;
/* RC_INVALID: an empty or over-long string, or too many. n = 0 is fine: everything passes. Strings are copied. */
enum rc stop_new(const struct text_span *strings, size_t n, struct stop **s, struct error *e) SPW_MUST_USE;
void stop_free(struct stop *s);

/* Feed text[0..n). Appends to *out what is now known to be no part of a stop string. *hit is the index of the string
 * found, or -1; after a hit the rest of the input is dropped, and so is all that follows. RC_FULL: *out is. */
enum rc stop_push(struct stop *s, const char *text, size_t n, struct strbuf *out, int *hit) SPW_MUST_USE;
/* From now on: strings that are complete are text like any other, or (at first) they stop. What has begun by then counts. */
enum stop_mode { STOP_HEEDS, STOP_IGNORES };
void stop_set_mode(struct stop *s, enum stop_mode mode);
/* The end of the stream without a hit: what was held back comes out. */
enum rc stop_finish(struct stop *s, struct strbuf *out) SPW_MUST_USE;
/* Bytes held back now. */
size_t stop_held(const struct stop *s);

#endif
