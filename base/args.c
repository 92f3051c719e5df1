#include "base/args.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define OPTIONS_MAX  64
#define OPERANDS_MAX 8

static const char *list_words(const char *const *words, char *buf, size_t size)
{
    size_t used = 0;

    buf[0] = '\0';
    for (int i = 0; words[i] && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, "%s%s", i ? "|" : "", words[i]);
    return buf;
}

/* What `o` is called where it came from: the flag or the variable. */
static enum rc set_string(const struct arg_option *o, const char *name, const char *text, struct error *e)
{
    char words[256];

    if (o->choices) {
        int n = 0;
        while (o->choices[n] && strcmp(o->choices[n], text) != 0)
            n++;
        if (!o->choices[n])
            return error_set(e, RC_INVALID, "%s: \"%.80s\" is not one of %s", name, text,
                             list_words(o->choices, words, sizeof words));
    }
    *(const char **)o->value = text;
    return RC_OK;
}

static enum rc set_int(const struct arg_option *o, const char *name, const char *text, struct error *e)
{
    bool any = o->lo == 0 && o->hi == 0;
    enum rc rc = text_parse_int(text, any ? INT64_MIN + 1 : o->lo, any ? INT64_MAX : o->hi, o->value);

    if (rc == RC_INVALID)
        return error_set(e, RC_INVALID, "%s: \"%.80s\" is not a whole number", name, text);
    if (rc == RC_FULL)
        return error_set(e, RC_INVALID, "%s: %.40s is out of range; %" PRId64 " to %" PRId64 " is allowed", name, text,
                         any ? INT64_MIN + 1 : o->lo, any ? INT64_MAX : o->hi);
    return rc;
}

static enum rc set_double(const struct arg_option *o, const char *name, const char *text, struct error *e)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end != '\0' || !isfinite(v))
        return error_set(e, RC_INVALID, "%s: \"%.80s\" is not a number", name, text);
    if ((o->dlo != 0 || o->dhi != 0) && (v < o->dlo || v > o->dhi))
        return error_set(e, RC_INVALID, "%s: %.40s is out of range; %g to %g is allowed", name, text, o->dlo, o->dhi);
    *(double *)o->value = v;
    return RC_OK;
}

static enum rc set_value(const struct arg_option *o, const char *name, const char *text, struct error *e)
{
    switch (o->type) {
    case ARG_FLAG: *(bool *)o->value = true; return RC_OK;
    case ARG_STRING: return set_string(o, name, text, e);
    case ARG_INT: return set_int(o, name, text, e);
    case ARG_DOUBLE: return set_double(o, name, text, e);
    }
    SPW_ASSERT(!"an option's type");
    return RC_INTERNAL;
}

static enum rc unknown_flag(const struct arg_spec *s, const char *flag, struct error *e)
{
    const char *names[OPTIONS_MAX + 1];
    const char *near = NULL;
    int n = 0;

    for (int i = 0; i < s->n_options; i++) {
        if (s->options[i].help)
            names[n++] = s->options[i].name;
    }
    names[n++] = "help";
    if (strncmp(flag, "--", 2) == 0) {
        char word[64];
        snprintf(word, sizeof word, "%.*s", (int)strcspn(flag + 2, "="), flag + 2);
        near = text_nearest(word, names, n);
    }
    if (near)
        return error_set(e, RC_INVALID, "unknown flag %.80s; did you mean --%s?", flag, near);
    return error_set(e, RC_INVALID, "unknown flag %.80s; %s %s --help lists them", flag, s->program, s->verb);
}

static int find_option(const struct arg_spec *s, const char *flag)
{
    size_t n = strcspn(flag, "=");

    for (int i = 0; i < s->n_options; i++) {
        const struct arg_option *o = &s->options[i];
        if (flag[1] == '-' && strlen(o->name) + 2 == n && strncmp(flag + 2, o->name, n - 2) == 0)
            return i;
        if (flag[1] != '-' && o->letter && flag[1] == o->letter && flag[2] == '\0')
            return i;
    }
    return -1;
}

/* argv[*i] is a flag. Takes its value as well and moves *i to the last word used. */
static enum rc take_flag(const struct arg_spec *s, int argc, char **argv, int *i, bool *seen, struct error *e)
{
    const char *flag = argv[*i], *text = NULL, *equals = strchr(flag, '=');
    char name[80];
    int k = find_option(s, flag);

    if (k < 0)
        return unknown_flag(s, flag, e);
    const struct arg_option *o = &s->options[k];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(flag, "="), flag);
    if (seen[k])
        return error_set(e, RC_INVALID, "%s was given twice; give it once", name);
    seen[k] = true;
    if (o->type == ARG_FLAG) {
        if (flag[1] == '-' && equals)
            return error_set(e, RC_INVALID, "%s takes no value; write it alone", name);
    } else if (flag[1] == '-' && equals) {
        text = equals + 1;
    } else if (*i + 1 < argc && strcmp(argv[*i + 1], "--") != 0) {
        text = argv[++*i];
    } else {
        return error_set(e, RC_INVALID, "%s needs a value: %s %s", name, name, o->meta ? o->meta : "VALUE");
    }
    if (o->given)
        *o->given = true;
    return set_value(o, name, text, e);
}

static enum rc take_operand(const struct arg_spec *s, int *n, const char *text, struct error *e)
{
    if (*n >= s->n_operands) {
        if (s->n_operands == 0)
            return error_set(e, RC_INVALID, "takes no operand, but got \"%.80s\"", text);
        return error_set(e, RC_INVALID, "\"%.80s\" is one operand too many", text);
    }
    *s->operands[(*n)++].value = text;
    return RC_OK;
}

/* What was not on the line: variables that stand in, then what is still missing. */
static enum rc fill_in(const struct arg_spec *s, bool *seen, int n_operands, struct error *e)
{
    for (int i = 0; i < s->n_options; i++) {
        const struct arg_option *o = &s->options[i];
        const char *text = !seen[i] && o->env ? getenv(o->env) : NULL;
        if (text && text[0]) {
            enum rc rc = set_value(o, o->env, text, e);
            if (rc != RC_OK)
                return rc;
            seen[i] = true;
            if (o->given)
                *o->given = true;
        }
        if (o->required && !seen[i])
            return error_set(e, RC_INVALID, "--%s %s is missing", o->name, o->meta ? o->meta : "VALUE");
    }
    if (n_operands < s->n_operands && s->operands[n_operands].required)
        return error_set(e, RC_INVALID, "%s is missing: %s", s->operands[n_operands].meta,
                         s->operands[n_operands].help);
    return RC_OK;
}

enum rc args_parse(const struct arg_spec *s, int argc, char **argv, struct error *e)
{
    bool seen[OPTIONS_MAX] = {false};
    bool flags_over = false;
    int n_operands = 0;

    SPW_ASSERT(s->n_options <= OPTIONS_MAX && s->n_operands <= OPERANDS_MAX);
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return RC_CANCELLED;
    for (int i = 0; i < argc; i++) {
        enum rc rc;
        if (!flags_over && strcmp(argv[i], "--") == 0) {
            flags_over = true;
            continue;
        }
        if (!flags_over && argv[i][0] == '-' && argv[i][1] != '\0')
            rc = take_flag(s, argc, argv, &i, seen, e);
        else
            rc = take_operand(s, &n_operands, argv[i], e);
        if (rc != RC_OK)
            return rc;
    }
    return fill_in(s, seen, n_operands, e);
}

static void print_default(const struct arg_option *o, FILE *out)
{
    const char *text;

    switch (o->type) {
    case ARG_FLAG: return;
    case ARG_STRING:
        text = *(const char **)o->value;
        if (text)
            fprintf(out, " (default %s)", text);
        return;
    case ARG_INT:
        if (!o->required)
            fprintf(out, " (default %" PRId64 ")", *(const int64_t *)o->value);
        return;
    case ARG_DOUBLE:
        if (!o->required)
            fprintf(out, " (default %g)", *(const double *)o->value);
        return;
    }
}

static void print_option(const struct arg_option *o, FILE *out)
{
    char left[96], words[256];
    const char *meta = o->meta ? o->meta : (o->type == ARG_FLAG ? "" : "VALUE");
    int n = 0;

    if (o->letter)
        n = snprintf(left, sizeof left, "-%c, ", o->letter);
    snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s", o->name, meta[0] ? " " : "", meta);
    fprintf(out, "  %-26s %s", left, o->help);
    if (o->choices)
        fprintf(out, ": %s", list_words(o->choices, words, sizeof words));
    if (o->required)
        fprintf(out, " (required)");
    print_default(o, out);
    if (o->env)
        fprintf(out, " [%s]", o->env);
    fputc('\n', out);
}

void args_print_help(const struct arg_spec *s, FILE *out)
{
    fprintf(out, "%s %s: %s\n\nusage: %s %s", s->program, s->verb, s->summary, s->program, s->verb);
    for (int i = 0; i < s->n_operands; i++)
        fprintf(out, s->operands[i].required ? " %s" : " [%s]", s->operands[i].meta);
    for (int i = 0; i < s->n_options; i++)
        if (s->options[i].required)
            fprintf(out, " --%s %s", s->options[i].name, s->options[i].meta ? s->options[i].meta : "VALUE");
    fprintf(out, "%s\n\n", s->n_options ? " [flags]" : "");
    for (int i = 0; i < s->n_operands; i++)
        fprintf(out, "  %-26s %s\n", s->operands[i].meta, s->operands[i].help);
    for (int i = 0; i < s->n_options; i++) {
        if (s->options[i].help)
            print_option(&s->options[i], out);
    }
    fprintf(out, "  %-26s this text\n", "-h, --help");
    if (s->example)
        fprintf(out, "\nexample:\n  ");
    for (const char *c = s->example; c && *c; c++) {
        fputc(*c, out);
        if (*c == '\n')
            fputs("  ", out);
    }
    if (s->example)
        fputc('\n', out);
}

bool args_run(const struct arg_spec *s, int argc, char **argv, int *exit_code)
{
    struct error e = {0};
    enum rc rc = args_parse(s, argc, argv, &e);
    *exit_code = rc == RC_OK || rc == RC_CANCELLED ? ARGS_EXIT_OK : ARGS_EXIT_USAGE;
    if (rc == RC_CANCELLED)
        args_print_help(s, stdout);
    else if (rc != RC_OK)
        fprintf(stderr, "%s %s: %s\n", s->program, s->verb, e.message);
    return rc == RC_OK;
}
