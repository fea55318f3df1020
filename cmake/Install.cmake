# The installed package: headers, lowatt::headers, lowatt::lowatt and lowatt_add_dispatch(); for others
# than CMake a pkg-config file and all headers as one.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/lowatt)

install(TARGETS lowatt_headers lowatt EXPORT lowattTargets FILE_SET HEADERS)
install(EXPORT lowattTargets NAMESPACE lowatt:: DESTINATION ${package_dir})

configure_package_config_file(cmake/lowattConfig.cmake.in lowattConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break.
write_basic_package_version_file(lowattConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/lowattConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/lowattConfigVersion.cmake
  cmake/LowattDispatch.cmake
  DESTINATION ${package_dir})
# The pkg-config file finds its prefix from where it lies, so that the package can be moved.
set(pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)
file(RELATIVE_PATH pkgconfig_to_prefix /${pkgconfig_dir} /)
string(REGEX REPLACE "/$" "" pkgconfig_to_prefix ${pkgconfig_to_prefix})
configure_file(cmake/lowatt.pc.in lowatt.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/lowatt.pc DESTINATION ${pkgconfig_dir})

set(single_header ${CMAKE_CURRENT_BINARY_DIR}/lowatt_single.hpp)
add_custom_command(OUTPUT ${single_header}
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/cmake/single_header.sh ${CMAKE_CURRENT_SOURCE_DIR}/include
    ${single_header}
  DEPENDS cmake/single_header.sh ${headers}
  VERBATIM)
add_custom_target(lowatt_single_header ALL DEPENDS ${single_header})
install(FILES ${single_header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
