#include "engine/node/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"

#define EXIT_NOT_RUN 127

struct child {
    pid_t pid;
    int pidfd;
    struct event *event; /* owned */
    void (*ended)(int status, void *arg);
    void *arg;
};

/* In the new process, before exec: only calls that are safe there. All signals are blocked. */
static _Noreturn void become(const char *const *argv, int channel_fd, int listener_fd, pid_t parent)
{
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before the line above */
        _exit(EXIT_NOT_RUN);
    /* Out of each other's way first. dup2() leaves them open across exec. */
    int a = fcntl(channel_fd, F_DUPFD, CHILD_LISTENER_FD + 1);
    int b = fcntl(listener_fd, F_DUPFD, CHILD_LISTENER_FD + 1);
    if (a < 0 || b < 0 || dup2(a, CHILD_CHANNEL_FD) < 0 || dup2(b, CHILD_LISTENER_FD) < 0)
        _exit(EXIT_NOT_RUN);
    close_range(CHILD_LISTENER_FD + 1, ~0U, 0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
    _exit(EXIT_NOT_RUN);
}

static void on_end(evutil_socket_t fd, short what, void *arg)
{
    struct child *c = arg;
    int status = 0;
    (void)fd;
    (void)what;
    pid_t pid = waitpid(c->pid, &status, WNOHANG);
    if (pid == 0 || (pid < 0 && errno == EINTR)) {
        event_add(c->event, NULL);
        return;
    }
    c->pid = 0;
    void (*ended)(int, void *) = c->ended;
    void *ended_arg = c->arg;
    child_free(c);
    ended(status, ended_arg);
}

enum rc child_start(struct child **out, struct event_base *loop, const char *const *argv, int channel_fd,
                    int listener_fd, void (*ended)(int status, void *arg), void *arg, struct error *e)
{
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before); /* our handlers may not run in the child */
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        become(argv, channel_fd, listener_fd, parent);
    int failed = pid < 0 ? errno : 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    struct child *c = spw_calloc(1, sizeof *c);
    *c = (struct child){.pid = pid, .pidfd = failed ? -1 : pidfd_open(pid, 0), .ended = ended, .arg = arg};
    if (!failed && c->pidfd < 0)
        failed = errno;
    if (!failed) {
        fcntl(c->pidfd, F_SETFD, FD_CLOEXEC);
        c->event = event_new(loop, c->pidfd, EV_READ, on_end, c);
        failed = c->event && event_add(c->event, NULL) == 0 ? 0 : ENOMEM;
    }
    if (failed) {
        child_free(c);
        return error_set(e, RC_IO, "cannot start a worker: %s", strerror(failed));
    }
    *out = c;
    return RC_OK;
}

pid_t child_pid(const struct child *c)
{
    return c->pid;
}

void child_kill(struct child *c)
{
    kill(c->pid, SIGKILL);
}

void child_free(struct child *c)
{
    if (!c)
        return;
    if (c->pid > 0) {
        kill(c->pid, SIGKILL);
        while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    if (c->event)
        event_free(c->event);
    if (c->pidfd >= 0)
        close(c->pidfd);
    free(c);
}

void child_say_status(int status, char *text, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(text, size, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (WEXITSTATUS(status) == EXIT_NOT_RUN)
        snprintf(text, size, "the program could not be executed");
    else
        snprintf(text, size, "exited with status %d", WEXITSTATUS(status));
}
