/* Fills a ledger for test_report.py: report_ledger FILE START_S HOURS ROWS_AN_HOUR (tests/unit/books_fill.h).
 * links: spw_sched_books spw_policies */
#include "tests/unit/books_fill.h"

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: report_ledger FILE START_S HOURS ROWS\n");
        return 2;
    }
    const struct fill_options o = {.path = argv[1],
                                   .start_s = strtoll(argv[2], NULL, 10),
                                   .hours = (int)strtol(argv[3], NULL, 10),
                                   .rows = (int)strtol(argv[4], NULL, 10),
                                   .quiet = true};
    return fill_books(&o) ? 1 : 0;
}
