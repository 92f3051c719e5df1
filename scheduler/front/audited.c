#include "scheduler/front/audited.h"

#include "scheduler/front/front_internal.h"

/* Derived anew each time: four block steps, where a table of tenants would want a bound and a lock. */
static void key_of(const struct request *r, struct hmac_key *k)
{
    uint8_t bytes[HMAC_BYTES];
    audit_tenant_key(audit_keys_of(r->lane->front->o.audit), r->who->tenant ? r->who->tenant : "", bytes);
    hmac_key_init(k, bytes, sizeof bytes);
}

void audited_begin(struct request *r)
{
    struct hmac_key k;
    if (!r->lane->audit)
        return;
    snprintf(r->peer, sizeof r->peer, "%s", http_exchange_peer(r->x));
    key_of(r, &k);
    hmac_of(&k, r->body.text, r->body.n, r->audited.request.hmac);
    r->audited.request.bytes = (int64_t)r->body.n;
    r->audited.request.known = true;
    hmac_begin(&r->audited.response, &k);
}

void audited_take(struct request *r, const void *data, size_t n)
{
    if (r->lane->audit && !r->audited.closed)
        hmac_take(&r->audited.response, data, n);
}

void audited_close(struct request *r)
{
    r->audited.closed = true;
}

static enum rc append(struct request *r, const struct ledger_row *row, audit_done_cb *done)
{
    struct lane *l = r->lane;
    struct record_request record = {
        .row = row,
        .policy = r->config->version,
        .why = r->attempts ? route_objective_name((enum route_objective)r->model->aim.objective) : NULL,
        .peer = r->peer,
        .request = r->audited.request,
        .response = {.known = true, .bytes = r->audited.response.bytes}};
    struct hmac_key k;
    key_of(r, &k);
    hmac_result(&r->audited.response, &k, record.response.hmac);
    if (record_request(&l->record, &record) != RC_OK) {
        log_error(l->front->o.log, "audit", "a record does not fit", LOG_S("request_id", r->id));
        return RC_CANCELLED;
    }
    return audit_append(l->audit, l->record.data, l->record.len, done, r);
}

enum rc audited_append(struct request *r, const struct ledger_row *row, audit_done_cb *done)
{
    if (r->audited.done || r->audited.pending)
        return RC_OK;
    enum rc rc = r->lane->audit ? append(r, row, done) : RC_CANCELLED;
    r->audited.pending = rc == RC_OK;
    if (rc == RC_FULL && audit_on_failure(r->lane->front->o.audit) == AUDIT_REFUSE)
        return RC_FULL;
    r->audited.done = rc != RC_OK; /* no audit; closing; or counted as lost, as configured */
    return RC_OK;
}

bool audited_takes_work(const struct lane *l)
{
    const struct audit *a = l->front->o.audit;
    return !l->audit || audit_on_failure(a) != AUDIT_REFUSE || !audit_is_failing(a);
}

void audited_refused(struct lane *l, const struct auth_refusal *why, const char *peer)
{
    const struct record_refused record = {.at = clock_wall(l->front->o.clock),
                                          .door = "api",
                                          .code = auth_code_name(why->code),
                                          .key = NULL,
                                          .peer = peer};
    if (!l->audit || !audit_login_allowed(l->front->o.audit) || record_refused(&l->record, &record) != RC_OK)
        return;
    if (audit_append(l->audit, l->record.data, l->record.len, NULL, NULL) != RC_OK)
        log_warn(l->front->o.log, "audit", "a refused login is not recorded", LOG_S("peer", peer));
}
