#include "scheduler/cli/service.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/args.h"
#include "base/text.h"

#define FIRST_FD 3
#define ENV_MAX  1024
#define PID_TEXT 24
/* Ours: the number of the pipe in which an old process waits for our word. */
#define WORD_VARIABLE "SPILLWAY_HANDOVER_FD"

extern char **environ;

/* ---- what we were started with -------------------------------------------------------------------------------------- */

static int64_t number_of(const char *name, int64_t hi)
{
    const char *text = getenv(name);
    int64_t v = 0;
    return text && text_parse_int(text, 0, hi, &v) == RC_OK ? v : 0;
}

/* A variable that names a process is for that one alone. */
static bool is_for_us(const char *name)
{
    return !getenv(name) || number_of(name, INT32_MAX) == getpid();
}

static enum rc take_sockets(struct service *s, struct error *e)
{
    int64_t n = is_for_us("LISTEN_PID") ? number_of("LISTEN_FDS", INT32_MAX) : 0;
    if (n > SERVICE_FDS_MAX)
        return error_set(e, RC_INVALID, "LISTEN_FDS=%" PRId64 ": at most %d listeners can be handed over", n,
                         SERVICE_FDS_MAX);
    for (int i = 0; i < n; i++) {
        int fd = FIRST_FD + i, listening = 0;
        socklen_t size = sizeof(listening);
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || !listening)
            return error_set(e, RC_INVALID, "LISTEN_FDS=%" PRId64 ": descriptor %d is no listening socket", n, fd);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        s->fds[s->n_fds++] = fd;
    }
    return RC_OK;
}

enum rc service_init(struct service *s, struct error *e)
{
    static const char *const all[] = {"LISTEN_FDS",    "LISTEN_PID",   "LISTEN_FDNAMES", "NOTIFY_SOCKET",
                                      "WATCHDOG_USEC", "WATCHDOG_PID", WORD_VARIABLE};
    const char *notify = getenv("NOTIFY_SOCKET");
    *s = (struct service){.word_fd = -1, .child_fd = -1};
    enum rc rc = take_sockets(s, e);
    if (notify && (notify[0] == '/' || notify[0] == '@'))
        s->notify = spw_strdup(notify);
    if (is_for_us("WATCHDOG_PID"))
        s->watchdog_us = number_of("WATCHDOG_USEC", INT64_MAX);
    if (getenv(WORD_VARIABLE)) {
        s->word_fd = (int)number_of(WORD_VARIABLE, INT32_MAX);
        s->takes_over = fcntl(s->word_fd, F_SETFD, FD_CLOEXEC) == 0;
        s->word_fd = s->takes_over ? s->word_fd : -1;
    }
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        unsetenv(all[i]);
    return rc;
}

void service_can_take_over(struct service *s)
{
    if (s->word_fd < 0)
        return;
    ssize_t ignored = write(s->word_fd, "1", 1);
    (void)ignored;
    close(s->word_fd);
    s->word_fd = -1;
}

/* ---- the manager ---------------------------------------------------------------------------------------------------- */

void service_say(const struct service *s, const char *text)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = s->notify ? strlen(s->notify) : 0;
    if (!n || n >= sizeof(to.sun_path))
        return;
    memcpy(to.sun_path, s->notify, n);
    if (to.sun_path[0] == '@')
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return;
    (void)!sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&to,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    close(fd);
}

static void on_watchdog(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    service_say(arg, "WATCHDOG=1");
}

/* ---- handing over --------------------------------------------------------------------------------------------------- */

/* Everything that the child needs is made before the fork: other threads run, and may hold any lock. */
struct start {
    char path[PATH_MAX];
    char *env[ENV_MAX];
    char *notify; /* owned, stands in `env` too; NULL: nobody waits for word */
    char fds_text[40], pid_text[PID_TEXT + 16], word_text[64];
    int fds[SERVICE_FDS_MAX + 1]; /* the last: the pipe */
    int n;
};

/* The program at the path that we were started from. After an upgrade that is another file, and ours is "(deleted)". */
static bool own_path(char *path)
{
    static const char gone[] = " (deleted)";
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (n <= 0)
        return false;
    path[n] = '\0';
    size_t m = sizeof(gone) - 1;
    if ((size_t)n > m && strcmp(path + n - m, gone) == 0)
        path[(size_t)n - m] = '\0';
    return true;
}

static enum rc prepare(struct service *s, struct start *a, int word_fd, struct error *e)
{
    int n = 0;
    a->n = s->listeners(a->fds, SERVICE_FDS_MAX, s->arg);
    if (!own_path(a->path) || a->n == 0)
        return error_set(e, RC_IO, "neither our program nor our listener can be handed over");
    a->fds[a->n] = word_fd;
    for (char **v = environ; *v && n < ENV_MAX - 5; v++)
        a->env[n++] = *v;
    snprintf(a->fds_text, sizeof(a->fds_text), "LISTEN_FDS=%d", a->n);
    snprintf(a->pid_text, sizeof(a->pid_text), "LISTEN_PID=");
    snprintf(a->word_text, sizeof(a->word_text), WORD_VARIABLE "=%d", FIRST_FD + a->n);
    a->env[n++] = a->fds_text;
    a->env[n++] = a->pid_text;
    a->env[n++] = a->word_text;
    a->notify = s->notify ? spw_asprintf("NOTIFY_SOCKET=%s", s->notify) : NULL;
    if (a->notify)
        a->env[n++] = a->notify;
    a->env[n] = NULL;
    return RC_OK;
}

/* After the fork: calls that are safe there alone. All descriptors go up first, so that none is overwritten on its way
 * to its place. */
static _Noreturn void become_new(struct start *a, char *const *argv)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
    int up[SERVICE_FDS_MAX + 1];
    for (int i = 0; i <= a->n; i++) {
        up[i] = fcntl(a->fds[i], F_DUPFD, FIRST_FD + SERVICE_FDS_MAX + 1);
        if (up[i] < 0)
            _exit(126);
    }
    for (int i = 0; i <= a->n; i++)
        if (dup2(up[i], FIRST_FD + i) < 0)
            _exit(126);
    close_range((unsigned)(FIRST_FD + a->n + 1), ~0U, 0);
    char digits[PID_TEXT];
    int n = 0;
    for (long pid = getpid(); pid > 0; pid /= 10)
        digits[n++] = (char)('0' + pid % 10);
    char *at = a->pid_text + sizeof("LISTEN_PID=") - 1;
    while (n > 0)
        *at++ = digits[--n];
    *at = '\0';
    execve(a->path, argv, a->env);
    _exit(127);
}

static void forget_child(struct service *s)
{
    if (s->word)
        event_free(s->word);
    if (s->child_fd >= 0)
        close(s->child_fd);
    s->word = NULL;
    s->child_fd = -1;
    s->child = 0;
}

/* The new process speaks, or has ended. */
static void on_word(evutil_socket_t fd, short what, void *arg)
{
    struct service *s = arg;
    char c, text[64];
    int status = 0;
    (void)what;
    ssize_t n = read((int)fd, &c, 1);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    pid_t child = s->child;
    forget_child(s);
    if (n == 1) {
        log_info(s->log, "serve", "handing over to a new process", LOG_I("pid", child));
        snprintf(text, sizeof(text), "MAINPID=%ld\nSTATUS=a new process takes over", (long)child);
        service_say(s, text);
        s->taken_over(s->arg);
        return;
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    log_error(s->log, "serve", "the new process cannot take over; this one goes on",
              LOG_S("reason", WIFEXITED(status) && WEXITSTATUS(status) == ARGS_EXIT_USAGE
                                  ? "it refuses the configuration; its message stands above"
                                  : "it ended"),
              LOG_I("exit_code", WIFEXITED(status) ? WEXITSTATUS(status) : -1));
}

static enum rc start_new(struct service *s, struct error *e)
{
    struct start *a = spw_calloc(1, sizeof(*a));
    int fds[2] = {-1, -1};
    enum rc rc = pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0 ? RC_OK : error_set(e, RC_IO, "pipe: %s", strerror(errno));
    if (rc == RC_OK)
        rc = prepare(s, a, fds[1], e);
    pid_t pid = rc == RC_OK ? fork() : -1;
    if (pid == 0)
        become_new(a, s->argv);
    if (rc == RC_OK && pid < 0)
        rc = error_set(e, RC_IO, "fork: %s", strerror(errno));
    if (fds[1] >= 0)
        close(fds[1]);
    free(a->notify);
    free(a);
    if (rc != RC_OK) {
        if (fds[0] >= 0)
            close(fds[0]);
        return rc;
    }
    s->child = pid;
    s->child_fd = fds[0];
    s->word = event_new(s->loop, fds[0], EV_READ | EV_PERSIST, on_word, s);
    SPW_ASSERT(s->word);
    event_add(s->word, NULL);
    return RC_OK;
}

static void on_ask(evutil_socket_t number, short what, void *arg)
{
    struct service *s = arg;
    struct error e;
    (void)number;
    (void)what;
    if (s->child) {
        log_warn(s->log, "serve", "a new process is being started already");
        return;
    }
    log_info(s->log, "serve", "signal", LOG_S("name", strsignal(SIGUSR2)));
    if (start_new(s, &e) != RC_OK)
        log_error(s->log, "serve", "no new process could be started", LOG_S("reason", e.message));
}

enum rc service_start(struct service *s, struct event_base *loop, const struct log *log, char *const *argv,
                      struct error *e)
{
    s->loop = loop;
    s->log = log;
    s->argv = argv;
    s->ask = evsignal_new(loop, SIGUSR2, on_ask, s);
    if (!s->ask || event_add(s->ask, NULL) != 0)
        return error_set(e, RC_IO, "SIGUSR2 cannot be watched");
    if (s->watchdog_us <= 0)
        return RC_OK;
    const struct timeval half = {.tv_sec = s->watchdog_us / 2 / 1000000, .tv_usec = s->watchdog_us / 2 % 1000000};
    s->watchdog = event_new(loop, -1, EV_PERSIST, on_watchdog, s);
    SPW_ASSERT(s->watchdog);
    event_add(s->watchdog, &half);
    return RC_OK;
}

void service_fini(struct service *s)
{
    forget_child(s);
    if (s->watchdog)
        event_free(s->watchdog);
    if (s->ask)
        event_free(s->ask);
    if (s->word_fd >= 0)
        close(s->word_fd);
    free(s->notify);
    s->watchdog = s->ask = NULL;
    s->notify = NULL;
    s->word_fd = -1;
}
