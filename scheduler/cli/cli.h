/* The command line of `spillway`: one table of verbs (cli.c), each with its flags, help and example. Results go to
 * stdout, everything else to stderr. */
#ifndef SCHEDULER_CLI_CLI_H
#define SCHEDULER_CLI_CLI_H

enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1, /* it was understood, and did not work */
    CLI_USAGE = 2,  /* the command line or the configuration is wrong */
};
/* All of main(). */
int cli_main(int argc, char **argv);

#endif
