/* Price lists as documents: YAML and JSON, read as one tree with line numbers, whose scalars are still text. Three
 * shapes: ours (lists of rows by the columns' names), genai-prices, litellm. Values that are nested deeper (price per
 * request, audio, searches) are passed over: only tokens of text are priced here. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"
#include "providers/catalogue_internal.h"

#define MTOK_MOST INT64_C(1000000000)

static const char *scalar(const struct yaml_node *map, const char *key)
{
    const struct yaml_node *v = map && map->kind == YAML_KIND_MAP ? yaml_get(map, key) : NULL;
    return v && v->kind == YAML_KIND_SCALAR ? v->scalar : NULL;
}

/* ---- ours ----------------------------------------------------------------------------------------------------------- */

static void take_fields(struct price_reading *r, const struct yaml_node *row)
{
    memset(r->fields, 0, sizeof r->fields);
    for (int i = 0; i < PRICE_COLUMNS; i++) {
        const char *names = price_column_names[i];
        while (!r->fields[i] && *names) {
            char name[40];
            size_t n = strcspn(names, "|");
            snprintf(name, sizeof name, "%.*s", (int)n, names);
            r->fields[i] = scalar(row, name);
            names += n + (names[n] == '|');
        }
    }
}

static enum rc read_list(struct price_reading *r, const struct yaml_node *list, const char *key,
                         enum rc (*read)(struct price_reading *r, struct error *e), struct error *e)
{
    enum rc rc = RC_OK;
    if (list->kind != YAML_KIND_LIST) {
        r->line = list->line;
        return price_error(r, e, "%s: a list of rows is wanted", key);
    }
    for (int i = 0; rc == RC_OK && i < list->n_items; i++) {
        const struct yaml_node *row = list->items[i];
        r->line = row->line;
        if (row->kind != YAML_KIND_MAP) {
            price_error(r, e, "%s: a row is a map of columns, as cloud: aws", key);
            rc = price_row_lost(r, e);
            continue;
        }
        take_fields(r, row);
        rc = read(r, e);
    }
    return rc;
}

/* ---- genai-prices --------------------------------------------------------------------------------------------------- */

/* A number, or {base, tiers: [{start, price}]}: then the base counts, for prompts up to the first tier. */
static enum rc genai_price(struct price_reading *r, const struct yaml_node *prices, const char *key,
                           struct price_api *a, struct price *p, struct error *e)
{
    const struct yaml_node *v = yaml_get(prices, key);
    const char *text = v && v->kind == YAML_KIND_SCALAR ? v->scalar : scalar(v, "base");
    const struct yaml_node *tiers = v && v->kind == YAML_KIND_MAP ? yaml_get(v, "tiers") : NULL;
    int64_t start = 0;
    p->uusd_per_mtok = -1;
    if (!v)
        return RC_OK;
    r->line = v->line;
    if (!text)
        return price_error(r, e, "%s: a number, or base and tiers are wanted", key);
    if (tiers && tiers->kind == YAML_KIND_LIST && tiers->n_items > 0) {
        const char *from = scalar(tiers->items[0], "start");
        if (!from || text_parse_int(from, 1, INT64_MAX, &start) != RC_OK)
            return price_error(r, e, "%s: a tier has a start in tokens, as 200000", key);
        a->flags |= PRICE_TIERED;
        a->prompt_max = a->prompt_max && a->prompt_max < start ? a->prompt_max : start;
    }
    return price_decimal(r, key, text, 6, MTOK_MOST, &p->uusd_per_mtok, e);
}

static enum rc clock_time(struct price_reading *r, const char *key, const char *text, int *minute, struct error *e)
{
    int hours, minutes, end = 0;
    /* NOLINTNEXTLINE(cert-err34-c): two digits each, and what was converted is counted */
    if (strlen(text) < 5 || sscanf(text, "%2d:%2d%n", &hours, &minutes, &end) != 2 || end != 5 || hours < 0 ||
        hours > 23 || minutes < 0 || minutes > 59 || (text[5] && text[strlen(text) - 1] != 'Z'))
        return price_error(r, e, "%s: \"%.40s\" is no time of day in UTC; like 00:30:00Z is right", key, text);
    *minute = hours * 60 + minutes;
    return RC_OK;
}

static enum rc date_of(struct price_reading *r, const struct yaml_node *constraint, const char *key, int64_t *at_s,
                       struct error *e)
{
    const char *text = scalar(constraint, key);
    *at_s = 0;
    if (!text || text_parse_utc(text, at_s) == RC_OK)
        return RC_OK;
    return price_error(r, e, "%s: \"%.40s\" is no date; 2026-07-01 is right", key, text);
}

static enum rc genai_constraint(struct price_reading *r, const struct yaml_node *c, struct price_api *a,
                                struct error *e)
{
    const char *from = scalar(c, "start_time"), *until = scalar(c, "end_time");
    enum rc rc = RC_OK;
    if (!c)
        return RC_OK;
    r->line = c->line;
    if (!from != !until)
        return price_error(r, e, "constraint: start_time and end_time belong together");
    if (from)
        rc = clock_time(r, "start_time", from, &a->day_from_min, e);
    if (rc == RC_OK && until)
        rc = clock_time(r, "end_time", until, &a->day_until_min, e);
    if (rc == RC_OK)
        rc = date_of(r, c, "start_date", &a->from_s, e);
    return rc == RC_OK ? date_of(r, c, "end_date", &a->until_s, e) : rc;
}

static enum rc genai_prices(struct price_reading *r, const struct yaml_node *prices, const struct yaml_node *constraint,
                            struct price_api a, struct error *e)
{
    enum rc rc;
    if (!prices || prices->kind != YAML_KIND_MAP)
        return price_error(r, e, "prices: a map is wanted, as {input_mtok: 0.55, output_mtok: 2.19}");
    if ((rc = genai_price(r, prices, "input_mtok", &a, &a.prices.input, e)) != RC_OK ||
        (rc = genai_price(r, prices, "cache_read_mtok", &a, &a.prices.cached_input, e)) != RC_OK ||
        (rc = genai_price(r, prices, "output_mtok", &a, &a.prices.output, e)) != RC_OK ||
        (rc = genai_constraint(r, constraint, &a, e)) != RC_OK)
        return rc;
    return price_add_api(r, &a, e);
}

static enum rc genai_model(struct price_reading *r, const char *provider, const struct yaml_node *m, struct error *e)
{
    const struct yaml_node *prices = m->kind == YAML_KIND_MAP ? yaml_get(m, "prices") : NULL;
    const char *name = scalar(m, "model"), *old = scalar(m, "deprecated");
    const char *whose = scalar(m, "provider");
    enum rc rc = RC_OK;
    r->line = m->line;
    name = name ? name : scalar(m, "id");
    if (!name || !prices)
        return price_error(r, e, "a model has a name (model or id) and prices");
    struct price_api a = {.provider = price_keep(r, whose ? whose : provider),
                          .model = price_keep(r, name),
                          .flags = old && strcasecmp(old, "true") == 0 ? PRICE_DEPRECATED : 0,
                          .line = m->line};
    if (!a.provider || !a.model)
        return error_set(e, RC_FULL, "%s:%d: the table is larger than %zu bytes", r->path, r->line,
                         PRICE_TABLE_BYTES_MAX);
    if (prices->kind != YAML_KIND_LIST)
        return genai_prices(r, prices, NULL, a, e);
    for (int i = 0; rc == RC_OK && i < prices->n_items; i++) {
        const struct yaml_node *one = prices->items[i];
        r->line = one->line;
        if (one->kind != YAML_KIND_MAP)
            return price_error(r, e, "prices: each is a map with prices, and a constraint where it has one");
        rc = genai_prices(r, yaml_get(one, "prices"), yaml_get(one, "constraint"), a, e);
    }
    return rc;
}

static enum rc genai_models(struct price_reading *r, const char *provider, const struct yaml_node *models,
                            struct error *e)
{
    enum rc rc = RC_OK;
    for (int i = 0; rc == RC_OK && i < models->n_items; i++) {
        rc = genai_model(r, provider, models->items[i], e);
        if (rc != RC_OK)
            rc = price_row_lost(r, e);
    }
    return rc;
}

/* ---- litellm -------------------------------------------------------------------------------------------------------- */

static enum rc litellm_price(struct price_reading *r, const struct yaml_node *m, const char *per_token,
                             const char *per_mtok, struct price *p, struct error *e)
{
    const char *text = scalar(m, per_token);
    p->uusd_per_mtok = -1;
    if (text) /* dollars per token: pico-dollars per token are micro-dollars per million */
        return price_decimal(r, per_token, text, 12, MTOK_MOST, &p->uusd_per_mtok, e);
    text = scalar(m, per_mtok);
    return text ? price_decimal(r, per_mtok, text, 6, MTOK_MOST, &p->uusd_per_mtok, e) : RC_OK;
}

static enum rc litellm_model(struct price_reading *r, const char *name, const struct yaml_node *m, struct error *e)
{
    const char *slash = strchr(name, '/'), *whose = scalar(m, "litellm_provider");
    char first[64] = "";
    enum rc rc;
    if (m->kind != YAML_KIND_MAP)
        return price_error(r, e, "%.60s: a map of prices is wanted", name);
    if (!whose && slash)
        snprintf(first, sizeof first, "%.*s", (int)(slash - name), name);
    struct price_api a = {.provider = price_keep(r, whose ? whose : first),
                          .model = price_keep(r, slash ? slash + 1 : name),
                          .line = r->line};
    if (!a.provider || !a.model)
        return error_set(e, RC_FULL, "%s:%d: the table is larger than %zu bytes", r->path, r->line,
                         PRICE_TABLE_BYTES_MAX);
    if ((rc = litellm_price(r, m, "input_cost_per_token", "input", &a.prices.input, e)) != RC_OK ||
        (rc = litellm_price(r, m, "cache_read_input_token_cost", "cache_hit", &a.prices.cached_input, e)) != RC_OK ||
        (rc = litellm_price(r, m, "output_cost_per_token", "output", &a.prices.output, e)) != RC_OK)
        return rc;
    return price_add_api(r, &a, e);
}

static enum rc litellm_models(struct price_reading *r, const struct yaml_node *models, struct error *e)
{
    enum rc rc = RC_OK;
    for (int i = 0; rc == RC_OK && i < models->n_items; i++) {
        r->line = models->key_lines[i];
        if (strcmp(models->keys[i], "sample_spec") == 0) /* litellm's explanation of itself */
            continue;
        rc = litellm_model(r, models->keys[i], models->items[i], e);
        if (rc != RC_OK)
            rc = price_row_lost(r, e);
    }
    return rc;
}

/* ---- which one is it? ----------------------------------------------------------------------------------------------- */

static enum rc check_unit(struct price_reading *r, const struct yaml_node *root, struct error *e)
{
    const char *currency = scalar(root, "currency"), *unit = scalar(root, "unit");
    r->line = root->line;
    enum rc rc = currency ? price_check_currency(r, currency, e) : RC_OK;
    if (rc == RC_OK && unit && !strstr(unit, "USD per million tokens"))
        rc = price_error(r, e, "unit: \"%.60s\"; only \"USD per million tokens\" is understood", unit);
    return rc;
}

static bool is_litellm(const struct yaml_node *root)
{
    for (int i = 0; i < root->n_items; i++)
        if (scalar(root->items[i], "input_cost_per_token") || scalar(root->items[i], "output_cost_per_token"))
            return true;
    return false;
}

static enum rc read_providers(struct price_reading *r, const struct yaml_node *root, struct error *e)
{
    enum rc rc = RC_OK;
    for (int i = 0; rc == RC_OK && i < root->n_items; i++) {
        const struct yaml_node *p = root->items[i], *models = p->kind == YAML_KIND_MAP ? yaml_get(p, "models") : NULL;
        const char *id = scalar(p, "id");
        r->line = p->line;
        if (models && models->kind == YAML_KIND_LIST && id)
            rc = genai_models(r, id, models, e);
        else {
            price_error(r, e, "a provider has an id and a list of models");
            rc = price_row_lost(r, e);
        }
    }
    return rc;
}

enum rc price_read_document(struct price_reading *r, const struct yaml_node *root, struct error *e)
{
    if (root->kind == YAML_KIND_LIST)
        return read_providers(r, root, e);
    if (root->kind != YAML_KIND_MAP)
        return error_set(e, RC_INVALID, "%s: is no price list: a map or a list is wanted", r->path);
    enum rc rc = check_unit(r, root, e);
    const struct yaml_node *models = yaml_get(root, "models"), *prices = yaml_get(root, "prices"),
                           *apis = yaml_get(root, "apis");
    if (rc != RC_OK)
        return rc;
    if (models)
        return models->kind == YAML_KIND_LIST ? genai_models(r, "", models, e) : litellm_models(r, models, e);
    if (!prices && !apis && is_litellm(root))
        return litellm_models(r, root, e);
    if (!prices && !apis)
        return error_set(
            e, RC_INVALID,
            "%s: is no price list: there are neither prices nor apis, nor models as genai-prices or litellm "
            "have them",
            r->path);
    if (prices)
        rc = read_list(r, prices, "prices", price_read_instance, e);
    return rc == RC_OK && apis ? read_list(r, apis, "apis", price_read_api, e) : rc;
}
