// The command line of `encrypted` as a contract: both attentions on real ciphertexts equal those on
// plain integers; what does not fit a parameter set is refused and says why; bad input ends with
// status 2 and one line on stderr.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "program.hpp"

namespace {

using nlohmann::json;
using Arguments = std::vector<std::string>;

json report(Arguments arguments) {
  arguments.push_back("--json");
  const Outcome outcome = run_program(LOWATT_ENCRYPTED, arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");  // no progress bar where nobody looks
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
  return json::parse(outcome.out);
}

TEST(EncryptedCli, AttendsOnCiphertexts) {
  const json found = report({"--bits", "2", "--seed", "3", "--threads", "2"});
  std::vector<std::string> expected{"bits_in", "dim", "equal", "signed", "threads", "tokens"};
  for (const char* mechanism : {"dot", "inhibitor", "softmax"})
    for (const char* figure : {"bootstraps", "noise", "operations", "parameters", "refused",
                               "seconds", "seconds_per_bootstrap", "width"})
      expected.push_back(std::string(figure) + "_" + mechanism);
  std::sort(expected.begin(), expected.end());
  std::vector<std::string> keys;
  for (const auto& [key, value] : found.items()) keys.push_back(key);
  EXPECT_EQ(keys, expected);

  EXPECT_EQ(found["equal"], true);
  EXPECT_EQ(found["bits_in"], 2);
  EXPECT_EQ(found["width_inhibitor"], 3);
  EXPECT_EQ(found["width_dot"], 3);
  EXPECT_EQ(found["bootstraps_inhibitor"], 2 * 2 * (3 * 2 + 1));
  EXPECT_EQ(found["bootstraps_dot"], 2 * 2 * (4 * 2 + 1));
  for (const char* mechanism : {"dot", "inhibitor", "softmax"}) {
    EXPECT_GT(found[std::string("seconds_") + mechanism], 0);
    EXPECT_EQ(found[std::string("refused_") + mechanism], nullptr);
  }
}

TEST(EncryptedCli, RunsOneMechanismAlone) {
  const json found =
      report({"--tokens", "1", "--dim", "1", "--bits", "2", "--mechanism", "inhibitor"});
  EXPECT_EQ(found["equal"], true);
  EXPECT_GT(found["seconds_inhibitor"], 0);
  EXPECT_EQ(found["seconds_dot"], nullptr);
  EXPECT_EQ(found["bootstraps_dot"], 5);
}

TEST(EncryptedCli, RefusesWhatNoParameterSetHolds) {
  const json found = report({"--plan", "--tokens", "128", "--dim", "64"});
  EXPECT_EQ(found["equal"], nullptr);
  EXPECT_EQ(found["refused_inhibitor"], "the circuit needs messages of 10 bits; the scheme has 8");
  EXPECT_EQ(found["refused_dot"], "the circuit needs messages of 12 bits; the scheme has 8");
  EXPECT_EQ(found["parameters_dot"], nullptr);
  EXPECT_EQ(found["seconds_dot"], nullptr);
  EXPECT_EQ(found["bootstraps_inhibitor"], 128 * 128 * (3 * 64 + 1));
  EXPECT_EQ(found["bootstraps_dot"], 128 * 128 * (4 * 64 + 1));
}

TEST(EncryptedCli, PlansUnsignedInhibition) {
  const json found =
      report({"--plan", "--unsigned", "--tokens", "4", "--dim", "3", "--alpha", "0"});
  EXPECT_EQ(found["signed"], false);
  EXPECT_EQ(found["bootstraps_inhibitor"], 4 * 4 * (2 * 3 + 1));
}

TEST(EncryptedCli, PrintsATable) {
  const Outcome outcome = run_program(LOWATT_ENCRYPTED, {"--plan", "--tokens", "8", "--dim", "4"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("8 tokens, dim 4, inputs of 3 bits, signed inhibition"),
            std::string::npos);
  EXPECT_NE(outcome.out.find("refused: the circuit needs messages of 9 bits; the scheme has 8\n"),
            std::string::npos)
      << outcome.out;
}

TEST(EncryptedCli, RefusesBadOptions) {
  const auto expect_refused = [](const Arguments& arguments, const std::string& because) {
    const Outcome outcome = run_program(LOWATT_ENCRYPTED, arguments);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(because), std::string::npos)
        << outcome.err << "should say: " << because;
  };
  expect_refused({"--tokens", "0"}, "--tokens: Value 0 not in range");
  expect_refused({"--dim", "5000"}, "--dim: Value 5000 not in range");
  expect_refused({"--bits", "1"}, "--bits: Value 1 not in range");
  expect_refused({"--bits", "9"}, "--bits: Value 9 not in range");
  expect_refused({"--threads", "0"}, "--threads");
  expect_refused({"--mechanism", "latte"}, "--mechanism");
  expect_refused({"--alpha", "nan"}, "--alpha");
  expect_refused({"--seed", "-1"}, "--seed");
  expect_refused({"--tokens"}, "--tokens");
  expect_refused({"--qk", "3"}, "--qk");
}

TEST(EncryptedCli, Help) {
  const Outcome outcome = run_program(LOWATT_ENCRYPTED, {"--help"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.out.find("--tokens"), std::string::npos);
}

}  // namespace
