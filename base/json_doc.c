/* The parser: one pass over the text that checks and builds at once, as RFC 8259 has it, with the refusals of json.h.
 *
 * Nodes are taken from blocks that double; the strings, decoded, fit into one buffer of the text's own size, since none
 * grows when its escapes go. The first block and a small buffer are inside the document: a small text costs no
 * allocation, and dropping a tree does not walk it.
 *
 *   value() -> string() | number() | literal | array() | object() -> value() ...      (bounded by depth_max)
 *
 * Each returns false once d->rc says why. */
#include "base/json.h"

#include <endian.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_NODES_MAX 16384
#define NAMES_COMPARED  16 /* with this many members or fewer all pairs are compared; beyond, they are sorted */
#define FAST_INT_DIGITS 15 /* exact in a double */

struct json_node {
    cJSON item; /* first, so that a node is its item */
    const char *text;
    size_t n;
};

struct json_block {
    struct json_block *next;
    size_t used, size;
    struct json_node nodes[];
};

struct parser {
    struct json_doc *d;
    const char *start, *at, *end;
    char *put; /* where the next decoded string goes */
    int depth_left, depth_max, values;
    struct error *e;
    enum rc rc;
};

static bool value(struct parser *p, struct json_node *node);

/* ---- what is wrong ----------------------------------------------------------------------------------------------- */

static size_t offset(const struct parser *p, const char *at)
{
    return (size_t)(at - p->start);
}

static bool wrong(struct parser *p, const char *what, const char *at)
{
    p->rc = error_set(p->e, RC_INVALID, "JSON: %s at byte %zu", what, offset(p, at));
    return false;
}

/* Nothing that may stand here. The commonest reasons have words of their own. */
static bool unexpected(struct parser *p, const char *at)
{
    unsigned char c = at < p->end ? (unsigned char)*at : ' ';
    bool incomplete;
    if (at < p->end && c == 0)
        return wrong(p, "NUL byte between values", at);
    if (c < 0x20 && c != '\t' && c != '\n' && c != '\r')
        return wrong(p, "control byte between values", at);
    if (c >= 0x80 && utf8_valid_prefix(at, (size_t)(p->end - at), &incomplete) == 0) {
        p->rc = error_set(p->e, RC_INVALID, "JSON: byte %zu is not UTF-8", offset(p, at));
        return false;
    }
    return wrong(p, "cannot be understood", at);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------- */

static struct json_node *new_node(struct json_doc *d)
{
    struct json_block *b = d->blocks;
    if (b->used == b->size) {
        size_t size = b->size * 2;
        if (size > BLOCK_NODES_MAX)
            size = BLOCK_NODES_MAX;
        struct json_block *grown = spw_malloc(sizeof *grown + size * sizeof grown->nodes[0]);
        grown->next = b;
        grown->used = 0;
        grown->size = size;
        d->blocks = b = grown;
    }
    struct json_node *node = &b->nodes[b->used++];
    *node = (struct json_node){.n = 0};
    return node;
}

/* Behind the children that are there. As cJSON links them: the first one's prev is the last. */
static void link_child(cJSON *parent, cJSON *child)
{
    cJSON *first = parent->child;
    if (!first) {
        parent->child = child;
        child->prev = child;
        return;
    }
    child->prev = first->prev;
    first->prev->next = child;
    first->prev = child;
}

static void skip_blanks(struct parser *p)
{
    /* Nearly always there are none, which one comparison finds. */
    while (p->at < p->end && (unsigned char)*p->at <= ' ' &&
           (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

/* ---- strings ----------------------------------------------------------------------------------------------------- */

/* Eight bytes at a time: a set high bit in `odd` marks a byte that does not stand for itself, or one behind such a
 * byte, which a borrow has reached: the first mark is always true. */
size_t json_plain_bytes(const char *s, const char *end)
{
    const char *p = s;
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones << 7;
    while (end - p >= 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        w = le64toh(w);
        uint64_t quote = w ^ (ones * '"'), slash = w ^ (ones * '\\');
        uint64_t odd = (w | (w - ones * 0x20) | (quote - ones) | (slash - ones)) & highs;
        if (odd)
            return (size_t)(p - s) + (size_t)__builtin_ctzll(odd) / 8;
        p += 8;
    }
    while (p < end && (unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' && *p != '\\')
        p++;
    return (size_t)(p - s);
}

static int hex4(const char *s, const char *end)
{
    int v = 0;
    if (end - s < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)s[i], letter = c | 0x20;
        if (c >= '0' && c <= '9')
            v = v << 4 | (c - '0');
        else if (letter >= 'a' && letter <= 'f')
            v = v << 4 | (letter - 'a' + 10);
        else
            return -1;
    }
    return v;
}

static char *put_utf8(char *to, unsigned v)
{
    if (v < 0x80) {
        *to++ = (char)v;
    } else if (v < 0x800) {
        *to++ = (char)(0xc0 | v >> 6);
        *to++ = (char)(0x80 | (v & 63));
    } else if (v < 0x10000) {
        *to++ = (char)(0xe0 | v >> 12);
        *to++ = (char)(0x80 | (v >> 6 & 63));
        *to++ = (char)(0x80 | (v & 63));
    } else {
        *to++ = (char)(0xf0 | v >> 18);
        *to++ = (char)(0x80 | (v >> 12 & 63));
        *to++ = (char)(0x80 | (v >> 6 & 63));
        *to++ = (char)(0x80 | (v & 63));
    }
    return to;
}

/* \uXXXX, or two of them for what UTF-16 needs two for. at: behind the u. */
static bool unicode_escape(struct parser *p)
{
    const char *escape = p->at - 2;
    int high = hex4(p->at, p->end);
    if (high < 0)
        return wrong(p, "cannot be understood", escape);
    if (high == 0)
        return wrong(p, "\\u0000 is not accepted in a string", escape);
    p->at += 4;
    unsigned v = (unsigned)high;
    if (high >= 0xdc00 && high <= 0xdfff)
        return wrong(p, "half of a surrogate pair", escape);
    if (high >= 0xd800 && high <= 0xdbff) {
        int low = p->end - p->at >= 6 && p->at[0] == '\\' && p->at[1] == 'u' ? hex4(p->at + 2, p->end) : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return wrong(p, "half of a surrogate pair", escape);
        p->at += 6;
        v = 0x10000 + (((unsigned)high & 0x3ff) << 10 | ((unsigned)low & 0x3ff));
    }
    p->put = put_utf8(p->put, v);
    return true;
}

static bool escape(struct parser *p)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *backslash = p->at++;
    if (p->at == p->end)
        return wrong(p, "cannot be understood", backslash);
    char c = *p->at++;
    if (c == 'u')
        return unicode_escape(p);
    const char *known = c ? strchr(from, c) : NULL;
    if (!known)
        return wrong(p, "cannot be understood", backslash);
    *p->put++ = to[known - from];
    return true;
}

/* Bytes beyond ASCII at p->at: the whole run, checked. */
static bool take_utf8(struct parser *p)
{
    const char *run = p->at;
    while (run < p->end && (unsigned char)*run >= 0x80)
        run++;
    size_t n = (size_t)(run - p->at), valid = utf8_valid_prefix(p->at, n, NULL);
    if (valid != n) {
        p->rc = error_set(p->e, RC_INVALID, "JSON: byte %zu is not UTF-8", offset(p, p->at + valid));
        return false;
    }
    memcpy(p->put, p->at, n);
    p->put += n;
    p->at = run;
    return true;
}

/* The literal at p->at, which is a quote; *text is decoded and ends in NUL. */
static bool string(struct parser *p, char **text)
{
    const char *open = p->at++;
    *text = p->put;
    for (;;) {
        size_t n = json_plain_bytes(p->at, p->end);
        memcpy(p->put, p->at, n);
        p->put += n;
        p->at += n;
        if (p->at == p->end)
            return wrong(p, "cannot be understood", open);
        unsigned char c = (unsigned char)*p->at;
        if (c == '"') {
            p->at++;
            *p->put++ = '\0';
            return true;
        }
        if (c < 0x20)
            return wrong(p, "control byte in a string; write it as an escape,", p->at);
        if (c == '\\' ? !escape(p) : !take_utf8(p))
            return false;
    }
}

/* ---- numbers and words ------------------------------------------------------------------------------------------- */

static size_t digits(const char *s, const char *end)
{
    const char *p = s;
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return (size_t)(p - s);
}

static double slow_number(struct parser *p, const char *from)
{
    size_t n = (size_t)(p->at - from);
    memcpy(p->put, from, n); /* strtod wants an end; there is room: the text so far has brought less than its length */
    p->put[n] = '\0';
    return strtod(p->put, NULL);
}

static bool number(struct parser *p, cJSON *item)
{
    const char *from = p->at;
    bool negative = *p->at == '-', whole = true;
    p->at += negative;
    const char *integer = p->at;
    size_t n = digits(p->at, p->end);
    if (n == 0 || (n > 1 && *integer == '0'))
        return wrong(p, "not a number", from);
    p->at += n;
    if (p->at < p->end && *p->at == '.') {
        size_t m = digits(++p->at, p->end);
        if (!m)
            return wrong(p, "not a number", from);
        p->at += m;
        whole = false;
    }
    if (p->at < p->end && (*p->at | 0x20) == 'e') {
        p->at++;
        p->at += p->at < p->end && (*p->at == '+' || *p->at == '-');
        size_t m = digits(p->at, p->end);
        if (!m)
            return wrong(p, "not a number", from);
        p->at += m;
        whole = false;
    }
    double v = 0;
    if (whole && n <= FAST_INT_DIGITS) {
        int64_t i = 0;
        for (size_t k = 0; k < n; k++)
            i = i * 10 + (integer[k] - '0');
        v = negative ? -(double)i : (double)i;
    } else {
        v = slow_number(p, from);
    }
    item->type = cJSON_Number;
    item->valuedouble = v;
    item->valueint = v >= INT_MAX ? INT_MAX : v <= (double)INT_MIN ? INT_MIN : (int)v;
    return true;
}

static bool word(struct parser *p, cJSON *item)
{
    static const struct {
        const char *text;
        size_t n;
        int type;
    } words[] = {{"true", 4, cJSON_True}, {"false", 5, cJSON_False}, {"null", 4, cJSON_NULL}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if ((size_t)(p->end - p->at) < words[i].n || memcmp(p->at, words[i].text, words[i].n) != 0)
            continue;
        p->at += words[i].n;
        item->type = words[i].type;
        item->valueint = words[i].type == cJSON_True;
        return true;
    }
    return unexpected(p, p->at);
}

/* ---- arrays and objects ------------------------------------------------------------------------------------------ */

static bool enter(struct parser *p)
{
    if (p->depth_left-- == 0) {
        p->rc = error_set(p->e, RC_INVALID, "JSON: nested deeper than %d at byte %zu", p->depth_max, offset(p, p->at));
        return false;
    }
    p->at++;
    return true;
}

/* Values are counted by what stands before them: commas and openings, which is all of them but one. */
static bool count_value(struct parser *p)
{
    if (++p->values <= JSON_VALUES_MAX)
        return true;
    p->rc = error_set(p->e, RC_INVALID, "JSON: more than %d values at byte %zu", JSON_VALUES_MAX, offset(p, p->at));
    return false;
}

/* Behind a value: false at the closing bracket, which is taken, and when something else stands there (p->rc). */
static bool more(struct parser *p, char close)
{
    skip_blanks(p);
    if (p->at < p->end && *p->at == ',' && count_value(p)) {
        p->at++;
        skip_blanks(p);
        return true;
    }
    if (p->rc == RC_OK && p->at < p->end && *p->at == close)
        p->at++;
    else if (p->rc == RC_OK)
        unexpected(p, p->at);
    return false;
}

static bool empty(struct parser *p, char close)
{
    skip_blanks(p);
    if (p->at == p->end || *p->at != close)
        return false;
    p->at++;
    return true;
}

static bool array(struct parser *p, cJSON *item)
{
    item->type = cJSON_Array;
    if (!count_value(p) || !enter(p))
        return false;
    if (!empty(p, ']')) {
        do {
            struct json_node *element = new_node(p->d);
            link_child(item, &element->item);
            if (!value(p, element))
                return false;
        } while (more(p, ']'));
    }
    p->depth_left++;
    return p->rc == RC_OK;
}

static bool twice(struct parser *p, const char *name)
{
    p->rc = error_set(p->e, RC_INVALID, "JSON: key '%.64s' appears twice in one object", name);
    return false;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Two readers that pick different ones of two equal keys disagree about the request: refused. */
static bool names_differ(struct parser *p, const cJSON *object, size_t n)
{
    if (n <= NAMES_COMPARED) {
        for (const cJSON *a = object->child; a; a = a->next) {
            for (const cJSON *b = a->next; b; b = b->next) {
                if (a->string[0] == b->string[0] && strcmp(a->string, b->string) == 0)
                    return twice(p, a->string);
            }
        }
        return true;
    }
    const char **names = spw_calloc(n, sizeof *names);
    size_t i = 0;
    bool differ = true;
    for (const cJSON *m = object->child; m; m = m->next)
        names[i++] = m->string;
    qsort(names, n, sizeof *names, compare_names);
    for (i = 1; i < n && differ; i++)
        differ = strcmp(names[i - 1], names[i]) != 0 || twice(p, names[i]);
    free(names);
    return differ;
}

static bool object(struct parser *p, cJSON *item)
{
    size_t n = 0;
    item->type = cJSON_Object;
    if (!count_value(p) || !enter(p))
        return false;
    if (!empty(p, '}')) {
        do {
            struct json_node *member = new_node(p->d);
            if (p->at == p->end || *p->at != '"')
                return unexpected(p, p->at);
            if (!string(p, &member->item.string))
                return false;
            skip_blanks(p);
            if (p->at == p->end || *p->at != ':')
                return unexpected(p, p->at);
            p->at++;
            skip_blanks(p);
            link_child(item, &member->item);
            n++;
            if (!value(p, member))
                return false;
        } while (more(p, '}'));
    }
    p->depth_left++;
    return p->rc == RC_OK && names_differ(p, item, n);
}

/* Bounded by depth_max. */
static bool value(struct parser *p, struct json_node *node)
{
    bool ok;
    node->text = p->at;
    if (p->at == p->end)
        return unexpected(p, p->at);
    switch (*p->at) {
    case '"':
        node->item.type = cJSON_String;
        ok = string(p, &node->item.valuestring);
        break;
    case '{': ok = object(p, &node->item); break;
    case '[': ok = array(p, &node->item); break;
    case '-':
    case '.':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9': ok = number(p, &node->item); break;
    default: ok = word(p, &node->item); break;
    }
    node->n = (size_t)(p->at - node->text);
    return ok;
}

/* ---- documents --------------------------------------------------------------------------------------------------- */

static void init(struct json_doc *d, size_t n)
{
    struct json_block *b = (struct json_block *)d->first_nodes;
    _Static_assert(_Alignof(struct json_block) <= 16, "first_nodes is aligned for it");
    b->next = NULL;
    b->used = 0;
    b->size = (sizeof d->first_nodes - sizeof *b) / sizeof b->nodes[0];
    d->root = NULL;
    d->blocks = b;
    d->strings = n < sizeof d->first_text ? d->first_text : spw_malloc(n + 1);
}

enum rc json_doc_parse(struct json_doc *d, const char *text, size_t n, int depth_max, struct error *e)
{
    struct parser p = {.d = d,
                       .start = text,
                       .at = text,
                       .end = text + n,
                       .depth_left = depth_max,
                       .depth_max = depth_max,
                       .e = e,
                       .rc = RC_OK};

    init(d, n);
    p.put = d->strings;
    struct json_node *root = new_node(d);
    skip_blanks(&p);
    if (value(&p, root)) {
        skip_blanks(&p);
        if (p.at != p.end)
            wrong(&p, "more text after the value", p.at);
    }
    if (p.rc != RC_OK) {
        json_doc_fini(d);
        return p.rc;
    }
    d->root = &root->item;
    return RC_OK;
}

void json_doc_fini(struct json_doc *d)
{
    for (struct json_block *b = d->blocks, *next; b; b = next) {
        next = b->next;
        if (next) /* the last one is inside */
            free(b);
    }
    if (d->strings != d->first_text)
        free(d->strings);
    d->root = NULL;
    d->blocks = NULL;
    d->strings = NULL;
}

const char *json_doc_text(const cJSON *item, size_t *n)
{
    const struct json_node *node = (const struct json_node *)item;
    *n = node->n;
    return node->text;
}

/* Not kept, since hardly anybody asks: between what stands before a member and its value there are blanks, a comma, the
 * name in its quotes, and a colon. */
const char *json_doc_name(const cJSON *object, const cJSON *member, size_t *n)
{
    const struct json_node *node = (const struct json_node *)member;
    const bool first = member == object->child;
    const struct json_node *before = (const struct json_node *)(first ? object : member->prev);
    const char *from = before->text + (first ? 1 : before->n), *open = memchr(from, '"', (size_t)(node->text - from));
    const char *close = node->text - 1;
    while (*close != '"')
        close--;
    *n = (size_t)(close - open - 1);
    return open + 1;
}
