/* Memory by lifetime. Small host allocations abort with a message when the system has none left; sizes that come from
 * input, config or a model are checked against a limit by the caller first.
 *
 * An arena holds everything of one connection or one request and is dropped in one call. */
#ifndef BASE_ALLOC_H
#define BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

void *spw_malloc(size_t bytes);               /* never NULL */
void *spw_calloc(size_t count, size_t bytes); /* never NULL; aborts on overflow */
/* As spw_calloc(), at an address that is a multiple of `alignment`, a power of two; free() frees it. */
void *spw_calloc_aligned(size_t count, size_t bytes, size_t alignment);
void *spw_realloc(void *p, size_t bytes); /* never NULL */
char *spw_strdup(const char *s);
char *spw_strndup(const char *s, size_t n);
char *spw_asprintf(const char *format, ...) SPW_PRINTF(1, 2); /* caller frees */
/* For servers, once at the start: memory that a large request has had is kept for the next one, up to ALLOC_KEPT_BYTES
 * of each thread's heap, and not given back and fetched anew, page by page, each time. Nothing where the C library
 * can't. */
#define ALLOC_KEPT_BYTES (16 << 20)
void alloc_keep_freed(void);
/* a * b + c, or false when that does not fit. */
bool size_mul_add(size_t a, size_t b, size_t c, size_t *result) SPW_MUST_USE;

struct arena;
struct arena *arena_new(size_t bytes_max);        /* growth past bytes_max returns NULL from arena_alloc */
void arena_free(struct arena *a);                 /* runs cleanup hooks, newest first; NULL is fine */
void *arena_alloc(struct arena *a, size_t bytes); /* zeroed, aligned to 16; NULL at the bound */
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_printf(struct arena *a, const char *format, ...) SPW_PRINTF(2, 3);
/* Call hook(arg) when the arena is freed: for what is not memory. */
void arena_cleanup(struct arena *a, void (*hook)(void *arg), void *arg);
size_t arena_bytes(const struct arena *a);

/* A growing byte buffer born with its maximum. RC_FULL at the bound, contents unchanged. data is NUL-terminated. */
struct strbuf {
    char *data; /* owned; NULL until the first append */
    size_t len, cap, max;
};
void strbuf_init(struct strbuf *b, size_t max);
void strbuf_fini(struct strbuf *b);
void strbuf_clear(struct strbuf *b);
enum rc strbuf_append(struct strbuf *b, const void *data, size_t n);
enum rc strbuf_puts(struct strbuf *b, const char *s);
enum rc strbuf_printf(struct strbuf *b, const char *format, ...) SPW_PRINTF(2, 3);
enum rc strbuf_int(struct strbuf *b, int64_t v); /* decimal; on hot paths, where printf is dear */
/* Room for n more bytes in one piece, for who knows how many will come. */
enum rc strbuf_reserve(struct strbuf *b, size_t n);
char *strbuf_take(struct strbuf *b); /* moves ownership out ("" if empty); b is empty afterwards */

#endif
