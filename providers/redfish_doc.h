/* What Redfish documents say, as plain data. Vendors differ: each reader takes what DMTF's DSP0266 (protocol) and
 * DSP2046 (resource guide: ComputerSystem, ActionInfo, EnvironmentMetrics, Power) allow, and what controllers were seen
 * to do. Pure; input is never trusted. */
#ifndef PROVIDERS_REDFISH_DOC_H
#define PROVIDERS_REDFISH_DOC_H

#include <stdint.h>

#include "base/json.h"
#include "providers/provider.h"

#define REDFISH_PATH_MAX 512
#define REDFISH_TEXT_MAX 200

enum redfish_reset { /* bits; only what switches a machine on or off */
                     REDFISH_ON = 1,
                     REDFISH_FORCE_ON = 2,
                     REDFISH_GRACEFUL_SHUTDOWN = 4,
                     REDFISH_FORCE_OFF = 8,
                     REDFISH_PUSH_POWER_BUTTON = 16,
};
const char *redfish_reset_name(unsigned bit); /* the protocol's word */
/* The type to ask for; 0: none is left. gentle: the operating system is asked to end itself. The button is pressed only
 * where there is nothing better: what it does depends on the state, which the caller has just read. */
unsigned redfish_reset_choose(unsigned allowed, bool on, bool gentle);

/* A reference as a path of our controller. "/redfish/..", "relative/to/document" and "https://host/redfish/.." are all
 * seen; of the last one the host is left out: credentials go to the configured controller only, whatever it calls
 * itself. False: too long, or not a path. */
bool redfish_path(const char *document, const char *reference, char path[REDFISH_PATH_MAX]);

struct redfish_root {
    char sessions[REDFISH_PATH_MAX], systems[REDFISH_PATH_MAX]; /* "": not offered */
};
void redfish_read_root(const cJSON *doc, struct redfish_root *root);

/* The member to use of a collection: the one of this id, or the only one. RC_INVALID names what there is. */
enum rc redfish_read_member(const cJSON *doc, const char *collection, const char *id, char path[REDFISH_PATH_MAX],
                            struct error *e) SPW_MUST_USE;

struct redfish_system {
    enum provider_power power;      /* UNKNOWN: in between, or not told */
    char word[24];                  /* PowerState as it stands */
    char target[REDFISH_PATH_MAX];  /* of ComputerSystem.Reset; "": there is no such action */
    unsigned allowed;               /* enum redfish_reset; 0: the document does not say */
    char info[REDFISH_PATH_MAX];    /* where an ActionInfo says it; "": nowhere */
    char chassis[REDFISH_PATH_MAX]; /* "": none */
};
void redfish_read_system(const cJSON *doc, const char *document, struct redfish_system *s);
unsigned redfish_read_action_info(const cJSON *doc); /* 0: says nothing of ResetType */

struct redfish_chassis {
    char metrics[REDFISH_PATH_MAX], power[REDFISH_PATH_MAX]; /* EnvironmentMetrics, the older Power; "": none */
};
void redfish_read_chassis(const cJSON *doc, const char *document, struct redfish_chassis *c);
/* Of an EnvironmentMetrics or a Power document; -1: it does not tell. */
int64_t redfish_read_milliwatts(const cJSON *doc);

/* What an answer with an error says, for people. */
void redfish_read_error(const cJSON *doc, char text[REDFISH_TEXT_MAX]);
bool redfish_is_session_limit(const char *body);

#endif
