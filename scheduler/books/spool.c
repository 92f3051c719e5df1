#include "scheduler/books/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/random.h"

#define HEAD        "-- spillway spool "
#define ID_HEX      16
#define HEAD_BYTES  ((int64_t)(sizeof HEAD - 1 + ID_HEX + 1))
#define LINE_BYTES  64
#define ENTRY_MAX   ((size_t)1 << 20)
#define GROUP_BYTES ((size_t)1 << 30)
#define PIECE       1000 /* entries of one transaction of a replay */

struct spool {
    char *path;
    int fd;
    int64_t max, end; /* end: of what is durable */
    int64_t cut;      /* bytes that were set aside */
    char id[ID_HEX + 1];
    sqlite3 *twin;
    struct ledger_inserts inserts;
    struct strbuf group, entry;
    enum rc rc; /* of the tracing */
};

static enum rc fail(const struct spool *s, const char *what, struct error *e)
{
    return error_set(e, errno == ENOSPC || errno == EDQUOT ? RC_FULL : RC_IO, "spool %s: %s: %s", s->path, what,
                     strerror(errno));
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static enum rc begin_file(struct spool *s, struct error *e)
{
    char head[HEAD_BYTES + 1];
    struct random_pool pool = {.left = 0};
    uint64_t id;
    random_take(&pool, &id, sizeof id);
    snprintf(s->id, sizeof s->id, "%016" PRIx64, id);
    snprintf(head, sizeof head, HEAD "%s\n", s->id);
    if (ftruncate(s->fd, 0) != 0 || !file_write_all_at(s->fd, head, (size_t)HEAD_BYTES, 0) || fdatasync(s->fd) != 0)
        return fail(s, "cannot be begun", e);
    s->end = HEAD_BYTES;
    return RC_OK;
}

/* The entry at `at`: its text, with an end. False: there is none that is whole. */
static bool read_entry(const struct spool *s, int64_t at, int64_t size, char **sql, int64_t *next)
{
    char line[LINE_BYTES + 1] = "";
    size_t n = size - at < LINE_BYTES ? (size_t)(size - at) : LINE_BYTES;
    int64_t bytes;
    uint32_t crc;
    int used = 0;
    *sql = NULL;
    if (at >= size || !file_read_all_at(s->fd, line, n, at) ||
        /* NOLINTNEXTLINE(cert-err34-c): what was converted is counted, and is our own writing */
        sscanf(line, "-- %" SCNd64 " %8" SCNx32 "%n", &bytes, &crc, &used) != 2 || line[used] != '\n' || bytes <= 0 ||
        bytes > (int64_t)ENTRY_MAX || at + used + 1 + bytes > size)
        return false;
    *sql = spw_malloc((size_t)bytes + 1);
    (*sql)[bytes] = '\0';
    if (file_read_all_at(s->fd, *sql, (size_t)bytes, at + used + 1) &&
        crc32(0, (const Bytef *)*sql, (uInt)bytes) == crc) {
        *next = at + used + 1 + bytes;
        return true;
    }
    free(*sql);
    *sql = NULL;
    return false;
}

/* What follows the last whole entry into a file of its own, SPOOL.cut-ID-BYTE: a crash tears nothing but what was told
 * to nobody, but a disk may damage anything, and then an operator has it. */
static bool keep_rest(const struct spool *s, int64_t size)
{
    char *path = spw_asprintf("%s.cut-%s-%lld", s->path, s->id, (long long)s->end);
    const bool ok = file_keep_part(s->fd, s->end, size, path);
    free(path);
    return ok;
}

static enum rc find_end(struct spool *s, int64_t size, struct error *e)
{
    char *sql;
    s->end = HEAD_BYTES;
    while (read_entry(s, s->end, size, &sql, &s->end))
        free(sql);
    if (s->end < size && (!keep_rest(s, size) || ftruncate(s->fd, s->end) != 0 || fdatasync(s->fd) != 0))
        return fail(s, "what follows its last whole entry cannot be set aside", e);
    s->cut = size - s->end;
    return RC_OK;
}

static enum rc open_file(struct spool *s, struct error *e)
{
    char head[HEAD_BYTES + 1];
    struct stat st;
    s->fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (s->fd < 0 || fstat(s->fd, &st) != 0)
        return fail(s, "cannot be opened", e);
    file_sync_folder_of(s->path);
    if (st.st_size < HEAD_BYTES) /* new, or torn before anything was in it */
        return begin_file(s, e);
    if (!file_read_all_at(s->fd, head, (size_t)HEAD_BYTES, 0))
        return fail(s, "cannot be read", e);
    head[HEAD_BYTES] = '\0';
    if (strncmp(head, HEAD, sizeof HEAD - 1) != 0 || head[HEAD_BYTES - 1] != '\n')
        return error_set(e, RC_INVALID, "spool %s: this is a file of another kind; give the spool one of its own",
                         s->path);
    memcpy(s->id, head + sizeof HEAD - 1, ID_HEX);
    return find_end(s, st.st_size, e);
}

/* ---- entries in -------------------------------------------------------------------------------------------------- */

static int on_statement(unsigned what, void *arg, void *statement, void *unused)
{
    struct spool *s = arg;
    (void)what, (void)unused;
    char *sql = sqlite3_expanded_sql(statement);
    if (!sql)
        s->rc = RC_FULL;
    if (s->rc == RC_OK)
        s->rc = strbuf_puts(&s->entry, sql);
    if (s->rc == RC_OK)
        s->rc = strbuf_puts(&s->entry, ";\n");
    sqlite3_free(sql);
    return 0;
}

static enum rc open_twin(struct spool *s, struct error *e)
{
    enum rc rc = ledger_file_open_twin(&s->twin, e);
    return rc == RC_OK ? ledger_file_prepare(s->twin, &s->inserts, e) : rc;
}

enum rc spool_open(struct spool **out, const char *path, int64_t bytes_max, struct error *e)
{
    *out = NULL;
    if (!bytes_max && access(path, F_OK) != 0)
        return RC_OK;
    struct spool *s = spw_calloc(1, sizeof *s);
    s->path = spw_strdup(path);
    s->max = bytes_max;
    strbuf_init(&s->group, GROUP_BYTES);
    strbuf_init(&s->entry, ENTRY_MAX);
    enum rc rc = open_file(s, e);
    if (rc == RC_OK)
        rc = open_twin(s, e);
    if (rc != RC_OK) {
        spool_close(s);
        return rc;
    }
    *out = s;
    return RC_OK;
}

void spool_close(struct spool *s)
{
    if (!s)
        return;
    if (s->fd >= 0 && s->end == HEAD_BYTES)
        unlink(s->path);
    if (s->fd >= 0)
        close(s->fd);
    ledger_file_finalize(&s->inserts);
    sqlite3_close(s->twin);
    strbuf_fini(&s->group);
    strbuf_fini(&s->entry);
    free(s->path);
    free(s);
}

void spool_begin(struct spool *s)
{
    strbuf_clear(&s->group);
}

enum rc spool_add(struct spool *s, const struct ledger_row *row, const struct ledger_budget_event *event,
                  struct error *e)
{
    char line[LINE_BYTES];
    strbuf_clear(&s->entry);
    s->rc = RC_OK;
    sqlite3_exec(s->twin, "BEGIN", NULL, NULL, NULL);
    sqlite3_trace_v2(s->twin, SQLITE_TRACE_STMT, on_statement, s);
    int step = event ? ledger_budgets_write(&s->inserts.budgets, event) : ledger_file_insert(&s->inserts, row);
    sqlite3_trace_v2(s->twin, 0, NULL, NULL);
    sqlite3_exec(s->twin, "ROLLBACK", NULL, NULL, NULL); /* the twin stays empty */
    if (step != SQLITE_DONE)
        return error_set(e, RC_INVALID, "request %.64s: %s", row ? row->request_id : "", sqlite3_errmsg(s->twin));
    if (s->rc == RC_OK && s->entry.len) {
        snprintf(line, sizeof line, "-- %zu %08lx\n", s->entry.len,
                 crc32(0, (const Bytef *)s->entry.data, (uInt)s->entry.len));
        s->rc = strbuf_puts(&s->group, line);
        if (s->rc == RC_OK)
            s->rc = strbuf_append(&s->group, s->entry.data, s->entry.len);
    }
    return s->rc == RC_OK ? RC_OK : error_set(e, RC_FULL, "spool %s: an entry is too large", s->path);
}

enum rc spool_commit(struct spool *s, struct error *e)
{
    if (s->end + (int64_t)s->group.len > s->max)
        return error_set(e, RC_FULL, "spool %s: its bound of %lld bytes is reached", s->path, (long long)s->max);
    if (file_write_all_at(s->fd, s->group.data, s->group.len, s->end) && fdatasync(s->fd) == 0) {
        s->end += (int64_t)s->group.len;
        return RC_OK;
    }
    enum rc rc = fail(s, "cannot be written", e);
    (void)!ftruncate(s->fd, s->end); /* what is left there is written over, or cut off at the next start */
    return rc;
}

int64_t spool_set_aside(const struct spool *s)
{
    return s ? s->cut : 0;
}

int64_t spool_bytes(const struct spool *s)
{
    return s ? s->end - HEAD_BYTES : 0;
}

/* ---- back into the ledger ---------------------------------------------------------------------------------------- */

/* One entry: all of it, or, where its request has a row already, nothing. */
static int redo(sqlite3 *db, const char *sql)
{
    int rc = sqlite3_exec(db, "SAVEPOINT entry", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return rc;
    rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    if ((rc & 0xff) == SQLITE_CONSTRAINT)
        rc = sqlite3_exec(db, "ROLLBACK TO entry", NULL, NULL, NULL);
    return rc == SQLITE_OK ? sqlite3_exec(db, "RELEASE entry", NULL, NULL, NULL) : rc;
}

/* Up to PIECE entries from *at. */
static enum rc replay_piece(const struct spool *s, sqlite3 *db, int64_t *at, int64_t *entries, struct error *e)
{
    int64_t next = *at;
    int n = 0, rc = sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    char *sql;
    while (rc == SQLITE_OK && n < PIECE && read_entry(s, next, s->end, &sql, &next)) {
        rc = redo(db, sql);
        free(sql);
        n++;
    }
    if (rc == SQLITE_OK && n == 0 && next < s->end) {
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
        return error_set(e, RC_INVALID, "spool %s: is damaged at byte %lld", s->path, (long long)next);
    }
    if (rc == SQLITE_OK)
        rc = ledger_file_note_position(db, s->id, next);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (rc != SQLITE_OK) {
        enum rc code = ledger_fail(db, rc, s->path, e);
        if (!sqlite3_get_autocommit(db))
            sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
        return code;
    }
    *at = next;
    *entries += n;
    return RC_OK;
}

enum rc spool_replay(struct spool *s, sqlite3 *db, int64_t *entries, struct error *e)
{
    int64_t at = 0;
    *entries = 0;
    if (!spool_bytes(s))
        return RC_OK;
    enum rc rc = ledger_file_position(db, s->id, s->path, &at, e);
    if (at < HEAD_BYTES)
        at = HEAD_BYTES;
    while (rc == RC_OK && at < s->end)
        rc = replay_piece(s, db, &at, entries, e);
    return rc == RC_OK ? begin_file(s, e) : rc; /* under another id */
}
