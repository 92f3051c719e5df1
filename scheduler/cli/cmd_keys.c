/* `spillway keys`: commands to the running scheduler, whose store keeps the keys; and, without one, keys and hashes for
 * the configuration. */
#include "scheduler/cli/cli_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json_write.h"
#include "base/text.h"
#include "scheduler/auth/key_text.h"
#include "scheduler/auth/keystore.h"
#include "scheduler/config/config_internal.h"

struct request { /* as given */
    const char *action, *id, *tenant, *team, *project, *user, *rate_class, *scopes, *models, *networks, *expires,
        *grace;
    const char *name; /* operand: of revoke and rotate */
    bool admin, local_only, json, offline;
    struct cli_target target;
};

/* ---- for the configuration --------------------------------------------------------------------------------------- */

/* A name that the schema would refuse later is refused now. */
static bool check_name(const char *flag, const char *row, const char *value, struct error *e)
{
    const struct settings *t = config_tables[CONFIG_TABLE_KEYS];
    char why[256];

    if (!value || t->rows[config_row(t, row)].check(&value, why, sizeof why))
        return true;
    error_set(e, RC_INVALID, "%s: %s", flag, why);
    return false;
}

static void print_yaml(const struct request *r, const char *id, const char *hash)
{
    printf("keys:\n  - id: %s\n    sha256: %s\n    tenant: %s\n", id, hash, r->tenant);
    if (r->team)
        printf("    team: %s\n", r->team);
    if (r->admin)
        printf("    scope: admin\n");
    if (r->local_only)
        printf("    local_only: true\n");
}

static void print_json(const struct request *r, const char *key, const char *id, const char *hash)
{
    struct strbuf out;

    strbuf_init(&out, 4096);
    struct json_writer w = json_write_begin(&out);
    json_open(&w, NULL, '{');
    json_string(&w, "key", key);
    json_string(&w, "id", id);
    json_string(&w, "sha256", hash);
    json_string(&w, "tenant", r->tenant);
    json_string(&w, "team", r->team);
    json_string(&w, "scope", r->admin ? "admin" : "inference");
    json_bool(&w, "local_only", r->local_only);
    json_close(&w, '}');
    SPW_ASSERT(json_write_end(&w) == RC_OK);
    puts(out.data);
    strbuf_fini(&out);
}

static int create_offline(const struct request *r)
{
    char key[KEY_TEXT_BYTES], hash[KEY_HASH_BYTES], id[160];
    struct error e;

    if (r->project || r->user || r->rate_class || r->scopes || r->models || r->networks || r->expires) {
        error_set(&e, RC_INVALID,
                  "with --offline, write everything but tenant, team, id, admin and local-only into the "
                  "configuration yourself");
        return cli_fail("keys", &e);
    }
    if (!check_name("--tenant", "tenant", r->tenant, &e) || !check_name("--team", "team", r->team, &e) ||
        !check_name("--id", "id", r->id, &e) || key_generate(key, &e) != RC_OK ||
        key_hash(key, strlen(key), hash, &e) != RC_OK)
        return cli_fail("keys", &e);
    if (r->id)
        snprintf(id, sizeof id, "%s", r->id);
    else /* unique enough to tell keys apart, and says whose it is; at most 64 characters */
        snprintf(id, sizeof id, "%.26s%s%.26s-%.6s", r->tenant, r->team ? "-" : "", r->team ? r->team : "", hash);
    if (r->json) {
        print_json(r, key, id, hash);
    } else {
        printf("%s\n\n", key);
        print_yaml(r, id, hash);
        fprintf(stderr, "\nThe key in the first line is shown this once. Add the lines under it to the configuration; "
                        "it keeps only the hash.\n");
    }
    explicit_bzero(key, sizeof key);
    return ARGS_EXIT_OK;
}

static int hash_stdin(const struct request *r)
{
    char line[600], hash[KEY_HASH_BYTES];
    struct error e;

    (void)r;
    if (isatty(STDIN_FILENO))
        fprintf(stderr, "key: ");
    if (!fgets(line, sizeof line, stdin)) {
        error_set(&e, RC_INVALID, "no key on stdin; write: printf %%s KEY | spillway keys hash");
        return cli_fail("keys", &e);
    }
    line[strcspn(line, "\r\n")] = '\0';
    enum rc rc = key_hash(line, strlen(line), hash, &e);
    explicit_bzero(line, sizeof line);
    if (rc != RC_OK)
        return cli_fail("keys", &e);
    puts(hash);
    return ARGS_EXIT_OK;
}

/* ---- through the running scheduler ------------------------------------------------------------------------------ */

/* "a,b" as a JSON list; nothing when text is NULL. */
static void put_list(struct json_writer *w, const char *key, const char *text)
{
    if (!text)
        return;
    char *copy = spw_strdup(text), *rest = copy, *word;
    json_open(w, key, '[');
    while ((word = strsep(&rest, ",")))
        json_string(w, NULL, word);
    json_close(w, ']');
    free(copy);
}

static void put_string(struct json_writer *w, const char *key, const char *text)
{
    if (text)
        json_string(w, key, text);
}

static enum rc write_spec(const struct request *r, struct strbuf *body)
{
    struct json_writer w = json_write_begin(body);

    json_open(&w, NULL, '{');
    json_string(&w, "tenant", r->tenant);
    put_string(&w, "id", r->id);
    put_string(&w, "team", r->team);
    put_string(&w, "project", r->project);
    put_string(&w, "user", r->user);
    put_string(&w, "rate_class", r->rate_class);
    put_string(&w, "expires", r->expires);
    put_list(&w, "scopes", r->scopes ? r->scopes : r->admin ? "inference,usage,admin" : NULL);
    put_list(&w, "models", r->models);
    put_list(&w, "networks", r->networks);
    json_bool(&w, "local_only", r->local_only);
    json_close(&w, '}');
    return json_write_end(&w);
}

/* One command; *root is the caller's. */
static enum rc command(const struct request *r, const char *method, const char *path, const char *body, cJSON **root,
                       struct error *e)
{
    struct cli_client *c;
    enum rc rc = cli_client_open(&c, "keys", &r->target, e);

    if (rc != RC_OK)
        return rc;
    rc = strcmp(method, "GET") == 0 ? cli_client_call(c, method, path, root, e)
                                    : cli_client_post(c, path, body, root, e);
    cli_client_close(c);
    return rc;
}

/* A key that was made is shown here, and nowhere else. */
static int show_key(const struct request *r, cJSON *root)
{
    char *key = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "key"));
    const char *id = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(root, "id"));

    if (r->json) {
        cli_print_json(root);
    } else if (key && id) {
        printf("%s\n", key);
        fprintf(stderr, "\nThis is key \"%s\". It is shown this once; it works from now on.\n", id);
        if (strcmp(r->action, "rotate") == 0)
            fprintf(stderr, "The text before it %s%s.\n", r->grace ? "still works for " : "works no more",
                    r->grace ? r->grace : "");
    }
    if (key)
        explicit_bzero(key, strlen(key));
    cJSON_Delete(root);
    return ARGS_EXIT_OK;
}

static int create_key(const struct request *r)
{
    struct strbuf body;
    cJSON *root = NULL;
    struct error e;

    if (!r->tenant) {
        error_set(&e, RC_INVALID, "--tenant NAME is missing: who pays");
        return cli_fail("keys", &e);
    }
    if (r->offline)
        return create_offline(r);
    strbuf_init(&body, 65536);
    enum rc rc = write_spec(r, &body);
    if (rc != RC_OK)
        error_set(&e, RC_INVALID, "that is too long for a key's description");
    else
        rc = command(r, "POST", "/admin/v1/keys", body.data, &root, &e);
    strbuf_fini(&body);
    return rc == RC_OK ? show_key(r, root) : cli_fail("keys", &e);
}

/* "/admin/v1/keys/ID/ACTION". False: there is no usable id. */
static bool plan(const struct request *r, char *path, size_t size, struct error *e)
{
    if (!r->name) {
        error_set(e, RC_INVALID, "which key? write: spillway keys %s ID", r->action);
        return false;
    }
    if (!identity_name_ok(r->name)) { /* a key's text, given by mistake, is not repeated */
        error_set(e, RC_INVALID, "that is not the id of a key; `spillway keys list` shows them");
        return false;
    }
    snprintf(path, size, "/admin/v1/keys/%s/%s", r->name, r->action);
    return true;
}

static int revoke_key(const struct request *r)
{
    char path[160];
    struct error e;

    if (!plan(r, path, sizeof path, &e) || command(r, "POST", path, "", NULL, &e) != RC_OK)
        return cli_fail("keys", &e);
    printf("key %s is revoked\n", r->name);
    return ARGS_EXIT_OK;
}

static int rotate_key(const struct request *r)
{
    char path[160], body[64];
    int64_t grace_ms = 0;
    cJSON *root = NULL;
    struct error e;

    if (r->grace && (text_parse_duration_ms(r->grace, &grace_ms) != RC_OK || grace_ms % 1000)) {
        error_set(&e, RC_INVALID, "--grace: \"%.40s\" is not a duration in whole seconds, as in 30m or 24h", r->grace);
        return cli_fail("keys", &e);
    }
    snprintf(body, sizeof body, "{\"grace_s\":%lld}", (long long)(grace_ms / 1000));
    if (!plan(r, path, sizeof path, &e) || command(r, "POST", path, body, &root, &e) != RC_OK)
        return cli_fail("keys", &e);
    return show_key(r, root);
}

/* ["a","b"] as "a,b"; "all" when it is empty. */
static const char *words_of(const cJSON *key, const char *member, char *buf, size_t size)
{
    const cJSON *item;
    buf[0] = '\0';
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(key, member))
    {
        size_t used = strlen(buf);
        if (cJSON_IsString(item))
            snprintf(buf + used, size - used, "%s%s", used ? "," : "", item->valuestring);
    }
    return buf[0] ? buf : "all";
}

static const char *state_of(const cJSON *key)
{
    char buf[64];
    if (cJSON_IsString(cJSON_GetObjectItemCaseSensitive(key, "revoked")))
        return "revoked";
    const char *expires = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(key, "expires"));
    /* Both in the same form, so that the texts compare as the times do. */
    return expires && strcmp(expires, wall_format(clock_wall(&clock_system), buf, sizeof buf)) <= 0 ? "expired"
                                                                                                    : "valid";
}

static int list_keys(const struct request *r)
{
    static const struct cli_column columns[] = {{"ID", CLI_LEFT},    {"SOURCE", CLI_LEFT}, {"TENANT", CLI_LEFT},
                                                {"TEAM", CLI_LEFT},  {"SCOPES", CLI_LEFT}, {"MODELS", CLI_LEFT},
                                                {"STATE", CLI_LEFT}, {"EXPIRES", CLI_LEFT}};
    char path[160], buf[256];
    cJSON *root = NULL;
    const cJSON *key;
    struct cli_table t;
    struct error e;

    if (r->tenant && !identity_name_ok(r->tenant)) {
        error_set(&e, RC_INVALID, "--tenant: that is not a tenant's name");
        return cli_fail("keys", &e);
    }
    snprintf(path, sizeof path, r->tenant ? "/admin/v1/keys?tenant=%s" : "/admin/v1/keys", r->tenant);
    if (command(r, "GET", path, "", &root, &e) != RC_OK)
        return cli_fail("keys", &e);
    if (r->json) {
        cli_print_json(root);
        cJSON_Delete(root);
        return ARGS_EXIT_OK;
    }
    cli_table_init(&t, columns, 8);
    cJSON_ArrayForEach(key, cJSON_GetObjectItemCaseSensitive(root, "keys"))
    {
        cli_table_add(&t, cli_json_text(key, "id", buf, sizeof buf));
        cli_table_add(&t, cli_json_text(key, "source", buf, sizeof buf));
        cli_table_add(&t, cli_json_text(key, "tenant", buf, sizeof buf));
        cli_table_add(&t, cli_json_text(key, "team", buf, sizeof buf));
        cli_table_add(&t, words_of(key, "scopes", buf, sizeof buf));
        cli_table_add(&t, words_of(key, "models", buf, sizeof buf));
        cli_table_add(&t, state_of(key));
        cli_table_add(&t, cli_json_text(key, "expires", buf, sizeof buf));
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
    cJSON_Delete(root);
    return ARGS_EXIT_OK;
}

/* ---- the verb --------------------------------------------------------------------------------------------------- */

static int run(const struct request *r)
{
    static const struct {
        const char *action;
        int (*run)(const struct request *r);
    } actions[] = {{"create", create_key},
                   {"list", list_keys},
                   {"revoke", revoke_key},
                   {"rotate", rotate_key},
                   {"hash", hash_stdin}};
    struct error e;

    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++)
        if (strcmp(r->action, actions[i].action) == 0)
            return actions[i].run(r);
    error_set(&e, RC_INVALID, "unknown action \"%.40s\"; create, list, revoke, rotate or hash is right", r->action);
    return cli_fail("keys", &e);
}

#define TEXT(flag, field, what, text)                                                                                  \
    {                                                                                                                  \
        flag, 0, ARG_STRING, &r.field, .meta = (what), .help = (text)                                                  \
    }

int cli_keys(int argc, char **argv)
{
    struct request r = {.target.config = CLI_CONFIG_DEFAULT};
    int exit_code;
    const struct arg_option options[] = {
        {"tenant", 't', ARG_STRING, &r.tenant, .meta = "NAME", .help = "create: who pays; list: only this one's"},
        TEXT("team", team, "NAME", "create: part of the tenant"),
        TEXT("project", project, "NAME", "create: part of the team"),
        TEXT("user", user, "NAME", "create: a person or program, for the books"),
        TEXT("id", id, "NAME", "create: what the key is called; default: made up"),
        TEXT("scopes", scopes, "A,B", "create: of inference, usage, admin; default: inference"),
        TEXT("models", models, "A,B", "create: models it may use, '*' at the end takes any rest; default: all"),
        TEXT("networks", networks, "A,B", "create: where it may be used from, as in 10.0.0.0/8; default: anywhere"),
        TEXT("expires", expires, "TIME", "create: UTC, as in 2027-01-01 or 2027-01-01T12:00:00Z; default: never"),
        TEXT("rate-class", rate_class, "NAME", "create: class of limits.classes"),
        TEXT("grace", grace, "TIME", "rotate: for so long the old text still works, as in 24h; default: not any more"),
        {"admin", 0, ARG_FLAG, &r.admin, .help = "create: all scopes, for admin.listen"},
        {"local-only", 0, ARG_FLAG, &r.local_only, .help = "create: its requests never leave the premises"},
        {"offline", 0, ARG_FLAG, &r.offline,
         .help = "create: a key for the configuration, without a scheduler; prints the lines to add"},
        {"json", 0, ARG_FLAG, &r.json, .help = "as JSON"},
        CLI_OPTIONS_TARGET(r.target),
    };
    const struct arg_operand operands[] = {
        {"ACTION", &r.action, "create (a new key, shown once), list, revoke, rotate, or hash (of a key on stdin)",
         true},
        {"ID", &r.name, "revoke, rotate: the key's id", false}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "keys",
                                  .summary = "make, list, revoke, rotate and hash API keys",
                                  .example = "spillway keys create --tenant acme --team search --models 'deepseek-*'\n"
                                             "spillway keys rotate acme-search --grace 24h\n"
                                             "printf %s \"$KEY\" | spillway keys hash",
                                  .options = options,
                                  .n_options = (int)(sizeof options / sizeof options[0]),
                                  .operands = operands,
                                  .n_operands = 2};

    return args_run(&spec, argc, argv, &exit_code) ? run(&r) : exit_code;
}
