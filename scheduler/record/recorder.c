/* Two buffers change places, as in base/log_sink.c. In a buffer events stand one after the other as they are in memory,
 * each as far as its kind needs it, a choice with its candidates behind it. */
#include "scheduler/record/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/thread.h"

#define ALIGN     16
#define FLUSH_AT  ((size_t)256 << 10) /* of text: one write */
#define ROOM_MIN  (16 << 10)          /* with less a file is full */
#define END_BYTES 256                 /* kept free in the file for the last line */
#define HALF      (RECORDER_BUFFER_BYTES / 2)

struct recorder {
    struct recorder_options o; /* path: owned */
    int fd;
    pthread_t thread;
    bool runs;
    struct mono began; /* under the router's lock, like the next one */
    struct record_who who;
    struct record_event event; /* likewise: what is being taken */
    struct record_candidate candidates[RECORD_CANDIDATES_MAX];

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t more;  /* the thread has something to do */
    pthread_cond_t room;  /* who waits may go on */
    char *filling;        /* owned; RECORDER_BUFFER_BYTES */
    size_t n;
    bool asleep; /* the thread waits for a first event */
    bool stopping, ended;
    char why[RECORD_WHY_BYTES]; /* it ended; "": the last line is still to be written */
    uint64_t events, missed;
    int64_t bytes;
};

/* ---- the router's side --------------------------------------------------------------------------------------------- */

static size_t aligned(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static int32_t candidates_of(const struct record_event *e)
{
    return (int)e->kind == ROUTER_CHOSE || (int)e->kind == ROUTER_LISTED ? e->u.choice.n : 0;
}

/* Events that come while there is no room are the end of it: a hole would make all that follows worthless. */
static void end_locked(struct recorder *r, const char *why)
{
    if (r->ended)
        return;
    r->ended = true;
    snprintf(r->why, sizeof r->why, "%s", why);
    pthread_cond_signal(&r->more);
}

static void put(struct recorder *r, const struct record_event *e, const struct record_candidate *c)
{
    const size_t head = aligned(record_event_bytes(e->kind));
    const size_t tail = aligned((size_t)candidates_of(e) * sizeof *c);
    pthread_mutex_lock(&r->lock);
    while (r->o.waits && !r->ended && r->n + head + tail > RECORDER_BUFFER_BYTES)
        pthread_cond_wait(&r->room, &r->lock);
    if (!r->ended && r->n + head + tail > RECORDER_BUFFER_BYTES)
        end_locked(r, "the disk is too slow");
    if (r->ended) {
        r->missed++;
        pthread_mutex_unlock(&r->lock);
        return;
    }
    memcpy(r->filling + r->n, e, record_event_bytes(e->kind));
    if (c && candidates_of(e))
        memcpy(r->filling + r->n + head, c, (size_t)candidates_of(e) * sizeof *c);
    const bool wake = r->asleep || (r->n <= HALF && r->n + head + tail > HALF);
    r->asleep = false;
    r->n += head + tail;
    r->events++;
    pthread_mutex_unlock(&r->lock);
    if (wake)
        pthread_cond_signal(&r->more);
}

static void hear(void *arg, const struct router_event *from)
{
    struct recorder *r = arg;
    record_take(from, &r->who, &r->event, r->candidates);
    r->event.at_us = mono_since(r->o.clock, r->began) / NS_PER_US;
    put(r, &r->event, r->candidates);
}

void recorder_listen_locked(struct recorder *r, struct router *router, const struct router_size *size)
{
    r->began = clock_now(r->o.clock);
    struct record_event e = {.kind = RECORD_BEGIN,
                             .u.begin = {.format = RECORD_FORMAT,
                                         .nodes = size->nodes,
                                         .pairs = size->pairs,
                                         .probability = size->probability,
                                         .wall_us = clock_wall(r->o.clock).ns / NS_PER_US}};
    snprintf(e.u.begin.version, sizeof e.u.begin.version, "%s", r->o.version);
    put(r, &e, NULL);
    router_tap(router, hear, r);
}

void recorder_name_locked(struct recorder *r, enum record_kind kind, int32_t id, const char *name)
{
    struct record_event e = {.kind = kind, .u.named.id = id};
    e.at_us = mono_since(r->o.clock, r->began) / NS_PER_US;
    snprintf(e.u.named.name, sizeof e.u.named.name, "%s", name);
    put(r, &e, NULL);
}

void recorder_who_locked(struct recorder *r, const struct record_who *who)
{
    r->who = *who;
}

struct recorder_stats recorder_stats(struct recorder *r)
{
    if (!r)
        return (struct recorder_stats){0};
    pthread_mutex_lock(&r->lock);
    const struct recorder_stats s = {!r->ended, r->events, r->missed, r->bytes};
    pthread_mutex_unlock(&r->lock);
    return s;
}

/* ---- the thread's side ----------------------------------------------------------------------------------------------- */

/* A run that was cut off (a crash, a power cut) may have left half a line. */
static bool end_line(int fd)
{
    struct stat s;
    char last = '\n';
    if (fstat(fd, &s) != 0)
        return false;
    return s.st_size == 0 || (pread(fd, &last, 1, s.st_size - 1) == 1 && (last == '\n' || file_write_all(fd, "\n", 1)));
}

/* False: it can't go on, and why is said. */
static bool flush(struct recorder *r, struct strbuf *text, int64_t *bytes)
{
    const char *why = NULL;
    if (!file_write_all(r->fd, text->data, text->len))
        why = strerror(errno);
    *bytes += (int64_t)text->len;
    strbuf_clear(text);
    pthread_mutex_lock(&r->lock);
    r->bytes = *bytes;
    if (why)
        end_locked(r, why);
    pthread_mutex_unlock(&r->lock);
    return !why;
}

static void end_full(struct recorder *r)
{
    pthread_mutex_lock(&r->lock);
    end_locked(r, "it has its size: routing.record_max_bytes");
    pthread_mutex_unlock(&r->lock);
}

/* As far as there is room. False: no further. */
static bool write_events(struct recorder *r, const char *at, const char *end, struct strbuf *text, int64_t *bytes,
                         uint64_t *written)
{
    const struct record_event *e;
    for (; at < end; *written += 1, at += aligned((size_t)candidates_of(e) * sizeof(struct record_candidate))) {
        const size_t before = text->len;
        e = (const void *)at;
        at += aligned(record_event_bytes(e->kind));
        if (record_write(text, e, (const void *)at) != RC_OK ||
            *bytes + (int64_t)text->len + END_BYTES > r->o.bytes_max) {
            text->len = before;
            (void)flush(r, text, bytes);
            end_full(r);
            return false;
        }
        if (text->len >= FLUSH_AT && !flush(r, text, bytes))
            return false;
    }
    return flush(r, text, bytes);
}

static void write_end(struct recorder *r, const char *why, struct strbuf *text, int64_t *bytes)
{
    struct record_event e = {.kind = RECORD_END};
    snprintf(e.u.end.why, sizeof e.u.end.why, "%s", why);
    if (end_line(r->fd) && record_write(text, &e, NULL) == RC_OK) /* the last write may have been half of one */
        (void)flush(r, text, bytes);
    if (strcmp(why, "stopped") != 0)
        log_warn(r->o.log, "record", "the recording of routing has ended", LOG_S("file", r->o.path),
                 LOG_S("reason", why));
}

/* Until there is something to do, and then a little longer for more of it. With the lock. */
static void gather_locked(struct recorder *r)
{
    while (!r->n && !r->stopping && !r->ended) {
        r->asleep = true;
        pthread_cond_wait(&r->more, &r->lock);
    }
    r->asleep = false;
    const struct timespec until = thread_cond_until(RECORDER_GATHER_MS * 1000);
    while (!r->stopping && !r->ended && r->n <= HALF &&
           pthread_cond_timedwait(&r->more, &r->lock, &until) != ETIMEDOUT) {
    }
}

static void *thread_main(void *arg)
{
    struct recorder *r = arg;
    struct strbuf text;
    char *writing = spw_malloc(RECORDER_BUFFER_BYTES), why[RECORD_WHY_BYTES] = "stopped";
    bool more = true;
    strbuf_init(&text, 2 * FLUSH_AT + 2 * RECORD_LINE_MAX);
    pthread_mutex_lock(&r->lock);
    int64_t bytes = r->bytes;
    uint64_t written = 0;
    while (more) {
        gather_locked(r);
        char *full = r->filling;
        const size_t n = r->n;
        more = !r->stopping && !r->ended;
        r->filling = writing;
        r->n = 0;
        pthread_cond_broadcast(&r->room);
        pthread_mutex_unlock(&r->lock);
        more = write_events(r, full, full + n, &text, &bytes, &written) && more;
        writing = full;
        pthread_mutex_lock(&r->lock);
    }
    if (r->ended)
        snprintf(why, sizeof why, "%s", r->why);
    r->missed += r->events - written;
    r->events = written;
    r->ended = true;
    pthread_cond_broadcast(&r->room);
    pthread_mutex_unlock(&r->lock);
    write_end(r, why, &text, &bytes);
    strbuf_fini(&text);
    free(writing);
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

static enum rc open_file(struct recorder *r, struct error *e)
{
    struct stat s;
    r->fd = open(r->o.path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (r->fd < 0 || fstat(r->fd, &s) != 0)
        return error_set(e, RC_IO, "%s: %s", r->o.path, strerror(errno));
    if (!S_ISREG(s.st_mode))
        return error_set(e, RC_IO, "%s is no plain file", r->o.path);
    if (!end_line(r->fd) || fstat(r->fd, &s) != 0)
        return error_set(e, RC_IO, "%s: %s", r->o.path, strerror(errno));
    r->bytes = s.st_size;
    return RC_OK;
}

static void init_locks(struct recorder *r)
{
    pthread_mutex_init(&r->lock, NULL);
    thread_cond_init(&r->more);
    pthread_cond_init(&r->room, NULL);
}

enum rc recorder_new(struct recorder **out, const struct recorder_options *o, struct error *e)
{
    struct recorder *r = spw_calloc(1, sizeof *r);
    *out = NULL;
    r->o = *o;
    r->o.path = spw_strdup(o->path);
    r->filling = spw_malloc(RECORDER_BUFFER_BYTES);
    init_locks(r);
    enum rc rc = open_file(r, e);
    if (rc == RC_OK && r->bytes + ROOM_MIN > o->bytes_max) {
        r->ended = true;
        log_warn(o->log, "record", "nothing is recorded: the file has its size already (routing.record_max_bytes)",
                 LOG_S("file", r->o.path));
    } else if (rc == RC_OK) {
        const int failed = thread_start(&r->thread, "record", thread_main, r);
        r->runs = !failed;
        rc = failed ? error_set(e, RC_IO, "no thread to record with: %s", strerror(failed)) : RC_OK;
    }
    if (rc == RC_OK)
        *out = r;
    else
        recorder_free(r);
    return rc;
}

void recorder_free(struct recorder *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_signal(&r->more);
    pthread_mutex_unlock(&r->lock);
    if (r->runs)
        pthread_join(r->thread, NULL);
    if (r->fd > 0)
        close(r->fd);
    pthread_cond_destroy(&r->more);
    pthread_cond_destroy(&r->room);
    pthread_mutex_destroy(&r->lock);
    free(r->filling);
    free((char *)(uintptr_t)r->o.path);
    free(r);
}
