/* How many connections each client has: by IPv4 address, or by the /64 network of an IPv6 one, which is what one
 * customer of a provider has. Sockets in the file system are not counted. Shared by all servers of a process; any
 * thread, one short lock. Holds an entry per client with connections, so it is bounded by what is bounded anyway. */
#ifndef BASE_PEERS_H
#define BASE_PEERS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct peers;
struct peer_key { /* whom a connection counts for; all zeroes: nobody */
    uint64_t high;
    uint32_t low;
    int32_t family;
};

struct peers *peers_new(int each_max); /* 0: no limit; peers_set_max() may change it */
void peers_free(struct peers *p);      /* NULL is fine */
void peers_set_max(struct peers *p, int each_max);
struct peer_key peer_key(const struct sockaddr_storage *peer);
/* One more of this client. False: it has each_max already, and nothing was counted. */
bool peers_enter(struct peers *p, const struct peer_key *k);
void peers_leave(struct peers *p, const struct peer_key *k); /* once for each that entered */
int peers_count(struct peers *p, const struct peer_key *k);
int peers_clients(struct peers *p);

#endif
