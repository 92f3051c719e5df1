/* When a request leaves its model for the next of the chain: every combination of what routing can say and what the rule
 * allows. And the table of models: names, aliases and chains as the configuration gives them.
 * links: spw_sched_front */
#include "policies/fallback.h"
#include "scheduler/config/config.h"
#include "scheduler/front/model_table.h"
#include "tests/unit/test.h"

static const struct fallback_rule down = {.when_full = false}, full = {.when_full = true},
                                  later = {.when_full = true, .after_ms = 500};

static enum fallback_step judge(const struct fallback_rule *rule, int chosen, bool busy, int64_t waited_ms)
{
    struct route_decision d = {.chosen = chosen, .busy = busy, .may_wait = chosen < 0};
    return fallback_judge(rule, &d, waited_ms);
}

static void leaves_when_the_rule_says(void)
{
    const struct fallback_rule *rules[] = {&down, &full, &later};
    for (int i = 0; i < 3; i++) {
        CHECK(judge(rules[i], 3, false, 0) == FALLBACK_TAKE);
        CHECK(judge(rules[i], -1, false, 0) == FALLBACK_NEXT); /* nobody in service: no reason to wait */
    }
    CHECK(judge(&down, -1, true, 1000000) == FALLBACK_WAIT);
    CHECK(judge(&full, -1, true, 0) == FALLBACK_NEXT);
    CHECK(judge(&later, -1, true, 499) == FALLBACK_WAIT);
    CHECK(judge(&later, -1, true, 500) == FALLBACK_NEXT);
}

static void wakes_for_the_rule(void)
{
    CHECK_INT(fallback_wake_ms(&down, 0), -1);
    CHECK_INT(fallback_wake_ms(&full, 0), -1);
    CHECK_INT(fallback_wake_ms(&later, 0), 500);
    CHECK_INT(fallback_wake_ms(&later, 499), 1);
    CHECK_INT(fallback_wake_ms(&later, 500), -1);
}

static struct config *parse(const char *text)
{
    struct config *c;
    struct strbuf problems;
    strbuf_init(&problems, 65536);
    if (config_parse(&c, text, strlen(text), "f", &problems) != RC_OK)
        fprintf(stderr, "%s", problems.data ? problems.data : "");
    strbuf_fini(&problems);
    return c;
}

static void names_and_chains(void)
{
    struct config *c = parse("auth: off\n"
                             "nodes:\n"
                             "- {name: a, url: 'http://h:1', models: [local, both]}\n"
                             "- {name: b, url: 'http://h:2', models: [api, both]}\n"
                             "models:\n"
                             "- {name: r1, aliases: [gpt-4, o1], fallbacks: [local, api], fallback_when: full,\n"
                             "   fallback_after: 2s, local_only: true}\n"
                             "- {name: both, fallbacks: [r1]}\n");
    struct model_table *t = c ? model_table_new(c) : NULL;
    if (!t) {
        CHECK(!"a table");
        return;
    }
    static const char *const names[] = {"local", "both", "api", "r1"}; /* nodes' first, in their order */
    CHECK_INT(model_table_count(t), 4);
    for (int i = 0; i < 4; i++) {
        CHECK_STR(model_table_at(t, i)->name, names[i]);
        CHECK_INT(model_table_at(t, i)->index, i);
        CHECK(model_table_find(t, names[i]) == model_table_at(t, i));
    }
    const struct model *r1 = model_table_find(t, "r1"), *both = model_table_find(t, "both");
    CHECK(model_table_find(t, "gpt-4") == r1 && model_table_find(t, "o1") == r1);
    CHECK(!model_table_find(t, "gpt-5") && !model_table_find(t, "") && !model_table_find(t, "r"));
    CHECK_INT(r1->n_chain, 2);
    CHECK(r1->chain[0] == model_table_find(t, "local") && r1->chain[1] == model_table_find(t, "api"));
    CHECK(r1->rule.when_full && r1->rule.after_ms == 2000 && r1->config->local_only);
    CHECK_INT(both->n_chain, 3);
    CHECK(both->chain[0] == both && !both->rule.when_full);
    CHECK_INT(model_table_find(t, "api")->n_chain, 1);
    CHECK(!model_table_find(t, "api")->config);
    model_table_free(t);
    config_free(c);
}

int main(void)
{
    TEST(leaves_when_the_rule_says);
    TEST(wakes_for_the_rule);
    TEST(names_and_chains);
    return TEST_RESULT();
}
