/* Rows a second, each with a leg, that the ledger makes durable, a thousand under way at a time, as with a thousand
 * requests ending; and, in the same run, what a flush of as many bytes takes on the same disk.
 *
 *     build/bench/bench_ledger FILE [ROWS [journal]]      200,000 rows; FILE must not be there, and stays;
 *                                                         journal: they go there first
 * links: spw_sched_books */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "scheduler/books/ledger.h"
#include "tests/bench/bench_help.h"

#define UNDER_WAY 1000
#define FLUSHES   100

struct filling {
    struct ledger_port *port;
    int n, sent, finished, failed;
};

static void fill(struct filling *b);

static void done_cb(enum rc rc, void *arg)
{
    struct filling *b = arg;
    b->finished++;
    b->failed += rc != RC_OK;
    fill(b);
}

static void fill(struct filling *b)
{
    static const struct ledger_leg leg = {.leg = 1,
                                          .node = "gpu1",
                                          .provider = "static",
                                          .numerics = "0123456789abcdef0123456789abcdef",
                                          .outcome = "ok",
                                          .market = "on-prem",
                                          .tokens_output = 77,
                                          .started = {1700000000000000001},
                                          .ended = {1700000000000000003},
                                          .uses = {{.busy_us = 120000, .millijoules = 40000}},
                                          .n_uses = 1};
    while (b->sent < b->n && b->sent - b->finished < UNDER_WAY) {
        char id[40];
        snprintf(id, sizeof id, "req_%012x%08x", b->sent++, rand()); /* ordered by time, as the front's are */
        const struct ledger_row row = {.request_id = id,
                                       .tenant = "acme",
                                       .team = "search",
                                       .key_id = "k1",
                                       .model = "m",
                                       .node = "gpu1",
                                       .provider = "static",
                                       .streamed = true,
                                       .attempts = 1,
                                       .tokens = {1000, 400, 77},
                                       .usage_source = "provider",
                                       .prices = {{550000}, {140000}, {2190000}},
                                       .charge = {554630000},
                                       .accepted = {1700000000000000001},
                                       .first_byte = {1700000000000000002},
                                       .finished = {1700000000000000003},
                                       .http_status = 200,
                                       .market = "on-prem",
                                       .legs = &leg,
                                       .n_legs = 1};
        b->failed += ledger_append(b->port, &row, done_cb, b) != RC_OK;
    }
}

/* Milliseconds, the median: `bytes` more at the end of a file, and fdatasync. */
static double flush_ms(const char *ledger, size_t bytes)
{
    char *path = spw_asprintf("%s.flush", ledger), *data = spw_calloc(1, bytes);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    double ms[FLUSHES];
    for (int i = 0; i < FLUSHES; i++) {
        const int64_t from = bench_now_ns();
        if (write(fd, data, bytes) != (ssize_t)bytes || fdatasync(fd) != 0)
            exit(1);
        ms[i] = (double)(bench_now_ns() - from) / 1e6;
    }
    qsort(ms, FLUSHES, sizeof ms[0], bench_compare);
    close(fd);
    unlink(path);
    free(path);
    free(data);
    return ms[FLUSHES / 2];
}

int main(int argc, char **argv)
{
    if (argc < 2 || access(argv[1], F_OK) == 0) {
        fprintf(stderr, "usage: bench_ledger FILE [ROWS [journal]]   (FILE must not be there)\n");
        return 2;
    }
    const bool journal = argc > 3 && strcmp(argv[3], "journal") == 0;
    const struct ledger_options o = {.path = argv[1], .journal = journal ? LEDGER_JOURNAL_ALWAYS : LEDGER_JOURNAL_OFF};
    struct event_base *loop = event_base_new();
    struct filling b = {.n = argc > 2 ? (int)strtol(argv[2], NULL, 10) : 200000};
    struct ledger *l = NULL;
    struct error e;
    if (ledger_open(&l, &o, &e) != RC_OK || ledger_port_new(&b.port, l, loop, &e) != RC_OK) {
        fprintf(stderr, "bench_ledger: %s\n", e.message);
        return 1;
    }
    const int64_t from = bench_now_ns();
    fill(&b);
    while (b.finished < b.n && event_base_loop(loop, EVLOOP_ONCE) == 0) {
    }
    const double s = (double)(bench_now_ns() - from) / 1e9;
    const double commits = (double)ledger_stats(l).commits;
    printf("%d rows in %.2f s: %.0f rows/s, %.0f commits/s of %.0f rows, %d failed; a flush of 64 KiB takes %.2f ms\n",
           b.n, s, b.n / s, commits / s, b.n / commits, b.failed, flush_ms(argv[1], 65536));
    ledger_port_free(b.port);
    ledger_close(l);
    event_base_free(loop);
    return b.failed != 0;
}
