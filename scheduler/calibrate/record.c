#include "scheduler/calibrate/record.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/json_write.h"
#include "base/text.h"

#define VERSION          1
#define FILE_BYTES_MAX   ((size_t)1 << 20)
#define MICROSECONDS_MAX 1e9 /* of a token: a thousand seconds are no measurement */

static const char *const watts_names[] = {"unknown", "declared", "measured"};

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void put_number(struct json_writer *w, const char *key, double v)
{
    char text[40];
    snprintf(text, sizeof text, "%.6g", v);
    json_raw(w, key, text);
}

static void put_points(struct json_writer *w, const char *key, const char *x, const char *y,
                       const struct curve_point *p, int n)
{
    json_open(w, key, '[');
    for (int i = 0; i < n; i++) {
        json_open(w, NULL, '{');
        put_number(w, x, p[i].x);
        put_number(w, y, p[i].us);
        json_close(w, '}');
    }
    json_close(w, ']');
}

static void put_context(struct json_writer *w, const struct calibration *c)
{
    json_open(w, "context", '[');
    for (int i = 0; i < c->n_context; i++) {
        json_open(w, NULL, '{');
        json_int(w, "batch", c->context[i].batch);
        put_number(w, "tokens", c->context[i].tokens);
        put_number(w, "step_us", c->context[i].us);
        json_close(w, '}');
    }
    json_close(w, ']');
    json_open(w, "detail", '{');
    put_number(w, "decode_us_per_ctx_tok", c->detail.decode_us_per_ctx_tok);
    put_number(w, "mixed_us_per_tok", c->detail.mixed_us_per_tok);
    json_int(w, "chunk", c->detail.chunk);
    json_int(w, "mixed_chunk", c->detail.mixed_chunk);
    json_close(w, '}');
}

static void put_text(struct json_writer *w, const char *key, const char *text)
{
    if (text[0])
        json_string(w, key, text);
}

static void put_watts(struct json_writer *w, const struct calibration *c)
{
    json_open(w, "watts", '{');
    json_string(w, "source", watts_names[c->watts]);
    if (c->watts != CALIBRATION_WATTS_UNKNOWN) {
        put_number(w, "idle", c->idle_w);
        json_open(w, "by_batch", '[');
        for (int i = 0; i < c->n_watts; i++) {
            json_open(w, NULL, '{');
            json_int(w, "batch", c->by_batch[i].batch);
            put_number(w, "watts", c->by_batch[i].w);
            json_close(w, '}');
        }
        json_close(w, ']');
    }
    json_close(w, '}');
}

enum rc calibration_write(const struct calibration *c, struct strbuf *out)
{
    struct json_writer w = json_write_begin(out);
    json_open(&w, NULL, '{');
    json_int(&w, "spillway_calibration", VERSION);
    put_text(&w, "measured_at", c->measured_at);
    put_text(&w, "node", c->node);
    put_text(&w, "node_type", c->node_type);
    put_text(&w, "model", c->model);
    put_text(&w, "numerics", c->numerics);
    json_open(&w, "curve", '{');
    put_number(&w, "base_us", c->curve.base_us);
    put_number(&w, "prefill_us_per_tok", c->curve.prefill_us_per_tok);
    put_number(&w, "decode_us_base", c->curve.decode_us_base);
    put_number(&w, "decode_us_per_seq", c->curve.decode_us_per_seq);
    json_close(&w, '}');
    json_open(&w, "curve_error", '{');
    put_number(&w, "prefill", c->prefill_error);
    put_number(&w, "decode", c->decode_error);
    json_close(&w, '}');
    put_points(&w, "prefill", "tokens", "ttft_us", c->prefill, c->n_prefill);
    put_points(&w, "decode", "batch", "step_us", c->decode, c->n_decode);
    put_context(&w, c);
    put_watts(&w, c);
    json_close(&w, '}');
    enum rc rc = json_write_end(&w);
    return rc == RC_OK ? strbuf_puts(out, "\n") : rc;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static const cJSON *member(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static enum rc read_number(const cJSON *object, const char *where, const char *key, double most, double *to,
                           struct error *e)
{
    const cJSON *m = member(object, key);
    if (!cJSON_IsNumber(m) || !(m->valuedouble >= 0) || m->valuedouble > most)
        return error_set(e, RC_INVALID, "%s.%s: %s; a number from 0 to %g is right", where, key,
                         m ? "no such number" : "missing", most);
    *to = m->valuedouble;
    return RC_OK;
}

static enum rc read_text(const cJSON *root, const char *key, char *to, size_t size, struct error *e)
{
    const cJSON *m = member(root, key);
    if (!m)
        return RC_OK;
    if (!cJSON_IsString(m) || strlen(m->valuestring) >= size)
        return error_set(e, RC_INVALID, "%s: a text of at most %zu bytes is right", key, size - 1);
    memcpy(to, m->valuestring, strlen(m->valuestring) + 1);
    return RC_OK;
}

static enum rc read_texts(const cJSON *root, struct calibration *c, struct error *e)
{
    const struct {
        const char *key;
        char *to;
        size_t size;
    } all[] = {{"measured_at", c->measured_at, sizeof c->measured_at},
               {"node", c->node, sizeof c->node},
               {"node_type", c->node_type, sizeof c->node_type},
               {"model", c->model, sizeof c->model},
               {"numerics", c->numerics, sizeof c->numerics}};
    enum rc rc = RC_OK;
    for (size_t i = 0; i < sizeof all / sizeof all[0] && rc == RC_OK; i++)
        rc = read_text(root, all[i].key, all[i].to, all[i].size, e);
    return rc;
}

static enum rc read_curve(const cJSON *root, struct calibration *c, struct error *e)
{
    const struct {
        const char *key;
        double *to;
    } all[] = {{"base_us", &c->curve.base_us},
               {"prefill_us_per_tok", &c->curve.prefill_us_per_tok},
               {"decode_us_base", &c->curve.decode_us_base},
               {"decode_us_per_seq", &c->curve.decode_us_per_seq}};
    const cJSON *curve = member(root, "curve");
    enum rc rc =
        cJSON_IsObject(curve) ? RC_OK : error_set(e, RC_INVALID, "curve: missing; an object of four numbers is right");
    for (size_t i = 0; i < sizeof all / sizeof all[0] && rc == RC_OK; i++)
        rc = read_number(curve, "curve", all[i].key, MICROSECONDS_MAX, all[i].to, e);
    if (rc == RC_OK && c->curve.decode_us_base + c->curve.decode_us_per_seq <= 0)
        rc = error_set(e, RC_INVALID,
                       "curve: a token takes no time; decode_us_base or decode_us_per_seq must be more than 0");
    return rc;
}

static enum rc read_points(const cJSON *root, const char *key, const char *x, const char *y, struct curve_point *p,
                           int *n, struct error *e)
{
    const cJSON *list = member(root, key), *m;
    enum rc rc = RC_OK;
    if (list && (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > CALIBRATION_POINTS_MAX))
        return error_set(e, RC_INVALID, "%s: a list of at most %d points is right", key, CALIBRATION_POINTS_MAX);
    cJSON_ArrayForEach(m, list)
    {
        rc = read_number(m, key, x, MICROSECONDS_MAX, &p[*n].x, e);
        if (rc == RC_OK)
            rc = read_number(m, key, y, 1e12, &p[*n].us, e);
        if (rc != RC_OK)
            break;
        (*n)++;
    }
    return rc;
}

static enum rc read_context(const cJSON *root, struct calibration *c, struct error *e)
{
    const cJSON *list = member(root, "context"), *m;
    enum rc rc = RC_OK;
    if (list && (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > CALIBRATION_POINTS_MAX))
        return error_set(e, RC_INVALID, "context: a list of at most %d points is right", CALIBRATION_POINTS_MAX);
    cJSON_ArrayForEach(m, list)
    {
        struct calibration_context *p = &c->context[c->n_context];
        double batch = 0;
        rc = read_number(m, "context", "batch", 1e6, &batch, e);
        if (rc == RC_OK)
            rc = read_number(m, "context", "tokens", 1e12, &p->tokens, e);
        if (rc == RC_OK)
            rc = read_number(m, "context", "step_us", 1e12, &p->us, e);
        if (rc != RC_OK)
            break;
        p->batch = (int32_t)batch;
        c->n_context++;
    }
    return rc;
}

/* Each member may be missing: earlier versions had none of them. */
static enum rc read_detail(const cJSON *root, struct calibration *c, struct error *e)
{
    const cJSON *detail = member(root, "detail");
    double chunk = 0, mixed_chunk = 0;
    const struct {
        const char *key;
        double most, *to;
    } all[] = {{"decode_us_per_ctx_tok", MICROSECONDS_MAX, &c->detail.decode_us_per_ctx_tok},
               {"mixed_us_per_tok", MICROSECONDS_MAX, &c->detail.mixed_us_per_tok},
               {"chunk", 1e6, &chunk},
               {"mixed_chunk", 1e6, &mixed_chunk}};
    enum rc rc = !detail || cJSON_IsObject(detail) ? RC_OK : error_set(e, RC_INVALID, "detail: an object is right");
    for (size_t i = 0; i < sizeof all / sizeof all[0] && rc == RC_OK; i++)
        if (member(detail, all[i].key))
            rc = read_number(detail, "detail", all[i].key, all[i].most, all[i].to, e);
    c->detail.chunk = (int32_t)chunk;
    c->detail.mixed_chunk = (int32_t)mixed_chunk;
    return rc;
}

static enum rc read_draws(const cJSON *watts, struct calibration *c, struct error *e)
{
    const cJSON *list = member(watts, "by_batch"), *m;
    enum rc rc = read_number(watts, "watts", "idle", 1e6, &c->idle_w, e);
    if (rc == RC_OK && list && (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > CALIBRATION_POINTS_MAX))
        rc = error_set(e, RC_INVALID, "watts.by_batch: a list of at most %d points is right", CALIBRATION_POINTS_MAX);
    if (rc != RC_OK)
        return rc;
    cJSON_ArrayForEach(m, list)
    {
        struct calibration_draw *d = &c->by_batch[c->n_watts];
        double batch = 0;
        rc = read_number(m, "watts.by_batch", "batch", 1e6, &batch, e);
        if (rc == RC_OK)
            rc = read_number(m, "watts.by_batch", "watts", 1e6, &d->w, e);
        if (rc != RC_OK)
            break;
        d->batch = (int32_t)batch;
        c->n_watts++;
    }
    return rc;
}

static enum rc read_watts(const cJSON *root, struct calibration *c, struct error *e)
{
    const cJSON *watts = member(root, "watts"), *source = member(watts, "source");
    if (!watts)
        return RC_OK;
    for (int i = 0; i < 3; i++) {
        if (cJSON_IsString(source) && strcmp(source->valuestring, watts_names[i]) == 0) {
            c->watts = (enum calibration_watts)i;
            return i == CALIBRATION_WATTS_UNKNOWN ? RC_OK : read_draws(watts, c, e);
        }
    }
    return error_set(e, RC_INVALID, "watts.source: measured, declared or unknown is right");
}

static enum rc read_errors(const cJSON *root, struct calibration *c, struct error *e)
{
    const cJSON *errors = member(root, "curve_error");
    if (!errors)
        return RC_OK;
    enum rc rc = read_number(errors, "curve_error", "prefill", 1e9, &c->prefill_error, e);
    return rc == RC_OK ? read_number(errors, "curve_error", "decode", 1e9, &c->decode_error, e) : rc;
}

enum rc calibration_parse(struct calibration *c, const char *text, size_t n, struct error *e)
{
    cJSON *root = NULL;
    memset(c, 0, sizeof *c);
    enum rc rc = json_parse(text, n, JSON_DEPTH_MAX, &root, e);
    const cJSON *version = member(root, "spillway_calibration");
    if (rc == RC_OK && !(cJSON_IsNumber(version) && version->valuedouble == VERSION))
        rc = error_set(e, RC_INVALID, "\"spillway_calibration\": %d is missing: this is no record of a calibration",
                       VERSION);
    if (rc == RC_OK)
        rc = read_texts(root, c, e);
    if (rc == RC_OK)
        rc = read_curve(root, c, e);
    if (rc == RC_OK)
        rc = read_errors(root, c, e);
    if (rc == RC_OK)
        rc = read_points(root, "prefill", "tokens", "ttft_us", c->prefill, &c->n_prefill, e);
    if (rc == RC_OK)
        rc = read_points(root, "decode", "batch", "step_us", c->decode, &c->n_decode, e);
    if (rc == RC_OK)
        rc = read_context(root, c, e);
    if (rc == RC_OK)
        rc = read_detail(root, c, e);
    if (rc == RC_OK)
        rc = read_watts(root, c, e);
    cJSON_Delete(root);
    return rc;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

enum rc calibration_load(struct calibration *c, const char *path, struct error *e)
{
    struct strbuf text;
    enum rc rc = file_read(&text, path, FILE_BYTES_MAX, e);
    if (rc == RC_OK) {
        rc = calibration_parse(c, text.data ? text.data : "", text.len, e);
        if (rc != RC_OK)
            (void)error_prefix(e, "%s", path);
    }
    strbuf_fini(&text);
    return rc;
}

static enum rc make_folder_of(const char *path, struct error *e)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return RC_OK;
    char *folder = spw_asprintf("%.*s", (int)(slash - path), path);
    enum rc rc = RC_OK;
    if (mkdir(folder, 0750) != 0 && errno != EEXIST)
        rc = error_set(e, RC_IO, "%s: %s", folder, strerror(errno));
    free(folder);
    return rc;
}

static bool write_flushed(const char *path, const struct strbuf *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return false;
    bool good = write(fd, text->data, text->len) == (ssize_t)text->len && fsync(fd) == 0;
    int why = errno;
    close(fd);
    errno = why;
    return good;
}

enum rc calibration_save(const struct calibration *c, const char *path, struct error *e)
{
    struct strbuf text;
    strbuf_init(&text, FILE_BYTES_MAX);
    enum rc rc = calibration_write(c, &text);
    if (rc == RC_OK)
        rc = make_folder_of(path, e);
    char *fresh = spw_asprintf("%s.new", path);
    if (rc == RC_OK && (!write_flushed(fresh, &text) || rename(fresh, path) != 0)) {
        rc = error_set(e, RC_IO, "%s: %s", path, strerror(errno));
        unlink(fresh);
    }
    if (rc == RC_OK)
        file_sync_folder_of(path);
    free(fresh);
    strbuf_fini(&text);
    return rc;
}

/* ---- reading it --------------------------------------------------------------------------------------------------- */

bool calibration_stale(const struct calibration *c, int64_t now_unix_s)
{
    int64_t ms;
    return text_parse_time_ms(c->measured_at, &ms) != RC_OK || now_unix_s - ms / 1000 > CALIBRATION_STALE_DAYS * 86400;
}

double calibration_mw(const struct calibration *c, int32_t batch)
{
    double x = 0, w = c->idle_w;
    if (c->watts == CALIBRATION_WATTS_UNKNOWN)
        return -1;
    for (int i = 0; i < c->n_watts; i++) {
        const struct calibration_draw *d = &c->by_batch[i];
        const double up = d->w > w ? d->w : w;
        if (batch <= d->batch && d->batch > x)
            return 1e3 * (w + (up - w) * (batch - x) / (d->batch - x));
        x = d->batch;
        w = up;
    }
    return 1e3 * w;
}
