#include "scheduler/cli/state_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"

#define LOOK_MS 10

/* Every missing folder of `path`, as mkdir -p. */
static enum rc make_folders(const char *path, struct error *e)
{
    char *copy = spw_strdup(path);
    enum rc rc = RC_OK;

    for (char *p = copy + 1; rc == RC_OK; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char c = *p;
        *p = '\0';
        if (mkdir(copy, 0750) == 0)
            file_sync_folder_of(copy); /* what is durable in a folder is so only if the folder is */
        else if (errno != EEXIST)
            rc = error_set(e, RC_IO, "state_dir %s: %s", copy, strerror(errno));
        *p = c;
        if (c == '\0')
            break;
    }
    free(copy);
    return rc;
}

static bool lock_within(int fd, int64_t left_ms)
{
    const struct timespec pause = {.tv_nsec = LOOK_MS * 1000000L};
    for (; flock(fd, LOCK_EX | LOCK_NB) != 0; left_ms -= LOOK_MS) {
        if (left_ms <= 0)
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

enum rc state_lock(const char *dir, int64_t wait_ms, int *fd, struct error *e)
{
    *fd = -1;
    enum rc rc = make_folders(dir, e);
    if (rc != RC_OK)
        return rc;
    char *path = spw_asprintf("%s/lock", dir);
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (*fd < 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    else if (!lock_within(*fd, wait_ms))
        rc = error_set(e, RC_CONFLICT, "another scheduler runs with state_dir %s; give each its own", dir);
    free(path);
    return rc;
}
