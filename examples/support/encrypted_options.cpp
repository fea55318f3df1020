#include "encrypted_options.hpp"

#include <CLI/CLI.hpp>

#include "failure.hpp"
#include "number.hpp"

namespace support {

EncryptedOptions parse_encrypted_options(int argc, const char* const* argv) {
  EncryptedOptions options;
  std::optional<std::string> alpha, seed;
  CLI::App app(
      "Runs the Inhibitor and dot-product attention on encrypted integers, and compares what is\n"
      "decrypted with the same on plain ones. Encryption is a test fixture, not for production.",
      "encrypted");
  app.add_option("--tokens", options.tokens, "queries and keys (2)")->check(CLI::Range(1, 1024));
  app.add_option("--dim", options.dim, "of a head (2)")->check(CLI::Range(1, 1024));
  app.add_option("--bits", options.bits, "of Q, K and V, sign included (3)")
      ->check(CLI::Range(2, 8));
  app.add_option("--alpha", alpha, "inhibitor: shift of the scores, in units of V (2)");
  app.add_flag("--unsigned", options.is_unsigned, "inhibitor: unsigned inhibition");
  app.add_option("--seed", seed, "of Q, K, V and the keys (0)");
  app.add_option("--threads", options.threads, "threads to use (one per core)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--mechanism", options.mechanism,
                 "run this one and plan the others: inhibitor, dot or softmax (all)")
      ->check(CLI::IsMember({"inhibitor", "dot", "softmax"}));
  app.add_flag("--plan", options.plan, "count operations, lookups and bits; encrypt nothing");
  app.add_flag("--json", options.json, "print one JSON object");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    options.help = app.help();
    return options;
  } catch (const CLI::ParseError& error) {
    throw InputError(error.what());
  }
  if (alpha) options.alpha = parse_number("--alpha", *alpha);
  if (seed) options.seed = parse_seed("--seed", *seed);
  return options;
}

}  // namespace support
