/* A ledger row as JSON: the same from the admin API and from the file. Money in exact decimal dollars (strings), times
 * in UTC, durations in milliseconds. */
#ifndef SCHEDULER_BOOKS_LEDGER_TEXT_H
#define SCHEDULER_BOOKS_LEDGER_TEXT_H

#include "base/json_write.h"
#include "scheduler/books/ledger.h"

/* One object, as an entry of a list. */
void ledger_row_json(struct json_writer *w, const struct ledger_row *r);

/* The same as a line of CSV (RFC 4180), without its end; columns as the head's. Amounts are exact; what is not known
 * is empty. A text that a spreadsheet program would take for a formula gets a ' in front. */
enum rc ledger_row_csv(struct strbuf *out, const struct ledger_row *r) SPW_MUST_USE;
const char *ledger_csv_head(void); /* with its line's end */

/* The same for one leg. */
void ledger_leg_json(struct json_writer *w, const struct ledger_leg *leg);

#endif
