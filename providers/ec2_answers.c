#include "providers/ec2_answers.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

static int64_t time_of(const char *text)
{
    int64_t ms;
    return text_parse_time_ms(text, &ms) == RC_OK && ms > 0 ? ms / 1000 : 0;
}

int64_t ec2_reason_time(const char *reason)
{
    char text[] = "2026-11-29T08:00:00Z";
    const char *at = strchr(reason, '(');
    if (!at || strlen(at) < 20 || at[11] != ' ')
        return 0;
    memcpy(text, at + 1, 19);
    text[10] = 'T';
    return time_of(text);
}

static enum ec2_state state_of(const char *name)
{
    if (strcmp(name, "pending") == 0)
        return EC2_PENDING;
    if (strcmp(name, "stopping") == 0 || strcmp(name, "stopped") == 0)
        return EC2_STOPPED;
    if (strcmp(name, "shutting-down") == 0 || strcmp(name, "terminated") == 0)
        return EC2_ENDED;
    return EC2_RUNNING; /* also words that we do not know: what may run is looked after */
}

static void take_tags(struct ec2_instance *i, const struct xml_node *n)
{
    const struct {
        const char *tag, **to;
    } known[] = {
        {EC2_TAG_OWNER, &i->owner}, {EC2_TAG_TOKEN, &i->token}, {EC2_TAG_NAME, &i->name}, {EC2_TAG_POOL, &i->pool}};
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++)
        *known[k].to = "";
    xml_each(tag, n, "tagSet/item")
    {
        for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
            if (strcmp(xml_text(tag, "key"), known[k].tag) == 0)
                *known[k].to = xml_text(tag, "value");
        }
    }
}

static void take_instance(struct ec2_instance *i, const struct xml_node *n)
{
    *i = (struct ec2_instance){
        .id = xml_text(n, "instanceId"),
        .type = xml_text(n, "instanceType"),
        .zone = xml_text(n, "placement/availabilityZone"),
        .state = state_of(xml_text(n, "instanceState/name")),
        .market = strcmp(xml_text(n, "instanceLifecycle"), "spot") == 0 ? PROVIDER_SPOT : PROVIDER_ON_DEMAND,
        .private_ip = xml_text(n, "privateIpAddress"),
        .public_ip = xml_text(n, "ipAddress"),
        .reason_code = xml_text(n, "stateReason/code"),
        .reason = xml_text(n, "stateReason/message"),
        .launched_s = time_of(xml_text(n, "launchTime")),
    };
    if (i->state == EC2_ENDED)
        i->ended_s = ec2_reason_time(xml_text(n, "reason"));
    take_tags(i, n);
}

static int each_of(const struct xml_node *reservation, ec2_instance_cb *cb, void *arg)
{
    int n = 0;
    xml_each(item, reservation, "instancesSet/item")
    {
        struct ec2_instance i;
        take_instance(&i, item);
        if (!*i.id)
            continue;
        n++;
        cb(&i, arg);
    }
    return n;
}

int ec2_answer_instances(const struct xml_node *root, ec2_instance_cb *cb, void *arg, const char **next)
{
    int n = each_of(root, cb, arg); /* RunInstances has one reservation, which is the root */
    xml_each(reservation, root, "reservationSet/item") n += each_of(reservation, cb, arg);
    if (next)
        *next = xml_text(root, "nextToken");
    return n;
}

int ec2_answer_fleet(const struct xml_node *root, const char **ids, int max, ec2_fleet_error_cb *cb, void *arg)
{
    int n = 0;
    xml_each(set, root, "fleetInstanceSet/item")
    {
        xml_each(id, set, "instanceIds/item")
        {
            if (*id->text && n++ < max)
                ids[n - 1] = id->text;
        }
    }
    xml_each(error, root, "errorSet/item")
    {
        const struct xml_node *over = xml_find(error, "launchTemplateAndOverrides/overrides");
        struct ec2_fleet_error f = {.code = xml_text(error, "errorCode"),
                                    .message = xml_text(error, "errorMessage"),
                                    .type = xml_text(over, "instanceType"),
                                    .zone = xml_text(over, "availabilityZone"),
                                    .subnet = xml_text(over, "subnetId")};
        cb(&f, arg);
    }
    return n;
}

int ec2_answer_prices(const struct xml_node *root, ec2_price_cb *cb, void *arg, const char **next)
{
    int n = 0;
    xml_each(item, root, "spotPriceHistorySet/item")
    {
        struct error ignored;
        struct ec2_price p = {.type = xml_text(item, "instanceType"),
                              .zone = xml_text(item, "availabilityZone"),
                              .at_s = time_of(xml_text(item, "timestamp"))};
        if (!*p.type || !*p.zone || pusd_parse(xml_text(item, "spotPrice"), &p.hour, &ignored) != RC_OK ||
            p.hour.v <= 0)
            continue;
        n++;
        cb(&p, arg);
    }
    *next = xml_text(root, "nextToken"); /* at the end "", not absent */
    return n;
}

bool ec2_offer_parse(const char *id, struct ec2_offer *o)
{
    *o = (struct ec2_offer){.zone = id, .zone_n = strcspn(id, "/")};
    if (!id[o->zone_n])
        return false;
    o->type = id + o->zone_n + 1;
    o->type_n = strcspn(o->type, "/");
    if (!o->zone_n || !o->type_n || !o->type[o->type_n])
        return false;
    const char *market = o->type + o->type_n + 1;
    o->market = strcmp(market, "spot") == 0 ? PROVIDER_SPOT : PROVIDER_ON_DEMAND;
    return o->market == PROVIDER_SPOT || strcmp(market, "on-demand") == 0;
}

const char *ec2_quota_family(const char *type)
{
    static const struct {
        const char *letters, *family;
    } families[] = {{"g", "g"},     {"vt", "g"}, {"p", "p"}, {"dl", "dl"}, {"trn", "trn"},
                    {"inf", "inf"}, {"f", "f"},  {"x", "x"}, {"u", "hm"},  {"hpc", "hpc"}};
    size_t n = 0;
    while (islower((unsigned char)type[n]))
        n++;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strlen(families[i].letters) == n && strncmp(families[i].letters, type, n) == 0)
            return families[i].family;
    }
    return "standard"; /* A, C, D, H, I, M, R, T, Z */
}
