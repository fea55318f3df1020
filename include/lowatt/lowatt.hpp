// Lowatt: attention kernels that do without most of the arithmetic. Everything that a user needs.
#pragma once

#include "attention.hpp"  // IWYU pragma: export
