/* Any bytes as a trace (CSV, JSON Lines, gzip of either, a ledger), a price list, spot availability, measured power,
 * electricity, a rate curve, or a scenario: never a crash, and every refusal says why.
 * links: spw_sched_simulate */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scheduler/simulate/market.h"
#include "scheduler/simulate/scenario.h"
#include "scheduler/simulate/trace.h"

static void check(enum rc rc, const struct error *e)
{
    SPW_ASSERT(rc == RC_OK || rc == RC_NOT_FOUND || e->message[0] != '\0');
}

static void read_trace(const char *path, bool copies)
{
    struct error e = {0};
    struct trace *t = NULL;
    struct sim_request r;
    int64_t before = 0;
    const struct trace_file f = {.path = path, .copies = copies ? 3 : 1, .shift_us = copies ? 1000000 : 0};
    const struct trace_options o = {.seed = 1, .bad_rows_max = 100, .span_us = INT64_C(1) << 50};
    enum rc rc = trace_open(&t, &f, 1, &o, &e);

    check(rc, &e);
    for (int i = 0; rc == RC_OK && i < 10000; i++) {
        rc = trace_next(t, &r, &e);
        check(rc, &e);
        if (rc == RC_OK) {
            SPW_ASSERT(r.at_us >= before && r.prompt >= 1 && r.output >= 1 && r.cached >= 0 && r.cached <= r.prompt);
            SPW_ASSERT(trace_name(t, TRACE_MODELS, r.model) && trace_name(t, TRACE_TEAMS, r.team));
            before = r.at_us;
        }
    }
    trace_close(t);
}

static void read_tables(const char *path)
{
    struct error e = {0};
    struct price_table prices;
    struct spot_table spot;
    struct power_table power;
    struct electricity electricity;
    struct rate_curve curve;
    int64_t until;
    int n;

    if (price_table_read(&prices, path, &e) == RC_OK) {
        (void)price_spread(&prices, &(struct price_row){0}, PRICE_SPOT);
        price_table_fini(&prices);
    }
    if (spot_table_read(&spot, path, &e) == RC_OK) {
        for (int i = 0; i < spot.n; i++)
            (void)spot_at(&spot.series[i], 123456789, &until);
        spot_table_fini(&spot);
    }
    if (power_table_read(&power, path, &e) == RC_OK) {
        (void)power_rows(&power, "a/8B", "H100", 1, NULL, &n);
        power_table_fini(&power);
    }
    if (electricity_read(&electricity, path, "X", &e) == RC_OK) {
        (void)electricity_at(&electricity, 1700000000);
        electricity_fini(&electricity);
    }
    check(rate_curve_read(&curve, path, NULL, &e), &e);
    rate_curve_fini(&curve);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error e = {0};
    struct scenario *s = NULL;
    char path[64];
    int fd = memfd_create("trace", 0);

    if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
        close(fd);
        return 0;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    read_trace(path, false);
    read_trace(path, true);
    read_tables(path);
    check(scenario_load(&s, &(struct scenario_inputs){.path = path}, &e), &e);
    scenario_free(s);
    close(fd);
    return 0;
}
