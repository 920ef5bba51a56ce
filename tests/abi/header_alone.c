/* Compiles in every language level that the header promises: first and alone, twice, and with the
 * short names. */
#define RADIXATTN_SHORT_NAMES
#include "radixattn.h"

int header_alone(radix_config *config);
int header_alone(radix_config *config) {
  config->struct_size = (uint32_t)sizeof(radix_config);
  config->abi = RADIXATTN_ABI;
  return RADIXATTN_VERSION ==
         10000 * RADIXATTN_VERSION_MAJOR + 100 * RADIXATTN_VERSION_MINOR + RADIXATTN_VERSION_PATCH;
}
