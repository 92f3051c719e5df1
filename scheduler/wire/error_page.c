/* docs/ERRORS.md: every error a client can get, from the table of errors.c and, for what is refused before there is a
 * request, from the one below. */
#include "scheduler/wire/errors.h"

/* Refused by the codec (base/http_conn.c), which then closes the connection. */
static const struct {
    int status;
    const char *when, *remedy;
} framing[] = {
    {400, "The head or the framing of the body is not strict HTTP/1.1: bare LF, folding, conflicting lengths, ...",
     "Mend the client, or the proxy between."},
    {408, "Head or body came too slowly.", "Try again on a better line."},
    {413, "The body is larger than `limits.body`.", "Send less."},
    {414, "The request line is too long.", "Shorten the path."},
    {417, "An `Expect` other than `100-continue`.", "Leave it out."},
    {431, "The headers are too many or too large.", "Send fewer."},
    {503, "Too many connections, or too many bytes held for all of them; has `Retry-After`.", "Try again."},
};

static void print_row(const struct api_error_kind *k, FILE *out)
{
    if (k->name)
        fprintf(out, "| `%s`", k->name);
    else
        fprintf(out, "| null (`%s`)", k->label);
    fprintf(out, " | %d | `%s` | %s | %s | ", k->status, k->type, k->when, k->remedy);
    if (k->retry_after_s)
        fprintf(out, "yes, %d s or more |\n", k->retry_after_s);
    else
        fprintf(out, "no |\n");
}

void api_errors_print_markdown(FILE *out)
{
    fprintf(out, "# Errors\n\n"
                 "<!-- Made from the table by `spillway help errors --markdown`; a test compares. Edit "
                 "scheduler/wire/errors.c. -->\n\n"
                 "An error is OpenAI's object, always with all four keys:\n\n"
                 "```json\n"
                 "{\"error\": {\"message\": \"...\", \"type\": \"rate_limit_error\", \"param\": null, "
                 "\"code\": \"queue_full\"}}\n"
                 "```\n\n"
                 "`message` is for people and may change; programs look at the status and at `code`. `param` names the "
                 "field that is wrong.\n`x-request-id` is the request's name in ledger and log. Where trying again may "
                 "help there is `Retry-After`, in whole\nseconds; where it cannot, `x-should-retry: false`, which the "
                 "`openai` packages obey. Metrics and ledger have the code, or\nfor `null` the word in brackets.\n\n"
                 "| code | status | type | when | what to do | again? |\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < API_CODES; i++)
        print_row(api_error_kind((enum api_code)i), out);
    fprintf(out, "\nWhat a node says of the request itself (400, 413, 422: too long a context, an option it does not "
                 "have) is passed on as\nit is, with the node's status, type, code and param (`upstream_rejected` in "
                 "metrics and ledger).\n\n"
                 "**In the middle of a stream** the status has left already. What cannot continue on another node ends "
                 "with one event\n`data: {\"error\": {...}}` and without `[DONE]`; what came until then is in the "
                 "ledger, and charged.\n\n"
                 "## Before there is a request\n\n"
                 "Refused by the HTTP codec, with `code` null; the connection is closed.\n\n"
                 "| status | when | what to do |\n|---|---|---|\n");
    for (size_t i = 0; i < sizeof framing / sizeof framing[0]; i++)
        fprintf(out, "| %d | %s | %s |\n", framing[i].status, framing[i].when, framing[i].remedy);
}
