/* What can be had, at what price, and what is being left alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "providers/ec2_internal.h"

#define PRICE_PAGES_MAX 50
#define PRICE_ROWS_MAX  (PRICE_PAGES_MAX * 1000)
#define LATE_S          600  /* by so much EC2 may be late with a price */
#define PRICES_MAX      4096 /* types x zones: far more than any pool names */
#define BILLING_MIN_S   60   /* "Per-second billing, with a minimum of 60 seconds" (EC2 pricing, Linux) */

/* ---- what is left alone ----------------------------------------------------------------------------------------- */

static void mark(struct ec2 *p, const char *key, bool quota, int64_t ms)
{
    struct ec2_cold *c = p->colds;
    while (c && strcmp(c->key, key) != 0)
        c = c->next;
    if (!c) {
        c = spw_calloc(1, sizeof(*c));
        c->key = spw_strdup(key);
        c->next = p->colds;
        p->colds = c;
    }
    c->quota = quota;
    c->until = ec2_after(p, ms);
}

static void drop_past(struct ec2 *p)
{
    for (struct ec2_cold **link = &p->colds; *link;) {
        struct ec2_cold *c = *link;
        if (!ec2_is_past(p, c->until)) {
            link = &c->next;
            continue;
        }
        *link = c->next;
        free(c->key);
        free(c);
    }
}

void ec2_mark_cold(struct ec2 *p, const char *offer)
{
    struct ec2_offer o;
    if (!ec2_offer_parse(offer, &o))
        return;
    log_info(p->env.log, "provider", "offer is cold", LOG_S("offer", offer), LOG_I("ms", p->cold_ms));
    mark(p, offer, false, p->cold_ms);
}

static void quota_key(const struct ec2_offer *o, char key[64])
{
    char type[32];
    snprintf(type, sizeof type, "%.*s", (int)o->type_n, o->type);
    snprintf(key, 64, "quota %s %s", ec2_quota_family(type), provider_market_name(o->market));
}

void ec2_mark_quota(struct ec2 *p, const char *offer)
{
    struct ec2_offer o;
    char key[64];
    if (!ec2_offer_parse(offer, &o))
        return;
    quota_key(&o, key);
    log_error(p->env.log, "provider", "quota of the AWS account is met, nothing more of it is launched for now",
              LOG_S("quota", key), LOG_S("region", p->region), LOG_I("ms", p->quota_ms));
    mark(p, key, true, p->quota_ms);
}

int64_t ec2_cold_ms(struct ec2 *p, const char *offer, bool *quota)
{
    struct ec2_offer o;
    char key[64];
    int64_t most = 0;
    *quota = false;
    if (!ec2_offer_parse(offer, &o))
        return 0;
    quota_key(&o, key);
    drop_past(p);
    for (const struct ec2_cold *c = p->colds; c; c = c->next) {
        int64_t left = (c->until.ns - clock_now(p->env.clock).ns) / NS_PER_MS + 1;
        if ((strcmp(c->key, offer) != 0 && strcmp(c->key, key) != 0) || left <= most)
            continue;
        most = left;
        *quota = c->quota;
    }
    return most;
}

/* ---- spot prices ------------------------------------------------------------------------------------------------ */

static struct ec2_spot_price *find_price(const struct ec2 *p, const struct ec2_offer *o)
{
    for (struct ec2_spot_price *s = p->prices; s; s = s->next) {
        if (strlen(s->type) == o->type_n && strncmp(s->type, o->type, o->type_n) == 0 && strlen(s->zone) == o->zone_n &&
            strncmp(s->zone, o->zone, o->zone_n) == 0)
            return s;
    }
    return NULL;
}

struct pusd ec2_price_of(const struct ec2 *p, const struct ec2_offer *o, struct pusd on_demand, int64_t *at_s)
{
    const struct ec2_spot_price *s = o->market == PROVIDER_ON_DEMAND ? NULL : find_price(p, o);
    if (at_s)
        *at_s = s ? s->at_s : 0;
    if (o->market == PROVIDER_ON_DEMAND)
        return on_demand;
    return s ? s->hour : (struct pusd){0};
}

static struct ec2_spot_price *keep_price(struct ec2 *p, const struct ec2_price *price)
{
    const struct ec2_offer o = {
        .zone = price->zone, .zone_n = strlen(price->zone), .type = price->type, .type_n = strlen(price->type)};
    struct ec2_spot_price *s = find_price(p, &o);
    if (!s && p->n_prices == PRICES_MAX) {
        if (!p->prices_full)
            log_warn(p->env.log, "provider", "more spot prices than are kept; the others are not known",
                     LOG_S("provider", p->env.name), LOG_I("kept", PRICES_MAX));
        p->prices_full = true;
    } else if (!s) {
        p->n_prices++;
        s = spw_calloc(1, sizeof(*s));
        *s = (struct ec2_spot_price){
            .next = p->prices, .type = spw_strdup(price->type), .zone = spw_strdup(price->zone)};
        p->prices = s;
    }
    return s;
}

static void on_price(const struct ec2_price *price, void *arg)
{
    struct ec2 *p = arg;
    struct ec2_spot_price *of = keep_price(p, price);
    if (!of || p->n_rows == PRICE_ROWS_MAX)
        return;
    if (p->n_rows == p->rows_cap) {
        p->rows_cap = p->rows_cap ? 2 * p->rows_cap : 64;
        p->rows = spw_realloc(p->rows, (size_t)p->rows_cap * sizeof p->rows[0]);
    }
    p->rows[p->n_rows++] = (struct ec2_price_row){.of = of, .hour = price->hour, .at_s = price->at_s};
}

static int by_time(const void *a, const void *b)
{
    const int64_t x = ((const struct ec2_price_row *)a)->at_s, y = ((const struct ec2_price_row *)b)->at_s;
    return (x > y) - (x < y);
}

/* The answers come in no promised order. Rounds overlap, so most of what they say was told before. */
static void take_history(struct ec2 *p)
{
    const bool all = p->round_s == p->history_s;
    if (p->n_rows > 0)
        qsort(p->rows, (size_t)p->n_rows, sizeof p->rows[0], by_time);
    for (int i = 0; i < p->n_rows; i++) {
        const struct ec2_price_row *row = &p->rows[i];
        struct ec2_spot_price *of = row->of;
        if ((all || row->at_s > of->at_s) && p->env.on_price) {
            char *offer = spw_asprintf("%s/%s/%s", of->zone, of->type, provider_market_name(PROVIDER_SPOT));
            p->env.on_price(offer, row->hour, row->at_s, p->env.arg);
            free(offer);
        }
        if (row->at_s >= of->at_s) {
            of->hour = row->hour;
            of->at_s = row->at_s;
        }
    }
    if (p->next_round_s == p->round_s) /* nobody wants more of what was before */
        p->next_round_s = p->round_at_s - LATE_S;
}

void ec2_want_history(struct ec2 *p, int64_t at_s)
{
    if (at_s >= p->history_s)
        return;
    p->history_s = p->next_round_s = at_s;
}

/* Those that run on spot cost something else now. */
static void tell_prices(struct ec2 *p)
{
    for (struct ec2_machine *m = p->machines, *next; m; m = next) {
        struct ec2_offer o;
        next = m->next;
        if (!m->offer || !ec2_offer_parse(m->offer, &o) || o.market != PROVIDER_SPOT)
            continue;
        int64_t at_s;
        struct pusd price = ec2_price_of(p, &o, (struct pusd){0}, &at_s);
        if (price.v == 0 || price.v == m->price.v)
            continue;
        m->price = price;
        m->price_at_s = at_s;
        if (!m->ending && m->state == INSTANCE_RUNNING)
            ec2_machine_enter(m, m->state);
    }
}

static void answer_offers(struct ec2 *p, enum provider_failure failure, const char *text);

static void arm_prices(struct ec2 *p)
{
    struct timeval tv = {.tv_sec = p->prices_ms / 1000, .tv_usec = p->prices_ms % 1000 * 1000};
    evtimer_add(p->price_timer, &tv);
}

static void on_prices(const struct aws_reply *r, void *arg);

static void ask_prices(struct ec2 *p, const char *next)
{
    struct aws_form f;
    if (!next) {
        p->prices_at = clock_now(p->env.clock);
        p->price_pages = p->n_rows = 0;
        p->round_at_s = clock_wall(p->env.clock).ns / NS_PER_S;
        p->round_s = p->next_round_s;
    }
    ec2_prices_form(&f, p->price_types, p->round_s, next);
    p->price_call = ec2_call(p, &f, on_prices, p);
}

static void on_prices(const struct aws_reply *r, void *arg)
{
    struct ec2 *p = arg;
    const char *next = "";
    p->price_call = NULL;
    if (r->failure == PROVIDER_FINE)
        ec2_answer_prices(r->root, on_price, p, &next);
    else
        log_warn(p->env.log, "provider", "spot prices could not be asked for", LOG_S("why", r->text));
    if (*next && ++p->price_pages < PRICE_PAGES_MAX) {
        ask_prices(p, next);
        return;
    }
    if (*next)
        log_warn(p->env.log, "provider", "more spot prices than are read; the oldest are not known",
                 LOG_S("provider", p->env.name), LOG_I("read", p->n_rows));
    arm_prices(p);
    if (r->failure == PROVIDER_FINE) { /* else the next round asks for the same again */
        take_history(p);
        tell_prices(p);
    }
    answer_offers(p, r->failure, r->text);
}

void ec2_on_prices_due(evutil_socket_t fd, short what, void *arg)
{
    struct ec2 *p = arg;
    (void)fd;
    (void)what;
    if (!p->price_call && p->price_types && *p->price_types)
        ask_prices(p, NULL);
}

static bool has_word(const char *list, const char *word, size_t n)
{
    const char *at = list, *have;
    for (size_t len; (len = provider_setting_word(&at, &have)) > 0;) {
        if (len == n && strncmp(have, word, n) == 0)
            return true;
    }
    return false;
}

void ec2_want_prices(struct ec2 *p, const char *types)
{
    const char *at = types, *word;
    bool more = false;
    for (size_t n; (n = provider_setting_word(&at, &word)) > 0;) {
        if (p->price_types && has_word(p->price_types, word, n))
            continue;
        char *longer = p->price_types ? spw_asprintf("%s,%.*s", p->price_types, (int)n, word) : spw_strndup(word, n);
        free(p->price_types);
        p->price_types = longer;
        more = true;
    }
    if (!more)
        return;
    p->prices_at = (struct mono){0};
    p->next_round_s = p->history_s;
    if (!p->price_call) { /* else the next round has them */
        struct timeval now = {0};
        evtimer_add(p->price_timer, &now);
    }
}

/* ---- offers ----------------------------------------------------------------------------------------------------- */

/* A pool's settings, kept while prices are fetched. */
struct pool {
    char *types, *zones, *markets, *on_demand; /* owned */
    int boot_s;
};

static void free_pool(void *arg)
{
    struct pool *pool = arg;
    free(pool->types);
    free(pool->zones);
    free(pool->markets);
    free(pool->on_demand);
    free(pool);
}

static char *copy(const struct provider_settings *s, const char *key)
{
    const char *value = provider_setting(s, key);
    return spw_strdup(value ? value : "");
}

struct pusd ec2_listed_price(const struct ec2 *p, const struct provider_settings *pool, const char *type, size_t type_n)
{
    struct pusd price = ec2_on_demand_price(pool, type, type_n);
    char name[64];
    if (price.v > 0 || p->listed.n == 0 || type_n >= sizeof name)
        return price;
    memcpy(name, type, type_n);
    name[type_n] = '\0';
    const struct price_row like = {
        .cloud = "aws", .type = name, .region = p->region, .at_s = clock_wall(p->env.clock).ns / NS_PER_S};
    const struct price_row *row = price_cheapest(&p->listed, &like, PRICE_ON_DEMAND);
    return row ? row->on_demand_h : price;
}

static struct pusd listed_price(const struct ec2 *p, const struct pool *pool, const struct ec2_offer *o)
{
    const struct provider_pair pair = {.key = "on_demand_prices", .value = pool->on_demand};
    const struct provider_settings s = {.keys = ec2_node_keys, .pairs = &pair, .n = 1};
    return ec2_listed_price(p, &s, o->type, o->type_n);
}

static void offer(struct ec2_question *q, const struct ec2_offer *o)
{
    const struct pool *pool = q->more;
    struct ec2 *p = q->p;
    const struct ec2_spot_price *spot = find_price(p, o);
    char *zone = spw_strndup(o->zone, o->zone_n), *type = spw_strndup(o->type, o->type_n);
    char *id = spw_asprintf("%s/%s/%s", zone, type, provider_market_name(o->market));
    bool quota;
    int64_t cold_ms = ec2_cold_ms(p, id, &quota);
    struct provider_offer out = {
        .id = id,
        .type = type,
        .region = p->region,
        .zone = zone,
        .market = o->market,
        .price_hour = ec2_price_of(p, o, listed_price(p, pool, o), NULL),
        .price_source =
            o->market == PROVIDER_SPOT ? "spot price history" : "on_demand_prices of the pool, or the price list",
        .price_at_s = o->market == PROVIDER_SPOT && spot ? spot->at_s : 0,
        .boot_s = pool->boot_s,
        .billing_min_s = BILLING_MIN_S,
        .cold_s = (int32_t)((cold_ms + 999) / 1000),
    };
    out.launchable = cold_ms == 0 && out.price_hour.v > 0; /* nobody launches what has no price */
    if (out.price_hour.v == 0)
        out.price_source =
            o->market == PROVIDER_SPOT ? "no spot price is known" : "neither in on_demand_prices nor in a price list";
    q->each_offer(&out, q->arg);
    free(id);
    free(zone);
    free(type);
}

static void each_offer(struct ec2_question *q)
{
    const struct pool *pool = q->more;
    static const enum provider_market markets[] = {PROVIDER_SPOT, PROVIDER_ON_DEMAND};
    for (int m = 0; m < 2; m++) {
        const char *name = provider_market_name(markets[m]), *at = pool->types;
        struct ec2_offer o = {.market = markets[m]};
        if (!has_word(pool->markets, name, strlen(name)))
            continue;
        while ((o.type_n = provider_setting_word(&at, &o.type)) > 0) {
            const char *zones = pool->zones;
            while ((o.zone_n = provider_setting_word(&zones, &o.zone)) > 0)
                offer(q, &o);
        }
    }
}

/* Everybody who waits for prices has them, or what is known of them. */
static void answer_offers(struct ec2 *p, enum provider_failure failure, const char *text)
{
    for (struct ec2_question *q = p->questions, *next; q; q = next) {
        next = q->next;
        if (!q->each_offer)
            continue;
        each_offer(q);
        ec2_question_answer(q, failure, text);
        next = p->questions; /* a callback may have asked, or ended, others */
    }
}

static void on_offers_now(evutil_socket_t fd, short what, void *arg)
{
    struct ec2_question *q = arg;
    (void)fd;
    (void)what;
    each_offer(q);
    ec2_question_answer(q, PROVIDER_FINE, "");
}

void ec2_offers(struct provider *base, const struct provider_settings *settings, provider_offer_cb *each,
                provider_done_cb *done, void *arg)
{
    struct ec2 *p = ec2_self(base);
    struct pool *pool = spw_calloc(1, sizeof(*pool));
    struct ec2_question *q = ec2_ask(p, done, arg);
    *pool = (struct pool){.types = copy(settings, "types"),
                          .zones = copy(settings, "zones"),
                          .markets = copy(settings, "markets"),
                          .on_demand = copy(settings, "on_demand_prices"),
                          .boot_s = (int)(provider_setting_int(settings, "boot") / 1000)};
    q->more = pool;
    q->free_more = free_pool;
    ec2_want_prices(p, pool->types);
    bool known = p->prices_at.ns != 0 && mono_since(p->env.clock, p->prices_at) < 2 * p->prices_ms * NS_PER_MS;
    bool spot = has_word(pool->markets, "spot", 4);
    q->each_offer = each;
    if (spot && (!known || p->price_call)) {
        if (!p->price_call) {
            struct timeval now = {0};
            evtimer_add(p->price_timer, &now);
        }
        return; /* answer_offers() comes in the end, with prices or without */
    }
    struct timeval now = {0};
    q->timer = evtimer_new(p->env.loop, on_offers_now, q);
    evtimer_add(q->timer, &now);
}
