// One attention layer's arithmetic for training and for its evaluation, in four ways that take and
// give the same tensors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "torch.hpp"

namespace training {

using torch::Tensor;

enum class Mechanism { softmax, inhibitor, latte, bitformer };

// What does not change while a model trains.
struct AttentionForm {
  Mechanism mechanism = Mechanism::softmax;
  bool causal = false;
  bool is_signed = true;  // Inhibitor
  bool normalize = true;  // Inhibitor: means over the keys that a query sees, not sums
  bool center = false;    // Inhibitor: scores; Bitformer: keys
  int planes = 1;         // Bitformer
};

// Learned numbers; tensors that a mechanism does not have are undefined.
struct AttentionScalars {
  Tensor scale;         // [1]
  Tensor alpha, beta;   // [1], Inhibitor
  Tensor theta;         // [heads], LATTE
  Tensor temperature;   // [1], Bitformer
  double clip = 1;      // Bitformer
  double softness = 0;  // LATTE, the temperature of its soft mask in logits; 0: the hard mask
};

struct Attended {
  Tensor out;       // [batch, tokens, heads, head_dim]
  Tensor survival;  // scalar, LATTE: mean mask over visible pairs; undefined for the others
};

// q, k and v are [batch, tokens, heads, head_dim], contiguous, float32; gradients reach them and
// the scalars, except from attend_integer().

// The formulas in libtorch's own operations: what the kernels are checked against.
Attended attend_formula(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                        const Tensor& k, const Tensor& v);

// Lowatt's fp32 kernels and their gradients.
Attended attend_kernels(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                        const Tensor& k, const Tensor& v);

// What inference runs: int8 for softmax, the Inhibitor and LATTE, bit planes for Bitformer.
Attended attend_integer(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                        const Tensor& k, const Tensor& v);

// Forward `exact`, backward as `smooth`.
Tensor straight_through(const Tensor& smooth, const Tensor& exact);

// What inference runs as the output, with gradients as if attend_kernels() had given it.
Attended attend_straight_through(const AttentionForm& form, const AttentionScalars& scalars,
                                 const Tensor& q, const Tensor& k, const Tensor& v);

enum class Arithmetic { formula, kernels, integer, straight_through };
Attended attend(Arithmetic arithmetic, const AttentionForm& form, const AttentionScalars& scalars,
                const Tensor& q, const Tensor& k, const Tensor& v);

// Values of scalars from which training starts, chosen from what a layer computes for one batch.
struct InhibitorStart {
  double scale = 1, alpha = 0, beta = 1;
};
InhibitorStart start_inhibitor(const AttentionForm& form, const Tensor& q, const Tensor& k,
                               const Tensor& v);
// Lowatt's own calibration for a share of pairs to drop: one theta per head.
std::vector<double> start_latte(const AttentionForm& form, double filtered, const Tensor& q,
                                const Tensor& k, const Tensor& v);
struct BitformerStart {
  double clip = 1, temperature = 1;
};
BitformerStart start_bitformer(const AttentionForm& form, const Tensor& q, const Tensor& k);

}  // namespace training
