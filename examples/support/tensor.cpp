#include "tensor.hpp"

#include <cmath>
#include <numbers>
#include <random>
#include <utility>

namespace support {
namespace {

Tensor load_tensor(const std::string& path) {
  FloatArray array = read_npy(path);
  const auto& shape = array.shape;
  if (shape.size() == 2) return {1, shape[0], shape[1], std::move(array.data)};
  if (shape.size() == 3) return {shape[0], shape[1], shape[2], std::move(array.data)};
  throw InputError("'" + path + "' has rank " + std::to_string(shape.size()) + " (shape " +
                   shape_text(shape) + "); [heads, tokens, dim] or [tokens, dim] is wanted");
}

void require_matching_shapes(const Tensor& q, const Tensor& k, const Tensor& v) {
  const std::string shapes = " (Q " + shape_text(q.shape()) + ", K " + shape_text(k.shape()) +
                             ", V " + shape_text(v.shape()) + ")";
  if (q.dim != k.dim) throw InputError("Q and K differ in head_dim" + shapes);
  if (k.heads != v.heads) throw InputError("K and V differ in the number of heads" + shapes);
  if (k.tokens != v.tokens) throw InputError("K and V differ in the number of tokens" + shapes);
  if (q.heads % k.heads != 0)
    throw InputError("the query heads are not a multiple of the KV heads" + shapes);
}

// Box-Muller on a generator whose sequence the standard fixes; std::normal_distribution is left to
// each implementation.
class NormalGenerator {
 public:
  explicit NormalGenerator(std::uint64_t seed) : bits_(seed) {}

  float operator()() {
    if (std::exchange(has_second_, !has_second_)) return second_;
    const double radius = std::sqrt(-2 * std::log(uniform()));
    const double angle = 2 * std::numbers::pi * uniform();
    second_ = static_cast<float>(radius * std::sin(angle));
    return static_cast<float>(radius * std::cos(angle));
  }

 private:
  // In (0, 1].
  double uniform() { return (static_cast<double>(bits_() >> 11) + 1) * 0x1p-53; }

  std::mt19937_64 bits_;
  bool has_second_ = false;
  float second_ = 0;
};

Tensor random_tensor(lowatt::Index heads, lowatt::Index tokens, lowatt::Index dim,
                     NormalGenerator& normal) {
  Tensor tensor{heads, tokens, dim, {}};
  tensor.data.resize(static_cast<std::size_t>(heads * tokens * dim));
  for (float& value : tensor.data) value = normal();
  return tensor;
}

void require_moderate_size(const char* name, lowatt::Index heads, lowatt::Index tokens,
                           lowatt::Index dim) {
  constexpr lowatt::Index largest = lowatt::Index{1} << 28;
  for (const lowatt::Index extent : {heads, tokens, dim})
    if (extent < 1)
      throw InputError("--random: an extent of " + std::to_string(extent) + " is not positive");
  if (heads > largest || tokens > largest / heads || dim > largest / heads / tokens)
    throw InputError(std::string("--random: ") + name + " of shape " +
                     shape_text({heads, tokens, dim}) + " has more than 2^28 elements");
}

}  // namespace

Tensor Tensors::make_output() const {
  return {q.heads, q.tokens, v.dim,
          std::vector<float>(static_cast<std::size_t>(q.heads * q.tokens * v.dim))};
}

Tensors load_tensors(const std::string& q_path, const std::string& k_path,
                     const std::string& v_path) {
  Tensors tensors{load_tensor(q_path), load_tensor(k_path), load_tensor(v_path)};
  require_matching_shapes(tensors.q, tensors.k, tensors.v);
  return tensors;
}

Tensors random_tensors(const RandomShape& shape, std::uint64_t seed) {
  require_moderate_size("Q", shape.query_heads, shape.queries, shape.dim);
  require_moderate_size("K", shape.kv_heads, shape.keys, shape.dim);
  if (shape.query_heads % shape.kv_heads != 0)
    throw InputError("--random: " + std::to_string(shape.query_heads) +
                     " query heads are not a multiple of " + std::to_string(shape.kv_heads) +
                     " KV heads");
  NormalGenerator normal(seed);
  Tensors tensors;
  tensors.q = random_tensor(shape.query_heads, shape.queries, shape.dim, normal);
  tensors.k = random_tensor(shape.kv_heads, shape.keys, shape.dim, normal);
  tensors.v = random_tensor(shape.kv_heads, shape.keys, shape.dim, normal);
  return tensors;
}

}  // namespace support
