/* Provider `static`: machines that are there whether we like it or not. Nothing to launch, nothing to end; the address
 * comes from the configuration. It watches those that it is told of (adopt) and switches them on and off (machine.h):
 * off only where their way back was proven. Each adopted machine is RUNNING, in the sense that it has an address;
 * whether it is on is asked by power_state. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "providers/machine.h"
#include "providers/provider.h"

struct item { /* one adopted machine */
    struct item *next;
    struct static_provider *provider;
    struct machine *machine;
    char *host; /* owned */
    int port;
    struct event *news; /* on_change is due */
};

struct power_asked { /* a power_state() or a refused power() that has not been answered */
    struct power_asked *next;
    struct static_provider *provider;
    provider_power_cb *power_cb;
    provider_done_cb *done_cb;
    void *arg;
    struct error why;
    struct event *timer; /* of a refusal: told on the loop */
};

struct static_provider {
    struct provider base;
    struct machine_env env;
    void (*on_change)(const struct provider_instance *i, void *arg);
    void *arg;
    char *state_dir, *name; /* owned */
    struct fetcher *fetcher;
    struct item *items;
    struct power_asked *asked;
};

static struct static_provider *self(const struct provider *p)
{
    SPW_ASSERT(p->ops == &provider_static);
    return (struct static_provider *)(uintptr_t)p;
}

static struct item *find(const struct static_provider *p, const char *name)
{
    for (struct item *i = p->items; i; i = i->next) {
        if (strcmp(machine_name(i->machine), name) == 0)
            return i;
    }
    return NULL;
}

static enum rc static_open(struct provider **out, const struct provider_env *env, struct error *e)
{
    struct static_provider *p = spw_calloc(1, sizeof(*p));
    p->base.ops = &provider_static;
    enum rc rc = fetcher_new(&p->fetcher, env->loop, e);
    if (rc != RC_OK) {
        free(p);
        return rc;
    }
    p->env = (struct machine_env){.loop = env->loop, .fetcher = p->fetcher, .clock = env->clock, .log = env->log};
    p->on_change = env->on_change;
    p->arg = env->arg;
    p->name = spw_strdup(env->name ? env->name : provider_static.name);
    p->state_dir = env->state_dir ? spw_strdup(env->state_dir) : NULL;
    *out = &p->base;
    return RC_OK;
}

static void item_free(struct item *i)
{
    machine_free(i->machine);
    event_free(i->news);
    free(i->host);
    free(i);
}

static void asked_free(struct power_asked *a)
{
    struct power_asked **link = &a->provider->asked;
    while (*link != a)
        link = &(*link)->next;
    *link = a->next;
    if (a->timer)
        event_free(a->timer);
    free(a);
}

static void static_close(struct provider *base)
{
    if (!base)
        return;
    struct static_provider *p = self(base);
    while (p->items) {
        struct item *i = p->items;
        p->items = i->next;
        item_free(i);
    }
    while (p->asked)
        asked_free(p->asked);
    fetcher_free(p->fetcher);
    free(p->name);
    free(p->state_dir);
    free(p);
}

/* ---- adoption --------------------------------------------------------------------------------------------------- */

static void on_news(evutil_socket_t fd, short what, void *arg)
{
    struct item *i = arg;
    struct static_provider *p = i->provider;
    (void)fd;
    (void)what;
    const struct provider_instance instance = {.name = machine_name(i->machine),
                                               .state = INSTANCE_RUNNING,
                                               .host = i->host,
                                               .port = i->port,
                                               .reason = "",
                                               .id = machine_name(i->machine)};
    if (p->on_change)
        p->on_change(&instance, p->arg);
}

static enum rc static_adopt(struct provider *base, const struct provider_spec *spec,
                            const struct provider_instance *known, struct error *e)
{
    struct static_provider *p = self(base);
    const struct timeval now = {0};
    const char *host = known ? known->host : NULL;
    int port = known && known->port ? known->port : spec->port;
    struct machine *m;
    if (find(p, spec->name))
        return error_set(e, RC_CONFLICT, "node '%s' is watched already", spec->name);
    char *path = p->state_dir ? spw_asprintf("%s/%s.%s.proof.json", p->state_dir, p->name, spec->name) : NULL;
    enum rc rc = machine_new(&m, &p->env, spec->name, spec->settings, host, port, path, e);
    free(path);
    if (rc != RC_OK)
        return error_prefix(e, "node '%s'", spec->name);
    struct item *i = spw_calloc(1, sizeof(*i));
    *i = (struct item){.next = p->items,
                       .provider = p,
                       .machine = m,
                       .host = host ? spw_strdup(host) : NULL,
                       .port = port,
                       .news = evtimer_new(p->env.loop, on_news, i)};
    SPW_ASSERT(i->news);
    p->items = i;
    event_add(i->news, &now);
    return RC_OK;
}

static void static_forget(struct provider *base, const char *name)
{
    struct static_provider *p = self(base);
    for (struct item **link = &p->items; *link; link = &(*link)->next) {
        struct item *i = *link;
        if (strcmp(machine_name(i->machine), name) != 0)
            continue;
        *link = i->next;
        item_free(i);
        return;
    }
}

/* ---- power ------------------------------------------------------------------------------------------------------ */

static struct power_asked *ask(struct static_provider *p, void *arg)
{
    struct power_asked *a = spw_calloc(1, sizeof(*a));
    *a = (struct power_asked){.next = p->asked, .provider = p, .arg = arg};
    p->asked = a;
    return a;
}

static enum provider_failure failure_of(enum rc rc)
{
    return rc == RC_DENIED ? PROVIDER_DENIED : rc == RC_AGAIN || rc == RC_FULL ? PROVIDER_THROTTLED : PROVIDER_INVALID;
}

static void on_refusal(evutil_socket_t fd, short what, void *arg)
{
    struct power_asked *a = arg, was = *a;
    (void)fd;
    (void)what;
    asked_free(a);
    if (was.done_cb)
        was.done_cb(failure_of(was.why.code), was.why.message, was.arg);
    if (was.power_cb)
        was.power_cb(failure_of(was.why.code), POWER_IS_UNKNOWN, was.why.message, was.arg);
}

/* A refusal comes on the loop like every other answer. */
static enum rc refuse(struct static_provider *p, const struct error *why, provider_done_cb *done,
                      provider_power_cb *power, void *arg)
{
    const struct timeval now = {0};
    struct power_asked *a = ask(p, arg);
    a->done_cb = done;
    a->power_cb = power;
    a->why = *why;
    a->timer = evtimer_new(p->env.loop, on_refusal, a);
    SPW_ASSERT(a->timer);
    event_add(a->timer, &now);
    return RC_OK;
}

static enum rc static_power(struct provider *base, const char *name, bool on, provider_done_cb *cb, void *arg)
{
    struct item *i = find(self(base), name);
    struct error e;
    if (!i)
        return RC_NOT_FOUND;
    enum rc rc = machine_power(i->machine, on, cb, arg, &e);
    return rc == RC_OK ? RC_OK : refuse(self(base), &e, cb, NULL, arg);
}

static void on_state(enum provider_failure failure, enum provider_power is, int64_t milliwatts, const char *text,
                     void *arg)
{
    struct power_asked *a = arg, was = *a;
    (void)milliwatts;
    asked_free(a);
    was.power_cb(failure, is, text, was.arg);
}

static enum rc static_power_state(struct provider *base, const char *name, provider_power_cb *cb, void *arg)
{
    struct static_provider *p = self(base);
    struct item *i = find(p, name);
    struct error e;
    if (!i)
        return RC_NOT_FOUND;
    struct power_asked *a = ask(p, arg);
    a->power_cb = cb;
    enum rc rc = machine_state(i->machine, on_state, a, &e);
    if (rc == RC_OK)
        return RC_OK;
    asked_free(a);
    return refuse(p, &e, NULL, cb, arg);
}

static enum rc static_prove(struct provider *base, const char *name, provider_done_cb *cb, void *arg)
{
    struct item *i = find(self(base), name);
    struct error e;
    if (!i)
        return RC_NOT_FOUND;
    enum rc rc = machine_prove(i->machine, cb, arg, &e);
    return rc == RC_OK ? RC_OK : refuse(self(base), &e, cb, NULL, arg);
}

static bool static_proven(const struct provider *base, const char *name)
{
    struct item *i = find(self(base), name);
    struct proof ignored;
    return i && machine_proven(i->machine, &ignored, NULL);
}

const struct provider_ops provider_static = {
    .name = "static",
    .caps = PROVIDER_CAN_POWER | PROVIDER_CAN_ADOPT,
    .node_keys = machine_keys,
    .open = static_open,
    .close = static_close,
    .adopt = static_adopt,
    .forget = static_forget,
    .power = static_power,
    .power_state = static_power_state,
    .prove = static_prove,
    .proven = static_proven,
};
