#include "engine/serve/metrics.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/model/model.h"

/* The model's name as a label value: the format escapes backslash, quote and newline. */
static void put_label_value(struct strbuf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '\\' || *s == '"')
            (void)strbuf_printf(b, "\\%c", *s);
        else if (*s == '\n')
            (void)strbuf_puts(b, "\\n");
        else
            (void)strbuf_append(b, s, 1);
    }
}

static void put_label(struct strbuf *b, const char *name, const char *value)
{
    (void)strbuf_printf(b, "%s=\"", name);
    put_label_value(b, value);
    (void)strbuf_puts(b, "\"");
}

static void put_head(struct strbuf *b, const char *name, const char *type, const char *help)
{
    (void)strbuf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* One sample; extra is "key=\"value\"" or NULL. */
static void put_sample(struct strbuf *b, const struct metrics_view *v, const char *name, const char *extra,
                       double value)
{
    (void)strbuf_printf(b, "%s{", name);
    put_label(b, "model_name", v->model_id);
    (void)strbuf_printf(b, extra ? ",%s} %.15g\n" : "}%s %.15g\n", extra ? extra : "", value);
}

static void put_histogram(struct strbuf *b, const struct metrics_view *v, const char *name, const char *help,
                          const struct histogram *h)
{
    char full[128], le[64];
    put_head(b, name, "histogram", help);
    snprintf(full, sizeof full, "%s_bucket", name);
    uint64_t below = 0;
    for (int i = 0; h->edges && i < h->edges->n; i++) {
        below += h->counts[i];
        snprintf(le, sizeof le, "le=\"%g\"", h->edges->le[i]);
        put_sample(b, v, full, le, (double)below);
    }
    put_sample(b, v, full, "le=\"+Inf\"", (double)h->count);
    snprintf(full, sizeof full, "%s_sum", name);
    put_sample(b, v, full, NULL, h->sum);
    snprintf(full, sizeof full, "%s_count", name);
    put_sample(b, v, full, NULL, (double)h->count);
}

/* Single values: one row each. Rows of one name stand together; the head is written for the first. */

enum row_source { ROW_U64, ROW_I32, ROW_DOUBLE };
struct row {
    const char *name, *type, *extra;
    enum row_source source;
    size_t offset;
    const char *help;
};
#define BATCHER(field)  offsetof(struct serve_totals, batcher.field)
#define COUNTERS(field) offsetof(struct serve_totals, counters.field)
#define HTTP(field)     offsetof(struct serve_totals, http.field)
static const struct row rows[] = {
    {"vllm:num_requests_running", "gauge", NULL, ROW_I32, BATCHER(running), "Sequences in the batch."},
    {"vllm:num_requests_waiting", "gauge", NULL, ROW_I32, BATCHER(waiting), "Requests waiting for a slot."},
    {"vllm:prompt_tokens_total", "counter", NULL, ROW_U64, BATCHER(prompt_tokens), "Tokens of admitted prompts."},
    {"vllm:prefix_cache_queries_total", "counter", NULL, ROW_U64, BATCHER(prompt_tokens),
     "Prompt tokens that were looked up among those known already."},
    {"vllm:prefix_cache_hits_total", "counter", NULL, ROW_U64, BATCHER(cached_tokens),
     "Prompt tokens that were known already, and not computed again."},
    {"vllm:generation_tokens_total", "counter", NULL, ROW_U64, BATCHER(generated_tokens), "Tokens chosen."},
    {"vllm:request_success_total", "counter", "finished_reason=\"stop\"", ROW_U64, BATCHER(finished_stop),
     "Requests that ended, by reason."},
    {"vllm:request_success_total", "counter", "finished_reason=\"length\"", ROW_U64, BATCHER(finished_length), ""},
    {"vllm:request_success_total", "counter", "finished_reason=\"abort\"", ROW_U64, BATCHER(cancelled), ""},
    {"spillway_engine_requests_total", "counter", NULL, ROW_U64, COUNTERS(requests), "Completion requests begun."},
    {"spillway_engine_requests_failed_total", "counter", NULL, ROW_U64, BATCHER(finished_failed),
     "Requests that ended with an error of the engine."},
    {"spillway_engine_requests_refused_total", "counter", NULL, ROW_U64, BATCHER(refused),
     "Requests refused because the waiting room was full."},
    {"spillway_engine_requests_expired_total", "counter", NULL, ROW_U64, BATCHER(withdrawn),
     "Requests that waited for a slot as long as a request may."},
    {"spillway_engine_requests_aborted_total", "counter", NULL, ROW_U64, COUNTERS(aborted),
     "Requests whose client went away."},
    {"spillway_engine_responses_total", "counter", "class=\"2xx\"", ROW_U64, COUNTERS(responses[2]),
     "HTTP answers by class of status."},
    {"spillway_engine_responses_total", "counter", "class=\"4xx\"", ROW_U64, COUNTERS(responses[4]), ""},
    {"spillway_engine_responses_total", "counter", "class=\"5xx\"", ROW_U64, COUNTERS(responses[5]), ""},
    {"vllm:num_preemptions_total", "counter", NULL, ROW_U64, BATCHER(preemptions),
     "Times that a sequence gave its pages to older ones."},
    {"vllm:spec_decode_num_draft_tokens_total", "counter", NULL, ROW_U64, BATCHER(proposed_tokens),
     "Tokens that were looked ahead at."},
    {"vllm:spec_decode_num_accepted_tokens_total", "counter", NULL, ROW_U64, BATCHER(accepted_tokens),
     "Of them, those that came true."},
    {"spillway_engine_steps_total", "counter", NULL, ROW_U64, BATCHER(steps), "Steps computed."},
    {"spillway_engine_step_failures_total", "counter", NULL, ROW_U64, BATCHER(step_failures), "Steps that failed."},
    {"spillway_engine_busy_seconds_total", "counter", NULL, ROW_DOUBLE, BATCHER(step_seconds),
     "Time spent inside steps."},
    {"spillway_engine_step_tokens_total", "counter", "kind=\"prefill\"", ROW_U64, BATCHER(prefill_tokens),
     "Tokens computed, by kind."},
    {"spillway_engine_step_tokens_total", "counter", "kind=\"decode\"", ROW_U64, BATCHER(decode_tokens), ""},
    {"spillway_engine_kv_pages", "gauge", "state=\"free\"", ROW_I32, BATCHER(pages_free),
     "Pages of the KV pool; of the free ones some are kept for prefixes. Spilled ones are in the host's memory."},
    {"spillway_engine_kv_pages", "gauge", "state=\"kept\"", ROW_I32, BATCHER(pages_kept), ""},
    {"spillway_engine_kv_pages", "gauge", "state=\"all\"", ROW_I32, BATCHER(pages_total), ""},
    {"spillway_engine_kv_pages", "gauge", "state=\"spilled\"", ROW_I32, BATCHER(pages_spilled), ""},
    {"spillway_engine_kv_pages_evicted_total", "counter", NULL, ROW_U64, BATCHER(pages_evicted),
     "Kept pages given up for others and forgotten."},
    {"spillway_engine_kv_pages_copied_total", "counter", "to=\"host\"", ROW_U64, BATCHER(spills),
     "Pages copied to the host's memory when the pool was full, and back."},
    {"spillway_engine_kv_pages_copied_total", "counter", "to=\"pool\"", ROW_U64, BATCHER(returns), ""},
    {"spillway_engine_http_connections_total", "counter", NULL, ROW_U64, HTTP(accepted), "Connections accepted."},
    {"spillway_engine_http_refused_framing_total", "counter", NULL, ROW_U64, HTTP(refused_framing),
     "Requests refused for bad framing."},
    {"spillway_engine_http_timed_out_total", "counter", NULL, ROW_U64, HTTP(timed_out),
     "Connections closed at a deadline."},
};

static double row_value(const struct row *r, const void *base)
{
    const char *p = (const char *)base + r->offset;
    switch (r->source) {
    case ROW_I32: return *(const int32_t *)p;
    case ROW_DOUBLE: return *(const double *)p;
    case ROW_U64: break;
    }
    return (double)*(const uint64_t *)p;
}

static void put_rows(struct strbuf *b, const struct metrics_view *v, const struct row *r, size_t n, const void *base)
{
    for (size_t i = 0; i < n; i++, r++) {
        if (i == 0 || strcmp(r->name, r[-1].name) != 0)
            put_head(b, r->name, r->type, r->help);
        put_sample(b, v, r->name, r->extra, row_value(r, base));
    }
}

#define NODE(field) offsetof(struct node_counts, field)
static const struct row node_rows[] = {
    {"spillway_engine_worker_restarts_total", "counter", NULL, ROW_U64, NODE(restarts),
     "Workers that ended by themselves and were started again."},
    {"spillway_engine_worker_hung_total", "counter", NULL, ROW_U64, NODE(hung),
     "Workers that were killed because their loop did not answer any more."},
    {"spillway_engine_sleeps_total", "counter", NULL, ROW_U64, NODE(sleeps), "Times it fell asleep."},
    {"spillway_engine_wakes_total", "counter", NULL, ROW_U64, NODE(wakes), "Times it woke up."},
    {"spillway_engine_wake_seconds", "gauge", NULL, ROW_DOUBLE, NODE(wake_seconds),
     "The last time it woke up: from the wish to ready."},
    {"spillway_engine_held_requests_total", "counter", NULL, ROW_U64, NODE(held),
     "Requests that were held while there was no worker."},
    {"spillway_engine_held_requests_refused_total", "counter", NULL, ROW_U64, NODE(held_refused),
     "Requests told to come again: too many were held, or for too long, or the worker did not come."},
    {"spillway_engine_held_requests_gone_total", "counter", NULL, ROW_U64, NODE(held_gone),
     "Requests whose client went away while they were held."},
};

/* One family of two rows, told if there is anything to tell. */
static void put_pair(struct strbuf *b, const struct metrics_view *v, const char *name, const char *help,
                     const char *const extras[2], const uint64_t values[2])
{
    if (!values[0] && !values[1])
        return;
    put_head(b, name, "gauge", help);
    for (int i = 0; i < 2; i++)
        put_sample(b, v, name, extras[i], (double)values[i]);
}

static void put_gpus(struct strbuf *b, const struct metrics_view *v, const struct node_counts *c)
{
    static const char *const memory[] = {"state=\"total\"", "state=\"used\""};
    static const char *const clocks[] = {"clock=\"sm\"", "clock=\"memory\""};
    put_pair(b, v, "spillway_engine_gpu_memory_bytes", "Of all GPUs; what is used, by whatever program.", memory,
             (const uint64_t[]){c->gpu_memory_bytes, c->gpu_memory_used_bytes});
    put_pair(b, v, "spillway_engine_gpu_clock_hertz", "The lowest of all GPUs' clocks, now.", clocks,
             (const uint64_t[]){c->gpu_sm_hz, c->gpu_memory_hz});
}

static void put_node(struct strbuf *b, const struct metrics_view *v)
{
    static const char *const states[] = {"ok",         "falling_asleep", "asleep", "waking",
                                         "restarting", "loading",        "failed", "draining"};
    char extra[64];
    put_head(b, "spillway_engine_state", "gauge", "1 for what /health says.");
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        snprintf(extra, sizeof extra, "state=\"%s\"", states[i]);
        put_sample(b, v, "spillway_engine_state", extra, strcmp(states[i], v->node->state) == 0);
    }
    put_rows(b, v, node_rows, sizeof node_rows / sizeof *node_rows, v->node->counts);
    if (v->node->counts->watts_are) {
        const char *const source = v->node->counts->watts_are == 2 ? "source=\"measured\"" : "source=\"estimated\"";
        put_head(b, "spillway_engine_watts", "gauge", "What the machine draws, and where the figure comes from.");
        put_sample(b, v, "spillway_engine_watts", source, v->node->counts->watts);
        put_head(b, "spillway_engine_joules_total", "counter", "The same, added up since the start.");
        put_sample(b, v, "spillway_engine_joules_total", source, v->node->counts->joules);
    }
    put_gpus(b, v, v->node->counts);
}

double metrics_resident_bytes(void)
{
    char text[128] = "";
    FILE *f = fopen("/proc/self/statm", "re"); /* memory of the kernel's, never a disk: does not block */
    if (!f)
        return 0;
    char *line = fgets(text, sizeof text, f);
    fclose(f);
    const char *second = line ? strchr(text, ' ') : NULL; /* pages: all, resident, ... */
    return second ? (double)strtoul(second, NULL, 10) * (double)sysconf(_SC_PAGESIZE) : 0;
}

static void put_info(struct strbuf *b, const struct metrics_view *v)
{
    put_head(b, "spillway_engine_info", "gauge", "What runs here.");
    (void)strbuf_puts(b, "spillway_engine_info{");
    put_label(b, "model_name", v->model_id);
    (void)strbuf_puts(b, ",version=\"" SPILLWAY_VERSION "\",");
    put_label(b, "arch", v->arch);
    (void)strbuf_puts(b, ",");
    put_label(b, "quant", v->quant);
    (void)strbuf_puts(b, ",");
    put_label(b, "device", v->device);
    (void)strbuf_puts(b, ",");
    put_label(b, "numerics", v->numerics);
    (void)strbuf_puts(b, "} 1\n");
    put_head(b, "vllm:cache_config_info", "gauge", "Shape of the KV pool.");
    (void)strbuf_puts(b, "vllm:cache_config_info{");
    put_label(b, "model_name", v->model_id);
    (void)strbuf_printf(b, ",block_size=\"%d\",num_gpu_blocks=\"%d\"} 1\n", K_PAGE_TOKENS,
                        (int)v->totals->batcher.pages_total);
}

static void put_gauge(struct strbuf *b, const struct metrics_view *v, const char *name, const char *help, double value)
{
    put_head(b, name, "gauge", help);
    put_sample(b, v, name, NULL, value);
}

void metrics_write(struct strbuf *b, const struct metrics_view *v)
{
    const struct batcher_stats *s = &v->totals->batcher;
    put_rows(b, v, rows, sizeof rows / sizeof *rows, v->totals);
    if (v->node)
        put_node(b, v);
    int used = s->pages_total - s->pages_free;
    put_gauge(b, v, "vllm:kv_cache_usage_perc", "Share of the KV pool in use, 0 to 1.",
              s->pages_total > 0 ? (double)used / s->pages_total : 0);
    put_gauge(b, v, "spillway_engine_kv_bytes", "Memory that the KV pool takes when all of it is in use.",
              (double)v->kv_bytes);
    put_gauge(b, v, "spillway_engine_ready", "1 when requests are taken; asleep they are, too.", v->ready);
    put_gauge(b, v, "spillway_engine_load_seconds", "Time from start to ready.", v->load_seconds);
    put_gauge(b, v, "spillway_engine_resident_bytes", "Resident memory of the process that answers.",
              metrics_resident_bytes());
    put_info(b, v);
    const struct serve_counters *c = &v->totals->counters;
    put_histogram(b, v, "vllm:time_to_first_token_seconds", "From a request's first byte to its first token.",
                  &c->ttft);
    put_histogram(b, v, "vllm:e2e_request_latency_seconds", "From a request's first byte to its end.", &c->e2e);
    put_histogram(b, v, "vllm:request_prompt_tokens", "Prompt tokens of a request.", &c->prompt_tokens);
    put_histogram(b, v, "vllm:request_generation_tokens", "Tokens generated for a request.", &c->generation_tokens);
    put_histogram(b, v, "spillway_engine_joules_per_token",
                  "What the steps of an answer drew, its prompt included, by the tokens generated.",
                  &c->joules_per_token);
    put_histogram(b, v, "vllm:inter_token_latency_seconds", "Between two tokens of one sequence.", &s->gap);
    put_histogram(b, v, "vllm:request_queue_time_seconds", "From submission to admission.", &s->queue);
    put_histogram(b, v, "vllm:request_prefill_time_seconds", "From admission to the first token.", &s->prefill);
    put_histogram(b, v, "vllm:request_decode_time_seconds", "From the first token to the last.", &s->decode);
    put_histogram(b, v, "spillway_engine_step_seconds", "One step.", &s->step);
    put_histogram(b, v, "spillway_engine_step_tokens", "Tokens in one step.", &s->step_batch);
    put_histogram(b, v, "spillway_engine_step_prefill_tokens", "Of them, those of prompts.", &s->step_prefill);
    put_histogram(b, v, "spillway_engine_step_kv_pages", "KV pages that sequences hold after a step.", &s->step_pages);
    put_histogram(b, v, "spillway_engine_prefix_hit_tokens", "Tokens of an admitted prompt that were known already.",
                  &s->prefix_hits);
}
