/* `spillway nodes enrol` and `spillway nodes power`: the power of own machines, by the same provider as the daemon's,
 * in this process. Enrolling proves once that a machine comes back: the daemon, where one runs, drains the node before
 * and takes it back after; the proof is a file in state_dir, which the daemon looks for whenever it would switch a node
 * off. */
#include "scheduler/cli/cli_internal.h"

#include <event2/event.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/loop.h"
#include "base/text.h"
#include "providers/provider.h"

#define DRAIN_LOOK_MS 250

struct power {
    const char *name, *want; /* want: "on", "off"; NULL: only tell */
    struct cli_target target;
    struct config *config;
    const struct config_node *node;
    int64_t drain_s;
    bool no_drain;
    struct log log;
    struct event_base *loop;
    struct provider *provider;
    /* what came back */
    enum provider_failure failure;
    enum provider_power is;
    char text[512];
    bool done;
};

/* ---- the provider, for the time of one act -------------------------------------------------------------------------- */

static void on_done(enum provider_failure failure, const char *text, void *arg)
{
    struct power *p = arg;
    p->failure = failure;
    snprintf(p->text, sizeof p->text, "%s", text);
    p->done = true;
    event_base_loopbreak(p->loop);
}

static void on_state(enum provider_failure failure, enum provider_power is, const char *text, void *arg)
{
    struct power *p = arg;
    p->is = is;
    on_done(failure, text, p);
}

static enum rc host_of(const char *url, char *host, size_t size, int *port, struct error *e)
{
    const char *at = strstr(url, "://");
    if (!at)
        return error_set(e, RC_INVALID, "%.200s is no address", url);
    at += 3;
    size_t n = strcspn(at, "/");
    const char *colon = memchr(at, ']', n);
    colon = memchr(colon ? colon : at, ':', n - (size_t)((colon ? colon : at) - at));
    bool bracket = at[0] == '[';
    int64_t number = strncmp(url, "https", 5) == 0 ? 443 : 80;
    char text[8];
    if (colon) {
        snprintf(text, sizeof text, "%.*s", (int)(at + n - colon - 1), colon + 1);
        if (text_parse_int(text, 1, 65535, &number) != RC_OK)
            return error_set(e, RC_INVALID, "%.200s has no port", url);
        n = (size_t)(colon - at);
    }
    *port = (int)number;
    snprintf(host, size, "%.*s", (int)(n - 2 * bracket), at + bracket);
    return RC_OK;
}

static enum rc open_provider(struct power *p, struct error *e)
{
    char host[256] = "";
    int port = 0;
    const struct provider_ops *ops = &provider_static;
    enum rc rc = p->node->url ? host_of(p->node->url, host, sizeof host, &port, e) : RC_OK;
    if (rc != RC_OK)
        return rc;
    p->log = (struct log){.fd = 2, .level = p->config->log_level, .clock = &clock_system, .program = "spillway"};
    p->loop = loop_new();
    if (!p->loop)
        return error_set(e, RC_IO, "no event loop");
    const struct provider_env env = {
        .loop = p->loop, .log = &p->log, .clock = &clock_system, .state_dir = p->config->state_dir};
    const struct provider_spec spec = {.name = p->name, .settings = p->node->machine_settings, .port = port};
    const struct provider_instance known = {.host = host[0] ? host : NULL, .port = port};
    rc = ops->open(&p->provider, &env, e);
    return rc == RC_OK ? ops->adopt(p->provider, &spec, &known, e) : rc;
}

static void close_provider(struct power *p)
{
    provider_static.close(p->provider);
    if (p->loop)
        event_base_free(p->loop);
    config_free(p->config);
}

static enum rc wait_for(struct power *p, enum rc started, struct error *e)
{
    if (started != RC_OK)
        return error_set(e, started, "node '%s' is not known", p->name);
    p->done = false;
    event_base_dispatch(p->loop);
    if (p->done && p->failure == PROVIDER_FINE)
        return RC_OK;
    return error_set(e, p->failure == PROVIDER_INVALID ? RC_INVALID : RC_IO, "%s (%s)", p->text,
                     provider_failure_name(p->failure));
}

static enum rc find_node(struct power *p, struct error *e)
{
    for (int i = 0; i < p->config->n_nodes; i++) {
        if (strcmp(p->config->nodes[i].name, p->name) == 0)
            p->node = &p->config->nodes[i];
    }
    if (!p->node)
        return error_set(e, RC_NOT_FOUND, "no node \"%.64s\" in the configuration; spillway nodes lists them", p->name);
    if (!p->node->machine_settings)
        return error_set(e, RC_INVALID,
                         "node \"%.64s\" has no `machine` section: nothing says how its power is reached "
                         "(docs/CONFIG.md, provider static)",
                         p->name);
    return RC_OK;
}

/* ---- the daemon drains it meanwhile --------------------------------------------------------------------------------- */

/* in_flight; -1: nobody knows. */
static int in_flight(const cJSON *root)
{
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(root, "in_flight");
    return cJSON_IsNumber(n) ? (int)n->valuedouble : -1;
}

/* *client NULL: no daemon runs, or the node is drained by others: nothing is to be undone. */
static enum rc drain(struct power *p, struct cli_client **client, struct error *e)
{
    char path[160];
    cJSON *root = NULL;
    const struct timespec pause = {.tv_nsec = DRAIN_LOOK_MS * 1000000L};
    *client = NULL;
    if (p->no_drain)
        return RC_OK;
    enum rc rc = cli_client_open(client, "nodes", &p->target, e);
    if (rc != RC_OK)
        return rc;
    snprintf(path, sizeof path, "/admin/v1/nodes/%.64s", p->name);
    rc = cli_client_call(*client, "GET", path, &root, e);
    bool before = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(root, "draining"));
    cJSON_Delete(root);
    root = NULL;
    if (rc == RC_IO) { /* nobody answers: nobody sends it anything */
        printf("no scheduler runs; nothing to drain\n");
        cli_client_close(*client);
        *client = NULL;
        return RC_OK;
    }
    snprintf(path, sizeof path, "/admin/v1/nodes/%.64s/drain", p->name);
    if (rc == RC_OK)
        rc = cli_client_call(*client, "POST", path, &root, e);
    snprintf(path, sizeof path, "/admin/v1/nodes/%.64s", p->name);
    for (int64_t left = p->drain_s * 1000; rc == RC_OK && in_flight(root) > 0; left -= DRAIN_LOOK_MS) {
        if (left <= 0) {
            rc = error_set(e, RC_TIMEOUT,
                           "node '%s' still has %d requests after %" PRId64 " s; --drain-timeout says how "
                           "long to wait",
                           p->name, in_flight(root), p->drain_s);
            break;
        }
        nanosleep(&pause, NULL);
        cJSON_Delete(root);
        root = NULL;
        rc = cli_client_call(*client, "GET", path, &root, e);
    }
    cJSON_Delete(root);
    if (rc == RC_OK)
        printf("drained\n");
    if (before) {
        cli_client_close(*client);
        *client = NULL;
    }
    return rc;
}

static void undrain(const struct power *p, struct cli_client *client)
{
    char path[160];
    cJSON *root = NULL;
    struct error e;
    if (!client)
        return;
    snprintf(path, sizeof path, "/admin/v1/nodes/%.64s/undrain", p->name);
    if (cli_client_call(client, "POST", path, &root, &e) != RC_OK)
        fprintf(stderr, "spillway nodes: %s; undrain it by hand: spillway nodes undrain %s\n", e.message, p->name);
    cJSON_Delete(root);
    cli_client_close(client);
}

/* ---- the verbs ------------------------------------------------------------------------------------------------------ */

static enum rc enrol(struct power *p, struct error *e)
{
    struct cli_client *client = NULL;
    enum rc rc = find_node(p, e);
    if (rc == RC_OK)
        rc = open_provider(p, e);
    if (rc == RC_OK)
        rc = drain(p, &client, e);
    if (rc == RC_OK) {
        printf("switching %s off and on again; this takes as long as it boots\n", p->name);
        fflush(stdout);
        rc = wait_for(p, provider_static.prove(p->provider, p->name, on_done, p), e);
    }
    undrain(p, client);
    if (rc == RC_OK)
        printf("%s comes back: proven, and written to %s/%s.%s.proof.json\n", p->name, p->config->state_dir,
               provider_static.name, p->name);
    return rc;
}

static enum rc power(struct power *p, struct error *e)
{
    static const char *const words[] = {[POWER_IS_UNKNOWN] = "unknown", [POWER_IS_OFF] = "off", [POWER_IS_ON] = "on"};
    enum rc rc = RC_OK;
    if (p->want && strcmp(p->want, "on") != 0 && strcmp(p->want, "off") != 0)
        rc = error_set(e, RC_INVALID, "\"%.40s\" is no power state; on or off is right", p->want);
    if (rc == RC_OK)
        rc = find_node(p, e);
    if (rc == RC_OK)
        rc = open_provider(p, e);
    if (rc == RC_OK && p->want)
        rc = wait_for(p, provider_static.power(p->provider, p->name, strcmp(p->want, "on") == 0, on_done, p), e);
    if (rc == RC_OK)
        rc = wait_for(p, provider_static.power_state(p->provider, p->name, on_state, p), e);
    if (rc == RC_OK)
        printf("%s is %s; its way back %s\n", p->name, words[p->is],
               provider_static.proven(p->provider, p->name) ? "is proven"
                                                            : "was never proven: it will not be switched off");
    return rc;
}

int cli_nodes_enrol(int argc, char **argv)
{
    struct power p = {.target = {.config = CLI_CONFIG_DEFAULT}, .drain_s = 600};
    int exit_code;
    const struct arg_option options[] = {
        {"drain-timeout", 0, ARG_INT, &p.drain_s, .meta = "S", .help = "wait so long for its requests to end", .lo = 0,
         .hi = 86400},
        {"no-drain", 0, ARG_FLAG, &p.no_drain, .help = "do not ask a running scheduler to drain it first"},
        CLI_OPTIONS_TARGET(p.target),
    };
    const struct arg_operand operands[] = {{"NAME", &p.name, "of the node", true}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "nodes enrol",
                                  .summary =
                                      "prove once that a machine comes back: off, on, its engine answers; without "
                                      "that it is never switched off",
                                  .example = "spillway nodes enrol gpu1",
                                  .options = options,
                                  .n_options = 2 + CLI_N_OPTIONS_TARGET,
                                  .operands = operands,
                                  .n_operands = 1};
    struct error e;
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (!(p.config = cli_load_config("nodes enrol", p.target.config)))
        return ARGS_EXIT_USAGE;
    enum rc rc = enrol(&p, &e);
    close_provider(&p);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("nodes enrol", &e);
}

int cli_nodes_power(int argc, char **argv)
{
    struct power p = {.target = {.config = CLI_CONFIG_DEFAULT}};
    int exit_code;
    const struct arg_option options[] = {CLI_OPTION_CONFIG(p.target.config)};
    const struct arg_operand operands[] = {{"NAME", &p.name, "of the node", true},
                                           {"STATE", &p.want, "on or off; without it the state is shown", false}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "nodes power",
                                  .summary = "show a machine's power state, or switch it on or off by hand",
                                  .example = "spillway nodes power gpu1\nspillway nodes power gpu1 on",
                                  .options = options,
                                  .n_options = 1,
                                  .operands = operands,
                                  .n_operands = 2};
    struct error e;
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (!(p.config = cli_load_config("nodes power", p.target.config)))
        return ARGS_EXIT_USAGE;
    enum rc rc = power(&p, &e);
    close_provider(&p);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("nodes power", &e);
}
