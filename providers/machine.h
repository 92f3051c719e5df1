/* The power of one machine on the premises: by its management controller (redfish.h), by Wake-on-LAN with a command
 * that switches it off, or both. One act at a time.
 *
 *   on:    Redfish and, where that fails or there is none, magic packets (the order is `power_on`'s); done when seen on
 *   off:   Redfish, or off_command; done when seen off
 *   prove: for each way that is configured: off, seen off, on by that way, seen on, the engine answers
 *
 * What "seen" means: the controller's power state, else whether the host takes or refuses a TCP connection (three
 * silences in a row are "off"). A way back is proven by prove() alone, and the proof is bound to the settings that it
 * was made with (proof.h). Off is refused without it. Loop thread; does not block but for small local files. */
#ifndef PROVIDERS_MACHINE_H
#define PROVIDERS_MACHINE_H

#include "base/fetch.h"
#include "providers/proof.h"
#include "providers/provider.h"

extern const struct provider_key machine_keys[];

struct machine;
struct machine_env { /* borrowed, outlives the machine */
    struct event_base *loop;
    struct fetcher *fetcher;
    const struct clock *clock;
    const struct log *log;
};
/* settings: by machine_keys; NULL or without bmc and mac: the machine has no power that we know how to switch, and
 * every act is PROVIDER_INVALID. host, port: of its engine. proof_path: NULL: nothing can be proven. All is copied. */
enum rc machine_new(struct machine **m, const struct machine_env *env, const char *name,
                    const struct provider_settings *settings, const char *host, int port, const char *proof_path,
                    struct error *e) SPW_MUST_USE;
void machine_free(struct machine *m); /* NULL is fine; no callback follows */
const char *machine_name(const struct machine *m);

/* RC_AGAIN: another act is under way. */
enum rc machine_power(struct machine *m, bool on, provider_done_cb *cb, void *arg, struct error *e) SPW_MUST_USE;
enum rc machine_prove(struct machine *m, provider_done_cb *cb, void *arg, struct error *e) SPW_MUST_USE;
/* Also beside another act. milliwatts: -1: not told. */
typedef void machine_state_cb(enum provider_failure failure, enum provider_power is, int64_t milliwatts,
                              const char *text, void *arg);
enum rc machine_state(struct machine *m, machine_state_cb *cb, void *arg, struct error *e) SPW_MUST_USE;

/* Reads the proof anew. False: there is none that holds; why says what is missing (may be NULL). */
bool machine_proven(struct machine *m, struct proof *p, struct error *why);

#endif
