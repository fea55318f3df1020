// The command line of `attend` as a contract: every bad input ends with status 2, one line on
// stderr and no output file; reports have exactly the documented keys.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <lowatt/inhibitor/reference.hpp>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "npy.hpp"
#include "program.hpp"

namespace {

using nlohmann::json;
using Arguments = std::vector<std::string>;

Arguments operator+(Arguments left, const Arguments& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// Q of 4 heads, K and V of 2, 5 queries, 7 keys, dim 6 and a value dim of 3.
class AttendCli : public testing::Test {
 protected:
  void SetUp() override {
    write("q.npy", {4, 5, 6});
    write("k.npy", {2, 7, 6});
    write("v.npy", {2, 7, 3});
  }

  void write(const std::string& name, const std::vector<lowatt::Index>& shape) const {
    lowatt::Index count = 1;
    for (const lowatt::Index extent : shape) count *= extent;
    std::vector<float> data(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < data.size(); ++i)
      data[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
    support::write_npy(folder_ / name, shape, data);
  }

  void write_bytes(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }

  Arguments files(const std::string& q = "q.npy", const std::string& k = "k.npy",
                  const std::string& v = "v.npy") const {
    return {"--q", folder_ / q, "--k", folder_ / k, "--v", folder_ / v};
  }

  // Runs with --out and expects the program to refuse; returns what it says.
  std::string refusal(const Arguments& arguments) const {
    const std::string out = folder_ / "o.npy";
    const auto before = folder_.names();
    const Outcome outcome = run_attend(arguments + Arguments{"--json", "--out", out});
    EXPECT_EQ(outcome.status, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_TRUE(outcome.err.ends_with('\n') && outcome.err.size() > 20) << outcome.err;
    EXPECT_EQ(folder_.names(), before);
    return outcome.err;
  }

  void expect_refused(const Arguments& arguments, const std::string& because) const {
    std::string trace;
    for (const std::string& argument : arguments) trace += argument + " ";
    SCOPED_TRACE(trace);
    const std::string what = refusal(arguments);
    EXPECT_NE(what.find(because), std::string::npos) << what << "should say: " << because;
  }

  json report(const Arguments& arguments) const {
    const Outcome outcome = run_attend(arguments + Arguments{"--json"});
    EXPECT_EQ(outcome.err, "");
    EXPECT_EQ(outcome.status, 0);
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
    return json::parse(outcome.out);
  }

  TemporaryFolder folder_;
  const Arguments softmax_{"--mechanism", "softmax"};
  const Arguments inhibitor_{"--mechanism", "inhibitor"};
  const Arguments latte_{"--mechanism", "latte", "--theta", "3"};
  const Arguments bitformer_{"--mechanism", "bitformer"};
};

// Rows of weights sum up to 1, with thresholds of a calibration too; the Inhibitor's are shares.
TEST_F(AttendCli, WritesWeights) {
  const std::string path = folder_ / "weights.npy", calibration = folder_ / "c.json";
  ASSERT_EQ(run_program(LOWATT_ATTEND_CALIBRATE, latte_ + files() + Arguments{"--out", calibration})
                .status,
            0);
  const Arguments calibrated{"--mechanism", "latte", "--calibration", calibration};
  for (const Arguments& mechanism : {softmax_, latte_, calibrated, bitformer_, inhibitor_}) {
    report(mechanism + files() + Arguments{"--causal", "--weights", path});
    const support::FloatArray weights = support::read_npy(path);
    EXPECT_EQ(weights.shape, (std::vector<lowatt::Index>{4, 5, 7}));
    EXPECT_EQ(weights.data[6], 0);  // of a hidden key
    EXPECT_GT(weights.data[0], 0);
    const float sum = std::accumulate(weights.data.begin(), weights.data.begin() + 7, 0.0f);
    if (mechanism != inhibitor_) {
      EXPECT_NEAR(sum, 1, 1e-3f);
    }
    std::filesystem::remove(path);
  }
  expect_refused(softmax_ + files() + Arguments{"--weights", folder_ / "none/w.npy"}, "w.npy");
  expect_refused(softmax_ + files() + Arguments{"--weights", folder_ / "o.npy"}, "both are");
  // Both files or none: --out cannot be written where there is a folder.
  std::filesystem::remove(path);
  std::filesystem::create_directory(folder_ / "o.npy");
  expect_refused(softmax_ + files() + Arguments{"--weights", path}, "o.npy");
}

TEST_F(AttendCli, RefusesMissingFiles) {
  expect_refused(softmax_ + files("none.npy"), "none.npy' does not exist");
  expect_refused(softmax_ + files("q.npy", "none.npy"), "none.npy' does not exist");
  expect_refused(softmax_ + files("q.npy", "k.npy", "none.npy"), "none.npy' does not exist");
  expect_refused(softmax_ + files("."), "not a regular file");
  expect_refused(softmax_ + files("new\nline.npy"), "new?line.npy");
}

TEST_F(AttendCli, RefusesMalformedFiles) {
  const std::string good = read_text(folder_ / "q.npy");
  write_bytes("short.npy", good.substr(0, good.size() - 1));
  write_bytes("stub.npy", good.substr(0, 20));
  write_bytes("empty.npy", "");
  write_bytes("long.npy", good + "x");
  write_bytes("text.npy", "these are no numbers at all");
  expect_refused(softmax_ + files("short.npy"), "truncated");
  expect_refused(softmax_ + files("stub.npy"), "truncated");
  expect_refused(softmax_ + files("empty.npy"), "0 bytes");
  expect_refused(softmax_ + files("long.npy"), "longer than its header says");
  expect_refused(softmax_ + files("text.npy"), "not a .npy file");

  const auto with = [&](const std::string& from, const std::string& to) {
    std::string bytes = good;
    bytes.replace(bytes.find(from), from.size(), to);
    write_bytes("changed.npy", bytes);
    return softmax_ + files("changed.npy");
  };
  expect_refused(with("<f4", "<f8"), "'<f8'");
  expect_refused(with("<f4", ">f4"), "'>f4'");
  expect_refused(with("<f4", "<i4"), "'<i4'");
  expect_refused(with("False", "True "), "Fortran order");
  expect_refused(with("(4, 5, 6)", "(4, 5, 7)"), "truncated");
  expect_refused(with("(4, 5, 6), }     ", "(400000000, 500, 6), }"), "truncated");
  expect_refused(with("(4, 5, 6), }          ", "(999999999999, 5, 6)} "), "truncated");
  expect_refused(with("(4, 5, 6)", "(0, 5, 6)"), "extent of 0");
  expect_refused(with(std::string("\x01\x00", 2), std::string("\x09\x00", 2)), "format 9.0");
}

TEST_F(AttendCli, RefusesOtherRanksAndMismatchedShapes) {
  write("rank1.npy", {120});
  write("rank4.npy", {1, 4, 5, 6});
  expect_refused(softmax_ + files("rank1.npy"), "rank 1");
  expect_refused(softmax_ + files("rank4.npy"), "rank 4");
  expect_refused(softmax_ + files("q.npy", "rank4.npy"), "rank 4");

  write("dim.npy", {2, 7, 5});
  write("heads.npy", {3, 7, 6});
  write("value_heads.npy", {1, 7, 3});
  write("value_tokens.npy", {2, 6, 3});
  expect_refused(softmax_ + files("q.npy", "dim.npy"), "head_dim");
  expect_refused(softmax_ + files("q.npy", "heads.npy", "heads.npy"), "multiple of the KV heads");
  expect_refused(softmax_ + files("q.npy", "k.npy", "value_heads.npy"), "number of heads");
  expect_refused(softmax_ + files("q.npy", "k.npy", "value_tokens.npy"), "number of tokens");
}

TEST_F(AttendCli, RefusesMissingAndUnknownOptions) {
  expect_refused({}, "--mechanism");
  expect_refused(files(), "--mechanism");
  expect_refused(softmax_, "--q is missing");
  expect_refused(softmax_ + Arguments{"--q", folder_ / "q.npy", "--k", folder_ / "k.npy"},
                 "--v is missing");
  expect_refused(Arguments{"--mechanism", "sigmoid"} + files(), "sigmoid");
  expect_refused(softmax_ + files() + Arguments{"--fast"}, "--fast");
  expect_refused(softmax_ + files() + Arguments{"--fast", "--faster"}, "--fast");
  expect_refused(softmax_ + files() + Arguments{"stray"}, "stray");
  expect_refused(softmax_ + files() + Arguments{"--scale"}, "--scale");
  expect_refused(softmax_ + files() + Arguments{"--scale", "1", "--scale", "2"}, "--scale");
  expect_refused(Arguments{"--mechanism", "latte"} + files(), "--theta");
}

TEST_F(AttendCli, RefusesForeignOptions) {
  const struct {
    Arguments option;
    bool inhibitor, latte, bitformer, softmax;
  } cases[] = {
      {{"--precision", "fp32"}, true, false, false, true},
      {{"--alpha", "1"}, true, false, false, false},
      {{"--unsigned"}, true, false, false, false},
      {{"--center"}, true, false, false, false},
      {{"--split", "round"}, false, true, false, false},
      {{"--value-precision", "fp32"}, false, true, false, false},
      {{"--planes", "1"}, true, false, true, false},
      {{"--encoding", "sign"}, false, false, true, false},
      {{"--temperature", "1"}, false, false, true, false},
      {{"--center-keys"}, false, false, true, false},
  };
  for (const auto& [option, inhibitor, latte, bitformer, softmax] : cases) {
    const struct {
      const Arguments& mechanism;
      bool belongs;
    } mechanisms[] = {
        {inhibitor_, inhibitor}, {latte_, latte}, {bitformer_, bitformer}, {softmax_, softmax}};
    for (const auto& [mechanism, belongs] : mechanisms) {
      const Arguments arguments = mechanism + files() + option;
      if (belongs)
        EXPECT_EQ(run_attend(arguments).status, 0) << option[0] << " " << mechanism[1];
      else
        expect_refused(arguments, option[0] + " does not belong to " + mechanism[1]);
    }
  }
  for (const Arguments& mechanism : {softmax_, inhibitor_, bitformer_})
    expect_refused(mechanism + files() + Arguments{"--theta", "1"}, "--theta does not belong");
  for (const Arguments& mechanism : {softmax_, latte_})
    expect_refused(mechanism + files() + Arguments{"--clip", "1"}, "--clip does not belong");
  expect_refused(inhibitor_ + files() + Arguments{"--clip", "1"}, "clip is 1 but planes is 0");
  expect_refused(bitformer_ + files() + Arguments{"--clip", "1"}, "--clip belongs to");
  for (const std::string precision : {"int16", "int4"})
    expect_refused(softmax_ + files() + Arguments{"--precision", precision},
                   "softmax has kernels for fp32, bf16, f16 and int8");
}

TEST_F(AttendCli, RefusesBadNumbers) {
  const Arguments thermometer = bitformer_ + Arguments{"--planes", "3"};
  for (const std::string bad : {"nan", "NaN", "inf", "-inf", "1e999", "", "x", "1x", "1,2", "0x"}) {
    expect_refused(softmax_ + files() + Arguments{"--scale=" + bad}, "--scale");
    expect_refused(inhibitor_ + files() + Arguments{"--alpha=" + bad}, "--alpha");
    expect_refused(bitformer_ + files() + Arguments{"--temperature=" + bad}, "--temperature");
    expect_refused(thermometer + files() + Arguments{"--clip=" + bad}, "--clip");
    if (bad != "1,2")
      expect_refused(Arguments{"--mechanism", "latte"} + files() + Arguments{"--theta=" + bad},
                     "--theta");
    for (const std::string option : {"--planes", "--threads", "--repeat"})
      expect_refused(bitformer_ + files() + Arguments{option + "=" + bad}, option);
  }
  for (const Arguments& mechanism : {softmax_, inhibitor_, latte_, bitformer_})
    for (const std::string bad : {"0", "-1", "-0.0"})
      expect_refused(mechanism + files() + Arguments{"--scale", bad}, "scale");
  for (const std::string option : {"--threads", "--repeat"})
    for (const std::string bad : {"0", "-1", "1.5", "99999999999999999999"})
      expect_refused(softmax_ + files() + Arguments{option, bad}, option);
  for (const std::string bad : {"0", "-1", "65", "1.5"})
    expect_refused(bitformer_ + files() + Arguments{"--planes", bad}, "planes");
  expect_refused(bitformer_ + files() + Arguments{"--temperature", "-1"}, "temperature");
  expect_refused(thermometer + files() + Arguments{"--clip", "-1"}, "clip");
  expect_refused(bitformer_ + files() + Arguments{"--encoding", "sign", "--planes", "2"}, "sign");
  expect_refused(bitformer_ + files() + Arguments{"--encoding", "gray"}, "gray");
  expect_refused(latte_ + files() + Arguments{"--split", "half"}, "half");
  expect_refused(inhibitor_ + files() + Arguments{"--precision", "int2"}, "int2");
  expect_refused(inhibitor_ + files() + Arguments{"--precision", "bf16"}, "bf16");
}

TEST_F(AttendCli, RefusesBadThresholds) {
  for (const std::string bad : {"1,2", "1,2,3", "1,2,3,4,5", "-1", "1,2,3,-4", "1,2,3,nan",
                                "1,,3,4", "1,2,3,4,", ",", "1 2 3 4", "1;2"})
    expect_refused(Arguments{"--mechanism", "latte"} + files() + Arguments{"--theta", bad},
                   "theta");
}

TEST_F(AttendCli, RefusesUnknownLevels) {
  expect_refused(softmax_ + files() + Arguments{"--arch", "avx1024"}, "avx1024");
  expect_refused(softmax_ + files() + Arguments{"--arch", ""}, "--arch");
  expect_refused(softmax_ + files() + Arguments{"--arch", "AVX2"}, "AVX2");
  const auto levels = runnable_levels();
  for (const std::string level : {"avx2", "avx512", "avx512icl", "amx"})
    if (std::find(levels.begin(), levels.end(), level) == levels.end())
      expect_refused(softmax_ + files() + Arguments{"--arch", level}, level);
}

TEST_F(AttendCli, RefusesOutputsThatCannotBeWritten) {
  const Arguments good = softmax_ + files();
  for (const std::string& bad : {folder_ / "none/o.npy", folder_.path(), folder_ / "q.npy/o.npy",
                                 std::string("/dev/null"), std::string()}) {
    const auto before = folder_.names();
    const Outcome outcome = run_attend(good + Arguments{"--json", "--out", bad});
    EXPECT_EQ(outcome.status, 2) << bad;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(folder_.names(), before);
  }
}

TEST_F(AttendCli, RefusesUnknownLevelsFromTheEnvironment) {
  const Outcome outcome = run_program(
      "/usr/bin/env", Arguments{"LOWATT_ARCH=avx1024", LOWATT_ATTEND} + softmax_ + files());
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.err.find("avx1024"), std::string::npos) << outcome.err;
}

// What a failed call would have replaced stays as it was.
TEST_F(AttendCli, KeepsAnOlderOutputOnFailure) {
  write_bytes("o.npy", "older");
  expect_refused(latte_ + files() + Arguments{"--theta", "1,2"}, "theta");
  EXPECT_EQ(read_text(folder_ / "o.npy"), "older");
}

TEST_F(AttendCli, RefusesBadRandomShapes) {
  for (const std::string bad :
       {"4,2,5,7", "4,2,5,7,6,3", "4,3,5,7,6", "0,2,5,7,6", "4,2,-5,7,6", "4,2,5,7,x",
        "4,2,5,7,6.5", "", "4,2,5,7,", "1,1,1,1,9999999999999", "1000000,1,1000000,1000000,1000000",
        "99999999999999999999,1,1,1,1"})
    expect_refused(softmax_ + Arguments{"--random", bad}, "--random");
  expect_refused(softmax_ + files() + Arguments{"--random", "4,2,5,7,6"}, "--random");
  expect_refused(softmax_ + files() + Arguments{"--seed", "1"}, "--seed");
  for (const std::string bad : {"x", "-1", "1.5"})
    expect_refused(softmax_ + Arguments{"--random", "4,2,5,7,6", "--seed", bad}, "--seed");
}

TEST_F(AttendCli, ReportsExactlyTheKeysThatApply) {
  const std::set<std::string> common{"mechanism",   "precision",
                                     "arch",        "query_heads",
                                     "kv_heads",    "queries",
                                     "keys",        "head_dim",
                                     "value_dim",   "threads",
                                     "seconds",     "pack_seconds",
                                     "ns_per_pair", "bytes_per_cached_token"};
  const std::set<std::string> compared{"rel_l2_vs_softmax", "cosine_vs_softmax"};
  const struct {
    Arguments mechanism;
    std::set<std::string> own;
  } cases[] = {{softmax_, {}},
               {inhibitor_, {}},
               {latte_, {"kept", "visible"}},
               {bitformer_, {"temperature"}}};
  for (const auto& [mechanism, own] : cases) {
    for (const bool compare : {true, false}) {
      std::set<std::string> expected = common;
      expected.insert(own.begin(), own.end());
      if (compare) expected.insert(compared.begin(), compared.end());
      const json got =
          report(mechanism + files() + (compare ? Arguments{} : Arguments{"--no-compare"}));
      std::set<std::string> keys;
      for (const auto& [key, value] : got.items()) {
        keys.insert(key);
        if (value.is_array()) {
          EXPECT_EQ(value.size(), 4U) << key;
        }
      }
      EXPECT_EQ(keys, expected) << mechanism[1];
      EXPECT_EQ(got["mechanism"], mechanism[1]);
      EXPECT_EQ(got["query_heads"], 4);
      EXPECT_EQ(got["kv_heads"], 2);
      EXPECT_EQ(got["queries"], 5);
      EXPECT_EQ(got["keys"], 7);
      EXPECT_EQ(got["head_dim"], 6);
      EXPECT_EQ(got["value_dim"], 3);
      EXPECT_EQ(got["threads"], 1);
      EXPECT_GT(got["seconds"], 0);
      EXPECT_GT(got["pack_seconds"], 0);
      EXPECT_GT(got["bytes_per_cached_token"], 0);
      EXPECT_NEAR(got["ns_per_pair"].get<double>(),
                  got["seconds"].get<double>() * 1e9 / (4 * 5 * 7), 1e-6);
    }
  }
}

TEST_F(AttendCli, ReportsTheLevelThatRan) {
  const auto levels = runnable_levels();
  for (const std::string& level : levels)
    EXPECT_EQ(report(softmax_ + files() + Arguments{"--arch", level})["arch"], level);
}

// What no golden case covers: the reference is exact, so must the program be.
TEST_F(AttendCli, ComputesTheInhibitorAt16And4Bits) {
  const auto read = [&](const std::string& name) { return support::read_npy(folder_ / name); };
  const auto q = read("q.npy"), k = read("k.npy"), v = read("v.npy");
  std::vector<float> expected(std::size_t{4} * 5 * 3);
  for (const auto precision : {lowatt::Precision::int16, lowatt::Precision::int4}) {
    const lowatt::Inhibitor mechanism{
        .scale = 0.05, .alpha = 0.1, .center = true, .precision = precision};
    ASSERT_TRUE(lowatt::inhibitor_reference(mechanism,
                                            lowatt::View<const float>(q.data.data(), 4, 5, 6),
                                            lowatt::View<const float>(k.data.data(), 2, 7, 6),
                                            lowatt::View<const float>(v.data.data(), 2, 7, 3),
                                            lowatt::View<float>(expected.data(), 4, 5, 3), true)
                    .ok());
    for (const std::string& level : runnable_levels()) {
      report(inhibitor_ + files() +
             Arguments{"--precision", lowatt::precision_name(precision), "--scale", "0.05",
                       "--alpha", "0.1", "--center", "--causal", "--arch", level, "--out",
                       folder_ / "o.npy"});
      EXPECT_EQ(read("o.npy").data, expected) << level;
    }
  }
}

// How far softmax may lie from float64 softmax on the same, unrounded tensors.
TEST_F(AttendCli, ComputesSoftmaxAtAllPrecisions) {
  const struct {
    std::string precision;
    double least, most;
  } cases[] = {{"fp32", 0, 2e-6}, {"f16", 1e-5, 1e-3}, {"bf16", 1e-4, 1e-2}, {"int8", 1e-4, 2e-2}};
  for (const auto& [precision, least, most] : cases)
    for (const std::string& level : runnable_levels()) {
      const auto got =
          report(softmax_ + files() + Arguments{"--precision", precision, "--arch", level});
      for (const auto& error : got["rel_l2_vs_softmax"]) {
        EXPECT_GE(error.get<double>(), least) << precision << " " << level;
        EXPECT_LE(error.get<double>(), most) << precision << " " << level;
      }
    }
}

TEST_F(AttendCli, ReportsPrecisions) {
  EXPECT_EQ(report(softmax_ + files())["precision"], "fp32");
  for (const std::string precision : {"fp32", "bf16", "f16", "int8"})
    EXPECT_EQ(report(softmax_ + files() + Arguments{"--precision", precision})["precision"],
              precision);
  EXPECT_EQ(report(inhibitor_ + files())["precision"], "int8");
  EXPECT_EQ(report(inhibitor_ + files() + Arguments{"--precision", "fp32"})["precision"], "fp32");
  EXPECT_EQ(report(inhibitor_ + files() + Arguments{"--precision", "int16"})["precision"], "int16");
  EXPECT_EQ(report(inhibitor_ + files() + Arguments{"--precision", "int4"})["precision"], "int4");
  EXPECT_EQ(report(latte_ + files())["precision"], "int8");
  EXPECT_EQ(report(bitformer_ + files() + Arguments{"--planes", "3"})["precision"], "3-bit");
}

// Zero tensors have no direction: errors relative to them are null, not NaN.
TEST_F(AttendCli, UndefinedFiguresAreNull) {
  support::write_npy(folder_ / "zero.npy", {2, 7, 3}, std::vector<float>(42));
  const json got = report(softmax_ + files("q.npy", "k.npy", "zero.npy"));
  EXPECT_EQ(got["rel_l2_vs_softmax"], json::parse("[null, null, null, null]"));
  EXPECT_EQ(got["cosine_vs_softmax"], json::parse("[null, null, null, null]"));
}

TEST_F(AttendCli, ComparesWithExactSoftmax) {
  for (const Arguments& mask : {Arguments{}, Arguments{"--causal"}}) {
    const json got = report(softmax_ + files() + mask + Arguments{"--scale", "0.7"});
    for (std::size_t h = 0; h < 4; ++h) {
      EXPECT_LT(got["rel_l2_vs_softmax"][h], 2e-5);
      EXPECT_GT(got["cosine_vs_softmax"][h], 0.999999);
    }
  }
  // With a large threshold all keys survive, so that only int8 rounding is left.
  const json latte = report(Arguments{"--mechanism", "latte", "--theta", "1000"} + files());
  EXPECT_EQ(latte["kept"], latte["visible"]);
  EXPECT_EQ(latte["visible"], json::parse("[35, 35, 35, 35]"));
  for (std::size_t h = 0; h < 4; ++h) EXPECT_LT(latte["rel_l2_vs_softmax"][h], 0.05);
}

TEST_F(AttendCli, TemperatureMayBeGivenOrCalibrated) {
  const json given = report(bitformer_ + files() + Arguments{"--temperature", "0.25"});
  EXPECT_EQ(given["temperature"], json::parse("[0.25, 0.25, 0.25, 0.25]"));
  const json sign = report(bitformer_ + files());
  const json sign_auto = report(bitformer_ + files() + Arguments{"--temperature", "auto"});
  EXPECT_NE(sign["temperature"], sign_auto["temperature"]);
  const Arguments thermometer = bitformer_ + files() + Arguments{"--planes", "4"};
  EXPECT_EQ(report(thermometer)["temperature"],
            report(thermometer + Arguments{"--temperature", "auto"})["temperature"]);
}

TEST_F(AttendCli, RankTwoIsOneHead) {
  write("q2.npy", {5, 6});
  write("k2.npy", {7, 6});
  write("v2.npy", {7, 3});
  const json got = report(softmax_ + files("q2.npy", "k2.npy", "v2.npy") +
                          Arguments{"--out", folder_ / "o.npy"});
  EXPECT_EQ(got["query_heads"], 1);
  EXPECT_EQ(support::read_npy(folder_ / "o.npy").shape, (std::vector<lowatt::Index>{1, 5, 3}));
}

TEST_F(AttendCli, RandomTensorsDependOnTheSeedAlone) {
  const auto output = [&](const Arguments& more) {
    report(inhibitor_ + Arguments{"--random", "4,2,5,7,6", "--out", folder_ / "o.npy"} + more);
    return support::read_npy(folder_ / "o.npy");
  };
  const auto first = output({});
  EXPECT_EQ(first.shape, (std::vector<lowatt::Index>{4, 5, 6}));
  EXPECT_EQ(output({}).data, first.data);
  EXPECT_EQ(output({"--seed", "0"}).data, first.data);
  EXPECT_EQ(output({"--threads", "2", "--repeat", "3"}).data, first.data);
  EXPECT_NE(output({"--seed", "1"}).data, first.data);
  EXPECT_EQ(output({"--seed", "18446744073709551615"}).data.size(), first.data.size());
}

TEST_F(AttendCli, PrintsReadableReports) {
  for (const Arguments& mechanism : {softmax_, inhibitor_, latte_, bitformer_}) {
    const Outcome outcome = run_attend(mechanism + files());
    EXPECT_EQ(outcome.status, 0);
    EXPECT_EQ(outcome.err, "");
    EXPECT_TRUE(outcome.out.starts_with(mechanism[1])) << outcome.out;
    EXPECT_NE(outcome.out.find("ns per query-key pair"), std::string::npos);
  }
}

TEST_F(AttendCli, HelpNeedsNothingElse) {
  const Outcome outcome = run_attend({"--help"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_NE(outcome.out.find("--mechanism"), std::string::npos);
}

}  // namespace
