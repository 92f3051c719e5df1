/* The supervisor's process: listens, keeps a worker, understands signals. The first SIGTERM or SIGINT drains and ends, a
 * second one ends at once. */
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "engine/cli/serve.h"
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
    bool signalled;
    int exit_code;
};

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    struct node *n = arg;
    const char *name = number == SIGTERM ? "SIGTERM" : "SIGINT";
    (void)what;
    log_info(&n->c.log, SERVE_AREA, "signal received", LOG_S("signal", name));
    if (n->signalled)
        supervisor_stop_now(n->supervisor);
    else
        supervisor_drain(n->supervisor, name, n->a->notice_s ? n->a->notice_s : n->a->drain_s,
                         n->a->notice_s ? SUPERVISOR_THEN_END | SUPERVISOR_TAKEN_AWAY : SUPERVISOR_THEN_END);
    n->signalled = true;
}

static void on_hangup(evutil_socket_t number, short what, void *arg)
{
    struct node *n = arg;
    struct error e = {0};
    (void)number;
    (void)what;
    if (supervisor_renewed(n->supervisor, &e))
        log_error(&n->c.log, SERVE_AREA, "the certificate cannot be read again; the old one is shown",
                  LOG_S("error", e.message));
    else
        log_info(&n->c.log, SERVE_AREA, "certificate read again", LOG_B("tls", n->c.tls != NULL));
}

static void on_done(int exit_code, void *arg)
{
    struct node *n = arg;
    n->exit_code = exit_code;
    event_base_loopbreak(n->loop);
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

static void want_files(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= FILES_WANTED)
        return;
    files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
    (void)setrlimit(RLIMIT_NOFILE, &files);
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

static enum rc start(struct node *n, struct error *e)
{
    enum rc rc = serve_common_open(&n->c, n->a, e);
    if (rc)
        return rc;
    n->loop = event_base_new();
    if (!n->loop)
        return error_set(e, RC_IO, "cannot create an event loop");
    rc = heed_signals(n, e);
    if (rc)
        return rc;
    const struct supervisor_options o = {
        .listen_on = n->c.listen_on,
        .model_id = n->c.model_id,
        .keys = n->c.keys,
        .node_key = n->c.node_key,
        .tls = n->c.tls,
        .worker_argv = n->worker_argv,
        .drain_ms = n->a->drain_s * 1000,
        .hold_ms = n->a->hold_s * 1000,
        .hold_max = (int)n->a->hold_max,
        .log = &n->c.log,
        .clock = &clock_system,
        .done = on_done,
        .done_arg = n,
    };
    rc = supervisor_new(&n->supervisor, n->loop, &o, e);
    if (!rc)
        serve_say_listening(&n->c, n->a, supervisor_port(n->supervisor));
    return rc;
}

static void node_fini(struct node *n)
{
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
    want_files();
    make_worker_argv(&n, argc, argv);
    if (start(&n, &e)) {
        node_fini(&n);
        return cli_fail("serve", &e);
    }
    event_base_dispatch(n.loop);
    log_info(&n.c.log, SERVE_AREA, "stopped", LOG_I("exit_code", n.exit_code));
    node_fini(&n);
    return n.exit_code;
}
