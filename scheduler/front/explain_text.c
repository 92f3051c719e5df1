#include "scheduler/front/explain_text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/money.h"

#define LOSERS_NAMED 3 /* in a sentence; the list has all */
#define US_PER_MS    1e3
#define NUMBER_BYTES 48

/* ---- numbers for people ------------------------------------------------------------------------------------------- */

/* Three digits that count, no exponent: "0.000423", "12.5", "0". */
static char *digits(double v, char buf[NUMBER_BYTES])
{
    int places = v != 0 ? 2 - (int)floor(log10(fabs(v))) : 0;
    places = places < 0 ? 0 : places > 14 ? 14 : places;
    int n = snprintf(buf, NUMBER_BYTES, "%.*f", places, v);
    if (n < 0 || n >= NUMBER_BYTES)
        return buf;
    while (places > 0 && buf[n - 1] == '0')
        buf[--n] = '\0';
    if (buf[n - 1] == '.')
        buf[--n] = '\0';
    return buf;
}

static char *dollars(double pusd, char buf[NUMBER_BYTES])
{
    buf[0] = '$';
    char number[NUMBER_BYTES];
    snprintf(buf + 1, NUMBER_BYTES - 1, "%.46s", digits(pusd / 1e12, number));
    return buf;
}

static char *duration(double us, char buf[NUMBER_BYTES])
{
    char number[NUMBER_BYTES];
    bool seconds = us >= 999.5e3;
    snprintf(buf, NUMBER_BYTES, "%.40s %s", digits(us / (seconds ? 1e6 : US_PER_MS), number), seconds ? "s" : "ms");
    return buf;
}

/* Of a probability: "72%", and near to both ends as many digits as tell it from certainty. */
static char *percent(double p, char buf[NUMBER_BYTES])
{
    int places = p > 0.99 && p < 1 ? (p > 0.9999 ? 4 : 2) : p > 0 && p < 0.01 ? 2 : p < 0.1 ? 1 : 0;
    snprintf(buf, NUMBER_BYTES, "%.*f%%", places, 100 * p);
    return buf;
}

static char *load(const struct explain_candidate *c, char buf[NUMBER_BYTES])
{
    if (c->slots > 0)
        snprintf(buf, NUMBER_BYTES, "%d of %d slots", c->in_flight, c->slots);
    else
        snprintf(buf, NUMBER_BYTES, "%d in flight", c->in_flight);
    return buf;
}

/* ---- what a record says ------------------------------------------------------------------------------------------- */

/* Judged by the SLO and what follows it; else nothing but its own figures is known. */
static bool was_judged(const struct explain_candidate *c)
{
    return c->reason == ROUTE_CHOSEN || (c->reason >= ROUTE_MISSES_SLO && c->reason != ROUTE_NOT_LISTED);
}

static bool has_slo(const struct explain_record *r)
{
    return r->slo_ttft_us || r->slo_tpot_us;
}

static struct latency ttft_of(const struct explain_candidate *c)
{
    return (struct latency){.median_us = c->ttft_us, .log_sd = c->ttft_sd};
}

static struct latency tpot_of(const struct explain_candidate *c)
{
    return (struct latency){.median_us = c->tpot_us, .log_sd = c->tpot_sd};
}

/* -1: it was not judged, or nothing was asked. */
static double p_slo_of(const struct explain_record *r, const struct explain_candidate *c)
{
    return has_slo(r) && was_judged(c) && (c->knows & EXPLAIN_PREDICTED) ? c->p_slo : -1;
}

/* To the last token; -1: it did not come so far, or it is not known. */
static double time_of(const struct explain_candidate *c)
{
    return was_judged(c) && c->reason != ROUTE_MISSES_SLO ? c->time_us : -1;
}

/* How far it came: who was chosen, then who lost last; those there is nothing to say of at the end. */
static int distance(const struct explain_candidate *c)
{
    return c->reason == ROUTE_CHOSEN        ? EXPLAIN_REASONS
           : c->reason == ROUTE_NOT_LISTED  ? -1
           : c->reason == ROUTE_OTHER_MODEL ? -2
                                            : c->reason;
}

static void by_distance(const struct explain_record *r, int order[EXPLAIN_CANDIDATES_MAX])
{
    for (int i = 0; i < r->n; i++) {
        int k = i;
        for (; k > 0 && distance(&r->candidates[order[k - 1]]) < distance(&r->candidates[i]); k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
}

static bool lost_by(const struct explain_record *r, enum route_reason lo, enum route_reason hi)
{
    for (int i = 0; i < r->n; i++) {
        if (r->candidates[i].reason >= lo && r->candidates[i].reason <= hi)
            return true;
    }
    return false;
}

static const char *verdict_text(enum waiting_verdict v)
{
    switch (v) {
    case WAITING_NO_WAIT: return "nobody may wait";
    case WAITING_FULL: return "the waiting room is full";
    case WAITING_BYTES: return "those that wait hold too many bytes";
    case WAITING_CROWDED: return "its tenant has as many waiting as it may";
    case WAITING_TOO_LONG: return "the wait would most likely be longer than it may be";
    case WAITING_TOO_LATE: return "it would most likely be too late for its deadline";
    case WAITING_IN:
    case WAITING_VERDICTS: break;
    }
    return "there is no place";
}

/* ---- words -------------------------------------------------------------------------------------------------------- */

static void against(char *buf, const char *what, const char *mine, const char *best)
{
    snprintf(buf, EXPLAIN_WHY_BYTES, "%s, %s against %s", what, mine, best);
}

/* Reasons of who was compared with the chosen one: the term that it lost by, beside the winner's. */
static char *why_worse(const struct explain_record *r, const struct explain_candidate *c,
                       const struct explain_candidate *best, char *buf)
{
    char a[NUMBER_BYTES], b[NUMBER_BYTES];
    switch ((enum route_reason)c->reason) {
    case ROUTE_MISSES_SLO:
        if (best->p_slo >= r->slo_probability && c->p_slo < r->slo_probability)
            snprintf(buf, EXPLAIN_WHY_BYTES, "misses the SLO, %s likely to meet it where %s is asked",
                     percent(c->p_slo, a), percent(r->slo_probability, b));
        else
            against(buf, "likelier to miss the SLO than the likeliest", percent(c->p_slo, a), percent(best->p_slo, b));
        break;
    case ROUTE_DEARER: against(buf, "dearer", dollars(c->money, a), dollars(best->money, b)); break;
    case ROUTE_SLOWER: against(buf, "slower", duration(c->time_us, a), duration(best->time_us, b)); break;
    case ROUTE_HUNGRIER:
        against(buf, "takes more joules", digits(c->energy_mj / 1e3, a), digits(best->energy_mj / 1e3, b));
        break;
    case ROUTE_WORSE:
        against(buf, "worse in money, time and energy together", digits(c->value, a), digits(best->value, b));
        break;
    case ROUTE_RISKIER:
        against(buf, "likelier to be lost before the answer ends", percent(c->risk, a), percent(best->risk, b));
        break;
    case ROUTE_BUSIER: against(buf, "busier", load(c, a), load(best, b)); break;
    case ROUTE_LESS_CACHED:
        snprintf(buf, EXPLAIN_WHY_BYTES, "would have to read more of the prompt, %d tokens held against %d", c->cached,
                 best->cached);
        break;
    default: snprintf(buf, EXPLAIN_WHY_BYTES, "%s", route_reason_text((enum route_reason)c->reason));
    }
    return buf;
}

/* Its time beyond the winner's may be unknown on either side; then the bare reason is all there is to say. */
static bool is_comparable(const struct explain_candidate *c, const struct explain_candidate *best)
{
    if (c->reason == ROUTE_SLOWER)
        return c->time_us >= 0 && best->time_us >= 0;
    if (c->reason == ROUTE_HUNGRIER)
        return c->energy_mj >= 0 && best->energy_mj >= 0;
    return was_judged(c);
}

char *explain_why(const struct explain_record *r, int i, char buf[EXPLAIN_WHY_BYTES])
{
    const struct explain_candidate *c = &r->candidates[i];
    enum route_reason reason = (enum route_reason)c->reason;
    char a[NUMBER_BYTES];
    if (r->chosen >= 0 && i != r->chosen && is_comparable(c, &r->candidates[r->chosen]))
        return why_worse(r, c, &r->candidates[r->chosen], buf);
    if (reason == ROUTE_TOO_DEAR)
        snprintf(buf, EXPLAIN_WHY_BYTES, "%s of %s", route_reason_text(reason), dollars((double)r->charge_max, a));
    else if (reason == ROUTE_FULL && r->alone)
        snprintf(buf, EXPLAIN_WHY_BYTES, "is not empty, as this request needs it: %d in flight", c->in_flight);
    else if (reason == ROUTE_FULL && c->slots > 0 && c->in_flight < c->slots)
        snprintf(buf, EXPLAIN_WHY_BYTES, "has not the memory for it now, or too long a queue of prompts: %s",
                 load(c, a));
    else if (reason == ROUTE_FULL)
        snprintf(buf, EXPLAIN_WHY_BYTES, "is full: %s", load(c, a));
    else if ((reason == ROUTE_BREAKER_OPEN || reason == ROUTE_COOLING_DOWN) && c->back_us > 0)
        snprintf(buf, EXPLAIN_WHY_BYTES, "%s: %s more", route_reason_text(reason), duration(c->back_us, a));
    else if (reason == ROUTE_LESS_FIT && r->prefers_local && !(c->knows & EXPLAIN_LOCAL))
        snprintf(buf, EXPLAIN_WHY_BYTES, "is not on the premises, which a budget prefers");
    else
        snprintf(buf, EXPLAIN_WHY_BYTES, "%s", route_reason_text(reason));
    return buf;
}

struct sentence {
    char *text;
    size_t n;
};
static void say(struct sentence *s, const char *format, ...) SPW_PRINTF(2, 3);
static void say(struct sentence *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(s->text + s->n, EXPLAIN_SENTENCE_MAX - s->n, format, args);
    va_end(args);
    s->n += n > 0 ? (size_t)n : 0;
    if (s->n >= EXPLAIN_SENTENCE_MAX)
        s->n = EXPLAIN_SENTENCE_MAX - 1;
}

/* Of those that were left when the objective had spoken. */
static void say_of_equals(struct sentence *s, const struct explain_record *r)
{
    const char *between = "; of equals ";
    static const struct {
        enum route_reason lo, hi;
        const char *text;
    } steps[] = {
        {ROUTE_RISKIER, ROUTE_RISKIER, "the safest"},
        {ROUTE_LESS_CACHED, ROUTE_LESS_CACHED, "the one with most of the prompt at hand"},
        {ROUTE_BUSIER, ROUTE_BUSIER, "the least busy of two that were drawn"},
        {ROUTE_TIE, ROUTE_TIE, "one that was drawn"},
    };
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if (!lost_by(r, steps[i].lo, steps[i].hi) ||
            (steps[i].lo == ROUTE_TIE && lost_by(r, ROUTE_BUSIER, ROUTE_BUSIER)))
            continue;
        say(s, "%s%s", between, steps[i].text);
        between = ", ";
    }
}

static void say_chosen(struct sentence *s, const struct explain_record *r)
{
    static const char *const best[] = {"the cheapest", "the fastest", "the one that takes least energy",
                                       "the best in money, time and energy together"};
    static const char *const equal[] = {"as cheap as any other", "as fast as any other",
                                        "with as little energy as any other",
                                        "as good in money, time and energy as any other"};
    const struct explain_candidate *c = &r->candidates[r->chosen];
    bool by_value = lost_by(r, ROUTE_DEARER, ROUTE_WORSE), further = lost_by(r, ROUTE_RISKIER, ROUTE_TIE);
    say(s, "%s was chosen: ", explain_name(r, c->name));
    if (lost_by(r, ROUTE_LESS_FIT, ROUTE_LESS_FIT) && !by_value && !further)
        say(s, r->prefers_local ? "on the premises, which a budget prefers" : "it suits best where the request stands");
    else if (by_value || further)
        say(s, "%s", (by_value ? best : equal)[r->objective]);
    else if (lost_by(r, ROUTE_MISSES_SLO, ROUTE_MISSES_SLO))
        say(s, "the only one");
    else
        say(s, "the only one that could take it");
    bool met = c->p_slo >= r->slo_probability;
    if (has_slo(r) && (by_value || further || lost_by(r, ROUTE_MISSES_SLO, ROUTE_MISSES_SLO)))
        say(s, met ? " of those that meet the SLO" : " of those likeliest to meet the SLO, which nobody does");
    say_of_equals(s, r);
}

static void say_nobody(struct sentence *s, const struct explain_record *r)
{
    if (lost_by(r, ROUTE_NOT_LOCAL, ROUTE_FULL))
        say(s, "nobody can take it");
    else
        say(s, "no node serves %s", explain_name(r, r->model));
}

static void say_losers(struct sentence *s, const struct explain_record *r)
{
    int order[EXPLAIN_CANDIDATES_MAX], named = 0, more = 0;
    char why[EXPLAIN_WHY_BYTES];
    by_distance(r, order);
    for (int k = 0; k < r->n; k++) {
        const struct explain_candidate *c = &r->candidates[order[k]];
        if (order[k] == r->chosen || distance(c) < 0)
            continue;
        if (named < LOSERS_NAMED)
            say(s, "; %s%s %s", explain_name(r, c->name),
                r->chosen < 0 ? ""
                : named       ? ":"
                              : " lost:",
                explain_why(r, order[k], why));
        else
            more++;
        named++;
    }
    for (int i = ROUTE_NOT_LOCAL; i < ROUTE_NOT_LISTED; i++)
        more += r->others[i];
    if (more)
        say(s, "; and %d more", more);
}

static void say_outcome(struct sentence *s, const struct explain_record *r)
{
    const struct explain_then *t = &r->then;
    char a[NUMBER_BYTES];
    switch ((enum explain_outcome)t->outcome) {
    case EXPLAIN_CHOSEN: break;
    case EXPLAIN_NEXT_MODEL: say(s, "; so its fallback is looked at"); break;
    case EXPLAIN_NOBODY: say(s, "; waiting cannot help"); break;
    case EXPLAIN_WAITS:
        say(s, "; it waits, behind %d, for at most %s", t->ahead, duration(t->wait_ms * US_PER_MS, a));
        break;
    case EXPLAIN_NOT_LET_IN: say(s, "; it may not wait: %s", verdict_text((enum waiting_verdict)t->verdict)); break;
    case EXPLAIN_HELD_FOR_LONGER:
        say(s, "; nobody can for %s, and it may not wait so long", duration(t->back_ms * US_PER_MS, a));
        break;
    }
}

char *explain_sentence(const struct explain_record *r, char buf[EXPLAIN_SENTENCE_MAX])
{
    struct sentence s = {.text = buf};
    buf[0] = '\0';
    if (r->chosen >= 0)
        say_chosen(&s, r);
    else
        say_nobody(&s, r);
    say_losers(&s, r);
    say_outcome(&s, r);
    return buf;
}

/* ---- JSON --------------------------------------------------------------------------------------------------------- */

struct writer {
    struct json_writer *w;
    bool whole;
};

/* Not known is null, or not there where space is short. */
static void number(const struct writer *w, const char *key, bool known, double v, int places)
{
    char text[NUMBER_BYTES];
    if (!known && w->whole)
        json_null(w->w, key);
    if (!known)
        return;
    snprintf(text, sizeof text, "%.*f", places, v);
    json_raw(w->w, key, text);
}

static void string(const struct writer *w, const char *key, const char *v)
{
    if (v || w->whole)
        json_string(w->w, key, v);
}

static void flag(const struct writer *w, const char *key, bool v)
{
    if (v || w->whole)
        json_bool(w->w, key, v);
}

static const char *amount(bool known, double pusd, char buf[NUMBER_BYTES])
{
    if (!known)
        return NULL;
    return pusd_format((struct pusd){pusd < 9e18 ? (int64_t)pusd : INT64_MAX}, buf, NUMBER_BYTES);
}

static void write_times(const struct writer *w, const struct explain_candidate *c)
{
    const struct latency ttft = ttft_of(c), tpot = tpot_of(c);
    bool known = c->knows & EXPLAIN_PREDICTED;
    number(w, "ttft_ms_p50", known, c->ttft_us / US_PER_MS, 1);
    number(w, "ttft_ms_p99", known, known ? latency_quantile(&ttft, 0.99) / US_PER_MS : 0, 1);
    number(w, "tpot_ms_p50", known, c->tpot_us / US_PER_MS, 2);
    number(w, "tpot_ms_p99", known, known ? latency_quantile(&tpot, 0.99) / US_PER_MS : 0, 2);
    number(w, "wake_ms", w->whole || c->wake_us > 0, c->wake_us / US_PER_MS, 0);
}

static void write_candidate(const struct writer *w, const struct explain_record *r, int i)
{
    const struct explain_candidate *c = &r->candidates[i];
    char buf[NUMBER_BYTES], why[EXPLAIN_WHY_BYTES];
    double p = p_slo_of(r, c), time = time_of(c);
    bool priced = c->reason != ROUTE_OTHER_MODEL;
    json_open(w->w, NULL, '{');
    json_string(w->w, "node", explain_name(r, c->name));
    json_string(w->w, "reason", route_reason_name((enum route_reason)c->reason));
    if (w->whole)
        json_string(w->w, "why", explain_why(r, i, why));
    flag(w, "local", c->knows & EXPLAIN_LOCAL);
    json_int(w->w, "in_flight", c->in_flight);
    json_int(w->w, "slots", c->slots);
    number(w, "tokens_cached", w->whole || c->cached > 0, c->cached, 0);
    write_times(w, c);
    number(w, "time_ms", time >= 0, time / US_PER_MS, 1);
    number(w, "p_slo", p >= 0, p, 4);
    string(w, "money_usd", amount(priced, c->money, buf));
    if (w->whole)
        string(w, "money_is", !priced ? NULL : c->knows & EXPLAIN_MARGINAL ? "marginal" : "list_price");
    number(w, "joules", c->energy_mj >= 0, c->energy_mj / 1e3, 2);
    number(w, "risk", w->whole || c->risk > 0, c->risk, 4);
    if (r->objective == ROUTE_BALANCED)
        number(w, "value", was_judged(c) && c->reason != ROUTE_MISSES_SLO, c->value, 3);
    json_close(w->w, '}');
}

static void write_slo(const struct writer *w, const struct explain_record *r)
{
    if (!has_slo(r)) {
        string(w, "slo", NULL);
        return;
    }
    json_open(w->w, "slo", '{');
    number(w, "ttft_ms", r->slo_ttft_us, (double)r->slo_ttft_us / US_PER_MS, 1);
    number(w, "tpot_ms", r->slo_tpot_us, (double)r->slo_tpot_us / US_PER_MS, 2);
    number(w, "probability", true, r->slo_probability, 4);
    json_close(w->w, '}');
}

/* What was asked. */
static void write_question(const struct writer *w, const struct explain_record *r)
{
    char buf[NUMBER_BYTES], at[40];
    string(w, "at", w->whole ? wall_format((struct wall){r->at_ns}, at, sizeof at) : NULL);
    json_string(w->w, "attempt", explain_attempt_name((enum explain_attempt)r->attempt));
    json_int(w->w, "legs_before", r->legs);
    string(w, "model_asked", w->whole || r->model != r->model_asked ? explain_name(r, r->model_asked) : NULL);
    json_string(w->w, "model", explain_name(r, r->model));
    json_string(w->w, "objective", route_objective_name((enum route_objective)r->objective));
    write_slo(w, r);
    json_string(w->w, "class", waiting_class_name((enum waiting_class)r->class));
    flag(w, "local_only", r->local_only);
    flag(w, "prefers_local", r->prefers_local);
    flag(w, "alone", r->alone);
    string(w, "charge_max_usd", amount(r->bounded, (double)r->charge_max, buf));
    json_int(w->w, "tokens_input", r->input_tokens);
    json_int(w->w, "tokens_output", r->output_tokens);
    number(w, "waited_ms", w->whole || r->waited_ms > 0, r->waited_ms, 0);
    flag(w, "granted", r->granted);
}

static void write_outcome(const struct writer *w, const struct explain_record *r)
{
    const struct explain_then *t = &r->then;
    bool waits = t->outcome == EXPLAIN_WAITS;
    json_string(w->w, "outcome", explain_outcome_name((enum explain_outcome)t->outcome));
    string(w, "chosen", r->chosen >= 0 ? explain_name(r, r->candidates[r->chosen].name) : NULL);
    number(w, "waits_behind", waits, t->ahead, 0);
    number(w, "waits_ms_max", waits, t->wait_ms, 0);
    string(w, "not_let_in",
           t->outcome == EXPLAIN_NOT_LET_IN ? waiting_verdict_name((enum waiting_verdict)t->verdict) : NULL);
    number(w, "nobody_for_ms", t->back_ms > 0, t->back_ms, 0);
}

/* skipped: of those in the record, so many are not written. */
static void write_others(const struct writer *w, const struct explain_record *r, int skipped)
{
    if (skipped)
        json_int(w->w, "more", skipped);
    json_open(w->w, "others", '{');
    for (int i = 0; i < EXPLAIN_REASONS; i++) {
        if (r->others[i])
            json_int(w->w, route_reason_name((enum route_reason)i), r->others[i]);
    }
    json_close(w->w, '}');
}

void explain_write(struct json_writer *json, const struct explain_record *r, enum explain_detail detail, int candidates)
{
    const struct writer w = {.w = json, .whole = detail == EXPLAIN_WHOLE};
    char text[EXPLAIN_SENTENCE_MAX];
    int order[EXPLAIN_CANDIDATES_MAX], n = r->n < candidates ? r->n : candidates;
    by_distance(r, order);
    json_open(json, NULL, '{');
    write_question(&w, r);
    write_outcome(&w, r);
    json_open(json, "candidates", '[');
    for (int k = 0; k < n; k++)
        write_candidate(&w, r, order[k]);
    json_close(json, ']');
    write_others(&w, r, r->n - n);
    json_string(json, "sentence", explain_sentence(r, text));
    json_close(json, '}');
}

enum rc explain_write_request(const struct explain *e, const char *request_id, struct json_writer *w)
{
    uint64_t tickets[EXPLAIN_DECISIONS_MAX];
    int earlier, written = 0, n = explain_find(e, request_id, tickets, EXPLAIN_DECISIONS_MAX, &earlier);
    if (n == 0)
        return RC_NOT_FOUND;
    json_open(w, NULL, '{');
    json_string(w, "request_id", request_id);
    json_int(w, "earlier", earlier);
    json_open(w, "decisions", '[');
    for (int i = 0; i < n; i++) {
        struct explain_record r;
        if (!explain_read(e, tickets[i], request_id, &r)) /* written over meanwhile */
            continue;
        explain_write(w, &r, EXPLAIN_WHOLE, EXPLAIN_CANDIDATES_MAX);
        written++;
    }
    json_close(w, ']');
    json_close(w, '}');
    return written > 0 ? RC_OK : RC_NOT_FOUND;
}

static enum rc try_header(const struct explain_record *records, int n, int earlier, int candidates, struct strbuf *out)
{
    struct json_writer w = json_write_begin(out);
    strbuf_clear(out);
    json_open(&w, NULL, '{');
    if (earlier)
        json_int(&w, "earlier", earlier);
    json_open(&w, "decisions", '[');
    for (int i = 0; i < n; i++)
        explain_write(&w, &records[i], EXPLAIN_SHORT, candidates);
    json_close(&w, ']');
    json_close(&w, '}');
    return json_write_end(&w);
}

void explain_write_header(const struct explain_record *records, int n, int earlier, struct strbuf *out)
{
    for (int candidates = EXPLAIN_CANDIDATES_MAX; candidates > 1; candidates /= 2) {
        if (try_header(records, n, earlier, candidates, out) == RC_OK)
            return;
    }
    for (int left = n; left >= 0; left--) {
        if (try_header(records + n - left, left, earlier + n - left, 1, out) == RC_OK)
            return;
    }
}
