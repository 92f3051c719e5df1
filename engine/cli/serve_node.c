/* The supervisor's process: listens, keeps a worker, understands signals. The first SIGTERM or SIGINT drains and ends,
 * a second one ends at once. */
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "engine/cli/serve.h"
#include "engine/node/agent.h"
#include "engine/node/child.h"
#include "engine/node/supervisor.h"

#define FILES_WANTED 65536 /* descriptors: each connection is one */
#define WORKER_FLAGS 6

struct node {
    const struct serve_args *a;
    struct serve_common c;
    const char **worker_argv; /* owned; what it points to is not */
    char channel_fd[12], listener_fd[12];
    struct event_base *loop;
    struct event *on_term, *on_int, *on_hup;
    struct supervisor *supervisor;
    struct agent *agent;
    struct log early; /* before c is there */
    char fd_address[24];
    bool signalled, over;
    int exit_code;
};

static void on_done(int exit_code, void *arg)
{
    struct node *n = arg;
    n->exit_code = exit_code;
    n->over = true;
    event_base_loopbreak(n->loop);
}

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct node *n = arg;
    const char *name = number == SIGTERM ? "SIGTERM" : "SIGINT";
    (void)what;
    log_info(n->supervisor ? &n->c.log : &n->early, SERVE_AREA, "signal received", LOG_S("signal", name));
    if (n->signalled && n->supervisor)
        supervisor_stop_now(n->supervisor);
    else if (n->supervisor)
        agent_end(n->agent, "signal", n->a->notice_s ? n->a->notice_s : n->a->drain_s,
                  n->a->notice_s ? SUPERVISOR_THEN_END | SUPERVISOR_TAKEN_AWAY : SUPERVISOR_THEN_END);
    else
        on_done(0, n); /* it waits to be let in */
    n->signalled = true;
}

static void on_hangup(evutil_socket_t number, short what, void *arg)
{
    struct node *n = arg;
    struct error e = {0};
    (void)number;
    (void)what;
    if (!n->supervisor)
        return;
    if (supervisor_renewed(n->supervisor, &e))
        log_error(&n->c.log, SERVE_AREA, "the certificate cannot be read again; the old one is shown",
                  LOG_S("error", e.message));
    else
        log_info(&n->c.log, SERVE_AREA, "certificate read again", LOG_B("tls", n->c.tls != NULL));
}

/* The same command line again, and where its two descriptors are. */
static void make_worker_argv(struct node *n, int argc, char **argv)
{
    snprintf(n->channel_fd, sizeof n->channel_fd, "%d", CHILD_CHANNEL_FD);
    snprintf(n->listener_fd, sizeof n->listener_fd, "%d", CHILD_LISTENER_FD);
    const char *const first[WORKER_FLAGS] = {"spillway-engine", "serve",         "--worker-fd",
                                             n->channel_fd,     "--listener-fd", n->listener_fd};
    n->worker_argv = spw_calloc((size_t)argc + WORKER_FLAGS + 1, sizeof *n->worker_argv);
    for (int i = 0; i < WORKER_FLAGS; i++)
        n->worker_argv[i] = first[i];
    for (int i = 0; i < argc; i++)
        n->worker_argv[WORKER_FLAGS + i] = argv[i];
}

static enum rc heed_signals(struct node *n, struct error *e)
{
    /* What the events restore when they are freed: a late second signal must not turn a clean end into a killed one. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    n->on_term = evsignal_new(n->loop, SIGTERM, on_signal, n);
    n->on_int = evsignal_new(n->loop, SIGINT, on_signal, n);
    n->on_hup = evsignal_new(n->loop, SIGHUP, on_hangup, n);
    if (!n->on_term || !n->on_int || !n->on_hup || event_add(n->on_term, NULL) || event_add(n->on_int, NULL) ||
        event_add(n->on_hup, NULL))
        return error_set(e, RC_IO, "cannot handle signals");
    return RC_OK;
}

/* Who listens at one address alone is reached there, wherever his calls come from; NULL: at all, or on this host. */
static const char *reached_at(const struct serve_args *a)
{
    static const char *const others[] = {"0.0.0.0", "::", "[::]", "localhost", "127.0.0.1", "::1", "[::1]"};
    if (a->advertise)
        return a->advertise;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (strcmp(a->host, others[i]) == 0)
            return NULL;
    }
    return a->host[0] == '[' ? NULL : a->host;
}

static enum rc open_agent(struct node *n, struct error *e)
{
    char model[128], listen_on[300];
    struct agent_options o = {.join = n->a->join,
                              .token_file = n->a->token_file,
                              .state_dir = n->a->state_dir,
                              .advertise = reached_at(n->a),
                              .model = model,
                              .listen_on = listen_on,
                              .notices = n->a->notices,
                              .notice_ms = n->a->notice_poll_s * 1000,
                              .drain_s = n->a->drain_s,
                              .power_cap_w = n->a->power_cap,
                              .nvml_library = n->a->nvml,
                              .rapl = n->a->rapl,
                              .log = &n->early,
                              .clock = &clock_system};
    const bool v6 = strchr(n->a->host, ':') && n->a->host[0] != '[';
    serve_model_name(n->a, model, sizeof model);
    snprintf(listen_on, sizeof listen_on, v6 ? "[%s]:%d" : "%s:%d", n->a->host, (int)n->a->port);
    if (n->a->dead_man && (text_parse_duration_ms(n->a->dead_man, &o.dead_man_ms) != RC_OK || !n->a->join))
        return error_set(e, RC_INVALID, "--dead-man: a duration, as in 10m, and only with --join");
    if (n->a->watts && watts_parse_curve(n->a->watts, &o.idle_mw, &o.busy_mw, e) != RC_OK)
        return error_prefix(e, "--watts");
    return agent_new(&n->agent, n->loop, &o, e);
}

/* Without a certificate there is nothing to serve with, and nobody to serve. */
static void wait_for_identity(struct node *n)
{
    while (!n->over && !agent_end_was_ordered(n->agent) && !agent_may_serve(n->agent))
        event_base_loop(n->loop, EVLOOP_ONCE);
    n->over = n->over || agent_end_was_ordered(n->agent); /* the dead man's switch counts from the start */
}

static enum rc start(struct node *n, struct error *e)
{
    n->early = (struct log){.fd = STDERR_FILENO, .clock = &clock_system, .program = "spillway-engine"};
    (void)log_level_parse(n->a->log_level, &n->early.level); /* one of the choices */
    n->loop = event_base_new();
    if (!n->loop)
        return error_set(e, RC_IO, "cannot create an event loop");
    enum rc rc = heed_signals(n, e);
    if (!rc)
        rc = open_agent(n, e);
    if (rc)
        return rc;
    wait_for_identity(n);
    if (n->over)
        return RC_OK;
    rc = serve_common_open(&n->c, n->a, e);
    if (rc)
        return rc;
    if (agent_listener(n->agent) >= 0)
        snprintf(n->fd_address, sizeof n->fd_address, "fd:%d", agent_listener(n->agent));
    const struct supervisor_options o = {
        .listen_on = n->fd_address[0] ? n->fd_address : n->c.listen_on,
        .model_id = n->c.model_id,
        .keys = n->c.keys,
        .node_key = n->c.node_key,
        .tls = n->c.tls,
        .worker_argv = n->worker_argv,
        .drain_ms = n->a->drain_s * 1000,
        .hold_ms = n->a->hold_s * 1000,
        .hold_max = (int)n->a->hold_max,
        .watchdog_s = n->a->watchdog_s,
        .log = &n->c.log,
        .clock = &clock_system,
        .done = on_done,
        .done_arg = n,
    };
    rc = supervisor_new(&n->supervisor, n->loop, &o, e);
    if (rc)
        return rc;
    agent_serve(n->agent, n->supervisor);
    serve_say_listening(&n->c, n->a, agent_port(n->agent) ? agent_port(n->agent) : supervisor_port(n->supervisor));
    return RC_OK;
}

static void node_fini(struct node *n)
{
    agent_free(n->agent);
    supervisor_free(n->supervisor);
    if (n->on_term)
        event_free(n->on_term);
    if (n->on_int)
        event_free(n->on_int);
    if (n->on_hup)
        event_free(n->on_hup);
    if (n->loop)
        event_base_free(n->loop);
    serve_common_close(&n->c);
    free(n->worker_argv);
}

int serve_node(const struct serve_args *a, int argc, char **argv)
{
    struct node n = {.a = a};
    struct error e = {0};
    signal(SIGPIPE, SIG_IGN);
    (void)file_may_open(FILES_WANTED);
    make_worker_argv(&n, argc, argv);
    if (start(&n, &e)) {
        node_fini(&n);
        return cli_fail("serve", &e);
    }
    if (!n.over)
        event_base_dispatch(n.loop);
    log_info(&n.early, SERVE_AREA, "stopped", LOG_I("exit_code", n.exit_code));
    const bool run = a->end_command && agent_end_was_ordered(n.agent);
    node_fini(&n);
    if (run) {
        log_info(&n.early, SERVE_AREA, "runs the end command", LOG_S("command", a->end_command));
        execl("/bin/sh", "sh", "-c", a->end_command, (char *)NULL);
        log_error(&n.early, SERVE_AREA, "the end command cannot be run", LOG_S("error", strerror(errno)));
    }
    return n.exit_code;
}
