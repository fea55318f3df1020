#include "known_answer.hpp"

int main() {
  return known_answer();
}
