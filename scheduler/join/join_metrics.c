/* Joining in /metrics: who is here, tokens, certificates, and what was refused. */
#include <inttypes.h>

#include "scheduler/join/join_internal.h"

static enum rc put_states(const struct join_stats *s, struct strbuf *out)
{
    enum rc rc = strbuf_puts(out, "# HELP spillway_join_nodes Engines that have joined since the start, by what is "
                                  "heard of them.\n# TYPE spillway_join_nodes gauge\n");
    for (int i = 0; i < JOIN_STATES && rc == RC_OK; i++)
        rc = strbuf_printf(out, "spillway_join_nodes{state=\"%s\"} %d\n", join_state_name((enum join_state)i),
                           s->states[i]);
    return rc;
}

enum rc join_metrics(const void *join, struct strbuf *out)
{
    const struct join_stats s = join_stats(join);
    const struct {
        const char *name, *help;
        uint64_t value;
    } list[] = {
        {"spillway_join_tokens_total", "Tokens that were made.", s.tokens},
        {"spillway_join_tokens_used_total", "Tokens that somebody used for the first time.", s.used},
        {"spillway_join_certificates_issued_total", "Certificates given for a token.", s.issued},
        {"spillway_join_certificates_renewed_total", "Certificates given over the one before.", s.renewed},
        {"spillway_join_revoked_total", "Names whose certificates and tokens became worth nothing.", s.revoked},
        {"spillway_join_refused_total", "Calls of engines that were refused: tokens, certificates, names, forms.",
         s.refused},
        {"spillway_join_beats_total", "Heartbeats.", s.beats},
        {"spillway_join_notices_total", "Ends that engines announced.", s.notices},
        {"spillway_join_silent_total", "Engines that fell silent and had not announced it.", s.silent},
        {"spillway_join_lost_total", "Of these, those that stayed silent until their work was moved.", s.lost},
    };
    enum rc rc = put_states(&s, out);
    for (size_t i = 0; i < sizeof list / sizeof list[0] && rc == RC_OK; i++)
        rc = strbuf_printf(out, "# HELP %s %s\n# TYPE %s counter\n%s %" PRIu64 "\n", list[i].name, list[i].help,
                           list[i].name, list[i].name, list[i].value);
    return rc;
}
