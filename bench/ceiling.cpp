#include "ceiling.hpp"

#include <algorithm>
#include <ctime>
#include <map>
#include <utility>

namespace bench {

// Defined by the generated units, one per level.
using CeilingLoop = int (*)(Work work, long repeats);
int ceiling_sse2(Work work, long repeats);
int ceiling_avx2(Work work, long repeats);
int ceiling_avx512(Work work, long repeats);
int ceiling_avx512icl(Work work, long repeats);
int ceiling_amx(Work work, long repeats);

namespace {

constexpr CeilingLoop loops[] = {ceiling_sse2, ceiling_avx2, ceiling_avx512, ceiling_avx512icl,
                                 ceiling_amx};
static_assert(std::size(loops) == lowatt::level_count);

double measure(CeilingLoop loop, Work work) {
  constexpr long repeats = 200'000;
  constexpr int steps = 16, trials = 5;
  volatile int sink = 0;
  double best = 1e300;
  for (int trial = 0; trial < trials; ++trial) {
    const std::clock_t start = std::clock();  // CPU time, as the benchmarks count it
    sink = loop(work, repeats);
    best = std::min(best, 1e9 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  static_cast<void>(sink);
  return best / static_cast<double>(repeats * steps);
}

}  // namespace

double nanoseconds_per_register(lowatt::Level level, Work work) {
  // The least so far: each benchmark tries again, since a shared machine may be slow at any moment.
  static std::map<std::pair<lowatt::Level, Work>, double> known;
  double& least = known.try_emplace({level, work}, 1e300).first->second;
  least = std::min(least, measure(loops[static_cast<int>(level)], work));
  return least;
}

int register_bytes(lowatt::Level level) {
  switch (level) {
    case lowatt::Level::sse2:
      return 16;
    case lowatt::Level::avx2:
      return 32;
    case lowatt::Level::avx512:
    case lowatt::Level::avx512icl:
    case lowatt::Level::amx:
      return 64;
  }
  return 16;
}

}  // namespace bench
