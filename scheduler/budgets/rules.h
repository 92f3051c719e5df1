/* The budgets of a configuration, and which of them a request falls under. Pure; read-only once made, for any thread. */
#ifndef SCHEDULER_BUDGETS_RULES_H
#define SCHEDULER_BUDGETS_RULES_H

#include "policies/period.h"
#include "scheduler/budgets/store.h"

#define BUDGET_MATCHES_MAX  8
#define BUDGET_TAGS_MAX     8
#define BUDGET_TAG_MAX      64 /* bytes of a label's name, and of its value */
#define BUDGET_TAGS_HEADER  "x-spillway-tags"
#define BUDGET_LABELS_BYTES ((size_t)BUDGET_TAGS_MAX * (2 * BUDGET_TAG_MAX + 2) + 2)

struct budget_match {
    const char *key;   /* organisation, team, project, user, key, model, provider, or a label's name */
    const char *value; /* "*": each value that occurs has a budget of its own */
};
struct budget_rule {
    const char *name;
    struct budget_match match[BUDGET_MATCHES_MAX]; /* all must hold; n_match 0: every request */
    int n_match;
    struct period_spec period;
    struct budget_limits limits;
    struct pusd soft; /* BUDGET_UNLIMITED: none */
    unsigned soft_actions, hard_actions;
    const char *soft_model, *hard_model; /* of BUDGET_DOWNGRADE */
};

/* What is known of a request and of who is to answer it. NULL: not known, or none. */
struct budget_facts {
    const char *organisation, *team, *project, *user, *key, *model, *provider, *node;
    const char *labels; /* ",name=value,name=value,"; "": none */
};
/* "name=value, name=value" of the header, into ",name=value,...,". NULL or "": none. RC_INVALID: e says what is wrong. */
enum rc budget_labels_read(const char *text, char labels[BUDGET_LABELS_BYTES], struct error *e) SPW_MUST_USE;

/* Does it? Then `name` is the instance's: the rule's, with [value] for each "*"; where they don't fit, the end is a
 * number that stands for all of them. A provider's value may be a node's name. */
bool budget_rule_covers(const struct budget_rule *r, const struct budget_facts *f, char name[BUDGET_NAME_BYTES]);
/* Who answers matters. */
bool budget_rule_asks_provider(const struct budget_rule *r);
/* "NAME=VALUE" of the configuration; the text is borrowed. */
bool budget_match_parse(char *text, struct budget_match *m);
/* A label may have any name. The fact that was meant, if it looks like one ("teams", "tenant"); NULL: it does not. */
const char *budget_match_meant(const struct budget_match *m);
/* As the store is asked, at this moment. name is borrowed. */
struct budget_claim budget_rule_claim(const struct budget_rule *r, const char *name, int64_t now_s);

#endif
