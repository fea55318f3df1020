#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "number.hpp"

namespace support {
namespace {

// An option whose text is kept only when it was given.
using Text = std::optional<std::string>;

// What a user may set of the mechanisms, before it is known which of them is meant.
struct MechanismTexts {
  Text precision, alpha, theta, split, encoding, temperature, clip;
  bool is_unsigned = false, center = false, center_keys = false;
  int planes = 1;
};

// Which option belongs to which mechanisms.
struct Membership {
  const CLI::Option* option;
  std::initializer_list<std::string_view> mechanisms;
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
  return inhibitor;
}

Mechanism make_latte(const MechanismTexts& texts) {
  if (!texts.theta) throw InputError("--theta is required for latte");
  Latte latte;
  latte.theta = parse_numbers("--theta", *texts.theta);
  if (texts.split && *texts.split == "truncate")
    latte.parameters.split = lowatt::NibbleSplit::truncate;
  return latte;
}

Mechanism make_bitformer(const MechanismTexts& texts) {
  lowatt::Bitformer bitformer;
  bitformer.planes = texts.planes;
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
void read_source(const CLI::App& app, const Text& random, const Text& seed,
                 AttendOptions& options) {
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

}  // namespace

AttendOptions parse_attend_options(int argc, const char* const* argv) {
  AttendOptions options;
  MechanismTexts texts;
  Text random, seed, scale;

  CLI::App app("Runs one attention mechanism on tensors from .npy files.", "attend");
  app.add_option("--mechanism", options.mechanism_name, "which attention (required)")
      ->check(CLI::IsMember({"inhibitor", "latte", "bitformer", "softmax"}));
  app.add_option("--q", options.q_path,
                 "queries: float32 .npy, [heads, tokens, dim] or [tokens, dim]");
  app.add_option("--k", options.k_path, "keys");
  app.add_option("--v", options.v_path, "values");
  app.add_option("--random", random, "HQ,HK,NQ,NK,D: standard normal tensors instead of files");
  app.add_option("--seed", seed, "of --random (0)");
  app.add_option("--out", options.out_path,
                 "result: float32 .npy, [query heads, queries, value dim]");

  app.add_option("--scale", scale, "multiplies scores (1/sqrt(head_dim))");
  app.add_flag("--causal", options.job.causal, "query i sees keys j <= i + keys - queries");
  auto* precision = app.add_option("--precision", texts.precision,
                                   "inhibitor: fp32, int16, int8 or int4 (int8); "
                                   "softmax: fp32, bf16, f16 or int8 (fp32)")
                        ->check(CLI::IsMember({"fp32", "bf16", "f16", "int16", "int8", "int4"}));
  auto* alpha = app.add_option("--alpha", texts.alpha, "inhibitor: shift of the scores (0)");
  auto* is_unsigned =
      app.add_flag("--unsigned", texts.is_unsigned, "inhibitor: unsigned inhibition");
  auto* center = app.add_flag("--center", texts.center, "inhibitor: subtract the row's mean score");
  auto* theta = app.add_option("--theta", texts.theta,
                               "latte: threshold in logits, one or one per query head with commas");
  auto* split = app.add_option("--split", texts.split, "latte: how four bits are taken (round)")
                    ->check(CLI::IsMember({"round", "truncate"}));
  auto* planes = app.add_option("--planes", texts.planes, "bitformer: bit planes (1)");
  auto* encoding = app.add_option("--encoding", texts.encoding,
                                  "bitformer (sign for one plane, else thermometer)")
                       ->check(CLI::IsMember({"sign", "thermometer"}));
  auto* temperature = app.add_option("--temperature", texts.temperature,
                                     "bitformer: a number or auto (auto for thermometer)");
  auto* clip =
      app.add_option("--clip", texts.clip, "bitformer: range of the thermometer (mean |K|)");
  auto* center_keys =
      app.add_flag("--center-keys", texts.center_keys, "bitformer: subtract channel means from K");

  app.add_option("--arch", options.job.level, "level to run at (the best)");
  app.add_flag("--list-arch", options.list_arch, "print the levels that this CPU runs");
  app.add_option("--threads", options.job.threads, "threads to use (1)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--repeat", options.repeat,
                 "timed runs; their median is reported (1, which is a cold run)")
      ->check(CLI::Range(1, 1'000'000));
  bool no_compare = false;
  app.add_flag("--no-compare", no_compare, "do not compare with float64 softmax attention");
  app.add_flag("--json", options.json, "print one JSON object");

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    options.help = app.help();
    return options;
  } catch (const CLI::ParseError& error) {
    throw InputError(error.what());
  }
  if (options.list_arch) return options;
  if (options.mechanism_name.empty()) throw InputError("--mechanism is required");

  const Membership memberships[] = {{precision, {"inhibitor", "softmax"}},
                                    {alpha, {"inhibitor"}},
                                    {is_unsigned, {"inhibitor"}},
                                    {center, {"inhibitor"}},
                                    {theta, {"latte"}},
                                    {split, {"latte"}},
                                    {planes, {"bitformer"}},
                                    {encoding, {"bitformer"}},
                                    {temperature, {"bitformer"}},
                                    {clip, {"bitformer"}},
                                    {center_keys, {"bitformer"}}};
  for (const auto& [option, mechanisms] : memberships)
    if (option->count() > 0 &&
        std::find(mechanisms.begin(), mechanisms.end(), options.mechanism_name) == mechanisms.end())
      throw InputError(option->get_name() + " does not belong to " + options.mechanism_name);

  read_source(app, random, seed, options);
  options.mechanism = make_mechanism(options.mechanism_name, texts);
  options.job.scale = number_or_nothing("--scale", scale);
  options.compare = !no_compare;
  return options;
}

}  // namespace support
