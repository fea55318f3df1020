// The training form of softmax attention: outputs and gradients at fp32. With p_ij = exp(s_ij) /
// sum_j exp(s_ij), s_ij = scale * q_i . k_j and G the gradient of the output O (2205.14135,
// appendix B):
//
//   dV_j = sum_i p_ij G_i            ds_ij = p_ij (G_i . V_j - G_i . O_i)
//   dQ_i = scale * sum_j ds_ij K_j   dK_j  = scale * sum_i ds_ij Q_i
//
// Lives on       fused multiply-add: 3 * head_dim + 2 * value_dim per pair. Scores of a block are
//                kept, so that they are computed once.
// Layout         simd/gradient.hpp.
// Accuracy       relative L2 error 1e-4 against float64.
// Tails          simd/float_product.hpp; absent queries of a block are 0.
#pragma once

#include "../simd/exp2.hpp"
#include "../simd/gradient.hpp"
#include "kernel.hpp"

namespace lowatt {

struct SoftmaxTrainingArguments : GradientArguments {
  double scale = 1;  // of scores
};

struct SoftmaxGradientWorkspace {
  WorkspaceCutter cutter;
  float* query = nullptr;                // [head_dim][16], with scale and log2(e)
  float* out_gradient = nullptr;         // [value_dim][16]
  float* scaled_out_gradient = nullptr;  // [16][value_dim], times one over the row's sum of weights
  float* weights = nullptr;              // [keys][16], scores at first
  float* gradient = nullptr;             // [64][16], of one tile's scores

  LOWATT_ALWAYS_INLINE SoftmaxGradientWorkspace(std::byte* base, Index keys, Index head_dim,
                                                Index value_dim) noexcept
      : cutter{base},
        query(cutter.take<float>(head_dim * gradient_rows)),
        out_gradient(cutter.take<float>(value_dim * gradient_rows)),
        scaled_out_gradient(cutter.take<float>(gradient_rows * value_dim)),
        weights(cutter.take<float>(keys * gradient_rows)),
        gradient(cutter.take<float>(tile_keys * gradient_rows)) {}

  LOWATT_ALWAYS_INLINE explicit SoftmaxGradientWorkspace(const GradientArguments& a) noexcept
      : SoftmaxGradientWorkspace(a.workspace, a.keys, a.head_dim, a.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
};

// Turns the scores of `keys` keys, in units of log2, into weights 2^(score - maximum); `inverse` is
// one over their sum, infinity where a row sees no key.
template <class L>
void softmax_weights(float* scores, Index keys, QueryLanes<L>& inverse) noexcept {
  using Float = typename Ops<L>::Float;
  constexpr int together = 4;  // maxima and sums side by side: they wait for each other else
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    float* const lanes = scores + v * Ops<L>::lanes;
    Float highest[together], sum[together];
    LOWATT_UNROLL
    for (int i = 0; i < together; ++i) {
      highest[i] = Float(-__builtin_inff());
      sum[i] = Float(0.0f);
    }
    const auto for_keys = [&](auto each) __attribute__((always_inline)) {
      Index j = 0;
      for (; j + together <= keys; j += together) {
        LOWATT_UNROLL
        for (int i = 0; i < together; ++i) each(i, lanes + (j + i) * gradient_rows);
      }
      for (; j < keys; ++j) each(0, lanes + j * gradient_rows);
    };
    for_keys([&](int i, float* score) __attribute__((always_inline)) {
      highest[i] = xsimd::max(highest[i], Float::load_unaligned(score));
    });
    const Float most =
        xsimd::max(xsimd::max(highest[0], highest[1]), xsimd::max(highest[2], highest[3]));
    // As long as all scores are -infinity, any finite number does in the maximum's place.
    const Float subtracted = xsimd::select(most > Float(-__builtin_inff()), most, Float(0.0f));
    for_keys([&](int i, float* score) __attribute__((always_inline)) {
      const Float weight = exp2<L>(Float::load_unaligned(score) - subtracted);
      weight.store_unaligned(score);
      sum[i] = sum[i] + weight;
    });
    inverse.store(v, Float(1.0f) / ((sum[0] + sum[1]) + (sum[2] + sum[3])));
  }
}

// Of weights to scores: gradient = weight * factor * (gradient - mean).
template <class L>
void softmax_score_gradient(const float* weights, const QueryLanes<L>& factor,
                            const QueryLanes<L>& mean, Index keys, float* gradient) noexcept {
  using Float = typename Ops<L>::Float;
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const Float multiplied = factor.load(v), subtracted = mean.load(v);
    for (Index j = 0; j < keys; ++j) {
      const Index at = j * gradient_rows + v * Ops<L>::lanes;
      (Float::load_unaligned(weights + at) * multiplied *
       (Float::load_unaligned(gradient + at) - subtracted))
          .store_unaligned(gradient + at);
    }
  }
}

// The scores of a block's rows with all keys, as weights.
template <class L>
void softmax_block_weights(const SoftmaxTrainingArguments& a, const GradientBlock& block,
                           const SoftmaxGradientWorkspace& workspace,
                           QueryLanes<L>& inverse) noexcept {
  transpose_rows<L>(a.query.from(block.first), block.rows, a.head_dim, softmax_factor(a.scale),
                    workspace.query);
  pair_sums<L, MultiplyStep<L>>(a.key, block.end, workspace.query, a.head_dim, workspace.weights);
  hide_pairs(block, 0, block.end, workspace.weights, -__builtin_inff());
  softmax_weights<L>(workspace.weights, block.end, inverse);
}

template <class L>
void softmax_training_forward(const SoftmaxTrainingArguments& a) noexcept {
  const SoftmaxGradientWorkspace workspace(a);
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const FloatRows out = a.result.from(first);
    QueryLanes<L> inverse;
    softmax_block_weights<L>(a, block, workspace, inverse);
    clear_rows(out, block.rows, a.value_dim);
    for (Index begin = 0; begin < block.end; begin += tile_keys)
      add_to_queries<L, MultiplyStep<L>>(block, begin, block.tile_end(begin),
                                         workspace.weights + begin * gradient_rows, a.value,
                                         a.value_dim, out);
    for (Index r = 0; r < block.rows; ++r)
      if (block.seen(r) > 0)
        for (Index c = 0; c < a.value_dim; ++c) out.row(r)[c] *= inverse.lane[r];
  }
}

template <class L>
void softmax_training_gradient(const SoftmaxTrainingArguments& a) noexcept {
  const SoftmaxGradientWorkspace workspace(a);
  const FloatRows scaled{workspace.scaled_out_gradient, a.value_dim};
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const ConstFloatRows query = a.query.from(first), out_gradient = a.out_gradient.from(first);
    const FloatRows query_gradient = a.query_gradient.from(first);
    QueryLanes<L> inverse, mean;  // mean of the gradients of weights: G_i . O_i
    softmax_block_weights<L>(a, block, workspace, inverse);
    transpose_rows<L>(out_gradient, block.rows, a.value_dim, 1.0f, workspace.out_gradient);
    clear_rows(query_gradient, block.rows, a.head_dim);
    for (Index r = 0; r < gradient_rows; ++r) mean.lane[r] = 0;
    for (Index r = 0; r < block.rows; ++r) {
      const float* of_out = out_gradient.row(r);
      mean.lane[r] = dot_product<L>(of_out, a.out.row(first + r), a.value_dim);
      for (Index c = 0; c < a.value_dim; ++c) scaled.row(r)[c] = inverse.lane[r] * of_out[c];
      inverse.lane[r] *= static_cast<float>(a.scale);
    }

    for (Index begin = 0; begin < block.end; begin += tile_keys) {
      const Index end = block.tile_end(begin);
      const float* weights = workspace.weights + begin * gradient_rows;
      add_to_keys<L>(block, begin, end, weights, {scaled.data, scaled.stride}, a.value_dim,
                     a.value_gradient);
      pair_sums<L, MultiplyStep<L>>(a.value.from(begin), end - begin, workspace.out_gradient,
                                    a.value_dim, workspace.gradient);
      softmax_score_gradient<L>(weights, inverse, mean, end - begin, workspace.gradient);
      add_to_queries<L, MultiplyStep<L>>(block, begin, end, workspace.gradient, a.key, a.head_dim,
                                         query_gradient);
      add_to_keys<L>(block, begin, end, workspace.gradient, query, a.head_dim, a.key_gradient);
    }
  }
}

}  // namespace lowatt
