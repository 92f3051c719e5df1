#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/text.h"

#define SECRET_BYTES_MAX ((size_t)64 << 10)

enum rc file_read(struct strbuf *b, const char *path, size_t bytes_max, struct error *e)
{
    strbuf_init(b, bytes_max);
    FILE *f = fopen(path, "rbe");
    if (!f)
        return error_set(e, errno == ENOENT ? RC_NOT_FOUND : RC_IO, "%s: %s", path, strerror(errno));
    char chunk[16384];
    enum rc rc = RC_OK;
    size_t n;
    while (rc == RC_OK && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        rc = strbuf_append(b, chunk, n);
    if (rc == RC_FULL)
        error_set(e, RC_FULL, "%s: larger than %zu bytes", path, bytes_max);
    else if (ferror(f))
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    fclose(f);
    return rc;
}

enum rc file_read_secret(char **secret, const char *path, struct error *e)
{
    struct strbuf b;
    *secret = NULL;
    enum rc rc = file_read(&b, path, SECRET_BYTES_MAX, e);
    while (rc == RC_OK && b.len && (b.data[b.len - 1] == '\n' || b.data[b.len - 1] == '\r'))
        b.data[--b.len] = '\0';
    if (rc == RC_OK && (!b.len || memchr(b.data, '\0', b.len)))
        rc = error_set(e, RC_INVALID, "%s: holds no key: one line of text was expected", path);
    if (rc == RC_OK)
        *secret = strbuf_take(&b);
    strbuf_fini(&b);
    return rc;
}

bool file_read_int(const char *path, int64_t *v)
{
    char line[32] = "";
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    const bool got = fgets(line, sizeof line, f) != NULL;
    fclose(f);
    line[strcspn(line, "\n")] = '\0';
    return got && text_parse_int(line, 0, INT64_MAX / 2, v) == RC_OK;
}

bool file_write_all(int fd, const void *data, size_t n)
{
    for (const char *from = data; n;) {
        ssize_t k = write(fd, from, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        from += k;
        n -= (size_t)k;
    }
    return true;
}

bool file_write_all_at(int fd, const void *data, size_t n, int64_t at)
{
    for (const char *from = data; n;) {
        ssize_t k = pwrite(fd, from, n, at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        from += k;
        n -= (size_t)k;
        at += k;
    }
    return true;
}

bool file_read_all_at(int fd, void *data, size_t n, int64_t at)
{
    for (char *to = data; n;) {
        ssize_t k = pread(fd, to, n, at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k == 0)
            errno = 0;
        if (k <= 0)
            return false;
        to += k;
        n -= (size_t)k;
        at += k;
    }
    return true;
}

static enum rc write_whole(const char *path, unsigned mode, const void *data, size_t n, struct error *e)
{
    (void)unlink(path); /* of a process that died here: it may have other modes, or be a link */
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, (mode_t)mode);
    if (fd < 0)
        return error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    enum rc rc =
        file_write_all(fd, data, n) && fsync(fd) == 0 ? RC_OK : error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    close(fd);
    return rc;
}

enum rc file_replace(const char *path, unsigned mode, const void *data, size_t n, struct error *e)
{
    char *beside = spw_asprintf("%s.new", path);
    enum rc rc = write_whole(beside, mode, data, n, e);
    if (rc == RC_OK && rename(beside, path) != 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    if (rc == RC_OK)
        file_sync_folder_of(path);
    else
        (void)unlink(beside);
    free(beside);
    return rc;
}

void file_sync_folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash && slash > path ? spw_strndup(path, (size_t)(slash - path)) : spw_strdup(slash ? "/" : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(folder);
}

bool file_keep_part(int fd, int64_t from, int64_t until, const char *path)
{
    const int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    char piece[16384];
    bool ok = to >= 0;

    for (int64_t at = from; ok && at < until; at += (int64_t)sizeof piece) {
        const size_t n = until - at < (int64_t)sizeof piece ? (size_t)(until - at) : sizeof piece;
        ok = file_read_all_at(fd, piece, n, at) && file_write_all(to, piece, n);
    }
    ok = ok && fsync(to) == 0;
    if (to >= 0)
        close(to);
    file_sync_folder_of(path);
    return ok;
}

static int64_t files_of(rlim_t limit)
{
    return limit == RLIM_INFINITY || limit > INT64_MAX ? INT64_MAX : (int64_t)limit;
}

int64_t file_may_open(int64_t wanted)
{
    struct rlimit files, more;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return 0;
    more = files;
    if (files_of(files.rlim_cur) < wanted)
        more.rlim_cur = files_of(files.rlim_max) < wanted ? files.rlim_max : (rlim_t)wanted;
    if (more.rlim_cur != files.rlim_cur && setrlimit(RLIMIT_NOFILE, &more) == 0)
        files = more;
    return files_of(files.rlim_cur);
}
