/* Compares every public struct with the committed table, at compile time, and the library's own
 * view of it at run time. */
#include <stdio.h>
#include <string.h>

#include "radixattn.h"

#define STRUCT(name, size) _Static_assert(sizeof(name) == (size), #name " has another size");
#define FIELD(name, field, offset, size)                                                     \
  _Static_assert(offsetof(name, field) == (offset), #name "." #field " has another offset"); \
  _Static_assert(sizeof(((name *)0)->field) == (size), #name "." #field " has another size");
#include "layout.inc"
#undef STRUCT
#undef FIELD

static int failures = 0;

static void expect(int condition, const char *what) {
  if (condition) return;
  printf("not so: %s\n", what);
  ++failures;
}

int main(void) {
#define STRUCT(name, size) \
  expect(radix_struct_size(#name) == (size), "radix_struct_size(\"" #name "\") == " #size);
#define FIELD(name, field, offset, size)
#include "layout.inc"
  expect(radix_struct_size("radix_no_such_struct") == 0, "an unknown struct has size 0");
  expect(RADIXATTN_ABI == EXPECTED_ABI, "the header's ABI number is the SONAME's");
  expect(radix_abi() == RADIXATTN_ABI, "the library's ABI number is the header's");
  expect(radix_version() == RADIXATTN_VERSION, "the library's version is the header's");
  expect(strcmp(radix_version_string(), EXPECTED_VERSION) == 0,
         "the version string is the project's version");
  return failures != 0;
}
