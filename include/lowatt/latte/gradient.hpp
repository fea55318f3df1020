// LATTE's training form at fp32 and its gradients (params.hpp: SoftLatte). With t the softness, G
// the gradient of the output O, and c that of the mean of m per visible pair:
//
//   x_ij = (low_ij - max_j low_ij + theta) / t    m_ij = sigmoid(x_ij)
//   p_ij = m_ij exp(s_ij) / sum_j m_ij exp(s_ij)
//   dl_ij   = p_ij (G_i . V_j - G_i . O_i)                    of ln(m_ij exp(s_ij))
//   dlow_ij = (dl_ij + c m_ij) (1 - m_ij) / t
//   dtheta  = sum_ij dlow_ij                                  of one head
//   ds_ij   = dl_ij; where low scores are exact they are s, so + dlow_ij; the row's first best key
//             takes - sum_j dlow_ij
//
// Low scores on four bits are unit_i * (integer product of high nibbles); their gradients go to q
// and k as if the nibbles were q and k: dq_i += scale * sum_j dlow_ij k~_j with k~ = 16 * sk *
// nibble.
//
// Lives on       fused multiply-add: 3 * head_dim + 2 * value_dim per pair, and with low scores on
//                four bits 4 * head_dim more. Low scores of a block are kept.
// Layout         simd/gradient.hpp.
// Exactness      low scores on four bits are the integers of the int8 kernel's first pass up to
//                head_dim 2^18 (they reach 64 * head_dim, and float32 holds 2^24), and so is which
//                key is best; what the soft mask adds is rounding.
// Accuracy       relative L2 error 1e-4 against float64 for scores of up to some tens of t.
// Tails          simd/float_product.hpp; absent queries of a block are 0.
#pragma once

#include "../quant/scale.hpp"
#include "../simd/exp2.hpp"
#include "../simd/gradient.hpp"
#include "../simd/quantize.hpp"
#include "params.hpp"

namespace lowatt {

// Most keys whose positions float32 holds.
inline constexpr Index soft_latte_most_keys = Index{1} << 24;

struct SoftLatteTrainingArguments : GradientArguments {
  double scale = 1, theta = 0, softness = 1;
  bool quantised = true;
  NibbleSplit split = NibbleSplit::round;
  SymmetricScale key_scale{};  // of the KV head, where quantised

  double* survival = nullptr;        // written by the forward pass: mean of m over visible pairs
  double survival_gradient = 0;      // of the loss by it
  double* theta_gradient = nullptr;  // may be null
};

struct SoftLatteWorkspace {
  WorkspaceCutter cutter;
  float* query = nullptr;         // [head_dim][16], with scale and log2(e)
  float* out_gradient = nullptr;  // [value_dim][16]
  float* low = nullptr;           // [keys][16]
  float* score = nullptr;         // [64][16] of one tile, as the following three
  float* weight = nullptr;
  float* gradient = nullptr;  // of weights, then of scores
  float* low_gradient = nullptr;
  // Where low scores are on four bits:
  float* query_high = nullptr;          // [head_dim][16] nibbles
  float* query_low = nullptr;           // [16][head_dim], what they stand for
  float* low_query_gradient = nullptr;  // [16][head_dim], in units of the keys' nibbles
  float* key_high = nullptr;            // [keys][head_dim] nibbles
  std::int8_t* row = nullptr;           // [head_dim] quantised

  LOWATT_ALWAYS_INLINE SoftLatteWorkspace(std::byte* base, Index keys, Index head_dim,
                                          Index value_dim, bool quantised) noexcept
      : cutter{base},
        query(cutter.take<float>(head_dim * gradient_rows)),
        out_gradient(cutter.take<float>(value_dim * gradient_rows)),
        low(cutter.take<float>(keys * gradient_rows)),
        score(cutter.take<float>(tile_keys * gradient_rows)),
        weight(cutter.take<float>(tile_keys * gradient_rows)),
        gradient(cutter.take<float>(tile_keys * gradient_rows)),
        low_gradient(cutter.take<float>(tile_keys * gradient_rows)) {
    if (!quantised) return;
    query_high = cutter.take<float>(head_dim * gradient_rows);
    query_low = cutter.take<float>(head_dim * gradient_rows);
    low_query_gradient = cutter.take<float>(head_dim * gradient_rows);
    key_high = cutter.take<float>(keys * head_dim);
    row = cutter.take<std::int8_t>(head_dim);
  }
  LOWATT_ALWAYS_INLINE explicit SoftLatteWorkspace(
      const SoftLatteTrainingArguments& arguments) noexcept
      : SoftLatteWorkspace(arguments.workspace, arguments.keys, arguments.head_dim,
                           arguments.value_dim, arguments.quantised) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
};

// What is known of a block's rows.
template <class L>
struct SoftLatteRows {
  QueryLanes<L> unit;      // a step of low scores in log2(e) * t
  float threshold = 0;     // theta in log2(e) * t
  QueryLanes<L> best_low;  // 0 where nothing is seen
  QueryLanes<L> best_key;  // the first with the best low score
  QueryLanes<L> best;      // bound of logits in log2: the sums' unit
  QueryLanes<L> sum;       // of weights, then its inverse; 0 where nothing is seen
  QueryLanes<L> masks;     // their sum
  QueryLanes<L> mean;      // of the gradients of weights: G_i . O_i
  QueryLanes<L> low_sum;   // of the gradients of low scores
};

// The soft mask of a register of pairs. x is in units of log2; e = 2^-|x|.
template <class L>
struct SoftMask {
  using Float = typename Ops<L>::Float;
  Float x, e, larger;  // larger = max(m, 1 - m)

  LOWATT_ALWAYS_INLINE SoftMask(Float low, Float best_low, Float unit, Float threshold) noexcept
      : x(Ops<L>::multiply_add(low - best_low, unit, threshold)),
        e(exp2<L>(-xsimd::abs(x))),
        larger(Float(1.0f) / (Float(1.0f) + e)) {}

  LOWATT_ALWAYS_INLINE Float mask() const noexcept {
    return xsimd::select(x < Float(0.0f), e * larger, larger);
  }
  LOWATT_ALWAYS_INLINE Float rest() const noexcept {  // 1 - m
    return xsimd::select(x < Float(0.0f), larger, e * larger);
  }
  // m * 2^score in units of 2^best.
  LOWATT_ALWAYS_INLINE Float weight(Float score, Float best) const noexcept {
    return exp2<L>(xsimd::min(x, Float(0.0f)) + score - best) * larger;
  }
};

// The high nibbles of a row as floats, `stride` apart.
LOWATT_ALWAYS_INLINE void soft_latte_nibbles(const std::int8_t* bytes, Index head_dim,
                                             NibbleSplit split, float* out, Index stride) noexcept {
  for (Index c = 0; c < head_dim; ++c)
    out[c * stride] = static_cast<float>(high_nibble(bytes[c], split));
}

// The nibbles of all keys.
template <class L>
void soft_latte_prepare_keys(const SoftLatteTrainingArguments& a) noexcept {
  const SoftLatteWorkspace workspace(a);
  const Index dim = a.head_dim;
  for (Index j = 0; j < a.keys; ++j) {
    quantize_row<L>(a.key.row(j), dim, a.key_scale.inverse, workspace.row);
    soft_latte_nibbles(workspace.row, dim, a.split, workspace.key_high + j * dim, 1);
  }
}

// A unit of low scores, finite and above 0: the distance of the best key, 0, must stay 0, and the
// infinite one of a hidden key infinite.
LOWATT_ALWAYS_INLINE float soft_latte_unit(double unit) noexcept {
  return static_cast<float>(unit < 1e-30 ? 1e-30 : unit < 1e30 ? unit : 1e30);
}

// Encodes the block's queries.
template <class L>
void soft_latte_prepare_queries(const SoftLatteTrainingArguments& a, const GradientBlock& block,
                                SoftLatteRows<L>& rows) noexcept {
  constexpr double log2_e = 1.4426950408889634;
  const SoftLatteWorkspace workspace(a);
  const Index dim = a.head_dim;
  const ConstFloatRows query = a.query.from(block.first);
  transpose_rows<L>(query, block.rows, dim, static_cast<float>(a.scale * log2_e), workspace.query);
  rows.threshold = static_cast<float>(a.theta / a.softness * log2_e);
  rows.unit.fill(soft_latte_unit(a.quantised ? 0 : 1 / a.softness));
  if (!a.quantised) return;
  for (Index i = 0; i < dim * gradient_rows; ++i) workspace.query_high[i] = 0;
  for (Index r = 0; r < block.rows; ++r) {
    const SymmetricScale scale = symmetric_scale(finite_absmax(query.row(r), dim), int8_limit);
    quantize_row<L>(query.row(r), dim, scale.inverse, workspace.row);
    soft_latte_nibbles(workspace.row, dim, a.split, workspace.query_high + r, gradient_rows);
    float* const stood_for = workspace.query_low + r * dim;
    soft_latte_nibbles(workspace.row, dim, a.split, stood_for, 1);
    for (Index c = 0; c < dim; ++c) stood_for[c] *= 16 * scale.scale;
    const double unit = latte_unit(scale.scale, a.key_scale.scale, a.scale) / a.softness * log2_e;
    rows.unit.lane[r] = soft_latte_unit(unit);
  }
}

// Low scores of the block, their maxima and which keys have them.
template <class L>
void soft_latte_low_scores(const SoftLatteTrainingArguments& a, const GradientBlock& block,
                           SoftLatteRows<L>& rows) noexcept {
  using Float = typename Ops<L>::Float;
  const SoftLatteWorkspace workspace(a);
  const Index dim = a.head_dim;
  if (a.quantised)
    pair_sums<L, MultiplyStep<L>>({workspace.key_high, dim}, block.end, workspace.query_high, dim,
                                  workspace.low);
  else
    pair_sums<L, MultiplyStep<L>>(a.key, block.end, workspace.query, dim, workspace.low);
  hide_pairs(block, 0, block.end, workspace.low, -__builtin_inff());
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const float* const lanes = workspace.low + v * Ops<L>::lanes;
    Float best(-__builtin_inff()), key(0.0f);
    for (Index j = 0; j < block.end; ++j) {
      const Float low = Float::load_unaligned(lanes + j * gradient_rows);
      key = xsimd::select(low > best, Float(static_cast<float>(j)), key);
      best = xsimd::max(best, low);
    }
    rows.best_key.store(v, key);
    rows.best_low.store(v, xsimd::select(best > Float(-__builtin_inff()), best, Float(0.0f)));
  }
}

// Scores of keys [begin, end), in units of log2.
template <class L>
const float* soft_latte_scores(const SoftLatteTrainingArguments& a, const GradientBlock& block,
                               Index begin, Index end) noexcept {
  const SoftLatteWorkspace workspace(a);
  if (!a.quantised) return workspace.low + begin * gradient_rows;
  pair_sums<L, MultiplyStep<L>>(a.key.from(begin), end - begin, workspace.query, a.head_dim,
                                workspace.score);
  hide_pairs(block, begin, end, workspace.score, -__builtin_inff());
  return workspace.score;
}

// Adds `keys` keys to the rows' sums of weights and masks.
template <class L>
void soft_latte_add_sums(const float* low, const float* score, Index keys,
                         SoftLatteRows<L>& rows) noexcept {
  using Float = typename Ops<L>::Float;
  const Float threshold(rows.threshold);
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const Float best_low = rows.best_low.load(v), unit = rows.unit.load(v);
    const Float before = rows.best.load(v);
    Float best = before;
    for (Index j = 0; j < keys; ++j) {
      const Index at = j * gradient_rows + v * Ops<L>::lanes;
      const Float x =
          Ops<L>::multiply_add(Float::load_unaligned(low + at) - best_low, unit, threshold);
      best = xsimd::max(best, Float::load_unaligned(score + at) + xsimd::min(x, Float(0.0f)));
    }
    rows.best.store(v, best);
    best = xsimd::select(best > Float(-__builtin_inff()), best, Float(0.0f));
    Float sum = rows.sum.load(v) * exp2<L>(before - best), masks = rows.masks.load(v);
    for (Index j = 0; j < keys; ++j) {
      const Index at = j * gradient_rows + v * Ops<L>::lanes;
      const SoftMask<L> soft(Float::load_unaligned(low + at), best_low, unit, threshold);
      sum = sum + soft.weight(Float::load_unaligned(score + at), best);
      masks = masks + soft.mask();
    }
    rows.sum.store(v, sum);
    rows.masks.store(v, masks);
  }
}

// Row statistics of the block: what weights need to know of all keys.
template <class L>
void soft_latte_statistics(const SoftLatteTrainingArguments& a, const GradientBlock& block,
                           SoftLatteRows<L>& rows) noexcept {
  const SoftLatteWorkspace workspace(a);
  soft_latte_prepare_queries<L>(a, block, rows);
  soft_latte_low_scores<L>(a, block, rows);
  rows.best.fill(-__builtin_inff());
  rows.sum.fill(0);
  rows.masks.fill(0);
  for (Index begin = 0; begin < block.end; begin += tile_keys) {
    const Index end = block.tile_end(begin);
    soft_latte_add_sums<L>(workspace.low + begin * gradient_rows,
                           soft_latte_scores<L>(a, block, begin, end), end - begin, rows);
  }
  for (Index r = 0; r < gradient_rows; ++r) {
    if (rows.best.lane[r] == -__builtin_inff()) rows.best.lane[r] = 0;
    rows.sum.lane[r] = rows.sum.lane[r] == 0 ? 0 : 1 / rows.sum.lane[r];
  }
}

// Weights of `keys` keys.
template <class L>
void soft_latte_weights(const float* low, const float* score, Index keys,
                        const SoftLatteRows<L>& rows, float* weight) noexcept {
  using Float = typename Ops<L>::Float;
  const Float threshold(rows.threshold);
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const Float best_low = rows.best_low.load(v), unit = rows.unit.load(v);
    const Float best = rows.best.load(v), inverse = rows.sum.load(v);
    for (Index j = 0; j < keys; ++j) {
      const Index at = j * gradient_rows + v * Ops<L>::lanes;
      const SoftMask<L> soft(Float::load_unaligned(low + at), best_low, unit, threshold);
      (soft.weight(Float::load_unaligned(score + at), best) * inverse).store_unaligned(weight + at);
    }
  }
}

// Visible pairs of the head.
LOWATT_ALWAYS_INLINE double soft_latte_pairs(const GradientArguments& a) noexcept {
  double pairs = 0;
  for (Index i = 0; i < a.queries; ++i)
    pairs += static_cast<double>(visible_keys(a.causal, i, a.queries, a.keys).count());
  return pairs;
}

// The forward pass of one head.
template <class L>
void soft_latte_training_forward(const SoftLatteTrainingArguments& a) noexcept {
  const SoftLatteWorkspace workspace(a);
  if (a.quantised) soft_latte_prepare_keys<L>(a);
  double masks = 0;
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const FloatRows out = a.result.from(first);
    SoftLatteRows<L> rows;
    soft_latte_statistics<L>(a, block, rows);
    for (Index r = 0; r < block.rows; ++r) masks += static_cast<double>(rows.masks.lane[r]);
    clear_rows(out, block.rows, a.value_dim);
    for (Index begin = 0; begin < block.end; begin += tile_keys) {
      const Index end = block.tile_end(begin);
      soft_latte_weights<L>(workspace.low + begin * gradient_rows,
                            soft_latte_scores<L>(a, block, begin, end), end - begin, rows,
                            workspace.weight);
      add_to_queries<L, MultiplyStep<L>>(block, begin, end, workspace.weight, a.value, a.value_dim,
                                         out);
    }
  }
  const double pairs = soft_latte_pairs(a);
  if (a.survival != nullptr) *a.survival = pairs > 0 ? masks / pairs : 0.0;
}

// From the gradients of weights in `gradient`: weights, and the gradients of scores and low scores,
// both times scale.
template <class L>
void soft_latte_pair_gradients(const SoftLatteTrainingArguments& a, float mask_gradient,
                               const float* low, const float* score, Index keys,
                               SoftLatteRows<L>& rows) noexcept {
  using Float = typename Ops<L>::Float;
  const SoftLatteWorkspace workspace(a);
  const Float threshold(rows.threshold), scale(static_cast<float>(a.scale));
  const Float steepness(static_cast<float>(1 / a.softness));
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const Float best_low = rows.best_low.load(v), unit = rows.unit.load(v);
    const Float best = rows.best.load(v), inverse = rows.sum.load(v), mean = rows.mean.load(v);
    Float low_sum = rows.low_sum.load(v);
    for (Index j = 0; j < keys; ++j) {
      const Index at = j * gradient_rows + v * Ops<L>::lanes;
      const SoftMask<L> soft(Float::load_unaligned(low + at), best_low, unit, threshold);
      const Float weight = soft.weight(Float::load_unaligned(score + at), best) * inverse;
      const Float of_logit = weight * (Float::load_unaligned(workspace.gradient + at) - mean);
      const Float of_mask = Ops<L>::multiply_add(Float(mask_gradient), soft.mask(), of_logit);
      const Float of_low = of_mask * soft.rest() * steepness;
      low_sum = low_sum + of_low;
      weight.store_unaligned(workspace.weight + at);
      (of_low * scale).store_unaligned(workspace.low_gradient + at);
      const Float of_score = a.quantised ? of_logit : of_logit + of_low;
      (of_score * scale).store_unaligned(workspace.gradient + at);
    }
    rows.low_sum.store(v, low_sum);
  }
}

// What low scores owe to the row's maximum, which they are taken less.
template <class L>
void soft_latte_best_gradient(const SoftLatteTrainingArguments& a, const GradientBlock& block,
                              const SoftLatteRows<L>& rows) noexcept {
  const SoftLatteWorkspace workspace(a);
  const Index dim = a.head_dim;
  const auto add = [dim](float factor, const float* from, float* to) {
    float_combine<L, MultiplyStep<L>>(ConstFloatRows{&factor, 1}, 1, {from, dim}, 1, dim, {to, dim},
                                      true);
  };
  for (Index r = 0; r < block.rows; ++r) {
    if (block.seen(r) == 0) continue;
    const auto key = static_cast<Index>(rows.best_key.lane[r]);
    const float factor = static_cast<float>(-a.scale) * rows.low_sum.lane[r];
    if (a.quantised) {
      add(factor, workspace.key_high + key * dim, workspace.low_query_gradient + r * dim);
      add(factor, workspace.query_low + r * dim, a.key_gradient.row(key));
    } else {
      add(factor, a.key.row(key), a.query_gradient.row(block.first + r));
      add(factor, a.query.row(block.first + r), a.key_gradient.row(key));
    }
  }
}

// The backward pass of one head.
template <class L>
void soft_latte_training_gradient(const SoftLatteTrainingArguments& a) noexcept {
  const SoftLatteWorkspace workspace(a);
  const Index dim = a.head_dim;
  if (a.quantised) soft_latte_prepare_keys<L>(a);
  const double pairs = soft_latte_pairs(a);
  const auto mask_gradient = pairs > 0 ? static_cast<float>(a.survival_gradient / pairs) : 0.0f;
  double theta_gradient = 0;
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const ConstFloatRows query = a.query.from(first), out_gradient = a.out_gradient.from(first);
    const FloatRows query_gradient = a.query_gradient.from(first);
    SoftLatteRows<L> rows;
    soft_latte_statistics<L>(a, block, rows);
    transpose_rows<L>(out_gradient, block.rows, a.value_dim, 1.0f, workspace.out_gradient);
    rows.mean.fill(0);
    rows.low_sum.fill(0);
    for (Index r = 0; r < block.rows; ++r)
      rows.mean.lane[r] = dot_product<L>(out_gradient.row(r), a.out.row(first + r), a.value_dim);
    clear_rows(query_gradient, block.rows, dim);
    if (a.quantised) clear_rows({workspace.low_query_gradient, dim}, block.rows, dim);

    for (Index begin = 0; begin < block.end; begin += tile_keys) {
      const Index end = block.tile_end(begin);
      const float* score = soft_latte_scores<L>(a, block, begin, end);
      pair_sums<L, MultiplyStep<L>>(a.value.from(begin), end - begin, workspace.out_gradient,
                                    a.value_dim, workspace.gradient);
      hide_pairs(block, begin, end, workspace.gradient, 0.0f);
      soft_latte_pair_gradients<L>(a, mask_gradient, workspace.low + begin * gradient_rows, score,
                                   end - begin, rows);
      add_to_keys<L>(block, begin, end, workspace.weight, out_gradient, a.value_dim,
                     a.value_gradient);
      add_to_queries<L, MultiplyStep<L>>(block, begin, end, workspace.gradient, a.key, dim,
                                         query_gradient);
      add_to_keys<L>(block, begin, end, workspace.gradient, query, dim, a.key_gradient);
      if (!a.quantised) continue;
      add_to_queries<L, MultiplyStep<L>>(block, begin, end, workspace.low_gradient,
                                         {workspace.key_high, dim}, dim,
                                         {workspace.low_query_gradient, dim});
      add_to_keys<L>(block, begin, end, workspace.low_gradient, {workspace.query_low, dim}, dim,
                     a.key_gradient);
    }
    soft_latte_best_gradient<L>(a, block, rows);
    for (Index r = 0; r < block.rows; ++r) {
      theta_gradient += static_cast<double>(rows.low_sum.lane[r]);
      if (!a.quantised) continue;
      for (Index c = 0; c < dim; ++c)
        query_gradient.row(r)[c] +=
            16 * a.key_scale.scale * workspace.low_query_gradient[r * dim + c];
    }
  }
  if (a.theta_gradient != nullptr) *a.theta_gradient = theta_gradient;
}

}  // namespace lowatt
