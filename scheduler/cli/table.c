/* Text output: aligned columns, and JSON members as text. */
#include "scheduler/cli/cli_internal.h"

#include <stdlib.h>
#include <string.h>

void cli_table_init(struct cli_table *t, const struct cli_column *columns, int n_columns)
{
    SPW_ASSERT(n_columns <= CLI_COLUMNS_MAX);
    *t = (struct cli_table){.columns = columns, .n_columns = n_columns};
}

void cli_table_add(struct cli_table *t, const char *text)
{
    if (t->n_cells == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 64;
        t->cells = spw_realloc(t->cells, sizeof *t->cells * (size_t)t->cap);
    }
    char *cell = spw_strdup(text && text[0] ? text : "-");
    for (char *p = cell; *p; p++) /* a name from outside may not steer the terminal */
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = '?';
    t->cells[t->n_cells++] = cell;
}

static void print_cell(const struct cli_column *c, const char *text, int width, bool last, FILE *out)
{
    if (c->align == CLI_RIGHT)
        fprintf(out, "%*s", width, text);
    else if (last)
        fputs(text, out);
    else
        fprintf(out, "%-*s", width, text);
    fputs(last ? "\n" : "  ", out);
}

void cli_table_print(const struct cli_table *t, FILE *out)
{
    int width[CLI_COLUMNS_MAX] = {0};

    for (int c = 0; c < t->n_columns; c++) {
        width[c] = (int)strlen(t->columns[c].title);
        for (int i = c; i < t->n_cells; i += t->n_columns)
            if ((int)strlen(t->cells[i]) > width[c])
                width[c] = (int)strlen(t->cells[i]);
    }
    for (int c = 0; c < t->n_columns; c++)
        print_cell(&t->columns[c], t->columns[c].title, width[c], c == t->n_columns - 1, out);
    for (int i = 0; i < t->n_cells; i++) {
        int c = i % t->n_columns;
        print_cell(&t->columns[c], t->cells[i], width[c], c == t->n_columns - 1, out);
    }
}

void cli_table_fini(struct cli_table *t)
{
    for (int i = 0; i < t->n_cells; i++)
        free(t->cells[i]);
    free(t->cells);
}

const char *cli_json_text(const cJSON *object, const char *key, char *buf, size_t size)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(object, key);

    if (cJSON_IsString(v))
        return v->valuestring;
    if (cJSON_IsBool(v))
        return cJSON_IsTrue(v) ? "yes" : "no";
    if (!cJSON_IsNumber(v))
        return NULL;
    snprintf(buf, size, "%.0f", v->valuedouble);
    return buf;
}

void cli_print_json(const cJSON *root)
{
    char *text = cJSON_Print(root);

    if (text)
        puts(text);
    cJSON_free(text);
}

void cli_print_objects(const cJSON *array, const struct cli_column *columns, const char *const *keys, int n_columns)
{
    struct cli_table t;
    const cJSON *object;
    char buf[256];

    cli_table_init(&t, columns, n_columns);
    cJSON_ArrayForEach(object, array)
    {
        for (int i = 0; i < n_columns; i++)
            cli_table_add(&t, cli_json_text(object, keys[i], buf, sizeof buf));
    }
    cli_table_print(&t, stdout);
    cli_table_fini(&t);
}
