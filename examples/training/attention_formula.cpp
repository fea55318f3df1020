#include <cmath>
#include <limits>

#include "attention.hpp"

namespace training {

Tensor straight_through(const Tensor& smooth, const Tensor& exact) {
  return smooth + (exact - smooth).detach();
}

namespace {

using torch::indexing::Slice;

constexpr double infinity = std::numeric_limits<double>::infinity();

// True where query i sees key j.
Tensor visible_pairs(const AttentionForm& form, const Tensor& q, const Tensor& k) {
  const Tensor all = torch::ones({q.size(2), k.size(2)}, torch::kBool);
  return form.causal ? all.tril(k.size(2) - q.size(2)) : all;
}

Tensor dot_products(const Tensor& q, const Tensor& k) {
  return torch::matmul(q, k.transpose(2, 3));
}

Tensor softmax_over_keys(const Tensor& logits, const Tensor& visible) {
  return torch::softmax(logits.masked_fill(visible.logical_not(), -infinity), 3);
}

// What int8 values with this absmax, which must broadcast, keep in their high four bits: integers,
// in units of `step`.
struct Nibbles {
  Tensor value, step;
};
Nibbles high_nibbles(const Tensor& x, const Tensor& absmax) {
  const Tensor step = (absmax.clamp_min(1e-30) / 127).detach();
  const Tensor x8 = torch::round(x.detach() / step).clamp(-127, 127);
  const Tensor high = torch::floor((x8 + 8) / 16).clamp(-8, 7);
  return {straight_through(x / (16 * step), high), 16 * step};
}

Attended latte(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
               const Tensor& k, const Tensor& v) {
  const Tensor visible = visible_pairs(form, q, k), hidden = visible.logical_not();
  const Nibbles q_high = high_nibbles(q, q.abs().amax(3, true));
  const Nibbles k_high = high_nibbles(k, k.abs().amax({2, 3}, true));
  // Exact integers: equal scores are equal, and the first of them is the row's best.
  const Tensor score = dot_products(q_high.value, k_high.value);
  const Tensor best = std::get<0>(score.masked_fill(hidden, -infinity).max(3, true));
  const Tensor unit = scalars.scale * q_high.step * k_high.step;
  const Tensor margin = (score - best) * unit + scalars.theta.view({1, -1, 1, 1});
  const Tensor logits = scalars.scale * dot_products(q, k);
  Tensor mask, masked;
  if (scalars.softness > 0) {
    const Tensor softened = margin / scalars.softness;
    mask = torch::sigmoid(softened);
    masked = logits + torch::log_sigmoid(softened);
  } else {
    // The integer threshold is rounded down to a whole step of scores, ties included.
    mask = (margin >= -1e-5).to(torch::kFloat);
    masked = logits.masked_fill(mask == 0, -infinity);
  }
  const double pairs = visible.sum().item<double>() * static_cast<double>(q.size(0) * q.size(1));
  return {torch::matmul(softmax_over_keys(masked, visible), v),
          mask.masked_fill(hidden, 0).sum() / pairs};
}

// sum_j max(v_jk - z_ij, 0) without an array of all (i, j, k), by max(x, 0) = (x + |x|) / 2.
Tensor passed(const Tensor& v, const Tensor& z) {
  return 0.5 * (v.sum(2, true) - z.sum(3, true) + torch::cdist(z, v.transpose(2, 3), 1.0));
}

Tensor inhibitor(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                 const Tensor& k, const Tensor& v) {
  const Tensor visible = visible_pairs(form, q, k), hidden = visible.logical_not();
  const Tensor keys_seen = visible.sum(1, true).to(torch::kFloat);
  Tensor z = scalars.scale * torch::cdist(q, k, 1.0);
  if (form.center) z = torch::relu(z - z.masked_fill(hidden, 0).sum(3, true) / keys_seen);
  // Hidden keys get a score that inhibits everything and is no larger than it must be: the identity
  // cancels badly otherwise.
  const double stop = v.detach().abs().max().item<double>() + 1;
  z = torch::relu(z - scalars.alpha).masked_fill(hidden, stop);
  const Tensor out =
      form.is_signed ? passed(torch::relu(v), z) - passed(torch::relu(-v), z) : passed(v, z);
  return scalars.beta * (form.normalize ? out / keys_seen : out);
}

// Planes of +1 and -1, one after another along the channels.
Tensor bit_planes(const Tensor& x, int planes, double clip) {
  const Tensor smooth = x.clamp(-clip, clip) / clip;
  if (planes == 1) return straight_through(smooth, (x >= 0).to(torch::kFloat) * 2 - 1);
  std::vector<Tensor> all;
  for (int t = 0; t < planes; ++t) {
    const float place =
        static_cast<float>(2 * (t + 1) - (planes + 1)) / static_cast<float>(planes + 1);
    const float threshold = static_cast<float>(clip) * place;
    all.push_back(straight_through(smooth, (x >= threshold).to(torch::kFloat) * 2 - 1));
  }
  return torch::cat(all, 3);
}

Tensor bitformer(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                 const Tensor& k, const Tensor& v) {
  const Tensor keys = form.center ? k - k.mean(2, true) : k;
  const Tensor scores = dot_products(bit_planes(q, form.planes, scalars.clip),
                                     bit_planes(keys, form.planes, scalars.clip));
  return torch::matmul(softmax_over_keys(scalars.temperature * scores, visible_pairs(form, q, k)),
                       v);
}

}  // namespace

Attended attend_formula(const AttentionForm& form, const AttentionScalars& scalars, const Tensor& q,
                        const Tensor& k, const Tensor& v) {
  // [batch, heads, tokens, head_dim]
  const Tensor query = q.transpose(1, 2), key = k.transpose(1, 2), value = v.transpose(1, 2);
  Attended result;
  switch (form.mechanism) {
    case Mechanism::softmax:
      result.out = torch::matmul(softmax_over_keys(scalars.scale * dot_products(query, key),
                                                   visible_pairs(form, query, key)),
                                 value);
      break;
    case Mechanism::inhibitor:
      result.out = inhibitor(form, scalars, query, key, value);
      break;
    case Mechanism::latte:
      result = latte(form, scalars, query, key, value);
      break;
    case Mechanism::bitformer:
      result.out = bitformer(form, scalars, query, key, value);
      break;
  }
  result.out = result.out.transpose(1, 2).contiguous();
  return result;
}

InhibitorStart start_inhibitor(const AttentionForm& form, const Tensor& q, const Tensor& k,
                               const Tensor& v) {
  const torch::NoGradGuard no_gradients;
  const Tensor query = q.transpose(1, 2), key = k.transpose(1, 2);
  Tensor distance = torch::cdist(query, key, 1.0);
  const Tensor visible = visible_pairs(form, query, key).expand_as(distance);
  // Scores must vary over keys as much as values are large: then they inhibit some and not others.
  const double spread = distance.std(3).mean().item<double>();
  const double size = v.abs().mean().item<double>();
  InhibitorStart start;
  start.scale = size / std::max(spread, 1e-6);
  start.beta = 3;
  double unhindered = 1.0 / 3;  // share of pairs
  // Sums are of few keys, so that they do not grow with what a query sees.
  if (!form.normalize) {
    start.scale *= 2;
    start.beta = 0.3;
    unhindered = 0.02;
  }
  if (!form.center) {
    const Tensor seen = std::get<0>(distance.masked_select(visible).sort());
    const auto place = static_cast<std::int64_t>(static_cast<double>(seen.size(0)) * unhindered);
    start.alpha = start.scale * seen[place].item<double>();
  }
  return start;
}

}  // namespace training
