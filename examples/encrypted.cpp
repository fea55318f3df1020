// Attention on encrypted integers: a client encrypts quantised Q, K and V, a server that has no
// secret key attends, the client decrypts and compares with the same on plain integers. Each of the
// three mechanisms has the smallest parameters that its circuit fits (docs/encrypted.md).
//
// Exit status: 0; 1 when a decrypted result differs; 2 with one line on stderr when options are
// wrong.
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "encrypted_attention.hpp"
#include "encrypted_options.hpp"
#include "failure.hpp"
#include "fhe/keys.hpp"
#include "fhe/parameters.hpp"
#include "thread_pool.hpp"
#include "timing.hpp"

namespace {

using lowatt::Index;
using lowatt::fhe::Ciphertext;
using support::EncryptedKind;

// A bar on stderr, where that is a terminal.
class Progress {
 public:
  Progress(const char* name, std::int64_t total)
      : name_(name), total_(total), shown_(::isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (shown_) std::fprintf(stderr, "\r\x1b[K");
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void step() {
    const std::int64_t done = ++done_;
    const auto percent = [this](std::int64_t part) { return 100 * part / total_; };
    if (!shown_ || percent(done) == percent(done - 1)) return;
    const int cells = static_cast<int>(percent(done) / 4);
    std::fprintf(stderr, "\r%-10s [%-25.*s] %3d%%", name_, cells, "#########################",
                 static_cast<int>(percent(done)));
  }

 private:
  const char* name_;
  std::int64_t total_;
  bool shown_;
  std::atomic<std::int64_t> done_ = 0;
};

// Processor time of the calling thread: what others do on the machine is not in it.
std::int64_t thread_nanoseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

// A server that says how far it is, and how long its bootstraps take.
class WatchedServer : public lowatt::fhe::ServerKey {
 public:
  WatchedServer(const lowatt::fhe::ClientKey& client, Progress& progress)
      : ServerKey(client), progress_(progress) {}

  Ciphertext lookup(const Ciphertext& input, std::int64_t lowest,
                    std::span<const std::int64_t> table) const {
    const std::int64_t start = thread_nanoseconds();
    Ciphertext result = ServerKey::lookup(input, lowest, table);
    nanoseconds_ += thread_nanoseconds() - start;
    progress_.step();
    return result;
  }
  // Of processor time, in all lookups and threads.
  double seconds() const { return 1e-9 * static_cast<double>(nanoseconds_); }

 private:
  Progress& progress_;
  mutable std::atomic<std::int64_t> nanoseconds_ = 0;
};

struct Mechanism {
  EncryptedKind kind;
  const char* key;   // in the JSON report
  const char* name;  // for people
  lowatt::CircuitCost cost = {};
  bool planned = false;      // else width and noise are not known
  std::string refused = {};  // why it cannot run
  const lowatt::fhe::Parameters* parameters = nullptr;
  bool ran = false, equal = false;
  double seconds = 0;  // of the server
  double seconds_per_bootstrap = 0;
};

// All rows cost the same.
lowatt::CircuitCost times(lowatt::CircuitCost row, Index rows) {
  lowatt::CircuitCost all = {};
  for (Index i = 0; i < rows; ++i) all += row;
  return all;
}

void plan(Mechanism& mechanism, const support::EncryptedShape& shape) {
  const auto row = support::plan_row(mechanism.kind, shape);
  mechanism.cost = times(row.cost, shape.tokens);
  if (!row.status.ok()) {
    mechanism.refused = row.status.message;
    return;
  }
  mechanism.planned = true;
  mechanism.parameters = lowatt::fhe::smallest_set(row.cost.width, row.cost.noise);
  if (mechanism.parameters != nullptr) return;
  const auto& widest = lowatt::fhe::parameter_sets().back();
  mechanism.refused =
      lowatt::check_message(row.cost.width, row.cost.noise, widest.width, widest.noise_limit)
          .message;
}

void run(Mechanism& mechanism, const support::EncryptedInputs& inputs, std::uint64_t seed,
         support::ThreadPool& pool) {
  const support::EncryptedShape& shape = inputs.shape;
  const auto dim = static_cast<std::size_t>(shape.dim);
  const auto rows = static_cast<std::size_t>(shape.tokens);

  lowatt::fhe::ClientKey client(*mechanism.parameters, seed);
  Progress progress(mechanism.name, mechanism.cost.bootstraps());
  const WatchedServer server(client, progress);
  const auto encrypted = [&client](const std::vector<std::int64_t>& plain) {
    std::vector<Ciphertext> result;
    for (const std::int64_t x : plain) result.push_back(client.encrypt(x));
    return result;
  };
  const std::vector<Ciphertext> q = encrypted(inputs.q), k = encrypted(inputs.k),
                                v = encrypted(inputs.v);

  std::vector<support::EncryptedRow<WatchedServer>> results(rows);
  std::vector<std::exception_ptr> failures(rows);
  mechanism.seconds = support::seconds_of([&] {
    pool.run(shape.tokens, [&](Index task, Index) {
      const auto row = static_cast<std::size_t>(task);
      try {
        results[row] = support::encrypted_row(server, mechanism.kind, shape,
                                              std::span(q).subspan(row * dim, dim), std::span(k),
                                              std::span(v));
      } catch (...) {
        failures[row] = std::current_exception();
      }
    });
  });
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
  mechanism.seconds_per_bootstrap =
      server.seconds() / static_cast<double>(mechanism.cost.bootstraps());

  mechanism.ran = mechanism.equal = true;
  for (std::size_t row = 0; row < rows; ++row) {
    const auto& result = results[row];
    if (!result.status.ok()) throw support::InputError(result.status.message);
    const auto expected = support::attention_row(mechanism.kind, shape, inputs.q.data() + row * dim,
                                                 inputs.k.data(), inputs.v.data());
    for (std::size_t c = 0; c < dim; ++c)
      if (client.decrypt(result.out[c], result.intervals[c].lowest) != expected[c])
        mechanism.equal = false;
  }
}

nlohmann::json json_report(const support::EncryptedOptions& options,
                           const std::vector<Mechanism>& mechanisms) {
  nlohmann::json report = {{"tokens", options.tokens},   {"dim", options.dim},
                           {"bits_in", options.bits},    {"signed", !options.is_unsigned},
                           {"threads", options.threads}, {"equal", nullptr}};
  for (const Mechanism& m : mechanisms) {
    const auto set = [&](const char* name, nlohmann::json value) {
      report[std::string(name) + "_" + m.key] = std::move(value);
    };
    set("operations", m.cost.operations());
    set("bootstraps", m.cost.bootstraps());
    set("width", nullptr);
    set("noise", nullptr);
    set("parameters", nullptr);
    set("refused", nullptr);
    set("seconds", nullptr);
    set("seconds_per_bootstrap", nullptr);
    if (m.planned) {
      set("width", m.cost.width);
      set("noise", m.cost.noise);
    }
    if (!m.refused.empty()) set("refused", m.refused);
    if (m.parameters != nullptr) set("parameters", m.parameters->name);
    if (!m.ran) continue;
    set("seconds", m.seconds);
    set("seconds_per_bootstrap", m.seconds_per_bootstrap);
    report["equal"] = m.equal && report["equal"] != false;
  }
  return report;
}

void print_table(const support::EncryptedOptions& options,
                 const std::vector<Mechanism>& mechanisms) {
  std::printf("%td tokens, dim %td, inputs of %d bits, %s inhibition, %d threads\n\n",
              options.tokens, options.dim, options.bits,
              options.is_unsigned ? "unsigned" : "signed", options.threads);
  std::printf("%-18s %10s %9s %9s %9s %9s %10s\n", "", "lookups of", "products,", "maxima,",
              "additions", "constant", "bootstraps");
  std::printf("%-18s %10s %9s %9s %9s %9s %10s\n", "mechanism", "one number", "2 each", "1 each",
              "", "products", "in all");
  for (const Mechanism& m : mechanisms)
    std::printf("%-18s %10lld %9lld %9lld %9lld %9lld %10lld\n", m.name,
                static_cast<long long>(m.cost.absolutes + m.cost.relus + m.cost.functions),
                static_cast<long long>(m.cost.products), static_cast<long long>(m.cost.maxima),
                static_cast<long long>(m.cost.additions),
                static_cast<long long>(m.cost.constant_products),
                static_cast<long long>(m.cost.bootstraps()));
  std::printf("\n%-18s %5s %7s  %-30s %9s %10s  %s\n", "", "", "", "", "", "ms per", "");
  std::printf("%-18s %5s %7s  %-30s %9s %10s  %s\n", "mechanism", "bits", "noise", "parameter set",
              "seconds", "bootstrap", "result");
  for (const Mechanism& m : mechanisms) {
    if (m.planned)
      std::printf("%-18s %5d %7.4g  ", m.name, m.cost.width, m.cost.noise);
    else
      std::printf("%-18s %4d+ %7s  ", m.name, lowatt::widest_lookup + 1, "");
    if (!m.refused.empty())
      std::printf("refused: %s\n", m.refused.c_str());
    else if (!m.ran)
      std::printf("%s\n", m.parameters->name);
    else
      std::printf("%-30s %9.2f %10.2f  %s\n", m.parameters->name, m.seconds,
                  1e3 * m.seconds_per_bootstrap, m.equal ? "equal" : "DIFFERENT");
  }
}

int run(int argc, char** argv) {
  support::EncryptedOptions options = support::parse_encrypted_options(argc, argv);
  if (options.help) {
    std::cout << *options.help;
    return 0;
  }
  if (options.threads == 0) {
    const unsigned cores = std::thread::hardware_concurrency();
    options.threads = cores > 0 ? static_cast<int>(cores) : 1;
  }
  const support::EncryptedInputs inputs = support::random_inputs(
      options.tokens, options.dim, options.bits, options.alpha, !options.is_unsigned, options.seed);
  std::vector<Mechanism> mechanisms = {
      {EncryptedKind::inhibitor, "inhibitor", "Inhibitor"},
      {EncryptedKind::product, "dot", "dot product"},
      {EncryptedKind::softmax, "softmax", "table softmax"},
  };
  support::ThreadPool pool(options.threads);
  bool equal = true;
  for (Mechanism& mechanism : mechanisms) {
    plan(mechanism, inputs.shape);
    if (options.plan || !mechanism.refused.empty() ||
        options.mechanism.value_or(mechanism.key) != mechanism.key)
      continue;
    run(mechanism, inputs, options.seed, pool);
    equal = equal && mechanism.equal;
  }
  if (options.json)
    std::cout << json_report(options, mechanisms).dump() << "\n";
  else
    print_table(options, mechanisms);
  return equal ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  int status = 0;
  const int failed = support::report_failure([&] { status = run(argc, argv); });
  return failed != 0 ? failed : status;
}
