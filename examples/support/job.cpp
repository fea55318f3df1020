#include "job.hpp"

#include <algorithm>
#include <utility>

#include "thread_pool.hpp"
#include "timing.hpp"

namespace support {
namespace {

// Pairs of query and key of one head that the mask leaves; every head has as many.
lowatt::Index visible_pairs(const Tensors& tensors, bool causal) {
  lowatt::Index pairs = 0;
  for (lowatt::Index query = 0; query < tensors.q.tokens; ++query) {
    const lowatt::Index first_hidden = query + 1 + tensors.k.tokens - tensors.q.tokens;
    pairs += causal ? std::max<lowatt::Index>(first_hidden, 0) : tensors.k.tokens;
  }
  return pairs;
}

template <class M>
class JobOf final : public Job {
 public:
  JobOf(const M& mechanism, const Tensors& tensors, const JobOptions& job_options)
      : tensors_(tensors), pool_(job_options.threads) {
    options_.causal = job_options.causal;
    options_.level = parse_level_name(job_options.level);
    if (job_options.threads > 1) options_.executor = pool_;
    out = tensors.make_output();
    const auto &q = tensors.q, &k = tensors.k, &v = tensors.v;

    lowatt::Calibration calibration;
    pack_seconds = seconds_of([&] {
      calibration = job_options.calibration
                        ? *job_options.calibration
                        : lowatt::calibrate(mechanism, q.view(), k.view(), v.view(), options_);
      cache_ = lowatt::KvCache<M>(
          {.kv_heads = k.heads, .head_dim = k.dim, .value_dim = v.dim, .capacity = k.tokens},
          calibration, mechanism, options_.level);
      cache_.append(k.view(), v.view());
    });
    bytes_per_cached_token = cache_.bytes_per_token();
    const lowatt::Shape shape{1, q.heads, k.heads, q.tokens, k.tokens, q.dim, v.dim};
    const auto plan = lowatt::plan(mechanism, shape, options_);
    level = lowatt::level_name(plan.level());
    // Given here once, so that run() allocates nothing.
    workspace_ = lowatt::Array<std::byte>(plan.workspace_size(job_options.threads));
    options_.workspace = workspace_.data();
    options_.workspace_bytes = workspace_.size();
    temperature.assign(calibration.temperature.begin(), calibration.temperature.end());

    if constexpr (std::is_same_v<M, lowatt::Latte>) {
      kept.resize(static_cast<std::size_t>(q.heads));
      visible.assign(kept.size(), visible_pairs(tensors, job_options.causal));
      options_.kept = kept.data();
    }
  }

  double run() override {
    return seconds_of([&] { lowatt::attend(tensors_.q.view(), cache_, out.view(), options_); });
  }

  Tensor weights() override {
    const auto &q = tensors_.q, &k = tensors_.k;
    Tensor weights{q.heads, q.tokens, k.tokens, {}};
    weights.data.resize(static_cast<std::size_t>(q.heads * q.tokens * k.tokens));
    lowatt::Options options = options_;
    options.workspace = nullptr;  // that of run() is for another number of value dims
    lowatt::attention_weights(cache_.mechanism(), cache_.calibration(), q.view(), k.view(),
                              tensors_.v.view(), weights.view(), options);
    return weights;
  }

 private:
  const Tensors& tensors_;
  ThreadPool pool_;
  lowatt::Options options_;
  lowatt::KvCache<M> cache_;
  lowatt::Array<std::byte> workspace_;
};

}  // namespace

std::unique_ptr<Job> make_job(const Mechanism& mechanism, const Tensors& tensors,
                              const JobOptions& options) {
  return with_parameters(mechanism, options.scale,
                         [&]<class M>(const M& parameters) -> std::unique_ptr<Job> {
                           return std::make_unique<JobOf<M>>(parameters, tensors, options);
                         });
}

lowatt::LevelSetting parse_level_name(const std::optional<std::string>& name) {
  if (!name) return {};
  lowatt::Level level{};
  if (!lowatt::parse_level(name->c_str(), level))
    throw InputError("--arch: no level is called '" + *name + "'");
  return level;
}

std::vector<std::string> runnable_levels() {
  std::vector<std::string> names;
  for (int i = 0; i < lowatt::level_count; ++i)
    if (const auto level = static_cast<lowatt::Level>(i); lowatt::level_is_available(level))
      names.emplace_back(lowatt::level_name(level));
  return names;
}

}  // namespace support
