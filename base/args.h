/* A strict command-line parser for programs with verbs: one row per flag, from which parsing, `--help` and "did you
 * mean" come. `--name VALUE`, `--name=VALUE`, `-n VALUE`; flags and operands mix freely; `--` ends the flags. A flag
 * given twice, unknown, without its value, or with a value outside its bounds is an error that says what would be
 * right. */
#ifndef BASE_ARGS_H
#define BASE_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

enum arg_type {
    ARG_FLAG,   /* bool *: true when given */
    ARG_STRING, /* const char **: borrowed from argv or the environment */
    ARG_INT,    /* int64_t *, lo..hi */
    ARG_DOUBLE, /* double *, dlo..dhi */
};

/* What `value` points to holds the default before args_parse(), and help shows it. */
struct arg_option {   // NOLINT(clang-analyzer-optin.performance.Padding): rows are written by position
    const char *name; /* "max-batch": --max-batch */
    char letter;      /* 'n': -n as well; 0: none */
    enum arg_type type;
    void *value;
    const char *meta;           /* "N", "FILE"; NULL for flags */
    const char *help;           /* one line, lower case; NULL: a flag between processes of ours, nobody is told */
    int64_t lo, hi;             /* ARG_INT; both 0: any */
    double dlo, dhi;            /* ARG_DOUBLE; both 0: any finite */
    const char *const *choices; /* ARG_STRING: NULL-terminated words allowed; NULL: any */
    const char *env;            /* variable that stands in when the flag is absent and it is set and not empty */
    bool required;
    bool *given; /* may be NULL: set when the flag (or its variable) was used */
};

struct arg_operand {
    const char *meta; /* "MODEL" */
    const char **value;
    const char *help;
    bool required;
};

struct arg_spec {
    const char *program, *verb; /* "spillway", "ledger" */
    const char *summary;        /* one line */
    const char *example;        /* full command line(s), newline separated */
    const struct arg_option *options;
    int n_options;
    const struct arg_operand *operands; /* required ones first */
    int n_operands;
};

/* argv: what follows the verb. RC_OK; RC_CANCELLED: --help or -h was asked for, nothing else was checked (print it and
 * end with 0); RC_INVALID: *e says what is wrong and what would be right. */
enum rc args_parse(const struct arg_spec *s, int argc, char **argv, struct error *e) SPW_MUST_USE;
/* The exit codes of both programs. */
enum args_exit {
    ARGS_EXIT_OK = 0,
    ARGS_EXIT_FAILED = 1, /* it was understood, and did not work */
    ARGS_EXIT_USAGE = 2,  /* the command line or the configuration is wrong */
};
/* args_parse() for a main function. True: go on. False: help or the mistake has been printed, *exit_code is what to end
 * with. */
bool args_run(const struct arg_spec *s, int argc, char **argv, int *exit_code) SPW_MUST_USE;
/* Usage, flags with defaults and bounds, example. */
void args_print_help(const struct arg_spec *s, FILE *out);

#endif
