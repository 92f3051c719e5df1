/* The energy counters of this machine: RAPL through the kernel's powercap interface, where it is there and readable
 * (bare metal, root). Whole package, so what it says about one program holds only while that one has the machine.
 * Source: Linux Documentation/power/powercap/powercap.rst. */
#ifndef BASE_ENERGY_H
#define BASE_ENERGY_H

#include <stdbool.h>
#include <stdint.h>

/* Sum over all packages since an arbitrary start. False: this machine does not tell. Reads a few small files. */
bool energy_read_uj(uint64_t *microjoules);
/* end - start, corrected for one wrap of a counter of `range` (energy_range_uj()). */
uint64_t energy_since_uj(uint64_t start, uint64_t end, uint64_t range);
uint64_t energy_range_uj(void); /* sum of the counters' ranges; 0 where unknown */

#endif
