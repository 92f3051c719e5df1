/* Provider `process`: spillway-engine on this host, as children of ours.
 *
 * Owns the child processes, their pidfds, their log pipe and the back-off timers. Each engine gets a process group of
 * its own (a Ctrl-C at the terminal reaches the scheduler alone, which then drains) and PR_SET_PDEATHSIG: no engine
 * outlives a scheduler that was killed. An engine that ends by itself is started again after a back-off that doubles
 * from BACKOFF_FIRST_MS to BACKOFF_LAST_MS and starts over once an engine has lived for BACKOFF_RESET_MS.
 *
 * What an engine writes is forwarded to our log, line by line: JSON lines get a "node" member in front, anything else
 * becomes a line of ours. */
#include "providers/provider.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"

#define BACKOFF_FIRST_MS 250
#define BACKOFF_LAST_MS  30000
#define BACKOFF_RESET_MS 60000
#define LINE_MAX_BYTES   8192
#define ARGS_MAX         20

struct waiter { /* a terminate() that has not been answered */
    struct waiter *next;
    provider_done_cb *cb;
    void *arg;
};

struct question { /* a list() that has not been answered */
    struct question *next;
    struct process_provider *provider;
    provider_instance_cb *each;
    provider_done_cb *done;
    void *arg;
    struct event *event;
};

struct engine {
    struct engine *next;
    struct process_provider *provider;
    char *name, *program, *model_path, *alias, *node_key_file, *token, *pool; /* owned; the last two may be NULL */
    int port_asked, threads, ctx_size, max_batch;

    enum provider_instance_state state;
    int port;
    pid_t pid; /* 0: no process */
    int pidfd, log_fd;
    int restarts;
    int64_t backoff_ms;
    struct mono started, kill_at; /* kill_at: when STOPPING */
    int64_t launched_at_s;
    struct event *exit_event, *log_event; /* NULL without a process */
    struct event *timer;                  /* start, restart, or kill: whatever the state waits for */
    struct waiter *waiters;
    char reason[128];
    char line[LINE_MAX_BYTES]; /* of the log, not yet ended */
    size_t line_len;
};

struct process_provider {
    struct provider base;
    struct provider_env env;
    struct engine *engines;
    struct question *questions;
};

static void on_timer(evutil_socket_t fd, short what, void *arg);

static void describe(const struct engine *e, struct provider_instance *i)
{
    *i = (struct provider_instance){
        .name = e->name,
        .state = e->state,
        .host = "127.0.0.1",
        .port = e->port,
        .pid = (int)e->pid,
        .restarts = e->restarts,
        .reason = e->reason,
        .failure = e->state == INSTANCE_BACKOFF || e->state == INSTANCE_GONE ? PROVIDER_ENDED : PROVIDER_FINE,
        .id = e->name,
        .token = e->token,
        .pool = e->pool,
        .launched_at_s = e->launched_at_s,
    };
}

static void enter(struct engine *e, enum provider_instance_state state)
{
    struct provider_instance i;
    e->state = state;
    describe(e, &i);
    if (e->provider->env.on_change)
        e->provider->env.on_change(&i, e->provider->env.arg);
}

static void arm(struct engine *e, int64_t ms)
{
    struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
    event_add(e->timer, &tv);
}

/* ---- the log pipe ----------------------------------------------------------------------------------------------- */

static void forward_line(const struct engine *e, char *line, size_t n)
{
    const struct log *l = e->provider->env.log;
    line[n] = '\0';
    if (n == 0)
        return;
    if (line[0] != '{' || line[n - 1] != '}' || n < 3) {
        log_info(l, "engine", "engine output", LOG_S("node", e->name), LOG_S("text", line));
        return;
    }
    /* One write for the whole line, so that lines of several writers do not mix. Node names are checked by the
     * configuration to need no escaping. */
    char *out = spw_asprintf("{\"node\":\"%s\",%s\n", e->name, line + 1);
    ssize_t ignored = write(l->fd, out, strlen(out));
    (void)ignored;
    free(out);
}

static void take_log_bytes(struct engine *e, const char *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (data[i] != '\n' && e->line_len < sizeof e->line - 1) {
            e->line[e->line_len++] = data[i];
            continue;
        }
        forward_line(e, e->line, e->line_len); /* ended, or too long: then it goes out in pieces */
        e->line_len = 0;
        if (data[i] != '\n')
            e->line[e->line_len++] = data[i];
    }
}

static void on_log(evutil_socket_t fd, short what, void *arg)
{
    struct engine *e = arg;
    char buf[16384];
    (void)what;
    ssize_t n = read((int)fd, buf, sizeof buf);
    if (n > 0) {
        take_log_bytes(e, buf, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        event_free(e->log_event);
        e->log_event = NULL;
    }
}

/* The last words of an engine that has ended say why. */
static void drain_log(struct engine *e)
{
    char buf[4096];
    for (int i = 0; i < 64; i++) { /* bounded: a grandchild may hold the pipe and keep writing */
        ssize_t n = read(e->log_fd, buf, sizeof buf);
        if (n <= 0)
            break;
        take_log_bytes(e, buf, (size_t)n);
    }
    forward_line(e, e->line, e->line_len);
    e->line_len = 0;
}

/* ---- start ------------------------------------------------------------------------------------------------------ */

/* A port that was free a moment ago. If somebody takes it first, the engine ends and the restart picks another. */
static int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int port = 0, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0)
        port = ntohs(a.sin_port);
    if (fd >= 0)
        close(fd);
    return port;
}

struct argv {
    const char *v[ARGS_MAX];
    char numbers[4][12];
    int n, n_numbers;
};

static void push(struct argv *a, const char *flag, const char *value)
{
    if (!value)
        return;
    SPW_ASSERT(a->n + 3 <= ARGS_MAX);
    a->v[a->n++] = flag;
    a->v[a->n++] = value;
    a->v[a->n] = NULL;
}

static void push_number(struct argv *a, const char *flag, int value)
{
    if (value <= 0)
        return;
    SPW_ASSERT(a->n_numbers < 4);
    char *text = a->numbers[a->n_numbers++];
    snprintf(text, sizeof a->numbers[0], "%d", value);
    push(a, flag, text);
}

static void build_argv(const struct engine *e, struct argv *a)
{
    memset(a, 0, sizeof(*a));
    push(a, e->program, "serve");
    push(a, "--model", e->model_path);
    push(a, "--host", "127.0.0.1");
    push_number(a, "--port", e->port);
    push(a, "--alias", e->alias);
    push(a, "--node-key-file", e->node_key_file);
    push_number(a, "--threads", e->threads);
    push_number(a, "--ctx-size", e->ctx_size);
    push_number(a, "--max-batch", e->max_batch);
}

/* In the child, between fork and exec: only calls that are safe there. posix_spawn cannot set the death signal, and
 * setting it in the engine itself would leave a window. */
static _Noreturn void become_engine(const struct argv *a, int log_fd, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before the line above */
        _exit(126);
    int null_fd = open("/dev/null", O_RDONLY);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0)
        _exit(126);
    close_range(3, ~0U, 0);
    execv(a->v[0], (char *const *)a->v);
    _exit(127);
}

static void on_exit_event(evutil_socket_t fd, short what, void *arg);

static enum rc spawn(struct engine *e)
{
    int fds[2] = {-1, -1};
    struct argv argv;
    e->port = e->port_asked ? e->port_asked : free_port();
    if (!e->port || pipe2(fds, O_CLOEXEC) != 0) {
        snprintf(e->reason, sizeof e->reason, "cannot start: %s", strerror(errno));
        return RC_IO;
    }
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    build_argv(e, &argv);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become_engine(&argv, fds[1], parent);
    close(fds[1]);
    if (pid > 0)
        setpgid(pid, pid); /* here too: a kill of the group may come before the child has run */
    int pidfd = pid > 0 ? pidfd_open(pid, 0) : -1;
    if (pidfd < 0) {
        snprintf(e->reason, sizeof e->reason, "cannot start: %s", strerror(errno));
        if (pid > 0) { /* a process that cannot be watched is not kept */
            kill(pid, SIGKILL);
            waitpid(pid, NULL, 0);
        }
        close(fds[0]);
        return RC_IO;
    }
    fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    e->pid = pid;
    e->pidfd = pidfd;
    e->log_fd = fds[0];
    e->started = clock_now(e->provider->env.clock);
    e->exit_event = event_new(e->provider->env.loop, pidfd, EV_READ, on_exit_event, e);
    e->log_event = event_new(e->provider->env.loop, fds[0], EV_READ | EV_PERSIST, on_log, e);
    event_add(e->exit_event, NULL);
    event_add(e->log_event, NULL);
    return RC_OK;
}

/* ---- end -------------------------------------------------------------------------------------------------------- */

static void forget_process(struct engine *e)
{
    if (!e->pid)
        return;
    drain_log(e);
    event_free(e->exit_event);
    if (e->log_event)
        event_free(e->log_event);
    close(e->pidfd);
    close(e->log_fd);
    e->exit_event = e->log_event = NULL;
    e->pidfd = e->log_fd = -1;
    e->pid = 0;
}

static void engine_free(struct engine *e)
{
    forget_process(e);
    event_free(e->timer);
    while (e->waiters) {
        struct waiter *w = e->waiters;
        e->waiters = w->next;
        free(w);
    }
    free(e->name);
    free(e->program);
    free(e->model_path);
    free(e->alias);
    free(e->node_key_file);
    free(e->token);
    free(e->pool);
    free(e);
}

static void gone(struct engine *e)
{
    struct engine **link = &e->provider->engines;
    while (*link != e)
        link = &(*link)->next;
    *link = e->next; /* first, so that on_change may launch the same name again */
    enter(e, INSTANCE_GONE);
    while (e->waiters) {
        struct waiter *w = e->waiters;
        e->waiters = w->next;
        if (w->cb)
            w->cb(PROVIDER_FINE, "", w->arg);
        free(w);
    }
    engine_free(e);
}

static void back_off(struct engine *e)
{
    if (e->backoff_ms == 0 || mono_since(e->provider->env.clock, e->started) >= BACKOFF_RESET_MS * NS_PER_MS)
        e->backoff_ms = BACKOFF_FIRST_MS;
    else if ((e->backoff_ms *= 2) > BACKOFF_LAST_MS)
        e->backoff_ms = BACKOFF_LAST_MS;
    log_warn(e->provider->env.log, "provider", "engine ended, starting it again", LOG_S("node", e->name),
             LOG_S("reason", e->reason), LOG_I("restarts", e->restarts), LOG_I("wait_ms", e->backoff_ms));
    arm(e, e->backoff_ms);
    enter(e, INSTANCE_BACKOFF);
}

static void say_how_it_ended(struct engine *e, int status)
{
    if (WIFSIGNALED(status))
        snprintf(e->reason, sizeof e->reason, "ended by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status) == 127)
        snprintf(e->reason, sizeof e->reason, "the engine program could not be executed");
    else
        snprintf(e->reason, sizeof e->reason, "exited with status %d", WEXITSTATUS(status));
}

static void on_exit_event(evutil_socket_t fd, short what, void *arg)
{
    struct engine *e = arg;
    int status = 0;
    (void)fd;
    (void)what;
    kill(-e->pid, SIGKILL); /* whatever it left of its group; before reaping, while the number is surely ours */
    if (waitpid(e->pid, &status, WNOHANG) != e->pid) {
        event_add(e->exit_event, NULL);
        return;
    }
    say_how_it_ended(e, status);
    forget_process(e);
    event_del(e->timer);
    if (e->state == INSTANCE_STOPPING)
        gone(e);
    else
        back_off(e);
}

/* The timer's meaning is the state's: start, start again, or out of patience. */
static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct engine *e = arg;
    (void)fd;
    (void)what;
    if (e->state == INSTANCE_STOPPING) {
        if (!e->pid) {
            gone(e);
            return;
        }
        log_warn(e->provider->env.log, "provider", "engine did not end in time, killed", LOG_S("node", e->name));
        kill(-e->pid, SIGKILL);
        return;
    }
    if (e->state == INSTANCE_BACKOFF) {
        e->restarts++;
        e->reason[0] = '\0';
        enter(e, INSTANCE_STARTING);
        if (e->state != INSTANCE_STARTING) /* on_change ended it */
            return;
    }
    if (spawn(e) != RC_OK) {
        e->started = clock_now(e->provider->env.clock);
        back_off(e);
        return;
    }
    log_info(e->provider->env.log, "provider", "engine started", LOG_S("node", e->name), LOG_I("pid", e->pid),
             LOG_I("port", e->port));
    enter(e, INSTANCE_RUNNING);
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static struct process_provider *self(struct provider *p)
{
    SPW_ASSERT(p->ops == &provider_process);
    return (struct process_provider *)p;
}

static struct engine *find(struct process_provider *p, const char *name)
{
    for (struct engine *e = p->engines; e; e = e->next) {
        if (strcmp(e->name, name) == 0)
            return e;
    }
    return NULL;
}

static enum rc process_open(struct provider **out, const struct provider_env *env, struct error *e)
{
    (void)e;
    struct process_provider *p = spw_calloc(1, sizeof(*p));
    p->base.ops = &provider_process;
    p->env = *env;
    *out = &p->base;
    return RC_OK;
}

static void question_end(struct question *q)
{
    struct question **link = &q->provider->questions;
    while (*link != q)
        link = &(*link)->next;
    *link = q->next;
    event_free(q->event);
    free(q);
}

static void process_close(struct provider *base)
{
    if (!base)
        return;
    struct process_provider *p = self(base);
    p->env.on_change = NULL;
    for (struct engine *e = p->engines; e; e = e->next) {
        if (e->pid)
            kill(-e->pid, SIGKILL);
    }
    while (p->engines) {
        struct engine *e = p->engines;
        p->engines = e->next;
        if (e->pid)
            waitpid(e->pid, NULL, 0);
        engine_free(e);
    }
    while (p->questions)
        question_end(p->questions);
    free(p);
}

/* "spillway-engine" beside our own binary, wherever that was installed. Caller frees. */
static char *engine_beside_us(void)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    return spw_asprintf("%.*s/spillway-engine", slash ? (int)(slash - path) : 0, path);
}

static const struct provider_key node_keys[] = {
    {"model_path", KEY_FILE, true, NULL, "The engine's model file."},
    {"engine", KEY_FILE, false, NULL, "Path of spillway-engine; else the one beside the scheduler's own program."},
    {"threads", KEY_INT, false, "0", "Threads of each engine; 0: the engine's default."},
    {"ctx_size", KEY_INT, false, "0", "Tokens that one sequence may have; 0: the engine's default."},
    {"max_batch", KEY_INT, false, "0", "Sequences at once; 0: the engine's default."},
    {.name = NULL},
};

static char *copy_or_null(const char *s)
{
    return s ? spw_strdup(s) : NULL;
}

/* What the spec leaves open its settings may say. */
static const char *text_of(const struct provider_spec *spec, const char *said, const char *key)
{
    return said ? said : provider_setting(spec->settings, key);
}

static int number_of(const struct provider_spec *spec, int said, const char *key)
{
    const int64_t v = said ? said : provider_setting_int(spec->settings, key);
    return v > 0 && v <= INT_MAX ? (int)v : 0;
}

static enum rc process_launch(struct provider *base, const struct provider_spec *spec, struct error *err)
{
    struct process_provider *p = self(base);
    const char *model_path = text_of(spec, spec->model_path, "model_path");
    const char *given = text_of(spec, spec->engine, "engine");
    if (find(p, spec->name))
        return error_set(err, RC_CONFLICT, "node '%s': its engine is already there", spec->name);
    if (!model_path)
        return error_set(err, RC_INVALID, "node '%s': no model file; set model_path", spec->name);
    char *program = given ? spw_strdup(given) : engine_beside_us();
    if (access(program, X_OK) != 0) {
        enum rc rc = error_set(err, RC_IO, "node '%s': cannot run '%s': %s; set engine to the path of spillway-engine",
                               spec->name, program, strerror(errno));
        free(program);
        return rc;
    }
    struct engine *e = spw_calloc(1, sizeof(*e));
    *e = (struct engine){
        .next = p->engines,
        .provider = p,
        .name = spw_strdup(spec->name),
        .program = program,
        .model_path = spw_strdup(model_path),
        .node_key_file = copy_or_null(spec->node_key_file),
        .alias = copy_or_null(spec->alias),
        .token = copy_or_null(spec->token),
        .pool = copy_or_null(spec->pool),
        .launched_at_s = clock_wall(p->env.clock).ns / NS_PER_S,
        .port_asked = spec->port,
        .threads = number_of(spec, spec->threads, "threads"),
        .ctx_size = number_of(spec, spec->ctx_size, "ctx_size"),
        .max_batch = number_of(spec, spec->max_batch, "max_batch"),
        .state = INSTANCE_STARTING,
        .pidfd = -1,
        .log_fd = -1,
    };
    e->timer = evtimer_new(p->env.loop, on_timer, e);
    p->engines = e;
    arm(e, 0);
    return RC_OK;
}

static enum rc process_terminate(struct provider *base, const char *name, int64_t grace_ms, provider_done_cb *cb,
                                 void *arg)
{
    struct engine *e = find(self(base), name);
    if (!e)
        return RC_NOT_FOUND;
    struct waiter *w = spw_calloc(1, sizeof(*w));
    *w = (struct waiter){.next = e->waiters, .cb = cb, .arg = arg};
    e->waiters = w;

    int64_t kill_at_ns = clock_now(e->provider->env.clock).ns + grace_ms * NS_PER_MS;
    if (e->state == INSTANCE_STOPPING && e->kill_at.ns <= kill_at_ns)
        return RC_OK;
    if (e->pid && e->state != INSTANCE_STOPPING)
        kill(e->pid, SIGTERM);
    e->state = INSTANCE_STOPPING;
    e->kill_at.ns = kill_at_ns;
    arm(e, e->pid ? grace_ms : 0);
    return RC_OK;
}

/* Nothing is contacted, but the answer comes from the loop all the same. `each` must not end an engine. */
static void on_question(evutil_socket_t fd, short what, void *arg)
{
    struct question *q = arg;
    provider_done_cb *done = q->done;
    void *done_arg = q->arg;
    (void)fd;
    (void)what;
    for (struct engine *e = q->provider->engines; e; e = e->next) {
        struct provider_instance i;
        describe(e, &i);
        q->each(&i, q->arg);
    }
    question_end(q);
    done(PROVIDER_FINE, "", done_arg);
}

static void process_list(struct provider *base, provider_instance_cb *each, provider_done_cb *done, void *arg)
{
    struct process_provider *p = self(base);
    struct question *q = spw_calloc(1, sizeof *q);
    *q = (struct question){.next = p->questions, .provider = p, .each = each, .done = done, .arg = arg};
    q->event = evtimer_new(p->env.loop, on_question, q);
    p->questions = q;
    event_active(q->event, EV_TIMEOUT, 0);
}

const struct provider_ops provider_process = {
    .name = "process",
    .caps = PROVIDER_CAN_LAUNCH | PROVIDER_CAN_RESTART | PROVIDER_ENDS_WITH_US,
    .node_keys = node_keys,
    .open = process_open,
    .close = process_close,
    .launch = process_launch,
    .terminate = process_terminate,
    .list = process_list,
};
