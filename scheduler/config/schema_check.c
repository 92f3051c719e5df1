/* What a setting's value must look like, beyond its type: by name, as the schema's rows want it. */
#include "scheduler/config/schema_check.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "scheduler/redis/address.h"

static bool check_port(const char *port, char *why, size_t size)
{
    int64_t v;

    if (text_parse_int(port, 0, 65535, &v) != RC_OK) {
        snprintf(why, size, "\"%.40s\" is not a port; 0 to 65535 is allowed", port);
        return false;
    }
    return true;
}

/* What stands before an '@' may be a password: no message repeats it. */
static bool names_nobody(const char *text, char *why, size_t size)
{
    if (!strchr(text, '@'))
        return true;
    snprintf(why, size, "an address holds no credentials; user and file of the password have keys of their own");
    return false;
}

/* HOST:PORT, [V6]:PORT or unix:PATH. */
bool check_address(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;
    const char *colon = strrchr(text, ':');

    if (strncmp(text, "unix:", 5) == 0) {
        if (text[5] != '/') {
            snprintf(why, size, "\"%.80s\" needs an absolute path, as in unix:/run/spillway.sock", text);
            return false;
        }
        return true;
    }
    if (!names_nobody(text, why, size))
        return false;
    if (strpbrk(text, " \t/")) {
        snprintf(why, size, "\"%.80s\" is not an address; write HOST:PORT without scheme or path", text);
        return false;
    }
    if (!colon || colon == text) {
        snprintf(why, size, "\"%.80s\" is not an address; write HOST:PORT, as in 127.0.0.1:8080", text);
        return false;
    }
    if (text[0] == '[' ? colon[-1] != ']' : memchr(text, ':', (size_t)(colon - text)) != NULL) {
        snprintf(why, size, "\"%.80s\" is ambiguous; put an IPv6 address into brackets, as in [::1]:8080", text);
        return false;
    }
    return check_port(colon + 1, why, size);
}

bool check_redis(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field, *plain = redis_address_plain(text);

    if (redis_address_is_tls(text) && strncmp(plain, "unix:", 5) == 0) {
        snprintf(why, size, "\"%.80s\": TLS is for HOST:PORT; a unix socket needs none", text);
        return false;
    }
    return check_address(&plain, why, size);
}

/* http://HOST[:PORT] or https://HOST[:PORT] and nothing after it. */
bool check_url(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;
    const char *host = strncmp(text, "http://", 7) == 0    ? text + 7
                       : strncmp(text, "https://", 8) == 0 ? text + 8
                                                           : NULL;

    if (strpbrk(text, "@ \t")) {
        snprintf(why, size, "a URL holds no credentials or blanks; put the node's key into api_key_file");
        return false;
    }
    if (!host || host[0] == '\0') {
        snprintf(why, size, "\"%.80s\" is not a URL; write http://HOST:PORT or https://HOST:PORT", text);
        return false;
    }
    size_t n = strcspn(host, "/?#");
    if (host[n] != '\0') {
        snprintf(why, size, "\"%.80s\" has a path; write %.*s, /v1/... is added", text, (int)(host + n - text), text);
        return false;
    }
    const char *colon = host[0] == '[' ? strstr(host, "]:") : strchr(host, ':');
    if (host[0] == '[' && !strchr(host, ']')) {
        snprintf(why, size, "\"%.80s\" lacks the closing bracket, as in http://[::1]:8000", text);
        return false;
    }
    return !colon || check_port(colon + (host[0] == '[' ? 2 : 1), why, size);
}

/* Where engines find us: always TLS. */
bool check_https(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;

    if (!names_nobody(text, why, size))
        return false;
    if (strncmp(text, "https://", 8) != 0) {
        snprintf(why, size, "\"%.80s\" is not it; write https://HOST:PORT: engines join over TLS", text);
        return false;
    }
    return check_url(field, why, size);
}

/* A host name or an address, for TLS. */
bool check_host(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;
    size_t n = strlen(text);

    if (!text_is_word(text, "-_.:", SIZE_MAX)) {
        snprintf(why, size, "\"%.80s\" is not a host name; write it as in api.example.com", text);
        return false;
    }
    if (n > 253) {
        snprintf(why, size, "the host name has %zu characters; up to 253 are allowed", n);
        return false;
    }
    return true;
}

/* http://HOST:4318 or with a path before /v1/traces. */
bool check_collector(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;

    if (!names_nobody(text, why, size))
        return false;
    if (strncmp(text, "http://", 7) != 0 && strncmp(text, "https://", 8) != 0) {
        snprintf(why, size, "\"%.80s\" is not a URL; write http://HOST:4318 or https://HOST:4318", text);
        return false;
    }
    if (strpbrk(text, "?# \t")) {
        snprintf(why, size,
                 "a collector's address holds no query, blanks or credentials; put a token into "
                 "tracing.headers_file");
        return false;
    }
    return true;
}

bool check_webhook(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;

    if ((strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0) && !strpbrk(text, "@ \t"))
        return true;
    snprintf(
        why, size,
        "not a URL without credentials; write https://HOST/PATH, and put a token or secret into a file, which the key "
        "beside it names");
    return false;
}

/* smtp://HOST[:PORT] or smtps://HOST[:PORT]. */
bool check_mail_server(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;
    const char *host = strncmp(text, "smtp://", 7) == 0 ? text + 7 : strncmp(text, "smtps://", 8) == 0 ? text + 8 : "";

    if (!names_nobody(text, why, size))
        return false;
    if (!host[0] || strpbrk(host, "/?# \t")) {
        snprintf(why, size,
                 "\"%.80s\" is not a mail server; write smtp://HOST:587 or smtps://HOST:465, without credentials",
                 text);
        return false;
    }
    const char *colon = host[0] == '[' ? strstr(host, "]:") : strchr(host, ':');
    return !colon || check_port(colon + (host[0] == '[' ? 2 : 1), why, size);
}

/* Names show up in headers, metrics labels, paths and columns: keep them plain. */
bool check_name(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;
    size_t n = strlen(text);

    if (!text_is_word(text, "-_.", SIZE_MAX)) {
        snprintf(why, size, "\"%.80s\" is not a name; letters, digits, '-', '_' and '.' are allowed", text);
        return false;
    }
    if (n > 64) {
        snprintf(why, size, "the name has %zu characters; up to 64 are allowed", n);
        return false;
    }
    return true;
}

/* Model names as applications send them: printable ASCII without blanks or quotes ("deepseek-ai/DeepSeek-R1:q8"). */
static bool check_model_name(const char *text, char *why, size_t size)
{
    size_t n = strlen(text);

    for (size_t i = 0; i < n; i++)
        if (!isgraph((unsigned char)text[i]) || strchr("\"'\\", text[i])) {
            snprintf(why, size, "\"%.80s\" is not a model name; printable characters without blanks or quotes", text);
            return false;
        }
    if (n == 0 || n > 128) {
        snprintf(why, size, "a model name has 1 to 128 characters, not %zu", n);
        return false;
    }
    return true;
}

bool check_model(const void *field, char *why, size_t size)
{
    return check_model_name(*(const char *const *)field, why, size);
}

bool check_hash(const void *field, char *why, size_t size)
{
    const char *text = *(const char *const *)field;

    if (strlen(text) != 64 || strspn(text, "0123456789abcdef") != 64) {
        snprintf(why, size, "not a SHA-256 in 64 lower-case hex digits; `spillway keys hash` prints it for a key");
        return false;
    }
    return true;
}
