#include <radixattn.h>
#include <stdio.h>

int main(void) {
  radix_config config = {.struct_size = sizeof config, .abi = RADIXATTN_ABI, .num_blocks = 4};
  config.flags = RADIX_CTX_METADATA_ONLY;
  radix_ctx *ctx = NULL;
  if (radix_ctx_create(&config, &ctx) != RADIX_OK) return 1;
  radix_ctx_destroy(&ctx);
  printf("radixattn %s\n", radix_version_string());
  return radix_version() == RADIXATTN_VERSION ? 0 : 1;
}
