/* Proves that price lists, spot availability, measured power and electricity are read as they are written, that
 * doubtful
 * prices are not used and are counted, and that mistakes are named by file and line.
 * links: spw_sched_simulate */
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "scheduler/simulate/market.h"

static char path[] = "/tmp/spw-market-XXXXXX";
static struct error err;

static const char *file(const char *text)
{
    FILE *f = fopen(path, "w");
    SPW_ASSERT(f && fputs(text, f) >= 0 && fclose(f) == 0);
    return path;
}

#define PRICES                                                                                                         \
    "cloud,instance_type,accelerator,accelerator_count,vcpus,memory_gib,region,zone,price_usd_h,spot_usd_h,flags\n"

static void doubtful_prices_are_not_used(void)
{
    struct price_table t;
    enum rc rc =
        price_table_read(&t,
                         file(PRICES "aws,g6.xlarge,L4,1,4,16,us,a,0.8048,0.3,\n"
                                     "aws,g6.xlarge,L4,1,4,16,us,b,0.8048,0.8048,\n" /* not flagged by the file */
                                     "aws,g6.xlarge,L4,1,4,16,us,c,0.8048,,no_spot\n"
                                     "aws,g6.xlarge,L4,1,4,16,eu,d,0.8048,0.08048,spot_floor_10pct\n"
                                     "aws,g6.xlarge,L4,1,4,16,eu,e,0.1,0.2,spot_gt_ondemand;suspect_ondemand_low\n"
                                     "aws,g6.xlarge,L4,1,4,16,eu,f,0.01,0.005,something_new\n"
                                     "aws,p5,H100,8,4,16,eu,f,,20,no_ondemand\n"),
                         &err);
    CHECK_INT(rc, RC_OK);
    CHECK_INT(t.n, 7);
    const struct price_row like = {.type = "g6.xlarge"};
    CHECK_STR(price_cheapest(&t, &like, PRICE_SPOT)->zone, "a");
    CHECK_INT(price_cheapest(&t, &like, PRICE_ON_DEMAND)->on_demand_h.v, INT64_C(804800000000));
    CHECK_INT(price_spread(&t, &like, PRICE_SPOT).n, 1);
    CHECK_INT(price_spread(&t, &like, PRICE_ON_DEMAND).n, 4);
    CHECK(price_cheapest(&t, &(struct price_row){.accelerator = "H100"}, PRICE_ON_DEMAND) == NULL);
    CHECK_INT(price_cheapest(&t, &(struct price_row){.accelerator = "h100"}, PRICE_SPOT)->spot_h.v,
              INT64_C(20000000000000));
    CHECK_INT(t.flagged[2], 1);
    CHECK_INT(t.flagged[3], 1);
    CHECK_INT(t.flagged[4], 1);
    CHECK_INT(t.flagged[5], 1);
    CHECK_INT(t.flagged[8], 1);
    CHECK_INT(t.without_spot, 5);
    CHECK_INT(t.without_on_demand, 3);
    CHECK_STR(price_flag_name(2), "spot_eq_ondemand");
    price_table_fini(&t);
}

static void gpus_that_are_sold_alone_get_a_host(void)
{
    struct price_table t;

    CHECK_INT(price_table_read(&t,
                               file(PRICES "gcp,,H100,2,,,us-east4,us-east4-a,10,4,\n"
                                           "gcp,a3-highgpu-1g,,,26,234,us-east4,us-east4-a,1.5,0.5,\n"
                                           "gcp,,H100,1,,,eu-west1,x,10,4,\n"),
                               &err),
              RC_OK);
    const struct price_row *p = price_cheapest(&t, &(struct price_row){.cloud = "gcp"}, PRICE_ON_DEMAND);
    CHECK(p && p->on_demand_h.v == INT64_C(13000000000000) && p->spot_h.v == INT64_C(5000000000000));
    CHECK(p && strcmp(p->type, "a3-highgpu-1g") == 0);
    CHECK_INT(price_spread(&t, &(struct price_row){0}, PRICE_ON_DEMAND).n, 1);
    price_table_fini(&t);
}

static void price_mistakes_are_named(void)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"cloud,region\n", ":1: there is no column instance_type; there are: cloud, region"},
        {PRICES "aws,g6,L4,1,4,16,us,a,-1,0.3,\n", ":2: price_usd_h: "},
        {PRICES "aws,g6,L4,one,4,16,us,a,1,0.3,\n", ":2: accelerator_count: \"one\" is not a whole number"},
        {PRICES "aws,g6,L4,1\n", ":2: has 4 fields, the head line has 11"},
    };
    struct price_table t;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_INT(price_table_read(&t, file(cases[i].text), &err), RC_INVALID);
        CHECK(strstr(err.message, cases[i].says) && strstr(err.message, path));
    }
}

#define SPOT "kind,nodes,collection,zone_gpu,gap_s,start_tick,length_ticks,available\n"

static void spot_availability_by_time(void)
{
    struct spot_table t;
    int64_t until;

    CHECK_INT(spot_table_read(&t,
                              file(SPOT "availability,1,c1,z1,60,0,10,1\navailability,1,c1,z1,60,10,5,0\n"
                                        "availability,1,c1,z1,60,15,5,1\n"
                                        "preemption,4,c2,z2,30,0,4,4\npreemption,4,c2,z2,30,4,4,1\n"),
                              &err),
              RC_OK);
    CHECK_INT(t.n, 2);
    const struct spot_series *s = spot_find(&t, NULL, "z1");
    CHECK(s && s->losses == 1 && !s->preemption && s->span_us == INT64_C(1200000000));
    CHECK(fabs(s->share - 0.75) < 1e-12);
    CHECK_INT(spot_at(s, 0, &until), 1);
    CHECK_INT(until, 600000000);
    CHECK_INT(spot_at(s, 600000000, &until), 0);
    CHECK_INT(until, 900000000);
    CHECK_INT(spot_at(s, 1199999999, &until), 1);
    CHECK_INT(spot_at(s, INT64_C(1200000000) + 700000000, &until), 0); /* starts again */
    CHECK_INT(until, INT64_C(2100000000));
    s = spot_find(&t, "c2", "z2");
    CHECK(s && s->nodes == 4 && s->preemption && fabs(s->share - 0.625) < 1e-12);
    CHECK(!spot_find(&t, "c1", "z2"));
    spot_table_fini(&t);
    CHECK_INT(spot_table_read(&t, file(SPOT "availability,1,c1,z1,60,0,10,1\navailability,1,c1,z1,60,11,5,0\n"), &err),
              RC_INVALID);
    CHECK(strstr(err.message, ":3: the run starts at tick 11; the ones before end at tick 10"));
    CHECK_INT(spot_table_read(&t, file(SPOT "guess,1,c1,z1,60,0,10,1\n"), &err), RC_INVALID);
    CHECK(strstr(err.message, ":2: kind: \"guess\""));
}

static void power_is_sorted_by_batch(void)
{
    struct power_table t;
    int n;

    CHECK_INT(power_table_read(&t,
                               file("task,model_id,gpu_model,num_gpus,max_num_seqs,avg_batch_size,"
                                    "output_throughput_tokens_per_sec,avg_power_watts,median_itl_ms\n"
                                    "chat,a/8B,H100,1,32,31,2000,600,10\n"
                                    "chat,a/70B,H100,4,8,7.5,300,1500,30\n"
                                    "chat,a/8B,H100,1,8,8,700,400,8\n"),
                               &err),
              RC_OK);
    const struct power_row *r = power_rows(&t, "a/8B", "H100", 1, NULL, &n);
    CHECK_INT(n, 2);
    CHECK(r && r[0].batch == 8 && r[1].batch == 31 && r[1].watts == 600);
    CHECK(!power_rows(&t, "a/8B", "H100", 2, NULL, &n) && n == 0);
    power_table_fini(&t);
    CHECK_INT(power_table_read(&t, file("model_id,watts\n"), &err), RC_INVALID);
}

static void electricity_by_the_hour(void)
{
    struct electricity t;

    CHECK_INT(
        electricity_read(&t,
                         file("hour_utc,price_usd_mwh_A,price_usd_mwh_B,gco2_kwh_lca_B\n2024-01-01 00,1,40.5,300\n"
                              "2024-01-01 01,1,-0.25,310\n2024-01-01 02,1,,320\n"),
                         "B", &err),
        RC_OK);
    CHECK_INT(t.start_unix_s, 1704067200);
    CHECK_INT(electricity_at(&t, 1704067200), 40500);
    CHECK_INT(electricity_at(&t, 1704067200 + 3600), -250);
    CHECK_INT(electricity_at(&t, 1704067200 + 2 * 3600), -250); /* empty: as before */
    CHECK_INT(electricity_at(&t, 1704067200 + 3 * 3600 + 59), 40500);
    CHECK_INT(electricity_at(&t, 1704067200 - 3600 * 3), 40500);
    CHECK_INT(t.gaps, 1);
    CHECK_INT(t.mg_co2_per_kwh[1], 310000);
    electricity_fini(&t);
    CHECK_INT(electricity_read(&t, file("hour_utc,price_usd_mwh_A\n2024-01-01 00,1\n2024-01-01 02,1\n"), "A", &err),
              RC_INVALID);
    CHECK(strstr(err.message, ":3: \"2024-01-01 02\" is not the hour after"));
    CHECK_INT(electricity_read(&t, file("hour_utc,price_usd_mwh_A\n"), "C", &err), RC_INVALID);
    CHECK(strstr(err.message, "there is no column price_usd_mwh_C"));
}

static void published_tables_are_read_whole(void)
{
    struct price_table prices;
    struct spot_table spot;
    struct power_table power;
    struct electricity e;
    int n;

    if (access("../shared/data/prices/gpu_prices.csv", R_OK) != 0) {
        printf("skipped: no ../shared/data\n");
        return;
    }
    CHECK_INT(price_table_read(&prices, "../shared/data/prices/gpu_prices.csv", &err), RC_OK);
    CHECK_INT(prices.n, 438);
    CHECK_INT(prices.flagged[5], 34); /* GCP: like a price for a commitment */
    CHECK_INT(prices.flagged[3], 6);
    price_table_fini(&prices);
    CHECK_INT(spot_table_read(&spot, "../shared/data/spot/spot_traces_rle.csv", &err), RC_OK);
    CHECK_INT(spot.n, 34);
    const struct spot_series *s = spot_find(&spot, "aws-02-15-2023", "us-west-2b_v100_1");
    CHECK(s && fabs(s->share - 0.905) < 0.001 && s->losses == 94);
    spot_table_fini(&spot);
    CHECK_INT(power_table_read(&power, "../shared/data/power/ml_energy_v3_llm.csv", &err), RC_OK);
    CHECK(power_rows(&power, "meta-llama/Llama-3.1-8B-Instruct", "H100", 1, NULL, &n) && n == 11);
    power_table_fini(&power);
    CHECK_INT(electricity_read(&e, "../shared/data/electricity/price_carbon_2024_hourly.csv.gz", "US-CAL-CISO", &err),
              RC_OK);
    CHECK_INT(e.n, 8784);
    electricity_fini(&e);
}

int main(void)
{
    int fd = mkstemp(path);
    SPW_ASSERT(fd >= 0);
    close(fd);
    TEST(doubtful_prices_are_not_used);
    TEST(gpus_that_are_sold_alone_get_a_host);
    TEST(price_mistakes_are_named);
    TEST(spot_availability_by_time);
    TEST(power_is_sorted_by_batch);
    TEST(electricity_by_the_hour);
    TEST(published_tables_are_read_whole);
    unlink(path);
    return TEST_RESULT();
}
