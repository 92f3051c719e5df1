/* Two buffers change places: one takes lines, the other is written. The lock guards them and is never held over a
 * write. */
#include "base/log_sink.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/thread.h"

#define LOG_SINK_NOTE_MAX 160 /* the line about dropped lines */

struct log_sink {
    int fd;
    pthread_t thread;
    bool runs;

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t more;
    char *filling; /* owned; LOG_SINK_BYTES */
    size_t n;
    bool asleep; /* the thread waits for a first line */
    bool hurry, stopping;
    uint64_t dropped, told; /* lines; told: of these a line has been written */
};

/* A dead reader must not stop the program: what cannot be written is lost. */
static void write_all(int fd, const char *data, size_t n)
{
    while (n) {
        ssize_t put = write(fd, data, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return;
        data += put;
        n -= (size_t)put;
    }
}

/* Until there is something to write, and then a little longer for more of it. With the lock. */
static void gather_locked(struct log_sink *s)
{
    while (!s->n && s->dropped == s->told && !s->stopping) {
        s->asleep = true;
        pthread_cond_wait(&s->more, &s->lock);
    }
    s->asleep = false;
    const struct timespec until = thread_cond_until(LOG_SINK_GATHER_MS * 1000);
    while (!s->hurry && !s->stopping && pthread_cond_timedwait(&s->more, &s->lock, &until) != ETIMEDOUT) {
    }
    s->hurry = false;
}

static void *thread_main(void *arg)
{
    struct log_sink *s = arg;
    char *writing = spw_malloc(LOG_SINK_BYTES), note[LOG_SINK_NOTE_MAX];

    pthread_mutex_lock(&s->lock);
    for (;;) {
        gather_locked(s);
        char *full = s->filling;
        size_t n = s->n;
        uint64_t lost = s->dropped - s->told;
        if (!n && !lost)
            break; /* stopping */
        s->filling = writing;
        s->n = 0;
        s->told = s->dropped;
        pthread_mutex_unlock(&s->lock);
        write_all(s->fd, full, n);
        if (lost) {
            int len =
                snprintf(note, sizeof note,
                         "{\"level\":\"warn\",\"area\":\"log\",\"message\":\"lines were dropped: the reader is too "
                         "slow\",\"lines\":%llu}\n",
                         (unsigned long long)lost);
            write_all(s->fd, note, (size_t)len);
        }
        writing = full;
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    free(writing);
    return NULL;
}

static enum rc start(struct log_sink *s, struct error *e)
{
    int failed = thread_start(&s->thread, "log", thread_main, s);
    if (failed)
        return error_set(e, RC_IO, "log: no thread: %s", strerror(failed));
    thread_stand_back(s->thread);
    s->runs = true;
    return RC_OK;
}

enum rc log_sink_new(struct log_sink **out, int fd, struct error *e)
{
    struct log_sink *s = spw_calloc(1, sizeof *s);

    *out = NULL;
    s->fd = fd;
    s->filling = spw_malloc(LOG_SINK_BYTES);
    pthread_mutex_init(&s->lock, NULL);
    thread_cond_init(&s->more);
    enum rc rc = start(s, e);
    if (rc != RC_OK) {
        log_sink_free(s);
        return rc;
    }
    *out = s;
    return RC_OK;
}

void log_sink_free(struct log_sink *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    if (s->runs)
        pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    free(s->filling);
    free(s);
}

bool log_sink_put(struct log_sink *s, const char *line, size_t n, enum log_sink_hurry hurry)
{
    pthread_mutex_lock(&s->lock);
    bool room = n <= LOG_SINK_BYTES - s->n;
    if (room) {
        memcpy(s->filling + s->n, line, n);
        s->n += n;
    } else {
        s->dropped++;
    }
    /* Half full is reason to hurry, too. */
    bool now = (hurry == LOG_SINK_NOW || s->n > LOG_SINK_BYTES / 2) && !s->hurry;
    bool wake = s->asleep || now;
    s->asleep = false;
    s->hurry = s->hurry || now;
    pthread_mutex_unlock(&s->lock);
    if (wake)
        pthread_cond_signal(&s->more);
    return room;
}

uint64_t log_sink_dropped(struct log_sink *s)
{
    pthread_mutex_lock(&s->lock);
    uint64_t n = s->dropped;
    pthread_mutex_unlock(&s->lock);
    return n;
}
