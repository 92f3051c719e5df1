/* Small text helpers that both programs need: the nearest known word for a mistyped one, and numbers with units as
 * people write them (durations, sizes), what names are made of. Pure functions. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The candidate within a third of the word's length (at least 2 edits; insert, delete, change, swap neighbours) of
 * `word`, or NULL: for "unknown key ...; did you mean ...?". The first of equals. Words over 63 bytes match nothing. */
const char *text_nearest(const char *word, const char *const *candidates, int n);

/* A letter or digit of ASCII, whatever the locale. */
static inline bool text_is_alnum(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}
/* 1 to `max` bytes, each of them a letter or digit of ASCII or one of `beside`: names, ids, hosts, by what is let in. */
bool text_is_word(const char *text, const char *beside, size_t max);
/* The same of n bytes, which need not end in NUL. */
bool text_is_word_n(const char *text, size_t n, const char *beside, size_t max);

/* A whole decimal integer, nothing around it. RC_INVALID: no number; RC_FULL: outside lo..hi. *v untouched then. */
enum rc text_parse_int(const char *text, int64_t lo, int64_t hi, int64_t *v) SPW_MUST_USE;
/* "500ms", "2s", "5m", "1h" or "0". RC_INVALID, or RC_FULL when it does not fit. */
enum rc text_parse_duration_ms(const char *text, int64_t *ms) SPW_MUST_USE;
/* "4096", "64KiB", "32MiB", "2GiB" or "0". RC_INVALID, or RC_FULL when it does not fit. */
enum rc text_parse_size(const char *text, int64_t *bytes) SPW_MUST_USE;
/* v in decimal at `at`, which has room for TEXT_INT_MAX bytes. No NUL. Returns the end. For hot paths, where printf is
 * dear. */
#define TEXT_INT_MAX 20
char *text_put_int(char *at, int64_t v);
/* As much of s as fits below `end`, where a NUL follows it: a piece of a text in a buffer of fixed size. Returns where
 * the next piece goes, which is where that NUL is. at < end. */
char *text_put(char *at, const char *end, const char *s);
/* Two lower-case digits for each of n bytes, and a NUL. Returns out. */
char *text_hex(char *out, const void *bytes, size_t n);
/* RFC 4648 section 4, with padding. The caller's. n < 1 MiB. */
char *text_base64(const void *bytes, size_t n);
/* A UTC time, "2027-01-01" or "2027-01-01T12:00:00Z", as Unix seconds. */
enum rc text_parse_utc(const char *text, int64_t *seconds) SPW_MUST_USE;
/* A time as RFC 3339 writes it, "2027-01-01T12:00:00Z", "2027-01-01t13:00:00.25+01:00", as Unix milliseconds (rounded
 * down). A leap second counts as the second before it. */
enum rc text_parse_time_ms(const char *text, int64_t *ms) SPW_MUST_USE;
/* The shortest exact form of the same; buf >= 32 bytes. Return buf. */
char *text_format_duration_ms(int64_t ms, char *buf, size_t size);
char *text_format_size(int64_t bytes, char *buf, size_t size);

#endif
