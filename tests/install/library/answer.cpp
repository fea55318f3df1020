#include "answer.hpp"

#include "../known_answer.hpp"

int answer() {
  return known_answer();
}
