#include "picture.hpp"

#include <algorithm>
#include <cstdio>
#include <string_view>

namespace support {
namespace {

using lowatt::Index;

constexpr std::string_view shades = " .:-=+*#%@";
constexpr Index widest = 40, bar_length = 24;

// The mean of the pixels under one character.
char shade(const LabelledImages& images, Index image, Index top, Index left, Index height,
           Index width) {
  const Index bottom = std::min(top + height, images.rows);
  const Index right = std::min(left + width, images.columns);
  Index sum = 0;
  for (Index y = top; y < bottom; ++y)
    for (Index x = left; x < right; ++x) sum += images.image(image)[y * images.columns + x];
  const Index mean = sum / ((bottom - top) * (right - left));
  return shades[static_cast<std::size_t>(mean) * shades.size() / 256];
}

std::vector<std::string> drawn(const LabelledImages& images, Index image) {
  const Index width = (images.columns + widest - 1) / widest, height = 2 * width;
  std::vector<std::string> lines;
  for (Index top = 0; top < images.rows; top += height) {
    std::string line = "|";
    for (Index left = 0; left < images.columns; left += width)
      line += shade(images, image, top, left, height, width);
    lines.push_back(line + "|");
  }
  std::string edge(lines[0].size(), '-');
  edge.front() = edge.back() = '+';
  lines.insert(lines.begin(), edge);
  lines.push_back(edge);
  return lines;
}

std::vector<std::string> bars(const std::vector<double>& probabilities, std::size_t label) {
  const auto best = static_cast<std::size_t>(
      std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin());
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < probabilities.size(); ++i) {
    const auto length = static_cast<int>(probabilities[i] * bar_length + 0.5);
    const std::string bar(static_cast<std::size_t>(length), '#');
    char line[96];
    std::snprintf(line, sizeof line, "%3zu |%-*s| %5.1f%%", i, static_cast<int>(bar_length),
                  bar.c_str(), 100 * probabilities[i]);
    const char* remark = "";
    if (i == best) remark = best == label ? "  <- the answer" : "  <- the answer, wrong";
    if (i == label && i != best) remark = "  <- the label";
    lines.push_back(std::string(line) + remark);
  }
  return lines;
}

}  // namespace

std::string picture(const LabelledImages& images, Index image,
                    const std::vector<double>& probabilities) {
  const std::vector<std::string> left = drawn(images, image);
  const std::vector<std::string> right =
      bars(probabilities, images.labels[static_cast<std::size_t>(image)]);
  // The shorter column stands in the middle of the other.
  const std::size_t lines = std::max(left.size(), right.size());
  const std::size_t left_from = (lines - left.size()) / 2, right_from = (lines - right.size()) / 2;
  std::string text;
  for (std::size_t i = 0; i < lines; ++i) {
    std::string line =
        i - left_from < left.size() ? left[i - left_from] : std::string(left[0].size(), ' ');
    if (i - right_from < right.size()) line += "  " + right[i - right_from];
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace support
