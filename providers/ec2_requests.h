/* What EC2 is asked, as form bodies; and a pool's settings, read once. Pure: no clock, no I/O. */
#ifndef PROVIDERS_EC2_REQUESTS_H
#define PROVIDERS_EC2_REQUESTS_H

#include "providers/aws_query.h"
#include "providers/ec2_answers.h"

#define EC2_PORT        8080
#define EC2_OFFERS_MAX  256 /* of one launch; a fleet takes 300 overrides */
#define EC2_TOKEN_BYTES 65

extern const struct provider_key ec2_keys[], ec2_node_keys[];

/* A launch template: what all machines of a pool have in common. Its name is made of its content, so that the same
 * content is made once, whoever asks, and another content never meets an old name. */
struct ec2_template_text {
    char name[64];
    struct strbuf body; /* of CreateLaunchTemplate; owned */
};
/* RC_INVALID: the settings do not make one; the message says which. */
enum rc ec2_template_text(struct ec2_template_text *t, const struct provider_spec *s, const char *owner,
                          struct error *e) SPW_MUST_USE;

/* One instance of any of these offers, all of one market: CreateFleet, or RunInstances for the first of them where the
 * pool says api: run. token: ec2_attempt_token(). */
void ec2_launch_form(struct aws_form *f, const struct provider_spec *s, const char *owner, const char *template_name,
                     const char *const *offers, int n, const char *token);
/* The client token of the nth attempt of a launch: other parameters need another token. The first one's is the launch's
 * own. */
void ec2_attempt_token(const char *token, int attempt, char out[EC2_TOKEN_BYTES]);

void ec2_describe_form(struct aws_form *f, const char *tag, const char *value, bool alive_only, const char *next);
/* Makes an instance that somebody else launched one of ours. */
void ec2_tag_form(struct aws_form *f, const char *id, const char *owner, const char *name, const char *token,
                  const char *pool);
void ec2_terminate_form(struct aws_form *f, const char *const *ids, int n);
/* Prices that hold now of these types ("a,b"), all zones. at_s: now. */
void ec2_prices_form(struct aws_form *f, const char *types, int64_t at_s, const char *next);

/* "zone=subnet,zone=subnet": the value of that name, with its length; 0: none. */
size_t ec2_pair(const char *list, const char *name, size_t name_n, const char **value);
/* The on-demand price of a type by the pool's `on_demand_prices`; {0}: not known. */
struct pusd ec2_on_demand_price(const struct provider_settings *pool, const char *type, size_t type_n);

#endif
