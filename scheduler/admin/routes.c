/* Every route of the admin API, one row each; dispatch and the reference page come from here. */
#include "scheduler/admin/admin_internal.h"

#include <string.h>

#define V1 "/admin/v1"

const struct admin_route admin_routes[] = {
    {"GET", V1 "/status", admin_get_status, "What this scheduler is doing: readiness, totals since its start, ledger.",
     NULL,
     "200 `{\"version\":\"0.1.0\",\"started\":\"2026-11-24T06:47:05.123Z\",\"uptime_s\":12,\"port\":8080,"
     "\"draining\":false,\"ready\":true,\"reason\":\"\",\"nodes\":2,\"nodes_ready\":2,\"requests\":{...},"
     "\"tokens\":{...},\"charge_usd\":\"0.0123\",\"ledger\":{...}}`"},
    {"GET", V1 "/nodes", admin_get_nodes, "The nodes with state, load, prices and counters.", NULL,
     "200 `{\"nodes\":[{\"name\":\"gpu1\",\"provider\":\"static\",\"address\":\"http://10.0.0.5:8000\","
     "\"models\":[\"m\"],\"state\":\"ready\",\"draining\":false,...}]}`"},
    {"GET", V1 "/nodes/{name}", admin_get_node, "One node.", NULL, "200 an entry of the list above; 404 `not_found`"},
    {"POST", V1 "/nodes/{name}/drain", admin_drain_node,
     "The node finishes what it has and gets nothing new. May be repeated.", NULL, "200 the node; 404 `not_found`"},
    {"POST", V1 "/nodes/{name}/undrain", admin_undrain_node, "The node gets requests again. May be repeated.", NULL,
     "200 the node; 404 `not_found`"},
    {"POST", V1 "/nodes/{name}/terminate", admin_terminate_node,
     "A node of a pool is ended at once; what runs there goes on elsewhere.", NULL,
     "202 `{\"name\":\"burst-1\",\"ordered\":\"terminate\"}`; 400 `invalid_request`: it is of no pool; 404 "
     "`not_found`"},
    {"POST", V1 "/nodes/{name}/sleep", admin_sleep_node,
     "An engine of ours finishes what it has, then sleeps, and stays so until it is woken.", NULL,
     "202 `{\"name\":\"cpu1\",\"ordered\":\"sleep\"}`; 400, 404, 409 `conflict`: it is not ready"},
    {"POST", V1 "/nodes/{name}/wake", admin_wake_node,
     "The node is woken, or switched on; from then on the plan decides again.", NULL,
     "202 `{\"name\":\"cpu1\",\"ordered\":\"wake\"}`; 404"},
    {"GET", V1 "/capacity", admin_get_capacity,
     "What pools have launched and cost, how often what failed, and the last plan of each model (tokens per second). "
     "What "
     "comes and goes itself stands at /nodes, with `life`, `pool`, `instance` and `price_hour_usd`.",
     "`from`: the bill since then, as in 2027-01-01T12:00:00Z; default: the beginning",
     "200 `{\"nodes\":2,\"hour_usd\":\"0.80\",\"launches\":5,\"launched\":5,\"failures\":{...},\"refused\":{...},"
     "\"ended\":3,\"strays_ended\":0,\"deadlines\":0,\"orphans\":0,\"journal_failing\":false,"
     "\"bill\":{\"paid_usd\":\"1.23\",\"instances\":5,\"seconds\":11070},\"plans\":[{\"model\":\"m\",\"need\":520.1,"
     "\"need_now\":490.0,\"ready\":600.0,\"coming\":0.0,\"uncovered\":0.0,\"not_worth\":0.0,\"miss_usd_per_mtok\":0.0,"
     "\"hour_usd\":\"0.80\",\"limited_by\":null}]}"
     "`"},
    {"POST", V1 "/pools/{name}/launch", admin_launch,
     "Launches nodes of a pool, within capacity.max_nodes, max_hour and launches_per_min. They stay until they are "
     "drained: "
     "plans count on them, and leave them alone.",
     "`n`: how many, 1 to 64; default 1",
     "202 `{\"name\":\"burst\",\"ordered\":\"launch\"}`; 404 `not_found`; 409 `limit_reached`"},
    {"POST", V1 "/pools/{name}/adopt", admin_adopt,
     "An instance that is there already becomes a node of the pool: one found by a sweep, or launched by hand.",
     "`instance`: the provider's id of it",
     "202 `{\"name\":\"burst\",\"ordered\":\"adopt\"}`; 400, 404, 409 `conflict`: it is a node already"},
    {"GET", V1 "/providers", admin_get_providers, "The providers in use, and what they can do.", NULL,
     "200 `{\"providers\":[{\"name\":\"aws\",\"type\":\"ec2\",\"launches\":true,\"outlives_us\":true,\"power\":false,"
     "\"swept\":true,\"last_error\":null}]}`"},
    {"POST", V1 "/providers/{name}/check", admin_check_provider,
     "Credentials, rights, quota and a dry run, as far as the provider can tell; nothing is changed.", NULL,
     "200 `{\"provider\":\"aws\",\"checks\":[{\"what\":\"credentials\",\"ok\":true,\"text\":\"...\"}],\"ok\":true}`; "
     "404 "
     "`not_found`"},
    {"GET", V1 "/joined", admin_get_joined,
     "The engines that have joined since the start, with what their last heartbeat said. `watts_are` says where the "
     "watts "
     "come from: measured, estimated or unknown.",
     NULL,
     "200 `{\"url\":\"https://scheduler.example:8443\",\"joined\":[{\"name\":\"gpu1\",\"state\":\"here\","
     "\"address\":\"https://10.0.0.5:8081\",\"heard_ms\":800,\"until\":\"2026-11-25T06:47:05.000Z\",\"sleep\":"
     "\"awake\",\"running\":2,\"queue\":0,\"kv_free_tokens\":4096,\"tokens_per_s\":31.5,\"watts\":212.4,"
     "\"watts_are\":\"measured\",...}]}`; 404 `not_found` without join.listen"},
    {"POST", V1 "/nodes/{name}/token", admin_token_node,
     "A token with which one engine joins as this node, once. The only place where its text is shown.",
     "`ttl_s`: how long it may wait to be used; default join.token_life",
     "200 `{\"name\":\"gpu1\",\"url\":\"https://scheduler.example:8443\",\"token\":\"spwj1...\"}`; 404 "
     "`not_found`; 409 `conflict`"},
    {"POST", V1 "/pools/{name}/token", admin_token_pool,
     "The same for a pool: whoever comes with it becomes a node of it, with a name of its own.", "`ttl_s`: as above",
     "as above"},
    {"POST", V1 "/nodes/{name}/revoke", admin_revoke_node,
     "The certificates and tokens that this node has had so far are worth nothing any more; its engine, if it calls "
     "again, is "
     "told to end. The name need not be known.",
     NULL, "200 `{\"name\":\"gpu1\",\"ordered\":\"revoke\"}`"},
    {"GET", V1 "/ledger", admin_get_ledger, "The newest rows of the ledger, newest first.",
     "`last`: how many, 1 to 10000; default 20",
     "200 `{\"rows\":[{\"request_id\":\"...\",\"accepted\":\"2026-11-24T06:47:05.123Z\",\"tenant\":\"acme\","
     "\"model\":\"m\",\"node\":\"gpu1\",\"tokens_input\":12,\"tokens_cached_input\":0,\"tokens_output\":40,"
     "\"charge_usd\":\"0.0000172\",\"outcome\":\"ok\",...}]}`; 503 `busy` while other readers wait"},
    {"GET", V1 "/ledger/{id}/legs", admin_get_legs,
     "The legs of one request, in order: one per node that it was on. Their tokens add up to the row's; `numerics` is "
     "the "
     "class of an engine, inside of which an answer goes on as if nothing had happened.",
     NULL,
     "200 `{\"legs\":[{\"leg\":1,\"node\":\"gpu1\",\"provider\":\"static\",\"outcome\":\"cut\",\"tokens_output\":17,"
     "\"started\":\"2026-11-24T06:47:05.123Z\",\"total_ms\":412,\"numerics\":\"...\"}]}`, empty when the request is "
     "not "
     "known; 503 `busy`"},
    {"GET", V1 "/audit", admin_get_audit,
     "How the audit fares, and its newest signed head, which is worth keeping elsewhere: `spillway audit verify "
     "--head` "
     "checks the chain against it. `key` is the public key, `fingerprint` its SHA-256.",
     NULL,
     "200 `{\"records\":412,\"seals\":97,\"queued\":0,\"failures\":0,\"lost\":0,\"failing\":false,"
     "\"last_error\":\"\",\"fingerprint\":\"sha256:...\",\"head\":{\"chain\":\"...\",\"seq\":509,"
     "\"hash\":\"...\",\"time\":\"2026-11-24T06:47:05.123Z\",\"key\":\"...\",\"sig\":\"...\"}}`; 404 "
     "`audit_off`"},
    {"GET", V1 "/explain/{id}", admin_get_explanation,
     "Why a request went where it went: each decision of routing about it, the newest last, with its candidates in the "
     "order in which they dropped out, the winner first. In memory, `routing.explain_keep` decisions of all requests. "
     "`reason` is why a candidate was not chosen, `why` the same with both figures; what is not known is null; "
     "`others` "
     "counts candidates that are not listed, by reason. docs/POLICIES.md explains the rules.",
     NULL,
     "200 `{\"request_id\":\"req_...\",\"earlier\":0,\"decisions\":[{\"at\":\"2026-11-24T06:47:05.123Z\","
     "\"attempt\":\"first\",\"legs_before\":0,\"model_asked\":\"m\",\"model\":\"m\",\"objective\":\"cost\","
     "\"slo\":{\"ttft_ms\":500.0,\"tpot_ms\":null,\"probability\":0.95},\"class\":\"interactive\",...,"
     "\"outcome\":\"chosen\",\"chosen\":\"gpu1\",\"candidates\":[{\"node\":\"api-x\",\"reason\":\"dearer\","
     "\"why\":\"dearer, $0.00042 against $0.00003\",\"local\":false,\"in_flight\":2,\"slots\":8,"
     "\"tokens_cached\":0,\"ttft_ms_p50\":400.0,\"ttft_ms_p99\":504.7,\"tpot_ms_p50\":20.00,\"tpot_ms_p99\":31.90,"
     "\"wake_ms\":0,\"time_ms\":6120.4,\"p_slo\":0.9872,\"money_usd\":\"0.00042\",\"money_is\":\"list_price\","
     "\"joules\":null,\"risk\":0.0000}],\"others\":{},\"sentence\":\"gpu1 was chosen: the cheapest of those that "
     "meet the SLO; api-x lost: dearer, $0.00042 against $0.00003\"}]}`; 404 `not_found`"},
    {"GET", V1 "/keys", admin_get_keys,
     "The keys: those of the configuration, then those made here, revoked ones too. Never a key's text or hash.",
     "`tenant`: only this tenant's",
     "200 `{\"keys\":[{\"id\":\"key-1\",\"source\":\"store\",\"tail\":\"x7Qa\",\"tenant\":\"acme\",\"team\":null,"
     "\"project\":null,\"user\":null,\"scopes\":[\"inference\"],\"models\":[],\"networks\":[],\"rate_class\":null,"
     "\"local_only\":false,\"created\":\"2026-11-24T06:47:05.000Z\",\"expires\":null,\"rotated\":null,"
     "\"old_until\":null,\"revoked\":null,\"used\":null}]}`; 503 `busy`"},
    {"POST", V1 "/keys", admin_create_key,
     "Makes a key; it works at once. Body: `{\"tenant\":\"acme\"}` and, as wanted, `id`, `team`, `project`, `user`, "
     "`rate_class` (strings), `scopes`, `models`, `networks` (lists of strings), `local_only` (bool), `expires` "
     "(`2027-01-01` or `2027-01-01T12:00:00Z`).",
     NULL,
     "201 `{\"id\":\"key-1\",\"key\":\"sk-spw-...\"}`, the key this once; 400 `invalid_request`; 409 `conflict`: the "
     "id "
     "was used before"},
    {"POST", V1 "/keys/{id}/revoke", admin_revoke_key,
     "Refused from now on, for good; what runs goes on. May be repeated.", NULL,
     "200 `{\"id\":\"key-1\",\"revoked\":true}`; 404 `not_found`"},
    {"POST", V1 "/keys/{id}/rotate", admin_rotate_key,
     "A new text for the key. Body: `{\"grace_s\":86400}`, seconds for which the old text still works (at most 30 "
     "days); "
     "empty: not any more.",
     NULL,
     "200 `{\"id\":\"key-1\",\"key\":\"sk-spw-...\"}`, the key this once; 404 `not_found`; 409 `conflict`: revoked or "
     "expired"},
    {"GET", V1 "/budgets", admin_get_budgets,
     "Budgets as they stand: what is spent, reserved and left in the running period, when it ends, and when it will be "
     "used "
     "up if spending goes on as it has.",
     "`name`: one of them, as in each-user[alice]",
     "200 `{\"budgets\":[{\"name\":\"research\",\"period\":\"month\",\"start\":\"2026-11-01T00:00:00.000Z\","
     "\"reset\":\"2026-12-01T00:00:00.000Z\",\"hard_usd\":\"500.00\",\"soft_usd\":\"400.00\",\"limit_usd\":\"510.00\","
     "\"spent_usd\":\"123.45\",\"waste_usd\":\"0.00\",\"reserved_usd\":\"0.02\",\"available_usd\":\"386.53\","
     "\"carried_in_usd\":\"10.00\",\"topped_up_usd\":\"0.00\",\"level\":\"ok\",\"exhausted_forecast\":null}]}`; null: "
     "no "
     "such limit, or not in this period; 404 `not_found`; 503 `budgets_unavailable`"},
    {"GET", V1 "/budgets/changes", admin_get_budget_changes,
     "What was changed, newest first: top-ups, limits that were set, what was carried over, waste.",
     "`name`: of one budget; `last`: how many, 1 to 10000; default 20",
     "200 `{\"changes\":[{\"at\":\"2026-11-24T06:47:05.123Z\",\"name\":\"research\",\"change\":\"top_up\","
     "\"amount_usd\":\"50.00\",\"soft_usd\":null,\"request_id\":null}]}`; `set` has the hard limit as amount, null: "
     "the "
     "configured one"},
    {"POST", V1 "/budgets/set", admin_set_budget,
     "Other limits than the configured ones, from now on and across restarts. Body: `{\"name\":\"research\","
     "\"hard_usd\":\"800\",\"soft_usd\":\"700\"}`; what is left out stays, null is the configured one again.",
     NULL, "200 as the list above, with the one; 400 `invalid_request`; 404 `not_found`"},
    {"POST", V1 "/budgets/topup", admin_top_up_budget,
     "More for the running period, once. Body: `{\"name\":\"research\",\"amount_usd\":\"50\"}`.", NULL,
     "200 as the list above, with the one; 400 `invalid_request`; 404 `not_found`"},
    {"GET", V1 "/finance", admin_get_finance,
     "What finance has changed, newest first: price lists, standard rates, assets, rents, currencies, discounts, cost "
     "centres, locks of months (docs/OPERATIONS.md, The books).",
     "`kind`, `subject`: only these; `last`: how many, 1 to 10000, default 50; `at`: `now` or a UTC time: what held "
     "then "
     "instead, one change for each kind and subject",
     "200 `{\"changes\":[{\"version\":7,\"at\":\"2026-11-24T06:47:05.123Z\",\"who\":\"alice\",\"kind\":\"price\","
     "\"subject\":\"gpu1\",\"value\":{\"input\":\"0.10\",\"output\":\"0.40\"},\"from\":\"2026-12-01T00:00:00.000Z\","
     "\"reason\":null}]}`; 404 `ledger_off`; 503 `busy`"},
    {"POST", V1 "/finance", admin_change_finance,
     "A change: nothing is edited in place, a newer one holds from its date on. Body: `{\"kind\":\"price\",\"subject\":"
     "\"gpu1\",\"value\":{\"input\":\"0.10\",\"output\":\"0.40\"}}` and, as wanted, `from` (`2026-12-01` or "
     "`2026-12-01T12:00:00Z`; now), `reason`, and on the socket `who`. Kinds and their values: `price`, `rate` "
     "(`input`, "
     "`cached_input`, `output`), `asset` (`purchase`, `residual`, `bought`, `years`), `rent` (`hour`, `min_s`, "
     "`unit_s`), "
     "`utilisation`, `discount` (`percent`), `cost_centre` (`code`), `currency` (`per_usd`), `lock` and `unlock` "
     "(subject: a "
     "month as 2026-10). Prices are in force within 10 seconds.",
     NULL,
     "201 `{\"version\":8}`; 400 `invalid_request`; 404 `ledger_off`; 409 `conflict`: the month is locked, or is not; "
     "503 "
     "`busy`, `audit_unavailable`"},
    {"POST", V1 "/finance/correct", admin_correct_finance,
     "An amount that is added to a request's charge, or with a `-` taken back, in the first open month; its row stays. "
     "Body: `{\"request_id\":\"req_...\",\"amount_usd\":\"-0.25\",\"reason\":\"an outage\"}`; without a request "
     "`tenant`, "
     "`team`, `project` say whose it is.",
     NULL, "201 `{\"version\":9}`; 400 `invalid_request`; 404 `not_found`; 503 `busy`"},
    {"GET", V1 "/reports", admin_get_reports,
     "The cost reports that were made, newest first, with their files and how their delivery fares (docs/REPORTS.md, "
     "Every "
     "night).",
     "`last`: how many, 1 to 1000; default 40",
     "200 `{\"reports\":[{\"period\":\"2026-11-28\",\"team\":null,\"nightly\":true,\"made\":"
     "\"2026-11-29T06:00:01.000Z\",\"open_hours\":0,\"files\":[\"spillway-2026-11-28.html\"],\"deliveries\":[{"
     "\"by\":\"mail\",\"to\":\"finance@example.com\",\"state\":\"waiting\",\"tries\":3,\"next\":"
     "\"2026-11-29T06:00:15.000Z\",\"sent\":null,\"error\":\"the mail server: ...\"}]}]}`; `state`: waiting, sent, "
     "given_up; 404 `ledger_off`; 503 `busy`"},
    {"GET", V1 "/reports/{file}", admin_get_report, "One of these files.", NULL,
     "200 the file, as text/html, text/csv, application/json or text/markdown; 404 `not_found`"},
    {"POST", V1 "/reports", admin_post_report,
     "Makes one now, beside the nightly ones, and sends it to whom they go. Body: `{\"period\":\"yesterday\"}` (as "
     "`spillway report --period`) and, as wanted, `team`: one of reports.teams, whose share goes to its own people.",
     NULL,
     "200 `{\"period\":\"2026-11-28\"}` when its files are there and its deliveries wait; 400 `invalid_request`; 404 "
     "`not_found`; 409 `limit_reached`; 503 `busy`"},
    {"GET", V1 "/config", admin_get_config,
     "The effective configuration, secrets masked, with the source of each value.", NULL,
     "200 `{\"listen\":{\"value\":\"127.0.0.1:8080\",\"source\":\"line 3\"},...,\"nodes\":[{...}],\"keys\":[{...}]}`"},
    {"POST", V1 "/reload", admin_post_reload,
     "Takes the configuration file over as it is now: nodes, models, limits, keys, issuers, timeouts, certificates, "
     "without dropping a connection or a request. All of it or, if there is a mistake, nothing. What needs a restart "
     "is "
     "named and stays as it is.",
     NULL,
     "200 `{\"reloaded\":true,\"changes\":[{\"list\":\"nodes\",\"name\":\"gpu2\",\"change\":\"added\",\"keys\":null,"
     "\"needs_restart\":false}],\"needs_restart\":[]}`; 400 `invalid_config` with `problems`, one text per mistake; "
     "409 "
     "`reload_failed`: it cannot be taken over, the message says why; 503 `busy`"},
    {"POST", V1 "/drain", admin_post_drain,
     "The scheduler stops accepting, finishes what runs (at most `drain` of the configuration) and ends. "
     "May be repeated.",
     NULL, "202 `{\"draining\":true}`"},
    {"GET", "/metrics", admin_get_metrics, "Prometheus text of the whole process.", NULL, "200 text, version 0.0.4"},
};
const int admin_n_routes = (int)(sizeof admin_routes / sizeof admin_routes[0]);

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One path segment [p, end) into `name`, percent-decoded. Names are plain (schema), so anything longer or stranger is
 * nobody's: false. */
static bool take_name(const char *p, const char *end, char *name)
{
    size_t n = 0;

    while (p < end && n < ADMIN_NAME_MAX) {
        int c = (unsigned char)*p++;
        if (c == '%') {
            if (end - p < 2 || hex(p[0]) < 0 || hex(p[1]) < 0)
                return false;
            c = hex(p[0]) * 16 + hex(p[1]);
            p += 2;
        }
        if (c <= ' ' || c >= 127 || c == '/')
            return false;
        name[n++] = (char)c;
    }
    name[n] = '\0';
    return p == end && n > 0;
}

/* Does the path [p, end) fit the pattern? */
static bool fits(const char *pattern, const char *p, const char *end, char *name)
{
    for (; *pattern; pattern++) {
        if (*pattern != '{') {
            if (p == end || *p++ != *pattern)
                return false;
            continue;
        }
        const char *stop = memchr(p, '/', (size_t)(end - p));
        stop = stop ? stop : end;
        if (!take_name(p, stop, name))
            return false;
        p = stop;
        pattern = strchr(pattern, '}');
    }
    return p == end;
}

const struct admin_route *admin_route_find(const char *method, const char *target, char *name, char *allow,
                                           size_t allow_size)
{
    const char *end = target + strcspn(target, "?");

    allow[0] = name[0] = '\0';
    for (int i = 0; i < admin_n_routes; i++) {
        const struct admin_route *r = &admin_routes[i];
        if (!fits(r->path, target, end, name))
            continue;
        if (strcmp(r->method, method) == 0)
            return r;
        size_t used = strlen(allow);
        snprintf(allow + used, allow_size - used, "%s%s", used ? ", " : "", r->method);
    }
    return NULL;
}

void admin_print_markdown(FILE *out)
{
    fprintf(out,
            "# Admin API\n\n"
            "<!-- Made from the route table by `spillway help admin --markdown`; a test compares. Edit "
            "scheduler/admin/routes.c. -->\n\n"
            "HTTP/1.1 and JSON on the unix socket `admin.socket` (mode 0660: the file's owner and group may), and on "
            "`admin.listen`\nwhere configured, with `Authorization: Bearer KEY` and a key of scope `admin`. Never on "
            "the public port.\n\n"
            "    curl --unix-socket state/admin.sock http://localhost/admin/v1/status\n\n"
            "Errors are `{\"error\":{\"message\",\"type\",\"param\",\"code\"}}`: 401 `unauthorized` without a key, 403 "
            "`forbidden` with one of\nanother scope, 404 `not_found`, 405 `method_not_allowed` with `Allow`, 400 "
            "`invalid_request`. Money is exact decimal\ndollars in strings; times are UTC.\n");
    for (int i = 0; i < admin_n_routes; i++) {
        const struct admin_route *r = &admin_routes[i];
        fprintf(out, "\n## %s %s\n\n%s\n\n", r->method, r->path, r->help);
        if (r->query)
            fprintf(out, "Query: %s.\n\n", r->query);
        fprintf(out, "Answer: %s\n", r->answer);
    }
}
