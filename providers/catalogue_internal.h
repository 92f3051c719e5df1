/* What the readers of price lists share: a row is columns by number, wherever they stand. */
#ifndef PROVIDERS_CATALOGUE_INTERNAL_H
#define PROVIDERS_CATALOGUE_INTERNAL_H

#include "base/lines.h"
#include "base/yaml.h"
#include "providers/catalogue.h"

enum price_column {
    COL_CLOUD,
    COL_TYPE,
    COL_ACCELERATOR,
    COL_COUNT,
    COL_REGION,
    COL_ZONE,
    COL_ON_DEMAND,
    COL_SPOT,
    COL_FLAGS,
    COL_CURRENCY,
    COL_FROM,
    COL_UNTIL,
    COL_PROVIDER,
    COL_MODEL,
    COL_INPUT,
    COL_CACHED,
    COL_OUTPUT,
    PRICE_COLUMNS,
};
extern const char *const price_column_names[PRICE_COLUMNS]; /* alternatives with a '|' between them */

#define PRICE_TABLE_BYTES_MAX ((size_t)256 << 20)
#define PRICE_ROWS_MAX        1000000

struct price_reading {
    struct price_table *table;
    const char *path;
    int line;
    const char *fields[PRICE_COLUMNS]; /* of the row at hand; NULL: no such column */
    const char *heads[PRICE_COLUMNS];  /* how the file calls it */
    int cap, apis_cap;
    price_problem_cb *problem; /* NULL: the first one ends it */
    void *arg;
};
/* "path:line: message"; returns code. */
enum rc price_error(const struct price_reading *r, struct error *e, const char *format, ...) SPW_PRINTF(3, 4);
/* A row could not be read: RC_OK where that is told and we go on. */
enum rc price_row_lost(struct price_reading *r, struct error *e);
enum rc price_read_instance(struct price_reading *r, struct error *e);
enum rc price_read_api(struct price_reading *r, struct error *e);
/* Takes over *a but for its flags' counts; strings are in the arena. */
enum rc price_add_api(struct price_reading *r, const struct price_api *a, struct error *e);
const char *price_keep(struct price_reading *r, const char *text); /* NULL: the table is full */
/* Decimal text, also with an exponent, in units of 10^-places; blanks and a $ around it are fine. *v -1: "" and words
 * for none. Digits below the unit are rounded. */
enum rc price_decimal(struct price_reading *r, const char *key, const char *text, int places, int64_t most, int64_t *v,
                      struct error *e);
enum rc price_check_currency(struct price_reading *r, const char *text, struct error *e);
enum rc price_read_document(struct price_reading *r, const struct yaml_node *root, struct error *e);

#endif
