#include "scheduler/observe/trace.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

/* ---- ids -------------------------------------------------------------------------------------------------------- */

static uint64_t rotate(uint64_t v, int by)
{
    return v << by | v >> (64 - by);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

/* SipHash-2-4 (Aumasson, Bernstein 2012) of the 8 bytes of `word`. */
static uint64_t siphash(const uint64_t key[2], uint64_t word)
{
    const uint64_t blocks[2] = {word, UINT64_C(8) << 56}; /* the message, then its length in the last byte */
    uint64_t v[4] = {key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
                     key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573)};
    for (int i = 0; i < 2; i++) {
        v[3] ^= blocks[i];
        sip_round(v);
        sip_round(v);
        v[0] ^= blocks[i];
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t next_word(struct tracer *t)
{
    uint64_t word;
    do
        word = siphash(t->key, t->counter++);
    while (word == 0); /* all zero means "none" on the wire */
    return word;
}

static void put_word(uint8_t *to, uint64_t word)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(word >> (56 - 8 * i));
}

static uint64_t get_word(const uint8_t *from)
{
    uint64_t word = 0;
    for (int i = 0; i < 8; i++)
        word = word << 8 | from[i];
    return word;
}

void tracer_init(struct tracer *t, const uint8_t seed[16], enum trace_mode mode, double ratio)
{
    SPW_ASSERT(ratio >= 0 && ratio <= 1);
    *t = (struct tracer){.key = {get_word(seed), get_word(seed + 8)}, .mode = mode};
    t->threshold = (uint64_t)(ratio * (double)(UINT64_C(1) << 56));
}

struct span_id tracer_span_id(struct tracer *t)
{
    struct span_id id = {{0}};
    put_word(id.b, next_word(t));
    return id;
}

static bool all_zero(const uint8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (b[i])
            return false;
    return true;
}

/* The last 56 bits of the id against the ratio: every service that does so takes the same traces. */
static bool ratio_says_yes(const struct tracer *t, struct trace_id id)
{
    return (get_word(id.b + 8) & ((UINT64_C(1) << 56) - 1)) < t->threshold;
}

/* ---- text ------------------------------------------------------------------------------------------------------- */

static char *put_hex(char *out, const uint8_t *b, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *out++ = digits[b[i] >> 4];
        *out++ = digits[b[i] & 15];
    }
    *out = '\0';
    return out;
}

char *trace_id_text(struct trace_id id, char *out)
{
    put_hex(out, id.b, sizeof id.b);
    return out;
}

char *span_id_text(struct span_id id, char *out)
{
    put_hex(out, id.b, sizeof id.b);
    return out;
}

/* Lower case only: the specification calls everything else invalid, and one id must not have two spellings. */
static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool get_hex(const char *text, uint8_t *b, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        b[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

enum rc trace_parent_parse(const char *text, size_t n, struct trace_parent *p)
{
    enum { AT_ID = 3, AT_SPAN = 36, AT_FLAGS = 53, LENGTH = 55 };
    uint8_t version, flags;
    *p = (struct trace_parent){0};
    if (n < LENGTH || text[AT_ID - 1] != '-' || text[AT_SPAN - 1] != '-' || text[AT_FLAGS - 1] != '-')
        return RC_INVALID;
    struct trace_parent got = {0};
    if (!get_hex(text, &version, 1) || version == 0xff || !get_hex(text + AT_ID, got.id.b, sizeof got.id.b) ||
        !get_hex(text + AT_SPAN, got.span.b, sizeof got.span.b) || !get_hex(text + AT_FLAGS, &flags, 1))
        return RC_INVALID;
    if (n > LENGTH && (version == 0 || text[LENGTH] != '-'))
        return RC_INVALID;
    if (all_zero(got.id.b, sizeof got.id.b) || all_zero(got.span.b, sizeof got.span.b))
        return RC_INVALID;
    /* Of a later version only the sampled flag is known to mean the same. */
    got.flags = flags & (version == 0 ? TRACE_SAMPLED | TRACE_RANDOM : TRACE_SAMPLED);
    *p = got;
    return RC_OK;
}

/* ---- tracestate ------------------------------------------------------------------------------------------------- */

/* key = (a-z or digit) then up to 255 of those and _ - * / @; value = 1 to 256 printable bytes without "," and "=", its
 * last one no blank. */
static bool member_is_valid(const char *m, size_t n)
{
    const char *equals = memchr(m, '=', n);
    size_t key = equals ? (size_t)(equals - m) : 0, value = equals ? n - key - 1 : 0;
    if (key < 1 || key > 256 || value < 1 || value > 256)
        return false;
    for (size_t i = 0; i < key; i++) {
        bool plain = (m[i] >= 'a' && m[i] <= 'z') || (m[i] >= '0' && m[i] <= '9');
        if (!plain && (i == 0 || !strchr("_-*/@", m[i]) || !m[i]))
            return false;
    }
    for (size_t i = key + 1; i < n; i++)
        if (m[i] < 0x20 || m[i] > 0x7e || m[i] == ',' || m[i] == '=')
            return false;
    return m[n - 1] != ' ';
}

/* The next member of the list with outer blanks cut off; false at its end. Empty ones are allowed and skipped. */
static bool next_member(const char **list, size_t *left, const char **member, size_t *n)
{
    while (*left) {
        const char *comma = memchr(*list, ',', *left);
        const char *begin = *list, *end = comma ? comma : begin + *left;
        size_t used = (size_t)(end - begin) + (comma ? 1 : 0);
        *list += used;
        *left -= used;
        while (begin < end && (*begin == ' ' || *begin == '\t'))
            begin++;
        while (end > begin && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        *member = begin;
        *n = (size_t)(end - begin);
        if (*n)
            return true;
    }
    return false;
}

/* What the list comes to: its length when written tightly and its members. false: one of them is malformed. */
static bool measure(const char *list, size_t left, size_t *total, int *count)
{
    size_t n;
    const char *member;
    *total = 0;
    *count = 0;
    while (next_member(&list, &left, &member, &n)) {
        if (!member_is_valid(member, n))
            return false;
        *total += n + (*total ? 1 : 0);
        ++*count;
    }
    return true;
}

enum rc trace_state_add(char *state, const char *list, size_t n)
{
    enum { LONG_MEMBER = 128 };
    int have, count;
    size_t len, more, member_len;
    (void)measure(state, strlen(state), &len, &have);
    if (!measure(list, n, &more, &count)) {
        state[0] = '\0';
        return RC_INVALID;
    }
    bool tight = len + (len ? 1 : 0) + more > TRACE_STATE_MAX;
    for (const char *member; have < TRACE_STATE_LIST && next_member(&list, &n, &member, &member_len);) {
        if (tight && member_len > LONG_MEMBER)
            continue;
        size_t comma = len ? 1 : 0;
        if (len + comma + member_len > TRACE_STATE_MAX)
            break;
        if (comma)
            state[len++] = ',';
        memcpy(state + len, member, member_len);
        len += member_len;
        have++;
    }
    state[len] = '\0';
    return RC_OK;
}

/* ---- a request -------------------------------------------------------------------------------------------------- */

/* The only traceparent, or NULL: with two of them nobody can say which is right. */
static const char *only_parent(const struct http_head *head)
{
    const char *found = NULL;
    for (int i = 0; head && i < head->n_headers; i++) {
        if (strcasecmp(head->headers[i].name, "traceparent") != 0)
            continue;
        if (found)
            return NULL;
        found = head->headers[i].value;
    }
    return found;
}

static void take_state(const struct http_head *head, char *state)
{
    for (int i = 0; i < head->n_headers; i++) {
        const struct http_header *h = &head->headers[i];
        if (strcasecmp(h->name, "tracestate") == 0 && trace_state_add(state, h->value, strlen(h->value)) != RC_OK)
            return; /* dropped whole: half a list would be a lie about who took part */
    }
}

static bool decide(const struct tracer *t, const struct trace *trace)
{
    if (t->mode == TRACE_OFF)
        return false;
    if (t->mode == TRACE_PARENT && trace_has_parent(trace))
        return trace->parent_flags & TRACE_SAMPLED;
    return ratio_says_yes(t, trace->id);
}

void trace_begin(struct tracer *t, const struct http_head *head, struct trace *out)
{
    struct trace_parent p;
    const char *text = only_parent(head);
    uint8_t random = TRACE_RANDOM; /* ids we make are; Level 2 allows the flag then */
    memset(out, 0, offsetof(struct trace, state) + 1);
    if (text && trace_parent_parse(text, strlen(text), &p) == RC_OK) {
        out->id = p.id;
        out->parent = p.span;
        out->parent_flags = p.flags;
        random &= p.flags;
        take_state(head, out->state);
    } else if (t->mode == TRACE_OFF) {
        return;
    } else {
        put_word(out->id.b, next_word(t));
        put_word(out->id.b + 8, next_word(t));
    }
    out->span = tracer_span_id(t);
    out->flags = random | (decide(t, out) ? TRACE_SAMPLED : 0);
}

bool trace_has_parent(const struct trace *t)
{
    return !all_zero(t->parent.b, sizeof t->parent.b);
}

bool trace_outgoing(const struct trace *t, struct span_id leg, char *buf)
{
    if (all_zero(t->id.b, sizeof t->id.b))
        return false;
    bool pass_on = !trace_recorded(t) && trace_has_parent(t);
    uint8_t flags = pass_on ? t->parent_flags : t->flags;
    struct span_id span = pass_on ? t->parent : trace_recorded(t) ? leg : t->span;
    char *p = buf;
    *p++ = '0';
    *p++ = '0';
    *p++ = '-';
    p = put_hex(p, t->id.b, sizeof t->id.b);
    *p++ = '-';
    p = put_hex(p, span.b, sizeof span.b);
    *p++ = '-';
    put_hex(p, &flags, 1);
    return true;
}
