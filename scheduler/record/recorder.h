/* Writes a recording (record.h) while a router lives: the router's tap copies each event into a buffer, a thread makes
 * lines of them and writes the file, RECORDER_GATHER_MS after the first. A recording has no holes: where it can't go on
 * it ends, its last line says why, and what comes after is counted:
 *
 *   the file has bytes_max        it stays as it is until somebody moves it away and the scheduler starts again
 *   the disk is too slow          RECORDER_BUFFER_BYTES of events were waiting for it (but see `waits`)
 *   the disk is full, or broken
 *
 * A file that is there already goes on with another run (`begin`), if it has room.
 *
 * Threads: names with _locked want the lock that the router is under; none of them waits for the disk. The rest:
 * any. */
#ifndef SCHEDULER_RECORD_RECORDER_H
#define SCHEDULER_RECORD_RECORDER_H

#include "base/clock.h"
#include "base/log.h"
#include "scheduler/record/record.h"

#define RECORDER_BUFFER_BYTES ((size_t)4 << 20) /* two of them: one is filled while the other is written */
#define RECORDER_GATHER_MS    50

struct recorder;
struct recorder_options {
    const char *path;
    int64_t bytes_max; /* of the file */
    const struct clock *clock;
    const struct log *log;
    const char *version;
    bool waits; /* a full buffer is waited for: of who has time, and no loop */
};
/* Opens the file, makes it if need be (mode 0640), and starts the thread. RC_IO names the file. One that is full
 * already is no failure: nothing is recorded then, and the log says so. */
enum rc recorder_new(struct recorder **r, const struct recorder_options *o, struct error *e) SPW_MUST_USE;
/* Writes what is there and "end". NULL is fine. After the router was told to let go of the tap. */
void recorder_free(struct recorder *r);

/* A router of this size, which knows nothing yet, begins to be listened to. */
void recorder_listen_locked(struct recorder *r, struct router *router, const struct router_size *size);
/* From now on that is who node or model `id` is. */
void recorder_name_locked(struct recorder *r, enum record_kind node_or_model, int32_t id, const char *name);
/* Whom the decisions that follow are about. */
void recorder_who_locked(struct recorder *r, const struct record_who *who);

struct recorder_stats {
    bool records;    /* it has not ended */
    uint64_t events; /* in the file, or about to be */
    uint64_t missed; /* that came after its end */
    int64_t bytes;   /* of the file */
};
struct recorder_stats recorder_stats(struct recorder *r); /* NULL: all is 0 */

#endif
