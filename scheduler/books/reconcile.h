/* Do the books close, and do they agree with what a provider asks for? For `spillway report --reconcile`.
 *
 * Every node and hour: allocations + idle + boot + waste + variance = the bill (closing_verify(), over the ledger
 * and its archives). And a provider's invoice, a CSV in the columns of FOCUS 1.2 to 1.4, against the bills of the
 * same nodes and hours: by provider, and by resource where the invoice names ours. Its amounts are EffectiveCost
 * where there is that column, else BilledCost; exact decimals, in USD. Rows whose period is not whole hours are
 * spread over no hours: they count in the period's sum alone. */
#ifndef SCHEDULER_BOOKS_RECONCILE_H
#define SCHEDULER_BOOKS_RECONCILE_H

#include "base/alloc.h"
#include "base/money.h"

#define RECONCILE_PPM 5000 /* what an invoice may differ from the bills by */

struct reconcile_line {              /* a provider, or a resource of his */
    const char *provider, *resource; /* resource NULL: all of the provider's */
    struct pusd_sum bill, invoice;
    bool on_invoice;
    bool agrees; /* within RECONCILE_PPM */
};
struct reconciled {
    struct pusd_sum bill, allocated, idle, boot, waste, variance, charge;
    int64_t hours, node_hours, rows;
    unsigned problems; /* bits of enum close_problem; CLOSE_BILL: the invoice says otherwise */
};
/* invoice NULL: none. Lines are told in order; their texts live for the call. RC_INVALID: the invoice, with its
 * line. */
enum rc reconcile(const char *ledger, const char *invoice, int64_t from_s, int64_t until_s, struct reconciled *out,
                  void (*each)(const struct reconcile_line *l, void *arg), void *arg, struct strbuf *text,
                  struct error *e) SPW_MUST_USE;

#endif
