/* Ledger and audit are written at the same time by two threads, so a crash may leave a row without its record, or a
 * record without its row; in either case of a request that was not answered whole. At the start, before there is new
 * work, each such row gets a record that says "recovered":"ledger" (what its bodies were is not known any more), and
 * each such record one of kind "void" behind it. Only what is about as young as the newest record of a request, or the
 * newest row, is looked at: what is older was reconciled before, or is not a crash's doing. */
#ifndef SCHEDULER_AUDIT_RECONCILE_H
#define SCHEDULER_AUDIT_RECONCILE_H

#include "scheduler/audit/audit.h"

struct audit_reconciled {
    int recovered, voided;
};
/* dir: of the audit. The ledger is at rest. RC_OK also where there is no ledger file yet, or no chain before this
 * start. Blocks; at start. */
enum rc audit_reconcile(struct audit *a, const char *dir, const char *ledger_path, struct audit_reconciled *r,
                        struct error *e) SPW_MUST_USE;

/* For an auditor: each row of the ledger that has no record in the chain, and each record (not declared void) that has
 * no row. Rows that were finished before the chain began are nobody's business. Reads all of both. Blocks; command
 * line. */
enum audit_lack { AUDIT_ROW_WITHOUT_RECORD, AUDIT_RECORD_WITHOUT_ROW };
struct audit_compared {
    int rows, records, lacking;
};
enum rc audit_compare(const char *dir, const char *ledger_path, struct audit_compared *c,
                      void (*each)(enum audit_lack lack, const char *request_id, void *arg), void *arg,
                      struct error *e) SPW_MUST_USE;

#endif
