/* `spillway ask`: one request through the endpoint, and what it cost. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "scheduler/cli/ask.h"
#include "scheduler/cli/cli_internal.h"

static void print_result(const struct ask_result *r)
{
    printf("\n\nnode        %s\n", r->node[0] ? r->node : "(not told)");
    printf("model       %s\n", r->model);
    if (r->tokens_out >= 0)
        printf("tokens      %lld in (%lld cached), %lld out, %s\n", (long long)r->tokens_in,
               (long long)(r->tokens_cached > 0 ? r->tokens_cached : 0), (long long)r->tokens_out, r->finish_reason);
    printf("TTFT        %.0f ms\n", r->ttft_s * 1e3);
    if (r->tokens_per_s > 0)
        printf("speed       %.1f tokens/s\n", r->tokens_per_s);
    printf("charge      %s%s\n", r->charge_usd[0] ? "$" : "(not told)", r->charge_usd);
    if (r->joules >= 0)
        printf("energy      %.2f J (%s)\n", r->joules,
               r->joules_measured ? "measured, whole machine" : "estimated from the node's declared watts");
    else
        printf("energy      (this machine has no counters and the node declares no watts)\n");
    printf("request     %s\n", r->request_id);
}

int cli_ask(int argc, char **argv)
{
    struct ask_options o = {.url = "http://127.0.0.1:8080", .temperature = -1};
    const char *key_file = NULL;
    int64_t timeout_s = 120;
    bool ready = false, quiet = false;
    const struct arg_option options[] = {
        {.name = "url", .type = ARG_STRING, .value = &o.url, .meta = "URL", .help = "the endpoint, without a path"},
        {.name = "api-key-file",
         .type = ARG_STRING,
         .value = &key_file,
         .meta = "FILE",
         .help = "file with the API key"},
        {.name = "model",
         .type = ARG_STRING,
         .value = &o.model,
         .meta = "NAME",
         .help = "model to ask for (default: the first that is listed)"},
        {.name = "system", .type = ARG_STRING, .value = &o.system, .meta = "TEXT", .help = "system message"},
        {.name = "temp",
         .type = ARG_DOUBLE,
         .value = &o.temperature,
         .meta = "T",
         .dlo = -1,
         .dhi = 2,
         .help = "temperature; 0 is greedy, negative the server's default"},
        {.name = "max-tokens",
         .letter = 'n',
         .type = ARG_INT,
         .value = &o.max_tokens,
         .meta = "N",
         .lo = 0,
         .hi = 1 << 20,
         .help = "longest answer; 0 is the server's default"},
        {.name = "timeout",
         .type = ARG_INT,
         .value = &timeout_s,
         .meta = "S",
         .lo = 1,
         .hi = 86400,
         .help = "seconds for the whole answer"},
        {.name = "quiet", .letter = 'q', .type = ARG_FLAG, .value = &quiet, .help = "the answer alone"},
        {.name = "ready",
         .type = ARG_FLAG,
         .value = &ready,
         .help = "ask nothing: exit 0 when the endpoint is ready, else 1"},
    };
    const struct arg_operand operands[] = {{.meta = "QUESTION", .value = &o.question, .help = "the user's message"}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "ask",
                                  .summary = "send one chat request to an endpoint and show what it cost",
                                  .example = "spillway ask \"What is a spot instance?\"",
                                  .options = options,
                                  .n_options = sizeof options / sizeof options[0],
                                  .operands = operands,
                                  .n_operands = 1};
    int exit_code;
    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    struct error e = {0};
    if (ready)
        return ask_ready(o.url, &e) == RC_OK ? ARGS_EXIT_OK : ARGS_EXIT_FAILED;
    if (!o.question) {
        error_set(&e, RC_INVALID, "no question given; see spillway ask --help");
        return cli_fail("ask", &e);
    }
    char *key = NULL;
    if (key_file && file_read_secret(&key, key_file, &e) != RC_OK)
        return cli_fail("ask", &e);
    o.api_key = key;
    o.deadline_ms = timeout_s * 1000;
    struct ask_result r;
    enum rc rc = ask(&o, stdout, &r, &e);
    free(key);
    fflush(stdout);
    if (rc != RC_OK)
        return cli_fail("ask", &e);
    if (quiet)
        putchar('\n');
    else
        print_result(&r);
    return ARGS_EXIT_OK;
}
