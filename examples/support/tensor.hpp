// The query, key and value tensors that a program works on, from files or from a random generator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lowatt/core/view.hpp"
#include "npy.hpp"

namespace support {

// Contiguous [heads, tokens, dim].
struct Tensor {
  lowatt::Index heads = 0, tokens = 0, dim = 0;
  std::vector<float> data;

  lowatt::View<const float> view() const { return {data.data(), heads, tokens, dim}; }
  lowatt::View<float> view() { return {data.data(), heads, tokens, dim}; }
  std::vector<lowatt::Index> shape() const { return {heads, tokens, dim}; }
};

struct Tensors {
  Tensor q, k, v;

  // A tensor for the result: [query heads, queries, value dim].
  Tensor make_output() const;
};

// Throws InputError when a file is not of rank 2 or 3, or when the shapes do not go together.
Tensors load_tensors(const std::string& q_path, const std::string& k_path,
                     const std::string& v_path);

struct RandomShape {
  lowatt::Index query_heads = 0, kv_heads = 0, queries = 0, keys = 0, dim = 0;
};

// Standard normal numbers, the same for the same shape and seed.
Tensors random_tensors(const RandomShape& shape, std::uint64_t seed);

}  // namespace support
