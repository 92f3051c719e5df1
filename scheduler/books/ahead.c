#include "scheduler/books/ahead.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "base/random.h"

#define HEAD        "spillway journal "
#define HEAD_TEXT   64 /* within a sector: it is written whole or not at all */
#define FORMAT      2
#define FRAME_MAGIC 0x68414c53u
#define PIECE       65536

struct frame_head {
    uint32_t magic, bytes; /* bytes: of the entries */
    uint64_t id;
    int64_t at;
    uint32_t entries, crc; /* crc: of head (with crc 0) and entries */
};

struct ahead {
    char *path;
    int fd;
    uint64_t id;
    char id_text[AHEAD_ID_SIZE];
    int64_t bytes;       /* of the ring; 0: it was never begun */
    struct strbuf frame; /* the writer's */
    char *ring;          /* the writer's: what it has written, at the same places; NULL: we only read */
    int direct;          /* the writer's: the file again, past the page cache; -1: that cannot be */
    char *entries;       /* the reader's */
    size_t entries_cap;
};

static enum rc fail(const struct ahead *a, const char *what, struct error *e)
{
    return error_set(e, errno == ENOSPC || errno == EDQUOT ? RC_FULL : RC_IO, "journal %s: %s: %s", a->path, what,
                     strerror(errno));
}

char *ahead_path(const char *ledger)
{
    return spw_asprintf("%s.ahead", ledger);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static void set_id(struct ahead *a, uint64_t id, int64_t bytes)
{
    a->id = id;
    a->bytes = bytes;
    snprintf(a->id_text, sizeof a->id_text, "%016" PRIx64, id);
    strbuf_fini(&a->frame);
    strbuf_init(&a->frame, (size_t)bytes);
}

static struct ahead *ahead_new(const char *path, int fd)
{
    struct ahead *a = spw_calloc(1, sizeof *a);

    a->path = spw_strdup(path);
    a->fd = fd;
    a->direct = -1;
    strbuf_init(&a->frame, 0);
    return a;
}

/* What was cut off while it was made has no head yet: zeros, or nothing at all. */
static enum rc read_head(struct ahead *a, struct error *e)
{
    char text[HEAD_TEXT + 1] = "";
    int format;
    uint64_t id;
    int64_t bytes;

    if (!file_read_all_at(a->fd, text, HEAD_TEXT, 0))
        return errno ? fail(a, "cannot be read", e) : RC_OK;
    if (text[0] == '\0')
        return RC_OK;
    /* NOLINTNEXTLINE(cert-err34-c): what was converted is counted, and is our own writing */
    if (sscanf(text, HEAD "%d %16" SCNx64 " %" SCNd64, &format, &id, &bytes) < 1)
        return error_set(e, RC_INVALID,
                         "journal %s: this is a file of another kind; the ledger's journal needs the name", a->path);
    if (format != FORMAT)
        return error_set(e, RC_UNSUPPORTED,
                         "journal %s: has format %d, this program knows %d; use the program that wrote it", a->path,
                         format, FORMAT);
    /* NOLINTNEXTLINE(cert-err34-c): as above */
    if (sscanf(text, HEAD "%d %16" SCNx64 " %" SCNd64 "\n", &format, &id, &bytes) != 3 || bytes < AHEAD_BLOCK ||
        bytes % AHEAD_BLOCK != 0)
        return error_set(e, RC_INVALID, "journal %s: its first line is damaged; set it aside to go on without it",
                         a->path);
    set_id(a, id, bytes);
    return RC_OK;
}

enum rc ahead_open(struct ahead **out, const char *path, struct error *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    *out = NULL;
    if (fd < 0)
        return error_set(e, errno == ENOENT ? RC_NOT_FOUND : RC_IO, "journal %s: %s", path, strerror(errno));
    struct ahead *a = ahead_new(path, fd);
    enum rc rc = read_head(a, e);
    if (rc == RC_OK)
        *out = a;
    else
        ahead_close(a);
    return rc;
}

/* Every block is written once: whoever overwrites it later has the file system change nothing of its own. */
static bool fill(int fd, int64_t size)
{
    static const char zeros[PIECE];
    const int failed = posix_fallocate(fd, 0, size); /* leaves errno alone */
    bool ok = failed == 0;

    errno = failed;
    for (int64_t at = 0; ok && at < size; at += PIECE)
        ok = file_write_all_at(fd, zeros, size - at < PIECE ? (size_t)(size - at) : PIECE, at);
    return ok && fdatasync(fd) == 0;
}

static enum rc begin(struct ahead *a, int64_t bytes, struct error *e)
{
    char text[HEAD_TEXT] = "";
    struct random_pool pool = {.left = 0};
    uint64_t id;

    random_take(&pool, &id, sizeof id);
    if (a->bytes != bytes && !fill(a->fd, AHEAD_HEAD_BYTES + bytes))
        return fail(a, "cannot be made", e);
    snprintf(text, sizeof text, HEAD "%d %016" PRIx64 " %" PRId64 "\n", FORMAT, id, bytes);
    if (!file_write_all_at(a->fd, text, sizeof text, 0) || fdatasync(a->fd) != 0)
        return fail(a, "cannot be begun", e);
    file_sync_folder_of(a->path);
    set_id(a, id, bytes);
    a->ring = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a->ring == MAP_FAILED) {
        a->ring = NULL;
        return fail(a, "cannot be begun", e);
    }
    a->direct = open(a->path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    return RC_OK;
}

/* Is it still the file of that name? Whoever has the lock may have removed it before we got it. */
static bool is_in_place(int fd, const char *path)
{
    struct stat ours, there;

    return fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_dev == there.st_dev &&
           ours.st_ino == there.st_ino;
}

/* -1: errno says why not. */
static int open_locked(const char *path)
{
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
        if (fd < 0 || (flock(fd, LOCK_EX) == 0 && is_in_place(fd, path)))
            return fd;
        const int failed = errno;
        const bool gone = is_in_place(fd, path);
        close(fd);
        if (gone) {
            errno = failed;
            return -1;
        }
    }
}

enum rc ahead_make(struct ahead **out, const char *path, int64_t bytes, struct error *e)
{
    SPW_ASSERT(bytes >= PIECE && bytes % AHEAD_BLOCK == 0);
    int fd = open_locked(path);

    *out = NULL;
    if (fd < 0)
        return error_set(e, RC_IO, "journal %s: %s", path, strerror(errno));
    struct ahead *a = ahead_new(path, fd);
    enum rc rc = read_head(a, e);
    if (rc != RC_OK) {
        ahead_close(a);
        return rc;
    }
    rc = begin(a, bytes, e);
    if (rc == RC_OK)
        *out = a;
    else
        ahead_remove(a); /* where the disk is full it takes no room */
    return rc;
}

bool ahead_try_lock(struct ahead *a)
{
    return flock(a->fd, LOCK_EX | LOCK_NB) == 0;
}

void ahead_close(struct ahead *a)
{
    if (!a)
        return;
    close(a->fd);
    if (a->direct >= 0)
        close(a->direct);
    strbuf_fini(&a->frame);
    if (a->ring)
        munmap(a->ring, (size_t)a->bytes);
    free(a->entries);
    free(a->path);
    free(a);
}

void ahead_remove(struct ahead *a)
{
    if (is_in_place(a->fd, a->path))
        (void)unlink(a->path);
    ahead_close(a);
}

const char *ahead_id(const struct ahead *a)
{
    return a->id_text;
}

int64_t ahead_bytes(const struct ahead *a)
{
    return a->bytes;
}

/* ---- frames in --------------------------------------------------------------------------------------------------- */

struct strbuf *ahead_frame(struct ahead *a)
{
    static const struct frame_head room;

    strbuf_clear(&a->frame);
    SPW_ASSERT(strbuf_append(&a->frame, &room, sizeof room) == RC_OK);
    return &a->frame;
}

static int64_t whole_blocks(int64_t n)
{
    return (n + AHEAD_BLOCK - 1) / AHEAD_BLOCK * AHEAD_BLOCK;
}

int64_t ahead_frame_bytes(const struct ahead *a)
{
    return whole_blocks((int64_t)a->frame.len);
}

static uint32_t crc_of(struct frame_head head, const char *entries)
{
    head.crc = 0;
    const uLong crc = crc32(0, (const Bytef *)&head, sizeof head);
    return (uint32_t)crc32(crc, (const Bytef *)entries, head.bytes);
}

/* n bytes of the ring: up to its end, and from its beginning on. */
static size_t up_to_the_end(const struct ahead *a, int64_t at, size_t n)
{
    const int64_t left = a->bytes - at % a->bytes;
    return (int64_t)n < left ? n : (size_t)left;
}

/* The frame as it is to lie on the disk, with zeros behind it. */
static void put_in_ring(struct ahead *a, int64_t at)
{
    const struct strbuf *f = &a->frame;
    const size_t first = up_to_the_end(a, at, f->len);
    const int64_t end = at + (int64_t)f->len;

    memcpy(a->ring + at % a->bytes, f->data, first);
    memcpy(a->ring, f->data + first, f->len - first);
    memset(a->ring + end % a->bytes, 0, (size_t)(whole_blocks(end) - end));
}

static bool write_ring(const struct ahead *a, int fd, int64_t at, size_t n)
{
    const size_t first = up_to_the_end(a, at, n);

    return file_write_all_at(fd, a->ring + at % a->bytes, first, AHEAD_HEAD_BYTES + at % a->bytes) &&
           file_write_all_at(fd, a->ring, n - first, AHEAD_HEAD_BYTES);
}

/* A file system that opens a file for it may still refuse it (EINVAL): from then on by the page cache. */
static bool write_blocks(struct ahead *a, int64_t at, size_t n)
{
    if (a->direct >= 0 && write_ring(a, a->direct, at, n))
        return true;
    if (a->direct >= 0 && errno != EINVAL)
        return false;
    if (a->direct >= 0)
        close(a->direct);
    a->direct = -1;
    return write_ring(a, a->fd, at, n);
}

enum rc ahead_write(struct ahead *a, int64_t at, int entries, struct error *e)
{
    struct strbuf *f = &a->frame;
    struct frame_head head = {FRAME_MAGIC, (uint32_t)(f->len - sizeof head), a->id, at, (uint32_t)entries, 0};

    head.crc = crc_of(head, f->data + sizeof head);
    memcpy(f->data, &head, sizeof head);
    put_in_ring(a, at);
    if (!write_blocks(a, at, (size_t)ahead_frame_bytes(a)) || fdatasync(a->fd) != 0)
        return fail(a, "cannot be written", e);
    return RC_OK;
}

/* ---- frames out -------------------------------------------------------------------------------------------------- */

static bool read_ring(const struct ahead *a, int64_t at, void *to, size_t n)
{
    const size_t first = up_to_the_end(a, at, n);

    if (a->ring) { /* nothing needs to come back from the disk */
        memcpy(to, a->ring + at % a->bytes, first);
        memcpy((char *)to + first, a->ring, n - first);
        return true;
    }
    return file_read_all_at(a->fd, to, first, AHEAD_HEAD_BYTES + at % a->bytes) &&
           file_read_all_at(a->fd, (char *)to + first, n - first, AHEAD_HEAD_BYTES);
}

bool ahead_read(struct ahead *a, int64_t at, struct ahead_frame *f)
{
    struct frame_head head;

    if (!a->bytes || at < 0 || !read_ring(a, at, &head, sizeof head) || head.magic != FRAME_MAGIC || head.id != a->id ||
        head.at != at || head.bytes > a->bytes - (int64_t)sizeof head)
        return false;
    if (head.bytes > a->entries_cap) {
        free(a->entries);
        a->entries_cap = head.bytes;
        a->entries = spw_malloc(a->entries_cap);
    }
    if (!read_ring(a, at + (int64_t)sizeof head, a->entries, head.bytes) || crc_of(head, a->entries) != head.crc)
        return false;
    *f = (struct ahead_frame){a->entries, head.bytes, (int)head.entries,
                              at + whole_blocks((int64_t)sizeof head + head.bytes)};
    return true;
}

bool ahead_find(struct ahead *a, int64_t behind, int64_t *at)
{
    char piece[PIECE];
    const uint32_t magic = FRAME_MAGIC;
    struct frame_head head;
    struct ahead_frame f;
    bool found = false;

    for (int64_t from = 0; from < a->bytes; from += PIECE - (int64_t)sizeof head) {
        if (!read_ring(a, from, piece, sizeof piece))
            continue;
        const char *p = piece, *end = piece + sizeof piece;
        while ((p = memmem(p, (size_t)(end - p), &magic, sizeof magic)) && p + sizeof head <= end) {
            memcpy(&head, p++, sizeof head);
            if (head.id == a->id && head.at > behind && head.at < behind + a->bytes && (!found || head.at < *at) &&
                ahead_read(a, head.at, &f)) {
                *at = head.at;
                found = true;
            }
        }
    }
    return found;
}

bool ahead_keep(const struct ahead *a, int64_t at)
{
    char *path = spw_asprintf("%s.cut-%s-%lld", a->path, a->id_text, (long long)at);
    const bool ok = file_keep_part(a->fd, 0, AHEAD_HEAD_BYTES + a->bytes, path);

    free(path);
    return ok;
}
