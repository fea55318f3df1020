// A saved cache with codes that packing would not write is loaded as one that packing could have
// written: kernels rely on how far apart codes can be.
#include "support/sweep.hpp"

namespace {

using lowatt::Bitformer;
using lowatt::Index;
using lowatt::Inhibitor;

constexpr Index tokens = 70, value_dim = 20;

Bitformer make(const Bitformer&, int planes) {
  return {.planes = planes, .clip = 1.0, .temperature = 0.01};
}
Inhibitor make(const Inhibitor&, int planes) {
  return {.scale = 0.01, .planes = planes, .clip = 1.0};
}

struct Tensors {
  explicit Tensors(Index head_dim) : q(1, 1, 9, head_dim), k(1, 1, tokens, head_dim) {
    std::mt19937 random(3);
    for (test::StridedTensor* x : {&q, &k, &v}) x->fill_normal(random);
  }
  test::StridedTensor q, k, v{1, 1, tokens, value_dim};
};

// With codes whose bytes are code(); the other bytes of tiles and the checksum are as they should.
template <class M, class Code>
lowatt::Array<std::byte> saved_with(const M& mechanism, Tensors& tensors, Code&& code) {
  const lowatt::Calibration calibration =
      lowatt::calibrate(mechanism, tensors.q.view(), tensors.k.view(), tensors.v.view());
  const Index head_dim = tensors.k.view().dim;
  lowatt::KvCache<M> cache({1, 1, head_dim, value_dim, tokens}, calibration, mechanism);
  cache.append(tensors.k.view(), tensors.v.view());
  lowatt::Array<std::byte> saved = lowatt::save(cache);
  const Index code_bytes = lowatt::thermometer_tile_bytes(mechanism.planes, head_dim);
  const Index stride = cache.tiles(0, 0).stride;
  for (Index t = 1; t <= lowatt::tile_count(tokens); ++t)
    for (Index i = 0; i < code_bytes; ++i) saved[saved.size() - t * stride + i] = code();
  const std::uint64_t sum = lowatt::detail::checksum_of(saved.data() + 32, saved.size() - 32);
  std::memcpy(saved.data() + 24, &sum, sizeof sum);
  return saved;
}

template <class M>
class SavedCodes : public testing::Test {};
using CodedMechanisms = testing::Types<Bitformer, Inhibitor>;
TYPED_TEST_SUITE(SavedCodes, CodedMechanisms);

// Up to level 7 a byte has two channels, from three planes down bits.
TYPED_TEST(SavedCodes, AreLimited) {
  for (const int planes : {1, 3, 4, 6, 7, 8, 63, 64})
    for (const Index head_dim : {1, 9, 64, 65}) {
      std::mt19937 random(static_cast<unsigned>(planes));
      Tensors tensors(head_dim);
      const auto saved = saved_with(make(TypeParam{}, planes), tensors,
                                    [&] { return static_cast<std::byte>(random()); });
      const auto cache = lowatt::load<TypeParam>(saved.data(), saved.size());
      for (Index t = 0; t < lowatt::tile_count(tokens); ++t)
        for (Index j = 0; j < lowatt::tile_keys; ++j)
          for (Index i = 0; i < lowatt::thermometer_row_bytes(planes, head_dim); ++i) {
            const auto byte =
                std::to_integer<int>(cache.tiles(0, 0).tile(t)[i * lowatt::tile_keys + j]);
            const auto what = [&] {
              return std::to_string(planes) + " planes, head_dim " + std::to_string(head_dim) +
                     ", byte " + std::to_string(i) + " is " + std::to_string(byte);
            };
            if (planes < 4) {
              const Index plane_bytes = (head_dim + 7) / 8;
              const Index channels = std::min(head_dim - i % plane_bytes * 8, Index{8});
              ASSERT_LT(byte, 1 << channels) << what();
            } else if (planes < 8) {
              const bool is_spare = (head_dim + 1) / 2 + i >= head_dim;
              ASSERT_LE(byte % 8, planes) << what();
              ASSERT_LE(byte / 8, is_spare ? 0 : planes) << what();
            } else {
              ASSERT_LE(byte, planes) << what();
            }
          }
    }
}

// As if every channel had reached every threshold: so far from others that 16 bits just hold it, as
// they would not hold the distances of what was saved.
TYPED_TEST(SavedCodes, AreTheLargestAtEveryLevel) {
  for (const int planes : {4, 63, 64}) {
    Tensors tensors(65535 / planes);
    const auto attend = [&](std::byte code, lowatt::Level level, test::StridedTensor& out) {
      const auto saved = saved_with(make(TypeParam{}, planes), tensors, [=] { return code; });
      const auto cache =
          lowatt::load<TypeParam>(saved.data(), saved.size(), tokens, lowatt::LevelSetting(level));
      lowatt::attend(tensors.q.view(), cache, out.view());
    };
    const auto largest = static_cast<std::byte>(planes < 8 ? planes | planes << 3 : planes);
    test::StridedTensor out(1, 1, 9, value_dim), expected(1, 1, 9, value_dim);
    attend(largest, test::levels().front(), expected);
    for (const lowatt::Level level : test::levels()) {
      attend(std::byte{0xff}, level, out);
      test::expect_identical(out.view(), expected.view(), lowatt::level_name(level));
    }
  }
}

}  // namespace
