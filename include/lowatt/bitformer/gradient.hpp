// Bitformer's training form at fp32 and its gradients. Levels w stand for a row's bits: of each
// channel the sum over planes of -1 and 1. With temperature tau, T planes and G the gradient of the
// output O:
//
//   S_ij = sum of products of bits = T * head_dim - sum_c |w(q_ic) - w(k_jc)|
//   p_ij = softmax_j(tau * S_ij), not rounded       out_i = sum_j p_ij v_j
//   dl_ij = p_ij (G_i . V_j - G_i . O_i)            dtau = sum_ij dl_ij S_ij
//   dq_i  = tau * sum_j dl_ij w(k_j) / clip   where |q_ic| <= clip, else 0; dk likewise
//
// (straight-through, 1602.02830: a bit is taken for x / clip, so that the bits of all planes
// together rise by 2 T from -clip to clip). Keys that are centred are k less their channels' means,
// in which every key has a share.
//
// Lives on       fused multiply-add: 2 * head_dim + 2 * value_dim per pair, and for scores head_dim
//                more with one plane, else as many subtractions, ands and additions. Scores of a
//                block are kept.
// Layout         simd/gradient.hpp. Levels are sums of bits, so backward costs the same for any T.
// Exactness      scores are integers, exact while T * head_dim is at most 2^23.
// Accuracy       relative L2 error 1e-4 against float64.
// Tails          simd/float_product.hpp; absent queries of a block have level 0.
#pragma once

#include "../simd/exp2.hpp"
#include "../simd/gradient.hpp"
#include "params.hpp"

namespace lowatt {

// Most bits of a row in training.
inline constexpr Index bitformer_most_training_bits = Index{1} << 23;

struct BitformerTrainingArguments : GradientArguments {
  BitThresholds thresholds;
  float clip = 1;                   // within which gradients pass
  const float* key_mean = nullptr;  // one per channel, subtracted from keys; null: none
  double temperature = 0;
  double* temperature_gradient = nullptr;  // may be null
};

struct BitformerTrainingWorkspace {
  WorkspaceCutter cutter;
  float* query = nullptr;         // [head_dim][16] levels
  float* query_levels = nullptr;  // [16][head_dim]
  float* out_gradient = nullptr;  // [value_dim][16]
  float* scores = nullptr;        // [keys][16]
  float* weight = nullptr;        // [64][16] of one tile, as the next one
  float* gradient = nullptr;      // of weights, then of scores
  float* key_levels = nullptr;    // [keys][head_dim]
  float* key_gradient = nullptr;  // [keys][head_dim], of levels

  LOWATT_ALWAYS_INLINE BitformerTrainingWorkspace(std::byte* base, Index keys, Index head_dim,
                                                  Index value_dim) noexcept
      : cutter{base},
        query(cutter.take<float>(head_dim * gradient_rows)),
        query_levels(cutter.take<float>(head_dim * gradient_rows)),
        out_gradient(cutter.take<float>(value_dim * gradient_rows)),
        scores(cutter.take<float>(keys * gradient_rows)),
        weight(cutter.take<float>(tile_keys * gradient_rows)),
        gradient(cutter.take<float>(tile_keys * gradient_rows)),
        key_levels(cutter.take<float>(keys * head_dim)),
        key_gradient(cutter.take<float>(keys * head_dim)) {}
  LOWATT_ALWAYS_INLINE explicit BitformerTrainingWorkspace(
      const BitformerTrainingArguments& arguments) noexcept
      : BitformerTrainingWorkspace(arguments.workspace, arguments.keys, arguments.head_dim,
                                   arguments.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
};

// What is known of a block's rows: their best scores, and the inverse of their sum of weights.
template <class L>
struct BitformerRows {
  QueryLanes<L> best;     // 0 where nothing is seen
  QueryLanes<L> inverse;  // 0 where nothing is seen
  QueryLanes<L> mean;     // of the gradients of weights: G_i . O_i
};

// Levels of one row; `mean` may be null. NaN reaches no threshold.
template <class L>
void bitformer_levels(const float* x, const float* mean, Index dim, const BitThresholds& thresholds,
                      float* levels) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  for (Index c = 0; c < dim; c += Op::lanes) {
    const Index count = dim - c;
    const auto load = [count](const float* p) __attribute__((always_inline)) {
      return count < Op::lanes ? Op::load_lanes(p, count) : Float::load_unaligned(p);
    };
    Float value = load(x + c);
    if (mean != nullptr) value = value - load(mean + c);
    Float level(0.0f);
    for (int t = 0; t < thresholds.planes; ++t)
      level = level + xsimd::select(value >= Float(thresholds.value[t]), Float(1.0f), Float(-1.0f));
    if (count < Op::lanes)
      Op::store_lanes(levels + c, level, count);
    else
      level.store_unaligned(levels + c);
  }
}

// What one channel adds to the distance of two rows of levels.
template <class L>
struct LevelDistanceStep {
  using Float = typename Ops<L>::Float;
  static LOWATT_ALWAYS_INLINE Float add(Float sum, Float query, Float key) noexcept {
    return sum + xsimd::abs(query - key);
  }
};

// Scores of the block with all keys that it sees.
template <class L>
void bitformer_training_scores(const BitformerTrainingArguments& a,
                               const GradientBlock& block) noexcept {
  using Float = typename Ops<L>::Float;
  const BitformerTrainingWorkspace workspace(a);
  const Index dim = a.head_dim;
  const ConstFloatRows keys{workspace.key_levels, dim};
  for (Index r = 0; r < block.rows; ++r)
    bitformer_levels<L>(a.query.row(block.first + r), nullptr, dim, a.thresholds,
                        workspace.query_levels + r * dim);
  transpose_rows<L>({workspace.query_levels, dim}, block.rows, dim, 1.0f, workspace.query);
  if (a.thresholds.planes == 1) {
    pair_sums<L, MultiplyStep<L>>(keys, block.end, workspace.query, dim, workspace.scores);
  } else {
    pair_sums<L, LevelDistanceStep<L>>(keys, block.end, workspace.query, dim, workspace.scores);
    const Float largest(static_cast<float>(a.thresholds.planes * dim));
    for (Index i = 0; i < block.end * gradient_rows; i += Ops<L>::lanes)
      (largest - Float::load_aligned(workspace.scores + i)).store_aligned(workspace.scores + i);
  }
  hide_pairs(block, 0, block.end, workspace.scores, -__builtin_inff());
}

// tau within float32, and above 0: the distance of the best key, 0, must stay 0, and the infinite
// one of a hidden key infinite.
LOWATT_ALWAYS_INLINE float bitformer_training_temperature(double temperature) noexcept {
  return static_cast<float>(temperature < 1e-30 ? 1e-30 : temperature < 1e30 ? temperature : 1e30);
}
LOWATT_ALWAYS_INLINE float bitformer_training_factor(double temperature) noexcept {
  return bitformer_training_temperature(temperature) * 1.44269504f;  // log2(e)
}

// Row statistics of the block: what weights need to know of all keys.
template <class L>
void bitformer_training_statistics(const BitformerTrainingArguments& a, const GradientBlock& block,
                                   BitformerRows<L>& rows) noexcept {
  using Float = typename Ops<L>::Float;
  const BitformerTrainingWorkspace workspace(a);
  const Float factor(bitformer_training_factor(a.temperature));
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const float* const lanes = workspace.scores + v * Ops<L>::lanes;
    Float best(-__builtin_inff()), sum(0.0f);
    for (Index j = 0; j < block.end; ++j)
      best = xsimd::max(best, Float::load_aligned(lanes + j * gradient_rows));
    const auto sees = best > Float(-__builtin_inff());
    best = xsimd::select(sees, best, Float(0.0f));
    for (Index j = 0; j < block.end; ++j)
      sum = sum + exp2<L>((Float::load_aligned(lanes + j * gradient_rows) - best) * factor);
    rows.best.store(v, best);
    rows.inverse.store(v, xsimd::select(sees, Float(1.0f) / sum, Float(0.0f)));
  }
}

// Levels of all keys.
template <class L>
void bitformer_prepare_training_keys(const BitformerTrainingArguments& a) noexcept {
  const BitformerTrainingWorkspace workspace(a);
  for (Index j = 0; j < a.keys; ++j)
    bitformer_levels<L>(a.key.row(j), a.key_mean, a.head_dim, a.thresholds,
                        workspace.key_levels + j * a.head_dim);
}

// The forward pass of one head.
template <class L>
void bitformer_training_forward(const BitformerTrainingArguments& a) noexcept {
  using Float = typename Ops<L>::Float;
  const BitformerTrainingWorkspace workspace(a);
  const Float factor(bitformer_training_factor(a.temperature));
  bitformer_prepare_training_keys<L>(a);
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const FloatRows out = a.result.from(first);
    BitformerRows<L> rows;
    bitformer_training_scores<L>(a, block);
    bitformer_training_statistics<L>(a, block, rows);
    for (int v = 0; v < QueryLanes<L>::vectors; ++v)
      for (Index j = 0; j < block.end; ++j) {
        float* const score = workspace.scores + j * gradient_rows + v * Ops<L>::lanes;
        (exp2<L>((Float::load_aligned(score) - rows.best.load(v)) * factor) * rows.inverse.load(v))
            .store_aligned(score);
      }
    clear_rows(out, block.rows, a.value_dim);
    for (Index begin = 0; begin < block.end; begin += tile_keys) {
      const Index end = block.tile_end(begin);
      add_to_queries<L, MultiplyStep<L>>(
          block, begin, end, workspace.scores + begin * gradient_rows, a.value, a.value_dim, out);
    }
  }
}

// From the gradients of weights in `gradient`: weights, and the gradients of scores. Returns what
// the rows add to the gradient of the temperature: scores are taken less the row's best, which
// changes nothing, since gradients of logits add up to 0.
template <class L>
double bitformer_pair_gradients(const BitformerTrainingArguments& a, const GradientBlock& block,
                                const BitformerRows<L>& rows, const float* scores,
                                Index keys) noexcept {
  using Float = typename Ops<L>::Float;
  const BitformerTrainingWorkspace workspace(a);
  const Float factor(bitformer_training_factor(a.temperature));
  const Float temperature(bitformer_training_temperature(a.temperature));
  QueryLanes<L> of_temperature;
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const Float best = rows.best.load(v), inverse = rows.inverse.load(v), mean = rows.mean.load(v);
    Float sum(0.0f);
    for (Index j = 0; j < keys; ++j) {
      const Index at = j * gradient_rows + v * Ops<L>::lanes;
      const Float distance = Float::load_aligned(scores + at) - best;
      const Float weight = exp2<L>(distance * factor) * inverse;
      const Float of_logit = weight * (Float::load_aligned(workspace.gradient + at) - mean);
      // Of a hidden key the distance is infinite.
      sum = sum +
            xsimd::select(distance > Float(-__builtin_inff()), of_logit * distance, Float(0.0f));
      weight.store_aligned(workspace.weight + at);
      (of_logit * temperature).store_aligned(workspace.gradient + at);
    }
    of_temperature.store(v, sum);
  }
  double total = 0;
  for (Index r = 0; r < block.rows; ++r) total += static_cast<double>(of_temperature.lane[r]);
  return total;
}

// Gradients of levels become those of the values that they were made of.
LOWATT_ALWAYS_INLINE float bitformer_straight_through(float x, float of_level,
                                                      float clip) noexcept {
  return __builtin_fabsf(x) <= clip && clip > 0 ? of_level / clip : 0.0f;
}

// Adds the gradients of levels to those of keys.
template <class L>
void bitformer_finish_keys(const BitformerTrainingArguments& a) noexcept {
  const BitformerTrainingWorkspace workspace(a);
  const Index dim = a.head_dim;
  const auto value = [&](Index j, Index c) __attribute__((always_inline)) {
    const float key = a.key.row(j)[c];
    return a.key_mean == nullptr ? key : key - a.key_mean[c];
  };
  for (Index j = 0; j < a.keys; ++j) {
    float* const gradient = workspace.key_gradient + j * dim;
    for (Index c = 0; c < dim; ++c)
      gradient[c] = bitformer_straight_through(value(j, c), gradient[c], a.clip);
    for (Index c = 0; c < dim; ++c) a.key_gradient.row(j)[c] += gradient[c];
  }
  if (a.key_mean == nullptr) return;
  // The mean is of finite keys, each of which takes an equal share of what it owes.
  for (Index c = 0; c < dim; ++c) {
    double sum = 0, count = 0;
    for (Index j = 0; j < a.keys; ++j) {
      sum += static_cast<double>(workspace.key_gradient[j * dim + c]);
      count += is_finite(a.key.row(j)[c]) ? 1 : 0;
    }
    const float share = count > 0 ? static_cast<float>(sum / count) : 0.0f;
    for (Index j = 0; j < a.keys; ++j)
      if (is_finite(a.key.row(j)[c])) a.key_gradient.row(j)[c] -= share;
  }
}

// The backward pass of one head.
template <class L>
void bitformer_training_gradient(const BitformerTrainingArguments& a) noexcept {
  const BitformerTrainingWorkspace workspace(a);
  const Index dim = a.head_dim;
  bitformer_prepare_training_keys<L>(a);
  clear_rows({workspace.key_gradient, dim}, a.keys, dim);
  double temperature_gradient = 0;
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const ConstFloatRows query = a.query.from(first), out_gradient = a.out_gradient.from(first);
    const FloatRows query_gradient = a.query_gradient.from(first);
    BitformerRows<L> rows;
    bitformer_training_scores<L>(a, block);
    bitformer_training_statistics<L>(a, block, rows);
    transpose_rows<L>(out_gradient, block.rows, a.value_dim, 1.0f, workspace.out_gradient);
    rows.mean.fill(0);
    for (Index r = 0; r < block.rows; ++r)
      rows.mean.lane[r] = dot_product<L>(out_gradient.row(r), a.out.row(first + r), a.value_dim);
    clear_rows(query_gradient, block.rows, dim);

    for (Index begin = 0; begin < block.end; begin += tile_keys) {
      const Index end = block.tile_end(begin);
      pair_sums<L, MultiplyStep<L>>(a.value.from(begin), end - begin, workspace.out_gradient,
                                    a.value_dim, workspace.gradient);
      hide_pairs(block, begin, end, workspace.gradient, 0.0f);
      temperature_gradient += bitformer_pair_gradients<L>(
          a, block, rows, workspace.scores + begin * gradient_rows, end - begin);
      add_to_keys<L>(block, begin, end, workspace.weight, out_gradient, a.value_dim,
                     a.value_gradient);
      add_to_queries<L, MultiplyStep<L>>(block, begin, end, workspace.gradient,
                                         {workspace.key_levels, dim}, dim, query_gradient);
      add_to_keys<L>(block, begin, end, workspace.gradient, {workspace.query_levels, dim}, dim,
                     {workspace.key_gradient, dim});
    }
    for (Index r = 0; r < block.rows; ++r) {
      float* const gradient = query_gradient.row(r);
      for (Index c = 0; c < dim; ++c)
        gradient[c] = bitformer_straight_through(query.row(r)[c], gradient[c], a.clip);
    }
  }
  bitformer_finish_keys<L>(a);
  if (a.temperature_gradient != nullptr) *a.temperature_gradient = temperature_gradient;
}

}  // namespace lowatt
