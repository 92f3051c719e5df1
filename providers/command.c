#include "providers/command.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "providers/provider.h"

struct command {
    pid_t pid;
    int pidfd;
    struct event *exit, *timer;
    bool late;
    command_cb *cb;
    void *arg;
};

static void command_free(struct command *c)
{
    event_free(c->exit);
    event_free(c->timer);
    close(c->pidfd);
    free(c);
}

static void on_exit_event(evutil_socket_t fd, short what, void *arg)
{
    struct command *c = arg;
    int status = 0;
    char text[64] = "";
    (void)fd;
    (void)what;
    kill(-c->pid, SIGKILL); /* what it left behind; before reaping, while the number is surely its own */
    if (waitpid(c->pid, &status, WNOHANG) != c->pid) {
        event_add(c->exit, NULL);
        return;
    }
    if (c->late)
        snprintf(text, sizeof(text), "did not end in time");
    else if (WIFSIGNALED(status))
        snprintf(text, sizeof(text), "ended by signal %d", WTERMSIG(status));
    else if (WEXITSTATUS(status))
        snprintf(text, sizeof(text), "exited with status %d", WEXITSTATUS(status));
    command_cb *cb = c->cb;
    void *cb_arg = c->arg;
    command_free(c);
    cb(text[0] == '\0', text, cb_arg);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
    struct command *c = arg;
    (void)fd;
    (void)what;
    c->late = true;
    kill(-c->pid, SIGKILL);
}

static int spawn(pid_t *pid, char *const *argv)
{
    extern char **environ;
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attr);
    for (int fd = 0; fd < 3; fd++)
        posix_spawn_file_actions_addopen(&files, fd, "/dev/null", fd ? O_WRONLY : O_RDONLY, 0);
    posix_spawn_file_actions_addclosefrom_np(&files, 3);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    int code = posix_spawnp(pid, argv[0], &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return code;
}

enum rc command_start(struct command **out, struct event_base *loop, const char *words, int64_t deadline_ms,
                      command_cb *cb, void *arg, struct error *e)
{
    char *argv[COMMAND_WORDS_MAX + 1];
    const char *at = words, *word;
    size_t n;
    int n_words = 0, code = 0;
    pid_t pid = 0;
    while ((n = provider_setting_word(&at, &word)) > 0 && n_words < COMMAND_WORDS_MAX)
        argv[n_words++] = spw_strndup(word, n);
    argv[n_words] = NULL;
    enum rc rc = n || !n_words ? error_set(e, RC_INVALID, "a command has 1 to %d words", COMMAND_WORDS_MAX) : RC_OK;
    if (rc == RC_OK && (code = spawn(&pid, argv)) != 0)
        rc = error_set(e, RC_IO, "cannot run '%s': %s", argv[0], strerror(code));
    for (int i = 0; i < n_words; i++)
        free(argv[i]);
    if (rc != RC_OK)
        return rc;
    int pidfd = pidfd_open(pid, 0);
    if (pidfd < 0) {
        code = errno;
        kill(-pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return error_set(e, RC_IO, "cannot watch a command: %s", strerror(code));
    }
    fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    struct command *c = spw_calloc(1, sizeof(*c));
    const struct timeval late = {.tv_sec = deadline_ms / 1000, .tv_usec = deadline_ms % 1000 * 1000};
    *c = (struct command){.pid = pid, .pidfd = pidfd, .cb = cb, .arg = arg};
    c->exit = event_new(loop, pidfd, EV_READ, on_exit_event, c);
    c->timer = evtimer_new(loop, on_late, c);
    SPW_ASSERT(c->exit && c->timer);
    event_add(c->exit, NULL);
    event_add(c->timer, &late);
    *out = c;
    return RC_OK;
}

void command_stop(struct command *c)
{
    if (!c)
        return;
    kill(-c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    command_free(c);
}
