/* Proves that every difference between two configurations is told, once, by name, and nothing else is; that no secret
 * is part of it; that what needs a restart is named and kept; and that a configuration lives as long as anybody holds
 * it.
 * links: spw_sched_config */
#include "tests/unit/test.h"

#include <stdlib.h>

#include "scheduler/config/change.h"

static struct config *parse(const char *text)
{
    struct strbuf problems;
    struct config *c = NULL;
    strbuf_init(&problems, 1 << 16);
    if (config_parse(&c, text, strlen(text), "f.yaml", &problems) != RC_OK)
        fprintf(stderr, "%s\n", problems.data);
    strbuf_fini(&problems);
    return c;
}

static void note(const struct config_change *c, void *arg)
{
    (void)strbuf_printf(arg, "%s%s%s %s%s%s%s; ", c->list ? c->list : "", c->list ? " " : "", c->name,
                        config_change_name(c->kind), c->keys[0] ? " " : "", c->keys,
                        c->needs_restart ? " RESTART" : "");
}

/* Borrowed until the next call. */
static const char *changes(const struct config *from, const struct config *to)
{
    static struct strbuf out;
    strbuf_fini(&out);
    strbuf_init(&out, 1 << 16);
    config_changes(from, to, note, &out);
    return out.data ? out.data : "";
}

#define HASH(c)          c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c
#define NODE(name, rest) "  - {name: " name ", url: \"http://h:1\", models: [m]" rest "}\n"
#define KEY(id, hash)    "  - {id: " id ", sha256: " hash ", tenant: t}\n"

static void nothing_is_nothing(void)
{
    struct config *a = parse("nodes:\n" NODE("a", "") NODE("b", "") "keys:\n" KEY("k", HASH("ab")));
    struct config *b =
        parse("# moved\n\n\nkeys:\n" KEY("k", HASH("ab")) "log: {level: info}\nnodes:\n" NODE("b", "") NODE("a", ""));
    CHECK_STR(changes(a, b), "");
    CHECK(!config_list_differs(a, b, "nodes") && !config_settings_differ(a, b, ""));
    config_free(a);
    config_free(b);
}

static void all_is_told(void)
{
    struct config *a = parse("listen: 127.0.0.1:1\ndrain: 1s\nauth: off\nnodes:\n" NODE("gone", "") NODE(
        "b", ", slots: 3") NODE("same", ", price: {input: 1}") "keys:\n" KEY("k", HASH("ab")));
    struct config *b = parse("listen: 127.0.0.1:2\ndrain: 2s\nauth: keys\nnodes:\n" NODE("same", ", price: {input: 1}")
                                 NODE("b", ", slots: 4, price: {input: 2}, local: false")
                                     NODE("come", "") "keys:\n" KEY("k", HASH("cd")));
    CHECK_STR(changes(a, b), "listen changed RESTART; auth.mode changed; drain changed; "
                             "nodes b changed local, slots, price.input, price.cached_input; nodes come added; "
                             "nodes gone removed; keys k changed sha256; ");
    CHECK_INT(config_changes(a, b, NULL, NULL), 7);
    CHECK(config_list_differs(a, b, "keys") && !config_list_differs(a, b, "auth.issuers"));
    CHECK(config_settings_differ(a, b, "auth.") && !config_settings_differ(a, b, "routing."));
    config_free(a);
    config_free(b);
}

static void what_needs_a_restart_stays(void)
{
    struct config *a = parse("listen: 127.0.0.1:1\ndrain: 1s\nstate_dir: /x\nnodes:\n" NODE("a", ""));
    struct config *b = parse("listen: 127.0.0.1:2\ndrain: 2s\nstate_dir: /y\nnodes:\n" NODE("a", ""));
    config_keep(b, a);
    CHECK_STR(changes(a, b), "drain changed; ");
    config_free(a); /* copied, not borrowed */
    CHECK_STR(b->listen, "127.0.0.1:1");
    CHECK_STR(b->state_dir, "/x");
    CHECK_STR(b->ledger_path, "/x/ledger.db");
    CHECK_INT(b->drain_ms, 2000);
    config_free(b);
}

static void a_node_is_the_same_or_another(void)
{
    struct config *c = parse("nodes:\n" NODE("a", "") NODE(
        "b",
        ", slots: 9, local: false, watts: 4, continue: prefix") "  - {name: c, url: \"http://h:2\", models: [m]}\n");
    CHECK(!config_node_same(&c->nodes[0], &c->nodes[1])); /* it has another name */
    c->nodes[1].name = c->nodes[2].name = c->nodes[0].name;
    CHECK(config_node_same(&c->nodes[0], &c->nodes[1]));
    CHECK(!config_node_same(&c->nodes[0], &c->nodes[2]));
    config_free(c);
}

static void it_lives_as_long_as_it_is_held(void)
{
    struct config *c = parse("nodes:\n" NODE("a", "")), *mine = config_ref(c);
    CHECK(mine == c);
    config_free(c);
    CHECK_STR(mine->nodes[0].name, "a");
    config_free(mine);
    config_free(NULL);
}

int main(void)
{
    TEST(nothing_is_nothing);
    TEST(all_is_told);
    TEST(what_needs_a_restart_stays);
    TEST(a_node_is_the_same_or_another);
    TEST(it_lives_as_long_as_it_is_held);
    return TEST_RESULT();
}
