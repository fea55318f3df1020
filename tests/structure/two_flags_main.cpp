// Calls the baseline unit alone. The other one is there to lead the linker into temptation.
int baseline_answer();
int best_answer();

int main(int argc, char**) {
  return argc > 1 ? best_answer() : baseline_answer();
}
