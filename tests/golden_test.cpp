// Every golden case through the library, at every level that this CPU has.
#include <gtest/gtest.h>

#include "support/golden.hpp"
#include "support/sweep.hpp"

namespace {

using lowatt::Index;

// One case at one level; what the golden file states beside the output is checked too.
template <class M>
void expect_golden(const M& mechanism, const test::GoldenCase& golden,
                   const test::GoldenTensors& tensors, lowatt::Level level) {
  test::Tensor<> out(1, tensors.out.heads, tensors.out.tokens, tensors.out.dim);
  std::vector<std::int64_t> kept(static_cast<std::size_t>(out.heads));
  lowatt::attend(mechanism, tensors.q.view(), tensors.k.view(), tensors.v.view(), out.view(),
                 {.causal = golden.causal, .level = level, .kept = kept.data()});
  if (golden.tolerance == 0)
    test::expect_identical(std::as_const(out).view(), tensors.out.view(), golden.name);
  EXPECT_LE(test::relative_l2(std::as_const(out).view(), tensors.out.view()), golden.tolerance);
  for (std::size_t h = 0; h < golden.kept.size(); ++h)
    EXPECT_EQ(kept[h], golden.kept[h]) << "head " << h;
  if (golden.temperature.empty()) return;
  const lowatt::Calibration calibration = lowatt::calibrate(
      mechanism, tensors.q.view(), tensors.k.view(), tensors.v.view(), {.causal = golden.causal});
  ASSERT_EQ(calibration.temperature.size(), static_cast<Index>(golden.temperature.size()));
  for (std::size_t h = 0; h < golden.temperature.size(); ++h)
    EXPECT_NEAR(calibration.temperature[static_cast<Index>(h)], golden.temperature[h],
                1e-9 * golden.temperature[h]);
}

class Golden : public testing::TestWithParam<test::GoldenCase> {};

TEST_P(Golden, EveryLevel) {
  test::GoldenCase golden = GetParam();
  test::set_theta(golden);
  const test::GoldenTensors tensors = test::load_golden_tensors(LOWATT_TEST_DATA, golden);
  for (const lowatt::Level level : test::levels()) {
    SCOPED_TRACE(lowatt::level_name(level));
    std::visit([&](const auto& m) { expect_golden(m, golden, tensors, level); }, golden.mechanism);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Golden,
                         testing::ValuesIn(test::load_golden_cases(LOWATT_TEST_DATA)),
                         [](const auto& which) { return test::identifier(which.param.name); });

}  // namespace
