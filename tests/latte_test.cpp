// LATTE against its reference: survivors counted exactly, outputs within the stated error.
#include <algorithm>
#include <numeric>

#include <lowatt/latte/reference.hpp>

#include "support/sweep.hpp"

namespace {

using lowatt::Index;
using lowatt::Latte;
using lowatt::NibbleSplit;
using lowatt::Status;
using lowatt::StatusCode;
using lowatt::View;
using test::Case;
using test::Inputs;

// What is promised: weights are integers that are off by up to 2^-10 of themselves, or bf16.
constexpr double tolerance = 2e-3;

// Runs one case at every level and compares output and counts with the reference. Returns the
// number of pairs that survived.
Index expect_near(const Latte& mechanism, const Case& c, Inputs& inputs,
                  double largest_error = tolerance) {
  const View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  std::vector<lowatt::LatteCounts> counts(static_cast<std::size_t>(q.batch * q.heads));
  const Status reference =
      lowatt::latte_reference(mechanism, q, k, v, inputs.expected.view(), c.causal, counts.data());
  EXPECT_TRUE(reference.ok()) << reference.message;
  for (const lowatt::Level level : test::levels()) {
    inputs.out.for_each([](float& x) { x = -1e30f; });
    std::vector<std::int64_t> kept(counts.size(), -1);
    lowatt::attend(mechanism, q, k, v, inputs.out.view(),
                   {.causal = c.causal, .level = level, .kept = kept.data()});
    for (std::size_t h = 0; h < kept.size(); ++h)
      EXPECT_EQ(kept[h], counts[h].kept) << "head " << h << ", " << test::describe(level, c);
    const double error =
        test::relative_l2(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view());
    EXPECT_LE(error, largest_error) << test::describe(level, c);
    EXPECT_TRUE(inputs.out.gaps_are_untouched()) << test::describe(level, c);
  }
  Index kept = 0;
  for (const lowatt::LatteCounts& pairs : counts) kept += pairs.kept;
  return kept;
}

Index expect_near(const Latte& mechanism, const Case& c) {
  Inputs inputs(c);
  return expect_near(mechanism, c, inputs);
}

TEST(Latte, SweepRound) {
  for (const Case& c : test::sweep(31)) expect_near({.theta = 2.0}, c);
}

TEST(Latte, SweepTruncate) {
  for (const Case& c : test::sweep(32))
    expect_near({.theta = 3.0, .split = NibbleSplit::truncate}, c);
}

// Large scales and thresholds: weights from 1 down to nothing in one row.
TEST(Latte, SweepThetaPerHead) {
  for (const Case& c : test::sweep(33)) {
    std::vector<double> theta;
    for (Index h = 0; h < c.shape.query_heads; ++h)
      theta.push_back(0.7 * static_cast<double>(h * h * h));
    const double scale = 4 / std::sqrt(static_cast<double>(c.shape.head_dim));
    expect_near({.scale = scale, .theta = theta}, c);
  }
}

TEST(Latte, ThetaFromNothingToEverything) {
  const Case c{{1, 1, 1, 40, 300, 64, 72}, true};
  const Index visible = 300 * 40 - 40 * 39 / 2;
  Index previous = 0;
  for (const double theta : {0.0, 0.1, 1.0, 5.0, 1e3, 1e300}) {
    const Index kept = expect_near({.theta = theta}, c);
    EXPECT_GE(kept, previous);
    EXPECT_GE(kept, 40);  // the best of every row
    previous = kept;
  }
  EXPECT_EQ(previous, visible);
}

TEST(Latte, TiesSurvive) {
  const Case c{{1, 1, 1, 18, 130, 16, 8}, true};
  Inputs inputs(c);
  inputs.k.for_each([](float& x) { x = 0.5f; });
  EXPECT_EQ(expect_near({.theta = 0.0}, c, inputs), 18 * 130 - 18 * 17 / 2);
}

TEST(Latte, MoreQueriesThanKeys) {
  for (const Index keys : {1, 7, 64, 65})
    expect_near({.theta = 1.0}, {{1, 2, 1, keys + 37, keys, 24, 24}, true});
}

TEST(Latte, ManyKeys) {
  for (const Index keys : {65535, 65536, 65537, 131073})
    for (const double theta : {1.0, 1e9}) {
      expect_near({.theta = theta}, {{1, 1, 1, 2, keys, 16, 72}, true});
      const Case block{{1, 1, 1, 17, keys, 16, 16}, true};
      Inputs inputs(block);
      expect_near({.theta = theta}, block, inputs);
    }
}

TEST(Latte, ExtremeScales) {
  for (const double scale : {1e-300, 1e-30, 1e-3, 1e3, 1e30, 1e200})
    for (const double theta : {0.0, 2.0, 1e300})
      expect_near({.scale = scale, .theta = theta}, {{1, 1, 1, 3, 66, 16, 16}});
}

TEST(Latte, AllZeroTensors) {
  const Case c{{1, 2, 1, 3, 5, 8, 8}};
  test::for_zeroed_tensors(c, [&](Inputs& inputs, int zeroed) {
    const Index kept = expect_near({.theta = 0.0}, c, inputs);
    if ((zeroed & 3) != 0) {
      EXPECT_EQ(kept, 30) << "no scores, yet keys were dropped";
    }
  });
}

TEST(Latte, NonFiniteInputs) {
  const Case c{{1, 1, 1, 9, 70, 16, 16}, true};
  Inputs inputs(c);
  inputs.q.view().row(0, 0, 2)[3] = std::numeric_limits<float>::quiet_NaN();
  for (Index i = 0; i < 16; ++i)
    inputs.q.view().row(0, 0, 4)[i] = std::numeric_limits<float>::quiet_NaN();
  inputs.q.view().row(0, 0, 5)[1] = std::numeric_limits<float>::infinity();
  inputs.k.view().row(0, 0, 69)[1] = std::numeric_limits<float>::infinity();
  inputs.k.view().row(0, 0, 60)[1] = std::numeric_limits<float>::quiet_NaN();
  inputs.v.view().row(0, 0, 68)[7] = -std::numeric_limits<float>::infinity();
  inputs.v.view().row(0, 0, 3)[7] = std::numeric_limits<float>::quiet_NaN();
  expect_near({.theta = 1.0}, c, inputs);
}

// Every byte at its largest: dot products and biased nibble sums at the edge of 32 bits.
TEST(Latte, OverflowEdgeSaturated) {
  for (const Index d : {256, 300, 66000, int{lowatt::latte_most_head_dim}})
    for (const NibbleSplit split : {NibbleSplit::round, NibbleSplit::truncate}) {
      const Case c{{1, 1, 1, 2, 6, d, 3}};
      Inputs inputs(c);
      const auto sign = [](Index row) { return row % 2 == 0 ? 1.0f : -1.0f; };
      for (Index i = 0; i < d; ++i) {
        for (Index t = 0; t < 2; ++t) inputs.q.view().row(0, 0, t)[i] = sign(t);
        for (Index t = 0; t < 6; ++t) inputs.k.view().row(0, 0, t)[i] = sign(t);
        // One key differs from its like in a single dim.
        inputs.k.view().row(0, 0, 2)[0] = -1;
      }
      expect_near({.theta = 1e300, .split = split}, c, inputs);
      expect_near({.scale = 1e-4, .theta = 1e300, .split = split}, c, inputs);
      expect_near({.scale = 1e-4, .theta = 1.0, .split = split}, c, inputs);
    }
}

// The best key has no value and the other's weight shrinks from 2^0 to 2^-24: what is left of the
// output is that weight, which integers hold to 2^-10 of itself and floats better.
TEST(Latte, SmallWeightsKeepTheirPrecision) {
  for (int bits = 0; bits <= 24; ++bits) {
    const Case c{{1, 1, 1, 1, 2, 64, 64}};
    Inputs inputs(c);
    inputs.q.for_each([](float& x) { x = 1; });
    for (Index i = 0; i < 64; ++i) {
      inputs.k.view().row(0, 0, 0)[i] = 1;
      inputs.k.view().row(0, 0, 1)[i] = 0.75f;
      inputs.v.view().row(0, 0, 0)[i] = 0;
      inputs.v.view().row(0, 0, 1)[i] = 1;
    }
    // 127 is rounded to 95 of 127 steps; the gap in logits is 64 * 32 / 127 * scale.
    const double scale = std::log(2.0) * bits * 127 / (64 * 32);
    if (scale > 0) expect_near({.scale = scale, .theta = 1e3}, c, inputs, 0x1p-10 + 2e-5);
  }
}

// The same with so many queries that dense work may take their place: bf16 holds a weight to 2^-8
// of itself, and 2^-8 of the distance between values is what an output may be off by.
TEST(Latte, SmallWeightsOfManyQueries) {
  const Case c{{1, 1, 1, 32, 64, 64, 64}};
  Inputs inputs(c);
  inputs.q.for_each([](float& x) { x = 1; });
  inputs.k.for_each([](float& x) { x = 1; });
  inputs.v.for_each([](float& x) { x = 0; });
  for (Index i = 0; i < 64; ++i) {
    inputs.k.view().row(0, 0, 5)[i] = 0.75f;
    inputs.v.view().row(0, 0, 5)[i] = 1;
  }
  for (int step = 1; step <= 64; ++step) {
    const double scale = std::log(2.0) * step / 16 * 127 / (64 * 32);
    expect_near({.scale = scale, .theta = 1e3}, c, inputs, 0x1p-8 + 1e-4);
  }
}

// A query has the same bits alone and beside others, whose weights need other widths and whose
// survivors fill the same batches.
TEST(Latte, QueriesDoNotDependOnEachOther) {
  constexpr Index queries = 14, dim = 72;  // fewer than where dense work may take their place
  const Case c{{1, 1, 1, queries, 700, 64, dim}};
  Inputs inputs(c);
  const View<float> q = inputs.q.view(), out = inputs.out.view();
  for (Index t = 0; t < queries; ++t)
    for (Index i = 0; i < q.dim; ++i) q.row(0, 0, t)[i] *= static_cast<float>(1 + t % 7);
  const auto attend = [&](Index first, Index count, const lowatt::Options& options) {
    View<const float> some = q;
    View<float> outputs = out;
    some.data = q.row(0, 0, first);
    outputs.data = out.row(0, 0, first);
    some.tokens = outputs.tokens = count;
    std::int64_t kept = 0;
    lowatt::Options counted = options;
    counted.kept = &kept;
    lowatt::attend(Latte{.theta = 30.0}, some, inputs.k.view(), inputs.v.view(), outputs, counted);
    return kept;
  };
  for (const lowatt::Level level : test::levels()) {
    const auto kept = attend(0, queries, {.level = level});
    std::vector<float> together;
    for (Index t = 0; t < queries; ++t)
      together.insert(together.end(), out.row(0, 0, t), out.row(0, 0, t) + dim);
    std::int64_t alone = 0;
    for (Index t = 0; t < queries; ++t) {
      alone += attend(t, 1, {.level = level});
      EXPECT_TRUE(std::equal(out.row(0, 0, t), out.row(0, 0, t) + dim, together.data() + t * dim))
          << "query " << t << ", " << lowatt::level_name(level);
    }
    EXPECT_EQ(alone, kept);
    EXPECT_GT(kept, queries * 256) << "no query has survivors for two batches";
  }
}

// Values in float32: their own precision, and a layout of their own.
TEST(Latte, SweepFloatValues) {
  for (const Case& c : test::sweep(34)) {
    Inputs inputs(c);
    expect_near({.theta = 2.0, .value_precision = lowatt::Precision::fp32}, c, inputs, 2e-5);
  }
}

TEST(Latte, FloatValuesNeedNoCalibration) {
  const Case c{{1, 2, 1, 3, 70, 16, 24}};
  Inputs inputs(c);
  const Latte mechanism{.theta = 2.0, .value_precision = lowatt::Precision::fp32};
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view());
  EXPECT_TRUE(calibration.value_absmax.empty());
  lowatt::KvCache<Latte> cache({1, 1, 16, 24, 70}, calibration, mechanism);
  cache.append(inputs.k.view(), inputs.v.view());
  EXPECT_EQ(cache.bytes_per_token(), 8 + 16 + 4 * 32);
  lowatt::attend(inputs.q.view(), cache, inputs.out.view());
  lowatt::attend(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                 inputs.expected.view());
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "cache");
}

// NaN and infinity of values that are filtered or masked never reach an output.
TEST(Latte, NonFiniteFilteredValues) {
  constexpr float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                           std::numeric_limits<float>::infinity()};
  for (const Index queries : {1, 20}) {
    const Case c{{1, 1, 1, queries, 130, 16, 40}, true};
    Inputs inputs(c);
    inputs.q.for_each([](float& x) { x = 1; });
    inputs.k.for_each([](float& x) { x = 1; });
    // Every third key is far away: filtered by all rows. Not every row sees the last ones.
    for (Index j = 0; j < 130; j += 3)
      for (Index i = 0; i < 16; ++i) {
        inputs.k.view().row(0, 0, j)[i] = -1;
        inputs.v.view().row(0, 0, j)[i] = bad[j % 2];
      }
    for (const auto precision : {lowatt::Precision::fp32, lowatt::Precision::int8}) {
      expect_near({.theta = 0.5, .value_precision = precision}, c, inputs,
                  precision == lowatt::Precision::fp32 ? 2e-5 : tolerance);
      for (Index t = 0; t < queries; ++t)
        for (Index i = 0; i < 40; ++i)
          EXPECT_TRUE(std::isfinite(inputs.out.view().row(0, 0, t)[i]));
    }
    // What only later rows see, earlier ones must not.
    if (queries == 1) continue;
    inputs.v.view().row(0, 0, 128)[0] = bad[0];
    lowatt::attend(Latte{.theta = 0.5, .value_precision = lowatt::Precision::fp32}, inputs.q.view(),
                   inputs.k.view(), inputs.v.view(), inputs.out.view(), {.causal = true});
    EXPECT_TRUE(std::isnan(inputs.out.view().row(0, 0, 19)[0]));
    EXPECT_TRUE(std::isfinite(inputs.out.view().row(0, 0, 17)[0]));
  }
}

// From few survivors to all, over blocks that are whole and blocks that are not: where dense work
// is faster, it has the same survivors.
TEST(Latte, AnySurvival) {
  for (const Index head_dim : {1, 31, 64, 100, 128, 272, 273, 274})
    for (const Index queries : {15, 16, 33, 80})
      for (const double theta : {0.3, 1.0, 2.0, 4.0, 100.0})
        for (const bool causal : {false, true}) {
          const Case c{{1, 2, 1, queries, 200, head_dim, 272 - head_dim / 2}, causal};
          Inputs inputs(c);
          expect_near({.theta = theta}, c, inputs);
        }
}

// Scores of 16 bits and of 32 at their ends: every high nibble at its largest, of either sign.
TEST(Latte, WidthsOfScores) {
  for (const Index head_dim : {272, 273, 274, 511, 512, 513})
    for (const Index queries : {1, 40}) {
      const Case c{{1, 1, 1, queries, 80, head_dim, 16}};
      Inputs inputs(c);
      for (Index i = 0; i < head_dim; ++i) {
        for (Index t = 0; t < queries; ++t)
          inputs.q.view().row(0, 0, t)[i] = t % 2 == 0 ? 1.0f : -1.0f;
        for (Index t = 0; t < 80; ++t)
          inputs.k.view().row(0, 0, t)[i] = t % 2 == 0 || i < t ? 1.0f : -1.0f;
      }
      for (const auto split : {NibbleSplit::round, NibbleSplit::truncate})
        for (const double theta : {0.0, 1.0, 30.0, 1e300})
          expect_near({.theta = theta, .split = split}, c, inputs);
    }
}

// Thresholds that sit on a distance between scores, and right below it.
TEST(Latte, ExactThresholds) {
  const Case c{{1, 1, 1, 1, 3, 64, 16}};
  Inputs inputs(c);
  // Everything is a multiple of 1/127: high nibbles are 8 (limited to 7), 4 and 2.
  constexpr float values[] = {127, 64, 32};
  inputs.q.for_each([](float& x) { x = 1; });
  for (Index t = 0; t < 3; ++t)
    for (Index i = 0; i < 64; ++i) inputs.k.view().row(0, 0, t)[i] = values[t] / 127;
  const auto kept = [&](Index gap, double nudge) {
    const float step = lowatt::symmetric_scale(1.0f, lowatt::int8_limit).scale;
    const double unit = 256.0 * static_cast<double>(step) * static_cast<double>(step) * 0.125;
    return expect_near({.scale = 0.125, .theta = unit * static_cast<double>(gap) * nudge}, c,
                       inputs);
  };
  const Index first = 64 * 7 * (7 - 4), second = 64 * 7 * (7 - 2);
  EXPECT_EQ(kept(first, 1 + 1e-12), 2);
  EXPECT_EQ(kept(first, 1 - 1e-12), 1);
  EXPECT_EQ(kept(second, 1 + 1e-12), 3);
  EXPECT_EQ(kept(second, 1 - 1e-12), 2);
}

// A mask with holes and a page table, through the kernel contract.
TEST(Latte, MasksAndPages) {
  constexpr Index keys = 300, head_dim = 40, value_dim = 72;
  constexpr Index rows = lowatt::latte_query_block(head_dim);
  constexpr Index tiles = (keys + lowatt::tile_keys - 1) / lowatt::tile_keys;
  std::mt19937 random(5);
  Inputs inputs({{1, 1, 1, rows, keys, head_dim, value_dim}, false, test::Layout::contiguous, 5});
  const Latte mechanism{.theta = 1.5};
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view());
  lowatt::KvCache<Latte> cache({1, 1, head_dim, value_dim, keys}, calibration, mechanism);
  cache.append(inputs.k.view(), inputs.v.view());

  lowatt::VisibleRange visible[rows];
  std::uint64_t words[rows * tiles];
  for (std::uint64_t& word : words) word = (std::uint64_t{random()} << 32) | random();
  for (Index r = 0; r < rows; ++r) {
    visible[r] = {static_cast<Index>(random() % keys), static_cast<Index>(random() % keys)};
    words[r * tiles + 2] = 0;  // nobody sees the third tile: it is absent
  }
  const std::byte* pages[tiles];
  for (Index t = 0; t < tiles; ++t) pages[t] = t == 2 ? nullptr : cache.tiles(0, 0).tile(t);

  const lowatt::Shape shape{1, 1, 1, rows, keys, head_dim, value_dim};
  lowatt::Array<std::byte> workspace(lowatt::Adapter<Latte>::workspace_bytes(mechanism, shape));
  lowatt::BlockArguments block;
  block.query = inputs.q.view().data;
  block.query_stride = head_dim;
  block.out = inputs.out.view().data;
  block.out_stride = value_dim;
  block.rows = rows;
  block.head_dim = head_dim;
  block.value_dim = value_dim;
  block.tiles.pages = pages;
  block.tile_end = tiles;
  block.visible = visible;
  block.visible_words = words;
  block.visible_words_stride = tiles;
  block.workspace = workspace.data();

  // The reference sees each row alone, with the keys that the row sees.
  Index expected_kept = 0;
  for (Index r = 0; r < rows; ++r) {
    std::vector<float> k, v;
    for (Index j = 0; j < keys; ++j) {
      if ((block.visible_word(r, j / lowatt::tile_keys) >> (j % lowatt::tile_keys) & 1) == 0)
        continue;
      const float* key = inputs.k.view().row(0, 0, j);
      const float* value = inputs.v.view().row(0, 0, j);
      k.insert(k.end(), key, key + head_dim);
      v.insert(v.end(), value, value + value_dim);
    }
    const Index seen = static_cast<Index>(k.size()) / head_dim;
    if (seen == 0) continue;
    lowatt::LatteCounts counts;
    const View<float> expected(inputs.expected.view().row(0, 0, r), 1, 1, value_dim);
    const Status status = lowatt::latte_reference(
        mechanism, View<const float>(inputs.q.view().row(0, 0, r), 1, 1, head_dim),
        View<const float>(k.data(), 1, seen, head_dim),
        View<const float>(v.data(), 1, seen, value_dim), expected, false, &counts, &calibration);
    ASSERT_TRUE(status.ok()) << status.message;
    expected_kept += counts.kept;
  }

  for (const lowatt::Level level : test::levels()) {
    const lowatt::KernelTable* table = nullptr;
    ASSERT_TRUE(lowatt::try_find_kernels(level, table).ok());
    for (std::byte& byte : workspace) byte = std::byte{0xff};
    lowatt::LatteArguments arguments{};
    arguments.block = block;
    arguments.theta = mechanism.theta[0];
    arguments.scale = lowatt::default_scale(head_dim);
    arguments.key_scale =
        lowatt::symmetric_scale(calibration.key_absmax[0], lowatt::int8_limit).scale;
    arguments.value_scale =
        lowatt::symmetric_scale(calibration.value_absmax[0], lowatt::int8_limit).scale;
    table->latte.prepare(arguments);
    table->latte.statistic(arguments);
    table->latte.accumulate(arguments);
    table->latte.finish(arguments);
    const lowatt::LatteWorkspace counts(block);
    const Index kept = std::accumulate(counts.kept, counts.kept + rows, Index{0});
    EXPECT_EQ(kept, expected_kept) << lowatt::level_name(level);
    EXPECT_LE(test::relative_l2(inputs.out.view(), inputs.expected.view()), tolerance)
        << lowatt::level_name(level);
    for (Index r = 0; r < rows; ++r) {
      if (block.visible_count(r) != 0) continue;
      for (Index c = 0; c < value_dim; ++c) EXPECT_EQ(inputs.out.view().row(0, 0, r)[c], 0.0f);
    }
  }
}

TEST(Latte, BytesPerToken) {
  const auto bytes = [](Index head_dim, Index value_dim) {
    return static_cast<double>(lowatt::Adapter<Latte>::tile_bytes({}, head_dim, value_dim)) / 64;
  };
  EXPECT_EQ(bytes(64, 64), 32 + 64 + 64);
  EXPECT_EQ(bytes(128, 128), 64 + 128 + 128);
  EXPECT_EQ(bytes(80, 80), 40 + 80 + 80);
}

// A cache keeps its own copy of per-head thresholds, and takes it along when it is moved.
TEST(Latte, CacheKeepsThetas) {
  Inputs inputs({{1, 4, 2, 5, 100, 16, 16}, false, test::Layout::contiguous, 3});
  const View<const float> q = inputs.q.view(), k = inputs.k.view(), v = inputs.v.view();
  std::vector<double> theta{0.5, 1.0, 2.0, 8.0};
  const lowatt::Calibration calibration = lowatt::calibrate(Latte{.theta = theta}, q, k, v);
  lowatt::attend(Latte{.theta = theta}, q, k, v, inputs.expected.view());

  lowatt::KvCache<Latte> moved;
  {
    lowatt::KvCache<Latte> cache({1, 2, 16, 16, 100}, calibration, {.theta = theta});
    cache.append(k, v);
    theta.assign(4, 1e6);
    lowatt::attend(q, cache, inputs.out.view());
    test::expect_identical(inputs.out.view(), inputs.expected.view(), "cache");
    moved = std::move(cache);
  }
  lowatt::attend(q, moved, inputs.out.view());
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "moved cache");

  // The Calibration may bring them; the mechanism's go first.
  lowatt::Calibration calibrated = calibration;
  calibrated.theta = lowatt::Array<double>(4);
  for (Index h = 0; h < 4; ++h) calibrated.theta[h] = (const double[]){0.5, 1.0, 2.0, 8.0}[h];
  lowatt::KvCache<Latte> from_calibration({1, 2, 16, 16, 100}, calibrated);
  from_calibration.append(k, v);
  lowatt::attend(q, from_calibration, inputs.out.view());
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "theta of the calibration");

  lowatt::attend(Latte{.theta = 2.0}, q, k, v, inputs.expected.view());
  lowatt::KvCache<Latte> both({1, 2, 16, 16, 100}, calibrated, {.theta = 2.0});
  both.append(k, v);
  lowatt::attend(q, both, inputs.out.view());
  test::expect_identical(inputs.out.view(), inputs.expected.view(), "theta of the mechanism");
}

TEST(Latte, Refusals) {
  const Case c{{1, 4, 2, 5, 10, 8, 8}};
  Inputs inputs(c);
  const auto refusal = [&](const Latte& mechanism) {
    const Status status = lowatt::try_attend(mechanism, inputs.q.view(), inputs.k.view(),
                                             inputs.v.view(), inputs.out.view());
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    return std::string(status.message);
  };
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(refusal({}),
            "theta is not given; LATTE needs one, or one per query head, or a target that "
            "calibration chooses it for");
  EXPECT_EQ(refusal({.theta = -1.0}), "theta[0] is -1; it must be finite and not negative");
  EXPECT_EQ(refusal({.theta = nan}), "theta[0] is nan; it must be finite and not negative");
  const Status precision =
      lowatt::try_attend(Latte{.theta = 1.0, .value_precision = lowatt::Precision::bf16},
                         inputs.q.view(), inputs.k.view(), inputs.v.view(), inputs.out.view());
  EXPECT_EQ(precision.code, StatusCode::unsupported);
  EXPECT_STREQ(precision.message, "value_precision is bf16; LATTE has kernels for int8 and fp32");
  EXPECT_EQ(refusal({.scale = 0.0, .theta = 1.0}), "scale is 0; it must be finite and positive");
  std::vector<double> theta{1, 2, 3};
  EXPECT_EQ(refusal({.theta = theta}),
            "theta has 3 entries; one, or one for each of the 4 query heads is needed");
  theta = {1, 2, 3, std::numeric_limits<double>::infinity()};
  EXPECT_EQ(refusal({.theta = theta}), "theta[3] is inf; it must be finite and not negative");

  lowatt::Plan<Latte> plan;
  Status status = lowatt::try_plan(plan, Latte{.theta = 1.0},
                                   {1, 1, 1, 1, 1, lowatt::latte_most_head_dim + 1, 1});
  EXPECT_EQ(status.code, StatusCode::invalid_shape);
  EXPECT_STREQ(status.message, "head_dim is 66312; 32-bit scores hold at most 66311");
  status =
      lowatt::try_plan(plan, Latte{.theta = 1.0}, {1, 1, 1, 1, lowatt::latte_most_keys + 1, 8, 8});
  EXPECT_STREQ(status.message, "keys is 4294967296; 32-bit positions hold at most 4294967295");

  // A cache's thresholds against the queries that it is attended with.
  theta = {1, 2};
  const lowatt::Calibration calibration =
      lowatt::calibrate(Latte{.theta = 1.0}, inputs.q.view(), inputs.k.view(), inputs.v.view());
  lowatt::KvCache<Latte> cache({1, 2, 8, 8, 10}, calibration, {.theta = theta});
  cache.append(inputs.k.view(), inputs.v.view());
  status = lowatt::try_attend(inputs.q.view(), cache, inputs.out.view());
  EXPECT_STREQ(status.message, "q.heads is 4 but the number of thetas is 2");
}

}  // namespace
