#include "providers/ec2_requests.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"
#include "base/text.h"
#include "providers/ec2_userdata.h"

const struct provider_key ec2_keys[] = {
    {"region", KEY_TEXT, true, NULL, "AWS region, as in eu-central-1"},
    {"endpoint", KEY_URL, false, NULL, "address of the EC2 API; else that of the region"},
    {"ca_file", KEY_FILE, false, NULL, "authorities that the endpoint's certificate is verified by; else the system's"},
    {"credentials", KEY_TEXT, false, "any", "where keys come from: env, file, role (of this machine), or any of these"},
    {"credentials_file", KEY_FILE, false, NULL, "file with keys as the AWS tools write it; else ~/.aws/credentials"},
    {"profile", KEY_TEXT, false, NULL, "profile in that file; else default"},
    {"metadata", KEY_URL, false, NULL, "address of this machine's metadata service, for role"},
    {"calls_per_s", KEY_INT, false, "5", "calls of the API per second, in the long run"},
    {"calls_burst", KEY_INT, false, "20", "calls that may follow each other at once"},
    {"call_deadline", KEY_DURATION, false, "60s", "time for a call with all its tries"},
    {"poll", KEY_DURATION, false, "10s", "how often instances are looked at; a fifth of it while one starts or ends"},
    {"prices", KEY_FILE, false, NULL, "price list for on-demand prices that a pool does not give (cloud aws)"},
    {"spot_prices", KEY_DURATION, false, "5m", "how often spot prices are asked for"},
    {"cold", KEY_DURATION, false, "30s", "for how long a type in a zone that had no capacity is left alone"},
    {"quota_pause", KEY_DURATION, false, "15m", "for how long nothing is launched against a quota that was met"},
    {NULL, KEY_TEXT, false, NULL, NULL},
};

const struct provider_key ec2_node_keys[] = {
    {"image", KEY_TEXT, true, NULL, "AMI id; glibc, curl, cloud-init and systemd are all that is needed on it"},
    {"types", KEY_LIST, true, NULL, "instance types that will do"},
    {"zones", KEY_LIST, true, NULL, "zones to launch in, by their names in this account"},
    {"markets", KEY_LIST, false, "spot", "spot, on-demand, or both"},
    {"subnets", KEY_LIST, false, NULL, "zone=subnet; without, the zone's default subnet"},
    {"on_demand_prices", KEY_LIST, false, NULL, "type=dollars per hour"},
    {"max_price", KEY_DOLLARS, false, NULL, "most to pay for a spot hour; without, the on-demand price"},
    {"strategy", KEY_TEXT, false, "price-capacity-optimized", "allocation strategy of spot fleets"},
    {"api", KEY_TEXT, false, "fleet",
     "fleet: CreateFleet over all offers at once; run: RunInstances, one after the other"},
    {"security_groups", KEY_LIST, false, NULL, "security group ids"},
    {"instance_profile", KEY_TEXT, false, NULL, "name of the IAM instance profile that machines get"},
    {"key_name", KEY_TEXT, false, NULL, "SSH key pair"},
    {"disk_gb", KEY_INT, false, NULL, "size of the root disk; else the image's"},
    {"disk_device", KEY_TEXT, false, "/dev/xvda", "device name of the root disk"},
    {"hop_limit", KEY_INT, false, "1", "hops to the metadata service; 2 where the engine runs in a container"},
    {"address", KEY_TEXT, false, "private", "which of its addresses a machine is reached by: private or public"},
    {"port", KEY_PORT, false, "8080", "port of the engine"},
    {"engine_url", KEY_URL, false, NULL, "https address of the engine bundle; without, the image has an engine"},
    {"engine_sha256", KEY_TEXT, false, NULL, "its SHA-256"},
    {"model_url", KEY_URL, false, NULL, "https address of the model; without, the image has it at the model's path"},
    {"model_sha256", KEY_TEXT, false, NULL, "its SHA-256"},
    {"model_path", KEY_TEXT, false, NULL, "where the image has the model, without model_url"},
    {"arguments", KEY_LIST, false, NULL, "further arguments of spillway-engine serve"},
    {"boot", KEY_DURATION, false, "4m", "expected time from launch to an engine that answers"},
    {"boot_max", KEY_DURATION, false, "30m", "a machine whose engine has not started by then ends itself"},
    {NULL, KEY_TEXT, false, NULL, NULL},
};

/* ---- lists ------------------------------------------------------------------------------------------------------ */

size_t ec2_pair(const char *list, const char *name, size_t name_n, const char **value)
{
    const char *at = list ? list : "", *word;
    for (size_t n; (n = provider_setting_word(&at, &word)) > 0;) {
        if (n > name_n + 1 && word[name_n] == '=' && strncmp(word, name, name_n) == 0) {
            *value = word + name_n + 1;
            return n - name_n - 1;
        }
    }
    return 0;
}

struct pusd ec2_on_demand_price(const struct provider_settings *pool, const char *type, size_t type_n)
{
    const char *value;
    char text[32];
    struct pusd price = {0};
    struct error ignored;
    size_t n = ec2_pair(provider_setting(pool, "on_demand_prices"), type, type_n, &value);
    if (n == 0 || n >= sizeof text)
        return price;
    memcpy(text, value, n);
    text[n] = '\0';
    return pusd_parse(text, &price, &ignored) == RC_OK ? price : (struct pusd){0};
}

/* A list as Name.1, Name.2, ... */
static void add_list(struct aws_form *f, const char *name, const char *list)
{
    const char *at = list ? list : "", *word;
    int i = 0;
    for (size_t n; (n = provider_setting_word(&at, &word)) > 0;) {
        char *value = spw_strndup(word, n);
        aws_form_addf(f, value, "%s.%d", name, ++i);
        free(value);
    }
}

static void add_tags(struct aws_form *f, int spec, const char *resource, const struct provider_spec *s,
                     const char *owner)
{
    const char *tags[][2] = {{EC2_TAG_OWNER, owner},        {EC2_TAG_POOL, s->pool},
                             {EC2_TAG_NAME, s->name},       {EC2_TAG_TOKEN, s->token ? s->token : s->name},
                             {EC2_TAG_JOIN, s->join_token}, {"Name", s->name}};
    int n = 0;
    aws_form_addf(f, resource, "TagSpecification.%d.ResourceType", spec);
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        if (!tags[i][1] || !*tags[i][1])
            continue;
        aws_form_addf(f, tags[i][0], "TagSpecification.%d.Tag.%d.Key", spec, ++n);
        aws_form_addf(f, tags[i][1], "TagSpecification.%d.Tag.%d.Value", spec, n);
    }
}

/* ---- the launch template ---------------------------------------------------------------------------------------- */

static char *user_data(const struct provider_spec *s, struct error *e)
{
    const struct provider_settings *p = s->settings;
    const struct ec2_boot b = {.engine_url = provider_setting(p, "engine_url"),
                               .engine_sha256 = provider_setting(p, "engine_sha256"),
                               .engine = s->engine,
                               .model_url = provider_setting(p, "model_url"),
                               .model_sha256 = provider_setting(p, "model_sha256"),
                               .model = s->model_path ? s->model_path : provider_setting(p, "model_path"),
                               .alias = s->alias,
                               .join_url = s->join_url,
                               .arguments = provider_setting(p, "arguments"),
                               .port = (int)provider_setting_int(p, "port"),
                               .threads = s->threads,
                               .ctx_size = s->ctx_size,
                               .max_batch = s->max_batch,
                               .boot_max_s = (int)(provider_setting_int(p, "boot_max") / 1000)};
    struct strbuf script;
    char *text = NULL;
    strbuf_init(&script, 2 * EC2_USERDATA_MAX);
    if (ec2_userdata(&script, &b, e) == RC_OK)
        text = text_base64(script.data, script.len);
    strbuf_fini(&script);
    return text;
}

static void add_template_data(struct aws_form *f, const struct provider_settings *p, const char *userdata)
{
#define DATA "LaunchTemplateData."
    aws_form_add(f, DATA "ImageId", provider_setting(p, "image"));
    aws_form_add(f, DATA "KeyName", provider_setting(p, "key_name"));
    aws_form_add(f, DATA "IamInstanceProfile.Name", provider_setting(p, "instance_profile"));
    aws_form_add(f, DATA "UserData", userdata);
    aws_form_add(f, DATA "InstanceInitiatedShutdownBehavior", "terminate");
    aws_form_add(f, DATA "MetadataOptions.HttpTokens", "required");
    aws_form_add(f, DATA "MetadataOptions.HttpEndpoint", "enabled");
    aws_form_add(f, DATA "MetadataOptions.HttpPutResponseHopLimit", provider_setting(p, "hop_limit"));
    aws_form_add(f, DATA "MetadataOptions.InstanceMetadataTags", "enabled");
    add_list(f, DATA "SecurityGroupId", provider_setting(p, "security_groups"));
    if (provider_setting_int(p, "disk_gb") > 0) {
        aws_form_add(f, DATA "BlockDeviceMapping.1.DeviceName", provider_setting(p, "disk_device"));
        aws_form_add(f, DATA "BlockDeviceMapping.1.Ebs.VolumeSize", provider_setting(p, "disk_gb"));
        aws_form_add(f, DATA "BlockDeviceMapping.1.Ebs.VolumeType", "gp3");
        aws_form_add(f, DATA "BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true");
    }
#undef DATA
}

/* spillway-OWNER-HASH, at most 8 + 1 + 20 + 1 + 24 characters. */
static void name_template(char name[64], const char *owner, const struct strbuf *content)
{
    uint8_t hash[SHA256_BYTES];
    sha256(content->data, content->len, hash);
    char hex[2 * 12 + 1];
    snprintf(name, 64, "spillway-%.20s-%s", owner, text_hex(hex, hash, 12));
}

enum rc ec2_template_text(struct ec2_template_text *t, const struct provider_spec *s, const char *owner,
                          struct error *e)
{
    struct aws_form f;
    char *userdata = user_data(s, e);
    if (!userdata)
        return e->code;
    aws_form_init(&f, "CreateLaunchTemplate", EC2_VERSION);
    add_template_data(&f, s->settings, userdata);
    free(userdata);
    name_template(t->name, owner, &f.text);
    aws_form_add(&f, "LaunchTemplateName", t->name);
    aws_form_add(&f, "ClientToken", t->name);
    aws_form_add(&f, "TagSpecification.1.ResourceType", "launch-template");
    aws_form_add(&f, "TagSpecification.1.Tag.1.Key", EC2_TAG_OWNER);
    aws_form_add(&f, "TagSpecification.1.Tag.1.Value", owner);
    if (f.full) {
        aws_form_fini(&f);
        return error_set(e, RC_FULL, "launch template is too large");
    }
    t->body = f.text;
    return RC_OK;
}

/* ---- launches --------------------------------------------------------------------------------------------------- */

void ec2_attempt_token(const char *token, int attempt, char out[EC2_TOKEN_BYTES])
{
    uint8_t hash[SHA256_BYTES];
    if (attempt == 0 && strlen(token) < EC2_TOKEN_BYTES) {
        snprintf(out, EC2_TOKEN_BYTES, "%s", token);
        return;
    }
    char *text = spw_asprintf("%s/%d", token, attempt);
    sha256(text, strlen(text), hash);
    free(text);
    text_hex(out, hash, sizeof hash);
}

/* Where an offer's machine goes: its zone's subnet, or the zone itself. */
static void add_place(struct aws_form *f, const struct provider_settings *p, const struct ec2_offer *o,
                      const char *subnet_key, const char *zone_key)
{
    const char *subnet;
    size_t n = ec2_pair(provider_setting(p, "subnets"), o->zone, o->zone_n, &subnet);
    char *value = n ? spw_strndup(subnet, n) : spw_strndup(o->zone, o->zone_n);
    aws_form_add(f, n ? subnet_key : zone_key, value);
    free(value);
}

static void add_override(struct aws_form *f, const struct provider_spec *s, const char *offer, int i)
{
    struct ec2_offer o;
    char subnet[64], zone[64];
    SPW_ASSERT(ec2_offer_parse(offer, &o));
    char *type = spw_strndup(o.type, o.type_n), priority[12];
#define OVERRIDE "LaunchTemplateConfigs.1.Overrides.%d."
    snprintf(subnet, sizeof subnet, OVERRIDE "SubnetId", i + 1);
    snprintf(zone, sizeof zone, OVERRIDE "AvailabilityZone", i + 1);
    snprintf(priority, sizeof priority, "%d", i);
    aws_form_addf(f, type, OVERRIDE "InstanceType", i + 1);
    add_place(f, s->settings, &o, subnet, zone);
    aws_form_addf(f, priority, OVERRIDE "Priority", i + 1);
    if (o.market == PROVIDER_SPOT)
        aws_form_addf(f, provider_setting(s->settings, "max_price"), OVERRIDE "MaxPrice", i + 1);
#undef OVERRIDE
    free(type);
}

static void fleet_form(struct aws_form *f, const struct provider_spec *s, const char *template_name,
                       const char *const *offers, int n, enum provider_market market)
{
    aws_form_init(f, "CreateFleet", EC2_VERSION);
    aws_form_add(f, "Type", "instant");
    aws_form_add(f, "TargetCapacitySpecification.TotalTargetCapacity", "1");
    if (market == PROVIDER_SPOT) {
        aws_form_add(f, "TargetCapacitySpecification.DefaultTargetCapacityType", "spot");
        aws_form_add(f, "SpotOptions.AllocationStrategy", provider_setting(s->settings, "strategy"));
    } else {
        aws_form_add(f, "TargetCapacitySpecification.DefaultTargetCapacityType", "on-demand");
        aws_form_add(f, "OnDemandOptions.AllocationStrategy", "prioritized");
    }
    aws_form_add(f, "LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateName", template_name);
    aws_form_add(f, "LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version", "1");
    for (int i = 0; i < n; i++)
        add_override(f, s, offers[i], i);
}

static void run_form(struct aws_form *f, const struct provider_spec *s, const char *template_name, const char *offer)
{
    struct ec2_offer o;
    SPW_ASSERT(ec2_offer_parse(offer, &o));
    char *type = spw_strndup(o.type, o.type_n);
    aws_form_init(f, "RunInstances", EC2_VERSION);
    aws_form_add(f, "MinCount", "1");
    aws_form_add(f, "MaxCount", "1");
    aws_form_add(f, "InstanceType", type);
    aws_form_add(f, "LaunchTemplate.LaunchTemplateName", template_name);
    aws_form_add(f, "LaunchTemplate.Version", "1");
    add_place(f, s->settings, &o, "SubnetId", "Placement.AvailabilityZone");
    if (o.market == PROVIDER_SPOT) { /* no interruption behaviour: one-time requests refuse it */
        aws_form_add(f, "InstanceMarketOptions.MarketType", "spot");
        aws_form_add(f, "InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time");
        aws_form_add(f, "InstanceMarketOptions.SpotOptions.MaxPrice", provider_setting(s->settings, "max_price"));
    }
    free(type);
}

void ec2_launch_form(struct aws_form *f, const struct provider_spec *s, const char *owner, const char *template_name,
                     const char *const *offers, int n, const char *token)
{
    struct ec2_offer first;
    SPW_ASSERT(n > 0 && ec2_offer_parse(offers[0], &first));
    const char *api = provider_setting(s->settings, "api");
    if (api && strcmp(api, "run") == 0)
        run_form(f, s, template_name, offers[0]);
    else
        fleet_form(f, s, template_name, offers, n, first.market);
    aws_form_add(f, "ClientToken", token);
    add_tags(f, 1, "instance", s, owner);
}

/* ---- the rest --------------------------------------------------------------------------------------------------- */

void ec2_describe_form(struct aws_form *f, const char *tag, const char *value, bool alive_only, const char *next)
{
    static const char *const alive[] = {"pending", "running", "stopping", "stopped"};
    aws_form_init(f, "DescribeInstances", EC2_VERSION);
    char *name = spw_asprintf("tag:%s", tag);
    aws_form_add(f, "Filter.1.Name", name);
    free(name);
    aws_form_add(f, "Filter.1.Value.1", value);
    if (alive_only) {
        aws_form_add(f, "Filter.2.Name", "instance-state-name");
        for (int i = 0; i < 4; i++)
            aws_form_addf(f, alive[i], "Filter.2.Value.%d", i + 1);
    }
    aws_form_add(f, "MaxResults", "500");
    aws_form_add(f, "NextToken", next);
}

void ec2_tag_form(struct aws_form *f, const char *id, const char *owner, const char *name, const char *token,
                  const char *pool)
{
    const char *tags[][2] = {
        {EC2_TAG_OWNER, owner}, {EC2_TAG_NAME, name}, {EC2_TAG_TOKEN, token}, {EC2_TAG_POOL, pool}};
    int n = 0;
    aws_form_init(f, "CreateTags", EC2_VERSION);
    aws_form_add(f, "ResourceId.1", id);
    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        if (!tags[i][1] || !*tags[i][1])
            continue;
        aws_form_addf(f, tags[i][0], "Tag.%d.Key", ++n);
        aws_form_addf(f, tags[i][1], "Tag.%d.Value", n);
    }
}

void ec2_terminate_form(struct aws_form *f, const char *const *ids, int n)
{
    aws_form_init(f, "TerminateInstances", EC2_VERSION);
    for (int i = 0; i < n; i++)
        aws_form_addf(f, ids[i], "InstanceId.%d", i + 1);
}

void ec2_prices_form(struct aws_form *f, const char *types, int64_t at_s, const char *next)
{
    char at[32];
    wall_format((struct wall){.ns = at_s * NS_PER_S}, at, sizeof at);
    aws_form_init(f, "DescribeSpotPriceHistory", EC2_VERSION);
    add_list(f, "InstanceType", types);
    aws_form_add(f, "ProductDescription.1", "Linux/UNIX");
    aws_form_add(f, "StartTime", at);
    aws_form_add(f, "MaxResults", "1000");
    aws_form_add(f, "NextToken", next);
}
