/* The little of Unicode that pre-tokenizers need: general categories, white space, UTF-8. */
#ifndef ENGINE_TEXT_UNICODE_H
#define ENGINE_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Classes are bits so that sets can be tested at once. A code point has one of them or none (controls, formats,
 * surrogates, private use, unassigned). */
enum unicode_class {
    UNICODE_OTHER = 0,
    UNICODE_LETTER = 1,  /* \p{L} */
    UNICODE_MARK = 2,    /* \p{M} */
    UNICODE_NUMBER = 4,  /* \p{N} */
    UNICODE_PUNCT = 8,   /* \p{P} */
    UNICODE_SYMBOL = 16, /* \p{S} */
    UNICODE_SPACE = 32,  /* \s: the property White_Space */
};

struct unicode_range {
    uint32_t first, last;
    uint8_t class;
};
/* Generated; sorted, disjoint. */
extern const struct unicode_range unicode_categories[];
extern const size_t unicode_categories_count;
extern const struct unicode_range unicode_deepseek_llm_letters[];
extern const size_t unicode_deepseek_llm_letters_count;

unsigned unicode_class(uint32_t cp);
/* In the letter class of the deepseek-llm pre-tokenizer. */
bool unicode_is_deepseek_llm_letter(uint32_t cp);

#define UNICODE_REPLACEMENT 0xFFFDu

/* Length of the UTF-8 character at s (n >= 1 bytes left) and its code point. A byte that starts no valid character
 * counts as one of length 1 with code point UNICODE_REPLACEMENT. */
size_t utf8_decode(const unsigned char *s, size_t n, uint32_t *cp);
/* Write cp (at most 0x10FFFF) to out; the number of bytes. */
size_t utf8_encode(uint32_t cp, unsigned char out[4]);

#endif
