/* A SQLite VFS that writes down what a power cut may take away, and the same for the audit's segments (*.audit) and
 * the ledger's journal (*.ahead), whose few system calls are taken in place of the C library's. As the default VFS
 * of an unchanged program (LD_PRELOAD) it passes everything on to the system's, and notes each write, truncation,
 * flush and removal of a database's files in a trace, in the order in which they were done. From any place of it
 * tests/fault/power_cut.py makes what a disk may hold after a cut there: what was flushed stands; of the rest each
 * sector may be old or new.
 *
 * A flush is noted after it was done and before SQLite is told, so nobody can have been told of a row whose flush is
 * not in the trace. The trace survives SIGKILL (each record is one append). Flushes do not reach the disk: the disk
 * is the model made from the trace.
 *
 *     SPILLWAY_POWERCUT_TRACE   file to append to
 *     SPILLWAY_POWERCUT_SYNC_US how long a flush takes (default 0)
 *
 * Record, little-endian: u32 bytes that follow; u8 operation; u8 length of the name; u16 0; i64 CLOCK_MONOTONIC ns;
 * i64 offset; the file's name without folder; for a write, what was written. Any thread; no lock: O_APPEND orders. */
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum operation {
    OPENED = 'O',    /* offset: its size */
    WRITTEN = 'W',   /* at offset */
    TRUNCATED = 'T', /* to offset */
    FLUSHED = 'S',
    REMOVED = 'D', /* offset 1: and the folder was flushed */
};

struct shim_file {
    sqlite3_file base;
    const char
        *name; /* SQLite's, without folder; it outlives the file. NULL: a temporary one, which nobody will miss */
    sqlite3_file *real; /* behind this struct */
};

static sqlite3_vfs *real_vfs;
static int trace_fd = -1;
static useconds_t sync_us;

static const char *without_folder(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void note(enum operation operation, const char *name, int64_t offset, const void *data, size_t n)
{
    struct {
        uint32_t bytes;
        uint8_t operation, name_bytes;
        uint16_t zero;
        int64_t ns, offset;
    } __attribute__((packed)) head;
    struct timespec now;
    if (!name)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    size_t name_bytes = strlen(name);
    head.bytes = (uint32_t)(sizeof head - sizeof head.bytes + name_bytes + n);
    head.operation = (uint8_t)operation;
    head.name_bytes = (uint8_t)name_bytes;
    head.zero = 0;
    head.ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    head.offset = offset;
    const struct iovec parts[] = {{&head, sizeof head}, {(void *)name, name_bytes}, {(void *)data, n}};
    ssize_t all = (ssize_t)(sizeof head + name_bytes + n);
    if (writev(trace_fd, parts, 3) != all) {
        perror("powercut: the trace cannot be written");
        abort();
    }
}

static struct shim_file *shim(sqlite3_file *f)
{
    return (struct shim_file *)f;
}

static sqlite3_file *real(sqlite3_file *f)
{
    return shim(f)->real;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

static int file_close(sqlite3_file *f)
{
    int rc = real(f)->pMethods->xClose(real(f));
    f->pMethods = NULL;
    return rc;
}

static int file_read(sqlite3_file *f, void *to, int n, sqlite3_int64 offset)
{
    return real(f)->pMethods->xRead(real(f), to, n, offset);
}

static int file_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 offset)
{
    int rc = real(f)->pMethods->xWrite(real(f), from, n, offset);
    if (rc == SQLITE_OK)
        note(WRITTEN, shim(f)->name, offset, from, (size_t)n);
    return rc;
}

static int file_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    int rc = real(f)->pMethods->xTruncate(real(f), size);
    if (rc == SQLITE_OK)
        note(TRUNCATED, shim(f)->name, size, NULL, 0);
    return rc;
}

static int file_sync(sqlite3_file *f, int flags)
{
    (void)flags;
    if (sync_us)
        usleep(sync_us);
    note(FLUSHED, shim(f)->name, 0, NULL, 0);
    return SQLITE_OK;
}

static int file_size(sqlite3_file *f, sqlite3_int64 *size)
{
    return real(f)->pMethods->xFileSize(real(f), size);
}

static int file_lock(sqlite3_file *f, int level)
{
    return real(f)->pMethods->xLock(real(f), level);
}

static int file_unlock(sqlite3_file *f, int level)
{
    return real(f)->pMethods->xUnlock(real(f), level);
}

static int file_check_reserved(sqlite3_file *f, int *out)
{
    return real(f)->pMethods->xCheckReservedLock(real(f), out);
}

static int file_control(sqlite3_file *f, int operation, void *arg)
{
    return real(f)->pMethods->xFileControl(real(f), operation, arg);
}

static int file_sector_size(sqlite3_file *f)
{
    return real(f)->pMethods->xSectorSize(real(f));
}

static int file_characteristics(sqlite3_file *f)
{
    return real(f)->pMethods->xDeviceCharacteristics(real(f));
}

/* The index of a log lives in memory and is made anew after a cut. */
static int file_shm_map(sqlite3_file *f, int region, int size, int extend, void volatile **out)
{
    return real(f)->pMethods->xShmMap(real(f), region, size, extend, out);
}

static int file_shm_lock(sqlite3_file *f, int offset, int n, int flags)
{
    return real(f)->pMethods->xShmLock(real(f), offset, n, flags);
}

static void file_shm_barrier(sqlite3_file *f)
{
    real(f)->pMethods->xShmBarrier(real(f));
}

static int file_shm_unmap(sqlite3_file *f, int remove)
{
    return real(f)->pMethods->xShmUnmap(real(f), remove);
}

static const sqlite3_io_methods methods = {
    /* version 2: no memory-mapped pages, whose changes nobody would see */
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
};

/* ---- the VFS ---------------------------------------------------------------------------------------------------- */

static int vfs_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags, int *out_flags)
{
    struct shim_file *s = shim(f);
    sqlite3_int64 size = 0;
    (void)vfs;
    s->base.pMethods = NULL;
    s->name = name ? without_folder(name) : NULL;
    s->real = (sqlite3_file *)(s + 1);
    int rc = real_vfs->xOpen(real_vfs, name, s->real, flags, out_flags);
    if (rc != SQLITE_OK)
        return rc;
    s->base.pMethods = &methods;
    s->real->pMethods->xFileSize(s->real, &size);
    note(OPENED, s->name, size, NULL, 0);
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_folder)
{
    (void)vfs;
    int rc = real_vfs->xDelete(real_vfs, name, sync_folder);
    if (rc == SQLITE_OK)
        note(REMOVED, without_folder(name), sync_folder != 0, NULL, 0);
    return rc;
}

/* ---- the audit's segments and the ledger's journal --------------------------------------------------------------- */

#define FDS_MAX 4096
static char segments[FDS_MAX][32]; /* of each descriptor that is one: its name; it is written by one thread */

static const char *segment_name(const char *path)
{
    const char *name = without_folder(path);
    size_t n = strlen(name);
    bool ours = n > 6 && (strcmp(name + n - 6, ".audit") == 0 || strcmp(name + n - 6, ".ahead") == 0);
    return trace_fd >= 0 && ours && n < sizeof segments[0] ? name : NULL;
}

static const char *segment_of(int fd)
{
    return fd >= 0 && fd < FDS_MAX && segments[fd][0] ? segments[fd] : NULL;
}

static int open_file(const char *path, int flags, mode_t mode)
{
    const char *name = (flags & O_ACCMODE) == O_RDONLY ? NULL : segment_name(path);
    struct stat st;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd < 0 || fd >= FDS_MAX)
        return fd;
    if (!name) {
        if (segments[fd][0]) /* seldom: other threads open files, too, but none of those descriptors was a segment's */
            segments[fd][0] = '\0';
        return fd;
    }
    snprintf(segments[fd], sizeof segments[fd], "%s", name);
    note(OPENED, segments[fd], fstat(fd, &st) == 0 ? st.st_size : 0, NULL, 0);
    return fd;
}

int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(more, int) : 0;
    va_end(more);
    return open_file(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? (mode_t)va_arg(more, int) : 0;
    va_end(more);
    return open_file(path, flags, mode);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    ssize_t k = syscall(SYS_pwrite64, fd, data, n, at);
    if (k > 0)
        note(WRITTEN, segment_of(fd), at, data, (size_t)k);
    return k;
}

int ftruncate(int fd, off_t to)
{
    int rc = (int)syscall(SYS_ftruncate, fd, to);
    if (rc == 0)
        note(TRUNCATED, segment_of(fd), to, NULL, 0);
    return rc;
}

int fdatasync(int fd)
{
    const char *name = segment_of(fd);
    if (!name)
        return (int)syscall(SYS_fdatasync, fd);
    if (sync_us)
        usleep(sync_us);
    note(FLUSHED, name, 0, NULL, 0);
    return 0;
}

int unlink(const char *path)
{
    int rc = (int)syscall(SYS_unlink, path);
    const char *name = segment_name(path);
    if (rc == 0 && name)
        note(REMOVED, name, 0, NULL, 0);
    return rc;
}

__attribute__((constructor)) static void powercut_start(void)
{
    static sqlite3_vfs vfs;
    const char *path = getenv("SPILLWAY_POWERCUT_TRACE"), *us = getenv("SPILLWAY_POWERCUT_SYNC_US");
    if (!path)
        return;
    trace_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    real_vfs = sqlite3_vfs_find(NULL);
    if (trace_fd < 0 || !real_vfs) {
        perror("powercut: no trace");
        abort();
    }
    sync_us = us ? (useconds_t)strtoul(us, NULL, 10) : 0;
    vfs = *real_vfs; /* what is not our business goes straight to the system's, which is told by its own pAppData */
    vfs.zName = "powercut";
    vfs.szOsFile = (int)sizeof(struct shim_file) + real_vfs->szOsFile;
    vfs.pNext = NULL;
    vfs.xOpen = vfs_open;
    vfs.xDelete = vfs_delete;
    if (sqlite3_vfs_register(&vfs, 1) != SQLITE_OK)
        abort();
}
