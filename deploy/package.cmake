# `cpack -G DEB` in the build folder (of tools/build_profiled.sh, for what is handed out) makes the package; `cmake --install`
# puts the same files elsewhere. tests/integration/test_deploy.py installs it into a fresh Debian.

include(GNUInstallDirs)
install(TARGETS spillway spillway-engine RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(PROGRAMS deploy/spillway-backup DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES deploy/systemd/spillway.service deploy/systemd/spillway.socket deploy/systemd/spillway-engine@.service
        DESTINATION lib/systemd/system)
install(FILES spillway.example.yaml README.md docs/OPERATIONS.md docs/CONFIG.md docs/ADMIN_API.md docs/ERRORS.md
        docs/NODE_API.md docs/POLICIES.md DESTINATION share/doc/spillway)
install(FILES LICENSE DESTINATION share/doc/spillway RENAME copyright)
install(DIRECTORY deploy/prometheus/rules DESTINATION share/doc/spillway/prometheus FILES_MATCHING PATTERN "*.rules.yml")
install(FILES deploy/debian/spillway.yaml DESTINATION /etc/spillway)
install(FILES deploy/debian/engine.env DESTINATION /etc/spillway RENAME engine-example.env)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME spillway)
set(CPACK_PACKAGE_CONTACT "Spillway maintainers <maintainers@spillway.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_DESCRIPTION "spillway routes OpenAI-compatible requests to own machines, spot instances and paid APIs, and
keeps the books; spillway-engine computes them.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "adduser, ca-certificates")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "systemd, sqlite3")
find_program(SPILLWAY_SHLIBDEPS dpkg-shlibdeps)
mark_as_advanced(SPILLWAY_SHLIBDEPS)
if(SPILLWAY_SHLIBDEPS) # of dpkg-dev; without it the libraries' packages are named by hand
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
else()
  string(APPEND CPACK_DEBIAN_PACKAGE_DEPENDS ", libc6, libcjose0, libcjson1, libcurl4, libevent-2.1-7, "
         "libevent-openssl-2.1-7, libevent-pthreads-2.1-7, libexpat1, libhiredis0.14, libjansson4, libsqlite3-0, libssl3, "
         "libyaml-0-2, zlib1g")
endif()
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_SOURCE_DIR}/deploy/debian/conffiles
    ${CMAKE_SOURCE_DIR}/deploy/debian/postinst ${CMAKE_SOURCE_DIR}/deploy/debian/prerm
    ${CMAKE_SOURCE_DIR}/deploy/debian/postrm)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
include(CPack)
