#include "engine/node/state_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

/* mkdir -p, the last one for us alone. */
static enum rc make_folder(const char *path, struct error *e)
{
    char *copy = spw_strdup(path);
    enum rc rc = RC_OK;
    for (char *p = copy + (*copy != '\0'); rc == RC_OK; p++) {
        const char c = *p;
        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(copy, c ? 0755 : 0700) != 0 && errno != EEXIST)
            rc = error_set(e, RC_IO, "--state-dir %s: %s", copy, strerror(errno));
        *p = c;
        if (!c)
            break;
    }
    free(copy);
    return rc;
}

enum rc state_dir_lock(const char *dir, int *lock_fd, struct error *e)
{
    *lock_fd = -1;
    enum rc rc = make_folder(dir, e);
    if (rc != RC_OK)
        return rc;
    char *path = spw_asprintf("%s/lock", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    else if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        rc = error_set(e, RC_CONFLICT, "another engine runs with --state-dir %s; give each its own", dir);
    if (rc != RC_OK && fd >= 0)
        close(fd);
    else
        *lock_fd = fd;
    free(path);
    return rc;
}
