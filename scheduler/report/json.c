/* The report as JSON: sums, days, budgets, savings. Amounts are exact decimal dollars in texts ("0.000001"), since
 * numbers of JSON are floating point in most readers; counts are numbers. */
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/text.h"
#include "scheduler/report/write.h"

static void add_text(cJSON *o, const char *key, const char *text)
{
    if (text)
        cJSON_AddStringToObject(o, key, text);
    else
        cJSON_AddNullToObject(o, key);
}

static void add_count(cJSON *o, const char *key, int64_t n)
{
    char text[32];
    snprintf(text, sizeof text, "%" PRId64, n);
    cJSON_AddRawToObject(o, key, text);
}

static void add_sum(cJSON *o, const char *key, struct pusd_sum a)
{
    char text[64];
    cJSON_AddStringToObject(o, key, pusd_sum_format(a, text, sizeof text));
}

static void add_amount(cJSON *o, const char *key, struct pusd a)
{
    add_sum(o, key, (struct pusd_sum){a.v});
}

static void add_price(cJSON *o, const char *key, struct price p)
{
    char text[64];
    cJSON_AddStringToObject(o, key, price_format(p, text, sizeof text));
}

static void add_time(cJSON *o, const char *key, int64_t at_s)
{
    char text[WRITE_TIME];
    add_text(o, key, at_s ? write_utc(at_s, text) : NULL);
}

static cJSON *add_object(cJSON *array)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToArray(array, o);
    return o;
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

static cJSON *use(const struct report_use *u)
{
    cJSON *o = cJSON_CreateObject();
    add_count(o, "requests", u->requests);
    add_count(o, "failed", u->failed);
    add_count(o, "cancelled", u->cancelled);
    add_count(o, "cached", u->cached);
    add_count(o, "streamed", u->streamed);
    add_count(o, "continuations", u->continuations);
    add_count(o, "tokens_input", u->tokens.input);
    add_count(o, "tokens_cached_input", u->tokens.cached_input);
    add_count(o, "tokens_output", u->tokens.output);
    add_count(o, "tokens_reasoning", u->tokens_reasoning);
    add_sum(o, "charge_usd", u->charge);
    add_sum(o, "charge_per_million_tokens_usd", report_per_million(u->charge, report_tokens(u)));
    add_sum(o, "allocated_usd", u->allocated);
    add_sum(o, "waste_usd", u->waste);
    add_sum(o, "saved_by_cache_usd", u->saved);
    add_count(o, "busy_ms", u->busy_us / 1000);
    add_count(o, "millijoules", u->millijoules);
    return o;
}

static cJSON *cost(const struct report_cost *c)
{
    cJSON *o = cJSON_CreateObject();
    add_sum(o, "bill_usd", c->bill);
    add_sum(o, "fixed_usd", c->fixed);
    add_sum(o, "energy_usd", c->energy);
    add_sum(o, "tokens_usd", c->tokens);
    add_sum(o, "allocated_usd", c->allocated);
    add_sum(o, "idle_usd", c->idle);
    add_sum(o, "boot_usd", c->boot);
    add_sum(o, "waste_usd", c->waste);
    add_sum(o, "variance_usd", c->variance);
    add_count(o, "idle_ppm", report_ppm(c->idle, c->bill));
    add_count(o, "paid_s", c->paid_us / 1000000);
    add_count(o, "busy_s", c->busy_us / 1000000);
    add_count(o, "waste_s", c->waste_us / 1000000);
    add_count(o, "idle_s", c->idle_us / 1000000);
    add_count(o, "boot_s", c->boot_us / 1000000);
    add_count(o, "asleep_s", c->asleep_us / 1000000);
    add_count(o, "energy_millijoules", c->energy_mj);
    add_count(o, "energy_metered_millijoules", c->metered_mj);
    add_count(o, "energy_modelled_millijoules", c->modelled_mj);
    add_count(o, "energy_idle_millijoules", c->idle_mj);
    add_count(o, "preemptions_survived", c->preempted);
    return o;
}

static cJSON *sums(const struct report_use *u, const struct report_cost *c, struct pusd_sum corrected)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToObject(o, "use", use(u));
    cJSON_AddItemToObject(o, "cost", cost(c));
    add_sum(o, "corrections_usd", corrected);
    return o;
}

/* ---- by what, by day --------------------------------------------------------------------------------------------- */

static cJSON *days(const struct report *r, const struct report_point *points, int from)
{
    cJSON *all = cJSON_CreateArray();
    char text[WRITE_TIME];
    for (int i = from; i < r->n_days; i++) {
        cJSON *o = add_object(all);
        add_text(o, "day", write_day(r, i, text));
        add_time(o, "from", r->days[i].start_s);
        add_time(o, "until", r->days[i].end_s);
        add_amount(o, "charge_usd", (struct pusd){points[i].charge});
        add_amount(o, "cost_usd", (struct pusd){points[i].cost});
        add_count(o, "tokens", points[i].tokens);
        add_count(o, "requests", points[i].requests);
    }
    return all;
}

static cJSON *axis(const struct report *r, enum report_dim d)
{
    cJSON *all = cJSON_CreateArray();
    for (int i = 0; i < r->axes[d].n; i++) {
        const struct report_member *m = &r->axes[d].of[i];
        cJSON *o = add_object(all);
        add_text(o, "name", m->others ? "(others)" : m->name);
        add_sum(o, "cost_usd", report_member_cost(d, m));
        cJSON_AddItemToObject(o, "now", sums(&m->use, &m->cost, m->corrected));
        cJSON_AddItemToObject(o, "before", sums(&m->use_before, &m->cost_before, m->corrected_before));
        cJSON_AddItemToObject(o, "days", days(r, m->days, r->day_from));
    }
    return all;
}

static cJSON *units(const struct report *r)
{
    cJSON *all = cJSON_CreateArray();
    for (int i = 0; i < r->n_units; i++) {
        const struct report_unit *u = &r->units[i];
        cJSON *o = add_object(all);
        add_text(o, "model", u->model);
        add_text(o, "pool", u->pool ? u->pool : "(all)");
        add_count(o, "answered_whole", u->requests);
        if (u->requests) {
            add_amount(o, "charge_p50_usd", u->p50);
            add_amount(o, "charge_p99_usd", u->p99);
        }
        add_sum(o, "charge_per_million_tokens_usd", report_per_million(u->use.charge, report_tokens(&u->use)));
        add_sum(o, "cost_per_million_tokens_usd",
                report_per_million((struct pusd_sum){u->use.allocated.v + u->use.waste.v}, report_tokens(&u->use)));
        cJSON_AddItemToObject(o, "use", use(&u->use));
    }
    return all;
}

/* ---- budgets, savings, corrections ------------------------------------------------------------------------------- */

static void add_limit(cJSON *o, const char *key, struct pusd limit)
{
    if (limit.v == BUDGET_UNLIMITED)
        cJSON_AddNullToObject(o, key);
    else
        add_amount(o, key, limit);
}

static cJSON *budgets(const struct report *r)
{
    cJSON *all = cJSON_CreateArray();
    for (int i = 0; i < r->n_budgets; i++) {
        const struct report_budget *b = &r->budgets[i];
        cJSON *o = add_object(all), *burn = cJSON_AddArrayToObject(o, "spent_by_day_usd");
        add_text(o, "name", b->name);
        add_text(o, "period", period_kind_name(b->kind));
        add_time(o, "from", b->start_s);
        add_time(o, "until", b->end_s);
        add_limit(o, "hard_usd", b->hard);
        add_limit(o, "soft_usd", b->soft);
        add_limit(o, "limit_usd", b->limit);
        add_amount(o, "spent_now_usd", b->spent);
        add_amount(o, "waste_usd", b->waste);
        add_sum(o, "spent_in_closed_hours_usd", b->rolled);
        for (int k = 0; b->days && k < b->n_days; k++) {
            char text[64];
            cJSON_AddItemToArray(burn, cJSON_CreateString(pusd_sum_format(b->days[k], text, sizeof text)));
        }
    }
    return all;
}

static cJSON *savings(const struct report *r)
{
    static const char *const keys[REPORT_SAVINGS] = {"all_api", "all_on_demand", "spot", "cache"};
    cJSON *all = cJSON_CreateObject();
    for (int i = 0; i < REPORT_SAVINGS; i++) {
        const struct report_saving *s = &r->savings[i];
        cJSON *o = cJSON_AddObjectToObject(all, keys[i]);
        add_sum(o, "would_cost_usd", s->would);
        add_sum(o, "would_cost_at_least_usd", s->would_least);
        add_sum(o, "costs_usd", s->is);
        add_sum(o, "saved_usd", s->saved);
        add_count(o, "known_ppm", s->known_ppm);
        add_text(o, "assumption", s->assumption);
    }
    cJSON *used = cJSON_AddArrayToObject(all, "prices");
    for (int i = 0; i < r->n_prices_used; i++) {
        const struct report_price_used *p = &r->prices_used[i];
        cJSON *o = add_object(used);
        add_text(o, "subject", p->subject);
        add_text(o, "source", p->source);
        if (p->by_hour) {
            add_amount(o, "hour_usd", p->hour);
        } else {
            add_price(o, "input_per_million_usd", p->prices.input);
            add_price(o, "cached_input_per_million_usd", p->prices.cached_input);
            add_price(o, "output_per_million_usd", p->prices.output);
        }
    }
    return all;
}

static cJSON *corrections(const struct report *r)
{
    cJSON *all = cJSON_CreateArray();
    for (int i = 0; i < r->n_corrections; i++) {
        const struct report_correction *c = &r->corrections[i];
        cJSON *o = add_object(all);
        add_time(o, "at", c->at_s);
        add_count(o, "version", c->version);
        add_text(o, "request_id", c->request_id);
        add_text(o, "team", c->team);
        add_text(o, "model", c->model);
        add_amount(o, "charge_usd", c->charge);
        add_text(o, "reason", c->reason);
    }
    return all;
}

static cJSON *discounts(const struct report *r)
{
    cJSON *all = cJSON_CreateArray();
    for (int i = 0; i < r->n_discounts; i++) {
        cJSON *o = add_object(all);
        add_text(o, "subject", r->discounts[i].subject);
        add_sum(o, "charge_usd", r->discounts[i].charge);
        add_sum(o, "discount_usd", r->discounts[i].discount);
    }
    return all;
}

static cJSON *cost_centres(const struct report *r)
{
    cJSON *o = cJSON_CreateObject();
    for (int i = 0; i < r->n_cost_centres; i++)
        add_text(o, r->cost_centres[i].subject, r->cost_centres[i].code);
    return o;
}

static cJSON *head(const struct report *r)
{
    if (!r->has_head)
        return cJSON_CreateNull();
    struct strbuf b;
    strbuf_init(&b, 4096);
    cJSON *o = audit_head_write(&r->head, &b) == RC_OK ? cJSON_CreateRaw(b.data) : cJSON_CreateNull();
    strbuf_fini(&b);
    return o;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static cJSON *period(const struct report *r)
{
    const struct report_period *p = &r->period;
    cJSON *o = cJSON_CreateObject();
    add_text(o, "name", p->name);
    add_time(o, "from", p->from_s);
    add_time(o, "until", p->until_s);
    add_time(o, "before_from", p->before_s);
    add_time(o, "before_until", p->before_until_s);
    add_text(o, "time_zone", r->zone_name);
    return o;
}

static cJSON *hours(const struct report *r)
{
    cJSON *o = cJSON_CreateObject();
    add_count(o, "closed", r->hours.closed);
    add_count(o, "open", r->hours.open);
    add_count(o, "wrong", r->hours.wrong);
    add_time(o, "first_open", r->hours.first_open_s);
    add_time(o, "first_wrong", r->hours.first_wrong_s);
    add_text(o, "first_problem", r->hours.first_problem);
    return o;
}

static cJSON *document(const struct report *r)
{
    cJSON *o = cJSON_CreateObject(), *by, *month;
    add_count(o, "report", 1); /* the form of this document */
    add_text(o, "site", r->site);
    add_text(o, "team", r->team);
    add_time(o, "made", r->made.ns / NS_PER_S);
    cJSON_AddItemToObject(o, "period", period(r));
    cJSON_AddItemToObject(o, "hours", hours(r));
    cJSON_AddItemToObject(o, "now", sums(&r->use, &r->cost, r->corrected));
    cJSON_AddItemToObject(o, "before", sums(&r->use_before, &r->cost_before, r->corrected_before));
    cJSON_AddItemToObject(o, "month", month = sums(&r->month, &r->month_cost, r->month_corrected));
    add_time(month, "from", r->month_from_s);
    add_time(month, "until", r->month_until_s);
    cJSON_AddItemToObject(o, "unallocated", use(&r->unallocated));
    add_count(o, "unallocated_ppm", report_ppm(r->unallocated.charge, r->use.charge));
    by = cJSON_AddObjectToObject(o, "by");
    for (int d = 0; d < REPORT_DIMS; d++)
        cJSON_AddItemToObject(by, report_dim_name((enum report_dim)d), axis(r, (enum report_dim)d));
    cJSON_AddItemToObject(o, "days", days(r, r->all_days, 0));
    cJSON_AddItemToObject(o, "units", units(r));
    cJSON_AddItemToObject(o, "budgets", budgets(r));
    cJSON_AddItemToObject(o, "savings", savings(r));
    cJSON_AddItemToObject(o, "corrections", corrections(r));
    cJSON_AddItemToObject(o, "discounts", discounts(r));
    cJSON_AddItemToObject(o, "cost_centres", cost_centres(r));
    cJSON_AddItemToObject(o, "audit_head", head(r));
    return o;
}

enum rc report_write_json(const struct report *r, FILE *out, struct error *e)
{
    cJSON *o = document(r);
    char *text = cJSON_Print(o);
    const bool ok = text && fputs(text, out) >= 0 && fputc('\n', out) != EOF && fflush(out) == 0;
    cJSON_free(text);
    cJSON_Delete(o);
    return ok ? RC_OK : error_set(e, RC_IO, "the report cannot be written");
}
