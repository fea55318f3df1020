// Every golden case through `attend`, at every level that this CPU runs. The cases come from an
// independent implementation; the test of the library itself reads the same files.
#include <gtest/gtest.h>

#include <cmath>
#include <lowatt/arch/tags.hpp>
#include <nlohmann/json.hpp>

#include "npy.hpp"
#include "program.hpp"

namespace {

using nlohmann::json;

json cases() {
  return json::parse(read_text(LOWATT_TEST_DATA "/cases.json"));
}

double relative_l2(const std::vector<float>& got, const std::vector<float>& expected) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto want = static_cast<double>(expected[i]);
    difference += std::pow(static_cast<double>(got[i]) - want, 2);
    size += want * want;
  }
  return std::sqrt(size > 0 ? difference / size : difference);
}

void expect_outputs(const json& golden, const support::FloatArray& got,
                    const support::FloatArray& expected) {
  ASSERT_EQ(got.shape, expected.shape);
  const json& tolerance = golden["tolerance"];
  if (tolerance.contains("exact"))
    EXPECT_EQ(got.data, expected.data);
  else
    EXPECT_LE(relative_l2(got.data, expected.data), tolerance["rel_l2"].get<double>());
}

void expect_figures(const json& golden, const json& report) {
  for (const char* exact : {"kept", "visible"}) {
    if (golden.contains(exact)) {
      EXPECT_EQ(report[exact], golden[exact]);
    }
  }
  if (golden.contains("temperature")) {
    ASSERT_EQ(report["temperature"].size(), golden["temperature"].size());
    for (std::size_t h = 0; h < golden["temperature"].size(); ++h) {
      const double expected = golden["temperature"][h].get<double>();
      EXPECT_NEAR(report["temperature"][h].get<double>(), expected, 1e-9 * expected);
    }
  }
}

void run_cases(const std::vector<std::string>& more_arguments) {
  const json all = cases();
  ASSERT_GT(all.size(), 0U);
  for (const json& golden : all) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const std::string start = LOWATT_TEST_DATA "/" + golden["name"].get<std::string>();
    const TemporaryFolder folder;
    std::vector<std::string> arguments{"--q",   start + ".q.npy", "--k",   start + ".k.npy",
                                       "--v",   start + ".v.npy", "--out", folder / "o.npy",
                                       "--json"};
    for (const json& argument : golden["args"]) arguments.push_back(argument.get<std::string>());
    arguments.insert(arguments.end(), more_arguments.begin(), more_arguments.end());

    const Outcome outcome = run_attend(arguments);
    EXPECT_EQ(outcome.err, "");
    ASSERT_EQ(outcome.status, 0);
    expect_outputs(golden, support::read_npy(folder / "o.npy"),
                   support::read_npy(start + ".o.npy"));
    expect_figures(golden, json::parse(outcome.out));
  }
}

TEST(GoldenCli, EveryLevelPasses) {
  const auto levels = runnable_levels();
  ASSERT_FALSE(levels.empty());
  EXPECT_EQ(levels.front(), lowatt::level_name(lowatt::arch::lowest::level));
  for (const std::string& level : levels) {
    SCOPED_TRACE(level);
    run_cases({"--arch", level});
  }
}

TEST(GoldenCli, SeveralThreadsPass) {
  run_cases({"--threads", "3", "--repeat", "2"});
}

}  // namespace
