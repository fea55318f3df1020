// Included alone by one unit per level: compiles every kernel for the best level that the unit's
// flags allow and defines that level's table. The package stays headers: lowatt_add_dispatch()
// generates these units in the build tree, or compile a file with this one include once per level
// (README).
#pragma once

#include "../core/config.hpp"

// xsimd's functions carry no level in their names where they are not inlined. Renaming the
// namespace keeps the copies of one level from being linked into another.
#if defined(xsimd) || defined(XSIMD_HPP)
#error "Lowatt: dispatch/instantiate.hpp must be the only include of its unit"
#endif
#define xsimd LOWATT_JOIN(xsimd_, LOWATT_STATIC_LEVEL)

#include "../simd/levels.hpp"
#include "table.hpp"

namespace lowatt::kernels {

const KernelTable& LOWATT_STATIC_LEVEL() noexcept;
const KernelTable& LOWATT_STATIC_LEVEL() noexcept {
  return kernel_table<arch::LOWATT_STATIC_LEVEL>;
}

}  // namespace lowatt::kernels
