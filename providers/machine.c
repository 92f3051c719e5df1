#include "providers/machine.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/text.h"
#include "providers/command.h"
#include "providers/probe.h"
#include "providers/redfish.h"
#include "providers/wol.h"

#define PROBE_MS     2000 /* a host in reach is quicker; shorter where we look more often than that */
#define PROBE_LOOKS  5
#define LOOK_MS_MIN  50
#define SILENCES     3     /* in a row are "off", where only connections tell */
#define VOLLEY_MS    30000 /* packets are sent again */
#define COMMAND_MS   60000
#define ANSWER_BYTES 65536
#define STATES_MAX   8

const struct provider_key machine_keys[] = {
    {"bmc", KEY_URL, false, NULL,
     "Address of the management controller (Redfish): `https://10.0.0.7`, or down to the system: "
     "`.../redfish/v1/Systems/1`."},
    {"bmc_system", KEY_TEXT, false, NULL, "Id of the system, where the controller has several."},
    {"bmc_user", KEY_TEXT, false, NULL, "User of the controller."},
    {"bmc_password_file", KEY_SECRET_FILE, false, NULL, "File with that user's password."},
    {"bmc_auth", KEY_TEXT, false, "session", "`session` (opened per act, always deleted), or `basic`."},
    {"bmc_ca", KEY_FILE, false, NULL,
     "Who signed the controller's certificate, PEM; the system's authorities without it."},
    {"bmc_pin", KEY_TEXT, false, NULL,
     "SHA-256 fingerprint of the controller's certificate, for one that signs its own: that one and no other is "
     "believed."},
    {"mac", KEY_TEXT, false, NULL, "MAC address, to be woken by Wake-on-LAN."},
    {"wol_broadcast", KEY_TEXT, false, "255.255.255.255",
     "Where magic packets go: the broadcast address of its network."},
    {"wol_port", KEY_INT, false, "9", "UDP port of magic packets."},
    {"wol_source", KEY_TEXT, false, NULL, "Our own address on that network, where we are in several."},
    {"wol_secure_file", KEY_SECRET_FILE, false, NULL, "File with the card's SecureOn password (`00:25:90:ab:cd:ef`)."},
    {"power_on", KEY_TEXT, false, NULL,
     "With both a controller and a MAC: what is tried first, `redfish` (default) or `wol`; the other one helps out."},
    {"off_command", KEY_LIST, false, NULL,
     "Switches a machine without a controller off (or suspends it): a program and its arguments, run without a shell."},
    {"off_grace", KEY_DURATION, false, "2m", "How long its system has to end by itself before power is cut."},
    {"power_poll", KEY_DURATION, false, "2s", "Pause between two looks at the power state."},
    {"power_deadline", KEY_DURATION, false, "10m", "How long switching on, booting and answering may take."},
    {"probe", KEY_TEXT, false, NULL,
     "`HOST:PORT` that tells whether the host is up, for machines without a controller; the node's own address without "
     "it."},
    {"health", KEY_URL, false, NULL, "What answers once its engine runs; `/health` at the node's address without it."},
    {0}};

enum way { WAY_REDFISH, WAY_WOL };
static const char *const way_names[] = {"redfish", "wol"};

enum stage { STAGE_NONE, STAGE_OFF, STAGE_SEE_OFF, STAGE_ON, STAGE_SEE_ON, STAGE_ANSWERS };

struct look { /* a machine_state() that has not been answered */
    struct look *next;
    struct machine *machine;
    struct probe *probe;
    machine_state_cb *cb;
    void *arg;
};

struct machine {
    struct machine_env env;
    char *name, *host, *probe_host, *health, *off_command, *proof_path; /* owned */
    int port, probe_port;
    bool wakes; /* by magic packets */
    enum way first;
    struct wol_target wol;
    int64_t grace_ms, deadline_ms, look_ms;
    struct redfish *redfish; /* NULL: no controller */
    char settings[65];
    struct look *looks;
    int n_looks;

    /* the act */
    enum stage stage;
    bool proving, other_tried;
    enum way way;
    int ways_left;
    struct mono begin, until, volley_at;
    int silences;
    struct proof proof;
    provider_done_cb *cb;
    void *arg;
    struct event *timer;
    struct probe *probe;
    struct command *command;
    struct wol_volley volley;
    struct fetch *fetch;
};

static void enter(struct machine *m, enum stage stage);

/* ---- the end of an act ------------------------------------------------------------------------------------------ */

static void stop_act(struct machine *m)
{
    probe_stop(m->probe);
    command_stop(m->command);
    wol_stop(&m->volley);
    if (m->fetch)
        fetch_cancel(m->fetch);
    m->probe = NULL;
    m->command = NULL;
    m->fetch = NULL;
    event_del(m->timer);
    m->stage = STAGE_NONE;
}

static void finish(struct machine *m, enum provider_failure failure, const char *format, ...) SPW_PRINTF(3, 4);
static void finish(struct machine *m, enum provider_failure failure, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    stop_act(m);
    if (failure != PROVIDER_FINE)
        log_warn(m->env.log, "provider", "power: failed", LOG_S("node", m->name), LOG_S("reason", text));
    provider_done_cb *cb = m->cb;
    m->cb = NULL;
    if (cb)
        cb(failure, text, m->arg);
}

static void later(struct machine *m, int64_t ms)
{
    const struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    event_add(m->timer, &t);
}

static bool out_of_time(const struct machine *m)
{
    return clock_now(m->env.clock).ns >= m->until.ns;
}

static int64_t took_ms(const struct machine *m)
{
    return mono_since(m->env.clock, m->begin) / NS_PER_MS;
}

static void longest(int64_t *ms, int64_t now)
{
    if (now > *ms)
        *ms = now;
}

/* ---- seeing ----------------------------------------------------------------------------------------------------- */

static void seen(struct machine *m, enum provider_power is)
{
    bool on = m->stage == STAGE_SEE_ON;
    if (is == (on ? POWER_IS_ON : POWER_IS_OFF)) {
        longest(on ? &m->proof.on_ms : &m->proof.off_ms, took_ms(m));
        log_info(m->env.log, "provider", on ? "power: on" : "power: off", LOG_S("node", m->name),
                 LOG_I("wait_ms", took_ms(m)));
        if (!m->proving)
            finish(m, PROVIDER_FINE, "%s", "");
        else
            enter(m, on ? STAGE_ANSWERS : STAGE_ON);
        return;
    }
    if (out_of_time(m)) {
        finish(m, PROVIDER_UNREACHABLE, "the machine was not seen %s within %" PRId64 " s", on ? "on" : "off",
               took_ms(m) / 1000);
        return;
    }
    later(m, m->look_ms);
}

static void on_seen_by_redfish(const struct redfish_report *r, void *arg)
{
    struct machine *m = arg;
    if (m->stage != STAGE_SEE_ON && m->stage != STAGE_SEE_OFF)
        return;
    if (r->failure == PROVIDER_DENIED || r->failure == PROVIDER_INVALID)
        finish(m, r->failure, "%s", r->text);
    else
        seen(m, r->failure == PROVIDER_FINE ? r->is : POWER_IS_UNKNOWN);
}

static void on_probed(enum probe_word word, const char *why, void *arg)
{
    struct machine *m = arg;
    (void)why;
    m->probe = NULL;
    m->silences = word == PROBE_SILENT ? m->silences + 1 : 0;
    seen(m, word != PROBE_SILENT ? POWER_IS_ON : m->silences >= SILENCES ? POWER_IS_OFF : POWER_IS_UNKNOWN);
}

static void on_volley(enum rc rc, const struct error *e, void *arg)
{
    struct machine *m = arg;
    if (rc != RC_OK)
        log_warn(m->env.log, "provider", "power: no packet could be sent", LOG_S("node", m->name),
                 LOG_S("reason", e->message));
}

static void send_volley(struct machine *m)
{
    m->volley_at.ns = clock_now(m->env.clock).ns + VOLLEY_MS * NS_PER_MS;
    wol_start(&m->volley, m->env.loop, &m->wol, on_volley, m);
}

static int64_t probe_ms(const struct machine *m)
{
    return m->look_ms * PROBE_LOOKS < PROBE_MS ? m->look_ms * PROBE_LOOKS : PROBE_MS;
}

static void look(struct machine *m)
{
    struct error e;
    if (m->stage == STAGE_SEE_ON && m->way == WAY_WOL && clock_now(m->env.clock).ns >= m->volley_at.ns)
        send_volley(m);
    if (!m->redfish || (m->other_tried && m->probe_host)) /* where the controller fails, it cannot be asked either */
        m->probe = probe_start(m->env.loop, m->probe_host, m->probe_port, probe_ms(m), on_probed, m);
    else if (redfish_state(m->redfish, on_seen_by_redfish, m, &e) != RC_OK)
        later(m, m->look_ms);
}

/* ---- off and on ------------------------------------------------------------------------------------------------- */

static void on_switched(const struct redfish_report *r, void *arg)
{
    struct machine *m = arg;
    if (m->stage != STAGE_ON && m->stage != STAGE_OFF)
        return;
    if (r->failure == PROVIDER_FINE) {
        bool on = m->stage == STAGE_ON;
        m->stage = on ? STAGE_SEE_ON : STAGE_SEE_OFF;
        seen(m, r->is);
        return;
    }
    if (m->stage == STAGE_ON && m->wakes && !m->proving && !m->other_tried) { /* the other way helps out */
        log_warn(m->env.log, "provider", "power: the controller fails, trying Wake-on-LAN", LOG_S("node", m->name),
                 LOG_S("reason", r->text));
        m->other_tried = true;
        m->way = WAY_WOL;
        enter(m, STAGE_ON);
        return;
    }
    finish(m, r->failure, "%s", r->text);
}

static void on_command(bool good, const char *text, void *arg)
{
    struct machine *m = arg;
    m->command = NULL;
    /* `ssh host poweroff` may well end with an error because the host went: what is seen decides. */
    if (!good)
        log_info(m->env.log, "provider", "power: off_command did not end well", LOG_S("node", m->name),
                 LOG_S("reason", text));
    m->silences = 0;
    m->stage = STAGE_SEE_OFF;
    look(m);
}

static void switch_off(struct machine *m)
{
    struct error e;
    enum rc rc;
    if (m->redfish)
        rc = redfish_power_off(m->redfish, m->grace_ms, on_switched, m, &e);
    else if (m->off_command)
        rc = command_start(&m->command, m->env.loop, m->off_command, COMMAND_MS, on_command, m, &e);
    else
        rc = error_set(&e, RC_INVALID, "nothing switches it off: there is neither bmc nor off_command");
    if (rc != RC_OK)
        finish(m, PROVIDER_INVALID, "%s", e.message);
}

static void switch_on(struct machine *m)
{
    struct error e;
    if (m->way == WAY_REDFISH) {
        if (redfish_power_on(m->redfish, on_switched, m, &e) != RC_OK)
            finish(m, PROVIDER_INVALID, "%s", e.message);
        return;
    }
    send_volley(m);
    m->stage = STAGE_SEE_ON;
    later(m, m->look_ms);
}

/* ---- proving ---------------------------------------------------------------------------------------------------- */

static void on_proven(struct machine *m)
{
    struct error e;
    m->proof.at_s = clock_wall(m->env.clock).ns / NS_PER_S;
    memcpy(m->proof.settings, m->settings, sizeof(m->settings));
    if (proof_write(m->proof_path, m->name, &m->proof, &e) != RC_OK) {
        finish(m, PROVIDER_INVALID, "it came back, but that cannot be kept: %s", e.message);
        return;
    }
    log_info(m->env.log, "provider", "power: proven to come back", LOG_S("node", m->name),
             LOG_I("wait_ms", m->proof.answer_ms));
    finish(m, PROVIDER_FINE, "%s", "");
}

static void on_way_proven(struct machine *m)
{
    longest(&m->proof.answer_ms, took_ms(m));
    size_t used = strlen(m->proof.ways);
    snprintf(m->proof.ways + used, sizeof(m->proof.ways) - used, "%s%s", used ? "," : "", way_names[m->way]);
    if (--m->ways_left > 0) {
        m->way = m->way == WAY_REDFISH ? WAY_WOL : WAY_REDFISH;
        enter(m, STAGE_OFF);
        return;
    }
    on_proven(m);
}

static void on_watts(const struct redfish_report *r, void *arg)
{
    struct machine *m = arg;
    if (m->stage != STAGE_ANSWERS)
        return;
    m->proof.milliwatts_on = r->failure == PROVIDER_FINE ? r->milliwatts : -1;
    on_way_proven(m);
}

static void on_health(const struct fetch_answer *a, const struct error *e, void *arg)
{
    struct machine *m = arg;
    struct error ignored;
    m->fetch = NULL;
    if (a && a->status >= 200 && a->status < 300) {
        if (!m->redfish || redfish_watts(m->redfish, on_watts, m, &ignored) != RC_OK)
            on_way_proven(m);
        return;
    }
    if (!out_of_time(m)) {
        later(m, m->look_ms);
        return;
    }
    char why[100];
    snprintf(why, sizeof(why), "%.80s", e ? e->message : "");
    if (a)
        snprintf(why, sizeof(why), "it answers %d", a->status);
    finish(m, PROVIDER_UNREACHABLE,
           "the machine came back, but its engine does not answer at %.120s within %" PRId64
           " s (%s): is it started at boot?",
           m->health, took_ms(m) / 1000, why);
}

static void ask_health(struct machine *m)
{
    struct error e;
    struct fetch_request q = {.url = m->health, .deadline_ms = PROBE_MS, .answer_bytes_max = ANSWER_BYTES};
    if (fetch_start(m->env.fetcher, &q, on_health, m, &m->fetch, &e) != RC_OK)
        finish(m, PROVIDER_INVALID, "%s: %s", m->health, e.message);
}

/* ---- the act's course ------------------------------------------------------------------------------------------- */

static void enter(struct machine *m, enum stage stage)
{
    if (stage != STAGE_ANSWERS) { /* an engine answers within the time that switching on has */
        m->begin = clock_now(m->env.clock);
        m->until.ns = m->begin.ns + m->deadline_ms * NS_PER_MS + (stage == STAGE_OFF ? m->grace_ms * NS_PER_MS : 0);
    }
    m->stage = stage;
    m->silences = 0;
    later(m, 0);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct machine *m = arg;
    (void)fd;
    (void)what;
    switch (m->stage) {
    case STAGE_NONE: return;
    case STAGE_OFF: switch_off(m); return;
    case STAGE_ON: switch_on(m); return;
    case STAGE_SEE_OFF:
    case STAGE_SEE_ON: look(m); return;
    case STAGE_ANSWERS: ask_health(m); return;
    }
}

static enum rc begin(struct machine *m, enum stage stage, provider_done_cb *cb, void *arg, struct error *e)
{
    if (!m->redfish && !m->wakes)
        return error_set(e, RC_INVALID, "node '%s' has neither bmc nor mac in its `machine` section", m->name);
    if (m->stage != STAGE_NONE)
        return error_set(e, RC_AGAIN, "node '%s' is being switched already", m->name);
    m->cb = cb;
    m->arg = arg;
    m->way = m->first;
    m->other_tried = m->proving = false;
    enter(m, stage);
    return RC_OK;
}

enum rc machine_power(struct machine *m, bool on, provider_done_cb *cb, void *arg, struct error *e)
{
    struct proof p;
    if (!on && !machine_proven(m, &p, e)) {
        e->code = RC_DENIED;
        return RC_DENIED;
    }
    return begin(m, on ? STAGE_ON : STAGE_OFF, cb, arg, e);
}

enum rc machine_prove(struct machine *m, provider_done_cb *cb, void *arg, struct error *e)
{
    if (!m->proof_path)
        return error_set(e, RC_INVALID, "there is no state_dir to keep the proof in");
    if (!m->health)
        return error_set(e, RC_INVALID, "node '%s' has no address; nobody could tell that it is back", m->name);
    if (!m->redfish && !m->off_command)
        return error_set(e, RC_INVALID, "node '%s': nothing switches it off: set bmc or off_command", m->name);
    enum rc rc = begin(m, STAGE_OFF, cb, arg, e);
    if (rc != RC_OK)
        return rc;
    m->proving = true;
    m->ways_left = m->redfish && m->wakes ? 2 : 1;
    m->proof = (struct proof){.milliwatts_off = -1, .milliwatts_on = -1};
    return RC_OK;
}

bool machine_proven(struct machine *m, struct proof *p, struct error *why)
{
    struct error e;
    enum rc rc = m->proof_path ? proof_read(m->proof_path, p, &e) : RC_NOT_FOUND;
    if (rc == RC_OK && strcmp(p->settings, m->settings) == 0)
        return true;
    if (rc == RC_OK)
        error_set(why, RC_DENIED,
                  "node '%s': its power settings have changed since its way back was proven; run: spillway nodes "
                  "enrol %s",
                  m->name, m->name);
    else if (rc == RC_NOT_FOUND)
        error_set(why, RC_DENIED, "node '%s': its way back was never proven; run: spillway nodes enrol %s", m->name,
                  m->name);
    else
        error_set(why, RC_DENIED, "node '%s': %s", m->name, e.message);
    return false;
}

/* ---- the state, asked from outside ------------------------------------------------------------------------------ */

static void answer_look(struct look *l, enum provider_failure failure, enum provider_power is, int64_t milliwatts,
                        const char *text)
{
    struct machine *m = l->machine;
    struct look **link = &m->looks;
    while (*link != l)
        link = &(*link)->next;
    *link = l->next;
    m->n_looks--;
    machine_state_cb *cb = l->cb;
    void *arg = l->arg;
    free(l);
    cb(failure, is, milliwatts, text, arg);
}

static void on_look_redfish(const struct redfish_report *r, void *arg)
{
    answer_look(arg, r->failure, r->is, r->milliwatts, r->text);
}

static void on_look_probe(enum probe_word word, const char *why, void *arg)
{
    struct look *l = arg;
    l->probe = NULL;
    answer_look(l, PROVIDER_FINE, word == PROBE_SILENT ? POWER_IS_OFF : POWER_IS_ON, -1,
                word == PROBE_SILENT ? why : "");
}

enum rc machine_state(struct machine *m, machine_state_cb *cb, void *arg, struct error *e)
{
    enum rc rc = RC_OK;
    if (m->n_looks >= STATES_MAX)
        return error_set(e, RC_FULL, "node '%s': %d questions for its power state wait", m->name, m->n_looks);
    if (!m->redfish && !m->probe_host)
        return error_set(e, RC_INVALID, "node '%s': nothing tells its power state: set bmc or probe", m->name);
    struct look *l = spw_calloc(1, sizeof(*l));
    *l = (struct look){.next = m->looks, .machine = m, .cb = cb, .arg = arg};
    if (m->redfish)
        rc = redfish_watts(m->redfish, on_look_redfish, l, e);
    else
        l->probe = probe_start(m->env.loop, m->probe_host, m->probe_port, probe_ms(m), on_look_probe, l);
    if (rc != RC_OK) {
        free(l);
        return rc;
    }
    m->looks = l;
    m->n_looks++;
    return RC_OK;
}

/* ---- making one ------------------------------------------------------------------------------------------------- */

static char *copy(const char *s)
{
    return s && s[0] ? spw_strdup(s) : NULL;
}

static enum rc take_redfish(struct machine *m, const struct provider_settings *s, struct error *e)
{
    const char *auth = provider_setting(s, "bmc_auth"), *pin_text = provider_setting(s, "bmc_pin");
    unsigned char pin[32];
    if (strcmp(auth, "session") != 0 && strcmp(auth, "basic") != 0)
        return error_set(e, RC_INVALID, "bmc_auth: '%s' must be session or basic", auth);
    if (pin_text && fetch_pin_parse(pin_text, pin, e) != RC_OK)
        return error_prefix(e, "bmc_pin");
    const struct redfish_options o = {.url = provider_setting(s, "bmc"),
                                      .system = provider_setting(s, "bmc_system"),
                                      .user = provider_setting(s, "bmc_user"),
                                      .password_file = provider_setting(s, "bmc_password_file"),
                                      .basic = strcmp(auth, "basic") == 0,
                                      .ca_file = provider_setting(s, "bmc_ca"),
                                      .pin_sha256 = pin_text ? pin : NULL,
                                      .poll_ms = m->look_ms,
                                      .deadline_ms = m->deadline_ms + m->grace_ms};
    enum rc rc = redfish_new(&m->redfish, m->env.loop, m->env.fetcher, m->env.clock, m->env.log, &o, e);
    return rc == RC_OK ? rc : error_prefix(e, "bmc");
}

static enum rc take_wol(struct machine *m, const struct provider_settings *s, struct error *e)
{
    const char *secure = provider_setting(s, "wol_secure_file"), *source = provider_setting(s, "wol_source");
    int64_t port = provider_setting_int(s, "wol_port");
    char *text = NULL;
    enum rc rc = wol_parse_mac(provider_setting(s, "mac"), m->wol.mac, e);
    if (rc != RC_OK)
        return error_prefix(e, "mac");
    if (port < 1 || port > 65535)
        return error_set(e, RC_INVALID, "wol_port: must be from 1 to 65535");
    m->wol.port = (int)port;
    snprintf(m->wol.broadcast, sizeof(m->wol.broadcast), "%s", provider_setting(s, "wol_broadcast"));
    snprintf(m->wol.source, sizeof(m->wol.source), "%s", source ? source : "");
    if (secure)
        rc = file_read_secret(&text, secure, e);
    if (text)
        rc = wol_parse_secure(text, m->wol.secure, &m->wol.n_secure, e);
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
    m->wakes = rc == RC_OK;
    return rc == RC_OK ? rc : error_prefix(e, "wol_secure_file");
}

static enum rc take_probe(struct machine *m, const char *probe, struct error *e)
{
    const char *colon = probe ? strrchr(probe, ':') : NULL;
    int64_t port = 0;
    if (!probe) {
        m->probe_host = copy(m->host);
        m->probe_port = m->port;
        return RC_OK;
    }
    if (!colon || colon == probe || text_parse_int(colon + 1, 1, 65535, &port) != RC_OK)
        return error_set(e, RC_INVALID, "probe: \"%.100s\" must be HOST:PORT", probe);
    bool bracketed = probe[0] == '[' && colon[-1] == ']';
    m->probe_host = spw_strndup(probe + bracketed, (size_t)(colon - probe) - 2 * (size_t)bracketed);
    m->probe_port = (int)port;
    return RC_OK;
}

/* What says how its power is reached, in the table's order: other words, another proof. Secrets are not in it, since
 * only their files' names are settings. */
static void fingerprint(struct machine *m, const struct provider_settings *s)
{
    static const char *const all[] = {"bmc",        "bmc_system",      "mac",        "wol_broadcast", "wol_port",
                                      "wol_source", "wol_secure_file", "off_command"};
    uint8_t digest[SHA256_BYTES];
    struct strbuf b;
    strbuf_init(&b, (size_t)1 << 20);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        const char *v = provider_setting(s, all[i]);
        (void)strbuf_printf(&b, "%s=%s\n", all[i], v ? v : "");
    }
    sha256(b.data ? b.data : "", b.len, digest);
    text_hex(m->settings, digest, sizeof digest);
    strbuf_fini(&b);
}

static enum rc take_settings(struct machine *m, const struct provider_settings *s, struct error *e)
{
    const char *on = provider_setting(s, "power_on"), *health = provider_setting(s, "health");
    enum rc rc = RC_OK;
    m->grace_ms = provider_setting_int(s, "off_grace");
    m->deadline_ms = provider_setting_int(s, "power_deadline");
    m->look_ms = provider_setting_int(s, "power_poll");
    m->look_ms = m->look_ms < LOOK_MS_MIN ? LOOK_MS_MIN : m->look_ms;
    m->off_command = copy(provider_setting(s, "off_command"));
    if (health)
        m->health = spw_strdup(health);
    if (on && strcmp(on, "redfish") != 0 && strcmp(on, "wol") != 0)
        return error_set(e, RC_INVALID, "power_on: '%s' must be redfish or wol", on);
    if (provider_setting(s, "bmc"))
        rc = take_redfish(m, s, e);
    if (rc == RC_OK && provider_setting(s, "mac"))
        rc = take_wol(m, s, e);
    if (rc == RC_OK)
        rc = take_probe(m, provider_setting(s, "probe"), e);
    if (rc != RC_OK)
        return rc;
    m->first = m->redfish && !(on && strcmp(on, "wol") == 0) ? WAY_REDFISH : WAY_WOL;
    if (m->first == WAY_WOL && m->redfish && !m->wakes)
        return error_set(e, RC_INVALID, "power_on: wol needs mac");
    fingerprint(m, s);
    return RC_OK;
}

enum rc machine_new(struct machine **out, const struct machine_env *env, const char *name,
                    const struct provider_settings *settings, const char *host, int port, const char *proof_path,
                    struct error *e)
{
    struct machine *m = spw_calloc(1, sizeof(*m));
    *m = (struct machine){.env = *env,
                          .name = spw_strdup(name),
                          .host = copy(host),
                          .port = port,
                          .proof_path = copy(proof_path),
                          .look_ms = LOOK_MS_MIN,
                          .timer = evtimer_new(env->loop, on_timer, m)};
    SPW_ASSERT(m->timer);
    enum rc rc = settings ? take_settings(m, settings, e) : RC_OK;
    if (rc != RC_OK) {
        machine_free(m);
        return rc;
    }
    if (!m->health && m->host)
        m->health = spw_asprintf(strchr(m->host, ':') ? "http://[%s]:%d/health" : "http://%s:%d/health", m->host, port);
    *out = m;
    return RC_OK;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    m->cb = NULL;
    stop_act(m);
    redfish_free(m->redfish);
    while (m->looks) {
        struct look *l = m->looks;
        m->looks = l->next;
        probe_stop(l->probe);
        free(l);
    }
    event_free(m->timer);
    free(m->name);
    free(m->host);
    free(m->probe_host);
    free(m->health);
    free(m->off_command);
    free(m->proof_path);
    free(m);
}

const char *machine_name(const struct machine *m)
{
    return m->name;
}
