/* What it costs a decision to be kept (scheduler/front/explain.h), under the front's lock, for 3, 8 and 16 candidates; and
 * what it costs to find and to tell one. Medians over batches.
 *   ninja -C build bench_explain && build/bench/bench_explain
 * links: spw_sched_front */
#include <stdlib.h>
#include <string.h>

#include "scheduler/front/explain_text.h"
#include "tests/bench/bench_help.h"

#include <stdio.h>

#define KEEP    1000
#define BATCHES 1001
#define EACH    100
#define ID      "req_01M86BJ8M257CGR4M2YNXMEK7G"

static const char *const names[] = {"gpu-a100-1", "gpu-a100-2", "spot-us-east-1", "api-x"};

static const char *name_of(const void *arg, int32_t i)
{
    (void)arg;
    return names[i % 4];
}

struct work {
    struct explain *e;
    struct route_request q;
    struct route_candidate c[EXPLAIN_CANDIDATES_MAX];
    struct route_decision d;
    int32_t n;
    struct strbuf out;
};

static void measure(const char *what, void (*once)(struct work *w), struct work *w)
{
    static double took[BATCHES];
    for (int i = 0; i < BATCHES; i++) {
        int64_t began = bench_now_ns();
        for (int k = 0; k < EACH; k++)
            once(w);
        took[i] = (double)(bench_now_ns() - began) / EACH;
    }
    qsort(took, BATCHES, sizeof took[0], bench_compare);
    printf("%-44s median %8.1f ns  p99 %8.1f ns\n", what, took[BATCHES / 2], took[BATCHES * 99 / 100]);
}

static void note(struct work *w)
{
    const struct explain_context x = {.request_id = ID,
                                      .model_asked = "llama-3.1-70b-instruct",
                                      .model = "llama-3.1-8b-instruct",
                                      .at_ns = 1764392400123000000,
                                      .name = name_of};
    explain_note_locked(w->e, &x, &w->q, w->c, w->n, &w->d);
}

static void look(struct work *w)
{
    uint64_t tickets[8];
    explain_find(w->e, "req_nobody", tickets, 8, NULL);
}

static void header(struct work *w)
{
    struct explain_record r;
    uint64_t ticket;
    if (explain_find(w->e, ID, &ticket, 1, NULL) != 1 || !explain_read(w->e, ticket, ID, &r))
        abort();
    explain_write_header(&r, 1, 0, &w->out);
}

int main(void)
{
    static struct work w;
    static const int counts[] = {3, 8, 16};
    char what[64];
    w.q = (struct route_request){
        .input_tokens = 1000, .output_tokens = 300, .slo = {.ttft_us = 500000, .probability = 0.95}};
    for (int i = 0; i < EXPLAIN_CANDIDATES_MAX; i++)
        w.c[i] = (struct route_candidate){
            .serves_model = true,
            .healthy = true,
            .in_flight = i,
            .slots = 32,
            .prices = {{100000}, {50000}, {400000}},
            .predicted = true,
            .latency = {{.median_us = 180e3, .log_sd = 0.3}, {.median_us = 2e4, .log_sd = 0.2}}};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        w.n = counts[i];
        w.e = explain_new(KEEP);
        route_choose(&w.d, &w.q, w.c, w.n);
        snprintf(what, sizeof what, "keep a decision between %d candidates", w.n);
        measure(what, note, &w);
        explain_free(w.e);
    }
    w.e = explain_new(KEEP);
    w.n = 3;
    for (int i = 0; i < KEEP - 1; i++) { /* others' */
        const struct explain_context x = {.request_id = "req_other", .model_asked = "m", .model = "m", .name = name_of};
        explain_note_locked(w.e, &x, &w.q, w.c, w.n, &w.d);
    }
    note(&w);
    strbuf_init(&w.out, EXPLAIN_HEADER_MAX);
    measure("look for one among 1000", look, &w);
    measure("find it and write it into a header", header, &w);
    strbuf_fini(&w.out);
    explain_free(w.e);
    return 0;
}
