#include "providers/ec2_userdata.h"

#include <stdio.h>
#include <string.h>

extern const char ec2_boot_text[];
extern const size_t ec2_boot_length;

/* NAME='value', for the shell. */
static enum rc put(struct strbuf *out, const char *name, const char *value, struct error *e)
{
    value = value ? value : "";
    if (strpbrk(value, "\r\n"))
        return error_set(e, RC_INVALID, "the machine's %s has a line break", name);
    strbuf_printf(out, "%s='", name);
    for (; *value; value++)
        *value == '\'' ? strbuf_puts(out, "'\\''") : strbuf_append(out, value, 1);
    return strbuf_puts(out, "'\n") == RC_OK ? RC_OK : error_set(e, RC_FULL, "the machine's settings are too long");
}

static bool is_loopback(const char *url)
{
    return strncmp(url, "http://127.0.0.1:", 17) == 0 || strncmp(url, "http://localhost:", 17) == 0;
}

static enum rc check_source(const char *what, const char *url, const char *sum, struct error *e)
{
    if (!url)
        return RC_OK;
    if (strncmp(url, "https://", 8) != 0 && !is_loopback(url))
        return error_set(e, RC_INVALID, "%s_url must be an https:// address", what);
    if (!sum || strlen(sum) != 64 || strspn(sum, "0123456789abcdef") != 64)
        return error_set(e, RC_INVALID, "%s_sha256 must be the file's SHA-256: 64 digits of 0-9 and a-f", what);
    return RC_OK;
}

static enum rc put_arguments(struct strbuf *out, const struct ec2_boot *b, struct error *e)
{
    struct strbuf words;
    const struct {
        const char *flag;
        int value;
    } numbers[] = {{"--threads", b->threads}, {"--ctx-size", b->ctx_size}, {"--max-batch", b->max_batch}};
    strbuf_init(&words, EC2_USERDATA_MAX);
    for (const char *c = b->arguments ? b->arguments : ""; *c; c++)
        strbuf_append(&words, *c == ',' ? " " : c, 1);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (numbers[i].value > 0)
            strbuf_printf(&words, " %s %d", numbers[i].flag, numbers[i].value);
    }
    enum rc rc = put(out, "ARGUMENTS", words.data, e);
    strbuf_fini(&words);
    return rc;
}

static enum rc put_number(struct strbuf *out, const char *name, int value, struct error *e)
{
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    return put(out, name, text, e);
}

enum rc ec2_userdata(struct strbuf *script, const struct ec2_boot *b, struct error *e)
{
    const size_t before = script->len;
    const bool plain = (b->engine_url && is_loopback(b->engine_url)) || (b->model_url && is_loopback(b->model_url));
    const struct {
        const char *name, *value;
    } lines[] = {
        {"ENGINE_URL", b->engine_url},
        {"ENGINE_SHA256", b->engine_sha256},
        {"ENGINE", b->engine ? b->engine : "/usr/bin/spillway-engine"},
        {"MODEL_URL", b->model_url},
        {"MODEL_SHA256", b->model_sha256},
        {"MODEL", b->model},
        {"ALIAS", b->alias},
        {"JOIN_URL", b->join_url},
        {"PROTOCOLS", plain ? "=http,https" : "=https"},
    };
    enum rc rc = check_source("engine", b->engine_url, b->engine_sha256, e);
    if (rc == RC_OK)
        rc = check_source("model", b->model_url, b->model_sha256, e);
    if (rc == RC_OK && !b->model_url && (!b->model || !*b->model))
        rc = error_set(e, RC_INVALID, "a machine needs model_url and model_sha256, or a model on its image");
    if (rc == RC_OK)
        rc = strbuf_puts(script, "#!/bin/bash\n");
    for (size_t i = 0; i < sizeof lines / sizeof lines[0] && rc == RC_OK; i++)
        rc = put(script, lines[i].name, lines[i].value, e);
    if (rc == RC_OK)
        rc = put_number(script, "PORT", b->port, e);
    if (rc == RC_OK)
        rc = put_number(script, "BOOT_MAX", b->boot_max_s, e);
    if (rc == RC_OK)
        rc = put_arguments(script, b, e);
    if (rc != RC_OK)
        return rc;
    if (strbuf_append(script, ec2_boot_text, ec2_boot_length) != RC_OK || script->len - before > EC2_USERDATA_MAX)
        return error_set(e, RC_FULL, "user data is longer than the %zu bytes that EC2 takes", EC2_USERDATA_MAX);
    return RC_OK;
}
