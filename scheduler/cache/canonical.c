#include "scheduler/cache/canonical.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"

#define KEEP_BYTES_MAX   ((size_t)1 << 20) /* scratch beyond this goes back after use */
#define OUT_BYTES_MAX    (2 * TREE_BYTES_MAX + 65536)
#define EXPONENT_MAX     INT64_C(1000000000)
#define MEMBERS_ON_STACK 24
#define KEY_VERSION      "spillway cache key 1" /* change it with whatever changes the form: old entries then miss */

void canonical_init(struct canonical *c)
{
    tree_init(&c->tree);
    strbuf_init(&c->out, OUT_BYTES_MAX);
}

void canonical_fini(struct canonical *c)
{
    tree_fini(&c->tree);
    strbuf_fini(&c->out);
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
static bool read_decimal(struct decimal *d, const char *text, size_t n)
{
    const char *end = text + n, *e = text, *point = NULL;
    while (e < end && *e != 'e' && *e != 'E') {
        if (*e == '.')
            point = e;
        e++;
    }
    d->exponent = e < end ? read_exponent(e + 1, end) : 0;
    d->first = NULL;
    for (const char *p = text; p < e; p++) {
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

static enum rc write_number(struct bytes text, struct strbuf *out)
{
    struct decimal d;
    if (!read_decimal(&d, text.p, text.n))
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
        rc = strbuf_printf(out, "e%" PRId64, d.exponent);
    return rc;
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
    if (c < 0x20 || (c >= 0xD800 && c <= 0xDFFF))
        return strbuf_printf(out, "\\u%04x", c);
    return put_utf8(c, out);
}

/* One escape at *p. A pair of surrogates is one character; a lone one stays an escape. */
static enum rc put_escape(const char **p, const char *end, struct strbuf *out)
{
    const char *at = *p;
    if (at[1] != 'u') {
        *p = at + 2;
        return at[1] == '/' ? strbuf_puts(out, "/") : strbuf_append(out, at, 2);
    }
    unsigned c = hex4(at + 2);
    *p = at + 6;
    if (c >= 0xD800 && c < 0xDC00 && end - *p >= 6 && (*p)[0] == '\\' && (*p)[1] == 'u') {
        unsigned low = hex4(*p + 2);
        if (low >= 0xDC00 && low <= 0xDFFF) {
            *p += 6;
            c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
        }
    }
    return put_character(c, out);
}

/* The inside of a string. */
static enum rc write_text(struct bytes text, struct strbuf *out)
{
    const char *p = text.p, *end = text.p + text.n;
    enum rc rc = RC_OK;
    while (p < end && rc == RC_OK) {
        const char *stop = memchr(p, '\\', (size_t)(end - p));
        stop = stop ? stop : end;
        rc = strbuf_append(out, p, (size_t)(stop - p));
        p = stop;
        if (rc == RC_OK && p < end)
            rc = put_escape(&p, end, out);
    }
    return rc;
}

static enum rc write_string(struct bytes inside, struct strbuf *out)
{
    enum rc rc = strbuf_append(out, "\"", 1);
    if (rc == RC_OK)
        rc = write_text(inside, out);
    return rc == RC_OK ? strbuf_append(out, "\"", 1) : rc;
}

/* ---- objects ---------------------------------------------------------------------------------------------------- */

struct member {
    struct bytes key; /* canonical */
    const struct tree_node *node;
    char *owned; /* the key's memory, when it had escapes */
};

static int compare_members(const void *a, const void *b)
{
    struct bytes x = ((const struct member *)a)->key, y = ((const struct member *)b)->key;
    int order = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);
    return order ? order : (x.n > y.n) - (x.n < y.n);
}

static void take_key(struct member *m, const struct tree *t, const struct tree_node *node)
{
    *m = (struct member){{t->text + node->key, node->key_n}, node, NULL};
    if (!memchr(m->key.p, '\\', m->key.n))
        return;
    struct strbuf b;
    strbuf_init(&b, m->key.n + 1); /* the form never grows */
    SPW_ASSERT(write_text(m->key, &b) == RC_OK);
    m->key.n = b.len;
    m->key.p = m->owned = strbuf_take(&b);
}

static bool ignored(const struct tree *t, const struct tree_node *m)
{
#define NAME(s)                                                                                                        \
    {                                                                                                                  \
        s, sizeof(s) - 1                                                                                               \
    }
    static const struct bytes names[] = {NAME("model"),
                                         NAME("stream"),
                                         NAME("stream_options"),
                                         NAME("user"),
                                         NAME("metadata"),
                                         NAME("store"),
                                         NAME("safety_identifier"),
                                         NAME("idempotency_key"),
                                         NAME("spillway"),
                                         NAME("prompt_cache_key"),
                                         NAME("prompt_cache_retention"),
                                         NAME("service_tier")};
#undef NAME
    static const char prefix[] = "spillway_";
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (m->key_n == names[i].n && memcmp(t->text + m->key, names[i].p, names[i].n) == 0)
            return true;
    }
    return m->key_n >= sizeof prefix - 1 && memcmp(t->text + m->key, prefix, sizeof prefix - 1) == 0;
}

static enum rc write_value(const struct tree *t, const struct tree_node *node, struct strbuf *out);

static enum rc write_members(const struct tree *t, const struct member *m, size_t n, struct strbuf *out)
{
    enum rc rc = strbuf_append(out, "{", 1);
    for (size_t i = 0; i < n && rc == RC_OK; i++) {
        if (i && compare_members(&m[i - 1], &m[i]) == 0)
            return RC_INVALID;
        rc = i ? strbuf_append(out, ",\"", 2) : strbuf_append(out, "\"", 1);
        if (rc == RC_OK)
            rc = strbuf_append(out, m[i].key.p, m[i].key.n);
        if (rc == RC_OK)
            rc = strbuf_append(out, "\":", 2);
        if (rc == RC_OK)
            rc = write_value(t, m[i].node, out);
    }
    return rc == RC_OK ? strbuf_append(out, "}", 1) : rc;
}

static enum rc write_object(const struct tree *t, const struct tree_node *node, struct strbuf *out)
{
    struct member few[MEMBERS_ON_STACK], *members = few;
    size_t n = 0;
    if (node->count > MEMBERS_ON_STACK)
        members = spw_calloc(node->count, sizeof *members);
    for (const struct tree_node *m = tree_first(t, node); m; m = tree_next(t, m)) {
        if (node != tree_root(t) || !ignored(t, m))
            take_key(&members[n++], t, m);
    }
    if (n > 1)
        qsort(members, n, sizeof *members, compare_members);
    enum rc rc = write_members(t, members, n, out);
    for (size_t i = 0; i < n; i++)
        free(members[i].owned);
    if (members != few)
        free(members);
    return rc;
}

static enum rc write_array(const struct tree *t, const struct tree_node *node, struct strbuf *out)
{
    enum rc rc = strbuf_append(out, "[", 1);
    const struct tree_node *first = tree_first(t, node);
    for (const struct tree_node *m = first; m && rc == RC_OK; m = tree_next(t, m)) {
        if (m != first)
            rc = strbuf_append(out, ",", 1);
        if (rc == RC_OK)
            rc = write_value(t, m, out);
    }
    return rc == RC_OK ? strbuf_append(out, "]", 1) : rc;
}

/* Recursive, as deep as TREE_DEPTH_MAX. */
static enum rc write_value(const struct tree *t, const struct tree_node *node, struct strbuf *out)
{
    struct bytes text = tree_text(t, node);
    switch ((enum tree_type)node->type) {
    case TREE_OBJECT: return write_object(t, node, out);
    case TREE_ARRAY: return write_array(t, node, out);
    case TREE_STRING: return write_string(tree_inside(t, node), out);
    case TREE_NUMBER: return write_number(text, out);
    default: return strbuf_append(out, text.p, text.n);
    }
}

/* ---- the request ------------------------------------------------------------------------------------------------ */

enum rc canonical_read(struct canonical *c, const char *text, size_t n)
{
    enum rc rc = tree_parse(&c->tree, text, n);
    if (rc != RC_OK)
        return rc;
    const struct tree_node *root = tree_root(&c->tree);
    if (!tree_is(root, TREE_OBJECT))
        return RC_INVALID;
    for (const struct tree_node *m = tree_first(&c->tree, root); m; m = tree_next(&c->tree, m)) {
        if (memchr(text + m->key, '\\', m->key_n))
            return RC_UNSUPPORTED;
    }
    return RC_OK;
}

/* Is the member `key` this small whole number, however it is written? */
static bool member_is(const struct tree *t, const char *key, int value)
{
    const struct tree_node *m = tree_find(t, tree_root(t), key);
    struct decimal d;
    if (!tree_is(m, TREE_NUMBER))
        return false;
    struct bytes text = tree_text(t, m);
    if (!read_decimal(&d, text.p, text.n))
        return value == 0;
    return text.p[0] != '-' && d.exponent == 0 && d.first == d.last && *d.first - '0' == value;
}

static bool absent_or_one(const struct tree *t, const char *key)
{
    const struct tree_node *m = tree_find(t, tree_root(t), key);
    return !m || tree_is(m, TREE_NULL) || member_is(t, key, 1);
}

bool canonical_is_single(const struct canonical *c)
{
    return absent_or_one(&c->tree, "n") && absent_or_one(&c->tree, "best_of");
}

bool canonical_is_deterministic(const struct canonical *c)
{
    const struct tree *t = &c->tree;
    return canonical_is_single(c) && (member_is(t, "temperature", 0) || member_is(t, "top_k", 1));
}

enum rc canonical_write(const struct canonical *c, struct strbuf *out)
{
    return write_value(&c->tree, tree_root(&c->tree), out);
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

static void trim(struct canonical *c)
{
    strbuf_clear(&c->out);
    if (c->out.cap > KEEP_BYTES_MAX)
        strbuf_fini(&c->out);
    if (c->tree.cap * sizeof *c->tree.nodes > KEEP_BYTES_MAX)
        tree_fini(&c->tree);
}

enum rc canonical_key(struct canonical *c, const struct cache_key_input *in, struct cache_key *key)
{
    SPW_ASSERT(in->model_identity[0]);
    strbuf_clear(&c->out);
    enum rc rc = strbuf_printf(&c->out, KEY_VERSION " %d ", (int)in->kind);
    if (rc == RC_OK)
        rc = put_part(&c->out, in->tenant);
    if (rc == RC_OK)
        rc = put_part(&c->out, in->model_identity);
    if (rc == RC_OK)
        rc = canonical_write(c, &c->out);
    if (rc == RC_OK)
        sha256(c->out.data, c->out.len, key->bytes);
    trim(c);
    return rc;
}
