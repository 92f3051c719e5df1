/* Capacity's formulas beside the simulator's node, request by request: at the capacity that is promised for 99% of
 * requests, does it come so?
 * links: spw_sched_simulate */
#include <math.h>
#include <stdlib.h>

#include "policies/capacity.h"
#include "scheduler/simulate/node_model.h"
#include "tests/unit/test.h"

#define REQUESTS 40000

static uint64_t seed;
static double unit(void)
{
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 11) + 0.5) / 9007199254740992.0;
}
static int32_t lognormal(double mean, double cv)
{
    double sigma = sqrt(log1p(cv * cv)), z = sqrt(-2 * log(unit())) * cos(2 * M_PI * unit());
    return (int32_t)fmax(mean * exp(sigma * z - sigma * sigma / 2), 1);
}

struct mix_case {
    const char *name;
    struct node_curve curve;
    struct workload_mix mix;
    struct capacity_slo slo;
    int32_t sequences;
};
static struct node_job jobs[REQUESTS];
static int64_t came[REQUESTS], first[REQUESTS], last[REQUESTS];
static struct node_entry heap[512];
static float milliwatts[513];

/* Poisson arrivals, prompts lognormal, answers exponential. */
static void make_requests(const struct mix_case *k, double rate)
{
    double now = 0;

    seed = 7;
    for (int i = 0; i < REQUESTS; i++) {
        came[i] = (int64_t)(now -= log(unit()) / rate * 1e6);
        jobs[i].fresh = lognormal(k->mix.prompt, k->mix.prompt_cv);
        jobs[i].output = (int32_t)fmax(-log(unit()) * k->mix.output, 2);
        jobs[i].kv = jobs[i].fresh + jobs[i].output;
    }
}

static void compute(const struct mix_case *k)
{
    struct node_spec spec = {
        .curve = k->curve, .chunk = NODE_CHUNK_TOKENS, .sequences = k->sequences, .mw = milliwatts};
    struct node_model m;
    int i = 0;

    node_model_init(&m, &spec, heap, 0);
    for (;;) {
        int64_t next = node_model_next(&m);
        int32_t job;
        enum node_event e;
        if (i < REQUESTS && came[i] <= next) {
            node_model_add(&m, jobs, i, came[i]);
            i++;
            continue;
        }
        if (next == INT64_MAX)
            return;
        while ((e = node_model_pop(&m, jobs, next, &job)) != NODE_NOTHING) {
            if (e != NODE_LAST_TOKEN)
                first[job] = next;
            last[job] = next;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static bool near(double a, double b, double share)
{
    return fabs(a - b) <= share * b;
}

static void one_case(const struct mix_case *k)
{
    static double ttft[REQUESTS], tpot[REQUESTS];
    struct capacity c;
    double steps = 0, time = 0;
    int n = 0;

    capacity_at_slo(&c, &k->curve, &k->slo, &k->mix, k->sequences);
    make_requests(k, c.requests_per_s);
    compute(k);
    for (int i = REQUESTS / 10; i < REQUESTS * 9 / 10; i++, n++) {
        ttft[n] = (double)(first[i] - came[i]);
        tpot[n] = (double)(last[i] - first[i]) / (jobs[i].output - 1);
        time += (double)(last[i] - first[i]);
        steps += jobs[i].output - 1;
    }
    qsort(ttft, (size_t)n, sizeof(double), by_value);
    qsort(tpot, (size_t)n, sizeof(double), by_value);
    double ttft99 = ttft[n * 99 / 100], tpot99 = tpot[n * 99 / 100];
    if (getenv("VERBOSE"))
        printf(
            "%-12s %.2f requests/s by %s: TTFT p99 %.0f (foreseen %.0f) ms, TPOT mean %.1f (%.1f) p99 %.1f (%.1f) ms\n",
            k->name, c.requests_per_s, capacity_limit_name(c.limit), ttft99 / 1e3, c.ttft_us / 1e3, time / steps / 1e3,
            c.tpot_us / 1e3, tpot99 / 1e3, c.tpot_us_p / 1e3);
    CHECK(near(c.tpot_us, time / steps, 0.1));
    CHECK(near(c.ttft_us, ttft99, 0.3));
    CHECK(c.tpot_us_p > tpot99 * 0.7 && c.tpot_us_p < tpot99 * 2.2);
}

static void at_capacity_the_promise_about_holds(void)
{
    const struct mix_case cases[] = {
        {"8B chat", {0, 41, 6700, 75.8}, {1000, 0, 250, 1.2}, {600e3, 50e3, 0.99, 0.99, true}, 256},
        {"8B long", {0, 41, 6700, 75.8}, {4000, 0, 250, 1}, {2000e3, 90e3, 0.99, 0.99, true}, 256},
        {"70B chat", {0, 89, 16400, 90.1}, {1000, 0, 300, 1}, {1000e3, 50e3, 0.99, 0.99, true}, 298},
        {"70B code", {0, 89, 16400, 90.1}, {2000, 0, 30, 0.9}, {1500e3, 100e3, 0.99, 0.99, true}, 298},
        {"70B thinks", {0, 89, 16400, 90.1}, {500, 0, 1500, 1}, {500e3, 40e3, 0.99, 0.99, true}, 220},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        one_case(&cases[i]);
}

int main(void)
{
    TEST(at_capacity_the_promise_about_holds);
    return TEST_RESULT();
}
