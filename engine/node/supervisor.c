#include "engine/node/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/args.h"
#include "engine/node/channel.h"
#include "engine/node/supervisor_internal.h"

#define EXIT_WAIT_MS     1000
#define SCRATCH_MAX      ((size_t)4 << 20)
#define RESERVE_LEAST_MS 1500
#define LONG_START       10   /* times as much silence before a worker's first word: it sets up its device */
#define DRAIN_REPLIES    2000 /* ms beyond the drain's deadline, until the worker is taken for stuck */

static void arm(struct event *timer, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    event_add(timer, &tv);
}

/* A worker that takes nothing more is gone or will be killed: its end is what counts. */
static void tell(struct supervisor *s, enum node_message type, const void *data, size_t n)
{
    if (s->channel)
        (void)!channel_send(s->channel, type, data, n, -1);
}

/* The time that has passed in this state, to whatever it is of. Awake, the worker counts. */
static void pass_time(const struct supervisor *s, struct node_counts *c)
{
    const uint64_t us = (uint64_t)(mono_since(s->o.clock, s->since) / NS_PER_US);
    switch (s->state) {
    case NODE_LOADING:
    case NODE_WAKING:
    case NODE_BACKOFF:
    case NODE_FAILED: c->boot_us += us; break;
    case NODE_ASLEEP:
    case NODE_ENDING:
    case NODE_ENDING_WANTED: c->asleep_us += us; break;
    default: break;
    }
}

struct node_counts supervisor_counts_now(const struct supervisor *s)
{
    const struct door_counts d = door_counts(s->door);
    struct node_counts c = s->counts;
    pass_time(s, &c);
    c.held = d.held;
    c.held_refused = d.refused;
    c.held_gone = d.gone;
    return c;
}

/* ---- the worker -------------------------------------------------------------------------------------------------- */

static void count_totals(struct supervisor *s, const struct serve_totals *of_worker)
{
    s->now = s->before;
    if (of_worker)
        serve_totals_add(&s->now, of_worker);
    else
        serve_totals_rest(&s->now);
}

static void worker_ready(struct supervisor *s, const struct node_card *card)
{
    s->card = *card;
    s->ready_at = clock_now(s->o.clock);
    if (s->wish_at.ns) {
        s->counts.wakes++;
        s->counts.wake_seconds = (double)(s->ready_at.ns - s->wish_at.ns) / NS_PER_S;
        log_info(s->o.log, SUPERVISOR_AREA, "woken up", LOG_S("model", s->o.model_id),
                 LOG_I("took_ms", (s->ready_at.ns - s->wish_at.ns) / NS_PER_MS),
                 LOG_I("held", door_counts(s->door).holding));
    }
    s->wish_at.ns = 0;
    supervisor_step(s, NODE_READY);
}

static void worker_asked(struct supervisor *s, const struct node_asked *a)
{
    if (a->what == NODE_ASKED_SLEEP)
        (void)supervisor_sleep(s);
    else
        supervisor_drain(s, "asked for by POST /drain", s->o.drain_ms / 1000, SUPERVISOR_THEN_WAIT);
}

static void on_message(const struct channel_message *m, void *arg)
{
    struct supervisor *s = arg;
    const void *d = m->data;
    bool ok = m->fd < 0 || m->type == MSG_BACK;
    s->heard = s->spoke = true;
    switch ((enum node_message)m->type) {
    case MSG_READY:
        if ((ok = ok && m->n == sizeof(struct node_card)))
            worker_ready(s, d);
        break;
    case MSG_UNLOADABLE:
        s->unloadable = true;
        snprintf(s->problem, sizeof s->problem, "%.*s", (int)m->n, (const char *)d);
        break;
    case MSG_TAKEN:
        if ((ok = ok && m->n == sizeof(struct node_passed)))
            door_taken(s->door, ((const struct node_passed *)d)->id);
        break;
    case MSG_BACK:
        if ((ok = m->fd >= 0))
            door_give(s->door, m->fd, d, m->n);
        break;
    case MSG_EMPTY:
        ok = ok && m->n == sizeof(struct node_round);
        if (ok && ((const struct node_round *)d)->round == s->round)
            supervisor_step(s, NODE_EMPTY);
        break;
    case MSG_WANTED: supervisor_step(s, NODE_REQUEST); break;
    case MSG_ASKED:
        if ((ok = ok && m->n == sizeof(struct node_asked)))
            worker_asked(s, d);
        break;
    case MSG_STATS:
        if ((ok = ok && m->n == sizeof(struct serve_totals)))
            count_totals(s, d);
        break;
    case MSG_ALIVE: break;
    default: ok = false;
    }
    if (ok)
        return;
    if (m->fd >= 0 && m->type != MSG_BACK)
        close(m->fd);
    log_error(s->o.log, SUPERVISOR_AREA, "a message from the worker that is none", LOG_I("message_type", m->type));
    if (s->child)
        child_kill(s->child);
}

/* Its process ends as well, or hangs about: then it is of no use. */
static void on_channel_closed(void *arg)
{
    struct supervisor *s = arg;
    channel_free(s->channel);
    s->channel = NULL;
    if (s->child && !s->told_to_end)
        arm(s->timer, NODE_END_MS);
}

/* Which event is it that the worker is gone? Counts crashes in a row. */
static enum node_event judge_end(struct supervisor *s, int status)
{
    bool sound = s->ready_at.ns && mono_since(s->o.clock, s->ready_at) >= NODE_SOUND_MS * NS_PER_MS;
    bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (s->told_to_end) {
        char how[sizeof s->problem];
        child_say_status(status, how, sizeof how);
        if (!well && !s->killed && s->state != NODE_DONE)
            log_warn(s->o.log, SUPERVISOR_AREA, "the worker did not end well", LOG_S("reason", how));
        if (WIFEXITED(status) && WEXITSTATUS(status) != 0 && !s->killed) /* who was killed owes nobody a good end */
            s->exit_code = ARGS_EXIT_FAILED;
        return NODE_GONE;
    }
    if (s->unloadable)
        return NODE_UNLOADABLE;
    s->crashes = sound ? 1 : s->crashes + 1;
    return s->crashes >= NODE_CRASHES_MAX ? NODE_LOOPING : NODE_GONE;
}

static void on_worker_ended(int status, void *arg)
{
    struct supervisor *s = arg;
    s->child = NULL;  /* freed by itself */
    if (s->channel) { /* its last words */
        channel_receive(s->channel);
        channel_free(s->channel);
        s->channel = NULL;
    }
    event_del(s->timer);
    event_del(s->watchdog);
    if (!s->unloadable && !s->told_to_end && !s->hung)
        child_say_status(status, s->problem, sizeof s->problem);
    enum node_event e = judge_end(s, status);
    if (!s->told_to_end)
        log_error(s->o.log, SUPERVISOR_AREA, "the worker ended by itself", LOG_S("model", s->o.model_id),
                  LOG_S("reason", s->problem), LOG_I("crashes_in_a_row", s->crashes));
    s->ready_at.ns = 0;
    serve_totals_rest(&s->now);
    s->before = s->now;
    supervisor_step(s, e);
    door_untaken(s->door);
}

static enum rc launch(struct supervisor *s, struct error *e)
{
    static const struct channel_handlers handlers = {on_message, on_channel_closed};
    int fds[2];
    enum rc rc = channel_pair(fds, e);
    if (rc)
        return rc;
    rc = child_start(&s->child, s->loop, s->o.worker_argv, fds[1], http_server_fd(s->http), on_worker_ended, s, e);
    close(fds[1]);
    if (rc) {
        close(fds[0]);
        return rc;
    }
    rc = channel_new(&s->channel, s->loop, fds[0], &handlers, s, e);
    if (rc) {
        child_free(s->child);
        s->child = NULL;
    }
    return rc;
}

static void start_worker(struct supervisor *s)
{
    struct error e = {0};
    s->unloadable = s->told_to_end = s->killed = s->heard = s->spoke = s->hung = false;
    s->silent_s = 0;
    event_del(s->timer);
    s->start_failed = launch(s, &e) != RC_OK;
    if (s->start_failed) {
        snprintf(s->problem, sizeof s->problem, "%s", e.message);
        arm(s->timer, 0);
        return;
    }
    if (s->o.watchdog_s > 0)
        event_add(s->watchdog, &(const struct timeval){.tv_sec = 1});
    struct node_begin begin = {.before = s->before, .counts = supervisor_counts_now(s)};
    tell(s, MSG_BEGIN, &begin, sizeof begin);
    log_info(s->o.log, SUPERVISOR_AREA, "worker started", LOG_S("model", s->o.model_id),
             LOG_I("pid", child_pid(s->child)), LOG_S("state", node_health(s->state)));
}

/* Once a second. Who was told to end has a deadline of his own. */
static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
    struct supervisor *s = arg;
    const int64_t most_s = s->spoke ? s->o.watchdog_s : s->o.watchdog_s * LONG_START;
    (void)fd, (void)what;
    s->silent_s = s->heard ? 0 : s->silent_s + 1;
    s->heard = false;
    if (!s->child || s->told_to_end || s->hung || s->silent_s <= most_s)
        return;
    s->hung = true;
    s->counts.hung++;
    snprintf(s->problem, sizeof s->problem, "hung: its loop did not answer for %d s, killed", s->silent_s);
    log_error(s->o.log, SUPERVISOR_AREA, "the worker hangs, killed", LOG_S("model", s->o.model_id),
              LOG_I("silent_s", s->silent_s), LOG_I("hung", (int64_t)s->counts.hung));
    child_kill(s->child);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void finish(void *arg)
{
    struct supervisor *s = arg;
    if (s->exiting)
        s->o.done(s->exit_code, s->o.done_arg);
    s->exiting = false;
}

static void on_exit_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    finish(arg);
}

/* The answers that are being written leave first. */
static void begin_exit(struct supervisor *s)
{
    s->exiting = true;
    door_set_mode(s->door, DOOR_SHUT);
    arm(s->exit_timer, EXIT_WAIT_MS);
    http_server_drain(s->http, finish, s);
}

/* ---- events and actions ------------------------------------------------------------------------------------------ */

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct supervisor *s = arg;
    (void)fd;
    (void)what;
    if (s->start_failed) { /* a worker that ended at once */
        s->start_failed = false;
        log_error(s->o.log, SUPERVISOR_AREA, "no worker could be started", LOG_S("reason", s->problem));
        supervisor_step(s, ++s->crashes >= NODE_CRASHES_MAX ? NODE_LOOPING : NODE_GONE);
        return;
    }
    if (!s->child) {
        supervisor_step(s, NODE_TIMER);
        return;
    }
    log_warn(s->o.log, SUPERVISOR_AREA, "the worker does not end, killed", LOG_S("model", s->o.model_id));
    child_kill(s->child);
}

static void tell_round(struct supervisor *s, enum node_message type)
{
    int64_t left = (s->cut_at.ns - clock_now(s->o.clock).ns) / NS_PER_MS;
    struct node_round r = {.round = ++s->round, .drain_ms = type == MSG_DRAIN && left > 0 ? left : 0};
    r.move_ms = s->moving ? r.drain_ms / 2 : 0;
    tell(s, type, &r, sizeof r);
    if (type == MSG_DRAIN && s->child)
        arm(s->timer, r.drain_ms + DRAIN_REPLIES + NODE_END_MS);
}

static void end_worker(struct supervisor *s, unsigned actions)
{
    if (!s->child)
        return;
    s->told_to_end = true;
    s->killed = actions & NODE_DO_KILL;
    if (s->killed)
        child_kill(s->child);
    else
        tell(s, MSG_END, NULL, 0);
    arm(s->timer, NODE_END_MS);
}

static void pass_on(struct supervisor *s)
{
    const struct node_counts counts = supervisor_counts_now(s);
    tell(s, MSG_AWAKE, &counts, sizeof counts);
    door_set_mode(s->door, DOOR_PASS);
}

static void back_off(struct supervisor *s)
{
    int64_t ms = node_backoff_ms(s->crashes);
    s->counts.restarts++;
    log_warn(s->o.log, SUPERVISOR_AREA, "the worker is started again", LOG_S("model", s->o.model_id),
             LOG_I("wait_ms", ms), LOG_I("restarts", (int64_t)s->counts.restarts));
    arm(s->timer, ms);
}

static void act(struct supervisor *s, unsigned actions)
{
    if (actions & NODE_DO_FRESH)
        s->crashes = 0;
    if (actions & NODE_DO_TELL_SLEEP)
        tell_round(s, MSG_SLEEP);
    if (actions & NODE_DO_TELL_DRAIN)
        tell_round(s, MSG_DRAIN);
    if (actions & (NODE_DO_TELL_END | NODE_DO_KILL))
        end_worker(s, actions);
    if (actions & NODE_DO_TAKE)
        door_set_mode(s->door, DOOR_TAKE);
    if (actions & NODE_DO_REFUSE)
        door_refuse(s->door);
    if (actions & NODE_DO_BACK_OFF)
        back_off(s);
    if (actions & NODE_DO_START)
        start_worker(s);
    if (actions & NODE_DO_PASS)
        pass_on(s);
    if (actions & NODE_DO_EXIT_FAILED)
        s->exit_code = ARGS_EXIT_FAILED;
    if (actions & (NODE_DO_EXIT | NODE_DO_EXIT_FAILED))
        begin_exit(s);
}

void supervisor_step(struct supervisor *s, enum node_event e)
{
    enum node_state was = s->state;
    struct node_step step = node_step(was, e);
    bool nobody_left = step.next == NODE_STOPPING && !s->child;
    if (nobody_left) {
        step.next = NODE_DONE;
        step.actions |= NODE_DO_EXIT;
    }
    pass_time(s, &s->counts);
    s->since = clock_now(s->o.clock);
    s->state = step.next;
    bool short_one = was == NODE_ENDING_WANTED && s->state == NODE_WAKING; /* its worker has gone, too */
    if ((s->state == NODE_ASLEEP && was != NODE_ASLEEP) || short_one)
        s->counts.sleeps++;
    if ((was == NODE_ASLEEP && s->state == NODE_WAKING) || s->state == NODE_ENDING_WANTED)
        s->wish_at = s->wish_at.ns ? s->wish_at : clock_now(s->o.clock);
    else if (s->state != NODE_WAKING && s->state != NODE_AWAKE) /* nobody wishes it any more, or it is about a crash */
        s->wish_at.ns = 0;
    if (s->state != was)
        log_info(s->o.log, SUPERVISOR_AREA, node_state_name(s->state), LOG_S("model", s->o.model_id),
                 LOG_S("was", node_state_name(was)), LOG_S("why", node_event_name(e)));
    act(s, step.actions);
    if (s->state != was && s->changed)
        s->changed(was, s->state, s->changed_arg);
}

/* ---- the door ---------------------------------------------------------------------------------------------------- */

static int unwrap(int fd, void *arg)
{
    return tls_relays_add(((struct supervisor *)arg)->relays, fd);
}

static void answer(int fd, const void *read, size_t n, void *arg)
{
    http_server_adopt(((struct supervisor *)arg)->http, fd, read, n);
}

static void held(void *arg)
{
    supervisor_step(arg, NODE_REQUEST);
}

static bool pass(uint64_t id, int fd, const void *read, size_t n, void *arg)
{
    struct supervisor *s = arg;
    int copy = s->channel ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (copy < 0)
        return false;
    struct node_passed *p = spw_malloc(sizeof *p + n);
    p->id = id;
    if (n)
        memcpy(p + 1, read, n);
    enum rc rc = channel_send(s->channel, MSG_TAKE, p, sizeof *p + n, copy);
    free(p);
    return rc == RC_OK;
}

/* Answered: whose it is next depends on what it asks for next. */
static void answered(int fd, const void *read, size_t n, void *arg)
{
    door_give(((struct supervisor *)arg)->door, fd, read, n);
}

/* ---- orders ------------------------------------------------------------------------------------------------------ */

const char *supervisor_sleep(struct supervisor *s)
{
    if (door_counts(s->door).holding == 0)
        supervisor_step(s, NODE_SLEEP);
    return node_sleep_state(s->state);
}

const char *supervisor_wake(struct supervisor *s)
{
    supervisor_step(s, NODE_WAKE);
    return node_sleep_state(s->state);
}

/* Of the time until a machine is taken away: what is left when its end is announced, its clock and ours being two. */
static int64_t before_the_end_ms(int64_t seconds)
{
    int64_t reserve_ms = seconds * 100;
    reserve_ms = reserve_ms < RESERVE_LEAST_MS ? RESERVE_LEAST_MS : reserve_ms;
    return seconds * 1000 > reserve_ms ? seconds * 1000 - reserve_ms : 0;
}

void supervisor_drain(struct supervisor *s, const char *why, int64_t seconds, unsigned then)
{
    int64_t most_ms = then & SUPERVISOR_TAKEN_AWAY ? before_the_end_ms(seconds) : s->o.drain_ms;
    int64_t ms = seconds * 1000 < most_ms ? seconds * 1000 : most_ms;
    struct mono at = {clock_now(s->o.clock).ns + (ms > 0 ? ms : 0) * NS_PER_MS};
    bool draining = s->state == NODE_DRAINING || s->state == NODE_STOPPING;
    if (!draining || at.ns < s->cut_at.ns)
        s->cut_at = at;
    s->moving = s->moving || (then & SUPERVISOR_TAKEN_AWAY);
    if (!draining || !*s->drain_why)
        snprintf(s->drain_why, sizeof s->drain_why, "%s", why);
    log_info(s->o.log, SUPERVISOR_AREA, "draining", LOG_S("model", s->o.model_id), LOG_S("why", why),
             LOG_I("wait_ms", supervisor_drain_left_ms(s)), LOG_B("ending", then & SUPERVISOR_THEN_END));
    supervisor_step(s, (then & SUPERVISOR_THEN_END) && s->state != NODE_STOPPING ? NODE_STOP : NODE_DRAIN);
}

void supervisor_stop_now(struct supervisor *s)
{
    supervisor_step(s, NODE_STOP);
    if (s->state == NODE_STOPPING)
        supervisor_step(s, NODE_STOP);
    finish(s);
}

enum rc supervisor_renewed(struct supervisor *s, struct error *e)
{
    if (!s->o.tls)
        return RC_OK;
    tell(s, MSG_REREAD, NULL, 0);
    return tls_door_reread(s->o.tls, e);
}

void supervisor_power(struct supervisor *s, const struct watts_reading *p, const struct nvml_state *gpus)
{
    const int are = (int)p->source;
    s->counts.watts_are = are;
    s->counts.watts = (double)p->milliwatts / 1e3;
    s->counts.joules = (double)p->millijoules / 1e3;
    s->counts.idle_joules = (double)p->idle_millijoules / 1e3;
    s->counts.gpu_memory_bytes = gpus->memory_bytes;
    s->counts.gpu_memory_used_bytes = gpus->memory_used_bytes;
    s->counts.gpu_sm_hz = gpus->sm_hz;
    s->counts.gpu_memory_hz = gpus->memory_hz;
    if (s->state != NODE_AWAKE || (!are && !gpus->memory_bytes)) /* others ask the supervisor itself */
        return;
    const struct node_counts counts = supervisor_counts_now(s);
    tell(s, MSG_AWAKE, &counts, sizeof counts); /* it stays awake */
}

/* ---- for others -------------------------------------------------------------------------------------------------- */

enum node_state supervisor_state(const struct supervisor *s)
{
    return s->state;
}

const struct serve_totals *supervisor_stats(const struct supervisor *s)
{
    return &s->now;
}

const struct node_card *supervisor_card(const struct supervisor *s)
{
    return &s->card;
}

struct node_counts supervisor_counts(const struct supervisor *s)
{
    return supervisor_counts_now(s);
}

const char *supervisor_problem(const struct supervisor *s)
{
    return s->problem;
}

int64_t supervisor_drain_left_ms(const struct supervisor *s)
{
    if (s->cut_at.ns == 0)
        return -1;
    int64_t left = (s->cut_at.ns - clock_now(s->o.clock).ns) / NS_PER_MS;
    return left > 0 ? left : 0;
}

void supervisor_watch(struct supervisor *s, void (*changed)(enum node_state was, enum node_state is, void *arg),
                      void *arg)
{
    s->changed = changed;
    s->changed_arg = arg;
}

int supervisor_port(const struct supervisor *s)
{
    return http_server_port(s->http);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static enum rc open_door(struct supervisor *s, struct error *e)
{
    static const struct http_server_handlers handlers = {.on_head = supervisor_on_head,
                                                         .on_request = supervisor_on_request};
    const struct http_server_options http = {.limits = http_limits_default};
    const struct http_letting_go go = {.take = answered, .arg = s};
    enum rc rc = http_server_new(&s->http, s->loop, s->o.listen_on, &http, &handlers, s, e);
    if (rc)
        return rc;
    if (s->o.tls)
        s->relays = tls_relays_new(s->loop, s->o.tls);
    http_server_accepting(s->http, HTTP_LEAVE);
    http_server_let_go(s->http, &go);
    const struct door_options door = {
        .listen_fd = http_server_fd(s->http),
        .hold_ms = s->o.hold_ms,
        .hold_max = s->o.hold_max,
        .unwrap = s->relays ? unwrap : NULL,
        .judge = supervisor_judge,
        .answer = answer,
        .held = held,
        .pass = pass,
        .arg = s,
    };
    return door_new(&s->door, s->loop, &door, e);
}

enum rc supervisor_new(struct supervisor **out, struct event_base *loop, const struct supervisor_options *o,
                       struct error *e)
{
    struct supervisor *s = spw_calloc(1, sizeof *s);
    s->o = *o;
    s->loop = loop;
    s->gate = (struct gate){.keys = o->keys, .node_key = o->node_key};
    strbuf_init(&s->scratch, SCRATCH_MAX);
    serve_totals_init(&s->before);
    serve_totals_init(&s->now);
    s->since = clock_now(o->clock);
    node_counts_init(&s->counts);
    s->timer = event_new(loop, -1, 0, on_timer, s);
    s->exit_timer = event_new(loop, -1, 0, on_exit_timer, s);
    s->watchdog = event_new(loop, -1, EV_PERSIST, on_watchdog, s);
    enum rc rc =
        s->timer && s->exit_timer && s->watchdog ? open_door(s, e) : error_set(e, RC_IO, "cannot make a timer");
    if (rc) {
        supervisor_free(s);
        return rc;
    }
    door_set_mode(s->door, DOOR_TAKE);
    start_worker(s);
    *out = s;
    return RC_OK;
}

void supervisor_free(struct supervisor *s)
{
    if (!s)
        return;
    child_free(s->child);
    channel_free(s->channel);
    if (s->http) /* before the door, which gets what it lets go of */
        http_server_free(s->http);
    door_free(s->door);
    tls_relays_free(s->relays);
    if (s->timer)
        event_free(s->timer);
    if (s->exit_timer)
        event_free(s->exit_timer);
    if (s->watchdog)
        event_free(s->watchdog);
    strbuf_fini(&s->scratch);
    free(s);
}
