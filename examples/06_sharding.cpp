// One sequence spread over machines: each rank's cache holds some of the keys, and a query attends
// all of them with two reductions. Run it with MPI, here with four ranks on one machine:
//
//   mpirun -n 4 --oversubscribe build/examples/06_sharding
#define OMPI_SKIP_MPICXX  // the C interface alone
#include <mpi.h>

#include <lowatt/lowatt.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

namespace {
using lowatt::Index;
using View = lowatt::View<const float>;
constexpr Index heads = 4, keys = 32768, head_dim = 64;

// The same on every rank.
std::vector<float> make_tensor(Index tokens, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> tensor(static_cast<std::size_t>(heads * tokens * head_dim));
  for (float& x : tensor) x = static_cast<float>(random() % 2001) / 1000 - 1;
  return tensor;
}

// Merges parts of the keys, for MPI_Allreduce; an element is a row. The Inhibitor's and Bitformer's
// are sums alone: MPI_SUM over all numbers would do.
void merge_parts(void* from, void* into, int* rows, MPI_Datatype*) {
  lowatt::merge_rows({static_cast<double*>(into), head_dim},
                     {static_cast<const double*>(from), head_dim}, *rows);
}

// What every rank calls, with the same query: all get the outputs.
template <class M>
void attend_with_others(View q, const lowatt::KvCache<M>& cache, const lowatt::Shard& shard,
                        lowatt::View<float> out, MPI_Datatype row, MPI_Op merge) {
  const auto numbers = static_cast<int>(lowatt::statistic_size(cache.mechanism(), q));
  std::vector<double> statistic(static_cast<std::size_t>(numbers));
  std::vector<double> part(static_cast<std::size_t>(lowatt::part_size(q, head_dim)));
  lowatt::attend_statistic(q, cache, shard, statistic.data());
  const bool sums = lowatt::statistic_merge(cache.mechanism()) == lowatt::StatisticMerge::sum;
  MPI_Allreduce(MPI_IN_PLACE, statistic.data(), numbers, MPI_DOUBLE, sums ? MPI_SUM : MPI_MAX,
                MPI_COMM_WORLD);
  lowatt::attend_part(q, cache, shard, statistic.data(), part.data());
  MPI_Allreduce(MPI_IN_PLACE, part.data(), heads, row, merge, MPI_COMM_WORLD);
  lowatt::finish(q, cache, part.data(), out);
}

// The least of some runs, in ms.
template <class F>
double time_of(F&& f) {
  double least = 1e9;
  for (int run = 0; run < 10; ++run) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = MPI_Wtime();
    f();
    least = std::fmin(least, 1e3 * (MPI_Wtime() - begin));
  }
  return least;
}

// Whether this rank got what one cache of all keys gives.
template <class M>
bool compare(const char* name, const M& mechanism, float tolerance, MPI_Datatype row, MPI_Op op) {
  int rank = 0, ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const auto q_data = make_tensor(1, 1), k_data = make_tensor(keys, 2),
             v_data = make_tensor(keys, 3);
  const View q(q_data.data(), heads, 1, head_dim), k(k_data.data(), heads, keys, head_dim),
      v(v_data.data(), heads, keys, head_dim);
  std::vector<float> out(heads * head_dim), whole_out(out.size());
  const lowatt::View<float> out_view(out.data(), heads, 1, head_dim),
      whole_view(whole_out.data(), heads, 1, head_dim);
  // All ranks need the same Calibration: here each makes it from the same tensors.
  const lowatt::Calibration calibration = lowatt::calibrate(mechanism, q, k, v);
  const lowatt::CacheShape shape{
      .kv_heads = heads, .head_dim = head_dim, .value_dim = head_dim, .capacity = keys};
  lowatt::KvCache<M> whole(shape, calibration, mechanism), cache(shape, calibration, mechanism);
  whole.append(k, v);
  // Any spread will do; here all ranks have as many keys, up to one.
  const Index first = keys * rank / ranks, end = keys * (rank + 1) / ranks;
  const auto own = [&](View x) {
    return View(x.row(0, 0, first), 1, heads, end - first, head_dim, 0, x.head_stride, head_dim);
  };
  cache.append(own(k), own(v));

  lowatt::attend(q, whole, whole_view);
  const double alone = time_of([&] { rank > 0 ? void() : lowatt::attend(q, whole, whole_view); });
  const double together = time_of([&] {
    attend_with_others(q, cache, {first, keys}, out_view, row, op);
  });
  float apart = 0;
  bool near = true;  // NaN is not
  for (std::size_t i = 0; i < out.size(); ++i) {
    const float difference = std::abs(whole_out[i] - out[i]);
    apart = std::fmax(apart, difference);
    near = near && difference <= tolerance;
  }
  if (rank == 0)
    std::printf("%-10s %d ranks %.3f ms, one %.3f ms; outputs differ by at most %g\n", name, ranks,
                together, alone, static_cast<double>(apart));
  return near;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  MPI_Datatype row;
  MPI_Op op;
  MPI_Type_contiguous(lowatt::PartRows<double>::header + head_dim, MPI_DOUBLE, &row);
  MPI_Type_commit(&row);
  MPI_Op_create(merge_parts, 1, &op);
  bool all = compare("Inhibitor", lowatt::Inhibitor{.scale = 0.01, .center = true}, 0, row, op);
  all &= compare("Bitformer", lowatt::Bitformer{.temperature = 0.1}, 0, row, op);
  all &= compare("LATTE", lowatt::Latte{.theta = 1.0}, 1e-5f, row, op);
  all &= compare("softmax", lowatt::Softmax{}, 1e-5f, row, op);
  MPI_Finalize();
  return all ? 0 : 1;
}
