/* Segments: found, their end mended after a crash, and written. store.h has the rules. */
#include "scheduler/audit/store.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/random.h"

#define TAIL_BYTES    ((size_t)256 << 10) /* looked at first */
#define OUT_BYTES_MAX ((size_t)256 << 20) /* of one group */
#define DAY_NS        (INT64_C(86400) * NS_PER_S)

/* ---- the system's calls -------------------------------------------------------------------------------------------- */

static int system_open(const char *path, int flags, mode_t mode)
{
    return open(path, flags | O_CLOEXEC, mode);
}

static ssize_t system_write(int fd, const void *data, size_t n, off_t at)
{
    return pwrite(fd, data, n, at);
}

const struct store_io store_io_system = {
    .open = system_open,
    .write = system_write,
    .flush = fdatasync,
    .cut = ftruncate,
    .close = close,
    .flush_folder_of = file_sync_folder_of,
};

static enum rc io_error(struct error *e, const char *what, const char *path)
{
    enum rc rc = errno == ENOSPC || errno == EDQUOT ? RC_FULL : RC_IO;

    return error_set(e, rc, "audit: %s %s: %s", what, path, strerror(errno));
}

/* ---- names --------------------------------------------------------------------------------------------------------- */

static bool is_segment(const char *name)
{
    static const char shape[] = "000000-00000000.audit";

    if (strlen(name) != sizeof shape - 1)
        return false;
    for (size_t i = 0; shape[i]; i++)
        if (shape[i] == '0' ? name[i] < '0' || name[i] > '9' : name[i] != shape[i])
            return false;
    return true;
}

static int is_segment_entry(const struct dirent *d)
{
    return is_segment(d->d_name);
}

enum rc store_list(const char *dir, char ***names, int *n, struct error *e)
{
    struct dirent **found;

    *names = NULL;
    *n = 0;
    int k = scandir(dir, &found, is_segment_entry, alphasort);
    if (k < 0)
        return error_set(e, errno == ENOENT ? RC_NOT_FOUND : RC_IO, "audit: %s: %s", dir, strerror(errno));
    *names = spw_calloc((size_t)k + 1, sizeof **names);
    for (int i = 0; i < k; i++) {
        (*names)[i] = spw_asprintf("%s/%s", dir, found[i]->d_name);
        free(found[i]);
    }
    free(found);
    *n = k;
    return RC_OK;
}

static void free_names(char **names, int n)
{
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* Number and day, from a name of ours. */
static void read_name(const char *path, int64_t *segment, int64_t *day)
{
    const char *name = strrchr(path, '/') + 1;
    struct tm tm = {.tm_mday = 1};

    *segment = strtol(name, NULL, 10);
    long date = strtol(name + 7, NULL, 10);
    tm.tm_year = (int)(date / 10000) - 1900;
    tm.tm_mon = (int)(date / 100 % 100) - 1;
    tm.tm_mday = (int)(date % 100);
    *day = timegm(&tm) / 86400;
}

static char *make_name(const struct store *s)
{
    time_t t = (time_t)s->day * 86400;
    struct tm tm;

    gmtime_r(&t, &tm);
    return spw_asprintf("%s/%06" PRId64 "-%04d%02d%02d.audit", s->dir, s->segment, (tm.tm_year + 1900) % 10000,
                        tm.tm_mon + 1, tm.tm_mday);
}

/* ---- the end of a segment ------------------------------------------------------------------------------------------ */

/* Of a piece of a segment, its lines in order as far as they hold. */
struct tail {
    bool whole; /* the piece is the whole segment */
    int64_t seq;
    struct audit_hash hash; /* of the last line that holds; seq 0: none does */
    size_t good;            /* bytes up to there */
    struct audit_head sealed;
    int64_t behind;  /* lines that hold behind the last seal */
    int seals_after; /* of lines that do not hold, or stand behind such: how many look like seals */
};

/* Does the line follow those before it? The first of a piece can't be asked for its link. */
static bool holds(const struct tail *t, const struct audit_line *l, const struct audit_keys *keys)
{
    struct audit_hash content = audit_content(l->json, l->n);
    struct audit_segment first;
    uint8_t mac[AUDIT_MAC_BYTES];
    struct audit_hash prev = t->hash;

    if (keys->sign) {
        audit_mac(&keys->mac, l->seq, &content, mac);
        if (memcmp(mac, l->mac, sizeof mac) != 0)
            return false;
    }
    if (!t->seq && t->whole && !audit_segment_read(l->json, l->n, &first))
        return false;
    if (!t->seq && t->whole)
        prev = first.prev;
    else if (!t->seq)
        return true;
    struct audit_hash hash = audit_link(&prev, l->seq, l->mac, &content);
    return (!t->seq || l->seq == t->seq + 1) && memcmp(hash.b, l->hash.b, HMAC_BYTES) == 0;
}

static void take(struct tail *t, const struct audit_line *l)
{
    struct audit_head head = {.seq = t->seq, .hash = t->hash};

    t->behind++;
    if (t->seq && audit_seal_read(l->json, l->n, &head)) {
        t->sealed = head;
        t->behind = 0;
    }
    t->seq = l->seq;
    t->hash = l->hash;
}

/* text begins with a line. */
static void read_tail(struct tail *t, const char *text, size_t n, const struct audit_keys *keys)
{
    const char *p = text, *end = text + n, *eol;
    struct audit_head ignored;
    struct audit_line l;
    bool good = true;

    for (; p < end && (eol = memchr(p, '\n', (size_t)(end - p))) != NULL; p = eol + 1) {
        bool parsed = audit_line_parse(p, (size_t)(eol - p), &l);
        good = good && parsed && holds(t, &l, keys);
        if (good) {
            take(t, &l);
            t->good = (size_t)(eol + 1 - text);
        } else if (parsed && audit_seal_read(l.json, l.n, &ignored)) {
            t->seals_after++;
        }
    }
}

static enum rc read_at(int fd, const char *path, off_t at, size_t n, struct strbuf *b, struct error *e)
{
    strbuf_clear(b);
    if (strbuf_reserve(b, n + 1) != RC_OK)
        return error_set(e, RC_FULL, "audit: %s: no seal in its last %zu bytes", path, n);
    while (b->len < n) {
        ssize_t k = pread(fd, b->data + b->len, n - b->len, at + (off_t)b->len);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return k < 0 ? io_error(e, "reading", path) : RC_OK; /* shorter meanwhile */
        b->len += (size_t)k;
    }
    return RC_OK;
}

/* The end of a segment, from a piece of it that is large enough to hold a seal. *start: where the piece begins. */
static enum rc find_tail(int fd, const char *path, const struct audit_keys *keys, struct tail *t, off_t *start,
                         off_t *size, struct error *e)
{
    struct strbuf b;
    struct stat st;
    enum rc rc = fstat(fd, &st) == 0 ? RC_OK : io_error(e, "reading", path);

    strbuf_init(&b, OUT_BYTES_MAX);
    *size = rc == RC_OK ? st.st_size : 0;
    for (size_t want = TAIL_BYTES; rc == RC_OK; want *= 8) {
        *t = (struct tail){.whole = (off_t)want >= st.st_size};
        *start = t->whole ? 0 : st.st_size - (off_t)want;
        rc = read_at(fd, path, *start, (size_t)(st.st_size - *start), &b, e);
        if (rc != RC_OK)
            break;
        const char *first = t->whole ? b.data : b.len ? memchr(b.data, '\n', b.len) : NULL;
        size_t skip = t->whole || !first ? 0 : (size_t)(first + 1 - b.data);
        if (t->whole || first)
            read_tail(t, b.data + skip, b.len - skip, keys);
        *start += (off_t)skip;
        if (t->sealed.seq || t->whole)
            break;
    }
    strbuf_fini(&b);
    return rc;
}

enum rc store_read_segment(const char *path, struct audit_segment *s, struct error *e)
{
    char text[1024];
    struct audit_line l;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? pread(fd, text, sizeof text, 0) : -1;
    enum rc rc = n >= 0 ? RC_OK : io_error(e, "reading", path);

    if (fd >= 0)
        close(fd);
    const char *eol = n > 0 ? memchr(text, '\n', (size_t)n) : NULL;
    if (rc == RC_OK &&
        (!eol || !audit_line_parse(text, (size_t)(eol - text), &l) || !audit_segment_read(l.json, l.n, s)))
        rc = error_set(e, RC_CONFLICT, "audit: %s does not begin as a segment does", path);
    return rc;
}

static enum rc not_ours(struct error *e, const char *path, const char *why)
{
    return error_set(e, RC_CONFLICT,
                     "audit: %s: %s. 'spillway audit verify' tells what was changed; to begin another chain, move this "
                     "folder away, key and all, and keep it",
                     path, why);
}

/* ---- the end of the chain ------------------------------------------------------------------------------------------ */

/* RC_NOT_FOUND: nothing of it was ever sealed. */
static enum rc read_end(const char *path, int fd, const struct audit_keys *keys, struct tail *t, off_t *start,
                        off_t *size, struct error *e)
{
    struct audit_segment first;
    enum rc rc = find_tail(fd, path, keys, t, start, size, e);

    if (rc != RC_OK)
        return rc;
    /* One group at a time is under way, so one seal may stand behind a hole that a crash has left; two can't. */
    if (t->seals_after > 1)
        return not_ours(e, path, "it was changed before its last seals");
    if (!t->sealed.seq)
        return RC_NOT_FOUND;
    rc = store_read_segment(path, &first, e);
    if (rc != RC_OK)
        return rc;
    memcpy(t->sealed.chain, first.chain, sizeof first.chain);
    memcpy(t->sealed.public_part, keys->public_part, sizeof keys->public_part);
    if (!audit_head_verify(&t->sealed, keys))
        return not_ours(e, path, "the signature of its last seal does not hold under this key");
    return RC_OK;
}

static void go_on_from(struct store *s, const struct tail *t, off_t start, off_t size)
{
    s->seq = t->seq;
    s->hash = t->hash;
    s->sealed = t->sealed;
    memcpy(s->chain, t->sealed.chain, sizeof s->chain);
    s->size = start + (off_t)t->good;
    s->kept += t->behind;
    s->dropped += size - s->size;
    s->dirty = s->size != size;
}

static enum rc cut_back(struct store *s, struct error *e)
{
    if (s->dirty && s->fd >= 0 && s->io->cut(s->fd, s->size) != 0)
        return io_error(e, "cutting back in", s->dir);
    s->dirty = false;
    return RC_OK;
}

/* The newest segment that holds something; those behind it were never sealed, and go. */
static enum rc open_newest(struct store *s, char **names, int n, struct error *e)
{
    for (int i = n - 1; i >= 0; i--) {
        struct tail t;
        off_t start, size;
        int fd = s->io->open(names[i], O_RDWR, 0);
        if (fd < 0)
            return io_error(e, "opening", names[i]);
        enum rc rc = read_end(names[i], fd, s->keys, &t, &start, &size, e);
        if (rc == RC_OK) {
            s->fd = fd;
            read_name(names[i], &s->segment, &s->day);
            go_on_from(s, &t, start, size);
            return i == n - 1 || (!s->dirty && t.behind == 0)
                       ? RC_OK
                       : not_ours(e, names[i], "it ends without a seal, and there is another segment behind it");
        }
        s->io->close(fd);
        if (rc != RC_NOT_FOUND)
            return rc;
        if (i < n - 1)
            return not_ours(e, names[i], "there is nothing in it that was sealed");
        s->dropped += size;
        if (unlink(names[i]) != 0)
            return io_error(e, "removing", names[i]);
        s->io->flush_folder_of(names[i]);
    }
    return RC_OK;
}

enum rc store_open(struct store *s, const char *dir, const struct audit_keys *keys, const struct store_io *io,
                   struct error *e)
{
    char **names;
    uint8_t id[AUDIT_CHAIN_DIGITS / 2];
    struct random_pool random = {.left = 0};
    int n;

    *s = (struct store){.dir = dir, .io = io ? io : &store_io_system, .keys = keys, .fd = -1};
    strbuf_init(&s->out, OUT_BYTES_MAX);
    strbuf_init(&s->text, AUDIT_JSON_BYTES_MAX);
    enum rc rc = store_list(dir, &names, &n, e);
    if (rc == RC_OK)
        rc = open_newest(s, names, n, e);
    if (rc == RC_OK) /* now, so that nobody takes what is torn for what is there */
        rc = cut_back(s, e);
    free_names(names, n);
    if (rc != RC_OK) {
        store_close(s);
        return rc;
    }
    if (!s->segment) {
        random_take(&random, id, sizeof id);
        text_hex(s->chain, id, sizeof id);
    }
    return RC_OK;
}

void store_close(struct store *s)
{
    if (s->fd >= 0)
        s->io->close(s->fd);
    s->fd = -1;
    strbuf_fini(&s->out);
    strbuf_fini(&s->text);
}

enum rc store_read_head(const char *dir, const struct audit_keys *keys, struct audit_head *h, struct error *e)
{
    char **names;
    int n;
    enum rc rc = store_list(dir, &names, &n, e);

    *h = (struct audit_head){0};
    for (int i = n - 1; i >= 0 && rc == RC_OK && !h->seq; i--) {
        struct tail t;
        off_t start, size;
        int fd = open(names[i], O_RDONLY | O_CLOEXEC);
        rc = fd >= 0 ? read_end(names[i], fd, keys, &t, &start, &size, e) : io_error(e, "reading", names[i]);
        if (fd >= 0)
            close(fd);
        if (rc == RC_OK)
            *h = t.sealed;
        if (rc == RC_NOT_FOUND) /* it has just begun */
            rc = RC_OK;
    }
    free_names(names, n);
    return rc != RC_OK || h->seq ? rc : error_set(e, RC_NOT_FOUND, "audit: no chain in %s", dir);
}

/* ---- writing ------------------------------------------------------------------------------------------------------- */

/* A day that is over ends its segment, unless that does not end with a seal yet. A clock that goes back ends nothing. */
static enum rc begin_segment(struct store *s, struct wall now, struct error *e)
{
    int64_t day = now.ns / DAY_NS;

    if (s->segment && s->size > 0 && day > s->day && s->seq == s->sealed.seq + 1) {
        s->io->close(s->fd);
        s->fd = -1;
    }
    if (s->fd >= 0)
        return RC_OK;
    if (!s->segment || s->size > 0) { /* else it could not be opened the last time */
        s->segment++;
        s->size = 0;
    }
    s->day = day;
    char *path = make_name(s);
    s->fd = s->io->open(path, O_RDWR | O_CREAT, 0640);
    enum rc rc = s->fd >= 0 ? RC_OK : io_error(e, "making", path);
    s->dirty = s->fd >= 0; /* should there be anything in it */
    free(path);
    return rc == RC_OK ? cut_back(s, e) : rc;
}

static enum rc put(struct store *s, const char *json, size_t n, int64_t *seq, struct audit_hash *hash)
{
    return audit_line_write(&s->keys->mac, json, n, seq, hash, &s->out);
}

static enum rc put_segment(struct store *s, struct wall now, int64_t *seq, struct audit_hash *hash)
{
    struct audit_segment first = {.number = s->segment, .prev = *hash};

    if (s->size > 0)
        return RC_OK;
    memcpy(first.chain, s->chain, sizeof first.chain);
    memcpy(first.public_part, s->keys->public_part, sizeof first.public_part);
    strbuf_clear(&s->text);
    enum rc rc = audit_segment_write(&first, now, &s->text);
    return rc == RC_OK ? put(s, s->text.data, s->text.len, seq, hash) : rc;
}

static enum rc put_seal(struct store *s, struct wall now, int64_t *seq, struct audit_hash *hash,
                        struct audit_head *head)
{
    *head = (struct audit_head){.seq = *seq, .hash = *hash};
    memcpy(head->chain, s->chain, sizeof head->chain);
    wall_format(now, head->time, sizeof head->time);
    strbuf_clear(&s->text);
    enum rc rc = audit_head_sign(head, s->keys);
    if (rc == RC_OK)
        rc = audit_seal_write(head, &s->text);
    return rc == RC_OK ? put(s, s->text.data, s->text.len, seq, hash) : rc;
}

static enum rc write_out(struct store *s, struct error *e)
{
    size_t done = 0;

    s->dirty = true;
    while (done < s->out.len) {
        ssize_t k = s->io->write(s->fd, s->out.data + done, s->out.len - done, s->size + (off_t)done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0) {
            errno = k == 0 ? ENOSPC : errno;
            return io_error(e, "writing in", s->dir);
        }
        done += (size_t)k;
    }
    if (s->io->flush(s->fd) != 0)
        return io_error(e, "flushing in", s->dir);
    if (s->size == 0) {
        char *path = make_name(s);
        s->io->flush_folder_of(path);
        free(path);
    }
    s->dirty = false;
    s->size += (off_t)s->out.len;
    return RC_OK;
}

enum rc store_append(struct store *s, struct wall now, const struct store_item *items, int n, struct error *e)
{
    int64_t seq = s->seq;
    struct audit_hash hash = s->hash;
    struct audit_head head;

    strbuf_clear(&s->out);
    enum rc rc = cut_back(s, e);
    if (rc == RC_OK)
        rc = begin_segment(s, now, e);
    if (rc != RC_OK)
        return rc;
    rc = put_segment(s, now, &seq, &hash);
    for (int i = 0; i < n && rc == RC_OK; i++)
        rc = put(s, items[i].json, items[i].n, &seq, &hash);
    if (rc == RC_OK)
        rc = put_seal(s, now, &seq, &hash, &head);
    if (rc != RC_OK)
        return error_set(e, RC_INTERNAL, "audit: a group could not be put together");
    rc = write_out(s, e);
    if (rc == RC_OK) {
        s->seq = seq;
        s->hash = hash;
        s->sealed = head;
    }
    return rc;
}
