/* GET /admin/v1/ledger and /admin/v1/ledger/{id}/legs. Reading the file may wait for a disk, so it runs on the reader's
 * thread:
 *
 *   loop: job made -> thread: ledger_read() or ledger_read_legs() fills job->rows -> loop: answered, or dropped when the client has left
 *
 * The job belongs to the worker until its completion; the exchange only tells it that nobody waits any more. */
#include "scheduler/admin/admin_internal.h"

#include <stdlib.h>

#include "base/text.h"
#include "scheduler/books/ledger_text.h"

#define LEDGER_ROWS_DEFAULT 20

struct ledger_job {
    struct http_exchange *x; /* NULL: the client has left */
    struct config *config;   /* a reference */
    int last;
    char request_id[ADMIN_NAME_MAX + 1]; /* whose legs; "": the newest rows */
    struct strbuf rows;                  /* the thread's until completion */
    struct json_writer w;
    enum rc rc;
    struct error e;
};

static void abort_cb(struct http_exchange *x, void *state)
{
    struct ledger_job *job = state;

    (void)x;
    job->x = NULL;
}

static void each_row(const struct ledger_row *row, void *arg)
{
    ledger_row_json(arg, row);
}

static void each_leg(const struct ledger_leg *leg, void *arg)
{
    ledger_leg_json(arg, leg);
}

/* On the reader's thread. */
static void read_rows(void *arg)
{
    struct ledger_job *job = arg;
    bool legs = job->request_id[0] != '\0';

    json_open(&job->w, NULL, '{');
    json_open(&job->w, legs ? "legs" : "rows", '[');
    job->rc = legs ? ledger_read_legs(job->config->ledger_path, job->request_id, each_leg, &job->w, &job->e)
                   : ledger_read(job->config->ledger_path, job->last, each_row, &job->w, &job->e);
    json_close(&job->w, ']');
    json_close(&job->w, '}');
}

static void free_job(struct ledger_job *job)
{
    strbuf_fini(&job->rows);
    config_free(job->config);
    free(job);
}

static void read_rows_cb(enum rc rc, void *arg)
{
    struct ledger_job *job = arg;

    if (job->x && rc == RC_OK) {
        http_exchange_set(job->x, NULL, NULL);
        if (job->rc == RC_OK)
            admin_reply_json(job->x, 200, &job->w);
        else
            admin_reply_error(job->x, 500, "ledger_unreadable", "%s", job->e.message);
    }
    free_job(job);
}

static void start_job(const struct admin_call *c, int last, const char *request_id)
{
    if (ledger_stats(c->admin->o.ledger).off) {
        admin_reply_error(c->x, 404, "ledger_off", "the configuration says ledger: off");
        return;
    }
    struct ledger_job *job = spw_calloc(1, sizeof *job);
    job->x = c->x;
    job->config = config_ref(c->admin->config);
    job->last = last;
    snprintf(job->request_id, sizeof job->request_id, "%s", request_id);
    strbuf_init(&job->rows, ADMIN_ANSWER_MAX);
    job->w = json_write_begin(&job->rows);
    if (!admin_start(c, read_rows, read_rows_cb, abort_cb, job))
        free_job(job);
}

void admin_get_legs(const struct admin_call *c)
{
    start_job(c, 0, c->name);
}

void admin_get_ledger(const struct admin_call *c)
{
    const char *text = http_request_query(c->x, "last");
    int64_t last = LEDGER_ROWS_DEFAULT;

    if (text && text_parse_int(text, 1, ADMIN_ROWS_MAX, &last) != RC_OK) {
        admin_reply_error(c->x, 400, "invalid_request", "last: \"%.40s\" is not a number from 1 to %d", text,
                          ADMIN_ROWS_MAX);
        return;
    }
    start_job(c, (int)last, "");
}
