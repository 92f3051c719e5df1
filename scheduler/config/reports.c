/* `reports`, checked across rows: when they are due, and where they go. */
#include <stdio.h>
#include <string.h>

#include "base/url.h"
#include "policies/tariff.h"
#include "scheduler/config/config_internal.h"

#define ADDRESS_MAX 254 /* RFC 5321, with what stands around it taken off */

static void problem(struct config_loader *l, const char *key, const char *text)
{
    config_problem(l, config_main_line(l->c, key), key, "%s", text);
}

/* "06:00" as seconds, or -1. */
static int read_clock(const char *text)
{
    int hour, minute, n = 0;
    /* NOLINTNEXTLINE(cert-err34-c): two digits each, and what was converted is counted */
    if (sscanf(text, "%2d:%2d%n", &hour, &minute, &n) != 2 || n != 5 || text[n] || hour < 0 || hour > 23 ||
        minute < 0 || minute > 59)
        return -1;
    return hour * 3600 + minute * 60;
}

static void check_when(struct config_loader *l)
{
    struct config_reports *r = &l->c->reports;
    struct error e;
    r->at_s = r->at ? read_clock(r->at) : -1;
    if (r->at && r->at_s < 0)
        problem(l, "reports.at", "this is no time of day; write \"06:00\", in quotes, from 00:00 to 23:59");
    if (r->at && l->c->ledger_off)
        problem(l, "reports.at", "with ledger: off there is nothing to report");
    r->zone_name = r->time_zone ? r->time_zone : l->c->energy.time_zone;
    if (!r->time_zone)
        r->zone = l->c->tariff ? l->c->tariff->zone : NULL; /* energy.c has told what is wrong with it */
    else if (strcmp(r->time_zone, "UTC") != 0 && !(r->zone = config_zone(l, r->time_zone, &e)))
        problem(l, "reports.time_zone", e.message);
}

/* Is each of the words one of `known`? bits: which of them. n 0: those of `def`. */
static unsigned check_words(struct config_loader *l, const char *key, const char **words, int n,
                            const char *const *known, unsigned def)
{
    unsigned bits = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (known[k] && strcmp(known[k], words[i]) != 0)
            k++;
        if (known[k])
            bits |= 1u << k;
        else
            config_problem(l, config_main_line(l->c, key), key, "\"%.40s\" is none of %s, %s%s%s%s%s", words[i],
                           known[0], known[1], known[2] ? ", " : "", known[2] ? known[2] : "", known[2] ? ", " : "",
                           known[2] ? known[3] : "");
    }
    return n ? bits : def;
}

/* LOCAL@DOMAIN, of characters that mean nothing in a header or a command. */
static bool address_ok(const char *text)
{
    const char *at = strrchr(text, '@');
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] == 127 || strchr("<>()[],;:\\\"", text[i]))
            return false;
    return at && at != text && at[1] && n <= ADDRESS_MAX && strchr(text, '@') == at;
}

static void check_address(struct config_loader *l, int line, const char *key, const char *text)
{
    if (!address_ok(text))
        config_problem(l, line, key, "\"%.80s\" is no mail address; write it bare, as in finance@example.com", text);
}

/* Whoever reads a password on its way has it. */
static void check_login(struct config_loader *l)
{
    const struct config_reports *r = &l->c->reports;
    const char *host = r->mail.server && strncmp(r->mail.server, "smtp://", 7) == 0 ? r->mail.server + 7 : NULL;
    if (r->mail.user && !r->mail.password_file)
        problem(l, "reports.mail.user", "needs reports.mail.password_file beside it");
    if (r->mail.password_file && !r->mail.user)
        problem(l, "reports.mail.password_file", "needs reports.mail.user beside it");
    if (r->mail.user && host && r->mail.starttls == CONFIG_STARTTLS_OPTIONAL && !url_is_loopback(host))
        problem(l, "reports.mail.starttls",
                "the password could go over the wire in the clear; write required, or smtps:// above");
    config_check_main_file(l, "reports.mail.password_file", r->mail.password_file);
    config_check_main_file(l, "reports.mail.ca", r->mail.ca);
}

static void check_mail(struct config_loader *l)
{
    static const char *const keys[] = {"from", "to", "user", "password_file", "ca", "starttls"};
    const struct config_reports *r = &l->c->reports;
    char key[64];
    for (size_t i = 0; i < sizeof keys / sizeof keys[0] - 1 && !r->mail.server; i++) {
        snprintf(key, sizeof key, "reports.mail.%s", keys[i]);
        if (config_main_line(l->c, key))
            problem(l, key, "means nothing without reports.mail.server");
    }
    if (r->mail.server && !r->mail.from)
        problem(l, "reports.mail.server", "needs reports.mail.from beside it: the sender's address");
    if (r->mail.server && !r->mail.n_to && !r->n_teams)
        problem(l, "reports.mail.server", "needs reports.mail.to or reports.teams: who gets the mail");
    if (r->mail.from)
        check_address(l, config_main_line(l->c, "reports.mail.from"), "reports.mail.from", r->mail.from);
    for (int i = 0; i < r->mail.n_to; i++)
        check_address(l, config_main_line(l->c, "reports.mail.to"), "reports.mail.to", r->mail.to[i]);
    check_login(l);
}

static void check_teams(struct config_loader *l)
{
    const struct config_reports *r = &l->c->reports;
    char key[64];
    for (int i = 0; i < r->n_teams; i++) {
        const struct config_report_team *t = &r->teams[i];
        snprintf(key, sizeof key, "reports.teams[%d].team", i);
        if (!r->mail.server)
            config_problem(l, t->line, key, "means nothing without reports.mail.server");
        for (int k = 0; k < i && t->team; k++)
            if (r->teams[k].team && strcmp(t->team, r->teams[k].team) == 0)
                config_problem(l, t->line, key, "\"%.64s\" stands at line %d as well; put all addresses into one",
                               t->team, r->teams[k].line);
        snprintf(key, sizeof key, "reports.teams[%d].to", i);
        for (int k = 0; k < t->n_to; k++)
            check_address(l, t->line, key, t->to[k]);
        if (t->to && !t->n_to)
            config_problem(l, t->line, key, "there is no address in it");
    }
}

void config_check_reports(struct config_loader *l)
{
    static const char *const periods[] = {"day", "month", NULL};
    static const char *const formats[] = {"html", "csv", "json", "md", NULL};
    struct config_reports *r = &l->c->reports;
    check_when(l);
    const unsigned bits = check_words(l, "reports.periods", r->periods, r->n_periods, periods, 3);
    r->by_day = bits & 1;
    r->by_month = bits & 2;
    (void)check_words(l, "reports.formats", r->formats, r->n_formats, formats, 0);
    check_mail(l);
    check_teams(l);
    if (!r->webhook.url && (r->webhook.secret_file || r->webhook.ca))
        problem(l, r->webhook.secret_file ? "reports.webhook.secret_file" : "reports.webhook.ca",
                "means nothing without reports.webhook.url");
    config_check_main_file(l, "reports.webhook.secret_file", r->webhook.secret_file);
    config_check_main_file(l, "reports.webhook.ca", r->webhook.ca);
}

void config_warn_reports(const struct config *c, struct strbuf *out, int *n)
{
    const struct config_reports *r = &c->reports;
    if ((r->mail.server || r->webhook.url) && !r->at)
        config_warn(c, out, n, config_main_line(c, r->mail.server ? "reports.mail.server" : "reports.webhook.url"),
                    "reports: nothing is sent by itself without reports.at");
    if (r->webhook.url && !r->webhook.secret_file)
        config_warn(c, out, n, config_main_line(c, "reports.webhook.url"),
                    "reports.webhook: without secret_file whoever gets it cannot know that it is from here");
}
