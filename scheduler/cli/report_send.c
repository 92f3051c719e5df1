#include "scheduler/cli/report_send.h"

#include <string.h>

#include "base/json_write.h"

#define BODY_MAX 4096

int report_send(const struct cli_target *t, const char *period, const char *team)
{
    struct strbuf body;
    struct cli_client *c = NULL;
    cJSON *root = NULL;
    struct error e;
    char buf[64];
    strbuf_init(&body, BODY_MAX);
    struct json_writer w = json_write_begin(&body);
    json_open(&w, NULL, '{');
    json_string(&w, "period", period);
    if (team)
        json_string(&w, "team", team);
    json_close(&w, '}');
    enum rc rc = json_write_end(&w) == RC_OK ? RC_OK : error_set(&e, RC_INVALID, "--period or --team is too long");
    if (rc == RC_OK)
        rc = cli_client_open(&c, "report", t, &e);
    if (rc == RC_OK)
        rc = cli_client_post(c, "/admin/v1/reports", body.data, &root, &e);
    if (rc == RC_OK)
        printf("the report of %s is made and on its way; `spillway report --sent` shows how it fares\n",
               cli_json_text(root, "period", buf, sizeof buf));
    cJSON_Delete(root);
    cli_client_close(c);
    strbuf_fini(&body);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("report", &e);
}

static const struct cli_column columns[] = {
    {"PERIOD", CLI_LEFT}, {"TEAM", CLI_LEFT},   {"MADE", CLI_LEFT}, {"BY", CLI_LEFT},   {"TO", CLI_LEFT},
    {"STATE", CLI_LEFT},  {"TRIES", CLI_RIGHT}, {"SENT", CLI_LEFT}, {"NEXT", CLI_LEFT}, {"LAST ERROR", CLI_LEFT},
};
#define N_COLUMNS ((int)(sizeof columns / sizeof columns[0]))

static void add_report(struct cli_table *t, const cJSON *report)
{
    static const char *const of_report[] = {"period", "team", "made"};
    static const char *const of_delivery[] = {"by", "to", "state", "tries", "sent", "next", "error"};
    const cJSON *deliveries = cJSON_GetObjectItemCaseSensitive(report, "deliveries");
    char buf[64];
    /* One that goes to nobody has a line as well. */
    for (int k = 0; k == 0 || k < cJSON_GetArraySize(deliveries); k++) {
        const cJSON *d = cJSON_GetArrayItem(deliveries, k);
        for (int i = 0; i < 3; i++)
            cli_table_add(t, cli_json_text(report, of_report[i], buf, sizeof buf));
        for (int i = 0; i < N_COLUMNS - 3; i++)
            cli_table_add(t, d ? cli_json_text(d, of_delivery[i], buf, sizeof buf) : NULL);
    }
}

int report_sent(const struct cli_target *t)
{
    struct cli_client *c = NULL;
    struct cli_table table;
    const cJSON *report;
    cJSON *root = NULL;
    struct error e;
    enum rc rc = cli_client_open(&c, "report", t, &e);
    if (rc == RC_OK)
        rc = cli_client_call(c, "GET", "/admin/v1/reports", &root, &e);
    if (rc == RC_OK) {
        cli_table_init(&table, columns, N_COLUMNS);
        cJSON_ArrayForEach(report, cJSON_GetObjectItemCaseSensitive(root, "reports"))
        {
            add_report(&table, report);
        }
        cli_table_print(&table, stdout);
        cli_table_fini(&table);
    }
    cJSON_Delete(root);
    cli_client_close(c);
    return rc == RC_OK ? ARGS_EXIT_OK : cli_fail("report", &e);
}
