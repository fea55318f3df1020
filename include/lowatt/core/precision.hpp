// What a mechanism computes with inside.
#pragma once

#include "config.hpp"

namespace lowatt {

enum class Precision { fp32, int8 };

}  // namespace lowatt
