/* What a configuration may say and hardly means: SLOs that no node can meet by its calibration, rules in their way,
 * power settings and tariffs that make no sense. Each warning names its node, its figure and what would be right, and
 * is not there once that is so.
 * links: spw_sched_config */
#include <stdarg.h>
#include <unistd.h>

#include "scheduler/calibrate/record.h"
#include "scheduler/config/config.h"
#include "test.h"

static char folder[] = "/tmp/spillway-sense-XXXXXX";

/* 9 ms and 0.05 ms per prompt token, 10.1 ms per token of an answer alone; `slow` takes three times as long. */
static void write_records(void)
{
    struct error e;
    char path[128];
    struct calibration r = {.measured_at = "2099-01-01T00:00:00Z",
                            .curve = {9000, 50, 10000, 100},
                            .n_decode = 2,
                            .decode = {{1, 10100}, {8, 10800}}};
    snprintf(path, sizeof path, "%s/quick.json", folder);
    CHECK(calibration_save(&r, path, &e) == RC_OK);
    r.curve = (struct node_curve){27000, 150, 30000, 300};
    r.decode[0].us = 30300;
    r.decode[1].us = 32400;
    snprintf(path, sizeof path, "%s/slow.json", folder);
    CHECK(calibration_save(&r, path, &e) == RC_OK);
}

/* The warnings of a configuration, which is good. */
static char *warnings_of(const char *format, ...)
{
    static char text[8192];
    char yaml[4096];
    struct strbuf problems, out;
    struct config *c = NULL;
    va_list args;
    va_start(args, format);
    int n = snprintf(yaml, sizeof yaml, "auth: off\nstate_dir: %s\n", folder);
    vsnprintf(yaml + n, sizeof yaml - (size_t)n, format, args);
    va_end(args);
    strbuf_init(&problems, 65536);
    strbuf_init(&out, 65536);
    text[0] = '\0';
    if (config_parse(&c, yaml, strlen(yaml), "c.yaml", &problems) == RC_OK)
        config_warnings(c, &out);
    CHECK_STR(problems.data ? problems.data : "", "");
    snprintf(text, sizeof text, "%s", out.data ? out.data : "");
    config_free(c);
    strbuf_fini(&problems);
    strbuf_fini(&out);
    return text;
}

static void says(const char *file, int line, const char *text, const char *wanted)
{
    if (strstr(text, wanted))
        return;
    fprintf(stderr, "%s:%d: \"%s\" is not in\n%s\n", file, line, wanted, text);
    test_run_.group_failed++;
}
#define SAYS(text, wanted) says(__FILE__, __LINE__, text, wanted)

#define NODE(NAME, RECORD) "- {name: " NAME ", url: http://10.0.0.1:1, models: [m], calibration: " RECORD "}\n"
#define BOTH               NODE("a", "quick.json") NODE("b", "slow.json")

/* Records lie beside the file. */
static char *with(const char *routing, const char *models, const char *nodes)
{
    char paths[2048];
    size_t n = 0;
    for (const char *p = nodes; *p;) { /* "quick.json" becomes a path */
        const bool record = strncmp(p, "quick.json", 10) == 0 || strncmp(p, "slow.json", 9) == 0;
        n += (size_t)snprintf(paths + n, sizeof paths - n, "%s%s%c", record ? folder : "", record ? "/" : "", *p);
        p++;
    }
    return warnings_of("routing: {%s}\n%s\nnodes:\n%s", routing, models, paths);
}

static void an_slo_per_token(void)
{
    char *w = with("slo_tpot: 8ms", "", BOTH);
    SAYS(w, "c.yaml:3: routing.slo_tpot: no node can meet 8 ms for \"m\": \"a\" is the quickest");
    SAYS(w, "takes 10.1 ms per token with nothing else to do, by its calibration; 11 ms or more would be right");
    CHECK_STR(with("slo_tpot: 11ms", "", BOTH), "");
    SAYS(with("slo_tpot: 11ms", "", NODE("b", "slow.json")), "\"b\" is the quickest");
    /* Somebody of whom nothing is known might do better. */
    CHECK_STR(with("slo_tpot: 8ms", "", BOTH "- {name: c, url: http://10.0.0.1:2, models: [m]}\n"), "");
    SAYS(with("slo_tpot: 8ms", "", BOTH "- {name: c, url: http://10.0.0.1:2, models: [n]}\n"), "for \"m\"");
}

static void an_slo_of_a_model(void)
{
    char *w = with("slo_tpot: 50ms", "models:\n- {name: m, slo_tpot: 9ms}", BOTH);
    SAYS(w, "c.yaml:5: models[0].slo_tpot: no node can meet 9 ms for \"m\"");
    CHECK_STR(with("slo_tpot: 9ms", "models:\n- {name: m, slo_tpot: 20ms}", BOTH), "");
    /* Who may answer: those of its chain, and on the premises alone where it may not leave them. */
    static const char far[] =
        "- {name: far, url: http://10.0.0.1:3, models: [m], local: false, price: {input: 1, output: 1}}\n";
    char nodes[512];
    snprintf(nodes, sizeof nodes, "%s%s", BOTH, far);
    CHECK_STR(with("slo_tpot: 8ms", "models:\n- {name: m}", nodes), "");
    SAYS(with("slo_tpot: 8ms", "models:\n- {name: m, local_only: true}", nodes), "no node can meet 8 ms");
    SAYS(with("", "models:\n- {name: best, slo_tpot: 8ms, fallbacks: [m]}", BOTH),
         "no node can meet 8 ms for \"best\"");
}

static void an_slo_of_first_tokens(void)
{
    SAYS(with("slo_ttft: 9ms", "", BOTH),
         "c.yaml:3: routing.slo_ttft: no node can meet 9 ms for \"m\": \"a\" is the quickest of those that may answer, "
         "and its "
         "first token takes 9.05 ms after the shortest prompt, by its calibration; 10 ms or more would be right");
    CHECK_STR(with("slo_ttft: 10ms", "", BOTH), "");
    SAYS(with("slo_ttft: 100ms, slo_free_tokens: 4000, slo_ttft_per_1k: 100ms", "", BOTH),
         "after a prompt of slo_free_tokens (4000): \"a\", the quickest, takes 209 ms alone, by its calibration; 209 "
         "ms or more");
    CHECK_STR(with("slo_ttft: 209ms, slo_free_tokens: 4000, slo_ttft_per_1k: 100ms", "", BOTH), "");
    /* 309 ms, and 10 ms more than it is given for each 1,000 tokens above: 10,000 more are too many. */
    SAYS(with("slo_ttft: 309ms, slo_free_tokens: 4000, slo_ttft_per_1k: 40ms", "", BOTH),
         "routing.slo_ttft_per_1k: no node can meet it for \"m\" after prompts of more than about 14000 tokens: \"a\", "
         "the "
         "quickest, takes 50 ms per 1,000 tokens, by its calibration, and has 40; 50 ms would be right");
}

static void rules_in_an_slos_way(void)
{
    SAYS(with("slo_ttft: 2s, first_byte: 1s", "", BOTH),
         "c.yaml:3: routing.first_byte: after 1000 ms another node is tried, before routing.slo_ttft (2000 ms)");
    SAYS(with("slo_ttft: 2s", "breaker: {slow: 500ms}", BOTH),
         "c.yaml:4: breaker.slow: a first token after 500 ms counts");
    CHECK_STR(with("slo_ttft: 2s, first_byte: 3s", "breaker: {slow: 3s}", BOTH), "");
    static const char nodes[] = NODE("a", "quick.json") "- {name: c, url: http://10.0.0.1:2, models: [n]}\n";
    SAYS(
        with("slo_ttft: 2s", "models:\n- {name: m, fallbacks: [n], fallback_when: full, fallback_after: 5s}", nodes),
        "c.yaml:5: models[0].fallback_after: who has waited for 5000 ms has missed routing.slo_ttft (2000 ms) already");
    CHECK_STR(
        with("slo_ttft: 2s", "models:\n- {name: m, fallbacks: [n], fallback_when: full, fallback_after: 500ms}", nodes),
        "");
}

static void an_objective_without_figures(void)
{
    SAYS(with("objective: energy", "", BOTH),
         "c.yaml:3: routing.objective: energy for \"m\", but of no node that may answer");
    SAYS(with("", "models:\n- {name: m, objective: balanced}", BOTH),
         "c.yaml:5: models[0].objective: balanced for \"m\"");
    CHECK_STR(with("objective: energy", "",
                   "- {name: a, url: http://10.0.0.1:1, models: [m], watts: 300, power: {idle_watts: 100}}\n"),
              "");
}

/* ---- power ------------------------------------------------------------------------------------------------------------ */

#define BOX(NAME, MODEL, MORE)                                                                                         \
    "- {name: " NAME ", url: http://10.0.0.1:1, models: [" MODEL                                                       \
    "], watts: 700, power: {idle_watts: 200, sleep_watts: 20, "                                                        \
    "sleep_wake: 10s" MORE "}}\n"

static void a_limit_that_is_too_low(void)
{
    SAYS(warnings_of("power: {cap_watts: 900, keep_warm: 2, base_watts: 600}\nnodes:\n%s%s", BOX("a", "m", ""),
                     BOX("b", "m", "")),
         "c.yaml:3: power.cap_watts: with power.keep_warm 2 of \"m\" awake and idle the site draws 1000 W, above its "
         "900 W: node "
         "\"b\" (power.idle_watts 200) cannot be kept warm; a cap of 1000 W, or fewer nodes warm, would be right");
    char *w = warnings_of("power: {cap_watts: 600}\nnodes:\n%s%s", BOX("a", "m", ""), BOX("b", "m", ""));
    SAYS(w, "power.cap_watts: \"m\" can never be answered: node \"a\" draws 700 W under load, and with all else as "
            "deep as it "
            "goes the site 720 W, above its 600 W; 720 W or more would be right");
    SAYS(w, "nodes[0].power.wake_watts: once asleep \"a\" can never be woken: waking draws 700 W, and with all else as "
            "deep as "
            "it goes the site 720 W, above power.cap_watts 600; 720 W would be right there");
    w = warnings_of("power: {cap_watts: 900}\nnodes:\n%s", BOX("a", "m", ", wake_watts: 1000"));
    SAYS(w, "c.yaml:5: nodes[0].power.wake_watts: once asleep \"a\" can never be woken: waking draws 1000 W");
    CHECK_STR(warnings_of("power: {cap_watts: 720}\nnodes:\n%s%s", BOX("a", "m", ""), BOX("b", "m", "")), "");
}

static void waking_that_takes_too_long(void)
{
    static const char nodes[] = BOX("a", "m", ", off_watts: 5, off_wake: 120s") BOX("b", "m", "");
    SAYS(warnings_of("routing: {slo_ttft: 2s}\npower: {keep_warm: 0}\nnodes:\n%s", nodes),
         "c.yaml:4: power.keep_warm: 0, and node \"a\", the quickest of those that serve \"m\", takes 10000 ms to "
         "wake, longer than "
         "slo_ttft (2000 ms): who comes while all sleep is late; 1 would be right, or an SLO of 10000 ms");
    CHECK_STR(warnings_of("routing: {slo_ttft: 2s}\npower: {keep_warm: 1}\nnodes:\n%s", nodes), "");
    CHECK_STR(warnings_of("routing: {slo_ttft: 10s}\npower: {keep_warm: 0}\nnodes:\n%s", nodes), "");
    CHECK_STR(
        warnings_of("routing: {slo_ttft: 2s}\npower: {keep_warm: 0}\nnodes:\n%s- {name: c, url: http://10.0.0.1:3, "
                    "models: [m]}\n",
                    nodes),
        ""); /* somebody is always there */
}

static void sleep_that_never_comes(void)
{
    SAYS(warnings_of("power: {keep_warm: 2}\nnodes:\n%s%s", BOX("a", "m", ""), BOX("b", "m", "")),
         "c.yaml:3: power.keep_warm: 2 of \"m\" stay awake, and there are 2: none of them ever sleeps");
    CHECK_STR(warnings_of("nodes:\n%s", BOX("a", "m", "")), ""); /* as it is without a word */
    /* Asleep it draws as much, and waking costs: never. A watt less, and waking takes half an hour at full draw: hardly. */
    SAYS(warnings_of("nodes:\n- {name: a, url: http://10.0.0.1:1, models: [m], watts: 700, power: {idle_watts: 200, "
                     "sleep_watts: "
                     "200, sleep_wake: 10s}}\n"),
         "nodes[0].power.sleep_watts: \"a\" is never put there: another level costs less for any idle time");
    SAYS(warnings_of("nodes:\n- {name: a, url: http://10.0.0.1:1, models: [m], watts: 700, power: {idle_watts: 200, "
                     "sleep_watts: "
                     "199, sleep_wake: 30m}}\n"),
         "nodes[0].power.sleep_watts: for \"a\" that pays only after ");
}

static void tariffs_with_holes(void)
{
    static const char nodes[] = "nodes:\n- {name: a, url: http://10.0.0.1:1, models: [m]}\n";
    SAYS(warnings_of("energy:\n  price: 0\n  hours: [mon-fri 07:00-20:00 0.25, sat-sun 0.12]\n%s", nodes),
         "c.yaml:5: energy.hours: there are holes, where energy.price holds, which is 0: 33% of all time, first on a "
         "Monday in "
         "January from 00:00 on");
    SAYS(warnings_of("energy:\n  price: 0\n  hours: [07:00-20:00 0.25, 20:00-06:00 0.12]\n%s", nodes),
         "first on a Monday in January from 06:00 on");
    SAYS(warnings_of("energy:\n  price: 0\n  hours: [jan-jun 0.25, aug-dec 0.12]\n%s", nodes),
         "first on a Monday in July");
    CHECK_STR(warnings_of("energy:\n  price: 0\n  hours: [07:00-20:00 0.25, 20:00-07:00 0.12]\n%s", nodes), "");
    CHECK_STR(warnings_of("energy:\n  price: 0.1\n  hours: [mon-fri 07:00-20:00 0.25]\n%s", nodes), "");
}

int main(void)
{
    char path[128];
    CHECK(mkdtemp(folder));
    write_records();
    TEST(an_slo_per_token);
    TEST(an_slo_of_a_model);
    TEST(an_slo_of_first_tokens);
    TEST(rules_in_an_slos_way);
    TEST(an_objective_without_figures);
    TEST(a_limit_that_is_too_low);
    TEST(waking_that_takes_too_long);
    TEST(sleep_that_never_comes);
    TEST(tariffs_with_holes);
    snprintf(path, sizeof path, "%s/quick.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/slow.json", folder);
    unlink(path);
    rmdir(folder);
    return TEST_RESULT();
}
