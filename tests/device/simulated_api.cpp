// The simulated device as C functions, for tests in another language: libradixattn_simulated.so has
// them beside the C API. No header: a test declares the few that it calls.
//
// Memory comes from radix_simulated_allocate, contents from radix_simulated_write. What the library
// was told to do happens in radix_simulated_finish and not before.
#include <cstdio>
#include <exception>

#include "simulated_device.h"

#define RADIX_SIMULATED extern "C" __attribute__((visibility("default")))

namespace device = radixattn::test::device;

namespace {
char message[512];
}

RADIX_SIMULATED void radix_simulated_reset() { device::reset(); }
RADIX_SIMULATED void* radix_simulated_allocate(uint64_t bytes) { return device::allocate(bytes); }
RADIX_SIMULATED void radix_simulated_release(void* memory) { device::release(memory); }
RADIX_SIMULATED void radix_simulated_write(void* to, const void* host, uint64_t bytes) {
  device::write(to, host, bytes);
}
RADIX_SIMULATED void radix_simulated_read(void* host, const void* from, uint64_t bytes) {
  device::read(host, from, bytes);
}
RADIX_SIMULATED void* radix_simulated_make_stream() { return device::make_stream(); }
RADIX_SIMULATED int32_t radix_simulated_has_work() { return device::has_work() ? 1 : 0; }

// Runs all that was enqueued. Null, or what the emulator says about a kernel.
RADIX_SIMULATED const char* radix_simulated_finish() {
  try {
    device::finish();
    return nullptr;
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof(message), "%s", error.what());
    return message;
  }
}

// The next kernel launch gives this cudaError_t.
RADIX_SIMULATED void radix_simulated_fail_launch(int32_t error) {
  device::settings.failing_launch = error;
}
RADIX_SIMULATED int64_t radix_simulated_bytes_live() { return device::counters.bytes_live; }
RADIX_SIMULATED int64_t radix_simulated_bad_frees() { return device::counters.bad_frees; }
RADIX_SIMULATED int64_t radix_simulated_launches() { return device::counters.launches; }
RADIX_SIMULATED int32_t radix_simulated_launched_on() { return device::counters.launched_on; }
RADIX_SIMULATED void* radix_simulated_last_stream() { return device::counters.stream; }
