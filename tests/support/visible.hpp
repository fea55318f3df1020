// What the masks of a call mean, plainly.
#pragma once

#include <lowatt/attention/options.hpp>

namespace test {

// Whether query i of `queries` sees key j of `keys`, as Options documents it.
inline bool sees(const lowatt::Options& options, lowatt::Index queries, lowatt::Index keys,
                 lowatt::Index batch, lowatt::Index head, lowatt::Index i, lowatt::Index j) {
  const lowatt::Index own = i + keys - queries;
  if (options.causal && j > own) return false;
  if (options.window_left >= 0 && j < own - options.window_left) return false;
  if (options.window_right >= 0 && j > own + options.window_right) return false;
  if (options.key_lengths != nullptr && j >= options.key_lengths[batch]) return false;
  const auto& mask = options.mask;
  return mask.data == nullptr ||
         mask.row(mask.batch == 1 ? 0 : batch, mask.heads == 1 ? 0 : head, i)[j] != 0;
}

}  // namespace test
