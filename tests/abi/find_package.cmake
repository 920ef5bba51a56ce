# Configures, builds and runs a project of its own that finds radixattn in an install tree.
#
#   cmake -DPREFIX=<install tree> -DSOURCE=<project> -DBUILD=<folder> -DGENERATOR=<generator> -DCC=<compiler> -P ...
file(REMOVE_RECURSE ${BUILD})
foreach(_command
    "${CMAKE_COMMAND};-S;${SOURCE};-B;${BUILD};-G;${GENERATOR};-DCMAKE_PREFIX_PATH=${PREFIX};-DCMAKE_C_COMPILER=${CC}"
    "${CMAKE_COMMAND};--build;${BUILD}"
    "${BUILD}/shared_program"
    "${BUILD}/static_program")
  execute_process(COMMAND ${_command} RESULT_VARIABLE _status)
  if(NOT _status EQUAL 0)
    message(FATAL_ERROR "failed: ${_command}")
  endif()
endforeach()
