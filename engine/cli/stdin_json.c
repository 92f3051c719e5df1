#include "engine/cli/stdin_json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum rc stdin_read_json(cJSON **root, struct error *e)
{
    struct strbuf b;
    char chunk[65536];
    size_t n;
    enum rc rc = RC_OK;

    *root = NULL;
    strbuf_init(&b, STDIN_BYTES_MAX);
    while (rc == RC_OK && (n = fread(chunk, 1, sizeof(chunk), stdin)) > 0)
        rc = strbuf_append(&b, chunk, n);
    if (rc != RC_OK)
        rc = error_set(e, rc, "stdin: more than %d bytes", STDIN_BYTES_MAX);
    else if (ferror(stdin))
        rc = error_set(e, RC_IO, "stdin: %s", strerror(errno));
    else if ((rc = json_parse(b.data ? b.data : "", b.len, JSON_DEPTH_MAX, root, e)) != RC_OK)
        error_prefix(e, "stdin");
    strbuf_fini(&b);
    return rc;
}

enum rc stdout_write(const struct strbuf *b, struct error *e)
{
    if (fwrite(b->data ? b->data : "", 1, b->len, stdout) != b->len || fflush(stdout) != 0)
        return error_set(e, RC_IO, "stdout: %s", strerror(errno));
    return RC_OK;
}
