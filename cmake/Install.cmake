# The installed package: headers, lowatt::headers, lowatt::lowatt and lowatt_add_dispatch().
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
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
