# Compiles and runs a C program with the flags that pkg-config gives for an install tree, shared and static.
#
#   cmake -DPREFIX=<install tree> -DLIBDIR=<lib> -DPKG_CONFIG=<pkg-config> -DCC=<compiler> -DVERSION=<x.y.z>
#         -DSOURCE=<program.c> -DBUILD=<folder> -P pkg_config.cmake
set(ENV{PKG_CONFIG_PATH} ${PREFIX}/${LIBDIR}/pkgconfig)

function(ask out)
  execute_process(COMMAND ${PKG_CONFIG} ${ARGN} radixattn OUTPUT_VARIABLE _answer RESULT_VARIABLE _status
    OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT _status EQUAL 0)
    message(FATAL_ERROR "pkg-config ${ARGN} radixattn failed")
  endif()
  separate_arguments(_answer UNIX_COMMAND "${_answer}")
  set(${out} ${_answer} PARENT_SCOPE)
endfunction()

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE _status)
  if(NOT _status EQUAL 0)
    message(FATAL_ERROR "failed: ${ARGN}")
  endif()
endfunction()

ask(_version --modversion)
if(NOT _version STREQUAL VERSION)
  message(FATAL_ERROR "pkg-config says version ${_version}: expected ${VERSION}")
endif()
ask(_cflags --cflags)
ask(_libs --libs)
ask(_static_libs --static --libs)
list(TRANSFORM _static_libs REPLACE "^-lradixattn$" "-l:libradixattn.a")

file(MAKE_DIRECTORY ${BUILD})
run(${CC} -std=c99 -pedantic ${SOURCE} ${_cflags} ${_libs} -Wl,-rpath,${PREFIX}/${LIBDIR} -o ${BUILD}/shared_program)
run(${BUILD}/shared_program)
run(${CC} -std=c99 -pedantic ${SOURCE} ${_cflags} ${_static_libs} -o ${BUILD}/static_program)
run(${BUILD}/static_program)
