// Eigen's matrix product with the instructions of a level: compiled once per level, since a program
// for any x86-64 CPU would otherwise multiply with SSE2 alone, at a quarter of the speed or less.
#pragma once

#include "lowatt/arch/tags.hpp"
#include "lowatt/core/config.hpp"

namespace support {

// y = x * weight^T; x [rows, in], weight [out, in], y [rows, out], all contiguous. The CPU must run
// the level.
void matrix_product(lowatt::Level level, const float* x, const float* weight, float* y,
                    lowatt::Index rows, lowatt::Index in, lowatt::Index out);

}  // namespace support
