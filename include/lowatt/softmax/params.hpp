// Softmax attention, the baseline: out_i = sum_j softmax_j(scale * q_i . k_j) * v_j.
#pragma once

#include "../core/precision.hpp"
#include "../core/setting.hpp"

LOWATT_API_BEGIN

struct Softmax {
  Setting scale = {};  // multiplies scores; finite, > 0. Default 1/sqrt(head_dim)

  // Where given, scores s become soft_cap * tanh(s / soft_cap); finite, > 0.
  Setting soft_cap = {};

  // fp32: as given. bf16: Q, K and V are rounded to it. f16: K and V are. int8: Q is quantised per
  // token, K and V per KV head. There are no others.
  Precision precision = Precision::fp32;
};

LOWATT_API_END
