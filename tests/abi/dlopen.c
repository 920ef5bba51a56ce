/* dlopen(first), use on two threads, dlclose: some thousand times; the library is gone after each,
 * and no memory stays. Then two copies of the library at once: each has its own state. abi_dlopen
 * <library> <copy of the library> */
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "radixattn.h"

#define CHECK(condition)                                           \
  do {                                                             \
    if (!(condition)) {                                            \
      printf("line %d: " #condition " does not hold\n", __LINE__); \
      exit(1);                                                     \
    }                                                              \
  } while (0)

typedef radix_status (*create_fn)(const radix_config *, radix_ctx **);
typedef void (*destroy_fn)(radix_ctx **);
typedef size_t (*last_error_fn)(char *, size_t);

typedef struct library {
  void *handle;
  create_fn create;
  destroy_fn destroy;
  last_error_fn last_error;
} library;

/* A data pointer from dlsym becomes a function pointer by its bytes: ISO C knows no cast for it. */
static void find(void *handle, const char *name, void *function) {
  void *symbol = dlsym(handle, name);
  CHECK(symbol != NULL);
  memcpy(function, &symbol, sizeof symbol);
}

static library load(const char *path) {
  library lib = {0};
  lib.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (lib.handle == NULL) printf("%s\n", dlerror());
  CHECK(lib.handle != NULL);
  find(lib.handle, "radix_ctx_create", &lib.create);
  find(lib.handle, "radix_ctx_destroy", &lib.destroy);
  find(lib.handle, "radix_last_error", &lib.last_error);
  return lib;
}

static radix_config small_config(void) {
  radix_config config;
  memset(&config, 0, sizeof config);
  config.struct_size = (uint32_t)sizeof config;
  config.abi = RADIXATTN_ABI;
  config.num_blocks = 4, config.num_layers = 1, config.num_kv_heads = 1, config.head_dim = 32;
  config.num_threads = 2; /* threads of its own, too, have to go */
  return config;
}

static void *fail_once(void *argument) { /* leaves a message in this thread's storage */
  const library *lib = argument;
  radix_config config = small_config();
  config.head_dim = 7;
  radix_ctx *ctx = NULL;
  CHECK(lib->create(&config, &ctx) != RADIX_OK && ctx == NULL);
  CHECK(lib->last_error(NULL, 0) > 0);
  return NULL;
}

static void use(library *lib) {
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, fail_once, lib) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  radix_config config = small_config();
  radix_ctx *ctx = NULL;
  CHECK(lib->create(&config, &ctx) == RADIX_OK && ctx != NULL);
  lib->destroy(&ctx);
  CHECK(ctx == NULL);
}

static void load_use_unload(const char *path) {
  library lib = load(path);
  use(&lib);
  CHECK(dlclose(lib.handle) == 0);
  CHECK(dlopen(path, RTLD_NOW | RTLD_NOLOAD) == NULL);
}

static void two_copies(const char *first, const char *second) {
  library a = load(first), b = load(second);
  CHECK(a.handle != b.handle && a.create != b.create);
  fail_once(&a);
  CHECK(a.last_error(NULL, 0) > 0);
  CHECK(b.last_error(NULL, 0) == 0);
  use(&b);
  CHECK(dlclose(a.handle) == 0);
  use(&b);
  CHECK(dlclose(b.handle) == 0);
}

int main(int argc, char **argv) {
  CHECK(argc == 3);
  /* What one load leaves behind, be it 16 bytes, would be here 2,000 times. A library with the
   * static CUDA runtime grows, too, but ever more slowly, as the largest of random numbers does: in
   * four runs of 8,000 loads at most 13 kB after the 100th, and 3.3 kB in any 2,000 after the first
   * 1,000. ASan keeps memory of its own for each load, and tells leaks itself. */
#if defined(__SANITIZE_ADDRESS__)
  enum { kFirstLoads = 20, kLoads = 80 };
#else
  enum { kFirstLoads = 1000, kLoads = 2000 };
#endif
  for (int i = 0; i < kFirstLoads; ++i) load_use_unload(argv[1]);
  const size_t before = mallinfo2().uordblks;
  for (int i = 0; i < kLoads; ++i) load_use_unload(argv[1]);
  const size_t after = mallinfo2().uordblks;
  printf("memory in use before %zu, after %d times %zu bytes\n", before, kLoads, after);
  CHECK(after <= before + 8 * kLoads);
  two_copies(argv[1], argv[2]);
  return 0;
}
