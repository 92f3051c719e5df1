/* The schema: who asks (keys, issuers), how much (classes of limits, budgets), and teams that get reports. */
#include "scheduler/config/schema_table.h"

#include "scheduler/auth/oidc.h"
#include "scheduler/config/schema_check.h"

static const char *const scope_words[] = {"inference", "admin", NULL};
static const char *const period_words[] = {"hour", "day", "week", "month", NULL};

#define KEY(field)    .offset = offsetof(struct config_key, field)
#define ISSUER(field) .offset = offsetof(struct config_issuer, field)
#define CLASS(field)  .offset = offsetof(struct config_class, field)
#define BUDGET(field) .offset = offsetof(struct config_budget, field)

static const struct setting key_rows[] = {
    {"id", SETTING_TEXT, SETTING_REQUIRED, KEY(id), .check = check_name,
     .help = "What the key is called in ledger and logs; unique."},
    {"sha256", SETTING_TEXT, SETTING_REQUIRED | SETTING_SECRET, KEY(sha256), .check = check_hash,
     .help = "SHA-256 of the key in hex; `spillway keys create --offline` makes a key and prints this."},
    {"tenant", SETTING_TEXT, SETTING_REQUIRED, KEY(tenant), .check = check_name, .help = "Who pays."},
    {"team", SETTING_TEXT, KEY(team), .check = check_name, .def_text = "none", .help = "Part of the tenant."},
    {"project", SETTING_TEXT, KEY(project), .check = check_name, .def_text = "none", .help = "Part of the team."},
    {"user", SETTING_TEXT, KEY(user), .def_text = "none", .help = "A person or program, for the books."},
    {"scope", SETTING_EITHER, KEY(admin), .choices = scope_words, .def = "inference",
     .help = "`inference`: the endpoint for applications. `admin`: the admin API as well."},
    {"scopes", SETTING_WORDS, KEY(scopes), .count_offset = offsetof(struct config_key, n_scopes),
     .def_text = "what `scope` says",
     .help = "Instead of `scope`, exactly these: `inference`, `usage` (one's own usage), `admin`."},
    {"models", SETTING_WORDS, KEY(models), .count_offset = offsetof(struct config_key, n_models), .def_text = "all",
     .help = "Models it may use; a `*` at the end takes any rest."},
    {"networks", SETTING_WORDS, KEY(networks), .count_offset = offsetof(struct config_key, n_networks),
     .def_text = "all", .help = "Addresses it may be used from, as in 10.0.0.0/8 or 2001:db8::/32."},
    {"expires", SETTING_TEXT, KEY(expires), .def_text = "never",
     .help = "UTC time from which it is refused, as in 2027-01-01 or 2027-01-01T12:00:00Z."},
    {"rate_class", SETTING_TEXT, KEY(rate_class), .check = check_name, .def_text = "limits.key",
     .help = "Class of `limits.classes` that holds for this key."},
    {"local_only", SETTING_BOOL, KEY(local_only), .def = "false",
     .help = "Requests with this key never leave the premises."},
};

SETTING_ROOM(key_rows, config_key);

const struct settings config_key_table = {"keys", "The API keys of applications and operators; only hashes are kept.",
                                          SETTING_ROWS(key_rows),
                                          SETTING_ITEMS(config_key, keys, n_keys, CONFIG_KEYS_MAX)};

static const struct setting issuer_rows[] = {
    {"name", SETTING_TEXT, SETTING_REQUIRED, ISSUER(name), .check = check_name,
     .help = "What the issuer is called in ledger and logs; unique."},
    {"issuer", SETTING_TEXT, SETTING_REQUIRED, ISSUER(issuer),
     .help = "Equal to `iss` of its tokens, character by character; a URL, https but for tests."},
    {"discovery_url", SETTING_TEXT, ISSUER(discovery_url), .def_text = "ISSUER/.well-known/openid-configuration",
     .help = "Document that says where the keys are."},
    {"jwks_url", SETTING_TEXT, ISSUER(jwks_url), .def_text = "from the discovery document",
     .help = "The issuer's keys, without a discovery document."},
    {"ca_file", SETTING_PATH, ISSUER(ca_file), .def_text = "the system's",
     .help = "Certificates (PEM) to trust when keys are fetched."},
    {"audiences", SETTING_WORDS, SETTING_REQUIRED, ISSUER(audiences),
     .count_offset = offsetof(struct config_issuer, n_audiences), .help = "One of these must be in `aud` of a token."},
    {"algs", SETTING_WORDS, ISSUER(algs), .count_offset = offsetof(struct config_issuer, n_algs),
     .def_text = "all of them",
     .help = "Signatures that are taken: RS256 to RS512, PS256 to PS512, ES256 to ES512, EdDSA."},
    {"skew", SETTING_DURATION, ISSUER(skew_ms), .lo = 0, .hi = 600000, .def = "1m",
     .help = "What the issuer's clock and ours may differ; whole seconds."},
    {"tenant", SETTING_TEXT, ISSUER(tenant), .check = check_name,
     .help = "Who pays for everybody's tokens. Either this or tenant_claim."},
    {"tenant_claim", SETTING_TEXT, ISSUER(tenant_claim),
     .help = "Claim that names who pays; a path as in realm_access.tenant, like the other claims."},
    {"team_claim", SETTING_TEXT, ISSUER(team_claim), .def_text = "none", .help = "Claim that names the team."},
    {"project_claim", SETTING_TEXT, ISSUER(project_claim), .def_text = "none", .help = "Claim that names the project."},
    {"user_claim", SETTING_TEXT, ISSUER(user_claim), .def = "sub", .help = "Claim that names the user."},
    {"models_claim", SETTING_TEXT, ISSUER(models_claim), .def_text = "all models",
     .help = "Claim that lists the models a token may use; it must be there then."},
    {"scope_claim", SETTING_TEXT, ISSUER(scope_claim), .def = "scope",
     .help = "Claim that lists scopes: a string of words, or a list."},
    {"scope_prefix", SETTING_TEXT, ISSUER(scope_prefix),
     .def = "spillway:", .help = "Words of it that mean us begin so: spillway:admin gives the scope admin."},
    {"default_scopes", SETTING_WORDS, ISSUER(default_scopes),
     .count_offset = offsetof(struct config_issuer, n_default_scopes), .def_text = "inference",
     .help = "Scopes of a token that has no word of that prefix."},
    {"rate_class", SETTING_TEXT, ISSUER(rate_class), .check = check_name, .def_text = "limits.key",
     .help = "Class of `limits.classes` that holds for each of its users."},
    {"local_only", SETTING_BOOL, ISSUER(local_only), .def = "false",
     .help = "Requests with its tokens never leave the premises."},
    {"refresh", SETTING_DURATION, ISSUER(refresh_ms), .lo = 1000, .hi = 86400000, .def = "10m",
     .help = "Keys older than this are fetched again."},
    {"stale", SETTING_DURATION, ISSUER(stale_ms), .lo = 1000, .hi = 604800000, .def = "24h",
     .help = "Keys that cannot be fetched again are believed for so long."},
};

SETTING_ROOM(issuer_rows, config_issuer);

const struct settings config_issuer_table = {
    "auth.issuers", "OpenID Connect issuers whose signed tokens (JWT) are taken as credentials.",
    SETTING_ROWS(issuer_rows), SETTING_ITEMS(config_issuer, issuers, n_issuers, OIDC_ISSUERS_MAX)};

#define RATE(key, field, what, text)                                                                                   \
    {                                                                                                                  \
        key, SETTING_INT, CLASS(field), .lo = 0, .hi = 2000000000, .unit = (what), .def = "0", .help = (text)          \
    }

static const struct setting class_rows[] = {
    {"name", SETTING_TEXT, SETTING_REQUIRED, CLASS(name), .check = check_name,
     .help = "What rate_class, limits.key, limits.team and limits.model call it; unique."},
    RATE("requests_per_min", requests_per_min, "requests", "Requests per minute; 0: no such limit."),
    RATE("tokens_per_min", tokens_per_min, "tokens",
         "Tokens per minute, input and output; estimated at first, exact at the end; 0: no such limit."),
    RATE("requests_burst", requests_burst, "requests", "Requests at once after a pause; 0: what a minute allows."),
    RATE("tokens_burst", tokens_burst, "tokens", "Tokens at once after a pause; 0: what a minute allows."),
    RATE("concurrent", concurrent, "requests", "Requests at the same time; 0: no such limit."),
};

SETTING_ROOM(class_rows, config_class);

const struct settings config_class_table = {"limits.classes",
                                            "Rate limits under a name. A request must fit the limits of its key, its "
                                            "team, and its tenant's use of the model; else it is answered with 429.",
                                            SETTING_ROWS(class_rows),
                                            SETTING_ITEMS(config_class, classes, n_classes, CONFIG_CLASSES_MAX)};

static const struct setting budget_rows[] = {
    {"name", SETTING_TEXT, SETTING_REQUIRED, BUDGET(name), .check = check_name,
     .help = "What refusals, metrics and `spillway budgets` call it; unique."},
    {"match", SETTING_WORDS, BUDGET(match), .count_offset = offsetof(struct config_budget, n_match),
     .def_text = "every request",
     .help =
         "Whose requests count, all of: organisation=, team=, project=, user=, key=, model=, provider= (or a node's "
         "name), or a label of the header `x-spillway-tags`. With `*` as its value, as in user=*, each has a budget "
         "of its own."},
    {"period", SETTING_CHOICE, BUDGET(period), .choices = period_words, .def = "month",
     .help = "After so long it begins anew."},
    {"start", SETTING_TEXT, BUDGET(start), .def_text = "midnight; Monday; the first of the month",
     .help =
         "A local date, or time, at which some period begins: 2026-04-15T06:00 with `month` means every 15th at six."},
    {"time_zone", SETTING_TEXT, BUDGET(time_zone), .def = "UTC", .help = "Whose clock that is, as in Europe/Berlin."},
    {"hard", SETTING_TEXT, BUDGET(hard), .def_text = "none",
     .help = "Dollars that can be spent in a period, and not one more."},
    {"soft", SETTING_TEXT, BUDGET(soft), .def_text = "none",
     .help = "Dollars, or a share of `hard` as in 80%, from which soft_actions hold."},
    {"soft_actions", SETTING_WORDS, BUDGET(soft_actions),
     .count_offset = offsetof(struct config_budget, n_soft_actions), .def_text = "notify",
     .help = "From the soft limit on: notify, prefer_local, local_only, \"downgrade: MODEL\", queue (as batch)."},
    {"hard_actions", SETTING_WORDS, BUDGET(hard_actions),
     .count_offset = offsetof(struct config_budget, n_hard_actions), .def_text = "notify, deny",
     .help =
         "For what does not fit any more: the same, or deny. local_only: nodes on the premises still answer, and what "
         "they charge no longer counts; queue: it waits for room in the budget."},
    {"carry_over", SETTING_TEXT, BUDGET(carry_over), .def_text = "nothing",
     .help =
         "What is unused at a period's end, up to so many dollars or such a share of `hard`, is added to the next."},
};

SETTING_ROOM(budget_rows, config_budget);

const struct settings config_budget_table = {"budgets",
                                             "Who may spend how much, in which period, and what happens at the limits. "
                                             "A request takes from every budget that covers it, or from none.",
                                             SETTING_ROWS(budget_rows),
                                             SETTING_ITEMS(config_budget, budgets, n_budgets, CONFIG_BUDGETS_MAX)};

static const struct setting report_team_rows[] = {
    {"team", SETTING_TEXT, SETTING_REQUIRED, .offset = offsetof(struct config_report_team, team),
     .help = "The team; unique."},
    {"to", SETTING_WORDS, SETTING_REQUIRED, .offset = offsetof(struct config_report_team, to),
     .count_offset = offsetof(struct config_report_team, n_to),
     .help = "Addresses that get its share, and nothing of the others."},
};

SETTING_ROOM(report_team_rows, config_report_team);

const struct settings config_report_team_table = {
    "reports.teams", "Teams that get a report of their own by mail, made in the same night.",
    SETTING_ROWS(report_team_rows),
    SETTING_ITEMS(config_report_team, reports.teams, reports.n_teams, CONFIG_REPORT_TEAMS_MAX)};
