/* `spillway serve`: puts the scheduler together, runs its loop and takes it apart again.
 *
 *   load config -> lock the state folder -> ledger -> keys, auth -> front -> admin -> loop
 *   SIGTERM, SIGINT, POST /admin/v1/drain: front drains -> admin drains -> loop ends -> exit 0
 *   a second signal: loop ends at once -> exit 1
 *   SIGHUP, POST /admin/v1/reload: the file is read and checked on a thread, then taken over by front and admin, whole or
 *   not at all
 *
 *   SIGUSR2: another process takes our listeners over, then we drain (service.h)
 *
 * Taken apart in reverse order; whatever was not built is NULL. The lock keeps a second scheduler off the same ledger;
 * it goes with the process, however that ends. */
#include "scheduler/cli/cli_internal.h"

#include <errno.h>
#include <event2/event.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log_sink.h"
#include "base/loop.h"
#include "scheduler/admin/admin.h"
#include "scheduler/budgets/redis.h"
#include "scheduler/budgets/start.h"
#include "scheduler/cli/serve_audit.h"
#include "scheduler/cli/serve_books.h"
#include "scheduler/cli/service.h"
#include "scheduler/cli/state_lock.h"
#include "scheduler/config/change.h"
#include "scheduler/config/reload.h"
#include "scheduler/front/who.h"
#include "scheduler/join/join.h"
#include "scheduler/nightly/nightly.h"
#include "scheduler/redis/link.h"
#include "scheduler/ui/ui.h"

#define FLEET_GRACE_MS 5000
#define TAKE_OVER_MS   60000 /* what an old process may need beyond its drain */
#define FILES_BESIDE   1024  /* open ones that are no request's: ledger, audit, admin API, providers */
#define ADMIN_DRAIN_MS 1000  /* for answers of the admin API once the front is empty */

struct serve {
    const char *path; /* of the configuration */
    struct service service;
    char *argv[5]; /* to start the like of us with */
    struct config *config;
    struct log log;
    int lock_fd;
    struct event_base *loop;
    struct ledger *ledger;
    struct serve_audit *audit; /* NULL: none is kept */
    struct budget_store *budgets;
    struct keystore *keystore;
    struct fetcher *fetcher;        /* of the issuers' keys; NULL: no issuers */
    struct auth *auth, *admin_auth; /* the same, but with `auth: off`: the admin API's door stays */
    struct front *front;
    struct fleet *fleet;
    struct bookkeeper *books; /* NULL: the ledger is off */
    struct nightly *nightly;  /* NULL: the ledger is off */
    struct join *join;        /* NULL: no engine can join */
    struct ui *ui;            /* NULL: there is no admin.listen */
    struct admin *admin;
    struct auth *old_auth,
        *old_admin_auth; /* before the last reload that changed keys: somebody may still wait there */
    struct reload *reload;
    struct event *signals[2], *hangup, *deadline;
    int n_signals; /* SIGTERM and SIGINT seen */
    bool draining, forced;
};

/* --- the end ------------------------------------------------------------------------------------------------ */

static void admin_drained_cb(void *arg)
{
    struct serve *s = arg;
    event_base_loopexit(s->loop, NULL);
}

static void deadline_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    admin_drained_cb(arg);
}

static void fleet_stopped_cb(void *arg);

/* No request is left: what pools have launched here goes, too. */
static void front_drained_cb(void *arg)
{
    struct serve *s = arg;

    fleet_stop(s->fleet, FLEET_GRACE_MS, fleet_stopped_cb, s);
}

static void fleet_stopped_cb(void *arg)
{
    struct serve *s = arg;
    const struct timeval limit = {ADMIN_DRAIN_MS / 1000, ADMIN_DRAIN_MS % 1000 * 1000};

    event_add(s->deadline, &limit);
    admin_drain(s->admin, admin_drained_cb, s);
}

static void begin_drain(struct serve *s)
{
    s->draining = true;
    fleet_pause(s->fleet);
    front_drain(s->front, front_drained_cb, s);
}

/* Also POST /admin/v1/drain. Again and again is once. */
static void drain_cb(void *arg)
{
    struct serve *s = arg;

    if (s->draining)
        return;
    service_say(&s->service, "STOPPING=1\nSTATUS=draining");
    begin_drain(s);
}

static void signal_cb(evutil_socket_t number, short what, void *arg)
{
    struct serve *s = arg;

    (void)what;
    if (++s->n_signals == 1) {
        log_info(&s->log, "serve", "signal", LOG_S("name", strsignal((int)number)));
        drain_cb(s);
        return;
    }
    log_warn(&s->log, "serve", "second signal: ending at once", LOG_S("name", strsignal((int)number)));
    s->forced = true;
    event_base_loopbreak(s->loop);
}

/* --- the start ---------------------------------------------------------------------------------------------- */

/* Where we take over, the old process drains first and then lets go of it. */
static enum rc lock_state(struct serve *s, struct error *e)
{
    const int64_t wait_ms = s->service.takes_over ? s->config->drain_ms + TAKE_OVER_MS : 0;
    return state_lock(s->config->state_dir, wait_ms, &s->lock_fd, e);
}

static enum rc open_ledger(struct serve *s, struct error *e)
{
    const struct ledger_options o = {.path = s->config->ledger_off ? NULL : s->config->ledger_path,
                                     .queue_max = s->config->ledger_queue_max,
                                     .journal = (enum ledger_journal)s->config->ledger_journal,
                                     .spool = s->config->ledger_off ? NULL : s->config->ledger_spool,
                                     .spool_bytes = s->config->ledger_on_failure ? s->config->ledger_spool_bytes : 0};

    enum rc rc = ledger_open(&s->ledger, &o, e);
    const int64_t bytes = rc == RC_OK ? ledger_stats(s->ledger).spool_set_aside : 0;
    if (bytes)
        log_warn(&s->log, "books", "the end of the spool could not be read; it stands in a file beside it",
                 LOG_S("path", o.spool), LOG_I("spool_set_aside_bytes", bytes));
    return rc;
}

/* The same ledger has the same name, whatever runs on it, and no other has it. */
static char *ledger_name(const struct config *c)
{
    char host[256] = "";
    char *real = realpath(c->ledger_path, NULL);
    (void)gethostname(host, sizeof host - 1);
    char *name = spw_asprintf("%s:%s", host, real ? real : c->ledger_path);
    free(real);
    return name;
}

static enum rc open_shared_budgets(struct serve *s, struct error *e)
{
    const struct config *c = s->config;
    const struct config_budget_shared *o = &c->budget_store;
    struct redis_store_options options = {
        .clock = &clock_system,
        .log = &s->log,
        .db = o->db,
        .username = o->username,
        .timeout_ms = o->timeout_ms,
        .dead_ms = o->dead_ms,
        .ports = lanes_wanted(c),
        .ledger = c->ledger_path,
        .ledgers = o->ledgers,
    };
    char *password = NULL;
    enum rc rc = o->password_file ? file_read_secret(&password, o->password_file, e) : RC_OK;
    if (rc == RC_OK)
        rc = config_redis_tls(&options.tls, o->address, &(struct tls_client_files){o->tls_ca, o->tls_cert, o->tls_key},
                              e);
    if (rc == RC_OK && o->on_loss == CONFIG_BUDGETS_FAIL_OPEN)
        rc = pusd_parse(o->allowance, &options.allowance, e);
    char *host = redis_address_split(o->address, &options.port), *name = ledger_name(c);
    options.host = host;
    options.name = name;
    options.password = password;
    if (rc == RC_OK)
        rc = redis_store_start(&s->budgets, &options, e);
    if (password)
        explicit_bzero(password, strlen(password));
    free(password);
    SSL_CTX_free(options.tls);
    free(host);
    free(name);
    return rc;
}

static enum rc open_budgets(struct serve *s, struct error *e)
{
    const struct config *c = s->config;
    if (c->budget_store.kind == CONFIG_BUDGETS_REDIS)
        return open_shared_budgets(s, e);
    return budgets_start(&s->budgets, c->ledger_off ? NULL : c->ledger_path, c->budget_rules, c->n_budgets,
                         &clock_system, &s->log, e);
}

static enum rc open_keystore(struct serve *s, struct error *e)
{
    char *path = spw_asprintf("%s/keys.db", s->config->state_dir);
    char *secret = spw_asprintf("%s/keys.secret", s->config->state_dir);
    enum rc rc = keystore_open(&s->keystore, path, secret, &clock_system, e);

    free(path);
    free(secret);
    return rc;
}

/* Who is let in by this configuration. *admin_auth is the same but with `auth: off`. */
static enum rc make_auth(struct serve *s, const struct config *c, struct auth **auth, struct auth **admin_auth,
                         struct error *e)
{
    enum rc rc = c->n_issuers && !s->fetcher ? fetcher_new(&s->fetcher, s->loop, e) : RC_OK;

    if (rc != RC_OK)
        return rc;
    struct who_options o = {.config = c,
                            .off = c->auth_off,
                            .keystore = s->keystore,
                            .loop = s->loop,
                            .fetcher = s->fetcher,
                            .clock = &clock_system,
                            .log = &s->log};
    rc = who_auth_new(auth, &o, e);
    *admin_auth = *auth;
    if (rc != RC_OK || !o.off)
        return rc;
    o.off = false;
    rc = who_auth_new(admin_auth, &o, e);
    if (rc != RC_OK)
        auth_free(*auth);
    return rc;
}

static void drop_auth(struct auth *auth, struct auth *admin_auth)
{
    if (admin_auth != auth)
        auth_free(admin_auth);
    auth_free(auth);
}

static enum rc open_auth(struct serve *s, struct error *e)
{
    enum rc rc = open_keystore(s, e);

    if (rc == RC_OK)
        rc = make_auth(s, s->config, &s->auth, &s->admin_auth, e);
    if (rc != RC_OK)
        s->auth = s->admin_auth = NULL;
    return rc;
}

static void log_warnings(const struct serve *s)
{
    struct strbuf warnings;

    strbuf_init(&warnings, (size_t)1 << 20);
    config_warnings(s->config, &warnings);
    for (char *p = warnings.data, *end; p && (end = strchr(p, '\n')); p = end + 1) {
        *end = '\0';
        log_warn(&s->log, "config", p);
    }
    strbuf_fini(&warnings);
}

/* A connection from an application is one, and a request on it has another to its node. */
static void want_files(const struct serve *s)
{
    const int64_t connections = s->config->connections_max, wanted = 2 * connections + FILES_BESIDE;
    const int64_t may = file_may_open(wanted);
    char text[320];

    if (may >= wanted)
        return;
    snprintf(text, sizeof text,
             "limits.connections is %" PRId64 ", which may take %" PRId64 " open files and sockets, and only %" PRId64
             " are allowed here; raise the hard limit (ulimit -Hn, LimitNOFILE=) or lower limits.connections",
             connections, wanted, may);
    log_warn(&s->log, "serve", text);
}

/* --- reload ------------------------------------------------------------------------------------------------- */

static const struct config *current_cb(void *arg)
{
    return ((struct serve *)arg)->config;
}

static bool who_changes(const struct config *from, const struct config *to)
{
    return config_list_differs(from, to, "keys") || config_list_differs(from, to, "auth.issuers") ||
           config_settings_differ(from, to, "auth.");
}

static enum rc apply_cb(struct config *next, struct error *e, void *arg)
{
    struct serve *s = arg;
    struct auth *auth = s->auth, *admin_auth = s->admin_auth;
    bool other = who_changes(s->config, next);
    enum rc rc = other ? make_auth(s, next, &auth, &admin_auth, e) : RC_OK;

    if (rc != RC_OK)
        return rc;
    rc = fleet_take(s->fleet, next, e);
    if (rc == RC_OK)
        rc = admin_take_doors(s->admin, next, e);
    if (rc == RC_OK) {
        rc = front_take(s->front, next, auth, other, e);
        if (rc != RC_OK) {
            struct error ignored; /* the certificate that it showed until now was good then */
            (void)!admin_take_doors(s->admin, s->config, &ignored);
        }
    }
    if (rc != RC_OK) {
        struct error ignored;
        (void)!fleet_take(s->fleet, s->config, &ignored);
        if (other)
            drop_auth(auth, admin_auth);
        return rc;
    }
    admin_take(s->admin, next, admin_auth);
    if (s->ui)
        ui_take(s->ui, next, admin_auth);
    if (other) { /* who has waited there since the reload before is refused */
        drop_auth(s->old_auth, s->old_admin_auth);
        s->old_auth = s->auth;
        s->old_admin_auth = s->admin_auth;
    }
    s->auth = auth;
    s->admin_auth = admin_auth;
    if (s->join)
        join_take(s->join, next);
    serve_audit_config(s->audit, s->config, next);
    bookkeeper_take(s->books, next);
    nightly_take(s->nightly, next);
    config_free(s->config);
    s->config = next;
    __atomic_store_n(&s->log.level, next->log_level, __ATOMIC_RELAXED);
    log_warnings(s);
    return RC_OK;
}

static void hangup_cb(evutil_socket_t number, short what, void *arg)
{
    struct serve *s = arg;

    (void)number, (void)what;
    log_info(&s->log, "serve", "signal", LOG_S("name", strsignal(SIGHUP)));
    if (reload_ask(s->reload, NULL, NULL) != RC_OK) /* those that wait will read the file as well */
        log_warn(&s->log, "serve", "a reload is waiting already");
}

static void open_reload(struct serve *s)
{
    const struct reload_options o = {
        .loop = s->loop, .path = s->path, .log = &s->log, .current = current_cb, .apply = apply_cb, .arg = s};

    reload_new(&s->reload, &o);
}

static enum rc open_front(struct serve *s, struct error *e)
{
    const struct front_options o = {.loop = s->loop,
                                    .config = s->config,
                                    .ledger = s->ledger,
                                    .audit = serve_audit_of(s->audit),
                                    .budgets = s->budgets,
                                    .auth = s->auth,
                                    .keystore = s->keystore,
                                    .log = &s->log,
                                    .clock = &clock_system,
                                    .listen_fds = s->service.fds,
                                    .n_listen_fds = s->service.n_fds};

    return front_new(&s->front, &o, e);
}

static enum rc open_fleet(struct serve *s, struct error *e)
{
    const struct fleet_options o = {.loop = s->loop,
                                    .config = s->config,
                                    .log = &s->log,
                                    .clock = &clock_system,
                                    .nodes = front_nodes(s->front),
                                    .demand = front_demand,
                                    .comes = front_comes,
                                    .batch = front_batch,
                                    .pace = front_pace,
                                    .arg = s->front};

    const enum rc rc = fleet_new(&s->fleet, &o, e);
    front_set_fleet(s->front, s->fleet);
    return rc;
}

static enum rc open_join(struct serve *s, struct error *e)
{
    const struct join_options o = {
        .loop = s->loop, .config = s->config, .log = &s->log, .clock = &clock_system, .nodes = front_nodes(s->front)};

    if (!s->config->join.listen)
        return RC_OK;
    const enum rc rc = join_new(&s->join, &o, e);
    if (rc == RC_OK) {
        serve_join_fleet(s->join, s->fleet);
        front_add_metrics(s->front, join_metrics, s->join);
    }
    return rc;
}

static enum rc open_books(struct serve *s, struct error *e)
{
    const struct bookkeeper_options o = {
        .loop = s->loop, .config = s->config, .log = &s->log, .clock = &clock_system, .nodes = front_nodes(s->front)};
    return bookkeeper_new(&s->books, &o, e);
}

static enum rc open_nightly(struct serve *s, struct error *e)
{
    const struct nightly_options o = {.loop = s->loop, .config = s->config, .log = &s->log, .clock = &clock_system};
    const enum rc rc = nightly_new(&s->nightly, &o, e);
    if (s->nightly)
        front_add_metrics(s->front, nightly_metrics, s->nightly);
    return rc;
}

static void finance_cb(void *arg)
{
    bookkeeper_finance_changed(((struct serve *)arg)->books);
}

static enum rc open_ui(struct serve *s, struct error *e)
{
    const struct ui_options o = {.loop = s->loop,
                                 .config = s->config,
                                 .front = s->front,
                                 .fleet = s->fleet,
                                 .audit = serve_audit_of(s->audit),
                                 .auth = s->admin_auth,
                                 .log = &s->log,
                                 .clock = &clock_system};

    return s->config->admin_listen ? ui_new(&s->ui, &o, e) : RC_OK;
}

static enum rc open_admin(struct serve *s, struct error *e)
{
    const struct admin_options o = {.loop = s->loop,
                                    .config = s->config,
                                    .front = s->front,
                                    .fleet = s->fleet,
                                    .join = s->join,
                                    .nightly = s->nightly,
                                    .ledger = s->ledger,
                                    .audit = serve_audit_of(s->audit),
                                    .auth = s->admin_auth,
                                    .keystore = s->keystore,
                                    .log = &s->log,
                                    .clock = &clock_system,
                                    .reload = s->reload,
                                    .finance_changed = finance_cb,
                                    .finance_arg = s,
                                    .pages = s->ui ? ui_request : NULL,
                                    .pages_arg = s->ui,
                                    .drain = drain_cb,
                                    .drain_arg = s};

    return admin_new(&s->admin, &o, e);
}

static enum rc watch_signals(struct serve *s, struct error *e)
{
    const int numbers[] = {SIGTERM, SIGINT};

    signal(SIGPIPE, SIG_IGN);
    s->deadline = evtimer_new(s->loop, deadline_cb, s);
    for (int i = 0; i < 2; i++) {
        /* What the event restores when it is freed: a late second signal must not turn a clean end into a killed one. */
        signal(numbers[i], SIG_IGN);
        s->signals[i] = evsignal_new(s->loop, numbers[i], signal_cb, s);
        if (!s->deadline || !s->signals[i] || event_add(s->signals[i], NULL) != 0)
            return error_set(e, RC_IO, "signals cannot be watched");
    }
    signal(SIGHUP, SIG_IGN);
    s->hangup = evsignal_new(s->loop, SIGHUP, hangup_cb, s);
    if (!s->hangup || event_add(s->hangup, NULL) != 0)
        return error_set(e, RC_IO, "SIGHUP cannot be watched");
    return RC_OK;
}

static int listeners_cb(int *fds, int max, void *arg)
{
    const struct serve *s = arg;

    return s->draining ? 0 : front_listeners(s->front, fds, max);
}

static void taken_over_cb(void *arg)
{
    struct serve *s = arg;

    if (s->draining)
        return;
    front_hand_over(s->front);
    begin_drain(s); /* the service goes on, in another process: nothing is said of an end */
}

static enum rc open_service(struct serve *s, struct error *e)
{
    char text[100];

    s->service.listeners = listeners_cb;
    s->service.taken_over = taken_over_cb;
    s->service.arg = s;
    snprintf(text, sizeof text, "READY=1\nMAINPID=%ld\nSTATUS=serving", (long)getpid());
    const enum rc rc = service_start(&s->service, s->loop, &s->log, s->argv, e);
    if (rc == RC_OK) /* from here on its signals are heard */
        service_say(&s->service, text);
    return rc;
}

static enum rc build(struct serve *s, struct error *e)
{
    enum rc rc = lock_state(s, e);

    loop_threads_init();
    s->loop = loop_new();
    if (!s->loop)
        return error_set(e, RC_IO, "no event loop: %s", strerror(errno));
    open_reload(s);
    if (rc == RC_OK)
        rc = watch_signals(s, e);
    if (rc == RC_OK)
        rc = open_budgets(s, e);
    if (rc == RC_OK)
        rc = open_ledger(s, e);
    if (rc == RC_OK)
        rc = serve_audit_open(&s->audit, s->config, s->loop, &s->log, e);
    if (rc == RC_OK)
        rc = open_auth(s, e);
    if (rc == RC_OK)
        rc = open_front(s, e);
    if (rc == RC_OK)
        rc = open_fleet(s, e);
    if (rc == RC_OK)
        rc = open_join(s, e);
    if (rc == RC_OK)
        rc = open_books(s, e);
    if (rc == RC_OK)
        rc = open_nightly(s, e);
    if (rc == RC_OK)
        rc = open_ui(s, e);
    if (rc == RC_OK)
        rc = open_admin(s, e);
    if (rc == RC_OK)
        rc = open_service(s, e);
    return rc;
}

/* Reverse order. The ledger comes after the front, whose port still brings it what was settled. */
static void take_apart(struct serve *s)
{
    service_fini(&s->service);
    if (s->hangup)
        event_free(s->hangup);
    reload_free(s->reload); /* who waits at the admin API is told */
    admin_free(s->admin);
    ui_free(s->ui);
    nightly_free(s->nightly);
    bookkeeper_free(s->books);
    join_free(s->join);
    fleet_free(s->fleet);
    front_free(s->front);
    serve_audit_close(s->audit);
    ledger_close(s->ledger);
    if (s->budgets)
        s->budgets->ops->free(s->budgets);
    drop_auth(s->old_auth, s->old_admin_auth);
    drop_auth(s->auth, s->admin_auth);
    if (s->fetcher)
        fetcher_free(s->fetcher);
    keystore_close(s->keystore);
    for (int i = 0; i < 2; i++)
        if (s->signals[i])
            event_free(s->signals[i]);
    if (s->deadline)
        event_free(s->deadline);
    if (s->loop)
        event_base_free(s->loop);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    config_free(s->config);
    libevent_global_shutdown();
}

static int run(struct serve *s)
{
    struct error e;

    log_warnings(s);
    want_files(s);
    service_can_take_over(&s->service);
    if (build(s, &e) != RC_OK) {
        log_error(&s->log, "serve", e.message, LOG_S("code", rc_name(e.code)));
        return e.code == RC_INVALID ? ARGS_EXIT_USAGE : ARGS_EXIT_FAILED;
    }
    log_info(&s->log, "serve", "serving", LOG_S("admin_socket", s->config->admin_socket),
             LOG_I("admin_port", admin_port(s->admin)), LOG_I("nodes", s->config->n_nodes),
             LOG_S("version", SPILLWAY_VERSION), LOG_I("pid", getpid()));
    event_base_dispatch(s->loop);
    log_info(&s->log, "serve", "ended", LOG_B("forced", s->forced));
    return s->forced ? ARGS_EXIT_FAILED : ARGS_EXIT_OK;
}

int cli_serve(int argc, char **argv)
{
    struct serve s = {.lock_fd = -1};
    struct log_sink *sink = NULL;
    struct error e;
    const char *path = CLI_CONFIG_DEFAULT;
    int exit_code;
    const struct arg_option options[] = {CLI_OPTION_CONFIG(path)};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "serve",
                                  .summary = "run the scheduler until SIGTERM or SIGINT, which drain it; a second "
                                             "signal ends it at once (exit status 1)",
                                  .example = "spillway serve --config spillway.yaml",
                                  .options = options,
                                  .n_options = 1};

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    alloc_keep_freed();
    if (service_init(&s.service, &e) != RC_OK) {
        service_fini(&s.service);
        return cli_fail("serve", &e);
    }
    s.path = path;
    char *again[] = {program_invocation_name, (char[]){"serve"}, (char[]){"--config"}, (char *)(uintptr_t)path, NULL};
    memcpy(s.argv, again, sizeof again);
    s.config = cli_load_config("serve", path);
    if (!s.config) {
        service_fini(&s.service);
        return ARGS_EXIT_USAGE;
    }
    /* Each listener that was handed over has connections waiting: none may be without a worker. */
    if (s.service.n_fds > lanes_wanted(s.config))
        s.config->workers = s.service.n_fds;
    s.log =
        (struct log){.fd = STDERR_FILENO, .level = s.config->log_level, .clock = &clock_system, .program = "spillway"};
    /* Without the sink's thread each line is written where it is said. */
    if (log_sink_new(&sink, STDERR_FILENO, &e) != RC_OK)
        log_warn(&s.log, "serve", e.message, LOG_S("code", rc_name(e.code)));
    s.log.sink = sink;
    exit_code = run(&s);
    take_apart(&s);
    log_sink_free(sink); /* writes the last lines */
    return exit_code;
}
