#include "scheduler/books/finance.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/text.h"
#include "policies/period.h"
#include "scheduler/books/archive.h"
#include "scheduler/books/ledger_internal.h"

#define PPM_ALL     1000000
#define YEARS_MAX   100
#define SUBJECT_MAX 256
#define YEAR_S      INT64_C(31556952) /* the mean Gregorian year */

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* A member that must be there, a text. */
static enum rc want(const cJSON *o, const char *key, const char **v, struct error *e)
{
    bool found = false;
    enum rc rc = json_get_string(o, key, v, &found, e);
    if (rc == RC_OK && !found)
        rc = error_set(e, RC_INVALID, "%s: is missing", key);
    return rc;
}

static enum rc parse(const char *value, cJSON **root, struct error *e)
{
    enum rc rc = json_parse(value, strlen(value), 8, root, e);
    if (rc == RC_OK && !cJSON_IsObject(*root)) {
        cJSON_Delete(*root);
        *root = NULL;
        rc = error_set(e, RC_INVALID, "a value is a JSON object");
    }
    return rc;
}

static enum rc one_price(const cJSON *o, const char *key, struct price *p, struct error *e)
{
    const char *text;
    enum rc rc = want(o, key, &text, e);
    if (rc == RC_OK && price_parse(text, p, e) != RC_OK)
        rc = error_prefix(e, "%s", key);
    return rc;
}

enum rc finance_prices(const char *value, struct token_prices *p, struct error *e)
{
    cJSON *o = NULL;
    enum rc rc = parse(value, &o, e);
    if (rc == RC_OK)
        rc = one_price(o, "input", &p->input, e);
    if (rc == RC_OK)
        rc = one_price(o, "output", &p->output, e);
    if (rc == RC_OK)
        p->cached_input = p->input;
    if (rc == RC_OK && json_find(o, "cached_input"))
        rc = one_price(o, "cached_input", &p->cached_input, e);
    cJSON_Delete(o);
    return rc;
}

/* "2026-01-31" as seconds; *day 0 where the text is "2026-01". */
static bool parse_date(const char *text, bool with_day, int64_t *at_s)
{
    int64_t year, month, day = 1;
    char y[5], m[3], d[3];
    if (strlen(text) != (with_day ? 10u : 7u) || text[4] != '-' || (with_day && text[7] != '-'))
        return false;
    snprintf(y, sizeof y, "%.4s", text);
    snprintf(m, sizeof m, "%.2s", text + 5);
    snprintf(d, sizeof d, "%.2s", with_day ? text + 8 : "01");
    if (text_parse_int(y, 1970, 9999, &year) != RC_OK || text_parse_int(m, 1, 12, &month) != RC_OK ||
        text_parse_int(d, 1, date_month_days(year, (int)month), &day) != RC_OK)
        return false;
    *at_s = date_to_days(year, (int)month, (int)day) * 86400;
    return true;
}

static enum rc one_amount(const cJSON *o, const char *key, struct pusd *a, struct error *e)
{
    const char *text;
    enum rc rc = want(o, key, &text, e);
    if (rc == RC_OK && pusd_parse(text, a, e) != RC_OK)
        rc = error_prefix(e, "%s", key);
    return rc;
}

enum rc finance_asset(const char *value, struct bill_asset *a, struct error *e)
{
    cJSON *o = NULL;
    const char *bought = NULL;
    double years = 0;
    enum rc rc = parse(value, &o, e);
    *a = (struct bill_asset){.life_s = 0};
    if (rc == RC_OK)
        rc = one_amount(o, "purchase", &a->purchase, e);
    if (rc == RC_OK && json_find(o, "residual"))
        rc = one_amount(o, "residual", &a->residual, e);
    if (rc == RC_OK)
        rc = want(o, "bought", &bought, e);
    if (rc == RC_OK && !parse_date(bought, true, &a->bought_s))
        rc = error_set(e, RC_INVALID, "bought: \"%.40s\" is no date like 2026-01-31", bought);
    if (rc == RC_OK)
        rc = json_get_double(o, "years", 0.01, YEARS_MAX, &years, NULL, e);
    a->life_s = (int64_t)(years * (double)YEAR_S);
    cJSON_Delete(o);
    return rc == RC_OK ? bill_asset_check(a, e) : rc;
}

enum rc finance_amount(const char *text, struct pusd *a, struct error *e)
{
    const bool below = text[0] == '-';
    enum rc rc = pusd_parse(text + below, a, e);
    if (rc == RC_OK && below)
        a->v = -a->v;
    return rc;
}

enum rc finance_percent_ppm(const char *value, int64_t *ppm, struct error *e)
{
    cJSON *o = NULL;
    const char *text = NULL;
    struct price p;
    enum rc rc = parse(value, &o, e);
    if (rc == RC_OK)
        rc = want(o, "percent", &text, e);
    /* Six decimals, as prices have. */
    if (rc == RC_OK && (price_parse(text, &p, e) != RC_OK || p.uusd_per_mtok > 100 * (int64_t)PPM_ALL))
        rc = error_set(e, RC_INVALID, "percent: \"%.40s\" is not from 0 to 100", text);
    if (rc == RC_OK)
        *ppm = p.uusd_per_mtok / 100;
    cJSON_Delete(o);
    return rc;
}

static enum rc check_prices(const struct finance_change *c, struct error *e)
{
    struct token_prices p;
    return finance_prices(c->value, &p, e);
}
static enum rc check_asset(const struct finance_change *c, struct error *e)
{
    struct bill_asset a;
    return finance_asset(c->value, &a, e);
}
static enum rc check_percent(const struct finance_change *c, struct error *e)
{
    int64_t ppm;
    return finance_percent_ppm(c->value, &ppm, e);
}
static enum rc check_match(const struct finance_change *c, struct error *e)
{
    const char *equals = strchr(c->subject, '=');
    if (!equals || equals == c->subject || !equals[1])
        return error_set(e, RC_INVALID, "subject: \"%.80s\" is not like team=search", c->subject);
    return RC_OK;
}
static enum rc check_discount(const struct finance_change *c, struct error *e)
{
    enum rc rc = check_match(c, e);
    return rc == RC_OK ? check_percent(c, e) : rc;
}
static enum rc check_cost_centre(const struct finance_change *c, struct error *e)
{
    cJSON *o = NULL;
    const char *code;
    enum rc rc = check_match(c, e);
    if (rc == RC_OK)
        rc = parse(c->value, &o, e);
    if (rc == RC_OK)
        rc = want(o, "code", &code, e);
    cJSON_Delete(o);
    return rc;
}
static enum rc check_currency(const struct finance_change *c, struct error *e)
{
    cJSON *o = NULL;
    const char *text = NULL;
    struct price p;
    if (strlen(c->subject) != 3 || strspn(c->subject, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 3)
        return error_set(e, RC_INVALID, "subject: \"%.80s\" is no currency like EUR", c->subject);
    enum rc rc = parse(c->value, &o, e);
    if (rc == RC_OK)
        rc = want(o, "per_usd", &text, e);
    if (rc == RC_OK && (price_parse(text, &p, e) != RC_OK || p.uusd_per_mtok == 0))
        rc = error_set(e, RC_INVALID, "per_usd: \"%.40s\" is no rate like 0.9215, with at most 6 decimals", text);
    cJSON_Delete(o);
    return rc;
}
static enum rc check_rent(const struct finance_change *c, struct error *e)
{
    cJSON *o = NULL;
    struct pusd hour;
    int64_t s = 0;
    enum rc rc = parse(c->value, &o, e);
    if (rc == RC_OK)
        rc = one_amount(o, "hour", &hour, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "min_s", 0, 30 * 86400, &s, NULL, e);
    if (rc == RC_OK)
        rc = json_get_int(o, "unit_s", 0, 86400, &s, NULL, e);
    cJSON_Delete(o);
    return rc;
}
static enum rc check_reference(const struct finance_change *c, struct error *e)
{
    cJSON *o = NULL;
    struct pusd hour;
    enum rc rc = parse(c->value, &o, e);
    if (rc == RC_OK && !json_find(o, "hour"))
        rc = check_prices(c, e);
    else if (rc == RC_OK)
        rc = one_amount(o, "hour", &hour, e);
    cJSON_Delete(o);
    return rc;
}
static enum rc check_month(const struct finance_change *c, struct error *e)
{
    int64_t at_s;
    if (!parse_date(c->subject, false, &at_s))
        return error_set(e, RC_INVALID, "subject: \"%.80s\" is no month like 2026-10", c->subject);
    return RC_OK;
}
/* A month may be closed when nothing more can happen in it. */
static enum rc check_lock(const struct finance_change *c, struct error *e)
{
    int64_t at_s = 0, year;
    int month, day;
    enum rc rc = check_month(c, e);
    if (rc != RC_OK || !parse_date(c->subject, false, &at_s))
        return rc;
    date_from_days(c->at.ns / NS_PER_S / 86400, &year, &month, &day);
    if (at_s >= date_to_days(year, month, 1) * 86400)
        return error_set(e, RC_INVALID, "subject: %s is not over yet", c->subject);
    return RC_OK;
}
static enum rc check_nothing(const struct finance_change *c, struct error *e)
{
    (void)c, (void)e;
    return RC_OK;
}

static const struct {
    const char *kind;
    enum rc (*check)(const struct finance_change *c, struct error *e);
    bool dated; /* holds from a date on, which may not be in a locked month */
} kinds[] = {
    {"price", check_prices, true},        {"currency", check_currency, true},
    {"discount", check_discount, true},   {"cost_centre", check_cost_centre, true},
    {"asset", check_asset, true},         {"rent", check_rent, true},
    {"utilisation", check_percent, true}, {"rate", check_prices, true},
    {"reference", check_reference, true}, {"lock", check_lock, false},
    {"unlock", check_month, false},       {"correction", check_nothing, false},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

static int kind_index(const char *kind)
{
    for (size_t i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i].kind, kind) == 0)
            return (int)i;
    return -1;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static enum rc fail(sqlite3 *db, const char *path, struct error *e)
{
    return error_set(e, ledger_rc(sqlite3_errcode(db)), "ledger %s: %s", path, sqlite3_errmsg(db));
}

static void month_text(int64_t at_s, char text[8])
{
    int64_t year;
    int month, day;
    date_from_days(at_s / 86400, &year, &month, &day);
    snprintf(text, 8, "%04u-%02u", (unsigned)year % 10000u, (unsigned)month % 100u);
}

static enum rc month_locked(sqlite3 *db, const char *path, const char *month, bool *locked, struct error *e)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db,
                                "SELECT kind FROM finance WHERE kind IN ('lock', 'unlock') AND subject = ?1"
                                " ORDER BY version DESC LIMIT 1",
                                -1, &s, NULL);
    *locked = false;
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_text(s, 1, month, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        *locked = sqlite3_column_text(s, 0)[0] == 'l';
        rc = SQLITE_DONE;
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? RC_OK : fail(db, path, e);
}

static enum rc check_open(sqlite3 *db, const char *path, const struct finance_change *c, bool dated, struct error *e)
{
    char month[8];
    bool locked;
    const bool is_lock = strcmp(c->kind, "lock") == 0, is_unlock = strcmp(c->kind, "unlock") == 0;
    if (!dated && !is_lock && !is_unlock)
        return RC_OK;
    if (dated)
        month_text(c->from_s, month);
    else
        snprintf(month, sizeof month, "%s", c->subject);
    enum rc rc = month_locked(db, path, month, &locked, e);
    if (rc != RC_OK)
        return rc;
    if (dated && locked)
        return error_set(e, RC_CONFLICT, "%s is locked: a change holds from an open month on; or unlock it first",
                         month);
    if (is_lock && locked)
        return error_set(e, RC_CONFLICT, "%s is locked already", month);
    if (is_unlock && !locked)
        return error_set(e, RC_CONFLICT, "%s is not locked", month);
    return RC_OK;
}

static enum rc check(const struct finance_change *c, int *kind, struct error *e)
{
    *kind = kind_index(c->kind);
    if (*kind < 0)
        return error_set(e, RC_INVALID,
                         "kind: \"%.40s\" is none of price, currency, discount, cost_centre, asset, rent, utilisation,"
                         " rate, reference, lock, unlock",
                         c->kind);
    if (!c->subject[0] || strlen(c->subject) > SUBJECT_MAX)
        return error_set(e, RC_INVALID, "subject: 1 to %d bytes", SUBJECT_MAX);
    if (!c->who || !c->who[0])
        return error_set(e, RC_INVALID, "who: it has to be known who makes a change");
    enum rc rc = kinds[*kind].check(c, e);
    return rc == RC_OK ? RC_OK : error_prefix(e, "%s", c->kind);
}

static enum rc insert(sqlite3 *db, const char *path, const struct finance_change *c, int64_t *version, struct error *e)
{
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(
        db, "INSERT INTO finance (at_ns, who, kind, subject, from_s, value, reason) VALUES (?,?,?,?,?,?,?)", -1, &s,
        NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(s, 1, c->at.ns);
        sqlite3_bind_text(s, 2, c->who, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 3, c->kind, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 4, c->subject, -1, SQLITE_STATIC);
        sqlite3_bind_int64(s, 5, c->from_s);
        sqlite3_bind_text(s, 6, c->value, -1, SQLITE_STATIC);
        sqlite3_bind_text(s, 7, c->reason, -1, SQLITE_STATIC);
        rc = sqlite3_step(s);
    }
    sqlite3_finalize(s);
    *version = sqlite3_last_insert_rowid(db);
    return rc == SQLITE_DONE ? RC_OK : fail(db, path, e);
}

/* What else belongs into the same transaction. */
typedef enum rc also_fn(sqlite3 *db, const char *path, const struct finance_change *c, void *arg, struct error *e);

/* old: an archive for `also`, attached under that name; NULL: none. */
static enum rc change(const char *path, const struct finance_change *given, const char *old, also_fn *also,
                      void *also_arg, finance_hook *hook, void *arg, int64_t *version, struct error *e)
{
    const struct ledger_options o = {.path = path};
    struct finance_change c = *given;
    sqlite3 *db = NULL;
    int kind;
    if (!c.value || !c.value[0])
        c.value = "{}";
    if (!c.from_s)
        c.from_s = c.at.ns / NS_PER_S;
    enum rc rc = check(&c, &kind, e);
    if (rc == RC_OK)
        rc = ledger_file_open(&db, &o, e);
    if (rc == RC_OK && old)
        rc = ledger_file_attach(db, old, "old", e);
    if (rc == RC_OK && sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        rc = fail(db, path, e);
    if (rc == RC_OK)
        rc = check_open(db, path, &c, kinds[kind].dated, e);
    if (rc == RC_OK)
        rc = insert(db, path, &c, &c.version, e);
    if (rc == RC_OK && also)
        rc = also(db, path, &c, also_arg, e);
    if (rc == RC_OK && hook)
        rc = hook(&c, arg, e);
    if (rc == RC_OK && sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        rc = fail(db, path, e);
    *version = rc == RC_OK ? c.version : 0;
    sqlite3_close(db); /* and takes back what was not committed */
    return rc;
}

enum rc finance_change(const char *path, const struct finance_change *c, finance_hook *hook, void *arg,
                       int64_t *version, struct error *e)
{
    if (strcmp(c->kind, "correction") == 0)
        return error_set(e, RC_INVALID, "kind: corrections have a call of their own");
    return change(path, c, NULL, NULL, NULL, hook, arg, version, e);
}

/* ---- corrections ------------------------------------------------------------------------------------------------- */

/* The month in which it counts: that of now, or the first after it that is open. */
static enum rc open_month(sqlite3 *db, const char *path, int64_t at_s, int64_t *month_s, struct error *e)
{
    int64_t year;
    int month, day;
    bool locked = true;
    enum rc rc = RC_OK;
    date_from_days(at_s / 86400, &year, &month, &day);
    for (int i = 0; i < 1200 && rc == RC_OK && locked; i++) {
        char text[8];
        *month_s = date_to_days(year, month, 1) * 86400;
        month_text(*month_s, text);
        rc = month_locked(db, path, text, &locked, e);
        year += month == 12;
        month = month == 12 ? 1 : month + 1;
    }
    return rc;
}

struct correcting {
    struct finance_correction correction;
    char *old; /* the archive that its request stands in; NULL: the ledger */
};

static enum rc put_correction(sqlite3 *db, const char *path, const struct finance_change *c, void *arg, struct error *e)
{
    const struct correcting *k = arg;
    const struct finance_correction *x = &k->correction;
    const char *const texts[] = {x->request_id, x->tenant, x->team, x->project, x->reason};
    sqlite3_stmt *s = NULL;
    int64_t month_s = 0;
    enum rc rc = open_month(db, path, c->at.ns / NS_PER_S, &month_s, e);
    if (rc != RC_OK)
        return rc;
    char *sql = spw_asprintf(
        "INSERT INTO corrections (version, at_ns, month_s, charge_pusd, request_id, tenant, team, project, reason,"
        " key_id, model, node, provider) SELECT ?1, ?2, ?3, ?4, ?5, coalesce(l.tenant, ?6), coalesce(l.team, ?7),"
        " coalesce(l.project, ?8), ?9, l.key_id, l.model, l.node, l.provider"
        " FROM (SELECT 1) LEFT JOIN %s.ledger l ON l.request_id = ?5 WHERE ?5 IS NULL OR l.request_id IS NOT NULL",
        k->old ? "old" : "main");
    int step = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    free(sql);
    if (step == SQLITE_OK) {
        const int64_t numbers[] = {c->version, c->at.ns, month_s, x->charge.v};
        for (int i = 0; i < 4; i++)
            sqlite3_bind_int64(s, i + 1, numbers[i]);
        for (int i = 0; i < 5; i++)
            sqlite3_bind_text(s, i + 5, texts[i], -1, SQLITE_STATIC);
        step = sqlite3_step(s);
    }
    sqlite3_finalize(s);
    if (step != SQLITE_DONE)
        return fail(db, path, e);
    if (sqlite3_changes(db) != 1)
        return error_set(e, RC_NOT_FOUND, "request %.64s is not in the ledger", x->request_id);
    return RC_OK;
}

static enum rc find_old(const char *path, const char *request_id, char **old, struct error *e)
{
    enum rc rc = archive_find(path, request_id, old, e);
    if (rc == RC_OK && strcmp(*old, path) == 0) {
        free(*old);
        *old = NULL;
    }
    return rc;
}

enum rc finance_correct(const char *path, const struct finance_correction *c, const char *who, struct wall at,
                        finance_hook *hook, void *arg, int64_t *version, struct error *e)
{
    char amount[48], value[96];
    struct correcting k = {.correction = *c};
    const bool below = c->charge.v < 0;
    if (!c->reason || !c->reason[0])
        return error_set(e, RC_INVALID, "reason: a correction says why");
    if (c->charge.v == 0 || c->charge.v == INT64_MIN)
        return error_set(e, RC_INVALID, "charge: an amount other than 0");
    snprintf(value, sizeof value, "{\"charge\":\"%s%s\"}", below ? "-" : "",
             pusd_format((struct pusd){below ? -c->charge.v : c->charge.v}, amount, sizeof amount));
    const struct finance_change change_made = {.at = at,
                                               .who = who,
                                               .kind = "correction",
                                               .subject = c->request_id ? c->request_id : "books",
                                               .value = value,
                                               .reason = c->reason};
    enum rc rc = c->request_id ? find_old(path, c->request_id, &k.old, e) : RC_OK;
    if (rc == RC_OK)
        rc = change(path, &change_made, k.old, put_correction, &k, hook, arg, version, e);
    free(k.old);
    return rc;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static const char *text(sqlite3_stmt *s, int column)
{
    return (const char *)sqlite3_column_text(s, column);
}

#define COLUMNS "version, at_ns, who, kind, subject, from_s, value, reason"
static void read_change(sqlite3_stmt *s, struct finance_change *c)
{
    *c = (struct finance_change){.version = sqlite3_column_int64(s, 0),
                                 .at = {sqlite3_column_int64(s, 1)},
                                 .who = text(s, 2),
                                 .kind = text(s, 3),
                                 .subject = text(s, 4),
                                 .value = text(s, 6),
                                 .reason = text(s, 7),
                                 .from_s = sqlite3_column_int64(s, 5)};
}

typedef void change_cb(const struct finance_change *c, void *arg);

static enum rc read_changes(const char *path, const char *sql, int64_t number, const char *kind, const char *subject,
                            change_cb *each, void *arg, struct error *e)
{
    struct books_reader r;
    sqlite3_stmt *s = NULL;
    enum rc rc = books_reader_open(&r, path, e);
    if (rc != RC_OK || !r.db)
        return rc;
    rc = books_reader_prepare(&r, sql, &s, &number, 1, e);
    if (rc == RC_OK) {
        sqlite3_bind_text(s, 2, kind, -1, SQLITE_STATIC);
        if (sqlite3_bind_parameter_count(s) > 2)
            sqlite3_bind_text(s, 3, subject, -1, SQLITE_STATIC);
    }
    while (rc == RC_OK && books_reader_step(&r, s, &rc, e)) {
        struct finance_change c;
        read_change(s, &c);
        each(&c, arg);
    }
    sqlite3_finalize(s);
    books_reader_close(&r);
    return rc;
}

enum rc finance_read(const char *path, const char *kind, const char *subject, int last, change_cb *each, void *arg,
                     struct error *e)
{
    return read_changes(path,
                        "SELECT " COLUMNS " FROM finance WHERE (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR"
                        " subject = ?3) ORDER BY version DESC LIMIT ?1",
                        last, kind, subject, each, arg, e);
}

enum rc finance_read_at(const char *path, const char *kind, int64_t at_s, change_cb *each, void *arg, struct error *e)
{
    return read_changes(path,
                        "SELECT " COLUMNS " FROM finance f WHERE (?2 IS NULL OR kind = ?2) AND from_s <= ?1"
                        " AND NOT EXISTS (SELECT 1 FROM finance g WHERE g.kind = f.kind AND g.subject = f.subject"
                        "  AND g.from_s <= ?1 AND (g.from_s > f.from_s OR (g.from_s = f.from_s AND g.version >"
                        " f.version))) ORDER BY kind, subject",
                        at_s, kind, NULL, each, arg, e);
}

enum rc finance_read_corrections(const char *path, int64_t from_s, int64_t until_s,
                                 void (*each)(const struct correction *c, void *arg), void *arg, struct error *e)
{
    const int64_t range[] = {from_s, until_s};
    struct books_reader r;
    sqlite3_stmt *s = NULL;
    enum rc rc = books_reader_open(&r, path, e);
    if (rc != RC_OK || !r.db)
        return rc;
    rc = books_reader_prepare(&r,
                              "SELECT id, version, month_s, at_ns, request_id, tenant, team, project, key_id, model,"
                              " node, provider, reason, charge_pusd FROM corrections WHERE month_s >= ?1 AND"
                              " month_s < ?2 ORDER BY id",
                              &s, range, 2, e);
    while (rc == RC_OK && books_reader_step(&r, s, &rc, e)) {
        const struct correction c = {.id = sqlite3_column_int64(s, 0),
                                     .version = sqlite3_column_int64(s, 1),
                                     .month_s = sqlite3_column_int64(s, 2),
                                     .at = {sqlite3_column_int64(s, 3)},
                                     .request_id = text(s, 4),
                                     .tenant = text(s, 5),
                                     .team = text(s, 6),
                                     .project = text(s, 7),
                                     .key_id = text(s, 8),
                                     .model = text(s, 9),
                                     .node = text(s, 10),
                                     .provider = text(s, 11),
                                     .reason = text(s, 12),
                                     .charge = {sqlite3_column_int64(s, 13)}};
        each(&c, arg);
    }
    sqlite3_finalize(s);
    books_reader_close(&r);
    return rc;
}

enum rc finance_month_locked(const char *path, int64_t at_s, bool *locked, struct error *e)
{
    struct books_reader r;
    char month[8];
    *locked = false;
    enum rc rc = books_reader_open(&r, path, e);
    if (rc != RC_OK || !r.db)
        return rc;
    month_text(at_s, month);
    rc = month_locked(r.db, path, month, locked, e);
    books_reader_close(&r);
    return rc;
}
