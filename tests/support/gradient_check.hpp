// How gradients are checked: against central differences of a loss in double, at every level.
#pragma once

#include <cmath>
#include <functional>
#include <random>
#include <span>

#include "sweep.hpp"
#include "thread_pool.hpp"

namespace test {

// One query head with its keys and values in double, and the gradient of the loss to its outputs.
struct RealHead {
  Index batch = 0, query_head = 0;
  Index queries = 0, keys = 0, head_dim = 0, value_dim = 0;
  bool causal = false;
  const double *q = nullptr, *k = nullptr, *v = nullptr;  // contiguous
  const double* out_gradient = nullptr;
};

// The loss of a head when its outputs count alone: row(query, visible, out) computes one of them.
template <class Row>
double loss_by_rows(const RealHead& head, Row row) {
  double loss = 0;
  std::vector<double> out(static_cast<std::size_t>(head.value_dim));
  for (Index i = 0; i < head.queries; ++i) {
    const auto visible = lowatt::visible_keys(head.causal, i, head.queries, head.keys);
    if (visible.count() == 0) continue;
    row(head.q + i * head.head_dim, visible, out.data());
    for (Index c = 0; c < head.value_dim; ++c)
      loss += head.out_gradient[i * head.value_dim + c] * out[static_cast<std::size_t>(c)];
  }
  return loss;
}

// A parameter with a gradient: where it is delivered, and how it is changed.
template <class M>
struct GradientParameter {
  const char* name;
  double* lowatt::Gradients::*gradient;
  double step;  // of differences
  std::function<void(M&, double)> add;
};

inline std::vector<double> in_double(lowatt::View<const float> x) {
  std::vector<double> all;
  for (Index b = 0; b < x.batch; ++b)
    for (Index h = 0; h < x.heads; ++h)
      for (Index t = 0; t < x.tokens; ++t)
        for (Index c = 0; c < x.dim; ++c) all.push_back(static_cast<double>(x.row(b, h, t)[c]));
  return all;
}

inline double relative_l2(const std::vector<double>& actual, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// Gradients of one call, in memory laid out as the case says.
struct GradientTensors {
  explicit GradientTensors(const Case& c)
      : q(c.shape.batch, c.shape.query_heads, c.shape.queries, c.shape.head_dim, c.layout),
        k(c.shape.batch, c.shape.kv_heads, c.shape.keys, c.shape.head_dim, c.layout),
        v(c.shape.batch, c.shape.kv_heads, c.shape.keys, c.shape.value_dim, c.layout) {
    for (StridedTensor* x : {&q, &k, &v}) x->for_each([](float& e) { e = -1e30f; });
  }
  lowatt::Gradients views() { return {q.view(), k.view(), v.view()}; }
  bool gaps_are_untouched() const {
    return q.gaps_are_untouched() && k.gaps_are_untouched() && v.gaps_are_untouched();
  }
  StridedTensor q, k, v;
};

struct GradientOptions {
  double tolerance = 1e-4;           // relative L2
  double step = 1e-5;                // of differences
  int most_samples = 30;             // elements per tensor that differences are taken of
  const double* survival = nullptr;  // SoftLatte
};

// Gradients of the mechanism at every level against differences of loss(mechanism, RealHead),
// summed over all query heads; and the same bits from three workers as from one.
template <class M, class Loss>
void expect_gradients(const M& mechanism, const Case& c, Loss loss,
                      const std::vector<GradientParameter<M>>& parameters = {},
                      const GradientOptions& how = {}) {
  Inputs inputs(c);
  StridedTensor out_gradient(c.shape.batch, c.shape.query_heads, c.shape.queries, c.shape.value_dim,
                             c.layout);
  std::mt19937 random(c.seed + 1);
  out_gradient.fill_normal(random);
  const lowatt::View<const float> views[] = {inputs.q.view(), inputs.k.view(), inputs.v.view()};
  std::vector<double> tensors[] = {in_double(views[0]), in_double(views[1]), in_double(views[2])};
  const std::vector<double> of_out = in_double(std::as_const(out_gradient).view());

  const Index group = c.shape.query_heads / c.shape.kv_heads;
  const auto loss_of_head = [&](const M& changed, Index b, Index h) {
    const Index query_entry = b * c.shape.query_heads + h,
                kv_entry = b * c.shape.kv_heads + h / group;
    const lowatt::Shape& s = c.shape;
    return loss(changed, RealHead{b, h, s.queries, s.keys, s.head_dim, s.value_dim, c.causal,
                                  tensors[0].data() + query_entry * s.queries * s.head_dim,
                                  tensors[1].data() + kv_entry * s.keys * s.head_dim,
                                  tensors[2].data() + kv_entry * s.keys * s.value_dim,
                                  of_out.data() + query_entry * s.queries * s.value_dim});
  };
  // Differences of sampled elements; an element of a KV head matters to a group of query heads.
  std::vector<std::size_t> sampled[3];
  std::vector<double> expected[3];
  for (int t = 0; t < 3; ++t) {
    const auto size = tensors[t].size();
    const bool all = size <= static_cast<std::size_t>(how.most_samples);
    const std::size_t count = all ? size : static_cast<std::size_t>(how.most_samples);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t at = all ? i : random() % size;
      const auto head = static_cast<Index>(at) / (views[t].tokens * views[t].dim);
      const Index b = head / views[t].heads, first = head % views[t].heads * (t == 0 ? 1 : group);
      const auto loss_at = [&](double x) {
        double& element = tensors[t][at];
        const double before = element;
        element = x;
        double sum = 0;
        for (Index h = first; h < first + (t == 0 ? 1 : group); ++h)
          sum += loss_of_head(mechanism, b, h);
        element = before;
        return sum;
      };
      const double x = tensors[t][at];
      sampled[t].push_back(at);
      expected[t].push_back((loss_at(x + how.step) - loss_at(x - how.step)) / (2 * how.step));
    }
  }
  const Index heads = c.shape.batch * c.shape.query_heads;
  std::vector<std::vector<double>> expected_parameters;
  for (const auto& parameter : parameters) {
    expected_parameters.emplace_back();
    for (Index h = 0; h < heads; ++h) {
      M more = mechanism, less = mechanism;
      parameter.add(more, parameter.step);
      parameter.add(less, -parameter.step);
      const Index b = h / c.shape.query_heads, head = h % c.shape.query_heads;
      expected_parameters.back().push_back(
          (loss_of_head(more, b, head) - loss_of_head(less, b, head)) / (2 * parameter.step));
    }
  }

  for (const lowatt::Level level : levels()) {
    const std::string what = describe(level, c);
    lowatt::attend_training(mechanism, views[0], views[1], views[2], inputs.out.view(), {},
                            {.causal = c.causal, .level = level});
    std::vector<double> first_run;
    for (const int workers : {1, 3}) {
      GradientTensors gradients(c);
      lowatt::Gradients result = gradients.views();
      result.survival = how.survival;
      std::vector<std::vector<double>> of_parameters(
          parameters.size(), std::vector<double>(static_cast<std::size_t>(heads), -1e30));
      for (std::size_t p = 0; p < parameters.size(); ++p)
        result.*parameters[p].gradient = of_parameters[p].data();
      support::ThreadPool executor(workers);
      lowatt::attend_gradient(mechanism, views[0], views[1], views[2],
                              std::as_const(inputs.out).view(), std::as_const(out_gradient).view(),
                              result, {.causal = c.causal, .executor = executor, .level = level});
      EXPECT_TRUE(gradients.gaps_are_untouched()) << what;
      std::vector<double> run;
      const StridedTensor* const computed[] = {&gradients.q, &gradients.k, &gradients.v};
      for (int t = 0; t < 3; ++t) {
        const std::vector<double> all = in_double(computed[t]->view());
        run.insert(run.end(), all.begin(), all.end());
        std::vector<double> actual;
        for (const std::size_t at : sampled[t]) actual.push_back(all[at]);
        EXPECT_LE(relative_l2(actual, expected[t]), how.tolerance) << "gradient of "
                                                                   << "qkv"[t] << ", " << what;
      }
      for (std::size_t p = 0; p < parameters.size(); ++p) {
        run.insert(run.end(), of_parameters[p].begin(), of_parameters[p].end());
        EXPECT_LE(relative_l2(of_parameters[p], expected_parameters[p]), how.tolerance)
            << "gradient of " << parameters[p].name << ", " << what;
      }
      if (workers == 1) first_run = run;
      EXPECT_TRUE(run == first_run) << workers << " workers, " << what;
    }
  }
}

// A last key of NaN with a value of infinity, which the last query alone sees, changes no other
// query's output or gradient. more(gradients) may check further.
template <class M, class More>
void expect_hidden_key_reaches_nothing(const M& mechanism, More more) {
  constexpr Index head_dim = 20, value_dim = 12, keys = 70, queries = 40;
  const Case c{{1, 2, 1, queries, keys, head_dim, value_dim}, true, Layout::padded, 9};
  Inputs inputs(c), clean(c);
  const auto set_last_key = [](Inputs& tensors, float key, float value) {
    for (float& x : std::span(tensors.k.view().row(0, 0, keys - 1), head_dim)) x = key;
    for (float& x : std::span(tensors.v.view().row(0, 0, keys - 1), value_dim)) x = value;
  };
  set_last_key(inputs, NAN, INFINITY);
  set_last_key(clean, 0, 0);
  StridedTensor out_gradient(1, 2, queries, value_dim);
  std::mt19937 random(3);
  out_gradient.fill_normal(random);
  for (const lowatt::Level level : levels()) {
    GradientTensors gradients(c), expected(c);
    for (auto [in, result] : {std::pair(&inputs, &gradients), std::pair(&clean, &expected)}) {
      const lowatt::View<const float> q = in->q.view(), k = in->k.view(), v = in->v.view();
      const lowatt::Options options{.causal = true, .level = level};
      lowatt::attend_training(mechanism, q, k, v, in->out.view(), {}, options);
      lowatt::attend_gradient(mechanism, q, k, v, std::as_const(in->out).view(),
                              std::as_const(out_gradient).view(), result->views(), options);
    }
    const auto but_the_last = [](lowatt::View<const float> x) {
      --x.tokens;
      return x;
    };
    expect_identical(but_the_last(inputs.out.view()), but_the_last(clean.out.view()),
                     "out, " + describe(level, c));
    expect_identical(but_the_last(gradients.q.view()), but_the_last(expected.q.view()),
                     "gradient of q, " + describe(level, c));
    more(gradients);
  }
}

// Shapes on and beside the boundaries of blocks, tiles and registers, with few pairs.
inline std::vector<Case> gradient_cases() {
  return {{{1, 1, 1, 1, 1, 1, 1}},
          {{1, 1, 1, 16, 64, 16, 16}},
          {{1, 2, 1, 17, 65, 33, 5}, false, Layout::padded, 1},
          {{2, 4, 2, 5, 9, 8, 20}, true, Layout::token_major, 2},
          {{1, 3, 1, 9, 5, 7, 3}, true, Layout::padded, 3},
          {{1, 1, 1, 40, 1, 4, 4}, true, Layout::contiguous, 4},
          {{2, 2, 2, 33, 70, 80, 64}, true, Layout::contiguous, 5},
          {{1, 1, 1, 70, 130, 32, 48}, true, Layout::token_major, 6},
          {{1, 2, 2, 3, 150, 64, 31}, false, Layout::contiguous, 7}};
}

}  // namespace test
