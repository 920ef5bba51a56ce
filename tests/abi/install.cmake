# Installs the build into an empty folder and moves it: nothing in it may know where it was built.
#
#   cmake -DBUILD=<build folder> -DPREFIX=<folder> -P install.cmake
file(REMOVE_RECURSE ${PREFIX} ${PREFIX}.first)
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX}.first
  OUTPUT_QUIET RESULT_VARIABLE _status)
if(NOT _status EQUAL 0)
  message(FATAL_ERROR "cmake --install failed")
endif()
file(RENAME ${PREFIX}.first ${PREFIX})
