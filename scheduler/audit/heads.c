/* Heads for programs without a writer, and for files outside the chain's folder. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "scheduler/audit/audit.h"
#include "scheduler/audit/store.h"

/* The operator's own copy of the key, else the one that the chain names: that tells of damage, not of forgery. */
enum rc audit_public_key(struct audit_keys *k, const char *dir, const char *key_file, struct error *e)
{
    char *own = key_file ? spw_strdup(key_file) : spw_asprintf("%s/key.pem", dir);
    bool there = access(own, R_OK) == 0;
    enum rc rc = RC_NOT_FOUND;

    if (there || key_file)
        rc = audit_keys_load_public(k, own, e);
    free(own);
    if (there || key_file)
        return rc;
    char **names;
    int n;
    struct audit_segment s;
    rc = store_list(dir, &names, &n, e);
    if (rc == RC_OK && n == 0)
        rc = error_set(e, RC_NOT_FOUND, "audit: no chain in %s", dir);
    if (rc == RC_OK)
        rc = store_read_segment(names[0], &s, e);
    if (rc == RC_OK)
        rc = audit_keys_from_public(k, s.public_part);
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    return rc;
}

enum rc audit_read_head(const char *dir, const char *key_file, struct audit_head *h, struct error *e)
{
    struct audit_keys k = {0};
    enum rc rc = audit_public_key(&k, dir, key_file, e);

    *h = (struct audit_head){0};
    if (rc == RC_OK)
        rc = store_read_head(dir, &k, h, e);
    audit_keys_fini(&k);
    return rc;
}

enum rc audit_export_head(const char *path, const struct audit_head *h, struct error *e)
{
    struct strbuf line;

    strbuf_init(&line, 1024);
    SPW_ASSERT(audit_head_write(h, &line) == RC_OK && strbuf_puts(&line, "\n") == RC_OK);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    bool done = fd >= 0 && write(fd, line.data, line.len) == (ssize_t)line.len && fdatasync(fd) == 0;
    enum rc rc = done ? RC_OK : error_set(e, RC_IO, "audit: head to %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    strbuf_fini(&line);
    return rc;
}
