#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/cli/cli_internal.h"
#include "scheduler/cli/plan.h"

struct plan_words { /* as given */
    const char *model, *slo, *catalogue, *format, *tariff;
    double qps, prompt, output, cached, prompt_cv, peak, over_provision, years, pue, weight_bits;
    bool list;
};

static const char *const formats[] = {"table", "json", NULL};

static void list_catalogue(const struct plan_catalogue *c)
{
    static const struct cli_column models[] = {{"MODEL", CLI_LEFT},
                                               {"PARAMS B", CLI_RIGHT},
                                               {"BITS", CLI_RIGHT},
                                               {"KV KB/TOKEN", CLI_RIGHT},
                                               {"API", CLI_LEFT}};
    static const struct cli_column nodes[] = {{"NODE TYPE", CLI_LEFT},
                                              {"GPUS", CLI_LEFT},
                                              {"PURCHASE", CLI_RIGHT},
                                              {"SPOT/H", CLI_RIGHT},
                                              {"ON DEMAND/H", CLI_RIGHT}};
    struct cli_table t;
    char buf[96];

    cli_table_init(&t, models, 5);
    for (int i = 0; i < c->n_models; i++) {
        const struct plan_model *m = &c->models[i];
        cli_table_add(&t, m->name);
        snprintf(buf, sizeof(buf), "%.4g", m->shape.params / 1e9);
        cli_table_add(&t, buf);
        snprintf(buf, sizeof(buf), "%g", m->shape.bits_per_weight);
        cli_table_add(&t, buf);
        snprintf(buf, sizeof(buf), "%.1f", capacity_kv_bytes_per_tok(&m->shape) / 1e3);
        cli_table_add(&t, buf);
        cli_table_add(&t, m->api);
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
    putchar('\n');
    cli_table_init(&t, nodes, 5);
    for (int i = 0; i < c->n_nodes; i++) {
        const struct plan_node *n = &c->nodes[i];
        const struct pusd prices[] = {n->purchase, n->spot_hour, n->on_demand_hour};
        cli_table_add(&t, n->name);
        snprintf(buf, sizeof(buf), "%dx%s", n->gpus, n->gpu);
        cli_table_add(&t, buf);
        for (int k = 0; k < 3; k++)
            cli_table_add(&t, prices[k].v > 0 ? pusd_format(prices[k], buf, sizeof(buf)) : NULL);
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
}

static enum rc unknown_model(const struct plan_catalogue *c, const char *name, struct error *e)
{
    const char *names[PLAN_MODELS];

    for (int i = 0; i < c->n_models; i++)
        names[i] = c->models[i].name;
    const char *near = text_nearest(name, names, c->n_models);
    if (near)
        return error_set(e, RC_INVALID, "--model: unknown model \"%.60s\"; did you mean %s?", name, near);
    return error_set(e, RC_INVALID,
                     "--model: unknown model \"%.60s\"; --list shows what is known, and --catalogue FILE adds to it",
                     name);
}

/* The words as an ask. */
static enum rc read_ask(struct plan_ask *ask, const struct plan_words *p, struct error *e)
{
    struct pusd kwh;

    *ask = (struct plan_ask){.mix = {p->prompt, p->cached, p->output, p->prompt_cv},
                             .requests_per_s = p->qps,
                             .peak = p->peak,
                             .slo = {.probability = 0.99, .all_prompts = true},
                             .over_provision = p->over_provision,
                             .years = p->years,
                             .pue = p->pue};
    if (p->cached > p->prompt)
        return error_set(e, RC_INVALID, "--cached %g is more than --prompt %g", p->cached, p->prompt);
    if (pusd_parse(p->tariff, &kwh, e) != RC_OK)
        return error_prefix(e, "--tariff");
    if (kwh.v > (int64_t)1000 * 1000000000000)
        return error_set(e, RC_INVALID, "--tariff: more than 1000 dollars per kWh");
    ask->uusd_per_kwh = kwh.v / 1000000;
    if (plan_parse_slo(&ask->slo, p->slo, e) != RC_OK)
        return e->code;
    ask->slo.tpot_probability = ask->slo.probability;
    return RC_OK;
}

static enum rc run_plan(const struct plan_words *p, struct plan_catalogue *c, struct error *e)
{
    struct plan_ask ask;

    plan_catalogue_builtin(c);
    if (p->catalogue && plan_catalogue_load(c, p->catalogue, e) != RC_OK)
        return e->code;
    if (p->list) {
        list_catalogue(c);
        return RC_OK;
    }
    if (!p->model || p->qps <= 0 || p->prompt <= 0 || p->output <= 0)
        return error_set(e, RC_INVALID, "--model, --qps, --prompt and --output are needed (or --list)");
    const struct plan_model *known = plan_find_model(c, p->model);
    if (!known)
        return unknown_model(c, p->model, e);
    if (read_ask(&ask, p, e) != RC_OK)
        return e->code;
    struct plan_model model = *known;
    if (p->weight_bits > 0)
        model.shape.bits_per_weight = p->weight_bits;
    struct plan_result *r = spw_malloc(sizeof(*r));
    plan_size(r, c, &model, &ask);
    enum rc rc = RC_OK;
    if (strcmp(p->format, "json") == 0)
        rc = plan_print_json(r, stdout);
    else
        plan_print_table(r, stdout);
    free(r);
    return rc == RC_OK ? rc : error_set(e, rc, "the result is too large to print");
}

int cli_plan(int argc, char **argv)
{
    struct plan_words p = {.slo = "ttft=1s,tpot=50ms,p=0.99",
                           .format = "table",
                           .tariff = "0.12",
                           .prompt_cv = 1,
                           .peak = 2,
                           .over_provision = 0.1,
                           .years = 4,
                           .pue = 1.3};
    int exit_code;
    struct error e;
    const struct arg_option options[] = {
        {"model", 'm', ARG_STRING, &p.model, .meta = "NAME", .help = "of the catalogue"},
        {"qps", 'q', ARG_DOUBLE, &p.qps, .meta = "N", .help = "requests per second, the mean of a month", .dhi = 1e6},
        {"prompt", 0, ARG_DOUBLE, &p.prompt, .meta = "TOKENS", .help = "mean prompt", .dhi = 1e7},
        {"output", 0, ARG_DOUBLE, &p.output, .meta = "TOKENS", .help = "mean answer", .dhi = 1e6},
        {"cached", 0, ARG_DOUBLE, &p.cached, .meta = "TOKENS", .help = "of the prompt, found in the prefix cache",
         .dhi = 1e7},
        {"prompt-cv", 0, ARG_DOUBLE, &p.prompt_cv, .meta = "X", .help = "spread of prompts: deviation over mean",
         .dhi = 20},
        {"slo", 0, ARG_STRING, &p.slo, .meta = "SLO", .help = "what must hold; p: for this share of requests"},
        {"peak", 0, ARG_DOUBLE, &p.peak, .meta = "X", .help = "busiest hour of the day over the mean", .dlo = 1,
         .dhi = 12},
        {"over-provision", 0, ARG_DOUBLE, &p.over_provision, .meta = "X", .help = "more than is asked for", .dhi = 10},
        {"weight-bits", 0, ARG_DOUBLE, &p.weight_bits, .meta = "BITS", .help = "instead of the model's own (0)",
         .dhi = 32},
        {"years", 0, ARG_DOUBLE, &p.years, .meta = "N", .help = "a purchase is written off over", .dlo = 0.1,
         .dhi = 30},
        {"tariff", 0, ARG_STRING, &p.tariff, .meta = "USD", .help = "dollars per kWh"},
        {"pue", 0, ARG_DOUBLE, &p.pue, .meta = "X", .help = "power of the room over that of its machines", .dlo = 1,
         .dhi = 5},
        {"catalogue", 0, ARG_STRING, &p.catalogue, .meta = "FILE",
         .help = "YAML of models, nodes and curves over the built-in"},
        {"format", 'f', ARG_STRING, &p.format, .meta = "FORMAT", .help = "of the output", .choices = formats},
        {"list", 'l', ARG_FLAG, &p.list, .help = "show the catalogue and end"},
    };
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "plan",
        .summary =
            "size hardware for a workload: memory, nodes by type, a month's cost owned, spot, on demand and by API",
        .example =
            "spillway plan --model llama-3.3-70b --qps 2 --prompt 1000 --output 300\n"
            "spillway plan -m deepseek-r1 -q 5 --prompt 800 --output 900 --slo ttft=2s,tpot=60ms,p=0.95 --format json",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0])};

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    struct plan_catalogue *c = spw_malloc(sizeof(*c));
    enum rc rc = run_plan(&p, c, &e);
    free(c);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("plan", &e);
}
