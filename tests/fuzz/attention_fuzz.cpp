// libFuzzer target (clang only): kernels against their references, for calls that the bytes
// describe:
//   attention_fuzz -max_total_time=60 some_scratch_folder tests/fuzz/attention
// Mechanism, precision, parameters, shape, strides, masks, values (NaN, infinities, denormal and
// huge numbers among them), level, chunks of tokens and order of tasks are drawn. A row must be
// what the reference gives on the keys that it sees: the same bits on integer paths, else within a
// bound that only mistakes exceed.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <lowatt/bitformer/reference.hpp>
#include <lowatt/inhibitor/reference.hpp>
#include <lowatt/latte/reference.hpp>
#include <lowatt/lowatt.hpp>
#include <lowatt/softmax/reference.hpp>
#include <numeric>
#include <vector>

#include "support/strided_tensor.hpp"
#include "support/visible.hpp"

namespace {

using lowatt::Calibration;
using lowatt::Index;
using lowatt::Precision;
using lowatt::View;
using test::StridedTensor;
using Bytes = FuzzedDataProvider;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "attention_fuzz: %s\n", what);
  std::abort();
}
void must(const lowatt::Status& status) {
  if (!status.ok()) fail(status.message);
}

// What the reference of a mechanism and precision may differ by, beside the largest value that the
// row sees: 0 where it may not. `sums`: outputs are sums over keys instead of means.
struct Bound {
  double relative = 0;
  bool sums = false;
};

struct Call {
  lowatt::Shape shape;
  lowatt::Options options;
  bool has_huge_numbers = false;
};

// Runs tasks in an order of its own, by workers that take turns.
class ShuffledTasks {
 public:
  explicit ShuffledTasks(unsigned seed) : random_(seed) {}
  int workers() const { return 3; }
  template <class F>
  void run(Index tasks, F f) {
    std::vector<Index> order(static_cast<std::size_t>(tasks));
    std::iota(order.begin(), order.end(), Index{0});
    std::shuffle(order.begin(), order.end(), random_);
    for (const Index task : order) f(task, task % 3);
  }

 private:
  std::mt19937 random_;
};

void fill(StridedTensor& x, Bytes& bytes, std::mt19937& random, bool has_huge_numbers) {
  const float deviations[] = {1, 0.3f, 4, 1e-3f, 0};
  x.fill_normal(random, bytes.PickValueInArray(deviations));
  const float odd[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       1e-42f,
                       -0.0f,
                       3e38f,
                       -3e38f};
  const View<float> view = x.view();
  for (int n = bytes.ConsumeIntegralInRange(0, 4); n > 0; --n) {
    const Index kind = bytes.ConsumeIntegralInRange<Index>(0, has_huge_numbers ? 6 : 4);
    view.row(bytes.ConsumeIntegralInRange<Index>(0, view.batch - 1),
             bytes.ConsumeIntegralInRange<Index>(0, view.heads - 1),
             bytes.ConsumeIntegralInRange<Index>(
                 0, view.tokens - 1))[bytes.ConsumeIntegralInRange<Index>(0, view.dim - 1)] =
        odd[kind];
  }
}

template <class T>
lowatt::Array<T> part(const lowatt::Array<T>& all, Index begin, Index count) {
  lowatt::Array<T> result(all.empty() ? 0 : count);
  for (Index i = 0; i < result.size(); ++i) result[i] = all[begin + i];
  return result;
}

// A calibration as one query head has it. The Inhibitor's heads share a scale with their group.
Calibration calibration_of_head(const Calibration& all, const lowatt::Shape& shape, Index b,
                                Index h) {
  const Index group = shape.query_heads / shape.kv_heads, g = h / group;
  const Index query_entry = b * shape.query_heads + h, kv_entry = b * shape.kv_heads + g;
  Calibration one{part(all.query_absmax, query_entry, 1),
                  part(all.key_absmax, kv_entry, 1),
                  part(all.value_absmax, kv_entry, 1),
                  part(all.key_mean, kv_entry * shape.head_dim, shape.head_dim),
                  part(all.clip, kv_entry, 1),
                  part(all.temperature, query_entry, 1),
                  part(all.theta, h, 1)};
  for (float& absmax : one.query_absmax)
    for (const float of_group : part(all.query_absmax, kv_entry * group, group))
      absmax = std::max(absmax, of_group);
  return one;
}

using Row = std::vector<float>;
using Terms = const lowatt::CallScoreTerms&;  // of one row: a bias for each key, and a sink

lowatt::Status reference(const lowatt::Softmax& mechanism, View<const float> q, View<const float> k,
                         View<const float> v, View<float> out, const Calibration& given,
                         Terms terms, Index&) {
  return lowatt::softmax_reference(mechanism, q, k, v, out, false, &given, terms);
}
lowatt::Status reference(const lowatt::Inhibitor& mechanism, View<const float> q,
                         View<const float> k, View<const float> v, View<float> out,
                         const Calibration& given, Terms, Index&) {
  return lowatt::inhibitor_reference(mechanism, q, k, v, out, false, &given);
}
lowatt::Status reference(lowatt::Latte mechanism, View<const float> q, View<const float> k,
                         View<const float> v, View<float> out, const Calibration& given,
                         Terms terms, Index& kept) {
  if (!given.theta.empty()) mechanism.theta = given.theta[0];
  lowatt::LatteCounts counts{};
  const lowatt::Status status =
      lowatt::latte_reference(mechanism, q, k, v, out, false, &counts, &given, terms);
  kept += counts.kept;
  return status;
}
lowatt::Status reference(const lowatt::Bitformer& mechanism, View<const float> q,
                         View<const float> k, View<const float> v, View<float> out,
                         const Calibration& given, Terms, Index&) {
  return lowatt::bitformer_reference(mechanism, q, k, v, out, false, nullptr, &given);
}

void compare(const Row& expected, const float* actual, const Bound& bound, double largest_value,
             Index count) {
  const double allowed =
      bound.relative * largest_value * (bound.sums ? static_cast<double>(count) : 1.0);
  for (std::size_t c = 0; c < expected.size(); ++c) {
    const float e = expected[c], a = actual[c];
    const bool same = bound.relative == 0 || !std::isfinite(e)
                          ? a == e || std::isfinite(a) + std::isfinite(e) == 0
                          : std::fabs(static_cast<double>(a) - static_cast<double>(e)) <= allowed;
    if (same) continue;
    std::fprintf(stderr, "dim %zu is %.9g, expected %.9g, allowed %g\n", c, static_cast<double>(a),
                 static_cast<double>(e), allowed);
    fail("a row differs from its reference");
  }
}

template <class M>
void run(const M& mechanism, const Bound& bound, const Call& call, Bytes& bytes) {
  const lowatt::Shape& shape = call.shape;
  lowatt::Options options = call.options;
  std::mt19937 random(bytes.ConsumeIntegral<std::uint16_t>());
  const auto layout = [&] { return static_cast<test::Layout>(bytes.ConsumeIntegralInRange(0, 2)); };
  StridedTensor q(shape.batch, shape.query_heads, shape.queries, shape.head_dim, layout());
  StridedTensor k(shape.batch, shape.kv_heads, shape.keys, shape.head_dim, layout());
  StridedTensor v(shape.batch, shape.kv_heads, shape.keys, shape.value_dim, layout());
  StridedTensor out(shape.batch, shape.query_heads, shape.queries, shape.value_dim, layout());
  for (StridedTensor* x : {&q, &k, &v}) fill(*x, bytes, random, call.has_huge_numbers);

  Calibration calibration;
  must(lowatt::try_calibrate(calibration, mechanism, q.view(), k.view(), v.view(), options));
  lowatt::KvCache<M> cache;
  must(lowatt::KvCache<M>::try_create(cache,
                                      {shape.batch, shape.kv_heads, shape.head_dim, shape.value_dim,
                                       shape.keys + bytes.ConsumeIntegralInRange<Index>(0, 70)},
                                      calibration, mechanism, options.level));
  while (cache.size() < shape.keys) {
    View<const float> keys = k.view(), values = v.view();
    keys.data += cache.size() * keys.token_stride;
    values.data += cache.size() * values.token_stride;
    keys.tokens = values.tokens = bytes.ConsumeIntegralInRange<Index>(1, shape.keys - cache.size());
    must(cache.try_append(keys, values));
  }

  ShuffledTasks tasks(static_cast<unsigned>(random()));
  if (bytes.ConsumeBool()) options.executor = tasks;
  std::vector<std::int64_t> kept(static_cast<std::size_t>(shape.batch * shape.query_heads));
  if constexpr (std::is_same_v<M, lowatt::Latte>) options.kept = kept.data();
  must(lowatt::try_attend(q.view(), cache, out.view(), options));
  if (!out.gaps_are_untouched()) fail("something beside the output was written");

  for (Index b = 0; b < shape.batch; ++b)
    for (Index h = 0; h < shape.query_heads; ++h) {
      const Index g = h / (shape.query_heads / shape.kv_heads);
      const Calibration of_head = calibration_of_head(calibration, shape, b, h);
      Index expected_kept = 0;
      for (Index i = 0; i < shape.queries; ++i) {
        Row keys, values, bias, expected(static_cast<std::size_t>(shape.value_dim));
        double largest = 1e-30;
        for (Index j = 0; j < shape.keys; ++j) {
          if (!test::sees(options, shape.queries, shape.keys, b, h, i, j)) continue;
          const float *key = k.view().row(b, g, j), *value = v.view().row(b, g, j);
          keys.insert(keys.end(), key, key + shape.head_dim);
          values.insert(values.end(), value, value + shape.value_dim);
          bias.push_back(static_cast<float>(
              options.score_terms().of_pair(b, h, i, j, shape.queries, shape.keys)));
        }
        // Quantised, an infinity is the largest value of the calibration.
        const double infinite =
            of_head.value_absmax.empty() ? 0 : static_cast<double>(of_head.value_absmax[0]);
        for (const float value : values)
          if (!std::isnan(value))
            largest = std::max(largest, std::isinf(value) ? infinite : std::fabs(double{value}));
        const auto count = static_cast<Index>(keys.size()) / shape.head_dim;
        lowatt::CallScoreTerms terms{.bias = {bias.data(), 1, 1, count}};
        if (options.sinks != nullptr) terms.sinks = options.sinks + h;
        if (count > 0)
          must(reference(mechanism, {q.view().row(b, h, i), 1, 1, shape.head_dim},
                         {keys.data(), 1, count, shape.head_dim},
                         {values.data(), 1, count, shape.value_dim},
                         {expected.data(), 1, 1, shape.value_dim}, of_head, terms, expected_kept));
        compare(expected, out.view().row(b, h, i), bound, largest, count);
      }
      if (options.kept != nullptr &&
          kept[static_cast<std::size_t>(b * shape.query_heads + h)] != expected_kept)
        fail("LATTE kept other pairs than its reference");
    }
}

lowatt::Softmax softmax(Bytes& bytes, Precision precision) {
  lowatt::Softmax mechanism{.precision = precision};
  if (bytes.ConsumeBool()) mechanism.soft_cap = bytes.ConsumeFloatingPointInRange(0.1, 100.0);
  if (bytes.ConsumeBool()) mechanism.scale = bytes.ConsumeFloatingPointInRange(1e-3, 1.0);
  return mechanism;
}

lowatt::Inhibitor inhibitor(Bytes& bytes, Precision precision) {
  lowatt::Inhibitor mechanism{.alpha = bytes.ConsumeFloatingPointInRange(-0.5, 2.0),
                              .is_signed = bytes.ConsumeBool(),
                              .center = bytes.ConsumeBool(),
                              .normalize = bytes.ConsumeBool(),
                              .precision = precision};
  if (bytes.ConsumeBool()) mechanism.scale = bytes.ConsumeFloatingPointInRange(1e-4, 0.1);
  if (bytes.ConsumeBool()) mechanism.beta = bytes.ConsumeFloatingPointInRange(-1.0, 1.0);
  return mechanism;
}

lowatt::Latte latte(Bytes& bytes, Precision values) {
  lowatt::Latte mechanism{
      .split = bytes.ConsumeBool() ? lowatt::NibbleSplit::round : lowatt::NibbleSplit::truncate,
      .value_precision = values};
  if (bytes.ConsumeBool())
    mechanism.theta = bytes.ConsumeFloatingPointInRange(0.0, 10.0);
  else
    mechanism.filtered = bytes.ConsumeFloatingPointInRange(0.0, 0.99);
  return mechanism;
}

lowatt::Bitformer bitformer(Bytes& bytes) {
  lowatt::Bitformer mechanism{.planes = bytes.ConsumeIntegralInRange(1, 64),
                              .center_keys = bytes.ConsumeBool()};
  if (bytes.ConsumeBool()) mechanism.temperature = bytes.ConsumeFloatingPointInRange(0.0, 2.0);
  if (bytes.ConsumeBool()) mechanism.clip = bytes.ConsumeFloatingPointInRange(0.0, 3.0);
  return mechanism;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const auto up_to = [&](Index most) { return bytes.ConsumeIntegralInRange<Index>(1, most); };
  Call call;
  const int kind = bytes.ConsumeIntegralInRange(0, 12);
  const Index kv_heads = up_to(2);
  call.shape = {up_to(2),   kv_heads * up_to(3), kv_heads, up_to(70),
                up_to(200), up_to(80),           up_to(80)};

  std::vector<lowatt::Level> levels;
  for (int i = 0; i < lowatt::level_count; ++i)
    if (lowatt::level_is_available(static_cast<lowatt::Level>(i)))
      levels.push_back(static_cast<lowatt::Level>(i));
  lowatt::Options& options = call.options;
  options.level = levels[bytes.ConsumeIntegralInRange<std::size_t>(0, levels.size() - 1)];
  options.causal = bytes.ConsumeBool();
  if (bytes.ConsumeBool()) options.window_left = up_to(80) - 1;
  if (bytes.ConsumeBool()) options.window_right = up_to(80) - 1;
  Index lengths[2];
  for (Index& length : lengths) length = up_to(call.shape.keys + 1) - 1;
  if (bytes.ConsumeBool()) options.key_lengths = lengths;
  std::vector<std::uint8_t> booleans;
  std::vector<std::uint64_t> bits;
  if (bytes.ConsumeBool()) {
    const Index batch = bytes.ConsumeBool() ? call.shape.batch : 1;
    const Index heads = bytes.ConsumeBool() ? call.shape.query_heads : 1;
    std::mt19937 random(bytes.ConsumeIntegral<std::uint16_t>());
    const auto one_in = static_cast<unsigned>(up_to(5));
    const Index words = (call.shape.keys + 63) / 64, rows = batch * heads * call.shape.queries;
    if (bytes.ConsumeBool()) {
      booleans.resize(static_cast<std::size_t>(rows * call.shape.keys));
      for (std::uint8_t& x : booleans) x = random() % one_in == 0 ? 1 : 0;
      options.mask = {booleans.data(), batch, heads, call.shape.queries, call.shape.keys};
    } else {
      bits.resize(static_cast<std::size_t>(rows * words));
      for (std::uint64_t& word : bits)
        word = random() % one_in == 0 ? random() << 32 | random() : 0;
      options.mask_bits = {bits.data(), batch, heads, call.shape.queries, words};
    }
  }
  call.has_huge_numbers = kind >= 5;
  const bool has_terms = kind <= 2 || (kind >= 4 && kind <= 6);
  // Slopes and biases are such that what they add up to is a float, as the reference is given it:
  // which keys LATTE keeps depends on every bit.
  float slopes[6], sinks[6];
  for (int h = 0; h < 6; ++h) {
    slopes[h] = static_cast<float>(bytes.ConsumeIntegralInRange(-100, 500)) / 1024;
    sinks[h] = bytes.ConsumeFloatingPointInRange(-20.0f, 20.0f);
  }
  if (has_terms && bytes.ConsumeBool()) options.alibi_slopes = slopes;
  if (has_terms && bytes.ConsumeBool()) options.sinks = sinks;
  Row biases;
  if (has_terms && bytes.ConsumeBool()) {
    const Index batch = bytes.ConsumeBool() ? call.shape.batch : 1;
    const Index heads = bytes.ConsumeBool() ? call.shape.query_heads : 1;
    std::mt19937 random(bytes.ConsumeIntegral<std::uint16_t>());
    std::normal_distribution<float> normal(0, 3);
    biases.resize(static_cast<std::size_t>(batch * heads * call.shape.queries * call.shape.keys));
    for (float& x : biases) x = std::rint(256 * normal(random)) / 256;
    options.bias = {biases.data(), batch, heads, call.shape.queries, call.shape.keys};
  }

  // Kernels with bf16 weights on tile registers are the least exact of a precision.
  const Bound bf16{.relative = 2e-2}, fp32{.relative = 1e-3}, weights{.relative = 1e-2}, exact{};
  switch (kind) {
    case 0:
      run(softmax(bytes, Precision::fp32), fp32, call, bytes);
      break;
    case 1:
      run(softmax(bytes, Precision::bf16), bf16, call, bytes);
      break;
    case 2:
      run(softmax(bytes, Precision::f16), fp32, call, bytes);
      break;
    case 3: {
      const lowatt::Inhibitor mechanism = inhibitor(bytes, Precision::fp32);
      run(mechanism, {.relative = 1e-4, .sums = !mechanism.normalize}, call, bytes);
      break;
    }
    case 4:
      run(latte(bytes, Precision::fp32), fp32, call, bytes);
      break;
    case 5:
      run(latte(bytes, Precision::int8), weights, call, bytes);
      break;
    case 6:
      run(softmax(bytes, Precision::int8), bf16, call, bytes);
      break;
    case 7:
      run(inhibitor(bytes, Precision::int16), exact, call, bytes);
      break;
    case 8:
      run(inhibitor(bytes, Precision::int4), exact, call, bytes);
      break;
    case 9: {
      lowatt::Inhibitor mechanism = inhibitor(bytes, Precision::int8);
      mechanism.planes = bytes.ConsumeIntegralInRange(1, 64);
      run(mechanism, exact, call, bytes);
      break;
    }
    case 10:
    case 11:
      run(bitformer(bytes), exact, call, bytes);
      break;
    default:
      run(inhibitor(bytes, Precision::int8), exact, call, bytes);
  }
  return 0;
}
