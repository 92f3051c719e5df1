#include "engine/serve/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"

#define KEY_BYTES_MIN  8
#define KEY_FILE_BYTES ((size_t)1 << 20)

struct api_keys {
    int n, max;
    unsigned char digests[API_KEYS_MAX][SHA256_DIGEST_LENGTH];
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static enum rc add_line(struct api_keys *k, const char *line, size_t n, const char *path, int number, struct error *e)
{
    while (n && is_blank(line[n - 1]))
        n--;
    while (n && is_blank(*line)) {
        line++;
        n--;
    }
    if (n == 0 || *line == '#')
        return RC_OK;
    if (n < KEY_BYTES_MIN)
        return error_set(e, RC_INVALID, "%s:%d: a key must have at least %d bytes", path, number, KEY_BYTES_MIN);
    if (k->n == k->max)
        return error_set(e, RC_INVALID, "%s:%d: more than %d key%s", path, number, k->max, k->max == 1 ? "" : "s");
    SHA256((const unsigned char *)line, n, k->digests[k->n++]);
    return RC_OK;
}

enum rc api_keys_open(struct api_keys **keys, const char *path, int keys_max, struct error *e)
{
    struct strbuf text;
    SPW_ASSERT(keys_max >= 1 && keys_max <= API_KEYS_MAX);
    struct api_keys *k = spw_calloc(1, sizeof *k);
    k->max = keys_max;
    enum rc rc = file_read(&text, path, KEY_FILE_BYTES, e);
    const char *p = text.data ? text.data : "", *end = p + text.len;
    for (int number = 1; !rc && p < end; number++) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        const char *stop = newline ? newline : end;
        rc = add_line(k, p, (size_t)(stop - p), path, number, e);
        p = stop + 1;
    }
    if (!rc && k->n == 0)
        rc = error_set(e, RC_INVALID, "%s: holds no key; write one per line", path);
    if (text.data)
        OPENSSL_cleanse(text.data, text.len);
    strbuf_fini(&text);
    if (rc) {
        free(k);
        return rc;
    }
    *keys = k;
    return RC_OK;
}

void api_keys_free(struct api_keys *k)
{
    free(k);
}

bool api_keys_allow(const struct api_keys *k, const char *authorization)
{
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return false;
    const char *key = authorization + 7;
    while (*key == ' ')
        key++;
    return api_keys_have(k, key);
}

bool api_keys_have(const struct api_keys *k, const char *key)
{
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)key, strlen(key), digest);
    int found = 0;
    for (int i = 0; i < k->n; i++)
        found |= CRYPTO_memcmp(digest, k->digests[i], sizeof digest) == 0;
    return found;
}
