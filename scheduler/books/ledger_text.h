/* A ledger row as JSON: the same from the admin API and from the file. Money in exact decimal dollars (strings), times
 * in UTC, durations in milliseconds. */
#ifndef SCHEDULER_BOOKS_LEDGER_TEXT_H
#define SCHEDULER_BOOKS_LEDGER_TEXT_H

#include "base/json_write.h"
#include "scheduler/books/ledger.h"

/* One object, as an entry of a list. */
void ledger_row_json(struct json_writer *w, const struct ledger_row *r);

/* The same for one leg. */
void ledger_leg_json(struct json_writer *w, const struct ledger_leg *leg);

#endif
