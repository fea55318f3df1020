// Sapphire Rapids: registers as at avx512icl. Tile products are not part of the contract of
// ops.hpp; kernels that have them are specialised on arch::amx.
#pragma once

#include "ops_avx512icl.hpp"

namespace lowatt {

template <>
struct Ops<arch::amx> : Ops<arch::avx512icl> {};

}  // namespace lowatt
