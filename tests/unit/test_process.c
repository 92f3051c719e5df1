/* Provider `process`: starts, watches, restarts, ends by SIGTERM then SIGKILL, and nothing outlives us. The engines
 * here are shell scripts.
 * links: spw_providers */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "providers/provider.h"
#include "tests/unit/folder_help.h"
#include "tests/unit/test.h"

struct fixture {
    struct event_base *loop;
    struct provider *p;
    struct log log;
    char dir[64], script[96], log_path[96];
    enum provider_instance_state want;
    int changes, pid, port, restarts, ended;
    char states[256];
    char reason[128];
};

static void on_change(const struct provider_instance *i, void *arg)
{
    struct fixture *f = arg;
    size_t n = strlen(f->states);
    snprintf(f->states + n, sizeof f->states - n, "%s ", provider_instance_state_name(i->state));
    snprintf(f->reason, sizeof f->reason, "%s", i->reason);
    f->changes++;
    f->pid = i->pid;
    f->port = i->port;
    f->restarts = i->restarts;
    if (i->state == f->want)
        event_base_loopbreak(f->loop);
}

static void on_end(enum provider_failure failure, const char *text, void *arg)
{
    struct fixture *f = arg;
    CHECK_INT(failure, PROVIDER_FINE);
    CHECK_STR(text, "");
    f->ended++;
    event_base_loopbreak(f->loop);
}

static void setup(struct fixture *f, const char *script)
{
    memset(f, 0, sizeof(*f));
    snprintf(f->dir, sizeof f->dir, "/tmp/spillway-test-XXXXXX");
    CHECK(mkdtemp(f->dir) != NULL);
    snprintf(f->script, sizeof f->script, "%s/engine", f->dir);
    snprintf(f->log_path, sizeof f->log_path, "%s/log", f->dir);
    FILE *out = fopen(f->script, "w");
    fprintf(out, "#!/bin/sh\n%s\n", script);
    fclose(out);
    chmod(f->script, 0755);
    f->log = (struct log){.fd = open(f->log_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600),
                          .level = LOG_DEBUG,
                          .clock = &clock_system,
                          .program = "test"};
    f->loop = event_base_new();
    struct provider_env env = {
        .loop = f->loop, .log = &f->log, .clock = &clock_system, .on_change = on_change, .arg = f};
    struct error e;
    CHECK_INT(provider_process.open(&f->p, &env, &e), RC_OK);
}

static void teardown(struct fixture *f)
{
    provider_process.close(f->p);
    event_base_free(f->loop);
    close(f->log.fd);
    help_remove_folder(f->dir);
}

static enum rc launch(struct fixture *f)
{
    struct provider_spec spec = {
        .name = "a", .engine = f->script, .model_path = "m.gguf", .alias = "tiny", .threads = 2};
    struct error e;
    return f->p->ops->launch(f->p, &spec, &e);
}

/* Run the loop until a state comes or a terminate ends; at most two seconds. */
static void run(struct fixture *f, enum provider_instance_state want)
{
    struct timeval limit = {.tv_sec = 2};
    f->want = want;
    event_base_loopexit(f->loop, &limit);
    event_base_dispatch(f->loop);
}

static bool alive(int pid)
{
    return kill(pid, 0) == 0;
}

static bool log_has(struct fixture *f, const char *text)
{
    static char buf[16384];
    ssize_t n = pread(f->log.fd, buf, sizeof buf - 1, 0);
    buf[n > 0 ? n : 0] = '\0';
    return strstr(buf, text) != NULL;
}

/* What it says comes by the loop. */
static bool says(struct fixture *f, const char *text)
{
    for (int i = 0; i < 2000 && !log_has(f, text); i++) {
        event_base_loop(f->loop, EVLOOP_NONBLOCK);
        usleep(10000);
    }
    return log_has(f, text);
}

static void starts_and_ends_kindly(void)
{
    struct fixture f;
    setup(&f, "echo \"args $*\"; echo '{\"k\":1}'; exec sleep 60");
    CHECK_INT(launch(&f), RC_OK);
    CHECK_INT(f.changes, 0); /* nothing from inside the call */
    CHECK_INT(launch(&f), RC_CONFLICT);
    run(&f, INSTANCE_RUNNING);
    int pid = f.pid;
    CHECK(pid > 0 && alive(pid) && f.port > 0 && getpgid(pid) == pid);
    CHECK_INT(f.p->ops->terminate(f.p, "b", 100, on_end, &f), RC_NOT_FOUND);
    CHECK(says(&f, "{\"node\":\"a\",\"k\":1}\n"));
    CHECK_INT(f.p->ops->terminate(f.p, "a", 5000, on_end, &f), RC_OK);
    CHECK_INT(f.ended, 0);
    run(&f, INSTANCE_STARTING);
    CHECK_INT(f.ended, 1);
    CHECK_STR(f.states, "running gone ");
    CHECK(!alive(pid));
    char args[160];
    snprintf(args, sizeof args, "args serve --model m.gguf --host 127.0.0.1 --port %d --alias tiny --threads 2",
             f.port);
    CHECK(log_has(&f, args));
    CHECK(log_has(&f, "{\"node\":\"a\",\"k\":1}\n"));
    CHECK_INT(launch(&f), RC_OK); /* the name is free again */
    teardown(&f);
}

static void stubborn_is_killed(void)
{
    struct fixture f;
    setup(&f, "trap '' TERM; echo deaf; sleep 60 & while :; do wait; sleep 1; done");
    CHECK_INT(launch(&f), RC_OK);
    run(&f, INSTANCE_RUNNING);
    CHECK(says(&f, "deaf"));
    CHECK_INT(f.p->ops->terminate(f.p, "a", 60000, on_end, &f), RC_OK);
    CHECK_INT(f.p->ops->terminate(f.p, "a", 100, on_end, &f), RC_OK); /* shortens */
    run(&f, INSTANCE_GONE);
    CHECK_INT(f.ended, 2);
    CHECK_STR(f.reason, "ended by signal 9");
    teardown(&f);
}

static void dead_engine_comes_back(void)
{
    struct fixture f;
    setup(&f, "exec sleep 60");
    CHECK_INT(launch(&f), RC_OK);
    run(&f, INSTANCE_RUNNING);
    int first = f.pid;
    kill(first, SIGKILL);
    run(&f, INSTANCE_BACKOFF);
    CHECK_STR(f.reason, "ended by signal 9");
    CHECK_INT(f.pid, 0);
    run(&f, INSTANCE_RUNNING);
    CHECK_STR(f.states, "running backoff starting running ");
    CHECK(f.pid != first && f.pid > 0);
    CHECK_INT(f.restarts, 1);
    teardown(&f);
}

static void failing_engine_backs_off_and_can_be_ended(void)
{
    struct fixture f;
    setup(&f, "exit 3");
    CHECK_INT(launch(&f), RC_OK);
    run(&f, INSTANCE_BACKOFF);
    CHECK_STR(f.reason, "exited with status 3");
    run(&f, INSTANCE_BACKOFF);
    CHECK_INT(f.restarts, 1);
    CHECK_INT(f.p->ops->terminate(f.p, "a", 60000, on_end, &f), RC_OK);
    run(&f, INSTANCE_GONE);
    CHECK_INT(f.ended, 1);
    teardown(&f);
}

static void missing_program_is_refused(void)
{
    struct fixture f;
    struct error e;
    setup(&f, "exit 0");
    struct provider_spec spec = {.name = "a", .engine = "/nonexistent/engine", .model_path = "m"};
    CHECK_INT(f.p->ops->launch(f.p, &spec, &e), RC_IO);
    CHECK(strstr(e.message, "/nonexistent/engine") && strstr(e.message, "set engine"));
    spec.model_path = NULL;
    CHECK_INT(f.p->ops->launch(f.p, &spec, &e), RC_INVALID);
    teardown(&f);
}

static void close_ends_all(void)
{
    struct fixture f;
    setup(&f, "trap '' TERM; exec sleep 60");
    CHECK_INT(launch(&f), RC_OK);
    run(&f, INSTANCE_RUNNING);
    int pid = f.pid;
    teardown(&f);
    CHECK(!alive(pid));
}

struct listing {
    struct fixture *f;
    int n, port;
    bool done;
    char token[32], pool[32];
};

static void on_listed(const struct provider_instance *i, void *arg)
{
    struct listing *l = arg;
    l->n++;
    l->port = i->port;
    snprintf(l->token, sizeof l->token, "%s", i->token);
    snprintf(l->pool, sizeof l->pool, "%s", i->pool);
}

static void on_list_end(enum provider_failure failure, const char *text, void *arg)
{
    struct listing *l = arg;
    CHECK_INT(failure, PROVIDER_FINE);
    CHECK_STR(text, "");
    l->done = true;
    event_base_loopbreak(l->f->loop);
}

static void of_a_pool_and_listed(void)
{
    struct fixture f;
    struct listing l = {.f = &f};
    setup(&f, "echo \"args $*\"; exec sleep 60");
    const struct provider_pair pairs[] = {{"model_path", "m.gguf"}, {"engine", f.script}, {"threads", "3"}};
    const struct provider_settings settings = {provider_process.node_keys, pairs, 3};
    const struct provider_spec spec = {
        .name = "p-1", .alias = "tiny", .token = "tok", .pool = "p", .settings = &settings};
    struct error e;
    CHECK_INT(f.p->ops->launch(f.p, &spec, &e), RC_OK);
    run(&f, INSTANCE_RUNNING);
    f.p->ops->list(f.p, on_listed, on_list_end, &l);
    CHECK(!l.done);
    event_base_dispatch(f.loop);
    CHECK(l.done && l.n == 1 && l.port == f.port);
    CHECK_STR(l.token, "tok");
    CHECK_STR(l.pool, "p");
    CHECK(says(&f, "--threads 3") && log_has(&f, "--model m.gguf"));
    f.p->ops->list(f.p, on_listed, on_list_end, &l); /* closed before the answer */
    teardown(&f);
}

/* A scheduler that is killed outright takes its engines with it. */
static void nothing_outlives_us(void)
{
    int fds[2];
    struct fixture its = {0}; /* as its process has it */
    CHECK_INT(pipe(fds), 0);
    pid_t scheduler = fork();
    if (scheduler == 0) {
        struct fixture f;
        setup(&f, "exec sleep 60");
        if (launch(&f) != RC_OK)
            _exit(1);
        run(&f, INSTANCE_RUNNING);
        ssize_t ignored = write(fds[1], &f, sizeof f);
        (void)ignored;
        for (;;)
            pause();
    }
    CHECK_INT(read(fds[0], &its, sizeof its), sizeof its);
    CHECK(its.pid > 0 && alive(its.pid));
    kill(scheduler, SIGKILL);
    waitpid(scheduler, NULL, 0);
    bool dead = false;
    for (int i = 0; i < 2000 && !dead; i++) {
        char path[64], stat[256] = "";
        snprintf(path, sizeof path, "/proc/%d/stat", its.pid);
        int fd = open(path, O_RDONLY);
        dead = fd < 0 || read(fd, stat, sizeof stat - 1) <= 0 || strstr(stat, ") Z ");
        if (fd >= 0)
            close(fd);
        usleep(10000);
    }
    CHECK(dead);
    help_remove_folder(its.dir);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    TEST(starts_and_ends_kindly);
    TEST(stubborn_is_killed);
    TEST(dead_engine_comes_back);
    TEST(failing_engine_backs_off_and_can_be_ended);
    TEST(missing_program_is_refused);
    TEST(close_ends_all);
    TEST(of_a_pool_and_listed);
    TEST(nothing_outlives_us);
    return TEST_RESULT();
}
