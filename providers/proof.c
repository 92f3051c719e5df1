#include "providers/proof.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/json_write.h"
#include "base/text.h"

#define PROOF_BYTES_MAX 4096

static enum rc read_fields(const cJSON *doc, struct proof *p, struct error *e)
{
    const char *ways = "", *settings = "", *when = "";
    const struct {
        const char *key;
        int64_t *v;
    } numbers[] = {{"off_ms", &p->off_ms},
                   {"on_ms", &p->on_ms},
                   {"answer_ms", &p->answer_ms},
                   {"milliwatts_off", &p->milliwatts_off},
                   {"milliwatts_on", &p->milliwatts_on}};
    p->milliwatts_off = p->milliwatts_on = -1;
    enum rc rc = json_get_string(doc, "ways", &ways, NULL, e);
    if (rc == RC_OK)
        rc = json_get_string(doc, "settings_sha256", &settings, NULL, e);
    if (rc == RC_OK)
        rc = json_get_string(doc, "proven_at", &when, NULL, e);
    for (size_t i = 0; rc == RC_OK && i < sizeof(numbers) / sizeof(numbers[0]); i++)
        rc = json_get_int(doc, numbers[i].key, -1, INT64_C(1) << 40, numbers[i].v, NULL, e);
    if (rc == RC_OK && (strlen(settings) != 64 || !ways[0] || text_parse_utc(when, &p->at_s) != RC_OK))
        rc = error_set(e, RC_INVALID, "ways, settings_sha256 and proven_at are not what enrolment writes");
    if (rc != RC_OK)
        return rc;
    snprintf(p->ways, sizeof(p->ways), "%s", ways);
    memcpy(p->settings, settings, 65);
    return RC_OK;
}

enum rc proof_read(const char *path, struct proof *p, struct error *e)
{
    struct strbuf b;
    cJSON *doc = NULL;
    memset(p, 0, sizeof(*p));
    enum rc rc = file_read(&b, path, PROOF_BYTES_MAX, e);
    if (rc == RC_OK && (rc = json_parse(b.data ? b.data : "", b.len, 8, &doc, e)) == RC_OK)
        rc = read_fields(doc, p, e);
    if (rc != RC_OK && rc != RC_NOT_FOUND) {
        error_prefix(e, "%s; enrol the node again", path);
        rc = RC_INVALID;
    }
    cJSON_Delete(doc);
    strbuf_fini(&b);
    return rc;
}

enum rc proof_write(const char *path, const char *node, const struct proof *p, struct error *e)
{
    struct strbuf b;
    char when[32];
    strbuf_init(&b, PROOF_BYTES_MAX);
    wall_format((struct wall){p->at_s * NS_PER_S}, when, sizeof(when));
    if (strlen(when) > 19)
        memcpy(when + 19, "Z", 2); /* whole seconds, as text_parse_utc() reads them */
    struct json_writer w = json_write_begin(&b);
    json_open(&w, NULL, '{');
    json_string(&w, "node", node);
    json_string(&w, "proven_at", when);
    json_string(&w, "ways", p->ways);
    json_string(&w, "settings_sha256", p->settings);
    json_int(&w, "off_ms", p->off_ms);
    json_int(&w, "on_ms", p->on_ms);
    json_int(&w, "answer_ms", p->answer_ms);
    if (p->milliwatts_off >= 0)
        json_int(&w, "milliwatts_off", p->milliwatts_off);
    if (p->milliwatts_on >= 0)
        json_int(&w, "milliwatts_on", p->milliwatts_on);
    json_close(&w, '}');
    enum rc rc = json_write_end(&w);
    if (rc == RC_OK)
        rc = strbuf_puts(&b, "\n");
    rc = rc == RC_OK ? file_replace(path, 0640, b.data, b.len, e) : error_set(e, rc, "%s: a name is too long", path);
    strbuf_fini(&b);
    return rc;
}
