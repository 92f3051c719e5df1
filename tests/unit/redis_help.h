/* A real redis-server for tests, on loopback and a port that was free, in a folder of its own. */
#ifndef TESTS_UNIT_REDIS_HELP_H
#define TESTS_UNIT_REDIS_HELP_H

#include <hiredis/hiredis.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/http_peer.h"

extern char **environ;

struct help_server {
    char folder[32];
    int port;
    pid_t pid;
};

/* more: words of its command line, ended by NULL. False: there is no redis-server. */
static inline bool help_server_start(struct help_server *s, const char *const *more)
{
    char number[16];
    const char *argv[48] = {"redis-server", "--port", number,      "--bind", "127.0.0.1",   "--save", "",
                            "--dir",        NULL,     "--logfile", "log",    "--daemonize", "no"};
    int n = 13;
    if (!s->port) {
        snprintf(s->folder, sizeof s->folder, "/tmp/spw_redis_XXXXXX");
        if (!mkdtemp(s->folder))
            return false;
        s->port = peer_free_port();
    }
    argv[8] = s->folder;
    while (*more)
        argv[n++] = *more++;
    argv[n] = NULL;
    snprintf(number, sizeof number, "%d", s->port);
    return posix_spawnp(&s->pid, "redis-server", NULL, NULL, (char *const *)argv, environ) == 0;
}

static inline void help_server_kill(struct help_server *s)
{
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    s->pid = 0;
}

/* Its folder, with all that is in it. A child of a killed server may still be writing its log anew. */
static inline void help_server_clean(const struct help_server *s)
{
    const char *argv[] = {"rm", "-rf", s->folder, NULL};
    for (int i = 0; i < 100 && s->folder[0] && access(s->folder, F_OK) == 0; i++) {
        pid_t pid;
        if (posix_spawnp(&pid, "rm", NULL, NULL, (char *const *)argv, environ) != 0)
            return;
        waitpid(pid, NULL, 0);
        usleep(20000);
    }
}

/* A blocking connection, within 10 s. */
static inline redisContext *help_server_connect(const struct help_server *s)
{
    for (int64_t end = peer_ms() + 10000; peer_ms() < end;) {
        redisContext *c = redisConnect("127.0.0.1", s->port);
        redisReply *r = c && !c->err ? redisCommand(c, "PING") : NULL;
        bool up = r && r->type == REDIS_REPLY_STATUS;
        if (r)
            freeReplyObject(r);
        if (up)
            return c;
        if (c)
            redisFree(c);
        usleep(10000);
    }
    return NULL;
}

#endif
