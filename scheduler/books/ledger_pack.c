#include "scheduler/books/ledger_pack.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum form { FORM_END = 0, FORM_NUMBER = 1, FORM_TEXT = 2, FORM_PART = 3 };
enum type { TYPE_TEXT, TYPE_CHARS, TYPE_INT64, TYPE_INT, TYPE_BOOL };
struct field {
    unsigned char tag; /* 1 to 63; 0: the table's end */
    enum type type;
    size_t at, size;
};

#define ROW(tag, type, member)                                                                                         \
    {                                                                                                                  \
        tag, type, offsetof(struct ledger_row, member), 0                                                              \
    }
#define EVENT(tag, type, member)                                                                                       \
    {                                                                                                                  \
        tag, type, offsetof(struct ledger_budget_event, member), 0                                                     \
    }
#define USE(tag, member)                                                                                               \
    {                                                                                                                  \
        tag, TYPE_INT64, offsetof(struct ledger_use, member), 0                                                        \
    }
#define LEG(tag, type, member)                                                                                         \
    {                                                                                                                  \
        tag, type, offsetof(struct ledger_leg, member), sizeof(((struct ledger_leg *)0)->member)                       \
    }
#define TAG_LEG 62 /* in a row */
#define TAG_USE 63 /* in a leg */

/* A row that is read has two amounts more, which a writer's has in its legs. */
static const struct field row_fields[] = {
    ROW(1, TYPE_TEXT, request_id),
    ROW(2, TYPE_TEXT, tenant),
    ROW(3, TYPE_TEXT, team),
    ROW(4, TYPE_TEXT, key_id),
    ROW(5, TYPE_TEXT, model),
    ROW(6, TYPE_TEXT, node),
    ROW(7, TYPE_TEXT, provider),
    ROW(8, TYPE_TEXT, asked_model),
    ROW(9, TYPE_TEXT, service_class),
    ROW(10, TYPE_TEXT, cache),
    ROW(11, TYPE_INT64, saved.v),
    ROW(12, TYPE_TEXT, idempotency_key),
    ROW(13, TYPE_INT, repeat),
    ROW(14, TYPE_TEXT, request_hash),
    ROW(15, TYPE_TEXT, project),
    ROW(16, TYPE_TEXT, user),
    ROW(17, TYPE_TEXT, tags),
    ROW(18, TYPE_TEXT, hold_id),
    ROW(19, TYPE_INT64, budget_waste.v),
    ROW(20, TYPE_TEXT, budgets),
    ROW(21, TYPE_BOOL, streamed),
    ROW(22, TYPE_INT, attempts),
    ROW(23, TYPE_INT, continuations),
    ROW(24, TYPE_BOOL, cross_class),
    ROW(25, TYPE_INT64, tokens.input),
    ROW(26, TYPE_INT64, tokens.cached_input),
    ROW(27, TYPE_INT64, tokens.output),
    ROW(28, TYPE_INT64, tokens_reasoning),
    ROW(29, TYPE_TEXT, usage_source),
    ROW(30, TYPE_INT64, prices.input.uusd_per_mtok),
    ROW(31, TYPE_INT64, prices.cached_input.uusd_per_mtok),
    ROW(32, TYPE_INT64, prices.output.uusd_per_mtok),
    ROW(33, TYPE_INT64, price_version),
    ROW(34, TYPE_INT64, reserved.v),
    ROW(35, TYPE_INT64, charge.v),
    ROW(36, TYPE_INT64, charge_max.v),
    ROW(37, TYPE_TEXT, market),
    ROW(38, TYPE_TEXT, domain),
    ROW(39, TYPE_INT64, accepted.ns),
    ROW(40, TYPE_INT64, first_byte.ns),
    ROW(41, TYPE_INT64, finished.ns),
    ROW(42, TYPE_INT, outcome),
    ROW(43, TYPE_INT, http_status),
    ROW(44, TYPE_TEXT, error),
    {0},
};
static const struct field leg_fields[] = {
    LEG(1, TYPE_INT, leg),
    LEG(2, TYPE_CHARS, node),
    LEG(3, TYPE_CHARS, provider),
    LEG(4, TYPE_CHARS, numerics),
    LEG(5, TYPE_TEXT, outcome),
    LEG(6, TYPE_TEXT, market),
    LEG(7, TYPE_CHARS, domain),
    LEG(8, TYPE_INT64, tokens_input),
    LEG(9, TYPE_INT64, tokens_cached_input),
    LEG(10, TYPE_INT64, tokens_output),
    LEG(11, TYPE_INT64, started.ns),
    LEG(12, TYPE_INT64, ended.ns),
    {0},
};
static const struct field use_fields[] = {USE(1, hour_s), USE(2, busy_us), USE(3, millijoules), {0}};
static const struct field event_fields[] = {
    EVENT(1, TYPE_INT, kind),
    EVENT(2, TYPE_TEXT, id),
    EVENT(3, TYPE_TEXT, budgets),
    EVENT(4, TYPE_INT64, amount.v),
    EVENT(5, TYPE_INT64, soft.v),
    EVENT(6, TYPE_INT64, at.ns),
    {0},
};
/* Whoever gives one of them another member gives it a field here. */
#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(struct ledger_row) == 360, "row_fields");
_Static_assert(sizeof(struct ledger_leg) == 400, "leg_fields");
_Static_assert(sizeof(struct ledger_use) == 24, "use_fields");
_Static_assert(sizeof(struct ledger_budget_event) == 48, "event_fields");
#endif

/* ---- in ---------------------------------------------------------------------------------------------------------- */

#define VARINT_MAX 10

static char *put_varint(char *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (char)(v | 0x80);
    *p++ = (char)v;
    return p;
}

static enum rc pack_number(struct strbuf *out, unsigned tag, int64_t v)
{
    char bytes[1 + VARINT_MAX];

    if (!v)
        return RC_OK;
    bytes[0] = (char)(tag << 2 | FORM_NUMBER);
    char *end = put_varint(bytes + 1, (uint64_t)v << 1 ^ (v < 0 ? UINT64_MAX : 0));
    return strbuf_append(out, bytes, (size_t)(end - bytes));
}

/* full: an empty text is one, too. */
static enum rc pack_text(struct strbuf *out, unsigned tag, const char *text, bool full)
{
    char bytes[1 + VARINT_MAX];

    if (!text || (!full && !text[0]))
        return RC_OK;
    const size_t n = strlen(text) + 1;
    bytes[0] = (char)(tag << 2 | FORM_TEXT);
    char *end = put_varint(bytes + 1, n);
    enum rc rc = strbuf_append(out, bytes, (size_t)(end - bytes));
    return rc == RC_OK ? strbuf_append(out, text, n) : rc;
}

static enum rc pack_byte(struct strbuf *out, unsigned byte)
{
    const char c = (char)byte;
    return strbuf_append(out, &c, 1);
}

static enum rc pack_fields(struct strbuf *out, const struct field *f, const void *of)
{
    enum rc rc = RC_OK;

    for (; f->tag && rc == RC_OK; f++) {
        const char *at = (const char *)of + f->at;
        switch (f->type) {
        case TYPE_TEXT: rc = pack_text(out, f->tag, *(const char *const *)at, true); break;
        case TYPE_CHARS: rc = pack_text(out, f->tag, at, false); break;
        case TYPE_INT64: rc = pack_number(out, f->tag, *(const int64_t *)at); break;
        case TYPE_INT: rc = pack_number(out, f->tag, *(const int *)at); break;
        case TYPE_BOOL: rc = pack_number(out, f->tag, *(const bool *)at); break;
        }
    }
    return rc;
}

static enum rc pack_leg(struct strbuf *out, const struct ledger_leg *leg)
{
    enum rc rc = pack_byte(out, TAG_LEG << 2 | FORM_PART);

    if (rc == RC_OK)
        rc = pack_fields(out, leg_fields, leg);
    for (int i = 0; i < leg->n_uses && rc == RC_OK; i++) {
        rc = pack_byte(out, TAG_USE << 2 | FORM_PART);
        if (rc == RC_OK)
            rc = pack_fields(out, use_fields, &leg->uses[i]);
        if (rc == RC_OK)
            rc = pack_byte(out, FORM_END);
    }
    return rc == RC_OK ? pack_byte(out, FORM_END) : rc;
}

enum rc ledger_pack(struct strbuf *out, const struct ledger_row *row, const struct ledger_budget_event *event)
{
    enum rc rc = pack_byte(out, event ? 'e' : 'r');

    if (rc == RC_OK)
        rc = event ? pack_fields(out, event_fields, event) : pack_fields(out, row_fields, row);
    for (int i = 0; !event && i < row->n_legs && rc == RC_OK; i++)
        rc = pack_leg(out, &row->legs[i]);
    return rc == RC_OK ? pack_byte(out, FORM_END) : rc;
}

/* ---- out --------------------------------------------------------------------------------------------------------- */

struct reader {
    const char *at, *end;
    bool bad; /* and then nothing of it counts */
};

static unsigned take_byte(struct reader *r)
{
    r->bad = r->bad || r->at >= r->end;
    return r->bad ? FORM_END : (unsigned char)*r->at++;
}

static uint64_t take_varint(struct reader *r)
{
    uint64_t v = 0;

    for (int shift = 0; shift < 64; shift += 7) {
        const uint64_t byte = take_byte(r);
        v |= (byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return v;
    }
    r->bad = true;
    return 0;
}

static int64_t take_number(struct reader *r)
{
    const uint64_t v = take_varint(r);
    return (int64_t)(v >> 1) ^ -(int64_t)(v & 1);
}

/* With its end; "" where it is bad. */
static const char *take_text(struct reader *r, size_t *n)
{
    const uint64_t bytes = take_varint(r);
    const char *text = r->at;

    r->bad = r->bad || !bytes || bytes > (uint64_t)(r->end - r->at) || text[bytes - 1] != '\0';
    *n = r->bad ? 1 : (size_t)bytes;
    if (r->bad)
        return "";
    r->at += bytes;
    return text;
}

static void store(struct reader *r, unsigned form, const struct field *f, void *in)
{
    char *at = (char *)in + f->at;
    size_t n;

    if (form != (f->type == TYPE_TEXT || f->type == TYPE_CHARS ? FORM_TEXT : FORM_NUMBER)) {
        r->bad = true;
        return;
    }
    switch (f->type) {
    case TYPE_TEXT: *(const char **)at = take_text(r, &n); break;
    case TYPE_CHARS: {
        const char *text = take_text(r, &n);
        r->bad = r->bad || n > f->size;
        if (!r->bad)
            memcpy(at, text, n);
        break;
    }
    case TYPE_INT64: *(int64_t *)at = take_number(r); break;
    case TYPE_INT: *(int *)at = (int)take_number(r); break;
    case TYPE_BOOL: *(bool *)at = take_number(r) != 0; break;
    }
}

/* What a newer program has written, parts with all that is in them. */
static void skip(struct reader *r, unsigned form)
{
    int depth = 0;
    size_t n;

    do {
        switch (form) {
        case FORM_NUMBER: (void)take_varint(r); break;
        case FORM_TEXT: (void)take_text(r, &n); break;
        case FORM_PART: depth++; break;
        default: depth--; break;
        }
        if (depth > 0)
            form = take_byte(r) & 3;
    } while (depth > 0 && !r->bad);
}

/* The field of that tag, or the table's end. They come in the table's order, so `from`, where the one before was, is
 * near. */
static const struct field *find(const struct field *fields, const struct field *from, unsigned tag)
{
    while (from->tag && from->tag < tag)
        from++;
    if (from->tag == tag)
        return from;
    while (fields->tag && fields->tag != tag)
        fields++;
    return fields;
}

/* Fields up to the next part (true; its tag) or the end (false). */
static bool take_fields(struct reader *r, const struct field *fields, void *in, unsigned *part)
{
    const struct field *f = fields;

    for (;;) {
        const unsigned key = take_byte(r), tag = key >> 2, form = key & 3;
        if (form == FORM_END)
            return false;
        if (form == FORM_PART) {
            *part = tag;
            return true;
        }
        f = find(fields, f, tag);
        if (f->tag)
            store(r, form, f, in);
        else
            skip(r, form);
    }
}

static void take_leg(struct reader *r, struct ledger_leg *leg)
{
    unsigned part, inner;

    memset(leg, 0, sizeof *leg);
    while (take_fields(r, leg_fields, leg, &part)) {
        if (part != TAG_USE || leg->n_uses == LEDGER_USES) {
            skip(r, FORM_PART);
            continue;
        }
        struct ledger_use *use = &leg->uses[leg->n_uses++];
        memset(use, 0, sizeof *use);
        while (take_fields(r, use_fields, use, &inner))
            skip(r, FORM_PART);
    }
}

static struct ledger_leg *next_leg(struct ledger_unpacked *u)
{
    if (u->row.n_legs == u->legs_cap) {
        u->legs_cap = u->legs_cap ? 2 * u->legs_cap : 4;
        u->legs = spw_realloc(u->legs, (size_t)u->legs_cap * sizeof *u->legs);
    }
    return &u->legs[u->row.n_legs++];
}

static bool event_is_possible(const struct ledger_budget_event *ev)
{
    return ev->budgets && (ev->id || (ev->kind != LEDGER_HOLD && ev->kind != LEDGER_DROP));
}

size_t ledger_unpack(struct ledger_unpacked *u, const char *data, size_t n)
{
    struct reader r = {data, data + n, false};
    const unsigned kind = take_byte(&r);
    unsigned part;

    u->row = (struct ledger_row){0};
    u->event = (struct ledger_budget_event){0};
    u->is_event = kind == 'e';
    if (kind != 'e' && kind != 'r')
        return 0;
    while (take_fields(&r, u->is_event ? event_fields : row_fields, u->is_event ? (void *)&u->event : (void *)&u->row,
                       &part)) {
        if (part == TAG_LEG && !u->is_event)
            take_leg(&r, next_leg(u));
        else
            skip(&r, FORM_PART);
    }
    u->row.legs = u->legs;
    if (r.bad || (u->is_event ? !event_is_possible(&u->event) : !ledger_row_is_possible(&u->row)))
        return 0;
    return (size_t)(r.at - data);
}

void ledger_unpacked_fini(struct ledger_unpacked *u)
{
    free(u->legs);
    *u = (struct ledger_unpacked){0};
}

bool ledger_row_is_possible(const struct ledger_row *row)
{
    const struct token_counts *t = &row->tokens;
    bool possible =
        row->request_id && t->cached_input >= 0 && t->cached_input <= t->input && t->output >= 0 && row->n_legs >= 0;

    for (int i = 0; i < row->n_legs && possible; i++)
        possible = row->legs[i].outcome && (i == 0 || row->legs[i].leg > row->legs[i - 1].leg);
    return possible;
}
