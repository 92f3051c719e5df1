/* A provider at the end of a pipe, for tests in Python: commands a line on stdin, events a line of JSON on stdout.
 *   provider_cli TYPE OWNER KEY=VALUE... -- KEY=VALUE...      settings of the provider, then those of the pool
 *   launch NAME TOKEN OFFER...    adopt NAME ID|- TOKEN|-    terminate NAME    end ID    forget NAME
 *   list    offers    check    (end of input: closes)
 * links: spw_providers */
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/loop.h"
#include "providers/provider.h"

#define WORDS_MAX 64

struct cli {
    struct event_base *loop;
    struct provider *p;
    struct provider_pair own[64], pool[64];
    struct provider_settings own_settings, pool_settings;
    const char *owner;
};

static void put(struct strbuf *b, const char *key, const char *value)
{
    strbuf_printf(b, ",\"%s\":", key);
    if (value)
        json_append_string(b, value, strlen(value));
    else
        strbuf_puts(b, "null");
}

static void say(struct strbuf *b)
{
    printf("%s}\n", b->data);
    fflush(stdout);
    strbuf_fini(b);
}

static void event(struct strbuf *b, const char *name)
{
    strbuf_init(b, 1 << 16);
    strbuf_puts(b, "{\"event\":");
    json_append_string(b, name, strlen(name));
}

static void say_instance(const char *name, const struct provider_instance *i)
{
    struct strbuf b;
    char price[48];
    event(&b, name);
    put(&b, "name", i->name);
    put(&b, "state", provider_instance_state_name(i->state));
    put(&b, "host", i->host);
    put(&b, "reason", i->reason);
    put(&b, "failure", provider_failure_name(i->failure));
    put(&b, "id", i->id);
    put(&b, "token", i->token);
    put(&b, "offer", i->offer);
    put(&b, "pool", i->pool);
    put(&b, "price", pusd_format(i->price_hour, price, sizeof price));
    strbuf_printf(&b, ",\"port\":%d,\"launched\":%lld", i->port, (long long)i->launched_at_s);
    say(&b);
}

static void on_change(const struct provider_instance *i, void *arg)
{
    (void)arg;
    say_instance("change", i);
}

static void on_price(const char *offer, struct pusd price_hour, int64_t at_s, void *arg)
{
    struct strbuf b;
    char price[48];
    (void)arg;
    event(&b, "price");
    put(&b, "offer", offer);
    put(&b, "price", pusd_format(price_hour, price, sizeof price));
    strbuf_printf(&b, ",\"at\":%lld", (long long)at_s);
    say(&b);
}

static void on_listed(const struct provider_instance *i, void *arg)
{
    (void)arg;
    say_instance("listed", i);
}

static void on_offer(const struct provider_offer *o, void *arg)
{
    struct strbuf b;
    char price[48];
    (void)arg;
    event(&b, "offer");
    put(&b, "id", o->id);
    put(&b, "type", o->type);
    put(&b, "zone", o->zone);
    put(&b, "market", provider_market_name(o->market));
    put(&b, "price", pusd_format(o->price_hour, price, sizeof price));
    put(&b, "source", o->price_source);
    strbuf_printf(&b, ",\"launchable\":%s,\"cold_s\":%d,\"at\":%lld", o->launchable ? "true" : "false", o->cold_s,
                  (long long)o->price_at_s);
    say(&b);
}

static void on_check(const char *what, bool ok, const char *text, void *arg)
{
    struct strbuf b;
    (void)arg;
    event(&b, "check");
    put(&b, "what", what);
    put(&b, "text", text);
    strbuf_printf(&b, ",\"ok\":%s", ok ? "true" : "false");
    say(&b);
}

/* A copy that lives as long as we do: what a dropped callback would have freed is no leak. */
static void *kept(const char *word)
{
    static struct word {
        struct word *next;
        char text[80];
    } * words;
    struct word *w = spw_calloc(1, sizeof(*w));
    w->next = words;
    words = w;
    snprintf(w->text, sizeof w->text, "%s", word);
    return w->text;
}

static void done(enum provider_failure failure, const char *text, void *arg)
{
    struct strbuf b;
    event(&b, "done");
    put(&b, "of", arg);
    put(&b, "failure", provider_failure_name(failure));
    put(&b, "text", text);
    say(&b);
}

static void said(enum rc rc, const struct error *e, const char *command)
{
    if (rc != RC_OK) {
        struct strbuf b;
        event(&b, "refused");
        put(&b, "of", command);
        put(&b, "rc", rc_name(rc));
        put(&b, "text", e->message);
        say(&b);
    }
}

static const char *or_null(const char *word)
{
    return word && strcmp(word, "-") != 0 ? word : NULL;
}

static void command(struct cli *c, char **w, int n)
{
    const struct provider_ops *ops = c->p->ops;
    struct error e = {.message = ""};
    const struct provider_spec spec = {.name = n > 1 ? w[1] : NULL,
                                       .model_path = "/model.gguf",
                                       .token = n > 2 ? w[2] : NULL,
                                       .owner = c->owner,
                                       .pool = "pool",
                                       .offers = (const char *const *)w + 3,
                                       .n_offers = n - 3,
                                       .settings = &c->pool_settings,
                                       .join_url = getenv("JOIN_URL"),
                                       .join_token = getenv("JOIN_TOKEN")};
    if (strcmp(w[0], "launch") == 0 && n > 2) {
        said(ops->launch(c->p, &spec, &e), &e, w[0]);
    } else if (strcmp(w[0], "adopt") == 0 && n > 3) {
        const struct provider_instance known = {.id = or_null(w[2]), .token = or_null(w[3])};
        struct provider_spec adopted = spec;
        adopted.token = or_null(w[3]);
        said(ops->adopt(c->p, &adopted, &known, &e), &e, w[0]);
    } else if (strcmp(w[0], "terminate") == 0 && n > 1) {
        said(ops->terminate(c->p, w[1], 0, done, kept(w[1])), &e, w[0]);
    } else if (strcmp(w[0], "end") == 0 && n > 1) {
        said(ops->terminate_id(c->p, w[1], done, kept(w[1])), &e, w[0]);
    } else if (strcmp(w[0], "forget") == 0 && n > 1) {
        ops->forget(c->p, w[1]);
    } else if (strcmp(w[0], "list") == 0) {
        ops->list(c->p, on_listed, done, kept(w[0]));
    } else if (strcmp(w[0], "offers") == 0) {
        ops->offers(c->p, &c->pool_settings, on_offer, done, kept(w[0]));
    } else if (strcmp(w[0], "check") == 0) {
        ops->check(c->p, on_check, done, kept(w[0]));
    }
}

static void on_read(struct bufferevent *b, void *arg)
{
    char *line;
    while ((line = evbuffer_readln(bufferevent_get_input(b), NULL, EVBUFFER_EOL_LF))) {
        char *w[WORDS_MAX], *rest = line;
        int n = 0;
        for (char *word; n < WORDS_MAX && (word = strsep(&rest, " "));)
            w[n++] = word;
        command(arg, w, n);
        free(line);
    }
}

static void on_end(struct bufferevent *b, short what, void *arg)
{
    (void)b;
    (void)what;
    event_base_loopbreak(((struct cli *)arg)->loop);
}

static int take_pairs(char **argv, int n, struct provider_pair *pairs)
{
    int i;
    for (i = 0; i < n && i < 64 && strcmp(argv[i], "--") != 0; i++) {
        char *eq = strchr(argv[i], '=');
        SPW_ASSERT(eq);
        *eq = '\0';
        pairs[i] = (struct provider_pair){argv[i], eq + 1};
    }
    return i;
}

static int serve(struct cli *c, const struct provider_ops *ops)
{
    static const struct log log = {.fd = 2, .level = LOG_DEBUG, .clock = &clock_system, .program = "provider_cli"};
    struct provider_env env = {.loop = c->loop,
                               .log = &log,
                               .clock = &clock_system,
                               .name = ops->name,
                               .settings = &c->own_settings,
                               .owner = c->owner,
                               .on_change = on_change,
                               .on_price = on_price};
    struct error e;
    if (ops->open(&c->p, &env, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    struct bufferevent *in = bufferevent_socket_new(c->loop, 0, 0);
    evutil_make_socket_nonblocking(0);
    bufferevent_setcb(in, on_read, NULL, on_end, c);
    bufferevent_enable(in, EV_READ);
    event_base_dispatch(c->loop);
    bufferevent_free(in);
    ops->close(c->p);
    return 0;
}

int main(int argc, char **argv)
{
    static struct cli c;
    const struct provider_ops *ops = argc > 2 ? provider_find(argv[1]) : NULL;
    if (!ops)
        return 2;
    c.owner = argv[2];
    c.loop = loop_new();
    c.own_settings = (struct provider_settings){.keys = ops->keys, .pairs = c.own};
    c.own_settings.n = take_pairs(argv + 3, argc - 3, c.own);
    int rest = 3 + c.own_settings.n + 1;
    c.pool_settings = (struct provider_settings){.keys = ops->node_keys, .pairs = c.pool};
    if (rest < argc)
        c.pool_settings.n = take_pairs(argv + rest, argc - rest, c.pool);
    int status = serve(&c, ops);
    event_base_free(c.loop);
    return status;
}
