/* Rows of the ledger, and events of its budgets, as bytes: what the journal (ahead.h) holds of them.
 *
 *   entry   'r' or 'e', fields, 0
 *   field   KEY VALUE; KEY = TAG << 2 | FORM, one byte
 *           form 1: an integer (zigzag varint, as protobuf's sint64); 2: a text, its length (varint) and its bytes,
 *           of which the last is 0; 3: a part (a leg, or a use of it): fields, 0
 *
 * A field that is zero, NULL or empty is left out, and one whose tag is not known is passed over: a newer program
 * reads what an older one has left. Tags are never given anew. */
#ifndef SCHEDULER_BOOKS_LEDGER_PACK_H
#define SCHEDULER_BOOKS_LEDGER_PACK_H

#include "base/alloc.h"
#include "scheduler/books/ledger_budgets.h"

/* One of the two to the end of `out`. RC_FULL: that is bounded. */
enum rc ledger_pack(struct strbuf *out, const struct ledger_row *row,
                    const struct ledger_budget_event *event) SPW_MUST_USE;

/* What was packed, once more; begins as {0}. Its texts are those of `data`, its legs are its own. */
struct ledger_unpacked {
    bool is_event;
    struct ledger_row row;
    struct ledger_budget_event event;
    struct ledger_leg *legs;
    int legs_cap;
};
void ledger_unpacked_fini(struct ledger_unpacked *u);
/* The entry at the beginning of data[n]. Returns its bytes, 0: it is none. */
size_t ledger_unpack(struct ledger_unpacked *u, const char *data, size_t n);

/* May the row be in a ledger at all? What the file's constraints would say of it; but for its request_id's being
 * known. */
bool ledger_row_is_possible(const struct ledger_row *row);

#endif
