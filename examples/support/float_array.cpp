#include "float_array.hpp"

namespace support {

// The division keeps every intermediate product within `limit`.
std::optional<std::uint64_t> elements_up_to(std::uint64_t limit,
                                            const std::vector<lowatt::Index>& shape) {
  std::uint64_t count = 1;
  for (const lowatt::Index extent : shape) {
    if (static_cast<std::uint64_t>(extent) > limit / count) return std::nullopt;
    count *= static_cast<std::uint64_t>(extent);
  }
  if (count > limit) return std::nullopt;
  return count;
}

std::string shape_text(const std::vector<lowatt::Index>& shape) {
  if (shape.empty()) return "()";
  std::string text;
  for (const lowatt::Index extent : shape)
    text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text;
}

}  // namespace support
