# Install rules: libraries, header, CMake package (find_package(radixattn)) and pkg-config file.
include(CMakePackageConfigHelpers)

set(_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/radixattn)

install(TARGETS radixattn EXPORT radixattn
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT development)
install(TARGETS radixattn_static EXPORT radixattn
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(FILES ${PROJECT_SOURCE_DIR}/include/radixattn.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)

install(EXPORT radixattn NAMESPACE radixattn:: FILE radixattnTargets.cmake
  DESTINATION ${_package_dir} COMPONENT development)
set(RADIXATTN_HAS_CUDA OFF)
set(RADIXATTN_PC_CUDA "")
if(RADIXATTN_CUDA_OBJECTS)
  set(RADIXATTN_HAS_CUDA ON)
  set(RADIXATTN_PC_CUDA "-L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -lrt -ldl ")
endif()
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/radixattnConfig.cmake.in
  ${PROJECT_BINARY_DIR}/radixattnConfig.cmake INSTALL_DESTINATION ${_package_dir})
# Before 1.0 every minor version may change the ABI.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/radixattnConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/radixattnConfig.cmake ${PROJECT_BINARY_DIR}/radixattnConfigVersion.cmake
  DESTINATION ${_package_dir} COMPONENT development)

# The .pc file names its own place relative to itself where it can: an install tree that moves keeps working.
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(RADIXATTN_PC_PREFIX ${CMAKE_INSTALL_PREFIX})
  set(RADIXATTN_PC_LIBDIR ${CMAKE_INSTALL_FULL_LIBDIR})
  set(RADIXATTN_PC_INCLUDEDIR ${CMAKE_INSTALL_FULL_INCLUDEDIR})
else()
  file(RELATIVE_PATH _up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  string(REGEX REPLACE "/$" "" _up "${_up}")
  set(RADIXATTN_PC_PREFIX "\${pcfiledir}/${_up}")
  set(RADIXATTN_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
  set(RADIXATTN_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(${PROJECT_SOURCE_DIR}/cmake/radixattn.pc.in ${PROJECT_BINARY_DIR}/radixattn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/radixattn.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)
