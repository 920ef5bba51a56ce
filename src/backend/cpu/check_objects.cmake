# Fails when an object of one CPU target could leak its instructions into code that runs on every machine.
#
#   cmake -DNM=<nm> -DNAMESPACE=<ns> -DOBJECTS=<a.o,b.o> -P check_objects.cmake
#
# The linker keeps one copy of a weak or unique symbol, no matter from which object; and a global symbol outside of
# the target's namespace could be called by anybody. So: no weak symbols, and every global one is in radixattn::<ns>.
string(REPLACE "," ";" _objects "${OBJECTS}")
set(_seen 0)
foreach(_object IN LISTS _objects)
  execute_process(COMMAND ${NM} -C --defined-only ${_object}
    OUTPUT_VARIABLE _out RESULT_VARIABLE _status)
  if(NOT _status EQUAL 0)
    message(FATAL_ERROR "${NM} failed on ${_object}")
  endif()
  string(REPLACE ";" "," _out "${_out}")
  string(REPLACE "\n" ";" _lines "${_out}")
  foreach(_line IN LISTS _lines)
    if(_line MATCHES "^[0-9a-f]+ [WVwvu] ")
      message(FATAL_ERROR "weak symbol in ${_object}: ${_line}")
    endif()
    if(_line MATCHES "^[0-9a-f]+ [A-Z] ")
      math(EXPR _seen "${_seen} + 1")
      if(NOT _line MATCHES " radixattn::${NAMESPACE}::")
        message(FATAL_ERROR "symbol outside of radixattn::${NAMESPACE} in ${_object}: ${_line}")
      endif()
    endif()
  endforeach()
endforeach()
if(_seen EQUAL 0)
  message(FATAL_ERROR "no symbols of radixattn::${NAMESPACE} seen: the check looked at nothing")
endif()
message(STATUS "${NAMESPACE}: ${_seen} global symbols, none weak")
