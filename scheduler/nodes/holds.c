/* What keeps a ready node from being sent anything: its breaker, or a cool-down that it asked for (policies/breaker.h),
 * and from some things, that it has no endpoint for them. And the budget of retries. All state is routing's, under the
 * lock; times that end are noticed by a timer on the table's loop, so that whoever waits goes on then. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler/nodes/nodes.h"

#define LACKS_US (INT64_C(60) * 1000000) /* an endpoint that was not there is asked for again after this */

void holds_configure(struct holds *h, const struct config *c)
{
    h->breaker = (struct breaker_spec){.failures = c->breaker_failures,
                                       .percent = c->breaker_percent,
                                       .volume = c->breaker_volume,
                                       .window_us = c->breaker_window_ms * 1000,
                                       .open_us = c->breaker_open_ms * 1000,
                                       .open_max_us = c->breaker_open_max_ms * 1000,
                                       .slow_us = c->breaker_slow_ms * 1000,
                                       .cool_us = c->cool_down_ms * 1000,
                                       .cool_max_us = c->cool_down_max_ms * 1000};
    h->retry = (struct retry_spec){.percent = c->retry_percent, .per_s = c->retry_per_s};
}

/* xorshift: it only spreads times. */
static uint32_t next_random(struct holds *h)
{
    h->random ^= h->random << 13;
    h->random ^= h->random >> 7;
    h->random ^= h->random << 17;
    return (uint32_t)(h->random >> 32);
}

int64_t nodes_now_us(const struct nodes *t)
{
    return clock_now(nodes_options(t)->clock).ns / NS_PER_US;
}

/* ---- what holds it ---------------------------------------------------------------------------------------------- */

enum node_hold node_hold_locked(const struct node *n, int64_t *wait_us)
{
    struct breaker_look look = breaker_look(&n->breaker, nodes_now_us(n->table));
    if (wait_us)
        *wait_us = look.wait_us;
    return look.word == BREAKER_BLOCKED ? HOLD_BREAKER : look.word == BREAKER_COOLING ? HOLD_COOLING : HOLD_NONE;
}

void node_hold_text_locked(const struct node *n, char *text, size_t size)
{
    int64_t us;
    enum node_hold hold = node_hold_locked(n, &us);
    text[0] = '\0';
    if (hold == HOLD_COOLING)
        snprintf(text, size, "cooling down: it asked to be left alone for %" PRId64 ".%" PRId64 " s more", us / 1000000,
                 us / 100000 % 10);
    else if (hold == HOLD_BREAKER && us)
        snprintf(text, size, "breaker open: %.100s; tried again in %" PRId64 ".%" PRId64 " s", n->breaker_reason,
                 us / 1000000, us / 100000 % 10);
    else if (n->breaker.state != BREAKER_CLOSED)
        snprintf(text, size, "breaker open: %.100s; %s", n->breaker_reason,
                 n->breaker.trial ? "one request tries it" : "the next request tries it");
}

/* A hold is over, by itself or by a request that went well. What the log calls open ends when the breaker is closed. */
static enum node_hold hold_to_tell(const struct node *n)
{
    if (n->breaker.state != BREAKER_CLOSED)
        return HOLD_BREAKER;
    return node_hold_locked(n, NULL) == HOLD_COOLING ? HOLD_COOLING : HOLD_NONE;
}

static void say(const struct node *n, enum node_hold before, enum node_hold now, const char *reason)
{
    const struct log *log = nodes_options(n->table)->log;
    if (now == HOLD_BREAKER)
        log_warn(log, "node", "breaker open", LOG_S("node", n->name), LOG_S("reason", reason));
    else if (now == HOLD_COOLING)
        log_info(log, "node", "cooling down", LOG_S("node", n->name), LOG_S("reason", reason));
    else if (before == HOLD_BREAKER)
        log_info(log, "node", "breaker closed", LOG_S("node", n->name));
    else
        log_info(log, "node", "cooled down", LOG_S("node", n->name));
}

static void on_hold_timer(evutil_socket_t fd, short what, void *arg)
{
    struct node *n = arg;
    const struct nodes_options *o = nodes_options(n->table);
    (void)fd;
    (void)what;
    node_tell(n);
    o->on_capacity(o->arg);
}

/* On the table's loop: when will what holds it now be over? */
static void watch_hold(void *arg)
{
    struct node *n = arg;
    const struct nodes_options *o = nodes_options(n->table);
    int64_t us;
    if (!node_is_there(n)) /* it has left while this was on its way: nobody would end its timer */
        return;
    pthread_mutex_lock(o->lock);
    enum node_hold hold = node_hold_locked(n, &us);
    pthread_mutex_unlock(o->lock);
    if (hold == HOLD_NONE || us == 0) { /* over already: this loop was late */
        on_hold_timer(-1, 0, n);
        return;
    }
    if (!n->hold_timer)
        n->hold_timer = evtimer_new(o->loop, on_hold_timer, n);
    us += 1000; /* not a moment too early */
    struct timeval tv = {.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    event_add(n->hold_timer, &tv);
}

void node_tell(struct node *n)
{
    const struct nodes_options *o = nodes_options(n->table);
    char reason[sizeof n->breaker_reason];
    pthread_mutex_lock(o->lock);
    enum node_hold before = n->told, now = hold_to_tell(n);
    int64_t us;
    bool timed = node_hold_locked(n, &us) != HOLD_NONE && us > 0;
    n->told = now;
    node_changed_locked(n); /* its time may be over */
    if (now == HOLD_BREAKER)
        snprintf(reason, sizeof reason, "%s", n->breaker_reason);
    else
        node_hold_text_locked(n, reason, sizeof reason);
    pthread_mutex_unlock(o->lock);
    if (now != before)
        say(n, before, now, reason);
    if (timed)
        mailbox_call(o->mail, watch_hold, n);
}

void node_hold_stop(struct node *n)
{
    if (n->hold_timer)
        event_free(n->hold_timer);
    n->hold_timer = NULL;
}

/* ---- legs ------------------------------------------------------------------------------------------------------- */

struct breaker_leg node_begin_locked(struct node *n)
{
    return breaker_begin(&n->breaker, nodes_now_us(n->table));
}

/* It has just opened: why? in_row: failures before this one. */
static void note_open(struct node *n, bool trial, int in_row, const char *reason)
{
    const struct breaker_spec *spec = &nodes_holds(n->table)->breaker;
    n->opened++;
    if (trial)
        snprintf(n->breaker_reason, sizeof n->breaker_reason, "it failed again: %s", reason);
    else if (spec->failures && in_row + 1 >= spec->failures)
        snprintf(n->breaker_reason, sizeof n->breaker_reason, "%d failures in a row, the last: %s", in_row + 1, reason);
    else
        snprintf(n->breaker_reason, sizeof n->breaker_reason, "%d%% of its answers failed, the last: %s", spec->percent,
                 reason);
}

static bool opened(struct node *n, const struct breaker *before, const char *reason)
{
    if (n->breaker.era == before->era || n->breaker.state != BREAKER_OPEN)
        return n->breaker.era != before->era;
    note_open(n, before->state == BREAKER_HALF_OPEN, before->in_row, reason);
    return true;
}

bool node_end_locked(struct node *n, const struct breaker_leg *leg, const struct leg_word *word)
{
    struct holds *h = nodes_holds(n->table);
    struct breaker before = n->breaker;
    int64_t now_us = nodes_now_us(n->table);
    if (word->cool) {
        breaker_cool(&n->breaker, &h->breaker, now_us, word->cool_us);
        n->cooled++;
    }
    breaker_end(&n->breaker, &h->breaker, leg, now_us, word->outcome, next_random(h));
    bool news = opened(n, &before, word->reason ? word->reason : "");
    return news || n->breaker.cool_until_us != before.cool_until_us;
}

bool node_spoke_locked(struct node *n, struct breaker_leg *leg, int64_t took_us)
{
    struct holds *h = nodes_holds(n->table);
    struct breaker before = n->breaker;
    node_changed_locked(n);
    breaker_spoke(&n->breaker, &h->breaker, leg, nodes_now_us(n->table), took_us, next_random(h));
    return opened(n, &before, "its first token came too late");
}

void node_forget_locked(struct node *n)
{
    breaker_reset(&n->breaker);
    memset(n->lacks_until_us, 0, sizeof n->lacks_until_us);
    node_changed_locked(n);
}

/* ---- endpoints that not every server has ------------------------------------------------------------------------- */

void node_lacks(struct node *n, enum request_kind kind)
{
    const struct nodes_options *o = nodes_options(n->table);
    pthread_mutex_lock(o->lock);
    n->lacks_until_us[kind] = nodes_now_us(n->table) + LACKS_US;
    nodes_holds(n->table)->lacking[kind] |= UINT64_C(1) << n->index;
    pthread_mutex_unlock(o->lock);
}

void node_has_locked(struct node *n, enum request_kind kind)
{
    n->lacks_until_us[kind] = 0;
}

uint64_t nodes_lacking_locked(struct nodes *t, enum request_kind kind, const char *model)
{
    uint64_t *known = &nodes_holds(t)->lacking[kind], lacking = 0;
    bool others = false;
    if (!*known)
        return 0;
    for (int i = 0; i < nodes_count(t); i++) {
        const struct node *n = nodes_at(t, i);
        if (n->lacks_until_us[kind] > nodes_now_us(t))
            lacking |= UINT64_C(1) << i;
        else
            others = others || (node_is_there(n) && node_serves(n, model));
    }
    *known = lacking;
    return others ? lacking : 0;
}

/* ---- retries ---------------------------------------------------------------------------------------------------- */

void retry_count_request_locked(struct nodes *t)
{
    retry_budget_request(&nodes_holds(t)->budget, nodes_now_us(t));
}

bool retry_take(struct nodes *t)
{
    struct holds *h = nodes_holds(t);
    pthread_mutex_lock(nodes_options(t)->lock);
    bool may = retry_budget_take(&h->budget, &h->retry, nodes_now_us(t));
    pthread_mutex_unlock(nodes_options(t)->lock);
    return may;
}
