// Compiled twice, with the flags of two levels, as a function of another name each time.
#include "../install/known_answer.hpp"

int TWO_FLAGS_FUNCTION();
int TWO_FLAGS_FUNCTION() {
  return known_answer();
}
