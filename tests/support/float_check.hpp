// What the tests of the float kernels share: comparison within a tolerance where NaN and infinity
// must appear exactly where they are expected, and blocks run with any mask straight through the
// kernels.
#pragma once

#include "sweep.hpp"

namespace test {

// Relative L2 error at most `tolerance` over what is expected to be finite; what is expected to be
// NaN or infinite is neither finite nor left out.
inline void expect_close(lowatt::View<const float> actual, lowatt::View<const float> expected,
                         double tolerance, const std::string& what) {
  double difference = 0, norm = 0;
  for (Index b = 0; b < actual.batch; ++b)
    for (Index h = 0; h < actual.heads; ++h)
      for (Index t = 0; t < actual.tokens; ++t)
        for (Index c = 0; c < actual.dim; ++c) {
          const double a = static_cast<double>(actual.row(b, h, t)[c]);
          const double e = static_cast<double>(expected.row(b, h, t)[c]);
          ASSERT_EQ(std::isfinite(a), std::isfinite(e))
              << what << ": head " << h << " query " << t << " dim " << c << " is " << a
              << ", expected " << e;
          if (!std::isfinite(e)) continue;
          difference += (a - e) * (a - e);
          norm += e * e;
        }
  EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(norm)) << what;
}

// The mechanism at every level against `reference`, called like a reference of the library.
template <class M, class Reference>
void expect_near_reference(const M& mechanism, const Case& c, Inputs& inputs, Reference reference,
                           double tolerance = 2e-5) {
  const lowatt::View<const float> q = std::as_const(inputs.q).view(),
                                  k = std::as_const(inputs.k).view(),
                                  v = std::as_const(inputs.v).view();
  const lowatt::Status status = reference(mechanism, q, k, v, inputs.expected.view(), c.causal);
  ASSERT_TRUE(status.ok()) << status.message;
  for (const lowatt::Level level : levels()) {
    inputs.out.for_each([](float& x) { x = -1e30f; });
    lowatt::attend(mechanism, q, k, v, inputs.out.view(), {.causal = c.causal, .level = level});
    expect_close(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(), tolerance,
                 describe(level, c));
    EXPECT_TRUE(inputs.out.gaps_are_untouched()) << describe(level, c);
  }
}

// Puts NaN and infinities into some elements of a tensor.
inline void spoil(StridedTensor& x, std::mt19937& random) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  const lowatt::View<float> view = x.view();
  for (const float value : bad) {
    const auto token = static_cast<Index>(random() % static_cast<unsigned>(view.tokens));
    const auto dim = static_cast<Index>(random() % static_cast<unsigned>(view.dim));
    view.row(0, 0, token)[dim] = value;
  }
}

// Queries of one head with a random mask per row, straight through a mechanism's kernels and
// against its reference on the keys that each row sees. Tiles come from a page table. The
// reference is given the calibration of all keys.
template <class M, class Reference, class Tolerance = double (*)(lowatt::Level)>
void expect_masks_hide(
    const M& mechanism, Reference reference, bool spoil_values,
    Tolerance tolerance_of = [](lowatt::Level) { return 2e-5; }) {
  constexpr Index keys = 600, most_rows = 64;
  constexpr Index row_counts[] = {1, 2, 3, 15, 17, 32, 49, 64}, dims[] = {24, 80, 300, 3},
                  value_dims[] = {40, 24, 130, 64};
  constexpr Index tiles = (keys + lowatt::tile_keys - 1) / lowatt::tile_keys;
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    const Index head_dim = dims[seed % 4], value_dim = value_dims[seed / 4 % 4];
    const lowatt::Shape head{1, 1, 1, most_rows, keys, head_dim, value_dim};
    const Index rows =
        std::min(row_counts[seed % 8], lowatt::Adapter<M>::query_block(mechanism, head));
    const Case c{{1, 1, 1, rows, keys, head_dim, value_dim}, false, Layout::contiguous, seed};
    Inputs inputs(c);
    spoil(spoil_values ? inputs.v : inputs.k, random);

    // Rows see nothing of some tiles, few keys of others, a window of the rest.
    lowatt::VisibleRange visible[most_rows];
    std::uint64_t words[most_rows][tiles];
    const auto absent = static_cast<Index>(random() % tiles);  // a tile that nobody sees
    for (Index r = 0; r < rows; ++r) {
      const auto a = static_cast<Index>(random() % keys), b = static_cast<Index>(random() % keys);
      visible[r] = {a < b ? a : b, a < b ? b : a};
      for (std::uint64_t& word : words[r]) {
        word = (std::uint64_t{random()} << 32) | random();
        if (random() % 3 == 0) word = 0;
        if (random() % 3 == 0) word = ~std::uint64_t{0};
      }
      words[r][absent] = 0;
    }

    const lowatt::Calibration calibration =
        lowatt::calibrate(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view());
    lowatt::KvCache<M> cache({1, 1, head_dim, value_dim, keys}, calibration, mechanism);
    cache.append(inputs.k.view(), inputs.v.view());
    const std::byte* pages[tiles];
    for (Index t = 0; t < tiles; ++t) pages[t] = t == absent ? nullptr : cache.tiles(0, 0).tile(t);

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
    block.visible_words = words[0];
    block.visible_words_stride = tiles;

    for (Index r = 0; r < rows; ++r) {
      std::vector<float> seen_keys, seen_values;
      for (Index j = 0; j < keys; ++j) {
        const std::uint64_t word = block.visible_word(r, j / lowatt::tile_keys);
        if ((word >> (j % lowatt::tile_keys) & 1) == 0) continue;
        const float* key = inputs.k.view().row(0, 0, j);
        const float* value = inputs.v.view().row(0, 0, j);
        seen_keys.insert(seen_keys.end(), key, key + head_dim);
        seen_values.insert(seen_values.end(), value, value + value_dim);
      }
      const auto count = static_cast<Index>(seen_keys.size()) / head_dim;
      ASSERT_EQ(count, block.visible_count(r));
      if (count == 0) continue;  // expected to be 0, as it is
      using Rows = lowatt::View<const float>;
      const lowatt::Status status = reference(
          mechanism, Rows(inputs.q.view().row(0, 0, r), 1, 1, head_dim),
          Rows(seen_keys.data(), 1, count, head_dim), Rows(seen_values.data(), 1, count, value_dim),
          lowatt::View<float>(inputs.expected.view().row(0, 0, r), 1, 1, value_dim), false,
          &calibration);
      ASSERT_TRUE(status.ok()) << status.message;
    }

    const lowatt::Shape shape{1, 1, 1, rows, keys, head_dim, value_dim};
    lowatt::Array<std::byte> workspace(lowatt::Adapter<M>::workspace_bytes(mechanism, shape));
    block.workspace = workspace.data();
    for (const lowatt::Level level : levels()) {
      for (std::byte& byte : workspace) byte = std::byte{0xff};  // NaN, were it read
      inputs.out.for_each([](float& x) { x = -1e30f; });
      const lowatt::KernelTable* table = nullptr;
      ASSERT_TRUE(lowatt::try_find_kernels(level, table).ok());
      lowatt::detail::attend_block<M>(
          {*table, mechanism, calibration, cache.tables(), {0, 0, 0, 1, 1}, rows, 0, block}, {});
      expect_close(std::as_const(inputs.out).view(), std::as_const(inputs.expected).view(),
                   tolerance_of(level),
                   std::string(lowatt::level_name(level)) + ", seed " + std::to_string(seed));
    }
  }
}

}  // namespace test
