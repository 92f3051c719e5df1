/* Provider `ec2`: AWS EC2 by its Query API. No SDK. See ec2_internal.h for the life of a machine.
 *
 * One provider is one region of one account. Offers are "ZONE/TYPE/MARKET" with the account's own zone names. A
 * launch is one CreateFleet of type "instant" for one instance over all its offers of a market (or RunInstances,
 * offer by offer); its launch template is made once per content; its name, token and one-time join token are tags,
 * which the instance reads from its metadata. Everything is tagged with the scheduler's owner id, which is how
 * instances are found again.
 *
 * An offer that had no capacity, or whose instance was taken back, is left alone for `cold`; a met quota stops its
 * family and market for `quota_pause`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "providers/ec2_internal.h"

#define HISTORY_S 86400 /* what ended before us may have ended at a price that nobody has heard of */

struct ec2 *ec2_self(struct provider *p)
{
    SPW_ASSERT(p->ops == &provider_ec2);
    return (struct ec2 *)p;
}

struct mono ec2_after(const struct ec2 *p, int64_t ms)
{
    return (struct mono){.ns = clock_now(p->env.clock).ns + ms * NS_PER_MS};
}

bool ec2_is_past(const struct ec2 *p, struct mono t)
{
    return clock_now(p->env.clock).ns >= t.ns;
}

struct aws_call *ec2_call(struct ec2 *p, struct aws_form *f, aws_call_cb *cb, void *arg)
{
    struct aws_call_options o = {.deadline_ms = p->call_ms};
    struct aws_call *call = aws_call_start(p->client, f, &o, cb, arg);
    aws_form_fini(f);
    return call;
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

struct ec2_question *ec2_ask(struct ec2 *p, provider_done_cb *done, void *arg)
{
    struct ec2_question *q = spw_calloc(1, sizeof(*q));
    *q = (struct ec2_question){.p = p, .next = p->questions, .done = done, .arg = arg};
    if (q->next)
        q->next->prev = q;
    return p->questions = q;
}

void ec2_question_free(struct ec2_question *q)
{
    *(q->prev ? &q->prev->next : &q->p->questions) = q->next;
    if (q->next)
        q->next->prev = q->prev;
    if (q->call)
        aws_call_cancel(q->call);
    if (q->timer)
        event_free(q->timer);
    if (q->more)
        q->free_more(q->more);
    free(q->text);
    free(q);
}

void ec2_question_answer(struct ec2_question *q, enum provider_failure failure, const char *text)
{
    provider_done_cb *done = q->done;
    void *arg = q->arg;
    ec2_question_free(q);
    if (done)
        done(failure, text, arg);
}

/* ---- open and close --------------------------------------------------------------------------------------------- */

static enum rc source_of(const char *word, enum aws_keys_source *source, struct error *e)
{
    static const char *const words[] = {
        [AWS_KEYS_ANY] = "any", [AWS_KEYS_ENV] = "env", [AWS_KEYS_FILE] = "file", [AWS_KEYS_ROLE] = "role"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(words[i], word) == 0) {
            *source = (enum aws_keys_source)i;
            return RC_OK;
        }
    }
    return error_set(e, RC_INVALID, "credentials: '%s' must be any, env, file or role", word);
}

static enum rc open_keys(struct ec2 *p, struct error *e)
{
    const struct provider_settings *s = p->env.settings;
    struct aws_keyring_options o = {.loop = p->env.loop,
                                    .clock = p->env.clock,
                                    .fetcher = p->fetcher,
                                    .file = provider_setting(s, "credentials_file"),
                                    .profile = provider_setting(s, "profile"),
                                    .imds = provider_setting(s, "metadata")};
    enum rc rc = source_of(provider_setting(s, "credentials"), &o.source, e);
    return rc == RC_OK ? aws_keyring_new(&p->keys, &o, e) : rc;
}

static enum rc open_client(struct ec2 *p, struct error *e)
{
    const struct provider_settings *s = p->env.settings;
    struct aws_client_options o = {.loop = p->env.loop,
                                   .clock = p->env.clock,
                                   .log = p->env.log,
                                   .fetcher = p->fetcher,
                                   .keys = p->keys,
                                   .endpoint = p->endpoint,
                                   .region = p->region,
                                   .service = "ec2",
                                   .ca_file = p->ca_file,
                                   .per_s = p->per_s,
                                   .burst = (int)provider_setting_int(s, "calls_burst")};
    return aws_client_new(&p->client, &o, e);
}

/* Some regions are of another partition. */
static char *usual_endpoint(const char *service, const char *region)
{
    return spw_asprintf("https://%s.%s.amazonaws.com%s", service, region, strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
}

static void take_settings(struct ec2 *p)
{
    const struct provider_settings *s = p->env.settings;
    const char *endpoint = provider_setting(s, "endpoint"), *ca = provider_setting(s, "ca_file");
    p->region = spw_strdup(provider_setting(s, "region"));
    p->owner = spw_strdup(p->env.owner && *p->env.owner ? p->env.owner : "spillway");
    p->endpoint = endpoint ? spw_strdup(endpoint) : usual_endpoint("ec2", p->region);
    p->ca_file = ca ? spw_strdup(ca) : NULL;
    p->per_s = (int)provider_setting_int(s, "calls_per_s");
    p->call_ms = provider_setting_int(s, "call_deadline");
    p->poll_ms = provider_setting_int(s, "poll");
    p->prices_ms = provider_setting_int(s, "spot_prices");
    p->cold_ms = provider_setting_int(s, "cold");
    p->quota_ms = provider_setting_int(s, "quota_pause");
    if (p->poll_ms < 100)
        p->poll_ms = 100;
    if (p->prices_ms < 100)
        p->prices_ms = 100;
    p->history_s = p->next_round_s = clock_wall(p->env.clock).ns / NS_PER_S - HISTORY_S;
}

static void ec2_close(struct provider *base)
{
    if (!base)
        return;
    struct ec2 *p = ec2_self(base);
    for (struct ec2_question *q = p->questions, *next; q; q = next) {
        next = q->next;
        ec2_question_free(q);
    }
    while (p->machines) {
        struct ec2_machine *m = p->machines;
        p->machines = m->next;
        ec2_machine_free(m);
    }
    while (p->templates) {
        struct ec2_template *t = p->templates;
        p->templates = t->next;
        strbuf_fini(&t->text.body);
        free(t);
    }
    while (p->colds) {
        struct ec2_cold *c = p->colds;
        p->colds = c->next;
        free(c->key);
        free(c);
    }
    while (p->prices) {
        struct ec2_spot_price *s = p->prices;
        p->prices = s->next;
        free(s->type);
        free(s->zone);
        free(s);
    }
    free(p->rows);
    price_table_fini(&p->listed);
    aws_client_free(p->client);
    aws_client_free(p->quotas);
    aws_keyring_free(p->keys);
    fetcher_free(p->fetcher);
    if (p->poll_timer)
        event_free(p->poll_timer);
    if (p->price_timer)
        event_free(p->price_timer);
    free(p->owner);
    free(p->region);
    free(p->endpoint);
    free(p->ca_file);
    free(p->price_types);
    free(p);
}

static void on_price_problem(int line, const char *text, void *arg)
{
    const struct ec2 *p = arg;
    (void)line;
    log_warn(p->env.log, "provider", "a row of the price list is lost", LOG_S("why", text));
}

static enum rc open_prices(struct ec2 *p, struct error *e)
{
    const char *path = provider_setting(p->env.settings, "prices");
    return path ? price_table_load(&p->listed, path, on_price_problem, p, e) : RC_OK;
}

static enum rc ec2_open(struct provider **out, const struct provider_env *env, struct error *e)
{
    enum rc rc = env->settings ? provider_settings_check(env->settings, e)
                               : error_set(e, RC_INVALID, "provider ec2 needs settings: region");
    if (rc != RC_OK)
        return rc;
    struct ec2 *p = spw_calloc(1, sizeof(*p));
    p->base.ops = &provider_ec2;
    p->env = *env;
    p->opened = clock_now(env->clock);
    take_settings(p);
    p->poll_timer = evtimer_new(env->loop, ec2_on_poll, p);
    p->price_timer = evtimer_new(env->loop, ec2_on_prices_due, p);
    rc = fetcher_new(&p->fetcher, env->loop, e);
    if (rc == RC_OK)
        rc = open_keys(p, e);
    if (rc == RC_OK)
        rc = open_client(p, e);
    if (rc == RC_OK)
        rc = open_prices(p, e);
    p->env.settings = NULL; /* all taken */
    if (rc != RC_OK) {
        ec2_close(&p->base);
        return rc;
    }
    *out = &p->base;
    return RC_OK;
}

/* ---- check ------------------------------------------------------------------------------------------------------ */

/* Each is one call that changes nothing: a plain question, a DryRun, or a quota. */
static const struct check_step {
    const char *what, *action;
    const char *quota;                  /* code of the service quotas API; NULL: the action */
    const char *const parameters[4][2]; /* of the action, beside DryRun */
} check_steps[] = {
    {"credentials", "DescribeAvailabilityZones", NULL, {{NULL, NULL}}},
    {"right to see instances", "DescribeInstances", NULL, {{"DryRun", "true"}}},
    {"right to see spot prices", "DescribeSpotPriceHistory", NULL, {{"DryRun", "true"}}},
    {"right to make launch templates",
     "CreateLaunchTemplate",
     NULL,
     {{"DryRun", "true"}, {"LaunchTemplateName", "spillway-check"}, {"LaunchTemplateData.InstanceType", "t3.micro"}}},
    {"right to launch",
     "RunInstances",
     NULL,
     {{"DryRun", "true"}, {"MinCount", "1"}, {"MaxCount", "1"}, {"ImageId", "ami-00000000000000000"}}},
    {"right to terminate", "TerminateInstances", NULL, {{"DryRun", "true"}, {"InstanceId.1", "i-00000000000000000"}}},
    {"quota: spot G and VT, vCPUs", NULL, "L-3819A6DF", {{NULL, NULL}}},
    {"quota: spot P, vCPUs", NULL, "L-7212CCBC", {{NULL, NULL}}},
    {"quota: spot standard, vCPUs", NULL, "L-34B43A08", {{NULL, NULL}}},
    {"quota: on-demand G and VT, vCPUs", NULL, "L-DB2E81BA", {{NULL, NULL}}},
    {"quota: on-demand P, vCPUs", NULL, "L-417A185B", {{NULL, NULL}}},
    {"quota: on-demand standard, vCPUs", NULL, "L-1216C47A", {{NULL, NULL}}},
};
#define CHECK_STEPS (int)(sizeof check_steps / sizeof check_steps[0])

static void check_next(struct ec2_question *q);

/* "Value":64.0, of GetServiceQuota: the number is for people, and looked at for being 0. */
static void tell_quota(struct ec2_question *q, const struct check_step *s, const struct aws_reply *r)
{
    const char *at = r->failure == PROVIDER_FINE ? strstr(r->body, "\"Value\":") : NULL;
    char text[128];
    if (!at) {
        snprintf(text, sizeof text, "not known: %.100s", *r->text ? r->text : "no value in the answer");
        q->each_check(s->what, true, text, q->arg); /* knowing it needs a right that launching does not */
        return;
    }
    at += 8 + strspn(at + 8, " ");
    snprintf(text, sizeof text, "%.*s", (int)strspn(at, "0123456789.eE+"), at);
    q->each_check(s->what, text[strspn(text, "0.")] != '\0', text, q->arg);
}

static void tell_right(struct ec2_question *q, const struct check_step *s, const struct aws_reply *r)
{
    struct strbuf text;
    /* What does not exist was looked up after the right to ask was found. */
    bool fine = r->failure == PROVIDER_FINE || r->too_early || strncmp(r->code, "InvalidAMIID", 12) == 0;
    strbuf_init(&text, 4096);
    strbuf_puts(&text, fine ? "yes" : r->text);
    if (q->step == 0)
        strbuf_printf(&text, "; keys: %s", aws_keyring_describe(q->p->keys));
    xml_each(zone, r->root, "availabilityZoneInfo/item") strbuf_printf(&text, "; %s", xml_text(zone, "zoneName"));
    q->each_check(s->what, fine, text.data, q->arg);
    strbuf_fini(&text);
}

static void on_check(const struct aws_reply *r, void *arg)
{
    struct ec2_question *q = arg;
    const struct check_step *s = &check_steps[q->step];
    q->call = NULL;
    if (s->quota)
        tell_quota(q, s, r);
    else
        tell_right(q, s, r);
    if (q->step == 0 && r->failure != PROVIDER_FINE) { /* nothing else would work */
        ec2_question_answer(q, r->failure, r->text);
        return;
    }
    q->step++;
    check_next(q);
}

static enum rc open_quotas(struct ec2 *p, struct error *e)
{
    char *endpoint = usual_endpoint("servicequotas", p->region), *usual = usual_endpoint("ec2", p->region);
    struct aws_client_options o = {.loop = p->env.loop,
                                   .clock = p->env.clock,
                                   .log = p->env.log,
                                   .fetcher = p->fetcher,
                                   .keys = p->keys,
                                   .endpoint = strcmp(p->endpoint, usual) == 0 ? endpoint : p->endpoint,
                                   .region = p->region,
                                   .service = "servicequotas",
                                   .ca_file = p->ca_file};
    enum rc rc = p->quotas ? RC_OK : aws_client_new(&p->quotas, &o, e);
    free(endpoint);
    free(usual);
    return rc;
}

static void check_next(struct ec2_question *q)
{
    struct ec2 *p = q->p;
    struct error e;
    if (q->step == CHECK_STEPS) {
        ec2_question_answer(q, PROVIDER_FINE, "");
        return;
    }
    const struct check_step *s = &check_steps[q->step];
    struct aws_call_options o = {.deadline_ms = 15000};
    if (s->quota) {
        char json[100];
        if (open_quotas(p, &e) != RC_OK) {
            ec2_question_answer(q, PROVIDER_INVALID, e.message);
            return;
        }
        snprintf(json, sizeof json, "{\"ServiceCode\":\"ec2\",\"QuotaCode\":\"%s\"}", s->quota);
        o.target = "ServiceQuotasV20190624.GetServiceQuota";
        o.json = json;
        q->call = aws_call_start(p->quotas, NULL, &o, on_check, q);
        return;
    }
    struct aws_form f;
    aws_form_init(&f, s->action, EC2_VERSION);
    for (int i = 0; i < 4 && s->parameters[i][0]; i++)
        aws_form_add(&f, s->parameters[i][0], s->parameters[i][1]);
    q->call = aws_call_start(p->client, &f, &o, on_check, q);
    aws_form_fini(&f);
}

static void ec2_check(struct provider *base, provider_check_cb *each, provider_done_cb *done, void *arg)
{
    struct ec2_question *q = ec2_ask(ec2_self(base), done, arg);
    q->each_check = each;
    check_next(q);
}

const struct provider_ops provider_ec2 = {
    .name = "ec2",
    .caps = PROVIDER_CAN_LAUNCH | PROVIDER_HAS_OFFERS | PROVIDER_IS_CLOUD | PROVIDER_CAN_ADOPT,
    .keys = ec2_keys,
    .node_keys = ec2_node_keys,
    .open = ec2_open,
    .close = ec2_close,
    .check = ec2_check,
    .offers = ec2_offers,
    .launch = ec2_launch,
    .terminate = ec2_terminate,
    .terminate_id = ec2_terminate_id,
    .list = ec2_list,
    .adopt = ec2_adopt,
    .forget = ec2_forget,
};
