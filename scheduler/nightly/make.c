#include "scheduler/nightly/make.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json_write.h"
#include "base/text.h"
#include "scheduler/nightly/options.h"
#include "scheduler/report/files.h"
#include "scheduler/report/html.h"
#include "scheduler/report/write.h"

#define ID_BYTES   16
#define NOTICE_MAX ((size_t)1 << 20)

/* What is sent, as it comes together. */
struct message {
    const struct make_order *o;
    const struct report *r;
    struct outbox_part parts[OUTBOX_PARTS_MAX];
    int n_parts;
    char *owned[3 * OUTBOX_PARTS_MAX];
    int n_owned;
    int64_t attached;              /* bytes */
    struct strbuf files, left_out; /* names, one per line */
};

static char *own(struct message *m, char *text)
{
    m->owned[m->n_owned++] = text;
    return text;
}

static void add_part(struct message *m, enum outbox_role role, const char *name, const char *type, char *bytes,
                     size_t n)
{
    m->parts[m->n_parts++] = (struct outbox_part){role, name, type, own(m, bytes), n};
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

static bool by_mail(const struct make_order *o)
{
    return o->config->reports.mail.server && (o->team ? o->team->n_to : o->config->reports.mail.n_to) > 0;
}

/* Attached where there is room. */
static enum rc attach(struct message *m, enum report_format f, char *name, struct error *e)
{
    const struct config_reports *c = &m->o->config->reports;
    struct strbuf bytes;
    struct stat st;
    char *path = spw_asprintf("%s/%s", c->folder, name);
    enum rc rc = stat(path, &st) == 0 ? RC_OK : error_set(e, RC_IO, "%s: %s", path, strerror(errno));
    if (rc == RC_OK && m->attached + st.st_size <= c->mail.bytes_max) {
        rc = file_read(&bytes, path, (size_t)c->mail.bytes_max + 1, e);
        if (rc == RC_OK) {
            char *copy = spw_malloc(bytes.len + 1);
            if (bytes.len)
                memcpy(copy, bytes.data, bytes.len);
            m->attached += (int64_t)bytes.len;
            add_part(m, OUTBOX_FILE, name, report_format_type(f), copy, bytes.len);
        }
        strbuf_fini(&bytes);
    } else if (rc == RC_OK) {
        rc = strbuf_printf(&m->left_out, "%s\n", path);
    }
    free(path);
    return rc;
}

static enum rc put_file(struct message *m, enum report_format f, struct error *e)
{
    const struct config_reports *c = &m->o->config->reports;
    char *name = own(m, report_file_name(m->r, f));
    enum rc rc = report_put_file(m->r, f, (enum report_focus)c->focus, c->folder, name, e);
    if (rc == RC_OK)
        rc = strbuf_printf(&m->files, "%s%s", m->files.len ? "\n" : "", name);
    return rc == RC_OK && by_mail(m->o) ? attach(m, f, name, e) : rc;
}

static enum rc put_files(struct message *m, struct error *e)
{
    static const char *const usual[] = {"html", "csv"};
    const struct config_reports *c = &m->o->config->reports;
    const char *const *words = c->n_formats ? c->formats : usual;
    enum rc rc = RC_OK;
    bool seen[REPORT_FORMATS] = {false};
    for (int i = 0; i < (c->n_formats ? c->n_formats : 2) && rc == RC_OK; i++) {
        enum report_format f;
        if (!report_format_parse(words[i], strlen(words[i]), &f) || seen[f])
            continue;
        seen[f] = true;
        rc = put_file(m, f, e);
    }
    return rc;
}

/* ---- what is said ------------------------------------------------------------------------------------------------- */

typedef enum rc write_fn(const struct report *r, FILE *out, struct error *e);

/* extra: what follows it; NULL: nothing. */
static enum rc put_text(struct message *m, enum outbox_role role, write_fn *write, const char *extra, struct error *e)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (!out)
        return error_set(e, RC_IO, "no memory for the mail's text");
    enum rc rc = write(m->r, out, e);
    if (rc == RC_OK && extra)
        fprintf(out, "\nToo large to be attached, and kept in the scheduler's folder:\n%s", extra);
    if (fclose(out) != 0 && rc == RC_OK)
        rc = error_set(e, RC_IO, "the mail's text cannot be written");
    if (rc == RC_OK)
        add_part(m, role, NULL, NULL, text, n);
    else
        free(text);
    return rc;
}

static void notice_figures(struct json_writer *w, const struct report *r)
{
    char text[WRITE_TIME], money[64];
    json_string(w, "from", write_utc(r->period.from_s, text));
    json_string(w, "until", write_utc(r->period.until_s, text));
    json_string(w, "made", write_utc(r->made.ns / NS_PER_S, text));
    json_string(w, "charge_usd", pusd_sum_format(r->use.charge, money, sizeof money));
    json_string(w, "cost_usd", pusd_sum_format(r->cost.bill, money, sizeof money));
    json_int(w, "requests", r->use.requests);
    json_int(w, "tokens", report_tokens(&r->use));
    json_int(w, "open_hours", r->hours.open);
}

/* A webhook's body. `text` is what chat programs show. */
static enum rc put_notice(struct message *m, const char *id, const char *text, struct error *e)
{
    struct strbuf out;
    strbuf_init(&out, NOTICE_MAX);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_string(&w, "event", "report");
    json_string(&w, "id", id);
    json_string(&w, "period", m->r->period.name);
    notice_figures(&w, m->r);
    json_open(&w, "files", '[');
    for (const char *at = m->files.data; at && *at; at += strcspn(at, "\n"), at += *at == '\n') {
        char *name = spw_strndup(at, strcspn(at, "\n"));
        json_string(&w, NULL, name);
        free(name);
    }
    json_close(&w, ']');
    json_string(&w, "text", text);
    json_close(&w, '}');
    enum rc rc = json_write_end(&w);
    if (rc == RC_OK)
        add_part(m, OUTBOX_NOTICE, NULL, NULL, spw_strndup(out.data, out.len), out.len);
    else
        rc = error_set(e, rc, "the webhook's body is too large");
    strbuf_fini(&out);
    return rc;
}

/* ---- the outbox --------------------------------------------------------------------------------------------------- */

/* Unique, so that a second copy of it is known by it. The caller's. */
static char *new_id(const char *period, const char *from, struct error *e)
{
    unsigned char bytes[ID_BYTES];
    char hex[2 * ID_BYTES + 1];
    const char *at = from ? strchr(from, '@') : NULL;
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) {
        (void)error_set(e, RC_IO, "no random bytes from the system: %s", strerror(errno));
        return NULL;
    }
    return spw_asprintf("spillway-%s-%s@%s", period, text_hex(hex, bytes, sizeof bytes), at ? at + 1 : "localhost");
}

static enum rc hand_over(struct message *m, const char *id, struct error *e)
{
    const struct make_order *o = m->o;
    const struct config_reports *c = &o->config->reports;
    const char *const *to = o->team ? o->team->to : c->mail.to;
    const int n_to = !by_mail(o) ? 0 : o->team ? o->team->n_to : c->mail.n_to;
    struct outbox_target *targets = spw_calloc((size_t)n_to + 1, sizeof *targets);
    int n = 0;
    for (int i = 0; i < n_to; i++)
        targets[n++] = (struct outbox_target){OUTBOX_MAIL, to[i]};
    if (!o->team && c->webhook.url)
        targets[n++] = (struct outbox_target){OUTBOX_WEBHOOK, "webhook"};
    char *subject = spw_asprintf("Spillway: costs of %s%s%s", m->r->period.name, o->team ? ", team " : "",
                                 o->team ? o->team->team : "");
    const struct outbox_run run = {.period = m->r->period.name,
                                   .team = o->team ? o->team->team : NULL,
                                   .subject = subject,
                                   .from = c->mail.from,
                                   .message_id = id,
                                   .files = m->files.data ? m->files.data : "",
                                   .made_s = o->now.ns / NS_PER_S,
                                   .open_hours = m->r->hours.open,
                                   .parts = m->parts,
                                   .targets = targets,
                                   .n_parts = m->n_parts,
                                   .n_targets = n};
    enum rc rc = outbox_put(o->outbox, &run, o->why, e);
    free(subject);
    free(targets);
    return rc;
}

static enum rc write_all(struct message *m, struct error *e)
{
    const struct config_reports *c = &m->o->config->reports;
    enum rc rc = put_files(m, e);
    if (rc != RC_OK)
        return rc;
    char *id = new_id(m->r->period.name, c->mail.from, e);
    if (!id)
        return RC_IO;
    if (by_mail(m->o) || (!m->o->team && c->webhook.url))
        rc = put_text(m, OUTBOX_TEXT, report_write_mail_text, m->left_out.data, e);
    if (rc == RC_OK && by_mail(m->o))
        rc = put_text(m, OUTBOX_HTML, report_write_mail_html, NULL, e);
    for (int i = 0; rc == RC_OK && !m->o->team && c->webhook.url && i < m->n_parts; i++)
        if (m->parts[i].role == OUTBOX_TEXT) {
            rc = put_notice(m, id, m->parts[i].bytes, e);
            break;
        }
    if (rc == RC_OK)
        rc = hand_over(m, id, e);
    free(id);
    return rc;
}

enum rc make_report(const struct make_order *o, bool *made, struct error *e)
{
    struct report_inputs in = {.texts = NULL};
    struct report *r = NULL;
    struct message m = {.o = o};
    *made = false;
    strbuf_init(&m.files, 4096);
    strbuf_init(&m.left_out, 65536);
    enum rc rc = report_inputs(&in, o->config, o->period, o->now, e);
    in.options.team = o->team ? o->team->team : NULL;
    if (rc == RC_OK)
        rc = report_gather(&r, &in.options, e);
    if (rc == RC_OK && (!r->hours.open || o->now.ns / NS_PER_S >= o->wait_until_s)) {
        m.r = r;
        rc = write_all(&m, e);
        *made = rc == RC_OK;
    }
    for (int i = 0; i < m.n_owned; i++)
        free(m.owned[i]);
    strbuf_fini(&m.files);
    strbuf_fini(&m.left_out);
    report_free(r);
    report_inputs_fini(&in);
    return rc;
}
