/* FNV-1a of 64 bits (Fowler, Noll, Vo; RFC 9923): short keys of tables and names, quick and good enough. Nobody is kept
 * from choosing keys that collide: what strangers choose is hashed from a secret start, or by SHA-256. Its low bits are
 * its weakest: mix high ones in before they become a place in a table. */
#ifndef BASE_FNV_H
#define BASE_FNV_H

#include <stddef.h>
#include <stdint.h>

#define FNV_START UINT64_C(0xcbf29ce484222325)

/* One step, of a byte or (which is not FNV any more, but quicker) of a word whose high bits the caller mixes in between
 * steps. h: FNV_START, or the hash of what stands before; so below. */
static inline uint64_t fnv_step(uint64_t h, uint64_t next)
{
    return (h ^ next) * UINT64_C(0x100000001b3);
}

static inline uint64_t fnv_bytes(uint64_t h, const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++)
        h = fnv_step(h, p[i]);
    return h;
}

/* The same of a text, without its NUL. */
static inline uint64_t fnv_text(uint64_t h, const char *text)
{
    for (; *text; text++)
        h = fnv_step(h, (unsigned char)*text);
    return h;
}

#endif
