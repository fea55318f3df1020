// Calibration files: attend gives the same bits with a file as without it, and a file that is
// broken or for another call is refused with one sentence that names the file, the field and the
// value.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "npy.hpp"
#include "program.hpp"

namespace {

using nlohmann::ordered_json;
using Arguments = std::vector<std::string>;

Arguments operator+(Arguments left, const Arguments& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

std::string joined(const Arguments& arguments) {
  std::string text;
  for (const std::string& argument : arguments) text += argument + " ";
  return text;
}

Outcome run_calibrate(const Arguments& arguments) {
  return run_program(LOWATT_ATTEND_CALIBRATE, arguments);
}

class CalibrationCli : public testing::Test {
 protected:
  const TemporaryFolder folder_;
  const Arguments random_{"--random", "4,2,33,70,24", "--seed", "5"};
  const std::string file_ = folder_ / "calibration.json";

  ordered_json calibrate(const Arguments& arguments) const {
    const Outcome outcome = run_calibrate(arguments + Arguments{"--out", file_, "--json"});
    EXPECT_EQ(outcome.err, "") << joined(arguments);
    EXPECT_EQ(outcome.status, 0) << joined(arguments);
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
    return ordered_json::parse(outcome.out);
  }

  std::vector<float> output(const Arguments& arguments) const {
    const Outcome outcome = run_attend(arguments + Arguments{"--out", folder_ / "o.npy"});
    EXPECT_EQ(outcome.err, "") << joined(arguments);
    EXPECT_EQ(outcome.status, 0) << joined(arguments);
    return support::read_npy(folder_ / "o.npy").data;
  }

  // Runs a program that is to refuse.
  void expect_refused(Outcome (*run)(const Arguments&), const Arguments& arguments,
                      const std::string& because) const {
    SCOPED_TRACE(joined(arguments));
    const auto before = folder_.names();
    const Outcome outcome = run(arguments + Arguments{"--out", folder_ / "none"});
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(because), std::string::npos)
        << outcome.err << "should say: " << because;
    EXPECT_EQ(folder_.names(), before);
  }
};

TEST_F(CalibrationCli, AttendGivesTheSameBitsWithTheFile) {
  const struct {
    Arguments mechanism;
    Arguments given = {};  // what the file brings instead
  } cases[] = {
      {{"--mechanism", "latte", "--scale", "0.3"}, {"--filtered", "0.8"}},
      {{"--mechanism", "latte", "--split", "truncate"}, {"--error", "0.03"}},
      {{"--mechanism", "latte"}, {"--theta", "1.1,2.3,0.7,9.9"}},
      {{"--mechanism", "latte"}, {"--theta", "1.7"}},
      {{"--mechanism", "latte", "--value-precision", "fp32"}, {"--filtered", "0.7"}},
      {{"--mechanism", "bitformer", "--center-keys"}},
      {{"--mechanism", "bitformer", "--center-keys"}, {"--temperature", "auto"}},
      {{"--mechanism", "bitformer", "--planes", "5"}},
      {{"--mechanism", "bitformer", "--planes", "3", "--center-keys"}, {"--clip", "0.3"}},
      {{"--mechanism", "bitformer", "--encoding", "thermometer"}, {"--temperature", "0.1"}},
      {{"--mechanism", "inhibitor", "--alpha", "3"}},
      {{"--mechanism", "inhibitor", "--precision", "int16", "--center"}},
      {{"--mechanism", "inhibitor", "--precision", "int4"}},
      {{"--mechanism", "inhibitor", "--planes", "3"}},
      {{"--mechanism", "inhibitor", "--precision", "fp32"}},
      {{"--mechanism", "softmax"}},
      {{"--mechanism", "softmax", "--precision", "int8"}},
  };
  for (const auto& [mechanism, given] : cases)
    for (const Arguments& mask : {Arguments{}, Arguments{"--causal"}}) {
      SCOPED_TRACE(joined(mechanism + given + mask));
      const Arguments call = mechanism + random_ + mask;
      calibrate(call + given);
      const auto with_file = output(call + Arguments{"--calibration", file_});
      EXPECT_EQ(with_file, output(call + given));
    }
}

// The file is what attends: other tensors keep the scales of those that it was made from.
TEST_F(CalibrationCli, OtherTensorsAttendWithTheFile) {
  const Arguments other{"--random", "4,2,33,70,24", "--seed", "6"};
  for (const std::string mechanism : {"inhibitor", "bitformer"}) {
    calibrate(Arguments{"--mechanism", mechanism} + random_);
    const auto with_file =
        output(Arguments{"--mechanism", mechanism, "--calibration", file_} + other);
    EXPECT_NE(with_file, output(Arguments{"--mechanism", mechanism} + other));
  }
}

TEST_F(CalibrationCli, ReportsWhatAttendingKeeps) {
  for (const Arguments& target : {Arguments{"--filtered", "0.7"}, Arguments{"--error", "0.1"}})
    for (const std::string split : {"round", "truncate"}) {
      const Arguments call = Arguments{"--mechanism", "latte", "--split", split} + random_;
      const auto calibrated = calibrate(call + target);
      const Outcome outcome = run_attend(call + Arguments{"--calibration", file_, "--json"});
      const auto attended = ordered_json::parse(outcome.out);
      EXPECT_EQ(calibrated["kept"], attended["kept"]);
      EXPECT_EQ(calibrated["visible"], attended["visible"]);
      for (std::size_t h = 0; h < 4; ++h) {
        if (target[0] == "--filtered")
          EXPECT_GE(calibrated["filtered"][h].get<double>(), 0.7);
        else
          EXPECT_LE(calibrated["error"][h].get<double>(), 0.1);
        EXPECT_NEAR(calibrated["error_to_softmax"][h].get<double>(),
                    attended["rel_l2_vs_softmax"][h].get<double>(), 1e-4);
      }
    }
}

TEST_F(CalibrationCli, ReportsExactlyTheKeysThatApply) {
  const std::set<std::string> common{"mechanism", "precision",  "query_heads", "kv_heads",
                                     "queries",   "keys",       "head_dim",    "value_dim",
                                     "seconds",   "ns_per_pair"};
  const struct {
    Arguments mechanism;
    std::set<std::string> own;
  } cases[] = {
      {{"--mechanism", "softmax"}, {}},
      {{"--mechanism", "inhibitor"}, {"query_absmax", "key_absmax", "value_absmax"}},
      {{"--mechanism", "inhibitor", "--planes", "3"}, {"value_absmax", "clip"}},
      {{"--mechanism", "bitformer", "--planes", "2"}, {"value_absmax", "clip", "temperature"}},
      {{"--mechanism", "latte", "--filtered", "0.5"},
       {"key_absmax", "value_absmax", "theta", "kept", "visible", "unfiltered_norm", "filtered",
        "mass_dropped", "best_keys_lost", "error", "error_to_softmax",
        "unfiltered_error_to_softmax", "all_heads"}}};
  for (const auto& [mechanism, own] : cases) {
    std::set<std::string> expected = common, keys;
    expected.insert(own.begin(), own.end());
    const auto report = calibrate(mechanism + random_);
    for (const auto& [key, value] : report.items()) keys.insert(key);
    EXPECT_EQ(keys, expected);
    const Outcome outcome = run_calibrate(mechanism + random_);
    EXPECT_EQ(outcome.status, 0);
    EXPECT_TRUE(outcome.out.starts_with(mechanism[1])) << outcome.out;
  }
}

TEST_F(CalibrationCli, UndefinedFiguresAreNull) {
  std::vector<float> data(2 * 5 * 4, 0.5f);
  support::write_npy(folder_ / "k.npy", {2, 5, 4}, data);
  data[3] = std::numeric_limits<float>::quiet_NaN();
  support::write_npy(folder_ / "v.npy", {2, 5, 4}, data);
  const auto report =
      calibrate({"--mechanism", "latte", "--filtered", "0.5", "--q", folder_ / "k.npy", "--k",
                 folder_ / "k.npy", "--v", folder_ / "v.npy"});
  EXPECT_TRUE(report["error_to_softmax"][0].is_null());
  EXPECT_FALSE(report["error_to_softmax"][1].is_null());
  EXPECT_TRUE(report["all_heads"]["error_to_softmax"].is_null());
}

TEST_F(CalibrationCli, CalibrateRefusesBadInput) {
  const Arguments latte = Arguments{"--mechanism", "latte"} + random_;
  expect_refused(run_calibrate, random_, "--mechanism is required");
  expect_refused(run_calibrate, latte, "latte needs --theta, --filtered or --error");
  expect_refused(run_attend, latte, "or a --calibration that has thetas");
  expect_refused(run_calibrate, latte + Arguments{"--theta", "1", "--filtered", "0.5"},
                 "--theta and --filtered exclude each other");
  expect_refused(run_calibrate, latte + Arguments{"--error", "1", "--filtered", "0.5"},
                 "--filtered and --error exclude each other");
  expect_refused(run_calibrate, latte + Arguments{"--calibration", file_}, "--calibration");
  expect_refused(run_calibrate, Arguments{"--mechanism", "softmax", "--error", "1"} + random_,
                 "--error does not belong to softmax");
  for (const std::string bad : {"nan", "inf", "1e999", "x", "0.5,0.6"}) {
    expect_refused(run_calibrate, latte + Arguments{"--filtered=" + bad}, "--filtered");
    expect_refused(run_calibrate, latte + Arguments{"--error=" + bad}, "--error");
  }
  expect_refused(run_calibrate, latte + Arguments{"--filtered", "1"}, "filtered is 1; it must be");
  expect_refused(run_calibrate, latte + Arguments{"--filtered=-0.1"}, "filtered is -0.1; it must");
  expect_refused(run_calibrate, latte + Arguments{"--error=-1"}, "error is -1; it must be finite");
  const Outcome nowhere = run_calibrate(
      latte + Arguments{"--filtered", "0.5", "--out", folder_ / "none/calibration.json"});
  EXPECT_EQ(nowhere.status, 2);
  EXPECT_EQ(nowhere.out, "");
}

TEST_F(CalibrationCli, AttendRefusesFilesForOtherCalls) {
  const Arguments latte{"--mechanism", "latte"};
  calibrate(latte + random_ + Arguments{"--filtered", "0.5"});
  const Arguments with{"--calibration", file_};
  const std::string file = "calibration.json' field ";
  expect_refused(run_attend, Arguments{"--mechanism", "inhibitor"} + random_ + with,
                 file + "mechanism is latte; this call has inhibitor");
  expect_refused(run_attend, latte + with + Arguments{"--random", "2,2,33,70,24"},
                 file + "query_heads is 4; this call has 2");
  expect_refused(run_attend, latte + with + Arguments{"--random", "4,4,33,70,24"},
                 file + "kv_heads is 2; this call has 4");
  expect_refused(run_attend, latte + with + Arguments{"--random", "4,2,33,70,32"},
                 file + "head_dim is 24; this call has 32");
  expect_refused(run_attend, latte + random_ + with + Arguments{"--split", "truncate"},
                 file + "settings.split is \"round\"; this call has \"truncate\"");
  expect_refused(run_attend, latte + random_ + with + Arguments{"--scale", "0.5"},
                 "; this call has 0.5");
  for (const std::string option : {"--theta", "--filtered", "--error"})
    expect_refused(run_attend, latte + random_ + with + Arguments{option, "0.5"},
                   option + " and --calibration exclude each other");

  const Arguments bitformer{"--mechanism", "bitformer"};
  calibrate(bitformer + random_ + Arguments{"--planes", "4"});
  expect_refused(run_attend, bitformer + random_ + with,
                 file + "settings.encoding is \"thermometer\"; this call has \"sign\"");
  expect_refused(run_attend, bitformer + random_ + with + Arguments{"--planes", "5"},
                 file + "settings.planes is 4; this call has 5");
  expect_refused(run_attend,
                 bitformer + random_ + with + Arguments{"--planes", "4", "--center-keys"},
                 file + "settings.center_keys is false; this call has true");
  for (const std::string option : {"--temperature", "--clip"})
    expect_refused(run_attend,
                   bitformer + random_ + with + Arguments{"--planes", "4", option, "0.5"},
                   option + " and --calibration exclude each other");

  calibrate(Arguments{"--mechanism", "inhibitor"} + random_);
  expect_refused(run_attend,
                 Arguments{"--mechanism", "inhibitor", "--precision", "int4"} + random_ + with,
                 file + "settings.precision is \"int8\"; this call has \"int4\"");
}

TEST_F(CalibrationCli, AttendRefusesBrokenFiles) {
  const Arguments call = Arguments{"--mechanism", "latte"} + random_;
  calibrate(call + Arguments{"--filtered", "0.5"});
  const ordered_json good = ordered_json::parse(read_text(file_));
  const std::string name = folder_ / "bad.json";
  const auto expect_text = [&](const std::string& text, const std::string& because) {
    std::ofstream(name, std::ios::binary) << text;
    expect_refused(run_attend, call + Arguments{"--calibration", name}, because);
  };
  const auto expect = [&](const std::string& pointer, const ordered_json& value,
                          const std::string& because) {
    ordered_json changed = good;
    changed[ordered_json::json_pointer(pointer)] = value;
    expect_text(changed.dump(), because);
  };
  expect_refused(run_attend, call + Arguments{"--calibration", folder_ / "no.json"},
                 "no.json' does not exist");
  expect_refused(run_attend, call + Arguments{"--calibration", folder_.path()},
                 "is not a regular file");
  expect_text("", "bad.json' is not JSON");
  expect_text(good.dump().substr(0, 100), "bad.json' is not JSON: it goes wrong at byte");
  expect_text(good.dump() + "x", "bad.json' is not JSON");
  expect_text("[1, 2]", "bad.json' is not a calibration: it holds no JSON object");
  expect_text(std::string(100000, '['), "bad.json' is not a calibration: it is nested");
  expect_text("{\"version\": 1e999}", "bad.json' is not JSON that can be read");
  expect_text("{\"a\": 1, \"a\": 2}", "bad.json' has the field 'a' twice");

  const std::string field = "bad.json' field ";
  expect("/format", "numpy", field + "format is \"numpy\"; it must be \"lowatt calibration\"");
  expect("/version", 2, field + "version is 2; it must be 1");
  expect("/mechanism", "sigmoid", field + "mechanism is \"sigmoid\"; it must be softmax");
  for (const ordered_json& bad : {ordered_json(0), ordered_json(-4), ordered_json(4.5),
                                  ordered_json("4"), ordered_json(4294967296), ordered_json()})
    expect("/query_heads", bad,
           field + "query_heads is " + bad.dump() + "; it must be a whole number from 1 to");
  expect("/query_heads", 5, field + "query_heads is 5; it must be a multiple of kv_heads, 2");
  for (const ordered_json& bad : {ordered_json(0), ordered_json(-1), ordered_json("1")})
    expect("/scale", bad, field + "scale is " + bad.dump() + "; it must be a finite positive");
  expect("/settings", 3, field + "settings is 3; it must be an object");
  expect("/settings", ordered_json::object(), field + "settings.split is missing; this call has");
  expect("/settings/more", 1, field + "settings.more is 1; this call has no such setting");
  expect("/theta", 3, field + "theta is 3; it must be an array");
  expect("/theta", {1, 2, 3}, field + "theta has 3 entries; 4 are needed");
  expect("/theta/2", -1, field + "theta[2] is -1; it must be a not negative number");
  expect("/theta/3", "x", field + "theta[3] is \"x\"; it must be");
  expect("/theta/3", nullptr, field + "theta[3] is null; it must be");
  expect("/key_absmax/1", 1e39, field + "key_absmax[1] is 1e+39; it must be");
  expect("/temperature", {1, 2, 3, 4}, "bad.json' has the field 'temperature', which does not");
  ordered_json lacking = good;
  lacking.erase("theta");
  expect_text(lacking.dump(), "bad.json' is not a whole calibration: field theta is missing");
}

}  // namespace
