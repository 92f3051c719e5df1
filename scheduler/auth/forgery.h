/* What forged tokens may cost. Checking a signature takes a hundred times as long as anything else that a stranger can
 * make us do, so signatures that turn out bad are paid for: by the client's address, and by all strangers together. Who
 * has nothing left is told to wait (429) before his next signature is looked at; tokens that were verified before do
 * not come here at all. A token that was found bad is remembered and costs no second look.
 *
 * One address may have FORGERY_BURST bad signatures at once and FORGERY_PER_S per second, all together ten times that.
 * Clients behind one proxy are one address here: whoever forges there delays the new tokens of the others, for no
 * longer than he goes on. Bounded; what is pushed out is forgotten, which the sum over all makes harmless. One loop. */
#ifndef SCHEDULER_AUTH_FORGERY_H
#define SCHEDULER_AUTH_FORGERY_H

#include "base/clock.h"
#include "scheduler/auth/hash_table.h"

#define FORGERY_BURST    50
#define FORGERY_PER_S    5
#define FORGERY_ALL      10   /* times that, of all addresses */
#define FORGERY_CLIENTS  4096 /* addresses that are remembered */
#define FORGERY_TOKENS   4096 /* bad tokens that are */
#define FORGERY_MEMORY_S 300

struct forgery;
enum rc forgery_new(struct forgery **f, const struct clock *clock, struct error *e) SPW_MUST_USE;
void forgery_free(struct forgery *f); /* NULL is fine */

/* Was this token's signature found bad a while ago? */
bool forgery_known(const struct forgery *f, const struct hash *token);
/* May a signature from this address (as text; "unix", or NULL: those have one in common) be checked? 0: yes; else no,
 * not for so many seconds. */
int forgery_wait_s(const struct forgery *f, const char *peer);
/* It was bad. token: NULL where it shall not be known again. */
void forgery_found(struct forgery *f, const struct hash *token, const char *peer);
/* The keys have changed: what was bad may be good now. */
void forgery_forget_tokens(struct forgery *f);

#endif
