/* How fast the simulator is, on one core, with a trace made on the fly:
 *     bench_simulate [NODES [REQUESTS [POLICY]]]      100 nodes, 2,000,000 requests; POLICY: policy | round-robin |
 * scaled
 * The load is 60% of what the fleet can do. Prints requests per second, events, memory, and a few results by which a
 * run can be told to be a sensible one.
 * links: spw_sched_simulate m */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "tests/unit/sim_help.h"

/* Of this process alone: others on the machine do not count. */
static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    const int32_t nodes = argc > 1 ? (int32_t)strtol(argv[1], NULL, 10) : 100;
    const int64_t requests = argc > 2 ? strtoll(argv[2], NULL, 10) : 2000000;
    const char *policy = argc > 3 ? argv[3] : "policy";
    static struct tariff tariff = {.uusd_per_kwh = 120000};
    const struct sim_site site = {.name = "hall", .tariff = &tariff, .overhead = 1.2};
    const struct sim_type type = synthetic_type();
    struct sim_model model = synthetic_model();
    model.scaled = !strcmp(policy, "scaled");
    model.limits.nodes_max = nodes * 2;
    struct sim_offer offers[4] = {
        {.provider = "own",
         .zone = "hall",
         .market = SCALE_ON_PREM,
         .running = nodes / 2,
         .purchase_hour = {1500000000000}},
        {.provider = "aws",
         .zone = "a",
         .market = SCALE_SPOT,
         .domain = 1,
         .site = -1,
         .price_hour = {1200000000000},
         .launch_max = nodes,
         .running = nodes / 4,
         .boot_us = 180000000,
         .notice_us = 120000000,
         .billing_min_s = 60,
         .losses_per_hour = 0.1},
        {.provider = "gcp",
         .zone = "b",
         .market = SCALE_SPOT,
         .domain = 2,
         .site = -1,
         .price_hour = {1100000000000},
         .launch_max = nodes,
         .running = nodes / 8,
         .boot_us = 180000000,
         .notice_us = 30000000,
         .billing_min_s = 60,
         .losses_per_hour = 0.1},
        {.provider = "aws",
         .zone = "a",
         .market = SCALE_ON_DEMAND,
         .domain = 1,
         .site = -1,
         .price_hour = {4000000000000},
         .launch_max = nodes,
         .running = nodes - nodes / 2 - nodes / 4 - nodes / 8,
         .boot_us = 180000000,
         .billing_min_s = 60},
    };
    const struct sim_scenario s = {.name = "bench",
                                   .models = &model,
                                   .types = &type,
                                   .offers = offers,
                                   .sites = &site,
                                   .n_models = 1,
                                   .n_types = 1,
                                   .n_offers = 4,
                                   .n_sites = 1,
                                   .seed = 1,
                                   .routing = strcmp(policy, "round-robin") ? SIM_BY_POLICY : SIM_ROUND_ROBIN};
    /* A node does about 15 requests of 600 + 200 tokens a second. */
    struct synthetic trace = {
        .seed = 1, .rate = 9.0 * nodes, .n = requests, .prompt = 600, .output = 200, .models = 1, .teams = 100};
    const struct sim_source source = synthetic_source(&trace);
    struct sim_result r;
    struct error e = {0};
    const double begin = seconds();
    if (sim_run(&s, &source, NULL, &r, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    const double took = seconds() - begin;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const struct sim_class_result *k = &r.models[0].of[0];
    char total[48];
    printf("%d nodes, %lld requests, %s: %.2f s of one core, %.0f requests/s, %.0f events/s, %ld MiB\n", nodes,
           (long long)requests, policy, took, (double)requests / took, (double)r.events / took, usage.ru_maxrss / 1024);
    printf("simulated %.1f h; done %lld, refused %lld, in SLO %.3f%%; TTFT p50 %.0f p99 %.0f ms, TPOT p50 %.1f p99 "
           "%.1f ms; "
           "$%s, %.0f kWh\n",
           (double)r.end_us / 3.6e9, (long long)k->done, (long long)(k->refused + k->expired),
           100.0 * (double)k->in_slo / (double)(k->done ? k->done : 1), (double)hist_quantile(&k->ttft_us, 0.5) / 1e3,
           (double)hist_quantile(&k->ttft_us, 0.99) / 1e3, (double)hist_quantile(&k->tpot_us, 0.5) / 1e3,
           (double)hist_quantile(&k->tpot_us, 0.99) / 1e3, pusd_sum_format(r.total, total, sizeof(total)), r.kwh);
    printf("decisions %016llx: who changes nothing but speed changes nothing here\n", (unsigned long long)r.decisions);
    sim_result_fini(&r);
    return 0;
}
