#include "scheduler/cli/cli_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json_write.h"
#include "scheduler/books/keys.h"
#include "scheduler/config/config_internal.h"

struct request { /* as given */
    const char *action, *id, *tenant, *team, *config;
    bool admin, local_only, json;
};

/* A name that the schema would refuse later is refused now. */
static bool check_name(const char *flag, const char *row, const char *value, struct error *e)
{
    const struct settings *t = &config_tables[CONFIG_TABLE_KEYS];
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

static int create(const struct request *r)
{
    char key[KEY_TEXT_BYTES], hash[KEY_HASH_BYTES], id[160];
    struct error e;

    if (!r->tenant) {
        error_set(&e, RC_INVALID, "--tenant NAME is missing: who pays");
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

static int hash_stdin(void)
{
    char line[600], hash[KEY_HASH_BYTES];
    struct error e;

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

static int list(const struct request *r)
{
    static const struct cli_column columns[] = {
        {"ID", CLI_LEFT}, {"TENANT", CLI_LEFT}, {"TEAM", CLI_LEFT}, {"SCOPE", CLI_LEFT}, {"LOCAL ONLY", CLI_LEFT}};
    struct config *c = cli_load_config("keys", r->config);
    struct cli_table t;

    if (!c)
        return ARGS_EXIT_USAGE;
    cli_table_init(&t, columns, 5);
    for (int i = 0; i < c->n_keys; i++) {
        cli_table_add(&t, c->keys[i].id);
        cli_table_add(&t, c->keys[i].tenant);
        cli_table_add(&t, c->keys[i].team);
        cli_table_add(&t, c->keys[i].admin ? "admin" : "inference");
        cli_table_add(&t, c->keys[i].local_only ? "yes" : "no");
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
    config_free(c);
    return ARGS_EXIT_OK;
}

int cli_keys(int argc, char **argv)
{
    struct request r = {.config = CLI_CONFIG_DEFAULT};
    int exit_code;
    const struct arg_option options[] = {
        {"tenant", 't', ARG_STRING, &r.tenant, .meta = "NAME", .help = "create: who pays"},
        {"team", 0, ARG_STRING, &r.team, .meta = "NAME", .help = "create: part of the tenant"},
        {"id", 0, ARG_STRING, &r.id, .meta = "NAME", .help = "create: what the key is called; default: made up"},
        {"admin", 0, ARG_FLAG, &r.admin, .help = "create: scope admin, for admin.listen"},
        {"local-only", 0, ARG_FLAG, &r.local_only, .help = "create: its requests never leave the premises"},
        {"json", 0, ARG_FLAG, &r.json, .help = "create: as JSON"},
        CLI_OPTION_CONFIG(r.config),
    };
    const struct arg_operand operands[] = {
        {"ACTION", &r.action, "create (a new key, printed once), hash (of a key on stdin) or list", true}};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "keys",
                                  .summary = "make, hash and list API keys",
                                  .example = "spillway keys create --tenant acme --team search\n"
                                             "printf %s \"$KEY\" | spillway keys hash",
                                  .options = options,
                                  .n_options = 7,
                                  .operands = operands,
                                  .n_operands = 1};
    struct error e;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    if (strcmp(r.action, "create") == 0)
        return create(&r);
    if (strcmp(r.action, "hash") == 0)
        return hash_stdin();
    if (strcmp(r.action, "list") == 0)
        return list(&r);
    error_set(&e, RC_INVALID, "unknown action \"%.40s\"; create, hash or list is right", r.action);
    return cli_fail("keys", &e);
}
