// Built with ThreadSanitizer and run by test_parallel.py. Prints what went wrong, and exits with 1.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/parallel.h"

using pydream::parallel_for;

void expect(bool fine, const char* what) {
  if (fine) return;
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);
}

// Every item is handled exactly once, and is visible to the caller afterwards.
void cover(int64_t count, int64_t grain, int threads) {
  std::vector<int> hits(count, 0);
  parallel_for(count, grain, threads, [&](int64_t begin, int64_t end) {
    expect(begin < end && end <= count, "a piece out of range");
    for (int64_t item = begin; item < end; ++item) ++hits[item];
  });
  for (int hit : hits) expect(hit == 1, "an item was not handled exactly once");
}

void nested() {
  std::vector<int64_t> sums(50, 0);
  parallel_for(50, 1, 4, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const std::thread::id outside = std::this_thread::get_id();
      parallel_for(item, 3, 4, [&](int64_t from, int64_t to) {
        expect(std::this_thread::get_id() == outside, "a nested loop left its thread");
        for (int64_t each = from; each < to; ++each) sums[item] += each;
      });
    }
  });
  for (int64_t item = 0; item < 50; ++item) {
    expect(sums[item] == item * (item - 1) / 2, "a nested sum is wrong");
  }
}

void throwing(int threads) {
  std::atomic<int> inside{0};
  bool caught = false;
  try {
    parallel_for(1000, 1, threads, [&](int64_t begin, int64_t end) {
      ++inside;
      std::this_thread::yield();
      --inside;
      if (begin <= 550 && 550 < end) throw std::runtime_error("item 550");
    });
  } catch (const std::runtime_error& error) {
    caught = std::string(error.what()) == "item 550";
  }
  expect(caught, "an exception was lost");
  expect(inside == 0, "the loop ended before its pieces");
}

void everything(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    cover(round * 37 % 501, 1 + round % 7, 1 + round % 6);
    if (round % 8 == 0) nested();
    if (round % 5 == 0) throwing(1 + round % 4);
  }
}

// A child of a process with a busy pool gets a pool of its own.
void forked() {
  const pid_t child = fork();
  if (child == 0) {
    cover(1000, 1, 4);
    std::_Exit(0);
  }
  int status = 0;
  expect(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
         "a forked child did not finish");
}

int main(int argc, char** argv) {
  parallel_for(0, 1, 4, [](int64_t, int64_t) { expect(false, "called for no items"); });
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 6; ++caller) callers.emplace_back([] { everything(200); });
  if (argc > 1 && std::string(argv[1]) == "fork") {
    for (int child = 0; child < 20; ++child) forked();
  }
  for (std::thread& caller : callers) caller.join();
}
