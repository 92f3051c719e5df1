/* `spillway plan`: the arithmetic against figures done by hand, the catalogue's file and its mistakes, and what is
 * printed. links: spw_sched_cli */
#include "scheduler/cli/plan.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/alloc.h"
#include "scheduler/cli/cli.h"
#include "tests/unit/test.h"

static struct plan_catalogue catalogue;
static struct plan_result result;
static char dir[] = "/tmp/spw_plan_XXXXXX", path[96];

static const struct plan_row *row_of(const char *name)
{
    for (int i = 0; i < result.n_rows; i++)
        if (strcmp(result.rows[i].node->name, name) == 0)
            return &result.rows[i];
    return NULL;
}

static enum rc load(const char *text, struct error *e)
{
    snprintf(path, sizeof(path), "%s/catalogue.yaml", dir);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
    plan_catalogue_builtin(&catalogue);
    return plan_catalogue_load(&catalogue, path, e);
}

static void the_catalogue_is_sound(void)
{
    plan_catalogue_builtin(&catalogue);
    CHECK(catalogue.n_models >= 15 && catalogue.n_nodes >= 8);
    for (int i = 0; i < catalogue.n_models; i++) {
        const struct plan_model *m = &catalogue.models[i];
        CHECK(m->shape.active_params > 0 && m->shape.active_params <= m->shape.params);
        CHECK(capacity_kv_bytes_per_tok(&m->shape) > 1000);
        CHECK(!m->api[0] || m->api_prices.output.uusd_per_mtok > 0);
        CHECK(plan_find_model(&catalogue, m->name) == m);
    }
    for (int i = 0; i < catalogue.n_nodes; i++) {
        const struct plan_node *n = &catalogue.nodes[i];
        CHECK(n->gpus > 0 && n->watts_idle < n->watts_busy && n->spot_hour.v < n->on_demand_hour.v);
    }
    for (int i = 0; i < catalogue.n_curves; i++) {
        CHECK(plan_find_model(&catalogue, catalogue.curves[i].model) != NULL);
        CHECK(catalogue.curves[i].curve.decode_us_base > 0);
    }
}

static const char small_world[] =
    "models:\n"
    "  - {name: toy, params_b: 10, layers: 10, kv_heads: 4, head_dim: 125, api: shop,\n"
    "     api_input: 1, api_output: 2}\n"
    "nodes:\n"
    "  - {name: box, gpu: X, gpus: 1, gpu_memory_gb: 100, bandwidth_gb_s: 1000, tflops: 100,\n"
    "     watts_busy: 1000, watts_idle: 100, purchase: 48000, spot_hour: 1, on_demand_hour: 3}\n"
    "curves:\n"
    "  - {model: toy, gpu: X, gpus: 1, prefill_us_per_token: 100, decode_ms: 10,\n"
    "     decode_ms_per_sequence: 0.1}\n";

/* P = 0.1 s, steps of 10 + 0.1 B ms, 100 tokens out: one request takes 0.1 + 0.01 = 0.11 s of the node. TPOT 20 ms:
 * load 1 - 10/20 = 0.5, so 0.5 / 0.11 = 4.545 requests/s. */
static void by_hand(void)
{
    struct error e;
    struct plan_ask ask = {.mix = {.prompt = 1000, .output = 100},
                           .requests_per_s = 10,
                           .peak = 1,
                           .slo = {.tpot_us = 20000, .probability = 0.99},
                           .years = 4,
                           .uusd_per_kwh = 100000,
                           .pue = 1};

    CHECK_INT(load(small_world, &e), RC_OK);
    plan_size(&result, &catalogue, plan_find_model(&catalogue, "toy"), &ask);
    const struct plan_row *r = row_of("box");
    CHECK(r && r->why == PLAN_OK && r->measured);
    CHECK(fabs(r->capacity.requests_per_s - 0.5 / 0.11) < 1e-6);
    CHECK(r->memory.weights_bytes == 20e9 && r->memory.kv_bytes_per_tok == 20000);
    CHECK_INT(r->memory.sequences, 3181); /* 70 GB / 20 kB / 1100 */
    CHECK_INT(r->nodes_peak, 3);
    CHECK(r->nodes_mean == 3);
    CHECK(r->spot.fixed.v == (__int128)3 * 730 * 1000000000000);
    CHECK(r->on_demand.scaled.v == (__int128)9 * 730 * 1000000000000);
    /* 3,000 to write off; energy: 3 x 100 W idle and 2.2 nodes' 900 W more: 2,280 W x 730 h x 0.10. */
    CHECK(fabs((double)r->on_prem.fixed.v * 1e-12 - (3000 + 2.280 * 730 * 0.1)) < 0.01);
    /* A request at the API: 1000 x 1 + 100 x 2 a million = 0.0012. A spot node at 730 pays from 608,333 requests a
     * month. */
    CHECK(result.api_request.v == 1200000000);
    CHECK(result.api_month.v == (__int128)1200000000 * 10 * 3600 * 730);
    CHECK(fabs(r->spot.break_even_mtok - 730 / 0.0012 * 1100 / 1e6) < 1e-6);
    /* 1,000 + 73 owned, against 3 an hour: 11.76 hours a day. */
    CHECK(fabs(r->hours_per_day - 1073.0 / 3 / 730 * 24) < 1e-6);
}

static void a_day_with_a_peak(void)
{
    struct error e;
    struct plan_ask ask = {.mix = {.prompt = 1000, .output = 100},
                           .requests_per_s = 45,
                           .peak = 3,
                           .slo = {.tpot_us = 20000},
                           .years = 4,
                           .pue = 1};

    CHECK_INT(load(small_world, &e), RC_OK);
    plan_size(&result, &catalogue, plan_find_model(&catalogue, "toy"), &ask);
    const struct plan_row *r = row_of("box");
    CHECK_INT(r->nodes_peak, 30); /* 135 / 4.545 = 29.7 */
    CHECK(r->nodes_mean > 45 / 4.5454 && r->nodes_mean < 45 / 4.5454 + 1);
    CHECK(r->spot.scaled.v * 2 < r->spot.fixed.v);
    CHECK(r->on_prem.scaled.v <= r->on_prem.fixed.v);
}

static void what_does_not_fit_says_so(void)
{
    struct plan_ask ask = {.mix = {.prompt = 1000, .output = 100},
                           .requests_per_s = 1,
                           .peak = 1,
                           .slo = {.tpot_us = 1000, .probability = 0.99},
                           .years = 4,
                           .pue = 1};

    plan_catalogue_builtin(&catalogue);
    plan_size(&result, &catalogue, plan_find_model(&catalogue, "deepseek-r1"), &ask);
    CHECK_INT(row_of("g6.xlarge")->why, PLAN_NO_MEMORY);
    CHECK_INT(row_of("p6-b200.48xlarge")->why, PLAN_NO_SLO);
    CHECK(row_of("p6-b200.48xlarge")->capacity.tpot_us > 1000);
}

static void mistakes_have_lines(void)
{
    struct error e;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"modells:\n  - {name: x}\n", ":1: unknown key \"modells\""},
        {"models: 3\n", "models: a list is wanted"},
        {"models:\n  - {name: x, params_b: 1, layers: 1}\n", ":2: kv_heads and head_dim, or kv_latent, are missing"},
        {"models:\n  - {name: x, params_b: many}\n", ":2: params_b: \"many\" is no number"},
        {"models:\n  - {name: x, parms_b: 1}\n", "did you mean params_b"},
        {"nodes:\n  - name: x\n    gpus: 1.5\n", ":3: gpus: \"1.5\" is no whole number"},
        {"nodes:\n  - name: x\n    spot_hour: -1\n", ":3: spot_hour:"},
        {"nodes:\n  - name: x\n", "gpu is missing"},
        {"nodes:\n  - 7\n", "a map of name: ... is wanted"},
        {"curves:\n  - {model: [a]}\n", "model: one value is wanted"},
        {"models:\n  - {name: x, params_b: 1, active_b: 2, layers: 1, kv_latent: 5}\n",
         "active_b is more than params_b"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CHECK_INT(load(cases[i].text, &e), RC_INVALID);
        CHECK(strstr(e.message, cases[i].says) != NULL);
        if (!strstr(e.message, cases[i].says))
            fprintf(stderr, "  said: %s\n", e.message);
    }
}

static void the_slo_is_read(void)
{
    struct capacity_slo slo = {0};
    struct error e;

    CHECK_INT(plan_parse_slo(&slo, "tpot=50ms,ttft=1.5s,p=0.95", &e), RC_OK);
    CHECK(slo.ttft_us == 1.5e6 && slo.tpot_us == 50e3 && slo.probability == 0.95);
    CHECK_INT(plan_parse_slo(&slo, "ttft=5", &e), RC_INVALID);
    CHECK(strstr(e.message, "a time like 500ms") != NULL);
    CHECK_INT(plan_parse_slo(&slo, "p=99", &e), RC_INVALID);
    CHECK_INT(plan_parse_slo(&slo, "late=5ms", &e), RC_INVALID);
    CHECK_INT(plan_parse_slo(&slo, "ttft", &e), RC_INVALID);
}

/* Runs the verb with its output in a file. */
static int run(const char *name, char *out, size_t size, int argc, char **argv)
{
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fflush(stdout);
    int saved = dup(1), code;
    FILE *f = freopen(path, "w", stdout);
    code = f ? cli_main(argc, argv) : -1;
    fflush(stdout);
    dup2(saved, 1);
    close(saved);
    f = fopen(path, "r");
    size_t n = fread(out, 1, size - 1, f);
    out[n] = '\0';
    fclose(f);
    return code;
}

static void what_is_printed(void)
{
    static char out[65536];
    char *json[] = {"spillway", "plan",     "-m",  "llama-3.3-70b", "-q",   "2", "--prompt",
                    "1000",     "--output", "300", "--format",      "json", NULL};
    char *list[] = {"spillway", "plan", "--list", NULL};
    char *wrong[] = {"spillway", "plan", "-m", "llama-3.3-70", "-q", "2", "--prompt", "1000", "--output", "300", NULL};

    CHECK_INT(run("json", out, sizeof(out), 12, json), 0);
    cJSON *root = cJSON_Parse(out);
    CHECK(root && cJSON_GetArraySize(cJSON_GetObjectItem(root, "types")) == 8);
    CHECK(cJSON_GetObjectItem(cJSON_GetObjectItem(root, "cheapest"), "month_usd") != NULL);
    CHECK_STR(cJSON_GetStringValue(cJSON_GetObjectItem(cJSON_GetObjectItem(root, "api"), "month_usd")), "4346.712");
    cJSON_Delete(root);
    json[11] = "table";
    CHECK_INT(run("table", out, sizeof(out), 12, json), 0);
    CHECK(strstr(out, "memory: 141.1 GB of weights") && strstr(out, "$4,347 a month") && strstr(out, "measured"));
    CHECK_INT(run("list", out, sizeof(out), 3, list), 0);
    CHECK(strstr(out, "deepseek-r1") && strstr(out, "8xH100"));
    CHECK_INT(run("wrong", out, sizeof(out), 10, wrong), 2);
}

int main(void)
{
    if (!mkdtemp(dir))
        return 1;
    TEST(the_catalogue_is_sound);
    TEST(by_hand);
    TEST(a_day_with_a_peak);
    TEST(what_does_not_fit_says_so);
    TEST(mistakes_have_lines);
    TEST(the_slo_is_read);
    TEST(what_is_printed);
    static const char *const names[] = {"catalogue.yaml", "json", "table", "list", "wrong"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
    return TEST_RESULT();
}
