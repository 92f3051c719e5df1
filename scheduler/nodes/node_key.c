#include "scheduler/nodes/node_key.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/text.h"

#define KEY_BYTES 32

static enum rc write_key(const char *path, const char *text, size_t n, struct error *e)
{
    /* A file of its own: one that is there may have other modes, or be a link. */
    if (unlink(path) != 0 && errno != ENOENT)
        return error_set(e, RC_IO, "node key %s: %s", path, strerror(errno));
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_set(e, RC_IO, "node key %s: %s", path, strerror(errno));
    bool whole = write(fd, text, n) == (ssize_t)n;
    if (close(fd) != 0 || !whole)
        return error_set(e, RC_IO, "node key %s: %s", path, whole ? strerror(errno) : "it could not be written whole");
    return RC_OK;
}

enum rc node_key_make(char **key, const char *path, struct error *e)
{
    uint8_t random[KEY_BYTES];
    char line[2 * KEY_BYTES + 2];
    SPW_ASSERT(getrandom(random, sizeof random, 0) == sizeof random); /* never short for so few bytes */
    text_hex(line, random, KEY_BYTES);
    memcpy(line + 2 * KEY_BYTES, "\n", 2);
    enum rc rc = write_key(path, line, sizeof line - 1, e);
    if (rc == RC_OK)
        *key = spw_strndup(line, 2 * KEY_BYTES);
    OPENSSL_cleanse(random, sizeof random);
    OPENSSL_cleanse(line, sizeof line);
    return rc;
}
