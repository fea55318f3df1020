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
  float* query = nullptr;         // [head_dim][16], with scale and log2(e)
  float* out_gradient = nullptr;  // [value_dim][16]
  float* weights = nullptr;       // [keys][16], scores at first
  float* gradient = nullptr;      // [64][16], of one tile's scores

  LOWATT_ALWAYS_INLINE SoftmaxGradientWorkspace(std::byte* base, Index keys, Index head_dim,
                                                Index value_dim) noexcept
      : cutter{base},
        query(cutter.take<float>(head_dim * gradient_rows)),
        out_gradient(cutter.take<float>(value_dim * gradient_rows)),
        weights(cutter.take<float>(keys * gradient_rows)),
        gradient(cutter.take<float>(tile_keys * gradient_rows)) {}

  LOWATT_ALWAYS_INLINE explicit SoftmaxGradientWorkspace(const GradientArguments& a) noexcept
      : SoftmaxGradientWorkspace(a.workspace, a.keys, a.head_dim, a.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
};

// Turns the scores of `keys` keys, in units of log2, into the weights of softmax.
template <class L>
void softmax_weights(float* scores, Index keys) noexcept {
  using Float = typename Ops<L>::Float;
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    float* const lanes = scores + v * Ops<L>::lanes;
    Float highest(-__builtin_inff());
    for (Index j = 0; j < keys; ++j)
      highest = xsimd::max(highest, Float::load_unaligned(lanes + j * gradient_rows));
    // As long as all scores are -infinity, any finite number does in the maximum's place.
    highest = xsimd::select(highest > Float(-__builtin_inff()), highest, Float(0.0f));
    Float sum(0.0f);
    for (Index j = 0; j < keys; ++j) {
      float* const score = lanes + j * gradient_rows;
      const Float weight = exp2<L>(Float::load_unaligned(score) - highest);
      weight.store_unaligned(score);
      sum = sum + weight;
    }
    const Float inverse = Float(1.0f) / sum;
    for (Index j = 0; j < keys; ++j) {
      float* const weight = lanes + j * gradient_rows;
      (Float::load_unaligned(weight) * inverse).store_unaligned(weight);
    }
  }
}

// gradient = scale * weight * (gradient - mean), of weights to scores.
template <class L>
void softmax_score_gradient(const float* weights, const QueryLanes<L>& mean, float scale,
                            Index keys, float* gradient) noexcept {
  using Float = typename Ops<L>::Float;
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const Float subtracted = mean.load(v);
    for (Index j = 0; j < keys; ++j) {
      const Index at = j * gradient_rows + v * Ops<L>::lanes;
      (Float::load_unaligned(weights + at) * Float(scale) *
       (Float::load_unaligned(gradient + at) - subtracted))
          .store_unaligned(gradient + at);
    }
  }
}

// The scores of a block's rows with all keys, as weights.
template <class L>
void softmax_block_weights(const SoftmaxTrainingArguments& a, const GradientBlock& block,
                           const SoftmaxGradientWorkspace& workspace) noexcept {
  transpose_rows<L>(a.query.from(block.first), block.rows, a.head_dim, softmax_factor(a.scale),
                    workspace.query);
  pair_sums<L, MultiplyStep<L>>(a.key, block.end, workspace.query, a.head_dim, workspace.weights);
  hide_pairs(block, 0, block.end, workspace.weights, -__builtin_inff());
  softmax_weights<L>(workspace.weights, block.end);
}

template <class L>
void softmax_training_forward(const SoftmaxTrainingArguments& a) noexcept {
  const SoftmaxGradientWorkspace workspace(a);
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const FloatRows out = a.result.from(first);
    clear_rows(out, block.rows, a.value_dim);
    softmax_block_weights<L>(a, block, workspace);
    add_to_queries<L, MultiplyStep<L>>(block, 0, block.end, workspace.weights, a.value, a.value_dim,
                                       out);
  }
}

template <class L>
void softmax_training_gradient(const SoftmaxTrainingArguments& a) noexcept {
  const SoftmaxGradientWorkspace workspace(a);
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const ConstFloatRows query = a.query.from(first), out_gradient = a.out_gradient.from(first);
    const ConstFloatRows out = a.out.from(first);
    const FloatRows query_gradient = a.query_gradient.from(first);
    clear_rows(query_gradient, block.rows, a.head_dim);
    softmax_block_weights<L>(a, block, workspace);
    transpose_rows<L>(out_gradient, block.rows, a.value_dim, 1.0f, workspace.out_gradient);
    QueryLanes<L> mean;  // of the gradients of weights: G_i . O_i
    for (float& x : mean.lane) x = 0;
    for (Index r = 0; r < block.rows; ++r)
      for (Index c = 0; c < a.value_dim; ++c)
        mean.lane[r] += out_gradient.row(r)[c] * out.row(r)[c];

    for (Index begin = 0; begin < block.end; begin += tile_keys) {
      const Index end = block.tile_end(begin);
      const float* weights = workspace.weights + begin * gradient_rows;
      add_to_keys<L>(block, begin, end, weights, out_gradient, a.value_dim, a.value_gradient);
      pair_sums<L, MultiplyStep<L>>(a.value.from(begin), end - begin, workspace.out_gradient,
                                    a.value_dim, workspace.gradient);
      softmax_score_gradient<L>(weights, mean, static_cast<float>(a.scale), end - begin,
                                workspace.gradient);
      add_to_queries<L, MultiplyStep<L>>(block, begin, end, workspace.gradient, a.key, a.head_dim,
                                         query_gradient);
      add_to_keys<L>(block, begin, end, workspace.gradient, query, a.head_dim, a.key_gradient);
    }
  }
}

}  // namespace lowatt
