// Level amx needs Linux's permission to use tile registers: asked for once, and where it is refused
// the level below runs. Filters of system calls (seccomp) in child processes play the kernel.
#include "support/sweep.hpp"

#if defined(__linux__)
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <functional>
#include <thread>

namespace {

using lowatt::Index;

constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM

// What `speak` returns in a child process. A process asks for permission at most once and keeps a
// filter for ever, so that each question needs a process of its own.
std::string said_by_child(const std::function<std::string()>& speak) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    unsetenv("LOWATT_ARCH");  // each child chooses for itself
    const std::string said = speak();
    const bool written =
        write(ends[1], said.data(), said.size()) == static_cast<Index>(said.size());
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    return "no child process";
  }
  std::string said;
  char buffer[512];
  for (Index n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    said.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) said += " and died of signal " + std::to_string(WTERMSIG(status));
  return said;
}

bool ask_for_permission() {
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// From now on this thread, and threads that it starts, get `answer` to requests for permission.
bool install_filter(std::uint32_t answer) {
  constexpr auto low_half_of_request = offsetof(seccomp_data, args[0]);
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, low_half_of_request),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, request_permission, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, answer),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

bool refuse_permission() {
  return install_filter(SECCOMP_RET_ERRNO | EPERM);
}

// Stands in for the kernel: counts requests and answers each with `trap_answer`.
std::atomic<int> requests{0};
std::atomic<int> trap_answer{0};

void answer_request(int, siginfo_t*, void* context) {
  ++requests;
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RAX] = trap_answer;
}

bool count_requests(int answer) {
  trap_answer = answer;
  struct sigaction action {};
  action.sa_sigaction = answer_request;
  action.sa_flags = SA_SIGINFO;
  return sigaction(SIGSYS, &action, nullptr) == 0 && install_filter(SECCOMP_RET_TRAP);
}

struct Call {
  lowatt::Inhibitor mechanism{.scale = 0.01};
  test::Inputs inputs{test::Case{{1, 2, 1, 20, 100, 40, 24}}};

  lowatt::Status attend(const lowatt::LevelSetting& level = {}) {
    return try_attend(mechanism, inputs.q.view(), inputs.k.view(), inputs.v.view(),
                      inputs.out.view(), {.level = level});
  }
};

class AmxPermission : public testing::Test {
 protected:
  // This process itself must not ask: its children would inherit the permission.
  void SetUp() override {
    const std::string level = said_by_child([] { return lowatt::level_name(lowatt::cpu_level()); });
    if (level != "amx") GTEST_SKIP() << "this CPU has no level amx, its best is " << level;
    const std::string filter = said_by_child(
        []() -> std::string { return refuse_permission() ? "installed" : std::strerror(errno); });
    if (filter != "installed") GTEST_SKIP() << "no filter of system calls allowed: " << filter;
  }
};

TEST_F(AmxPermission, TheFilterRefuses) {
  EXPECT_EQ("granted", said_by_child([] { return ask_for_permission() ? "granted" : "refused"; }));
  EXPECT_EQ("refused EPERM", said_by_child([]() -> std::string {
              refuse_permission();
              if (ask_for_permission()) return "granted";
              return errno == EPERM ? "refused EPERM" : std::strerror(errno);
            }));
}

TEST_F(AmxPermission, RefusalFallsBackToTheLevelBelow) {
  EXPECT_EQ("avx512icl", said_by_child([] {
              refuse_permission();
              return lowatt::level_name(lowatt::cpu_level());
            }));
}

TEST_F(AmxPermission, AttentionWorksWithoutPermission) {
  EXPECT_EQ("the same bits as sse2", said_by_child([]() -> std::string {
              refuse_permission();
              Call best, lowest;
              const lowatt::Status status =
                  lowatt::detail::first_failure(best.attend(), lowest.attend(lowatt::Level::sse2));
              if (!status.ok()) return status.message;
              double size = 0;
              best.inputs.out.for_each([&](float x) { size += std::fabs(x); });
              const bool same = test::relative_l2(std::as_const(best.inputs.out).view(),
                                                  std::as_const(lowest.inputs.out).view()) == 0;
              return size > 0 && same ? "the same bits as sse2" : "another result";
            }));
}

TEST_F(AmxPermission, TheRefusedLevelIsASentence) {
  const std::string reason = "amx needs more than this CPU has, which is avx512icl";
  EXPECT_EQ("level: " + reason, said_by_child([] {
              refuse_permission();
              return std::string(Call().attend(lowatt::Level::amx).message);
            }));
  EXPECT_EQ("LOWATT_ARCH: " + reason, said_by_child([] {
              refuse_permission();
              setenv("LOWATT_ARCH", "amx", 1);
              return std::string(Call().attend().message);
            }));
}

// Calls that choose the level and calls that name one, from several threads at once, then from the
// first.
std::string requests_of_calls(int answer) {
  if (!count_requests(answer)) return "no filter";
  std::atomic<int> failures{0};
  const auto call = [&] {
    for (int i = 0; i < 3; ++i)
      failures += !Call().attend().ok() + !Call().attend(lowatt::Level::sse2).ok();
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(call);
  for (std::thread& thread : threads) thread.join();
  call();
  const std::string level = lowatt::level_name(lowatt::cpu_level());
  return level + ", requests " + std::to_string(requests) + ", failures " +
         std::to_string(failures);
}

TEST_F(AmxPermission, IsAskedOnce) {
  EXPECT_EQ("amx, requests 1, failures 0", said_by_child([]() -> std::string {
              // Granted beforehand, since the filter keeps all later requests from the kernel.
              return ask_for_permission() ? requests_of_calls(0) : "not granted";
            }));
  EXPECT_EQ("avx512icl, requests 1, failures 0",
            said_by_child([] { return requests_of_calls(-EPERM); }));
}

}  // namespace
#else
TEST(AmxPermission, IsAskedOnce) {
  GTEST_SKIP() << "permission to use tiles is Linux's, and so are filters of system calls";
}
#endif
