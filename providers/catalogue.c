/* Rows, what their flags mean, and questions about them. Files: catalogue_file.c, catalogue_doc.c. */
#include "providers/catalogue.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "providers/catalogue_internal.h"

static const char *const flag_names[PRICE_N_FLAGS] = {
    "no_ondemand", "no_spot",    "spot_eq_ondemand", "spot_gt_ondemand", "spot_floor_10pct", "suspect_ondemand_low",
    "host_apart",  "host_only",  "unknown_flag",     "repeated",         "conflict",         "no_api_price",
    "tiered",      "deprecated",
};

const char *price_flag_name(int bit)
{
    return bit >= 0 && bit < PRICE_N_FLAGS ? flag_names[bit] : "?";
}

static const struct pusd none = {-1};

/* ---- pieces of a row ---------------------------------------------------------------------------------------------- */

enum rc price_error(const struct price_reading *r, struct error *e, const char *format, ...)
{
    char text[384];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return error_set(e, RC_INVALID, "%s:%d: %s", r->path, r->line, text);
}

enum rc price_row_lost(struct price_reading *r, struct error *e)
{
    if (!r->problem || e->code != RC_INVALID)
        return e->code;
    r->problem(r->line, e->message, r->arg);
    if (++r->table->lost > PRICE_LOST_MAX)
        return error_set(e, RC_INVALID, "%s: more than %d rows cannot be read: is it a price list?", r->path,
                         PRICE_LOST_MAX);
    return RC_OK;
}

const char *price_keep(struct price_reading *r, const char *text)
{
    return arena_strndup(r->table->arena, text ? text : "", text ? strlen(text) : 0);
}

static bool means_none(const char *text)
{
    static const char *const words[] = {"", "-", "n/a", "na", "none", "null", "~"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcasecmp(text, words[i]) == 0)
            return true;
    return false;
}

/* What people write where we want 1234.50. */
static enum rc not_decimal(struct price_reading *r, const char *key, const char *text, struct error *e)
{
    const char *comma = strchr(text, ','), *point = strchr(text, '.');
    if (text[0] == '-')
        return price_error(r, e, "%s: \"%.40s\" is negative; a price is 0 or more, and nothing where there is none",
                           key, text);
    if (strstr(text, "\xe2\x82\xac") || strstr(text, "\xc2\xa3")) /* euro, pound */
        return price_error(r, e, "%s: \"%.40s\" is not in dollars; convert it, and write the number alone", key, text);
    if (comma && point && comma < point)
        return price_error(r, e, "%s: \"%.40s\" has commas between thousands; write it without them", key, text);
    if (comma)
        return price_error(r, e, "%s: \"%.40s\" has a comma; write the decimals behind a point, as in 0.587", key,
                           text);
    return price_error(r, e, "%s: \"%.40s\" is no price; write dollars, as in 0.587", key, text);
}

/* [0-9]*[.[0-9]*][e[+-]N] without blanks around it, n bytes. */
struct digits {
    __int128 v; /* of the digits that matter */
    int scale;  /* v * 10^-scale */
    bool good;
};
static struct digits read_digits(const char *s, size_t n)
{
    struct digits d = {0};
    const char *end = s + n;
    int seen = 0;
    bool point = false;
    for (; s < end && ((*s >= '0' && *s <= '9') || (*s == '.' && !point)); s++) {
        if (*s == '.') {
            point = true;
            continue;
        }
        seen++;
        if (seen > 60)
            return d;
        if (d.v < ((__int128)1 << 100)) {
            d.v = d.v * 10 + (*s - '0');
            d.scale += point;
        } else if (!point) {
            return d; /* larger than anything */
        }
    }
    int64_t exponent = 0;
    if (seen && s < end && (*s == 'e' || *s == 'E')) {
        char text[8] = "";
        size_t left = (size_t)(end - s - 1);
        if (left == 0 || left >= sizeof text)
            return d;
        memcpy(text, s + 1, left);
        if (text_parse_int(text[0] == '+' ? text + 1 : text, -99, 99, &exponent) != RC_OK)
            return d;
        s = end;
    }
    d.scale -= (int)exponent;
    d.good = seen && s == end;
    return d;
}

enum rc price_decimal(struct price_reading *r, const char *key, const char *text, int places, int64_t most, int64_t *v,
                      struct error *e)
{
    while (*text == ' ')
        text++;
    size_t n = strlen(text);
    *v = -1;
    if (means_none(text))
        return RC_OK;
    while (n && text[n - 1] == ' ')
        n--;
    const char *from = text[0] == '$' ? text + 1 : text;
    struct digits d = read_digits(from, n - (size_t)(from - text));
    if (!d.good)
        return not_decimal(r, key, text, e);
    for (; d.scale < places && d.v <= most; d.scale++)
        d.v *= 10;
    int dropped = 0;
    for (; d.scale > places; d.scale--) {
        dropped = (int)(d.v % 10);
        d.v /= 10;
    }
    d.v += dropped >= 5;
    if (d.v > most || d.scale < places)
        return price_error(r, e, "%s: %.40s is too much for a price; is it in dollars?", key, text);
    *v = (int64_t)d.v;
    return RC_OK;
}

#define HOUR_MOST INT64_C(1000000000000000000) /* a million dollars */
#define MTOK_MOST INT64_C(1000000000)          /* a thousand dollars */

static const char *field(const struct price_reading *r, enum price_column c)
{
    return r->fields[c] ? r->fields[c] : "";
}

static const char *head(const struct price_reading *r, enum price_column c)
{
    return r->heads[c] ? r->heads[c] : price_column_names[c];
}

static enum rc read_hour(struct price_reading *r, enum price_column c, struct pusd *p, struct error *e)
{
    enum rc rc = price_decimal(r, head(r, c), field(r, c), 12, HOUR_MOST, &p->v, e);
    if (rc == RC_OK && p->v == 0)
        *p = none;
    return rc;
}

static enum rc read_mtok(struct price_reading *r, enum price_column c, struct price *p, struct error *e)
{
    return price_decimal(r, head(r, c), field(r, c), 6, MTOK_MOST, &p->uusd_per_mtok, e);
}

enum rc price_check_currency(struct price_reading *r, const char *text, struct error *e)
{
    static const char *const dollars[] = {"", "USD", "US$", "$", "dollars"};
    for (size_t i = 0; i < sizeof dollars / sizeof dollars[0]; i++)
        if (strcasecmp(text, dollars[i]) == 0)
            return RC_OK;
    return price_error(r, e, "currency: \"%.20s\"; only USD is booked: convert the price, and write USD", text);
}

static enum rc read_time(struct price_reading *r, enum price_column c, int64_t *at_s, struct error *e)
{
    const char *text = field(r, c);
    *at_s = 0;
    if (means_none(text))
        return RC_OK;
    if (text_parse_utc(text, at_s) == RC_OK && *at_s > 0)
        return RC_OK;
    return price_error(r, e, "%s: \"%.40s\" is no date; 2026-07-01 or 2026-07-01T12:00:00Z is right", head(r, c), text);
}

static enum rc read_validity(struct price_reading *r, int64_t *from_s, int64_t *until_s, struct error *e)
{
    enum rc rc = price_check_currency(r, field(r, COL_CURRENCY), e);
    if (rc == RC_OK)
        rc = read_time(r, COL_FROM, from_s, e);
    if (rc == RC_OK)
        rc = read_time(r, COL_UNTIL, until_s, e);
    if (rc == RC_OK && *until_s && *until_s <= *from_s)
        rc = price_error(r, e, "%s: %.40s is not after %s; a price ends after it begins", head(r, COL_UNTIL),
                         field(r, COL_UNTIL), head(r, COL_FROM));
    return rc;
}

/* ---- instances ---------------------------------------------------------------------------------------------------- */

static unsigned read_flags(const char *text)
{
    unsigned flags = 0;

    while (*text) {
        size_t n = strcspn(text, "; ");
        int bit = 0;
        while (bit < PRICE_N_FLAGS && !(strlen(flag_names[bit]) == n && strncmp(flag_names[bit], text, n) == 0))
            bit++;
        if (n)
            flags |= bit < PRICE_N_FLAGS ? 1u << bit : PRICE_UNKNOWN_FLAG;
        text += n;
        text += strspn(text, "; ");
    }
    return flags;
}

/* What the figures themselves say, whether or not the file flags it. */
static unsigned own_flags(const struct price_row *p)
{
    unsigned flags = (p->on_demand_h.v < 0 ? PRICE_NO_ONDEMAND : 0) | (p->spot_h.v < 0 ? PRICE_NO_SPOT : 0);

    if (flags)
        return flags;
    int64_t more = p->spot_h.v - p->on_demand_h.v;
    if (more <= p->on_demand_h.v / 1000 && more >= -p->on_demand_h.v / 1000) /* equal, but for how they were rounded */
        flags |= PRICE_SPOT_EQ_ONDEMAND;
    else if (more > 0)
        flags |= PRICE_SPOT_GT_ONDEMAND;
    if (p->spot_h.v <= HOUR_MOST / 10 && p->spot_h.v * 10 == p->on_demand_h.v)
        flags |= PRICE_SPOT_FLOOR;
    return flags;
}

static enum rc read_count(struct price_reading *r, int *count, struct error *e)
{
    const char *text = field(r, COL_COUNT);
    int64_t v = 0;
    if (!means_none(text) && text_parse_int(text, 0, 1024, &v) != RC_OK)
        return price_error(r, e, "%s: \"%.40s\" is not a whole number; 0 to 1024 accelerators is right",
                           head(r, COL_COUNT), text);
    *count = (int)v;
    return RC_OK;
}

static enum rc check_names(struct price_reading *r, const struct price_row *p, struct error *e)
{
    if (!p->cloud || !p->type || !p->accelerator || !p->region || !p->zone)
        return error_set(e, RC_FULL, "%s:%d: the table is larger than %zu bytes", r->path, r->line,
                         PRICE_TABLE_BYTES_MAX);
    if (!p->cloud[0])
        return price_error(r, e, "%s: is empty; whose price is it?", head(r, COL_CLOUD));
    if (!p->type[0] && !p->accelerator[0])
        return price_error(r, e, "%s and %s: are both empty; one of them says what the price is for", head(r, COL_TYPE),
                           head(r, COL_ACCELERATOR));
    return RC_OK;
}

static enum rc read_instance(struct price_reading *r, struct price_row *p, struct error *e)
{
    enum rc rc;
    *p = (struct price_row){.cloud = price_keep(r, r->fields[COL_CLOUD]),
                            .type = price_keep(r, r->fields[COL_TYPE]),
                            .accelerator = price_keep(r, r->fields[COL_ACCELERATOR]),
                            .region = price_keep(r, r->fields[COL_REGION]),
                            .zone = price_keep(r, r->fields[COL_ZONE]),
                            .line = r->line};
    if ((rc = check_names(r, p, e)) != RC_OK || (rc = read_count(r, &p->accelerators, e)) != RC_OK ||
        (rc = read_hour(r, COL_ON_DEMAND, &p->on_demand_h, e)) != RC_OK ||
        (rc = read_hour(r, COL_SPOT, &p->spot_h, e)) != RC_OK ||
        (rc = read_validity(r, &p->from_s, &p->until_s, e)) != RC_OK)
        return rc;
    p->flags = own_flags(p) | read_flags(field(r, COL_FLAGS));
    p->flags |= (p->accelerator[0] ? 0 : PRICE_HOST_ONLY) | (p->type[0] ? 0 : PRICE_HOST_APART);
    return RC_OK;
}

static enum rc too_many(const struct price_reading *r, struct error *e)
{
    return error_set(e, RC_FULL, "%s:%d: more than %d rows", r->path, r->line, PRICE_ROWS_MAX);
}

enum rc price_read_instance(struct price_reading *r, struct error *e)
{
    struct price_table *t = r->table;
    if (t->n == PRICE_ROWS_MAX)
        return too_many(r, e);
    if (t->n == r->cap) {
        r->cap = r->cap ? r->cap * 2 : 256;
        t->rows = spw_realloc(t->rows, sizeof *t->rows * (size_t)r->cap);
    }
    enum rc rc = read_instance(r, &t->rows[t->n], e);
    t->n += rc == RC_OK;
    return rc == RC_OK ? rc : price_row_lost(r, e);
}

/* ---- APIs --------------------------------------------------------------------------------------------------------- */

enum rc price_add_api(struct price_reading *r, const struct price_api *a, struct error *e)
{
    struct price_table *t = r->table;
    if (t->n_apis == PRICE_ROWS_MAX)
        return too_many(r, e);
    if (t->n_apis == r->apis_cap) {
        r->apis_cap = r->apis_cap ? r->apis_cap * 2 : 256;
        t->apis = spw_realloc(t->apis, sizeof *t->apis * (size_t)r->apis_cap);
    }
    struct price_api *to = &t->apis[t->n_apis++];
    *to = *a;
    if (to->prices.input.uusd_per_mtok < 0 || to->prices.output.uusd_per_mtok < 0)
        to->flags |= PRICE_NO_API;
    if (to->flags & PRICE_NO_API)
        to->prices.output.uusd_per_mtok = -1;
    /* No discount is told: none is reckoned with. */
    if (to->prices.cached_input.uusd_per_mtok < 0)
        to->prices.cached_input = to->prices.input;
    return RC_OK;
}

static enum rc read_api(struct price_reading *r, struct price_api *a, struct error *e)
{
    enum rc rc;
    *a = (struct price_api){.provider = price_keep(r, r->fields[COL_PROVIDER]),
                            .model = price_keep(r, r->fields[COL_MODEL]),
                            .line = r->line};
    if (!a->provider || !a->model)
        return error_set(e, RC_FULL, "%s:%d: the table is larger than %zu bytes", r->path, r->line,
                         PRICE_TABLE_BYTES_MAX);
    if (!a->model[0])
        return price_error(r, e, "%s: is empty; which model's price is it?", head(r, COL_MODEL));
    if ((rc = read_mtok(r, COL_INPUT, &a->prices.input, e)) != RC_OK ||
        (rc = read_mtok(r, COL_CACHED, &a->prices.cached_input, e)) != RC_OK ||
        (rc = read_mtok(r, COL_OUTPUT, &a->prices.output, e)) != RC_OK)
        return rc;
    return read_validity(r, &a->from_s, &a->until_s, e);
}

enum rc price_read_api(struct price_reading *r, struct error *e)
{
    struct price_api a;
    enum rc rc = read_api(r, &a, e);
    if (rc == RC_OK)
        return price_add_api(r, &a, e);
    return price_row_lost(r, e);
}

/* ---- questions ---------------------------------------------------------------------------------------------------- */

static bool fits(const char *wanted, const char *is)
{
    return !wanted || !wanted[0] || strcasecmp(wanted, is) == 0;
}

static bool holds(int64_t from_s, int64_t until_s, int64_t at_s)
{
    return at_s >= from_s && (!until_s || at_s < until_s);
}

static struct pusd price_in(const struct price_row *p, const struct price_row *like, enum price_market market)
{
    if (!fits(like->cloud, p->cloud) || !fits(like->type, p->type) || !fits(like->accelerator, p->accelerator) ||
        !fits(like->region, p->region) || !fits(like->zone, p->zone) ||
        (like->accelerators && like->accelerators != p->accelerators))
        return none;
    if (like->at_s ? !holds(p->from_s, p->until_s, like->at_s) : p->superseded)
        return none;
    return market == PRICE_SPOT ? p->spot_h : p->on_demand_h;
}

bool price_row_fits(const struct price_row *row, const struct price_row *like, enum price_market market)
{
    return price_in(row, like, market).v >= 0;
}

const struct price_row *price_cheapest(const struct price_table *t, const struct price_row *like,
                                       enum price_market market)
{
    const struct price_row *best = NULL;
    struct pusd least = none;

    for (int i = 0; i < t->n; i++) {
        struct pusd p = price_in(&t->rows[i], like, market);
        if (p.v < 0 || (best && p.v >= least.v))
            continue;
        best = &t->rows[i];
        least = p;
    }
    return best;
}

static int by_amount(const void *a, const void *b)
{
    int64_t x = ((const struct pusd *)a)->v, y = ((const struct pusd *)b)->v;
    return (x > y) - (x < y);
}

struct price_spread price_spread(const struct price_table *t, const struct price_row *like, enum price_market market)
{
    struct pusd *all = spw_calloc((size_t)t->n + 1, sizeof *all);
    struct price_spread s = {.least = none, .median = none, .greatest = none};

    for (int i = 0; i < t->n; i++) {
        struct pusd p = price_in(&t->rows[i], like, market);
        if (p.v >= 0)
            all[s.n++] = p;
    }
    qsort(all, (size_t)s.n, sizeof *all, by_amount);
    if (s.n) {
        s.least = all[0];
        s.median = (struct pusd){(all[(s.n - 1) / 2].v + all[s.n / 2].v) / 2};
        s.greatest = all[s.n - 1];
    }
    free(all);
    return s;
}

static bool at_this_hour(const struct price_api *a, int minute)
{
    if (a->day_from_min == a->day_until_min)
        return true;
    if (a->day_from_min < a->day_until_min)
        return minute >= a->day_from_min && minute < a->day_until_min;
    return minute >= a->day_from_min || minute < a->day_until_min; /* over midnight */
}

/* Of two that hold, of the same provider and model. */
static bool goes_before(const struct price_api *a, const struct price_api *b)
{
    bool hours_a = a->day_from_min != a->day_until_min, hours_b = b->day_from_min != b->day_until_min;
    if (hours_a != hours_b)
        return hours_a;
    return a->from_s >= b->from_s; /* the same: what stands later in the list */
}

const struct price_api *price_api_find(const struct price_table *t, const char *provider, const char *model,
                                       int64_t unix_s)
{
    const struct price_api *best = NULL;
    const int minute = (int)(unix_s / 60 % 1440);

    for (int i = 0; i < t->n_apis; i++) {
        const struct price_api *a = &t->apis[i];
        if (strcasecmp(a->model, model) != 0 || !fits(provider, a->provider) || !holds(a->from_s, a->until_s, unix_s) ||
            !at_this_hour(a, minute) || (a->flags & (PRICE_NO_API | PRICE_CONFLICT)))
            continue;
        bool same = best && strcasecmp(best->provider, a->provider) == 0;
        if (!best || (same ? goes_before(a, best) : a->prices.output.uusd_per_mtok < best->prices.output.uusd_per_mtok))
            best = a;
    }
    return best;
}

void price_table_fini(struct price_table *t)
{
    free(t->rows);
    free(t->apis);
    arena_free(t->arena);
    *t = (struct price_table){0};
}
