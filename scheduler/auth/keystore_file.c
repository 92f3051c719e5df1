/* The keys' SQLite file and the instance secret beside it. Blocks. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "scheduler/auth/keystore_internal.h"
#include "scheduler/store/store.h"

#define FORMAT_VERSION 1
#define BUSY_MS        5000
#define LIST_BYTES_MAX ((size_t)16 << 10)

struct keyfile {
    sqlite3 *db;
    char *path;
};

/* ---- the secret ------------------------------------------------------------------------------------------------- */

static enum rc write_all(int fd, const unsigned char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t put = write(fd, bytes, n);
        if (put < 0 && errno != EINTR)
            return RC_IO;
        if (put > 0) {
            bytes += put;
            n -= (size_t)put;
        }
    }
    return fsync(fd) == 0 ? RC_OK : RC_IO;
}

/* Whole under its final name or not there: written beside it, then linked. Of two that make it at once one wins, and
 * both go on with the winner's. */
static enum rc make_secret(const char *path, struct error *e)
{
    unsigned char bytes[KEYSTORE_SECRET_BYTES];
    char *beside = spw_asprintf("%s.%ld.new", path, (long)getpid());
    enum rc rc = RC_OK;

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        free(beside);
        return error_set(e, RC_IO, "no random bytes from the system: %s", strerror(errno));
    }
    (void)unlink(beside); /* of an earlier process with our number that died here */
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || write_all(fd, bytes, sizeof bytes) != RC_OK)
        rc = error_set(e, RC_IO, "%s: %s", beside, strerror(errno));
    else if (link(beside, path) != 0 && errno != EEXIST)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        (void)unlink(beside);
        file_sync_folder_of(path);
    }
    explicit_bzero(bytes, sizeof bytes);
    free(beside);
    return rc;
}

static enum rc read_secret(const char *path, unsigned char secret[KEYSTORE_SECRET_BYTES], struct error *e)
{
    struct stat st;
    unsigned char more;
    enum rc rc = RC_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return error_set(e, errno == ENOENT ? RC_NOT_FOUND : RC_IO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = error_set(e, RC_INVALID, "%s is not a plain file; the secret that API keys are hashed with is one", path);
    else if (st.st_mode & 077)
        rc = error_set(e, RC_INVALID, "%s may be used by others (mode %03o); chmod 600 it", path,
                       (unsigned)st.st_mode & 0777);
    else if (read(fd, secret, KEYSTORE_SECRET_BYTES) != KEYSTORE_SECRET_BYTES || read(fd, &more, 1) != 0)
        rc = error_set(e, RC_INVALID, "%s is damaged: %d bytes were expected; restore it from a backup", path,
                       KEYSTORE_SECRET_BYTES);
    close(fd);
    return rc;
}

/* ---- the database ----------------------------------------------------------------------------------------------- */

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS keys("
    "id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, old_hash BLOB UNIQUE,"
    "old_until_s INTEGER NOT NULL DEFAULT 0, tail TEXT NOT NULL, tenant TEXT NOT NULL,"
    "team TEXT, project TEXT, user TEXT, rate_class TEXT, scopes INTEGER NOT NULL,"
    "local_only INTEGER NOT NULL, models TEXT NOT NULL, networks TEXT NOT NULL,"
    "created_s INTEGER NOT NULL, expires_s INTEGER NOT NULL,"
    "rotated_s INTEGER NOT NULL DEFAULT 0, revoked_s INTEGER NOT NULL DEFAULT 0"
    ") WITHOUT ROWID;"
    "PRAGMA user_version=1";

static enum rc db_failed(struct keyfile *f, struct error *e)
{
    int code = sqlite3_errcode(f->db);
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED)
        return error_set(e, RC_AGAIN, "%s is in use by another process; try again", f->path);
    return error_set(e, RC_IO, "%s: %s", f->path, sqlite3_errmsg(f->db));
}

static enum rc prepare_database(struct keyfile *f, struct error *e)
{
    sqlite3_stmt *s = NULL;
    int version = -1;

    if (store_use(f->db, BUSY_MS) != SQLITE_OK)
        return db_failed(f, e);
    if (sqlite3_prepare_v2(f->db, "PRAGMA user_version", -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        version = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    if (version < 0)
        return db_failed(f, e);
    if (version > FORMAT_VERSION)
        return error_set(e, RC_UNSUPPORTED, "%s was written by a newer version (format %d; this one knows %d)", f->path,
                         version, FORMAT_VERSION);
    if (version == 0 && sqlite3_exec(f->db, schema, NULL, NULL, NULL) != SQLITE_OK)
        return db_failed(f, e);
    return RC_OK;
}

enum rc keyfile_open(struct keyfile **out, const char *path, const char *secret_path,
                     unsigned char secret[KEYSTORE_SECRET_BYTES], struct error *e)
{
    *out = NULL;
    enum rc rc = read_secret(secret_path, secret, e);
    if (rc == RC_NOT_FOUND) {
        rc = make_secret(secret_path, e);
        if (rc == RC_OK)
            rc = read_secret(secret_path, secret, e);
    }
    if (rc != RC_OK)
        return rc;
    struct keyfile *f = spw_calloc(1, sizeof *f);
    f->path = spw_strdup(path);
    /* SQLite would make it readable for the group, and its log files take the mode of the database. */
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    else
        close(fd);
    if (rc == RC_OK && sqlite3_open_v2(path, &f->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL) != SQLITE_OK)
        rc = f->db ? db_failed(f, e) : error_set(e, RC_IO, "%s: cannot be opened", path);
    if (rc == RC_OK)
        rc = prepare_database(f, e);
    if (rc != RC_OK) {
        keyfile_close(f);
        return rc;
    }
    *out = f;
    return RC_OK;
}

void keyfile_close(struct keyfile *f)
{
    if (!f)
        return;
    sqlite3_close(f->db);
    free(f->path);
    free(f);
}

static enum rc prepare(struct keyfile *f, sqlite3_stmt **s, const char *sql, struct error *e)
{
    return sqlite3_prepare_v2(f->db, sql, -1, s, NULL) == SQLITE_OK ? RC_OK : db_failed(f, e);
}

static void bind_text(sqlite3_stmt *s, int at, const char *text)
{
    if (text)
        sqlite3_bind_text(s, at, text, -1, SQLITE_STATIC);
    else
        sqlite3_bind_null(s, at);
}

static void bind_hash(sqlite3_stmt *s, int at, const struct hash *h)
{
    sqlite3_bind_blob(s, at, h, sizeof *h, SQLITE_STATIC);
}

enum rc keyfile_check_secret(struct keyfile *f, const struct hash *check, struct error *e)
{
    sqlite3_stmt *put = NULL, *get = NULL;
    enum rc rc = prepare(f, &put, "INSERT OR IGNORE INTO meta VALUES('secret', ?1)", e);
    if (rc == RC_OK)
        rc = prepare(f, &get, "SELECT value FROM meta WHERE name = 'secret'", e);
    if (rc == RC_OK) {
        bind_hash(put, 1, check);
        if (sqlite3_step(put) != SQLITE_DONE || sqlite3_step(get) != SQLITE_ROW)
            rc = db_failed(f, e);
        else if (sqlite3_column_bytes(get, 0) != (int)sizeof *check ||
                 CRYPTO_memcmp(sqlite3_column_blob(get, 0), check, sizeof *check) != 0)
            rc = error_set(e, RC_INVALID,
                           "%s: its keys were made with another instance secret, so none would be known; restore the "
                           "secret's file from a backup, or remove both files and make new keys",
                           f->path);
    }
    sqlite3_finalize(put);
    sqlite3_finalize(get);
    return rc;
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

#define COLUMNS                                                                                                        \
    "id, hash, old_hash, old_until_s, tail, tenant, team, project, user, rate_class, scopes, local_only, models,"      \
    " networks, created_s, expires_s, rotated_s, revoked_s"

struct row_space { /* what a row's lists point into */
    char text[2][LIST_BYTES_MAX];
    const char *items[2][KEYSTORE_MODELS_MAX];
    struct network networks[KEYSTORE_MODELS_MAX];
};

/* Lists are kept as lines. False: too many. */
static bool split_lines(const char *lines, char *text, const char **items, int *n)
{
    size_t len = lines ? strlen(lines) : 0;
    *n = 0;
    if (len >= LIST_BYTES_MAX)
        return false;
    memcpy(text, lines ? lines : "", len + 1);
    for (char *p = text; *p; (*n)++) {
        if (*n == KEYSTORE_MODELS_MAX)
            return false;
        items[*n] = p;
        p += strcspn(p, "\n");
        if (*p)
            *p++ = '\0';
    }
    return true;
}

static const char *text_at(sqlite3_stmt *s, int column)
{
    return (const char *)sqlite3_column_text(s, column);
}

static bool hash_at(sqlite3_stmt *s, int column, struct hash *h)
{
    const void *bytes = sqlite3_column_blob(s, column);
    if (!bytes || sqlite3_column_bytes(s, column) != (int)sizeof *h)
        return false;
    memcpy(h, bytes, sizeof *h);
    return true;
}

static bool take_row(sqlite3_stmt *s, struct key_row *row, struct row_space *space, struct error *e)
{
    *row = (struct key_row){0};
    struct key_info *i = &row->info;
    i->id = text_at(s, 0);
    row->has_old = sqlite3_column_type(s, 2) != SQLITE_NULL;
    i->old_until_s = sqlite3_column_int64(s, 3);
    i->tail = text_at(s, 4);
    i->who = (struct identity){.tenant = text_at(s, 5),
                               .team = text_at(s, 6),
                               .project = text_at(s, 7),
                               .user = text_at(s, 8),
                               .rate_class = text_at(s, 9),
                               .key_id = i->id,
                               .scopes = (unsigned)sqlite3_column_int(s, 10) & AUTH_SCOPES_ALL,
                               .local_only = sqlite3_column_int(s, 11) != 0};
    i->created_s = sqlite3_column_int64(s, 14);
    i->expires_s = sqlite3_column_int64(s, 15);
    i->rotated_s = sqlite3_column_int64(s, 16);
    i->revoked_s = sqlite3_column_int64(s, 17);
    if (!i->id || !i->tail || !i->who.tenant || !hash_at(s, 1, &row->hash) ||
        (row->has_old && !hash_at(s, 2, &row->old_hash)) ||
        !split_lines(text_at(s, 12), space->text[0], space->items[0], &i->who.n_models) ||
        !split_lines(text_at(s, 13), space->text[1], space->items[1], &i->who.n_networks)) {
        error_set(e, RC_INVALID, "a column is missing or damaged");
        return false;
    }
    i->who.models = space->items[0];
    i->networks = space->items[1];
    i->who.networks = space->networks;
    for (int k = 0; k < i->who.n_networks; k++) /* an entry that is not understood must not read as "anywhere" */
        if (network_parse(space->items[1][k], &space->networks[k], e) != RC_OK)
            return false;
    return true;
}

enum rc keyfile_read(struct keyfile *f, const char *id, const char *tenant, key_row_cb *cb, void *arg, struct error *e)
{
    sqlite3_stmt *s = NULL;
    struct key_row row;
    int step;
    enum rc rc = prepare(f, &s,
                         id ? "SELECT " COLUMNS " FROM keys WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)"
                            : "SELECT " COLUMNS " FROM keys WHERE (?2 IS NULL OR tenant = ?2) ORDER BY id",
                         e);
    if (rc != RC_OK)
        return rc;
    struct row_space *space = spw_calloc(1, sizeof *space);
    if (id)
        bind_text(s, 1, id);
    bind_text(s, 2, tenant);
    while (rc == RC_OK && (step = sqlite3_step(s)) == SQLITE_ROW) {
        if (take_row(s, &row, space, e)) {
            cb(&row, arg);
        } else {
            const char *which = text_at(s, 0);
            rc = error_prefix(e, "%s: key '%.64s'", f->path, which ? which : "");
        }
    }
    if (rc == RC_OK && step != SQLITE_DONE)
        rc = db_failed(f, e);
    sqlite3_finalize(s);
    free(space);
    return rc;
}

static enum rc join_lines(struct strbuf *b, const char *const *items, int n, struct error *e)
{
    strbuf_init(b, LIST_BYTES_MAX - 1);
    enum rc rc = strbuf_puts(b, "");
    for (int i = 0; i < n && rc == RC_OK; i++)
        rc = strbuf_printf(b, "%s\n", items[i]);
    return rc == RC_OK ? RC_OK : error_set(e, rc, "the key's lists are too long together");
}

static enum rc finish(struct keyfile *f, sqlite3_stmt *s, struct error *e)
{
    enum rc rc = sqlite3_step(s) == SQLITE_DONE ? RC_OK : db_failed(f, e);
    if (rc == RC_IO && sqlite3_errcode(f->db) == SQLITE_CONSTRAINT)
        rc = error_set(e, RC_CONFLICT, "the id was used before, and an id means one key for good; choose another");
    sqlite3_finalize(s);
    return rc;
}

enum rc keyfile_insert(struct keyfile *f, const struct key_row *row, struct error *e)
{
    const struct key_info *i = &row->info;
    struct strbuf models, networks;
    sqlite3_stmt *s = NULL;
    enum rc rc = join_lines(&models, i->who.models, i->who.n_models, e);
    enum rc second = join_lines(&networks, i->networks, i->who.n_networks, e);
    if (rc == RC_OK)
        rc = second;
    if (rc == RC_OK)
        rc = prepare(f, &s,
                     "INSERT INTO keys(id, hash, tail, tenant, team, project, user, rate_class, scopes, local_only,"
                     " models, networks, created_s, expires_s)"
                     " VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14)",
                     e);
    if (rc == RC_OK) {
        bind_text(s, 1, i->id);
        bind_hash(s, 2, &row->hash);
        bind_text(s, 3, i->tail);
        bind_text(s, 4, i->who.tenant);
        bind_text(s, 5, i->who.team);
        bind_text(s, 6, i->who.project);
        bind_text(s, 7, i->who.user);
        bind_text(s, 8, i->who.rate_class);
        sqlite3_bind_int(s, 9, (int)i->who.scopes);
        sqlite3_bind_int(s, 10, i->who.local_only);
        bind_text(s, 11, models.data ? models.data : "");
        bind_text(s, 12, networks.data ? networks.data : "");
        sqlite3_bind_int64(s, 13, i->created_s);
        sqlite3_bind_int64(s, 14, i->expires_s);
        rc = finish(f, s, e);
    }
    strbuf_fini(&models);
    strbuf_fini(&networks);
    return rc;
}

enum rc keyfile_rotate(struct keyfile *f, const char *id, const struct hash *hash, const char *tail, int64_t now_s,
                       int64_t old_until_s, struct error *e)
{
    sqlite3_stmt *s = NULL;
    enum rc rc = prepare(f, &s,
                         "UPDATE keys SET old_hash = CASE WHEN ?5 > 0 THEN hash END, old_until_s = ?5, hash = ?2,"
                         " tail = ?3, rotated_s = ?4 WHERE id = ?1 AND revoked_s = 0",
                         e);
    if (rc != RC_OK)
        return rc;
    bind_text(s, 1, id);
    bind_hash(s, 2, hash);
    bind_text(s, 3, tail);
    sqlite3_bind_int64(s, 4, now_s);
    sqlite3_bind_int64(s, 5, old_until_s);
    rc = finish(f, s, e);
    if (rc == RC_OK && sqlite3_changes(f->db) != 1) /* or a text would be shown that opens nothing */
        rc = error_set(e, RC_CONFLICT, "key '%.64s' was revoked in this moment", id);
    return rc;
}

enum rc keyfile_revoke(struct keyfile *f, const char *id, int64_t now_s, struct error *e)
{
    sqlite3_stmt *s = NULL;
    enum rc rc = prepare(f, &s, "UPDATE keys SET revoked_s = ?2 WHERE id = ?1 AND revoked_s = 0", e);
    if (rc != RC_OK)
        return rc;
    bind_text(s, 1, id);
    sqlite3_bind_int64(s, 2, now_s);
    return finish(f, s, e);
}
