#include "engine/node/agent.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/http_server.h"
#include "base/text.h"
#include "engine/model/model.h"
#include "engine/node/join.h"
#include "engine/node/notice.h"
#include "engine/node/state_dir.h"

#define AREA    "node"
#define POLL_MS 50

struct agent {
    struct agent_options o;
    struct event_base *loop;
    struct supervisor *supervisor; /* NULL: not yet */
    struct join_client *join;      /* NULL: it joins nobody */
    struct notice *notice;
    struct nvml *nvml;
    struct watts *watts;
    struct event *dead_man, *ending, *meter;
    char *model, *cap_file;
    int listener, port, lock_fd;
    bool taken;                /* the listener, by the supervisor */
    struct mono heard, end_by; /* ending: when to stop telling */
    char why[32];
    int64_t end_s;
    unsigned then;
    bool ordered, is_ending;
    /* for rates */
    struct mono beat_at;
    uint64_t tokens;
    double tokens_per_s;
    struct watts_reading power;
};

/* ---- its end ---------------------------------------------------------------------------------------------------- */

static void drain_and_end(struct agent *a)
{
    if (a->supervisor)
        supervisor_drain(a->supervisor, a->why, a->end_s, a->then);
}

static void on_ending(evutil_socket_t fd, short what, void *arg)
{
    struct agent *a = arg;
    const struct timeval tv = {.tv_usec = POLL_MS * 1000};
    (void)fd, (void)what;
    if (!a->join || join_client_told(a->join) || clock_now(a->o.clock).ns >= a->end_by.ns)
        drain_and_end(a);
    else
        event_add(a->ending, &tv);
}

void agent_end(struct agent *a, const char *why, int64_t seconds, unsigned then)
{
    if (a->is_ending)
        return;
    a->is_ending = true;
    a->end_s = seconds;
    a->then = then;
    text_put(a->why, a->why + sizeof a->why, why);
    a->end_by.ns = clock_now(a->o.clock).ns + AGENT_TELL_MS * NS_PER_MS;
    supervisor_drain(a->supervisor, why, seconds, SUPERVISOR_THEN_WAIT);
    if (a->join && strcmp(why, "dead_man") != 0)
        join_client_notice(a->join, why, seconds * 1000);
    on_ending(-1, 0, a);
}

bool agent_end_was_ordered(const struct agent *a)
{
    return a && a->ordered;
}

/* ---- notices ---------------------------------------------------------------------------------------------------- */

static void on_notice(const char *what, int64_t left_ms, void *arg)
{
    struct agent *a = arg;
    log_warn(a->o.log, AREA, "notice", LOG_S("what", what), LOG_I("left_ms", left_ms));
    if (a->join)
        join_client_notice(a->join, what, left_ms);
    if (!a->supervisor || strcmp(what, "rebalance") == 0)
        return;
    if (left_ms < 0)
        supervisor_drain(a->supervisor, what, a->o.drain_s, SUPERVISOR_THEN_WAIT);
    else
        supervisor_drain(a->supervisor, what, left_ms / 1000, SUPERVISOR_TAKEN_AWAY);
}

/* ---- the dead man's switch -------------------------------------------------------------------------------------- */

static void arm_dead_man(struct agent *a)
{
    int64_t ms = a->o.dead_man_ms - mono_since(a->o.clock, a->heard) / NS_PER_MS;
    ms = ms > 1 ? ms : 1;
    const struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    event_add(a->dead_man, &tv);
}

static void on_dead_man(evutil_socket_t fd, short what, void *arg)
{
    struct agent *a = arg;
    (void)fd, (void)what;
    if (mono_since(a->o.clock, a->heard) < a->o.dead_man_ms * NS_PER_MS) {
        arm_dead_man(a);
        return;
    }
    log_error(a->o.log, AREA, "nothing was heard of the scheduler for too long: this node ends",
              LOG_I("silent_ms", mono_since(a->o.clock, a->heard) / NS_PER_MS));
    a->ordered = true;
    if (a->supervisor)
        agent_end(a, "dead_man", a->o.drain_s, SUPERVISOR_THEN_END);
    else
        event_base_loopbreak(a->loop);
}

/* ---- membership ------------------------------------------------------------------------------------------------- */

static void on_heard(void *arg)
{
    struct agent *a = arg;
    a->heard = clock_now(a->o.clock);
}

/* From now on it may be shown. */
static void on_identity(void *arg)
{
    struct agent *a = arg;
    struct error e;
    if (a->supervisor && supervisor_renewed(a->supervisor, &e) != RC_OK)
        log_error(a->o.log, AREA, "the renewed certificate cannot be shown", LOG_S("error", e.message));
}

static void on_order(enum join_order what, void *arg)
{
    struct agent *a = arg;
    if (what == JOIN_ORDER_END)
        a->ordered = true;
    if (!a->supervisor) {
        if (what == JOIN_ORDER_END)
            event_base_loopbreak(a->loop);
        return;
    }
    switch (what) {
    case JOIN_ORDER_DRAIN:
        supervisor_drain(a->supervisor, "order of the scheduler", a->o.drain_s, SUPERVISOR_THEN_WAIT);
        break;
    case JOIN_ORDER_SLEEP: (void)supervisor_sleep(a->supervisor); break;
    case JOIN_ORDER_WAKE: (void)supervisor_wake(a->supervisor); break;
    case JOIN_ORDER_END: agent_end(a, "end", a->o.drain_s, SUPERVISOR_THEN_END); break;
    }
}

static void note_rate(struct agent *a, uint64_t tokens)
{
    const int64_t ns = mono_since(a->o.clock, a->beat_at);
    if (ns < NS_PER_S / 2)
        return;
    a->tokens_per_s = a->beat_at.ns && tokens >= a->tokens ? (double)(tokens - a->tokens) * NS_PER_S / (double)ns : 0;
    a->tokens = tokens;
    a->beat_at = clock_now(a->o.clock);
}

static void report_card(struct json_writer *w, const struct node_card *c)
{
    if (!c->numerics_class[0])
        return;
    json_string(w, "numerics", c->numerics_class);
    json_bool(w, "resume", true);
    json_int(w, "slots", c->n_slots);
    json_int(w, "context", c->n_ctx);
    json_int(w, "kv_tokens", c->kv_tokens);
}

static void report_power(struct json_writer *w, const struct watts_reading *p)
{
    json_string(w, "watts_are", watts_source_name(p->source));
    if (p->source == WATTS_UNKNOWN)
        return;
    json_int(w, "milliwatts", p->milliwatts);
    json_int(w, "millijoules", p->millijoules);
}

static void on_report(struct json_writer *w, void *arg)
{
    struct agent *a = arg;
    char rate[32];
    if (!a->supervisor) /* its first words: it is being started */
        return;
    const enum node_state state = supervisor_state(a->supervisor);
    const struct batcher_stats *b = &supervisor_stats(a->supervisor)->batcher;
    note_rate(a, b->generated_tokens);
    json_int(w, "running", b->running);
    json_int(w, "queue", b->waiting);
    if (b->pages_total > 0)
        json_int(w, "kv_free_tokens", (int64_t)b->pages_free * K_PAGE_TOKENS);
    snprintf(rate, sizeof rate, "%.3f", a->tokens_per_s);
    json_raw(w, "tokens_per_s", rate);
    json_string(w, "sleep", node_sleep_state(state));
    json_bool(w, "ready", node_health_status(state) == 200);
    json_bool(w, "draining", state == NODE_DRAINING || state == NODE_STOPPING);
    json_int(w, "restarts", (int64_t)supervisor_counts(a->supervisor).restarts);
    report_card(w, supervisor_card(a->supervisor));
    report_power(w, &a->power);
}

static void on_state(enum node_state was, enum node_state is, void *arg)
{
    struct agent *a = arg;
    (void)was, (void)is;
    if (a->join)
        join_client_beat_now(a->join);
}

/* ---- watts ------------------------------------------------------------------------------------------------------ */

static void on_meter(evutil_socket_t fd, short what, void *arg)
{
    struct agent *a = arg;
    (void)fd, (void)what;
    a->power = watts_read(a->watts, a->supervisor ? supervisor_stats(a->supervisor)->batcher.step_seconds : 0);
    const struct nvml_state gpus = nvml_state(a->nvml);
    if (a->supervisor)
        supervisor_power(a->supervisor, &a->power, &gpus);
}

static enum rc open_watts(struct agent *a, const struct agent_options *o, struct error *e)
{
    const struct timeval every = {AGENT_WATTS_MS / 1000, AGENT_WATTS_MS % 1000 * 1000};
    struct error why;
    const bool none = o->nvml_library && strcmp(o->nvml_library, "none") == 0;
    enum rc rc = none ? RC_NOT_FOUND : nvml_open(&a->nvml, o->nvml_library, &why);
    if (none)
        error_set(&why, RC_NOT_FOUND, "--nvml-library none");
    if (rc != RC_OK && o->power_cap_w)
        return error_set(e, rc, "--power-cap: %.300s", why.message);
    if (rc != RC_OK && rc != RC_NOT_FOUND)
        log_warn(o->log, AREA, "GPUs cannot be asked what they draw", LOG_S("reason", why.message));
    rc = a->nvml && a->lock_fd >= 0 ? nvml_uncap(a->nvml, a->cap_file, &why) : RC_NOT_FOUND;
    if (rc == RC_OK)
        log_warn(o->log, AREA, "power limits that an earlier run left were put back");
    else if (rc != RC_NOT_FOUND)
        log_error(o->log, AREA, "power limits that an earlier run left cannot be put back",
                  LOG_S("error", why.message));
    if (o->power_cap_w) {
        rc = nvml_cap(a->nvml, o->power_cap_w, a->cap_file, e);
        if (rc != RC_OK)
            return error_prefix(e, "--power-cap");
        log_info(o->log, AREA, "GPUs are capped", LOG_I("watts", o->power_cap_w), LOG_I("gpus", nvml_count(a->nvml)));
    }
    const struct watts_options w = {.rapl = o->rapl,
                                    .nvml = a->nvml,
                                    .idle_mw = o->idle_mw,
                                    .busy_mw = o->busy_mw,
                                    .log = o->log,
                                    .clock = o->clock};
    a->watts = watts_new(&w);
    a->meter = event_new(a->loop, -1, EV_PERSIST, on_meter, a);
    if (!a->meter || event_add(a->meter, &every) != 0)
        return error_set(e, RC_IO, "cannot make a timer");
    a->power = watts_read(a->watts, 0);
    return RC_OK;
}

/* Who keeps something there has it alone. Others look for limits that an earlier run left, and leave those alone that a
 * running one has. */
static enum rc lock_state(struct agent *a, const struct agent_options *o, struct error *e)
{
    a->cap_file = spw_asprintf("%s/power-cap", o->state_dir);
    const bool needed = o->join || o->power_cap_w;
    if (!needed && access(a->cap_file, F_OK) != 0)
        return RC_OK;
    enum rc rc = state_dir_lock(o->state_dir, &a->lock_fd, e);
    if (rc == RC_OK || needed)
        return rc;
    log_info(o->log, AREA, "power limits of another run are left alone", LOG_S("reason", e->message));
    return RC_OK;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static enum rc open_join(struct agent *a, const struct agent_options *o, struct error *e)
{
    const struct join_client_options j = {.url = o->join,
                                          .token_file = o->token_file,
                                          .state_dir = o->state_dir,
                                          .host = o->advertise,
                                          .model = a->model,
                                          .version = SPILLWAY_VERSION,
                                          .log = o->log,
                                          .clock = o->clock,
                                          .report = on_report,
                                          .identity = on_identity,
                                          .heard = on_heard,
                                          .order = on_order,
                                          .arg = a};
    char *unused = NULL;
    enum rc rc = http_listen(o->listen_on, HTTP_LISTEN_ALONE, &a->listener, &a->port, &unused, e);
    free(unused);
    if (rc == RC_OK)
        rc = join_client_new(&a->join, a->loop, &j, e);
    if (rc == RC_OK)
        join_client_start(a->join, a->port);
    return rc;
}

static enum rc open_notices(struct agent *a, const struct agent_options *o, struct error *e)
{
    const bool is_ec2 = strcmp(o->notices, "ec2") == 0;
    const struct notice_options n = {.url = is_ec2 ? NOTICE_EC2 : o->notices,
                                     .poll_ms = o->notice_ms,
                                     .log = o->log,
                                     .clock = o->clock,
                                     .notice = on_notice,
                                     .arg = a};
    if (strcmp(o->notices, "none") == 0)
        return RC_OK;
    enum rc rc = notice_new(&a->notice, a->loop, &n, e);
    return rc == RC_OK ? rc : error_prefix(e, "--notices");
}

enum rc agent_new(struct agent **out, struct event_base *loop, const struct agent_options *o, struct error *e)
{
    struct agent *a = spw_calloc(1, sizeof *a);
    a->o = *o;
    a->loop = loop;
    a->listener = a->lock_fd = -1;
    a->heard = clock_now(o->clock);
    a->model = spw_strdup(o->model);
    a->dead_man = event_new(loop, -1, 0, on_dead_man, a);
    a->ending = event_new(loop, -1, 0, on_ending, a);
    enum rc rc = a->dead_man && a->ending ? RC_OK : error_set(e, RC_IO, "cannot make a timer");
    if (rc == RC_OK)
        rc = lock_state(a, o, e);
    if (rc == RC_OK && o->join)
        rc = open_join(a, o, e);
    if (rc == RC_OK)
        rc = open_watts(a, o, e);
    if (rc == RC_OK)
        rc = open_notices(a, o, e);
    if (rc == RC_OK && o->dead_man_ms)
        arm_dead_man(a);
    if (rc == RC_OK)
        *out = a;
    else
        agent_free(a);
    return rc;
}

bool agent_may_serve(const struct agent *a)
{
    return !a->join || join_client_has_identity(a->join);
}

int agent_listener(const struct agent *a)
{
    return a->listener;
}

int agent_port(const struct agent *a)
{
    return a->port;
}

void agent_serve(struct agent *a, struct supervisor *s)
{
    a->supervisor = s;
    a->taken = true;
    supervisor_watch(s, on_state, a);
    if (a->join)
        join_client_beat_now(a->join);
}

void agent_free(struct agent *a)
{
    struct error e;
    if (!a)
        return;
    if (a->supervisor)
        supervisor_watch(a->supervisor, NULL, NULL);
    join_client_free(a->join);
    notice_free(a->notice);
    watts_free(a->watts);
    if (a->nvml && a->cap_file && a->o.power_cap_w) {
        enum rc rc = nvml_uncap(a->nvml, a->cap_file, &e);
        if (rc != RC_OK && rc != RC_NOT_FOUND)
            log_error(a->o.log, AREA, "power limits cannot be put back", LOG_S("error", e.message));
    }
    nvml_close(a->nvml);
    if (a->dead_man)
        event_free(a->dead_man);
    if (a->ending)
        event_free(a->ending);
    if (a->meter)
        event_free(a->meter);
    if (a->listener >= 0 && !a->taken)
        close(a->listener);
    if (a->lock_fd >= 0)
        close(a->lock_fd);
    free(a->model);
    free(a->cap_file);
    free(a);
}
