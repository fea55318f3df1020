// The primitives of every level that this unit's flags allow.
#pragma once

#include "ops.hpp"  // IWYU pragma: export

#if defined(__aarch64__)
#include "ops_neon64.hpp"  // IWYU pragma: export
#else
#include "ops_sse2.hpp"  // IWYU pragma: export
#endif

#if defined(__AVX2__) && defined(__FMA__)
#include "ops_avx2.hpp"  // IWYU pragma: export
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
    defined(__AVX512DQ__) && defined(__AVX512CD__)
#include "ops_avx512.hpp"  // IWYU pragma: export
#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__) && defined(__AVX512BITALG__)
#include "ops_avx512icl.hpp"  // IWYU pragma: export
#if LOWATT_HAS_TILES
#include "ops_amx.hpp"  // IWYU pragma: export
#endif
#endif
#endif
