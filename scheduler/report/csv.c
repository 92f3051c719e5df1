/* The report as a table in the columns of FinOps FOCUS (https://focus.finops.org), 1.4 or 1.2. One list of columns,
 * from which head and rows come; one row per day and what is alike.
 *
 *   a cell's tokens   up to four rows, one per meter: input, cached input, output, reasoning. BilledCost: its tokens at
 *                     its price; EffectiveCost: its part of what was allocated, by largest remainder
 *   ... and beside    what a client's own bound took off (Adjustment), what was allocated to work that nobody got (Usage),
 *                     finance's discounts (Credit)
 *   a machine's day   idle and booting time (Usage), variance (Adjustment)
 *   corrections       each (ChargeClass Correction)
 *
 * Sums: BilledCost of all but corrections and discounts is the ledger's charges, to the pico-dollar; EffectiveCost of
 * all is the bills. A row's counts that are of its whole cell (requests, joules, savings) stand in the cell's first row
 * alone, so that columns can be added up. */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/divide.h"
#include "scheduler/report/gather.h"

#define MICRO 1000000

struct focus_row {
    /* texts; NULL: null */
    const char *billing_account, *account_type, *category, *class, *description, *frequency, *host, *issuer;
    const char *invoice; /* always null: the site's own books, no invoice is issued from them */
    const char *pricing_category, *pricing_unit, *consumed_unit, *region, *resource, *resource_type;
    const char *service, *provider, *publisher, *service_category, *service_subcategory;
    const char *sku, *sku_meter, *sku_price, *sub_account, *sub_type, *tags, *currency;
    const char *method, *method_details, *allocated_to;
    const char *kind, *cost_centre, *project, *model, *pool, *market, *cache, *request_id;
    int64_t month_s, month_end_s, start_s, end_s;
    struct pusd_sum billed, contracted, effective, list, saved;       /* saved 0: null */
    bool priced;                                                      /* the following are known */
    struct price unit_price;                                          /* dollars per pricing unit */
    int64_t quantity_micro;                                           /* of the pricing unit, in millionths */
    int64_t consumed_micro;                                           /* of the consumed unit */
    int64_t requests, failed, cancelled, joules_milli, price_version; /* 0: null */
};

enum kind { TEXT, TIME, AMOUNT, SAVED, UNIT_PRICE, QUANTITY, COUNT, MILLI };
enum { IN_1_2 = 1, IN_1_4 = 2, IN_BOTH = 3 };
#define AT(member) offsetof(struct focus_row, member)
static const struct column {
    const char *name;
    enum kind kind;
    size_t at;
    int in;
} columns[] = {
    {"AllocatedMethodDetails", TEXT, AT(method_details), IN_1_4},
    {"AllocatedMethodId", TEXT, AT(method), IN_1_4},
    {"AllocatedResourceId", TEXT, AT(allocated_to), IN_1_4},
    {"AllocatedResourceName", TEXT, AT(allocated_to), IN_1_4},
    {"BilledCost", AMOUNT, AT(billed), IN_BOTH},
    {"BillingAccountId", TEXT, AT(billing_account), IN_BOTH},
    {"BillingAccountName", TEXT, AT(billing_account), IN_BOTH},
    {"BillingAccountType", TEXT, AT(account_type), IN_BOTH},
    {"BillingCurrency", TEXT, AT(currency), IN_BOTH},
    {"BillingPeriodEnd", TIME, AT(month_end_s), IN_BOTH},
    {"BillingPeriodStart", TIME, AT(month_s), IN_BOTH},
    {"ChargeCategory", TEXT, AT(category), IN_BOTH},
    {"ChargeClass", TEXT, AT(class), IN_BOTH},
    {"ChargeDescription", TEXT, AT(description), IN_BOTH},
    {"ChargeFrequency", TEXT, AT(frequency), IN_BOTH},
    {"ChargePeriodEnd", TIME, AT(end_s), IN_BOTH},
    {"ChargePeriodStart", TIME, AT(start_s), IN_BOTH},
    {"ConsumedQuantity", QUANTITY, AT(consumed_micro), IN_BOTH},
    {"ConsumedUnit", TEXT, AT(consumed_unit), IN_BOTH},
    {"ContractedCost", AMOUNT, AT(contracted), IN_BOTH},
    {"ContractedUnitPrice", UNIT_PRICE, AT(unit_price), IN_BOTH},
    {"EffectiveCost", AMOUNT, AT(effective), IN_BOTH},
    {"HostProviderName", TEXT, AT(host), IN_1_4},
    {"InvoiceId", TEXT, AT(invoice), IN_1_2},
    {"InvoiceIssuerName", TEXT, AT(provider), IN_1_2}, /* another issuer's rows would have to be billed with 0 */
    {"InvoiceIssuerName", TEXT, AT(issuer), IN_1_4},
    {"ListCost", AMOUNT, AT(list), IN_BOTH},
    {"ListUnitPrice", UNIT_PRICE, AT(unit_price), IN_BOTH},
    {"PricingCategory", TEXT, AT(pricing_category), IN_BOTH},
    {"PricingQuantity", QUANTITY, AT(quantity_micro), IN_BOTH},
    {"PricingUnit", TEXT, AT(pricing_unit), IN_BOTH},
    {"ProviderName", TEXT, AT(provider), IN_1_2},
    {"PublisherName", TEXT, AT(publisher), IN_1_2},
    {"RegionId", TEXT, AT(region), IN_BOTH},
    {"RegionName", TEXT, AT(region), IN_BOTH},
    {"ResourceId", TEXT, AT(resource), IN_BOTH},
    {"ResourceName", TEXT, AT(resource), IN_BOTH},
    {"ResourceType", TEXT, AT(resource_type), IN_BOTH},
    {"ServiceCategory", TEXT, AT(service_category), IN_BOTH},
    {"ServiceName", TEXT, AT(service), IN_BOTH},
    {"ServiceProviderName", TEXT, AT(provider), IN_1_4},
    {"ServiceSubcategory", TEXT, AT(service_subcategory), IN_BOTH},
    {"SkuId", TEXT, AT(sku), IN_BOTH},
    {"SkuMeter", TEXT, AT(sku_meter), IN_BOTH},
    {"SkuPriceId", TEXT, AT(sku_price), IN_BOTH},
    {"SubAccountId", TEXT, AT(sub_account), IN_BOTH},
    {"SubAccountName", TEXT, AT(sub_account), IN_BOTH},
    {"SubAccountType", TEXT, AT(sub_type), IN_BOTH},
    {"Tags", TEXT, AT(tags), IN_BOTH},
    {"x_CacheSavings", SAVED, AT(saved), IN_BOTH},
    {"x_CacheStatus", TEXT, AT(cache), IN_BOTH},
    {"x_CancelledRequests", COUNT, AT(cancelled), IN_BOTH},
    {"x_CostCenter", TEXT, AT(cost_centre), IN_BOTH},
    {"x_CostKind", TEXT, AT(kind), IN_BOTH},
    {"x_EnergyJoules", MILLI, AT(joules_milli), IN_BOTH},
    {"x_FailedRequests", COUNT, AT(failed), IN_BOTH},
    {"x_Market", TEXT, AT(market), IN_BOTH},
    {"x_Model", TEXT, AT(model), IN_BOTH},
    {"x_Pool", TEXT, AT(pool), IN_BOTH},
    {"x_PriceVersion", COUNT, AT(price_version), IN_BOTH},
    {"x_Project", TEXT, AT(project), IN_BOTH},
    {"x_RequestCount", COUNT, AT(requests), IN_BOTH},
    {"x_RequestId", TEXT, AT(request_id), IN_BOTH},
};
#define N_COLUMNS (sizeof columns / sizeof columns[0])

/* ---- fields ------------------------------------------------------------------------------------------------------ */

struct writer {
    const struct report *r;
    FILE *out;
    int version;
    struct arena *texts; /* of the row */
};

/* RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe: names may be somebody else's. */
static void put_text(FILE *out, const char *text)
{
    const bool formula = text[0] && strchr("=+-@\t\r", text[0]);
    if (!formula && !strpbrk(text, ",\"\r\n")) {
        fputs(text, out);
        return;
    }
    fputs(formula ? "\"'" : "\"", out);
    for (const char *p = text; *p; p++) {
        if (*p == '"')
            fputc('"', out);
        fputc(*p, out);
    }
    fputc('"', out);
}

static void put_time(FILE *out, int64_t at_s)
{
    char text[32];
    wall_format((struct wall){at_s * NS_PER_S}, text, sizeof text);
    fprintf(out, "%.19sZ", text);
}

static void put_field(const struct writer *w, const struct column *c, const struct focus_row *row)
{
    const void *at = (const char *)row + c->at;
    const int64_t *number = at;
    char text[64];
    switch (c->kind) {
    case TEXT:
        if (*(const char *const *)at)
            put_text(w->out, *(const char *const *)at);
        break;
    case TIME: put_time(w->out, *number); break;
    case SAVED:
        if (!((const struct pusd_sum *)at)->v)
            break;
        /* fall through */
    case AMOUNT: fputs(pusd_sum_format(*(const struct pusd_sum *)at, text, sizeof text), w->out); break;
    case UNIT_PRICE:
    case QUANTITY: /* both in millionths */
        if (row->priced)
            fputs(price_format((struct price){*number}, text, sizeof text), w->out);
        break;
    case COUNT:
        if (*number)
            fprintf(w->out, "%" PRId64, *number);
        break;
    case MILLI:
        if (*number)
            fprintf(w->out, "%s%" PRId64 ".%03d", *number < 0 ? "-" : "", (*number < 0 ? -*number : *number) / 1000,
                    (int)((*number < 0 ? -*number : *number) % 1000));
        break;
    }
}

static void put_row(const struct writer *w, const struct focus_row *row)
{
    bool first = true;
    for (size_t i = 0; i < N_COLUMNS; i++) {
        if (!(columns[i].in & w->version))
            continue;
        if (!first)
            fputc(',', w->out);
        first = false;
        if (row)
            put_field(w, &columns[i], row);
        else
            fputs(columns[i].name, w->out);
    }
    fputs("\r\n", w->out);
}

/* ---- what rows have in common ------------------------------------------------------------------------------------ */

static bool is(const char *text, const char *word)
{
    return text && strcmp(text, word) == 0;
}

/* "cloud/region/zone/type" */
static const char *region(struct writer *w, const char *domain)
{
    const char *from = domain ? strchr(domain, '/') : NULL;
    if (!from || !from[1] || from[1] == '/')
        return NULL;
    return arena_strndup(w->texts, from + 1, strcspn(from + 1, "/"));
}

static void put_when(const struct writer *w, struct focus_row *row, int day)
{
    const struct report_day *d = &w->r->days[day];
    row->start_s = d->start_s;
    row->end_s = d->end_s;
    row->month_s = d->month_s;
    row->month_end_s = d->month_end_s;
}

/* Whose machines they are says who serves, who hosts and who sends the invoice. */
static struct focus_row row_of(struct writer *w, const char *provider, const char *market, const char *domain,
                               const char *pool)
{
    const char *site = w->r->site;
    const bool api = is(market, "api"), own = !market || is(market, "on-prem") || !provider;
    return (struct focus_row){.currency = "USD",
                              .billing_account = "default",
                              .account_type = "Tenant",
                              .category = "Usage",
                              .frequency = "Usage-Based",
                              .service_category = "AI and Machine Learning",
                              .service_subcategory = "Generative AI",
                              .service = "LLM inference",
                              .provider = api && provider ? provider : site,
                              .publisher = api && provider ? provider : site,
                              .host = own ? site : provider,
                              .issuer = own ? site : provider,
                              .pricing_category = is(market, "spot") ? "Dynamic" : "Standard",
                              .region = region(w, domain),
                              .resource = pool,
                              .resource_type = pool ? (api ? "Model API" : "Inference Node Pool") : NULL,
                              .pool = pool,
                              .market = market};
}

/* ",a=b,c=d," as {"a": "b", "c": "d"}; labels hold nothing that would have to be escaped. */
static const char *tags(struct writer *w, const char *labels)
{
    struct strbuf b;
    bool first = true;
    strbuf_init(&b, 65536);
    (void)!strbuf_puts(&b, "{");
    for (const char *at = labels; at && *at == ',' && at[1]; at += 1 + strcspn(at + 1, ",")) {
        const size_t all = strcspn(at + 1, ","), name = strcspn(at + 1, "=");
        if (name >= all)
            continue;
        (void)!strbuf_printf(&b, "%s\"%.*s\": \"%.*s\"", first ? "" : ", ", (int)name, at + 1, (int)(all - name - 1),
                             at + 2 + name);
        first = false;
    }
    (void)!strbuf_puts(&b, "}");
    const char *text = first ? NULL : arena_strndup(w->texts, b.data, b.len);
    strbuf_fini(&b);
    return text;
}

static struct focus_row row_of_cell(struct writer *w, const struct report_cell *c)
{
    const struct report *r = w->r;
    struct focus_row row = row_of(w, c->provider, c->market, c->domain, c->pool);
    put_when(w, &row, c->day);
    if (c->tenant)
        row.billing_account = c->tenant;
    row.sub_account = c->team;
    row.sub_type = c->team ? "Team" : NULL;
    row.tags = tags(w, c->tags);
    row.cost_centre = report_cost_centre(r, c->tenant, c->team, c->project);
    row.project = c->project;
    row.model = c->model;
    row.cache = c->cache;
    row.price_version = c->price_version;
    if (!is(c->market, "api") && !c->cache) { /* the machine is shared: what it costs is divided */
        row.method = "spillway-machine-time";
        row.method_details =
            "{\"x_Method\": \"each step's time and energy divided by weighted tokens, summed by hour\"}";
        row.allocated_to = c->team ? c->team : "unallocated";
    }
    return row;
}

static void put_sku(struct writer *w, struct focus_row *row, const char *of, const char *meter, struct price price)
{
    char text[48];
    row->sku = arena_printf(w->texts, "%s/%s", of ? of : "unknown", meter);
    row->sku_meter = meter;
    row->sku_price = arena_printf(w->texts, "%s@%s", row->sku, price_format(price, text, sizeof text));
    row->priced = true;
    row->unit_price = price;
}

/* ---- a cell ------------------------------------------------------------------------------------------------------ */

enum { INPUT, CACHED, OUTPUT, REASONING, METERS };
static const char *const meters[METERS] = {"Input Tokens", "Cached Input Tokens", "Output Tokens", "Reasoning Tokens"};

/* The cell's counts, in the first of its rows that is written. */
static void put_counts(struct focus_row *row, const struct report_use *u, bool *written)
{
    if (*written)
        return;
    *written = true;
    row->requests = u->requests;
    row->failed = u->failed;
    row->cancelled = u->cancelled;
    row->joules_milli = u->millijoules;
    row->saved = u->saved;
}

static void put_meter(struct writer *w, const struct report_cell *c, int meter, int64_t tokens, struct price price,
                      int64_t allocated, bool *counted)
{
    struct focus_row row = row_of_cell(w, c);
    put_sku(w, &row, c->model, meters[meter], price);
    row.kind = "usage";
    row.description = arena_printf(w->texts, "%s of %s%s%s", meters[meter], c->model ? c->model : "an unknown model",
                                   c->pool ? " on " : "", c->pool ? c->pool : "");
    row.pricing_unit = "1000000 Tokens";
    row.consumed_unit = "Tokens";
    row.quantity_micro = tokens;
    row.consumed_micro = tokens * MICRO;
    row.billed = row.list = row.contracted = (struct pusd_sum){(__int128)tokens * price.uusd_per_mtok};
    row.effective = (struct pusd_sum){allocated};
    put_counts(&row, &c->use, counted);
    put_row(w, &row);
}

/* A row beside the meters': no price, or one of nothing. */
static void put_beside(struct writer *w, const struct report_cell *c, const char *kind, const char *category,
                       const char *description, struct pusd_sum billed, struct pusd_sum effective, bool *counted)
{
    struct focus_row row = row_of_cell(w, c);
    row.kind = kind;
    row.category = category;
    row.description = description;
    row.billed = row.contracted = row.list = billed;
    row.effective = effective;
    if (strcmp(category, "Usage") == 0) {
        put_sku(w, &row, c->model, "Unused Requests", (struct price){0});
        row.pricing_unit = row.consumed_unit = "Requests";
        row.quantity_micro = row.consumed_micro = (c->use.failed + c->use.cancelled) * MICRO;
    } else {
        row.frequency = "One-Time";
        row.pricing_category = NULL;
    }
    put_counts(&row, &c->use, counted);
    put_row(w, &row);
}

static void put_discounts(struct writer *w, const struct report_cell *c, bool *counted)
{
    const struct report *r = w->r;
    for (int i = 0; i < r->n_discounts; i++) {
        const int64_t ppm = r->discounts[i].ppm[c->day];
        const struct pusd_sum off = {-(c->use.charge.v * ppm / MICRO)};
        if (off.v && report_match(r->discounts[i].subject, c))
            put_beside(w, c, "discount", "Credit", arena_printf(w->texts, "Discount for %s", r->discounts[i].subject),
                       off, (struct pusd_sum){0}, counted);
    }
}

static void put_cell(struct writer *w, const struct report_cell *c)
{
    const struct report_use *u = &c->use;
    const int64_t tokens[METERS] = {u->tokens.input - u->tokens.cached_input, u->tokens.cached_input,
                                    u->tokens.output - u->tokens_reasoning, u->tokens_reasoning};
    const struct price prices[METERS] = {c->prices.input, c->prices.cached_input, c->prices.output, c->prices.output};
    int64_t weights[METERS], parts[METERS];
    __int128 charge = 0;
    bool counted = false, priced = false;
    for (int i = 0; i < METERS; i++) {
        charge += (__int128)tokens[i] * prices[i].uusd_per_mtok;
        priced = priced || (tokens[i] && prices[i].uusd_per_mtok);
    }
    for (int i = 0; i < METERS; i++) /* by what they are charged; where that is nothing, by how many there are */
        weights[i] = priced ? (int64_t)((__int128)tokens[i] * prices[i].uusd_per_mtok / 1000) : tokens[i];
    const int64_t given = divide_by_weight((int64_t)u->allocated.v, weights, parts, METERS);
    if (given != u->allocated.v) /* what served them stands in another cell: they ended elsewhere, or in another hour */
        parts[OUTPUT] = (int64_t)u->allocated.v;
    for (int i = 0; i < METERS; i++)
        if (tokens[i] || parts[i])
            put_meter(w, c, i, tokens[i], prices[i], parts[i], &counted);
    if (u->charge.v != charge)
        put_beside(w, c, "bound", "Adjustment", "What the client's own bound took off",
                   (struct pusd_sum){u->charge.v - charge}, (struct pusd_sum){0}, &counted);
    if (u->waste.v)
        put_beside(w, c, "waste", "Usage", "Machine time of answers that nobody got", (struct pusd_sum){0}, u->waste,
                   &counted);
    put_discounts(w, c, &counted);
    if (!counted && u->requests)
        put_beside(w, c, "usage", "Usage", "Requests without tokens", (struct pusd_sum){0}, (struct pusd_sum){0},
                   &counted);
}

/* ---- machines ---------------------------------------------------------------------------------------------------- */

static void put_node(struct writer *w, const struct report_node_day *n, const char *kind, const char *description,
                     const char *meter, int64_t us, struct pusd_sum cost, int64_t millijoules)
{
    struct focus_row row = row_of(w, n->provider, n->market, n->domain, n->pool);
    if (!cost.v && !us && !millijoules)
        return;
    put_when(w, &row, n->day);
    row.kind = kind;
    row.description = description;
    row.resource = n->node;
    row.resource_type = "Inference Node";
    row.effective = cost;
    row.joules_milli = millijoules;
    if (meter) {
        put_sku(w, &row, n->pool, meter, (struct price){0});
        row.pricing_unit = row.consumed_unit = "Seconds";
        row.quantity_micro = row.consumed_micro = us;
    } else {
        row.category = "Adjustment";
        row.frequency = "One-Time";
        row.pricing_category = NULL;
    }
    put_row(w, &row);
}

static void put_machine(struct writer *w, const struct report_node_day *n)
{
    const struct report_cost *c = &n->cost;
    put_node(w, n, "idle", "Machine time in which nothing was to be computed", "Idle Time", c->idle_us + c->asleep_us,
             c->idle, c->idle_mj);
    put_node(w, n, "boot", "Machine time in which it started", "Boot Time", c->boot_us, c->boot, c->boot_mj);
    put_node(w, n, "variance", "What measurements do not account for", NULL, 0, c->variance,
             c->energy_mj - c->idle_mj - c->boot_mj - c->busy_mj);
}

/* ---- corrections ------------------------------------------------------------------------------------------------- */

static void put_correction(struct writer *w, const struct report_correction *c)
{
    const struct report *r = w->r;
    struct focus_row row = row_of(w, c->provider, NULL, NULL, NULL);
    const int64_t hour_s = c->at_s / GATHER_HOUR_S * GATHER_HOUR_S;
    int day = r->day_from;
    while (day + 1 < r->n_days && r->days[day].end_s <= hour_s)
        day++;
    put_when(w, &row, day);
    row.kind = "correction";
    row.class = "Correction";
    row.category = "Adjustment";
    row.frequency = "One-Time";
    row.pricing_category = NULL;
    row.description = c->reason;
    row.billing_account = c->tenant ? c->tenant : "default";
    row.sub_account = c->team;
    row.sub_type = c->team ? "Team" : NULL;
    row.cost_centre = report_cost_centre(r, c->tenant, c->team, c->project);
    row.project = c->project;
    row.model = c->model;
    row.request_id = c->request_id;
    row.price_version = c->version;
    row.billed = row.contracted = row.list = (struct pusd_sum){c->charge.v};
    put_row(w, &row);
}

enum rc report_write_csv(const struct report *r, enum report_focus version, FILE *out, struct error *e)
{
    struct writer w = {.r = r, .out = out, .version = version == REPORT_FOCUS_1_2 ? IN_1_2 : IN_1_4};
    put_row(&w, NULL);
    for (int i = 0; i < r->n_cells + r->n_node_days + r->n_corrections && !ferror(out); i++) {
        w.texts = arena_new((size_t)1 << 20);
        if (i < r->n_cells)
            put_cell(&w, &r->cells[i]);
        else if (i < r->n_cells + r->n_node_days)
            put_machine(&w, &r->node_days[i - r->n_cells]);
        else
            put_correction(&w, &r->corrections[i - r->n_cells - r->n_node_days]);
        arena_free(w.texts);
    }
    return fflush(out) == 0 && !ferror(out) ? RC_OK : error_set(e, RC_IO, "the table cannot be written");
}
