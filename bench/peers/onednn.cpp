// Attention as oneDNN's matmul, softmax, matmul.
//
// Matrices of one head at a time and in blocks of queries. Primitives batched over the heads take
// whole heads, whose scores leave the cache: up to 8% faster at 128 keys, mostly 20% slower at 512,
// and so are whole heads at 2048.
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <oneapi/dnnl/dnnl.hpp>

#include "attention.hpp"

namespace bench {
namespace {

using dnnl::memory;
using Type = memory::data_type;

struct Types {
  Type queries_and_keys, weights_and_values;
};

// What the keys and values are stored as: rows as they come, or the order that the matmul asks for.
// The second is up to 40% faster to attend and takes longer to make.
enum class Order { plain, chosen };

// Rows as they come, with fewer queries than this, are faster if the order is made within the
// clock.
constexpr Index queries_worth_an_order = 1024;

constexpr Index largest_block = 128;  // queries; as fast as 64, faster than 256 and all

// Equal matrices that follow each other in memory, and what the primitives read in their place.
class Matrices {
 public:
  Matrices(const dnnl::engine& engine, Index count, std::vector<float>& data,
           const memory::desc& plain, const memory::desc& used, float scale = 1) {
    const std::size_t stride = data.size() / static_cast<std::size_t>(count);
    for (Index i = 0; i < count; ++i) {
      plain_.emplace_back(plain, engine, data.data() + static_cast<std::size_t>(i) * stride);
      used_.push_back(plain == used ? plain_.back() : memory(used, engine));
    }
    if (plain == used) return;
    dnnl::primitive_attr attributes;
    attributes.set_output_scales(0, {scale});
    conversion_ = dnnl::reorder(plain_[0], used_[0], attributes);
  }

  void convert(dnnl::stream& stream) {
    if (!conversion_) return;
    for (std::size_t i = 0; i < used_.size(); ++i) conversion_.execute(stream, plain_[i], used_[i]);
  }

  const memory& operator[](Index i) const { return used_[static_cast<std::size_t>(i)]; }

 private:
  std::vector<memory> plain_, used_;
  dnnl::reorder conversion_;
};

// Largest number of 8 bits, by the largest of these.
float scale_to_int8(const std::vector<float>& data) {
  float largest = 0;
  for (const float x : data) largest = std::max(largest, std::abs(x));
  return 127 / largest;
}

class OneDnn final : public Attention {
 public:
  OneDnn(Inputs& in, Types types, Order order)
      : engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_),
        rows_(in.queries % largest_block == 0 ? largest_block : in.queries),
        blocks_(in.heads * in.queries / rows_),
        blocks_per_head_(in.queries / rows_) {
    const bool is_int8 = types.queries_and_keys == Type::s8;
    const float q_scale = is_int8 ? scale_to_int8(in.q_data) : 1;
    const float k_scale = is_int8 ? scale_to_int8(in.k_data) : 1;
    const memory::dims q_dims{rows_, in.dim}, k_dims{in.dim, in.keys}, v_dims{in.keys, in.dim},
        score_dims{rows_, in.keys};
    const auto rows_of = [](const memory::dims& dims, Type type) {
      return memory::desc(dims, type, memory::format_tag::ab);
    };
    const memory::desc q = rows_of(q_dims, types.queries_and_keys);
    const memory::desc scores = rows_of(score_dims, Type::f32);
    const memory::desc weights = rows_of(score_dims, types.weights_and_values);
    const memory::desc out = rows_of(q_dims, Type::f32);
    const bool choose = order == Order::chosen;
    const memory::desc k(k_dims, types.queries_and_keys,
                         choose ? memory::format_tag::any : memory::format_tag::ba);
    const memory::desc v(v_dims, types.weights_and_values,
                         choose ? memory::format_tag::any : memory::format_tag::ab);

    dnnl::primitive_attr scaling;
    scaling.set_output_scales(0, {1 / (std::sqrt(static_cast<float>(in.dim)) * q_scale * k_scale)});
    const dnnl::matmul::primitive_desc score({q, k, scores}, scaling, engine_);
    const dnnl::softmax_v2_forward::primitive_desc weigh(
        {dnnl::prop_kind::forward_inference, dnnl::algorithm::softmax_accurate, scores, weights, 1},
        engine_);
    const dnnl::matmul::primitive_desc mix({weights, v, out}, engine_);
    score_ = dnnl::matmul(score);
    weigh_ = dnnl::softmax_v2_forward(weigh);
    mix_ = dnnl::matmul(mix);

    scores_ = memory(scores, engine_);
    weights_ = scores == weights ? scores_ : memory(weights, engine_);
    const memory::desc k_plain(k_dims, Type::f32, memory::format_tag::ba);
    q_ = std::make_unique<Matrices>(engine_, blocks_, in.q_data, out, q, q_scale);
    k_ = std::make_unique<Matrices>(engine_, in.heads, in.k_data, k_plain, score.weights_desc(),
                                    k_scale);
    v_ = std::make_unique<Matrices>(engine_, in.heads, in.v_data, rows_of(v_dims, Type::f32),
                                    mix.weights_desc());
    out_ = std::make_unique<Matrices>(engine_, blocks_, in.out_data, out, out);
  }

  // The queries too, in the peer's favour: ours are always encoded within the clock.
  void pack() override {
    q_->convert(stream_);
    k_->convert(stream_);
    v_->convert(stream_);
    stream_.wait();
  }

  void attend() override {
    for (Index i = 0; i < blocks_; ++i) {
      const Index head = i / blocks_per_head_;
      score_.execute(
          stream_,
          {{DNNL_ARG_SRC, (*q_)[i]}, {DNNL_ARG_WEIGHTS, (*k_)[head]}, {DNNL_ARG_DST, scores_}});
      weigh_.execute(stream_, {{DNNL_ARG_SRC, scores_}, {DNNL_ARG_DST, weights_}});
      mix_.execute(
          stream_,
          {{DNNL_ARG_SRC, weights_}, {DNNL_ARG_WEIGHTS, (*v_)[head]}, {DNNL_ARG_DST, (*out_)[i]}});
    }
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  Index rows_, blocks_, blocks_per_head_;
  dnnl::matmul score_, mix_;
  dnnl::softmax_v2_forward weigh_;
  memory scores_, weights_;
  std::unique_ptr<Matrices> q_, k_, v_, out_;
};

// oneDNN has no setting of its own. Whichever OpenMP it was linked with is in this process.
void use_one_thread() {
  if (void* set = dlsym(RTLD_DEFAULT, "omp_set_num_threads"))
    reinterpret_cast<void (*)(int)>(set)(1);
}

}  // namespace

std::vector<Contender> onednn_contenders() {
  use_one_thread();
  std::vector<Contender> contenders;
  const auto add = [&](const std::string& kernel, Types types, double tolerance) {
    for (const bool packs_in_clock : {false, true})
      contenders.push_back(
          {kernel, "-", packs_in_clock, tolerance, [=](Inputs& inputs) {
             const bool plain = packs_in_clock && inputs.queries < queries_worth_an_order;
             return std::make_unique<OneDnn>(inputs, types, plain ? Order::plain : Order::chosen);
           }});
  };
  add("onednn/fp32", {Type::f32, Type::f32}, 1e-4);
  add("onednn/bf16", {Type::bf16, Type::bf16}, 2e-2);
  add("onednn/int8-bf16", {Type::s8, Type::bf16}, 2e-2);
  return contenders;
}

std::string onednn_version() {
  const dnnl::version_t& version = *dnnl::version();
  return std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
         std::to_string(version.patch);
}

}  // namespace bench
