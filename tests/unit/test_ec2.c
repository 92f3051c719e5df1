/* What EC2 is asked and what it answers, without a cloud: error classes, answers good and damaged, forms, tokens, user
 * data, keys from a file and from a role.
 * links: spw_providers */
#include "base/text.h"
#include "providers/aws_errors.h"
#include "providers/ec2_requests.h"
#include "providers/ec2_userdata.h"

#include "tests/unit/test.h"

static void error_classes(void)
{
    static const struct {
        const char *code;
        int status;
        enum provider_failure failure;
        enum aws_remedy remedy;
    } rows[] = {
        {"InsufficientInstanceCapacity", 500, PROVIDER_NO_CAPACITY, AWS_UP}, /* not the status: it is an answer */
        {"UnfulfillableCapacity", 400, PROVIDER_NO_CAPACITY, AWS_UP},
        {"Unsupported", 400, PROVIDER_NO_CAPACITY, AWS_UP},
        {"SpotMaxPriceTooLow", 400, PROVIDER_NO_CAPACITY, AWS_UP},
        {"InsufficientHostCapacity", 500, PROVIDER_NO_CAPACITY, AWS_UP},
        {"MaxSpotInstanceCountExceeded", 400, PROVIDER_QUOTA, AWS_UP},
        {"VcpuLimitExceeded", 400, PROVIDER_QUOTA, AWS_UP},
        {"InstanceLimitExceeded", 400, PROVIDER_QUOTA, AWS_UP},
        {"MaxFleetCountExceeded", 400, PROVIDER_QUOTA, AWS_UP},
        {"RequestLimitExceeded", 503, PROVIDER_THROTTLED, AWS_AGAIN},
        {"Throttling", 400, PROVIDER_THROTTLED, AWS_AGAIN},
        {"InternalError", 500, PROVIDER_UNREACHABLE, AWS_AGAIN},
        {"AuthFailure", 401, PROVIDER_DENIED, AWS_REFRESH},
        {"SignatureDoesNotMatch", 403, PROVIDER_DENIED, AWS_REFRESH},
        {"RequestExpired", 400, PROVIDER_DENIED, AWS_REFRESH},
        {"UnauthorizedOperation", 403, PROVIDER_DENIED, AWS_UP}, /* never in a loop */
        {"InvalidInstanceID.NotFound", 400, PROVIDER_ENDED, AWS_TOO_EARLY},
        {"IdempotentParameterMismatch", 400, PROVIDER_INVALID, AWS_UP},
        {"DryRunOperation", 412, PROVIDER_FINE, AWS_UP},
        {"NeverHeardOf", 400, PROVIDER_INVALID, AWS_UP},
        {"NeverHeardOf", 500, PROVIDER_UNREACHABLE, AWS_AGAIN},
        {"", 502, PROVIDER_UNREACHABLE, AWS_AGAIN},
        {"", 503, PROVIDER_THROTTLED, AWS_AGAIN},
        {"", 429, PROVIDER_THROTTLED, AWS_AGAIN},
        {"", 403, PROVIDER_DENIED, AWS_REFRESH},
        {"", 404, PROVIDER_INVALID, AWS_UP},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct aws_error_kind *k = aws_error_find(rows[i].code, rows[i].status);
        CHECK_INT(k->failure, rows[i].failure);
        CHECK_INT(k->remedy, rows[i].remedy);
    }
}

static void ends(void)
{
    CHECK_INT(aws_end_reason("Server.SpotInstanceTermination"), PROVIDER_TAKEN_BACK);
    CHECK_INT(aws_end_reason("Server.SpotInstanceShutdown"), PROVIDER_TAKEN_BACK);
    CHECK_INT(aws_end_reason("Server.InsufficientInstanceCapacity"), PROVIDER_NO_CAPACITY);
    CHECK_INT(aws_end_reason("Client.UserInitiatedShutdown"), PROVIDER_ENDED);
    CHECK_INT(aws_end_reason("Client.InstanceInitiatedShutdown"), PROVIDER_ENDED);
    CHECK_INT(aws_end_reason("Client.InternalError"), PROVIDER_INVALID);
    CHECK_INT(aws_end_reason(""), PROVIDER_ENDED);
    CHECK_INT(ec2_reason_time("User initiated (2026-11-29 08:00:01 GMT)"), 1795939201);
    CHECK_INT(ec2_reason_time("User initiated (2026-11-29)"), 0);
    CHECK_INT(ec2_reason_time("User initiated (xxxxxxxxxxx xxxxxxxx"), 0);
    CHECK_INT(ec2_reason_time(""), 0);
}

struct seen {
    int n;
    struct ec2_instance last;
    char id[64], token[64];
};

static void on_instance(const struct ec2_instance *i, void *arg)
{
    struct seen *s = arg;
    s->n++;
    s->last = *i;
    snprintf(s->id, sizeof s->id, "%s", i->id);
    snprintf(s->token, sizeof s->token, "%s", i->token);
}

static const char DESCRIBED[] =
    "<DescribeInstancesResponse><reservationSet><item><instancesSet>"
    "<item><instanceState><name>running</name></instanceState></item>" /* without an id: skipped */
    "<item><instanceId>i-1</instanceId><instanceState><name>terminated</name></instanceState>"
    "<reason>Server.SpotInstanceTermination (2026-11-29 08:00:01 GMT)</reason>"
    "<instanceType>g5.xlarge</instanceType><placement><availabilityZone>us-east-1a</availabilityZone></placement>"
    "<instanceLifecycle>spot</instanceLifecycle><launchTime>2026-11-29T07:00:00.000Z</launchTime>"
    "<stateReason><code>Server.SpotInstanceTermination</code><message>m</message></stateReason>"
    "<tagSet><item><key>spillway-token</key><value>t-1</value></item><item><key>x</key></item></tagSet></item>"
    "</instancesSet></item></reservationSet><nextToken>more</nextToken></DescribeInstancesResponse>";

static void instances(void)
{
    struct xml x;
    struct error e;
    struct seen s = {0};
    const char *next;
    CHECK_INT(xml_parse(&x, DESCRIBED, sizeof DESCRIBED - 1, &e), RC_OK);
    CHECK_INT(ec2_answer_instances(x.root, on_instance, &s, &next), 1);
    CHECK_STR(next, "more");
    CHECK_STR(s.id, "i-1");
    CHECK_STR(s.token, "t-1");
    CHECK_STR(s.last.owner, "");
    CHECK_INT(s.last.state, EC2_ENDED);
    CHECK_INT(s.last.market, PROVIDER_SPOT);
    CHECK_INT(s.last.launched_s, 1795935600);
    CHECK_INT(s.last.ended_s, 1795939201);
    CHECK_STR(s.last.reason_code, "Server.SpotInstanceTermination");
    xml_fini(&x);
}

static void on_error(const struct ec2_fleet_error *f, void *arg)
{
    struct seen *s = arg;
    s->n++;
    snprintf(s->id, sizeof s->id, "%s", f->code);
    snprintf(s->token, sizeof s->token, "%s/%s", f->zone, f->type);
}

static void fleets(void)
{
    static const char none[] =
        "<CreateFleetResponse><fleetId>f</fleetId><errorSet><item><launchTemplateAndOverrides><overrides>"
        "<instanceType>g5.xlarge</instanceType><availabilityZone>us-east-1a</availabilityZone></overrides>"
        "</launchTemplateAndOverrides><errorCode>InsufficientInstanceCapacity</errorCode></item></errorSet>"
        "<fleetInstanceSet/></CreateFleetResponse>";
    static const char two[] = "<CreateFleetResponse><fleetInstanceSet><item><instanceIds><item>i-1</item><item></item>"
                              "<item>i-2</item></instanceIds></item></fleetInstanceSet></CreateFleetResponse>";
    const char *ids[1];
    struct seen s = {0};
    struct xml x;
    struct error e;
    CHECK_INT(xml_parse(&x, none, sizeof none - 1, &e), RC_OK);
    CHECK_INT(ec2_answer_fleet(x.root, ids, 1, on_error, &s), 0);
    CHECK_INT(s.n, 1);
    CHECK_STR(s.id, "InsufficientInstanceCapacity");
    CHECK_STR(s.token, "us-east-1a/g5.xlarge");
    xml_fini(&x);
    CHECK_INT(xml_parse(&x, two, sizeof two - 1, &e), RC_OK);
    CHECK_INT(ec2_answer_fleet(x.root, ids, 1, on_error, &s), 2); /* more than there is room for */
    CHECK_STR(ids[0], "i-1");
    xml_fini(&x);
}

static void on_price(const struct ec2_price *p, void *arg)
{
    *(int64_t *)arg += p->hour.v;
}

static void prices(void)
{
    static const char text[] =
        "<r><spotPriceHistorySet>"
        "<item><instanceType>a</instanceType><availabilityZone>z</availabilityZone><spotPrice>0.403000</spotPrice>"
        "<timestamp>2026-11-29T07:00:00.000Z</timestamp></item>"
        "<item><instanceType>a</instanceType><availabilityZone>z</availabilityZone><spotPrice>-1</spotPrice></item>"
        "<item><instanceType>a</instanceType><availabilityZone>z</availabilityZone><spotPrice>0</spotPrice></item>"
        "<item><availabilityZone>z</availabilityZone><spotPrice>1</spotPrice></item>"
        "<item><instanceType>a</instanceType><availabilityZone>z</availabilityZone><spotPrice>1e9</spotPrice></item>"
        "</spotPriceHistorySet><nextToken/></r>";
    struct xml x;
    struct error e;
    int64_t sum = 0;
    const char *next;
    CHECK_INT(xml_parse(&x, text, sizeof text - 1, &e), RC_OK);
    CHECK_INT(ec2_answer_prices(x.root, on_price, &sum, &next), 1);
    CHECK_INT(sum, 403000000000);
    CHECK_STR(next, ""); /* the end: empty, not absent */
    xml_fini(&x);
}

static void offers(void)
{
    struct ec2_offer o;
    CHECK(ec2_offer_parse("us-east-1a/g5.xlarge/spot", &o) && o.market == PROVIDER_SPOT && o.zone_n == 10 &&
          o.type_n == 9);
    CHECK(ec2_offer_parse("us-east-1a/g5.xlarge/on-demand", &o) && o.market == PROVIDER_ON_DEMAND);
    const char *bad[] = {"", "/", "//spot", "a/b", "a/b/", "a//spot", "/b/spot", "a/b/spots", "a/b/spot/c"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(!ec2_offer_parse(bad[i], &o));
    CHECK_STR(ec2_quota_family("g6e.xlarge"), "g");
    CHECK_STR(ec2_quota_family("vt1.3xlarge"), "g");
    CHECK_STR(ec2_quota_family("p5.48xlarge"), "p");
    CHECK_STR(ec2_quota_family("trn1.2xlarge"), "trn");
    CHECK_STR(ec2_quota_family("m7i.large"), "standard");
    CHECK_STR(ec2_quota_family(""), "standard");
}

/* ---- what is asked ---------------------------------------------------------------------------------------------- */

static const struct provider_pair pool_pairs[] = {{"image", "ami-1"},
                                                  {"types", "g5.xlarge"},
                                                  {"zones", "us-east-1a"},
                                                  {"subnets", "us-east-1b=subnet-b,us-east-1a=subnet-a"},
                                                  {"max_price", "0.5"},
                                                  {"on_demand_prices", "g5.xlarge=1.006,g5.2xlarge=1.212"},
                                                  {"security_groups", "sg-1,sg-2"}};
static const struct provider_settings pool = {.keys = ec2_node_keys, .pairs = pool_pairs, .n = 7};

static struct provider_spec spec(void)
{
    return (struct provider_spec){.name = "n1",
                                  .token = "tok",
                                  .model_path = "/m.gguf",
                                  .pool = "p",
                                  .settings = &pool,
                                  .join_url = "https://10.0.0.1:8443",
                                  .join_token = "j+1"};
}

static bool has(const struct aws_form *f, const char *text)
{
    return strstr(f->text.data, text) != NULL;
}

static void launch_forms(void)
{
    const char *ids[] = {"us-east-1a/g5.xlarge/spot", "us-east-1c/g6.xlarge/spot"};
    const struct provider_spec s = spec();
    struct aws_form f;
    ec2_launch_form(&f, &s, "own", "tpl", ids, 2, "tok");
    CHECK(strncmp(f.text.data, "Action=CreateFleet&Version=2016-11-15&Type=instant&", 51) == 0);
    CHECK(has(&f, "&TargetCapacitySpecification.TotalTargetCapacity=1&"));
    CHECK(has(&f, "&SpotOptions.AllocationStrategy=price-capacity-optimized&"));
    CHECK(has(&f, "&LaunchTemplateConfigs.1.Overrides.1.SubnetId=subnet-a&"));
    CHECK(has(&f, "&LaunchTemplateConfigs.1.Overrides.2.AvailabilityZone=us-east-1c&"));
    CHECK(has(&f, "&LaunchTemplateConfigs.1.Overrides.2.MaxPrice=0.5&"));
    CHECK(has(&f, "&ClientToken=tok&TagSpecification.1.ResourceType=instance&"));
    CHECK(has(&f, "Key=spillway-join&TagSpecification.1.Tag.5.Value=j%2B1&"));
    aws_form_fini(&f);
    const char *on_demand[] = {"us-east-1a/g5.xlarge/on-demand"};
    ec2_launch_form(&f, &s, "own", "tpl", on_demand, 1, "tok");
    CHECK(has(&f, "DefaultTargetCapacityType=on-demand") && !has(&f, "MaxPrice") && !has(&f, "SpotOptions"));
    aws_form_fini(&f);
    CHECK_INT(ec2_on_demand_price(&pool, "g5.xlarge", 9).v, 1006000000000);
    CHECK_INT(ec2_on_demand_price(&pool, "g5.x", 4).v, 0);
}

static void tokens(void)
{
    char a[EC2_TOKEN_BYTES], b[EC2_TOKEN_BYTES];
    static char longer[200];
    ec2_attempt_token("tok", 0, a);
    CHECK_STR(a, "tok");
    ec2_attempt_token("tok", 1, a);
    ec2_attempt_token("tok", 2, b);
    CHECK(strlen(a) == 64 && strcmp(a, b) != 0 && strcmp(a, "tok") != 0);
    ec2_attempt_token("tok", 1, b);
    CHECK_STR(a, b);
    memset(longer, 'x', sizeof longer - 1);
    ec2_attempt_token(longer, 0, a);
    CHECK_INT(strlen(a), 64);
}

static void templates(void)
{
    struct provider_spec s = spec();
    struct ec2_template_text a, b, c;
    struct error e;
    CHECK_INT(ec2_template_text(&a, &s, "0123456789abcdef0123456789abcdef", &e), RC_OK);
    s.name = "n2"; /* what is a machine's own does not make another template */
    s.token = "tok2";
    s.join_token = "j2";
    CHECK_INT(ec2_template_text(&b, &s, "0123456789abcdef0123456789abcdef", &e), RC_OK);
    s.alias = "m";
    CHECK_INT(ec2_template_text(&c, &s, "0123456789abcdef0123456789abcdef", &e), RC_OK);
    CHECK_STR(a.name, b.name);
    CHECK_STR(a.body.data, b.body.data);
    CHECK(strcmp(a.name, c.name) != 0 && strlen(a.name) < 64);
    CHECK(strstr(a.body.data, "j%2B1") == NULL && strstr(a.body.data, "HttpTokens=required") != NULL);
    CHECK(strstr(a.body.data, "SecurityGroupId.2=sg-2") != NULL);
    strbuf_fini(&a.body);
    strbuf_fini(&b.body);
    strbuf_fini(&c.body);
}

static void full_forms(void)
{
    static char mass[AWS_FORM_MAX];
    struct aws_form f;
    memset(mass, 'a', sizeof mass - 1);
    aws_form_init(&f, "A", "1");
    aws_form_add(&f, "B", "");
    aws_form_add(&f, "B", NULL);
    CHECK_STR(f.text.data, "Action=A&Version=1");
    aws_form_add(&f, "C", mass);
    CHECK(f.full);
    aws_form_fini(&f);
}

/* ---- user data -------------------------------------------------------------------------------------------------- */

#define SUM "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static enum rc make(const struct ec2_boot *b, struct strbuf *script, struct error *e)
{
    strbuf_clear(script);
    return ec2_userdata(script, b, e);
}

static void user_data(void)
{
    static char mass[17000];
    struct strbuf s;
    struct error e;
    struct ec2_boot b = {.engine_url = "https://x/e",
                         .engine_sha256 = SUM,
                         .model_url = "https://x/it's",
                         .model_sha256 = SUM,
                         .arguments = "--a,1",
                         .port = 8080,
                         .threads = 4,
                         .boot_max_s = 60};
    strbuf_init(&s, 1 << 16);
    CHECK_INT(make(&b, &s, &e), RC_OK);
    CHECK(strncmp(s.data, "#!/bin/bash\n", 12) == 0 && s.len < EC2_USERDATA_MAX);
    CHECK(strstr(s.data, "MODEL_URL='https://x/it'\\''s'\n") && strstr(s.data, "PROTOCOLS='=https'\n"));
    CHECK(strstr(s.data, "ARGUMENTS='--a 1 --threads 4'\n") && strstr(s.data, "BOOT_MAX='60'\n"));
    memset(mass, 'a', sizeof mass - 1);
    b.alias = mass;
    CHECK_INT(make(&b, &s, &e), RC_FULL);
    b.alias = "a\nb";
    CHECK_INT(make(&b, &s, &e), RC_INVALID);
    b.alias = NULL;
    b.engine_url = "http://x/e";
    CHECK_INT(make(&b, &s, &e), RC_INVALID);
    b.engine_url = "http://127.0.0.1.evil.example/e";
    CHECK_INT(make(&b, &s, &e), RC_INVALID);
    b.engine_url = "https://x/e";
    b.engine_sha256 = "ABC";
    CHECK_INT(make(&b, &s, &e), RC_INVALID);
    b.engine_sha256 = NULL;
    CHECK_INT(make(&b, &s, &e), RC_INVALID);
    b = (struct ec2_boot){.port = 1};
    CHECK_INT(make(&b, &s, &e), RC_INVALID); /* no model at all */
    strbuf_fini(&s);
    char *coded = text_base64("ab", 2);
    CHECK_STR(coded, "YWI=");
    free(coded);
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

static void keys_of_a_file(void)
{
    struct aws_keys k;
    struct error e;
    char good[] = "; c\n[a]\naws_access_key_id=A\naws_secret_access_key=S\n[profile b]\r\n aws_access_key_id = B \n"
                  "aws_secret_access_key=T=/+\naws_session_token=\n";
    char text[sizeof good];
    memcpy(text, good, sizeof good);
    CHECK_INT(aws_keys_parse_file(text, "b", &k, &e), RC_OK);
    CHECK_STR(k.id, "B");
    CHECK_STR(k.secret, "T=/+");
    CHECK(k.token == NULL);
    memcpy(text, good, sizeof good);
    CHECK_INT(aws_keys_parse_file(text, "c", &k, &e), RC_NOT_FOUND);
    char half[] = "[a]\naws_access_key_id=A\n";
    CHECK_INT(aws_keys_parse_file(half, "a", &k, &e), RC_INVALID);
    CHECK(strstr(e.message, "aws_secret_access_key") != NULL);
    char nothing[] = "[a\n=\n\n[";
    CHECK_INT(aws_keys_parse_file(nothing, "a", &k, &e), RC_NOT_FOUND);
}

static void keys_of_a_role(void)
{
    struct aws_keys k;
    struct error e;
    int64_t expires = 0;
    const char *good = "{\"Code\":\"Success\",\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"S\",\"Token\":\"T\","
                       "\"Expiration\":\"2026-11-29T08:00:01Z\"}";
    const char *bad[] = {"",
                         "[]",
                         "{}",
                         "{\"Code\":\"Failed\"}",
                         "{\"Code\":1}",
                         "{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"S\",\"Expiration\":\"soon\"}"};
    CHECK_INT(aws_keys_parse_role(good, strlen(good), &k, &expires, &e), RC_OK);
    CHECK_INT(expires, 1795939201);
    CHECK_STR(k.token, "T");
    aws_keys_wipe(&k);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(aws_keys_parse_role(bad[i], strlen(bad[i]), &k, &expires, &e) != RC_OK && k.id == NULL);
}

int main(void)
{
    TEST(error_classes);
    TEST(ends);
    TEST(instances);
    TEST(fleets);
    TEST(prices);
    TEST(offers);
    TEST(launch_forms);
    TEST(tokens);
    TEST(templates);
    TEST(full_forms);
    TEST(user_data);
    TEST(keys_of_a_file);
    TEST(keys_of_a_role);
    return TEST_RESULT();
}
