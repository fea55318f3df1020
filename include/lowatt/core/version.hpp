// The library's version. One place; the build reads it from here.
#pragma once

#define LOWATT_VERSION_MAJOR 0
#define LOWATT_VERSION_MINOR 1
#define LOWATT_VERSION_PATCH 0
