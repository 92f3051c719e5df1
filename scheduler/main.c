/* `spillway`: the scheduler daemon and the operator's command line. All of it is in scheduler/cli. */
#include "scheduler/cli/cli.h"

int main(int argc, char **argv)
{
    return cli_main(argc, argv);
}
