#include "engine/text/unicode.h"

static const struct unicode_range *range_find(const struct unicode_range *table, size_t n, uint32_t cp)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (cp > table[mid].last)
            lo = mid + 1;
        else if (cp < table[mid].first)
            hi = mid;
        else
            return &table[mid];
    }
    return NULL;
}

unsigned unicode_class(uint32_t cp)
{
    const struct unicode_range *r = range_find(unicode_categories, unicode_categories_count, cp);

    return r ? r->class : UNICODE_OTHER;
}

bool unicode_is_deepseek_llm_letter(uint32_t cp)
{
    return range_find(unicode_deepseek_llm_letters, unicode_deepseek_llm_letters_count, cp) != NULL;
}

/* Bounds of the second byte rule out overlong forms, surrogates and code points past U+10FFFF (Unicode table 3-7). */
static bool second_byte_ok(unsigned char first, unsigned char second)
{
    switch (first) {
    case 0xE0: return second >= 0xA0 && second <= 0xBF;
    case 0xED: return second >= 0x80 && second <= 0x9F;
    case 0xF0: return second >= 0x90 && second <= 0xBF;
    case 0xF4: return second >= 0x80 && second <= 0x8F;
    default: return (second & 0xC0) == 0x80;
    }
}

size_t utf8_decode(const unsigned char *s, size_t n, uint32_t *cp)
{
    size_t len = s[0] < 0x80                    ? 1
                 : s[0] >= 0xC2 && s[0] <= 0xDF ? 2
                 : (s[0] & 0xF0) == 0xE0        ? 3
                 : s[0] >= 0xF0 && s[0] <= 0xF4 ? 4
                                                : 0;

    if (len == 1) {
        *cp = s[0];
        return 1;
    }
    *cp = UNICODE_REPLACEMENT;
    if (len == 0 || len > n || !second_byte_ok(s[0], s[1]))
        return 1;
    uint32_t value = ((s[0] & (0x7Fu >> len)) << 6) | (s[1] & 0x3Fu);
    for (size_t i = 2; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 1;
        value = (value << 6) | (s[i] & 0x3Fu);
    }
    *cp = value;
    return len;
}

size_t utf8_encode(uint32_t cp, unsigned char out[4])
{
    if (cp < 0x80) {
        out[0] = (unsigned char)cp;
        return 1;
    }
    size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, cp >>= 6)
        out[i] = (unsigned char)(0x80 | (cp & 0x3F));
    out[0] = (unsigned char)((0xF00u >> len) | cp);
    return len;
}
