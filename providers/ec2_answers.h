/* What EC2 answers, read into plain structs; and the few words of its API that more than one file needs. Pure; whatever
 * comes in, nothing is believed that was not checked. Strings are borrowed from the XML tree. */
#ifndef PROVIDERS_EC2_ANSWERS_H
#define PROVIDERS_EC2_ANSWERS_H

#include "providers/provider.h"
#include "providers/xml.h"

#define EC2_VERSION "2016-11-15"
/* Tags: letters and '-' only, as the metadata service wants them. */
#define EC2_TAG_OWNER "spillway-owner"
#define EC2_TAG_TOKEN "spillway-token"
#define EC2_TAG_NAME  "spillway-name"
#define EC2_TAG_POOL  "spillway-pool"
#define EC2_TAG_JOIN  "spillway-join"

enum ec2_state {
    EC2_PENDING,
    EC2_RUNNING,
    EC2_STOPPED /* or stopping */,
    EC2_ENDED /* or shutting down: not billed */
};

struct ec2_instance {
    const char *id, *type, *zone;
    enum ec2_state state;
    enum provider_market market;
    const char *private_ip, *public_ip;      /* "" */
    const char *reason_code, *reason;        /* of its end; "" */
    const char *owner, *token, *name, *pool; /* tags; "" */
    int64_t launched_s, ended_s;             /* Unix time; 0: not known */
};
typedef void ec2_instance_cb(const struct ec2_instance *i, void *arg);
/* Of DescribeInstances and RunInstances: each instance with an id; others are skipped. Returns their number; *next
 * (may be NULL) is the token of the next page, or "". */
int ec2_answer_instances(const struct xml_node *root, ec2_instance_cb *cb, void *arg, const char **next);

/* CreateFleet (instant). A 200 with errors and without instances is a usual answer. */
struct ec2_fleet_error {
    const char *code, *message, *type, *zone, *subnet; /* of the override; "" */
};
typedef void ec2_fleet_error_cb(const struct ec2_fleet_error *f, void *arg);
/* The ids, at most max of them, into ids; returns how many there were. */
int ec2_answer_fleet(const struct xml_node *root, const char **ids, int max, ec2_fleet_error_cb *cb, void *arg);

/* DescribeSpotPriceHistory. Rows with a price that is none are skipped. */
struct ec2_price {
    const char *type, *zone;
    struct pusd hour;
    int64_t at_s;
};
typedef void ec2_price_cb(const struct ec2_price *p, void *arg);
int ec2_answer_prices(const struct xml_node *root, ec2_price_cb *cb, void *arg, const char **next);

/* The time in "User initiated (2026-11-29 08:00:00 GMT)"; 0: none. */
int64_t ec2_reason_time(const char *reason);
/* Offers are "ZONE/TYPE/MARKET". False: this is none. Pieces point into id. */
struct ec2_offer {
    const char *zone, *type;
    size_t zone_n, type_n;
    enum provider_market market; /* SPOT or ON_DEMAND */
};
bool ec2_offer_parse(const char *id, struct ec2_offer *o);
/* The quota that a type falls under: "g5.xlarge" and "vt1.3xlarge" share one; spot and on-demand are counted apart. */
const char *ec2_quota_family(const char *type);

#endif
