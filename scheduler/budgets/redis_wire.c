/* Steps as commands of the script, and its replies. What the words mean is written in redis.lua. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/budgets/redis_internal.h"

#define VIEW_WORDS 8
#define KEEP_S     (INT64_C(40) * 86400)

/* A period's figures are needed until the next one is over, and are good to have for a while. */
int64_t keep_seconds(int64_t start_s, int64_t end_s)
{
    return 2 * (end_s - start_s) + KEEP_S;
}

static void put(struct wire *w, const char *s, size_t n)
{
    SPW_ASSERT(w->n < (int)(sizeof w->argv / sizeof w->argv[0]) && w->used + n < sizeof w->text);
    memcpy(w->text + w->used, s, n);
    w->argv[w->n] = w->text + w->used;
    w->lengths[w->n++] = n;
    w->used += n;
}

void wire_text(struct wire *w, const char *s)
{
    put(w, s, strlen(s));
}

void wire_int(struct wire *w, int64_t v)
{
    char text[TEXT_INT_MAX];
    const char *end = text_put_int(text, v);
    put(w, text, (size_t)(end - text));
}

static void own_key(struct wire *w, const char *epoch, const char *what, const char *instance)
{
    char text[sizeof REDIS_KEYS + EPOCH_BYTES + 16 + INSTANCE_BYTES];
    int n = snprintf(text, sizeof text, REDIS_KEYS "%s%s%s%s", epoch, epoch[0] ? ":" : "", what, instance);
    put(w, text, (size_t)n);
}

void wire_begin(struct wire *w, const char *sha, int n_keys, const char *epoch, const char *instance)
{
    w->n = 0;
    w->used = 0;
    wire_text(w, "EVALSHA");
    wire_text(w, sha);
    wire_int(w, 6 + n_keys);
    own_key(w, "", "epoch", "");
    own_key(w, "", "state", "");
    own_key(w, "", "instances", "");
    own_key(w, "", "rebuilding", "");
    own_key(w, epoch, "limits", "");
    own_key(w, epoch, "held:", instance);
}

void wire_key(struct wire *w, const char *epoch, const char *name, int64_t start_s)
{
    char text[sizeof REDIS_KEYS + EPOCH_BYTES + 32 + BUDGET_NAME_BYTES];
    int n = snprintf(text, sizeof text, REDIS_KEYS "%s:b:%" PRId64 ":%s", epoch, start_s, name);
    put(w, text, (size_t)n);
}

void wire_call(struct wire *w, const char *step, const char *epoch, const char *instance, const char *token)
{
    wire_text(w, step);
    wire_text(w, epoch);
    wire_text(w, instance);
    wire_text(w, token);
}

static void wire_ask(struct wire *w, const struct budget_ask *ask)
{
    static const int64_t exact = INT64_C(1) << 52; /* the script counts units in doubles */
    wire_int(w, ask->fixed.v);
    wire_int(w, ask->unit.v);
    wire_int(w, ask->units_min < exact ? ask->units_min : exact);
    wire_int(w, ask->units_want < exact ? ask->units_want : exact);
}

static void wire_own_words(struct wire *w, const struct step *s)
{
    switch (s->kind) {
    case STEP_RESERVE:
        wire_text(w, s->id);
        wire_ask(w, &s->ask);
        break;
    case STEP_EXTEND:
        wire_text(w, s->id);
        wire_int(w, s->sequence);
        wire_ask(w, &s->ask);
        break;
    case STEP_SETTLE:
        wire_text(w, s->id);
        wire_int(w, s->a.v);
        break;
    case STEP_READ: break;
    case STEP_TOPUP:
        wire_text(w, s->id);
        wire_int(w, s->a.v);
        wire_text(w, "86400");
        break;
    case STEP_SET:
        wire_int(w, s->a.v);
        wire_int(w, s->b.v);
        break;
    case STEP_LEASE:
        wire_text(w, s->id);
        wire_int(w, s->sequence);
        wire_int(w, s->a.v);
        wire_int(w, s->b.v);
        break;
    }
}

void wire_step(struct wire *w, const struct step *s)
{
    static const char *const names[] = {"reserve", "extend", "settle", "read", "topup", "set", "lease"};
    const struct redis_port *p = s->port;
    wire_begin(w, p->sha, 2 * s->n, p->epoch, p->instance);
    for (int i = 0; i < s->n; i++) {
        const struct budget_claim *c = &s->claims[i].c;
        wire_key(w, p->epoch, c->name, c->start_s);
        wire_key(w, p->epoch, c->name, c->before_start_s);
    }
    wire_call(w, names[s->kind], p->epoch, p->instance, p->token);
    wire_own_words(w, s);
    for (int i = 0; i < s->n; i++) {
        const struct budget_claim *c = &s->claims[i].c;
        wire_text(w, c->name);
        wire_int(w, keep_seconds(c->start_s, c->end_s));
        wire_int(w, c->limits.hard.v);
        wire_int(w, c->soft.v);
        wire_int(w, c->limits.carry_max.v);
    }
}

/* ---- replies ---------------------------------------------------------------------------------------------------- */

const char *reply_text(const redisReply *r, size_t i)
{
    if (!r || r->type != REDIS_REPLY_ARRAY || i >= r->elements || r->element[i]->type != REDIS_REPLY_STRING)
        return "";
    return r->element[i]->str;
}

bool reply_is(const redisReply *r, const char *word)
{
    return strcmp(reply_text(r, 0), word) == 0;
}

/* Figures beyond int64 (many unlimited amounts) are told as its ends, like those of policies/budget.h. */
int64_t reply_int(const redisReply *r, size_t i)
{
    return strtoll(reply_text(r, i), NULL, 10);
}

bool reply_views(const redisReply *r, size_t from, int n, struct budget_view *views)
{
    if (!r || r->type != REDIS_REPLY_ARRAY || r->elements < from + (size_t)n * VIEW_WORDS)
        return false;
    for (int i = 0; i < n; i++) {
        int64_t v[VIEW_WORDS];
        for (int k = 0; k < VIEW_WORDS; k++)
            v[k] = reply_int(r, from + (size_t)(i * VIEW_WORDS + k));
        views[i] = (struct budget_view){.state = {.spent = {v[0]},
                                                  .waste = {v[1]},
                                                  .reserved = {v[2]},
                                                  .carried_in = {v[3]},
                                                  .carried_out = {v[4]},
                                                  .topped_up = {v[5]}},
                                        .hard = {v[6]},
                                        .soft = {v[7]}};
    }
    return true;
}
