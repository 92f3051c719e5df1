/* `spillway nodes rates`: the standard rate of each node and pool (books/rates.h), from its bills in the closed
 * hours of a period, its calibration record and the utilisation that finance reckons with; --apply makes them a
 * change of finance's, from a date on. */
#include "scheduler/cli/cli_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "scheduler/books/finance.h"
#include "scheduler/books/rates.h"
#include "scheduler/books/rollup.h"
#include "scheduler/calibrate/record.h"

#define DAYS_DEFAULT  7
#define BATCH_ASSUMED 8

struct rates {
    const char *subject, *from, *apply_from, *reason; /* subject NULL: all */
    struct cli_target target;
    const char *db;
    int64_t days, utilisation; /* percent; where finance says nothing */
    bool apply;
    struct config *config;
    char *path;
    int64_t from_s, until_s, now_s;
    struct cli_table table;
    int failed, applied;
};

/* One node or pool. */
struct one {
    const char *name, *pool;
    const struct config_node *like;
    bool is_pool;
    struct rate_basis basis;
    int64_t requests, output;
    char utilisation[256]; /* finance's value; "": none */
    bool of_itself;
};

static void add_bill(const struct node_hour *h, void *arg)
{
    struct one *o = arg;
    const char *name = o->is_pool ? h->pool : h->node;
    if (!name || strcmp(name, o->name) != 0)
        return;
    o->basis.bill.v += h->bill.v - h->tokens.v;
    o->basis.paid_us += h->paid_us;
}

static void add_work(const struct rollup *r, void *arg)
{
    struct one *o = arg;
    const char *name = o->is_pool ? r->pool : r->node;
    if (!name || strcmp(name, o->name) != 0)
        return;
    o->requests += r->requests;
    o->output += r->tokens.output;
}

static void take_utilisation(const struct finance_change *c, void *arg)
{
    struct one *o = arg;
    const bool own = strcmp(c->subject, o->name) == 0;
    if (!own && (o->of_itself || !o->pool || strcmp(c->subject, o->pool) != 0))
        return;
    o->of_itself = own;
    snprintf(o->utilisation, sizeof o->utilisation, "%s", c->value);
}

static enum rc basis_of(const struct rates *r, struct one *o, struct error *e)
{
    const struct calibration *c = o->like->calibrated;
    enum rc rc = rollup_read_nodes(r->path, r->from_s, r->until_s, add_bill, o, e);
    if (rc == RC_OK)
        rc = rollup_read(r->path, r->from_s, r->until_s, add_work, o, e);
    if (rc == RC_OK)
        rc = finance_read_at(r->path, "utilisation", r->now_s, take_utilisation, o, e);
    o->basis.utilisation_ppm = r->utilisation * 10000;
    if (rc == RC_OK && o->utilisation[0])
        rc = finance_percent_ppm(o->utilisation, &o->basis.utilisation_ppm, e);
    o->basis.output_mean = o->requests ? o->output / o->requests : 0;
    o->basis.batch = o->like->max_batch > 0 ? o->like->max_batch : o->like->slots > 0 ? o->like->slots : BATCH_ASSUMED;
    if (c) {
        o->basis.curve = c->curve;
        o->basis.ctx_us = c->detail.decode_us_per_ctx_tok;
    }
    return rc;
}

static void print_one(struct rates *r, const struct one *o, const struct token_prices *p, const char *note)
{
    char hour[64] = "-", used[32], price[3][64];
    const struct pusd_sum bill = {o->basis.paid_us > 0 ? o->basis.bill.v * INT64_C(3600000000) / o->basis.paid_us : 0};
    if (o->basis.paid_us > 0)
        pusd_sum_format(bill, hour, sizeof hour);
    snprintf(used, sizeof used, "%lld.%02lld %%", (long long)(o->basis.utilisation_ppm / 10000),
             (long long)(o->basis.utilisation_ppm / 100 % 100));
    cli_table_add(&r->table, o->name);
    cli_table_add(&r->table, hour);
    cli_table_add(&r->table, used);
    cli_table_add(&r->table, p ? price_format(p->input, price[0], 64) : "-");
    cli_table_add(&r->table, p ? price_format(p->cached_input, price[1], 64) : "-");
    cli_table_add(&r->table, p ? price_format(p->output, price[2], 64) : "-");
    cli_table_add(&r->table, note);
}

static enum rc apply(struct rates *r, const struct one *o, const struct token_prices *p, struct error *e)
{
    char price[3][64], value[256];
    snprintf(value, sizeof value, "{\"input\":\"%s\",\"cached_input\":\"%s\",\"output\":\"%s\"}",
             price_format(p->input, price[0], 64), price_format(p->cached_input, price[1], 64),
             price_format(p->output, price[2], 64));
    enum rc rc = cli_finance_set(&r->target, r->db, "rate", o->name, value, r->apply_from,
                                 r->reason ? r->reason : "spillway nodes rates", e);
    r->applied += rc == RC_OK;
    return rc;
}

static void work_out(struct rates *r, struct one *o)
{
    struct token_prices p;
    struct error e;
    enum rc rc = basis_of(r, o, &e);
    if (rc == RC_OK)
        rc = rates_of(&o->basis, &p, &e);
    if (rc == RC_OK && r->apply)
        rc = apply(r, o, &p, &e);
    r->failed += rc != RC_OK;
    print_one(r, o, rc == RC_OK ? &p : NULL, rc != RC_OK ? e.message : r->apply ? "applied" : "");
}

static bool is_wanted(const struct rates *r, const char *name)
{
    return !r->subject || strcmp(r->subject, name) == 0;
}

/* An API is paid by the token: its price list is its rate. */
static int all(struct rates *r)
{
    int n = 0;
    for (int i = 0; i < r->config->n_nodes; i++) {
        const struct config_node *c = &r->config->nodes[i];
        struct one o = {.name = c->name, .like = c};
        if (!is_wanted(r, c->name) || (!c->local && !c->per_hour.v && !r->subject))
            continue;
        work_out(r, &o);
        n++;
    }
    for (int i = 0; i < r->config->n_pools; i++) {
        const struct config_node *c = &r->config->pools[i].node;
        struct one o = {.name = c->name, .like = c, .is_pool = true};
        if (!is_wanted(r, c->name))
            continue;
        work_out(r, &o);
        n++;
    }
    return n;
}

static enum rc run(struct rates *r, struct error *e)
{
    static const struct cli_column columns[] = {{"NODE", CLI_LEFT},
                                                {"$/HOUR", CLI_RIGHT},
                                                {"UTILISATION", CLI_RIGHT},
                                                {"$/M INPUT", CLI_RIGHT},
                                                {"$/M CACHED", CLI_RIGHT},
                                                {"$/M OUTPUT", CLI_RIGHT},
                                                {"", CLI_LEFT}};
    r->now_s = clock_wall(&clock_system).ns / NS_PER_S;
    r->until_s = r->now_s / 3600 * 3600;
    r->from_s = r->until_s - r->days * 86400;
    if (r->from && text_parse_utc(r->from, &r->from_s) != RC_OK)
        return error_set(e, RC_INVALID, "--from: \"%.40s\" is no time like 2026-11-01", r->from);
    r->config = cli_load_config("nodes", r->target.config);
    if (!r->config)
        return error_set(e, RC_INVALID, "rates want the configuration: nodes and their calibration records");
    r->path = spw_strdup(r->db ? r->db : r->config->ledger_path);
    cli_table_init(&r->table, columns, 7);
    const int n = all(r);
    cli_table_print(&r->table, stdout);
    cli_table_fini(&r->table);
    if (!n && r->subject)
        return error_set(e, RC_NOT_FOUND, "'%.64s' is neither a node nor a pool of the configuration", r->subject);
    return r->failed && (r->subject || r->apply) ? error_set(e, RC_INVALID, "%d without a rate", r->failed) : RC_OK;
}

int cli_nodes_rates(int argc, char **argv)
{
    struct rates r = {.target = {.config = CLI_CONFIG_DEFAULT}, .days = DAYS_DEFAULT, .utilisation = 60};
    int exit_code;
    struct error e;
    const struct arg_option options[] = {
        {"days", 0, ARG_INT, &r.days, .meta = "N", .help = "bills of the last N days", .lo = 1, .hi = 3660},
        {"from", 0, ARG_STRING, &r.from, .meta = "TIME", .help = "bills since then (UTC) instead"},
        {"utilisation", 0, ARG_INT, &r.utilisation, .meta = "PERCENT", .lo = 1, .hi = 100,
         .help = "where finance has set none (spillway finance set utilisation NODE)"},
        {"apply", 0, ARG_FLAG, &r.apply, .help = "make them what is charged"},
        {"apply-from", 0, ARG_STRING, &r.apply_from, .meta = "TIME", .help = "from then on (UTC); now"},
        {"reason", 0, ARG_STRING, &r.reason, .meta = "TEXT", .help = "why, for the books"},
        {"db", 0, ARG_STRING, &r.db, .meta = "FILE", .help = "this ledger file, instead of the configuration's"},
        CLI_OPTION_CONFIG(r.target.config),
    };
    const struct arg_operand operands[] = {{"NODE", &r.subject, "a node or a pool; all where it is left out", false}};
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "nodes rates",
        .summary = "standard rates: what a token is to be charged so that a node earns its bill",
        .example = "spillway nodes rates --days 30\nspillway nodes rates gpu1 --apply --apply-from 2026-12-01",
        .options = options,
        .n_options = 8,
        .operands = operands,
        .n_operands = 1};
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    enum rc rc = run(&r, &e);
    config_free(r.config);
    free(r.path);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("nodes rates", &e);
}
