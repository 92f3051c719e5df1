#include "base/alloc.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

static _Noreturn void out_of_memory(size_t bytes)
{
    fprintf(stderr, "out of memory: %zu bytes refused by the system\n", bytes);
    abort();
}

void *spw_malloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        out_of_memory(bytes);
    return p;
}

void *spw_calloc(size_t count, size_t bytes)
{
    void *p = calloc(count ? count : 1, bytes ? bytes : 1);
    if (!p)
        out_of_memory(bytes);
    return p;
}

void *spw_calloc_aligned(size_t count, size_t bytes, size_t alignment)
{
    size_t size;
    if (!size_mul_add(count ? count : 1, bytes ? bytes : 1, alignment, &size))
        out_of_memory(SIZE_MAX);
    size = size / alignment * alignment;
    void *p = aligned_alloc(alignment, size);
    if (!p)
        out_of_memory(size);
    return memset(p, 0, size);
}

void *spw_realloc(void *old, size_t bytes)
{
    void *p = realloc(old, bytes ? bytes : 1);
    if (!p)
        out_of_memory(bytes);
    return p;
}

char *spw_strndup(const char *s, size_t n)
{
    char *p = spw_malloc(n + 1);
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *spw_strdup(const char *s)
{
    return spw_strndup(s, strlen(s));
}

char *spw_asprintf(const char *format, ...)
{
    char *p = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&p, format, args);
    va_end(args);
    if (n < 0)
        out_of_memory(0);
    return p;
}

void alloc_keep_freed(void)
{
#ifdef __GLIBC__
    /* Where one is set the library no longer adapts the other: a block of this size must not be mapped on its own. */
    mallopt(M_MMAP_THRESHOLD, ALLOC_KEPT_BYTES / 2);
    mallopt(M_TRIM_THRESHOLD, ALLOC_KEPT_BYTES);
    mallopt(M_TOP_PAD, 1 << 20);
#endif
}

bool size_mul_add(size_t a, size_t b, size_t c, size_t *result)
{
    size_t product;
    return !__builtin_mul_overflow(a, b, &product) && !__builtin_add_overflow(product, c, result);
}

/* ---- arena: chunks that double up to a limit, and a list of hooks kept inside them ---- */

#define ARENA_MAGIC       0x41524e41u
#define ARENA_FIRST_CHUNK ((size_t)2048)
#define ARENA_CHUNK_MAX   ((size_t)1 << 20)

struct chunk {
    struct chunk *next;
    size_t used, size;
    _Alignas(16) char data[];
};

struct hook {
    struct hook *next;
    void (*call)(void *arg);
    void *arg;
};

struct arena {
    unsigned magic;
    struct chunk *chunks; /* newest first */
    struct hook *hooks;   /* newest first; memory is in the chunks */
    size_t bytes, bytes_max;
};

struct arena *arena_new(size_t bytes_max)
{
    struct arena *a = spw_calloc(1, sizeof *a);
    a->magic = ARENA_MAGIC;
    a->bytes_max = bytes_max;
    return a;
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    SPW_ASSERT(a->magic == ARENA_MAGIC);
    for (struct hook *h = a->hooks; h; h = h->next)
        h->call(h->arg);
    for (struct chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    a->magic = 0;
    free(a);
}

static struct chunk *arena_grow(struct arena *a, size_t bytes)
{
    size_t size = a->chunks ? a->chunks->size * 2 : ARENA_FIRST_CHUNK;
    if (size > ARENA_CHUNK_MAX)
        size = ARENA_CHUNK_MAX;
    if (size < bytes)
        size = bytes;
    struct chunk *c = spw_malloc(sizeof *c + size);
    c->used = 0;
    c->size = size;
    c->next = a->chunks;
    a->chunks = c;
    return c;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    SPW_ASSERT(a->magic == ARENA_MAGIC);
    if (bytes > a->bytes_max)
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > a->bytes_max - a->bytes)
        return NULL;
    struct chunk *c = a->chunks;
    if (!c || c->size - c->used < bytes)
        c = arena_grow(a, bytes);
    void *p = c->data + c->used;
    c->used += bytes;
    a->bytes += bytes;
    return memset(p, 0, bytes);
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    char *p = n < SIZE_MAX ? arena_alloc(a, n + 1) : NULL;
    if (p)
        memcpy(p, s, n);
    return p;
}

char *arena_printf(struct arena *a, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *p = n >= 0 ? arena_alloc(a, (size_t)n + 1) : NULL;
    if (p)
        vsnprintf(p, (size_t)n + 1, format, again);
    va_end(again);
    return p;
}

void arena_cleanup(struct arena *a, void (*call)(void *arg), void *arg)
{
    /* Hooks have to find room even in a full arena: losing one would leak what it guards. */
    size_t bytes_max = a->bytes_max;
    a->bytes_max = SIZE_MAX;
    struct hook *h = arena_alloc(a, sizeof *h);
    a->bytes_max = bytes_max > a->bytes ? bytes_max : a->bytes;
    *h = (struct hook){.next = a->hooks, .call = call, .arg = arg};
    a->hooks = h;
}

size_t arena_bytes(const struct arena *a)
{
    return a->bytes;
}

/* ---- strbuf ---- */

#define STRBUF_FIRST 256 /* most hold more than that in the end, and each doubling is a walk through the heap */

void strbuf_init(struct strbuf *b, size_t max)
{
    *b = (struct strbuf){.max = max};
}

void strbuf_fini(struct strbuf *b)
{
    free(b->data);
    *b = (struct strbuf){.max = b->max};
}

void strbuf_clear(struct strbuf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = '\0';
}

/* Room for n more bytes and the NUL. */
static enum rc strbuf_grow(struct strbuf *b, size_t n)
{
    if (n > b->max || b->len > b->max - n)
        return RC_FULL;
    size_t need = b->len + n + 1;
    if (need <= b->cap)
        return RC_OK;
    size_t cap = b->cap > SIZE_MAX / 2 ? need : b->cap * 2;
    if (cap < need)
        cap = need < STRBUF_FIRST ? STRBUF_FIRST : need;
    b->data = spw_realloc(b->data, cap);
    b->cap = cap;
    return RC_OK;
}

enum rc strbuf_append(struct strbuf *b, const void *data, size_t n)
{
    enum rc rc = strbuf_grow(b, n);
    if (rc != RC_OK)
        return rc;
    if (n)
        memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = '\0';
    return RC_OK;
}

enum rc strbuf_reserve(struct strbuf *b, size_t n)
{
    return strbuf_grow(b, n);
}

enum rc strbuf_int(struct strbuf *b, int64_t v)
{
    char digits[TEXT_INT_MAX];
    return strbuf_append(b, digits, (size_t)(text_put_int(digits, v) - digits));
}

enum rc strbuf_puts(struct strbuf *b, const char *s)
{
    return strbuf_append(b, s, strlen(s));
}

enum rc strbuf_printf(struct strbuf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    enum rc rc = n < 0 ? RC_INTERNAL : strbuf_grow(b, (size_t)n);
    if (rc == RC_OK) {
        vsnprintf(b->data + b->len, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return rc;
}

char *strbuf_take(struct strbuf *b)
{
    char *s = b->data ? b->data : spw_strdup("");
    *b = (struct strbuf){.max = b->max};
    return s;
}
