/* What tokens were used, and whose certificates are worth nothing: tokens.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "scheduler/join/tokens.h"

#define FILE_MAX ((size_t)16 << 20)
#define FIELDS   4

struct used {
    uint8_t hash[32], key_hash[32];
    int64_t until_s;
    bool written; /* only then somebody may be let in by it */
};
struct revoked {
    char name[TOKEN_NAME_MAX];
    int64_t issued_until_s, forget_s;
};
struct book {
    char *path;
    int fd;
    struct used used[BOOK_USED_MAX];
    struct revoked revoked[BOOK_REVOKED_MAX];
    int n_used, n_revoked;
};

/* ---- in memory -------------------------------------------------------------------------------------------------- */

static void forget_old(struct book *b, int64_t now_s)
{
    int kept = 0;
    for (int i = 0; i < b->n_used; i++) {
        if (b->used[i].until_s > now_s)
            b->used[kept++] = b->used[i];
    }
    b->n_used = kept;
    kept = 0;
    for (int i = 0; i < b->n_revoked; i++) {
        if (b->revoked[i].forget_s > now_s)
            b->revoked[kept++] = b->revoked[i];
    }
    b->n_revoked = kept;
}

static struct used *find_used(struct book *b, const uint8_t hash[32])
{
    for (int i = 0; i < b->n_used; i++) {
        if (memcmp(b->used[i].hash, hash, 32) == 0)
            return &b->used[i];
    }
    return NULL;
}

enum rc book_use(struct book *b, const struct token *t, const uint8_t key_hash[32], int64_t now_s, bool *again,
                 struct error *e)
{
    forget_old(b, now_s);
    struct used *u = find_used(b, t->hash);
    *again = u != NULL;
    if (u && memcmp(u->key_hash, key_hash, 32) != 0)
        return error_set(e, RC_DENIED, "the token was used already; make another one");
    if (u)
        return u->written ? RC_OK : error_set(e, RC_AGAIN, "the token's use is being written down; try again");
    if (b->n_used == BOOK_USED_MAX)
        return error_set(e, RC_FULL, "%d tokens were used of late; try again later", BOOK_USED_MAX);
    u = &b->used[b->n_used++];
    memcpy(u->hash, t->hash, 32);
    memcpy(u->key_hash, key_hash, 32);
    u->until_s = t->until_s;
    u->written = false;
    return RC_OK;
}

void book_used(struct book *b, const struct token *t)
{
    struct used *u = find_used(b, t->hash);
    if (u)
        u->written = true;
}

void book_unuse(struct book *b, const struct token *t)
{
    struct used *u = find_used(b, t->hash);
    if (u)
        *u = b->used[--b->n_used];
}

enum rc book_revoke(struct book *b, const char *name, int64_t issued_until_s, int64_t forget_s, int64_t now_s,
                    struct error *e)
{
    forget_old(b, now_s);
    for (int i = 0; i < b->n_revoked; i++) {
        struct revoked *r = &b->revoked[i];
        if (strcmp(r->name, name) != 0)
            continue;
        r->issued_until_s = issued_until_s > r->issued_until_s ? issued_until_s : r->issued_until_s;
        r->forget_s = forget_s > r->forget_s ? forget_s : r->forget_s;
        return RC_OK;
    }
    if (b->n_revoked == BOOK_REVOKED_MAX)
        return error_set(e, RC_FULL, "the certificates of %d nodes are revoked already", BOOK_REVOKED_MAX);
    struct revoked *r = &b->revoked[b->n_revoked++];
    *r = (struct revoked){.issued_until_s = issued_until_s, .forget_s = forget_s};
    text_put(r->name, r->name + sizeof r->name, name);
    return RC_OK;
}

bool book_is_revoked(const struct book *b, const char *name, int64_t issued_s)
{
    for (int i = 0; i < b->n_revoked; i++) {
        if (strcmp(b->revoked[i].name, name) == 0)
            return issued_s <= b->revoked[i].issued_until_s;
    }
    return false;
}

/* ---- on disk ---------------------------------------------------------------------------------------------------- */

static void put_hash(struct strbuf *out, const uint8_t hash[32])
{
    char hex[2 * 32 + 1];
    strbuf_puts(out, text_hex(hex, hash, 32));
}

static void use_line(const uint8_t *hash, const uint8_t *key_hash, int64_t until_s, struct strbuf *out)
{
    strbuf_puts(out, "used ");
    put_hash(out, hash);
    strbuf_puts(out, " ");
    put_hash(out, key_hash);
    strbuf_printf(out, " %" PRId64 "\n", until_s);
}

void book_use_line(const struct token *t, const uint8_t key_hash[32], struct strbuf *out)
{
    use_line(t->hash, key_hash, t->until_s, out);
}

void book_revoke_line(const char *name, int64_t issued_until_s, int64_t forget_s, struct strbuf *out)
{
    strbuf_printf(out, "revoked %s %" PRId64 " %" PRId64 "\n", name, issued_until_s, forget_s);
}

static bool read_hash(const char *hex, uint8_t hash[32])
{
    if (strlen(hex) != 64 || strspn(hex, "0123456789abcdef") != 64)
        return false;
    for (int i = 0; i < 32; i++) {
        const char pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        hash[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return true;
}

static void read_used(struct book *b, const struct token *t, const uint8_t key_hash[32], int64_t now_s)
{
    bool again;
    struct error ignored;
    if (t->until_s > now_s && book_use(b, t, key_hash, now_s, &again, &ignored) == RC_OK)
        book_used(b, t);
}

/* False: it is damaged. */
static bool read_line(struct book *b, char *const *f, int n, int64_t now_s)
{
    struct token t = {.kind = TOKEN_NODE};
    uint8_t key_hash[32];
    int64_t a, z;
    struct error ignored;
    if (n == 4 && strcmp(f[0], "used") == 0 && read_hash(f[1], t.hash) && read_hash(f[2], key_hash) &&
        text_parse_int(f[3], 0, INT64_MAX, &t.until_s) == RC_OK) {
        read_used(b, &t, key_hash, now_s);
        return true;
    }
    if (n == 4 && strcmp(f[0], "revoked") == 0 && strlen(f[1]) < TOKEN_NAME_MAX &&
        text_parse_int(f[2], 0, INT64_MAX, &a) == RC_OK && text_parse_int(f[3], 0, INT64_MAX, &z) == RC_OK)
        return z <= now_s || book_revoke(b, f[1], a, z, now_s, &ignored) != RC_INVALID;
    return false;
}

static enum rc read_lines(struct book *b, char *text, int64_t now_s, struct error *e)
{
    int number = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        char *fields[FIELDS] = {NULL}, *rest = line, *word;
        int n = 0;
        *end = '\0';
        number++;
        while (n < FIELDS && (word = strsep(&rest, " ")))
            fields[n++] = word;
        if (rest || !read_line(b, fields, n, now_s))
            return error_set(e, RC_INVALID,
                             "%s: line %d is none of ours; restore the file from a backup, or remove it together with "
                             "ca.key and ca.pem, and every node has to join anew",
                             b->path, number);
    }
    return RC_OK;
}

static enum rc write_anew(struct book *b, struct error *e)
{
    struct strbuf out;
    strbuf_init(&out, FILE_MAX);
    for (int i = 0; i < b->n_used; i++)
        use_line(b->used[i].hash, b->used[i].key_hash, b->used[i].until_s, &out);
    for (int i = 0; i < b->n_revoked; i++)
        book_revoke_line(b->revoked[i].name, b->revoked[i].issued_until_s, b->revoked[i].forget_s, &out);
    enum rc rc = file_replace(b->path, 0600, out.data ? out.data : "", out.len, e);
    strbuf_fini(&out);
    return rc;
}

enum rc book_open(struct book **out, const char *path, int64_t now_s, struct error *e)
{
    struct book *b = spw_calloc(1, sizeof *b);
    struct strbuf text;
    b->path = spw_strdup(path);
    b->fd = -1;
    enum rc rc = file_read(&text, path, FILE_MAX, e);
    if (rc == RC_OK && text.data)
        rc = read_lines(b, text.data, now_s, e);
    else if (rc == RC_NOT_FOUND)
        rc = RC_OK;
    strbuf_fini(&text);
    if (rc == RC_OK)
        rc = write_anew(b, e);
    if (rc == RC_OK) {
        b->fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
        if (b->fd < 0)
            rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    }
    if (rc == RC_OK)
        *out = b;
    else
        book_close(b);
    return rc;
}

void book_close(struct book *b)
{
    if (!b)
        return;
    if (b->fd >= 0)
        close(b->fd);
    free(b->path);
    free(b);
}

enum rc book_write(struct book *b, const char *lines, size_t n, struct error *e)
{
    /* One write: what a crash cuts off is the last line, which is not looked at. */
    const off_t before = lseek(b->fd, 0, SEEK_END);
    const ssize_t put = write(b->fd, lines, n);
    if (put == (ssize_t)n && fdatasync(b->fd) == 0)
        return RC_OK;
    error_set(e, RC_IO, "%s: %s", b->path, put < 0 || put == (ssize_t)n ? strerror(errno) : "no space");
    if (before >= 0)
        (void)!ftruncate(b->fd, before); /* half a line would spoil the next one */
    return RC_IO;
}
