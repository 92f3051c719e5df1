/* How long a month's report takes, and that it does not grow with the rows: fills a ledger (tests/unit/books_fill.h),
 * closes its hours, then gathers the month's report and writes it, three times.
 *
 *   bench_report FILE [ROWS [HOURS]]     rows in all; 5,000,000 and 720. FILE stays; one that is there is only read
 * Prints milliseconds: the median of three.
 * links: spw_sched_report spw_sched_books spw_policies */
#include <unistd.h>

#include "scheduler/report/report.h"
#include "tests/bench/bench_help.h"
#include "tests/unit/books_fill.h"

#define START_S INT64_C(1793491200) /* 2026-11-01T00:00:00Z */

static double run(const struct report_options *o, const char *what, enum rc (*write)(const struct report *, FILE *))
{
    double ms[3];
    for (int i = 0; i < 3; i++) {
        struct report *r = NULL;
        struct error e;
        FILE *out = fopen("/dev/null", "w");
        const int64_t from = bench_now_ns();
        fill_must(report_gather(&r, o, &e) == RC_OK, "report", &e);
        if (write)
            fill_must(out && write(r, out) == RC_OK, "write", NULL);
        ms[i] = (double)(bench_now_ns() - from) / 1e6;
        if (i == 2 && !write)
            printf("%lld requests, %lld hours, %d cells, %d machine days\n", (long long)r->use.requests,
                   (long long)r->hours.closed, r->n_cells, r->n_node_days);
        report_free(r);
        fclose(out);
    }
    qsort(ms, 3, sizeof ms[0], bench_compare);
    printf("%-28s %8.0f ms\n", what, ms[1]);
    return ms[1];
}

static enum rc csv(const struct report *r, FILE *out)
{
    return report_write_csv(r, REPORT_FOCUS_1_4, out, NULL);
}
static enum rc json(const struct report *r, FILE *out)
{
    return report_write_json(r, out, NULL);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_report FILE [ROWS [HOURS]]\n");
        return 2;
    }
    const long rows = argc > 2 ? strtol(argv[2], NULL, 10) : 5000000,
               hours = argc > 3 ? strtol(argv[3], NULL, 10) : 720;
    if (access(argv[1], F_OK) != 0) {
        const struct fill_options f = {
            .path = argv[1], .start_s = START_S, .hours = (int)hours, .rows = (int)(rows / hours)};
        const int64_t from = bench_now_ns();
        fill_books(&f);
        printf("filled in %.0f s\n", (double)(bench_now_ns() - from) / 1e9);
    }
    const struct report_options o = {.ledger = argv[1],
                                     .now = {(START_S + hours * 3600 + 3600) * NS_PER_S},
                                     .period = {.from_s = START_S,
                                                .until_s = START_S + hours * 3600,
                                                .before_s = START_S - hours * 3600,
                                                .before_until_s = START_S,
                                                .name = "2026-11"}};
    run(&o, "gathered", NULL);
    run(&o, "gathered, written as CSV", csv);
    run(&o, "gathered, written as JSON", json);
    return 0;
}
