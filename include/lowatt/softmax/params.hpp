// Softmax attention, the baseline: out_i = sum_j softmax_j(scale * q_i . k_j) * v_j.
#pragma once

#include "../core/setting.hpp"

LOWATT_API_BEGIN

struct Softmax {
  Setting scale = {};  // multiplies scores; finite, > 0. Default 1/sqrt(head_dim)
};

LOWATT_API_END
