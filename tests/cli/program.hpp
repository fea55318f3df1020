// Runs a program without a shell and collects what it says.
#pragma once

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "temporary_folder.hpp"

struct Outcome {
  int status = -1;  // -1: ended by a signal
  std::string out, err;
};

inline std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

inline Outcome run_program(const std::string& program, const std::vector<std::string>& arguments) {
  const TemporaryFolder folder;
  const std::string out = folder / "out", err = folder / "err";

  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  constexpr int flags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(), flags, 0600);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, err.c_str(), flags, 0600);
  pid_t child = 0;
  const int error = posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::runtime_error("cannot run " + program);

  int ended = 0;
  waitpid(child, &ended, 0);
  return {WIFEXITED(ended) ? WEXITSTATUS(ended) : -1, read_text(out), read_text(err)};
}

inline Outcome run_attend(const std::vector<std::string>& arguments) {
  return run_program(LOWATT_ATTEND, arguments);
}

// The levels that this CPU runs, as the program says.
inline std::vector<std::string> runnable_levels() {
  std::istringstream lines(run_attend({"--list-arch"}).out);
  std::vector<std::string> levels;
  for (std::string line; std::getline(lines, line);) levels.push_back(line);
  return levels;
}
