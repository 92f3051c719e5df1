#include "scheduler/calibrate/measure_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/energy.h"
#include "base/json.h"
#include "base/random.h"

#define BATCH_MAX       256
#define STEPS_MIN       6 /* of all side by side, else it tells nothing */
#define ERROR_BYTES_MAX ((size_t)64 << 10)
#define IDLE_SECONDS    2
#define PREFILL_TRIES   3

/* ---- one stream ------------------------------------------------------------------------------------------------- */

static int64_t now_ns(void)
{
    return clock_now(&clock_system).ns;
}

static int64_t whole(const cJSON *object, const char *key, int64_t otherwise)
{
    const cJSON *m = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(m) && m->valuedouble >= 0 && m->valuedouble < 1e12 ? (int64_t)m->valuedouble : otherwise;
}

static bool has_text(const cJSON *delta)
{
    static const char *const names[] = {"content", "reasoning_content", "reasoning"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const cJSON *m = cJSON_GetObjectItemCaseSensitive(delta, names[i]);
        if (cJSON_IsString(m) && m->valuestring[0])
            return true;
    }
    return false;
}

/* A model of random weights may say a NUL, which our reader of JSON refuses; what is said is of no interest here. */
static enum rc parse_chunk(const struct sse_frame *f, cJSON **chunk)
{
    char *text = spw_strndup(f->data, f->data_len);
    for (char *at = text; (at = strstr(at, "\\u0000")) != NULL; at += 6)
        at[5] = '1';
    enum rc rc = json_parse(text, strlen(text), JSON_DEPTH_MAX, chunk, NULL);
    free(text);
    return rc;
}

static enum rc on_frame(const struct sse_frame *f, void *arg)
{
    struct probe *p = arg;
    cJSON *chunk;
    if (!f->has_data)
        return RC_OK;
    if (f->data_len == 6 && memcmp(f->data, "[DONE]", 6) == 0) {
        p->done = true;
        return RC_OK;
    }
    if (parse_chunk(f, &chunk) != RC_OK)
        return RC_INVALID;
    const cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(chunk, "choices"), 0);
    const cJSON *usage = cJSON_GetObjectItemCaseSensitive(chunk, "usage");
    if (p->n < p->n_max && has_text(cJSON_GetObjectItemCaseSensitive(choice, "delta")))
        p->at_ns[p->n++] = now_ns();
    if (cJSON_IsObject(usage)) {
        p->prompt = whole(usage, "prompt_tokens", -1);
        p->output = whole(usage, "completion_tokens", -1);
        p->cached = whole(cJSON_GetObjectItemCaseSensitive(usage, "prompt_tokens_details"), "cached_tokens", 0);
    }
    cJSON_Delete(chunk);
    return RC_OK;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    struct probe *p = arg;
    long status = 0;
    curl_easy_getinfo(p->curl, CURLINFO_RESPONSE_CODE, &status);
    enum rc rc =
        status == 200 ? sse_feed(p->sse, data, size * n, on_frame, p) : strbuf_append(&p->refusal, data, size * n);
    return rc == RC_OK ? size * n : 0;
}

/* Words that no prompt before began with, so that nothing kept of earlier ones helps. */
static void random_words(struct strbuf *out, size_t bytes)
{
    static const char *const words[] = {"river",  "stone", "amber", "cloud",  "north",  "paper",  "light",  "seven",
                                        "garden", "table", "ocean", "winter", "copper", "bridge", "letter", "horse"};
    struct random_pool pool = {0};
    unsigned char dice[64];
    enum rc rc = RC_OK;
    while (out->len < bytes && rc == RC_OK) {
        random_take(&pool, dice, sizeof dice);
        for (size_t i = 0; i < sizeof dice && out->len < bytes && rc == RC_OK; i++)
            rc = strbuf_printf(out, "%s ", words[dice[i] % 16]);
    }
    SPW_ASSERT(rc == RC_OK);
}

/* Some servers refuse `ignore_eos`; most pass it by or honour it. A stream that ends early is measured as far as it went. */
static char *body_of(const struct measure_options *o, size_t prompt_bytes, int32_t output)
{
    struct strbuf text;
    strbuf_init(&text, prompt_bytes + 64);
    random_words(&text, prompt_bytes);
    cJSON *root = cJSON_CreateObject(), *messages = cJSON_AddArrayToObject(root, "messages"), *m = cJSON_CreateObject();
    cJSON_AddStringToObject(m, "role", "user");
    cJSON_AddStringToObject(m, "content", text.data);
    cJSON_AddItemToArray(messages, m);
    cJSON_AddStringToObject(root, "model", o->model);
    cJSON_AddBoolToObject(root, "stream", true);
    cJSON_AddBoolToObject(cJSON_AddObjectToObject(root, "stream_options"), "include_usage", true);
    cJSON_AddNumberToObject(root, "max_tokens", output);
    cJSON_AddNumberToObject(root, "temperature", 1);
    cJSON_AddBoolToObject(root, "ignore_eos", true);
    char *body = cJSON_PrintUnformatted(root);
    SPW_ASSERT(body);
    cJSON_Delete(root);
    strbuf_fini(&text);
    return body;
}

void measure_probe_init(struct probe *p, const struct session *s, size_t prompt_bytes, int32_t output)
{
    const struct measure_options *o = s->o;
    *p = (struct probe){.curl = curl_easy_init(),
                        .sse = sse_new(0),
                        .body = body_of(o, prompt_bytes, output),
                        .at_ns = spw_calloc((size_t)output + 1, sizeof *p->at_ns),
                        .n_max = output + 1,
                        .prompt = -1,
                        .output = -1};
    SPW_ASSERT(p->curl);
    strbuf_init(&p->refusal, ERROR_BYTES_MAX);
    curl_easy_setopt(p->curl, CURLOPT_URL, s->url);
    curl_easy_setopt(p->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(p->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(p->curl, CURLOPT_NOPROXY, "127.0.0.1,localhost,::1");
    curl_easy_setopt(p->curl, CURLOPT_TIMEOUT_MS, (long)o->deadline_ms);
    curl_easy_setopt(p->curl, CURLOPT_HTTPHEADER, s->headers);
    curl_easy_setopt(p->curl, CURLOPT_POSTFIELDS, p->body);
    curl_easy_setopt(p->curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(p->curl, CURLOPT_WRITEDATA, p);
    curl_easy_setopt(p->curl, CURLOPT_PRIVATE, p);
    if (o->ca_file)
        curl_easy_setopt(p->curl, CURLOPT_CAINFO, o->ca_file);
    if (o->cert_file)
        curl_easy_setopt(p->curl, CURLOPT_SSLCERT, o->cert_file);
    if (o->key_file)
        curl_easy_setopt(p->curl, CURLOPT_SSLKEY, o->key_file);
}

void measure_probe_fini(struct probe *p)
{
    curl_easy_cleanup(p->curl);
    sse_free(p->sse);
    strbuf_fini(&p->refusal);
    cJSON_free(p->body);
    free(p->at_ns);
}

/* ---- several at once -------------------------------------------------------------------------------------------- */

static void note_ended(CURLM *multi)
{
    int left;
    for (const CURLMsg *m; (m = curl_multi_info_read(multi, &left)) != NULL;) {
        struct probe *p = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&p);
        p->code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &p->status);
    }
}

static enum rc refused(const struct probe *p, const struct measure_options *o, struct error *e)
{
    cJSON *root = NULL;
    bool json =
        json_parse(p->refusal.data ? p->refusal.data : "", p->refusal.len, JSON_DEPTH_MAX, &root, NULL) == RC_OK;
    const cJSON *text =
        !json ? NULL : cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(root, "error"), "message");
    enum rc rc = p->status == 401 || p->status == 403 ? RC_DENIED : p->status == 400 ? RC_UNSUPPORTED : RC_IO;
    const char *why = cJSON_GetStringValue(text);
    rc = error_set(e, rc, "%s answered %ld%s%.500s", o->url, p->status, why ? ": " : "", why ? why : "");
    cJSON_Delete(root);
    return rc;
}

static enum rc judge(const struct probe *p, const struct measure_options *o, struct error *e)
{
    if (p->status && p->status != 200)
        return refused(p, o, e);
    if (p->code != CURLE_OK)
        return error_set(e, p->code == CURLE_OPERATION_TIMEDOUT ? RC_TIMEOUT : RC_IO, "%s: %s", o->url,
                         p->code == CURLE_WRITE_ERROR ? "no stream of chat.completion chunks"
                                                      : curl_easy_strerror(p->code));
    if (!p->done || !p->n)
        return error_set(e, RC_IO, "%s: the answer %s", o->url, p->n ? "ended without [DONE]" : "has no text");
    if (p->prompt < 0 || p->output < 0)
        return error_set(e, RC_UNSUPPORTED, "%s: the answer has no usage (stream_options.include_usage)", o->url);
    return RC_OK;
}

static void start_probe(CURLM *multi, struct probe *p)
{
    curl_multi_add_handle(multi, p->curl);
    p->start_ns = now_ns();
}

enum rc measure_run(struct probe *probes, int n, int after, const struct measure_options *o, struct error *e)
{
    CURLM *multi = curl_multi_init();
    SPW_ASSERT(multi);
    int running = n, late = after ? n - 1 : -1;
    for (int i = 0; i < n; i++)
        if (i != late)
            start_probe(multi, &probes[i]);
    CURLMcode code = CURLM_OK;
    while (running && code == CURLM_OK) {
        code = curl_multi_perform(multi, &running);
        if (late >= 0 && (probes[0].n >= after || !running)) {
            start_probe(multi, &probes[late]);
            late = -1;
            running++;
        }
        if (code == CURLM_OK && running)
            code = curl_multi_poll(multi, NULL, 0, 1000, NULL);
        note_ended(multi);
    }
    enum rc rc = code == CURLM_OK ? RC_OK : error_set(e, RC_IO, "%s", curl_multi_strerror(code));
    for (int i = 0; i < n; i++) {
        if (rc == RC_OK)
            rc = judge(&probes[i], o, e);
        curl_multi_remove_handle(multi, probes[i].curl);
    }
    curl_multi_cleanup(multi);
    return rc;
}

/* ---- points ----------------------------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double measure_median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, compare_doubles);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void say(const struct measure_options *o, const char *format, double a, double b)
{
    if (!o->progress)
        return;
    fprintf(o->progress, format, a, b);
    fflush(o->progress);
}

static enum rc prefill_point(struct session *s, size_t bytes, struct curve_point *point, struct error *e)
{
    double us[16], tokens[16];
    enum rc rc = RC_OK;
    int n = s->o->repeats < 16 ? s->o->repeats : 16;
    for (int i = 0; i < n && rc == RC_OK; i++) {
        struct probe p;
        measure_probe_init(&p, s, bytes, 1);
        rc = measure_run(&p, 1, 0, s->o, e);
        if (rc == RC_OK) {
            us[i] = (double)(p.at_ns[0] - p.start_ns) / 1e3;
            tokens[i] = (double)(p.prompt - p.cached);
        }
        measure_probe_fini(&p);
    }
    if (rc == RC_OK)
        *point = (struct curve_point){measure_median(tokens, n), measure_median(us, n)};
    return rc;
}

/* Until prompts are as long as asked, or longer than the node takes. */
static enum rc prefill_row(struct session *s, struct error *e)
{
    struct calibration *c = s->c;
    c->n_prefill = 0;
    size_t most = (size_t)s->o->prompt_max * BYTES_PER_TOKEN;
    most = most > 4 * FIRST_BYTES ? most : 4 * FIRST_BYTES; /* a line needs two points */
    struct curve_point ignored;
    enum rc rc = prefill_point(s, FIRST_BYTES, &ignored, e); /* the first opens connections and warms the node up */
    for (size_t bytes = FIRST_BYTES; rc == RC_OK && c->n_prefill < CALIBRATION_POINTS_MAX;) {
        struct curve_point *p = &c->prefill[c->n_prefill];
        rc = prefill_point(s, bytes, p, e);
        if (rc == RC_UNSUPPORTED && c->n_prefill >= 2)
            return RC_OK;
        if (rc != RC_OK)
            break;
        say(s->o, "prefill  %8.0f tokens  %12.0f us to the first token\n", p->x, p->us);
        c->n_prefill++;
        s->prompt_bytes = bytes;
        if (bytes >= most)
            break;
        bytes = bytes * 4 < most ? bytes * 4 : most;
    }
    return rc;
}

/* A machine that stood still as a short prompt was measured makes a line that falls: then once more. */
static enum rc measure_prefill(struct session *s, struct error *e)
{
    for (int i = 0; i < PREFILL_TRIES; i++) {
        enum rc rc = prefill_row(s, e);
        if (rc != RC_OK || curve_fit_line(s->c->prefill, s->c->n_prefill).slope > 0)
            return rc;
    }
    return error_set(
        e, RC_UNSUPPORTED,
        "%s: longer prompts take no longer: give a longer --prompt, or a node and a machine with nothing else to do",
        s->o->url);
}

/* From when all have begun to when the first one ends; 0: there is no such time. *context: what all of them hold then,
 * in the mean. */
static double step_us(const struct probe *p, int n, double *context)
{
    int64_t from = 0, to = INT64_MAX;
    *context = 0;
    double pieces = 0, before = 0, tokens = 0, said = 0;
    for (int i = 0; i < n; i++) {
        from = p[i].at_ns[0] > from ? p[i].at_ns[0] : from;
        to = p[i].at_ns[p[i].n - 1] < to ? p[i].at_ns[p[i].n - 1] : to;
        tokens += (double)p[i].output;
        said += p[i].n;
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < p[i].n; k++) {
            before += p[i].at_ns[k] <= from;
            pieces += p[i].at_ns[k] > from && p[i].at_ns[k] <= to;
        }
        *context += (double)p[i].prompt;
    }
    *context += (before + pieces / 2) * tokens / said;
    /* A piece of text may be several tokens. */
    return to > from && pieces >= STEPS_MIN * n ? (double)(to - from) / 1e3 * n / (pieces * tokens / said) : 0;
}

struct joules {
    bool known;
    uint64_t before;
    int64_t at_ns;
};

static struct joules joules_begin(const struct measure_options *o)
{
    struct joules j = {.at_ns = now_ns()};
    j.known = o->local && energy_read_uj(&j.before);
    return j;
}

static bool joules_end(const struct joules *j, double *watts)
{
    uint64_t after;
    int64_t ns = now_ns() - j->at_ns;
    if (!j->known || ns <= 0 || !energy_read_uj(&after))
        return false;
    *watts = (double)energy_since_uj(j->before, after, energy_range_uj()) * 1e3 / (double)ns;
    return true;
}

enum rc measure_decode_once(struct session *s, int batch, size_t prompt_bytes, int32_t output, struct decoded *d,
                            struct error *e)
{
    struct probe *p = spw_calloc((size_t)batch, sizeof *p);
    for (int i = 0; i < batch; i++)
        measure_probe_init(&p[i], s, prompt_bytes, output);
    struct joules j = joules_begin(s->o);
    enum rc rc = measure_run(p, batch, 0, s->o, e);
    d->drawn = joules_end(&j, &d->watts);
    if (rc == RC_OK)
        d->us = step_us(p, batch, &d->context);
    for (int i = 0; i < batch; i++)
        measure_probe_fini(&p[i]);
    free(p);
    return rc;
}

/* Answers must be long enough that the last one begins before the first one ends: the prompts before it take their time. */
static enum rc decode_together(struct session *s, int batch, int32_t *output, struct decoded *d, struct error *e)
{
    enum rc rc = measure_decode_once(s, batch, SHORT_BYTES, *output, d, e);
    if (rc != RC_OK || d->us > 0 || *output > s->o->output)
        return rc;
    *output *= 4;
    return measure_decode_once(s, batch, SHORT_BYTES, *output, d, e);
}

static enum rc decode_point(struct session *s, int batch, struct error *e)
{
    struct calibration *c = s->c;
    double us[16] = {0}, watts[16] = {0}, context[16] = {0};
    int n = s->o->repeats < 16 ? s->o->repeats : 16, n_us = 0, n_watts = 0;
    int32_t output = s->o->output;
    enum rc rc = RC_OK;
    for (int i = 0; i < n && rc == RC_OK; i++) {
        struct decoded d = {0};
        rc = decode_together(s, batch, &output, &d, e);
        if (rc != RC_OK)
            break;
        us[n_us] = d.us;
        context[n_us] = d.context;
        watts[n_watts] = d.watts;
        n_us += d.us > 0;
        n_watts += d.drawn;
    }
    if (rc != RC_OK || !n_us) /* so many never ran side by side: the node has fewer places */
        return rc;
    c->decode[c->n_decode++] = (struct curve_point){batch, measure_median(us, n_us)};
    c->context[c->n_context++] =
        (struct calibration_context){batch, measure_median(context, n_us), c->decode[c->n_decode - 1].us};
    if (n_watts)
        c->by_batch[c->n_watts++] = (struct calibration_draw){batch, measure_median(watts, n_watts)};
    say(s->o, "decode   %8.0f at once  %12.0f us between two tokens of one\n", batch, c->decode[c->n_decode - 1].us);
    return RC_OK;
}

static enum rc measure_decode(struct session *s, struct error *e)
{
    int most = s->o->batch_max < BATCH_MAX ? s->o->batch_max : BATCH_MAX;
    enum rc rc = RC_OK;
    for (int batch = 1; batch <= most && rc == RC_OK; batch *= 2)
        rc = decode_point(s, batch, e);
    if (rc == RC_OK && !s->c->n_decode)
        rc = error_set(e, RC_UNSUPPORTED, "%s: answers are too short to tell the time between tokens", s->o->url);
    return rc;
}

static void measure_idle(struct session *s)
{
    struct joules j = joules_begin(s->o);
    if (!j.known)
        return;
    sleep(IDLE_SECONDS);
    if (joules_end(&j, &s->c->idle_w))
        s->c->watts = CALIBRATION_WATTS_MEASURED;
}

enum rc measure_node(const struct measure_options *o, struct calibration *c, struct error *e)
{
    struct session s = {.o = o, .c = c, .url = spw_asprintf("%s/v1/chat/completions", o->url)};
    memset(c, 0, sizeof *c);
    snprintf(c->model, sizeof c->model, "%s", o->model);
    s.headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (o->api_key) {
        char *line = spw_asprintf("Authorization: Bearer %s", o->api_key);
        s.headers = curl_slist_append(s.headers, line);
        explicit_bzero(line, strlen(line));
        free(line);
    }
    measure_idle(&s);
    enum rc rc = measure_prefill(&s, e);
    if (rc == RC_OK)
        rc = measure_decode(&s, e);
    if (rc == RC_OK)
        rc = measure_detail(&s, e);
    if (rc == RC_OK) {
        c->curve = curve_fit(c->prefill, c->n_prefill, c->decode, c->n_decode);
        c->prefill_error = curve_fit_line(c->prefill, c->n_prefill).error;
        c->decode_error = curve_fit_line(c->decode, c->n_decode).error;
    }
    curl_slist_free_all(s.headers);
    free(s.url);
    return rc;
}
