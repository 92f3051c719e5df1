/* `spillway prices`: what is wrong in price lists, row by row, and what things cost by them. Files alone; no daemon. */
#include "scheduler/cli/cli_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/text.h"
#include "providers/catalogue.h"

struct wanted {
    const char *action, *file, *cloud, *type, *accelerator, *region, *zone, *market, *model, *provider, *when;
    bool doubts;
};

static void print_problem(int line, const char *text, void *arg)
{
    (void)line;
    (void)arg;
    printf("%s\n", text);
}

/* ---- check ---------------------------------------------------------------------------------------------------------- */

/* What is done about a figure that is flagged. */
static const char *consequence(int bit)
{
    switch (1 << bit) {
    case PRICE_NO_ONDEMAND: return "no on-demand price: can't be rented so";
    case PRICE_NO_SPOT: return "no spot price: can't be rented so";
    case PRICE_SPOT_EQ_ONDEMAND: return "spot costs what on demand costs: a list price, no market; not used as spot";
    case PRICE_SPOT_GT_ONDEMAND: return "spot costs more than on demand; not used as spot";
    case PRICE_SPOT_FLOOR: return "spot is exactly a tenth: a place holder; not used as spot";
    case PRICE_SUSPECT_ONDEMAND: return "on demand looks like a price for a commitment; not used";
    case PRICE_HOST_APART: return "the accelerator alone; its host's price is added where the list has it";
    case PRICE_HOST_ONLY: return "a host without accelerators; not offered by itself";
    case PRICE_UNKNOWN_FLAG: return "a flag that we do not know; nothing of the row is used";
    case PRICE_REPEATED: return "says what an earlier row says; the earlier one counts";
    case PRICE_CONFLICT: return "two rows say different prices of the same thing and date; neither is used";
    case PRICE_NO_API: return "no price for input or output; not used";
    case PRICE_TIERED: return "dearer for long prompts; the price of short ones is used";
    case PRICE_DEPRECATED: return "the list calls the model deprecated; its price is used";
    default: return "";
    }
}

static void print_flags(const char *file, int line, const char *what, unsigned flags)
{
    for (int bit = 0; bit < PRICE_N_FLAGS; bit++)
        if (flags & (1u << bit))
            printf("%s:%d: %s: %s: %s\n", file, line, what, price_flag_name(bit), consequence(bit));
}

static void print_doubts(const struct price_table *t, const char *file)
{
    char what[200];
    for (int i = 0; i < t->n; i++) {
        const struct price_row *p = &t->rows[i];
        snprintf(what, sizeof what, "%s %s %s", p->cloud, p->type[0] ? p->type : p->accelerator,
                 p->zone[0] ? p->zone : p->region);
        print_flags(file, p->line, what, p->flags);
    }
    for (int i = 0; i < t->n_apis; i++) {
        snprintf(what, sizeof what, "%s %s", t->apis[i].provider, t->apis[i].model);
        print_flags(file, t->apis[i].line, what, t->apis[i].flags);
    }
}

static int check(const struct wanted *w)
{
    struct price_table t;
    struct error e;
    enum rc rc = price_table_load(&t, w->file, print_problem, NULL, &e);
    if (rc != RC_OK) {
        fprintf(stderr, "spillway prices: %s\n", e.message);
        return rc == RC_INVALID ? ARGS_EXIT_FAILED : cli_fail("prices", &e);
    }
    if (w->doubts)
        print_doubts(&t, w->file);
    printf("%s: %d instance prices (%d without on demand, %d without spot), %d API prices, %d rows lost\n", w->file,
           t.n, t.without_on_demand, t.without_spot, t.n_apis, t.lost);
    for (int bit = 0; bit < PRICE_N_FLAGS; bit++)
        if (t.flagged[bit])
            printf("  %5d %s: %s\n", t.flagged[bit], price_flag_name(bit), consequence(bit));
    int lost = t.lost;
    price_table_fini(&t);
    return lost ? ARGS_EXIT_FAILED : ARGS_EXIT_OK;
}

/* ---- list ----------------------------------------------------------------------------------------------------------- */

static const char *date_text(int64_t s, char *buf, size_t size)
{
    if (!s)
        return NULL;
    wall_format((struct wall){s * NS_PER_S}, buf, size);
    buf[10] = '\0';
    return buf;
}

static const char *hour_text(struct pusd p, char *buf, size_t size)
{
    return p.v < 0 ? NULL : pusd_format(p, buf, size);
}

static void add_or_dash(struct cli_table *t, const char *text)
{
    cli_table_add(t, text && text[0] ? text : NULL);
}

static void list_instances(const struct price_table *prices, const struct wanted *w, int64_t at_s)
{
    static const struct cli_column columns[] = {
        {"CLOUD", CLI_LEFT},  {"TYPE", CLI_LEFT},  {"ACCELERATOR", CLI_LEFT},    {"N", CLI_RIGHT},
        {"REGION", CLI_LEFT}, {"ZONE", CLI_LEFT},  {"ON DEMAND $/h", CLI_RIGHT}, {"SPOT $/h", CLI_RIGHT},
        {"FROM", CLI_LEFT},   {"UNTIL", CLI_LEFT},
    };
    const struct price_row like = {.cloud = w->cloud,
                                   .type = w->type,
                                   .accelerator = w->accelerator,
                                   .region = w->region,
                                   .zone = w->zone,
                                   .at_s = at_s};
    const bool spot = w->market && strcmp(w->market, "spot") == 0, on_demand = w->market && !spot;
    struct cli_table t;
    char buf[64];
    cli_table_init(&t, columns, 10);
    for (int i = 0; i < prices->n; i++) {
        const struct price_row *p = &prices->rows[i];
        bool has_spot = price_row_fits(p, &like, PRICE_SPOT), has_on_demand = price_row_fits(p, &like, PRICE_ON_DEMAND);
        if ((spot && !has_spot) || (on_demand && !has_on_demand) || (!has_spot && !has_on_demand))
            continue;
        cli_table_add(&t, p->cloud);
        add_or_dash(&t, p->type);
        add_or_dash(&t, p->accelerator);
        snprintf(buf, sizeof buf, "%d", p->accelerators);
        cli_table_add(&t, buf);
        add_or_dash(&t, p->region);
        add_or_dash(&t, p->zone);
        cli_table_add(&t, hour_text(p->on_demand_h, buf, sizeof buf));
        cli_table_add(&t, hour_text(p->spot_h, buf, sizeof buf));
        cli_table_add(&t, date_text(p->from_s, buf, sizeof buf));
        cli_table_add(&t, date_text(p->until_s, buf, sizeof buf));
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
}

static void add_api(struct cli_table *t, const struct price_api *a)
{
    char buf[64];
    add_or_dash(t, a->provider);
    cli_table_add(t, a->model);
    cli_table_add(t, price_format(a->prices.input, buf, sizeof buf));
    cli_table_add(t, price_format(a->prices.cached_input, buf, sizeof buf));
    cli_table_add(t, price_format(a->prices.output, buf, sizeof buf));
    snprintf(buf, sizeof buf, "%02d:%02d-%02d:%02d", a->day_from_min / 60, a->day_from_min % 60, a->day_until_min / 60,
             a->day_until_min % 60);
    cli_table_add(t, a->day_from_min == a->day_until_min ? NULL : buf);
    snprintf(buf, sizeof buf, "%" PRId64, a->prompt_max);
    cli_table_add(t, a->prompt_max ? buf : NULL);
    cli_table_add(t, date_text(a->from_s, buf, sizeof buf));
}

static void list_apis(const struct price_table *prices, const struct wanted *w, int64_t at_s)
{
    static const struct cli_column columns[] = {
        {"PROVIDER", CLI_LEFT}, {"MODEL", CLI_LEFT}, {"IN $/M", CLI_RIGHT},       {"CACHED $/M", CLI_RIGHT},
        {"OUT $/M", CLI_RIGHT}, {"UTC", CLI_LEFT},   {"PROMPT UP TO", CLI_RIGHT}, {"FROM", CLI_LEFT},
    };
    struct cli_table t;
    cli_table_init(&t, columns, 8);
    for (int i = 0; i < prices->n_apis; i++) {
        const struct price_api *a = &prices->apis[i];
        bool other = (w->model && strcasecmp(w->model, a->model) != 0) ||
                     (w->provider && strcasecmp(w->provider, a->provider) != 0);
        bool then = !at_s || price_api_find(prices, a->provider, a->model, at_s) == a;
        if (!other && then && !(a->flags & PRICE_NO_API))
            add_api(&t, a);
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
}

static int list(const struct wanted *w)
{
    struct price_table t;
    struct error e;
    int64_t at_s = 0;
    if (w->when && text_parse_utc(w->when, &at_s) != RC_OK) {
        error_set(&e, RC_INVALID, "--at: \"%.40s\" is no date; 2026-07-01 or 2026-07-01T12:00:00Z is right", w->when);
        return cli_fail("prices", &e);
    }
    if (price_table_load(&t, w->file, print_problem, NULL, &e) != RC_OK)
        return cli_fail("prices", &e);
    if (t.n)
        list_instances(&t, w, at_s);
    if (t.n_apis)
        list_apis(&t, w, at_s);
    price_table_fini(&t);
    return ARGS_EXIT_OK;
}

int cli_prices(int argc, char **argv)
{
    static const char *const markets[] = {"spot", "on-demand", NULL};
    struct wanted w = {0};
    int exit_code;
    const struct arg_option options[] = {
        {"doubts", 0, ARG_FLAG, &w.doubts, .help = "check: also each row with a figure that is not used, and why"},
        {"cloud", 0, ARG_STRING, &w.cloud, .meta = "NAME", .help = "list: of this cloud alone"},
        {"type", 0, ARG_STRING, &w.type, .meta = "NAME", .help = "list: of this instance type"},
        {"accelerator", 0, ARG_STRING, &w.accelerator, .meta = "NAME", .help = "list: with this accelerator"},
        {"region", 0, ARG_STRING, &w.region, .meta = "NAME", .help = "list: in this region"},
        {"zone", 0, ARG_STRING, &w.zone, .meta = "NAME", .help = "list: in this zone"},
        {"market", 0, ARG_STRING, &w.market, .meta = "MARKET", .help = "list: that have a price there",
         .choices = markets},
        {"provider", 0, ARG_STRING, &w.provider, .meta = "NAME", .help = "list: of this API"},
        {"model", 'm', ARG_STRING, &w.model, .meta = "NAME", .help = "list: of this model"},
        {"at", 0, ARG_STRING, &w.when, .meta = "DATE", .help = "list: what holds then; the newest without it"},
    };
    const struct arg_operand operands[] = {
        {"ACTION", &w.action, "check or list", true},
        {"FILE", &w.file, "price list: CSV, YAML or JSON (providers/catalogue.h)", true}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "prices",
                                  .summary = "check a price list row by row; list what things cost by it",
                                  .example = "spillway prices check gpu_prices.csv\n"
                                             "spillway prices list gpu_prices.csv --accelerator H100 --market spot\n"
                                             "spillway prices list api_prices.json --model deepseek-r1",
                                  .options = options,
                                  .n_options = 10,
                                  .operands = operands,
                                  .n_operands = 2};
    struct error e;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (strcmp(w.action, "check") == 0)
        return check(&w);
    if (strcmp(w.action, "list") == 0)
        return list(&w);
    error_set(&e, RC_INVALID, "unknown action \"%.40s\"; check or list is right", w.action);
    return cli_fail("prices", &e);
}
