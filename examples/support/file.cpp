#include "file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace support {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw InputError("'" + path + "' " + what);
}

}  // namespace

InputFile open_file(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) fail(path, "does not exist");
  if (status.type() != std::filesystem::file_type::regular)
    fail(path, error ? "cannot be opened: " + error.message() : "is not a regular file");
  errno = 0;
  InputFile file{std::ifstream(path, std::ios::binary)};
  if (!file.in) fail(path, std::string("cannot be opened: ") + std::strerror(errno));
  file.size = std::filesystem::file_size(path, error);
  if (error) fail(path, "cannot be opened: " + error.message());
  return file;
}

void write_file(const std::string& path, std::initializer_list<std::string_view> parts) {
  // Renaming replaces whatever bears the name: neither a device nor a link must become a file.
  std::error_code error;
  std::string target = path;
  if (std::filesystem::exists(path, error)) {
    if (!std::filesystem::is_regular_file(path, error))
      fail(path, "cannot be written: it is not a regular file");
    if (::access(path.c_str(), W_OK) != 0) fail(path, "cannot be written: it is read-only");
    target = std::filesystem::canonical(path, error).string();
    if (error) fail(path, "cannot be written: " + error.message());
  }

  const std::string temporary = target + ".tmp" + std::to_string(::getpid());
  errno = 0;
  std::ofstream out(temporary, std::ios::binary);
  if (!out) fail(path, std::string("cannot be written: ") + std::strerror(errno));
  for (const std::string_view part : parts)
    out.write(part.data(), static_cast<std::streamsize>(part.size()));
  out.close();
  const int write_error = errno;
  if (out) std::filesystem::rename(temporary, target, error);
  if (!out || error) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    fail(path, "cannot be written: " + (error ? error.message() : std::strerror(write_error)));
  }
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 40;
  std::string result = "'";
  for (const char c : text.substr(0, longest)) result += c >= ' ' && c <= '~' ? c : '?';
  return result + (text.size() > longest ? "...'" : "'");
}

}  // namespace support
