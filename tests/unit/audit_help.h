/* What the tests of the audit share: a folder, a chain in it that a store has written, and files changed by hand. */
#ifndef TESTS_UNIT_AUDIT_HELP_H
#define TESTS_UNIT_AUDIT_HELP_H

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "scheduler/audit/store.h"
#include "scheduler/audit/verify.h"

#define T0 INT64_C(1800000000) /* 2027-01-15 */

static char audit_dir[64], audit_key[96];

static inline void audit_folder(void)
{
    snprintf(audit_dir, sizeof audit_dir, "/tmp/spw-audit-XXXXXX");
    if (!mkdtemp(audit_dir))
        abort();
    snprintf(audit_key, sizeof audit_key, "%s/key.pem", audit_dir);
}

static inline void audit_clean(void)
{
    DIR *d = opendir(audit_dir);
    struct dirent *x;
    char path[512];

    while (d && (x = readdir(d))) {
        snprintf(path, sizeof path, "%s/%s", audit_dir, x->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
    rmdir(audit_dir);
}

static inline struct audit_keys audit_key_pair(void)
{
    struct audit_keys k;
    struct error e;

    if (audit_keys_load(&k, audit_key, AUDIT_KEY_MAKE, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return k;
}

/* A group of n records, numbered from `first` in what they say. */
static inline enum rc audit_group(struct store *s, int64_t at_s, int first, int n)
{
    struct store_item items[64];
    char text[64][96];
    struct error e = {0};

    for (int i = 0; i < n; i++) {
        int k =
            snprintf(text[i], sizeof text[i], "{\"k\":\"request\",\"id\":\"req_%d\",\"tenant\":\"acme\"}", first + i);
        items[i] = (struct store_item){text[i], (size_t)k};
    }
    return store_append(s, (struct wall){at_s * NS_PER_S}, items, n, &e);
}

static inline char *audit_segment_path(int i)
{
    char **names, *path = NULL;
    int n;
    struct error e;

    if (store_list(audit_dir, &names, &n, &e) != RC_OK)
        abort();
    for (int k = 0; k < n; k++) {
        if (k == i)
            path = names[k];
        else
            free(names[k]);
    }
    free(names);
    return path;
}

static inline struct strbuf audit_read_file(const char *path)
{
    struct strbuf b;
    struct error e;

    if (file_read(&b, path, (size_t)256 << 20, &e) != RC_OK) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    return b;
}

static inline void audit_write_file(const char *path, const char *data, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0640);

    if (fd < 0 || write(fd, data, n) != (ssize_t)n)
        abort();
    close(fd);
}

#endif
