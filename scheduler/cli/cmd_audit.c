/* `spillway audit verify | prove | key | heads`: on the chain's files; no scheduler needs to run, and one that does is
 * not disturbed. */
#include "scheduler/cli/cli_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json_write.h"
#include "base/text.h"
#include "scheduler/audit/audit.h"
#include "scheduler/audit/prove.h"
#include "scheduler/audit/reconcile.h"
#include "scheduler/audit/store.h"
#include "scheduler/audit/verify.h"

#define HEADS_BYTES_MAX ((size_t)256 << 20)
#define FINDINGS_SHOWN  100

struct where { /* as given, and then as it is */
    const char *config, *dir, *key;
    struct config *loaded;
};
#define OPTIONS_WHERE(w)                                                                                               \
    CLI_OPTION_CONFIG((w).config),                                                                                     \
        {"dir", 0, ARG_STRING, &(w).dir, .meta = "DIR", .help = "the chain's folder, instead of the configuration's"}, \
    {                                                                                                                  \
        "key", 'k', ARG_STRING, &(w).key, .meta = "FILE",                                                              \
                                          .help = "the key (PEM, private or public), instead of the configuration's"   \
    }
#define N_OPTIONS_WHERE 3

static enum rc find_chain(struct where *w, struct error *e)
{
    if (w->dir)
        return RC_OK;
    w->loaded = cli_load_config("audit", w->config);
    if (!w->loaded)
        return error_set(e, RC_INVALID, "without it the audit's folder is not known; give --dir DIR");
    w->dir = w->loaded->audit.dir;
    if (!w->key && access(w->loaded->audit.key, R_OK) == 0)
        w->key = w->loaded->audit.key;
    return RC_OK;
}

/* The signing key where it can be read, which tells more; else its public part. */
static enum rc load_keys(const struct where *w, struct audit_keys *k, struct error *e)
{
    char *own = w->key ? spw_strdup(w->key) : spw_asprintf("%s/key.pem", w->dir);
    enum rc rc = audit_keys_load(k, own, AUDIT_KEY_READ, e);

    if (rc != RC_OK)
        rc = audit_public_key(k, w->dir, w->key, e);
    free(own);
    return rc;
}

/* ---- verify ---------------------------------------------------------------------------------------------------------- */

struct heads {
    struct audit_head *v; /* owned */
    int n, cap;
};

static void heads_add(struct heads *h, const struct audit_head *head)
{
    if (h->n == h->cap) {
        h->cap = h->cap ? 2 * h->cap : 16;
        h->v = spw_realloc(h->v, (size_t)h->cap * sizeof *h->v);
    }
    h->v[h->n++] = *head;
}

/* One head a line. */
static enum rc read_heads(struct heads *h, const char *path, struct error *e)
{
    struct strbuf text;
    struct audit_head head;
    int line = 0;
    enum rc rc = file_read(&text, path, HEADS_BYTES_MAX, e);

    for (char *p = text.data, *eol; rc == RC_OK && p && *p; p = eol + (*eol != '\0')) {
        eol = p + strcspn(p, "\n");
        line++;
        if (eol == p)
            continue;
        rc = audit_head_read(&head, p, (size_t)(eol - p), e);
        if (rc == RC_OK)
            heads_add(h, &head);
        else
            error_prefix(e, "%s:%d", path, line);
    }
    strbuf_fini(&text);
    return rc == RC_OK && h->n == 0 ? error_set(e, RC_INVALID, "%s: no head in it", path) : rc;
}

/* A record's number, or a time. */
static enum rc read_bound(const char *flag, const char *text, int64_t *seq, const char **time, struct error *e)
{
    int64_t s;

    if (!text || text_parse_int(text, 1, INT64_MAX, seq) == RC_OK)
        return RC_OK;
    *time = text;
    if (text_parse_utc(text, &s) == RC_OK)
        return RC_OK;
    return error_set(e, RC_INVALID,
                     "--%s: \"%.60s\" is neither a record's number nor a time as in 2027-01-01 or 2027-01-01T12:00:00Z",
                     flag, text);
}

static void print_findings(const struct verify_result *r)
{
    for (int i = 0; i < r->n_findings && i < FINDINGS_SHOWN; i++) {
        const struct verify_finding *f = &r->findings[i];
        const char *name = strrchr(f->file, '/');
        printf("%-9s ", verify_what_name(f->what));
        if (f->line)
            printf("%s:%" PRId64 ": ", name ? name + 1 : f->file, f->line);
        printf("%s\n", f->text);
    }
    if (r->n_findings > FINDINGS_SHOWN || r->findings_more)
        printf("... and %" PRId64 " more\n", r->n_findings - FINDINGS_SHOWN + r->findings_more);
}

static void print_verdict(const struct verify_result *r, const struct audit_keys *k, int n_heads)
{
    char print[80];

    print_findings(r);
    printf("%s: %" PRId64 " records (%" PRId64 " to %" PRId64 ") in %d segment%s, %" PRId64 " seals, key %s%s\n",
           r->n_findings ? "NOT SOUND" : "sound", r->records, r->first, r->last, r->n_segments,
           r->n_segments == 1 ? "" : "s", r->seals, audit_keys_fingerprint(k, print),
           k->sign ? "" : " (public part alone: forgeries are located by their seal)");
    if (!r->n_findings && n_heads && r->head_seq)
        printf("agrees with the exported heads up to record %" PRId64 "\n", r->head_seq);
    else if (!r->n_findings && !n_heads)
        printf("without --head FILE nobody can tell whether its end was cut off\n");
}

static void print_json(const struct verify_result *r)
{
    struct strbuf text;

    strbuf_init(&text, (size_t)16 << 20);
    struct json_writer w = json_write_begin(&text);
    json_open(&w, NULL, '{');
    json_bool(&w, "sound", r->n_findings == 0);
    json_int(&w, "records", r->records);
    json_int(&w, "first", r->first);
    json_int(&w, "last", r->last);
    json_int(&w, "seals", r->seals);
    json_int(&w, "segments", r->n_segments);
    json_int(&w, "head", r->head_seq);
    json_open(&w, "findings", '[');
    for (int i = 0; i < r->n_findings; i++) {
        const struct verify_finding *f = &r->findings[i];
        json_open(&w, NULL, '{');
        json_string(&w, "what", verify_what_name(f->what));
        json_int(&w, "first", f->first);
        json_int(&w, "last", f->last);
        json_string(&w, "file", f->file);
        json_int(&w, "line", f->line);
        json_string(&w, "text", f->text);
        json_close(&w, '}');
    }
    json_close(&w, ']');
    json_int(&w, "more", r->findings_more);
    json_close(&w, '}');
    if (json_write_end(&w) == RC_OK)
        printf("%s\n", text.data);
    strbuf_fini(&text);
}

static void each_lack(enum audit_lack lack, const char *request_id, void *arg)
{
    int *left = arg;

    if ((*left)-- > 0)
        printf("ledger    %s has %s\n", request_id,
               lack == AUDIT_ROW_WITHOUT_RECORD ? "a row in the ledger and no record in the audit"
                                                : "a record in the audit and no row in the ledger");
}

/* Do the books know the same requests? */
static enum rc against_ledger(const char *dir, const char *ledger, int *exit_code, struct error *e)
{
    struct audit_compared c;
    int left = FINDINGS_SHOWN;
    enum rc rc = audit_compare(dir, ledger, &c, each_lack, &left, e);

    if (rc != RC_OK)
        return rc;
    printf("%s the ledger: %d rows, %d records, %d without the other\n", c.lacking ? "DIFFERS from" : "agrees with",
           c.rows, c.records, c.lacking);
    if (c.lacking)
        *exit_code = ARGS_EXIT_FAILED;
    return RC_OK;
}

static int verify(int argc, char **argv)
{
    struct where w = {.config = CLI_CONFIG_DEFAULT};
    const char *head = NULL, *from = NULL, *to = NULL, *ledger = NULL;
    bool json = false;
    int exit_code;
    const struct arg_option options[] = {
        {"head", 0, ARG_STRING, &head, .meta = "FILE",
         .help = "heads that were exported, one a line: the chain must agree with each, and reach the last"},
        {"from", 0, ARG_STRING, &from, .meta = "N|TIME", .help = "from the segment that holds this record, or time"},
        {"to", 0, ARG_STRING, &to, .meta = "N|TIME", .help = "to the segment that holds it"},
        {"json", 0, ARG_FLAG, &json, .help = "the findings as JSON"},
        {"ledger", 0, ARG_STRING, &ledger, .meta = "FILE",
         .help = "compare with this ledger, too: each row must have its record, and each record its row"},
        OPTIONS_WHERE(w),
    };
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "audit verify",
        .summary = "is the chain as it was written? If not: what was changed, removed, inserted, reordered or cut off "
                   "(exit status 1)",
        .example = "spillway audit verify --head /mnt/worm/spillway.heads\nspillway audit verify --from 2027-01-01",
        .options = options,
        .n_options = 5 + N_OPTIONS_WHERE};
    struct verify_options o = {0};
    struct verify_result r = {0};
    struct audit_keys k = {0};
    struct heads heads = {0};
    struct error e;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    enum rc rc = find_chain(&w, &e);
    if (rc == RC_OK)
        rc = read_bound("from", from, &o.from, &o.from_t, &e);
    if (rc == RC_OK)
        rc = read_bound("to", to, &o.to, &o.to_t, &e);
    if (rc == RC_OK && head)
        rc = read_heads(&heads, head, &e);
    if (rc == RC_OK)
        rc = load_keys(&w, &k, &e);
    o.dir = w.dir;
    o.keys = &k;
    o.heads = heads.v;
    o.n_heads = heads.n;
    if (rc == RC_OK)
        rc = verify_chain(&r, &o, &e);
    if (rc == RC_OK && json)
        print_json(&r);
    else if (rc == RC_OK)
        print_verdict(&r, &k, heads.n);
    exit_code = r.n_findings ? ARGS_EXIT_FAILED : ARGS_EXIT_OK;
    if (rc == RC_OK && ledger)
        rc = against_ledger(w.dir, ledger, &exit_code, &e);
    if (rc != RC_OK)
        exit_code = cli_fail("audit verify", &e);
    verify_fini(&r);
    audit_keys_fini(&k);
    free(heads.v);
    config_free(w.loaded);
    return exit_code;
}

/* ---- prove ----------------------------------------------------------------------------------------------------------- */

static int prove(int argc, char **argv)
{
    struct where w = {.config = CLI_CONFIG_DEFAULT};
    const char *id = NULL;
    int exit_code;
    const struct arg_option options[] = {OPTIONS_WHERE(w)};
    const struct arg_operand operands[] = {{"REQUEST_ID", &id, "x-request-id of the answer", true}};
    const struct arg_spec spec = {
        .program = "spillway",
        .verb = "audit prove",
        .summary =
            "what an auditor needs of one request: its record, the path to a signed head, the public key, and how to "
            "check them; a shell script that checks itself",
        .example = "spillway audit prove req_01M86BJ8M257CGR4M2YNXMEK7G > proof.sh && sh proof.sh",
        .options = options,
        .n_options = N_OPTIONS_WHERE,
        .operands = operands,
        .n_operands = 1};
    struct audit_keys k = {0};
    struct error e;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    enum rc rc = find_chain(&w, &e);
    if (rc == RC_OK)
        rc = load_keys(&w, &k, &e);
    if (rc == RC_OK)
        rc = audit_prove(stdout, w.dir, &k, id, &e);
    audit_keys_fini(&k);
    config_free(w.loaded);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("audit prove", &e);
}

/* ---- key, heads ------------------------------------------------------------------------------------------------------ */

static enum rc print_tenant_key(const struct audit_keys *k, const char *tenant, struct error *e)
{
    uint8_t bytes[HMAC_BYTES];
    char hex[2 * HMAC_BYTES + 1];

    if (!k->sign)
        return error_set(e, RC_DENIED, "a tenant's key comes from the signing key, which cannot be read here");
    audit_tenant_key(k, tenant, bytes);
    text_hex(hex, bytes, sizeof bytes);
    printf("%s\n", hex);
    return RC_OK;
}

static enum rc print_key(const struct audit_keys *k, bool fingerprint)
{
    struct strbuf pem;
    char print[80];

    strbuf_init(&pem, 4096);
    enum rc rc = audit_keys_public_pem(k, &pem);
    if (rc == RC_OK && fingerprint)
        printf("%s\n", audit_keys_fingerprint(k, print));
    else if (rc == RC_OK)
        fputs(pem.data, stdout);
    strbuf_fini(&pem);
    return rc;
}

static int key(int argc, char **argv)
{
    struct where w = {.config = CLI_CONFIG_DEFAULT};
    const char *tenant = NULL;
    bool fingerprint = false;
    int exit_code;
    const struct arg_option options[] = {
        {"tenant", 0, ARG_STRING, &tenant, .meta = "NAME",
         .help = "instead: the secret key (hex) of the HMACs of this tenant's bodies, for who may check them"},
        {"fingerprint", 0, ARG_FLAG, &fingerprint, .help = "its SHA-256 alone"},
        OPTIONS_WHERE(w)};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "audit key",
                                  .summary = "the public key that heads are signed with (PEM), for auditors to keep",
                                  .example = "spillway audit key > spillway-audit.pem",
                                  .options = options,
                                  .n_options = 2 + N_OPTIONS_WHERE};
    struct audit_keys k = {0};
    struct error e;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    enum rc rc = find_chain(&w, &e);
    if (rc == RC_OK)
        rc = load_keys(&w, &k, &e);
    if (rc == RC_OK)
        rc = tenant ? print_tenant_key(&k, tenant, &e) : print_key(&k, fingerprint);
    audit_keys_fini(&k);
    config_free(w.loaded);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("audit key", &e);
}

static int heads(int argc, char **argv)
{
    struct where w = {.config = CLI_CONFIG_DEFAULT};
    int exit_code;
    const struct arg_option options[] = {OPTIONS_WHERE(w)};
    const struct arg_spec spec = {.program = "spillway",
                                  .verb = "audit heads",
                                  .summary =
                                      "the newest signed head, a line of JSON: to be kept where nobody who could "
                                      "change the chain could change it too",
                                  .example = "spillway audit heads >> /mnt/worm/spillway.heads",
                                  .options = options,
                                  .n_options = N_OPTIONS_WHERE};
    struct audit_head h;
    struct strbuf line;
    struct error e;

    if (!args_run(&spec, argc, argv, &exit_code))
        return exit_code;
    strbuf_init(&line, 4096);
    enum rc rc = find_chain(&w, &e);
    if (rc == RC_OK)
        rc = audit_read_head(w.dir, w.key, &h, &e);
    if (rc == RC_OK && audit_head_write(&h, &line) == RC_OK)
        printf("%s\n", line.data);
    strbuf_fini(&line);
    config_free(w.loaded);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("audit heads", &e);
}

/* ---- which ----------------------------------------------------------------------------------------------------------- */

int cli_audit(int argc, char **argv)
{
    static const struct {
        const char *name;
        cli_verb *run;
        const char *summary;
    } verbs[] = {{"verify", verify, "is the chain as it was written?"},
                 {"prove", prove, "what an auditor needs of one request"},
                 {"key", key, "the public key, or the key of a tenant's bodies"},
                 {"heads", heads, "the newest signed head"}};
    const int n = (int)(sizeof verbs / sizeof verbs[0]);
    bool help = argc == 0 || strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0;

    for (int i = 0; i < n && !help; i++)
        if (strcmp(argv[0], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    FILE *out = argc && help ? stdout : stderr;
    if (!help)
        fprintf(out, "spillway audit: \"%.60s\" is none of its verbs\n", argv[0]);
    fprintf(out, "usage: spillway audit VERB [flags]\n\n");
    for (int i = 0; i < n; i++)
        fprintf(out, "  %-8s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(out, "\nspillway audit VERB --help has the flags of each and an example. docs/AUDIT.md is for auditors.\n");
    return argc && help ? ARGS_EXIT_OK : ARGS_EXIT_USAGE;
}
