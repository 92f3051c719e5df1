/* Price lists as they are found: what is dirty in them is told row by row, with file, line, column and what would be
 * right, costs that row alone, and no figure that is doubtful is used. Dates end older prices; hours of the day and
 * tiers are understood; only dollars are taken; no digit goes through floating point.
 * links: spw_providers */
#include "test.h"

#include <unistd.h>

#include "base/text.h"
#include "providers/catalogue.h"

static char path[128];
static struct {
    int n, lines[64];
    char text[64][400];
} told;

static void on_problem(int line, const char *text, void *arg)
{
    (void)arg;
    if (told.n < 64) {
        told.lines[told.n] = line;
        snprintf(told.text[told.n], sizeof(told.text[0]), "%s", text);
    }
    told.n++;
}

static enum rc load(struct price_table *t, const char *end, const char *text, struct error *e)
{
    snprintf(path, sizeof(path), "/tmp/spillway-catalogue-%ld%s", (long)getpid(), end);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
    told.n = 0;
    enum rc rc = price_table_load(t, path, on_problem, NULL, e);
    unlink(path);
    return rc;
}

static int64_t at(const char *date)
{
    int64_t s = 0;
    CHECK_INT(text_parse_utc(date, &s), RC_OK);
    return s;
}

#define HEAD                                                                                                           \
    "cloud,instance_type,accelerator,accelerator_count,region,zone,price_usd_h,spot_usd_h,currency,effective_from\n"

static void dirt_costs_its_row_alone(void)
{
    static const struct {
        int line;
        const char *says;
    } wrong[] = {
        {3, ":3: price_usd_h: \"-1\" is negative"},
        {4, ":4: price_usd_h: \"0,587\" has a comma; write the decimals behind a point, as in 0.587"},
        {5, ":5: price_usd_h: \"1,234.50\" has commas between thousands"},
        {6, ":6: price_usd_h: \"\xe2\x82\xac"
            "1.5\" is not in dollars"},
        {7, ":7: currency: \"EUR\"; only USD is booked"},
        {8, ":8: accelerator_count: \"eight\" is not a whole number"},
        {9, ":9: effective_from: \"07/01/2026\" is no date; 2026-07-01"},
        {10, ":10: price_usd_h: \"call us\" is no price"},
        {11, ":11: has 9 fields, the head line has 10"},
        {12, ":12: field 1: the quotes are not closed"},
        {13, ":13: cloud: is empty"},
        {14, ":14: instance_type and accelerator: are both empty"},
        {15, ":15: price_usd_h: 99999999 is too much"},
    };
    struct price_table t;
    struct error e;
    CHECK_INT(load(&t, ".csv",
                   HEAD "aws,g6.xlarge,L4,1,us-east-1,a,0.8048,0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,b,-1,0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,c,\"0,587\",0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,d,\"1,234.50\",0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,e,\xe2\x82\xac"
                        "1.5,0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,f,0.8,0.3,EUR,\n"
                        "aws,g6.xlarge,L4,eight,us-east-1,g,0.8,0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,h,0.8,0.3,USD,07/01/2026\n"
                        "aws,g6.xlarge,L4,1,us-east-1,i,call us,0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,j,0.8,0.3,USD\n"
                        "\"aws,g6.xlarge,L4,1,us-east-1,j,0.8,0.3,USD,\n"
                        ",g6.xlarge,L4,1,us-east-1,j,0.8,0.3,USD,\n"
                        "aws,,,1,us-east-1,j,0.8,0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,j,99999999,0.3,USD,\n"
                        "aws,g6.xlarge,L4,1,us-east-1,k, $0.9 ,n/a,usd,\n",
                   &e),
              RC_OK);
    CHECK_INT(t.n, 2);
    CHECK_INT(t.lost, (int)(sizeof(wrong) / sizeof(wrong[0])));
    CHECK_INT(told.n, t.lost);
    for (int i = 0; i < told.n && i < t.lost; i++) {
        CHECK_INT(told.lines[i], wrong[i].line);
        if (!strstr(told.text[i], wrong[i].says))
            CHECK_STR(told.text[i], wrong[i].says);
    }
    CHECK_INT(price_cheapest(&t, &(struct price_row){.zone = "k"}, PRICE_ON_DEMAND)->on_demand_h.v,
              INT64_C(900000000000));
    CHECK(!price_cheapest(&t, &(struct price_row){.zone = "k"}, PRICE_SPOT));
    price_table_fini(&t);
}

static void other_currencies_and_strange_files_are_refused(void)
{
    static const struct {
        const char *end, *text, *says;
    } cases[] = {
        {".csv", "cloud,instance_type,accelerator,accelerator_count,region,price_eur_h\n",
         "column price_eur_h: only dollars are booked"},
        {".csv", "zone,price_usd_h\n", "there is no column cloud; there are: zone, price_usd_h"},
        {".csv", "", "is empty"},
        {".yaml", "prices: 7\n", "prices: a list of rows is wanted"},
        {".yaml", "hello: world\n", "is no price list"},
        {".json", "{\"unit\": \"EUR per million tokens\", \"models\": []}",
         "only \"USD per million tokens\" is understood"},
        {".json", "{\"currency\": \"GBP\", \"models\": []}", "only USD is booked"},
        {".json", "{\"models\": [", "not YAML"},
        {".json", "7", "is no price list"},
    };
    struct price_table t;
    struct error e;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CHECK_INT(load(&t, cases[i].end, cases[i].text, &e), RC_INVALID);
        if (!strstr(e.message, cases[i].says))
            CHECK_STR(e.message, cases[i].says);
    }
    CHECK_INT(price_table_read(&t, "/nowhere/prices.csv", &e), RC_NOT_FOUND);
}

static void dates_end_older_prices(void)
{
    struct price_table t;
    struct error e;
    struct price_row q = {.type = "p5.48xlarge"};
    CHECK_INT(load(&t, ".csv",
                   HEAD "aws,p5.48xlarge,H100,8,us-east-1,,98.32,,,2024-01-01\n"
                        "aws,p5.48xlarge,H100,8,us-east-1,,55.04,,,2025-06-01\n"
                        "aws,p5.48xlarge,H100,8,us-east-1,,40,,,2026-06-01T12:00:00Z\n",
                   &e),
              RC_OK);
    CHECK_INT(told.n, 0);
    CHECK_INT(price_cheapest(&t, &q, PRICE_ON_DEMAND)->on_demand_h.v, INT64_C(40000000000000));
    q.at_s = at("2025-05-31");
    CHECK_INT(price_cheapest(&t, &q, PRICE_ON_DEMAND)->on_demand_h.v, INT64_C(98320000000000));
    q.at_s = at("2025-06-01");
    CHECK_INT(price_cheapest(&t, &q, PRICE_ON_DEMAND)->on_demand_h.v, INT64_C(55040000000000));
    q.at_s = at("2023-06-01");
    CHECK(!price_cheapest(&t, &q, PRICE_ON_DEMAND));
    price_table_fini(&t);
}

static void repetitions_and_contradictions(void)
{
    struct price_table t;
    struct error e;
    CHECK_INT(load(&t, ".csv",
                   HEAD "aws,a,L4,1,r,,1,,,\naws,a,L4,1,r,,1.0,,,\n"
                        "aws,b,L4,1,r,,1,,,\naws,b,L4,1,r,,2,,,\n",
                   &e),
              RC_OK);
    CHECK_INT(t.flagged[9], 1);
    CHECK_INT(t.flagged[10], 2);
    CHECK_INT(price_spread(&t, &(struct price_row){.type = "a"}, PRICE_ON_DEMAND).n, 1);
    CHECK_INT(price_spread(&t, &(struct price_row){.type = "b"}, PRICE_ON_DEMAND).n, 0);
    price_table_fini(&t);
}

static void tokens_by_hour_tier_and_date(void)
{
    struct price_table t;
    struct error e;
    CHECK_INT(
        load(&t, ".json",
             "{\"unit\": \"USD per million tokens (input_mtok)\", \"models\": [\n"
             "{\"provider\": \"deepseek\", \"model\": \"deepseek-chat\", \"prices\": [\n"
             " {\"prices\": {\"input_mtok\": 0.135, \"cache_read_mtok\": 0.035, \"output_mtok\": 0.55}},\n"
             " {\"constraint\": {\"start_time\": \"00:30:00Z\", \"end_time\": \"16:30:00Z\"},\n"
             "  \"prices\": {\"input_mtok\": 0.27, \"cache_read_mtok\": 0.07, \"output_mtok\": 1.1}}]},\n"
             "{\"provider\": \"openai\", \"model\": \"o3\", \"prices\": [{\"prices\": {\"input_mtok\": 10, "
             "\"output_mtok\": 40}},\n"
             " {\"constraint\": {\"start_date\": \"2025-06-10\"}, \"prices\": {\"input_mtok\": 2, \"output_mtok\": "
             "8}}]},\n"
             "{\"provider\": \"a\", \"model\": \"long\", \"prices\": {\"input_mtok\": {\"base\": 3, \"tiers\": "
             "[{\"start\": 200000, \"price\": 6}]}, \"output_mtok\": 15}},\n"
             "{\"provider\": \"a\", \"model\": \"free\", \"prices\": {}},\n"
             "{\"provider\": \"a\", \"model\": \"odd\", \"prices\": {\"input_mtok\": \"cheap\", \"output_mtok\": 1}},\n"
             "{\"provider\": \"b\", \"model\": \"long\", \"prices\": {\"input_mtok\": 1e-1, \"output_mtok\": 2.5}}\n"
             "]}\n",
             &e),
        RC_OK);
    const struct price_api *a = price_api_find(&t, "deepseek", "deepseek-chat", at("2026-01-05T08:00:00Z"));
    CHECK_INT(a->prices.output.uusd_per_mtok, 1100000);
    a = price_api_find(&t, "deepseek", "deepseek-chat", at("2026-01-05T20:00:00Z"));
    CHECK_INT(a->prices.input.uusd_per_mtok, 135000);
    CHECK_INT(a->prices.cached_input.uusd_per_mtok, 35000);
    CHECK_INT(price_api_find(&t, NULL, "o3", at("2025-06-09"))->prices.input.uusd_per_mtok, 10000000);
    CHECK_INT(price_api_find(&t, NULL, "O3", at("2025-06-10"))->prices.input.uusd_per_mtok, 2000000);
    a = price_api_find(&t, "a", "long", at("2026-01-01"));
    CHECK_INT(a->prompt_max, 200000);
    CHECK_INT(a->prices.cached_input.uusd_per_mtok, 3000000); /* no discount is told: none */
    CHECK_STR(price_api_find(&t, NULL, "long", at("2026-01-01"))->provider, "b");
    CHECK_INT(price_api_find(&t, "b", "long", at("2026-01-01"))->prices.input.uusd_per_mtok, 100000);
    CHECK(!price_api_find(&t, NULL, "free", at("2026-01-01")));
    CHECK_INT(told.n, 1);
    CHECK(strstr(told.text[0], ":10: input_mtok: \"cheap\" is no price"));
    price_table_fini(&t);
}

static void the_other_shapes(void)
{
    struct price_table t;
    struct error e;
    CHECK_INT(
        load(&t, ".json",
             "{\"sample_spec\": {\"input_cost_per_token\": 0.0}, \"deepseek/deepseek-r1\": {\"input_cost_per_token\": "
             "5.5e-07, \"output_cost_per_token\": 2.19e-06, \"cache_read_input_token_cost\": 1.4e-07, "
             "\"litellm_provider\": \"deepseek\"}}",
             &e),
        RC_OK);
    const struct price_api *a = price_api_find(&t, "deepseek", "deepseek-r1", at("2026-01-01"));
    CHECK(a && a->prices.input.uusd_per_mtok == 550000 && a->prices.output.uusd_per_mtok == 2190000 &&
          a->prices.cached_input.uusd_per_mtok == 140000);
    price_table_fini(&t);
    CHECK_INT(
        load(&t, ".yaml",
             "currency: USD\nprices:\n  - {cloud: rack, instance_type: h100x8, accelerator: H100, accelerator_count: 8,"
             " region: dc1, price_usd_h: 4.20}\n  - just text\napis:\n"
             "  - {provider: x, model: m, input: 0.5, output: 1.5, effective_from: 2026-02-01}\n"
             "  - {provider: x, model: m, input: 0.4, output: 1.2, effective_from: 2026-03-01}\n",
             &e),
        RC_OK);
    CHECK_INT(t.n, 1);
    CHECK_INT(told.n, 1);
    CHECK_INT(price_cheapest(&t, &(struct price_row){.accelerator = "h100"}, PRICE_ON_DEMAND)->on_demand_h.v,
              INT64_C(4200000000000));
    CHECK_INT(price_api_find(&t, "X", "m", at("2026-02-28"))->prices.output.uusd_per_mtok, 1500000);
    CHECK_INT(price_api_find(&t, "X", "m", at("2026-03-28"))->prices.output.uusd_per_mtok, 1200000);
    CHECK(!price_api_find(&t, "X", "m", at("2026-01-28")));
    price_table_fini(&t);
}

static void digits_stay_digits(void)
{
    struct price_table t;
    struct error e;
    CHECK_INT(load(&t, ".csv",
                   HEAD "aws,a,L4,1,r,,0.30000000000000004,0.1999999999999999,,\naws,b,L4,1,r,,1.00000000000049,,,\n"
                        "aws,c,L4,1,r,,3e-1,,,\n",
                   &e),
              RC_OK);
    CHECK_INT(t.rows[0].on_demand_h.v, INT64_C(300000000000));
    CHECK_INT(t.rows[0].spot_h.v, INT64_C(200000000000));
    CHECK_INT(t.rows[1].on_demand_h.v, INT64_C(1000000000000));
    CHECK_INT(t.rows[2].on_demand_h.v, INT64_C(300000000000));
    price_table_fini(&t);
}

static void the_real_lists(void)
{
    struct price_table t;
    struct error e;
    if (access("../shared/data/api_prices/genai_prices_subset.json", R_OK) != 0) {
        printf("skipped: the_real_lists: no ../shared/data\n");
        return;
    }
    told.n = 0;
    CHECK_INT(price_table_load(&t, "../shared/data/api_prices/genai_prices_subset.json", on_problem, NULL, &e), RC_OK);
    CHECK_INT(told.n, 0);
    CHECK(t.n_apis >= 355);
    CHECK_INT(price_api_find(&t, "deepseek", "deepseek-reasoner", at("2026-01-01"))->prices.output.uusd_per_mtok > 0,
              1);
    price_table_fini(&t);
    CHECK_INT(price_table_load(&t, "../shared/data/api_prices/litellm_facts.json", on_problem, NULL, &e), RC_OK);
    CHECK_INT(price_api_find(&t, "deepseek", "deepseek-r1", at("2026-01-01"))->prices.output.uusd_per_mtok, 2190000);
    price_table_fini(&t);
    CHECK_INT(price_table_load(&t, "../shared/data/prices/gpu_prices.csv", on_problem, NULL, &e), RC_OK);
    CHECK_INT(told.n, 0);
    CHECK_INT(t.n, 438);
    printf("gpu_prices.csv: %d repeated, %d in conflict\n", t.flagged[9], t.flagged[10]);
    price_table_fini(&t);
}

int main(void)
{
    TEST(dirt_costs_its_row_alone);
    TEST(other_currencies_and_strange_files_are_refused);
    TEST(dates_end_older_prices);
    TEST(repetitions_and_contradictions);
    TEST(tokens_by_hour_tier_and_date);
    TEST(the_other_shapes);
    TEST(digits_stay_digits);
    TEST(the_real_lists);
    return TEST_RESULT();
}
