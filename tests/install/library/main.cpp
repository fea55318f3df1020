#include "answer.hpp"

int main() {
  return answer();
}
