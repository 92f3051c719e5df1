#include "scheduler/ui/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

bool files_kind(const char *name, enum report_format *f)
{
    const char *end = strrchr(name, '.');

    return end && report_file_name_ok(name) && report_format_parse(end + 1, strlen(end + 1), f);
}

/* ---- all of them -------------------------------------------------------------------------------------------------- */

static int last_first(const void *a, const void *b)
{
    return strcmp(((const struct file_seen *)b)->name, ((const struct file_seen *)a)->name);
}

static void take(struct files *f, int folder, const char *name, int *room)
{
    enum report_format kind;
    struct stat st;

    if (!files_kind(name, &kind) || fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
        return;
    if (f->n == *room) {
        *room = *room ? *room * 2 : 64;
        f->of = spw_realloc(f->of, (size_t)*room * sizeof *f->of);
    }
    struct file_seen *to = &f->of[f->n++];
    snprintf(to->name, sizeof to->name, "%.*s", FILES_NAME_MAX, name);
    to->bytes = st.st_size;
    to->changed_s = st.st_mtime;
}

#define LOOKED_AT_MAX 100000 /* names in the folder */

void files_list(struct files *f, const char *path)
{
    int room = 0, looks = 0;

    *f = (struct files){.of = NULL};
    DIR *folder = opendir(path);
    if (!folder) {
        if (errno != ENOENT)
            snprintf(f->why, sizeof f->why, "the folder of reports cannot be read: %s", strerror(errno));
        return;
    }
    for (const struct dirent *d; looks < LOOKED_AT_MAX && (d = readdir(folder)); looks++)
        take(f, dirfd(folder), d->d_name, &room);
    closedir(folder);
    if (f->n)
        qsort(f->of, (size_t)f->n, sizeof *f->of, last_first);
    f->in_all = f->n;
    f->n = f->n < FILES_MAX ? f->n : FILES_MAX;
}

void files_free(struct files *f)
{
    free(f->of);
    *f = (struct files){.of = NULL};
}

/* ---- one ---------------------------------------------------------------------------------------------------------- */

static enum rc read_whole(struct strbuf *b, int fd, size_t n, const char *name, struct error *e)
{
    char *bytes = spw_malloc(n + 1);
    enum rc rc = file_read_all_at(fd, bytes, n, 0) ? RC_OK : RC_IO;

    if (rc == RC_OK)
        rc = strbuf_append(b, bytes, n);
    free(bytes);
    return rc == RC_OK ? RC_OK : error_set(e, rc, "the report %s could not be read", name);
}

enum rc files_read(struct strbuf *b, const char *path, const char *name, struct error *e)
{
    enum report_format kind;
    struct stat st;
    enum rc rc = RC_NOT_FOUND;
    const int folder = files_kind(name, &kind) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    const int fd = folder >= 0 ? openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;

    if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        error_set(e, rc, "there is no report of that name");
    else if ((size_t)st.st_size > FILES_ONE_MAX)
        rc = error_set(e, RC_FULL, "the report %s has more than %zu bytes; open it from its folder", name,
                       FILES_ONE_MAX);
    else
        rc = read_whole(b, fd, (size_t)st.st_size, name, e);
    if (fd >= 0)
        close(fd);
    if (folder >= 0)
        close(folder);
    return rc;
}
