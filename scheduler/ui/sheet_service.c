/* Service: are answers begun in time; where requests went, and why. */
#include "scheduler/ui/sheet_internal.h"

#include <stdio.h>
#include <string.h>

#include "scheduler/front/explain_text.h"
#include "scheduler/report/write.h"

/* ---- routes ------------------------------------------------------------------------------------------------------ */

static const char *const objectives[] = {"cost", "latency", "energy", "balanced"};

static void put_promise(struct sheet *s, const struct config_aim *a)
{
    char text[SHEET_TEXT];

    if (!a->ttft_ms && !a->tpot_ms) {
        markup_put(&s->m, "<td class=\"text wide\"><span class=soft>none</span></td>");
        return;
    }
    markup_put(&s->m, "<td class=\"text wide\">%s", sheet_percent(a->probability_ppm / 1e6, text));
    if (a->ttft_ms)
        markup_put(&s->m, " begin within %.3g s", (double)a->ttft_ms / 1e3);
    if (a->tpot_ms)
        markup_put(&s->m, "%s a token within %.3g ms", a->ttft_ms ? "," : " say", (double)a->tpot_ms);
    markup_put(&s->m, "</td>");
}

static void put_attained(struct sheet *s, const struct front_route *r)
{
    const int64_t n = r->demand.in_time + r->demand.late;
    const double share = n ? (double)r->demand.in_time / (double)n : 0, asked = r->aim.probability_ppm / 1e6;
    char text[SHEET_TEXT], title[SHEET_TEXT + 32];

    if (!n) {
        markup_put(&s->m, "<td class=text></td><td>\u2013</td>");
        return;
    }
    snprintf(title, sizeof title, "%s were begun in time", sheet_percent(share, text));
    markup_put(&s->m, "<td class=text>");
    sheet_put_bar(s, share, asked, share >= asked ? FACTS_WELL : FACTS_ILL, title);
    markup_put(&s->m, "</td><td>%s</td>", text);
}

static void put_route(struct sheet *s, const struct front_route *r)
{
    char text[SHEET_TEXT];

    markup_row(&s->m, r->model);
    markup_put(&s->m, "<td class=\"text wide\">%s</td>", objectives[r->aim.objective]);
    put_promise(s, &r->aim);
    put_attained(s, r);
    markup_put(&s->m, "<td class=wide>%s</td>", sheet_count(r->demand.in_time + r->demand.late, text));
    markup_put(&s->m, "<td class=wide>%s</td>", sheet_count(r->demand.answered, text));
    markup_put(&s->m, "<td class=wide>%d</td></tr>\n", r->demand.waiting + r->demand.waiting_batch);
}

void sheet_put_routes(struct sheet *s, int most)
{
    const struct facts *f = s->f;
    const int n = f->n_routes < most ? f->n_routes : most;

    if (n == 0) {
        markup_empty(&s->m, "No model is configured.");
        return;
    }
    markup_table(&s->m, "Promises kept, by model, since the start",
                 "Model|~<Chosen by|~<Promised|<Kept|Share|~Streams judged|~Answered|~Waiting");
    for (int i = 0; i < n; i++)
        put_route(s, &f->routes[i]);
    markup_table_end(&s->m);
    markup_rest(&s->m, n, f->n_routes);
}

void sheet_draw_service(struct sheet *s)
{
    markup_section(&s->m, "routes", "Promises, by model",
                   "What a model promises (its SLO) is counted for interactive answers that are streamed: the time "
                   "from the request "
                   "to its first token, waiting included. The mark in a bar is what was promised.");
    sheet_put_routes(s, FACTS_ROUTES_MAX);
    markup_section_end(&s->m);
    markup_section(&s->m, "words", "Words used here", NULL);
    markup_put(&s->m,
               "<dl class=words><dt>Chosen by</dt><dd>What decides between machines that keep the promise: the least "
               "money, the least "
               "time, the fewest joules, or a third each.</dd><dt>Streams judged</dt><dd>Answers that were promised a "
               "time and "
               "had a first token to measure.</dd><dt>Waiting</dt><dd>Requests that no machine has a place for at this "
               "moment.</dd></dl>\n");
    markup_section_end(&s->m);
}

/* ---- decisions --------------------------------------------------------------------------------------------------- */

static enum facts_mood mood_of(const struct explain_record *r)
{
    switch ((enum explain_outcome)r->then.outcome) {
    case EXPLAIN_CHOSEN: return FACTS_WELL;
    case EXPLAIN_NEXT_MODEL:
    case EXPLAIN_WAITS: return FACTS_BETWEEN;
    case EXPLAIN_NOBODY:
    case EXPLAIN_NOT_LET_IN:
    case EXPLAIN_HELD_FOR_LONGER: break;
    }
    return FACTS_ILL;
}

static const char *outcome_word(const struct explain_record *r)
{
    static const char *const words[] = {"sent", "to its fallback", "nobody can", "waits", "turned away", "turned away"};
    return words[r->then.outcome];
}

static void put_decision(struct sheet *s, const struct explain_record *r)
{
    char sentence[EXPLAIN_SENTENCE_MAX];

    markup_put(&s->m, "<tr><th scope=row><a href=\"/ui/decisions/");
    markup_text(&s->m, r->id);
    markup_put(&s->m, "\">");
    markup_text(&s->m, r->id);
    markup_put(&s->m, "</a><br><small>");
    sheet_put_ago(s, r->at_ns / NS_PER_S);
    markup_put(&s->m, "</small></th><td class=\"text wide\">");
    markup_text(&s->m, explain_name(r, r->model));
    markup_put(&s->m, "</td><td class=\"text wide\">");
    sheet_put_state(s, mood_of(r), outcome_word(r));
    markup_put(&s->m, "</td><td class=\"text long\">");
    markup_text(&s->m, explain_sentence(r, sentence));
    markup_put(&s->m, "</td></tr>\n");
}

void sheet_put_decisions(struct sheet *s, int most)
{
    const struct facts *f = s->f;
    const int n = f->n_decisions < most ? f->n_decisions : most;

    if (n == 0) {
        markup_empty(&s->m, f->decisions_kept ? "No request has needed a machine since the start."
                                              : "None are kept: <code>routing.explain_keep</code> is 0.");
        return;
    }
    markup_table(&s->m, "Requests, the newest first", "Request|~<Model|~<Outcome|<Why");
    for (int i = 0; i < n; i++)
        put_decision(s, &f->decisions[i]);
    markup_table_end(&s->m);
}

void sheet_draw_decisions(struct sheet *s)
{
    markup_section(
        &s->m, "decisions", "The newest decisions",
        "Each request is sent to the place that suits it best: of those that keep the promise, usually the cheapest. "
        "Choose a request for every place that it could have gone to.");
    sheet_put_decisions(s, FACTS_DECISIONS_MAX);
    markup_section_end(&s->m);
}

static void put_candidate(struct sheet *s, const struct explain_record *r, int i)
{
    const struct explain_candidate *c = &r->candidates[i];
    char why[EXPLAIN_WHY_BYTES], text[SHEET_TEXT];

    markup_row(&s->m, explain_name(r, c->name));
    markup_put(&s->m, "<td class=text>");
    if (i == r->chosen)
        sheet_put_state(s, FACTS_WELL, "chosen");
    else
        markup_text(&s->m, explain_why(r, i, why));
    markup_put(&s->m, "</td>");
    if (c->money > 0)
        markup_put(&s->m, "<td>%s</td>", sheet_money((struct pusd_sum){(int64_t)c->money}, text));
    else
        markup_put(&s->m, "<td>\u2013</td>");
    if (c->knows & EXPLAIN_PREDICTED)
        markup_put(&s->m, "<td>%.3g s</td><td>%.3g ms</td>", (double)c->ttft_us / 1e6, (double)c->tpot_us / 1e3);
    else
        markup_put(&s->m, "<td>\u2013</td><td>\u2013</td>");
    if (c->slots)
        markup_put(&s->m, "<td>%d of %d</td></tr>\n", c->in_flight, c->slots);
    else
        markup_put(&s->m, "<td>%d</td></tr>\n", c->in_flight);
}

static void put_whole(struct sheet *s, const struct explain_record *r, int n)
{
    char sentence[EXPLAIN_SENTENCE_MAX], id[16], title[96], at[SHEET_TEXT], in[SHEET_TEXT], out[SHEET_TEXT];

    snprintf(id, sizeof id, "d%d", n);
    snprintf(title, sizeof title, "Choice %d, %s, %s", n + 1, sheet_time(r->at_ns / NS_PER_S, at),
             explain_attempt_name((enum explain_attempt)r->attempt));
    markup_section(&s->m, id, title, NULL);
    markup_put(&s->m, "<p>");
    sheet_put_state(s, mood_of(r), outcome_word(r));
    markup_put(&s->m, " ");
    markup_text(&s->m, explain_sentence(r, sentence));
    markup_put(&s->m, ".</p>\n<p class=soft>Asked for ");
    markup_name(&s->m, explain_name(r, r->model_asked));
    markup_put(&s->m, "; about %s tokens to read and %s to write; it had waited %.3g s.</p>\n",
               sheet_count(r->input_tokens, in), sheet_count(r->output_tokens, out), r->waited_ms / 1e3);
    snprintf(title, sizeof title, "The places it could have gone to, choice %d", n + 1);
    markup_table(&s->m, title, "Name|<Why not|Money|First token|Each token|Requests there");
    for (int i = 0; i < r->n; i++)
        put_candidate(s, r, i);
    markup_table_end(&s->m);
    markup_section_end(&s->m);
}

void sheet_draw_decision(struct sheet *s)
{
    markup_put(&s->m, "<p>Request <code>");
    markup_text(&s->m, s->who->item);
    markup_put(&s->m, "</code></p>\n");
    for (int i = 0; i < s->f->n_decisions; i++)
        put_whole(s, &s->f->decisions[i], i);
    if (s->f->n_decisions == 0)
        markup_empty(
            &s->m,
            "Nothing is known of it any more: the newest decisions are kept, in memory, and an answer from the cache "
            "needs none.");
    sheet_more(s, "/decisions", "The newest decisions");
}
