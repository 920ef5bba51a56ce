# Fails when the exported symbols of a library are not exactly those of the list, with the same kind: T a function, W a
# weak one.
#
#   cmake -DNM=<nm> -DLIBRARY=<libradixattn.so> -DEXPECTED=<symbols.txt> -P check_symbols.cmake
execute_process(COMMAND ${NM} -D --defined-only ${LIBRARY} OUTPUT_VARIABLE _out RESULT_VARIABLE _status)
if(NOT _status EQUAL 0)
  message(FATAL_ERROR "${NM} failed on ${LIBRARY}")
endif()
string(REGEX REPLACE "(^|\n)[0-9a-f]+ +" "\\1" _out "${_out}")
string(REGEX REPLACE "\n$" "" _out "${_out}")
string(REPLACE "\n" ";" _exported "${_out}")
file(STRINGS ${EXPECTED} _expected)

set(_extra ${_exported})
list(REMOVE_ITEM _extra ${_expected})
set(_missing ${_expected})
list(REMOVE_ITEM _missing ${_exported})
if(_extra OR _missing)
  message(FATAL_ERROR "exported, not in the list: ${_extra}\nin the list, not exported: ${_missing}")
endif()
list(LENGTH _exported _count)
message(STATUS "${_count} symbols, as listed")
