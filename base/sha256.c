#include "base/sha256.h"

#include <openssl/evp.h>
#include <pthread.h>

#include "base/error.h"

/* Set once and then constant, like a table: the one thing here that is neither passed in nor on the stack. */
static EVP_MD *algorithm;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void look_up(void)
{
    algorithm = EVP_MD_fetch(NULL, "SHA256", NULL);
    SPW_ASSERT(algorithm);
}

void sha256(const void *data, size_t n, uint8_t out[SHA256_BYTES])
{
    pthread_once(&once, look_up);
    SPW_ASSERT(EVP_Digest(data, n, out, NULL, algorithm, NULL) == 1);
}
