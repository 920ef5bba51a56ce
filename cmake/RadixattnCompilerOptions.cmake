# Language levels, warnings and sanitizers for everything below the top directory.

set(CMAKE_C_STANDARD 99)
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(PROJECT_IS_TOP_LEVEL AND NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

# Somebody who adds the project to a build of their own keeps their warnings. (nvcc has its own: cuda/CMakeLists.txt.)
set(_warnings "")
if(PROJECT_IS_TOP_LEVEL)
  list(APPEND _warnings -Wall -Wextra -Wshadow -Wundef -Wconversion)
endif()
if(RADIXATTN_WERROR)
  list(APPEND _warnings -Werror)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ guesses these from what it has inlined, and guesses wrong at some levels of optimisation: shown, not fatal.
    list(APPEND _warnings -Wno-error=stringop-overflow -Wno-error=stringop-overread -Wno-error=array-bounds
      -Wno-error=restrict -Wno-error=maybe-uninitialized)
  endif()
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:${_warnings}>")

# In CMAKE_<LANG>_FLAGS, not add_compile_options: flags there reach the linker too, and the CPU backend's test of
# object files looks for them (sanitizers add symbols of their own).
if(RADIXATTN_SANITIZE STREQUAL "address+undefined")
  set(_sanitize "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer")
  string(APPEND _sanitize " -fno-sanitize=vptr") # needs the type information that the library is built without
elseif(RADIXATTN_SANITIZE STREQUAL "thread")
  set(_sanitize "-fsanitize=thread -fno-omit-frame-pointer")
elseif(RADIXATTN_SANITIZE STREQUAL "")
  set(_sanitize "")
else()
  message(FATAL_ERROR
    "RADIXATTN_SANITIZE is \"${RADIXATTN_SANITIZE}\": expected address+undefined, thread, or nothing")
endif()
if(_sanitize)
  string(APPEND CMAKE_C_FLAGS " ${_sanitize}")
  string(APPEND CMAKE_CXX_FLAGS " ${_sanitize}")
endif()
