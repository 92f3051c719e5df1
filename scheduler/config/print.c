/* The schema in other forms: the reference page, the terminal's help, and a configuration's effective values. */
#include "scheduler/config/config_internal.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "providers/provider.h"

/* --- values ------------------------------------------------------------------------------------------------- */

static enum rc format_words(const struct setting *s, const char *base, struct strbuf *out)
{
    const char **words = *(const char ***)(base + s->offset);
    int n = *(const int *)(base + s->count_offset);
    enum rc rc = strbuf_puts(out, "[");

    for (int i = 0; i < n && rc == RC_OK; i++)
        rc = strbuf_printf(out, "%s%s", i ? ", " : "", words[i]);
    return rc == RC_OK ? strbuf_puts(out, "]") : rc;
}

/* Values are never secrets: those stand in files. */
static enum rc format_pairs(const struct setting *s, const char *base, struct strbuf *out)
{
    const struct provider_pair *pairs = *(struct provider_pair *const *)(base + s->offset);
    int n = *(const int *)(base + s->count_offset);
    enum rc rc = n ? strbuf_puts(out, "{") : RC_OK;

    for (int i = 0; i < n && rc == RC_OK; i++)
        rc = strbuf_printf(out, "%s%s: \"%s\"", i ? ", " : "", pairs[i].key, pairs[i].value);
    return rc == RC_OK && n ? strbuf_puts(out, "}") : rc;
}

enum rc config_format_value(const struct setting *s, const void *from, struct strbuf *out)
{
    const char *base = from, *text = NULL;
    char buf[64];

    switch (s->type) {
    case SETTING_TEXT:
    case SETTING_PATH: text = *(const char *const *)(base + s->offset); break;
    case SETTING_WORDS: return format_words(s, base, out);
    case SETTING_PAIRS: return format_pairs(s, base, out);
    case SETTING_BOOL: text = *(const bool *)(base + s->offset) ? "true" : "false"; break;
    case SETTING_EITHER: text = s->choices[*(const bool *)(base + s->offset) ? 1 : 0]; break;
    case SETTING_CHOICE: text = s->choices[*(const int *)(base + s->offset)]; break;
    case SETTING_INT:
        snprintf(buf, sizeof buf, "%d", *(const int *)(base + s->offset));
        text = s->choices && *(const int *)(base + s->offset) == 0 ? s->choices[0] : buf;
        break;
    case SETTING_DURATION: text = text_format_duration_ms(*(const int64_t *)(base + s->offset), buf, sizeof buf); break;
    case SETTING_SIZE: text = text_format_size(*(const int64_t *)(base + s->offset), buf, sizeof buf); break;
    case SETTING_PRICE: text = price_format(*(const struct price *)(base + s->offset), buf, sizeof buf); break;
    case SETTING_RATIO: text = price_format((struct price){*(const int *)(base + s->offset)}, buf, sizeof buf); break;
    }
    if (text && (s->flags & SETTING_SECRET))
        text = "***";
    return text ? strbuf_puts(out, text) : RC_OK;
}

#define VALUE_MAX ((size_t)1 << 20)

void config_set_version(struct config *c)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t hash[SHA256_BYTES];
    struct strbuf text;

    strbuf_init(&text, (size_t)64 << 20);
    if (config_dump_json(c, &text) == RC_OK)
        sha256(text.data, text.len, hash);
    else
        memset(hash, 0, sizeof hash);
    for (int i = 0; i < 16; i++)
        c->version[i] = digits[i % 2 ? hash[i / 2] & 15 : hash[i / 2] >> 4];
    c->version[16] = '\0';
    strbuf_fini(&text);
}

/* --- effective values, as text and as JSON ------------------------------------------------------------------ */

static void dump_table(const struct settings *t, const void *base, const char *indent, FILE *out)
{
    const int *lines = (const int *)((const char *)base + t->lines_offset);
    struct strbuf value;

    strbuf_init(&value, VALUE_MAX);
    for (int i = 0; i < t->n_rows; i++) {
        strbuf_clear(&value);
        if (config_format_value(&t->rows[i], base, &value) != RC_OK || value.len == 0)
            continue;
        fprintf(out, "%s%s: %s  # ", i ? indent : "", t->rows[i].key, value.data);
        if (lines[i])
            fprintf(out, "line %d\n", lines[i]);
        else
            fprintf(out, "default\n");
    }
    strbuf_fini(&value);
}

void config_dump(const struct config *c, FILE *out)
{
    fprintf(out, "# %s, with defaults filled in\n", c->path);
    for (int k = 0; k < CONFIG_N_TABLES; k++) {
        const struct settings *t = config_tables[k];
        if (!t->name) {
            dump_table(t, c, "", out);
            continue;
        }
        const char *items = *(char *const *)((const char *)c + t->items_offset);
        int n = *(const int *)((const char *)c + t->count_offset);
        fprintf(out, "%s:%s\n", t->name, n ? "" : " []");
        for (int i = 0; i < n; i++) {
            fprintf(out, "  - ");
            dump_table(t, items + t->item_size * (size_t)i, "    ", out);
        }
    }
}

static enum rc dump_row_json(const struct setting *s, const void *base, int line, struct strbuf *value,
                             struct strbuf *out)
{
    strbuf_clear(value);
    enum rc rc = config_format_value(s, base, value);

    if (rc == RC_OK)
        rc = strbuf_printf(out, "\"%s\":{\"value\":", s->key);
    if (rc == RC_OK)
        rc = value->len ? json_append_string(out, value->data, value->len) : strbuf_puts(out, "null");
    if (rc == RC_OK)
        rc = line ? strbuf_printf(out, ",\"source\":\"line %d\"}", line) : strbuf_puts(out, ",\"source\":\"default\"}");
    return rc;
}

static enum rc dump_table_json(const struct settings *t, const void *base, struct strbuf *out)
{
    const int *lines = (const int *)((const char *)base + t->lines_offset);
    struct strbuf value;
    enum rc rc = RC_OK;

    strbuf_init(&value, VALUE_MAX);
    for (int i = 0; i < t->n_rows && rc == RC_OK; i++) {
        if (i)
            rc = strbuf_puts(out, ",");
        if (rc == RC_OK)
            rc = dump_row_json(&t->rows[i], base, lines[i], &value, out);
    }
    strbuf_fini(&value);
    return rc;
}

static enum rc dump_list_json(const struct config *c, const struct settings *t, struct strbuf *out)
{
    const char *items = *(char *const *)((const char *)c + t->items_offset);
    int n = *(const int *)((const char *)c + t->count_offset);
    enum rc rc = strbuf_printf(out, ",\"%s\":[", t->name);

    for (int i = 0; i < n && rc == RC_OK; i++) {
        rc = strbuf_puts(out, i ? ",{" : "{");
        if (rc == RC_OK)
            rc = dump_table_json(t, items + t->item_size * (size_t)i, out);
        if (rc == RC_OK)
            rc = strbuf_puts(out, "}");
    }
    return rc == RC_OK ? strbuf_puts(out, "]") : rc;
}

enum rc config_dump_json(const struct config *c, struct strbuf *out)
{
    enum rc rc = strbuf_puts(out, "{");

    if (rc == RC_OK)
        rc = dump_table_json(config_tables[CONFIG_TABLE_MAIN], c, out);
    for (int k = CONFIG_TABLE_MAIN + 1; k < CONFIG_N_TABLES && rc == RC_OK; k++)
        rc = dump_list_json(c, config_tables[k], out);
    return rc == RC_OK ? strbuf_puts(out, "}") : rc;
}

/* --- documents ---------------------------------------------------------------------------------------------- */

/* "duration, 50ms to 10m" */
static void describe_type(const struct setting *s, char *buf, size_t size)
{
    static const char *const names[] = {
        [SETTING_TEXT] = "text",
        [SETTING_PATH] = "path",
        [SETTING_WORDS] = "list of names",
        [SETTING_BOOL] = "true, false",
        [SETTING_EITHER] = "",
        [SETTING_CHOICE] = "",
        [SETTING_INT] = "",
        [SETTING_DURATION] = "duration",
        [SETTING_SIZE] = "size",
        [SETTING_PRICE] = "dollars per million tokens",
        [SETTING_RATIO] = "share, 0 to 1",
        [SETTING_PAIRS] = "section",
    };
    char lo[32], hi[32];

    snprintf(buf, size, "%s", names[s->type]);
    for (int i = 0; s->choices && s->choices[i]; i++) {
        size_t used = strlen(buf);
        snprintf(buf + used, size - used, "%s%s", i ? ", " : "", s->choices[i]);
    }
    if (s->type == SETTING_DURATION)
        snprintf(buf, size, "duration, %s to %s", text_format_duration_ms(s->lo, lo, sizeof lo),
                 text_format_duration_ms(s->hi, hi, sizeof hi));
    else if (s->type == SETTING_SIZE)
        snprintf(buf, size, "size, %s to %s", text_format_size(s->lo, lo, sizeof lo),
                 text_format_size(s->hi, hi, sizeof hi));
    else if (s->type == SETTING_INT)
        snprintf(buf, size, "%s%s%s, %" PRId64 " to %" PRId64, s->choices ? s->choices[0] : "",
                 s->choices ? " or " : "", s->unit, s->lo, s->hi);
}

static const char *describe_default(const struct setting *s)
{
    if (s->flags & SETTING_REQUIRED)
        return "required";
    return s->def ? s->def : s->def_text ? s->def_text : "none";
}

static const char *const key_types[] = {
    [KEY_TEXT] = "text",          [KEY_URL] = "URL",         [KEY_FILE] = "path",
    [KEY_SECRET_FILE] = "path",   [KEY_INT] = "number",      [KEY_PORT] = "port",
    [KEY_DURATION] = "duration",  [KEY_DOLLARS] = "dollars", [KEY_BOOL] = "true, false",
    [KEY_LIST] = "list of words",
};

static const char *key_default(const struct provider_key *k)
{
    return k->required ? "required" : k->fallback ? k->fallback : "none";
}

static void help_keys(const char *what, const struct provider_key *k, FILE *out)
{
    if (k)
        fprintf(out, "\n%s:\n", what);
    for (; k && k->name; k++)
        fprintf(out, "  %-20s %s (%s; default: %s)\n", k->name, k->help, key_types[k->type], key_default(k));
}

static void markdown_keys(const char *what, const struct provider_key *k, FILE *out)
{
    if (k)
        fprintf(out, "\n%s\n\n| key | values | default | meaning |\n|---|---|---|---|\n", what);
    for (; k && k->name; k++)
        fprintf(out, "| `%s` | %s | %s%s%s | %s |\n", k->name, key_types[k->type], k->fallback ? "`" : "",
                key_default(k), k->fallback ? "`" : "", k->help);
}

/* From each provider's own tables. */
static void each_provider(void (*keys)(const char *what, const struct provider_key *k, FILE *out), const char *mark,
                          FILE *out)
{
    char what[160];
    for (int i = 0; provider_list[i]; i++) {
        const struct provider_ops *p = provider_list[i];
        snprintf(what, sizeof what, "%s%s%s: `settings` of an entry of `providers`", mark, p->name, mark);
        keys(what, p->keys, out);
        snprintf(what, sizeof what, "%s%s%s: %s", mark, p->name, mark,
                 p->caps & PROVIDER_CAN_LAUNCH ? "`settings` of a pool" : "`machine` of a node");
        keys(what, p->node_keys, out);
    }
}

void config_print_help(FILE *out)
{
    char type[128];

    for (int k = 0; k < CONFIG_N_TABLES; k++) {
        const struct settings *t = config_tables[k];
        if (t->name)
            fprintf(out, "\n%s: a list. %s Each entry:\n", t->name, t->help);
        for (int i = 0; i < t->n_rows; i++) {
            const struct setting *s = &t->rows[i];
            describe_type(s, type, sizeof type);
            fprintf(out, "  %-20s %s (%s; default: %s)\n", s->key, s->help, type, describe_default(s));
        }
    }
    each_provider(help_keys, "", out);
}

static void print_rows_markdown(const struct settings *t, FILE *out)
{
    char type[128];

    fprintf(out, "| key | values | default | meaning |\n|---|---|---|---|\n");
    for (int i = 0; i < t->n_rows; i++) {
        const struct setting *s = &t->rows[i];
        describe_type(s, type, sizeof type);
        fprintf(out, "| `%s` | %s | %s%s%s | %s%s%s |\n", s->key, type, s->def ? "`" : "", describe_default(s),
                s->def ? "`" : "", s->help, s->flags & SETTING_SECRET ? " Masked wherever it is shown." : "",
                t->name || s->flags & SETTING_RELOAD ? "" : " Needs a restart.");
    }
}

void config_print_markdown(FILE *out)
{
    fprintf(out,
            "# Configuration\n\n"
            "<!-- Made from the schema by `spillway help config --markdown`; a test compares. Edit "
            "scheduler/config/schema_*.c. -->\n\n"
            "One YAML file, given as `spillway serve --config FILE`. `spillway check --config FILE` lists every "
            "mistake in it\nas `file:line: key: what is wrong, what would be right` and ends with 2 if there is one; "
            "`spillway check --dump`\nprints the effective values and where each comes from. "
            "`spillway.example.yaml` shows every key.\n\n"
            "A dotted key stands for nesting: `tls.cert` is `cert` in the section `tls`. Relative paths start at the "
            "folder of\nthe file. Durations: `500ms`, `2s`, `5m`, `1h`. Sizes: `4096`, `64KiB`, `32MiB`. Prices: "
            "dollars per million\ntokens with at most 6 decimals. Anchors, aliases and tags are refused.\n\n"
            "A running scheduler takes the file over on SIGHUP, `spillway reload` or `POST /admin/v1/reload`, all of "
            "it or, if\nthere is a mistake, nothing; what needs a restart says so below.\n\n"
            "## The file itself\n\n");
    for (int k = 0; k < CONFIG_N_TABLES; k++) {
        const struct settings *t = config_tables[k];
        if (t->name)
            fprintf(out, "\n## `%s`: a list\n\n%s\n\n", t->name, t->help);
        print_rows_markdown(t, out);
    }
    fprintf(out, "\n## Keys of providers\n");
    each_provider(markdown_keys, "**", out);
}
