/* The command line of `spillway`: one table of verbs (cli.c), each with its flags, help and example. Results go to
 * stdout, everything else to stderr. */
#ifndef SCHEDULER_CLI_CLI_H
#define SCHEDULER_CLI_CLI_H

/* All of main(); exit codes are those of base/args.h. */
int cli_main(int argc, char **argv);

#endif
