// A saved cache is loaded as it was, and nothing else is loaded at all.
#include <fstream>

#include "support/cached_tensors.hpp"
#include "support/counted_pages.hpp"

namespace {

using lowatt::Index;
using test::entry_of;
using test::tokens_of;

using Bytes = lowatt::Array<std::byte>;

template <class Example>
class SavedCache : public test::CachedTensors<Example> {
 protected:
  // Sequences of different lengths, of which one ends inside a tile.
  typename SavedCache::Cache ragged() {
    auto cache = this->filled(100);
    const auto [q, k, v] = this->views();
    cache.append(1, entry_of(tokens_of(k, 100, 28), 1), entry_of(tokens_of(v, 100, 28), 1));
    return cache;
  }
  // The bytes with a checksum that fits them, as a forger would have it.
  static Bytes forged(Bytes saved) {
    const std::uint64_t sum = lowatt::detail::checksum_of(saved.data() + 32, saved.size() - 32);
    std::memcpy(saved.data() + 24, &sum, sizeof sum);
    return saved;
  }
  static std::string message_of(const Bytes& saved, Index bytes) {
    typename SavedCache::Cache cache;
    const lowatt::Status status = lowatt::try_load(cache, saved.data(), bytes);
    EXPECT_EQ(status.ok(), status.message[0] == '\0');
    EXPECT_EQ(status.ok(), cache.size() > 0);
    return status.message;
  }
};

TYPED_TEST_SUITE(SavedCache, test::Examples);

TYPED_TEST(SavedCache, LoadedCachesAreTheSame) {
  const auto [q, k, v] = this->views();
  auto cache = this->ragged();
  const Bytes saved = lowatt::save(cache);
  lowatt::attend(q, cache, this->out.view(), {.causal = true});
  for (const lowatt::Level level : test::levels())
    for (const Index page_tokens : {0, 64}) {
      auto loaded = lowatt::load<typename TestFixture::M>(saved.data(), saved.size(), this->tokens,
                                                          level, {.tokens = page_tokens});
      test::expect_same_bytes(loaded, cache, lowatt::level_name(level));
      const Bytes resaved = lowatt::save(loaded);
      ASSERT_EQ(resaved.size(), saved.size());
      EXPECT_EQ(0,
                std::memcmp(resaved.data(), saved.data(), static_cast<std::size_t>(saved.size())));
      lowatt::attend(q, loaded, this->again.view(), {.causal = true});
      test::expect_identical(this->again.view(), this->out.view(), lowatt::level_name(level));
      loaded.append(tokens_of(k, 100, 20), tokens_of(v, 100, 20));
      auto straight = this->ragged();
      straight.append(tokens_of(k, 100, 20), tokens_of(v, 100, 20));
      test::expect_same_bytes(loaded, straight, "appended to");
    }
}

TYPED_TEST(SavedCache, EmptyOnes) {
  const Bytes saved = lowatt::save(this->make());
  auto loaded = lowatt::load<typename TestFixture::M>(saved.data(), saved.size(), this->tokens);
  loaded.append(this->views().k, this->views().v);
  test::expect_same_bytes(loaded, this->filled(this->tokens), "loaded empty");
}

TYPED_TEST(SavedCache, DamageIsToldAndChangesNothing) {
  const Bytes saved = lowatt::save(this->ragged());
  ASSERT_EQ(this->message_of(saved, saved.size()), "");
  for (Index bytes = 0; bytes < saved.size(); bytes += bytes < 600 ? 1 : 997)
    ASSERT_NE(this->message_of(saved, bytes), "") << bytes;
  for (Index i = 0; i < saved.size(); i += i < 600 ? 1 : 997) {
    Bytes damaged = saved;
    damaged[i] ^= std::byte{4};
    ASSERT_NE(this->message_of(damaged, damaged.size()), "") << i;
  }
}

// Whatever a header says, it is refused or fits the bytes; kernels can then run on it.
TYPED_TEST(SavedCache, ForgedHeaders) {
  const Bytes saved = lowatt::save(this->ragged());
  const lowatt::View<const float> q = this->views().q;
  test::Sampler samples;
  for (Index i = 32; i < 600; ++i)
    for (const int value : {0, 1, 0x7f, 0xff}) {
      if (!samples()) continue;
      Bytes changed = saved;
      changed[i] = static_cast<std::byte>(value);
      typename TestFixture::Cache cache;
      const Bytes forged = this->forged(changed);
      if (!lowatt::try_load(cache, forged.data(), forged.size()).ok()) continue;
      EXPECT_LE(cache.size(), saved.size());
      if (i % 8 == 0) static_cast<void>(lowatt::try_attend(q, cache, this->out.view()));
    }
}

TEST(SavedCacheRefusal, OneSentence) {
  using lowatt::KvCache, lowatt::Softmax;
  KvCache<Softmax> cache({1, 1, 8, 8, 10}, {});
  const Bytes saved = lowatt::save(cache);
  const auto message = [&](const Bytes& bytes) {
    KvCache<Softmax> loaded;
    return std::string(lowatt::try_load(loaded, bytes.data(), bytes.size()).message);
  };
  const auto changed = [&](Index at, char value) {
    Bytes bytes = saved;
    bytes[at] = static_cast<std::byte>(value);
    const std::uint64_t sum = lowatt::detail::checksum_of(bytes.data() + 32, bytes.size() - 32);
    std::memcpy(bytes.data() + 24, &sum, sizeof sum);
    return message(bytes);
  };
  EXPECT_EQ(message(saved), "");
  EXPECT_EQ(message(Bytes(10)), "a saved cache has at least 80 bytes; 10 were given");
  EXPECT_EQ(changed(0, 'l'), "these bytes are not a saved cache");
  EXPECT_EQ(changed(8, 2), "the saved cache is of version 2; this library reads version 1");
  EXPECT_EQ(changed(60, '9'),
            "the saved cache has layout 'softmax fp3291', this library reads 'softmax fp32 1'");
  KvCache<lowatt::Bitformer> other;
  EXPECT_STREQ(lowatt::try_load(other, saved.data(), saved.size()).message,
               "the saved cache is of 'softmax', not of 'bitformer'");
  Bytes damaged = saved;
  damaged[100] ^= std::byte{1};
  EXPECT_EQ(message(damaged), "the saved cache is damaged: its checksum is not right");

  Bytes small(saved.size() - 1);
  EXPECT_EQ(std::string(lowatt::try_save(cache, small.data(), small.size()).message),
            "bytes is " + std::to_string(small.size()) + "; this cache needs " +
                std::to_string(saved.size()));
}

// Seeds that are refused would leave the fuzzer of saved caches with nothing to start from.
template <class M>
void expect_seed(const std::string& name, const M& mechanism, Index tokens = 3) {
  const std::string path = LOWATT_TEST_DATA "/../fuzz/cache/" + name + ".kvcache";
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  lowatt::KvCache<M> cache;
  const lowatt::Status status = lowatt::try_load(cache, data, static_cast<Index>(bytes.size()));
  if (status.ok()) return;
  test::StridedTensor q(1, 1, 3, 9), k(1, 1, 3, 9), v(1, 1, 3, 5);
  std::mt19937 random(1);
  for (test::StridedTensor* x : {&q, &k, &v}) x->fill_normal(random);
  lowatt::KvCache<M> fresh({1, 1, 9, 5, 3},
                           lowatt::calibrate(mechanism, q.view(), k.view(), v.view()), mechanism);
  if (tokens > 0) fresh.append(k.view(), v.view());
  const Bytes saved = lowatt::save(fresh);
  std::ofstream(name + ".kvcache", std::ios::binary)
      .write(reinterpret_cast<const char*>(saved.data()), saved.size());
  ADD_FAILURE() << path << " is refused (" << status.message << "); one that is not is now in "
                << name << ".kvcache";
}

TEST(SavedCacheSeeds, AreLoaded) {
  expect_seed("empty", lowatt::Softmax{}, 0);
  expect_seed("softmax_f16", test::SoftmaxExample<lowatt::Precision::f16>::make());
  expect_seed("softmax_int8", test::SoftmaxExample<lowatt::Precision::int8>::make());
  expect_seed("inhibitor_int8", test::InhibitorExample::make());
  expect_seed("inhibitor_int4", test::InhibitorInt4Example::make());
  expect_seed("inhibitor_planes", test::InhibitorPlanesExample::make());
  expect_seed("latte", test::LatteExample::make());
  expect_seed("bitformer_sign", test::BitformerSignExample::make());
  expect_seed("bitformer_thermometer", test::BitformerThermometerExample::make());
}

}  // namespace
