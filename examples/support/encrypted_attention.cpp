#include "encrypted_attention.hpp"

#include "failure.hpp"
#include "lowatt/core/rows.hpp"
#include "lowatt/quant/quantized_tensor.hpp"
#include "tensor.hpp"

namespace support {
namespace {

// One head at so many steps on each side of 0.
std::vector<std::int64_t> quantized(const Tensor& x, float absmax, int steps) {
  lowatt::QuantizedTensor<std::int8_t> integers;
  const lowatt::View<const float> view = x.view();
  const lowatt::Status status =
      integers.try_assign(view, lowatt::ScalePer::head, &absmax, 1, steps);
  if (!status.ok()) throw InputError(status.message);
  const std::int8_t* first = integers.row(0, 0, 0);
  return {first, first + x.data.size()};
}

float largest_of(const Tensor& x, float other = 0) {
  return lowatt::finite_absmax(x.data.data(), static_cast<lowatt::Index>(x.data.size()), other);
}

}  // namespace

EncryptedInputs random_inputs(lowatt::Index tokens, lowatt::Index dim, int bits, double alpha,
                              bool is_signed, std::uint64_t seed) {
  const Tensors tensors = random_tensors({1, 1, tokens, tokens, dim}, seed);
  const int steps = (1 << (bits - 1)) - 1;
  const float absmax = largest_of(tensors.q, largest_of(tensors.k)),
              value_absmax = largest_of(tensors.v);
  const float key_step = lowatt::symmetric_scale(absmax, steps).scale,
              value_step = lowatt::symmetric_scale(value_absmax, steps).scale;
  EncryptedInputs inputs;
  EncryptedShape& shape = inputs.shape;
  shape.tokens = tokens;
  shape.dim = dim;
  shape.limit = steps;
  shape.scale = lowatt::default_scale(dim);
  shape.step = static_cast<double>(key_step);
  shape.is_signed = is_signed;
  shape.inhibition = lowatt::inhibitor_constants(shape.scale, key_step, value_step, alpha);
  // As good as any higher cap: no value is above it.
  shape.inhibition.shifted_cap = steps;
  inputs.q = quantized(tensors.q, absmax, steps);
  inputs.k = quantized(tensors.k, absmax, steps);
  inputs.v = quantized(tensors.v, value_absmax, steps);
  return inputs;
}

EncryptedRow<lowatt::CountingScheme> plan_row(EncryptedKind kind, const EncryptedShape& shape) {
  using Ciphertext = lowatt::CountingScheme::Ciphertext;
  const std::vector<Ciphertext> query(static_cast<std::size_t>(shape.dim)),
      keys(static_cast<std::size_t>(shape.tokens * shape.dim));
  return encrypted_row(lowatt::CountingScheme{}, kind, shape, std::span<const Ciphertext>(query),
                       std::span<const Ciphertext>(keys), std::span<const Ciphertext>(keys));
}

}  // namespace support
