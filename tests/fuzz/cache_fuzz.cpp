// libFuzzer target for saved caches (clang only):
//   cache_fuzz -max_len=4096 -max_total_time=60 some_scratch_folder tests/fuzz/cache
// Whatever the bytes are, they are refused, or make a cache that can be attended, appended to,
// rewound and saved. Length and checksum are made to fit first: else nothing would get past them.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <lowatt/lowatt.hpp>
#include <vector>

namespace {

using lowatt::Index;

template <class M>
void use(const std::vector<std::byte>& bytes) {
  lowatt::KvCache<M> cache;
  const auto size = static_cast<Index>(bytes.size());
  if (!lowatt::try_load(cache, bytes.data(), size, 0, {}, {.tokens = 64}).ok()) return;
  if (cache.size() > size) std::abort();
  const lowatt::CacheShape shape = cache.shape();
  if (shape.head_dim + shape.value_dim > 4096 || shape.kv_heads * shape.batch > 16) return;

  // As many query heads as the calibration has, where it has any.
  const auto head_count = [&](Index entries) {
    return entries > 0 && entries % (shape.batch * shape.kv_heads) == 0 ? entries / shape.batch
                                                                        : shape.kv_heads;
  };
  const lowatt::Calibration& calibration = cache.calibration();
  const Index heads = calibration.theta.empty() ? head_count(calibration.query_absmax.size() > 0
                                                                 ? calibration.query_absmax.size()
                                                                 : calibration.temperature.size())
                                                : calibration.theta.size();
  if (heads > 64) return;
  std::vector<float> q(static_cast<std::size_t>(shape.batch * heads * 3 * shape.head_dim), 0.5f);
  std::vector<float> out(static_cast<std::size_t>(shape.batch * heads * 3 * shape.value_dim));
  static_cast<void>(lowatt::try_attend(
      lowatt::View<const float>(q.data(), shape.batch, heads, 3, shape.head_dim), cache,
      lowatt::View<float>(out.data(), shape.batch, heads, 3, shape.value_dim), {.causal = true}));

  if (!cache.try_reserve(cache.size() + 1).ok()) return;
  std::vector<float> token(
      static_cast<std::size_t>(shape.kv_heads * shape.batch * (shape.head_dim + shape.value_dim)),
      0.25f);
  if (!cache
           .try_append(lowatt::View<const float>(token.data(), shape.batch, shape.kv_heads, 1,
                                                 shape.head_dim),
                       lowatt::View<const float>(token.data(), shape.batch, shape.kv_heads, 1,
                                                 shape.value_dim))
           .ok())
    std::abort();
  if (!cache.try_truncate(cache.size() / 2).ok()) std::abort();
  std::vector<std::byte> saved(static_cast<std::size_t>(lowatt::saved_bytes(cache)));
  if (!lowatt::try_save(cache, saved.data(), static_cast<Index>(saved.size())).ok()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  if (size >= sizeof(lowatt::detail::SavedPrefix)) {
    const std::uint64_t length = size;
    const std::uint64_t sum =
        lowatt::detail::checksum_of(bytes.data() + lowatt::detail::summed_from,
                                    static_cast<Index>(size) - lowatt::detail::summed_from);
    std::memcpy(bytes.data() + offsetof(lowatt::detail::SavedPrefix, bytes), &length, 8);
    std::memcpy(bytes.data() + offsetof(lowatt::detail::SavedPrefix, checksum), &sum, 8);
  }
  use<lowatt::Softmax>(bytes);
  use<lowatt::Inhibitor>(bytes);
  use<lowatt::Latte>(bytes);
  use<lowatt::Bitformer>(bytes);
  return 0;
}
