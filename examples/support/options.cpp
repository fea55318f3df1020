#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "number.hpp"

namespace support {
namespace {

// An option whose text is kept only when it was given.
using Text = std::optional<std::string>;

// What a user may set of the mechanisms, before it is known which of them is meant.
struct MechanismTexts {
  Text precision, value_precision, alpha, theta, filtered, error, split, encoding, temperature,
      clip;
  bool is_unsigned = false, center = false, center_keys = false;
  std::optional<int> planes;
};

// Which option belongs to which mechanisms.
struct Membership {
  const CLI::Option* option;
  std::vector<std::string_view> mechanisms;
};

std::optional<double> number_or_nothing(const std::string& option, const Text& text) {
  if (!text) return std::nullopt;
  return parse_number(option, *text);
}

lowatt::Setting setting(const std::string& option, const Text& text) {
  const auto number = number_or_nothing(option, text);
  return number ? lowatt::Setting(*number) : lowatt::Setting();
}

// The parser lets only names of precisions through; whether a mechanism has it, the library says.
lowatt::Precision precision_or(const Text& text, lowatt::Precision otherwise) {
  if (text) lowatt::parse_precision(text->c_str(), otherwise);
  return otherwise;
}

Mechanism make_softmax(const MechanismTexts& texts) {
  lowatt::Softmax softmax;
  softmax.precision = precision_or(texts.precision, softmax.precision);
  return softmax;
}

Mechanism make_inhibitor(const MechanismTexts& texts) {
  lowatt::Inhibitor inhibitor;
  inhibitor.precision = precision_or(texts.precision, inhibitor.precision);
  inhibitor.alpha = number_or_nothing("--alpha", texts.alpha).value_or(0);
  inhibitor.is_signed = !texts.is_unsigned;
  inhibitor.center = texts.center;
  inhibitor.planes = texts.planes.value_or(inhibitor.planes);
  inhibitor.clip = setting("--clip", texts.clip);
  return inhibitor;
}

Mechanism make_latte(const MechanismTexts& texts) {
  Latte latte;
  if (texts.theta) latte.theta = parse_numbers("--theta", *texts.theta);
  latte.parameters.filtered = setting("--filtered", texts.filtered);
  latte.parameters.error = setting("--error", texts.error);
  if (texts.split && *texts.split == "truncate")
    latte.parameters.split = lowatt::NibbleSplit::truncate;
  latte.parameters.value_precision =
      precision_or(texts.value_precision, latte.parameters.value_precision);
  return latte;
}

Mechanism make_bitformer(const MechanismTexts& texts) {
  lowatt::Bitformer bitformer;
  bitformer.planes = texts.planes.value_or(bitformer.planes);
  bitformer.center_keys = texts.center_keys;
  if (texts.encoding)
    bitformer.encoding =
        *texts.encoding == "sign" ? lowatt::BitEncoding::sign : lowatt::BitEncoding::thermometer;
  if (texts.temperature == "auto")
    bitformer.calibrate_temperature = true;
  else
    bitformer.temperature = setting("--temperature", texts.temperature);
  bitformer.clip = setting("--clip", texts.clip);
  if (texts.clip &&
      lowatt::resolve(bitformer.encoding, bitformer.planes) == lowatt::BitEncoding::sign)
    throw InputError("--clip belongs to the thermometer encoding, not to sign");
  return bitformer;
}

Mechanism make_mechanism(const std::string& name, const MechanismTexts& texts) {
  if (name == "softmax") return make_softmax(texts);
  if (name == "inhibitor") return make_inhibitor(texts);
  if (name == "latte") return make_latte(texts);
  return make_bitformer(texts);
}

RandomShape parse_random_shape(const std::string& text) {
  const auto extents = parse_integers("--random", text);
  if (extents.size() != 5)
    throw InputError("--random: '" + text + "' is not five extents HQ,HK,NQ,NK,D");
  return {extents[0], extents[1], extents[2], extents[3], extents[4]};
}

// Tensors come from three files or from --random.
void read_source(const CLI::App& app, const Text& random, const Text& seed, CallOptions& options) {
  if (random) {
    for (const char* file : {"--q", "--k", "--v"})
      if (app.count(file) > 0)
        throw InputError(std::string(file) + " and --random exclude each other");
    options.random = parse_random_shape(*random);
    if (seed) options.seed = parse_seed("--seed", *seed);
    return;
  }
  if (seed) throw InputError("--seed needs --random");
  for (const char* file : {"--q", "--k", "--v"})
    if (app.count(file) == 0)
      throw InputError(std::string(file) + " is missing: give --q, --k and --v, or --random");
}

// The options that both programs have.
class CallParser {
 public:
  CallParser(CLI::App& app, CallOptions& options, const char* out) : app_(app), options_(options) {
    app.add_option("--mechanism", options.mechanism_name, "which attention (required)")
        ->check(CLI::IsMember({"inhibitor", "latte", "bitformer", "softmax"}));
    app.add_option("--q", options.q_path,
                   "queries: float32 .npy, [heads, tokens, dim] or [tokens, dim]");
    app.add_option("--k", options.k_path, "keys");
    app.add_option("--v", options.v_path, "values");
    app.add_option("--random", random_, "HQ,HK,NQ,NK,D: standard normal tensors instead of files");
    app.add_option("--seed", seed_, "of --random (0)");
    app.add_option("--out", options.out_path, out);
    app.add_option("--scale", scale_, "multiplies scores (1/sqrt(head_dim))");
    app.add_flag("--causal", options.job.causal, "query i sees keys j <= i + keys - queries");
    app.add_flag("--json", options.json, "print one JSON object");

    add("--precision", texts_.precision,
        "inhibitor: fp32, int16, int8 or int4 (int8); softmax: fp32, bf16, f16 or int8 (fp32)",
        {"inhibitor", "softmax"})
        ->check(CLI::IsMember({"fp32", "bf16", "f16", "int16", "int8", "int4"}));
    add("--alpha", texts_.alpha, "inhibitor: shift of the scores (0)", {"inhibitor"});
    flag("--unsigned", texts_.is_unsigned, "inhibitor: unsigned inhibition", {"inhibitor"});
    flag("--center", texts_.center, "inhibitor: subtract the row's mean score", {"inhibitor"});
    add("--theta", texts_.theta,
        "latte: threshold in logits, one or one per query head with commas", {"latte"});
    add("--filtered", texts_.filtered,
        "latte: choose theta per query head to drop this share of the pairs", {"latte"});
    add("--error", texts_.error,
        "latte: choose theta per query head to add at most this relative L2 error", {"latte"});
    add("--split", texts_.split, "latte: how four bits are taken (round)", {"latte"})
        ->check(CLI::IsMember({"round", "truncate"}));
    add("--value-precision", texts_.value_precision, "latte: how values are stored (int8)",
        {"latte"})
        ->check(CLI::IsMember({"int8", "fp32"}));
    add("--planes", texts_.planes,
        "bitformer: bit planes (1); inhibitor: of thermometer codes (none, but 8-bit numbers)",
        {"bitformer", "inhibitor"});
    add("--encoding", texts_.encoding, "bitformer (sign for one plane, else thermometer)",
        {"bitformer"})
        ->check(CLI::IsMember({"sign", "thermometer"}));
    add("--temperature", texts_.temperature, "bitformer: a number or auto (auto for thermometer)",
        {"bitformer"});
    add("--clip", texts_.clip,
        "range of the thermometer (bitformer: mean |K|; inhibitor with --planes: largest |Q|, |K|)",
        {"bitformer", "inhibitor"});
    flag("--center-keys", texts_.center_keys, "bitformer: subtract channel means from K",
         {"bitformer"});
  }

  // Whether to go on; the help is in the options otherwise.
  bool parse(int argc, const char* const* argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::CallForHelp&) {
      options_.help = app_.help();
      return false;
    } catch (const CLI::ParseError& error) {
      throw InputError(error.what());
    }
    return true;
  }

  // Puts what was parsed into the options. `calibration`: the option that names a calibration file,
  // or null where there is none.
  void finish(const CLI::Option* calibration) {
    if (options_.mechanism_name.empty()) throw InputError("--mechanism is required");
    for (const auto& [option, mechanisms] : memberships_)
      if (option->count() > 0 && std::find(mechanisms.begin(), mechanisms.end(),
                                           options_.mechanism_name) == mechanisms.end())
        throw InputError(option->get_name() + " does not belong to " + options_.mechanism_name);
    read_source(app_, random_, seed_, options_);

    // What a calibration holds has one source.
    const bool calibrated = calibration != nullptr && calibration->count() > 0;
    std::vector<std::string> sources;
    for (const char* name : {"--theta", "--filtered", "--error"})
      if (app_.count(name) > 0) sources.emplace_back(name);
    if (calibrated) {
      for (const char* name : {"--temperature", "--clip"})
        if (app_.count(name) > 0) sources.emplace_back(name);
      sources.push_back(calibration->get_name());
    }
    if (sources.size() > 1)
      throw InputError(sources[0] + " and " + sources[1] + " exclude each other");
    if (sources.empty() && options_.mechanism_name == "latte")
      throw InputError(std::string("latte needs --theta, --filtered or --error") +
                       (calibration != nullptr ? ", or a --calibration that has thetas" : ""));
    options_.mechanism = make_mechanism(options_.mechanism_name, texts_);
    options_.job.scale = number_or_nothing("--scale", scale_);
  }

 private:
  using Mechanisms = std::initializer_list<std::string_view>;

  template <class T>
  CLI::Option* add(const char* name, T& value, const char* what, const Mechanisms& mechanisms) {
    CLI::Option* option = app_.add_option(name, value, what);
    memberships_.push_back({option, mechanisms});
    return option;
  }
  void flag(const char* name, bool& value, const char* what, const Mechanisms& mechanisms) {
    memberships_.push_back({app_.add_flag(name, value, what), mechanisms});
  }

  CLI::App& app_;
  CallOptions& options_;
  MechanismTexts texts_;
  Text random_, seed_, scale_;
  std::vector<Membership> memberships_;
};

}  // namespace

AttendOptions parse_attend_options(int argc, const char* const* argv) {
  AttendOptions options;
  CLI::App app("Runs one attention mechanism on tensors from .npy files.", "attend");
  CallParser parser(app, options, "result: float32 .npy, [query heads, queries, value dim]");
  const auto* calibration = app.add_option("--calibration", options.calibration_path,
                                           "file that attend_calibrate wrote: attend with it");
  app.add_option("--weights", options.weights_path,
                 "how much each key counts: float32 .npy, [query heads, queries, keys]");
  app.add_option("--arch", options.job.level, "level to run at (the best)");
  app.add_flag("--list-arch", options.list_arch, "print the levels that this CPU runs");
  app.add_option("--threads", options.job.threads, "threads to use (1)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--repeat", options.repeat,
                 "timed runs; their median is reported (1, which is a cold run)")
      ->check(CLI::Range(1, 1'000'000));
  bool no_compare = false;
  app.add_flag("--no-compare", no_compare, "do not compare with float64 softmax attention");
  if (!parser.parse(argc, argv) || options.list_arch) return options;
  parser.finish(calibration);
  if (options.weights_path && options.weights_path == options.out_path)
    throw InputError("--weights and --out both are " + *options.out_path);
  options.compare = !no_compare;
  return options;
}

CallOptions parse_calibrate_options(int argc, const char* const* argv) {
  CallOptions options;
  CLI::App app("Computes what an attention mechanism's cache freezes, from sample tensors.",
               "attend_calibrate");
  CallParser parser(app, options, "calibration: JSON, for attend --calibration");
  if (parser.parse(argc, argv)) parser.finish(nullptr);
  return options;
}

}  // namespace support
