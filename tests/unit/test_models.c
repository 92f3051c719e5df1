/* When a request leaves its model for the next of the chain: every combination of what routing can say and what the
 * rule allows. And the table of models: names, aliases and chains as the configuration gives them, and what is shown of
 * them.
 * links: spw_sched_front */
#include "policies/fallback.h"
#include "scheduler/config/config.h"
#include "scheduler/front/model_page.h"
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
    config_free(c);
}

static struct model_facts facts_of(const struct config *c, int n)
{
    struct model_facts f = {0};
    for (int i = 0; i < n; i++)
        model_facts_add(&f, &c->nodes[i], &(struct node_card){.context = i ? 4096 : 8192, .resume = i > 0});
    return f;
}

static void pages_say_what_the_caller_may_have(void)
{
    struct config *c = parse("auth: off\n"
                             "nodes:\n"
                             "- {name: a, url: 'http://h:1', models: [local], price: {input: 0.1, output: 0.4}}\n"
                             "- {name: b, url: 'http://h:2', models: [api], local: false,\n"
                             "   price: {input: 0.55, cached_input: 0.14, output: 2.19}}\n"
                             "models:\n"
                             "- {name: r1, aliases: [gpt-4], fallbacks: [local, api], description: 'a \"b\"',\n"
                             "   owned_by: deepseek, capabilities: [reasoning], max_output: 100}\n");
    struct model_table *t = c ? model_table_new(c) : NULL;
    if (!t) {
        CHECK(!"a table");
        return;
    }
    const char *most[] = {"r1", "local"};
    struct identity all = {.tenant = "t"}, some = {.tenant = "t", .models = most, .n_models = 2},
                    none = {.tenant = "t", .models = most + 1, .n_models = 1},
                    home = {.tenant = "t", .local_only = true};
    const struct model *r1 = model_table_find(t, "r1"), *local = model_table_find(t, "local"),
                       *api = model_table_find(t, "api");
    CHECK(model_may_step(r1, local, &all) && model_may_step(r1, api, &all));
    CHECK(model_may_step(r1, local, &some) && !model_may_step(r1, api, &some));
    CHECK(!model_may_step(r1, local, &none) && model_may_step(local, local, &none));
    CHECK(model_stays_local(r1, local, &home) && !model_stays_local(r1, local, &all));

    struct strbuf out;
    struct model_facts f = facts_of(c, 2);
    strbuf_init(&out, 65536);
    CHECK_INT(model_page_write(r1, "gpt-4", &all, &f, 7, &out), RC_OK);
    CHECK_STR(out.data, "{\"id\":\"gpt-4\",\"object\":\"model\",\"created\":7,\"owned_by\":\"deepseek\","
                        "\"description\":\"a \\\"b\\\"\",\"alias_of\":\"r1\",\"aliases\":[\"gpt-4\"],"
                        "\"fallbacks\":[\"local\",\"api\"],\"context_length\":4096,\"max_output_tokens\":100,"
                        "\"local\":\"some\",\"capabilities\":[\"chat\",\"completions\",\"streaming\",\"continuation\","
                        "\"reasoning\"],\"pricing\":{\"currency\":\"USD\",\"unit\":\"1M tokens\",\"input\":\"0.10\","
                        "\"cached_input\":\"0.10\",\"output\":\"0.40\",\"at_most\":{\"input\":\"0.55\","
                        "\"cached_input\":\"0.14\",\"output\":\"2.19\"}}}");
    f = facts_of(c, 1);
    strbuf_clear(&out);
    CHECK_INT(model_page_write(r1, "r1", &some, &f, 7, &out), RC_OK);
    CHECK(strstr(out.data, "\"fallbacks\":[\"local\"]") && !strstr(out.data, "at_most") &&
          !strstr(out.data, "alias_of"));
    CHECK(strstr(out.data, "\"local\":\"all\"") && !strstr(out.data, "continuation"));
    strbuf_fini(&out);
    strbuf_init(&out, 40);
    CHECK_INT(model_page_write(r1, "r1", &some, &f, 7, &out), RC_FULL);
    strbuf_fini(&out);
    config_free(c);
}

int main(void)
{
    TEST(leaves_when_the_rule_says);
    TEST(wakes_for_the_rule);
    TEST(names_and_chains);
    TEST(pages_say_what_the_caller_may_have);
    return TEST_RESULT();
}
