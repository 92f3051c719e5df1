/* `spillway nodes calibrate`: measures a node and writes the record of it, which the configuration and the simulator
 * read. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "policies/capacity.h"
#include "scheduler/auth/identity.h"
#include "scheduler/calibrate/measure.h"
#include "scheduler/cli/cli_internal.h"

struct plan {
    const char *name, *type, *model, *out, *url, *api_key_file, *ca_file;
    int64_t prompt, output, batch, repeats, timeout_s, ttft_ms, tpot_ms;
    struct cli_target target;
};

static const struct config_node *find_node(const struct config *c, const char *name)
{
    for (int i = 0; i < c->n_nodes; i++) {
        if (strcmp(c->nodes[i].name, name) == 0)
            return &c->nodes[i];
    }
    return NULL;
}

/* Where an engine that Spillway has started listens, only the daemon knows. */
static enum rc ask_address(const struct plan *p, char *to, size_t size, struct error *e)
{
    struct cli_client *client;
    char path[160], buf[64];
    cJSON *root = NULL;
    snprintf(path, sizeof path, "/admin/v1/nodes/%.64s", p->name);
    enum rc rc = cli_client_open(&client, "nodes", &p->target, e);
    if (rc != RC_OK)
        return rc;
    rc = cli_client_call(client, "GET", path, &root, e);
    cli_client_close(client);
    const char *address = rc == RC_OK ? cli_json_text(root, "address", buf, sizeof buf) : NULL;
    if (rc == RC_OK && !address)
        rc = error_set(e, RC_AGAIN, "%s has no address yet: is its engine running?", p->name);
    if (rc == RC_OK)
        snprintf(to, size, "%s", address);
    cJSON_Delete(root);
    return rc;
}

static bool is_local(const char *url)
{
    return strstr(url, "://127.") || strstr(url, "://localhost") || strstr(url, "://[::1]");
}

/* What the configuration says of the node goes into the options; `--url` needs none. */
static enum rc find_target(struct plan *p, const struct config *c, struct measure_options *o, char *url, size_t size,
                           struct error *e)
{
    if (p->url) {
        o->url = p->url;
        o->model = p->model;
        o->ca_file = p->ca_file;
        return p->model ? RC_OK : error_set(e, RC_INVALID, "--url needs --model: what the node calls its model");
    }
    const struct config_node *n = find_node(c, p->name);
    if (!n)
        return error_set(e, RC_NOT_FOUND, "no node \"%.64s\" in the configuration; spillway nodes lists them", p->name);
    o->model = p->model ? p->model : n->upstream_model ? n->upstream_model : n->models[0];
    o->ca_file = p->ca_file ? p->ca_file : n->tls_ca;
    o->cert_file = n->tls_cert;
    o->key_file = n->tls_key;
    if (!p->api_key_file)
        p->api_key_file = n->api_key_file;
    snprintf(url, size, "%s", n->url ? n->url : "");
    o->url = url;
    return n->url ? RC_OK : ask_address(p, url, size, e);
}

static void print_capacity(const struct plan *p, const struct calibration *c)
{
    const struct capacity_slo slo = {
        .ttft_us = (double)p->ttft_ms * 1e3, .tpot_us = (double)p->tpot_ms * 1e3, .probability = 0.99};
    const struct workload_mix mix = {.prompt = 1000, .output = 300, .prompt_cv = 1};
    struct capacity at;
    int32_t most = c->n_decode ? (int32_t)c->decode[c->n_decode - 1].x : 0;
    capacity_at_slo(&at, &c->curve, &slo, &mix, most);
    printf("\none prompt       %.1f ms + %.1f us per token (points within %.0f%%)\n", c->curve.base_us / 1e3,
           c->curve.prefill_us_per_tok, c->prefill_error * 100);
    printf("one step         %.1f ms + %.1f us per sequence (points within %.0f%%)\n", c->curve.decode_us_base / 1e3,
           c->curve.decode_us_per_seq, c->decode_error * 100);
    if (c->watts == CALIBRATION_WATTS_MEASURED)
        printf("idle             %.0f W (measured, the whole machine)\n", c->idle_w);
    if (at.limit == CAPACITY_NONE)
        printf("capacity         one request alone misses a TTFT of %lld ms or a TPOT of %lld ms\n",
               (long long)p->ttft_ms, (long long)p->tpot_ms);
    else
        printf("capacity         %.3g requests/s, %.0f tokens/s out, of 1000 tokens in and 300 out, with 99%% of TTFT "
               "within %lld ms and TPOT within %lld ms\n",
               at.requests_per_s, at.output_tokens_per_s, (long long)p->ttft_ms, (long long)p->tpot_ms);
}

static char *record_path(const struct plan *p, const struct config *c)
{
    if (p->out)
        return spw_strdup(p->out);
    return spw_asprintf("%s/calibration/%s.json", c ? c->state_dir : ".", p->type ? p->type : p->name);
}

static enum rc calibrate(struct plan *p, const struct config *c, struct error *e)
{
    char url[512], *key = NULL;
    struct measure_options o = {.batch_max = (int32_t)p->batch,
                                .prompt_max = (int32_t)p->prompt,
                                .output = (int32_t)p->output,
                                .repeats = (int32_t)p->repeats,
                                .deadline_ms = p->timeout_s * 1000,
                                .progress = stdout};
    struct calibration got;
    enum rc rc = find_target(p, c, &o, url, sizeof url, e);
    if (rc == RC_OK && p->api_key_file)
        rc = file_read_secret(&key, p->api_key_file, e);
    if (rc != RC_OK)
        return rc;
    o.api_key = key;
    o.local = is_local(o.url);
    rc = measure_node(&o, &got, e);
    if (key)
        explicit_bzero(key, strlen(key));
    free(key);
    if (rc != RC_OK)
        return rc;
    time_t now = time(NULL);
    struct tm utc;
    strftime(got.measured_at, sizeof got.measured_at, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    snprintf(got.node, sizeof got.node, "%s", p->name ? p->name : "");
    snprintf(got.node_type, sizeof got.node_type, "%s", p->type ? p->type : "");
    char *path = record_path(p, c);
    rc = calibration_save(&got, path, e);
    if (rc == RC_OK) {
        print_capacity(p, &got);
        printf("written to       %s\n", path);
    }
    free(path);
    return rc;
}

static enum rc check(const struct plan *p, struct error *e)
{
    if (!p->name && !p->url)
        return error_set(e, RC_INVALID, "which node? write: spillway nodes calibrate NAME, or give --url and --model");
    if (p->url && !p->out && !p->type && !p->name)
        return error_set(e, RC_INVALID, "--url alone has no name to keep the record under; give --type or --out");
    if (p->type && !identity_name_ok(p->type))
        return error_set(e, RC_INVALID, "--type: up to 64 letters, digits, '-', '_' and '.' are right");
    return RC_OK;
}

int cli_nodes_calibrate(int argc, char **argv)
{
    struct plan p = {.prompt = 4096,
                     .output = 64,
                     .batch = 16,
                     .repeats = 3,
                     .timeout_s = 600,
                     .ttft_ms = 500,
                     .tpot_ms = 100,
                     .target = {.config = CLI_CONFIG_DEFAULT}};
    const struct arg_option options[] = {
        {"type", 't', ARG_STRING, &p.type, .meta = "TYPE", .help = "keep the record for all nodes of this type"},
        {"model", 'm', ARG_STRING, &p.model, .meta = "NAME", .help = "what the node calls it; default: its first"},
        {"prompt", 0, ARG_INT, &p.prompt, .meta = "N", .help = "tokens of the longest prompt", .lo = 64, .hi = 1 << 20},
        {"output", 0, ARG_INT, &p.output, .meta = "N", .help = "tokens of an answer", .lo = 8, .hi = 4096},
        {"batch", 'b', ARG_INT, &p.batch, .meta = "N", .help = "most streams at once", .lo = 1, .hi = 256},
        {"repeats", 'r', ARG_INT, &p.repeats, .meta = "N", .help = "of each point", .lo = 1, .hi = 16},
        {"timeout", 0, ARG_INT, &p.timeout_s, .meta = "S", .help = "seconds for one request", .lo = 1, .hi = 86400},
        {"ttft", 0, ARG_INT, &p.ttft_ms, .meta = "MS", .help = "asked of 99% of first tokens", .lo = 1, .hi = 3600000},
        {"tpot", 0, ARG_INT, &p.tpot_ms, .meta = "MS", .help = "asked between tokens", .lo = 1, .hi = 3600000},
        {"out", 'o', ARG_STRING, &p.out, .meta = "FILE", .help = "default: STATE_DIR/calibration/NAME.json"},
        {"url", 'u', ARG_STRING, &p.url, .meta = "URL", .help = "a server that is in no configuration"},
        {"api-key-file", 0, ARG_STRING, &p.api_key_file, .meta = "FILE", .help = "the server's key"},
        {"ca-file", 0, ARG_STRING, &p.ca_file, .meta = "FILE", .help = "certificates to trust for https"},
        CLI_OPTION_CONFIG(p.target.config),
    };
    const struct arg_operand operands[] = {{"NAME", &p.name, "of the node", false}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "nodes calibrate",
                                  .summary = "measure how fast a node computes prompts and tokens; it should be idle",
                                  .example = "spillway nodes calibrate gpu1\nspillway nodes calibrate gpu1 --type h100",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0],
                                  .operands = operands,
                                  .n_operands = 1};
    struct config *c = NULL;
    struct error e;
    int exit_code;
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (check(&p, &e) != RC_OK)
        return cli_fail("nodes calibrate", &e);
    if (!p.url && !(c = cli_load_config("nodes calibrate", p.target.config)))
        return ARGS_EXIT_USAGE;
    enum rc rc = calibrate(&p, c, &e);
    config_free(c);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("nodes calibrate", &e);
}
