/* What is really there: every provider whose list is the truth is asked for all that carries our tag.
 *
 *   known by its token or name      its id is learned, if that was still open
 *   the same token a second time    a duplicate: ended
 *   unknown                         a stray: ended after capacity.stray_grace, so that somebody may adopt it
 *   ours, and not in the list       gone, if it was asked for long enough ago (lists lag) and does not answer */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "scheduler/capacity/fleet_internal.h"

#define LAG_MS 60000 /* lists of clouds are consistent after so long, at last */

static struct stray *find_stray(struct source *s, const char *id)
{
    for (int i = 0; i < s->n_strays; i++) {
        if (strcmp(s->strays[i].id, id) == 0)
            return &s->strays[i];
    }
    return NULL;
}

struct end_of_stray {
    struct fleet *fleet;
    struct source *source;
    char id[JOURNAL_ID_MAX], token[JOURNAL_TOKEN_MAX];
};

static void on_stray_ended(enum provider_failure failure, const char *text, void *arg)
{
    struct end_of_stray *end = arg;
    struct fleet *f = end->fleet;
    struct stray *stray = find_stray(end->source, end->id);
    if (failure == PROVIDER_FINE) {
        f->stats.strays++;
        log_warn(f->o.log, "capacity", "a stray instance was ended", LOG_S("provider", end->source->name),
                 LOG_S("id", end->id), LOG_S("token", end->token));
        if (stray)
            *stray = end->source->strays[--end->source->n_strays];
    } else {
        log_error(f->o.log, "capacity", "a stray instance could not be ended; it is tried again",
                  LOG_S("provider", end->source->name), LOG_S("id", end->id),
                  LOG_S("failure", provider_failure_name(failure)), LOG_S("reason", text));
        if (stray)
            stray->ending = false;
    }
    free(end);
}

static void end_stray(struct source *s, struct stray *stray)
{
    struct end_of_stray *end = spw_calloc(1, sizeof *end);
    end->fleet = s->fleet;
    end->source = s;
    snprintf(end->id, sizeof end->id, "%s", stray->id);
    snprintf(end->token, sizeof end->token, "%s", stray->token);
    stray->ending = s->ops->terminate_id && s->ops->terminate_id(s->provider, stray->id, on_stray_ended, end) == RC_OK;
    if (!stray->ending)
        free(end);
}

static void note_stray(struct source *s, const struct provider_instance *i, bool duplicate)
{
    struct fleet *f = s->fleet;
    const struct mono now = clock_now(f->o.clock);
    struct stray *stray = i->id ? find_stray(s, i->id) : NULL;
    if (!i->id || (!stray && s->n_strays == STRAYS_MAX)) /* the next sweep takes it, when others are gone */
        return;
    if (!stray) {
        stray = &s->strays[s->n_strays++];
        *stray = (struct stray){.first = now};
        snprintf(stray->id, sizeof stray->id, "%s", i->id);
        snprintf(stray->token, sizeof stray->token, "%s", i->token ? i->token : "");
        log_warn(f->o.log, "capacity",
                 duplicate ? "an instance is there twice" : "an instance with our tag is not known",
                 LOG_S("provider", s->name), LOG_S("id", stray->id), LOG_S("token", stray->token));
    }
    stray->seen = true;
    const int64_t grace_ms = duplicate ? 0 : f->config->capacity.stray_grace_ms;
    if (!stray->ending && now.ns - stray->first.ns >= grace_ms * NS_PER_MS)
        end_stray(s, stray);
}

static void on_listed(const struct provider_instance *i, void *arg)
{
    struct source *s = arg;
    struct member *m, *known = NULL;
    if (i->state == INSTANCE_GONE)
        return;
    TAILQ_FOREACH(m, &s->fleet->members, next)
    {
        const bool by_token = i->token && m->token[0] && strcmp(m->token, i->token) == 0;
        if (m->pool && m->pool->source == s && (by_token || (i->id && m->id[0] && strcmp(m->id, i->id) == 0)))
            known = m;
    }
    const bool other = known && known->id[0] && i->id && strcmp(known->id, i->id) != 0;
    if (known && !other)
        known->listed = true;
    if (i->state == INSTANCE_STOPPING) /* its end was asked for */
        return;
    if (!known || other) {
        note_stray(s, i, other);
        return;
    }
    if (known->life == LIFE_REQUESTED || known->life == LIFE_LOST) {
        launch_known(known, i);
        member_event(known, LIFE_LAUNCHED, "found in the provider's list");
    }
}

static bool is_missing(const struct member *m, const struct source *s)
{
    if (!m->pool || m->pool->source != s || !m->told || m->listed || m->life == LIFE_READY ||
        m->life == LIFE_DRAINING || m->life == LIFE_SLEEPING ||
        m->terminating) /* terminating: it will be told, and when */
        return false;
    const int64_t before_ms =
        (s->swept_at.ns - m->since.ns) / NS_PER_MS; /* it was so already when the list was asked for */
    return before_ms >= (m->life == LIFE_ENDING ? 0 : LAG_MS);
}

static void on_list_end(enum provider_failure failure, const char *text, void *arg)
{
    struct source *s = arg;
    struct fleet *f = s->fleet;
    struct member *m, *next;
    s->sweeping = false;
    snprintf(s->last_error, sizeof s->last_error, "%s", failure == PROVIDER_FINE ? "" : text);
    if (failure != PROVIDER_FINE) {
        f->stats.sweep_failures++;
        log_warn(f->o.log, "capacity", "what is there cannot be listed", LOG_S("provider", s->name),
                 LOG_S("failure", provider_failure_name(failure)), LOG_S("reason", text));
        return;
    }
    f->stats.sweeps++;
    for (int i = 0; i < s->n_strays; i++) {
        if (!s->strays[i].seen && !s->strays[i].ending)
            s->strays[i--] = s->strays[--s->n_strays];
    }
    for (m = TAILQ_FIRST(&f->members); m; m = next) {
        next = TAILQ_NEXT(m, next);
        if (is_missing(m, s))
            member_event(m, LIFE_OVER, "it is not in the provider's list");
    }
}

void sweep_source(struct source *s)
{
    struct member *m;
    if (s->sweeping || !(s->ops->caps & PROVIDER_IS_CLOUD) || s->fleet->stopping)
        return;
    TAILQ_FOREACH(m, &s->fleet->members, next)
    {
        if (m->pool && m->pool->source == s)
            m->listed = false;
    }
    for (int i = 0; i < s->n_strays; i++)
        s->strays[i].seen = false;
    s->sweeping = true;
    s->swept_at = clock_now(s->fleet->o.clock);
    s->ops->list(s->provider, on_listed, on_list_end, s);
}

void sweep_all(struct fleet *f)
{
    for (int i = 0; i < f->n_sources; i++)
        sweep_source(&f->sources[i]);
}
