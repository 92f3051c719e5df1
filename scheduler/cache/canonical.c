#include "scheduler/cache/canonical.h"

#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/sha256.h"
#include "scheduler/wire/scan.h"

#define TEXT_BYTES_MAX   ((size_t)32 << 20)
#define KEEP_BYTES_MAX   ((size_t)1 << 20) /* scratch beyond this goes back after use */
#define EXPONENT_MAX     INT64_C(1000000000)
#define MEMBERS_ON_STACK 24
#define KEY_VERSION      "spillway cache key 1" /* change it with whatever changes the form: old entries then miss */

/* As written. */
static struct span text_of(const cJSON *item)
{
    struct span text;
    text.p = json_doc_text(item, &text.n);
    return text;
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

struct decimal { /* digits x 10^exponent, the digits without zeros at either end */
    const char *first, *last;
    int64_t exponent;
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* The number behind 'e', cut off far beyond what is accepted. */
static int64_t read_exponent(const char *p, const char *end)
{
    bool negative = *p == '-';
    int64_t v = 0;
    for (p += negative || *p == '+'; p < end && v < 100 * EXPONENT_MAX; p++)
        v = v * 10 + (*p - '0');
    return negative ? -v : v;
}

/* False: the number is zero. text is a number as JSON writes it. */
static bool read_decimal(struct decimal *d, struct span text)
{
    const char *end = text.p + text.n, *e = text.p, *point = NULL;
    while (e < end && *e != 'e' && *e != 'E') {
        if (*e == '.')
            point = e;
        e++;
    }
    d->exponent = e < end ? read_exponent(e + 1, end) : 0;
    d->first = NULL;
    for (const char *p = text.p; p < e; p++) {
        if (is_digit(*p) && *p != '0') {
            d->first = d->first ? d->first : p;
            d->last = p;
        }
    }
    if (!d->first)
        return false;
    const char *units = point ? point : e; /* behind the digit that counts ones */
    d->exponent += d->last < units ? units - d->last - 1 : units - d->last;
    return true;
}

static enum rc write_number(struct span text, struct strbuf *out)
{
    struct decimal d;
    if (!read_decimal(&d, text))
        return strbuf_puts(out, "0"); /* -0 too: no server tells them apart */
    if (d.exponent > EXPONENT_MAX || d.exponent < -EXPONENT_MAX)
        return RC_UNSUPPORTED;
    enum rc rc = text.p[0] == '-' ? strbuf_puts(out, "-") : RC_OK;
    const char *point = memchr(d.first, '.', (size_t)(d.last - d.first));
    if (rc == RC_OK && point)
        rc = strbuf_append(out, d.first, (size_t)(point - d.first));
    const char *rest = point ? point + 1 : d.first;
    if (rc == RC_OK)
        rc = strbuf_append(out, rest, (size_t)(d.last + 1 - rest));
    if (rc == RC_OK && d.exponent)
        rc = strbuf_append(out, "e", 1);
    return rc == RC_OK && d.exponent ? strbuf_int(out, d.exponent) : rc;
}

/* ---- strings ---------------------------------------------------------------------------------------------------- */

static unsigned hex4(const char *p)
{
    unsigned v = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char c = (unsigned char)p[i];
        v = v * 16 + (unsigned)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return v;
}

static enum rc put_utf8(unsigned c, struct strbuf *out)
{
    char b[4];
    size_t n = 0;
    if (c < 0x80) {
        b[n++] = (char)c;
    } else if (c < 0x800) {
        b[n++] = (char)(0xC0 | c >> 6);
        b[n++] = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        b[n++] = (char)(0xE0 | c >> 12);
        b[n++] = (char)(0x80 | (c >> 6 & 63));
        b[n++] = (char)(0x80 | (c & 63));
    } else {
        b[n++] = (char)(0xF0 | c >> 18);
        b[n++] = (char)(0x80 | (c >> 12 & 63));
        b[n++] = (char)(0x80 | (c >> 6 & 63));
        b[n++] = (char)(0x80 | (c & 63));
    }
    return strbuf_append(out, b, n);
}

/* A character that was written as \uXXXX. Short escapes where JSON has them, so that no text grows. */
static enum rc put_character(unsigned c, struct strbuf *out)
{
    static const char letters[] = "btn\0fr"; /* 8 to 13 */
    if (c == '"' || c == '\\')
        return strbuf_printf(out, "\\%c", (int)c);
    if (c >= 8 && c <= 13 && letters[c - 8])
        return strbuf_printf(out, "\\%c", letters[c - 8]);
    return c < 0x20 ? strbuf_printf(out, "\\u%04x", c) : put_utf8(c, out);
}

/* One \/ or \uXXXX at *p; behind one half of a pair of surrogates stands the other. */
static enum rc put_escape(const char **p, struct strbuf *out)
{
    const char *at = *p;
    if (at[1] == '/') {
        *p = at + 2;
        return strbuf_append(out, "/", 1);
    }
    unsigned c = hex4(at + 2);
    *p = at + 6;
    if (c >= 0xD800 && c < 0xDC00) {
        c = 0x10000 + ((c - 0xD800) << 10) + (hex4(at + 8) - 0xDC00);
        *p = at + 12;
    }
    return put_character(c, out);
}

/* The inside of a string. All escapes of two bytes but one are as short as can be. */
static enum rc write_text(struct span text, struct strbuf *out)
{
    const char *run = text.p, *p = run, *end = run + text.n;
    enum rc rc = RC_OK;
    while (rc == RC_OK && (p = memchr(p, '\\', (size_t)(end - p)))) {
        if (p[1] != 'u' && p[1] != '/') {
            p += 2;
            continue;
        }
        rc = strbuf_append(out, run, (size_t)(p - run));
        if (rc == RC_OK)
            rc = put_escape(&p, out);
        run = p;
    }
    return rc == RC_OK ? strbuf_append(out, run, (size_t)(end - run)) : rc;
}

/* ---- objects ---------------------------------------------------------------------------------------------------- */

struct member {
    struct span key; /* canonical */
    const cJSON *value;
    char *owned; /* the key's memory, when it had escapes */
};

/* No two are the same: the parse would have refused them. */
static int compare_members(const void *a, const void *b)
{
    struct span x = ((const struct member *)a)->key, y = ((const struct member *)b)->key;
    int order = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return order ? order : (x.n > y.n) - (x.n < y.n);
}

static void take_key(struct member *m, const cJSON *object, const cJSON *value)
{
    *m = (struct member){.value = value};
    m->key.p = json_doc_name(object, value, &m->key.n);
    if (!memchr(m->key.p, '\\', m->key.n))
        return;
    struct strbuf b;
    strbuf_init(&b, m->key.n + 1); /* the form never grows */
    SPW_ASSERT(write_text(m->key, &b) == RC_OK);
    m->key.n = b.len;
    m->key.p = m->owned = strbuf_take(&b);
}

static enum rc write_value(const cJSON *item, struct strbuf *out);

static enum rc write_members(const struct member *m, size_t n, struct strbuf *out)
{
    enum rc rc = strbuf_append(out, "{", 1);
    for (size_t i = 0; i < n && rc == RC_OK; i++) {
        rc = i ? strbuf_append(out, ",\"", 2) : strbuf_append(out, "\"", 1);
        if (rc == RC_OK)
            rc = strbuf_append(out, m[i].key.p, m[i].key.n);
        if (rc == RC_OK)
            rc = strbuf_append(out, "\":", 2);
        if (rc == RC_OK)
            rc = write_value(m[i].value, out);
    }
    return rc == RC_OK ? strbuf_append(out, "}", 1) : rc;
}

static bool always(const cJSON *member)
{
    (void)member;
    return true;
}

static enum rc write_object(const cJSON *object, bool (*counts)(const cJSON *member), struct strbuf *out)
{
    struct member few[MEMBERS_ON_STACK], *members = few;
    size_t n = 0, n_max = (size_t)cJSON_GetArraySize(object);
    if (n_max > MEMBERS_ON_STACK)
        members = spw_calloc(n_max, sizeof *members);
    for (const cJSON *m = object->child; m; m = m->next) {
        if (counts(m))
            take_key(&members[n++], object, m);
    }
    if (n > 1)
        qsort(members, n, sizeof *members, compare_members);
    enum rc rc = write_members(members, n, out);
    for (size_t i = 0; i < n; i++)
        free(members[i].owned);
    if (members != few)
        free(members);
    return rc;
}

static enum rc write_array(const cJSON *array, struct strbuf *out)
{
    enum rc rc = strbuf_append(out, "[", 1);
    for (const cJSON *m = array->child; m && rc == RC_OK; m = m->next) {
        if (m != array->child)
            rc = strbuf_append(out, ",", 1);
        if (rc == RC_OK)
            rc = write_value(m, out);
    }
    return rc == RC_OK ? strbuf_append(out, "]", 1) : rc;
}

/* Recursive, as deep as the parse allows. */
static enum rc write_value(const cJSON *item, struct strbuf *out)
{
    switch (item->type) {
    case cJSON_Object: return write_object(item, always, out);
    case cJSON_Array: return write_array(item, out);
    case cJSON_Number: return write_number(text_of(item), out);
    default: return write_text(text_of(item), out); /* a string with its quotes, or a word */
    }
}

/* ---- the request ------------------------------------------------------------------------------------------------ */

/* Does this outer member change what is answered? */
static bool changes_answers(const cJSON *member)
{
    static const char *const names[] = {"model",    "stream",       "stream_options",    "user",
                                        "metadata", "store",        "safety_identifier", "idempotency_key",
                                        "spillway", "service_tier", "prompt_cache_key",  "prompt_cache_retention"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (member->string[0] == names[i][0] && strcmp(member->string, names[i]) == 0)
            return false;
    }
    return strncmp(member->string, "spillway_", 9) != 0;
}

/* Is the member `key` this small whole number, however it is written? */
static bool member_is(const cJSON *root, const char *key, int value)
{
    const cJSON *m = json_find(root, key);
    struct decimal d;
    if (!cJSON_IsNumber(m))
        return false;
    struct span text = text_of(m);
    if (!read_decimal(&d, text))
        return value == 0;
    return text.p[0] != '-' && d.exponent == 0 && d.first == d.last && *d.first - '0' == value;
}

static bool absent_or_one(const cJSON *root, const char *key)
{
    const cJSON *m = json_find(root, key);
    return !m || cJSON_IsNull(m) || member_is(root, key, 1);
}

bool canonical_is_single(const cJSON *root)
{
    return absent_or_one(root, "n") && absent_or_one(root, "best_of");
}

bool canonical_is_deterministic(const cJSON *root)
{
    return canonical_is_single(root) && (member_is(root, "temperature", 0) || member_is(root, "top_k", 1));
}

enum rc canonical_write(const cJSON *root, struct strbuf *out)
{
    if (text_of(root).n > TEXT_BYTES_MAX)
        return RC_FULL;
    for (const cJSON *m = root->child; m; m = m->next) {
        size_t n;
        (void)json_doc_name(root, m, &n);
        if (n != strlen(m->string))
            return RC_UNSUPPORTED;
    }
    return write_object(root, changes_answers, out);
}

/* With its length in front, so that no two pairs of texts run together into one. */
static enum rc put_part(struct strbuf *out, const char *text)
{
    size_t n = strlen(text);
    enum rc rc = strbuf_int(out, (int64_t)n);
    if (rc == RC_OK)
        rc = strbuf_append(out, ":", 1);
    return rc == RC_OK ? strbuf_append(out, text, n) : rc;
}

static enum rc write_input(const cJSON *root, const struct cache_key_input *in, struct strbuf *out)
{
    enum rc rc = strbuf_puts(out, KEY_VERSION " ");
    if (rc == RC_OK)
        rc = strbuf_int(out, in->kind);
    if (rc == RC_OK)
        rc = strbuf_append(out, " ", 1);
    if (rc == RC_OK)
        rc = put_part(out, in->tenant);
    if (rc == RC_OK)
        rc = put_part(out, in->model_identity);
    return rc == RC_OK ? canonical_write(root, out) : rc;
}

enum rc canonical_key(const cJSON *root, const struct cache_key_input *in, struct strbuf *scratch,
                      struct cache_key *key)
{
    SPW_ASSERT(in->model_identity[0]);
    strbuf_clear(scratch);
    enum rc rc = write_input(root, in, scratch);
    if (rc == RC_OK)
        sha256(scratch->data, scratch->len, key->bytes);
    if (scratch->cap > KEEP_BYTES_MAX)
        strbuf_fini(scratch);
    return rc;
}
