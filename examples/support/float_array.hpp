// Floats with a shape, as files hold them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lowatt/core/config.hpp"

namespace support {

struct FloatArray {
  std::vector<lowatt::Index> shape;  // every extent is at least 1; empty for a single number
  std::vector<float> data;           // as many elements as the shape says, last extent fastest
};

// How many elements such a shape has; nothing where that is more than `limit`.
std::optional<std::uint64_t> elements_up_to(std::uint64_t limit,
                                            const std::vector<lowatt::Index>& shape);

// "4 x 128 x 64", for messages.
std::string shape_text(const std::vector<lowatt::Index>& shape);

}  // namespace support
