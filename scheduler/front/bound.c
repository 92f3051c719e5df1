/* What an answer may come to: in tokens by its model's max_output, in money by the client's x-spillway-max-charge-usd.
 *
 * Money is turned into tokens before a node is asked: the prompt reckoned at its most and at the node's dearest price,
 * and max_tokens so that the rest pays for it. A node at whose prices not even one more token is paid for is no
 * candidate, also when an answer is to go on there: it would be charged whole by that node's prices. So the bound holds
 * by construction, unless a node counts more than there can be (pictures, or an untruth): then the charge is cut, and
 * counted. */
#include <inttypes.h>
#include <string.h>

#include "scheduler/front/front_internal.h"

#define HEADER "x-spillway-max-charge-usd"

enum rc bound_read(struct http_exchange *x, bool *bounded, struct pusd *max, struct api_error *e)
{
    const char *text = http_head_get(http_request_head(x), HEADER);
    struct error why;
    *bounded = text != NULL;
    *max = (struct pusd){0};
    if (!text || pusd_parse(text, max, &why) == RC_OK)
        return RC_OK;
    api_error_set(e, API_INVALID_BODY, HEADER, "header " HEADER ": %s", why.message);
    return RC_INVALID;
}

static int64_t said(const struct request *r)
{
    return r->trail.n_ids > r->trail.chunks ? r->trail.n_ids : r->trail.chunks;
}

int64_t bound_output_min(const struct request *r)
{
    return request_traits(r->body.kind)->speaks ? r->body.choices * (said(r) + 1) : 0;
}

int64_t bound_output(const struct request *r, const struct token_prices *p)
{
    const struct config_model *asked = r->model->config, *as = r->slot.model ? r->slot.model->config : NULL;
    int64_t most = INT64_MAX;
    if (!request_traits(r->body.kind)->speaks)
        return most;
    if (r->charge_bounded) {
        most = money_output_within(p, r->charge_max, request_input_max(&r->body));
        if (most != INT64_MAX)
            most /= r->body.choices;
    }
    if (asked && asked->max_output && asked->max_output < most)
        most = asked->max_output;
    if (as && as->max_output && as->max_output < most)
        most = as->max_output;
    return most;
}

void bound_charge(struct request *r)
{
    char charge[64], max[64];
    if (!r->charge_bounded || r->charge.v <= r->charge_max.v)
        return;
    log_warn(r->lane->front->o.log, "request", "a node counts more than the charge's bound allows: it is cut",
             LOG_S("request_id", r->id), LOG_S("node", r->billed->config->name),
             LOG_S("charge_usd", pusd_format(r->charge, charge, sizeof charge)),
             LOG_S("charge_max_usd", pusd_format(r->charge_max, max, sizeof max)));
    metrics_add(r->lane->metrics, METRIC_CAPPED, 0, 0, 1);
    r->charge = r->charge_max;
}

void bound_refused(struct request *r)
{
    char max[64];
    api_error_set(&r->error, API_MAX_CHARGE, HEADER,
                  "%s dollars do not pay for the prompt, of up to %" PRId64
                  " tokens, and an answer on any node that could take the request",
                  pusd_format(r->charge_max, max, sizeof max), request_input_max(&r->body));
}
