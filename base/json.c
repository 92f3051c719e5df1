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
        uint64_t eight;
        while (n - i >= 8 && (memcpy(&eight, p + i, 8), (eight & UINT64_C(0x8080808080808080)) == 0))
            i += 8; /* ASCII, as nearly everything is */
        if (i == n)
            break;
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

enum rc json_parse(const char *text, size_t n, int depth_max, cJSON **root, struct error *e)
{
    struct json_doc d;
    *root = NULL;
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark may be ignored (RFC 8259 8.1) */
        text += 3;
        n -= 3;
    }
    enum rc rc = json_doc_parse(&d, text, n, depth_max, e);
    if (rc != RC_OK)
        return rc;
    *root = cJSON_Duplicate(d.root, true);
    json_doc_fini(&d);
    return *root ? RC_OK : error_set(e, RC_INTERNAL, "JSON: no memory");
}

const cJSON *json_find(const cJSON *object, const char *key)
{
    if (!cJSON_IsObject(object))
        return NULL;
    for (const cJSON *m = object->child; m; m = m->next) {
        if (m->string[0] == key[0] && strcmp(m->string, key) == 0)
            return m;
    }
    return NULL;
}

/* The member, or NULL when it is missing or null. Sets *found. */
static const cJSON *member(const cJSON *obj, const char *key, bool *found)
{
    const cJSON *m = json_find(obj, key);
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

/* The escape of one ASCII byte that needs one. buf holds 7 bytes. */
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
    memcpy(buf, "\\u00", 4);
    buf[4] = hex[c >> 4];
    buf[5] = hex[c & 15];
    buf[6] = '\0';
    return buf;
}

/* Stands for itself in a string literal: printable ASCII but the quote and the backslash. */
static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

enum rc json_append_string(struct strbuf *b, const char *s, size_t n)
{
    size_t i = 0;
    bool plain = json_plain_bytes(s, s + n) == n && !memchr(s, 0x7f, n);
    if (plain && strbuf_reserve(b, n + 2) == RC_OK) { /* as nearly always */
        char *at = b->data + b->len;
        *at++ = '"';
        memcpy(at, s, n);
        memcpy(at + n, "\"", 2);
        b->len += n + 2;
        return RC_OK;
    }
    enum rc rc = strbuf_append(b, "\"", 1);
    while (i < n && rc == RC_OK) {
        size_t start = i;
        char buf[8];
        const char *escape = NULL;
        /* The longest run that needs no change goes out in one piece. */
        while (i < n && is_plain((unsigned char)s[i]))
            i++;
        if (i < n && (unsigned char)s[i] < 0x80)
            escape = escape_of((unsigned char)s[i], buf);
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
