#include "scheduler/nightly/send.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/file.h"
#include "base/text.h"
#include "scheduler/audit/hmac.h"

#define CONNECT_S    10L
#define ALL_S        300L
#define SLOW_S       30L /* at less than a byte per second */
#define HEADER_BYTES 1200

struct call {
    CURL *curl;
    struct curl_slist *headers, *to;
    curl_mime *mime;
    char why[CURL_ERROR_SIZE];
    const bool *stop;
};

/* ---- libcurl ------------------------------------------------------------------------------------------------------ */

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct call *x = arg;
    (void)a, (void)b, (void)c, (void)d;
    return __atomic_load_n(x->stop, __ATOMIC_RELAXED);
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    (void)p, (void)arg;
    return size * n; /* of no interest */
}

static void add_header(struct call *x, const char *name, const char *value)
{
    char *line = spw_asprintf("%s: %s", name, value);
    struct curl_slist *more = curl_slist_append(x->headers, line);
    SPW_ASSERT(more);
    x->headers = more;
    free(line);
}

static void begin(struct call *x, const char *url, const char *protocols, const char *ca)
{
    curl_easy_setopt(x->curl, CURLOPT_URL, url);
    curl_easy_setopt(x->curl, CURLOPT_PROTOCOLS_STR, protocols);
    curl_easy_setopt(x->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(x->curl, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(x->curl, CURLOPT_TIMEOUT, ALL_S);
    curl_easy_setopt(x->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(x->curl, CURLOPT_LOW_SPEED_TIME, SLOW_S);
    curl_easy_setopt(x->curl, CURLOPT_ERRORBUFFER, x->why);
    curl_easy_setopt(x->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(x->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(x->curl, CURLOPT_XFERINFODATA, x);
    curl_easy_setopt(x->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(x->curl, CURLOPT_PROXY, ""); /* none of the environment's */
    if (ca)
        curl_easy_setopt(x->curl, CURLOPT_CAINFO, ca);
}

static void end(struct call *x)
{
    curl_mime_free(x->mime);
    curl_slist_free_all(x->headers);
    curl_slist_free_all(x->to);
    curl_easy_cleanup(x->curl);
}

static enum rc failed(const struct call *x, CURLcode code, const char *whom, struct error *e)
{
    const char *why = x->why[0] ? x->why : curl_easy_strerror(code);
    switch (code) {
    case CURLE_OK: return RC_OK;
    case CURLE_ABORTED_BY_CALLBACK: return error_set(e, RC_CANCELLED, "the scheduler ends");
    case CURLE_OPERATION_TIMEDOUT: return error_set(e, RC_TIMEOUT, "%s does not answer", whom);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_USE_SSL_FAILED:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_LOGIN_DENIED: return error_set(e, RC_IO, "%s: %s", whom, why);
    default: return error_set(e, RC_DENIED, "%s: %s", whom, why);
    }
}

/* ---- mail --------------------------------------------------------------------------------------------------------- */

/* RFC 2047 where it is not plain ASCII: encoded words of at most 75 characters, which end between two letters. */
static char *header_text(const char *text)
{
    struct strbuf out;
    bool plain = true;
    for (const char *p = text; *p; p++)
        plain = plain && *p >= ' ' && *p < 127;
    if (plain)
        return spw_strdup(text);
    strbuf_init(&out, 65536);
    for (const char *p = text; *p;) {
        size_t n = strlen(p) < 42 ? strlen(p) : 42;
        while (n && (p[n] & 0xc0) == 0x80)
            n--;
        n = n ? n : 42; /* no UTF-8 at all */
        char *words = text_base64(p, n);
        (void)strbuf_printf(&out, "%s=?UTF-8?B?%s?=", p == text ? "" : " ", words);
        free(words);
        p += n;
    }
    char *all = spw_strndup(out.data, out.len);
    strbuf_fini(&out);
    return all;
}

static void add_head(struct call *x, const struct outbox_item *item)
{
    char date[64], to[HEADER_BYTES];
    const time_t since = (time_t)item->since_s;
    struct tm tm;
    char *subject = header_text(item->subject ? item->subject : ""), *id = spw_asprintf("<%s>", item->message_id);
    gmtime_r(&since, &tm);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S +0000", &tm);
    /* A line may not be longer than 998 bytes; who is left out of it gets it all the same. */
    snprintf(to, sizeof to, "%s", item->all_to && strlen(item->all_to) < 900 ? item->all_to : item->to);
    add_header(x, "Date", date);
    add_header(x, "From", item->from);
    add_header(x, "To", to);
    add_header(x, "Subject", subject);
    add_header(x, "Message-ID", id);
    add_header(x, "Auto-Submitted", "auto-generated");
    free(subject);
    free(id);
}

static curl_mimepart *add_part(curl_mime *mime, const void *bytes, size_t n, const char *type, const char *encoder)
{
    curl_mimepart *part = curl_mime_addpart(mime);
    SPW_ASSERT(part);
    curl_mime_data(part, bytes, n);
    curl_mime_type(part, type);
    curl_mime_encoder(part, encoder);
    return part;
}

/* multipart/mixed of what can be read, as text and as HTML, and the files. */
static void add_body(struct call *x, const struct outbox_item *item)
{
    x->mime = curl_mime_init(x->curl);
    curl_mime *both = curl_mime_init(x->curl);
    SPW_ASSERT(x->mime && both);
    for (int i = 0; i < item->n_parts; i++) {
        const struct outbox_part *p = &item->parts[i];
        if (p->role == OUTBOX_TEXT)
            add_part(both, p->bytes, p->n, "text/plain; charset=utf-8", "quoted-printable");
    }
    for (int i = 0; i < item->n_parts; i++) {
        const struct outbox_part *p = &item->parts[i];
        if (p->role == OUTBOX_HTML)
            add_part(both, p->bytes, p->n, "text/html; charset=utf-8", "quoted-printable");
    }
    curl_mimepart *readable = curl_mime_addpart(x->mime);
    curl_mime_subparts(readable, both);
    curl_mime_type(readable, "multipart/alternative");
    for (int i = 0; i < item->n_parts; i++) {
        const struct outbox_part *p = &item->parts[i];
        if (p->role == OUTBOX_FILE)
            curl_mime_filename(add_part(x->mime, p->bytes, p->n, p->type, "base64"), p->name);
    }
}

static enum rc log_in(struct call *x, const struct config_reports *c, struct error *e)
{
    char *password = NULL;
    if (!c->mail.user)
        return RC_OK;
    enum rc rc = file_read_secret(&password, c->mail.password_file, e);
    if (rc == RC_OK) {
        curl_easy_setopt(x->curl, CURLOPT_USERNAME, c->mail.user);
        curl_easy_setopt(x->curl, CURLOPT_PASSWORD, password);
        explicit_bzero(password, strlen(password));
    }
    free(password);
    return rc;
}

static enum rc send_mail(struct call *x, const struct config_reports *c, const struct outbox_item *item,
                         struct error *e)
{
    if (!c->mail.server)
        return error_set(e, RC_INVALID, "there is no mail server in the configuration any more");
    begin(x, c->mail.server, "smtp,smtps", c->mail.ca);
    curl_easy_setopt(x->curl, CURLOPT_USE_SSL,
                     c->mail.starttls == CONFIG_STARTTLS_REQUIRED ? (long)CURLUSESSL_ALL : (long)CURLUSESSL_TRY);
    enum rc rc = log_in(x, c, e);
    if (rc != RC_OK)
        return rc;
    x->to = curl_slist_append(NULL, item->to);
    SPW_ASSERT(x->to);
    curl_easy_setopt(x->curl, CURLOPT_MAIL_FROM, item->from);
    curl_easy_setopt(x->curl, CURLOPT_MAIL_RCPT, x->to);
    add_head(x, item);
    curl_easy_setopt(x->curl, CURLOPT_HTTPHEADER, x->headers);
    add_body(x, item);
    curl_easy_setopt(x->curl, CURLOPT_MIMEPOST, x->mime);
    return failed(x, curl_easy_perform(x->curl), "the mail server", e);
}

/* ---- webhook ------------------------------------------------------------------------------------------------------ */

void send_signature(const char *secret, const void *body, size_t n, char *out)
{
    struct hmac_key key;
    uint8_t mac[HMAC_BYTES];
    hmac_key_init(&key, secret, strlen(secret));
    hmac_of(&key, body, n, mac);
    explicit_bzero(&key, sizeof key);
    memcpy(out, "sha256=", 7); /* NOLINT(bugprone-not-null-terminated-result): text_hex() ends it */
    text_hex(out + 7, mac, sizeof mac);
}

static enum rc sign(struct call *x, const struct config_reports *c, const struct outbox_part *body, struct error *e)
{
    char value[80], *secret = NULL;
    if (!c->webhook.secret_file)
        return RC_OK;
    enum rc rc = file_read_secret(&secret, c->webhook.secret_file, e);
    if (rc == RC_OK) {
        send_signature(secret, body->bytes, body->n, value);
        add_header(x, "x-spillway-signature", value);
        explicit_bzero(secret, strlen(secret));
    }
    free(secret);
    return rc;
}

static enum rc post(struct call *x, const struct config_reports *c, const struct outbox_item *item, struct error *e)
{
    const struct outbox_part *body = NULL;
    long status = 0;
    for (int i = 0; i < item->n_parts; i++)
        body = item->parts[i].role == OUTBOX_NOTICE ? &item->parts[i] : body;
    if (!c->webhook.url || !body)
        return error_set(e, RC_INVALID, "there is no webhook in the configuration any more");
    begin(x, c->webhook.url, "http,https", c->webhook.ca);
    add_header(x, "Content-Type", "application/json");
    add_header(x, "Expect", "");
    add_header(x, "x-spillway-delivery", item->message_id);
    enum rc rc = sign(x, c, body, e);
    if (rc != RC_OK)
        return rc;
    curl_easy_setopt(x->curl, CURLOPT_HTTPHEADER, x->headers);
    curl_easy_setopt(x->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->n);
    curl_easy_setopt(x->curl, CURLOPT_POSTFIELDS, body->bytes);
    const CURLcode code = curl_easy_perform(x->curl);
    curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
    x->why[0] = '\0'; /* it may name the address */
    if (code != CURLE_OK)
        return failed(x, code, "the webhook", e);
    return status >= 200 && status < 300 ? RC_OK
                                         : error_set(e, RC_DENIED, "the webhook answered with status %ld", status);
}

enum rc send_item(const struct config_reports *c, const struct outbox_item *item, const bool *stop, struct error *e)
{
    struct call x = {.curl = curl_easy_init(), .stop = stop};
    if (!x.curl)
        return error_set(e, RC_IO, "no call can be made");
    enum rc rc = item->kind == OUTBOX_MAIL ? send_mail(&x, c, item, e) : post(&x, c, item, e);
    end(&x);
    return rc;
}
