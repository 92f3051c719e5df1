#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Length of the sequence that starts with byte c, 0 for a byte that starts none (RFC 3629). */
static int utf8_length(unsigned char c)
{
    if (c < 0x80)
        return 1;
    if (c >= 0xC2 && c <= 0xDF)
        return 2;
    if (c >= 0xE0 && c <= 0xEF)
        return 3;
    if (c >= 0xF0 && c <= 0xF4)
        return 4;
    return 0;
}

/* Second bytes have tighter bounds after E0 (overlong), ED (surrogates), F0 (overlong), F4 (past U+10FFFF). */
static bool utf8_second_ok(unsigned char first, unsigned char second)
{
    switch (first) {
    case 0xE0: return second >= 0xA0 && second <= 0xBF;
    case 0xED: return second >= 0x80 && second <= 0x9F;
    case 0xF0: return second >= 0x90 && second <= 0xBF;
    case 0xF4: return second >= 0x80 && second <= 0x8F;
    default: return second >= 0x80 && second <= 0xBF;
    }
}

size_t utf8_valid_prefix(const char *s, size_t n, bool *incomplete)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t i = 0;
    if (incomplete)
        *incomplete = false;
    while (i < n) {
        if (p[i] < 0x80) {
            i++;
            continue;
        }
        int len = utf8_length(p[i]);
        if (!len)
            return i;
        for (int k = 1; k < len; k++) {
            if (i + (size_t)k == n) {
                if (incomplete)
                    *incomplete = true;
                return i;
            }
            unsigned char c = p[i + (size_t)k];
            if (k == 1 ? !utf8_second_ok(p[i], c) : c < 0x80 || c > 0xBF)
                return i;
        }
        i += (size_t)len;
    }
    return n;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* What cJSON reads more widely than JSON: a number that begins with a needless 0, and a '.' without digits on both sides.
 * Byte i is a '0' or '.' outside of strings. */
static bool odd_number(const char *s, size_t n, size_t i)
{
    char before = i > 0 ? s[i - 1] : ' ', earlier = i > 1 ? s[i - 2] : ' ';
    bool digit_follows = i + 1 < n && is_digit(s[i + 1]);
    if (s[i] == '.')
        return !is_digit(before) || !digit_follows;
    if (!digit_follows || is_digit(before) || before == '.')
        return false;
    /* In an exponent zeros may lead: 1e01, 1e-01. */
    char sign_of = before == '-' || before == '+' ? earlier : before;
    return sign_of != 'e' && sign_of != 'E';
}

/* One byte outside of strings. */
static enum rc check_byte(const char *s, size_t n, size_t i, struct error *e)
{
    unsigned char c = (unsigned char)s[i];
    if (c < 0x20 && c != '\t' && c != '\n' && c != '\r')
        return error_set(e, RC_INVALID, "JSON: control byte between values at byte %zu", i);
    if ((c == '0' || c == '.') && odd_number(s, n, i))
        return error_set(e, RC_INVALID, "JSON: not a number at byte %zu", i);
    return RC_OK;
}

/* One pass before cJSON sees the text: nesting depth, number of values (each becomes 64 bytes and more, so that 32 MiB of
 * "0," would take a gigabyte and seconds), control bytes, numbers, and \u escapes (cJSON would take \u0000 as the end of
 * the string and lone surrogates as an error without a place). */
static enum rc check_text(const char *s, size_t n, int depth_max, struct error *e)
{
    int depth = 0, values = 0; /* values: commas and openings, which is all of them but one */
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (!in_string && (c == ',' || c == '{' || c == '[') && ++values > JSON_VALUES_MAX)
            return error_set(e, RC_INVALID, "JSON: more than %d values at byte %zu", JSON_VALUES_MAX, i);
        if (in_string) {
            if (c < 0x20)
                return error_set(e, RC_INVALID, "JSON: control byte in a string at byte %zu; write it as an escape", i);
            if (c == '\\') {
                if (n - i > 5 && s[i + 1] == 'u' && memcmp(s + i + 2, "0000", 4) == 0)
                    return error_set(e, RC_INVALID, "JSON: \\u0000 in a string at byte %zu is not accepted", i);
                i++;
            } else if (c == '"') {
                in_string = false;
            }
            continue;
        }
        enum rc rc = check_byte(s, n, i, e);
        if (rc != RC_OK)
            return rc;
        if (c == '"')
            in_string = true;
        else if ((c == '{' || c == '[') && ++depth > depth_max)
            return error_set(e, RC_INVALID, "JSON: nested deeper than %d at byte %zu", depth_max, i);
        else if (c == '}' || c == ']')
            depth--;
    }
    return RC_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static enum rc check_names_of(const cJSON *object, struct error *e)
{
    size_t n = 0;
    for (const cJSON *m = object->child; m; m = m->next)
        n++;
    if (n < 2)
        return RC_OK;
    const char **names = spw_calloc(n, sizeof *names);
    size_t i = 0;
    for (const cJSON *m = object->child; m; m = m->next)
        names[i++] = m->string;
    qsort(names, n, sizeof *names, compare_names);
    enum rc rc = RC_OK;
    for (i = 1; i < n && rc == RC_OK; i++) {
        if (strcmp(names[i - 1], names[i]) == 0)
            rc = error_set(e, RC_INVALID, "JSON: key '%.64s' appears twice in one object", names[i]);
    }
    free(names);
    return rc;
}

/* Two readers that pick different ones of two equal keys disagree about the request: refused. Depth is bounded by
 * check_text, so recursion is too. */
static enum rc check_names(const cJSON *item, struct error *e)
{
    if (cJSON_IsObject(item)) {
        enum rc rc = check_names_of(item, e);
        if (rc != RC_OK)
            return rc;
    }
    for (const cJSON *m = item->child; m; m = m->next) {
        if (m->child) {
            enum rc rc = check_names(m, e);
            if (rc != RC_OK)
                return rc;
        }
    }
    return RC_OK;
}

static bool only_blanks(const char *s, const char *end)
{
    while (s < end && (*s == ' ' || *s == '\t' || *s == '\n' || *s == '\r'))
        s++;
    return s == end;
}

enum rc json_parse(const char *text, size_t n, int depth_max, cJSON **root, struct error *e)
{
    *root = NULL;
    size_t valid = utf8_valid_prefix(text, n, NULL);
    if (valid != n)
        return error_set(e, RC_INVALID, "JSON: byte %zu is not UTF-8", valid);
    if (memchr(text, '\0', n))
        return error_set(e, RC_INVALID, "JSON: NUL byte in the text");
    enum rc rc = check_text(text, n, depth_max, e);
    if (rc != RC_OK)
        return rc;
    const char *end = NULL;
    cJSON *tree = cJSON_ParseWithLengthOpts(text, n, &end, 0);
    if (!tree)
        return error_set(e, RC_INVALID, "JSON: cannot be understood at byte %zu",
                         end && end >= text && end <= text + n ? (size_t)(end - text) : (size_t)0);
    if (!only_blanks(end, text + n))
        rc = error_set(e, RC_INVALID, "JSON: more text after the value at byte %zu", (size_t)(end - text));
    else
        rc = check_names(tree, e);
    if (rc != RC_OK) {
        cJSON_Delete(tree);
        return rc;
    }
    *root = tree;
    return RC_OK;
}

/* The member, or NULL when it is missing or null. Sets *found. */
static const cJSON *member(const cJSON *obj, const char *key, bool *found)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(obj, key);
    if (m && cJSON_IsNull(m))
        m = NULL;
    if (found)
        *found = m != NULL;
    return m;
}

enum rc json_get_int(const cJSON *obj, const char *key, int64_t lo, int64_t hi, int64_t *v, bool *found,
                     struct error *e)
{
    const cJSON *m = member(obj, key, found);
    if (!m)
        return RC_OK;
    double d = m->valuedouble;
    /* 2^53: beyond it a double no longer holds every integer, so the value may not be what was written. */
    if (!cJSON_IsNumber(m) || d != floor(d) || d > 9007199254740992.0 || d < -9007199254740992.0)
        return error_set(e, RC_INVALID, "'%s' must be a whole number", key);
    if ((int64_t)d < lo || (int64_t)d > hi)
        return error_set(e, RC_INVALID, "'%s' must be from %lld to %lld", key, (long long)lo, (long long)hi);
    *v = (int64_t)d;
    return RC_OK;
}

enum rc json_get_double(const cJSON *obj, const char *key, double lo, double hi, double *v, bool *found,
                        struct error *e)
{
    const cJSON *m = member(obj, key, found);
    if (!m)
        return RC_OK;
    if (!cJSON_IsNumber(m))
        return error_set(e, RC_INVALID, "'%s' must be a number", key);
    if (!(m->valuedouble >= lo && m->valuedouble <= hi))
        return error_set(e, RC_INVALID, "'%s' must be from %g to %g", key, lo, hi);
    *v = m->valuedouble;
    return RC_OK;
}

enum rc json_get_bool(const cJSON *obj, const char *key, bool *v, bool *found, struct error *e)
{
    const cJSON *m = member(obj, key, found);
    if (!m)
        return RC_OK;
    if (!cJSON_IsBool(m))
        return error_set(e, RC_INVALID, "'%s' must be true or false", key);
    *v = cJSON_IsTrue(m);
    return RC_OK;
}

enum rc json_get_string(const cJSON *obj, const char *key, const char **v, bool *found, struct error *e)
{
    const cJSON *m = member(obj, key, found);
    if (!m)
        return RC_OK;
    if (!cJSON_IsString(m))
        return error_set(e, RC_INVALID, "'%s' must be a string", key);
    *v = m->valuestring;
    return RC_OK;
}

/* The escape of one ASCII byte, or NULL where it stands for itself. buf holds 7 bytes. */
static const char *escape_of(unsigned char c, char *buf)
{
    static const char hex[] = "0123456789abcdef";
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: break;
    }
    if (c >= 0x20 && c != 0x7f)
        return NULL;
    memcpy(buf, "\\u00", 4);
    buf[4] = hex[c >> 4];
    buf[5] = hex[c & 15];
    buf[6] = '\0';
    return buf;
}

enum rc json_append_string(struct strbuf *b, const char *s, size_t n)
{
    enum rc rc = strbuf_append(b, "\"", 1);
    size_t i = 0;
    while (i < n && rc == RC_OK) {
        size_t start = i;
        char buf[8];
        const char *escape = NULL;
        /* The longest run that needs no change goes out in one piece. */
        while (i < n && (unsigned char)s[i] < 0x80 && !(escape = escape_of((unsigned char)s[i], buf)))
            i++;
        if (i < n && (unsigned char)s[i] >= 0x80) {
            size_t end = i;
            while (end < n && (unsigned char)s[end] >= 0x80)
                end++;
            size_t valid = utf8_valid_prefix(s + i, end - i, NULL);
            i += valid;
            rc = strbuf_append(b, s + start, i - start);
            if (rc == RC_OK && i < end) { /* a byte that is no UTF-8 */
                rc = strbuf_puts(b, "\xEF\xBF\xBD");
                i++;
            }
            continue;
        }
        rc = strbuf_append(b, s + start, i - start);
        if (rc == RC_OK && escape) {
            rc = strbuf_puts(b, escape);
            i++;
        }
    }
    return rc == RC_OK ? strbuf_append(b, "\"", 1) : rc;
}
