// Attention in one call, float in and float out, and the same from a cache that grows token by
// token. Build it with CMake:
//
//   find_package(lowatt REQUIRED)
//   add_executable(app 01_one_call.cpp)
//   lowatt_add_dispatch(app)   # kernels for every level, chosen at run time
#include <lowatt/lowatt.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

namespace {

constexpr lowatt::Index query_heads = 4, kv_heads = 2, tokens = 100, head_dim = 64;

// Contiguous [heads, tokens, head_dim], filled with something smooth.
std::vector<float> make_tensor(lowatt::Index heads, double step) {
  std::vector<float> tensor(static_cast<std::size_t>(heads * tokens * head_dim));
  double phase = 0;
  for (float& x : tensor) x = static_cast<float>(std::sin(phase += step));
  return tensor;
}

}  // namespace

int main() {
  const std::vector<float> q_data = make_tensor(query_heads, 0.37);
  const std::vector<float> k_data = make_tensor(kv_heads, 0.41);
  const std::vector<float> v_data = make_tensor(kv_heads, 0.73);
  std::vector<float> out_data(q_data.size());

  // Views do not own: pointer and extents [heads, tokens, dim], strides if memory is not
  // contiguous.
  const lowatt::View<const float> q(q_data.data(), query_heads, tokens, head_dim);
  const lowatt::View<const float> k(k_data.data(), kv_heads, tokens, head_dim);
  const lowatt::View<const float> v(v_data.data(), kv_heads, tokens, head_dim);
  const lowatt::View<float> out(out_data.data(), query_heads, tokens, head_dim);

  // One call. Another mechanism is another type: lowatt::Softmax{}, lowatt::Latte{.theta = 5.0},
  // lowatt::Bitformer{}. Scores of tensors like these are about 5, so alpha = 4 lets near keys
  // pass.
  const lowatt::Inhibitor inhibitor{.alpha = 4.0};
  lowatt::attend(inhibitor, q, k, v, out, {.causal = true});
  std::printf("one call: out[0][99][0] = %g\n", static_cast<double>(*out.row(0, 0, tokens - 1)));

  // Decoding: the cache keeps packed keys and values. What the encoding depends on (here the
  // largest absolute values) is fixed first, from sample tensors.
  const lowatt::Calibration calibration = lowatt::calibrate(inhibitor, q, k, v);
  lowatt::KvCache<lowatt::Inhibitor> cache(
      {.kv_heads = kv_heads, .head_dim = head_dim, .value_dim = head_dim, .capacity = tokens},
      calibration, inhibitor);
  std::vector<float> step_data(query_heads * head_dim);
  const lowatt::View<float> step(step_data.data(), query_heads, 1, head_dim);
  int different = 0;
  for (lowatt::Index t = 0; t < tokens; ++t) {
    // Token t of each tensor: the same strides, another first row.
    auto token_of = [t](lowatt::View<const float> tensor) {
      tensor.data = tensor.row(0, 0, t);
      tensor.tokens = 1;
      return tensor;
    };
    cache.append(token_of(k), token_of(v));
    lowatt::attend(token_of(q), cache, step);
    for (lowatt::Index h = 0; h < query_heads; ++h)
      for (lowatt::Index i = 0; i < head_dim; ++i)
        different += step.row(0, h, 0)[i] != out.row(0, h, t)[i];
  }
  std::printf("%td decode steps: %d numbers differ from the causal call\n", tokens, different);
  return different == 0 ? 0 : 1;
}
