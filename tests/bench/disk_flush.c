/* A bystander for frontdoor.py: overwrites a file bit by bit and flushes each bit to the disk, as a ledger does, and
 * nothing else. What a proxy's latency becomes beside it is the machine's doing, not the proxy's.
 *
 *     disk_flush FILE PAUSE_US BYTES     until SIGTERM; then prints how many flushes there were
 *
 * links: spw_base */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

#define PIECES    400
#define BYTES_MAX (1 << 20)

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

static int run(int fd, int64_t pause_us, size_t n, char *piece)
{
    int64_t flushes = 0;
    for (int i = 0; i < PIECES; i++) { /* its full length first: what grows costs more */
        if (pwrite(fd, piece, n, (off_t)n * i) != (ssize_t)n)
            return -1;
    }
    if (fsync(fd) != 0)
        return -1;
    for (; !stopped; flushes++) {
        struct timespec pause = {.tv_nsec = pause_us * 1000};
        (void)nanosleep(&pause, NULL);
        piece[0]++;
        if (pwrite(fd, piece, n, (off_t)n * (flushes % PIECES)) != (ssize_t)n || fdatasync(fd) != 0)
            return -1;
    }
    printf("%" PRId64 "\n", flushes);
    return 0;
}

int main(int argc, char **argv)
{
    static char piece[BYTES_MAX];
    int64_t pause_us, n;
    if (argc != 4 || text_parse_int(argv[2], 0, 999999, &pause_us) != RC_OK ||
        text_parse_int(argv[3], 1, BYTES_MAX, &n) != RC_OK) {
        fprintf(stderr, "usage: disk_flush FILE PAUSE_US BYTES\n");
        return 2;
    }
    struct sigaction act = {.sa_handler = stop};
    sigaction(SIGTERM, &act, NULL);
    memset(piece, 'x', sizeof piece);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || run(fd, pause_us, (size_t)n, piece) != 0) {
        perror(argv[1]);
        return 1;
    }
    close(fd);
    return 0;
}
