#include "scheduler/front/model_page.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"

bool model_may_step(const struct model *asked, const struct model *step, const struct identity *who)
{
    return identity_may_use(who, asked->name) && (step == asked || identity_may_use(who, step->name));
}

bool model_stays_local(const struct model *asked, const struct model *step, const struct identity *who)
{
    return who->local_only || (asked->config && asked->config->local_only) ||
           (step->config && step->config->local_only);
}

static void widen(struct price *low, struct price *high, struct price p, bool first)
{
    if (first || p.uusd_per_mtok < low->uusd_per_mtok)
        *low = p;
    if (first || p.uusd_per_mtok > high->uusd_per_mtok)
        *high = p;
}

void model_facts_add(struct model_facts *f, const struct config_node *node, const struct node_card *card)
{
    const struct token_prices *p = &node->prices;
    bool first = f->nodes++ == 0;
    f->local_nodes += node->local;
    if (card->context && (!f->context || card->context < f->context))
        f->context = card->context;
    widen(&f->lowest.input, &f->highest.input, p->input, first);
    widen(&f->lowest.cached_input, &f->highest.cached_input, p->cached_input, first);
    widen(&f->lowest.output, &f->highest.output, p->output, first);
    f->continues = f->continues || card->resume || node->continue_by == CONTINUE_PREFIX;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* RC_FULL sticks. */
struct page {
    struct strbuf *out;
    enum rc rc;
};

static void put(struct page *p, const char *text)
{
    if (p->rc == RC_OK)
        p->rc = strbuf_puts(p->out, text);
}

static void put_string(struct page *p, const char *text)
{
    if (p->rc == RC_OK)
        p->rc = json_append_string(p->out, text, strlen(text));
}

static void put_text(struct page *p, const char *key, const char *text)
{
    put(p, ",\"");
    put(p, key);
    put(p, "\":");
    put_string(p, text);
}

static void put_number(struct page *p, const char *key, int64_t v)
{
    if (p->rc == RC_OK)
        p->rc = v ? strbuf_printf(p->out, ",\"%s\":%" PRId64, key, v) : strbuf_printf(p->out, ",\"%s\":null", key);
}

struct list {
    struct page *page;
    bool first;
};

static struct list list_begin(struct page *p, const char *key)
{
    put(p, ",\"");
    put(p, key);
    put(p, "\":[");
    return (struct list){p, true};
}

static void list_put(struct list *l, const char *word)
{
    if (!l->first)
        put(l->page, ",");
    l->first = false;
    put_string(l->page, word);
}

static void put_prices(struct page *p, const struct token_prices *t)
{
    char input[48], cached[48], output[48];
    if (p->rc == RC_OK)
        p->rc = strbuf_printf(p->out, "\"input\":\"%s\",\"cached_input\":\"%s\",\"output\":\"%s\"",
                              price_format(t->input, input, sizeof input),
                              price_format(t->cached_input, cached, sizeof cached),
                              price_format(t->output, output, sizeof output));
}

static bool same_prices(const struct token_prices *a, const struct token_prices *b)
{
    return a->input.uusd_per_mtok == b->input.uusd_per_mtok &&
           a->cached_input.uusd_per_mtok == b->cached_input.uusd_per_mtok &&
           a->output.uusd_per_mtok == b->output.uusd_per_mtok;
}

static void put_pricing(struct page *p, const struct model_facts *f)
{
    put(p, ",\"pricing\":{\"currency\":\"USD\",\"unit\":\"1M tokens\",");
    put_prices(p, &f->lowest);
    if (!same_prices(&f->lowest, &f->highest)) {
        put(p, ",\"at_most\":{");
        put_prices(p, &f->highest);
        put(p, "}");
    }
    put(p, "}");
}

static void put_names(struct page *p, const struct model *m, const char *id, const struct identity *who)
{
    const struct config_model *c = m->config;
    if (strcmp(id, m->name) != 0)
        put_text(p, "alias_of", m->name);
    struct list aliases = list_begin(p, "aliases");
    for (int i = 0; c && i < c->n_aliases; i++)
        list_put(&aliases, c->aliases[i]);
    put(p, "]");
    struct list fallbacks = list_begin(p, "fallbacks");
    for (int i = 0; i < m->n_chain; i++) {
        if (m->chain[i] != m && model_may_step(m, m->chain[i], who))
            list_put(&fallbacks, m->chain[i]->name);
    }
    put(p, "]");
}

static void put_capabilities(struct page *p, const struct model *m, const struct model_facts *f)
{
    struct list l = list_begin(p, "capabilities");
    list_put(&l, "chat");
    list_put(&l, "completions");
    list_put(&l, "streaming");
    if (f->continues)
        list_put(&l, "continuation");
    for (int i = 0; m->config && i < m->config->n_capabilities; i++)
        list_put(&l, m->config->capabilities[i]);
    put(p, "]");
}

enum rc model_page_write(const struct model *m, const char *id, const struct identity *who, const struct model_facts *f,
                         int64_t created_s, struct strbuf *out)
{
    const struct config_model *c = m->config;
    struct page p = {.out = out};
    put(&p, "{\"id\":");
    put_string(&p, id);
    if (p.rc == RC_OK)
        p.rc = strbuf_printf(out, ",\"object\":\"model\",\"created\":%" PRId64, created_s);
    put_text(&p, "owned_by", c ? c->owned_by : "spillway");
    if (c && c->description)
        put_text(&p, "description", c->description);
    put_names(&p, m, id, who);
    put_number(&p, "context_length", c && c->context ? c->context : f->context);
    put_number(&p, "max_output_tokens", c ? c->max_output : 0);
    put_text(&p, "local", f->local_nodes == f->nodes ? "all" : f->local_nodes ? "some" : "none");
    put_capabilities(&p, m, f);
    put_pricing(&p, f);
    put(&p, "}");
    return p.rc;
}
