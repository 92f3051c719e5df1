/* What listening to a router costs: a decision that nobody listens to, one that is recorded (under the lock), and what the
 * recorder's thread makes of it (lines and bytes per second).
 *   ninja -C build bench_record && build/bench/bench_record
 * links: spw_sched_record */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "scheduler/record/recorder.h"

#define DECISIONS 200000
#define BATCH     50

static const struct router_size size = {.nodes = 16, .pairs = 16};

static struct router *fleet(int n)
{
    static const struct node_curve curve = {9000, 41, 9900, 55};
    struct router_facts f = {.slots = 64, .curve = &curve, .chunk = 512, .money = {.kind = MARGINAL_METERED}};
    struct router *r = NULL;
    struct error e;
    if (router_new(&r, &size, &e) != RC_OK)
        exit(1);
    shortlist_kind_add(&f.kind, 1);
    for (int i = 0; i < n; i++) {
        f.money.listed.output.uusd_per_mtok = 1000000 + i;
        router_put(r, i, &f);
        router_state(r, i, &(struct router_state){.state = SHORTLIST_READY});
    }
    return r;
}

/* Nanoseconds per decision, of the quickest batch. */
static double decide(struct router *r, int n, int rounds)
{
    struct route_request q = {.input_tokens = 800, .output_tokens = 200, .slo = {500000, 50000, 0.99, 0.99}};
    const struct router_ask a = {.model = 1, .request = &q};
    struct route_candidate c[16];
    struct route_decision d;
    for (int i = 0; i < n; i++)
        router_candidate(r, &a, i, &c[i]);
    double best = 1e18;
    for (int k = 0; k < rounds; k += BATCH) {
        const struct mono from = clock_now(&clock_system);
        for (int i = 0; i < BATCH; i++) {
            q.spread = (uint32_t)(k + i);
            router_choose(r, &a, NULL, c, n, &d);
        }
        const double ns = (double)mono_since(&clock_system, from) / BATCH;
        best = ns < best ? ns : best;
    }
    return best;
}

static void record(const char *path, int n)
{
    const struct log quiet = {.fd = -1, .level = LOG_ERROR, .clock = &clock_system, .program = "bench"};
    const struct recorder_options o = {
        .path = path, .bytes_max = INT64_C(1) << 40, .clock = &clock_system, .log = &quiet, .version = "bench"};
    struct recorder_options patient = o;
    struct recorder *w;
    struct error e;
    struct stat st;
    struct router *r = fleet(n);
    const double alone = decide(r, n, DECISIONS);
    if (recorder_new(&w, &o, &e) != RC_OK)
        exit(1);
    recorder_listen_locked(w, r, &size);
    const double heard = decide(r, n, 500); /* what fits into the buffer: the path of a request */
    router_tap(r, NULL, NULL);
    recorder_free(w);
    unlink(path);
    patient.waits = true;
    if (recorder_new(&w, &patient, &e) != RC_OK)
        exit(1);
    recorder_listen_locked(w, r, &size);
    const struct mono from = clock_now(&clock_system);
    decide(r, n, DECISIONS / n);
    router_tap(r, NULL, NULL);
    recorder_free(w);
    const double s = (double)mono_since(&clock_system, from) / 1e9;
    if (stat(path, &st) != 0)
        exit(1);
    printf("%2d candidates: %4.0f ns per decision, recorded %4.0f ns; written: %.0f decisions/s, %.0f MB/s, %.0f bytes "
           "each\n",
           n, alone, heard, DECISIONS / n / s, (double)st.st_size / s / 1e6, (double)st.st_size / (DECISIONS / n));
    unlink(path);
    router_free(r);
}

int main(void)
{
    char folder[] = "/tmp/spillway-bench-XXXXXX", path[64];
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/record", folder);
    record(path, 3);
    record(path, 16);
    rmdir(folder);
    return 0;
}
