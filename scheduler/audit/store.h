/* The chain's files, for whoever writes them: one thread. Append-only: what was sealed is never written again. A group
 * of records and its seal are one write and one flush.
 *
 * After a crash the last segment may end behind its last seal. Records there that are whole, linked and bear our MAC
 * are kept (they were on their way, though nobody was told); the rest is cut off, and the next record says so:
 * {"k":"recovered", "kept":records,"dropped":bytes}. If the last seal that is there does not hold, somebody else has
 * been at work, and the chain does not go on by itself: store_open() says RC_CONFLICT, and what to do.
 *
 * A write or flush that fails leaves the chain as it was before its group: the file is cut back (at the latest before
 * the next group), and the same records may be tried again. */
#ifndef SCHEDULER_AUDIT_STORE_H
#define SCHEDULER_AUDIT_STORE_H

#include <sys/types.h>

#include "scheduler/audit/chain.h"

/* The system calls that matter, so that tests can put faults here; as those of POSIX, with errno. */
struct store_io {
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*write)(int fd, const void *data, size_t n, off_t at);
    int (*flush)(int fd);
    int (*cut)(int fd, off_t to);
    int (*close)(int fd);
    void (*flush_folder_of)(const char *path);
};
extern const struct store_io store_io_system;

struct store {
    const char *dir; /* borrowed */
    const struct store_io *io;
    const struct audit_keys *keys;
    int fd;          /* -1: none */
    bool dirty;      /* a group has failed: what stands behind `size` is cut off before the next one */
    off_t size;      /* of what is good, in the newest segment; 0: its first record is still to be written */
    int64_t segment; /* its number; 0: there is none */
    int64_t day;     /* since 1970, UTC, of its name */
    char chain[AUDIT_CHAIN_DIGITS + 1];
    int64_t seq; /* of the last record; 0: none */
    struct audit_hash hash;
    struct audit_head sealed; /* the newest head; seq 0: none */
    int64_t kept, dropped;    /* by store_open(): records, bytes behind the last seal */
    struct strbuf out, text;  /* scratch */
};
/* Finds the end of the chain in dir, which is there. io NULL: the system's. Blocks, but for the last segment's tail
 * only: it does not grow with the chain. RC_CONFLICT: the chain is not ours to go on with. */
enum rc store_open(struct store *s, const char *dir, const struct audit_keys *keys, const struct store_io *io,
                   struct error *e) SPW_MUST_USE;
void store_close(struct store *s);

struct store_item {
    const char *json;
    size_t n;
};
/* Appends n items and their seal, durably; a new day begins a new segment. RC_FULL: the disk; RC_IO. */
enum rc store_append(struct store *s, struct wall now, const struct store_item *items, int n,
                     struct error *e) SPW_MUST_USE;

/* The newest sealed head, without changing anything; keys: the public part is enough. RC_NOT_FOUND: there is none. */
enum rc store_read_head(const char *dir, const struct audit_keys *keys, struct audit_head *h,
                        struct error *e) SPW_MUST_USE;
/* The first record of a segment. */
enum rc store_read_segment(const char *path, struct audit_segment *s, struct error *e) SPW_MUST_USE;
/* Names of the segments in order, each with its folder; for readers too. *names: the caller's, to free one by one. */
enum rc store_list(const char *dir, char ***names, int *n, struct error *e) SPW_MUST_USE;

#endif
