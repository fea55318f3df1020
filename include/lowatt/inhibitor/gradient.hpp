// The training form of the Inhibitor: outputs and gradients at fp32. With
//
//   Z_ij = scale * sum_k |q_ik - k_jk|,   C_ij = max(Z_ij - mean_i Z, 0) or Z_ij,
//   z_ij = max(C_ij - alpha, 0),   O_ik = beta / n_i * sum_j f(v_jk, z_ij)
//
// (n_i the number of visible keys, or 1) and G the gradient of O times beta / n_i, what is not
// inhibited passes gradients on:
//
//   dv_jk = sum_i G_ik [s_jk > z_ij]                s_jk = |v_jk|, or v_jk where unsigned
//   dz_ij = -sum_k G_ik sign(v_jk) [s_jk > z_ij]
//   dq_ik = scale * sum_j dZ_ij sign(q_ik - k_jk)   dk_jk = -scale * sum_i dZ_ij sign(q_ik - k_jk)
//
// where dZ is dz at z > 0 and C > 0; with centring, less its mean over the row's visible keys. At
// equality every sign and every bracket is 0.
//
// Lives on       per pair, in registers of floats: 3 operations for each of a distance, 4 for each
//                of its gradients' pair, 4 for those of an inhibition. Comparisons and signs run on
//                one port, the rest on two.
// Layout         simd/gradient.hpp. Distances of a block are kept, so that they are computed once.
// Accuracy       relative L2 error 1e-4 against float64.
// Tails          dims beyond the last whole register are loaded and stored alone. Keys that a row
//                does not see have score infinity, which passes nothing on, and gradient 0.
#pragma once

#include "../simd/gradient.hpp"
#include "kernel_fp32.hpp"

namespace lowatt {

struct InhibitorTrainingArguments : GradientArguments {
  double scale = 1, alpha = 0, beta = 1;
  bool is_signed = true, center = false, normalize = false;
  double *scale_gradient = nullptr, *alpha_gradient = nullptr, *beta_gradient = nullptr;
};

struct InhibitorGradientWorkspace {
  WorkspaceCutter cutter;
  Index value_stride = 0;
  float* query = nullptr;               // [head_dim][16]
  float* distances = nullptr;           // [keys][16], their gradients in the end
  float* scores = nullptr;              // [64][16] of one tile: z,
  float* score_gradient = nullptr;      // and dz
  float* strength = nullptr;            // [64][value_stride] of one tile: s,
  float* value_sign = nullptr;          // and sign(v)
  float* out_gradient = nullptr;        // [16][value_stride]: G,
  float* out_gradient_lanes = nullptr;  // and as [value_dim][16]

  LOWATT_ALWAYS_INLINE InhibitorGradientWorkspace(std::byte* base, Index keys, Index head_dim,
                                                  Index value_dim) noexcept
      : cutter{base},
        value_stride(round_up(value_dim, gradient_rows)),
        query(cutter.take<float>(head_dim * gradient_rows)),
        distances(cutter.take<float>(keys * gradient_rows)),
        scores(cutter.take<float>(tile_keys * gradient_rows)),
        score_gradient(cutter.take<float>(tile_keys * gradient_rows)),
        strength(cutter.take<float>(tile_keys * value_stride)),
        value_sign(cutter.take<float>(tile_keys * value_stride)),
        out_gradient(cutter.take<float>(gradient_rows * value_stride)),
        out_gradient_lanes(cutter.take<float>(value_dim * gradient_rows)) {}
  LOWATT_ALWAYS_INLINE explicit InhibitorGradientWorkspace(const GradientArguments& a) noexcept
      : InhibitorGradientWorkspace(a.workspace, a.keys, a.head_dim, a.value_dim) {}

  LOWATT_ALWAYS_INLINE Index bytes() const noexcept { return cutter.size(); }
};

// Distances of a block's rows to all keys, 0 where a row does not see a key.
template <class L>
void inhibitor_block_distances(const InhibitorTrainingArguments& a, const GradientBlock& block,
                               const InhibitorGradientWorkspace& workspace) noexcept {
  transpose_rows<L>(a.query.from(block.first), block.rows, a.head_dim, 1.0f, workspace.query);
  pair_sums<L, DistanceStep<L>>(a.key, block.end, workspace.query, a.head_dim, workspace.distances);
  hide_pairs(block, 0, block.end, workspace.distances, 0.0f);
}

// Adds the pairs of `keys` keys up, for each row.
template <class L>
void add_pairs(const float* pairs, Index keys, double* sums) noexcept {
  using Float = typename Ops<L>::Float;
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    Float sum(0.0f);
    for (Index j = 0; j < keys; ++j)
      sum = sum + Float::load_unaligned(pairs + j * gradient_rows + v * Ops<L>::lanes);
    QueryLanes<L> lanes;
    lanes.store(0, sum);
    for (int l = 0; l < Ops<L>::lanes; ++l)
      sums[v * Ops<L>::lanes + l] += static_cast<double>(lanes.lane[l]);
  }
}

// Each row's mean distance to the keys that it sees; 0 without centring.
template <class L>
void inhibitor_means(const InhibitorTrainingArguments& a, const GradientBlock& block,
                     const float* distances, double* mean) noexcept {
  for (Index r = 0; r < gradient_rows; ++r) mean[r] = 0;
  if (!a.center) return;
  for (Index begin = 0; begin < block.end; begin += tile_keys)
    add_pairs<L>(distances + begin * gradient_rows, block.tile_end(begin) - begin, mean);
  for (Index r = 0; r < block.rows; ++r)
    if (block.seen(r) > 0) mean[r] /= static_cast<double>(block.seen(r));
}

// C = max(scale * distance - mean, 0), as vectors of rows.
template <class L>
struct CentredScore {
  using Float = typename Ops<L>::Float;
  Float scale, alpha, mean, lowest;

  LOWATT_ALWAYS_INLINE CentredScore(const InhibitorTrainingArguments& a,
                                    const double* mean_distance, int v) noexcept
      : scale(positive_float(a.scale)), alpha(finite_float(a.alpha)), mean(0.0f), lowest(0.0f) {
    QueryLanes<L> lanes;
    for (Index r = 0; r < gradient_rows; ++r)
      lanes.lane[r] = static_cast<float>(a.scale * mean_distance[r]);
    mean = lanes.load(v);
  }
  LOWATT_ALWAYS_INLINE Float centred(Float distance) const noexcept {
    return xsimd::max(lowest, distance * scale - mean);
  }
  LOWATT_ALWAYS_INLINE Float score(Float centred_score) const noexcept {
    return xsimd::max(lowest, centred_score - alpha);
  }
};

// z of keys [begin, end), infinity where a row does not see a key.
template <class L>
void inhibitor_scores(const InhibitorTrainingArguments& a, const GradientBlock& block, Index begin,
                      Index end, const float* distances, const double* mean,
                      float* scores) noexcept {
  using Float = typename Ops<L>::Float;
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const CentredScore<L> step(a, mean, v);
    for (Index at = v * Ops<L>::lanes; at < (end - begin) * gradient_rows; at += gradient_rows)
      step.score(step.centred(Float::load_unaligned(distances + at))).store_unaligned(scores + at);
  }
  hide_pairs(block, begin, end, scores, __builtin_inff());
}

// What O is of the sum over keys.
LOWATT_ALWAYS_INLINE double inhibitor_gain(const InhibitorTrainingArguments& a,
                                           const GradientBlock& block, Index r) noexcept {
  const Index count = block.seen(r);
  return a.normalize && count > 0 ? a.beta / static_cast<double>(count) : a.beta;
}

// sums[r] = sum_j f(v_j, z_rj) for the rows of a block.
template <class L>
void inhibitor_block_sums(const InhibitorTrainingArguments& a, const GradientBlock& block,
                          const double* mean, const InhibitorGradientWorkspace& workspace,
                          FloatRows sums) noexcept {
  clear_rows(sums, block.rows, a.value_dim);
  for (Index begin = 0; begin < block.end; begin += tile_keys) {
    const Index end = block.tile_end(begin);
    inhibitor_scores<L>(a, block, begin, end, workspace.distances + begin * gradient_rows, mean,
                        workspace.scores);
    if (a.is_signed)
      add_to_queries<L, SignedInhibitionStep<L>>(block, begin, end, workspace.scores, a.value,
                                                 a.value_dim, sums);
    else
      add_to_queries<L, UnsignedInhibitionStep<L>>(block, begin, end, workspace.scores, a.value,
                                                   a.value_dim, sums);
  }
}

template <class L>
void inhibitor_training_forward(const InhibitorTrainingArguments& a) noexcept {
  const InhibitorGradientWorkspace workspace(a);
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    const FloatRows out = a.result.from(first);
    double mean[gradient_rows];
    inhibitor_block_distances<L>(a, block, workspace);
    inhibitor_means<L>(a, block, workspace.distances, mean);
    inhibitor_block_sums<L>(a, block, mean, workspace, out);
    for (Index r = 0; r < block.rows; ++r) {
      const auto gain = static_cast<float>(inhibitor_gain(a, block, r));
      for (Index c = 0; c < a.value_dim; ++c) out.row(r)[c] *= gain;
    }
  }
}

// s and sign(v) of one tile.
template <class L>
void inhibitor_values(ConstFloatRows values, Index keys, Index value_dim, bool is_signed,
                      const InhibitorGradientWorkspace& workspace) noexcept {
  for (Index j = 0; j < keys; ++j) {
    const float* value = values.row(j);
    float* strength = workspace.strength + j * workspace.value_stride;
    float* sign = workspace.value_sign + j * workspace.value_stride;
    for (Index c = 0; c < value_dim; ++c) {
      strength[c] = is_signed ? __builtin_fabsf(value[c]) : value[c];
      sign[c] = __builtin_copysignf(1.0f, value[c]);
    }
    for (Index c = value_dim; c < workspace.value_stride; ++c) strength[c] = 0;
  }
}

// G, as rows and as lanes.
template <class L>
void inhibitor_out_gradient(const InhibitorTrainingArguments& a, const GradientBlock& block,
                            const InhibitorGradientWorkspace& workspace) noexcept {
  for (Index r = 0; r < block.rows; ++r) {
    const auto gain = static_cast<float>(inhibitor_gain(a, block, r));
    const float* of_out = a.out_gradient.row(block.first + r);
    float* scaled = workspace.out_gradient + r * workspace.value_stride;
    for (Index c = 0; c < a.value_dim; ++c) scaled[c] = gain * of_out[c];
    for (Index c = a.value_dim; c < workspace.value_stride; ++c) scaled[c] = 0;
  }
  transpose_rows<L>({workspace.out_gradient, workspace.value_stride}, block.rows, a.value_dim, 1.0f,
                    workspace.out_gradient_lanes);
}

// Keys or rows whose gradients are computed side by side: each takes two registers.
template <class L>
inline constexpr int inhibitor_together = Ops<L>::block_vectors == 4 ? 8 : 4;

// -dz of Keys keys from `first` on.
template <class L, int Keys>
void inhibition_to_scores(const InhibitorGradientWorkspace& workspace, Index first,
                          Index value_dim) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  const float* strength = workspace.strength + first * workspace.value_stride;
  const float* sign = workspace.value_sign + first * workspace.value_stride;
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const Index at = first * gradient_rows + v * Op::lanes;
    Float score[Keys], sum[Keys];
    LOWATT_UNROLL
    for (int j = 0; j < Keys; ++j) {
      score[j] = Float::load_unaligned(workspace.scores + at + j * gradient_rows);
      sum[j] = Float(0.0f);
    }
    for (Index c = 0; c < value_dim; ++c) {
      const Float gradient =
          Float::load_unaligned(workspace.out_gradient_lanes + c * gradient_rows + v * Op::lanes);
      LOWATT_UNROLL
      for (int j = 0; j < Keys; ++j)
        sum[j] =
            Op::multiply_add_above(sum[j], Float(strength[j * workspace.value_stride + c]),
                                   score[j], gradient, Float(sign[j * workspace.value_stride + c]));
    }
    LOWATT_UNROLL
    for (int j = 0; j < Keys; ++j)
      sum[j].store_unaligned(workspace.score_gradient + at + j * gradient_rows);
  }
}

// dv of Keys keys from `first` on; values[0] is theirs.
template <class L, int Keys>
void inhibition_to_values(const InhibitorGradientWorkspace& workspace, Index first, Index rows,
                          Index value_dim, FloatRows values) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  const float* scores = workspace.scores + first * gradient_rows;
  for (Index c = 0; c < value_dim; c += Op::lanes) {
    Float strength[Keys], sum[Keys];
    LOWATT_UNROLL
    for (int j = 0; j < Keys; ++j) {
      strength[j] =
          Float::load_unaligned(workspace.strength + (first + j) * workspace.value_stride + c);
      sum[j] = Float(0.0f);
    }
    for (Index r = 0; r < rows; ++r) {
      const Float gradient =
          Float::load_unaligned(workspace.out_gradient + r * workspace.value_stride + c);
      LOWATT_UNROLL
      for (int j = 0; j < Keys; ++j)
        sum[j] = Op::add_above(sum[j], strength[j], Float(scores[j * gradient_rows + r]), gradient);
    }
    const Index count = value_dim - c;
    LOWATT_UNROLL
    for (int j = 0; j < Keys; ++j) {
      float* target = values.row(j) + c;
      if (count >= Op::lanes)
        (Float::load_unaligned(target) + sum[j]).store_unaligned(target);
      else
        Op::store_lanes(target, Op::load_lanes(target, count) + sum[j], count);
    }
  }
}

// What the rows of a block have summed up over tiles.
struct InhibitorRowSums {
  double distance_gradient[gradient_rows] = {};  // dZ, before centring
  double of_scale[gradient_rows] = {};
  double of_alpha[gradient_rows] = {};
};

// From -dz of keys [begin, end) to dZ before centring, in the place of distances.
template <class L>
void inhibitor_score_gradient(const InhibitorTrainingArguments& a, const GradientBlock& block,
                              Index begin, Index end, const double* mean,
                              const InhibitorGradientWorkspace& workspace,
                              InhibitorRowSums& sums) noexcept {
  using Float = typename Ops<L>::Float;
  hide_pairs(block, begin, end, workspace.score_gradient, 0.0f);
  const Float zero(0.0f);
  QueryLanes<L> lanes;
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const CentredScore<L> step(a, mean, v);
    for (Index r = 0; r < gradient_rows; ++r) lanes.lane[r] = static_cast<float>(mean[r]);
    const Float mean_distance = lanes.load(v);
    Float of_scale = zero, of_alpha = zero, total = zero;
    for (Index j = 0; j < end - begin; ++j) {
      const Index at = j * gradient_rows + v * Ops<L>::lanes;
      float* const place = workspace.distances + begin * gradient_rows + at;
      const Float distance = Float::load_unaligned(place), centred = step.centred(distance);
      const Float passed = xsimd::select(
          step.score(centred) > zero, Float::load_unaligned(workspace.score_gradient + at), zero);
      const Float gradient = zero - xsimd::select(centred > zero, passed, zero);
      of_alpha = of_alpha + passed;
      of_scale = Ops<L>::multiply_add(gradient, distance - mean_distance, of_scale);
      total = total + gradient;
      gradient.store_unaligned(place);
    }
    const auto add = [&](Float sum, double* to) {
      lanes.store(0, sum);
      for (int l = 0; l < Ops<L>::lanes; ++l)
        to[v * Ops<L>::lanes + l] += static_cast<double>(lanes.lane[l]);
    };
    add(of_scale, sums.of_scale);
    add(of_alpha, sums.of_alpha);
    add(total, sums.distance_gradient);
  }
}

// dZ times scale; with centring, less the row's mean.
template <class L>
void inhibitor_distance_gradient(const InhibitorTrainingArguments& a, const GradientBlock& block,
                                 const InhibitorRowSums& sums, float* gradient) noexcept {
  using Float = typename Ops<L>::Float;
  QueryLanes<L> mean;
  for (Index r = 0; r < gradient_rows; ++r) {
    const Index count = r < block.rows ? block.seen(r) : 0;
    mean.lane[r] = a.center && count > 0
                       ? static_cast<float>(sums.distance_gradient[r] / static_cast<double>(count))
                       : 0.0f;
  }
  const Float scale(positive_float(a.scale));
  for (int v = 0; v < QueryLanes<L>::vectors; ++v) {
    const Float subtracted = mean.load(v);
    for (Index j = 0; j < block.end; ++j) {
      float* const place = gradient + j * gradient_rows + v * Ops<L>::lanes;
      ((Float::load_unaligned(place) - subtracted) * scale).store_unaligned(place);
    }
  }
  hide_pairs(block, 0, block.end, gradient, 0.0f);
}

// dq of Rows rows and dk of `count` keys, one register of dims: of `last` dims where IsPartial.
template <class L, int Rows, bool IsPartial>
void distances_to_tokens(const float* gradient, ConstFloatRows query, ConstFloatRows key,
                         Index count, FloatRows query_gradient, FloatRows key_gradient,
                         Index last) noexcept {
  using Op = Ops<L>;
  using Float = typename Op::Float;
  const auto load = [&](const float* p) __attribute__((always_inline)) {
    if constexpr (IsPartial)
      return Op::load_lanes(p, last);
    else
      return Float::load_unaligned(p);
  };
  const auto store = [&](float* p, Float x) __attribute__((always_inline)) {
    if constexpr (IsPartial)
      Op::store_lanes(p, x, last);
    else
      x.store_unaligned(p);
  };
  Float of_query[Rows], at_query[Rows];
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r) {
    at_query[r] = load(query.row(r));
    of_query[r] = Float(0.0f);
  }
  for (Index j = 0; j < count; ++j) {
    const Float at_key = load(key.row(j));
    Float of_key(0.0f);
    LOWATT_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const Float sign = Op::sign(at_query[r] - at_key);
      const Float weight(gradient[j * gradient_rows + r]);
      of_query[r] = Op::multiply_add(weight, sign, of_query[r]);
      of_key = Op::multiply_add(weight, sign, of_key);
    }
    store(key_gradient.row(j), load(key_gradient.row(j)) - of_key);
  }
  LOWATT_UNROLL
  for (int r = 0; r < Rows; ++r)
    store(query_gradient.row(r), load(query_gradient.row(r)) + of_query[r]);
}

// The same for all rows of a block, all dims, and keys [begin, end).
template <class L>
void inhibitor_token_gradients(const InhibitorTrainingArguments& a, const GradientBlock& block,
                               Index begin, Index end, const float* gradient) noexcept {
  constexpr int together = inhibitor_together<L>;
  const auto run = [&]<int Rows, bool IsPartial>(Index r, Index c) {
    const Index row = block.first + r;
    distances_to_tokens<L, Rows, IsPartial>(
        gradient + begin * gradient_rows + r, {a.query.row(row) + c, a.query.stride},
        {a.key.row(begin) + c, a.key.stride}, end - begin,
        {a.query_gradient.row(row) + c, a.query_gradient.stride},
        {a.key_gradient.row(begin) + c, a.key_gradient.stride}, a.head_dim - c);
  };
  const auto dims = [&]<int Rows>(Index r) {
    Index c = 0;
    for (; c + Ops<L>::lanes <= a.head_dim; c += Ops<L>::lanes)
      run.template operator()<Rows, false>(r, c);
    if (c < a.head_dim) run.template operator()<Rows, true>(r, c);
  };
  Index r = 0;
  for (; r + together <= block.rows; r += together) dims.template operator()<together>(r);
  for (; r < block.rows; ++r) dims.template operator()<1>(r);
}

// sum_k dO_ik times what beta is multiplied with, for the rows of a block.
template <class L>
double inhibitor_gain_gradient(const InhibitorTrainingArguments& a, const GradientBlock& block,
                               const double* mean,
                               const InhibitorGradientWorkspace& workspace) noexcept {
  // Outputs without a gain, in the place of G, where a gain of 0 leaves nothing to divide.
  const FloatRows sums{workspace.out_gradient, workspace.value_stride};
  if (a.beta == 0) inhibitor_block_sums<L>(a, block, mean, workspace, sums);
  double gradient = 0;
  for (Index r = 0; r < block.rows; ++r) {
    const Index count = block.seen(r);
    const float* of_out = a.out_gradient.row(block.first + r);
    const float* out = a.beta == 0 ? sums.row(r) : a.out.row(block.first + r);
    const double divisor = a.beta != 0                ? a.beta
                           : a.normalize && count > 0 ? static_cast<double>(count)
                                                      : 1.0;
    double sum = 0;
    for (Index c = 0; c < a.value_dim; ++c)
      sum += static_cast<double>(of_out[c]) * static_cast<double>(out[c]);
    gradient += sum / divisor;
  }
  return gradient;
}

template <class L>
void inhibitor_training_gradient(const InhibitorTrainingArguments& a) noexcept {
  constexpr int together = inhibitor_together<L>;
  const InhibitorGradientWorkspace workspace(a);
  double of_scale = 0, of_alpha = 0, of_beta = 0;
  for (Index first = 0; first < a.queries; first += gradient_rows) {
    const GradientBlock block(a, first);
    clear_rows(a.query_gradient.from(first), block.rows, a.head_dim);
    double mean[gradient_rows];
    inhibitor_block_distances<L>(a, block, workspace);
    inhibitor_means<L>(a, block, workspace.distances, mean);
    if (a.beta_gradient != nullptr)
      of_beta += inhibitor_gain_gradient<L>(a, block, mean, workspace);
    inhibitor_out_gradient<L>(a, block, workspace);

    InhibitorRowSums sums{};
    for (Index begin = 0; begin < block.end; begin += tile_keys) {
      const Index end = block.tile_end(begin), keys = end - begin;
      inhibitor_scores<L>(a, block, begin, end, workspace.distances + begin * gradient_rows, mean,
                          workspace.scores);
      inhibitor_values<L>(a.value.from(begin), keys, a.value_dim, a.is_signed, workspace);
      const auto inhibition = [&]<int Keys>(Index j) {
        inhibition_to_scores<L, Keys>(workspace, j, a.value_dim);
        inhibition_to_values<L, Keys>(workspace, j, block.rows, a.value_dim,
                                      a.value_gradient.from(begin + j));
      };
      Index j = 0;
      for (; j + together <= keys; j += together) inhibition.template operator()<together>(j);
      for (; j < keys; ++j) inhibition.template operator()<1>(j);
      inhibitor_score_gradient<L>(a, block, begin, end, mean, workspace, sums);
    }
    for (Index r = 0; r < block.rows; ++r) {
      of_scale += sums.of_scale[r];
      of_alpha += sums.of_alpha[r];
    }
    inhibitor_distance_gradient<L>(a, block, sums, workspace.distances);
    for (Index begin = 0; begin < block.end; begin += tile_keys)
      inhibitor_token_gradients<L>(a, block, begin, block.tile_end(begin), workspace.distances);
  }
  if (a.scale_gradient != nullptr) *a.scale_gradient = of_scale;
  if (a.alpha_gradient != nullptr) *a.alpha_gradient = of_alpha;
  if (a.beta_gradient != nullptr) *a.beta_gradient = of_beta;
}

}  // namespace lowatt
